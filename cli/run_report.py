"""What `train` leaves behind besides the model: how it does on the test split, as a page."""

from pathlib import Path

import typer

from medp2p.errors import MedP2PError

from . import options
from .evaluate import evaluate
from .report import report

RESULTS = "test"
PAGE = "report.html"


def write_run_report(prepared: Path, run: Path, model: Path, *, device: str) -> None:
    """Translate and judge the test split: ``RUN/test`` and ``RUN/report.html``.

    An earlier report of the run is replaced. Without a test split there is none.

    Args:
        prepared: The prepared folder.
        run: The run's folder.
        model: Its model file.
        device: Where to translate.

    Raises:
        typer.Exit: With code 3 if some cases, or all, could not be judged.
    """
    from medp2p.checkpoint import read_card
    from medp2p.config import EIGHT_BIT
    from medp2p.manifest import read_manifest

    manifest = prepared / "manifest.csv"
    if not any(case.split == "test" for case in read_manifest(manifest)):
        typer.echo(f"no case of {manifest} is in the split test: no {PAGE}", err=True)
        return
    card, _ = read_card(model)
    modality = card.config.preprocessing.target.modality
    code = 0
    try:
        evaluate(
            [str(model), str(manifest)],
            profile=EIGHT_BIT if modality == EIGHT_BIT else None,
            value_range=card.target_range if modality == "MR" else None,
            device=device,
            output=run / RESULTS,
            overwrite=True,
        )
    except typer.Exit as some_failed:
        code = some_failed.exit_code
    except MedP2PError as error:
        typer.echo(f"medp2p: {error}; the model is there, its report is not", err=True)
        raise typer.Exit(options.EXIT_SOME_FAILED) from error
    report(run / RESULTS, run / PAGE, overwrite=True)
    if code:
        raise typer.Exit(code)
