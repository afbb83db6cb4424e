"""A command of the user's after each translated scan."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shlex
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from medp2p.conversion.claims import Claims
from medp2p.conversion.journal import Event, Journal
from medp2p.conversion.records import Records
from medp2p.errors import ConfigError, OutputError
from medp2p.signals import stop_signals

_logger = logging.getLogger(__name__)

PLACEHOLDER = "{}"
TIME_LIMIT_SECONDS = 600.0
GRACE_SECONDS = 10.0
"""A command that runs when a run is ended may take so long."""

WAITS = "hook_waits"
"""Code of a ``hook`` event: the command is still to be run."""

FAILED = "hook_failed"
"""Code of a ``hook`` event: the command was run, and has failed."""

TICK_SECONDS = 0.5


class Hook:
    """Runs a command with the path of each result, one at a time, beside the pipeline.

    No shell is involved: the command is split into words as a shell would, and ``{}`` in a word
    becomes the path, whatever characters that has. While the command runs, the hook holds the claim
    on the scan (`medp2p.conversion.claims`), so no run gives the result another content; and it
    only runs if the result is what the journal says. A result for which the journal says that the
    command has succeeded is not given to it again. A run that is killed before it has noted the
    success gives it again, and what the command has started then may still go on beside that.

    For use as a context, which waits for the last command; after SIGINT or SIGTERM for
    `GRACE_SECONDS` only.

    Attributes:
        failed: For so many results the command has failed.
        was_interrupted: Whether a signal came while the context waited for the last.

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
        self.was_interrupted = False
        self._command = hashlib.sha256(json.dumps(self.words).encode()).hexdigest()
        self._output = output
        self._journal = Journal(output)
        self._claims = Claims(output, self._journal.run)
        self._records = Records(output)
        self._succeeded: set[tuple[str, str]] = set()  # scan, key
        self._last: dict[str, tuple[str, str, str]] = {}  # scan -> command, key, code
        self._lock = threading.RLock()  # of the journal and all that is known
        self._waiting: dict[str, Event] = {}
        self._news = threading.Event()
        self._is_ending = False
        self._latest = math.inf  # of time.monotonic, when no command may run any more
        self._has_ended = threading.Event()  # an interrupted join takes a thread for ended
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Hook:
        self._journal.__enter__()
        self._claims.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_ending = True
        self._news.set()
        try:
            with stop_signals() as stop:
                if kind:
                    self.drop_waiting()
                while not self._has_ended.wait(0.1):
                    if stop.requested and not self.was_interrupted:
                        self.was_interrupted = True
                        self.drop_waiting()
        finally:
            self._end_within(0.0)  # of a second signal; otherwise it has ended
            self._has_ended.wait()
            self._claims.__exit__(kind, error, trace)
            self._journal.__exit__(kind, error, trace)

    def start(self, done: Event) -> None:
        """Run the command for what a ``done`` event made, once those before it have ended."""
        try:
            with self._lock:
                if self._has_succeeded(done):
                    return
                if self._last.get(done.scan, ())[:2] != (self._command, done.key):
                    self._note(done, WAITS)
                self._waiting[done.scan] = done
        except OutputError as error:
            _logger.warning("%s", error)
        self._news.set()

    def drop_waiting(self) -> None:
        """Leave those that have not begun to the next run, and soon the one that runs, too."""
        self._end_within(GRACE_SECONDS)

    def _end_within(self, seconds: float) -> None:
        self._latest = min(self._latest, time.monotonic() + seconds)
        self._news.set()

    def _work(self) -> None:
        try:
            self._go_through()
        finally:
            self._has_ended.set()

    def _go_through(self) -> None:
        """Go through those that wait, again and again, until none will come any more."""
        while self._latest == math.inf:
            with self._lock:
                waiting = list(self._waiting.values())
                is_last = self._is_ending and not waiting
            if is_last:
                return
            for done in waiting:
                if self._latest < math.inf:
                    return
                self._try(done)
            self._news.wait(TICK_SECONDS)
            self._news.clear()

    def _try(self, done: Event) -> None:
        """Run the command, unless it has succeeded; let it wait if a run is at the scan."""
        try:
            if not self._has_succeeded(done):
                claim = self._claims.take(done.scan)
                if claim is None:
                    return
                try:
                    if not self._has_succeeded(done):
                        self._run(done)
                finally:
                    self._claims.release(claim)
        except OutputError as error:
            _logger.warning("%s", error)
        with self._lock:
            if self._waiting.get(done.scan) is done:
                del self._waiting[done.scan]

    def _has_succeeded(self, done: Event) -> bool:
        """Whether the command has for a result, in any run; then that is the last word on it."""
        with self._lock:
            events = self._records.update()
            self._journal.follow(events)
            for event in events:
                if event.kind == "hook":
                    self._learn(event)
            has_succeeded = (done.scan, done.key) in self._succeeded
            if has_succeeded and self._last[done.scan] != (self._command, done.key, ""):
                self._note(done, "")
            return has_succeeded

    def _learn(self, event: Event) -> None:
        command = str(event.details.get("command", ""))
        self._last[event.scan] = command, event.key, event.code
        if command == self._command and not event.code:
            self._succeeded.add((event.scan, event.key))

    def _note(self, done: Event, code: str, reason: str = "") -> None:
        details = {"command": self._command}
        with self._lock:
            self._journal.add(
                "hook", scan=done.scan, key=done.key, code=code, reason=reason, details=details
            )

    def _run(self, done: Event) -> None:
        """Run the command for a result that is still what it was."""
        results = self._records.results(done.scan)
        made = next((one for one in reversed(results) if one.key == done.key), None)
        if made is None or not made.is_intact(self._output):
            _logger.warning(
                "%s: is not what was made any more; no command is run for it", done.scan
            )
            return
        for path in made.outputs:
            problem = self._problem_with(self._output / path)
            if problem is None:
                return
            self.failed += bool(problem)
            self._note(done, FAILED if problem else "", problem)

    def _problem_with(self, path: Path) -> str | None:
        """Run the command for a result; say what went wrong, None if the run ends before it."""
        words = [word.replace(PLACEHOLDER, str(path)) for word in self.words]
        began = time.monotonic()
        try:
            with subprocess.Popen(
                words, stdin=subprocess.DEVNULL, start_new_session=True
            ) as process:
                while time.monotonic() < min(began + TIME_LIMIT_SECONDS, self._latest):
                    with suppress(subprocess.TimeoutExpired):
                        code = process.wait(0.1)
                        return f"{words[0]}: exit code {code}" if code else ""
                os.killpg(process.pid, signal.SIGKILL)
        except OSError as error:
            return f"{words[0]}: {error.strerror or error}"
        if self._latest < math.inf:
            return None
        return f"{words[0]}: still running after {TIME_LIMIT_SECONDS:.0f} s"
