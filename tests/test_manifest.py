from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from conftest import find_cases

from medp2p.config import Config
from medp2p.errors import ManifestError
from medp2p.io import DicomOptions
from medp2p.manifest import dicom_options, read_manifest, write_manifest


def test_case_folders_become_cases_with_an_optional_mask(case_folder):
    cases = find_cases(case_folder, Config())
    assert [case.name for case in cases] == [f"case_{i}" for i in range(6)]
    assert cases[0].mask is not None
    assert cases[5].mask is None
    assert Counter(case.split for case in cases) == {"train": 4, "validation": 1, "test": 1}


def test_a_manifest_survives_writing_and_reading(case_folder, tmp_path):
    cases = find_cases(case_folder, Config())
    path = tmp_path / "m.csv"
    write_manifest(path, cases)
    assert read_manifest(path) == cases


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


def test_a_missing_manifest_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="no such file"):
        read_manifest(tmp_path / "none.csv")


def test_what_preparation_adds_survives_writing_and_reading(case_folder, tmp_path):
    first, second, third, *_ = find_cases(case_folder, Config())
    (tmp_path / "pairs").mkdir()
    transform = tmp_path / "pairs" / "target.tfm"
    transform.touch()
    cases = [
        replace(
            first,
            fold=2,
            series={"mr": "1a2b3c4d", "target": "5e6f7a8b/2"},
            transforms={"target": transform},
        ),
        replace(second, verdict="check", split=None),
        replace(third, verdict="reject", decision="use"),
    ]
    path = tmp_path / "m.csv"
    write_manifest(path, cases, audited=True)
    assert read_manifest(path, every=True) == cases
    assert read_manifest(path) == [cases[0], cases[2]]
    assert ",pairs/target.tfm" in path.read_text()


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("decision", "yes", "decision 'yes'; expected use, check, reject"),
        ("verdict", "fine", "verdict 'fine'"),
        ("fold", "-1", "fold '-1'"),
    ],
)
def test_a_wrong_word_is_named(tmp_path, column, value, expected):
    for name in ("mr", "ct"):
        (tmp_path / f"{name}.nii").touch()
    path = tmp_path / "m.csv"
    path.write_text(f"case,split,source_mr,target,{column}\na,train,mr.nii,ct.nii,{value}\n")
    with pytest.raises(ManifestError, match=expected):
        read_manifest(path)


def test_a_series_is_named_by_key_and_group():
    assert dicom_options("1a2b3c4d/2") == DicomOptions(series="1a2b3c4d", group=2)
    assert dicom_options("1a2b3c4d") == DicomOptions(series="1a2b3c4d")
    assert dicom_options("") == DicomOptions()
