"""Cases for the page's viewer: voxels as 16-bit integers, packed into the page.

`case_block` packs one case, ``viewer.html`` puts the blocks into a page, and ``viewer.js`` unpacks
a case when it is opened. The signed error is computed in the browser from what is packed.

Why a viewer of our own: the page is one file that must open offline and stay small. NiiVue
(https://github.com/niivue/niivue, version 0.69) would add 2.3 MB of script to every page and draws
with WebGL 2, which remote desktops and locked-down browsers may lack. Linked planes of a few
hundred voxels need a 2-D canvas and a table of 65 536 greys.
"""

from __future__ import annotations

import base64
import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medp2p.errors import GeometryError
from medp2p.volume import Grid, Volume

Plane = Literal["axial", "coronal", "sagittal"]

NO_VALUE = -32768
"""Stands for NaN and infinity among the packed voxels."""

LARGEST = 32767
"""Packed voxels lie between minus this and this."""

STEPS = 4096
"""Values that are not HU are packed in at least so many steps between lowest and highest."""

ERROR_LIMIT_HU = 200.0
"""Errors from here on have the full colour at first; the same for every case, so that colours can
be compared."""

THICK = 2.0
"""Slices so many times as thick as a voxel is wide are not averaged."""

AUTOMATIC_PERCENTILES = (1.0, 99.5)
"""Of the voxels inside the mask: black and white of images that are not in HU."""

OBLIQUE = 0.3
"""A second letter is written where an axis leans this far (its cosine) towards another."""


@dataclass(frozen=True)
class Place:
    """Somewhere worth a look.

    Attributes:
        text: What there is to see, a few words.
        voxel: Index (i, j, k) into the case's volumes.
        plane: The plane to show it in.
    """

    text: str
    voxel: tuple[int, int, int]
    plane: Plane = "axial"


@dataclass(frozen=True, eq=False)
class ViewerCase:
    """One prediction of one case, beside what it was made from and what it should be.

    Attributes:
        name: The case's name.
        method: Which prediction; empty if there is but one.
        source: The image that was translated, None if it is not known.
        prediction: The predicted image.
        reference: The true image.
        mask: Where errors count, shape of the volumes; None for everywhere.
        units: Of prediction and reference: ``"HU"``, or None for anything else.
        note: A few words beside the name, such as ``"MAE 63 HU"``.
        places: Where to look first, worst first.

    All volumes lie on one grid, with axes towards right, front and head (RAS).
    """

    name: str
    method: str
    source: Volume | None
    prediction: Volume
    reference: Volume
    mask: NDArray[Any] | None
    units: str | None
    note: str = ""
    places: Sequence[Place] = ()


@dataclass(frozen=True)
class PackedVoxels:
    """Voxels as text.

    Attributes:
        key: The start of their SHA-256, so that one image of many methods is stored once.
        text: Base64 of deflated bytes; of int16 the low bytes first, then the high ones.
    """

    key: str
    text: str


@dataclass(frozen=True)
class CaseBlock:
    """What the template embeds of one case.

    Attributes:
        name: The case's name.
        method: Which prediction.
        note: A few words beside the name.
        info: Geometry, scaling and windows, ready for JSON.
        packed: The images' voxels, and the mask's.
    """

    name: str
    method: str
    note: str
    info: Mapping[str, Any]
    packed: tuple[PackedVoxels, ...]


def case_block(case: ViewerCase, *, full_resolution: bool = False) -> CaseBlock:
    """Pack a case for the page; the same case gives the same bytes.

    Args:
        case: The volumes.
        full_resolution: Pack every voxel, instead of means over 2×2×2 voxels (fewer at the far
            faces of odd sizes; see `halved`). NaN and infinity do not count.

    Raises:
        GeometryError: If the volumes do not share one grid.
        ValueError: If the grid's axes are not nearest to right, front and head, or the mask has
            another shape.
    """
    grid = _common_grid(case)
    factor = (1, 1, 1) if full_resolution else halved(grid)
    volumes = {"source": case.source, "prediction": case.prediction, "reference": case.reference}
    coarse = {
        kind: _block_means(volume.array, factor) for kind, volume in volumes.items() if volume
    }
    mask = None if case.mask is None else _block_means(case.mask != 0, factor) >= 0.5
    shown = coarser_grid(grid, factor)
    units = dict.fromkeys(coarse, case.units or "")
    if case.source:
        units["source"] = case.source.units or ""
    images, packed = [], []
    for kind, values in coarse.items():
        whole, slope, intercept = _as_int16(values, units[kind])
        voxels = _packed(whole.ravel(order="F").view(np.uint8).reshape(-1, 2).T)
        packed.append(voxels)
        images.append(
            {
                "kind": kind,
                "key": voxels.key,
                "units": units[kind],
                "slope": slope,
                "intercept": intercept,
                **_windows(values, mask),
            }
        )
    if mask is not None:
        packed.append(_packed(mask.ravel(order="F").astype(np.uint8)))
    info = {
        "shape": shown.shape,
        "factor": factor,
        "full_shape": grid.shape,
        "affine": shown.affine[:3].tolist(),
        "spacing_mm": shown.spacing_mm.tolist(),
        "ends": axis_ends(shown),
        "units": case.units or "",
        "error_limit": _error_limit(images[-1]),
        "images": images,
        "mask": None if mask is None else packed[-1].key,
        "places": [
            {"text": place.text, "voxel": [int(n) for n in place.voxel], "plane": place.plane}
            for place in case.places
        ],
    }
    return CaseBlock(case.name, case.method, case.note, info, tuple(packed))


def halved(grid: Grid) -> tuple[int, int, int]:
    """Return how many voxels along i, j and k become one at half resolution: 1 or 2.

    One along an axis of one voxel, and where voxels are at least `THICK` times as long as the
    shortest side: thick slices are shown one by one.
    """
    thick = grid.spacing_mm >= THICK * grid.spacing_mm.min()
    i, j, k = (1 if n == 1 or alone else 2 for n, alone in zip(grid.shape, thick, strict=True))
    return i, j, k


def coarser_grid(grid: Grid, factor: Sequence[int]) -> Grid:
    """Return the grid of blocks of ``factor`` voxels; a block lies where its middle is."""
    blocks = np.diag([*factor, 1.0])
    blocks[:3, 3] = (np.array(factor) - 1) / 2
    i, j, k = (-(-n // f) for n, f in zip(grid.shape, factor, strict=True))
    return Grid((i, j, k), grid.affine @ blocks)


def axis_ends(grid: Grid) -> list[tuple[str, str]]:
    """Return for i, j, k where the axis comes from and goes to: ``("L", "R")``.

    A leaning axis has a second letter, the lesser one last, as on DICOM displays (PS3.3 C.7.6.1.1.1
    for the letters; head and foot are S and I here).
    """
    cosines = grid.affine[:3, :3] / grid.spacing_mm
    ends = []
    for axis in cosines.T:
        order = np.argsort(-np.abs(axis), kind="stable")
        leaning = [n for n in order if abs(axis[n]) >= OBLIQUE][:2]
        letters = [("LR", "PA", "IS")[n][:: 1 if axis[n] > 0 else -1] for n in leaning]
        ends.append(("".join(two[0] for two in letters), "".join(two[1] for two in letters)))
    return ends


def _common_grid(case: ViewerCase) -> Grid:
    grid = case.reference.grid
    for volume in (case.prediction, case.source):
        if volume and (difference := grid.difference(volume.grid)):
            raise GeometryError(
                f"{volume.name}: {difference}, the viewer needs the reference's grid; resample it"
            )
    if grid.orientation != "RAS":
        raise ValueError(f"the viewer takes volumes in RAS order, got {grid.orientation}")
    if case.mask is not None and case.mask.shape != grid.shape:
        raise ValueError(f"mask of shape {case.mask.shape} for volumes of {grid.shape}")
    return grid


def _block_means(array: NDArray[Any], factor: Sequence[int]) -> NDArray[np.float32]:
    """Means of the finite values of each block, NaN where there are none."""
    from skimage.measure import block_reduce

    values = array.astype(np.float32)
    finite = np.isfinite(values)
    if max(factor) == 1:
        return np.where(finite, values, np.float32(np.nan))
    total = block_reduce(np.where(finite, values, 0), tuple(factor), np.sum)
    count = block_reduce(finite, tuple(factor), np.sum)
    means: NDArray[np.float32] = np.full(total.shape, np.nan, np.float32)
    np.divide(total, count, out=means, where=count > 0)
    return means


def _as_int16(values: NDArray[np.float32], units: str) -> tuple[NDArray[np.int16], float, float]:
    """Whole numbers with slope and intercept: HU as they are where they fit, others finer."""
    low, high = _extent(values)
    slope = 1.0
    if units != "HU" and high > low:
        slope = min(slope, 2.0 ** math.floor(math.log2((high - low) / STEPS)))
    if high - low > 2 * LARGEST * slope:
        slope = 2.0 ** math.ceil(math.log2((high - low) / (2 * LARGEST)))
    fits = -LARGEST * slope <= low and high <= LARGEST * slope
    intercept = 0.0 if fits else slope * round((low + high) / 2 / slope)
    scaled = np.rint((values.astype(np.float64) - intercept) / slope)
    whole = np.nan_to_num(np.clip(scaled, -LARGEST, LARGEST), nan=NO_VALUE)
    return whole.astype("<i2"), slope, intercept


def _windows(
    values: NDArray[np.float32], mask: NDArray[np.bool_] | None
) -> dict[str, tuple[float, float]]:
    """Values shown black and white."""
    inside = values if mask is None or not mask.any() else values[mask]
    inside = inside[np.isfinite(inside)]
    low, high = np.percentile(inside, AUTOMATIC_PERCENTILES) if inside.size else (0.0, 1.0)
    return {"automatic": _rising(float(low), float(high)), "full": _rising(*_extent(values))}


def _error_limit(reference: Mapping[str, Any]) -> float:
    """The error of full colour: fixed in HU, else a round number of a tenth of the contrast."""
    if reference["units"] == "HU":
        return ERROR_LIMIT_HU
    low, high = reference["automatic"]
    tenth = (high - low) / 10
    power = 10.0 ** math.floor(math.log10(tenth))
    return next(step * power for step in (10, 5, 2, 1) if step * power <= tenth * 1.001)


def _extent(values: NDArray[np.float32]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _rising(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low, low + 1)


def _packed(values: NDArray[np.uint8]) -> PackedVoxels:
    """Deflate bytes; int16 comes split into low and high bytes, which saves a fifth (noisy CT)."""
    data = values.tobytes()
    text = base64.b64encode(zlib.compress(data, 6)).decode()
    return PackedVoxels(hashlib.sha256(data).hexdigest()[:20], text)
