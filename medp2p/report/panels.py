"""A figure as data, and how it is drawn into the page.

In the SVG text takes the page's colour, so that it is legible on a dark ground as on a light one.
The same panel gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure, FigureBase

from medp2p.report.figure_style import INK, LINE, METHOD_COLOURS, house_style

HEIGHT_INCHES = 2.9
RASTER_DPI = 130


@dataclass(frozen=True)
class Panel:
    """A figure that can be drawn anywhere.

    Attributes:
        name: Unique on the page, of letters, digits and hyphens.
        title: Above it.
        caption: What is plotted.
        description: What it shows, in words and numbers, for people who cannot see it.
        draw: Draws it into an empty figure or part of one.
        width_inches: Of the figure; the height is `HEIGHT_INCHES`.
    """

    name: str
    title: str
    caption: str
    description: str
    draw: Callable[[FigureBase], None]
    width_inches: float = 4.2


@dataclass(frozen=True)
class Section:
    """Panels under one heading.

    Attributes:
        name: Unique on the page.
        title: The heading.
        text: How to read the panels.
        panels: At least one.
    """

    name: str
    title: str
    text: str
    panels: tuple[Panel, ...]


def draw_alone(panel: Panel) -> Figure:
    """Draw a panel as a figure of its own."""
    figure = Figure(figsize=(panel.width_inches, HEIGHT_INCHES), layout="constrained")
    panel.draw(figure)
    fix_layout(figure)
    return figure


def fix_layout(figure: Figure) -> None:
    """Lay a figure out and round all positions.

    The last digits that the layout's solver finds differ from one time to the next.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine(None)
    parts = list(figure.subfigs)
    while parts:
        part = parts.pop()
        part.bbox_relative.set_points(_rounded(part.bbox_relative.get_points()))
        parts += part.subfigs
    for axes in figure.axes:
        axes.set_position(_rounded(axes.get_position(original=True).bounds))


def _rounded(positions: Any) -> Any:
    return np.round(positions, 5) + 0.0  # no -0


def as_svg(panel: Panel) -> str:
    """Draw a panel as an ``svg`` element for the inside of an HTML page.

    Names of colours become the page's own, ``currentColor`` and the variables ``--line`` and
    ``--method-1`` and so on.
    """
    buffer = io.StringIO()
    with house_style(salt=panel.name):
        draw_alone(panel).savefig(buffer, format="svg", dpi=RASTER_DPI, metadata={"Date": None})
    return _inlined(buffer.getvalue(), panel)


def _inlined(svg: str, panel: Panel) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    [box] = re.findall(r'viewBox="([^"]*)"', head)
    rest = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", rest)  # what nothing refers to
    rest = re.sub(r'"[^"]*"', lambda text: re.sub(r"-?\d+\.\d{3,}", _two_digits, text[0]), rest)
    rest = rest.replace(INK, "currentColor").replace(LINE, "var(--line)")
    for number, colour in enumerate(METHOD_COLOURS, start=1):
        rest = rest.replace(colour, f"var(--method-{number})")
    return f'<svg role="img" aria-labelledby="{panel.name}-text" viewBox="{box}">{rest.strip()}'


def _two_digits(number: re.Match[str]) -> str:
    return f"{float(number[0]) + 0.0:.2f}"
