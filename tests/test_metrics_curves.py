"""Values, curves and histograms against closed forms, SciPy and scikit-image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage, stats
from skimage.metrics import normalized_mutual_information

from medp2p.errors import EvaluationError
from medp2p.metrics import (
    TISSUES_HU,
    bland_altman_histogram,
    depth_mm,
    error_by_depth,
    error_by_interface_distance,
    error_by_slice,
    in_tissue,
    joint_histogram,
    mutual_information,
    ncc,
    rmse,
    tissue_metrics,
)
from medp2p.metrics.curves import error_by_distance
from medp2p.metrics.interfaces import distance_mm

Array = NDArray[Any]


def pair(seed: int = 0) -> tuple[Array, Array, NDArray[np.bool_]]:
    random = np.random.default_rng(seed)
    reference = random.normal(0, 300, (20, 21, 22))
    prediction = 0.7 * reference + random.normal(40, 100, reference.shape)
    return prediction, reference, random.random(reference.shape) < 0.6


def radius(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Array:
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    found: Array = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
    return found


def test_rmse_and_ncc_equal_numpy() -> None:
    prediction, reference, mask = pair()
    p, t = prediction[mask], reference[mask]
    assert rmse(prediction, reference, mask) == pytest.approx(np.sqrt(np.mean((p - t) ** 2)))
    assert ncc(prediction, reference, mask) == pytest.approx(stats.pearsonr(p, t).statistic)
    assert ncc(reference * 3 - 7, reference) == pytest.approx(1, abs=1e-12)
    assert ncc(-reference, reference) == pytest.approx(-1, abs=1e-12)


def test_ncc_of_a_constant_has_no_value() -> None:
    _, reference, mask = pair()
    assert math.isnan(ncc(np.zeros_like(reference), reference, mask))
    assert math.isnan(ncc(reference, np.full_like(reference, 1e7 + 0.1), mask))


def test_mutual_information_equals_the_entropies() -> None:
    prediction, reference, mask = pair()
    limits = (-1024.0, 3071.0)
    counts, _, _ = np.histogram2d(
        np.clip(prediction[mask], *limits),
        np.clip(reference[mask], *limits),
        bins=64,
        range=[limits, limits],
    )
    entropies = [stats.entropy(part.ravel()) for part in (counts.sum(0), counts.sum(1), counts)]
    expected = entropies[0] + entropies[1] - entropies[2]
    found = mutual_information(prediction, reference, mask, limits, bins=64)
    assert found == pytest.approx(expected, rel=1e-10)


def test_mutual_information_agrees_with_scikit_image() -> None:
    prediction, reference, _ = pair()
    low, high = prediction.min(), prediction.max()
    reference = (reference - reference.min()) / np.ptp(reference) * (high - low) + low
    normalized = normalized_mutual_information(prediction, reference, bins=50)
    values = {
        name: mutual_information(*images, None, (low, high), bins=50)
        for name, images in {
            "both": (prediction, reference),
            "first": (prediction, prediction),  # an image tells its own entropy about itself
            "second": (reference, reference),
        }.items()
    }
    entropies = values["first"] + values["second"]
    assert entropies / (entropies - values["both"]) == pytest.approx(normalized, rel=1e-10)


def test_mutual_information_in_closed_form() -> None:
    reference = np.tile([0.0, 100, 200, 300], 250).reshape(10, 10, 10)
    assert mutual_information(7 - reference, reference, None, (-400, 400)) == pytest.approx(
        math.log(4)
    )
    assert mutual_information(np.zeros((10, 10, 10)), reference, None, (-400, 400)) == 0
    halves = np.where(reference < 150, 0.0, 300.0)
    assert mutual_information(halves, reference, None, (-400, 400)) == pytest.approx(math.log(2))


def test_limits_belong_to_the_class_between_two() -> None:
    values = np.array([-201, -200, 250, 251, 700, 701.0])
    held = {name: in_tissue(values, limits).tolist() for name, limits in TISSUES_HU.items()}
    assert held["air"] == [True, False, False, False, False, False]
    assert held["soft"] == [False, True, True, False, False, False]
    assert held["bone"] == [False, False, False, True, True, True]
    assert held["dense_bone"] == [False, False, False, False, False, True]


def test_classes_of_your_own() -> None:
    true = np.array([-700.0, -90, 30, 60])
    tissues = {"lung": (-950, -500), "muscle": (0, 100)}
    values = tissue_metrics(np.add(true, [1, 2, 3, -5]), true, tissues)
    assert values == {
        "mae_lung_hu": 1,
        "bias_lung_hu": 1,
        "voxels_lung": 1,
        "mae_muscle_hu": 4,
        "bias_muscle_hu": -1,
        "voxels_muscle": 2,
    }


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.8, 1.3, 2.9)])
@pytest.mark.parametrize("shape", [(25, 18, 21), (25, 18, 1), (1, 30, 2)])
def test_distances_equal_scipy(
    spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    region = np.random.default_rng(0).random(shape) < 0.03
    region[0, 0, 0] = True
    expected = ndimage.distance_transform_edt(~region, sampling=spacing)
    np.testing.assert_allclose(distance_mm(region, spacing), expected, atol=1e-5)


def test_depth_in_a_ball() -> None:
    shape, spacing = (61, 61, 31), (1.0, 1.0, 2.0)
    distance = radius(shape, spacing)
    inside = distance < 26
    depth = depth_mm(inside, spacing)
    assert depth is not None
    error = np.where(inside, -(26 - distance), 1e9)  # as large as the true depth
    absolute, signed = error_by_depth(error, inside, depth)
    # a voxel outside lies up to a voxel beyond the surface, so depth is up to that much more
    for x, y, count in zip(absolute.x, absolute.y, absolute.counts, strict=True):
        if count:
            assert -2 < y - x < 1
    assert sum(absolute.counts) == inside.sum()
    assert signed.y == pytest.approx([-y for y in absolute.y], nan_ok=True)
    assert len(absolute.x) == 14
    assert absolute.x[:3] == (1, 3, 5)


def test_a_body_cut_off_at_a_face_has_no_surface_there() -> None:
    inside = np.zeros((20, 9, 9), bool)
    inside[5:] = True
    depth = depth_mm(inside, (2, 1, 1))
    assert depth is not None
    assert depth[-1, 4, 4] == pytest.approx(2 * 15)
    assert depth_mm(np.ones((5, 5, 5), bool), (1, 1, 1)) is None


def test_distance_to_the_interface_of_a_ball_of_bone() -> None:
    shape, spacing = (60, 61, 40), (1.0, 1.0, 1.5)
    distance = radius(shape, spacing)
    reference = np.where(distance < 14, 900.0, 40.0)  # bone: 900 is not told from 600
    reference[distance < 6] = 600
    inside = distance < 27
    error = np.where(inside, np.abs(distance - 14), 1e9)
    curve = error_by_interface_distance(error, reference, inside, spacing, TISSUES_HU)
    assert curve is not None
    for x, y, count in zip(curve.x, curve.y, curve.counts, strict=True):
        assert count == 0 or abs(y - x) < 1.3
    assert len(curve.x) >= 13
    assert sum(curve.counts) == inside.sum()
    for only in (np.zeros(shape), np.where(inside, 0.0, -1000.0)):
        assert error_by_interface_distance(error, only, inside, spacing, TISSUES_HU) is None


def test_steps_of_a_distance() -> None:
    error = np.array([1.0, -3, 10, 99]).reshape(2, 2, 1)
    distance = np.array([0, 1.9, 6.5, 50], np.float32).reshape(2, 2, 1)
    absolute, signed = error_by_distance(error, error < 99, distance, 2.0)
    for curve in (absolute, signed):
        assert curve.x == (1, 3, 5, 7)
        assert curve.counts == (2, 0, 0, 1)
    assert absolute.y == pytest.approx((2, math.nan, math.nan, 10), nan_ok=True)
    assert signed.y == pytest.approx((-1, math.nan, math.nan, 10), nan_ok=True)


def test_errors_by_slice() -> None:
    error = np.zeros((4, 3, 5))
    inside = np.zeros(error.shape, bool)
    inside[1:3, :, 2:5] = True
    error[1, :, 2], error[2, :, 2] = -4, 2
    inside[:, :, 3] = False
    curves = error_by_slice(error, inside, (10, 20, 30))
    assert curves["mae_by_slice_sagittal"].x == (11, 12)
    assert curves["mae_by_slice_sagittal"].y == (2, 1)
    assert curves["bias_by_slice_sagittal"].y == (-2, 1)
    assert curves["mae_by_slice_axial"].x == (32, 33, 34)
    assert curves["mae_by_slice_axial"].counts == (6, 0, 6)
    assert curves["mae_by_slice_axial"].y == pytest.approx((3, math.nan, 0), nan_ok=True)
    assert curves["bias_by_slice_axial"].y == pytest.approx((-1, math.nan, 0), nan_ok=True)
    assert curves["mae_by_slice_coronal"].y == (1.5, 1.5, 1.5)


def test_histograms_equal_numpy() -> None:
    prediction, reference, mask = pair()
    p, t = prediction[mask], reference[mask]
    joint = joint_histogram(p, t, (-1500, 1500), bins=30)
    expected, _, _ = np.histogram2d(t, p, bins=30, range=[(-1500, 1500)] * 2)
    np.testing.assert_array_equal(joint.counts, expected)
    assert joint.x_edges == joint.y_edges == tuple(np.linspace(-1500, 1500, 31))
    both = bland_altman_histogram(p, t, (-1500, 1500), bins=20)
    assert (both.y_edges[0], both.y_edges[-1]) == (-375, 375)
    expected, _, _ = np.histogram2d(
        (p + t) / 2, np.clip(p - t, -375, 375), bins=20, range=[(-1500, 1500), (-375, 375)]
    )
    np.testing.assert_array_equal(both.counts, expected)


def test_values_beyond_a_histogram_count_at_its_edge() -> None:
    joint = joint_histogram(np.array([-9000, 9000, 5.0]), np.array([-9000, 9000, 5.0]), (0, 10), 4)
    assert joint.counts == ((1, 0, 0, 0), (0, 0, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))


def test_small_integers_do_not_wrap_in_histograms() -> None:
    first, second = np.array([200], np.uint8), np.array([250], np.uint8)
    both = bland_altman_histogram(first, second, (0, 400), bins=4)
    assert both.counts[2] == (0, 0, 0, 0) or sum(map(sum, both.counts)) == 1
    assert both.counts[2][0] == 1  # mean 225 of 400, difference -50 of ±50


@pytest.mark.parametrize("metric", [rmse, ncc])
def test_refusals(metric: Any) -> None:
    prediction, reference, mask = pair()
    with pytest.raises(EvaluationError, match="mask is empty"):
        metric(prediction, reference, np.zeros_like(mask))
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        metric(np.where(mask, np.nan, prediction), reference)
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        mutual_information(np.where(mask, np.nan, prediction), reference, None, (0, 1))
