"""Volumes as DICOM series: one synthetic CT or MR image per slice.

``docs/dicom.md`` says what is written and what is refused; `medp2p.io.dicom_synthetic` makes the
header. Space is LPS millimetres here.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRLittleEndian

from medp2p.dicom_numbers import decimal_string
from medp2p.dicom_source import DicomSource, SourceImage
from medp2p.errors import GeometryError, OutputError
from medp2p.files import atomic_folder, output_errors, refuse_existing
from medp2p.io.dicom_deidentify import UidMap, deidentify
from medp2p.io.dicom_synthetic import (
    SHARED_UIDS,
    DicomOutput,
    add_labels,
    add_source_series,
    check_output,
    encoded,
    kept_from_source,
    made_up_patient,
    source_sequence,
    stated,
    widen_character_set,
)
from medp2p.io.dicom_uids import check_uid_root, make_uid
from medp2p.io.geometry import LPS_FROM_RAS, refuse_sheared
from medp2p.volume import Volume

__all__ = ["DicomOutput", "write_dicom_series"]

POSITION_TOLERANCE_MM = 0.01
"""No voxel is written further than this from where the volume has it."""

SAME_GRID_MM = 0.05
"""A slice closer than this to its source's place lies there (as when reading)."""

TRANSVERSE_TOLERANCE = 1e-3
"""Direction cosines further than this from the body's axes are not transverse."""

MAX_PIXELS = 65535
"""Rows and Columns are unsigned 16-bit numbers (PS3.3 C.7.6.3)."""

MIN_GREY_LEVELS = 50
"""An MR that rounding would leave with fewer different values is refused."""

MAX_NEGATIVE_SHARE = 0.01
"""An MR with a larger share of negative voxels is refused; a smaller one is clipped to 0."""

SOFT_TISSUE_WINDOW = (40.0, 400.0)
"""Centre and width in HU."""

IMPLEMENTATION_UID = "2.25.210543067158829330527839441217026451953"
"""Says in each file that medp2p wrote it (PS3.7 D.3.3.2)."""

_THREADS = 4
_META_BYTES = 1024

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Slices:
    """Slices in the order of rising position along their normal, in LPS millimetres.

    Attributes:
        array: Voxels (columns, rows, slices).
        row: Unit vector along a row.
        column: Unit vector along a column, perpendicular to ``row``.
        spacing_mm: Between columns, between rows, between slices along the normal.
        positions_mm: Centre of each slice's first pixel, (slices, 3).
    """

    array: NDArray[Any]
    row: NDArray[np.float64]
    column: NDArray[np.float64]
    spacing_mm: NDArray[np.float64]
    positions_mm: NDArray[np.float64]

    @property
    def heights_mm(self) -> NDArray[np.float64]:
        """Position of each slice along the normal."""
        heights: NDArray[np.float64] = self.positions_mm @ np.cross(self.row, self.column)
        return heights


def write_dicom_series(
    volume: Volume,
    folder: str | Path,
    options: DicomOutput | None = None,
    *,
    overwrite: bool = False,
    name: str = "",
) -> None:
    """Write a volume as a DICOM series of synthetic images, whole or not at all.

    The same volume and options give the same bytes. A CT is stored in HU as signed 16-bit
    integers (slope 1, intercept 0), an MR as unsigned ones; values are rounded to nearest
    (halves to even) and then clipped to the type, with a warning if any was clipped.

    Args:
        volume: A CT in HU or an MR. Patient, study and frame of reference are those of its
            ``dicom`` source; without one they are new.
        folder: Where the files ``CT_0001.dcm``, ... appear, counted along the slices' normal.
        options: Labels, UIDs, de-identification.
        overwrite: Whether a folder with a series that medp2p wrote may be replaced.
        name: What to call the volume in messages; the folder if empty.

    Raises:
        OutputError: If the modality is neither, voxels hold NaN or infinity or do not fit into
            16 bits, the place cannot be written or holds anything else. Nothing is left behind.
        GeometryError: If the axes are not perpendicular enough to be written exactly.
        ConfigError: If an option cannot be written or contradicts the source.
    """
    folder = Path(folder)
    name = name or str(folder)
    options = options or DicomOutput()
    modality = _checked_modality(volume, name)
    check_output(options, volume.dicom)
    if options.uid_root:
        options = replace(options, uid_root=check_uid_root(options.uid_root))
    refuse_existing(folder, overwrite)
    marker = _refuse_other_folder(folder)
    slices = _place_slices(volume, name)
    stored = _stored_values(slices.array, modality, name)
    if modality == "CT":
        _warn_unless_transverse(slices, name)
    source = _source(volume.dicom, options)
    series = _make_series(slices, stored, modality, options, source, name)
    digits = max(4, len(str(len(stored))))
    names = [f"{modality}_{k:0{digits}d}.dcm" for k in range(1, len(stored) + 1)]
    with atomic_folder(folder, marker=marker, overwrite=overwrite) as temporary:

        def write_slice(k: int) -> None:
            _write_durably(temporary / names[k], series(k))

        with ThreadPoolExecutor(_THREADS) as threads:
            for _ in threads.map(write_slice, range(len(stored))):
                pass


def _checked_modality(volume: Volume, name: str) -> str:
    if volume.modality not in ("CT", "MR") or (volume.modality, volume.units) == ("CT", None):
        known = volume.modality or "an unknown kind"
        raise OutputError(
            f"{name}: is {known} in units of {volume.units or 'nothing known'}, expected a "
            "CT in HU or an MR; write NIfTI, or say what it is with: medp2p convert --modality"
        )
    if max(volume.shape[:2]) > MAX_PIXELS:
        raise OutputError(
            f"{name}: an axis of {max(volume.shape[:2])} voxels, and a DICOM image has at "
            f"most {MAX_PIXELS} rows and columns; write NIfTI"
        )
    return volume.modality


def _source(source: DicomSource | None, options: DicomOutput) -> DicomSource | None:
    """The source as the result may name it: de-identified where that is wanted."""
    if source is None or options.deidentify_key is None:
        return source
    uids = UidMap(options.deidentify_key, options.uid_root)

    def mapped(series: DicomSource) -> DicomSource:
        images = tuple(
            replace(image, sop_instance_uid=uids.map(image.sop_instance_uid))
            for image in series.images
        )
        others = tuple(map(mapped, series.others))
        return DicomSource(deidentify(series.header, uids), images, others=others)

    return mapped(source)


def _place_slices(volume: Volume, name: str) -> _Slices:
    """Lay slices so that row × column points from one to the next (PS3.3 C.7.6.2.1.1).

    Raises:
        GeometryError: If header and volume would differ by over `POSITION_TOLERANCE_MM`.
    """
    refuse_sheared(volume)
    array, affine = volume.array, LPS_FROM_RAS @ volume.affine
    if np.linalg.det(affine[:3, :3]) < 0:
        affine[:3, 3] += affine[:3, 2] * (array.shape[2] - 1)
        affine[:3, 2] *= -1
        array = array[:, :, ::-1]
    spacing = np.linalg.norm(affine[:3, :2], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :2] / spacing, full_matrices=False)
    directions = _shortened(left @ right, 10)  # the nearest perpendicular pair
    middle = (np.array(array.shape[:2]) - 1) / 2
    centres = affine[:3, 3] + affine[:3, :2] @ middle + np.outer(_count(array), affine[:3, 2])
    between_slices = np.round(affine[:3, 2] @ np.cross(*directions.T), 6)
    slices = _Slices(
        array,
        row=directions[:, 0],
        column=directions[:, 1],
        spacing_mm=_shortened(np.array([*spacing, between_slices]), 10),
        positions_mm=_shortened(centres - directions @ (spacing * middle), 6),
    )
    _refuse_moved(slices, affine, name)
    return slices


def _refuse_moved(slices: _Slices, affine: NDArray[np.float64], name: str) -> None:
    """Compare the corners of each slice by the header's numbers with the volume's."""
    for i in (0, slices.array.shape[0] - 1):
        for j in (0, slices.array.shape[1] - 1):
            volume_mm = affine[:3] @ (i, j, 0, 1) + np.outer(_count(slices.array), affine[:3, 2])
            along = slices.row * slices.spacing_mm[0] * i + slices.column * slices.spacing_mm[1] * j
            offset = np.linalg.norm(slices.positions_mm + along - volume_mm, axis=1).max()
            if not offset <= POSITION_TOLERANCE_MM:
                raise GeometryError(
                    f"{name}: rows and columns are not quite perpendicular, so a DICOM header "
                    f"would put voxels {offset:.2g} mm off, expected at most "
                    f"{POSITION_TOLERANCE_MM} mm; write NIfTI, or resample it first"
                )


def _count(array: NDArray[Any]) -> NDArray[np.int64]:
    return np.arange(array.shape[2])


def _shortened(values: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """Round to what a decimal string holds (16 characters), so that -1e-17 is 0."""
    return np.array([float(decimal_string(v)) for v in np.round(values, digits).ravel()]).reshape(
        values.shape
    )


def _decimals(values: NDArray[np.float64]) -> list[str]:
    return [decimal_string(value) for value in values]


def _warn_unless_transverse(slices: _Slices, name: str) -> None:
    cosines = np.abs([slices.row, slices.column])
    if np.abs(cosines - np.eye(3)[:2]).max() > TRANSVERSE_TOLERANCE:
        _logger.warning(
            "%s: the slices are not transverse, and planning systems expect a CT that is; "
            "medp2p translate --reslice axial writes one",
            name,
        )


def _stored_values(array: NDArray[Any], modality: str, name: str) -> NDArray[np.int16 | np.uint16]:
    """Voxels as they are stored, (slices, rows, columns), contiguous, little endian.

    Raises:
        OutputError: If that would lose what they say.
    """
    if not np.isfinite(array).all():
        raise OutputError(f"{name}: voxels hold NaN or infinity; nothing was written")
    limits = np.iinfo(np.int16 if modality == "CT" else np.uint16)
    if array.dtype == np.float16:
        array = array.astype(np.float32)  # 65535 is beyond its range
    whole = np.rint(array) if array.dtype.kind == "f" else array
    if modality == "MR":
        _check_mr_values(array, whole, name)
    outside = int(np.count_nonzero((whole < limits.min) | (whole > limits.max)))
    if outside:
        _logger.warning(
            "%s: %d voxel(s) beyond %d to %d are clipped", name, outside, limits.min, limits.max
        )
        whole = np.clip(whole, limits.min, limits.max)
    return np.ascontiguousarray(whole.T.astype(limits.dtype.newbyteorder("<"), copy=False))


def _check_mr_values(array: NDArray[Any], whole: NDArray[Any], name: str) -> None:
    highest = np.iinfo(np.uint16).max
    if whole.max() > highest:
        raise OutputError(
            f"{name}: values up to {whole.max():.6g}, and an MR image of 16 bits holds up to "
            f"{highest}; write NIfTI"
        )
    negative = np.count_nonzero(whole < 0) / whole.size
    if negative > MAX_NEGATIVE_SHARE:
        raise OutputError(
            f"{name}: {negative:.0%} of the voxels are negative, which an MR image cannot hold, "
            f"expected at most {MAX_NEGATIVE_SHARE:.0%}; write NIfTI"
        )
    if array.dtype.kind != "f":
        return
    levels = np.count_nonzero(np.bincount(np.clip(whole, 0, None).ravel().astype(np.uint16)))
    if levels < MIN_GREY_LEVELS and not np.array_equal(whole, array):
        raise OutputError(
            f"{name}: rounded to whole numbers only {levels} grey levels would be left, expected "
            f"{MIN_GREY_LEVELS} or more; write NIfTI"
        )


def _make_series(
    slices: _Slices,
    stored: NDArray[np.int16 | np.uint16],
    modality: str,
    options: DicomOutput,
    source: DicomSource | None,
    name: str,
) -> Callable[[int], bytes]:
    """Encode what slices share and what tells them apart, and name it.

    Returns:
        A function from the number of a slice to the whole of its file.
    """
    image = kept_from_source(source.header, name) if source else made_up_patient(options)
    texts = (options.series_description, options.patient_name, options.patient_id)
    if not all(text is None or text.isascii() for text in texts):
        widen_character_set(image)
    add_labels(image, modality, options, source)
    if source:
        add_source_series(image, source)
    _add_grid(image, slices, stored)
    _add_window(image, stored, modality)
    shared = encoded(image)
    apart = _encoded_slices(slices, source)
    if options.seed is None:
        identity = _content_hash(shared, apart, stored)
    else:
        identity = _seeded_hash(slices, modality, options, source)
    shared |= _encoded_names(image, options, source, identity, name)
    meta = _encoded_meta(image.SOPClassUID)

    def file_of(k: int) -> bytes:
        one = Dataset()
        one.SOPInstanceUID = make_uid(options.uid_root, identity, "image", k)
        one.InstanceNumber = k + 1
        one.add_new("PixelData", "OW", stored[k].tobytes())
        body = _joined(shared | apart[k] | encoded(one))
        return _file_head(meta, one.SOPInstanceUID) + body

    return file_of


def _add_grid(image: Dataset, slices: _Slices, stored: NDArray[np.int16 | np.uint16]) -> None:
    between_columns, between_rows, between_slices = slices.spacing_mm
    image.ImageOrientationPatient = _decimals(np.concatenate([slices.row, slices.column]))
    image.PixelSpacing = [decimal_string(between_rows), decimal_string(between_columns)]
    image.SliceThickness = decimal_string(between_slices)
    image.SpacingBetweenSlices = decimal_string(between_slices)
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = stored.shape[1:]
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit = 15
    image.PixelRepresentation = 1 if stored.dtype.kind == "i" else 0


def _add_window(image: Dataset, stored: NDArray[np.int16 | np.uint16], modality: str) -> None:
    """Soft tissue for a CT; for an MR from the 1st to the 99th percentile."""
    centre, width = SOFT_TISSUE_WINDOW
    if modality == "MR":
        some = stored.ravel()[:: max(1, stored.size // 1_000_000)]
        low, high = np.percentile(some, (1, 99))
        width = max(1.0, round(float(high - low)))
        centre = round(float(low + high) / 2)
    image.WindowCenter, image.WindowWidth = decimal_string(centre), decimal_string(width)


def _encoded_slices(slices: _Slices, source: DicomSource | None) -> list[dict[BaseTag, bytes]]:
    """Place and source images of each slice."""
    made = []
    known: dict[object, dict[BaseTag, bytes]] = {}
    series = (source, *source.others) if source else ()
    references = zip(*(_sources_of_slices(slices, each) for each in series), strict=True)
    for position, height, reference in zip(
        slices.positions_mm,
        slices.heights_mm,
        references if series else [()] * len(slices.positions_mm),
        strict=True,
    ):
        place = Dataset()
        place.ImagePositionPatient = _decimals(position)
        place.SliceLocation = decimal_string(round(height, 6))
        if reference not in known:
            known[reference] = _encoded_references(reference)
        made.append(encoded(place) | known[reference])
    return made


def _encoded_references(
    reference: tuple[tuple[tuple[SourceImage, ...], bool], ...],
) -> dict[BaseTag, bytes]:
    """The images of each source series that a slice was made from."""
    image = Dataset()
    items = [item for images, preserved in reference for item in source_sequence(images, preserved)]
    if items:
        image.SourceImageSequence = items
    return encoded(image)


def _sources_of_slices(
    slices: _Slices, source: DicomSource
) -> list[tuple[tuple[SourceImage, ...], bool]]:
    """Which source images each slice was made from, and whether its pixels lie where theirs do.

    On the source's own grid each slice has its one image; on parallel slices those within half
    a slice, else the nearest; elsewhere all.
    """
    heights = slices.heights_mm
    if not source.images:
        return [((), False)] * len(heights)
    normal = np.cross(slices.row, slices.column)
    images = sorted(source.images, key=lambda image: float(np.dot(image.position_mm, normal)))
    if _is_source_grid(slices, source.header, images):
        return [((image,), True) for image in images]
    every = tuple(source.images)
    if not _is_parallel(slices, source.header):
        return [(every, False)] * len(heights)
    of_images = np.array([image.position_mm for image in images]) @ normal
    reach = slices.spacing_mm[2] / 2
    widest_gap = max(np.diff(of_images), default=reach)
    found = []
    for height in heights:
        away = np.abs(of_images - height)
        near = np.flatnonzero(away <= max(reach, away.min() + SAME_GRID_MM))
        beside = away.min() <= max(reach, widest_gap)
        found.append((tuple(images[i] for i in near) if beside else every, False))
    return found


def _is_source_grid(slices: _Slices, header: Dataset, images: list[SourceImage]) -> bool:
    if len(images) != len(slices.positions_mm):
        return False
    columns, rows, _ = slices.array.shape
    if (header.get("Columns"), header.get("Rows")) != (columns, rows):
        return False
    spacing = _numbers(header, "PixelSpacing", 2)
    if spacing and not np.allclose(spacing, slices.spacing_mm[[1, 0]], rtol=1e-4, atol=0):
        return False
    found = np.array([image.position_mm for image in images])
    near = np.linalg.norm(found - slices.positions_mm, axis=1).max() <= SAME_GRID_MM
    directions = _numbers(header, "ImageOrientationPatient", 6)
    ours = np.concatenate([slices.row, slices.column])
    return bool(near) and (not directions or np.allclose(directions, ours, rtol=0, atol=1e-3))


def _is_parallel(slices: _Slices, header: Dataset) -> bool:
    """Whether the source's slices are known to be parallel to these."""
    directions = _numbers(header, "ImageOrientationPatient", 6)
    if not directions:
        return False
    normal = np.cross(directions[:3], directions[3:])
    return bool(np.abs(np.array([slices.row, slices.column]) @ normal).max() < 1e-3)


def _numbers(header: Dataset, keyword: str, count: int) -> list[float]:
    """The numbers of a header; none unless there are so many."""
    words = stated(header, keyword).split("\\")
    return [float(word) for word in words] if len(words) == count else []


def _content_hash(
    shared: dict[BaseTag, bytes],
    apart: list[dict[BaseTag, bytes]],
    stored: NDArray[np.int16 | np.uint16],
) -> bytes:
    """Hash everything that is written but the names that follow from it."""
    digest = hashlib.sha256()
    for parts in (shared, *apart):
        for part in parts.values():
            digest.update(part)
    digest.update(stored.data)
    return digest.digest()


def _seeded_hash(
    slices: _Slices, modality: str, options: DicomOutput, source: DicomSource | None
) -> bytes:
    """Hash what is translated onto which grid by what, and the seed, but no voxel."""
    series = (source, *source.others) if source else ()
    images = [image for each in series for image in each.images]
    digest = hashlib.sha256()
    for word in (
        options.seed,
        options.model_hash,
        options.settings,
        modality,
        slices.array.shape,
        [_decimals(v) for v in (slices.row, slices.column, slices.spacing_mm)],
        [_decimals(v) for v in slices.positions_mm],
        stated(source.header, "SeriesInstanceUID") if source else "",
        [(image.sop_instance_uid, image.frame) for image in images],
    ):
        digest.update(repr(word).encode() + b"\0")
    return digest.digest()


def _encoded_names(
    image: Dataset, options: DicomOutput, source: DicomSource | None, identity: bytes, name: str
) -> dict[BaseTag, bytes]:
    """New UIDs, and study, frame of reference and patient where the source has none."""
    named = Dataset()
    named.SeriesInstanceUID = make_uid(options.uid_root, identity, "series")
    for keyword in SHARED_UIDS:
        if keyword in image:
            continue
        setattr(named, keyword, make_uid(options.uid_root, identity, keyword))
        if source:
            _logger.warning(
                "%s: the source states no %s; the result gets one of its own", name, keyword
            )
    if source is None and options.patient_id is None:
        named.PatientID = f"SYNTHETIC-{identity.hex()[:12].upper()}"
    return encoded(named)


def _encoded_meta(sop_class_uid: str) -> dict[BaseTag, bytes]:
    """File meta information that all slices share (PS3.10 7.1)."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    meta.ImplementationVersionName = "MEDP2P"
    return encoded(meta)


def _file_head(meta: dict[BaseTag, bytes], sop_instance_uid: str) -> bytes:
    """Preamble and file meta information of one slice."""
    one, length = FileMetaDataset(), FileMetaDataset()
    one.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    rest = _joined(meta | encoded(one))
    length.FileMetaInformationGroupLength = len(rest)
    return bytes(128) + b"DICM" + _joined(encoded(length)) + rest


def _joined(parts: dict[BaseTag, bytes]) -> bytes:
    return b"".join(parts[tag] for tag in sorted(parts))


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _refuse_other_folder(folder: Path) -> str | None:
    """Let nothing be replaced but a folder that holds our slices and nothing else.

    Returns:
        The name of a file in it, None if there is no such folder.

    Raises:
        OutputError: If it holds anything else.
    """
    if not folder.is_dir():
        return None
    with output_errors(folder):
        entries = sorted(folder.iterdir())
        if not entries or not all(_is_our_slice(entry) for entry in entries):
            raise OutputError(
                f"{folder}: holds other things than a series that medp2p wrote, so it is not "
                "replaced; name another output"
            )
    return entries[0].name


def _is_our_slice(path: Path) -> bool:
    if not re.fullmatch(r"(CT|MR)_\d{4,}\.dcm", path.name) or not path.is_file():
        return False
    with path.open("rb") as file:
        return IMPLEMENTATION_UID.encode() in file.read(_META_BYTES)
