"""What training data look like: measured on shapes whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import find_cases

from medp2p.checkpoint import read_card
from medp2p.fingerprint import describe, describe_parts, fingerprint, summary
from medp2p.io import read_volume
from medp2p.preprocessing import decode, prepare_mask, prepare_source
from medp2p.store import PreparedData


def cylinder(spacing=(2.0, 2.0, 4.0), size_mm=(160, 200, 120), radii_mm=(60.0, 80.0), height=80):
    """Coordinates x, y in mm about the axis, and the body, (K, J, I), with air all around."""
    x, y, z = (
        (np.arange(round(length / step)) + 0.5) * step - length / 2
        for length, step in zip(size_mm, spacing, strict=True)
    )
    z, y, x = np.meshgrid(z, y, x, indexing="ij")
    body = ((x / radii_mm[0]) ** 2 + (y / radii_mm[1]) ** 2 < 1) & (abs(z) < height / 2)
    return x, y, body


def rings(body, x, radius_mm=60.0, bright=(4, 8)):
    """Values along x: 0.5 between two depths below the surface of a round body, else about 0."""
    rng = np.random.default_rng(0)
    values = rng.normal(0, 0.01, body.shape).astype(np.float32)
    values[(radius_mm - x > bright[0]) & (radius_mm - x <= bright[1])] = 0.5
    return values[None]


def test_extents_and_fill_are_those_of_the_body():
    x, _, body = cylinder()
    look = describe(x.astype(np.float32)[None] / 100, body, (2, 2, 4))
    assert look.spacing_mm == (2, 2, 4)
    assert look.body["width_mm"] == pytest.approx(120, abs=2)
    assert look.body["depth_mm"] == pytest.approx(160, abs=2)
    assert look.body["height_mm"] == 80
    assert look.body["fill"] == pytest.approx(np.pi / 4, abs=0.02)
    assert look.is_cut == (False, False, False)


def test_a_body_that_reaches_the_border_is_cut_there():
    x, _, body = cylinder()
    part = (..., slice(15, None))
    look = describe(x.astype(np.float32)[part][None], body[part], (2, 2, 4))
    assert look.is_cut == (True, False, False)
    assert look.body["width_mm"] == pytest.approx(110, abs=2)


def test_percentiles_are_of_the_body_alone():
    x, _, body = cylinder()
    values = np.where(body, x / 60, 1.9).astype(np.float32)
    measured = describe(values[None], body, (2, 2, 4)).sources[0]
    inside = np.percentile(values[body], (10, 25, 50, 75, 90))
    for name, expected in zip(("p10", "p25", "p50", "p75", "p90"), inside, strict=True):
        assert measured[name] == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 2.0, 5.0), (1.5, 2.5, 3.0)])
def test_a_bright_layer_below_the_skin_is_seen_at_its_depth_whatever_the_voxels(spacing):
    x, y, body = cylinder(spacing, radii_mm=(60.0, 60.0))
    layer = rings(body, np.hypot(x, y))
    ranks = describe(layer, body, spacing).sources[0]
    assert ranks["rank_4mm"] > 0.75
    assert all(0.35 < ranks[name] < 0.55 for name in ("rank_8mm", "rank_16mm", "rank_32mm"))


def test_the_border_of_the_image_is_no_surface():
    x, y, body = cylinder(radii_mm=(60.0, 60.0))
    layer = rings(body, np.hypot(x, y))
    whole, cut = (describe(layer[..., n:], body[..., n:], (2, 2, 4)).sources[0] for n in (0, 35))
    for name in ("rank_4mm", "rank_8mm", "rank_16mm"):
        assert cut[name] == pytest.approx(whole[name], abs=0.05)
    everything = describe(layer, np.ones_like(body), (2, 2, 4))
    assert [name for name in everything.sources[0] if "rank" in name] == ["rank_32mm"]
    assert everything.is_cut == (True, True, True)
    assert everything.body["fill"] == 1


def test_likeness_tells_noise_from_tissue():
    x, _, body = cylinder()
    noise = np.random.default_rng(0).normal(size=body.shape).astype(np.float32)
    images = np.stack([noise, (x / 60).astype(np.float32), np.full_like(noise, 0.3)])
    noisy, smooth, constant = (s["likeness"] for s in describe(images, body, (2, 2, 4)).sources)
    assert abs(noisy) < 0.05
    assert smooth > 0.99
    assert constant == 0


def test_a_layer_too_thin_to_measure_is_left_out():
    _, _, body = cylinder(radii_mm=(10.0, 10.0))
    found = describe(np.zeros((1, *body.shape), np.float32), body, (2, 2, 4)).sources[0]
    assert "rank_4mm" in found
    assert "rank_16mm" not in found


def test_parts_are_overlapping_thirds_of_the_body_from_its_lower_end():
    _, _, body = cylinder(spacing=(2, 2, 4), height=96)
    values = np.zeros((1, *body.shape), np.float32)
    values[0] = np.arange(len(body))[:, None, None]  # the slice's number
    parts = describe_parts(values, body, (2, 2, 4))
    assert [part.body["height_mm"] for part in parts] == [32] * 5
    assert [part.sources[0]["p50"] for part in parts] == [7, 11, 15, 19, 23]
    assert all(part.is_cut == (False, False, True) for part in parts)


@pytest.mark.parametrize("slices", [1, 2, 5, 7])
def test_a_body_of_few_slices_has_as_many_parts(slices):
    x, _, body = cylinder(spacing=(2, 2, 4))
    shown = np.zeros_like(body)
    shown[[*range(10, 9 + slices), 20]] = body[12]
    parts = describe_parts(x.astype(np.float32)[None], shown, (2, 2, 4))
    assert len(parts) == 5
    highest = 4 * max(1, np.ceil(slices / 3) + 1)
    assert all(4 <= part.body["height_mm"] <= highest for part in parts)


def test_no_body_or_one_of_another_shape_is_refused():
    unit = np.zeros((1, 4, 5, 6), np.float32)
    with pytest.raises(ValueError, match="expected a body"):
        describe(unit, np.zeros((4, 5, 6), np.uint8), (1, 1, 1))
    with pytest.raises(ValueError, match="expected a body"):
        describe(unit, np.ones((6, 5, 4), np.uint8), (1, 1, 1))


def test_a_summary_has_mean_and_spread_of_every_number_and_source():
    x, _, body = cylinder()
    values = x.astype(np.float32) / 100
    looks = [describe(np.stack([values, s - values]), body, (2, 2, 4)) for s in (0.0, 0.2, 0.4)]
    known = summary(looks)
    first, second = (source["p50"] for source in known["sources"])
    assert first["mean"] == pytest.approx(0, abs=0.03)
    assert first["sd"] == 0
    assert second["mean"] == pytest.approx(0.2, abs=0.03)
    assert second["sd"] == pytest.approx(0.2, abs=1e-3)
    assert (second["high"] - second["low"]) == pytest.approx(0.4, abs=1e-3)
    assert known["body"]["width_mm"]["count"] == 3
    assert summary(looks[:1])["sources"][0]["p50"]["sd"] == 0


def test_a_model_file_carries_the_fingerprint_of_its_training_cases(trained_run, prepared_folder):
    data = PreparedData(prepared_folder)
    made = fingerprint(data)
    assert made["cases"] == len(data.split("train")) == 4
    assert made["sources"] == ["mr"]
    assert made["looks"]["sources"][0]["likeness"]["count"] == 4
    assert [p["sources"][0]["likeness"]["count"] for p in made["part_looks"]] == [4] * 5
    extents = made["looks"]["body"]["width_mm"]
    assert [e[0] for e in made["body_extent_mm"]] == [extents["low"], extents["high"]]
    card, _ = read_card(trained_run / "model.safetensors")
    assert card.fingerprint == made
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_a_scan_is_measured_as_it_was_in_training(prepared_folder, case_folder, tiny_config):
    data = PreparedData(prepared_folder)
    stored = data.split("train")[0]
    in_training = describe(decode(data.source(stored)), data.mask(stored), stored.grid.spacing_mm)
    case = next(c for c in find_cases(case_folder, tiny_config) if c.name == stored.name)
    source, mask = read_volume(case.sources["mr"]), read_volume(case.mask)
    prepared = prepare_source(source, mask.array > 0, tiny_config.preprocessing)
    body = prepare_mask(mask, prepared.grid)
    scanned = describe(decode(prepared.codes)[None], body, prepared.grid.spacing_mm)
    assert scanned == in_training
