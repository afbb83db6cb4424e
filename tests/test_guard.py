"""Whether a scan is recognized that a model is not for, and one that it is for let through."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_SETTINGS, find_cases, prepare_cases, run
from scipy import stats

from medp2p.checkpoint import ModelCard, save_model
from medp2p.config import PreprocessingSettings, load_config
from medp2p.conversion.guard import judge
from medp2p.conversion.journal import Event, last_of_each, read_events
from medp2p.fingerprint import Look, describe, describe_parts, fingerprint, summary
from medp2p.io import write_volume
from medp2p.methods import build_generator
from medp2p.phantom import Anatomy, Phantom, case_seed, make_phantom
from medp2p.preprocessing import body_mask, decode, prepare_mask, prepare_source
from medp2p.store import PreparedData
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
    parts = [measured(describe_parts, *case) for case in cases]
    return fingerprint_of([look_at(*case) for case in cases], parts, names)


def fingerprint_of(looks: list[Look], parts: list[list[Look]], names: tuple[str, ...] = ("t1",)):
    spacing = np.array([look.spacing_mm for look in looks])
    extent = np.array([list(look.body.values())[:3] for look in looks])
    return {
        "sources": list(names),
        "spacing_mm": [spacing.min(axis=0).tolist(), spacing.max(axis=0).tolist()],
        "body_extent_mm": [extent.min(axis=0).tolist(), extent.max(axis=0).tolist()],
        "looks": summary(looks),
        "part_looks": [summary(part) for part in zip(*parts, strict=True)],
    }


@pytest.fixture(scope="module")
def heads() -> list[Phantom]:
    """The heads that a model was trained on."""
    return [make_phantom("head", seed, shape=HEAD, contrasts=("t1", "t2")) for seed in range(8)]


@pytest.fixture(scope="module")
def training(heads) -> list[tuple[Volume, Volume]]:
    """T1 and T2 of six of them."""
    return [(head.mr["t1"], head.mr["t2"]) for head in heads[:6]]


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


def wrong_scans(head: Phantom, pelvis: Phantom) -> dict[str, Volume]:
    """Images that a model of T1 heads is not for."""
    t1 = head.mr["t1"]
    values = t1.array.astype(np.float32)
    noise = np.random.default_rng(0).normal(500, 150, t1.shape).clip(0).astype(np.float32)
    return {
        "contrast": head.mr["t2"],
        "shifted_hu": Volume(head.ct.array.astype(np.float32) + 1024, t1.affine),
        "inverted": t1.with_array(values.max() - values),
        "noise": t1.with_array(noise),
        "pelvis": pelvis.mr["t1"],
    }


@pytest.fixture(scope="module")
def wrong(head) -> dict[str, Volume]:
    values = head.mr["t1"].array.astype(np.float32)
    inside = np.where(head.mask.array > 0, values.max() - values, values)
    scans = wrong_scans(head, make_phantom("pelvis", 3, shape=(72, 54, 24)))
    return {**scans, "inverted in the body": head.mr["t1"].with_array(inside)}


@pytest.mark.parametrize(
    ("scan", "words"),
    [
        ("contrast", "4 to 8 mm below the surface it is darker than expected"),
        ("shifted_hu", "4 to 8 mm below the surface it is darker than expected"),
        ("inverted", "the body is brighter than expected"),
        ("inverted in the body", "4 to 8 mm below the surface it is darker than expected"),
        ("noise", "% of the box around it; in training"),
        ("pelvis", "mm wide; in training"),
    ],
)
def test_a_scan_that_the_model_is_not_for_is_recognized_and_said_why(known, wrong, scan, words):
    judgement = judge(look_at(wrong[scan]), known)
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


BODY = {"width_mm": 100.0, "depth_mm": 100.0, "height_mm": 100.0, "fill": 0.5}


def looks_of(name_values: dict[str, tuple[float, ...]]) -> list[Look]:
    """One look per value, alike but for these numbers."""
    cases = zip(*name_values.values(), strict=True)
    sources = [dict(zip(name_values, values, strict=True)) for values in cases]
    return [Look((1, 1, 1), BODY, (False,) * 3, (source,)) for source in sources]


def test_the_score_is_1_where_three_numbers_lie_at_the_threshold():
    names = ("rank_4mm", "rank_8mm", "rank_16mm")
    looks = looks_of(dict.fromkeys(names, (0.4, 0.5, 0.6)))
    known = fingerprint_of(looks, [])
    spread = np.hypot(0.1, 0.05)
    student = stats.t.ppf(stats.norm.cdf(2.4), df=2 * (spread / 0.1) ** 4)
    threshold = student * spread * np.sqrt(1 + 1 / 3)
    for off in (threshold, -threshold, threshold / 2):
        look = replace(looks[1], sources=(dict.fromkeys(names, 0.5 + off),))
        assert judge(look, known).score == pytest.approx(abs(off) / threshold, abs=1e-3)
    one = replace(looks[1], sources=({**looks[1].sources[0], names[0]: 0.5 + 1.5 * threshold},))
    assert judge(one, known).score == pytest.approx(0.5, abs=1e-3)
    like_the_mean = judge(looks[1], known)
    assert like_the_mean.score == 0.1  # of the height, which may be ten times less
    assert like_the_mean.reasons == ()


def test_percentiles_that_move_together_are_no_more_than_two_reasons():
    names = ("p10", "p25", "p50", "p75", "p90")
    looks = looks_of(dict.fromkeys(names, (-0.01, 0.0, 0.01)))
    known = fingerprint_of(looks, [])
    alone, together = (
        judge(replace(looks[1], sources=(dict.fromkeys(moved, 0.6),)), known).score
        for moved in (names[:2], names)
    )
    assert together == alone > 1


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_the_fewer_cases_a_model_has_seen_the_more_a_scan_may_be_off(spread):
    scores = []
    for count in (2, 8, 60):
        values = 0.5 + spread * np.sqrt((count - 1) / count) * (-1) ** np.arange(count)
        looks = looks_of({"rank_4mm": tuple(values)})
        new = replace(looks[0], sources=({"rank_4mm": 1.0},))
        scores.append(judge(new, fingerprint_of(looks, [])).score)
    assert scores == sorted(scores)
    assert scores[0] < 0.9 * scores[-1]


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


def test_one_training_case_is_enough_to_refuse_a_pelvis_and_pass_a_head(training, head, wrong):
    known = known_from([training[0][:1]])
    assert judge(look_at(head.mr["t1"]), known).score < 1
    assert judge(look_at(wrong["pelvis"]), known).score > 1


def test_a_model_without_looks_is_judged_by_extents_alone(known, head, wrong):
    old = {key: value for key, value in known.items() if key != "looks"}
    passed = judge(look_at(head.mr["t2"]), old)
    assert (passed.is_known, passed.reasons) == (False, ())
    pelvis = judge(look_at(wrong["pelvis"]), old)
    assert not pelvis.is_known
    assert pelvis.score > 1
    assert "mm wide; in training" in pelvis.reasons[0]
    half = Volume(head.mr["t1"].array[:, :, 14:26], head.mr["t1"].affine)
    assert judge(look_at(half), old).score < 1
    assert judge(look_at(head.mr["t1"]), {}).score == 0


@pytest.fixture(scope="module")
def head_model(heads, tmp_path_factory) -> Path:
    """A small network of random weights with the fingerprint of 8 T1 heads, prepared as ever."""
    folder = tmp_path_factory.mktemp("heads")
    for number, head in enumerate(heads):
        case = folder / "cases" / f"case_{number}"
        case.mkdir(parents=True)
        for name, volume in (("mr", head.mr["t1"]), ("ct", head.ct), ("mask", head.mask)):
            write_volume(volume, case / f"{name}.nii.gz")
    everything = {"data.validation_fraction": 0, "data.test_fraction": 0}
    spacing = {"preprocessing.spacing_mm": SETTINGS.spacing_mm}
    config = load_config(overrides={**TINY_SETTINGS, **everything, **spacing})
    prepare_cases(find_cases(folder / "cases", config), folder / "prepared", config)
    seen = fingerprint(PreparedData(folder / "prepared"))
    assert seen["cases"] == 8
    generator = build_generator(config.method, in_channels=1, out_channels=1)
    model = folder / "model.safetensors"
    card = ModelCard(config, ("mr",), (-1024.0, 3071.0), fingerprint=seen)
    save_model(model, generator.state_dict(), card)
    return model


def scan_somehow(anatomy: Anatomy, number: int) -> Phantom:
    """A new subject on a scanner of its own."""
    rng = np.random.default_rng([9300, number])
    return make_phantom(
        anatomy,
        case_seed(9300, number),
        shape=(56, 62, 26),
        contrasts=("t1", "t2") if anatomy == "head" else ("t1",),
        field_strength_t=float(rng.choice([1.5, 3.0])),
        oblique_degrees=float(rng.uniform(0, 8)),
        mr_noise=float(rng.uniform(0.01, 0.05)),
        shading_strength=float(rng.uniform(0.05, 0.25)),
    )


def write_scans(number: int, folder: Path, *, wrong_too: bool) -> None:
    """A T1 head, and what the model is not for; of every fifth subject the middle half alone."""
    head = scan_somehow("head", number)
    scans = {"right": head.mr["t1"]}
    if wrong_too:
        scans |= wrong_scans(head, scan_somehow("pelvis", number))
    for name, volume in scans.items():
        path = folder / name / f"{number}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        slices = slice(6, 20) if number % 5 == 4 else slice(None)
        write_volume(Volume(volume.array[:, :, slices], volume.affine), path)


def batch(capsys, incoming: Path, output: Path, model: Path, *more: str) -> dict[str, Event]:
    """The last event of each scan in the journal of `medp2p batch`."""
    settings = ("-m", model, "--device", "cpu", "--precision", "fp32", "--min-slices", "4", *more)
    code, _, err = run(capsys, "batch", incoming, output, *settings)
    assert code == 0, err
    return last_of_each(read_events(output))


@pytest.mark.parametrize(
    ("right", "wrong"), [(12, 2), pytest.param(100, 10, marks=pytest.mark.slow)]
)
def test_batch_takes_right_scans_and_skips_what_the_model_is_not_for(
    head_model, tmp_path, capsys, right, wrong
):
    for number in range(right):
        write_scans(number, tmp_path / "in", wrong_too=number < wrong)
    last = batch(capsys, tmp_path / "in", tmp_path / "out", head_model)
    assert len(last) == right + 5 * wrong
    done = {name for name, event in last.items() if event.kind == "done"}
    taken = {name for name in done if name.startswith("right/")}
    assert len(taken) >= 0.98 * right
    assert len(done - taken) <= 0.1 * 5 * wrong, sorted(done - taken)
    for name in last.keys() - done:
        assert (last[name].kind, last[name].code) == ("skipped", "guard")
        assert last[name].details["quality"]["guard_score"] >= 1
        assert "in training" in last[name].reason
    made = {p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.glob("out/*/*.nii.gz")}
    assert made == {f"{name}.nii.gz" for name in done}


def test_the_guard_looks_at_the_body_that_is_found_with_mask_none_too(
    head_model, head, wrong, tmp_path, capsys
):
    for name, volume in {"right": head.mr["t1"], "wrong": wrong["contrast"]}.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        write_volume(volume, tmp_path / "in" / f"{name}.nii.gz")
    auto, none = (
        batch(capsys, tmp_path / "in", tmp_path / mask, head_model, "--mask", mask)
        for mask in ("auto", "none")
    )
    assert [none[name].kind for name in ("right", "wrong")] == ["done", "skipped"]
    assert none["wrong"].reason == auto["wrong"].reason
    for name in none:
        found, looked = (last[name].details["quality"]["guard_score"] for last in (auto, none))
        assert looked == found


@pytest.mark.real_data
@pytest.mark.skipif("MEDP2P_REAL_DATA" not in os.environ, reason="MEDP2P_REAL_DATA is not set")
@pytest.mark.parametrize("scan", ["pork_t2_ct/mr", "stroke_t1_t2_flair/FLAIR"])
def test_batch_skips_real_scans_that_are_no_t1_heads(head_model, tmp_path, capsys, scan):
    (tmp_path / "in").mkdir()
    shutil.copy(
        Path(os.environ["MEDP2P_REAL_DATA"]) / f"{scan}.nii.gz", tmp_path / "in/scan.nii.gz"
    )
    last = batch(capsys, tmp_path / "in", tmp_path / "out", head_model)["scan"]
    assert (last.kind, last.code) == ("skipped", "guard"), last
    assert last.reason
