"""Do neighbouring slices fit together? A method that works slice by slice flickers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from medp2p.metrics.arrays import BoolArray, FloatArray
from medp2p.metrics.curves import PLANES


def flicker(
    error: FloatArray, reference: FloatArray, inside: BoolArray, spacing_mm: Sequence[float]
) -> dict[str, float]:
    """Compare how fast the error changes from slice to slice with how fast it changes in them.

    With D(a) the mean absolute difference per millimetre between neighbouring voxels along axis
    a, both inside the mask, an image's ratio is D(across the slices) over the mean of D along
    the two axes in the slices. Flicker is the error's ratio over the reference's ratio, which
    takes out the grid: thicker slices change more from one to the next in any image.

    Args:
        error: Prediction minus reference, three axes in RAS order.
        reference: The true image, the same shape.
        inside: The mask, the same shape.
        spacing_mm: Of the voxels along each axis.

    Returns:
        ``flicker_<plane>`` for slices of each plane: 1 without flicker, higher with it. NaN
        along an axis of one voxel, and for an error or a reference that is constant.
    """
    changes = [_changes(image, inside, spacing_mm) for image in (error, reference)]
    return {
        f"flicker_{plane}": _quotient(*(_ratio(change, axis) for change in changes))
        for axis, plane in enumerate(PLANES)
    }


def _changes(image: FloatArray, inside: BoolArray, spacing_mm: Sequence[float]) -> list[float]:
    """Mean absolute difference per millimetre of neighbours inside the mask, along each axis."""
    changes = []
    for axis, spacing in enumerate(spacing_mm):
        first, second = (
            tuple(part if other == axis else slice(None) for other in range(3))
            for part in (slice(None, -1), slice(1, None))
        )
        both = inside[first] & inside[second]
        total = sum(
            float(np.abs(after - before)[counted].sum())
            for before, after, counted in zip(image[first], image[second], both, strict=True)
        )
        changes.append(_quotient(total, int(np.count_nonzero(both)) * spacing))
    return changes


def _ratio(changes: list[float], axis: int) -> float:
    """Change across the slices over the mean change in them."""
    others = [c for other, c in enumerate(changes) if other != axis and not math.isnan(c)]
    return _quotient(changes[axis], sum(others) / len(others)) if others else math.nan


def _quotient(above: float, below: float) -> float:
    return above / below if below else math.nan
