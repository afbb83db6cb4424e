from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_conversion_pipeline import (
    Scan,
    ScanImage,
    Worklist,
    convert,
    counts,
    files_of,
    make_job,
    write_mr,
    write_series,
)
from test_conversion_pipeline import model as model

import medp2p
from medp2p.conversion.journal import Event, last_of_each, read_events
from medp2p.conversion.ray_cluster import QUIET
from medp2p.errors import MedP2PError

SCANS = int(os.environ.get("MEDP2P_RAY_SCANS", "24"))
"""300 are translated by hand; these are as many as a test has time for."""

STORE_BYTES = 200 * 2**20


class Cluster:
    """Two nodes on this machine, each with two CPUs."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as Nodes

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self._nodes = Nodes(initialize_head=True, head_node_args=self._settings())
        self.address = self._nodes.address
        self.lost = self._nodes.add_node(**self._settings())

    def _settings(self) -> dict[str, object]:
        return {
            "num_cpus": 2,
            "object_store_memory": STORE_BYTES,
            "include_dashboard": False,
        }

    def kill_a_node(self) -> None:
        """As if the machine were gone: its raylet and all that it has started."""
        [raylet] = self.lost.all_processes["raylet"]
        pids = [raylet.process.pid, *_children(raylet.process.pid)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        self._nodes.shutdown()


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    pids = [int(child) for file in found for child in file.read_text().split()]
    return pids + [below for child in pids for below in _children(child)]


@pytest.fixture
def cluster(monkeypatch) -> Iterator[Cluster]:
    if not find_spec("ray"):
        pytest.skip("needs the extra medp2p[ray]")
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)  # before Ray is imported, as the command does
    made = Cluster()
    yield made
    made.stop()


def test_a_cluster_that_is_not_there_is_refused(model, tmp_path, monkeypatch):
    scan = write_mr(tmp_path / "mr.nii.gz", 1)
    for address in ("127.0.0.1:1", "ray://127.0.0.1:10001", "local"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(MedP2PError) as refusal:
            convert(Worklist((scan,)), tmp_path / "out", make_job(model, engine="ray"))
        assert "Ray cluster" in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_without_the_extra_it_says_what_to_install(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MedP2PError, match=r'pip install "medp2p\[ray\]"'):
        convert(Worklist(()), tmp_path / "out", make_job(model, engine="ray"))


@pytest.mark.slow
def test_a_node_is_lost_midway(model, tmp_path, cluster, monkeypatch, capfd):
    incoming = tmp_path / "in"
    scans = [write_mr(incoming / f"mr_{n}.nii.gz", n % 7, (96, 90, 24)) for n in range(SCANS)]
    scans += [write_series(incoming / f"series_{n}", n) for n in (1, 2)]
    worklist = Worklist(tuple(scans))
    assert convert(worklist, tmp_path / "local", make_job(model)).done == len(scans)
    done: list[str] = []

    def lose(event: Event) -> None:
        if event.kind == "done":
            done.append(event.scan)
        if event.kind == "done" and len(done) == len(scans) // 3:
            cluster.kill_a_node()

    job = make_job(model, engine="ray", ray_address=cluster.address)
    result = convert(worklist, tmp_path / "ray", job, on_event=lose)
    assert counts(result) == (len(scans), 0, 0, 0)
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "local")
    assert len(done) == len(set(done)) == len(scans)
    out, err = capfd.readouterr()
    assert "raylet" not in out + err
