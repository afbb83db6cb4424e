"""Which slices belong together, and where they lie.

The rules: slices of one series are grouped by what must not vary inside a volume, sorted by
ImagePositionPatient along the normal, and must then lie on one evenly spaced line. Numbers
that scanners give to slices (InstanceNumber, SliceLocation, SliceThickness) never place one.
Space is LPS millimetres here.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medp2p.errors import GeometryError, ImageReadError
from medp2p.io.dicom_files import Frame, Scan, series_of_damaged
from medp2p.io.remedies import convert_with

PIXEL_SPACING_TOLERANCE = 1e-4
"""Relative difference below which two pixel spacings are one: 0.03 mm over 256 mm."""

SAME_POSITION_MM = 0.01
"""Slices closer than this lie in one place."""

_SHOWN = """
    ORIGINAL DERIVED PRIMARY SECONDARY AXIAL LOCALIZER OTHER NONE NORM DIS2D DIS3D ND M P R I
    MAGNITUDE PHASE REAL IMAGINARY MIXED MPR VOLUME SE FFE IR T1 T2 PROTON_DENSITY DIFFUSION ADC
    FA TRACEW AVERAGE EPI FMRI PERFUSION MOSAIC WATER FAT IP OP W F IN_PHASE OUT_OF_PHASE MEAN
    STDDEV RESAMPLED PROJECTION
"""
KNOWN_IMAGE_TYPES = frozenset(_SHOWN.split())
"""Words of ImageType that are shown; others could be anything and are replaced by a hash."""

_NUMBERS_OF_VOLUMES: tuple[Callable[[Frame], float | None], ...] = (
    lambda frame: frame.acquisition_number,
    lambda frame: frame.trigger_time,
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DicomOptions:
    """Which series to read, and how far its slices may be off.

    Attributes:
        series: Series to take where there are several: the key or the number that `inspect`
            shows, or the SeriesInstanceUID.
        group: Which group of a series that holds several kinds of image, from 1.
        modality: Take only series of ``"CT"`` or ``"MR"``.
        orientation_tolerance: Direction cosines that differ by less are one orientation, of
            which the mean counts; 1e-3 is 0.25 mm at the edge of a field of 256 mm.
        position_tolerance_mm: How far a slice may lie off the line through the first and last.
        gap_tolerance: By which share of the median a gap between slices may differ from it.
        tilt_tolerance_degrees: How far the line of slices may lean from their normal.
        files: Where the series' files are known, so that nobody looks for them; else empty.
    """

    series: str | None = None
    group: int | None = None
    modality: str | None = None
    orientation_tolerance: float = 1e-3
    position_tolerance_mm: float = 0.05
    gap_tolerance: float = 0.05
    tilt_tolerance_degrees: float = 0.5
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, repr=False)
class Group:
    """Slices of one series that can be one volume, or one time series.

    Attributes:
        frames: The slices, in no order.
    """

    frames: tuple[Frame, ...]

    @property
    def first(self) -> Frame:
        """A slice that speaks for the group."""
        return self.frames[0]

    @property
    def is_localizer(self) -> bool:
        """Whether these are scout images, which are no part of any volume."""
        return "LOCALIZER" in _image_types(self.first)

    @property
    def is_mosaic(self) -> bool:
        """Whether each image is a Siemens mosaic of many slices."""
        return "MOSAIC" in _image_types(self.first)

    @property
    def label(self) -> str:
        """What tells the group from others of its series, in words, without patient data."""
        frame = self.first
        number, time = frame.echo
        words = [f"{len(self.frames)} slices of {frame.file.columns} × {frame.file.rows}"]
        if frame.pixel_spacing_mm:
            words.append(" × ".join(f"{v:.4g}" for v in reversed(frame.pixel_spacing_mm)) + " mm")
        if frame.orientation:
            words.append(plane_name(frame.orientation))
        if number is not None or time is not None:
            words.append(f"echo {number or 1:.0f}" + (f" at {time:.4g} ms" if time else ""))
        if frame.b_value is not None:
            words.append(f"b {frame.b_value:.4g}")
        for name, value in frame.settings:
            shown = _disguised(value) if isinstance(value, str) else f"{value:.4g}"
            words.append(f"{name} {shown}")
        kinds = (w if w in KNOWN_IMAGE_TYPES else _disguised(w) for w in _image_types(frame))
        return ", ".join([*words, "\\".join(kinds)])


def series_key(series_uid: str) -> str:
    """Return the key that stands for a SeriesInstanceUID."""
    return hashlib.sha256(series_uid.encode()).hexdigest()[:8]


@dataclass(frozen=True, repr=False)
class Series:
    """The slices under one SeriesInstanceUID.

    Attributes:
        groups: By what tells them apart, the largest first; scouts are among them.
    """

    groups: tuple[Group, ...]

    @property
    def key(self) -> str:
        """A short name for the series that gives nothing away: a hash of its UID."""
        return series_key(self.groups[0].first.file.series_uid)

    @property
    def modality(self) -> str | None:
        """``"CT"`` or ``"MR"``, None for images that are not read."""
        return self.groups[0].first.file.modality

    @property
    def label(self) -> str:
        """The series in words, without patient data."""
        first = self.groups[0].first.file
        number = f"number {first.series_number}, " if first.series_number is not None else ""
        return f"{self.key} ({number}{self.modality or first.kind}, {self.groups[0].label})"


@dataclass(frozen=True, repr=False)
class Stack:
    """The slices of one volume in order along their normal.

    Attributes:
        frames: n slices.
        row: Unit vector along a row (growing column index), shape (3,).
        column: Unit vector along a column (growing row index).
        positions_mm: Centre of each slice's first pixel, (n, 3).
    """

    frames: tuple[Frame, ...]
    row: NDArray[np.float64]
    column: NDArray[np.float64]
    positions_mm: NDArray[np.float64]

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector along which slices are counted."""
        normal = np.cross(self.row, self.column)
        result: NDArray[np.float64] = normal / np.linalg.norm(normal)
        return result

    @property
    def heights_mm(self) -> NDArray[np.float64]:
        """Position of each slice along the normal, rising, (n,)."""
        result: NDArray[np.float64] = self.positions_mm @ self.normal
        return result

    @property
    def step_mm(self) -> NDArray[np.float64]:
        """From one slice to the next: (last - first) / (n - 1); of one slice its thickness."""
        if len(self.frames) == 1:
            return self.normal * (self.frames[0].thickness_mm or 0.0)
        step: NDArray[np.float64] = self.positions_mm[-1] - self.positions_mm[0]
        return step / (len(self.frames) - 1)


def group_series(frames: Sequence[Frame], options: DicomOptions) -> list[Series]:
    """Sort slices into series, and those into groups that can be volumes."""
    by_series: dict[tuple[str, str, str], list[Frame]] = {}
    for frame in frames:
        file = frame.file
        key = (file.patient, file.study_uid, file.series_uid)
        by_series.setdefault(key, []).append(frame)
    return [Series(_groups(members, options)) for members in by_series.values()]


def refuse_shared_uids(path: Path, found: Sequence[Series]) -> None:
    """Refuse one SeriesInstanceUID for several patients or studies.

    Raises:
        ImageReadError: Naming a file of each.
    """
    owners: dict[str, Series] = {}
    for series in found:
        file = series.groups[0].first.file
        other = owners.setdefault(file.series_uid, series).groups[0].first.file
        if other is not file:
            raise ImageReadError(
                f"{path}: {file.path} and {other.path} are of two patients or studies, and under "
                "one SeriesInstanceUID; separate them"
            )


def choose_group(path: Path, scan: Scan, options: DicomOptions) -> Group:
    """Find the one group of slices that is meant.

    Args:
        path: What was searched, for messages.
        scan: What was found there.
        options: The user's choice and tolerances.

    Raises:
        ImageReadError: If nothing fits, several do, or a file there is damaged.
    """
    damaged_files = [(p, why) for p, why in scan.damaged if not _is_of_other_series(p, options)]
    if damaged_files:
        damaged, reason = damaged_files[0]
        more = f" ({len(damaged_files)} such files)" if len(damaged_files) > 1 else ""
        raise ImageReadError(
            f"{damaged}: {reason}{more}; get it again, or move it elsewhere if it does not matter"
        )
    series = _chosen_series(path, scan, group_series(scan.frames, options), options)
    left_out = [reason for _, reason in scan.skipped]
    left_out += [frame.file.kind for frame in scan.frames if not frame.file.modality]
    if left_out:
        _logger.warning(
            "series %s: left out beside it: %s; if these were slices, it is not whole",
            series.key,
            _counted(left_out),
        )
    return _chosen_group(path, series, options)


def _is_of_other_series(damaged: Path, options: DicomOptions) -> bool:
    """Whether a damaged file says that it belongs to another series than the one chosen by key."""
    if not options.series or not re.fullmatch("[0-9a-f]{8}", options.series):
        return False
    uid = series_of_damaged(damaged)
    return bool(uid) and series_key(uid) != options.series


def choose_stack(
    path: Path, group: Group, volume_index: int | None, options: DicomOptions
) -> Stack:
    """Order the slices of a group, and take one volume of a time series.

    Raises:
        ImageReadError: If positions hold several images and no volume was chosen.
        GeometryError: If a header does not say where its slice lies.
    """
    if group.is_mosaic:
        raise ImageReadError(
            f"{group.first.file.path}: a Siemens mosaic (many slices in one image); convert the "
            "series with dcm2niix and take its NIfTI file"
        )
    for frame in group.frames:
        _check_place(frame, options)
    frames = without_copies(group.frames)
    if len(frames) < len(group.frames):
        copies = len(group.frames) - len(frames)
        key = series_key(group.first.file.series_uid)
        _logger.warning("series %s: %d image(s) are there twice and count once", key, copies)
    row, column = _mean_directions(frames)
    normal = np.cross(row, column)
    frames = sorted(frames, key=lambda frame: float(np.dot(frame.position_mm or (), normal)))
    frames = _one_volume(path, frames, normal, volume_index)
    positions = np.array([frame.position_mm for frame in frames], dtype=np.float64)
    if len(frames) == 1 and not (frames[0].thickness_mm or 0) > 0:
        raise GeometryError(
            f"{path}: a single slice without SliceThickness, so nothing says how thick it is; "
            "get the whole series"
        )
    return Stack(tuple(frames), row, column, positions)


def without_copies(frames: Sequence[Frame]) -> list[Frame]:
    """Leave out files that are there twice.

    Raises:
        ImageReadError: If two different images have one UID.
    """
    kept: dict[tuple[str, int], Frame] = {}
    copies: dict[Path, Path] = {}
    for frame in frames:
        first = kept.setdefault(
            (frame.file.sop_instance_uid or str(frame.file.path), frame.index), frame
        )
        if first is not frame:
            copies[frame.file.path] = first.file.path
    for copy, original in copies.items():
        if not cmp(copy, original, shallow=False):
            raise ImageReadError(
                f"{copy}: another image than {original} under the same SOPInstanceUID; "
                "keep the right one"
            )
    return list(kept.values())


def irregularities(stack: Stack, options: DicomOptions) -> list[str]:
    """Say in words what keeps slices from being one even stack, and which option helps."""
    if len(stack.frames) < 2:
        return []
    return [*_uneven_gaps(stack, options), *_tilt(stack, options), *_off_line(stack, options)]


def _disguised(word: str) -> str:
    return f"#{hashlib.sha256(word.encode()).hexdigest()[:4]}"


def plane_name(orientation: Sequence[float]) -> str:
    """Axial, coronal or sagittal by the nearest axis; ``oblique`` if over 5 degrees off."""
    normal = np.cross(orientation[:3], orientation[3:])
    length = float(np.linalg.norm(normal))
    if not length > 0:
        return "no plane"
    axis = int(np.argmax(np.abs(normal)))
    name = ("sagittal", "coronal", "axial")[axis]
    return name if abs(normal[axis]) / length > np.cos(np.radians(5)) else f"oblique {name}"


def _image_types(frame: Frame) -> tuple[str, ...]:
    return frame.frame_type or frame.file.image_type


def _groups(frames: list[Frame], options: DicomOptions) -> tuple[Group, ...]:
    groups: list[list[Frame]] = []
    for frame in frames:
        home = next((group for group in groups if _alike(group[0], frame, options)), None)
        if home is None:
            groups.append([frame])
        else:
            home.append(frame)
    groups.sort(key=_rank)
    return tuple(Group(tuple(group)) for group in groups)


def _rank(group: list[Frame]) -> tuple[object, ...]:
    """An order of groups that does not hang on the names of files: the largest first."""
    first = group[0]
    echo = [-1.0 if value is None else value for value in first.echo]
    b_value = -1.0 if first.b_value is None else first.b_value
    place = [*(first.orientation or ()), *(first.pixel_spacing_mm or ())]
    kind = (echo, b_value, first.settings, _image_types(first))
    return (-len(group), *kind, place, first.file.frame_of_reference)


def _alike(a: Frame, b: Frame, options: DicomOptions) -> bool:
    """Whether two slices of a series can lie in one volume."""
    return (
        a.file.sop_class_uid == b.file.sop_class_uid
        and a.file.frame_of_reference == b.file.frame_of_reference
        and (a.file.rows, a.file.columns) == (b.file.rows, b.file.columns)
        and (a.echo, a.b_value, a.settings) == (b.echo, b.b_value, b.settings)
        and _image_types(a) == _image_types(b)
        and _close(a.orientation, b.orientation, options.orientation_tolerance)
        and _close(a.pixel_spacing_mm, b.pixel_spacing_mm, PIXEL_SPACING_TOLERANCE, relative=True)
    )


def _close(
    a: tuple[float, ...] | None,
    b: tuple[float, ...] | None,
    tolerance: float,
    *,
    relative: bool = False,
) -> bool:
    if a is None or b is None:
        return a is b
    return all(
        abs(x - y) <= tolerance * (abs(x) if relative else 1) for x, y in zip(a, b, strict=True)
    )


def _chosen_series(path: Path, scan: Scan, found: list[Series], options: DicomOptions) -> Series:
    readable = [series for series in found if series.modality]
    refuse_shared_uids(path, readable)
    if not readable:
        raise ImageReadError(f"{path}: {_nothing_found(scan, found)}")
    if options.modality:
        right = [series for series in readable if series.modality == options.modality]
        if not right:
            raise ImageReadError(
                f"{path}: found {readable[0].modality}, expected {options.modality}; "
                "choose another scan or another model"
            )
        readable = right
    if options.series is not None:
        return _series_named(path, readable, options.series)
    whole = [s for s in readable if not all(group.is_localizer for group in s.groups)] or readable
    if len(whole) > 1:
        listed = "; ".join(series.label for series in whole[:10])
        raise ImageReadError(
            f"{path}: {len(whole)} series, expected one; choose one: "
            f"{convert_with(path, '--series KEY')}, of: {listed}"
            + ("; …" if len(whole) > 10 else "")
        )
    return whole[0]


def _series_named(path: Path, found: list[Series], name: str) -> Series:
    matching = [
        series
        for series in found
        if name in (series.key, str(series.groups[0].first.file.series_number))
        or name == series.groups[0].first.file.series_uid
    ]
    if len(matching) != 1:
        listed = "; ".join(series.label for series in (matching or found)[:10])
        raise ImageReadError(
            f"{path}: {len(matching)} series answer to {name}, expected one; "
            f"choose one by its key: {listed}"
        )
    return matching[0]


def _nothing_found(scan: Scan, found: list[Series]) -> str:
    if found:
        kinds = _counted(series.groups[0].first.file.kind for series in found)
        return f"no CT or MR images, only {kinds}; expected a CT or MR series"
    if scan.skipped:
        reasons = _counted(reason for _, reason in scan.skipped)
        return f"no DICOM images; files found: {reasons}; expected a CT or MR series"
    return "an empty folder; expected a DICOM series"


def _counted(words: Iterable[str]) -> str:
    return ", ".join(f"{count} × {word}" for word, count in Counter(words).most_common())


def _chosen_group(path: Path, series: Series, options: DicomOptions) -> Group:
    images = [group for group in series.groups if group.first.file.modality]
    groups = [group for group in images if not group.is_localizer]
    scouts = sum(len(group.frames) for group in images if group.is_localizer)
    if not groups:
        raise ImageReadError(f"{path}: only localizers (scout images); expected a CT or MR volume")
    if scouts:
        _logger.warning("series %s: %d localizer image(s) left out", series.key, scouts)
    if options.group is not None:
        if not 1 <= options.group <= len(groups):
            raise ImageReadError(
                f"{path}: has no group {options.group}; they are numbered 1 to {len(groups)}"
            )
        return groups[options.group - 1]
    if len(groups) > 1:
        listed = "; ".join(f"{i}: {label}" for i, label in enumerate(_labels(groups[:10]), 1))
        raise ImageReadError(
            f"{path}: one series with {len(groups)} kinds of image, expected one; choose one: "
            f"{convert_with(path, '--group N')}, of: {listed}" + ("; …" if len(groups) > 10 else "")
        )
    return groups[0]


def _labels(groups: Sequence[Group]) -> list[str]:
    """Labels that differ: with the frame of reference where nothing else does."""
    labels = [group.label for group in groups]
    if len(set(labels)) == len(labels):
        return labels
    frames = (_disguised(group.first.file.frame_of_reference) for group in groups)
    return [
        f"{label}, frame of reference {frame}" for label, frame in zip(labels, frames, strict=True)
    ]


def _check_place(frame: Frame, options: DicomOptions) -> None:
    path = frame.file.path
    stated = {
        "ImagePositionPatient": frame.position_mm,
        "ImageOrientationPatient": frame.orientation,
        "PixelSpacing": frame.pixel_spacing_mm,
    }
    missing = [name for name, value in stated.items() if value is None]
    if missing:
        raise GeometryError(
            f"{path}: the header has no {' and no '.join(missing)}, so nothing says where the "
            "slice lies; get the original series from the scanner or PACS"
        )
    row, column = np.array(frame.orientation).reshape(2, 3)
    lengths = np.linalg.norm([row, column], axis=1)
    off = max(float(np.abs(lengths - 1).max()), abs(float(row @ column)))
    if not off <= options.orientation_tolerance:
        raise GeometryError(
            f"{path}: ImageOrientationPatient is not two perpendicular unit vectors (off by "
            f"{off:.2g}, expected at most {options.orientation_tolerance:g}); get the original "
            "series from the scanner or PACS, or allow it with --orientation-tolerance"
        )
    if min(frame.pixel_spacing_mm or (0,)) <= 0:
        raise GeometryError(
            f"{path}: PixelSpacing is not above 0; get the original series from the scanner or PACS"
        )


def _mean_directions(
    frames: Sequence[Frame],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean = np.mean([frame.orientation or () for frame in frames], axis=0)
    row, column = mean[:3], mean[3:]
    return row / np.linalg.norm(row), column / np.linalg.norm(column)


def _one_volume(
    path: Path, frames: list[Frame], normal: NDArray[np.float64], volume_index: int | None
) -> list[Frame]:
    """Take one volume from slices that are sorted along the normal.

    Volumes are numbered by temporal position, and where several lie at one, further by what
    `_number_of_volumes` finds.
    """
    by_time: dict[float, list[Frame]] = {}
    for frame in frames:
        by_time.setdefault(frame.temporal_position or 0.0, []).append(frame)
    volumes = [
        volume for time in sorted(by_time) for volume in _volumes(path, by_time[time], normal)
    ]
    count = len(volumes)
    if volume_index is None and count > 1:
        raise ImageReadError(
            f"{path}: {count} volumes (a time series, or several contrasts) in one series, "
            f"expected one; choose one, 0 to {count - 1}: {convert_with(path, '--volume K')}"
        )
    if volume_index is not None and not 0 <= volume_index < count:
        raise ImageReadError(
            f"{path}: has no volume {volume_index}; they are numbered 0 to {count - 1}"
        )
    return volumes[volume_index or 0]


def _volumes(path: Path, frames: list[Frame], normal: NDArray[np.float64]) -> list[list[Frame]]:
    """Split sorted slices into volumes that have one slice at each position."""
    places = _places(frames, normal)
    count = max(len(place) for place in places)
    if any(len(place) != count for place in places):
        several = next(place for place in places if len(place) == count)
        raise ImageReadError(
            f"{several[1].file.path}: lies where {several[0].file.path} lies, with other pixels, "
            "and not every position has as many images; keep one image for each position"
        )
    if count == 1:
        return [frames]
    number = _number_of_volumes(path, places, count)
    ordered = [sorted(place, key=number) for place in places]
    return [[place[k] for place in ordered] for k in range(count)]


def _places(frames: list[Frame], normal: NDArray[np.float64]) -> list[list[Frame]]:
    """Group sorted slices that lie in one place."""
    places: list[list[Frame]] = []
    last = -np.inf
    for frame in frames:
        height = float(np.dot(frame.position_mm or (), normal))
        if places and height - last < SAME_POSITION_MM:
            places[-1].append(frame)
        else:
            places.append([frame])
            last = height
    return places


def _number_of_volumes(
    path: Path, places: list[list[Frame]], count: int
) -> Callable[[Frame], float]:
    """Find what numbers volumes without temporal positions, or else the order of the instances."""
    for number in _NUMBERS_OF_VOLUMES:
        sets = {tuple(sorted(_known(map(number, place)))) for place in places}
        if len(sets) == 1 and len(set(next(iter(sets)))) == count:
            return lambda frame, number=number: number(frame) or 0.0  # type: ignore[misc]
    numbered = {
        number: i
        for i, place in enumerate(places)
        for number in _known(frame.instance_number for frame in place)
    }
    visits = [numbered[number] for number in sorted(numbered)]
    by_volume = [sorted(visits[i : i + len(places)]) for i in range(0, len(visits), len(places))]
    by_place = [set(visits[i : i + count]) for i in range(0, len(visits), count)]
    one_by_one = all(block == list(range(len(places))) for block in by_volume)
    place_by_place = all(len(block) == 1 for block in by_place)
    if len(visits) != count * len(places) or not (one_by_one or place_by_place):
        raise ImageReadError(
            f"{path}: {count} images at each position, and nothing tells which belong together; "
            "separate them by hand"
        )
    return lambda frame: frame.instance_number or 0.0


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _uneven_gaps(stack: Stack, options: DicomOptions) -> list[str]:
    gaps = np.diff(stack.heights_mm)
    median = float(np.median(gaps))
    jitter = min(2 * options.position_tolerance_mm, 0.5 * median)
    limit = max(options.gap_tolerance * median, jitter)
    worst = int(np.argmax(np.abs(gaps - median)))
    if abs(gaps[worst] - median) <= limit:
        return []
    where = f"between slices {worst + 1} and {worst + 2} of {len(stack.frames)}"
    multiples = gaps / median
    whole = np.abs(multiples - np.rint(multiples)) <= limit / median
    few = np.count_nonzero(multiples > 1.5) <= len(gaps) / 4
    if whole.all() and multiples.min() > 0.5 and few:
        missing = int(np.rint(multiples - 1).sum())
        return [
            f"{missing} slice(s) missing, first {where} (gap {gaps[worst]:.4g} mm, median "
            f"{median:.4g} mm); get them, or interpolate them with --resample"
        ]
    return [
        f"the gap {where} is {gaps[worst]:.4g} mm, the median {median:.4g} mm; expected one "
        "spacing; make it even with --resample, or allow it with --gap-tolerance and "
        "--position-tolerance"
    ]


def _tilt(stack: Stack, options: DicomOptions) -> list[str]:
    step = stack.step_mm
    cosine = float(step @ stack.normal / np.linalg.norm(step))
    degrees = float(np.degrees(np.arccos(min(1.0, cosine))))
    if degrees <= options.tilt_tolerance_degrees:
        return []
    return [
        f"slices lean by {degrees:.2f} degrees from their normal (a tilted gantry), expected at "
        f"most {options.tilt_tolerance_degrees:g}; straighten them with --resample"
    ]


def _off_line(stack: Stack, options: DicomOptions) -> list[str]:
    count = len(stack.frames)
    line = stack.positions_mm[0] + np.arange(count)[:, None] * stack.step_mm
    distances = np.linalg.norm(stack.positions_mm - line, axis=1)
    limit = options.position_tolerance_mm
    worst = int(np.argmax(distances))
    if distances[worst] <= limit:
        return []
    return [
        f"slice {worst + 1} of {count} lies {distances[worst]:.3g} mm off the line through the "
        f"others, expected at most {limit:g}; allow it with --position-tolerance, or put it right "
        "with --resample"
    ]
