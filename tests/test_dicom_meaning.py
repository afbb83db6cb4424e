"""What a number means, and which images may lie in one volume: headers that tell them apart."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from conftest import run
from dicom_phantoms import (
    AXIAL,
    CT,
    MARK,
    enhanced,
    falsely_compressed,
    paint,
    repeated,
    save,
    setting,
    slices,
    uid,
    write,
)
from pydicom import Dataset
from pydicom.uid import JPEG2000Lossless

from medp2p.errors import GeometryError, ImageReadError
from medp2p.io import DicomOptions, read_volume


@pytest.mark.external
@pytest.mark.parametrize("command", [("dcmcjpeg", "+e1"), ("dcmcjpeg", "+el"), ("dcmcjpls",)])
def test_compressed_monochrome1_keeps_its_values(tmp_path: Path, command: tuple[str, ...]) -> None:
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} (Debian package dcmtk) is not here")
    for name in ("plain", "packed"):
        write(tmp_path / name, setting(PhotometricInterpretation="MONOCHROME1")(slices(CT)), 2)
    for path in (tmp_path / "packed").iterdir():
        other = path.with_suffix(".packed")
        subprocess.run([*command, path, other], check=True, capture_output=True)
        other.replace(path)
    plain, packed = (read_volume(tmp_path / name) for name in ("plain", "packed"))
    np.testing.assert_array_equal(packed.array, plain.array)


@pytest.mark.parametrize("kind", ["Z_EFF", "MGML", "US"])
@pytest.mark.parametrize("multi_frame", [False, True])
def test_a_ct_that_is_not_in_hu_is_refused(tmp_path: Path, kind: str, multi_frame: bool) -> None:
    painted = paint(slices(CT), 2)
    if multi_frame:
        painted = [enhanced(painted)]
        for groups in (
            painted[0].SharedFunctionalGroupsSequence,
            painted[0].PerFrameFunctionalGroupsSequence,
        ):
            for item in groups:
                for values in item.get("PixelValueTransformationSequence", []):
                    values.RescaleType = kind
        painted[0].pop("RescaleType", None)
    else:
        for ds in painted:
            ds.RescaleType = kind
    for n, ds in enumerate(painted):
        save(ds, tmp_path / f"{n}.dcm")
    with pytest.raises(ImageReadError, match="RescaleType is not HU"):
        read_volume(tmp_path)


@pytest.mark.parametrize(
    ("keyword", "values"),
    [("InversionTime", ("100", "900")), ("FlipAngle", ("5", "30")), ("ConvolutionKernel", "AB")],
)
def test_two_kinds_interleaved_are_no_volume(tmp_path: Path, keyword: str, values) -> None:
    datasets = slices(CT if keyword == "ConvolutionKernel" else AXIAL)
    for k, ds in enumerate(datasets):
        setattr(ds, keyword, values[k % 2])
    write(tmp_path, datasets, 2)
    with pytest.raises(ImageReadError, match=r"2 kinds of image.*--group N"):
        read_volume(tmp_path)
    assert read_volume(tmp_path, dicom=DicomOptions(group=2)).shape[2] == AXIAL.shape[2] // 2


def test_two_stacks_of_an_enhanced_image_are_no_volume(tmp_path: Path) -> None:
    ds = enhanced(paint(slices(), 2))
    for k, item in enumerate(ds.PerFrameFunctionalGroupsSequence):
        item.FrameContentSequence[0].StackID = str(1 + k % 2)
    save(ds, tmp_path / "0.dcm")
    with pytest.raises(ImageReadError, match="2 kinds of image"):
        read_volume(tmp_path)


def test_direction_cosines_must_be_unit_vectors(tmp_path: Path) -> None:
    datasets = slices()
    for ds in datasets:
        ds.ImageOrientationPatient = [1.005, 0, 0, 0, 1, 0]
    write(tmp_path, datasets, 2)
    with pytest.raises(GeometryError, match=r"unit vectors .off by 0.005.*--orientation-tolerance"):
        read_volume(tmp_path)
    read_volume(tmp_path, dicom=DicomOptions(orientation_tolerance=0.01))


def test_a_quadruped_is_refused(tmp_path: Path) -> None:
    write(tmp_path, setting(AnatomicalOrientationType="QUADRUPED")(slices()), 2)
    with pytest.raises(ImageReadError, match="quadruped"):
        read_volume(tmp_path)


def test_other_kinds_of_image_beside_a_series_do_not_matter(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, slices(), 2)
    for n, sop_class in enumerate(("1.2.840.10008.5.1.4.1.1.4.2", "1.2.840.10008.5.1.4.1.1.30")):
        other = Dataset()
        other.SOPClassUID, other.SOPInstanceUID = sop_class, uid("other", n)
        other.SeriesInstanceUID, other.StudyInstanceUID = uid("others", n), uid("study")
        other.Rows = other.Columns = 4
        other.PatientID, other.PatientName = "1", "A"
        if n:
            other.FloatPixelData = bytes(64)
        save(other, tmp_path / f"other_{n}.dcm")
    (tmp_path / "chance").write_bytes(b"\x08\x00\x05\x00AA" + bytes(range(200)))
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    assert read_volume(tmp_path).shape == AXIAL.shape
    assert "left out" in caplog.text


def test_volumes_within_time_points_are_numbered_on(tmp_path: Path) -> None:
    both = repeated(6, TemporalPositionIdentifier=lambda t, _: t // 2 + 1)
    write(tmp_path, both(slices()), 2)
    with pytest.raises(ImageReadError, match=r"6 volumes.*0 to 5.*--volume K"):
        read_volume(tmp_path)
    first = read_volume(tmp_path, volume_index=0).array.astype(float)
    for index in range(6):
        volume = read_volume(tmp_path, volume_index=index)
        np.testing.assert_allclose(volume.array - first, MARK * index, atol=0.01)


def test_words_of_image_type_are_shown_only_if_they_are_known(tmp_path: Path) -> None:
    datasets = slices()
    for k, ds in enumerate(datasets):
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "QUISENBERRY" if k % 2 else "NORM"]
    write(tmp_path, datasets, 2)
    with pytest.raises(ImageReadError, match="kinds of image") as refusal:
        read_volume(tmp_path)
    assert "NORM" in str(refusal.value)
    assert "QUISENBERRY" not in str(refusal.value)


def test_a_damaged_code_stream_is_one_line(capsys, tmp_path: Path) -> None:
    falsely_compressed(JPEG2000Lossless)(tmp_path / "in", 2)
    code, out, err = run(capsys, "convert", tmp_path / "in", tmp_path / "out.nii.gz")
    assert code == 1
    assert out == ""
    assert len(err.splitlines()) == 1, err


def test_zeros_instead_of_a_header_are_found_at_once(tmp_path: Path) -> None:
    write(tmp_path, slices(), 2)
    path = sorted(tmp_path.iterdir())[0]
    head = path.read_bytes()[:700]
    with path.open("wb") as file:
        file.write(head)
        file.truncate(1 << 33)
    began = time.perf_counter()
    with pytest.raises(ImageReadError, match="zeros"):
        read_volume(tmp_path)
    assert time.perf_counter() - began < 5


def test_groups_that_differ_in_nothing_else_show_their_frame_of_reference(tmp_path: Path) -> None:
    datasets = slices()
    for ds in datasets[::2]:
        ds.FrameOfReferenceUID = uid("another")
    write(tmp_path, datasets, 2)
    with pytest.raises(ImageReadError, match="frame of reference #") as refusal:
        read_volume(tmp_path)
    labels = str(refusal.value).split(" of: ")[1].split("; ")
    assert len({label.split(": ")[1] for label in labels}) == 2


def test_a_slice_of_no_thickness_is_refused(tmp_path: Path) -> None:
    write(tmp_path, setting(SliceThickness="0")(slices(replace(AXIAL, shape=(32, 20, 1)))), 2)
    with pytest.raises(GeometryError, match="SliceThickness"):
        read_volume(tmp_path)
    assert pydicom.dcmread(next(tmp_path.iterdir())).SliceThickness == 0


def test_rows_slightly_askew_stay_in_place_when_resampled(tmp_path: Path) -> None:
    """Rows and columns 0.05 degrees from perpendicular, 400 mm from the scanner's centre."""
    scan = replace(AXIAL, centre_mm=(150.0, 160.0, 20.0), spacing_mm=(2.0, 2.0, 5.0))
    datasets = slices(scan)
    for ds in datasets:
        ds.ImageOrientationPatient = [1, 0, 0, 0.0009, 1, 0]
    for axis in range(3):
        write(tmp_path / str(axis), [ds for k, ds in enumerate(datasets) if k != 4], axis)
        volume = read_volume(tmp_path / str(axis), resample=True)
        index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), -1)
        lps = (index @ volume.affine[:3, :3].T + volume.affine[:3, 3]) * (-1, -1, 1)
        assert np.abs(volume.array - lps[..., axis]).max() < 0.03
        for ds in datasets:
            ds.pop("PixelData", None)
