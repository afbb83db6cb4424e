"""Every picture of a volume is turned the same way: checked with a head whose face is known."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from medp2p.alignment import Alignment
from medp2p.report.pair_picture import ROWS, pair_picture
from medp2p.report.planes import shown_axes, shown_slice
from medp2p.volume import Volume, reorient

LETTERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
"""At the left, right, top and bottom of each plane."""
BRIGHT = 1000
NOSE = (20, 46, 12)
"""Index of the nose's tip: in the middle, at the front, below the middle."""


def faced_head() -> Volume:
    """A ball with a nose in front, an ear on its right only, and a dense crown; RAS, (40, 48, 36).

    Voxels are 1 × 1 × 1.5 mm; values 0, 300 (the ball) and `BRIGHT` (nose, ear, crown).
    """
    i, j, k = np.indices((40, 48, 36), float)
    array = np.where((i - 20) ** 2 + (j - 24) ** 2 + (1.5 * (k - 18)) ** 2 < 16**2, 300, 0)
    array[18:22, 38:47, 10:14] = BRIGHT
    array[34:39, 22:26, 16:20] = BRIGHT
    array[18:22, 22:26, 27:30] = BRIGHT
    return Volume(array.astype(np.int16), np.diag([1, 1, 1.5, 1.0]), "MR")


def bright_sides(picture: np.ndarray, threshold: float) -> tuple[float, float]:
    """Mean row and column of what is bright, from -1 (top, left) to 1."""
    rows, columns = np.nonzero(picture > threshold)
    height, width = picture.shape
    return 2 * rows.mean() / (height - 1) - 1, 2 * columns.mean() / (width - 1) - 1


def test_slices_are_turned_as_radiologists_look_at_them():
    head = faced_head().array
    row, column = bright_sides(shown_slice(head, "sagittal", NOSE[0])[14:], 500)  # without crown
    assert column < -0.6, "the face is on the left"
    row, _ = bright_sides(shown_slice(head, "sagittal", NOSE[0])[:, 20:], 500)
    assert row < -0.5, "the crown is at the top"
    _, column = bright_sides(shown_slice(head, "axial", 18), 500)
    assert column < -0.6, "the right ear is on the left"
    row, _ = bright_sides(shown_slice(head, "axial", NOSE[2]), 500)
    assert row < -0.6, "the nose is at the top"
    row, column = bright_sides(shown_slice(head, "coronal", 24), 500)
    assert row < 0
    assert column < -0.1


@pytest.mark.parametrize("plane", ROWS)
def test_axes_run_from_the_letters(plane):
    down, across = shown_axes(plane)
    assert f"{'RAS'[across]}{'LPI'[across]}{'RAS'[down]}{'LPI'[down]}" == LETTERS[plane]
    assert shown_slice(faced_head().array, plane, 3).shape == (
        faced_head().shape[down],
        faced_head().shape[across],
    )


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR"])
def test_the_pair_picture_is_turned_the_same_way(orientation):
    """Nose, ear and crown are where `shown_slice` puts them, however the file is stored."""
    head = faced_head()
    stored = reorient(head, orientation)
    picture = Image.open(
        io.BytesIO(pair_picture(stored, stored, stored.array > 0, Alignment.identity()))
    )
    shown = np.asarray(picture.convert("L"), float)
    sagittal = shown[-shown.shape[0] // 3 :, : shown.shape[1] // 4]
    columns = np.flatnonzero(sagittal.max(axis=0) > 30)
    lower = sagittal[sagittal.shape[0] // 2 :, columns[0] : columns[-1] + 1]
    _, column = bright_sides(lower, 200)
    assert column < -0.6, "the nose of the sagittal plane is on the left"
