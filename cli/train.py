"""``medp2p train``: a prepared folder into a model."""

from pathlib import Path
from typing import Annotated

import typer

from . import options


def train(
    prepared: Annotated[Path, typer.Argument(help="Folder made by `medp2p prepare`.")],
    output: Annotated[Path, typer.Argument(help="Folder for the model, logs and samples.")],
    preset: options.Preset = None,
    config: options.ConfigFile = None,
    set_: options.Assignments = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted run in OUTPUT.")
    ] = False,
    init: Annotated[
        Path | None, typer.Option("--init", help="Model file to start from (fine-tuning).")
    ] = None,
    device: options.Device = "auto",
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="GPUs, or CPU processes, to train on.")
    ] = 1,
    report: Annotated[
        bool,
        typer.Option(
            "--report/--no-report",
            help="When training is done, translate and judge the test split: OUTPUT/test and "
            "OUTPUT/report.html.",
        ),
    ] = True,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the resolved settings, and stop.")
    ] = False,
) -> None:
    """Train a model; Ctrl-C saves and stops, --resume goes on.

    OUTPUT gets model.safetensors (the best by validation MAE), state.pt, config.yaml,
    log.csv, samples/ and tensorboard/; at the end test/ and report.html, how the model does on
    the test split.
    """
    import logging

    if resume and print_config:
        raise typer.BadParameter("the settings of a run are in its config.yaml")
    settings = (
        None
        if resume and not (preset or config or set_)
        else options.settings(preset, config, set_)
    )
    if print_config and settings is not None:
        from medp2p.config import config_yaml

        typer.echo(config_yaml(settings), nl=False)
        return
    from medp2p.devices import keep_freed_memory
    from medp2p.training import train as train_model

    from .training_display import TrainingDisplay

    logging.getLogger("lightning_fabric").setLevel(logging.root.level)
    keep_freed_memory()
    with TrainingDisplay() as display:
        result = train_model(
            prepared,
            output,
            settings,
            resume=resume,
            init=init,
            device=device,
            processes=processes,
            display=display,
        )
    if not result.leading:
        return
    if result.interrupted:
        typer.echo(
            f"stopped in epoch {result.epochs + 1}, everything is saved; go on with "
            f"`medp2p train {prepared} {output} --resume`",
            err=True,
        )
        raise typer.Exit(1)
    mae = "".join(f", validation {k} {v:.4g}" for k, v in list(result.metrics.items())[:1])
    typer.echo(f"{result.model}: {result.epochs} epochs{mae}")
    if report:
        from .run_report import write_run_report

        write_run_report(prepared, output, result.model, device=device)
