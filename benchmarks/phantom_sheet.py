"""Draw twelve phantom subjects, MR and CT, on one sheet: ``docs/images/phantoms.png``.

Run from the checkout: ``python benchmarks/phantom_sheet.py [OUTPUT.png]``
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medp2p.phantom import Anatomy, Contrast, Phantom, case_seed, make_phantom
from medp2p.volume import Volume, reorient

Level = tuple[int, float]
"""Axis (0 left-right, 1 front-back, 2 feet-head) and world coordinate of a slice in mm."""

AXIAL, CORONAL, SAGITTAL = 2, 1, 0
SERIES_SEED = 2025
EXTENT_MM = {"head": (200.0, 250.0, 222.0), "pelvis": (400.0, 290.0, 250.0)}
MIDDLE_MM = {"head": (0.0, 4.0, -17.0), "pelvis": (0.0, -4.0, 20.0)}
SPACING_MM = {"head": 1.25, "pelvis": 1.9}
CT_WINDOW_HU = {"head": (-700.0, 1500.0), "pelvis": (-350.0, 800.0)}
SUBJECTS: tuple[tuple[Anatomy, Contrast, tuple[Level, Level]], ...] = (
    ("head", "t1", ((AXIAL, 14.0), (SAGITTAL, 1.0))),
    ("head", "t1", ((AXIAL, -30.0), (CORONAL, 62.0))),
    ("head", "t2", ((AXIAL, 22.0), (SAGITTAL, 30.0))),
    ("head", "t1", ((AXIAL, -60.0), (CORONAL, -8.0))),
    ("head", "pd", ((AXIAL, -40.0), (SAGITTAL, -3.0))),
    ("head", "t1", ((AXIAL, -91.0), (CORONAL, 40.0))),
    ("pelvis", "t1", ((AXIAL, 4.0), (CORONAL, 0.0))),
    ("pelvis", "t2", ((AXIAL, 34.0), (SAGITTAL, 0.0))),
    ("pelvis", "t1", ((AXIAL, 72.0), (CORONAL, 24.0))),
    ("pelvis", "t1", ((AXIAL, -30.0), (SAGITTAL, 4.0))),
    ("pelvis", "t2", ((AXIAL, 100.0), (CORONAL, -30.0))),
    ("pelvis", "t1", ((AXIAL, -75.0), (SAGITTAL, 86.0))),
)


def slab(anatomy: Anatomy, seed: int, contrast: Contrast, level: Level) -> Phantom:
    """A few slices of a subject around one level."""
    axis, at = level
    spacing = SPACING_MM[anatomy]
    shape = [round(extent / spacing) for extent in EXTENT_MM[anatomy]]
    middle = list(MIDDLE_MM[anatomy])
    shape[axis], middle[axis] = 5, at
    return make_phantom(
        anatomy,
        seed,
        shape=(shape[0], shape[1], shape[2]),
        spacing_mm=(spacing, spacing, spacing),
        centre_mm=(middle[0], middle[1], middle[2]),
        contrasts=(contrast,),
    )


def middle_slice(volume: Volume, axis: int) -> NDArray[Any]:
    """The middle slice as a picture, the patient's right on its left, head or front up."""
    array = reorient(volume, "LAS").array
    return np.rot90(np.take(array, array.shape[axis] // 2, axis))


def draw(axes: Any, picture: NDArray[Any], low: float, high: float) -> None:
    """One panel."""
    axes.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axes.axis("off")


def main(output: Path) -> None:
    """Draw the sheet: columns are subjects, rows MR, CT, MR, CT of heads, then of pelves."""
    heights = [1.2, 1.2, 1.05, 1.05, 0.72, 0.72, 0.66, 0.66]
    figure, axes = plt.subplots(8, 6, figsize=(11, 13.6), height_ratios=heights, facecolor="black")
    for number, (anatomy, contrast, levels) in enumerate(SUBJECTS):
        first_row, column = (0 if anatomy == "head" else 4), number % 6
        for which, level in enumerate(levels):
            subject = slab(anatomy, case_seed(SERIES_SEED, number), contrast, level)
            mr = middle_slice(subject.mr[contrast], level[0])
            row = first_row + 2 * which
            draw(axes[row, column], mr, 0, float(np.percentile(mr, 99.7)))
            draw(axes[row + 1, column], middle_slice(subject.ct, level[0]), *CT_WINDOW_HU[anatomy])
        axes[first_row, column].text(
            0.03,
            0.97,
            f"{anatomy} {number % 6 + 1}, {contrast.upper()}",
            color="white",
            fontsize=9,
            verticalalignment="top",
            transform=axes[first_row, column].transAxes,
        )
    figure.subplots_adjust(0.002, 0.002, 0.998, 0.998, 0.01, 0.01)
    output.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, facecolor="black")
    Image.open(buffer).convert("L").save(output, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/images/phantoms.png"))
