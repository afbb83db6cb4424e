"""``medp2p batch``: every scan of a tree that a model is for, into a tree of results."""

from contextlib import nullcontext
from datetime import datetime
from datetime import time as time_of_day
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medp2p.errors import ConfigError, MedP2PError, OutputError

from . import dicom_output, options
from .conversion import make_job
from .progress import progress_bar

if TYPE_CHECKING:
    from medp2p.checkpoint import ModelCard
    from medp2p.conversion.arrivals import Arrivals
    from medp2p.conversion.hooks import Hook
    from medp2p.conversion.job import ConversionJob
    from medp2p.conversion.journal import Event
    from medp2p.conversion.pipeline import Conversion
    from medp2p.conversion.rules import Rules
    from medp2p.conversion.scans import Scan, Worklist


def batch(
    incoming: Annotated[
        Path | None,
        typer.Argument(help="Folder with DICOM studies and image files, at any depth."),
    ] = None,
    outgoing: Annotated[
        Path | None, typer.Argument(help="Folder for the results, laid out alike.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="The model file.", show_default=False)
    ] = None,
    status: Annotated[
        Path | None,
        typer.Option(
            "--status", help="Say how far the results in this folder are.", show_default=False
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be translated, and what not.")
    ] = False,
    rules: Annotated[
        Path | None,
        typer.Option("--rules", help="YAML file that says what is wanted.", show_default=False),
    ] = None,
    modality: Annotated[
        Literal["MR", "CT"] | None,
        typer.Option("--modality", help="Default: the model's.", show_default=False),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(
            "--include",
            metavar="PATTERN",
            help="Take only what fits, by description or path; repeatable.",
            show_default=False,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="PATTERN",
            help="Leave out what fits; repeatable.",
            show_default=False,
        ),
    ] = None,
    minimum_slices: Annotated[
        int | None, typer.Option("--min-slices", min=1, help="Default: 8.", show_default=False)
    ] = None,
    plane: Annotated[
        Literal["auto", "any", "axial", "coronal", "sagittal"] | None,
        typer.Option(
            "--plane",
            help="Of the slices. Default: any, thick ones only in the model's.",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="First study date, such as 2026-01-31.", show_default=False),
    ] = None,
    to_date: Annotated[
        str | None, typer.Option("--to-date", help="Last study date.", show_default=False)
    ] = None,
    hash_names: Annotated[
        bool, typer.Option("--hash-names", help="Name scans by a hash, where paths tell too much.")
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Take only part I of N, from 1: for many machines.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Translate scans that do not look like the training data; mark them."
        ),
    ] = False,
    to: Annotated[
        Literal["same", "nifti", "dicom"], typer.Option("--to", help="What is written.")
    ] = "same",
    mask: Annotated[
        Literal["auto", "none"],
        typer.Option("--mask", help="Body mask: auto (found in the scan) or none."),
    ] = "auto",
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            help="auto (a GPU if there is one), cpu, cuda:0; repeat it for several GPUs.",
            show_default=False,
        ),
    ] = None,
    precision: options.Precision = "auto",
    batch_size: options.BatchSize = 16,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option("--engine", help="This machine, or a Ray cluster that runs already."),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            metavar="HOST:PORT",
            help="Of the cluster. Default: RAY_ADDRESS, or the one that this machine belongs to.",
            show_default=False,
        ),
    ] = None,
    readers: Annotated[
        int | None,
        typer.Option("--readers", min=1, help="Processes that read. Default: one per core, 8."),
    ] = None,
    time_limit: Annotated[
        float, typer.Option("--time-limit", min=1, help="Seconds until a scan is given up.")
    ] = 1800.0,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="HH:MM",
            help="Begin no scan after this time of day.",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[
        float | None,
        typer.Option(
            "--watch",
            min=1,
            metavar="SECONDS",
            help="Go on with new scans, once their files were quiet for so long.",
            show_default=False,
        ),
    ] = None,
    on_done: Annotated[
        str | None,
        typer.Option(
            "--on-done",
            metavar="COMMAND",
            help="Run after each scan; {} becomes the result's path. No shell is used.",
            show_default=False,
        ),
    ] = None,
    series_description: dicom_output.SeriesDescription = None,
    series_number: dicom_output.SeriesNumber = None,
    uid_root: dicom_output.UidRoot = None,
    seed: dicom_output.Seed = None,
    body_part: dicom_output.BodyPart = None,
    deidentify: dicom_output.Deidentify = False,
    deidentify_key: dicom_output.DeidentifyKey = None,
    allow_burned_in: dicom_output.AllowBurnedIn = False,
) -> None:
    """Translate every scan of a tree that a model is for.

    The journal in the output folder says of every scan: done, skipped and why, failed and why. The
    same command again goes on where it stopped; what is done is left alone. Any number of runs may
    share an output folder. Exit code 3: some scans failed; 1: all that were not skipped did.
    """
    if status:
        _print_status(status)
        return
    if incoming is None or outgoing is None:
        raise typer.BadParameter("name the folder of scans and the folder for the results")
    if model is None:
        raise typer.BadParameter("name the model", param_hint="--model")
    from medp2p.checkpoint import read_card
    from medp2p.conversion.arrivals import Arrivals
    from medp2p.conversion.claims import claim_output
    from medp2p.conversion.hooks import Hook
    from medp2p.conversion.journal import read_events
    from medp2p.conversion.rules import load_rules
    from medp2p.conversion.scans import Worklist
    from medp2p.conversion.stages import hide_paths
    from medp2p.conversion.summary import refuse_foreign_summary, write_summary

    if deidentify and to == "nifti":
        raise typer.BadParameter(
            "is for DICOM results; image files hold no patient, and --hash-names hides paths",
            param_hint="--deidentify",
        )
    labels = {
        "series_description": series_description,
        "series_number": series_number,
        "uid_root": uid_root,
        "seed": seed,
        "body_part": body_part,
        "allow_burned_in": allow_burned_in,
    }
    idle = [name for name, value in labels.items() if value not in (None, False)]
    if idle and to == "nifti":
        option = f"--{idle[0].replace('_', '-')}"
        raise typer.BadParameter("is for DICOM results", param_hint=option)
    if ray_address and engine != "ray":
        raise typer.BadParameter("goes with --engine ray", param_hint="--ray-address")
    _refuse_nested(incoming, outgoing)
    refuse_foreign_summary(outgoing)
    wanted = load_rules(
        rules,
        {
            "modality": modality,
            "include": include or None,
            "exclude": exclude or None,
            "minimum_slices": minimum_slices,
            "plane": plane,
            "since": since,
            "to_date": to_date,
            "hash_names": hash_names or None,
        },
    )
    job = make_job(
        model,
        labels,
        deidentify=deidentify,
        deidentify_key=deidentify_key,
        device=device,
        precision=precision,
        batch_size=batch_size,
        mask=mask,
        force=force,
        readers=readers,
        time_limit=time_limit,
        kind=to,
        until=_time_of_day(until),
        hash_names=wanted.hash_names,
        part=part or "",
        engine=engine,
        ray_address=ray_address,
    )
    if job.hash_names:
        hide_paths()
    part_of_all = _shard(part)
    hook = Hook(on_done, outgoing) if on_done else None
    card, _ = read_card(model)
    arrivals: Arrivals | None = None
    if watch and not dry_run:
        worklist = Worklist(())
        arrivals = Arrivals(incoming, wanted, card, watch, part_of_all)
    else:
        worklist = _find(incoming, wanted, card, part_of_all)
    if dry_run:
        _print_worklist(worklist)
        return
    claim_output(outgoing, incoming)
    with hook or nullcontext():
        conversion = _convert(worklist, outgoing, job, hook, arrivals)
        write_summary(outgoing, read_events(outgoing))  # commands may still run for long
    _finish(conversion, outgoing, hook)


def _find(
    incoming: Path, rules: "Rules", card: "ModelCard", part: tuple[int, int] | None
) -> "Worklist":
    """Walk the tree, for one shard of its scans if there are several."""
    from medp2p.conversion.worklist import make_worklist, shard

    with progress_bar("looking", None, "file") as advance:
        worklist = make_worklist(incoming, rules, card, advance)
    return shard(worklist, *part) if part else worklist


def _convert(
    worklist: "Worklist",
    outgoing: Path,
    job: "ConversionJob",
    hook: "Hook | None",
    arrivals: "Arrivals | None",
) -> "Conversion":
    """Translate a worklist, or with arrivals what comes until a signal or a disk ends it."""
    from medp2p.conversion.pipeline import convert

    left_out = {left.name for left in worklist.left_out}
    total = None if arrivals else len(worklist.scans)
    with progress_bar("translating", total, "scan") as advance:

        def note(event: "Event") -> None:
            if event.kind in ("done", "skipped", "failed") and event.scan not in left_out:
                advance(note=event.scan)
            if hook and event.kind == "done":
                hook.start(event)

        conversion = convert(worklist, outgoing, job, more=arrivals, on_event=note)
    if hook and conversion.ended != "finished":
        hook.drop_waiting()
    return conversion


def _finish(conversion: "Conversion", outgoing: Path, hook: "Hook | None") -> None:
    """Write the summary, print it, and exit with the code that says how it went."""
    from medp2p.conversion.disk import DISK_TROUBLES
    from medp2p.conversion.journal import read_events
    from medp2p.conversion.summary import progress_of, progress_text, write_summary

    events = read_events(outgoing)
    write_summary(outgoing, events)
    typer.echo(progress_text(progress_of(events)))
    if conversion.ended == "interrupted" or (hook and hook.was_interrupted):
        raise typer.Exit(options.EXIT_INTERRUPTED)
    if conversion.reason:
        typer.echo(f"medp2p: {conversion.reason}", err=True)
    if conversion.ended in DISK_TROUBLES:
        raise typer.Exit(1)
    if conversion.failed:
        good = conversion.done + conversion.unchanged
        raise typer.Exit(options.EXIT_SOME_FAILED if good else 1)
    if hook and hook.failed:
        raise typer.Exit(options.EXIT_SOME_FAILED)


def _print_status(outgoing: Path) -> None:
    from medp2p.conversion.journal import JOURNAL_FOLDER, read_events
    from medp2p.conversion.summary import progress_of, progress_text

    events = read_events(outgoing)
    if not events:
        raise MedP2PError(
            f"{outgoing}: holds no {JOURNAL_FOLDER} of `medp2p batch`; name a folder of results"
        )
    typer.echo(progress_text(progress_of(events)))


def _print_worklist(worklist: "Worklist") -> None:
    for scan in worklist.scans:
        typer.echo(f"translate  {scan.name}  ({_contents(scan)})")
    for left in worklist.left_out:
        typer.echo(f"{'damaged' if left.failed else 'leave out'}  {left.name}: {left.reason}")
    typer.echo(f"{len(worklist.scans)} to translate, {len(worklist.left_out)} left out")


def _contents(scan: "Scan") -> str:
    files = sum(len(image.files) for image in scan.images)
    return f"{files} {'file' if files == 1 else 'files'}, {scan.voxels:,} voxels"


def _refuse_nested(incoming: Path, outgoing: Path) -> None:
    if not incoming.is_dir():
        raise MedP2PError(f"{incoming}: is no folder; name the folder of scans")
    one, other = incoming.resolve(), outgoing.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise OutputError(
            f"{outgoing}: lies in the folder of scans, or around it; name another output"
        )


def _time_of_day(text: str | None) -> time_of_day | None:
    if text is None:
        return None
    try:
        return datetime.strptime(text, "%H:%M").time()
    except ValueError:
        raise ConfigError(f"--until {text!r}: expected a time of day such as 06:00") from None


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        number, count = (int(word) for word in text.split("/"))
    except ValueError:
        number, count = 0, 0
    if not 1 <= number <= count:
        raise ConfigError(f"--shard {text!r}: expected I/N with I from 1 to N, such as 3/10")
    return number, count
