from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from medp2p.conversion.claims import Claim, Claims
from medp2p.errors import OutputError

LONG = 60.0


def age(claim: Claim, seconds: float) -> None:
    """Let a claim look as if nobody had touched it, on a machine that we cannot see."""
    claim.file.write_text('{"machine": "another"}')
    then = time.time() - seconds
    os.utime(claim.file, (then, then))


def test_a_scan_is_claimed_once(tmp_path):
    with Claims(tmp_path, "one") as one, Claims(tmp_path, "two") as two:
        claim = one.take("a/b c\n'")
        assert claim
        assert claim.work.is_dir()
        assert one.take("a/b c\n'") is None
        assert two.take("a/b c\n'") is None
        assert two.take("another")
        assert one.is_ours(claim)


def test_a_name_that_is_no_unicode_is_claimed(tmp_path):
    with Claims(tmp_path, "one") as claims:
        assert claims.take(os.fsdecode(b"caf\xe9"))


def test_a_released_scan_is_free_and_its_work_is_gone(tmp_path):
    with Claims(tmp_path, "one") as one, Claims(tmp_path, "two") as two:
        claim = one.take("scan")
        (claim.work / "half").write_text("half")
        one.release(claim)
        assert not claim.work.exists()
        later = two.take("scan")
        assert later
        assert later.file != claim.file
        assert one.take("scan") is None


def test_leaving_releases_all(tmp_path):
    with Claims(tmp_path, "one") as one:
        one.take("a")
        one.take("b")
    with Claims(tmp_path, "two") as two:
        assert two.take("a")
        assert two.take("b")
    assert list((tmp_path / ".medp2p" / "work").iterdir()) == []
    assert not list((tmp_path / ".medp2p" / "claims").glob(".*"))


def test_what_was_not_touched_for_the_lease_is_taken_over(tmp_path):
    with Claims(tmp_path, "one", LONG) as one, Claims(tmp_path, "two", LONG) as two:
        claim = one.take("scan")
        (claim.work / "half").write_text("half")
        age(claim, LONG - 10)
        assert two.take("scan") is None
        age(claim, LONG + 10)
        later = two.take("scan")
        assert later
        assert not claim.work.exists()
        assert not one.is_ours(claim)
        assert two.is_ours(later)
        with pytest.raises(OSError, match="No such file"):
            (claim.work / "result").write_text("too late")
        one.release(claim)  # does no harm to who has it now
        assert later.work.is_dir()
        assert one.take("scan") is None


def test_the_file_systems_clock_counts(tmp_path, monkeypatch):
    """A machine whose clock is an hour off sees the same ages."""
    with Claims(tmp_path, "one", LONG) as one, Claims(tmp_path, "two", LONG) as two:
        claim = one.take("scan")
        claim.file.write_text('{"machine": "another"}')
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 3600)
        assert two.take("scan") is None


def test_a_living_run_keeps_its_claim(tmp_path):
    with Claims(tmp_path, "one", 0.8) as one, Claims(tmp_path, "two", 0.8) as two:
        claim = one.take("scan")
        claim.file.write_text('{"machine": "another"}')
        end = time.monotonic() + 2
        while time.monotonic() < end:
            assert two.take("scan") is None
            time.sleep(0.05)


HOLDER = """
import sys, time
from pathlib import Path
from medp2p.conversion.claims import Claims
with Claims(Path(sys.argv[1]), "holder", 60) as claims:
    claims.take("scan")
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_process_that_was_killed_here_leaves_its_scan_at_once(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    with Claims(tmp_path, "two", LONG) as two:
        assert two.take("scan") is None
        process.send_signal(signal.SIGSTOP)
        assert two.take("scan") is None
        process.kill()
        process.stdout.close()
        while (claim := two.take("scan")) is None:  # not even waited for: a zombie
            time.sleep(0.01)
        assert claim
    process.wait()


def test_of_many_that_want_a_dead_ones_scan_one_gets_it(tmp_path):
    for round_ in range(20):
        name = f"scan {round_}"
        with Claims(tmp_path, "dead", LONG) as dead:
            age(dead.take(name), LONG + 10)
            winners: list[Claim | None] = []
            all_claims = [Claims(tmp_path, f"run-{n}", LONG) for n in range(8)]
            for claims in all_claims:
                claims.__enter__()
            barrier = threading.Barrier(8)

            def want(claims: Claims, name=name, barrier=barrier, winners=winners) -> None:
                barrier.wait()
                winners.append(claims.take(name))

            threads = [threading.Thread(target=want, args=(c,)) for c in all_claims]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sum(w is not None for w in winners) == 1
            for claims in all_claims:
                claims.__exit__(None, None, None)


def _take_what_is_free(output: Path, run: int) -> list[str]:
    """Take, note in a file of its own that must not be there yet, and keep."""
    taken = []
    with Claims(output, f"run-{run}", LONG) as claims:
        for n in range(200):
            if claims.take(f"scan {n}"):
                with (output / f"noted {n}").open("x"):
                    taken.append(f"scan {n}")
        (output / f"ready {run}").touch()
        while len(list(output.glob("ready *"))) < 4:
            time.sleep(0.01)
    return taken


def test_processes_share_scans_without_overlap(tmp_path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        taken = pool.starmap(_take_what_is_free, [(tmp_path, n) for n in range(4)])
    assert sorted(itertools.chain(*taken)) == sorted(f"scan {n}" for n in range(200))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError), Claims(tmp_path / "file", "one"):
        pass
