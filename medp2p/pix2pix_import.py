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

from medp2p.config import GeneratorSettings
from medp2p.errors import CheckpointError
from medp2p.networks.unet import UNetGenerator

_ADVICE = (
    "give a latest_net_G.pth of the original project, trained with --netG unet_256 or unet_128"
)
_WRAPPERS = ("module.", "_orig_mod.")
_OUTERMOST = "model.model."


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
