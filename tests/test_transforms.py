from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from conftest import oblique_affine, write_case
from monai.transforms import LoadImaged, Orientationd

from medp2p.config import PreprocessingSettings
from medp2p.errors import GeometryError, ImageReadError
from medp2p.inference import unit_sources
from medp2p.io import read_volume
from medp2p.preprocessing import body_mask, decode
from medp2p.transforms import VolumeReader, preparation_transforms, to_tensor, to_volume


@pytest.fixture
def oblique_case(tmp_path):
    write_case(tmp_path / "a", 1, affine=oblique_affine(), shape=(41, 35, 12))
    return tmp_path / "a"


def test_the_reader_gives_monai_nibabel_s_geometry(oblique_case):
    load = LoadImaged(["mr"], reader=VolumeReader(), ensure_channel_first=True)
    image = load({"mr": str(oblique_case / "mr.nii.gz")})["mr"]
    expected = nib.load(oblique_case / "mr.nii.gz")
    np.testing.assert_allclose(image.affine.numpy(), expected.affine, atol=1e-6)
    np.testing.assert_array_equal(image[0].numpy(), expected.get_fdata(dtype=np.float32))
    turned = Orientationd(["mr"], axcodes="LPS", labels=None)({"mr": image})["mr"]
    canonical = nib.orientations.apply_orientation(
        expected.get_fdata(dtype=np.float32),
        nib.orientations.ornt_transform(
            nib.io_orientation(expected.affine), nib.orientations.axcodes2ornt("LPS")
        ),
    )
    np.testing.assert_array_equal(turned[0].numpy(), canonical)


def test_several_files_become_channels_if_they_share_a_grid(oblique_case, tmp_path):
    load = LoadImaged(["x"], reader=VolumeReader(), ensure_channel_first=True)
    files = [str(oblique_case / name) for name in ("mr.nii.gz", "ct.nii.gz")]
    assert load({"x": files})["x"].shape == (2, 41, 35, 12)
    write_case(tmp_path / "b", 1)
    with pytest.raises(GeometryError, match="not on the grid"):
        VolumeReader().get_data(VolumeReader().read([files[0], str(tmp_path / "b" / "mr.nii.gz")]))


def test_a_volume_survives_being_a_metatensor(oblique_case):
    volume = read_volume(oblique_case / "mr.nii.gz")
    back = to_volume(to_tensor(volume))
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_array_equal(back.affine, volume.affine)
    assert back.path == volume.path


@pytest.mark.parametrize("spacing", [(None, None, None), (1.3, 0.9, None), (2.0, 2.0, 2.0)])
def test_training_and_translation_see_the_same_bits(oblique_case, spacing):
    settings = PreprocessingSettings(spacing_mm=spacing)
    files = {"mr": str(oblique_case / "mr.nii.gz"), "target": str(oblique_case / "ct.nii.gz")}
    prepared = preparation_transforms(["mr"], settings, with_mask=False)(files)["mr"]
    volume = read_volume(oblique_case / "mr.nii.gz")
    unit, grid = unit_sources([volume], body_mask(volume, "MR"), settings)
    np.testing.assert_array_equal(decode(prepared.codes), unit[0])
    assert grid.difference(prepared.grid) is None


def test_a_target_of_a_smaller_field_of_view_shrinks_the_mask(oblique_case):
    ct = nib.load(oblique_case / "ct.nii.gz")
    cut = ct.slicer[:, :, 4:]
    cut.set_qform(cut.affine, 1)
    cut.set_sform(cut.affine, 1)
    nib.save(cut, oblique_case / "cut.nii.gz")
    settings = PreprocessingSettings(spacing_mm=(None, None, None))
    transform = preparation_transforms(["mr"], settings, with_mask=True)
    files = {"mr": "mr.nii.gz", "target": "cut.nii.gz", "mask": "mask.nii.gz"}
    images = transform({key: str(oblique_case / name) for key, name in files.items()})
    assert not images["mask"][:4].any()
    assert images["mask"][5:].any()
    np.testing.assert_allclose(decode(images["target"].codes[:4]), -1)


def refusal(transform, files) -> Exception:
    with pytest.raises(RuntimeError) as error:
        transform(files)
    assert error.value.__cause__ is not None
    return error.value.__cause__


def test_pairs_that_are_none_are_refused(oblique_case, tmp_path):
    transform = preparation_transforms(["mr"], PreprocessingSettings(), with_mask=False)
    mr, ct = str(oblique_case / "mr.nii.gz"), str(oblique_case / "ct.nii.gz")
    swapped = refusal(transform, {"mr": ct, "target": mr})
    assert isinstance(swapped, ImageReadError)
    same = refusal(transform, {"mr": mr, "target": mr})
    assert "not CT numbers" in str(same)
    write_case(tmp_path / "far", 1, affine=oblique_affine(origin=(300, 0, 0)))
    apart = refusal(transform, {"mr": mr, "target": str(tmp_path / "far" / "ct.nii.gz")})
    assert isinstance(apart, GeometryError)
    assert "covers 0%" in str(apart)
