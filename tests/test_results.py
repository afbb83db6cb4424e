"""The file of an evaluation: written whole, read back as it was, refused when damaged."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from medp2p.errors import EvaluationError, OutputError
from medp2p.metrics import PICTURE_PROFILE, PROFILES, Curve, Histogram2D
from medp2p.results import (
    CASES_FILE,
    RESULTS_FILE,
    CaseFiles,
    CaseResult,
    Comparison,
    Evaluation,
    Failure,
    Finding,
    Ranked,
    Requirement,
    Summary,
    Where,
    as_json,
    csv_text,
    read_results,
    table_rows,
    write_results,
)

PROFILE = PROFILES["synthrad2025"]
LAST = (0.0, 0.0, 0.0, 1.0)


def result(case: str = "p1", method: str = "unet", **changes: Any) -> CaseResult:
    values = {"mae_hu": 1 / 3, "mae_bone_hu": math.nan, "psnr_db": math.inf}
    entries: dict[str, Any] = {
        "values": values,
        "profile": PROFILE,
        "where": Where("/data/p1/mask.nii.gz", "/data/p1/rs.dcm", "liver"),
        "notes": ("one", "two"),
        "method": method,
        "labels": {"liver": {"dice": 0.5, "hd95_mm": math.inf}},
        "curves": {"mae_by_depth_mm": Curve((0.0, 1.0), (math.nan, 2.5), (0, 7))},
        "histograms": {"joint": Histogram2D((0.0, 1.0, 2.0), (0.0, 1.0), ((3,), (0,)))},
        "findings": (Finding("shifted", "It is shifted.", 1.5, 1.0, (1, 2, 3)),),
        "files": CaseFiles(
            case, Path("/sct/p1.nii"), Path("/data/p1/ct.nii"), None, hashes={"prediction": "0f"}
        ),
        "alignment": ((1.0, 0.0, 0.0, 1 / 3), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), LAST),
    }
    return CaseResult(case, **(entries | changes))


def evaluation(**changes: Any) -> Evaluation:
    entries: dict[str, Any] = {
        "results": (result(), result(method="gan", files=None)),
        "failures": (Failure("p2", "p2.nii: broken", "gan"),),
        "summaries": {
            "unet": {"mae_hu": Summary(1.0, math.nan, 1.0, 1, (math.nan, math.nan), 2)},
        },
        "comparisons": (Comparison("mae_hu", "unet", "gan", 1, 0.0, math.nan, math.nan, math.nan),),
        "ranking": (Ranked("unet", 2.0, 1.25), Ranked("gan", 1.0, 1.75)),
        "requirements": (Requirement("mae<80", "mae_hu", math.nan, False, "gan"),),
        "settings": {"tissues": {"air": [-math.inf, -200.0]}, "region": None},
        "versions": {"numpy": "2.0"},
    }
    return Evaluation(**(entries | changes))


def test_everything_survives_the_file(tmp_path: Path) -> None:
    written = evaluation()
    write_results(tmp_path / "out", written)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {RESULTS_FILE, CASES_FILE}
    for path in (tmp_path / "out", tmp_path / "out" / RESULTS_FILE):
        read = read_results(path)
        assert as_json(read) == as_json(written)
        curve = read.results[0].curves["mae_by_depth_mm"]
        assert math.isnan(curve.y[0])
        assert (curve.x, curve.y[1], curve.counts) == ((0.0, 1.0), 2.5, (0, 7))
        assert math.isnan(read.results[0].values["mae_bone_hu"])
        assert read.results[0].values["psnr_db"] == math.inf
        assert read.results[0].findings == written.results[0].findings
        assert read.results[0].files == written.results[0].files
        assert read.results[0].where == written.results[0].where
        assert read.results[0].alignment == written.results[0].alignment
        assert read.results[0].histograms == written.results[0].histograms
        assert read.results[1].files is None
        assert read.profile == PROFILE
        assert read.failures == written.failures
        assert read.ranking == written.ranking
        assert read.ranking[0].method == "unet"
        assert read.methods == ("unet", "gan")
        assert [r.method for r in read.of_method("gan")] == ["gan"]
        assert math.isnan(read.summaries["unet"]["mae_hu"].interval[0])
        assert math.isnan(read.requirements[0].value)


def test_every_profile_survives(tmp_path: Path) -> None:
    for number, profile in enumerate([*PROFILES.values(), PICTURE_PROFILE]):
        written = Evaluation((result(profile=profile),))
        write_results(tmp_path / str(number), written)
        assert read_results(tmp_path / str(number)).profile == profile


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_results(tmp_path / name, evaluation())
    for file in (RESULTS_FILE, CASES_FILE):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_json_is_strict_and_can_leave_arrays_out() -> None:
    data = as_json(evaluation())
    json.dumps(data, allow_nan=False)
    [first, _] = data["cases"]
    assert first["values"] == {"mae_hu": 1 / 3, "mae_bone_hu": None, "psnr_db": "inf"}
    assert first["curves"]["mae_by_depth_mm"]["y"] == [None, 2.5]
    assert data["settings"]["tissues"]["air"] == ["-inf", -200.0]
    assert data["ranking"][0] == {"method": "unet", "score": 2.0, "mean_rank": 1.25}
    small = as_json(evaluation(), arrays=False)
    assert "curves" not in small["cases"][0]
    assert small["cases"][0]["values"] == first["values"]


def test_results_are_not_replaced_unasked(tmp_path: Path) -> None:
    write_results(tmp_path / "out", evaluation())
    before = (tmp_path / "out" / RESULTS_FILE).read_bytes()
    other = Evaluation((result("other"),))
    with pytest.raises(OutputError, match="exists already"):
        write_results(tmp_path / "out", other)
    assert (tmp_path / "out" / RESULTS_FILE).read_bytes() == before
    write_results(tmp_path / "out", other, overwrite=True)
    assert read_results(tmp_path / "out").results[0].case == "other"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(OutputError, match="not replaced"):
        write_results(tmp_path / "mine", other, overwrite=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.pop("cases"), "damaged at 'cases'"),
        (lambda data: data["cases"].clear(), "damaged at 'cases'"),
        (lambda data: data["cases"][1].pop("case"), r"damaged at results\.1\.case"),
        (lambda data: data["cases"][0]["values"].update(mae_hu="many"), r"values\.mae_hu"),
        (lambda data: data["cases"].append(3), "damaged"),
        (lambda data: data["profile"].pop("value_range"), r"profile\.value_range"),
        (lambda data: data["profile"].update(structure="vif"), "structure"),
        (lambda data: data["profile"].update(value_range=[5, 1]), "must be finite and rise"),
        (lambda data: data.update(profile=[1]), "damaged"),
        (lambda data: data["cases"][0]["curves"].update(x=[1]), "curves"),
        (lambda data: data.update(format=99), r"format 99, expected 2"),
        (lambda data: data.update(format=1), r"format 1, expected 2\); make it with"),
        (lambda data: data.pop("format"), r"format none, expected 2"),
    ],
)
def test_damaged_results_are_one_line(tmp_path: Path, change: Any, words: str) -> None:
    write_results(tmp_path / "out", evaluation())
    file = tmp_path / "out" / RESULTS_FILE
    data = json.loads(file.read_text(encoding="utf-8"))
    change(data)
    file.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(EvaluationError, match=words) as caught:
        read_results(tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe\x00", b"[" * 100000, b"3"])
def test_what_is_no_results_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "results.json"
    file.write_bytes(content)
    with pytest.raises(EvaluationError, match=r"results\.json: .*--output FOLDER") as caught:
        read_results(file)
    assert "\n" not in str(caught.value)


def test_missing_results_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"results\.json: no such file"):
        read_results(tmp_path)
    with pytest.raises(EvaluationError, match="no such file"):
        read_results(tmp_path / "nothing")


def test_table_has_one_row_per_case_and_method() -> None:
    first, second, failed = table_rows(evaluation())
    assert list(first) == list(second) == list(failed)
    assert (first["case"], first["method"], second["method"]) == ("p1", "unet", "gan")
    assert (first["dice_label_liver"], first["hd95_mm_label_liver"]) == (0.5, math.inf)
    assert (first["mask"], first["region_name"]) == ("/data/p1/mask.nii.gz", "liver")
    assert (first["notes"], first["findings"], first["error"]) == ("one; two", "shifted", "")
    assert (failed["case"], failed["error"]) == ("p2", "p2.nii: broken")
    assert math.isnan(float(failed["mae_hu"]))
    assert "method" not in table_rows(Evaluation((result(method=""),)))[0]


def test_text_is_harmless_in_a_spreadsheet() -> None:
    names = ("=1+1", "+1", "-1", "@SUM(A1)", "\tx", "p=1")
    values = {"mae_hu": -2.5, "psnr_db": -math.inf, "bias_hu": math.nan}
    results = tuple(result(name, method="-m", values=values) for name in names)
    failures = (Failure("p2", "=cmd|' /C calc'!A0", "gan"),)
    rows = list(csv.DictReader(csv_text(Evaluation(results, failures)).splitlines()))
    assert [row["case"] for row in rows[:-1]] == ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\tx", "p=1"]
    assert {row["method"] for row in rows} == {"'-m", "gan"}
    assert rows[-1]["error"].startswith("'=cmd")
    assert (rows[0]["mae_hu"], rows[0]["psnr_db"], rows[0]["bias_hu"]) == ("-2.5", "-inf", "")
