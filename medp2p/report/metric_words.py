"""What the page says of each metric: its label, unit, best direction and definition."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medp2p.metrics import TISSUES_HU, Profile
from medp2p.results import Evaluation, error_decimals

Best = Literal["low", "high", "0", "1", ""]


@dataclass(frozen=True)
class MetricWords:
    """How a metric is called and read.

    Attributes:
        name: Its name among the values.
        label: For headings and axes, without the unit.
        unit: Of its values, empty if they have none.
        decimals: Digits after the point that are worth reading.
        best: Whether low or high values are better, or which value is the aim; empty for a count.
        definition: One or two sentences.
        family: Metrics of one family share a figure, such as the MAE of all tissues.
        member: What sets it apart in its family: the tissue, the plane; empty for the only one.
    """

    name: str
    label: str
    unit: str
    decimals: int
    best: Best
    definition: str
    family: str
    member: str = ""

    @property
    def heading(self) -> str:
        """Label and unit, such as ``MAE (HU)``."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def shown(self, value: float) -> str:
        """Write a value: a dash where there is none, ∞ for an infinite one."""
        if value != value:
            return "–"
        if abs(value) == float("inf"):
            return "∞" if value > 0 else "−∞"
        return f"{value:.{self.decimals}f}".replace("-", "−")


@dataclass(frozen=True)
class _Rule:
    pattern: str
    label: str
    unit: str
    decimals: int
    best: Best
    definition: str
    family: str


_UNITS = "{units}"
_RULES = (
    _Rule(
        r"mae(?:_hu)?",
        "MAE",
        _UNITS,
        1,
        "low",
        "Mean absolute error, |prediction − reference|, over the voxels of the mask; not clipped.",
        "MAE",
    ),
    _Rule(
        r"bias(?:_hu)?",
        "bias",
        _UNITS,
        1,
        "0",
        "Mean error, prediction − reference, over the voxels of the mask. Positive: the "
        "prediction is too high.",
        "bias",
    ),
    _Rule(
        r"rmse(?:_hu)?",
        "RMSE",
        _UNITS,
        1,
        "low",
        "Root of the mean squared error over the voxels of the mask; not clipped.",
        "RMSE",
    ),
    _Rule(
        r"psnr_db",
        "PSNR",
        "dB",
        2,
        "high",
        "Peak signal-to-noise ratio, 10·log10(Q² / mean squared error), inside the mask, both "
        "images clipped to the range of the profile, whose width is Q.",
        "PSNR",
    ),
    _Rule(
        r"ms_ssim_(?P<which>\w+)",
        "MS-SSIM ({which})",
        "",
        4,
        "high",
        "Multi-scale structural similarity of the 3-D volume: five scales, windows of 7×7×7 "
        "voxels, averaged inside the mask, luminance at every scale as in the challenge's code.",
        "structure",
    ),
    _Rule(
        r"ssim_2d_(?P<which>[\w-]+)",
        "SSIM of a picture ({which})",
        "",
        4,
        "high",
        "Structural similarity in the plane, windows of 7×7 pixels, averaged inside the mask.",
        "structure",
    ),
    _Rule(
        r"ssim_(?P<which>\w+)",
        "SSIM ({which})",
        "",
        4,
        "high",
        "Structural similarity of the 3-D volume, uniform windows of 7×7×7 voxels, averaged "
        "inside the mask. Values of 2-D slices or Gaussian windows are other numbers.",
        "structure",
    ),
    _Rule(
        r"ncc",
        "NCC",
        "",
        4,
        "high",
        "Normalized cross-correlation: Pearson's correlation of both images inside the mask.",
        "NCC",
    ),
    _Rule(
        r"mutual_information_nats",
        "mutual information",
        "nats",
        3,
        "high",
        "How much of the reference the prediction's values tell, from their joint histogram "
        "inside the mask.",
        "mutual information",
    ),
    _Rule(
        r"mae_(?P<tissue>\w+?)(?:_hu)",
        "MAE, {tissue}",
        _UNITS,
        1,
        "low",
        "Mean absolute error where the reference shows {tissue} ({range}).",
        "MAE by tissue",
    ),
    _Rule(
        r"bias_(?P<tissue>\w+?)(?:_hu)",
        "bias, {tissue}",
        _UNITS,
        1,
        "0",
        "Mean error where the reference shows {tissue} ({range}).",
        "bias by tissue",
    ),
    _Rule(
        r"surface_dice_(?P<tissue>\w+)",
        "surface Dice, {tissue}",
        "",
        3,
        "high",
        "Share of the surfaces of {tissue} ({range}) in both images that lie within the "
        "tolerance of each other.",
        "surface Dice by tissue",
    ),
    _Rule(
        r"dice_(?P<tissue>\w+)",
        "Dice, {tissue}",
        "",
        3,
        "high",
        "Overlap of {tissue} ({range}) in both images, 2·|A∩B| / (|A| + |B|).",
        "Dice by tissue",
    ),
    _Rule(
        r"hd95_(?P<tissue>\w+)_mm",
        "HD95, {tissue}",
        "mm",
        2,
        "low",
        "95 % Hausdorff distance between the surfaces of {tissue} ({range}) in both images; "
        "infinite where the prediction shows none.",
        "HD95 by tissue",
    ),
    _Rule(
        r"wepl_mae_mm",
        "WEPL error, mean",
        "mm",
        2,
        "low",
        "Mean absolute difference of the water-equivalent path length along parallel beams of "
        "all gantry angles: a stand-in for the range error of protons.",
        "WEPL error",
    ),
    _Rule(
        r"wepl_p95_mm",
        "WEPL error, 95 %",
        "mm",
        2,
        "low",
        "95th percentile of the absolute difference of the water-equivalent path length.",
        "WEPL error",
    ),
    _Rule(
        r"flicker_(?P<plane>sagittal|coronal|axial)",
        "flicker, {plane}",
        "",
        3,
        "1",
        "Change of the error from one {plane} slice to the next, against its change within "
        "slices, corrected for the reference's own. 1: no flicker.",
        "flicker between slices",
    ),
    _Rule(
        r"power_ratio",
        "power ratio",
        "",
        3,
        "1",
        "Spectral power of the prediction over that of the reference in the upper frequencies. "
        "Below 1: blurred; above 1: noise.",
        "power ratio",
    ),
    _Rule(
        r"edge_width_ratio",
        "edge width ratio",
        "",
        3,
        "1",
        "Width of edges in the prediction over that in the reference. Above 1: blurred.",
        "edge width ratio",
    ),
    _Rule(
        r"alignment_shift_mm",
        "alignment, shift",
        "mm",
        2,
        "0",
        "How far off the reference the prediction was found to lie. It was moved back before all "
        "other metrics, unless a note says that it was left.",
        "alignment shift",
    ),
    _Rule(
        r"alignment_turn_degrees",
        "alignment, turn",
        "°",
        2,
        "0",
        "By how much the prediction was found to be turned against the reference. It was turned "
        "back before all other metrics, unless a note says that it was left.",
        "alignment turn",
    ),
    _Rule(r"voxels", "voxels", "", 0, "", "Voxels compared.", "voxels"),
    _Rule(
        r"voxels_(?P<tissue>\w+)",
        "voxels, {tissue}",
        "",
        0,
        "",
        "Voxels where the reference shows {tissue} ({range}).",
        "voxels",
    ),
)

BEST_TEXTS: Mapping[Best, str] = {
    "low": "lower is better",
    "high": "higher is better",
    "0": "0 is best",
    "1": "1 is best",
    "": "",
}


def known_metrics(evaluation: Evaluation) -> list[MetricWords]:
    """Return the words for every metric that some case has, in the order of the values."""
    names = dict.fromkeys(name for result in evaluation.results for name in result.values)
    limits = tissue_limits(evaluation)
    return [metric_words(name, evaluation.profile, limits) for name in names]


def tissue_limits(evaluation: Evaluation) -> dict[str, tuple[float, float]]:
    """Return lower and upper HU of the tissue classes that the evaluation used."""
    limits = dict(TISSUES_HU)
    given = evaluation.settings.get("tissues")
    if isinstance(given, Mapping):
        limits |= {
            str(name): (_limit(low, -1), _limit(high, 1)) for name, (low, high) in given.items()
        }
    return limits


def _limit(value: Any, sign: int) -> float:
    """Return a border of a class; None is open."""
    return sign * float("inf") if value is None else float(value)


def metric_words(
    name: str, profile: Profile, tissues: Mapping[str, tuple[float, float]]
) -> MetricWords:
    """Return the words for a metric; one that is unknown is called by its name.

    Args:
        name: Among the values of a case.
        profile: Gives the unit.
        tissues: Lower and upper HU of each class.
    """
    for rule in _RULES:
        if found := re.fullmatch(rule.pattern, name):
            parts = found.groupdict()
            texts = {key: value.replace("_", " ") for key, value in parts.items()}
            texts["range"] = range_text(tissues.get(parts.get("tissue", "")))
            texts["units"] = profile.units or ""
            return MetricWords(
                name=name,
                label=rule.label.format_map(texts),
                unit=rule.unit.format_map(texts),
                decimals=error_decimals(profile) if rule.unit == _UNITS else rule.decimals,
                best=rule.best,
                definition=rule.definition.format_map(texts).replace(" ()", ""),
                family=rule.family,
                member=texts.get("tissue") or texts.get("plane") or _last_part(rule),
            )
    return MetricWords(name, name.replace("_", " "), "", 3, "", "", name)


def families(words: Sequence[MetricWords]) -> dict[str, list[MetricWords]]:
    """Group metrics that share a figure, without the counts of voxels."""
    grouped: dict[str, list[MetricWords]] = {}
    for metric in words:
        if metric.family != "voxels":
            grouped.setdefault(metric.family, []).append(metric)
    return grouped


def range_text(limits: tuple[float, float] | None) -> str:
    """Write the HU range of a tissue, such as ``> 250 HU``; empty if it is not known."""
    if limits is None:
        return ""
    low, high = limits
    if low == -float("inf"):
        return f"< {high:g} HU".replace("-", "−")
    if high == float("inf"):
        return f"> {low:g} HU".replace("-", "−")
    return f"{low:g} to {high:g} HU".replace("-", "−")


def _last_part(rule: _Rule) -> str:
    return rule.label.rpartition(", ")[2] if ", " in rule.label else ""
