"""Profiles, SSIM and MS-SSIM against scikit-image and plain definitions."""

from __future__ import annotations

import math
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.metrics import structural_similarity

from medp2p.errors import ConfigError, EvaluationError
from medp2p.metrics import (
    HU_RANGE_SYNTHRAD2023,
    HU_RANGE_SYNTHRAD2025,
    MS_SSIM_WEIGHTS,
    PROFILES,
    choose_profile,
    compute_metrics,
    masked_bias,
    masked_mae,
    ms_ssim,
    psnr,
    range_profile,
    ssim,
    voxel_metrics,
)

Array = NDArray[Any]


def images(shape: tuple[int, int, int], seed: int = 0) -> tuple[Array, Array]:
    """Return a prediction and a reference in HU with smooth and sharp parts."""
    random = np.random.default_rng(seed)
    reference = 4000 * ndimage.gaussian_filter(random.normal(size=shape), 1.5)
    reference += random.normal(0, 100, shape)
    prediction = 0.8 * reference + 60 + random.normal(0, 150, shape)
    return prediction, reference


def ball(shape: tuple[int, int, int], radius: float = 0.8) -> NDArray[np.bool_]:
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside: NDArray[np.bool_] = sum(axis**2 for axis in axes) < radius**2
    return inside


def blanked(image: Array, mask: Array, value_range: tuple[float, float]) -> Array:
    low, high = value_range
    shifted: Array = np.where(mask, np.clip(image.astype(float), low, high), low) - low
    return shifted


def ssim_by_scikit_image(prediction: Array, reference: Array, mask: Array) -> float:
    low, high = HU_RANGE_SYNTHRAD2023
    _, full = structural_similarity(
        blanked(reference, mask, (low, high)),
        blanked(prediction, mask, (low, high)),
        data_range=high - low,
        full=True,
    )
    inner = (slice(3, -3),) * 3
    return float(full[inner][mask[inner]].mean())


def ms_ssim_by_definition(
    prediction: Array, reference: Array, mask: Array, *, luminance: tuple[float, ...]
) -> float:
    """MS-SSIM from its three factors on whole volumes, with one luminance weight per scale."""
    low, high = HU_RANGE_SYNTHRAD2025
    x, y = (blanked(image, mask, (low, high)) for image in (reference, prediction))
    missing = [max(0, 97 - n) for n in x.shape]
    widths = [(n // 2, n - n // 2) for n in missing]
    x, y, mask = (np.pad(image, widths, mode="edge") for image in (x, y, mask))
    c1, c2 = (0.01 * (high - low)) ** 2, (0.03 * (high - low)) ** 2
    product = 1.0
    for weight, luminance_weight in zip(MS_SSIM_WEIGHTS, luminance, strict=True):
        mean_x, mean_y, mean_xx, mean_yy, mean_xy = (
            ndimage.uniform_filter(image, 7) for image in (x, y, x * x, y * y, x * y)
        )
        var_x, var_y, covariance = (
            343 / 342 * value
            for value in (mean_xx - mean_x**2, mean_yy - mean_y**2, mean_xy - mean_x * mean_y)
        )
        roots = np.sqrt(np.maximum(var_x, 0)) * np.sqrt(np.maximum(var_y, 0))
        light = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        contrast = (2 * roots + c2) / (var_x + var_y + c2)
        structure = (covariance + c2 / 2) / (roots + c2 / 2)
        values = np.maximum(light, 0) ** luminance_weight
        values *= np.maximum(contrast, 0) ** weight * np.maximum(structure, 0) ** weight
        inner = (slice(3, -3),) * 3
        product *= float(np.clip(values[inner][mask[inner]].mean(), 0, 1))
        x, y = (ndimage.uniform_filter(image, 2, mode="constant") for image in (x, y))
        x, y, mask = (image[::2, ::2, ::2] for image in (x, y, mask))
    return product


@pytest.mark.parametrize(
    ("shape", "make_mask"),
    [
        ((40, 33, 29), lambda shape: ball(shape)),
        ((7, 7, 7), lambda shape: np.ones(shape, bool)),
        ((7, 40, 261), lambda shape: np.ones(shape, bool)),
        ((35, 70, 20), lambda shape: np.arange(shape[1])[None, :, None] + np.zeros(shape) > 40),
        ((50, 20, 31), lambda shape: np.random.default_rng(1).random(shape) < 0.02),
        ((33, 33, 33), lambda shape: ball(shape, 1.6) & ~ball(shape, 0.5)),
    ],
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_ssim_equals_scikit_image(
    shape: tuple[int, int, int],
    make_mask: Callable[[tuple[int, int, int]], NDArray[np.bool_]],
    order: Any,
) -> None:
    prediction, reference = images(shape)
    mask = make_mask(shape)
    expected = ssim_by_scikit_image(prediction, reference, mask)
    arrays = [np.array(array, order=order) for array in (prediction, reference, mask)]
    assert ssim(*arrays) == pytest.approx(expected, rel=1e-12, abs=0)


def test_no_mask_is_a_full_mask() -> None:
    prediction, reference = images((30, 31, 32))
    whole = np.ones(reference.shape, np.uint8)
    for profile in PROFILES.values():
        with_mask = compute_metrics(prediction, reference, whole, profile)
        without = compute_metrics(prediction, reference, None, profile)
        assert without == pytest.approx(with_mask, rel=1e-12)


@pytest.mark.parametrize("shape", [(97, 97, 97), (40, 61, 101), (99, 7, 1), (130, 98, 97)])
def test_ms_ssim_equals_its_three_factors(shape: tuple[int, int, int]) -> None:
    prediction, reference = images(shape, seed=3)
    mask = ball(shape, 1.2)
    expected = ms_ssim_by_definition(prediction, reference, mask, luminance=MS_SSIM_WEIGHTS)
    assert ms_ssim(prediction, reference, mask) == pytest.approx(expected, rel=1e-12, abs=0)


def test_ms_ssim_weights_luminance_at_every_scale() -> None:
    reference = images((100, 100, 100))[1]
    prediction, mask = reference + 150, ball(reference.shape)
    published = ms_ssim_by_definition(
        prediction, reference, mask, luminance=(0, 0, 0, 0, MS_SSIM_WEIGHTS[-1])
    )
    assert published - ms_ssim(prediction, reference, mask) > 0.001


def test_other_numbers_named_ssim_are_others() -> None:
    prediction, reference = images((60, 60, 40))
    low, high = HU_RANGE_SYNTHRAD2023
    x, y = (np.clip(image, low, high) - low for image in (reference, prediction))
    slices = [structural_similarity(x[..., k], y[..., k], data_range=high - low) for k in range(40)]
    gaussian = structural_similarity(
        x, y, data_range=high - low, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    ours = ssim(prediction, reference)
    assert abs(float(np.mean(slices)) - ours) > 0.005
    assert abs(float(gaussian) - ours) > 0.005
    assert abs(float(gaussian) - float(np.mean(slices))) > 0.0005


@pytest.mark.parametrize(("metric", "tolerance"), [(ssim, 2e-6), (ms_ssim, 2e-6)])
def test_single_precision_differs_little(metric: Callable[..., float], tolerance: float) -> None:
    for seed, shape in enumerate([(40, 50, 60), (100, 98, 97), (20, 20, 20)]):
        prediction, reference = images(shape, seed)
        for offset in (0.0, 1500.0):  # bright and flat is where single precision is weakest
            pair = (prediction + offset, reference / (1 + offset) + offset)
            exact = metric(*pair, ball(shape, 1.2))
            rounded = metric(*pair, ball(shape, 1.2), dtype=np.float32)
            assert rounded != exact
            assert rounded == pytest.approx(exact, abs=tolerance)


def test_integers_do_not_wrap() -> None:
    reference = np.full((10, 10, 10), 30000, np.int16)
    prediction = np.full((10, 10, 10), -30000, np.int16)
    assert masked_mae(prediction, reference) == 60000
    assert masked_bias(prediction, reference) == -60000
    unsigned = np.full((10, 10, 10), 3, np.uint8)
    assert masked_bias(unsigned, unsigned + np.uint8(2)) == -2


def test_storage_order_and_dtype_do_not_change_values() -> None:
    prediction, reference = (np.rint(image).astype(np.int16) for image in images((50, 40, 30)))
    mask = ball(reference.shape)
    expected = compute_metrics(prediction, reference, mask, PROFILES["synthrad2023"])
    others = (prediction.astype(np.float32), np.asfortranarray(reference), mask.astype(float) * 7)
    flipped = [np.ascontiguousarray(array[::-1])[::-1] for array in others]
    for arrays in (others, flipped):
        values = compute_metrics(*arrays, PROFILES["synthrad2023"])
        assert values == pytest.approx(expected, rel=1e-12)


def test_mae_is_not_clipped_and_psnr_is() -> None:
    reference = np.full((8, 8, 8), 3071.0)
    prediction = reference + 1000
    assert masked_mae(prediction, reference) == 1000
    assert psnr(prediction, reference) == math.inf
    assert psnr(reference - 40.95, reference) == pytest.approx(40.0, abs=1e-9)


def test_profiles_differ_in_psnr_by_their_ranges() -> None:
    reference = np.zeros((9, 9, 9))
    first, second = (
        voxel_metrics(reference + 50, reference, None, profile)["psnr_db"]
        for profile in (PROFILES["synthrad2023"], PROFILES["synthrad2025"])
    )
    assert second - first == pytest.approx(20 * math.log10(4095 / 4024), abs=1e-12)


def test_voxels_outside_the_mask_never_count() -> None:
    prediction, reference = images((100, 98, 40))
    mask = ball(reference.shape)
    disturbed = np.where(mask, prediction, np.nan)
    for profile in PROFILES.values():
        expected = compute_metrics(prediction, reference, mask, profile)
        assert compute_metrics(disturbed, reference, mask, profile) == expected


def test_tissues_are_those_of_the_reference() -> None:
    reference = np.array([-1000, -201, -200, 0, 250, 251, 1000, 5000.0]).reshape(2, 2, 2)
    error = np.array([10, -30, 1, 2, 3, 100, -50, 7.0]).reshape(2, 2, 2)
    mask = np.ones((2, 2, 2))
    mask[1, 1, 1] = 0
    values = voxel_metrics(reference + error, reference, mask, PROFILES["synthrad2025"])
    assert values["voxels"] == 7
    assert (values["voxels_air"], values["mae_air_hu"], values["bias_air_hu"]) == (2, 20, -10)
    assert (values["voxels_soft"], values["mae_soft_hu"], values["bias_soft_hu"]) == (3, 2, 2)
    assert (values["voxels_bone"], values["mae_bone_hu"], values["bias_bone_hu"]) == (2, 75, 25)


def test_an_absent_tissue_has_no_value_and_a_count_of_zero() -> None:
    reference = np.zeros((3, 3, 3))
    values = voxel_metrics(reference + 5, reference, None, PROFILES["synthrad2023"])
    assert values["voxels_bone"] == 0
    assert math.isnan(values["mae_bone_hu"])
    assert math.isnan(values["bias_bone_hu"])
    assert values["mae_soft_hu"] == values["mae_hu"] == 5


def test_range_profile_has_no_tissues_and_scales_with_its_range() -> None:
    prediction, reference = images((20, 20, 20))
    ct = compute_metrics(prediction, reference, None, PROFILES["synthrad2023"])
    scaled = compute_metrics(
        (prediction + 1024) / 8, (reference + 1024) / 8, None, range_profile(0, 503)
    )
    assert list(scaled) == ["mae", "bias", "psnr_db", "voxels", "ssim_range"]
    assert scaled["mae"] == pytest.approx(ct["mae_hu"] / 8)
    assert scaled["psnr_db"] == pytest.approx(ct["psnr_db"])
    assert scaled["ssim_range"] == pytest.approx(ct["ssim_synthrad2023"])


def test_identical_images() -> None:
    reference = images((20, 20, 20))[1]
    values = compute_metrics(reference, reference, None, PROFILES["synthrad2025"])
    assert values["mae_hu"] == 0
    assert values["psnr_db"] == math.inf
    assert values["ms_ssim_synthrad2025"] == pytest.approx(1, abs=1e-12)


def test_no_value_is_called_plain_ssim() -> None:
    prediction, reference = images((20, 20, 20))
    for profile in (*PROFILES.values(), range_profile(0, 1)):
        values = compute_metrics(prediction, reference, None, profile)
        assert "ssim" not in values
        assert profile.structure_key in values
        assert profile.mae_key in values
        assert profile.bias_key in values


@pytest.mark.parametrize("metric", [masked_mae, masked_bias, psnr, ssim, ms_ssim])
def test_refusals(metric: Callable[..., float]) -> None:
    prediction, reference = images((20, 20, 20))
    mask = ball(reference.shape)
    with pytest.raises(EvaluationError, match="20×20×19 voxels and the reference 20×20×20"):
        metric(prediction[..., 1:], reference, mask)
    with pytest.raises(EvaluationError, match="mask has 20×20×19 voxels"):
        metric(prediction, reference, mask[..., 1:])
    with pytest.raises(EvaluationError, match="mask is empty"):
        metric(prediction, reference, np.zeros_like(mask))
    for bad in (np.nan, np.inf):
        spoiled = prediction.copy()
        spoiled[10, 10, 10:12] = bad
        with pytest.raises(EvaluationError, match="prediction holds NaN or infinity in 2 voxels"):
            metric(spoiled, reference, mask)
        with pytest.raises(EvaluationError, match="reference holds NaN"):
            metric(prediction, spoiled, mask)


def test_ssim_needs_mask_away_from_the_faces() -> None:
    prediction, reference = images((20, 20, 20))
    mask = np.zeros(reference.shape, bool)
    mask[:3] = True
    with pytest.raises(EvaluationError, match="no voxel of the mask lies 3 voxels or more"):
        ssim(prediction, reference, mask)
    with pytest.raises(EvaluationError, match="6×20×20"):
        ssim(prediction[:6], reference[:6])


@pytest.mark.parametrize(
    ("middle", "half", "scale"), [(48, 20, None), (30, 8, 5), (20, 3, 4), (2, 2, 2), (2, 1, 1)]
)
def test_ms_ssim_says_which_scale_ran_out_of_mask(
    middle: int, half: int, scale: int | None
) -> None:
    prediction, reference = images((97, 97, 97))
    mask = np.zeros(reference.shape, bool)
    mask[(slice(middle - half, middle + half),) * 3] = True
    if scale is None:
        assert 0 < ms_ssim(prediction, reference, mask) < 1
        return
    with pytest.raises(EvaluationError, match=f"at scale {scale} of 5"):
        ms_ssim(prediction, reference, mask)


def test_choose_profile() -> None:
    assert choose_profile(None) is PROFILES["synthrad2025"]
    assert choose_profile("synthrad2023") is PROFILES["synthrad2023"]
    assert choose_profile(None, (0, 500)) == choose_profile("range", (0, 500))
    with pytest.raises(ConfigError, match="synthrad2023, synthrad2025, range"):
        choose_profile("synthrad2024")
    with pytest.raises(ConfigError, match="needs --range"):
        choose_profile("range")
    with pytest.raises(ConfigError, match="own range"):
        choose_profile("synthrad2025", (0, 500))
    with pytest.raises(ConfigError, match="rise"):
        choose_profile("range", (5, 5))
    with pytest.raises(ValueError, match="rise"):
        range_profile(1, math.inf)


@pytest.mark.parametrize("metric", [ssim, ms_ssim])
def test_memory_stays_far_below_a_copy_in_float64(metric: Callable[..., float]) -> None:
    shape = (160, 160, 120)
    reference = np.zeros(shape, np.int16)
    reference[40:120, 40:120, 30:90] = 900
    prediction = reference + np.int16(30)
    mask = ball(shape)
    tracemalloc.start()
    metric(prediction, reference, mask)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < reference.size * 8


def test_ssim_is_faster_than_the_whole_map() -> None:
    prediction, reference = images((128, 128, 90))
    whole = np.ones(reference.shape, bool)
    seconds: dict[str, float] = {"ours": math.inf, "map": math.inf}
    for _ in range(3):
        for side, metric in (("ours", ssim), ("map", ssim_by_scikit_image)):
            start = time.perf_counter()
            metric(prediction, reference, whole)
            seconds[side] = min(seconds[side], time.perf_counter() - start)
    assert seconds["ours"] < seconds["map"]
