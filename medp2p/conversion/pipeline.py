"""Scans into translations: many at a time, in bounded memory, stopped by nothing but its end.

Reading is done by processes, prediction by one process per device, writing by threads of this
process. One loop gives them work and keeps the journal. A scan is *under way* from when it is
begun until it is done, skipped or failed.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import queue
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from typing import Any, Literal

from medp2p import __version__
from medp2p.checkpoint import read_card
from medp2p.conversion.claims import Claim, Claims
from medp2p.conversion.job import ConversionJob, output_name
from medp2p.conversion.journal import Event, Journal, Kind
from medp2p.conversion.machine import free_memory_bytes
from medp2p.conversion.processes import Crew, Done, Ended, Ready, Worker
from medp2p.conversion.records import WRITTEN, Records
from medp2p.conversion.scans import LeftOut, Scan, Worklist
from medp2p.conversion.stages import (
    DeviceSetting,
    Failed,
    NeedsWork,
    Prediction,
    ReadRequest,
    ReadScan,
    Setting,
    Unchanged,
    Written,
    begin_device,
    begin_reader,
    code_of,
    publish,
    write_result,
)
from medp2p.errors import MedP2PError, OutputError
from medp2p.signals import StopRequest, stop_signals

_logger = logging.getLogger(__name__)

BYTES_PER_VOXEL = 64
"""Memory that a scan takes at most while it is read, predicted or written, per source voxel."""

UNKNOWN_SCAN_BYTES = 2**30
"""Memory for a scan whose header does not say its size."""

OUTPUT_BYTES_PER_VOXEL = 4
SPARE_DISK_BYTES = 2**20
"""Disk space that is left free, for the journal."""

MOST_DEATHS_IN_A_ROW = 8
"""So many processes may die with no scan done in between; then something else is wrong."""

START_LIMIT_SECONDS = 600.0
"""A process that has not begun by then is killed."""

GRACE_SECONDS = 30.0
"""After a signal, writes under way may take so long."""

TICK_SECONDS = 0.2
ASK_AGAIN_SECONDS = 2.0
"""How often scans are looked at that another run has."""

Ending = Literal["finished", "interrupted", "until", "disk_full", "read_only", "disk_error"]

_DISK_ENDINGS: dict[int, Ending] = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EROFS: "read_only",
    errno.EIO: "disk_error",
}

PROCESS_ENDED = "its process ended without a word twice, out of memory perhaps; use fewer readers"


@dataclass
class Conversion:
    """What became of a worklist in one run.

    Attributes:
        run: Name of the run in the journal.
        done: Scans translated.
        unchanged: Scans that had their result already.
        elsewhere: Scans that another run settled meanwhile.
        skipped: Scans that the model is not for, those of the worklist included.
        failed: Scans that could not be translated, those of the worklist included.
        left: Scans that were not begun, or given up when the run was stopped.
        ended: Why the run ended.
        reason: In one line, if it ended early.
    """

    run: str
    done: int = 0
    unchanged: int = 0
    elsewhere: int = 0
    skipped: int = 0
    failed: int = 0
    left: int = 0
    ended: Ending = "finished"
    reason: str = ""


def convert(
    worklist: Worklist,
    output: Path,
    job: ConversionJob,
    *,
    on_event: Callable[[Event], None] | None = None,
) -> Conversion:
    """Translate the scans of a worklist into a folder.

    What the folder holds already of the same scan, model and settings is left alone. What is
    ours and was made otherwise is replaced; what is not ours never is. Any number of runs may
    share the folder (`medp2p.conversion.claims`). SIGINT and SIGTERM end the run in order: writes
    under way are finished; a second one ends it at once.

    Args:
        worklist: From `medp2p.conversion.worklist.make_worklist`.
        output: The folder; made if it is not there.
        job: How scans are translated.
        on_event: Called in this process after each event of the journal; whatever it does, the
            pipeline waits for it.

    Raises:
        CheckpointError: If the model cannot be read.
        MedP2PError: If a device is not there, or processes die one after the other.
        OutputError: If the folder cannot be written at the beginning.
    """
    card, model_hash = read_card(job.model)
    labels = replace(
        job.labels,
        model_name=job.model.name,
        model_hash=model_hash,
        settings=f"mask {job.mask}",
    )
    job = replace(job, labels=labels)
    setting = Setting(
        job,
        output,
        job.settings_hash(model_hash),
        card.source_names,
        card.config.preprocessing,
        card.target_range,
        card.fingerprint,
    )
    with (
        Journal(output) as journal,
        Claims(output, journal.run, job.lease_seconds) as claims,
        stop_signals() as stop,
        _crews(setting, model_hash) as crews,
    ):
        run = _Run(worklist, setting, journal, claims, crews, stop, on_event)
        return run.run()


def next_time(until: time_of_day, now: datetime) -> datetime:
    """Return the first moment after ``now`` with this time of day."""
    wanted = datetime.combine(now.date(), until)
    return wanted if wanted > now else wanted + timedelta(days=1)


@dataclass(eq=False)
class _UnderWay:
    """A scan under way.

    Attributes:
        scan: Which.
        target: Where its result will lie below the output folder.
        stage: Where it is.
        began: When, of `time.monotonic`.
        claim: None while it is only looked at.
        read: Once it was read.
        prediction: Once it was predicted.
        deaths: How many processes died at it.
        late: Whether its process was killed for being late.
    """

    scan: Scan
    target: str
    stage: Literal["queued", "reading", "read", "predicting", "predicted", "writing"] = "queued"
    began: float = field(default_factory=time.monotonic)
    claim: Claim | None = None
    read: ReadScan | None = None
    prediction: Prediction | None = None
    deaths: int = 0
    late: bool = False

    @property
    def memory_bytes(self) -> int:
        """What it takes at most."""
        return self.scan.voxels * len(self.scan.images) * BYTES_PER_VOXEL or UNKNOWN_SCAN_BYTES

    @property
    def disk_bytes(self) -> int:
        """What its result takes at most."""
        return self.scan.voxels * OUTPUT_BYTES_PER_VOXEL


@dataclass(frozen=True)
class _Wrote:
    """A thread has written a result, or could not."""

    name: str
    result: Written | BaseException


@dataclass(frozen=True)
class _Crews:
    readers: Crew
    devices: Crew
    inbox: queue.SimpleQueue[Any]

    def of(self, worker: Worker) -> Crew:
        return self.readers if worker in self.readers.workers else self.devices


@contextmanager
def _crews(setting: Setting, model_hash: str) -> Iterator[_Crews]:
    job = setting.job
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    devices = [
        DeviceSetting(job.model, model_hash, device, job.precision, job.batch_size)
        for device in job.devices
    ]
    crews = _Crews(
        Crew(begin_reader, [setting] * job.readers, inbox),
        Crew(begin_device, devices, inbox, depth=2),
        inbox,
    )
    try:
        yield crews
    finally:
        crews.readers.stop()
        crews.devices.stop()


class _Run:
    """One run: the loop, and where every scan is."""

    def __init__(
        self,
        worklist: Worklist,
        setting: Setting,
        journal: Journal,
        claims: Claims,
        crews: _Crews,
        stop: StopRequest,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        self.worklist = worklist
        self.setting = setting
        self.job = setting.job
        self.journal = journal
        self.claims = claims
        self.crews = crews
        self.stop = stop
        self.on_event = on_event
        self.records = Records(setting.output)
        self.result = Conversion(journal.run)
        self.pending = deque(worklist.scans)
        self.elsewhere: deque[Scan] = deque()  # another run has them
        self.ask_again = 0.0
        self.under_way: dict[str, _UnderWay] = {}
        self.to_read: deque[_UnderWay] = deque()
        self.to_predict: deque[_UnderWay] = deque()
        self.to_write: deque[_UnderWay] = deque()
        self.ending: Ending | None = None
        self.deaths = 0
        self.settings_of_run: dict[str, str] = {}
        self.settled: set[str] = set()  # by other runs, since this one began
        self.memory = self.job.memory_bytes or free_memory_bytes() // 2
        self.deadline = math.inf
        if self.job.until:
            now = datetime.now()
            self.deadline = (next_time(self.job.until, now) - now).total_seconds()
            self.deadline += time.monotonic()

    def run(self) -> Conversion:
        """Work until all is settled, or the run must end."""
        try:
            self._begin_run()
            while not self._is_over():
                self._look_at_the_time()
                self._begin_scans()
                self._give_work()
                self._hear()
        except OutputError as error:
            self._end_by(error)
        except MedP2PError as error:
            self._note("ended", code="error", reason=_one_line(str(error)))
            raise
        self.result.left = len(self.pending) + len(self.elsewhere) + len(self.under_way)
        self.result.ended = self.ending or "finished"
        counts = {
            name: getattr(self.result, name)
            for name in ("done", "unchanged", "elsewhere", "skipped", "failed", "left")
        }
        try:
            self._note("ended", code=self.result.ended, reason=self.result.reason, details=counts)
        except OutputError as error:
            _logger.warning("%s", error)
        return self.result

    # The run as a whole

    def _begin_run(self) -> None:
        self._learn_from_journals()
        self.settled.clear()
        total = len(self.worklist.scans) + len(self.worklist.left_out)
        details = {
            "scans": total,
            "settings": self.setting.settings_hash,
            "model": self.job.labels.model_hash,
            "version": __version__,
        }
        self._note("run", details=details)
        for left_out in self.worklist.left_out:
            self._leave_out(left_out)

    def _leave_out(self, left_out: LeftOut) -> None:
        kind: Literal["failed", "skipped"] = "failed" if left_out.failed else "skipped"
        self._count(kind)
        last = self.records.last.get(left_out.name)
        known = last and (last.kind, last.code, last.reason)
        if known != (kind, left_out.code, left_out.reason):
            self._note(kind, scan=left_out.name, code=left_out.code, reason=left_out.reason)

    def _is_over(self) -> bool:
        waits = bool(self.pending or self.elsewhere) and self.ending is None
        return not self.under_way and not waits

    def _look_at_the_time(self) -> None:
        now = time.monotonic()
        if self.stop.requested and self.ending != "interrupted":
            self.ending = "interrupted"
            self.result.reason = "stopped by a signal"
            self.deadline = now + GRACE_SECONDS
            self._drop_all_but_writes()
        elif self.ending == "interrupted" and now > self.deadline:
            self.under_way = {}
        elif self.ending is None and now > self.deadline:
            self._end("until", f"it is past {self.job.until:%H:%M}; run again to go on")
        self._kill_late_workers()

    def _end(self, ending: Ending, reason: str) -> None:
        """Begin no more scans; what is under way goes on."""
        if self.ending is None:
            self.ending, self.result.reason = ending, _one_line(reason)
            _logger.warning("no more scans are begun: %s", self.result.reason)

    def _end_by(self, error: OutputError) -> None:
        """End since the output folder cannot be written."""
        ending = _disk_ending(error)
        if ending is None:
            raise error
        self._end(ending, str(error))

    def _drop_all_but_writes(self) -> None:
        """Forget what is not being written; the next run takes it up."""
        dropped = [u for u in self.under_way.values() if u.stage != "writing"]
        for one in dropped:
            self._leave(one)
            self.pending.append(one.scan)
        for waiting in (self.to_read, self.to_predict, self.to_write):
            waiting.clear()
        self.crews.readers.stop()
        self.crews.devices.stop()

    # Scans begin

    def _begin_scans(self) -> None:
        if self.elsewhere and time.monotonic() > self.ask_again:
            self.ask_again = time.monotonic() + ASK_AGAIN_SECONDS
            self.pending.extend(self.elsewhere)
            self.elsewhere.clear()
        while self.pending and self.ending is None and not self.to_read:
            one = _UnderWay(self.pending[0], output_name(self.pending[0], self.job.kind))
            if not self._has_room(one):
                return
            if not self._has_disk_space(one):
                free = shutil.disk_usage(self.setting.output).free / 2**20
                self._end("disk_full", f"{free:.0f} MiB are free on the disk; free some space")
                return
            self.pending.popleft()
            self._begin(one)

    def _has_room(self, new: _UnderWay) -> bool:
        """Whether a reader is free, and memory for one more."""
        if any(u.deaths and u.stage == "reading" for u in self.under_way.values()):
            return False
        most = self.job.readers + 2 * len(self.job.devices) + self.job.writers
        memory = sum(u.memory_bytes for u in self.under_way.values())
        fits = not self.under_way or memory + new.memory_bytes <= self.memory
        is_few = len(self.under_way) < most
        return fits and is_few and self.crews.readers.with_room() is not None

    def _has_disk_space(self, new: _UnderWay) -> bool:
        wanted = sum(u.disk_bytes for u in (*self.under_way.values(), new))
        return shutil.disk_usage(self.setting.output).free >= wanted + SPARE_DISK_BYTES

    def _begin(self, one: _UnderWay) -> None:
        """Look whether there is a result, or claim the scan and read it."""
        self.under_way[one.scan.name] = one
        self._learn_from_journals()
        is_there = os.path.lexists(self.setting.output / one.target)
        if is_there and self.records.results(one.scan.name):
            self.to_read.append(one)
        else:
            self._claim(one)

    def _claim(self, one: _UnderWay) -> None:
        """Queue a scan for reading, unless another run has it or has settled it."""
        try:
            one.claim = self.claims.take(one.scan.name)
        except OutputError as error:
            self._leave(one)
            self.pending.append(one.scan)
            self._end_by(error)
            return
        self._learn_from_journals()
        if one.claim is None:
            self._leave(one)
            self.elsewhere.append(one.scan)
        elif one.scan.name in self.settled:
            self._leave(one)
            self.result.elsewhere += 1
        else:
            self._note("taken", scan=one.scan.name)
            one.stage = "queued"
            self.to_read.append(one)
            self.crews.devices.start()

    # Work is given

    def _give_work(self) -> None:
        while self.to_read and self._may_read(self.to_read[0]):
            reader = self.crews.readers.with_room()
            if reader is None:
                break
            one = self.to_read.popleft()
            one.stage = "reading"
            reader.give(one.scan.name, self._request(one))
        while self.to_predict and (device := self.crews.devices.with_room()):
            one = self.to_predict.popleft()
            assert one.read
            one.stage = "predicting"
            device.give(one.scan.name, one.read.prepared.codes)
        writing = sum(u.stage == "writing" for u in self.under_way.values())
        while self.to_write and writing < self.job.writers:
            self._start_writing(self.to_write.popleft())
            writing += 1

    def _may_read(self, one: _UnderWay) -> bool:
        """A scan at which a process died is tried again alone: memory may have run out."""
        return not one.deaths or all(u.stage == "queued" for u in self.under_way.values())

    def _request(self, one: _UnderWay) -> ReadRequest:
        return ReadRequest(
            one.scan,
            one.target,
            tuple(self.records.results(one.scan.name)),
            frozenset(self.records.made(one.target)),
            claimed=one.claim is not None,
        )

    def _start_writing(self, one: _UnderWay) -> None:
        read, prediction, claim = one.read, one.prediction, one.claim
        assert read
        assert prediction
        assert claim

        def write() -> None:
            result: Written | BaseException
            try:
                result = write_result(one.scan, read, prediction.unit, self.setting, claim.work)
            except BaseException as error:
                result = error
            self.crews.inbox.put(_Wrote(one.scan.name, result))

        one.stage = "writing"
        threading.Thread(target=write, daemon=True).start()

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
        if isinstance(message, _Wrote):
            if message.name in self.under_way:
                self._take_in_written(self.under_way[message.name], message.result)
            return
        assert isinstance(message, Ready | Done | Ended)
        message.worker.note(message)
        if isinstance(message, Ended):
            self._take_in_end(message)
        elif isinstance(message, Done) and message.ticket in self.under_way:
            self.deaths = 0
            one = self.under_way[message.ticket]
            if isinstance(message.result, MedP2PError):
                self._fail(one, code_of(message.result), str(message.result))
            elif one.stage == "reading":
                self._take_in_read(one, message.result)
            else:
                one.prediction, one.stage = message.result, "predicted"
                self.to_write.append(one)

    def _take_in_read(self, one: _UnderWay, result: Any) -> None:
        if isinstance(result, Unchanged):
            self._leave_alone(one, result)
        elif isinstance(result, NeedsWork):
            self._claim(one)
        elif isinstance(result, Failed):
            self._fail(one, result.code, result.reason, failed=result)
        else:
            one.read, one.stage = result, "read"
            self.to_predict.append(one)

    def _take_in_written(self, one: _UnderWay, result: Written | BaseException) -> None:
        assert one.claim
        assert one.read
        assert one.prediction
        if not isinstance(result, Written):
            self._fail_to_write(one, result)
            return
        if not self.claims.is_ours(one.claim):
            self._lose(one)
            return
        name, key = one.scan.name, one.read.key
        outputs = {one.target: result.content.as_values()}
        self._note("taken", scan=name, key=key, code=WRITTEN, details={"outputs": outputs})
        try:
            publish(result.path, self.setting.output / one.target, self.records.made(one.target))
        except OutputError as error:
            self._fail_to_write(one, error)
            return
        reasons = one.read.quality.get("guard_reasons", ())
        stages = {
            "read": one.read.seconds,
            "predict": one.prediction.seconds,
            "write": result.seconds,
        }
        quality = {
            **one.read.quality,
            "clipped": result.clipped,
            "batch_size": one.prediction.batch_size,
        }
        details = {
            "outputs": outputs,
            "seconds": round(time.monotonic() - one.began, 3),
            "stages": {stage: round(seconds, 3) for stage, seconds in stages.items()},
            "quality": quality,
        }
        self._leave(one)
        self._count("done")
        self._note(
            "done",
            scan=name,
            key=key,
            code="guard_forced" if reasons else "",
            reason="; ".join(reasons),
            details=details,
        )

    def _fail_to_write(self, one: _UnderWay, error: BaseException) -> None:
        if isinstance(error, OutputError):
            ending = _disk_ending(error)
            if ending:
                self._end(ending, str(error))
            is_foreign = os.path.lexists(self.setting.output / one.target) and not ending
            self._fail(one, ending or ("foreign_output" if is_foreign else "output"), str(error))
        elif isinstance(error, MedP2PError):
            self._fail(one, code_of(error), str(error))
        elif not self.claims.is_ours(one.claim):  # type: ignore[arg-type]
            self._lose(one)
        else:
            _logger.debug("unexpected", exc_info=error)
            kind = type(error).__name__
            self._fail(one, "unexpected", f"failed with {kind}, an error of medp2p's; report it")

    def _take_in_end(self, message: Ended) -> None:
        """Replace a worker that has ended, and give its scans to another one."""
        worker = message.worker
        self.crews.of(worker).forget(worker)
        if self.ending == "interrupted":
            return
        if message.refusal:
            raise message.refusal
        self.deaths += 1
        if self.deaths > MOST_DEATHS_IN_A_ROW:
            raise MedP2PError(
                f"{self.deaths} processes ended without a word one after the other; "
                "look for the reason in the system's log, or use fewer readers"
            )
        for place, name in enumerate(list(worker.tickets)):
            if name in self.under_way:
                is_guilty = place == 0 and worker.is_ready
                self._try_again(self.under_way[name], guilty=is_guilty)

    def _try_again(self, one: _UnderWay, *, guilty: bool) -> None:
        if one.late:
            limit = f"{self.job.time_limit_seconds:.0f} s"
            self._fail(one, "time_limit", f"took longer than {limit}, so it was given up")
            return
        one.deaths += guilty
        if one.deaths > 1:
            self._fail(one, "process_ended", PROCESS_ENDED)
        elif one.stage == "reading":
            one.stage = "queued"
            self.to_read.append(one)
        else:
            one.stage = "read"
            self.to_predict.appendleft(one)

    def _kill_late_workers(self) -> None:
        for worker in (*self.crews.readers.workers, *self.crews.devices.workers):
            limit = self.job.time_limit_seconds if worker.is_ready else START_LIMIT_SECONDS
            if worker.seconds <= limit:
                continue
            if worker.is_ready and worker.tickets and worker.tickets[0] in self.under_way:
                self.under_way[worker.tickets[0]].late = True
            worker.kill()

    # Scans end

    def _leave(self, one: _UnderWay) -> None:
        """A scan is no longer under way."""
        self.under_way.pop(one.scan.name, None)
        if one.claim:
            self.claims.release(one.claim)
            one.claim = None

    def _lose(self, one: _UnderWay) -> None:
        """Another run has taken the scan over, since this one stood still for too long."""
        _logger.warning("%s: another run has taken it over", one.scan.name)
        self.under_way.pop(one.scan.name)
        self.elsewhere.append(one.scan)

    def _leave_alone(self, one: _UnderWay, unchanged: Unchanged) -> None:
        self._leave(one)
        self._count("unchanged")
        event = unchanged.result.event
        last = self.records.last.get(one.scan.name)
        if last and last.kind == "done" and last.key == event.key:
            if self.on_event:
                self.on_event(last)
            return
        self._note("done", scan=one.scan.name, key=event.key, details=event.details)

    def _fail(self, one: _UnderWay, code: str, reason: str, failed: Failed | None = None) -> None:
        kind: Literal["failed", "skipped"] = "skipped" if failed and failed.skipped else "failed"
        key = failed.key if failed else one.read.key if one.read else ""
        details = {"quality": dict(failed.quality)} if failed and failed.quality else {}
        self._leave(one)
        self._count(kind)
        self._note(
            kind,
            scan=one.scan.name,
            key=key,
            code=code,
            reason=self._in_one_line(one.scan, reason),
            details=details,
        )

    def _in_one_line(self, scan: Scan, reason: str) -> str:
        if self.job.hash_names:
            paths = {str(path) for image in scan.images for path in (image.path, *image.files)}
            for path in sorted(paths, key=len, reverse=True):
                reason = reason.replace(path, scan.name)
        return _one_line(reason)

    # The journal

    def _note(self, kind: Kind, **values: Any) -> None:
        event = self.journal.add(kind, **values)
        if self.on_event:
            self.on_event(event)

    def _count(self, what: Literal["done", "unchanged", "skipped", "failed"]) -> None:
        setattr(self.result, what, getattr(self.result, what) + 1)

    def _learn_from_journals(self) -> None:
        """Take in what other runs have done since the last look."""
        for event in self.records.update():
            if event.kind == "run":
                self.settings_of_run[event.run] = str(event.details.get("settings", ""))
            same = self.settings_of_run.get(event.run) == self.setting.settings_hash
            is_end = event.kind in ("done", "skipped", "failed")
            if is_end and same and event.run != self.journal.run:
                self.settled.add(event.scan)


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _disk_ending(error: BaseException | None) -> Ending | None:
    """Which trouble of the disk is behind an error, if any."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_ENDINGS:
            return _DISK_ENDINGS[error.errno]
        error = error.__cause__
    return None
