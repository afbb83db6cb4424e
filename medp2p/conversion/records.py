"""Which results are ours, and what was made of which scan, from the journals of all runs."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medp2p.conversion.journal import Event, journal_files, parse_events, read_from

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
class Input:
    """What an image of a scan was made of.

    Attributes:
        state: Hash of its files' sizes and times of the last change; while that is the same, so is
            the content.
        sha256: Hash of its files' contents, whatever their names and order; a copy adds nothing.
    """

    state: str = field(compare=False)
    sha256: str

    def as_values(self) -> dict[str, Any]:
        """For the journal."""
        return asdict(self)


def input_of(files: Iterable[Path]) -> Input:
    """Read all files of an image.

    Raises:
        OSError: If one cannot be read.
    """
    files = list(files)
    return Input(_state_of(files), _hash_of({content_of(file).sha256 for file in files}))


def _state_of(files: Iterable[Path]) -> str:
    stats = [file.stat() for file in files]
    return _hash_of({(stat.st_size, stat.st_mtime_ns) for stat in stats})


def _hash_of(values: set[Any]) -> str:
    return hashlib.sha256(repr(sorted(values)).encode()).hexdigest()


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

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Each image that it was made of."""
        return tuple(Input(**values) for values in self.event.details.get("inputs", ()))

    def is_of(self, files: Sequence[Path]) -> bool | None:
        """Whether these are the files of an image that it was made of.

        Returns:
            None if that cannot be told: no files are known, or one cannot be read.
        """
        if not files:
            return None
        try:
            is_untouched = _state_of(files) in [image.state for image in self.inputs]
            return is_untouched or input_of(files) in self.inputs
        except OSError:
            return None

    def is_there(self, output: Path) -> bool:
        """Whether something lies where it was."""
        return any(os.path.lexists(output / path) for path in self.outputs)

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
        self._output = output
        self._offsets: dict[Path, int] = defaultdict(int)
        self._results: dict[str, list[Result]] = defaultdict(list)
        self._made: dict[str, set[Content]] = defaultdict(set)
        self.last: dict[str, Event] = {}

    def update(self) -> list[Event]:
        """Read what was added since the last time, and return it in order.

        Raises:
            OutputError: If a journal cannot be read.
        """
        events: list[Event] = []
        for file in journal_files(self._output):
            data = read_from(file, self._offsets[file])
            whole = data[: data.rfind(b"\n") + 1]
            self._offsets[file] += len(whole)
            events += parse_events(whole)
        events.sort(key=lambda event: event.order)
        for event in events:
            self._add(event)
        return events

    def results(self, scan: str) -> list[Result]:
        """What was made of a scan, the latest last."""
        return self._results.get(scan, [])

    def latest(self, scan: str) -> Result | None:
        """What was made of a scan last."""
        return next(reversed(self.results(scan)), None)

    def made(self, path: str) -> set[Content]:
        """Everything that runs have written at a path below the output folder."""
        return self._made.get(path, set())

    def _add(self, event: Event) -> None:
        if not event.scan or event.kind == "hook":
            return
        if event.order >= self.last.get(event.scan, event).order:
            self.last[event.scan] = event
        outputs = event.details.get("outputs", {})
        contents = {path: Content(**values) for path, values in outputs.items()}
        if contents:
            self._results[event.scan].append(Result(event.key, contents, event))
        for path, content in contents.items():
            self._made[path].add(content)
