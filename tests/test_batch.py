from __future__ import annotations

import csv
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import make_pair, refused, run

from medp2p.conversion.journal import Journal, read_events
from medp2p.io import read_volume

ODD_NAME = "a 'quoted' name"


@pytest.fixture
def incoming(tmp_path) -> Path:
    """Two MR, one CT and a damaged MR."""
    folder = tmp_path / "incoming"
    for place, seed in (("p1/mr", 1), (f"{ODD_NAME}/mr", 2), ("p1/ct", 3), ("p2/mr", 4)):
        path = folder / f"{place}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        array = make_pair(seed)[0] if place.endswith("mr") else make_pair(seed)[1]
        nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 3.0, 1.0])), path)
    damaged = folder / "p2" / "mr.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    return folder


def batch(incoming: Path, output: Path, model: Path, *more: str) -> list[str]:
    settings = ["--device", "cpu", "--precision", "fp32", "--readers", "1"]
    return ["batch", str(incoming), str(output), "-m", str(model), *settings, *more]


def test_a_tree_is_translated_and_told_of(incoming, tiny_model, tmp_path, capsys):
    output = tmp_path / "out"
    code, said, _ = run(capsys, *batch(incoming, output, tiny_model, "--dry-run"))
    assert code == 0
    assert "translate  p1/mr  (1 file, 14,400 voxels)" in said
    assert "leave out  p1/ct: " in said
    assert not output.exists()

    program = 'import sys; open(sys.argv[1] + ".sent", "w").close()'
    hook = shlex.join([sys.executable, "-c", program, "{}"])
    code, said, _ = run(capsys, *batch(incoming, output, tiny_model, "--on-done", hook))
    assert code == 3
    assert said.startswith("4 of 4 scans: 2 done, 1 skipped, 1 failed")
    made = sorted(p.relative_to(output).as_posix() for p in output.rglob("*.nii.gz"))
    assert made == [f"{ODD_NAME}/mr.nii.gz", "p1/mr.nii.gz"]
    assert all((output / f"{name}.sent").exists() for name in made)
    source, result = (read_volume(folder / "p1/mr.nii.gz") for folder in (incoming, output))
    assert result.grid.difference(source.grid) is None
    with (output / "summary.csv").open(newline="") as file:
        states = {row["scan"]: row["state"] for row in csv.DictReader(file)}
    assert states == {
        "p1/ct": "skipped",
        "p1/mr": "done",
        "p2/mr": "failed",
        f"{ODD_NAME}/mr": "done",
    }

    code, _, _ = run(capsys, *batch(incoming, output, tiny_model))
    assert code == 3
    done = [event for event in read_events(output) if event.kind == "done"]
    assert len(done) == 2
    code, said, _ = run(capsys, "batch", "--status", output)
    assert code == 0
    assert said.startswith("4 of 4 scans: 2 done, 1 skipped, 1 failed")


def test_a_command_that_failed_is_run_again_and_one_that_succeeded_is_not(
    incoming, tiny_model, tmp_path, capsys
):
    output, switch = tmp_path / "out", tmp_path / "works"
    program = (
        "import os, sys; name = sys.argv[2]\n"
        "if 'quoted' in name and not os.path.exists(sys.argv[1]): sys.exit(7)\n"
        "open(sys.argv[1] + '.log', 'a').write(name + chr(10))"
    )
    hook = shlex.join([sys.executable, "-c", program, str(switch), "{}"])
    command = batch(incoming, output, tiny_model, "--exclude", "p2/*", "--on-done", hook)
    code, said, _ = run(capsys, *command)
    assert code == 3
    assert "the command after a scan failed for 1" in said
    failed = [event for event in read_events(output) if event.code == "hook_failed"]
    assert [(event.scan, event.reason) for event in failed] == [
        (f"{ODD_NAME}/mr", f"{sys.executable}: exit code 7")
    ]

    switch.touch()
    for _ in range(2):
        code, said, _ = run(capsys, *command)
        assert code == 0
        assert "failed for" not in said
    given = Path(f"{switch}.log").read_text().splitlines()
    assert given == [str(output / name) for name in ("p1/mr.nii.gz", f"{ODD_NAME}/mr.nii.gz")]
    assert len([event for event in read_events(output) if event.kind == "done"]) == 2


def test_what_has_changed_or_gone_is_told_by_the_summary(incoming, tiny_model, tmp_path, capsys):
    output, mr = tmp_path / "out", incoming / "p1" / "mr.nii.gz"
    command = batch(incoming, output, tiny_model, "--exclude", "*quoted*")
    assert run(capsys, *command)[0] == 3
    result = (output / "p1" / "mr.nii.gz").read_bytes()
    assert run(capsys, *command, "--exclude", "p1/*")[0] == 1
    assert rows_of(output)["p1/mr"][0] == "done"

    nib.save(nib.Nifti1Image(make_pair(9)[0][..., :3], np.diag([1.5, 1.5, 3.0, 1.0])), mr)
    (incoming / "p2" / "mr.nii.gz").unlink()
    assert run(capsys, *command)[0] == 0
    rows = rows_of(output)
    assert rows["p1/mr"] == (
        "skipped",
        "3 slices; expected at least 8; the result of an earlier run, of another input, is still "
        "there",
    )
    assert set(rows) == {"p1/ct", "p1/mr", f"{ODD_NAME}/mr"}
    assert (output / "p1" / "mr.nii.gz").read_bytes() == result


def rows_of(output: Path) -> dict[str, tuple[str, str]]:
    with (output / "summary.csv").open(newline="") as file:
        return {row["scan"]: (row["state"], row["reason"]) for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--until", "25:00"], "expected a time of day such as 06:00"),
        (["--until", "06"], "expected a time of day such as 06:00"),
        (["--ray-address", "host:6379"], "goes with --engine ray"),
        (["--seed", "x", "--to", "nifti"], "is for DICOM results"),
        (["--body-part", "HEAD", "--to", "nifti"], "is for DICOM results"),
        (["--until", "06:00+02:00"], "expected a time of day such as 06:00"),
        (["--shard", "4/3"], "expected I/N with I from 1 to N"),
        (["--on-done", "echo done"], "no {} in 'echo done'"),
        (["--on-done", "echo '{}"], "check the quotes"),
        (["--since", "yesterday"], "since: "),
        (["--uid-root", "abc"], "is no root for UIDs"),
        (["--body-part", "head"], "the body part is not of"),
        (["--deidentify", "--to", "dicom"], "needs --deidentify-key"),
        (["--deidentify", "--deidentify-key", __file__, "--to", "nifti"], "is for DICOM results"),
    ],
)
def test_wrong_options_are_refused_before_any_work(
    incoming, tiny_model, tmp_path, capsys, more, reason
):
    output = tmp_path / "out"
    code, _, said = run(capsys, *batch(incoming, output, tiny_model, *more))
    assert code in (1, 2)
    assert reason in " ".join(said.split())
    assert "Traceback" not in said
    assert "looking" not in said
    assert not output.exists()


def test_folders_inside_each_other_are_refused(incoming, tiny_model, capsys):
    for output in (incoming / "out", incoming, incoming.parent):
        said = refused(capsys, *batch(incoming, output, tiny_model))
        assert "lies in the folder of scans, or around it" in said
    assert "holds no journal" in refused(capsys, "batch", "--status", incoming)


def test_shards_share_the_scans(incoming, tiny_model, tmp_path, capsys):
    scans = []
    for part in ("1/3", "2/3", "3/3"):
        command = batch(incoming, tmp_path / "out", tiny_model, "--dry-run", "--shard", part)
        _, said, _ = run(capsys, *command)
        lines = said.splitlines()
        scans += [line.split("  ")[1] for line in lines if line.startswith("translate")]
    assert len(scans) == len(set(scans)) == 3


def test_a_summary_that_no_run_has_written_is_not_replaced(incoming, tiny_model, tmp_path, capsys):
    output = tmp_path / "out"
    output.mkdir()
    mine = output / "summary.csv"
    mine.write_text("my own table\n")
    said = refused(capsys, *batch(incoming, output, tiny_model))
    assert "no run has written what is there; move it away" in said
    assert mine.read_text() == "my own table\n"
    assert sorted(path.name for path in output.iterdir()) == ["summary.csv"]


def test_results_of_two_trees_are_not_mixed(incoming, tiny_model, tmp_path, capsys):
    output, other = tmp_path / "out", tmp_path / "other"
    nothing = ("--exclude", "*")
    assert run(capsys, *batch(incoming, output, tiny_model, *nothing))[0] == 0
    incoming.rename(other)
    said = refused(capsys, *batch(other, output, tiny_model, *nothing))
    assert "holds results of another folder of scans" in said
    (output / ".medp2p" / "incoming").unlink()
    assert run(capsys, *batch(other, output, tiny_model, *nothing))[0] == 0


def test_status_adds_up_shards(tmp_path, capsys):
    for part, scans in (("1/2", 3), ("2/2", 4), ("1/2", 3)):
        with Journal(tmp_path) as journal:
            journal.add("run", details={"scans": scans, "part": part})
            if part == "1/2":
                journal.add("ended", code="finished")
            journal.add("done", scan="a")
    _, said, _ = run(capsys, "batch", "--status", tmp_path)
    assert said.startswith("1 of 7 scans: 1 done")
    assert "the latest run goes on" in said


def test_damaged_lines_of_a_journal_are_left_out(tmp_path):
    with Journal(tmp_path) as journal:
        journal.add("done", scan="a")
        with journal.path.open("a") as file:
            line = journal.path.read_text().splitlines()[0]
            file.write(line.replace('"details":{}', '"details":[]') + "\n")
            file.write(line.replace('"scan":"a"', '"scan":["b"]') + "\n")
    assert [event.scan for event in read_events(tmp_path)] == ["a"]


@pytest.mark.slow
def test_what_arrives_is_translated_until_a_signal(incoming, tiny_model, tmp_path):
    output = tmp_path / "out"
    command = [sys.executable, "-m", "medp2p.cli", *batch(incoming, output, tiny_model)]
    environment = os.environ | {"PYTHONWARNINGS": "default"}
    with subprocess.Popen([*command, "--watch", "2"], env=environment) as process:
        try:
            wait_for(output / "p1" / "mr.nii.gz")
            (incoming / "p3").mkdir()
            (incoming / "p1" / "mr.nii.gz").rename(incoming / "p3" / "mr.nii.gz")
            wait_for(output / "p3" / "mr.nii.gz")
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
    assert "p3/mr" in {event.scan for event in read_events(output) if event.kind == "done"}


def wait_for(path: Path) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.2)
