"""What a run tells its journal and its caller, and what it learns from the journals of others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from medp2p import __version__
from medp2p.conversion.disk import DiskTrouble
from medp2p.conversion.journal import Event, Journal, Kind
from medp2p.conversion.records import WRITTEN, Records, Result
from medp2p.conversion.scans import LeftOut, Scan, Worklist
from medp2p.conversion.stages import End, Failed, ReadRequest, Setting, Written
from medp2p.conversion.under_way import UnderWay
from medp2p.errors import OutputError
from medp2p.inspection import printable

_logger = logging.getLogger(__name__)

Ending = Literal["finished", "interrupted", "until"] | DiskTrouble


@dataclass
class Conversion:
    """What became of a worklist in one run.

    Attributes:
        run: Name of the run in the journal.
        done: Scans translated.
        unchanged: Scans that had their result already, or got it from another run.
        skipped: Scans that the model is not for, those of the worklist included.
        failed: Scans that could not be translated, those of the worklist included.
        left: Scans that were not begun, or given up when the run was stopped.
        ended: Why the run ended.
        reason: In one line, if it ended early.
    """

    run: str
    done: int = 0
    unchanged: int = 0
    skipped: int = 0
    failed: int = 0
    left: int = 0
    ended: Ending = "finished"
    reason: str = ""


EARLIER_RESULT = "; the result of an earlier run is still there"
OF_ANOTHER_INPUT = "; the result of an earlier run, of another input, is still there"

_COUNTS = ("done", "unchanged", "skipped", "failed", "left")


class RunJournal:
    """The journal of one run, with its counts.

    Every method that tells something raises OutputError if the journal cannot be written.

    Args:
        journal: Of this run.
        setting: What decides about results.
        on_event: Called after each event.
    """

    def __init__(
        self, journal: Journal, setting: Setting, on_event: Callable[[Event], None] | None
    ) -> None:
        self.result = Conversion(journal.run)
        self.records = Records(setting.output)
        self._journal = journal
        self._setting = setting
        self._on_event = on_event
        job = setting.job
        self._settings = {"settings": setting.settings_hash, "guard": job.guard}
        self._alike: set[str] = set()  # runs with the same settings
        self._ends: dict[str, dict[str, End]] = {}  # of theirs, since this one began

    def begin(self, scans: int, *, goes_on: bool) -> None:
        """Tell that the run begins.

        Args:
            scans: On its worklist, those left out included.
            goes_on: Whether more may arrive.
        """
        self.learn()
        self._ends.clear()
        details = {
            "scans": scans,
            "goes_on": goes_on,
            "part": self._setting.job.part,
            **self._settings,
            "model": self._setting.job.labels.model_hash,
            "version": __version__,
        }
        self._note("run", details=details)

    def end(self) -> None:
        """Tell how the run has ended; a disk that refuses this is logged only."""
        self._end(self.result.ended, self.result.reason)

    def end_by(self, error: Exception) -> None:
        """Tell which error has ended the run; a disk that refuses this is logged only."""
        self._end("error", printable(str(error)))

    def _end(self, code: str, reason: str) -> None:
        counts = {name: getattr(self.result, name) for name in _COUNTS}
        try:
            self._note("ended", code=code, reason=reason, details=counts)
        except OutputError as error:
            _logger.warning("%s", error)

    def learn(self) -> None:
        """Take in what was done since the last look.

        Raises:
            OutputError: If a journal cannot be read.
        """
        events = self.records.update()
        self._journal.follow(events)
        for event in events:
            if event.kind == "run" and self._settings.items() <= event.details.items():
                self._alike.add(event.run)
            is_of_other = event.run in self._alike and event.run != self._journal.run
            if is_of_other and event.key and event.kind in get_args(End):
                self._ends.setdefault(event.scan, {})[event.key] = event.kind  # type: ignore[assignment]

    def read_request(self, one: UnderWay) -> ReadRequest:
        """What a reader must know of a scan."""
        return ReadRequest(
            one.scan,
            one.target,
            tuple(self.records.results(one.scan.name)),
            frozenset(self.records.made(one.target)),
            self._ends.get(one.scan.name, {}),
            claimed=one.claim is not None,
        )

    def leave_out(self, left_out: LeftOut) -> None:
        """Tell why a scan is not translated, unless that is its last word already.

        A scan that is done stays so when a run does not want it, unless its files are known to be
        others than those of the result.
        """
        kind: End = "failed" if left_out.failed else "skipped"
        self._count(kind)
        name, code = left_out.name, left_out.code
        last = self.records.last.get(name)
        result = self.records.latest(name)
        is_same = result.is_of(left_out.files) if result else None
        if last and (last.kind, kind) == ("done", "skipped") and is_same is not False:
            return
        reason = left_out.reason + self._remark(result, is_same)
        if last and (last.kind, last.code, last.reason) == (kind, code, reason):
            self._tell(last)
        else:
            self._note(kind, scan=name, code=code, reason=reason)

    def withdraw(self, worklist: Worklist) -> None:
        """Take back what was refused earlier and is not there any more, unless its result is."""
        for name, last in self.records.last.items():
            is_gone = name.startswith(worklist.looked_in) and name not in worklist.names
            is_open = last.kind in ("taken", *get_args(End))
            if is_gone and is_open and not self._remark(self.records.latest(name), None):
                self._note("gone", scan=name)

    def _remark(self, result: Result | None, is_same: bool | None) -> str:
        """What is to be said of the result of a scan that is refused now, if it is there.

        Args:
            result: The latest.
            is_same: Whether its input is that of now; None if that is not known.
        """
        if result is None or not result.is_there(self._setting.output):
            return ""
        return OF_ANOTHER_INPUT if is_same is False else EARLIER_RESULT

    def taken(self, scan: Scan) -> None:
        """Tell that a scan was claimed."""
        self._note("taken", scan=scan.name)

    def written(self, one: UnderWay, written: Written) -> None:
        """Tell what a result holds, before it gets its name."""
        self._note(
            "taken", scan=one.scan.name, key=_key(one), code=WRITTEN, details=_details(one, written)
        )

    def done(self, one: UnderWay, written: Written) -> None:
        """Tell that a scan is translated."""
        self._count("done")
        self._done(one.scan, _key(one), _details(one, written))

    def is_last_word(self, scan: Scan, result: Result) -> bool:
        """Whether the last that was said of a scan is that this result is done."""
        last = self.records.last.get(scan.name)
        return last is not None and (last.kind, last.key) == ("done", result.key)

    def unchanged(self, scan: Scan, result: Result) -> None:
        """Tell that a scan has its result already, unless that is its last word."""
        self._count("unchanged")
        if self.is_last_word(scan, result):
            self._tell(self.records.last[scan.name])
        else:
            self._done(scan, result.key, result.event.details)

    def settled(self, end: End) -> None:
        """Count a scan that a run beside this one has ended with."""
        self._count(end)

    def _done(self, scan: Scan, key: str, details: Mapping[str, Any]) -> None:
        reasons = details.get("quality", {}).get("guard_reasons", ())
        code, reason = "guard_forced" if reasons else "", "; ".join(reasons)
        self._note("done", scan=scan.name, key=key, code=code, reason=reason, details=details)

    def failed(self, one: UnderWay, failed: Failed) -> None:
        """Tell why a scan was not translated."""
        kind: End = "skipped" if failed.skipped else "failed"
        self._count(kind)
        reason = self._without_paths(one.scan, failed.reason)
        inputs = failed.inputs or (one.read.inputs if one.read else ())
        if failed.code != "foreign_output":
            result = self.records.latest(one.scan.name)
            reason += self._remark(result, result.inputs == inputs if result and inputs else None)
        self._note(
            kind,
            scan=one.scan.name,
            key=failed.key or _key(one),
            code=failed.code,
            reason=reason,
            details={"quality": dict(failed.quality)} if failed.quality else {},
        )

    def _without_paths(self, scan: Scan, reason: str) -> str:
        """A reason in one line, and without paths where names are hashed."""
        if self._setting.job.hash_names:
            paths = {path for image in scan.images for path in (image.path, *image.files)}
            names = {str(path) for path in paths} | {str(path.absolute()) for path in paths}
            for path in sorted(names, key=len, reverse=True):
                reason = reason.replace(path, scan.name)
        return printable(reason)

    def _note(self, kind: Kind, **values: Any) -> None:
        self._tell(self._journal.add(kind, **values))

    def _tell(self, event: Event) -> None:
        if self._on_event:
            self._on_event(event)

    def _count(self, what: str) -> None:
        setattr(self.result, what, getattr(self.result, what) + 1)


def _details(one: UnderWay, written: Written) -> dict[str, Any]:
    """What is to be known of a result."""
    assert one.read
    assert one.prediction
    stages = {
        "read": one.read.seconds,
        "predict": one.prediction.seconds,
        "write": written.seconds,
    }
    return {
        "outputs": {one.target: written.content.as_values()},
        "files": sum(len(image.files) for image in one.scan.images),
        "inputs": [image.as_values() for image in one.read.inputs],
        "seconds": round(time.monotonic() - one.began, 3),
        "stages": {stage: round(seconds, 3) for stage, seconds in stages.items()},
        "quality": {
            **one.read.quality,
            "clipped": written.clipped,
            "batch_size": one.prediction.batch_size,
        },
    }


def _key(one: UnderWay) -> str:
    return one.read.key if one.read else ""
