"""Real DICOM series against conversions by other software (dicom2nifti and dcm2niix).

The references state positions in float32 and round directions, so affines agree to some 1e-4 mm.
All of them were found right; what is refused here is refused for the reason given.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from medp2p.errors import GeometryError, ImageReadError
from medp2p.io import read_grid, read_volume
from medp2p.volume import Volume

DATA = Path(os.environ.get("MEDP2P_REAL_DATA", "")) / "dicom"

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(
        "MEDP2P_REAL_DATA" not in os.environ, reason="MEDP2P_REAL_DATA names no folder of real data"
    ),
]

PLAIN = [
    "anatomical/001",
    "anatomical/001_implicit",
    "ge/anatomical/001",
    "ge/anatomical/001_implicit",
    "generic/anatomical/001",
    "generic/anatomical/001_implicit",
    "generic/anatomical/002_non_isotropic",
    "generic/compressed/001",
    "generic/compressed_j2k/001",
    "generic/compressed_jpeg/001",
    "generic/compressed_jpegls/001",
    "generic/compressed_rle/001",
    "hitachi/anatomical/001",
    "hitachi/anatomical/001_implicit",
    "hyperfine/anatomical/001",
    "siemens_multiframe/anatomical/001",
]
REFUSED = ["generic/rgb/001", "ge/anatomical/001_single_slice"]
SEVERAL = {"ge_epi_timeseries": 10, "siemens_xa10_enhanced": 4}


def reference(name: str) -> Path:
    return DATA / "dicom2nifti" / f"{name}_ground_truth.nii.gz"


def folder(name: str) -> Path:
    return DATA / "dicom2nifti" / name


def upright(
    array: NDArray[np.float64], affine: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Axes flipped and permuted by nibabel to the nearest RAS."""
    image = nib.as_closest_canonical(nib.Nifti1Image(array, affine))
    return np.asarray(image.dataobj), image.affine


def check_equal(volume: Volume, path: Path, number: int | None = None) -> None:
    """Same voxels, after both rescaled and were turned the same way; affines to 1e-3 mm."""
    image = nib.load(path)
    theirs = image.get_fdata(dtype=np.float64)
    if number is not None:
        theirs = theirs[..., number]
    array, affine = upright(volume.array.astype(np.float64), volume.affine)
    expected, expected_affine = upright(theirs, image.affine)
    assert array.shape == expected.shape
    np.testing.assert_allclose(affine, expected_affine, rtol=0, atol=1e-3)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in array.shape])).reshape(3, 8)
    off = (affine - expected_affine) @ np.vstack([corners, np.ones(8)])
    assert np.abs(off).max() < 0.03
    if volume.array.dtype.kind in "iu":
        np.testing.assert_array_equal(array, expected)
    else:
        np.testing.assert_allclose(array, expected, rtol=1e-6)


def test_no_reference_is_forgotten() -> None:
    names = {*PLAIN, *REFUSED}
    found = {
        str(path.relative_to(DATA / "dicom2nifti")).removesuffix("_ground_truth.nii.gz")
        for path in DATA.rglob("*_ground_truth.nii.gz")
    }
    assert found == names
    assert {path.parent.name for path in DATA.rglob("reference.nii.gz")} == set(SEVERAL)


@pytest.mark.parametrize("name", PLAIN)
def test_series_against_its_reference(name: str) -> None:
    volume = read_volume(folder(name))
    check_equal(volume, reference(name))
    check_equal(
        volume, reference(name).with_name(f"{Path(name).name}_ground_truth_reoriented.nii.gz")
    )
    grid = read_grid(folder(name))
    assert grid.shape == volume.shape
    np.testing.assert_array_equal(grid.affine, volume.affine)
    assert volume.dicom is not None
    assert len(volume.dicom.images) == volume.shape[2]


@pytest.mark.parametrize(("name", "count"), list(SEVERAL.items()))
def test_every_volume_of_a_time_series(name: str, count: int) -> None:
    series, path = DATA / name / "series", DATA / name / "reference.nii.gz"
    with pytest.raises(ImageReadError, match=rf"0 to {count - 1}: .*--volume K"):
        read_volume(series)
    for number in range(count):
        check_equal(read_volume(series, volume_index=number), path, number)
    with pytest.raises(ImageReadError, match=f"0 to {count - 1}"):
        read_volume(series, volume_index=count)


def test_one_enhanced_file_of_several(tmp_path: Path) -> None:
    """Each of the XA10 files is a volume of its own."""
    for number in range(4):
        file = DATA / "siemens_xa10_enhanced/series" / f"6_{number + 1}.dcm"
        path = DATA / "siemens_xa10_enhanced/reference.nii.gz"
        check_equal(read_volume(file), path, number)


def test_colour_is_refused() -> None:
    with pytest.raises(ImageReadError, match="Secondary Capture"):
        read_volume(folder("generic/rgb/001"))


def test_a_single_slice_of_unknown_thickness_is_refused(tmp_path: Path) -> None:
    """dicom2nifti calls it 1 mm thick, of which its header says nothing; with one it is read."""
    name = "ge/anatomical/001_single_slice"
    with pytest.raises(GeometryError, match="SliceThickness"):
        read_volume(folder(name))
    ds = pydicom.dcmread(next(folder(name).iterdir()))
    assert "SliceThickness" not in ds
    assert "SpacingBetweenSlices" not in ds
    ds.SliceThickness = "1"
    ds.save_as(tmp_path / "a.dcm")
    check_equal(read_volume(tmp_path), reference(name))


def test_several_series_are_not_mixed(tmp_path: Path) -> None:
    for name in ("hitachi/anatomical/001", "hyperfine/anatomical/001"):
        shutil.copytree(folder(name), tmp_path / name)
    with pytest.raises(ImageReadError, match=r"2 series.*--series"):
        read_volume(tmp_path)
