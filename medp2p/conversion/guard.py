"""Whether a scan looks like what a model was trained on.

Every number of a scan's `Look` is compared with those of the training cases: by how many spreads
does it lie off their mean? A spread holds what differs between the training cases, and what differs
between scanners, which a few cases of one scanner do not show. The score is the mean of the three
numbers that lie farthest off, as a wrong scan differs in several ways at once and a right one by
chance in one; these numbers are the reasons, too. Voxels of quite another size, and next to
nothing of a body, are refused whatever the rest looks like.

With few training cases their mean and spread are uncertain themselves. So what a new case may be
off is a prediction interval: Student's, with the degrees of freedom of Satterthwaite (Biometrics
Bulletin 1946) as the part of the spread that is allowed for scanners is not estimated from cases.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.special import ndtr, stdtrit

from medp2p.fingerprint import AXES, LAYERS_MM, PERCENTILES, Look

MOST_SPREADS = 2.4
"""The three numbers that lie farthest off may do so by this many spreads on average."""

NUMBERS_THAT_COUNT = 3

PERCENTILES_THAT_COUNT = 2
"""Of a source. One factor and one offset move all percentiles together, so five of them that lie
off are no more than two things that are."""

EXTENT_SPREAD = 0.08
HEIGHT_SPREAD = 0.15
FILL_SPREAD = 0.06
BRIGHTNESS_SPREAD = 0.10
RANK_SPREAD = 0.05
LIKENESS_SPREAD = 0.10
"""Differences between scanners and sites that are always allowed for: of extents relative to their
mean, the height's being larger as it depends on what was scanned."""

LOWEST_HEIGHT = 0.1
"""A part of the body may be scanned, but no less than this share of training's lowest height."""

HEIGHT_OF_A_PART = 2 / 3
"""A scan that is cut off below this share of training's lowest height is compared with parts of the
training cases, and judged by those that it is most like: the middle of a head holds no jaw."""

LARGEST_SPACING_RATIO = (3.0, 3.0, 10.0)
"""Voxels may be this much larger or smaller than in training: left-right, back-front, feet-head."""

LARGEST_EXTENT_RATIO = (1.4, 1.4, 1.6)
"""The body may be this much larger or smaller than in training, where only its lowest and highest
extents are known."""


Training = Mapping[str, float]
"""Mean, standard deviation, lowest, highest and count of a number over the training cases."""

Known = Mapping[str, Training]
"""Of each number, from the fingerprint."""


@dataclass(frozen=True)
class Judgement:
    """Whether a scan looks like the training data.

    Attributes:
        score: The lower, the nearer to the mean of training; from 1 on the scan is not what the
            model is for.
        reasons: What lies off, in sentences, the farthest first; empty below a score of 1.
        is_known: Whether the model file says enough. If not, only the body's extents were
            compared, or nothing.
    """

    score: float
    reasons: tuple[str, ...]
    is_known: bool


@dataclass(frozen=True)
class _Deviation:
    """How far a number lies off, from 1 on too far, and what to say then."""

    score: float
    sentence: str


def judge(look: Look, fingerprint: Mapping[str, Any]) -> Judgement:
    """Compare a scan with the training data of a model.

    Args:
        look: From `medp2p.fingerprint.describe`, of the unit values that the network would get.
        fingerprint: Of the model card; one of an older medp2p, or an empty one, is allowed.

    Raises:
        ValueError: If the scan has another number of sources than the model.
    """
    looks = fingerprint.get("looks")
    if looks is None:
        return _judgement([*_old_extents(look, fingerprint)], [], is_known=False)
    names = fingerprint["sources"]
    if len(names) != len(look.sources):
        raise ValueError(f"expected {len(names)} sources, got {len(look.sources)}")
    height = looks["body"]["height_mm"]
    limits = [*_spacing(look, fingerprint["spacing_mm"]), _too_little(look, height)]
    compared = fingerprint["part_looks"] if is_part(look, height) else [looks]
    judgements = [
        _judgement(limits, [*_body(look, known["body"], height), *_sources(look, known, names)])
        for known in compared
    ]
    return min(judgements, key=lambda judgement: judgement.score)


def is_part(look: Look, height: Training) -> bool:
    """Say whether a scan shows a part of a body, cut off at its top or bottom.

    Args:
        look: Of the scan.
        height: Of the training cases' bodies.
    """
    cut_off = look.is_cut[AXES.index("height_mm")]
    return cut_off and look.body["height_mm"] < HEIGHT_OF_A_PART * height["low"]


def _judgement(
    limits: Sequence[_Deviation], deviations: Sequence[_Deviation], *, is_known: bool = True
) -> Judgement:
    """Each of the limits counts alone, the deviations together."""
    counting = _farthest(deviations, NUMBERS_THAT_COUNT)
    together = sum(d.score for d in counting) / max(1, len(counting))
    score = round(max([together, *(d.score for d in limits)]), 3)
    if score < 1:
        return Judgement(score, (), is_known)
    first, *others = _farthest([*limits, *counting])
    reasons = (first.sentence, *(d.sentence for d in others if d.score >= 1))
    return Judgement(score, reasons, is_known)


def _farthest(deviations: Iterable[_Deviation], count: int | None = None) -> list[_Deviation]:
    return sorted(deviations, key=lambda deviation: -deviation.score)[:count]


def _spacing(look: Look, low_high: Sequence[Sequence[float]]) -> Iterator[_Deviation]:
    words = ("from left to right", "from back to front", "from feet to head")
    for axis, largest in enumerate(LARGEST_SPACING_RATIO):
        value, low, high = look.spacing_mm[axis], low_high[0][axis], low_high[1][axis]
        sentence = (
            f"its voxels are {value:.3g} mm apart {words[axis]}; in training "
            f"{_span(low, high, '.3g')} mm"
        )
        yield _Deviation(_off_by_ratio(value, low, high, largest), sentence)


def _too_little(look: Look, height: Training) -> _Deviation:
    value = look.body["height_mm"]
    sentence = _extent_sentence("height_mm", value, height["low"], height["high"])
    return _Deviation(LOWEST_HEIGHT * height["low"] / value, sentence)


def _body(look: Look, known: Known, height: Training) -> Iterator[_Deviation]:
    """Extents and fill; a part of the height, or what is cut off at the border, may be small."""
    for name, is_cut in zip(AXES, look.is_cut, strict=True):
        is_height = name == "height_mm"
        value, training = look.body[name], height if is_height else known[name]
        share = HEIGHT_SPREAD if is_height else EXTENT_SPREAD
        off = _off(value, training, share * training["mean"])
        if is_height or is_cut:
            off = max(off, 0.0)
        yield _Deviation(abs(off), _extent_sentence(name, value, training["low"], training["high"]))
    fill, training = look.body["fill"], known["fill"]
    yield _Deviation(
        abs(_off(fill, training, FILL_SPREAD)),
        f"the body fills {100 * fill:.0f} % of the box around it; in training "
        f"{_percent(training)}: another body region, or no dark air around it?",
    )


def _sources(look: Look, looks: Mapping[str, Any], names: Sequence[str]) -> Iterator[_Deviation]:
    """Percentiles, ranks of the layers, likeness; what one of them lacks is passed over."""
    for source, values, known in zip(names, look.sources, looks["sources"], strict=True):
        prefix = f"{source}: " if len(names) > 1 else ""
        found = {
            name: _brightness(name, values[name], known[name]) for name in known if name in values
        }
        percentiles = [found.pop(f"p{p}") for p in PERCENTILES if f"p{p}" in found]
        for deviation in (*_farthest(percentiles, PERCENTILES_THAT_COUNT), *found.values()):
            yield replace(deviation, sentence=prefix + deviation.sentence)


def _brightness(name: str, value: float, training: Training) -> _Deviation:
    """How far one number of a source lies off."""
    if name == "likeness":
        off = _off(value, training, LIKENESS_SPREAD)
        return _Deviation(max(0.0, -off), _likeness_sentence(value, training))
    if name.startswith("rank"):
        off = _off(value, training, RANK_SPREAD)
        return _Deviation(abs(off), _rank_sentence(name, value, training))
    off = _off(value, training, BRIGHTNESS_SPREAD)
    return _Deviation(abs(off), _percentile_sentence(name, value, training))


def _old_extents(look: Look, fingerprint: Mapping[str, Any]) -> Iterator[_Deviation]:
    """How the extents compare with the lowest and highest, if these are known."""
    if "body_extent_mm" not in fingerprint:
        return
    for axis, name in enumerate(AXES):
        value = look.body[name]
        low, high = (float(extents[axis]) for extents in fingerprint["body_extent_mm"])
        lowest = 0.0 if name == "height_mm" or look.is_cut[axis] else low
        off = _off_by_ratio(value, lowest, high, LARGEST_EXTENT_RATIO[axis])
        yield _Deviation(off, _extent_sentence(name, value, low, high))


def _off(value: float, training: Training, between_scanners: float) -> float:
    """How far a number lies above (or, negative, below) training's mean; ±1 at the threshold."""
    count, sd = training["count"], training["sd"]
    spread = math.hypot(sd, between_scanners)
    freedom = (count - 1) * (spread / sd) ** 4 if sd > 0 else math.inf
    most_spreads = float(stdtrit(freedom, float(ndtr(MOST_SPREADS))))
    return (value - training["mean"]) / (most_spreads * spread * math.sqrt(1 + 1 / count))


def _off_by_ratio(value: float, low: float, high: float, largest: float) -> float:
    """0 from the lowest to the highest of training, 1 where the ratio to these is the largest."""
    ratio = max(low / value, value / high, 1.0)
    return math.log(ratio) / math.log(largest)


def _extent_sentence(name: str, value: float, low: float, high: float) -> str:
    words = {"width_mm": "wide", "depth_mm": "thick from back to front", "height_mm": "high"}
    return (
        f"the body is {value:.0f} mm {words[name]}; in training {_span(low, high, '.0f')} mm: "
        "another body region?"
    )


def _likeness_sentence(value: float, training: Training) -> str:
    return (
        f"neighbouring voxels are less alike (correlation {value:.2f}; in training "
        f"{_span(training['low'], training['high'], '.2f')}): noise?"
    )


def _rank_sentence(name: str, value: float, training: Training) -> str:
    start = name.removeprefix("rank_").removesuffix("mm")
    end = LAYERS_MM[[f"{mm:g}" for mm in LAYERS_MM].index(start) + 1]
    where = f"{start} to {end:g} mm" if math.isfinite(end) else f"more than {start} mm"
    return (
        f"{where} below the surface it is {_compared(value, training)} than expected, "
        f"above {100 * value:.0f} % of the body on average; in training above "
        f"{_percent(training)}: another contrast or modality, or inverted?"
    )


def _percentile_sentence(name: str, value: float, training: Training) -> str:
    """Unit values are told as percent of the way from -1 to +1."""
    low, high = ((training[end] + 1) / 2 for end in ("low", "high"))
    return (
        f"the body is {_compared(value, training)} than expected: {name[1:]} % of it lie "
        f"below {50 * (value + 1):.0f} % of the brightness range; in training below "
        f"{_span(100 * low, 100 * high, '.0f')} %: another contrast or modality, or inverted?"
    )


def _compared(value: float, training: Training) -> str:
    return "brighter" if value > training["mean"] else "darker"


def _percent(training: Training) -> str:
    return f"{_span(100 * training['low'], 100 * training['high'], '.0f')} %"


def _span(low: float, high: float, digits: str) -> str:
    first, last = format(low, digits), format(high, digits)
    return first if first == last else f"{first} to {last}"
