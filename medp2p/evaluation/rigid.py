"""A small rigid displacement between a prediction and its reference, found to be undone.

A prediction that lies a millimetre off its reference is punished at every edge, whatever its
values. Undoing that tells errors of position from errors of value, but it also forgives what a
treatment would not, and interpolates: so it is off unless asked for, and what was done is said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from medp2p.alignment import Alignment, move_points
from medp2p.errors import RegistrationError
from medp2p.pose_search import turned_about
from medp2p.volume import Volume

SMALLEST_VOXELS = 0.1
"""A displacement below this, root mean square over the mask, is left: interpolation blurs."""

LARGEST_SHIFT_MM = 20.0
LARGEST_TURN_DEGREES = 10.0
"""Beyond these it is no small displacement, and the result is not believed."""

SMOOTHING_MM = 3.0
"""Width (sigma) of the first images; the last are smoothed by one voxel along each axis."""

POINTS = 30_000
"""About how many voxels are compared."""

RIM_MM = 6.0
"""The mask and this far around it are compared, so that the outline counts."""

ALIGNMENT_REACH_MM = RIM_MM + 3 * SMOOTHING_MM
"""Voxels of the mask see values this far away."""

CLIPPED_SHARE = 0.01
"""Values beyond this share of the reference's at either end count as the value there."""

LEAST_VOXELS = 500
"""A smaller mask holds too little to align."""

Mask = NDArray[np.bool_]
Array = NDArray[np.float32]
Matrix = NDArray[np.float64]
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RigidAlignment:
    """How far a prediction is off its reference, and whether to undo it.

    Attributes:
        moved: Whether the prediction is to be moved by the pose; else it is left as it is.
        shift_mm: How far the prediction lies off the reference at the mask's centre: to the
            right, front and head.
        turn_degrees: Angle by which it is turned.
        displacement_voxels: Root mean square over the mask of how far it is off, in voxels.
        correlation_before: Of the slightly smoothed images in and around the mask.
        correlation_after: The same once aligned.
        pose: Where the reference's world lies in the prediction's; the identity if it is left.
        note: What was found and is done, in one line.
    """

    moved: bool
    shift_mm: tuple[float, float, float]
    turn_degrees: float
    displacement_voxels: float
    correlation_before: float
    correlation_after: float
    pose: Alignment
    note: str


def find_alignment(
    prediction: Volume, reference: Volume, mask: Mask | None, seed: int = 0
) -> RigidAlignment:
    """Find a small shift and turn between a prediction and its reference.

    The pose with the least squared error is searched for from the given one; values may be
    related linearly. The prediction is to be left as it is if it is off by less than
    `SMALLEST_VOXELS`, farther than is believed, or if nothing is gained.

    Args:
        prediction: An image of the reference's modality, on the reference's grid.
        reference: The true image.
        mask: (i, j, k) of the reference, where to compare; None for everywhere.
        seed: Of the compared points. The same seed gives the same result to the last bit.

    Returns:
        What was found; `medp2p.compared.with_moved_prediction` undoes it.

    Raises:
        RegistrationError: If the mask is tiny, or either image has but one value in it.
        ValueError: If the grids or the mask's shape differ.
    """
    difference = prediction.grid.difference(reference.grid)
    if difference:
        raise ValueError(f"prediction and reference are on one grid, got {difference}")
    inside = np.ones(reference.shape, bool) if mask is None else np.asarray(mask, dtype=bool)
    if inside.shape != reference.shape:
        raise ValueError(f"a mask of {inside.shape} for an image of {reference.shape}")
    _check(prediction, reference, inside)
    pose, before, after = _search(prediction, reference, inside, seed)
    return _judged(reference, inside, pose, before, after)


def _check(prediction: Volume, reference: Volume, inside: Mask) -> None:
    if np.count_nonzero(inside) < LEAST_VOXELS or min(reference.shape) < 4:
        raise RegistrationError(
            f"{reference.name}: {np.count_nonzero(inside)} voxels to compare in "
            f"{min(reference.shape)} slices, too few to be aligned; leave the alignment out"
        )
    for volume in (prediction, reference):
        values = volume.array[inside]
        if not np.isfinite(values).all():
            raise RegistrationError(
                f"{volume.name}: holds values in the mask that are no numbers; repair the image"
            )
        if values.min() == values.max():
            raise RegistrationError(
                f"{volume.name}: all values in the mask are {float(values.min()):.4g}, nothing "
                "can be aligned"
            )


def _search(
    prediction: Volume, reference: Volume, inside: Mask, seed: int
) -> tuple[Matrix, float, float]:
    """Return the pose, reference to prediction in RAS mm, and the correlation before and after.

    Least squares over shift, turn and the linear relation of the values, on smooth images first.
    """
    spacing = reference.spacing_mm
    box = _box(inside, spacing)
    region = ndimage.distance_transform_edt(~inside[box], sampling=spacing) <= RIM_MM
    images = _normalized(reference.array[box], prediction.array[box], region)
    points = _points(region, seed)
    to_world = reference.affine.copy()
    to_world[:3, 3] += reference.affine[:3, :3] @ [part.start for part in box]
    to_index = np.linalg.inv(to_world)
    world = move_points(points, Alignment(to_world))
    centre = world.mean(axis=0)
    lever = float(np.sqrt(((world - centre) ** 2).sum(axis=1).mean()))
    found = np.array([0.0] * 6 + [1.0, 0.0])
    for sigma in (np.maximum(SMOOTHING_MM / spacing, 1.0), np.ones(3)):
        fixed, moving = (_smooth(image, sigma) for image in images)
        values = _sampled(fixed, points)

        def moved(pose: Matrix, moving: Array = moving) -> Values:
            return _sampled(moving, move_points(world, Alignment(to_index @ pose)))

        def residuals(
            x: Values, values: Values = values, moved: Callable[[Matrix], Values] = moved
        ) -> Values:
            gain, offset = float(x[6]), float(x[7])
            return moved(_pose(x, centre, lever)) - gain * values - offset

        found = optimize.least_squares(residuals, found, x_scale=[1.0] * 6 + [0.1] * 2).x
    pose = _pose(found, centre, lever)
    before, after = (_correlation(values, moved(matrix)) for matrix in (np.eye(4), pose))
    return pose, before, after


def _pose(x: Values, centre_mm: Values, lever_mm: float) -> Matrix:
    """A turn about the centre, a rotation vector times the lever, then a shift, both in mm."""
    turn = Rotation.from_rotvec(x[:3] / lever_mm)
    return turned_about(turn, centre_mm, centre_mm + x[3:6])


def _points(region: Mask, seed: int) -> Values:
    """Return (n, 3) indices of points in the region, off the voxels' centres."""
    rng = np.random.default_rng(seed)
    index = np.argwhere(region)
    if len(index) > POINTS:
        index = index[np.sort(rng.choice(len(index), POINTS, replace=False))]
    jittered = index + rng.uniform(-0.5, 0.5, index.shape)
    clipped: Values = np.clip(jittered, 0, np.array(region.shape) - 1)
    return clipped


def _sampled(image: Array, index: Values) -> Values:
    sampled: Values = ndimage.map_coordinates(
        image, index.T, order=1, mode="nearest", output=np.float64
    )
    return sampled


def _box(inside: Mask, spacing_mm: NDArray[np.float64]) -> tuple[slice, ...]:
    """The mask's box with room for a displacement."""
    margin = np.ceil((LARGEST_SHIFT_MM + RIM_MM) / spacing_mm).astype(int)
    index = np.argwhere(inside)
    low = np.maximum(index.min(axis=0) - margin, 0)
    high = index.max(axis=0) + margin + 1
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _normalized(
    reference: NDArray[np.generic], prediction: NDArray[np.generic], region: Mask
) -> tuple[Array, Array]:
    """Both images in standard deviations of the reference, clipped so that outliers don't rule."""
    inside = reference[region].astype(np.float32)
    low, high = np.quantile(inside, (CLIPPED_SHARE, 1 - CLIPPED_SHARE))
    if low == high:
        low, high = inside.min(), inside.max()
    clipped = np.clip(inside, low, high)
    mean, sd = float(clipped.mean()), float(clipped.std())
    fixed, moving = (
        ((np.clip(array.astype(np.float32), low, high) - mean) / sd).astype(np.float32)
        for array in (reference, prediction)
    )
    return fixed, moving


def _smooth(array: Array, sigma: Values) -> Array:
    smoothed: Array = ndimage.gaussian_filter(array, sigma, mode="nearest", truncate=3.0)
    return smoothed


def _correlation(a: Values, b: Values) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def _judged(
    reference: Volume, inside: Mask, pose: Matrix, before: float, after: float
) -> RigidAlignment:
    index = np.argwhere(inside)
    index = index[:: max(1, len(index) // POINTS)]
    points = index @ reference.affine[:3, :3].T + reference.affine[:3, 3]
    away = move_points(points, Alignment(pose)) - points
    to_index = np.linalg.inv(reference.affine[:3, :3])
    displacement = float(np.sqrt(((away @ to_index.T) ** 2).sum(axis=1).mean()))
    shift = away.mean(axis=0)
    turn = float(np.rad2deg(np.arccos(np.clip((np.trace(pose[:3, :3]) - 1) / 2, -1, 1))))
    found = (
        f"off by {shift[0]:+.2f}, {shift[1]:+.2f}, {shift[2]:+.2f} mm (right, front, head) "
        f"and {turn:.2f} degrees, {displacement:.2f} voxels"
    )
    reason = _reason_to_leave(shift, turn, displacement, before, after)
    if reason:
        note = f"rigid alignment: {found}; left as it is, {reason}"
    else:
        note = f"rigid alignment: {found}; moved back (one linear interpolation)"
    return RigidAlignment(
        moved=not reason,
        shift_mm=(float(shift[0]), float(shift[1]), float(shift[2])),
        turn_degrees=turn,
        displacement_voxels=displacement,
        correlation_before=before,
        correlation_after=after,
        pose=Alignment.identity() if reason else Alignment(pose),
        note=note,
    )


def _reason_to_leave(
    shift_mm: NDArray[np.float64], turn: float, displacement: float, before: float, after: float
) -> str:
    if displacement < SMALLEST_VOXELS:
        return f"below {SMALLEST_VOXELS:g} voxels"
    if np.linalg.norm(shift_mm) > LARGEST_SHIFT_MM or turn > LARGEST_TURN_DEGREES:
        return (
            f"beyond {LARGEST_SHIFT_MM:g} mm or {LARGEST_TURN_DEGREES:g} degrees it is not believed"
        )
    return "" if after > before else "nothing would be gained"
