"""Whether a scan is recognized that a model is not for, and one that it is for let through."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medp2p.config import PreprocessingSettings
from medp2p.conversion.guard import judge
from medp2p.fingerprint import Look, describe, describe_parts, summary
from medp2p.io import read_volume
from medp2p.phantom import make_phantom
from medp2p.preprocessing import body_mask, decode, prepare_mask, prepare_source
from medp2p.volume import Volume

SETTINGS = PreprocessingSettings(spacing_mm=(2.0, 2.0, None))
HEAD = (64, 72, 24)


def measured(measure, *volumes: Volume):
    body = body_mask(volumes[0], "MR")
    prepared = [prepare_source(volume, body, SETTINGS) for volume in volumes]
    grid = prepared[0].grid
    unit = np.stack([decode(image.codes) for image in prepared])
    return measure(unit, prepare_mask(volumes[0].with_array(body), grid), grid.spacing_mm)


def look_at(*volumes: Volume) -> Look:
    return measured(describe, *volumes)


def known_from(cases: list[tuple[Volume, ...]], names: tuple[str, ...] = ("t1",)):
    """The fingerprint of a model that was trained on these cases."""
    parts = [part for case in cases for part in measured(describe_parts, *case)]
    return fingerprint_of([look_at(*case) for case in cases], parts, names)


def fingerprint_of(looks: list[Look], parts: list[Look], names: tuple[str, ...] = ("t1",)):
    spacing = np.array([look.spacing_mm for look in looks])
    extent = np.array([list(look.body.values())[:3] for look in looks])
    return {
        "sources": list(names),
        "spacing_mm": [spacing.min(axis=0).tolist(), spacing.max(axis=0).tolist()],
        "body_extent_mm": [extent.min(axis=0).tolist(), extent.max(axis=0).tolist()],
        "looks": summary(looks),
        "part_looks": summary(parts),
    }


@pytest.fixture(scope="module")
def training():
    """T1 and T2 of the heads that a model was trained on."""
    heads = [make_phantom("head", seed, shape=HEAD, contrasts=("t1", "t2")) for seed in range(6)]
    return [(head.mr["t1"], head.mr["t2"]) for head in heads]


@pytest.fixture(scope="module")
def known(training):
    return known_from([(t1,) for t1, _ in training])


@pytest.fixture(scope="module")
def head():
    """A new head on another scanner."""
    return make_phantom(
        "head",
        77,
        shape=(70, 80, 40),
        contrasts=("t1", "t2"),
        field_strength_t=3.0,
        mr_noise=0.04,
        shading_strength=0.2,
        oblique_degrees=5,
    )


def test_a_scan_like_those_of_training_passes(known, head):
    judgement = judge(look_at(head.mr["t1"]), known)
    assert judgement.is_known
    assert judgement.score < 1
    assert judgement.reasons == ()


def wrong_scans(head):
    t1 = head.mr["t1"]
    values = t1.array.astype(np.float32)
    noise = np.random.default_rng(0).normal(500, 150, t1.shape).clip(0).astype(np.float32)
    inside = np.where(head.mask.array > 0, values.max() - values, values)
    return {
        "contrast": head.mr["t2"],
        "CT": Volume(head.ct.array.astype(np.float32) + 1024, t1.affine),
        "inverted": t1.with_array(values.max() - values),
        "inverted in the body": t1.with_array(inside),
        "noise": t1.with_array(noise),
        "pelvis": make_phantom("pelvis", 3, shape=(72, 54, 24)).mr["t1"],
    }


@pytest.mark.parametrize(
    ("scan", "words"),
    [
        ("contrast", "4 to 8 mm below the surface it is darker than expected"),
        ("CT", "4 to 8 mm below the surface it is darker than expected"),
        ("inverted", "the body is brighter than expected"),
        ("inverted in the body", "4 to 8 mm below the surface it is darker than expected"),
        ("noise", "% of the box around it; in training"),
        ("pelvis", "mm wide; in training"),
    ],
)
def test_a_scan_that_the_model_is_not_for_is_recognized_and_said_why(known, head, scan, words):
    judgement = judge(look_at(wrong_scans(head)[scan]), known)
    assert judgement.score >= 1
    assert 1 <= len(judgement.reasons) <= 3
    assert any(words in reason for reason in judgement.reasons), judgement.reasons


def test_a_part_of_a_head_passes_and_a_few_millimetres_do_not(known, head):
    t1 = head.mr["t1"]
    for part in (slice(14, 26), slice(8, 32), slice(20, 40)):
        slab = Volume(t1.array[:, :, part], t1.affine)
        assert judge(look_at(slab), known).score < 1
    whole = look_at(t1)
    thin = replace(whole, body={**whole.body, "height_mm": 10.0})
    assert judge(thin, known).reasons[0].startswith("the body is 10 mm high; in training")


def test_what_is_cut_off_at_the_border_may_be_small(known, head):
    whole = look_at(head.mr["t1"])
    narrow = replace(whole, body={**whole.body, "width_mm": 70.0, "depth_mm": 80.0})
    assert judge(narrow, known).score > 1
    assert judge(replace(narrow, is_cut=(True, True, False)), known).score < 1
    wide = replace(whole, body={**whole.body, "width_mm": 400.0}, is_cut=(True, True, True))
    assert judge(wide, known).score > 1


def test_voxels_of_quite_another_size_are_recognized(known, head):
    look = replace(look_at(head.mr["t1"]), spacing_mm=(0.6, 2.0, 4.0))
    judgement = judge(look, known)
    assert judgement.reasons == (
        "its voxels are 0.6 mm apart from left to right; in training 2 mm",
    )


def test_the_score_is_1_where_three_numbers_lie_at_the_threshold():
    sources = [{"p25": p, "p50": p, "p75": p} for p in (-0.2, 0.0, 0.2)]
    body = {"width_mm": 100.0, "depth_mm": 100.0, "height_mm": 100.0, "fill": 0.5}
    looks = [Look((1, 1, 1), body, (False,) * 3, (source,)) for source in sources]
    known = fingerprint_of(looks, looks)
    threshold = 2.4 * np.hypot(0.2, 0.1) * np.sqrt(1 + 1 / 3)
    for off in (threshold, -threshold, threshold / 2):
        look = replace(looks[1], sources=(dict.fromkeys(sources[0], off),))
        assert judge(look, known).score == pytest.approx(abs(off) / threshold, abs=1e-3)
    one = replace(looks[1], sources=({**sources[1], "p25": 1.5 * threshold},))
    assert judge(one, known).score == pytest.approx(0.5, abs=1e-3)
    like_the_mean = judge(looks[1], known)
    assert like_the_mean.score == 0.1  # of the height, which may be ten times less
    assert like_the_mean.reasons == ()


def test_two_contrasts_are_both_judged_and_told_apart(training, head):
    names = ("t1", "t2")
    known = known_from(training, names)
    t1, t2 = head.mr["t1"], head.mr["t2"]
    assert judge(look_at(t1, t2), known).score < 1
    swapped = judge(look_at(t2, t1), known)
    assert swapped.score > 1
    assert {reason.split(":")[0] for reason in swapped.reasons} <= set(names)
    with pytest.raises(ValueError, match="expected 2 sources, got 1"):
        judge(look_at(t1), known)


def test_one_training_case_is_enough_to_refuse_a_pelvis_and_pass_a_head(training, head):
    known = known_from([training[0][:1]])
    assert judge(look_at(head.mr["t1"]), known).score < 1
    assert judge(look_at(wrong_scans(head)["pelvis"]), known).score > 1


def test_a_model_without_looks_is_judged_by_extents_alone(known, head):
    old = {key: value for key, value in known.items() if key != "looks"}
    passed = judge(look_at(head.mr["t2"]), old)
    assert (passed.is_known, passed.reasons) == (False, ())
    pelvis = judge(look_at(wrong_scans(head)["pelvis"]), old)
    assert not pelvis.is_known
    assert pelvis.score > 1
    assert "mm wide; in training" in pelvis.reasons[0]
    half = Volume(head.mr["t1"].array[:, :, 14:26], head.mr["t1"].affine)
    assert judge(look_at(half), old).score < 1
    assert judge(look_at(head.mr["t1"]), {}).score == 0


@pytest.mark.real_data
@pytest.mark.skipif("MEDP2P_REAL_DATA" not in os.environ, reason="MEDP2P_REAL_DATA is not set")
@pytest.mark.parametrize("scan", ["pork_t2_ct/mr", "stroke_t1_t2_flair/FLAIR"])
def test_real_scans_that_are_no_t1_heads_are_recognized(known, scan):
    volume = read_volume(Path(os.environ["MEDP2P_REAL_DATA"]) / f"{scan}.nii.gz")
    judgement = judge(look_at(volume), known)
    assert judgement.score >= 1
    assert judgement.reasons
