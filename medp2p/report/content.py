"""What page and PDF both say of an evaluation, ready to be shown."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medp2p.report.figure_style import method_label
from medp2p.report.metric_words import MetricWords, range_text, tissue_limits
from medp2p.results import CaseResult, Comparison, Evaluation, Finding, Summary

TITLE = "Evaluation of synthetic images"

SIGNIFICANCE = 0.05
"""A difference between methods is named if Holm's p lies below."""

LeftOut = Callable[[str, str], None]
"""Is told of a case whose images are not shown, and why."""


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
            cases.setdefault(text, {})[whose(result, evaluation)] = None
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
    return {name: _setting(value) for name, value in settings.items() if name != "tissues"}


def _setting(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    return json.dumps(value, ensure_ascii=False, default=str)


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


def whose(result: CaseResult, evaluation: Evaluation) -> str:
    """Name a case, and its method if there are several."""
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
