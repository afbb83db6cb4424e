"""``medp2p report``: the results of an evaluation as a page to read."""

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .progress import progress_bar


def report(
    results: Annotated[
        Path,
        typer.Argument(help="What `medp2p evaluate --output` wrote: the folder or results.json."),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT.html", help="The page to write.")],
    pdf: Annotated[
        Path | None,
        typer.Option("--pdf", help="Also write the report as a PDF here.", show_default=False),
    ] = None,
    cases: Annotated[
        int,
        typer.Option(
            "--cases",
            min=1,
            help="Embed the images of so many predictions: those with findings first, then those "
            "with the largest MAE.",
        ),
    ] = 20,
    no_viewer: Annotated[
        bool, typer.Option("--no-viewer", help="Embed no images: tables and figures only.")
    ] = False,
    full_resolution: Annotated[
        bool,
        typer.Option(
            "--full-resolution", help="Embed every voxel, instead of half the resolution."
        ),
    ] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Make a page of an evaluation that opens in any browser, without a network.

    Findings, summary with definitions, comparison of methods, figures, the worst slices, a viewer
    of the images and every value. A case whose images changed since the evaluation, or are gone,
    keeps its numbers; its images are left out, and the page says so.
    """
    from medp2p.files import write_text
    from medp2p.report.evaluation_page import evaluation_page, viewed_cases
    from medp2p.results import read_results

    if output.suffix.lower() not in (".html", ".htm"):
        raise typer.BadParameter("the page's name ends in .html", param_hint="OUT.html")
    if pdf and pdf.suffix.lower() != ".pdf":
        raise typer.BadParameter("the PDF's name ends in .pdf", param_hint="--pdf")
    options.refuse_outputs_early([output, *([pdf] if pdf else [])], overwrite)
    evaluation = read_results(results)
    shown = 0 if no_viewer else cases
    left_out: dict[str, None] = {}  # in order, each line once

    def leave_out(case: str, reason: str) -> None:
        left_out[f"case {case} without images: {reason}"] = None

    with progress_bar("packing images", len(viewed_cases(evaluation, shown)), "case") as advance:
        page = evaluation_page(
            evaluation,
            viewer_cases=shown,
            full_resolution=full_resolution,
            progress=lambda: advance(),
            left_out=leave_out,
        )
    write_text(output, page, overwrite=overwrite)
    typer.echo(f"{output}: {len(page.encode()) / 1e6:.1f} MB", err=True)
    if pdf:
        from medp2p.report.pdf import write_pdf

        write_pdf(pdf, evaluation, overwrite=overwrite, left_out=leave_out)
        typer.echo(str(pdf), err=True)
    for line in left_out:
        typer.echo(f"medp2p: {line}", err=True)
