"""Cohorts: several methods, processes, tables, label maps, regions, alignment, wrong inputs."""

from __future__ import annotations

import csv
import json
import math
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cohorts import (
    AFFINE,
    SHAPE,
    ct_array,
    mask_array,
    run,
    save,
    volume,
    write_predictions,
    write_references,
)

from medp2p.errors import ConfigError, ManifestError
from medp2p.evaluation import (
    Extras,
    Layout,
    Options,
    evaluate_methods,
    evaluate_pair,
    loose_share,
    pair_methods,
    read_predictions,
    result_table,
    summarize,
    write_table,
)
from medp2p.manifest import Case, write_manifest
from medp2p.metrics import PICTURE_PROFILE, PROFILES, range_profile
from medp2p.results import CaseResult, Evaluation, Failure, as_json, read_results
from medp2p.volume import Volume

PROFILE = PROFILES["synthrad2023"]
NUMBERS = range(1, 4)


@pytest.fixture
def references(tmp_path: Path) -> Path:
    return write_references(tmp_path / "data", NUMBERS)


@pytest.fixture
def methods(tmp_path: Path) -> dict[str, Path]:
    """Two methods that are 10, 20, 30 and 11, 22, 33 HU too high."""
    return {
        "unet": write_predictions(tmp_path / "unet", NUMBERS, {n: 10 * n for n in NUMBERS}),
        "gan": write_predictions(tmp_path / "gan", NUMBERS, {n: 11 * n for n in NUMBERS}),
    }


def named(methods: dict[str, Path]) -> list[str]:
    return [f"{name}={path}" for name, path in methods.items()]


def test_means_over_different_cases_are_said_to_be(
    references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = write_predictions(tmp_path / "few", range(1, 3), dict.fromkeys(NUMBERS, 10))
    all_ = write_predictions(tmp_path / "all", NUMBERS, dict.fromkeys(NUMBERS, 20))
    assert run("evaluate", f"few={few}", f"all={all_}", references) == 3
    out = capsys.readouterr().out
    assert "The methods have different cases: their means are not comparable" in out
    assert "or both, have: 2 of all" in out
    assert "over 2 to 3 cases" in out
    assert run("evaluate", f"one={all_}", f"two={all_}", references) == 0
    out = capsys.readouterr().out
    assert "different cases" not in out
    assert "over 3 cases" in out


def test_methods_are_compared(references: Path, methods: dict[str, Path]) -> None:
    outcome = evaluate_methods(pair_methods(methods, references), PROFILE)
    assert outcome.methods == ("unet", "gan")
    assert [(r.method, r.case) for r in outcome.results] == [
        (method, f"p{n}") for method in methods for n in NUMBERS
    ]
    assert outcome.summaries["gan"]["mae_hu"].mean == pytest.approx(22)
    [mae] = [c for c in outcome.comparisons if c.metric == "mae_hu"]
    assert (mae.first, mae.second, mae.cases) == ("unet", "gan", 3)
    assert mae.difference == pytest.approx(-2)
    assert [ranked.method for ranked in outcome.ranking] == ["unet", "gan"]
    assert outcome.failures == ()
    source = outcome.results[0].files.source if outcome.results[0].files else None
    assert source == references / "p1/mr.nii.gz"


def test_values_do_not_depend_on_the_number_of_processes(
    references: Path, methods: dict[str, Path]
) -> None:
    (methods["gan"] / "p2.nii.gz").write_bytes(b"no image")
    pairings = pair_methods(methods, references)
    done: list[str] = []
    alone = evaluate_methods(pairings, PROFILE)
    together = evaluate_methods(pairings, PROFILE, jobs=2, progress=done.append)
    assert as_json(together) == as_json(alone)
    assert sorted(done) == sorted(2 * [f"p{n}" for n in NUMBERS])
    assert [(f.method, f.case) for f in together.failures] == [("gan", "p2")]


def test_command_compares_methods(
    references: Path,
    methods: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (methods["gan"] / "p2.nii.gz").unlink()
    output, table = tmp_path / "results", tmp_path / "cases.csv"
    command = ["evaluate", *named(methods), references, "--profile", "synthrad2023"]
    command += ["--output", output, "--csv", table, "--jobs", 1]
    assert run(*command) == 3
    captured = capsys.readouterr()
    assert "medp2p: case p2 (gan):" in captured.err
    rows = [line.split("|") for line in captured.out.splitlines() if line.startswith("| ")]
    assert [cell.strip() for cell in rows[2][1:4]] == ["unet", "3", "20.0 ± 10.0"]
    assert [cell.strip() for cell in rows[3][1:4]] == ["gan", "2", "22.0 ± 15.6"]
    assert "as the challenge ranks" in captured.out
    assert table.read_bytes() == (output / "cases.csv").read_bytes()
    with table.open(encoding="utf-8", newline="") as file:
        columns = [(row["case"], row["method"]) for row in csv.DictReader(file)]
    assert columns[-1] == ("p2", "gan")
    read = read_results(output)
    assert read.methods == ("unet", "gan")
    assert read.settings["tissues"]["bone"] == [250.0, "inf"]
    assert run(*command) == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{unet}", "gan={gan}", "{data}"], "several predictions need names"),
        (["a={unet}", "a={gan}", "{data}"], "'a' is there twice"),
        (["={unet}", "{data}"], "expected NAME=PATH"),
        (["{unet}", "{data}", "--labels-pred", "x={gan}"], "no method 'x'"),
        (["a={unet}", "b={gan}", "{data}", "--labels-pred", "{gan}"], "name the method of each"),
        (["{unet}", "{data}", "--labels-ref", "{data}"], "give --labels-pred and --labels-ref"),
        (["{unet}", "{data}", "--label-classes", "synthrad2025_thorax"], "only with --labels-ref"),
        (
            ["{unet}", "{data}", "--labels-ref", "{data}", "--label-classes", "bones"],
            "synthrad2025_thorax",
        ),
        (["{unet}", "{data}", "--region-name", "GTV"], "only with --region"),
        (["{unet}", "{data}", "--table", "x.xlsx"], r"\.csv, \.parquet, \.json"),
        (["{unet}", "{data}", "--tissues", "bone=300:200"], "NAME=LOW:HIGH"),
        (["{unet}", "{data}", "--tissues", "a=0:1 a=1:2"], "each name once"),
        (["{unet}", "{data}", "--tissues", "a=0:1", "--range", "0", "1"], "under a profile in HU"),
    ],
)
def test_wrong_usage_is_one_answer(
    arguments: list[str],
    words: str,
    references: Path,
    methods: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [text.format(**methods, data=references) for text in arguments]
    assert run("evaluate", *given) == 2
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert re.search(words, shown), shown


def test_a_path_with_an_equals_sign_is_a_path(references: Path, tmp_path: Path) -> None:
    odd = write_predictions(tmp_path / "a=b", NUMBERS, 5)
    assert run("evaluate", odd, references, "--profile", "synthrad2023") == 0


def write_table_of_predictions(path: Path, methods: dict[str, Path]) -> Path:
    lines = ["case," + ",".join(f"prediction_{name}" for name in methods)]
    for number in NUMBERS:
        paths = [str((folder / f"p{number}.nii.gz").resolve()) for folder in methods.values()]
        lines.append(f"p{number}," + ",".join(paths))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_table_names_the_predictions_of_methods(
    references: Path, methods: dict[str, Path], tmp_path: Path
) -> None:
    table = write_table_of_predictions(tmp_path / "predictions.csv", methods)
    by_table = evaluate_methods(pair_methods({"": table}, references), PROFILE)
    by_folder = evaluate_methods(pair_methods(methods, references), PROFILE)
    assert [(r.method, r.case, r.values["mae_hu"]) for r in by_table.results] == [
        (r.method, r.case, r.values["mae_hu"]) for r in by_folder.results
    ]
    with pytest.raises(ConfigError, match="the method 'unet' is there twice"):
        pair_methods({"": table, "unet": methods["unet"]}, references)


def test_a_table_lacks_cases_and_has_others_twice(
    references: Path, methods: dict[str, Path], tmp_path: Path
) -> None:
    table = write_table_of_predictions(tmp_path / "predictions.csv", methods)
    text = table.read_text(encoding="utf-8")
    row = text.splitlines()[1]
    missing = text.splitlines()[2].split(",")[0] + ",," + text.splitlines()[2].split(",")[2]
    table.write_text(
        "\n".join([text.splitlines()[0], row, row, missing, text.splitlines()[3]]),
        encoding="utf-8",
    )
    outcome = evaluate_methods(pair_methods({"": table}, references), PROFILE)
    assert [(r.method, r.case) for r in outcome.results] == [
        ("unet", "p3"),
        ("gan", "p2"),
        ("gan", "p3"),
    ]
    reasons = {(f.method, f.case): f.reason for f in outcome.failures}
    assert "case p1 is there 2 times" in reasons["unet", "p1"]
    assert "case p1 is there 2 times" in reasons["gan", "p1"]
    assert "no prediction for this case" in reasons["unet", "p2"]
    table.write_text("case,image\np1,x.nii\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"found the columns case, image; expected"):
        read_predictions(table)


def manifest_of(references: Path, path: Path) -> Path:
    cases = [
        Case(
            name=f"p{number}",
            patient=f"p{number}",
            split="test",
            sources={"mr": references / f"p{number}/mr.nii.gz"},
            target=references / f"p{number}/ct.nii.gz",
            mask=references / f"p{number}/mask.nii.gz",
        )
        for number in NUMBERS
    ]
    write_manifest(path, cases)
    return path


def test_a_manifest_with_a_wrong_row_is_evaluated_for_the_rest(
    references: Path,
    methods: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest = manifest_of(references, tmp_path / "manifest.csv")
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text + text.splitlines()[1] + "\n", encoding="utf-8")
    (references / "p2/ct.nii.gz").unlink()
    command = ["evaluate", *named(methods), manifest, "--profile", "synthrad2023", "--json"]
    assert run(*command) == 3
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert [(case["method"], case["case"]) for case in data["cases"]] == [
        ("unet", "p3"),
        ("gan", "p3"),
    ]
    assert data["cases"][0]["files"]["source"] == str(references / "p3/mr.nii.gz")
    for method in methods:
        assert f"case p1 ({method}): {manifest}: case p1 is there 2 times" in captured.err
        assert f"case p2 ({method}): {manifest}: case p2:" in captured.err


def test_a_manifest_may_itself_name_the_predictions(
    references: Path, methods: dict[str, Path], tmp_path: Path
) -> None:
    manifest = manifest_of(references, tmp_path / "manifest.csv")
    rows = manifest.read_text(encoding="utf-8").splitlines()
    predictions = [methods["unet"] / f"p{n}.nii.gz" for n in NUMBERS]
    lines = [f"{rows[0]},prediction"]
    lines += [f"{row},{path}" for row, path in zip(rows[1:], predictions, strict=True)]
    manifest.write_text("\n".join(lines), encoding="utf-8")
    outcome = evaluate_methods(pair_methods({"": manifest}, manifest), PROFILE)
    assert [r.values["mae_hu"] for r in outcome.results] == [10, 20, 30]
    assert outcome.methods == ("",)


def test_two_images_of_several_methods_are_named_after_the_reference(
    references: Path, methods: dict[str, Path]
) -> None:
    images = {name: folder / "p1.nii.gz" for name, folder in methods.items()}
    mask = references / "p1/mask.nii.gz"
    outcome = evaluate_methods(
        pair_methods(images, references / "p1/ct.nii.gz", Layout(mask=mask)), PROFILE
    )
    assert [(r.method, r.case) for r in outcome.results] == [("unet", "ct"), ("gan", "ct")]


def test_a_mask_for_some_cases_of_some_methods_is_no_common_ground(tmp_path: Path) -> None:
    references = write_references(tmp_path / "data", NUMBERS)
    (references / "p3/mask.nii.gz").unlink()
    methods = {
        "a": write_predictions(tmp_path / "a", range(1, 3), 5),
        "b": write_predictions(tmp_path / "b", range(3, 4), 5),
    }
    outcome = evaluate_methods(pair_methods(methods, references), PROFILE)
    assert [(r.method, r.case) for r in outcome.results] == [("a", "p1"), ("a", "p2")]
    assert "no mask for this case" in {f.case: f.reason for f in outcome.failures}["p3"]


def test_tables_in_every_format(tmp_path: Path) -> None:
    values = {"mae_hu": 1 / 3, "psnr_db": math.inf, "mae_bone_hu": math.nan}
    outcome = Evaluation(
        (CaseResult("a", values, PROFILE, method="unet"),),
        (Failure("=b", "broken", "unet"),),
    )
    write_table(tmp_path / "t.json", outcome)
    rows = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert (rows[0]["mae_hu"], rows[0]["psnr_db"], rows[0]["mae_bone_hu"]) == (1 / 3, "inf", None)
    assert (rows[1]["case"], rows[1]["error"]) == ("=b", "broken")
    write_table(tmp_path / "t.csv", outcome)
    assert "\n'=b,unet," in (tmp_path / "t.csv").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match=r"t\.ods: a table is \.csv, \.parquet, \.json"):
        write_table(tmp_path / "t.ods", outcome)


def test_parquet_keeps_types_or_says_what_is_missing(tmp_path: Path) -> None:
    values = {"mae_hu": 1 / 3, "psnr_db": math.inf, "mae_bone_hu": math.nan}
    outcome = Evaluation((CaseResult("a", values, PROFILE),))
    if find_spec("pyarrow") is None:
        with pytest.raises(ConfigError, match=r"pip install 'medp2p\[parquet\]'"):
            write_table(tmp_path / "t.parquet", outcome)
        assert not list(tmp_path.iterdir())
        return
    write_table(tmp_path / "t.parquet", outcome)
    frame = pd.read_parquet(tmp_path / "t.parquet")
    assert frame["mae_hu"].dtype == np.float64
    assert frame.loc[0, "mae_hu"] == 1 / 3
    assert frame.loc[0, "psnr_db"] == math.inf
    assert frame["mae_bone_hu"].isna().all()
    write_table(tmp_path / "again.parquet", outcome)
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "t.parquet").read_bytes()


def test_tissues_are_configurable(
    references: Path, methods: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", methods["unet"], references, "--profile", "synthrad2023"]
    command += ["--tissues", "fat_like=-100:100 hard=500:inf"]
    assert run(*command) == 0
    out = capsys.readouterr().out
    assert "MAE fat like" in out
    assert "fat like -100 to 100, hard > 500" in out
    assert run(*command, "--json") == 0
    values = json.loads(capsys.readouterr().out)["cases"][0]["values"]
    assert values["voxels_fat_like"] == 1000
    assert values["voxels_hard"] == 200
    assert "mae_bone_hu" not in values


def labels_array() -> Any:
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:9, 5:9, 4:8] = 5
    labels[10:14, 5:9, 4:8] = 3
    return labels


def test_label_maps_are_scored_by_class(
    references: Path, methods: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shifted = np.roll(labels_array(), 1, axis=0)
    for number in NUMBERS:
        save(tmp_path / f"true/p{number}.nii.gz", labels_array())
        save(tmp_path / f"pred/p{number}/labels.nii.gz", shifted)
    (tmp_path / "true/p3.nii.gz").unlink()
    command = ["evaluate", methods["unet"], references, "--profile", "synthrad2023", "--json"]
    command += ["--labels-ref", tmp_path / "true", "--labels-pred", tmp_path / "pred"]
    command += ["--label-classes", "synthrad2025_abdomen", "--require", "liver_dice>0.7"]
    assert run(*command) == 3
    captured = capsys.readouterr()
    assert "no reference label for case p3" in captured.err
    data = json.loads(captured.out)
    assert data["cases"][0]["labels"]["liver"]["dice"] == pytest.approx(0.75)
    assert sorted(data["cases"][0]["labels"]) == ["kidney_left", "liver"]
    assert data["summaries"][""]["dice_label_liver"]["mean"] == pytest.approx(0.75)
    assert data["requirements"][0]["met"] is True
    command.remove("--json")
    assert run(*command) == 3
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()]
    table = [[cell.strip() for cell in row] for row in rows]
    assert ["label class", "n", "Dice", "surface Dice", "HD95 (mm)"] in table
    [liver] = [row for row in table if row[:1] == ["liver"]]
    assert liver[1:3] == [str(len(data["cases"])), "0.750 ± 0.000"]


def test_label_classes_of_several_methods_are_one_table() -> None:
    def result(case: str, method: str, **labels: float) -> CaseResult:
        scores = {name: {"dice": dice, "hd95_mm": math.inf} for name, dice in labels.items()}
        return CaseResult(case, {"mae_hu": 1.0}, PROFILE, method=method, labels=scores)

    unet = [result("a", "unet", liver=0.5, spleen=0.8), result("b", "unet", liver=0.7)]
    gan = [result("a", "gan", liver=0.9)]
    methods = {"unet": summarize(unet), "gan": summarize(gan)}
    text = result_table(Evaluation((*unet, *gan), summaries=methods))
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    start = table.index(["label class", "method", "n", "Dice", "surface Dice", "HD95 (mm)"])
    infinite = "– (n = 0, 2 infinite)"
    assert table[start + 2 : start + 5] == [
        ["liver", "unet", "2", "0.600 ± 0.141", "–", infinite],
        ["liver", "gan", "1", "0.900", "–", infinite.replace("2", "1")],
        ["spleen", "unet", "1", "0.800", "–", infinite.replace("2", "1")],
    ]


def test_label_maps_lie_on_the_references_grid_or_are_resampled() -> None:
    reference, prediction = volume(ct_array(1)), volume(ct_array(2))
    finer = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    finer[:3, 3] = (AFFINE @ [-0.25, -0.25, -0.25, 1])[:3]
    fine = Volume(labels_array().repeat(2, 0).repeat(2, 1).repeat(2, 2), finer)
    extras = Extras(labels=(fine, volume(labels_array())))
    with pytest.raises(Exception, match=r"the label map is not on the grid.*--resample"):
        evaluate_pair(prediction, reference, None, PROFILE, extras=extras)
    outcome = evaluate_pair(
        prediction, reference, None, PROFILE, Options(allow_resampling=True), extras=extras
    )
    assert {name: scores["dice"] for name, scores in outcome.labels.items()} == {"3": 1, "5": 1}
    nothing = Extras(labels=(volume(labels_array()), volume(np.zeros(SHAPE, np.uint8))))
    outcome = evaluate_pair(prediction, reference, None, PROFILE, extras=nothing)
    assert outcome.labels == {}
    assert "holds no class that counts" in outcome.notes[-1]


def test_a_region_is_compared_within_the_mask(
    references: Path, methods: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in NUMBERS:
        save(tmp_path / f"regions/p{number}.nii.gz", labels_array())
    outside = np.zeros(SHAPE, np.uint8)
    outside[0, 0, 0] = 1
    save(tmp_path / "regions/p3.nii.gz", outside)
    command = ["evaluate", methods["unet"], references, "--profile", "synthrad2023", "--json"]
    command += ["--region", tmp_path / "regions"]
    assert run(*command) == 3
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert data["cases"][0]["values"]["voxels"] == 128
    assert data["cases"][0]["where"] == {
        "mask": f"{references}/p1/mask.nii.gz",
        "region": f"{tmp_path}/regions/p1.nii.gz",
        "region_name": "",
    }
    assert "no voxel of the region lies inside the mask" in captured.err
    assert run(*command, "--region-name", "5") == 3
    data = json.loads(capsys.readouterr().out)
    assert data["cases"][0]["values"]["voxels"] == 64
    assert data["cases"][0]["where"]["region_name"] == "5"
    command.remove("--json")
    assert run(*command, "--region-name", "5") == 3
    assert "mask: region 5 of p1.nii.gz within mask.nii.gz" in capsys.readouterr().out


def test_alignment_undoes_a_shift_and_says_so() -> None:
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (40, 36, 30)), indexing="ij"))
    centre, radii = np.array([[19, 17, 14], [14, 12, 10]])[:, :, None, None, None]
    ball = (((grid - centre) / radii) ** 2).sum(axis=0) < 1
    plate = ball & (grid[0] > 24)
    image = np.where(ball, 40, -1000) + np.where(plate, 600, 0) + random.integers(-5, 6, ball.shape)
    reference = Volume(image.astype(np.int16), np.eye(4))
    shifted = Volume(np.roll(image, 1, axis=0).astype(np.int16), np.eye(4))
    mask = reference.with_array(ball.astype(np.uint8))
    plain = evaluate_pair(shifted, reference, mask, PROFILE)
    aligned = evaluate_pair(shifted, reference, mask, PROFILE, Options(align=True))
    assert aligned.values["mae_hu"] < 0.5 * plain.values["mae_hu"]
    assert aligned.values["alignment_shift_mm"] == pytest.approx(1, abs=0.1)
    assert "alignment_shift_mm" not in plain.values


def test_a_loose_mask_is_told_by_the_air_that_leads_outside() -> None:
    """The whole box is the mask: all air counts. A closed cavity inside the body does not."""
    array = ct_array(1)
    array[8:11, 7:10, 4:9] = -900
    reference = volume(array)
    assert loose_share(array, mask_array() > 0) == 0
    everything = np.ones(SHAPE, bool)
    outside = np.count_nonzero(mask_array() == 0)
    assert loose_share(array, everything) == pytest.approx(outside / everything.size)
    mask = reference.with_array(everything.astype(np.uint8))
    outcome = evaluate_pair(volume(ct_array(2)), reference, mask, PROFILE)
    assert any("mask: loose, 76% of it is air" in note for note in outcome.notes)
    tight = evaluate_pair(volume(ct_array(2)), reference, volume(mask_array()), PROFILE)
    assert not any("loose" in note for note in tight.notes)
    mr = evaluate_pair(volume(ct_array(2)), reference, mask, range_profile(-1000, 1000))
    assert not any("loose" in note for note in mr.notes)


def test_air_behind_a_narrow_opening_is_not_loose() -> None:
    array = np.full((40, 40, 6), 40, np.int16)
    inside = np.zeros(array.shape, bool)
    inside[3:-3, 3:-3] = True
    array[~inside] = -1000
    array[10:20, 10:20] = -1000
    assert loose_share(array, inside) == 0
    array[3:10, 14:16] = -1000  # two voxels wide
    assert loose_share(array, inside) == 0
    array[3:10, 12:18] = -1000  # six voxels wide
    assert loose_share(array, inside) > 0.08


def test_pictures_of_one_slice_are_compared() -> None:
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (32, 24, 1)).astype(np.uint8)
    other = np.clip(picture.astype(int) + 5, 0, 255).astype(np.uint8)
    outcome = evaluate_pair(volume(other), volume(picture), None, PICTURE_PROFILE)
    assert 4 < outcome.values["mae"] <= 5


@pytest.fixture
def wrong_cohort(tmp_path: Path) -> tuple[Path, Path]:
    """Two good cases, and one of every wrong kind."""
    kinds = ["good1", "good2", "grid", "empty", "nan", "flat", "eight", "unpredicted", "twice"]
    references, predictions = tmp_path / "data", tmp_path / "sct"
    for number, kind in enumerate(kinds):
        save(references / kind / "ct.nii.gz", ct_array(number))
        save(references / kind / "mask.nii.gz", mask_array())
        save(predictions / f"{kind}.nii.gz", ct_array(number) + np.int16(10))
    shifted = AFFINE.copy()
    shifted[0, 3] += 0.5
    save(predictions / "grid.nii.gz", ct_array(2), shifted)
    save(references / "empty/mask.nii.gz", np.zeros(SHAPE, np.uint8))
    broken = ct_array(4).astype(np.float32)
    broken[8, 8, 8] = np.nan
    save(predictions / "nan.nii.gz", broken)
    save(predictions / "flat.nii.gz", np.full(SHAPE, -1024, np.int16))
    save(predictions / "eight.nii.gz", (ct_array(6) // 8 + 128).clip(0, 255).astype(np.uint8))
    (predictions / "unpredicted.nii.gz").unlink()
    save(predictions / "unreferenced.nii.gz", ct_array())
    save(predictions / "twice.nii", ct_array(8))
    return predictions, references


def test_every_wrong_input_is_one_line_and_the_rest_is_evaluated(
    wrong_cohort: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", *wrong_cohort, "--profile", "synthrad2023", "--jobs", 1]
    assert run(*command, "--json", "--output", tmp_path / "out") == 3
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert [case["case"] for case in data["cases"]] == ["good1", "good2"]
    assert data["summaries"][""]["mae_hu"]["mean"] == 10
    lines = [line for line in captured.err.splitlines() if line.startswith("medp2p:")]
    reasons = dict(line.removeprefix("medp2p: case ").split(": ", 1) for line in lines)
    assert sorted(reasons) == sorted(failure["case"] for failure in data["failures"])
    expected = {
        "grid": "the prediction is not on the grid of",
        "empty": "the mask is empty",
        "nan": "NaN",
        "flat": "every voxel of the prediction is -1024",
        "eight": "this is an 8-bit picture, but the profile synthrad2023 is for CT in HU",
        "unpredicted": "no prediction for this case",
        "unreferenced": "no reference for this case",
        "twice": "several images for one case: twice.nii, twice.nii.gz",
    }
    assert sorted(reasons) == sorted(expected)
    for case, words in expected.items():
        assert words in reasons[case]
    assert len(read_results(tmp_path / "out").failures) == len(expected)


def test_a_prediction_that_is_the_reference_or_constant_is_noted(
    references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = write_predictions(tmp_path / "sct", NUMBERS, 10)
    save(predictions / "p1.nii.gz", ct_array(1))
    save(predictions / "p2.nii.gz", np.where(mask_array(), 40, -1000).astype(np.int16))
    save(predictions / "p3.nii.gz", ct_array(3) + np.int16(1024))
    assert run("evaluate", predictions, references, "--profile", "synthrad2023") == 0
    out = capsys.readouterr().out
    assert "note: p1: prediction and reference are identical inside the mask" in out
    assert "note: p2: prediction: the constant 40 inside the mask" in out
    assert "note: p3: prediction: values 4 to 1843 do not look like HU" in out


def test_evaluation_loads_no_network_library() -> None:
    code = (
        "import sys, medp2p.evaluation, medp2p.metrics, medp2p.results; "
        "print([name for name in ('torch', 'monai') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


GROWTH = """
import resource, sys
from pathlib import Path
from medp2p.evaluation import evaluate_cases, pair_folders
from medp2p.metrics import PROFILES

if __name__ == "__main__":
    pairs, _ = pair_folders(Path(sys.argv[1]), Path(sys.argv[2]))
    pairs = pairs * int(sys.argv[3])
    evaluate_cases(pairs, PROFILES["synthrad2025"], jobs=2)
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
          resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_cases(tmp_path: Path) -> None:
    """Each worker holds one case: a hundred take what ten take."""
    shape = (40, 40, 32)
    random = np.random.default_rng(0)
    for number in range(10):
        reference = random.integers(-1000, 1000, shape).astype(np.int16)
        mask = np.ones(shape, np.uint8)
        save(tmp_path / f"data/p{number}/ct.nii.gz", reference, np.eye(4))
        save(tmp_path / f"data/p{number}/mask.nii.gz", mask, np.eye(4))
        save(tmp_path / f"sct/p{number}.nii.gz", reference + np.int16(10), np.eye(4))
    script = tmp_path / "growth.py"
    script.write_text(GROWTH, encoding="utf-8")

    def peak_kib(times: int) -> tuple[int, int]:
        command = [sys.executable, str(script), str(tmp_path / "sct"), str(tmp_path / "data")]
        done = subprocess.run([*command, str(times)], capture_output=True, text=True, check=True)
        worker, parent = map(int, done.stdout.split())
        return worker, parent

    few, many = peak_kib(1), peak_kib(10)
    assert many[0] < few[0] * 1.05 + 8 * 1024
    assert many[1] < few[1] * 1.05 + 40 * 1024
