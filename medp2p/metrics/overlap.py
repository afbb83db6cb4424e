"""Overlap and surface distances of regions: Dice, HD95 and surface Dice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage, spatial

from medp2p.errors import EvaluationError
from medp2p.metrics.arrays import Array, BoolArray, Box, FloatArray, sizes
from medp2p.metrics.tissues import Tissues, in_tissue

SURFACE_TOLERANCE_MM = 2.0
"""How far apart two surfaces may be and still agree, in surface Dice."""
_ROUNDING_MM = 1e-6


def overlap_scores(
    prediction: BoolArray,
    reference: BoolArray,
    spacing_mm: Sequence[float],
    tolerance_mm: float = SURFACE_TOLERANCE_MM,
) -> dict[str, float]:
    """Compare a predicted region with the true one.

    The surface of a region are its voxels with a face to a voxel that is not in it; the faces of
    the array are such faces. For each surface voxel of one region the distance to the nearest
    surface voxel of the other is taken, between centres.

    Args:
        prediction: Three axes.
        reference: The same shape, not empty.
        spacing_mm: Of the voxels along each axis.
        tolerance_mm: For the surface Dice.

    Returns:
        ``dice``: 2·|both| / (|prediction| + |reference|).
        ``hd95_mm``: the higher of the two 95th percentiles of the distances, one for each
        direction, as MONAI's ``compute_hausdorff_distance(percentile=95)``.
        ``surface_dice``: share of all surface voxels that are at most the tolerance away from
        the other surface, as MONAI's ``compute_surface_dice``.
        For an empty prediction 0, infinity and 0.
    """
    if not prediction.any():
        return {"dice": 0.0, "hd95_mm": math.inf, "surface_dice": 0.0}
    common = np.count_nonzero(prediction & reference)
    total = np.count_nonzero(prediction) + np.count_nonzero(reference)
    distances = surface_distances_mm(prediction, reference, spacing_mm)
    agree = sum(np.count_nonzero(values <= tolerance_mm + _ROUNDING_MM) for values in distances)
    return {
        "dice": float(2 * common / total),
        "hd95_mm": max(float(np.percentile(values, 95)) for values in distances),
        "surface_dice": float(agree / sum(values.size for values in distances)),
    }


def surface_distances_mm(
    prediction: BoolArray, reference: BoolArray, spacing_mm: Sequence[float]
) -> tuple[FloatArray, FloatArray]:
    """Return the distances from each surface voxel of one region to the other region's surface.

    Args:
        prediction: Three axes, not empty.
        reference: The same shape, not empty.
        spacing_mm: Of the voxels along each axis.

    Returns:
        From the prediction to the reference, and from the reference to the prediction.
    """
    first, second = (region & ~ndimage.binary_erosion(region) for region in (prediction, reference))
    return (
        _distances_mm(first, second, spacing_mm),
        _distances_mm(second, first, spacing_mm),
    )


def _distances_mm(start: BoolArray, end: BoolArray, spacing_mm: Sequence[float]) -> FloatArray:
    """Distances from the voxels of one surface to the other; those on both are 0 at once."""
    apart = start & ~end
    distances = np.zeros(np.count_nonzero(start))
    if apart.any():
        # the quickest tree to build; its answers are those of any other
        tree = spatial.KDTree(
            _positions_mm(end, spacing_mm), leafsize=20, balanced_tree=False, compact_nodes=False
        )
        distances[: np.count_nonzero(apart)], _ = tree.query(_positions_mm(apart, spacing_mm))
    return distances


def _positions_mm(voxels: BoolArray, spacing_mm: Sequence[float]) -> FloatArray:
    """Positions of the chosen voxels, shape (voxels, 3)."""
    indices: tuple[Array, ...] = np.unravel_index(np.flatnonzero(voxels), voxels.shape)
    return np.stack(indices, axis=1) * np.asarray(spacing_mm, np.float64)


def tissue_overlap(
    prediction: FloatArray,
    reference: FloatArray,
    inside: BoolArray,
    spacing_mm: Sequence[float],
    tissues: Tissues,
) -> dict[str, float]:
    """Compare where both images hold each tissue inside the mask.

    The mask cuts the tissues off, in both images at the same place.

    Args:
        prediction: CT numbers in HU, three axes.
        reference: The same shape.
        inside: The mask.
        spacing_mm: Of the voxels along each axis.
        tissues: Limits by name.

    Returns:
        ``dice_<tissue>``, ``hd95_<tissue>_mm`` and ``surface_dice_<tissue>``; NaN for a tissue
        that the reference does not hold, and as for `overlap_scores` for one that the
        prediction does not hold.
    """
    values = {}
    for tissue, limits in tissues.items():
        predicted, true = (in_tissue(image, limits) & inside for image in (prediction, reference))
        scores = dict.fromkeys(("dice", "hd95_mm", "surface_dice"), math.nan)
        if true.any():
            scores = overlap_scores(predicted, true, spacing_mm)
        values[f"dice_{tissue}"] = scores["dice"]
        values[f"hd95_{tissue}_mm"] = scores["hd95_mm"]
        values[f"surface_dice_{tissue}"] = scores["surface_dice"]
    return values


def label_scores(
    prediction_labels: Array,
    reference_labels: Array,
    classes: Mapping[int, str] | None,
    mask: Array | None,
    spacing_mm: Sequence[float],
    tolerance_mm: float = SURFACE_TOLERANCE_MM,
) -> dict[str, dict[str, float]]:
    """Compare two label maps class by class.

    Args:
        prediction_labels: Whole numbers, three axes; 0 is background.
        reference_labels: The same shape.
        classes: Name of each label that counts, such as `medp2p.metrics.LABEL_SETS` has; None
            for every label of the reference, named by its number.
        mask: The same shape, labels count where it is above 0; None is everywhere.
        spacing_mm: Of the voxels along each axis.
        tolerance_mm: For the surface Dice.

    Returns:
        The scores of `overlap_scores` by the class's name. A class that the reference does not
        hold is left out; one that only the prediction misses has Dice 0 and HD95 infinite.

    Raises:
        EvaluationError: If shapes differ.
    """
    for name, labels in (("predicted labels have", prediction_labels), ("mask has", mask)):
        if labels is not None and labels.shape != reference_labels.shape:
            raise EvaluationError(
                f"the {name} {sizes(labels.shape)} voxels and the reference's labels "
                f"{sizes(reference_labels.shape)}; give both on one grid"
            )
    predicted, true = (labels.astype(np.int32) for labels in (prediction_labels, reference_labels))
    if mask is not None:
        for labels in (predicted, true):
            labels[mask <= 0] = 0
    boxes = [ndimage.find_objects(labels) for labels in (predicted, true)]
    if classes is None:
        classes = {number: str(number) for number, box in enumerate(boxes[1], start=1) if box}
    scores = {}
    for number, name in classes.items():
        first, second = (found[number - 1] if number <= len(found) else None for found in boxes)
        if second is None:
            continue
        box = _union(first, second) if first else second
        scores[name] = overlap_scores(
            predicted[box] == number, true[box] == number, spacing_mm, tolerance_mm
        )
    return scores


def _union(first: Box, second: Box) -> Box:
    return tuple(
        slice(min(a.start, b.start), max(a.stop, b.stop))
        for a, b in zip(first, second, strict=True)
    )
