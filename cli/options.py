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

_SERIES_HELP = "DICOM: which series, by the key or number that `medp2p inspect` shows, or its UID"
OneSeries = Annotated[
    str | None, typer.Option("--series", metavar="KEY", help=f"{_SERIES_HELP}.", show_default=False)
]
Series = Annotated[
    list[str] | None,
    typer.Option(
        "--series",
        metavar="KEY",
        help=f"{_SERIES_HELP}; once, or once for each source.",
        show_default=False,
    ),
]
Group = Annotated[
    int | None,
    typer.Option(
        "--group",
        metavar="N",
        min=1,
        help="DICOM: which group of a series with several kinds of image, from 1.",
        show_default=False,
    ),
]
VolumeNumber = Annotated[
    int | None,
    typer.Option(
        "--volume",
        metavar="K",
        min=0,
        help="Which volume of a file or series of several, from 0. Default: refuse several.",
        show_default=False,
    ),
]
Resample = Annotated[
    bool,
    typer.Option(
        "--resample",
        help="Regrid (linear interpolation) axes that are not perpendicular, and DICOM slices "
        "that are missing, uneven, shifted or tilted.",
    ),
]
OrientationTolerance = Annotated[
    float,
    typer.Option(
        "--orientation-tolerance",
        min=0,
        max=0.1,
        help="DICOM: direction cosines of slices may differ by this.",
    ),
]
PositionTolerance = Annotated[
    float,
    typer.Option(
        "--position-tolerance", min=0, help="DICOM: slices may lie off their line by this, in mm."
    ),
]
GapTolerance = Annotated[
    float,
    typer.Option(
        "--gap-tolerance",
        min=0,
        max=0.5,
        help="DICOM: gaps between slices may differ from the median by this share.",
    ),
]
TiltTolerance = Annotated[
    float,
    typer.Option(
        "--tilt-tolerance",
        min=0,
        max=0.5,
        help="DICOM: the line of slices may lean from their normal by this, in degrees.",
    ),
]


def settings(
    preset: str | None,
    file: Path | None,
    assignments: list[str] | None,
    overrides: dict[str, Any] | None = None,
) -> Config:
    """Merge preset, file, single values and a command's own flags."""
    from medp2p.config import load_config

    return load_config(preset=preset, file=file, assignments=assignments or (), overrides=overrides)


def refuse_without_dicom(paths: Iterable[Path], **given: object) -> None:
    """Refuse options that only DICOM sources heed where there is none."""
    from medp2p.io import image_suffix

    idle = [name for name, value in given.items() if value]
    if idle and all(image_suffix(path) for path in paths):
        raise typer.BadParameter("only for DICOM sources", param_hint=f"--{idle[0]}")


def one_each(values: list[str], count: int, name: str) -> list[str | None]:
    """Return one value per source: none given, one for all, or one for each."""
    if len(values) <= 1:
        return [values[0] if values else None] * count
    if len(values) != count:
        raise typer.BadParameter(f"{len(values)} for {count} sources", param_hint=name)
    return list(values)


def refuse_outputs_early(paths: Iterable[Path], overwrite: bool) -> None:
    """Refuse existing outputs before any work is done."""
    from medp2p.files import refuse_existing

    for path in paths:
        refuse_existing(path, overwrite)
