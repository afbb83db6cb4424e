"""Numbers over cases: means with their uncertainty, tests between methods, a ranking."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from medp2p.metrics import Profile
from medp2p.results import CaseResult, Comparison, Ranked, Summary, scores

RESAMPLES = 9999
"""Bootstrap samples behind an interval."""
CONFIDENCE = 0.95
SEED = 0
"""Of the bootstrap, so that the same cases give the same interval."""

Methods = Mapping[str, Sequence[CaseResult]]
"""The cases of each method by its name."""

_LABEL_SCORES_RANKED = ("dice", "hd95_mm")


def summarize(results: Sequence[CaseResult]) -> dict[str, Summary]:
    """Return the summary of every metric over the cases, scores of label classes included.

    The scores of a class are named as the columns of the table, ``dice_label_<class>``.
    """
    values = [scores(result) for result in results]
    names = dict.fromkeys(name for case in values for name in case)
    return {name: summarize_values([v.get(name, math.nan) for v in values]) for name in names}


def summarize_values(values: Sequence[float]) -> Summary:
    """Return mean, spread, median and bootstrap interval of the finite values."""
    finite = [float(value) for value in values if math.isfinite(value)]
    infinite = sum(map(math.isinf, values))
    if not finite:
        return Summary(math.nan, math.nan, math.nan, 0, infinite=infinite)
    sd = float(np.std(finite, ddof=1)) if len(finite) > 1 else math.nan
    return Summary(
        mean=math.fsum(finite) / len(finite),
        sd=sd,
        median=float(np.median(finite)),
        count=len(finite),
        interval=bootstrap_interval(finite),
        infinite=infinite,
    )


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Estimate the 95 % confidence interval of the mean from the values alone.

    The bias-corrected and accelerated bootstrap (Efron, J. Am. Stat. Assoc. 82 (1987) 171-185)
    with `RESAMPLES` samples. With few cases it is too narrow; see
    ``docs/metrics.md`` for how often it covers.

    Args:
        values: One finite number per case.

    Returns:
        Low and high; NaN for fewer than two values, the value itself if all are equal.
    """
    if len(values) < 2:
        return math.nan, math.nan
    array = np.array(values, float)
    if np.ptp(array) <= 1e-12 * np.abs(array).max():
        return float(array.min()), float(array.max())
    interval = stats.bootstrap(
        (array,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=1000,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="BCa",
        random_state=np.random.default_rng(SEED),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def compare_methods(methods: Methods) -> tuple[Comparison, ...]:
    """Compare every two methods on every metric, over the cases that both have.

    Wilcoxon's signed-rank test, two-sided; Holm's correction over the pairs of methods of each
    metric. An infinite value is worse (or better) than every finite one: the test and the effect
    size use ranks only, so none is left out. Two infinite values are equal.

    Args:
        methods: Two or more.

    Returns:
        By metric, then by pair in the order of the methods. Counts of voxels are no metrics; a
        metric without a common case is left out.
    """
    values = {name: {r.case: scores(r) for r in cases} for name, cases in methods.items()}
    metrics = dict.fromkeys(
        metric for cases in values.values() for case in cases.values() for metric in case
    )
    comparisons: list[Comparison] = []
    for metric in metrics:
        if metric == "voxels" or metric.startswith("voxels_"):
            continue
        differences = {
            pair: _differences(values[pair[0]], values[pair[1]], metric)
            for pair in combinations(methods, 2)
        }
        differences = {pair: found for pair, found in differences.items() if found.size}
        p_values = [signed_rank_p(found) for found in differences.values()]
        comparisons += [
            Comparison(
                metric,
                *pair,
                cases=found.size,
                difference=float(np.median(found)),
                p=p,
                p_holm=corrected,
                effect=rank_biserial(found),
            )
            for (pair, found), p, corrected in zip(
                differences.items(), p_values, holm(p_values), strict=True
            )
        ]
    return tuple(comparisons)


def _differences(
    first: Mapping[str, Mapping[str, float]], second: Mapping[str, Mapping[str, float]], metric: str
) -> NDArray[np.float64]:
    """Return first minus second for the cases where both have a value; 0 for inf minus inf."""
    pairs = [
        (first[case].get(metric, math.nan), second[case].get(metric, math.nan))
        for case in first
        if case in second
    ]
    return np.array(
        [0.0 if a == b else a - b for a, b in pairs if not (math.isnan(a) or math.isnan(b))]
    )


def signed_rank_p(differences: NDArray[np.float64]) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test; NaN if every difference is 0.

    Wilcoxon, Biometrics Bulletin 1 (1945) 80-83, by SciPy. Zeros are left out, as he does.

    Args:
        differences: One per case; infinite ones count as the largest.
    """
    signed = _signed_ranks(differences)
    return float(stats.wilcoxon(signed).pvalue) if signed.size else math.nan


def rank_biserial(differences: NDArray[np.float64]) -> float:
    """Return the matched-pairs rank-biserial correlation of differences.

    (R+ - R-) / (R+ + R-) of the rank sums of positive and negative differences (Kerby,
    Comprehensive Psychology 3 (2014), article 1). 1 if all are positive, -1 if all are negative,
    NaN if all are 0.
    """
    signed = _signed_ranks(differences)
    return float(signed.sum() / np.abs(signed).sum()) if signed.size else math.nan


def _signed_ranks(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    nonzero = differences[differences != 0]
    ranks: NDArray[np.float64] = np.sign(nonzero) * stats.rankdata(np.abs(nonzero))
    return ranks


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm, Scand. J. Stat. 6 (1979) 65-70).

    The i-th smallest of m is multiplied by m + 1 - i, none may be below a smaller one's, none
    above 1. NaN stays and is not counted.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for i, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - i)))
        corrected[place] = largest
    return corrected


def rank_methods(methods: Methods, profile: Profile) -> tuple[Ranked, ...]:
    """Order methods as the SynthRAD challenges do.

    Of every metric the mean over the cases is scaled linearly between the worst method (0) and
    the best (1; 0.5 each if all are equal), and the scaled means are added up (the organisers'
    repository SynthRAD2025/evaluation, ``rank_teams.py`` at eba196b). Metrics: MAE, PSNR and the
    profile's structure metric and, where label maps were given, Dice and HD95 as means over the
    classes. The challenge adds dose metrics, which need a planning system.

    Only cases and metrics that every method has a value for count. Next to an infinite mean
    finite ones are all best (or all worst). The mean rank over cases and metrics is told beside
    it: an order that does not follow from one bad case.

    Args:
        methods: Two or more.
        profile: The definition behind the values.

    Returns:
        The best score first; equal ones by their mean rank.
    """
    tables = [_ranked_values(methods, metric, profile) for metric in _ranked_metrics(profile)]
    tables = [table for table in tables if table.size]
    if not tables:
        return ()
    score = np.sum([_scaled(table.mean(axis=1)) for table in tables], axis=0)
    ranks = np.concatenate([stats.rankdata(-table, axis=0) for table in tables], axis=1)
    ranked = [
        Ranked(*entry)
        for entry in zip(methods, map(float, score), map(float, ranks.mean(axis=1)), strict=True)
    ]
    return tuple(sorted(ranked, key=lambda entry: (-entry.score, entry.mean_rank)))


def _ranked_metrics(profile: Profile) -> dict[str, int]:
    """Return the metrics of the challenge, with 1 where higher is better and -1 where lower is."""
    return {profile.mae_key: -1, "psnr_db": 1, profile.structure_key: 1, "dice": 1, "hd95_mm": -1}


def _ranked_values(methods: Methods, metric: str, profile: Profile) -> NDArray[np.float64]:
    """Return one row per method, one column per case that all have; higher is better."""
    of_cases = [
        {result.case: _ranked_value(result, metric) for result in cases}
        for cases in methods.values()
    ]
    common = [
        case
        for case in of_cases[0]
        if not any(math.isnan(values.get(case, math.nan)) for values in of_cases)
    ]
    rows = [[values[case] for case in common] for values in of_cases]
    return _ranked_metrics(profile)[metric] * np.array(rows, float)


def _ranked_value(result: CaseResult, metric: str) -> float:
    if metric not in _LABEL_SCORES_RANKED:
        return result.values.get(metric, math.nan)
    of_classes = [found.get(metric, math.nan) for found in result.labels.values()]
    known = [value for value in of_classes if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _scaled(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale means to 0 for the lowest and 1 for the highest; 0.5 each if all are equal."""
    low, high = means.min(), means.max()
    if low == high:
        return np.full(means.shape, 0.5)
    if math.isinf(low) or math.isinf(high):
        return np.array(means > low if math.isinf(low) else means == high, float)
    scaled: NDArray[np.float64] = (means - low) / (high - low)
    return scaled
