"""Series in, a model that changes nothing, series out, and read again: each voxel stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dicom_phantoms as phantoms
import numpy as np
import pydicom
import pytest
import torch

from medp2p.checkpoint import Model, ModelCard
from medp2p.config import Config, ImageSettings, PreprocessingSettings, SliceSettings
from medp2p.errors import ImageReadError
from medp2p.inference import Translator
from medp2p.io import DicomOutput, read_volume, write_dicom_series
from medp2p.volume import axial_grid

SHAPE = (33, 26, 9)
HIGHEST = 1500
POSITIONS = {"feet first": "FFS", "prone": "HFP", "feet first prone": "FFP", "decubitus": "HFDL"}


def identity_model(spacing=(None, None, None), plane="axial") -> Translator:
    """MR to MR through a network that returns its input."""
    image = ImageSettings(modality="MR", percentiles=(0, 100))
    config = Config(
        preprocessing=PreprocessingSettings(source=image, target=image, spacing_mm=spacing),
        slices=SliceSettings(plane=plane, size=(32, 32)),
        method={"generator": {"levels": 3}, "discriminator": {"layers": 1}},
    )
    card = ModelCard(config, ("mr",), (0.0, float(HIGHEST)))
    model = Model(torch.nn.Identity(), card, "0" * 64)
    return Translator(model, torch.device("cpu"), lambda slices: slices, batch_size=8)


def write_mr(folder: Path, scan: phantoms.Scan, *, multi_frame: bool, position: str) -> None:
    """A series of random values from 0 to `HIGHEST`."""
    random = np.random.default_rng(7)
    datasets = phantoms.slices(scan)
    for ds in datasets:
        ds.PatientPosition = position
        ds.RescaleSlope, ds.RescaleIntercept = "1", "0"
        values = random.integers(0, HIGHEST + 1, (scan.shape[1], scan.shape[0]))
        values.flat[:2] = (0, HIGHEST)
        phantoms.set_pixels(ds, values.astype("<u2").tobytes())
    phantoms.write(folder, datasets, 0, multi_frame=multi_frame)


@pytest.mark.parametrize("multi_frame", [False, True], ids=["classic", "enhanced"])
@pytest.mark.parametrize("plane", [name for name in phantoms.PLANES if not name.startswith("ct")])
def test_voxels_come_back_where_they_were(tmp_path: Path, plane: str, multi_frame: bool) -> None:
    scan = replace(phantoms.PLANES[plane], shape=SHAPE, spacing_mm=(1.1, 1.3, 2.7))
    position = POSITIONS.get(plane, "HFS")
    write_mr(tmp_path / "mr", scan, multi_frame=multi_frame, position=position)
    source = read_volume(tmp_path / "mr")
    result = identity_model(plane="coronal")(source, "none")
    write_dicom_series(result, tmp_path / "out")
    written = read_volume(tmp_path / "out")
    np.testing.assert_array_equal(written.array, source.array)
    np.testing.assert_allclose(written.affine, source.affine, rtol=0, atol=1e-4)
    for image in map(pydicom.dcmread, (tmp_path / "out").iterdir()):
        assert image.FrameOfReferenceUID == phantoms.uid("frame of reference")
        assert image.PatientPosition == position
        (reference,) = image.SourceImageSequence
        assert reference.SpatialLocationsPreserved == "YES"
        k = image.InstanceNumber
        if multi_frame:
            assert reference.ReferencedFrameNumber == k
        else:
            assert reference.ReferencedSOPInstanceUID == phantoms.uid("first", "image", k - 1)


@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal", "feet first prone"])
def test_reslicing_turned_slices_changes_no_value(tmp_path: Path, plane: str) -> None:
    """Where axes are only permuted, transverse slices hold the same voxels in the same places."""
    scan = replace(phantoms.PLANES[plane], shape=SHAPE, spacing_mm=(1.5, 1.5, 1.5))
    write_mr(tmp_path / "mr", scan, multi_frame=False, position="HFS")
    source = read_volume(tmp_path / "mr")
    result = identity_model()(source, "none", axial_grid(source.grid))
    write_dicom_series(result, tmp_path / "out")
    written = read_volume(tmp_path / "out")
    assert written.orientation == "LPS"
    index = np.stack(np.meshgrid(*map(np.arange, source.shape), indexing="ij"), -1).reshape(-1, 3)
    world = index @ source.affine[:3, :3].T + source.affine[:3, 3]
    there = (world - written.affine[:3, 3]) @ np.linalg.inv(written.affine[:3, :3]).T
    np.testing.assert_allclose(there, np.rint(there), atol=1e-3)
    found = written.array[tuple(np.rint(there).astype(int).T)]
    np.testing.assert_array_equal(found, source.array.reshape(-1))
    assert written.array.size == source.array.size


def test_reslicing_an_oblique_scan_keeps_places(tmp_path: Path) -> None:
    """The coordinate phantom, tilted, on transverse slices: values are still the coordinates."""
    grid = {"shape": (40, 36, 30), "spacing_mm": (2.0, 2.0, 2.0), "centre_mm": (90.0, 95.0, 99.0)}
    scan = replace(phantoms.PLANES["oblique"], **grid)
    for axis in range(3):
        folder = tmp_path / str(axis)
        phantoms.write(folder, phantoms.slices(scan), axis)
        source = read_volume(folder)
        limits = (float(source.array.min()), float(source.array.max()))
        translator = identity_model()
        card = replace(translator.model.card, target_range=limits)
        translator = replace(translator, model=replace(translator.model, card=card))
        whole = source.with_array(np.ones(source.shape, np.uint8), modality="MASK", units=None)
        result = translator(source, whole, axial_grid(source.grid))
        index = np.stack(np.meshgrid(*map(np.arange, result.shape), indexing="ij"), -1)
        world = index @ result.affine[:3, :3].T + result.affine[:3, 3]
        lps = world * (-1, -1, 1)
        back = (world - source.affine[:3, 3]) @ np.linalg.inv(source.affine[:3, :3]).T
        inside = ((back >= 1) & (back <= np.array(source.shape) - 2)).all(axis=-1)
        assert inside.sum() > 0.5 * source.array.size
        assert np.abs(result.array - lps[..., axis])[inside].max() < 0.05
        outside = ((back < -1) | (back > np.array(source.shape))).any(axis=-1)
        assert (result.array[outside] == result.array.min()).all()


def test_contrasts_of_two_patients_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scan = replace(phantoms.AXIAL, shape=SHAPE)
    one = identity_model()
    card = replace(one.model.card, source_names=("t1", "t2"))
    model = replace(one, model=replace(one.model, card=card), predict_slices=lambda x: x[:, :1])
    volumes = {}
    for name, changes in {
        "same": {},
        "other patient": {"PatientID": "another"},
        "other frame": {"FrameOfReferenceUID": phantoms.uid("another frame")},
    }.items():
        datasets = phantoms.setting(**changes)(phantoms.slices(scan))
        phantoms.write(tmp_path / name, datasets, 2)
        volumes[name] = read_volume(tmp_path / name)
    model([volumes["same"], volumes["same"]], "none")
    assert not caplog.records
    with pytest.raises(ImageReadError, match="two patients"):
        model([volumes["same"], volumes["other patient"]], "none")
    model([volumes["same"], volumes["other frame"]], "none")
    assert "frames of reference" in caplog.text


def test_every_contrast_is_referenced(tmp_path: Path) -> None:
    """A second series on other slices: each image names those of it that lie nearest."""
    thick = replace(phantoms.AXIAL, shape=(33, 26, 5), spacing_mm=(8.0, 12.8, 10.0))
    for name, scan in (("t1", replace(phantoms.AXIAL, shape=SHAPE)), ("t2", thick)):
        phantoms.write(tmp_path / name, phantoms.slices(scan, name), 2)
    one = identity_model()
    card = replace(one.model.card, source_names=("t1", "t2"))
    model = replace(one, model=replace(one.model, card=card), predict_slices=lambda x: x[:, :1])
    sources = [read_volume(tmp_path / name) for name in ("t1", "t2")]
    result = model(sources, "none")
    result = result.with_array(np.abs(result.array))
    for seed in ("a", None):
        write_dicom_series(result, tmp_path / f"out {seed}", DicomOutput(seed=seed))
    for path in sorted((tmp_path / "out None").iterdir()):
        image = pydicom.dcmread(path)
        series = [item.SeriesInstanceUID for item in image.ReferencedSeriesSequence]
        assert series == [phantoms.uid("t1", "series"), phantoms.uid("t2", "series")]
        first, *others = image.SourceImageSequence
        k = image.InstanceNumber - 1
        assert first.ReferencedSOPInstanceUID == phantoms.uid("t1", "image", k)
        assert first.SpatialLocationsPreserved == "YES"
        assert 1 <= len(others) <= 2
        assert all(item.SpatialLocationsPreserved == "NO" for item in others)
        known = {phantoms.uid("t2", "image", n) for n in range(5)}
        assert {item.ReferencedSOPInstanceUID for item in others} <= known
    alone = replace(result, dicom=replace(sources[0].dicom))
    write_dicom_series(alone, tmp_path / "alone", DicomOutput(seed="a"))
    uids = [
        pydicom.dcmread(tmp_path / name / "MR_0001.dcm").SOPInstanceUID
        for name in ("out a", "alone")
    ]
    assert uids[0] != uids[1]
