"""The PatchGAN discriminator of pix2pix (Isola et al., CVPR 2017, section 6.1.2)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of an image pair: one logit per patch, no sigmoid.

    MONAI's network with the original's layers: with 3 of them a logit sees 70×70 pixels.
    Convolutions before an affine norm have no bias. Beyond 3 layers the channels go on
    doubling, where the original project stops at eight times ``channels``.

    Args:
        in_channels: Channels of source and target together.
        channels: Channels of the first layer.
        layers: Layers that follow the first and double the channels.
        norm: ``batch`` or ``instance`` (the latter without weights).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 64,
        layers: int = 3,
        norm: Literal["batch", "instance"] = "batch",
    ) -> None:
        from monai.networks.nets.patchgan_discriminator import (
            PatchDiscriminator as MonaiPatchDiscriminator,
        )

        super().__init__()
        self.layers = MonaiPatchDiscriminator(
            spatial_dims=2,
            in_channels=in_channels,
            out_channels=1,
            channels=channels,
            num_layers_d=layers,
            activation=("LEAKYRELU", {"negative_slope": 0.2, "inplace": True}),
            norm=norm.upper(),
            bias=norm == "instance",
        )

    def forward(self, pair: Tensor) -> Tensor:
        """Judge each patch.

        Args:
            pair: Source and (real or predicted) target as channels, (N, C, H, W).

        Returns:
            Logits, positive for real, (N, 1, H', W').
        """
        logits: Tensor = self.layers(pair)[-1]
        return logits
