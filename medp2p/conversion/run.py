"""The loop of a run: it begins scans, gives work to crews, and takes in what comes back."""

from __future__ import annotations

import logging
import math
import os
import queue
import shutil
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from datetime import time as time_of_day
from typing import Any

from medp2p.conversion.claims import Claims
from medp2p.conversion.crews import Begun, Crews, Done, Ended, Lost, Ready, UnexpectedError
from medp2p.conversion.disk import disk_trouble
from medp2p.conversion.feeder import Arrived
from medp2p.conversion.job import output_name
from medp2p.conversion.run_journal import Conversion, Ending, RunJournal, one_line
from medp2p.conversion.scans import Scan, Worklist
from medp2p.conversion.stages import (
    Failed,
    NeedsWork,
    ReadRequest,
    Setting,
    Unchanged,
    Written,
    code_of,
    publish,
)
from medp2p.conversion.under_way import UnderWay, is_disk_space_for, is_room_for
from medp2p.conversion.work import WasPredicted, WasRead, WriteRequest
from medp2p.errors import MedP2PError, OutputError
from medp2p.signals import StopRequest

_logger = logging.getLogger(__name__)

MOST_DEATHS_IN_A_ROW = 8
"""So many workers may die with no scan done in between; then something else is wrong."""

START_LIMIT_SECONDS = 600.0
"""A worker that has not begun by then is killed."""

GRACE_SECONDS = 30.0
"""After a signal, writes under way may take so long."""

TICK_SECONDS = 0.2
ASK_AGAIN_SECONDS = 2.0
"""How often scans are looked at that another run has."""

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
        self.pending: dict[str, Scan] = {}
        self.elsewhere: dict[str, Scan] = {}  # another run has them
        self.ask_again = 0.0
        self.under_way: dict[str, UnderWay] = {}
        self.to_read: deque[UnderWay] = deque()
        self.to_predict: deque[UnderWay] = deque()
        self.to_write: deque[UnderWay] = deque()
        self.ending: Ending | None = None
        self.deaths = 0
        self.deadline = math.inf
        if self.job.until:
            now = datetime.now()
            self.deadline = (next_time(self.job.until, now) - now).total_seconds()
            self.deadline += time.monotonic()

    def run(self, worklist: Worklist) -> Conversion:
        """Work until all is settled, or the run must end."""
        try:
            total = len(worklist.scans) + len(worklist.left_out)
            self.journal.begin(total, goes_on=self.goes_on)
            self._add(worklist)
            if self.goes_on:
                self.crews.devices.start()
            while not self._is_over():
                self._look_at_the_time()
                self._begin_scans()
                self._give_work()
                self._hear()
        except OutputError as error:
            self._end_by(error)
        except MedP2PError as error:
            self.journal.end_by(error)
            raise
        result = self.journal.result
        result.left = len({*self.pending, *self.elsewhere, *self.under_way})
        result.ended = self.ending or "finished"
        self.journal.end()
        return result

    # The run as a whole

    def _add(self, worklist: Worklist) -> None:
        for left_out in worklist.left_out:
            self.journal.leave_out(left_out)
        for scan in worklist.scans:
            self.journal.has_arrived(scan)
            self.elsewhere.pop(scan.name, None)
            self.pending[scan.name] = scan

    def _is_over(self) -> bool:
        waits = bool(self.pending or self.elsewhere or self.goes_on) and self.ending is None
        return not self.under_way and not waits

    def _look_at_the_time(self) -> None:
        now = time.monotonic()
        if self.stop.requested and self.ending != "interrupted":
            self.ending = "interrupted"
            self.journal.result.reason = "stopped by a signal"
            self.deadline = now + GRACE_SECONDS
            self._drop_all_but_writes()
        elif self.ending == "interrupted" and now > self.deadline:
            self._drop(list(self.under_way.values()))
        elif self.ending is None and now > self.deadline:
            self._end("until", f"it is past {self.job.until:%H:%M}; run again to go on")
        self._kill_late_workers()

    def _end(self, ending: Ending, reason: str) -> None:
        """Begin no more scans; what is under way goes on."""
        if self.ending is None:
            self.ending, self.journal.result.reason = ending, one_line(reason)
            _logger.warning("no more scans are begun: %s", self.journal.result.reason)

    def _end_by(self, error: OutputError) -> None:
        """End since the output folder cannot be written."""
        ending = disk_trouble(error)
        if ending is None:
            raise error
        self._end(ending, str(error))

    def _drop_all_but_writes(self) -> None:
        """Forget what is not being written; the next run takes it up."""
        self._drop([one for one in self.under_way.values() if one.stage != "writing"])
        for waiting in (self.to_read, self.to_predict, self.to_write):
            waiting.clear()
        self.crews.readers.stop()
        self.crews.devices.stop()

    def _drop(self, dropped: Sequence[UnderWay]) -> None:
        for one in dropped:
            self._leave(one)
            self._put_back(one, self.pending)

    # Scans begin

    def _begin_scans(self) -> None:
        if self.elsewhere and time.monotonic() > self.ask_again:
            self.ask_again = time.monotonic() + ASK_AGAIN_SECONDS
            self.pending = {**self.pending, **self.elsewhere}
            self.elsewhere = {}
        while self.ending is None and not self.to_read and (scan := self._next_scan()):
            under_way = self.under_way.values()
            if not is_room_for(scan, under_way, self.crews.most_jobs, self.crews.memory_bytes):
                return
            if self.crews.readers.with_room() is None:
                return
            if not is_disk_space_for(scan, under_way, self.setting.output):
                free = shutil.disk_usage(self.setting.output).free / 2**20
                self._end("disk_full", f"{free:.0f} MiB are free on the disk; free some space")
                return
            del self.pending[scan.name]
            self._begin(UnderWay(scan, output_name(scan, self.job.kind)))

    def _next_scan(self) -> Scan | None:
        """The next scan to begin; one that came again while it is under way has to wait."""
        waiting = (scan for name, scan in self.pending.items() if name not in self.under_way)
        return next(waiting, None)

    def _begin(self, one: UnderWay) -> None:
        """Look whether there is a result, or claim the scan and read it."""
        self.under_way[one.scan.name] = one
        self.journal.learn()
        is_there = os.path.lexists(self.setting.output / one.target)
        if is_there and self.journal.records.results(one.scan.name):
            self.to_read.append(one)
        else:
            self._claim(one)

    def _claim(self, one: UnderWay) -> None:
        """Queue a scan for reading, unless another run has it or has settled it."""
        try:
            one.claim = self.claims.take(one.scan.name)
        except OutputError as error:
            self._drop([one])
            self._end_by(error)
            return
        self.journal.learn()
        if one.claim is None:
            self._leave(one)
            self._put_back(one, self.elsewhere)
        elif self.journal.is_settled(one.scan):
            self._leave(one)
            self.journal.elsewhere()
        else:
            self.journal.taken(one.scan)
            one.stage = "queued"
            self.to_read.append(one)
            self.crews.devices.start()

    def _put_back(self, one: UnderWay, scans: dict[str, Scan]) -> None:
        """A scan waits again, unless it has come again meanwhile."""
        if one.scan.name not in self.pending:
            scans[one.scan.name] = one.scan

    # Work is given

    def _give_work(self) -> None:
        crews = self.crews
        while self.to_read and self._may_read(self.to_read[0]):
            reader = crews.readers.with_room()
            if reader is None:
                break
            one = self.to_read.popleft()
            one.stage = "reading"
            reader.give(one.scan.name, self._request(one))
        while self.to_predict and (device := crews.devices.with_room()):
            one = self.to_predict.popleft()
            one.stage = "predicting"
            device.give(one.scan.name, None, one.codes)
        while self.to_write and (writer := crews.writers.with_room()):
            one = self.to_write.popleft()
            one.stage = "writing"
            writer.give(one.scan.name, self._write_request(one), one.rest, one.unit)

    def _may_read(self, one: UnderWay) -> bool:
        """A scan at which a worker died is tried again alone: memory may have run out."""
        return not one.deaths or all(u.stage == "queued" for u in self.under_way.values())

    def _request(self, one: UnderWay) -> ReadRequest:
        records = self.journal.records
        return ReadRequest(
            one.scan,
            one.target,
            tuple(records.results(one.scan.name)),
            frozenset(records.made(one.target)),
            claimed=one.claim is not None,
        )

    def _write_request(self, one: UnderWay) -> WriteRequest:
        """Each attempt has a folder of its own; of one that broke off something may be left."""
        assert one.claim
        one.writes += 1
        return WriteRequest(one.scan, one.claim.work / str(one.writes))

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
                self.deaths = 0
                self._take_in_outcome(one, message.outcome.said, message.outcome.parts)
            else:
                one.begin_again()
                self.to_read.append(one)

    def _take_in_outcome(self, one: UnderWay, said: Any, parts: tuple[Any, ...]) -> None:
        match said:
            case WasRead():
                one.read, one.stage = said, "read"
                one.codes, one.rest = parts
                self.to_predict.append(one)
            case WasPredicted():
                one.prediction, one.stage = said, "predicted"
                one.codes, [one.unit] = None, parts
                self.to_write.append(one)
            case Written():
                self._publish(one, said)
            case Unchanged():
                self._leave(one)
                self.journal.unchanged(one.scan, said.result)
            case NeedsWork():
                self._claim(one)
            case Failed():
                self._fail(one, said)
            case _:
                code = "unexpected" if isinstance(said, UnexpectedError) else code_of(said)
                self._fail(one, Failed(code, str(said)))

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

    def _take_in_end(self, message: Ended) -> None:
        """Replace a worker that has ended, and give its scans to another one."""
        worker = message.worker
        at_work = worker.tickets[0] if worker.tickets and worker.is_at_work else None
        is_writer = worker in self.crews.writers.workers
        self.crews.forget(worker)
        if self.ending == "interrupted" and not is_writer:
            return
        if message.refusal:
            raise message.refusal
        self.deaths += not message.blameless
        if self.deaths > MOST_DEATHS_IN_A_ROW:
            raise MedP2PError(
                f"{self.deaths} processes ended without a word one after the other; "
                "look for the reason in the system's log, or use fewer readers"
            )
        for name in list(worker.tickets):
            if name in self.under_way:
                is_guilty = name == at_work and not message.blameless
                self._try_again(self.under_way[name], guilty=is_guilty)

    def _try_again(self, one: UnderWay, *, guilty: bool) -> None:
        if one.late:
            limit = f"{self.job.time_limit_seconds:.0f} s"
            reason = f"took longer than {limit}, so it was given up"
            self._fail(one, Failed("time_limit", reason))
            return
        one.deaths += guilty
        if one.deaths > 1:
            self._fail(one, Failed("process_ended", PROCESS_ENDED))
            return
        one.step_back()
        waiting = {"queued": self.to_read, "read": self.to_predict, "predicted": self.to_write}
        waiting[one.stage].appendleft(one)

    def _kill_late_workers(self) -> None:
        for worker in self.crews.workers:
            limit = self.job.time_limit_seconds if worker.is_ready else START_LIMIT_SECONDS
            if worker.seconds <= limit:
                continue
            if worker.is_ready and worker.tickets and worker.tickets[0] in self.under_way:
                self.under_way[worker.tickets[0]].late = True
            worker.kill()

    # Scans end

    def _leave(self, one: UnderWay) -> None:
        """A scan is no longer under way."""
        self.under_way.pop(one.scan.name, None)
        if one.claim:
            self.claims.release(one.claim)
            one.claim = None

    def _lose(self, one: UnderWay) -> None:
        """Another run has taken the scan over, since this one stood still for too long."""
        _logger.warning("%s: another run has taken it over", one.scan.name)
        self._leave(one)
        self._put_back(one, self.elsewhere)

    def _fail(self, one: UnderWay, failed: Failed) -> None:
        """A scan cannot be translated, or not written any more."""
        if one.claim and not self.claims.is_ours(one.claim):
            self._lose(one)
            return
        if failed.code in ("disk_full", "read_only", "disk_error"):
            self._end(failed.code, failed.reason)  # type: ignore[arg-type]
        self._leave(one)
        self.journal.failed(one, failed)
