"""``medp2p prepare``: scans into a prepared folder that training reads."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .progress import progress_bar


def prepare(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder of case folders (CASE/mr.nii.gz, CASE/mr.dcm, or a folder CASE/mr of "
            "DICOM files, …), or a manifest.csv."
        ),
    ],
    output: Annotated[Path, typer.Argument(help="The prepared folder to make.")],
    preset: options.Preset = None,
    config: options.ConfigFile = None,
    set_: options.Assignments = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and stop.")
    ] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Resample, normalize and pack paired volumes for training.

    Every volume is resampled once, straight to the training grid. A body mask is made from
    the source where a case has none.
    """
    from medp2p.manifest import load_cases
    from medp2p.preparation import expected_seconds, needed_bytes
    from medp2p.preparation import prepare as prepare_cases

    settings = options.settings(preset, config, set_)
    cases = load_cases(data, settings.data)
    size = needed_bytes(cases, settings.preprocessing)
    seconds = expected_seconds(size)
    typer.echo(
        f"{len(cases)} cases will take {size / 1e6:.0f} MB in {output} and about {seconds:.0f} s",
        err=True,
    )
    if dry_run:
        return
    began = time.perf_counter()
    with progress_bar("preparing", len(cases), "case") as advance:
        prepare_cases(
            cases, output, settings.preprocessing, overwrite=overwrite, progress=lambda _: advance()
        )
    typer.echo(f"{output}: {len(cases)} cases in {time.perf_counter() - began:.0f} s")
