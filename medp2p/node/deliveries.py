"""What the destination has of each result, on the disk: one file per result, which only grows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from medp2p.files import flush_to_disk, output_errors

Kind = Literal["began", "acknowledged", "sent", "given_up"]


@dataclass
class Delivery:
    """One result on its way to one destination.

    Attributes:
        result: Path below the folder of results.
        sha256: What it holds, of `medp2p.conversion.records.content_of`.
        destination: ``AE@host:port``.
        log: File that says so.
        acknowledged: Names of the files that the destination has.
        began: When it was first tried, seconds since 1970; 0 if it was not.
        ended: How it ended; empty while it goes on.
        ended_at: When, seconds since 1970.
    """

    result: str
    sha256: str
    destination: str
    log: Path
    acknowledged: set[str] = field(default_factory=set)
    began: float = 0.0
    ended: str = ""
    ended_at: float = 0.0

    def note(self, kind: Kind, file: str = "") -> None:
        """Write what happened; it is on the disk when this returns.

        Raises:
            OutputError: If it cannot be written.
        """
        now = datetime.now(UTC)
        event = {
            "kind": kind,
            "file": file,
            "sha256": self.sha256,
            "to": self.destination,
            "time": now.isoformat(timespec="seconds"),
        }
        with output_errors(self.log):
            is_first = not self.log.exists()
            self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _append_line(self.log, json.dumps(event))
            if is_first:
                flush_to_disk(self.log.parent)
        self._take_in(event)

    def _take_in(self, event: dict[str, Any]) -> None:
        when = datetime.fromisoformat(event["time"]).timestamp()
        match event["kind"]:
            case "began":
                self.began = when
            case "acknowledged":
                self.acknowledged.add(event["file"])
            case kind:
                self.ended, self.ended_at = kind, when


def load_delivery(folder: Path, result: str, sha256: str, destination: str) -> Delivery:
    """Read how far a result is.

    What was sent of another result of this name does not count, nor what another destination has of
    it, unless that has all.
    """
    delivery = Delivery(result, sha256, destination, log_of(folder, result))
    for event in _events(delivery.log):
        is_for_it = event["to"] == destination or event["kind"] == "sent"
        if event["sha256"] == sha256 and is_for_it:
            delivery._take_in(event)
    return delivery


def log_of(folder: Path, result: str) -> Path:
    """Where it says how far a result is."""
    return folder / f"{result}.jsonl"


def count_deliveries(folder: Path) -> dict[str, int]:
    """Count results by how their delivery ended; under ``waiting`` those that go on."""
    counts = {"sent": 0, "given_up": 0, "waiting": 0}
    for log in folder.rglob("*.jsonl"):
        kind = next(reversed([event["kind"] for event in _events(log)]), "")
        counts[kind if kind in counts else "waiting"] += 1
    return counts


def _events(log: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a log; a line that was cut off is none."""
    try:
        lines = log.read_bytes().split(b"\n")[:-1]
    except OSError:
        return
    for line in lines:
        try:
            event = json.loads(line)
            datetime.fromisoformat(event["time"])
            event["kind"], event["file"], event["sha256"], event["to"]
        except (ValueError, TypeError, KeyError):
            continue
        yield event


def _append_line(path: Path, line: str) -> None:
    """Append a line, after the end of one that was cut off."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = (("\n" if is_torn else "") + line + "\n").encode()
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
