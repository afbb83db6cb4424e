"""Errors against depth in the body and against distance to where tissues meet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medp2p.metrics.arrays import BoolArray, DistanceArray, FloatArray
from medp2p.metrics.curves import Curve, error_by_distance
from medp2p.metrics.tissues import Tissues, in_tissue

DEPTH_STEP_MM = 2.0
"""Width of the steps of `error_by_depth`."""
INTERFACE_STEP_MM = 1.0
"""Width of the steps of `error_by_interface_distance`."""


def distance_mm(region: BoolArray, spacing_mm: Sequence[float]) -> DistanceArray:
    """Return the distance of every voxel's centre to that of the nearest voxel of a region.

    Args:
        region: Three axes, not empty.
        spacing_mm: Of the voxels along each axis.

    Returns:
        Millimetres, float32, 0 inside the region; exact, up to rounding (Maurer, Qi and
        Raghavan, IEEE Trans. Pattern Anal. Mach. Intell. 25 (2003) 265-270).
    """
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(region.astype(np.uint8))
    image.SetSpacing([float(value) for value in spacing_mm][::-1])
    transform = sitk.SignedMaurerDistanceMapImageFilter()
    transform.SquaredDistanceOff()
    transform.UseImageSpacingOn()
    transform.SetNumberOfThreads(1)
    distance: DistanceArray = sitk.GetArrayFromImage(transform.Execute(image))
    return np.maximum(distance, 0, out=distance)


def depth_mm(inside: BoolArray, spacing_mm: Sequence[float]) -> DistanceArray | None:
    """Return how deep every voxel lies in the mask: its distance to the nearest voxel outside.

    Beyond the faces of the array nothing is outside: a body that is cut off there has no
    surface there.

    Returns:
        Millimetres, float32, 0 outside; None if no voxel is outside.
    """
    return None if inside.all() else distance_mm(~inside, spacing_mm)


def error_by_depth(
    error: FloatArray, inside: BoolArray, depth: DistanceArray
) -> tuple[Curve, Curve]:
    """Average the absolute error and the error over steps of `DEPTH_STEP_MM` of depth.

    Args:
        error: Prediction minus reference, three axes.
        inside: The mask.
        depth: From `depth_mm`.

    Returns:
        Mean absolute error and mean error against depth in mm.
    """
    return error_by_distance(error, inside, depth, DEPTH_STEP_MM)


def interfaces(reference: FloatArray, inside: BoolArray, tissues: Tissues) -> BoolArray:
    """Return the voxels at which tissues meet.

    Those that share a face with a voxel of another class, both inside the mask. A voxel's class
    is the first one of ``tissues`` that holds its value, so dense bone is not told from bone.

    Args:
        reference: The true image, three axes.
        inside: The mask.
        tissues: Limits by name.
    """
    classes = np.zeros(reference.shape, np.uint8)
    for number, limits in reversed(list(enumerate(tissues.values(), start=1))):
        classes[in_tissue(reference, limits)] = number
    met = np.zeros(reference.shape, bool)
    for axis in range(3):
        first, second = (
            tuple(part if other == axis else slice(None) for other in range(3))
            for part in (slice(None, -1), slice(1, None))
        )
        differ = (classes[first] != classes[second]) & inside[first] & inside[second]
        for side in (first, second):
            met[side] |= differ
    return met


def error_by_interface_distance(
    error: FloatArray,
    reference: FloatArray,
    inside: BoolArray,
    spacing_mm: Sequence[float],
    tissues: Tissues,
) -> Curve | None:
    """Average the absolute error over steps of `INTERFACE_STEP_MM` from the nearest interface.

    Args:
        error: Prediction minus reference, three axes.
        reference: The true image.
        inside: The mask.
        spacing_mm: Of the voxels along each axis.
        tissues: Limits by name.

    Returns:
        Mean absolute error against distance in mm to the voxels of `interfaces`; None if the
        reference holds but one tissue.
    """
    met = interfaces(reference, inside, tissues)
    if not met.any():
        return None
    distance = distance_mm(met, spacing_mm)
    absolute, _ = error_by_distance(error, inside, distance, INTERFACE_STEP_MM)
    return absolute
