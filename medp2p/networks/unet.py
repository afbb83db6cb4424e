"""The U-Net generator of pix2pix.

Isola, Zhu, Zhou, Efros: Image-to-Image Translation with Conditional Adversarial Networks,
CVPR 2017, section 6.1.1.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, leaky_relu_, relu_

Norm = Literal["batch", "instance"]
Upsampling = Literal["transposed", "resize"]
Head = Literal["tanh", "linear"]


class InstanceNorm(nn.InstanceNorm2d):
    """Instance norm that keeps channels last in memory on the CPU.

    There torch's own copies the image twice and returns channels first. Batch norm of a
    single image is the same function without the copies.
    """

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if x.device.type != "cpu":
            return super().forward(x)
        images = [
            batch_norm(image, None, None, self.weight, self.bias, training=True, eps=self.eps)
            for image in torch.split(x, 1)
        ]
        return torch.cat(images) if len(images) > 1 else images[0]


class UNetGenerator(nn.Module):
    """Encoder and decoder of ``levels`` stages each, joined by skip connections.

    Every encoder stage halves the image, every decoder stage doubles it. With 8 levels this
    is the paper's generator for 256×256 images (unet_256 of the original project), with 7
    the one for 128×128.

    The first encoder stage and the innermost one have no norm, nor has the last decoder
    stage. Convolutions have a bias where no affine norm follows: everywhere with instance
    norm, only in the last decoder stage with batch norm. Dropout is the noise of pix2pix; it
    follows the ``levels - 5`` decoder stages next to the innermost, as in the original, and
    at least one of them, so that small generators have it too.

    Args:
        in_channels: Channels of the source image (contrasts times slices of a stack).
        out_channels: Channels of the prediction.
        levels: Number of halvings, at least 2. Rows and columns must be multiples of
            2 to this power.
        channels: Channels of the first stage; they double up to eight times this.
        norm: ``batch`` (affine, with running statistics) or ``instance`` (neither).
        dropout: Probability of a decoder activation to be dropped in training.
        upsampling: ``transposed`` convolution as in the paper, or ``resize``: nearest
            neighbour doubling and a 3×3 convolution, which leaves no checkerboards (Odena,
            Dumoulin, Olah: Deconvolution and Checkerboard Artifacts, Distill 2016).
        head: ``tanh`` bounds the prediction to [-1, 1], ``linear`` does not.

    Raises:
        ValueError: If there are fewer than 2 levels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        levels: int = 8,
        channels: int = 64,
        norm: Norm = "batch",
        dropout: float = 0.5,
        upsampling: Upsampling = "transposed",
        head: Head = "tanh",
    ) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"levels must be at least 2, got {levels}")
        self.levels = levels
        self.head = head
        widths = [channels * min(2**level, 8) for level in range(levels)]
        innermost = levels - 1
        bias = norm == "instance"

        self.encoder = nn.ModuleList()
        for level, width in enumerate(widths):
            inputs = in_channels if level == 0 else widths[level - 1]
            stage = nn.Sequential(nn.Conv2d(inputs, width, 4, stride=2, padding=1, bias=bias))
            if 0 < level < innermost:
                stage.append(_norm_layer(norm, width))
            self.encoder.append(stage)

        stages_with_dropout = range(1, 1 + max(levels - 5, 1))
        self.decoder = nn.ModuleList()
        for step, level in enumerate(reversed(range(1, levels))):
            inputs = widths[level] if level == innermost else 2 * widths[level]
            width = widths[level - 1]
            stage = nn.Sequential(*_doubling(upsampling, inputs, width, bias=bias))
            stage.append(_norm_layer(norm, width))
            if step in stages_with_dropout and dropout > 0:
                stage.append(nn.Dropout(dropout))
            self.decoder.append(stage)
        self.decoder.append(
            nn.Sequential(*_doubling(upsampling, 2 * widths[0], out_channels, bias=True))
        )

    def forward(self, source: Tensor) -> Tensor:
        """Translate a batch of images.

        Args:
            source: (N, in_channels, H, W).

        Returns:
            (N, out_channels, H, W), in [-1, 1] with the tanh head.

        Raises:
            ValueError: If H or W is not a multiple of 2 to the number of levels.
        """
        multiple = 2**self.levels
        if source.shape[-2] % multiple or source.shape[-1] % multiple:
            raise ValueError(
                f"rows and columns must be multiples of {multiple} (2 to the power of "
                f"{self.levels} levels), got {source.shape[-2]}×{source.shape[-1]}"
            )
        # The skip keeps what the in-place leaky ReLU leaves: the decoder's ReLU of that and of
        # the untouched features is the same.
        features = [self.encoder[0](source)]
        for encode in self.encoder[1:]:
            features.append(encode(leaky_relu_(features[-1], 0.2)))
        x = features.pop()
        for decode in self.decoder[:-1]:
            x = torch.cat([features.pop(), decode(relu_(x))], dim=1)
        prediction: Tensor = self.decoder[-1](relu_(x))
        return torch.tanh(prediction) if self.head == "tanh" else prediction


def _norm_layer(norm: Norm, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else InstanceNorm(channels)


def _doubling(upsampling: Upsampling, inputs: int, outputs: int, *, bias: bool) -> list[nn.Module]:
    if upsampling == "transposed":
        return [nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=bias)]
    return [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)]
