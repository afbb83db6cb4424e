"""Blinded pairs: nothing but the pictures tells the two apart, and readers are scored exactly."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import make_pair, oblique_affine, refused, run
from scipy.stats import beta

from medp2p.alignment import Alignment, write_alignment
from medp2p.blinded import (
    ANSWER_COLUMNS,
    LEVELS,
    BlindedSet,
    export_blinded,
    score_answers,
)
from medp2p.errors import EvaluationError, OutputError
from medp2p.io import read_volume, write_volume
from medp2p.metrics import PROFILES, range_profile
from medp2p.results import CaseFiles, CaseResult, Evaluation, write_results
from medp2p.volume import Volume, reorient

PROFILE = PROFILES["synthrad2025"]
AFFINE = oblique_affine()


def make_cases(folder: Path, count: int = 6, mask: bool = True) -> list[CaseFiles]:
    """Predictions that are smooth floats in other axes, references that are noisy integers."""
    cases = []
    for n in range(count):
        _, ct, body = make_pair(n)
        paths = {
            name: folder / name / f"secret_{n}.nii.gz" for name in ("prediction", "ct", "mask")
        }
        smooth = (ct * 0.97 + 12.345).astype(np.float32)
        prediction = Volume(smooth, AFFINE, modality="CT", units="HU", nifti_code=2)
        write_volume(reorient(prediction, "LPS"), paths["prediction"])
        write_volume(Volume(ct, AFFINE, modality="CT", units="HU"), paths["ct"])
        write_volume(Volume(body, AFFINE, modality="MASK"), paths["mask"])
        cases.append(
            CaseFiles(
                f"secret_{n}",
                paths["prediction"],
                paths["ct"],
                paths["mask"] if mask else None,
            )
        )
    return cases


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> list[CaseFiles]:
    return make_cases(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def exported(cases, tmp_path_factory) -> tuple[Path, BlindedSet]:
    output = tmp_path_factory.mktemp("blinded") / "set"
    return output, export_blinded(cases, output, PROFILE, method="unet", seed=11)


def key_rows(output: Path) -> list[dict[str, str]]:
    with (output / "key.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def test_the_key_says_which_side_is_the_prediction(exported, cases):
    output, made = exported
    files = {case.case: case for case in cases}
    assert len(made.pairs) == 6
    assert made.failures == {}
    for row in key_rows(output):
        real = "b" if row["prediction"] == "a" else "a"
        case = files[row["case"]]
        inside = read(case.mask) > 0
        shown = read(output / "for_readers" / f"{row['pair']}_{real}.nii")
        reference = np.maximum(read(case.reference), -1024)
        assert np.array_equal(shown[inside], reference[inside])
        assert (shown[~inside] == -1024).all()
        other = read(output / "for_readers" / f"{row['pair']}_{row['prediction']}.nii")
        wanted = np.rint(read(case.reference).astype(np.float32) * np.float32(0.97) + 12.345)
        assert np.abs(other - wanted)[inside].max() <= 1
        assert (row["method"], row["seed"]) == ("unet", "11")


def test_order_and_sides_are_mixed(exported):
    output, _ = exported
    rows = key_rows(output)
    assert [row["case"] for row in rows] != sorted(row["case"] for row in rows)
    assert {row["prediction"] for row in rows} == {"a", "b"}


def test_sides_are_a_fair_coin(cases, tmp_path):
    from medp2p.blinded import _side

    files = CaseFiles("c", None, Path("r"), None)
    sides = [_side(files, seed) for seed in range(2000)]
    assert abs(sides.count("a") - 1000) < 4 * math.sqrt(500)


def test_headers_files_and_dates_of_a_pair_are_the_same(exported):
    output, made = exported
    folder = output / "for_readers"
    assert sorted(path.name for path in output.iterdir()) == ["for_readers", "key.csv"]
    names = {path.name for path in folder.iterdir()}
    pairs = {f"{pair.pair}_{side}.nii" for pair in made.pairs for side in "ab"}
    assert names == pairs | {"answers.csv", "README.txt"}
    for pair in made.pairs:
        a, b = (folder / f"{pair.pair}_{side}.nii" for side in "ab")
        assert a.read_bytes()[:352] == b.read_bytes()[:352]
        assert a.stat().st_size == b.stat().st_size
        assert a.stat().st_mtime == b.stat().st_mtime
        assert nib.load(a).get_data_dtype() == np.int16
    content = b"".join(path.read_bytes() for path in folder.iterdir())
    assert b"secret" not in content
    assert b"unet" not in content
    assert b"CT" not in content.replace(b"README", b"")[:352]


def test_the_same_seed_gives_the_same_bytes_whatever_the_order(exported, cases, tmp_path):
    output, _ = exported
    export_blinded(list(reversed(cases)), tmp_path / "again", PROFILE, method="unet", seed=11)
    for path in sorted(path for path in output.rglob("*") if path.is_file()):
        again = tmp_path / "again" / path.relative_to(output)
        assert again.read_bytes() == path.read_bytes(), path.name


def test_without_a_seed_every_set_is_another(cases, tmp_path):
    first = export_blinded(cases[:1], tmp_path / "1", PROFILE)
    second = export_blinded(cases[:1], tmp_path / "2", PROFILE)
    assert first.seed != second.seed


def test_values_that_are_not_hu_become_steps_of_grey(tmp_path):
    array = np.linspace(-0.2, 1.4, 40 * 36 * 10).reshape(40, 36, 10).astype(np.float32)
    for name in ("prediction", "mr"):
        write_volume(Volume(array, AFFINE), tmp_path / f"{name}.nii.gz")
    case = CaseFiles("x", tmp_path / "prediction.nii.gz", tmp_path / "mr.nii.gz", None)
    export_blinded([case], tmp_path / "set", range_profile(0.0, 1.2), seed=0)
    shown = read(tmp_path / "set" / "for_readers" / "001_a.nii")
    assert (shown.min(), shown.max()) == (0, LEVELS - 1)
    inner = (array > 0.01) & (array < 1.19)
    assert np.abs(shown - array / 1.2 * (LEVELS - 1))[inner].max() <= 0.51


def test_a_case_that_fails_leaves_the_others(cases, tmp_path):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"nothing")
    other = make_cases(tmp_path / "other", 1)[0].reference
    write_volume(Volume(np.zeros((4, 5, 6), np.int16), AFFINE), tmp_path / "small.nii.gz")
    bad = [
        CaseFiles("damaged", broken, cases[0].reference, None),
        CaseFiles("other_grid", tmp_path / "small.nii.gz", other, None),
        CaseFiles("unpredicted", None, other, None),
    ]
    made = export_blinded([*bad, *cases[:2]], tmp_path / "set", PROFILE, seed=5)
    assert [pair.pair for pair in made.pairs] == ["001", "002"]
    assert set(made.failures) == {"damaged", "other_grid", "unpredicted"}
    assert "not on the grid" in made.failures["other_grid"]
    with pytest.raises(EvaluationError, match="no pair could be exported"):
        export_blinded(bad, tmp_path / "none", PROFILE, seed=5)
    assert not (tmp_path / "none").exists()
    with pytest.raises(EvaluationError, match="there twice"):
        export_blinded([cases[0], cases[0]], tmp_path / "none", PROFILE)


def test_only_a_blinded_set_is_replaced(exported, cases, tmp_path):
    output, _ = exported
    with pytest.raises(OutputError, match="exists already"):
        export_blinded(cases[:1], output, PROFILE)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds no key\.csv"):
        export_blinded(cases[:1], tmp_path, PROFILE, overwrite=True)
    assert (tmp_path / "notes.txt").exists()


def write_answers(path: Path, rows: list[tuple[str, ...]], delimiter: str = ",") -> Path:
    lines = [delimiter.join(ANSWER_COLUMNS), *(delimiter.join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


def real_side(row: dict[str, str]) -> str:
    return "b" if row["prediction"] == "a" else "a"


def test_a_reader_s_score_is_the_exact_binomial_one(exported, tmp_path):
    output, _ = exported
    rows = key_rows(output)
    told = [real_side(row) for row in rows[:4]] + [row["prediction"] for row in rows[4:5]] + [""]
    filled = [
        (str(int(row["pair"])), side.upper(), "4" if row["prediction"] == "a" else "2", "", "")
        for row, side in zip(rows, told, strict=True)
    ]
    score = score_answers(write_answers(tmp_path / "anna.csv", filled, ";"), output)
    assert (score.reader, score.answered, score.unanswered, score.correct) == ("anna", 5, 1, 4)
    assert score.accuracy == 0.8
    # Clopper and Pearson's limits are quantiles of beta distributions.
    assert score.interval == pytest.approx((beta.ppf(0.025, 4, 2), beta.ppf(0.975, 5, 1)))
    assert score.p == pytest.approx(2 * (1 + 5) / 2**5)
    assert (score.quality_prediction, score.quality_real) == (4.0, 2.0)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("001", "c", "", "", "")], "expected a or b"),
        ([("099", "a", "", "", "")], "not in the key"),
        ([("001", "a", "", "", ""), ("1", "b", "", "", "")], "there twice"),
        ([("001", "a", "7", "", "")], "from 1 to 5"),
        ([("001", "a", "good", "", "")], "from 1 to 5"),
        ([("001", "", "", "", "")], "no pair has an answer"),
        ([], "no pair has an answer"),
    ],
)
def test_answers_that_cannot_be_scored(exported, tmp_path, rows, words):
    with pytest.raises(EvaluationError, match=words):
        score_answers(write_answers(tmp_path / "reader.csv", rows), exported[0])


def test_every_wrong_line_of_every_sheet_is_named_and_nothing_is_scored(exported, tmp_path, capsys):
    output, _ = exported
    wrong = [("001", "c", "7", "", ""), ("002", "a", "", "", ""), ("099", "b", "", "", "")]
    bad = write_answers(tmp_path / "bad.csv", wrong)
    good = write_answers(tmp_path / "good.csv", [("001", "a", "", "", "")])
    empty = write_answers(tmp_path / "empty.csv", [])
    code, out, err = run(capsys, "blind-score", output, good, bad, empty, tmp_path / "gone.csv")
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        f"medp2p: {bad}: line 2: which_is_real is 'c', expected a or b",
        f"medp2p: {bad}: line 2: quality_a is '7', expected a number from 1 to 5",
        f"medp2p: {bad}: line 4: the pair '099' is not in the key",
        f"medp2p: {empty}: no pair has an answer in which_is_real, fill in a or b",
        f"medp2p: {tmp_path / 'gone.csv'}: no such file; check the path",
    ]


def test_a_registered_reference_ends_where_it_has_voxels_in_both_images(cases, tmp_path):
    """Beyond its edge a resampled reference would give itself away."""
    volume = read_volume(cases[0].reference)
    cropped = Volume(volume.array[: volume.shape[0] // 2], AFFINE, modality="CT", units="HU")
    write_volume(cropped, tmp_path / "ct.nii.gz")
    write_alignment(tmp_path / "to_ct.tfm", Alignment.identity())
    files = replace(
        cases[0], reference=tmp_path / "ct.nii.gz", transform=tmp_path / "to_ct.tfm", mask=None
    )
    export_blinded([files], tmp_path / "set", PROFILE, seed=0)
    for side in "ab":
        shown = reorient(read_volume(tmp_path / "set/for_readers" / f"001_{side}.nii"), "RAS")
        placed = reorient(Volume(shown.array, shown.affine), volume.orientation)
        assert (placed.array[volume.shape[0] // 2 + 1 :] == -1024).all()
        assert (placed.array[: volume.shape[0] // 2] > -1024).any()


def test_tables_that_are_none(exported, tmp_path):
    with pytest.raises(EvaluationError, match="no such file"):
        score_answers(tmp_path / "nothing.csv", exported[0])
    (tmp_path / "other.csv").write_text("pair,answer\n001,a\n")
    with pytest.raises(EvaluationError, match="has no column which_is_real"):
        score_answers(tmp_path / "other.csv", exported[0])
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00pair")
    with pytest.raises(EvaluationError, match="cannot be read as a table"):
        score_answers(tmp_path / "bytes.csv", exported[0])


def test_the_key_holds_no_formula(cases, tmp_path):
    """Names of cases are the user's; a spreadsheet would compute ``=1+1`` or ``-2``."""
    named = [replace(cases[0], case="=1+1"), replace(cases[1], case="-2")]
    made = export_blinded(named, tmp_path / "set", PROFILE, method="@unet", seed=0)
    rows = key_rows(tmp_path / "set")
    assert {row["case"] for row in rows} == {"'=1+1", "'-2"}
    assert {row["method"] for row in rows} == {"'@unet"}
    filled = [(row["pair"], real_side(row), "", "", "") for row in rows]
    sheet = write_answers(tmp_path / "anna.csv", filled)
    assert score_answers(sheet, tmp_path / "set").correct == len(made.pairs)


def with_key(tmp_path: Path, rows: list[dict[str, str]]) -> Path:
    with (tmp_path / "key.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "key.csv"


def test_a_key_that_a_spreadsheet_saved_still_fits(exported, tmp_path):
    rows = key_rows(exported[0])
    key = with_key(tmp_path, [row | {"pair": str(int(row["pair"]))} for row in rows])
    sheet = write_answers(
        tmp_path / "anna.csv", [(rows[0]["pair"], real_side(rows[0]), "", "", "")]
    )
    assert score_answers(sheet, key).correct == 1


@pytest.mark.parametrize("side", ["", "A", "c"])
def test_a_damaged_key_is_refused(exported, tmp_path, side):
    """Every answer differs from a side that is none: all would count as right."""
    rows = key_rows(exported[0])
    sheet = write_answers(tmp_path / "anna.csv", [("001", "a", "", "", "")])
    key = with_key(tmp_path, [rows[0], rows[1] | {"prediction": side}])
    with pytest.raises(EvaluationError, match=r"key\.csv: line 3: .* as it was exported"):
        score_answers(sheet, key)
    with pytest.raises(EvaluationError, match="expected each pair once"):
        score_answers(sheet, with_key(tmp_path, [rows[0], rows[0]]))


def test_the_commands(cases, tmp_path, capsys):
    predictions, references = cases[0].prediction.parent, cases[0].reference.parent
    code, out, err = run(
        capsys, "blind", predictions, tmp_path / "set", "--references", references, "--seed", 3
    )
    assert code == 0, err
    assert "6 pairs" in out
    rows = key_rows(tmp_path / "set")
    filled = [(row["pair"], real_side(row), "", "", "") for row in rows]
    sheet = write_answers(tmp_path / "bo.csv", filled)
    code, out, _ = run(capsys, "blind-score", tmp_path / "set", sheet)
    assert code == 0
    assert "bo: 6 of 6 right, 100.0%" in out
    code, out, _ = run(capsys, "blind-score", tmp_path / "set" / "key.csv", sheet, "--json")
    assert json.loads(out)[0]["correct"] == 6
    again = refused(capsys, "blind", predictions, tmp_path / "set", "--references", references)
    assert "exists already" in again


def test_from_the_results_of_an_evaluation(cases, tmp_path, capsys):
    made = [
        CaseResult(files.case, {"mae_hu": 1.0}, PROFILE, method=method, files=files)
        for method in ("unet", "gan")
        for files in cases
    ]
    write_results(tmp_path / "out", Evaluation(tuple(made)))
    arguments = ("blind", tmp_path / "out", tmp_path / "set")
    message = refused(capsys, *arguments, code=2)
    assert "holds several methods; choose with --method: unet, gan" in message
    message = refused(capsys, *arguments, "--method", "other", code=2)
    assert "no method 'other'; it holds unet, gan" in message
    code, _, err = run(capsys, *arguments, "--method", "gan", "--seed", 4)
    assert code == 0, err
    rows = key_rows(tmp_path / "set")
    assert len(rows) == 6
    assert {row["method"] for row in rows} == {"gan"}
