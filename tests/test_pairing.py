from __future__ import annotations

import json

import dicom_phantoms as phantoms
import numpy as np
import pytest
from test_discovery import TINY, write_image, write_series

from medp2p.config import load_config
from medp2p.errors import ConfigError
from medp2p.preparation.discovery import find_images
from medp2p.preparation.pairing import Plan, make_plan, plan_rows, plan_table


def plan_of(data, match=None, preset="mr_to_ct", assignments=()) -> Plan:
    config = load_config(preset=preset, assignments=assignments)
    return make_plan(find_images(data, config), config, match)


def only_pair(plan: Plan):
    assert [left.reason for left in plan.left_out] == []
    [pair] = plan.pairs
    return pair


def question(plan: Plan) -> str:
    assert not plan.pairs
    [left] = plan.left_out
    assert left.verdict == "check"
    return left.reason


def rejection(plan: Plan) -> str:
    assert not plan.pairs
    [left] = plan.left_out
    assert left.verdict == "reject"
    return left.reason


def shape_of(spacing, shape=(4, 5, 3), modality="CT"):
    from dataclasses import replace

    return replace(TINY[modality], spacing_mm=spacing, shape=shape)


def test_case_folders_become_pairs_with_their_masks(tmp_path):
    for case in ("a", "b"):
        for name in ("mr", "ct", "labels"):
            write_image(tmp_path / case / f"{name}.nii.gz")
    write_image(tmp_path / "a" / "mask.nii.gz")
    write_image(tmp_path / "a" / "ct_resampled.nii.gz")
    plan = plan_of(tmp_path)
    assert [(pair.case, pair.patient) for pair in plan.pairs] == [("a", "a"), ("b", "b")]
    a, b = plan.pairs
    assert a.sources["mr"].path == tmp_path / "a" / "mr.nii.gz"
    assert a.target.path == tmp_path / "a" / "ct.nii.gz"
    assert a.mask.path == tmp_path / "a" / "mask.nii.gz"
    assert b.mask is None
    assert a.aligned
    assert a.days_apart is None
    assert {u.image.path.name for u in plan.unused} == {"labels.nii.gz", "ct_resampled.nii.gz"}


def test_images_on_other_grids_are_not_taken_for_aligned(tmp_path):
    write_image(tmp_path / "a" / "mr.nii.gz", spacing=1)
    write_image(tmp_path / "a" / "ct.nii.gz", spacing=2)
    assert not only_pair(plan_of(tmp_path)).aligned


def test_the_only_images_of_a_dicom_patient_are_a_pair(tmp_path):
    write_series(tmp_path / "p01" / "a", "A", "MR", day="20200101")
    write_series(tmp_path / "p01" / "b", "A", "CT", day="20200104")
    pair = only_pair(plan_of(tmp_path))
    assert pair.case == pair.patient == "p01"
    assert pair.days_apart == 3
    assert not pair.aligned
    assert pair.reasons == ("only MR", "only CT")


def test_one_frame_of_reference_means_aligned(tmp_path):
    for modality in ("MR", "CT"):
        write_series(
            tmp_path / "p01" / modality,
            "A",
            modality,
            FrameOfReferenceUID=phantoms.uid("shared"),
        )
    assert only_pair(plan_of(tmp_path)).aligned


@pytest.mark.parametrize(
    ("preset", "lacking"), [("mr_to_ct", "no CT found; 1 MR"), ("ct_to_mr", "no CT found; 1 MR")]
)
def test_a_missing_image_rejects_the_patient_and_nobody_else(tmp_path, preset, lacking):
    write_series(tmp_path / "p01" / "a", "A", "MR")
    for modality in ("MR", "CT"):
        write_series(tmp_path / "p02" / modality, "B", modality)
    plan = plan_of(tmp_path, preset=preset)
    assert [pair.patient for pair in plan.pairs] == ["p02"]
    assert [(left.patient, left.verdict, left.reason) for left in plan.left_out] == [
        ("p01", "reject", lacking)
    ]


def test_images_of_two_kinds_are_a_question(tmp_path):
    write_series(tmp_path / "p01" / "a", "A", "MR", "T1 MPRAGE sag", RepetitionTime="500")
    write_series(tmp_path / "p01" / "b", "A", "MR", "T2 TSE tra")
    write_series(tmp_path / "p01" / "c", "A", "CT")
    asked = question(plan_of(tmp_path))
    assert asked.startswith("2 MR images of different kinds fit as source: 'T1 MPRAGE sag, TR 500")
    assert "'T2 TSE tra, TR 4000" in asked
    assert asked.endswith("choose with --match 'source=T1 MPRAGE sag'")


@pytest.mark.parametrize("pattern", ["t1*mprage*", "KEY", "*/p01/a", "flair*|T1*", "*TR 500 TE*"])
def test_a_pattern_answers_it(tmp_path, pattern):
    write_series(tmp_path / "p01" / "a", "A", "MR", "T1 MPRAGE sag", RepetitionTime="500")
    write_series(tmp_path / "p01" / "b", "A", "MR", "T2 TSE tra")
    write_series(tmp_path / "p01" / "c", "A", "CT")
    key = next(i.series for i in find_images(tmp_path, load_config()) if "T1" in i.description)
    pattern = pattern.replace("KEY", key)
    for match in ({"source": pattern}, {"mr": pattern}, {"p01/source": pattern}):
        plan = plan_of(tmp_path, match)
        pair = only_pair(plan)
        assert pair.sources["mr"].description == "T1 MPRAGE sag"
        assert f"source matches {pattern}" in pair.reasons
        assert [u.reason for u in plan.unused] == [f"does not match source={pattern}"]
    config = load_config(overrides={"data.match": {"source": "T2*"}})
    images = find_images(tmp_path, config)
    assert make_plan(images, config).pairs[0].sources["mr"].description == "T2 TSE tra"
    chosen = make_plan(images, config, {"p01/source": pattern}).pairs[0]
    assert chosen.sources["mr"].description == "T1 MPRAGE sag"


def test_the_suggested_command_works(tmp_path):
    for echo in ("80", "160"):
        write_series(tmp_path / "p01" / echo, "A", "MR", "T2 [x]", study=echo, EchoTime=echo)
    write_series(tmp_path / "p01" / "c", "A", "CT")
    for name in ("t1", "t2", "ct"):
        write_image(tmp_path / "p02" / f"p02_{name}.nii.gz")
    write_series(tmp_path / "p03" / "a", "C", "MR")
    for name in ("HEAD", "HEAD BONE"):
        write_series(tmp_path / "p03" / name, "C", "CT", name)
    for day, modality in (("20200101", "MR"), ("20200105", "MR"), ("20200103", "CT")):
        write_series(tmp_path / "p04" / day, "D", modality, day=day)
    asked = plan_of(tmp_path).left_out
    assert [left.patient for left in asked] == ["p01", "p02", "p03", "p04"]
    for left in asked:
        key, _, pattern = left.reason.partition("--match '")[2].rstrip("'").partition("=")
        plan = plan_of(tmp_path, {key: pattern})
        assert left.patient in {pair.patient for pair in plan.pairs}
        assert ("/" in key) == (left.patient == "p04")


def test_a_pattern_that_fits_nothing_says_what_there_is(tmp_path):
    write_series(tmp_path / "p01" / "a", "A", "MR", "T2 TSE")
    write_series(tmp_path / "p01" / "c", "A", "CT")
    reason = rejection(plan_of(tmp_path, {"source": "T1*"}))
    assert reason.startswith("no MR matches source=T1*; found 'T2 TSE, TR 4000 TE 80' (")


@pytest.mark.parametrize("key", ["scource", "p01/targt", "p09/source", "/source", "p01/", ""])
def test_a_pattern_for_nothing_is_refused(tmp_path, key):
    write_series(tmp_path / "p01" / "a", "A", "MR")
    with pytest.raises(ConfigError, match=f"match '{key}'"):
        plan_of(tmp_path, {key: "*"})


@pytest.mark.parametrize("pattern", ["", " ", "|", "t1*|", "t1||t2"])
def test_an_empty_pattern_is_refused(tmp_path, pattern):
    write_series(tmp_path / "p01" / "a", "A", "MR")
    with pytest.raises(ConfigError, match="has an empty part"):
        plan_of(tmp_path, {"source": pattern})


def test_a_pattern_that_matches_nothing_is_noted(tmp_path):
    for patient in ("p01", "p02"):
        write_series(tmp_path / patient / "a", patient, "MR", "T2 TSE")
        write_series(tmp_path / patient / "c", patient, "CT", "head")
    assert plan_of(tmp_path, {"source": "t2*", "p01/target": "head"}).notes == ()
    plan = plan_of(tmp_path, {"source": "[", "p01/target": "t2*"})
    assert plan.notes == (
        "the pattern source=[ matches no MR of any patient",
        "the pattern p01/target=t2* matches no CT of this patient",
    )


def test_patients_of_nearly_one_name_are_noted(tmp_path):
    names = ("Anna", "anna", " ANNA_", "Bert", "Anna-2")
    rows = [f"{name},x{n}.nii,y{n}.nii" for n, name in enumerate(names)]
    for n in range(len(names)):
        write_image(tmp_path / f"x{n}.nii")
        write_image(tmp_path / f"y{n}.nii")
    (tmp_path / "t.csv").write_text("\n".join(["patient,mr,ct", *rows]))
    plan = plan_of(tmp_path / "t.csv")
    assert [pair.patient for pair in plan.pairs] == ["ANNA_", "Anna", "Anna-2", "Bert", "anna"]
    [note] = plan.notes
    assert note.startswith("'ANNA_', 'Anna', 'anna' count as different patients")


def test_the_nearest_date_decides_between_images_of_one_kind(tmp_path):
    write_series(tmp_path / "p01" / "a", "A", "MR", day="20190601")
    write_series(tmp_path / "p01" / "b", "A", "MR", day="20200101")
    write_series(tmp_path / "p01" / "c", "A", "CT", day="20200103")
    plan = plan_of(tmp_path)
    pair = only_pair(plan)
    assert pair.days_apart == 2
    assert pair.sources["mr"].path == tmp_path / "p01" / "b"
    assert "nearest date: 2 days apart" in pair.reasons
    assert [u.reason for u in plan.unused] == ["others are nearer in time"]


def test_two_visits_are_two_cases_of_one_patient(tmp_path):
    for day, modality in (
        ("20190601", "CT"),
        ("20190603", "MR"),
        ("20200101", "MR"),
        ("20200102", "CT"),
    ):
        write_series(tmp_path / "p01" / f"{day}{modality}", "A", modality, day=day)
    plan = plan_of(tmp_path)
    assert [(p.case, p.patient, p.days_apart) for p in plan.pairs] == [
        ("p01", "p01", 2),
        ("p01-2", "p01", 1),
    ]


def test_equally_near_dates_are_a_question(tmp_path):
    for day, modality in (("20200101", "MR"), ("20200105", "MR"), ("20200103", "CT")):
        write_series(tmp_path / "p01" / day, "A", modality, day=day)
    assert "equally near in time" in question(plan_of(tmp_path))


def test_studies_without_dates_are_a_question(tmp_path):
    for study in ("one", "two"):
        write_series(tmp_path / "p01" / study, "A", "MR", study=study, day="")
    write_series(tmp_path / "p01" / "c", "A", "CT", day="")
    assert "2 MR images fit as source equally well" in question(plan_of(tmp_path))


def test_images_of_one_study_go_together(tmp_path):
    for study, day in (("one", "20200101"), ("two", "20200102")):
        for modality in ("MR", "CT"):
            write_series(
                tmp_path / "p01" / study / modality,
                "A",
                modality,
                day=day,
                StudyInstanceUID=phantoms.uid(study),
            )
    plan = plan_of(tmp_path)
    assert [pair.case for pair in plan.pairs] == ["p01", "p01-2"]
    assert all(pair.days_apart == 0 and pair.reasons for pair in plan.pairs)


def test_the_finest_spacing_decides_at_last(tmp_path):
    write_series(tmp_path / "p01" / "a", "A", "MR")
    for name, spacing in (("thick", (1.0, 1.0, 5.0)), ("thin", (1.0, 1.0, 1.0))):
        write_series(
            tmp_path / "p01" / name,
            "A",
            "CT",
            scan=shape_of(spacing),
            study=name,
            StudyInstanceUID=phantoms.uid("both"),
        )
    plan = plan_of(tmp_path)
    pair = only_pair(plan)
    assert pair.target.path == tmp_path / "p01" / "thin"
    assert "finest spacing" in pair.reasons
    assert [u.reason for u in plan.unused] == ["another is better: finest spacing"]


def test_the_largest_overlap_comes_before_the_finest_spacing(tmp_path):
    shared = {"FrameOfReferenceUID": phantoms.uid("shared"), "StudyInstanceUID": phantoms.uid("s")}
    thick = shape_of((1.0, 1.0, 4.0), modality="MR")
    write_series(tmp_path / "p01" / "a", "A", "MR", scan=thick, **shared)
    for name, spacing in (("part", (1.0, 1.0, 1.0)), ("whole", (1.0, 1.0, 4.0))):
        scan = shape_of(spacing)
        write_series(tmp_path / "p01" / name, "A", "CT", study=name, scan=scan, **shared)
    pair = only_pair(plan_of(tmp_path))
    assert pair.target.path.name == "whole"
    assert pair.aligned
    assert "largest overlap" in pair.reasons


def test_equally_good_images_are_a_question(tmp_path):
    write_series(tmp_path / "p01" / "a", "A", "MR")
    for name in ("one", "two"):
        both = phantoms.uid("both")
        write_series(tmp_path / "p01" / name, "A", "CT", study=name, StudyInstanceUID=both)
    asked = question(plan_of(tmp_path))
    assert asked.startswith("2 CT images fit as target equally well")
    assert "--match 'p01/target=" in asked


def test_originals_come_before_reformatted_images_and_projections_never(tmp_path):
    write_series(tmp_path / "p01" / "a", "A", "MR")
    write_series(tmp_path / "p01" / "b", "A", "CT", "thin")
    kind = ["DERIVED", "SECONDARY", "REFORMATTED"]
    write_series(tmp_path / "p01" / "c", "A", "CT", "thick", ImageType=kind)
    kind = ["DERIVED", "SECONDARY", "AXIAL", "MIP"]
    write_series(tmp_path / "p01" / "d", "A", "CT", "thin", study="m", ImageType=kind)
    plan = plan_of(tmp_path)
    pair = only_pair(plan)
    assert pair.target.description == "thin"
    assert pair.target.derived == ""
    assert "original, not reformatted" in pair.reasons
    assert {u.reason for u in plan.unused} == {
        "made of other images (a projection or subtraction)",
        "another one is original, not reformatted",
    }


def test_what_cannot_be_read_is_left_out_with_its_reason(tmp_path):
    write_series(tmp_path / "p01" / "a", "A", "MR")
    write_series(tmp_path / "p01" / "b", "A", "CT")
    cut = tmp_path / "p01" / "b" / "image_0001.dcm"
    cut.write_bytes(cut.read_bytes()[:-10])
    reason = rejection(plan_of(tmp_path))
    assert reason.startswith("no CT that can be used: 'plain' (")
    assert "cut short" in reason
    write_series(tmp_path / "p01" / "c", "A", "CT", "again")
    plan = plan_of(tmp_path)
    assert only_pair(plan).target.description == "again"
    assert "cut short" in plan.unused[0].reason


def test_a_lost_file_beside_a_patient_is_in_the_reason(tmp_path):
    write_series(tmp_path / "p01" / "a", "A", "MR")
    (tmp_path / "p01" / "b").mkdir()
    (tmp_path / "p01" / "b" / "ct.dcm").touch()
    reason = rejection(plan_of(tmp_path))
    assert reason == "no CT found; 1 MR; beside it 'ct.dcm': 0 bytes"


def test_headers_of_two_patients_in_one_case_folder_are_a_question(tmp_path):
    write_series(tmp_path / "p01" / "mr", "A", "MR")
    write_series(tmp_path / "p01" / "ct", "B", "CT")
    assert "their headers name different patients" in question(plan_of(tmp_path))
    assert only_pair(plan_of(tmp_path, assignments=[r"data.patient_pattern=(p\d+)"]))


def test_images_with_swapped_names_are_rejected(tmp_path):
    from medp2p.io import write_volume
    from medp2p.volume import Volume

    for name, modality in (("mr", "CT"), ("ct", "MR")):
        volume = Volume(np.zeros((4, 4, 3), np.int16), np.eye(4), modality=modality)
        write_volume(volume, tmp_path / "p01" / f"{name}.nii.gz")
    write_image(tmp_path / "p02" / "mr.nii.gz")
    write_image(tmp_path / "p02" / "ct.nii.gz")
    plan = plan_of(tmp_path)
    assert [pair.patient for pair in plan.pairs] == ["p02"]
    [left] = plan.left_out
    assert left.verdict == "reject"
    assert "its name or table says CT, and its header says MR" in left.reason


def test_contrasts_are_chosen_by_name(tmp_path):
    write_series(tmp_path / "p01" / "a", "A", "MR", "AX T1 SE")
    write_series(tmp_path / "p01" / "b", "A", "MR", "AX_T2W_TSE")
    write_series(tmp_path / "p01" / "c", "A", "MR", "T10 strange")
    pair = only_pair(plan_of(tmp_path, preset="t1_to_t2"))
    assert pair.sources["t1"].description == "AX T1 SE"
    assert pair.target.description == "AX_T2W_TSE"
    plan = plan_of(tmp_path, {"target": "*strange"}, preset="t1_to_t2")
    assert only_pair(plan).target.description == "T10 strange"


def test_several_sources_are_found_each_by_its_name(tmp_path):
    for case in ("a", "b"):
        for name in ("t1", "t2", "ct"):
            write_image(tmp_path / case / f"{name}.nii.gz")
    (tmp_path / "b" / "t2.nii.gz").unlink()
    plan = plan_of(tmp_path, assignments=["data.sources=[t1,t2]"])
    assert [list(pair.sources) for pair in plan.pairs] == [["t1", "t2"]]
    assert plan.left_out[0].reason == "no MR (t2) found; 1 MR (t1); 1 CT"


def test_sources_and_target_that_are_not_nearest_to_each_other_are_a_question(tmp_path):
    days = {"t1": ("20200101", "20200201"), "t2": ("20200110", "20200301"), "": ()}
    for name in ("t1", "t2"):
        for day in days[name]:
            write_series(tmp_path / "p01" / f"{name}{day}", "A", "MR", name, day=day)
    for day in ("20200108", "20200103"):
        write_series(tmp_path / "p01" / f"ct{day}", "A", "CT", day=day)
    plan = plan_of(tmp_path, assignments=["data.sources=[t1,t2]"])
    assert "nearest to each other in time" in question(plan)


def test_bids_sessions_are_cases_and_runs_are_a_question(tmp_path):
    for session in ("ses-1", "ses-2"):
        home = tmp_path / "sub-01" / session
        write_image(home / "anat" / f"sub-01_{session}_T1w.nii.gz")
        write_image(home / "ct" / f"sub-01_{session}_ct.nii.gz")
    write_image(tmp_path / "sub-02" / "ses-1" / "anat" / "sub-02_ses-1_T1w.nii.gz")
    write_image(tmp_path / "sub-02" / "ses-2" / "ct" / "sub-02_ses-2_ct.nii.gz")
    for run in ("run-1", "run-2"):
        write_image(tmp_path / "sub-03" / "anat" / f"sub-03_{run}_T1w.nii.gz")
    write_image(tmp_path / "sub-03" / "ct" / "sub-03_ct.nii.gz")
    plan = plan_of(tmp_path)
    assert [(pair.case, pair.patient) for pair in plan.pairs] == [
        ("sub-01_ses-1", "sub-01"),
        ("sub-01_ses-2", "sub-01"),
        ("sub-02", "sub-02"),
    ]
    [left] = plan.left_out
    assert "2 MR images fit as source equally well" in left.reason
    assert len(plan_of(tmp_path, {"sub-03/source": "*run-2*"}).pairs) == 4


def test_sites_with_patients_of_one_name_keep_their_images(tmp_path):
    write_image(tmp_path / "north" / "001" / "mr.nii.gz")
    write_image(tmp_path / "south" / "001" / "ct.nii.gz")
    plan = plan_of(tmp_path)
    assert not plan.pairs
    assert [left.patient for left in plan.left_out] == ["north_001", "south_001"]


def test_a_table_may_pair_what_headers_do_not(tmp_path):
    write_series(tmp_path / "x", "A", "MR")
    write_series(tmp_path / "y", "B", "CT")
    (tmp_path / "t.csv").write_text("patient,mr,ct\nanna,x,y\n")
    pair = only_pair(plan_of(tmp_path / "t.csv"))
    assert (pair.case, pair.patient) == ("anna", "anna")


def test_rows_of_a_table_are_cases_even_of_one_patient(tmp_path):
    for name in ("m1", "c1", "m2", "c2"):
        write_image(tmp_path / f"{name}.nii")
    (tmp_path / "t.csv").write_text("patient,mr,ct\nanna,m1.nii,c1.nii\nanna,m2.nii,c2.nii\n")
    plan = plan_of(tmp_path / "t.csv")
    assert [(p.case, p.sources["mr"].path.name, p.target.path.name) for p in plan.pairs] == [
        ("anna", "m1.nii", "c1.nii"),
        ("anna-2", "m2.nii", "c2.nii"),
    ]


def test_no_image_is_used_twice_and_none_is_forgotten(tmp_path):
    for patient in ("p1", "p2", "p3"):
        for day in ("20200101", "20200110", "20200201"):
            write_series(tmp_path / patient / f"m{day}", patient, "MR", day=day)
        for day in ("20200102", "20200202")[: int(patient[1]) - 1]:
            write_series(tmp_path / patient / f"c{day}", patient, "CT", day=day)
    write_image(tmp_path / "x" / "report.nii.gz")
    config = load_config()
    images = find_images(tmp_path, config)
    plan = make_plan(images, config)
    told = [i for p in plan.pairs for i in (*p.sources.values(), p.target)]
    told += [i for left in plan.left_out for i in left.images]
    told += [u.image for u in plan.unused]
    assert len(told) == len({id(i) for i in told}) == len(images)
    assert [p.case for p in plan.pairs] == ["p2", "p3", "p3-2"]


def test_the_same_images_give_the_same_plan_in_any_order(tmp_path):
    for patient in ("p1", "p2"):
        for n, modality in enumerate(("MR", "MR", "CT")):
            day = f"202001{10 + n}"
            write_series(tmp_path / patient / str(n), patient, modality, day=day)
    config = load_config()
    images = find_images(tmp_path, config)
    first = plan_rows(make_plan(images, config))
    assert plan_rows(make_plan(images[::-1], config)) == first


def test_many_descriptions_for_one_image_are_noted(tmp_path):
    for n, description in enumerate(("T1", "T1", "T2")):
        write_series(tmp_path / f"p{n}" / "a", f"{n}", "MR", description)
        write_series(tmp_path / f"p{n}" / "b", f"{n}", "CT")
    assert plan_of(tmp_path).notes == ("mr: 2 descriptions: 2 × 'T1', 1 × 'T2'",)


def test_thirty_patients_of_whom_some_lack_something(tmp_path):
    for n in range(30):
        home = tmp_path / "export" / f"patient {n:02d}"
        day = f"202001{n % 9 + 1:02d}"
        write_series(home / "study 1" / "a", f"{n}", "MR", "T1 MPRAGE", day=day)
        if n not in (3, 4, 5):
            write_series(home / "study 2" / "b", f"{n}", "CT", "head", day="20200115")
        if n in (6, 7):
            write_series(home / "study 1" / "c", f"{n}", "MR", "T2 TSE", day=day)
    for name in ("image_0000.dcm", "image_0001.dcm", "image_0002.dcm"):
        path = tmp_path / "export" / "patient 08" / "study 2" / "b" / name
        path.write_bytes(path.read_bytes()[:500])
    write_series(tmp_path / "export" / "patient 09" / "study 2" / "d", "other", "CT", "head")
    plan = plan_of(tmp_path)
    verdicts = {left.patient: (left.verdict, left.reason) for left in plan.left_out}
    assert len(plan.pairs) == 24
    assert {name for name, (verdict, _) in verdicts.items() if verdict == "check"} == {
        "patient 06",
        "patient 07",
    }
    for name in ("patient 03", "patient 04", "patient 05"):
        assert verdicts[name] == ("reject", "no CT found; 1 MR")
    assert "beside it 'image_0000.dcm': an image without Rows" in verdicts["patient 08"][1]
    assert verdicts["d"] == ("reject", "no MR found; 1 CT")
    assert len(verdicts) == 7
    assert "…/patient 09/study 2/d" in plan_table(plan, width=300).replace("\\", "/")


def test_folders_that_headers_call_one_patient_are_noted(tmp_path):
    for folder in ("p1", "p2"):
        for modality in ("MR", "CT"):
            same = {"PatientID": "ANON", "PatientName": "ANON"}
            write_series(tmp_path / folder / modality, folder, modality, **same)
    plan = plan_of(tmp_path)
    assert [(p.case, p.patient, p.reasons) for p in plan.pairs] == [
        ("p1", "p1", ("one folder",)),
        ("p2", "p1", ("one folder",)),
    ]
    assert plan.notes[0].startswith("2 folders are of one patient by their headers")
    plan = plan_of(tmp_path, assignments=[r"data.patient_pattern=(p\d+)"])
    assert [(p.case, p.patient) for p in plan.pairs] == [("p1", "p1"), ("p2", "p2")]
    assert plan.notes == ()


def test_the_table_shows_the_plan_and_no_patient(tmp_path):
    scans = tmp_path / "scans"
    patients = ("ok", "none", "two")
    for name in patients:
        secret = {"PatientID": f"ZQ-7741903{name}", "PatientName": f"Quisenberry^{name}ne"}
        description = "t2 Quisenberry 23.08.2019"
        write_series(scans / name / "a", name, "MR", description, day="20190823", **secret)
        if name != "none":
            write_series(scans / name / "b", name, "CT", day="20190825", **secret)
        if name == "two":
            write_series(scans / name / "c", name, "MR", "flair", day="20190823", **secret)
    (scans / "none" / "b").mkdir()
    (scans / "none" / "b" / "ct[bold].dcm").touch()
    plan = plan_of(scans)
    table = plan_table(plan)
    rows = plan_rows(plan)
    assert "pairs 1, to check 1, rejected 1" in table
    assert "4×5×3" in table
    assert "ct[bold].dcm" in table
    assert "to register" in table
    assert rows["pairs"][0]["days_apart"] == 2
    assert rows["left_out"][0]["verdict"] == "reject"
    shown = (table + json.dumps(rows)).lower().replace(str(tmp_path).lower(), "")
    assert not [secret for secret in phantoms.SECRETS if secret in shown]
    assert "2019" not in shown
    assert "t2 …" in table
