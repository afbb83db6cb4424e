"""The canvas: a grid of voxels into which tissues are painted, one over the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from medp2p.phantom.shapes import (
    FAR_MM,
    Array,
    Box,
    Noise,
    Points,
    Shape,
    Union,
    smooth_minimum,
)
from medp2p.phantom.tissues import LABELS


class Canvas:
    """Tissue properties on a grid, mixed by the share that each tissue has of a voxel.

    Args:
        points: Body coordinates of every voxel centre, arrays x, y, z.
        body_to_index: (4, 4) about the inverse of ``points``.
        spacing_mm: Voxel size along i, j, k.
        table: (tissue, channel): the value of every tissue, in the order of `TISSUES`, in
            every channel to be painted.
        exact: Whether smooth noise is evaluated in every voxel, slower, so that two grids show
            the same body to the last digit; else to about 0.2 mm.

    Attributes:
        values: (channel, i, j, k), starts as background.
        labels: uint8 tissue that was painted last over the middle of a voxel.
    """

    def __init__(
        self,
        points: Points,
        body_to_index: NDArray[np.float64],
        spacing_mm: NDArray[np.floating],
        table: NDArray[np.float64],
        *,
        exact: bool = False,
    ) -> None:
        self.points = points
        self.shape = points[0].shape
        self.spacing_mm = spacing_mm
        self.voxel_mm = float(spacing_mm.mean())
        self._body_to_index = body_to_index
        self._slack_mm = 0.0
        self._exact = exact
        self._table = table.astype(np.float32)
        self.values: Array = np.empty((table.shape[1], *self.shape), np.float32)
        self.values[:] = self._table[LABELS["background"], :, None, None, None]
        self.labels: NDArray[np.uint8] = np.zeros(self.shape, np.uint8)

    def bend(self, rng: np.random.Generator, waves: Sequence[tuple[float, float]]) -> None:
        """Displace all points smoothly.

        Args:
            rng: Draws the displacement.
            waves: Pairs of a wavelength and a standard deviation in mm.
        """
        for wavelength, size in waves:
            moved = [self.smooth(Noise(rng, wavelength), wavelength) for _ in range(3)]
            for axis, by in zip(self.points, moved, strict=True):
                axis += np.float32(size) * by
            self._slack_mm += size * max(float(np.abs(by).max()) for by in moved)

    def box(self, low: NDArray[np.float64], high: NDArray[np.float64], pad_mm: float) -> Box:
        """Slices of the grid that hold all points between two corners; may be empty."""
        half = (np.asarray(high) - low) / 2 + pad_mm + self._slack_mm
        to_index = self._body_to_index[:3, :3]
        middle = to_index @ ((np.asarray(high) + low) / 2) + self._body_to_index[:3, 3]
        reach = np.abs(to_index) @ half
        start = np.floor(middle - reach).clip(0, self.shape).astype(int)
        stop = (np.ceil(middle + reach) + 1).clip(start, self.shape).astype(int)
        i, j, k = (slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        return i, j, k

    def points_in(self, box: Box) -> Points:
        """Body coordinates of the voxels of a box."""
        x, y, z = (axis[box] for axis in self.points)
        return x, y, z

    def distance(self, shape: Shape | Union, reach_mm: float = 0.0) -> tuple[Box, Array]:
        """Distance to a shape, in a box around it.

        Args:
            shape: What to measure.
            reach_mm: How far from the surface the distance must still be right.

        Returns:
            The box and the distance in it; `FAR_MM` where a union was too far to look.
        """
        union = shape if isinstance(shape, Union) else Union((shape,))
        pad = max(union.smooth_mm, reach_mm) + self.voxel_mm
        low = np.min([part.low for part in union.parts], 0)
        high = np.max([part.high for part in union.parts], 0)
        whole = self.box(low, high, pad)
        start = [s.start for s in whole]
        result = np.full([s.stop - s.start for s in whole], FAR_MM, np.float32)
        for part in union.parts:
            box = self.box(part.low, part.high, pad)
            i, j, k = (slice(s.start - o, s.stop - o) for s, o in zip(box, start, strict=True))
            if result[i, j, k].size:
                distance = part.distance(self.points_in(box))
                result[i, j, k] = smooth_minimum(result[i, j, k], distance, union.smooth_mm)
        return whole, result

    def everywhere(self, shape: Shape | Union, reach_mm: float = 0.0) -> Array:
        """Distance to a shape on the whole grid."""
        box, distance = self.distance(shape, reach_mm)
        result = np.full(self.shape, FAR_MM, np.float32)
        result[box] = distance
        return result

    def nearest_two(self, shapes: Sequence[Shape | Union], reach_mm: float) -> tuple[Array, Array]:
        """Distance on the whole grid to the nearest of several shapes and to the second nearest.

        Where they are equal is the border between two bodies that have grown until they met.
        """
        first = np.full(self.shape, FAR_MM, np.float32)
        second = np.full(self.shape, FAR_MM, np.float32)
        for shape in shapes:
            box, distance = self.distance(shape, reach_mm)
            np.minimum(second[box], np.maximum(first[box], distance), out=second[box])
            np.minimum(first[box], distance, out=first[box])
        return first, second

    def paint(
        self,
        tissue: str,
        shape: Shape | Union,
        *,
        grow_mm: float = 0.0,
        within: Sequence[Array] = (),
        rough: tuple[Noise, float] | None = None,
    ) -> None:
        """Paint a shape.

        Args:
            tissue: Name of the tissue.
            shape: Where.
            grow_mm: Widens the shape; below 0 narrows it.
            within: Distances on the whole grid to other shapes that it must not leave.
            rough: A noise that moves the surface, and by how many mm.
        """
        box, distance = self.distance(shape, max(grow_mm, 0) + (2 * rough[1] if rough else 0))
        distance = distance - np.float32(grow_mm)
        if rough and distance.size:
            distance += rough[0](self.points_in(box)) * np.float32(rough[1])
        for limit in within:
            distance = np.maximum(distance, limit[box])
        self.fill(tissue, box, distance)

    def shell(
        self,
        shape: Shape | Union,
        wall: str,
        wall_mm: float,
        content: str,
        *,
        within: Sequence[Array] = (),
    ) -> None:
        """Paint a shape with a wall of one tissue around another."""
        box, distance = self.distance(shape)
        for limit in within:
            distance = np.maximum(distance, limit[box])
        self.fill(wall, box, distance)
        self.fill(content, box, distance + np.float32(wall_mm))

    def fill(self, tissue: str, box: Box, distance: Array) -> None:
        """Paint where a distance is negative; at the surface voxels are mixed."""
        if not distance.size:
            return
        share = np.clip(0.5 - distance / np.float32(self.voxel_mm), 0, 1)
        number = LABELS[tissue]
        for channel, value in zip(self.values, self._table[number], strict=True):
            part = channel[box]
            change = value - part
            change *= share
            part += change
        np.copyto(self.labels[box], number, where=share >= 0.5)

    def fill_everywhere(self, tissue: str, distance: Array) -> None:
        """Paint where a distance on the whole grid is negative."""
        self.fill(tissue, (slice(None), slice(None), slice(None)), distance)

    def smooth(self, noise: Noise, wavelength_mm: float) -> Array:
        """Evaluate a noise of long wavelength on the whole grid, fast.

        It is computed on a coarser grid, an eighth of the wavelength apart, and
        interpolated from there, unless the canvas is exact.
        """
        if self._exact:
            return noise(self.points)
        stride = np.maximum(1, np.floor(wavelength_mm / 8 / self.spacing_mm)).astype(int)
        axes = [_knots(n, s) for n, s in zip(self.shape, stride, strict=True)]
        x, y, z = (axis[np.ix_(*axes)] for axis in self.points)
        return interpolated(noise((x, y, z)), axes, self.shape)


def interpolated(coarse: Array, axes: Sequence[NDArray[np.intp]], shape: Sequence[int]) -> Array:
    """Spline through values at some indices per axis, evaluated at all indices."""
    for knots, n in zip(axes, shape, strict=True):
        weights = (
            np.ones((n, 1))
            if len(knots) == 1
            else CubicSpline(knots, np.eye(len(knots)))(np.arange(n))
        )
        coarse = np.tensordot(
            coarse, weights.astype(np.float32), (0, 1)
        )  # the first axis goes last
    return coarse


def _knots(n: int, stride: int) -> NDArray[np.intp]:
    count = max(2, -(-(n - 1) // stride) + 1) if n > 1 else 1
    return np.unique(np.linspace(0, n - 1, count).round().astype(np.intp))


def gradient_length(values: Array, spacing_mm: NDArray[np.floating]) -> Array:
    """Slope of an image per millimetre, by central differences along its axes."""
    total = np.zeros(values.shape, np.float32)
    for axis, spacing in enumerate(spacing_mm):
        if values.shape[axis] > 1:
            total += np.gradient(values, np.float32(spacing), axis=axis) ** 2
    return np.sqrt(total)
