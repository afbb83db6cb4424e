"""How fast medp2p trains and translates, against the original pix2pix in the same run.

    python benchmarks/speed.py --original PATH_OF_A_CHECKOUT [--device cuda] [--batch 8]

Both sides have the unet_256 generator with batch norm and the basic PatchGAN, one channel,
256×256, and the same weights in translation, after a short training. They take turns, and
the median of all turns counts. The original runs as its train.py and test.py run it:
float32, test.py one image at a time in training mode (or with --eval, where it is given
whole batches here, which is more than it does).
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch: idle threads must not spin

import argparse
import json
import logging
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from original_pix2pix import Original, copy_generator, structured_pairs
from torch import Tensor

from medp2p.batch import Batch
from medp2p.checkpoint import BatchNorm, Model, ModelCard
from medp2p.config import Config, DiscriminatorSettings, GeneratorSettings, Pix2PixSettings
from medp2p.inference import make_translator
from medp2p.methods import build_generator, build_method
from medp2p.methods.base import Method
from medp2p.networks.inference import Precision, bf16_is_fast

SIZE = 256
HU_RANGE = (-1024.0, 3071.0)
PAIRS = 64
SETTINGS = Pix2PixSettings(
    generator=GeneratorSettings(norm="batch"), discriminator=DiscriminatorSettings(norm="batch")
)


def main() -> None:
    """Measure, print two tables, and write them as JSON if asked."""
    options = parse_options()
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(options.threads)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    torch.manual_seed(0)
    original = Original(options.original)
    pairs = tuple(part.to(device) for part in structured_pairs(PAIRS, SIZE))
    timer = Timer(device, options.repetitions, 1 if device.type == "cpu" else 20)

    print(describe(device))
    weights = train_briefly(device, pairs, options.batch, options.training_steps)
    training = measure_training(original, device, pairs, options.batch, timer)
    print_table(f"Training, batch {options.batch}", training)
    translation = measure_translation(original, device, weights, options.batch, timer)
    print_table(f"Translation, batch {options.batch}", translation)
    if options.json is not None:
        result = {
            "machine": describe(device),
            "batch": options.batch,
            "training": training,
            "translation": translation,
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--original", type=Path, required=True, help="checkout of the original")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--training-steps", type=int, default=100, help="before translation")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


class Timer:
    """Times functions in turn, so that a slower moment of the machine meets all of them."""

    def __init__(self, device: torch.device, repetitions: int, calls: int) -> None:
        self.device, self.repetitions, self.calls = device, repetitions, calls

    def seconds(self, functions: dict[str, Callable[[], object]]) -> dict[str, float]:
        """Median seconds of one call of each function."""
        for function in functions.values():
            self._time(function)
        turns: dict[str, list[float]] = {name: [] for name in functions}
        for _ in range(self.repetitions):
            for name, function in functions.items():
                turns[name].append(self._time(function))
        return {name: statistics.median(times) for name, times in turns.items()}

    def _time(self, function: Callable[[], object]) -> float:
        self._wait()
        begin = time.perf_counter()
        for _ in range(self.calls):
            function()
        self._wait()
        return (time.perf_counter() - begin) / self.calls

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def train_briefly(
    device: torch.device, pairs: Sequence[Tensor], batch: int, steps: int
) -> dict[str, Tensor]:
    """Weights of our generator that know a little of the task."""
    method = our_method(device, "bf16" if bf16_is_fast(device) else "fp32")
    losses: dict[str, Tensor] = {}
    for _ in range(steps):
        chosen = torch.randint(PAIRS, (batch,), device=device)
        losses = method.training_step(paired(pairs[0][chosen], pairs[1][chosen]))
    reached = f", L1 {losses['l1'].item():.3f}" if losses else ""
    print(f"trained {steps} steps for the weights of the translation{reached}", flush=True)
    return {name: value.cpu() for name, value in method.generator_state().items()}


def measure_training(
    original: Original,
    device: torch.device,
    pairs: Sequence[Tensor],
    batch: int,
    timer: Timer,
) -> list[dict[str, Any]]:
    """Images per second of one whole training step."""
    source, target = pairs[0][:batch], pairs[1][:batch]
    theirs = original.model(device)

    def original_step() -> None:
        theirs.set_input({"A": source, "B": target, "A_paths": [], "B_paths": []})
        theirs.optimize_parameters()

    functions: dict[str, Callable[[], object]] = {"original, float32": original_step}
    for precision in precisions(device):
        method = our_method(device, precision)
        functions[f"medp2p, {precision}"] = training_step_of(method, paired(source, target))
    return as_rows(timer.seconds(functions), batch, "original, float32")


def measure_translation(
    original: Original,
    device: torch.device,
    weights: dict[str, Tensor],
    batch: int,
    timer: Timer,
) -> list[dict[str, Any]]:
    """Images per second of translating a batch, and the error of each way in HU."""
    source = structured_pairs(batch, SIZE, seed=1)[0].to(device)
    network = original.generator().to(device)
    copy_generator({name: value.to(device) for name, value in weights.items()}, network)

    def original_eval() -> Tensor:
        with torch.no_grad():
            prediction: Tensor = network.eval()(source)
        return prediction

    def original_default() -> Tensor:
        with torch.no_grad():
            return torch.cat([network.train()(image) for image in torch.split(source, 1)])

    functions: dict[str, Callable[[], Tensor]] = {
        "original, --eval": original_eval,
        "original, test.py's default": original_default,
    }
    references = {"original, --eval": "original, --eval"}
    modes: tuple[BatchNorm, ...] = ("running", "per_batch")
    for batch_norm in modes:
        for precision in precisions(device):
            name = f"medp2p, {precision}, {batch_norm} statistics"
            functions[name] = our_translation(weights, batch_norm, precision, device, source)
            references[name] = (
                "original, --eval"
                if batch_norm == "running"
                else "medp2p, fp32, per_batch statistics"
            )
    outputs = {name: function() for name, function in functions.items()}
    rows = as_rows(timer.seconds(dict(functions)), batch, "original, --eval")
    for row in rows:
        if row["name"] in references:
            reference = outputs[references[row["name"]]]
            row.update(error_in_hu(outputs[row["name"]], reference))
    return rows


def our_method(device: torch.device, precision: Precision) -> Method:
    """pix2pix as the training loop sets it up."""
    method = build_method(SETTINGS, 1, 1)
    fabric = Fabric(
        accelerator=device.type,
        devices=1,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    method.setup(fabric)
    return method


def our_translation(
    weights: dict[str, Tensor],
    batch_norm: BatchNorm,
    precision: Precision,
    device: torch.device,
    source: Tensor,
) -> Callable[[], Tensor]:
    """The slice predictor that `medp2p translate` uses."""
    generator = build_generator(SETTINGS, 1, 1)
    generator.load_state_dict(weights)
    card = ModelCard(Config(method=SETTINGS), ("mr",), HU_RANGE, batch_norm)
    translator = make_translator(
        Model(generator, card, hash=""), device=str(device), precision=precision
    )
    return lambda: translator.predict_slices(source)


def training_step_of(method: Method, batch: Batch) -> Callable[[], object]:
    """A step to be timed."""
    return lambda: method.training_step(batch)


def paired(source: Tensor, target: Tensor) -> Batch:
    """A batch whose mask is everything."""
    return Batch(source, target, torch.ones_like(target))


def precisions(device: torch.device) -> tuple[Precision, ...]:
    """What is worth measuring on a device."""
    return ("fp32", "bf16") if bf16_is_fast(device) else ("fp32",)


def as_rows(seconds: dict[str, float], batch: int, baseline: str) -> list[dict[str, Any]]:
    """Images per second, and the ratio to the baseline."""
    return [
        {"name": name, "images_per_second": batch / s, "ratio": seconds[baseline] / s}
        for name, s in seconds.items()
    ]


def error_in_hu(prediction: Tensor, reference: Tensor) -> dict[str, float]:
    """Mean and largest absolute difference, -1 to 1 standing for the whole HU range."""
    error = (prediction - reference).abs() * (HU_RANGE[1] - HU_RANGE[0]) / 2
    return {"mean_error_hu": error.mean().item(), "max_error_hu": error.max().item()}


def describe(device: torch.device) -> str:
    """The machine in a line."""
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        native = "with" if bf16_is_fast(device) else "without"
        hardware = f"{cpu_name()}, {torch.get_num_threads()} threads, {native} bf16 instructions"
    return f"{hardware}; torch {torch.__version__}, Python {platform.python_version()}"


def cpu_name() -> str:
    """The processor's name, where the system tells it."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def print_table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as a Markdown table."""
    print(f"\n{title}\n")
    print("| | img/s | ratio | mean error, HU | largest, HU |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        errors = [f"{row[k]:.3f}" if k in row else "" for k in ("mean_error_hu", "max_error_hu")]
        rates = f"{row['images_per_second']:.1f} | {row['ratio']:.2f}"
        print(f"| {row['name']} | {rates} | {errors[0]} | {errors[1]} |", flush=True)


if __name__ == "__main__":
    main()
