"""The planes of a volume in RAS order, and which way round they are shown: one convention.

The patient's right is on the left, as if seen from the feet or from the front; the face of a
sagittal plane looks to the left; front or head is up. ``viewer_planes.js`` shows the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PLANES = ("sagittal", "coronal", "axial")
"""Planes whose slices are counted along i, j and k of a volume in RAS order."""

DIRECTIONS = {
    "sagittal": "left → right",
    "coronal": "back → front",
    "axial": "feet → head",
}
"""From the first slice to the last."""


def shown_slice(array: NDArray[Any], plane: str, index: int) -> NDArray[Any]:
    """Return one slice as it is shown.

    Args:
        array: Indexed (i, j, k) towards right, front and head.
        plane: One of `PLANES`.
        index: Of the slice.

    Returns:
        Rows from the top, columns from the left.
    """
    shown: NDArray[Any] = np.take(array, index, PLANES.index(plane)).T[::-1, ::-1]
    return shown


def shown_axes(plane: str) -> tuple[int, int]:
    """Return which of i, j and k run down and across; both are shown from high to low."""
    across, down = (axis for axis in range(3) if axis != PLANES.index(plane))
    return down, across
