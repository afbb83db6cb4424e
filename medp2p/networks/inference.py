"""A trained generator made ready to translate: the same function, computed faster.

Dropout is gone, batch norm is part of the convolutions, channels lie last in memory. In
bf16 the first and the last stage stay in float32: they cost little and decide much of the
error. On the CPU, weights are put once into the order that oneDNN computes in, instead of in
every call.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import fold
from torch.nn.utils.fusion import fuse_conv_bn_eval

from medp2p.networks.unet import InstanceNorm, UNetGenerator

Precision = Literal["fp32", "bf16"]


def prepare_for_inference(
    generator: UNetGenerator, *, per_batch_statistics: bool, precision: Precision
) -> UNetGenerator:
    """A copy of the generator that predicts the same, faster, and cannot be trained.

    Call this with the generator on the device that will translate, and the copy inside
    ``torch.inference_mode()``. Source and prediction stay float32.

    Args:
        generator: With its trained weights; left as it is.
        per_batch_statistics: Batch norm takes each image's own mean and variance instead of
            the running ones. For a single image that is what it does in training mode, and
            so what the original pix2pix project translates with; the prediction does not
            depend on which images share a batch. Without effect on instance norm.
        precision: ``fp32`` is exact but for rounding; ``bf16`` is fast where `bf16_is_fast`.

    Returns:
        The copy, in evaluation mode.
    """
    prepared = copy.deepcopy(generator).eval().requires_grad_(False)
    for stages in (prepared.encoder, prepared.decoder):
        for position, stage in enumerate(stages):
            stages[position] = nn.Sequential(*_simplified(stage, per_batch_statistics))
    prepared.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    prepared.decoder[-1] = _LastStage(prepared.decoder[-1][0])

    inner_stages = [*prepared.encoder[1:], *prepared.decoder[:-1]]
    if precision == "bf16":
        for stage in inner_stages:
            stage[0].to(torch.bfloat16)
        for stage in (prepared.encoder[1], prepared.decoder[0]):
            stage.insert(0, _ToBfloat16())
    if _can_pack(prepared):
        for stage in (prepared.encoder[0], *inner_stages):
            for position, module in enumerate(stage):
                if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                    stage[position] = _PackedConvolution(module)
    return prepared


def bf16_is_fast(device: torch.device) -> bool:
    """Whether the device computes in bf16 rather than imitating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def _simplified(stage: nn.Sequential, per_batch_statistics: bool) -> list[nn.Module]:
    """The modules of a stage without dropout, and without batch norm where it can be folded."""
    modules: list[nn.Module] = []
    for module in stage:
        if isinstance(module, nn.BatchNorm2d) and per_batch_statistics:
            modules.append(_per_image_norm(module))
        elif isinstance(module, nn.BatchNorm2d):
            modules[-1] = _with_norm(modules[-1], module)
        elif isinstance(module, nn.Conv2d) and modules:
            modules = [_transposed_equivalent(module)]  # what stood before is the doubling
        elif not isinstance(module, nn.Dropout):
            modules.append(module)
    return modules


def _with_norm(convolution: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    assert isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d)
    transposed = isinstance(convolution, nn.ConvTranspose2d)
    folded = fuse_conv_bn_eval(convolution.double(), norm.double(), transposed).float()
    return folded


def _per_image_norm(norm: nn.BatchNorm2d) -> InstanceNorm:
    per_image = InstanceNorm(norm.num_features, eps=norm.eps, affine=True)
    per_image.load_state_dict({"weight": norm.weight, "bias": norm.bias})
    return per_image.to(norm.weight.device).eval().requires_grad_(False)


def _transposed_equivalent(convolution: nn.Conv2d) -> nn.ConvTranspose2d:
    """Nearest-neighbour doubling and a 3×3 convolution as one 4×4 transposed convolution.

    Of the three taps w along an axis, two meet the same source pixel: the even output pixels
    see (w0, w1 + w2), the odd ones (w0 + w1, w2), which the transposed convolution's taps
    3, 1 and 2, 0 reach.
    """
    taps = convolution.weight.new_tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
    weight = torch.einsum("yi,xj,oaij->aoyx", taps, taps, convolution.weight)
    transposed = nn.ConvTranspose2d(
        convolution.in_channels,
        convolution.out_channels,
        4,
        stride=2,
        padding=1,
        bias=convolution.bias is not None,
        device=weight.device,
    )
    transposed.weight = nn.Parameter(weight, requires_grad=False)
    transposed.bias = convolution.bias
    return transposed


class _ToBfloat16(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.bfloat16()


class _LastStage(nn.Module):
    """The transposed convolution to a few channels as a matrix product, in float32.

    Each source pixel gives 4×4 output pixels, which are laid over each other two apart.
    """

    def __init__(self, convolution: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.channels = convolution.in_channels
        self.weight = convolution.weight.reshape(self.channels, -1).contiguous()
        self.bias = convolution.bias

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = 2 * x.shape[-2], 2 * x.shape[-1]
        images = []
        for image in x.split(1):  # one at a time: the float32 copy stays in the cache
            pixels = image.permute(0, 2, 3, 1).reshape(-1, self.channels).float()
            blocks = (pixels @ self.weight).T.unsqueeze(0)
            images.append(fold(blocks, (rows, columns), kernel_size=4, stride=2, padding=1))
        prediction = torch.cat(images)
        assert self.bias is not None
        return prediction + self.bias[:, None, None]


class _PackedConvolution(nn.Module):
    """A convolution on the CPU whose weights are in oneDNN's own order."""

    def __init__(self, convolution: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.transposed = isinstance(convolution, nn.ConvTranspose2d)
        self.bias = convolution.bias
        ones, twos, size_unknown = [1, 1], [2, 2], list[int]()
        if self.transposed:
            self.weight = torch.ops.mkldnn._reorder_convolution_transpose_weight(
                convolution.weight, ones, [0, 0], twos, ones, 1, size_unknown
            )
        else:
            self.weight = torch.ops.mkldnn._reorder_convolution_weight(
                convolution.weight, ones, twos, ones, 1, size_unknown
            )

    def forward(self, x: Tensor) -> Tensor:
        # padding, (output padding,) stride, dilation, groups; nothing computed afterwards
        fixed = ([1, 1], [0, 0]) if self.transposed else ([1, 1],)
        convolve = (
            torch.ops.mkldnn._convolution_transpose_pointwise
            if self.transposed
            else torch.ops.mkldnn._convolution_pointwise
        )
        y: Tensor = convolve(x, self.weight, self.bias, *fixed, [2, 2], [1, 1], 1, "none", [], "")
        return y


def _can_pack(generator: nn.Module) -> bool:
    on_cpu = all(parameter.device.type == "cpu" for parameter in generator.parameters())
    return on_cpu and hasattr(torch.ops.mkldnn, "_convolution_transpose_pointwise")
