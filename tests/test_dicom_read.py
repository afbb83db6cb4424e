"""What a volume read from DICOM holds: values, order, source, and which of several it is."""

from __future__ import annotations

import logging
import re
import resource
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_phantoms import (
    AXIAL,
    CHARACTER_SETS,
    CT,
    MARK,
    PATIENT,
    PLANES,
    SECRETS,
    Slices,
    enhanced,
    falling,
    named,
    numbers,
    paint,
    repeated,
    save,
    set_pixels,
    shuffled,
    slices,
    two_series,
    uid,
    write,
)
from monai.transforms import LoadImaged
from numpy.typing import NDArray
from pydicom.uid import RLELossless

from medp2p.errors import GeometryError, ImageReadError
from medp2p.io import DicomOptions, read_grid, read_volume
from medp2p.io.dicom_series import series_key
from medp2p.transforms import LoadVolumed, VolumeReader

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def stored(datasets: Slices, values: NDArray[Any], slope: float, intercept: float) -> Slices:
    """Give slices of a phantom other pixels, (slices, rows, columns), and another rescale."""
    for ds, plane in zip(datasets, values, strict=True):
        ds.RescaleSlope, ds.RescaleIntercept = numbers((slope, intercept))
        ds.BitsAllocated = ds.BitsStored = 8 * plane.dtype.itemsize
        ds.HighBit = ds.BitsStored - 1
        ds.PixelRepresentation = int(plane.dtype.kind == "i")
        set_pixels(ds, plane.astype(plane.dtype.newbyteorder("<")).tobytes())
    return datasets


def noise(dtype: Any, low: int, high: int) -> NDArray[Any]:
    values = np.random.default_rng(0).integers(low, high + 1, (12, 20, 32)).astype(dtype)
    values[3, 4, 5], values[6, 7, 8] = low, high
    return values


@pytest.mark.parametrize(
    ("values", "slope", "intercept", "expected"),
    [
        (noise(np.uint16, 0, 4095), 1, -1024, np.int16),
        (noise(np.uint16, 0, 65535), 1, -1024, np.int32),
        (noise(np.int16, -32768, 32767), 1, 0, np.int16),
        (noise(np.uint16, 0, 65535), 1, 0, np.uint16),
        (noise(np.int16, -1024, 3071), 2, -5, np.int16),
        (noise(np.uint8, 0, 255), 1, 0, np.uint8),
        (noise(np.uint8, 0, 255), 1, -1000, np.int16),
        (noise(np.int16, -1024, 3071), 0.5, 0, np.float32),
        (noise(np.int16, -1024, 3071), 1, 0.25, np.float32),
    ],
)
@pytest.mark.parametrize("multi_frame", [False, True])
def test_values_and_their_type(
    tmp_path: Path,
    values: NDArray[Any],
    slope: float,
    intercept: float,
    expected: Any,
    multi_frame: bool,
) -> None:
    write(tmp_path, stored(slices(CT), values, slope, intercept), 0, multi_frame=multi_frame)
    volume = read_volume(tmp_path)
    assert volume.array.dtype == expected
    truth = values.transpose(2, 1, 0) * np.float64(slope) + intercept
    np.testing.assert_array_equal(volume.array, truth.astype(expected))
    assert volume.array.flags.f_contiguous
    assert volume.array.flags.writeable
    assert volume.array.dtype.isnative


def test_big_endian_and_compressed_values_come_in_the_machine_s_order(tmp_path: Path) -> None:
    values = noise(np.uint16, 0, 4095)
    plain = stored(slices(CT), values, 1, -1024)
    for name, syntax in (("big", "1.2.840.10008.1.2.2"), ("rle", RLELossless)):
        write(tmp_path / name, deepcopy(plain), 0, syntax=syntax)
        volume = read_volume(tmp_path / name)
        assert volume.array.dtype == np.int16
        assert volume.array.dtype.isnative
        assert volume.array.flags.writeable
        np.testing.assert_array_equal(volume.array, values.transpose(2, 1, 0).astype(int) - 1024)


def test_slices_of_different_rescale_are_not_rounded(tmp_path: Path) -> None:
    values = noise(np.int16, -1024, 3071)
    datasets = stored(slices(CT), values, 1, 0)
    for k, ds in enumerate(datasets):
        ds.RescaleSlope, ds.RescaleIntercept = numbers((1 + k / 8, k / 4))
    write(tmp_path, datasets, 0)
    array = read_volume(tmp_path).array
    assert array.dtype == np.float32
    k = np.arange(12)
    np.testing.assert_array_equal(array, values.transpose(2, 1, 0) * (1 + k / 8) + k / 4)


@pytest.mark.parametrize("name", list(PLANES))
def test_an_independent_reader_agrees(tmp_path: Path, name: str) -> None:
    """ITK on even stacks, where it is right: the same voxels in the same place."""
    write(tmp_path, shuffled(slices(PLANES[name])), 0)
    volume = read_volume(tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    directions = np.array(image.GetDirection()).reshape(3, 3)
    theirs = np.eye(4)
    theirs[:3, :3] = directions * image.GetSpacing()
    theirs[:3, 3] = image.GetOrigin()
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    ours = RAS_FROM_LPS @ volume.affine
    if ours[:3, 2] @ theirs[:3, 2] < 0:
        theirs[:3, 3] += theirs[:3, 2] * (array.shape[2] - 1)
        theirs[:3, 2] *= -1
        array = array[..., ::-1]
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    np.testing.assert_allclose(volume.array, array, atol=1e-4)


def test_the_source_lists_slices_in_the_volume_s_order(tmp_path: Path) -> None:
    datasets = slices(PLANES["oblique"])
    truth = [
        (str(ds.SOPInstanceUID), tuple(float(v) for v in ds.ImagePositionPatient))
        for ds in datasets
    ]
    write(tmp_path, shuffled(datasets), 0)
    volume = read_volume(tmp_path)
    assert volume.dicom is not None
    assert [i.sop_instance_uid for i in volume.dicom.images] == [u for u, _ in truth]
    assert {image.sop_class_uid for image in volume.dicom.images} == {"1.2.840.10008.5.1.4.1.1.4"}
    assert {image.frame for image in volume.dicom.images} == {None}
    for k, (image, (_, place)) in enumerate(zip(volume.dicom.images, truth, strict=True)):
        assert image.position_mm == pytest.approx(place, abs=1e-9)
        at = RAS_FROM_LPS @ volume.affine @ (0, 0, k, 1)
        np.testing.assert_allclose(at[:3], image.position_mm, atol=1e-6)


def test_the_source_numbers_the_frames_of_an_enhanced_file(tmp_path: Path) -> None:
    frames = shuffled(slices())
    write(tmp_path, frames, 0, multi_frame=True)
    source = read_volume(tmp_path).dicom
    assert source is not None
    assert sorted(image.frame or 0 for image in source.images) == list(range(1, 13))
    for image in source.images:
        frame = frames[(image.frame or 0) - 1]
        assert image.position_mm == pytest.approx([float(v) for v in frame.ImagePositionPatient])
        assert image.sop_instance_uid == frames[0].SOPInstanceUID


@pytest.mark.parametrize("multi_frame", [False, True])
def test_the_source_keeps_the_header_and_no_pixels(tmp_path: Path, multi_frame: bool) -> None:
    write(tmp_path, slices(CT), 0, multi_frame=multi_frame)
    source = read_volume(tmp_path).dicom
    assert source is not None
    assert "PixelData" not in source.header
    assert source.header.PatientName == PATIENT["PatientName"]
    assert source.header.FrameOfReferenceUID == uid("frame of reference")
    assert source.header.StudyInstanceUID == uid("study")


@pytest.mark.parametrize("multi_frame", [False, True])
def test_the_source_lists_the_chosen_volume_alone(tmp_path: Path, multi_frame: bool) -> None:
    datasets = repeated(3, TemporalPositionIdentifier=lambda t, _: t + 1)(slices())
    write(tmp_path, shuffled(datasets), 0, multi_frame=multi_frame)
    frames = [None] if not multi_frame else [n + 1 for n in range(36)]
    for t in range(3):
        source = read_volume(tmp_path, volume_index=t).dicom
        assert source is not None
        assert len(source.images) == 12
        assert all(image.frame in frames for image in source.images)
        if not multi_frame:
            expected = [uid("repetition", t, k) for k in range(12)]
            assert [image.sop_instance_uid for image in source.images] == expected


@pytest.mark.parametrize(("terms", "name"), list(CHARACTER_SETS.items()))
def test_the_source_keeps_a_name_of_any_character_set(
    tmp_path: Path, terms: str, name: str | bytes
) -> None:
    write(tmp_path, named(terms, name)(slices()[:2]), 0)
    source = read_volume(tmp_path).dicom
    assert source is not None
    kept = source.header.PatientName
    if isinstance(name, bytes):
        assert kept.original_string == name
    else:
        assert str(kept).rstrip("=") == name.rstrip("=")


def test_nothing_of_the_patient_is_printed_with_a_volume(tmp_path: Path) -> None:
    write(tmp_path, slices(), 0)
    volume = read_volume(tmp_path)
    for shown in (repr(volume), str(volume), repr(volume.dicom), str(volume.dicom)):
        assert not any(secret in shown.lower() for secret in SECRETS)


def test_modality_units_and_path(tmp_path: Path) -> None:
    for scan, units in ((AXIAL, None), (CT, "HU")):
        write(tmp_path / scan.modality, slices(scan), 0)
        volume = read_volume(tmp_path / scan.modality)
        assert (volume.modality, volume.units) == (scan.modality, units)
        assert volume.path == tmp_path / scan.modality


def test_default_tolerances() -> None:
    options = DicomOptions()
    assert options.series is None
    assert options.group is None
    assert options.orientation_tolerance == 1e-3
    assert options.position_tolerance_mm == 0.05
    assert options.gap_tolerance == 0.05
    assert options.tilt_tolerance_degrees == 0.5


@pytest.mark.parametrize("multi_frame", [False, True])
def test_every_group_can_be_chosen(tmp_path: Path, multi_frame: bool) -> None:
    troubled = repeated(3, EchoTime=lambda t, _: (80, 20, 50)[t])(slices())
    write(tmp_path, troubled, 2, multi_frame=multi_frame)
    marks = set()
    for group in (1, 2, 3):
        volume = read_volume(tmp_path, dicom=DicomOptions(group=group))
        z = (RAS_FROM_LPS @ volume.affine @ (0, 0, 0, 1))[2]
        marks.add(round((float(volume.array[0, 0, 0]) - z) / MARK))
        assert volume.shape == AXIAL.shape
    assert marks == {0, 1, 2}
    with pytest.raises(ImageReadError, match=r"--group") as caught:
        read_volume(tmp_path)
    for echo in ("80", "20", "50"):
        assert re.search(rf"\b{echo}\b", str(caught.value))


def test_groups_keep_their_numbers_whatever_files_are_called(tmp_path: Path) -> None:
    """What --group 1 means must not hang on names or on the order of a listing."""
    troubled = repeated(2, EchoTime=lambda t, _: (80, 20)[t])
    read = []
    for n, order in enumerate((1, -1)):
        write(tmp_path / str(n), troubled(slices())[::order], 2)
        read.append(read_volume(tmp_path / str(n), dicom=DicomOptions(group=1)).array)
    np.testing.assert_array_equal(read[0], read[1])


def test_a_series_can_be_chosen_by_what_the_error_lists(tmp_path: Path) -> None:
    write(tmp_path, two_series(slices()), 2)
    with pytest.raises(ImageReadError, match="--series") as caught:
        read_volume(tmp_path)
    text = str(caught.value).replace(str(tmp_path), "")
    keys = re.findall(r"\b[0-9a-f]{8}\b", text)
    assert len(set(keys)) == 2
    for chosen in (keys, ["3", "4"], [uid("first", "series"), uid("second", "series")]):
        means = [
            read_volume(tmp_path, dicom=DicomOptions(series=name)).array.mean() for name in chosen
        ]
        assert abs(max(means) - min(means) - MARK) < 0.01


def test_a_modality_can_be_chosen_among_several(tmp_path: Path) -> None:
    write(tmp_path / "a", slices(), 2)
    write(tmp_path / "b", slices(CT, name="second"), 2)
    with pytest.raises(ImageReadError, match="--series"):
        read_volume(tmp_path)
    for modality in ("MR", "CT"):
        volume = read_volume(tmp_path, dicom=DicomOptions(modality=modality))
        assert volume.modality == modality


@pytest.mark.parametrize(("tolerance", "groups"), [(1e-3, 1), (1e-4, 2)])
def test_orientation_tolerance(tmp_path: Path, tolerance: float, groups: int) -> None:
    datasets = slices()
    for ds in datasets[6:]:
        ds.ImageOrientationPatient = numbers((1, 5e-4, 0, -5e-4, 1, 0))
    write(tmp_path, datasets, 0)
    options = DicomOptions(orientation_tolerance=tolerance)
    if groups == 1:
        volume = read_volume(tmp_path, dicom=options)
        np.testing.assert_allclose(volume.affine[1, 0] / volume.affine[0, 0], 2.5e-4, atol=1e-7)
    else:
        with pytest.raises(ImageReadError, match="--group"):
            read_volume(tmp_path, dicom=options)


def test_only_the_first_volume_of_a_plain_series_exists(tmp_path: Path) -> None:
    write(tmp_path, slices(), 0)
    np.testing.assert_array_equal(
        read_volume(tmp_path, volume_index=0).array, read_volume(tmp_path).array
    )
    for index in (1, -1):
        with pytest.raises(ImageReadError):
            read_volume(tmp_path, volume_index=index)


def test_resampling_leaves_an_even_stack_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, shuffled(slices(PLANES["oblique"])), 0)
    plain, resampled = read_volume(tmp_path), read_volume(tmp_path, resample=True)
    np.testing.assert_array_equal(plain.array, resampled.array)
    np.testing.assert_array_equal(plain.affine, resampled.affine)


def test_resampled_integers_are_rounded(tmp_path: Path) -> None:
    """A missing slice between 0 and 5 becomes 2 or 3, of the type that was read."""
    values = np.repeat(np.arange(0, 60, 5, dtype=np.int16), 640).reshape(12, 20, 32)
    datasets = stored(slices(CT), values, 1, 0)
    del datasets[6]
    write(tmp_path, datasets, 0)
    array = read_volume(tmp_path, resample=True).array
    assert array.dtype == np.int16
    np.testing.assert_array_equal(array[3, 3], np.arange(0, 60, 5))


@pytest.mark.parametrize("multi_frame", [False, True])
def test_the_grid_is_the_volume_s_grid(tmp_path: Path, multi_frame: bool) -> None:
    for n, scan in enumerate(PLANES.values()):
        write(tmp_path / str(n), falling(slices(scan)), 0, multi_frame=multi_frame)
        grid, volume = read_grid(tmp_path / str(n)), read_volume(tmp_path / str(n))
        assert grid.shape == volume.shape
        np.testing.assert_array_equal(grid.affine, volume.affine)


def test_the_grid_of_one_series_among_several(tmp_path: Path) -> None:
    write(tmp_path, two_series(slices()), 0)
    with pytest.raises(ImageReadError, match="--series"):
        read_grid(tmp_path)
    assert read_grid(tmp_path, dicom=DicomOptions(series="4")).shape == AXIAL.shape


def test_the_grid_is_refused_as_the_volume_is(tmp_path: Path) -> None:
    datasets = slices()
    del datasets[5]
    write(tmp_path, datasets, 0)
    with pytest.raises(GeometryError, match="--resample"):
        read_grid(tmp_path)


def test_headers_are_read_without_their_pixels(tmp_path: Path) -> None:
    """Thirty files that claim, and on a sparse disk hold, half a gigabyte of pixels each."""
    for n, ds in enumerate(slices(replace(AXIAL, shape=(32, 20, 30)))):
        ds.Rows = ds.Columns = 16384
        ds.PixelSpacing = numbers((0.01, 0.01))
        set_pixels(ds, b"\0\0")
        path = tmp_path / f"{n}.dcm"
        save(ds, path)
        content = path.read_bytes()
        size = 2 * 16384**2
        path.write_bytes(content[:-6] + size.to_bytes(4, "little"))
        with path.open("r+b") as file:
            file.truncate(len(content) - 2 + size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    assert read_grid(tmp_path).shape == (16384, 16384, 30)
    assert time.perf_counter() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_only_the_chosen_series_is_decoded(tmp_path: Path) -> None:
    """The other one's pixels are damaged, which nobody who does not read it needs to know."""
    write(tmp_path / "a", slices(), 0)
    write(tmp_path / "b", slices(name="second"), 0, syntax=RLELossless)
    for path in (tmp_path / "b").glob("*"):
        content = path.read_bytes()
        path.write_bytes(content[:-200] + b"\xff" * 200)
    first = DicomOptions(series=uid("first", "series"))
    assert read_volume(tmp_path, dicom=first).shape == AXIAL.shape
    with pytest.raises(ImageReadError):
        read_volume(tmp_path, dicom=DicomOptions(series=uid("second", "series")))


def test_a_damaged_file_of_another_series_stops_nobody_who_names_theirs(tmp_path: Path) -> None:
    write(tmp_path / "a", slices(), 0)
    write(tmp_path / "b", slices(name="second"), 0)
    first, second = (series_key(uid(name, "series")) for name in ("first", "second"))
    broken = next((tmp_path / "b").glob("*"))
    broken.write_bytes(broken.read_bytes()[:-1400])
    assert read_volume(tmp_path, dicom=DicomOptions(series=first)).shape == AXIAL.shape
    for options in (DicomOptions(series=second), DicomOptions()):
        with pytest.raises(ImageReadError, match=broken.name):
            read_volume(tmp_path, dicom=options)


@pytest.mark.parametrize("multi_frame", [False, True])
def test_monai_reads_a_folder(tmp_path: Path, multi_frame: bool) -> None:
    write(tmp_path / "mr", shuffled(slices(PLANES["oblique"])), 0, multi_frame=multi_frame)
    path = tmp_path / "mr" / "image_0000.dcm" if multi_frame else tmp_path / "mr"
    volume = read_volume(path)
    load = LoadImaged(["mr"], reader=VolumeReader(), ensure_channel_first=True)
    image = load({"mr": str(path)})["mr"]
    assert image.shape == (1, *volume.shape)
    np.testing.assert_allclose(image.affine.numpy(), volume.affine, atol=1e-6)
    np.testing.assert_array_equal(image[0].numpy(), volume.array)
    assert image.meta["modality"] == "MR"
    ours = LoadVolumed(["mr"])({"mr": str(path)})["mr"]
    np.testing.assert_array_equal(ours.numpy(), image.numpy())


def test_monai_s_metadata_hold_nothing_of_the_patient(tmp_path: Path) -> None:
    write(tmp_path, slices(), 0)
    image = LoadImaged(["mr"], reader=VolumeReader())({"mr": str(tmp_path)})["mr"]
    assert not any(secret in repr(image.meta).lower() for secret in SECRETS)


def test_many_threads_may_read_at_once(tmp_path: Path) -> None:
    """Each gets its own volume, and pydicom's and Python's settings are as before."""
    scans = [PLANES["axial"], PLANES["oblique"], CT, PLANES["sagittal"]]
    for n, scan in enumerate(scans):
        datasets = slices(scan)
        for ds in datasets:
            ds.SpecificCharacterSet = "ISO_IR 192"
        write(tmp_path / str(n), datasets, n % 3, syntax=[RLELossless, "1.2.840.10008.1.2"][n % 2])
        for path in (tmp_path / str(n)).glob("*"):
            path.write_bytes(path.read_bytes().replace(b"ISO_IR 192", b"ISO_IR 999"))
    write(tmp_path / "broken", slices()[::2][:3] + slices()[8:9], 0)
    expected = [read_volume(tmp_path / str(n)).array for n in range(4)]
    filters = list(warnings.filters)
    disabled = logging.getLogger("pydicom").disabled
    mode = pydicom.config.settings.reading_validation_mode

    def read(job: int) -> None:
        if job % 5 == 4:
            with pytest.raises(GeometryError):
                read_volume(tmp_path / "broken")
        else:
            np.testing.assert_array_equal(
                read_volume(tmp_path / str(job % 5)).array, expected[job % 5]
            )

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(read, range(60)))
    assert warnings.filters == filters
    assert logging.getLogger("pydicom").disabled == disabled
    assert pydicom.config.settings.reading_validation_mode == mode


def test_reading_does_not_touch_the_files(tmp_path: Path) -> None:
    write(tmp_path, slices(), 0)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir()}
    read_volume(tmp_path)
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir()} == before


def test_left_out_scouts_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scouts = slices(replace(PLANES["sagittal"], shape=(32, 20, 2)))
    for n, ds in enumerate(scouts):
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        ds.SOPInstanceUID = uid("scout", n)
    write(tmp_path, slices() + scouts, 0)
    assert read_volume(tmp_path).shape == AXIAL.shape
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warned) == 1
    assert "localizer" in warned[0].replace(str(tmp_path), "")
    assert re.search(r"\b2 localizer", warned[0])


def test_a_plain_series_is_read_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, slices(), 0)
    read_volume(tmp_path)
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_enhanced_files_of_one_series_are_one_volume_or_several_of_it(tmp_path: Path) -> None:
    """Three time points in three files, told apart by their temporal position."""
    datasets = repeated(3, TemporalPositionIdentifier=lambda t, _: t + 1)(slices())
    for t in range(3):
        part = enhanced(paint(datasets[12 * t : 12 * t + 12], 2))
        part.SOPInstanceUID = uid("part", t)
        save(part, tmp_path / f"{2 - t}.dcm")
    for t in range(3):
        volume = read_volume(tmp_path, volume_index=t)
        z = (RAS_FROM_LPS @ volume.affine @ (0, 0, 0, 1))[2]
        assert abs(float(volume.array[0, 0, 0]) - z - MARK * t) < 0.01
        assert volume.dicom is not None
        assert {i.sop_instance_uid for i in volume.dicom.images} == {uid("part", t)}
