"""What a folder or file holds, and what keeps each scan there from being read.

Headers are read once and voxels never, so what only voxels show (NaN, damage) is not found. What
is refused, and in which words, is decided by the reader's own rules.

Nothing that tells who the patient is comes out unless asked for. A series description is shown,
because without it nobody finds their scan: the words of that header's own names, identifiers
and dates are taken out of it, and so is what looks like a date or a long number.

That cannot be complete. What the header does not hold in some form is not known to be about the
patient: nicknames, initials, misspelt or transliterated names, an age, a birth year of two
digits, a month without a year, a diagnosis, another person. A name of one or two letters, or a
physician's of three, is found only as a word by itself. Look before you pass a list on.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medp2p.errors import ImageReadError, MedP2PError
from medp2p.files import files_below
from medp2p.io import DicomOptions, image_suffix, read_grid, read_modality
from medp2p.io.dicom_files import Frame, ImageFile, Scan, quiet_pydicom, read_header, scan_files
from medp2p.io.dicom_pixels import check_pixels
from medp2p.io.dicom_read import stack_affine
from medp2p.io.dicom_series import (
    KNOWN_IMAGE_TYPES,
    Group,
    Series,
    Stack,
    choose_stack,
    group_series,
    irregularities,
    plane_name,
    refuse_shared_uids,
    without_copies,
)
from medp2p.io.geometry import refuse_sheared
from medp2p.volume import Grid, Volume

_IDENTIFYING = (
    "PatientBirthDate",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy",
    "RequestingPhysician",
    "OperatorsName",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
    "StudyDate",
)
"""Attributes whose words are taken out of descriptions, beside names and numbers."""

_NAMES = (
    "PatientName",
    "PatientBirthName",
    "PatientMotherBirthName",
    "OtherPatientNames",
    "ResponsiblePerson",
)
"""Names of the patient and the family: their words of three letters are found inside others."""

_NUMBERS = ("PatientID", "OtherPatientIDs", "StudyID", "AccessionNumber")
"""Identifiers, which are found however they are divided."""

_OF_DESCRIPTIONS = """
    abdomen abdominal advanced angio angiography ankle anterior arterial brain breast cardiac
    cerebral cervical chest contrast coronal coronar cranial delayed dental dixon dorsal dynamic
    early elbow enhanced flair foot gradient hand head heart inversion kidney knee late lateral
    left liver lower lumbar lung medial model native neck oblique orbita pancreas parallel pelvic
    pelvis perpendicular plain portal posterior prostate reconstruction recovery right routine
    sagittal scan series short shoulder skull spine spleen standard survey tesla thoracic thorax
    transversal transverse turbo upper venous ventral vertebral wrist
"""
_ORDINARY = frozenset([*_OF_DESCRIPTIONS.split(), *map(str.lower, KNOWN_IMAGE_TYPES)])
"""Words that are left whole where a name of three letters is a part of them."""

_MONTH = (
    "(?:jan|feb|fév|mar|mär|mrz|apr|avr|may|mai|jun|juin|jul|juil|aug|aoû|sep|oct|okt|nov|dec|dez|"
    "déc)"
)
_DATE_OR_NUMBER = (
    r"(?<!\d)(?:\d{1,2}[-./]\d{1,2}[-./]\d{2,4}|\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{6,})",
    rf"(?<![^\W_])\d{{1,2}}[\W_]{{0,2}}{_MONTH}[^\W\d_]*[\W_]{{0,2}}\d{{2,4}}(?!\d)",
    rf"(?<![^\W\d_]){_MONTH}[^\W\d_]*[\W_]{{0,2}}(?:\d{{1,2}}[\W_]{{1,2}})?(?:19|20)\d\d(?!\d)",
    rf"(?<!\d)(?:19|20)\d\d[\W_]{{0,2}}{_MONTH}[^\W\d_]*(?:[\W_]{{0,2}}\d{{1,2}})?(?!\d)",
)
_JOINERS = "\u200c\u200d"
_LEFT_OUT = "…"
_SHORT_WORD = 3
_LONGEST = 1024

Hide = Callable[[str], str]
"""Takes out of a text what tells who the patient is."""


@dataclass(frozen=True)
class Patient:
    """Who was scanned and when, as the headers say; empty where they do not.

    Attributes:
        name: PatientName, its groups (alphabetic, ideographic, phonetic) divided by ``=``.
        patient_id: PatientID.
        study_date: StudyDate, YYYYMMDD.
    """

    name: str
    patient_id: str
    study_date: str


@dataclass(frozen=True)
class Place:
    """Where voxels lie.

    Attributes:
        size: Number of voxels along i, j, k.
        spacing_mm: Between voxel centres along i, j, k.
        plane: Of the slices (i, j): axial, coronal or sagittal, ``oblique`` before it if over 5
            degrees off.
        orientation: The nearest world direction of each axis, such as ``"LPS"``.
    """

    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    plane: str
    orientation: str


@dataclass(frozen=True)
class ImageReport:
    """An image file that is not DICOM.

    Attributes:
        path: The file.
        modality: ``"MR"``, ``"CT"`` or ``"MASK"`` where the file notes it.
        place: Where its voxels lie, None if it does not say.
        problems: What keeps it from being read, in words.
    """

    path: Path
    modality: str | None
    place: Place | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class GroupReport:
    """Slices of one series that can be one volume, or one time series.

    Attributes:
        number: For ``--group``, from 1; None for what is never read.
        slices: Images, or frames of multi-frame images.
        volumes: How many volumes they are, for ``--volume``; 0 if that cannot be told.
        size: Columns, rows.
        place: Where the voxels of one volume lie, None if the headers do not place them.
        plane: Of the slices, empty if not stated.
        contrast: Timing in milliseconds, contrast agent, b-value in s/mm².
        kind: ImageType or FrameType, without what it holds of the patient.
        problems: What keeps the group from being read, and what is noteworthy, in words.
    """

    number: int | None
    slices: int
    volumes: int
    size: tuple[int, int]
    place: Place | None
    plane: str
    contrast: str
    kind: str
    problems: tuple[str, ...]


@dataclass(frozen=True)
class SeriesReport:
    """What lies under one SeriesInstanceUID.

    Attributes:
        key: For ``--series``; a hash.
        number: SeriesNumber; answers to ``--series`` too where it is the only one.
        modality: ``"CT"`` or ``"MR"``, None for what is not read.
        description: SeriesDescription, without the words that tell who the patient is.
        groups: By what tells them apart, the largest first.
        problems: What concerns all of it.
    """

    key: str
    number: int | None
    modality: str | None
    description: str
    groups: tuple[GroupReport, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class StudyReport:
    """The series of one study of one patient.

    Attributes:
        number: From 1, by the path of the first file; names nothing but a line of this report.
        folder: The one that holds all of it.
        patient: Who and when, if asked for.
        series: By their number.
    """

    number: int
    folder: Path
    patient: Patient | None
    series: tuple[SeriesReport, ...]


@dataclass(frozen=True)
class Inspection:
    """What lies at a path.

    Attributes:
        path: What was looked at.
        files: How many files.
        studies: The DICOM images among them.
        images: Files of other image formats.
        damaged: DICOM files that cannot be understood, with the reason; a folder with one of
            these is not read.
        skipped: How many files were left out for which reason.
    """

    path: Path
    files: int
    studies: tuple[StudyReport, ...]
    images: tuple[ImageReport, ...]
    damaged: tuple[tuple[Path, str], ...]
    skipped: dict[str, int]


def find_files(path: Path) -> list[Path]:
    """List what `inspect` will look at: every file at any depth that is not hidden, sorted.

    Raises:
        ImageReadError: If there is nothing at this path, or it may not be looked at.
    """
    if not path.exists():
        raise ImageReadError(f"{path}: no such file or folder")
    if not os.access(path, os.R_OK):
        raise ImageReadError(f"{path}: no permission to read it")
    return sorted(files_below(path)) if path.is_dir() else [path]


def inspect(
    path: str | Path,
    *,
    show_patient: bool = False,
    files: Sequence[Path] | None = None,
    on_file: Callable[[], None] | None = None,
) -> Inspection:
    """Look at every file below a path, without reading a voxel.

    Args:
        path: A folder or a file.
        show_patient: Whether to tell name, id and study date, and descriptions in full.
        files: What `find_files` found there, if that is known already.
        on_file: Called after each file.

    Raises:
        ImageReadError: If there is nothing at this path, or it may not be looked at.
    """
    path = Path(path)
    if files is None:
        files = find_files(path)
    scan = scan_files(files, on_file)
    images = [file for file, reason in scan.skipped if _is_other_image(file, reason)]
    return Inspection(
        path,
        len(files),
        _studies(path, scan, show_patient),
        tuple(map(_image, images)),
        tuple(scan.damaged),
        dict(Counter(r for file, r in scan.skipped if not _is_other_image(file, r)).most_common()),
    )


def printable(text: str) -> str:
    """Return a text without characters that a terminal would obey: one line of what is seen."""
    seen = (c if c.isprintable() or c in _JOINERS else " " for c in text)
    return " ".join("".join(seen).split())


def _is_other_image(path: Path, reason: str) -> bool:
    return bool(image_suffix(path)) and reason in ("not DICOM", "0 bytes")


def _image(path: Path) -> ImageReport:
    modality: str | None = None
    place = None
    problems: list[str] = []
    with noting(problems, path):
        modality = read_modality(path)
        grid = read_grid(path)
        place = _place(grid)
        refuse_sheared(Volume(np.zeros((1, 1, 1), np.uint8), grid.affine, path=path))
    return ImageReport(path, modality, place, tuple(problems))


def _place(grid: Grid) -> Place | None:
    if not np.isfinite(grid.affine).all() or not grid.spacing_mm.all():
        return None
    i, j, k = (float(length) for length in grid.spacing_mm)
    axes = grid.affine[:3, :3].T.ravel()
    return Place(grid.shape, (i, j, k), plane_name(axes[:6].tolist()), grid.orientation)


@contextmanager
def noting(problems: list[str], path: Path) -> Iterator[None]:
    """Note why the reader refuses, and go on after the block."""
    try:
        yield
    except MedP2PError as error:
        problems.append(_words(error, path))


def _words(error: MedP2PError, path: Path) -> str:
    """The error's text, with paths as seen from ``path``."""
    return str(error).removeprefix(f"{path}: ").replace(f"{path}{os.sep}", "")


def _studies(path: Path, scan: Scan, show_patient: bool) -> tuple[StudyReport, ...]:
    by_uid: dict[str, list[Series]] = {}
    by_study: dict[tuple[str, str], list[Series]] = {}
    for series in group_series(scan.frames, DicomOptions()):
        file = _file(series)
        by_uid.setdefault(file.series_uid, []).append(series)
        by_study.setdefault((file.patient, file.study_uid), []).append(series)
    studies = []
    for number, members in enumerate(by_study.values(), 1):
        reports = [_series(path, s, by_uid[_file(s).series_uid], show_patient) for s in members]
        reports.sort(key=lambda report: (report.number is None, report.number or 0, report.key))
        patient = _patient(_file(members[0]).path) if show_patient else None
        studies.append(StudyReport(number, _folder(members), patient, tuple(reports)))
    return tuple(studies)


def _file(series: Series) -> ImageFile:
    return series.groups[0].first.file


def _folder(found: Sequence[Series]) -> Path:
    frames = (frame for series in found for group in series.groups for frame in group.frames)
    return Path(os.path.commonpath({frame.file.path.parent for frame in frames}))


def _series(
    path: Path, series: Series, same_uid: Sequence[Series], show_patient: bool
) -> SeriesReport:
    file = _file(series)
    hide = _nothing_hidden if show_patient else hider(file.path)
    problems: list[str] = []
    with noting(problems, path):
        refuse_shared_uids(path, same_uid)
    if series.modality:
        groups = _groups(path, series, hide)
    else:
        problems.append(f"neither CT nor MR, so not read ({file.kind})")
        whole = Group(tuple(frame for group in series.groups for frame in group.frames))
        groups = (_outline(whole, None, hide),)
    candidates = sum(group.number is not None for group in groups)
    if candidates > 1:
        problems.append(f"{candidates} kinds of image under one UID; choose one with --group N")
    return SeriesReport(
        series.key,
        file.series_number,
        series.modality,
        printable(hide(file.description)),
        groups,
        tuple(problems),
    )


def _groups(path: Path, series: Series, hide: Hide) -> tuple[GroupReport, ...]:
    scouts = [group for group in series.groups if group.is_localizer]
    others = [group for group in series.groups if not group.is_localizer]
    left_out = ("localizer (scout images), left out",)
    return (
        *(_group(path, group, number, hide) for number, group in enumerate(others, 1)),
        *(replace(_outline(group, None, hide), problems=left_out) for group in scouts),
    )


def _group(path: Path, group: Group, number: int, hide: Hide) -> GroupReport:
    outline = _outline(group, number, hide)
    problems: list[str] = []
    with noting(problems, path):
        check_pixels(group.frames)
    stack = None
    with noting(problems, path):
        group = _without_copies(group, problems)
        stack = _stack(path, group, problems)
    if any(frame.file.photometric == "MONOCHROME1" for frame in group.frames):
        problems.append("MONOCHROME1 (to be displayed inverted); values are taken as they are")
    if stack is None or min(outline.size) < 1:
        return replace(outline, problems=tuple(problems))
    count = len(stack.frames)
    return replace(
        outline,
        volumes=len(group.frames) // count,
        place=_place(Grid((*outline.size, count), stack_affine(stack))),
        problems=(*problems, *irregularities(stack, DicomOptions())),
    )


def _without_copies(group: Group, problems: list[str]) -> Group:
    kept = without_copies(group.frames)
    copies = len(group.frames) - len(kept)
    if copies:
        problems.append(f"{copies} image(s) are there twice and count once")
    return Group(tuple(kept))


def _stack(path: Path, group: Group, problems: list[str]) -> Stack:
    """The slices in order; of a time series the first volume."""
    try:
        return choose_stack(path, group, None, DicomOptions())
    except ImageReadError as error:
        stack = choose_stack(path, group, 0, DicomOptions())
        problems.append(_words(error, path))
        return stack


def _outline(group: Group, number: int | None, hide: Hide) -> GroupReport:
    frame = group.first
    return GroupReport(
        number=number,
        slices=len(group.frames),
        volumes=0,
        size=(frame.file.columns, frame.file.rows),
        place=None,
        plane=plane_name(frame.orientation) if frame.orientation else "",
        contrast=contrast_of(frame),
        kind=printable(hide("\\".join(frame.frame_type or frame.file.image_type))),
        problems=(),
    )


def contrast_of(frame: Frame) -> str:
    """Say what was made to look bright: times in ms, contrast agent, b-value in s/mm²."""
    words = [frame.file.contrast] if frame.file.contrast else []
    echo_time = frame.echo[1]
    if echo_time is not None and "TE " not in frame.file.contrast:
        words.append(f"TE {echo_time:.4g}")
    if frame.b_value is not None:
        words.append(f"b {frame.b_value:.4g}")
    return " ".join(words)


def _patient(path: Path) -> Patient:
    values = header_texts(path, ("PatientName", "PatientID", "StudyDate")) or ("", "", "")
    return Patient(*map(printable, values))


def _nothing_hidden(text: str) -> str:
    return text


def hider(path: Path) -> Hide:
    """Make a function that takes out of a text what this file's header says of the patient.

    If the header cannot be read, nothing is left of any text, nor of one that is overlong.
    """
    keywords = (*_NAMES, *_NUMBERS, *_IDENTIFYING)
    values = header_texts(path, keywords)
    if values is None:
        return lambda text: _LEFT_OUT if text else ""
    stated = dict(zip(keywords, values, strict=True))
    names = [stated[keyword] for keyword in _NAMES]
    patterns = [*_DATE_OR_NUMBER, *_birth_year(stated["PatientBirthDate"])]
    patterns += [_divided(stated[keyword]) for keyword in _NUMBERS]
    patterns += [_pattern_of(word) for word in sorted(_words_of(values), key=len, reverse=True)]
    known = re.compile("|".join(filter(None, patterns)), re.IGNORECASE)
    short = [w for w in _words_of(names) if len(w) == _SHORT_WORD and w.isalpha() and w.isascii()]
    part = re.compile("|".join(short), re.IGNORECASE) if short else None

    def cut(match: re.Match[str]) -> str:
        word = match[0]
        return word if part is None or word.lower() in _ORDINARY else part.sub(_LEFT_OUT, word)

    def hide(text: str) -> str:
        if len(text) > _LONGEST:
            return _LEFT_OUT
        text = re.sub(r"[^\W_]+", cut, known.sub(_LEFT_OUT, text))
        return re.sub(rf"{_LEFT_OUT}(?:[\W_]*{_LEFT_OUT})+", _LEFT_OUT, text)

    return hide


def _words_of(values: Sequence[str]) -> set[str]:
    return {word for value in values for word in re.split(r"[\W_]+", value)}


def _pattern_of(word: str) -> str:
    """For a word, also inside of another one if it is long; nothing for a single letter."""
    if len(word) > _SHORT_WORD or not word.isascii():
        return re.escape(word)
    return rf"(?<![^\W_]){re.escape(word)}(?![^\W_])" if len(word) > 1 else ""


def _birth_year(date: str) -> list[str]:
    """For the year of birth, with or without a month in digits."""
    year = re.match(r"\d{4}", date)
    if year is None:
        return []
    return [rf"(?:(?<![^\W_])\d{{1,2}}[-./])?(?<!\d){year[0]}(?:[-./]\d{{1,2}})?(?!\d)"]


def _divided(number: str) -> str:
    """For an identifier of some length, however it is divided or joined."""
    signs = re.sub(r"[\W_]+", "", number)
    return r"[\W_]{0,3}".join(map(re.escape, signs)) if len(signs) > _SHORT_WORD else ""


def header_texts(path: Path, keywords: Sequence[str]) -> tuple[str, ...] | None:
    """Return texts of a header, empty where absent.

    Returns:
        None if the header cannot be read, or a text is beyond all measure.
    """
    try:
        header = read_header(path)
        with quiet_pydicom:
            texts = tuple(str(header.get(keyword) or "") for keyword in keywords)
    except Exception:  # pydicom raises whatever its parser stumbles over
        return None
    return texts if max(map(len, texts)) <= _LONGEST else None
