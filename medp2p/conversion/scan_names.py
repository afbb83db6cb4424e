"""Names of scans by their place: whatever files are called, fit for any file system and unique."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from medp2p.conversion.journal import JOURNAL_FOLDER

LONGEST_PART = 200
"""Bytes of a part of a name, so that suffixes fit into the 255 that file systems allow."""

_NOT_EVERYWHERE = frozenset('<>:"|?*\\')


@dataclass(frozen=True)
class Place:
    """Where a scan lies.

    Attributes:
        parts: Of its path below the searched folder: for a file without suffix, for a DICOM series
            the folder.
        tag: What tells it from others of the same path: the suffix, or the series' key.
        file: Its first file below the searched folder.
        is_series: Whether it is a DICOM series, of which a folder may hold several.
        is_scan: Whether it could be translated; others never take a scan's name.
    """

    parts: tuple[str, ...]
    tag: str
    file: str
    is_series: bool = False
    is_scan: bool = True


def unique_names(places: Sequence[Place]) -> list[str]:
    """Name every place; names differ on file systems that ignore case, too.

    No scan's name is the folder of another's, so that each can be a folder of its own. A scan keeps
    its name, whatever else is there, unless that has the same path.
    """
    short = ["/".join(map(_portable, _unreserved(place.parts))) for place in places]
    scans = [_folded(name) for name, p in zip(short, places, strict=True) if p.is_scan]
    times = Counter(scans)
    around = {parent for name in scans for parent in _parents(name)}
    names = [
        name
        if place.is_scan and name and times[_folded(name)] == 1 and _folded(name) not in around
        else _tagged(name, place)
        for name, place in zip(short, places, strict=True)
    ]
    return _with_hash_where_equal(names, places)


def hashed(name: str) -> str:
    """Return a short name that says nothing of the place."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:12]


def _tagged(name: str, place: Place) -> str:
    if place.is_series:
        return f"{name}/{place.tag}" if name else place.tag
    return f"{name}_{place.tag}" if place.tag else name


def _with_hash_where_equal(names: Sequence[str], places: Sequence[Place]) -> list[str]:
    """Change names that several have; of a scan and something else only the latter's."""
    everything = Counter(map(_folded, names))
    scans = Counter(_folded(n) for n, place in zip(names, places, strict=True) if place.is_scan)
    return [
        name
        if (scans if place.is_scan else everything)[_folded(name)] == 1
        else f"{name}-{hashed(f'{place.file} {place.tag}')[:8]}"
        for name, place in zip(names, places, strict=True)
    ]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _parents(name: str) -> Collection[str]:
    parts = name.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _unreserved(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Keep out of the folder of the journal."""
    if parts and parts[0].casefold() == JOURNAL_FOLDER:
        return (f"{parts[0]}?", *parts[1:])
    return parts


def _portable(part: str) -> str:
    """Replace what cannot be printed, or be in a name everywhere; a hash keeps names apart."""
    text = "".join(c if c.isprintable() and c not in _NOT_EVERYWHERE else "_" for c in part)
    text = text.rstrip(" .")
    if text == part and len(text.encode()) <= LONGEST_PART:
        return text
    start = text.encode()[: LONGEST_PART - 9].decode(errors="ignore")
    return f"{start}-{hashed(part)[:8]}"
