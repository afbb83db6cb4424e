"""Whatever is killed, in the end the results are those of an undisturbed run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from test_conversion_pipeline import (
    Scan,
    Worklist,
    convert,
    files_of,
    make_job,
    write_mr,
    write_series,
)
from test_conversion_pipeline import model as model

from medp2p.conversion.journal import read_events
from medp2p.conversion.scans import ScanImage

KILLS = 50
SHAPE = (96, 90, 24)

RUN = """
import pickle, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_conversion_pipeline import Worklist, convert, make_job
model, worklist, output = map(Path, sys.argv[2:])
scans = pickle.loads(worklist.read_bytes())
result = convert(Worklist(scans), output, make_job(model, readers=2))
assert (result.ended, result.failed, result.left) == ("finished", 0, 0), result
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's /proc"),
]


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> tuple[Scan, ...]:
    incoming = tmp_path_factory.mktemp("incoming")
    files = [write_mr(incoming / f"mr_{n}.nii.gz", n, SHAPE) for n in range(40)]
    series = write_series(incoming / "series", 1)
    [image] = series.images
    copies = []
    for n in range(10):
        folder = incoming / f"series_{n}"
        shutil.copytree(image.path, folder)
        paths = tuple(sorted(folder.iterdir()))
        one = ScanImage(folder, paths, image.series)
        copies.append(Scan(folder.name, (one,), series.voxels))
    mixed = [*files, *copies]
    random.Random(1).shuffle(mixed)
    return tuple(mixed)


@pytest.fixture(scope="module")
def expected(model, scans, tmp_path_factory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    result = convert(Worklist(scans), output, make_job(model))
    assert result.done == len(scans)
    return files_of(output)


class Process:
    """A run in a process of its own, and the processes that it has started."""

    def __init__(self, model: Path, scans: tuple[Scan, ...], output: Path) -> None:
        import pickle

        worklist = output.with_suffix(".worklist")
        worklist.write_bytes(pickle.dumps(scans))
        tests = str(Path(__file__).parent)
        command = [sys.executable, "-c", RUN, tests, str(model), str(worklist), str(output)]
        self._process = subprocess.Popen(command)

    def is_over(self) -> bool:
        return self._process.poll() is not None

    def children(self) -> list[int]:
        """Readers and the device's process, without multiprocessing's own."""
        pid = self._process.pid
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in found if b"spawn_main" in _command(child)]

    def kill_one_of(self, victim: str, rng: random.Random) -> bool:
        """Kill the run or one of its processes; False if there is none."""
        children = [] if self.is_over() else self.children()
        if victim == "run" or not children:
            if self.is_over():
                return False
            self._process.kill()
            self._process.wait()
            _wait_for_the_end_of(children)
            return True
        os.kill(rng.choice(children), signal.SIGKILL)
        return True

    def wait(self) -> int:
        return self._process.wait(timeout=300)


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _wait_for_the_end_of(children: list[int]) -> None:
    """A run's processes end with it."""
    end = time.monotonic() + 20
    while any(_command(str(child)) for child in children):
        assert time.monotonic() < end, "a process has outlived its run"
        time.sleep(0.02)


def test_killed_at_random_moments_it_ends_as_if_undisturbed(model, scans, expected, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    rng = random.Random(20)
    kills: Counter[str] = Counter()
    process = Process(model, scans, output)
    while kills.total() < KILLS:
        time.sleep(rng.uniform(0.2, 6.0))
        victim = rng.choice(["run", "process", "process"])
        kills[victim] += process.kill_one_of(victim, rng)
        _check_what_is_there(output, expected)
        if process.is_over():
            if set(files_of(output)) == set(expected):
                _begin_again(output)
            process = Process(model, scans, output)
    code = process.wait()
    if code:  # scans at which two processes were killed have failed; they are taken up again
        assert Process(model, scans, output).wait() == 0
    assert files_of(output) == expected
    assert list((output / ".medp2p" / "work").iterdir()) == []
    assert min(kills["run"], kills["process"]) > KILLS / 6


def _check_what_is_there(output: Path, expected: dict[str, str]) -> None:
    """Whatever has its name is whole, and nothing was made twice but what was under way."""
    for name, digest in files_of(output).items():
        assert expected[name] == digest, f"{name} is half-written"
    events = read_events(output)
    done = Counter(e.scan for e in events if e.kind == "done")
    assert max(done.values(), default=0) <= 1


def _begin_again(output: Path) -> None:
    """All is done before the last kill: empty the folder and go on."""
    shutil.rmtree(output)
    output.mkdir()
