"""Dice, HD95 and surface Dice against MONAI, closed forms and the challenge's class list."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from numpy.typing import NDArray
from scipy import ndimage

from medp2p.errors import EvaluationError
from medp2p.metrics import LABEL_SETS, TISSUES_HU, label_scores, overlap_scores, tissue_overlap
from medp2p.metrics.overlap import surface_distances_mm

pytestmark = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's

Array = NDArray[Any]
Spacing = tuple[float, float, float]


def blobs(shape: tuple[int, int, int], seed: int, level: float = 0.3) -> NDArray[np.bool_]:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.5)
    above: NDArray[np.bool_] = noise > level * noise.std()
    return above


def by_monai(
    prediction: Array, reference: Array, spacing: Spacing, tolerance: float
) -> dict[str, float]:
    pair = [
        torch.from_numpy(region[None, None].astype(np.float32))
        for region in (prediction, reference)
    ]
    hausdorff = compute_hausdorff_distance(
        *pair, include_background=True, percentile=95, spacing=spacing
    )
    surface = compute_surface_dice(*pair, [tolerance], include_background=True, spacing=spacing)
    overlap = 2 * (prediction & reference).sum() / (prediction.sum() + reference.sum())
    return {"dice": float(overlap), "hd95_mm": hausdorff.item(), "surface_dice": surface.item()}


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.25, 3.0), (0.1, 0.1, 0.3)])
@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.0])
def test_scores_equal_monai(spacing: Spacing, tolerance: float) -> None:
    for seed, level in ((0, 0.3), (1, 1.5), (2, -0.5)):
        reference = blobs((32, 27, 21), seed, level)
        prediction = np.roll(reference, 1 + seed, axis=seed) ^ blobs((32, 27, 21), seed + 9, 2.2)
        ours = overlap_scores(prediction, reference, spacing, tolerance)
        expected = by_monai(prediction, reference, spacing, tolerance)
        assert ours == pytest.approx(expected, rel=1e-6)  # MONAI's distances are float32
        assert 0 < ours["dice"] < 1


def test_distances_equal_a_distance_transform() -> None:
    spacing = (0.7, 1.3, 2.9)
    prediction, reference = blobs((30, 31, 16), 4), blobs((30, 31, 16), 5)
    surfaces = [region & ~ndimage.binary_erosion(region) for region in (prediction, reference)]
    found = surface_distances_mm(prediction, reference, spacing)
    for ours, start, end in ((found[0], *surfaces), (found[1], *surfaces[::-1])):
        expected = ndimage.distance_transform_edt(~end, sampling=spacing)[start]
        np.testing.assert_allclose(np.sort(ours), np.sort(expected), rtol=1e-12)


def test_two_boxes_that_are_three_voxels_apart() -> None:
    reference = np.zeros((40, 12, 10), bool)
    reference[5:15, 2:10, 2:8] = True
    prediction = np.roll(reference, 3, axis=0)
    scores = overlap_scores(prediction, reference, (2.0, 1.0, 1.0), 2.0)
    assert scores["dice"] == pytest.approx(0.7)
    assert scores["hd95_mm"] == pytest.approx(6.0)
    assert overlap_scores(reference, reference, (2, 1, 1)) == {
        "dice": 1,
        "hd95_mm": 0,
        "surface_dice": 1,
    }


def test_an_empty_prediction() -> None:
    reference = blobs((12, 12, 12), 0)
    scores = overlap_scores(np.zeros_like(reference), reference, (1, 1, 1))
    assert scores == {"dice": 0, "hd95_mm": math.inf, "surface_dice": 0}


@pytest.mark.parametrize("shape", [(9, 9, 1), (1, 9, 9), (9, 1, 1)])
def test_single_slices(shape: tuple[int, int, int]) -> None:
    reference = np.zeros(shape, bool)
    reference[tuple(slice(0, (n + 1) // 2) for n in shape)] = True
    prediction = np.roll(reference, 1, axis=int(np.argmax(shape)))
    scores = overlap_scores(prediction, reference, (1, 1, 5))
    assert 0 < scores["dice"] < 1
    assert 0 < scores["hd95_mm"] <= 1


def label_maps() -> tuple[Array, Array]:
    reference = np.zeros((24, 20, 16), np.uint8)
    reference[2:8, 2:8, 2:8] = 5
    reference[12:20, 2:8, 2:8] = 91
    reference[2:8, 12:18, 2:8] = 3
    prediction = np.roll(reference, 1, axis=0)
    prediction[prediction == 3] = 0
    prediction[20:23, 15:18, 10:13] = 7
    return prediction, reference


def test_labels_class_by_class() -> None:
    prediction, reference = label_maps()
    scores = label_scores(prediction, reference, None, None, (1, 1, 2))
    assert list(scores) == ["3", "5", "91"]
    assert scores["3"] == {"dice": 0, "hd95_mm": math.inf, "surface_dice": 0}
    for number in (5, 91):
        expected = by_monai(prediction == number, reference == number, (1, 1, 2), 2.0)
        assert scores[str(number)] == pytest.approx(expected, rel=1e-6)


def test_labels_of_a_named_set_and_inside_a_mask() -> None:
    prediction, reference = label_maps()
    classes = LABEL_SETS["synthrad2025_head_and_neck"]
    assert list(label_scores(prediction, reference, classes, None, (1, 1, 1))) == ["skull"]
    mask = np.ones(reference.shape, np.uint8)
    mask[15:] = 0
    skull = label_scores(prediction, reference, classes, mask, (1, 1, 1))["skull"]
    assert skull["dice"] == pytest.approx(2 * 2 / (2 + 3))
    mask[10:] = 0
    assert label_scores(prediction, reference, classes, mask, (1, 1, 1)) == {}


def test_labels_need_one_grid() -> None:
    prediction, reference = label_maps()
    with pytest.raises(EvaluationError, match="predicted labels have 23×20×16 voxels"):
        label_scores(prediction[1:], reference, None, None, (1, 1, 1))
    with pytest.raises(EvaluationError, match="mask has 24×20×15"):
        label_scores(prediction, reference, None, reference[..., 1:], (1, 1, 1))


def test_named_sets_are_those_of_the_challenge() -> None:
    trunk = {2, 3, 5, 6, *range(10, 15), *range(26, 52), 79, *range(92, 117)}
    head = {15, 16, 17, *range(26, 51), 79, 90, 91}
    assert set(LABEL_SETS["synthrad2025_thorax"]) == trunk
    assert set(LABEL_SETS["synthrad2025_abdomen"]) == trunk
    assert set(LABEL_SETS["synthrad2025_head_and_neck"]) == head
    names = LABEL_SETS["synthrad2025_thorax"]
    assert [names[n] for n in (2, 14, 26, 27, 32, 50, 51, 79, 92, 115, 116)] == [
        "kidney_right",
        "lung_lower_lobe_right",
        "vertebrae_S1",
        "vertebrae_L5",
        "vertebrae_T12",
        "vertebrae_C1",
        "heart",
        "spinal_cord",
        "rib_left_1",
        "rib_right_12",
        "sternum",
    ]
    for classes in LABEL_SETS.values():
        assert len(set(classes.values())) == len(classes)


def test_tissues_are_compared_inside_the_mask() -> None:
    random = np.random.default_rng(0)
    reference = 800 * ndimage.gaussian_filter(random.normal(size=(30, 30, 20)), 1.5) * 8
    prediction = reference + 150 * random.normal(size=reference.shape)
    inside = blobs(reference.shape, 3, -1.0)
    values = tissue_overlap(prediction, reference, inside, (1, 1, 2), TISSUES_HU)
    bone = [(image > 250) & inside for image in (prediction, reference)]
    expected = by_monai(bone[0], bone[1], (1, 1, 2), 2.0)
    assert values["dice_bone"] == pytest.approx(expected["dice"])
    assert values["hd95_bone_mm"] == pytest.approx(expected["hd95_mm"], rel=1e-6)
    assert values["surface_dice_bone"] == pytest.approx(expected["surface_dice"], rel=1e-6)
    soft = tissue_overlap(reference * 0, reference * 0, inside, (1, 1, 2), TISSUES_HU)
    assert math.isnan(soft["dice_bone"])
    assert soft["dice_soft"] == 1
    missed = tissue_overlap(reference * 0, reference, inside, (1, 1, 2), TISSUES_HU)
    assert (missed["dice_bone"], missed["hd95_bone_mm"]) == (0, math.inf)
