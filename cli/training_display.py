"""What a training run shows: a bar within the epoch, and a line after it."""

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import typer

from medp2p.run_records import Display, EpochReport, StepReport

from .progress import progress_bar

_TISSUES = ("air_hu", "soft_hu", "bone_hu")


class TrainingDisplay(Display):
    """Shows progress on stderr."""

    def __init__(self) -> None:
        self._bar = ExitStack()
        self._advance: Callable[..., None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def step(self, report: StepReport) -> None:
        """Advance the bar over all epochs."""
        if self._advance is None:
            left = report.images_in_all - report.images_done + report.images
            self._advance = self._bar.enter_context(progress_bar("training", left, "img"))
        losses = "  ".join(f"{name} {value:.3g}" for name, value in report.losses.items())
        self._advance(report.images, f"epoch {report.epoch}/{report.epochs}  {losses}")

    def epoch(self, report: EpochReport) -> None:
        """Print the validation result, if there is one."""
        if report.metrics:
            shown = {k: v for k, v in report.metrics.items() if not k.endswith(_TISSUES)}
            metrics = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
            typer.echo(f"epoch {report.epoch}: validation {metrics}", err=True)
