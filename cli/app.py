"""The Typer application, its logging, and how errors become one line and an exit code."""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from medp2p.errors import ConfigError, MedP2PError

from . import options
from .baselines import baselines
from .batch import batch
from .blind import blind, blind_score
from .convert import convert
from .demo import demo
from .evaluate import evaluate
from .import_pix2pix import import_pix2pix
from .info import info
from .inspect import inspect
from .manifest import manifest
from .phantom import phantom
from .prepare import prepare
from .presets import presets
from .report import report
from .serve import serve
from .train import train
from .translate import translate

EXIT_FAILED = 1
EXIT_USAGE = 2

app = typer.Typer(
    name="medp2p",
    help="Translate one kind of medical scan into another, and judge the result.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _settings_of_all_commands(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done.")] = False,
) -> None:
    import logging

    os.environ["MEDP2P_DEBUG"] = "1" if debug else ""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s: %(message)s",
        stream=sys.stderr,
    )


for command in (
    phantom,
    manifest,
    prepare,
    train,
    translate,
    batch,
    serve,
    evaluate,
    report,
    blind,
    blind_score,
    baselines,
    demo,
    info,
    presets,
    convert,
    inspect,
    import_pix2pix,
):
    app.command()(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a `MedP2PError` is printed as one line.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 some cases of a batch failed, 130 interrupted.
    """
    # Idle OpenMP threads that spin slow a busy machine down by a factor; read by torch's OpenMP.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    try:
        app(args=list(arguments) if arguments is not None else None)
    except MedP2PError as error:
        if os.environ.get("MEDP2P_DEBUG"):
            raise
        line = " ".join(str(error).splitlines())
        print(f"medp2p: {line}", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED)
    except SystemExit as end:
        if end.code == options.EXIT_INTERRUPTED:
            line = "interrupted; what was finished before is kept, nothing is half written"
            print(f"medp2p: {line}", file=sys.stderr)  # noqa: T201
        raise
