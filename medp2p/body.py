"""Where the body is in an image: tight, with the air inside and without couch and head holder."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medp2p.alignment import Alignment, resample_aligned
from medp2p.config import EIGHT_BIT
from medp2p.errors import ImageReadError
from medp2p.padding import without_padding
from medp2p.volume import Volume

BODY_MASK_SPACING_MM = 2.2
"""Finer images are thinned out, every n-th voxel, to a grid no coarser than this; only the surface
is found on the image's own."""

VOXELS_FOR_THRESHOLD = 1_000_000
"""The threshold between air and body is found on about this many voxels."""

LI_TOLERANCE = 1e-6
"""The threshold is known when it moves by less than this share of the range of values."""

CT_BODY_HU = -300.0
"""CT numbers from here on are body, or plastic."""

LOWEST_HU = -1024.0
"""CT: padding becomes this before the image is smoothed."""

THICKEST_SHELL_MM = 9.0
"""What is nowhere thicker than this is not taken for a body by itself: shells of couches and
head holders, tubes, blankets; but also ears, which `LARGEST_APPENDAGE_CM3` gives back."""

LARGEST_APPENDAGE_CM3 = 15.0
"""A thin part on the body belongs to it up to this volume: noses, ears, folds of skin."""

SMALLEST_PART = 0.25
"""A separate part belongs to the body if it is at least this large against the largest: legs."""

BOX_MARGIN = 3
"""Voxels of air around the box that is looked at; closing the surface needs two."""

_NEIGHBOURS_IN_SLICE = np.zeros((3, 3, 3), dtype=bool)
_NEIGHBOURS_IN_SLICE[1] = ndimage.generate_binary_structure(2, 1)


def body_mask(volume: Volume, modality: str) -> NDArray[np.bool_]:
    """Find the body: what is not air, with its cavities, without what it lies on.

    CT is cut at `CT_BODY_HU`. What holds no ball of `THICKEST_SHELL_MM` is taken away before
    cavities are filled: couch shells, head holders, blankets and tubes, on whichever side. MR is
    cut at Li's minimum cross-entropy threshold (Li & Tam 1998) of the slightly smoothed image.

    Args:
        volume: An MR or CT image.
        modality: ``"MR"`` or ``"CT"``; ``"8-bit"`` pictures are body everywhere.

    Returns:
        Boolean array of the volume's shape.

    Raises:
        ImageReadError: If nothing stands out from the background.
    """
    if modality == EIGHT_BIT:
        return np.ones(volume.shape, dtype=bool)
    volume = without_padding(volume, LOWEST_HU, modality)
    coarse = _coarsened(volume)
    values = ndimage.gaussian_filter(coarse.array.astype(np.float32), 0.5)
    if modality == "CT":
        threshold = CT_BODY_HU
    elif values.max() > values.min():
        threshold = _li_threshold(_thinned(values))
    else:
        threshold = float(values.max())
    body = values > threshold
    box = _box_with_margin(body)
    if modality == "CT":
        body[box] = _without_furniture(body[box], coarse.spacing_mm)
    else:
        body[box] = _solid(body[box])
    if not body.any():
        raise ImageReadError(
            f"{volume.name}: no body found, all values lie between {values.min():.4g} and "
            f"{values.max():.4g}; give a mask or another image"
        )
    return body if coarse is volume else _refined(coarse.with_array(body), volume, threshold)


def _refined(body: Volume, volume: Volume, threshold: float) -> NDArray[np.bool_]:
    """The body on the volume's grid; near its surface the volume's own voxels decide."""
    share = resample_aligned(
        body.with_array(body.array.astype(np.float32)), Alignment.identity(), volume.grid
    )
    near_surface = (share > 0) & (share < 1)
    refined: NDArray[np.bool_] = np.where(near_surface, volume.array > threshold, share > 0.5)
    return refined


def _coarsened(volume: Volume) -> Volume:
    step = np.maximum(1, np.floor(BODY_MASK_SPACING_MM / volume.spacing_mm)).astype(int)
    if (step == 1).all():
        return volume
    array = volume.array[tuple(slice(None, None, int(n)) for n in step)]
    affine = volume.affine.copy()
    affine[:3, :3] *= step
    return Volume(array, affine, path=volume.path)


def _box_with_margin(voxels: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The box around what is set, with air around it unless the image ends there."""
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        index = np.flatnonzero(voxels.any(axis=others))
        first, last = (index[0], index[-1]) if index.size else (0, 0)
        box.append(slice(max(0, first - BOX_MARGIN), last + 1 + BOX_MARGIN))
    return tuple(box)


def _li_threshold(values: NDArray[np.float32]) -> float:
    """Li's threshold; in single precision its iteration may swing between two values for ever."""
    from skimage.filters import threshold_li

    tolerance = LI_TOLERANCE * float(np.ptp(values))
    return float(threshold_li(values.astype(np.float64), tolerance=tolerance))


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
    body = _main_parts(labels)
    closed = ndimage.binary_closing(np.pad(body, 2, mode="edge"), iterations=2)[2:-2, 2:-2, 2:-2]
    return _fill_slices(closed)


def _main_parts(labels: NDArray[np.signedinteger]) -> NDArray[np.bool_]:
    """The largest labelled part, and others that are large against it (`SMALLEST_PART`)."""
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    main: NDArray[np.bool_] = (sizes >= max(1, SMALLEST_PART * sizes.max()))[labels]
    return main


def _without_furniture(
    voxels: NDArray[np.bool_], spacing_mm: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """What is thick, with the small thin parts on it and the cavities in it.

    Cavities are filled slice by slice only after the body was cut out, so that the gap between
    a head and its holder is not taken for one.
    """
    filled = ndimage.binary_fill_holes(voxels)
    thick = _thick(filled, spacing_mm)
    voxel_cm3 = float(np.prod(spacing_mm)) / 1000
    return _fill_slices(thick | _appendages(filled & ~thick, thick, voxel_cm3))


def _thick(voxels: NDArray[np.bool_], spacing_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The main parts of what holds a ball as thick as `THICKEST_SHELL_MM` (an opening)."""
    if voxels.all() or not voxels.any():
        return voxels
    depth = _distance_mm(~voxels, spacing_mm)
    radius = min(THICKEST_SHELL_MM / 2, float(depth.max()) / 2)
    core = _main_parts(ndimage.label(depth > radius)[0])
    thick: NDArray[np.bool_] = voxels & (_distance_mm(core, spacing_mm) <= radius)
    return thick


def _appendages(
    thin: NDArray[np.bool_], body: NDArray[np.bool_], voxel_cm3: float
) -> NDArray[np.bool_]:
    """Thin parts that touch the body and are not larger than `LARGEST_APPENDAGE_CM3`."""
    labels, count = ndimage.label(thin)
    touching = np.zeros(count + 1, dtype=bool)
    touching[labels[ndimage.binary_dilation(body)]] = True
    small = np.bincount(labels.ravel(), minlength=count + 1) * voxel_cm3 <= LARGEST_APPENDAGE_CM3
    touching[0] = False
    return (touching & small)[labels]


def _distance_mm(voxels: NDArray[np.bool_], spacing_mm: NDArray[np.float64]) -> NDArray[np.float32]:
    """Distance of every voxel to the nearest one that is set; 0 there (Maurer et al. 2003)."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(voxels.astype(np.uint8))
    image.SetSpacing([float(s) for s in spacing_mm[::-1]])
    transform = sitk.SignedMaurerDistanceMapImageFilter()
    transform.SetNumberOfThreads(1)
    transform.SetSquaredDistance(False)
    transform.SetUseImageSpacing(True)
    distance: NDArray[np.float32] = sitk.GetArrayFromImage(transform.Execute(image))
    return np.maximum(distance, 0)


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
