"""The DICOM series of a tree, and which of them are wanted."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medp2p.conversion.candidates import (
    Candidate,
    refuse_shear,
    shown,
    time_series,
    unreadable,
    without_image,
)
from medp2p.conversion.scan_names import Place
from medp2p.conversion.scans import ScanImage
from medp2p.conversion.wanted import Refusal, Wanted
from medp2p.errors import ImageReadError, MedP2PError
from medp2p.inspection import header_texts
from medp2p.io import DicomOptions
from medp2p.io.dicom_files import Scan as Headers
from medp2p.io.dicom_kinds import (
    damage_by_series,
    first_texts,
    image_type,
    is_scout,
    made_of_others,
)
from medp2p.io.dicom_read import group_grid
from medp2p.io.dicom_series import Group, Series, choose_stack, group_series, refuse_shared_uids

_DATES = ("StudyDate", "SeriesDate", "AcquisitionDate")
_MAPS = frozenset(("ADC", "EADC", "FA", "TRACEW", "VELOCITY", "PERFUSION", "STDDEV"))
"""Words of ImageType for what was computed (PS3.3 C.8.13.3.1, and what scanners write)."""


@dataclass(frozen=True)
class _Around:
    """A series, and what its files are among.

    Attributes:
        series: The series.
        home: The folder that holds all its files.
        paths: Its files, sorted.
        damage: Files that it lost, each with the reason.
        same_uid: All series with its SeriesInstanceUID.
    """

    series: Series
    home: Path
    paths: tuple[Path, ...]
    damage: Sequence[tuple[Path, str]]
    same_uid: Sequence[Series]


def dicom_candidates(incoming: Path, headers: Headers, wanted: Wanted) -> list[Candidate]:
    """Return the series, each kind of image in one by itself, and DICOM files that are none.

    Args:
        incoming: The searched folder.
        headers: What was found there.
        wanted: What is wanted.
    """
    found = group_series(headers.frames, DicomOptions())
    damage, of_nobody = damage_by_series(headers, found)
    same_uid: dict[str, list[Series]] = defaultdict(list)
    for series in found:
        same_uid[_uid(series)].append(series)
    candidates = []
    for series in found:
        paths = {frame.file.path for group in series.groups for frame in group.frames}
        home = Path(os.path.commonpath([path.parent for path in paths]))
        lost = damage.get(id(series), ())
        around = _Around(series, home, tuple(sorted(paths)), lost, same_uid[_uid(series)])
        candidates += _candidates_of_series(incoming, around, wanted)
    for path, reason in of_nobody:
        refusal = Refusal("damaged", f"{reason}; get it again", failed=True)
        candidates.append(without_image(incoming, path, refusal))
    return candidates


def _uid(series: Series) -> str:
    return series.groups[0].first.file.series_uid


def _candidates_of_series(incoming: Path, around: _Around, wanted: Wanted) -> list[Candidate]:
    groups = around.series.groups
    whole = [group for group in groups if group.first.file.modality and not group.is_localizer]
    unwanted, rivals = [], []
    for group in groups:
        number = whole.index(group) + 1 if group in whole and len(whole) > 1 else 0
        one = _candidate(incoming, around, group, number, wanted)
        refusal = next(_refusals(around, group, one, wanted), None)
        if refusal:
            unwanted.append(replace(one, refusal=refusal))
        else:
            rivals.append((group, _placed(one, group, wanted)))
    return [*unwanted, *_without_rivals(rivals)]


def _candidate(
    incoming: Path, around: _Around, group: Group, number: int, wanted: Wanted
) -> Candidate:
    """Describe a group of slices, which is ``number`` of several in its series, or 0."""
    file, key = group.first.file, around.series.key
    folder = around.home.relative_to(incoming)
    place = Place(folder.parts, series=f"{key}{_kind_of_image(group, number)}")
    visit = (file.patient, file.study_uid, file.frame_of_reference)
    return Candidate(
        place,
        ScanImage(
            path=around.home if len(around.paths) > 1 else around.paths[0],
            files=around.paths,
            series=f"{key}/{number}" if number else key,
        ),
        texts=(file.description, folder.name, folder.as_posix(), group.label),
        visit=(str(folder), *visit) if wanted.rules.joined_by == "folder" else visit,
    )


def _kind_of_image(group: Group, number: int) -> str:
    """What tells a group of slices from others in its series, for a name."""
    if group.is_localizer:
        return "_scout"
    if not group.first.file.modality:
        return "_other"
    return f"_{number}" if number else ""


def _refusals(
    around: _Around, group: Group, candidate: Candidate, wanted: Wanted
) -> Iterator[Refusal]:
    """Yield why a group is left out by its headers; the first reason counts."""
    file = group.first.file
    if not file.modality:
        yield Refusal("not_a_scan", f"{file.kind}; expected {wanted.modality}")
    if is_scout(group):
        yield Refusal("localizer", "a localizer (scout images)")
    yield from _of(wanted.refuse_modality(file.modality))
    yield from _of(wanted.refuse_texts(candidate.texts))
    yield from _of(_refuse_by_header(file.path, wanted))
    kind = "" if wanted.rules.derived else _how_derived(group)
    if kind:
        reason = f"made of other images ({kind}); the rule derived: true takes it"
        yield Refusal("derived", reason)
    for path, reason in around.damage:
        name = shown(path, wanted.rules.hash_names)
        yield Refusal("damaged", f"{name}: {reason}; get it again", failed=True)
    if len({group.first.file.modality for group in around.series.groups} - {None}) > 1:
        reason = "CT and MR have one SeriesInstanceUID here; separate them"
        yield Refusal("damaged", reason, failed=True)
    if _is_shared(around):
        reason = "two patients or studies have one SeriesInstanceUID here; separate them"
        yield Refusal("damaged", reason, failed=True)


def _of(refusal: Refusal | None) -> list[Refusal]:
    return [refusal] if refusal else []


def _how_derived(group: Group) -> str:
    """Say how images were made of others; empty for what a scanner measured, as far as known."""
    words = image_type(group)
    kind = made_of_others(group) or next((word for word in words if word in _MAPS), "")
    return kind or ("DERIVED, SECONDARY" if words[:2] == ("DERIVED", "SECONDARY") else "")


def _refuse_by_header(path: Path, wanted: Wanted) -> Refusal | None:
    """Refuse by what only a second look at a header says."""
    keywords = ("SyntheticData", *_DATES)
    texts = first_texts(path, keywords) or header_texts(path, keywords)
    if texts is None:
        return Refusal("damaged", "its header cannot be read; get it again", failed=True)
    synthetic, *dates = texts
    if synthetic.strip().upper() == "YES":
        return Refusal("synthetic", "says that it is synthetic; expected what a scanner measured")
    return wanted.refuse_day(dates)


def _is_shared(around: _Around) -> bool:
    try:
        refuse_shared_uids(around.home, around.same_uid)
    except ImageReadError:
        return True
    return False


def _placed(candidate: Candidate, group: Group, wanted: Wanted) -> Candidate:
    """Add where the voxels lie, or why they cannot be read."""
    image = candidate.image
    try:
        grid = group_grid(image.path, group, DicomOptions())
        refuse_shear(image.path, grid)
    except MedP2PError as error:
        damaged = unreadable(error, image, hide_names=wanted.rules.hash_names)
        refusal = _refuse_several(group) or damaged
        return replace(candidate, refusal=refusal)
    except OSError as error:
        gone = Refusal("damaged", f"cannot be read: {error.strerror}; get it again", failed=True)
        return replace(candidate, refusal=gone)
    return replace(candidate, grid=grid, refusal=wanted.refuse_grid(grid, 2))


def _refuse_several(group: Group) -> Refusal | None:
    """Refuse what is more than one volume, which is no damage."""
    if group.is_mosaic:
        reason = "a Siemens mosaic (many slices in one image); convert it with dcm2niix"
        return Refusal("time_series", reason)
    try:
        stack = choose_stack(group.first.file.path, group, 0, DicomOptions())
    except (MedP2PError, OSError):
        return None
    volumes = len(group.frames) // len(stack.frames)
    return time_series(volumes) if volumes > 1 else None


def _without_rivals(rivals: Sequence[tuple[Group, Candidate]]) -> list[Candidate]:
    """Leave out all if several kinds of image in a series are wanted: one may be part of another.

    A slice whose header is damaged is a kind by itself, and the rest lacks it.
    """
    candidates = [candidate for _, candidate in rivals]
    if len(candidates) < 2:
        return candidates
    labels = "; ".join(group.label for group, _ in rivals[:10])
    refusal = Refusal(
        "ambiguous",
        f"{len(candidates)} kinds of image in one series; choose one by a pattern: {labels}",
    )
    failures = [one.refusal for one in candidates if one.refusal and one.refusal.failed]
    if failures:
        reason = f"a part of its series cannot be read: {failures[0].reason}"
        refusal = replace(failures[0], reason=reason)
    return [replace(one, refusal=one.refusal or refusal) for one in candidates]
