"""Pages of the PDF: their size, their heads, and how wide a text is on them."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure, FigureBase
from matplotlib.ft2font import FT2Font

from medp2p.report.panels import fix_layout

A4_INCHES = (8.27, 11.69)
MARGIN_POINTS = 45.0


def text_width(text: str, size: float) -> float:
    """Return the width of a line of text in points."""
    font = _font()
    font.set_size(size, 72)
    font.set_text(text, 0.0)
    width: float = font.get_width_height()[0] / 64
    return width


def wrapped(text: str, width: float, size: float) -> list[str]:
    """Break text into lines of at most ``width`` points; a longer word is broken anywhere."""
    lines = [""]
    for word in " ".join(text.split()).split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer, size) <= width + 0.5:
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if text_width(lines[-1] + letter, size) > width + 0.5 and lines[-1]:
                lines.append("")
            lines[-1] += letter
    return lines


def _font() -> FT2Font:
    return font_manager.get_font(font_manager.findfont("DejaVu Sans"))


def page_width() -> float:
    """Return the width between the margins in points."""
    return A4_INCHES[0] * 72 - 2 * MARGIN_POINTS


def page_with_head(title: str, text: str) -> tuple[Figure, FigureBase]:
    """Return a page with a heading, and the part of it below."""
    figure = Figure(figsize=A4_INCHES, layout="constrained")
    outer = parts_of(figure, 3, 3, width_ratios=[1, 15, 1], height_ratios=[1.6, 20, 1])
    head = outer[0][1]
    head.text(0, 0.45, title, fontsize=13, fontweight="bold")
    lines = "\n".join(wrapped(text, page_width(), 8))
    head.text(0, 0.35, lines, fontsize=8, verticalalignment="top")
    return figure, outer[1][1]


def parts_of(figure: FigureBase, rows: int, columns: int, **ratios: Any) -> list[list[FigureBase]]:
    """Divide a figure into rows of parts."""
    parts = figure.subfigures(rows, columns, squeeze=False, **ratios)
    return [list(row) for row in np.asarray(parts)]


def save_page(pages: PdfPages, figure: Figure) -> None:
    """Number a page, lay it out and write it."""
    number = pages.get_pagecount() + 1  # type: ignore[no-untyped-call]
    x = 1 - MARGIN_POINTS / (72 * A4_INCHES[0])
    figure.text(x, 0.025, str(number), fontsize=7, horizontalalignment="right")
    fix_layout(figure)
    pages.savefig(figure, dpi=150)  # type: ignore[no-untyped-call]
