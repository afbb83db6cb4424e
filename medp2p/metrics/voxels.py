"""Metrics of the values inside the mask, voxel by voxel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from medp2p.metrics.arrays import Array, FloatArray, pieces, values_inside
from medp2p.metrics.profiles import HU_RANGE_SYNTHRAD2025


def masked_mae(prediction: Array, reference: Array, mask: Array | None = None) -> float:
    """Mean absolute error over the voxels inside the mask, without clipping.

    Args:
        prediction: Any shape.
        reference: The same shape and units.
        mask: The same shape, values above 0 are inside; None is everything.

    Returns:
        The error in the images' units.

    Raises:
        EvaluationError: As for `voxel_metrics`.
    """
    predicted, true = values_inside(prediction, reference, mask)
    return _mean(lambda p, t: np.abs(p - t), predicted, true)


def masked_bias(prediction: Array, reference: Array, mask: Array | None = None) -> float:
    """Mean error, prediction minus reference, over the voxels inside the mask.

    Arguments, units and errors are those of `masked_mae`.
    """
    predicted, true = values_inside(prediction, reference, mask)
    return _mean(lambda p, t: p - t, predicted, true)


def psnr(
    prediction: Array,
    reference: Array,
    mask: Array | None = None,
    value_range: tuple[float, float] = HU_RANGE_SYNTHRAD2025,
) -> float:
    """Peak signal-to-noise ratio over the voxels inside the mask.

    10·log10(Q² / MSE) where Q is the width of the range and both images are clipped to it.

    Args:
        prediction: Any shape.
        reference: The same shape and units.
        mask: The same shape, values above 0 are inside; None is everything.
        value_range: Lowest and highest value.

    Returns:
        Decibels; infinite if nothing differs after clipping.

    Raises:
        EvaluationError: As for `voxel_metrics`.
    """
    predicted, true = values_inside(prediction, reference, mask)
    low, high = value_range
    mean_square = _mean(
        lambda p, t: np.square(np.clip(p, low, high) - np.clip(t, low, high)), predicted, true
    )
    return 10 * math.log10((high - low) ** 2 / mean_square) if mean_square else math.inf


def rmse(prediction: Array, reference: Array, mask: Array | None = None) -> float:
    """Root of the mean squared error over the voxels inside the mask, without clipping.

    Arguments, units and errors are those of `masked_mae`.
    """
    predicted, true = values_inside(prediction, reference, mask)
    return math.sqrt(_mean(lambda p, t: np.square(p - t), predicted, true))


def ncc(prediction: Array, reference: Array, mask: Array | None = None) -> float:
    """Normalized cross-correlation: Pearson's correlation of the values inside the mask.

    Arguments and errors are those of `masked_mae`.

    Returns:
        -1 to 1; 1 if one image is a rising linear function of the other. NaN if an image is
        constant.
    """
    predicted, true = values_inside(prediction, reference, mask)
    if predicted.min() == predicted.max() or true.min() == true.max():
        return math.nan
    means = _mean(lambda p, _: p, predicted, true), _mean(lambda _, t: t, predicted, true)
    covariance = _mean(lambda p, t: (p - means[0]) * (t - means[1]), predicted, true)
    variances = (
        _mean(lambda p, _: np.square(p - means[0]), predicted, true),
        _mean(lambda _, t: np.square(t - means[1]), predicted, true),
    )
    return covariance / math.sqrt(variances[0] * variances[1])


VoxelMetric = Callable[[Array, Array, tuple[float, float]], float]

VOXEL_METRICS: Mapping[str, VoxelMetric] = MappingProxyType(
    {
        "mae": lambda prediction, reference, _: masked_mae(prediction, reference),
        "bias": lambda prediction, reference, _: masked_bias(prediction, reference),
        "psnr_db": lambda prediction, reference, value_range: psnr(
            prediction, reference, value_range=value_range
        ),
    }
)
"""Metrics of the values inside the mask: (prediction, reference, range) to a number."""


def _mean(
    compare: Callable[[FloatArray, FloatArray], FloatArray], predicted: Array, true: Array
) -> float:
    """Average ``compare(predicted, true)`` over flat arrays, in float64 and piece by piece."""
    total = sum(float(compare(p, t).sum()) for p, t in pieces(predicted, true))
    return total / predicted.size
