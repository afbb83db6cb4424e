"""Conditions on an evaluation: read before anything is computed, met or not."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from cohorts import ct_array, mask_array, run, volume, write_predictions, write_references

from medp2p.errors import ConfigError
from medp2p.evaluation import Options, check_gates, evaluate_pair, metric_values, read_gate
from medp2p.evaluation.statistics import summarize_values
from medp2p.metrics import PICTURE_PROFILE, PROFILES, TISSUES_HU, Profile, range_profile
from medp2p.results import Summary

PROFILE = PROFILES["synthrad2025"]
NAMES = metric_values(PROFILE, list(TISSUES_HU), "synthrad2025_abdomen")


@pytest.mark.parametrize(
    ("text", "metric", "relation", "limit"),
    [
        ("mae<80", "mae_hu", "<", 80.0),
        ("bone_dice > 0.8", "dice_bone", ">", 0.8),
        ("Dense-Bone-MAE<=200", "mae_dense_bone_hu", "<=", 200.0),
        ("ms_ssim>=0.9", "ms_ssim_synthrad2025", ">=", 0.9),
        ("ms_ssim_synthrad2025>=0.9", "ms_ssim_synthrad2025", ">=", 0.9),
        ("psnr>-3e1", "psnr_db", ">", -30.0),
        ("hd95_bone<5", "hd95_bone_mm", "<", 5.0),
        ("liver_dice>0.9", "dice_label_liver", ">", 0.9),
        ("wepl_p95<3", "wepl_p95_mm", "<", 3.0),
    ],
)
def test_short_names_find_the_full_ones(
    text: str, metric: str, relation: str, limit: float
) -> None:
    gate = read_gate(text, NAMES, PROFILE)
    assert (gate.metric, gate.relation, gate.limit) == (metric, relation, limit)


def test_a_bare_ssim_names_no_metric() -> None:
    with pytest.raises(ConfigError, match=r"no metric 'ssim'.*ms_ssim_synthrad2025"):
        read_gate("ssim>0.9", NAMES, PROFILE)
    range_names = metric_values(range_profile(0, 1), ())
    assert read_gate("ssim>0.9", range_names, range_profile(0, 1)).metric == "ssim_range"
    picture_names = metric_values(PICTURE_PROFILE, ())
    gate = read_gate("ssim_2d>0.9", picture_names, PICTURE_PROFILE)
    assert gate.metric == PICTURE_PROFILE.structure_key


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"no metric 'bone_dise'.*near it are .*dice_bone"):
        read_gate("bone_dise>0.8", NAMES, PROFILE)
    with pytest.raises(ConfigError, match=r"no metric 'mea'.*mae_hu"):
        read_gate("mea<80", NAMES, PROFILE)
    with pytest.raises(ConfigError, match="'dice_label_3' needs --label-classes"):
        read_gate("dice_label_3>0.5", metric_values(PROFILE, list(TISSUES_HU)), PROFILE)


@pytest.mark.parametrize("text", ["mae", "mae<", "<80", "mae=80", "mae<80<90", "mae<nan", "mae<x"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a metric, <, <=, > or >=, and a number"):
        read_gate(text, NAMES, PROFILE)


@pytest.mark.parametrize("profile", [*PROFILES.values(), range_profile(-1000, 1000)])
def test_every_value_has_a_name(profile: Profile) -> None:
    tissues = {"lung": (-950.0, -500.0), "bone": (250.0, math.inf)}

    outcome = evaluate_pair(
        volume(ct_array(1)),
        volume(ct_array(2)),
        volume(mask_array()),
        profile,
        Options(tissues=tissues, find_faults=False),
    )
    named = tissues if profile.units == "HU" else ()
    values = {key for key in outcome.values if key.split("_")[0] != "voxels"}
    assert values == set(metric_values(profile, list(named)))


def test_a_mean_that_does_not_exist_meets_nothing() -> None:
    gates = [read_gate(text, NAMES, PROFILE) for text in ("mae<80", "bone_dice>0.1")]
    summaries = {
        "a": {"mae_hu": summarize_values([70, 85])},
        "b": {"mae_hu": Summary(80, 1, 80, 2)},
    }
    found = check_gates(gates, summaries)
    assert [(r.method, r.metric, r.met) for r in found] == [
        ("a", "mae_hu", True),
        ("a", "dice_bone", False),
        ("b", "mae_hu", False),
        ("b", "dice_bone", False),
    ]
    assert found[0].value == 77.5


def test_an_infinite_case_is_not_averaged_away() -> None:
    gate = read_gate("bone_hd95<5", NAMES, PROFILE)
    [found] = check_gates([gate], {"": {"hd95_bone_mm": summarize_values([1.0, math.inf])}})
    assert (found.value, found.met) == (math.inf, False)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    numbers = range(1, 3)
    references = write_references(tmp_path / "data", numbers)
    return write_predictions(tmp_path / "sct", numbers, {1: 10, 2: 30}), references


def test_command_passes_or_fails(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("evaluate", *folders, "--profile", "synthrad2023")
    assert run(*command, "--require", "mae<80", "--require", "bias>=20") == 0
    assert "met: mae<80 (mae_hu 20)" in capsys.readouterr().out
    assert run(*command, "--require", "mae<80", "--require", "bone_mae<19.9") == 1
    out = capsys.readouterr().out
    assert "met: mae<80 (mae_hu 20)" in out
    assert "NOT MET: bone_mae<19.9 (mae_bone_hu 20)" in out


def test_unmet_wins_over_failed_cases(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (folders[0] / "p2.nii.gz").write_bytes(b"no image")
    command = ("evaluate", *folders, "--profile", "synthrad2023", "--json", "--require")
    assert run(*command, "mae<80") == 3
    assert "met: mae<80 (mae_hu 10)" in capsys.readouterr().err
    assert run(*command, "mae<8") == 1
    captured = capsys.readouterr()
    assert "NOT MET: mae<8" in captured.err
    assert "medp2p: case p2:" in captured.err
    assert '"met": false' in captured.out


def test_a_wrong_condition_is_found_before_any_computing(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:

    (folders[0] / "p1.nii.gz").write_bytes(b"no image")
    assert run("evaluate", *folders, "--require", "bone_dise>1") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "dice_bone" in captured.err
