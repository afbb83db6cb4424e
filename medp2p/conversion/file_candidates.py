"""The image files of a tree that are not DICOM, what is no image, and what cannot be looked at.

A file of NIfTI, MetaImage or NRRD hardly says what it is. It counts as what the model is for unless
the note in our own files, a BIDS sidecar (``.json``), its name or its folder's name says otherwise.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from medp2p.config import EIGHT_BIT
from medp2p.conversion.candidates import (
    Candidate,
    place_of_file,
    refuse_shear,
    time_series,
    unreadable,
    without_image,
)
from medp2p.conversion.scans import ScanImage
from medp2p.conversion.tree import Tree
from medp2p.conversion.wanted import Refusal, Wanted, slice_axis_of
from medp2p.errors import MedP2PError
from medp2p.io import data_file, image_name, image_suffix, is_picture, read_grid, read_modality
from medp2p.io.dicom_files import Scan as Headers
from medp2p.io.dicom_kinds import lost_files
from medp2p.io.meaning import MODALITY_OF_WORD

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar")
_NOT_READ = (".mgz", ".mgh", ".mnc", ".img", ".nii.bz2", ".nii.zst", ".par")
_MODALITY_OF_WORD: dict[str, str | None] = {
    **MODALITY_OF_WORD,
    **dict.fromkeys(("segmentation", "segmentations", "labelmap", "brainmask", "aseg"), "MASK"),
    "sct": "CT",
}
_OF_SIDECAR = {"MR": "MR", "CT": "CT", "PT": "PET"}
_LARGEST_SIDECAR_BYTES = 1 << 20


def file_candidates(
    incoming: Path, tree: Tree, headers: Headers, wanted: Wanted
) -> list[Candidate]:
    """Return the image files that are not DICOM.

    Args:
        incoming: The searched folder.
        tree: Its files.
        headers: Which of them are DICOM.
        wanted: What is wanted.
    """
    is_ours = is_picture if wanted.modality == EIGHT_BIT else image_suffix
    files = set(tree.files)
    return [
        _candidate(incoming, path, files, wanted)
        for path, reason in headers.skipped
        if reason in ("not DICOM", "0 bytes", "a link to nothing") and is_ours(path)
    ]


def other_candidates(incoming: Path, tree: Tree, headers: Headers) -> list[Candidate]:
    """Return what is no image, or cannot be looked at; a file of no interest is not among it."""
    lost = {path for path, _ in lost_files(headers)}
    refusals = [
        (path, _refuse_other(path, why)) for path, why in headers.skipped if path not in lost
    ]
    refusals += [(path, Refusal("damaged", why, failed=True)) for path, why in tree.closed]
    leads_out = Refusal("outside", "a link that leads out of the tree; it is not followed")
    refusals += [(path, leads_out) for path in tree.outside]
    ours = Refusal("own_output", "a folder that medp2p batch writes into")
    refusals += [(path, ours) for path in tree.outputs]
    no_file = Refusal("not_read", "a pipe, a socket or a device; expected a file")
    refusals += [(path, no_file) for path in tree.no_files]
    return [without_image(incoming, path, refusal) for path, refusal in refusals if refusal]


def _refuse_other(path: Path, why: str) -> Refusal | None:
    name = path.name.lower()
    if why.startswith("no image"):
        return Refusal("not_a_scan", why)
    if name.endswith(_ARCHIVES):
        return Refusal("not_read", "an archive; unpack it")
    if name.endswith(_NOT_READ):
        return Refusal("not_read", "an image format that is not read; convert it to .nii.gz")
    return None


def _candidate(incoming: Path, path: Path, files: Collection[Path], wanted: Wanted) -> Candidate:
    relative = path.relative_to(incoming)
    sidecar = _sidecar(path, files)
    found = Candidate(
        place_of_file(incoming, path),
        ScanImage(path, _files_of(path)),
        texts=(str(sidecar.get("SeriesDescription", "")), image_name(path), relative.as_posix()),
        visit=("folder", str(relative.parent)),
    )
    try:
        refusal = (
            wanted.refuse_modality(_modality(path, relative.parts[:-1], sidecar))
            or wanted.refuse_texts(found.texts)
            or wanted.refuse_day()
        )
        return replace(found, refusal=refusal) if refusal else _placed(incoming, found, wanted)
    except MedP2PError as error:
        volumes = _volumes(path)
        damaged = unreadable(error, found.image, hide_names=wanted.rules.hash_names)
        return replace(found, refusal=time_series(volumes) if volumes > 1 else damaged)


def _files_of(path: Path) -> tuple[Path, ...]:
    """An image file, and the one that holds its voxels if that is another one and can be found."""
    with suppress(MedP2PError):
        if data := data_file(path) if image_suffix(path) else None:
            return path, data
    return (path,)


def _placed(incoming: Path, candidate: Candidate, wanted: Wanted) -> Candidate:
    """Add where the voxels lie."""
    path = candidate.image.path
    data = data_file(path) if image_suffix(path) else None
    if data and not data.resolve().is_relative_to(incoming.resolve()):
        refusal = Refusal("outside", "its voxels are in a file outside the tree")
        return replace(candidate, refusal=refusal)
    grid = read_grid(path)
    refuse_shear(path, grid)
    return replace(
        candidate,
        grid=grid,
        refusal=wanted.refuse_grid(grid, slice_axis_of(grid)),
    )


def _modality(path: Path, folders: Sequence[str], sidecar: Mapping[str, Any]) -> str | None:
    """What an image is by the first of note, sidecar, name and folders that says it."""
    noted = read_modality(path)
    if noted:
        return noted
    if isinstance(stated := sidecar.get("Modality"), str):
        return _OF_SIDECAR.get(stated.upper(), "another modality")
    words = re.split(r"[_\-.\s]+", image_name(path).lower())
    for word in (*reversed(words), *(folder.lower() for folder in reversed(folders))):
        if word in _MODALITY_OF_WORD:
            return _MODALITY_OF_WORD[word] or word.upper()
    return None


def _sidecar(path: Path, files: Collection[Path]) -> Mapping[str, Any]:
    """What the JSON beside an image says (BIDS); empty where there is none."""
    place = path.with_name(f"{image_name(path)}.json")
    if place not in files:
        return {}
    with suppress(OSError, ValueError, RecursionError), place.open("rb") as file:
        values = json.loads(file.read(_LARGEST_SIDECAR_BYTES))
        if isinstance(values, dict):
            return values
    return {}


def _volumes(path: Path) -> int:
    """How many volumes a file holds; 0 if that cannot be told."""
    import SimpleITK as sitk  # costs 0.1 s, and is seldom needed

    reader = sitk.ImageFileReader()
    try:
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    except (RuntimeError, UnicodeError):
        return 0
    return math.prod(reader.GetSize()[3:])
