"""A command of the user's after each translated scan."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from medp2p.conversion.journal import Event, Journal, read_events
from medp2p.errors import ConfigError, OutputError

_logger = logging.getLogger(__name__)

PLACEHOLDER = "{}"
TIME_LIMIT_SECONDS = 600.0


class Hook:
    """Runs a command with the path of each result, one at a time, beside the pipeline.

    No shell is involved: the command is split into words as a shell would, and ``{}`` in a word
    becomes the path, whatever characters that has. How it ended is in a journal of its own, and a
    result for which it has succeeded is not given to it again, in this run or a later one. Killed
    in between, a run may give it a result twice. For use as a context, which waits for the last.

    Args:
        command: Such as ``storescu -aec ARCHIVE host 104 +sd {}``.
        output: The folder with the results.

    Raises:
        ConfigError: If the command has no words, no ``{}``, or unbalanced quotes.
    """

    def __init__(self, command: str, output: Path) -> None:
        try:
            self.words = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"--on-done: {error}; check the quotes") from error
        if not any(PLACEHOLDER in word for word in self.words):
            raise ConfigError(
                f"--on-done: no {PLACEHOLDER} in {command!r}; put it where the result's path goes"
            )
        self.failed = 0
        self._command = hashlib.sha256(json.dumps(self.words).encode()).hexdigest()
        self._output = output
        self._journal = Journal(output)
        self._given: set[tuple[str, str]] = set()
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Hook:
        self._given = set(self._succeeded(read_events(self._output)))
        self._journal.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        self._journal.__exit__(kind, error, trace)

    def start(self, done: Event) -> None:
        """Run the command for what a ``done`` event made, once those before it have ended."""
        if (done.scan, done.key) not in self._given:
            self._given.add((done.scan, done.key))
            self._pool.submit(self._run, done)

    def drop_waiting(self) -> None:
        """Leave those that have not begun to the next run."""
        self._pool.shutdown(cancel_futures=True)

    def _succeeded(self, events: Iterable[Event]) -> Iterable[tuple[str, str]]:
        for event in events:
            same = event.kind == "hook" and event.details.get("command") == self._command
            if same and not event.code:
                yield event.scan, event.key

    def _run(self, done: Event) -> None:
        paths = [self._output / path for path in done.details.get("outputs", {})]
        problem = next(filter(None, map(self._problem_with, paths)), "")
        self.failed += bool(problem)
        code = "hook_failed" if problem else ""
        details = {"command": self._command}
        try:
            self._journal.add(
                "hook", scan=done.scan, key=done.key, code=code, reason=problem, details=details
            )
        except OutputError as error:
            _logger.warning("%s", error)

    def _problem_with(self, path: Path) -> str:
        """Run the command for one result; say what went wrong."""
        words = [word.replace(PLACEHOLDER, str(path)) for word in self.words]
        try:
            ended = subprocess.run(
                words, stdin=subprocess.DEVNULL, timeout=TIME_LIMIT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return f"{words[0]}: still running after {TIME_LIMIT_SECONDS:.0f} s"
        except OSError as error:
            return f"{words[0]}: {error.strerror or error}"
        return f"{words[0]}: exit code {ended.returncode}" if ended.returncode else ""
