"""From a volume as scanned to what the network sees, and back.

Training and translation call the same functions, so the network's input is bit-equal on both
ways. The *training grid* of a volume has the volume's own axes, reordered and flipped to
RAS, and the configured spacing; each volume is resampled once, straight to it. Values are
mapped to the unit range [-1, 1] and kept as int16 *codes* of `CODES_PER_UNIT` per unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medp2p.config import ImageSettings, PreprocessingSettings
from medp2p.errors import GeometryError, ImageReadError
from medp2p.volume import Grid, Volume, reorient

CODES_PER_UNIT = 16384
"""An int16 code holds -2..+2 in steps of 1/16384: 0.125 HU for the default CT range."""

MR_UNIT_LIMITS = (-1.0, 1.99)
"""MR values beyond the percentiles are kept up to here, for bright vessels and fat."""

BODY_MASK_SPACING_MM = 1.5
"""Body masks are found on a grid about this coarse and refined by interpolation."""

VOXELS_FOR_THRESHOLD = 1_000_000
"""The threshold between air and body is found on about this many voxels."""

_NEIGHBOURS_IN_SLICE = np.zeros((3, 3, 3), dtype=bool)
_NEIGHBOURS_IN_SLICE[1] = ndimage.generate_binary_structure(2, 1)

SMALLEST_MASK_VOXELS = 64
"""A body of fewer voxels gives no percentiles worth the name."""

MOST_LABELS = 255
"""A mask or label map has no higher value."""

SMALLEST_OVERLAP = 0.5
"""Images are refused as a pair if less of the body lies inside the second one."""

CT_AIR_HU = -200.0
"""A CT in HU has values below this: air, in or around the body."""

MR_LOWEST = -900.0
"""An MR has no values down here: it is stored from 0, or standardized around 0."""


@dataclass(frozen=True)
class PreparedImage:
    """An image on the training grid.

    Attributes:
        codes: int16, shape (K, J, I): feet to head, back to front, left to right.
        grid: The training grid, indexed (I, J, K).
        value_range: The values (HU or MR units) that became -1 and +1.
    """

    codes: NDArray[np.int16]
    grid: Grid
    value_range: tuple[float, float]


def training_grid(grid: Grid, settings: PreprocessingSettings) -> Grid:
    """Return the grid that a volume on ``grid`` is resampled to.

    Its axes are those of ``grid`` in RAS order, its centre is the same, and it covers the
    same extent to the nearest whole voxel.
    """
    canonical = reorient(_empty_volume(grid), "RAS").grid
    spacing = canonical.spacing_mm
    wanted = np.array(
        [own if new is None else new for new, own in zip(settings.spacing_mm, spacing, strict=True)]
    )
    if np.allclose(wanted, spacing, rtol=1e-4, atol=0):
        return canonical
    size = np.maximum(1, np.round(np.array(canonical.shape) * spacing / wanted)).astype(int)
    affine = canonical.affine.copy()
    affine[:3, :3] *= wanted / spacing
    old_centre = canonical.affine[:3, :3] @ ((np.array(canonical.shape) - 1) / 2)
    new_centre = affine[:3, :3] @ ((size - 1) / 2)
    affine[:3, 3] += old_centre - new_centre
    return Grid((int(size[0]), int(size[1]), int(size[2])), affine)


def resample(
    volume: Volume, grid: Grid, *, outside: float | None = None, nearest: bool = False
) -> NDArray[Any]:
    """Sample a volume at the voxel centres of another grid.

    Linear interpolation in float32, or the nearest voxel with its dtype kept. Where only the
    order of axes differs no value changes.

    Args:
        volume: The image.
        grid: Where values are wanted.
        outside: Value for points more than half a voxel outside the image; None continues
            the outermost voxel.
        nearest: Take the nearest voxel, for masks and labels.

    Returns:
        Array of ``grid.shape``; float32, or the volume's dtype if nothing was interpolated.
    """
    canonical = reorient(volume, grid.orientation)
    if canonical.grid.difference(grid) is None:
        return canonical.array
    import SimpleITK as sitk

    index_to_index = np.linalg.inv(canonical.affine) @ grid.affine
    values = canonical.array if nearest else canonical.array.astype(np.float32, copy=False)
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    sampler = sitk.ResampleImageFilter()
    sampler.SetSize([int(n) for n in grid.shape])
    sampler.SetTransform(
        sitk.AffineTransform(
            [float(v) for v in index_to_index[:3, :3].ravel()],
            [float(v) for v in index_to_index[:3, 3]],
        )
    )
    sampler.SetInterpolator(sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear)
    sampler.SetUseNearestNeighborExtrapolator(outside is None)
    sampler.SetDefaultPixelValue(0.0 if outside is None else float(outside))
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.transpose(2, 1, 0)))
    sampled = sitk.GetArrayFromImage(sampler.Execute(image)).transpose(2, 1, 0)
    return sampled.astype(volume.array.dtype, copy=False) if nearest else sampled


def body_mask(volume: Volume, modality: str) -> NDArray[np.bool_]:
    """Find the body: the largest connected part that is not air, with its cavities.

    CT is cut at -300 HU; MR at Li's minimum cross-entropy threshold (Li & Tam 1998) of the
    slightly smoothed image.

    Args:
        volume: An MR or CT image.
        modality: ``"MR"`` or ``"CT"``.

    Returns:
        Boolean array of the volume's shape.

    Raises:
        ImageReadError: If nothing stands out from the background.
    """
    from skimage.filters import threshold_li

    coarse = _coarsened(volume)
    values = ndimage.gaussian_filter(coarse.array.astype(np.float32), 0.5)
    if modality == "CT":
        threshold = -300.0
    elif values.max() > values.min():
        threshold = float(threshold_li(_thinned(values)))
    else:
        threshold = float(values.max())
    body = _solid(values > threshold)
    if not body.any():
        raise ImageReadError(
            f"{volume.name}: no body found, all values lie between {values.min():.4g} and "
            f"{values.max():.4g}; give a mask or another image"
        )
    fine = resample(coarse.with_array(body.astype(np.float32)), volume.grid)
    mask: NDArray[np.bool_] = fine > 0.5
    return mask


def check_modality(volume: Volume, settings: ImageSettings, role: str) -> None:
    """Refuse a CT where an MR is expected, and the other way round.

    What the file says of itself counts first. Else a CT is recognized by its air, unless
    ``hu_range`` leaves air out.

    Args:
        volume: The image.
        settings: What it should be.
        role: ``"source"`` or ``"target"``, for the message.

    Raises:
        ImageReadError: If the values are not what the modality has.
    """
    low, high = float(volume.array.min()), float(volume.array.max())
    modality = settings.modality
    if volume.modality == modality:
        return
    if volume.modality is not None:
        raise ImageReadError(
            f"{volume.name}: this is {volume.modality}, but the {role} should be {modality}; "
            "give the other image or another preset"
        )
    if modality == "CT" and low > CT_AIR_HU > settings.hu_range[0]:
        raise ImageReadError(
            f"{volume.name}: values {low:.4g}..{high:.4g} are not CT numbers in HU (air is near "
            f"-1000), but the {role} should be CT; give the CT, in HU"
        )
    if modality == "MR" and low <= MR_LOWEST:
        raise ImageReadError(
            f"{volume.name}: values {low:.4g}..{high:.4g} look like a CT in HU, but the {role} "
            "should be MR; give the MR, or if it is one say so: medp2p convert … --modality MR"
        )


def check_mask_values(mask: Volume) -> None:
    """Refuse an image that is no mask: a scan, or values that are no labels.

    Raises:
        ImageReadError: If it is noted as MR or CT, or holds negative or broken numbers.
    """
    found = None
    if mask.modality in ("MR", "CT"):
        found = f"this is {mask.modality}"
    elif mask.array.min(initial=0) < 0:
        found = "it holds negative values"
    elif mask.array.dtype.kind == "f" and not (mask.array == np.rint(mask.array)).all():
        found = "it holds fractions"
    elif mask.array.max(initial=0) > MOST_LABELS:
        found = f"it holds values up to {mask.array.max():g}"
    if found:
        raise ImageReadError(
            f"{mask.name}: not a mask, {found}; expected 0 outside and a small whole number inside"
        )


def check_mask(mask: Volume, image: Volume) -> NDArray[np.bool_]:
    """Return the mask's voxels on the image's own axes, as booleans.

    Raises:
        GeometryError: If the mask lies on another grid.
        ImageReadError: If it is empty.
    """
    check_mask_values(mask)
    aligned = reorient(mask, image.orientation)
    difference = aligned.grid.difference(image.grid)
    if difference:
        raise GeometryError(
            f"{mask.name}: not on the grid of {image.name}: {difference}; resample the mask"
        )
    voxels: NDArray[np.bool_] = aligned.array > 0
    if np.count_nonzero(voxels) < SMALLEST_MASK_VOXELS:
        raise ImageReadError(
            f"{mask.name}: {np.count_nonzero(voxels)} voxels are marked as body, expected at "
            f"least {SMALLEST_MASK_VOXELS}; repair or remove the mask"
        )
    return voxels


def prepare_source(
    volume: Volume, mask: NDArray[np.bool_], settings: PreprocessingSettings
) -> PreparedImage:
    """Bring a source image to its own training grid and code its values.

    Args:
        volume: The source.
        mask: Body voxels on the volume's grid; used for the percentiles of MR.
        settings: Spacing and value mapping.

    Raises:
        ImageReadError: If an MR is constant inside the mask.
    """
    grid = training_grid(volume.grid, settings)
    value_range = find_value_range(volume, mask, settings.source)
    return _code(resample(volume, grid), grid, value_range, settings.source)


def prepare_onto(
    volume: Volume, mask: NDArray[np.bool_], settings: ImageSettings, grid: Grid
) -> PreparedImage:
    """Bring another image of the case (target, further source) to the source's training grid.

    Outside the image's field of view the result has the lowest value.

    Args:
        volume: The image.
        mask: Body voxels on the volume's grid; used for the percentiles of MR.
        settings: How values are mapped.
        grid: The training grid.

    Raises:
        ImageReadError: If an MR is constant inside the mask.
    """
    value_range = find_value_range(volume, mask, settings)
    return _code(resample(volume, grid, outside=value_range[0]), grid, value_range, settings)


def prepare_mask(mask: Volume, grid: Grid) -> NDArray[np.uint8]:
    """Sample a mask on the training grid; uint8 of shape (K, J, I), 0 outside the image."""
    sampled = resample(mask.with_array(mask.array.astype(np.uint8)), grid, outside=0, nearest=True)
    return np.ascontiguousarray(sampled.transpose(2, 1, 0))


def find_value_range(
    volume: Volume, mask: NDArray[np.bool_], settings: ImageSettings
) -> tuple[float, float]:
    """Return the values that are mapped to -1 and +1.

    Raises:
        ImageReadError: If an MR is constant inside the mask.
    """
    if settings.modality == "CT":
        return settings.hu_range
    if np.count_nonzero(mask) < SMALLEST_MASK_VOXELS:
        raise ImageReadError(
            f"{volume.name}: holds {np.count_nonzero(mask)} voxels of the body, expected at least "
            f"{SMALLEST_MASK_VOXELS}; check that the images belong together"
        )
    low, high = (float(v) for v in np.percentile(volume.array[mask], settings.percentiles))
    if not low < high:
        raise ImageReadError(
            f"{volume.name}: the value is {low:.4g} nearly everywhere inside the body; "
            "expected an image with contrast"
        )
    return low, high


def to_unit(
    values: NDArray[Any], value_range: tuple[float, float], settings: ImageSettings
) -> NDArray[np.float32]:
    """Map values linearly so that ``value_range`` becomes [-1, 1], and clip.

    CT is clipped to [-1, 1], MR to `MR_UNIT_LIMITS`.

    Returns:
        float32, shaped like ``values``.

    Raises:
        ValueError: If the range does not rise.
    """
    low, high = value_range
    if not low < high:
        raise ValueError(f"the range must rise, got {low:g}, {high:g}")
    unit = (values.astype(np.float32) - np.float32(low)) * np.float32(2 / (high - low)) - 1
    limits = (-1.0, 1.0) if settings.modality == "CT" else MR_UNIT_LIMITS
    clipped: NDArray[np.float32] = np.clip(unit, *limits)
    return clipped


def from_unit(unit: NDArray[np.float32], value_range: tuple[float, float]) -> NDArray[np.float32]:
    """Undo `to_unit`, but for what it clipped."""
    low, high = value_range
    values: NDArray[np.float32] = (unit + 1) * np.float32((high - low) / 2) + np.float32(low)
    return values


def output_limits(value_range: tuple[float, float], settings: ImageSettings) -> tuple[float, float]:
    """Lowest and highest value that a translated image can have."""
    if settings.modality == "CT":
        return value_range
    low, high = from_unit(np.array(MR_UNIT_LIMITS, dtype=np.float32), value_range)
    return float(low), float(high)


def encode(unit: NDArray[np.float32]) -> NDArray[np.int16]:
    """Round unit values to int16 codes; ``unit`` must lie within [-2, 2)."""
    codes: NDArray[np.int16] = np.rint(unit * CODES_PER_UNIT).astype(np.int16)
    return codes


def decode(codes: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return the unit values of int16 codes."""
    return codes.astype(np.float32) / np.float32(CODES_PER_UNIT)


def carry_mask(body: NDArray[np.bool_], volume: Volume, other: Volume) -> NDArray[np.bool_]:
    """Carry a body mask over to another image of the same patient.

    Args:
        body: Body voxels on the grid of ``volume``.
        volume: The image the mask belongs to.
        other: The image that wants it.

    Returns:
        Body voxels on the grid of ``other``.

    Raises:
        GeometryError: If less of the body than `SMALLEST_OVERLAP` lies inside ``other``.
    """
    share = _share_inside(body, volume.grid, other.grid)
    if share < SMALLEST_OVERLAP:
        raise GeometryError(
            f"{other.name}: covers {share:.0%} of the body in {volume.name}, expected at least "
            f"{SMALLEST_OVERLAP:.0%}; these images do not belong together or are not registered"
        )
    mask = volume.with_array(body.astype(np.uint8))
    return resample(mask, other.grid, outside=0, nearest=True) > 0


def _share_inside(mask: NDArray[np.bool_], grid: Grid, other: Grid) -> float:
    """Share of the mask's voxels, on ``grid``, that lie inside the extent of ``other``."""
    step = [max(1, n // 128) for n in mask.shape]
    index = np.argwhere(mask[:: step[0], :: step[1], :: step[2]]) * step
    to_other = np.linalg.inv(other.affine) @ grid.affine
    position = index @ to_other[:3, :3].T + to_other[:3, 3]
    inside = ((position >= -0.5) & (position <= np.array(other.shape) - 0.5)).all(axis=1)
    return float(inside.mean()) if len(index) else 0.0


def _code(
    values: NDArray[Any], grid: Grid, value_range: tuple[float, float], settings: ImageSettings
) -> PreparedImage:
    codes = encode(to_unit(values, value_range, settings))
    return PreparedImage(np.ascontiguousarray(codes.transpose(2, 1, 0)), grid, value_range)


def _empty_volume(grid: Grid) -> Volume:
    return Volume(np.broadcast_to(np.uint8(0), grid.shape), grid.affine)


def _coarsened(volume: Volume) -> Volume:
    step = np.maximum(1, np.floor(BODY_MASK_SPACING_MM / volume.spacing_mm)).astype(int)
    array = volume.array[tuple(slice(None, None, int(n)) for n in step)]
    affine = volume.affine.copy()
    affine[:3, :3] *= step
    return Volume(array, affine, path=volume.path)


def _thinned(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every n-th voxel of each axis, enough for a threshold."""
    step = max(1, int(np.cbrt(values.size / VOXELS_FOR_THRESHOLD)))
    return values[::step, ::step, ::step]


def _solid(voxels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part, filled, without thin appendages, its surface closed."""
    filled = _fill_slices(voxels)
    opened = ndimage.binary_opening(np.pad(filled, 1, mode="edge"))[1:-1, 1:-1, 1:-1]
    labels, count = ndimage.label(opened if opened.any() else filled)
    if count == 0:
        return filled
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    body = labels == sizes.argmax()
    closed = ndimage.binary_closing(np.pad(body, 2, mode="edge"), iterations=2)[2:-2, 2:-2, 2:-2]
    return _fill_slices(closed)


def _fill_slices(voxels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill what is enclosed in a slice of any axis: what does not reach the slice's border."""
    filled = voxels.copy()
    for axis in range(3):
        sections = np.moveaxis(filled, axis, 0)
        holes, count = ndimage.label(~sections, _NEIGHBOURS_IN_SLICE)
        reaches_border = np.zeros(count + 1, dtype=bool)
        for border in (holes[:, 0], holes[:, -1], holes[:, :, 0], holes[:, :, -1]):
            reaches_border[border] = True
        reaches_border[0] = False
        sections[...] = ~reaches_border[holes]
    return filled
