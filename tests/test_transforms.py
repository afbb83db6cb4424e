from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from conftest import oblique_affine, write_case
from monai.transforms import LoadImaged, Orientationd

from medp2p.alignment import Alignment, place
from medp2p.config import ImageSettings, PreprocessingSettings
from medp2p.errors import GeometryError, ImageReadError
from medp2p.inference import unit_sources
from medp2p.io import read_volume
from medp2p.preprocessing import body_mask, case_landmarks, decode, fit_landmarks
from medp2p.transforms import (
    ToTrainingGridd,
    VolumeReader,
    preparation_transforms,
    to_tensor,
    to_volume,
)


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


@pytest.mark.parametrize(
    "source",
    [
        ImageSettings(standardization="zscore"),
        ImageSettings(standardization="nyul", bias_correction=True),
    ],
)
def test_training_and_translation_see_the_same_bits_however_mr_is_standardized(
    oblique_case, source
):
    volume = read_volume(oblique_case / "mr.nii.gz")
    body = body_mask(volume, "MR")
    if source.standardization == "nyul":
        landmarks = fit_landmarks([case_landmarks(volume, body, source)])
        source = source.model_copy(update={"landmarks": landmarks})
    settings = PreprocessingSettings(source=source, spacing_mm=(1.3, 0.9, None))
    files = {"mr": str(oblique_case / "mr.nii.gz"), "target": str(oblique_case / "ct.nii.gz")}
    prepared = preparation_transforms(["mr"], settings, with_mask=False)(files)["mr"]
    unit, _ = unit_sources([volume], body, settings)
    np.testing.assert_array_equal(decode(prepared.codes), unit[0])
    plain, _ = unit_sources([volume], body, PreprocessingSettings(spacing_mm=(1.3, 0.9, None)))
    assert np.abs(plain - unit).mean() > 0.01


def test_an_aligned_target_is_that_of_a_target_placed_beforehand(oblique_case):
    mr, ct = (read_volume(oblique_case / f"{name}.nii.gz") for name in ("mr", "ct"))
    matrix = oblique_affine((1, 1, 1), (4, 3, -5), (3, -2, 1))
    body = mr.with_array(body_mask(mr, "MR").astype(np.uint8))
    settings = PreprocessingSettings(spacing_mm=(None, None, None))
    transform = ToTrainingGridd(["mr", "target"], "mask", settings)
    images = {"mr": to_tensor(mr), "target": to_tensor(ct), "mask": to_tensor(body)}
    given = transform({**images, "alignments": {"target": Alignment(matrix)}})
    placed = place(ct, Alignment(matrix))
    expected = transform({**images, "target": to_tensor(placed)})
    np.testing.assert_array_equal(given["target"].codes, expected["target"].codes)
    np.testing.assert_array_equal(given["mask"], expected["mask"])
    unmoved = transform(images)
    assert (given["target"].codes != unmoved["target"].codes).mean() > 0.1
    assert given["mask"].sum() < unmoved["mask"].sum()


def test_a_deformation_is_part_of_the_one_interpolation(oblique_case):
    import SimpleITK as sitk

    mr, ct = (read_volume(oblique_case / f"{name}.nii.gz") for name in ("mr", "ct"))
    body = mr.with_array(body_mask(mr, "MR").astype(np.uint8))
    settings = PreprocessingSettings(spacing_mm=(None, None, None))
    transform = ToTrainingGridd(["mr", "target"], "mask", settings)
    images = {"mr": to_tensor(mr), "target": to_tensor(ct), "mask": to_tensor(body)}
    shift = sitk.TranslationTransform(3, (-2.0, 1.0, 0.5))  # LPS
    matrix = np.eye(4)
    matrix[:3, 3] = (2.0, -1.0, 0.5)  # the same in RAS
    deformed = transform({**images, "alignments": {"target": Alignment(np.eye(4), shift)}})
    moved = transform({**images, "alignments": {"target": Alignment(matrix)}})
    np.testing.assert_allclose(deformed["target"].codes, moved["target"].codes, atol=2)


def test_padding_of_the_target_is_outside_its_field_of_view(oblique_case):
    mr, ct = (read_volume(oblique_case / f"{name}.nii.gz") for name in ("mr", "ct"))
    body = mr.with_array(np.ones(mr.shape, np.uint8))
    array = ct.array.copy()
    array[:7] = -3024
    settings = PreprocessingSettings(spacing_mm=(None, None, None))
    images = {
        "mr": to_tensor(mr),
        "target": to_tensor(ct.with_array(array)),
        "mask": to_tensor(body),
    }
    result = ToTrainingGridd(["mr", "target"], "mask", settings)(images)
    shown = result["mask"].transpose(2, 1, 0)
    shown = shown if mr.orientation[0] == "R" else shown[::-1]
    assert not shown[:7].any()
    assert shown[7:].all()
