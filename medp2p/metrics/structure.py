"""Structural similarity: SSIM and MS-SSIM of volumes, SSIM of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from medp2p.errors import EvaluationError
from medp2p.metrics.arrays import (
    Array,
    BoolArray,
    Box,
    FloatArray,
    bounding_box,
    checked_mask,
    refuse_not_finite,
    sizes,
    slowest_axis_first,
    values_inside,
)
from medp2p.metrics.profiles import (
    HU_RANGE_SYNTHRAD2023,
    HU_RANGE_SYNTHRAD2025,
    PICTURE_PROFILE,
)

WINDOW = 7
"""Edge length in voxels of the cubic SSIM window."""
MARGIN = WINDOW // 2
"""Voxels dropped from every face, where the window would leave the volume."""
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the five scales, finest first (Wang, Simoncelli and Bovik 2003, section 3.2)."""
MS_SSIM_MINIMUM_SIZE = 97
"""Voxels per axis that leave one full window at the fifth scale; shorter axes are padded."""

_BLOCK = (16, 32, 256)
"""Voxels of a volume handled at a time: small enough for the processor's cache."""


def ssim(
    prediction: Array,
    reference: Array,
    mask: Array | None = None,
    value_range: tuple[float, float] = HU_RANGE_SYNTHRAD2023,
    dtype: type[np.floating[Any]] = np.float64,
) -> float:
    """Structural similarity on the whole 3-D volume, as SynthRAD2023 defines it.

    Both images are clipped to the range and set to its lower end outside the mask; local
    statistics are those of a uniform 7×7×7 window with the sample covariance; the map is
    averaged over the mask without the outermost three voxels of the volume.
    The index is that of Wang et al., IEEE Trans. Image Process. 13 (2004), eq. 13, K1 = 0.01
    and K2 = 0.03. SSIM of 2-D slices or with a Gaussian window are other numbers.

    Args:
        prediction: Three axes of at least seven voxels.
        reference: The same shape and units.
        mask: The same shape, values above 0 are inside; None is the whole volume.
        value_range: Lowest and highest value; the width is the data range.
        dtype: Of the computation, ``np.float64`` or ``np.float32``.

    Returns:
        At most 1, for equal images.

    Raises:
        EvaluationError: As for `voxel_metrics`, or if no voxel of the mask is at least three
            voxels from the faces of the volume.
    """
    pair = _prepared_pair(prediction, reference, mask, value_range, dtype)
    similarity = _mean_similarity(pair, exponent=None)
    if similarity is None:
        raise EvaluationError(
            f"SSIM has no value: no voxel of the mask lies {MARGIN} voxels or more from every face "
            f"of the volume of {sizes(pair.reference.shape)} voxels; give a larger image or mask"
        )
    return similarity


def ms_ssim(
    prediction: Array,
    reference: Array,
    mask: Array | None = None,
    value_range: tuple[float, float] = HU_RANGE_SYNTHRAD2025,
    dtype: type[np.floating[Any]] = np.float64,
) -> float:
    """Multi-scale structural similarity of the 3-D volume, as SynthRAD2025 computes it.

    The product over five scales of the mean, inside the mask, of (L·C·S)^w, where luminance,
    contrast and structure share the scale's weight. Wang, Simoncelli and Bovik (Asilomar 2003,
    eq. 7) weight luminance at the last scale only; the challenge's own code, which made its
    leaderboard, weights it at all five, and so does this function. L·C·S is then the SSIM of
    the scale, clipped below at 0, because C3 = C2/2.

    Axes shorter than 97 voxels are padded with their edge values. From one scale to the next
    images are averaged over 2×2×2 voxels and every second one is kept, and so is every second
    voxel of the mask.

    Arguments are those of `ssim`, with any number of voxels per axis.

    Returns:
        Between 0 and 1.

    Raises:
        EvaluationError: As for `voxel_metrics`, or if no voxel of the mask is left at a scale;
            the message says at which.
    """
    pair = _padded(_prepared_pair(prediction, reference, mask, value_range, dtype))
    product = 1.0
    for scale, weight in enumerate(MS_SSIM_WEIGHTS, start=1):
        if scale > 1:
            pair = _halved(pair)
        similarity = _mean_similarity(pair, exponent=weight)
        if similarity is None:
            raise EvaluationError(
                f"MS-SSIM has no value: at scale {scale} of {len(MS_SSIM_WEIGHTS)} "
                f"({sizes(pair.reference.shape)} voxels) no voxel of the mask is left; the mask "
                "is too small or too near the faces of the volume, use the profile synthrad2023"
            )
        product *= min(max(similarity, 0.0), 1.0)
    return product


def ssim_2d(
    prediction: Array,
    reference: Array,
    mask: Array | None = None,
    value_range: tuple[float, float] = PICTURE_PROFILE.value_range,
    dtype: type[np.floating[Any]] = np.float64,
) -> float:
    """Structural similarity of a picture, in the plane.

    As `ssim`, with a window of 7×7 pixels; without the outermost three pixels. With no mask this
    is what scikit-image's ``structural_similarity`` gives by default.

    Args:
        prediction: Three axes, one of them of one voxel, the others of at least seven.
        reference: The same shape and units.
        mask: The same shape, values above 0 are inside; None is the whole picture.
        value_range: Lowest and highest value; the width is the data range.
        dtype: Of the computation, ``np.float64`` or ``np.float32``.

    Returns:
        At most 1, for equal images.

    Raises:
        EvaluationError: As for `voxel_metrics`, or if this is no picture or too small a one.
    """
    from skimage.metrics import structural_similarity

    values_inside(prediction, reference, mask)
    flat = [axis for axis, size in enumerate(reference.shape) if size == 1]
    if len(flat) != 1 or sorted(reference.shape)[1] < WINDOW:
        raise EvaluationError(
            f"SSIM of a picture has no value: found {sizes(reference.shape)} voxels, expected one "
            f"slice of at least {WINDOW} pixels each way"
        )
    low, high = value_range
    inside = np.ones(reference.shape, bool) if mask is None else mask > 0
    images = (np.where(inside, np.clip(a, low, high), low) for a in (prediction, reference))
    predicted, true = (np.squeeze(a, flat[0]).astype(dtype) for a in images)
    _, similarity = structural_similarity(
        predicted, true, data_range=high - low, win_size=WINDOW, full=True
    )
    inner = (slice(MARGIN, -MARGIN),) * 2
    kept = np.squeeze(inside, flat[0])[inner]
    if not kept.any():
        raise EvaluationError(
            f"SSIM of a picture has no value: no pixel of the mask lies {MARGIN} pixels or more "
            "from its border; give a larger mask"
        )
    return float(similarity[inner][kept].mean(dtype=np.float64))


StructureMetric = Callable[..., float]

STRUCTURE_METRICS: Mapping[str, StructureMetric] = MappingProxyType(
    {"ssim": ssim, "ms_ssim": ms_ssim, "ssim_2d": ssim_2d}
)
"""Metrics of volumes: (prediction, reference, mask, range, dtype) to a number."""


@dataclass(frozen=True)
class _Pair:
    """Two images to be compared by their structure, read block by block.

    Attributes:
        prediction: Three axes, any real dtype.
        reference: The same shape.
        inside: The same shape; where the similarity is averaged.
        low: Lower end of the range.
        high: Upper end of the range.
        blank_outside: Whether both images are set to ``low`` outside ``inside``.
        dtype: Of the computation.
    """

    prediction: Array
    reference: Array
    inside: BoolArray
    low: float
    high: float
    blank_outside: bool
    dtype: type[np.floating[Any]]

    def read(self, box: Box) -> tuple[FloatArray, FloatArray]:
        """Return new arrays of both images within ``box``, clipped and shifted to 0..Q."""
        return self._read(self.prediction, box), self._read(self.reference, box)

    def _read(self, image: Array, box: Box) -> FloatArray:
        values: FloatArray = image[box].astype(self.dtype)
        np.clip(values, self.low, self.high, out=values)
        values -= self.low
        if self.blank_outside:
            values[~self.inside[box]] = 0
        return values


def _prepared_pair(
    prediction: Array,
    reference: Array,
    mask: Array | None,
    value_range: tuple[float, float],
    dtype: type[np.floating[Any]],
) -> _Pair:
    """Check both images and view them with the slowest axis in memory first."""
    inside = checked_mask(prediction, reference, mask)
    if reference.ndim != 3:
        raise EvaluationError(
            f"an image has {reference.ndim} axes; volumes with three are compared"
        )
    order = slowest_axis_first(reference)
    pair = _Pair(
        prediction.transpose(order),
        reference.transpose(order),
        inside.transpose(order),
        *value_range,
        blank_outside=mask is not None,
        dtype=dtype,
    )
    for box in _blocks(pair.inside):
        inside_box = pair.inside[box]
        refuse_not_finite("prediction", pair.prediction[box][inside_box])
        refuse_not_finite("reference", pair.reference[box][inside_box])
    return pair


def _mean_similarity(pair: _Pair, exponent: float | None) -> float | None:
    """Average the SSIM map over the mask without the volume's outermost `MARGIN` voxels.

    Args:
        pair: The images.
        exponent: If given, each value is clipped below at 0 and raised to it first.

    Returns:
        The mean, or None if no voxel of the mask is left.
    """
    inner = pair.inside[(slice(MARGIN, -MARGIN),) * 3]
    total, count = 0.0, 0
    for box in _blocks(inner):
        windows = tuple(slice(s.start, s.stop + 2 * MARGIN) for s in box)
        similarity = _similarity_map(*pair.read(windows), pair.high - pair.low)[inner[box]]
        if exponent is not None:
            similarity = np.maximum(similarity, 0) ** exponent
        total += float(similarity.sum(dtype=np.float64))
        count += similarity.size
    return total / count if count else None


def _similarity_map(x: FloatArray, y: FloatArray, data_range: float) -> FloatArray:
    """Compute SSIM at every voxel whose window lies inside the block; overwrites ``x`` and ``y``.

    Its denominators hold only the sum of both variances, so four window means are enough.

    Args:
        x: One image, shape (a, b, c), not negative.
        y: The other.
        data_range: Q in C1 = (0.01 Q)² and C2 = (0.03 Q)².

    Returns:
        Shape (a - 6, b - 6, c - 6).
    """
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    sample = WINDOW**3 / (WINDOW**3 - 1)
    mean_x, mean_y, mean_xy = _window_mean(x), _window_mean(y), _window_mean(x * y)
    x *= x
    y *= y
    x += y
    mean_squares = _window_mean(x)

    product = mean_x * mean_y
    mean_x *= mean_x
    mean_y *= mean_y
    squares = np.add(mean_x, mean_y, out=mean_x)
    covariance = np.subtract(mean_xy, product, out=mean_xy)
    covariance *= sample
    variances = np.subtract(mean_squares, squares, out=mean_squares)
    variances *= sample
    similarity = (2 * product + c1) * (2 * covariance + c2)
    similarity /= (squares + c1) * (variances + c2)
    return similarity


def _window_mean(values: FloatArray) -> FloatArray:
    """Mean over the 7×7×7 window at every place where it fits, one axis after the other."""
    for axis in range(3):
        values = np.moveaxis(_sum_of_seven(np.moveaxis(values, axis, 0)), 0, axis)
    values /= WINDOW**3
    return values


def _sum_of_seven(values: FloatArray) -> FloatArray:
    """Sum seven neighbours along the first axis, as 4 + 2 + 1."""
    places = len(values) - WINDOW + 1
    pairs = values[1:] + values[:-1]
    total = pairs[:places] + pairs[2 : 2 + places]
    total += pairs[4 : 4 + places]
    total += values[6:]
    return total


def _blocks(inside: BoolArray) -> Iterator[Box]:
    """Yield boxes that together hold every voxel of the mask once, each as tight as it can be."""
    starts = (range(0, size, step) for size, step in zip(inside.shape, _BLOCK, strict=True))
    first, second, third = (list(values) for values in starts)
    for i in first:
        for j in second:
            for k in third:
                block = inside[i : i + _BLOCK[0], j : j + _BLOCK[1], k : k + _BLOCK[2]]
                tight = bounding_box(block)
                if tight is not None:
                    yield tuple(
                        slice(start + s.start, start + s.stop)
                        for start, s in zip((i, j, k), tight, strict=True)
                    )


def _padded(pair: _Pair) -> _Pair:
    """Repeat edge voxels up to `MS_SSIM_MINIMUM_SIZE`: half before, the rest after."""
    missing = [max(0, MS_SSIM_MINIMUM_SIZE - size) for size in pair.inside.shape]
    if not any(missing):
        return pair
    widths = [(count // 2, count - count // 2) for count in missing]
    return _Pair(
        np.pad(pair.prediction, widths, mode="edge"),
        np.pad(pair.reference, widths, mode="edge"),
        np.pad(pair.inside, widths, mode="edge"),
        pair.low,
        pair.high,
        pair.blank_outside,
        pair.dtype,
    )


def _halved(pair: _Pair) -> _Pair:
    """Return the next scale: output voxel i is the mean of voxels 2i - 1 and 2i along each axis.

    What lies before the first voxel counts as 0. The mask keeps every second voxel.
    """
    inside = pair.inside[::2, ::2, ::2]
    prediction, reference = (np.empty(inside.shape, pair.dtype) for _ in range(2))
    for i in range(len(inside)):
        slab = (slice(max(0, 2 * i - 1), 2 * i + 1), slice(None), slice(None))
        for values, out in zip(pair.read(slab), (prediction, reference), strict=True):
            out[i] = _sum_of_pairs(_sum_of_pairs(values.sum(axis=0), 0), 1) / 8
    return _Pair(prediction, reference, inside, 0.0, pair.high - pair.low, False, pair.dtype)


def _sum_of_pairs(values: FloatArray, axis: int) -> FloatArray:
    """Add elements 2i - 1 and 2i along an axis, element -1 being 0."""
    values = np.moveaxis(values, axis, 0)
    total = values[::2].copy()
    total[1:] += values[1:-1:2]
    return np.moveaxis(total, 0, axis)
