"""What only a GPU can show: `python -m pytest -m gpu`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_pair

from medp2p.checkpoint import load_model
from medp2p.config import SliceSettings
from medp2p.dataset import SliceBatches
from medp2p.inference import make_translator
from medp2p.store import PreparedData
from medp2p.training import train
from medp2p.volume import Volume

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GPU = torch.device("cuda")


@pytest.mark.parametrize("memory_bytes", [float("inf"), 0], ids=["on the device", "on the host"])
def test_batches_are_those_of_the_cpu(prepared_folder, memory_bytes):
    data = PreparedData(prepared_folder)
    settings = SliceSettings(size=(32, 32), stack=3)
    cases = data.split("train")
    ours = SliceBatches(data, cases, settings, GPU, memory_bytes)
    expected = SliceBatches(data, cases, settings, torch.device("cpu"))
    picks = [0, 5, 2, 9]
    batch = ours.gather(picks, torch.Generator().manual_seed(1))
    reference = expected.gather(picks, torch.Generator().manual_seed(1))
    for found, wanted in zip(batch, reference, strict=True):
        assert found.device.type == "cuda"
        assert torch.equal(found.cpu(), wanted)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_learns_and_resumes(prepared_folder, tiny_config, tmp_path, precision):
    training = tiny_config.training.model_copy(update={"precision": precision, "epochs": 3})
    config = tiny_config.model_copy(update={"training": training})
    result = train(prepared_folder, tmp_path / "r", config, device="cuda")
    assert result.epochs == 4
    again = train(prepared_folder, tmp_path / "r", None, resume=True, device="cuda")
    assert again.epochs == 4


def test_translation_agrees_with_the_cpu(trained_run):
    model = load_model(trained_run / "model.safetensors")
    scan = Volume(make_pair(9)[0], np.diag([1.5, 1.5, 3.0, 1.0]))
    exact = make_translator(model, device="cpu", precision="fp32")(scan).array
    on_gpu = make_translator(model, device="cuda", precision="fp32")(scan).array
    fast = make_translator(model, device="cuda", precision="bf16")(scan).array
    assert np.abs(on_gpu - exact).mean() < 1
    assert np.abs(fast - exact).mean() < 25
