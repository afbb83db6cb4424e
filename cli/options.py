"""Options that several commands share."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

if TYPE_CHECKING:
    from medp2p.config import Config

EXIT_SOME_FAILED = 3
EXIT_INTERRUPTED = 130

Value = TypeVar("Value")

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

Match = Annotated[
    list[str] | None,
    typer.Option(
        "--match",
        metavar="ROLE=PATTERN",
        help="Which image to take where several fit, such as 'source=T1*MPRAGE*', by description, "
        "series key or path; for one patient 'PATIENT/source=KEY'; repeatable.",
        show_default=False,
    ),
]

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
_GROUP_HELP = "DICOM: which group of a series with several kinds of image, from 1"
OneGroup = Annotated[
    int | None,
    typer.Option("--group", metavar="N", min=1, help=f"{_GROUP_HELP}.", show_default=False),
]
Group = Annotated[
    list[int] | None,
    typer.Option(
        "--group",
        metavar="N",
        min=1,
        help=f"{_GROUP_HELP}; once, or once for each source.",
        show_default=False,
    ),
]
_VOLUME_HELP = "Which volume of a file or series of several, from 0"
OneVolume = Annotated[
    int | None,
    typer.Option(
        "--volume",
        metavar="K",
        min=0,
        help=f"{_VOLUME_HELP}. Default: refuse several.",
        show_default=False,
    ),
]
Volumes = Annotated[
    list[int] | None,
    typer.Option(
        "--volume",
        metavar="K",
        min=0,
        help=f"{_VOLUME_HELP}; once, or once for each source. Default: refuse several.",
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
    float | None,
    typer.Option(
        "--orientation-tolerance",
        min=0,
        max=0.1,
        help="DICOM: direction cosines of slices may differ by this. Default: 0.001.",
        show_default=False,
    ),
]
PositionTolerance = Annotated[
    float | None,
    typer.Option(
        "--position-tolerance",
        min=0,
        help="DICOM: slices may lie off their line by this, in mm. Default: 0.05.",
        show_default=False,
    ),
]
GapTolerance = Annotated[
    float | None,
    typer.Option(
        "--gap-tolerance",
        min=0,
        max=0.5,
        help="DICOM: gaps between slices may differ from the median by this share. Default: 0.05.",
        show_default=False,
    ),
]
TiltTolerance = Annotated[
    float | None,
    typer.Option(
        "--tilt-tolerance",
        min=0,
        max=0.5,
        help="DICOM: the line of slices may lean from their normal by this, in degrees. "
        "Default: 0.5.",
        show_default=False,
    ),
]


def settings(
    preset: str | None,
    file: Path | None,
    assignments: list[str] | None,
    overrides: dict[str, Any] | None = None,
) -> "Config":
    """Merge preset, file, single values and a command's own flags."""
    from medp2p.config import load_config

    return load_config(preset=preset, file=file, assignments=assignments or (), overrides=overrides)


def processor_cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def patterns(match: Sequence[str] | None) -> dict[str, str]:
    """Read ``ROLE=PATTERN`` options."""
    named = {}
    for text in match or ():
        role, separator, pattern = text.partition("=")
        if not (role and separator and pattern):
            raise typer.BadParameter(
                f"{text!r}; expected ROLE=PATTERN, such as 'source=T1*'", param_hint="--match"
            )
        named[role.strip()] = pattern.strip()
    return named


def tolerances(
    orientation: float | None, position: float | None, gap: float | None, tilt: float | None
) -> dict[str, Any]:
    """Return the tolerances that were given, by their names in `medp2p.io.DicomOptions`."""
    named = {
        "orientation_tolerance": orientation,
        "position_tolerance_mm": position,
        "gap_tolerance": gap,
        "tilt_tolerance_degrees": tilt,
    }
    return {name: value for name, value in named.items() if value is not None}


def is_dicom(source: Path) -> bool:
    """Say whether a source is read as DICOM: a folder, or a file of no other image format."""
    from medp2p.io import image_suffix, is_picture

    with suppress(OSError):
        return not (image_suffix(source) or is_picture(source)) or source.is_dir()
    return False


def refuse_without_dicom(sources: Iterable[Path], given: Iterable[str]) -> None:
    """Refuse options that only DICOM sources heed where there is none.

    Args:
        sources: Every source of a run.
        given: The options that were given, named as the command or `DicomOptions` has them.
    """
    from medp2p.io import is_picture

    sources = list(sources)
    idle = [name.removesuffix("_mm").removesuffix("_degrees") for name in given]
    if any(map(is_picture, sources)):
        idle = [name for name in idle if name != "series"]  # left or right
    if idle and not any(map(is_dicom, sources)):
        raise typer.BadParameter(
            "only for DICOM sources", param_hint=f"--{idle[0].replace('_', '-')}"
        )


def one_each(values: Sequence[Value], count: int, name: str) -> list[Value | None]:
    """Return one value per source: none given, one for all, or one for each."""
    if len(values) <= 1:
        return [values[0] if values else None] * count
    if len(values) != count:
        raise typer.BadParameter(
            f"{len(values)} for {count} sources; give one, or one for each", param_hint=name
        )
    return list(values)


def refuse_outputs_early(paths: Iterable[Path], overwrite: bool) -> None:
    """Refuse existing outputs before any work is done."""
    from medp2p.files import refuse_existing

    for path in paths:
        refuse_existing(path, overwrite)
