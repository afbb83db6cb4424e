"""Series that have arrived wholly become scans, by the rules of `medp2p batch`."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

from medp2p.checkpoint import ModelCard
from medp2p.conversion.journal import Event
from medp2p.conversion.rules import Rules
from medp2p.conversion.scans import LeftOut, Scan, Worklist
from medp2p.conversion.worklist import check_rules, make_worklist
from medp2p.errors import ConfigError, MedP2PError
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
        ConfigError: If the rules are not for this model, or not for a spool.
    """

    def __init__(self, spool: Spool, rules: Rules, card: ModelCard, quiet_seconds: float) -> None:
        check_rules(rules, card)
        if len(card.source_names) > 1 and rules.joined_by == "folder":
            raise ConfigError(
                "joined_by: folder: every series has a folder of its own in a spool, so no scan "
                "would have all contrasts; leave it out, contrasts of one study are joined"
            )
        self._spool = spool
        self._rules = rules
        self._card = card
        self._quiet_seconds = quiet_seconds
        self.by_study = len(card.source_names) > 1
        self._lock = threading.Lock()
        self._unanswered: dict[str, dict[str, int]] = {}  # by unit, scan; files of each
        self._answers: dict[str, set[str]] = {}

    def __call__(self) -> Worklist:
        """Return the scans of units that have settled; for `medp2p.conversion.pipeline.convert`."""
        worklists = [self._worklist_of(unit) for unit in self._take()]
        return Worklist(
            tuple(scan for one in worklists for scan in one.scans),
            tuple(left_out for one in worklists for left_out in one.left_out),
            tuple(place for one in worklists for place in one.looked_in),
            frozenset(name for one in worklists for name in one.names),
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
            self._unanswered[unit] = {scan.name: _count_files(scan) for scan in scans}
            self._answers[unit] = {"failed" for one in left_out if one.failed}
            self._let_go_if_answered(unit)
        names = frozenset(f"{unit}/{name}" for name in found.names)
        return Worklist(scans, left_out, (f"{unit}/",), names)

    def answered(self, unit: str, event: Event) -> None:
        """Note what became of a scan; a result of fewer objects is none of what is here now."""
        with self._lock:
            unanswered = self._unanswered.get(unit, {})
            if event.scan not in unanswered:
                return
            if event.kind == "done" and event.details.get("files") != unanswered[event.scan]:
                return
            del unanswered[event.scan]
            self._answers[unit].add(event.kind)
            self._let_go_if_answered(unit)

    def _let_go_if_answered(self, unit: str) -> None:
        """A unit with results, and without failures, is settled."""
        if not self._unanswered[unit]:
            del self._unanswered[unit]
            answers = self._answers.pop(unit)
            self._spool.let_go(unit, is_settled="done" in answers and "failed" not in answers)


def _count_files(scan: Scan) -> int:
    return sum(len(image.files) for image in scan.images)
