"""Whether something is wrong in one place: bone missing or added, a large error."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from medp2p.evaluation.findings.arrays import Image, Mask, Place, grown
from medp2p.evaluation.findings.case import NEARBY_MM, Case
from medp2p.results import Finding

BONE_HU = 400.0
"""Bone of the reference where the prediction has, nearby, nothing above `NO_BONE_HU`."""
ADDED_BONE_HU = 600.0
"""The same for bone of the prediction where the reference has none."""
NO_BONE_HU = 150.0
MISSING_BONE_CM3 = 0.3
"""Volume of one connected region of missing bone."""
ADDED_BONE_CM3 = 1.2
"""Volume of one connected region of added bone."""

LOCAL_MM = 20.0
"""Edge length of the cube over which the error is averaged."""
LOCAL_ERROR_SHARE = 0.18
"""Share of the reference's range."""
DENSE_HU = 300.0
"""Where the reference is so many times further from water, as much larger errors are usual."""


def missing_or_added_bone(case: Case) -> list[Finding]:
    """Bone is missing from the prediction in one connected region, or there is too much."""
    if not case.hu:
        return []
    reference, prediction = case.reference, case.prediction
    missing = _largest_lack(case, reference > BONE_HU, prediction > NO_BONE_HU)
    added = _largest_lack(case, prediction > ADDED_BONE_HU, reference > NO_BONE_HU)
    found = []
    for kind, (cm3, place), has, threshold in (
        ("missing_bone", missing, "only the reference", MISSING_BONE_CM3),
        ("added_bone", added, "only the prediction", ADDED_BONE_CM3),
    ):
        text = (
            f"{cm3:.1f} cm³ that {has} has, in one piece around voxel {place}; look there in the "
            "bone window"
        )
        found.append(Finding(kind, text, cm3, threshold, place))
    return found


def _largest_lack(case: Case, wanted: Mask, present: Mask) -> tuple[float, Place]:
    """Volume and middle of the largest region that is wanted and not present nearby."""
    lacking = wanted & ~grown(present, NEARBY_MM, case.spacing_mm) & case.away_from_cavities
    parts, count = ndimage.label(lacking)
    if not count:
        return 0.0, case.place((0, 0, 0))
    largest = int(np.bincount(parts.ravel())[1:].argmax()) + 1
    index = np.argwhere(parts == largest)
    middle = index[np.square((index - index.mean(axis=0)) * case.spacing_mm).sum(axis=1).argmin()]
    return len(index) * math.prod(case.spacing_mm) / 1000, case.place(middle)


def local_error(case: Case) -> list[Finding]:
    """The error is large all over one place, more than the rest would lead to expect."""
    sizes = zip(case.inside.shape, case.spacing_mm, strict=True)
    size = [max(1, min(n, round(LOCAL_MM / spacing))) for n, spacing in sizes]
    judged = case.away_from_cavities
    counted = ndimage.uniform_filter(judged.astype(np.float32), size, mode="constant")
    total = ndimage.uniform_filter(judged * _weighed_error(case), size, mode="constant")
    known = counted > 0.5
    if not known.any():
        return []
    mean = np.where(known, total / np.maximum(counted, 0.5), 0)
    if not mean.any():
        return []
    place = np.unravel_index(np.abs(mean).argmax(), mean.shape)
    box = tuple(slice(max(0, p - n // 2), p + n // 2 + 1) for p, n in zip(place, size, strict=True))
    error = float((case.prediction - case.reference)[box][judged[box]].mean())
    voxel = case.place([int(n) for n in place])
    text = (
        f"around voxel {voxel} the prediction is {case.amount(abs(error))} too "
        f"{'high' if error > 0 else 'low'} on average over a cube of {LOCAL_MM:g} mm; look there "
        "for something that was invented or left out"
    )
    worst = abs(float(mean[place]))
    return [Finding("local_error", text, worst / case.span, LOCAL_ERROR_SHARE, voxel)]


def _weighed_error(case: Case) -> Image:
    """The error, in HU smaller in dense bone and air, whose CT numbers no MR tells exactly."""
    if not case.hu:
        return case.error
    usual = np.maximum(np.float32(1), np.abs(case.reference) / np.float32(DENSE_HU))
    return np.asarray(case.error / usual, np.float32)
