from __future__ import annotations

import numpy as np
import pytest
from conftest import make_pair, oblique_affine
from scipy import ndimage

from medp2p.config import ImageSettings, PreprocessingSettings, load_config
from medp2p.errors import ConfigError, GeometryError, ImageReadError
from medp2p.intensity import standard_knots, standardize
from medp2p.preprocessing import (
    CODES_PER_UNIT,
    body_mask,
    carry_mask,
    case_landmarks,
    check_mask,
    check_modality,
    correct_bias,
    decode,
    encode,
    field_of_view,
    find_value_range,
    fit_landmarks,
    from_unit,
    metal_voxels,
    padding_value,
    prepare_onto,
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


def test_padding_is_recognized_and_nothing_else_is():
    rng = np.random.default_rng(0)
    air = rng.normal(-1000, 30, (20, 20, 10)).clip(-1024, None)
    ct = Volume(air.astype(np.int16), np.eye(4), modality="CT")
    assert padding_value(ct) is None
    padded = ct.array.copy()
    padded[:2] = -3024
    assert padding_value(ct.with_array(padded)) == -3024
    assert padding_value(ct.with_array(np.where(air < -1023, -1024, 40))) is None
    mr = Volume(rng.uniform(0, 500, (20, 20, 10)), np.eye(4), modality="MR")
    assert padding_value(mr) is None
    around_zero = mr.with_array(rng.normal(0, 1, (20, 20, 10)).clip(-2, None))
    assert padding_value(around_zero) is None
    padded = mr.array.copy()
    padded[:, :, -1] = -1000
    assert padding_value(mr.with_array(padded)) == -1000
    padded = mr.array.copy()
    padded[5:9, 5:9, 5] = -1000  # does not reach the border
    assert padding_value(mr.with_array(padded)) is None


@pytest.mark.parametrize("padding", [-2000, -3024, -32768])
def test_padded_ct_becomes_air_and_disturbs_no_neighbour(padding):
    _, ct, body = make_pair(1)
    ct = np.maximum(ct, -1024)
    padded = ct.copy()
    padded[:3] = padding
    air = np.where(np.arange(40)[:, None, None] < 3, -1024, ct).astype(np.int16)
    grid = training_grid(Grid(ct.shape, np.eye(4)), PreprocessingSettings(spacing_mm=(0.7, 0.7, 1)))
    of_padded, of_air = (
        prepare_onto(Volume(array, np.eye(4)), body > 0, CT, grid).codes for array in (padded, air)
    )
    np.testing.assert_array_equal(of_padded, of_air)
    shown = field_of_view(Volume(padded, np.eye(4)), Grid(ct.shape, np.eye(4)), "CT")
    assert not shown[:3].any()
    assert shown[3:].all()


def test_padding_inside_the_mask_counts_for_no_percentile():
    mr, _, body = make_pair(1)
    body = body > 0
    body[:4] = True
    padded = mr.copy()
    padded[:4] = -5000
    kept = body.copy()
    kept[:4] = False
    settings = PreprocessingSettings(spacing_mm=(None, None, None))
    found = prepare_source(Volume(padded, np.eye(4)), body, settings)
    assert found.value_range == find_value_range(Volume(mr, np.eye(4)), kept, MR)


def test_metal_is_counted():
    ct = np.zeros((5, 5, 5), np.int16)
    ct[2, 2, 1:4] = (2999, 3000, 3071)
    assert metal_voxels(Volume(ct, np.eye(4))).sum() == 2


def test_zscore_maps_deviations_linearly():
    mr, _, body = make_pair(2)
    settings = ImageSettings(standardization="zscore", zscore_range=(-2, 4))
    low, high = find_value_range(Volume(mr, np.eye(4)), body > 0, settings)
    inside = mr[body > 0].astype(np.float64)
    np.testing.assert_allclose(low, inside.mean() - 2 * inside.std(), rtol=1e-6)
    np.testing.assert_allclose(high, inside.mean() + 4 * inside.std(), rtol=1e-6)
    with pytest.raises(ImageReadError, match="contrast"):
        find_value_range(Volume(np.full_like(mr, 3), np.eye(4)), body > 0, settings)


NYUL = ImageSettings(standardization="nyul")


def fitted(volumes, masks, settings=NYUL):
    marks = [case_landmarks(v, m, settings) for v, m in zip(volumes, masks, strict=True)]
    return settings.model_copy(update={"landmarks": fit_landmarks(marks)})


def test_nyul_undoes_a_rising_change_of_the_scale():
    pairs = [make_pair(seed) for seed in range(4)]
    volumes = [Volume(mr, np.eye(4)) for mr, _, _ in pairs]
    masks = [body > 0 for _, _, body in pairs]
    settings = PreprocessingSettings(source=fitted(volumes, masks), spacing_mm=(None, None, None))
    other = volumes[0].with_array((volumes[0].array / 100) ** 1.5)
    same, changed = (
        decode(prepare_source(v, masks[0], settings).codes)[masks[0].transpose(2, 1, 0)]
        for v in (volumes[0], other)
    )
    assert np.abs(same - changed).mean() < 0.03
    plain = PreprocessingSettings(spacing_mm=(None, None, None))
    by_percentile = [
        decode(prepare_source(v, masks[0], plain).codes)[masks[0].transpose(2, 1, 0)]
        for v in (volumes[0], other)
    ]
    assert np.abs(by_percentile[0] - by_percentile[1]).mean() > 0.06


def test_the_standard_scale_is_the_mean_of_the_images():
    assert fit_landmarks([(0, 2, 10), (10, 16, 20)]) == (0.0, pytest.approx(40, abs=0.1), 100.0)
    assert fit_landmarks([(0, 0, 0, 9), (5, 5, 5, 6)])[1:3] == pytest.approx(
        (0.033, 0.067), abs=1e-3
    )
    with pytest.raises(ValueError, match="rising"):
        fit_landmarks([(3, 3, 3)])
    with pytest.raises(ValueError, match="at least one"):
        fit_landmarks([])


@pytest.mark.parametrize("marks", [(3, 5, 9, 20), (0, 0, 0, 1), (0, 5, 5, 7), (0, 7, 7, 7)])
def test_the_map_rises_and_can_be_undone(marks):
    own, scale = standard_knots(marks, (0, 20, 70, 100))
    assert (np.diff(own) > 0).all()
    assert (np.diff(scale) > 0).all()
    assert (scale[0], scale[-1]) == (0, 100)
    values = np.linspace(own[0] - 5, own[-1] + 5, 200).reshape(2, 100)
    mapped = standardize(values, (own, scale))
    assert (np.diff(mapped.ravel()) > 0).all()
    inside = (values >= own[0]) & (values <= own[-1])
    back = np.interp(mapped[inside], scale, own)
    np.testing.assert_allclose(back, values[inside], atol=1e-5)


def test_unfitted_landmarks_are_refused():
    mr, _, body = make_pair(0)
    settings = PreprocessingSettings(source=NYUL)
    with pytest.raises(ConfigError, match="not fitted"):
        prepare_source(Volume(mr, np.eye(4)), body > 0, settings)


def test_fitted_landmarks_are_taken_over_where_they_are_open():
    ready = NYUL.model_copy(update={"landmarks": (0.0, 50.0, 100.0)})
    open_, prepared = PreprocessingSettings(source=NYUL), PreprocessingSettings(source=ready)
    assert open_.with_landmarks_of(prepared) == prepared
    plain = PreprocessingSettings()
    assert plain.with_landmarks_of(prepared) == plain


def test_intensity_settings_that_make_no_sense_are_refused():
    for wrong in (
        {"modality": "CT", "bias_correction": True},
        {"modality": "CT", "standardization": "zscore"},
        {"zscore_range": (1, 1)},
        {"landmarks": (0, 100)},
        {"standardization": "nyul", "landmarks": (0, 60, 50, 100)},
        {"standardization": "nyul", "landmarks": (100,)},
        {"standardization": "nyul", "landmarks": (0, 90)},
    ):
        with pytest.raises(ConfigError):
            load_config(overrides={"preprocessing.source": wrong})


def shaded(shape=(24, 26, 16)) -> tuple[np.ndarray, np.ndarray]:
    """An MR of two tissues under a smooth field of 0.6 to 1.5, and the mask of one tissue."""
    i, j, k = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    tissue = (np.sin(7 * i) * np.sin(6 * j) * np.cos(5 * k)) > 0
    clean = np.where(tissue, 300, 180) + np.random.default_rng(0).normal(0, 5, shape)
    return (clean * np.exp(0.3 * i - 0.2 * j**2)).astype(np.float32), tissue


def test_bias_correction_evens_a_tissue_and_is_repeatable():
    mr, tissue = shaded()
    volume = Volume(mr, oblique_affine((5.0, 5.0, 6.0)))
    mask = np.ones(mr.shape, dtype=bool)
    corrected = correct_bias(volume, mask)
    before = mr[tissue].std() / mr[tissue].mean()
    after = corrected.array[tissue].std() / corrected.array[tissue].mean()
    assert before > 0.15
    assert after < 0.4 * before
    assert corrected.array.dtype == np.float32
    np.testing.assert_array_equal(corrected.array, correct_bias(volume, mask).array)
    np.testing.assert_array_equal(corrected.affine, volume.affine)
    with pytest.raises(ImageReadError, match="positive"):
        correct_bias(volume.with_array(mr - 400), mask)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bias_correction_is_the_same_with_any_number_of_threads(threads):
    import SimpleITK as sitk

    mr, _ = shaded()
    volume, mask = Volume(mr, np.diag([5.0, 5.0, 6.0, 1.0])), np.ones(mr.shape, dtype=bool)
    expected = correct_bias(volume, mask).array
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    try:
        found = correct_bias(volume, mask).array
        assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == threads
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    np.testing.assert_array_equal(found, expected)


def test_bias_correction_of_very_few_slices():
    mr, tissue = shaded((32, 32, 2))
    corrected = correct_bias(Volume(mr, np.diag([3.0, 3.0, 8.0, 1.0])), np.ones(mr.shape, bool))
    assert np.isfinite(corrected.array).all()
    spread = [a[tissue].std() / a[tissue].mean() for a in (mr, corrected.array)]
    assert spread[1] < spread[0]
