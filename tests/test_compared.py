"""What a report shows is what was compared, and images that changed since are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dicom_phantoms as phantoms
import nibabel as nib
import numpy as np
import pytest
from cohorts import AFFINE, SHAPE, ct_array, mask_array, run, save

from medp2p.alignment import Alignment, write_alignment
from medp2p.compared import refuse_changed, with_hashes
from medp2p.errors import ImageReadError
from medp2p.evaluation import Options, evaluate_files
from medp2p.metrics import PROFILES
from medp2p.report.case_images import read_case_images
from medp2p.results import CaseFiles

PROFILE = PROFILES["synthrad2023"]


def labels_array() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:9, 5:9, 4:8] = 5
    labels[10:14, 5:9, 4:8] = 3
    return labels


def write_case(folder: Path) -> CaseFiles:
    """A prediction 10 HU too high, with mask, source, region and label maps."""
    return CaseFiles(
        "p1",
        save(folder / "sct.nii.gz", ct_array(1) + np.int16(10)),
        save(folder / "ct.nii.gz", ct_array(1)),
        save(folder / "mask.nii.gz", mask_array()),
        source=save(folder / "mr.nii.gz", ct_array(2) + np.int16(1100)),
        prediction_labels=save(folder / "labels_sct.nii.gz", labels_array()),
        reference_labels=save(folder / "labels_ct.nii.gz", labels_array()),
        region=save(folder / "region.nii.gz", labels_array()),
    )


def plain(files: CaseFiles) -> CaseFiles:
    return replace(files, region=None, prediction_labels=None, reference_labels=None)


def registered(files: CaseFiles) -> CaseFiles:
    """The reference covers half of the prediction and lies turned and shifted elsewhere."""
    cosine, sine = np.cos(0.1), np.sin(0.1)
    matrix = np.array([[cosine, -sine, 0, 7], [sine, cosine, 0, -3], [0, 0, 1, 20], [0, 0, 0, 1.0]])
    transform = files.reference.with_name("to_ct.tfm")
    write_alignment(transform, Alignment(matrix))
    save(files.reference, ct_array(1)[:11], matrix @ AFFINE)
    return replace(plain(files), transform=transform)


def without_mask(files: CaseFiles) -> CaseFiles:
    return replace(registered(files), mask=None)


def registered_region(files: CaseFiles) -> CaseFiles:
    files = registered(files)
    region = np.ones(SHAPE, np.uint8)[:11]
    region[:6] = 0
    save(files.reference.with_name("region.nii.gz"), region, _affine_of(files.reference))
    return replace(files, region=files.reference.with_name("region.nii.gz"))


def _affine_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).affine)


def coarser(files: CaseFiles) -> CaseFiles:
    save(files.prediction, ct_array(1)[::2, ::2, ::2], AFFINE @ np.diag([2, 2, 2, 1]))
    return plain(files)


def displaced(files: CaseFiles) -> CaseFiles:
    """A ball with a plate of bone; the prediction lies a voxel off."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (40, 36, 30)), indexing="ij"))
    centre, radii = np.array([[19, 17, 14], [14, 12, 10]])[:, :, None, None, None]
    ball = (((grid - centre) / radii) ** 2).sum(axis=0) < 1
    image = np.where(ball, 40, -1000) + np.where(ball & (grid[0] > 24), 600, 0)
    image = image + np.random.default_rng(0).integers(-5, 6, image.shape)
    save(files.reference, image.astype(np.int16), np.eye(4))
    save(files.prediction, np.roll(image, 1, axis=0).astype(np.int16), np.eye(4))
    save(files.reference.with_name("mask.nii.gz"), ball.astype(np.uint8), np.eye(4))
    return replace(plain(files), source=None)


@pytest.mark.parametrize(
    ("case", "options", "voxels", "note"),
    [
        (plain, Options(), 1200, ""),
        (registered, Options(), None, "by its registration"),
        (without_mask, Options(), None, "by its registration"),
        (registered_region, Options(), None, "by its registration"),
        (lambda files: files, Options(), 144, ""),
        (lambda files: files, Options(region="5"), 80, ""),
        (coarser, Options(allow_resampling=True), 1200, "prediction resampled linearly"),
        (displaced, Options(align=True), None, "moved rigidly"),
    ],
    ids=["plain", "registered", "no mask", "region", "labels", "label", "resampled", "aligned"],
)
def test_what_is_shown_is_what_was_compared(
    tmp_path: Path,
    case: Callable[[CaseFiles], CaseFiles],
    options: Options,
    voxels: int | None,
    note: str,
) -> None:
    result = evaluate_files(case(write_case(tmp_path)), PROFILE, options)
    images = read_case_images(result)
    assert images.mask is not None
    shown = images.prediction.array.astype(np.float64) - images.reference.array
    assert np.count_nonzero(images.mask) == result.values["voxels"]
    assert np.abs(shown)[images.mask].mean() == pytest.approx(result.values["mae_hu"], rel=1e-9)
    if voxels is not None:
        assert result.values["voxels"] == voxels
    assert note in " ".join(images.notes)
    assert (result.alignment is not None) == options.align


def test_a_registered_reference_is_compared_where_it_has_voxels(tmp_path: Path) -> None:
    """Eleven of twenty sagittal slices are there: 7 of the mask's 12."""
    result = evaluate_files(registered(write_case(tmp_path)), PROFILE)
    images = read_case_images(result)
    whole = evaluate_files(plain(write_case(tmp_path / "whole")), PROFILE)
    assert images.mask is not None
    assert 0.5 < result.values["voxels"] / whole.values["voxels"] < 0.65
    assert result.values["mae_hu"] == pytest.approx(10, abs=1e-3)
    assert "covers 58.3 % of the mask" in result.notes[0]


def test_nothing_beyond_the_reference_s_last_centres_is_compared(tmp_path: Path) -> None:
    files = plain(write_case(tmp_path))
    for shift, lost in ((0.0, 0), (0.4, 1), (-0.4, 1), (1.6, 2)):
        moved = AFFINE.copy()
        moved[:3, 3] += shift * AFFINE[:3, 0]
        save(files.reference, ct_array(1), moved)
        transform = tmp_path / "to_ct.tfm"
        write_alignment(transform, Alignment.identity(), overwrite=True)
        result = evaluate_files(replace(files, mask=None, transform=transform), PROFILE)
        assert result.values["voxels"] == (SHAPE[0] - lost) * SHAPE[1] * SHAPE[2]
    images = read_case_images(result)
    assert images.mask is not None
    assert (images.reference.array[~images.mask] == PROFILE.value_range[0]).all()


def test_label_maps_go_the_way_of_their_images(tmp_path: Path) -> None:
    """The reference's through the registration, the prediction's with the alignment."""
    files = write_case(tmp_path)
    maps = {
        "prediction_labels": files.prediction_labels,
        "reference_labels": files.reference_labels,
    }
    there = replace(registered(files), **maps)
    save(files.reference_labels, labels_array()[:11], _affine_of(files.reference))
    scores = evaluate_files(there, PROFILE).labels
    assert {name: of_class["dice"] for name, of_class in scores.items()} == {"3": 1.0, "5": 1.0}

    files = displaced(write_case(tmp_path / "displaced"))
    plate = (nib.load(files.reference).get_fdata() > 500).astype(np.uint8)
    save(maps["reference_labels"], plate, np.eye(4))
    save(maps["prediction_labels"], np.roll(plate, 1, axis=0), np.eye(4))
    files = replace(files, **maps)
    apart, aligned = (
        evaluate_files(files, PROFILE, Options(align=align)).labels["1"]["dice"]
        for align in (False, True)
    )
    assert apart < 0.95
    assert aligned > 0.99


def test_what_a_prediction_does_not_reach_moves_no_alignment(tmp_path: Path) -> None:
    files = displaced(write_case(tmp_path))
    image = np.repeat(nib.load(files.reference).get_fdata().astype(np.int16), 2, axis=2)
    save(files.reference, image, np.eye(4))
    mask = np.repeat(nib.load(files.mask).get_fdata().astype(np.uint8), 2, axis=2)
    save(files.mask, mask, np.eye(4))
    save(files.prediction, image[:, :, :44], np.eye(4))
    options = Options(align=True, allow_resampling=True)
    result = evaluate_files(files, PROFILE, options)
    assert result.alignment is None
    assert result.values["alignment_shift_mm"] < 0.05


@pytest.mark.parametrize(
    "role", ["prediction", "reference", "mask", "region", "source", "transform"]
)
def test_a_file_that_changed_or_is_gone_is_named(tmp_path: Path, role: str) -> None:
    files = with_hashes(registered_region(write_case(tmp_path)))
    refuse_changed(files)
    path = getattr(files, role)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ImageReadError, match=rf"{path.name}: changed since the evaluation"):
        refuse_changed(files)
    path.unlink()
    with pytest.raises(ImageReadError, match=rf"{path.name}: gone since the evaluation"):
        refuse_changed(files)
    path.write_bytes(content)
    refuse_changed(files)


def test_every_file_has_its_hash(tmp_path: Path) -> None:
    """A label map is not shown, and a source that is missing is done without."""
    files = write_case(tmp_path)
    assert sorted(with_hashes(files).hashes) == [
        "mask",
        "prediction",
        "prediction_labels",
        "reference",
        "reference_labels",
        "region",
        "source",
    ]
    noted = with_hashes(files)
    save(tmp_path / "labels_sct.nii.gz", labels_array() * 2)
    refuse_changed(noted)
    assert files.source is not None
    files.source.unlink()
    assert "source" not in with_hashes(files).hashes
    result = evaluate_files(files, PROFILE)
    assert "the source could not be read" in read_case_images(result).notes


def test_a_slice_of_a_series_that_changed_is_seen(tmp_path: Path) -> None:
    series = tmp_path / "ct"
    phantoms.write(series, phantoms.slices(), 0)
    files = with_hashes(CaseFiles("p1", series, series, None))
    refuse_changed(files)
    next(series.iterdir()).unlink()
    with pytest.raises(ImageReadError, match="ct: changed since the evaluation"):
        refuse_changed(files)


def write_cohort(folder: Path) -> tuple[Path, Path, Path]:
    for number in (1, 2):
        save(folder / f"sct/p{number}.nii.gz", ct_array(number) + np.int16(10 * number))
        save(folder / f"data/p{number}/ct.nii.gz", ct_array(number))
        save(folder / f"data/p{number}/mask.nii.gz", mask_array())
    results = folder / "results"
    assert run("evaluate", folder / "sct", folder / "data", "--output", results) == 0
    return folder / "sct", folder / "data", results


def test_the_commands_leave_out_images_that_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions, _, results = write_cohort(tmp_path)
    save(predictions / "p2.nii.gz", ct_array(2) + np.int16(3))
    capsys.readouterr()
    assert run("report", results, tmp_path / "out.html") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("medp2p:")]
    assert len(lines) == 1
    assert lines[0].startswith("medp2p: case p2 without images: ")
    assert "p2.nii.gz: changed since the evaluation" in lines[0]
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert 'data-name="p1"' in page
    assert 'data-name="p2"' not in page
    assert "changed since the evaluation" in page.split('id="unseen"')[1]
    assert page.count(">20.0<") > 0
    assert run("blind", results, tmp_path / "study", "--seed", 1) == 3
    captured = capsys.readouterr()
    assert "1 pair;" in captured.out
    assert "case p2: " in captured.err
    assert "changed since the evaluation" in captured.err
