"""DICOM series through the commands, as a user types them."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import dicom_phantoms as phantoms
import numpy as np
import pydicom
import pytest
from conftest import TINY_SETTINGS, make_pair, refused, run

from medp2p.cli import app
from medp2p.io import read_volume, write_volume

SHAPE = (40, 36, 10)
SCAN = replace(phantoms.AXIAL, shape=SHAPE, spacing_mm=(1.5, 1.5, 3.0))


def write_series(folder: Path, modality: str = "MR", seed: int = 1, name: str = "first") -> Path:
    """A toy MR or CT as a series of classic images."""
    mr, ct, _ = make_pair(seed, SHAPE)
    values = np.rint(mr) if modality == "MR" else ct + 1024
    datasets = phantoms.slices(replace(SCAN, modality=modality), name)
    for k, ds in enumerate(datasets):
        ds.RescaleSlope, ds.RescaleIntercept = "1", "0" if modality == "MR" else "-1024"
        ds.PixelRepresentation = 0
        phantoms.set_pixels(ds, values[:, :, k].T.astype("<u2").tobytes())
    phantoms.write(folder, datasets, 0)
    return folder


@pytest.fixture(scope="session")
def mr_series(tmp_path_factory) -> Path:
    return write_series(tmp_path_factory.mktemp("dicom") / "mr")


@pytest.fixture(scope="session")
def ct_series(tmp_path_factory) -> Path:
    return write_series(tmp_path_factory.mktemp("dicom") / "ct", "CT")


@pytest.fixture
def model_file(trained_run) -> Path:
    return trained_run / "model.safetensors"


def done(capsys, *arguments: object) -> tuple[str, str]:
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    return out, err


def test_a_series_becomes_an_image_file(capsys, mr_series, model_file, tmp_path):
    done(capsys, "convert", mr_series, tmp_path / "mr.nii.gz")
    source = read_volume(mr_series)
    converted = read_volume(tmp_path / "mr.nii.gz")
    np.testing.assert_array_equal(converted.array, source.array)
    np.testing.assert_allclose(converted.affine, source.affine, atol=1e-5)
    assert converted.modality == "MR"
    for target in (tmp_path / "from_dicom.nii.gz", tmp_path / "from_nifti.nii.gz"):
        image = mr_series if "dicom" in target.name else tmp_path / "mr.nii.gz"
        done(capsys, "translate", image, target, "-m", model_file, "--precision", "fp32")
    a, b = (read_volume(tmp_path / f"from_{kind}.nii.gz") for kind in ("dicom", "nifti"))
    np.testing.assert_array_equal(a.array, b.array)
    np.testing.assert_allclose(a.affine, b.affine, atol=1e-5)


def test_a_series_becomes_a_series_and_a_file(capsys, mr_series, model_file, tmp_path):
    out = tmp_path / "sct"
    done(capsys, "translate", mr_series, out, "-m", model_file, "--also-nifti")
    series, file = read_volume(out), read_volume(tmp_path / "sct.nii.gz")
    np.testing.assert_array_equal(series.array, file.array)
    np.testing.assert_allclose(series.affine, file.affine, atol=1e-4)
    assert series.modality == "CT"
    source = pydicom.dcmread(next(mr_series.iterdir()))
    for path in out.iterdir():
        image = pydicom.dcmread(path)
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
            assert image[keyword].value == source[keyword].value
        assert image.SeriesInstanceUID != source.SeriesInstanceUID
        assert "SYNTHETIC" in image.ImageComments


def test_an_image_file_becomes_a_series(capsys, mr_series, model_file, tmp_path):
    write_volume(read_volume(mr_series), tmp_path / "mr.nii.gz")
    options = ("--patient-id", "P7", "--body-part", "HEAD", "--series-description", "sCT of P7")
    done(capsys, "translate", tmp_path / "mr.nii.gz", tmp_path / "sct", "-m", model_file, *options)
    image = pydicom.dcmread(next((tmp_path / "sct").iterdir()))
    assert (image.PatientID, image.BodyPartExamined) == ("P7", "HEAD")
    assert image.SeriesDescription == "sCT of P7"


def test_a_study_is_searched_for_the_model_s_modality(capsys, model_file, tmp_path):
    write_series(tmp_path / "study" / "a", "MR")
    write_series(tmp_path / "study" / "b", "CT", name="second")
    done(capsys, "translate", tmp_path / "study", tmp_path / "out.nii.gz", "-m", model_file)
    line = refused(capsys, "convert", tmp_path / "study", tmp_path / "one.nii.gz")
    assert "2 series" in line
    key = line.split("--series KEY: ")[1].split(" ")[0]
    done(capsys, "convert", tmp_path / "study", tmp_path / "one.nii.gz", "--series", key)
    write_series(tmp_path / "study" / "c", "MR", name="third")
    line = refused(capsys, "translate", tmp_path / "study", tmp_path / "2.nii.gz", "-m", model_file)
    assert "2 series" in line


def test_the_wrong_modality_is_refused(capsys, ct_series, model_file, tmp_path):
    line = refused(capsys, "translate", ct_series, tmp_path / "out", "-m", model_file)
    assert "found CT, expected MR" in line
    assert not (tmp_path / "out").exists()


def test_outputs_among_inputs_are_refused(capsys, mr_series, model_file):
    for name in ("sct", "sct.nii.gz", "deep/er/sct"):
        line = refused(capsys, "translate", mr_series, mr_series / name, "-m", model_file)
        assert "inside the input" in line
    line = refused(capsys, "convert", mr_series, mr_series / "mr.nii.gz")
    assert "inside the input" in line
    assert len(list(mr_series.iterdir())) == SHAPE[2]


def test_names_of_outputs(capsys, mr_series, model_file, tmp_path):
    line = refused(capsys, "translate", mr_series, tmp_path / "a.dcm", "-m", model_file)
    assert "without a suffix" in line
    line = refused(capsys, "translate", mr_series, tmp_path / "a.jpg", "-m", model_file)
    assert "no image format" in line


@pytest.mark.parametrize(
    "options",
    [
        ["--series-description", "x"],
        ["--deidentify"],
        ["--also-nifti"],
        ["--seed", "1"],
        ["--uid-root", "1.2.3"],
    ],
)
def test_options_that_would_be_idle(capsys, mr_series, model_file, tmp_path, options):
    out = tmp_path / "a.nii.gz"
    code, _, err = run(capsys, "translate", mr_series, out, "-m", model_file, *options)
    assert code == 2
    assert options[0] in err
    assert not out.exists()


def test_dicom_choices_need_dicom(capsys, mr_series, model_file, tmp_path):
    write_volume(read_volume(mr_series), tmp_path / "mr.nii.gz")
    arguments = (tmp_path / "mr.nii.gz", tmp_path / "out.nii.gz", "--series", "3")
    assert run(capsys, "convert", *arguments)[0] == 2
    assert run(capsys, "translate", *arguments, "-m", model_file)[0] == 2


def test_reslice_axial(capsys, model_file, tmp_path):
    scan = replace(phantoms.PLANES["sagittal"], shape=SHAPE, spacing_mm=(1.5, 2.0, 3.0))
    datasets = phantoms.slices(scan)
    mr, _, _ = make_pair(3, SHAPE)
    for k, ds in enumerate(datasets):
        ds.RescaleSlope, ds.RescaleIntercept = "1", "0"
        phantoms.set_pixels(ds, np.rint(mr[:, :, k]).T.astype("<u2").tobytes())
    phantoms.write(tmp_path / "mr", datasets, 0)
    out = tmp_path / "sct"
    done(capsys, "translate", tmp_path / "mr", out, "-m", model_file, "--reslice", "axial")
    image = pydicom.dcmread(next(out.iterdir()))
    assert [float(v) for v in image.ImageOrientationPatient] == [1, 0, 0, 0, 1, 0]
    assert image.PixelSpacing[0] == image.PixelSpacing[1]
    resliced, source = read_volume(out), read_volume(tmp_path / "mr")
    assert resliced.grid.corners_mm.min(axis=0) == pytest.approx(
        source.grid.corners_mm.min(axis=0), abs=1e-3
    )
    assert (resliced.grid.corners_mm.max(axis=0) >= source.grid.corners_mm.max(axis=0) - 1e-3).all()


def test_series_in_case_folders_are_prepared_and_evaluated(capsys, trained_run, tmp_path):
    for seed in range(3):
        case = tmp_path / "cases" / f"case_{seed}"
        write_series(case / "mr", "MR", seed, f"mr {seed}")
        write_series(case / "ct", "CT", seed, f"ct {seed}")
    settings = [f"{name}={value}" for name, value in TINY_SETTINGS.items() if "spacing" in name]
    manifest = tmp_path / "cases.csv"
    done(capsys, "manifest", tmp_path / "cases", manifest)
    done(
        capsys,
        "prepare",
        manifest,
        tmp_path / "prepared",
        "-s",
        settings[0].replace("None", "null"),
    )
    model = trained_run / "model.safetensors"
    for to in ("nifti", "dicom"):
        out = tmp_path / to
        done(capsys, "translate", manifest, out, "-m", model, "--split", "all", "--to", to)
        stdout, _ = done(capsys, "evaluate", out, manifest, "--split", "all", "--json")
        assert len(json.loads(stdout)["cases"]) == 3
    one = tmp_path / "cases" / "case_0" / "ct"
    stdout, _ = done(capsys, "evaluate", tmp_path / "dicom" / "case_0", one, "--json")
    assert json.loads(stdout)["cases"][0]["case"] == "case_0"
    done(capsys, "evaluate", tmp_path / "dicom" / "case_0", one)


def test_a_time_series_asks_for_a_volume(capsys, tmp_path):
    datasets = phantoms.repeated(3, TemporalPositionIdentifier=lambda t, _: t + 1)(
        phantoms.slices()
    )
    phantoms.write(tmp_path / "mr", datasets, 0)
    assert "--volume" in refused(capsys, "convert", tmp_path / "mr", tmp_path / "a.nii.gz")
    done(capsys, "convert", tmp_path / "mr", tmp_path / "a.nii.gz", "--volume", "1")


def test_tolerances_and_resample(capsys, tmp_path):
    phantoms.write(tmp_path / "mr", phantoms.one_shifted(phantoms.slices()), 0)
    line = refused(capsys, "convert", tmp_path / "mr", tmp_path / "a.nii.gz")
    assert "--position-tolerance" in line
    done(capsys, "convert", tmp_path / "mr", tmp_path / "a.nii.gz", "--resample")
    wide = ("--position-tolerance", "20")
    done(capsys, "convert", tmp_path / "mr", tmp_path / "b.nii.gz", *wide)


def test_no_patient_data_in_any_output(capsys, model_file, tmp_path):
    """A name planted in every text of the headers appears in nothing that a command says."""
    good = write_series(tmp_path / "good")
    broken = write_series(tmp_path / "broken")
    next(broken.iterdir()).unlink()
    (broken / "cut").write_bytes(sorted(good.iterdir())[0].read_bytes()[:900])
    study = tmp_path / "study"
    shutil.copytree(good, study / "a")
    write_series(study / "b", name="second")
    said = []
    for number, source in enumerate((good, broken, study)):
        for command in (
            ("-v", "translate", source, tmp_path / f"t{number}", "-m", model_file),
            ("-v", "translate", source, tmp_path / f"t{number}.nii.gz", "-m", model_file),
            ("-v", "convert", source, tmp_path / f"c{number}.nii.gz"),
            ("-v", "inspect", source),
            ("-v", "inspect", source, "--json"),
            ("-v", "evaluate", source, source),
            ("-v", "manifest", source, tmp_path / f"m{number}.csv"),
            ("-v", "prepare", source, tmp_path / f"p{number}"),
        ):
            said.append("\n".join(map(str, run(capsys, *command)[1:])))
    names = [path.name for path in tmp_path.rglob("*")]
    told = [
        (secret, text)
        for text in said + names
        for secret in phantoms.SECRETS
        if secret in text.lower() and secret != "whimsical"
    ]
    assert not told


class TestDisks:
    def test_a_full_disk_leaves_nothing(self, capsys, mr_series, model_file, small_disk):
        free = shutil.disk_usage(small_disk).free
        (small_disk / "filler").write_bytes(bytes(free - 12_000))
        line = refused(capsys, "translate", mr_series, small_disk / "sct", "-m", model_file)
        assert "disk is full" in line
        assert [path.name for path in small_disk.iterdir()] == ["filler"]

    def test_a_read_only_disk_is_named(self, capsys, mr_series, model_file, small_disk):
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        line = refused(capsys, "translate", mr_series, small_disk / "sct", "-m", model_file)
        assert "read-only" in line


def test_every_command_is_there() -> None:
    assert "inspect" in {command.name or "" for command in app.registered_commands} | {
        command.callback.__name__ for command in app.registered_commands if command.callback
    }
