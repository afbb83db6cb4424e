"""A command of the user's after each translated scan."""

from __future__ import annotations

import logging
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from medp2p.errors import ConfigError

_logger = logging.getLogger(__name__)

PLACEHOLDER = "{}"
TIME_LIMIT_SECONDS = 600.0


class Hook:
    """Runs a command with the path of each result, one at a time, beside the pipeline.

    No shell is involved: the command is split into words as a shell would, and ``{}`` in a word
    becomes the path, whatever characters that has. For use as a context, which waits for the last.

    Args:
        command: Such as ``storescu -aec ARCHIVE host 104 +sd {}``.

    Raises:
        ConfigError: If the command has no words, no ``{}``, or unbalanced quotes.
    """

    def __init__(self, command: str) -> None:
        try:
            self.words = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"--on-done: {error}; check the quotes") from error
        if not any(PLACEHOLDER in word for word in self.words):
            raise ConfigError(
                f"--on-done: no {PLACEHOLDER} in {command!r}; put it where the result's path goes"
            )
        self.failed = 0
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Hook:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)

    def start(self, path: Path) -> None:
        """Run the command for a result once those before it have ended."""
        self._pool.submit(self._run, path)

    def _run(self, path: Path) -> None:
        words = [word.replace(PLACEHOLDER, str(path)) for word in self.words]
        try:
            ended = subprocess.run(
                words, stdin=subprocess.DEVNULL, timeout=TIME_LIMIT_SECONDS, check=False
            )
            problem = f"exit code {ended.returncode}" if ended.returncode else ""
        except subprocess.TimeoutExpired:
            problem = f"still running after {TIME_LIMIT_SECONDS:.0f} s"
        except OSError as error:
            problem = str(error.strerror or error)
        if problem:
            self.failed += 1
            _logger.warning("--on-done: %s for %s", problem, path)
