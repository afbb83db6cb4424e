"""Are medp2p's pix2pix and the original's the same function, and do they train alike?

    python benchmarks/pix2pix_parity.py --original PATH_OF_A_CHECKOUT

Compares parameter counts, outputs with the same weights (random, and after a short training
by the original's own code), losses and weights after the same training steps, and the
learning-rate schedule. Exits with 1 if anything differs by more than its tolerance.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import math
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from lightning_fabric import Fabric
from original_pix2pix import Original, discriminator_state, structured_pairs, train_step
from torch import Tensor, nn

from medp2p.batch import Batch
from medp2p.config import DiscriminatorSettings, GeneratorSettings, Pix2PixSettings
from medp2p.methods import build_method
from medp2p.methods.base import learning_rate_factor
from medp2p.networks.inference import prepare_for_inference
from medp2p.networks.patchgan import PatchDiscriminator
from medp2p.networks.unet import UNetGenerator
from medp2p.pix2pix_import import convert_generator_state, read_original_state

TOLERANCE = 1e-5
"""Of outputs in [-1, 1], of logits, and of losses relative to their size."""

Check = tuple[str, float, float]
"""What was compared, the largest difference, and the tolerance."""


def main() -> None:
    """Run every comparison and print it as a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--original", type=Path, required=True)
    parser.add_argument("--training-steps", type=int, default=20, help="of the short training")
    parser.add_argument("--record", action="store_true", help="print the values of the tests")
    options = parser.parse_args()
    original = Original(options.original)
    if options.record:
        print_recorded_values(original)
        return
    torch.manual_seed(0)
    failed = 0
    for what, difference, tolerance in all_checks(original, options.training_steps):
        good = difference <= tolerance
        failed += not good
        print(f"{'same  ' if good else 'DIFFER'} {what:<66} {difference:.1e}", flush=True)
    sys.exit(1 if failed else 0)


def all_checks(original: Original, training_steps: int) -> Iterator[Check]:
    """Every comparison in turn."""
    yield from check_parameter_counts(original)
    for norm in ("batch", "instance"):
        for name, size in (("unet_256", 256), ("unet_128", 128)):
            yield from check_random_generator(original, name, norm, size)
        yield from check_discriminator(original, norm)
    yield from check_trained(original, training_steps)
    yield from check_training_steps(original, "gradient descent", 3, TOLERANCE)
    yield from check_training_steps(original, "Adam", 3, 1e-3)
    yield check_schedule(original)


def check_parameter_counts(original: Original) -> Iterator[Check]:
    """The published numbers of parameters, on both sides."""
    pairs = (
        ("unet_256 parameters", 54_407_809, original.generator(), UNetGenerator(1, 1)),
        ("PatchGAN parameters", 2_764_609, original.discriminator(), PatchDiscriminator(2)),
    )
    for name, expected, theirs, ours in pairs:
        counts = [sum(p.numel() for p in network.parameters()) for network in (theirs, ours)]
        yield f"{name} ({expected})", max(abs(n - expected) for n in counts), 0


def check_random_generator(original: Original, name: str, norm: str, size: int) -> Iterator[Check]:
    """Random weights, with running statistics that are not their defaults either."""
    theirs = original.generator(name, norm)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    ours = converted(theirs.state_dict())
    source = torch.rand(1, 1, size, size) * 2 - 1
    yield from compare_generators(f"{name}, {norm} norm, random weights", theirs, ours, source)


def check_discriminator(original: Original, norm: str) -> Iterator[Check]:
    """Random weights, training and evaluation mode."""
    theirs = original.discriminator(norm)
    ours = PatchDiscriminator(2, norm="batch" if norm == "batch" else "instance")
    ours.load_state_dict(discriminator_state(theirs, ours))
    pair = torch.rand(2, 2, 256, 256) * 2 - 1
    for training in (True, False):
        mode = "training mode" if training else "eval()"
        difference = largest(theirs.train(training)(pair), ours.train(training)(pair))
        yield f"PatchGAN, {norm} norm, random weights, {mode}", difference, TOLERANCE


def check_trained(original: Original, steps: int) -> Iterator[Check]:
    """Weights that the original's code trained and saved, read from its files."""
    with tempfile.TemporaryDirectory() as folder:
        model = original.model(torch.device("cpu"), Path(folder))
        source, target = structured_pairs(steps)
        for step in range(steps):
            train_step(model, source[step : step + 1], target[step : step + 1])
        model.save_networks("latest")
        ours = converted(read_original_state(Path(folder) / "latest_net_G.pth"))
    what = f"unet_256, batch norm, trained {steps} steps"
    yield from compare_generators(what, model.netG, ours, structured_pairs(1, seed=1)[0])
    discriminator = PatchDiscriminator(2)
    discriminator.load_state_dict(discriminator_state(model.netD, discriminator))
    pair = torch.cat([source[:2], target[:2]], dim=1)
    difference = largest(model.netD.eval()(pair), discriminator.eval()(pair))
    yield f"PatchGAN, batch norm, trained {steps} steps, eval()", difference, TOLERANCE


def check_training_steps(
    original: Original, optimizer: str, steps: int, loss_tolerance: float
) -> Iterator[Check]:
    """The same initial weights and batches, dropout off, both sides' own training step.

    Adam moves a weight by its learning rate whatever the size of the gradient, in a direction
    that rounding decides where the gradient is next to zero. So weights are compared after
    plain gradient descent, as a share of the way that they went.
    """
    theirs = original.model(torch.device("cpu"), dropout=False)
    settings = Pix2PixSettings(
        generator=GeneratorSettings(norm="batch", dropout=0.0),
        discriminator=DiscriminatorSettings(norm="batch"),
    )
    ours = build_method(settings, 1, 1)
    generator, discriminator = ours.networks["generator"], ours.networks["discriminator"]
    initial = {
        "generator": converted_state(theirs.netG.state_dict()),
        "discriminator": discriminator_state(theirs.netD, discriminator),
    }
    initial["discriminator"] = {k: v.clone() for k, v in initial["discriminator"].items()}
    for name, network in ours.networks.items():
        network.load_state_dict(initial[name])
    if optimizer == "gradient descent":
        for name, network in ours.networks.items():
            ours.optimizers[name] = torch.optim.SGD(network.parameters(), lr=1e-4)
        theirs.optimizer_G = torch.optim.SGD(theirs.netG.parameters(), lr=1e-4)
        theirs.optimizer_D = torch.optim.SGD(theirs.netD.parameters(), lr=1e-4)
    ours.setup(Fabric(accelerator="cpu", devices=1))
    source, target = structured_pairs(2 * steps)
    for step in range(steps):
        part = slice(2 * step, 2 * step + 2)
        expected = train_step(theirs, source[part], target[part])
        batch = Batch(source[part], target[part], torch.ones_like(target[part]))
        found = ours.training_step(batch)
        differences = [abs(found[k].item() - v) / max(abs(v), 1) for k, v in expected.items()]
        yield f"losses of step {step + 1}, {optimizer}", max(differences), loss_tolerance
    if optimizer == "gradient descent":
        final = {
            "generator": converted_state(theirs.netG.state_dict()),
            "discriminator": discriminator_state(theirs.netD, discriminator),
        }
        for name, network in (("generator", generator), ("discriminator", discriminator)):
            way = largest_over(final[name], initial[name])
            difference = largest_over(final[name], network.state_dict()) / way
            yield f"{name} weights after {steps} steps, share of the way", difference, 1e-2


def largest_over(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference of any weight."""
    return max(largest(a[name], b[name]) for name in a if name.endswith("weight"))


def check_schedule(original: Original) -> Check:
    """Learning rates of all epochs of the original's default schedule."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=1.0)
    options = argparse.Namespace(
        lr_policy="linear", epoch_count=1, n_epochs=100, n_epochs_decay=100
    )
    with contextlib.redirect_stdout(io.StringIO()):
        scheduler = original.networks.get_scheduler(optimizer, options)
    differences = []
    for epoch in range(200):
        rate = optimizer.param_groups[0]["lr"]
        differences.append(abs(rate - learning_rate_factor(epoch, 100, 100)))
        optimizer.step()
        scheduler.step()
    return "learning rates of 100 + 100 epochs", max(differences), 1e-12


def compare_generators(
    what: str, theirs: nn.Module, ours: UNetGenerator, source: Tensor
) -> Iterator[Check]:
    """Plain and prepared network, each way in which the original's test script can run."""
    with torch.inference_mode():
        expected = theirs.eval()(source.clone())
        yield f"{what}, eval()", largest(expected, ours.eval()(source)), TOLERANCE
        yield (
            f"{what}, eval(), prepared",
            largest(expected, prepared(ours, False, source)),
            TOLERANCE,
        )

        torch.manual_seed(1)
        expected = theirs.train()(source.clone())
        torch.manual_seed(1)
        yield f"{what}, test default", largest(expected, ours.train()(source)), TOLERANCE

        for network in (theirs, ours):
            for module in network.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        expected = theirs.train()(source.clone())
        yield f"{what}, --no_dropout", largest(expected, ours.train()(source)), TOLERANCE
        found = prepared(ours, True, source)
        yield f"{what}, --no_dropout, prepared", largest(expected, found), TOLERANCE


def print_recorded_values(original: Original) -> None:
    """Outputs of small networks of the original's classes with weights from a formula.

    tests/test_pix2pix_import.py holds them and repeats `fill_by_formula`.
    """
    norms = {
        "batch": nn.BatchNorm2d,
        "instance": functools.partial(nn.InstanceNorm2d, affine=False, track_running_stats=False),
    }
    for levels, channels, norm in ((5, 4, "batch"), (7, 2, "batch"), (5, 4, "instance")):
        network = original.networks.UnetGenerator(1, 1, levels, channels, norms[norm])
        print_samples((levels, channels, norm), network, formula_images(1, 2 * 2**levels))
    for norm in ("batch", "instance"):
        network = original.networks.NLayerDiscriminator(2, 4, 3, norms[norm])
        print_samples(("discriminator", norm), network, formula_images(2, 64))


def print_samples(what: tuple[object, ...], network: nn.Module, source: Tensor) -> None:
    """Five pixels of the output in evaluation and in training mode."""
    fill_by_formula(network.state_dict())
    for training in (False, True):
        with torch.inference_mode():
            output = network.train(training)(source.clone())[0, 0].flatten()
        samples = output[:: len(output) // 5][:5].tolist()
        print(f"    {(*what, training)}: {[round(value, 7) for value in samples]},")


def fill_by_formula(state: dict[str, Tensor]) -> None:
    """Weights that depend on names and shapes alone, on no random generator."""
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        frequency = 0.618 * (1 + zlib.crc32(name.encode()) % 1000)
        wave = torch.arange(1, tensor.numel() + 1, dtype=torch.float64).mul(frequency).sin()
        if tensor.ndim == 4:
            wave *= 0.5 / math.sqrt(max(tensor.shape[:2]))
        elif name.endswith(("weight", "running_var")):
            wave = 1 + 0.3 * wave
        else:
            wave *= 0.1
        tensor.copy_(wave.reshape(tensor.shape))


def formula_images(channels: int, size: int) -> Tensor:
    """One image with values in [-1, 1]."""
    index = torch.arange(channels * size * size, dtype=torch.float64)
    return (0.01 * index + 1e-5 * index**2).sin().float().reshape(1, channels, size, size)


def prepared(ours: UNetGenerator, per_batch_statistics: bool, source: Tensor) -> Tensor:
    """What medp2p's translation computes in float32."""
    network = prepare_for_inference(
        ours, per_batch_statistics=per_batch_statistics, precision="fp32"
    )
    prediction: Tensor = network(source)
    return prediction


def converted_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the original's generator weights by our names."""
    return {name: value.clone() for name, value in convert_generator_state(state)[3].items()}


def converted(state: dict[str, Tensor]) -> UNetGenerator:
    """Our generator with the original's weights."""
    settings, in_channels, out_channels, _ = convert_generator_state(state)
    generator = UNetGenerator(
        in_channels, out_channels, settings.levels, settings.channels, settings.norm
    )
    generator.load_state_dict(converted_state(state))
    return generator


def largest(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference."""
    return (a - b).abs().max().item()


if __name__ == "__main__":
    main()
