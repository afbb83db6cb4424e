"""Headings, paragraphs and tables that flow over the pages of the PDF."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from medp2p.report.figure_style import LINE
from medp2p.report.pdf_pages import (
    A4_INCHES,
    MARGIN_POINTS,
    page_width,
    save_page,
    text_width,
    wrapped,
)

Column = tuple[str, str]
"""A heading, and ``"left"``, ``"right"`` or, for the one that is wrapped, ``"text"``."""


class TextPages:
    """Text and tables that flow from page to page; lengths are in points."""

    size = 8.0
    line = 11.5
    gap = 12.0

    def __init__(self, pages: PdfPages) -> None:
        self.pages = pages
        self.figure: Figure | None = None
        self.y = 0.0

    def heading(self, text: str, size: float = 13.0) -> None:
        """Write a heading, on a page with room for what follows."""
        self._need(size + 5 * self.line)
        self.y -= size * 0.9
        self._write(MARGIN_POINTS, text, size=size, weight="bold")
        self.y -= size * 1.5

    def paragraph(self, text: str) -> None:
        """Write text over the whole width."""
        for line in wrapped(text, page_width(), self.size):
            self._need(self.line)
            self._write(MARGIN_POINTS, line)
            self.y -= self.line
        self.y -= self.line / 2

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
        """Write rows, their heading again on every page; a ``text`` column is wrapped."""
        widths = self._widths(columns, rows)
        self._table_head(columns, widths)
        for row in rows:
            cells = [
                wrapped(cell, width, self.size) for cell, width in zip(row, widths, strict=True)
            ]
            height = self.line * max(1, *map(len, cells))
            if self._need(height + self.line):
                self._table_head(columns, widths)
            self._row(columns, widths, cells)
            self.y -= height
        self.y -= self.line

    def end_page(self) -> None:
        """Write the page; what comes next begins another."""
        if self.figure is not None:
            save_page(self.pages, self.figure)
            self.figure = None

    def _widths(self, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[float]:
        natural = [
            max(text_width(cell, self.size) for cell in column)
            for column in zip([name for name, _ in columns], *rows, strict=True)
        ]
        free = page_width() - self.gap * (len(columns) - 1)
        wide = [n for n, (_, kind) in enumerate(columns) if kind == "text"]
        limit = free * 0.45
        widths = [width if n in wide else min(width, limit) for n, width in enumerate(natural)]
        rest = free - sum(width for n, width in enumerate(widths) if n not in wide)
        for n in wide:
            widths[n] = min(widths[n], max(rest / len(wide), 60.0))
        return widths

    def _table_head(self, columns: Sequence[Column], widths: Sequence[float]) -> None:
        self._need(2 * self.line)
        if any(name for name, _ in columns):
            self._row(columns, widths, [[name] for name, _ in columns], weight="bold")
            self.y -= self.line * 0.35
            self._rule(sum(widths) + self.gap * (len(widths) - 1))
            self.y -= self.line

    def _row(
        self,
        columns: Sequence[Column],
        widths: Sequence[float],
        cells: Sequence[Sequence[str]],
        weight: str = "normal",
    ) -> None:
        x = MARGIN_POINTS
        for (_, kind), width, lines in zip(columns, widths, cells, strict=True):
            side = "right" if kind == "right" else "left"
            for number, line in enumerate(lines):
                at = x + width if side == "right" else x
                self._write(at, line, drop=number * self.line, side=side, weight=weight)
            x += width + self.gap

    def _need(self, height: float) -> bool:
        """Begin a page if less than this is left; say whether one was begun."""
        if self.figure is not None and self.y - height > MARGIN_POINTS:
            return False
        self.end_page()
        self.figure = Figure(figsize=A4_INCHES)
        self.y = A4_INCHES[1] * 72 - MARGIN_POINTS - self.size
        return True

    def _write(
        self,
        x: float,
        text: str,
        *,
        drop: float = 0,
        size: float | None = None,
        side: str = "left",
        weight: str = "normal",
    ) -> None:
        assert self.figure is not None
        width, height = (72 * inches for inches in A4_INCHES)
        self.figure.text(
            x / width,
            (self.y - drop) / height,
            text,
            fontsize=size or self.size,
            fontweight=weight,
            horizontalalignment=side,
            verticalalignment="baseline",
        )

    def _rule(self, length: float) -> None:
        assert self.figure is not None
        width, height = (72 * inches for inches in A4_INCHES)
        x = [MARGIN_POINTS / width, (MARGIN_POINTS + length) / width]
        y = [(self.y + self.line * 0.1) / height] * 2
        self.figure.add_artist(Line2D(x, y, color=LINE, linewidth=0.7))
