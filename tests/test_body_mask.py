from __future__ import annotations

import itertools
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import oblique_affine
from scipy import ndimage
from scipy.spatial.transform import Rotation
from skimage.filters import threshold_li

from medp2p.body import _li_threshold
from medp2p.io import read_volume
from medp2p.phantom import make_phantom
from medp2p.phantom.couch import Couch
from medp2p.preprocessing import body_mask
from medp2p.volume import Volume

REAL_DATA = os.environ.get("MEDP2P_REAL_DATA")


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * np.sum(found & truth) / (found.sum() + truth.sum())


def body_on_a_couch(
    affine: np.ndarray, shape=(80, 80, 40), side: int = 1
) -> tuple[Volume, np.ndarray]:
    """An ellipsoid with an air-filled hole in a trough of plastic that touches it, over a couch.

    ``side`` is +1 where the couch lies towards -y, -1 where it lies towards +y.
    """
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    x, y, z = np.moveaxis(index @ affine[:3, :3].T + affine[:3, 3] - middle, -1, 0)
    y = side * y
    body = (x / 45) ** 2 + (y / 50) ** 2 + (z / 90) ** 2 < 1
    hole = (x / 9) ** 2 + (y / 9) ** 2 + (z / 30) ** 2 < 1
    ring = np.hypot(x / 50, (y + 4) / 50) * 50
    trough = (ring > 50) & (ring < 54) & (y < 10)
    couch = (y < -62) & (y > -65)
    hu = np.select([hole, body, trough, couch], [-1000, 40, 0, -80], -1000)
    noise = np.random.default_rng(0).normal(0, 15, shape)
    return Volume((hu + noise).astype(np.int16), affine), body


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("spacing", [(1.7, 1.7, 3.0), (2.0, 2.0, 5.0)])
def test_couch_and_head_holder_are_no_body(spacing, side):
    volume, body = body_on_a_couch(np.diag([*spacing, 1.0]), side=side)
    found = body_mask(volume, "CT")
    assert dice(found, body) > 0.98
    assert found[40, 40, 20]  # the air inside belongs to the body


def test_a_couch_on_an_oblique_grid_is_no_body():
    volume, body = body_on_a_couch(oblique_affine((1.7, 1.7, 3.0)))
    assert dice(body_mask(volume, "CT"), body) > 0.98


def test_a_body_that_the_border_cuts_is_found_up_to_the_border():
    volume, body = body_on_a_couch(np.diag([1.7, 1.7, 3.0, 1.0]))
    part = np.s_[:, 30:, 12:28]
    cut = Volume(volume.array[part], volume.affine)
    found = body_mask(cut, "CT")
    assert dice(found, body[part]) > 0.98
    assert found[40, 5, 0]
    assert found[40, 5, -1]


def test_two_legs_are_both_body():
    shape = (90, 50, 30)
    x, y, _ = np.meshgrid(*[np.arange(n) * 2.0 for n in shape], indexing="ij")
    legs = (np.hypot(x - 45, y - 50) < 38) | (np.hypot(x - 132, y - 50) < 38)
    volume = Volume(np.where(legs, 30, -1000).astype(np.int16), np.diag([2.0, 2.0, 2.0, 1.0]))
    assert dice(body_mask(volume, "CT"), legs) > 0.98


@pytest.mark.parametrize("outside", [-1024, -2000, -3024, -32768])
def test_a_masked_ct_is_found_as_it_is(outside):
    volume, body = body_on_a_couch(np.diag([1.7, 1.7, 3.0, 1.0]))
    masked = volume.with_array(np.where(body, volume.array, outside).astype(np.int16))
    assert dice(body_mask(masked, "CT"), body) > 0.98


def test_a_masked_mr_is_found_as_it_is():
    rng = np.random.default_rng(0)
    shape = (60, 70, 50)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    brain = np.linalg.norm((index - np.array([30, 35, 25])) / [22, 28, 20], axis=-1) < 1
    mr = np.where(brain, rng.normal(400, 80, shape).clip(50), 0).astype(np.float32)
    assert dice(body_mask(Volume(mr, np.eye(4)), "MR"), brain) > 0.98


def test_noise_and_a_ghost_are_no_body():
    rng = np.random.default_rng(0)
    shape = (90, 90, 30)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    radius = np.linalg.norm((index - np.array([45, 45, 15])) / [25, 30, 14], axis=-1)
    body = radius < 1
    bone = (radius > 0.8) & (radius < 0.9)
    mr = np.select([bone, body], [40, 300], 0.0)
    mr += 0.08 * np.roll(mr, 40, axis=1)
    mr = np.hypot(mr + rng.normal(0, 12, shape), rng.normal(0, 12, shape)).astype(np.float32)
    assert dice(body_mask(Volume(mr, np.diag([2.0, 2.0, 3.0, 1.0])), "MR"), body) > 0.97


@pytest.mark.slow
@pytest.mark.parametrize(
    ("anatomy", "turn"),
    [("head", (0, 0, 0)), ("head", (0, 0, 180)), ("pelvis", (0, 0, 0)), ("pelvis", (0, 0, 90))],
)
def test_phantoms_on_a_couch(anatomy, turn):
    axes = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    for seed in (1, 2):
        phantom = make_phantom(anatomy, seed, couch=Couch(axes, head_holder=anatomy == "head"))
        truth = phantom.mask.array > 0
        assert dice(body_mask(phantom.ct, "CT"), truth) >= 0.98
        assert dice(body_mask(phantom.mr["t1"], "MR"), truth) >= 0.98


@pytest.mark.real_data
@pytest.mark.skipif(REAL_DATA is None, reason="MEDP2P_REAL_DATA names no folder")
def test_a_real_specimen_in_its_tray():
    folder = Path(REAL_DATA or "") / "pork_t2_ct"
    truth = read_volume(folder / "mask.nii.gz").array > 0
    assert dice(body_mask(read_volume(folder / "ct.nii.gz"), "CT"), truth) >= 0.97
    assert dice(body_mask(read_volume(folder / "mr.nii.gz"), "MR"), truth) >= 0.95


@pytest.mark.real_data
@pytest.mark.skipif(REAL_DATA is None, reason="MEDP2P_REAL_DATA names no folder")
def test_a_real_extracted_brain():
    folder = Path(REAL_DATA or "") / "stroke_t1_t2_flair"
    for path in sorted(folder.glob("*.nii*")):
        volume = read_volume(path)
        if volume.array.max() <= 1:
            continue
        brain = ndimage.binary_fill_holes(volume.array > 0)
        assert dice(body_mask(volume, "MR"), brain) > 0.97, path.name


def swings(values: np.ndarray, thresholds: int = 300) -> bool:
    """Whether Li's iteration, in the precision of the values, does not end after so many steps."""
    steps = itertools.count(1)

    def stop(_threshold: float) -> None:
        if next(steps) == thresholds:
            raise TimeoutError

    try:
        threshold_li(values.copy(), iter_callback=stop)
    except TimeoutError:
        return True
    return False


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Fail instead of waiting for ever."""

    def fail(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_the_threshold_is_found_where_single_precision_swings_for_ever():
    """Of two means that are nearly equal float32 tells the logarithms apart to few digits."""
    images = []
    for seed in range(5):
        values = (4000 + np.random.default_rng(seed).uniform(-5, 5, 20_000)).astype(np.float32)
        values[0] = 0
        images.append(values)
    assert any(map(swings, images))
    for values in images:
        with interrupted_after(seconds=20):
            found = _li_threshold(values)
        parts = values[values > found], values[values <= found]
        above, below = (float(part.mean(dtype=np.float64)) for part in parts)
        assert found == pytest.approx((above - below) / math.log(above / below), abs=0.01)
