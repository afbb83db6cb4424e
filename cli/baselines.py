"""``medp2p baselines``: what a model must beat."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from medp2p.errors import ManifestError

from . import options
from .progress import progress_bar


def baselines(
    prepared: Annotated[Path, typer.Argument(help="Folder made by `medp2p prepare`.")],
    output: Annotated[Path, typer.Argument(help="Gets constant/CASE.nii.gz and intensity/…")],
    split: Annotated[
        Literal["train", "validation", "test"],
        typer.Option("--split", help="Cases to predict."),
    ] = "test",
    overwrite: options.Overwrite = False,
) -> None:
    """Predict without anatomy, to have something to beat.

    One baseline is a single value for the whole body, the other the best function of the
    source's intensity alone. Both are fitted on the training split; a model that uses
    anatomy must beat them.
    """
    count = write_baselines(prepared, output, split=split, overwrite=overwrite)
    typer.echo(f"{output}: {count} cases by constant and by intensity")


def write_baselines(prepared: Path, output: Path, *, split: str, overwrite: bool) -> int:
    """Predict a split's cases into ``output/constant`` and ``output/intensity``."""
    from medp2p.baselines import fit_baselines, predict_case
    from medp2p.io import VoxelType, write_volume
    from medp2p.manifest import read_manifest
    from medp2p.preparation.previous import MANIFEST_FILE
    from medp2p.store import PreparedData

    data = PreparedData(prepared)
    cases = [case for case in read_manifest(prepared / MANIFEST_FILE) if case.split == split]
    if not cases:
        raise ManifestError(f"{prepared}: no case is in the split {split!r}; choose another")
    fitted = fit_baselines(data)
    dtype: VoxelType = "int16" if data.preprocessing.target.modality == "CT" else "float32"
    with progress_bar("predicting", len(cases), "case") as advance:
        for case in cases:
            for name, volume in predict_case(fitted, case, data.preprocessing).items():
                path = output / name / f"{case.name}.nii.gz"
                write_volume(volume, path, dtype=dtype, overwrite=overwrite)
            advance()
    return len(cases)
