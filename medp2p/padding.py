"""Values that stand for no measurement: what lies outside a scanner's field of view.

CT scanners fill the corners outside the circle of reconstruction with a number far below air
(-2000, -3024, -32768); MR that was resampled or masked may be filled with a negative number.
"""

from __future__ import annotations

import numpy as np

from medp2p.volume import Volume

LOWEST_AIR_HU = -1100.0
"""A CT number below this, exactly the same in many voxels, is no air: air is -1000 HU, stored
from -1024 HU."""

SMALLEST_PADDED_SHARE = 0.001
"""Padding fills at least this share of the voxels."""

SMALLEST_PADDING_GAP = 0.1
"""MR: padding lies below the measured values by at least this share of their range."""


def padding_value(volume: Volume, modality: str | None = None) -> float | None:
    """Find the number that fills voxels without a measurement.

    It is the lowest value if that is negative, is exact in at least `SMALLEST_PADDED_SHARE` of
    the voxels and in a voxel of the border; and is below `LOWEST_AIR_HU` in a CT, or below the
    other values by `SMALLEST_PADDING_GAP` of their range in an MR.

    Args:
        volume: An MR or CT image.
        modality: ``"MR"`` or ``"CT"``; None takes the volume's own, or CT.

    Returns:
        The value, or None if there is no padding.
    """
    array = volume.array
    lowest = array.min()
    is_mr = (modality or volume.modality) == "MR"
    if not lowest < (0 if is_mr else LOWEST_AIR_HU):
        return None
    padded = array == lowest
    at_border = any(face.any() for axis in range(3) for face in _faces(padded, axis))
    if not at_border or padded.all() or padded.mean() < SMALLEST_PADDED_SHARE:
        return None
    if is_mr:
        second, highest = float(array[~padded].min()), float(array.max())
        if second - float(lowest) < SMALLEST_PADDING_GAP * (highest - second):
            return None
    return float(lowest)


def without_padding(volume: Volume, lowest_hu: float, modality: str) -> Volume:
    """Replace padding by the lowest value that can be measured.

    Args:
        volume: An MR or CT image.
        lowest_hu: What a CT is filled with, and the lowest value that it keeps, so that
            voxels that were interpolated with padding are repaired too. MR is filled with its
            lowest other value.
        modality: ``"MR"`` or ``"CT"``.

    Returns:
        The volume itself if it has no padding.
    """
    padding = padding_value(volume, modality)
    if padding is None:
        return volume
    array = volume.array
    if modality == "CT":
        return volume.with_array(np.maximum(array, array.dtype.type(lowest_hu)))
    padded = array == padding
    return volume.with_array(np.where(padded, array[~padded].min(), array))


def _faces(voxels: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    return voxels.take(0, axis), voxels.take(-1, axis)
