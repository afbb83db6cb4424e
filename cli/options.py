"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from medp2p.config import Config

Preset = Annotated[
    str | None, typer.Option("--preset", "-p", help="A shipped preset; see `medp2p presets`.")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="A YAML file with settings.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="One setting, such as training.epochs=20; repeatable."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[
    str, typer.Option("--device", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps.")
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"],
    typer.Option("--precision", help="auto, fp32 (exact) or bf16 (fast, off by < 0.5 HU)."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Slices at a time.")]


def settings(
    preset: str | None,
    file: Path | None,
    assignments: list[str] | None,
    overrides: dict[str, Any] | None = None,
) -> Config:
    """Merge preset, file, single values and a command's own flags."""
    from medp2p.config import load_config

    return load_config(preset=preset, file=file, assignments=assignments or (), overrides=overrides)


def refuse_outputs_early(paths: Iterable[Path], overwrite: bool) -> None:
    """Refuse existing outputs before any work is done."""
    from medp2p.files import refuse_existing

    for path in paths:
        refuse_existing(path, overwrite)
