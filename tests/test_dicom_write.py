"""What a written DICOM series holds: geometry, values, header, UIDs; when nothing is written."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import mount, oblique_affine
from dicom_phantoms import (
    AXIAL,
    CHARACTER_SETS,
    PLANES,
    SECRETS,
    Scan,
    Slices,
    long_uids,
    paint,
    private_tags,
    raw,
    save_as_said,
    setting,
    slices,
    uid,
    uid_of_64,
    write,
)
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import ImplicitVRLittleEndian

from medp2p.dicom_numbers import decimal_string
from medp2p.dicom_source import DicomSource
from medp2p.errors import ConfigError, GeometryError, OutputError
from medp2p.io import read_volume
from medp2p.io.dicom_files import quiet_pydicom
from medp2p.io.dicom_uids import MAX_UID_LENGTH, MIN_DIGITS, check_uid_root, make_uid
from medp2p.io.dicom_write import DicomOutput, write_dicom_series
from medp2p.volume import Volume, axial_grid, reorient

MODEL = DicomOutput(model_name="model.safetensors", model_hash="ab" * 32)
SMALL = Scan(shape=(16, 12, 5), spacing_mm=(4.0, 5.0, 3.0), centre_mm=(3.0, -7.0, 11.0))


def noise(shape: tuple[int, int, int] = (16, 12, 5), low: int = 0, high: int = 2000) -> Any:
    return np.random.default_rng(0).integers(low, high, shape).astype(np.int16)


def ct(affine: NDArray[np.float64] | None = None, array: Any = None, **fields: Any) -> Volume:
    affine = np.diag([1.5, 2.0, 3.0, 1.0]) if affine is None else affine
    array = noise(low=-1024, high=3000) if array is None else array
    return Volume(array, affine, modality="CT", units="HU", **fields)


def mr(array: Any = None, **fields: Any) -> Volume:
    affine = np.diag([1.5, 2.0, 3.0, 1.0])
    return Volume(noise() if array is None else array, affine, modality="MR", **fields)


def source_of(folder: Path, datasets: Slices, **options: Any) -> DicomSource:
    write(folder, datasets, 2, **options)
    found = read_volume(folder).dicom
    assert found is not None
    return found


def on_source(folder: Path, datasets: Slices, modality: str = "CT", **options: Any) -> Volume:
    """A synthetic volume on the grid of a series that is written and read first."""
    write(folder, datasets, 2, **options)
    read = read_volume(folder)
    array = np.rint(read.array.astype(np.float32)) + 300
    units = "HU" if modality == "CT" else None
    return read.with_array(array, modality=modality, units=units, path=None)


def raw_source(folder: Path, texts: dict[str, str], datasets: Slices | None = None) -> DicomSource:
    """A source whose header holds texts that pydicom would not write."""
    for n, ds in enumerate(paint(datasets or slices(SMALL), 2)):
        for keyword, text in texts.items():
            raw(ds, keyword, text)
        save_as_said(ds, folder / f"{n}.dcm", ImplicitVRLittleEndian, implicit=True)
    found = read_volume(folder).dicom
    assert found is not None
    return found


def written(folder: Path, volume: Volume, options: DicomOutput | None = None) -> list[Dataset]:
    write_dicom_series(volume, folder, options)
    with quiet_pydicom:
        return [dcmread(path) for path in sorted(folder.iterdir())]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def raw_value(ds: Dataset, keyword: str) -> bytes:
    """The bytes of an element as they lie in the file."""
    value = ds.get_item(keyword).value or b""
    if isinstance(value, bytes):
        return value
    words = [value] if isinstance(value, str) else value  # a character set is read at once
    return "\\".join(words).encode()


# Geometry


@pytest.mark.parametrize("name", PLANES)
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_series_comes_back_voxel_for_voxel(tmp_path: Path, name: str, modality: str) -> None:
    volume = on_source(tmp_path / "in", slices(PLANES[name]), modality)
    write_dicom_series(volume, tmp_path / "out", MODEL)
    back = read_volume(tmp_path / "out")
    assert (back.modality, back.units) == (volume.modality, volume.units)
    np.testing.assert_allclose(back.affine, volume.affine, atol=2e-6)
    np.testing.assert_array_equal(back.array, volume.array)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LAS", "RPI", "ASL", "SAR", "PIR", "IPL"])
def test_any_axes_are_written_in_place(tmp_path: Path, orientation: str) -> None:
    """Half of these are left-handed, which DICOM cannot say: there slices are counted backwards."""
    volume = reorient(ct(oblique_affine()), orientation)
    write_dicom_series(volume, tmp_path / "out")
    back = reorient(read_volume(tmp_path / "out"), orientation)
    np.testing.assert_allclose(back.affine, volume.affine, atol=2e-6)
    np.testing.assert_array_equal(back.array, volume.array)


def test_positions_and_directions_in_the_header(tmp_path: Path) -> None:
    """RAS+ axes: a row runs to the patient's right, which is -x in DICOM."""
    affine = np.diag([1.5, 2.0, 3.0, 1.0])
    affine[:3, 3] = (10, 20, -30)
    images = written(tmp_path / "out", ct(affine))
    assert [[float(v) for v in ds.ImagePositionPatient] for ds in images] == [
        [-10, -20, -30 + 3 * k] for k in range(5)
    ]
    assert images[0].ImageOrientationPatient == [-1, 0, 0, 0, -1, 0]
    assert images[0].PixelSpacing == [2, 1.5]
    assert (images[0].Rows, images[0].Columns) == (12, 16)
    assert [ds.SliceThickness for ds in images] == [3] * 5
    assert [ds.SpacingBetweenSlices for ds in images] == [3] * 5
    assert [ds.SliceLocation for ds in images] == [-30, -27, -24, -21, -18]
    assert [ds.InstanceNumber for ds in images] == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(images[2].pixel_array, ct().array[:, :, 2].T)


def test_decimal_strings_keep_500_slices_in_place(tmp_path: Path) -> None:
    affine = oblique_affine(spacing=(1 / 3, 1 / 3, 2 / 3), origin=(-1234.56789, 987.654321, 1e3))
    volume = ct(affine, noise((3, 3, 500)))
    for ds in written(tmp_path / "out", volume)[::50]:
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            assert all(len(word) <= 16 for word in raw_value(ds, keyword).split(b"\\"))
    back = read_volume(tmp_path / "out")
    assert np.abs(back.grid.corners_mm - volume.grid.corners_mm).max() < 2e-6


@pytest.mark.parametrize(
    "value", [9.999999999999998, -9.999999999999998, -1 / 3e9, 1e-16 / 3, -0.0]
)
def test_decimal_strings_are_short_enough(value: float) -> None:
    text = decimal_string(value)
    assert len(text) <= 16
    assert float(text) == pytest.approx(value, rel=1e-9)
    assert not text.startswith("-0.0")


def test_a_single_slice(tmp_path: Path) -> None:
    volume = ct(oblique_affine(), noise((16, 12, 1)))
    (image,) = written(tmp_path / "out", volume)
    assert image.SliceThickness == 2.5
    np.testing.assert_allclose(read_volume(tmp_path / "out").affine, volume.affine, atol=1e-6)


def sheared(degrees: float, axis: int) -> NDArray[np.float64]:
    """Lean one axis of an oblique grid of 1 mm towards the first."""
    affine = oblique_affine(spacing=(1, 1, 1))
    affine[:3, axis] += np.tan(np.radians(degrees)) * affine[:3, 0]
    return affine


def test_axes_off_perpendicular_are_refused(tmp_path: Path) -> None:
    for axis in (1, 2):
        with pytest.raises(GeometryError, match="off perpendicular"):
            write_dicom_series(ct(sheared(0.6, axis)), tmp_path / "out")
    with pytest.raises(GeometryError, match=r"rows and columns.*mm off"):
        write_dicom_series(ct(sheared(0.4, 1)), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_almost_perpendicular_stay_within_a_hundredth(tmp_path: Path) -> None:
    """Were the first pixel kept in place instead of the middle, the last would lie 0.016 mm off."""
    volume = ct(sheared(0.1, 1))
    images = written(tmp_path / "out", volume)
    directions = np.array(images[0].ImageOrientationPatient, float)
    assert abs(directions[:3] @ directions[3:]) < 1e-9
    offset = read_volume(tmp_path / "out").grid.corners_mm - volume.grid.corners_mm
    assert 0.001 < np.linalg.norm(offset, axis=1).max() <= 0.01


def test_slices_that_lean_a_little_keep_their_positions(tmp_path: Path) -> None:
    volume = ct(sheared(0.4, 2))
    write_dicom_series(volume, tmp_path / "out")
    np.testing.assert_allclose(read_volume(tmp_path / "out").affine, volume.affine, atol=1e-6)


def test_a_ct_that_is_not_transverse_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_dicom_series(ct(), tmp_path / "straight")
    write_dicom_series(mr().with_array(noise(), affine=oblique_affine()), tmp_path / "oblique_mr")
    assert caplog.messages == []
    write_dicom_series(ct(oblique_affine()), tmp_path / "oblique")
    assert "--reslice axial" in caplog.text


# Values


def test_hounsfield_units_are_rounded_then_clipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = np.zeros((4, 3, 2))
    values[:, 0, 0] = (-1000.5, -999.5, 0.5, 1.5)
    values[:, 1, 1] = (1e6, -1e6, 32767.4, -32768.4)
    images = written(tmp_path / "out", ct(array=values))
    assert images[0].pixel_array[0].tolist() == [-1000, -1000, 0, 2]
    assert images[1].pixel_array[1].tolist() == [32767, -32768, 32767, -32768]
    assert "2 voxel(s) beyond -32768 to 32767 are clipped" in caplog.text
    first = images[0]
    assert (first.RescaleSlope, first.RescaleIntercept, first.RescaleType) == (1, 0, "HU")
    assert (first.BitsAllocated, first.BitsStored, first.HighBit) == (16, 16, 15)
    assert first.PixelRepresentation == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [ct, mr])
def test_a_voxel_that_is_no_number_stops_everything(
    tmp_path: Path, kind: Callable[..., Volume], value: float
) -> None:
    array = noise().astype(np.float32)
    array[3, 2, 4] = value
    with pytest.raises(OutputError, match="NaN or infinity"):
        write_dicom_series(kind(array=array), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "f2", "f4", "f8", ">f4", ">i2"]
)
@pytest.mark.parametrize("order", ["F", "C"])
def test_any_type_and_memory_order(tmp_path: Path, dtype: str, order: Any) -> None:
    array = np.array(noise(high=100), dtype=dtype, order=order)
    for volume in (ct(array=array), mr(array=array)):
        folder = tmp_path / str(volume.modality)
        write_dicom_series(volume, folder)
        back = read_volume(folder)
        np.testing.assert_array_equal(reorient(back, volume.orientation).array, array)


def test_mr_values_that_16_bits_do_not_hold(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refused = {
        "values up to 65536": noise().astype(np.float32) + 65536 - noise().max(),
        "negative": noise(low=-2000),
        "only 2 grey levels": noise() / np.float32(2000),
    }
    for words, array in refused.items():
        with pytest.raises(OutputError, match=f"{words}.*write NIfTI"):
            write_dicom_series(mr(array=array), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    few = noise().astype(np.float32)
    few[0, 0, 0] = -3
    images = written(tmp_path / "few", mr(array=few))
    assert images[0].pixel_array[0, 0] == 0
    assert "1 voxel(s) beyond 0 to 65535 are clipped" in caplog.text
    labels = (noise() > 1000).astype(np.float32)
    assert written(tmp_path / "labels", mr(array=labels))[0].pixel_array.max() == 1


def test_windows(tmp_path: Path) -> None:
    first = written(tmp_path / "ct", ct())[0]
    assert (first.WindowCenter, first.WindowWidth) == (40, 400)
    array = noise(low=100, high=1101)
    array[0, 0, 0] = 30000
    first = written(tmp_path / "mr", mr(array=array))[0]
    assert first.WindowCenter == pytest.approx(600, abs=30)
    assert first.WindowWidth == pytest.approx(980, abs=40)
    assert written(tmp_path / "flat", mr(array=noise() * 0))[0].WindowWidth == 1


def test_only_ct_and_mr(tmp_path: Path) -> None:
    for volume in (
        Volume(noise(), np.eye(4)),
        Volume(noise(), np.eye(4), modality="MASK"),
        Volume(noise(), np.eye(4), modality="CT"),
    ):
        with pytest.raises(OutputError, match="expected a CT in HU or an MR"):
            write_dicom_series(volume, tmp_path / "out")
    with pytest.raises(OutputError, match=r"65536 voxels.*at most 65535 rows"):
        write_dicom_series(ct(array=noise((1, 65536, 1))), tmp_path / "out")


# Header


@pytest.mark.parametrize("multi_frame", [False, True])
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_patient_study_and_frame_of_reference_are_the_sources(
    tmp_path: Path, multi_frame: bool, modality: str
) -> None:
    volume = on_source(tmp_path / "in", slices(SMALL), modality, multi_frame=multi_frame)
    original = dcmread(next((tmp_path / "in").iterdir()))
    images = written(tmp_path / "out", volume, MODEL)
    for keyword in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "PatientAge",
        "PatientPosition",
        "BodyPartExamined",
        "StudyInstanceUID",
        "StudyDate",
        "StudyTime",
        "StudyID",
        "AccessionNumber",
        "StudyDescription",
        "ReferringPhysicianName",
        "FrameOfReferenceUID",
    ):
        assert {ds[keyword].value for ds in images} == {original[keyword].value}, keyword
    left_behind = ("EchoTime", "PatientComments", "InstitutionName", "StationName", "ProtocolName")
    for keyword in left_behind:
        assert not any(ds.get(keyword) for ds in images), keyword


def test_labels(tmp_path: Path) -> None:
    volume = on_source(tmp_path / "in", slices(SMALL))
    first = written(tmp_path / "ct", volume, MODEL)[0]
    assert first.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
    assert (first.SyntheticData, first.BurnedInAnnotation) == ("YES", "NO")
    assert first["ImageComments"].value == "SYNTHETIC - NOT FOR DIAGNOSTIC USE"
    assert (first.SeriesDescription, first.SeriesNumber) == ("SYNTHETIC CT", 1003)
    assert "model model.safetensors (model hash " + "ab" * 32 in first.DerivationDescription
    assert "ab" * 32 in first.SoftwareVersions
    assert first.Manufacturer == "medp2p"
    ours, scanner = first.ContributingEquipmentSequence
    assert (ours.Manufacturer, scanner.Manufacturer) == ("medp2p", "Phantom")
    assert first["KVP"].is_empty
    assert first["AcquisitionNumber"].is_empty
    named = replace(MODEL, series_description="My sCT", series_number=7)
    first = written(tmp_path / "named", volume, named)[0]
    assert (first.SeriesDescription, first.SeriesNumber) == ("My sCT", 7)
    first = written(tmp_path / "mr", mr())[0]
    assert first.ImageType == ["DERIVED", "SECONDARY", "OTHER"]
    assert (first.ScanningSequence, first.SequenceVariant) == ("RM", "NONE")
    assert first.PixelRepresentation == 0
    for keyword in ("KVP", "AcquisitionNumber", "RescaleSlope", "RescaleIntercept"):
        assert keyword not in first
    assert first["EchoTime"].is_empty


def test_codes_are_dicoms(tmp_path: Path) -> None:
    first = written(tmp_path / "out", on_source(tmp_path / "in", slices(SMALL)))[0]
    items = [*first.ContributingEquipmentSequence, *first.SourceImageSequence]
    found = [item.PurposeOfReferenceCodeSequence[0] for item in items]
    expected = (
        codes.DCM.ProcessingEquipment,
        codes.DCM.AcquisitionEquipment,
        codes.DCM.SourceImageForImageProcessingOperation,
    )
    for code, known in zip(found, expected, strict=True):
        assert (code.CodeValue, code.CodeMeaning) == (known.value, known.meaning)
        assert code.CodingSchemeDesignator == "DCM"


def test_without_a_source_everything_is_new_and_obviously_made_up(tmp_path: Path) -> None:
    images = written(tmp_path / "a", ct())
    first = images[0]
    assert str(first.PatientName) == "SYNTHETIC^IMAGE"
    assert re.fullmatch("SYNTHETIC-[0-9A-F]{12}", first.PatientID)
    assert (first.StudyDate, first.PatientBirthDate, first.PatientSex) == ("19000101", "", "")
    assert "BodyPartExamined" not in first
    assert len({(ds.StudyInstanceUID, ds.FrameOfReferenceUID, ds.PatientID) for ds in images}) == 1
    other = written(tmp_path / "b", ct(array=noise(high=99)))[0]
    assert other.PatientID != first.PatientID
    assert other.StudyInstanceUID != first.StudyInstanceUID
    assert other.FrameOfReferenceUID != first.FrameOfReferenceUID
    said = DicomOutput(patient_id="P1", patient_name="Doe^Jane", body_part="PELVIS")
    first = written(tmp_path / "c", ct(), said)[0]
    assert (first.PatientID, str(first.PatientName)) == ("P1", "Doe^Jane")
    assert first.BodyPartExamined == "PELVIS"
    assert "Laterality" not in first


def test_a_source_that_lacks_everything_it_may_lack(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nothing = setting(
        **dict.fromkeys(
            ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge"), None
        ),
        StudyDate="",
        StudyTime=None,
        StudyID="",
        AccessionNumber=None,
        ReferringPhysicianName="",
        PatientPosition=None,
        BodyPartExamined=None,
        FrameOfReferenceUID=None,
        PositionReferenceIndicator=None,
        Manufacturer=None,
        SeriesNumber=None,
        StudyDescription=None,
    )
    volume = on_source(tmp_path / "in", nothing(slices(SMALL)))
    images = written(tmp_path / "out", volume)
    first = images[0]
    for keyword in ("PatientName", "PatientID", "StudyDate", "StudyTime", "PatientPosition"):
        assert first[keyword].is_empty, keyword
    assert first["Laterality"].is_empty
    assert len({ds.FrameOfReferenceUID for ds in images}) == 1
    assert "states no FrameOfReferenceUID" in caplog.text
    assert first.StudyInstanceUID == uid("study")
    assert len(first.ContributingEquipmentSequence) == 1


@pytest.mark.parametrize(
    ("keyword", "text", "expected"),
    [
        ("StudyDate", "2020.01.01", b""),
        ("StudyDate", "20201301", b""),
        ("StudyDate", "20200101", b"20200101"),
        ("PatientBirthDate", "01JAN70", b""),
        ("StudyTime", "10:17:33", b""),
        ("StudyTime", "101733.250000", b"101733.250000 "),
        ("PatientSex", "female", b""),
        ("PatientSex", "f", b"F "),
        ("PatientSex", "M\\F", b""),
        ("PatientPosition", "XYZ", b""),
        ("PatientPosition", "FFDR", b"FFDR"),
        ("PatientPosition", "hfs", b"HFS "),
        ("PatientAge", "5Y", b""),
        ("PatientWeight", "70 kg", b""),
        ("PatientWeight", "0", b""),
        ("PatientWeight", "0.00", b""),
        ("PatientWeight", "70.5", b"70.5"),
        ("BodyPartExamined", "Pelvis", b"PELVIS"),
        ("BodyPartExamined", "HEAD-NECK", b""),
        ("BodyPartExamined", "HEAD\\NECK", b""),
        ("LossyImageCompression", "01", b"01"),
        ("PatientID", "way too long " * 6, b"way too long " * 6),
        ("PatientName", "A^B\\C^D", b"A^B\\C^D "),
    ],
)
def test_what_the_standard_does_not_allow_is_left_out_not_repaired(
    tmp_path: Path, keyword: str, text: str, expected: bytes
) -> None:
    """Names and ids stay as they are, as an archive knows the patient by them."""
    source = raw_source(tmp_path / "in", {keyword: text})
    first = written(tmp_path / "out", ct(dicom=source))[0]
    found = raw_value(first, keyword) if keyword in first else b""
    assert found.rstrip() == expected.rstrip()


@pytest.mark.parametrize(
    ("part", "side", "stated"),
    [
        ("KNEE", "R", "R"),
        ("KNEE", None, ""),
        ("HEAD", "L", None),
        ("HEAD", None, None),
        (None, "L", "L"),
        (None, "B", ""),
        ("HEAD_NECK", None, ""),
    ],
)
def test_laterality(tmp_path: Path, part: str | None, side: str | None, stated: Any) -> None:
    volume = on_source(
        tmp_path / "in", setting(BodyPartExamined=part, Laterality=side)(slices(SMALL))
    )
    first = written(tmp_path / "out", volume)[0]
    assert first.get("BodyPartExamined") == part
    assert first.get("Laterality") == stated


def test_a_body_part_may_be_given_where_the_source_states_none(tmp_path: Path) -> None:
    options = DicomOutput(body_part="PELVIS")
    volume = on_source(tmp_path / "in", setting(BodyPartExamined=None)(slices(SMALL)))
    first = written(tmp_path / "out", volume, options)[0]
    assert first.BodyPartExamined == "PELVIS"
    assert "Laterality" not in first
    stating = on_source(tmp_path / "stating", slices(SMALL))
    with pytest.raises(ConfigError, match="states the body part"):
        write_dicom_series(stating, tmp_path / "other", options)


def test_lossy_compression_of_the_source_is_not_forgotten(tmp_path: Path) -> None:
    lossy = setting(
        LossyImageCompression="01",
        LossyImageCompressionRatio="8.5",
        LossyImageCompressionMethod="ISO_10918_1",
    )
    first = written(tmp_path / "out", on_source(tmp_path / "in", lossy(slices(SMALL))))[0]
    assert first.LossyImageCompression == "01"
    assert first.LossyImageCompressionRatio == 8.5
    assert first.LossyImageCompressionMethod == "ISO_10918_1"


def test_private_tags_stay_behind(tmp_path: Path) -> None:
    volume = on_source(tmp_path / "in", private_tags(slices(SMALL)))
    for ds in written(tmp_path / "out", volume):
        assert not any(element.tag.is_private for element in ds.iterall())


def test_an_earlier_deidentification_is_still_stated(tmp_path: Path) -> None:
    volume = on_source(tmp_path / "a", setting(PatientIdentityRemoved="YES")(slices(SMALL)))
    first = written(tmp_path / "out", volume)[0]
    assert first.PatientIdentityRemoved == "YES"
    assert first.DeidentificationMethod == "not stated by the source"
    stating = setting(PatientIdentityRemoved="YES", DeidentificationMethod="by hand")
    first = written(tmp_path / "o", on_source(tmp_path / "b", stating(slices(SMALL))))[0]
    assert first.DeidentificationMethod == "by hand"


def test_text_in_the_pixels_is_refused(tmp_path: Path) -> None:
    volume = on_source(tmp_path / "in", setting(BurnedInAnnotation="YES")(slices(SMALL)))
    with pytest.raises(OutputError, match="burned into its pixels"):
        write_dicom_series(volume, tmp_path / "out")
    allowed = DicomOutput(allow_burned_in=True)
    assert written(tmp_path / "out", volume, allowed)[0].BurnedInAnnotation == "YES"


# Character sets


@pytest.mark.parametrize("terms", CHARACTER_SETS)
def test_names_are_kept_byte_for_byte(tmp_path: Path, terms: str) -> None:
    name = CHARACTER_SETS[terms]
    named = setting(SpecificCharacterSet=terms.split("\\"), PatientName=name)
    volume = on_source(tmp_path / "in", named(slices(SMALL)))
    original = dcmread(next((tmp_path / "in").iterdir()))
    first = written(tmp_path / "out", volume)[0]
    default = terms == "ISO_IR 6"  # which is not stated (PS3.3 C.12.1.1.2)
    for keyword in ("PatientName",) if default else ("PatientName", "SpecificCharacterSet"):
        assert raw_value(first, keyword) == raw_value(original, keyword)
    assert first.PatientName == original.PatientName


WITHOUT_ESCAPES = "\\ISO 2022 IR 58"
"""pydicom writes this set without its escape sequences, so the name is not in it."""


@pytest.mark.parametrize("terms", [t for t in CHARACTER_SETS if t != WITHOUT_ESCAPES])
def test_a_label_in_any_script_goes_with_a_name_in_any_other(tmp_path: Path, terms: str) -> None:
    name = CHARACTER_SETS[terms]
    named = setting(SpecificCharacterSet=terms.split("\\"), PatientName=name)
    volume = on_source(tmp_path / "in", named(slices(SMALL)))
    label = "合成CT für Łukasz"
    first = written(tmp_path / "out", volume, DicomOutput(series_description=label))[0]
    assert first.SpecificCharacterSet == "ISO_IR 192"
    assert str(first.PatientName) == name.rstrip("=")
    assert first.SeriesDescription == label
    assert b"?" not in raw_value(first, "PatientName")


def source_with_name(folder: Path, terms: str, name: bytes) -> DicomSource:
    """A source whose patient's name is these bytes, 16 at most."""
    for n, ds in enumerate(paint(slices(SMALL), 2)):
        ds.PatientName = "Z" * 16
        if terms:
            raw(ds, "SpecificCharacterSet", terms)
        path = folder / f"{n}.dcm"
        save_as_said(ds, path, ImplicitVRLittleEndian, implicit=True)
        path.write_bytes(path.read_bytes().replace(b"Z" * 16, name.ljust(16)))
    found = read_volume(folder).dicom
    assert found is not None
    return found


@pytest.mark.parametrize(
    "terms", ["", "ISO_IR 6", "ISO_IR 999", "ISO 2022 IR 87\\nonsense", WITHOUT_ESCAPES]
)
def test_a_name_in_a_wrong_character_set(tmp_path: Path, terms: str) -> None:
    """It is kept as it is, and cannot be brought into one set with a label."""
    name = b"M\xfcller^J\xfcrgen\xff "
    volume = ct(dicom=source_with_name(tmp_path / "in", terms, name))
    first = written(tmp_path / "out", volume)[0]
    assert raw_value(first, "PatientName") == name.ljust(16)
    assert terms.encode() in (tmp_path / "out" / "CT_0001.dcm").read_bytes()
    with pytest.raises(OutputError, match="not in the character set it states") as refusal:
        write_dicom_series(volume, tmp_path / "new", DicomOutput(series_description="für"))
    assert "ller" not in str(refusal.value)
    assert not (tmp_path / "new").exists()


def test_a_name_with_an_escape_sequence_that_is_none(tmp_path: Path) -> None:
    volume = ct(dicom=source_with_name(tmp_path / "in", "\\ISO 2022 IR 87", b"Yama\x1b(Zda"))
    write_dicom_series(volume, tmp_path / "kept")
    with pytest.raises(OutputError, match="not in the character set it states"):
        write_dicom_series(volume, tmp_path / "out", DicomOutput(series_description="für"))


def test_a_wrong_name_beside_a_label_that_needs_no_other_set(tmp_path: Path) -> None:
    name = b"M\xfcller^J\xfcrgen\xff "
    volume = ct(dicom=source_with_name(tmp_path / "in", "ISO_IR 192", name))
    first = written(tmp_path / "out", volume, DicomOutput(series_description="für"))[0]
    assert raw_value(first, "PatientName") == name.ljust(16)
    assert first.SeriesDescription == "für"


@pytest.mark.parametrize("terms", [*CHARACTER_SETS, "ISO 2022 IR 87", "ISO 2022 IR 87\\nonsense"])
@pytest.mark.parametrize("key", [None, b"k" * 32])
def test_our_own_texts_are_ascii_in_any_character_set(
    tmp_path: Path, terms: str, key: bytes | None
) -> None:
    source = source_with_name(tmp_path / "in", terms, b"Yama^\x1b$B;3ED\x1b(B")
    options = DicomOutput(deidentify_key=key)
    first = written(tmp_path / "out", ct(dicom=source), options)[0]
    assert raw_value(first, "SeriesDescription") == b"SYNTHETIC CT"
    assert raw_value(first, "ImageComments") == b"SYNTHETIC - NOT FOR DIAGNOSTIC USE"
    assert b"?" not in raw_value(first, "PatientName")


def test_a_chinese_name_with_its_escape_sequences(tmp_path: Path) -> None:
    name = b"Wang=\x1b$)A\xcd\xf5^X "
    volume = ct(dicom=source_with_name(tmp_path / "in", WITHOUT_ESCAPES, name))
    first = written(tmp_path / "out", volume, DicomOutput(series_description="für"))[0]
    assert str(first.PatientName) == "Wang=王^X"


def test_a_name_of_any_script_without_a_source(tmp_path: Path) -> None:
    options = DicomOutput(patient_name="山田^太郎", patient_id="№ 5", series_description="κ")
    first = written(tmp_path / "out", ct(), options)[0]
    assert (str(first.PatientName), first.PatientID) == ("山田^太郎", "№ 5")
    assert first.SpecificCharacterSet == "ISO_IR 192"


def test_a_model_name_of_any_script(tmp_path: Path) -> None:
    options = DicomOutput(model_name="modèle 5\\x.safetensors")
    first = written(tmp_path / "out", ct(), options)[0]
    assert "mod%C3%A8le 5%5Cx.safetensors" in first.DerivationDescription
    assert "SpecificCharacterSet" not in first


# UIDs


def all_uids(images: list[Dataset]) -> list[str]:
    return [str(e.value) for ds in images for e in ds.iterall() if e.VR == "UI"]


def test_uids_are_valid_and_unique(tmp_path: Path) -> None:
    volume = on_source(tmp_path / "in", slices(SMALL))
    images = written(tmp_path / "out", volume)
    for text in all_uids(images):
        assert len(text) <= 64
        assert re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+", text)
    instances = {ds.SOPInstanceUID for ds in images}
    assert len(instances) == len(images)
    (series,) = {ds.SeriesInstanceUID for ds in images}
    sources = {uid("first", "series"), *(uid("first", "image", k) for k in range(5))}
    assert not {series, *instances} & sources
    for ds in images:
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        assert ds.file_meta.MediaStorageSOPClassUID == ds.SOPClassUID


@pytest.mark.parametrize("with_source", [True, False])
def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, with_source: bool) -> None:
    for n in "ab":
        volume = on_source(tmp_path / f"in_{n}", slices(SMALL)) if with_source else ct()
        write_dicom_series(volume, tmp_path / n, MODEL)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == 5


def moved(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """A grid a thousandth of a millimetre away."""
    affine = affine.copy()
    affine[0, 3] += 0.001
    return affine


def other_images(source: DicomSource | None) -> DicomSource:
    """Another volume of the same series."""
    assert source is not None
    images = [replace(image, sop_instance_uid=uid("other", image)) for image in source.images]
    return DicomSource(source.header, tuple(images))


def test_another_result_has_other_uids(tmp_path: Path) -> None:
    """One voxel, one label, another model, another place: every one tells."""
    base = ct()
    changed = base.array.copy()
    changed[0, 0, 0] += 1
    results = [
        (base, MODEL),
        (base.with_array(changed), MODEL),
        (replace(base, affine=moved(base.affine)), MODEL),
        (base, replace(MODEL, model_hash="cd" * 32)),
        (base, replace(MODEL, series_description="Another")),
    ]
    names = set()
    for n, (volume, options) in enumerate(results):
        images = written(tmp_path / str(n), volume, options)
        names |= {ds.SOPInstanceUID for ds in images} | {images[0].SeriesInstanceUID}
    assert len(names) == len(results) * 6


def test_a_seed_makes_a_rerun_recognizable(tmp_path: Path) -> None:
    volume = on_source(tmp_path / "in", slices(SMALL))
    nearly = volume.with_array(volume.array + np.float32(1))
    seeded = replace(MODEL, seed="trial 7")

    def names(folder: str, volume: Volume, options: DicomOutput) -> list[str]:
        images = written(tmp_path / folder, volume, options)
        return [images[0].SeriesInstanceUID, *(ds.SOPInstanceUID for ds in images)]

    first = names("a", volume, seeded)
    assert names("b", nearly, seeded) == first
    others = [
        names("c", volume, MODEL),
        names("d", volume, replace(seeded, seed="trial 8")),
        names("e", volume, replace(seeded, model_hash="cd" * 32)),
        names("f", volume.with_array(volume.array, modality="MR", units=None), seeded),
        names("g", replace(volume, affine=volume.affine @ np.diag([1, 1, 2, 1])), seeded),
        names("h", on_source(tmp_path / "other", slices(SMALL, "second")), seeded),
        names("i", replace(volume, affine=moved(volume.affine)), seeded),
        names("j", replace(volume, dicom=other_images(volume.dicom)), seeded),
    ]
    assert len({name for each in (first, *others) for name in each}) == 9 * len(first)
    with pytest.raises(ConfigError, match="seed"):
        write_dicom_series(ct(), tmp_path / "out", seeded)


def test_uids_of_64_characters(tmp_path: Path) -> None:
    volume = on_source(tmp_path / "in", long_uids(slices(SMALL)))
    images = written(tmp_path / "out", volume)
    assert images[0].StudyInstanceUID == uid_of_64("study")
    assert images[0].FrameOfReferenceUID == uid_of_64("frame of reference")
    for k, ds in enumerate(images):
        assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == uid_of_64("image", k)


def test_a_source_without_a_usable_study_uid(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = raw_source(tmp_path / "in", {"StudyInstanceUID": "not a uid"})
    images = written(tmp_path / "out", ct(dicom=source))
    assert len({ds.StudyInstanceUID for ds in images}) == 1
    assert images[0].StudyInstanceUID.startswith("2.25.")
    assert "states no StudyInstanceUID" in caplog.text
    assert "not a uid" not in caplog.text


def test_many_names_get_as_many_uids() -> None:
    longest = "1.2." + "3" * (MAX_UID_LENGTH - MIN_DIGITS - 1 - 4)
    for root in (None, longest):
        assert len({make_uid(root, b"x", "image", n) for n in range(50_000)}) == 50_000


def test_uid_roots(tmp_path: Path) -> None:
    longest = "1.2." + "3" * (MAX_UID_LENGTH - MIN_DIGITS - 1 - 4)
    for root in ("1.2.826.0.1.3680043.10.999", "1.2.3.", "2.25", longest):
        made = make_uid(check_uid_root(root), b"x", "series")
        assert made.startswith(root.rstrip(".") + ".")
        assert re.fullmatch(r"[0-2](\.(0|[1-9]\d*))+", made)
        assert len(made) <= 64
    for root in ("", "1", "1.02.3", "3.1", "1..2", "1.2.a", ".1.2", "1.2\n", "1.2٣", longest + "4"):
        with pytest.raises(ConfigError):
            check_uid_root(root)
    for root in ("1.2.840.10008", "1.2.840.10008.", "1.2.840.10008.5.1"):
        with pytest.raises(ConfigError, match="belongs to the DICOM standard"):
            check_uid_root(root)
        with pytest.raises(ConfigError, match="belongs to the DICOM standard"):
            write_dicom_series(ct(), tmp_path / "refused", DicomOutput(uid_root=root))
    assert not (tmp_path / "refused").exists()
    assert check_uid_root("1.2.840.100081") == "1.2.840.100081"
    volume = on_source(tmp_path / "in", slices(SMALL))
    images = written(tmp_path / "out", volume, DicomOutput(uid_root=longest))
    assert all(ds.SOPInstanceUID.startswith(longest + ".") for ds in images)
    assert images[0].SeriesInstanceUID.startswith(longest + ".")
    assert images[0].StudyInstanceUID == uid("study")
    assert len({ds.SOPInstanceUID for ds in images}) == len(images)


# References to the source


def references(ds: Dataset) -> list[tuple[str, Any, str]]:
    return [
        (
            item.ReferencedSOPInstanceUID,
            item.get("ReferencedFrameNumber"),
            item.SpatialLocationsPreserved,
        )
        for item in ds.get("SourceImageSequence", [])
    ]


def test_each_slice_names_the_slice_it_was_made_from(tmp_path: Path) -> None:
    volume = on_source(tmp_path / "in", slices(AXIAL)[::-1])
    for k, ds in enumerate(written(tmp_path / "out", volume)):
        assert references(ds) == [(uid("first", "image", k), None, "YES")]
        (series,) = ds.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == uid("first", "series")
        named = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
        assert named == {uid("first", "image", k) for k in range(12)}


def test_the_order_of_source_images_does_not_matter(tmp_path: Path) -> None:
    volume = on_source(tmp_path / "in", slices(SMALL))
    assert volume.dicom is not None
    backwards = DicomSource(volume.dicom.header, volume.dicom.images[::-1])
    for k, ds in enumerate(written(tmp_path / "out", replace(volume, dicom=backwards))):
        assert references(ds) == [(uid("first", "image", k), None, "YES")]


def test_frames_of_an_enhanced_source_are_named(tmp_path: Path) -> None:
    volume = on_source(tmp_path / "in", slices(AXIAL)[::-1], multi_frame=True)
    for k, ds in enumerate(written(tmp_path / "out", volume)):
        assert references(ds) == [(uid("first", "image", 11), 12 - k, "YES")]
        assert len(ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 1


def test_another_grid_names_what_it_was_made_from(tmp_path: Path) -> None:
    scan = PLANES["oblique"]
    volume = on_source(tmp_path / "in", slices(scan))
    grid = axial_grid(volume.grid)
    resliced = replace(volume, array=noise(grid.shape), affine=grid.affine)
    every = [(uid("first", "image", k), None, "NO") for k in range(12)]
    for ds in written(tmp_path / "resliced", resliced):
        assert references(ds) == every
    finer = volume.affine @ np.diag([0.5, 0.5, 1, 1])
    parallel = replace(volume, array=noise((64, 40, 12)), affine=finer)
    for k, ds in enumerate(written(tmp_path / "parallel", parallel)):
        assert references(ds) == [(uid("first", "image", k), None, "NO")]
    apart = volume.affine.copy()
    apart[:3, 3] += 1000 * apart[:3, 2]
    elsewhere = replace(volume, affine=apart)
    for ds in written(tmp_path / "elsewhere", elsewhere):
        assert references(ds) == every


def test_numbers_of_the_source_that_are_none_tell_nothing(tmp_path: Path) -> None:
    source = on_source(tmp_path / "in", slices(SMALL))
    assert source.dicom is not None
    for keyword, text in {"ImageOrientationPatient": "1\\0", "PixelSpacing": "4"}.items():
        header = deepcopy(source.dicom.header)
        raw(header, keyword, text)
        volume = replace(source, dicom=DicomSource(header, source.dicom.images))
        for k, ds in enumerate(written(tmp_path / keyword, volume)):
            assert references(ds) == [(uid("first", "image", k), None, "YES")]


def test_a_source_image_without_a_usable_uid_is_not_named(tmp_path: Path) -> None:
    source = raw_source(tmp_path / "in", {})
    images = tuple(replace(i, sop_instance_uid="1.02.x y") for i in source.images)
    volume = ct(dicom=DicomSource(source.header, images))
    for ds in written(tmp_path / "out", volume):
        assert "SourceImageSequence" not in ds
        assert "ReferencedSeriesSequence" not in ds


# De-identification


def test_a_deidentified_series_names_nobody(tmp_path: Path) -> None:
    volume = on_source(tmp_path / "in", slices(SMALL))
    options = replace(MODEL, deidentify_key=b"k" * 32)
    images = written(tmp_path / "out", volume, options)
    hidden = b"".join(contents(tmp_path / "out").values()).lower()
    originals = [uid("study"), uid("first", "series"), uid("frame of reference")]
    originals += [uid("first", "image", k) for k in range(5)]
    for secret in (*SECRETS, *originals):
        assert secret == "2.25." or secret.encode() not in hidden, secret
    assert images[0].PatientIdentityRemoved == "YES"
    assert images[0].DeidentificationMethod
    assert images[0].SyntheticData == "YES"
    again = written(tmp_path / "again", volume, options)
    assert again[0].StudyInstanceUID == images[0].StudyInstanceUID
    other = written(tmp_path / "other", volume, replace(options, deidentify_key=b"x" * 32))
    assert other[0].StudyInstanceUID != images[0].StudyInstanceUID
    assert references(images[0]) != references(other[0])
    assert references(images[0]) == references(again[0])


def test_no_message_gives_the_patient_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = {"StudyDate": "2019.08.23", "PatientSex": "quisenberry", "PatientAge": "margrave7"}
    source = raw_source(tmp_path / "in", wrong)
    write_dicom_series(ct(oblique_affine(), dicom=source), tmp_path / "out", MODEL)
    messages = [*caplog.messages, *(path.name for path in (tmp_path / "out").iterdir())]
    for options in (DicomOutput(patient_id="x"), DicomOutput(body_part="HEAD")):
        with pytest.raises(ConfigError) as refusal:
            write_dicom_series(ct(dicom=source), tmp_path / "new", options)
        messages.append(str(refusal.value))
    assert len(caplog.messages) == 2
    assert "PatientSex, StudyDate, PatientAge" in caplog.text
    for message in messages:
        assert not any(secret in message.lower() for secret in SECRETS), message


# Options


@pytest.mark.parametrize(
    "options",
    [
        DicomOutput(series_description="x" * 65),
        DicomOutput(series_description="two\nlines"),
        DicomOutput(series_description="a\\b"),
        DicomOutput(series_description=" "),
        DicomOutput(patient_id=""),
        DicomOutput(patient_name="x" * 65),
        DicomOutput(body_part="head"),
        DicomOutput(body_part="A-B"),
        DicomOutput(series_number=-1),
        DicomOutput(series_number=2**31),
        DicomOutput(uid_root="x"),
        DicomOutput(uid_root=""),
        DicomOutput(model_hash="ab"),
    ],
)
def test_options_that_dicom_cannot_hold(tmp_path: Path, options: DicomOutput) -> None:
    with pytest.raises(ConfigError):
        write_dicom_series(ct(), tmp_path / "out", options)
    assert list(tmp_path.iterdir()) == []


def test_the_patient_of_a_source_cannot_be_renamed(tmp_path: Path) -> None:
    volume = on_source(tmp_path / "in", slices(SMALL))
    for options in (DicomOutput(patient_id="x"), DicomOutput(patient_name="x")):
        with pytest.raises(ConfigError, match="who the patient is"):
            write_dicom_series(volume, tmp_path / "out", options)


# Files


def test_names_of_files(tmp_path: Path) -> None:
    write_dicom_series(ct(), tmp_path / "ct")
    write_dicom_series(mr(), tmp_path / "mr")
    assert [p.name for p in sorted((tmp_path / "ct").iterdir())] == [
        f"CT_{k:04d}.dcm" for k in range(1, 6)
    ]
    assert (tmp_path / "mr" / "MR_0005.dcm").is_file()


def test_only_a_series_of_ours_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_dicom_series(ct(), folder)
    with pytest.raises(OutputError, match="--overwrite"):
        write_dicom_series(ct(), folder)
    write_dicom_series(mr(), folder, overwrite=True)
    assert {path.name[:2] for path in folder.iterdir()} == {"MR"}
    (folder / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="holds other things"):
        write_dicom_series(ct(), folder, overwrite=True)
    scanner = tmp_path / "scanner"
    write(scanner, slices(SMALL), 2, names=lambda n: f"CT_{n + 1:04d}.dcm")
    before |= contents(tmp_path)
    with pytest.raises(OutputError, match="holds other things"):
        write_dicom_series(ct(), scanner, overwrite=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OutputError, match="holds"):
        write_dicom_series(ct(), tmp_path / "empty", overwrite=True)
    assert contents(tmp_path) == before


def test_a_full_disk(small_disk: Path) -> None:
    large = ct(array=noise((128, 64, 200)))
    with pytest.raises(OutputError, match="the disk is full"):
        write_dicom_series(large, small_disk / "out")
    assert list(small_disk.iterdir()) == []
    write_dicom_series(ct(), small_disk / "out")
    before = contents(small_disk)
    with pytest.raises(OutputError, match="the disk is full"):
        write_dicom_series(large, small_disk / "out", overwrite=True)
    assert contents(small_disk) == before


def test_a_read_only_disk(small_disk: Path) -> None:
    write_dicom_series(ct(), small_disk / "out")
    before = contents(small_disk)
    mount("-o", "remount,ro", small_disk)
    for name in ("out", "new"):
        with pytest.raises(OutputError, match="read-only"):
            write_dicom_series(ct(), small_disk / name, overwrite=True)
    assert contents(small_disk) == before
