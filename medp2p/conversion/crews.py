"""Workers of one kind, whatever they are: processes, threads, or tasks and actors of a cluster.

A run gives jobs to workers and hears of them by messages in one inbox; it never waits for a
worker. What a job returns has a small part, which the run reads, and large ones, which it only
hands on to the next stage: values, or references to where they lie.
"""

from __future__ import annotations

import logging
import queue
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from medp2p.errors import MedP2PError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a job returns.

    Attributes:
        said: The small part; a `MedP2PError` if the job was refused.
        parts: The large ones, for the next stages.
    """

    said: Any
    parts: tuple[Any, ...] = ()


Work = Callable[..., Outcome]
"""Does a job: gets it, and the large parts that earlier stages have made."""

Inbox = queue.Queue[Any]
"""No SimpleQueue: one of CPython 3.11 waits for ever if a signal comes at a bad moment."""


class UnexpectedError(MedP2PError):
    """An error of medp2p's own, not of the scan."""


def outcome_of(work: Work, job: Any, *parts: Any) -> Outcome:
    """Do a job; what it is refused with is its outcome."""
    said = result_of(work, job, *parts)
    return said if isinstance(said, Outcome) else Outcome(said)


def result_of(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function; what it is refused with is its result."""
    try:
        return function(*arguments)
    except MedP2PError as refusal:
        return refusal
    except MemoryError:
        return MedP2PError("does not fit into this machine's memory")
    except Exception as error:
        _logger.debug("unexpected", exc_info=True)
        return unexpected(error)


def unexpected(error: BaseException) -> UnexpectedError:
    """What a scan fails with when medp2p itself is at fault."""
    kind = type(error).__name__
    return UnexpectedError(f"failed with {kind}, an error of medp2p's; report it")


@dataclass(frozen=True)
class Begun:
    """A worker that waited for a place in a cluster has one, and begins."""

    worker: Worker


@dataclass(frozen=True)
class Ready:
    """A worker can begin with its first job."""

    worker: Worker


@dataclass(frozen=True)
class Done:
    """A job has ended.

    Attributes:
        worker: Who did it.
        ticket: Which one.
        outcome: What came out.
    """

    worker: Worker
    ticket: str
    outcome: Outcome


@dataclass(frozen=True)
class Lost:
    """A job could not begin: the large parts it needs were on a node that is gone."""

    worker: Worker
    ticket: str


@dataclass(frozen=True)
class Ended:
    """A worker has ended, or could not begin.

    Attributes:
        worker: Which.
        refusal: Why it could not begin; None if it died.
        blameless: Whether what it did cannot be the reason: its node is gone.
    """

    worker: Worker
    refusal: MedP2PError | None = None
    blameless: bool = False


Message = Begun | Ready | Done | Lost | Ended


class Worker(ABC):
    """Does jobs one after the other, and never lets the run wait.

    Attributes:
        tickets: Its jobs, the present one first.
        since: When it began what it is at, of `time.monotonic`; None while it has nothing to do,
            or waits for a place in a cluster.
        is_ready: Whether it has begun.
    """

    def __init__(self, *, is_ready: bool = False) -> None:
        self.tickets: deque[str] = deque()
        self.since: float | None = None
        self.is_ready = is_ready

    @property
    def takes_jobs(self) -> bool:
        """Whether it may be given jobs already."""
        return True

    @property
    def is_at_work(self) -> bool:
        """Whether it is doing its first job."""
        return self.is_ready and self.since is not None

    @property
    def seconds(self) -> float:
        """How long it has been at its present job, or at its beginning."""
        return 0.0 if self.since is None else time.monotonic() - self.since

    def give(self, ticket: str, job: Any, *parts: Any) -> None:
        """Give it a job; a `Done`, a `Lost` or an `Ended` will follow."""
        self.tickets.append(ticket)
        if self.is_ready and len(self.tickets) == 1:
            self._begin_clock()
        self._send(ticket, job, parts)

    def note(self, message: Begun | Ready | Done | Lost) -> None:
        """Keep count of a message of its own."""
        if isinstance(message, Begun):
            self.since = time.monotonic()
            return
        if isinstance(message, Ready):
            self.is_ready = True
        if isinstance(message, Done | Lost):
            self.tickets.remove(message.ticket)
        self.since = None
        if self.tickets:
            self._begin_clock()

    def _begin_clock(self) -> None:
        self.since = time.monotonic()

    @abstractmethod
    def _send(self, ticket: str, job: Any, parts: tuple[Any, ...]) -> None: ...

    @abstractmethod
    def kill(self) -> None:
        """End it at once; an `Ended` follows."""

    def join(self) -> None:  # noqa: B027
        """Wait until one that was killed is gone."""


class Crew:
    """Workers of one kind, hired when they are needed.

    Args:
        hire: What makes each of them.
        depth: How many jobs one is given at a time; those not begun are ready at hand.
    """

    def __init__(self, hire: Sequence[Callable[[], Worker]], depth: int = 1) -> None:
        self._hire = hire
        self._depth = depth
        self._workers: list[Worker | None] = [None] * len(hire)

    @property
    def most_jobs(self) -> int:
        """How many jobs it takes at a time."""
        return self._depth * len(self._hire)

    @property
    def workers(self) -> list[Worker]:
        """Those that were hired."""
        return [worker for worker in self._workers if worker]

    def start(self) -> None:
        """Hire all that are not there."""
        for place, worker in enumerate(self._workers):
            if worker is None:
                self._workers[place] = self._hire[place]()

    def with_room(self) -> Worker | None:
        """Return the worker with the fewest jobs, perhaps a new one; None if all have enough."""
        free = (w for w in self.workers if w.takes_jobs and len(w.tickets) < self._depth)
        best = min(free, key=lambda w: len(w.tickets), default=None)
        if (best and not best.tickets) or None not in self._workers:
            return best
        place = self._workers.index(None)
        new = self._workers[place] = self._hire[place]()
        return new if new.takes_jobs else best

    def forget(self, worker: Worker) -> None:
        """Leave out a worker that has ended; another takes its place when one is needed."""
        self._workers = [None if w is worker else w for w in self._workers]

    def stop(self) -> None:
        """Kill all."""
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.join()


@dataclass(frozen=True)
class Crews:
    """Who does what in a run.

    Attributes:
        readers: Read scans; see `medp2p.conversion.work`.
        devices: Predict.
        writers: Write results.
        inbox: Where all messages go.
        memory_bytes: That scans under way may take.
    """

    readers: Crew
    devices: Crew
    writers: Crew
    inbox: Inbox
    memory_bytes: int

    @property
    def all(self) -> tuple[Crew, Crew, Crew]:
        """Readers, devices, writers."""
        return self.readers, self.devices, self.writers

    @property
    def most_jobs(self) -> int:
        """How many scans may be under way."""
        return sum(crew.most_jobs for crew in self.all)

    @property
    def workers(self) -> list[Worker]:
        """All that were hired and have not ended."""
        return [worker for crew in self.all for worker in crew.workers]

    def forget(self, worker: Worker) -> None:
        """Leave out a worker that has ended."""
        for crew in self.all:
            crew.forget(worker)

    def stop(self) -> None:
        """Kill all."""
        for crew in self.all:
            crew.stop()
