"""Figures of an evaluation: each is a panel that the page shows as SVG and the PDF draws again.

Colours are those of Okabe and Ito (2008), which colour-blind people tell apart; methods differ
by marker and line too. In the SVG text takes the page's colour, so that it is legible on a dark
ground as on a light one. The same evaluation gives the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure, FigureBase
from numpy.typing import NDArray

from medp2p.metrics import TISSUES_HU, Curve, Histogram2D
from medp2p.report.metric_words import BEST_TEXTS, MetricWords, families, metric_words
from medp2p.results import CaseResult, Evaluation

Floats = NDArray[np.float64]

INK = "#1b1f24"
LINE = "#c4cad0"
METHOD_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
COUNT_COLOURS = LinearSegmentedColormap.from_list("counts", ["#7fa3bf", "#2f7fb5", "#e69f00"])
"""From few to many voxels; readable on a light and on a dark ground."""

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.unicode_minus": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "xtick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.color": INK,
    "ytick.labelsize": 8,
    "ytick.major.width": 0.7,
}
"""Matplotlib settings of every figure."""

HEIGHT_INCHES = 2.9
RASTER_DPI = 130
MOST_SINGLE_CURVES = 40
"""Above this number of cases the single curves are left out."""
LIMITS_OF_AGREEMENT = 1.96
"""Standard deviations around the mean difference (Bland and Altman, Lancet 1986;327:307-310)."""
PLANES = ("sagittal", "coronal", "axial")
"""Planes whose slices are counted along x, y and z."""
DIRECTIONS = {
    "sagittal": "left → right",
    "coronal": "back → front",
    "axial": "feet → head",
}


@dataclass(frozen=True)
class Panel:
    """A figure that can be drawn anywhere.

    Attributes:
        name: Unique on the page, of letters, digits and hyphens.
        title: Above it.
        caption: What is plotted.
        description: What it shows, in words and numbers, for people who cannot see it.
        draw: Draws it into an empty figure or part of one.
        width_inches: Of the figure; the height is `HEIGHT_INCHES`.
    """

    name: str
    title: str
    caption: str
    description: str
    draw: Callable[[FigureBase], None]
    width_inches: float = 4.2


@dataclass(frozen=True)
class Section:
    """Panels under one heading.

    Attributes:
        name: Unique on the page.
        title: The heading.
        text: How to read the panels.
        panels: At least one.
    """

    name: str
    title: str
    text: str
    panels: tuple[Panel, ...]


def method_label(method: str) -> str:
    """Return a method's name, or ``prediction`` where there is but one without a name."""
    return " ".join(method.split()) or "prediction"


def tissue_limits(evaluation: Evaluation) -> dict[str, tuple[float, float]]:
    """Return lower and upper HU of the tissue classes that the evaluation used."""
    limits = dict(TISSUES_HU)
    given = evaluation.settings.get("tissues")
    if isinstance(given, Mapping):
        limits |= {
            str(name): (_limit(low, -1), _limit(high, 1)) for name, (low, high) in given.items()
        }
    return limits


def known_metrics(evaluation: Evaluation) -> list[MetricWords]:
    """Return the words for every metric that some case has, in the order of the values."""
    names = dict.fromkeys(name for result in evaluation.results for name in result.values)
    limits = tissue_limits(evaluation)
    return [metric_words(name, evaluation.profile, limits) for name in names]


def figure_sections(evaluation: Evaluation) -> list[Section]:
    """Return all figures that the evaluation has data for, by section."""
    sections = (
        Section(
            "distributions",
            "Metrics over the cases",
            "A point is a case. Boxes span the quartiles with the median as a line; whiskers "
            "reach the furthest case within 1.5 interquartile ranges.",
            tuple(_box_panels(evaluation)),
        ),
        Section(
            "agreement",
            "Agreement voxel by voxel",
            "All cases of a method together; the colour counts voxels of the masks on a "
            "logarithmic scale.",
            tuple(_histogram_panels(evaluation)),
        ),
        Section(
            "where",
            "Where the error is",
            "Thin lines are cases, thick ones the mean over the cases of a method.",
            tuple(_curve_panels(evaluation)),
        ),
        Section(
            "slices",
            "Error by slice",
            "From the first to the last slice that is compared. Thin lines are cases, thick ones "
            "the mean over the cases of a method.",
            tuple(_slice_panels(evaluation)),
        ),
    )
    return [section for section in sections if section.panels]


def draw_alone(panel: Panel) -> Figure:
    """Draw a panel as a figure of its own."""
    figure = Figure(figsize=(panel.width_inches, HEIGHT_INCHES), layout="constrained")
    panel.draw(figure)
    fix_layout(figure)
    return figure


def fix_layout(figure: Figure) -> None:
    """Lay a figure out and round all positions.

    The last digits that the layout's solver finds differ from one time to the next.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine(None)
    parts = list(figure.subfigs)
    while parts:
        part = parts.pop()
        part.bbox_relative.set_points(_rounded(part.bbox_relative.get_points()))
        parts += part.subfigs
    for axes in figure.axes:
        axes.set_position(_rounded(axes.get_position(original=True).bounds))


def _rounded(positions: Any) -> Any:
    return np.round(positions, 5) + 0.0  # no -0


def as_svg(panel: Panel) -> str:
    """Draw a panel as an ``svg`` element for the inside of an HTML page.

    Names of colours become the page's own, ``currentColor`` and the variables ``--line`` and
    ``--method-1`` and so on.
    """
    buffer = io.StringIO()
    with house_style(salt=panel.name):
        draw_alone(panel).savefig(buffer, format="svg", dpi=RASTER_DPI, metadata={"Date": None})
    return _inlined(buffer.getvalue(), panel)


@contextmanager
def house_style(salt: str = "medp2p", scale: float = 1.0) -> Iterator[None]:
    """Draw with `STYLE`, its text scaled; letters that the font lacks are no warning."""
    sizes = {name: size * scale for name, size in STYLE.items() if name.endswith("size")}
    with matplotlib.rc_context({**STYLE, **sizes, "svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        yield


def _inlined(svg: str, panel: Panel) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    [box] = re.findall(r'viewBox="([^"]*)"', head)
    rest = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", rest)  # what nothing refers to
    rest = re.sub(r'"[^"]*"', lambda text: re.sub(r"-?\d+\.\d{3,}", _two_digits, text[0]), rest)
    rest = rest.replace(INK, "currentColor").replace(LINE, "var(--line)")
    for number, colour in enumerate(METHOD_COLOURS, start=1):
        rest = rest.replace(colour, f"var(--method-{number})")
    return f'<svg role="img" aria-labelledby="{panel.name}-text" viewBox="{box}">{rest.strip()}'


def _two_digits(number: re.Match[str]) -> str:
    return f"{float(number[0]) + 0.0:.2f}"


def _limit(value: Any, sign: int) -> float:
    """Return a border of a class; None is open."""
    return sign * float("inf") if value is None else float(value)


def _finite(results: Sequence[CaseResult], name: str) -> list[float]:
    values = (result.values.get(name, float("nan")) for result in results)
    return [value for value in values if np.isfinite(value)]


def _infinite_count(results: Sequence[CaseResult], name: str) -> int:
    return sum(np.isinf(result.values.get(name, 0.0)) for result in results)


def _style_of(number: int) -> dict[str, Any]:
    return {
        "color": METHOD_COLOURS[number % len(METHOD_COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def _line_style(number: int) -> Any:
    return LINE_STYLES[number % len(LINE_STYLES)]


def _short(text: str, limit: int = 22) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


# ---- box plots ----------------------------------------------------------------------------------


def _box_panels(evaluation: Evaluation) -> Iterator[Panel]:
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
    title = _capital(first.label if len(members) == 1 else family)
    wide = len(members) * (len(evaluation.methods) + 0.8) * 0.27 + 1.1
    aim = {"0": 0.0, "1": 1.0}.get(first.best)
    axis_label = first.unit or BEST_TEXTS[first.best]
    best = BEST_TEXTS[first.best]
    return Panel(
        name="box-" + re.sub(r"[^a-z0-9]+", "-", family.lower()),
        title=title,
        caption=f"{_capital(best)}." if first.unit and best else "",
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
        names = [_short(method_label(method)) for method in methods]
        ticks = [float(number) for number in range(count)]
    else:
        names = [_short(name, 14) for name in groups]
        ticks = [place * (count + 0.8) + (count - 1) / 2 for place in range(len(groups))]
    turned = sum(map(len, names)) > (19 if by_method else 60)
    axes.set_xticks(ticks, names if not by_method or count > 1 else [""])
    if turned:
        for text in axes.get_xticklabels():
            text.set(rotation=30, horizontalalignment="right", rotation_mode="anchor")
    axes.margins(x=0.08 if len(ticks) > 1 else 0.3)
    if not by_method and count > 1:
        _add_legend(figure, axes, methods)


def _draw_box(axes: Axes, x: float, group: _Group, number: int) -> None:
    style = _style_of(number)
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
            style = _style_of(number)
            axes.scatter(values, [y] * len(values), s=7, linewidths=0, alpha=0.45, **style)
            if values:
                axes.scatter(float(np.median(values)), y, s=34, linewidths=0, **style)
    axes.set_yticks(range(len(scores)), [_short(name, 26) for name in scores])
    axes.tick_params(axis="y", labelsize=8 if len(scores) < 13 else 5.5, length=0)
    axes.grid(axis="x")
    axes.set_xlabel("Dice; large: median")
    axes.set_xlim(right=1.0)
    if len(methods) > 1:
        _add_legend(figure, axes, methods)


def _add_legend(
    figure: FigureBase, axes: Axes, methods: Sequence[str], lines: bool = False
) -> None:
    for number, method in enumerate(methods):
        style = _style_of(number)
        if lines:
            axes.plot(
                [],
                [],
                label=_short(method_label(method), 30),
                linestyle=_line_style(number),
                markersize=4,
                **style,
            )
        else:
            axes.scatter(
                [], [], s=16, linewidths=0, label=_short(method_label(method), 30), **style
            )
    figure.legend(loc="outside upper left", ncols=3, handletextpad=0.4, columnspacing=1.2)


# ---- histograms ---------------------------------------------------------------------------------


def _histogram_panels(evaluation: Evaluation) -> Iterator[Panel]:
    unit = evaluation.profile.units or "value"
    several = len(evaluation.methods) > 1
    for number, method in enumerate(evaluation.methods):
        results = evaluation.of_method(method)
        title = f"{method_label(method)}: " if several else ""
        if joint := summed_histogram(results, "joint"):
            yield Panel(
                name=f"joint-{number}",
                title=f"{title}joint histogram",
                caption="Prediction against reference, counts of voxels; on the dashed line they "
                "are equal.",
                description=f"Joint histogram of {method_label(method)} and the reference over "
                f"{len(results)} cases.",
                draw=partial(_draw_joint, histogram=joint, unit=unit),
            )
        if differences := summed_histogram(results, "bland_altman"):
            limits = agreement(results)
            said = (
                f"mean difference {limits[1]:.1f}, limits of agreement {limits[0]:.1f} to "
                f"{limits[2]:.1f} {evaluation.profile.units or ''}".rstrip()
                if limits
                else "no limits of agreement"
            )
            yield Panel(
                name=f"bland-altman-{number}",
                title=f"{title}Bland-Altman",
                caption="Prediction minus reference against the mean of both. Solid: mean "
                "difference; dashed: limits of agreement, mean ± 1.96 standard deviations over "
                "all voxels.",
                description=f"Bland-Altman plot of {method_label(method)}: {said}.",
                draw=partial(_draw_bland_altman, histogram=differences, limits=limits, unit=unit),
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


def agreement(results: Sequence[CaseResult]) -> tuple[float, float, float] | None:
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
    axes.set_xlabel(f"reference ({unit})" if unit != "value" else "reference")
    axes.set_ylabel(f"prediction ({unit})" if unit != "value" else "prediction")


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
    axes.set_ylim(min([low, *(limits or ())[:1]]) * 1.1, max([high, *(limits or ())[2:]]) * 1.1)
    for value, line in zip(limits or (), ((0, (4, 3)), "-", (0, (4, 3))), strict=False):
        axes.axhline(value, color=INK, linewidth=0.9, linestyle=line)
        axes.annotate(
            f"{value:+.0f}".replace("-", "−"),
            (1, value),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 2),
            textcoords="offset points",
            horizontalalignment="right",
            fontsize=7.5,
        )
    axes.set_xlabel(f"mean of both ({unit})" if unit != "value" else "mean of both")
    axes.set_ylabel(f"difference ({unit})" if unit != "value" else "difference")


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
    axes.grid(visible=False)
    bar = figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("voxels")
    bar.ax.yaxis.set_major_formatter(lambda count, _: f"{count:,.0f}".replace(",", " "))


# ---- curves -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _CurveWords:
    title: str
    x: str
    y: str
    aim: float | None = None


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


def _curve_panels(evaluation: Evaluation) -> Iterator[Panel]:
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


def _slice_panels(evaluation: Evaluation) -> Iterator[Panel]:
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
                f"{_capital(label)} by {plane} slice",
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
        colour = _style_of(number)["color"]
        if 1 < len(group) <= MOST_SINGLE_CURVES:
            for curve in group:
                axes.plot(curve.x, curve.y, color=colour, linewidth=0.5, alpha=0.35)
        mean = means[method]
        axes.plot(
            mean.x,
            mean.y,
            linestyle=_line_style(number),
            markevery=max(1, len(mean.x) // 8),
            markersize=4,
            **_style_of(number),
        )
    if words.aim is not None:
        axes.axhline(words.aim, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    elif axes.get_ylim()[0] > 0:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(words.x)
    axes.set_ylabel(words.y)
    axes.margins(x=0.01)
    if len(curves) > 1:
        _add_legend(figure, axes, list(curves), lines=True)


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


def _median(groups: Sequence[Sequence[float]]) -> float:
    return float(np.median(np.concatenate([np.asarray(group, float) for group in groups])))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
