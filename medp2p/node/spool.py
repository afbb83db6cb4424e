"""The folder of a DICOM node: what arrived, and what is made of it, whatever ends the process.

    incoming/STUDY/SERIES/OBJECT.dcm   what arrived
    receiving/                         what has not arrived wholly
    outgoing/                          results and journal, as of `medp2p batch`
    sent/                              what the destination has

Names are hashes of UIDs. Files and folders are readable by their owner only. An object is on the
disk under its name before its sender is told so.

Every association leaves a mark in the folder of each series that it sends to. It takes its marks
off when it ends well: it was released, and nothing that it sent was lost. Then it also takes off
the marks of associations that broke off earlier and had sent to a series that it sends to: their
sender has come back. A series with a mark is *held*. So a part of a series is never taken for the
whole, whoever breaks off; this process, too.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout
from pydicom.uid import UID

from medp2p.errors import OutputError
from medp2p.files import flush_to_disk, output_errors
from medp2p.node.objects import (
    OTHER_OBJECT,
    OUT_OF_RESOURCES,
    IncomingObject,
    RefusedObjectError,
    digest_of,
)
from medp2p.node.settings import Limits

_logger = logging.getLogger(__name__)

MARK = ".held-"
"""Begins the name of an association's mark; hidden, so no part of the series."""


@dataclass(eq=False)
class Session:
    """One association, as the spool sees it.

    Attributes:
        number: Counts associations.
        mark: Name of its marks.
        series: Names of the series it sent to.
        lost_objects: Whether something that it wanted to send is not here.
        ended: Whether it has ended.
    """

    number: int
    mark: str = field(default_factory=lambda: f"{MARK}{uuid.uuid4().hex}")
    series: set[str] = field(default_factory=set)
    lost_objects: bool = False
    ended: bool = False


@dataclass(eq=False)
class _Series:
    """A series that is here.

    Attributes:
        marks: Of associations that sent to it and have not ended well.
        is_new: Whether it has objects that nobody has taken up.
        last: When something happened to it, of `time.monotonic`.
    """

    marks: set[str] = field(default_factory=set)
    is_new: bool = True
    last: float = -math.inf


class Spool:
    """A spool, of which only one process at a time can be in charge; for use as a context.

    Args:
        folder: Made if it is not there.
        limits: How much may lie in it.

    Raises:
        OutputError: If another process is in charge, or it cannot be written.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self.incoming = folder / "incoming"
        self.outgoing = folder / "outgoing"
        self.sent = folder / "sent"
        self._receiving = folder / "receiving"
        self._limits = limits
        self._lock = threading.RLock()
        self._owner = FileLock(folder / "lock", timeout=0)
        self._series: dict[str, _Series] = {}
        self._sessions = 0
        self._open: set[str] = set()
        self._broken: dict[str, int] = {}  # mark -> how many had begun when it broke off
        self._used = 0

    def __enter__(self) -> Spool:
        with output_errors(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._owner.acquire()
            except Timeout:
                raise OutputError(
                    f"{self.folder}: another `medp2p serve` is in charge of it; name another spool"
                ) from None
            for folder in (self.incoming, self.outgoing, self.sent, self._receiving):
                folder.mkdir(mode=0o700, exist_ok=True)
            for left in self._receiving.iterdir():
                _remove(left)
            flush_to_disk(self.folder)
            for series in self.incoming.glob("*/*/"):
                marks = {path.name for path in series.glob(f"{MARK}*")}
                self._series[series.relative_to(self.incoming).as_posix()] = _Series(marks)
                self._broken |= dict.fromkeys(marks, 0)
        self.measure()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._owner.release()

    # Associations

    def begin(self) -> Session:
        """An association begins."""
        with self._lock:
            self._sessions += 1
            session = Session(self._sessions)
            self._open.add(session.mark)
        return session

    def end(self, session: Session, *, released: bool) -> None:
        """An association has ended; only the first time counts.

        Args:
            session: Which.
            released: Whether its caller ended it in order; otherwise it may have wanted to send
                more.
        """
        with self._lock:
            if session.ended:
                return
            session.ended = True
            self._open.discard(session.mark)
            for name in session.series:
                self._series[name].last = time.monotonic()
            if released and not session.lost_objects:
                self._take_off({session.mark, *self._redeemed_by(session)})
            elif session.series:
                self._broken[session.mark] = self._sessions

    def _redeemed_by(self, session: Session) -> set[str]:
        """Marks of associations that had broken off when this one began to send to their series."""
        marks = set[str]().union(*(self._series[name].marks for name in session.series))
        return {mark for mark in marks if self._broken.get(mark, math.inf) < session.number}

    def _take_off(self, marks: set[str]) -> None:
        for name, series in self._series.items():
            for mark in series.marks & marks:
                (self.incoming / name / mark).unlink(missing_ok=True)
            if series.marks & marks:
                flush_to_disk(self.incoming / name)
                series.marks -= marks
        for mark in marks:
            self._broken.pop(mark, None)

    # Objects

    def receive(self, sop_class: UID, sop_instance: UID, transfer_syntax: UID) -> IncomingObject:
        """Begin a file for an object that is about to arrive."""
        path = self._receiving / f"{uuid.uuid4().hex}.dcm"
        most = self._limits.object_bytes
        return IncomingObject(path, self._reserve, most, sop_class, sop_instance, transfer_syntax)

    def measure(self) -> None:
        """Count the bytes in the spool, which results add to as well."""
        used = sum(
            _size(Path(at) / name) for at, _, names in os.walk(self.folder) for name in names
        )
        with self._lock:
            self._used = used

    def _reserve(self, size: int) -> bool:
        """Count bytes that will be written, if there is room; negative ones are given back."""
        is_free = size < 0 or shutil.disk_usage(self.folder).free >= self._limits.free_bytes + size
        with self._lock:
            if not is_free or (size > 0 and self._used + size > self._limits.spool_bytes):
                return False
            self._used += size
        return True

    def keep(self, received: IncomingObject, session: Session) -> bool:
        """Give a whole object its place; it is on the disk when this returns.

        Returns:
            Whether it was new; the same object again is no harm.

        Raises:
            RefusedObjectError: If it is damaged, is not what was announced, another object has its
                UID, or the disk refuses it.
        """
        try:
            study, series, instance = received.names()
            flush_to_disk(received.path)
            with self._lock:
                name = f"{study}/{series}"
                self._touch(name, session)
                is_new = self._place(received, self.incoming / name / f"{instance}.dcm")
                self._series[name].is_new |= is_new
        except OSError as error:
            _logger.debug("unexpected", exc_info=error)
            raise RefusedObjectError(OUT_OF_RESOURCES, "the disk refuses it") from error
        finally:
            received.discard()
        return is_new

    def _touch(self, name: str, session: Session) -> None:
        """Leave an association's mark on a series."""
        folder = self.incoming / name
        if not folder.is_dir():
            folder.parent.mkdir(mode=0o700, exist_ok=True)
            folder.mkdir(mode=0o700)
            flush_to_disk(folder.parent)
            flush_to_disk(self.incoming)
        series = self._series.setdefault(name, _Series(is_new=False))
        if session.mark not in series.marks:
            (folder / session.mark).touch(mode=0o600)
            series.marks.add(session.mark)
            session.series.add(name)
            flush_to_disk(folder)
        series.last = time.monotonic()

    def _place(self, received: IncomingObject, target: Path) -> bool:
        try:
            os.link(received.path, target)
        except FileExistsError:
            if received.digest == digest_of(target):
                return False
            raise RefusedObjectError(
                OTHER_OBJECT, "another object of this UID is here, and is kept", is_lost=False
            ) from None
        received.is_kept = True
        flush_to_disk(target.parent)
        return True

    # Units: what is translated together, and removed together

    def take_settled(self, quiet_seconds: float, *, by_study: bool) -> list[str]:
        """Return the folders below ``incoming`` that are whole and new; once, until they change.

        Args:
            quiet_seconds: So long nothing must have come.
            by_study: Return studies, of which all series are quiet; otherwise series.
        """
        now = time.monotonic()
        with self._lock:
            units = self._units(by_study=by_study)
            taken = []
            for unit, members in units.items():
                is_quiet = all(not one.marks and now - one.last >= quiet_seconds for one in members)
                if is_quiet and any(one.is_new for one in members):
                    taken.append(unit)
                    for one in members:
                        one.is_new = False
        return sorted(taken)

    def put_back(self, unit: str) -> None:
        """Let a unit be taken once more."""
        with self._lock:
            for name, series in self._series.items():
                if name == unit or name.startswith(f"{unit}/"):
                    series.is_new = True

    def _units(self, *, by_study: bool) -> dict[str, list[_Series]]:
        units: dict[str, list[_Series]] = {}
        for name, series in self._series.items():
            units.setdefault(name.partition("/")[0] if by_study else name, []).append(series)
        return units

    def broken_off(self) -> list[str]:
        """Name the series that may lack objects, and to which none are being sent."""
        with self._lock:
            return [
                name
                for name, one in self._series.items()
                if one.marks and not one.marks & self._open
            ]

    def remove(self, unit: str) -> bool:
        """Take away a unit's objects, unless more are coming or nobody has taken up the last ones.

        Returns:
            Whether there are none any more.
        """
        folder = self.incoming / unit
        gone = self._receiving / f"removed-{uuid.uuid4().hex}"
        with self._lock:
            members = self._members(unit)
            for one in members.values():
                if one.marks & self._open or (one.is_new and not one.marks):
                    return False
            if folder.is_dir():
                folder.rename(gone)
            for name in members:
                del self._series[name]
            if folder.parent != self.incoming:
                with suppress(OSError):  # a study that has other series
                    folder.parent.rmdir()
        _remove(gone)
        return True

    def _members(self, unit: str) -> dict[str, _Series]:
        return {
            name: series
            for name, series in self._series.items()
            if name == unit or name.startswith(f"{unit}/")
        }


def held_series(folder: Path) -> list[str]:
    """Name the series of a spool that may lack objects, or to which some are being sent."""
    incoming = folder / "incoming"
    marks = incoming.glob(f"*/*/{MARK}*")
    return sorted({mark.parent.relative_to(incoming).as_posix() for mark in marks})


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
