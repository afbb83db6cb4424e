"""What may be taken away from a spool: copies that are done with, after a time."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from medp2p.conversion.journal import Event, Journal, last_of_each
from medp2p.node.deliveries import log_of
from medp2p.node.sender import Sender
from medp2p.node.settled import Settled
from medp2p.node.spool import Spool

_logger = logging.getLogger(__name__)

HELD = "images were missing, or of two versions, until its time was over; it was taken away"


class Retention:
    """Takes a unit away, with its results, once nothing more will come of it.

    That is once each of its scans was sent, skipped or has failed, and so long ago; its last object
    must have come so long ago, too. What was given up stays, and without a sender nothing is taken
    away. Series that are held go after that time, too, and the journal says so.

    Args:
        spool: The spool.
        settled: Which scans have no answer yet.
        sender: What was sent; None without a destination.
        keep_seconds: How long copies stay.
        events: Of earlier runs.
    """

    def __init__(
        self,
        spool: Spool,
        settled: Settled,
        sender: Sender | None,
        keep_seconds: float,
        events: Iterable[Event],
    ) -> None:
        self._spool = spool
        self._settled = settled
        self._sender = sender
        self._keep_seconds = keep_seconds
        self._lock = threading.Lock()
        self._last: dict[str, dict[str, Event]] = defaultdict(dict)  # by unit, by scan
        for event in last_of_each(events).values():
            unit = self._unit_of(event)
            outputs = (spool.outgoing / result for result in _outputs(event))
            if (spool.incoming / unit).exists() or any(path.exists() for path in outputs):
                self._last[unit][event.scan] = event

    def note(self, event: Event) -> None:
        """Take in an event of the journal."""
        if event.scan and event.kind in ("done", "skipped", "failed"):
            unit = self._unit_of(event)
            with self._lock:
                self._last[unit][event.scan] = event
            self._settled.answered(unit, event)

    def clean(self) -> None:
        """Take away what is done with."""
        if self._sender is None:
            return
        before = time.time() - self._keep_seconds
        with self._lock:
            ends = {unit: list(events.values()) for unit, events in self._last.items()}
        for unit in sorted({*ends, *self._spool.units(by_study=self._settled.by_study)}):
            events = ends.get(unit, [])
            if self._are_over(events, before) and self._spool.remove(unit, before):
                self._remove_results(unit, events)
        for name in self._spool.broken_off():
            if self._spool.remove_held(name, before):
                self._note_removal(name)

    def _unit_of(self, event: Event) -> str:
        study, _, rest = event.scan.partition("/")
        return study if self._settled.by_study else f"{study}/{rest.partition('/')[0]}"

    def _are_over(self, events: Iterable[Event], before: float) -> bool:
        ends = [self._end_of(event) for event in events]
        return all(ends) and max(ends, default=0.0) < before

    def _end_of(self, event: Event) -> float:
        """When nothing more was to come of a scan, seconds since 1970; 0 if something is."""
        assert self._sender
        ends = [datetime.fromisoformat(event.time).timestamp()]
        for result, content in _outputs(event).items():
            delivery = self._sender.delivery_of(result, content["sha256"])
            ends.append(delivery.ended_at if delivery.ended == "sent" else 0.0)
        return max(ends) if all(ends) and event.kind != "taken" else 0.0

    def _note_removal(self, name: str) -> None:
        _logger.warning("taken away: %s, which was held", name)
        with Journal(self._spool.outgoing) as journal:
            journal.add("skipped", scan=name, code="held", reason=HELD)

    def _remove_results(self, unit: str, events: Iterable[Event]) -> None:
        for event in events:
            for result in _outputs(event):
                shutil.rmtree(self._spool.outgoing / result, ignore_errors=True)
                log_of(self._spool.sent, result).unlink(missing_ok=True)
                for root in (self._spool.outgoing, self._spool.sent):
                    _remove_empty_parents(root, result)
        with self._lock:
            self._last.pop(unit, None)
        _logger.info("taken away: %s", unit)


def _outputs(event: Event) -> dict[str, Any]:
    outputs = event.details.get("outputs", {})
    return outputs if isinstance(outputs, dict) else {}


def _remove_empty_parents(root: Path, result: str) -> None:
    for parent in list(Path(result).parents)[:-1]:
        with suppress(OSError):
            (root / parent).rmdir()
