"""What a training run tells people: progress, a table, curves and sample pictures."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from medp2p.config import PreprocessingSettings
from medp2p.files import write_text
from medp2p.pictures import write_case_picture
from medp2p.preprocessing import decode
from medp2p.store import PreparedCase, PreparedData

LOG_FILE = "log.csv"
CURVES_FOLDER = "tensorboard"
SAMPLES_FOLDER = "samples"


@dataclass(frozen=True)
class StepReport:
    """What a progress display is told after a step.

    Attributes:
        epoch: The epoch under way, from 1.
        epochs: In all.
        images: Slices trained on since the last report.
        images_done: Of the whole run.
        images_in_all: Of the whole run.
        losses: Mean losses of the epoch so far, by name.
    """

    epoch: int
    epochs: int
    images: int
    images_done: int
    images_in_all: int
    losses: Mapping[str, float]


@dataclass(frozen=True)
class EpochReport:
    """What a display is told after an epoch: mean losses and, when validated, metrics."""

    epoch: int
    losses: Mapping[str, float]
    metrics: Mapping[str, float]
    images_per_second: float


class Display:
    """What watches a run; this one is silent."""

    def step(self, report: StepReport) -> None:
        """Called after steps whose losses were looked at."""

    def epoch(self, report: EpochReport) -> None:
        """Called after an epoch."""


class RunRecords:
    """The log, the TensorBoard curves and the samples of one run.

    Args:
        folder: The run's output folder.
        epoch: Epochs finished so far; later entries of an interrupted run are dropped.
        metric_names: Columns of the log for validation.
    """

    def __init__(self, folder: Path, epoch: int, metric_names: Sequence[str]) -> None:
        self._folder = folder
        self._metric_names = metric_names
        self._curves = SummaryWriter(str(folder / CURVES_FOLDER), purge_step=epoch + 1)
        self._forget_after(epoch)

    def add(self, epoch: int, losses: Mapping[str, float], metrics: Mapping[str, float]) -> None:
        """Append an epoch's mean losses and, if it was validated, its metrics."""
        row = {"epoch": epoch, **losses} | {n: metrics.get(n, "") for n in self._metric_names}
        path = self._folder / LOG_FILE
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        for name, value in losses.items():
            self._curves.add_scalar(f"loss/{name}", value, epoch)
        for name, value in metrics.items():
            self._curves.add_scalar(name.replace("_", "/", 1), value, epoch)
        self._curves.flush()

    def add_sample(
        self,
        epoch: int,
        data: PreparedData,
        case: PreparedCase,
        prediction: NDArray[np.float32],
        target: NDArray[np.float32],
        settings: PreprocessingSettings,
    ) -> None:
        """Write the picture of a validation case; prediction and target are (K, J, I)."""
        write_case_picture(
            self._folder / SAMPLES_FOLDER / f"epoch_{epoch:04d}.png",
            decode(data.source(case)[0]),
            prediction,
            target,
            data.mask(case) > 0,
            spacing_kji=case.grid.spacing_mm[::-1].tolist(),
            modalities=(settings.source.modality, settings.target.modality),
        )

    def close(self) -> None:
        """Close the curves."""
        self._curves.close()

    def _forget_after(self, epoch: int) -> None:
        path = self._folder / LOG_FILE
        if not path.exists():
            return
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
        kept = [row for row in rows[1:] if row and int(row[0]) <= epoch]
        lines = [",".join(row) for row in [rows[0], *kept]]
        write_text(path, "\n".join(lines) + "\n", overwrite=True)
