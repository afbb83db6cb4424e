"""The extension point: a method is a training recipe that owns its networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from medp2p.batch import Batch

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Method(ABC):
    """Networks, their optimizers, and what one step of training does with them.

    A subclass fills ``networks`` and ``optimizers`` in ``__init__`` (an optimizer has the
    name of the network it updates, and ``networks["generator"]`` translates) and writes
    `training_step`. A training loop calls `setup` once, then `training_step` per batch.

    Several processes: `fabric` must wrap the networks with ``broadcast_buffers=False``,
    because a discriminator is called twice before its backward pass and a broadcast in
    between would overwrite batch-norm statistics that the backward pass needs.
    """

    networks: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]
    fabric: Fabric

    def setup(self, fabric: Fabric) -> None:
        """Move networks and optimizers to fabric's device, precision and processes.

        ``networks`` stay the plain modules, which are saved and called without gradients;
        ``trained`` are the same wrapped, to be called where gradients are wanted.
        """
        self.fabric = fabric
        self.trained: dict[str, nn.Module] = {}
        self._learning_rates: dict[str, list[float]] = {}
        for name, network in self.networks.items():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            optimizer = self.optimizers[name]
            self._learning_rates[name] = [group["lr"] for group in optimizer.param_groups]
            self.trained[name], self.optimizers[name] = fabric.setup(network, optimizer)

    @abstractmethod
    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Update every network once.

        Returns:
            Detached scalar losses by name, on the device: reading them is what waits for it.
        """

    def translate(self, source: Tensor) -> Tensor:
        """Predict the target in evaluation mode, without dropout.

        Args:
            source: (N, C, H, W) on the training device.

        Returns:
            (N, 1, H, W) float32.
        """
        generator = self.networks["generator"].eval()
        with torch.inference_mode(), self.fabric.autocast():
            prediction: Tensor = generator(source).float()
        generator.train()
        return prediction

    def set_learning_rate_factor(self, factor: float) -> None:
        """Set every learning rate to ``factor`` times the one it began with."""
        for name, optimizer in self.optimizers.items():
            for group, initial in zip(
                optimizer.param_groups, self._learning_rates[name], strict=True
            ):
                group["lr"] = initial * factor

    def generator_state(self) -> dict[str, Tensor]:
        """Weights of the generator, which is all that translation needs."""
        return self.networks["generator"].state_dict()

    def state_dict(self) -> dict[str, Any]:
        """Everything that training changes, to go on from later."""
        return {
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "optimizers": {
                name: optimizer.state_dict() for name, optimizer in self.optimizers.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned; call it after `setup`."""
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])


def learning_rate_factor(epoch: int, epochs: int, decay_epochs: int) -> float:
    """Constant, then linearly towards zero, as in the original pix2pix project.

    Args:
        epoch: Counted from 0 to ``epochs + decay_epochs - 1``.
        epochs: Epochs at the full learning rate.
        decay_epochs: Epochs of decay; zero would be reached one epoch after the last.
    """
    return 1.0 - max(0, epoch + 1 - epochs) / (decay_epochs + 1)
