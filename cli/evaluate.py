"""``medp2p evaluate``: how far predictions are from their references."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from . import options
from .progress import progress_bar


def evaluate(
    prediction: Annotated[
        Path,
        typer.Argument(
            help="Predicted image or DICOM folder, or a folder of them: CASE.nii.gz or CASE/. "
            "Where a case has a DICOM folder and an image file of one name, the file counts."
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
            help="Definition of the metrics: synthrad2025, synthrad2023 or range. "
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
