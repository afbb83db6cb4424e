"""What training data look like, kept in the model file to tell what a model is for.

A `Look` is what is measured of one case: how large its body is and how bright the tissues are,
from the skin inwards. Training cases and new scans are measured by the same function, on the
training grid and in unit values, so that scanner units and resolution play no part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medp2p.preprocessing import decode
from medp2p.store import PreparedData

AXES = ("width_mm", "depth_mm", "height_mm")
"""Extents of the body: left to right, back to front, feet to head."""

PERCENTILES = (10, 25, 50, 75, 90)
"""Of the unit values inside the body."""

LAYERS_MM = (4.0, 8.0, 16.0, 32.0, float("inf"))
"""Bounds of the layers below the body's surface. The first 4 mm are left out: they are skin, and
depend on where exactly the body was found to begin."""

SMALLEST_LAYER = 50
"""A layer of fewer sampled voxels has no brightness worth the name."""

SAMPLE_MM = (5.0, 2.5, 2.5)
"""Voxels about this far apart are looked at: from slice to slice, row to row, column to column."""

PARTS = 5
"""A scan of a part of the body is compared with such parts of the training cases: thirds of the
height, one beginning in the middle of the other."""

DECIMALS = 4
"""Stored numbers are rounded, so that they don't depend on the machine's last bit."""


@dataclass(frozen=True)
class Look:
    """What one case looks like.

    Attributes:
        spacing_mm: Of the training grid: left-right, back-front, feet-head.
        body: `AXES`, and ``fill``: the share of its bounding box that the body fills.
        is_cut: Whether the body reaches the image's border, along each of `AXES`.
        sources: Of each source contrast ``p10`` to ``p90``: `PERCENTILES` of the unit values in
            the body; ``rank_4mm`` to ``rank_32mm``: the share of the body that is darker than a
            voxel of the layer that begins so deep below the surface, on average over the layer,
            depth being that within the axial slice; ``likeness``: correlation of voxels that
            lie about 2.5 mm apart. What cannot be measured is left out.
    """

    spacing_mm: tuple[float, float, float]
    body: Mapping[str, float]
    is_cut: tuple[bool, bool, bool]
    sources: tuple[Mapping[str, float], ...]


def describe(
    unit: NDArray[np.float32],
    mask: NDArray[Any],
    spacing_mm: Sequence[float] | NDArray[np.float64],
) -> Look:
    """Measure what a case looks like.

    Args:
        unit: Unit values of the sources on the training grid, (C, K, J, I).
        mask: The body, (K, J, I), not empty.
        spacing_mm: Of the training grid, (I, J, K).

    Raises:
        ValueError: If the mask is empty or has another shape.
    """
    body: NDArray[np.bool_] = mask > 0
    if body.shape != unit.shape[1:] or not body.any():
        raise ValueError(f"expected a body in a mask of shape {unit.shape[1:]}, got {body.shape}")
    spacing = np.asarray(spacing_mm, dtype=np.float64)[::-1]
    box = _box(body)
    sample, step_mm = _sampling(box, spacing)
    layer = _layers(body[sample], step_mm)
    lengths = [(s.stop - s.start) * mm for s, mm in zip(box, spacing, strict=True)]
    extents = {name: _rounded(mm) for name, mm in zip(AXES, lengths[::-1], strict=True)}
    k, j, i = (s.start == 0 or s.stop == n for s, n in zip(box, body.shape, strict=True))
    return Look(
        spacing_mm=(_rounded(spacing[2]), _rounded(spacing[1]), _rounded(spacing[0])),
        body={**extents, "fill": _rounded(body[box].mean())},
        is_cut=(i, j, k),
        sources=tuple(_brightness(values[sample], layer) for values in unit),
    )


def describe_parts(
    unit: NDArray[np.float32],
    mask: NDArray[Any],
    spacing_mm: Sequence[float] | NDArray[np.float64],
) -> list[Look]:
    """Measure parts of a case, each as a scan of it alone would look.

    Args:
        unit: As for `describe`.
        mask: As for `describe`.
        spacing_mm: As for `describe`.

    Returns:
        `PARTS` looks, of the lowest third of the slices that show a body first.

    Raises:
        ValueError: As for `describe`.
    """
    slices = np.flatnonzero(np.any(mask > 0, axis=(1, 2)))
    step = slices.size / (PARTS + 1)
    parts = [slices[int(n * step) : math.ceil((n + 2) * step)] for n in range(PARTS)]
    return [describe(unit[:, part], mask[part], spacing_mm) for part in parts]


def fingerprint(data: PreparedData) -> dict[str, Any]:
    """Say what the training data look like.

    Returns:
        Hash of the prepared voxels; number of cases; names of the sources; lowest and highest,
        over cases, of the training grid's spacing and of the body's extent in mm (left-right,
        back-front, feet-head) and of the first source's values that became -1 and +1; and as of
        `summary` the ``looks`` of the cases and, for each of `PARTS`, the ``part_looks``.
    """
    cases = data.split("train")
    looks, parts = [], []
    for case in cases:
        unit, mask = decode(data.source(case)), data.mask(case)
        looks.append(describe(unit, mask, case.grid.spacing_mm))
        parts.append(describe_parts(unit, mask, case.grid.spacing_mm))
    source_ranges = np.array([case.source_ranges[0] for case in cases])
    spacing = np.array([look.spacing_mm for look in looks])
    extent = np.array([[look.body[name] for name in AXES] for look in looks])
    return {
        "prepared_sha256": data.hash,
        "cases": len(cases),
        "sources": list(data.sources),
        "spacing_mm": [spacing.min(axis=0).tolist(), spacing.max(axis=0).tolist()],
        "body_extent_mm": [extent.min(axis=0).tolist(), extent.max(axis=0).tolist()],
        "source_range": [float(source_ranges.min()), float(source_ranges.max())],
        "looks": summary(looks),
        "part_looks": [summary(part) for part in zip(*parts, strict=True)],
    }


def summary(looks: Sequence[Look]) -> dict[str, Any]:
    """Summarize looks of the same number of sources, as plain JSON values.

    Returns:
        Of each number in ``body`` and in each of the ``sources`` its mean, standard deviation,
        lowest, highest and number of looks that have it (``count``).
    """
    contrasts = zip(*(look.sources for look in looks), strict=True)
    return {
        "body": _summaries([look.body for look in looks]),
        "sources": [_summaries(values) for values in contrasts],
    }


def _summaries(cases: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    names = dict.fromkeys(name for case in cases for name in case)
    return {name: _summarized([case[name] for case in cases if name in case]) for name in names}


def _summarized(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": _rounded(np.mean(values)),
        "sd": _rounded(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        "low": min(values),
        "high": max(values),
        "count": len(values),
    }


def _box(body: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box that holds the body."""
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        index = np.flatnonzero(body.any(axis=others))
        box.append(slice(int(index[0]), int(index[-1]) + 1))
    return tuple(box)


def _sampling(
    box: tuple[slice, ...], spacing: NDArray[np.float64]
) -> tuple[tuple[slice, ...], NDArray[np.float64]]:
    """Every n-th voxel of the box and one of the air around it; also how far apart they are."""
    step = np.maximum(1, np.round(np.array(SAMPLE_MM) / spacing)).astype(int)
    sample = tuple(
        slice(max(s.start % n, s.start - n), s.stop + n, n)
        for s, n in zip(box, step.tolist(), strict=True)
    )
    return sample, step * spacing


def _layers(body: NDArray[np.bool_], step_mm: NDArray[np.float64]) -> NDArray[np.int_]:
    """Number of the layer of `LAYERS_MM` that a voxel lies in; 0 for skin and -1 outside.

    The distance to the surface is that within the axial slice: slices count as far apart.
    """
    if body.all():
        return np.full(body.shape, len(LAYERS_MM) - 1)
    depth = ndimage.distance_transform_edt(body, sampling=(1e6, *step_mm[1:]))
    return np.where(body, np.digitize(depth, LAYERS_MM), -1)


def _brightness(values: NDArray[np.float32], layer: NDArray[np.int_]) -> dict[str, float]:
    """Percentiles, ranks of the layers and likeness of neighbours."""
    inside = np.sort(values[layer >= 0])
    found = {f"p{p}": _rounded(inside[round(p / 100 * (inside.size - 1))]) for p in PERCENTILES}
    for number, top in enumerate(LAYERS_MM[:-1], 1):
        here = values[layer == number]
        if here.size >= SMALLEST_LAYER:
            below, upto = (np.searchsorted(inside, here, side) for side in ("left", "right"))
            found[f"rank_{top:g}mm"] = _rounded((below.mean() + upto.mean()) / 2 / inside.size)
    both = (layer[:, :, 1:] >= 0) & (layer[:, :, :-1] >= 0)
    found["likeness"] = _rounded(_correlation(values[:, :, 1:][both], values[:, :, :-1][both]))
    return found


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """0 if either is constant."""
    a, b = (v.astype(np.float64) - v.mean(dtype=np.float64) for v in (one, other))
    size = float(np.sqrt((a @ a) * (b @ b))) if a.size else 0.0
    return float(a @ b) / size if size > 0 else 0.0


def _rounded(value: float | np.floating[Any]) -> float:
    return round(float(value), DECIMALS)
