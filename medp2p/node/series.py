"""A series of a spool, and whether it may lack images.

A series with a mark in its folder is *held*: it is not translated. Every association leaves a mark
in each series that it sends to, and takes it off when it ends well. Another mark is for series in
which two versions of the same images met. What is on the disk counts: whoever removes the marks of
a series lets it go.

A series that is *settled* has got its results, and a file in its folder says of how many objects.
Nothing is done with it any more, whatever the settings, until that file is removed or objects come.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medp2p.files import flush_to_disk

_logger = logging.getLogger(__name__)

MARK = ".held-"
"""Begins the name of a mark; hidden, so no part of the series."""

TWO_VERSIONS = f"{MARK}two-versions"
"""The mark of a series that may hold images of two versions; no association takes it off."""

_SETTLED = ".settled-"
"""Begins the name of the file that says that a series is settled; its number of objects follows."""

_OTHER_VERSION = ".other-version"
"""Is in a series of which an image has come in another version, which was refused."""

State = Literal["new", "taken", "over"]
"""A series has objects that nobody has taken up, is being looked at or translated, or neither."""


@dataclass(eq=False)
class Series:
    """A series that is here.

    Attributes:
        folder: Its own.
        marks: Names of its marks.
        has_other_version: Whether an image has come in another version, which was refused.
        sources: How many associations its objects are from.
        state: What is to be done with it.
        last: When something happened to it, of `time.monotonic`.
    """

    folder: Path
    marks: set[str] = field(default_factory=set)
    has_other_version: bool = False
    sources: int = 0
    state: State = "over"
    last: float = field(default_factory=time.monotonic)

    def mark(self, name: str) -> None:
        """Leave a mark; it is on the disk when this returns.

        Raises:
            OSError: If it cannot be written.
        """
        if name not in self.marks:
            (self.folder / name).touch(mode=0o600)
            self.marks.add(name)
            flush_to_disk(self.folder)

    def take_off(self, names: set[str]) -> None:
        """Take marks off; one that cannot be removed stays, and is logged."""
        try:
            for name in self.marks & names:
                (self.folder / name).unlink(missing_ok=True)
                self.marks.discard(name)
            flush_to_disk(self.folder)
        except OSError as error:
            _logger.warning("%s: a mark cannot be removed: %s", self.name, error.strerror)

    def look_at_marks(self, kept: set[str]) -> None:
        """Forget marks that somebody has removed, but for some names."""
        for name in self.marks - kept:
            if not (self.folder / name).exists():
                self.marks.discard(name)

    def settle(self) -> None:
        """Remember that results were made of all that is here; an error is logged."""
        try:
            for name in self.folder.glob(f"{_SETTLED}*"):
                name.unlink()
            (self.folder / f"{_SETTLED}{_count(self.folder)}").touch(mode=0o600)
            flush_to_disk(self.folder)
        except OSError as error:
            _logger.warning("%s: cannot be marked as settled: %s", self.name, error.strerror)

    def note_other_version(self) -> None:
        """Remember that an image has come in another version.

        Raises:
            OSError: If that cannot be written.
        """
        (self.folder / _OTHER_VERSION).touch(mode=0o600)
        self.has_other_version = True

    def hold(self) -> None:
        """Hold it until somebody lets it go: it may hold images of two versions.

        Raises:
            OSError: If that cannot be written.
        """
        if TWO_VERSIONS not in self.marks:
            self.mark(TWO_VERSIONS)
            _logger.warning("held: %s: two versions of its images came", self.name)

    @property
    def name(self) -> str:
        """Of its folder and that of its study."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def changed(self) -> float:
        """When its folder changed, seconds since 1970; 0 if somebody has removed it."""
        try:
            return self.folder.stat().st_mtime
        except OSError:
            return 0.0


def series_left_in(folder: Path) -> Series:
    """Return a series that an earlier process has left; nobody knows where its objects are from."""
    marks = {path.name for path in folder.glob(f"{MARK}*")}
    has_other_version = (folder / _OTHER_VERSION).exists()
    is_settled = (folder / f"{_SETTLED}{_count(folder)}").exists()
    state: State = "over" if is_settled else "new"
    return Series(folder, marks, has_other_version, sources=2, state=state)


def _count(folder: Path) -> int:
    """How many objects are in a folder."""
    return sum(1 for _ in folder.glob("*.dcm"))


def held_series(folder: Path) -> dict[str, str]:
    """Return why series of a spool are held, by name; from the disk."""
    incoming = folder / "incoming"
    found: dict[str, str] = {}
    for mark in sorted(incoming.glob(f"*/*/{MARK}*")):
        name = mark.parent.relative_to(incoming).as_posix()
        if mark.name == TWO_VERSIONS:
            found[name] = "two versions of its images came"
        else:
            found.setdefault(name, "being received, broken off, or an image was refused")
    return found
