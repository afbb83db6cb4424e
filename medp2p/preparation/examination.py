"""One pair: read it, find the bodies, bring the images to one place, and audit it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medp2p.alignment import Alignment, place, write_alignment
from medp2p.config import ImageSettings, PreparationSettings, PreprocessingSettings
from medp2p.files import atomic_folder
from medp2p.hashes import hash_file, hash_files, hash_path
from medp2p.io import read_volume, write_volume
from medp2p.manifest import TARGET, Case, case_alignment, dicom_options
from medp2p.preparation.audit import PairAudit, audit_pair, audit_picture
from medp2p.preprocessing import (
    body_mask,
    carry_mask,
    case_landmarks,
    check_mask,
    check_modality,
)
from medp2p.registration import Registration, register
from medp2p.volume import Volume, reorient

RECORD_FILE = "record.json"
BODY_FILE = "body.nii.gz"
PICTURE_FILE = "audit.jpg"

Body = NDArray[np.bool_]


@dataclass(frozen=True)
class PairJob:
    """What it takes to examine one pair, anywhere.

    Attributes:
        case: Its images.
        files: Of each image that is a DICOM series, the files.
        folder: Where the result goes.
        preparation: How to register and audit.
        preprocessing: What the images are.
        versions: Of the libraries that decide about the result.
    """

    case: Case
    files: Mapping[str, tuple[Path, ...]]
    folder: Path
    preparation: PreparationSettings
    preprocessing: PreprocessingSettings
    versions: Mapping[str, str]


@dataclass(frozen=True)
class PairRecord:
    """What the examination of a pair found; its folder holds this, transforms and a picture.

    Attributes:
        key: Hash of all that decides about the result: images, settings, versions.
        case: Name of the case.
        patient: Whose images they are.
        inputs: SHA-256 of each image's file or files.
        transforms: Name of the file with the alignment to the first source, by image.
        landmarks: Of each MR image, for intensity standardization.
        audits: Of each image against the first source.
        files: SHA-256 of the other files in its folder.
    """

    key: str
    case: str
    patient: str
    inputs: dict[str, str]
    transforms: dict[str, str] = field(default_factory=dict)
    landmarks: dict[str, tuple[float, ...]] = field(default_factory=dict)
    audits: dict[str, PairAudit] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def examine_pair(job: PairJob) -> PairRecord:
    """Examine one pair, unless its folder holds the result already.

    Returns:
        The record, which is in the folder ``job.folder`` as well.

    Raises:
        ImageReadError: If an image cannot be read, or is not what it should be.
        GeometryError: If voxels cannot be placed.
        RegistrationError: If the images cannot be brought to one place.
        OutputError: If the folder cannot be written.
    """
    inputs = {name: _content_hash(job, name) for name in _paths(job.case)}
    key = _key(job, inputs)
    kept = read_record(job.folder)
    if kept and kept.key == key and _is_whole(job.folder, kept):
        return kept
    with atomic_folder(job.folder, marker=RECORD_FILE, overwrite=True) as folder:
        record = _examine(job, key, inputs, folder)
        record.files.update({file.name: hash_file(file) for file in sorted(folder.iterdir())})
        text = json.dumps(asdict(record), indent=1) + "\n"
        (folder / RECORD_FILE).write_text(text, encoding="utf-8")
    return record


def read_record(folder: Path) -> PairRecord | None:
    """Read the record of an examined pair; None if there is none, or it cannot be read."""
    try:
        values = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        values["audits"] = {n: PairAudit.from_json(a) for n, a in values["audits"].items()}
        values["landmarks"] = {n: tuple(marks) for n, marks in values["landmarks"].items()}
        return PairRecord(**values)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_whole(folder: Path, record: PairRecord) -> bool:
    """Whether every file of an examined pair is there as it was written."""
    return all(
        (folder / name).is_file() and hash_file(folder / name) == sha256
        for name, sha256 in record.files.items()
    )


def read_job_image(job: PairJob, name: str) -> Volume:
    """Read an image of a pair and see that it is what the settings say.

    Raises:
        ImageReadError: If it cannot be read or is something else.
        GeometryError: If its voxels cannot be placed.
    """
    options = dicom_options(job.case.series.get(name, ""), job.files.get(name, ()))
    volume = read_volume(job.case.images[name], dicom=options)
    role = "target" if name == TARGET else "source"
    check_modality(volume, image_settings(job.preprocessing, name), role)
    return volume


def image_settings(settings: PreprocessingSettings, name: str) -> ImageSettings:
    """Return the settings for a source or for the target."""
    return settings.target if name == TARGET else settings.source


def _examine(job: PairJob, key: str, inputs: dict[str, str], folder: Path) -> PairRecord:
    first, *others = job.case.images
    fixed = read_job_image(job, first)
    body = _body(job, fixed, first)
    write_volume(
        fixed.with_array(body.astype(np.uint8), modality="MASK", units=None), folder / BODY_FILE
    )
    record = PairRecord(key, job.case.name, job.case.patient, inputs)
    if _wants_landmarks(job, first):
        record.landmarks[first] = _landmarks(job, first, fixed, body)
    for name in others:
        moving = read_job_image(job, name)
        own_body = body_mask(moving, image_settings(job.preprocessing, name).modality)
        alignment, registration = _align(job, name, (fixed, body), (moving, own_body))
        if _wants_landmarks(job, name):
            carried = carry_mask(body, fixed, place(moving, alignment))
            record.landmarks[name] = _landmarks(job, name, moving, carried)
        if registration or reorient(moving, fixed.orientation).grid.difference(fixed.grid):
            record.transforms[name] = f"{name}.tfm"
            write_alignment(folder / record.transforms[name], alignment)
        images = job.preprocessing.source, image_settings(job.preprocessing, name)
        record.audits[name] = audit_pair(
            fixed,
            moving,
            body,
            own_body,
            alignment,
            registration,
            images,
            job.preparation.audit,
            target_name=name,
        )
        if name == TARGET:
            picture = audit_picture(fixed, moving, body, alignment)
            (folder / PICTURE_FILE).write_bytes(picture)
    return record


def _align(
    job: PairJob, name: str, fixed: tuple[Volume, Body], moving: tuple[Volume, Body]
) -> tuple[Alignment, Registration | None]:
    """Return how an image lies against the first source, and how that was found."""
    given = case_alignment(job.case, name)
    settings = job.preparation.registration
    if given or settings.mode == "none":
        return given or Alignment.identity(), None
    if settings.mode == "auto" and positions_agree(fixed[0], moving[0]):
        return Alignment.identity(), None
    found = register(fixed[0], moving[0], fixed[1], moving[1], settings, job.preparation.seed)
    return found.alignment, found


def positions_agree(first: Volume, other: Volume) -> bool:
    """Say whether two images state positions in one frame of reference, or share a grid."""
    if first.dicom and other.dicom:
        frame = first.dicom.frame_of_reference
        return bool(frame) and frame == other.dicom.frame_of_reference
    return reorient(other, first.orientation).grid.difference(first.grid) is None


def _body(job: PairJob, fixed: Volume, first: str) -> Body:
    if job.case.mask:
        return check_mask(read_volume(job.case.mask), fixed)
    return body_mask(fixed, image_settings(job.preprocessing, first).modality)


def _wants_landmarks(job: PairJob, name: str) -> bool:
    settings = image_settings(job.preprocessing, name)
    return settings.standardization == "nyul" and settings.landmarks is None


def _landmarks(job: PairJob, name: str, volume: Volume, body: Body) -> tuple[float, ...]:
    return case_landmarks(volume, body, image_settings(job.preprocessing, name))


def _paths(case: Case) -> dict[str, Path]:
    return {**case.images, **({"mask": case.mask} if case.mask else {})}


def _key(job: PairJob, inputs: Mapping[str, str]) -> str:
    transforms = {n: path.read_text(errors="replace") for n, path in job.case.transforms.items()}
    decides = {
        "patient": job.case.patient,
        "inputs": inputs,
        "series": job.case.series,
        "transforms": transforms,
        "preparation": job.preparation.model_dump(mode="json"),
        "preprocessing": job.preprocessing.model_dump(mode="json"),
        "versions": dict(job.versions),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _content_hash(job: PairJob, name: str) -> str:
    files = job.files.get(name)
    if files:
        return hash_files(files)
    digest, part = hash_path(_paths(job.case)[name]), job.case.series.get(name)
    return hashlib.sha256(f"{digest} {part}".encode()).hexdigest() if part else digest
