"""Whether slices have offsets of their own."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from medp2p.evaluation.findings.arrays import other_axes, slab
from medp2p.evaluation.findings.case import MINIMUM_VOXELS, PLANES, Case
from medp2p.results import Finding

FLICKER_SHARE = 0.0028
"""Spread of the slices' own offsets, as a share of the reference's range (7 HU of 2500)."""
FLICKER_SLICES = 12
"""Fewer offsets are not judged."""
FLICKER_OVER_NOISE = 2.0
"""Only what is left of the spread above so many times that of noise counts."""

Medians = NDArray[np.float64]


def flicker(case: Case) -> list[Finding]:
    """Slices have offsets of their own.

    The median error of every slice is compared with the mean of its two neighbours'. Of offsets
    with standard deviation s, independent from slice to slice, the differences have a standard
    deviation of s·√1.5, which is estimated by their median, 1.4826 times. An offset is common to
    the whole slice: how the differences of its two halves differ tells the noise.
    """
    spreads = [_flicker(case, axis) for axis in range(3)]
    axis = int(np.argmax(spreads))
    text = (
        f"{PLANES[axis]} slices have offsets of their own, which spread by "
        f"{case.amount(spreads[axis])}; scroll through another plane, and look at slicewise "
        "normalization"
    )
    return [Finding(f"flicker_{PLANES[axis]}", text, spreads[axis] / case.span, FLICKER_SHARE)]


def _flicker(case: Case, axis: int) -> float:
    """Spread of the offsets of the slices across an axis above noise."""
    whole, first, second = _slice_medians(case, axis)
    own = _spread(_against_neighbours(whole))
    noise = _spread(_against_neighbours(first - second) / 2)
    return math.sqrt(max(0.0, own**2 - (FLICKER_OVER_NOISE * noise) ** 2))


def _slice_medians(case: Case, axis: int) -> tuple[Medians, Medians, Medians]:
    """Median error of every slice and of its two halves; NaN for slices with few voxels."""
    numbers = np.count_nonzero(case.inside, axis=other_axes(axis))
    medians = np.full((3, numbers.size), np.nan)
    for number in np.flatnonzero(numbers >= MINIMUM_VOXELS).tolist():
        plane = slab(axis, number)
        here = case.inside[plane]
        error = case.prediction[plane][here] - case.reference[plane][here]
        half = error.size // 2
        medians[0, number] = np.median(error)
        medians[1:, number] = np.median(error[:half]), np.median(error[half:])
    return medians[0], medians[1], medians[2]


def _against_neighbours(medians: Medians) -> Medians:
    """Each but the first and last less the mean of its neighbours, where all three are known."""
    own = medians[1:-1] - (medians[:-2] + medians[2:]) / 2
    return own[~np.isnan(own)]


def _spread(own: Medians) -> float:
    """Standard deviation of offsets whose differences from their neighbours these are."""
    if own.size < FLICKER_SLICES:
        return 0.0
    return 1.4826 * float(np.median(np.abs(own))) / math.sqrt(1.5)
