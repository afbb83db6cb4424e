"""``medp2p translate``: one scan, or the cases of a manifest, through a model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medp2p.errors import ManifestError

from . import options
from .progress import progress_bar

if TYPE_CHECKING:
    from medp2p.inference import Translator


def translate(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Source image (one per contrast, in the model's order), then the output image; "
            "or a manifest.csv and an output folder.",
            metavar="INPUT... OUTPUT",
        ),
    ],
    model: Annotated[Path, typer.Option("--model", "-m", help="The model file.")],
    mask: Annotated[
        str,
        typer.Option("--mask", help="Body mask: auto (found in the source), none, or an image."),
    ] = "auto",
    split: Annotated[
        Literal["train", "validation", "test", "all"],
        typer.Option("--split", help="With a manifest: which cases."),
    ] = "test",
    dtype: Annotated[
        Literal["int16", "float32"] | None,
        typer.Option("--dtype", help="int16 or float32; default int16 for CT, float32 for MR."),
    ] = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    batch_size: options.BatchSize = 16,
    overwrite: options.Overwrite = False,
) -> None:
    """Translate a scan onto its own grid.

    The result has the source's shape and affine. Outside the body a synthetic CT has
    -1024 HU. CT is written as int16, rounded to the nearest HU.
    """
    from medp2p.checkpoint import load_model
    from medp2p.inference import make_translator
    from medp2p.io import check_output_name

    if len(inputs) < 2:
        raise typer.BadParameter("name the source image and the output", param_hint="INPUT OUTPUT")
    *sources, output = inputs
    from_manifest = sources[0].suffix.lower() == ".csv"
    if from_manifest and mask not in ("auto", "none"):
        raise typer.BadParameter("auto or none with a manifest, which names the masks")
    if not from_manifest:
        check_output_name(output)
        options.refuse_outputs_early([output], overwrite)
    translator = make_translator(
        load_model(model), device=device, precision=precision, batch_size=batch_size
    )
    if from_manifest:
        _translate_manifest(translator, sources[0], output, mask, split, dtype, overwrite)
        return
    began = time.perf_counter()
    _translate_one(translator, sources, output, mask, dtype, overwrite)
    typer.echo(f"{output}: {time.perf_counter() - began:.1f} s")


def _translate_manifest(
    translator: Translator,
    manifest: Path,
    output: Path,
    mask: str,
    split: str,
    dtype: Literal["int16", "float32"] | None,
    overwrite: bool,
) -> None:
    from medp2p.manifest import read_manifest

    cases = [case for case in read_manifest(manifest) if split in (case.split, "all")]
    if not cases:
        raise ManifestError(
            f"{manifest}: no case is in the split {split!r}; choose another --split"
        )
    outputs = {case.name: output / f"{case.name}.nii.gz" for case in cases}
    names = translator.model.card.source_names
    missing = [name for name in names if name not in cases[0].sources]
    if missing:
        raise ManifestError(
            f"{manifest}: the model needs the sources {', '.join(names)}, and there is no column "
            f"source_{missing[0]}"
        )
    options.refuse_outputs_early(outputs.values(), overwrite)
    with progress_bar("translating", len(cases), "case") as advance:
        for case in cases:
            body = str(case.mask) if mask == "auto" and case.mask else mask
            sources = [case.sources[name] for name in names]
            _translate_one(translator, sources, outputs[case.name], body, dtype, overwrite)
            advance(note=case.name)
    typer.echo(f"{output}: {len(cases)} cases")


def _translate_one(
    translator: Translator,
    sources: list[Path],
    output: Path,
    mask: str,
    dtype: Literal["int16", "float32"] | None,
    overwrite: bool,
) -> None:
    from medp2p.io import VoxelType, read_volume, write_volume

    volumes = [read_volume(path) for path in sources]
    body: Any = mask if mask in ("auto", "none") else read_volume(mask)
    result = translator(volumes, body)
    default: VoxelType = "int16" if result.units == "HU" else "float32"
    write_volume(result, output, dtype=dtype or default, overwrite=overwrite)
