"""What became of every scan: JSON lines that only grow, one file per run.

Runs never append to each other's files, so nothing has to be locked and a network file system
loses nothing. A line counts once its line feed is there: what a crash cut off is no event. The
state of a scan is the last event about it, over all runs.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

from medp2p.files import flush_to_disk, output_errors

JOURNAL_FOLDER = "journal"

Kind = Literal["run", "taken", "done", "skipped", "failed", "hook", "ended"]
"""``run`` and ``ended`` are about a run; the others about a scan."""


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: What.
        time: When, UTC, ISO 8601 with microseconds.
        run: Name of the run.
        scan: Which scan; empty if it is about the run.
        key: Hash of all that decides about the scan's result; empty until it is known.
        reason: Why it was skipped or failed, in one line.
        code: The reason in a word, to count by.
        details: Numbers and paths: outputs with their SHA-256, seconds, quality.
    """

    kind: Kind
    time: str
    run: str
    scan: str = ""
    key: str = ""
    reason: str = ""
    code: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


class Journal:
    """The file of one run; for use as a context.

    Args:
        output: The folder with the results.

    Raises:
        OutputError: If it cannot be written.
    """

    def __init__(self, output: Path) -> None:
        self.run = _run_name()
        self.path = output / JOURNAL_FOLDER / f"{self.run}.jsonl"

    def __enter__(self) -> Journal:
        with output_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
            self._file = os.open(self.path, flags, 0o666)
            self._torn = False
            flush_to_disk(self.path.parent)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def add(self, kind: Kind, **values: Any) -> Event:
        """Write an event; it is on the disk when this returns.

        Raises:
            OutputError: If it cannot be written; what is there stays.
        """
        event = Event(kind, _now(), self.run, **values)
        line = json.dumps(asdict(event), ensure_ascii=True, separators=(",", ":")) + "\n"
        start = "\n" if self._torn else ""
        with output_errors(self.path):
            self._torn = True
            _write_all(self._file, (start + line).encode())
            os.fsync(self._file)
        self._torn = False
        return event


def read_events(output: Path) -> list[Event]:
    """Read the events of all runs, the earliest first; lines that were cut off are left out."""
    files = sorted((output / JOURNAL_FOLDER).glob("*.jsonl"))
    events = (event for file in files for event in parse_events(file.read_bytes()))
    return sorted(events, key=lambda event: event.time)


def last_of_each(events: Iterable[Event]) -> dict[str, Event]:
    """Return the last event about each scan."""
    return {event.scan: event for event in events if event.scan and event.kind != "hook"}


def parse_events(lines: bytes) -> Iterator[Event]:
    """Yield the events of a journal's lines, without those that were cut off."""
    for line in lines.split(b"\n")[:-1]:
        try:
            values = json.loads(line)
            event = Event(**{name: values[name] for name in Event.__dataclass_fields__})
        except (ValueError, TypeError, KeyError):
            continue
        texts = (event.time, event.run, event.scan, event.key, event.reason, event.code)
        is_whole = isinstance(event.details, dict) and all(isinstance(t, str) for t in texts)
        if is_whole and event.kind in get_args(Kind):
            yield event


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _run_name() -> str:
    """Unique, sorted by time, and without the machine's user."""
    host = "".join(c for c in socket.gethostname() if c.isalnum() or c == "-")[:20]
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{host}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
