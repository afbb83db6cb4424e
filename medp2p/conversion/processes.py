"""Processes that do jobs and may hang or die without harm to anything else.

A `Process` is one process and the pipe to it. Two threads of this process keep the pipe's ends,
so that nobody else ever waits for it; what comes out is put into an inbox. Arrays travel as
`medp2p.conversion.transport` says.
"""

from __future__ import annotations

import multiprocessing
import pickle
import queue
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from medp2p.conversion.crews import Done, Ended, Inbox, Ready, Work, Worker, outcome_of, result_of
from medp2p.conversion.transport import receive, send
from medp2p.errors import MedP2PError
from medp2p.workers import begin_worker

_READY = "ready"
_REFUSED = "refused"
_DONE = "done"


class Process(Worker):
    """A process that does jobs one after the other.

    Args:
        begin: Importable by name; called once in the process, returns what does the jobs.
        setting: Its argument.
        inbox: Where messages go.
    """

    def __init__(self, begin: Callable[[Any], Work], setting: Any, inbox: Inbox) -> None:
        super().__init__()
        self.since = time.monotonic()
        self._inbox = inbox
        self._outbox: queue.SimpleQueue[tuple[str, Any, tuple[Any, ...]] | None]
        self._outbox = queue.SimpleQueue()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, begin, setting), daemon=True)
        self._process.start()
        theirs.close()
        for keep in (self._send_jobs, self._receive_results):
            threading.Thread(target=keep, daemon=True).start()

    def _send(self, ticket: str, job: Any, parts: tuple[Any, ...]) -> None:
        self._outbox.put((ticket, job, parts))

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
                send(self._pipe, parcel)
        self._process.kill()  # nothing more will come, or it could not be sent

    def _receive_results(self) -> None:
        refusal = None
        try:
            while True:
                kind, ticket, result = receive(self._pipe)
                if kind == _READY:
                    self._inbox.put(Ready(self))
                elif kind == _REFUSED:
                    refusal = result
                else:
                    self._inbox.put(Done(self, ticket, result))
        except (EOFError, OSError, RuntimeError, pickle.UnpicklingError):
            self._process.kill()
        finally:
            self._outbox.put(None)
            self._inbox.put(Ended(self, refusal))


def _serve(pipe: Connection, begin: Callable[[Any], Work], setting: Any) -> None:
    """Do jobs until the parent ends, whatever signals the terminal or the cluster sends."""
    begin_worker()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    jobs: queue.Queue[tuple[str, Any, tuple[Any, ...]]] = queue.Queue(1)
    threading.Thread(target=_fetch_jobs, args=(pipe, jobs), daemon=True).start()
    work = result_of(begin, setting)
    if isinstance(work, MedP2PError):
        send(pipe, (_REFUSED, "", work))
        return
    send(pipe, (_READY, "", None))
    while True:
        ticket, job, parts = jobs.get()
        send(pipe, (_DONE, ticket, outcome_of(work, job, *parts)))


def _fetch_jobs(pipe: Connection, jobs: queue.Queue[tuple[str, Any, tuple[Any, ...]]]) -> None:
    with suppress(EOFError, OSError):
        while True:
            jobs.put(receive(pipe))
