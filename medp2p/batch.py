"""What one training step gets."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Slices of one step, on the device.

    Attributes:
        source: float32 (N, C·stack, H, W), -1..1 (MR up to 2).
        target: float32 (N, 1, H, W), -1..1.
        mask: float32 (N, 1, H, W), 1 inside the body and 0 outside.
    """

    source: Tensor
    target: Tensor
    mask: Tensor
