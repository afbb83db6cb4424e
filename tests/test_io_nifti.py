"""NIfTI's own rules: frames, scaling, byte order, units, sizes."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from medp2p.errors import GeometryError, ImageReadError, OutputError
from medp2p.io import read_volume, write_volume
from medp2p.io.geometry import shear_degrees
from medp2p.volume import Volume

SHAPE = (6, 5, 4)
VALUES = np.arange(120, dtype=np.int16).reshape(SHAPE)
SIGNALLING_NAN = np.uint32(0x7FA00000).view(np.float32)
SFORM = np.array([[-1.5, 0, 0, 40], [0, 2, 0, -30], [0, 0, 3, 5], [0, 0, 0, 1.0]])


def image(array: NDArray[Any] = VALUES, kind: Any = nib.Nifti1Image) -> Any:
    made = kind(array, SFORM)
    made.set_sform(SFORM, code=1)
    made.set_qform(SFORM, code=1)
    return made


def save_with(path: Path, made: Any = None, **fields: Any) -> Path:
    """Write a NIfTI file and then put fields into its header behind nibabel's back."""
    nib.save(made or image(), path)
    content = bytearray(path.read_bytes())
    kind = nib.Nifti2Header if int.from_bytes(content[:4], "little") == 540 else nib.Nifti1Header
    header = kind(bytes(content[: kind.sizeof_hdr]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[: kind.sizeof_hdr] = header.binaryblock
    path.write_bytes(content)
    return path


def moved(millimetres: float) -> NDArray[np.float64]:
    affine = SFORM.copy()
    affine[1, 3] += millimetres
    return affine


def test_sform_and_qform_that_disagree_are_refused(tmp_path: Path) -> None:
    made = image()
    made.set_qform(moved(0.25), code=1)
    nib.save(made, tmp_path / "a.nii")
    with pytest.raises(GeometryError, match=r"0\.25 mm apart.*--nifti-frame sform\|qform"):
        read_volume(tmp_path / "a.nii")
    by_sform = read_volume(tmp_path / "a.nii", nifti_frame="sform")
    by_qform = read_volume(tmp_path / "a.nii", nifti_frame="qform")
    np.testing.assert_allclose(by_sform.affine, SFORM, atol=1e-5)
    np.testing.assert_allclose(by_qform.affine, moved(0.25), atol=1e-5)


def test_largest_disagreement_is_sought_at_the_corners(tmp_path: Path) -> None:
    """A small turn is nothing at the first voxel and much at the last."""
    turned = SFORM.copy()
    turned[:3, :3] = [[-1.5, -0.2, 0], [-0.15, 2, 0], [0, 0, 3]]
    made = image(np.zeros((50, 50, 4), np.int16))
    made.set_qform(turned, code=1)
    nib.save(made, tmp_path / "a.nii")
    placed = nib.load(tmp_path / "a.nii").header.get_qform()
    farthest = np.linalg.norm((placed - SFORM) @ [49, 49, 0, 1])
    with pytest.raises(GeometryError, match=f"{farthest:.4g} mm apart"):
        read_volume(tmp_path / "a.nii")


def test_sform_wins_within_the_tolerance(tmp_path: Path) -> None:
    made = image()
    made.set_qform(moved(0.05), code=1)
    nib.save(made, tmp_path / "a.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").affine, SFORM, atol=1e-6)


@pytest.mark.parametrize(("sform_code", "qform_code"), [(2, 0), (0, 3)])
def test_the_only_frame_is_believed(tmp_path: Path, sform_code: int, qform_code: int) -> None:
    made = image()
    made.set_qform(moved(7), code=qform_code)
    made.set_sform(SFORM, code=sform_code)
    nib.save(made, tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.affine, SFORM if sform_code else moved(7), atol=1e-5)
    assert volume.nifti_code == (sform_code or qform_code)
    with pytest.raises(GeometryError, match="its code is 0"):
        read_volume(tmp_path / "a.nii", nifti_frame="qform" if sform_code else "sform")


def test_no_frame_is_refused_unless_pixdim_is_asked_for(tmp_path: Path) -> None:
    path = save_with(tmp_path / "a.nii", sform_code=0, qform_code=0)
    with pytest.raises(GeometryError, match=r"codes are both 0.*--nifti-frame pixdim"):
        read_volume(path)
    volume = read_volume(path, nifti_frame="pixdim")
    np.testing.assert_allclose(volume.affine, np.diag([1.5, 2, 3, 1]))
    assert volume.nifti_code == 2
    write_volume(volume, tmp_path / "b.nii")
    assert read_volume(tmp_path / "b.nii").grid.difference(volume.grid) is None


@pytest.mark.parametrize("frame", ["qform", "pixdim"])
@pytest.mark.parametrize("spacing", [0, -2, np.nan, np.inf])
def test_a_spacing_of_nothing_is_not_repaired(tmp_path: Path, frame: Any, spacing: float) -> None:
    """nibabel would make it 1 mm, or positive."""
    pixdim = [1, 1.5, spacing, 3, 0, 0, 0, 0]
    path = save_with(tmp_path / "a.nii", sform_code=0, pixdim=pixdim)
    with pytest.raises(GeometryError, match="expected more than 0"):
        read_volume(path, nifti_frame=frame)
    path = save_with(tmp_path / "b.nii", qform_code=0, pixdim=pixdim)
    np.testing.assert_allclose(read_volume(path).affine, SFORM)


@pytest.mark.parametrize(
    "fields",
    [
        {"srow_x": [np.nan, 0, 0, 0]},
        {"srow_x": [np.inf, 0, 0, 0]},
        {"quatern_b": 1.0, "quatern_c": 1.0},
        {"quatern_b": np.nan},
        {"qoffset_z": np.inf},
        {"qoffset_z": SIGNALLING_NAN},
        {"srow_y": [0, SIGNALLING_NAN, 0, 0]},
    ],
)
def test_frames_that_are_no_numbers(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(GeometryError, match=r"no affine of finite numbers.*--nifti-frame"):
        read_volume(save_with(tmp_path / "a.nii", **fields))


def test_flat_sform_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="flattens space"):
        read_volume(save_with(tmp_path / "a.nii", qform_code=0, srow_z=[0, 0, 0, 0]))


@pytest.mark.parametrize(("degrees", "refused"), [(0.4, False), (0.6, True)])
def test_sheared_axes(tmp_path: Path, degrees: float, refused: bool) -> None:
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[1, 2] = 3 * np.tan(np.radians(degrees))
    nib.save(nib.Nifti1Image(VALUES, affine), tmp_path / "a.nii")
    if refused:
        with pytest.raises(GeometryError, match=r"0\.60 degrees off perpendicular.*--resample"):
            read_volume(tmp_path / "a.nii")
    else:
        volume = read_volume(tmp_path / "a.nii")
        np.testing.assert_allclose(volume.affine, affine, atol=1e-6)
        write_volume(volume, tmp_path / "b.nii")
        np.testing.assert_allclose(read_volume(tmp_path / "b.nii").affine, affine, atol=1e-6)
        assert nib.load(tmp_path / "b.nii").header["qform_code"] == 0


def test_resampling_a_tilted_gantry_keeps_positions(tmp_path: Path) -> None:
    """Linear interpolation is exact on a volume that stores its own coordinates."""
    shape = (12, 11, 9)
    affine = np.array([[0.9, 0, 0, -5], [0, 1.1, -0.8, 7], [0, 0, 2.5, -9], [0, 0, 0, 1.0]])
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    positions = index @ affine[:3, :3].T + affine[:3, 3]
    for axis in range(3):
        nib.save(nib.Nifti1Image(positions[..., axis], affine), tmp_path / "a.nii")
        volume = read_volume(tmp_path / "a.nii", resample=True)
        assert shear_degrees(volume.affine) < 1e-9
        np.testing.assert_allclose(volume.spacing_mm, [0.9, 1.1, 2.5], atol=1e-6)
        np.testing.assert_allclose(volume.affine[:3, :3] / volume.spacing_mm, np.eye(3), atol=1e-6)
        corners = volume.grid.corners_mm
        old = positions.reshape(-1, 3)
        assert (corners.min(axis=0) <= old.min(axis=0) + 1e-4).all()
        assert (corners.max(axis=0) >= old.max(axis=0) - 1e-4).all()
        new_index = np.stack(np.meshgrid(*[np.arange(n) for n in volume.shape], indexing="ij"), -1)
        new = new_index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
        in_old = (new - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
        inside = ((in_old >= 0) & (in_old <= np.array(shape) - 1)).all(axis=-1)
        assert inside.sum() > 500
        np.testing.assert_allclose(volume.array[inside], new[inside][:, axis], atol=1e-4)


def test_axes_nearly_in_one_plane_are_not_resampled(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, 2] = (30, 0, 0.01)
    nib.save(nib.Nifti1Image(VALUES, affine), tmp_path / "a.nii")
    with pytest.raises(GeometryError, match="times the voxels"):
        read_volume(tmp_path / "a.nii", resample=True)


def test_resampling_keeps_types_and_labels(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[0, 2] = 0.3
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[2:7, 2:7, 2:7] = 200
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "a.nii")
    linear = read_volume(tmp_path / "a.nii", resample=True).array
    assert linear.dtype == np.uint8
    assert set(np.unique(linear)) > {0, 200}
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "b.nii")
    straight = read_volume(tmp_path / "b.nii", resample=True)
    np.testing.assert_array_equal(straight.array, labels)


@pytest.mark.parametrize("unit", [0, 1, 2, 3])
def test_units_of_length_as_itk_reads_them(tmp_path: Path, unit: int) -> None:
    path = save_with(tmp_path / "a.nii", xyzt_units=unit | 8)
    volume = read_volume(path)
    by_itk = sitk.ReadImage(str(path))
    np.testing.assert_allclose(volume.spacing_mm, by_itk.GetSpacing(), rtol=1e-6)
    lps = np.array(by_itk.GetOrigin()) * [-1, -1, 1]
    np.testing.assert_allclose(volume.affine[:3, 3], lps, rtol=1e-6)


def test_unknown_unit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="unit of length 5"):
        read_volume(save_with(tmp_path / "a.nii", xyzt_units=5))


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0, 0), (0, 5), (np.nan, np.nan)])
def test_no_scaling_keeps_the_type(tmp_path: Path, slope: float, intercept: float) -> None:
    path = save_with(tmp_path / "a.nii", scl_slope=slope, scl_inter=intercept)
    volume = read_volume(path)
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, VALUES)
    np.testing.assert_array_equal(volume.array, nib.load(path).get_fdata())


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "expected"),
    [
        (np.uint16, 1, -1024, np.int16),
        (np.uint8, 2, 0, np.int16),
        (np.int16, 400, 0, np.int32),
        (np.int16, -1, 10, np.int16),
        (np.int32, 2.0**31, 0, np.float32),
        (np.int16, 0.5, 0, np.float32),
        (np.float32, 2, 1, np.float32),
        (np.float64, 2, 1, np.float64),
    ],
)
def test_scaling(
    tmp_path: Path, stored: Any, slope: float, intercept: float, expected: Any
) -> None:
    made = image(VALUES.astype(stored))
    path = save_with(tmp_path / "a.nii", made, scl_slope=slope, scl_inter=intercept)
    volume = read_volume(path)
    assert volume.array.dtype == expected
    np.testing.assert_array_equal(volume.array, nib.load(path).get_fdata().astype(expected))
    np.testing.assert_array_equal(volume.array, VALUES * np.float64(slope) + intercept)


def test_scaling_beyond_float32_is_refused(tmp_path: Path) -> None:
    made = image(VALUES.astype(np.float32))
    path = save_with(tmp_path / "a.nii", made, scl_slope=3e38, scl_inter=0)
    with pytest.raises(ImageReadError, match="NaN or infinite"):
        read_volume(path)


def test_invalid_intercept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match="header is damaged"):
        read_volume(save_with(tmp_path / "a.nii", scl_slope=2, scl_inter=np.inf))


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [">i2", "<i2", ">f8", ">u2"])
def test_byte_orders_and_nifti_2(tmp_path: Path, kind: Any, suffix: str, dtype: str) -> None:
    order = dtype[0]
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.dtype(dtype))
    made = kind(VALUES.astype(dtype), SFORM, header)
    path = tmp_path / f"a{suffix}"
    nib.save(made, path)
    volume = read_volume(path)
    assert volume.array.dtype == np.dtype(dtype).newbyteorder("=")
    assert volume.array.dtype.isnative
    np.testing.assert_array_equal(volume.array, VALUES)
    np.testing.assert_allclose(volume.affine, SFORM)


@pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_complex_numbers_and_colours_are_refused(tmp_path: Path, dtype: Any) -> None:
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, dtype), SFORM), tmp_path / "a.nii")
    with pytest.raises(ImageReadError, match="expected real numbers"):
        read_volume(tmp_path / "a.nii")


def test_unknown_type_code_is_refused(tmp_path: Path) -> None:
    for code in (0, 1, 777):
        with pytest.raises(ImageReadError):
            read_volume(save_with(tmp_path / "a.nii", datatype=code))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_trailing_single_axes_are_dropped(tmp_path: Path, suffix: str) -> None:
    nib.save(image(VALUES[..., None, None]), tmp_path / f"a{suffix}")
    volume = read_volume(tmp_path / f"a{suffix}")
    assert volume.shape == SHAPE
    np.testing.assert_array_equal(volume.array, VALUES)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_several_volumes_need_a_choice(tmp_path: Path, suffix: str) -> None:
    four = np.stack([VALUES + 1000 * n for n in range(3)], axis=-1)
    path = tmp_path / f"a{suffix}"
    nib.save(image(four), path)
    with pytest.raises(ImageReadError, match=r"holds 3 volumes.*--volume K"):
        read_volume(path)
    for index in range(3):
        np.testing.assert_array_equal(read_volume(path, volume_index=index).array, four[..., index])
    for index in (3, -1):
        with pytest.raises(ImageReadError, match="numbered 0 to 2"):
            read_volume(path, volume_index=index)


def test_single_slice(tmp_path: Path) -> None:
    nib.save(image(VALUES[:, :, :1]), tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").shape == (6, 5, 1)
    nib.save(image(VALUES[:, :, 0]), tmp_path / "b.nii")
    assert read_volume(tmp_path / "b.nii").shape == (6, 5, 1)


@pytest.mark.parametrize(
    "dim", [[3, 0, 5, 4, 1, 1, 1, 1], [3, -6, 5, 4, 1, 1, 1, 1], [0] * 8, [9] * 8]
)
def test_impossible_sizes(tmp_path: Path, dim: list[int]) -> None:
    with pytest.raises(ImageReadError):
        read_volume(save_with(tmp_path / "a.nii", dim=dim))


@pytest.mark.parametrize("offset", [0, 16, 351, 352.5, -1, np.nan, 1e30])
def test_impossible_offsets(tmp_path: Path, offset: float) -> None:
    with pytest.raises(ImageReadError):
        read_volume(save_with(tmp_path / "a.nii", vox_offset=offset))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_header_extensions_are_skipped(tmp_path: Path, suffix: str) -> None:
    made = image()
    made.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 5000))
    nib.save(made, tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}").array, VALUES)


def test_header_and_data_in_two_files_are_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(VALUES, SFORM), tmp_path / "a.hdr")
    with pytest.raises(ImageReadError, match="pair"):
        read_volume(tmp_path / "a.hdr")
    (tmp_path / "b.nii").write_bytes((tmp_path / "a.hdr").read_bytes() + bytes(10000))
    with pytest.raises(ImageReadError, match="in one piece"):
        read_volume(tmp_path / "b.nii")


def test_wrong_suffix_says_the_right_one(tmp_path: Path) -> None:
    nib.save(image(), tmp_path / "a.nii")
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "a.nii").read_bytes())
    with pytest.raises(ImageReadError, match=r"rename it to end in \.nii$"):
        read_volume(tmp_path / "b.nii.gz")
    nib.save(image(), tmp_path / "c.nii.gz")
    (tmp_path / "d.nii").write_bytes((tmp_path / "c.nii.gz").read_bytes())
    with pytest.raises(ImageReadError, match=r"rename it to end in \.nii\.gz"):
        read_volume(tmp_path / "d.nii")


def test_what_follows_the_gzip_data(tmp_path: Path) -> None:
    """Padding with zeros is allowed by gzip; anything else is damage."""
    path = tmp_path / "a.nii.gz"
    write_volume(Volume(VALUES, SFORM), path)
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(512))
    np.testing.assert_array_equal(read_volume(path).array, VALUES)
    path.write_bytes(whole + b"garbage after the data")
    with pytest.raises(ImageReadError, match="damaged"):
        read_volume(path)


def test_wrong_checksum_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    for shape in (SHAPE, (64, 64, 64)):
        noise = np.random.default_rng(0).integers(0, 9999, shape).astype(np.int16)
        write_volume(Volume(noise, SFORM), path, overwrite=True)
        whole = bytearray(path.read_bytes())
        whole[-6] ^= 1
        path.write_bytes(whole)
        with pytest.raises(ImageReadError, match="damaged"):
            read_volume(path)


def test_wrong_checksum_is_noticed_when_one_volume_of_many_is_read(tmp_path: Path) -> None:
    four = np.random.default_rng(0).integers(0, 9999, (64, 64, 8, 20)).astype(np.int16)
    nib.save(image(four), tmp_path / "a.nii.gz")
    whole = bytearray((tmp_path / "a.nii.gz").read_bytes())
    whole[-6] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(whole)
    with pytest.raises(ImageReadError, match="damaged"):
        read_volume(tmp_path / "a.nii.gz", volume_index=0)


def test_several_gzip_members_are_one_file(tmp_path: Path) -> None:
    nib.save(image(), tmp_path / "a.nii")
    plain = (tmp_path / "a.nii").read_bytes()
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(plain[:200]) + gzip.compress(plain[200:]))
    np.testing.assert_array_equal(read_volume(path).array, VALUES)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.skipif(sys.platform == "win32", reason="counts memory with resource")
def test_a_header_that_lies_about_its_size_takes_no_memory(tmp_path: Path, suffix: str) -> None:
    """64 GB are promised; the second file could hold 1 GB by its compressed size alone."""
    made = save_with(tmp_path / "a.nii", dim=[3, 32000, 32000, 32, 1, 1, 1, 1]).read_bytes()
    (tmp_path / "lie.nii").write_bytes(made)
    (tmp_path / "lie.nii.gz").write_bytes(gzip.compress(made))
    some = save_with(tmp_path / "b.nii", dim=[3, 1000, 1000, 500, 1, 1, 1, 1]).read_bytes()
    (tmp_path / "half.nii.gz").write_bytes(gzip.compress(some + os.urandom(1_200_000)))
    code = (
        "import resource, sys\n"
        "from medp2p.errors import ImageReadError\nfrom medp2p.io import read_volume\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        read_volume(path)\n"
        "    except ImageReadError:\n        print('refused')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    files = [str(tmp_path / f"lie{suffix}"), str(tmp_path / "half.nii.gz")]
    done = subprocess.run(
        [sys.executable, "-c", code, *files], capture_output=True, text=True, check=True
    )
    *refusals, kilobytes = done.stdout.split()
    assert refusals == ["refused", "refused"]
    assert int(kilobytes) < 20_000


def test_our_header_for_others(tmp_path: Path) -> None:
    """Codes kept, both frames set, millimetres, no scaling."""
    write_volume(Volume(VALUES, SFORM, "CT", "HU", nifti_code=4), tmp_path / "a.nii.gz")
    header = nib.load(tmp_path / "a.nii.gz").header
    assert int(header["sform_code"]) == int(header["qform_code"]) == 4
    assert header.get_xyzt_units()[0] == "mm"
    assert header.get_slope_inter() in ((None, None), (1.0, 0.0))
    assert header["descrip"].item() == b"medp2p CT HU"
    np.testing.assert_allclose(header.get_zooms(), (1.5, 2, 3))
    assert (tmp_path / "a.nii.gz").read_bytes()[3:8] == bytes(5)


def test_an_axis_too_long_for_nifti_1(tmp_path: Path) -> None:
    volume = Volume(np.zeros((40000, 1, 1), np.uint8), np.eye(4))
    with pytest.raises(OutputError, match="32767"):
        write_volume(volume, tmp_path / "a.nii")
    write_volume(volume, tmp_path / "a.mha")
    assert read_volume(tmp_path / "a.mha").shape == (40000, 1, 1)
