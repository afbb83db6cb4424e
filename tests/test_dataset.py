from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from medp2p.config import PreprocessingSettings, SliceSettings
from medp2p.dataset import SliceBatches
from medp2p.errors import PreparedDataError
from medp2p.preprocessing import CODES_PER_UNIT
from medp2p.store import (
    CASES_FOLDER,
    INDEX_FILE,
    VOXELS_FILE,
    PreparedCase,
    PreparedData,
    write_index,
    write_voxels,
)

CPU = torch.device("cpu")
SHAPE = (5, 6, 7)  # K, J, I


def write_numbered(folder, shapes=(SHAPE,), sources=1, folds=None):
    """Volumes whose codes tell where they come from."""
    cases = []
    for number, shape in enumerate(shapes):
        k, j, i = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
        code = (1000 * number + 100 * k + 10 * j + i).astype(np.int16)
        name = f"case{number}"
        (folder / CASES_FOLDER / name).mkdir(parents=True)
        images = [*(code + 5000 * (s + 1) for s in range(sources)), code]
        sha256 = write_voxels(folder / CASES_FOLDER / name, images, code % 2 == 0)
        fold = folds[number] if folds else None
        affine = np.eye(4).tolist()
        ranges = [(0.0, 1.0)] * sources, (-1024.0, 3071.0)
        cases.append(PreparedCase(name, "train", fold, shape, affine, *ranges, sha256))
    write_index(folder, PreprocessingSettings(), [f"s{i}" for i in range(sources)], cases)
    return PreparedData(folder)


def gather(data, picks, **slices):
    settings = SliceSettings(minimum_mask_fraction=0, **slices)
    batches = SliceBatches(data, data.cases, settings, CPU)
    return batches, batches.gather(picks, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("plane", "axis"), [("axial", 0), ("coronal", 1), ("sagittal", 2)])
def test_a_slice_of_any_plane_is_the_volume_s(tmp_path, plane, axis):
    data = write_numbered(tmp_path / "d")
    batches, batch = gather(data, [3], plane=plane, size=(8, 8))
    assert len(batches.samples) == SHAPE[axis]
    expected = np.take(data.target(data.cases[0]), 3, axis)
    rows, columns = expected.shape
    top, left = (8 - rows) // 2, (8 - columns) // 2
    codes = (batch.target[0, 0] * CODES_PER_UNIT).numpy()
    np.testing.assert_array_equal(codes[top : top + rows, left : left + columns], expected)
    assert (codes == -CODES_PER_UNIT).sum() == 64 - expected.size
    mask = np.take(data.mask(data.cases[0]), 3, axis)
    np.testing.assert_array_equal(batch.mask[0, 0, top : top + rows, left : left + columns], mask)


def test_slices_larger_than_the_sample_are_cropped_at_random_but_together(tmp_path):
    data = write_numbered(tmp_path / "d", [(2, 20, 30)])
    settings = SliceSettings(size=(8, 8), minimum_mask_fraction=0)
    batches = SliceBatches(data, data.cases, settings, CPU)
    batch = batches.gather([0] * 40, torch.Generator().manual_seed(0))
    source, target = batch.source * CODES_PER_UNIT, batch.target * CODES_PER_UNIT
    assert torch.equal(source - 5000, target)
    corners = {(int(c) // 10 % 100, int(c) % 10) for c in target[:, 0, 0, 0]}
    assert len(corners) > 10
    again = batches.gather([0] * 40, torch.Generator().manual_seed(0))
    assert torch.equal(again.target, batch.target)


def test_a_stack_has_its_neighbours_and_repeats_the_ends(tmp_path):
    data = write_numbered(tmp_path / "d", sources=2)
    _, batch = gather(data, [0, 2, 4], stack=3, size=(6, 7))
    first = (batch.source[:, :, 0, 0] * CODES_PER_UNIT).long().tolist()
    assert first == [
        [5000, 5000, 5100, 10000, 10000, 10100],
        [5100, 5200, 5300, 10100, 10200, 10300],
        [5300, 5400, 5400, 10300, 10400, 10400],
    ]


def test_cases_of_different_sizes_share_a_batch(tmp_path):
    data = write_numbered(tmp_path / "d", [(2, 4, 4), (3, 8, 5)])
    batches, batch = gather(data, [0, 2], size=(8, 8))
    assert batches.samples[2] == (1, 0)
    assert batch.target[0, 0, 2, 2] * CODES_PER_UNIT == 0
    assert batch.target[1, 0, 0, 1] * CODES_PER_UNIT == 1000


def test_slices_without_body_are_left_out(tmp_path, prepared_folder):
    data = PreparedData(prepared_folder)
    case = data.cases[0]
    batches = SliceBatches(data, [case], SliceSettings(minimum_mask_fraction=0.2), CPU)
    shares = (data.mask(case) > 0).mean(axis=(1, 2))
    assert [index for _, index in batches.samples] == list(np.flatnonzero(shares >= 0.2))
    assert 0 < len(batches.samples) < case.shape[0]


def test_prepared_target_is_the_ct_on_file(prepared_folder, case_folder):
    data = PreparedData(prepared_folder)
    case = next(c for c in data.cases if c.name == "case_2")
    image = nib.as_closest_canonical(nib.load(case_folder / "case_2" / "ct.nii.gz"))
    hu = (data.target(case) / CODES_PER_UNIT + 1) / 2 * 4095 - 1024
    expected = np.clip(image.get_fdata(), -1024, 3071).transpose(2, 1, 0)
    np.testing.assert_allclose(hu, expected, atol=0.1)
    np.testing.assert_allclose(case.grid.affine, image.affine)


def test_other_preprocessing_is_refused(prepared_folder, tiny_config):
    data = PreparedData(prepared_folder)
    data.check_preprocessing(tiny_config.preprocessing)
    with pytest.raises(PreparedDataError, match="spacing_mm"):
        data.check_preprocessing(PreprocessingSettings())


def test_damaged_folders_are_refused(tmp_path):
    with pytest.raises(PreparedDataError, match="not a prepared folder"):
        PreparedData(tmp_path)
    write_numbered(tmp_path / "short")
    with (tmp_path / "short" / CASES_FOLDER / "case0" / VOXELS_FILE).open("r+b") as file:
        file.truncate(100)
    with pytest.raises(PreparedDataError, match="damaged"):
        PreparedData(tmp_path / "short")
    write_numbered(tmp_path / "newer")
    index = json.loads((tmp_path / "newer" / INDEX_FILE).read_text())
    (tmp_path / "newer" / INDEX_FILE).write_text(json.dumps(index | {"version": 99}))
    with pytest.raises(PreparedDataError, match="99"):
        PreparedData(tmp_path / "newer")
    (tmp_path / "newer" / INDEX_FILE).write_text("{")
    with pytest.raises(PreparedDataError, match="damaged"):
        PreparedData(tmp_path / "newer")


def test_a_fold_validates_and_the_others_train(tmp_path):
    data = write_numbered(tmp_path / "d", [SHAPE] * 3, folds=[0, 1, 0])
    data.choose_fold(0)
    assert [case.split for case in data.cases] == ["validation", "train", "validation"]
    for fold in (2, None):
        with pytest.raises(PreparedDataError, match="folds 0 to 1"):
            PreparedData(tmp_path / "d").choose_fold(fold)
    plain = write_numbered(tmp_path / "plain")
    plain.choose_fold(None)
    with pytest.raises(PreparedDataError, match="no folds"):
        plain.choose_fold(0)
