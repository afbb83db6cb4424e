"""``medp2p evaluate``: how far predictions are from their references."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import options
from .progress import progress_bar

if TYPE_CHECKING:
    from medp2p.evaluation import CaseFiles, Evaluation, Layout, Pairing
    from medp2p.volume import Volume

    Predict = Callable[[CaseFiles], Volume]

EXIT_NOT_MET = 1
PREDICTIONS_FOLDER = "predictions"


def evaluate(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Predicted image or DICOM folder, or a folder of them: CASE.nii.gz or CASE/; or "
            "a table (.csv) with the columns case and prediction, or prediction_<method>. For "
            "several methods NAME=PATH each. Where a case has a DICOM folder and an image file "
            "of one name, the file counts. Or a model (.safetensors), which translates the cases "
            "of a manifest first. Then the true image or DICOM folder, a folder of "
            "CASE/ct.nii.gz, CASE/ct.dcm, CASE/ct/ or CASE.nii.gz, or a manifest.csv.",
            metavar="PREDICTION... REFERENCE",
            show_default=False,
        ),
    ],
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask",
            help="Mask image, or for folders a folder of masks. Default: for folders the mask "
            "beside each reference, for a manifest its masks, else the whole volume.",
            show_default=False,
        ),
    ] = None,
    region: Annotated[
        Path | None,
        typer.Option(
            "--region",
            help="Compare only inside this region, within the mask: a DICOM structure set or "
            "segmentation, or a label map; for folders a folder with CASE.dcm, CASE.nii.gz or "
            "CASE/.",
            show_default=False,
        ),
    ] = None,
    region_name: Annotated[
        str | None,
        typer.Option(
            "--region-name",
            help="Which region of a file with several, by name, pattern or label.",
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            help="Definition of the metrics: synthrad2025, synthrad2023, 8-bit or range. "
            "Default: synthrad2025, or range if --range is given.",
            show_default=False,
        ),
    ] = None,
    value_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--range",
            metavar="LOW HIGH",
            help="Lowest and highest value of images that are not CT, such as MR.",
            show_default=False,
        ),
    ] = None,
    tissues: Annotated[
        list[str] | None,
        typer.Option(
            "--tissues",
            metavar="NAME=LOW:HIGH",
            help="Tissue classes by the reference's value in HU, such as "
            "'air=-inf:-200 soft=-200:250 bone=250:inf'; repeatable. They replace the default: "
            "air, soft, bone (> 250) and dense_bone (> 700).",
            show_default=False,
        ),
    ] = None,
    labels_pred: Annotated[
        list[str] | None,
        typer.Option(
            "--labels-pred",
            metavar="[NAME=]PATH",
            help="Label map of the prediction, or for folders a folder of them; for several "
            "methods NAME=PATH each.",
            show_default=False,
        ),
    ] = None,
    labels_ref: Annotated[
        Path | None,
        typer.Option(
            "--labels-ref",
            help="Label map of the reference, or for folders a folder of them.",
            show_default=False,
        ),
    ] = None,
    label_classes: Annotated[
        str | None,
        typer.Option(
            "--label-classes",
            metavar="SET",
            help="Which classes of the label maps count: synthrad2025_thorax, "
            "synthrad2025_abdomen or synthrad2025_head_and_neck. Default: every label of the "
            "reference.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        Literal["train", "validation", "test", "all"] | None,
        typer.Option(
            "--split", help="With a manifest: which cases. Default: test.", show_default=False
        ),
    ] = None,
    resample: Annotated[
        bool,
        typer.Option(
            "--resample",
            help="Bring a prediction (linear), mask, region or label map (nearest voxel) on "
            "another grid onto the reference's grid instead of refusing it.",
        ),
    ] = False,
    align: Annotated[
        bool,
        typer.Option(
            "--align",
            help="Bring each prediction rigidly onto its reference first, and say how far it was "
            "moved. Hides errors of position.",
        ),
    ] = False,
    require: Annotated[
        list[str] | None,
        typer.Option(
            "--require",
            metavar="CONDITION",
            help="What the mean over the cases must meet, such as 'mae<80' or 'bone_dice>0.8'; "
            "repeatable. Exit code 1 if it is not met.",
            show_default=False,
        ),
    ] = None,
    target_name: Annotated[
        str, typer.Option("--target-name", help="Name of the reference in a case folder.")
    ] = "ct",
    mask_name: Annotated[
        str, typer.Option("--mask-name", help="Name of the mask in a case folder.")
    ] = "mask",
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="Cases at a time, each in a process. Default: one per processor core, and no "
            "more than one for two cases.",
            show_default=False,
        ),
    ] = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write a folder with results.json, which `medp2p report` shows, and cases.csv.",
            show_default=False,
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table",
            help="Also write one line per case and method here: .csv, .parquet or .json.",
            show_default=False,
        ),
    ] = None,
    csv_path: Annotated[
        Path | None,
        typer.Option("--csv", help="Also write one line per case here.", show_default=False),
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Compare predictions with their references.

    Prints MAE, bias, PSNR, SSIM or MS-SSIM, and MAE and bias for the tissue classes, with the
    definition behind the numbers; for several methods their means, a ranking and paired tests.
    Exit code 3: some cases could not be compared. Exit code 1: a --require is not met, whether
    or not cases failed.
    """
    from medp2p import evaluation
    from medp2p.metrics import LABEL_SETS, TISSUES_HU, choose_profile

    predictions, reference = _predictions(images)
    if split and reference.suffix.lower() != ".csv":
        raise typer.BadParameter("only with a manifest", param_hint="--split")
    chosen = choose_profile(profile, value_range)
    if tissues and chosen.units != "HU":
        raise typer.BadParameter("only under a profile in HU", param_hint="--tissues")
    if region_name and not region:
        raise typer.BadParameter("only with --region", param_hint="--region-name")
    if label_classes and not labels_ref:
        raise typer.BadParameter("only with --labels-ref", param_hint="--label-classes")
    if label_classes and label_classes not in LABEL_SETS:
        raise typer.BadParameter(f"one of {', '.join(LABEL_SETS)}", param_hint="--label-classes")
    settings = evaluation.Options(
        allow_resampling=resample,
        align=align,
        tissues=_tissues(tissues) if tissues else dict(TISSUES_HU),
        label_classes=label_classes,
        region=region_name,
    )
    names = evaluation.metric_values(chosen, list(settings.tissues), label_classes)
    gates = [evaluation.read_gate(text, names, chosen) for text in require or ()]
    if table:
        evaluation.refuse_unknown_table(table)
    options.refuse_outputs_early([p for p in (csv_path, table, output) if p], overwrite)

    layout = evaluation.Layout(mask, target_name, mask_name, split or "test", labels_ref, region)
    with _results_folder(output, overwrite) as folder:
        predict: Predict | None = None
        if any(path.suffix.lower() == ".safetensors" for path in predictions.values()):
            pairings, predict = _model_s_cases(predictions, reference, layout, device)
            if folder:
                pairings, predict = _kept(pairings, predict, folder)
        else:
            labels = _labels(labels_pred or (), predictions)
            pairings = evaluation.pair_methods(predictions, reference, layout, labels=labels)
        count = sum(len(pairs) for pairs, _ in pairings.values())
        with progress_bar("evaluating", count, "case") as advance:
            outcome = evaluation.evaluate_methods(
                pairings,
                chosen,
                settings,
                gates=gates,
                progress=lambda _: advance(),
                predict=predict,
                jobs=jobs or min(options.processor_cores(), max(1, count // 2)),
            )
        if output and folder:
            from medp2p.results import write_results_into

            outcome = _with_files_moved(outcome, folder, output)
            write_results_into(folder, outcome)
    if table:
        evaluation.write_table(table, outcome, overwrite=overwrite)
    if csv_path:
        evaluation.write_csv(csv_path, outcome, overwrite=overwrite)
    _say(outcome, as_json=as_json)
    if not all(requirement.met for requirement in outcome.requirements):
        raise typer.Exit(EXIT_NOT_MET)
    if outcome.failures:
        raise typer.Exit(options.EXIT_SOME_FAILED)


def _say(outcome: "Evaluation", *, as_json: bool) -> None:
    import json

    from medp2p import evaluation

    if as_json:
        data = evaluation.as_json(outcome, arrays=False)
        typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        typer.echo(evaluation.result_table(outcome))
    for line in evaluation.requirement_lines(outcome.requirements):
        typer.echo(line, err=as_json)
    for failure in outcome.failures:
        method = f" ({failure.method})" if failure.method else ""
        typer.echo(f"medp2p: case {failure.case}{method}: {failure.reason}", err=True)


def _predictions(images: Sequence[str]) -> tuple[dict[str, Path], Path]:
    """Return the predictions by their method's name, "" for a single one without, and the rest."""
    if len(images) < 2:
        raise typer.BadParameter("give a prediction and a reference", param_hint="REFERENCE")
    *given, reference = images
    named = [_named_path(text) for text in given]
    if len(named) > 1 and not all(name for name, _ in named):
        raise typer.BadParameter(
            "several predictions need names, NAME=PATH each; the last argument is the reference",
            param_hint="PREDICTION",
        )
    return _by_name(named, "PREDICTION"), Path(reference)


def _labels(given: Sequence[str], predictions: dict[str, Path]) -> dict[str, Path]:
    named = [_named_path(text) for text in given]
    unknown = [name for name, _ in named if name not in predictions]
    if unknown:
        raise typer.BadParameter(
            f"no method {unknown[0]!r}; the methods are {', '.join(predictions)}"
            if unknown[0]
            else "name the method of each, NAME=PATH",
            param_hint="--labels-pred",
        )
    return _by_name(named, "--labels-pred")


def _named_path(text: str) -> tuple[str, Path]:
    """Read ``NAME=PATH``, or a path alone."""
    name, separator, path = text.partition("=")
    if not separator or Path(text).exists():
        return "", Path(text)
    if not (name and path):
        raise typer.BadParameter(f"{text!r}; expected NAME=PATH")
    return name, Path(path)


def _by_name(named: Sequence[tuple[str, Path]], hint: str) -> dict[str, Path]:
    names = [name for name, _ in named]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise typer.BadParameter(f"{twice[0]!r} is there twice; rename one", param_hint=hint)
    return dict(named)


def _tissues(texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Read ``NAME=LOW:HIGH``, several divided by spaces or commas."""
    tissues = {}
    for text in " ".join(texts).replace(",", " ").split():
        name, _, limits = text.partition("=")
        low, _, high = limits.partition(":")
        try:
            pair = float(low), float(high)
        except ValueError:
            pair = math.nan, math.nan
        if not name.isidentifier() or not pair[0] < pair[1] or name in tissues:
            raise typer.BadParameter(
                f"{text!r}; expected NAME=LOW:HIGH that rises, each name once, such as "
                "'bone=250:inf'",
                param_hint="--tissues",
            )
        tissues[name] = pair
    return tissues


@contextmanager
def _results_folder(output: Path | None, overwrite: bool) -> Iterator[Path | None]:
    """Yield a folder that becomes the results, or None if there are to be none."""
    from medp2p.files import atomic_folder
    from medp2p.results import RESULTS_FILE

    if output is None:
        yield None
        return
    with atomic_folder(output, marker=RESULTS_FILE, overwrite=overwrite) as folder:
        yield folder


def _model_s_cases(
    predictions: dict[str, Path], manifest: Path, layout: "Layout", device: str
) -> "tuple[dict[str, Pairing], Predict]":
    """Return the cases of a manifest, and what translates each of them."""
    from medp2p.checkpoint import load_model
    from medp2p.devices import keep_freed_memory
    from medp2p.errors import EvaluationError
    from medp2p.evaluation import case_files, with_extras
    from medp2p.inference import Mask, make_translator
    from medp2p.io import read_volume
    from medp2p.manifest import read_sources, read_split
    from medp2p.store import INDEX_FILE, PreparedData

    if len(predictions) > 1:
        raise typer.BadParameter("a model is evaluated alone; translate its cases first")
    [(method, model)] = predictions.items()
    if manifest.suffix.lower() != ".csv":
        raise typer.BadParameter("a model is evaluated on the cases of a manifest (.csv)")
    if layout.mask is not None:
        raise typer.BadParameter("a manifest names the masks", param_hint="--mask")
    if layout.reference_labels is not None:
        raise typer.BadParameter("not with a model; translate first", param_hint="--labels-ref")
    cases, failures = read_split(manifest, layout.split)
    if not cases:
        raise EvaluationError(
            f"{manifest}: no case is in the split {layout.split!r}; choose another"
        )
    loaded = load_model(model)
    if (manifest.parent / INDEX_FILE).is_file():
        trained_on = loaded.card.fingerprint.get("prepared_sha256")
        if trained_on != PreparedData(manifest.parent).hash:
            typer.echo(
                f"{model} was not trained on {manifest.parent} as it is now; see that none of the "
                "patients that it was trained on is among those that are evaluated",
                err=True,
            )
    keep_freed_memory()
    translator = make_translator(loaded, device=device)
    by_name = {case.name: case for case in cases}

    def predict(files: "CaseFiles") -> "Volume":
        case = by_name[files.case]
        body: Mask = read_volume(case.mask) if case.mask else "auto"
        result = translator(read_sources(case), body)
        return result.with_array(result.array.round()) if result.units == "HU" else result

    pairing = [case_files(case) for case in cases], failures
    return {method: with_extras(pairing, layout)}, predict


def _kept(
    pairings: "dict[str, Pairing]", predict: "Predict", folder: Path
) -> "tuple[dict[str, Pairing], Predict]":
    """Keep what a model predicts among the results, so that a report can show it.

    Args:
        pairings: Without predictions on the disk.
        predict: Makes the prediction of a case.
        folder: Where the results are until they are whole.
    """
    from medp2p.io import write_volume

    predictions = folder / PREDICTIONS_FOLDER

    def predict_and_write(files: "CaseFiles") -> "Volume":
        prediction = predict(files)
        if files.prediction:
            predictions.mkdir(exist_ok=True)
            write_volume(prediction, files.prediction)
        return prediction

    def named(files: "CaseFiles") -> "CaseFiles":
        return replace(files, prediction=predictions / f"{files.case}.nii.gz")

    kept = {m: (list(map(named, pairs)), failures) for m, (pairs, failures) in pairings.items()}
    return kept, predict_and_write


def _with_files_moved(outcome: "Evaluation", folder: Path, output: Path) -> "Evaluation":
    """Name what was written into a temporary folder by the place where it will be."""

    def moved(files: "CaseFiles | None") -> "CaseFiles | None":
        if files is None or files.prediction is None:
            return files
        if not files.prediction.is_relative_to(folder):
            return files
        return replace(files, prediction=output / files.prediction.relative_to(folder))

    results = tuple(replace(result, files=moved(result.files)) for result in outcome.results)
    return replace(outcome, results=results)
