"""The one training loop.

Every random number of a step comes from the run's seed, the epoch, the step and the process,
so that a run that was killed anywhere and resumed from its last saved state ends, on the
same CPU, with the very weights of one that was never interrupted.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from numpy.typing import NDArray
from torch import Tensor

from medp2p.augmentation import augment
from medp2p.checkpoint import (
    ModelCard,
    load_model,
    load_state,
    load_weights,
    save_model,
    save_state,
)
from medp2p.config import EIGHT_BIT, Config, config_yaml, validate_config
from medp2p.dataset import SliceBatches
from medp2p.devices import choose_device, resolve_precision
from medp2p.errors import (
    CheckpointError,
    ConfigError,
    OutputError,
    PreparedDataError,
    TrainingError,
)
from medp2p.files import output_errors, write_text
from medp2p.fingerprint import fingerprint
from medp2p.inference import predict_volume
from medp2p.methods import build_method
from medp2p.methods.base import Method, learning_rate_factor
from medp2p.metrics import (
    PICTURE_PROFILE,
    PROFILES,
    Profile,
    available_metrics,
    metric_names,
    range_profile,
)
from medp2p.preprocessing import MR_UNIT_LIMITS, decode, from_unit
from medp2p.run_records import Display, EpochReport, RunRecords, StepReport
from medp2p.signals import StopRequest, stop_signals
from medp2p.store import PreparedCase, PreparedData
from medp2p.versions import library_versions

MODEL_FILE = "model.safetensors"
STATE_FILE = "state.pt"
CONFIG_FILE = "config.yaml"
LOCK_FILE = ".lock"

DEVICE_MEMORY_SHARE = 0.5
"""Prepared voxels move to the device if they take less than this share of its free memory."""

STEPS_BETWEEN_CHECKS = {"cpu": 1, "cuda": 50}
"""Losses are looked at this often: looking waits for the device."""


@dataclass
class Progress:
    """Where a run stands; saved with the training state.

    Attributes:
        epoch: Epochs finished.
        step: Steps finished of the epoch under way.
        sums: Loss sums of the epoch under way, by name.
        best_mae: Lowest validation MAE so far.
        validations_since_best: For early stopping.
        metrics: Validation metrics of the saved model.
        model_epoch: Epoch that the saved model comes from.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    best_mae: float = math.inf
    validations_since_best: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    model_epoch: int = 0


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        model: The model file of the best validation, or of the end where there is none.
        epochs: Epochs finished.
        interrupted: Whether a signal ended it; ``--resume`` goes on.
        metrics: Validation metrics of the model.
        leading: Whether this process is the one of several that reports.
    """

    model: Path
    epochs: int
    interrupted: bool
    metrics: Mapping[str, float]
    leading: bool


def train(
    prepared: Path,
    output: Path,
    config: Config | None,
    *,
    resume: bool = False,
    init: Path | None = None,
    device: str = "auto",
    processes: int = 1,
    display: Display | None = None,
) -> TrainingResult:
    """Train a model on a prepared folder.

    Args:
        prepared: From `medp2p.preparation.prepare`.
        output: Folder for ``model.safetensors``, ``state.pt``, ``config.yaml``, ``log.csv``,
            ``samples/`` and ``tensorboard/``.
        config: The settings; None when resuming, where the run's own are used.
        resume: Go on from the state in ``output``.
        init: A model file whose weights the generator starts from (fine-tuning).
        device: As for `medp2p.inference.make_translator`.
        processes: Devices to train on, or CPU processes; under torchrun or SLURM leave 1.
        display: Told of progress.

    Raises:
        TrainingError: If a loss is not finite, or memory runs out.
        OutputError: If ``output`` is not empty, another run writes there, or it cannot be
            written.
        PreparedDataError: If the prepared folder does not fit the settings.
        CheckpointError: If the state or ``init`` cannot be used.
    """
    state = load_state(output / STATE_FILE) if resume else None
    config = _settle_config(config, state, output)
    if state is None:
        _refuse_used_folder(output)
    elif init is not None:
        raise ConfigError(f"{output}: a resumed run keeps its weights; leave out --init")
    data = PreparedData(prepared)
    preprocessing = config.preprocessing.with_landmarks_of(data.preprocessing)
    config = config.model_copy(update={"preprocessing": preprocessing})
    data.check_preprocessing(config.preprocessing)
    data.choose_fold(config.training.fold)
    fabric = _make_fabric(device, config, processes)
    with _device_memory_errors(config), output_errors(output), _sole_run(output, fabric):
        watcher = display if display and fabric.is_global_zero else Display()
        run = TrainingRun(data, output, config, fabric, watcher)
        run.begin(state, init)
        return run.go()


class TrainingRun:
    """One run in one process."""

    def __init__(
        self, data: PreparedData, output: Path, config: Config, fabric: Fabric, display: Display
    ) -> None:
        self.data = data
        self.output = output
        self.config = config
        self.fabric = fabric
        self.display = display
        self.progress = Progress()
        self._saved = time.monotonic()
        self.total_epochs = config.training.epochs + config.training.decay_epochs
        torch.manual_seed(config.training.seed)
        self.method = self._build_method()
        self.batches = SliceBatches(
            data, data.split("train"), config.slices, fabric.device, _memory_for_data(fabric)
        )
        self.steps = self._steps_per_epoch()
        self.validation = data.split("validation")
        self.target_range = _typical_range(data)
        self.profile = _validation_profile(config)

    @property
    def metric_prefix(self) -> str:
        """Says in a metric's name that it comes from validation, and from unit values for MR."""
        return "validation_" if self.profile.units else "validation_unit_"

    def begin(self, state: Mapping[str, Any] | None, init: Path | None) -> None:
        """Take up a saved state or the weights of another model."""
        if init is not None:
            weights = load_model(init).generator.state_dict()
            load_weights(self.method.networks["generator"], weights, init)
        self.method.setup(self.fabric)
        if self.fabric.is_global_zero:
            self.data.verify()
        if state is not None:
            _check_same_data(state, self.data)
            self.method.load_state_dict(state["method"])
            self.progress = Progress(**state["progress"])
        elif self.fabric.is_global_zero:
            write_text(self.output / CONFIG_FILE, config_yaml(self.config))
            self._save_state()
        if self.fabric.is_global_zero:
            self.records = RunRecords(
                self.output,
                self.progress.epoch,
                [f"{self.metric_prefix}{name}" for name in metric_names(self.profile)],
            )

    def go(self) -> TrainingResult:
        """Train to the end, or until a signal or early stopping."""
        with stop_signals() as stop, ExitStack() as closing:
            if self.fabric.is_global_zero:
                closing.callback(self.records.close)
            while self.progress.epoch < self.total_epochs and not self._out_of_patience():
                if not self._train_epoch(stop):
                    self._save_state()
                    return self._result(interrupted=True)
                self._finish_epoch()
        return self._result(interrupted=False)

    def _train_epoch(self, stop: StopRequest) -> bool:
        """Train one epoch, or its rest; return False if a signal asked to stop."""
        training, progress = self.config.training, self.progress
        factor = learning_rate_factor(progress.epoch, training.epochs, training.decay_epochs)
        self.method.set_learning_rate_factor(factor)
        order = self._epoch_order()
        every = STEPS_BETWEEN_CHECKS.get(self.fabric.device.type, 1)
        window: list[dict[str, Tensor]] = []
        self._began, self._images = time.perf_counter(), 0
        while progress.step < self.steps:
            window.append(self._train_step(order))
            progress.step += 1
            if len(window) < every and progress.step < self.steps:
                continue
            self._look_at(window)
            window = []
            if self._anyone(stop.requested):
                return False
            self._save_state_if_due()
        return True

    def _train_step(self, order: Sequence[int]) -> dict[str, Tensor]:
        size, rank = self.config.training.batch_size, self.fabric.global_rank
        progress = self.progress
        seed = _seed(self.config.training.seed, progress.epoch, progress.step, rank)
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        first = (progress.step * self.fabric.world_size + rank) * size
        batch = self.batches.gather(order[first : first + size], generator)
        batch = augment(batch, self.config.augmentation, generator)
        return self.method.training_step(batch)

    def _look_at(self, window: Sequence[Mapping[str, Tensor]]) -> None:
        """Bring the window's losses to the host, refuse NaN, add them up and report."""
        names = list(window[0])
        values = torch.stack([torch.stack([losses[n].float() for n in names]) for losses in window])
        rows = values.cpu().tolist()
        progress = self.progress
        for number, row in enumerate(rows):
            for name, value in zip(names, row, strict=True):
                if not math.isfinite(value):
                    step = progress.step - len(rows) + number + 1
                    raise TrainingError(
                        f"the loss {name} is {value} at epoch {progress.epoch + 1}, step {step}; "
                        "lower method.learning_rate, or train with training.precision=fp32, and "
                        "--resume from the last saved state"
                    )
                progress.sums[name] = progress.sums.get(name, 0.0) + value
        per_step = self.config.training.batch_size * self.fabric.world_size
        images = len(window) * per_step
        self._images += images
        self.display.step(
            StepReport(
                epoch=progress.epoch + 1,
                epochs=self.total_epochs,
                images=images,
                images_done=(progress.epoch * self.steps + progress.step) * per_step,
                images_in_all=self.total_epochs * self.steps * per_step,
                losses=self._mean_losses(),
            )
        )

    def _finish_epoch(self) -> None:
        progress, training = self.progress, self.config.training
        losses = self._mean_losses()
        rate = self._images / max(time.perf_counter() - self._began, 1e-9)
        progress.epoch += 1
        progress.step, progress.sums = 0, {}
        last = progress.epoch == self.total_epochs
        metrics: dict[str, float] = {}
        if progress.epoch % training.validate_every == 0 or last:
            metrics = self._validate()
            self._keep_if_best(metrics)
        if self.fabric.is_global_zero:
            named = {f"{self.metric_prefix}{name}": value for name, value in metrics.items()}
            self.records.add(progress.epoch, losses, named)
        if last or self._out_of_patience():
            self._save_state()
        self.display.epoch(EpochReport(progress.epoch, losses, metrics, rate))

    def _validate(self) -> dict[str, float]:
        """Translate whole validation volumes; mean metrics over them, the same everywhere."""
        if not self.validation:
            return {}
        keys = metric_names(self.profile)
        sums = np.zeros((len(keys), 2))
        for case in self.validation[self.fabric.global_rank :: self.fabric.world_size]:
            prediction, target = self._predict(case)
            values, _ = available_metrics(
                prediction, target, self.data.mask(case) > 0, self.profile
            )
            row = np.array([values[key] for key in keys])
            known = np.isfinite(row)
            sums += np.stack([np.where(known, row, 0), known], axis=1)
            if case is self.validation[0]:
                self._write_sample(case, prediction, target)
        total: Any = self.fabric.all_reduce(
            torch.from_numpy(sums).to(self.fabric.device), reduce_op="sum"
        )
        pairs = zip(keys, total.tolist(), strict=True)
        return {key: value / count for key, (value, count) in pairs if count}

    def _predict(self, case: PreparedCase) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Prediction and target of one case on its training grid; for MR in unit values."""
        unit = predict_volume(
            self.method.translate,
            decode(self.data.source(case)),
            self.config.slices,
            self.fabric.device,
            self.config.training.batch_size,
        )
        target = decode(self.data.target(case))
        if self.profile.units is None:
            return np.clip(unit, *self.profile.value_range), target
        prediction = np.clip(from_unit(unit, self.target_range), *self.target_range)
        return prediction, from_unit(target, self.target_range)

    def _keep_if_best(self, metrics: Mapping[str, float]) -> None:
        progress = self.progress
        mae = metrics.get(self.profile.mae_key, -math.inf)
        if mae >= progress.best_mae:
            progress.validations_since_best += 1
            return
        if metrics:
            progress.best_mae, progress.validations_since_best = mae, 0
        progress.metrics, progress.model_epoch = dict(metrics), progress.epoch
        if self.fabric.is_global_zero:
            save_model(
                self.output / MODEL_FILE,
                self.method.generator_state(),
                self._card(),
                overwrite=True,
            )

    def _card(self) -> ModelCard:
        return ModelCard(
            config=self.config,
            source_names=tuple(self.data.sources),
            target_range=self.target_range,
            fingerprint=self._fingerprint,
            metrics={
                f"{self.metric_prefix}{name}": value
                for name, value in self.progress.metrics.items()
            },
            progress={"epoch": self.progress.model_epoch},
            versions=library_versions(),
        )

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        return fingerprint(self.data)

    def _save_state_if_due(self) -> None:
        if time.monotonic() - self._saved >= 60 * self.config.training.save_minutes:
            self._save_state()

    def _save_state(self) -> None:
        if self.fabric.is_global_zero:
            state = {
                "config": self.config.model_dump(mode="json"),
                "prepared_sha256": self.data.hash,
                "progress": vars(self.progress),
                "method": self.method.state_dict(),
            }
            save_state(self.output / STATE_FILE, state)
        self._saved = time.monotonic()

    def _write_sample(
        self, case: PreparedCase, prediction: NDArray[np.float32], target: NDArray[np.float32]
    ) -> None:
        self.records.add_sample(
            self.progress.epoch,
            self.data,
            case,
            prediction,
            target,
            self.config.preprocessing,
        )

    def _build_method(self) -> Method:
        channels = len(self.data.sources) * self.config.slices.stack
        return build_method(self.config.method, in_channels=channels, out_channels=1)

    def _steps_per_epoch(self) -> int:
        training = self.config.training
        if not self.batches.samples:
            raise TrainingError(
                "no slice to train on: none has "
                f"slices.minimum_mask_fraction = {self.config.slices.minimum_mask_fraction:g} of "
                "body; lower it"
            )
        slices = training.slices_per_epoch or len(self.batches.samples)
        steps = slices // (training.batch_size * self.fabric.world_size)
        if steps < 1:
            raise TrainingError(
                f"{slices} slices to train on are fewer than one batch of {training.batch_size} "
                f"in {self.fabric.world_size} process(es); lower training.batch_size or add cases"
            )
        return steps

    def _epoch_order(self) -> list[int]:
        """Sample numbers of this epoch in order, the same in every process."""
        generator = torch.Generator().manual_seed(
            _seed(self.config.training.seed, self.progress.epoch, -1, 0)
        )
        count = self.config.training.slices_per_epoch or len(self.batches.samples)
        order: list[int] = []
        while len(order) < count:
            order += torch.randperm(len(self.batches.samples), generator=generator).tolist()
        return order[:count]

    def _mean_losses(self) -> dict[str, float]:
        return {name: total / self.progress.step for name, total in self.progress.sums.items()}

    def _out_of_patience(self) -> bool:
        patience = self.config.training.patience
        return patience is not None and self.progress.validations_since_best >= patience

    def _anyone(self, flag: bool) -> bool:
        """Whether any process has the flag set."""
        if self.fabric.world_size == 1:
            return flag
        total: Any = self.fabric.all_reduce(
            torch.tensor(float(flag), device=self.fabric.device), reduce_op="sum"
        )
        return bool(total > 0)

    def _result(self, *, interrupted: bool) -> TrainingResult:
        return TrainingResult(
            model=self.output / MODEL_FILE,
            epochs=self.progress.epoch,
            interrupted=interrupted,
            metrics=self.progress.metrics,
            leading=self.fabric.is_global_zero,
        )


@contextmanager
def _device_memory_errors(config: Config) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_out_of_memory(error):
            raise
        raise TrainingError(
            "memory ran out; lower training.batch_size (now "
            f"{config.training.batch_size}), slices.size (now {list(config.slices.size)}) or "
            f"method.generator.channels (now {config.method.generator.channels})"
        ) from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or torch's allocator on the host, ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _settle_config(config: Config | None, state: Mapping[str, Any] | None, output: Path) -> Config:
    if state is not None:
        if config is not None:
            raise ConfigError(
                f"{output}: a resumed run keeps its settings; leave out --preset, --config and "
                "--set, or start a new run with --init"
            )
        try:
            return validate_config(state["config"], str(output / STATE_FILE))
        except (KeyError, ConfigError) as error:
            raise CheckpointError(
                f"{output / STATE_FILE}: its settings cannot be read: {error}"
            ) from error
    if config is None:
        raise ValueError("training needs settings unless it resumes a run")
    return config


def _make_fabric(device: str, config: Config, processes: int) -> Fabric:
    place = choose_device(device)
    precision = resolve_precision(config.training.precision, place)
    here, world = _processes(processes)
    fabric = Fabric(
        accelerator=place.type,
        devices=here if place.index is None else [place.index],
        num_nodes=world // here,
        strategy=DDPStrategy(broadcast_buffers=False) if world > 1 else "auto",
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


def _processes(asked: int) -> tuple[int, int]:
    """Processes on this machine and in all: as torchrun or SLURM started them, or as asked."""
    world = int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or asked)
    here = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE")
    return int(here or world), world


def _refuse_used_folder(output: Path) -> None:
    """Refuse to start a run in a folder that holds anything."""
    if (output / STATE_FILE).exists():
        raise OutputError(f"{output}: holds a run already; --resume it or name another folder")
    if not output.exists():
        return
    if not output.is_dir() or {entry.name for entry in output.iterdir()} - {LOCK_FILE}:
        raise OutputError(f"{output}: exists already and is not empty; name another folder")


@contextmanager
def _sole_run(output: Path, fabric: Fabric) -> Iterator[None]:
    """Hold the run folder's lock, so that two runs never write into one folder."""
    if not fabric.is_global_zero:
        yield
        return
    output.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(output / LOCK_FILE, timeout=0):
            yield
    except Timeout as error:
        raise OutputError(
            f"{output}: another run is writing there; wait for it or name another folder"
        ) from error


def _typical_range(data: PreparedData) -> tuple[float, float]:
    """What -1 and +1 stand for in the output: the median over training cases (CT: the same)."""
    ranges = [case.target_range for case in data.split("train")]
    if not ranges:
        raise PreparedDataError(f"{data.folder}: no case is in the split 'train'")
    low, high = np.median(ranges, axis=0)
    return float(low), float(high)


def _validation_profile(config: Config) -> Profile:
    """HU for CT. MR scans have no common scale: -1 and +1 are each target's own percentiles."""
    if config.preprocessing.target.modality == "CT":
        return PROFILES["synthrad2025"]
    if config.preprocessing.target.modality == EIGHT_BIT:
        return PICTURE_PROFILE
    return range_profile(*MR_UNIT_LIMITS)


def _check_same_data(state: Mapping[str, Any], data: PreparedData) -> None:
    if state["prepared_sha256"] != data.hash:
        raise PreparedDataError(
            f"{data.folder}: not the data that the run began with; resume with those, or start "
            "a new run with --init"
        )


def _memory_for_data(fabric: Fabric) -> float:
    if fabric.device.type != "cuda":
        return math.inf
    free, _ = torch.cuda.mem_get_info(fabric.device)
    return free * DEVICE_MEMORY_SHARE


def _seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """A seed of 63 bits that differs for every step of every process."""
    sequence = np.random.SeedSequence([seed, epoch, step + 1, rank])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
