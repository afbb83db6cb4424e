"""Random changes of a whole training batch, made on its device in one step."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from medp2p.batch import Batch
from medp2p.config import AugmentationSettings


def augment(batch: Batch, settings: AugmentationSettings, generator: torch.Generator) -> Batch:
    """Mirror, turn, zoom and move each sample; change brightness and contrast of its source.

    Source, target and mask of a sample move together. Random numbers are drawn on the host, so
    that they are the same on every device.

    Args:
        batch: Slices as gathered.
        settings: How much.
        generator: A host generator.

    Returns:
        A batch of the same shapes; the mask stays 0/1.
    """
    source, target, mask = _move(batch, settings, generator)
    return Batch(_change_intensity(source, settings, generator), target, mask)


def _move(batch: Batch, settings: AugmentationSettings, generator: torch.Generator) -> Batch:
    matrices = _random_affines(batch.source.shape, settings, generator)
    if matrices is None:
        return batch
    matrices = matrices.to(batch.source.device, non_blocking=True)
    images = torch.cat([batch.source, batch.target, batch.mask], dim=1)
    background = torch.ones_like(images[:1, :, :1, :1])
    background[:, -1] = 0  # images have -1 around them, the mask 0
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images + background, grid, align_corners=False) - background
    channels = batch.source.shape[1]
    return Batch(moved[:, :channels], moved[:, channels:-1], (moved[:, -1:] > 0.5).float())


def _random_affines(
    shape: torch.Size, settings: AugmentationSettings, generator: torch.Generator
) -> Tensor | None:
    """(N, 2, 3) matrices for `affine_grid`, or None if nothing is to move."""
    if not (settings.flip or settings.rotation_degrees or settings.scale or settings.shift):
        return None
    count, _, rows, columns = shape
    angle = _uniform(count, math.radians(settings.rotation_degrees), generator)
    zoom = 1 + _uniform(count, settings.scale, generator)
    moves = [2 * _uniform(count, settings.shift, generator) for _ in range(2)]
    mirror = torch.ones(count)
    if settings.flip:
        mirror -= 2 * (torch.rand(count, generator=generator) < 0.5).float()
    cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    across = [cosine * mirror, -sine * rows / columns, moves[0]]
    down = [sine * mirror * columns / rows, cosine, moves[1]]
    return torch.stack([torch.stack(across, 1), torch.stack(down, 1)], 1)


def _change_intensity(
    source: Tensor, settings: AugmentationSettings, generator: torch.Generator
) -> Tensor:
    """Gamma, contrast and brightness of each sample's source, from -1 upwards."""
    count = len(source)
    gamma = 1 + _uniform(count, settings.gamma, generator)
    scale = 1 + _uniform(count, settings.intensity_scale, generator)
    shift = _uniform(count, settings.intensity_shift, generator)
    gamma, scale, shift = (
        v.view(-1, 1, 1, 1).to(source.device, non_blocking=True) for v in (gamma, scale, shift)
    )
    bright = ((source + 1) / 2).clamp_min(0) ** gamma
    return 2 * bright * scale - 1 + shift * (source > -1)


def _uniform(count: int, limit: float, generator: torch.Generator) -> Tensor:
    return (2 * torch.rand(count, generator=generator) - 1) * limit
