"""A human pelvis: shapes of its parts, and the order in which they are painted.

Millimetres of an average adult lying on the back; the origin lies midway between the hip
joints. Proportions follow anatomical atlases; every number is varied per subject.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medp2p.phantom.body import SIDES, Body
from medp2p.phantom.canvas import Canvas
from medp2p.phantom.shapes import (
    FAR_MM,
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

PELVIS_EXTENT_MM = (420.0, 320.0, 250.0)
PELVIS_CENTRE_MM = (0.0, -2.0, 20.0)
"""Body coordinates in the middle of the field of view."""


@dataclass(frozen=True)
class Pelvis(Body):
    """A pelvis on a canvas.

    Attributes:
        deep: Distance to the layer of muscle under the subcutaneous fat, on the whole grid.
        muscle: Distance to the nearest muscle.
        wide: Width of the bony pelvis, relative.
    """

    deep: Array
    muscle: Array
    wide: float


def paint_pelvis(canvas: Canvas, rng: np.random.Generator) -> Array:
    """Paint a pelvis.

    Args:
        canvas: Empty canvas.
        rng: Draws the subject.

    Returns:
        Distance to the surface of the body in mm on the whole grid, negative inside.
    """
    male = bool(rng.random() < 0.5)
    fatness = 1 + 0.35 * deviate(rng)
    outline = canvas.everywhere(_outline(rng, male, fatness), reach_mm=60)
    deep = outline + _subcutaneous(canvas, rng, fatness)
    far = np.full(canvas.shape, FAR_MM, np.float32)
    wide = (1.0 if male else 1.05) + 0.02 * deviate(rng)
    body = Pelvis(canvas, rng, outline, deep, far, wide)
    canvas.fill_everywhere("skin", outline)
    canvas.fill_everywhere("fat", outline + np.float32(2))
    _paint_abdominal_wall(body)
    _paint_muscles(body)
    _paint_vessels(body)
    _paint_bowel(body)
    _paint_hip_bones(body)
    _paint_sacrum(body)
    _paint_femora(body)
    _paint_bladder(body)
    if male:
        _paint_prostate(body)
    else:
        _paint_uterus(body)
    _paint_rectum(body)
    return outline


def _outline(rng: np.random.Generator, male: bool, fatness: float) -> Union:
    waist = 164 + 14 * (fatness - 1) / 0.35 + 5 * deviate(rng)
    depth = 102 + 12 * (fatness - 1) / 0.35 + 4 * deviate(rng)
    hip = 1 + 0.10 * (fatness - 1) + 0.03 * deviate(rng)
    parts: list[Shape | Union] = [
        capsule((0, 0, 260), (0, -6, 15), (waist, depth, 60), (158 * hip, 104, 70)),
        ellipsoid((0, 34, 110), (waist * 0.82, depth * 0.74, 85), power=2.2),
    ]
    for side in SIDES:
        thigh = 1 + 0.12 * (fatness - 1) + 0.03 * deviate(rng)
        parts.append(
            capsule(
                (side * 88 * hip, -2, -20),
                (side * 90, 6, -300),
                (86 * thigh, 96 * thigh, 80),
                (70 * thigh, 76 * thigh, 80),
            )
        )
        parts.append(ellipsoid((side * 66, -62, -8), (72 * hip, 68 * thigh, 84)))
    if male:
        parts.append(
            capsule((0, 70, -45), (0, 104 + 6 * deviate(rng), -88), (22, 20, 22), (24, 20, 24))
        )
    return Union(joined(*parts).parts, smooth_mm=22)


def _subcutaneous(canvas: Canvas, rng: np.random.Generator, fatness: float) -> Array:
    x, y, z = canvas.points
    noise = canvas.smooth(Noise(rng, 160), 160)
    behind = np.clip(-y / 60, 0, 1) * np.exp(-(((z - 10) / 80) ** 2))
    beside = np.exp(-(((np.abs(x) - 165) / 40) ** 2))
    belly = np.clip(y / 60, 0, 1) * np.clip((z - 20) / 60, 0, 1)
    thickness = 9 + 12 * behind + 12 * beside + 10 * belly
    return np.asarray(np.maximum(thickness * max(fatness, 0.35) + 2 * noise, 4), np.float32)


def _paint_abdominal_wall(body: Pelvis) -> None:
    canvas = body.canvas
    x, y, z = canvas.points
    layer = np.float32(body.vary(13, 0.2))
    flank = np.maximum(body.deep, -(body.deep + layer))
    region = np.maximum((70 - z) * 0.5, (-30 - y) * 0.6)
    flank = np.maximum(flank, region)
    canvas.fill_everywhere("muscle", np.maximum(flank, np.abs(np.abs(x) - 58) * -0.5 + 4))
    line = np.abs(np.mod(body.deep + 100, layer / 3) - layer / 6) - np.float32(0.5)
    canvas.fill_everywhere("fat", np.maximum(line, flank + 1))


def _muscles(body: Pelvis, s: float) -> list[Union]:
    size = body.vary(1.0, 0.08)
    w = body.wide

    def muscle(*knots: tuple[Vector, Vector]) -> Union:
        centres = [(s * c[0] * w, c[1], c[2]) for c, _ in knots]
        radii = [(r[0] * size, r[1] * size, r[2]) for _, r in knots]
        return tube(centres, radii, 3 * len(knots))

    return [
        # Gluteus maximus, medius, minimus; tensor fasciae latae.
        muscle(
            ((38, -90, 75), (16, 12, 22)),
            ((62, -100, 30), (34, 20, 36)),
            ((96, -82, -20), (30, 26, 34)),
            ((132, -22, -80), (10, 18, 20)),
        ),
        muscle(
            ((104, -22, 125), (10, 34, 18)),
            ((128, -2, 75), (15, 40, 26)),
            ((142, -10, 5), (8, 16, 16)),
        ),
        muscle(
            ((110, 8, 85), (8, 24, 18)), ((122, 10, 45), (10, 25, 20)), ((136, 6, 0), (6, 10, 9))
        ),
        muscle(
            ((134, 44, 84), (8, 12, 12)),
            ((148, 38, 25), (9, 16, 16)),
            ((150, 20, -60), (5, 18, 16)),
        ),
        # Hip flexors: sartorius, iliacus, psoas, rectus femoris.
        muscle(
            ((126, 50, 84), (6, 7, 10)),
            ((108, 72, 20), (8, 7, 12)),
            ((72, 66, -70), (11, 8, 12)),
            ((52, 40, -180), (11, 9, 12)),
        ),
        muscle(
            ((92, 4, 120), (20, 18, 24)),
            ((92, 20, 70), (25, 18, 24)),
            ((90, 40, 22), (18, 14, 16)),
            ((100, 8, -55), (8, 8, 10)),
        ),
        muscle(
            ((40, -22, 190), (20, 22, 24)),
            ((50, -4, 115), (19, 20, 22)),
            ((66, 24, 62), (16, 17, 20)),
            ((84, 44, 16), (14, 13, 16)),
        ),
        muscle(
            ((106, 48, 34), (8, 8, 10)),
            ((114, 58, -30), (15, 13, 18)),
            ((108, 62, -120), (20, 16, 24)),
            ((100, 60, -240), (20, 16, 24)),
        ),
        # Quadriceps around the shaft.
        muscle(
            ((146, 4, -25), (9, 22, 16)),
            ((144, 14, -100), (18, 36, 30)),
            ((132, 18, -240), (20, 38, 30)),
        ),
        muscle(
            ((118, 28, -60), (16, 12, 14)),
            ((106, 32, -120), (26, 16, 24)),
            ((98, 34, -240), (30, 18, 24)),
        ),
        # Adductors: pectineus, longus, brevis, magnus, gracilis.
        muscle(
            ((42, 50, 2), (12, 9, 10)), ((68, 38, -20), (15, 11, 14)), ((100, 6, -60), (6, 8, 10))
        ),
        muscle(
            ((18, 54, -24), (9, 9, 9)),
            ((48, 50, -75), (18, 15, 20)),
            ((86, 16, -190), (12, 14, 20)),
        ),
        muscle(
            ((22, 36, -38), (9, 9, 9)), ((56, 22, -80), (18, 14, 20)), ((98, 4, -140), (8, 12, 16))
        ),
        muscle(
            ((50, -16, -66), (14, 16, 12)),
            ((66, -10, -115), (32, 24, 28)),
            ((86, -8, -240), (28, 26, 28)),
        ),
        muscle(
            ((12, 38, -42), (4, 11, 10)),
            ((28, 24, -110), (7, 18, 20)),
            ((42, 8, -240), (8, 16, 20)),
        ),
        # Deep rotators and the pelvic wall: obturators, piriformis, quadratus femoris.
        muscle(
            ((46, 34, -26), (14, 9, 14)), ((72, 4, -36), (12, 12, 12)), ((112, -20, -26), (5, 6, 7))
        ),
        muscle(
            ((24, -60, 52), (10, 8, 12)), ((72, -58, 34), (13, 10, 13)), ((126, -24, 6), (5, 5, 6))
        ),
        muscle(
            ((66, -32, -50), (8, 10, 14)),
            ((104, -26, -48), (10, 10, 14)),
            ((118, -22, -46), (6, 6, 10)),
        ),
        # Hamstrings; erector spinae; rectus abdominis.
        muscle(
            ((62, -38, -72), (11, 11, 10)),
            ((72, -46, -130), (25, 20, 26)),
            ((76, -40, -250), (32, 24, 28)),
        ),
        muscle(
            ((30, -84, 190), (29, 22, 24)),
            ((27, -90, 115), (25, 15, 24)),
            ((13, -98, 55), (8, 6, 14)),
        ),
    ]


def _viscera(body: Pelvis) -> Union:
    """The room of bladder, bowel and the fat around them, which muscles do not grow into."""
    w = body.wide
    return tube(
        [(0, 22, 240), (0, 20, 120), (0, 4, 62), (0, -4, 12), (0, -32, -40), (0, -40, -85)],
        [
            (112, 74, 40),
            (100, 70, 40),
            (72 * w, 58, 30),
            (52 * w, 56, 25),
            (42, 42, 25),
            (16, 30, 20),
        ],
        12,
    )


def _paint_muscles(body: Pelvis) -> None:
    canvas = body.canvas
    septum = max(0.5, body.vary(1.1, 0.4))
    growth = max(4.0, body.vary(10, 0.3))
    muscles = [muscle for side in SIDES for muscle in _muscles(body, side)]
    first, second = canvas.nearest_two(muscles, growth)
    body.muscle[...] = first
    room = np.clip(canvas.everywhere(_viscera(body), 12) + 3, 0, growth)
    canvas.fill_everywhere(
        "muscle",
        np.maximum.reduce([first - room, septum - (second - first) / 2, body.deep]),
    )
    for side in SIDES:
        wall = bent_plate(
            (side * 63 * body.wide, -4, -16),
            (6.5, 34, 30),
            degrees=(0, side * -8, side * 14),
            bend=(side * -6, 0),
        )
        canvas.paint("muscle", wall)
        levator = tube(
            [(side * 8, 38, -22), (side * 34, 5, -16), (side * 12, -42, -24)],
            [(3, 4, 8), (3.5, 8, 12), (4, 4, 8)],
            8,
        )
        canvas.paint("muscle", levator)
        rectus = tube(
            [(side * 34, 92, 210), (side * 30, 92, 100), (side * 22, 78, 40), (side * 8, 58, 0)],
            [(30, 8, 20), (28, 8, 20), (20, 8, 20), (8, 6, 10)],
            10,
        )
        box, distance = canvas.distance(rectus)
        canvas.fill("muscle", box, np.maximum(distance, body.deep[box]))


def _paint_vessels(body: Pelvis) -> None:
    paint = body.canvas.paint
    for side in SIDES:
        for dx, dy, radius in ((0, 0, 4.6), (-9, -8, 6.0)):
            vessel = tube(
                [
                    (side * 14, -4, 190),
                    (side * 22, 0, 130),
                    (side * 48, 12, 85),
                    (side * (66 + dx), 42 + dy, 40),
                    (side * (74 + dx), 66 + dy, 8),
                    (side * (72 + dx), 56 + dy, -60),
                    (side * (62 + dx), 34 + dy, -180),
                ],
                [radius * 1.3, radius * 1.15, radius, radius, radius, radius, radius * 0.9],
                14,
            )
            paint("fat", vessel, grow_mm=2.5, within=[body.deep])
            paint("blood", vessel)
        inner = tube(
            [(side * 36, -8, 100), (side * 46, -34, 60), (side * 48, -44, 20)], [5, 4.5, 4], 6
        )
        paint("blood", inner)
        nerve = tube(
            [
                (side * 52, -62, 28),
                (side * 84, -50, -30),
                (side * 86, -40, -120),
                (side * 84, -30, -240),
            ],
            [(6, 4, 5), (7, 4, 5), (6, 4, 5), (5, 4, 5)],
            10,
        )
        paint("fat", nerve, grow_mm=2)
        paint("nerve", nerve)


def _paint_hip_bones(body: Pelvis) -> None:
    canvas, w = body.canvas, body.wide
    flare = body.shift(4)
    cortex = body.vary(1.9, 0.15)
    for s in SIDES:
        wing = bent_plate(
            (s * 91 * w, -10, 86),
            (3.6, 58, 52),
            degrees=(0, s * (20 + flare), s * -38),
            bend=(s * -7, s * 3),
        )
        crest = tube(
            [
                (s * 44 * w, -72, 84),
                (s * 74 * w, -60, 124),
                (s * 104 * w, -18, 140),
                (s * 121 * w, 22, 116),
                (s * 120 * w, 40, 88),
            ],
            [(8, 8, 10), (6, 8, 7), (6.5, 8, 6), (6.5, 8, 7), (6, 7, 8)],
            12,
        )
        spine = tube(
            [(s * 119 * w, 38, 86), (s * 109 * w, 34, 58), (s * 100 * w, 34, 36)],
            [(4, 6, 7), (4, 6, 7), (7, 8, 9)],
            4,
        )
        ilium = tube(
            [(s * 88 * w, -8, 74), (s * 84 * w, -6, 44), (s * 84 * w, -4, 24)],
            [(7, 26, 16), (11, 29, 14), (22, 31, 12)],
            5,
        )
        joint = ellipsoid((s * 48 * w, -60, 76), (9, 18, 32), degrees=(0, 0, s * -30))
        notch = tube([(s * 54 * w, -54, 58), (s * 72 * w, -34, 48)], [(8, 10, 12), (9, 14, 14)], 3)
        socket = ellipsoid((s * 82 * w, -2, 2), (35, 35, 35))
        pubis = tube(
            [(s * 72 * w, 20, 4), (s * 44, 42, 3), (s * 13, 53, -8)],
            [(12, 11, 12), (8, 7, 8), (9, 9, 11)],
            6,
        )
        body_of_pubis = ellipsoid((s * 12, 50, -16), (9.5, 9, 19), degrees=(-15, 0, 0))
        lower = tube(
            [(s * 13, 44, -30), (s * 34, 16, -56), (s * 54 * w, -16, -70)],
            [(6, 6, 7), (4.5, 7, 6), (8, 10, 8)],
            6,
        )
        ischium = tube(
            [(s * 82 * w, -22, -4), (s * 72 * w, -32, -34), (s * 61 * w, -30, -64)],
            [(13, 15, 14), (11, 13, 14), (14, 15, 13)],
            6,
        )
        box, d = canvas.distance(
            joined(
                wing,
                crest,
                spine,
                ilium,
                joint,
                notch,
                pubis,
                body_of_pubis,
                lower,
                ischium,
                smooth_mm=5,
            )
        )
        x, y, z = canvas.points_in(box)
        rim = (
            (x - s * 88 * w) * np.float32(s * 0.72) + y * np.float32(0.32) - z * np.float32(0.58)
        ) - np.float32(7)
        acetabulum = np.maximum(socket.distance((x, y, z)), rim)
        d = np.maximum(np.minimum(d, acetabulum), body.outline[box] + np.float32(7))
        canvas.fill("cortical_bone", box, d)
        canvas.fill("trabecular_bone", box, d + np.float32(cortex))
    symphysis = bent_plate((0, 50, -14), (3, 9, 18), degrees=(-15, 0, 0))
    canvas.paint("cartilage", symphysis)


def _paint_sacrum(body: Pelvis) -> None:
    canvas, w = body.canvas, body.wide
    lean = body.shift(4)
    z = np.array([99.0, 77, 56, 38, 22])
    y = np.array([-44.0, -62, -75, -79, -75]) + lean * (z - 60) / 60
    half = [(50, 20, 15), (44, 16, 14), (34, 13, 12), (25, 10, 11), (16, 8, 9)]
    parts: list[Shape | Union] = []
    for number in range(5):
        centre = (0, y[number], z[number])
        wide, thick, tall = half[number]
        parts.append(
            ellipsoid(centre, (wide * w, thick, tall), power=2.8, degrees=(38 - 14 * number, 0, 0))
        )
        parts.append(
            capsule(
                (0, y[number] - 8, z[number]),
                (0, y[number] - 22, z[number] - 6),
                (7, 8, 10),
                (4, 6, 8),
            )
        )
    box, distance = canvas.distance(joined(*parts, smooth_mm=5))
    canvas.fill("cortical_bone", box, distance)
    canvas.fill("trabecular_bone", box, distance + np.float32(1.5))
    canal = tube(
        [(0, -58, 125), (0, -66, 98), (0, -86, 66), (0, -92, 40)],
        [(13, 8, 9), (12, 6, 8), (9, 4.5, 7), (5, 3, 6)],
        8,
    )
    canvas.paint("cortical_bone", canal, grow_mm=1.5)
    canvas.paint("fat", canal)
    canvas.paint(
        "csf",
        tube([(0, -58, 125), (0, -66, 98), (0, -82, 74)], [(9, 5.5, 7), (7, 4, 6), (3, 2, 4)], 5),
    )
    for side in SIDES:
        for number in range(4):
            at = (y[number] + y[number + 1]) / 2
            height = (z[number] + z[number + 1]) / 2
            x = side * (24 - 3.2 * number)
            hole = tube(
                [(x * 1.05, at + 14, height - 3), (x, at, height), (x * 0.9, at - 22, height + 2)],
                [6, 4.6, 3.6],
                4,
            )
            canvas.paint("cortical_bone", hole, grow_mm=1.2)
            canvas.paint("fat", hole)
            canvas.paint(
                "nerve", tube([(x, at, height), (x * 1.2, at + 12, height - 6)], [2.8, 2.8], 2)
            )
    coccyx = tube(
        [(0, y[4] + 2, 13), (0, y[4] + 14, -4), (0, y[4] + 26, -16)],
        [(8, 6, 7), (5, 4.5, 5), (3, 3, 4)],
        5,
    )
    canvas.shell(coccyx, "cortical_bone", 1.3, "trabecular_bone")
    _paint_lumbar_spine(body)


def _paint_lumbar_spine(body: Pelvis) -> None:
    canvas = body.canvas
    for z, y, tilt in ((128.0, -32.0, 18.0), (166.0, -24.0, 6.0), (203.0, -20.0, 0.0)):
        canvas.paint(
            "disc", ellipsoid((0, y - 2, z - 20), (25, 18, 9), power=2.6, degrees=(tilt + 8, 0, 0))
        )
        bone: list[Shape | Union] = [
            ellipsoid((0, y, z), (26, 18, 14.5), power=3.2, degrees=(tilt, 0, 0))
        ]
        arch = tube(
            [
                (-17, y - 15, z + 2),
                (-17, y - 33, z),
                (0, y - 44, z - 4),
                (17, y - 33, z),
                (17, y - 15, z + 2),
            ],
            [(5, 6, 7)] * 5,
            10,
        )
        bone.append(arch)
        bone.append(capsule((0, y - 44, z - 4), (0, y - 68, z - 9), (4, 8, 9), (4, 6, 10)))
        for side in SIDES:
            bone.append(
                tube(
                    [(side * 17, y - 22, z + 2), (side * 48, y - 26, z + 3)],
                    [(6, 5, 6), (5, 4, 5)],
                    3,
                )
            )
            bone.append(ellipsoid((side * 19, y - 36, z - 14), (8, 8, 14)))
        canvas.shell(joined(*bone, smooth_mm=4), "cortical_bone", 1.5, "trabecular_bone")
    dura = tube([(0, -52, 120), (0, -54, 150), (0, -48, 220)], [(8, 7, 8)] * 3, 5)
    canvas.paint("fat", dura, grow_mm=3)
    canvas.paint("csf", dura)
    for side in SIDES:
        canvas.paint("nerve", tube([(side * 3, -54, 150), (side * 3.5, -53, 120)], [2, 2], 2))


def _paint_femora(body: Pelvis) -> None:
    canvas, w = body.canvas, body.wide
    radius = body.vary(24.0, 0.04)
    for s in SIDES:
        turn = body.shift(4)
        centre = (s * 88 * w, 0, 0)
        canvas.paint("cartilage", ellipsoid(centre, (radius + 2.6,) * 3))
        trochanter = (s * 132 * w, -14 + turn, -16)
        proximal = joined(
            ellipsoid(centre, (radius,) * 3),
            tube(
                [(s * 96 * w, -2, -6), (s * 110 * w, -6, -20), (s * 124 * w, -6 + turn / 2, -36)],
                [18, 15.5, 19],
                5,
            ),
            ellipsoid(trochanter, (13, 18, 24), degrees=(0, s * 10, 0)),
            ellipsoid((s * 108 * w, -20, -64), (9, 9, 12)),
            smooth_mm=8,
        )
        course = [
            (s * 123 * w, -4, -44),
            (s * 116 * w, 4, -95),
            (s * 106 * w, 10, -180),
            (s * 98 * w, 12, -280),
        ]
        shaft = tube(course, [(18, 18, 14), 14.5, 14, 15], 9)
        canvas.shell(joined(proximal, shaft, smooth_mm=6), "cortical_bone", 1.6, "trabecular_bone")
        cortex = body.vary(5.5, 0.15)
        box, d = canvas.distance(shaft)
        below = canvas.points_in(box)[2] + np.float32(66)
        canvas.fill("cortical_bone", box, np.maximum(d, below))
        medulla = np.clip((-40 - canvas.points_in(box)[2]) / 40, 0.3, 1) * np.float32(cortex)
        canvas.fill("yellow_marrow", box, np.maximum(d + medulla, below - 12))


def _paint_bladder(body: Pelvis) -> None:
    canvas = body.canvas
    fill = body.vary(1.0, 0.28)
    wide, high = 41 * fill, 31 * fill
    middle = (body.shift(4), 28, 8 + high)
    bladder = joined(
        ellipsoid(middle, (wide, 27 * fill**0.7, high), power=2.3, degrees=(-12, 0, body.shift(5))),
        ellipsoid((0, 26, 6), (20, 18, 12)),
        smooth_mm=12,
    )
    canvas.paint("fat", bladder, grow_mm=4)
    canvas.shell(bladder, "smooth_muscle", max(2.0, 4.2 / fill), "urine")


def _paint_prostate(body: Pelvis) -> None:
    canvas = body.canvas
    size = max(0.75, body.vary(1.05, 0.2))
    gland = joined(
        ellipsoid((0, 18, -12), (23 * size, 16 * size, 17 * size), power=2.2),
        ellipsoid((0, 14, -24), (13, 11, 12)),
        smooth_mm=8,
    )
    canvas.paint("fat", gland, grow_mm=3)
    canvas.paint("peripheral_zone", gland)
    canvas.paint("prostate", ellipsoid((0, 22, -8), (17 * size, 12 * size, 14 * size)))
    canvas.paint(
        "smooth_muscle",
        tube(
            [(0, 24, 2), (0, 18, -14), (0, 16, -34), (0, 40, -50), (0, 90, -60)],
            [4, 4, 5, 9, 11],
            10,
        ),
        within=[body.outline + np.float32(3)],
    )
    for side in SIDES:
        vesicle = tube(
            [(side * 6, 0, 4), (side * 20, -6, 10), (side * 36, -8, 16)],
            [(4, 4, 4), (7, 6, 6), (5, 5, 5)],
            6,
        )
        canvas.paint("seminal_vesicle", vesicle, rough=(Noise(body.rng, 10), 1.2))
        testis = ellipsoid((side * 15, 94, -92), (11, 13, 17))
        canvas.paint("ovary", testis, within=[body.outline + np.float32(4)])


def _paint_uterus(body: Pelvis) -> None:
    canvas = body.canvas
    size, tilt = body.vary(1.0, 0.15), body.shift(8)
    path = [(0, -8, 2), (0, -8, 22), (tilt * 0.5, 4, 44), (tilt, 26, 62)]
    radii = [
        (13, 11, 10),
        (13 * size, 12 * size, 10),
        (20 * size, 16 * size, 14),
        (25 * size, 18 * size, 16),
    ]
    uterus = tube(path, radii, 8)
    canvas.paint("fat", uterus, grow_mm=3)
    canvas.paint("myometrium", uterus)
    lining = tube(path[1:], [(2, 2, 2), (7, 3, 3), (11, 3.5, 3)], 5)
    canvas.paint("endometrium", lining)
    vagina = tube([(0, -8, 4), (0, 0, -18), (0, 14, -42)], [(14, 5, 6), (13, 4, 6), (9, 4, 6)], 6)
    canvas.paint("smooth_muscle", vagina)
    urethra = tube([(0, 24, 0), (0, 24, -34)], [6, 5], 3)
    canvas.paint("smooth_muscle", urethra)
    for side in SIDES:
        ovary = ellipsoid(
            (side * (42 + body.shift(4)), -8 + body.shift(4), 46),
            (10, 16, 12),
            degrees=(0, 0, side * 30),
        )
        canvas.paint("ovary", ovary)
        canvas.paint("bowel_fluid", ellipsoid((side * 44, -6, 47), (4, 5, 4)))


def _paint_rectum(body: Pelvis) -> None:
    width = max(0.7, body.vary(1.0, 0.25))
    sway = body.shift(8)
    path = [
        (0, -22, -62),
        (0, -34, -38),
        (0, -50, -8),
        (sway, -56, 26),
        (-sway, -40, 52),
        (22 + sway, -24, 70),
        (52, -6, 84),
        (84, 4, 104),
    ]
    radii = [(9, 9, 9), (11, 12, 10), (20 * width, 18 * width, 14), (19 * width, 17 * width, 14)]
    radii += [(15, 15, 13), (15, 14, 14), (15, 15, 14), (16, 16, 15)]
    _paint_gut(body, tube(path, radii, 22), wall_mm=3.5, gas=body.vary(0.25, 0.8), content="stool")
    body.canvas.paint(
        "muscle", tube([(0, -20, -66), (0, -36, -36)], [(13, 13, 9), (14, 15, 9)], 3), grow_mm=0
    )
    body.canvas.paint("mucosa", tube([(0, -20, -66), (0, -36, -36)], [(5, 5, 6), (6, 6, 6)], 3))


def _paint_bowel(body: Pelvis) -> None:
    for side in SIDES:
        colon = tube(
            [
                (side * 84, 40, 76),
                (side * (92 + body.shift(5)), 32, 110),
                (side * 104, 12, 150),
                (side * 110, 0, 220),
            ],
            [(16, 16, 14), (23, 21, 16), (23, 21, 18), (22, 21, 18)],
            10,
        )
        _paint_gut(body, colon, wall_mm=2.5, gas=body.vary(0.2, 1.0), content="stool")
    for number in range(10):
        middle = np.array([body.rng.uniform(-62, 62), body.rng.uniform(14, 72), 76 + 11.0 * number])
        steps = body.rng.normal(0, 1, (5, 3)) * (22, 14, 9)
        path = (middle + np.cumsum(steps, axis=0) - steps.sum(0) / 2).clip(
            (-80, 4, 58), (80, 84, 260)
        )
        loop = tube([tuple(p) for p in path], [body.vary(12, 0.12) for _ in path], 12)
        _paint_gut(body, loop, wall_mm=2.2, gas=body.rng.normal(-0.4, 0.6), content="bowel_fluid")


def _paint_gut(body: Pelvis, gut: Union, *, wall_mm: float, gas: float, content: str) -> None:
    """Wall, content, and gas that has risen to the front in the stretches where it is."""
    canvas = body.canvas
    stretches, lumps = Noise(body.rng, 70), Noise(body.rng, 16)
    box, d = canvas.distance(gut)
    if not d.size:
        return
    points = canvas.points_in(box)
    folds = lumps(points) * np.float32(0.9)
    d = np.maximum.reduce([d, body.deep[box] + 14, 4 - body.muscle[box]])
    canvas.fill("fat", box, d - np.float32(2))
    canvas.fill("smooth_muscle", box, d)
    inside = d + np.float32(wall_mm) + folds
    canvas.fill(content, box, inside)
    where = (stretches(points) + np.float32(gas)) * np.float32(12)
    level = where + (inside + np.float32(6)) * np.float32(-0.3)
    canvas.fill("air", box, np.maximum(inside + np.float32(0.8), 3 - level))
