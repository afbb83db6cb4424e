"""``medp2p manifest``: list the pairs of a folder in a CSV file."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .progress import progress_bar


def manifest(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with scans: DICOM studies, case folders (CASE/mr.nii.gz, CASE/ct/, …), "
            "SynthRAD or BIDS data, or a table of images (.csv)."
        ),
    ],
    output: Annotated[Path, typer.Argument(help="The CSV file to write.")],
    preset: options.Preset = None,
    config: options.ConfigFile = None,
    set_: options.Assignments = None,
    match: options.Match = None,
    overwrite: options.Overwrite = False,
) -> None:
    """List the pairs of a folder in a CSV file.

    Patients are split at random, reproducibly, into train, validation and test. Check and edit
    the file before `prepare`, which takes its pairs as they are.
    """
    from medp2p.manifest import write_manifest
    from medp2p.preparation.planning import (
        cases_of_plan,
        make_preparation_plan,
        read_strata,
        refuse_without_stratum,
    )

    overrides = {"data.match": options.patterns(match) or None}
    settings = options.settings(preset, config, set_, overrides)
    strata = read_strata(data, settings.data.stratify)
    with progress_bar("looking", None, "file") as advance:
        plan = make_preparation_plan(data, settings, progress=advance)
    patients = [pair.patient for pair in plan.pairs]
    refuse_without_stratum(patients, strata, settings.data.stratify)
    cases = cases_of_plan(plan, settings.data, strata)
    write_manifest(output, cases, overwrite=overwrite)
    for left in plan.left_out:
        typer.echo(f"{left.verdict} {left.patient}: {left.reason}", err=True)
    counts = Counter(case.split for case in cases)
    splits = ", ".join(f"{counts[split]} {split}" for split in ("train", "validation", "test"))
    typer.echo(f"{output}: {len(cases)} cases ({splits})")
