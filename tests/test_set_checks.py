from __future__ import annotations

import numpy as np
import pytest

from medp2p.config import AuditSettings
from medp2p.preparation.audit import PairAudit
from medp2p.preparation.fingerprints import fingerprint, nearly_the_same, voxels_hash
from medp2p.preparation.set_checks import CaseRecord, check_set
from medp2p.volume import Volume, reorient

FLAT_PICTURE = "1x1x2:AAA="
"""Like no other, and like no copy of itself."""


def image(seed: int, shape=(40, 36, 24)) -> Volume:
    rng = np.random.default_rng(seed)
    array = rng.uniform(0, 1, shape).cumsum(axis=0) % (3 + seed)
    return Volume((array * 100).astype(np.int16), np.diag([-1.0, -1.0, 2.5, 1.0]))


def record(number: int, *, patient=None, split=None, mr=None, ct=None, verdict="use", **values):
    rng = np.random.default_rng(number)
    typical = {
        "normalized_mutual_information": 0.2 + rng.normal(0, 0.01),
        "target_clipped_low": 0.0,
        "target_p50": 35 + rng.normal(0, 4),
        "source_p95": 900 * np.exp(rng.normal(0, 0.2)),
        "source_spacing_z_mm": 3.0,
        "target_spacing_z_mm": 2.0,
    }
    mr, ct = mr or f"mr{number}", ct or f"ct{number}"
    marks = {"source": f"{mr}:{FLAT_PICTURE}", "target": f"{ct}:{FLAT_PICTURE}"}
    return CaseRecord(
        case=f"case{number:02}",
        patient=patient or f"patient{number}",
        split=split,
        sha256={"mr": f"file-{mr}", "target": f"file-{ct}"},
        audits={"target": PairAudit({**typical, **values}, verdict, (), marks)},
    )


def test_a_set_without_faults_has_no_findings():
    assert check_set([record(n) for n in range(30)]) == []
    assert check_set([]) == []


def test_a_patient_in_two_splits_is_rejected():
    records = [record(n, split="train") for n in range(3)]
    records.append(record(3, patient="patient1", split="test"))
    records.append(record(4, patient="patient2", split="train"))
    (found,) = check_set(records)
    assert found.verdict == "reject"
    assert found.cases == ("case01", "case03")
    assert "patient1 is in test and train" in found.reason


def test_a_case_under_two_names_is_rejected_once():
    records = [record(0), record(1), record(2, mr="mr0", ct="ct0"), record(3, mr="mr0", ct="ct0")]
    findings = check_set(records)
    assert [(f.cases, f.verdict) for f in findings] == [
        (("case02",), "reject"),
        (("case03",), "reject"),
    ]
    assert "all images are those of case case00 (the same files)" in findings[0].reason


def test_one_image_of_two_patients_is_in_question():
    (found,) = check_set([record(0), record(1, ct="ct0"), record(2)])
    assert (found.cases, found.verdict) == (("case00", "case01"), "check")
    assert "the target of case00 is the target of case01" in found.reason


def test_of_two_patients_with_one_image_the_one_that_fits_is_left_alone():
    (found,) = check_set([record(0), record(1, ct="ct0", verdict="check")])
    assert found.cases == ("case01",)


def test_two_cases_of_one_patient_may_share_an_image():
    assert check_set([record(0), record(1, patient="patient0", ct="ct0")]) == []


def test_one_mask_of_all_patients_questions_nobody():
    records = [record(n) for n in range(4)]
    for one in records:
        one.sha256["mask"] = "box"
    assert check_set(records) == []
    copy = record(4, mr="mr0", ct="ct0")
    copy.sha256["mask"] = "another"
    assert [f.cases for f in check_set([*records, copy])] == [("case04",)]


def test_the_copy_whose_own_images_fit_is_kept():
    verdicts = ("reject", "check", "use", "use")
    records = [record(n, mr="mr0", ct="ct0", verdict=v) for n, v in enumerate(verdicts)]
    findings = check_set(records)
    assert sorted(f.cases for f in findings) == [("case00",), ("case01",), ("case03",)]
    assert all("all images are those of case case02" in f.reason for f in findings)


def test_one_image_of_many_patients_is_one_finding():
    records = [record(n, ct="ct0") for n in range(30)]
    (found,) = check_set(records)
    assert len(found.cases) == 30
    assert "the target of case00 is the target of case01, " in found.reason
    assert "and of 26 more (the same files), other patients" in found.reason
    records[7] = record(7, ct="ct0", verdict="check")
    (found,) = check_set(records)
    assert len(found.cases) == 30


def test_the_same_voxels_in_other_files_are_the_same_image():
    one, other = record(0), record(1, ct="ct0")
    other.sha256["target"] = "another file"
    (found,) = check_set([one, other])
    assert "(the same voxels)" in found.reason


def test_cases_that_could_not_be_read_are_no_copies():
    assert check_set([CaseRecord(name, name, None, {}, {}) for name in "ab"]) == []


def test_source_and_target_that_are_one_image_are_rejected():
    (found,) = check_set([record(0, mr="x", ct="x"), record(1)])
    assert (found.cases, found.verdict) == (("case00",), "reject")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"normalized_mutual_information": 0.05}, "normalized mutual information"),
        ({"target_p50": 1059.0}, "the target's median in the body is 1059 HU"),
        ({"target_p50": -500.0}, "the target's median in the body is -500 HU"),
        ({"source_p95": 90_000.0}, "the source's 95 % quantile"),
        ({"source_spacing_z_mm": 9.0}, "the source's voxel spacing along z is 9 mm"),
    ],
)
def test_cases_unlike_the_others_are_in_question(values, words):
    records = [record(n) for n in range(12)]
    records[5] = record(5, **values)
    (found,) = check_set(records)
    assert (found.cases, found.verdict) == (("case05",), "check")
    assert words in found.reason
    assert "expected at most 6" in found.reason


def test_another_protocol_is_not_odd():
    records = [record(n) for n in range(20)]
    records += [record(n, source_spacing_z_mm=9.0) for n in range(20, 26)]
    assert check_set(records) == []
    assert len(check_set(records[:21])) == 1


def test_better_than_the_others_is_no_fault_and_few_cases_have_no_others():
    records = [record(n) for n in range(12)]
    records[5] = record(5, normalized_mutual_information=0.6)
    assert check_set(records) == []
    few = [record(n) for n in range(5)]
    few[2] = record(2, target_p50=1059.0)
    assert check_set(few) == []
    assert len(check_set(few, AuditSettings(set_cases=5))) == 1


def test_cases_that_could_not_be_examined_are_no_exception():
    broken = CaseRecord("broken", "patient0", None, {"mr": "a", "target": "b"}, {})
    missing = record(1)
    missing.audits["target"].values["normalized_mutual_information"] = None
    assert check_set([broken, missing, *(record(n) for n in range(2, 14))]) == []


def test_findings_start_with_the_gravest():
    records = [record(n) for n in range(12)]
    records[3] = record(3, target_p50=1059.0)
    records[4] = record(4, mr="mr0", ct="ct0")
    assert [f.verdict for f in check_set(records)] == ["reject", "check"]


def test_a_fingerprint_tells_voxels_whatever_their_order_and_type():
    one = image(1)
    mark = fingerprint(one)
    turned = reorient(one, "SAR")
    assert turned.shape != one.shape
    for same in (turned, one.with_array(one.array.astype(np.float64))):
        assert voxels_hash(fingerprint(same)) == voxels_hash(mark)
    other = one.array.copy()
    other[3, 4, 5] += 1
    assert voxels_hash(fingerprint(one.with_array(other))) != voxels_hash(mark)
    assert len(mark) < 1600


def test_a_rescaled_image_is_nearly_the_same_and_another_is_not():
    one = image(1)
    rescaled = one.with_array(np.rint(one.array * 0.31 + 40).astype(np.uint8))
    marks = [fingerprint(v) for v in (one, image(2), rescaled, image(1, (40, 36, 23)))]
    assert list(nearly_the_same([*marks, None])) == [(0, 2)]


def test_images_without_contrast_are_like_nothing():
    flat = [fingerprint(Volume(np.full((4, 4, 4), value, np.int16), np.eye(4))) for value in (1, 2)]
    assert list(nearly_the_same(flat)) == []
