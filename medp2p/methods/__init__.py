"""Training recipes, one a file, and which settings belong to which."""

from __future__ import annotations

from torch import nn

from medp2p.batch import Batch
from medp2p.config import Pix2PixSettings
from medp2p.methods.base import Method, learning_rate_factor
from medp2p.methods.pix2pix import Pix2Pix

__all__ = ["Batch", "Method", "build_generator", "build_method", "learning_rate_factor"]

_METHODS = {
    Pix2PixSettings: Pix2Pix,
}


def build_method(settings: Pix2PixSettings, in_channels: int, out_channels: int) -> Method:
    """The method that the settings describe, with random weights, ready for `Method.setup`.

    Args:
        settings: A method's settings, which choose the method by their class.
        in_channels: Channels of the source: contrasts times slices of a stack.
        out_channels: Channels of the target.
    """
    return _METHODS[type(settings)](settings, in_channels, out_channels)


def build_generator(settings: Pix2PixSettings, in_channels: int, out_channels: int) -> nn.Module:
    """The generator alone, for translation: loads neither MONAI nor lightning."""
    return _METHODS[type(settings)].build_generator(settings, in_channels, out_channels)
