"""Checks and views of the arrays that every metric takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medp2p.errors import EvaluationError

Array = NDArray[Any]
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
DistanceArray = NDArray[np.float32] | FloatArray
Box = tuple[slice, ...]

_PIECE = 65536
"""Values of a flat array handled at a time: they stay in the processor's cache."""


def values_inside(prediction: Array, reference: Array, mask: Array | None) -> tuple[Array, Array]:
    """Return the values inside the mask of both images as flat arrays, all of them finite."""
    inside = checked_mask(prediction, reference, mask)
    order = slowest_axis_first(reference)
    chosen = ... if mask is None else inside.transpose(order)
    predicted = prediction.transpose(order)[chosen].ravel()
    true = reference.transpose(order)[chosen].ravel()
    refuse_not_finite("prediction", predicted)
    refuse_not_finite("reference", true)
    return predicted, true


def checked_mask(prediction: Array, reference: Array, mask: Array | None) -> BoolArray:
    """Return the mask as booleans, after checking that shapes agree and it is not empty."""
    if prediction.shape != reference.shape:
        raise EvaluationError(
            f"the prediction has {sizes(prediction.shape)} voxels and the reference "
            f"{sizes(reference.shape)}; compare images on one grid"
        )
    if mask is None:
        if not reference.size:
            raise EvaluationError("the images have no voxels; there is nothing to compare")
        return np.broadcast_to(np.True_, reference.shape)
    if mask.shape != reference.shape:
        raise EvaluationError(
            f"the mask has {sizes(mask.shape)} voxels and the reference "
            f"{sizes(reference.shape)}; give a mask on the reference's grid"
        )
    inside: BoolArray = mask > 0
    if not inside.any():
        raise EvaluationError("the mask is empty: no voxel is above 0; give a mask of the body")
    return inside


def pieces(predicted: Array, true: Array) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Yield both flat arrays piece by piece, as float64."""
    for start in range(0, predicted.size, _PIECE):
        piece = slice(start, start + _PIECE)
        yield (
            predicted[piece].astype(np.float64, copy=False),
            true[piece].astype(np.float64, copy=False),
        )


def slowest_axis_first(image: Array) -> list[int]:
    """Return the order of axes in which the voxels lie one after the other in memory."""
    return sorted(range(image.ndim), key=lambda axis: -abs(image.strides[axis]))


def refuse_not_finite(name: str, values: Array) -> None:
    """Raise `EvaluationError` if a value is NaN or infinite; ``name`` says of which image."""
    if values.dtype.kind != "f":
        return
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise EvaluationError(
            f"the {name} holds NaN or infinity in {bad} voxels inside the mask; repair the image "
            "or leave these voxels out of the mask"
        )


def bounding_box(inside: BoolArray) -> Box | None:
    """Return the smallest box around the mask, or None if it is empty."""
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(inside.any(axis=others))
        if not places.size:
            return None
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    return tuple(box)


def sizes(shape: tuple[int, ...]) -> str:
    """Return ``"20×20×19"``."""
    return "×".join(str(size) for size in shape)
