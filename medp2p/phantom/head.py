"""A human head: shapes of its parts, and the order in which they are painted.

Millimetres of an average adult (skull about 180 by 150 mm); the origin lies in the middle of
the brain case. Proportions follow anatomical atlases; every number is varied per subject.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medp2p.phantom.body import SIDES, Body
from medp2p.phantom.brain import paint_brain
from medp2p.phantom.canvas import Canvas
from medp2p.phantom.shapes import (
    Array,
    Noise,
    Shape,
    Union,
    Vector,
    bent_plate,
    capsule,
    deviate,
    ellipsoid,
    joined,
    tube,
)

HEAD_EXTENT_MM = (230.0, 250.0, 220.0)
HEAD_CENTRE_MM = (0.0, 2.0, -17.0)
"""Body coordinates in the middle of the field of view."""


@dataclass(frozen=True)
class Head(Body):
    """A head on a canvas.

    Attributes:
        cavity: Distance to the inside of the brain case on the whole grid.
        skull: Distance to the outside of the brain case's bone.
    """

    cavity: Array
    skull: Array


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
    _paint_muscles(head)
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
    paint_brain(head, cavity)
    return outline


def _outline(rng: np.random.Generator) -> Union:
    def vary(value: float, relative: float = 0.07) -> float:
        return value * float(1 + relative * deviate(rng))

    jaw, nose, neck = vary(1.0), vary(1.0, 0.12), vary(1.0, 0.08)
    parts: list[Shape | Union] = [
        ellipsoid((0, -6, 5), (78, 99, 85), power=2.15),
        ellipsoid((0, -50, -34), (62, 54, 46)),
        ellipsoid((0, 38, -60), (60 * jaw, 53, 66), power=2.5),
        ellipsoid((0, 72 * vary(1, 0.04), -113), (25 * jaw, 19, 18)),
        ellipsoid((0, 84, -13), (36, 11 * vary(1, 0.1), 11)),
        ellipsoid((0, 90, -90), (23, 9 * vary(1, 0.15), 9)),
        capsule(
            (0, -25, -62), (0, -34, -240), (60 * neck, 60 * neck, 60), (58 * neck, 54 * neck, 60)
        ),
        tube([(0, 88, -20), (0, 94, -36), (0, 100 * nose, -57)], [6, 8, 12 * nose], 4),
    ]
    for side in SIDES:
        parts.append(ellipsoid((side * 44, 24, -84), (25 * jaw, 42, 42)))
        parts.append(ellipsoid((side * 46, 58, -50), (20, 22, 20)))
        parts.append(ellipsoid((side * 50, -24, -52), (24, 44, 38)))
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


def _muscles(head: Head, side: float) -> list[Union]:
    size = head.vary(1.0, 0.08)

    def muscle(*knots: tuple[Vector, Vector]) -> Union:
        centres = [(side * c[0], c[1], c[2]) for c, _ in knots]
        radii = [(r[0] * size, r[1] * size, r[2]) for _, r in knots]
        return tube(centres, radii, 2 * len(knots))

    return [
        # Chewing: temporalis, masseter, the pterygoids; buccinator.
        muscle(
            ((70, 22, 18), (5, 28, 12)),
            ((67, 24, -12), (7, 26, 14)),
            ((58, 31, -42), (7, 15, 10)),
            ((49, 32, -66), (4, 7, 7)),
        ),
        muscle(
            ((62, 38, -50), (5, 10, 8)), ((58, 26, -80), (8, 18, 11)), ((52, 18, -108), (6, 13, 8))
        ),
        muscle(
            ((26, 30, -52), (9, 11, 8)), ((36, 22, -76), (10, 13, 9)), ((43, 16, -100), (5, 10, 8))
        ),
        muscle(((30, 34, -52), (10, 10, 9)), ((46, 14, -56), (7, 8, 7))),
        muscle(((22, 86, -90), (4, 4, 8)), ((38, 68, -88), (3, 6, 9)), ((42, 44, -84), (3, 5, 9))),
        # Neck, back: semispinalis, splenius, suboccipital, trapezius.
        muscle(
            ((13, -66, -52), (11, 8, 9)),
            ((14, -68, -100), (12, 11, 10)),
            ((13, -70, -200), (13, 12, 10)),
        ),
        muscle(
            ((34, -60, -56), (13, 9, 9)),
            ((34, -58, -100), (14, 12, 10)),
            ((36, -50, -200), (14, 13, 10)),
        ),
        muscle(
            ((14, -46, -66), (9, 8, 8)),
            ((18, -44, -110), (12, 10, 9)),
            ((18, -46, -200), (12, 11, 9)),
        ),
        muscle(
            ((10, -84, -66), (9, 4, 9)),
            ((16, -84, -110), (15, 5, 10)),
            ((26, -80, -200), (22, 7, 10)),
        ),
        # Neck, side and front: sternocleidomastoid, scalene, longus, digastric, throat.
        muscle(
            ((60, -26, -66), (7, 12, 9)), ((52, -8, -104), (8, 14, 9)), ((34, 22, -200), (9, 12, 9))
        ),
        muscle(
            ((32, -26, -76), (9, 11, 9)),
            ((36, -26, -110), (11, 12, 9)),
            ((38, -24, -200), (12, 12, 9)),
        ),
        muscle(((10, 9, -64), (8, 5, 6)), ((10, 7, -110), (8, 5, 6)), ((11, 6, -200), (8, 6, 6))),
        muscle(
            ((48, -18, -72), (5, 7, 7)), ((38, 18, -108), (6, 9, 6)), ((12, 62, -122), (7, 12, 5))
        ),
        muscle(
            ((15, 22, -64), (4, 8, 8)), ((17, 18, -96), (5, 9, 9)), ((18, 20, -200), (7, 14, 10))
        ),
    ]


def _paint_muscles(head: Head) -> None:
    canvas = head.canvas
    growth = 5.0
    muscles = [muscle for side in SIDES for muscle in _muscles(head, side)]
    first, second = canvas.nearest_two(muscles, growth)
    septum = max(0.4, head.vary(0.9, 0.4))
    neck = 1 / (1 + np.exp((canvas.points[2] + 84) / 9))
    fat = head.vary(4.0, 0.3) + head.vary(3.0, 0.5) * neck.astype(np.float32)
    inside = head.outline + fat
    canvas.fill_everywhere(
        "muscle", np.maximum.reduce([first - growth, septum - (second - first) / 2, inside])
    )
    for side in SIDES:
        parotid = ellipsoid((side * 57, 2, -80), (10, 15, 23), degrees=(0, 0, side * 15))
        submandibular = ellipsoid((side * 32, 34, -116), (9, 16, 10))
        carotid = tube(
            [(side * 24, 0, -60), (side * 27, 0, -110), (side * 29, 0, -200)], [3.2, 3.6, 4.2]
        )
        jugular = tube(
            [(side * 34, -8, -62), (side * 36, -6, -110), (side * 38, -3, -200)], [4.5, 5, 6]
        )
        for gland in (parotid, submandibular):
            canvas.paint("fat", gland, grow_mm=1, within=[inside])
            canvas.paint("gland", gland, within=[inside])
        for vessel in (carotid, jugular):
            canvas.paint("fat", vessel, grow_mm=1.5)
            canvas.paint("blood", vessel)
    lips = tube([(-26, 84, -90), (0, 92, -90), (26, 84, -90)], [(5, 4, 7), (7, 5, 10), (5, 4, 7)])
    canvas.paint("muscle", lips, within=[head.outline + np.float32(2.5)])


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
            ellipsoid((side * 19, y - 5, z), (9 if number else 13, 8, 7), power=2.4)
            for side in SIDES
        ]
        bone = joined(body, arch, *masses, smooth_mm=3)
        if number > 1:
            paint("disc", ellipsoid((0, y, z + 10), (11 * width, 9, 4.5), power=2.5))
        shell(bone, "cortical_bone", 1.5, "trabecular_bone", within=[head.outline + 12])
    dens = tube([(0, -4, -88), (0, -2, -78), (0, -3, -66)], [(6, 6, 6), (5, 5, 5), (4, 4, 4)], 3)
    shell(dens, "cortical_bone", 1.5, "trabecular_bone")
    canal = tube(
        [(0, -27, -52), (0, -26, -80), (0, -25, -120), (0, -25, -200)],
        [(14, 15, 9), 11, (11, 9.5, 9), (11, 9.5, 9)],
    )
    paint("fat", canal)
    paint("csf", canal, grow_mm=-1.8)


def _paint_brain_case(head: Head) -> None:
    canvas, table_mm = head.canvas, np.float32(head.vary(1.5, 0.1))
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
    clivus = tube(
        [(0, 14, -36), (0, 2, -46), (0, -9, -62)], [(17, 13, 13), (14, 8, 8), (12, 5, 5)], 5
    )
    sphenoid = ellipsoid((0, 25, -40), (19, 19, 14), power=2.8)
    shell(
        joined(clivus, sphenoid, smooth_mm=5),
        "cortical_bone",
        1.6,
        "trabecular_bone",
        within=limits,
    )
    for side in SIDES:
        greater = ellipsoid((side * 47, 36, -30), (7, 10, 20), degrees=(0, 0, side * 30))
        pterygoid = bent_plate((side * 16, 29, -64), (1.6, 8, 14), degrees=(0, 0, side * 12))
        condyle = ellipsoid((side * 19, -18, -64), (8, 11, 7))
        for bone in (greater, condyle):
            shell(bone, "cortical_bone", 1.6, "trabecular_bone", within=limits)
        head.canvas.paint("cortical_bone", pterygoid, within=limits)


def _paint_temporal_bone(head: Head) -> None:
    canvas = head.canvas
    limits = [-head.cavity + np.float32(0.8), head.outline + np.float32(5)]
    cells = Noise(head.rng, 11, banded=True)
    size = head.vary(1.0, 0.18)
    for side in SIDES:
        ridge = tube(
            [(side * 17, 8, -44), (side * 36, -8, -46), (side * 56, -20, -48)], [6, 9.5, 11], 5
        )
        canvas.shell(
            ridge, "petrous_bone", 3.5, "cortical_bone", within=[head.outline + np.float32(5)]
        )
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
        canal = tube(
            [(side * 80, -12, -46), (side * 66, -10, -47), (side * 48, -8, -47)], [4, 3.6, 3], 4
        )
        canvas.paint("skin", canal, grow_mm=0.8)
        canvas.paint("air", canal, within=[head.outline])
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
            [
                (side * 54 * wide, 56, -44),
                (side * 66, 34, -44),
                (side * 68, 14, -46),
                (side * 64, -2, -46),
            ],
            [(4, 6, 7), (2.6, 5, 5), (2.4, 4, 4), (4, 5, 4)],
        )
        orbit = _orbit(side)
        head.canvas.paint(
            "cortical_bone",
            orbit,
            grow_mm=2.2,
            within=[*limits, head.canvas.points[1] - np.float32(80)],
        )
        shell(maxilla, "cortical_bone", 1.5, "trabecular_bone", within=limits)
        shell(arch, "cortical_bone", 1.5, "trabecular_bone", within=[head.outline + np.float32(4)])
        outer_rim = tube(
            [(side * 50, 66, -40), (side * 51, 66, -28), (side * 46, 72, -14)], [5, 4, 5], 5
        )
        shell(
            outer_rim,
            "cortical_bone",
            1.8,
            "trabecular_bone",
            within=[head.outline + np.float32(4)],
        )
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
        [
            (-46, 16, -104),
            (-38, 50, -112),
            (-20, 74 + chin, -116),
            (0, 80 + chin, -117),
            (20, 74 + chin, -116),
            (38, 50, -112),
            (46, 16, -104),
        ],
        [(6, 8, 10), (6, 6, 12), (6, 6, 13), (7, 6, 13), (6, 6, 13), (6, 6, 12), (6, 8, 10)],
        14,
    )
    rami: list[Union] = []
    for side in SIDES:
        rami.append(
            tube(
                [(side * 46, 18, -104), (side * 49, 16, -80), (side * 51, 7, -60)],
                [(4.5, 14, 9), (3.4, 13, 9), (6, 5, 5)],
                5,
            )
        )
        rami.append(
            tube([(side * 48, 24, -84), (side * 49, 31, -62)], [(3.2, 10, 8), (2.2, 4, 5)], 3)
        )
    shell(joined(body, *rami, smooth_mm=3), "cortical_bone", 2.3, "trabecular_bone", within=limits)


def _paint_airways(head: Head) -> None:
    canvas = head.canvas
    inside = [head.outline + np.float32(3)]
    wide = head.vary(1.0, 0.15)
    throat = tube(
        [
            (0, 30, -54),
            (0, 21, -66),
            (0, 15, -84),
            (0, 12, -104),
            (0, 9, -124),
            (0, 12, -150),
            (0, 14, -200),
        ],
        [
            (11, 7, 8),
            (13, 7, 7),
            (11 * wide, 5, 6),
            (11 * wide, 5 * wide, 6),
            (13, 6, 6),
            (8, 8, 8),
            (8, 8, 8),
        ],
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
    canvas.paint(
        "cortical_bone", nose, grow_mm=1.6, within=[*inside, canvas.points[1] - np.float32(82)]
    )
    canvas.paint("mucosa", nose, grow_mm=0.8, within=[head.outline + np.float32(1)])
    canvas.paint("air", nose, grow_mm=-0.6)
    septum = bent_plate((head.shift(1), 60, -56), (1.8, 36, 24), bend=(head.shift(3), 0))
    canvas.paint("mucosa", septum, within=inside)
    canvas.paint(
        "cortical_bone", septum, grow_mm=-1.1, within=[*inside, canvas.points[1] - np.float32(76)]
    )
    for side in SIDES:
        swelling = head.vary(1.0, 0.18)
        for y, z, x, r in ((58, -69, 9.5, 4.6), (52, -56, 8.5, 3.6), (46, -45, 6.5, 2.6)):
            r *= swelling
            concha = tube(
                [(side * x, y + 22, z), (side * (x - 1), y, z - 1), (side * x, y - 20, z)],
                [(r * 0.7, 4, r), (r * 0.8, 5, r * 1.3), (r * 0.7, 4, r)],
                5,
            )
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
            joined(
                ellipsoid((side * 29, 55, -62), (15.5 * size, 18.5 * size, 18.5 * size), power=2.4),
                ellipsoid((side * 38, 60, -52), (10, 11, 9)),
                smooth_mm=5,
            ),
            ellipsoid((side * 8, 26, -39), (9 * size, 13, 9.5 * size)),
            joined(
                ellipsoid((side * 12, 84, -7), (11 * frontal, 4.5, 12 * frontal)),
                ellipsoid((side * 9, 82, 2), (6 * frontal, 3.6, 9 * frontal)),
                smooth_mm=4,
            ),
        )
        for hollow in hollows:
            rough = (uneven, 2.0)
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
    canvas.shell(
        arch, "cortical_bone", 1.4, "trabecular_bone", within=[head.outline + np.float32(5)]
    )
    missing = head.rng.random((2, 16)) < head.rng.choice([0.0, 0.05, 0.15])
    for row, (z, direction, width, depth) in enumerate(
        ((-91.0, 1.0, 27.0, 37.0), (-101.0, -1.0, 25.5, 34.0))
    ):
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
    root = ellipsoid(
        (x, y - 1, z + direction * 8 + tilt), (across * 0.62, thick * 0.7, 9), degrees=frame
    )
    crown = ellipsoid(
        (x, y, z + direction * 0.5 + tilt), (across, thick, 5), power=3.2, degrees=frame
    )
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
        eye = np.array((side * 32.0, 69.0, -28.5))
        apex = np.array((side * 17, 38, -27.5))
        for dx, dz in ((11.0, 0.0), (-11.0, 0.0), (0.0, 10.5), (0.0, -10.5)):
            start = np.add(apex, (dx * 0.3, 0, dz * 0.3))
            middle = np.add((eye + apex) / 2, (dx * 0.85, 0, dz * 0.85))
            flat = (1.6, 3, 3.6) if dx else (3.6, 3, 1.6)
            muscle = tube([start, middle, np.add(eye, (dx, 0, dz))], [1.4, flat, 1.2], 5)
            canvas.paint("muscle", muscle)
        nerve = tube(
            [
                np.subtract(apex, (0, 6, 0)),
                np.add((eye + apex) / 2, (side * -1.5, 0, -1)),
                np.subtract(eye, (0, 11, 0)),
            ],
            [2, 2, 2.2],
            5,
        )
        canvas.paint("nerve", nerve)
        lid = ellipsoid(np.add(eye, (0, radius * 1.05, 0)), (15, 4, 10))
        canvas.paint("muscle", lid, within=limits)
        ball = ellipsoid(eye, (radius, radius * 1.02, radius))
        cornea = ellipsoid(np.add(eye, (radius * gaze, radius * 0.55, 0)), (7, 7.5, 7))
        globe = joined(ball, cornea, smooth_mm=2)
        canvas.paint("muscle", globe, grow_mm=1.0, within=[head.outline + np.float32(1)])
        canvas.paint("vitreous", globe, within=[head.outline + np.float32(2)])
        canvas.paint(
            "lens", ellipsoid(np.add(eye, (radius * gaze, radius * 0.62, 0)), (4.8, 2.2, 4.8))
        )
