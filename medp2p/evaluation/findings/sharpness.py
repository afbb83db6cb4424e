"""Whether the prediction is blurred."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from medp2p.evaluation.findings.arrays import Mask
from medp2p.evaluation.findings.case import CAVITY_HU, Case
from medp2p.metrics import Curve, edge_width_ratio, tissue_depth_mm
from medp2p.results import Finding

BLURRED_WIDTH_HU = 1.65
"""How many times wider a predicted CT's edges are than the reference's."""
BLURRED_WIDTH = 1.85
"""The same in other units, where the surfaces of cavities are among the edges."""
EDGE_WIDTH = "edge_width_ratio"


def blurred(case: Case) -> list[Finding]:
    """Edges are wider than the reference's.

    The metric ``edge_width_ratio`` as it was measured, or measured here if it is not among the
    values. A prediction that was interpolated since it was made is not judged, because linear
    interpolation blurs by itself; nor is one with too few edges, or with those of noise only.
    """
    if case.interpolated or not case.reference_varies:
        return []
    ratio = case.values[EDGE_WIDTH] if EDGE_WIDTH in case.values else _edge_width(case)
    if math.isnan(ratio):
        return []
    text = (
        f"the prediction's edges are {ratio:.2f} times as wide as the reference's; check its "
        "resampling, and mistrust a low mean error"
    )
    threshold = BLURRED_WIDTH_HU if case.hu else BLURRED_WIDTH
    return [Finding("blurred", text, ratio, threshold)]


def _edge_width(case: Case) -> float:
    tissue: Mask = case.inside & (case.reference > CAVITY_HU) if case.hu else case.inside
    depth = tissue_depth_mm(tissue, case.spacing_mm)
    images = case.prediction.astype(np.float64), case.reference.astype(np.float64)
    return edge_width_ratio(*images, depth, case.spacing_mm)


def lost_detail(curves: Mapping[str, Curve]) -> str:
    """Say from which size on all finer detail has less than half the reference's power."""
    curve = curves.get("power_ratio_by_frequency_per_mm")
    if curve is None:
        return ""
    kept = [x for x, y in zip(curve.x, curve.y, strict=True) if y >= 0.5]
    lost = [x for x in curve.x if x > max(kept, default=0.0)]
    return f"; detail finer than {1 / (2 * lost[0]):.1f} mm has lost half its power" if lost else ""
