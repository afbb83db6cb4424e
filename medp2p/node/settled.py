"""Series that have arrived wholly become scans, by the rules of `medp2p batch`."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

from medp2p.checkpoint import ModelCard
from medp2p.conversion.rules import Rules
from medp2p.conversion.scans import LeftOut, Worklist
from medp2p.conversion.worklist import check_rules, make_worklist
from medp2p.errors import MedP2PError
from medp2p.node.spool import Spool

_logger = logging.getLogger(__name__)


class Settled:
    """Returns what has settled in a spool since it was last called.

    A unit is what goes together: a series, or for a model of several contrasts a study. The names
    of its scans begin with its own.

    Args:
        spool: The spool.
        rules: What is wanted.
        card: Of the model.
        quiet_seconds: So long after its last object a unit has settled.

    Raises:
        ConfigError: If the rules are not for this model.
    """

    def __init__(self, spool: Spool, rules: Rules, card: ModelCard, quiet_seconds: float) -> None:
        check_rules(rules, card)
        self._spool = spool
        self._rules = rules
        self._card = card
        self._quiet_seconds = quiet_seconds
        self.by_study = len(card.source_names) > 1
        self._lock = threading.Lock()
        self._unanswered: dict[str, set[str]] = {}

    def __call__(self) -> Worklist:
        """Return the scans of units that have settled; for `medp2p.conversion.pipeline.convert`."""
        worklists = [self._worklist_of(unit) for unit in self._take()]
        return Worklist(
            tuple(scan for one in worklists for scan in one.scans),
            tuple(left_out for one in worklists for left_out in one.left_out),
        )

    def _take(self) -> list[str]:
        return self._spool.take_settled(self._quiet_seconds, by_study=self.by_study)

    def _worklist_of(self, unit: str) -> Worklist:
        try:
            found = make_worklist(self._spool.incoming / unit, self._rules, self._card)
        except (MedP2PError, OSError) as error:
            _logger.warning("%s: cannot be looked at: %s", unit, error)
            self._spool.put_back(unit)
            return Worklist(())
        if not found.scans and not found.left_out:
            self._spool.let_go(unit)
            return Worklist((), (LeftOut(f"{unit}/nothing", "not_a_scan", "holds no image"),))
        scans = tuple(replace(scan, name=f"{unit}/{scan.name}") for scan in found.scans)
        left_out = tuple(replace(one, name=f"{unit}/{one.name}") for one in found.left_out)
        with self._lock:
            self._unanswered[unit] = {scan.name for scan in scans}
            self._let_go_if_answered(unit)
        return Worklist(scans, left_out)

    def answered(self, unit: str, scan: str) -> None:
        """Note that something became of a scan."""
        with self._lock:
            if unit in self._unanswered:
                self._unanswered[unit].discard(scan)
                self._let_go_if_answered(unit)

    def _let_go_if_answered(self, unit: str) -> None:
        if not self._unanswered[unit]:
            del self._unanswered[unit]
            self._spool.let_go(unit)
