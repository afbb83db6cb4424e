from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import find_cases, run, write_case
from filelock import FileLock
from jobs import square_or_die

from medp2p.alignment import Alignment, write_alignment
from medp2p.config import Config, load_config
from medp2p.errors import ConfigError, ManifestError, MedP2PError, OutputError
from medp2p.manifest import Case, read_manifest
from medp2p.preparation.pipeline import Preparation, prepare
from medp2p.preparation.planning import make_preparation_plan, plan_of_cases, read_strata
from medp2p.store import PreparedData
from medp2p.workers import Workers

CASES = 4


@pytest.fixture
def scans(tmp_path) -> Path:
    for seed in range(CASES):
        write_case(tmp_path / "scans" / f"case_{seed}", seed)
    return tmp_path / "scans"


@pytest.fixture(scope="session")
def config(tiny_config) -> Config:
    return tiny_config


def trusted(cases: list[Case]) -> list[Case]:
    """Toys are used whatever the audit says of them; their splits are left to `prepare`."""
    return [replace(case, decision=case.decision or "use", split=None) for case in cases]


def prepare_folder(scans: Path, output: Path, config: Config, **options) -> Preparation:
    cases = trusted(find_cases(scans, config))
    return prepare(plan_of_cases(cases), output, config, **options)


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def made(folder: Path) -> dict[str, int]:
    """When each case's results were made."""
    return {
        f"{place.parent.name}/{place.name}": place.stat().st_mtime_ns
        for kind in ("pairs", "cases")
        for place in (folder / kind).iterdir()
    }


def manifest_rows(output: Path) -> dict[str, dict[str, str]]:
    with (output / "manifest.csv").open() as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def rewrite_manifest(output: Path, changes: dict[str, dict[str, str]]) -> None:
    rows = manifest_rows(output)
    for case, values in changes.items():
        rows[case].update(values)
    with (output / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, next(iter(rows.values())))
        writer.writeheader()
        writer.writerows(rows.values())


def test_the_same_run_again_changes_nothing(scans, config, tmp_path):
    prepare_folder(scans, tmp_path / "p", config)
    files, times = hashes(tmp_path / "p"), made(tmp_path / "p")
    assert len(times) == 2 * CASES
    assert {"index.json", "manifest.csv", "preparation.json", "audit.csv"} <= set(files)
    prepare_folder(scans, tmp_path / "p", config)
    assert hashes(tmp_path / "p") == files
    assert made(tmp_path / "p") == times


def test_processes_make_the_same_files(scans, config, tmp_path):
    prepare_folder(scans, tmp_path / "one", config)
    prepare_folder(scans, tmp_path / "two", config, jobs=2)
    one, two = hashes(tmp_path / "one"), hashes(tmp_path / "two")
    assert one == two


def test_only_what_changed_is_made_again(scans, config, tmp_path):
    prepare_folder(scans, tmp_path / "p", config)
    before = made(tmp_path / "p")
    ct = nib.load(scans / "case_2" / "ct.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(ct.dataobj) + 1, ct.affine), scans / "case_2/ct.nii.gz")
    prepare_folder(scans, tmp_path / "p", config)
    after = made(tmp_path / "p")
    assert {name for name in before if before[name] != after[name]} == {
        "pairs/case_2",
        "cases/case_2",
    }
    PreparedData(tmp_path / "p").verify()


def test_a_case_that_is_gone_leaves_nothing(scans, config, tmp_path):
    prepare_folder(scans, tmp_path / "p", config)
    shutil.rmtree(scans / "case_1")
    prepare_folder(scans, tmp_path / "p", config)
    assert not any("case_1" in name for name in hashes(tmp_path / "p"))
    assert "case_1" not in manifest_rows(tmp_path / "p")


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_broken_case_stops_no_other(scans, config, tmp_path, jobs):
    whole = (scans / "case_1" / "ct.nii.gz").read_bytes()
    (scans / "case_1" / "ct.nii.gz").write_bytes(whole[: len(whole) // 2])
    done = prepare_folder(scans, tmp_path / "p", config, jobs=jobs)
    assert [one.case.name for one in done.pairs if one.failed] == ["case_1"]
    assert {case.name for case in PreparedData(tmp_path / "p").cases} == {
        "case_0",
        "case_2",
        "case_3",
    }
    [entry] = [e for e in audit_of(tmp_path / "p") if e["case"] == "case_1"]
    assert entry["verdict"] == "reject"
    assert "ct.nii.gz" in entry["reasons"][0]
    (scans / "case_1" / "ct.nii.gz").write_bytes(whole)
    assert len(prepare_folder(scans, tmp_path / "p", config).used) == CASES


def audit_of(output: Path) -> list[dict]:
    return json.loads((output / "audit.json").read_text())["cases"]


def test_a_decision_in_the_manifest_stays(scans, config, tmp_path):
    cases = [replace(c, split=None) for c in find_cases(scans, config)]
    cases = [replace(c, decision="use" if c.name != "case_3" else None) for c in cases]
    cases[3] = replace(cases[3], decision="reject")
    prepare(plan_of_cases(cases), tmp_path / "p", config)
    assert manifest_rows(tmp_path / "p")["case_3"]["split"] == ""
    places = {name: row["split"] for name, row in manifest_rows(tmp_path / "p").items()}
    cases[3] = replace(cases[3], decision=None)
    rewrite_manifest(
        tmp_path / "p", {"case_3": {"decision": "use"}, "case_0": {"decision": "reject"}}
    )
    for _ in range(2):
        prepare(plan_of_cases(cases), tmp_path / "p", config)
        rows = manifest_rows(tmp_path / "p")
        assert rows["case_3"]["decision"] == "use"
        assert rows["case_3"]["split"]
        assert rows["case_0"]["decision"] == "reject"
        assert rows["case_0"]["split"] == ""
        assert rows["case_1"]["split"] == places["case_1"]
        assert {c.name for c in PreparedData(tmp_path / "p").cases} == {
            "case_1",
            "case_2",
            "case_3",
        }
        assert {c.name for c in read_manifest(tmp_path / "p" / "manifest.csv")} == {
            "case_1",
            "case_2",
            "case_3",
        }


def test_a_misspelt_decision_is_refused(scans, config, tmp_path):
    prepare_folder(scans, tmp_path / "p", config)
    rewrite_manifest(tmp_path / "p", {"case_1": {"decision": "yes"}})
    with pytest.raises(ManifestError, match="case_1: the decision is 'yes'; expected use"):
        prepare_folder(scans, tmp_path / "p", config)


def test_patients_keep_their_split_when_others_come(scans, config, tmp_path):
    prepare_folder(scans, tmp_path / "p", config)
    before = {name: row["split"] for name, row in manifest_rows(tmp_path / "p").items()}
    for seed in range(10, 14):
        write_case(scans / f"a_new_{seed}", seed)
    prepare_folder(scans, tmp_path / "p", config)
    after = {name: row["split"] for name, row in manifest_rows(tmp_path / "p").items()}
    assert {name: after[name] for name in before} == before
    assert len(after) == CASES + 4


def test_other_settings_replace_nothing_unless_asked(scans, config, tmp_path):
    prepare_folder(scans, tmp_path / "p", config)
    files = hashes(tmp_path / "p")
    finer = load_config(overrides={**config.model_dump(), "preprocessing.spacing_mm": [2, 2, 3]})
    with pytest.raises(OutputError, match=r"other settings \(preprocessing.spacing_mm\)"):
        prepare_folder(scans, tmp_path / "p", finer)
    assert hashes(tmp_path / "p") == files
    prepare_folder(scans, tmp_path / "p", finer, overwrite=True)
    assert PreparedData(tmp_path / "p").cases[0].grid.spacing_mm[0] == pytest.approx(2)


def test_another_split_is_made_anew(scans, config, tmp_path):
    prepare_folder(scans, tmp_path / "p", config)
    folds = load_config(overrides={**config.model_dump(), "data.folds": 2})
    with pytest.raises(OutputError, match=r"data\.folds"):
        prepare_folder(scans, tmp_path / "p", folds)
    prepare_folder(scans, tmp_path / "p", folds, overwrite=True)
    data = PreparedData(tmp_path / "p")
    assert (
        sorted(case.fold for case in data.split("train")) == [0, 0, 1][: len(data.split("train"))]
    )
    assert not data.split("validation")


def test_another_split_is_made_anew_by_a_run_that_goes_on_after_a_killed_one(
    scans, config, tmp_path
):
    other = load_config(overrides={**config.model_dump(), "data.split_seed": 3})
    prepare_folder(scans, tmp_path / "fresh", other)
    prepare_folder(scans, tmp_path / "p", config)
    assert manifest_rows(tmp_path / "p") != manifest_rows(tmp_path / "fresh")
    shutil.copy(tmp_path / "fresh" / "config.yaml", tmp_path / "p" / "config.yaml")
    prepare_folder(scans, tmp_path / "p", other)
    assert hashes(tmp_path / "p") == hashes(tmp_path / "fresh")


def test_a_folder_of_something_else_is_never_touched(scans, config, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="exists already and was not made"):
            prepare_folder(scans, tmp_path / "mine", config, overwrite=overwrite)
    assert hashes(tmp_path / "mine").keys() == {"notes.txt"}


def test_what_only_looks_like_ours_is_never_touched(scans, config, tmp_path):
    theirs = tmp_path / "run"
    (theirs / "cases" / "mine").mkdir(parents=True)
    (theirs / "config.yaml").write_text("my: settings")
    (theirs / "cases" / "mine" / "precious.nii").write_text("precious")
    before = hashes(theirs)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="not made by `medp2p prepare`"):
            prepare_folder(scans, theirs, config, overwrite=overwrite)
    assert hashes(theirs) == before


def test_a_user_s_files_among_the_results_stay(scans, config, tmp_path):
    prepare_folder(scans, tmp_path / "p", config)
    notes = tmp_path / "p" / "cases" / "my_notes" / "a.txt"
    notes.parent.mkdir()
    notes.write_text("precious")
    (tmp_path / "p" / "pairs" / ".DS_Store").write_text("finder")
    prepare_folder(scans, tmp_path / "p", config)
    assert notes.read_text() == "precious"


def test_an_empty_folder_and_one_of_a_run_killed_at_once_are_taken(scans, config, tmp_path):
    (tmp_path / "empty").mkdir()
    prepare_folder(scans, tmp_path / "empty", config)
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / ".lock").touch()
    prepare_folder(scans, tmp_path / "locked", config)


@pytest.fixture
def decided(scans, config, tmp_path) -> Path:
    """A prepared folder in which the user rejected case_0 and put case_2 into another split."""
    output = tmp_path / "p"
    prepare_undecided(scans, output, config)
    rows = manifest_rows(output)
    other = "train" if rows["case_2"]["split"] == "test" else "test"
    changes = {case: {"decision": "use"} for case in rows}
    changes["case_0"] = {"decision": "reject"}
    changes["case_2"] |= {"split": other}
    rewrite_manifest(output, changes)
    prepare_undecided(scans, output, config)
    return output


def prepare_undecided(scans: Path, output: Path, config: Config) -> None:
    """As the command does, for toys that are all in question."""
    plan = make_preparation_plan(scans, config)
    try:
        prepare(plan, output, config)
    except ManifestError as refusal:
        if "no pair can be used" not in str(refusal):
            raise


def judgement(output: Path, case: str) -> tuple[str, str]:
    row = manifest_rows(output)[case]
    return row["decision"], row["split"]


def test_cases_that_come_back_are_judged_as_before(decided, scans, config, tmp_path):
    before = {case: judgement(decided, case) for case in manifest_rows(decided)}
    assert before["case_0"] == ("reject", "")
    (scans / "case_0").rename(tmp_path / "away")
    whole = (scans / "case_2" / "ct.nii.gz").read_bytes()
    (scans / "case_2" / "ct.nii.gz").write_bytes(whole[:500])
    prepare_undecided(scans, decided, config)
    assert manifest_rows(decided).keys() == {"case_1", "case_3"}
    (tmp_path / "away").rename(scans / "case_0")
    (scans / "case_2" / "ct.nii.gz").write_bytes(whole)
    prepare_undecided(scans, decided, config)
    assert {case: judgement(decided, case) for case in before} == before


def test_cases_under_another_name_are_judged_as_before(decided, scans, config):
    before = {case: judgement(decided, case) for case in manifest_rows(decided)}
    for number in (0, 2):
        (scans / f"case_{number}").rename(scans / f"north_{number}")
    prepare_undecided(scans, decided, config)
    assert judgement(decided, "north_0") == before["case_0"]
    assert judgement(decided, "north_2") == before["case_2"]
    write_case(scans / "case_0", 77)
    prepare_undecided(scans, decided, config)
    assert judgement(decided, "case_0")[0] == ""


def test_a_manifest_saved_by_a_spreadsheet_is_understood(decided, scans, config):
    path = decided / "manifest.csv"
    before = judgement(decided, "case_2")
    with path.open() as file:
        rows = list(csv.reader(file))
    changed = [[value.replace("reject", " Reject ") for value in row] for row in rows]
    lines = [";".join(row) for row in changed]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    prepare_undecided(scans, decided, config)
    assert judgement(decided, "case_0") == ("reject", "")
    assert judgement(decided, "case_2") == before


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda text: text.replace("case_1,", "case1,", 1), "no case 'case1'"),
        (lambda text: text + text.splitlines()[1] + "\n", "there twice"),
        (lambda text: text.replace("decision", "opinion", 1), "column decision is missing"),
        (lambda _: "", "is missing, found none"),
    ],
)
def test_decisions_that_cannot_be_read_are_not_passed_over(decided, scans, config, spoil, expected):
    path = decided / "manifest.csv"
    spoilt = spoil(path.read_text())
    path.write_text(spoilt)
    with pytest.raises(ManifestError, match=expected):
        prepare(make_preparation_plan(scans, config), decided, config)
    assert path.read_text() == spoilt


def test_a_manifest_changed_meanwhile_is_not_replaced(decided, scans, config):
    path = decided / "manifest.csv"

    def change(_: str) -> None:
        if "case_9" not in path.read_text():
            path.write_text(path.read_text().replace("case_1,case_1,", "case_1,case_9,"))

    plan = make_preparation_plan(scans, config)
    steps = iter([lambda _: None] * 4 + [change] * 10)
    with pytest.raises(ManifestError, match="was changed while"):
        prepare(plan, decided, config, progress=lambda name: next(steps)(name))
    assert "case_9" in path.read_text()


def test_other_commands_wait_until_prepare_has_seen_a_change(decided, scans, config):
    rewrite_manifest(decided, {"case_1": {"decision": "reject"}})
    with pytest.raises(ManifestError, match="was changed since `medp2p prepare` wrote it"):
        read_manifest(decided / "manifest.csv")
    prepare_undecided(scans, decided, config)
    assert "case_1" not in {case.name for case in read_manifest(decided / "manifest.csv")}


@pytest.mark.parametrize("file", ["cases/case_1/voxels.i16", "pairs/case_1/body.nii.gz"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_what_is_damaged_is_made_again(scans, config, tmp_path, file, damage):
    prepare_folder(scans, tmp_path / "p", config)
    before = hashes(tmp_path / "p")
    path = tmp_path / "p" / file
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-10])
    prepare_folder(scans, tmp_path / "p", config)
    assert hashes(tmp_path / "p") == before


def test_a_split_without_patients_is_mentioned(scans, config, tmp_path):
    done = prepare_folder(scans, tmp_path / "p", config)
    assert done.notes == ()
    [tested] = [one.case.name for one in done.used if one.case.split == "test"]
    rewrite_manifest(tmp_path / "p", {tested: {"decision": "reject"}})
    [note] = prepare_folder(scans, tmp_path / "p", config).notes
    assert note.startswith("no patient is in the split test")


def test_an_output_around_the_input_is_refused(scans, config):
    with pytest.raises(OutputError, match="an input"):
        prepare_folder(scans, scans.parent, config)


def test_two_runs_never_share_a_folder(scans, config, tmp_path):
    prepare_folder(scans, tmp_path / "p", config)
    with (
        FileLock(tmp_path / "p" / ".lock"),
        pytest.raises(OutputError, match="another run prepares it"),
    ):
        prepare_folder(scans, tmp_path / "p", config)


def test_what_a_killed_run_left_is_taken_away(scans, config, tmp_path):
    prepare_folder(scans, tmp_path / "p", config)
    files = hashes(tmp_path / "p")
    (tmp_path / "p" / "cases" / ".tmp-abc").mkdir()
    (tmp_path / "p" / "cases" / ".tmp-abc" / "voxels.i16").write_bytes(b"half")
    (tmp_path / "p" / ".tmp-manifest.csv").write_text("half")
    prepare_folder(scans, tmp_path / "p", config)
    assert hashes(tmp_path / "p") == files


PREPARE = """
import sys
from pathlib import Path
from test_preparation import prepare_folder
from medp2p.config import load_config
from conftest import TINY_SETTINGS
if __name__ == "__main__":
    prepare_folder(
        Path(sys.argv[1]), Path(sys.argv[2]), load_config(overrides=TINY_SETTINGS),
        jobs=int(sys.argv[3]), progress=lambda name: print(name, flush=True),
    )
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "jobs"),
    [(signal.SIGKILL, 1), (signal.SIGKILL, 2), (signal.SIGINT, 2), (signal.SIGTERM, 1)],
)
def test_an_interrupted_run_goes_on_to_the_same_result(scans, config, tmp_path, kind, jobs):
    script = tmp_path / "prepare.py"
    script.write_text(PREPARE)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}

    def start(output: Path) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, script, scans, output, str(jobs)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    whole = start(tmp_path / "whole")
    assert whole.communicate(timeout=300)[0].count("\n") == 2 * CASES
    for lines in range(0, 2 * CASES, 2):
        process = start(tmp_path / "p")
        for _ in range(lines + 1):
            process.stdout.readline()
        time.sleep(0.05 * lines)
        process.send_signal(kind)
        process.communicate(timeout=60)
    last = start(tmp_path / "p")
    last.communicate(timeout=300)
    assert last.returncode == 0
    assert hashes(tmp_path / "p") == hashes(tmp_path / "whole")
    assert not list((tmp_path / "p").rglob(".tmp-*"))


def test_a_job_whose_process_dies_loses_nobody_else_s_result():
    with Workers(2) as workers:
        results = dict(workers.run(square_or_die, range(6)))
        assert dict(workers.run(square_or_die, [7, 8])) == {7: 49, 8: 64}
    assert {n: r for n, r in results.items() if not isinstance(r, MedP2PError)} == {
        0: 0,
        1: 1,
        2: 4,
        5: 25,
    }
    assert "process ended" in str(results[3])
    assert str(results[4]) == "four is not allowed"


def test_strata_come_from_a_table(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("case,patient,sex\na,p1,f\nb,p2,m\n")
    assert read_strata(table, "sex") == {"p1": "f", "p2": "m"}
    assert read_strata(table, None) == {}
    with pytest.raises(ConfigError, match=r"columns case, patient, sex; expected patient and age"):
        read_strata(table, "age")
    with pytest.raises(ConfigError, match=r"participants\.tsv"):
        read_strata(tmp_path, "sex")
    (tmp_path / "participants.tsv").write_text("participant_id\tsex\nsub-01\tf\n")
    assert read_strata(tmp_path, "sex") == {"sub-01": "f"}


@pytest.fixture
def displaced(scans, tmp_path) -> Path:
    """A manifest whose CT has its own world, and says how it lies against the MR."""
    shift = np.eye(4)
    shift[:3, 3] = (30, -20, 45)
    write_alignment(tmp_path / "ct.tfm", Alignment(shift))
    rows = ["case,patient,split,source_mr,target,mask,transform_target"]
    for number in range(CASES):
        ct = nib.load(scans / f"case_{number}" / "ct.nii.gz")
        moved = tmp_path / f"moved_{number}.nii.gz"
        nib.save(nib.Nifti1Image(np.asarray(ct.dataobj), shift @ ct.affine), moved)
        mr, mask = (f"scans/case_{number}/{name}.nii.gz" for name in ("mr", "mask"))
        split = ("train", "train", "validation", "test")[number]
        rows.append(f"case_{number},p{number},{split},{mr},{moved.name},{mask},ct.tfm")
    (tmp_path / "m.csv").write_text("\n".join(rows))
    return tmp_path / "m.csv"


def test_a_given_transform_is_used_and_kept(displaced, scans, config, tmp_path):
    cases = [replace(c, decision="use") for c in read_manifest(displaced)]
    prepare(plan_of_cases(cases), tmp_path / "moved", config)
    prepare_folder(scans, tmp_path / "still", config)
    moved, still = PreparedData(tmp_path / "moved"), PreparedData(tmp_path / "still")
    for one, other in zip(moved.cases, still.cases, strict=True):
        np.testing.assert_allclose(moved.target(one), still.target(other), atol=1)
        np.testing.assert_array_equal(moved.mask(one), still.mask(other))


def test_a_registered_reference_is_judged_on_the_prediction_s_grid(
    displaced, scans, capsys, tmp_path
):
    (tmp_path / "predictions").mkdir()
    ct = nib.load(scans / "case_3" / "ct.nii.gz")
    worse = np.asarray(ct.dataobj) + 10
    nib.save(nib.Nifti1Image(worse, ct.affine), tmp_path / "predictions" / "case_3.nii.gz")
    code, out, err = run(capsys, "evaluate", tmp_path / "predictions", displaced, "--json")
    assert code == 0, err
    [case] = json.loads(out)["cases"]
    assert case["values"]["mae_hu"] == pytest.approx(10, abs=1e-3)
    assert "covers 100 % of the mask" in case["notes"][0]


def test_a_model_is_judged_like_its_predictions(trained_run, prepared_folder, capsys, tmp_path):
    model, manifest = trained_run / "model.safetensors", prepared_folder / "manifest.csv"
    assert run(capsys, "translate", manifest, tmp_path / "out", "-m", model)[0] == 0
    code, out, err = run(capsys, "evaluate", tmp_path / "out", manifest, "--json")
    assert code == 0, err
    [from_files] = json.loads(out)["cases"]
    code, out, err = run(capsys, "evaluate", model, manifest, "--json", "--device", "cpu")
    assert code == 0, err
    [from_model] = json.loads(out)["cases"]
    assert from_files.pop("files")["prediction"] == str(tmp_path / "out" / "case_3.nii.gz")
    assert from_model.pop("files")["prediction"] is None
    assert from_model == from_files
    code, _, err = run(capsys, "evaluate", model, tmp_path)
    assert code == 2
    assert "cases of a manifest" in err
