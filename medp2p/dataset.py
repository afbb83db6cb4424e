"""Batches of slices of prepared volumes, on the device.

Volumes are decoded once, when they are prepared. A slice of any plane, or a stack of neighbours,
is a view.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from medp2p.batch import Batch
from medp2p.config import SliceSettings
from medp2p.preprocessing import CODES_PER_UNIT
from medp2p.store import PreparedCase, PreparedData

PLANE_AXIS = {"axial": 0, "coronal": 1, "sagittal": 2}
"""Axis of a (K, J, I) volume along which the slices of a plane are counted."""

BACKGROUND_CODE = -CODES_PER_UNIT
"""Code of -1, the value around a slice that is smaller than the sample."""


class SliceBatches:
    """Batches of slices of some cases, gathered on the device.

    The voxels move to the device as a whole if they fit into ``memory_bytes`` there;
    otherwise slices are gathered on the host and each batch is sent.
    """

    def __init__(
        self,
        data: PreparedData,
        cases: Sequence[PreparedCase],
        slices: SliceSettings,
        device: torch.device,
        memory_bytes: float = float("inf"),
    ):
        self._slices = slices
        self._device = device
        self._cases = list(cases)
        self._axis = PLANE_AXIS[slices.plane]
        size = sum(data.voxels(case).nbytes + data.mask(case).nbytes for case in self._cases)
        resident = device.type == "cpu" or size < memory_bytes
        self._place = device if resident else torch.device("cpu")
        self._voxels = [torch.from_numpy(data.voxels(c)).to(self._place) for c in self._cases]
        self._masks = [torch.from_numpy(data.mask(c)).to(self._place) for c in self._cases]
        self._pin = not resident
        self.samples = [
            (number, index)
            for number, case in enumerate(self._cases)
            for index in self._slices_with_body(data, case)
        ]

    def gather(self, picks: Sequence[int], generator: torch.Generator) -> Batch:
        """Collect samples into a batch.

        Args:
            picks: Indices into ``samples``.
            generator: On the host; places the crop of slices larger than the sample.

        Returns:
            The batch, on the device.
        """
        rows, columns = self._slices.size
        channels = (len(self._voxels[0]) - 1) * self._slices.stack + 1
        place, pin = self._place, self._pin
        codes = torch.full(
            (len(picks), channels, rows, columns),
            BACKGROUND_CODE,
            dtype=torch.int16,
            device=place,
            pin_memory=pin,
        )
        masks = torch.zeros(
            (len(picks), 1, rows, columns), dtype=torch.uint8, device=place, pin_memory=pin
        )
        copies: list[tuple[Tensor, Tensor]] = []
        for number, pick in enumerate(picks):
            copies += self._copies_of_sample(codes[number], masks[number], pick, generator)
        for destination, source in copies:
            destination.copy_(source)
        unit = codes.to(self._device, non_blocking=True).float() / CODES_PER_UNIT
        mask = masks.to(self._device, non_blocking=True).float()
        return Batch(source=unit[:, :-1], target=unit[:, -1:], mask=mask)

    def _copies_of_sample(
        self, codes: Tensor, mask: Tensor, pick: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        number, index = self.samples[pick]
        case = self._cases[number]
        shape = [n for axis, n in enumerate(case.shape) if axis != self._axis]
        windows = [
            _window(have, want, generator)
            for have, want in zip(shape, self._slices.size, strict=True)
        ]
        there = tuple(to for _, to in windows)
        here = tuple(of for of, _ in windows)
        *sources, target = self._voxels[number]
        planes = [
            source.select(self._axis, neighbour)
            for source in sources
            for neighbour in stack_indices(index, self._slices.stack, case.shape[self._axis])
        ]
        planes.append(target.select(self._axis, index))
        for channel, plane in enumerate(planes):
            yield codes[channel][there], plane[here]
        yield mask[0][there], self._masks[number].select(self._axis, index)[here]

    def _slices_with_body(self, data: PreparedData, case: PreparedCase) -> list[int]:
        mask = data.mask(case)
        other = tuple(axis for axis in range(3) if axis != self._axis)
        share = mask.mean(axis=other)
        return [int(i) for i in np.flatnonzero(share >= self._slices.minimum_mask_fraction)]


def stack_indices(index: int, stack: int, count: int) -> list[int]:
    """Slices of a stack around ``index``; the first and last slice repeat beyond the ends."""
    half = stack // 2
    return [min(max(i, 0), count - 1) for i in range(index - half, index + half + 1)]


def centred_window(have: int, want: int) -> tuple[slice, slice]:
    """Where the middle of ``have`` pixels goes into ``want``: (slice of have, slice of want)."""
    size = min(have, want)
    of, to = (have - size) // 2, (want - size) // 2
    return slice(of, of + size), slice(to, to + size)


def _window(have: int, want: int, generator: torch.Generator) -> tuple[slice, slice]:
    """Centred padding, or a crop at a random place."""
    if have <= want:
        return centred_window(have, want)
    of = int(torch.randint(have - want + 1, (1,), generator=generator))
    return slice(of, of + want), slice(0, want)
