"""Errors per tissue: classes of voxels by the reference's value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from medp2p.metrics.arrays import Array, BoolArray
from medp2p.metrics.voxels import masked_bias, masked_mae

Limits = tuple[float, float]
Tissues = Mapping[str, Limits]

AIR_HU = -200.0
"""Below is air."""

TISSUES_HU: Tissues = MappingProxyType(
    {
        "air": (-math.inf, AIR_HU),
        "soft": (AIR_HU, 250.0),
        "bone": (250.0, math.inf),
        "dense_bone": (700.0, math.inf),
    }
)
"""Tissue classes by CT number in HU, for `in_tissue`. Dense bone is part of bone."""


def in_tissue(values: Array, limits: Limits) -> BoolArray:
    """Return which values belong to a class.

    A limit belongs to a class between two finite limits, not to a class that is open on one
    side: -200 and 250 HU are soft tissue, neither air nor bone.

    Args:
        values: Any shape.
        limits: Lowest and highest value, infinite for none.
    """
    low, high = limits
    if math.isfinite(low) and math.isfinite(high):
        between: BoolArray = (values >= low) & (values <= high)
        return between
    beyond: BoolArray = (values > low) & (values < high)
    return beyond


def tissue_metrics(
    predicted: Array, true: Array, tissues: Tissues = TISSUES_HU
) -> dict[str, float]:
    """Compute mean absolute error and bias where the reference is of each class.

    Args:
        predicted: Values of the prediction inside the mask, one axis.
        true: Values of the reference there.
        tissues: Limits in HU by name.

    Returns:
        ``mae_<tissue>_hu``, ``bias_<tissue>_hu`` and ``voxels_<tissue>`` of each class; NaN and
        a count of 0 for one that the reference does not hold.
    """
    values: dict[str, float] = {}
    for tissue, limits in tissues.items():
        inside = in_tissue(true, limits)
        count = int(np.count_nonzero(inside))
        pair = predicted[inside], true[inside]
        values[f"mae_{tissue}_hu"] = masked_mae(*pair) if count else math.nan
        values[f"bias_{tissue}_hu"] = masked_bias(*pair) if count else math.nan
        values[f"voxels_{tissue}"] = count
    return values
