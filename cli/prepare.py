"""``medp2p prepare``: scans into a prepared folder that training reads."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import options
from .progress import progress_bar

if TYPE_CHECKING:
    from medp2p.preparation.pairing import Plan
    from medp2p.preparation.pipeline import Preparation


def prepare(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with scans: DICOM studies, case folders (CASE/mr.nii.gz, CASE/ct/, …), "
            "SynthRAD or BIDS data, pix2pix's PNG pairs; or a table (.csv)."
        ),
    ],
    output: Annotated[
        Path, typer.Argument(help="The prepared folder to make, or to bring up to date.")
    ],
    preset: options.Preset = None,
    config: options.ConfigFile = None,
    set_: options.Assignments = None,
    match: options.Match = None,
    registration: Annotated[
        Literal["auto", "none", "rigid", "affine"] | None,
        typer.Option(
            "--registration",
            help="auto: rigid, where images share neither frame of reference nor grid. none: all "
            "are aligned already. Default: auto.",
            show_default=False,
        ),
    ] = None,
    deformable: Annotated[
        bool, typer.Option("--deformable", help="Refine the registration by a deformation.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="Cases at a time, each in a process. Default: one per processor core.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show who would be paired with whom, and stop.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Prepare again what was prepared with other settings."),
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Find, pair, register, check and pack scans for training.

    Every volume is resampled once, straight to the training grid. Look at OUTPUT/audit.html; to
    overrule a verdict write use or reject into the column decision of OUTPUT/manifest.csv and run
    the same command again. It does only what changed, also after a crash. Exit code 3: some pairs
    could not be read or registered.
    """
    import json

    from medp2p.preparation.pairing import plan_rows, plan_table
    from medp2p.preparation.pipeline import needed_bytes
    from medp2p.preparation.pipeline import prepare as prepare_plan
    from medp2p.preparation.planning import (
        make_preparation_plan,
        read_strata,
        refuse_without_stratum,
    )

    overrides = {
        "preparation.registration.mode": registration,
        "preparation.registration.deformable": deformable or None,
        "data.match": options.patterns(match) or None,
    }
    settings = options.settings(preset, config, set_, overrides)
    strata = read_strata(data, settings.data.stratify)
    with progress_bar("looking", None, "file") as advance:
        plan = make_preparation_plan(data, settings, progress=advance)
    patients = [pair.patient for pair in plan.pairs]
    refuse_without_stratum(patients, strata, settings.data.stratify)
    if dry_run:
        typer.echo(json.dumps(plan_rows(plan), indent=2) if as_json else plan_table(plan))
        return
    size = needed_bytes(plan, settings.preprocessing)
    for note in plan.notes:
        typer.echo(note, err=True)
    typer.echo(f"{_counts(plan)}; they will take up to {size / 1e6:.0f} MB in {output}", err=True)
    began = time.perf_counter()
    with progress_bar("preparing", 2 * len(plan.pairs), "step") as advance:
        done = prepare_plan(
            plan,
            output,
            settings,
            strata=strata,
            jobs=jobs or options.processor_cores(),
            overwrite=overwrite,
            progress=lambda name: advance(note=name),
        )
    if as_json:
        typer.echo(json.dumps(_as_json(done), indent=2))
    else:
        _say_results(done, output, time.perf_counter() - began)
    if any(judged.failed for judged in done.pairs):
        raise typer.Exit(options.EXIT_SOME_FAILED)


def _counts(plan: "Plan") -> str:
    patients = {pair.patient for pair in plan.pairs}
    return (
        f"{len(plan.pairs)} pairs of {len(patients)} patients, "
        f"{len(plan.left_out)} patients without a pair"
    )


def _say_results(done: "Preparation", output: Path, seconds: float) -> None:
    for judged in done.pairs:
        if not judged.case.used:
            verdict = judged.case.decision or judged.case.verdict
            typer.echo(f"{verdict} {judged.case.name}: {'; '.join(judged.reasons)}", err=True)
    for left in done.left_out:
        typer.echo(f"{left.verdict} {left.patient}: {left.reason}", err=True)
    for note in done.notes:
        typer.echo(note, err=True)
    splits = [judged.case.split for judged in done.used]
    counts = ", ".join(f"{splits.count(s)} {s}" for s in ("train", "validation", "test"))
    others = len(done.pairs) + len(done.left_out) - len(done.used)
    typer.echo(
        f"{output}: {len(done.used)} cases ({counts}) in {seconds:.0f} s; {others} left out, "
        f"see {output / 'audit.html'}"
    )


def _as_json(done: "Preparation") -> dict[str, object]:
    return {
        "cases": [
            {
                "case": judged.case.name,
                "patient": judged.case.patient,
                "split": judged.case.split,
                "fold": judged.case.fold,
                "verdict": judged.case.verdict,
                "decision": judged.case.decision,
                "reasons": list(judged.reasons),
            }
            for judged in done.pairs
        ],
        "notes": list(done.notes),
        "left_out": [
            {"patient": left.patient, "verdict": left.verdict, "reason": left.reason}
            for left in done.left_out
        ],
    }
