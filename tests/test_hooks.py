"""The command after a scan: once, with the result that was made, and never left behind."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import make_pair, run

from medp2p.conversion import hooks
from medp2p.conversion.claims import Claims
from medp2p.conversion.hooks import Hook
from medp2p.conversion.journal import Event, Journal, read_events
from medp2p.conversion.records import content_of
from medp2p.conversion.summary import progress_of, progress_text


def make(output: Path, scan: str, key: str = "k", text: str = "result") -> Event:
    """Write a result, and tell the journal."""
    path = output / f"{scan}.nii"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with Journal(output) as journal:
        details = {"outputs": {path.name: content_of(path).as_values()}}
        return journal.add("done", scan=scan, key=key, details=details)


def appending(log: Path, then: str = "") -> str:
    """A command that notes what it was given, and what that held."""
    return shlex.join(["sh", "-c", f'echo "$1 $(cat "$1")" >> "$0"; {then}', str(log), "{}"])


def wait_for(path: Path, lines: int = 1) -> None:
    end = time.monotonic() + 20
    while not path.exists() or len(path.read_text().splitlines()) < lines:
        assert time.monotonic() < end, f"{path} has not {lines} lines"
        time.sleep(0.02)


def status(output: Path) -> str:
    return progress_text(progress_of(read_events(output)))


def is_alive(process: int) -> bool:
    """Whether a process runs, and does not only wait for its parent to take note of its end."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_two_runs_give_a_result_to_a_command_once(tmp_path):
    log, output = tmp_path / "log", tmp_path / "out"
    command = appending(log, "sleep 0.1")
    events = [make(output, f"s{n}") for n in range(4)]
    with Hook(command, output) as one, Hook(command, output) as other:
        for event in events:
            one.start(event)
            other.start(event)
    given = [f"{output / f's{n}.nii'} result" for n in range(4)]
    assert sorted(log.read_text().splitlines()) == given
    claims = len(list((output / ".medp2p" / "claims").iterdir()))
    with Hook(command, output) as later:
        for event in events:
            later.start(event)
    assert sorted(log.read_text().splitlines()) == given
    assert len(list((output / ".medp2p" / "claims").iterdir())) == claims
    assert "the command" not in status(output)


def test_nobody_replaces_a_result_while_its_command_runs(tmp_path):
    log, switch, output = tmp_path / "log", tmp_path / "switch", tmp_path / "out"
    command = appending(log, f"until [ -e {shlex.quote(str(switch))} ]; do sleep 0.02; done")
    event = make(output, "s")
    with Claims(output, "another run") as claims:
        with Hook(command, output) as hook:
            hook.start(event)
            wait_for(log)
            assert claims.take("s") is None
            switch.touch()
        claim = claims.take("s")
        assert claim


def test_a_command_waits_for_a_run_that_is_at_the_scan_and_gets_what_was_made(tmp_path):
    log, output = tmp_path / "log", tmp_path / "out"
    old, free = make(output, "s"), make(output, "t")
    with Claims(output, "another run") as claims, Hook(appending(log), output) as hook:
        claim = claims.take("s")
        assert claim
        hook.start(old)
        hook.start(free)
        wait_for(log)
        assert log.read_text() == f"{output}/t.nii result\n"
        new = make(output, "s", "k2", "new")
        claims.release(claim)
        time.sleep(2 * hooks.TICK_SECONDS)
        assert len(log.read_text().splitlines()) == 1, "the old result is not there any more"
        assert "the command after a scan is still to be run for 1" in status(output)
        hook.start(new)
    assert log.read_text() == f"{output}/t.nii result\n{output}/s.nii new\n"
    assert "the command" not in status(output)


def test_a_command_that_hangs_when_a_run_ends_is_killed_and_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "GRACE_SECONDS", 0.2)
    log, children, output = tmp_path / "log", tmp_path / "children", tmp_path / "out"
    command = appending(log, f"sleep 600 & echo $! >> {shlex.quote(str(children))}; wait")
    events = [make(output, "s"), make(output, "t")]
    for count in (1, 2):
        began = time.monotonic()
        with Hook(command, output) as hook:
            for event in events:
                hook.start(event)
            wait_for(children, count)
            hook.drop_waiting()
        assert time.monotonic() - began < 10
        assert "the command after a scan is still to be run for 2" in status(output)
    assert log.read_text().splitlines() == [f"{output}/s.nii result"] * 2
    assert not [child for child in children.read_text().split() if is_alive(int(child))]
    codes = [event.code for event in read_events(output) if event.kind == "hook"]
    assert codes == [hooks.WAITS] * 2


def test_the_last_word_is_that_of_the_last_command(tmp_path):
    """A mistyped command between two runs of a good one."""
    output = tmp_path / "out"
    event = make(output, "s")
    for command, said in (("true {}", ""), ("false {}", "failed for 1"), ("true {}", "")):
        with Hook(command, output) as hook:
            hook.start(event)
        text = status(output)
        assert said in text
        assert ("the command" in text) == bool(said)


@pytest.mark.parametrize("grace", [0.3, 600.0])
def test_a_signal_after_the_last_scan_ends_the_command(
    tiny_model, tmp_path, capsys, monkeypatch, grace
):
    """The command sends it; with a long time of grace, a second one insists."""
    monkeypatch.setattr(hooks, "GRACE_SECONDS", grace)
    incoming, output, log = tmp_path / "in", tmp_path / "out", tmp_path / "log"
    incoming.mkdir()
    image = nib.Nifti1Image(make_pair(1)[0], np.diag([1.5, 1.5, 3.0, 1.0]))
    nib.save(image, incoming / "mr.nii.gz")
    if grace < 600:
        send = f"kill -INT {os.getpid()}; "
    else:
        send = f"sleep 3; kill -INT {os.getpid()}; sleep 0.5; kill -INT {os.getpid()}; "
    then = f'echo $$ >> "$0"; [ "$SEND" ] || exit 0; {send} sleep 600'
    command = shlex.join(["sh", "-c", then, str(log), "{}"])
    settings = ["--device", "cpu", "--precision", "fp32", "--readers", "1", "--on-done", command]
    line = ["batch", str(incoming), str(output), "-m", str(tiny_model), *settings]
    monkeypatch.setenv("SEND", "yes")
    code, _, _ = run(capsys, *line)
    assert code == 130
    [process] = log.read_text().split()
    assert not is_alive(int(process))
    assert "the command after a scan is still to be run for 1" in status(output)
    if grace == 600:
        return
    monkeypatch.delenv("SEND")
    code, said, _ = run(capsys, *line)
    assert code == 0
    assert "the command" not in said
    assert len(log.read_text().split()) == 2
    assert len([event for event in read_events(output) if event.kind == "done"]) == 1


def test_what_cannot_be_run_is_said(tmp_path):
    event = make(tmp_path / "out", "s")
    with Hook(f"{tmp_path / 'missing'} {{}}", tmp_path / "out") as hook:
        hook.start(event)
    assert hook.failed == 1
    [*_, last] = [event for event in read_events(tmp_path / "out") if event.kind == "hook"]
    assert last.reason == f"{tmp_path / 'missing'}: No such file or directory"
