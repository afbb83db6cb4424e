"""`measure`: all names, its parts on the whole volume, bad values, odd shapes, time."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medp2p.errors import EvaluationError
from medp2p.metrics import (
    PICTURE_PROFILE,
    PROFILES,
    TISSUES_HU,
    Measures,
    compute_metrics,
    edge_width_ratio,
    flicker,
    measure,
    mutual_information,
    ncc,
    power_ratio,
    range_profile,
    rmse,
    tissue_depth_mm,
    tissue_overlap,
    wepl_difference,
)

Array = NDArray[Any]
Spacing = tuple[float, float, float]

CT = PROFILES["synthrad2025"]
SPACING = (1.0, 1.2, 2.5)


def head(shape: tuple[int, int, int] = (60, 64, 40), seed: int = 0) -> tuple[Array, Array, Array]:
    """Return a blurred, noisy prediction, a head with skull and airway, and its mask."""
    random = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt((x / 0.85) ** 2 + (y / 0.92) ** 2 + (z / 0.9) ** 2)
    reference = np.where(radius < 1, 40.0, -1000.0)
    reference[(radius < 0.85) & (radius > 0.7)] = 900
    reference[(np.abs(x) < 0.15) & (np.abs(y - 0.3) < 0.2) & (radius < 0.6)] = -900
    reference += random.normal(0, 20, shape)
    prediction = ndimage.gaussian_filter(reference, 1) + random.normal(0, 10, shape)
    return prediction, reference, radius < 1


@pytest.fixture(scope="module")
def found() -> Measures:
    return measure(*head(), SPACING, CT)


def test_names_are_those_of_the_documentation(found: Measures) -> None:
    expected = ["mae_hu", "bias_hu", "psnr_db", "ms_ssim_synthrad2025", "rmse_hu", "ncc"]
    expected += ["mutual_information_nats", "voxels"]
    for tissue in ("air", "soft", "bone", "dense_bone"):
        expected += [f"mae_{tissue}_hu", f"bias_{tissue}_hu", f"voxels_{tissue}"]
    for tissue in ("air", "soft", "bone", "dense_bone"):
        expected += [f"dice_{tissue}", f"hd95_{tissue}_mm", f"surface_dice_{tissue}"]
    expected += ["wepl_mae_mm", "wepl_p95_mm"]
    expected += ["flicker_sagittal", "flicker_coronal", "flicker_axial"]
    expected += ["power_ratio", "edge_width_ratio"]
    assert list(found.values) == expected
    assert all(type(value) in (float, int) for value in found.values.values())
    assert not [name for name, value in found.values.items() if not math.isfinite(value)]
    planes = ("sagittal", "coronal", "axial")
    assert set(found.curves) == {
        "mae_by_depth_mm",
        "bias_by_depth_mm",
        "mae_by_interface_distance_mm",
        *(f"{kind}_by_slice_{plane}" for kind in ("mae", "bias") for plane in planes),
        "wepl_mae_by_angle_degrees",
        "power_ratio_by_frequency_per_mm",
    }
    assert set(found.histograms) == {"joint", "bland_altman"}
    assert found.notes == []
    for curve in found.curves.values():
        assert len(curve.x) == len(curve.y) == len(curve.counts) > 1
        assert all(type(n) is int for n in curve.counts)
        assert all(type(value) is float for value in (*curve.x, *curve.y))


def test_parts_equal_those_on_the_whole_volume(found: Measures) -> None:
    prediction, reference, mask = head()
    images = (prediction, reference, mask)
    expected = compute_metrics(*images, CT)
    expected |= {"rmse_hu": rmse(*images), "ncc": ncc(*images)}
    expected["mutual_information_nats"] = mutual_information(*images, CT.value_range)
    expected |= tissue_overlap(*images, SPACING, TISSUES_HU)
    expected |= flicker(prediction - reference, reference, mask, SPACING)
    wepl = wepl_difference(*images, SPACING)
    expected |= {"wepl_mae_mm": wepl.mean_absolute_mm, "wepl_p95_mm": wepl.percentile_95_mm}
    depth = tissue_depth_mm(mask & (reference > -200), SPACING)
    expected["edge_width_ratio"] = edge_width_ratio(prediction, reference, depth, SPACING)
    close = {name: value for name, value in found.values.items() if name in expected}
    assert len(close) == len(found.values) - 1
    for name, value in close.items():
        # rays of the box don't lie where those of the whole volume do
        tolerance = 0.02 if name.startswith("wepl") else 1e-9
        assert value == pytest.approx(expected[name], rel=tolerance), name
    whole = power_ratio(prediction, reference, depth, SPACING)[0]
    assert found.values["power_ratio"] == pytest.approx(whole, rel=0.05)
    assert sum(sum(row) for row in found.histograms["joint"].counts) == mask.sum()
    for name in ("mae_by_depth_mm", "mae_by_slice_axial", "mae_by_interface_distance_mm"):
        curve = found.curves[name]
        total = sum(y * n for y, n in zip(curve.y, curve.counts, strict=True) if n)
        assert total / sum(curve.counts) == pytest.approx(found.values["mae_hu"])


def test_the_damage_of_blur_is_seen(found: Measures) -> None:
    assert found.values["power_ratio"] < 0.5
    assert found.values["edge_width_ratio"] > 1.5


def test_slices_are_counted_in_the_whole_volume(found: Measures) -> None:
    mask = head()[2]
    for axis, plane in enumerate(("sagittal", "coronal", "axial")):
        held = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        curve = found.curves[f"mae_by_slice_{plane}"]
        assert curve.x == tuple(range(held[0], held[-1] + 1))


def test_nothing_outside_the_mask_counts(found: Measures) -> None:
    prediction, reference, mask = head()
    disturbed = [np.where(mask, image, np.nan) for image in (prediction, reference)]
    again = measure(*disturbed, mask.astype(np.uint8) * 3, SPACING, CT)
    assert again.values == found.values
    assert again.curves == found.curves
    assert again.histograms == found.histograms


def test_storage_does_not_change_values(found: Measures) -> None:
    prediction, reference, mask = head()
    other = measure(np.asfortranarray(prediction), reference[::-1].copy()[::-1], mask, SPACING, CT)
    for name, value in found.values.items():
        assert other.values[name] == pytest.approx(value, rel=1e-9), name
    whole = [np.rint(image) for image in (prediction, reference)]
    integers = [image.astype(np.int16) for image in whole]
    assert measure(*integers, mask, SPACING, CT) == measure(*whole, mask, SPACING, CT)


def test_a_perfect_prediction() -> None:
    _, reference, mask = head()
    values = measure(reference, reference, mask, SPACING, CT).values
    assert values["mae_hu"] == values["wepl_mae_mm"] == values["hd95_bone_mm"] == 0
    assert values["psnr_db"] == math.inf
    for name in ("ncc", "dice_bone", "surface_dice_soft", "power_ratio", "edge_width_ratio"):
        assert values[name] == pytest.approx(1), name
    assert math.isnan(values["flicker_axial"])  # no error, no flicker to speak of


def test_a_constant_prediction() -> None:
    _, reference, mask = head()
    values = measure(np.zeros_like(reference), reference, mask, SPACING, CT).values
    assert math.isnan(values["ncc"])
    assert math.isnan(values["edge_width_ratio"])
    assert values["mutual_information_nats"] == pytest.approx(0, abs=1e-12)
    assert values["power_ratio"] == pytest.approx(0, abs=1e-12)
    assert (values["dice_bone"], values["hd95_bone_mm"]) == (0, math.inf)
    assert values["flicker_axial"] == pytest.approx(1)


def test_a_constant_reference_and_an_absent_tissue() -> None:
    prediction, reference, mask = head()
    values = measure(prediction, np.zeros_like(reference), mask, SPACING, CT)
    for name in ("mae_bone_hu", "dice_bone", "hd95_bone_mm", "surface_dice_air", "power_ratio"):
        assert math.isnan(values.values[name]), name
    assert values.values["voxels_bone"] == 0
    assert "mae_by_interface_distance_mm" not in values.curves
    assert values.values["dice_soft"] > 0


def test_classes_of_your_own() -> None:
    tissues = {"lung": (-950.0, -500.0), "rest": (-500.0, math.inf)}
    values = measure(*head(), SPACING, CT, tissues).values
    assert {"mae_lung_hu", "dice_rest", "voxels_lung"} <= set(values)
    assert not [name for name in values if "bone" in name]


def test_images_that_are_not_ct_have_a_stated_range() -> None:
    prediction, reference, mask = head()
    images = ((prediction + 1024) / 4, (reference + 1024) / 4, mask)
    found = measure(*images, SPACING, range_profile(0, 1006))
    assert list(found.values) == [
        "mae",
        "bias",
        "psnr_db",
        "ssim_range",
        "rmse",
        "ncc",
        "mutual_information_nats",
        "voxels",
        "flicker_sagittal",
        "flicker_coronal",
        "flicker_axial",
        "power_ratio",
        "edge_width_ratio",
    ]
    assert not [name for name in found.curves if "wepl" in name or "interface" in name]
    in_hu = measure(prediction, reference, mask, SPACING, PROFILES["synthrad2023"]).values
    assert found.values["rmse"] == pytest.approx(in_hu["rmse_hu"] / 4)
    assert found.values["ssim_range"] == pytest.approx(in_hu["ssim_synthrad2023"])
    assert found.values["flicker_axial"] == pytest.approx(in_hu["flicker_axial"])


@pytest.mark.parametrize(
    "shape",
    [(40, 44, 1), (1, 44, 40), (40, 1, 44), (1, 1, 40), (1, 1, 1), (2, 2, 2), (7, 5, 3)],
)
@pytest.mark.parametrize("masked", [False, True])
def test_odd_shapes(shape: tuple[int, int, int], masked: bool) -> None:
    random = np.random.default_rng(0)
    reference = random.normal(0, 400, shape)
    prediction = reference + random.normal(0, 50, shape)
    mask = None
    if masked:
        mask = random.random(shape) < 0.7
        mask[0, 0, 0] = True
    found = measure(prediction, reference, mask, (1.0, 1.0, 5.0), PROFILES["synthrad2023"])
    assert found.values["mae_hu"] > 0
    assert ("SSIM has no value" in " ".join(found.notes)) == math.isnan(
        found.values["ssim_synthrad2023"]
    )
    if 1 in shape:
        assert math.isnan(
            found.values[f"flicker_{('sagittal', 'coronal', 'axial')[shape.index(1)]}"]
        )


def test_a_picture() -> None:
    reference = np.random.default_rng(0).integers(0, 255, (60, 50, 1), np.uint8)
    found = measure(reference // 2, reference, None, (1, 1, 1), PICTURE_PROFILE)
    assert "ssim_2d_8-bit" in found.values
    assert found.values["bias"] < 0
    assert found.notes == []


def test_a_mask_too_small_for_the_structure_metric_is_noted() -> None:
    prediction, reference, mask = head()
    mask = np.zeros_like(mask)
    mask[20:24, 20:24, 20:24] = True
    found = measure(prediction, reference, mask, SPACING, CT)
    assert math.isnan(found.values["ms_ssim_synthrad2025"])
    assert "at scale" in found.notes[0]
    assert found.values["voxels"] == 64


def test_refusals() -> None:
    prediction, reference, mask = head((20, 20, 20))
    with pytest.raises(EvaluationError, match="20×20×19 voxels and the reference 20×20×20"):
        measure(prediction[..., 1:], reference, mask, SPACING, CT)
    with pytest.raises(EvaluationError, match="mask is empty"):
        measure(prediction, reference, mask & False, SPACING, CT)
    with pytest.raises(EvaluationError, match="prediction holds NaN or infinity"):
        measure(np.where(mask, np.inf, prediction), reference, mask, SPACING, CT)
    with pytest.raises(EvaluationError, match="has 2 axes"):
        measure(prediction[0], reference[0], None, SPACING, CT)
    for spacing in ((1, 1), (1, 1, 0), (1, 1, math.nan)):
        with pytest.raises(ValueError, match="three positive spacings"):
            measure(prediction, reference, mask, spacing, CT)


def test_single_precision_changes_the_structure_metric_only(found: Measures) -> None:
    again = measure(*head(), SPACING, CT, dtype=np.float32).values
    changed = [name for name, value in again.items() if value != found.values[name]]
    assert changed == ["ms_ssim_synthrad2025"]
    assert again[changed[0]] == pytest.approx(found.values[changed[0]], abs=2e-6)


def test_128_voxels_each_way_take_few_seconds_of_one_core() -> None:
    images = head((128, 128, 128))
    start = time.process_time()
    measure(*images, (1.0, 1.0, 1.0), CT)
    assert time.process_time() - start < 6  # 2 s on the machine it was made on


def test_metrics_load_neither_torch_nor_monai() -> None:
    code = (
        "import sys, numpy as np; from medp2p.metrics import *;"
        "a = np.arange(1000.0).reshape(10, 10, 10);"
        "measure(a + 1, a, a > 5, (1, 1, 1), PROFILES['synthrad2023']);"
        "sys.exit(bool({'torch', 'monai'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
