"""What the values of an MR are brought to before they are mapped to the unit range.

N4 bias field correction (Tustison et al. 2010), and the standard scale of Nyúl & Udupa 1999 with
the landmarks of Nyúl, Udupa & Zhang 2000. Also metal in CT, which is only counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medp2p.alignment import Alignment, resample_aligned
from medp2p.config import STANDARD_SCALE
from medp2p.errors import ImageReadError
from medp2p.volume import Volume
from medp2p.workers import one_thread

DECILES = tuple(range(10, 100, 10))
"""Landmarks between the two outer percentiles (Nyúl et al. 2000, L4)."""

EVENNESS = 1e-3
"""Share of an even scale in a fitted one, so that it rises even where images have ties."""

BIAS_GRID_MM = 4.0
"""Bias fields are found on means over blocks about this large …"""

BIAS_VOXELS = 15_000
"""… or larger, so that the body has about this many: N4's time grows with their number, and the
field is smooth."""

BIAS_ITERATIONS = (50, 50, 50)
"""Most iterations of N4 at each level; the spacing of its control points halves from level to
level."""

SMALLEST_BIAS_AXIS = 4
"""An axis of fewer voxels is continued for N4, which cannot fit a spline to it."""

METAL_HU = 3000.0
"""CT numbers from here on are metal; scanners with 12 bits saturate at 3071. Enamel, the
densest tissue, is rarely above 2800."""


def metal_voxels(volume: Volume) -> NDArray[np.bool_]:
    """Tell which voxels of a CT are metal (`METAL_HU`); shape of the volume."""
    metal: NDArray[np.bool_] = volume.array >= METAL_HU
    return metal


def correct_bias(volume: Volume, mask: NDArray[np.bool_]) -> Volume:
    """Divide an MR by its bias field, found by N4 in the positive voxels of the mask.

    The field is found on means over blocks (`BIAS_GRID_MM`, `BIAS_VOXELS`), and applied at every
    voxel by linear interpolation of its logarithm, whose mean in the mask is made 0. One thread.

    Args:
        volume: An MR.
        mask: The body, shape of the volume.

    Returns:
        float32 volume on the same grid.

    Raises:
        ImageReadError: If less than half of the mask is positive: such an MR was standardized
            before, and N4 models a factor.
    """
    usable = mask & (volume.array > 0)
    if not usable.any() or 2 * np.count_nonzero(usable) < np.count_nonzero(mask):
        raise ImageReadError(
            f"{volume.name}: {np.count_nonzero(usable)} of {np.count_nonzero(mask)} voxels of the "
            "body are positive, bias correction needs most; give the MR as scanned, or set "
            "bias_correction: false"
        )
    body_mm3 = np.count_nonzero(usable) * np.prod(volume.spacing_mm)
    block_mm = max(BIAS_GRID_MM, float(np.cbrt(body_mm3 / BIAS_VOXELS)))
    step = np.maximum(1, np.round(block_mm / volume.spacing_mm)).astype(int)
    total, count = (_block_sum(a, step) for a in (np.where(usable, volume.array, 0), usable))
    means = total / np.maximum(count, 1)
    inside = count * 2 >= np.prod(step)
    inside = inside if inside.any() else count > 0
    log_field = _n4(means.astype(np.float32), inside, volume.spacing_mm * step)
    affine = volume.affine.copy()
    affine[:3, :3] *= step
    affine[:3, 3] += volume.affine[:3, :3] @ ((step - 1) / 2)
    coarse = Volume(log_field, affine)
    field = resample_aligned(coarse, Alignment.identity(), volume.grid)
    field = field - np.float32(field[mask].mean(dtype=np.float64))
    return volume.with_array(volume.array.astype(np.float32) * np.exp(-field))


def percentiles_with_deciles(percentiles: tuple[float, float]) -> tuple[float, ...]:
    """The two outer percentiles and the deciles between them, rising."""
    low, high = percentiles
    return (low, *(d for d in DECILES if low < d < high), high)


def fit_landmarks(cases: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Fit the standard scale of Nyúl to the landmarks of the training images.

    Each image's landmarks are mapped linearly so that the outer two become the ends of
    `medp2p.config.STANDARD_SCALE`; their mean over images is the scale.

    Args:
        cases: From `medp2p.preprocessing.case_landmarks`, one per image.

    Returns:
        As many landmarks on the standard scale, strictly rising.

    Raises:
        ValueError: If there is no image, or one has other landmarks or no contrast.
    """
    marks = np.array(cases, dtype=np.float64)
    if marks.ndim != 2 or not len(marks) or (marks[:, 0] >= marks[:, -1]).any():
        raise ValueError("expected landmarks of at least one image, all equally many and rising")
    low, high = STANDARD_SCALE
    share = (marks - marks[:, :1]) / (marks[:, -1:] - marks[:, :1])
    even = np.linspace(0, 1, marks.shape[1])
    fitted = low + (high - low) * ((1 - EVENNESS) * share.mean(axis=0) + EVENNESS * even)
    return (low, *(float(v) for v in fitted[1:-1]), high)


def standard_knots(
    marks: Sequence[float], landmarks: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the knots of the map from an image's values to the standard scale.

    Landmarks that fall on one value (images of few values) become one knot at their mean, or
    at the end of the scale if the outer landmark is among them.

    Args:
        marks: Landmarks of the image.
        landmarks: The same on the standard scale.

    Returns:
        Values of the image and values on the standard scale, both strictly rising.

    Raises:
        ValueError: If the numbers differ or the image has no contrast.
    """
    if len(marks) != len(landmarks) or not marks[0] < marks[-1]:
        raise ValueError(f"expected {len(landmarks)} rising landmarks, got {tuple(marks)}")
    values, groups = np.unique(np.asarray(marks, dtype=np.float64), return_inverse=True)
    scale = np.bincount(groups, weights=landmarks) / np.bincount(groups)
    scale[0], scale[-1] = landmarks[0], landmarks[-1]
    return values, scale


def standardize(
    values: NDArray[np.generic], knots: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> NDArray[np.float32]:
    """Map an image's values piecewise linearly; the outer pieces go on beyond the knots."""
    own, scale = knots
    reach = 10 * (own[-1] - own[0])
    slope = np.diff(scale)[[0, -1]] / np.diff(own)[[0, -1]]
    own = np.concatenate([own[:1] - reach, own, own[-1:] + reach])
    scale = np.concatenate([scale[:1] - reach * slope[0], scale, scale[-1:] + reach * slope[1]])
    result = np.empty(values.shape, dtype=np.float32)
    for index, part in enumerate(values):
        result[index] = np.interp(part, own, scale)
    return result


def _block_sum(array: NDArray[np.generic], step: NDArray[np.int_]) -> NDArray[np.float64]:
    """Sum over blocks; those at the end may be incomplete."""
    summed: NDArray[np.float64] = np.asarray(array, dtype=np.float32)
    for axis, n in enumerate(step):
        starts = np.arange(0, summed.shape[axis], n)
        summed = np.add.reduceat(summed, starts, axis=axis, dtype=np.float64)
    return summed


def _n4(
    means: NDArray[np.float32], inside: NDArray[np.bool_], spacing: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Logarithm of the bias field on the grid of ``means``."""
    import SimpleITK as sitk

    width = [(0, max(0, SMALLEST_BIAS_AXIS - n)) for n in means.shape]
    images = []
    for array in (means, inside.astype(np.uint8)):
        padded = np.pad(array, width, mode="edge")
        image = sitk.GetImageFromArray(np.ascontiguousarray(padded.transpose(2, 1, 0)))
        image.SetSpacing([float(s) for s in spacing])
        images.append(image)
    filter_ = sitk.N4BiasFieldCorrectionImageFilter()
    filter_.SetMaximumNumberOfIterations(BIAS_ITERATIONS)
    with one_thread():
        filter_.Execute(*images)
        log_field = sitk.GetArrayFromImage(filter_.GetLogBiasFieldAsImage(images[0]))
    field = log_field.transpose(2, 1, 0)
    i, j, k = means.shape
    return np.ascontiguousarray(field[:i, :j, :k], dtype=np.float32)
