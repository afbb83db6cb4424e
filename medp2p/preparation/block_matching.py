"""How far two images of a pair still lie apart, estimated part by part.

The body is divided into parts of equal size. Each part of the source is compared, by mutual
information of its own histogram, with the target at every shift of a few voxels of a coarse
grid. Where the parts agree, a rigid motion explains their shifts: its size is the residual
misalignment. Where they do not, the bodies differ, or the images have lost each other.

Registration by blocks is old (Ourselin et al., "Reconstructing a 3D structure from serial
histological sections", Image and Vision Computing 2001); here it only measures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medp2p.alignment import Alignment, resample_aligned
from medp2p.pose_search import shrink
from medp2p.volume import Grid, Volume

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Levels = NDArray[np.intp]

LATTICE_VOXELS = 400_000
"""The box around the body is divided into at most about this many voxels."""

BINS = 16
"""Grey levels of a histogram; 0 is outside the body."""

STEPS = 3
"""Parts are shifted by up to this many voxels of the lattice (thick slices: as many mm)."""

PARTS = 30
"""About so many parts the body has, if they are large enough."""

PART_VOXELS = 400
"""A part has at least about so many voxels."""

SAMPLES = 3000
"""Voxels of a part that are looked at."""

LEAST_VOXELS = 200
"""Smaller parts have no histogram worth the name."""

LEAST_PARTS = 4
"""Fewer parts say nothing about the whole."""

LEAST_CONTRAST = 0.03
"""Nats by which mutual information must change with the shift, or a part knows no place."""

LOST_SHARE = 1 / 3
"""If more parts are lost, the rigid motion is no estimate: it is at least the search range."""

_SHIFTS_AT_ONCE = 49


@dataclass(frozen=True, eq=False)
class CommonView:
    """Both images on one coarse lattice in the source's world.

    Attributes:
        grid: The lattice; a box around the source's body.
        source: Source values, float32.
        target: Target values, float32.
        source_body: Body voxels of the source.
        target_body: Body voxels of the target.
        shown: What both images measured: fields of view without padding.
    """

    grid: Grid
    source: NDArray[np.float32]
    target: NDArray[np.float32]
    source_body: Mask
    target_body: Mask
    shown: Mask

    @cached_property
    def source_levels(self) -> Levels:
        """The source's `grey_levels` in its body."""
        return grey_levels(self.source, self.source_body)

    @cached_property
    def target_levels(self) -> Levels:
        """The target's `grey_levels` in its body."""
        return grey_levels(self.target, self.target_body)

    @property
    def body_size_mm(self) -> float:
        """Cube root of the volume of the box around the source's body; of a slice, square root."""
        index = np.argwhere(self.source_body)
        extent = (np.ptp(index, axis=0) + 1) * self.grid.spacing_mm
        long = extent[np.array(self.grid.shape) > 1]
        return float(long.prod() ** (1 / max(1, len(long))))


@dataclass(frozen=True)
class Misalignment:
    """What the parts of the body say about an alignment.

    Attributes:
        residual_mm: Displacement of the body, mean, by the rigid motion that suits its parts
            best. At least the search range if more parts than `LOST_SHARE` are lost.
        parts_mm: How far a part lies from where that motion takes it, median; directions in
            which a part knows its place well count more.
        lost_parts: Share of the parts that fit best at the end of the search range.
        parts: How many parts were compared.
    """

    residual_mm: float
    parts_mm: float
    lost_parts: float
    parts: int


@dataclass(frozen=True, eq=False)
class _Part:
    """A part of the body: centre and best shift in mm along the lattice's axes.

    ``sharpness`` is (3, 3): minus the second derivatives of mutual information, nats per mm².
    """

    centre: Floats
    shift: Floats
    sharpness: Floats
    lost: bool


def common_view(
    source: Volume,
    target: Volume,
    source_body: Mask,
    target_body: Mask,
    alignment: Alignment,
    *,
    source_padding: Mask | None = None,
    target_padding: Mask | None = None,
) -> CommonView:
    """Put both images on a coarse lattice around the source's body.

    Args:
        source: The fixed image.
        target: The moving image.
        source_body: Body voxels on the source's grid, at least one.
        target_body: Body voxels on the target's grid.
        alignment: Where the source's world lies in the target's.
        source_padding: Voxels of the source that were not measured, if there are such.
        target_padding: The same of the target.
    """
    box, affine, step = _box_around(source, source_body)
    cut = replace(source, array=source.array[box], affine=affine)
    coarse, coarse_body = shrink(cut, source_body[box], step)
    moving, moving_body = shrink(target, target_body, step)

    def seen(array: NDArray[Any], outside: float) -> NDArray[Any]:
        volume = moving.with_array(array)
        return resample_aligned(volume, alignment, coarse.grid, outside=outside)

    measured = np.ones(moving.shape, np.float32)
    if target_padding is not None:
        measured -= shrink(target, target_padding, step)[1]
    shown = seen(measured, 0.0) > 0.5
    if source_padding is not None:
        shown &= ~shrink(cut, source_padding[box], step)[1]
    return CommonView(
        grid=coarse.grid,
        source=coarse.array.astype(np.float32),
        target=seen(moving.array, float(moving.array.min())).astype(np.float32),
        source_body=np.ascontiguousarray(coarse_body),
        target_body=np.ascontiguousarray(seen(moving_body.astype(np.float32), 0.0) > 0.5),
        shown=np.ascontiguousarray(shown),
    )


def _box_around(volume: Volume, body: Mask) -> tuple[tuple[slice, ...], Floats, float]:
    """The box around a body with room to shift, its affine, and the lattice's step in mm."""
    inside = [np.flatnonzero(body.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    low, high = np.array([(index[0], index[-1] + 1) for index in inside]).T
    box_mm = (high - low) * volume.spacing_mm
    step = float((box_mm.prod() / LATTICE_VOXELS) ** (1 / 3))
    margin = np.ceil((STEPS + 1) * step / volume.spacing_mm).astype(int)
    low, high = np.maximum(low - margin, 0), np.minimum(high + margin, volume.shape)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True)), affine, step


def grey_levels(values: NDArray[np.float32], body: Mask) -> Levels:
    """Values as 1 to BINS - 1 inside a body, 0 outside.

    The levels' borders lie half way between those that fill levels equally and those that
    are equally wide, so that both soft tissue and the few bright voxels have levels.
    """
    if not body.any():
        return np.zeros(values.shape, np.intp)
    inside = values[body]
    low, high = np.quantile(inside, (0.01, 0.99))
    even = np.linspace(low, high, BINS)[1:-1]
    equal = np.quantile(inside, np.linspace(0, 1, BINS)[1:-1])
    levels = 1 + np.searchsorted((even + equal) / 2, values)
    return np.where(body, levels, 0).astype(np.intp)


def mutual_information(view: CommonView) -> tuple[float, float]:
    """Mutual information in nats, and normalized: twice it over the sum of both entropies.

    Taken where the source's body, or the target's, lies in both fields of view; outside its
    body an image has one level.
    """
    where = (view.source_body | view.target_body) & view.shown
    source, target = view.source_levels[where], view.target_levels[where]
    if source.size == 0:
        return 0.0, 0.0
    count = np.bincount(source * BINS + target, minlength=BINS * BINS)
    joint = count.reshape(BINS, BINS) / source.size
    a, b = -_plogp(joint.sum(axis=1)).sum(), -_plogp(joint.sum(axis=0)).sum()
    shared = max(0.0, float(a + b + _plogp(joint).sum()))
    return shared, 2 * shared / float(a + b) if a + b > 0 else 0.0


def misalignment(view: CommonView) -> Misalignment | None:
    """Estimate how far the images still lie apart; None if too few parts can tell."""
    parts = list(_parts(view))
    if len(parts) < LEAST_PARTS:
        return None
    body = np.argwhere(view.source_body)
    points = body[:: max(1, len(body) // 2000)] * view.grid.spacing_mm
    motions = _rigid_motions(np.array([part.centre for part in parts]), points)
    motion = _fit(parts, motions)
    moved = np.linalg.norm(_rigid_motions(points, points) @ motion, axis=1).mean()
    lost = float(np.mean([part.lost for part in parts]))
    if lost > LOST_SHARE:
        reach_mm = _reach(view) * view.grid.spacing_mm
        moved = max(moved, reach_mm[reach_mm > 0].min())
    apart = np.median(_distances(parts, motions, motion))
    return Misalignment(float(moved), float(apart), lost, len(parts))


def _reach(view: CommonView) -> NDArray[np.intp]:
    """Voxels by which parts are shifted along each axis; 0 along an axis that is too short."""
    spacing = view.grid.spacing_mm
    wanted = np.maximum(2, np.rint(STEPS * spacing.min() / spacing)).astype(int)
    return np.asarray(np.minimum(wanted, (np.array(view.grid.shape) - 1) // 4))


def _parts(view: CommonView) -> Iterator[_Part]:
    """Find the best shift of every part of the body that has one."""
    reach = _reach(view)
    axes = [np.arange(-r, r + 1) for r in reach]
    shifts = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    source, target = view.source_levels.ravel(), view.target_levels.ravel()
    strides = np.array([math.prod(view.grid.shape[1:]), view.grid.shape[2], 1])
    rng = np.random.default_rng(0)
    for index in _groups(view, reach):
        if len(index) > SAMPLES:
            index = index[np.sort(rng.choice(len(index), SAMPLES, replace=False))]
        table = _table(source, target, index @ strides, shifts @ strides)
        if np.ptp(table) >= LEAST_CONTRAST:
            peak = table.reshape(tuple(2 * reach + 1))
            yield _best_shift(peak, index.mean(axis=0), reach, view.grid.spacing_mm)


def _groups(view: CommonView, reach: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """Divide the voxels in and next to the body that stay in view at every shift, (n, 3) each."""
    window = tuple(int(n) for n in 2 * reach + 1)
    usable = ndimage.binary_dilation(view.source_body)
    usable &= ndimage.minimum_filter(view.shown.astype(np.uint8), window, mode="constant") > 0
    index = np.argwhere(usable)
    if len(index) < LEAST_VOXELS:
        return
    width = _part_width(usable, reach, view.grid.spacing_mm)
    number = (index - index.min(axis=0)) // width
    flat = np.ravel_multi_index(tuple(number.T), tuple(number.max(axis=0) + 1))
    order = np.argsort(flat, kind="stable")
    cuts = np.flatnonzero(np.diff(flat[order])) + 1
    least = max(LEAST_VOXELS, width.prod() // 4)
    yield from (group for group in np.split(index[order], cuts) if len(group) > least)


def _part_width(usable: Mask, reach: NDArray[np.intp], spacing: Floats) -> NDArray[np.intp]:
    """Edges of a part in voxels: a cube, or the whole axis where there is nothing to shift."""
    free = reach > 0
    if not free.any():
        return np.array(usable.shape)
    seen = usable.any(axis=tuple(np.flatnonzero(~free)))
    parts = np.clip(usable.sum() / PART_VOXELS, LEAST_PARTS, PARTS)
    edge_mm = (seen.sum() * spacing[free].prod() / parts) ** (1 / free.sum())
    cube = np.maximum(1, np.rint(edge_mm / spacing)).astype(int)
    return np.where(free, cube, usable.shape)


def _table(source: Levels, target: Levels, samples: Levels, shifts: Levels) -> Floats:
    """Mutual information in nats of flat images at flat shifts, (number of shifts,)."""
    first = source[samples] * BINS
    result = np.empty(len(shifts))
    for start in range(0, len(shifts), _SHIFTS_AT_ONCE):
        some = shifts[start : start + _SHIFTS_AT_ONCE]
        code = first + target[samples + some[:, None]]
        code += np.arange(len(some))[:, None] * BINS**2
        count = np.bincount(code.ravel(), minlength=len(some) * BINS**2)
        joint = count.reshape(-1, BINS, BINS) / len(samples)
        a, b = _plogp(joint.sum(axis=2)).sum(axis=1), _plogp(joint.sum(axis=1)).sum(axis=1)
        result[start : start + len(some)] = _plogp(joint).sum(axis=(1, 2)) - a - b
    return result


def _plogp(p: Floats) -> Floats:
    safe = np.where(p > 0, p, 1.0)
    return safe * np.log(safe) * (p > 0)


def _best_shift(table: Floats, centre: Floats, reach: NDArray[np.intp], spacing: Floats) -> _Part:
    """Take the highest entry, and a parabola through its neighbours for what is between."""
    free = reach > 0
    smooth = ndimage.gaussian_filter(table, np.where(free, 0.5, 0.0), mode="nearest")
    peak = np.array(np.unravel_index(smooth.argmax(), smooth.shape))
    lost = bool((((peak == 0) | (peak == 2 * reach)) & free).any())
    middle = np.where(free, np.clip(peak, 1, np.maximum(2 * reach - 1, 1)), 0)
    gradient, curvature = _parabola(smooth, middle, free, spacing[free])
    values, vectors = np.linalg.eigh(-curvature)
    values = np.maximum(values, 1e-6)
    step = vectors @ ((vectors.T @ gradient) / values)
    shift, sharpness = np.zeros(3), np.zeros((3, 3))
    shift[free] = (middle - reach)[free] * spacing[free]
    shift[free] += np.clip(step, -spacing[free], spacing[free])
    sharpness[np.ix_(free, free)] = (vectors * values) @ vectors.T
    return _Part(centre * spacing, shift, sharpness, lost)


def _parabola(
    table: Floats, middle: NDArray[np.intp], free: Mask, spacing: Floats
) -> tuple[Floats, Floats]:
    """Gradient and second derivatives of the paraboloid through the neighbours, per mm."""
    around = [np.arange(-1, 2) if moves else np.arange(1) for moves in free]
    offsets = np.stack(np.meshgrid(*around, indexing="ij"), -1).reshape(-1, 3)
    mm = offsets[:, free] * spacing
    first, second = np.triu_indices(len(spacing))
    products = mm[:, first] * mm[:, second] * np.where(first == second, 0.5, 1.0)
    design = np.concatenate([np.ones((len(mm), 1)), mm, products], axis=1)
    values = table[tuple((middle + offsets).T)]
    found = np.linalg.lstsq(design, values, rcond=None)[0]
    curvature = np.zeros((len(spacing), len(spacing)))
    curvature[first, second] = curvature[second, first] = found[1 + len(spacing) :]
    return found[1 : 1 + len(spacing)], curvature


def _rigid_motions(points: Floats, body: Floats) -> Floats:
    """What shifts by 1 mm along each axis, and turns that move the body as much, do to points.

    Returns:
        (n, 3, 6): displacement in mm of each point for each of the six motions.
    """
    centre = body.mean(axis=0)
    lever = max(1.0, float(np.linalg.norm(body - centre, axis=1).mean()))
    x, y, z = ((points - centre) / lever).T
    none = np.zeros_like(x)
    turns = np.array([[none, z, -y], [-z, none, x], [y, -x, none]]).transpose(2, 0, 1)
    shifts = np.broadcast_to(np.eye(3), (len(points), 3, 3))
    return np.concatenate([shifts, turns], axis=2)


def _fit(parts: list[_Part], motions: Floats) -> Floats:
    """The rigid motion (6,) that suits most parts: weighted by sharpness, outliers little."""
    sharpness = np.array([part.sharpness for part in parts])
    shifts = np.array([part.shift for part in parts])
    weights = np.ones(len(parts))
    motion = np.zeros(6)
    for _ in range(10):
        weighted = np.einsum("n,nai,nab->nib", weights, motions, sharpness)
        left = np.einsum("nib,nbj->ij", weighted, motions)
        right = np.einsum("nib,nb->i", weighted, shifts)
        motion = np.linalg.lstsq(left, right, rcond=1e-6)[0]
        distances = _distances(parts, motions, motion)
        scale = max(float(np.median(distances)), 0.1 * float(np.abs(shifts).max()), 1e-6)
        weights = 1 / np.maximum(1.0, distances / (1.5 * scale))
    return motion


def _distances(parts: list[_Part], motions: Floats, motion: Floats) -> Floats:
    """How far each part is from where a motion takes it, in mm, sharp directions first, (n,)."""
    sharpness = np.array([part.sharpness for part in parts])
    apart = np.array([part.shift for part in parts]) - motions @ motion
    mean = np.trace(sharpness, axis1=1, axis2=2) / max(
        1, np.count_nonzero(sharpness.any(axis=(0, 1)))
    )
    squared = np.einsum("na,nab,nb->n", apart, sharpness, apart)
    return np.asarray(np.sqrt(squared / mean))
