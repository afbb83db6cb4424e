"""Find roughly how two images lie against each other, whatever their headers say.

Many turns and shifts are ranked on coarse images by mutual information, the best are moved
uphill, and what remains is a short list of poses that `medp2p.registration` refines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from medp2p.volume import Grid, Volume

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]

BINS = 16
"""Grey levels of the histogram of an image, equally filled inside the body; 0 is background."""

RIM_MM = 10.0
"""Points are taken from the body and this far around it, so that the outline counts."""

SEARCH_TURNS = 400
"""Turns tried beside the 24 axis turns: no turn lies further than about 25° from one of them."""

SEARCH_STEP_MM, SEARCH_POINTS = 8.0, 2500
CLOSER_STEP_MM, CLOSER_POINTS = 4.0, 8000
"""Voxels of the images and number of points of the wide and the closer search."""

SHIFTS_MM = 25.0
"""Centres are also tried in such steps apart along each axis, since fields of view differ."""

RANKED_POINTS = 850
"""Enough to tell hopeful poses from hopeless ones."""

TRIED, SHORT_CLIMB = 120, 50
"""How many poses are climbed from with few points and steps: a right one may start low."""

CLIMBED, KEPT = 16, 6
"""How many poses are climbed from in the wide search, and how many in the closer one."""

SAME_DEGREES, SAME_MM = 12.0, 15.0
"""Poses nearer than this to each other count as one."""

LEAST_SHARE = 0.15
"""A pose that shows less of the smaller body to both images says nothing."""


@dataclass(frozen=True, eq=False)
class Pose:
    """A rigid guess: fixed RAS+ mm to moving RAS+ mm, and how well it fits."""

    matrix: Matrix
    score: float


@dataclass(frozen=True, eq=False)
class Scene:
    """Fixed points with grey levels, and the moving image in grey levels.

    Attributes:
        points: (n, 3) fixed RAS+ mm.
        levels: (n,) grey level of each point, 0 to ``BINS - 1``.
        in_body: (n,) whether a point lies in the fixed body.
        moving: Grey levels, float32.
        centre: (3,) Centre of the fixed body, RAS+ mm.
        moving_extent: (3,) Size of the moving body along the world's axes, mm.
        expected: How many points would lie in both bodies if one held the other.
    """

    points: NDArray[np.float64]
    levels: NDArray[np.intp]
    in_body: Mask
    moving: Volume
    centre: NDArray[np.float64]
    moving_extent: NDArray[np.float64]
    expected: float


def make_scene(
    fixed: Volume,
    moving: Volume,
    fixed_body: Mask,
    moving_body: Mask,
    step_mm: float,
    count: int,
    rng: np.random.Generator,
) -> Scene:
    """Prepare two images for scoring poses at a resolution."""
    coarse_fixed, fixed_inside = shrink(fixed, fixed_body, step_mm)
    coarse_moving, moving_inside = shrink(moving, moving_body, step_mm)
    rim = dilate(fixed_inside, coarse_fixed.spacing_mm, RIM_MM)
    index = np.argwhere(rim)
    if len(index) > count:
        index = index[np.sort(rng.choice(len(index), count, replace=False))]
    jittered = index + rng.uniform(-0.5, 0.5, index.shape)
    levels = grey_levels(coarse_fixed.array, fixed_inside)
    sampled = ndimage.map_coordinates(levels, jittered.T, order=1, mode="nearest")
    body_mm3 = min(
        fixed_inside.sum() * _voxel_mm3(coarse_fixed),
        moving_inside.sum() * _voxel_mm3(coarse_moving),
    )
    per_point = rim.sum() * _voxel_mm3(coarse_fixed) / len(index)
    return Scene(
        points=_to_world(jittered, coarse_fixed.affine),
        levels=np.rint(sampled).astype(np.intp),
        in_body=fixed_inside[tuple(index.T)],
        moving=coarse_moving.with_array(grey_levels(coarse_moving.array, moving_inside)),
        centre=body_centre(coarse_fixed, fixed_inside),
        moving_extent=np.ptp(_to_world(np.argwhere(moving_inside), coarse_moving.affine), axis=0),
        expected=body_mm3 / per_point,
    )


def body_centre(volume: Volume, body: Mask) -> NDArray[np.float64]:
    """The centre of gravity of a body mask in RAS+ mm."""
    index = np.array(ndimage.center_of_mass(body))
    return volume.affine[:3, :3] @ index + volume.affine[:3, 3]


def joint_levels(scene: Scene, matrix: Matrix) -> tuple[NDArray[np.intp], Mask]:
    """Joint histogram (BINS, BINS) at a pose, and which points the moving image shows."""
    to_index = np.linalg.inv(scene.moving.affine) @ matrix
    index = _to_world(scene.points, to_index)
    seen = np.all((index >= -0.5) & (index <= np.array(scene.moving.shape) - 0.5), axis=1)
    levels = ndimage.map_coordinates(scene.moving.array, index[seen].T, order=1, mode="nearest")
    pairs = scene.levels[seen] * BINS + np.rint(levels).astype(np.intp)
    return np.bincount(pairs, minlength=BINS * BINS).reshape(BINS, BINS), seen


def mutual_information(histogram: NDArray[np.intp]) -> float:
    """Mutual information of a joint histogram in nats."""
    total = histogram.sum()
    if total == 0:
        return 0.0
    joint = histogram / total
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    filled = joint > 0
    return float((joint[filled] * np.log(joint[filled] / product[filled])).sum())


def score(scene: Scene, matrix: Matrix) -> float:
    """Mutual information, less where the images share little: it likes small overlaps."""
    histogram, seen = joint_levels(scene, matrix)
    share = min(1.0, (seen & scene.in_body).sum() / scene.expected)
    if share < LEAST_SHARE:
        return 0.0
    return mutual_information(histogram) * float(np.sqrt(share))


def wide_search(scene: Scene, moving_centre: NDArray[np.float64]) -> list[Pose]:
    """Poses from everywhere, moved uphill, best first; they differ from each other."""
    quick = _thinned(scene, RANKED_POINTS)
    ranked = []
    for turn in search_turns():
        for shift in _shifts(quick, turn):
            matrix = turned_about(turn, scene.centre, moving_centre + shift)
            ranked.append(Pose(matrix, score(quick, matrix)))
    hopeful = different(ranked, scene.centre, TRIED)
    nearer = [climb(quick, pose.matrix, steps=SHORT_CLIMB) for pose in hopeful]
    best = different(nearer, scene.centre, CLIMBED)
    return different([climb(scene, pose.matrix) for pose in best], scene.centre, CLIMBED)


def _thinned(scene: Scene, count: int) -> Scene:
    """The same with fewer points."""
    step = max(1, len(scene.points) // count)
    return replace(
        scene,
        points=scene.points[::step],
        levels=scene.levels[::step],
        in_body=scene.in_body[::step],
        expected=scene.expected / step,
    )


def _shifts(scene: Scene, turn: Rotation) -> list[NDArray[np.float64]]:
    """Shifts of the centre along each axis, as far as one body is longer than the other."""
    fixed = np.ptp(turn.apply(scene.points[scene.in_body]), axis=0)
    shifts = [np.zeros(3)]
    for axis, longer in zip(np.eye(3), np.abs(scene.moving_extent - fixed), strict=True):
        for n in range(1, max(1, round(longer / 2 / SHIFTS_MM)) + 1):
            shifts += [n * SHIFTS_MM * axis, -n * SHIFTS_MM * axis]
    return shifts


def climb(
    scene: Scene, matrix: Matrix, *, degrees: float = 10.0, mm: float = 8.0, steps: int = 160
) -> Pose:
    """Move a pose uphill by simplex search; the first steps are as large as given."""

    def loss(change: NDArray[np.float64]) -> float:
        return -score(scene, changed(matrix, change, scene.centre))

    first = np.diag([np.deg2rad(degrees)] * 3 + [mm] * 3)
    found = optimize.minimize(
        loss,
        np.zeros(6),
        method="Nelder-Mead",
        options={
            "initial_simplex": np.concatenate([np.zeros((1, 6)), first]),
            "maxfev": steps,
            "xatol": 0.05,
            "fatol": 1e-4,
        },
    )
    return Pose(changed(matrix, found.x, scene.centre), -float(found.fun))


def changed(matrix: Matrix, change: NDArray[np.float64], centre: NDArray[np.float64]) -> Matrix:
    """Turn by a rotation vector about a fixed point, then shift, then go on as before."""
    return matrix @ turned_about(Rotation.from_rotvec(change[:3]), centre, centre + change[3:])


def turned_about(turn: Rotation, start: NDArray[np.float64], end: NDArray[np.float64]) -> Matrix:
    """The rigid transform that turns and takes one point to another."""
    matrix = np.eye(4)
    matrix[:3, :3] = turn.as_matrix()
    matrix[:3, 3] = end - matrix[:3, :3] @ start
    return matrix


def different(poses: Sequence[Pose], centre: NDArray[np.float64], most: int) -> list[Pose]:
    """The best poses of which no two are nearly the same."""
    kept: list[Pose] = []
    for pose in sorted(poses, key=lambda pose: -pose.score):
        if not any(near(pose.matrix, other.matrix, centre) for other in kept):
            kept.append(pose)
        if len(kept) == most:
            break
    return kept


def near(a: Matrix, b: Matrix, centre: NDArray[np.float64]) -> bool:
    """Whether two poses are one for the search."""
    apart_mm = np.linalg.norm((a - b)[:3, :3] @ centre + (a - b)[:3, 3])
    return turn_degrees(np.linalg.inv(a) @ b) < SAME_DEGREES and bool(apart_mm < SAME_MM)


def turn_degrees(matrix: Matrix) -> float:
    """Rotation angle of a linear transform, its scale and shear taken away."""
    u, _, v = np.linalg.svd(matrix[:3, :3])
    return float(np.rad2deg(Rotation.from_matrix(u @ v).magnitude()))


def search_turns() -> Rotation:
    """The 24 axis turns and `SEARCH_TURNS` others spread evenly.

    The others lie on a super-Fibonacci spiral (Alexa, "Super-Fibonacci Spirals: Fast,
    Low-Discrepancy Sampling of SO(3)", CVPR 2022, algorithm 1).
    """
    s = np.arange(SEARCH_TURNS) + 0.5
    radius, other = np.sqrt(s / SEARCH_TURNS), np.sqrt(1 - s / SEARCH_TURNS)
    alpha, beta = 2 * np.pi * s / np.sqrt(2), 2 * np.pi * s / 1.533751168755204288118041
    spiral = np.stack(
        [
            radius * np.sin(alpha),
            radius * np.cos(alpha),
            other * np.sin(beta),
            other * np.cos(beta),
        ],
        axis=1,
    )
    return Rotation.concatenate([Rotation.create_group("O"), Rotation.from_quat(spiral)])


def shrink(volume: Volume, body: Mask, step_mm: float) -> tuple[Volume, Mask]:
    """Average blocks of voxels up to about ``step_mm`` wide; a mask goes with the majority."""
    factor = np.maximum(1, np.round(step_mm / volume.spacing_mm)).astype(int)
    factor = np.minimum(factor, volume.shape)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ ((factor - 1) / 2)
    affine[:3, :3] *= factor
    array = _block_mean(volume.array, factor)
    return replace(volume, array=array, affine=affine), _block_mean(body, factor) >= 0.5


def dilate(body: Mask, spacing_mm: NDArray[np.float64], distance_mm: float) -> Mask:
    """The body and all within a distance of it."""
    distance = ndimage.distance_transform_edt(~body, sampling=spacing_mm)
    return np.asarray(distance <= distance_mm)


def grey_levels(values: NDArray[np.float32], body: Mask) -> NDArray[np.float32]:
    """Values as 1 to BINS - 1 so that each is about equally frequent in the body, 0 outside."""
    inside = values[body]
    edges = np.quantile(inside, np.linspace(0, 1, BINS))
    levels = np.interp(values, *_rising(edges, np.linspace(0.5, BINS - 0.5, BINS)))
    return np.where(body, np.clip(levels, 1, BINS - 1), 0).astype(np.float32)


def _rising(
    edges: NDArray[np.floating[Any]], levels: NDArray[np.float64]
) -> tuple[NDArray[np.floating[Any]], NDArray[np.float64]]:
    unique, first = np.unique(edges, return_index=True)
    return unique, levels[first]


def _block_mean(array: NDArray[np.generic], factor: NDArray[np.intp]) -> NDArray[np.float32]:
    cut = tuple(slice(0, n // f * f) for n, f in zip(array.shape, factor, strict=True))
    values = array[cut]
    for axis, f in enumerate(factor):
        if f > 1:
            shape = (*values.shape[:axis], values.shape[axis] // f, f, *values.shape[axis + 1 :])
            values = values.reshape(shape).mean(axis=axis + 1, dtype=np.float32)
    return values.astype(np.float32, copy=False)


def _to_world(index: NDArray[Any], affine: Matrix) -> NDArray[np.float64]:
    world: NDArray[np.float64] = index @ affine[:3, :3].T + affine[:3, 3]
    return world


def _voxel_mm3(grid: Volume | Grid) -> float:
    return float(abs(np.linalg.det(grid.affine[:3, :3])))
