"""A night's work: three hundred scans, thirty of them broken, through the command itself."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
from dicom_phantoms import SECRETS
from many_scans import BROKEN, FORMATS, SHAPE, TOTAL, ManyScans, make_scans

from medp2p.conversion.journal import Event, last_of_each, read_events
from medp2p.io import read_volume

pytestmark = pytest.mark.slow

SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class Night:
    """What became of the scans.

    Attributes:
        scans: The tree.
        untouched: SHA-256 of its files before the run.
        output: The folder with the results.
        exit_code: Of the command.
        shown: What it printed, both streams, in lower case.
        memory: Seconds since the start, and MiB of all its processes.
    """

    scans: ManyScans
    untouched: dict[str, str]
    output: Path
    exit_code: int
    shown: str
    memory: list[tuple[float, float]]

    def events_of(self, name: str) -> list[Event]:
        """The last events about what lies at a place: a series' name goes on with its key."""
        found = re.compile(rf"{re.escape(name)}([/.].*)?")
        return [event for event in self.events if found.fullmatch(event.scan)]

    @cached_property
    def events(self) -> list[Event]:
        return list(last_of_each(read_events(self.output)).values())


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def process_memory() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "process_memory.py"
    specification = importlib.util.spec_from_file_location("process_memory", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def night(tiny_model, tmp_path_factory, process_memory) -> Night:
    folder = tmp_path_factory.mktemp("night")
    scans = make_scans(folder / "incoming")
    untouched = hashes(scans.folder)
    output, log = folder / "outgoing", folder / "log.txt"
    command = [sys.executable, "-m", "medp2p.cli", "batch", str(scans.folder), str(output)]
    command += ["-m", str(tiny_model), "--device", "cpu", "--precision", "fp32", "--readers", "2"]
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        memory = process_memory.memory_over_time(process, SECONDS_BETWEEN_LOOKS)
    shown = log.read_text().lower()
    return Night(scans, untouched, output, process.returncode, shown, memory)


def test_exactly_the_good_ones_are_translated(night):
    good = night.scans.good
    assert (len(good), len(night.scans.broken)) == (TOTAL - 30, 30)
    assert night.exit_code == 3, night.shown
    assert sum(event.kind == "done" for event in night.events) == len(good)
    for number, (name, kind) in enumerate(good.items()):
        [event] = night.events_of(name)
        [made] = (night.output / path for path in event.details["outputs"])
        assert event.kind == "done"
        assert made.is_file() if kind == "NIfTI" else len(list(made.iterdir())) == SHAPE[2]
        if number < 2 * len(FORMATS):
            [source] = night.scans.folder.glob(f"{name}*")
            result = read_volume(made)
            assert result.modality == "CT"
            assert result.grid.difference(read_volume(source).grid) is None
    others = {path.name for path in night.output.iterdir()} - {Path(name).parts[0] for name in good}
    assert others == {".medp2p", "journal", "summary.csv", "summary.json"}


@pytest.mark.parametrize("case", BROKEN)
def test_each_broken_one_is_reported_with_its_reason(night, case):
    report = night.scans.broken[f"broken/{case}"]
    events = night.events_of(f"broken/{case}")
    said = [(event.kind, event.code, event.reason) for event in events]
    assert (report.kind, report.code) in {(kind, code) for kind, code, _ in said}, said
    assert any(report.words in reason for _, code, reason in said if code == report.code), said
    assert {kind for kind, _, _ in said} <= {"skipped", "failed"}


def test_the_summary_counts_them(night):
    summary = json.loads((night.output / "summary.json").read_text())
    counted = Counter(event.kind for event in night.events)
    assert summary["counts"] == {**counted, "taken": 0}
    assert len(summary["scans"]) == len(night.events)
    assert f"{len(night.scans.good)} done" in night.shown


def test_nothing_of_the_input_changed(night):
    assert hashes(night.scans.folder) == night.untouched


def test_no_value_of_a_header_is_told(night):
    told = [path for path in night.output.glob("*.*") if path.is_file()]
    told += (night.output / "journal").iterdir()
    told += (path for path in (night.output / ".medp2p").rglob("*") if path.is_file())
    names = "\n".join(str(path.relative_to(night.output)) for path in night.output.rglob("*"))
    texts = {str(path): path.read_text().lower() for path in told}
    texts |= {"screen": night.shown, "names": names.lower()}
    assert len(texts) > 3
    for where, text in texts.items():
        assert not [secret for secret in SECRETS if secret in text], where
    for image in night.output.rglob("*.nii.gz"):
        header = nib.load(image).header.binaryblock.lower()
        assert not [secret for secret in SECRETS if secret.encode() in header], image


def test_memory_is_flat(night):
    seconds, mib = np.array(night.memory).T
    third = seconds[-1] / 3
    first, second, last = (
        mib[(seconds >= n * third) & (seconds < (n + 1) * third)].max() for n in range(3)
    )
    assert min(first, second, last) > 100, "the processes were not seen"
    assert last <= 1.15 * second, (first, second, last)
