from __future__ import annotations

from collections import Counter

import dicom_phantoms as phantoms
import pytest
from conftest import write_case

from medp2p.config import DataSettings
from medp2p.errors import ManifestError
from medp2p.manifest import (
    load_cases,
    read_manifest,
    scan_case_folders,
    split_patients,
    write_manifest,
)


def test_case_folders_become_cases_with_an_optional_mask(case_folder):
    cases = scan_case_folders(case_folder, DataSettings())
    assert [case.name for case in cases] == [f"case_{i}" for i in range(6)]
    assert cases[0].mask is not None
    assert cases[5].mask is None
    assert Counter(case.split for case in cases) == {"train": 4, "validation": 1, "test": 1}


def test_synthrad_layout_is_read_as_it_is(tmp_path):
    for name in ("1BA001", "1BA005"):
        write_case(tmp_path / "Task1" / "brain" / name, 1)
    cases = scan_case_folders(tmp_path, DataSettings())
    assert [case.name for case in cases] == ["1BA001", "1BA005"]


def test_split_is_reproducible_and_by_patient():
    patients = [f"p{i // 2}" for i in range(40)]
    settings = DataSettings(test_fraction=0.2, validation_fraction=0.1)
    first = split_patients(patients, settings)
    assert first == split_patients(list(reversed(patients)), settings)
    assert Counter(first.values()) == {"train": 14, "test": 4, "validation": 2}
    other = split_patients(patients, DataSettings(split_seed=1))
    assert other != split_patients(patients, DataSettings())


def test_patient_pattern_keeps_visits_together(tmp_path):
    for name in ("anna_1", "anna_2", "bert_1", "carl_1"):
        write_case(tmp_path / name, 1)
    cases = scan_case_folders(tmp_path, DataSettings(patient_pattern=r"^(\w+)_\d$"))
    assert len({case.split for case in cases if case.patient == "anna"}) == 1
    with pytest.raises(ManifestError, match="patient_pattern"):
        scan_case_folders(tmp_path, DataSettings(patient_pattern=r"^(\d+)"))


def test_a_manifest_survives_writing_and_reading(case_folder, tmp_path):
    cases = scan_case_folders(case_folder, DataSettings())
    path = tmp_path / "m.csv"
    write_manifest(path, cases)
    assert load_cases(path, DataSettings()) == cases


def test_several_sources_keep_their_order(tmp_path):
    for name in ("t1", "t2", "ct"):
        (tmp_path / f"{name}.nii").touch()
    path = tmp_path / "m.csv"
    path.write_text("case,split,source_t2,source_t1,target,mask\na,train,t2.nii,t1.nii,ct.nii,\n")
    [case] = read_manifest(path)
    assert list(case.sources) == ["t2", "t1"]
    assert case.patient == "a"
    assert case.mask is None


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("case,split,target\n", "source_<name>"),
        ("split,source_mr,target\n", "case"),
        ("", "column"),
        ("case,split,source_mr,target\n", "no cases"),
        ("case,split,source_mr,target\na,train,mr.nii,gone.nii\n", "gone.nii does not exist"),
        ("case,split,source_mr,target\na,training,mr.nii,ct.nii\n", "split 'training'"),
        ("case,split,source_mr,target\na,train,,ct.nii\n", "source_mr is empty"),
        ("case,split,source_mr,target\n../a,train,mr.nii,ct.nii\n", "no case name"),
        (
            "case,split,source_mr,target\na,train,mr.nii,ct.nii\na,train,mr.nii,ct.nii\n",
            "case a is there twice",
        ),
        (
            "case,patient,split,source_mr,target\n"
            "a,p,train,mr.nii,ct.nii\nb,p ,test,mr2.nii,ct2.nii\n",
            "patient p is in two splits",
        ),
        (
            "case,split,source_mr,target\na,train,mr.nii,ct.nii\nb,test,mr.nii,ct2.nii\n",
            "is an image of a and of b",
        ),
        ("case,split,source_mr,target\n.a,train,mr.nii,ct.nii\n", "no case name"),
        ("case,split,source_mr,target\n" + "a" * 200_000 + ",train,mr.nii,ct.nii\n", "CSV"),
    ],
)
def test_a_manifest_that_does_not_hang_together_is_refused(tmp_path, rows, expected):
    for name in ("mr.nii", "ct.nii", "mr2.nii", "ct2.nii"):
        (tmp_path / name).touch()
    path = tmp_path / "m.csv"
    path.write_text(rows)
    with pytest.raises(ManifestError) as error:
        read_manifest(path)
    assert expected in str(error.value)
    assert str(path) in str(error.value)


def test_folders_that_are_no_data_set_are_refused(tmp_path):
    with pytest.raises(ManifestError, match="not a folder"):
        scan_case_folders(tmp_path / "none", DataSettings())
    with pytest.raises(ManifestError, match="no case found"):
        scan_case_folders(tmp_path, DataSettings())
    write_case(tmp_path / "a", 1)
    (tmp_path / "a" / "ct.nii.gz").unlink()
    with pytest.raises(ManifestError, match="no ct image"):
        scan_case_folders(tmp_path, DataSettings())
    write_case(tmp_path / "a", 1)
    (tmp_path / "a" / "ct.mha").touch()
    with pytest.raises(ManifestError, match=r"ct\.mha and ct\.nii\.gz"):
        scan_case_folders(tmp_path, DataSettings())


def test_links_are_followed_and_hidden_folders_are_not(tmp_path):
    write_case(tmp_path / "elsewhere" / "real", 1)
    scans = tmp_path / "scans"
    write_case(scans / "a", 2)
    write_case(scans / ".tmp-half", 3)
    (scans / "linked").symlink_to(tmp_path / "elsewhere" / "real", target_is_directory=True)
    (scans / "a" / "loop").symlink_to(scans, target_is_directory=True)
    cases = scan_case_folders(scans, DataSettings())
    assert [case.name for case in cases] == ["a", "linked"]


def test_a_missing_manifest_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="no such file"):
        read_manifest(tmp_path / "none.csv")


def test_dicom_is_found_as_files_and_at_any_depth(tmp_path):
    slices = phantoms.slices()
    write_case(tmp_path / "a", 1)
    (tmp_path / "a" / "mr.nii.gz").unlink()
    write_case(tmp_path / "b", 2)
    for name in ("mr", "ct"):
        (tmp_path / "b" / f"{name}.nii.gz").unlink()
    phantoms.write(tmp_path / "b" / "mr" / "1" / "2", slices, 0)
    image = next((tmp_path / "b" / "mr" / "1" / "2").iterdir()).read_bytes()
    for name in ("a/mr.dcm", "b/mr/mr.DCM", "b/ct"):
        (tmp_path / name).write_bytes(image)
    write_case(tmp_path / "mr" / "c", 3)
    (tmp_path / "mr" / "c" / "scout").mkdir()
    (tmp_path / "mr" / "c" / "mr.txt").touch()
    cases = scan_case_folders(tmp_path, DataSettings())
    assert [case.name for case in cases] == ["a", "b", "c"]
    found = [str(case.sources["mr"].relative_to(tmp_path)) for case in cases]
    assert found == ["a/mr.dcm", "b/mr", "mr/c/mr.nii.gz"]
    assert cases[1].target == tmp_path / "b" / "ct"
    (tmp_path / "a" / "mr").write_text("no DICOM")
    assert scan_case_folders(tmp_path, DataSettings()) == cases
    (tmp_path / "a" / "mr.dcm").unlink()
    with pytest.raises(ManifestError, match="a folder mr of DICOM files"):
        scan_case_folders(tmp_path, DataSettings())


def test_a_folder_around_case_folders_may_have_an_image_s_name(tmp_path):
    for case in ("a", "b", "c"):
        for name in ("mr", "ct", "scout"):
            phantoms.write(tmp_path / "mr" / case / name, phantoms.slices(), 0)
    cases = scan_case_folders(tmp_path, DataSettings())
    assert [case.name for case in cases] == ["a", "b", "c"]
