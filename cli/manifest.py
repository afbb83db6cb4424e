"""``medp2p manifest``: list the cases of a folder in a CSV file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from . import options


def manifest(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder of case folders: CASE/mr.nii.gz, CASE/mr.dcm, or a folder CASE/mr of "
            "DICOM files, …"
        ),
    ],
    output: Annotated[Path, typer.Argument(help="The CSV file to write.")],
    preset: options.Preset = None,
    config: options.ConfigFile = None,
    set_: options.Assignments = None,
    overwrite: options.Overwrite = False,
) -> None:
    """List the cases of a folder in a CSV file.

    Patients are split at random, reproducibly, into train, validation and test. Check and edit
    the file before `prepare`.
    """
    from medp2p.manifest import scan_case_folders, write_manifest

    cases = scan_case_folders(data, options.settings(preset, config, set_).data)
    write_manifest(output, cases, overwrite=overwrite)
    counts = Counter(case.split for case in cases)
    splits = ", ".join(f"{counts[split]} {split}" for split in ("train", "validation", "test"))
    typer.echo(f"{output}: {len(cases)} cases ({splits})")
