"""One examined pair onto its training grid, in one interpolation, and into the prepared folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medp2p.alignment import Alignment, read_alignment
from medp2p.config import PreprocessingSettings
from medp2p.errors import GeometryError
from medp2p.files import atomic_folder
from medp2p.io import read_volume
from medp2p.preparation.examination import BODY_FILE, PairJob, PairRecord, read_job_image
from medp2p.store import PreparedCase, hash_voxels, prepared_case, write_voxels

RECORD_FILE = "case.json"


@dataclass(frozen=True)
class PackingJob:
    """What it takes to pack one pair, anywhere.

    Attributes:
        pair: As it was examined.
        record: What the examination found.
        preprocessing: Spacing and value mapping, with all that had to be fitted.
        folder: Where the voxels go.
    """

    pair: PairJob
    record: PairRecord
    preprocessing: PreprocessingSettings
    folder: Path


@dataclass(frozen=True)
class PackedCase:
    """A case in the prepared folder, but for its split.

    Attributes:
        key: Hash of all that decides about the voxels.
        prepared: Where its voxels lie; split and fold are still to be set.
    """

    key: str
    prepared: PreparedCase


def pack_case(job: PackingJob) -> PackedCase:
    """Pack one pair, unless its folder holds the result already.

    Raises:
        ImageReadError: If an image cannot be read.
        GeometryError: If source and target share no part of the body.
        OutputError: If the folder cannot be written.
    """
    key = _key(job)
    kept = _read_packed(job.folder)
    if kept and kept.key == key and _is_whole(job.folder, kept):
        return kept
    with atomic_folder(job.folder, marker=RECORD_FILE, overwrite=True) as folder:
        packed = PackedCase(key, _pack(job, folder))
        text = json.dumps(asdict(packed), indent=1) + "\n"
        (folder / RECORD_FILE).write_text(text, encoding="utf-8")
    return packed


def _is_whole(folder: Path, kept: PackedCase) -> bool:
    """Whether the voxels are there as they were written."""
    try:
        return hash_voxels(folder) == kept.prepared.sha256
    except OSError:
        return False


def _pack(job: PackingJob, folder: Path) -> PreparedCase:
    from medp2p.transforms import ToTrainingGridd, to_tensor

    names = list(job.pair.case.images)
    data: dict[Hashable, Any] = {n: to_tensor(read_job_image(job.pair, n)) for n in names}
    data["mask"] = to_tensor(read_volume(job.pair.folder / BODY_FILE))
    data["alignments"] = _alignments(job)
    prepared = ToTrainingGridd(names, "mask", job.preprocessing)(data)
    mask, images = prepared["mask"], [prepared[name] for name in names]
    if not mask.any():
        raise GeometryError("source and target share no part of the body; check the pair")
    sha256 = write_voxels(folder, [image.codes for image in images], mask)
    k, j, i = mask.shape
    return PreparedCase(
        name=job.pair.case.name,
        split="",
        fold=None,
        shape=(int(k), int(j), int(i)),
        affine=images[0].grid.affine.tolist(),
        source_ranges=[image.value_range for image in images[:-1]],
        target_range=images[-1].value_range,
        sha256=sha256,
    )


def _alignments(job: PackingJob) -> Mapping[str, Alignment]:
    files = job.record.transforms
    return {name: read_alignment(job.pair.folder / file) for name, file in files.items()}


def _key(job: PackingJob) -> str:
    settings = job.preprocessing.model_dump(mode="json")
    text = json.dumps([job.record.key, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_packed(folder: Path) -> PackedCase | None:
    try:
        values = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        return PackedCase(values["key"], prepared_case(values["prepared"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
