"""Rules about affines that every image format shares."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medp2p.errors import GeometryError, ImageReadError
from medp2p.io.remedies import convert_with
from medp2p.volume import Grid, Volume

MAX_SHEAR_DEGREES = 0.5
"""Axes further from perpendicular than this are refused: most software ignores shear."""

MAX_RESAMPLED_GROWTH = 10
"""A gantry tilted by 30 degrees needs less than twice the voxels."""

MAX_LENGTH_MM = 1e9
"""No scan is larger or further away; a text header that says so is damaged."""

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""ITK, DICOM and MetaImage count x to the left and y to the back; its own inverse."""


def shear_degrees(affine: NDArray[np.float64]) -> float:
    """Return how far the worst pair of axes is from perpendicular."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = [abs(float(axes[:, a] @ axes[:, b])) for a, b in combinations(range(3), 2)]
    return float(np.degrees(np.arcsin(min(1.0, max(cosines)))))


def refuse_sheared(volume: Volume) -> None:
    """Raise GeometryError if the axes are more than `MAX_SHEAR_DEGREES` off perpendicular."""
    shear = shear_degrees(volume.affine)
    if shear > MAX_SHEAR_DEGREES:
        remedy = convert_with(volume.path, "--resample") if volume.path else "resample it first"
        raise GeometryError(
            f"{volume.name}: the axes are {shear:.2f} degrees off perpendicular, expected at most "
            f"{MAX_SHEAR_DEGREES}; {remedy}"
        )


def resample_orthogonal(volume: Volume) -> Volume:
    """Regrid a sheared volume onto perpendicular axes.

    The first axis stays, the second is turned in its plane, the third becomes the plane's
    normal, so that slices stay slices (a tilted CT gantry). Spacing is the distance between
    neighbouring rows and slices. The new grid covers every old voxel centre. Linear
    interpolation (nearest for masks); outside lies the volume's minimum.

    Returns:
        A volume of the same dtype; integers are rounded to nearest.

    Raises:
        GeometryError: If the new grid would have over `MAX_RESAMPLED_GROWTH` times the voxels.
    """
    from scipy.ndimage import affine_transform  # costs 0.2 s, and is seldom needed

    directions, upper = np.linalg.qr(volume.affine[:3, :3])
    directions = directions * np.where(np.diag(upper) < 0, -1.0, 1.0)
    spacing = np.abs(np.diag(upper))
    corners = volume.grid.corners_mm @ directions
    first = corners.min(axis=0)
    sizes = np.ceil((corners.max(axis=0) - first) / spacing - 1e-6) + 1
    if not sizes.prod() <= MAX_RESAMPLED_GROWTH * volume.array.size:
        raise GeometryError(
            f"{volume.name}: the axes are {shear_degrees(volume.affine):.2f} degrees off "
            f"perpendicular, and a straight grid would need over {MAX_RESAMPLED_GROWTH} times "
            "the voxels; repair the header"
        )
    shape = tuple(int(n) for n in sizes)
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = directions @ first
    to_old = np.linalg.inv(volume.affine) @ affine
    wide = volume.array.dtype.itemsize > 2
    array = affine_transform(
        volume.array,
        to_old[:3, :3],
        to_old[:3, 3],
        output_shape=shape,
        output=np.float64 if wide else np.float32,
        order=0 if volume.modality == "MASK" else 1,
        mode="constant",
        cval=float(volume.array.min()),
    )
    if volume.array.dtype.kind in "iu":
        array = np.rint(array)
    return Volume(
        array.astype(volume.array.dtype),
        affine,
        modality=volume.modality,
        units=volume.units,
        path=volume.path,
        nifti_code=volume.nifti_code,
    )


def first_grid(path: Path, sizes: Sequence[int], affine: NDArray[np.float64]) -> Grid:
    """Return the grid of the first three axes of an image.

    Raises:
        ImageReadError: If an axis has no voxel.
    """
    if min(sizes) < 1:
        raise ImageReadError(f"{path}: an axis of {min(sizes)} voxels; the image is empty")
    return Grid((sizes[0], sizes[1], sizes[2]), affine)
