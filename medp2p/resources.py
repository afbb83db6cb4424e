"""Where the presets and sample cases that come with medp2p lie.

In an installed wheel they are inside the package; in a checkout, beside it.
"""

from __future__ import annotations

from pathlib import Path

from medp2p.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent


def resource_folder(name: str) -> Path:
    """Return the shipped folder ``name`` (``"configs"`` or ``"sample_data"``).

    Raises:
        FileNotFoundError: If the installation lacks it.
    """
    for place in (_PACKAGE / name, _PACKAGE.parent / name):
        if place.is_dir():
            return place
    raise FileNotFoundError(f"medp2p is installed without its folder {name!r}; reinstall it")


def preset_names() -> list[str]:
    """Names of the shipped presets, sorted."""
    return sorted(path.stem for path in resource_folder("configs").glob("*.yaml"))


def preset_text(name: str) -> str:
    """Return the YAML text of a shipped preset.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in preset_names():
        raise ConfigError(f"no preset {name!r}; the presets are {', '.join(preset_names())}")
    return (resource_folder("configs") / f"{name}.yaml").read_text(encoding="utf-8")
