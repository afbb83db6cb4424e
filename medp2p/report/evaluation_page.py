"""An evaluation as one page for a person who judges synthetic images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from medp2p.errors import MedP2PError
from medp2p.report.case_images import CaseImages, read_case_images
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
    whose,
)
from medp2p.report.figure_style import method_label
from medp2p.report.figures import figure_sections
from medp2p.report.metric_words import BEST_TEXTS, known_metrics, metric_words
from medp2p.report.page import render
from medp2p.report.panels import as_svg
from medp2p.report.viewer import CaseBlock, Place, ViewerCase, case_block
from medp2p.report.worst_slices import WorstSlice, worst_slices
from medp2p.results import CaseResult, Evaluation

VIEWER_CASES = 20
"""Predictions in the viewer unless more are asked for."""


def evaluation_page(
    evaluation: Evaluation,
    *,
    viewer_cases: int = VIEWER_CASES,
    full_resolution: bool = False,
    progress: Callable[[], None] | None = None,
    left_out: LeftOut | None = None,
) -> str:
    """Write the page; the same evaluation and images give the same text.

    Args:
        evaluation: What to show.
        viewer_cases: How many predictions the viewer holds at most; 0 for no viewer. Those with
            findings come first, then those with the largest MAE.
        full_resolution: Embed every voxel instead of half the resolution.
        progress: Called when a case is packed for the viewer.
        left_out: Called with a case and the reason why its images are not shown.

    Returns:
        An HTML document that needs no other file.
    """
    chosen = viewed_cases(evaluation, viewer_cases)
    worst = worst_slices(evaluation.results)
    blocks: list[CaseBlock] = []
    unseen: dict[str, list[str]] = {}
    for result in chosen:
        try:
            blocks.append(_block(result, worst, evaluation, full_resolution))
        except MedP2PError as error:
            unseen.setdefault(str(error), []).append(whose(result, evaluation))
            if left_out:
                left_out(whose(result, evaluation), str(error))
        if progress:
            progress()
    return render("evaluation.html", **_content(evaluation, worst, blocks, unseen))


def viewed_cases(evaluation: Evaluation, count: int) -> list[CaseResult]:
    """Return the predictions for the viewer: whole cases with all methods, worst first.

    Cases with findings come first, then those with the largest MAE.
    """
    by_case: dict[str, list[CaseResult]] = {}
    for result in evaluation.results:
        by_case.setdefault(result.case, []).append(result)

    def badness(results: Sequence[CaseResult]) -> tuple[int, float]:
        errors = [result.values.get(result.profile.mae_key, math.nan) for result in results]
        return (
            sum(len(result.findings) for result in results),
            max((error for error in errors if not math.isnan(error)), default=math.inf),
        )

    chosen: list[CaseResult] = []
    for results in sorted(by_case.values(), key=badness, reverse=True):
        if chosen and len(chosen) + len(results) > count:
            break
        chosen += results[:count]
    return chosen[:count]


def _content(
    evaluation: Evaluation,
    worst: Sequence[WorstSlice],
    blocks: Sequence[CaseBlock],
    unseen: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    metrics = known_metrics(evaluation)
    by_name = {metric.name: metric for metric in metrics}
    faults = found_faults(evaluation)
    return {
        "title": TITLE,
        "evaluation": evaluation,
        "several": len(evaluation.methods) > 1,
        "facts": facts(evaluation),
        "notes": grouped_notes(evaluation),
        "faults": faults,
        "fault_counts": Counter(fault.finding.kind for fault in faults).most_common(),
        "unmet": sum(not one.met for one in evaluation.requirements),
        "requirements": [
            (
                one,
                by_name[one.metric].shown(one.value)
                if one.metric in by_name
                else f"{one.value:.4g}",
            )
            for one in evaluation.requirements
        ],
        "summary": [
            (metric, rows)
            for metric in metrics
            if metric.family != "voxels" and (rows := summary_rows(evaluation, metric))
        ],
        "comparisons": [
            (one, by_name[one.metric], reading(one, by_name[one.metric]))
            for one in evaluation.comparisons
            if one.metric in by_name
        ],
        "sections": [
            (section, [(panel, as_svg(panel)) for panel in section.panels])
            for section in figure_sections(evaluation)
        ],
        "worst": worst,
        "mae": metric_words(evaluation.profile.mae_key, evaluation.profile, {}),
        "labels": label_table(evaluation),
        "metrics": metrics,
        "viewed": {(block.name, block.method) for block in blocks},
        "blocks": blocks,
        "unseen": unseen,
        "settings": flat_settings(evaluation.settings),
        "best_texts": BEST_TEXTS,
        "method_label": method_label,
        "shown_p": shown_p,
        "unit": evaluation.profile.units or "",
    }


def _block(
    result: CaseResult,
    worst: Sequence[WorstSlice],
    evaluation: Evaluation,
    full_resolution: bool,
) -> CaseBlock:
    images = read_case_images(result)
    return case_block(
        ViewerCase(
            name=result.case,
            method=result.method,
            source=images.source,
            prediction=images.prediction,
            reference=images.reference,
            mask=images.mask,
            units=evaluation.profile.units,
            note=_viewer_note(result, images),
            places=tuple(_places(result, worst)),
        ),
        full_resolution=full_resolution,
    )


def _viewer_note(result: CaseResult, images: CaseImages) -> str:
    mae = result.values.get(result.profile.mae_key, math.nan)
    words = metric_words(result.profile.mae_key, result.profile, {})
    said = [] if math.isnan(mae) else [f"{words.label} {words.shown(mae)} {words.unit}".rstrip()]
    return "; ".join([*said, *images.notes])


def _places(result: CaseResult, worst: Sequence[WorstSlice]) -> Iterator[Place]:
    for finding in result.findings:
        if finding.place is not None:
            yield Place(finding.kind.replace("_", " "), finding.place)
    for one in worst:
        if (one.case, one.method) == (result.case, result.method):
            yield Place(f"worst {one.plane} slice", one.place, one.plane)  # type: ignore[arg-type]
