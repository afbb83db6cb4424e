"""Who works on which scan: any number of runs may share an output folder.

A claim is a file that only one run can make (``O_EXCL``). Its run touches it every few seconds;
one that was not touched for the length of the lease has expired. An expired claim is never
renamed or removed: who takes the scan over makes the claim with the next number, which again
only one run can do, and numbers are never used twice. Before a result gets its name, its run
looks whether there is a later claim than its own.

Promised, also on network file systems that create files exclusively (NFS 3 and later, Lustre,
CephFS): no two living runs hold a claim on a scan; what a dead run held is free after the lease,
and at once if it died on this machine. Time is the file system's own, read from a file that was
just touched, so clocks may differ from machine to machine.

Not promised: a run that stands still for longer than the lease (a stopped process, a network
that was gone) loses its claim, and its scan may be translated twice. Its result is lost then,
since its work folder is taken away before another one begins; no output is ever overwritten by
this. A lease shorter than a network file system's attribute cache (60 s by default on NFS)
invites such losses.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from medp2p.errors import OutputError
from medp2p.files import output_errors, write_text

LEASE_SECONDS = 120.0
"""A claim that was not touched for so long is free."""

TOUCHES_PER_LEASE = 8

PRIVATE_FOLDER = ".medp2p"
"""In the output folder: claims and results that are not whole yet."""


@dataclass(frozen=True)
class Claim:
    """The right to work on a scan.

    Attributes:
        file: Says so.
        work: An empty folder on the output's file system, for results that are not whole yet.
    """

    file: Path
    work: Path


class Claims:
    """The claims of one run; for use as a context, which releases them at its end.

    Args:
        output: The folder with the results.
        run: Name of the run.
        lease_seconds: How long a claim lasts that nobody touches.

    Raises:
        OutputError: If the folder cannot be written.
    """

    def __init__(self, output: Path, run: str, lease_seconds: float = LEASE_SECONDS) -> None:
        self._claims = output / PRIVATE_FOLDER / "claims"
        self._works = output / PRIVATE_FOLDER / "work"
        self._clock = self._claims / f".clock-{run}"
        self._owner = json.dumps({"run": run, **_this_process()})
        self._lease = lease_seconds
        self._held: set[Claim] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._touch_all, daemon=True)

    def __enter__(self) -> Claims:
        with output_errors(self._claims):
            self._claims.mkdir(parents=True, exist_ok=True)
            self._works.mkdir(exist_ok=True)
            self._clock.touch()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        for claim in list(self._held):
            self.release(claim)
        with suppress(OSError):
            self._clock.unlink()

    def take(self, scan: str) -> Claim | None:
        """Take a scan, or return None if a living run has it.

        Raises:
            OutputError: If the claim cannot be written.
        """
        digest = hashlib.sha256(scan.encode("utf-8", "surrogateescape")).hexdigest()[:24]
        number = 0
        with output_errors(self._claims):
            while (last := self._file(digest, number)).exists():
                number += 1
            if number and self._is_held(self._file(digest, number - 1)):
                return None
            try:
                with last.open("x", encoding="utf-8") as file:
                    file.write(self._owner)
            except FileExistsError:
                return None
            claim = Claim(last, self._works / last.name)
            for earlier in range(number):
                self._take_away(self._works / self._file(digest, earlier).name)
            claim.work.mkdir()
        with self._lock:
            self._held.add(claim)
        return claim

    def is_ours(self, claim: Claim) -> bool:
        """Whether no other run has taken the scan over."""
        digest, _, number = claim.file.name.partition(".")
        return not self._file(digest, int(number) + 1).exists()

    def release(self, claim: Claim) -> None:
        """Give a scan back, and remove its work folder."""
        with self._lock:
            self._held.discard(claim)
        self._take_away(claim.work)
        with suppress(OSError):
            os.utime(claim.file, (0, 0))

    def _file(self, digest: str, number: int) -> Path:
        return self._claims / f"{digest}.{number}"

    def _is_held(self, file: Path) -> bool:
        with file.open(encoding="utf-8") as opened:  # opening makes NFS ask the server
            touched = os.fstat(opened.fileno()).st_mtime
            owner = opened.read()
        if touched == 0 or _has_died_here(owner):
            return False
        return self._now() - touched <= self._lease

    def _now(self) -> float:
        """The file system's own time."""
        os.utime(self._clock)
        return self._clock.stat().st_mtime

    def _touch_all(self) -> None:
        while not self._ended.wait(self._lease / TOUCHES_PER_LEASE):
            with self._lock:
                for claim in self._held:
                    with suppress(OSError):
                        os.utime(claim.file)

    def _take_away(self, folder: Path) -> None:
        """Remove a work folder; whoever still writes to it can give nothing a name any more."""
        removed = folder.with_name(f".removed-{uuid.uuid4().hex}")
        with suppress(OSError):
            folder.rename(removed)
            shutil.rmtree(removed, ignore_errors=True)


def claim_output(output: Path, incoming: Path) -> None:
    """Keep a folder for the results of one tree: scans of another may have the same names.

    Args:
        output: The folder with the results.
        incoming: The tree of scans.

    Raises:
        OutputError: If it holds the results of another tree, or cannot be written.
    """
    note = output / PRIVATE_FOLDER / "incoming"
    tree = hashlib.sha256(os.fsencode(incoming.resolve())).hexdigest()
    try:
        if not note.exists():
            write_text(note, tree)
    except OutputError:  # another run was faster, perhaps
        if not note.exists():
            raise
    with output_errors(note):
        known = note.read_text(encoding="ascii")
    if known != tree:
        raise OutputError(
            f"{output}: holds results of another folder of scans; name another output, "
            f"or delete {note} if the scans were moved"
        )


def _this_process() -> dict[str, str | int]:
    """What tells this process from all others, on this machine; empty where /proc is not."""
    try:
        return {"machine": _machine(), "pid": os.getpid(), "began": _began(os.getpid())}
    except (OSError, IndexError):
        return {}


def _has_died_here(owner: str) -> bool:
    """Whether the owner was a process of this machine that is gone."""
    try:
        values = json.loads(owner)
        if values["machine"] != _machine():
            return False
    except (ValueError, KeyError, TypeError, OSError):
        return False
    try:
        return _began(int(values["pid"])) != str(values["began"])
    except (OSError, IndexError):
        return True


def _machine() -> str:
    """This boot of this machine, and the process numbers that are seen from here."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _began(pid: int) -> str:
    """When a process began, in clock ticks since the boot (proc(5), field 22); fails if it ended.

    Raises:
        OSError: If there is no such process, or it has ended and only its parent does not know.
    """
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(pid)
    return fields[19]
