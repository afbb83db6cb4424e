"""Crews of this machine: processes that read and predict, threads that write."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from medp2p.conversion.crews import Crew, Crews, Done, Ended, Inbox, Work, Worker, outcome_of
from medp2p.conversion.machine import free_memory_bytes
from medp2p.conversion.processes import Process
from medp2p.conversion.stages import Setting
from medp2p.conversion.work import (
    begin_predicting,
    begin_reading,
    begin_writing,
    device_setting,
)


@contextmanager
def local_crews(setting: Setting) -> Iterator[Crews]:
    """Make the crews of a run: readers, one process per device, and writers."""
    job = setting.job
    inbox: Inbox = queue.Queue()
    devices = [device_setting(setting, device) for device in job.devices]
    crews = Crews(
        Crew([partial(Process, begin_reading, setting, inbox)] * job.readers),
        Crew([partial(Process, begin_predicting, device, inbox) for device in devices], depth=2),
        Crew([partial(Thread, begin_writing(setting), inbox)] * job.writers),
        inbox,
        job.memory_bytes or free_memory_bytes() // 2,
    )
    try:
        yield crews
    finally:
        crews.stop()


class Thread(Worker):
    """Does jobs in threads of this process. One that hangs is left alone, and never heard again.

    Args:
        work: Does a job.
        inbox: Where messages go.
    """

    def __init__(self, work: Work, inbox: Inbox) -> None:
        super().__init__(is_ready=True)
        self._work = work
        self._inbox = inbox

    def _send(self, ticket: str, job: Any, parts: tuple[Any, ...]) -> None:
        threading.Thread(target=self._do, args=(ticket, job, parts), daemon=True).start()

    def _do(self, ticket: str, job: Any, parts: tuple[Any, ...]) -> None:
        self._inbox.put(Done(self, ticket, outcome_of(self._work, job, *parts)))

    def kill(self) -> None:
        """Leave it alone."""
        self._inbox.put(Ended(self))
