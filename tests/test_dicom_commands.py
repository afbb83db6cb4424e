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
from conftest import TINY_SETTINGS, decide_to_use, make_pair, refused, run

from medp2p.cli import app
from medp2p.cli.translate import Reading
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
    key = line.split(", of: ")[1].split(" ")[0]
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
    decide_to_use(manifest)
    settings = ["-s", settings[0].replace("None", "null"), "--registration", "none", "-j", 1]
    done(capsys, "prepare", manifest, tmp_path / "prepared", *settings)
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


def image_of(series: Path, path: Path) -> Path:
    write_volume(read_volume(series), path)
    return path


def test_groups_and_volumes_are_chosen_source_by_source(capsys, mr_series, model_file, tmp_path):
    echoes = phantoms.slices(SCAN) + phantoms.slices(SCAN)
    for number, ds in enumerate(echoes):
        ds.EchoTime, ds.EchoNumbers = (("10", "1"), ("90", "2"))[number >= SHAPE[2]]
        ds.SOPInstanceUID = f"1.2.3.{number}"
        phantoms.set_pixels(ds, np.full(SHAPE[1::-1], number >= SHAPE[2], "<u2").tobytes())
    phantoms.write(tmp_path / "echoes", echoes, 0)
    reading = Reading([], [1, 2], [], {}, False)
    first, second = reading.read([tmp_path / "echoes"] * 2, "MR")
    assert (second.array > first.array).all()
    one, two, three = (["--volume", "0"] * n for n in (1, 2, 3))
    arguments = ("translate", mr_series, mr_series, tmp_path / "out.nii.gz", "-m", model_file)
    for counts in (three, ["--group", "1"] * 3, ["--series", "1"] * 3):
        code, _, err = run(capsys, *arguments, *counts)
        assert code == 2
        assert "3 for 2 sources" in err
    for counts in (one, two):
        assert "model" in refused(capsys, *arguments, *counts)


def manifest_of(path: Path, *rows: tuple[str, str, Path]) -> Path:
    """A manifest of cases without a use for their target."""
    lines = ["case,patient,split,source_mr,target"]
    for name, patient, source in rows:
        (path.parent / f"target_{name}.nii").touch()
        lines.append(f"{name},{patient},test,{source},target_{name}.nii")
    path.write_text("\n".join(lines))
    return path


def test_a_manifest_says_who_the_patients_are(capsys, mr_series, model_file, tmp_path):
    shutil.copytree(mr_series, tmp_path / "series")
    rows = [
        ("a", "P1", image_of(mr_series, tmp_path / "a.nii")),
        ("b", "P2", image_of(mr_series, tmp_path / "b.nii")),
        ("c", "P3", tmp_path / "series"),
    ]
    manifest = manifest_of(tmp_path / "m.csv", *rows)
    command = ("translate", manifest, tmp_path / "out", "-m", model_file, "--to", "dicom")
    for option in ("--patient-id", "--patient-name"):
        code, _, err = run(capsys, *command, option, "x")
        assert code == 2
        assert option in err
    done(capsys, *command)

    def patient(case: str) -> str:
        return str(pydicom.dcmread(next((tmp_path / "out" / case).iterdir())).PatientID)

    source = str(pydicom.dcmread(next(mr_series.iterdir())).PatientID)
    assert [patient(case) for case in "abc"] == ["P1", "P2", source]
    done(capsys, *command, "--overwrite", "--deidentify")
    assert len({patient(case) for case in "abc"} - {"P1", "P2", source}) == 3
    for bad in ("x" * 65, "a\\b", "a\tb"):
        manifest_of(tmp_path / "bad.csv", ("a", bad, tmp_path / "a.nii"))
        bad_command = ("translate", tmp_path / "bad.csv", tmp_path / "bad", *command[3:])
        assert "PatientID" in refused(capsys, *bad_command)
    done(capsys, *bad_command[:-2])


def test_contrasts_of_different_kinds_are_no_source_of_a_series(
    capsys, mr_series, model_file, tmp_path
):
    image = image_of(mr_series, tmp_path / "mr.nii.gz")
    for sources in ((mr_series, image), (image, mr_series)):
        code, _, err = run(capsys, "translate", *sources, tmp_path / "out", "-m", model_file)
        assert code == 2
        assert "all contrasts as DICOM" in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize(
    "options",
    [
        ["--group", "1"],
        ["--orientation-tolerance", "0.001"],
        ["--position-tolerance", "0.05"],
        ["--gap-tolerance", "0.05"],
        ["--tilt-tolerance", "0.5"],
    ],
)
def test_tolerances_need_dicom(capsys, mr_series, model_file, tmp_path, options):
    image = image_of(mr_series, tmp_path / "mr.nii.gz")
    manifest = manifest_of(tmp_path / "m.csv", ("a", "a", image))
    for command in (
        ("convert", image, tmp_path / "out.nii.gz"),
        ("translate", image, tmp_path / "out.nii.gz", "-m", model_file),
        ("translate", manifest, tmp_path / "out", "-m", model_file),
    ):
        code, _, err = run(capsys, *command, *options)
        assert code == 2
        assert options[0] in err
    done(capsys, "convert", mr_series, tmp_path / "out.nii.gz", *options)


def test_options_of_a_manifest_need_one(capsys, mr_series, model_file, tmp_path):
    for options in (["--to", "dicom"], ["--split", "test"]):
        code, _, err = run(
            capsys, "translate", mr_series, tmp_path / "out", "-m", model_file, *options
        )
        assert code == 2
        assert options[0] in err
    assert run(capsys, "evaluate", mr_series, mr_series, "--split", "test")[0] == 2


def test_a_seed_needs_a_key_where_there_is_no_patient(capsys, mr_series, model_file, tmp_path):
    command = ("translate", mr_series, tmp_path / "out", "-m", model_file)
    command += ("--seed", "1", "--deidentify")
    code, _, err = run(capsys, *command)
    assert code == 2
    assert "--seed" in err
    (tmp_path / "key").write_bytes(bytes(32))
    done(capsys, *command, "--deidentify-key", tmp_path / "key")


def test_both_outputs_of_a_manifest_are_evaluated_once(capsys, mr_series, model_file, tmp_path):
    image_of(mr_series, tmp_path / "mr.nii.gz")
    done(capsys, "translate", tmp_path / "mr.nii.gz", tmp_path / "ct.nii.gz", "-m", model_file)
    manifest = tmp_path / "m.csv"
    manifest.write_text("case,split,source_mr,target\na,test,mr.nii.gz,ct.nii.gz\n")
    command = ("translate", manifest, tmp_path / "out", "-m", model_file, "--to", "dicom")
    done(capsys, *command, "--also-nifti")
    out, _ = done(capsys, "evaluate", tmp_path / "out", manifest, "--json")
    assert [case["case"] for case in json.loads(out)["cases"]] == ["a"]


def test_a_bad_case_does_not_stop_the_others(capsys, mr_series, ct_series, model_file, tmp_path):
    rows = [("bad", "bad", ct_series), ("good", "good", mr_series)]
    manifest = manifest_of(tmp_path / "m.csv", *rows)
    command = ("translate", manifest, tmp_path / "out", "-m", model_file)
    code, out, err = run(capsys, *command)
    assert code == 3
    assert "medp2p: case bad: " in err
    assert "case good" not in err
    assert out.endswith("out: 1 cases\n")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.nii.gz"]
    assert "--overwrite" in refused(capsys, *command)
    manifest_of(tmp_path / "m.csv", rows[0])
    assert "case bad: " in refused(capsys, *command)


def test_places_for_a_series(capsys, mr_series, model_file, tmp_path):
    command = ("-m", model_file, "--overwrite")
    line = refused(capsys, "translate", mr_series, tmp_path / "patient.001", *command)
    assert "name without a dot" in line
    (tmp_path / "empty").mkdir()
    line = refused(capsys, "translate", mr_series, tmp_path / "empty", *command)
    assert "holds nothing" in line
    for place in ("/proc/medp2p", "/proc/medp2p.nii.gz", "/proc/self/x/y"):
        assert "cannot be written" in refused(capsys, "translate", mr_series, place, *command)
    for name in ("x" * 300, "x" * 300 + ".nii.gz"):
        assert "too long" in refused(capsys, "translate", mr_series, tmp_path / name, *command[:2])
        assert "too long" in refused(capsys, "translate", tmp_path / name, tmp_path / "o", *command)
    assert "too long" in refused(
        capsys, "convert", tmp_path / ("x" * 300 + ".nii"), tmp_path / "a.nii"
    )
    done(capsys, "translate", mr_series, tmp_path / ("x" * 250), *command)
    done(capsys, "translate", mr_series, tmp_path / ("x" * 243 + ".nii.gz"), *command)


def test_an_impossible_image_file_leaves_the_series(capsys, mr_series, model_file, tmp_path):
    out = tmp_path / "out"
    command = ("translate", mr_series, out, "-m", model_file, "--overwrite")
    done(capsys, *command)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    (tmp_path / "out.nii.gz").mkdir()
    (tmp_path / "out.nii.gz" / "note").touch()
    assert "is a folder" in refused(capsys, *command, "--also-nifti", "--seed", "1")
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    (tmp_path / "file").touch()
    assert "is a file" in refused(capsys, "translate", mr_series, tmp_path / "file", *command[3:])


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


def test_a_seed_tells_masks_apart(capsys, mr_series, model_file, tmp_path):
    """Other voxels under known UIDs would be dropped by an archive; a re-run is recognized."""
    uids = []
    for n, mask in enumerate(("auto", "none", "auto")):
        out = tmp_path / str(n)
        done(capsys, "translate", mr_series, out, "-m", model_file, "--seed", "7", "--mask", mask)
        uids.append(pydicom.dcmread(min(out.iterdir())).SOPInstanceUID)
    assert uids[0] == uids[2] != uids[1]
