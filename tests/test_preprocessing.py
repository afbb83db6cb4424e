from __future__ import annotations

import numpy as np
import pytest
from conftest import make_pair, oblique_affine
from scipy import ndimage

from medp2p.config import ImageSettings, PreprocessingSettings
from medp2p.errors import GeometryError, ImageReadError
from medp2p.preprocessing import (
    CODES_PER_UNIT,
    body_mask,
    carry_mask,
    check_mask,
    check_modality,
    decode,
    encode,
    find_value_range,
    from_unit,
    prepare_source,
    resample,
    to_unit,
    training_grid,
)
from medp2p.volume import Grid, Volume

CT = ImageSettings(modality="CT")
MR = ImageSettings(modality="MR")


def centre_mm(grid: Grid) -> np.ndarray:
    return grid.affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + grid.affine[:3, 3]


def test_training_grid_keeps_centre_and_axes_and_has_the_spacing():
    grid = Grid((31, 40, 17), oblique_affine())
    new = training_grid(grid, PreprocessingSettings(spacing_mm=(0.7, 2.0, None)))
    np.testing.assert_allclose(new.spacing_mm, [0.7, 2.0, 2.5])
    np.testing.assert_allclose(centre_mm(new), centre_mm(grid), atol=1e-9)
    assert new.shape == (round(31 / 0.7), round(40 * 1.2 / 2), 17)
    directions = new.affine[:3, :3] / new.spacing_mm
    np.testing.assert_allclose(directions, grid.affine[:3, :3] / grid.spacing_mm)


def test_training_grid_is_ras_whatever_the_input():
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    new = training_grid(Grid((10, 12, 5), affine), PreprocessingSettings())
    assert new.orientation == "RAS"


def test_resample_agrees_with_scipy_on_an_oblique_pair_of_grids():
    rng = np.random.default_rng(1)
    volume = Volume(rng.normal(size=(20, 22, 12)), oblique_affine())
    grid = Grid((18, 15, 14), oblique_affine((1.3, 1.1, 1.9), (3, 4, -8), (-27, 14, 7)))
    sampled = resample(volume, grid, outside=-7)
    matrix = np.linalg.inv(volume.affine) @ grid.affine
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"))
    position = np.einsum("ab,bijk->aijk", matrix[:3, :3], index) + matrix[:3, 3, None, None, None]
    expected = ndimage.map_coordinates(volume.array, position, order=1, mode="nearest")
    last = np.array(volume.shape).reshape(3, 1, 1, 1) - 1
    inside = ((position >= 0) & (position <= last)).all(axis=0)
    far = ((position < -0.51) | (position > last + 0.51)).any(axis=0)
    assert 0.1 < inside.mean() < 0.9
    np.testing.assert_allclose(sampled[inside], expected[inside], atol=1e-5)
    assert (sampled[far] == -7).all()


def test_resample_to_other_axes_changes_no_value():
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    volume = Volume(array, np.diag([-1.0, 1.0, -2.0, 1.0]))
    grid = training_grid(volume.grid, PreprocessingSettings(spacing_mm=(None, None, None)))
    sampled = resample(volume, grid)
    assert sampled.dtype == np.int16
    np.testing.assert_array_equal(sampled, array[::-1, :, ::-1])


def test_unit_range_and_back():
    hu = np.array([-2000, -1024, 0, 3071, 5000], dtype=np.float32)
    unit = to_unit(hu, CT.hu_range, CT)
    np.testing.assert_allclose(unit, [-1, -1, -1 + 2 * 1024 / 4095, 1, 1], atol=1e-6)
    np.testing.assert_allclose(from_unit(unit, CT.hu_range), hu.clip(-1024, 3071), atol=1e-3)
    with pytest.raises(ValueError, match="rise"):
        to_unit(hu, (1.0, 1.0), CT)


def test_codes_keep_every_whole_hu():
    hu = np.arange(-1024, 3072, dtype=np.int16)
    codes = encode(to_unit(hu, CT.hu_range, CT))
    back = np.rint(from_unit(decode(codes), CT.hu_range)).astype(np.int16)
    np.testing.assert_array_equal(back, hu)


def test_bright_mr_is_kept_beyond_the_percentile_and_fits_int16():
    unit = to_unit(np.array([0.0, 100.0, 140.0, 1e6]), (0.0, 100.0), MR)
    np.testing.assert_allclose(unit, [-1, 1, 1.8, 1.99], atol=1e-6)
    assert encode(unit).max() < 2 * CODES_PER_UNIT


def test_mr_range_is_that_of_the_body_alone():
    mr, _, body = make_pair(0)
    volume = Volume(mr, np.eye(4))
    low, high = find_value_range(volume, body > 0, MR)
    assert (low, high) == tuple(np.percentile(mr[body > 0], (0.5, 99.5)))
    assert low != np.percentile(mr, 0.5)
    with pytest.raises(ImageReadError, match="contrast"):
        find_value_range(volume.with_array(np.full_like(mr, 3)), body > 0, MR)


@pytest.mark.parametrize("spacing", [1.0, 0.6, 4.0])
def test_body_masks_find_the_body(spacing):
    mr, ct, body = make_pair(3, (60, 60, 30))
    affine = np.diag([spacing, spacing, spacing, 1])
    for image, modality in ((mr, "MR"), (ct, "CT")):
        found = body_mask(Volume(image, affine), modality)
        dice = 2 * np.sum(found & (body > 0)) / (found.sum() + (body > 0).sum())
        assert dice > 0.95, modality
        assert found[33, 32, 15]  # the air inside belongs to the body


def test_a_body_mask_of_nothing_is_refused():
    with pytest.raises(ImageReadError, match="no body"):
        body_mask(Volume(np.zeros((9, 9, 9), np.float32), np.eye(4)), "MR")
    with pytest.raises(ImageReadError, match="no body"):
        body_mask(Volume(np.full((9, 9, 9), -1000, np.int16), np.eye(4)), "CT")


def test_swapped_modalities_are_refused():
    mr, ct, _ = make_pair(0)
    check_modality(Volume(mr, np.eye(4)), MR, "source")
    check_modality(Volume(ct, np.eye(4)), CT, "target")
    with pytest.raises(ImageReadError, match="not CT numbers"):
        check_modality(Volume(mr, np.eye(4)), CT, "target")
    with pytest.raises(ImageReadError, match="look like a CT"):
        check_modality(Volume(ct, np.eye(4)), MR, "source")
    brain_window = ImageSettings(modality="CT", hu_range=(-60, 60))
    check_modality(Volume(mr, np.eye(4)), brain_window, "source")
    with pytest.raises(ImageReadError, match="this is CT"):
        check_modality(Volume(mr, np.eye(4), modality="CT"), MR, "source")


def test_masks_on_another_grid_or_empty_are_refused():
    image = Volume(np.ones((8, 8, 8)), np.eye(4))
    flipped = Volume(np.ones((8, 8, 8)), np.diag([-1.0, 1, 1, 1]))
    flipped_in_place = Volume(
        np.ones((8, 8, 8)), flipped.affine + 7 * np.eye(4)[[0]].T @ [[0, 0, 0, 1]]
    )
    assert check_mask(flipped_in_place, image).all()
    with pytest.raises(GeometryError, match="not on the grid"):
        check_mask(flipped, image)
    with pytest.raises(ImageReadError, match="0 voxels"):
        check_mask(image.with_array(np.zeros((8, 8, 8))), image)


def test_images_that_do_not_overlap_are_refused():
    image = Volume(np.ones((8, 8, 8)), np.eye(4))
    far = Volume(
        np.ones((8, 8, 8)), np.diag([1.0, 1, 1, 1]) + np.array([[0, 0, 0, 6]] + [[0] * 4] * 3)
    )
    body = np.ones((8, 8, 8), dtype=bool)
    with pytest.raises(GeometryError, match="25%"):
        carry_mask(body, image, far)
    near = Volume(far.array, np.diag([1.0, 1, 1, 1]) + np.array([[0, 0, 0, 3]] + [[0] * 4] * 3))
    np.testing.assert_array_equal(carry_mask(body, image, near)[:5], True)
    np.testing.assert_array_equal(carry_mask(body, image, near)[5:], False)


def test_prepared_source_is_feet_to_head_first():
    array = np.zeros((6, 7, 8), np.float32)
    array[2, 3, 4] = 100
    array += np.random.default_rng(0).uniform(0, 1, array.shape).astype(np.float32)
    volume = Volume(array, np.diag([-1.0, -1.0, 1.0, 1.0]))
    settings = PreprocessingSettings(spacing_mm=(None, None, None))
    prepared = prepare_source(volume, np.ones(array.shape, bool), settings)
    assert prepared.codes.dtype == np.int16
    assert prepared.codes.shape == (8, 7, 6)
    k, j, i = np.unravel_index(prepared.codes.argmax(), prepared.codes.shape)
    world = prepared.grid.affine @ [i, j, k, 1]
    np.testing.assert_allclose(world, volume.affine @ [2, 3, 4, 1])
