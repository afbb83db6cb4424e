from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import datetime
from datetime import time as time_of_day
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import make_pair, mount, run

from medp2p.conversion.claims import Claims
from medp2p.conversion.job import ConversionJob
from medp2p.conversion.journal import Event, Journal, last_of_each, read_events
from medp2p.conversion.pipeline import Conversion, convert, next_time
from medp2p.conversion.run import Run
from medp2p.conversion.scans import LeftOut, Scan, ScanImage, Worklist
from medp2p.conversion.summary import progress_of
from medp2p.errors import OutputError
from medp2p.io import DicomOutput, read_volume
from medp2p.io.dicom_files import scan_files
from medp2p.io.dicom_series import series_key
from medp2p.phantom.dicom_export import mr_series, write_patient
from medp2p.phantom.hospital import make_patient, random_plan

SHAPE = (40, 36, 10)


@pytest.fixture(scope="module")
def model(tiny_model) -> Path:
    return tiny_model


def write_mr(path: Path, seed: int, shape: tuple[int, int, int] = SHAPE) -> Scan:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(make_pair(seed, shape)[0], np.diag([1.5, 1.5, 3.0, 1.0]))
    nib.save(image, path)
    return Scan(path.name.removesuffix(".nii.gz"), (ScanImage(path, (path,)),), int(np.prod(shape)))


def write_series(folder: Path, number: int) -> Scan:
    """An MR series of a phantom patient."""
    plan = random_plan(number, contrasts=("t1",), pixels=32, turned=False)
    [series] = mr_series(make_patient(plan), number, localizer=False)
    write_patient([series], folder)
    files = tuple(sorted(p for p in folder.rglob("*") if p.is_file()))
    place = files[0].parent
    [uid] = {frame.file.series_uid for frame in scan_files(files).frames}
    return Scan(folder.name, (ScanImage(place, files, series_key(uid)),), 32 * 32 * len(files))


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> tuple[Scan, ...]:
    """Four NIfTI files and two DICOM series."""
    incoming = tmp_path_factory.mktemp("incoming")
    files = [write_mr(incoming / f"mr_{n}.nii.gz", n) for n in range(4)]
    return (*files, *(write_series(incoming / f"series_{n}", n) for n in (1, 2)))


def make_job(model: Path, **changes) -> ConversionJob:
    settings = {"devices": ("cpu",), "precision": "fp32", "readers": 1, "guard": "force"}
    return ConversionJob(model, **(settings | changes))


def files_of(output: Path) -> dict[str, str]:
    """Results by their place, with the hash of header and voxels; without journal and work."""
    files = [p for p in output.rglob("*") if p.is_file()]
    return {
        name: hashlib.sha256(_unpacked(path)).hexdigest()
        for path in files
        if not (name := path.relative_to(output).as_posix()).startswith((".medp2p/", "journal/"))
    }


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


def counts(result: Conversion) -> tuple[int, int, int, int]:
    return result.done, result.unchanged, result.skipped, result.failed


@pytest.fixture(scope="module")
def undisturbed(model, scans, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    result = convert(Worklist(scans), output, make_job(model))
    assert counts(result) == (6, 0, 0, 0)
    return output


def test_results_are_those_of_translate(undisturbed, scans, model, tmp_path, capsys):
    for scan in scans:
        source = scan.images[0].path
        made = tmp_path / (scan.name if source.is_dir() else f"{scan.name}.nii.gz")
        arguments = ["translate", source, made, "-m", model, "--device", "cpu"]
        assert run(capsys, *arguments, "--precision", "fp32")[0] == 0
    found = files_of(undisturbed)
    assert found == files_of(tmp_path)
    assert len(found) > 10


def test_the_journal_says_what_was_made(undisturbed, scans):
    events = read_events(undisturbed)
    kinds = [event.kind for event in events]
    assert kinds[0] == "run"
    assert events[0].details["scans"] == 6
    assert (kinds[-1], events[-1].code) == ("ended", "finished")
    last = last_of_each(events)
    assert {name: event.kind for name, event in last.items()} == {s.name: "done" for s in scans}
    event = last["mr_0"]
    assert list(event.details["outputs"]) == ["mr_0.nii.gz"]
    content = event.details["outputs"]["mr_0.nii.gz"]
    file = undisturbed / "mr_0.nii.gz"
    assert content["bytes"] == file.stat().st_size
    assert content["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert set(event.details["stages"]) == {"read", "predict", "write"}
    assert 0 <= event.details["quality"]["clipped"] <= 1
    assert len({event.key for event in last.values()}) == 6


def test_nothing_private_is_left_but_claims(undisturbed):
    private = undisturbed / ".medp2p"
    assert list((private / "work").iterdir()) == []
    assert len(list((private / "claims").iterdir())) == 6


def copy(undisturbed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(undisturbed, tmp_path / "out"))


def test_what_is_done_is_left_alone(undisturbed, scans, model, tmp_path):
    output = copy(undisturbed, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in output.rglob("*.*") if ".medp2p" not in str(p)}
    heard: list[Event] = []
    result = convert(Worklist(scans), output, make_job(model), on_event=heard.append)
    assert counts(result) == (0, 6, 0, 0)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert sorted(e.scan for e in heard if e.kind == "done") == sorted(s.name for s in scans)
    own = [e.kind for e in read_events(output) if e.run == result.run]
    assert own == ["run", "ended"]


def test_lost_damaged_and_outdated_results_are_made_again(undisturbed, model, scans, tmp_path):
    output = copy(undisturbed, tmp_path)
    (output / "mr_0.nii.gz").unlink()
    changed = write_mr(tmp_path / "mr_1.nii.gz", 77)
    result = convert(Worklist((scans[0], changed, scans[2])), output, make_job(model))
    assert counts(result) == (2, 1, 0, 0)
    expected = files_of(undisturbed)
    found = files_of(output)
    assert found.pop("mr_1.nii.gz") != expected.pop("mr_1.nii.gz")
    assert found == expected
    back = convert(Worklist(scans), output, make_job(model))
    assert counts(back) == (1, 5, 0, 0)
    assert files_of(output) == files_of(undisturbed)


def test_other_settings_make_all_again(undisturbed, model, scans, tmp_path):
    output = copy(undisturbed, tmp_path)
    some = (scans[0], scans[4])
    result = convert(Worklist(some), output, make_job(model, mask="none"))
    assert counts(result) == (2, 0, 0, 0)
    found, expected = files_of(output), files_of(undisturbed)
    changed = {name for name in expected if found.get(name) != expected[name]}
    assert changed == {n for n in expected if n.startswith(("mr_0", "series_1/"))}


def test_what_is_not_ours_is_never_replaced(undisturbed, model, scans, tmp_path):
    output = copy(undisturbed, tmp_path)
    edited = output / "mr_0.nii.gz"
    edited.write_bytes(b"somebody's own")
    note = output / "series_1" / "note.txt"
    note.write_text("kept")
    (output / "mr_1.nii.gz").unlink()
    (output / "mr_1.nii.gz").symlink_to(output / "mr_2.nii.gz")
    result = convert(Worklist(scans), output, make_job(model))
    assert counts(result) == (0, 3, 0, 3)
    last = last_of_each(read_events(output))
    for name in ("mr_0", "mr_1", "series_1"):
        assert (last[name].kind, last[name].code) == ("failed", "foreign_output")
    assert edited.read_bytes() == b"somebody's own"
    assert note.read_text() == "kept"
    assert (output / "mr_1.nii.gz").is_symlink()


def test_a_file_that_was_there_before_is_not_replaced(model, scans, tmp_path):
    (tmp_path / "mr_0.nii.gz").write_bytes(b"mine")
    result = convert(Worklist(scans[:1]), tmp_path, make_job(model))
    assert counts(result) == (0, 0, 0, 1)
    assert (tmp_path / "mr_0.nii.gz").read_bytes() == b"mine"


def test_a_result_without_its_done_line_is_recognized(undisturbed, model, scans, tmp_path):
    """As after a power loss: the journal ends in the middle of a line."""
    output = copy(undisturbed, tmp_path)
    [journal] = (output / "journal").iterdir()
    lines = journal.read_bytes().splitlines(keepends=True)
    done = [n for n, line in enumerate(lines) if json.loads(line)["kind"] == "done"]
    journal.write_bytes(b"".join(lines[: done[-1]]) + lines[done[-1]][:40])
    result = convert(Worklist(scans), output, make_job(model))
    assert counts(result) == (0, 6, 0, 0)
    assert files_of(output) == files_of(undisturbed)
    assert {e.kind for e in last_of_each(read_events(output)).values()} == {"done"}


def test_a_forced_result_stays_marked(model, scans, tmp_path):
    """However often it is looked at, and if the run was killed before it said so."""
    output = tmp_path / "out"
    convert(Worklist(scans[:1]), output, make_job(model))
    journal = next((output / "journal").iterdir())
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    written = next(line for line in lines if line["code"] == "written")
    written["details"]["quality"]["guard_reasons"] = ["darker than expected"]
    journal.write_text("".join(f"{json.dumps(line)}\n" for line in (*lines[:2], written)))
    for left_out in ((), (LeftOut("mr_0", "pattern", "is not wanted"),), ()):
        worklist = Worklist(() if left_out else scans[:1], left_out)
        convert(worklist, output, make_job(model, guard="force"))
        event = last_of_each(read_events(output))["mr_0"]
        assert (event.kind, event.code) == ("done", "guard_forced")
        assert event.reason == "darker than expected"
        assert event.details["outputs"]


def test_what_another_run_did_not_want_is_translated(model, scans, tmp_path):
    output = tmp_path / "out"

    def leave_out(event: Event) -> None:
        if event.kind == "run":
            with Journal(output) as journal:
                settings = {name: event.details[name] for name in ("settings", "guard")}
                journal.add("run", details=settings)
                journal.add("skipped", scan="mr_0", code="pattern", reason="is not wanted")
                journal.add("done", scan="mr_1", key="of other files")

    result = convert(Worklist(scans[:2]), output, make_job(model), on_event=leave_out)
    assert counts(result) == (2, 0, 0, 0)


def test_what_another_run_found_to_be_damaged_is_not_read_again(model, scans, tmp_path):
    output, other = tmp_path / "out", tmp_path / "other"
    convert(Worklist(scans[:1]), other, make_job(model))
    key = last_of_each(read_events(other))["mr_0"].key

    def fail(event: Event) -> None:
        if event.kind == "run":
            with Journal(output) as journal:
                settings = {name: event.details[name] for name in ("settings", "guard")}
                journal.add("run", details=settings)
                journal.add("failed", scan="mr_0", key=key, code="unreadable", reason="is cut off")

    result = convert(Worklist(scans[:1]), output, make_job(model), on_event=fail)
    assert counts(result) == (0, 0, 0, 1)
    assert last_of_each(read_events(output))["mr_0"].kind in ("failed", "taken")
    assert not (output / "mr_0.nii.gz").exists()


def test_an_earlier_result_of_a_scan_that_fails_now_is_named(model, tmp_path):
    output, path = tmp_path / "out", tmp_path / "in" / "mr.nii.gz"
    scan = write_mr(path, 1)
    convert(Worklist((scan,)), output, make_job(model))
    path.write_bytes(path.read_bytes()[:-300])
    convert(Worklist((scan,)), output, make_job(model))
    event = last_of_each(read_events(output))["mr"]
    assert (event.kind, event.code) == ("failed", "unreadable")
    assert event.reason.endswith("; the result of an earlier run, of another input, is still there")


def test_a_result_of_another_input_is_not_listed_as_done(undisturbed, model, scans, tmp_path):
    output = copy(undisturbed, tmp_path)
    own, other = scans[0].images[0].files, scans[1].images[0].files
    touched = tmp_path / "touched.nii.gz"
    shutil.copyfile(own[0], touched)
    earlier = "; the result of an earlier run"
    for files, failed, expected in (
        (own, False, ("done", "")),
        ((touched,), False, ("done", "")),
        (other, False, ("skipped", f"is small{earlier}, of another input, is still there")),
        (own, True, ("failed", f"is small{earlier} is still there")),
    ):
        worklist = Worklist((), (LeftOut("mr_0", "few_slices", "is small", failed, files),))
        results = [convert(worklist, output, make_job(model)) for _ in range(2)]
        events = read_events(output)
        last = last_of_each(events)["mr_0"]
        assert (last.kind, last.reason) == expected
        assert not [e for e in events if e.scan and e.run == results[1].run]
    assert files_of(output) == files_of(undisturbed)


def test_what_is_gone_is_refused_no_longer(undisturbed, model, scans, tmp_path):
    output = copy(undisturbed, tmp_path)
    refused = ("p/t2", "q/t2", "mr_0")
    left_out = tuple(LeftOut(name, "damaged", "is cut off", failed=True) for name in refused)
    convert(Worklist((), left_out), output, make_job(model))
    some = Worklist((), (), looked_in=("p/", "mr"), names=frozenset(("p/t1",)))
    for worklist, expected in ((Worklist(()), refused), (some, refused[1:]), (some, refused[1:])):
        result = convert(worklist, output, make_job(model))
        failed = [e.scan for e in last_of_each(read_events(output)).values() if e.kind == "failed"]
        assert set(failed) == set(expected)
    assert [e.kind for e in read_events(output) if e.run == result.run] == ["run", "ended"]
    assert progress_of(read_events(output)).counts["failed"] == 2
    back = convert(Worklist((), left_out[:1]), output, make_job(model))
    assert [e.scan for e in read_events(output) if e.run == back.run] == ["", "p/t2", ""]


def test_a_run_whose_output_is_taken_away_ends_in_one_line(model, scans, tmp_path):
    output, away = tmp_path / "out", tmp_path / "away"

    def take_away(event: Event) -> None:
        if event.kind == "run":
            output.rename(away)

    with pytest.raises(OutputError, match="cannot be written"):
        convert(Worklist(scans[:1]), output, make_job(model), on_event=take_away)
    assert [event.code for event in read_events(away)] == ["", "error"]


def test_a_file_in_the_place_of_a_folder_is_seen_before_the_scan_is_translated(
    model, scans, tmp_path
):
    (tmp_path / "p").write_text("mine")
    convert(Worklist((replace(scans[0], name="p/mr"),)), tmp_path, make_job(model))
    kinds = [(event.kind, event.code) for event in read_events(tmp_path) if event.scan]
    assert kinds == [("taken", ""), ("failed", "foreign_output")]
    assert (tmp_path / "p").read_text() == "mine"


def test_a_copy_of_a_file_is_no_other_input(model, scans, undisturbed, tmp_path):
    output = copy(undisturbed, tmp_path)
    [image] = scans[4].images
    again = tmp_path / "copy"
    shutil.copyfile(image.files[0], again)
    with_copy = replace(scans[4], images=(replace(image, files=(*image.files, again)),))
    assert counts(convert(Worklist((with_copy,)), output, make_job(model))) == (0, 1, 0, 0)


def test_a_scan_that_turns_out_damaged_while_under_way_is_not_done(model, tmp_path):
    output, scan = tmp_path / "out", write_mr(tmp_path / "in" / "mr.nii.gz", 1)
    news = [Worklist((), (LeftOut("mr", "damaged", "a part is cut off", failed=True),))]
    taken, stop = threading.Event(), threading.Event()

    def more() -> Worklist:
        taken.wait(60)
        return news.pop() if news else Worklist(())

    def note(event: Event) -> None:
        if event.kind == "taken":
            taken.set()
        if event.kind in ("failed", "done"):
            stop.set()

    worker = Run._look_at_the_time

    def look(self: Run) -> None:
        if stop.is_set() and not self.under_way:
            self.stop.requested = True
        worker(self)

    Run._look_at_the_time = look  # type: ignore[method-assign]
    try:
        result = convert(Worklist((scan,)), output, make_job(model), more=more, on_event=note)
    finally:
        Run._look_at_the_time = worker  # type: ignore[method-assign]
    assert counts(result) == (0, 0, 0, 1)
    assert last_of_each(read_events(output))["mr"].code == "damaged"
    assert not (output / "mr.nii.gz").exists()


def test_damaged_scans_fail_alone(model, scans, tmp_path):
    empty, text = tmp_path / "empty.nii.gz", tmp_path / "text.nii.gz"
    empty.touch()
    text.write_text("no image")
    gone = tmp_path / "gone.nii.gz"
    bad = [Scan(p.name[:-7], (ScanImage(p, (p,)),), 1000) for p in (empty, text, gone)]
    left_out = (
        LeftOut("scout", "localizer", "a localizer"),
        LeftOut("torn", "damaged", "cut short", failed=True),
    )
    output = tmp_path / "out"
    result = convert(Worklist((*bad, scans[0]), left_out), output, make_job(model))
    assert counts(result) == (1, 0, 1, 4)
    last = last_of_each(read_events(output))
    codes = {name: event.code for name, event in last.items()}
    assert codes == {
        "empty": "unreadable",
        "text": "unreadable",
        "gone": "missing",
        "mr_0": "",
        "scout": "localizer",
        "torn": "damaged",
    }
    assert "0 bytes" in last["empty"].reason
    again = convert(Worklist((*bad, scans[0]), left_out), output, make_job(model))
    assert counts(again) == (0, 1, 1, 4)
    names = [e.scan for e in read_events(output) if e.run == again.run and e.scan]
    assert set(names) == {"empty", "text", "gone"}


def test_paths_are_hidden_where_names_are_hashed(model, tmp_path):
    path = tmp_path / "Doe^Jane 1970.nii.gz"
    path.write_text("no image")
    scan = Scan("5f3a", (ScanImage(path, (path,)),), 1000)
    output = tmp_path / "out"
    convert(Worklist((scan,)), output, make_job(model, hash_names=True))
    written = b"".join(p.read_bytes() for p in (output / "journal").iterdir())
    assert b"Doe" not in written
    assert b"5f3a: " in written


def test_nifti_becomes_dicom_and_dicom_nifti(model, scans, tmp_path):
    pair = (scans[0], scans[4])
    labels = DicomOutput(patient_id="P1", body_part="HEAD", series_description="sCT")
    job = make_job(model, kind="dicom", labels=labels)
    assert counts(convert(Worklist(pair), tmp_path / "dicom", job)) == (2, 0, 0, 0)
    as_nifti = make_job(model, kind="nifti")
    assert counts(convert(Worklist(pair), tmp_path / "nifti", as_nifti)) == (2, 0, 0, 0)
    for scan, folder in zip(pair, (f"{pair[0].name}.dicom", pair[1].name), strict=True):
        series = read_volume(tmp_path / "dicom" / folder)
        image = read_volume(tmp_path / "nifti" / f"{scan.name}.nii.gz")
        assert series.modality == image.modality == "CT"
        assert series.array.size == image.array.size
    assert series.dicom
    assert series.dicom.header.PatientID.startswith("PHANTOM")


def test_a_guard_skips_or_marks(model, scans, tmp_path):
    """A model of large bodies is not for these small ones."""
    from medp2p.checkpoint import load_model, save_model

    loaded = load_model(model)
    extents = {"body_extent_mm": [[300.0, 200.0, 300.0], [400.0, 300.0, 500.0]], "cases": 8}
    extents["spacing_mm"] = [[1.0, 1.0, 3.0], [1.0, 1.0, 3.0]]
    large = tmp_path / "large.safetensors"
    card = replace(loaded.card, fingerprint=extents)
    save_model(large, loaded.generator.state_dict(), card)
    skipped = convert(Worklist(scans[:1]), tmp_path / "a", make_job(large, guard="skip"))
    assert counts(skipped) == (0, 0, 1, 0)
    event = last_of_each(read_events(tmp_path / "a"))["mr_0"]
    assert (event.kind, event.code) == ("skipped", "guard")
    assert event.reason
    assert event.details["quality"]["guard_score"] >= 1
    forced = convert(Worklist(scans[:1]), tmp_path / "b", make_job(large, guard="force"))
    assert counts(forced) == (1, 0, 0, 0)
    marked = last_of_each(read_events(tmp_path / "b"))["mr_0"]
    assert (marked.kind, marked.code, marked.reason) == ("done", "guard_forced", event.reason)


def test_a_file_that_grows_while_it_is_read_is_refused(model, tmp_path):
    scan = write_mr(tmp_path / "mr.nii.gz", 0, (160, 160, 60))
    path, ended = scan.images[0].path, threading.Event()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])

    def grow() -> None:
        while not ended.wait(0.01):
            with path.open("ab") as file:
                file.write(b"\0")

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        result = convert(Worklist((scan,)), tmp_path / "out", make_job(model))
    finally:
        ended.set()
        thread.join()
    assert counts(result) == (0, 0, 0, 1)
    assert last_of_each(read_events(tmp_path / "out"))["mr"].code == "changed_while_read"


def test_a_scan_that_hangs_is_given_up(model, scans, tmp_path):
    pipe = tmp_path / "hangs.nii.gz"
    os.mkfifo(pipe)
    hanging = Scan("hangs", (ScanImage(pipe, (pipe,)),), 1000)
    output = tmp_path / "out"
    job = make_job(model, time_limit_seconds=4.0, readers=2)
    result = convert(Worklist((hanging, *scans[:3])), output, job)
    assert counts(result) == (3, 0, 0, 1)
    event = last_of_each(read_events(output))["hangs"]
    assert (event.code, event.reason) == ("time_limit", "took longer than 4 s, so it was given up")


@pytest.mark.slow
def test_two_runs_share_a_folder(model, tmp_path):
    scans = tuple(write_mr(tmp_path / "in" / f"mr_{n}.nii.gz", n) for n in range(12))
    output = tmp_path / "out"
    results: list[Conversion] = []

    def one() -> None:
        results.append(convert(Worklist(scans), output, make_job(model, readers=1)))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = results
    assert first.done + second.done == 12
    for result in results:
        assert result.done + result.unchanged == 12, results
    done = [e.scan for e in read_events(output) if e.kind == "done"]
    assert sorted(done) == sorted(s.name for s in scans)


def test_no_scan_is_begun_after_the_time_of_day(model, scans, tmp_path, monkeypatch):
    now = datetime(2024, 5, 1, 23, 30)
    assert next_time(time_of_day(6), now) == datetime(2024, 5, 2, 6)
    assert next_time(time_of_day(23, 45), now) == datetime(2024, 5, 1, 23, 45)
    assert next_time(time_of_day(23, 30), now) == datetime(2024, 5, 2, 23, 30)
    monkeypatch.setattr("medp2p.conversion.run.next_time", lambda _, now: now)
    result = convert(Worklist(scans), tmp_path, make_job(model, until=time_of_day(6)))
    assert (result.ended, result.left, result.done) == ("until", 6, 0)
    assert result.reason == "it is past 06:00; run again to go on"


def test_a_device_that_is_not_there_is_refused(model, scans, tmp_path):
    from medp2p.errors import MedP2PError

    with pytest.raises(MedP2PError, match="not available"):
        convert(Worklist(scans[:1]), tmp_path, make_job(model, devices=("cuda:7",)))
    assert read_events(tmp_path)[-1].code == "error"


@pytest.mark.parametrize("size", ["400k", "1100k"])
def test_a_full_disk_ends_the_run_in_order(model, tmp_path, size):
    scans = tuple(write_mr(tmp_path / "in" / f"mr_{n}.nii.gz", n) for n in range(30))
    scans = tuple(replace(scan, voxels=0) for scan in scans)  # so that nothing is foreseen
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk)
    try:
        result = convert(Worklist(scans), disk / "out", make_job(model))
        assert result.ended == "disk_full"
        assert result.left + result.done + result.failed == 30
        events = read_events(disk / "out")
        done = {name for name, e in last_of_each(events).items() if e.kind == "done"}
        for name in done:
            assert nib.load(disk / "out" / f"{name}.nii.gz").get_fdata().shape == SHAPE
        found = {p.name for p in (disk / "out").glob("*.nii.gz")}
        assert {f"{name}.nii.gz" for name in done} <= found
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
def test_a_mount_that_turns_read_only_ends_the_run(model, tmp_path):
    scans = tuple(write_mr(tmp_path / "in" / f"mr_{n}.nii.gz", n) for n in range(30))
    output = tmp_path / "out"
    job = make_job(model, lease_seconds=2.0)  # no claim can be released meanwhile
    done: list[str] = []

    def turn(event: Event) -> None:
        if event.kind != "done":
            return
        done.append(event.scan)
        if len(done) == 3:
            mount("--bind", output, output)
            mount("-o", "remount,bind,ro", output)

    try:
        result = convert(Worklist(scans), output, job, on_event=turn)
    finally:
        subprocess.run(["umount", "-l", output], check=False)
    assert (result.ended, result.done) == ("read_only", 3)
    assert "read-only" in result.reason
    again = convert(Worklist(scans), output, job)
    assert (again.ended, again.failed) == ("finished", 0)
    assert (again.unchanged, again.done) == (3, 27)


def test_memory_runs_out_and_batches_halve(model):
    import torch

    from medp2p.checkpoint import load_model
    from medp2p.conversion.stages import Predictor
    from medp2p.errors import MedP2PError
    from medp2p.inference import make_translator

    translator = make_translator(load_model(model), device="cpu", precision="fp32")
    most = 4

    def tight(slices):
        if len(slices) > most:
            raise torch.OutOfMemoryError
        return translator.predict_slices(slices)

    codes = np.zeros((1, 10, 36, 40), np.int16)
    predictor = Predictor(replace(translator, predict_slices=tight))
    assert predictor(codes).batch_size == 4
    np.testing.assert_allclose(predictor(codes).unit, translator.predict(codes), atol=1e-5)
    most = 0
    with pytest.raises(MedP2PError, match="memory of cpu"):
        predictor(codes)


def test_scans_under_way_are_bounded_by_memory(model, scans, tmp_path, monkeypatch):
    most = []
    begin = Run._begin

    def watched(self, one):
        begin(self, one)
        most.append(len(self.under_way))

    monkeypatch.setattr(Run, "_begin", watched)
    job = make_job(model, memory_bytes=int(1.5 * SHAPE[0] * SHAPE[1] * SHAPE[2] * 64))
    assert counts(convert(Worklist(scans[:4]), tmp_path, job)) == (4, 0, 0, 0)
    assert most == [1, 1, 1, 1]


@pytest.mark.slow
def test_a_dead_runs_work_is_taken_away_and_done(model, scans, tmp_path):
    """A run of another machine that has died: only its lease frees its scan."""
    output = tmp_path / "out"
    with Journal(output) as journal, Claims(output, journal.run) as claims:
        claim = claims.take("mr_0")
        assert claim
        claim.file.write_text("{}")
        (claim.work / "result.nii.gz").write_bytes(b"half")
        claims._held.clear()
    began = time.monotonic()
    result = convert(Worklist(scans[:2]), output, make_job(model, lease_seconds=5))
    assert counts(result) == (2, 0, 0, 0)
    assert time.monotonic() - began > 4
    assert list((output / ".medp2p" / "work").iterdir()) == []


INTERRUPTED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_conversion_pipeline import convert_all
convert_all(*map(Path, sys.argv[2:]))
"""


def convert_all(model: Path, incoming: Path, output: Path) -> None:
    """What a killed process was doing."""
    paths = sorted(incoming.rglob("*.nii.gz"))
    scans = [Scan(p.name[:-7], (ScanImage(p, (p,)),), 14400) for p in paths]
    result = convert(Worklist(tuple(scans)), output, make_job(model, lease_seconds=20))
    sys.exit({"finished": 0, "interrupted": 5}.get(result.ended, 1))


@pytest.mark.parametrize("signals", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_signal_ends_the_run_in_order(model, tmp_path, signals):
    import signal

    incoming, output = tmp_path / "in", tmp_path / "out"
    [image] = write_mr(incoming / "mr_0.nii.gz", 0, (80, 72, 20)).images
    for n in range(1, 60):
        shutil.copy(image.path, incoming / f"mr_{n}.nii.gz")
    tests = str(Path(__file__).parent)
    command = [sys.executable, "-c", INTERRUPTED, tests, str(model), str(incoming), str(output)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not list(output.glob("*.nii.gz")):
        time.sleep(0.05)
        assert process.poll() is None
    for _ in range(signals):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    process.wait(timeout=20)
    events = read_events(output)
    if signals == 1:
        assert process.returncode == 5
        assert (events[-1].kind, events[-1].code) == ("ended", "interrupted")
        assert list((output / ".medp2p" / "work").iterdir()) == []
    done = {e.scan for e in events if e.kind == "done"}
    assert 0 < len(done) < 60
    assert {p.name[:-7] for p in output.glob("*.nii.gz")} >= done


def test_scans_that_arrive_later_are_added(model, tmp_path, caplog):
    import signal

    scans = tuple(write_mr(tmp_path / "in" / f"mr_{n}.nii.gz", n) for n in range(2))
    answers = ["lost", "new", "changed"]
    done: list[str] = []

    def more() -> Worklist:
        if not answers or (answers[0] == "changed" and len(done) < 2):
            return Worklist(())
        answer = answers.pop(0)
        if answer == "lost":
            raise OSError("the folder of scans is\ngone")
        if answer == "new":
            return Worklist(scans, (LeftOut("scout", "localizer", "a localizer"),))
        return Worklist((write_mr(tmp_path / "in" / "mr_0.nii.gz", 77),))

    def stop(event: Event) -> None:
        if event.kind == "done":
            done.append(event.scan)
            if len(done) == 3:
                signal.raise_signal(signal.SIGTERM)

    output = tmp_path / "out"
    result = convert(Worklist(()), output, make_job(model), more=more, on_event=stop)
    assert (result.ended, result.left) == ("interrupted", 0)
    assert counts(result) == (3, 0, 1, 0)
    assert sorted(done) == ["mr_0", "mr_0", "mr_1"]
    assert "no further scans: the folder of scans is gone" in caplog.messages


def test_a_model_under_another_name_makes_nothing_again(model, tmp_path, caplog):
    scan = write_mr(tmp_path / "in" / "mr.nii.gz", 1)
    coronal = [[1.5, 0, 0, 0], [0, 0, 3.0, 0], [0, 1.5, 0, 0], [0, 0, 0, 1]]
    nib.save(nib.Nifti1Image(make_pair(1, SHAPE)[0], np.array(coronal)), scan.images[0].path)
    for name in ("one.safetensors", "two.safetensors"):
        renamed = tmp_path / name
        shutil.copyfile(model, renamed)
        result = convert(Worklist((scan,)), tmp_path / "out", make_job(renamed, kind="dicom"))
    assert counts(result) == (0, 1, 0, 0)
    [warning] = [m for m in caplog.messages if "not transverse" in m]
    assert warning.startswith("mr: the slices are not transverse")
