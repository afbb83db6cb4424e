"""``medp2p info``: what a model file is."""

from pathlib import Path
from typing import Annotated

import typer

from . import options


def info(
    model: Annotated[Path, typer.Argument(help="The model file.")],
    as_json: options.AsJson = False,
) -> None:
    """Print what a model file is.

    Method, training data, settings, metrics and hash.
    """
    import json

    from medp2p.checkpoint import card_values, read_card
    from medp2p.config import config_yaml

    card, digest = read_card(model)
    if as_json:
        typer.echo(json.dumps({**card_values(card), "sha256": digest}, indent=1))
        return
    source = card.config.preprocessing.source.modality
    target = card.config.preprocessing.target.modality
    low, high = card.target_range
    unit = {"CT": "HU", "MR": "MR units"}.get(target, "grey levels")
    data = card.fingerprint
    lines = [
        f"{model}",
        f"  translates   {source} ({', '.join(card.source_names)}) to {target}, "
        f"{low:g} to {high:g} {unit}",
        f"  method       {card.config.method.name}, batch norm statistics: {card.batch_norm}",
        f"  trained on   {data.get('cases', 'unknown')} cases, epoch "
        f"{card.progress.get('epoch', 'unknown')}",
        *(f"  {name:<13}{_ranges(data[key])} mm" for name, key in _EXTENTS if key in data),
        *(f"  {name} {value:.4g}" for name, value in card.metrics.items()),
        f"  versions     {', '.join(f'{k} {v}' for k, v in card.versions.items())}",
        f"  sha256       {digest}",
        "",
        config_yaml(card.config).rstrip(),
    ]
    typer.echo("\n".join(lines))


_EXTENTS = (("spacing", "spacing_mm"), ("body extent", "body_extent_mm"))


def _ranges(low_high: list[list[float]]) -> str:
    pairs = zip(*low_high, strict=True)
    return " × ".join(f"{a:.4g}" if a == b else f"{a:.4g}–{b:.4g}" for a, b in pairs)
