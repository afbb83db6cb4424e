"""A command of the user's after each translated scan."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from medp2p.conversion.claims import Claims
from medp2p.conversion.journal import Event, Journal
from medp2p.conversion.records import Records
from medp2p.errors import ConfigError, OutputError

_logger = logging.getLogger(__name__)

PLACEHOLDER = "{}"
TIME_LIMIT_SECONDS = 600.0
GRACE_SECONDS = 10.0
"""A command that runs when a run is ended may take so long."""


class Hook:
    """Runs a command with the path of each result, one at a time, beside the pipeline.

    No shell is involved: the command is split into words as a shell would, and ``{}`` in a word
    becomes the path, whatever characters that has. How it ended is in a journal of its own, and a
    result for which it has succeeded is not given to it again, by this run, one beside it or a
    later one. Killed in between, a run may give it a result twice. For use as a context, which
    waits for the last.

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
        self._claims = Claims(output, self._journal.run)
        self._records = Records(output)
        self._succeeded: set[tuple[str, str]] = set()
        self._pool = ThreadPoolExecutor(1)
        self._running: subprocess.Popen[bytes] | None = None
        self._is_dropping = False

    def __enter__(self) -> Hook:
        self._journal.__enter__()
        self._claims.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind:
            self.drop_waiting(0.0)
        self._pool.shutdown()
        self._claims.__exit__(kind, error, trace)
        self._journal.__exit__(kind, error, trace)

    def start(self, done: Event) -> None:
        """Run the command for what a ``done`` event made, once those before it have ended."""
        self._pool.submit(self._run, done)

    def drop_waiting(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Leave those that have not begun to the next run, and soon the one that runs, too."""
        self._is_dropping = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        end = time.monotonic() + grace_seconds
        while self._running and time.monotonic() < end:
            time.sleep(0.05)
        if running := self._running:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)

    def _run(self, done: Event) -> None:
        """Run the command, unless it has succeeded or another run is at it."""
        try:
            claim = self._claims.take(f"{self._command} {done.scan} {done.key}")
            if claim:
                try:
                    self._learn()
                    if (done.scan, done.key) not in self._succeeded:
                        self._run_and_note(done)
                finally:
                    self._claims.release(claim)
        except OutputError as error:
            _logger.warning("%s", error)

    def _learn(self) -> None:
        """Take in for which results the command has succeeded, in any run."""
        for event in self._records.update():
            same = event.kind == "hook" and event.details.get("command") == self._command
            if same and not event.code:
                self._succeeded.add((event.scan, event.key))

    def _run_and_note(self, done: Event) -> None:
        paths = [self._output / path for path in done.details.get("outputs", {})]
        problem = next(filter(None, map(self._problem_with, paths)), "")
        if problem and self._is_dropping:
            return
        self.failed += bool(problem)
        self._journal.add(
            "hook",
            scan=done.scan,
            key=done.key,
            code="hook_failed" if problem else "",
            reason=problem,
            details={"command": self._command},
        )

    def _problem_with(self, path: Path) -> str:
        """Run the command for one result; say what went wrong."""
        words = [word.replace(PLACEHOLDER, str(path)) for word in self.words]
        try:
            with subprocess.Popen(
                words, stdin=subprocess.DEVNULL, start_new_session=True
            ) as self._running:
                code = _wait(self._running)
        except OSError as error:
            return f"{words[0]}: {error.strerror or error}"
        finally:
            self._running = None
        if code is None:
            return f"{words[0]}: still running after {TIME_LIMIT_SECONDS:.0f} s"
        return f"{words[0]}: exit code {code}" if code else ""


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    """Return the exit code; None if the process and its children had to be killed."""
    try:
        return process.wait(TIME_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None
