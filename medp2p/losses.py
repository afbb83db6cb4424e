"""Losses of paired translation, as functions of tensors.

All are computed in float32, whatever precision the networks work in.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss, mse_loss

AdversarialLoss = Literal["bce", "least_squares"]


def adversarial_loss(logits: Tensor, *, real: bool, kind: AdversarialLoss = "bce") -> Tensor:
    """How far a discriminator's logits are from saying "real" (or "fake").

    Args:
        logits: Output of the discriminator, any shape, no sigmoid applied.
        real: What the logits should say: 1 for real, 0 for fake.
        kind: ``bce``, the cross entropy (Goodfellow et al. 2014), or ``least_squares``, the
            mean squared difference from 1 or 0 (Mao et al. 2017).

    Returns:
        Mean over all logits, a scalar.
    """
    logits = logits.float()
    label = torch.full_like(logits, float(real))
    if kind == "bce":
        return binary_cross_entropy_with_logits(logits, label)
    return mse_loss(logits, label)


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference, a scalar."""
    return l1_loss(prediction.float(), target.float())


def masked_l1(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference inside a mask.

    Args:
        prediction: (N, C, H, W).
        target: (N, C, H, W).
        mask: (N, 1, H, W), 0 or 1. The mean is over the pixels of the whole batch, so that
            a slice with little body weighs little.

    Returns:
        A scalar; 0 if the mask is empty.
    """
    difference = (prediction.float() - target.float()).abs() * mask
    pixels = mask.sum() * prediction.shape[1]
    return difference.sum() / pixels.clamp(min=1)
