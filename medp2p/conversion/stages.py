"""What happens to one scan: read, predicted, written; each step can run in a process of its own."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medp2p.config import PreprocessingSettings
from medp2p.conversion.guard import judge
from medp2p.conversion.job import ConversionJob, output_suffix
from medp2p.conversion.records import (
    NOT_OURS,
    Content,
    Input,
    Result,
    content_of,
    holds,
    input_of,
)
from medp2p.conversion.scans import Scan, ScanImage
from medp2p.dicom_source import DicomSource
from medp2p.errors import (
    CheckpointError,
    ConfigError,
    GeometryError,
    ImageReadError,
    MedP2PError,
    OutputError,
)
from medp2p.files import flush_to_disk, output_errors
from medp2p.fingerprint import describe
from medp2p.io import (
    DicomOutput,
    VoxelType,
    check_output,
    read_volume,
    write_dicom_series,
    write_volume,
)
from medp2p.io.dicom_synthetic import stated
from medp2p.manifest import dicom_options
from medp2p.preprocessing import decode, prepare_mask
from medp2p.translation import Prepared, check_sources, finish, prepare
from medp2p.volume import Volume

if TYPE_CHECKING:
    from medp2p.devices import Precision
    from medp2p.inference import Translator

_logger = logging.getLogger(__name__)

CLIPPED_SHARE_OF_RANGE = 5e-4
"""A predicted value this close to an end of the target's range counts as clipped."""

_CODES: tuple[tuple[type[MedP2PError], str], ...] = (
    (ImageReadError, "unreadable"),
    (GeometryError, "geometry"),
    (ConfigError, "labels"),
    (OutputError, "output"),
)


@dataclass(frozen=True)
class Setting:
    """What every scan needs to be read and finished.

    Attributes:
        job: How scans are translated; its labels name the model.
        output: The folder with the results.
        settings_hash: Of `ConversionJob.settings_hash`.
        source_names: The model's sources.
        preprocessing: The model's preprocessing.
        target_range: Values that -1 and +1 stand for in the output.
        fingerprint: What the model's training data look like.
    """

    job: ConversionJob
    output: Path
    settings_hash: str
    source_names: tuple[str, ...]
    preprocessing: PreprocessingSettings
    target_range: tuple[float, float]
    fingerprint: Mapping[str, Any]


End = Literal["failed", "skipped"]


@dataclass(frozen=True)
class ReadRequest:
    """A scan to be read, if it must be.

    Attributes:
        scan: Which.
        target: Where its result will lie below the output folder.
        results: What was made of it before.
        made: What runs have written at ``target``.
        ends: How runs beside this one have ended with it, without a result, by key.
        claimed: Whether it may be read; otherwise only looked at.
    """

    scan: Scan
    target: str
    results: tuple[Result, ...]
    made: frozenset[Content]
    ends: Mapping[str, End]
    claimed: bool


@dataclass(frozen=True)
class Unchanged:
    """There is a result already, of this scan, model and settings."""

    result: Result


@dataclass(frozen=True)
class NeedsWork:
    """There is none, and the scan was only looked at."""


@dataclass(frozen=True)
class Settled:
    """A run beside this one has found that the same scan cannot, or should not, be translated."""

    end: End


@dataclass(frozen=True)
class Failed:
    """A scan that cannot be translated, or (``skipped``) should not be; ``inputs`` if known."""

    code: str
    reason: str
    key: str = ""
    skipped: bool = False
    quality: Mapping[str, Any] | None = None
    inputs: tuple[Input, ...] = ()


@dataclass(frozen=True, eq=False)
class ReadScan:
    """A scan that is ready for the network.

    Attributes:
        prepared: The scan.
        key: Hash of all that decides about its result.
        quality: What the guard says, for the journal.
        seconds: That it took.
        inputs: Of each image.
    """

    prepared: Prepared
    key: str
    quality: Mapping[str, Any]
    seconds: float
    inputs: tuple[Input, ...] = ()


ReadResult = Unchanged | NeedsWork | Settled | Failed | ReadScan


def begin_reader(setting: Setting) -> Callable[[ReadRequest], ReadResult]:
    """Return what reads scans, for a process of its own."""
    warnings.simplefilter("ignore")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # they name paths
    if setting.job.hash_names:
        hide_paths()
    return lambda request: read_scan(request, setting)


def hide_paths() -> None:
    """Keep warnings of this process off the log that name files."""
    for name in ("medp2p.io", "medp2p.translation"):
        logging.getLogger(name).setLevel(logging.ERROR)


def read_scan(request: ReadRequest, setting: Setting) -> ReadResult:
    """Hash a scan, compare it with what was made before, and read it if that must be done again."""
    began = time.perf_counter()
    scan, output = request.scan, setting.output
    try:
        before = _state_of_files(scan)
        inputs = tuple(input_of(image.files) for image in scan.images)
    except OSError as error:
        return Failed("missing", f"{error.filename}: cannot be read: {error.strerror or error}")
    key = _key(scan, inputs, setting.settings_hash)
    known = [result for result in request.results if result.key == key]
    intact = next((result for result in reversed(known) if result.is_intact(output)), None)
    if intact:
        return Unchanged(intact)
    if not request.claimed:
        return NeedsWork()
    if key in request.ends:
        return Settled(request.ends[key])
    foreign = _in_the_way(request, output)
    if foreign:
        return Failed("foreign_output", foreign, key)
    try:
        result = _read(scan, setting, key, began)
    except MedP2PError as error:
        result = Failed(code_of(error), str(error), key)
    if not _is_unchanged(scan, before):
        return Failed("changed_while_read", CHANGED, key)
    return replace(result, inputs=inputs)


CHANGED = "its files changed while they were read; run again when nobody writes to them"


def _in_the_way(request: ReadRequest, output: Path) -> str:
    """Say what is not ours where the result, or a folder around it, has to be; empty if nothing."""
    target = output / request.target
    if os.path.lexists(target) and not holds(target, set(request.made)):
        return f"{request.target}: {NOT_OURS}"
    for folder in Path(request.target).parents:
        if os.path.lexists(output / folder) and not (output / folder).is_dir():
            return f"{folder.as_posix()}: is no folder; move it away, the result belongs into one"
    return ""


def code_of(error: MedP2PError) -> str:
    """The reason in a word."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), "refused")


def _read(scan: Scan, setting: Setting, key: str, began: float) -> ReadScan | Failed:
    images = setting.preprocessing
    volumes = [_read_image(image, images.source.modality) for image in scan.images]
    check_sources(volumes, setting.source_names, images.source)
    if is_series(scan, setting.job):
        labels = labels_for(setting.job.labels, volumes[0].dicom)
        check_output(labels, volumes[0].dicom, volumes[0].name)
    prepared = prepare(volumes, setting.job.mask, images)
    quality, reasons = _look(prepared, setting)
    if reasons and setting.job.guard == "skip":
        return Failed("guard", "; ".join(reasons), key, skipped=True, quality=quality)
    return ReadScan(prepared, key, quality, time.perf_counter() - began)


def _read_image(image: ScanImage, modality: str) -> Volume:
    options = dicom_options(image.series, image.files)
    return read_volume(image.path, dicom=replace(options, modality=modality))


def is_series(scan: Scan, job: ConversionJob) -> bool:
    """Whether a scan's result is a DICOM series."""
    return not output_suffix(scan, job.kind)


def labels_for(labels: DicomOutput, source: DicomSource | None) -> DicomOutput:
    """Leave out the labels that a scan does not need: what it says itself, and a seed without it.

    Args:
        labels: Of the job.
        source: The scan's DICOM series, if it is one.
    """
    if source is None:
        return replace(labels, seed=None)
    body_part = None if stated(source.header, "BodyPartExamined") else labels.body_part
    return replace(labels, patient_id=None, patient_name=None, body_part=body_part)


def _look(prepared: Prepared, setting: Setting) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the guard says: for the journal, and why the scan should not be translated."""
    mask = prepare_mask(prepared.body, prepared.grid)
    if not mask.any():
        raise ImageReadError("no voxel of the body is left on the training grid")
    spacing = prepared.grid.spacing_mm.tolist()
    judgement = judge(describe(decode(prepared.codes), mask, spacing), setting.fingerprint)
    quality: dict[str, Any] = {"guard_score": judgement.score, "guard_known": judgement.is_known}
    if judgement.reasons:
        quality["guard_reasons"] = list(judgement.reasons)
    return quality, judgement.reasons


def _key(scan: Scan, inputs: Sequence[Input], settings_hash: str) -> str:
    pairs = zip(scan.images, inputs, strict=True)
    images = [{"files": one.sha256, "series": image.series} for image, one in pairs]
    values = json.dumps({"images": images, "settings": settings_hash}, sort_keys=True)
    return hashlib.sha256(values.encode()).hexdigest()


def _state_of_files(scan: Scan) -> list[tuple[int, int, int]]:
    stats = [file.stat() for image in scan.images for file in image.files]
    return [(stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]


def _is_unchanged(scan: Scan, before: list[tuple[int, int, int]]) -> bool:
    try:
        return _state_of_files(scan) == before
    except OSError:
        return False


@dataclass(frozen=True)
class DeviceSetting:
    """What a process needs that predicts.

    Attributes:
        model: The model file.
        model_hash: What it must be.
        device: As in `ConversionJob`.
        precision: As in `ConversionJob`.
        batch_size: As in `ConversionJob`.
    """

    model: Path
    model_hash: str
    device: str
    precision: Precision
    batch_size: int


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network makes of a scan.

    Attributes:
        unit: float32 (K, J, I) in unit range.
        batch_size: Slices at a time that the device's memory allowed.
        seconds: That it took.
    """

    unit: NDArray[np.float32]
    batch_size: int
    seconds: float


def begin_device(setting: DeviceSetting) -> Callable[[NDArray[np.int16]], Prediction]:
    """Bring the model to its device, for a process of its own.

    Raises:
        CheckpointError: If the model cannot be read, or is another one by now.
        MedP2PError: If the device is not there.
    """
    from medp2p.checkpoint import load_model
    from medp2p.inference import make_translator

    model = load_model(setting.model)
    if model.hash != setting.model_hash:
        raise CheckpointError(f"{setting.model}: was replaced since the run began; run again")
    translator = make_translator(
        model,
        device=setting.device,
        precision=setting.precision,
        batch_size=setting.batch_size,
    )
    return Predictor(translator)


class Predictor:
    """Predicts one scan after the other, with smaller batches once memory has run out."""

    def __init__(self, translator: Translator) -> None:
        self._translator = translator

    def __call__(self, codes: NDArray[np.int16]) -> Prediction:
        """Predict a scan.

        Args:
            codes: Of `Prepared`.

        Raises:
            MedP2PError: If memory runs out with single slices too.
        """
        import torch

        began = time.perf_counter()
        while True:
            size = self._translator.batch_size
            try:
                unit = self._translator.predict(codes)
                return Prediction(unit, size, time.perf_counter() - began)
            except torch.OutOfMemoryError as error:
                if size == 1:
                    device = self._translator.device
                    raise MedP2PError(f"does not fit into the memory of {device}") from error
            _logger.warning("%s: out of memory, batches halve", self._translator.device)
            self._translator = replace(self._translator, batch_size=size // 2)
            if self._translator.device.type == "cuda":
                torch.cuda.empty_cache()


@dataclass(frozen=True)
class Written:
    """A result that is whole, in the work folder.

    Attributes:
        path: Where.
        content: What it holds.
        clipped: Share of the body whose predicted value is at an end of the target's range.
        seconds: That it took.
    """

    path: Path
    content: Content
    clipped: float
    seconds: float


def write_result(
    scan: Scan, read: ReadScan, unit: NDArray[np.float32], setting: Setting, folder: Path
) -> Written:
    """Bring a prediction back to the scan's grid and write it into a work folder.

    Raises:
        MedP2PError: If it cannot be written.
    """
    began = time.perf_counter()
    result = finish(read.prepared, unit, setting.preprocessing, setting.target_range)
    path = folder / f"result{output_suffix(scan, setting.job.kind)}"
    if is_series(scan, setting.job):
        labels = labels_for(setting.job.labels, result.dicom)
        write_dicom_series(result, path, labels, name=scan.name)
    else:
        dtype: VoxelType = "int16" if result.units == "HU" else "float32"
        write_volume(result, path, dtype=dtype)
    clipped = _clipped_share(result, read.prepared.body.array, setting.target_range)
    with output_errors(path):
        content = content_of(path)
    return Written(path, content, clipped, time.perf_counter() - began)


def _clipped_share(
    result: Volume, body: NDArray[np.bool_], target_range: tuple[float, float]
) -> float:
    low, high = target_range
    margin = CLIPPED_SHARE_OF_RANGE * (high - low)
    array = result.array  # in the order of memory picking is several times as fast
    values = array.T[body.T] if array.flags.f_contiguous else array[body]
    at_end = np.count_nonzero(values <= low + margin) + np.count_nonzero(values >= high - margin)
    return round(float(at_end) / max(1, values.size), 6)


def publish(made: Path, target: Path, ours: set[Content]) -> None:
    """Give a result its name, on the same file system; replaces only what we made.

    Args:
        made: A file or folder.
        target: Its name.
        ours: Contents that may be replaced.

    Raises:
        OutputError: If somebody else's file or folder is there, or the place cannot be written.
    """
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(target):
            if not holds(target, ours):
                raise OutputError(f"{target}: {NOT_OURS}")
            if target.is_dir():
                target.rename(made.with_name("replaced"))
                made.rename(target)
            else:
                made.replace(target)
        elif made.is_dir():
            made.rename(target)
        else:
            _name_file(made, target)
        flush_to_disk(target.parent)


def _name_file(made: Path, target: Path) -> None:
    """A rename that does not replace, where the file system knows links."""
    try:
        os.link(made, target)
    except FileExistsError:
        raise OutputError(f"{target}: {NOT_OURS}") from None
    except OSError:
        made.rename(target)
    else:
        made.unlink()
