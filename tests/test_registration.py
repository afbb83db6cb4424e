from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medp2p.alignment import Alignment, move_points, resample_aligned
from medp2p.config import RegistrationSettings
from medp2p.errors import RegistrationError
from medp2p.io import read_volume
from medp2p.phantom import make_phantom
from medp2p.pose_search import search_turns, turn_degrees
from medp2p.registration import Registration, register
from medp2p.volume import Volume

RIGID = RegistrationSettings(mode="rigid")
Pair = tuple[Volume, Volume, np.ndarray]


@pytest.fixture(scope="module")
def head() -> Pair:
    """MR, CT and body of a small head; 3.6 × 3.9 × 3.4 mm."""
    phantom = make_phantom("head", 11, shape=(64, 64, 64))
    return phantom.mr["t1"], phantom.ct, phantom.mask.array > 0


def displacement(turn: Rotation, shift_mm) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = turn.as_matrix()
    matrix[:3, 3] = shift_mm
    return matrix


def displaced(volume: Volume, matrix: np.ndarray) -> Volume:
    return Volume(volume.array, matrix @ volume.affine, volume.modality, volume.units)


def error_mm(found: Registration, true: np.ndarray, volume: Volume, body: np.ndarray) -> float:
    """Mean over the body of how far a point lies from where it should."""
    index = np.argwhere(body)[::23]
    points = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    expected = points @ true[:3, :3].T + true[:3, 3]
    return float(np.linalg.norm(move_points(points, found.alignment) - expected, axis=1).mean())


@pytest.fixture(scope="module")
def turned(head) -> tuple[np.ndarray, Volume, Registration]:
    """A CT turned by half a turn and shifted, and its registration."""
    mr, ct, body = head
    true = displacement(Rotation.from_euler("xyz", (172, 8, -5), degrees=True), (60, -45, 30))
    moved = displaced(ct, true)
    return true, moved, register(mr, moved, body, body, RIGID, seed=3)


def test_half_a_turn_and_a_shift_are_found(head, turned):
    mr, _, body = head
    true, _, found = turned
    assert error_mm(found, true, mr, body) < 1.0
    assert found.alignment.deformation is None
    assert found.turned_degrees == pytest.approx(turn_degrees(true), abs=1)
    assert found.mutual_information_after > 3 * found.mutual_information_before
    assert found.overlap > 0.95
    assert found.starts.margin > 0.3
    assert found.starts.chosen > 2 * found.starts.headers
    assert found.starts.headers_apart_mm > 30
    assert found.last_step_mm < 2
    assert found.notes == ()


def test_it_is_the_same_to_the_last_bit_again(head, turned):
    mr, _, body = head
    _, moved, found = turned
    again = register(mr, moved, body, body, RIGID, seed=3)
    np.testing.assert_array_equal(again.alignment.matrix, found.alignment.matrix)
    assert again.starts == found.starts
    assert again.mutual_information_after == found.mutual_information_after


def test_a_part_with_thick_slices_is_found_and_the_headers_are_close(head):
    mr, ct, body = head
    true = displacement(Rotation.from_euler("xyz", (3, -4, 6), degrees=True), (5, -8, 6))
    part = slice(10, 50, 2)
    affine = mr.affine.copy()
    affine[:3, 3] = (mr.affine @ (0, 0, 10, 1))[:3]
    affine[:3, 2] *= 2
    thick = Volume(mr.array[:, :, part], affine, "MR")
    found = register(thick, displaced(ct, true), body[:, :, part], body, RIGID, seed=0)
    assert error_mm(found, true, thick, body[:, :, part]) < 2.0
    assert found.turned_degrees < 15
    assert found.starts.headers == pytest.approx(found.starts.chosen, rel=0.1)


def test_another_patient_fits_worse_than_the_own_one(turned):
    other = make_phantom("pelvis", 5, shape=(64, 64, 48))
    body = other.mask.array > 0
    _, moved, own = turned
    cut = moved.array > -300
    found = register(other.mr["t1"], moved, body, cut, RIGID, seed=0)
    assert found.starts.chosen < 0.7 * own.starts.chosen
    assert found.starts.margin < 0.3
    assert found.mutual_information_after < 0.7 * own.mutual_information_after


def test_none_measures_and_moves_nothing(head):
    mr, ct, body = head
    found = register(mr, ct, body, body, RegistrationSettings(mode="none"), seed=0)
    assert found.alignment.is_identity
    assert (found.turned_degrees, found.shifted_mm, found.last_step_mm) == (0, 0, 0)
    assert found.mutual_information_after == found.mutual_information_before > 0.3


@pytest.mark.slow
def test_affine_finds_a_stretch_and_refuses_a_large_one(head):
    mr, ct, body = head
    for stretch, notes in ((1.05, 0), (1.2, 1)):
        true = np.diag([1.0, stretch, 1.0, 1.0])
        moved = displaced(ct, true)
        found = register(mr, moved, body, body, RegistrationSettings(mode="affine"), seed=0)
        assert len(found.notes) == notes
        if notes:
            assert "no affine" in found.notes[0]
            linear = found.alignment.matrix[:3, :3]
            np.testing.assert_allclose(linear @ linear.T, np.eye(3), atol=1e-6)
        else:
            assert error_mm(found, true, mr, body) < 0.7


@pytest.mark.slow
def test_a_deformation_is_found(head):
    mr, ct, body = head
    i, j, k = np.meshgrid(*[np.arange(n) for n in ct.shape], indexing="ij")
    wave = 1.6 * np.sin(2 * np.pi * k / 30)
    bent = ndimage.map_coordinates(ct.array, (i + wave, j, k), order=1, mode="nearest")
    bent_body = ndimage.map_coordinates(body.astype(float), (i + wave, j, k), order=1) > 0.5
    moving = Volume(bent, ct.affine, "CT", "HU")
    settings = RegistrationSettings(mode="rigid", deformable=True)
    found = register(mr, moving, body, bent_body, settings, seed=0)
    assert found.alignment.deformation is not None
    rigid = Alignment(found.alignment.matrix)
    stiff, smooth = (
        np.abs(resample_aligned(moving, alignment, ct.grid) - ct.array)[body].mean()
        for alignment in (rigid, found.alignment)
    )
    assert smooth < 0.8 * stiff


def test_what_cannot_be_aligned_is_refused_in_one_line(head):
    mr, ct, body = head
    flat = ct.with_array(np.zeros_like(ct.array))
    broken = mr.with_array(np.full(mr.shape, np.nan, dtype=np.float32))
    slices = Volume(ct.array[:, :, 30:32], ct.affine, "CT", "HU")
    for fixed, moving, fixed_body, moving_body, reason in (
        (mr, ct, np.zeros_like(body), body, "too small or too thin"),
        (mr, slices, body, body[:, :, 30:32], "2 slices"),
        (mr, flat, body, body, "all values in the body are 0"),
        (broken, ct, body, body, "no numbers"),
    ):
        with pytest.raises(RegistrationError, match=reason) as info:
            register(fixed, moving, fixed_body, moving_body, RIGID, seed=0)
        assert "\n" not in str(info.value)
    with pytest.raises(ValueError, match="a mask of"):
        register(mr, ct, body[:-1], body, RIGID, seed=0)


def test_no_turn_is_far_from_a_tried_one():
    turns = search_turns()
    axis_turns = Rotation.create_group("O")
    assert max((t.inv() * turns).magnitude().min() for t in axis_turns) < 1e-6
    others = Rotation.random(300, random_state=0)
    nearest = [np.rad2deg((turn.inv() * turns).magnitude().min()) for turn in others]
    assert max(nearest) < 30


@pytest.mark.real_data
@pytest.mark.parametrize("number", [0, 7, 18])
def test_the_turned_pork_comes_back_to_one_place(number):
    if "MEDP2P_REAL_DATA" not in os.environ:
        pytest.skip("MEDP2P_REAL_DATA names no folder of real scans")
    folder = Path(os.environ["MEDP2P_REAL_DATA"]) / "pork_t2_ct"
    mr, ct = read_volume(folder / "mr.nii.gz"), read_volume(folder / "ct.nii.gz")
    mask = read_volume(folder / "mask.nii.gz").array > 0
    true = displacement(Rotation.create_group("O")[number], (25, -40, 10))
    found = register(mr, displaced(ct, true), mask, mask, RIGID, seed=0)
    assert error_mm(found, true, mr, mask) < 1.5
    bone = mask & (ct.array > 250)
    assert error_mm(found, true, mr, bone) < 1.5
