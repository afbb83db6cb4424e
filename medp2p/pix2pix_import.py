"""Generators trained with the original PyTorch pix2pix project, brought into medp2p.

The project (Zhu, Park et al., pytorch-CycleGAN-and-pix2pix) nests its U-Net: each block
holds its own encoder stage, the next inner block and its own decoder stage, and saves them
under names such as ``model.model.1.model.3.model.1.weight``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medp2p.checkpoint import BatchNorm, ModelCard, save_model
from medp2p.config import Config, GeneratorSettings, validate_config
from medp2p.errors import CheckpointError, ConfigError
from medp2p.networks.unet import UNetGenerator
from medp2p.versions import library_versions

_ADVICE = (
    "give a latest_net_G.pth of the original project, trained with --netG unet_256 or unet_128"
)
_WRAPPERS = ("module.", "_orig_mod.")
_OUTERMOST = "model.model."


def import_generator(
    checkpoint: Path,
    output: Path,
    config: Config,
    *,
    batch_norm: BatchNorm = "per_batch",
    grayscale: bool = False,
    target_range: tuple[float, float] | None = None,
    overwrite: bool = False,
) -> ModelCard:
    """Write a model file from a generator that the original project saved.

    The weights don't tell how images became the generator's input in [-1, 1], nor what its
    output stands for: the configuration must say so as it was in training.

    Args:
        checkpoint: A ``latest_net_G.pth``.
        output: The model file to write.
        config: Sources, stack, slice size and preprocessing. Its generator settings are
            replaced by what the weights are.
        batch_norm: ``per_batch`` as the original's test script translates by default,
            ``running`` as with its ``--eval``.
        grayscale: Make a generator trained on grey RGB images one of single channels.
        target_range: What -1 and +1 of the output stand for; by default ``hu_range`` of the
            settings, where the target is CT.
        overwrite: Replace an existing output.

    Returns:
        What the model file says of itself.

    Raises:
        CheckpointError: If the weights cannot be used.
        ConfigError: If they do not fit the configuration.
        OutputError: If the output exists or cannot be written.
    """
    state = read_original_state(checkpoint)
    try:
        settings, in_channels, out_channels, weights = convert_generator_state(state)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error
    if grayscale:
        if in_channels not in (1, 3) or out_channels not in (1, 3):
            raise ConfigError(
                f"{checkpoint}: a generator of {in_channels} channels to {out_channels}, "
                "--grayscale is for 3 to 3; leave it out"
            )
        weights = to_grayscale(weights)
        in_channels, out_channels = 1, 1
    _check_channels(checkpoint, config, in_channels, out_channels)
    if target_range is None and config.preprocessing.target.modality == "CT":
        target_range = config.preprocessing.target.hu_range
    if target_range is None:
        raise ConfigError("name the target range: MR values that -1 and +1 stand for")
    values = config.model_dump(mode="json")
    values["method"]["generator"] = settings.model_dump(mode="json")
    card = ModelCard(
        config=validate_config(values, str(checkpoint)),
        source_names=config.data.sources,
        target_range=target_range,
        batch_norm=batch_norm,
        versions=library_versions(),
    )
    save_model(output, weights, card, overwrite=overwrite)
    return card


def to_grayscale(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights (in medp2p's naming) for one channel in and out, from those for three.

    The first convolution's weights are summed over its input channels, which is exact if
    they all showed the same image. The last one's are averaged over its output channels.
    """
    last = max(int(name.split(".")[1]) for name in weights if name.startswith("decoder."))
    first_weight, last_stage = "encoder.0.0.weight", f"decoder.{last}.0"
    return {
        **weights,
        first_weight: weights[first_weight].sum(dim=1, keepdim=True),
        f"{last_stage}.weight": weights[f"{last_stage}.weight"].mean(dim=1, keepdim=True),
        f"{last_stage}.bias": weights[f"{last_stage}.bias"].mean(dim=0, keepdim=True),
    }


def read_original_state(path: Path) -> dict[str, Tensor]:
    """Read a ``*_net_G.pth`` file without running any code that it may hold.

    Returns:
        Weights by the original's names, on the CPU.

    Raises:
        CheckpointError: If the file is missing, damaged, or holds anything but tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; {_ADVICE}")
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever damaged bytes make the unpickler raise
        raise CheckpointError(f"{path}: not a readable PyTorch weight file; {_ADVICE}") from error
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{path}: holds no weights by name; {_ADVICE}")
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: holds more than weights by name; {_ADVICE}")
    return {str(name): value for name, value in state.items()}


def convert_generator_state(
    state: dict[str, Tensor],
) -> tuple[GeneratorSettings, int, int, dict[str, Tensor]]:
    """Rename the original's generator weights to those of `UNetGenerator`.

    Levels, channels and norm are read off the names and shapes. Dropout leaves no trace in
    the weights; the settings name the original's default of 0.5.

    Args:
        state: Weights by the original's names, with or without the prefixes that
            DistributedDataParallel and torch.compile add.

    Returns:
        The generator's settings, its input channels, its output channels, and its weights.

    Raises:
        CheckpointError: If the weights are not those of a U-Net of the original project with
            batch or instance norm; every weight must be used.
    """
    state = {_unwrapped(name): value for name, value in state.items()}
    first, last = state.get(f"{_OUTERMOST}0.weight"), state.get(f"{_OUTERMOST}3.weight")
    if first is None or last is None or first.ndim != 4 or last.ndim != 4:
        kind = "a ResNet generator" if "model.1.weight" in state else "other weights"
        raise CheckpointError(f"expected a pix2pix U-Net generator, found {kind}; {_ADVICE}")
    levels = _count_levels(state)
    if not 5 <= levels <= 9:
        raise CheckpointError(f"expected 5 to 9 U-Net levels, found {levels}; {_ADVICE}")
    if f"{_OUTERMOST}1.model.2.weight" in state:
        settings = GeneratorSettings(levels=levels, channels=first.shape[0], norm="batch")
    elif f"{_OUTERMOST}0.bias" in state:
        settings = GeneratorSettings(levels=levels, channels=first.shape[0], norm="instance")
        state = {name: value for name, value in state.items() if not _is_statistic(name)}
    else:
        raise CheckpointError(
            "found a U-Net without norm layers (--norm none), expected batch or instance norm; "
            "train it again with --norm batch or --norm instance"
        )
    in_channels, out_channels = first.shape[1], last.shape[1]
    converted = _rename(state, levels)
    _check_fits(converted, settings, in_channels, out_channels)
    return settings, in_channels, out_channels, converted


def _check_channels(checkpoint: Path, config: Config, in_channels: int, out_channels: int) -> None:
    expected = len(config.data.sources) * config.slices.stack
    if in_channels == expected and out_channels == 1:
        return
    advice = (
        "pass --grayscale if it was trained on grey images stored as RGB"
        if expected == 1
        else "set data.sources and slices.stack as they were in training"
    )
    raise ConfigError(
        f"{checkpoint}: a generator of {in_channels} channels to {out_channels}, the settings "
        f"({', '.join(config.data.sources)}; stack {config.slices.stack}) say {expected} to 1; "
        f"{advice}"
    )


def _unwrapped(name: str) -> str:
    for prefix in _WRAPPERS:
        name = name.removeprefix(prefix)
    return name


def _is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def _count_levels(state: dict[str, Tensor]) -> int:
    levels, block = 1, f"{_OUTERMOST}1.model."
    while f"{block}1.weight" in state:
        levels, block = levels + 1, f"{block}3.model."
    return levels


def _stage_names(levels: int) -> dict[str, str]:
    """The original's name of every module that has weights, and ours.

    Positions in the original's blocks: the outermost is convolution 0, block 1, (ReLU,)
    transposed convolution 3; the innermost (leaky ReLU,) convolution 1, (ReLU,) transposed
    convolution 3, norm 4; the others (leaky ReLU,) convolution 1, norm 2, block 3, (ReLU,)
    transposed convolution 5, norm 6.
    """
    innermost = levels - 1
    names = {f"{_OUTERMOST}0": "encoder.0.0", f"{_OUTERMOST}3": f"decoder.{innermost}.0"}
    block = f"{_OUTERMOST}1.model."
    for level in range(1, innermost):
        names[f"{block}1"] = f"encoder.{level}.0"
        names[f"{block}2"] = f"encoder.{level}.1"
        names[f"{block}5"] = f"decoder.{innermost - level}.0"
        names[f"{block}6"] = f"decoder.{innermost - level}.1"
        block = f"{block}3.model."
    names[f"{block}1"] = f"encoder.{innermost}.0"
    names[f"{block}3"] = "decoder.0.0"
    names[f"{block}4"] = "decoder.0.1"
    return names


def _rename(state: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    names = _stage_names(levels)
    converted, unknown = {}, []
    for name, value in state.items():
        module, _, parameter = name.rpartition(".")
        if module in names:
            converted[f"{names[module]}.{parameter}"] = value
        else:
            unknown.append(name)
    if unknown:
        raise CheckpointError(
            f"found {len(unknown)} weights that pix2pix's U-Net does not have, such as "
            f"{sorted(unknown)[0]}; {_ADVICE}"
        )
    return converted


def _check_fits(
    state: dict[str, Tensor], settings: GeneratorSettings, in_channels: int, out_channels: int
) -> None:
    """Refuse weights that are missing, left over or of another shape; add absent counters."""
    with torch.device("meta"):
        generator = UNetGenerator(
            in_channels, out_channels, settings.levels, settings.channels, settings.norm
        )
    expected = generator.state_dict()
    for name, value in expected.items():
        if name.endswith("num_batches_tracked"):  # not saved before torch 0.4.1
            state.setdefault(name, torch.zeros_like(value, device="cpu"))
    missing, unknown = sorted(expected.keys() - state), sorted(state.keys() - expected)
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"has an extra {unknown[0]}"
        raise CheckpointError(f"the U-Net {what} (in medp2p's naming); {_ADVICE}")
    for name, value in expected.items():
        if state[name].shape != value.shape:
            raise CheckpointError(
                f"{name} (in medp2p's naming) is {list(state[name].shape)}, "
                f"expected {list(value.shape)}; {_ADVICE}"
            )
