"""Every format: voxels and their places, against nibabel and SimpleITK."""

from __future__ import annotations

import subprocess
import sys
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from medp2p.errors import GeometryError, ImageReadError, OutputError
from medp2p.io import (
    VOXEL_TYPES,
    WRITE_SUFFIXES,
    image_suffix,
    is_image,
    read_grid,
    read_volume,
    write_volume,
)
from medp2p.volume import Volume

SHAPE = (5, 4, 3)
ORIENTATIONS = [
    "".join(letters[axis] for axis in order)
    for order in permutations(range(3))
    for letters in product("RL", "AP", "SI")
]


def axis_affine(orientation: str) -> NDArray[np.float64]:
    """An affine written down from the letters alone."""
    directions = {"R": (1, 0, 0), "A": (0, 1, 0), "S": (0, 0, 1)}
    opposites = {"L": "R", "P": "A", "I": "S"}
    affine = np.eye(4)
    for axis, (letter, spacing) in enumerate(zip(orientation, (0.9, 1.25, 3.0), strict=True)):
        sign = -1 if letter in opposites else 1
        affine[:3, axis] = np.multiply(directions[opposites.get(letter, letter)], sign * spacing)
    affine[:3, 3] = (-31.5, 17.25, 140.75)
    return affine


def oblique_affine() -> NDArray[np.float64]:
    """Three rotations, unequal spacings, a far origin."""
    affine = np.eye(4)
    rotation = np.eye(3)
    for plane, angle in (((0, 1), 0.3), ((1, 2), -0.7), ((0, 2), 0.45)):
        turn = np.eye(3)
        turn[plane[0], plane[0]] = turn[plane[1], plane[1]] = np.cos(angle)
        turn[plane[0], plane[1]], turn[plane[1], plane[0]] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    affine[:3, :3] = rotation * (0.4883, 1.1, 4.5)
    affine[:3, 3] = (-123.456789, 55.5, 1033.25)
    return affine


def world_positions(shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def coordinate_phantom(
    affine: NDArray[np.float64], axis: int, shape: tuple[int, int, int] = SHAPE
) -> Volume:
    """Each voxel stores its own world coordinate along one axis."""
    return Volume(world_positions(shape, affine)[..., axis], affine)


def positions_by_itk(image: sitk.Image) -> NDArray[np.float64]:
    """RAS positions of all voxels as SimpleITK computes them, indexed (i, j, k)."""
    positions = np.empty((*image.GetSize(), 3))
    for index in np.ndindex(*image.GetSize()):
        point = image.TransformIndexToPhysicalPoint([int(n) for n in index])
        positions[index] = (-point[0], -point[1], point[2])
    return positions


def itk_image(volume: Volume) -> sitk.Image:
    """Make an ITK image voxel by voxel, its geometry from ITK's own definitions."""
    image = sitk.Image([int(n) for n in volume.shape], sitk.sitkFloat64)
    for index in np.ndindex(*volume.shape):
        image[[int(n) for n in index]] = float(volume.array[index])
    lps = np.diag([-1.0, -1.0, 1.0]) @ volume.affine[:3]
    spacing = [float(np.sqrt((lps[:, axis] ** 2).sum())) for axis in range(3)]
    image.SetSpacing(spacing)
    image.SetDirection((lps[:, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:, 3].tolist())
    return image


def ct(shape: tuple[int, int, int] = SHAPE, dtype: str = "int16") -> Volume:
    values = np.random.default_rng(3).integers(-1024, 3071, shape)
    return Volume(values.astype(dtype), oblique_affine(), modality="CT", units="HU")


@pytest.mark.parametrize("orientation", [*ORIENTATIONS, "oblique"])
@pytest.mark.parametrize("suffix", WRITE_SUFFIXES)
def test_other_software_finds_every_voxel_where_we_put_it(
    tmp_path: Path, suffix: str, orientation: str
) -> None:
    affine = oblique_affine() if orientation == "oblique" else axis_affine(orientation)
    path = tmp_path / f"phantom{suffix}"
    for axis in range(3):
        phantom = coordinate_phantom(affine, axis)
        write_volume(phantom, path, dtype="float64", overwrite=True)
        image = sitk.ReadImage(str(path))
        values = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
        np.testing.assert_allclose(positions_by_itk(image)[..., axis], values, atol=1e-3)
        if suffix in (".nii", ".nii.gz"):
            by_nibabel = nib.load(path)
            positions = world_positions(SHAPE, by_nibabel.affine)[..., axis]
            np.testing.assert_allclose(positions, by_nibabel.get_fdata(), atol=1e-3)
            np.testing.assert_allclose(by_nibabel.get_qform(), by_nibabel.get_sform(), atol=1e-3)


@pytest.mark.parametrize("orientation", [*ORIENTATIONS, "oblique"])
@pytest.mark.parametrize("suffix", WRITE_SUFFIXES)
def test_we_find_every_voxel_where_other_software_put_it(
    tmp_path: Path, suffix: str, orientation: str
) -> None:
    affine = oblique_affine() if orientation == "oblique" else axis_affine(orientation)
    path = tmp_path / f"phantom{suffix}"
    for axis in range(3):
        phantom = coordinate_phantom(affine, axis)
        if suffix in (".nii", ".nii.gz"):
            nib.save(nib.Nifti1Image(phantom.array, affine), path)
        else:
            sitk.WriteImage(itk_image(phantom), str(path))
        volume = read_volume(path)
        positions = world_positions(volume.shape, volume.affine)[..., axis]
        np.testing.assert_allclose(positions, volume.array, atol=1e-3)
        np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
        assert orientation in ("oblique", volume.orientation)


def test_left_and_right_exchanged_would_be_noticed() -> None:
    """The oracle sees the error it is there for: LPS numbers taken for RAS."""
    phantom = coordinate_phantom(oblique_affine(), axis=0)
    image = itk_image(phantom)
    image.SetOrigin((-image.GetOrigin()[0], *image.GetOrigin()[1:]))
    assert np.abs(positions_by_itk(image)[..., 0] - phantom.array).max() > 100


@pytest.mark.parametrize("suffix", WRITE_SUFFIXES)
@pytest.mark.parametrize("voxel_type", VOXEL_TYPES)
def test_voxel_types_survive(tmp_path: Path, suffix: str, voxel_type: Any) -> None:
    values = np.random.default_rng(0).normal(60, 30, SHAPE).clip(0, 127).astype(voxel_type)
    path = tmp_path / f"image{suffix}"
    write_volume(Volume(values, oblique_affine()), path, dtype=voxel_type)
    volume = read_volume(path)
    assert volume.array.dtype == voxel_type
    assert volume.array.flags.writeable
    np.testing.assert_array_equal(volume.array, values)
    by_itk = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose(2, 1, 0)
    np.testing.assert_array_equal(by_itk, values)


@pytest.mark.parametrize("suffix", WRITE_SUFFIXES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 1), (1, 7, 2), (33, 17, 9)])
def test_odd_and_single_sizes(tmp_path: Path, suffix: str, shape: tuple[int, int, int]) -> None:
    path = tmp_path / f"image{suffix}"
    write_volume(ct(shape), path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, ct(shape).array)
    assert volume.grid.difference(ct(shape).grid) is None


@pytest.mark.parametrize("suffix", WRITE_SUFFIXES)
@pytest.mark.parametrize("order", ["C", "F", "view"])
def test_memory_layout_does_not_matter(tmp_path: Path, suffix: str, order: str) -> None:
    volume = ct()
    if order == "view":
        array = np.zeros((10, 8, 3), np.int16)[::-2, 1::2]
        array[:] = volume.array
    else:
        array = np.array(volume.array, order=order)  # type: ignore[call-overload]
    write_volume(volume.with_array(array), tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}").array, volume.array)


@pytest.mark.parametrize("suffix", WRITE_SUFFIXES)
@pytest.mark.parametrize(
    ("modality", "units"), [("CT", "HU"), ("MR", None), ("MASK", None), (None, None)]
)
def test_meaning_survives(
    tmp_path: Path, suffix: str, modality: str | None, units: str | None
) -> None:
    path = tmp_path / f"image{suffix}"
    write_volume(Volume(ct().array, np.eye(4), modality, units), path)
    volume = read_volume(path)
    assert (volume.modality, volume.units, volume.path) == (modality, units, path)
    assert read_volume(path, modality="CT").units == "HU"
    assert read_volume(path, modality="MR").units is None


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_meaning_of_other_peoples_files_is_left_open(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5), np.int16)), str(path))
    assert (read_volume(path).modality, read_volume(path).units) == (None, None)


@pytest.mark.parametrize("suffix", WRITE_SUFFIXES)
def test_same_volume_same_bytes(tmp_path: Path, suffix: str) -> None:
    contents = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        write_volume(ct(), folder / f"image{suffix}")
        contents.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert contents[0] == contents[1]
    assert len(contents[0]) == (2 if suffix == ".mhd" else 1)


@pytest.mark.parametrize("suffix", WRITE_SUFFIXES)
def test_rounding_and_clipping(tmp_path: Path, suffix: str) -> None:
    values = np.array([0.5, 1.5, -0.5, -1.5, 2.49, 40000.0, -40000.0, 3e38], np.float32)
    volume = Volume(values.reshape(2, 2, 2), np.eye(4))
    write_volume(volume, tmp_path / f"a{suffix}", dtype="int16")
    expected = [0, 2, 0, -2, 2, 32767, -32768, 32767]
    array = read_volume(tmp_path / f"a{suffix}").array
    np.testing.assert_array_equal(array, np.reshape(expected, (2, 2, 2)))
    assert array.dtype == np.int16


@pytest.mark.parametrize(
    ("dtype", "wanted", "stored"),
    [
        (np.bool_, None, np.uint8),
        (np.float16, None, np.float32),
        (np.float64, None, np.float32),
        (np.int64, None, np.int32),
        (np.uint64, None, np.int32),
        (np.int64, "uint8", np.uint8),
        (np.float64, "float64", np.float64),
        (np.dtype(">i2"), None, np.int16),
        (np.dtype(">f4"), "int16", np.int16),
    ],
)
def test_stored_types(tmp_path: Path, dtype: Any, wanted: Any, stored: Any) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    write_volume(Volume(values, np.eye(4)), tmp_path / "a.nii", dtype=wanted)
    array = read_volume(tmp_path / "a.nii").array
    assert array.dtype == stored
    np.testing.assert_array_equal(array, values.astype(stored))


def test_integers_are_clipped_not_wrapped(tmp_path: Path) -> None:
    values = np.array([-70000, -1, 255, 256, 70000, 2**40]).reshape(1, 2, 3)
    write_volume(Volume(values, np.eye(4)), tmp_path / "a.mha", dtype="uint8")
    expected = np.reshape([0, 0, 255, 255, 255, 255], (1, 2, 3))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mha").array, expected)


@pytest.mark.parametrize("suffix", WRITE_SUFFIXES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_non_finite_voxels_are_not_written(
    tmp_path: Path, suffix: str, value: float, dtype: Any
) -> None:
    array = np.zeros(SHAPE, np.float32)
    array[-1, -1, -1] = value
    with pytest.raises(OutputError, match="NaN or infinity"):
        write_volume(Volume(array, np.eye(4)), tmp_path / f"a{suffix}", dtype=dtype)
    assert list(tmp_path.iterdir()) == []


def test_floats_beyond_float32_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="beyond the range of float32"):
        write_volume(Volume(np.full((2, 2, 2), 1e39), np.eye(4)), tmp_path / "a.nii")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".mhd", ".nrrd"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_voxels_are_refused_or_replaced(
    tmp_path: Path, suffix: str, value: float
) -> None:
    array = np.ones(SHAPE, np.float32)
    array[0, 1, 2] = array[3, 3, 1] = value
    path = tmp_path / f"image{suffix}"
    if suffix in (".nii", ".nii.gz"):
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(array.transpose(2, 1, 0)), str(path))
    with pytest.raises(ImageReadError, match=r"2 of 60 voxels.*--replace-non-finite"):
        read_volume(path)
    replaced = read_volume(path, replace_non_finite=-5).array
    assert replaced[0, 1, 2] == replaced[3, 3, 1] == -5
    assert (replaced == 1).sum() == 58


def test_replacement_must_be_a_number(tmp_path: Path) -> None:
    write_volume(ct(), tmp_path / "a.nii")
    for value in (np.nan, np.inf, 1e39):
        with pytest.raises(ValueError, match="replace_non_finite"):
            read_volume(tmp_path / "a.nii", replace_non_finite=value)


@pytest.mark.parametrize("suffix", WRITE_SUFFIXES)
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, suffix: str, dtype: Any) -> None:
    """Written by us and by SimpleITK, compressed and not."""
    volume = ct((9, 8, 7), dtype)
    image = sitk.Cast(itk_image(volume), sitk.sitkInt16 if dtype == "int16" else sitk.sitkFloat32)
    for name, compressed in (("ours", True), ("small", True), ("plain", False)):
        path = tmp_path / f"{name}{suffix}"
        if name == "ours":
            write_volume(volume, path)
        else:
            sitk.WriteImage(image, str(path), useCompression=compressed)
        np.testing.assert_array_equal(read_volume(path).array, volume.array)
        data_files = [f for f in tmp_path.glob(f"{name}.*") if f.suffix in (".raw", ".zraw")]
        victim = data_files[0] if data_files else path
        whole = victim.read_bytes()
        lengths = {0, 1, 100, len(whole) // 2, len(whole) - 9, len(whole) - 4, len(whole) - 1}
        for length in lengths:
            victim.write_bytes(whole[:length])
            with pytest.raises(ImageReadError) as caught:
                read_volume(path)
            assert "\n" not in str(caught.value)
            assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".mhd", ".nrrd"])
def test_a_flipped_bit_in_compressed_voxels_is_noticed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    write_volume(ct((20, 20, 20)), path)
    victim = path.with_suffix(".zraw") if suffix == ".mhd" else path
    whole = victim.read_bytes()
    for position in range(len(whole) - 4000, len(whole), 97):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        victim.write_bytes(damaged)
        with pytest.raises(ImageReadError):
            read_volume(path)


@pytest.mark.parametrize("suffix", [*WRITE_SUFFIXES, ".nhdr"])
@pytest.mark.parametrize("content", [b"", b"\0", b"hello world\n", b"\0" * 5000, b"=\n:\n" * 900])
def test_garbage_is_refused_in_one_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"image{suffix}"
    path.write_bytes(content)
    with pytest.raises(ImageReadError) as caught:
        read_volume(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_random_damage_never_surprises(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Bytes of headers changed at random: a volume or a refusal, and silence."""
    rng = np.random.default_rng(11)
    messages: list[str] = []
    for suffix in (".nii", ".mha", ".mhd", ".nrrd"):
        path = tmp_path / f"image{suffix}"
        write_volume(ct(), path)
        whole = path.read_bytes()
        for _ in range(250):
            damaged = bytearray(whole)
            for position in rng.integers(0, min(len(whole), 500), rng.integers(1, 5)):
                damaged[position] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                read_volume(path)
            except (ImageReadError, GeometryError) as error:
                messages.append(str(error))
    assert len(messages) > 500
    assert not any("\n" in message for message in messages)
    assert capfd.readouterr() == ("", "")


def test_names_that_are_not_images(tmp_path: Path) -> None:
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "scan.png").write_bytes(b"x")
    (tmp_path / "scan.img").write_bytes(b"x")
    for name, reason in [
        ("missing.nii.gz", "no such file"),
        ("folder.nii.gz", "an empty folder"),
        ("scan.png", "not a PNG file"),
        ("scan.img", "pair"),
        ("n" * 300 + ".nii", "cannot be read|no such file"),
        ("scan.png/x.nii", "no such file"),
    ]:
        with pytest.raises(ImageReadError, match=reason):
            read_volume(tmp_path / name)


def test_suffixes() -> None:
    assert image_suffix("a/b.c/Patient.01.NII.GZ") == ".nii.gz"
    assert image_suffix(Path("mr.mha")) == ".mha"
    assert [image_suffix(n) for n in ("a.gz", "a.png", "nii.gz", ".nii.gz", "a")] == [""] * 5
    assert is_image("mr.nii")
    assert not is_image("._mr.nii")
    assert not is_image("mr.nii.txt")


@pytest.mark.parametrize("name", ["out.png", "out", "out.nii.zip", "out.nhdr", ".nii"])
def test_unknown_output_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"\.nii\.gz"):
        write_volume(ct(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", WRITE_SUFFIXES)
def test_nothing_is_replaced_unasked(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    write_volume(ct(), path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(OutputError, match="--overwrite"):
        write_volume(ct(), path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    other = ct().with_array(ct().array[::-1].copy())
    write_volume(other, path, overwrite=True)
    np.testing.assert_array_equal(read_volume(path).array, other.array)
    assert len(list(tmp_path.iterdir())) == len(before)


@pytest.mark.parametrize("suffix", WRITE_SUFFIXES)
def test_sheared_axes_are_not_written(tmp_path: Path, suffix: str) -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.05
    with pytest.raises(GeometryError, match="perpendicular"):
        write_volume(Volume(ct().array, affine), tmp_path / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="voxel type"):
        write_volume(ct(), tmp_path / "a.nii", dtype="complex64")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="real numbers"):
        write_volume(Volume(np.zeros((2, 2, 2), complex), np.eye(4)), tmp_path / "a.nii")
    assert list(tmp_path.iterdir()) == []


def test_reading_loads_neither_torch_nor_simpleitk(tmp_path: Path) -> None:
    write_volume(ct(), tmp_path / "a.mha")
    code = (
        "import sys, medp2p; medp2p.read_volume(sys.argv[1]);"
        "print([n for n in ('torch', 'SimpleITK', 'monai', 'pydantic') if n in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.mha")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("suffix", WRITE_SUFFIXES)
def test_the_grid_is_read_without_the_voxels(suffix: str, tmp_path: Path) -> None:
    volume = coordinate_phantom(oblique_affine(), 0)
    path = tmp_path / f"a{suffix}"
    write_volume(volume, path)
    whole = read_volume(path).grid
    if suffix not in (".mhd", ".nii.gz"):
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(ImageReadError):
            read_volume(path)
    found = read_grid(path)
    assert found.shape == whole.shape
    np.testing.assert_array_equal(found.affine, whole.affine)
    with pytest.raises(ImageReadError, match="no such file"):
        read_grid(tmp_path / f"none{suffix}")
