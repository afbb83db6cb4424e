"""Recognize an image under another name, in another format, or rescaled."""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medp2p.volume import Volume, reorient

PICTURE_VOXELS = 10
"""Edge of the coarse picture, for axes that are as long."""

NEARLY_THE_SAME = 0.9995
"""Correlation of coarse pictures from where on two images are taken for one, otherwise stored."""


def fingerprint(volume: Volume) -> str:
    """Describe an image in about a kilobyte: ``HASH:SHAPE:PICTURE``.

    The hash is that of the decoded voxels in RAS order, whatever the file's format, order of
    axes and number type. The picture holds means of blocks of the image as 0 to 255.
    """
    array = reorient(volume, "RAS").array
    digest = hashlib.sha256(repr(array.shape).encode())
    for plane in np.moveaxis(array, 2, 0):
        digest.update(np.ascontiguousarray(plane, dtype=np.float32).data)
    picture = _coarse_picture(array)
    shape = "x".join(str(n) for n in picture.shape)
    return f"{digest.hexdigest()}:{shape}:{base64.b64encode(picture.tobytes()).decode()}"


def voxels_hash(mark: str | None) -> str | None:
    """Return the part of a fingerprint that only images with the same voxels share."""
    return mark.partition(":")[0] if mark else None


def nearly_the_same(marks: Sequence[str | None]) -> Iterator[tuple[int, int]]:
    """Yield the positions of images whose coarse pictures are alike, two at a time."""
    by_shape: dict[str, list[int]] = defaultdict(list)
    for place, mark in enumerate(marks):
        if mark:
            by_shape[mark.split(":")[1]].append(place)
    for places in by_shape.values():
        pictures = np.stack([_normalized((marks[place] or "").split(":")[2]) for place in places])
        alike = np.argwhere(np.triu(pictures @ pictures.T > NEARLY_THE_SAME, 1))
        yield from ((places[i], places[j]) for i, j in alike.tolist())


def _normalized(picture: str) -> NDArray[np.float64]:
    """The picture's values with mean 0 and length 1; all 0 if there is nothing in it."""
    values = np.frombuffer(base64.b64decode(picture), np.uint8).astype(np.float64)
    centred = values - values.mean()
    length = float(np.linalg.norm(centred))
    return np.asarray(centred / length if length > 0 else centred)


def _coarse_picture(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Means of blocks, one axis after the other, as 0 to 255."""
    means = array
    for axis in range(3):
        blocks = np.array_split(means, min(means.shape[axis], PICTURE_VOXELS), axis=axis)
        means = np.stack([block.mean(axis=axis, dtype=np.float64) for block in blocks], axis=axis)
    low, high = means.min(), means.max()
    scaled = (means - low) * (255 / (high - low) if high > low else 0.0)
    return np.asarray(np.rint(scaled), np.uint8)
