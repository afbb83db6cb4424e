"""What comes out of training: the model file, and the state to go on from.

The model file is safetensors: the generator's weights, and as metadata all else that
translation needs, as JSON. It holds no pickle. The training state is a ``torch.save`` file,
read with ``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from medp2p.config import Config, stored_config
from medp2p.errors import CheckpointError, ConfigError
from medp2p.files import atomic_file
from medp2p.methods import build_generator

MODEL_VERSION = 1
"""Raised when a model file of an older medp2p can no longer be read as it is."""

METADATA_KEY = "medp2p"
STATE_KEYS = {"config", "prepared_sha256", "progress", "method"}

BatchNorm = Literal["running", "per_batch"]


@dataclass(frozen=True)
class ModelCard:
    """Everything about a model but its weights.

    Attributes:
        config: The resolved configuration that trained it.
        source_names: The source contrasts, in channel order.
        target_range: Values (HU or MR units) that -1 and +1 stand for in the output.
        batch_norm: Statistics that batch norm uses in translation: those of training, or
            those of each image (as the original pix2pix's test script does).
        fingerprint: What the training data looked like: number of cases, spacing, extent, and
            quantiles of the source's values inside the body.
        metrics: Validation metrics of these weights, by name.
        progress: Epoch and step of these weights.
        versions: Of the libraries at training.
    """

    config: Config
    source_names: tuple[str, ...]
    target_range: tuple[float, float]
    batch_norm: BatchNorm = "running"
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    progress: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A generator ready for `medp2p.inference.translate`.

    Attributes:
        generator: (N, C·stack, H, W) to (N, 1, H, W), in evaluation mode.
        card: Everything else.
        hash: SHA-256 of weights and card; names the model in what it makes.
    """

    generator: nn.Module
    card: ModelCard
    hash: str


def save_model(
    path: Path, weights: Mapping[str, Tensor], card: ModelCard, *, overwrite: bool = False
) -> str:
    """Write a model file and return its hash.

    Raises:
        OutputError: If it exists already or cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    description = {"version": MODEL_VERSION, "card": card_values(card)}
    digest = _hash(tensors, description)
    # One key: safetensors writes several in an order that differs from run to run.
    metadata = {METADATA_KEY: json.dumps({**description, "sha256": digest}, sort_keys=True)}
    with atomic_file(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(serialize(tensors, metadata=metadata))
    return digest


def load_model(path: str | Path) -> Model:
    """Read a model file.

    Raises:
        CheckpointError: If it is missing, not a model file, a pickle, damaged, or of a newer
            version.
    """
    path = Path(path)
    description, tensors = _read(path, with_weights=True)
    card = _card_of(path, description)
    digest = description.pop("sha256")
    if _hash(tensors, description) != digest:
        raise CheckpointError(f"{path}: damaged, its checksum does not match; copy it again")
    generator = build_generator(
        card.config.method,
        in_channels=len(card.source_names) * card.config.slices.stack,
        out_channels=1,
    )
    load_weights(generator, tensors, path)
    return Model(generator.eval(), card, digest)


def read_card(path: str | Path) -> tuple[ModelCard, str]:
    """Read a model file's card and hash without its weights.

    Raises:
        CheckpointError: As `load_model`.
    """
    path = Path(path)
    description, _ = _read(path, with_weights=False)
    return _card_of(path, description), description["sha256"]


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Put weights into a network of the same architecture.

    Raises:
        CheckpointError: If names or shapes differ, naming the first.
    """
    expected = network.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        ours = tuple(expected[name].shape) if name in expected else "nothing"
        theirs = tuple(weights[name].shape) if name in weights else "nothing"
        if ours != theirs:
            raise CheckpointError(
                f"{path}: holds {theirs} for {name}, the configured network has {ours}; "
                "use the settings that it was trained with"
            )
    network.load_state_dict(dict(weights))


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a training state, replacing an earlier one.

    Raises:
        OutputError: If it cannot be written.
    """
    data = io.BytesIO()
    torch.save(dict(state), data)
    with atomic_file(path, overwrite=True) as temporary:
        temporary.write_bytes(data.getbuffer())


def load_state(path: Path) -> dict[str, Any]:
    """Read a training state onto the CPU.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; nothing to resume, train without --resume")
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, KeyError) as error:
        raise _no_state(path) from error
    if not isinstance(state, dict) or not state.keys() >= STATE_KEYS:
        raise _no_state(path)
    return state


def _no_state(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: not a training state, or damaged; train again into another folder"
    )


def _read(path: Path, *, with_weights: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such model file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys() if with_weights else []
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {_what_it_is(path)}") from error
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{path}: a safetensors file, but not of medp2p; expected what `medp2p train` writes"
        )
    description = _description(path, metadata[METADATA_KEY])
    if description["version"] > MODEL_VERSION:
        raise CheckpointError(
            f"{path}: model format {description['version']}, this medp2p reads up to "
            f"{MODEL_VERSION}; install a newer medp2p"
        )
    return description, tensors


def _description(path: Path, text: str) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(text)
        if isinstance(values["version"], int) and isinstance(values["sha256"], str):
            return values
    except (KeyError, TypeError, ValueError):
        pass
    raise CheckpointError(f"{path}: its description cannot be read; copy the file again")


def _what_it_is(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
        return (
            "a pickled PyTorch file, which can run any code and is not opened; expected a "
            "model.safetensors (`medp2p import-pix2pix` reads the original project's weights)"
        )
    return "not a model file, or cut off; expected a model.safetensors, copy it again"


def _hash(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def card_values(card: ModelCard) -> dict[str, Any]:
    """A card as plain values for JSON."""
    return {
        "config": card.config.model_dump(mode="json"),
        "source_names": list(card.source_names),
        "target_range": list(card.target_range),
        "batch_norm": card.batch_norm,
        "fingerprint": dict(card.fingerprint),
        "metrics": dict(card.metrics),
        "progress": dict(card.progress),
        "versions": dict(card.versions),
    }


def _card_of(path: Path, description: Mapping[str, Any]) -> ModelCard:
    try:
        values = description["card"]
        low, high = values["target_range"]
        return ModelCard(
            **{
                **values,
                "config": stored_config(values["config"], str(path)),
                "source_names": tuple(values["source_names"]),
                "target_range": (low, high),
            }
        )
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path}: its description cannot be read: {error}") from error
