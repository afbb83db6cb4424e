"""Small operations on arrays that several detectors need."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Image = NDArray[np.float32]
Vector = tuple[float, float, float]
Place = tuple[int, int, int]

SAMPLES = 60_000
"""About as many voxels are looked at where a mean over the body will do."""


def finite(image: Array) -> Image:
    """As float32, 0 for what is not finite."""
    floats = np.ascontiguousarray(image, np.float32)
    return np.where(np.isfinite(floats), floats, np.float32(0))


def grown(region: Mask, mm: float, spacing_mm: Vector) -> Mask:
    """The region and the box of so many mm to each side, at least a voxel, around its voxels."""
    near = region.view(np.uint8)
    for axis, spacing in enumerate(spacing_mm):
        near = ndimage.maximum_filter1d(near, 2 * max(1, round(mm / spacing)) + 1, axis)
    return near.view(np.bool_)


def spread(values: Array) -> float:
    """Range of the values without the outermost percent on both ends."""
    low, high = np.percentile(values[:: sample_step(values.size)], (1, 99))
    return float(high - low)


def percentiles(values: Array) -> NDArray[np.float64]:
    """The 2nd, 6th, and so on to the 98th."""
    found: NDArray[np.float64] = np.percentile(
        values[:: sample_step(values.size)], np.arange(2, 99, 4)
    )
    return found


def sample_step(size: int) -> int:
    """Step that leaves about `SAMPLES` of so many voxels."""
    return max(1, size // SAMPLES)


def other_axes(axis: int) -> tuple[int, int]:
    """The two of three axes that lie in a slice across this one."""
    first, second = (a for a in range(3) if a != axis)
    return first, second


def slab(axis: int, numbers: int | Array) -> tuple[Any, ...]:
    """Index of the slices with these numbers across an axis."""
    index: list[Any] = [slice(None)] * 3
    index[axis] = numbers
    return tuple(index)


def correlation(first: Array, second: Array) -> float:
    """Pearson's correlation of a sample of two vectors; 0 if one is constant."""
    step = sample_step(first.size)
    x, y = (np.asarray(image[::step], np.float64) for image in (first, second))
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale else 0.0
