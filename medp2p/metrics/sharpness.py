"""How sharp a prediction is: blurred images win on mean absolute error, and should be seen.

Both measures look at the inside of the tissue only. The border of the mask and the surface
between body and air are the strongest edges of a scan; they say little about what a method made
up and would outweigh all others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import fft, ndimage

from medp2p.metrics.arrays import Array, BoolArray, DistanceArray, FloatArray
from medp2p.metrics.curves import Curve
from medp2p.metrics.interfaces import distance_mm

TAPER_MM = 10.0
"""Over this depth below the surface of the tissue the power spectrum's window rises to 1."""
FREQUENCY_BINS = 20
"""Points of the curve of power ratios."""
UPPER_SHARE = 0.5
"""`power_ratio` looks at frequencies from this share of the highest one on."""
PROFILE_MM = 4.0
"""A profile across an edge reaches this far either way, and at least two voxels."""
EDGE_QUANTILE = 0.95
"""Edges are the voxels with a gradient above this quantile."""
EDGES = 4000
"""At most this many edges are looked at, evenly chosen."""
FEWEST_EDGES = 20
"""With fewer edges there is no edge width."""


def tissue_depth_mm(tissue: BoolArray, spacing_mm: Sequence[float]) -> DistanceArray:
    """Return how deep every voxel lies in the tissue: its distance to the nearest voxel outside.

    Beyond the faces of the array is outside, except along an axis of one voxel.

    Args:
        tissue: Three axes.
        spacing_mm: Of the voxels along each axis.

    Returns:
        Millimetres, float32, 0 outside.
    """
    margins = [int(size > 1) for size in tissue.shape]
    if not any(margins):
        return np.zeros(tissue.shape, np.float32)
    depth = distance_mm(~np.pad(tissue, [(margin, margin) for margin in margins]), spacing_mm)
    inner = (slice(m, m + n) for m, n in zip(margins, tissue.shape, strict=True))
    return depth[tuple(inner)]


def power_ratio(
    prediction: FloatArray,
    reference: FloatArray,
    depth_mm: DistanceArray,
    spacing_mm: Sequence[float],
) -> tuple[float, Curve]:
    """Compare the power of fine detail: the prediction's over the reference's.

    Both images, less their mean, are multiplied with a window that rises from 0 at the surface of
    the tissue to 1 `TAPER_MM` below it (sin² of the depth), and Fourier-transformed. The power
    is summed up in shells of equal |frequency| up to the highest that the finest axis can hold,
    1 / (2·spacing). Noise is fine detail too: a prediction without the reference's noise has a
    ratio below 1. Of a prediction that is the reference blurred by a Gaussian of standard
    deviation s mm, the ratio at frequency f is exp(-4π²s²f²).

    Args:
        prediction: Three axes.
        reference: The same shape and units.
        depth_mm: Depth of every voxel below the surface of the tissue, 0 outside.
        spacing_mm: Of the voxels along each axis.

    Returns:
        The ratio over the frequencies from `UPPER_SHARE` of the highest one on, below 1 for a
        blurred prediction, and the ratio against frequency in cycles per mm, with the number of
        Fourier coefficients. NaN where the reference has no power.
    """
    window = _window(depth_mm)
    if not window.any():
        return math.nan, Curve((), (), ())
    highest = 1 / (2 * min(s for s, n in zip(spacing_mm, window.shape, strict=True) if n > 1))
    (predicted, counts), (true, _) = (
        _shell_power(_windowed(image, window), spacing_mm, highest)
        for image in (prediction, reference)
    )
    ratios = np.full(FREQUENCY_BINS, math.nan)
    np.divide(predicted, true, out=ratios, where=true > 0)
    middles = (np.arange(FREQUENCY_BINS) + 0.5) * highest / FREQUENCY_BINS
    curve = Curve(tuple(middles.tolist()), tuple(ratios.tolist()), tuple(counts.tolist()))
    upper = slice(int(UPPER_SHARE * FREQUENCY_BINS), None)
    total = true[upper].sum()
    return float(predicted[upper].sum() / total) if total else math.nan, curve


def _window(depth_mm: DistanceArray) -> FloatArray:
    """Return the window of every voxel: sin² of its depth, 1 from `TAPER_MM` on."""
    window: FloatArray = np.empty(depth_mm.shape)
    for plane, depths in zip(window, depth_mm, strict=True):
        rise = np.minimum(depths.astype(np.float64) / TAPER_MM, 1)
        plane[:] = np.sin(np.pi / 2 * rise) ** 2
    return window


def _windowed(image: FloatArray, window: FloatArray) -> FloatArray:
    """Return the image less its mean, times the window."""
    product = image * window
    mean = float(product.sum() / window.sum())
    np.subtract(image, mean, out=product)
    product *= window
    return product


def _shell_power(
    image: FloatArray, spacing_mm: Sequence[float], highest: float
) -> tuple[FloatArray, Array]:
    """Return power and number of Fourier coefficients in shells up to the highest frequency."""
    sizes = [fft.next_fast_len(size, real=True) for size in image.shape]
    x, y = (fft.fftfreq(n, s) ** 2 for n, s in zip(sizes[:2], spacing_mm[:2], strict=True))
    z = fft.rfftfreq(sizes[2], spacing_mm[2]) ** 2
    sums, counts = np.zeros(FREQUENCY_BINS + 1), np.zeros(FREQUENCY_BINS + 1, np.intp)
    for square, plane in zip(x, fft.rfftn(image, s=sizes), strict=True):
        frequency = np.sqrt(square + y[:, None] + z)
        shells = (frequency / highest * FREQUENCY_BINS).astype(np.intp)
        shells = np.minimum(shells, FREQUENCY_BINS).ravel()
        power = (plane.real**2 + plane.imag**2).ravel()
        sums += np.bincount(shells, weights=power, minlength=len(sums))
        counts += np.bincount(shells, minlength=len(counts))
    return sums[:FREQUENCY_BINS], counts[:FREQUENCY_BINS]


def edge_width_ratio(
    prediction: FloatArray,
    reference: FloatArray,
    depth_mm: DistanceArray,
    spacing_mm: Sequence[float],
) -> float:
    """Compare the width of edges: the prediction's over the reference's.

    Edges are the voxels of the reference whose gradient is among the highest 5 %, so deep in
    the tissue that nothing outside is read. Both images are read linearly along the reference's
    gradient, four times per voxel. The width of an edge is the contrast along the profile over
    its steepest slope: s·√(2π) for a step blurred by a Gaussian of standard deviation s. The
    steepest place may lie beside the reference's, so that a prediction that is sharp and a
    little shifted counts as sharp.

    Args:
        prediction: Three axes.
        reference: The same shape and units.
        depth_mm: Depth of every voxel below the surface of the tissue, 0 outside.
        spacing_mm: Of the voxels along each axis.

    Returns:
        The prediction's median width over the reference's; above 1 for a blurred prediction.
        NaN with fewer than `FEWEST_EDGES` edges, or where an image has no contrast.
    """
    spread = [s for s, n in zip(spacing_mm, depth_mm.shape, strict=True) if n > 1]
    reach = max([PROFILE_MM, *(2 * s for s in spread)])
    eligible = depth_mm > np.float64(reach + math.hypot(*spread))
    places, normals = _edges(reference, eligible, spacing_mm)
    if len(places) < FEWEST_EDGES:
        return math.nan
    step = min(spread) / 4
    t = np.arange(-round(reach / step), round(reach / step) + 1) * step
    along = normals[:, :, None] * t / np.asarray(spacing_mm)[:, None]
    points = (places[:, :, None] + along).transpose(1, 0, 2)
    predicted, true = (_median_width(image, points, step) for image in (prediction, reference))
    return predicted / true


def _edges(
    reference: FloatArray, eligible: BoolArray, spacing_mm: Sequence[float]
) -> tuple[FloatArray, FloatArray]:
    """Return indices and unit normals in mm of the strongest edges, each of shape (edges, 3).

    No eligible voxel may lie at a face of the array, except along an axis of one voxel.
    """
    places = np.flatnonzero(eligible)
    if len(places) < FEWEST_EDGES:
        return np.empty((0, 3)), np.empty((0, 3))
    values, vectors = reference.ravel(), np.zeros((len(places), 3))
    for axis, spacing in enumerate(spacing_mm):
        if reference.shape[axis] > 1:
            step = math.prod(reference.shape[axis + 1 :])
            vectors[:, axis] = (values[places + step] - values[places - step]) / (2 * spacing)
    strength = np.linalg.norm(vectors, axis=1)
    strong = np.flatnonzero((strength >= np.quantile(strength, EDGE_QUANTILE)) & (strength > 0))
    chosen = strong[:: max(1, math.ceil(len(strong) / EDGES))]
    indices = np.stack(np.unravel_index(places[chosen], reference.shape), axis=1)
    return indices.astype(float), vectors[chosen] / strength[chosen, None]


def _median_width(image: FloatArray, points: FloatArray, step_mm: float) -> float:
    """Median over edges of contrast over steepest slope; NaN for edges without slope.

    Args:
        image: Three axes.
        points: Indices of the profiles, shape (3, edges, points).
        step_mm: From point to point.
    """
    profiles = ndimage.map_coordinates(image, points, order=1, mode="nearest")
    contrast = np.ptp(profiles, axis=1)
    slope = np.abs(np.diff(profiles, axis=1)).max(axis=1) / step_mm
    steep = slope > 0
    return float(np.median(contrast[steep] / slope[steep])) if steep.any() else math.nan
