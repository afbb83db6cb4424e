"""The brain: folded cortex, cerebellum, brainstem, deep nuclei, ventricles and vessels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medp2p.phantom.body import SIDES, Body
from medp2p.phantom.canvas import gradient_length
from medp2p.phantom.shapes import Array, Box, Noise, Points, bent_plate, ellipsoid, joined, tube


@dataclass(frozen=True)
class _Region:
    """The part of the grid around the brain case, with what folding needs."""

    box: Box
    points: Points
    depth: Array


def paint_brain(head: Body, cavity: Array) -> None:
    """Paint all that lies inside the brain case.

    Args:
        head: Skull and face are painted already.
        cavity: Distance to the inside of the brain case in mm on the whole grid.
    """
    canvas = head.canvas
    box = canvas.box(np.array((-70.0, -98, -68)), np.array((70.0, 84, 80)), 3)
    if not cavity[box].size:
        return
    atrophy = abs(head.shift(1.0))
    canvas.fill("csf", box, cavity[box])
    gap = np.float32(1.2 + 0.8 * atrophy)
    region = _Region(box, canvas.points_in(box), -cavity[box] - gap)
    _paint_cerebrum(head, region, atrophy)
    _paint_cerebellum(head, region)
    _paint_brainstem(head)
    _paint_deep_grey(head)
    _paint_ventricles(head, atrophy)
    _paint_vessels(head, cavity)


def _tentorium(region: _Region) -> Array:
    """About the distance above the tent between cerebrum and cerebellum."""
    x, y, z = region.points
    behind = np.maximum(-22 - y, 0)
    height = -6 - 0.42 * behind - 0.0035 * x * x
    front = np.maximum(y + 26, 0) * np.float32(2.0)
    return (z - height + front).astype(np.float32)


def _paint_cerebrum(head: Body, region: _Region, atrophy: float) -> None:
    canvas = head.canvas
    bulk = _stem_and_middle(region)
    depth = np.minimum(region.depth, (_tentorium(region) - 1.5) * np.float32(0.9))
    depth = np.minimum(depth, bulk)
    depth = np.minimum(depth, _fissures(head, region))
    convex = region.depth
    fold = _folds(head, region)
    reach = Noise(head.rng, 45)(region.points) * np.float32(4.0) + np.float32(14)
    sheet = np.abs(fold) / (gradient_length(fold, canvas.spacing_mm) + np.float32(0.012))
    beyond = np.maximum(np.minimum(convex * np.float32(0.55), depth + 6) - reach, 0)
    sulcus = np.sqrt(sheet**2 + beyond**2)
    width = np.float32(0.15 + 0.3 * atrophy) + np.float32(0.8) * np.exp(-np.maximum(depth, 0) / 5)
    surface = np.minimum(depth, sulcus - width)
    canvas.fill("grey_matter", region.box, -surface)
    canvas.fill("white_matter", region.box, np.float32(2.9) - surface)


def _folds(head: Body, region: _Region) -> Array:
    """A field whose zero level runs along the sulci, at right angles to the surface."""
    x, y, z = region.points
    q = np.sqrt((x / 66) ** 2 + ((y + 6) / 86) ** 2 + ((z - 4) / 70) ** 2) + np.float32(1e-3)
    pull = (np.float32(0.4) + np.float32(0.6) / q).astype(np.float32)
    pattern = Noise(head.rng, head.vary(22, 0.06), banded=True)
    bend = Noise(head.rng, 40)
    wave = np.float32(5) * bend(region.points)
    other = np.float32(5) * bend((y, z, x))
    return pattern((x * pull + wave, y * pull + other, z * pull - wave))


def _stem_and_middle(region: _Region) -> Array:
    """Distance inside the cerebrum from the notch where the brainstem passes."""
    x, y, z = region.points
    notch = np.sqrt(x**2 + ((y + 16) * 0.8) ** 2 + (np.maximum(z + 6, 0) * 3) ** 2)
    below = np.maximum(z + 10, 0) * 3
    return np.asarray(np.maximum(notch - 17, below), np.float32)


def _fissures(head: Body, region: _Region) -> Array:
    """Distance to the surfaces of the cleft between the hemispheres and of the Sylvian fissures."""
    x, y, z = region.points
    wave = Noise(head.rng, 60)(region.points) * np.float32(1.2)
    callosum = np.sqrt(((y + 2) / 42) ** 2 + ((z - 2) / 25) ** 2) - 1
    middle = np.abs(x + wave) - np.float32(1.1)
    result = np.where(callosum > 0, middle, np.hypot(middle, callosum * 28)).astype(np.float32)
    for side in SIDES:
        lateral = bent_plate(
            (side * 56, 2, head.shift(2) - 1), (0.8, 36, 19), degrees=(-22, 90 - side * 8, 0)
        )
        insula = bent_plate(
            (side * 38, 6, 1), (0.8, 21, 15), degrees=(0, 0, side * 10), bend=(0, side * -3)
        )
        for shape in (lateral, insula):
            result = np.minimum(result, shape.distance(region.points))
    return result


def _paint_cerebellum(head: Body, region: _Region) -> None:
    canvas, (x, y, z) = head.canvas, region.points
    lobes = [
        ellipsoid((side * 25, -50, -36), (30, 36, 27), power=2.4, degrees=(0, side * 8, 0))
        for side in SIDES
    ]
    vermis = ellipsoid((0, -48, -28), (18, 30, 27))
    outside = np.minimum(
        np.minimum(lobes[0].distance(region.points), lobes[1].distance(region.points)),
        vermis.distance(region.points),
    )
    depth = np.minimum(np.minimum(-outside, region.depth), -_tentorium(region) - np.float32(1.5))
    wave = Noise(head.rng, 28)(region.points)
    angle = np.arctan2(z + 36, -(y + 18)) + np.float32(0.05) * wave
    fold = np.sin(angle * np.float32(34) + np.abs(x) * np.float32(0.03))
    arc = np.hypot(y + 18, z + 36)
    sheet = np.abs(fold) * arc / np.float32(34)
    reach = np.float32(12) + 4 * np.sin(angle * np.float32(8.5))
    sulcus = np.hypot(sheet, np.maximum(depth - reach, 0))
    surface = np.minimum(depth, sulcus - np.float32(0.15))
    canvas.fill("grey_matter", region.box, -depth)
    canvas.fill("csf", region.box, np.maximum(sulcus - np.float32(0.45), -depth))
    canvas.fill("white_matter", region.box, np.float32(1.9) - surface)


def _paint_brainstem(head: Body) -> None:
    canvas = head.canvas
    stem = tube(
        [
            (0, -10, 2),
            (0, -14, -14),
            (0, -12, -34),
            (0, -20, -54),
            (0, -26, -80),
            (0, -25, -130),
            (0, -25, -200),
        ],
        [(18, 14, 10), (16, 12, 9), (16, 13, 11), (8, 8, 9), (6.5, 5, 8), (6.5, 5, 8), (6.5, 5, 8)],
        14,
    )
    canvas.paint("white_matter", stem)
    core = tube(
        [(0, -16, -14), (0, -24, -54), (0, -26, -80), (0, -25, -200)],
        [(5, 3, 5), (3, 2, 4), (3, 2, 4), (3, 2, 4)],
        8,
    )
    canvas.paint("deep_grey_matter", core)
    for side in SIDES:
        canvas.paint(
            "white_matter", tube([(side * 12, -18, -36), (side * 20, -32, -38)], [6, 7], 3)
        )


def _paint_deep_grey(head: Body) -> None:
    paint = head.canvas.paint
    for side in SIDES:
        paint(
            "deep_grey_matter", ellipsoid((side * 26, 6, 3), (6, 18, 11), degrees=(0, 0, side * 14))
        )
        paint(
            "deep_grey_matter",
            ellipsoid((side * 11, -14, 7), (8.5, 15, 10), degrees=(0, 0, side * -18)),
        )
        paint(
            "deep_grey_matter",
            tube(
                [
                    (side * 14, 28, 6),
                    (side * 16, 12, 19),
                    (side * 19, -12, 23),
                    (side * 25, -30, 18),
                ],
                [7, 5, 3.4, 2],
                7,
            ),
        )
        paint(
            "grey_matter",
            tube([(side * 24, 2, -22), (side * 30, -14, -20), (side * 26, -30, -8)], [7, 5, 3], 5),
        )


def _paint_ventricles(head: Body, atrophy: float) -> None:
    paint = head.canvas.paint
    size = (1.0 + 0.4 * atrophy) * head.vary(1.0, 0.15)
    for side in SIDES:
        s = size * head.vary(1.0, 0.1)
        horn = tube(
            [
                (side * 9, 32, 6),
                (side * 8, 18, 17),
                (side * 11, -8, 24),
                (side * 20, -34, 20),
                (side * 26, -46, 6),
            ],
            [
                (4 * s, 5, 7 * s),
                (6 * s, 6, 6 * s),
                (7 * s, 6, 4.5 * s),
                (7 * s, 7, 7 * s),
                (5 * s, 7 * s, 7 * s),
            ],
            10,
        )
        back = tube([(side * 25, -46, 8), (side * 22, -66, 4)], [4.5 * s, 2 * s], 3)
        temporal = tube(
            [(side * 26, -44, 4), (side * 33, -22, -14), (side * 31, 6, -22)],
            [4.5 * s, 2.2 * s, 2.4 * s],
            6,
        )
        paint("csf", joined(horn, back, temporal, smooth_mm=2))
    paint("csf", ellipsoid((0, -6, 4), (2.0 * size, 14, 11), power=2.4))
    paint("csf", tube([(0, -20, -4), (0, -26, -22), (0, -30, -34)], [1, 1.3, 2], 4))
    paint("csf", ellipsoid((0, -31, -38), (7 * size, 5, 9)))
    paint("csf", ellipsoid((0, 6, -18), (11, 9, 6)))


def _paint_vessels(head: Body, cavity: Array) -> None:
    paint = head.canvas.paint
    inside = [cavity - 2]
    paint(
        "blood",
        tube(
            [(0, 60, 58), (0, 0, 74), (0, -60, 52), (0, -91, 0), (0, -88, -22)],
            [(2, 2, 2), (3.5, 3, 3), (4, 3, 3), (4, 3, 3), (4, 3, 3)],
            12,
        ),
        within=inside,
    )
    for side in SIDES:
        paint(
            "blood",
            tube(
                [(side * 2, -88, -22), (side * 40, -72, -30), (side * 52, -40, -42)],
                [(3, 3, 4), (3, 3, 4), (4, 4, 4)],
                8,
            ),
            within=inside,
        )
        paint(
            "blood",
            tube(
                [
                    (side * 9, 18, -32),
                    (side * 9, 10, -26),
                    (side * 24, 8, -20),
                    (side * 38, 10, -10),
                ],
                [2.6, 2.4, 1.8, 1.5],
                6,
            ),
        )
    paint("blood", tube([(0, 0, -46), (0, 2, -32), (0, 0, -20)], [1.8, 1.8, 1.8], 3))
