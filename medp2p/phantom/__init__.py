"""Digital subjects: random anatomy, its CT numbers and its MR signal.

A subject is drawn from a seed: smooth implicit shapes (`head`, `pelvis`) with random
proportions, bent by a random smooth deformation and posed at random, are painted onto a grid
(`canvas`) as CT numbers and spin-echo signals (`tissues`); then the scanners add their blur,
shading and noise (`imaging`). The anatomy is a function of the seed and of position alone, so
any grid shows the same subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from medp2p.phantom import head, pelvis
from medp2p.phantom.canvas import Canvas
from medp2p.phantom.imaging import (
    TEXTURE_GRAIN_MM,
    block_mean,
    correlated_noise,
    ct_image,
    mr_image,
    shading,
)
from medp2p.phantom.shapes import Array, Noise, Points
from medp2p.phantom.tissues import (
    CONTRASTS,
    FIELD_STRENGTHS_T,
    LABELS,
    SEQUENCES,
    TISSUES,
    Contrast,
    FieldStrength,
    spin_echo_signal,
    subject_tissues,
)
from medp2p.volume import Volume

__all__ = [
    "ANATOMIES",
    "CONTRASTS",
    "FIELD_STRENGTHS_T",
    "LABELS",
    "Anatomy",
    "Contrast",
    "FieldStrength",
    "Phantom",
    "make_phantom",
]

Anatomy = Literal["head", "pelvis"]
ANATOMIES: tuple[Anatomy, ...] = ("head", "pelvis")

_PARTS = {"head": head, "pelvis": pelvis}
_PAINT = {"head": head.paint_head, "pelvis": pelvis.paint_pelvis}


@dataclass(frozen=True, eq=False)
class Phantom:
    """One digital subject, scanned.

    Attributes:
        anatomy: What part of the body it is.
        seed: What it was drawn from.
        mr: One MR volume per contrast, int16 in arbitrary scanner units.
        ct: CT volume, int16 HU.
        ct_noise_free: The same without the scanner's noise, float32 HU.
        mask: uint8, 1 inside the body's surface, air in it included.
        labels: uint8 tissue numbers, see `LABELS`.
        tissue_hu: This subject's mean CT number of every tissue.
        ct_noise_mae_hu: Mean absolute difference of ``ct`` and ``ct_noise_free`` inside the
            mask: the masked MAE that a perfect prediction would have.
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
    spacing_mm: tuple[float, float, float] | None = None,
    contrasts: Sequence[Contrast] = ("t1",),
    field_strength_t: FieldStrength = 1.5,
    centre_mm: tuple[float, float, float] | None = None,
    oblique_degrees: float = 0.0,
    shading_strength: float = 0.15,
    mr_noise: float = 0.02,
    ct_noise_hu: float = 14.0,
) -> Phantom:
    """Draw a subject and scan it.

    Args:
        anatomy: ``"head"`` or ``"pelvis"``.
        seed: Decides everything that is random; the same seed gives the same voxels.
        shape: Voxels from right to left, front to back and feet to head.
        spacing_mm: Voxel size; by default the anatomy's field of view divided by ``shape``.
        contrasts: Which MR images to make: ``"t1"``, ``"t2"``, ``"pd"``, ``"flair"``.
        field_strength_t: 1.5 or 3 tesla.
        centre_mm: Body coordinates in the middle of the grid, to choose a level; by default
            that of the anatomy.
        oblique_degrees: Turns the grid about all three axes, at most 45.
        shading_strength: Spread of the logarithm of the MR coil's sensitivity.
        mr_noise: Standard deviation of the MR noise, relative to the bright parts of the body.
        ct_noise_hu: Standard deviation of the CT noise.

    Returns:
        The subject's volumes, all on one grid. World coordinates have their origin near the
        middle of the body.

    Raises:
        ValueError: If an argument is out of range.
    """
    _check(anatomy, shape, spacing_mm, contrasts, field_strength_t, oblique_degrees)
    names = tuple(dict.fromkeys(contrasts))
    anatomy_rng, pose_rng, tissue_rng, grid_rng, ct_rng, mr_rng = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(6)
    )
    spacing = _spacing(anatomy, shape, spacing_mm)
    middle = np.asarray(_PARTS[anatomy].CENTRE_MM if centre_mm is None else centre_mm, float)
    affine = _affine(middle, shape, spacing, oblique_degrees, grid_rng)
    hu = subject_tissues(tissue_rng)
    factor = _subdivision(spacing)
    table = _table(hu, names, field_strength_t)
    canvas = _canvas(anatomy, shape, affine, factor, table, pose_rng)
    outside = _PAINT[anatomy](canvas, anatomy_rng)
    values = block_mean(canvas.values, factor)
    mask = block_mean((outside < 0)[None].astype(np.float32), factor)[0] >= 0.5
    labels = _labels(canvas.labels, factor, mask)
    grain = correlated_noise(shape, spacing, TEXTURE_GRAIN_MM, ct_rng)
    clean, ct = ct_image(values[0] + values[1] * grain, spacing, ct_noise_hu, ct_rng)
    world = _world(shape, affine)
    relative = np.maximum(1 + values[2] * grain, 0)
    mr: dict[Contrast, Volume] = {}
    for contrast, signal in zip(names, values[3:], strict=True):
        shaded = signal * relative * shading(world, shading_strength, mr_rng)
        bright = float(np.percentile(shaded[mask], 95)) if mask.any() else 1.0
        scale = float(np.exp(mr_rng.uniform(np.log(300), np.log(2000)))) / bright
        array = mr_image(shaded, mr_noise * bright, scale, mr_rng)
        mr[contrast] = Volume(array, affine, modality="MR")
    noise = np.abs(ct[mask] - clean[mask]).mean(dtype=np.float64) if mask.any() else 0.0
    return Phantom(
        anatomy=anatomy,
        seed=seed,
        mr=mr,
        ct=Volume(ct, affine, modality="CT", units="HU"),
        ct_noise_free=Volume(clean, affine, modality="CT", units="HU"),
        mask=Volume(mask.astype(np.uint8), affine, modality="MASK"),
        labels=Volume(labels, affine, modality="MASK"),
        tissue_hu={t.name: round(float(v), 1) for t, v in zip(TISSUES, hu, strict=True)},
        ct_noise_mae_hu=float(noise),
        parameters={},
    )


def _check(anatomy, shape, spacing_mm, contrasts, field_strength_t, oblique_degrees) -> None:
    pass


def _spacing(anatomy, shape, spacing_mm):
    if spacing_mm is not None:
        return np.asarray(spacing_mm, float)
    return np.asarray(_PARTS[anatomy].FIELD_OF_VIEW_MM) / shape


def _affine(middle, shape, spacing, oblique_degrees, rng) -> NDArray[np.float64]:
    """LPS-ordered voxels, as DICOM scanners give; the middle voxel shows ``middle``."""
    axes = np.diag([-1.0, -1.0, 1.0])
    if oblique_degrees:
        signs = rng.choice([-1, 1], 3)
        axes = Rotation.from_euler("xyz", oblique_degrees * signs, degrees=True).as_matrix() @ axes
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def _subdivision(spacing: NDArray[np.float64]) -> tuple[int, int, int]:
    """Into how many parts voxels are cut along each axis, to be about cubes."""
    i, j, k = (max(1, round(s / max(spacing.min(), 1.5))) for s in spacing)
    return i, j, k


def _table(hu, contrasts, field) -> NDArray[np.float64]:
    """(tissue, channel): CT number and texture, MR texture, signal of each contrast."""
    columns = [hu, [t.hu_texture for t in TISSUES], [t.mr_texture for t in TISSUES]]
    for contrast in contrasts:
        sequence = SEQUENCES[contrast, field]
        columns.append(
            [spin_echo_signal(t.proton_density, t.relaxation[field], sequence) for t in TISSUES]
        )
    return np.array(columns, float).T


def _canvas(anatomy, shape, affine, factor, table, rng) -> Canvas:
    fine = np.array(affine)
    fine[:3, :3] /= factor
    fine[:3, 3] -= affine[:3, :3] @ ((np.asarray(factor) - 1) / (2 * np.asarray(factor)))
    fine_shape = tuple(n * f for n, f in zip(shape, factor, strict=True))
    world_to_body = _pose(anatomy, rng)
    to_body = world_to_body @ fine
    points = _world(fine_shape, to_body)
    points = tuple(np.array(np.broadcast_to(p, fine_shape)) for p in points)
    spacing = np.linalg.norm(fine[:3, :3], axis=0)
    canvas = Canvas(points, np.linalg.inv(to_body), 0.0, spacing, table)
    canvas.bend(rng, _WARP[anatomy])
    return canvas


def _world(shape, affine) -> Points:
    i, j, k = (np.arange(n, dtype=np.float32) for n in shape)
    a = affine.astype(np.float32)
    return tuple(
        a[r, 0] * i[:, None, None] + a[r, 1] * j[None, :, None] + a[r, 2] * k[None, None] + a[r, 3]
        for r in range(3)
    )


_WARP = {"head": ((150, 4.0), (60, 1.6)), "pelvis": ((260, 8.0), (100, 3.0))}


def _pose(anatomy, rng) -> NDArray[np.float64]:
    degrees = rng.normal(0, 4, 3).clip(-8, 8)
    size = 1 + rng.normal(0, 0.045) + rng.normal(0, 0.03, 3)
    move = rng.normal(0, 4, 3).clip(-8, 8)
    pose = np.eye(4)
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    pose[:3, :3] = np.diag(1 / size) @ turn
    pose[:3, 3] = -pose[:3, :3] @ move
    return pose


def _labels(fine, factor, mask):
    i, j, k = (f // 2 for f in factor)
    labels = fine[i :: factor[0], j :: factor[1], k :: factor[2]]
    labels = np.where(mask & (labels == 0), LABELS["skin"], labels)
    return np.where(mask, labels, 0).astype(np.uint8)
