"""Whether values have other units, or are cut off or filled in."""

from __future__ import annotations

import numpy as np

from medp2p.evaluation.findings.arrays import percentiles, sample_step
from medp2p.evaluation.findings.case import Case
from medp2p.results import Finding

WRONG_SCALE = 1.6
"""The prediction's values spread so many times wider or narrower than the reference's."""
WRONG_OFFSET_SHARE = 0.06
"""Share of the reference's range by which all values are too high or too low."""

FLAT_VALUE_SHARE = 0.03
"""Share of the voxels inside that have one and the same value."""
FLAT_VALUE_SPREAD = 0.1
"""The reference there spreads over at least this share of its range."""


def wrong_units(case: Case) -> list[Finding]:
    """The values follow the reference's by another scale or zero.

    The line between both images' percentiles does not depend on where the values lie. Its slope
    says nothing where the reference holds little but noise.
    """
    true, predicted = percentiles(case.true), percentiles(case.predicted)
    if np.ptp(true) == 0 or np.ptp(predicted) == 0:
        return []
    slope = float(np.std(predicted) / np.std(true))
    intercept = float(predicted.mean() - slope * true.mean())
    text = (
        f"the prediction's values are about {slope:.3g} times the reference's plus "
        f"{intercept:.3g}; check the units and the rescaling when it was written"
    )
    found = []
    if case.reference_varies:
        found.append(Finding("wrong_scale", text, max(slope, 1 / slope), WRONG_SCALE))
    offset = float(np.median(predicted - true))
    low, high = np.percentile(predicted - true, (10, 90))
    common = min(abs(low), abs(high)) if low * high > 0 else 0.0
    text = (
        f"all values are {case.amount(abs(offset))} too {'high' if offset > 0 else 'low'}; check "
        "the rescale intercept with which the prediction was written"
    )
    found.append(Finding("offset", text, common / case.span, WRONG_OFFSET_SHARE))
    return found


def flat_value(case: Case) -> list[Finding]:
    """Many voxels have exactly one value where the reference varies: cut off, or filled in."""
    step = sample_step(case.true.size)
    predicted, true = case.predicted[::step], case.true[::step]
    values, counts = np.unique(predicted, return_counts=True)
    value, count = float(values[counts.argmax()]), int(counts.max())
    low, high = np.percentile(true[predicted == value], (10, 90))
    varies = case.reference_varies and high - low >= FLAT_VALUE_SPREAD * case.span
    if not varies or count == predicted.size:
        return []
    share = count / predicted.size
    at_end = value in (float(values[0]), float(values[-1]))
    what = f", and nothing {'higher' if value == values[-1] else 'lower'}," if at_end else ""
    text = (
        f"the prediction has the one value {case.amount(value)}{what} in {share:.1%} of the mask, "
        f"where the reference goes from {case.amount(low)} to {case.amount(high)}; check the "
        "model's range of values and the clipping when it was written"
    )
    kind = "cut_off" if at_end else "filled"
    return [Finding(kind, text, share, FLAT_VALUE_SHARE)]
