"""Further scans for a run that goes on, asked for in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from medp2p.conversion.crews import Inbox
from medp2p.conversion.scans import Worklist
from medp2p.errors import MedP2PError
from medp2p.inspection import printable

_logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 1.0

More = Callable[[], Worklist]


@dataclass(frozen=True)
class Arrived:
    """Scans that have arrived, or the error after which none will.

    Attributes:
        worklist: The scans.
        error: Raised by what was asked for them.
    """

    worklist: Worklist
    error: BaseException | None = None


@contextmanager
def feeder(more: More | None, inbox: Inbox) -> Iterator[None]:
    """Put what ``more`` returns into an inbox, for as long as the context lasts."""
    ended = threading.Event()
    if more:
        threading.Thread(target=_feed, args=(more, inbox, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _feed(more: More, inbox: Inbox, ended: threading.Event) -> None:
    trouble = ""
    while not ended.is_set():
        try:
            worklist = more()
            trouble = ""
        except (MedP2PError, OSError) as error:
            if str(error) != trouble:
                _logger.warning("no further scans: %s", printable(str(error)))
            trouble = str(error)
        except BaseException as error:
            inbox.put(Arrived(Worklist(()), error))
            return
        else:
            if worklist.scans or worklist.left_out or worklist.looked_in:
                inbox.put(Arrived(worklist))
        ended.wait(SECONDS_BETWEEN_LOOKS)
