"""Whether a whole tissue is too high or too low."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from medp2p.evaluation.findings.arrays import Array, Image
from medp2p.evaluation.findings.case import MINIMUM_VOXELS, Case
from medp2p.metrics import TISSUES_HU, in_tissue
from medp2p.results import Finding

BIAS_HU: Mapping[str, float] = {"air": 280.0, "soft": 25.0, "bone": 250.0}
"""Median error over a tissue of the reference, from which on the tissue is biased."""
STEP_HU: Mapping[str, float] = {"air": 110.0, "bone": 32.0}
"""Step of the error at the value where a tissue begins."""
STEP_WINDOW_HU = 120.0
"""The step is the gap between straight lines through the errors on both sides, as wide as this."""
STEP_SAMPLES = 300_000
"""About as many voxels are looked at."""
STEP_VOXELS = 400
"""Voxels on each side without which no step is looked for."""
TISSUE_BORDERS_HU = {"air": (-200.0, -1), "bone": (250.0, 1)}
"""Where a tissue ends towards soft tissue, and on which side of it the tissue is."""


def biased_tissues(case: Case) -> list[Finding]:
    """A whole tissue is too high or too low.

    Two signs are looked for. The median error over the tissue may be larger than subjects differ.
    And the error may step up at the tissue's border, as it does if one class of tissue was
    changed: what differs between subjects grows smoothly from one CT number to the next, so a
    much smaller step can be told from it. The error is looked at against the reference's CT
    number and against the predicted one, since either may decide what was changed.
    """
    if not case.hu:
        return []
    error = case.predicted - case.true
    medians = [_median_finding(case, error, tissue) for tissue in BIAS_HU]
    found = [finding for finding in medians if finding]
    known = {finding.kind for finding in found if finding.value >= finding.threshold}
    for tissue in TISSUE_BORDERS_HU:
        if not known & {"biased_soft", f"biased_{tissue}"}:
            found.append(_step_finding(case, error, tissue))
    return found


def _median_finding(case: Case, error: Image, tissue: str) -> Finding | None:
    here = error[in_tissue(case.true, TISSUES_HU[tissue])]
    if here.size < MINIMUM_VOXELS:
        return None
    bias = float(np.median(here))
    text = _bias_text(tissue, bias, "its median error inside the mask")
    return Finding(f"biased_{tissue}", text, abs(bias), BIAS_HU[tissue])


def _step_finding(case: Case, error: Image, tissue: str) -> Finding:
    border, side = TISSUE_BORDERS_HU[tissue]
    every = max(1, error.size // STEP_SAMPLES)
    steps = [
        side * _sudden_step(values[::every], error[::every], border)
        for values in (case.true, case.predicted)
    ]
    step = max(steps, key=abs)
    text = _bias_text(tissue, step, f"the step of the error at {border:g} HU, where it begins")
    return Finding(f"biased_{tissue}", text, abs(step), STEP_HU[tissue])


def _sudden_step(values: Image, error: Image, border: float) -> float:
    """The step at the border, or 0 if one beside it is as large, or cannot be measured.

    Then the error is no straight line anywhere, and nothing is special about the border.
    """
    below, step, above = (_step(values, error, border + o * STEP_WINDOW_HU) for o in (-2, 0, 2))
    stands_out = abs(step) > abs(below) and abs(step) > abs(above)
    return step if stands_out else 0.0


def _bias_text(tissue: str, hu: float, what: str) -> str:
    direction, name = "high" if hu > 0 else "low", tissue_words(tissue)
    return (
        f"{name} is {abs(hu):.0f} HU too {direction} ({what}); check the CT numbers that the "
        f"method gives to {name}"
    )


def tissue_words(tissue: str) -> str:
    """Return the name of a tissue class as people say it."""
    return "soft tissue" if tissue == "soft" else tissue.replace("_", " ")


def _step(values: Image, error: Image, border: float) -> float:
    """Gap at the border between lines through the errors below and above; NaN of few voxels.

    If values next to the border are missing, because a class was moved away from it, the line
    begins with the first ones that are there.
    """
    ends = []
    for side in (-1, 1):
        away = side * (values - border)
        near = away[(away >= 0) & (away < 3 * STEP_WINDOW_HU)]
        first = float(np.quantile(near, 0.002)) if near.size else 0.0
        here = (away >= first) & (away < first + STEP_WINDOW_HU)
        if first > STEP_WINDOW_HU or np.count_nonzero(here) < STEP_VOXELS:
            return math.nan
        ends.append(_line_at(border, values[here], error[here]))
    return ends[1] - ends[0]


def _line_at(place: float, x: Array, y: Array) -> float:
    """Height at a place of the straight line through points, the outermost 2 % of y clipped."""
    along = x.astype(np.float64) - place
    height = np.clip(y, *np.percentile(y, (2, 98))).astype(np.float64)
    apart = along - along.mean()
    square = float(apart @ apart)
    slope = float(apart @ height) / square if square else 0.0
    return float(height.mean() - slope * along.mean())
