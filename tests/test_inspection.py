"""`medp2p inspect`: what is found, in which words, and what is kept from being shown."""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dicom_phantoms as phantoms
import nibabel as nib
import numpy as np
import pytest
from dicom_phantoms import AXIAL, CASES, CT, PATIENT, PLANES, SECRETS
from pydicom import Dataset, dcmread
from pydicom.uid import HTJ2KLossless

from medp2p.errors import MedP2PError
from medp2p.inspection import GroupReport, Inspection, SeriesReport, inspect, printable
from medp2p.io import DicomOptions, read_volume, write_volume
from medp2p.io.dicom_codecs import codec_is_available
from medp2p.volume import Volume

MEDP2P = str(Path(sys.executable).with_name("medp2p"))
SHOWN_BY_DESIGN = {"whimsical"}  # of the description
SEEN_IN_PIXELS = {
    "JPEG 2000 in boxes",
    "JPEG 2000 that is none",
    "JPEG lossless that is none",
    "JPEG-LS that is none",
    "RLE that is none",
    "JPEG baseline that is none",
    "12 bits of 16, rubbish above",
}
if codec_is_available(HTJ2KLossless):
    SEEN_IN_PIXELS.add("HTJ2K that is none")
OTHER_WORDS = {"no such folder", "time series that nothing tells apart"}
SHOWN_ALIKE = {
    case.name: case for case in CASES if not case.options and case.name not in OTHER_WORDS
}


def command(*arguments: object, columns: int | None = None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    if columns:
        environment["COLUMNS"] = str(columns)
    return subprocess.run(
        [MEDP2P, *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment,
    )


def every_problem(found: Inspection) -> list[str]:
    series = [s for study in found.studies for s in study.series]
    return [
        *(problem for s in series for problem in s.problems),
        *(problem for s in series for group in s.groups for problem in group.problems),
        *(problem for image in found.images for problem in image.problems),
        *(reason for _, reason in found.damaged),
    ]


def only_series(found: Inspection) -> SeriesReport:
    (study,) = found.studies
    (series,) = study.series
    return series


def only_group(found: Inspection) -> GroupReport:
    (group,) = only_series(found).groups
    return group


def write(folder: Path, datasets: list[Dataset] | None = None) -> Path:
    phantoms.write(folder, phantoms.slices() if datasets is None else datasets, 2)
    return folder


def described(folder: Path, description: str, **values: Any) -> Path:
    """A single slice with this SeriesDescription, in UTF-8."""
    values = {"SpecificCharacterSet": "ISO_IR 192", "SeriesDescription": description, **values}
    return write(
        folder, phantoms.setting(**values)(phantoms.slices(replace(AXIAL, shape=(8, 8, 1))))
    )


NOTES = ("there twice", "MONOCHROME1", "localizer", "neither CT nor MR")


@pytest.mark.parametrize("name", SHOWN_ALIKE)
def test_says_what_the_reader_says(name: str, tmp_path: Path) -> None:
    """A folder that is read shows the volume's grid; one that is refused shows the reason."""
    case = SHOWN_ALIKE[name]
    if case.program and not shutil.which(case.program):
        pytest.skip(f"{case.program} (Debian package dcmtk) is not here")
    folder = tmp_path / "phantom"
    case.make(folder, 2)
    path = folder / case.where
    found = inspect(path)
    problems = every_problem(found)
    try:
        volume = read_volume(path)
    except MedP2PError as error:
        refusal = str(error).replace(f"{path}{os.sep}", "")
    else:
        assert [p for p in problems if not any(note in p for note in NOTES)] == []
        places = [g.place for s in found.studies for r in s.series for g in r.groups if g.place]
        (place,) = [place for place in places if place.size == volume.shape]
        np.testing.assert_allclose(place.spacing_mm, volume.spacing_mm)
        assert place.orientation == volume.orientation
        return
    if name in SEEN_IN_PIXELS:
        assert problems == []
    elif "--series" in refusal:
        assert sum(len(study.series) for study in found.studies) > 1
    elif "--group" in refusal:
        assert "choose one with --group N" in " ".join(problems)
    elif found.studies or found.damaged:
        assert [p for p in problems if p in refusal or any(note in p for note in NOTES)]
    else:
        assert not problems


def test_keys_and_numbers_are_those_that_reading_takes(tmp_path: Path) -> None:
    echoes = phantoms.slices()
    for n, ds in enumerate(echoes):
        ds.EchoTime = "80" if n % 2 else "20"
    other = phantoms.slices(replace(PLANES["coronal"], shape=(20, 16, 5)), name="second")
    phantoms.setting(SeriesNumber=4)(other)
    write(tmp_path / "a", echoes)
    write(tmp_path / "b", other)
    (study,) = inspect(tmp_path).studies
    first, second = study.series
    assert (first.number, second.number) == (3, 4)
    assert [group.number for group in first.groups] == [1, 2]
    assert [group.contrast for group in first.groups] == ["TR 4000 TE 20", "TR 4000 TE 80"]
    assert "2 kinds of image" in first.problems[0]
    chosen = read_volume(tmp_path, dicom=DicomOptions(series=second.key))
    assert second.groups[0].place is not None
    assert chosen.shape == second.groups[0].place.size == (20, 16, 5)
    assert second.groups[0].plane == "coronal"
    for group in first.groups:
        volume = read_volume(tmp_path, dicom=DicomOptions(series=first.key, group=group.number))
        assert volume.dicom is not None
        assert f"TE {volume.dicom.header.EchoTime:.4g}" in group.contrast


@pytest.mark.parametrize("multi_frame", [False, True])
def test_time_series(tmp_path: Path, multi_frame: bool) -> None:
    times = phantoms.repeated(3, TemporalPositionIdentifier=lambda t, _: t + 1)
    phantoms.write(tmp_path, times(phantoms.slices()), 2, multi_frame=multi_frame)
    group = only_group(inspect(tmp_path))
    assert (group.slices, group.volumes) == (36, 3)
    assert group.place is not None
    assert group.place.size == AXIAL.shape
    assert "choose one, 0 to 2" in group.problems[0]
    assert "--volume K" in group.problems[0]


def test_time_series_that_nothing_tells_apart(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "time series that nothing tells apart")
    case.make(tmp_path, 2)
    group = only_group(inspect(tmp_path))
    assert (group.volumes, group.place) == (0, None)
    assert "nothing tells which belong together" in group.problems[0]


def test_localizers_and_other_images_have_no_number(tmp_path: Path) -> None:
    write(tmp_path / "a", phantoms.with_localizer(phantoms.slices()))
    other = phantoms.setting(SOPClassUID=phantoms.SOP_CLASSES["secondary capture"])
    write(tmp_path / "b", other(phantoms.slices(name="second")))
    (study,) = inspect(tmp_path).studies
    read, captured = sorted(study.series, key=lambda series: series.modality is None)
    assert [group.number for group in read.groups] == [1, None]
    assert read.groups[1].problems == ("localizer (scout images), left out",)
    assert [group.number for group in captured.groups] == [None]
    assert "Secondary Capture Image Storage" in captured.problems[0]
    assert read_volume(tmp_path).shape == AXIAL.shape


def test_what_is_not_read_is_counted_with_the_reason(tmp_path: Path) -> None:
    write(tmp_path / "scan")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "empty").touch()
    (tmp_path / "scan" / "cut.dcm").write_bytes(
        (tmp_path / "scan" / "image_0000.dcm").read_bytes()[:900]
    )
    report = phantoms.slices()[0]
    report.SOPClassUID = phantoms.SOP_CLASSES["structure set"]
    del report.Rows, report.Columns
    phantoms.save(report, tmp_path / "set.dcm")
    found = inspect(tmp_path)
    assert found.files == AXIAL.shape[2] + 4
    assert found.skipped == {
        "not DICOM": 1,
        "0 bytes": 1,
        "no image (RT Structure Set Storage)": 1,
    }
    ((damaged, reason),) = found.damaged
    assert damaged.name == "cut.dcm"
    assert reason
    result = command("inspect", tmp_path)
    assert result.returncode == 0
    assert "scan/cut.dcm" in result.stdout
    assert "1 × no image (RT Structure Set Storage)" in result.stdout


def test_studies_keep_their_numbers(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        study = phantoms.setting(StudyInstanceUID=phantoms.uid("study", name), PatientID=name)
        write(tmp_path / name, study(phantoms.slices(name=name)))
    numbers = [(s.number, s.folder.name) for s in inspect(tmp_path).studies]
    assert numbers == [(1, "a"), (2, "b"), (3, "c")]


IMAGE = Volume(np.zeros((6, 5, 4), np.int16), np.diag([1.5, 2, 3, 1]), "CT", "HU")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd"])
@pytest.mark.parametrize("alone", [False, True])
def test_image_files(tmp_path: Path, suffix: str, alone: bool) -> None:
    path = tmp_path / f"a{suffix}"
    write_volume(IMAGE, path)
    (image,) = inspect(path if alone else tmp_path).images
    assert (image.path, image.modality, image.problems) == (path, "CT", ())
    assert image.place is not None
    assert image.place.size == (6, 5, 4)
    assert image.place.spacing_mm == (1.5, 2, 3)
    assert (image.place.plane, image.place.orientation) == ("axial", "RAS")


def tilted() -> Any:
    affine = np.diag([1.0, 1, 2, 1])
    affine[1, 2] = 0.5
    made = nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), affine)
    made.set_qform(None, code=0)
    return made


def at_odds() -> Any:
    made = nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    made.set_sform(np.eye(4), code=1)
    made.set_qform(np.diag([2.0, 1, 1, 1]), code=1)
    return made


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (nib.Nifti1Image(np.zeros((4, 4, 4, 7), np.uint8), np.eye(4)), "holds 7 volumes"),
        (tilted(), "14.04 degrees off perpendicular"),
        (at_odds(), "--nifti-frame"),
    ],
)
def test_problems_of_nifti_files_are_the_readers(tmp_path: Path, made: Any, words: str) -> None:
    path = tmp_path / "a.nii.gz"
    nib.save(made, path)
    (image,) = inspect(tmp_path).images
    (problem,) = image.problems
    assert words in problem
    with pytest.raises(MedP2PError) as refusal:
        read_volume(path)
    assert str(refusal.value) == f"{path}: {problem}"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.nii", b""),
        ("a.nii.gz", b"not gzip"),
        ("a.nii", bytes(400)),
        ("a.mha", b"NDims = 3"),
        (
            "a.mha",
            b"NDims = 4\nDimSize = 4 4 4 9\nTransformMatrix = 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1\n"
            b"Offset = 0 0 0 0\nElementSpacing = 1 1 1 1\nElementDataFile = LOCAL\n",
        ),
        ("a.nrrd", b"NRRD0004\n"),
        ("a.nrrd", b"nonsense"),
    ],
)
def test_damaged_image_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    found = inspect(tmp_path)
    (image,) = found.images
    assert len(image.problems) == 1
    assert found.skipped == {}


def test_scans_and_image_files_in_one_tree(tmp_path: Path) -> None:
    write(tmp_path / "scan")
    write_volume(IMAGE, tmp_path / "scan" / "ct.nii.gz")
    result = command("inspect", tmp_path, "--json")
    values = json.loads(result.stdout)
    assert values["images"][0]["path"] == str(tmp_path / "scan" / "ct.nii.gz")
    assert values["images"][0]["modality"] == "CT"
    group = values["studies"][0]["series"][0]["groups"][0]
    assert group["place"]["size"] == list(AXIAL.shape)
    assert group["place"]["spacing_mm"] == pytest.approx(AXIAL.spacing_mm)
    assert values["studies"][0]["patient"] is None
    text = command("inspect", tmp_path).stdout
    assert "32 × 20 × 12  8 × 12.8 × 5 mm" in text
    assert "scan/ct.nii.gz" in text
    assert f"files {AXIAL.shape[2] + 1}, studies 1, series 1, image files 1" in text


def test_empty_folder_and_no_folder(tmp_path: Path) -> None:
    result = command("inspect", tmp_path)
    assert result.returncode == 0
    assert "files 0" in result.stdout
    missing = command("inspect", tmp_path / "none")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == f"medp2p: {tmp_path / 'none'}: no such file or folder\n"


def test_only_a_dicomdir(tmp_path: Path) -> None:
    next(case for case in CASES if case.name == "only a DICOMDIR").make(tmp_path, 2)
    result = command("inspect", tmp_path)
    assert result.returncode == 0
    assert "Left out: 1 × DICOMDIR" in result.stdout


def secrets_of(text: str) -> list[str]:
    return [word for word in SECRETS if word in text.lower() and word not in SHOWN_BY_DESIGN]


EVERYTHING = " ".join(
    PATIENT[keyword].replace("^", " ")
    for keyword in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "ReferringPhysicianName",
        "InstitutionName",
        "StationName",
        "AccessionNumber",
    )
)


def planted(datasets: list[Dataset]) -> list[Dataset]:
    """Who the patient is in every element that holds text, and in private ones."""
    for ds in phantoms.private_tags(datasets):
        for keyword in ("Manufacturer", "StudyDescription", "SequenceName", "ImageComments",
                        "ContrastBolusAgent", "BodyPartExamined", "RescaleType"):  # fmt: skip
            phantoms.raw(ds, keyword, EVERYTHING)
        phantoms.raw(ds, "SeriesDescription", f"T2 {EVERYTHING} axial")
        phantoms.raw(ds, "ImageType", f"ORIGINAL\\PRIMARY\\{EVERYTHING}")
        ds.ImageComments = "0"
    return datasets


@pytest.fixture(scope="module")
def planted_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good, odd and damaged scans of a patient whose data are everywhere."""
    tree = tmp_path_factory.mktemp("planted")
    changes: dict[str, phantoms.Trouble] = {
        "good": lambda made: made,
        "missing": phantoms.without(4),
        "captured": phantoms.setting(SOPClassUID=phantoms.SOP_CLASSES["secondary capture"]),
        "unknown": phantoms.setting(SOPClassUID="2.25.774190319370214"),
        "colour": phantoms.setting(PhotometricInterpretation="QUISENBERRY"),
        "patients": phantoms.two_patients,
        "position": phantoms.setting(4, ImagePositionPatient=None),
    }
    for name, change in changes.items():
        painted = phantoms.paint(phantoms.slices(CT if name == "good" else AXIAL, name=name), 2)
        for n, ds in enumerate(planted(change(painted))):
            if "PixelData" in ds:
                place = tree / name / f"{n}.dcm"
                phantoms.save_as_said(ds, place, phantoms.ImplicitVRLittleEndian, implicit=True)
    for n, path in enumerate(sorted((tree / "good").iterdir())[:6]):
        content = path.read_bytes()
        (tree / f"cut {n}.dcm").write_bytes(content[: 400 + 100 * n])
        changed = content.replace(b"\x28\x00\x30\x00", b"\x28\x00\x31\x00")
        (tree / f"changed {n}.dcm").write_bytes(changed)
        number = content.replace(b"8\\8", b"Q\\8").replace(b"3 ", b"Qu", 1)
        (tree / f"word {n}.dcm").write_bytes(number)
    report = phantoms.slices()[0]
    report.SOPClassUID = "2.25.774190319370215"
    del report.Rows, report.Columns
    phantoms.save(report, tree / "report.dcm")
    return tree


@pytest.mark.parametrize("arguments", [(), ("--json",)])
@pytest.mark.parametrize("settings", [(), ("--verbose",), ("--debug",)])
def test_nothing_tells_who_the_patient_is(
    planted_tree: Path, arguments: tuple[str, ...], settings: tuple[str, ...]
) -> None:
    result = command(*settings, "inspect", planted_tree, *arguments)
    assert result.returncode == 0, result.stderr
    assert "good" in result.stdout
    assert secrets_of(result.stdout) == []
    assert secrets_of(result.stderr) == []
    assert "T2" in result.stdout
    assert "axial" in result.stdout


def test_patient_is_shown_if_asked_for(planted_tree: Path) -> None:
    text = command("inspect", planted_tree, "--show-patient", columns=400).stdout
    assert "Quisenberry^Zephyrine, ZQ-7741903, 20190823" in text
    assert f"T2 {EVERYTHING} axial" in text
    values = json.loads(command("inspect", planted_tree, "--show-patient", "--json").stdout)
    assert values["studies"][0]["patient"] == {
        "name": "Quisenberry^Zephyrine",
        "patient_id": "ZQ-7741903",
        "study_date": "20190823",
    }


@pytest.mark.parametrize(
    ("name", "patient_id", "description", "shown"),
    [
        ("Doe^Jane", "4711", "T2 tse tra", "T2 tse tra"),
        ("Doe^Jane", "4711", "JANE_DOE t2", "… t2"),
        ("Doe^Jane", "4711", "Does t2 4711b doe", "…s t2 …b …"),
        ("Li^T", "1", "T 2 li silicone 1", "T 2 … silicone 1"),
        ("Müller^Änne", "7", "MÜLLER änne t1", "… t1"),
        ("山田^太郎", "7", "頭部 山田太郎 T1", "頭部 … T1"),
        ("Διον^", "7", "κεφαλή ΔΙΟΝ", "κεφαλή …"),
        ("Doe^Jane", "4711", "t2 14.02.1937 b", "t2 … b"),
        ("Doe^Jane", "4711", "t2 1937-02-14 b0-1000", "t2 … b0-1000"),
        ("Doe^Jane", "4711", "p2 19370214 0.9x0.9x1.2", "p2 … 0.9x0.9x1.2"),
        ("", "", "T2 (TE 80)", "T2 (TE 80)"),
    ],
)
def test_description_without_the_patient(
    tmp_path: Path, name: str, patient_id: str, description: str, shown: str
) -> None:
    others = dict.fromkeys(("InstitutionName", "StationName", "StudyID", "AccessionNumber"))
    described(tmp_path, description, PatientName=name, PatientID=patient_id, **others)
    assert only_series(inspect(tmp_path)).description == shown
    in_full = only_series(inspect(tmp_path, show_patient=True))
    assert in_full.description == description


@pytest.mark.parametrize(
    ("description", "shown"),
    [
        ("T2 born 1950 ax", "T2 born … ax"),
        ("T2 01JAN1950", "T2 …"),
        ("T2 01.1950, 1950-01", "T2 …"),
        ("T2 Jan 1950 ax", "T2 … ax"),
        ("T2 January 1, 1950", "T2 …"),
        ("T2 1950-Jan-01 ax", "T2 … ax"),
        ("T2 1 mai 50 ax", "T2 … ax"),
        ("T2 19501 b1950s", "T2 19501 b…s"),
        ("JonBrain T2", "…Brain T2"),
        ("T2 BRAINJON", "T2 BRAIN…"),
        ("t2_jonbrain_Secretnamejon", "t2_…brain_…"),
        ("T2 PATID SECRET ax", "T2 … ax"),
        ("T2 pat-id.secret1", "T2 …1"),
        ("T2 P_A_T_I_D - SECRET", "T2 …"),
        ("T2 may 3 mm mar 10 TE 2000", "T2 may 3 mm mar 10 TE 2000"),
        ("b1000 0.9x0.9x1.2 TR 3000 TE 80", "b1000 0.9x0.9x1.2 TR 3000 TE 80"),
    ],
)
def test_dates_names_and_numbers_in_other_forms(
    tmp_path: Path, description: str, shown: str
) -> None:
    values = {"PatientName": "Secretname^Jon", "PatientID": "PATIDSECRET"}
    described(tmp_path, description, PatientBirthDate="19500101", **values)
    assert only_series(inspect(tmp_path)).description == shown


@pytest.mark.parametrize("name", ["Ann", "Ora^Ina^Sag", "Van^Cor^Ran", "Del^Tra^Axi^Ele^Hor"])
def test_short_names_leave_ordinary_words_whole(tmp_path: Path, name: str) -> None:
    words = "advanced SAGITTAL coronal Transversal axial"
    image_type = ["ORIGINAL", "PRIMARY", "AXIAL"]
    described(tmp_path, f"{words} {name}", PatientName=name, ImageType=image_type)
    series = only_series(inspect(tmp_path))
    assert series.description == f"{words} …"
    assert series.groups[0].kind == "ORIGINAL\\PRIMARY\\AXIAL"


def test_name_of_a_physician_or_institution_is_no_description(tmp_path: Path) -> None:
    described(tmp_path, "t2 Popplewell at Saint Eulalia, Margrave7")
    assert only_series(inspect(tmp_path)).description == "t2 … at …"


def test_without_a_readable_header_no_description(tmp_path: Path) -> None:
    from medp2p.inspection import hider

    assert hider(tmp_path / "gone")("t2 Quisenberry") == "…"
    described(tmp_path, "t2", PatientComments="")
    hide = hider(tmp_path / "image_0000.dcm")
    assert (hide("t2"), hide("t2 " * 1000)) == ("t2", "…")


@pytest.mark.parametrize(
    ("character_set", "name", "description"),
    [
        ("ISO_IR 192", "Πέτρου^Αλέξης", "Κεφαλή Τ2"),
        ("ISO_IR 126", "Πέτρου^Αλέξης", "Κεφαλή Τ2"),
        ("ISO_IR 144", "Люкceмбypг", "Голова Т2"),
        ("ISO_IR 192", "Yamada^Tarou=山田^太郎=やまだ^たろう", "頭部 T2"),
        ("GB18030", "Wang^XiaoDong=王^小东", "头 T2"),
        ("ISO_IR 127", "قباني^لنزار", "رأس T2"),
        ("ISO_IR 138", "שרון^דבורה", "ראש T2"),
        ("ISO_IR 100", "Äneas^Rüdiger", "Schädel Größe T2"),
    ],
)
def test_all_writing_is_shown(
    tmp_path: Path, character_set: str, name: str, description: str
) -> None:
    described(tmp_path, description, PatientName=name, SpecificCharacterSet=character_set)
    hidden = command("inspect", tmp_path, columns=200).stdout
    assert description in hidden
    assert not [word for word in name.replace("=", "^").split("^") if word in hidden]
    assert name in command("inspect", tmp_path, "--show-patient", columns=200).stdout
    values = json.loads(command("inspect", tmp_path, "--show-patient", "--json").stdout)
    assert values["studies"][0]["patient"]["name"] == name


@pytest.mark.parametrize("arguments", [(), ("--show-patient",)])
def test_no_escape_sequences_and_no_markup(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    evil = "a\x1b[31mred\x07\x9b2J\u202eback [bold]b[/bold]"
    folder = tmp_path / "in\x1b[2J\nside"
    described(folder, evil, PatientName="N\x1b[31m")
    write_volume(IMAGE, folder / "x\x1b[31m.nii")
    (folder / "y\x07.nii").write_bytes(b"")
    result = command("inspect", tmp_path, *arguments, columns=300)
    assert result.returncode == 0
    assert not [c for c in result.stdout if not (c.isprintable() or c == "\n")]
    assert "[bold]b[/bold]" in result.stdout
    assert "a [31mred 2J back" in result.stdout


def test_printable() -> None:
    assert printable("a\x1b[0m\n\tb \u200fc") == "a [0m b c"
    assert printable("می\u200cخواهم") == "می\u200cخواهم"


@pytest.mark.parametrize("columns", [80, 160])
def test_fits_the_terminal(tmp_path: Path, columns: int) -> None:
    write(tmp_path / "a", phantoms.without(4)(phantoms.slices()))
    write(tmp_path / "b", phantoms.slices(PLANES["oblique coronal"], name="second"))
    write_volume(IMAGE, tmp_path / "ct.nii.gz")
    result = command("inspect", tmp_path, columns=columns)
    lines = result.stdout.splitlines()
    beyond = [line for line in lines if len(line.rstrip()) > columns]
    assert [line for line in beyond if not line.startswith(str(tmp_path))] == []
    series = next(s for s in inspect(tmp_path).studies[0].series if s.groups[0].problems)
    words = " ".join(" ".join(lines).split())
    assert f"! {series.key} {series.groups[0].problems[0]}" in words
    assert "32 × 20 × 12" in words
    assert "coronal" in words


def test_bar_counts_files(tmp_path: Path) -> None:
    write(tmp_path)
    assert "looking 12/12 file" in command("inspect", tmp_path).stderr


def copies_of(folder: Path, count: int) -> Iterator[Path]:
    """Series of 100 small slices with headers of some 120 elements, copied by their UIDs."""
    made = phantoms.slices(replace(AXIAL, shape=(64, 64, 100), spacing_mm=(4.0, 4.0, 2.5)))
    contents = []
    for ds in phantoms.private_tags(made):
        for n in range(60):
            ds.add_new((0x0019, 0x1010 + n), "DS", "1.25")
        ds.private_block(0x0019, "PHANTOM", create=True)
        reference = Dataset()
        reference.ReferencedSOPClassUID = ds.SOPClassUID
        reference.ReferencedSOPInstanceUID = phantoms.uid("reference")
        ds.ReferencedImageSequence = [reference] * 3
        ds.add_new("PixelData", "OW", bytes(8192))
        phantoms.save(ds, folder / "template")
        contents.append((str(ds.SOPInstanceUID), (folder / "template").read_bytes()))
    (folder / "template").unlink()
    series = str(made[0].SeriesInstanceUID)
    for s in range(count // 100):
        place = folder / f"series {s:03}"
        place.mkdir()
        other = phantoms.uid("copy", s).ljust(len(series), "0")[: len(series)]
        for n, (instance, content) in enumerate(contents):
            own = phantoms.uid("copy", s, n).ljust(len(instance), "0")[: len(instance)]
            content = content.replace(series.encode(), other.encode())
            (place / f"IM{n:04}").write_bytes(content.replace(instance.encode(), own.encode()))
        yield place


@pytest.mark.slow
def test_ten_thousand_files(tmp_path: Path) -> None:
    """At most twice the time of pydicom over the same files, and little memory for each."""
    folders = list(copies_of(tmp_path, 10_000))
    ratios = []
    for folder in folders:
        files = sorted(folder.iterdir())
        began = time.perf_counter()
        elements = [len(dcmread(file, stop_before_pixels=True)) for file in files]
        middle = time.perf_counter()
        inspect(folder)
        ratios.append((time.perf_counter() - middle) / (middle - began))
    assert min(elements) > 110
    assert statistics.median(ratios) <= 2.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = inspect(tmp_path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert (found.files, len(found.studies[0].series)) == (10_000, 100)
    assert grown <= 10 * 10_000, "kB: over 10 kB for each file"
    print(f"median ratio {statistics.median(ratios):.2f}, memory grown by {grown} kB")  # noqa: T201
