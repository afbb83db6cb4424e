"""A human head: shapes of its parts, and the order in which they are painted.

Millimetres of an average adult (skull about 180 by 150 mm); the origin lies in the middle of
the brain case. Proportions follow anatomical atlases; every number is varied per subject.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medp2p.phantom.canvas import Canvas, gradient_length
from medp2p.phantom.shapes import (
    Array,
    Box,
    Noise,
    Shape,
    Union,
    bent_plate,
    deviate,
    capsule,
    ellipsoid,
    joined,
    tube,
)

HEAD_EXTENT_MM = (230.0, 250.0, 220.0)
HEAD_CENTRE_MM = (0.0, 2.0, -17.0)
"""Body coordinates in the middle of the field of view."""

SIDES = (-1.0, 1.0)


@dataclass(frozen=True)
class Head:
    """The canvas and what the parts of a head have in common.

    Attributes:
        canvas: Painted on.
        rng: Draws the subject's proportions, in a fixed order.
        outline: Distance to the surface of the head on the whole grid.
        cavity: Distance to the inside of the brain case.
        skull: Distance to the outside of the brain case's bone.
    """

    canvas: Canvas
    rng: np.random.Generator
    outline: Array
    cavity: Array
    skull: Array

    def vary(self, value: float, relative: float = 0.1) -> float:
        """A value of this subject around the average."""
        return value * float(1 + relative * deviate(self.rng))

    def shift(self, mm: float) -> float:
        """A displacement of this subject around zero."""
        return mm * deviate(self.rng)


def paint_head(canvas: Canvas, rng: np.random.Generator) -> Array:
    """Paint a head.

    Args:
        canvas: Empty canvas.
        rng: Draws the subject.

    Returns:
        Distance to the surface of the head in mm on the whole grid, negative inside.
    """
    outline = canvas.everywhere(_outline(rng), reach_mm=12)
    cavity = canvas.everywhere(_brain_case(rng), reach_mm=25)
    skull = cavity - _skull_thickness(canvas, rng)
    head = Head(canvas, rng, outline, cavity, np.maximum(skull, outline + 5))
    _paint_skin_and_fat(head)
    _paint_neck_muscles(head)
    _paint_face_muscles(head)
    _paint_spine(head)
    _paint_brain_case(head)
    _paint_skull_base(head)
    _paint_face_bones(head)
    _paint_jaw(head)
    _paint_airways(head)
    _paint_sinuses(head)
    _paint_mouth(head)
    _paint_eyes(head)
    _paint_temporal_bone(head)
    _paint_brain(head)
    return outline


def _outline(rng: np.random.Generator) -> Union:
    def vary(value: float, relative: float = 0.07) -> float:
        return value * float(1 + relative * deviate(rng))

    jaw, nose, neck = vary(1.0), vary(1.0, 0.12), vary(1.0, 0.08)
    parts: list[Shape | Union] = [
        ellipsoid((0, -6, 5), (78, 99, 85), power=2.15),
        ellipsoid((0, 38, -60), (60 * jaw, 53, 66), power=2.5),
        ellipsoid((0, 72 * vary(1, 0.04), -113), (25 * jaw, 19, 18)),
        ellipsoid((0, 84, -13), (36, 11 * vary(1, 0.1), 11)),
        ellipsoid((0, 90, -90), (23, 9 * vary(1, 0.15), 9)),
        capsule((0, -25, -62), (0, -34, -240), (60 * neck, 60 * neck, 60), (58 * neck, 54 * neck, 60)),
        tube([(0, 88, -20), (0, 96, -36), (0, 106 * nose, -58)], [6, 7, 10 * nose], 4),
    ]
    for side in SIDES:
        parts.append(ellipsoid((side * 44, 24, -84), (25 * jaw, 42, 42)))
        parts.append(ellipsoid((side * 46, 58, -50), (20, 22, 20)))
        parts.append(ellipsoid((side * 9, 96 * nose**0.5, -64), (9, 10, 8)))
    return Union(joined(*parts).parts, smooth_mm=14)


def _brain_case(rng: np.random.Generator) -> Union:
    def vary(value: float) -> float:
        return value * float(1 + 0.03 * deviate(rng))

    parts = [
        ellipsoid((0, -7, 20), (vary(66), vary(86), vary(55)), power=2.2),
        ellipsoid((0, 22, 6), (52, 52, 24), power=2.3),
        ellipsoid((0, -46, -28), (vary(54), 43, vary(35)), power=2.2),
    ]
    parts += [
        ellipsoid((side * vary(38), 12, -22), (25, 32, vary(25)), power=2.2) for side in SIDES
    ]
    return Union(tuple(parts), smooth_mm=10)


def _skull_thickness(canvas: Canvas, rng: np.random.Generator) -> Array:
    noise = canvas.smooth(Noise(rng, 70), 70)
    x, y, z = canvas.points
    mean = 6.8 + 1.0 * deviate(rng)
    temporal = np.exp(-(((np.abs(x) - 66) / 22) ** 2) - ((y - 12) / 35) ** 2 - ((z + 12) / 30) ** 2)
    brow = np.exp(-((x / 30) ** 2) - ((y - 78) / 18) ** 2 - ((z + 6) / 16) ** 2)
    occiput = np.exp(-((x / 22) ** 2) - ((y + 88) / 22) ** 2 - ((z + 22) / 18) ** 2)
    base = 2.0 / (1 + np.exp((z + 42) / 5))
    thickness = mean + 1.0 * noise - 3.0 * temporal + 7.0 * brow + 3.0 * occiput - base
    return np.maximum(thickness, 2.6)


def _paint_skin_and_fat(head: Head) -> None:
    head.canvas.fill_everywhere("skin", head.outline)
    head.canvas.fill_everywhere("fat", head.outline + np.float32(head.vary(2.0)))
    for side in SIDES:
        ear = bent_plate((side * 75, -16, -40), (3, 15, 30), degrees=(8, 0, side * 25), bend=(4, 2))
        head.canvas.paint("skin", ear)
        head.canvas.paint("cartilage", ear, grow_mm=-1.5)
        head.outline[...] = np.minimum(head.outline, head.canvas.everywhere(ear))


def _paint_neck_muscles(head: Head) -> None:
    fat = head.vary(7, 0.4)
    limits = [head.outline + np.float32(fat)]
    for side in SIDES:
        for tissue, shape in (
            ("muscle", tube([(side * 14, -62, -56), (side * 15, -70, -100), (side * 13, -72, -190)], [(12, 9, 9), (12, 11, 10), (13, 12, 10)])),
            ("muscle", tube([(side * 28, -60, -58), (side * 34, -58, -100), (side * 36, -50, -190)], [(12, 10, 9), (13, 12, 10), (14, 13, 10)])),
            ("muscle", tube([(side * 14, -45, -66), (side * 18, -46, -110), (side * 18, -48, -190)], [(8, 9, 8), (12, 11, 9), (12, 11, 9)])),
            ("muscle", tube([(side * 60, -24, -62), (side * 52, -8, -100), (side * 34, 22, -190)], [(7, 12, 9), (8, 14, 9), (9, 12, 9)])),
            ("muscle", tube([(side * 34, -26, -80), (side * 34, -26, -110), (side * 34, -24, -190)], [(9, 11, 9), (10, 12, 9), (12, 12, 9)])),
            ("muscle", tube([(side * 10, 8, -66), (side * 10, 6, -110), (side * 11, 5, -190)], [(8, 5, 6), (8, 5, 6), (8, 6, 6)])),
            ("gland", ellipsoid((side * 56, 2, -80), (11, 15, 24), degrees=(0, 0, side * 15))),
            ("gland", ellipsoid((side * 32, 34, -118), (10, 16, 11))),
            ("blood", tube([(side * 24, 0, -66), (side * 27, 0, -110), (side * 29, 0, -190)], [3.5, 4, 4.5])),
            ("blood", tube([(side * 34, -8, -66), (side * 36, -6, -110), (side * 38, -3, -190)], [5, 5.5, 6])),
        ):
            head.canvas.paint(tissue, shape, grow_mm=head.shift(0.8), within=limits)


def _paint_face_muscles(head: Head) -> None:
    limits = [head.outline + np.float32(head.vary(4.5, 0.2))]
    size = head.vary(1.0, 0.12)
    for side in SIDES:
        temporalis = ellipsoid((side * 66, 18, -12), (12 * size, 36, 44), degrees=(0, 0, side * 12))
        head.canvas.paint("muscle", temporalis, within=limits)
        for shape in (
            tube([(side * 60, 36, -52), (side * 54, 26, -80), (side * 50, 20, -106)], [(6, 10, 8), (8 * size, 17, 10), (6, 12, 8)]),
            tube([(side * 60, 26, -20), (side * 55, 30, -45), (side * 50, 32, -64)], [(6, 20, 9), (8, 14, 9), (4, 7, 7)]),
            tube([(side * 26, 30, -52), (side * 36, 22, -74), (side * 43, 16, -98)], [(9, 11, 8), (9, 12, 8), (4, 9, 8)]),
            ellipsoid((side * 38, 24, -56), (13, 13, 10)),
            tube([(side * 30, 84, -92), (side * 40, 66, -90), (side * 42, 44, -86)], [(3, 4, 9), (3.2, 6, 11), (3, 5, 10)]),
        ):
            head.canvas.paint("muscle", shape, within=limits)
    lips = tube([(-24, 82, -90), (0, 90, -90), (24, 82, -90)], [(5, 4, 6), (7, 5, 9), (5, 4, 6)])
    head.canvas.paint("muscle", lips, within=[head.outline + np.float32(2.5)])


def _paint_spine(head: Head) -> None:
    paint = head.canvas.paint
    shell = head.canvas.shell
    lean = head.shift(4)
    heights = [-72.0, -90.0, -111.0, -129.0, -147.0, -165.0, -183.0]
    for number, z in enumerate(heights):
        y = -6 + 3 * np.sin((z + 70) / 30) + lean * (z + 70) / 100
        width = 1 + 0.03 * number
        body = ellipsoid((0, y, z + 1), (10 * width, 8.5, 7.4), power=3)
        if number == 0:
            body = ellipsoid((0, y + 7, z), (12, 4.5, 5))
        arch = tube(
            [(-9, y - 6, z), (-15, y - 16, z), (0, y - 34, z - 3), (15, y - 16, z), (9, y - 6, z)],
            [(4, 4, 5), (4.5, 5, 6), (4.5, 7, 5), (4.5, 5, 6), (4, 4, 5)],
            10,
        )
        masses = [
            ellipsoid((side * 19, y - 5, z), (9 if number else 13, 8, 7), power=2.4) for side in SIDES
        ]
        bone = joined(body, arch, *masses, smooth_mm=3)
        if 1 < number:
            paint("disc", ellipsoid((0, y, z + 10), (11 * width, 9, 4.5), power=2.5))
        shell(bone, "cortical_bone", 1.5, "trabecular_bone", within=[head.outline + 12])
    dens = tube([(0, -4, -88), (0, -2, -78), (0, -3, -66)], [(6, 6, 6), (5, 5, 5), (4, 4, 4)], 3)
    shell(dens, "cortical_bone", 1.5, "trabecular_bone")
    canal = tube([(0, -27, -52), (0, -26, -80), (0, -25, -120), (0, -25, -200)], [(14, 15, 9), 11, (11, 9.5, 9), (11, 9.5, 9)])
    paint("fat", canal)
    paint("csf", canal, grow_mm=-1.8)


def _paint_brain_case(head: Head) -> None:
    canvas, table_mm = head.canvas, np.float32(head.vary(1.7, 0.1))
    bone = head.skull
    canvas.fill_everywhere("cortical_bone", bone)
    dip = canvas.smooth(Noise(head.rng, 45), 45) * np.float32(0.35)
    above_base = np.maximum(0, (-20 - canvas.points[2]) / 8)
    inside = np.maximum(bone + table_mm + dip, -(head.cavity - table_mm + dip))
    canvas.fill_everywhere("diploe", inside + above_base.clip(0, 1.2).astype(np.float32))


def _paint_skull_base(head: Head) -> None:
    inner = -head.cavity + np.float32(0.5)
    limits = [inner, head.outline + np.float32(6)]
    shell = head.canvas.shell
    clivus = tube([(0, 14, -36), (0, 2, -46), (0, -9, -62)], [(17, 13, 13), (14, 8, 8), (12, 5, 5)], 5)
    sphenoid = ellipsoid((0, 25, -40), (19, 19, 14), power=2.8)
    shell(joined(clivus, sphenoid, smooth_mm=5), "cortical_bone", 1.6, "trabecular_bone", within=limits)
    for side in SIDES:
        wing = bent_plate((side * 34, 40, -24), (5, 24, 14), degrees=(0, 0, side * -62), bend=(-5, 0))
        greater = ellipsoid((side * 47, 36, -30), (7, 10, 20), degrees=(0, 0, side * 30))
        pterygoid = bent_plate((side * 16, 29, -64), (1.6, 8, 14), degrees=(0, 0, side * 12))
        condyle = ellipsoid((side * 19, -18, -64), (8, 11, 7))
        for bone in (greater, condyle):
            shell(bone, "cortical_bone", 1.6, "trabecular_bone", within=limits)
        head.canvas.paint("cortical_bone", pterygoid, within=limits)
        del wing


def _paint_temporal_bone(head: Head) -> None:
    canvas = head.canvas
    limits = [-head.cavity + np.float32(0.8), head.outline + np.float32(5)]
    cells = Noise(head.rng, 11, banded=True)
    size = head.vary(1.0, 0.18)
    for side in SIDES:
        ridge = tube(
            [(side * 17, 8, -44), (side * 36, -8, -46), (side * 56, -20, -48)], [6, 9.5, 11], 5
        )
        canvas.shell(ridge, "petrous_bone", 3.5, "cortical_bone", within=[head.outline + np.float32(5)])
        mastoid = joined(
            ellipsoid((side * 55, -22, -60), (12, 15, 19)),
            ellipsoid((side * 58, -28, -45), (9, 16, 14)),
            smooth_mm=6,
        )
        canvas.shell(mastoid, "cortical_bone", 1.5, "trabecular_bone", within=limits)
        box, inside = canvas.distance(mastoid)
        if inside.size:
            x, y, z = canvas.points_in(box)
            wall = (np.float32(1.4) - np.abs(cells((x, y, z))) * 4.5) * np.float32(0.6)
            deep = np.maximum(inside + np.float32(3.6 - 2 * size), limits[0][box])
            canvas.fill("cortical_bone", box, deep)
            canvas.fill("air", box, np.maximum(deep + 0.7, wall))
        canal = tube([(side * 86, -12, -46), (side * 66, -10, -47), (side * 48, -8, -47)], [4, 3.6, 3], 4)
        canvas.paint("skin", canal, grow_mm=0.8)
        canvas.paint("air", canal)
        canvas.paint("air", ellipsoid((side * 44, -8, -47), (3.5, 5, 6)))
        canvas.paint("csf", ellipsoid((side * 33, -12, -44), (3.5, 2.2, 2.2)))
        canvas.paint("csf", tube([(side * 18, -16, -44), (side * 27, -14, -44)], [2.5, 2.2], 2))


def _paint_face_bones(head: Head) -> None:
    limits = [-head.cavity + np.float32(1), head.outline + np.float32(5)]
    shell = head.canvas.shell
    wide = head.vary(1.0, 0.06)
    for side in SIDES:
        maxilla = joined(
            ellipsoid((side * 24 * wide, 58, -62), (22, 24, 24), power=2.5),
            ellipsoid((side * 46 * wide, 58, -46), (13, 12, 12)),
            smooth_mm=6,
        )
        arch = tube(
            [(side * 54 * wide, 56, -44), (side * 66, 34, -44), (side * 68, 14, -46), (side * 64, -2, -46)],
            [(4, 6, 7), (2.6, 5, 5), (2.4, 4, 4), (4, 5, 4)],
        )
        orbit = _orbit(side)
        rim = Union(orbit.parts, orbit.smooth_mm)
        head.canvas.paint("cortical_bone", rim, grow_mm=2.2, within=[*limits, head.canvas.points[1] - np.float32(80)])
        shell(maxilla, "cortical_bone", 1.5, "trabecular_bone", within=limits)
        shell(arch, "cortical_bone", 1.5, "trabecular_bone", within=[head.outline + np.float32(4)])
        outer_rim = tube([(side * 50, 66, -40), (side * 51, 66, -28), (side * 46, 72, -14)], [5, 4, 5], 5)
        shell(outer_rim, "cortical_bone", 1.8, "trabecular_bone", within=[head.outline + np.float32(4)])
    nasal = tube([(0, 82, -16), (0, 88, -26), (0, 95, -42)], [(8, 4, 4), (7, 3, 3), (6, 2, 2)], 4)
    head.canvas.paint("cortical_bone", nasal, within=[head.outline + np.float32(3)])
    palate = bent_plate((0, 58, -78), (2.6, 24, 22), degrees=(0, 90, 0))
    shell(palate, "cortical_bone", 1.2, "trabecular_bone", within=limits)


def _orbit(side: float) -> Union:
    return tube(
        [(side * 15, 34, -27), (side * 22, 48, -28), (side * 32, 68, -29), (side * 34, 92, -30)],
        [5, 12, 18, 20],
        6,
    )


def _paint_jaw(head: Head) -> None:
    shell = head.canvas.shell
    limits = [head.outline + np.float32(5)]
    chin = head.shift(3)
    body = tube(
        [(-46, 16, -104), (-38, 50, -112), (-20, 74 + chin, -116), (0, 80 + chin, -117)]
        + [(20, 74 + chin, -116), (38, 50, -112), (46, 16, -104)],
        [(6, 8, 10), (6, 6, 12), (6, 6, 13), (7, 6, 13), (6, 6, 13), (6, 6, 12), (6, 8, 10)],
        14,
    )
    rami: list[Union] = []
    for side in SIDES:
        rami.append(tube([(side * 46, 18, -104), (side * 49, 16, -80), (side * 51, 7, -60)], [(4.5, 14, 9), (3.4, 13, 9), (6, 5, 5)], 5))
        rami.append(tube([(side * 48, 24, -84), (side * 49, 31, -62)], [(3.2, 10, 8), (2.2, 4, 5)], 3))
    shell(joined(body, *rami, smooth_mm=3), "cortical_bone", 2.3, "trabecular_bone", within=limits)


def _paint_airways(head: Head) -> None:
    canvas = head.canvas
    inside = [head.outline + np.float32(3)]
    wide = head.vary(1.0, 0.15)
    throat = tube(
        [(0, 30, -54), (0, 21, -66), (0, 15, -84), (0, 12, -104), (0, 9, -124), (0, 12, -150), (0, 14, -200)],
        [(11, 7, 8), (13, 7, 7), (11 * wide, 5, 6), (11 * wide, 5 * wide, 6), (13, 6, 6), (8, 8, 8), (8, 8, 8)],
        12,
    )
    canvas.paint("muscle", throat, grow_mm=4.5)
    canvas.paint("mucosa", throat, grow_mm=2)
    canvas.paint("air", throat)
    nose = joined(
        ellipsoid((0, 60, -56), (14 * wide, 33, 20), power=2.6),
        ellipsoid((0, 62, -36), (5, 26, 9)),
        *(tube([(s * 6, 88, -66), (s * 8, 102, -74)], [6, 4.5], 3) for s in SIDES),
        smooth_mm=4,
    )
    canvas.paint("cortical_bone", nose, grow_mm=1.6, within=[*inside, canvas.points[1] - np.float32(82)])
    canvas.paint("mucosa", nose, grow_mm=0.8, within=[head.outline + np.float32(1)])
    canvas.paint("air", nose, grow_mm=-0.6)
    septum = bent_plate((head.shift(1), 60, -56), (1.8, 36, 24), bend=(head.shift(3), 0))
    canvas.paint("mucosa", septum, within=inside)
    canvas.paint("cortical_bone", septum, grow_mm=-1.1, within=[*inside, canvas.points[1] - np.float32(76)])
    for side in SIDES:
        swelling = head.vary(1.0, 0.18)
        for y, z, x, r in ((58, -69, 9.5, 4.6), (52, -56, 8.5, 3.6), (46, -45, 6.5, 2.6)):
            r *= swelling
            concha = tube([(side * x, y + 22, z), (side * (x - 1), y, z - 1), (side * x, y - 20, z)], [(r * 0.7, 4, r), (r * 0.8, 5, r * 1.3), (r * 0.7, 4, r)], 5)
            canvas.paint("mucosa", concha)
            canvas.paint("cortical_bone", concha, grow_mm=-r * 0.62)
    canvas.paint("air", tube([(0, 34, -60), (0, 26, -62)], [(9, 5, 8), (10, 6, 9)], 2))


def _paint_sinuses(head: Head) -> None:
    canvas = head.canvas
    uneven = Noise(head.rng, 26)
    cells = Noise(head.rng, 12, banded=True)
    limits = [-head.cavity + np.float32(1.6), head.outline + np.float32(7)]
    for side in SIDES:
        size = head.vary(1.0, 0.12)
        frontal = head.vary(1.0, 0.3)
        lining = max(0.6, head.vary(1.2, 0.8))
        hollows = (
            joined(ellipsoid((side * 29, 55, -62), (14 * size, 17 * size, 17 * size)), ellipsoid((side * 36, 58, -54), (10, 11, 8)), smooth_mm=5),
            joined(ellipsoid((side * 8, 26, -39), (9 * size, 13, 9.5 * size))),
            joined(ellipsoid((side * 12, 84, -7), (11 * frontal, 4.5, 12 * frontal)), ellipsoid((side * 9, 82, 2), (6 * frontal, 3.6, 9 * frontal)), smooth_mm=4),
        )
        for hollow in hollows:
            rough = (uneven, 1.6)
            canvas.paint("cortical_bone", hollow, grow_mm=1.3, within=limits, rough=rough)
            canvas.paint("mucosa", hollow, within=limits, rough=rough)
            canvas.paint("air", hollow, grow_mm=-lining, within=limits, rough=rough)
        ethmoid = ellipsoid((side * 9.5, 58, -31), (6.5, 21, 10), power=2.8)
        box, inside = canvas.distance(ethmoid)
        if inside.size:
            wall = (np.float32(1.0) - np.abs(cells(canvas.points_in(box))) * 4) * np.float32(0.6)
            deep = np.maximum(inside, limits[0][box])
            canvas.fill("cortical_bone", box, deep - np.float32(0.8))
            canvas.fill("mucosa", box, deep)
            canvas.fill("air", box, np.maximum(deep + 0.5, wall))


def _paint_mouth(head: Head) -> None:
    canvas, opening = head.canvas, head.vary(1.0, 0.3)
    tongue = joined(
        ellipsoid((0, 48, -92), (23, 30, 15), power=2.3),
        ellipsoid((0, 34, -104), (19, 22, 20)),
        smooth_mm=8,
    )
    canvas.paint("air", ellipsoid((0, 52, -83), (21, 27, 7 * opening)))
    canvas.paint("tongue", tongue)
    canvas.paint("muscle", ellipsoid((0, 52, -116), (20, 22, 6)))
    arch = tube(
        [(-27, 42, -84), (-23, 64, -84), (0, 80, -84), (23, 64, -84), (27, 42, -84)],
        [(6, 7, 5)] * 5,
        10,
    )
    canvas.shell(arch, "cortical_bone", 1.4, "trabecular_bone", within=[head.outline + np.float32(5)])
    missing = head.rng.random((2, 16)) < head.rng.choice([0.0, 0.05, 0.15])
    for row, (z, direction, width, depth) in enumerate(((-91.0, 1.0, 27.0, 37.0), (-101.0, -1.0, 25.5, 34.0))):
        for number, angle in enumerate(np.linspace(-84, 84, 16)):
            if not missing[row, number]:
                _paint_tooth(head, float(angle), z, direction, width, depth)


def _paint_tooth(
    head: Head, angle: float, z: float, direction: float, width: float, depth: float
) -> None:
    turn = np.deg2rad(angle)
    x, y = width * np.sin(turn), 40 + depth * np.cos(turn) ** 0.9
    molar = abs(angle) > 52
    across, thick = (4.6, 4.6) if molar else (3.5, 3.2)
    frame = (0, 0, -angle)
    tilt = head.shift(0.5)
    root = ellipsoid((x, y - 1, z + direction * 8 + tilt), (across * 0.62, thick * 0.7, 9), degrees=frame)
    crown = ellipsoid((x, y, z + direction * 0.5 + tilt), (across, thick, 5), power=3.2, degrees=frame)
    canvas = head.canvas
    canvas.paint("trabecular_bone", root, grow_mm=1.6)
    canvas.paint("dentine", root)
    canvas.paint("enamel", crown)
    pulp = ellipsoid((x, y, z + direction * 3), (across * 0.5, thick * 0.5, 4.5), degrees=frame)
    canvas.paint("dentine", pulp)


def _paint_eyes(head: Head) -> None:
    canvas = head.canvas
    radius = head.vary(12.0, 0.04)
    gaze = head.shift(0.15)
    limits = [head.outline + np.float32(3)]
    for side in SIDES:
        canvas.paint("fat", _orbit(side), within=[*limits, -head.cavity + np.float32(2.5)])
        eye = np.array((side * 32.5, 71.0, -28.5))
        apex = np.array((side * 17, 38, -27.5))
        for dx, dz in ((11.0, 0.0), (-11.0, 0.0), (0.0, 10.5), (0.0, -10.5)):
            start = apex + (dx * 0.3, 0, dz * 0.3)
            middle = (eye + apex) / 2 + (dx * 0.85, 0, dz * 0.85)
            flat = (1.6, 3, 3.6) if dx else (3.6, 3, 1.6)
            muscle = tube([start, middle, eye + (dx, 0, dz)], [1.4, flat, 1.2], 5)
            canvas.paint("muscle", muscle)
        nerve = tube([apex - (0, 6, 0), (eye + apex) / 2 + (side * -1.5, 0, -1), eye - (0, 11, 0)], [2, 2, 2.2], 5)
        canvas.paint("nerve", nerve)
        ball = ellipsoid(eye, (radius, radius * 1.02, radius))
        cornea = ellipsoid(eye + (radius * gaze, radius * 0.55, 0), (7, 7.5, 7))
        globe = joined(ball, cornea, smooth_mm=2)
        canvas.paint("muscle", globe, grow_mm=1.0)
        canvas.paint("vitreous", globe)
        canvas.paint("lens", ellipsoid(eye + (radius * gaze, radius * 0.62, 0), (4.8, 2.2, 4.8)))
        lid = ellipsoid(eye + (0, radius * 1.05, 0), (15, 4, 10))
        canvas.paint("muscle", lid, within=[*limits, -_sphere(head, eye, radius + 1.2)])


def _sphere(head: Head, centre: np.ndarray, radius: float) -> Array:
    x, y, z = head.canvas.points
    return np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) - np.float32(
        radius
    )


@dataclass(frozen=True)
class _Region:
    """The part of the grid around the brain case, with what folding needs."""

    box: Box
    points: tuple[Array, Array, Array]
    depth: Array


def _paint_brain(head: Head) -> None:
    canvas = head.canvas
    box = canvas.box(np.array((-70.0, -98, -68)), np.array((70.0, 84, 80)), 3)
    if not head.cavity[box].size:
        return
    atrophy = abs(head.shift(1.0))
    canvas.fill("csf", box, head.cavity[box])
    gap = np.float32(1.6 + 1.2 * atrophy)
    region = _Region(box, canvas.points_in(box), -head.cavity[box] - gap)
    _paint_cerebrum(head, region, atrophy)
    _paint_cerebellum(head, region)
    _paint_brainstem(head)
    _paint_deep_grey(head)
    _paint_ventricles(head, atrophy)
    _paint_vessels(head)


def _tentorium(region: _Region) -> Array:
    """About the distance above the tent between cerebrum and cerebellum."""
    x, y, z = region.points
    behind = np.maximum(-22 - y, 0)
    height = -6 - 0.42 * behind - 0.0035 * x * x
    front = np.maximum(y + 26, 0) * np.float32(2.0)
    return (z - height + front).astype(np.float32)


def _paint_cerebrum(head: Head, region: _Region, atrophy: float) -> None:
    canvas, (x, y, z) = head.canvas, region.points
    bulk = _stem_and_middle(region)
    depth = np.minimum(region.depth, (_tentorium(region) - 1.5) * np.float32(0.9))
    depth = np.minimum(depth, bulk)
    depth = np.minimum(depth, _fissures(head, region))
    convex = region.depth
    fold = _folds(head, region)
    reach = Noise(head.rng, 45)(region.points) * np.float32(4.0) + np.float32(14)
    sheet = np.abs(fold) / (gradient_length(fold, canvas.spacing_mm) + np.float32(0.012))
    beyond = np.maximum(np.minimum(convex, depth + 6) - reach, 0)
    sulcus = np.sqrt(sheet**2 + beyond**2)
    width = np.float32(0.25 + 0.35 * atrophy) + np.float32(1.0) * np.exp(-np.maximum(depth, 0) / 5)
    surface = np.minimum(depth, sulcus - width)
    del x, y, z
    canvas.fill("grey_matter", region.box, -surface)
    canvas.fill("white_matter", region.box, np.float32(2.9) - surface)


def _folds(head: Head, region: _Region) -> Array:
    """A field whose zero level runs along the sulci, at right angles to the surface."""
    x, y, z = region.points
    q = np.sqrt((x / 66) ** 2 + ((y + 6) / 86) ** 2 + ((z - 4) / 70) ** 2) + np.float32(1e-3)
    pull = (np.float32(0.3) + np.float32(0.7) / q).astype(np.float32)
    pattern = Noise(head.rng, head.vary(22, 0.06), banded=True)
    return pattern((x * pull, y * pull, z * pull))


def _stem_and_middle(region: _Region) -> Array:
    """Distance inside the cerebrum from the notch where the brainstem passes."""
    x, y, z = region.points
    notch = np.sqrt((x / 1.0) ** 2 + ((y + 16) * 0.8) ** 2 + (np.maximum(z + 6, 0) * 3) ** 2)
    below = np.maximum(z + 10, 0) * 3
    return np.maximum(notch - 17, below).astype(np.float32)


def _fissures(head: Head, region: _Region) -> Array:
    """Distance to the surfaces of the cleft between the hemispheres and of the Sylvian fissures."""
    x, y, z = region.points
    wave = Noise(head.rng, 60)(region.points) * np.float32(1.2)
    callosum = np.sqrt(((y + 2) / 42) ** 2 + ((z - 2) / 25) ** 2) - 1
    middle = np.abs(x + wave) - np.float32(1.1)
    result = np.where(callosum > 0, middle, np.hypot(middle, callosum * 28)).astype(np.float32)
    for side in SIDES:
        lateral = bent_plate((side * 56, 2, head.shift(2) - 1), (0.8, 36, 19), degrees=(-22, 90 - side * 8, 0))
        insula = bent_plate((side * 38, 6, 1), (0.8, 21, 15), degrees=(0, 0, side * 10), bend=(0, side * -3))
        for shape in (lateral, insula):
            result = np.minimum(result, shape.distance(region.points))
    return result


def _paint_cerebellum(head: Head, region: _Region) -> None:
    canvas, (x, y, z) = head.canvas, region.points
    lobes = [
        ellipsoid((side * 24, -50, -38), (29, 32, 22), power=2.3, degrees=(0, side * 8, 0))
        for side in SIDES
    ]
    vermis = ellipsoid((0, -50, -32), (12, 28, 24))
    outside = np.minimum(np.minimum(lobes[0].distance(region.points), lobes[1].distance(region.points)), vermis.distance(region.points))
    depth = np.minimum(np.minimum(-outside, region.depth), -_tentorium(region) - np.float32(1.5))
    wave = Noise(head.rng, 28)(region.points)
    angle = np.arctan2(z + 36, -(y + 18)) + np.float32(0.05) * wave
    fold = np.sin(angle * np.float32(34) + np.abs(x) * np.float32(0.03))
    arc = np.hypot(y + 18, z + 36)
    sheet = np.abs(fold) * arc / np.float32(34)
    reach = np.float32(8) + 2.5 * np.sin(angle * np.float32(8.5))
    sulcus = np.hypot(sheet, np.maximum(depth - reach, 0))
    surface = np.minimum(depth, sulcus - np.float32(0.15))
    canvas.fill("grey_matter", region.box, -depth)
    canvas.fill("csf", region.box, np.maximum(sulcus - np.float32(0.45), -depth))
    canvas.fill("white_matter", region.box, np.float32(1.9) - surface)


def _paint_brainstem(head: Head) -> None:
    canvas = head.canvas
    stem = tube(
        [(0, -10, 2), (0, -14, -14), (0, -12, -34), (0, -20, -54), (0, -26, -80), (0, -25, -130), (0, -25, -200)],
        [(18, 14, 10), (16, 12, 9), (16, 13, 11), (8, 8, 9), (6.5, 5, 8), (6.5, 5, 8), (6.5, 5, 8)],
        14,
    )
    canvas.paint("white_matter", stem)
    core = tube([(0, -16, -14), (0, -24, -54), (0, -26, -80), (0, -25, -200)], [(5, 3, 5), (3, 2, 4), (3, 2, 4), (3, 2, 4)], 8)
    canvas.paint("deep_grey_matter", core)
    for side in SIDES:
        canvas.paint("white_matter", tube([(side * 12, -18, -36), (side * 20, -32, -38)], [6, 7], 3))


def _paint_deep_grey(head: Head) -> None:
    paint = head.canvas.paint
    for side in SIDES:
        paint("deep_grey_matter", ellipsoid((side * 26, 6, 3), (6, 18, 11), degrees=(0, 0, side * 14)))
        paint("deep_grey_matter", ellipsoid((side * 11, -14, 7), (8.5, 15, 10), degrees=(0, 0, side * -18)))
        paint("deep_grey_matter", tube([(side * 14, 28, 6), (side * 16, 12, 19), (side * 19, -12, 23), (side * 25, -30, 18)], [7, 5, 3.4, 2], 7))
        paint("grey_matter", tube([(side * 24, 2, -22), (side * 30, -14, -20), (side * 26, -30, -8)], [7, 5, 3], 5))


def _paint_ventricles(head: Head, atrophy: float) -> None:
    paint = head.canvas.paint
    size = (1.0 + 0.4 * atrophy) * head.vary(1.0, 0.15)
    for side in SIDES:
        s = size * head.vary(1.0, 0.1)
        horn = tube(
            [(side * 9, 32, 6), (side * 8, 18, 17), (side * 11, -8, 24), (side * 20, -34, 20), (side * 26, -46, 6)],
            [(4 * s, 5, 7 * s), (6 * s, 6, 6 * s), (7 * s, 6, 4.5 * s), (7 * s, 7, 7 * s), (5 * s, 7 * s, 7 * s)],
            10,
        )
        back = tube([(side * 25, -46, 8), (side * 22, -66, 4)], [4.5 * s, 2 * s], 3)
        temporal = tube([(side * 26, -44, 4), (side * 33, -22, -14), (side * 31, 6, -22)], [4.5 * s, 2.2 * s, 2.4 * s], 6)
        paint("csf", joined(horn, back, temporal, smooth_mm=2))
    paint("csf", ellipsoid((0, -6, 4), (2.0 * size, 14, 11), power=2.4))
    paint("csf", tube([(0, -20, -4), (0, -26, -22), (0, -30, -34)], [1, 1.3, 2], 4))
    paint("csf", ellipsoid((0, -31, -38), (7 * size, 5, 9)))
    paint("csf", ellipsoid((0, 6, -18), (11, 9, 6)))


def _paint_vessels(head: Head) -> None:
    paint = head.canvas.paint
    inside = [head.cavity - 2]
    paint("blood", tube([(0, 60, 58), (0, 0, 74), (0, -60, 52), (0, -91, 0), (0, -88, -22)], [(2, 2, 2), (3.5, 3, 3), (4, 3, 3), (4, 3, 3), (4, 3, 3)], 12), within=inside)
    for side in SIDES:
        paint("blood", tube([(side * 2, -88, -22), (side * 40, -72, -30), (side * 52, -40, -42)], [(3, 3, 4), (3, 3, 4), (4, 4, 4)], 8), within=inside)
        paint("blood", tube([(side * 9, 18, -32), (side * 9, 10, -26), (side * 24, 8, -20), (side * 38, 10, -10)], [2.6, 2.4, 1.8, 1.5], 6))
    paint("blood", tube([(0, 0, -46), (0, 2, -32), (0, 0, -20)], [1.8, 1.8, 1.8], 3))
