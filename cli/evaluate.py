"""``medp2p evaluate``: how far predictions are from their references."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import options
from .progress import progress_bar

if TYPE_CHECKING:
    from medp2p.evaluation import CaseFiles
    from medp2p.volume import Volume


def evaluate(
    prediction: Annotated[
        Path,
        typer.Argument(
            help="Predicted image or DICOM folder, or a folder of them: CASE.nii.gz or CASE/. "
            "Where a case has a DICOM folder and an image file of one name, the file counts. Or a "
            "model (.safetensors), which translates the cases of a manifest first."
        ),
    ],
    reference: Annotated[
        Path,
        typer.Argument(
            help="True image or DICOM folder, a folder of CASE/ct.nii.gz, CASE/ct.dcm, CASE/ct/ "
            "or CASE.nii.gz, or a manifest.csv."
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
            help="Bring a prediction (linear) or mask (nearest voxel) on another grid onto the "
            "reference's grid instead of refusing it.",
        ),
    ] = False,
    target_name: Annotated[
        str, typer.Option("--target-name", help="Name of the reference in a case folder.")
    ] = "ct",
    mask_name: Annotated[
        str, typer.Option("--mask-name", help="Name of the mask in a case folder.")
    ] = "mask",
    device: options.Device = "auto",
    as_json: options.AsJson = False,
    csv_path: Annotated[
        Path | None,
        typer.Option("--csv", help="Also write one line per case here.", show_default=False),
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Compare predictions with their references.

    Prints MAE, bias, PSNR, SSIM or MS-SSIM, and MAE and bias for air, soft tissue and bone,
    with the definition behind the numbers. Exit code 3: some cases could not be compared.
    """
    import json

    from medp2p import evaluation
    from medp2p.metrics import choose_profile

    if split and reference.suffix.lower() != ".csv":
        raise typer.BadParameter("only with a manifest", param_hint="--split")
    chosen = choose_profile(profile, value_range)
    if csv_path:
        options.refuse_outputs_early([csv_path], overwrite)
    predict: Callable[[CaseFiles], Volume] = evaluation.read_prediction
    failures: dict[str, str] = {}
    if prediction.suffix.lower() == ".safetensors":
        pairs, predict = _model_s_cases(prediction, reference, split or "test", mask, device)
    else:
        pairs, failures = evaluation.pair_paths(
            prediction,
            reference,
            mask=mask,
            target_name=target_name,
            mask_name=mask_name,
            split=split or "test",
        )
    with progress_bar("evaluating", len(pairs), "case") as advance:
        outcome = evaluation.evaluate_cases(
            pairs,
            chosen,
            failures=failures,
            allow_resampling=resample,
            progress=lambda _: advance(),
            predict=predict,
        )
    if csv_path:
        evaluation.write_csv(csv_path, outcome, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps(evaluation.as_json(outcome), indent=2, ensure_ascii=False))
    else:
        typer.echo(evaluation.result_table(outcome))
    for case, reason in outcome.failures.items():
        typer.echo(f"medp2p: case {case}: {reason}", err=True)
    if outcome.failures:
        raise typer.Exit(options.EXIT_SOME_FAILED)


def _model_s_cases(
    model: Path, manifest: Path, split: str, mask: Path | None, device: str
) -> tuple[list[CaseFiles], Callable[[CaseFiles], Volume]]:
    """Return the cases of a manifest, and what translates each of them."""
    from medp2p.checkpoint import load_model
    from medp2p.errors import EvaluationError
    from medp2p.evaluation import case_files
    from medp2p.inference import Mask, make_translator
    from medp2p.io import read_volume
    from medp2p.manifest import read_manifest, read_sources
    from medp2p.store import INDEX_FILE, PreparedData

    if manifest.suffix.lower() != ".csv":
        raise typer.BadParameter("a model is evaluated on the cases of a manifest (.csv)")
    if mask is not None:
        raise typer.BadParameter("a manifest names the masks", param_hint="--mask")
    cases = {c.name: c for c in read_manifest(manifest) if split in (c.split, "all")}
    if not cases:
        raise EvaluationError(f"{manifest}: no case is in the split {split!r}; choose another")
    loaded = load_model(model)
    if (manifest.parent / INDEX_FILE).is_file():
        trained_on = loaded.card.fingerprint.get("prepared_sha256")
        if trained_on != PreparedData(manifest.parent).hash:
            typer.echo(
                f"{model} was not trained on {manifest.parent} as it is now; see that none of the "
                "patients that it was trained on is among those that are evaluated",
                err=True,
            )
    translator = make_translator(loaded, device=device)

    def predict(files: CaseFiles) -> Volume:
        case = cases[files.case]
        body: Mask = read_volume(case.mask) if case.mask else "auto"
        result = translator(read_sources(case), body)
        return result.with_array(result.array.round()) if result.units == "HU" else result

    return [case_files(case) for case in cases.values()], predict
