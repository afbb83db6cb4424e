"""Random weights to begin with."""

from __future__ import annotations

from torch import nn


def initialize_weights(network: nn.Module, standard_deviation: float = 0.02) -> None:
    """Draw weights as pix2pix does (Isola et al., CVPR 2017, section 6.2).

    Convolutions from N(0, sd), batch-norm scales from N(1, sd), every bias 0.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, standard_deviation)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, standard_deviation)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
