"""A pair at a glance: three planes, each as source, target, checkerboard and edges."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medp2p.alignment import Alignment, move_points
from medp2p.pictures import HU_WINDOW
from medp2p.report.planes import shown_axes
from medp2p.volume import Volume, reorient

COLUMNS = ("source", "target", "checkerboard", "target's edges over the source")
"""What the four pictures of a plane show, from left to right."""

ROWS = ("axial", "coronal", "sagittal")
"""The planes, from top to bottom."""

LONGEST_PIXELS = 160
"""The body's longest side in a picture."""

TILES = 8
"""Fields of the checkerboard along the longest side."""

EDGE_COLOUR = (255, 176, 0)
"""Amber: it differs from grey for everybody."""

MARGIN_MM = 8.0
"""Shown around the body."""

JPEG_QUALITY = 60

_GAP = 2
_CT_AIR_HU = -200.0

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]


def pair_picture(
    source: Volume, target: Volume, source_body: NDArray[np.bool_], alignment: Alignment
) -> bytes:
    """Draw the planes through the middle of the body, as a JPEG of about 40 kB.

    Rows are `ROWS`, columns are `COLUMNS`, turned as in `medp2p.report.planes`. Millimetres are
    true in both directions, so that thick slices are not squashed. The same images give the same
    bytes.

    Args:
        source: The fixed image.
        target: The moving image.
        source_body: Body voxels on the source's grid; if there is none, the whole image is shown.
        alignment: Where the source's world lies in the target's.
    """
    from PIL import Image

    fixed = reorient(source, "RAS")
    body = reorient(source.with_array(source_body), "RAS").array
    windows = _window(source, source_body), _window(target, None)
    low, high = _box_mm(body, fixed.spacing_mm)
    pixel_mm = float((high - low).max() / LONGEST_PIXELS)
    rows = []
    for plane in ROWS:
        index_mm, shape = _plane(plane, low, high, pixel_mm)
        points = _to_world(index_mm, fixed)
        images = [
            _grey(_sampled(source, points), shape, windows[0]),
            _grey(_sampled(target, move_points(points, alignment)), shape, windows[1]),
        ]
        rows.append([*(_coloured(image) for image in images), _checked(*images), _edged(*images)])
    picture = Image.fromarray(_assembled(rows))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True)
    return buffer.getvalue()


def _window(volume: Volume, body: NDArray[np.bool_] | None) -> tuple[float, float]:
    """Values that are shown black and white."""
    thin = tuple(slice(None, None, max(1, n // 128)) for n in volume.shape)
    values = volume.array[thin]
    if volume.modality == "CT" or (volume.modality is None and values.min() < _CT_AIR_HU):
        return HU_WINDOW
    inside = values[body[thin]] if body is not None and body[thin].any() else values
    low, high = np.percentile(inside, (1, 99.5))
    return float(min(low, values.min())), float(max(high, low + 1e-6))


def _box_mm(body: NDArray[np.bool_], spacing: Floats) -> tuple[Floats, Floats]:
    """The box around the body with a margin, inside the image; mm along the image's axes."""
    shown = body if body.any() else np.ones_like(body)
    inside = [np.flatnonzero(shown.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    first, last = np.array([(index[0], index[-1]) for index in inside]).T
    low = np.maximum(first * spacing - MARGIN_MM, 0)
    high = np.minimum(last * spacing + MARGIN_MM, (np.array(body.shape) - 1) * spacing)
    return low, np.maximum(high, low + spacing)


def _plane(
    plane: str, low: Floats, high: Floats, pixel_mm: float
) -> tuple[Floats, tuple[int, int]]:
    """Points in mm along the image's axes, (pixels, 3), and rows and columns of the picture."""
    down, across = shown_axes(plane)
    columns = _steps(low[across], high[across], pixel_mm)[::-1]
    rows = _steps(low[down], high[down], pixel_mm)[::-1]
    points = np.empty((len(rows), len(columns), 3))
    points[...] = (low + high) / 2
    points[..., across] = columns
    points[..., down] = rows[:, None]
    return points.reshape(-1, 3), (len(rows), len(columns))


def _steps(low: float, high: float, pixel_mm: float) -> Floats:
    count = max(1, round((high - low) / pixel_mm))
    steps: Floats = low + (np.arange(count) + 0.5) * (high - low) / count
    return steps


def _to_world(index_mm: Floats, volume: Volume) -> Floats:
    axes = volume.affine[:3, :3] / volume.spacing_mm
    world: Floats = index_mm @ axes.T + volume.affine[:3, 3]
    return world


def _sampled(volume: Volume, points: Floats) -> Floats:
    """Values at world points, linear between voxels; NaN outside the image."""
    to_index = np.linalg.inv(volume.affine)
    index = points @ to_index[:3, :3].T + to_index[:3, 3]
    values = ndimage.map_coordinates(
        volume.array, index.T, output=np.float64, order=1, mode="nearest"
    )
    last = np.array(volume.shape) - 0.5
    shown = ((index >= -0.5) & (index <= last)).all(axis=1)
    return np.where(shown, values, np.nan)


def _grey(values: Floats, shape: tuple[int, int], window: tuple[float, float]) -> Bytes:
    """Grey values of a plane; black outside the image."""
    low, high = window
    unit = np.clip((values.reshape(shape) - low) / (high - low), 0, 1)
    return np.rint(np.nan_to_num(unit) * 255).astype(np.uint8)


def _coloured(grey: Bytes) -> Bytes:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _checked(source: Bytes, target: Bytes) -> Bytes:
    """Fields of the source and of the target by turns; the target is a little warmer."""
    size = LONGEST_PIXELS // TILES
    row, column = np.indices(source.shape) // size
    of_target = (row + column) % 2 == 1
    mixed = _coloured(np.where(of_target, target, source))
    mixed[of_target, 2] = mixed[of_target, 2] // 4 * 3
    return mixed


def _edged(source: Bytes, target: Bytes) -> Bytes:
    """The source with the target's edges (Canny 1986)."""
    from skimage.feature import canny

    mixed = _coloured(source)
    mixed[canny(target / 255.0, sigma=1.5)] = EDGE_COLOUR
    return mixed


def _assembled(rows: list[list[Bytes]]) -> Bytes:
    """Put pictures into rows and columns, each in the middle of its field, on black."""
    width = max(image.shape[1] for row in rows for image in row)
    height = sum(row[0].shape[0] for row in rows) + _GAP * (len(rows) - 1)
    canvas = np.zeros((height, len(rows[0]) * (width + _GAP) - _GAP, 3), np.uint8)
    top = 0
    for row in rows:
        for number, image in enumerate(row):
            left = number * (width + _GAP) + (width - image.shape[1]) // 2
            canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
        top += row[0].shape[0] + _GAP
    return canvas
