"""What a patient lies on in a CT scanner: couch, mattress, sheet and head holder.

Estimates after clinical images: a shell of carbon fibre that its thickness blurs to about
-150 to 0 HU, a core of rigid foam, a soft mattress, a cotton sheet, a head holder of plastic.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medp2p.phantom.shapes import Array, Points

AIR_HU = -1000.0
PRESSED_MM = 3.0
"""How deep a body sinks into what it lies on."""
ARMS_MM = 95.0
"""How far the sides of a head holder reach up."""


@dataclass(frozen=True, eq=False)
class Couch:
    """How a couch lies under a body.

    Attributes:
        axes: (3, 3), rows are unit vectors in world coordinates (RAS+): across the couch, up,
            and along it. By default the body lies on its back.
        head_holder: Whether the body lies in a U-shaped head holder instead of on a mattress.
    """

    axes: NDArray[np.float64] = field(default_factory=lambda: np.eye(3))
    head_holder: bool = False

    def __post_init__(self) -> None:
        if not np.allclose(self.axes @ np.transpose(self.axes), np.eye(3), atol=1e-6):
            raise ValueError("couch axes: expected three unit vectors at right angles")


def couch_above_air(
    couch: Couch, world: Points, outside: Array, voxel_mm: float, rng: np.random.Generator
) -> Array:
    """What couch and accessories add to the CT number of air.

    The body touches what it lies on at its lowest point in the grid and sinks in a little.

    Args:
        couch: Its direction and kind.
        world: World coordinates in mm, arrays that broadcast to the image.
        outside: Distance to the surface of the body in mm, negative inside.
        voxel_mm: Voxel size, over which surfaces are mixed.
        rng: Draws sizes and materials.

    Returns:
        HU above -1000, shaped like ``outside``; 0 inside the body.
    """
    scene = _Scene(couch, world, outside, voxel_mm)
    drawn = _Materials(rng)
    if not scene.body.any():
        return scene.above_air
    support = _paint_head_holder if couch.head_holder else _paint_mattress
    top = support(scene, drawn)
    _paint_couch(scene, drawn, top)
    free = np.clip(0.5 + outside / np.float32(voxel_mm), 0, 1)
    return np.asarray(scene.above_air * free, np.float32)


class _Materials:
    """One scanner's furniture: all is drawn whatever is painted."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.shell_hu = rng.uniform(-150, 0)
        self.shell_mm = rng.uniform(2.0, 3.5)
        self.core_hu = rng.uniform(-950, -900)
        self.half_width_mm = rng.uniform(200, 265)
        self.height_mm = rng.uniform(45, 75)
        self.hollow_mm = rng.choice([0.0, 25.0])
        self.mattress_hu = rng.uniform(-960, -900)
        self.mattress_mm = rng.uniform(10, 30)
        self.sheet_hu = rng.uniform(-800, -600)
        self.sheet_mm = rng.uniform(1.0, 2.5)
        self.draped = rng.random() < 0.5
        self.holder_hu = rng.uniform(-150, 80)
        self.holder_mm = rng.uniform(3.0, 6.0)
        self.gap_mm = rng.uniform(1.0, 6.0)
        self.roundness = rng.uniform(1.0, 1.2)
        self.pad_hu = rng.uniform(-960, -900)
        self.lift_mm = rng.uniform(15, 40)


class _Scene:
    """Coordinates along the couch's axes, and the CT numbers painted so far."""

    def __init__(self, couch: Couch, world: Points, outside: Array, voxel_mm: float) -> None:
        self.across, self.up = (_along(direction, world) for direction in couch.axes[:2])
        self.outside = outside
        self.voxel_mm = np.float32(voxel_mm)
        self.above_air = np.zeros(outside.shape, np.float32)
        self.body = outside < 0
        if self.body.any():
            self.lowest = float(self.up[self.body].min())
            low = self.body & (self.up < self.lowest + ARMS_MM)
            sides = self.across[low]
            self.left, self.right = float(sides.min()), float(sides.max())

    def fill(self, hu: float, distance: Array) -> None:
        """Paint where a distance is negative; at the surface voxels are mixed."""
        share = np.clip(0.5 - distance / self.voxel_mm, 0, 1)
        self.above_air += share * (np.float32(hu - AIR_HU) - self.above_air)


def _along(direction: NDArray[np.float64], world: Points) -> Array:
    """Coordinate along a direction, on the whole grid."""
    x, y, z = (np.float32(d) * axis for d, axis in zip(direction, world, strict=True))
    return np.asarray(x + y + z, np.float32)


def _paint_couch(scene: _Scene, drawn: _Materials, top: float) -> None:
    middle = np.float32((scene.left + scene.right) / 2)
    offset = scene.across - middle
    surface = top - drawn.hollow_mm * (1 - (offset / drawn.half_width_mm) ** 2)
    bottom = np.float32(top - drawn.hollow_mm - drawn.height_mm)
    sides = np.abs(offset) - np.float32(drawn.half_width_mm)
    distance = np.maximum(np.maximum(sides, scene.up - surface), bottom - scene.up)
    scene.fill(drawn.shell_hu, distance.astype(np.float32))
    scene.fill(drawn.core_hu, (distance + drawn.shell_mm).astype(np.float32))


def _paint_mattress(scene: _Scene, drawn: _Materials) -> float:
    """A mattress with a sheet on it, which may be drawn over the body; returns its underside."""
    surface = np.float32(scene.lowest + PRESSED_MM)
    underside = float(surface) - drawn.mattress_mm
    middle = np.float32((scene.left + scene.right) / 2)
    sides = np.abs(scene.across - middle) - np.float32(drawn.half_width_mm - 10)
    sheet = np.maximum(sides, np.maximum(scene.up - surface, underside - scene.up))
    scene.fill(drawn.sheet_hu, sheet)
    scene.fill(drawn.mattress_hu, np.maximum(sheet, scene.up - surface + drawn.sheet_mm))
    if drawn.draped:
        cloth = np.abs(scene.outside - np.float32(2.5)) - np.float32(drawn.sheet_mm / 2)
        scene.fill(drawn.sheet_hu, np.maximum(cloth, surface - scene.up))
    return float(underside + drawn.hollow_mm)


def _paint_head_holder(scene: _Scene, drawn: _Materials) -> float:
    """A trough on a foot of foam; it touches the head below and leaves a gap beside it.

    Returns:
        The height of the couch under it.
    """
    half = (scene.right - scene.left) / 2 + drawn.gap_mm
    middle = np.float32((scene.left + scene.right) / 2)
    depth = half * drawn.roundness
    centre = np.float32(scene.lowest + PRESSED_MM + depth)
    beside = np.abs(scene.across - middle)
    below = np.minimum(scene.up - centre, 0)
    radius = np.sqrt((beside / half) ** 2 + (below / depth) ** 2)
    inner = ((radius - 1) * np.where(below < 0, min(half, depth), half)).astype(np.float32)
    arms = scene.up - np.float32(scene.lowest + ARMS_MM)
    wall = np.maximum(np.maximum(-inner, inner - np.float32(drawn.holder_mm)), arms)
    top = float(scene.lowest - drawn.holder_mm - drawn.lift_mm)
    foot = np.maximum(
        np.maximum(beside - np.float32(half * 0.7), np.float32(top) - scene.up),
        np.maximum(scene.up - centre, -inner),
    )
    scene.fill(drawn.pad_hu, foot)
    scene.fill(drawn.holder_hu, wall)
    return top
