"""Water-equivalent path length (WEPL): how far off a proton's range would be.

A stand-in for the range error in proton therapy that needs no planning system. CT numbers become
stopping power relative to water, which is summed up along parallel beams through both images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from medp2p.metrics.arrays import Array, BoolArray, FloatArray
from medp2p.metrics.curves import Curve

STOPPING_POWER: tuple[tuple[float, float], ...] = (
    (-1024.0, 0.00324),
    (200.0, 1.20000),
    (449.0, 1.20000),
    (2000.0, 2.49066),
    (2048.0, 2.53060),
    (3071.0, 2.53060),
)
"""CT number in HU and stopping power of protons relative to water, joined by straight lines and
constant beyond the ends: the default table of matRad (Wieser et al., Med. Phys. 44 (2017)
2556-2568; ``matRad_default_protons.hlut`` of github.com/e0404/matRad at 3b963ea). A clinic's own
scanner has its own table; at 0 HU this one gives 1.0043."""

ANGLES_DEGREES = tuple(float(angle) for angle in range(0, 180, 10))
"""Gantry angles. A beam from the opposite side passes through the same voxels."""


@dataclass(frozen=True)
class WeplDifference:
    """Differences of WEPL between two images, in mm.

    Attributes:
        mean_absolute_mm: Over all rays of all angles; NaN without a ray.
        percentile_95_mm: 95th percentile of the absolute differences.
        by_angle: Mean absolute difference at each gantry angle in degrees, with the number of
            rays.
    """

    mean_absolute_mm: float
    percentile_95_mm: float
    by_angle: Curve


def relative_stopping_power(
    hu: Array, table: Sequence[tuple[float, float]] = STOPPING_POWER
) -> FloatArray:
    """Return the stopping power of protons relative to water.

    Args:
        hu: CT numbers in HU, any shape.
        table: Pairs of HU and relative stopping power with rising HU.
    """
    hounsfield, power = zip(*table, strict=True)
    values: FloatArray = np.interp(hu, hounsfield, power)
    return values


def wepl_difference(
    prediction: Array,
    reference: Array,
    inside: BoolArray,
    spacing_mm: Sequence[float],
    angles_degrees: Sequence[float] = ANGLES_DEGREES,
    table: Sequence[tuple[float, float]] = STOPPING_POWER,
) -> WeplDifference:
    """Compare the WEPL of both images along rays all the way through the mask.

    Parallel beams lie in the axial plane. At 0 degrees they run from front to back, at 90 from
    left to right (IEC 61217 for a patient on the back, head first). Rays are as far apart as the
    smaller spacing in the plane, in every axial slice; those count whose path inside the mask is
    at least as long as that. Outside the mask both images are taken as equal.

    Args:
        prediction: CT numbers in HU, three axes in RAS order.
        reference: The same shape.
        inside: The mask.
        spacing_mm: Of the voxels along each axis.
        angles_degrees: Gantry angles.
        table: As for `relative_stopping_power`.
    """
    powers = (relative_stopping_power(image[inside], table) for image in (prediction, reference))
    difference = np.zeros(inside.shape)
    difference[inside] = np.subtract(*powers)
    plane = (inside.shape[0] * inside.shape[1], inside.shape[2])
    difference, covered = difference.reshape(plane), inside.astype(np.float64).reshape(plane)
    shortest = min(spacing_mm[:2])
    found = []
    for angle in angles_degrees:
        rays = ray_lengths(inside.shape[:2], spacing_mm[:2], angle)
        hit = rays @ covered >= shortest * (1 - 1e-9)
        found.append(np.abs((rays @ difference)[hit]))
    together = np.concatenate(found)
    curve = Curve(
        tuple(angles_degrees),
        tuple(float(values.mean()) if values.size else math.nan for values in found),
        tuple(values.size for values in found),
    )
    if not together.size:
        return WeplDifference(math.nan, math.nan, curve)
    return WeplDifference(float(together.mean()), float(np.percentile(together, 95)), curve)


def ray_lengths(
    shape: Sequence[int], spacing_mm: Sequence[float], angle_degrees: float
) -> sparse.csr_array:
    """Return how many millimetres of each parallel ray belong to each pixel of a slice.

    Joseph's method (IEEE Trans. Med. Imaging 1 (1982) 192-196): a ray is followed along the axis
    that it crosses more pixels of, and its length between two columns is shared by linear
    interpolation between the two nearest pixels of the column.

    Args:
        shape: Pixels of the slice along its two axes.
        spacing_mm: Along both axes.
        angle_degrees: Gantry angle, as for `wepl_difference`.

    Returns:
        Millimetres, shape (rays, pixels), pixels in C order. Rays are as far apart as the
        smaller spacing, evenly about the middle of the slice.
    """
    angle = math.radians(angle_degrees)
    direction = (math.sin(angle), -math.cos(angle))
    across = (math.cos(angle), math.sin(angle))
    crossed = [abs(part) / spacing for part, spacing in zip(direction, spacing_mm, strict=True)]
    main = 0 if crossed[0] >= crossed[1] else 1
    side = 1 - main

    reach = sum(abs(a) * s * n / 2 for a, s, n in zip(across, spacing_mm, shape, strict=True))
    gap = min(spacing_mm)
    count = math.ceil(2 * reach / gap - 1e-9)
    offsets = gap * (np.arange(count) - (count - 1) / 2)
    columns = np.arange(shape[main])

    # a ray is offset * across + t * direction, in mm from the middle of the slice
    along = (columns - (shape[main] - 1) / 2) * spacing_mm[main]
    t = (along[None, :] - offsets[:, None] * across[main]) / direction[main]
    place = (offsets[:, None] * across[side] + t * direction[side]) / spacing_mm[side]
    place += (shape[side] - 1) / 2
    lower = np.floor(place).astype(np.intp)
    length = spacing_mm[main] / abs(direction[main])

    strides = (shape[1], 1)
    parts = []
    for pixel, weight in ((lower, lower + 1 - place), (lower + 1, place - lower)):
        valid = (pixel >= 0) & (pixel < shape[side]) & (weight > 0)
        ray, column = np.nonzero(valid)
        flat = column * strides[main] + pixel[valid] * strides[side]
        parts.append((weight[valid] * length, ray, flat))
    weights, rows, pixels = (np.concatenate(part) for part in zip(*parts, strict=True))
    size = (len(offsets), shape[0] * shape[1])
    return sparse.csr_array((weights, (rows, pixels)), shape=size)
