"""WEPL against slabs, cylinders and scikit-image's Radon transform."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.transform import radon

from medp2p.metrics import STOPPING_POWER, relative_stopping_power, wepl_difference
from medp2p.metrics.wepl import ray_lengths


def test_stopping_power_is_piecewise_linear() -> None:
    hu, power = zip(*STOPPING_POWER, strict=True)
    np.testing.assert_allclose(relative_stopping_power(np.array(hu)), power, rtol=1e-12)
    assert relative_stopping_power(np.array(-3000.0)) == power[0]
    assert relative_stopping_power(np.array(9000.0)) == power[-1]
    assert relative_stopping_power(np.array(0.0)) == pytest.approx(1.0, abs=0.01)
    assert relative_stopping_power(np.array(1224.5)) == pytest.approx((1.2 + 2.49066) / 2)


@pytest.mark.parametrize("angle", [0, 17, 45, 60, 90, 133, 180])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.9, 2.5)])
def test_a_slab_is_crossed_over_its_thickness_by_the_cosine(
    angle: float, spacing: tuple[float, float]
) -> None:
    shape = (241, 201)
    slab = np.zeros(shape)
    slab[:, 90:111] = 1  # 21 pixels thick along the second axis
    lengths = ray_lengths(shape, spacing, angle) @ slab.ravel()
    along, across = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    middle = len(lengths) // 2
    if angle == 90:  # along the slab: the whole width of it
        assert lengths[middle] == pytest.approx(shape[0] * spacing[0])
        return
    expected = 21 * spacing[1] / along
    exact = shape[0] * spacing[0] * along > (shape[1] + 40) * spacing[1] * across
    if exact:
        assert lengths[middle] == pytest.approx(expected, rel=0.02)
    total = lengths.sum() * min(spacing)
    assert total == pytest.approx(slab.sum() * math.prod(spacing), rel=0.01)


def test_the_difference_of_a_slab_is_exact() -> None:
    reference = np.zeros((40, 60, 3))
    prediction = reference.copy()
    prediction[:, 20:30] = 100
    step = float(np.subtract(*relative_stopping_power(np.array([100.0, 0.0]))))
    inside = np.ones(reference.shape, bool)
    found = wepl_difference(prediction, reference, inside, (1.0, 1.5, 4.0), (0.0, 180.0))
    assert found.mean_absolute_mm == pytest.approx(10 * 1.5 * step, rel=1e-12)
    assert found.percentile_95_mm == pytest.approx(10 * 1.5 * step, rel=1e-12)
    assert found.by_angle.y == pytest.approx([10 * 1.5 * step] * 2, rel=1e-12)
    assert found.by_angle.counts == (40 * 3, 40 * 3)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 3.0), (0.7, 1.4, 3.0)])
def test_a_cylinder_gives_the_mean_chord_at_every_angle(
    spacing: tuple[float, float, float],
) -> None:
    radius = 40.0
    shape = (int(110 / spacing[0]) | 1, int(110 / spacing[1]) | 1, 2)
    x, y = ((np.arange(n) - n // 2) * s for n, s in zip(shape[:2], spacing[:2], strict=True))
    inside = np.repeat((np.hypot(x[:, None], y[None, :]) < radius)[..., None], 2, axis=2)
    reference = np.where(inside, 0.0, -1000.0)
    prediction = np.where(inside, 60.0, 900.0)  # what is outside must not count
    step = float(np.subtract(*relative_stopping_power(np.array([60.0, 0.0]))))
    found = wepl_difference(prediction, reference, inside, spacing)
    assert len(found.by_angle.x) == 18
    # parallel chords of a circle: mean πr/2; 95 % of them are shorter than 2r·sqrt(1 - 0.05²)
    assert found.by_angle.y == pytest.approx([math.pi * radius / 2 * step] * 18, rel=0.03)
    assert found.mean_absolute_mm == pytest.approx(math.pi * radius / 2 * step, rel=0.015)
    longest = 2 * radius * math.sqrt(1 - 0.05**2) * step
    assert found.percentile_95_mm == pytest.approx(longest, rel=0.02)


def test_rays_agree_with_the_radon_transform() -> None:
    size = 81
    x, y = np.meshgrid(np.arange(size) - 40.0, np.arange(size) - 40.0, indexing="ij")
    image = np.exp(-(((x - 9) / 8) ** 2) - ((y + 5) / 14) ** 2)
    image += 0.7 * np.exp(-(((x + 12) / 6) ** 2) - ((y - 8) / 6) ** 2)
    image *= np.hypot(x, y) < 40
    for angle in (0, 20, 70, 110, 155):
        ours = ray_lengths(image.shape, (1, 1), angle) @ image.ravel()
        theirs = radon(image, [angle - 90.0], circle=True)[:, 0]
        offsets = np.arange(len(ours)) - (len(ours) - 1) / 2
        mirrored = (np.interp(offsets, np.arange(-40, 41), side) for side in (theirs, theirs[::-1]))
        assert min(np.abs(ours - side).max() for side in mirrored) < 0.01 * theirs.max()


def test_gantry_angles_are_those_of_a_patient_on_the_back() -> None:
    reference = np.zeros((50, 30, 1))
    prediction = reference.copy()
    prediction[:, 15] = 500  # a wall from right to left
    inside = np.ones(reference.shape, bool)
    found = wepl_difference(prediction, reference, inside, (1, 1, 1), (0.0, 90.0))
    front, left = found.by_angle.y
    assert front > 0
    assert left == pytest.approx(50 / 30 * front)  # one of 30 rays runs along the wall, 50 mm


def test_errors_cancel_along_a_ray_and_not_between_rays() -> None:
    reference = np.zeros((30, 30, 1))
    prediction = reference.copy()
    prediction[:, 5], prediction[:, 20] = 80, -80
    inside = np.ones(reference.shape, bool)
    found = wepl_difference(prediction, reference, inside, (1, 1, 1), (0.0, 90.0))
    assert found.by_angle.y[0] == pytest.approx(0, abs=1e-9)
    assert found.by_angle.y[1] > 0


def test_rays_that_only_graze_the_mask_do_not_count() -> None:
    inside = np.zeros((20, 20, 1), bool)
    inside[8:12, 8:12] = True
    reference = np.zeros(inside.shape)
    found = wepl_difference(reference + 50, reference, inside, (1, 1, 1), (0.0,))
    assert found.by_angle.counts == (4,)
    empty = wepl_difference(reference, reference, np.zeros_like(inside), (1, 1, 1))
    assert math.isnan(empty.mean_absolute_mm)
