from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import dicom_phantoms as phantoms
import nibabel as nib
import numpy as np
import pytest

from medp2p.config import Config, load_config
from medp2p.errors import ManifestError
from medp2p.io import read_volume, write_volume
from medp2p.preparation.discovery import FoundImage, find_images, list_files
from medp2p.preparation.previous import MARKER_FILE
from medp2p.volume import Volume

TINY = {
    "MR": replace(phantoms.SMALL, shape=(4, 5, 3)),
    "CT": replace(phantoms.SMALL, modality="CT", shape=(4, 5, 3)),
}


def write_image(path: Path, spacing: float = 1.0) -> None:
    """A NIfTI file that says nothing of what it holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.zeros((4, 4, 3), np.int16), np.diag([spacing] * 3 + [1]))
    image.set_qform(image.affine, code=1)
    nib.save(image, path)


def write_series(
    folder: Path,
    patient: str,
    modality: str,
    description: str = "plain",
    *,
    study: str = "",
    day: str = "20200101",
    scan: phantoms.Scan | None = None,
    names: str = "image_{:04d}.dcm",
    **values: object,
) -> None:
    """A series of three slices of 4 × 5 pixels; its headers name the patient and the day."""
    name = f"{patient} {modality} {description} {study} {day}"
    slices = phantoms.slices(scan or TINY[modality], name)
    stated = {
        "PatientID": patient,
        "PatientName": f"Quisenberry^{patient}",
        "StudyInstanceUID": phantoms.uid(patient, modality, study or day),
        "FrameOfReferenceUID": phantoms.uid(patient, modality, study or day, "frame"),
        "SeriesDescription": description,
        "StudyDate": day,
        "SeriesDate": day,
        "AcquisitionDate": day,
    }
    phantoms.write(folder, phantoms.setting(**(stated | values))(slices), 0, names=names.format)


def found(data: Path, config: Config | None = None) -> list[FoundImage]:
    return find_images(data, config or Config())


def summary(images: list[FoundImage]) -> set[tuple[str, str, str | None]]:
    return {(image.patient, image.role, image.modality) for image in images}


@pytest.mark.parametrize(
    ("files", "cases"),
    [
        (["a/mr", "a/ct", "b/mr", "b/ct"], ["a", "b"]),
        (["Task1/brain/1BA001/mr", "Task1/brain/1BA001/ct", "Task1/brain/1BA001/mask"], ["1BA001"]),
        (["AB/1ABA001/mr", "AB/1ABA001/ct", "HN/1HNA001/mr", "HN/1HNA001/ct"], None),
        (["mr/p01", "ct/p01", "mr/p02", "ct/p02"], ["p01", "p02"]),
        (["p01_mr", "p01_ct", "p-02_MR", "p-02_CT"], ["p-02", "p01"]),
        (["set/ct.p01", "set/mr.p01"], ["p01"]),
        (["MR_scans/p01", "CT_scans/p01"], ["p01"]),
        (["mr/c/mr", "mr/c/ct"], ["c"]),
        (["head_ct/mr", "head_ct/ct"], ["head_ct"]),
        (["p01/p01_T1_MPRAGE_3", "p01/p01_CT_head"], ["p01"]),
        (["p01/T1_mprage", "p01/ct"], ["p01"]),
        (["Müller é/mr", "Müller é/ct", "a b/mr", "a b/ct"], ["Müller é", "a b"]),
    ],
)
def test_names_say_what_belongs_together(tmp_path, files, cases):
    for file in files:
        write_image(tmp_path / f"{file}.nii.gz")
    images = found(tmp_path)
    assert len(images) == len(files)
    by_case = {}
    for image in images:
        assert image.patient == image.case
        by_case.setdefault(image.case, []).append(image)
    assert sorted(by_case) == (cases or ["1ABA001", "1HNA001"])
    for members in by_case.values():
        assert {"MR", "CT"} <= {image.modality for image in members}
        assert len({image.unit for image in members}) == 1
        assert "target" in {image.role for image in members}


def test_cone_beam_ct_is_no_ct(tmp_path):
    for name in ("cbct", "ct", "mask"):
        write_image(tmp_path / "Task2" / "brain" / "2BA001" / f"{name}.nii.gz")
    assert summary(found(tmp_path)) == {
        ("2BA001", "", None),
        ("2BA001", "target", "CT"),
        ("2BA001", "mask", "MASK"),
    }
    asked = load_config(assignments=["data.sources=[cbct]", "preprocessing.source.modality=CT"])
    assert ("2BA001", "cbct", "CT") in summary(found(tmp_path, asked))


def test_one_case_in_the_folder_itself_is_named_by_it(tmp_path):
    folder = tmp_path / "only"
    write_image(folder / "mr.nii.gz")
    write_image(folder / "ct.nii.gz")
    assert {image.case for image in found(folder)} == {"only"}


def test_bids_subjects_and_sessions(tmp_path):
    root = tmp_path / "study"
    for session in ("ses-1", "ses-2"):
        home = root / "sub-01" / session
        write_image(home / "anat" / f"sub-01_{session}_run-1_T1w.nii.gz")
        write_image(home / "ct" / f"sub-01_{session}_ct.nii.gz")
    write_image(root / "sub-02" / "anat" / "sub-02_T1w.nii.gz")
    write_image(root / "sub-02" / "func" / "sub-02_task-rest_bold.nii.gz")
    write_image(root / "derivatives" / "fs" / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    (root / "participants.tsv").write_text("participant_id\tage\nsub-01\t40\n")
    images = found(root)
    assert len(images) == 6
    assert {(i.patient, i.case) for i in images} == {
        ("sub-01", "sub-01_ses-1"),
        ("sub-01", "sub-01_ses-2"),
        ("sub-02", "sub-02"),
    }
    assert {i.modality for i in images if "func" in i.path.parts} == {None}
    t1 = next(image for image in images if image.path.name.endswith("ses-1_run-1_T1w.nii.gz"))
    assert (t1.modality, t1.description) == ("MR", "T1w")


def test_contrasts_are_told_apart_by_name(tmp_path):
    for name in ("t1", "t2", "flair"):
        write_image(tmp_path / "a" / f"{name}.nii.gz")
    write_image(tmp_path / "sub-1" / "anat" / "sub-1_T2w.nii.gz")
    images = found(tmp_path, load_config(preset="t1_to_t2"))
    assert summary(images) == {
        ("a", "t1", "MR"),
        ("a", "target", "MR"),
        ("a", "", "MR"),
        ("sub-1", "target", "MR"),
    }


def test_a_header_against_its_name_is_a_problem(tmp_path):
    volume = Volume(np.zeros((4, 4, 3), np.int16), np.eye(4), modality="MR")
    write_volume(volume, tmp_path / "a" / "ct.nii.gz")
    [image] = found(tmp_path)
    assert image.problems == ("its name or table says CT, and its header says MR",)


def test_patients_of_dicom_studies_are_named_by_their_folders(tmp_path):
    for patient in ("p01", "p02"):
        for modality in ("MR", "CT"):
            write_series(tmp_path / "hospital" / patient / f"st{modality}" / "1", patient, modality)
    images = found(tmp_path)
    assert {image.patient for image in images} == {"p01", "p02"}
    assert {image.case for image in images} == {"p01", "p02"}
    assert all(image.day is not None and image.grid is not None for image in images)
    assert all(len(image.files) == 3 and not image.problems for image in images)


def test_folders_of_a_modality_name_nobody(tmp_path):
    for modality in ("MR", "CT"):
        for patient in ("p01", "p02"):
            write_series(tmp_path / modality / patient, patient, modality)
    assert {image.patient for image in found(tmp_path)} == {"p01", "p02"}


def test_one_flat_folder_of_several_patients(tmp_path):
    for patient in ("A-1", "A-2"):
        for modality in ("MR", "CT"):
            names = f"{patient}{modality}" + "{:04d}"
            write_series(tmp_path, patient, modality, names=names)
    images = found(tmp_path)
    names = sorted({image.patient for image in images})
    assert len(names) == 2
    assert all(name.startswith("patient_") and len(name) == 16 for name in names)
    volume = read_volume(images[0].path, dicom=images[0].dicom_options)
    assert volume.shape == (4, 5, 3)
    assert volume.grid.difference(images[0].grid) is None


def test_a_series_over_two_folders_is_one(tmp_path):
    write_series(tmp_path / "p" / "a", "X", "CT")
    (tmp_path / "p" / "b").mkdir()
    (tmp_path / "p" / "a" / "image_0002.dcm").rename(tmp_path / "p" / "b" / "image_0002.dcm")
    [image] = found(tmp_path)
    assert image.path == tmp_path / "p"
    assert image.grid.shape == (4, 5, 3)
    assert not image.problems


def test_one_patient_in_two_folders_is_one_patient(tmp_path):
    for visit, day in (("anna_1", "20200101"), ("anna_2", "20210101")):
        for modality in ("MR", "CT"):
            write_series(tmp_path / visit / f"x{modality}", "anna", modality, day=day)
    write_series(tmp_path / "bert" / "xMR", "bert", "MR")
    images = found(tmp_path)
    assert {(i.patient, i.case) for i in images} == {
        ("anna_1", "anna_1"),
        ("anna_1", "anna_2"),
        ("bert", "bert"),
    }


def test_spelling_of_a_name_makes_no_other_patient(tmp_path):
    write_series(tmp_path / "a" / "1", "Z7", "MR", PatientName="Quisenberry^Zephyrine^^")
    write_series(tmp_path / "b" / "1", "Z7", "CT", PatientName="zephyrine quisenberry")
    assert len({image.patient for image in found(tmp_path)}) == 1


def test_a_folder_of_two_patients_is_taken_apart(tmp_path):
    write_series(tmp_path / "p05" / "one", "A", "MR")
    write_series(tmp_path / "p05" / "two", "B", "CT")
    assert len({image.patient for image in found(tmp_path)}) == 2


def test_dicom_in_a_case_folder_goes_with_the_files_there(tmp_path):
    write_series(tmp_path / "p01" / "mr", "A", "MR")
    write_series(tmp_path / "p02" / "scan", "B", "MR")
    for patient in ("p01", "p02"):
        write_image(tmp_path / patient / "ct.nii.gz")
    images = found(tmp_path)
    assert {(i.patient, i.case, i.modality) for i in images} == {
        ("p01", "p01", "MR"),
        ("p01", "p01", "CT"),
        ("p02", "p02", "MR"),
        ("p02", "p02", "CT"),
    }
    assert len({image.unit for image in images}) == 2


def test_headers_without_a_patient_leave_it_to_names_and_patterns(tmp_path):
    blank = {"PatientID": "", "PatientName": ""}
    for patient in ("p01", "p02"):
        for modality in ("MR", "CT"):
            write_series(
                tmp_path / patient / f"study{modality}",
                patient,
                modality,
                **blank,
            )
    assert len({image.patient for image in found(tmp_path)}) == 4
    config = load_config(assignments=[r"data.patient_pattern=(p\d+)"])
    images = found(tmp_path, config)
    assert {(image.patient, image.person) for image in images} == {("p01", ""), ("p02", "")}
    for patient in ("p01", "p02"):
        for modality in ("MR", "CT"):
            (tmp_path / patient / f"study{modality}").rename(tmp_path / patient / modality)
    assert {image.patient for image in found(tmp_path)} == {"p01", "p02"}


def test_a_pattern_that_finds_no_patient_is_refused(tmp_path):
    write_image(tmp_path / "a" / "mr.nii.gz")
    config = load_config(assignments=[r"data.patient_pattern=(p\d+)"])
    with pytest.raises(ManifestError, match="patient_pattern"):
        found(tmp_path, config)


def test_adding_a_patient_renames_nobody(tmp_path):
    write_series(tmp_path / "all" / "k1" / "s", "A", "MR")
    write_series(tmp_path / "all" / "k2" / "s", "B", "MR")
    write_series(tmp_path / "flat", "C", "MR", names="c{}")
    write_series(tmp_path / "flat", "D", "MR", names="d{}")
    write_image(tmp_path / "nifti" / "m_mr.nii.gz")
    before = {image.path: image.patient for image in found(tmp_path) if image.path.is_file()}
    before |= {image.files[0]: image.patient for image in found(tmp_path) if image.files}
    write_series(tmp_path / "all" / "a0" / "s", "0", "MR")
    write_series(tmp_path / "flat", "1", "MR", names="0{}")
    write_image(tmp_path / "nifti" / "a_mr.nii.gz")
    after = {image.path: image.patient for image in found(tmp_path) if image.path.is_file()}
    after |= {image.files[0]: image.patient for image in found(tmp_path) if image.files}
    assert len(set(after.values())) == 8
    assert {path: after[path] for path in before} == before


def test_patients_of_one_name_are_told_apart_by_the_folders_around(tmp_path):
    for site in ("north", "south"):
        for name in ("mr", "ct"):
            write_image(tmp_path / site / "001" / f"{name}.nii.gz")
    assert {i.patient for i in found(tmp_path)} == {"north_001", "south_001"}


def test_damaged_and_missing_slices_are_problems_of_their_series_alone(tmp_path):
    for patient in ("p1", "p2", "p3"):
        write_series(tmp_path / patient / "a", patient, "MR")
    broken = tmp_path / "p1" / "a" / "image_0001.dcm"
    broken.write_bytes(broken.read_bytes()[:700])
    cut = tmp_path / "p2" / "a" / "image_0001.dcm"
    cut.write_bytes(cut.read_bytes()[:-10])
    scan = replace(TINY["MR"], shape=(4, 5, 8))
    write_series(tmp_path / "p4" / "a", "p4", "MR", scan=scan)
    (tmp_path / "p4" / "a" / "image_0003.dcm").unlink()
    problems = {i.patient: " ".join(i.problems) for i in found(tmp_path) if i.series}
    assert "image_0001.dcm" in problems["p1"]
    assert "cut short" in problems["p2"]
    assert problems["p3"] == ""
    assert "1 slice(s) missing" in problems["p4"]


def test_a_damaged_file_among_many_patients_stops_only_its_own_series(tmp_path):
    for patient in ("A", "B"):
        write_series(tmp_path, patient, "MR", names=patient + "{:04d}.dcm")
    broken = tmp_path / "A0001.dcm"
    broken.write_bytes(broken.read_bytes()[:1200])
    (tmp_path / "C0000.dcm").write_bytes(b"")
    images = found(tmp_path)
    assert sorted(bool(image.problems) for image in images if image.series) == [False, True]
    lost = {image.path.name: image.problems for image in images if not image.series}
    assert lost["C0000.dcm"] == ("0 bytes",)
    assert all(image.patient == "" for image in images if image.path.name == "C0000.dcm")


def test_what_is_lost_in_a_patient_s_folder_is_the_patient_s(tmp_path):
    write_series(tmp_path / "p07" / "a", "A", "MR")
    write_series(tmp_path / "p08" / "a", "B", "MR")
    (tmp_path / "p07" / "b").mkdir()
    (tmp_path / "p07" / "b" / "ct.dcm").write_bytes(b"<html>")
    with zipfile.ZipFile(tmp_path / "p08" / "ct.zip", "w") as archive:
        archive.writestr("x", "y")
    lost = {i.patient: i.problems for i in found(tmp_path) if i.modality is None}
    assert lost == {"p07": ("not DICOM",), "p08": ("an archive; unpack it",)}


def test_broken_image_files_are_listed_with_their_problem(tmp_path):
    write_image(tmp_path / "a" / "mr.nii.gz")
    (tmp_path / "a" / "ct.nii.gz").write_bytes(b"\x1f\x8b no gzip")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mr.nii.gz").touch()
    problems = {(i.patient, i.role): i.problems for i in found(tmp_path)}
    assert problems["a", "mr"] == ()
    assert problems["a", "target"]
    assert "empty" in problems["b", "mr"][0]


def test_scouts_projections_and_reformatted_images_are_known(tmp_path):
    kinds = {
        "a": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
        "b": ["DERIVED", "SECONDARY", "PROJECTION IMAGE"],
        "c": ["DERIVED", "SECONDARY", "REFORMATTED"],
        "d": ["DERIVED", "PRIMARY", "M"],
    }
    for name, kind in kinds.items():
        write_series(tmp_path / "p" / name, "P", "MR", name, ImageType=kind)
    write_series(tmp_path / "p" / "e", "P", "MR", "three plane scout")
    write_series(tmp_path / "p" / "f", "P", "MR", "t1 MIP sag")
    images = {image.description: image for image in found(tmp_path)}
    assert images["a"].problems == ("a localizer (scout images)",)
    assert images["three plane scout"].problems == ("a localizer (scout images)",)
    derived = [images[name].derived for name in ("b", "c", "d", "t1 MIP sag")]
    assert derived == ["projection", "reformatted", "", "projection"]


@pytest.mark.parametrize(
    "values",
    [{"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, {"SeriesDescription": "3-plane scout"}],
)
def test_a_localizer_of_three_planes_is_listed_once(tmp_path, values):
    planes = [
        phantoms.slices(replace(scan, shape=(4, 5, 3)), name)
        for name, scan in phantoms.PLANES.items()
    ]
    same = {"SeriesInstanceUID": phantoms.uid("scout"), "StudyInstanceUID": phantoms.uid("study")}
    images = phantoms.setting(**(same | values))([ds for plane in planes for ds in plane])
    phantoms.write(tmp_path / "p", images, 0)
    [image] = found(tmp_path)
    assert image.problems == ("a localizer (scout images)",)


def test_prepared_folders_are_no_scans(tmp_path):
    write_image(tmp_path / "a" / "mr.nii.gz")
    write_image(tmp_path / "prepared" / "cases" / "b" / "mr.nii.gz")
    assert {image.patient for image in found(tmp_path)} == {"a", "b"}
    (tmp_path / "prepared" / MARKER_FILE).touch()
    assert {image.patient for image in found(tmp_path)} == {"a"}
    with pytest.raises(ManifestError, match="made by medp2p prepare"):
        list_files(tmp_path / "prepared")


def test_two_kinds_of_image_in_one_series_are_two_images(tmp_path):
    slices = phantoms.slices(TINY["MR"])
    more = phantoms.setting(EchoTime="160", EchoNumbers="2")(phantoms.slices(TINY["MR"]))
    for n, ds in enumerate(more):
        ds.SOPInstanceUID = phantoms.uid("second echo", n)
    phantoms.write(tmp_path / "p", slices + more, 0)
    images = found(tmp_path)
    assert {image.series[-2:] for image in images} == {"/1", "/2"}
    assert {image.contrast for image in images} == {"TR 4000 TE 80", "TR 4000 TE 160"}
    for image in images:
        assert read_volume(image.path, dicom=image.dicom_options).shape == (4, 5, 3)


def test_one_series_uid_of_two_patients_is_refused(tmp_path):
    for patient in ("A", "B"):
        write_series(tmp_path / patient, patient, "MR", SeriesInstanceUID=phantoms.uid("same"))
    assert all("one SeriesInstanceUID" in image.problems[0] for image in found(tmp_path))


def test_links_are_followed_and_hidden_files_are_not(tmp_path):
    write_series(tmp_path / "elsewhere", "A", "MR")
    scans = tmp_path / "scans"
    write_image(scans / ".hidden" / "mr.nii.gz")
    write_image(scans / "b" / "._mr.nii.gz")
    (scans / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (scans / "b" / "loop").symlink_to(scans, target_is_directory=True)
    (scans / "b" / "gone.dcm").symlink_to(tmp_path / "nothing")
    images = found(scans)
    assert {image.patient for image in images if image.series} == {"linked"}
    assert {image.problems for image in images if not image.series} == {("a link to nothing",)}


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    import os

    write_image(tmp_path / "a" / "mr.nii.gz")
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def refusing(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    files, closed = list_files(tmp_path)
    assert [file.name for file in files] == ["mr.nii.gz"]
    assert closed == [(tmp_path / "closed", "cannot be listed: Permission denied")]
    problems = {image.path.name: image.problems for image in found(tmp_path)}
    assert problems["closed"] == ("cannot be listed: Permission denied",)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ManifestError, match="no case found"):
        found(tmp_path)
    with pytest.raises(ManifestError, match="not a folder"):
        found(tmp_path / "none")


def test_a_site_with_one_patient_is_not_the_patient(tmp_path):
    write_series(tmp_path / "north" / "p01" / "mr", "A", "MR")
    write_image(tmp_path / "north" / "p01" / "ct.nii.gz")
    assert {image.patient for image in found(tmp_path)} == {"p01"}


@pytest.mark.parametrize(
    "text",
    [
        "patient,mr,ct,mask\nA,x1.nii,y1.nii,m.nii\nB,x2.nii,y2.nii,\n",
        "Patient;MR;CT;mask\nA;x1.nii;y1.nii;m.nii\nB;x2.nii;y2.nii;\n",
        "patient,modality,path\nA,MR,x1.nii\nA,CT,y1.nii\nA,mask,m.nii\nB,mr,x2.nii\nB,ct,y2.nii\n",
        "case,patient,split,source_mr,target,mask\n"
        "A,A,train,x1.nii,y1.nii,m.nii\nB,B,test,x2.nii,y2.nii,\n",
    ],
)
def test_a_table_says_it_all(tmp_path, text):
    for name in ("x1", "y1", "m", "x2", "y2"):
        write_image(tmp_path / f"{name}.nii")
    (tmp_path / "t.csv").write_text("\ufeff" + text, encoding="utf-8")
    images = found(tmp_path / "t.csv")
    assert summary(images) == {
        ("A", "mr", "MR"),
        ("A", "target", "CT"),
        ("A", "mask", "MASK"),
        ("B", "mr", "MR"),
        ("B", "target", "CT"),
    }
    assert len({image.unit for image in images}) == 2
    assert not any(image.problems for image in images)


def test_a_table_may_name_dicom_folders_and_series(tmp_path):
    write_series(tmp_path / "dump", "A", "MR", "t1", names="a{}")
    write_series(tmp_path / "dump", "B", "CT", names="b{}")
    keys = {image.modality: image.series for image in found(tmp_path)}
    table = tmp_path / "t.csv"
    table.write_text(
        "patient,modality,path,series\n"
        f"P,MR,dump,{keys['MR']}\nP,CT,dump,{keys['CT']}\nQ,MR,gone,\nR,CT,dump,{keys['MR']}\n"
    )
    images = found(table)
    assert [(i.patient, i.modality, i.person) for i in images[:2]] == [
        ("P", "MR", ""),
        ("P", "CT", ""),
    ]
    assert images[2].problems == ("does not exist",)
    assert images[3].problems == ("the table says CT, and its header says MR",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no rows"),
        ("patient,mr,ct\n", "no rows"),
        ("patient,pet\nA,x.nii\n", "expected patient, mr, ct"),
        ("patient,mr,ct\n,x.nii,y.nii\n", "line 2 names no patient"),
        ("patient,mr,ct\n../A,x.nii,y.nii\n", "no plain name"),
        ("patient,modality,path\nA,PT,x.nii\n", "modality 'PT'"),
        ("patient,modality,path\nA,CT,\n", "path ''"),
    ],
)
def test_a_table_that_does_not_hang_together_is_refused(tmp_path, text, expected):
    table = tmp_path / "t.csv"
    table.write_text(text)
    with pytest.raises(ManifestError, match=expected):
        found(table)


def test_nothing_of_a_header_tells_who_it_is(tmp_path):
    named = phantoms.setting(SeriesDescription="t2 tse Quisenberry 23.08.2019 ZQ-7741903")
    phantoms.write(tmp_path, named(phantoms.slices(TINY["MR"])), 0)
    other = phantoms.setting(PatientID="other", SeriesInstanceUID=phantoms.uid("b"))
    slices = other(named(phantoms.slices(TINY["CT"], "b")))
    phantoms.write(tmp_path, slices, 0, names="b{}".format)
    images = found(tmp_path)
    assert all(image.day is not None for image in images)
    shown = repr(images).lower().replace(str(tmp_path).lower(), "")
    assert "t2 tse" in shown
    assert not [secret for secret in phantoms.SECRETS if secret in shown]
    assert "2019" not in shown
