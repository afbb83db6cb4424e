"""Prediction against reference, voxel by voxel: joint histogram and Bland-Altman plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import FigureBase
from matplotlib.ticker import MaxNLocator

from medp2p.metrics import Histogram2D
from medp2p.report.figure_style import COUNT_COLOURS, INK, method_label
from medp2p.report.page import shown_number
from medp2p.report.panels import Panel
from medp2p.results import CaseResult, Evaluation

LIMITS_OF_AGREEMENT = 1.96
"""Standard deviations around the mean difference (Bland and Altman, Lancet 1986;327:307-310)."""


def histogram_panels(evaluation: Evaluation) -> Iterator[Panel]:
    """Yield joint histogram and Bland-Altman plot of each method."""
    unit = evaluation.profile.units or ""
    several = len(evaluation.methods) > 1
    for number, method in enumerate(evaluation.methods):
        results = evaluation.of_method(method)
        title = f"{method_label(method)}: " if several else ""
        if joint := summed_histogram(results, "joint"):
            yield Panel(
                name=f"joint-{number}",
                title=f"{title}joint histogram" if several else "Joint histogram",
                caption="Prediction against reference, counts of voxels; on the dashed line they "
                "are equal.",
                description=f"Joint histogram of {method_label(method)} and the reference over "
                f"{len(results)} cases.",
                draw=partial(_draw_joint, histogram=joint, unit=unit),
            )
        if differences := summed_histogram(results, "bland_altman"):
            limits = limits_of_agreement(results)
            said = _limits_text(limits, unit)
            yield Panel(
                name=f"bland-altman-{number}",
                title=f"{title}Bland-Altman",
                caption="Prediction minus reference against the mean of both. Solid and dashed: "
                f"{said}.",
                description=f"Bland-Altman plot of {method_label(method)}: {said}.",
                draw=partial(_draw_bland_altman, histogram=differences, limits=limits, unit=unit),
            )


def _limits_text(limits: tuple[float, float, float] | None, unit: str) -> str:
    if limits is None:
        return "no mean difference is known"
    low, mean, high = (shown_number(value).replace("-", "−") for value in limits)
    return (
        f"mean difference {mean}{unit and ' ' + unit}, limits of agreement {low} to {high}"
        f"{unit and ' ' + unit} (mean ± 1.96 standard deviations over all voxels)"
    )


def summed_histogram(results: Sequence[CaseResult], name: str) -> Histogram2D | None:
    """Add the counts of all cases whose bins are those of the first; None if there are none."""
    found = [result.histograms[name] for result in results if name in result.histograms]
    if not found:
        return None
    first = found[0]
    alike = [
        np.asarray(one.counts)
        for one in found
        if (one.x_edges, one.y_edges) == (first.x_edges, first.y_edges)
    ]
    total = np.sum(alike, axis=0)
    if not total.any():
        return None
    return Histogram2D(first.x_edges, first.y_edges, tuple(map(tuple, total.tolist())))


def limits_of_agreement(results: Sequence[CaseResult]) -> tuple[float, float, float] | None:
    """Return lower limit of agreement, mean difference and upper limit over all voxels.

    Mean and standard deviation follow exactly from each case's bias, RMSE and number of voxels.
    None where those are missing.
    """
    profile = results[0].profile
    names = (profile.bias_key, profile.bias_key.replace("bias", "rmse"), "voxels")
    rows = [[result.values.get(name, float("nan")) for name in names] for result in results]
    table = np.array(rows, float)
    table = table[np.isfinite(table).all(axis=1)]
    if not len(table):
        return None
    bias, rmse, voxels = table.T
    mean = float(np.average(bias, weights=voxels))
    sd = float(np.sqrt(max(np.average(rmse**2, weights=voxels) - mean**2, 0.0)))
    return mean - LIMITS_OF_AGREEMENT * sd, mean, mean + LIMITS_OF_AGREEMENT * sd


def _draw_joint(figure: FigureBase, *, histogram: Histogram2D, unit: str) -> None:
    axes = figure.subplots()
    _draw_counts(figure, axes, histogram)
    low = max(axes.get_xlim()[0], axes.get_ylim()[0])
    high = min(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([low, high], [low, high], color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_xlabel(_with_unit("reference", unit))
    axes.set_ylabel(_with_unit("prediction", unit))


def _draw_bland_altman(
    figure: FigureBase,
    *,
    histogram: Histogram2D,
    limits: tuple[float, float, float] | None,
    unit: str,
) -> None:
    axes = figure.subplots()
    _draw_counts(figure, axes, histogram)
    low, high = axes.get_ylim()
    shown = [low, high, *(limits or ())]
    margin = 0.05 * (max(shown) - min(shown))
    axes.set_ylim(min(shown) - margin, max(shown) + margin)
    for value, line in zip(limits or (), ((0, (4, 3)), "-", (0, (4, 3))), strict=False):
        axes.axhline(value, color=INK, linewidth=0.9, linestyle=line)
    axes.set_xlabel(_with_unit("mean of both", unit))
    axes.set_ylabel(_with_unit("difference", unit))


def _with_unit(text: str, unit: str) -> str:
    return f"{text} ({unit})" if unit else text


def _draw_counts(figure: FigureBase, axes: Axes, histogram: Histogram2D) -> None:
    counts = np.asarray(histogram.counts, float)
    x, y = np.asarray(histogram.x_edges), np.asarray(histogram.y_edges)
    drawn = axes.pcolormesh(
        x,
        y,
        np.ma.masked_less(counts.T, 1),
        cmap=COUNT_COLOURS,
        norm=LogNorm(1, max(10.0, counts.max())),
        rasterized=True,
    )
    used_x, used_y = np.flatnonzero(counts.any(axis=1)), np.flatnonzero(counts.any(axis=0))
    axes.set_xlim(x[used_x[0]], x[used_x[-1] + 1])
    axes.set_ylim(y[used_y[0]], y[used_y[-1] + 1])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(visible=False)
    bar = figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("voxels")
    bar.ax.yaxis.set_major_formatter(lambda count, _: f"{count:,.0f}".replace(",", " "))
