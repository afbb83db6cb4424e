"""Damage done on purpose to a predicted CT, to see whether evaluation notices.

Arrays are in RAS order and HU. Every function returns a new float32 array.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[Any]
Prediction = NDArray[np.float32]

AIR_HU = -1024.0
SOFT_TISSUE_HU = 40.0
BONE_HU = 250.0


def shifted(prediction: Array, voxels: tuple[float, float, float]) -> Prediction:
    """Displace everything by a vector in voxels; whole voxels keep every value as it is."""
    order = 0 if all(float(v).is_integer() for v in voxels) else 3
    low, high = float(prediction.min()), float(prediction.max())
    moved = ndimage.shift(_floats(prediction), voxels, order=order, mode="nearest")
    return _floats(moved.clip(low, high))


def blurred(prediction: Array, sigma_voxels: float | tuple[float, float, float]) -> Prediction:
    """Convolve with a Gaussian."""
    return _floats(ndimage.gaussian_filter(_floats(prediction), sigma_voxels))


def flickering(
    prediction: Array, mask: Array, sd_hu: float, axis: int = 2, seed: int = 0
) -> Prediction:
    """Add to every slice across ``axis`` an offset of its own, inside the mask."""
    shape = [1, 1, 1]
    shape[axis] = prediction.shape[axis]
    offsets = np.random.default_rng(seed).normal(0, sd_hu, shape)
    return _floats(np.where(mask, prediction + offsets, prediction))


def biased(prediction: Array, hu: float, low: float = BONE_HU, high: float = np.inf) -> Prediction:
    """Add HU to every voxel whose predicted value lies from ``low`` to ``high``."""
    inside = (prediction >= low) & (prediction <= high)
    return _floats(prediction + hu * inside)


def biased_where(prediction: Array, where: Array, hu: float) -> Prediction:
    """Add HU to the voxels of a mask, such as those where the reference is bone."""
    return _floats(prediction + hu * where)


def mirrored(prediction: Array, axis: int = 0) -> Prediction:
    """Turn the image over: left to right for axis 0."""
    return _floats(np.flip(prediction, axis))


def cropped(
    prediction: Array, slices: int, axis: int = 2, *, low_side: bool = False, value: float = AIR_HU
) -> Prediction:
    """Overwrite the outermost slices with one value: by default those at the head's top."""
    damaged = _floats(prediction).copy()
    chosen = slice(0, slices) if low_side else slice(prediction.shape[axis] - slices, None)
    index = [slice(None)] * 3
    index[axis] = chosen
    damaged[tuple(index)] = value
    return damaged


def cropped_body(
    prediction: Array,
    mask: Array,
    mm: float,
    spacing_mm: Array,
    axis: int = 2,
    value: float = AIR_HU,
) -> Prediction:
    """Crop so that the outermost ``mm`` of the body is lost on the high side of the axis."""
    others = tuple(a for a in range(3) if a != axis)
    last = int(np.flatnonzero(mask.any(axis=others))[-1])
    lost = max(1, round(mm / float(spacing_mm[axis])))
    return cropped(prediction, mask.shape[axis] - 1 - last + lost, axis, value=value)


def ball(shape: tuple[int, ...], centre: Array, radius_mm: float, spacing_mm: Array) -> Array:
    """Voxels nearer to a voxel than the radius."""
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    parts = zip(axes, centre, spacing_mm, strict=True)
    squared = sum(((axis - c) * s) ** 2 for axis, c, s in parts)
    inside: Array = squared <= radius_mm**2
    return inside


def skull_voxel(prediction: Array, reference: Array, mask: Array, seed: int = 0) -> Array:
    """Index of a random voxel in the upper half of the body that is bone in both images."""
    slices = np.flatnonzero(mask.any(axis=(0, 1)))
    bone = (prediction > BONE_HU) & (reference > BONE_HU) & (mask > 0)
    bone[:, :, : int(slices.mean())] = False
    candidates = np.argwhere(bone)
    chosen: Array = candidates[np.random.default_rng(seed).integers(len(candidates))]
    return chosen


def with_hole(
    prediction: Array,
    centre: Array,
    radius_mm: float,
    spacing_mm: Array,
    value: float = SOFT_TISSUE_HU,
) -> Prediction:
    """Replace the bone within a ball by soft tissue."""
    lost = ball(prediction.shape, centre, radius_mm, spacing_mm) & (prediction > value)
    return _floats(np.where(lost, value, prediction))


def with_blob(
    prediction: Array, centre: Array, radius_mm: float, spacing_mm: Array, hu: float
) -> Prediction:
    """Add HU within a ball."""
    return _floats(prediction + hu * ball(prediction.shape, centre, radius_mm, spacing_mm))


def saturated(prediction: Array, high: float) -> Prediction:
    """Clip from above."""
    return _floats(np.minimum(prediction, high))


def rescaled(prediction: Array, slope: float, offset: float = 0.0) -> Prediction:
    """Change the units."""
    return _floats(prediction * slope + offset)


def _floats(array: Array) -> Prediction:
    return np.asarray(array, np.float32)
