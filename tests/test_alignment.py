from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import oblique_affine
from scipy.spatial.transform import Rotation

from medp2p.alignment import (
    Alignment,
    move_points,
    place,
    read_alignment,
    resample_aligned,
    write_alignment,
)
from medp2p.errors import ImageReadError, OutputError
from medp2p.preprocessing import resample
from medp2p.volume import Grid, Volume

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def rigid(degrees=(20.0, -35.0, 160.0), shift_mm=(31.0, -7.5, 60.25)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return matrix


def bend(grid: Grid, seed: int = 4, strength_mm: float = 3.0) -> sitk.BSplineTransform:
    """A smooth deformation over the grid's box in LPS."""
    corners = grid.corners_mm * (-1, -1, 1)
    box = sitk.Image(4, 4, 4, sitk.sitkUInt8)
    low, high = corners.min(axis=0) - 20, corners.max(axis=0) + 20
    box.SetOrigin(low.tolist())
    box.SetSpacing(((high - low) / 3).tolist())
    transform = sitk.BSplineTransformInitializer(box, [3, 3, 3])
    rng = np.random.default_rng(seed)
    transform.SetParameters(rng.normal(0, strength_mm, len(transform.GetParameters())).tolist())
    return transform


def to_sitk(volume: Volume) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.T.astype(np.float32)))
    affine = LPS @ volume.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


@pytest.fixture
def moving() -> Volume:
    rng = np.random.default_rng(3)
    affine = oblique_affine((1.1, 1.4, 2.0), (5, 40, -12), (4, 9, -30))
    return Volume(rng.normal(size=(24, 20, 14)), affine)


@pytest.fixture
def fixed_grid(moving: Volume) -> Grid:
    """An oblique grid that overlaps the moving image once that is turned by `rigid`."""
    affine = oblique_affine((1.5, 1.2, 1.3), (-8, 3, 25), (0, 0, 0))
    centre = moving.affine @ [12, 10, 7, 1]
    wanted = (np.linalg.inv(rigid()) @ centre)[:3]
    affine[:3, 3] = wanted - affine[:3, :3] @ [8, 9, 8]
    return Grid((17, 19, 18), affine)


@pytest.mark.parametrize("deformed", [False, True])
def test_resampling_agrees_with_itk_on_oblique_grids(tmp_path, moving, fixed_grid, deformed):
    alignment = Alignment(rigid(), bend(fixed_grid) if deformed else None)
    write_alignment(tmp_path / "a.tfm", alignment)
    reference = to_sitk(Volume(np.zeros(fixed_grid.shape), fixed_grid.affine))
    expected = sitk.GetArrayFromImage(
        sitk.Resample(
            to_sitk(moving),
            reference,
            sitk.ReadTransform(str(tmp_path / "a.tfm")),
            sitk.sitkLinear,
            -7.0,
        )
    ).T
    sampled = resample_aligned(moving, alignment, fixed_grid, outside=-7)
    inside = expected != -7
    assert 0.2 < inside.mean() < 1
    assert (inside == (sampled != -7)).mean() > 0.999
    both = inside & (sampled != -7)
    np.testing.assert_allclose(sampled[both], expected[both], atol=2e-4)
    other = resample_aligned(moving, Alignment(rigid((21, -35, 160))), fixed_grid, outside=-7)
    assert np.abs(other - expected)[both].mean() > 0.01


def test_without_a_deformation_it_is_the_placed_volume_resampled(moving, fixed_grid):
    alignment = Alignment(rigid())
    np.testing.assert_array_equal(
        resample_aligned(moving, alignment, fixed_grid),
        resample(place(moving, alignment), fixed_grid),
    )


def test_the_identity_changes_no_voxel(moving):
    assert Alignment.identity().is_identity
    assert not Alignment(rigid()).is_identity
    assert place(moving, Alignment.identity()) is moving
    same = resample_aligned(moving, Alignment.identity(), moving.grid)
    np.testing.assert_array_equal(same, moving.array)


def test_placing_moves_every_voxel_to_where_the_alignment_says(moving):
    alignment = Alignment(rigid())
    placed = place(moving, alignment)
    assert placed.array is moving.array
    np.testing.assert_allclose(
        move_points(placed.grid.corners_mm, alignment), moving.grid.corners_mm, atol=1e-9
    )


def test_moving_points_applies_the_deformation_first(fixed_grid):
    deformation = bend(fixed_grid)
    points = fixed_grid.corners_mm
    lps = np.array([deformation.TransformPoint((p * (-1, -1, 1)).tolist()) for p in points])
    expected = np.c_[lps * (-1, -1, 1), np.ones(8)] @ rigid().T
    moved = move_points(points, Alignment(rigid(), deformation))
    np.testing.assert_allclose(moved, expected[:, :3], atol=1e-9)
    assert np.abs(moved - move_points(points, Alignment(rigid()))).max() > 0.5


def test_masks_keep_their_dtype(moving, fixed_grid):
    mask = moving.with_array(moving.array > 0)
    sampled = resample_aligned(mask, Alignment(rigid()), fixed_grid, outside=0, nearest=True)
    assert sampled.dtype == np.bool_
    assert 0 < sampled.mean() < 1


@pytest.mark.parametrize("deformed", [False, True])
def test_a_file_keeps_every_bit(tmp_path, fixed_grid, deformed):
    alignment = Alignment(rigid((1 / 3, 2 / 7, 0.1)), bend(fixed_grid) if deformed else None)
    write_alignment(tmp_path / "a.tfm", alignment)
    read = read_alignment(tmp_path / "a.tfm")
    np.testing.assert_array_equal(read.matrix, alignment.matrix)
    assert (read.deformation is None) != deformed
    if read.deformation is not None and alignment.deformation is not None:
        assert read.deformation.GetParameters() == alignment.deformation.GetParameters()
    write_alignment(tmp_path / "b.tfm", read)
    assert (tmp_path / "a.tfm").read_bytes() == (tmp_path / "b.tfm").read_bytes()


def test_an_existing_file_is_not_replaced_unasked(tmp_path):
    write_alignment(tmp_path / "a.tfm", Alignment(rigid()))
    with pytest.raises(OutputError, match="exists already"):
        write_alignment(tmp_path / "a.tfm", Alignment.identity())
    write_alignment(tmp_path / "a.tfm", Alignment.identity(), overwrite=True)
    assert read_alignment(tmp_path / "a.tfm").is_identity


def test_linear_transforms_of_other_kinds_are_read(tmp_path):
    euler = sitk.Euler3DTransform((5.0, -3.0, 8.0), 0.3, -0.2, 2.0, (10.0, 20.0, -30.0))
    shift = sitk.TranslationTransform(3, (1.0, 2.0, 3.0))
    sitk.WriteTransform(sitk.CompositeTransform([euler, shift]), str(tmp_path / "a.tfm"))
    read = read_alignment(tmp_path / "a.tfm")
    assert read.deformation is None
    points = np.random.default_rng(0).normal(0, 50, (5, 3))
    expected = [
        euler.TransformPoint(shift.TransformPoint((p * (-1, -1, 1)).tolist())) for p in points
    ]
    np.testing.assert_allclose(move_points(points, read), np.array(expected) * (-1, -1, 1))


def test_damaged_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "a.tfm"
    with pytest.raises(ImageReadError, match="no such transform file"):
        read_alignment(path)
    write_alignment(path, Alignment(rigid()))
    whole = path.read_text()
    words = whole.replace("Parameters: -", "Parameters: minus", 1)
    missing = whole.replace(" -31 ", " ")
    cuts = [whole[:length] for length in range(0, len(whole), 7)]
    for text in (words, missing, "not a transform\n", whole[:-1], *cuts):
        path.write_text(text)
        with pytest.raises(ImageReadError, match=r"is no transform|not finite|damaged") as info:
            read_alignment(path)
        assert "\n" not in str(info.value)
    flat = sitk.AffineTransform(3)
    flat.SetMatrix((1, 0, 0, 0, 1, 0, 0, 0, 0))
    sitk.WriteTransform(flat, str(path))
    with pytest.raises(ImageReadError, match="flattens space"):
        read_alignment(path)
    sitk.WriteTransform(sitk.AffineTransform(2), str(path))
    with pytest.raises(ImageReadError, match="2 dimensions"):
        read_alignment(path)


def test_a_matrix_that_is_no_affine_is_refused():
    for matrix in (np.eye(3), np.zeros((4, 4)), np.full((4, 4), np.nan)):
        with pytest.raises(ValueError, match="an alignment's matrix"):
            Alignment(matrix)
