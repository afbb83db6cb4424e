"""What became of every scan: JSON lines that only grow, one file per run.

Runs never append to each other's files, so nothing has to be locked and a network file system
loses nothing. A line counts once its line feed is there: what a crash cut off is no event. The
state of a scan is the last event about it, over all runs. Clocks may differ: events are numbered,
and each has a higher number than all that its run had seen (Lamport, doi:10.1145/359545.359563).
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

from medp2p.errors import OutputError
from medp2p.files import flush_to_disk, output_errors

JOURNAL_FOLDER = "journal"

_CONTENT = {"bytes": int, "sha256": str}
_INPUT = {"state": str, "sha256": str}
"""What is said of each output, and of each image of a scan."""

Kind = Literal["run", "taken", "done", "skipped", "failed", "gone", "hook", "ended"]
"""``run`` and ``ended`` are about a run; the others about a scan. What is ``gone`` was skipped or
had failed, and is no longer there."""


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
        number: Higher than that of every event that the run had seen.
    """

    kind: Kind
    time: str
    run: str
    scan: str = ""
    key: str = ""
    reason: str = ""
    code: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    number: int = 0

    @property
    def order(self) -> tuple[int, str]:
        """What events of several runs are sorted by."""
        return self.number, self.time


class Journal:
    """The file of one run; for use as a context.

    Args:
        output: The folder with the results.

    Raises:
        OutputError: If it cannot be written, or a journal of another run cannot be read.
    """

    def __init__(self, output: Path) -> None:
        self.run = _run_name()
        self.path = output / JOURNAL_FOLDER / f"{self.run}.jsonl"
        self._output = output
        self._number = 0

    def __enter__(self) -> Journal:
        self.follow(read_events(self._output))
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

    def follow(self, seen: Iterable[Event]) -> None:
        """Give what is added from now on higher numbers than these."""
        self._number = max((self._number, *(event.number for event in seen)))

    def add(self, kind: Kind, **values: Any) -> Event:
        """Write an event; it is on the disk when this returns.

        Raises:
            OutputError: If it cannot be written; what is there stays.
        """
        self._number += 1
        event = Event(kind, _now(), self.run, **values, number=self._number)
        line = json.dumps(asdict(event), ensure_ascii=True, separators=(",", ":")) + "\n"
        start = "\n" if self._torn else ""
        with output_errors(self.path):
            self._torn = True
            _write_all(self._file, (start + line).encode())
            os.fsync(self._file)
        self._torn = False
        return event


def read_events(output: Path) -> list[Event]:
    """Read the events of all runs, the earliest first; damaged lines are left out.

    Raises:
        OutputError: If a journal cannot be read.
    """
    files = journal_files(output)
    events = (event for file in files for event in parse_events(read_from(file, 0)))
    return sorted(events, key=lambda event: event.order)


def journal_files(output: Path) -> list[Path]:
    """List the journals of all runs."""
    return sorted(file for file in (output / JOURNAL_FOLDER).glob("*.jsonl") if not file.is_dir())


def read_from(file: Path, offset: int) -> bytes:
    """Read the rest of a journal.

    Raises:
        OutputError: If it cannot be read.
    """
    try:
        with file.open("rb") as opened:
            opened.seek(offset)
            return opened.read()
    except OSError as error:
        raise OutputError(
            f"{file}: cannot be read: {error.strerror or error}; make it readable, since it says "
            "what runs have done"
        ) from error


def last_of_each(events: Iterable[Event]) -> dict[str, Event]:
    """Return the last event about each scan that is not gone."""
    last = {event.scan: event for event in events if event.scan and event.kind != "hook"}
    return {scan: event for scan, event in last.items() if event.kind != "gone"}


def parse_events(lines: bytes) -> Iterator[Event]:
    """Yield the events of a journal's lines, without those that were cut off or damaged."""
    for line in lines.split(b"\n")[:-1]:
        with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
            values = json.loads(line)
            event = Event(**{name: values[name] for name in Event.__dataclass_fields__})
            if _is_whole(event):
                yield event


def _is_whole(event: Event) -> bool:
    """Whether all values are of their kind; raises what `parse_events` takes for damage."""
    outputs = event.details.get("outputs", {}).values()
    inputs = event.details.get("inputs", [])
    quality = event.details.get("quality", {})
    texts = [event.run, event.scan, event.key, event.reason, event.code]
    texts += [event.details.get("part", ""), *quality.get("guard_reasons", [])]
    return (
        event.kind in get_args(Kind)
        and type(event.number) is int
        and datetime.fromisoformat(event.time).tzinfo is UTC
        and all(isinstance(text, str) for text in texts)
        and all({n: type(v) for n, v in one.items()} == _CONTENT for one in outputs)
        and all({n: type(v) for n, v in one.items()} == _INPUT for one in inputs)
        and isinstance(event.details.get("scans", 0), int)
        and isinstance(event.details.get("seconds", 0), int | float)
        and all(isinstance(quality.get(n, 0), int | float) for n in ("guard_score", "clipped"))
    )


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _run_name() -> str:
    """Unique, sorted by time, and without the machine's user."""
    host = "".join(c for c in socket.gethostname() if c.isalnum() or c == "-")[:20]
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{host}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
