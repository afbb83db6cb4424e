"""``medp2p presets``: list, print and validate settings."""

from pathlib import Path
from typing import Annotated

import typer


def presets(
    name: Annotated[
        str | None, typer.Argument(help="Print this preset with all its settings.")
    ] = None,
    validate: Annotated[
        Path | None, typer.Option("--validate", help="Check a YAML file of your own.")
    ] = None,
) -> None:
    """List, print or validate settings."""
    from medp2p.config import config_yaml, load_config
    from medp2p.resources import preset_names

    if validate is not None:
        load_config(file=validate)
        typer.echo(f"{validate}: valid")
    elif name is not None:
        typer.echo(config_yaml(load_config(preset=name)), nl=False)
    else:
        names = preset_names()
        width = max(map(len, names))
        for preset in names:
            typer.echo(f"{preset:<{width}}  {load_config(preset=preset).description}")
