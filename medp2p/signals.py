"""Stopping in an orderly way when the user or the cluster asks."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

log = logging.getLogger(__name__)


@dataclass
class StopRequest:
    """Whether a signal has asked the run to stop."""

    requested: bool = False


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Let SIGINT and SIGTERM ask for a stop after the step under way; a second one insists."""
    stop = StopRequest()

    def request(number: int, _frame: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True
        log.warning("%s: finishing the step and saving", signal.Signals(number).name)

    try:
        previous = {s: signal.signal(s, request) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: nobody can signal this run
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
