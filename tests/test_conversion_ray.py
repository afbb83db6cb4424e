"""Two real nodes of a Ray cluster, on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
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
"""As many as a test has time for; set it to 300 for the whole tree."""

STORE_BYTES = 200 * 2**20

needs_ray = pytest.mark.skipif(not find_spec("ray"), reason="needs the extra medp2p[ray]")


def slow_with_ray(test):
    return pytest.mark.slow(needs_ray(test))


class Cluster:
    """Two nodes on this machine, each with two CPUs."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as Nodes

        others = set(_children(os.getpid()))
        self._nodes = Nodes(initialize_head=True, head_node_args=_settings())
        self.address = self._nodes.address
        self._second = self._nodes.add_node(**_settings())
        self._others = others

    def wait_for(self, nodes: int) -> None:
        """Wait until so many nodes live."""
        end = time.monotonic() + 60
        state = self._nodes.global_state
        while sum(node["Alive"] for node in state.node_table()) < nodes:
            assert time.monotonic() < end
            time.sleep(0.2)

    def lose_a_node(self) -> None:
        """As if the machine were gone: its raylet and all that it has started."""
        [raylet] = self._second.all_processes["raylet"]
        for pid in (raylet.process.pid, *_children(raylet.process.pid)):
            os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """Stop all nodes, and see that nothing of them goes on."""
        children = set(_children(os.getpid())) - self._others
        pids = [pid for pid in children if b"ray" in _file(pid, "cmdline")]
        assert pids
        self._nodes.shutdown()
        end = time.monotonic() + 20
        while left := [pid for pid in pids if _file(pid, "cmdline")]:
            assert time.monotonic() < end, f"{len(left)} processes are left"
            time.sleep(0.1)


def _settings() -> dict[str, object]:
    return {"num_cpus": 2, "object_store_memory": STORE_BYTES, "include_dashboard": False}


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*")
    pids = [int(child) for task in tasks for child in _file(task, "children").split()]
    return pids + [below for child in pids for below in _children(child)]


def _file(process: int | Path, name: str) -> bytes:
    try:
        return (Path("/proc") / str(process) / name).read_bytes()
    except OSError:
        return b""


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """What must be set before Ray is imported, as by the command."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**QUIET, "RAY_USAGE_STATS_ENABLED": "0"}.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.stop()


@pytest.fixture
def cluster_to_break() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.stop()


def test_a_cluster_that_is_not_there_is_refused(model, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="needs the extra medp2p[ray]")
    for address in ("127.0.0.1:1", "ray://127.0.0.1:10001", "local"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(MedP2PError) as refusal:
            convert(Worklist(()), tmp_path / "out", make_job(model, engine="ray"))
        assert "Ray cluster" in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_without_the_extra_it_says_what_to_install(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MedP2PError, match=r'pip install "medp2p\[ray\]"'):
        convert(Worklist(()), tmp_path / "out", make_job(model, engine="ray"))


@contextmanager
def node_that_does_not_see(folder: Path, address: str) -> Iterator[None]:
    """A further node, in whose mount namespace another file system lies over a folder."""
    start = "from ray.scripts.scripts import main; main()"
    ray = [sys.executable, "-c", start, "start", f"--address={address}", "--num-cpus=1", "--block"]
    script = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, str(folder), *ray]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)
        if process.poll() is not None:
            pytest.skip("a mount namespace is not permitted here")
        yield
    finally:
        process.terminate()
        process.wait(30)


@slow_with_ray
def test_nodes_that_cannot_do_the_work_are_refused(model, tmp_path, cluster_to_break, monkeypatch):
    address = cluster_to_break.address
    job = make_job(model, engine="ray", ray_address=address)
    with monkeypatch.context() as patch:
        patch.setattr(medp2p, "__version__", "99.0")
        with pytest.raises(MedP2PError, match=r"has medp2p \S+, and here is 99\.0"):
            convert(Worklist(()), tmp_path / "out", job)
    with pytest.raises(MedP2PError, match="Ray gives out the GPUs"):
        convert(Worklist(()), tmp_path / "out", replace(job, devices=("cuda:0",)))
    here = tmp_path / "here"
    here.mkdir()
    with node_that_does_not_see(here, address):
        cluster_to_break.wait_for(3)
        with pytest.raises(MedP2PError, match=r"does not see .*/here/out as it is here"):
            convert(Worklist(()), here / "out", job)
    assert list((here / "out" / ".medp2p").glob(".seen*")) == []


@slow_with_ray
def test_a_scan_that_hangs_or_kills_fails_alone(model, tmp_path, cluster):
    for name in ("hangs", "kills"):
        os.mkfifo(tmp_path / f"{name}.nii.gz")
    hanging, killing = (
        Scan(name, (ScanImage(path, (path,)),), 1000)
        for name in ("hangs", "kills")
        for path in (tmp_path / f"{name}.nii.gz",)
    )
    torn = tmp_path / "torn.nii.gz"
    torn.write_text("no image")
    good = [write_mr(tmp_path / f"mr_{n}.nii.gz", n) for n in range(3)]
    job = make_job(model, engine="ray", ray_address=cluster.address, time_limit_seconds=5.0)
    scans = (hanging, Scan("torn", (ScanImage(torn, (torn,)),), 1000), *good)
    assert counts(convert(Worklist(scans), tmp_path / "out", job)) == (3, 0, 0, 2)

    ended = threading.Event()
    killer = threading.Thread(target=_kill_tasks, args=(ended,))
    killer.start()
    patient = replace(job, time_limit_seconds=60.0)
    try:
        result = convert(Worklist((killing,)), tmp_path / "out", patient)
    finally:
        ended.set()
        killer.join()
    assert counts(result) == (0, 0, 0, 1)
    codes = {name: e.code for name, e in last_of_each(read_events(tmp_path / "out")).items()}
    assert codes["hangs"] == "time_limit"
    assert codes["torn"] == "unreadable"
    assert codes["kills"] == "process_ended"


def _kill_tasks(ended: threading.Event) -> None:
    """Kill every process of the cluster that is at a task for two seconds."""
    seen: dict[int, float] = {}
    while not ended.wait(0.2):
        for pid in _children(os.getpid()):
            is_at_work = _file(pid, "cmdline").startswith(b"ray::do")
            if is_at_work and time.monotonic() - seen.setdefault(pid, time.monotonic()) > 2:
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> tuple[Scan, ...]:
    incoming = tmp_path_factory.mktemp("incoming")
    files = [write_mr(incoming / f"mr_{n}.nii.gz", n, (96, 90, 24)) for n in range(SCANS)]
    return (*files, *(write_series(incoming / f"series_{n}", n) for n in (1, 2)))


@pytest.fixture(scope="module")
def expected(model, tree, tmp_path_factory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("local") / "out"
    assert convert(Worklist(tree), output, make_job(model)).done == len(tree)
    return files_of(output)


@slow_with_ray
def test_a_node_is_lost_midway(model, tree, expected, tmp_path, cluster_to_break, capfd):
    done: list[str] = []

    def lose(event: Event) -> None:
        if event.kind == "done":
            done.append(event.scan)
            if len(done) == len(tree) // 3:
                cluster_to_break.lose_a_node()

    output = tmp_path / "out"
    job = make_job(model, engine="ray", ray_address=cluster_to_break.address)
    result = convert(Worklist(tree), output, job, on_event=lose)
    assert counts(result) == (len(tree), 0, 0, 0)
    assert files_of(output) == expected
    assert sorted(done) == sorted(scan.name for scan in tree)
    assert list((output / ".medp2p" / "work").iterdir()) == []
    assert "(raylet)" not in "".join(capfd.readouterr())


@slow_with_ray
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_in_order(model, tree, expected, tmp_path, cluster, number):
    incoming, output = tree[0].images[0].path.parent, tmp_path / "out"
    command = [sys.executable, "-m", "medp2p.cli", "batch", incoming, output, "--model", model]
    command += ["--engine", "ray", "--ray-address", cluster.address, "--force"]
    command += ["--precision", "fp32", "--min-slices", "1", "--include", "*mr_*"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not list(output.glob("*.nii.gz")):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    events = read_events(output)
    assert (events[-1].kind, events[-1].code) == ("ended", "interrupted")
    assert list((output / ".medp2p" / "work").iterdir()) == []
    found = files_of(output)
    results = {name for name in found if name.endswith(".nii.gz")}
    assert 0 < len(results) < SCANS
    assert all(found[name] == expected[name] for name in results)
    assert "ray" not in said.lower().replace("--engine ray", "")
