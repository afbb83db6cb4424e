"""Thirty patients as a hospital exports them, eight of them with a fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import run
from hospital import Hospital, make_hospital

from medp2p.store import PreparedData

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Hospital:
    return make_hospital(tmp_path_factory.mktemp("hospital") / "scans")


@pytest.fixture(scope="module")
def prepared(hospital, tmp_path_factory) -> Path:
    from medp2p.cli import main

    output = tmp_path_factory.mktemp("prepared") / "data"
    with pytest.raises(SystemExit) as end:
        main(["prepare", str(hospital.folder), str(output), "--preset", "demo", "--jobs", "2"])
    assert end.value.code in (0, 3)
    return output


@pytest.fixture(scope="module")
def audit(prepared) -> dict[str, tuple[str, str]]:
    """Of every patient the verdict and its reasons."""
    content = json.loads((prepared / "audit.json").read_text())
    cases = {c["patient"]: (c["verdict"], "; ".join(c["reasons"])) for c in content["cases"]}
    return cases | {p["patient"]: (p["verdict"], p["reason"]) for p in content["left_out"]}


def test_exactly_the_faulty_patients_do_not_train(hospital, prepared, audit):
    assert {case.name for case in PreparedData(prepared).cases} == hospital.sound
    assert {patient for patient, (verdict, _) in audit.items() if verdict != "use"} == (
        hospital.faulty
    )


def test_every_fault_is_named(hospital, audit):
    for patient in hospital.without_ct:
        assert audit[patient] == ("reject", "no CT found; 1 MR")
    for patient in hospital.two_mrs:
        verdict, reason = audit[patient]
        assert verdict == "check"
        assert reason.startswith("2 MR images of different kinds fit as source: 'T1")
        assert "--match 'source=" in reason
    verdict, reason = audit[hospital.wrong_ct]
    assert verdict in ("check", "reject")
    assert "another patient" in reason
    verdict, reason = audit[hospital.broken]
    assert verdict == "reject"
    assert "cut short" in reason
    verdict, reason = audit[hospital.swapped]
    assert verdict == "reject"
    assert "the images are swapped" in reason


def test_the_suggested_choice_lets_those_with_two_mrs_train(hospital, prepared, capsys):
    arguments = (hospital.folder, prepared, "--preset", "demo", "--match", "source=T1*", "-j", 2)
    code, _, err = run(capsys, "prepare", *arguments)
    assert code == 0, err
    used = {case.name for case in PreparedData(prepared).cases}
    assert used == hospital.sound | set(hospital.two_mrs)
