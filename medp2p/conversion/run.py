"""The loop of a run: it begins scans, has them worked on, and takes in what comes back."""

from __future__ import annotations

import logging
import math
import os
import queue
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from datetime import time as time_of_day
from typing import Any

from medp2p.conversion.claims import Claims
from medp2p.conversion.crews import Begun, Crews, Done, Ended, Lost, Ready, UnexpectedError
from medp2p.conversion.disk import DISK_TROUBLES, disk_trouble
from medp2p.conversion.dispatch import Dispatch
from medp2p.conversion.feeder import Arrived
from medp2p.conversion.job import output_name
from medp2p.conversion.records import Result
from medp2p.conversion.run_journal import Conversion, Ending, RunJournal
from medp2p.conversion.scans import Worklist
from medp2p.conversion.stages import (
    Failed,
    NeedsWork,
    Setting,
    Settled,
    Unchanged,
    Written,
    code_of,
    publish,
)
from medp2p.conversion.under_way import UnderWay, free_bytes, is_disk_space_for, is_room_for
from medp2p.conversion.waiting import Waiting
from medp2p.conversion.work import WasPredicted, WasRead
from medp2p.errors import MedP2PError, OutputError
from medp2p.inspection import printable
from medp2p.signals import StopRequest

_logger = logging.getLogger(__name__)

GRACE_SECONDS = 30.0
"""After a signal, writes under way may take so long."""

TICK_SECONDS = 0.2

PROCESS_ENDED = "its process ended without a word twice, out of memory perhaps; use fewer readers"


def next_time(until: time_of_day, now: datetime) -> datetime:
    """Return the first moment after ``now`` with this time of day."""
    wanted = datetime.combine(now.date(), until)
    return wanted if wanted > now else wanted + timedelta(days=1)


class Run:
    """One run, and where every scan of it is.

    Args:
        setting: How scans are translated.
        journal: Of this run.
        claims: Of this run.
        crews: Who does the work.
        stop: Whether a signal has come.
        goes_on: Whether scans may arrive later.
    """

    def __init__(
        self,
        setting: Setting,
        journal: RunJournal,
        claims: Claims,
        crews: Crews,
        stop: StopRequest,
        *,
        goes_on: bool,
    ) -> None:
        self.setting = setting
        self.job = setting.job
        self.journal = journal
        self.claims = claims
        self.crews = crews
        self.stop = stop
        self.goes_on = goes_on
        self.waiting = Waiting()
        self.under_way: dict[str, UnderWay] = {}
        self.dispatch = Dispatch(crews, journal, self.job.time_limit_seconds)
        self.ending: Ending | None = None
        self.deadline = math.inf
        if self.job.until:
            now = datetime.now()
            self.deadline = (next_time(self.job.until, now) - now).total_seconds()
            self.deadline += time.monotonic()

    def run(self, worklist: Worklist) -> Conversion:
        """Work until all is settled, or the run must end."""
        try:
            self._work(worklist)
        except MedP2PError as error:
            trouble = disk_trouble(error) if isinstance(error, OutputError) else None
            if trouble is None:
                self.journal.end_by(error)
                raise
            self._end(trouble, str(error))
        result = self.journal.result
        result.left = len(self.waiting.names.union(self.under_way))
        result.ended = self.ending or "finished"
        self.journal.end()
        return result

    def _work(self, worklist: Worklist) -> None:
        total = len(worklist.scans) + len(worklist.left_out)
        self.journal.begin(total, goes_on=self.goes_on)
        self._add(worklist)
        if self.goes_on:
            self.crews.devices.start()
        while not self._is_over():
            self._look_at_the_time()
            self._begin_scans()
            self.dispatch.give_work(self.under_way)
            self._hear()

    # The run as a whole

    def _add(self, worklist: Worklist) -> None:
        self.journal.learn()
        for left_out in worklist.left_out:
            self.waiting.forget(left_out.name)
            self._outdate(left_out.name)
            self.journal.leave_out(left_out)
        for scan in worklist.scans:
            self._outdate(scan.name)
            self.waiting.add(scan)
        self.journal.withdraw(worklist)

    def _outdate(self, name: str) -> None:
        """What is under way of a scan that has changed meanwhile gets no name."""
        if name in self.under_way:
            self.under_way[name].is_outdated = True

    def _is_over(self) -> bool:
        goes_on = bool(self.waiting.names or self.goes_on) and self.ending is None
        return not self.under_way and not goes_on

    def _look_at_the_time(self) -> None:
        now = time.monotonic()
        if self.stop.requested and self.ending != "interrupted":
            self.ending = "interrupted"
            self.journal.result.reason = "stopped by a signal"
            self.deadline = now + GRACE_SECONDS
            self._drop(one for one in self.under_way.values() if one.stage != "writing")
            self.dispatch.stop_all_but_writers()
        elif self.ending == "interrupted" and now > self.deadline:
            self._drop(self.under_way.values())
        elif self.ending is None and now > self.deadline:
            self._end("until", f"it is past {self.job.until:%H:%M}; run again to go on")
        self.dispatch.kill_late_workers(self.under_way)

    def _end(self, ending: Ending, reason: str) -> None:
        """Begin no more scans; what is under way goes on."""
        if self.ending is None:
            self.ending, self.journal.result.reason = ending, printable(reason)
            _logger.warning("no more scans are begun: %s", self.journal.result.reason)

    def _end_by(self, error: OutputError) -> None:
        """End since the output folder cannot be written."""
        ending = disk_trouble(error)
        if ending is None:
            raise error
        self._end(ending, str(error))

    # Scans begin

    def _begin_scans(self) -> None:
        while self.ending is None and (scan := self.waiting.next(self.under_way)):
            under_way = self.under_way.values()
            if not is_room_for(scan, under_way, self.crews.most_jobs, self.crews.memory_bytes):
                return
            if not self.dispatch.may_begin():
                return
            if not is_disk_space_for(scan, under_way, self.setting.output):
                free = free_bytes(self.setting.output) / 2**20
                self._end("disk_full", f"{free:.0f} MiB are free on the disk; free some space")
                return
            self.waiting.remove(scan)
            self._begin(UnderWay(scan, output_name(scan, self.job.kind)))

    def _begin(self, one: UnderWay) -> None:
        """Look whether there is a result, or claim the scan and read it."""
        self.under_way[one.scan.name] = one
        self.journal.learn()
        is_there = os.path.lexists(self.setting.output / one.target)
        if is_there and self.journal.records.results(one.scan.name):
            self.dispatch.wait(one)
        else:
            self._claim(one)

    def _claim(self, one: UnderWay) -> None:
        """Have a scan read, unless another run has it or has settled it."""
        try:
            one.claim = self.claims.take(one.scan.name)
        except OutputError as error:
            self._drop([one])
            self._end_by(error)
            return
        self.journal.learn()
        if one.claim is None:
            self._leave(one)
            self.waiting.put_back(one.scan, elsewhere=True)
        else:
            self.journal.taken(one.scan)
            one.stage = "queued"
            self.dispatch.wait(one)
            self.crews.devices.start()

    # Work comes back

    def _hear(self) -> None:
        """Wait a moment for a message, and take in all that are there."""
        try:
            message = self.crews.inbox.get(timeout=TICK_SECONDS)
            while True:
                self._take_in(message)
                message = self.crews.inbox.get_nowait()
        except queue.Empty:
            return

    def _take_in(self, message: Any) -> None:
        if isinstance(message, Arrived):
            if message.error:
                raise message.error
            self._add(message.worklist)
            return
        assert isinstance(message, Begun | Ready | Done | Lost | Ended)
        if message.worker not in self.crews.workers:
            return  # it was given up
        if isinstance(message, Ended):
            self._take_in_end(message)
            return
        message.worker.note(message)
        if isinstance(message, Done | Lost) and message.ticket in self.under_way:
            one = self.under_way[message.ticket]
            if isinstance(message, Done):
                self.dispatch.has_done()
                self._take_in_outcome(one, message.outcome.said, message.outcome.parts)
            else:
                one.begin_again()
                self.dispatch.wait(one)

    def _take_in_outcome(self, one: UnderWay, said: Any, parts: tuple[Any, ...]) -> None:
        if one.is_outdated:
            self._leave(one)
            return
        match said:
            case WasRead():
                one.read, one.stage = said, "read"
                one.codes, one.rest = parts
                self.dispatch.wait(one)
            case WasPredicted():
                one.prediction, one.stage = said, "predicted"
                one.codes, [one.unit] = None, parts
                self.dispatch.wait(one)
            case Written():
                self._publish(one, said)
            case Unchanged():
                self._leave_alone(one, said.result)
            case NeedsWork():
                self._claim(one)
            case Settled():
                self._leave(one)
                self.journal.settled(said.end)
            case Failed():
                self._fail(one, said)
            case _:
                code = "unexpected" if isinstance(said, UnexpectedError) else code_of(said)
                self._fail(one, Failed(code, str(said)))

    def _take_in_end(self, message: Ended) -> None:
        """Another worker takes the place of one that has ended, and its scans."""
        if self.ending == "interrupted" and message.worker not in self.crews.writers.workers:
            self.crews.forget(message.worker)
            return
        for one in self.dispatch.take_in_end(message, self.under_way):
            if one.is_outdated:
                self._leave(one)
            elif one.late:
                limit = f"{self.job.time_limit_seconds:.0f} s"
                reason = f"took longer than {limit}, so it was given up"
                self._fail(one, Failed("time_limit", reason))
            elif one.deaths > 1:
                self._fail(one, Failed("process_ended", PROCESS_ENDED))
            else:
                one.step_back()
                self.dispatch.wait(one, is_first=one.stage != "queued")

    # Scans end

    def _leave_alone(self, one: UnderWay, result: Result) -> None:
        """Count a scan that has its result; who has its claim may be about to say so."""
        if one.claim is None and not self.journal.is_last_word(one.scan, result):
            self._claim(one)
            return
        self._leave(one)
        self.journal.unchanged(one.scan, result)

    def _publish(self, one: UnderWay, written: Written) -> None:
        """Give a result its name, if the scan is still ours."""
        assert one.claim
        if not self.claims.is_ours(one.claim):
            self._lose(one)
            return
        self.journal.written(one, written)
        target = self.setting.output / one.target
        try:
            publish(written.path, target, self.journal.records.made(one.target))
        except OutputError as error:
            trouble = disk_trouble(error)
            is_foreign = os.path.lexists(target) and not trouble
            code = "foreign_output" if is_foreign else trouble or "output"
            self._fail(one, Failed(code, str(error)))
            return
        self._leave(one)
        self.journal.done(one, written)

    def _leave(self, one: UnderWay) -> None:
        """A scan is no longer under way."""
        self.under_way.pop(one.scan.name, None)
        if one.claim:
            self.claims.release(one.claim)
            one.claim = None

    def _drop(self, dropped: Iterable[UnderWay]) -> None:
        """Give up scans for now; the next run takes them up."""
        for one in list(dropped):
            self._leave(one)
            self.waiting.put_back(one.scan)

    def _lose(self, one: UnderWay) -> None:
        """Another run has taken the scan over, since this one stood still for too long."""
        _logger.warning("%s: another run has taken it over", one.scan.name)
        self._leave(one)
        self.waiting.put_back(one.scan, elsewhere=True)

    def _fail(self, one: UnderWay, failed: Failed) -> None:
        """A scan cannot be translated, or not written any more."""
        if one.claim and not self.claims.is_ours(one.claim):
            self._lose(one)
            return
        if trouble := next((one for one in DISK_TROUBLES if one == failed.code), None):
            self._end(trouble, failed.reason)
        self._leave(one)
        self.journal.failed(one, failed)
