"""Single rules of reading and writing DICOM, each at the limit where it decides."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import dicom_phantoms as phantoms
import numpy as np
import pytest
from dicom_phantoms import PLANES, Scan, Slices, setting, slices, uid
from pydicom import Dataset, dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medp2p.dicom_source import DicomSource
from medp2p.errors import GeometryError, ImageReadError
from medp2p.io import DicomOptions, read_volume
from medp2p.io.dicom_write import DicomOutput, write_dicom_series
from medp2p.volume import Volume

SMALL = Scan(shape=(16, 12, 5), spacing_mm=(4.0, 5.0, 3.0), centre_mm=(3.0, -7.0, 11.0))


def write(folder: Path, datasets: Slices, **options: Any) -> Path:
    phantoms.write(folder, datasets, 2, **options)
    return folder


def with_spacing_changed(factor: float) -> Slices:
    """A series whose last two slices have other pixels than the first three."""
    datasets = slices(SMALL)
    for ds in datasets[3:]:
        ds.PixelSpacing = phantoms.numbers([float(v) * factor for v in ds.PixelSpacing])
    return datasets


def test_pixel_spacings_that_differ_by_rounding_are_one(tmp_path: Path) -> None:
    folder = write(tmp_path, with_spacing_changed(1.00005))
    assert read_volume(folder).shape == SMALL.shape


@pytest.mark.parametrize("factor", [1.0002, 1.005])
def test_pixel_spacings_that_differ_are_two_groups(tmp_path: Path, factor: float) -> None:
    folder = write(tmp_path, with_spacing_changed(factor))
    with pytest.raises(ImageReadError, match="2 kinds of image"):
        read_volume(folder)
    assert read_volume(folder, dicom=DicomOptions(group=1)).shape == (16, 12, 3)


def test_slices_a_tenth_of_a_millimetre_apart_are_slices(tmp_path: Path) -> None:
    scan = replace(SMALL, spacing_mm=(0.1, 0.1, 0.1), shape=(16, 12, 6))
    volume = read_volume(write(tmp_path, slices(scan)))
    assert volume.shape == (16, 12, 6)
    np.testing.assert_allclose(volume.spacing_mm, 0.1)


@pytest.mark.parametrize("missing", [1, 6])
def test_a_missing_slice_is_no_jitter_whatever_positions_may_be_off(
    tmp_path: Path, missing: int
) -> None:
    """Half a gap and more is never allowed by the tolerance of positions, in millimetres."""
    scan = replace(SMALL, shape=(16, 12, 12))
    folder = write(tmp_path, phantoms.without(missing)(slices(scan)))
    with pytest.raises(GeometryError, match=r"1 slice\(s\) missing"):
        read_volume(folder, dicom=DicomOptions(position_tolerance_mm=10.0))


@pytest.mark.parametrize("rescale_type", ["MGML", "mgml ", "US", "OD"])
def test_a_ct_in_other_units_than_hu_is_refused(tmp_path: Path, rescale_type: str) -> None:
    scan = replace(SMALL, modality="CT")
    folder = write(tmp_path, setting(RescaleType=rescale_type)(slices(scan)))
    with pytest.raises(ImageReadError, match="HU"):
        read_volume(folder)


@pytest.mark.parametrize("thickness", ["0", "-3", "", None])
def test_a_single_slice_without_a_thickness_is_refused(
    tmp_path: Path, thickness: str | None
) -> None:
    scan = replace(SMALL, shape=(16, 12, 1))
    folder = write(tmp_path, setting(SliceThickness=thickness)(slices(scan)))
    with pytest.raises(GeometryError, match="single slice"):
        read_volume(folder)


def scouts(name: str) -> Slices:
    """A series of localizers alone."""
    scan = replace(PLANES["coronal"], shape=(32, 20, 3))
    return setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])(slices(scan, name))


def test_series_of_localizers_alone_are_no_choice(tmp_path: Path) -> None:
    write(tmp_path / "a", scouts("scouts"))
    write(tmp_path / "b", scouts("more scouts"))
    write(tmp_path / "c", slices(SMALL))
    assert read_volume(tmp_path).shape == SMALL.shape


def test_localizers_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match="only localizers"):
        read_volume(write(tmp_path, scouts("scouts")))


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_deflated_pixels_of_another_length_are_refused(tmp_path: Path, share: float) -> None:
    """Inflating a whole file says nothing of whether the pixels in it are whole."""
    (ds,) = phantoms.paint(slices(replace(SMALL, shape=(16, 12, 1))), 2)
    length = len(ds.PixelData)
    ds.PixelData = (ds.PixelData * 2)[: round(share * length)]
    phantoms.save(ds, tmp_path / "a.dcm", DeflatedExplicitVRLittleEndian)
    with pytest.raises(ImageReadError, match=f"{round(share * length)} bytes.*expected {length}"):
        read_volume(tmp_path)


def synthetic(folder: Path, **changes: Any) -> Volume:
    """A CT on the grid of a series that is written and read first."""
    volume = read_volume(write(folder, slices(SMALL)))
    values = np.rint(volume.array.astype(np.float32))
    return volume.with_array(values, modality="CT", units="HU", path=None, **changes)


def with_header(volume: Volume, **values: Any) -> Volume:
    assert volume.dicom is not None
    header = deepcopy(volume.dicom.header)
    setting(**values)([header])
    return replace(volume, dicom=DicomSource(header, volume.dicom.images))


def written(folder: Path, volume: Volume, options: DicomOutput | None = None) -> list[Dataset]:
    write_dicom_series(volume, folder, options)
    return [dcmread(path) for path in sorted(folder.iterdir())]


def references(ds: Dataset) -> list[tuple[str, str]]:
    return [
        (item.ReferencedSOPInstanceUID, item.SpatialLocationsPreserved)
        for item in ds.SourceImageSequence
    ]


IMAGES = [uid("first", "image", k) for k in range(SMALL.shape[2])]


def test_a_source_of_unknown_orientation_is_not_called_parallel(tmp_path: Path) -> None:
    volume = synthetic(tmp_path / "in")
    finer = replace(volume, affine=volume.affine @ np.diag([0.5, 1, 1, 1]))
    for k, ds in enumerate(written(tmp_path / "known", finer)):
        assert references(ds) == [(IMAGES[k], "NO")]
    for ds in written(tmp_path / "unknown", with_header(finer, ImageOrientationPatient=None)):
        assert references(ds) == [(image, "NO") for image in IMAGES]


@pytest.mark.parametrize("factors", [(2.0, 1.0), (1.0, 1.1)])
def test_pixels_of_another_spacing_do_not_lie_where_the_sources_do(
    tmp_path: Path, factors: tuple[float, float]
) -> None:
    """Same number of pixels, same first pixel, same directions: only the spacing differs."""
    volume = synthetic(tmp_path / "in")
    for k, ds in enumerate(written(tmp_path / "same", volume)):
        assert references(ds) == [(IMAGES[k], "YES")]
    wider = replace(volume, affine=volume.affine @ np.diag([*factors, 1, 1]))
    for k, ds in enumerate(written(tmp_path / "wider", wider)):
        assert references(ds) == [(IMAGES[k], "NO")]


def test_another_model_under_the_same_seed_is_another_series(tmp_path: Path) -> None:
    volume = synthetic(tmp_path / "in")
    found = set()
    for name, model_hash in (("a", "ab" * 32), ("b", "cd" * 32), ("c", None)):
        options = DicomOutput(model_name="m", model_hash=model_hash, seed="trial 7")
        images = written(tmp_path / name, volume, options)
        found |= {images[0].SeriesInstanceUID, *(ds.SOPInstanceUID for ds in images)}
    assert len(found) == 3 * (1 + len(IMAGES))
