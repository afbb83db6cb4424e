"""The DICOM series of a scan as images that could be paired."""

from __future__ import annotations

import datetime
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medp2p.inspection import Hide, contrast_of, header_texts, hider, noting, printable
from medp2p.io import DicomOptions
from medp2p.io.dicom_files import Scan
from medp2p.io.dicom_kinds import damage_by_series, image_type, is_scout, made_of_others
from medp2p.io.dicom_read import group_grid
from medp2p.io.dicom_series import Group, Series, group_series, refuse_shared_uids
from medp2p.io.geometry import refuse_sheared
from medp2p.preparation.found_image import (
    Candidate,
    Folder,
    FoundImage,
    place_token,
    relative_folder,
    with_parents,
)
from medp2p.preparation.layouts import Kinds, Named, read_file_name, read_folder_name
from medp2p.volume import Grid, Volume

_USUAL_KINDS = ("AXIAL", "HELICAL", "VOLUME", "M", "MAGNITUDE", "NONE", "OTHER")
_DAYS = ("SeriesDate", "AcquisitionDate", "StudyDate")


def dicom_candidates(data: Path, scan: Scan, kinds: Kinds) -> list[Candidate]:
    """Return the CT and MR volumes among scanned files.

    Args:
        data: The searched folder.
        scan: What was found there.
        kinds: The words for kinds of images.
    """
    found = [series for series in group_series(scan.frames, DicomOptions()) if series.modality]
    same_uid: dict[str, list[Series]] = defaultdict(list)
    people: dict[Folder, set[str]] = defaultdict(set)
    persons = []
    for series in found:
        file = series.groups[0].first.file
        persons.append(_person(file.path))
        same_uid[file.series_uid].append(series)
        for folder in _folders(data, series):
            for around in with_parents(folder):
                people[around].add(persons[-1])
    damage, _ = damage_by_series(scan, found)
    items = []
    for series, person in zip(found, persons, strict=True):
        problems = [
            f"{path.name}: {reason}; get it again, or move it elsewhere if it does not matter"
            for path, reason in damage.get(id(series), ())
        ]
        with noting(problems, data):
            refuse_shared_uids(data, same_uid[series.groups[0].first.file.series_uid])
        items += _items_of_series(data, series, person, people, problems, kinds)
    return items


def _items_of_series(
    data: Path,
    series: Series,
    person: str,
    people: Mapping[Folder, Collection[str]],
    problems: Sequence[str],
    kinds: Kinds,
) -> list[Candidate]:
    file = series.groups[0].first.file
    paths = sorted({frame.file.path for group in series.groups for frame in group.frames})
    home = Path(os.path.commonpath([path.parent for path in paths]))
    folder = relative_folder(data, home)
    named = _named_folder(folder, people, kinds)
    if named and named.modality not in (series.modality, None):
        named = None
    hide, day = hider(file.path), _day(file.path)
    scouts = [group for group in series.groups if is_scout(group)]
    whole = [group for group in series.groups if not is_scout(group)]
    images = []
    for group in [*whole, *scouts[:1]]:
        number = whole.index(group) + 1 if group in whole else 0
        image = FoundImage(
            path=home if len(paths) > 1 else paths[0],
            series=f"{series.key}/{number}" if number and len(whole) > 1 else series.key,
            files=tuple(paths),
            modality=series.modality,
            description=printable(hide(file.description)),
            contrast=_contrast(group, hide),
            derived=made_of_others(group),
            role=named.role if named else "",
            study=f"{file.patient} {file.study_uid}",
            day=day,
            frame_of_reference=group.first.file.frame_of_reference,
            person=person,
        )
        images.append(_examined(image, group, problems))
    tokens = {f"header {person}"} if person else {f"study {file.study_uid}"}
    place = named.place if named else None
    if not place and not person:
        place = read_file_name(folder or (data.resolve().name,), kinds).place
    if place:
        tokens.add(place_token(place))
    return [
        Candidate(
            image,
            folder,
            place=None if person else place,
            unit=place.parts if place else None,
            fallback=f"patient_{file.patient[:8]}",
            tokens=frozenset(tokens),
        )
        for image in images
    ]


def _folders(data: Path, series: Series) -> set[Folder]:
    parents = {frame.file.path.parent for group in series.groups for frame in group.frames}
    return {relative_folder(data, parent) for parent in parents}


def _named_folder(
    folder: Folder, people: Mapping[Folder, Collection[str]], kinds: Kinds
) -> Named | None:
    """What a folder such as ``CASE/mr`` says of a series in it, if that is of one patient."""
    named = read_folder_name(folder, kinds)
    if named is None:
        return None
    depth = max(i for i, part in enumerate(folder) if part.lower() in kinds.modalities) + 1
    return named if len(people[folder[:depth]]) == 1 else None


def _examined(image: FoundImage, group: Group, problems: Sequence[str]) -> FoundImage:
    """Add where the voxels of a series lie, and what keeps it from being read."""
    noted = list(problems)
    grid = None
    if is_scout(group):
        noted.append("a localizer (scout images)")
    else:
        with noting(noted, image.path):
            grid = group_grid(image.path, group, DicomOptions())
            refuse_sheared(empty_volume(image.path, grid))
    return replace(image, grid=grid, problems=tuple(noted))


def empty_volume(path: Path, grid: Grid) -> Volume:
    """Return a volume in this place without voxels to speak of, to check the place."""
    return Volume(np.zeros((1, 1, 1), np.uint8), grid.affine, path=path)


def _contrast(group: Group, hide: Hide) -> str:
    frame = group.first
    kind = " ".join(word for word in image_type(group)[2:] if word not in _USUAL_KINDS)
    kernel = next((str(value) for name, value in frame.settings if name == "kernel"), "")
    words = (contrast_of(frame), printable(hide(kernel)), printable(hide(kind)))
    return ", ".join(word for word in words if word)


def _person(path: Path) -> str:
    """Hash who a header says the patient is; the spelling of the name does not matter."""
    texts = header_texts(path, ("PatientID", "PatientName")) or ("", "")
    words = [sorted(filter(None, re.split(r"[\W_]+", text.casefold()))) for text in texts]
    return hashlib.sha256(repr(words).encode()).hexdigest()[:16] if any(words) else ""


def _day(path: Path) -> datetime.date | None:
    for text in header_texts(path, _DAYS) or ():
        try:
            return datetime.datetime.strptime(text.strip(), "%Y%m%d").date()
        except ValueError:
            continue
    return None
