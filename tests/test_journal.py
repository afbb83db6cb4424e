from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medp2p.conversion.journal import JOURNAL_FOLDER, Journal, last_of_each, read_events
from medp2p.conversion.records import Records
from medp2p.conversion.summary import progress_of, progress_text, write_summary
from medp2p.errors import OutputError

WRITER = """
import sys
from pathlib import Path
from medp2p.conversion.journal import Journal
with Journal(Path(sys.argv[1])) as journal:
    for number in range(100_000):
        journal.add("done", scan=f"scan {number}", details={"number": number})
        print(number, flush=True)
"""


def test_events_come_back_in_order_over_all_runs(tmp_path):
    with Journal(tmp_path) as first, Journal(tmp_path) as second:
        first.add("run", details={"scans": 2})
        second.add("taken", scan="a/b", key="k1")
        first.add("failed", scan="a/b", code="damaged", reason="its end is missing")
        second.add(
            "done", scan="ü\n'\"", details={"outputs": {"x.nii.gz": {"bytes": 1, "sha256": "00"}}}
        )
    events = read_events(tmp_path)
    assert [event.kind for event in events] == ["run", "taken", "failed", "done"]
    assert len({event.run for event in events}) == 2
    assert events[3].scan == "ü\n'\""
    assert events[3].details == {"outputs": {"x.nii.gz": {"bytes": 1, "sha256": "00"}}}
    assert {s: e.kind for s, e in last_of_each(events).items()} == {
        "a/b": "failed",
        "ü\n'\"": "done",
    }


def test_the_order_is_that_of_what_runs_knew_whatever_their_clocks_say(tmp_path):
    with Journal(tmp_path) as early:
        early.add("taken", scan="a")
        early.add("failed", scan="a", code="damaged")
    text = early.path.read_text()
    early.path.write_text(re.sub(r'"time":"\d{4}', '"time":"2996', text))
    assert {event.time[:4] for event in read_events(tmp_path)} == {"2996"}
    with Journal(tmp_path) as one, Journal(tmp_path) as other:
        one.add("done", scan="a")
        assert last_of_each(read_events(tmp_path))["a"].kind == "done"
        other.follow(read_events(tmp_path))
        other.add("skipped", scan="a")
    assert last_of_each(read_events(tmp_path))["a"].kind == "skipped"
    records = Records(tmp_path)
    records.update()
    assert records.last["a"].kind == "skipped"


@pytest.mark.parametrize(
    "damage",
    [
        ('"time":"2', '"time":"x2'),
        ('"number":1', '"number":"1"'),
        ('"scan":"a"', '"scan":["a"]'),
        ('"seconds":2.0', '"seconds":"x"'),
        ('"quality":{', '"quality":[],"more":{'),
        ('"guard_score":0.5', '"guard_score":[1]'),
        ('"guard_reasons":[]', '"guard_reasons":[1]'),
        ('"sha256":"00"', '"sha256":["00"]'),
        ('"bytes":1', '"size":1'),
        ('"inputs":[', '"inputs":[1,'),
        ('"details":{', '"details":[],"more":{'),
        ("{", "[" * 100_000),
    ],
)
def test_a_damaged_line_is_no_event(tmp_path, damage):
    details = {
        "outputs": {"a.nii": {"bytes": 1, "sha256": "00"}},
        "inputs": [{"state": "1", "sha256": "2"}],
        "seconds": 2.0,
        "quality": {"guard_score": 0.5, "guard_reasons": []},
    }
    with Journal(tmp_path) as journal:
        journal.add("done", scan="a", details=details)
    assert [event.scan for event in read_events(tmp_path)] == ["a"]
    line = journal.path.read_text()
    assert damage[0] in line
    journal.path.write_text(line.replace(*damage, 1) + line.replace('"a"', '"b"'))
    (journal.path.parent / "folder.jsonl").mkdir()
    events = read_events(tmp_path)
    assert [event.scan for event in events] == ["b"]
    write_summary(tmp_path, events)


def test_a_journal_that_cannot_be_read_is_refused_in_one_line(tmp_path):
    with Journal(tmp_path) as journal:
        journal.add("done", scan="a")
    other = journal.path.with_name("other.jsonl")
    other.symlink_to(other.name)
    for read in (read_events, lambda output: Records(output).update()):
        with pytest.raises(OutputError, match=r"other.jsonl: cannot be read: .*make it readable"):
            read(tmp_path)
    with pytest.raises(OutputError, match="cannot be read"), Journal(tmp_path):
        pass


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_that_was_cut_off_is_no_event(tmp_path, cut):
    with Journal(tmp_path) as journal:
        journal.add("done", scan="a")
        journal.add("done", scan="b")
    file = next((tmp_path / JOURNAL_FOLDER).iterdir())
    file.write_bytes(file.read_bytes()[:-cut])
    assert [event.scan for event in read_events(tmp_path)] == ["a"]
    file.write_bytes(file.read_bytes() + b"\nnot json\n[1]\n{}\n")
    assert [event.scan for event in read_events(tmp_path)] == (["a", "b"] if cut == 1 else ["a"])


def test_what_was_written_before_a_kill_is_there(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout
        said = [int(process.stdout.readline()) for _ in range(50)]
        process.send_signal(signal.SIGKILL)
        said += [int(line) for line in process.stdout.read().split("\n")[:-1]]
    numbers = [event.details["number"] for event in read_events(tmp_path)]
    assert numbers[: len(said)] == said
    assert len(said) <= len(numbers) <= len(said) + 1


def test_a_full_disk_costs_one_event_and_not_the_next(small_disk):
    with Journal(small_disk) as journal:
        journal.add("done", scan="before")
        filler = small_disk / "filler"
        size = shutil.disk_usage(small_disk).free
        filler.write_bytes(bytes(size))
        with pytest.raises(OutputError, match="disk is full"):
            journal.add("failed", scan="during", reason="x" * 10_000)
        filler.unlink()
        journal.add("done", scan="after")
    assert [event.scan for event in read_events(small_disk)] == ["before", "after"]


def test_a_summary_counts_scans_by_their_last_event(tmp_path):
    with Journal(tmp_path) as journal:
        journal.add("run", details={"scans": 5})
        for scan in "abcd":
            journal.add("taken", scan=scan)
        journal.add("failed", scan="a", code="damaged", reason="=1+1")
        journal.add("skipped", scan="b", code="foreign", reason="another body region")
        quality = {"guard_score": 0.5, "clipped": -0.0}
        details = {
            "outputs": {"c.nii.gz": {"bytes": 1, "sha256": "00"}},
            "seconds": 2.0,
            "quality": quality,
        }
        journal.add("done", scan="c", details=details)
    events = read_events(tmp_path)
    progress = progress_of(events)
    assert progress.counts == {"done": 1, "skipped": 1, "failed": 1, "taken": 1}
    assert progress.codes == {"damaged": 1, "foreign": 1}
    assert (progress.total, progress.seconds, progress.ended) == (5, 2.0, None)
    text = progress_text(progress)
    assert text.startswith("3 of 5 scans: 1 done, 1 skipped, 1 failed, 1 under way or cut off")
    write_summary(tmp_path, events)
    with (tmp_path / "summary.csv").open() as file:
        rows = {row["scan"]: row for row in csv.DictReader(file)}
    assert rows["a"]["reason"] == "'=1+1"
    assert rows["c"]["guard_score"] == "0.5"
    assert rows["c"]["outputs"] == "c.nii.gz"
    assert rows["d"]["state"] == "taken"
    values = json.loads((tmp_path / "summary.json").read_text())
    assert values["counts"] == progress.counts
    assert len(values["scans"]) == 4


def test_a_journal_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="a part of this path is a file") as info,
        Journal(tmp_path / "file"),
    ):
        pass
    assert "\n" not in str(info.value)
