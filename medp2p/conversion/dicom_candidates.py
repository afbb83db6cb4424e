"""The DICOM series of a tree, and which of them are wanted."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medp2p.conversion.candidates import (
    Candidate,
    place_of_file,
    refuse_shear,
    shown,
    time_series,
    unreadable,
    without_image,
)
from medp2p.conversion.scan_names import Place, hashed
from medp2p.conversion.scans import ScanImage
from medp2p.conversion.wanted import Refusal, Wanted
from medp2p.errors import ImageReadError, MedP2PError
from medp2p.inspection import header_texts
from medp2p.io import DicomOptions
from medp2p.io.dicom_files import Scan as Headers
from medp2p.io.dicom_files import series_of_damaged
from medp2p.io.dicom_kinds import (
    damage_by_series,
    first_texts,
    image_type,
    is_scout,
    made_of_others,
)
from medp2p.io.dicom_read import group_grid
from medp2p.io.dicom_series import (
    Group,
    Series,
    choose_stack,
    group_series,
    plane_name,
    refuse_shared_uids,
    series_key,
)

_DATES = ("StudyDate", "SeriesDate", "AcquisitionDate")
_MAPS = frozenset(("ADC", "EADC", "FA", "TRACEW", "VELOCITY", "PERFUSION", "STDDEV"))
"""Words of ImageType for what was computed (PS3.3 C.8.13.3.1, and what scanners write)."""


@dataclass(frozen=True)
class _Around:
    """A series, and what its files are among.

    Attributes:
        series: The series.
        damage: Files that it lost, each with the reason.
        same_uid: All series with its SeriesInstanceUID.
    """

    series: Series
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
        around = _Around(series, damage.get(id(series), ()), same_uid[_uid(series)])
        candidates += _candidates_of_series(incoming, around, wanted)
    return [*candidates, *_lost_candidates(incoming, of_nobody, wanted)]


def _lost_candidates(
    incoming: Path, lost: Sequence[tuple[Path, str]], wanted: Wanted
) -> list[Candidate]:
    """Return damaged files, those of one series as one, and of no known series those of a folder.

    An image of another format that cannot be looked at is one by itself.
    """
    candidates = []
    together: dict[tuple[str, Path], list[tuple[Path, str]]] = defaultdict(list)
    for path, reason in lost:
        if place_of_file(incoming, path).is_image:
            refusal = Refusal("damaged", f"{reason}; get it again", failed=True)
            candidates.append(without_image(incoming, path, refusal))
        else:
            series = series_of_damaged(path)
            together[series, incoming if series else path.parent].append((path, reason))
    for (series, _), found in together.items():
        files = tuple(sorted(path for path, _ in found))
        folder = _common_folder(files)
        parts = folder.relative_to(incoming).parts
        key = f"{series_key(series)}_damaged"
        place = Place(parts, series=key) if series else Place(parts, "damaged files")
        refusal = _refuse_lost(sorted(found), wanted)
        candidates.append(Candidate(place, ScanImage(folder, files), refusal=refusal))
    return candidates


def _refuse_lost(lost: Sequence[tuple[Path, str]], wanted: Wanted) -> Refusal:
    path, reason = lost[0]
    text = f"{shown(path, wanted.rules.hash_names)}: {reason}"
    if len(lost) > 1:
        text = f"{len(lost)} damaged files, the first: {text}; get them again"
    else:
        text = f"{text}; get it again"
    return Refusal("damaged", text, failed=True)


def _common_folder(files: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([path.parent for path in files]))


def _uid(series: Series) -> str:
    return series.groups[0].first.file.series_uid


def _candidates_of_series(incoming: Path, around: _Around, wanted: Wanted) -> list[Candidate]:
    unwanted, rivals = [], []
    for group in around.series.groups:
        one = _candidate(incoming, around.series, group, wanted)
        refusal = next(_refusals(around, group, one, wanted), None)
        if refusal:
            unwanted.append(replace(one, refusal=refusal))
        else:
            rivals.append((group, _placed(one, group, wanted)))
    return [*unwanted, *_without_rivals(rivals)]


def _candidate(incoming: Path, series: Series, group: Group, wanted: Wanted) -> Candidate:
    """Describe a group of slices by itself, whatever others its series holds."""
    file = group.first.file
    files = tuple(sorted({frame.file.path for frame in group.frames}))
    number = _number_in_files(series, group, files)
    folder = _common_folder(_originals(group)).relative_to(incoming)
    visit = (file.patient, file.study_uid, file.frame_of_reference)
    return Candidate(
        Place(folder.parts, series=f"{series.key}_{_kind_of_image(group)}"),
        ScanImage(
            path=_common_folder(files) if len(files) > 1 else files[0],
            files=files,
            series=f"{series.key}/{number}" if number else series.key,
        ),
        texts=(file.description, folder.name, folder.as_posix(), group.label),
        visit=(str(folder), *visit) if wanted.rules.joined_by == "folder" else visit,
    )


def _originals(group: Group) -> list[Path]:
    """Of files that are there several times, the one with the shortest path each."""
    shortest: dict[str, Path] = {}
    for file in sorted((f.file for f in group.frames), key=lambda f: (len(f.path.parts), f.path)):
        shortest.setdefault(file.sop_instance_uid or str(file.path), file.path)
    return list(shortest.values())


def _kind_of_image(group: Group) -> str:
    """What tells a group of slices from others in its series, for a name.

    Returns:
        A hash of what is exactly the same in all its slices, so that no slice and no other group
        that comes changes it; a word for what is never translated.
    """
    if group.is_localizer:
        return "scout"
    frame, file = group.first, group.first.file
    if not file.modality:
        return "other"
    plane = plane_name(frame.orientation) if frame.orientation else ""
    kind = (file.sop_class_uid, file.frame_of_reference, file.rows, file.columns, plane)
    return hashed(ascii((*kind, frame.echo, frame.b_value, frame.settings, image_type(group))))[:6]


def _number_in_files(series: Series, group: Group, files: Sequence[Path]) -> int:
    """Which kind of image in its own files a group is, as a reader counts; 0 if it is the only."""
    own = set(files)
    frames = [f for other in series.groups for f in other.frames if f.file.path in own]
    if len(frames) == len(group.frames):
        return 0
    frames.sort(key=lambda frame: (frame.file.path, frame.index))
    (there,) = group_series(frames, DicomOptions())
    whole = [one for one in there.groups if one.first.file.modality and not one.is_localizer]
    numbers = (n for n, one in enumerate(whole, 1) if any(f is group.first for f in one.frames))
    return next(numbers, 0) if len(whole) > 1 else 0


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
        refuse_shared_uids(Path(), around.same_uid)
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
    refusal = Refusal(
        "ambiguous",
        f"{len(candidates)} kinds of image in one series; choose one by a pattern that fits what "
        "`medp2p inspect` shows of it",
    )
    failures = [one.refusal for one in candidates if one.refusal and one.refusal.failed]
    if failures:
        reason = f"a part of its series cannot be read: {failures[0].reason}"
        refusal = replace(failures[0], reason=reason)
    return [replace(one, refusal=one.refusal or refusal) for one in candidates]
