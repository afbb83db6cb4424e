import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from medp2p.batch import Batch
from medp2p.config import DiscriminatorSettings, GeneratorSettings, Pix2PixSettings
from medp2p.methods import build_generator, build_method
from medp2p.methods.base import Method, learning_rate_factor


def settings(norm: str = "instance", dropout: float = 0.5, **options: Any) -> Pix2PixSettings:
    return Pix2PixSettings(
        generator=GeneratorSettings.model_validate(
            {"levels": 4, "channels": 8, "norm": norm, "dropout": dropout}
        ),
        discriminator=DiscriminatorSettings.model_validate(
            {"channels": 8, "layers": 2, "norm": norm}
        ),
        **options,
    )


def toy_batch(seed: int = 0, count: int = 4, channels: int = 1) -> Batch:
    """The target is the negative of the source's middle channel, inside a square body."""
    torch.manual_seed(seed)
    coarse = torch.rand(count, channels, 4, 4) * 2 - 1
    source = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="nearest")
    mask = torch.zeros(count, 1, 32, 32)
    mask[..., 4:28, 4:28] = 1
    return Batch(source, -0.8 * source[:, channels // 2 : channels // 2 + 1], mask)


def ready(options: Pix2PixSettings, precision: str = "32-true", channels: int = 1) -> Method:
    torch.manual_seed(0)
    method = build_method(options, channels, 1)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]
    method.setup(fabric)
    return method


def train(method: Method, steps: range) -> list[dict[str, Tensor]]:
    losses = []
    for step in steps:
        batch = toy_batch(step)
        torch.manual_seed(step)
        losses.append(method.training_step(batch))
    return losses


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("loss", ["bce", "least_squares"])
def test_training_brings_the_prediction_to_the_target(norm: str, loss: str, precision: str) -> None:
    options = settings(norm, dropout=0.0, adversarial_loss=loss, learning_rate=2e-3)
    method = ready(options, precision)
    losses = train(method, range(40))
    assert set(losses[0]) == {"discriminator_real", "discriminator_fake", "adversarial", "l1"}
    assert all(value.dtype == torch.float32 for value in losses[0].values())
    assert not any(value.requires_grad for value in losses[0].values())
    assert losses[-1]["l1"] < 0.5 * losses[0]["l1"]


def test_masked_l1_ignores_what_lies_outside_the_body() -> None:
    options = settings(masked_l1=True, adversarial_weight=0.0, dropout=0.0)
    inside, outside = ready(options), ready(options)
    batch = toy_batch()
    elsewhere = Batch(batch.source, batch.target + 5 * (1 - batch.mask), batch.mask)
    assert inside.training_step(batch)["l1"] == outside.training_step(elsewhere)["l1"]
    states = inside.generator_state(), outside.generator_state()
    assert all(torch.equal(a, b) for a, b in zip(*map(dict.values, states), strict=True))
    unmasked = ready(settings(adversarial_weight=0.0, dropout=0.0))
    assert unmasked.training_step(elsewhere)["l1"] != unmasked.training_step(batch)["l1"]


def test_several_source_channels() -> None:
    method = ready(settings(), channels=3)
    batch = toy_batch(channels=3)
    assert all(torch.isfinite(value) for value in method.training_step(batch).values())
    assert method.translate(batch.source).shape == (4, 1, 32, 32)


def test_translation_has_no_dropout_and_leaves_training_mode_on() -> None:
    method = ready(settings("batch"))
    train(method, range(3))
    source = toy_batch().source
    assert torch.equal(method.translate(source), method.translate(source))
    generator = method.networks["generator"]
    assert generator.training
    assert not torch.equal(generator(source), generator(source))


def test_discriminator_is_trainable_again_after_a_step() -> None:
    method = ready(settings())
    before = [p.detach().clone() for p in method.networks["discriminator"].parameters()]
    train(method, range(2))
    after = list(method.networks["discriminator"].parameters())
    assert all(parameter.requires_grad for parameter in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_resumed_training_is_equal_bit_for_bit(norm: str) -> None:
    whole = ready(settings(norm))
    train(whole, range(5))

    first = ready(settings(norm))
    train(first, range(2))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = ready(settings(norm))
    second.load_state_dict(torch.load(file, weights_only=True))
    train(second, range(2, 5))

    assert_same(whole.state_dict(), second.state_dict())


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def test_generator_state_is_what_translation_loads() -> None:
    method = ready(settings("batch"))
    train(method, range(2))
    generator = build_generator(settings("batch"), 1, 1)
    generator.load_state_dict(method.generator_state())
    source = toy_batch().source
    with torch.inference_mode():
        torch.testing.assert_close(generator.eval()(source), method.translate(source))


def test_learning_rate_is_constant_and_then_falls_as_in_the_original() -> None:
    # networks.get_scheduler of pytorch-CycleGAN-and-pix2pix at 2a7afba with n_epochs 3,
    # n_epochs_decay 4, epoch_count 1: the rate of each epoch over the initial one.
    recorded = [1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]
    assert [learning_rate_factor(e, 3, 4) for e in range(7)] == pytest.approx(recorded)
    assert [learning_rate_factor(e, 3, 0) for e in range(3)] == [1.0, 1.0, 1.0]


def test_learning_rate_factor_applies_to_the_initial_rate() -> None:
    method = ready(settings(learning_rate=1e-3))
    method.set_learning_rate_factor(0.5)
    method.set_learning_rate_factor(0.25)
    rates = [group["lr"] for o in method.optimizers.values() for group in o.param_groups]
    assert rates == [2.5e-4, 2.5e-4]


TRANSLATION_ONLY = """
import sys
from medp2p.config import Pix2PixSettings, GeneratorSettings
from medp2p.methods import build_generator
from medp2p.networks.inference import prepare_for_inference
settings = Pix2PixSettings(generator=GeneratorSettings(levels=3, channels=4))
prepare_for_inference(
    build_generator(settings, 1, 1), per_batch_statistics=False, precision="fp32"
)
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"monai", "lightning_fabric", "lightning", "pytorch_lightning"}, loaded
"""


def test_building_a_generator_loads_neither_monai_nor_lightning() -> None:
    subprocess.run([sys.executable, "-c", TRANSLATION_ONLY], check=True)


PROCESSES = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
sys.path.insert(0, sys.argv[1])
from test_pix2pix import train_with_sgd
torch.set_num_threads(1)
strategy = DDPStrategy(broadcast_buffers=False, process_group_backend="gloo")
fabric = Fabric(accelerator="cpu", devices=2, strategy=strategy)
fabric.launch()
rank = fabric.global_rank
for norm in ("instance", "batch"):
    networks = train_with_sgd(fabric, norm, slice(2 * rank, 2 * rank + 2))
    torch.save(networks, f"{sys.argv[2]}/{norm}{rank}.pt")
"""


def train_with_sgd(fabric: Fabric, norm: str, part: slice) -> dict[str, dict[str, Tensor]]:
    """Three steps on a part of each batch; Adam would blow up differences of rounding."""
    torch.manual_seed(0)
    method = build_method(settings(norm, dropout=0.0), 1, 1)
    for name, network in method.networks.items():
        method.optimizers[name] = torch.optim.SGD(network.parameters(), lr=0.01)
    method.setup(fabric)
    for step in range(3):
        batch = toy_batch(step)
        method.training_step(Batch(batch.source[part], batch.target[part], batch.mask[part]))
    return {name: network.state_dict() for name, network in method.networks.items()}


def test_two_processes_train_as_one_with_the_whole_batch(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PROCESSES)
    subprocess.run(
        [sys.executable, str(script), str(Path(__file__).parent), str(tmp_path)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=120,
    )
    first, second = (torch.load(tmp_path / f"instance{n}.pt", weights_only=True) for n in (0, 1))
    assert_same(first, second)
    fabric = Fabric(accelerator="cpu", devices=1)
    alone = train_with_sgd(fabric, "instance", slice(None))
    half = train_with_sgd(fabric, "instance", slice(0, 2))
    for name, network in alone.items():
        for key, value in network.items():
            torch.testing.assert_close(first[name][key], value, atol=1e-6, rtol=1e-4)
    weight = "encoder.2.0.weight"
    trained_on_half = half["generator"][weight]
    assert (first["generator"][weight] - trained_on_half).abs().max() > 1e-4

    # Batch norm's statistics are each process's own; weights are common all the same.
    first, second = (torch.load(tmp_path / f"batch{n}.pt", weights_only=True) for n in (0, 1))
    for name, network in first.items():
        for key, value in network.items():
            if not key.endswith(("running_mean", "running_var")):
                assert torch.equal(value, second[name][key])
