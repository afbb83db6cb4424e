"""A trained generator made ready to translate: the same function, computed faster.

Dropout is gone, batch norm is part of the convolutions, channels lie last in memory. In
bf16 the first and the last stage and every bias stay in float32: they cost little, and
rounding them would be most of the error. On the CPU, weights are put once into the order
that oneDNN computes in, instead of in every call.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, fold
from torch.nn.utils.fusion import fuse_conv_bn_eval

from medp2p.networks.unet import InstanceNorm, UNetGenerator

Precision = Literal["fp32", "bf16"]
Convolution = nn.Conv2d | nn.ConvTranspose2d

PIXELS_AT_A_TIME: dict[Precision, int] = {"bf16": 4 * 256 * 256, "fp32": 2 * 256 * 256}
"""How much of a batch goes through the network at once on the CPU."""


def prepare_for_inference(
    generator: nn.Module, *, per_batch_statistics: bool, precision: Precision
) -> nn.Module:
    """A copy of the generator that predicts the same, faster, and cannot be trained.

    Call this with the generator on the device that will translate, and the copy inside
    ``torch.inference_mode()``. Source and prediction stay float32. A generator that is not a
    `UNetGenerator` is only put into evaluation mode.

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
    if not isinstance(prepared, UNetGenerator):
        return prepared
    on_cpu = all(parameter.device.type == "cpu" for parameter in prepared.parameters())
    _speed_up(prepared, per_batch_statistics, precision, pack=on_cpu and _onednn_packs())
    return _FewImagesAtATime(prepared, precision).eval() if on_cpu else prepared


def bf16_is_fast(device: torch.device) -> bool:
    """Whether the device computes in bf16 rather than imitating it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def _speed_up(
    generator: UNetGenerator, per_batch_statistics: bool, precision: Precision, pack: bool
) -> None:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    stages = [
        _simplified(list(stage.children()), per_batch_statistics)
        for stage in (*generator.encoder, *generator.decoder)
    ]
    make = _PackedConvolution if pack else _InferenceConvolution
    first, *inner, last = stages
    first[0] = make(first[0], torch.float32)
    first.append(_ToDtype(dtype))
    for stage in inner:
        stage[0] = make(stage[0], dtype)
    last[0] = _LastConvolution(last[0])
    built = [nn.Sequential(*stage) for stage in stages]
    generator.encoder = nn.ModuleList(built[: generator.levels])
    generator.decoder = nn.ModuleList(built[generator.levels :])


def _simplified(stage: list[nn.Module], per_batch_statistics: bool) -> list[nn.Module]:
    """A stage as one convolution, and an instance norm if it needs one."""
    modules: list[nn.Module] = []
    for module in stage:
        if isinstance(module, nn.BatchNorm2d) and per_batch_statistics:
            modules.append(_instance_norm_like(module))
        elif isinstance(module, nn.InstanceNorm2d):
            modules[0].register_parameter("bias", None)  # the norm would take it away again
            modules.append(module)
        elif isinstance(module, nn.BatchNorm2d):
            modules = [_with_norm(modules[0], module)]
        elif isinstance(module, nn.Conv2d) and modules:
            modules = [_with_doubling(module)]
        elif not isinstance(module, nn.Dropout):
            modules.append(module)
    return modules


def _with_norm(convolution: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    assert isinstance(convolution, Convolution)
    transposed = isinstance(convolution, nn.ConvTranspose2d)
    return fuse_conv_bn_eval(convolution.double(), norm.double(), transposed).float()


def _instance_norm_like(norm: nn.BatchNorm2d) -> nn.Module:
    instance_norm = InstanceNorm(norm.num_features, eps=norm.eps, affine=True)
    instance_norm.weight, instance_norm.bias = norm.weight, norm.bias
    return instance_norm.eval()


def _with_doubling(convolution: nn.Conv2d) -> nn.Module:
    """Nearest-neighbour doubling and a 3×3 convolution as one 4×4 transposed convolution.

    Of the three taps w along an axis, two meet the same source pixel: the even output pixels
    see (w0, w1 + w2), which are the transposed convolution's taps 3 and 1, the odd ones
    (w0 + w1, w2), its taps 2 and 0.
    """
    weight = convolution.weight
    taps = weight.new_tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
    transposed = nn.ConvTranspose2d(
        convolution.in_channels, convolution.out_channels, 4, stride=2, padding=1, device="meta"
    )
    doubled = torch.einsum("yi,xj,oaij->aoyx", taps, taps, weight)
    transposed.weight = nn.Parameter(doubled, requires_grad=False)
    transposed.bias = convolution.bias
    return transposed.eval()


class _FewImagesAtATime(nn.Module):
    """Splits a batch so that no layer is larger than what malloc keeps for the next one.

    Beyond 32 MiB glibc maps fresh pages for every tensor, whose first touch costs as much as
    a layer does. The largest layer has twice the channels of the first at half its size.
    """

    def __init__(self, generator: UNetGenerator, precision: Precision) -> None:
        super().__init__()
        self.generator = generator
        self.pixels = PIXELS_AT_A_TIME[precision]

    def forward(self, source: Tensor) -> Tensor:
        images = max(1, self.pixels // (source.shape[-2] * source.shape[-1]))
        return torch.cat([self.generator(part) for part in torch.split(source, images)])


class _ToDtype(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


class _InferenceConvolution(nn.Module):
    """A convolution in a given precision that adds its bias in float32."""

    def __init__(self, convolution: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        assert isinstance(convolution, Convolution)
        transposed = isinstance(convolution, nn.ConvTranspose2d)
        self.convolve = conv_transpose2d if transposed else conv2d
        weight = convolution.weight.to(dtype, memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = convolution.bias

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.convolve(x.to(self.weight.dtype), self.weight, stride=2, padding=1)
        return y if self.bias is None else y.add_(self.bias[:, None, None])


class _PackedConvolution(nn.Module):
    """The same on the CPU, with weights in oneDNN's own order.

    These are the operators that torch.compile calls for a frozen network.
    """

    def __init__(self, convolution: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        assert isinstance(convolution, Convolution)
        onednn = torch.ops.mkldnn
        ones, twos, zeros, any_size = [1, 1], [2, 2], [0, 0], list[int]()
        self.geometry: tuple[list[int], ...] = (ones, twos, ones)  # padding, stride, dilation
        self.convolve = onednn._convolution_pointwise
        reorder = onednn._reorder_convolution_weight
        if isinstance(convolution, nn.ConvTranspose2d):
            self.geometry = (ones, zeros, twos, ones)  # output padding in second place
            self.convolve = onednn._convolution_transpose_pointwise
            reorder = onednn._reorder_convolution_transpose_weight
        self.dtype = dtype
        self.weight = reorder(convolution.weight.to(dtype), *self.geometry, 1, any_size)
        self.bias = convolution.bias

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype, memory_format=torch.channels_last)
        y: Tensor = self.convolve(x, self.weight, self.bias, *self.geometry, 1, "none", [], "")
        return y


def _onednn_packs() -> bool:
    return hasattr(torch.ops.mkldnn, "_convolution_transpose_pointwise")


class _LastConvolution(nn.Module):
    """The last transposed convolution as a matrix product, in float32.

    Each pixel of the features gives 4×4 pixels, which are laid over each other two apart.
    """

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        assert isinstance(convolution, nn.ConvTranspose2d)
        weight = convolution.weight.reshape(convolution.in_channels, -1)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = convolution.bias

    def forward(self, x: Tensor) -> Tensor:
        size = 2 * x.shape[-2], 2 * x.shape[-1]
        # On the CPU one image at a time, so that its float32 copy stays in the cache.
        parts = torch.split(x, 1) if x.device.type == "cpu" else (x,)
        predictions = []
        for part in parts:
            pixels = part.permute(0, 2, 3, 1).flatten(1, 2).float()
            blocks = (pixels @ self.weight).transpose(1, 2)
            predictions.append(fold(blocks, size, kernel_size=4, stride=2, padding=1))
        prediction = torch.cat(predictions)
        return prediction if self.bias is None else prediction + self.bias[:, None, None]
