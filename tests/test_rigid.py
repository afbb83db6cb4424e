"""Known displacements of a body that is a formula, so that no interpolation made the truth."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import oblique_affine
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medp2p.alignment import Alignment, move_points
from medp2p.compared import ComparedImages, with_moved_prediction
from medp2p.errors import RegistrationError
from medp2p.evaluation.rigid import SMALLEST_VOXELS, find_alignment
from medp2p.phantom import make_phantom
from medp2p.volume import Grid, Volume

SHAPE = (60, 56, 44)
STRAIGHT = np.diag([2.5, 2.5, 3.0, 1.0])
OBLIQUE = oblique_affine((2.5, 2.2, 3.5))
BALLS = (((25, 10, -12), 14, 700), ((-22, 18, 15), 11, 900), ((5, -25, 8), 12, -900))
"""Middle (mm from the body's), radius (mm) and difference in HU of bones and an air-filled hole."""


def centre_of(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return (affine @ [*((np.array(SHAPE) - 1) / 2), 1.0])[:3]


def body(points: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float32]:
    """CT numbers of an egg in air with three balls, edges about 3 mm wide."""
    local = points - centre
    wider = 1 + local[..., 1:2] / 300
    egg = np.linalg.norm(local / (52, 44, 40) * wider, axis=-1)
    values = -1000 + 1040 * inside_of((1 - egg) * 45)
    for middle, radius, hu in BALLS:
        values += hu * inside_of(radius - np.linalg.norm(local - middle, axis=-1))
    return values.astype(np.float32)


def inside_of(depth_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(depth_mm / 0.8, -50, 50)))


def scanned(affine: NDArray[np.float64], pose: NDArray[np.float64]) -> Volume:
    """The body as a scan that takes the world's points to ``pose @ points`` shows it."""
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    seen = np.linalg.inv(pose) @ affine
    points = index @ seen[:3, :3].T + seen[:3, 3]
    return Volume(body(points, centre_of(affine)), affine, modality="CT", units="HU")


def pose_of(affine, shift_mm, turn_degrees) -> NDArray[np.float64]:
    centre = centre_of(affine)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(np.deg2rad(turn_degrees)).as_matrix()
    pose[:3, 3] = centre + np.array(shift_mm) - pose[:3, :3] @ centre
    return pose


def damaged(volume: Volume, seed: int = 0) -> Volume:
    """As models fail: blurred, bone too soft, noisy, biased."""
    array = ndimage.gaussian_filter(volume.array, 0.8)
    array = np.where(array > 250, array - 120, array) + 15
    array = array + np.random.default_rng(seed).normal(0, 25, array.shape)
    return volume.with_array(array.astype(np.float32))


def apart_voxels(found, affine, mask, pose) -> float:
    """How far the found shift is from the true one at the mask's centre, in voxels."""
    points = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
    true = (move_points(points, Alignment(pose)) - points).mean(axis=0)
    return float(np.linalg.norm(np.linalg.inv(affine[:3, :3]) @ (found.shift_mm - true)))


@pytest.mark.parametrize(
    ("shift_mm", "turn_degrees"),
    [
        ((2.5, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((1.3, -2.2, 3.1), (0.0, 0.0, 0.0)),
        ((-0.6, 0.4, 0.5), (0.5, -0.4, 0.6)),
        ((-5.0, 6.0, -4.0), (3.0, -2.0, 4.0)),
    ],
)
@pytest.mark.parametrize(
    ("affine", "change"),
    [(STRAIGHT, lambda volume: volume), (OBLIQUE, damaged)],
    ids=["perfect", "damaged and oblique"],
)
def test_a_known_displacement_is_found_to_a_tenth_of_a_voxel(
    affine, shift_mm, turn_degrees, change
):
    reference = scanned(affine, np.eye(4))
    mask = reference.array > -500
    pose = pose_of(affine, shift_mm, turn_degrees)
    found = find_alignment(change(scanned(affine, pose)), reference, mask)
    assert found.moved
    assert apart_voxels(found, affine, mask, pose) < 0.1
    assert found.turn_degrees == pytest.approx(np.linalg.norm(turn_degrees), abs=0.2)
    assert found.correlation_after > found.correlation_before


def test_what_is_moved_back_fits():
    reference = scanned(STRAIGHT, np.eye(4))
    mask = reference.array > -500
    prediction = scanned(STRAIGHT, pose_of(STRAIGHT, (3.0, -2.0, 4.0), (1.0, 2.0, -1.0)))
    found = find_alignment(prediction, reference, mask)

    images = with_moved_prediction(
        ComparedImages(prediction, reference, mask), found.pose, outside=-1024
    )

    def mean_error(volume: Volume) -> float:
        return float(np.abs(volume.array - reference.array)[mask].mean())

    assert mean_error(images.prediction) < 0.2 * mean_error(prediction)
    assert images.prediction.grid.difference(reference.grid) is None
    assert "moved back (one linear interpolation)" in found.note


def test_voxels_that_the_prediction_does_not_cover_are_left_out():
    reference = scanned(STRAIGHT, np.eye(4))
    prediction = scanned(STRAIGHT, pose_of(STRAIGHT, (0.0, 0.0, 7.5), (0.0, 0.0, 0.0)))
    found = find_alignment(prediction, reference, reference.array > -500)
    images = ComparedImages(prediction, reference, None)
    seen = with_moved_prediction(images, found.pose, outside=-1024).inside
    assert not seen[:, :, -2:].any()
    assert seen[:, :, :-3].all()


@pytest.mark.parametrize("shift_mm", [(0.0, 0.0, 0.0), (0.1, 0.0, 0.1)])
def test_a_prediction_in_its_place_is_left_untouched(shift_mm):
    reference = scanned(STRAIGHT, np.eye(4))
    prediction = damaged(scanned(STRAIGHT, pose_of(STRAIGHT, shift_mm, (0.0, 0.0, 0.0))))
    found = find_alignment(prediction, reference, reference.array > -500)
    assert found.displacement_voxels < SMALLEST_VOXELS
    assert not found.moved
    np.testing.assert_array_equal(found.pose.matrix, np.eye(4))
    assert "left as it is, below 0.1 voxels" in found.note


def test_a_far_displacement_is_not_believed():
    reference = scanned(STRAIGHT, np.eye(4))
    prediction = scanned(STRAIGHT, pose_of(STRAIGHT, (0.0, 0.0, 0.0), (0.0, 0.0, 14.0)))
    found = find_alignment(prediction, reference, reference.array > -500)
    assert not found.moved
    np.testing.assert_array_equal(found.pose.matrix, np.eye(4))
    assert "not believed" in found.note


def test_the_same_seed_gives_the_same_bits():
    reference = scanned(OBLIQUE, np.eye(4))
    mask = reference.array > -500
    prediction = damaged(scanned(OBLIQUE, pose_of(OBLIQUE, (1.0, 2.0, -1.5), (1.0, 0.0, 0.5))))
    first, second = (find_alignment(prediction, reference, mask, seed=4) for _ in range(2))
    assert first.shift_mm == second.shift_mm
    np.testing.assert_array_equal(first.pose.matrix, second.pose.matrix)


def test_what_cannot_be_aligned():
    reference = scanned(STRAIGHT, np.eye(4))
    mask = reference.array > -500
    few = np.zeros(SHAPE, bool)
    few[30:33, 30:33, 20:22] = True
    with pytest.raises(RegistrationError, match="too few to be aligned"):
        find_alignment(reference, reference, few)
    with pytest.raises(RegistrationError, match="nothing can be aligned"):
        find_alignment(reference.with_array(np.zeros(SHAPE)), reference, mask)
    broken = reference.array.copy()
    broken[30, 30, 20] = np.nan
    with pytest.raises(RegistrationError, match="no numbers"):
        find_alignment(reference.with_array(broken), reference, mask)
    other = Volume(reference.array, STRAIGHT @ np.diag([1.1, 1, 1, 1]))
    with pytest.raises(ValueError, match="one grid"):
        find_alignment(other, reference, mask)
    with pytest.raises(ValueError, match="a mask of"):
        find_alignment(reference, reference, mask[1:])


@pytest.mark.slow
@pytest.mark.parametrize("anatomy", ["head", "pelvis"])
def test_damaged_predictions_of_phantoms(anatomy):
    """The phantom is scanned on a displaced grid, which interpolates nothing."""
    default = make_phantom(anatomy, 5, shape=(64, 64, 48)).ct.grid
    fixed = make_phantom(anatomy, 5, grid=default)
    middle = (default.affine @ [*((np.array(default.shape) - 1) / 2), 1.0])[:3]
    mask = fixed.mask.array > 0
    for shift_mm, degrees in (((0, 0, 0), 0.0), ((2.3, -1.7, 3.1), 0.0), ((1.0, -4.0, 2.0), 3.0)):
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_rotvec(np.deg2rad([degrees, 0, 0])).as_matrix()
        pose[:3, 3] = middle + shift_mm - pose[:3, :3] @ middle
        seen = Grid(default.shape, np.linalg.inv(pose) @ default.affine)
        other = make_phantom(anatomy, 5, grid=seen, scan=1).ct
        prediction = damaged(Volume(other.array.astype(np.float32), default.affine))
        found = find_alignment(prediction, fixed.ct, mask)
        assert apart_voxels(found, default.affine, mask, pose) < 0.1
        assert found.moved == (shift_mm != (0, 0, 0))
