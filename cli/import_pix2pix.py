"""``medp2p import-pix2pix``: a generator of the original project into a model file."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from . import options


def import_pix2pix(
    checkpoint: Annotated[
        Path, typer.Argument(help="latest_net_G.pth of a unet_256 or unet_128 generator.")
    ],
    output: Annotated[Path, typer.Argument(help="Model file to write (.safetensors).")],
    preset: options.Preset = None,
    config: options.ConfigFile = None,
    set_: options.Assignments = None,
    batch_norm: Annotated[
        Literal["per_batch", "running"],
        typer.Option(
            "--batch-norm",
            help="per_batch (each image's own statistics, as the original's test.py) or "
            "running (as with its --eval).",
        ),
    ] = "per_batch",
    grayscale: Annotated[
        bool,
        typer.Option("--grayscale", help="Trained on grey images stored as RGB: use one channel."),
    ] = False,
    target_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--target-range",
            help="Values that -1 and +1 of the output stand for; default: hu_range.",
        ),
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Import a generator of the original pix2pix.

    The settings must say how images became the generator's input: sources, spacing, value
    ranges, slice size. The generator's own settings are read off its weights.
    """
    options.refuse_outputs_early([output], overwrite)
    settings = options.settings(preset, config, set_)

    from medp2p.pix2pix_import import import_generator

    card = import_generator(
        checkpoint,
        output,
        settings,
        batch_norm=batch_norm,
        grayscale=grayscale,
        target_range=target_range,
        overwrite=overwrite,
    )
    generator = card.config.method.generator
    low, high = card.target_range
    typer.echo(
        f"{output}: U-Net of {generator.levels} levels and {generator.channels} channels, "
        f"{generator.norm} norm ({card.batch_norm} statistics), output {low:g} to {high:g}"
    )
