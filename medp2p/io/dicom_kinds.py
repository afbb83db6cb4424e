"""What a series is beyond its modality: scouts, images made of others, series that lost a file."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from pydicom.filereader import read_partial

from medp2p.io.dicom_files import Scan, quiet_pydicom, series_of_damaged
from medp2p.io.dicom_series import Group, Series

_SCOUTS = re.compile(
    r"(?<![a-z])(locali[sz]er|scout|survey|topogram|scanogram|smartprep|test bolus|bolus track)",
    re.IGNORECASE,
)
_MADE_OF_OTHERS = {
    "projection": re.compile(r"projection|(?<![a-z])(mip|minip|mnip)(?![a-z])", re.IGNORECASE),
    "subtraction": re.compile(r"(?<![a-z])(sub|subtraction)(?![a-z-])", re.IGNORECASE),
    "reformatted": re.compile(r"(?<![a-z])(mpr|reformatted|resampled)(?![a-z])", re.IGNORECASE),
}
_CONTENT_DATE = 0x00080023
_HEAD_BYTES = 1 << 16
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")


def is_scout(group: Group) -> bool:
    """Say whether these are scout images, by their type or their description."""
    return group.is_localizer or bool(_SCOUTS.search(group.first.file.description))


def image_type(group: Group) -> tuple[str, ...]:
    """Return FrameType of an enhanced image, else ImageType."""
    return group.first.frame_type or group.first.file.image_type


def made_of_others(group: Group) -> str:
    """Say how images were made of others, by their type or their description.

    Returns:
        ``"projection"``, ``"subtraction"`` or ``"reformatted"``; empty for what a scanner measured,
        as far as known.
    """
    text = " ".join((*image_type(group), group.first.file.description)).replace("_", " ")
    return next((kind for kind, words in _MADE_OF_OTHERS.items() if words.search(text)), "")


def first_texts(path: Path, keywords: Sequence[str]) -> tuple[str, ...] | None:
    """Return texts of a header up to the dates (0008,0023), empty where absent.

    That is a tenth of the work of a whole header.

    Returns:
        None if the header cannot be read.
    """
    try:
        with path.open("rb") as file, quiet_pydicom:
            head = BytesIO(file.read(_HEAD_BYTES))
            header = read_partial(head, lambda tag, *_: tag > _CONTENT_DATE, force=True)
            return tuple(str(header.get(keyword) or "") for keyword in keywords)
    except Exception:  # pydicom raises whatever its parser stumbles over
        return None


def lost_files(scan: Scan) -> list[tuple[Path, str]]:
    """List files that should have been DICOM and are not, or are damaged."""
    no_dicom = [
        (path, reason)
        for path, reason in scan.skipped
        if reason == "DICOM without SOPClassUID"
        or (
            reason in ("not DICOM", "0 bytes", "a link to nothing")
            and path.suffix.lower() in _DICOM_SUFFIXES
        )
    ]
    return [*scan.damaged, *no_dicom]


def damage_by_series(
    scan: Scan, found: Sequence[Series]
) -> tuple[dict[int, list[tuple[Path, str]]], list[tuple[Path, str]]]:
    """Find the series that each lost file belongs to, by its header or by its folder.

    A folder tells it only where all of it is of one patient.

    Returns:
        By the ``id`` of a series its lost files, each with the reason; and those of no series.
    """
    by_uid: dict[str, list[Series]] = defaultdict(list)
    by_folder: dict[Path, list[Series]] = defaultdict(list)
    for series in found:
        by_uid[series.groups[0].first.file.series_uid].append(series)
        for folder in {frame.file.path.parent for group in series.groups for frame in group.frames}:
            by_folder[folder].append(series)
    damage: dict[int, list[tuple[Path, str]]] = defaultdict(list)
    of_nobody = []
    for path, reason in lost_files(scan):
        beside = by_folder[path.parent]
        if len({series.groups[0].first.file.patient for series in beside}) > 1:
            beside = []
        owners = by_uid.get(series_of_damaged(path), beside)
        for series in owners:
            damage[id(series)].append((path, reason))
        if not owners:
            of_nobody.append((path, reason))
    return damage, of_nobody
