"""Metrics over the cases: box plots of every metric, and Dice by label class."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from medp2p.report.figure_style import (
    INK,
    add_legend,
    capital,
    method_label,
    method_style,
    shortened,
)
from medp2p.report.metric_words import BEST_TEXTS, MetricWords, families, known_metrics
from medp2p.report.panels import Panel
from medp2p.results import CaseResult, Evaluation


def box_panels(evaluation: Evaluation) -> Iterator[Panel]:
    """Yield a panel for each family of metrics, and one for Dice by label class."""
    for family, members in families(known_metrics(evaluation)).items():
        members = [m for m in members if _finite(evaluation.results, m.name)]
        if members:
            yield _box_panel(evaluation, family, members)
    yield from _label_panels(evaluation)


def _box_panel(evaluation: Evaluation, family: str, members: list[MetricWords]) -> Panel:
    groups = {
        member.member or member.label: [
            _Group(_finite(results, member.name), _infinite_count(results, member.name))
            for results in map(evaluation.of_method, evaluation.methods)
        ]
        for member in members
    }
    first = members[0]
    title = capital(first.label if len(members) == 1 else family)
    wide = len(members) * (len(evaluation.methods) + 0.8) * 0.27 + 1.1
    aim = {"0": 0.0, "1": 1.0}.get(first.best)
    axis_label = first.unit or BEST_TEXTS[first.best]
    best = BEST_TEXTS[first.best]
    return Panel(
        name="box-" + re.sub(r"[^a-z0-9]+", "-", family.lower()),
        title=title,
        caption=f"{capital(best)}." if first.unit and best else "",
        description=_described_groups(title, first, groups, evaluation.methods),
        draw=partial(
            _draw_boxes, groups=groups, methods=evaluation.methods, label=axis_label, aim=aim
        ),
        width_inches=float(np.clip(wide, 2.15, 8.6)),
    )


@dataclass(frozen=True)
class _Group:
    """The values of one metric and method."""

    values: list[float]
    infinite: int


def _draw_boxes(
    figure: FigureBase,
    *,
    groups: Mapping[str, list[_Group]],
    methods: Sequence[str],
    label: str,
    aim: float | None,
) -> None:
    axes = figure.subplots()
    count, by_method = len(methods), len(groups) == 1
    for place, members in enumerate(groups.values()):
        for number, group in enumerate(members):
            x = number if by_method else place * (count + 0.8) + number
            _draw_box(axes, x, group, number)
    if aim is not None:
        axes.axhline(aim, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_ylabel(label)
    axes.tick_params(axis="x", length=0)
    if by_method:
        names = [shortened(method_label(method)) for method in methods]
        ticks = [float(number) for number in range(count)]
    else:
        names = [shortened(name, 14) for name in groups]
        ticks = [place * (count + 0.8) + (count - 1) / 2 for place in range(len(groups))]
    turned = sum(map(len, names)) > (19 if by_method else 60)
    axes.set_xticks(ticks, names if not by_method or count > 1 else [""])
    if turned:
        for text in axes.get_xticklabels():
            text.set(rotation=30, horizontalalignment="right", rotation_mode="anchor")
    axes.margins(x=0.08 if len(ticks) > 1 else 0.3)
    if not by_method and count > 1:
        add_legend(figure, axes, methods)


def _draw_box(axes: Axes, x: float, group: _Group, number: int) -> None:
    style = method_style(number)
    colour = style["color"]
    if len(group.values) > 2:
        line = {"color": colour, "linewidth": 1.0}
        axes.boxplot(
            group.values,
            positions=[x],
            widths=0.62,
            showfliers=False,
            manage_ticks=False,
            boxprops=line,
            whiskerprops=line,
            capprops=line,
            medianprops={"color": colour, "linewidth": 2.4},
        )
    spread = 0.18 * np.sin(2.4 * np.arange(len(group.values)))
    axes.scatter(
        x + spread, group.values, s=9, linewidths=0, alpha=0.75, zorder=3, clip_on=False, **style
    )
    if group.infinite:
        axes.annotate(
            "∞" if group.infinite == 1 else f"{group.infinite}×∞",
            (x, 1),
            xycoords=("data", "axes fraction"),
            horizontalalignment="center",
            verticalalignment="bottom",
            fontsize=7,
        )


def _described_groups(
    title: str, words: MetricWords, groups: Mapping[str, list[_Group]], methods: Sequence[str]
) -> str:
    parts = []
    for member, by_method in groups.items():
        for method, group in zip(methods, by_method, strict=True):
            name = ", ".join(
                filter(
                    None,
                    (
                        member if len(groups) > 1 else "",
                        method_label(method) if len(methods) > 1 else "",
                    ),
                )
            )
            if not group.values:
                said = "no finite value"
            else:
                low, high = words.shown(min(group.values)), words.shown(max(group.values))
                said = (
                    f"median {words.shown(float(np.median(group.values)))} {words.unit}".rstrip()
                    + f" ({low} to {high}, n = {len(group.values)})"
                )
            parts.append(f"{name}: {said}" if name else said)
    return f"Box plot of {title}. " + "; ".join(parts) + "."


def _label_panels(evaluation: Evaluation) -> Iterator[Panel]:
    """Dice of each label class; many classes in the order of their median."""
    classes = dict.fromkeys(name for result in evaluation.results for name in result.labels)
    if not classes:
        return
    scores = {
        name: [
            [
                value
                for result in evaluation.of_method(method)
                if np.isfinite(value := result.labels.get(name, {}).get("dice", float("nan")))
            ]
            for method in evaluation.methods
        ]
        for name in classes
    }
    scores = {name: values for name, values in scores.items() if any(values)}
    if not scores:
        return
    ordered = sorted(scores, key=lambda name: _median(scores[name]))
    chosen = {name: scores[name] for name in reversed(ordered[:24])}
    left_out = len(scores) - len(chosen)
    yield Panel(
        name="label-dice",
        title="Dice by label class",
        caption="Lowest median at the top"
        + (f"; {left_out} classes with higher ones are left out." if left_out else "."),
        description="Dice of label classes, lowest first: "
        + "; ".join(f"{name} {_median(scores[name]):.3f}" for name in ordered[: len(chosen)])
        + ".",
        draw=partial(_draw_labels, scores=chosen, methods=evaluation.methods),
        width_inches=5.6,
    )


def _draw_labels(
    figure: FigureBase, *, scores: Mapping[str, list[list[float]]], methods: Sequence[str]
) -> None:
    axes = figure.subplots()
    for row, by_method in enumerate(scores.values()):
        for number, values in enumerate(by_method):
            y = row + 0.24 * ((len(by_method) - 1) / 2 - number)
            style = method_style(number)
            axes.scatter(values, [y] * len(values), s=7, linewidths=0, alpha=0.45, **style)
            if values:
                axes.scatter(float(np.median(values)), y, s=34, linewidths=0, **style)
    axes.set_yticks(range(len(scores)), [shortened(name, 26) for name in scores])
    axes.tick_params(axis="y", labelsize=8 if len(scores) < 13 else 5.5, length=0)
    axes.grid(axis="x")
    axes.set_xlabel("Dice; large: median")
    axes.set_xlim(right=1.0)
    axes.set_ylim(-0.6, len(scores) - 0.4)
    if len(methods) > 1:
        add_legend(figure, axes, methods)


def _finite(results: Sequence[CaseResult], name: str) -> list[float]:
    values = (result.values.get(name, float("nan")) for result in results)
    return [value for value in values if np.isfinite(value)]


def _infinite_count(results: Sequence[CaseResult], name: str) -> int:
    return sum(np.isinf(result.values.get(name, 0.0)) for result in results)


def _median(groups: Sequence[Sequence[float]]) -> float:
    return float(np.median(np.concatenate([np.asarray(group, float) for group in groups])))
