"""The report as a PDF of A4 pages, for the file and the journal; the page is for looking."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure, FigureBase
from matplotlib.ft2font import FT2Font
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from medp2p.errors import MedP2PError
from medp2p.files import atomic_file
from medp2p.report.case_images import CaseImages, grey_range, read_case_images
from medp2p.report.evaluation_page import (
    TITLE,
    facts,
    flat_settings,
    found_faults,
    grouped_notes,
    label_table,
    reading,
    shown_p,
    summary_rows,
)
from medp2p.report.figure_style import LINE, house_style, method_label
from medp2p.report.figures import figure_sections
from medp2p.report.metric_words import known_metrics
from medp2p.report.panels import Panel, Section, fix_layout
from medp2p.report.planes import shown_axes, shown_slice
from medp2p.report.viewer import ERROR_LIMIT_HU
from medp2p.report.worst_slices import WorstSlice, worst_slices
from medp2p.results import Evaluation

A4_INCHES = (8.27, 11.69)
MARGIN_POINTS = 45.0
PICTURES = 10
"""Worst slices that are shown as pictures."""
PICTURES_PER_PAGE = 5
ROWS_PER_PAGE = 4
ROW_INCHES = 8.7
"""Width of a row of panels, before they are made to fit the page."""
TEXT_SCALE = 0.84
"""Of the figures' text, which is made for the screen."""

Column = tuple[str, str]
"""A heading, and ``"left"``, ``"right"`` or, for the one that is wrapped, ``"text"``."""


def evaluation_pdf(evaluation: Evaluation) -> bytes:
    """Write the report as a PDF; the same evaluation and images give the same bytes.

    Summary, findings, comparisons, figures, the worst slices as pictures, label classes,
    failures and settings. Images that are not on disk any more are left out, with a line.

    Args:
        evaluation: What to show.
    """
    buffer = io.BytesIO()
    metadata = {"Title": TITLE, "Creator": "medp2p", "Producer": "matplotlib", "CreationDate": None}
    with house_style(scale=TEXT_SCALE), PdfPages(buffer, metadata=metadata) as pages:
        text = _TextPages(pages)
        _write_results(text, evaluation)
        text.end_page()
        for section in figure_sections(evaluation):
            _save_figures(pages, section)
        unseen = _save_pictures(pages, evaluation)
        _write_rest(text, evaluation, unseen)
        text.end_page()
    return buffer.getvalue()


def write_pdf(path: Path, evaluation: Evaluation, *, overwrite: bool = False) -> None:
    """Write `evaluation_pdf` to a file.

    Raises:
        OutputError: If it exists and ``overwrite`` is false, or cannot be written.
    """
    with atomic_file(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(evaluation_pdf(evaluation))


# ---- text and tables ----------------------------------------------------------------------------


def _write_results(text: _TextPages, evaluation: Evaluation) -> None:
    several = len(evaluation.methods) > 1
    text.heading(TITLE, size=17)
    text.table([("", "left"), ("", "text")], [list(row) for row in facts(evaluation).items()])
    for note in grouped_notes(evaluation):
        text.paragraph(f"Note: {note.text} ({', '.join(note.cases)})")
    text.heading("Findings")
    for finding in evaluation.findings:
        whose = f", {method_label(finding.method)}" if several else ""
        text.paragraph(f"All cases{whose}: {finding.kind.replace('_', ' ')}: {finding.text}")
    faults = found_faults(evaluation)
    if faults:
        text.table(
            _columns([("case", "left"), ("method", "left"), ("what is wrong", "text")], several),
            [
                _cells([one.case, method_label(one.method), _finding_text(one.finding)], several)
                for one in faults
            ],
        )
    else:
        text.paragraph("None of the faults that are looked for was recognized in a single case.")
    if evaluation.requirements:
        text.heading("Requirements")
        text.table(
            _columns([("required", "left"), ("method", "left"), ("result", "text")], several),
            [
                _cells(
                    [
                        one.text,
                        method_label(one.method),
                        f"{'met' if one.met else 'NOT MET'}: {one.value:.4g}",
                    ],
                    several,
                )
                for one in evaluation.requirements
            ],
        )
    _write_summary(text, evaluation)
    _write_comparisons(text, evaluation)


def _write_summary(text: _TextPages, evaluation: Evaluation) -> None:
    several = len(evaluation.methods) > 1
    metrics = [metric for metric in known_metrics(evaluation) if metric.family != "voxels"]
    rows = [
        _cells(
            [
                metric.heading if number == 0 else "",
                row.method,
                row.mean,
                row.interval,
                row.median,
                str(row.count),
                str(row.missing or ""),
                str(row.infinite or ""),
            ],
            several,
        )
        for metric in metrics
        for number, row in enumerate(summary_rows(evaluation, metric))
    ]
    if not rows:
        return
    columns = ["mean ± sd", "95 % interval", "median", "n", "missing", "infinite"]
    text.heading("Summary")
    text.table(
        _columns(
            [("metric", "left"), ("method", "left"), *((name, "right") for name in columns)],
            several,
        ),
        rows,
    )
    text.paragraph(
        "Mean ± standard deviation (n − 1) over the cases; 95 % bootstrap interval of the mean; n "
        "cases with a finite value."
    )
    text.heading("Definitions", size=10)
    text.table(
        [("", "left"), ("", "text")],
        [[metric.heading, metric.definition] for metric in metrics if metric.definition],
    )


def _write_comparisons(text: _TextPages, evaluation: Evaluation) -> None:
    by_name = {metric.name: metric for metric in known_metrics(evaluation)}
    shown = [one for one in evaluation.comparisons if one.metric in by_name]
    if not shown:
        return
    text.heading("Methods compared")
    if evaluation.cases_differ:
        text.paragraph(
            "The methods have different cases: their means are not comparable. What follows takes "
            f"the cases that all, or both, have ({len(evaluation.common_cases)} by all)."
        )
    if evaluation.ranking:
        text.table(
            [("method", "left"), ("score", "right"), ("mean rank", "right")],
            [
                [method_label(one.method), f"{one.score:.3f}", f"{one.mean_rank:.2f}"]
                for one in evaluation.ranking
            ],
        )
    text.table(
        [
            ("metric", "left"),
            ("first", "left"),
            ("second", "left"),
            ("n", "right"),
            ("difference", "right"),
            ("effect", "right"),
            ("p (Holm)", "right"),
            ("reading", "text"),
        ],
        [
            [
                by_name[one.metric].heading,
                method_label(one.first),
                method_label(one.second),
                str(one.cases),
                by_name[one.metric].shown(one.difference),
                "–" if np.isnan(one.effect) else f"{one.effect:.2f}",
                shown_p(one.p_holm),
                reading(one, by_name[one.metric]),
            ]
            for one in shown
        ],
    )
    text.paragraph(
        "Wilcoxon's signed-rank test, two-sided, corrected by Holm's method; difference: median of "
        "first minus second; effect: matched-pairs rank-biserial correlation."
    )


def _write_rest(text: _TextPages, evaluation: Evaluation, unseen: Sequence[str]) -> None:
    several = len(evaluation.methods) > 1
    for line in unseen:
        text.paragraph(line)
    if labels := label_table(evaluation):
        text.heading("Label classes")
        names = ["dice", "surface_dice", "hd95_mm", "infinite", "count"]
        headings = ["Dice", "surface Dice", "HD95 (mm)", "infinite", "n"]
        text.table(
            _columns(
                [("class", "left"), ("method", "left"), *((name, "right") for name in headings)],
                several,
            ),
            [
                _cells([row["class"], row["method"], *(str(row[n]) for n in names)], several)
                for row in labels
            ],
        )
    if evaluation.failures:
        text.heading("Failures")
        text.table(
            [("case", "left"), ("method", "left"), ("reason", "text")],
            [[one.case, one.method, one.reason] for one in evaluation.failures],
        )
    text.heading("Settings and versions")
    text.table(
        [("", "left"), ("", "text")],
        [
            *map(list, flat_settings(evaluation.settings).items()),
            *map(list, evaluation.versions.items()),
        ],
    )


def _finding_text(finding: Any) -> str:
    place = f" At {', '.join(map(str, finding.place))}." if finding.place else ""
    return f"{finding.kind.replace('_', ' ')}: {finding.text}{place}"


def _columns(columns: list[Column], several: bool) -> list[Column]:
    return columns if several else [columns[0], *columns[2:]]


def _cells(cells: list[str], several: bool) -> list[str]:
    return cells if several else [cells[0], *cells[2:]]


class _TextPages:
    """Text and tables that flow from page to page; lengths are in points."""

    size = 8.0
    line = 11.5
    gap = 12.0

    def __init__(self, pages: PdfPages) -> None:
        self.pages = pages
        self.figure: Figure | None = None
        self.y = 0.0

    def heading(self, text: str, size: float = 13.0) -> None:
        self._need(size + 5 * self.line)
        self.y -= size * 0.9
        self._write(MARGIN_POINTS, text, size=size, weight="bold")
        self.y -= size * 1.5

    def paragraph(self, text: str) -> None:
        for line in wrapped(text, _page_width(), self.size):
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
        if self.figure is not None:
            _save_page(self.pages, self.figure)
            self.figure = None

    def _widths(self, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[float]:
        natural = [
            max(text_width(cell, self.size) for cell in column)
            for column in zip([name for name, _ in columns], *rows, strict=True)
        ]
        free = _page_width() - self.gap * (len(columns) - 1)
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


def _page_width() -> float:
    return A4_INCHES[0] * 72 - 2 * MARGIN_POINTS


# ---- figures ------------------------------------------------------------------------------------


def _save_figures(pages: PdfPages, section: Section) -> None:
    rows = list(_rows_of(section.panels))
    for start in range(0, len(rows), ROWS_PER_PAGE):
        title = section.title if start == 0 else f"{section.title}, continued"
        figure, body = _page_with_head(title, section.text)
        bands = _parts(body, ROWS_PER_PAGE, 1)
        for [band], row in zip(bands, rows[start : start + ROWS_PER_PAGE], strict=False):
            _draw_row(band, row)
        _save_page(pages, figure)


def _rows_of(panels: Sequence[Panel]) -> Iterator[list[Panel]]:
    row: list[Panel] = []
    for panel in panels:
        if row and sum(one.width_inches for one in [*row, panel]) > ROW_INCHES:
            yield row
            row = []
        row.append(panel)
    yield row


def _page_with_head(title: str, text: str) -> tuple[Figure, FigureBase]:
    """Return a page with a heading, and the part of it below."""
    figure = Figure(figsize=A4_INCHES, layout="constrained")
    outer = _parts(figure, 3, 3, width_ratios=[1, 15, 1], height_ratios=[1.6, 20, 1])
    head = outer[0][1]
    head.text(0, 0.45, title, fontsize=13, fontweight="bold")
    lines = "\n".join(wrapped(text, _page_width(), 8))
    head.text(0, 0.35, lines, fontsize=8, verticalalignment="top")
    return figure, outer[1][1]


def _draw_row(band: FigureBase, row: Sequence[Panel]) -> None:
    widths = [panel.width_inches for panel in row]
    left = max(ROW_INCHES - sum(widths), 0.01)
    [places] = _parts(band, 1, len(row) + 1, width_ratios=[*widths, left])
    points = _page_width() / sum([*widths, left])
    for place, panel in zip(places, row, strict=False):
        caption = wrapped(panel.caption, points * panel.width_inches * 0.95, 6.5)
        [head], [body], [foot] = _parts(place, 3, 1, height_ratios=[8, 100, 4 + 6 * len(caption)])
        head.text(0.02, 0.2, panel.title, fontsize=8.5, fontweight="bold")
        panel.draw(body)
        foot.text(0.02, 0.98, "\n".join(caption), fontsize=6.5, verticalalignment="top")


def _parts(figure: FigureBase, rows: int, columns: int, **ratios: Any) -> list[list[FigureBase]]:
    """Divide a figure into rows of parts."""
    parts = figure.subfigures(rows, columns, squeeze=False, **ratios)
    return [list(row) for row in np.asarray(parts)]


def _save_page(pages: PdfPages, figure: Figure) -> None:
    number = pages.get_pagecount() + 1  # type: ignore[no-untyped-call]
    x = 1 - MARGIN_POINTS / (72 * A4_INCHES[0])
    figure.text(x, 0.025, str(number), fontsize=7, horizontalalignment="right")
    fix_layout(figure)
    pages.savefig(figure, dpi=150)  # type: ignore[no-untyped-call]


# ---- pictures -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Picture:
    """A slice of each image, (rows, columns) as `shown_slice` turns it."""

    title: str
    images: dict[str, NDArray[Any]]
    window: tuple[float, float]
    aspect: float


def _save_pictures(pages: PdfPages, evaluation: Evaluation) -> list[str]:
    """Draw the worst slices; return a line for each reason why images cannot be read."""
    unseen: dict[str, list[str]] = {}
    pictures: dict[WorstSlice, _Picture] = {}
    worst = worst_slices(evaluation.results, PICTURES)
    for result in evaluation.results:
        wanted = [w for w in worst if (w.case, w.method) == (result.case, result.method)]
        if not wanted:
            continue
        try:
            images = read_case_images(result)
            pictures |= {one: _picture(one, images, evaluation) for one in wanted}
        except MedP2PError as error:
            unseen.setdefault(str(error), []).append(f"{result.case} {result.method}".rstrip())
    shown = [pictures[one] for one in worst if one in pictures]
    for start in range(0, len(shown), PICTURES_PER_PAGE):
        _save_page(pages, _picture_page(shown[start : start + PICTURES_PER_PAGE], evaluation))
    return [f"Images not shown, {', '.join(cases)}: {reason}" for reason, cases in unseen.items()]


def _picture(worst: WorstSlice, images: CaseImages, evaluation: Evaluation) -> _Picture:
    volumes = {
        "source": images.source,
        "prediction": images.prediction,
        "reference": images.reference,
    }
    slices = {
        name: shown_slice(volume.array, worst.plane, worst.index).astype(np.float32)
        for name, volume in volumes.items()
        if volume is not None
    }
    error = slices["prediction"] - slices["reference"]
    if images.mask is not None:
        outside = ~shown_slice(images.mask, worst.plane, worst.index)
        error = np.ma.masked_where(outside, error)
    down, across = images.reference.spacing_mm[list(shown_axes(worst.plane))]
    unit = evaluation.profile.units or ""
    title = f"{worst.case}, {worst.plane} slice {worst.index}, MAE {worst.mae:.1f} {unit}".rstrip()
    if len(evaluation.methods) > 1:
        title = f"{method_label(worst.method)}: {title}"
    return _Picture(
        title,
        slices | {"error": error},
        grey_range(images, evaluation.profile),
        float(down / across),
    )


def _picture_page(pictures: Sequence[_Picture], evaluation: Evaluation) -> Figure:
    """Draw a row for each slice; the patient's right, or face, is on the left."""
    figure, body = _page_with_head(
        "Worst slices",
        "The patient's right, or in sagittal planes the face, is on the left. Error: prediction "
        "minus reference.",
    )
    for [row], picture in zip(_parts(body, PICTURES_PER_PAGE, 1), pictures, strict=False):
        [head], [images] = _parts(row, 2, 1, height_ratios=[1, 10])
        head.text(0, 0.1, picture.title, fontsize=8.5)
        _draw_picture(images, picture, evaluation.profile.units or "")
    return figure


def _draw_picture(row: FigureBase, picture: _Picture, unit: str) -> None:
    low, high = picture.window
    limit = ERROR_LIMIT_HU if unit == "HU" else (high - low) / 5
    windows = {"error": (-limit, limit)}
    if "source" in picture.images:
        darkest, brightest = np.nanpercentile(picture.images["source"], (1, 99.5))
        windows["source"] = (float(darkest), float(max(brightest, darkest + 1e-6)))
    places = np.ravel(np.asarray(row.subplots(1, len(picture.images))))
    for axes, (name, image) in zip(places, picture.images.items(), strict=True):
        black, white = windows.get(name, picture.window)
        axes.set_facecolor("black")
        drawn = axes.imshow(
            image,
            cmap="RdBu_r" if name == "error" else "gray",
            vmin=black,
            vmax=white,
            aspect=picture.aspect,
            interpolation="none",
        )
        axes.set(xticks=[], yticks=[], xlabel=name)
        if name == "error":
            row.colorbar(drawn, ax=axes, label=unit, shrink=0.8)
