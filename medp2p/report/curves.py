"""Error against depth, interfaces, gantry angle, frequency and slice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.figure import FigureBase
from numpy.typing import NDArray

from medp2p.metrics import Curve
from medp2p.report.figure_style import (
    INK,
    add_legend,
    capital,
    line_style,
    method_label,
    method_style,
)
from medp2p.report.panels import Panel
from medp2p.report.planes import DIRECTIONS, PLANES
from medp2p.results import Evaluation

Floats = NDArray[np.float64]

MOST_SINGLE_CURVES = 40
"""Above this number of cases the single curves are left out."""


@dataclass(frozen=True)
class _CurveWords:
    title: str
    x: str
    y: str
    aim: float | None = None


def curve_panels(evaluation: Evaluation) -> Iterator[Panel]:
    """Yield the curves of `_curve_words` that some case has."""
    for name, words in _curve_words(evaluation).items():
        curves = {
            method: [r.curves[name] for r in evaluation.of_method(method) if name in r.curves]
            for method in evaluation.methods
        }
        if not any(np.isfinite(curve.y).any() for group in curves.values() for curve in group):
            continue
        means = {method: mean_curve(group) for method, group in curves.items()}
        yield Panel(
            name="curve-" + name.replace("_", "-"),
            title=words.title,
            caption="Dashed: as in the reference." if words.aim == 1 else "",
            description=_described_curves(words, means),
            draw=partial(_draw_curves, curves=curves, means=means, words=words),
        )


def _curve_words(evaluation: Evaluation) -> dict[str, _CurveWords]:
    unit = f" ({evaluation.profile.units})" if evaluation.profile.units else ""
    depth = "depth below the mask's surface (mm)"
    interface = "distance to the nearest tissue interface (mm)"
    return {
        "mae_by_depth_mm": _CurveWords("MAE against depth", depth, f"MAE{unit}"),
        "bias_by_depth_mm": _CurveWords("Bias against depth", depth, f"bias{unit}", 0),
        "mae_by_interface_distance_mm": _CurveWords(
            "MAE against distance to interfaces", interface, f"MAE{unit}"
        ),
        "wepl_mae_by_angle_degrees": _CurveWords(
            "WEPL error by gantry angle", "gantry angle (°)", "WEPL error (mm)"
        ),
        "power_ratio_by_frequency_per_mm": _CurveWords(
            "Spectral power by frequency",
            "spatial frequency (1/mm)",
            "prediction / reference",
            1,
        ),
    }


def slice_panels(evaluation: Evaluation) -> Iterator[Panel]:
    """Yield MAE and bias by slice, along each axis."""
    unit = f" ({evaluation.profile.units})" if evaluation.profile.units else ""
    for kind, label, aim in (("mae", "MAE", None), ("bias", "bias", 0.0)):
        for plane in PLANES:
            name = f"{kind}_by_slice_{plane}"
            curves = {
                method: [
                    _over_extent(r.curves[name])
                    for r in evaluation.of_method(method)
                    if name in r.curves
                ]
                for method in evaluation.methods
            }
            if not any(np.isfinite(curve.y).any() for group in curves.values() for curve in group):
                continue
            words = _CurveWords(
                f"{capital(label)} by {plane} slice",
                f"% of the extent, {DIRECTIONS[plane]}",
                f"{label}{unit}",
                aim,
            )
            means = {method: mean_curve(group) for method, group in curves.items()}
            yield Panel(
                name=f"slices-{kind}-{plane}",
                title=words.title,
                caption="",
                description=_described_curves(words, means),
                draw=partial(_draw_curves, curves=curves, means=means, words=words),
            )


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Average curves where at least half of them reach; each counts once.

    Cases of different spacing have values at different positions: between its own a curve is taken
    as straight.
    """
    positions = np.unique(np.round([x for curve in curves for x in curve.x], 6))
    values = np.full((len(curves), len(positions)), np.nan)
    for row, curve in zip(values, curves, strict=True):
        row[:] = _between_ends(curve, positions)
    known = np.isfinite(values)
    counts = known.sum(axis=0)
    enough = counts >= max(1.0, len(curves) / 2)
    total = np.where(known, values, 0).sum(axis=0)
    mean = np.divide(total, counts, out=np.full(len(positions), np.nan), where=enough)
    return Curve(tuple(positions.tolist()), tuple(mean.tolist()), tuple(counts.tolist()))


def _between_ends(curve: Curve, positions: Floats) -> Floats:
    """Values of a curve at other positions; NaN beyond its ends."""
    x, y = np.asarray(curve.x, float), np.asarray(curve.y, float)
    finite = np.isfinite(y)
    if not finite.any():
        return np.full(len(positions), np.nan)
    values: Floats = np.interp(
        positions, np.round(x[finite], 6), y[finite], left=np.nan, right=np.nan
    )
    return values


def _over_extent(curve: Curve, steps: int = 101) -> Curve:
    """Put the slices that are compared onto 0 to 100 %, so that cases can be laid together."""
    counts = np.asarray(curve.counts)
    y = np.where(counts > 0, np.asarray(curve.y, float), np.nan)
    used = np.flatnonzero(np.isfinite(y))
    if len(used) < 2:
        return Curve((), (), ())
    share = np.linspace(0, 100, steps)
    x = (used - used[0]) / (used[-1] - used[0]) * 100
    values = np.interp(share, x, y[used])
    return Curve(tuple(share.tolist()), tuple(values.tolist()), (1,) * steps)


def _draw_curves(
    figure: FigureBase,
    *,
    curves: Mapping[str, Sequence[Curve]],
    means: Mapping[str, Curve],
    words: _CurveWords,
) -> None:
    axes = figure.subplots()
    for number, (method, group) in enumerate(curves.items()):
        colour = method_style(number)["color"]
        if 1 < len(group) <= MOST_SINGLE_CURVES:
            for curve in group:
                axes.plot(curve.x, curve.y, color=colour, linewidth=0.5, alpha=0.35)
        mean = means[method]
        axes.plot(
            mean.x,
            mean.y,
            linestyle=line_style(number),
            markevery=max(1, len(mean.x) // 8),
            markersize=4,
            **method_style(number),
        )
    if words.aim is not None:
        axes.axhline(words.aim, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    elif axes.get_ylim()[0] > 0:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(words.x)
    axes.set_ylabel(words.y)
    axes.margins(x=0.01)
    if len(curves) > 1:
        add_legend(figure, axes, list(curves), lines=True)


def _described_curves(words: _CurveWords, means: Mapping[str, Curve]) -> str:
    parts = []
    for method, mean in means.items():
        y = np.asarray(mean.y, float)
        if np.isfinite(y).any():
            highest = int(np.nanargmax(y))
            parts.append(
                f"{method_label(method)}: from {np.nanmin(y):.3g} to {y[highest]:.3g}, the highest "
                f"at {mean.x[highest]:.3g}"
            )
    return f"{words.y} against {words.x}. Means: " + "; ".join(parts) + "."
