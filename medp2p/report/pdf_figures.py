"""The figures of an evaluation on pages of the PDF."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import FigureBase

from medp2p.report.panels import Panel, Section
from medp2p.report.pdf_pages import page_width, page_with_head, parts_of, save_page, wrapped

ROWS_PER_PAGE = 4
ROW_INCHES = 8.7
"""Width of a row of panels, before they are made to fit the page."""


def save_figures(pages: PdfPages, section: Section) -> None:
    """Draw the panels of a section, as many to a row and to a page as fit."""
    rows = list(_rows_of(section.panels))
    for start in range(0, len(rows), ROWS_PER_PAGE):
        title = section.title if start == 0 else f"{section.title}, continued"
        figure, body = page_with_head(title, section.text)
        bands = parts_of(body, ROWS_PER_PAGE, 1)
        for [band], row in zip(bands, rows[start : start + ROWS_PER_PAGE], strict=False):
            _draw_row(band, row)
        save_page(pages, figure)


def _rows_of(panels: Sequence[Panel]) -> Iterator[list[Panel]]:
    row: list[Panel] = []
    for panel in panels:
        if row and sum(one.width_inches for one in [*row, panel]) > ROW_INCHES:
            yield row
            row = []
        row.append(panel)
    yield row


def _draw_row(band: FigureBase, row: Sequence[Panel]) -> None:
    widths = [panel.width_inches for panel in row]
    left = max(ROW_INCHES - sum(widths), 0.01)
    [places] = parts_of(band, 1, len(row) + 1, width_ratios=[*widths, left])
    points = page_width() / sum([*widths, left])
    for place, panel in zip(places, row, strict=False):
        caption = wrapped(panel.caption, points * panel.width_inches * 0.95, 6.5)
        [head], [body], [foot] = parts_of(place, 3, 1, height_ratios=[8, 100, 4 + 6 * len(caption)])
        head.text(0.02, 0.2, panel.title, fontsize=8.5, fontweight="bold")
        panel.draw(body)
        foot.text(0.02, 0.98, "\n".join(caption), fontsize=6.5, verticalalignment="top")
