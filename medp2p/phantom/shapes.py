"""Smooth implicit shapes, and the canvas on which tissues are painted with them.

A shape is a function of position that is about the distance to its surface in
millimetres, negative inside. All positions are body coordinates: x to the right, y to the
front, z to the head, in millimetres of an average adult.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

Array = NDArray[np.float32]
Points = tuple[Array, Array, Array]
Vector = Sequence[float] | NDArray[np.floating]
Box = tuple[slice, slice, slice]

FAR_MM = 1000.0
"""The distance to a shape where it was not worth computing."""


@dataclass(frozen=True)
class Shape:
    """A region of space.

    Attributes:
        distance: Points, arrays x, y, z, to the distance in mm, negative inside.
        low: Lower corner of a box that encloses it.
        high: Upper corner.
    """

    distance: Callable[[Points], Array]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Union:
    """Several shapes together.

    Attributes:
        parts: The shapes.
        smooth_mm: How far apart surfaces begin to melt into one another.
    """

    parts: tuple[Shape, ...]
    smooth_mm: float = 0.0


class Noise:
    """A smooth random function of position with mean 0 and standard deviation 1.

    Periodic with six wavelengths. With ``banded`` nearly all its power lies at the one
    wavelength, so that its zero level is a labyrinth of even spacing.
    """

    _SIZE = 48
    _WAVES = 6

    def __init__(
        self, rng: np.random.Generator, wavelength_mm: float, *, banded: bool = False
    ) -> None:
        frequency = np.fft.fftfreq(self._SIZE, 1 / self._SIZE)
        half = np.arange(self._SIZE // 2 + 1)
        radius = np.sqrt(
            frequency[:, None, None] ** 2 + frequency[None, :, None] ** 2 + half[None, None] ** 2
        )
        relative = radius / self._WAVES
        power = np.exp(-(((relative - 1) / 0.22) ** 2)) if banded else np.exp(-2 * relative**2)
        power[0, 0, 0] = 0
        white = rng.standard_normal((self._SIZE,) * 3)
        lattice = np.fft.irfftn(np.fft.rfftn(white) * power, s=white.shape, axes=(0, 1, 2))
        self._lattice: Array = (lattice / lattice.std()).astype(np.float32)
        self._step_mm = wavelength_mm * self._WAVES / self._SIZE

    def __call__(self, points: Points) -> Array:
        """Evaluate at points given as arrays x, y, z in millimetres."""
        index = np.stack(points) / np.float32(self._step_mm)
        return map_coordinates(self._lattice, index, order=1, mode="grid-wrap", output=np.float32)


def ellipsoid(
    centre: Vector, radii: Vector, *, power: float = 2.0, degrees: Vector = (0, 0, 0)
) -> Shape:
    """Superellipsoid ``sum |u_i / r_i|^power < 1``; above 2 it becomes box-like.

    Args:
        centre: Body coordinates in mm.
        radii: Half axes in mm.
        power: 2 is an ellipsoid.
        degrees: Rotations about x, y and z, one after the other.
    """
    axes = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    r = np.asarray(radii, np.float32)

    def distance(points: Points) -> Array:
        u = _in_frame(points, centre, axes)
        if power == 2.0:
            return _ellipsoid_distance(u, r)
        ratio = [np.abs(u[i]) / r[i] for i in range(3)]
        level = sum(q**power for q in ratio) ** (1 / power) + np.float32(1e-6)
        slope = np.sqrt(sum(((q / level) ** (power - 1) / r[i]) ** 2 for i, q in enumerate(ratio)))
        return np.asarray((level - 1) / (slope + np.float32(1e-6)), np.float32)

    reach = np.sqrt(axes**2 @ r**2) if power == 2.0 else np.abs(axes) @ r
    return Shape(distance, np.subtract(centre, reach), np.add(centre, reach))


def bent_plate(
    centre: Vector,
    half: Vector,
    *,
    degrees: Vector = (0, 0, 0),
    bend: tuple[float, float] = (0, 0),
) -> Shape:
    """A thin sheet with an elliptic outline that may be curved.

    Args:
        centre: Body coordinates in mm.
        half: Half thickness (along x before rotation) and half widths (along y and z) in mm.
        degrees: Rotations about x, y and z, one after the other.
        bend: Rise of the sheet along x in mm at the ends of its second and third axis.
    """
    axes = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()

    def distance(points: Points) -> Array:
        u, v, w = _in_frame(points, centre, axes)
        v, w = v / np.float32(half[1]), w / np.float32(half[2])
        across = np.abs(u - np.float32(bend[0]) * v * v - np.float32(bend[1]) * w * w)
        across -= np.float32(half[0])
        level = np.sqrt(v * v + w * w) + np.float32(1e-6)
        slope = np.hypot(v / np.float32(half[1]), w / np.float32(half[2])) + np.float32(1e-9)
        along = (level - 1) * level / slope
        outside = np.hypot(np.maximum(across, 0), np.maximum(along, 0))
        return np.asarray(outside + np.minimum(np.maximum(across, along), 0), np.float32)

    reach = np.abs(axes) @ np.add(half, (abs(bend[0]) + abs(bend[1]), 0, 0))
    return Shape(distance, np.subtract(centre, reach), np.add(centre, reach))


def capsule(start: Vector, end: Vector, start_radii: Vector, end_radii: Vector) -> Shape:
    """A rod with elliptic ends; its radii along x, y, z change evenly from end to end."""
    a, b = np.asarray(start, np.float32), np.asarray(end, np.float32)
    r0, r1 = np.asarray(start_radii, np.float32), np.asarray(end_radii, np.float32)
    along = b - a
    share = along / np.float32(max(float(along @ along), 1e-6))
    is_round = np.ptp(r0) == 0 and np.ptp(r1) == 0

    def distance(points: Points) -> Array:
        p = [points[i] - a[i] for i in range(3)]
        t = p[0] * share[0] + p[1] * share[1] + p[2] * share[2]
        np.clip(t, 0, 1, out=t)
        for i in range(3):
            p[i] -= t * along[i]
        if is_round:
            length: Array = np.sqrt(p[0] * p[0] + p[1] * p[1] + p[2] * p[2])
            radius: Array = r0[0] + t * (r1 - r0)[0]
            return length - radius
        return _ellipsoid_distance(p, [r0[i] + t * (r1[i] - r0[i]) for i in range(3)])

    reach = np.maximum(r0, r1)
    return Shape(distance, np.minimum(a, b) - reach, np.maximum(a, b) + reach)


def tube(points: Sequence[Vector], radii: Sequence[float | Vector], pieces: int = 8) -> Union:
    """A tube swept along a smooth curve.

    Args:
        points: Positions on the curve.
        radii: At each of them one radius, or three along x, y and z.
        pieces: Straight pieces that stand for the curve.
    """
    knots = np.linspace(0, 1, len(points))
    at = np.linspace(0, 1, pieces + 1)
    full = np.array([np.broadcast_to(r, 3) for r in radii], float)
    centres = PchipInterpolator(knots, np.asarray(points, float))(at)
    widths = np.stack([np.interp(at, knots, full[:, i]) for i in range(3)], 1)
    steps = range(pieces)
    return Union(
        tuple(capsule(centres[i], centres[i + 1], widths[i], widths[i + 1]) for i in steps)
    )


def joined(*shapes: Shape | Union, smooth_mm: float = 0.0) -> Union:
    """All the shapes in one union."""
    parts: list[Shape] = []
    for shape in shapes:
        parts.extend(shape.parts if isinstance(shape, Union) else [shape])
    return Union(tuple(parts), smooth_mm)


def mirrored(shape: Shape) -> Shape:
    """The shape on the other side of the body."""
    flip = np.array([-1.0, 1, 1])
    low, high = shape.low * flip, shape.high * flip
    return Shape(
        lambda p: shape.distance((-p[0], p[1], p[2])), np.minimum(low, high), np.maximum(low, high)
    )


def smooth_minimum(a: Array, b: Array, width: float) -> Array:
    """The smaller of two distances, rounded where they differ by less than ``width``."""
    nearer: Array = np.minimum(a, b)
    if width <= 0:
        return nearer
    overlap: Array = np.maximum(np.float32(width) - np.abs(a - b), 0)
    nearer -= overlap * overlap / np.float32(4 * width)
    return nearer


def _ellipsoid_distance(u: Sequence[Array], radii: Any) -> Array:
    """About the distance of offsets u from an ellipsoid: its level over its slope."""
    q = [u[i] / radii[i] for i in range(3)]
    level2 = q[0] * q[0] + q[1] * q[1] + q[2] * q[2]
    for i in range(3):
        q[i] /= radii[i]
    slope2 = q[0] * q[0] + q[1] * q[1] + q[2] * q[2]
    level = np.sqrt(level2)
    result: Array = (level2 - level) / np.sqrt(slope2 + np.float32(1e-12))
    return result


def _in_frame(points: Points, centre: Vector, axes: NDArray[np.float64]) -> Points:
    p = [points[i] - np.float32(centre[i]) for i in range(3)]
    if np.array_equal(axes, np.eye(3)):
        return p[0], p[1], p[2]
    m = axes.astype(np.float32)
    u, v, w = (m[0, j] * p[0] + m[1, j] * p[1] + m[2, j] * p[2] for j in range(3))
    return u, v, w


def deviate(rng: np.random.Generator) -> float:
    """A normal deviate within two standard deviations."""
    return float(np.clip(rng.standard_normal(), -2, 2))
