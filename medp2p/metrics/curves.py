"""Errors against a position, and histograms of two images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from medp2p.metrics.arrays import Array, BoolArray, DistanceArray, FloatArray, pieces

BINS = 100
"""Columns and rows of a histogram."""
DIFFERENCE_SHARE = 0.125
"""Differences of a Bland-Altman histogram go up to this share of the range: ±512 for 4095 HU."""
PLANES = ("sagittal", "coronal", "axial")
"""The plane of a slice across each axis of an array in RAS order."""


@dataclass(frozen=True)
class Curve:
    """A value against a position, such as the mean absolute error against depth.

    Attributes:
        x: Positions, in the unit that the curve's name ends with (``_mm``, ``_degrees``).
        y: The value there; NaN where nothing was counted.
        counts: Voxels (or rays) behind each value.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Histogram2D:
    """Counts of voxels over two quantities.

    Attributes:
        x_edges: Borders of the columns, ``n + 1`` rising numbers.
        y_edges: Borders of the rows, ``m + 1`` rising numbers.
        counts: ``n`` tuples of ``m`` counts each: ``counts[x][y]``.
    """

    x_edges: tuple[float, ...]
    y_edges: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]


def mean_curve(x: Sequence[float] | Array, sums: Array, counts: Array) -> Curve:
    """Return the curve of ``sums / counts``, NaN where nothing was counted."""
    means = np.full(len(sums), math.nan)
    np.divide(sums, counts, out=means, where=np.asarray(counts) > 0)
    return Curve(
        tuple(float(value) for value in x),
        tuple(means.tolist()),
        tuple(int(count) for count in counts),
    )


def error_by_slice(
    error: FloatArray, inside: BoolArray, start: Sequence[int] = (0, 0, 0)
) -> dict[str, Curve]:
    """Average the error over the mask in every slice across each axis.

    Args:
        error: Prediction minus reference, three axes in RAS order; 0 outside the mask.
        inside: The mask, the same shape, not empty.
        start: Index of the first voxel in the whole volume.

    Returns:
        ``mae_by_slice_<plane>`` and ``bias_by_slice_<plane>`` for each of `PLANES`; x is the
        index of the slice in the volume, from the mask's first slice to its last.
    """
    magnitude = np.abs(error)
    curves = {}
    for axis, plane in enumerate(PLANES):
        others = tuple(other for other in range(3) if other != axis)
        counts = np.count_nonzero(inside, axis=others)
        held = np.flatnonzero(counts)
        span = slice(held[0], held[-1] + 1)
        places = np.arange(error.shape[axis])[span] + start[axis]
        for name, values in (("mae", magnitude), ("bias", error)):
            sums = values.sum(axis=others)[span]
            curves[f"{name}_by_slice_{plane}"] = mean_curve(places, sums, counts[span])
    return curves


def error_by_distance(
    error: FloatArray, inside: BoolArray, distance_mm: DistanceArray, step_mm: float
) -> tuple[Curve, Curve]:
    """Average the absolute error and the error over steps of a distance.

    The first step goes from 0 to below ``step_mm``, and so on.

    Args:
        error: Prediction minus reference, three axes.
        inside: The mask, the same shape, not empty.
        distance_mm: The distance of each voxel, the same shape, not negative.
        step_mm: Width of a step.

    Returns:
        Mean absolute error and mean error of each step against its middle, in mm.
    """
    farthest = float(distance_mm.max(where=inside, initial=0))
    steps = int(farthest / step_mm) + 1
    counts, absolute, signed = np.zeros((3, steps))
    for errors, distances, counted in zip(error, distance_mm, inside, strict=True):
        places = (distances[counted].astype(np.float64) / step_mm).astype(np.intp)
        values = errors[counted]
        counts += np.bincount(places, minlength=steps)
        absolute += np.bincount(places, weights=np.abs(values), minlength=steps)
        signed += np.bincount(places, weights=values, minlength=steps)
    middles = (np.arange(steps) + 0.5) * step_mm
    return mean_curve(middles, absolute, counts), mean_curve(middles, signed, counts)


def joint_histogram(
    predicted: Array, true: Array, value_range: tuple[float, float], bins: int = BINS
) -> Histogram2D:
    """Count pairs of values: x is the reference, y the prediction.

    Args:
        predicted: Values of the prediction inside the mask, one axis.
        true: Values of the reference there.
        value_range: Lowest and highest value; what lies beyond counts in the outermost bin.
        bins: Number of columns and of rows, equally wide.
    """
    pairs = ((t, p) for p, t in pieces(predicted, true))
    return _histogram(pairs, value_range, value_range, bins)


def bland_altman_histogram(
    predicted: Array, true: Array, value_range: tuple[float, float], bins: int = BINS
) -> Histogram2D:
    """Count differences against means (Bland and Altman, Lancet 1986, 327:307-310).

    Args:
        predicted: Values of the prediction inside the mask, one axis.
        true: Values of the reference there.
        value_range: Of x, the mean of both images. y, prediction minus reference, goes up to
            `DIFFERENCE_SHARE` of its width either way. What lies beyond counts in the
            outermost bin.
        bins: Number of columns and of rows, equally wide.
    """
    limit = DIFFERENCE_SHARE * (value_range[1] - value_range[0])
    pairs = (((p + t) / 2, p - t) for p, t in pieces(predicted, true))
    return _histogram(pairs, value_range, (-limit, limit), bins)


def joint_counts(
    pairs: Iterable[tuple[FloatArray, FloatArray]],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    bins: int,
) -> Array:
    """Count pairs of values in equally wide bins; values beyond a range go to its last bin.

    Args:
        pairs: Flat arrays of x and of y, piece by piece.
        x_range: Lowest and highest x.
        y_range: Lowest and highest y.
        bins: Number of bins of each.

    Returns:
        Integers, shape (bins, bins), indexed by x and y.
    """
    counts = np.zeros(bins * bins, np.intp)
    for x, y in pairs:
        places = _bin_of(x, x_range, bins) * bins + _bin_of(y, y_range, bins)
        counts += np.bincount(places, minlength=bins * bins)
    return counts.reshape(bins, bins)


def _bin_of(values: FloatArray, value_range: tuple[float, float], bins: int) -> Array:
    low, high = value_range
    places = (values - low) * (bins / (high - low))
    return np.clip(places, 0, bins - 1, out=places).astype(np.intp)


def _histogram(
    pairs: Iterable[tuple[FloatArray, FloatArray]],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    bins: int,
) -> Histogram2D:
    counts = joint_counts(pairs, x_range, y_range, bins)
    x_edges, y_edges = (np.linspace(*limits, bins + 1).tolist() for limits in (x_range, y_range))
    return Histogram2D(tuple(x_edges), tuple(y_edges), tuple(tuple(row) for row in counts.tolist()))
