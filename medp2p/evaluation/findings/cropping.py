"""Whether an end of the body is lost."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from medp2p.evaluation.findings.arrays import Mask, other_axes, slab
from medp2p.evaluation.findings.case import PLANES, SIDES, Case
from medp2p.results import Finding

FLAT_SHARE = 0.01
"""A slice whose middle 98 % of values lie within this share of the range shows nothing."""
LOST_MM = 5.0
"""So much of the body's extent must be lost."""
LOST_SLICES = 2
"""And so many slices of it."""
LOST_VOXELS = 100
"""And so many voxels of the mask in them."""


def without_lost_slices(case: Case) -> tuple[Case, list[Finding]]:
    """Look for an end of the body where the prediction shows nothing, and leave it out."""
    lost: list[Finding] = []
    inside = case.inside
    for axis, end in itertools.product(range(3), (0, 1)):
        finding, kept = _lost_end(case, inside, axis, end)
        lost += finding
        inside = kept
    return (replace(case, inside=inside) if inside is not case.inside else case), lost


def _lost_end(case: Case, inside: Mask, axis: int, end: int) -> tuple[list[Finding], Mask]:
    slices = np.flatnonzero(inside.any(axis=other_axes(axis)))
    if slices.size <= LOST_SLICES:
        return [], inside
    from_end = slices[::-1] if end else slices
    count = 0
    for number in from_end:
        if not _shows_nothing(case, inside, axis, int(number)):
            break
        count += 1
    if count == slices.size:
        return [], inside
    extent = count * case.spacing_mm[axis]
    innermost = np.array(inside.shape) / 2
    innermost[axis] = from_end[max(count - 1, 0)]
    text = (
        f"the prediction's outermost {count} {PLANES[axis]} slices at the {SIDES[axis][end]} "
        f"({extent:.0f} mm) show nothing where the reference shows the body; check the extent of "
        "the source and that every slice was translated"
    )
    lost = inside[slab(axis, from_end[:count])]
    enough = count >= LOST_SLICES and np.count_nonzero(lost) >= LOST_VOXELS
    value = extent if enough else 0.0
    finding = Finding("cropped", text, value, LOST_MM, case.place(innermost))
    if value < LOST_MM:
        return [finding], inside
    kept = inside.copy()
    kept[slab(axis, from_end[:count])] = False
    return [finding], kept


def _shows_nothing(case: Case, inside: Mask, axis: int, number: int) -> bool:
    """Whether a slice of the prediction is flat inside the body where the reference is not."""
    here = inside[slab(axis, number)]
    if np.count_nonzero(here) < 10:
        return True
    plane = slab(axis, number)
    low, high = np.percentile(case.prediction[plane][here], (1, 99))
    if high - low > FLAT_SHARE * min(case.span, case.predicted_span):
        return False
    true = case.reference[plane][here]
    return bool(np.abs(true - (low + high) / 2).mean() > 3 * FLAT_SHARE * case.span)
