"""Volume to volume: to the training grid, through the network slice by slice, and back.

The result lies on the source's own grid: same shape, same affine. Near the border the rule
is: where a source voxel's centre lies outside the outermost centres of the training grid, it
takes the nearest prediction. That concerns at most the outermost two layers of voxels as
long as the training spacing is at most three times the source's.

Neither MONAI nor Lightning is imported here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medp2p.checkpoint import Model
from medp2p.config import SliceSettings
from medp2p.dataset import PLANE_AXIS, stack_indices
from medp2p.devices import Precision, choose_device, resolve_precision
from medp2p.errors import MedP2PError
from medp2p.networks.inference import prepare_for_inference
from medp2p.preprocessing import decode
from medp2p.translation import (
    Mask,
    UnitPredictor,
    check_sources,
    finish,
    prepare,
    translate_with,
    unit_sources,
)
from medp2p.volume import Grid, Volume

__all__ = [
    "Mask",
    "SlicePredictor",
    "Translator",
    "UnitPredictor",
    "make_translator",
    "predict_volume",
    "tile_starts",
    "translate",
    "translate_with",
    "unit_sources",
]

TILE_OVERLAP = 0.25
"""Neighbouring tiles of a slice larger than the network's overlap by at least this share."""

SlicePredictor = Callable[[Tensor], Tensor]
"""(N, C·stack, H, W) float32 in unit range to (N, 1, H, W) float32."""


@dataclass(frozen=True)
class Translator:
    """A model on its device, ready for many volumes.

    Attributes:
        model: The model.
        device: Where slices are translated.
        predict_slices: The network in its fast form.
        batch_size: Slices at a time.
    """

    model: Model
    device: torch.device
    predict_slices: SlicePredictor
    batch_size: int

    def __call__(
        self,
        sources: Volume | Sequence[Volume],
        mask: Mask = "auto",
        onto: Grid | None = None,
    ) -> Volume:
        """Translate one volume; see `translate`."""
        volumes = [sources] if isinstance(sources, Volume) else list(sources)
        card = self.model.card
        settings = card.config.preprocessing
        check_sources(volumes, card.source_names, settings.source)
        prepared = prepare(volumes, mask, settings)
        try:
            prediction = self.predict(prepared.codes)
        except torch.OutOfMemoryError as error:
            raise MedP2PError(
                f"{volumes[0].name}: the memory of {self.device} ran out; lower --batch-size "
                f"(now {self.batch_size}) or use --device cpu"
            ) from error
        return finish(prepared, prediction, settings, card.target_range, onto)

    def predict(self, codes: NDArray[np.int16]) -> NDArray[np.float32]:
        """Predict one volume on the training grid.

        Args:
            codes: Of the sources, (C, K, J, I), as `medp2p.translation.prepare` makes them.

        Returns:
            float32 (K, J, I) in unit range.

        Raises:
            torch.OutOfMemoryError: If the device's memory runs out.
        """
        slices = self.model.card.config.slices
        return predict_volume(
            self.predict_slices, decode(codes), slices, self.device, self.batch_size
        )


def make_translator(
    model: Model,
    *,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int = 16,
) -> Translator:
    """Bring a model to a device in its fast form: norms folded, channels last, bf16.

    Args:
        model: From `medp2p.checkpoint.load_model`.
        device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
        precision: ``"fp32"`` is exact; ``"bf16"`` is faster and off by less than half an HU on
            average; ``"auto"`` is bf16 where the device computes in it natively.
        batch_size: Slices at a time.

    Raises:
        MedP2PError: If the device is not there.
    """
    place = choose_device(device)
    resolved = resolve_precision(precision, place)
    if resolved == "fp32":
        torch.backends.cudnn.allow_tf32 = False  # its mantissa has ten bits, and is the default
    network = prepare_for_inference(
        model.generator.to(place),
        per_batch_statistics=model.card.batch_norm == "per_batch",
        precision=resolved,
    )
    return Translator(model, place, torch.inference_mode()(network.forward), batch_size)


def translate(
    source: Volume | Sequence[Volume],
    model: Model,
    *,
    mask: Mask = "auto",
    onto: Grid | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int = 16,
) -> Volume:
    """Translate a volume into the model's target modality, on the volume's own grid.

    For many volumes make a `Translator` once with `make_translator`.

    Args:
        source: The volume, or one per source contrast in the model's order, of one patient in
            one position. The first one's grid is the result's.
        model: From `medp2p.checkpoint.load_model`.
        mask: Body mask on the source's grid; ``"auto"`` finds it; ``"none"`` keeps every voxel.
            Outside it the result is the target's lowest value (-1024 HU by default).
        onto: Another grid for the result than the source's own, such as
            `medp2p.volume.axial_grid` of it; outside the source it has the lowest value.
        device: As for `make_translator`.
        precision: As for `make_translator`.
        batch_size: Slices at a time.

    Returns:
        float32 values in HU for CT (within the model's HU range), in MR units otherwise.

    Raises:
        ImageReadError: If a source is not what the model is for, or has no body.
        GeometryError: If sources do not overlap, or the mask is on another grid.
    """
    translator = make_translator(model, device=device, precision=precision, batch_size=batch_size)
    return translator(source, mask, onto)


def predict_volume(
    predict: SlicePredictor,
    unit: NDArray[np.float32],
    settings: SliceSettings,
    device: torch.device,
    batch_size: int,
) -> NDArray[np.float32]:
    """Run a network over all slices of a volume.

    Slices smaller than the training sample are padded with -1 around their centre, larger
    ones are covered by overlapping tiles that are blended linearly.

    Args:
        predict: The network.
        unit: Sources (C, K, J, I), float32 in unit range.
        settings: Plane, stack and sample size.
        device: Where the network is.
        batch_size: Tiles at a time.

    Returns:
        float32 (K, J, I) in unit range.
    """
    axis = PLANE_AXIS[settings.plane]
    slices = torch.from_numpy(np.ascontiguousarray(np.moveaxis(unit, axis + 1, 0))).to(device)
    count, _, height, width = slices.shape
    rows, columns = settings.size
    padded, top, left = _pad_to(slices, max(height, rows), max(width, columns))
    neighbours = torch.tensor(
        [stack_indices(i, settings.stack, count) for i in range(count)], device=device
    )
    ramp = torch.outer(_ramp(rows), _ramp(columns)).to(device)
    total = torch.zeros(count, *padded.shape[-2:], device=device)
    weight = torch.zeros_like(total[0])
    for r, c in itertools.product(tile_starts(height, rows), tile_starts(width, columns)):
        tile = (..., slice(r, r + rows), slice(c, c + columns))
        weight[tile] += ramp
        for first in range(0, count, batch_size):
            batch = slice(first, first + batch_size)
            stacks = padded[tile][neighbours[batch]]  # (N, stack, C, rows, columns)
            inputs = stacks.transpose(1, 2).flatten(1, 2)
            total[batch][tile] += ramp * predict(inputs)[:, 0]
    blended = (total / weight)[:, top : top + height, left : left + width]
    return np.moveaxis(blended.cpu().numpy(), 0, axis)


def tile_starts(have: int, want: int) -> list[int]:
    """First pixel of each tile along one axis, evenly spaced, overlapping by `TILE_OVERLAP`."""
    if have <= want:
        return [0]
    step = max(1, int(want * (1 - TILE_OVERLAP)))
    count = -(-(have - want) // step) + 1
    return [round(i * (have - want) / (count - 1)) for i in range(count)]


def _ramp(size: int) -> Tensor:
    """Weights that rise from the edges to the middle, never zero."""
    position = torch.arange(size)
    return torch.minimum(position + 1, size - position).float()


def _pad_to(slices: Tensor, height: int, width: int) -> tuple[Tensor, int, int]:
    """Pad with -1 around the centre; also returns the rows above and the columns to the left."""
    rows, columns = height - slices.shape[-2], width - slices.shape[-1]
    top, left = rows // 2, columns // 2
    pad = (left, columns - left, top, rows - top)
    return torch.nn.functional.pad(slices, pad, value=-1.0), top, left
