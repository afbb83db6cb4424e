"""Templates into one HTML file: style and script inside, nothing from the network, no times."""

from __future__ import annotations

import base64
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **content: Any) -> str:
    """Fill a template of this package; every text is escaped.

    Args:
        template: Its file name.
        content: What it shows.
    """
    return _environment().get_template(template).render(**content)


def jpeg_uri(picture: bytes) -> str:
    """Return a JPEG as the source of an ``img``."""
    return f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"


def shown_number(value: float | None) -> str:
    """Write a number as people read it: three or four digits, a dash for none."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("medp2p.report", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = shown_number
    environment.filters["jpeg_uri"] = jpeg_uri
    return environment
