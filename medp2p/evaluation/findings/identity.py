"""Whether the prediction is of the right thing: constant, a copy, unrelated, mirrored."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from medp2p.evaluation.findings.arrays import Image, correlation, finite, sample_step
from medp2p.evaluation.findings.case import Case
from medp2p.results import Finding

COPY_CORRELATION = 0.999
"""From this correlation on two images are one, up to a linear change of units."""
UNRELATED_CORRELATION = 0.35
"""With less correlation than this a prediction shows something else than the reference."""

MIRRORED_GAIN = 0.02
"""By so much the prediction's correlation with the reference is higher after it is turned over
than after it is moved along the same axis."""
MOVED_SHARE = 0.25
"""Moves up to this share of the body's extent along the axis are tried."""
MIRRORED_WORDS = ("left to right", "front to back", "head to foot")


def constant(case: Case) -> list[Finding]:
    """The prediction has one value inside."""
    low, high = float(case.predicted.min()), float(case.predicted.max())
    text = (
        f"every voxel of the prediction is {case.amount(low)} inside the mask; check that the "
        "model was applied and that the right file was given"
    )
    return [Finding("constant", text, float(low == high), 1.0)]


def copied(case: Case) -> list[Finding]:
    """The prediction is the source or the reference."""
    found = []
    same = float(np.array_equal(case.predicted, case.true))
    text = (
        "both images are equal in every voxel inside the mask; check that the reference was not "
        "given twice"
    )
    found.append(Finding("copy_of_reference", text, same, 1.0))
    if case.source is not None and not same:
        alike = abs(correlation(case.predicted, case.source[case.inside]))
        text = (
            f"the prediction's correlation with the source is {alike:.4f} inside the mask; check "
            "that the model was applied and that the right file was given"
        )
        found.append(Finding("copy_of_source", text, alike, COPY_CORRELATION))
    return found


def unrelated(case: Case) -> list[Finding]:
    """The prediction does not resemble the reference; not judged where that is mostly noise."""
    if not case.reference_varies:
        return []
    alike = correlation(case.predicted, case.true)
    what = ": the prediction is inverted" if alike < -UNRELATED_CORRELATION else ""
    text = (
        f"the correlation with the reference is {alike:.2f} inside the mask{what}; check that both "
        "are of one patient and in one position"
    )
    return [Finding("unrelated", text, 1 - alike, 1 - UNRELATED_CORRELATION)]


def mirrored(case: Case) -> list[Finding]:
    """The prediction resembles the reference more after it is turned over.

    It is turned about the middle of the image, and about the middle of the body. A body that is
    nearly symmetric is moved by that as well; so turning must do better than moving alone.
    """
    step = sample_step(case.true.size)
    sample = np.flatnonzero(case.inside)[::step]
    index = np.column_stack(np.unravel_index(sample, case.inside.shape)) + case.origin
    true = case.true[::step]
    alike = correlation(case.predicted[::step], true)
    found = []
    for axis in range(3):
        if case.inside.shape[axis] < 3:
            continue
        along = index[:, axis]
        middles = {case.whole.shape[axis] - 1, int(along.min() + along.max())}
        turned = max(correlation(_taken(case, index, axis, m - along), true) for m in middles)
        gain = turned - alike if turned >= UNRELATED_CORRELATION else 0.0
        if gain >= MIRRORED_GAIN:
            gain = turned - _alike_when_moved(case, index, axis, true)
        text = (
            f"the correlation with the reference is {alike:.2f}, but {turned:.2f} when the "
            f"prediction is turned over, {MIRRORED_WORDS[axis]}; check the orientation in the "
            "header and how the prediction was written"
        )
        found.append(Finding("mirrored", text, gain, MIRRORED_GAIN))
    return [max(found, key=lambda finding: finding.value)] if found else []


def _alike_when_moved(case: Case, index: NDArray[np.int64], axis: int, true: Image) -> float:
    """The highest correlation after a move along the axis by whole or half voxels."""
    along = index[:, axis]
    reach = max(1, round(MOVED_SHARE * (along.max() - along.min())))
    moved = [_taken(case, index, axis, along + move) for move in range(-reach, reach + 1)]
    halfway = [(first + second) / 2 for first, second in pairwise(moved)]
    return max(correlation(image, true) for images in (moved, halfway) for image in images)


def _taken(case: Case, index: NDArray[np.int64], axis: int, along: NDArray[np.int64]) -> Image:
    """The prediction at these indices of the whole image, but with others along the axis."""
    other = index.copy()
    other[:, axis] = along.clip(0, case.whole.shape[axis] - 1)
    return finite(case.whole[tuple(other.T)])
