"""``medp2p blind`` and ``medp2p blind-score``: can readers tell predictions from real images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .progress import progress_bar

if TYPE_CHECKING:
    from medp2p.metrics import Profile
    from medp2p.results import CaseFiles


def blind(
    results: Annotated[
        Path,
        typer.Argument(
            help="What `medp2p evaluate --output` wrote; or with --references a folder of "
            "predictions."
        ),
    ],
    output: Annotated[
        Path, typer.Argument(help="Folder to make: for_readers/ to give away, key.csv to keep.")
    ],
    references: Annotated[
        Path | None,
        typer.Option(
            "--references",
            help="Folder of true images, or a manifest, where there are no results yet.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method", help="Whose predictions, where there are several.", show_default=False
        ),
    ] = None,
    value_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--range",
            metavar="LOW HIGH",
            help="Values to show, for both images of every pair. Default: the range of the "
            "results' profile, or -1024 to 3071 HU.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            help="Decides order and sides, and is kept in the key. Default: a new one each time.",
            show_default=False,
        ),
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Export pairs of prediction and true image without names, shuffled, for a reader study.

    Readers get for_readers/ with its answer sheet; key.csv says which image is which. Exit code
    3: some cases could not be exported.
    """
    from medp2p.blinded import export_blinded

    options.refuse_outputs_early([output], overwrite)
    if references:
        cases, profile, left_out = _of_folders(results, references, value_range)
        name = method or ""
    else:
        cases, profile, name = _of_results(results, method, value_range)
        left_out = {}
    with progress_bar("exporting", len(cases), "case") as advance:
        made = export_blinded(
            cases, output, profile, method=name, seed=seed, overwrite=overwrite, progress=advance
        )
    count = f"{len(made.pairs)} {'pair' if len(made.pairs) == 1 else 'pairs'}"
    typer.echo(f"{output}: {count}; give away for_readers, keep key.csv")
    failures = {**left_out, **made.failures}
    for case, reason in failures.items():
        typer.echo(f"medp2p: case {case}: {reason}", err=True)
    if failures:
        raise typer.Exit(options.EXIT_SOME_FAILED)


def blind_score(
    key: Annotated[Path, typer.Argument(help="The key.csv, or the folder that holds it.")],
    answers: Annotated[list[Path], typer.Argument(help="Filled answer sheets, one per reader.")],
    as_json: options.AsJson = False,
) -> None:
    """Count how often readers recognized the true image.

    Prints each reader's accuracy with its exact 95 % interval: one that holds 50 % fits guessing.
    If a sheet has wrong lines, each is named and no sheet is scored.
    """
    import json
    import math
    from dataclasses import asdict

    from medp2p.blinded import answer_problems, score_answers

    problems = [problem for path in answers for problem in answer_problems(path, key)]
    for problem in problems:
        typer.echo(f"medp2p: {problem}", err=True)
    if problems:
        raise typer.Exit(1)
    scores = [score_answers(path, key) for path in answers]
    if as_json:
        rows = [
            {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(s).items()}
            for s in scores
        ]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for score in scores:
        low, high = score.interval
        typer.echo(
            f"{score.reader}: {score.correct} of {score.answered} right, {score.accuracy:.1%} "
            f"(95 % interval {low:.1%} to {high:.1%}), p = {score.p:.3g} against guessing; "
            f"quality {score.quality_prediction:.2f} for predictions, "
            f"{score.quality_real:.2f} for true images; {score.unanswered} not answered"
        )


def _of_results(
    path: Path, method: str | None, value_range: tuple[float, float] | None
) -> "tuple[list[CaseFiles], Profile, str]":
    """Return the files of one method's cases, and what is shown of their values."""
    from dataclasses import replace

    from medp2p.errors import ConfigError, EvaluationError
    from medp2p.results import read_results

    evaluation = read_results(path)
    if method is None and len(evaluation.methods) > 1:
        raise ConfigError(
            f"{path}: holds several methods; choose with --method: {', '.join(evaluation.methods)}"
        )
    name = evaluation.methods[0] if method is None else method
    if name not in evaluation.methods:
        known = ", ".join(evaluation.methods) or "one without a name, leave out --method"
        raise ConfigError(f"{path}: no method {name!r}; it holds {known}")
    found = [result.files for result in evaluation.of_method(name) if result.files]
    if not found:
        raise EvaluationError(f"{path}: does not say where the images are; evaluate files")
    profile = evaluation.profile
    if value_range:
        profile = replace(profile, value_range=_rising(value_range))
    return found, profile, name


def _of_folders(
    predictions: Path, references: Path, value_range: tuple[float, float] | None
) -> "tuple[list[CaseFiles], Profile, dict[str, str]]":
    from dataclasses import replace

    from medp2p.evaluation import pair_paths
    from medp2p.metrics import choose_profile

    profile = choose_profile(None, None)
    if value_range:
        profile = replace(profile, value_range=_rising(value_range), units=None)
    cases, failures = pair_paths(predictions, references)
    return cases, profile, failures


def _rising(value_range: tuple[float, float]) -> tuple[float, float]:
    if not value_range[0] < value_range[1]:
        raise typer.BadParameter("LOW must be less than HIGH", param_hint="--range")
    return value_range
