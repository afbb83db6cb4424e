"""Names of scans, fit for any file system.

A file is called by its path below the tree, of which ``.nii.gz`` is left off. DICOM images are
called by their folder and ``series-KEY_KIND``: KEY is that of their series, which `medp2p inspect`
shows, and KIND is a hash of what tells one kind of image in a series from another (type, echo,
size, plane and the like). It is there even if the series holds one kind only, since another may
arrive. Of images that are there several times the copy with the fewest folders above it decides, of
two such the first in order. So a scan keeps its name whatever else arrives beside it.

What cannot stand in a name everywhere, or would look like a name of another kind, is replaced and
followed by ``~`` and a hash. So names differ, and no name is the folder of another. Names that
differ only in capitals or in how an accent is encoded stay as they are: on a file system that takes
them for one, the second result is refused, since the first is there.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from medp2p.conversion.journal import JOURNAL_FOLDER
from medp2p.conversion.summary import SUMMARY_FILE, SUMMARY_TABLE
from medp2p.io import image_suffix, is_picture

LONGEST_PART = 200
"""Bytes of a part of a name, so that suffixes fit into the 255 that file systems allow."""

_USUAL_SUFFIX = ".nii.gz"
_NOT_EVERYWHERE = frozenset('<>:"|?*\\')
_LIKE_ANOTHER_NAME = re.compile(
    r"series-[0-9a-f]{8}|.*~[0-9a-f]{8}$|.*\.dicom$", re.IGNORECASE | re.DOTALL
)
_OURS = frozenset((JOURNAL_FOLDER, SUMMARY_TABLE, SUMMARY_FILE))
_DEVICES = frozenset(
    ("con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)))
)
"""Names of no file on Windows, whatever their suffix."""


@dataclass(frozen=True)
class Place:
    """Where something lies.

    Attributes:
        folders: Below the searched folder.
        file: Name of the file; of a DICOM series empty.
        series: Its key and kind of image, ``KEY_KIND``; else empty.
    """

    folders: tuple[str, ...]
    file: str = ""
    series: str = ""

    @property
    def is_image(self) -> bool:
        """Whether it could be translated, by its name."""
        return bool(self.series or _suffix(self.file))


def name_of(place: Place) -> str:
    """Return the name of what lies there: printable, with forward slashes."""
    leaf = f"series-{place.series}" if place.series else _leaf(place.file)
    first, *others = (*map(_portable, place.folders), leaf)
    if first.casefold() in _OURS:
        first = _marked(first, first)
    return "/".join((first, *others))


def hashed(name: str) -> str:
    """Return a short name that says nothing of the place."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:12]


def _leaf(file: str) -> str:
    suffix = _suffix(file)
    stem = _portable(file.removesuffix(suffix))
    return stem if suffix == _USUAL_SUFFIX else f"{stem}{suffix}"


def _suffix(file: str) -> str:
    """The suffix of an image, as it is written; empty for anything else."""
    if is_picture(file):
        return Path(file).suffix
    return file[len(file) - len(image_suffix(file)) :]


def _portable(part: str) -> str:
    """Return what a folder, or a file without suffix, is called in names."""
    text = "".join(c if c.isprintable() and c not in _NOT_EVERYWHERE else "_" for c in part)
    text = text.rstrip(" .")
    if text.partition(".")[0].rstrip().casefold() in _DEVICES:
        text = f"_{text}"
    is_changed = text != part or len(text.encode()) > LONGEST_PART
    is_alike = bool(_LIKE_ANOTHER_NAME.match(part) or _suffix(part))
    return _marked(text, part) if is_changed or is_alike else text


def _marked(text: str, part: str) -> str:
    """Tell a part of a name from all others by a hash."""
    start = text.encode()[: LONGEST_PART - 9].decode(errors="ignore")
    return f"{start}~{hashed(part)[:8]}"
