"""Patients as a hospital scans them: MR and CT of different days, apart by a known displacement.

Each scanner has a world of its own. Both scan the same subject exactly, on any grid, so that the
displacement between the two worlds is known to the last digit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from medp2p.phantom.couch import Couch
from medp2p.phantom.subject import FIELD_OF_VIEW_MM, Anatomy, Phantom, Triple, make_phantom
from medp2p.phantom.tissues import Contrast
from medp2p.volume import Grid, Volume

LARGEST_SHIFT_MM = 100.0
SHARE_TILTED, SHARE_TURNED = 0.70, 0.10
"""Of patients a little tilted against the other scan, and turned by more; the rest lies far off."""


@dataclass(frozen=True, eq=False)
class PatientPlan:
    """How one patient is scanned.

    Attributes:
        anatomy: What part of the body.
        seed: Which subject.
        ct_from_mr: (4, 4) rigid, RAS+ mm: from a point in the MR scanner's world to the same
            point of the body in the CT scanner's world.
        mr_grid: Where the voxels of the MR lie in its world.
        ct_grid: Where the voxels of the CT lie in its world.
        contrasts: MR series.
        field_strength_t: 1.5 or 3 tesla.
        shading_strength: Spread of the logarithm of the MR coil's sensitivity.
        mr_noise: Standard deviation of the MR noise relative to bright tissue.
        ct_noise_hu: Standard deviation of the CT noise in HU.
        couch: Whether a couch (for heads, a head holder on it) is in the CT.
    """

    anatomy: Anatomy
    seed: int
    ct_from_mr: NDArray[np.float64]
    mr_grid: Grid
    ct_grid: Grid
    contrasts: tuple[Contrast, ...] = ("t1",)
    field_strength_t: float = 1.5
    shading_strength: float = 0.15
    mr_noise: float = 0.02
    ct_noise_hu: float = 14.0
    couch: bool = True


@dataclass(frozen=True, eq=False)
class PatientScans:
    """A patient's MR and CT, and the truth about them.

    Attributes:
        plan: How they were made.
        mr: One volume per contrast, in the MR scanner's world.
        ct: In the CT scanner's world.
        mr_mask: uint8 body on the grid of the MR, air inside included.
        ct_mask: The same on the grid of the CT, without couch and head holder.
    """

    plan: PatientPlan
    mr: dict[Contrast, Volume]
    ct: Volume
    mr_mask: Volume
    ct_mask: Volume

    @property
    def ct_from_mr(self) -> NDArray[np.float64]:
        """(4, 4), RAS+ mm: a point in the world of the MR to the same one in that of the CT."""
        return self.plan.ct_from_mr


def displacement(anatomy: Anatomy, turn: Rotation, shift_mm: Triple) -> NDArray[np.float64]:
    """A turn about the middle of the anatomy, then a shift: (4, 4), RAS+ mm."""
    middle = np.array(FIELD_OF_VIEW_MM[anatomy][1])
    matrix = np.eye(4)
    matrix[:3, :3] = turn.as_matrix()
    matrix[:3, 3] = middle + shift_mm - matrix[:3, :3] @ middle
    return matrix


def scan_grid(
    centre_mm: NDArray[np.float64],
    extent_mm: Triple,
    spacing_mm: Triple,
    tilt: Rotation | None = None,
) -> Grid:
    """A grid with axes to the left, the back and the head (LPS), tilted if told.

    Args:
        centre_mm: World position of its middle.
        extent_mm: Field of view along its axes; the number of voxels is rounded.
        spacing_mm: Distance of voxel centres along its axes.
        tilt: Turns the axes about the centre.
    """
    i, j, k = (max(1, round(e / s)) for e, s in zip(extent_mm, spacing_mm, strict=True))
    axes = np.diag([-1.0, -1.0, 1.0])
    affine = np.eye(4)
    affine[:3, :3] = (axes if tilt is None else tilt.as_matrix() @ axes) * spacing_mm
    affine[:3, 3] = centre_mm - affine[:3, :3] @ ((np.array((i, j, k)) - 1) / 2)
    return Grid((i, j, k), affine)


def make_patient(plan: PatientPlan) -> PatientScans:
    """Scan a subject with both scanners."""
    mr = _scanned(plan, plan.mr_grid, scan=1, couch=None)
    ct_from_mr, grid = plan.ct_from_mr, plan.ct_grid
    seen_from_mr = Grid(grid.shape, np.linalg.inv(ct_from_mr) @ grid.affine)
    couch = Couch(_couch_axes(ct_from_mr), plan.anatomy == "head") if plan.couch else None
    ct = _scanned(plan, seen_from_mr, scan=2, couch=couch)
    return PatientScans(
        plan=plan,
        mr=mr.mr,
        ct=Volume(ct.ct.array, grid.affine, modality="CT", units="HU"),
        mr_mask=mr.mask,
        ct_mask=Volume(ct.mask.array, grid.affine, modality="MASK"),
    )


def random_patient(
    seed: int,
    *,
    anatomy: Anatomy = "head",
    contrasts: tuple[Contrast, ...] = ("t1",),
    pixels: int = 128,
    turned: bool = True,
) -> PatientScans:
    """`make_patient` of `random_plan`."""
    return make_patient(
        random_plan(seed, anatomy=anatomy, contrasts=contrasts, pixels=pixels, turned=turned)
    )


def random_plan(
    seed: int,
    *,
    anatomy: Anatomy = "head",
    contrasts: tuple[Contrast, ...] = ("t1",),
    pixels: int = 128,
    turned: bool = True,
) -> PatientPlan:
    """Draw how a patient is scanned.

    - The CT lies off the MR by a turn (`random_turn`) and a shift of up to `LARGEST_SHIFT_MM`,
      all directions alike, the length evenly distributed.
    - MR: slices of 5 mm (half of the patients), 3 mm, or about cubes; their stack tilted by up
      to 12 degrees.
    - CT: slices of 2, 2.5 or 3 mm, straight in its world.
    - One scan in four shows a part only: 60 to 85 % along the body. Both are off the middle of
      the anatomy by up to 10 mm.
    - Bias of the coil, spread of its logarithm 0.05 to 0.3; MR noise 1 to 5 % of bright tissue;
      CT noise 8 to 25 HU; 1.5 or 3 tesla.

    Args:
        seed: Decides the subject and all the rest.
        anatomy: What part of the body.
        contrasts: MR series.
        pixels: Of the MR across the field of view; the CT has about as many. Fewer are faster.
            Slices become thicker with them.
        turned: Whether some lie far off; if not, all are a little tilted, and all the rest of
            the patient stays as it is.
    """
    rng = np.random.default_rng([seed, 20])
    extent, middle = (np.array(v) for v in FIELD_OF_VIEW_MM[anatomy])
    direction = _random_direction(rng)
    shift = direction * rng.uniform(0, LARGEST_SHIFT_MM)
    tilt_only, any_turn = _tilted(rng), random_turn(rng)
    turn = any_turn if turned else tilt_only
    ct_from_mr = displacement(anatomy, turn, (shift[0], shift[1], shift[2]))
    pixel = float(max(extent[:2])) / pixels
    coarse = pixel / (250 / 128)
    thick = coarse * float(rng.choice([5.0, 3.0, 1.9], p=[0.5, 0.25, 0.25]))
    tilt = Rotation.from_rotvec(np.radians(rng.uniform(0, 12)) * _random_direction(rng))
    mr_extent, mr_off = _shown(extent, rng)
    mr_grid = scan_grid(middle + mr_off, mr_extent, (pixel, pixel, thick), tilt)
    ct_extent, ct_off = _shown(extent, rng)
    ct_pixel = pixel * float(rng.uniform(0.95, 1.15))
    ct_slice = coarse * float(rng.choice([2.0, 2.5, 3.0]))
    seen = np.abs(_nearest_axes(turn.as_matrix())) @ (np.array(ct_extent) * (1.12, 1.12, 1.0))
    ct_centre = (ct_from_mr @ (*(middle + ct_off), 1.0))[:3]
    ct_grid = scan_grid(ct_centre, (seen[0], seen[1], seen[2]), (ct_pixel, ct_pixel, ct_slice))
    return PatientPlan(
        anatomy=anatomy,
        seed=seed,
        ct_from_mr=ct_from_mr,
        mr_grid=mr_grid,
        ct_grid=ct_grid,
        contrasts=contrasts,
        field_strength_t=float(rng.choice([1.5, 3.0])),
        shading_strength=float(rng.uniform(0.05, 0.3)),
        mr_noise=float(rng.uniform(0.01, 0.05)),
        ct_noise_hu=float(rng.uniform(8, 25)),
    )


def random_turn(rng: np.random.Generator) -> Rotation:
    """How a patient lies in one scanner against the other.

    Most lie a little tilted (`SHARE_TILTED`: half-normal, standard deviation 5 degrees), some
    turned by 15 to 45 degrees (`SHARE_TURNED`). Of the rest one half is turned by one of the 23
    turns of the axes, 10 degrees tilted at most, as when a header states the wrong position;
    the other half by 45 to 180 degrees about any axis.
    """
    kind, axis = rng.random(), _random_direction(rng)
    if kind < SHARE_TILTED:
        return _tilted(rng)
    if kind < SHARE_TILTED + SHARE_TURNED:
        return Rotation.from_rotvec(np.radians(rng.uniform(15, 45)) * axis)
    if kind < (1 + SHARE_TILTED + SHARE_TURNED) / 2:
        turns = Rotation.create_group("O")
        turn = turns[int(rng.choice(np.flatnonzero(turns.magnitude() > 0.1)))]
        return Rotation.from_rotvec(np.radians(rng.uniform(0, 10)) * axis) * turn
    return Rotation.from_rotvec(np.radians(rng.uniform(45, 180)) * axis)


def _scanned(plan: PatientPlan, grid: Grid, scan: int, couch: Couch | None) -> Phantom:
    return make_phantom(
        plan.anatomy,
        plan.seed,
        grid=grid,
        scan=scan,
        couch=couch,
        contrasts=plan.contrasts,
        field_strength_t=plan.field_strength_t,
        shading_strength=plan.shading_strength,
        mr_noise=plan.mr_noise,
        ct_noise_hu=plan.ct_noise_hu,
    )


def _couch_axes(ct_from_mr: NDArray[np.float64]) -> NDArray[np.float64]:
    """Axes of the couch as the MR scanner's world has them.

    The couch is straight in the CT's world and long as the body is. It is below (at -y), on
    whichever side of the body that is; where the body itself stands upright, at its back.
    """
    turn = ct_from_mr[:3, :3]
    of_body = _nearest_axes(turn)
    along = of_body[:, 2]
    up = np.array((0.0, 1, 0)) if abs(along[1]) < 0.5 else of_body[:, 1]
    in_ct = np.array([np.cross(up, along), up, along])
    return np.asarray(in_ct @ turn, np.float64)


def _nearest_axes(turn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the 24 turns of the axes the one nearest to a rotation, (3, 3)."""
    group = Rotation.create_group("O").as_matrix()
    nearest = np.einsum("nij,ij->n", group, turn).argmax()
    return np.asarray(np.rint(group[nearest]), np.float64)


def _tilted(rng: np.random.Generator) -> Rotation:
    axis = _random_direction(rng)
    return Rotation.from_rotvec(np.radians(abs(rng.normal(0, 5))) * axis)


def _random_direction(rng: np.random.Generator) -> NDArray[np.float64]:
    direction = rng.standard_normal(3)
    return np.asarray(direction / np.linalg.norm(direction), np.float64)


def _shown(
    extent_mm: NDArray[np.float64], rng: np.random.Generator
) -> tuple[Triple, NDArray[np.float64]]:
    """How much of the body a scan shows, and how far its middle is from that of the anatomy."""
    part, share, end = rng.random() < 0.25, rng.uniform(0.6, 0.85), rng.choice([-1, 1])
    offset = rng.uniform(-10, 10, 3)
    length = float(extent_mm[2])
    if part:
        offset[2] += end * length * (1 - share) / 2
        length *= share
    return (float(extent_mm[0]), float(extent_mm[1]), length), offset
