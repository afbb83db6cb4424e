"""From a volume as scanned to what the network sees, and back.

Training and translation call the same functions, so the network's input is bit-equal on both
ways. The *training grid* of a volume has the volume's own axes, reordered and flipped to
RAS, and the configured spacing; each volume is resampled once, straight to it. Values are
mapped to the unit range [-1, 1] and kept as int16 *codes* of `CODES_PER_UNIT` per unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medp2p.alignment import Alignment, place, resample_aligned
from medp2p.body import body_mask
from medp2p.config import (
    EIGHT_BIT,
    EIGHT_BIT_RANGE,
    STANDARD_SCALE,
    ImageSettings,
    PreprocessingSettings,
)
from medp2p.errors import ConfigError, GeometryError, ImageReadError
from medp2p.intensity import (
    correct_bias,
    fit_landmarks,
    metal_voxels,
    percentiles_with_deciles,
    standard_knots,
    standardize,
)
from medp2p.padding import padding_value, without_padding
from medp2p.volume import Grid, Volume, reorient

__all__ = [
    "body_mask",
    "carry_mask",
    "case_landmarks",
    "check_mask",
    "check_mask_values",
    "check_modality",
    "correct_bias",
    "decode",
    "encode",
    "field_of_view",
    "find_value_range",
    "fit_landmarks",
    "from_unit",
    "metal_voxels",
    "output_limits",
    "padding_value",
    "prepare_mask",
    "prepare_onto",
    "prepare_source",
    "resample",
    "to_unit",
    "training_grid",
]

CODES_PER_UNIT = 16384
"""An int16 code holds -2..+2 in steps of 1/16384: 0.125 HU for the default CT range."""

MR_UNIT_LIMITS = (-1.0, 1.99)
"""MR values beyond the percentiles are kept up to here, for bright vessels and fat."""

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


Name = TypeVar("Name")


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
    return resample_aligned(volume, Alignment.identity(), grid, outside=outside, nearest=nearest)


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
    if modality == EIGHT_BIT and not EIGHT_BIT_RANGE[0] <= low <= high <= EIGHT_BIT_RANGE[1]:
        raise ImageReadError(
            f"{volume.name}: values {low:.4g}..{high:.4g} are not grey levels of 0 to 255, but the "
            f"{role} should be an 8-bit picture; give the picture"
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


def prepare_images(
    volumes: Mapping[Name, Volume],
    body: NDArray[np.bool_],
    settings: PreprocessingSettings,
    alignments: Mapping[Name, Alignment] = MappingProxyType({}),
) -> tuple[dict[Name, PreparedImage], NDArray[np.uint8]]:
    """Bring all images of a case to the training grid of the first one.

    Args:
        volumes: Sources in channel order, then the target, by name.
        body: Body voxels on the first one's grid.
        settings: Spacing and value mapping.
        alignments: Where the first one's world lies in another's; images without one share it.

    Returns:
        The prepared images, and the body that all of them show, uint8 (K, J, I).

    Raises:
        ImageReadError: If an image is not of the modality that the settings name.
        GeometryError: If images do not overlap.
    """
    (first_name, first), *others = volumes.items()
    check_modality(first, settings.source, "source")
    prepared = {first_name: prepare_source(first, body, settings)}
    grid = prepared[first_name].grid
    covered = np.ones(grid.shape, dtype=bool)
    for number, (name, volume) in enumerate(others, 1):
        is_target = number == len(others)
        own = settings.target if is_target else settings.source
        check_modality(volume, own, "target" if is_target else "source")
        alignment = alignments.get(name, Alignment.identity())
        own_body = carry_mask(body, first, place(volume, alignment))
        prepared[name] = prepare_onto(volume, own_body, own, grid, alignment)
        covered &= field_of_view(volume, grid, own.modality, alignment)
    mask = prepare_mask(first.with_array(body), grid)
    return prepared, mask & covered.transpose(2, 1, 0)


def prepare_source(
    volume: Volume, mask: NDArray[np.bool_], settings: PreprocessingSettings
) -> PreparedImage:
    """Bring a source image to its own training grid and code its values.

    Args:
        volume: The source.
        mask: Body voxels on the volume's grid; used for the percentiles of MR.
        settings: Spacing and value mapping.

    Raises:
        ImageReadError: If an MR is constant inside the mask, or too little of it is positive
            for bias correction.
        ConfigError: If landmarks are needed and not fitted.
    """
    grid = training_grid(volume.grid, settings)
    cleaned = _clean(volume, mask, settings.source)
    return _code(resample(cleaned.volume, grid), grid, cleaned, settings.source)


def prepare_onto(
    volume: Volume,
    mask: NDArray[np.bool_],
    settings: ImageSettings,
    grid: Grid,
    alignment: Alignment | None = None,
) -> PreparedImage:
    """Bring another image of the case (target, further source) to the source's training grid.

    Outside the image's field of view the result has the lowest value.

    Args:
        volume: The image.
        mask: Body voxels on the volume's grid; used for the percentiles of MR.
        settings: How values are mapped.
        grid: The training grid.
        alignment: Where the world of ``grid`` lies in the volume's; None if they are one.

    Raises:
        ImageReadError: If an MR is constant inside the mask, or too little of it is positive
            for bias correction.
        ConfigError: If landmarks are needed and not fitted.
    """
    cleaned = _clean(volume, mask, settings)
    placed = alignment or Alignment.identity()
    values = resample_aligned(cleaned.volume, placed, grid, outside=cleaned.lowest)
    return _code(values, grid, cleaned, settings)


def prepare_mask(mask: Volume, grid: Grid) -> NDArray[np.uint8]:
    """Sample a mask on the training grid; uint8 of shape (K, J, I), 0 outside the image."""
    sampled = resample(mask.with_array(mask.array.astype(np.uint8)), grid, outside=0, nearest=True)
    return np.ascontiguousarray(sampled.transpose(2, 1, 0))


def case_landmarks(
    volume: Volume, mask: NDArray[np.bool_], settings: ImageSettings
) -> tuple[float, ...]:
    """Return an MR's landmarks: `ImageSettings.percentiles` inside the mask and their deciles.

    They are taken of the image as it is standardized: padding left out, bias corrected where
    the settings say so.

    Args:
        volume: An MR.
        mask: Body voxels on the volume's grid.
        settings: Percentiles and bias correction.

    Returns:
        Values of the image, not falling; the last is above the first.

    Raises:
        ImageReadError: If the MR is constant inside the mask.
    """
    volume, mask = _corrected(volume, mask, settings)
    return _landmarks(volume, mask, settings)


def find_value_range(
    volume: Volume, mask: NDArray[np.bool_], settings: ImageSettings
) -> tuple[float, float]:
    """Return the values that are mapped to -1 and +1.

    With ``standardization: nyul`` these are values of the standard scale, else of the image.

    Raises:
        ImageReadError: If an MR is constant inside the mask.
    """
    if settings.modality == "CT":
        return settings.hu_range
    if settings.modality == EIGHT_BIT:
        return EIGHT_BIT_RANGE
    if settings.standardization == "nyul":
        return STANDARD_SCALE
    inside = _inside(volume, mask)
    if settings.standardization == "zscore":
        mean, spread = inside.mean(dtype=np.float64), inside.std(dtype=np.float64)
        low, high = (float(mean + z * spread) for z in settings.zscore_range)
    else:
        low, high = (float(v) for v in np.percentile(inside, settings.percentiles))
    if not low < high:
        raise _no_contrast(volume, low)
    return low, high


def to_unit(
    values: NDArray[Any], value_range: tuple[float, float], settings: ImageSettings
) -> NDArray[np.float32]:
    """Map values linearly so that ``value_range`` becomes [-1, 1], and clip.

    CT and 8-bit pictures are clipped to [-1, 1], MR to `MR_UNIT_LIMITS`.

    Returns:
        float32, shaped like ``values``.

    Raises:
        ValueError: If the range does not rise.
    """
    low, high = value_range
    if not low < high:
        raise ValueError(f"the range must rise, got {low:g}, {high:g}")
    unit = (values.astype(np.float32) - np.float32(low)) * np.float32(2 / (high - low)) - 1
    limits = MR_UNIT_LIMITS if settings.modality == "MR" else (-1.0, 1.0)
    clipped: NDArray[np.float32] = np.clip(unit, *limits)
    return clipped


def from_unit(unit: NDArray[np.float32], value_range: tuple[float, float]) -> NDArray[np.float32]:
    """Undo `to_unit`, but for what it clipped."""
    low, high = value_range
    values: NDArray[np.float32] = (unit + 1) * np.float32((high - low) / 2) + np.float32(low)
    return values


def output_limits(value_range: tuple[float, float], settings: ImageSettings) -> tuple[float, float]:
    """Lowest and highest value that a translated image can have."""
    if settings.modality != "MR":
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


def field_of_view(
    image: Volume, grid: Grid, modality: str | None = None, alignment: Alignment | None = None
) -> NDArray[np.bool_]:
    """Tell which voxels of ``grid`` the image shows: inside its extent, and not padding.

    Args:
        image: The image.
        grid: Where to tell.
        modality: For `padding_value`.
        alignment: Where the world of ``grid`` lies in the image's; None if they are one.
    """
    padding = padding_value(image, modality)
    shown = np.ones(image.shape, np.uint8) if padding is None else image.array != padding
    shown = image.with_array(shown.astype(np.uint8))
    placed = alignment or Alignment.identity()
    inside: NDArray[np.bool_] = resample_aligned(shown, placed, grid, outside=0, nearest=True) > 0
    return inside


def _share_inside(mask: NDArray[np.bool_], grid: Grid, other: Grid) -> float:
    """Share of the mask's voxels, on ``grid``, that lie inside the extent of ``other``."""
    step = [max(1, n // 128) for n in mask.shape]
    index = np.argwhere(mask[:: step[0], :: step[1], :: step[2]]) * step
    to_other = np.linalg.inv(other.affine) @ grid.affine
    position = index @ to_other[:3, :3].T + to_other[:3, 3]
    inside = ((position >= -0.5) & (position <= np.array(other.shape) - 0.5)).all(axis=1)
    return float(inside.mean()) if len(index) else 0.0


@dataclass(frozen=True, eq=False)
class _Cleaned:
    """An image ready for resampling, and how its values are mapped then."""

    volume: Volume
    value_range: tuple[float, float]
    lowest: float  # value of the image that becomes -1
    knots: tuple[NDArray[np.float64], NDArray[np.float64]] | None  # to the standard scale


def _clean(volume: Volume, mask: NDArray[np.bool_], settings: ImageSettings) -> _Cleaned:
    volume, mask = _corrected(volume, mask, settings)
    value_range = find_value_range(volume, mask, settings)
    if settings.standardization != "nyul":
        return _Cleaned(volume, value_range, value_range[0], None)
    if settings.landmarks is None:
        raise ConfigError(
            f"{volume.name}: standardization is nyul, but its landmarks are not fitted; prepare "
            "the training set with `medp2p prepare`, train on that and use that model"
        )
    expected = len(percentiles_with_deciles(settings.percentiles))
    if len(settings.landmarks) != expected:
        raise ConfigError(
            f"preprocessing: {len(settings.landmarks)} landmarks, expected {expected} for these "
            "percentiles; leave them to `medp2p prepare`"
        )
    knots = standard_knots(_landmarks(volume, mask, settings), settings.landmarks)
    return _Cleaned(volume, value_range, float(knots[0][0]), knots)


def _corrected(
    volume: Volume, mask: NDArray[np.bool_], settings: ImageSettings
) -> tuple[Volume, NDArray[np.bool_]]:
    """The image without padding and shading, and the mask without padding."""
    padding = padding_value(volume, settings.modality)
    if padding is not None:
        mask = mask & (volume.array != padding)
        volume = without_padding(volume, settings.hu_range[0], settings.modality)
    if settings.bias_correction:
        volume = correct_bias(volume, mask)
    return volume, mask


def _landmarks(
    volume: Volume, mask: NDArray[np.bool_], settings: ImageSettings
) -> tuple[float, ...]:
    wanted = percentiles_with_deciles(settings.percentiles)
    found = np.percentile(_inside(volume, mask), wanted).astype(np.float64)
    if not found[0] < found[-1]:
        raise _no_contrast(volume, float(found[0]))
    return tuple(float(v) for v in np.maximum.accumulate(found))


def _inside(volume: Volume, mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Values inside the body."""
    array = volume.array
    in_memory_order = array.flags.f_contiguous and mask.flags.f_contiguous
    inside: NDArray[Any] = array.T[mask.T] if in_memory_order else array[mask]
    if len(inside) < SMALLEST_MASK_VOXELS:
        raise ImageReadError(
            f"{volume.name}: holds {len(inside)} voxels of the body, expected at least "
            f"{SMALLEST_MASK_VOXELS}; check that the images belong together"
        )
    return inside


def _no_contrast(volume: Volume, value: float) -> ImageReadError:
    return ImageReadError(
        f"{volume.name}: the value is {value:.4g} nearly everywhere inside the body; "
        "expected an image with contrast"
    )


def _code(
    values: NDArray[Any], grid: Grid, cleaned: _Cleaned, settings: ImageSettings
) -> PreparedImage:
    if cleaned.knots is not None:
        values = standardize(values, cleaned.knots)
    slices = values.transpose(2, 1, 0)
    codes = np.empty(slices.shape, np.int16)
    for k, one in enumerate(slices):  # slice by slice it stays in the processor's cache
        codes[k] = encode(to_unit(one, cleaned.value_range, settings))
    return PreparedImage(codes, grid, cleaned.value_range)


def _empty_volume(grid: Grid) -> Volume:
    return Volume(np.broadcast_to(np.uint8(0), grid.shape), grid.affine)
