"""Sharpness and slice consistency against closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage, special

from medp2p.metrics import edge_width_ratio, flicker, power_ratio, tissue_depth_mm

Array = NDArray[Any]
Spacing = tuple[float, float, float]


def ball(shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside: NDArray[np.bool_] = sum(axis**2 for axis in axes) < 0.9
    return inside


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 3.0)])
@pytest.mark.parametrize("sigma_mm", [0.3, 0.6])
def test_power_of_a_blurred_image_follows_the_gaussians_transfer(
    spacing: Spacing, sigma_mm: float
) -> None:
    shape = (90, 80, 70 if spacing[2] == 1 else 30)
    reference = np.random.default_rng(0).normal(0, 100, shape)
    frequency = np.sqrt(
        sum(
            np.fft.fftfreq(n, s).reshape([-1 if a == axis else 1 for a in range(3)]) ** 2
            for axis, (n, s) in enumerate(zip(shape, spacing, strict=True))
        )
    )
    transfer = np.exp(-2 * (np.pi * sigma_mm * frequency) ** 2)
    prediction = np.fft.ifftn(np.fft.fftn(reference) * transfer).real
    depth = tissue_depth_mm(ball(shape), spacing)
    ratio, curve = power_ratio(prediction, reference, depth, spacing)
    expected = np.exp(-4 * (np.pi * sigma_mm * np.array(curve.x)) ** 2)
    np.testing.assert_allclose(curve.y[2:], expected[2:], rtol=0.1)
    assert curve.x[-1] == pytest.approx(0.5 * 39 / 40)
    assert expected[-1] < ratio < expected[10]


def test_power_of_equal_noisier_and_scaled_images() -> None:
    random = np.random.default_rng(1)
    shape, spacing = (50, 50, 40), (1.0, 1.0, 1.0)
    depth = tissue_depth_mm(ball(shape), spacing)
    reference = ndimage.gaussian_filter(random.normal(0, 1000, shape), 0.7)
    assert power_ratio(reference, reference, depth, spacing)[0] == 1
    assert power_ratio(3 * reference + 50, reference, depth, spacing)[0] == pytest.approx(9)
    noisy = reference + random.normal(0, 100, shape)
    assert power_ratio(noisy, reference, depth, spacing)[0] > 1.1


def test_the_edge_of_the_mask_does_not_count_as_detail() -> None:
    random = np.random.default_rng(2)
    shape, spacing = (64, 64, 64), (1.0, 1.0, 1.0)
    inside = ball(shape)
    texture = random.normal(0, 20, shape)
    smooth = ndimage.gaussian_filter(texture, 1)
    depth = tissue_depth_mm(inside, spacing)
    bare = power_ratio(smooth, texture, depth, spacing)[0]
    framed = (np.where(inside, image + 1000, 0) for image in (smooth, texture))
    assert power_ratio(*framed, depth, spacing)[0] == pytest.approx(bare, rel=0.05)
    assert bare < 0.02


def ramp(shape: tuple[int, int, int], spacing: Spacing, sigma_mm: float) -> Array:
    """Oblique steps between 0 and 1000, blurred by a Gaussian: exact values."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    distance = (2 * x + y + 0.2 * z) / math.sqrt(5.04)
    blurred: Array = 500 * (1 + special.erf(distance / (sigma_mm * math.sqrt(2))))
    return blurred


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (0.5, 0.7, 1.5)])
def test_edge_width_of_a_blurred_step(spacing: Spacing) -> None:
    shape = (80, 60, 24)
    depth = tissue_depth_mm(np.ones(shape, bool), spacing)
    sharp, blurred = (ramp(shape, spacing, sigma) for sigma in (0.7, 1.4))
    assert edge_width_ratio(blurred, sharp, depth, spacing) == pytest.approx(2, rel=0.06)
    assert edge_width_ratio(sharp, blurred, depth, spacing) == pytest.approx(0.5, rel=0.06)


def test_a_sharp_edge_that_is_shifted_or_weaker_is_sharp() -> None:
    shape, spacing = (60, 50, 30), (1.0, 1.0, 1.0)
    depth = tissue_depth_mm(ball(shape), spacing)
    reference = ramp(shape, spacing, 0.8)
    for prediction in (np.roll(reference, 1, axis=0), 0.4 * reference - 100):
        assert edge_width_ratio(prediction, reference, depth, spacing) == pytest.approx(1, rel=0.1)


def test_sharpness_without_enough_to_look_at() -> None:
    shape, spacing = (20, 20, 20), (1.0, 1.0, 1.0)
    image = np.random.default_rng(0).normal(size=shape)
    shallow = tissue_depth_mm(np.pad(np.ones((4, 4, 4), bool), 8), spacing)
    assert math.isnan(edge_width_ratio(image, image, shallow, spacing))
    nothing = np.zeros(shape)
    ratio, curve = power_ratio(image, image, nothing, spacing)
    assert math.isnan(ratio)
    assert curve.x == ()
    deep = tissue_depth_mm(np.ones(shape, bool), spacing)
    assert math.isnan(power_ratio(image, np.zeros(shape), deep, spacing)[0])
    assert math.isnan(edge_width_ratio(np.zeros(shape), image, deep, spacing))
    assert math.isnan(edge_width_ratio(image, np.zeros(shape), deep, spacing))


def test_depth_counts_the_faces_of_the_array_as_outside() -> None:
    depth = tissue_depth_mm(np.ones((9, 9, 1), bool), (2.0, 1.0, 5.0))
    assert depth[4, 4, 0] == 5
    assert depth[0, 4, 0] == 2
    assert tissue_depth_mm(np.ones((1, 1, 1), bool), (1, 1, 1)) == 0


def smooth_field(seed: int, spacing: Spacing, length_mm: float) -> Array:
    shape = tuple(int(100 / s) for s in spacing)
    noise = np.random.default_rng(seed).normal(size=shape)
    field: Array = ndimage.gaussian_filter(noise, [length_mm / s for s in spacing])
    return field / field.std()


def plain_ratio(image: Array) -> float:
    """Mean difference between slices over that in them, without any regard to spacing."""
    changes = [float(np.abs(np.diff(image, axis=axis)).mean()) for axis in range(3)]
    return changes[2] / ((changes[0] + changes[1]) / 2)


def test_thick_slices_are_no_flicker() -> None:
    spacing = (1.25, 1.25, 2.5)
    error, reference = (smooth_field(seed, spacing, 8.0) for seed in (0, 1))
    assert plain_ratio(error) == pytest.approx(1.98, abs=0.1)
    values = flicker(30 * error, 200 * reference, np.ones(error.shape, bool), spacing)
    assert values == pytest.approx(
        dict.fromkeys(("flicker_sagittal", "flicker_coronal", "flicker_axial"), 1), abs=0.15
    )


@pytest.mark.parametrize(("axis", "plane"), [(0, "sagittal"), (1, "coronal"), (2, "axial")])
def test_an_offset_of_every_slice_is_flicker(axis: int, plane: str) -> None:
    spacing = (1.5, 1.5, 3.0)
    error, reference = (30 * smooth_field(seed, spacing, 8.0) for seed in (0, 1))
    inside = np.ones(error.shape, bool)
    offsets = np.random.default_rng(2).normal(0, 30, error.shape[axis])
    flickering = error + offsets.reshape([-1 if a == axis else 1 for a in range(3)])
    values = flicker(flickering, reference, inside, spacing)
    assert values[f"flicker_{plane}"] > 2
    assert all(v < 1.1 for name, v in values.items() if name != f"flicker_{plane}")


def test_flicker_by_hand() -> None:
    error = np.zeros((2, 2, 3))
    error[0, 0], error[..., 1] = [1, 1, 1], 4.0
    reference = np.arange(12.0).reshape(2, 2, 3)
    inside = np.ones(error.shape, bool)
    inside[1, 1, 2] = False
    spacing = (1.0, 2.0, 4.0)

    def change(image: Array, axis: int) -> float:
        found = []
        for index in np.ndindex(image.shape):
            after = tuple(i + (a == axis) for a, i in enumerate(index))
            if after[axis] < image.shape[axis] and inside[index] and inside[after]:
                found.append(abs(image[after] - image[index]) / spacing[axis])
        return float(np.mean(found))

    def ratio(image: Array) -> float:
        return change(image, 2) / ((change(image, 0) + change(image, 1)) / 2)

    values = flicker(error, reference, inside, spacing)
    assert values["flicker_axial"] == pytest.approx(ratio(error) / ratio(reference), rel=1e-12)


def test_flicker_without_a_neighbour_or_an_error() -> None:
    reference = np.random.default_rng(0).normal(size=(8, 9, 1))
    inside = np.ones(reference.shape, bool)
    values = flicker(reference * 0.5, reference, inside, (1, 1, 5))
    assert math.isnan(values["flicker_axial"])
    assert values["flicker_sagittal"] == pytest.approx(1)
    for name, value in flicker(reference * 0, reference, inside, (1, 1, 5)).items():
        assert math.isnan(value), name
