"""The original PyTorch pix2pix beside medp2p's: how the benchmarks run its code.

The original is junyanz/pytorch-CycleGAN-and-pix2pix; the figures in docs/ are against commit
2a7afba. Nothing of it is part of medp2p: the benchmarks take the path of a checkout.
"""

from __future__ import annotations

import contextlib
import io
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medp2p.pix2pix_import import convert_generator_state


class Original:
    """The networks and the model class of a checkout."""

    def __init__(self, checkout: Path) -> None:
        if not (checkout / "models" / "pix2pix_model.py").is_file():
            sys.exit(f"{checkout}: not a checkout of pytorch-CycleGAN-and-pix2pix")
        sys.path.insert(0, str(checkout))
        from models import networks  # type: ignore[import-not-found]
        from models.pix2pix_model import Pix2PixModel  # type: ignore[import-not-found]

        self.networks, self.model_class = networks, Pix2PixModel

    def generator(self, name: str = "unet_256", norm: str = "batch", dropout: bool = True) -> Any:
        """A generator of one channel in and out with its random initial weights."""
        with contextlib.redirect_stdout(io.StringIO()):
            network = self.networks.define_G(1, 1, 64, name, norm, dropout)
            return self.networks.init_net(network, "normal", 0.02)

    def discriminator(self, norm: str = "batch") -> Any:
        """The basic PatchGAN for one channel of source and one of target."""
        with contextlib.redirect_stdout(io.StringIO()):
            network = self.networks.define_D(2, 64, "basic", 3, norm)
            return self.networks.init_net(network, "normal", 0.02)

    def model(self, device: torch.device, folder: Path = Path(), dropout: bool = True) -> Any:
        """Its pix2pix with the defaults of its train.py, for one channel."""
        options = Namespace(
            isTrain=True, checkpoints_dir=folder, name=".", device=device, preprocess="none",
            input_nc=1, output_nc=1, ngf=64, netG="unet_256", norm="batch",
            no_dropout=not dropout, init_type="normal", init_gain=0.02, ndf=64, netD="basic",
            n_layers_D=3, gan_mode="vanilla", lr=2e-4, beta1=0.5, direction="AtoB",
            lambda_L1=100.0, continue_train=False, verbose=False, lr_policy="linear",
            epoch_count=1, n_epochs=100, n_epochs_decay=100,
        )  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):
            model = self.model_class(options)
            model.setup(options)
        return model


def train_step(model: Any, source: Tensor, target: Tensor) -> dict[str, float]:
    """One step of the original's training; returns its losses, L1 without its weight."""
    model.set_input({"A": source, "B": target, "A_paths": [], "B_paths": []})
    model.optimize_parameters()
    return {
        "discriminator_real": model.loss_D_real.item(),
        "discriminator_fake": model.loss_D_fake.item(),
        "adversarial": model.loss_G_GAN.item(),
        "l1": model.loss_G_L1.item() / 100.0,
    }


def copy_generator(ours: dict[str, Tensor], original: nn.Module) -> None:
    """Put weights of medp2p's generator into the original's, in place."""
    with torch.no_grad():
        for name, tensor in convert_generator_state(original.state_dict())[3].items():
            tensor.copy_(ours[name])


def discriminator_state(original: nn.Module, ours: nn.Module) -> dict[str, Tensor]:
    """The original's discriminator weights by our names: both list them in the same order."""
    return dict(zip(ours.state_dict(), original.state_dict().values(), strict=True))


def structured_pairs(count: int, size: int = 256, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Head-like pairs of ellipses: bone and air both dark in the source, apart in the target.

    Returns:
        Source and target in the generator's range, (count, 1, size, size) each; the target
        stands for -1024 to 3071 HU.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    source = np.zeros((count, 1, size, size), np.float32)
    target = np.full((count, 1, size, size), -1000, np.float32)
    shells = ((1.0, 0.9, -90), (0.95, 0.5, 40), (0.9, 0.05, 1200), (0.83, 0.3, 10), (0.8, 0.6, 38))
    tissues = ((0.45, 35), (0.75, 28), (0.2, 8), (0.03, -1000), (0.05, 700))
    for image, ct in zip(source[:, 0], target[:, 0], strict=True):

        def paint(
            centre: Any, radii: Any, angle: float, values: tuple[float, float],
            image: Any = image, ct: Any = ct,
        ) -> None:  # fmt: skip
            u = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
            v = (y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)
            inside = (u / radii[0]) ** 2 + (v / radii[1]) ** 2 < 1
            image[inside], ct[inside] = values

        radii, centre = rng.uniform([0.55, 0.7], [0.7, 0.85]), rng.uniform(-0.1, 0.1, 2)
        for scale, signal, hu in shells:
            paint(centre, scale * radii, rng.uniform(-0.02, 0.02), (signal, hu))
        for _ in range(14):
            offset = rng.uniform(-0.45, 0.45, 2)
            tissue = tissues[rng.integers(len(tissues))]
            paint(centre + offset, rng.uniform(0.03, 0.15, 2), rng.uniform(0, 3), tissue)
        image += rng.normal(0, 0.03, image.shape)
        ct += rng.normal(0, 20, ct.shape)
    unit_target = (target + 1024) / 4095 * 2 - 1
    return (
        torch.from_numpy(np.clip(source * 2 - 1, -1, 1.5)),
        torch.from_numpy(np.clip(unit_target, -1, 1)),
    )
