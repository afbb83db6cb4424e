"""The report as a PDF of A4 pages, for the file and the journal; the page is for looking."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_pdf import PdfPages

from medp2p.files import atomic_file
from medp2p.report.content import (
    TITLE,
    LeftOut,
    facts,
    flat_settings,
    found_faults,
    grouped_notes,
    label_table,
    reading,
    shown_p,
    summary_rows,
)
from medp2p.report.figure_style import house_style, method_label
from medp2p.report.figures import figure_sections
from medp2p.report.metric_words import known_metrics
from medp2p.report.pdf_figures import save_figures
from medp2p.report.pdf_pictures import save_pictures
from medp2p.report.pdf_text import Column, TextPages
from medp2p.results import Evaluation, Finding

TEXT_SCALE = 0.84
"""Of the figures' text, which is made for the screen."""


def evaluation_pdf(evaluation: Evaluation, *, left_out: LeftOut | None = None) -> bytes:
    """Write the report as a PDF; the same evaluation and images give the same bytes.

    Summary, findings, comparisons, figures, the worst slices as pictures, label classes,
    failures and settings. Images that changed since the evaluation, or are gone, are left out,
    with a line.

    Args:
        evaluation: What to show.
        left_out: Called with a case and the reason why its images are not shown.
    """
    buffer = io.BytesIO()
    metadata = {"Title": TITLE, "Creator": "medp2p", "Producer": "matplotlib", "CreationDate": None}
    with house_style(scale=TEXT_SCALE), PdfPages(buffer, metadata=metadata) as pages:
        text = TextPages(pages)
        _write_results(text, evaluation)
        text.end_page()
        for section in figure_sections(evaluation):
            save_figures(pages, section)
        unseen = save_pictures(pages, evaluation, left_out)
        _write_rest(text, evaluation, unseen)
        text.end_page()
    return buffer.getvalue()


def write_pdf(
    path: Path,
    evaluation: Evaluation,
    *,
    overwrite: bool = False,
    left_out: LeftOut | None = None,
) -> None:
    """Write `evaluation_pdf` to a file.

    Raises:
        OutputError: If it exists and ``overwrite`` is false, or cannot be written.
    """
    with atomic_file(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(evaluation_pdf(evaluation, left_out=left_out))


def _write_results(text: TextPages, evaluation: Evaluation) -> None:
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


def _write_summary(text: TextPages, evaluation: Evaluation) -> None:
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


def _write_comparisons(text: TextPages, evaluation: Evaluation) -> None:
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


def _write_rest(
    text: TextPages, evaluation: Evaluation, unseen: Mapping[str, Sequence[str]]
) -> None:
    several = len(evaluation.methods) > 1
    for reason, cases in unseen.items():
        text.paragraph(f"Images not shown, {', '.join(cases)}: {reason}")
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


def _finding_text(finding: Finding) -> str:
    place = f" At {', '.join(map(str, finding.place))}." if finding.place else ""
    return f"{finding.kind.replace('_', ' ')}: {finding.text}{place}"


def _columns(columns: list[Column], several: bool) -> list[Column]:
    return columns if several else [columns[0], *columns[2:]]


def _cells(cells: list[str], several: bool) -> list[str]:
    return cells if several else [cells[0], *cells[2:]]
