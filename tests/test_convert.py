"""``medp2p convert``: the remedies that errors name, as a user would type them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from medp2p.cli.convert import ModalityName, VoxelTypeName, convert
from medp2p.errors import GeometryError, ImageReadError, MedP2PError, OutputError
from medp2p.io import VOXEL_TYPES, read_volume, write_volume
from medp2p.volume import Volume

AFFINE = np.array([[-1.5, 0, 0, 40], [0, 2, 0, -30], [0, 0, 3, 5], [0, 0, 0, 1.0]])
VALUES = np.arange(60, dtype=np.float32).reshape(3, 4, 5)

app = typer.Typer()
app.command()(convert)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, MedP2PError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd"])
def test_voxels_keep_their_places(tmp_path: Path, suffix: str) -> None:
    write_volume(Volume(VALUES, AFFINE, "CT", "HU"), tmp_path / "in.nrrd")
    said = run(tmp_path / "in.nrrd", tmp_path / f"out{suffix}")
    assert said == f"{tmp_path / f'out{suffix}'}: 3 × 4 × 5 voxels of 1.5 × 2 × 3 mm, LAS\n"
    volume = read_volume(tmp_path / f"out{suffix}")
    np.testing.assert_array_equal(volume.array, VALUES)
    np.testing.assert_allclose(volume.affine, AFFINE)
    assert (volume.modality, volume.units) == ("CT", "HU")


def two_frames(path: Path) -> None:
    image = nib.Nifti1Image(VALUES, AFFINE)
    image.set_qform(np.eye(4), code=1)
    nib.save(image, path)


def no_frame(path: Path) -> None:
    nib.save(nib.Nifti1Image(VALUES, None), path)


def sheared(path: Path) -> None:
    affine = AFFINE.copy()
    affine[1, 2] = 1
    nib.save(nib.Nifti1Image(VALUES, affine), path)


def several(path: Path) -> None:
    nib.save(nib.Nifti1Image(np.stack([VALUES, VALUES], -1), AFFINE), path)


def not_numbers(path: Path) -> None:
    array = VALUES.copy()
    array[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(array, AFFINE), path)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (two_frames, GeometryError),
        (no_frame, GeometryError),
        (sheared, GeometryError),
        (several, ImageReadError),
        (not_numbers, ImageReadError),
    ],
)
def test_the_remedy_in_the_error_works(
    tmp_path: Path, make: object, error: type[Exception]
) -> None:
    assert callable(make)
    make(tmp_path / "my scan's.nii")
    with pytest.raises(error) as caught:
        read_volume(tmp_path / "my scan's.nii")
    remedy = re.search(r"medp2p convert (.*)$", str(caught.value))
    assert remedy is not None
    words = remedy[1].replace("sform|qform", "sform").replace("VALUE", "-7").replace(" K", " 1")
    run(*[str(tmp_path / "out.nii") if word == "OUT" else word for word in shlex.split(words)])
    assert read_volume(tmp_path / "out.nii").shape[0] == 3


def test_types_and_modality(tmp_path: Path) -> None:
    write_volume(Volume(VALUES, AFFINE), tmp_path / "in.nii")
    run(tmp_path / "in.nii", tmp_path / "out.nii", "--dtype", "int16", "--modality", "CT")
    volume = read_volume(tmp_path / "out.nii")
    assert (volume.array.dtype, volume.units) == (np.int16, "HU")


def test_an_output_is_replaced_only_when_asked(tmp_path: Path) -> None:
    write_volume(Volume(VALUES, AFFINE), tmp_path / "in.nii")
    run(tmp_path / "in.nii", tmp_path / "out.nii")
    with pytest.raises(OutputError, match="--overwrite"):
        run(tmp_path / "in.nii", tmp_path / "out.nii")
    run(tmp_path / "in.nii", tmp_path / "out.nii", "--overwrite")


@pytest.mark.parametrize(
    "options",
    [
        ["--nifti-frame", "xform"],
        ["--replace-non-finite", "nan"],
        ["--volume", "-1"],
        ["--dtype", "int12"],
    ],
)
def test_wrong_usage(tmp_path: Path, options: list[str]) -> None:
    result = CliRunner().invoke(app, [str(tmp_path / "a.nii"), str(tmp_path / "b.nii"), *options])
    assert result.exit_code == 2


def test_choices_are_those_of_the_library() -> None:
    assert [str(name) for name in VoxelTypeName] == list(VOXEL_TYPES)
    assert [str(name) for name in ModalityName] == ["MR", "CT", "MASK"]
