"""Many independent jobs in processes of their own: one that breaks does not stop the others."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import TypeVar

from medp2p.errors import MedP2PError

_logger = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")

PROCESS_ENDED = (
    "its process ended without a word, out of memory perhaps; run it again with --jobs 1"
)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let SimpleITK use one thread, in the whole process: with two, sums differ in last bits.

    A filter's own number of threads (SimpleITK 2.5) does not reach everything inside it, such as
    the metric of a registration, or all of N4.
    """
    import SimpleITK as sitk

    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


class Workers:
    """Processes that do jobs of any kind, one at a time each; for use as a context.

    With one process jobs are done in this one. With more, each process is a fresh interpreter
    with one thread; one that dies is replaced, and what it was doing is tried once more alone.

    Args:
        processes: How many.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop(at_once=kind is not None)

    def run(
        self, function: Callable[[Job], Result], jobs: Sequence[Job]
    ) -> Iterator[tuple[Job, Result | MedP2PError]]:
        """Run a function on every job and yield each with its result, in the order they end.

        Args:
            function: Importable by name, as are its argument and result.
            jobs: What to do.

        Yields:
            The job, and its result or the refusal it ended with.
        """
        if self._processes == 1 or len(jobs) <= 1:
            for job in jobs:
                yield job, _result_or_refusal(function, job)
            return
        lost = yield from self._run_together(function, jobs)
        for job in lost:
            if (yield from self._run_together(function, [job])):
                yield job, MedP2PError(PROCESS_ENDED)

    def _run_together(
        self, function: Callable[[Job], Result], jobs: Sequence[Job]
    ) -> Generator[tuple[Job, Result | MedP2PError], None, list[Job]]:
        """Run jobs; returns those whose result was lost when a process died."""
        lost = []
        pool = self._pool or ProcessPoolExecutor(
            self._processes, multiprocessing.get_context("spawn"), initializer=begin_worker
        )
        self._pool = pool
        futures: dict[Future[Result | MedP2PError], Job] = {
            pool.submit(_result_or_refusal, function, job): job for job in jobs
        }
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                lost.append(futures[future])
        if lost:
            self._stop(at_once=True)
        return lost

    def _stop(self, *, at_once: bool) -> None:
        if self._pool is None:
            return
        if at_once:
            for process in multiprocessing.active_children():
                process.terminate()
        self._pool.shutdown(cancel_futures=True)
        self._pool = None


def run_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], processes: int
) -> Iterator[tuple[Job, Result | MedP2PError]]:
    """Run a function on every job as `Workers.run`, in processes that end afterwards."""
    with Workers(min(processes, max(1, len(jobs)))) as workers:
        yield from workers.run(function, jobs)


def _result_or_refusal(function: Callable[[Job], Result], job: Job) -> Result | MedP2PError:
    try:
        return function(job)
    except MedP2PError as refusal:
        return refusal
    except MemoryError:
        return MedP2PError("does not fit into this machine's memory; run it with --jobs 1")
    except Exception as error:
        _logger.debug("unexpected", exc_info=True)
        return MedP2PError(f"failed with {type(error).__name__}, an error of medp2p's; report it")


def begin_worker() -> None:
    """Leave Ctrl-C to the parent, end with it, and compute with one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
