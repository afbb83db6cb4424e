"""Mutual information of two images."""

from __future__ import annotations

import numpy as np

from medp2p.metrics.arrays import Array, pieces, values_inside
from medp2p.metrics.curves import joint_counts

INFORMATION_BINS = 128
"""Bins of the profile's range for mutual information: 32 HU wide for 4095 HU."""


def mutual_information(
    prediction: Array,
    reference: Array,
    mask: Array | None,
    value_range: tuple[float, float],
    bins: int = INFORMATION_BINS,
) -> float:
    """Mutual information of both images inside the mask, in nats.

    H(prediction) + H(reference) - H(both) of the joint histogram (Cover and Thomas, Elements of
    Information Theory, 2nd ed., eq. 2.28). The value depends on the bins: it can be compared
    between methods on one case, and is at most ln(bins).

    Args:
        prediction: Any shape.
        reference: The same shape and units.
        mask: The same shape, values above 0 are inside; None is everything.
        value_range: Lowest and highest value; what lies beyond counts in the outermost bin.
        bins: Equally wide bins over the range.

    Returns:
        0 if one image is constant or tells nothing about the other.

    Raises:
        EvaluationError: If shapes differ, the mask is empty or a value inside it is NaN or
            infinite.
    """
    predicted, true = values_inside(prediction, reference, mask)
    counts = joint_counts(pieces(predicted, true), value_range, value_range, bins)
    joint = counts / true.size
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    filled = joint > 0
    ratio = joint[filled] / independent[filled]
    return max(0.0, float(np.sum(joint[filled] * np.log(ratio))))
