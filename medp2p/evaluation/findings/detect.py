"""The detectors in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medp2p.evaluation.findings.arrays import Array
from medp2p.evaluation.findings.case import Case, cut_to_body
from medp2p.evaluation.findings.consequences import without_consequences
from medp2p.evaluation.findings.cropping import without_lost_slices
from medp2p.evaluation.findings.flicker import flicker
from medp2p.evaluation.findings.identity import constant, copied, mirrored, unrelated
from medp2p.evaluation.findings.places import local_error, missing_or_added_bone
from medp2p.evaluation.findings.position import without_shift
from medp2p.evaluation.findings.sharpness import EDGE_WIDTH, blurred, lost_detail
from medp2p.evaluation.findings.tissues import biased_tissues
from medp2p.evaluation.findings.values import flat_value, wrong_units
from medp2p.metrics import Curve
from medp2p.results import Finding, Values

Detector = Callable[[Case], list[Finding]]

BEFORE_CROPPING: tuple[Detector, ...] = (constant, copied, mirrored, unrelated)
DETECTORS: tuple[Detector, ...] = (
    wrong_units,
    missing_or_added_bone,
    flat_value,
    biased_tissues,
    flicker,
    blurred,
    local_error,
)


def find_faults(
    prediction: Array,
    reference: Array,
    mask: Array | None,
    spacing_mm: Sequence[float] | NDArray[np.float64],
    values: Values,
    curves: Mapping[str, Curve],
    source: Array | None = None,
    *,
    interpolated: bool = False,
) -> tuple[Finding, ...]:
    """Name the faults of a prediction, the gravest first.

    A displaced prediction is moved back by whole voxels, and cropped slices are left out, before
    other faults are looked for. A fault that explains others takes them into its own text.

    Args:
        prediction: (I, J, K) in RAS order.
        reference: The same shape and units.
        mask: The same shape, values above 0 are inside; None is the whole volume.
        spacing_mm: Distance between voxels along the three axes.
        values: From `medp2p.metrics.measure`. If ``mae_hu`` is among them the images are CT
            in HU; else the faults of tissues are not looked for. ``edge_width_ratio`` is measured
            if it is not among them.
        curves: From the same; ``power_ratio_by_frequency_per_mm`` tells which detail blur has cost.
        source: The image that was translated; looked at if it has the same shape.
        interpolated: Whether the prediction was resampled or aligned since its method made it;
            then it is not judged for blur, which interpolation adds.

    Returns:
        What lies above its threshold. Nothing if fewer than `MINIMUM_VOXELS` are compared.
    """
    found = [
        finding
        for finding in measure_faults(
            prediction, reference, mask, spacing_mm, values, source, interpolated=interpolated
        )
        if finding.value >= finding.threshold
    ]
    return tuple(
        replace(f, text=f.text + lost_detail(curves)) if f.kind == "blurred" else f
        for f in without_consequences(found)
    )


def measure_faults(
    prediction: Array,
    reference: Array,
    mask: Array | None,
    spacing_mm: Sequence[float] | NDArray[np.float64],
    values: Values,
    source: Array | None = None,
    *,
    interpolated: bool = False,
) -> list[Finding]:
    """Measure what every detector looks at, below its threshold or above.

    Arguments as for `find_faults`.
    """
    case = cut_to_body(prediction, reference, mask, spacing_mm, values, source, interpolated)
    if case is None:
        return []
    measured = [finding for detector in BEFORE_CROPPING for finding in detector(case)]
    moved_back, shift = without_shift(case)
    kept, lost = without_lost_slices(moved_back)
    measured += [*shift, *lost]
    if kept is not case:
        kept = replace(kept, values={k: v for k, v in kept.values.items() if k != EDGE_WIDTH})
    return measured + [finding for detector in DETECTORS for finding in detector(kept)]
