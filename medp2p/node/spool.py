"""The folder of a DICOM node: what arrived, and what is made of it, whatever ends the process.

    incoming/STUDY/SERIES/OBJECT.dcm   what arrived
    receiving/                         what has not arrived wholly
    outgoing/                          results and journal, as of `medp2p batch`
    sent/                              what the destination has

Names are hashes of UIDs. Files and folders are readable by their owner only. An object is on the
disk under its name before its sender is told so.

Every association leaves a mark in the folder of each series that it sends to. It takes its mark
off when it ends well: it was released, and nothing of the series that it sent was lost. Then it
also takes off the marks that associations which broke off earlier have left there: their sender
has come back. A series with a mark is *held*. So a part of a series is never taken for the whole,
whoever breaks off; this process, too.
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
from medp2p.node.series import MARK, TWO_VERSIONS, Series, series_left_in
from medp2p.node.settings import Limits

_logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Session:
    """One association, as the spool sees it.

    Attributes:
        number: Counts associations.
        mark: Name of its marks.
        series: Names of the series it sent to.
        gave: Names of the series of which objects are here that it has sent.
        lacking: Names of the series of which an object was refused that it has sent.
        lost_objects: Whether objects are not here that may be of any series.
        ended: Whether it has ended.
    """

    number: int
    mark: str = field(default_factory=lambda: f"{MARK}{uuid.uuid4().hex}")
    series: set[str] = field(default_factory=set)
    gave: set[str] = field(default_factory=set)
    lacking: set[str] = field(default_factory=set)
    lost_objects: bool = False
    ended: bool = False


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
        self._series: dict[str, Series] = {}
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
            try:
                self._prepare()
            except BaseException:
                self._owner.release()
                raise
        self.measure()
        return self

    def _prepare(self) -> None:
        """Make the folders, and learn what is in them."""
        for folder in (self.incoming, self.outgoing, self.sent, self._receiving):
            folder.mkdir(mode=0o700, exist_ok=True)
        for left in self._receiving.iterdir():
            _remove(left)
        self._refuse_without_links()
        flush_to_disk(self.folder)
        for folder in self.incoming.glob("*/*/"):
            series = series_left_in(folder)
            self._series[series.name] = series
            self._broken |= dict.fromkeys(series.marks - {TWO_VERSIONS}, 0)

    def _refuse_without_links(self) -> None:
        """Objects get their names by hard links, which never replace anything."""
        trial = self._receiving / "trial"
        link = self.incoming / f".trial-{uuid.uuid4().hex}"
        trial.touch(mode=0o600)
        try:
            os.link(trial, link)
        except OSError as error:
            raise OutputError(
                f"{self.folder}: its file system makes no hard links, which a spool needs: "
                f"{error.strerror}; name a folder on another disk"
            ) from error
        finally:
            link.unlink(missing_ok=True)
            trial.unlink()

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
            self._broken[session.mark] = self._sessions
            for name in session.series:
                series = self._series[name]
                series.last = time.monotonic()
                if released and not session.lost_objects and name not in session.lacking:
                    series.take_off({session.mark, *self._redeemed_by(session, series)})
            left = set[str]().union(*(series.marks for series in self._series.values()))
            self._broken = {mark: n for mark, n in self._broken.items() if mark in left}

    def _redeemed_by(self, session: Session, series: Series) -> set[str]:
        """Marks of associations that had broken off when this one began."""
        return {mark for mark in series.marks if self._broken.get(mark, math.inf) < session.number}

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
                UIDs, or the disk refuses it.
        """
        try:
            study, series, instance = received.names()
            flush_to_disk(received.path)
            with self._lock:
                one = self._touch(f"{study}/{series}", session)
                return self._place(received, one, f"{instance}.dcm", session)
        except RefusedObjectError as refusal:
            self._note_loss(refusal, session)
            raise
        except OSError as error:
            _logger.debug("unexpected", exc_info=error)
            session.lost_objects = True
            raise RefusedObjectError(OUT_OF_RESOURCES, "the disk refuses it") from error
        finally:
            received.discard()

    def _touch(self, name: str, session: Session) -> Series:
        """Leave an association's mark on a series."""
        folder = self.incoming / name
        if not folder.is_dir():
            folder.parent.mkdir(mode=0o700, exist_ok=True)
            folder.mkdir(mode=0o700)
            flush_to_disk(folder.parent)
            flush_to_disk(self.incoming)
        series = self._series.setdefault(name, Series(folder))
        series.mark(session.mark)
        session.series.add(name)
        series.last = time.monotonic()
        return series

    def _place(self, received: IncomingObject, series: Series, name: str, session: Session) -> bool:
        target = series.folder / name
        if target.exists():
            if received.digest == digest_of(target):
                return False
            self._note_other_version(series, session)
            reason = "another object of this UID is here, and is kept"
            raise RefusedObjectError(OTHER_OBJECT, reason)
        if series.has_other_version:
            series.hold()
        os.link(received.path, target)
        received.is_kept = True
        series.state = "new"
        series.sources += series.name not in session.gave
        session.gave.add(series.name)
        flush_to_disk(series.folder)
        return True

    def _note_other_version(self, series: Series, session: Session) -> None:
        """Hold a series that may have got, or lack, images of the version that came now."""
        series.note_other_version()
        is_of_several = series.state == "new" and series.sources > 1
        if is_of_several or series.name in session.gave or series.marks & self._broken.keys():
            series.hold()

    def _note_loss(self, refusal: RefusedObjectError, session: Session) -> None:
        """Remember which series lacks an object now, as far as the object says so."""
        with self._lock:
            if refusal.status == OUT_OF_RESOURCES:
                session.lost_objects = True
            elif refusal.series:
                session.lacking.add(refusal.series)
                if refusal.series in self._series:
                    self._touch(refusal.series, session)

    # Units: what is translated together, and removed together

    def take_settled(self, quiet_seconds: float, *, by_study: bool) -> list[str]:
        """Return the folders below ``incoming`` that are whole and new; once, until they change.

        Args:
            quiet_seconds: So long nothing must have come.
            by_study: Return studies, of which all series are quiet; otherwise series.
        """
        now = time.monotonic()
        with self._lock:
            for series in self._series.values():
                series.look_at_marks(self._open)
            taken = []
            for unit, members in self._units(by_study=by_study).items():
                is_quiet = all(not one.marks and now - one.last >= quiet_seconds for one in members)
                if is_quiet and any(one.state == "new" for one in members):
                    taken.append(unit)
                    for one in members:
                        one.state = "taken"
        return sorted(taken)

    def put_back(self, unit: str) -> None:
        """Let a unit be taken once more."""
        with self._lock:
            for one in self._members(unit):
                one.state = "new"

    def let_go(self, unit: str, *, is_settled: bool = False) -> None:
        """Whoever has taken a unit is done with what it held then.

        Args:
            unit: Which.
            is_settled: Whether later processes need not take it either.
        """
        with self._lock:
            members = self._members(unit)
            is_all = all(one.state != "new" for one in members)
            for one in members:
                if one.state == "taken":
                    one.state = "over"
                    if is_settled and is_all:
                        one.settle()

    def units(self, *, by_study: bool) -> list[str]:
        """Name all units that are here."""
        with self._lock:
            return sorted(self._units(by_study=by_study))

    def broken_off(self) -> list[str]:
        """Name the series that are held, and to which nobody is sending."""
        with self._lock:
            held = {name: one for name, one in self._series.items() if one.marks}
            return [name for name, one in held.items() if not one.marks & self._open]

    def remove(self, unit: str, before: float) -> bool:
        """Take away a unit's objects, if nothing is to be done with them and none is held.

        Args:
            unit: Which.
            before: Only if nothing has come since, seconds since 1970.

        Returns:
            Whether there are none any more.
        """
        with self._lock:
            members = self._members(unit)
            if any(one.marks or one.state != "over" or one.changed >= before for one in members):
                return False
            gone = self._move_away(unit)
        _remove(gone)
        return True

    def remove_held(self, name: str, before: float) -> bool:
        """Take away a series that is held, unless somebody is sending to it.

        Args:
            name: Which.
            before: Only if nothing has come since, seconds since 1970.

        Returns:
            Whether it was taken away.
        """
        with self._lock:
            one = self._series.get(name)
            if not one or not one.marks or one.marks & self._open or one.changed >= before:
                return False
            gone = self._move_away(name)
        _remove(gone)
        return True

    def _move_away(self, unit: str) -> Path:
        """Take a unit out of ``incoming`` in one step."""
        folder = self.incoming / unit
        gone = self._receiving / f"removed-{uuid.uuid4().hex}"
        if folder.is_dir():
            folder.rename(gone)
        for one in self._members(unit):
            del self._series[one.name]
        if folder.parent != self.incoming:
            with suppress(OSError):  # a study that has other series
                folder.parent.rmdir()
        return gone

    def _units(self, *, by_study: bool) -> dict[str, list[Series]]:
        units: dict[str, list[Series]] = {}
        for name, series in self._series.items():
            units.setdefault(name.partition("/")[0] if by_study else name, []).append(series)
        return units

    def _members(self, unit: str) -> list[Series]:
        if unit in self._series:
            return [self._series[unit]]
        return [one for name, one in self._series.items() if name.startswith(f"{unit}/")]


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
