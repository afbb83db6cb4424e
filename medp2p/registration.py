"""Bring two images of one patient to one place: rigid by default, affine or smooth on request.

The pose is searched for from everywhere (`medp2p.pose_search`), then refined by Mattes' mutual
information (Mattes et al., "PET-CT image registration in the chest using free-form
deformations", IEEE TMI 2003) with SimpleITK on ever finer images. Everything runs on one
thread with seeded samples, so that the same images give the same result to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medp2p.alignment import (
    RAS_LPS,
    Alignment,
    linear_matrix,
    linear_transform,
    move_points,
    resample_aligned,
)
from medp2p.config import RegistrationSettings
from medp2p.errors import RegistrationError
from medp2p.pose_search import (
    CLOSER_POINTS,
    CLOSER_STEP_MM,
    KEPT,
    SEARCH_POINTS,
    SEARCH_STEP_MM,
    Mask,
    Matrix,
    Pose,
    Scene,
    body_centre,
    climb,
    different,
    dilate,
    grey_levels,
    joint_levels,
    make_scene,
    mutual_information,
    near,
    score,
    shrink,
    turn_degrees,
    wide_search,
)
from medp2p.volume import Grid, Volume
from medp2p.workers import one_thread

LEAST_BODY_VOXELS = 30
"""Voxels of the wide search; smaller bodies hold nothing to align."""

LEAST_SLICES = 4
"""Fewer along any axis are a picture, not a volume."""

FAR_TURN_DEGREES = 30.0
"""A turn beyond this contradicts the headers; scanners are rarely wrong about it."""

HEADERS_BONUS = 1.15
"""A pose that contradicts the headers must fit this much better than one that does not."""

REFINED_STEPS_MM = (4.0, 1.5)
REFINED_POINTS = 25_000
"""Voxels of the images of the refinement, and about how many points it samples."""

REFINED = 3
"""How many poses are refined before one is chosen."""

KEEPS_SCORE = 0.95
"""A refinement that ends with less than this share of the score lost its way."""

HISTOGRAM_BINS = 24
RIM_MM = 6.0
"""The refinement looks at the body and this far around it."""

SMALLEST_STEP_MM = 0.004
LEVER_MM = 80.0
"""A turn by one radian counts as this shift: about how far a body reaches from its centre."""

LARGEST_STRETCH = 1.15
"""An affine result that stretches or shrinks by more is not believed."""

MESH_MM = 30.0
DEFORMABLE_STEP_MM, DEFORMABLE_POINTS = 3.0, 8000
SMALLEST_JACOBIAN = 0.3
"""A deformation that squeezes volume below this share is not believed."""


@dataclass(frozen=True)
class Starts:
    """How clear the choice of the pose was.

    Attributes:
        chosen: Score of the pose that was taken: mutual information in nats of images of
            4 mm, times the root of the share of the smaller body that both show.
        runner_up: The best score of a pose that is truly another one; 0 if there is none.
        headers: Score of the pose that the search reached from the headers' positions.
        headers_apart_mm: How far the chosen pose is from that one, mean over the body.
    """

    chosen: float
    runner_up: float
    headers: float
    headers_apart_mm: float

    @property
    def margin(self) -> float:
        """How much better the chosen pose is than any other: 1 - runner_up / chosen."""
        return 1.0 - self.runner_up / self.chosen if self.chosen > 0 else 0.0


@dataclass(frozen=True, eq=False)
class Registration:
    """Where the fixed image lies in the moving one, and how that was found.

    Attributes:
        alignment: Fixed to moving.
        turned_degrees: Rotation angle of the linear part against the headers' positions.
        shifted_mm: How far the centre of the fixed body moved.
        mutual_information_before: In nats, of grey levels (`pose_search.BINS`, equally filled)
            at points of 4 mm distance in and around the fixed body, as the headers have it.
        mutual_information_after: The same points after registration, without a deformation.
        overlap: Share of the smaller body that both images show, 0 to 1.
        last_step_mm: How far the refinement on fine images moved the body from where that on
            coarse ones left it, mean; small if they agree.
        starts: How clear the choice of the pose was.
        notes: What was asked for and not done, and why.
    """

    alignment: Alignment
    turned_degrees: float
    shifted_mm: float
    mutual_information_before: float
    mutual_information_after: float
    overlap: float
    last_step_mm: float
    starts: Starts
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Pair:
    """Both images and bodies on the finest voxels in use, with the seed of all samples."""

    fixed: Volume
    moving: Volume
    fixed_body: Mask
    moving_body: Mask
    seed: int


def register(
    fixed: Volume,
    moving: Volume,
    fixed_body: NDArray[np.bool_],
    moving_body: NDArray[np.bool_],
    settings: RegistrationSettings,
    seed: int,
) -> Registration:
    """Find where the fixed image's world lies in the moving image's.

    Whatever lies outside the bodies, such as a table, counts as background.

    Args:
        fixed: The image that stays.
        moving: An image of the same patient, of any modality.
        fixed_body: Body on the fixed image's voxels.
        moving_body: Body on the moving image's voxels.
        settings: ``mode`` ``"none"`` only measures; ``"auto"`` is taken as ``"rigid"``.
        seed: Of the sampled points.

    Returns:
        The alignment and what tells a good one from a bad one.

    Raises:
        RegistrationError: If a body is tiny, an image flat or constant, or no pose shows both.
        ValueError: If a mask's shape is not its image's.
    """
    pair = _checked(fixed, moving, fixed_body, moving_body, seed)
    with one_thread():
        return _register(pair, settings)


def _register(pair: _Pair, settings: RegistrationSettings) -> Registration:
    closer = _scene(pair, CLOSER_STEP_MM, CLOSER_POINTS)
    if settings.mode == "none":
        return _measured(closer, Alignment.identity(), _no_choice(closer))
    pose, starts = _search(pair, closer)
    matrix = _refine(pair, pose.matrix, REFINED_STEPS_MM[1])
    last_step_mm = _apart_mm(closer, pose.matrix, matrix)
    notes: list[str] = []
    if settings.mode == "affine":
        matrix = _stretched(pair, matrix, notes)
    alignment = Alignment(matrix)
    if settings.deformable:
        alignment = _deformed(pair, matrix, notes)
    result = _measured(closer, alignment, starts)
    return replace(result, last_step_mm=last_step_mm, notes=tuple(notes))


def _checked(
    fixed: Volume, moving: Volume, fixed_body: Mask, moving_body: Mask, seed: int
) -> _Pair:
    for volume, body in ((fixed, fixed_body), (moving, moving_body)):
        if body.shape != volume.shape:
            raise ValueError(f"a mask of {body.shape} for an image of {volume.shape}")
        if min(volume.shape) < LEAST_SLICES:
            raise RegistrationError(
                f"{volume.name}: {min(volume.shape)} slices cannot be aligned in space, expected "
                f"at least {LEAST_SLICES}; give another image, or an aligned pair"
            )
        if shrink(volume, body, SEARCH_STEP_MM)[1].sum() < LEAST_BODY_VOXELS:
            litres = body.sum() * np.prod(volume.spacing_mm) / 1e6
            raise RegistrationError(
                f"{volume.name}: the body ({litres:.3g} l) is too small or too thin to be "
                "aligned; give a mask or another image"
            )
        inside = volume.array[body]
        if not np.isfinite(inside).all():
            raise RegistrationError(
                f"{volume.name}: holds values in the body that are no numbers; repair the image"
            )
        if inside.min() == inside.max():
            raise RegistrationError(
                f"{volume.name}: all values in the body are {inside.min():.4g}, nothing can be "
                "aligned; give another image"
            )
    finest = REFINED_STEPS_MM[-1]
    fixed, fixed_body = shrink(fixed, fixed_body, finest)
    moving, moving_body = shrink(moving, moving_body, finest)
    return _Pair(fixed, moving, fixed_body, moving_body, seed)


def _scene(pair: _Pair, step_mm: float, count: int) -> Scene:
    rng = np.random.default_rng([pair.seed, int(step_mm)])
    return make_scene(
        pair.fixed, pair.moving, pair.fixed_body, pair.moving_body, step_mm, count, rng
    )


def _no_choice(closer: Scene) -> Starts:
    value = score(closer, np.eye(4))
    return Starts(value, 0.0, value, 0.0)


def _search(pair: _Pair, closer: Scene) -> tuple[Pose, Starts]:
    """The pose that fits best, the headers' one unless another is clearly better."""
    wide = _scene(pair, SEARCH_STEP_MM, SEARCH_POINTS)
    from_headers = climb(wide, np.eye(4))
    found = wide_search(wide, body_centre(pair.moving, pair.moving_body))
    headers = climb(closer, from_headers.matrix, degrees=4.0, mm=4.0)
    others = [climb(closer, pose.matrix, degrees=4.0, mm=4.0) for pose in found[:KEPT]]
    rivals = [p for p in others if not near(p.matrix, headers.matrix, closer.centre)]
    promising = different(others, closer.centre, REFINED)
    poses = [_refined(pair, closer, pose) for pose in (headers, *promising)] + rivals
    best = max(poses, key=_believed)
    if best.score <= 0:
        raise RegistrationError(
            f"{pair.fixed.name} and {pair.moving.name}: no position was found in which both "
            "show the same body; check that they belong together"
        )
    rest = [p.score for p in poses if not near(p.matrix, best.matrix, closer.centre)]
    apart = _apart_mm(closer, headers.matrix, best.matrix)
    return best, Starts(best.score, max(rest, default=0.0), headers.score, apart)


def _refined(pair: _Pair, closer: Scene, pose: Pose) -> Pose:
    """The pose on images of the first step, unless the refinement lost its way."""
    try:
        matrix = _refine(pair, pose.matrix, REFINED_STEPS_MM[0])
    except RegistrationError:
        return pose
    refined = Pose(matrix, score(closer, matrix))
    return refined if refined.score > KEEPS_SCORE * pose.score else pose


def _believed(pose: Pose) -> float:
    against_headers = turn_degrees(pose.matrix) > FAR_TURN_DEGREES
    return pose.score if against_headers else pose.score * HEADERS_BONUS


def _refine(pair: _Pair, matrix: Matrix, step_mm: float, *, affine: bool = False) -> Matrix:
    """Move a pose uphill on images of about ``step_mm``, in the body and its rim.

    Lengths are measured in `LEVER_MM`: the optimizer's steps weigh all parameters alike.
    """
    fixed, moving, mask = _levels(pair, step_mm)
    unit = np.diag([1 / LEVER_MM] * 3 + [1.0])
    fixed, moving = (replace(v, affine=unit @ v.affine) for v in (fixed, moving))
    start = RAS_LPS @ unit @ matrix @ np.linalg.inv(unit) @ RAS_LPS
    own = _turn_and_shift((RAS_LPS[:3, :3] @ body_centre(fixed, mask)).tolist(), affine)
    method = _method(mask, fixed.grid, pair.seed)
    method.SetMovingInitialTransform(linear_transform(start))
    method.SetInitialTransform(own, inPlace=True)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=step_mm / 2 / LEVER_MM,
        minStep=SMALLEST_STEP_MM / LEVER_MM,
        numberOfIterations=100,
        relaxationFactor=0.5,
    )
    _execute(pair, method, fixed, moving)
    whole = RAS_LPS @ start @ linear_matrix(own) @ RAS_LPS
    found: Matrix = np.linalg.inv(unit) @ whole @ unit
    return found


def _turn_and_shift(centre_lps: list[float], affine: bool) -> sitk.Transform:
    identity = [0.0] * 3
    if affine:
        return sitk.AffineTransform(np.eye(3).ravel().tolist(), identity, centre_lps)
    return sitk.Euler3DTransform(centre_lps, 0.0, 0.0, 0.0, identity)


def _levels(pair: _Pair, step_mm: float) -> tuple[Volume, Volume, Mask]:
    """Both images in grey levels, and where the fixed one is looked at."""
    fixed, inside = shrink(pair.fixed, pair.fixed_body, step_mm)
    moving, moving_inside = shrink(pair.moving, pair.moving_body, step_mm)
    return (
        fixed.with_array(grey_levels(fixed.array, inside)),
        moving.with_array(grey_levels(moving.array, moving_inside)),
        dilate(inside, fixed.spacing_mm, RIM_MM),
    )


def _method(
    mask: Mask, grid: Grid, seed: int, points: int = REFINED_POINTS
) -> sitk.ImageRegistrationMethod:
    """Mattes' metric and seeded points inside the mask, off the voxels' centres."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    share = min(1.0, points / max(1, int(mask.sum())))
    method.SetMetricSamplingPercentage(share, seed % 2**31 + 1)
    method.SetMetricFixedMask(_image(Volume(mask.astype(np.uint8), grid.affine)))
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _execute(
    pair: _Pair, method: sitk.ImageRegistrationMethod, fixed: Volume, moving: Volume
) -> None:
    try:
        method.Execute(_image(fixed), _image(moving))
    except RuntimeError as error:
        raise RegistrationError(
            f"{pair.fixed.name} and {pair.moving.name}: the images share too little to be "
            "aligned; check that they belong together"
        ) from error


def _image(volume: Volume) -> sitk.Image:
    """For SimpleITK, which knows no skewed axes: those are resampled to straight ones."""
    straight = _straightened(volume)
    affine = RAS_LPS @ straight.affine
    image = sitk.GetImageFromArray(np.ascontiguousarray(straight.array.transpose(2, 1, 0)))
    image.SetSpacing(straight.spacing_mm.tolist())
    image.SetDirection((affine[:3, :3] / straight.spacing_mm).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def _straightened(volume: Volume) -> Volume:
    axes = volume.affine[:3, :3] / volume.spacing_mm
    if np.allclose(axes.T @ axes, np.eye(3), rtol=0, atol=1e-6):
        return volume
    spacing = float(volume.spacing_mm.min())
    corners = volume.grid.corners_mm
    low, high = corners.min(axis=0), corners.max(axis=0)
    sizes = np.ceil((high - low) / spacing).astype(int) + 1
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = low
    grid = Grid((int(sizes[0]), int(sizes[1]), int(sizes[2])), affine)
    nearest = volume.array.dtype == np.uint8
    array = resample_aligned(volume, Alignment.identity(), grid, outside=0, nearest=nearest)
    return Volume(array, affine)


def _stretched(pair: _Pair, matrix: Matrix, notes: list[str]) -> Matrix:
    """An affine refinement, unless it stretches more than a body or a scanner does."""
    affine = _refine(pair, matrix, REFINED_STEPS_MM[-1], affine=True)
    stretch = np.linalg.svd(affine[:3, :3], compute_uv=False)
    if stretch.max() > LARGEST_STRETCH or stretch.min() < 1 / LARGEST_STRETCH:
        notes.append(
            f"no affine: it would stretch by {stretch.min():.2f} to {stretch.max():.2f}, "
            f"at most {LARGEST_STRETCH} is believed; kept the rigid alignment"
        )
        return matrix
    return affine


def _deformed(pair: _Pair, matrix: Matrix, notes: list[str]) -> Alignment:
    """A B-spline refinement, unless it folds or nearly so."""
    fixed, moving, mask = _levels(pair, DEFORMABLE_STEP_MM)
    image = _image(fixed)
    extent = [n * s for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    mesh = [max(1, round(e / MESH_MM)) for e in extent]
    bend = sitk.BSplineTransformInitializer(image, mesh, order=3)
    method = _method(mask, fixed.grid, pair.seed, DEFORMABLE_POINTS)
    method.SetMovingInitialTransform(linear_transform(RAS_LPS @ matrix @ RAS_LPS))
    method.SetInitialTransform(bend, inPlace=True)
    millimetre = float(np.sqrt(len(bend.GetParameters())))
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=millimetre,
        minStep=0.02 * millimetre,
        numberOfIterations=40,
        relaxationFactor=0.7,
    )
    _execute(pair, method, fixed, moving)
    squeeze = _smallest_jacobian(bend, image)
    if squeeze < SMALLEST_JACOBIAN:
        notes.append(
            f"no deformation: it would squeeze tissue to {squeeze:.2f} of its volume, at least "
            f"{SMALLEST_JACOBIAN} is believed; kept the linear alignment"
        )
        return Alignment(matrix)
    return Alignment(matrix, bend)


def _smallest_jacobian(bend: sitk.Transform, image: sitk.Image) -> float:
    field = sitk.TransformToDisplacementField(
        bend,
        sitk.sitkVectorFloat64,
        image.GetSize(),
        image.GetOrigin(),
        image.GetSpacing(),
        image.GetDirection(),
    )
    return float(sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field)).min())


def _measured(closer: Scene, alignment: Alignment, starts: Starts) -> Registration:
    matrix = alignment.matrix
    centre = closer.centre[None]
    after, seen = joint_levels(closer, matrix)
    return Registration(
        alignment=alignment,
        turned_degrees=turn_degrees(matrix),
        shifted_mm=float(np.linalg.norm(move_points(centre, Alignment(matrix)) - centre)),
        mutual_information_before=mutual_information(joint_levels(closer, np.eye(4))[0]),
        mutual_information_after=mutual_information(after),
        overlap=min(1.0, float((seen & closer.in_body).sum() / closer.expected)),
        last_step_mm=0.0,
        starts=starts,
    )


def _apart_mm(scene: Scene, a: Matrix, b: Matrix) -> float:
    """Mean distance of the points of the body under two alignments."""
    points = scene.points[scene.in_body]
    difference = points @ (a - b)[:3, :3].T + (a - b)[:3, 3]
    return float(np.linalg.norm(difference, axis=1).mean())
