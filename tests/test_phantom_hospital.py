"""Phantom patients: one body in two scanners, what lies under it, and its DICOM studies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import run
from pydicom import dcmread
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.spatial.transform import Rotation

from medp2p.errors import OutputError
from medp2p.inspection import inspect
from medp2p.io import read_volume
from medp2p.phantom import LABELS, make_phantom
from medp2p.phantom.couch import Couch
from medp2p.phantom.dicom_export import ct_series, mr_series, write_patient
from medp2p.phantom.hospital import (
    LARGEST_SHIFT_MM,
    PatientPlan,
    PatientScans,
    displacement,
    make_patient,
    random_patient,
    random_plan,
    random_turn,
    scan_grid,
)
from medp2p.volume import Grid, Volume, reorient

CENTRE = np.array((0.0, 2.0, -17.0))


SHIFT = (30.0, -20.0, 15.0)


def head_plan(turn: Rotation, voxel: float) -> PatientPlan:
    """A head whose CT is turned and shifted against its MR."""
    voxels = (voxel, voxel, voxel)
    ct_grid = scan_grid(CENTRE + np.array(SHIFT), (320, 320, 320), voxels)
    mr_grid = scan_grid(CENTRE, (240, 260, 220), voxels)
    return PatientPlan("head", 7, displacement("head", turn, SHIFT), mr_grid, ct_grid)


@pytest.fixture(scope="module")
def scans() -> PatientScans:
    return make_patient(head_plan(Rotation.from_euler("xyz", (10, -15, 60), degrees=True), 5))


@pytest.fixture(scope="module")
def patient() -> PatientScans:
    return random_patient(3, contrasts=("t1", "t2"), pixels=40)


def positions(mask: Volume) -> np.ndarray:
    """World positions of the voxels of a mask, (N, 3)."""
    return np.argwhere(mask.array > 0) @ mask.affine[:3, :3].T + mask.affine[:3, 3]


def share_inside(points: np.ndarray, mask: Volume) -> float:
    """Share of world positions that lie in a mask, of those on its grid."""
    to_index = np.linalg.inv(mask.affine)
    index = np.rint(points @ to_index[:3, :3].T + to_index[:3, 3]).astype(int)
    index = index[((index >= 0) & (index < mask.shape)).all(1)]
    return float((mask.array[tuple(index.T)] > 0).mean())


# --- any grid ----------------------------------------------------------------------------


@pytest.mark.parametrize("anatomy", ["head", "pelvis"])
def test_a_grid_with_its_axes_turned_shows_the_same_voxels(anatomy: str) -> None:
    straight = scan_grid(CENTRE, (200, 200, 200), (5, 5, 5))
    last = np.array([[0, 0, -1, 39], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    turned = Grid((40, 40, 40), straight.affine @ last)
    a, b = (make_phantom(anatomy, 2, grid=grid) for grid in (straight, turned))  # type: ignore[arg-type]
    for name in ("mask", "labels"):
        expected = reorient(getattr(a, name), "RAS").array
        assert (reorient(getattr(b, name), "RAS").array == expected).mean() > 0.9999
    assert not np.array_equal(reorient(a.mask, "RAS").array, b.mask.array)


def test_body_lies_where_the_displacement_says(scans: PatientScans) -> None:
    back = np.linalg.inv(scans.ct_from_mr)
    inner = Volume(binary_erosion(scans.ct_mask.array), scans.ct.affine)
    points = positions(inner)
    in_mr = points @ back[:3, :3].T + back[:3, 3]
    assert share_inside(in_mr, scans.mr_mask) > 0.999
    assert share_inside(points, scans.mr_mask) < 0.95
    wrong = points @ scans.ct_from_mr[:3, :3].T + scans.ct_from_mr[:3, 3]
    assert share_inside(wrong, scans.mr_mask) < 0.9


def test_displacement_turns_about_the_middle_of_the_anatomy() -> None:
    matrix = displacement("head", Rotation.from_euler("z", 90, degrees=True), (1.0, 2.0, 3.0))
    np.testing.assert_allclose(matrix @ (*CENTRE, 1), (1, 4, -14, 1), atol=1e-12)
    np.testing.assert_allclose(matrix[:3, :3] @ (1, 0, 0), (0, 1, 0), atol=1e-12)


def test_another_scan_shows_the_same_body_with_other_noise() -> None:
    grid = scan_grid(CENTRE, (240, 240, 200), (8, 8, 8))
    first, again, other = (make_phantom("head", 1, grid=grid, scan=n) for n in (1, 1, 2))
    assert np.array_equal(first.ct.array, again.ct.array)
    assert np.array_equal(first.mr["t1"].array, again.mr["t1"].array)
    assert np.array_equal(first.labels.array, other.labels.array)
    noise = [s.ct.array - s.ct_noise_free.array for s in (first, other)]
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.05
    brain = first.labels.array == LABELS["white_matter"]
    units = [np.median(s.mr["t1"].array[brain]) for s in (first, other)]
    assert abs(units[0] - units[1]) > 0.05 * units[0]


# --- couch -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("anatomy", "couch"), [("head", Couch(head_holder=True)), ("pelvis", Couch())]
)
def test_couch_touches_the_body_and_is_not_in_the_mask(anatomy: str, couch: Couch) -> None:
    extent = (300, 300, 60) if anatomy == "head" else (480, 380, 60)
    grid = scan_grid(np.array((0.0, -10, 0)), extent, (3, 3, 6))
    with_couch = make_phantom(anatomy, 5, grid=grid, couch=couch)  # type: ignore[arg-type]
    without = make_phantom(anatomy, 5, grid=grid)  # type: ignore[arg-type]
    body = with_couch.mask.array > 0
    assert np.array_equal(body, without.mask.array > 0)
    inside = binary_erosion(body, iterations=2)
    assert np.array_equal(with_couch.ct.array[inside], without.ct.array[inside])
    added = with_couch.ct_noise_free.array - without.ct_noise_free.array
    thing = (added > 50) & ~body
    assert thing.sum() > 300
    assert (thing & binary_dilation(body, iterations=2)).sum() > 30
    assert with_couch.ct_noise_free.array[~binary_dilation(body)].max() > -400
    below = Volume(thing.astype(np.uint8), grid.affine)
    assert np.median(positions(below)[:, 1]) < np.median(positions(with_couch.mask)[:, 1]) - 40


@pytest.mark.parametrize(
    "degrees", [(0, 0, 0), (0, 0, 180), (0, 0, 90), (0, 180, 0), (0, 90, 0), (90, 0, 0)]
)
def test_couch_is_under_the_patient_in_the_scanner(degrees: tuple[int, int, int]) -> None:
    """At -y of the CT's world, unless the body stands upright there: then at its back."""
    turn = Rotation.from_euler("xyz", degrees, degrees=True)
    plan = head_plan(turn, 8)
    lying, floating = make_patient(plan), make_patient(replace(plan, couch=False))
    thing = (lying.ct.array.astype(int) - floating.ct.array > 120) & (lying.ct_mask.array == 0)
    couch = Volume(thing.astype(np.uint8), lying.ct.affine)
    off = positions(couch).mean(0) - positions(lying.ct_mask).mean(0)
    upright = abs(turn.apply((0, 0, 1))[1]) > 0.5
    down = turn.apply((0, -1, 0)) if upright else np.array((0, -1.0, 0))
    assert off @ down > 50


def test_couch_needs_right_angles() -> None:
    with pytest.raises(ValueError, match="right angles"):
        Couch(np.ones((3, 3)))


# --- random patients ---------------------------------------------------------------------


def test_most_patients_are_tilted_and_a_fifth_lies_far_off() -> None:
    rng = np.random.default_rng(0)
    degrees = np.degrees([random_turn(rng).magnitude() for _ in range(1000)])
    assert np.mean(degrees < 15) == pytest.approx(0.70, abs=0.04)
    assert np.mean(degrees > 45) == pytest.approx(0.20, abs=0.04)
    assert degrees.max() > 170


def test_plans_cover_what_they_state() -> None:
    plans = [random_plan(seed) for seed in range(60)]
    middle = np.array((*CENTRE, 1))
    shifts = [np.linalg.norm((p.ct_from_mr @ middle - middle)[:3]) for p in plans]
    assert max(shifts) <= LARGEST_SHIFT_MM
    assert max(shifts) > 80
    thickness = [float(p.mr_grid.spacing_mm[2]) for p in plans]
    assert np.mean(np.isclose(thickness, 5)) == pytest.approx(0.5, abs=0.2)
    length = [p.mr_grid.spacing_mm[2] * p.mr_grid.shape[2] for p in plans]
    assert 0.1 < np.mean(np.array(length) < 0.9 * max(length)) < 0.5
    gentle = [random_plan(seed, turned=False) for seed in range(60)]
    turns = [Rotation.from_matrix(p.ct_from_mr[:3, :3]).magnitude() for p in gentle]
    assert np.degrees(max(turns)) < 25


def test_body_is_in_both_scans_whatever_the_turn() -> None:
    for seed in range(5):
        scans = random_patient(seed, pixels=16)
        assert scans.mr_mask.array.mean() > 0.2
        assert scans.ct_mask.array.mean() > 0.1


# --- DICOM -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["folders", "flat"])
def test_studies_are_read_as_they_were_made(
    patient: PatientScans, tmp_path: Path, layout: str
) -> None:
    write_patient([*mr_series(patient, 42), *ct_series(patient, 42)], tmp_path / "p", layout=layout)  # type: ignore[arg-type]
    report = inspect(tmp_path / "p")
    assert len(report.studies) == 2
    if layout == "flat":
        assert not any(path.is_dir() for path in (tmp_path / "p").iterdir())
        return
    for folder, expected in (
        ("mr/2_t1", patient.mr["t1"]),
        ("mr/3_t2", patient.mr["t2"]),
        ("ct/2_axial", patient.ct),
    ):
        volume = reorient(read_volume(tmp_path / "p" / folder), expected.orientation)
        assert volume.modality == expected.modality
        assert volume.units == expected.units
        assert volume.grid.difference(expected.grid) is None
        assert np.array_equal(volume.array, expected.array)


def test_scanners_have_worlds_and_days_of_their_own(patient: PatientScans, tmp_path: Path) -> None:
    write_patient([*mr_series(patient, 42), *ct_series(patient, 42)], tmp_path / "p")
    t1, t2, ct, scout = (
        dcmread(tmp_path / "p" / name / "IM0001")
        for name in ("mr/2_t1", "mr/3_t2", "ct/2_axial", "mr/1_localizer")
    )
    assert t1.PatientName == ct.PatientName == "Phantom^042"
    assert t1.StudyInstanceUID == t2.StudyInstanceUID == scout.StudyInstanceUID
    assert t1.StudyInstanceUID != ct.StudyInstanceUID
    assert t1.FrameOfReferenceUID == t2.FrameOfReferenceUID
    assert t1.FrameOfReferenceUID != ct.FrameOfReferenceUID
    assert t1.SeriesInstanceUID != t2.SeriesInstanceUID
    assert t1.StudyDate < ct.StudyDate
    assert (t1.EchoTime, t2.EchoTime) in {(12, 100), (11, 95)}
    assert ct.RescaleIntercept == -1024
    assert "LOCALIZER" in scout.ImageType


def test_every_number_fits_its_field(tmp_path: Path) -> None:
    """A spacing of 9.999999999999998 is written with one digit too many by pydicom's helper."""
    axes = np.diag([-4.0, -4.0, 9.999999999999998, 1.0])
    mr = Volume(np.zeros((4, 4, 3), np.int16), axes, modality="MR")
    grid = scan_grid(CENTRE, (40, 40, 40), (10, 10, 10))
    plan = PatientPlan("head", 1, np.eye(4), grid, grid)
    mask = Volume(np.ones((4, 4, 3), np.uint8), axes)
    scans = PatientScans(plan, {"t1": mr}, mr, mask, mask)
    write_patient(mr_series(scans, 1), tmp_path / "p")
    image = dcmread(tmp_path / "p" / "mr" / "2_t1" / "IM0001")
    assert image.SpacingBetweenSlices == 10


def test_existing_patients_are_kept_unless_told(tmp_path: Path) -> None:
    scans = random_patient(0, pixels=10)
    write_patient(mr_series(scans, 1), tmp_path / "p")
    with pytest.raises(OutputError, match="exists already"):
        write_patient(mr_series(scans, 1), tmp_path / "p")
    write_patient(mr_series(scans, 1), tmp_path / "p", overwrite=True)


def test_command_writes_the_same_patients_whatever_the_processes(capsys, tmp_path: Path) -> None:
    options = ("--dicom", "--cases", 2, "--size", 16, "--seed", 5)
    assert run(capsys, "phantom", tmp_path / "a", *options, "--jobs", 1)[0] == 0
    assert run(capsys, "phantom", tmp_path / "b", *options, "--jobs", 2)[0] == 0
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("IM*"))
    assert {p.parts[:2] for p in files} == {
        (f"patient_00{n}", study) for n in (1, 2) for study in ("mr", "ct")
    }
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("wrong", [("--size", "16,16,8"), ("--oblique", "5"), ("--spacing", "2")])
def test_drawn_values_cannot_be_set(capsys, tmp_path: Path, wrong: tuple[str, str]) -> None:
    code, _, errors = run(capsys, "phantom", tmp_path / "a", "--dicom", *wrong)
    assert code == 2
    assert "they are drawn" in errors
