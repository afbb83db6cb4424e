"""An evaluation as one page for a person who judges synthetic images."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medp2p.errors import MedP2PError
from medp2p.report.case_images import CaseImages, read_case_images
from medp2p.report.figure_style import method_label
from medp2p.report.figures import figure_sections
from medp2p.report.metric_words import (
    BEST_TEXTS,
    MetricWords,
    known_metrics,
    metric_words,
    range_text,
    tissue_limits,
)
from medp2p.report.page import render
from medp2p.report.panels import as_svg
from medp2p.report.viewer import CaseBlock, Place, ViewerCase, case_block
from medp2p.report.worst_slices import WorstSlice, worst_slices
from medp2p.results import CaseResult, Comparison, Evaluation, Finding, Summary

TITLE = "Evaluation of synthetic images"

VIEWER_CASES = 20
"""Predictions in the viewer unless more are asked for."""

SIGNIFICANCE = 0.05
"""A difference between methods is named if Holm's p lies below."""


@dataclass(frozen=True)
class FoundFault:
    """A finding and whose it is."""

    case: str
    method: str
    finding: Finding


@dataclass(frozen=True)
class Note:
    """Something to know, and about which cases."""

    text: str
    cases: tuple[str, ...]


@dataclass(frozen=True)
class SummaryRow:
    """One metric of one method, ready to be shown."""

    method: str
    mean: str
    interval: str
    median: str
    count: int
    missing: int
    infinite: int


def evaluation_page(
    evaluation: Evaluation,
    *,
    viewer_cases: int = VIEWER_CASES,
    full_resolution: bool = False,
    progress: Callable[[], None] | None = None,
    left_out: Callable[[str, str], None] | None = None,
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
            unseen.setdefault(str(error), []).append(_whose(result, evaluation))
            if left_out:
                left_out(_whose(result, evaluation), str(error))
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


def found_faults(evaluation: Evaluation) -> list[FoundFault]:
    """Return all findings, by case, in the order of the cases."""
    order = {name: n for n, name in enumerate(dict.fromkeys(r.case for r in evaluation.results))}
    found = [
        FoundFault(result.case, result.method, finding)
        for result in evaluation.results
        for finding in result.findings
    ]
    return sorted(found, key=lambda one: order[one.case])


def grouped_notes(evaluation: Evaluation) -> list[Note]:
    """Return the notes of all cases, each text once."""
    cases: dict[str, dict[str, None]] = {}
    for result in evaluation.results:
        for text in result.notes:
            cases.setdefault(text, {})[_whose(result, evaluation)] = None
    return [Note(text, tuple(names)) for text, names in cases.items()]


def facts(evaluation: Evaluation) -> dict[str, str]:
    """Return what was compared, line by line."""
    profile = evaluation.profile
    low, high = profile.value_range
    masks = list(dict.fromkeys(result.where.words for result in evaluation.results))
    counts = {len(evaluation.of_method(method)) for method in evaluation.methods}
    cases = f"{len({result.case for result in evaluation.results})}"
    if len(evaluation.methods) > 1:
        cases += f", each by {len(evaluation.methods)} methods" if len(counts) == 1 else " in all"
    lines = {
        "cases": cases,
        "methods": "; ".join(
            f"{method_label(method)} (n = {len(evaluation.of_method(method))})"
            for method in evaluation.methods
        )
        if len(evaluation.methods) > 1
        else "",
        "profile": f"{profile.name}: range {_shown(low)} to {_shown(high)} {profile.units or ''}"
        f"{'' if profile.units else 'without units'}, structure metric {profile.structure_key}",
        "mask": _listed(masks),
    }
    if any(name.startswith("mae_") for name in _value_names(evaluation)) and profile.units == "HU":
        lines["tissues"] = "; ".join(
            f"{name.replace('_', ' ')} {range_text(limits)}"
            for name, limits in tissue_limits(evaluation).items()
        )
        lines["tissues"] += ", by the reference"
    return {name: text for name, text in lines.items() if text}


def summary_rows(evaluation: Evaluation, metric: MetricWords) -> list[SummaryRow]:
    """Return a metric's summary for every method that has one."""
    rows = []
    for method in evaluation.methods:
        summary = evaluation.summaries.get(method, {}).get(metric.name)
        if summary is None:
            continue
        values = [r.values.get(metric.name, math.nan) for r in evaluation.of_method(method)]
        rows.append(
            SummaryRow(
                method_label(method),
                _mean_and_sd(summary, metric),
                _interval(summary, metric),
                metric.shown(summary.median),
                sum(map(math.isfinite, values)),
                sum(map(math.isnan, values)),
                sum(map(math.isinf, values)),
            )
        )
    return rows


def reading(comparison: Comparison, metric: MetricWords) -> str:
    """Say in a few words what a comparison of two methods shows."""
    if math.isnan(comparison.p_holm) or comparison.p_holm >= SIGNIFICANCE:
        return "no difference shown"
    first_higher = comparison.effect > 0
    higher = comparison.first if first_higher else comparison.second
    lower = comparison.second if first_higher else comparison.first
    if metric.best == "high":
        return f"{method_label(higher)} better"
    if metric.best == "low":
        return f"{method_label(lower)} better"
    return f"{method_label(higher)} higher"


def shown_p(p: float) -> str:
    """Write a p value as papers do."""
    if math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def flat_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """Write settings as lines; what is nested becomes JSON. Tissues are among `facts`."""
    words = {None: "–", True: "yes", False: "no"}
    return {
        name: value
        if isinstance(value, str)
        else words[value]
        if value is None or isinstance(value, bool)
        else json.dumps(value, ensure_ascii=False, default=str)
        for name, value in settings.items()
        if name != "tissues"
    }


def label_table(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return, for each label class and method, the mean of each score and the counts behind it."""
    classes = dict.fromkeys(name for result in evaluation.results for name in result.labels)
    rows = []
    for name in classes:
        for method in evaluation.methods:
            scores = [r.labels[name] for r in evaluation.of_method(method) if name in r.labels]
            if scores:
                rows.append(_label_row(name, method, scores))
    return rows


def _label_row(name: str, method: str, scores: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    def mean(score: str, decimals: int) -> str:
        values = [one[score] for one in scores if math.isfinite(one.get(score, math.nan))]
        return f"{sum(values) / len(values):.{decimals}f}" if values else "–"

    return {
        "class": name,
        "method": method_label(method),
        "dice": mean("dice", 3),
        "surface_dice": mean("surface_dice", 3),
        "hd95_mm": mean("hd95_mm", 2),
        "count": len(scores),
        "infinite": sum(math.isinf(one.get("hd95_mm", 0.0)) for one in scores),
    }


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
    said = [] if math.isnan(mae) else [f"MAE {mae:.1f} {result.profile.units or ''}".rstrip()]
    return "; ".join([*said, *images.notes])


def _places(result: CaseResult, worst: Sequence[WorstSlice]) -> Iterator[Place]:
    for finding in result.findings:
        if finding.place is not None:
            yield Place(finding.kind.replace("_", " "), finding.place)
    for one in worst:
        if (one.case, one.method) == (result.case, result.method):
            yield Place(f"worst {one.plane} slice", one.place, one.plane)  # type: ignore[arg-type]


def _whose(result: CaseResult, evaluation: Evaluation) -> str:
    several = len(evaluation.methods) > 1
    return f"{result.case} ({method_label(result.method)})" if several else result.case


def _value_names(evaluation: Evaluation) -> Iterable[str]:
    return (name for result in evaluation.results for name in result.values)


def _listed(names: Sequence[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _shown(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _mean_and_sd(summary: Summary, metric: MetricWords) -> str:
    mean = metric.shown(summary.mean)
    return mean if math.isnan(summary.sd) else f"{mean} ± {metric.shown(summary.sd)}"


def _interval(summary: Summary, metric: MetricWords) -> str:
    low, high = summary.interval
    if math.isnan(low) or math.isnan(high):
        return "–"
    return f"{metric.shown(low)} to {metric.shown(high)}"
