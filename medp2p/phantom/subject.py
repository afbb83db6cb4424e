"""One digital subject: drawn, posed, painted and scanned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label
from scipy.spatial.transform import Rotation

from medp2p.phantom.canvas import Canvas
from medp2p.phantom.couch import Couch, couch_above_air
from medp2p.phantom.head import HEAD_CENTRE_MM, HEAD_EXTENT_MM, paint_head
from medp2p.phantom.imaging import (
    TEXTURE_GRAIN_MM,
    block_mean,
    correlated_noise,
    ct_image,
    mr_image,
    shading,
)
from medp2p.phantom.pelvis import PELVIS_CENTRE_MM, PELVIS_EXTENT_MM, paint_pelvis
from medp2p.phantom.shapes import Array, Points
from medp2p.phantom.tissues import (
    CONTRASTS,
    FIELD_STRENGTHS_T,
    LABELS,
    SEQUENCES,
    TISSUES,
    Contrast,
    spin_echo_signal,
    subject_tissues,
)
from medp2p.volume import Grid, Volume

Anatomy = Literal["head", "pelvis"]
Triple = tuple[float, float, float]

ANATOMIES: tuple[Anatomy, ...] = ("head", "pelvis")
CUBE_MM = 1.5
"""Voxels are cut into about cubes for painting, but none smaller than this."""
FIELD_OF_VIEW_MM: dict[Anatomy, tuple[Triple, Triple]] = {
    "head": (HEAD_EXTENT_MM, HEAD_CENTRE_MM),
    "pelvis": (PELVIS_EXTENT_MM, PELVIS_CENTRE_MM),
}
"""Extent in mm and middle, in world coordinates, of what is scanned by default."""
BEND_MM: dict[Anatomy, tuple[tuple[float, float], ...]] = {
    "head": ((150, 4.0), (60, 1.6)),
    "pelvis": ((260, 8.0), (100, 3.0)),
}
"""Wavelength and standard deviation, in mm, of the random deformation of the body."""


@dataclass(frozen=True, eq=False)
class Phantom:
    """One digital subject, scanned.

    Attributes:
        anatomy: What part of the body it is.
        seed: What it was drawn from.
        mr: One MR volume per contrast, int16 in arbitrary scanner units.
        ct: CT volume, int16 HU.
        ct_noise_free: The same without the scanner's noise, float32 HU.
        mask: uint8, 1 inside the body's surface, air within included.
        labels: uint8 tissue numbers, see `LABELS`.
        tissue_hu: This subject's mean CT number of every tissue.
        ct_noise_mae_hu: Mean absolute difference of ``ct`` and ``ct_noise_free`` inside the
            mask, the masked MAE of a perfect prediction. 0 if the grid shows no body.
        parameters: What else it was made with, ready for JSON.
    """

    anatomy: Anatomy
    seed: int
    mr: dict[Contrast, Volume]
    ct: Volume
    ct_noise_free: Volume
    mask: Volume
    labels: Volume
    tissue_hu: dict[str, float]
    ct_noise_mae_hu: float
    parameters: dict[str, Any]


def make_phantom(
    anatomy: Anatomy,
    seed: int,
    *,
    shape: tuple[int, int, int] = (128, 128, 128),
    spacing_mm: Triple | None = None,
    contrasts: Sequence[Contrast] = ("t1",),
    field_strength_t: float = 1.5,
    centre_mm: Triple | None = None,
    oblique_degrees: float = 0.0,
    shading_strength: float = 0.15,
    mr_noise: float = 0.02,
    ct_noise_hu: float = 14.0,
    grid: Grid | None = None,
    scan: int = 0,
    couch: Couch | None = None,
) -> Phantom:
    """Draw a subject and scan it.

    Args:
        anatomy: ``"head"`` or ``"pelvis"``.
        seed: Decides everything that is random; the same seed gives the same voxels.
        shape: Voxels across the body, from front to back, and from feet to head.
        spacing_mm: Voxel size; by default the anatomy's field of view divided by ``shape``.
        contrasts: Which MR images to make: ``"t1"``, ``"t2"``, ``"pd"``, ``"flair"``.
        field_strength_t: 1.5 or 3 tesla.
        centre_mm: World coordinates (RAS+) in the middle of the grid, to choose a level; by
            default the middle of the anatomy.
        oblique_degrees: Turns the grid about all three axes, at most 45.
        shading_strength: Spread of the logarithm of the MR coil's sensitivity.
        mr_noise: Standard deviation of the MR noise relative to bright tissue.
        ct_noise_hu: Standard deviation of the CT noise in HU.
        grid: Any grid to scan the subject on, instead of the one that ``shape``, ``spacing_mm``,
            ``centre_mm`` and ``oblique_degrees`` describe. Nothing is interpolated: every
            grid shows the same body, which lies within about 0.2 mm of the one without ``grid``.
        scan: Number of the scan. Another one shows the same subject with other noise, texture,
            shading and units.
        couch: What the subject lies on, in the CT only and not in the mask.

    Returns:
        The subject's volumes, all on one grid; by default with axes towards left, back and head.

    Raises:
        ValueError: If an argument is out of range.
    """
    contrasts = tuple(dict.fromkeys(contrasts))
    _check(anatomy, seed, contrasts, field_strength_t)
    _check_numbers(oblique_degrees, shading_strength, mr_noise, ct_noise_hu)
    anatomy_rng, pose_rng, tissue_rng, grid_rng = _generators([seed], 4)
    ct_rng, mr_rng, couch_rng = _generators([seed, scan] if scan else [seed], 7)[4:]
    exact = grid is not None
    if grid is None:
        grid = _grid(anatomy, shape, spacing_mm, centre_mm, oblique_degrees, grid_rng)
    tissue_hu = subject_tissues(tissue_rng)
    factor = _subdivision(grid.spacing_mm)
    table = _property_table(tissue_hu, contrasts, field_strength_t)
    fine = _divided(grid, factor)
    canvas = _canvas(anatomy, fine, table, pose_rng, exact=exact)
    paint = paint_head if anatomy == "head" else paint_pelvis
    outside = paint(canvas, anatomy_rng)
    canvas.fill_everywhere("background", canvas.voxel_mm / 2 - outside)
    if couch is not None:
        world = _positions(fine.shape, fine.affine)
        canvas.values[0] += couch_above_air(couch, world, outside, canvas.voxel_mm, couch_rng)

    hu, hu_texture, mr_texture, *signals = block_mean(canvas.values, factor)
    mask = _filled(block_mean((outside < 0)[None].astype(np.float32), factor)[0] >= 0.5)
    grain = correlated_noise(grid.shape, grid.spacing_mm, TEXTURE_GRAIN_MM, ct_rng)
    noise_free, ct = ct_image(hu + hu_texture * grain, grid.spacing_mm, ct_noise_hu, ct_rng)
    relative = np.maximum(1 + mr_texture * grain, 0)
    mr = {
        contrast: _scan(signal * relative, mask, grid, shading_strength, mr_noise, mr_rng)
        for contrast, signal in zip(contrasts, signals, strict=True)
    }
    difference = np.abs(ct[mask] - noise_free[mask])
    return Phantom(
        anatomy=anatomy,
        seed=seed,
        mr=mr,
        ct=Volume(ct, grid.affine, modality="CT", units="HU"),
        ct_noise_free=Volume(noise_free, grid.affine, modality="CT", units="HU"),
        mask=Volume(mask.astype(np.uint8), grid.affine, modality="MASK"),
        labels=Volume(_labels(canvas.labels, factor, mask), grid.affine, modality="MASK"),
        tissue_hu={t.name: round(float(v), 1) for t, v in zip(TISSUES, tissue_hu, strict=True)},
        ct_noise_mae_hu=float(difference.mean(dtype=np.float64)) if mask.any() else 0.0,
        parameters={
            "shape": list(grid.shape),
            "spacing_mm": [round(float(s), 6) for s in grid.spacing_mm],
            "contrasts": list(contrasts),
            "field_strength_t": field_strength_t,
            "oblique_degrees": oblique_degrees,
            "shading_strength": shading_strength,
            "mr_noise": mr_noise,
            "ct_noise_hu": ct_noise_hu,
        },
    )


def case_seed(seed: int, number: int) -> int:
    """The seed of one case of a series, so that no two series share a subject."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _generators(seeds: list[int], count: int) -> list[np.random.Generator]:
    """Independent generators; the first ones are the same whatever their number."""
    entropy = seeds[0] if len(seeds) == 1 else seeds
    children = np.random.SeedSequence(entropy).spawn(count)
    return [np.random.default_rng(child) for child in children]


def _check(anatomy: str, seed: int, contrasts: Sequence[str], field_strength_t: float) -> None:
    if anatomy not in ANATOMIES:
        raise ValueError(f"anatomy is {anatomy!r}, expected one of {', '.join(ANATOMIES)}")
    if seed < 0:
        raise ValueError(f"seed is {seed}, expected 0 or more")
    unknown = [c for c in contrasts if c not in CONTRASTS]
    if unknown or not contrasts:
        found = ", ".join(unknown) or "none"
        raise ValueError(f"contrasts: found {found}, expected some of {', '.join(CONTRASTS)}")
    if field_strength_t not in FIELD_STRENGTHS_T:
        raise ValueError(f"field strength is {field_strength_t} T, expected 1.5 or 3")


def _check_numbers(oblique: float, shading_strength: float, mr_noise: float, ct: float) -> None:
    if not abs(oblique) <= 45:
        raise ValueError(f"oblique_degrees is {oblique}, expected at most 45")
    for name, value, most in (
        ("shading_strength", shading_strength, 1),
        ("mr_noise", mr_noise, 1),
        ("ct_noise_hu", ct, 500),
    ):
        if not 0 <= value <= most:
            raise ValueError(f"{name} is {value}, expected 0 to {most}")


def _grid(
    anatomy: Anatomy,
    shape: tuple[int, int, int],
    spacing_mm: Triple | None,
    centre_mm: Triple | None,
    oblique_degrees: float,
    rng: np.random.Generator,
) -> Grid:
    extent, middle = FIELD_OF_VIEW_MM[anatomy]
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape is {shape}, expected three numbers of at least 1")
    spacing = np.array(extent) / shape if spacing_mm is None else np.array(spacing_mm, float)
    if spacing.shape != (3,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise ValueError(f"spacing_mm is {spacing_mm}, expected three lengths above 0")
    axes = np.diag([-1.0, -1.0, 1.0])
    signs = rng.choice([-1, 1], 3)
    turn = Rotation.from_euler("xyz", oblique_degrees * signs, degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes * spacing
    centre = np.array(middle if centre_mm is None else centre_mm, float)
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def _subdivision(spacing_mm: NDArray[np.float64]) -> tuple[int, int, int]:
    """Into how many parts voxels are cut along each axis, to be about cubes."""
    i, j, k = (max(1, round(s / max(spacing_mm.min(), CUBE_MM))) for s in spacing_mm)
    return i, j, k


def _property_table(
    tissue_hu: NDArray[np.float64], contrasts: Sequence[Contrast], field: float
) -> NDArray[np.float64]:
    """(tissue, channel): CT number and its texture, MR texture, signal of each contrast."""
    columns: list[Any] = [tissue_hu]
    columns += [[t.hu_texture for t in TISSUES], [t.mr_texture for t in TISSUES]]
    for contrast in contrasts:
        sequence = SEQUENCES[contrast, field]
        signals = [
            spin_echo_signal(t.proton_density, t.relaxation[field], sequence) for t in TISSUES
        ]
        columns.append(signals)
    return np.array(columns, float).T


def _divided(grid: Grid, factor: tuple[int, int, int]) -> Grid:
    """The grid of the parts of its voxels."""
    parts = np.array(factor)
    affine = np.array(grid.affine)
    affine[:3, :3] /= parts
    affine[:3, 3] -= grid.affine[:3, :3] @ ((parts - 1) / (2 * parts))
    i, j, k = (n * f for n, f in zip(grid.shape, factor, strict=True))
    return Grid((i, j, k), affine)


def _canvas(
    anatomy: Anatomy,
    grid: Grid,
    table: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    exact: bool,
) -> Canvas:
    """An empty canvas whose voxels see the body posed and deformed."""
    index_to_body = _pose(rng) @ grid.affine
    x, y, z = (
        np.array(np.broadcast_to(p, grid.shape)) for p in _positions(grid.shape, index_to_body)
    )
    body_to_index = np.asarray(np.linalg.inv(index_to_body), np.float64)
    canvas = Canvas((x, y, z), body_to_index, grid.spacing_mm, table, exact=exact)
    canvas.bend(rng, BEND_MM[anatomy])
    return canvas


def _pose(rng: np.random.Generator) -> NDArray[np.float64]:
    """World to body coordinates: tilted, shifted, and of another size in every direction."""
    degrees = rng.normal(0, 3.5, 3).clip(-7, 7)
    size = 1 + rng.normal(0, 0.035) + rng.normal(0, 0.025, 3)
    shift_mm = rng.normal(0, 3, 3).clip(-6, 6)
    pose = np.eye(4)
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    pose[:3, :3] = np.diag(1 / size.clip(0.88, 1.12)) @ turn
    pose[:3, 3] = -pose[:3, :3] @ shift_mm
    return pose


def _positions(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> Points:
    """Coordinates of all voxel centres, arrays that broadcast to the shape where they can."""
    i, j, k = np.ogrid[: shape[0], : shape[1], : shape[2]]
    a = affine.astype(np.float32)
    x, y, z = (
        np.asarray(a[r, 0] * i + a[r, 1] * j + a[r, 2] * k + a[r, 3], np.float32) for r in range(3)
    )
    return x, y, z


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without holes: background that does not reach the border of the grid."""
    parts, _ = label(~mask)
    open_parts = [np.unique(np.take(parts, side, axis)) for axis in range(3) for side in (0, -1)]
    return ~np.isin(parts, np.setdiff1d(np.concatenate(open_parts), 0))


def _scan(
    signal: Array,
    mask: NDArray[np.bool_],
    grid: Grid,
    shading_strength: float,
    noise: float,
    rng: np.random.Generator,
) -> Volume:
    """One MR image, in scanner units that differ from scan to scan."""
    shaded = signal * shading(_positions(grid.shape, grid.affine), shading_strength, rng)
    bright = max(float(np.percentile(shaded[mask], 95)), 1e-6) if mask.any() else 1.0
    scale = float(np.exp(rng.uniform(np.log(300), np.log(2000)))) / bright
    return Volume(mr_image(shaded, noise * bright, scale, rng), grid.affine, modality="MR")


def _labels(
    fine: NDArray[np.uint8], factor: tuple[int, int, int], mask: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Tissue in the middle of every voxel; the mask decides what is background."""
    i, j, k = factor
    labels = fine[i // 2 :: i, j // 2 :: j, k // 2 :: k]
    inside = np.where(labels == LABELS["background"], LABELS["skin"], labels)
    return np.where(mask, inside, LABELS["background"]).astype(np.uint8)
