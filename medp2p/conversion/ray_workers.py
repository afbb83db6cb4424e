"""Workers of a Ray cluster: tasks that read and write, actors that predict.

Ray itself tries nothing again (``max_retries=0``): the run does, since it knows whose fault it
was. What was on a node that is gone is done again, and counts against no scan.
"""

from __future__ import annotations

import importlib
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from medp2p.conversion.crews import (
    Begun,
    Done,
    Ended,
    Inbox,
    Lost,
    Outcome,
    Ready,
    Work,
    Worker,
    outcome_of,
    result_of,
    unexpected,
)
from medp2p.conversion.ray_cluster import working_nodes
from medp2p.conversion.stages import DeviceSetting, ReadRequest
from medp2p.conversion.under_way import memory_bytes_of
from medp2p.conversion.work import WriteRequest, begin_predicting
from medp2p.errors import MedP2PError

_logger = logging.getLogger(__name__)

JOIN_SECONDS = 10.0
LOOK_SECONDS = 1.0
"""How often threads that wait look whether their worker was killed."""

NODE_HAS_DIED = "its node has died"
"""Ray's words for an actor that is not to blame."""

Request = ReadRequest | WriteRequest


class Cluster:
    """What all workers of a run share.

    Args:
        ray: The module.
    """

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        self.inbox: Inbox = queue.Queue()
        self._actors: Counter[str] = Counter()
        self._followers: list[threading.Thread] = []

    def take_place(self) -> str:
        """Return the node for an actor that uses CPUs: the one with the fewest."""
        nodes = [node.id for node in working_nodes(self.ray)]
        if not nodes:
            raise MedP2PError("the Ray cluster has no node with a CPU any more")
        place = min(nodes, key=lambda node: self._actors[node])
        self._actors[place] += 1
        return place

    def leave_place(self, place: str) -> None:
        """Note that an actor has ended."""
        self._actors[place] -= 1

    def follow(self, do: Callable[..., None], *arguments: Any) -> None:
        """Wait for something in a thread."""
        thread = threading.Thread(target=do, args=arguments, daemon=True)
        self._followers = [t for t in self._followers if t.is_alive()] + [thread]
        thread.start()

    def join(self) -> None:
        """Wait for all threads: one that asks Ray after its shutdown would crash."""
        for thread in self._followers:
            thread.join(JOIN_SECONDS)


class _KilledError(Exception):
    """The worker was killed while its thread waited."""


class _RayWorker(Worker):
    """A worker of a cluster, whose jobs are followed by threads of this process."""

    def __init__(self, cluster: Cluster, *, is_ready: bool) -> None:
        super().__init__(is_ready=is_ready)
        self._cluster = cluster
        self._ray = cluster.ray
        self._inbox = cluster.inbox
        self._has_ended = threading.Event()

    def _follow(self, do: Callable[..., None], *arguments: Any) -> None:
        self._cluster.follow(self._guarded, do, *arguments)

    def _guarded(self, do: Callable[..., None], *arguments: Any) -> None:
        try:
            do(*arguments)
        except _KilledError:
            pass
        except self._ray.exceptions.LocalRayletDiedError:
            self._end(MedP2PError("the Ray node of this process has ended; start it again"))
        except Exception as error:
            _logger.debug("a worker of the cluster has ended", exc_info=error)
            self._end(blameless=self._is_nodes_fault(error))

    def _wait(self, waited_for: Any) -> None:
        """Wait until a reference, or the next one of a job, is there; fetches nothing."""
        while not self._ray.wait([waited_for], timeout=LOOK_SECONDS, fetch_local=False)[0]:
            if self._has_ended.is_set():
                raise _KilledError

    def _get(self, reference: Any) -> Any:
        self._wait(reference)
        return self._ray.get(reference)

    def _references(self, items: Any) -> Iterator[Any]:
        while True:
            self._wait(items)
            try:
                yield next(items)
            except StopIteration:
                return

    def _hear(self, ticket: str, items: Any) -> None:
        """Wait for what comes of a job: that it begins, large parts, and what it says."""
        try:
            references = self._references(items)
            self._get(next(references))
            self._inbox.put(Begun(self))
            *parts, said = references
            self._inbox.put(Done(self, ticket, Outcome(self._get(said), tuple(parts))))
        except self._ray.exceptions.ObjectLostError:
            self._inbox.put(Lost(self, ticket))
        except self._ray.exceptions.RayTaskError as error:
            _logger.debug("unexpected", exc_info=error)
            self._inbox.put(Done(self, ticket, Outcome(unexpected(error.cause))))

    def _is_nodes_fault(self, error: Exception) -> bool:
        return isinstance(error, self._ray.exceptions.NodeDiedError)

    def _end(self, refusal: MedP2PError | None = None, *, blameless: bool = False) -> None:
        """Tell of its end, once."""
        if not self._has_ended.is_set():
            self._has_ended.set()
            self._inbox.put(Ended(self, refusal, blameless))


class Task(_RayWorker):
    """One CPU's worth of a cluster, wherever Ray finds it.

    Args:
        cluster: Where.
        do: `do` as a remote function.
        begin: Returns what does a job; importable by name.
        setting: Reference to its argument.
        most_memory_bytes: Of a node; no job asks for more.
    """

    def __init__(
        self,
        cluster: Cluster,
        do: Any,
        begin: Callable[[Any], Work],
        setting: Any,
        most_memory_bytes: int,
    ) -> None:
        super().__init__(cluster, is_ready=True)
        self._do = do
        self._begin = begin
        self._setting = setting
        self._most_memory = most_memory_bytes
        self._items: Any = None

    def _begin_clock(self) -> None:
        """It waits for a place first; `Begun` tells of that."""

    def _send(self, ticket: str, job: Request, parts: tuple[Any, ...]) -> None:
        task = self._do.options(
            num_cpus=1,
            memory=min(memory_bytes_of(job.scan), self._most_memory),
            max_retries=0,
            num_returns="streaming",
        )
        self._items = task.remote(self._begin, self._setting, _absolute_request(job), *parts)
        self._follow(self._hear, ticket, self._items)

    def kill(self) -> None:
        """End what it does at once."""
        self._end()
        if self.tickets:
            self._ray.cancel(self._items, force=True)


def _absolute_request(request: Request) -> Request:
    images = [
        replace(
            image,
            path=image.path.absolute(),
            files=tuple(file.absolute() for file in image.files),
        )
        for image in request.scan.images
    ]
    request = replace(request, scan=replace(request.scan, images=tuple(images)))
    if isinstance(request, WriteRequest):
        return replace(request, folder=request.folder.absolute())
    return request


def do(begin: Callable[[Any], Work], setting: Any, job: Any, *parts: Any) -> Iterator[Any]:
    """Do a job on a node.

    Yields:
        What `_answers` does.
    """
    _one_thread()
    yield from _answers(begin(setting), job, *parts)


def _answers(work: Work, job: Any, *parts: Any) -> Iterator[Any]:
    """Say that a job begins, do it, and give the large parts and what it says."""
    yield None
    outcome = outcome_of(work, job, *parts)
    for part in outcome.parts:  # noqa: UP028 - Ray sends to what is yielded from
        yield part
    yield outcome.said


def _one_thread() -> None:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


class Actor(_RayWorker):
    """A device of a cluster, with the model on it.

    Args:
        cluster: Where.
        setting: What it predicts with.
        threads: That it computes with where it uses CPUs.
    """

    def __init__(self, cluster: Cluster, setting: DeviceSetting, threads: int) -> None:
        super().__init__(cluster, is_ready=False)
        self._place = "" if setting.device == "cuda" else cluster.take_place()
        options: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0}
        if self._place:
            affinity = importlib.import_module("ray.util.scheduling_strategies")
            there = affinity.NodeAffinitySchedulingStrategy(self._place, soft=False)
            options["scheduling_strategy"] = there
        else:
            options["num_gpus"] = 1
        self._actor = self._ray.remote(_Predicting).options(**options).remote()
        self._follow(self._begin, setting, threads)

    @property
    def takes_jobs(self) -> bool:
        """It may wait for its place for long."""
        return self.is_ready

    def _begin(self, setting: DeviceSetting, threads: int) -> None:
        self._get(self._actor.is_there.remote())
        self._inbox.put(Begun(self))
        refusal = self._get(self._actor.begin.remote(setting, threads))
        if refusal:
            self._end(refusal)
        else:
            self._inbox.put(Ready(self))

    def _send(self, ticket: str, job: Any, parts: tuple[Any, ...]) -> None:
        items = self._actor.predict.options(num_returns="streaming").remote(job, *parts)
        self._follow(self._hear, ticket, items)

    def _is_nodes_fault(self, error: Exception) -> bool:
        exceptions = self._ray.exceptions
        while isinstance(error, exceptions.ActorUnavailableError):  # not known yet why
            time.sleep(LOOK_SECONDS)
            try:
                self._get(self._actor.is_there.remote())
            except (exceptions.RayError, _KilledError) as later:
                error = later
            else:
                return True  # it lives, only the network was gone
        return isinstance(error, exceptions.ActorDiedError) and NODE_HAS_DIED in str(error)

    def _end(self, refusal: MedP2PError | None = None, *, blameless: bool = False) -> None:
        if not self._has_ended.is_set():
            self._cluster.leave_place(self._place)
        super()._end(refusal, blameless=blameless)

    def kill(self) -> None:
        """End it at once."""
        self._end()
        self._ray.kill(self._actor)


class _Predicting:
    """The actor on its node."""

    def is_there(self) -> bool:
        """Answer."""
        return True

    def begin(self, setting: DeviceSetting, threads: int) -> MedP2PError | None:
        """Load the model; returns why that is refused."""
        import torch

        torch.set_num_threads(threads)  # Ray lets an actor have one
        self._work = result_of(begin_predicting, setting)
        return self._work if isinstance(self._work, MedP2PError) else None

    def predict(self, job: Any, *parts: Any) -> Iterator[Any]:
        yield from _answers(self._work, job, *parts)
