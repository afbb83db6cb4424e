"""A Ray cluster that runs already: connecting to it, and whether its nodes can do the work."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import medp2p
from medp2p.conversion.claims import PRIVATE_FOLDER
from medp2p.errors import MedP2PError
from medp2p.files import output_errors

CONNECT_SECONDS = 10.0
LOOK_SECONDS = 120.0
"""So long may a node take to start its first process."""

QUIET = {
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # raylets' messages about workers and nodes that died
    "RAY_ENABLE_AUTO_CONNECT": "0",  # no call ever starts a cluster
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # without it Ray says that it will change
}
"""Environment of this process, set before Ray is imported."""

START = "start one with `ray start --head`, and join nodes with `ray start --address HOST:6379`"


@dataclass(frozen=True)
class Node:
    """A node that can do work.

    Attributes:
        id: Ray's name of it.
        address: Its IP address.
        cpus: CPUs that Ray gives out there.
        gpus: GPUs that Ray gives out there.
        memory_bytes: That Ray gives out there.
    """

    id: str
    address: str
    cpus: int
    gpus: int
    memory_bytes: int


@contextmanager
def connection(address: str | None) -> Iterator[Any]:
    """Connect to a cluster for as long as the context lasts; yields the module ``ray``.

    Args:
        address: ``"host:port"``, or None: what ``RAY_ADDRESS`` names, or what runs here.

    Raises:
        MedP2PError: If Ray is not installed, or there is no cluster.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise MedP2PError('Ray is not installed; pip install "medp2p[ray]"') from error
    if ray.is_initialized():
        yield ray
        return
    _connect(ray, address or os.environ.get("RAY_ADDRESS") or "auto")
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    _refuse_no_address(address)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        where = "on this machine" if address == "auto" else f"at {address}"
        reason = next(iter(str(error).splitlines()), "")
        raise MedP2PError(f"no Ray cluster can be used {where}; {START} ({reason})") from error
    finally:
        with suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGTERM, handler)  # Ray replaces it


def _refuse_no_address(address: str) -> None:
    """Refuse at once what Ray would try for minutes, or would take for something else."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in address or not port.isdecimal():
        raise MedP2PError(f"{address!r} names no Ray cluster; expected HOST:PORT, such as 6379")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise MedP2PError(f"no Ray cluster answers at {address}; {START}") from error


def working_nodes(ray: Any) -> list[Node]:
    """Return the nodes that live and give out CPUs."""
    nodes = []
    for node in ray.nodes():
        given = node["Resources"]
        if node["Alive"] and given.get("CPU", 0) >= 1:
            counts = (int(given.get(what, 0)) for what in ("CPU", "GPU", "memory"))
            nodes.append(Node(node["NodeID"], node["NodeManagerAddress"], *counts))
    return nodes


def check_nodes(ray: Any, nodes: Sequence[Node], output: Path, files: Sequence[Path]) -> None:
    """Refuse a cluster whose nodes have another medp2p, or do not see our folders.

    Args:
        ray: The module.
        nodes: Of the cluster.
        output: The folder with the results; a marker is made in it for the while.
        files: That the nodes must see as they are here.

    Raises:
        MedP2PError: Naming the first node that cannot work.
        OutputError: If the marker cannot be written.
    """
    if not nodes:
        raise MedP2PError("the Ray cluster has no node with a CPU; add one")
    marker = output / PRIVATE_FOLDER / f".seen-{uuid.uuid4().hex}"
    with output_errors(marker):
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_bytes(b"seen")
    try:
        sizes = {str(path): path.stat().st_size for path in (marker, *files) if path.exists()}
        found = [_look_from(ray, node, list(sizes)) for node in nodes]
        for node, reference in zip(nodes, found, strict=True):
            try:
                version, seen = ray.get(reference, timeout=LOOK_SECONDS)
            except ray.exceptions.RayError as error:
                kind = type(error).__name__
                raise MedP2PError(f"node {node.address} of the cluster: {kind}") from error
            _refuse_other_version(node, version)
            for path, size in sizes.items():
                if seen.get(path) != size:
                    place = output if path == str(marker) else path
                    raise MedP2PError(
                        f"node {node.address} does not see {place} as it is here; "
                        "scans, model and results must be on a file system that all nodes share"
                    )
    finally:
        marker.unlink(missing_ok=True)


def _refuse_other_version(node: Node, version: str) -> None:
    if version != medp2p.__version__:
        found = f"medp2p {version}" if version else "no medp2p"
        raise MedP2PError(
            f"node {node.address} has {found}, and here is {medp2p.__version__}; "
            "install the same everywhere"
        )


def _look_from(ray: Any, node: Node, paths: list[str]) -> Any:
    """Ask a node which medp2p it has, and the sizes of files that it sees."""

    def look(paths: list[str]) -> tuple[str, dict[str, int]]:  # travels by value: no medp2p there
        from pathlib import Path

        try:
            from medp2p import __version__ as version
        except ImportError:
            version = ""
        files = (Path(path) for path in paths)
        return version, {str(file): file.stat().st_size for file in files if file.exists()}

    affinity = importlib.import_module("ray.util.scheduling_strategies")
    there = affinity.NodeAffinitySchedulingStrategy(node.id, soft=False)
    return ray.remote(look).options(num_cpus=0, scheduling_strategy=there).remote(paths)
