from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from medp2p.augmentation import augment
from medp2p.batch import Batch
from medp2p.config import AugmentationSettings

STILL = AugmentationSettings(
    flip=False, rotation_degrees=0, scale=0, shift=0, intensity_scale=0, intensity_shift=0, gamma=0
)


def make_batch(count: int = 16, rows: int = 24, columns: int = 40) -> Batch:
    rng = torch.Generator().manual_seed(0)
    target = torch.rand(count, 1, rows, columns, generator=rng) * 2 - 1
    mask = torch.zeros_like(target)
    mask[:, :, 6:18, 10:30] = 1
    return Batch(target.repeat(1, 2, 1, 1), target, mask)


def change(settings: dict, batch: Batch | None = None) -> Batch:
    batch = batch or make_batch()
    chosen = STILL.model_copy(update=settings)
    return augment(batch, chosen, torch.Generator().manual_seed(3))


def test_nothing_asked_nothing_changed():
    batch = make_batch()
    same = change({}, batch)
    for a, b in zip(batch, same, strict=True):
        torch.testing.assert_close(a, b)


def test_a_flip_mirrors_columns_of_about_half_the_samples():
    batch = make_batch()
    flipped = change({"flip": True}, batch)
    mirrored = [
        torch.allclose(new, old.flip(-1), atol=1e-5)
        for old, new in zip(batch.target, flipped.target, strict=True)
    ]
    kept = [
        torch.allclose(new, old, atol=1e-5)
        for old, new in zip(batch.target, flipped.target, strict=True)
    ]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 3 <= sum(mirrored) <= 13


def test_source_target_and_mask_move_together():
    moved = change({"flip": True, "rotation_degrees": 20, "scale": 0.2, "shift": 0.1})
    torch.testing.assert_close(moved.source[:, 0], moved.target[:, 0])
    assert set(moved.mask.unique().tolist()) == {0.0, 1.0}
    assert not torch.allclose(moved.target, make_batch().target)


def test_rotation_keeps_shapes_of_slices_that_are_not_square():
    rows, columns = 31, 61
    target = -torch.ones(8, 1, rows, columns)
    y, x = np.mgrid[:rows, :columns]
    disc = np.hypot(y - 15, x - 30) < 10
    target[:, 0][:, torch.from_numpy(disc)] = 1
    batch = Batch(target, target, (target > 0).float())
    moved = change({"rotation_degrees": 45}, batch)
    for image in moved.target[:, 0].numpy():
        np.testing.assert_allclose(ndimage.center_of_mass(image + 1), (15, 30), atol=0.1)
        overlap = (image > 0) & disc
        assert 2 * overlap.sum() / ((image > 0).sum() + disc.sum()) > 0.95


def test_what_comes_in_from_outside_is_background():
    batch = make_batch()
    moved = change({"shift": 0.3}, batch)
    assert moved.target.min() >= -1
    assert (moved.target == -1).any()
    assert torch.all(moved.mask[:, :, 0, 0] == 0)


def test_intensity_changes_touch_the_source_alone_and_keep_background():
    batch = make_batch()
    batch.source[:, :, :4] = -1
    changed = change({"gamma": 0.3, "intensity_scale": 0.2, "intensity_shift": 0.2}, batch)
    assert torch.equal(changed.target, batch.target)
    assert not torch.allclose(changed.source[:, :, 5:], batch.source[:, :, 5:])
    torch.testing.assert_close(changed.source[:, :, :4], batch.source[:, :, :4])


def test_the_generator_decides():
    torch.testing.assert_close(
        change({"flip": True, "gamma": 0.2}), change({"flip": True, "gamma": 0.2})
    )
