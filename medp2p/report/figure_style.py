"""How figures look: colours, markers and lines of the methods, and matplotlib's settings.

Colours are those of Okabe and Ito (2008), which colour-blind people tell apart; methods differ
by marker and line too.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import FigureBase

INK = "#1b1f24"
LINE = "#c4cad0"
METHOD_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
COUNT_COLOURS = LinearSegmentedColormap.from_list("counts", ["#7fa3bf", "#2f7fb5", "#e69f00"])
"""From few to many voxels; readable on a light and on a dark ground."""

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.unicode_minus": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "xtick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.color": INK,
    "ytick.labelsize": 8,
    "ytick.major.width": 0.7,
}
"""Matplotlib settings of every figure."""


@contextmanager
def house_style(salt: str = "medp2p", scale: float = 1.0) -> Iterator[None]:
    """Draw with `STYLE`, its text scaled; letters that the font lacks are no warning."""
    sizes = {name: size * scale for name, size in STYLE.items() if name.endswith("size")}
    with matplotlib.rc_context({**STYLE, **sizes, "svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        yield


def method_label(method: str) -> str:
    """Return a method's name, or ``prediction`` where there is but one without a name."""
    return " ".join(method.split()) or "prediction"


def method_style(number: int) -> dict[str, Any]:
    """Return colour and marker of the n-th method, from 0."""
    return {
        "color": METHOD_COLOURS[number % len(METHOD_COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def line_style(number: int) -> Any:
    """Return the line of the n-th method, from 0."""
    return LINE_STYLES[number % len(LINE_STYLES)]


def shortened(text: str, limit: int = 22) -> str:
    """Cut a text at ``limit`` letters, the last an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def capital(text: str) -> str:
    """Return a text with a capital first letter and the rest as it is."""
    return text[:1].upper() + text[1:]


def add_legend(figure: FigureBase, axes: Axes, methods: Sequence[str], lines: bool = False) -> None:
    """Name the methods above the figure, by markers or by lines with markers."""
    for number, method in enumerate(methods):
        label = shortened(method_label(method), 30)
        style = method_style(number)
        if lines:
            axes.plot([], [], label=label, linestyle=line_style(number), markersize=4, **style)
        else:
            axes.scatter([], [], s=16, linewidths=0, label=label, **style)
    figure.legend(loc="outside upper left", ncols=3, handletextpad=0.4, columnspacing=1.2)
