"""pix2pix: Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, 2017."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Adam

from medp2p.batch import Batch
from medp2p.config import Pix2PixSettings
from medp2p.losses import adversarial_loss, l1, masked_l1
from medp2p.methods.base import Method
from medp2p.networks.initialization import initialize_weights
from medp2p.networks.patchgan import PatchDiscriminator
from medp2p.networks.unet import UNetGenerator


class Pix2Pix(Method):
    """A generator that must please a conditional PatchGAN and stay close to the target.

    Args:
        settings: The recipe.
        in_channels: Channels of the source.
        out_channels: Channels of the target.
    """

    def __init__(self, settings: Pix2PixSettings, in_channels: int, out_channels: int) -> None:
        self.settings = settings
        discriminator = settings.discriminator
        self.networks = {
            "generator": self.build_generator(settings, in_channels, out_channels),
            "discriminator": PatchDiscriminator(
                in_channels + out_channels,
                channels=discriminator.channels,
                layers=discriminator.layers,
                norm=discriminator.norm,
            ),
        }
        for network in self.networks.values():
            initialize_weights(network, settings.initial_weight_sd)
        self.optimizers = {
            name: Adam(
                network.parameters(), lr=settings.learning_rate, betas=settings.betas, fused=True
            )
            for name, network in self.networks.items()
        }

    @staticmethod
    def build_generator(
        settings: Pix2PixSettings, in_channels: int, out_channels: int
    ) -> UNetGenerator:
        """The generator alone, with weights still to be loaded."""
        generator = settings.generator
        return UNetGenerator(
            in_channels,
            out_channels,
            levels=generator.levels,
            channels=generator.channels,
            norm=generator.norm,
            dropout=generator.dropout,
            upsampling=generator.upsampling,
            head=generator.head,
        )

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """One update of the discriminator, then one of the generator, on the same prediction.

        Returns:
            ``discriminator_real``, ``discriminator_fake`` and ``adversarial`` (before any
            weight) and ``l1`` (in units of the [-1, 1] range).
        """
        prediction = self.trained["generator"](batch.source)
        losses = self._update_discriminator(batch, prediction.detach())
        return losses | self._update_generator(batch, prediction)

    def _update_discriminator(self, batch: Batch, prediction: Tensor) -> dict[str, Tensor]:
        discriminator, optimizer = self.trained["discriminator"], self.optimizers["discriminator"]
        kind = self.settings.adversarial_loss
        optimizer.zero_grad()
        # One call for fakes and one for reals: batch norm must not mix them.
        fake = adversarial_loss(discriminator(_pair(batch, prediction)), real=False, kind=kind)
        real = adversarial_loss(discriminator(_pair(batch, batch.target)), real=True, kind=kind)
        self.fabric.backward(0.5 * (fake + real))
        optimizer.step()
        return {"discriminator_real": real.detach(), "discriminator_fake": fake.detach()}

    def _update_generator(self, batch: Batch, prediction: Tensor) -> dict[str, Tensor]:
        settings, optimizer = self.settings, self.optimizers["generator"]
        # The plain module: frozen, it has no gradients to exchange between processes.
        discriminator = self.networks["discriminator"]
        optimizer.zero_grad()
        _require_gradients(discriminator, False)
        with self.fabric.autocast():
            logits = discriminator(_pair(batch, prediction))
        adversarial = adversarial_loss(logits, real=True, kind=settings.adversarial_loss)
        if settings.masked_l1:
            distance = masked_l1(prediction, batch.target, batch.mask)
        else:
            distance = l1(prediction, batch.target)
        self.fabric.backward(
            settings.adversarial_weight * adversarial + settings.l1_weight * distance
        )
        _require_gradients(discriminator, True)
        optimizer.step()
        return {"adversarial": adversarial.detach(), "l1": distance.detach()}


def _pair(batch: Batch, target: Tensor) -> Tensor:
    return torch.cat([batch.source, target], dim=1)


def _require_gradients(network: nn.Module, required: bool) -> None:
    for parameter in network.parameters():
        parameter.requires_grad_(required)
