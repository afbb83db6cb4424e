"""Which results are ours, and what was made of which scan, from the journals of all runs."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medp2p.conversion.journal import JOURNAL_FOLDER, Event, parse_events

WRITTEN = "written"
"""Code of a ``taken`` event whose results are whole and are about to get their names."""

NOT_OURS = "is there and is not what the journal says, so it is not replaced; move it away"


@dataclass(frozen=True)
class Content:
    """What a file, or a folder of files, holds.

    Attributes:
        bytes: Of all files.
        sha256: Of the file; of a folder, of its files' names and hashes.
    """

    bytes: int
    sha256: str

    def as_values(self) -> dict[str, Any]:
        """For the journal."""
        return asdict(self)


def content_of(path: Path) -> Content:
    """Read all of a file or a folder.

    Raises:
        OSError: If it cannot be read.
    """
    if not path.is_dir():
        with path.open("rb") as file:
            return Content(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
    digest, size = hashlib.sha256(), 0
    for file_path in sorted(path.rglob("*")):
        part = content_of(file_path) if file_path.is_file() else Content(0, "")
        name = file_path.relative_to(path).as_posix()
        digest.update(repr((name, part.sha256)).encode())
        size += part.bytes
    return Content(size, digest.hexdigest())


@dataclass(frozen=True)
class Result:
    """What an event says was made.

    Attributes:
        key: Hash of all that decides about it.
        outputs: By path below the output folder.
        event: The event.
    """

    key: str
    outputs: dict[str, Content]
    event: Event

    def is_intact(self, output: Path) -> bool:
        """Whether every output is there as it was written."""
        return bool(self.outputs) and all(
            holds(output / path, {content}) for path, content in self.outputs.items()
        )


def holds(path: Path, contents: set[Content]) -> bool:
    """Whether a path is a file or folder with one of these contents, and no link."""
    try:
        return bool(contents) and not path.is_symlink() and content_of(path) in contents
    except OSError:
        return False


class Records:
    """What the journals say so far.

    Args:
        output: The folder with the results.
    """

    def __init__(self, output: Path) -> None:
        self._folder = output / JOURNAL_FOLDER
        self._offsets: dict[Path, int] = defaultdict(int)
        self._results: dict[str, list[Result]] = defaultdict(list)
        self._made: dict[str, set[Content]] = defaultdict(set)
        self.last: dict[str, Event] = {}

    def update(self) -> list[Event]:
        """Read what was added since the last time, and return it in order of time."""
        events: list[Event] = []
        for file in sorted(self._folder.glob("*.jsonl")):
            with file.open("rb") as opened:
                opened.seek(self._offsets[file])
                data = opened.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._offsets[file] += len(whole)
            events += parse_events(whole)
        events.sort(key=lambda event: event.time)
        for event in events:
            self._add(event)
        return events

    def results(self, scan: str) -> list[Result]:
        """What was made of a scan, the latest last."""
        return self._results.get(scan, [])

    def made(self, path: str) -> set[Content]:
        """Everything that runs have written at a path below the output folder."""
        return self._made.get(path, set())

    def _add(self, event: Event) -> None:
        if not event.scan or event.kind == "hook":
            return
        self.last[event.scan] = event
        try:
            outputs = event.details.get("outputs", {})
            contents = {path: Content(**values) for path, values in outputs.items()}
        except (AttributeError, TypeError):  # of a line that was damaged otherwise
            return
        if contents:
            self._results[event.scan].append(Result(event.key, contents, event))
        for path, content in contents.items():
            self._made[path].add(content)
