"""Crews of a Ray cluster.

Large parts stay in Ray's object store and go from node to node; here are references to them. The
claims, the journal and the names of results stay with this process. Scans, model and results
are on a file system that all nodes share; that is checked at the beginning, as is medp2p's
version. Nodes that join later are taken as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from medp2p.conversion.crews import Crew, Crews
from medp2p.conversion.ray_cluster import Node, check_nodes, connection, working_nodes
from medp2p.conversion.ray_workers import Actor, Cluster, Task, do
from medp2p.conversion.scans import Worklist
from medp2p.conversion.stages import Setting
from medp2p.conversion.work import begin_reading, begin_writing, device_setting
from medp2p.errors import MedP2PError


@contextmanager
def ray_crews(setting: Setting, worklist: Worklist) -> Iterator[Crews]:
    """Make the crews of a run on a cluster that runs already.

    As many scans are read at a time as the cluster has CPUs, less one for each actor.

    Args:
        setting: Of the run; relative paths are taken from here.
        worklist: Of the run; its first scan shows whether nodes see the scans.

    Raises:
        MedP2PError: If there is no cluster, or one of its nodes cannot do the work.
    """
    setting = _absolute(setting)
    job = setting.job
    with connection(job.ray_address) as ray:
        nodes = working_nodes(ray)
        files = [file for scan in worklist.scans[:1] for file in scan.images[0].files[:1]]
        check_nodes(ray, nodes, setting.output, [file.absolute() for file in (job.model, *files)])
        cluster = Cluster(ray)
        devices = [
            partial(Actor, cluster, device_setting(setting, device), _threads(nodes))
            for device in _devices(job.devices, nodes)
        ]
        readers = max(1, sum(node.cpus for node in nodes) - len(devices))
        writers = max(job.writers, readers // 2)
        most = max(node.memory_bytes for node in nodes)
        task, shared = ray.remote(do), ray.put(setting)
        crews = Crews(
            Crew([partial(Task, cluster, task, begin_reading, shared, most)] * readers),
            Crew(devices, depth=2),
            Crew([partial(Task, cluster, task, begin_writing, shared, most)] * writers),
            cluster.inbox,
            job.memory_bytes or sum(node.memory_bytes for node in nodes) // 2,
        )
        try:
            yield crews
        finally:
            crews.stop()
            cluster.join()


def _absolute(setting: Setting) -> Setting:
    job = replace(setting.job, model=setting.job.model.absolute())
    return replace(setting, job=job, output=setting.output.absolute())


def _devices(wanted: Sequence[str], nodes: Sequence[Node]) -> list[str]:
    """Which device each actor uses: every GPU, else the CPUs of every node."""
    if any(device not in ("auto", "cpu") for device in wanted):
        raise MedP2PError(
            f"--device {' '.join(wanted)}: Ray gives out the GPUs; use auto (all of them) or cpu"
        )
    gpus = sum(node.gpus for node in nodes)
    if "auto" in wanted and gpus:
        return ["cuda"] * gpus
    return ["cpu"] * max(len(wanted), len(nodes))


def _threads(nodes: Sequence[Node]) -> int:
    """Threads of every actor that uses CPUs: as many everywhere, so that results are the same."""
    return int(os.environ.get("OMP_NUM_THREADS") or min(node.cpus for node in nodes))
