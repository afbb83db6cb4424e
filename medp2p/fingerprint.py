"""What training data look like, kept in the model file to tell what a model is for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medp2p.preprocessing import decode
from medp2p.store import PreparedCase, PreparedData

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def fingerprint(data: PreparedData) -> dict[str, Any]:
    """Say what the training data look like.

    Returns:
        Hash of the prepared voxels; number of cases; lowest and highest, over cases, of the
        training grid's spacing and of the body's extent in mm (left-right, back-front,
        feet-head); quantiles of the first source's unit values inside the body, averaged over
        cases; lowest and highest of the values that became -1 and +1.
    """
    cases = data.split("train")
    spacing = np.array([case.grid.spacing_mm for case in cases])
    extent = np.array([_body_extent_mm(data, case) for case in cases])
    quantiles = [
        np.quantile(decode(data.source(case)[0][data.mask(case) > 0]), QUANTILES) for case in cases
    ]
    source_ranges = np.array([case.source_ranges[0] for case in cases])
    return {
        "prepared_sha256": data.hash,
        "cases": len(cases),
        "spacing_mm": [spacing.min(axis=0).tolist(), spacing.max(axis=0).tolist()],
        "body_extent_mm": [extent.min(axis=0).tolist(), extent.max(axis=0).tolist()],
        "source_quantiles": dict(
            zip(map(str, QUANTILES), np.mean(quantiles, axis=0).tolist(), strict=True)
        ),
        "source_range": [float(source_ranges.min()), float(source_ranges.max())],
    }


def _body_extent_mm(data: PreparedData, case: PreparedCase) -> NDArray[np.float64]:
    mask = data.mask(case) > 0
    lengths = [
        np.ptp(np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))) + 1
        for axis in (2, 1, 0)
    ]
    return np.array(lengths) * case.grid.spacing_mm
