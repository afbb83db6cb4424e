"""MetaImage and NRRD: their own rules, with SimpleITK and headers written by hand."""

from __future__ import annotations

import gzip
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from medp2p.errors import GeometryError, ImageReadError, OutputError
from medp2p.io import read_volume, write_volume
from medp2p.volume import Volume

VALUES = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
DATA = VALUES.ravel(order="F").astype("<i2").tobytes()

META = {
    "ObjectType": "Image",
    "NDims": "3",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "10 20 30",
    "ElementSpacing": "1 2 3",
    "DimSize": "2 3 4",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}
NRRD = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "2 3 4",
    "space directions": "(1,0,0) (0,2,0) (0,0,3)",
    "encoding": "raw",
    "endian": "little",
    "space origin": "(10,20,30)",
}
LPS_AFFINE = np.array([[-1, 0, 0, -10], [0, -2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1.0]])


def meta(path: Path, data: bytes = DATA, **changes: str | None) -> Path:
    """Write a MetaImage by hand; a change to None leaves the key out."""
    fields = {k: v for k, v in (META | changes).items() if v is not None}
    fields["ElementDataFile"] = fields.pop("ElementDataFile")
    lines = "".join(f"{key} = {value}\n" for key, value in fields.items())
    path.write_bytes(lines.encode() + data)
    return path


def nrrd(path: Path, data: bytes = DATA, **changes: str | None) -> Path:
    """Write a NRRD file by hand; underscores in keywords stand for spaces."""
    renamed = {key.replace("_", " "): value for key, value in changes.items()}
    fields = {k: v for k, v in (NRRD | renamed).items() if v is not None}
    lines = "".join(f"{key}: {value}\n" for key, value in fields.items())
    path.write_bytes(b"NRRD0005\n# a comment: with a colon\n" + lines.encode() + b"\n" + data)
    return path


def test_files_by_hand_agree_with_simpleitk(tmp_path: Path) -> None:
    for path in (meta(tmp_path / "a.mha"), nrrd(tmp_path / "a.nrrd")):
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.array, VALUES)
        np.testing.assert_array_equal(volume.affine, LPS_AFFINE)
        by_itk = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(by_itk).T, VALUES)
        assert by_itk.GetOrigin() == (10, 20, 30)


@pytest.mark.parametrize("key", ["Offset", "Origin", "Position"])
@pytest.mark.parametrize("matrix", ["TransformMatrix", "Orientation", "Rotation"])
def test_metaimage_synonyms(tmp_path: Path, key: str, matrix: str) -> None:
    turned = "0 1 0 0 0 1 1 0 0"
    changes = {"Offset": None, "TransformMatrix": None} | {key: "1 2 3", matrix: turned}
    path = meta(tmp_path / "a.mha", **changes)
    by_itk = sitk.ReadImage(str(path))
    assert by_itk.GetOrigin() == (1, 2, 3)
    volume = read_volume(path)
    direction = np.array(by_itk.GetDirection()).reshape(3, 3) * by_itk.GetSpacing()
    np.testing.assert_array_equal(volume.affine[:3, :3], np.diag([-1, -1, 1]) @ direction)
    np.testing.assert_array_equal(volume.affine[:3, 3], [-1, -2, 3])


@pytest.mark.parametrize("key", ["Offset", "TransformMatrix", "ElementSpacing"])
def test_metaimage_without_a_place_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(GeometryError, match=f"no {key}, so nothing says where"):
        read_volume(meta(tmp_path / "a.mha", **{key: None}))


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"ElementSpacing": "1 0 3"}, GeometryError, "not above 0"),
        ({"ElementSpacing": "1 -2 3"}, GeometryError, "not above 0"),
        ({"Offset": "1 2"}, ImageReadError, "not 3 number"),
        ({"Offset": "1 2 nan"}, ImageReadError, "not 3 number"),
        ({"Offset": "1 2 1e300"}, ImageReadError, "not 3 number"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 1 0"}, GeometryError, "flattens space"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 0.1 0.995"}, GeometryError, "perpendicular"),
        ({"NDims": None}, ImageReadError, "no NDims; it is damaged"),
        ({"NDims": "2"}, ImageReadError, "2 axes"),
        ({"DimSize": "2 3 0"}, ImageReadError, "no voxels"),
        ({"DimSize": "2 3 5"}, ImageReadError, "promises 60 bytes"),
        ({"DimSize": "2 3 3"}, ImageReadError, "48 bytes of voxels, expected 36"),
        ({"DimSize": "20000 30000 50000"}, ImageReadError, "promises"),
        ({"ElementType": "MET_LONG"}, ImageReadError, "ElementType"),
        ({"ElementNumberOfChannels": "3"}, ImageReadError, "3 channels"),
        ({"BinaryData": "False"}, ImageReadError, "text"),
        ({"CompressedData": "True"}, ImageReadError, "damaged"),
        ({"ElementDataFile": "LIST"}, ImageReadError, "many files"),
        ({"ElementDataFile": "a%02d.raw 1 4 1"}, ImageReadError, "many files"),
        ({"ElementDataFile": "missing.raw"}, ImageReadError, "missing"),
    ],
)
def test_metaimages_that_are_refused(
    tmp_path: Path, changes: dict[str, str | None], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason) as caught:
        read_volume(meta(tmp_path / "a.mha", **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["BinaryDataByteOrderMSB", "ElementByteOrderMSB"])
def test_metaimage_big_endian(tmp_path: Path, key: str) -> None:
    data = VALUES.ravel(order="F").astype(">i2").tobytes()
    np.testing.assert_array_equal(
        read_volume(meta(tmp_path / "a.mha", data, **{key: "True"})).array, VALUES
    )


def test_metaimage_data_file_with_its_own_header(tmp_path: Path) -> None:
    """Without HeaderSize the voxels would be shifted by what precedes them."""
    (tmp_path / "voxels.raw").write_bytes(b"12345678" + DATA)
    changes = {"ElementDataFile": "voxels.raw"}
    for size in ("8", "-1"):
        path = meta(tmp_path / "a.mhd", b"", HeaderSize=size, **changes)
        np.testing.assert_array_equal(read_volume(path).array, VALUES)
    with pytest.raises(ImageReadError, match="where they begin is not certain"):
        read_volume(meta(tmp_path / "a.mhd", b"", **changes))


@pytest.mark.parametrize("deflate", [zlib.compress, gzip.compress])
def test_metaimage_compressed_without_its_size(tmp_path: Path, deflate: Any) -> None:
    """SimpleITK returns wrong voxels for such a file."""
    path = meta(tmp_path / "a.mha", deflate(DATA), CompressedData="True")
    np.testing.assert_array_equal(read_volume(path).array, VALUES)


def test_metaimage_of_several_volumes(tmp_path: Path) -> None:
    changes = {
        "NDims": "4",
        "TransformMatrix": "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1",
        "Offset": "10 20 30 0",
        "ElementSpacing": "1 2 3 1",
    }
    path = meta(tmp_path / "a.mha", DATA + DATA[::-1], DimSize="2 3 4 2", **changes)
    with pytest.raises(ImageReadError, match=r"holds 2 volumes.*--volume"):
        read_volume(path)
    np.testing.assert_array_equal(read_volume(path, volume_index=0).array, VALUES)
    np.testing.assert_array_equal(read_volume(path, volume_index=0).affine, LPS_AFFINE)
    second = np.frombuffer(DATA[::-1], "<i2").reshape(2, 3, 4, order="F")
    np.testing.assert_array_equal(read_volume(path, volume_index=1).array, second)
    single = meta(tmp_path / "b.mha", DATA, DimSize="2 3 4 1", **changes)
    np.testing.assert_array_equal(read_volume(single).array, VALUES)


def test_colours_of_simpleitk_are_refused(tmp_path: Path) -> None:
    colours = sitk.GetImageFromArray(np.zeros((4, 3, 2, 3), np.uint8), isVector=True)
    for suffix in (".mha", ".nrrd", ".nii"):
        sitk.WriteImage(colours, str(tmp_path / f"a{suffix}"))
        with pytest.raises(ImageReadError, match=r"channels|real numbers|volumes"):
            read_volume(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
        ("LAS", (-1, 1, 1)),
    ],
)
def test_nrrd_spaces(tmp_path: Path, space: str, signs: tuple[int, int, int]) -> None:
    path = nrrd(tmp_path / "a.nrrd", space=space)
    expected = np.diag([*signs, 1]) @ np.diag([-1, -1, 1, 1]) @ LPS_AFFINE
    np.testing.assert_array_equal(read_volume(path).affine, expected)
    if "-" in space:
        by_itk = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(np.array(by_itk.GetOrigin()) * [-1, -1, 1], expected[:3, 3])


@pytest.mark.parametrize("key", ["space", "space_directions", "space_origin"])
def test_nrrd_without_a_place_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(GeometryError, match="so nothing says where the voxels lie"):
        read_volume(nrrd(tmp_path / "a.nrrd", **{key: None}))


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"space": "scanner-xyz"}, GeometryError, "a space that is not read"),
        ({"space_units": '"um" "um" "um"'}, GeometryError, "not mm"),
        ({"space_origin": "(1,2)"}, GeometryError, "not three lengths"),
        ({"space_origin": "(1,2,nan)"}, GeometryError, "not three lengths"),
        ({"space_directions": "(1,0,0) (0,2,0) (0,0,1e300)"}, GeometryError, "three lengths"),
        ({"space_directions": "(1,0,0) (0,2,0)"}, ImageReadError, "three axes in space"),
        ({"space_directions": "(1,0,0) (0,2,0) (0,1,0)"}, GeometryError, "flattens space"),
        ({"space_directions": "(1,0,0) (0,2,0) (0,1,3)"}, GeometryError, "perpendicular"),
        ({"sizes": "2 3"}, ImageReadError, "sizes"),
        ({"sizes": "2 3 -4"}, ImageReadError, "sizes"),
        ({"sizes": "2 3 0"}, ImageReadError, "no voxels"),
        ({"sizes": "2 3 5"}, ImageReadError, "promises 60 bytes"),
        ({"sizes": "2 3 3"}, ImageReadError, "where they begin"),
        ({"type": "block"}, ImageReadError, "voxel type"),
        ({"endian": None}, ImageReadError, "no field 'endian:'"),
        ({"type": None}, ImageReadError, "no field 'type:'"),
        ({"encoding": "hex"}, ImageReadError, "encoding"),
        ({"encoding": "gzip"}, ImageReadError, "damaged"),
        ({"line_skip": "1"}, ImageReadError, "line skip"),
        ({"byte_skip": "x"}, ImageReadError, "a number in the header"),
        ({"data_file": "LIST"}, ImageReadError, "many files"),
        ({"data_file": "missing.raw"}, ImageReadError, "missing"),
    ],
)
def test_nrrd_files_that_are_refused(
    tmp_path: Path, changes: dict[str, str | None], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason) as caught:
        read_volume(nrrd(tmp_path / "a.nrrd", **changes))
    assert "\n" not in str(caught.value)


def test_nrrd_big_endian(tmp_path: Path) -> None:
    data = VALUES.ravel(order="F").astype(">i2").tobytes()
    np.testing.assert_array_equal(
        read_volume(nrrd(tmp_path / "a.nrrd", data, endian="big")).array, VALUES
    )


@pytest.mark.parametrize(("encoding", "skip"), [("raw", "-1"), ("raw", "5"), ("gzip", "0")])
def test_nrrd_with_its_data_elsewhere(tmp_path: Path, encoding: str, skip: str) -> None:
    data = gzip.compress(DATA) if encoding == "gzip" else b"12345" + DATA
    (tmp_path / "voxels").write_bytes(data)
    path = nrrd(tmp_path / "a.nhdr", b"", encoding=encoding, byte_skip=skip, datafile="voxels")
    np.testing.assert_array_equal(read_volume(path).array, VALUES)


def test_nrrd_header_by_simpleitk(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.ReadImage(str(nrrd(tmp_path / "a.nrrd"))), str(tmp_path / "b.nhdr"))
    volume = read_volume(tmp_path / "b.nhdr")
    np.testing.assert_array_equal(volume.array, VALUES)
    np.testing.assert_array_equal(volume.affine, LPS_AFFINE)


def test_nrrd_of_several_volumes_and_channels(tmp_path: Path) -> None:
    four = {"dimension": "4", "sizes": "2 3 4 2"}
    directions = "(1,0,0) (0,2,0) (0,0,3) none"
    path = nrrd(tmp_path / "a.nrrd", DATA + DATA, space_directions=directions, **four)
    with pytest.raises(ImageReadError, match=r"holds 2 volumes.*--volume"):
        read_volume(path)
    np.testing.assert_array_equal(read_volume(path, volume_index=1).array, VALUES)
    channels = {"dimension": "4", "sizes": "2 2 3 4"}
    directions = "none (1,0,0) (0,2,0) (0,0,3)"
    path = nrrd(tmp_path / "b.nrrd", DATA + DATA, space_directions=directions, **channels)
    with pytest.raises(ImageReadError, match="channels"):
        read_volume(path)


def test_mhd_names_its_data_file_without_a_folder(tmp_path: Path) -> None:
    """So that the two can be moved together."""
    write_volume(Volume(VALUES, LPS_AFFINE), tmp_path / "here" / "scan.mhd")
    (tmp_path / "here").rename(tmp_path / "there")
    np.testing.assert_array_equal(read_volume(tmp_path / "there" / "scan.mhd").array, VALUES)
    assert sorted(f.name for f in (tmp_path / "there").iterdir()) == ["scan.mhd", "scan.zraw"]


def test_an_mhd_is_never_beside_the_wrong_data(tmp_path: Path) -> None:
    """Old header away, new data, new header: seen through Python's audit events."""
    write_volume(Volume(VALUES, LPS_AFFINE), tmp_path / "scan.mhd")
    code = (
        "import os, sys\nfrom medp2p.io import read_volume, write_volume\n"
        "volume = read_volume(sys.argv[1])\n"
        "def note(event, arguments):\n"
        "    if event in ('os.remove', 'os.rename'):\n"
        "        place = arguments[event == 'os.rename']\n"
        "        print(event, os.path.basename(place))\n"
        "sys.addaudithook(note)\n"
        "write_volume(volume, sys.argv[1], overwrite=True)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "scan.mhd")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    events = [line for line in done.stdout.splitlines() if ".tmp-" not in line]
    assert events == ["os.remove scan.mhd", "os.rename scan.zraw", "os.rename scan.mhd"]
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.mhd").array, VALUES)


def test_names_beyond_ascii(tmp_path: Path) -> None:
    write_volume(Volume(VALUES, LPS_AFFINE), tmp_path / "Müller 1.mhd")
    np.testing.assert_array_equal(read_volume(tmp_path / "Müller 1.mhd").array, VALUES)
    by_itk = sitk.ReadImage(str(tmp_path / "Müller 1.mhd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(by_itk).T, VALUES)


def test_more_compressed_voxels_than_the_header_says(tmp_path: Path) -> None:
    data = zlib.compress(DATA + bytes(2))
    with pytest.raises(ImageReadError, match="more voxels than the header says"):
        read_volume(meta(tmp_path / "a.mha", data, CompressedData="True"))
    with pytest.raises(ImageReadError, match="more voxels than the header says"):
        read_volume(nrrd(tmp_path / "a.nrrd", gzip.compress(DATA + bytes(2)), encoding="gzip"))


def test_mhd_takes_nobody_elses_data_file(tmp_path: Path) -> None:
    (tmp_path / "scan.zraw").write_bytes(b"of another image")
    with pytest.raises(OutputError, match=r"scan\.zraw: exists already"):
        write_volume(Volume(VALUES, LPS_AFFINE), tmp_path / "scan.mhd")
    assert [f.name for f in tmp_path.iterdir()] == ["scan.zraw"]


def test_a_failed_overwrite_leaves_the_old_mhd_whole(tmp_path: Path) -> None:
    write_volume(Volume(VALUES, LPS_AFFINE), tmp_path / "scan.mhd")
    broken = np.full(VALUES.shape, np.nan, np.float32)
    with pytest.raises(OutputError, match="NaN"):
        write_volume(Volume(broken, LPS_AFFINE), tmp_path / "scan.mhd", overwrite=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.mhd").array, VALUES)
    assert len(list(tmp_path.iterdir())) == 2


def test_itk_says_nothing_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path in (meta(tmp_path / "a.mha", DATA[:9]), nrrd(tmp_path / "a.nrrd", DATA[:9])):
        with pytest.raises(ImageReadError):
            read_volume(path)
    assert capfd.readouterr() == ("", "")
