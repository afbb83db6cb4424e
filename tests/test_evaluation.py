"""Evaluation of pairs and folders, and the command ``medp2p evaluate``."""

from __future__ import annotations

import csv
import json
import math
import signal
import threading
from pathlib import Path
from typing import Any

import dicom_phantoms as phantoms
import numpy as np
import pytest
from cohorts import AFFINE, SHAPE, Array, ct_array, mask_array, run, save, volume

from medp2p.errors import ConfigError, EvaluationError, GeometryError, ImageReadError, OutputError
from medp2p.evaluation import (
    WHOLE_VOLUME,
    CaseResult,
    Evaluation,
    Extras,
    Failure,
    Layout,
    Options,
    Where,
    as_json,
    comparison_table,
    evaluate_cases,
    evaluate_folders,
    evaluate_pair,
    pair_folders,
    pair_manifest,
    pair_paths,
    result_table,
    summarize,
    write_csv,
)
from medp2p.io import read_volume, write_volume
from medp2p.manifest import Case, write_manifest
from medp2p.metrics import PROFILES, compute_metrics, range_profile
from medp2p.volume import Volume, reorient

PROFILE = PROFILES["synthrad2023"]
RESAMPLING = Options(allow_resampling=True)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three cases: predictions 10, 20 and 30 HU too high, references with masks."""
    for number in (1, 2, 3):
        save(tmp_path / f"sct/p{number}.nii.gz", ct_array(number) + np.int16(10 * number))
        save(tmp_path / f"data/p{number}/ct.nii.gz", ct_array(number))
        save(tmp_path / f"data/p{number}/mask.nii.gz", mask_array())
        save(tmp_path / f"data/p{number}/mr.nii.gz", ct_array(number))
    return tmp_path / "sct", tmp_path / "data"


def result(case: str, **values: float) -> CaseResult:
    keys = ["mae", "bias", "psnr_db", "voxels", "ssim_range"]
    return CaseResult(
        case, dict.fromkeys(keys, 1.0) | values, range_profile(0, 1), Where("mask.nii.gz")
    )


def assert_holds(outcome: CaseResult, values: dict[str, float]) -> None:
    found = {key: outcome.values[key] for key in values}
    assert found == pytest.approx(values, rel=1e-12, nan_ok=True)


def test_pair_has_the_metrics_of_its_arrays() -> None:
    prediction, reference, mask = ct_array(1), ct_array(2), mask_array()
    outcome = evaluate_pair(volume(prediction), volume(reference), volume(mask), PROFILE, case="p1")
    assert_holds(outcome, compute_metrics(prediction, reference, mask, PROFILE))
    assert (outcome.case, outcome.profile, outcome.notes) == ("p1", PROFILE, ())


def test_axes_stored_otherwise_are_the_same_grid() -> None:
    prediction, reference = volume(ct_array(1)), volume(ct_array(2))
    mask = volume(mask_array())
    expected = evaluate_pair(prediction, reference, mask, PROFILE).values
    for orientation in ("RAS", "LPS", "SAR"):
        turned = evaluate_pair(
            reorient(prediction, orientation), reference, reorient(mask, "PIR"), PROFILE
        )
        assert turned.values == expected


def test_other_grids_are_refused() -> None:
    reference = volume(ct_array())
    shifted, coarser = AFFINE.copy(), AFFINE.copy()
    shifted[0, 3] += 0.5
    coarser[:3, :3] *= 1.1
    for affine, words in ((shifted, "positions up to 0.5 mm apart"), (coarser, "spacing")):
        with pytest.raises(GeometryError, match=f"the prediction is not on the grid.*{words}"):
            evaluate_pair(volume(ct_array(), affine), reference, None, PROFILE)
        with pytest.raises(
            GeometryError, match=f"the mask is not on the grid.*{words}.*--resample"
        ):
            evaluate_pair(reference, reference, volume(mask_array(), affine), PROFILE)


def test_resampling_puts_voxels_in_their_place() -> None:
    """A linear ramp in world coordinates survives linear interpolation onto another grid."""
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    world = index @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    weights = np.array([7.0, -3.0, 11.0])
    finer = AFFINE @ np.diag([0.6, 0.7, 0.5, 1])
    fine_index = np.stack(np.meshgrid(*(np.arange(2 * n) for n in SHAPE), indexing="ij"), -1)
    fine_world = fine_index @ finer[:3, :3].T + finer[:3, 3]
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:-1, 1:-1, 1:-1] = 1
    outcome = evaluate_pair(
        volume(fine_world @ weights, finer),
        volume(world @ weights),
        volume(mask),
        PROFILE,
        RESAMPLING,
    )
    assert outcome.values["mae_hu"] < 1e-3
    assert "resampled linearly" in " ".join(outcome.notes)
    assert "lie outside" not in " ".join(outcome.notes)


def test_resampling_counts_what_the_prediction_does_not_cover() -> None:
    reference = volume(ct_array())
    cropped = Volume(ct_array()[:10], AFFINE)
    outcome = evaluate_pair(cropped, reference, None, PROFILE, RESAMPLING)
    covered, missed = ct_array()[10:], -1024
    assert outcome.values["mae_hu"] == pytest.approx(np.abs(covered - missed).sum() / 5040)
    assert "50 % of the compared voxels lie outside it and count as -1024" in outcome.notes[-2]
    assert outcome.notes[-1] == (
        "the prediction was interpolated here: whether it is blurred is not judged"
    )
    far = AFFINE.copy()
    far[2, 3] += 1000
    with pytest.raises(GeometryError, match="lies apart"):
        evaluate_pair(volume(ct_array(), far), reference, None, PROFILE, RESAMPLING)


def test_a_mask_on_another_grid_is_taken_from_the_nearest_voxel() -> None:
    """A box in world coordinates marks the same voxels, whichever grid it is drawn on."""
    finer = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    finer[:3, 3] = (AFFINE @ [-0.25, -0.25, -0.25, 1])[:3]  # two fine voxels to a coarse one
    fine_mask = mask_array().repeat(2, 0).repeat(2, 1).repeat(2, 2)
    prediction, reference = volume(ct_array(1)), volume(ct_array(2))
    for labels in (fine_mask, 7 * fine_mask, fine_mask.astype(bool), fine_mask.astype(float)):
        mask = reorient(volume(labels, finer), "RAS")
        outcome = evaluate_pair(prediction, reference, mask, PROFILE, RESAMPLING)
        assert_holds(
            outcome, compute_metrics(prediction.array, reference.array, mask_array(), PROFILE)
        )
        assert outcome.notes == ("mask resampled (nearest voxel) onto the reference's grid",)


def test_prediction_and_mask_may_share_a_grid_that_is_not_the_references() -> None:
    cropped = slice(2, 18), slice(2, 16), slice(1, 13)
    affine = AFFINE.copy()
    affine[:3, 3] = (AFFINE @ [2, 2, 1, 1])[:3]
    prediction, mask = (volume(a[cropped], affine) for a in (ct_array(1), mask_array()))
    reference = volume(ct_array(2))
    outcome = evaluate_pair(prediction, reference, mask, PROFILE, RESAMPLING)
    assert outcome.values["voxels"] == mask_array().sum()
    error = ct_array(1).astype(float) - ct_array(2)
    assert outcome.values["mae_hu"] == pytest.approx(np.abs(error[mask_array() > 0]).mean())
    assert [note.split()[:2] for note in outcome.notes] == [
        ["mask", "resampled"],
        ["prediction", "resampled"],
        ["the", "prediction"],
    ]
    far = affine.copy()
    far[2, 3] += 1000
    with pytest.raises(GeometryError, match=r"marks no voxel .*lie apart"):
        evaluate_pair(prediction, reference, volume(mask_array(), far), PROFILE, RESAMPLING)


def test_an_image_is_no_mask() -> None:
    image = volume(ct_array())
    soft = np.where(mask_array(), 0.5, 0)
    for wrong in (image, volume(mask_array()).with_array(mask_array(), modality="MR")):
        with pytest.raises(ImageReadError, match="mask"):
            evaluate_pair(image, image, wrong, PROFILE)
    with pytest.raises(ImageReadError, match="mask"):
        evaluate_pair(image, image, volume(soft), PROFILE, RESAMPLING)


def test_mr_is_not_judged_in_hu() -> None:
    ct = volume(ct_array())
    mr = ct.with_array(ct_array(1) + 1024, modality="MR")
    for pair in ((mr, ct), (ct, mr), (mr, mr)):
        with pytest.raises(EvaluationError, match=r"this is MR, but.*--range LOW HIGH"):
            evaluate_pair(*pair, None, PROFILE)
    values = evaluate_pair(mr, mr, None, range_profile(0, 2000)).values
    assert values["mae"] == 0


def test_notes_on_suspicious_images() -> None:
    reference, mask = volume(ct_array()), volume(mask_array())

    def notes(prediction: Array, true: Volume = reference, profile: Any = PROFILE) -> str:
        return " | ".join(evaluate_pair(volume(prediction), true, mask, profile).notes)

    assert notes(ct_array(5)) == ""
    assert "identical" in notes(ct_array())
    assert "the constant 40 inside the mask" in notes(np.where(mask_array(), 40, -1000))
    picture = ct_array() // 20 + 60
    assert "prediction: values" in notes(picture)
    with pytest.raises(EvaluationError, match="8-bit picture, but the profile synthrad2023"):
        notes(picture.astype(np.uint8))
    assert "reference: values" in notes(ct_array(), volume(ct_array() + 1024))
    assert "HU" not in notes(picture, profile=range_profile(0, 255))
    no_mask = evaluate_pair(volume(ct_array(1)), reference, None, PROFILE)
    assert no_mask.where.words == WHOLE_VOLUME
    assert no_mask.notes == ("no mask: the background counts too",)


@pytest.mark.parametrize(("count", "words"), [(1, "only 1 voxel is"), (99, "only 99 voxels are")])
def test_a_mask_of_few_voxels_is_noted(count: int, words: str) -> None:
    images = volume(ct_array(1)), volume(ct_array(2))
    mask = np.zeros(SHAPE, np.uint8)
    mask[5, 5:14, 2:13].flat[:count] = 1
    assert mask.sum() == count
    for extras in (Extras(), Extras(region=volume(np.ones(SHAPE, np.uint8)))):
        notes = evaluate_pair(*images, volume(mask), PROFILE, extras=extras).notes
        assert words in notes[0]
        assert "mean nothing" in notes[0]
    mask[8:14, 5:14, 5:9] = 1
    assert "mean nothing" not in " ".join(evaluate_pair(*images, volume(mask), PROFILE).notes)


def test_a_structure_metric_without_value_leaves_the_others() -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:6, 4:6, 4:6] = 1
    outcome = evaluate_pair(
        volume(ct_array(1)), volume(ct_array(2)), volume(mask), PROFILES["synthrad2025"]
    )
    assert outcome.values["mae_hu"] > 0
    assert math.isnan(outcome.values["ms_ssim_synthrad2025"])
    assert "at scale" in outcome.notes[-1]


def test_errors_name_both_images(tmp_path: Path) -> None:
    first, second = (save(tmp_path / name, ct_array()) for name in ("a.nii.gz", "b.nii.gz"))
    empty = save(tmp_path / "empty.nii.gz", np.zeros(SHAPE, np.uint8))
    with pytest.raises(EvaluationError, match=r"empty\.nii\.gz: the mask is empty"):
        evaluate_cases(pair_paths(first, second, Layout(mask=empty))[0], PROFILE)
    prediction = read_volume(first)
    prediction = prediction.with_array(np.where(mask_array(), np.nan, prediction.array))
    with pytest.raises(EvaluationError, match=r"a\.nii\.gz against .*b\.nii\.gz: .*NaN"):
        evaluate_pair(prediction, read_volume(second), None, PROFILE)


def test_paths_must_exist_and_be_of_a_kind(tmp_path: Path) -> None:
    image = save(tmp_path / "a.nii.gz", ct_array())
    with pytest.raises(EvaluationError, match=r"is a folder and .*a\.nii\.gz an image"):
        pair_paths(image, tmp_path)
    with pytest.raises(EvaluationError, match="is a folder"):
        pair_paths(image, image, Layout(mask=tmp_path))
    with pytest.raises(ImageReadError, match=r"none\.nii\.gz: no such file"):
        pair_paths(image, tmp_path / "none.nii.gz")
    with pytest.raises(ImageReadError, match=r"m\.nii\.gz: no such file"):
        pair_paths(image, image, Layout(mask=tmp_path / "m.nii.gz"))


def test_cases_are_paired_by_name(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    (predictions / "p2.nii.gz").unlink()
    save(predictions / "p2" / "anything.nii", ct_array())
    (predictions / "p3.nii.gz").unlink()
    save(predictions / "p3" / "mr.nii.gz", ct_array())
    save(predictions / "p3" / "sct.nii.gz", ct_array())
    (predictions / "notes.txt").write_text("not an image")
    (predictions / "logs").mkdir()
    pairs, failures = pair_folders(predictions, references)
    assert failures == {}
    assert [(pair.case, str(pair.prediction.relative_to(predictions))) for pair in pairs] == [
        ("p1", "p1.nii.gz"),
        ("p2", "p2/anything.nii"),
        ("p3", "p3/sct.nii.gz"),
    ]
    assert pairs[1].reference == references / "p2" / "ct.nii.gz"
    assert pairs[1].mask == references / "p2" / "mask.nii.gz"


def test_flat_references_and_a_folder_of_masks(folders: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, _ = folders
    for number in (1, 2, 3):
        save(tmp_path / f"flat/p{number}.nii.gz", ct_array(number))
        save(tmp_path / f"masks/p{number}.nii.gz", mask_array())
    without = pair_folders(predictions, tmp_path / "flat")[0]
    assert [pair.mask for pair in without] == [None, None, None]
    (tmp_path / "masks/p3.nii.gz").unlink()
    pairs, failures = pair_folders(predictions, tmp_path / "flat", Layout(mask=tmp_path / "masks"))
    assert [pair.mask for pair in pairs] == [tmp_path / f"masks/p{n}.nii.gz" for n in (1, 2)]
    assert "no mask for case p3" in failures["p3"]


def test_cases_that_do_not_match_are_named(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    save(predictions / "p1.mha.nii", ct_array())  # another case, in spite of its name
    save(predictions / "p2.nii", ct_array())
    (references / "p3" / "mask.nii.gz").unlink()
    save(references / "p4" / "mr.nii.gz", ct_array())
    save(references / "p5" / "ct.nii.gz", ct_array())
    pairs, failures = pair_folders(predictions, references)
    assert [pair.case for pair in pairs] == ["p1"]
    assert sorted(failures) == ["p1.mha", "p2", "p3", "p4", "p5"]
    assert "no reference for this case" in failures["p1.mha"]
    assert "several images for one case: p2.nii, p2.nii.gz" in failures["p2"]
    assert "no mask for this case, while others have one" in failures["p3"]
    assert "no image called ct" in failures["p4"]
    assert "no prediction for this case" in failures["p5"]


def test_nothing_in_common_lists_both_sides(folders: tuple[Path, Path], tmp_path: Path) -> None:
    save(tmp_path / "other/x.nii.gz", ct_array())
    with pytest.raises(EvaluationError, match=r"no case in common.*has x, .*has p1, p2, p3;"):
        pair_folders(tmp_path / "other", folders[1])
    with pytest.raises(ImageReadError, match="no such folder"):
        pair_folders(tmp_path / "nowhere", folders[1])


def test_folders_go_on_after_a_broken_case(folders: tuple[Path, Path]) -> None:
    (folders[0] / "p2.nii.gz").write_bytes(b"no image")
    outcome = evaluate_folders(*folders, PROFILE)
    assert [r.case for r in outcome.results] == ["p1", "p3"]
    assert [r.values["mae_hu"] for r in outcome.results] == [10, 30]
    [failure] = outcome.failures
    assert failure.case == "p2"
    assert "p2.nii.gz" in failure.reason
    for number in (1, 3):
        (folders[0] / f"p{number}.nii.gz").write_bytes(b"no image")
    with pytest.raises(EvaluationError, match="none of 3 cases could be evaluated"):
        evaluate_folders(*folders, PROFILE)


def test_the_reason_given_is_that_of_a_case_that_was_tried(folders: tuple[Path, Path]) -> None:
    (folders[0] / "p1.nii.gz").unlink()
    for number in (2, 3):
        (folders[0] / f"p{number}.nii.gz").write_bytes(b"no image")
    with pytest.raises(
        EvaluationError, match=r"none of 3 .*the first that was tried, p2: .*p2\.nii"
    ):
        evaluate_folders(*folders, PROFILE)


def test_two_images_for_the_only_case_are_the_reason(tmp_path: Path) -> None:
    references, predictions = tmp_path / "data", tmp_path / "sct"
    target = save(references / "p1/ct.nii.gz", ct_array())
    for name in ("p1.nii", "p1.nii.gz"):
        save(predictions / name, ct_array())
    manifest = [Case("p1", "p1", "test", {"mr": target}, target, None)]
    reason = r"case p1 could not be evaluated: .*several images for one case: p1\.nii, p1\.nii\.gz"
    for pairs, failures in (
        pair_folders(predictions, references),
        pair_manifest(predictions, manifest),
    ):
        assert pairs == []
        with pytest.raises(EvaluationError, match=reason):
            evaluate_cases(pairs, PROFILE, failures=failures)
    (predictions / "p1.nii").unlink()
    target.rename(target.with_name("mr.nii.gz"))
    with pytest.raises(EvaluationError, match="no image called ct in the folder p1"):
        evaluate_folders(predictions, references, PROFILE)


def test_two_masks_for_one_case_are_not_chosen_from(folders: tuple[Path, Path]) -> None:
    masks = folders[1].parent / "masks"
    for name in ("p1.nii", "p1.nii.gz", "p2.nii.gz"):
        save(masks / name, mask_array())
    pairs, failures = pair_folders(*folders, Layout(mask=masks))
    assert [pair.case for pair in pairs] == ["p2"]
    assert "several images for one case: p1.nii, p1.nii.gz" in failures["p1"]
    assert "no mask for case p3" in failures["p3"]


def test_nested_case_folders_are_found(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    (references / "Task1/brain").mkdir(parents=True)
    (references / "p1").rename(references / "Task1/brain/p1")
    (references / "pelvis").mkdir()
    (references / "p2").rename(references / "pelvis/p2")
    save(references / "p3/extra/x/ct.nii.gz", ct_array())
    save(references / ".cache/p4/ct.nii.gz", ct_array())
    save(references / "pelvis/.p5/ct.nii.gz", ct_array())
    pairs, failures = pair_folders(predictions, references)
    assert failures == {}
    assert [str(pair.reference.relative_to(references)) for pair in pairs] == [
        "Task1/brain/p1/ct.nii.gz",
        "pelvis/p2/ct.nii.gz",
        "p3/ct.nii.gz",
    ]
    assert all(pair.mask == pair.reference.with_name("mask.nii.gz") for pair in pairs)
    save(references / "abdomen/p2/ct.nii.gz", ct_array())
    failures = pair_folders(predictions, references)[1]
    assert "several images for one case: abdomen/p2/ct.nii.gz, pelvis/p2/ct" in failures["p2"]


def test_dicom_files_and_folders_are_paired(tmp_path: Path) -> None:
    slices = phantoms.slices()
    predictions, references = tmp_path / "sct", tmp_path / "data"
    phantoms.write(predictions / "p1", slices, 0)
    save(predictions / "p1.nii.gz", ct_array())
    (predictions / "p2.dcm").write_bytes(next((predictions / "p1").iterdir()).read_bytes())
    phantoms.write(predictions / "p3" / "series", slices, 0)
    phantoms.write(references / "p1" / "ct" / "1" / "2", slices, 0)
    for name in ("mr", "ct"):
        save(references / "p2" / "mask.nii.gz", mask_array()).unlink()
        (references / "p2" / f"{name}.dcm").write_bytes((predictions / "p2.dcm").read_bytes())
        phantoms.write(references / "p3" / name, slices, 0)
    pairs, failures = pair_folders(predictions, references)
    assert failures == {}
    assert [str(pair.prediction.relative_to(predictions)) for pair in pairs] == [
        "p1.nii.gz",
        "p2.dcm",
        "p3/series",
    ]
    assert [str(pair.reference.relative_to(references)) for pair in pairs] == [
        "p1/ct",
        "p2/ct.dcm",
        "p3/ct",
    ]
    save(predictions / "p1.nii", ct_array())
    assert "p1.nii, p1.nii.gz" in pair_folders(predictions, references)[1]["p1"]


def manifest_of(references: Path, *, unmasked: tuple[str, ...] = ()) -> list[Case]:
    return [
        Case(
            name=folder.name,
            patient=folder.name,
            split="test",
            sources={"mr": folder / "mr.nii.gz"},
            target=folder / "ct.nii.gz",
            mask=None if folder.name in unmasked else folder / "mask.nii.gz",
        )
        for folder in sorted(references.iterdir())
    ]


def test_a_manifests_masks_are_for_all_cases_or_none(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    pairs, failures = pair_manifest(predictions, manifest_of(references, unmasked=("p2",)))
    assert [pair.case for pair in pairs] == ["p1", "p3"]
    assert "no mask for this case, while others have one" in failures["p2"]
    assert "p2" in failures["p2"]
    pairs, failures = pair_manifest(
        predictions, manifest_of(references, unmasked=("p1", "p2", "p3"))
    )
    assert ([pair.mask for pair in pairs], failures) == ([None] * 3, {})
    (predictions / "p1.nii.gz").unlink()  # the only case with a mask has no prediction
    pairs, failures = pair_manifest(predictions, manifest_of(references, unmasked=("p2", "p3")))
    assert [pair.case for pair in pairs] == ["p2", "p3"]
    assert list(failures) == ["p1"]
    with pytest.raises(EvaluationError, match=r"no case in common: .*has p2, p3, the manifest p1"):
        pair_manifest(predictions, manifest_of(references)[:1])


def test_a_mask_beside_a_manifest_is_refused(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "manifest.csv"
    write_manifest(manifest, manifest_of(folders[1]))
    mask = folders[1] / "p1/mask.nii.gz"
    with pytest.raises(
        ConfigError, match=r"manifest\.csv: the manifest names the masks; leave out"
    ):
        pair_paths(folders[0], manifest, Layout(mask=mask))
    assert run("evaluate", folders[0], manifest, "--mask", mask) == 2
    assert "leave out --mask" in capsys.readouterr().err
    assert run("evaluate", folders[0], manifest, "--profile", "synthrad2023") == 0
    assert "20.0 ± 10.0" in capsys.readouterr().out


def test_summary_counts_cases_with_a_value() -> None:
    cases = [result("a", mae=10), result("b", mae=20), result("c", mae=60, bias=math.nan)]
    summaries = summarize(cases)
    assert summaries["mae"].mean == 30
    assert summaries["mae"].sd == pytest.approx(math.sqrt((400 + 100 + 900) / 2))
    assert summaries["mae"].median == 20
    assert (summaries["mae"].count, summaries["bias"].count) == (3, 2)
    alone = summarize([result("a", psnr_db=math.inf, mae=math.nan)])
    assert (alone["psnr_db"].infinite, alone["psnr_db"].count) == (1, 0)
    assert math.isnan(alone["psnr_db"].mean)
    assert math.isnan(alone["psnr_db"].sd)
    assert alone["mae"].infinite == 0
    assert alone["mae"].count == 0
    assert math.isnan(alone["mae"].mean)


def test_tables_carry_their_definition(folders: tuple[Path, Path]) -> None:
    outcome = evaluate_folders(*folders, PROFILE)
    text = result_table(outcome)
    lines = text.splitlines()
    assert len({len(line) for line in lines if line.startswith("|")}) == 1
    assert "SSIM synthrad2023" in lines[0]
    assert [line.split("|")[2].strip() for line in lines[2:7]] == [
        "10.0",
        "20.0",
        "30.0",
        "20.0 ± 10.0",
        "20.0",
    ]
    for words in ("profile synthrad2023", "[-1024, 3000] HU", "mask.nii.gz", "over 3 cases"):
        assert words in text
    table = comparison_table({"model": outcome.results, "baseline": outcome.results[::-1]})
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:4]] == ["model", "baseline"]
    assert table.count("20.0 ± 10.0") == 10  # MAE, bias, soft, bone and dense bone of both
    assert "profile synthrad2023: range [-1024, 3000] HU" in table.splitlines()[-1]


def test_tables_say_how_many_cases_have_a_value() -> None:
    cases = [result("a", mae=10), result("b", mae=20), result("c", mae=math.nan)]
    for text in (result_table(Evaluation(tuple(cases))), comparison_table({"x": cases})):
        assert "15.000 ± 7.071 (n = 2)" in text
        assert "1.000 ± 0.000 |" in text
    assert "|   – |" in result_table(Evaluation((cases[2],)))


def test_comparison_needs_equal_cases_and_profiles() -> None:
    one, two = [result("a")], [result("b")]
    other = CaseResult("a", one[0].values, range_profile(0, 2))
    with pytest.raises(ValueError, match="same cases"):
        comparison_table({"x": one, "y": two})
    with pytest.raises(ValueError, match="one profile"):
        comparison_table({"x": one, "y": [other]})
    with pytest.raises(ValueError, match="at least one case"):
        comparison_table({"x": one, "y": []})


def test_csv_and_json_carry_values_and_definition(tmp_path: Path) -> None:
    outcome = Evaluation((result("a", mae=1 / 3, bias=math.nan),), (Failure("b", "b.nii: broken"),))
    write_csv(tmp_path / "out.csv", outcome)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["a", "b"]
    assert float(rows[0]["mae"]) == 1 / 3
    assert rows[0]["bias"] == ""
    assert (rows[0]["profile"], rows[0]["range_low"], rows[0]["range_high"]) == (
        "range",
        "0.0",
        "1.0",
    )
    assert (rows[0]["mask"], rows[1]["error"]) == ("mask.nii.gz", "b.nii: broken")
    data = as_json(outcome)
    assert data == json.loads(json.dumps(data, allow_nan=False))
    assert data["cases"][0]["values"]["bias"] is None
    assert data["profile"]["value_range"] == [0, 1]
    assert data["failures"] == [{"case": "b", "reason": "b.nii: broken", "method": ""}]
    with pytest.raises(OutputError, match="exists already"):
        write_csv(tmp_path / "out.csv", outcome)
    write_csv(tmp_path / "out.csv", outcome, overwrite=True)


def test_command_on_one_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prediction = save(tmp_path / "sct.nii.gz", ct_array() + np.int16(25))
    reference = save(tmp_path / "ct.nii.gz", ct_array())
    mask = save(tmp_path / "mask.nii.gz", mask_array())
    command = ("evaluate", prediction, reference, "--mask", mask, "--profile", "synthrad2023")
    assert run(*command) == 0
    text = capsys.readouterr().out
    assert "25.0" in text
    assert "profile synthrad2023: range [-1024, 3000] HU" in text
    assert run(*command, "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["cases"][0]["values"]["mae_hu"] == 25
    assert data["cases"][0]["where"]["mask"] == str(mask)
    assert run("evaluate", prediction, reference, "--range", "-1000", "1000", "--json") == 0
    assert json.loads(capsys.readouterr().out)["profile"]["value_range"] == [-1000, 1000]


def test_command_on_folders_with_a_missing_case(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folders[0] / "p2.nii.gz").unlink()
    table = tmp_path / "metrics.csv"
    assert run("evaluate", *folders, "--profile", "synthrad2023", "--csv", table) == 3
    captured = capsys.readouterr()
    assert "20.0 ± 14.1" in captured.out
    assert "medp2p: case p2:" in captured.err
    assert len(table.read_text(encoding="utf-8").splitlines()) == 4
    before = table.read_bytes()
    assert run("evaluate", *folders, "--csv", table) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert table.read_bytes() == before
    assert run("evaluate", *folders, "--csv", table, "--overwrite") == 3
    assert "synthrad2025" in table.read_text(encoding="utf-8")


def test_command_refuses_another_grid_unless_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shifted = AFFINE.copy()
    shifted[:3, 3] += 0.3
    prediction = save(tmp_path / "sct.nii.gz", ct_array(), shifted)
    reference = save(tmp_path / "ct.nii.gz", ct_array())
    command = ("evaluate", prediction, reference, "--profile", "synthrad2023")
    assert run(*command) == 1
    message = capsys.readouterr().err
    assert message.startswith("medp2p: ")
    assert message.count("\n") == 1
    assert "--resample" in message
    assert run(*command, "--resample") == 0
    assert "resampled linearly" in capsys.readouterr().out


def test_command_on_mr_needs_a_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prediction, reference = tmp_path / "smr.nii.gz", tmp_path / "mr.nii.gz"
    for path, offset in ((prediction, 1034), (reference, 1024)):
        values = ct_array() + np.int16(offset)
        write_volume(Volume(values, AFFINE, modality="MR"), path)
    assert run("evaluate", prediction, reference) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--range LOW HIGH" in captured.err
    assert run("evaluate", prediction, reference, "--range", 0, 2000, "--json") == 0
    assert json.loads(capsys.readouterr().out)["cases"][0]["values"]["mae"] == 10


def test_command_refuses_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = save(tmp_path / "a.nii.gz", ct_array())
    assert run("evaluate", image, image, "--profile", "synthrad") == 2
    assert "synthrad2023, synthrad2025, range" in capsys.readouterr().err
    assert run("evaluate", image, image, "--profile", "range") == 2
    assert run("evaluate", image) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_so_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    for case in range(40):
        save(tmp_path / f"sct/p{case}.nii.gz", ct_array(case) + np.int16(10))
        save(tmp_path / f"data/p{case}/ct.nii.gz", ct_array(case))
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {one: signal.signal(one, signal.default_int_handler) for one in numbers}
    timer = threading.Timer(1.0, signal.raise_signal, [number])
    timer.start()
    try:
        code = run("evaluate", tmp_path / "sct", tmp_path / "data", "-o", tmp_path / "out", "-j", 1)
    finally:
        timer.join()
        for one, handler in before.items():
            signal.signal(one, handler)
    captured = capsys.readouterr()
    assert code == 130
    assert captured.err == (
        "medp2p: interrupted; what was finished before is kept, nothing is half written\n"
    )
    assert captured.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "sct"]
