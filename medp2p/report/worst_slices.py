"""The slices with the largest error, from the error curves of the cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medp2p.report.planes import PLANES
from medp2p.results import CaseResult

SMALLEST_SHARE = 0.25
"""Slices with fewer voxels than this share of the case's median slice are passed over: the mean
of the few voxels at the ends of the mask says little."""


@dataclass(frozen=True)
class WorstSlice:
    """The slice of a case with the largest mean absolute error in one plane.

    Attributes:
        case: The case's name.
        method: Which prediction.
        plane: ``"sagittal"``, ``"coronal"`` or ``"axial"``.
        index: Of the slice, from 0, in RAS order.
        mae: Its mean absolute error.
        case_mae: That of the whole case.
        place: Voxel (i, j, k) in the slice, in the middle of what is compared.
    """

    case: str
    method: str
    plane: str
    index: int
    mae: float
    case_mae: float
    place: tuple[int, int, int]


def worst_slices(results: Sequence[CaseResult], count: int = 12) -> list[WorstSlice]:
    """Return the slices with the largest mean absolute error, worst first.

    Args:
        results: Cases with the curves ``mae_by_slice_<plane>``; others have none.
        count: How many at most; of a prediction at most one per plane.
    """
    found = [
        worst
        for result in results
        for plane in PLANES
        if (worst := _worst_slice(result, plane)) is not None
    ]
    return sorted(found, key=lambda one: (-one.mae, one.case, one.method, one.plane))[:count]


def _worst_slice(result: CaseResult, plane: str) -> WorstSlice | None:
    curve = result.curves.get(f"mae_by_slice_{plane}")
    if curve is None:
        return None
    counts, errors = np.asarray(curve.counts), np.asarray(curve.y, float)
    used = counts[counts > 0]
    if not len(used):
        return None
    large = np.isfinite(errors) & (counts >= SMALLEST_SHARE * np.median(used))
    if not large.any():
        return None
    at = int(np.argmax(np.where(large, errors, -np.inf)))
    index = int(curve.x[at])
    middle = [_middle(result, other) for other in PLANES]
    middle[PLANES.index(plane)] = index
    return WorstSlice(
        result.case,
        result.method,
        plane,
        index,
        float(errors[at]),
        result.values.get(result.profile.mae_key, float("nan")),
        (middle[0], middle[1], middle[2]),
    )


def _middle(result: CaseResult, plane: str) -> int:
    """Index of the slice in the middle of the voxels that are compared; 0 if it is not known."""
    curve = result.curves.get(f"mae_by_slice_{plane}")
    if curve is None or not sum(curve.counts):
        return 0
    return round(float(np.average(curve.x, weights=curve.counts)))
