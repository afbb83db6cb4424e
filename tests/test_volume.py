"""Volume and Grid: geometry derived from the affine, against SimpleITK."""

from __future__ import annotations

import subprocess
import sys
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from medp2p.errors import GeometryError
from medp2p.volume import GRID_TOLERANCE_MM, Grid, Volume, reorient

SHAPE = (5, 4, 3)
ORIENTATIONS = [
    "".join(letters[axis] for axis in order)
    for order in permutations(range(3))
    for letters in product("RL", "AP", "SI")
]


def oblique_affine() -> NDArray[np.float64]:
    cosine, sine = np.cos(0.4), np.sin(0.4)
    rotation = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ tilt * (0.7, 1.1, 3.3)
    affine[:3, 3] = (-40, 12.5, 900)
    return affine


def positions(shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def moved(affine: NDArray[np.float64], offset: Any) -> NDArray[np.float64]:
    result = affine.copy()
    result[:3, 3] += offset
    return result


def test_grid_of_an_oblique_image() -> None:
    grid = Grid(SHAPE, oblique_affine())
    np.testing.assert_allclose(grid.spacing_mm, (0.7, 1.1, 3.3))
    every = positions(SHAPE, grid.affine)
    corners = every[:: SHAPE[0] - 1, :: SHAPE[1] - 1, :: SHAPE[2] - 1].reshape(8, 3)
    np.testing.assert_allclose(grid.corners_mm, corners)
    assert grid.corners_mm.shape == (8, 3)


def test_corners_of_a_single_voxel_coincide() -> None:
    grid = Grid((1, 1, 1), oblique_affine())
    np.testing.assert_allclose(grid.corners_mm, np.tile((-40, 12.5, 900), (8, 1)))


def test_grids_do_not_change() -> None:
    affine = oblique_affine()
    volume = Volume(np.zeros(SHAPE), affine)
    affine[0, 3] = 0
    assert volume.affine[0, 3] == -40
    with pytest.raises(ValueError, match="read-only"):
        volume.affine[0, 3] = 0


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Grid(SHAPE, oblique_affine()), None),
        (Grid(SHAPE, moved(oblique_affine(), (0, 0, 0.9 * GRID_TOLERANCE_MM))), None),
        (Grid(SHAPE, moved(oblique_affine(), (0, 0, 0.5))), "positions up to 0.5 mm apart"),
        (Grid((5, 4, 4), oblique_affine()), "size 5×4×3 against 5×4×4"),
        (Grid(SHAPE, oblique_affine() @ np.diag([1, 1, 1.1, 1])), "spacing 0.7 × 1.1 × 3.3"),
        (Grid(SHAPE, oblique_affine() @ np.diag([-1, 1, 1, 1])), "orientation RAS against LAS"),
    ],
)
def test_difference_in_words(other: Grid, words: str | None) -> None:
    difference = Grid(SHAPE, oblique_affine()).difference(other)
    assert (difference is None) if words is None else (words in str(difference))


@pytest.mark.parametrize(
    ("shape", "affine"),
    [
        ((5, 4), np.eye(4)),
        ((5, 4, 0), np.eye(4)),
        ((5, 4, 3), np.eye(3)),
        ((5, 4, 3), np.diag([1, 1, 1, 2])),
    ],
)
def test_no_grid(shape: Any, affine: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match=r"a grid has three axes|an affine"):
        Grid(shape, affine)


@pytest.mark.parametrize("array", [np.zeros((2, 2)), np.zeros((2, 2, 2, 2)), np.zeros((0, 1, 1))])
def test_no_volume(array: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="three axes"):
        Volume(array, np.eye(4))


@pytest.mark.parametrize("code", [0, 6, -1])
def test_no_known_space(code: int) -> None:
    with pytest.raises(ValueError, match="1 to 5"):
        Volume(np.zeros(SHAPE), np.eye(4), nifti_code=code)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_affine_of_no_numbers(value: float) -> None:
    with pytest.raises(GeometryError, match=r"scan\.nii: the affine holds NaN"):
        Volume(np.zeros(SHAPE), np.diag([value, 1, 1, 1]), path=Path("scan.nii"))


def test_flat_affine() -> None:
    with pytest.raises(GeometryError, match="flattens space"):
        Volume(np.zeros(SHAPE), np.diag([1.0, 1, 0, 1]))


def test_with_array() -> None:
    volume = Volume(np.zeros(SHAPE), np.eye(4), "MR", path=Path("mr.nii"), nifti_code=4)
    other = volume.with_array(np.ones(SHAPE), modality="CT", units="HU")
    assert (other.modality, other.units, other.nifti_code) == ("CT", "HU", 4)
    assert other.array[0, 0, 0] == 1
    with pytest.raises(ValueError, match="on a grid of"):
        volume.with_array(np.ones((4, 4, 4)))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_reorient_as_itk_does(orientation: str) -> None:
    """Voxels and their places, from an oblique image to each of the 48 axis orders."""
    affine = oblique_affine()
    array = np.random.default_rng(1).normal(size=SHAPE)
    volume = reorient(Volume(array, affine), orientation)
    assert volume.orientation == orientation
    assert np.shares_memory(volume.array, array)

    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3]
    spacing = np.array((0.7, 1.1, 3.3))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:, 3].tolist())
    turned = sitk.DICOMOrient(image, orientation)
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(turned).transpose(2, 1, 0))
    for index in [(0, 0, 0), tuple(n - 1 for n in volume.shape)]:
        point = turned.TransformIndexToPhysicalPoint([int(n) for n in index])
        place = volume.affine @ (*index, 1)
        np.testing.assert_allclose(place[:3], np.multiply(point, (-1, -1, 1)), atol=1e-9)


def test_reorient_and_back_changes_nothing() -> None:
    volume = Volume(np.random.default_rng(1).normal(size=SHAPE), oblique_affine(), "CT", "HU")
    for orientation in ORIENTATIONS:
        back = reorient(reorient(volume, orientation), volume.orientation)
        np.testing.assert_array_equal(back.array, volume.array)
        np.testing.assert_allclose(back.affine, volume.affine, atol=1e-9)
        assert (back.modality, back.units) == ("CT", "HU")


def test_orientations_differ() -> None:
    volume = Volume(np.random.default_rng(1).normal(size=(4, 4, 4)), np.eye(4))
    assert not np.array_equal(reorient(volume, "LAS").array, volume.array)
    assert not np.array_equal(reorient(volume, "ARS").array, volume.array)


@pytest.mark.parametrize("orientation", ["RAX", "RLS", "RA", "", "RASS", "ras"])
def test_no_orientation(orientation: str) -> None:
    with pytest.raises(ValueError, match="orientation"):
        reorient(Volume(np.zeros(SHAPE), np.eye(4)), orientation)


def test_volume_is_light_to_import() -> None:
    heavy = ["torch", "SimpleITK", "scipy.ndimage", "pydantic"]
    code = f"import sys, medp2p.volume; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
