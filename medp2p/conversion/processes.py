"""Processes that do jobs and may hang or die without harm to anything else.

A `Worker` is one process and the pipe to it. Two threads of this process keep the pipe's ends, so
that nobody else ever waits for it; what comes out is put into an inbox. Arrays travel by pickle.
"""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from medp2p.errors import MedP2PError
from medp2p.workers import begin_worker

_logger = logging.getLogger(__name__)

Work = Callable[[Any], Any]
"""Does a job; a `MedP2PError` that it raises is its result."""

_READY = "ready"
_REFUSED = "refused"
_DONE = "done"


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
        result: What came out: a `MedP2PError` if it was refused.
    """

    worker: Worker
    ticket: str
    result: Any


@dataclass(frozen=True)
class Ended:
    """A worker has ended, or could not begin.

    Attributes:
        worker: Which.
        refusal: Why it could not begin; None if it died.
    """

    worker: Worker
    refusal: MedP2PError | None


Message = Ready | Done | Ended


class Worker:
    """A process that does jobs one after the other.

    Args:
        begin: Importable by name; called once in the process, returns what does the jobs.
        setting: Its argument.
        inbox: Where messages go.
        depth: How many jobs it can be given; those it has not begun are in its memory already.
    """

    def __init__(
        self,
        begin: Callable[[Any], Work],
        setting: Any,
        inbox: queue.SimpleQueue[Any],
        depth: int = 1,
    ) -> None:
        self.depth = depth
        self.tickets: deque[str] = deque()
        self.since = time.monotonic()
        self.is_ready = False
        self._inbox = inbox
        self._outbox: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, begin, setting), daemon=True)
        self._process.start()
        theirs.close()
        for keep in (self._send_jobs, self._receive_results):
            threading.Thread(target=keep, daemon=True).start()

    @property
    def pid(self) -> int | None:
        """Number of the process."""
        return self._process.pid

    @property
    def has_room(self) -> bool:
        """Whether it can be given another job."""
        return len(self.tickets) < self.depth

    @property
    def seconds(self) -> float:
        """How long it has been beginning, or at its present job; 0 if it has none."""
        return time.monotonic() - self.since if self.tickets or not self.is_ready else 0.0

    def give(self, ticket: str, job: Any) -> None:
        """Give it a job; a `Done` or an `Ended` will follow."""
        if not self.tickets and self.is_ready:
            self.since = time.monotonic()
        self.tickets.append(ticket)
        self._outbox.put((ticket, job))

    def note(self, message: Message) -> None:
        """Keep count of a message of its own."""
        self.since = time.monotonic()
        if isinstance(message, Ready):
            self.is_ready = True
        if isinstance(message, Done):
            self.tickets.popleft()

    def kill(self) -> None:
        """End the process at once; an `Ended` follows."""
        self._process.kill()
        self._outbox.put(None)

    def join(self) -> None:
        """Wait for a process that was killed."""
        self._process.join(10)

    def _send_jobs(self) -> None:
        with suppress(OSError):
            while parcel := self._outbox.get():
                _send(self._pipe, parcel)

    def _receive_results(self) -> None:
        refusal = None
        try:
            while True:
                kind, ticket, result = _receive(self._pipe)
                if kind == _READY:
                    self._inbox.put(Ready(self))
                elif kind == _REFUSED:
                    refusal = result
                else:
                    self._inbox.put(Done(self, ticket, result))
        except (EOFError, OSError, pickle.UnpicklingError):
            self._process.kill()
        finally:
            self._outbox.put(None)
            self._inbox.put(Ended(self, refusal))


class Crew:
    """Workers of one kind, started when they are needed.

    Args:
        begin: As for `Worker`.
        settings: One per worker.
        inbox: Where messages go.
        depth: As for `Worker`.
    """

    def __init__(
        self,
        begin: Callable[[Any], Work],
        settings: Sequence[Any],
        inbox: queue.SimpleQueue[Any],
        depth: int = 1,
    ) -> None:
        self._begin = begin
        self._inbox = inbox
        self._depth = depth
        self._settings = list(settings)
        self._workers: list[Worker | None] = [None] * len(self._settings)

    @property
    def workers(self) -> list[Worker]:
        """Those that were started."""
        return [worker for worker in self._workers if worker]

    def start(self) -> None:
        """Start all that are not there."""
        for place, worker in enumerate(self._workers):
            if worker is None:
                self._start(place)

    def with_room(self) -> Worker | None:
        """Return the worker with the fewest jobs, perhaps a new one; None if all have enough."""
        free = sorted((w for w in self.workers if w.has_room), key=lambda w: len(w.tickets))
        if free and not free[0].tickets:
            return free[0]
        if None in self._workers:
            return self._start(self._workers.index(None))
        return free[0] if free else None

    def forget(self, worker: Worker) -> None:
        """Leave out a worker that has ended; another takes its place when one is needed."""
        self._workers = [None if w is worker else w for w in self._workers]

    def stop(self) -> None:
        """Kill all."""
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.join()

    def _start(self, place: int) -> Worker:
        worker = Worker(self._begin, self._settings[place], self._inbox, self._depth)
        self._workers[place] = worker
        return worker


def _serve(pipe: Connection, begin: Callable[[Any], Work], setting: Any) -> None:
    """Do jobs until the parent ends, whatever signals the terminal or the cluster sends."""
    begin_worker()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    jobs: queue.Queue[tuple[str, Any]] = queue.Queue(1)
    threading.Thread(target=_fetch_jobs, args=(pipe, jobs), daemon=True).start()
    work = _result_of(begin, setting)
    if isinstance(work, MedP2PError):
        _send(pipe, (_REFUSED, "", work))
        return
    _send(pipe, (_READY, "", None))
    while True:
        ticket, job = jobs.get()
        _send(pipe, (_DONE, ticket, _result_of(work, job)))


def _fetch_jobs(pipe: Connection, jobs: queue.Queue[tuple[str, Any]]) -> None:
    with suppress(EOFError, OSError):
        while True:
            jobs.put(_receive(pipe))


def _result_of(function: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return function(argument)
    except MedP2PError as refusal:
        return refusal
    except MemoryError:
        return MedP2PError("does not fit into this machine's memory")
    except Exception as error:
        _logger.debug("unexpected", exc_info=True)
        return MedP2PError(f"failed with {type(error).__name__}, an error of medp2p's; report it")


def _send(pipe: Connection, value: Any) -> None:
    pipe.send_bytes(pickle.dumps(value, protocol=5))


def _receive(pipe: Connection) -> Any:
    return pickle.loads(pipe.recv_bytes())
