"""Scans under way that wait for a worker, and what workers are given."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from medp2p.conversion.crews import Crews, Ended
from medp2p.conversion.run_journal import RunJournal
from medp2p.conversion.under_way import Stage, UnderWay
from medp2p.conversion.work import WriteRequest
from medp2p.errors import MedP2PError

MOST_DEATHS_IN_A_ROW = 8
"""So many workers may die with no job done in between; then something else is wrong."""

START_LIMIT_SECONDS = 600.0
"""A worker that has not begun by then is killed."""

UnderWays = Mapping[str, UnderWay]


class Dispatch:
    """Gives scans to the workers of their next stage.

    Args:
        crews: The workers.
        journal: What was made before.
        time_limit_seconds: A worker that is at one scan for longer is killed.
    """

    def __init__(self, crews: Crews, journal: RunJournal, time_limit_seconds: float) -> None:
        self._crews = crews
        self._journal = journal
        self._time_limit = time_limit_seconds
        self._waiting: dict[Stage, deque[UnderWay]] = {
            "queued": deque(),
            "read": deque(),
            "predicted": deque(),
        }
        self._deaths = 0  # since a job was done

    def wait(self, one: UnderWay, *, is_first: bool = False) -> None:
        """Let a scan wait for a worker of its next stage."""
        waiting = self._waiting[one.stage]
        if is_first:
            waiting.appendleft(one)
        else:
            waiting.append(one)

    def may_begin(self) -> bool:
        """Whether a reader is free for one more scan, and no other waits for it."""
        return not self._waiting["queued"] and self._crews.readers.with_room() is not None

    def give_work(self, under_way: UnderWays) -> None:
        """Give workers what waits for them."""
        to_read, to_predict, to_write = self._waiting.values()
        while to_read and _may_read(to_read[0], under_way):
            reader = self._crews.readers.with_room()
            if reader is None:
                break
            one = to_read.popleft()
            one.stage = "reading"
            reader.give(one.scan.name, self._journal.read_request(one))
        while to_predict and (device := self._crews.devices.with_room()):
            one = to_predict.popleft()
            one.stage = "predicting"
            device.give(one.scan.name, None, one.codes)
        while to_write and (writer := self._crews.writers.with_room()):
            one = to_write.popleft()
            one.stage = "writing"
            writer.give(one.scan.name, _write_request(one), one.rest, one.unit)

    def stop_all_but_writers(self) -> None:
        """Forget what waits, and kill who reads and predicts."""
        for waiting in self._waiting.values():
            waiting.clear()
        self._crews.readers.stop()
        self._crews.devices.stop()

    def kill_late_workers(self, under_way: UnderWays) -> None:
        """Kill workers that are at one thing for too long, and mark their scans."""
        for worker in self._crews.workers:
            limit = self._time_limit if worker.is_ready else START_LIMIT_SECONDS
            if worker.seconds <= limit:
                continue
            if worker.is_ready and worker.tickets and worker.tickets[0] in under_way:
                under_way[worker.tickets[0]].late = True
            worker.kill()

    def has_done(self) -> None:
        """Note that a job was done: workers do not all die."""
        self._deaths = 0

    def take_in_end(self, message: Ended, under_way: UnderWays) -> list[UnderWay]:
        """Leave out a worker that has ended.

        Returns:
            Its scans; the one that it died at has one more death.

        Raises:
            MedP2PError: If it could not begin, or too many have died.
        """
        worker = message.worker
        at_work = worker.tickets[0] if worker.tickets and worker.is_at_work else None
        self._crews.forget(worker)
        if message.refusal:
            raise message.refusal
        self._deaths += not message.blameless
        if self._deaths > MOST_DEATHS_IN_A_ROW:
            raise MedP2PError(
                f"{self._deaths} processes ended without a word one after the other; "
                "look for the reason in the system's log, or use fewer readers"
            )
        if at_work and at_work in under_way and not message.blameless:
            under_way[at_work].deaths += 1
        return [under_way[name] for name in worker.tickets if name in under_way]


def _may_read(one: UnderWay, under_way: UnderWays) -> bool:
    """A scan at which a worker died is tried again alone: memory may have run out."""
    return not one.deaths or all(other.stage == "queued" for other in under_way.values())


def _write_request(one: UnderWay) -> WriteRequest:
    """Each attempt has a folder of its own; of one that broke off something may be left."""
    assert one.claim
    one.writes += 1
    return WriteRequest(one.scan, one.claim.work / str(one.writes))
