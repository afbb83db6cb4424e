"""How tiles are blended, and the statistics that a translated slice is normalized with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_pair

from medp2p.checkpoint import Model, ModelCard
from medp2p.config import Config, SliceSettings
from medp2p.inference import make_translator, predict_volume
from medp2p.methods import build_generator
from medp2p.volume import Volume

CPU = torch.device("cpu")


def first_pixel(slices: torch.Tensor) -> torch.Tensor:
    """A network whose whole tile is what the tile's first pixel says."""
    return slices[:, :, :1, :1].expand(-1, 1, *slices.shape[-2:])


def ramp(size: int, tile: int, axis: int) -> np.ndarray:
    """Rises in equal steps, across the overlap of a first and a last tile, from 0 to 1."""
    overlap = 2 * tile - size
    line = np.concatenate(
        [np.zeros(size - tile), np.arange(1, overlap + 1) / (overlap + 1), np.ones(size - tile)]
    )
    return np.expand_dims(line, 1 - axis)


@pytest.mark.parametrize("size", [24, 28])
@pytest.mark.parametrize("axis", [0, 1])
def test_two_tiles_are_blended_linearly(size, axis):
    shape = (size, 16) if axis == 0 else (16, size)
    unit = np.zeros((1, 1, *shape), np.float32)
    unit[..., size - 16 :, :] = 1 if axis == 0 else 0
    if axis == 1:
        unit[..., size - 16 :] = 1
    result = predict_volume(first_pixel, unit, SliceSettings(size=(16, 16)), CPU, 4)
    expected = np.broadcast_to(ramp(size, 16, axis), shape)
    np.testing.assert_allclose(result[0], expected, atol=1e-6)


def test_four_tiles_are_blended_linearly_along_both_axes():
    """Tiles of 16 × 24 on 28 × 40 pixels."""
    unit = np.zeros((1, 2, 28, 40), np.float32)
    unit[:, :, 12:] += 0.25
    unit[:, :, :, 16:] += 0.5
    result = predict_volume(first_pixel, unit, SliceSettings(size=(16, 24)), CPU, 1)
    expected = 0.25 * ramp(28, 16, 0) + 0.5 * ramp(40, 24, 1)
    for plane in result:
        np.testing.assert_allclose(plane, expected, atol=1e-6)


def batch_norm_model(statistics: str) -> Model:
    """A generator whose running statistics are far from those of any slice."""
    config = Config.model_validate(
        {
            "slices": {"size": [32, 32]},
            "preprocessing": {"spacing_mm": [None, None, None]},
            "method": {"generator": {"levels": 4, "channels": 8, "norm": "batch", "dropout": 0}},
        }
    )
    torch.manual_seed(0)
    generator = build_generator(config.method, 1, 1)
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.1, 3)
    card = ModelCard(config, ("mr",), (-1024.0, 3071.0), batch_norm=statistics)
    return Model(generator.eval(), card, "none")


def test_per_batch_statistics_are_those_of_each_slice_alone():
    """As the original pix2pix translates: training mode, one image at a time."""
    slices = torch.rand(5, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    results = {}
    for statistics in ("per_batch", "running"):
        model = batch_norm_model(statistics)
        translator = make_translator(model, device="cpu", precision="fp32")
        results[statistics] = translator.predict_slices(slices.clone())
        generator = model.generator.train(statistics == "per_batch")
        with torch.no_grad():
            expected = torch.cat([generator(one) for one in slices.clone().split(1)])
        torch.testing.assert_close(results[statistics], expected, atol=1e-4, rtol=1e-4)
    assert (results["per_batch"] - results["running"]).abs().mean() > 0.05


def test_a_card_s_batch_norm_decides_what_a_scan_becomes():
    scan = Volume(make_pair(3)[0], np.diag([1.5, 1.5, 3.0, 1.0]), modality="MR")
    hu = {}
    for statistics in ("per_batch", "running"):
        model = batch_norm_model(statistics)
        alone, together = (
            make_translator(model, device="cpu", precision="fp32", batch_size=size)(scan).array
            for size in (1, 16)
        )
        np.testing.assert_allclose(alone, together, atol=0.5)
        hu[statistics] = alone
    assert np.abs(hu["per_batch"] - hu["running"]).mean() > 20
