"""Statistics over cases against closed forms, textbook cases and simulation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from medp2p.evaluation.statistics import (
    bootstrap_interval,
    compare_methods,
    holm,
    rank_biserial,
    rank_methods,
    signed_rank_p,
    summarize,
    summarize_values,
)
from medp2p.metrics import PROFILES
from medp2p.results import CaseResult

PROFILE = PROFILES["synthrad2025"]
MS_SSIM = PROFILE.structure_key


def case(
    name: str, labels: dict[str, dict[str, float]] | None = None, **values: float
) -> CaseResult:
    return CaseResult(name, values, PROFILE, labels=labels or {})


def methods(**values: list[float]) -> dict[str, list[CaseResult]]:
    """Cases c0, c1, ... of each method with these masked MAE."""
    return {
        name: [case(f"c{i}", mae_hu=mae) for i, mae in enumerate(column)]
        for name, column in values.items()
    }


def test_summary_counts_what_it_cannot_average() -> None:
    summary = summarize_values([1.0, 2.0, math.inf, math.nan, 6.0])
    assert (summary.mean, summary.median, summary.count, summary.infinite) == (3.0, 2.0, 3, 1)
    assert summary.sd == pytest.approx(math.sqrt(7))
    assert summary.interval[0] < 3 < summary.interval[1]
    only_infinite = summarize_values([math.inf, -math.inf])
    assert (only_infinite.count, only_infinite.infinite) == (0, 2)
    assert math.isnan(only_infinite.mean)


def test_classes_of_labels_are_summarized_too() -> None:
    results = [
        case("a", {"liver": {"dice": 0.8}}, mae_hu=1.0),
        case("b", {"liver": {"dice": 0.6}, "heart": {"dice": 0.5}}, mae_hu=3.0),
    ]
    summaries = summarize(results)
    assert summaries["dice_label_liver"].mean == pytest.approx(0.7)
    assert (summaries["dice_label_heart"].mean, summaries["dice_label_heart"].count) == (0.5, 1)


def test_interval_of_many_values_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(5).normal(100, 15, 400)
    low, high = bootstrap_interval(values.tolist())
    half = 1.96 * values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - half, abs=0.1)
    assert high == pytest.approx(values.mean() + half, abs=0.1)
    assert bootstrap_interval(values.tolist()) == (low, high)


def test_interval_follows_the_skew() -> None:
    """BCa reaches further to the side of the tail; the percentile interval does less so."""
    values = np.random.default_rng(2).lognormal(0, 1, 40)
    low, high = bootstrap_interval(values.tolist())
    plain = stats.bootstrap(
        (values,), np.mean, method="percentile", random_state=np.random.default_rng(0)
    ).confidence_interval
    assert low > plain.low
    assert high > plain.high


def test_interval_of_few_or_equal_values() -> None:
    assert all(map(math.isnan, bootstrap_interval([3.0])))
    assert bootstrap_interval([4.0] * 5) == (4.0, 4.0)
    assert bootstrap_interval([0.0, 0.0]) == (0.0, 0.0)
    low, high = bootstrap_interval([1.0, 2.0])
    assert 1 <= low < high <= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "mean", "least"),
    [
        (lambda random: random.normal(50, 10, 20), 50.0, 0.91),
        (lambda random: random.lognormal(0, 0.5, 30), math.exp(0.125), 0.89),
    ],
)
def test_interval_covers_the_mean_as_often_as_stated(
    draw: Callable[[np.random.Generator], NDArray[np.float64]], mean: float, least: float
) -> None:
    """Of 400 cohorts: few cases are covered less often than 95 %, as docs/metrics.md states."""
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        low, high = bootstrap_interval(draw(random).tolist())
        covered += low <= mean <= high
    assert least <= covered / 400 <= 0.975


def test_holm_as_in_the_textbook() -> None:
    """Four p-values at 0.05: Holm rejects the two smallest, Bonferroni's limit 0.0125 too."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.6, 0.5]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
    with_nan = holm([0.02, math.nan, 0.01])
    assert with_nan[0] == pytest.approx(0.02)
    assert math.isnan(with_nan[1])
    assert with_nan[2] == pytest.approx(0.02)


@pytest.mark.parametrize("n", [6, 20, 80])
def test_wilcoxon_is_scipys(n: int) -> None:
    random = np.random.default_rng(n)
    differences = random.normal(0.3, 1, n)
    assert signed_rank_p(differences) == stats.wilcoxon(differences).pvalue
    tied = random.integers(-3, 5, n).astype(float)
    nonzero = tied[tied != 0]
    assert signed_rank_p(tied) == stats.wilcoxon(nonzero).pvalue


def test_infinite_differences_are_the_largest() -> None:
    differences = np.array([0.5, -1.0, 2.0, 3.0, math.inf, -math.inf])
    finite = np.array([0.5, -1.0, 2.0, 3.0, 100.0, -100.0])
    assert signed_rank_p(differences) == signed_rank_p(finite)
    assert rank_biserial(differences) == rank_biserial(finite)


def test_no_difference_has_neither_p_nor_effect() -> None:
    assert math.isnan(signed_rank_p(np.zeros(5)))
    assert math.isnan(rank_biserial(np.zeros(5)))


def test_effect_size_in_closed_form() -> None:
    assert rank_biserial(np.array([5.0, 1.0, -2.0])) == pytest.approx((4 - 2) / 6)
    assert rank_biserial(np.array([1.0, 2.0, -3.0])) == 0
    assert rank_biserial(np.array([0.1, 0.2, 7.0])) == 1
    assert rank_biserial(np.array([-0.1, 0.0, -7.0])) == -1


def test_methods_are_compared_on_their_common_cases() -> None:
    given = methods(a=[10, 20, 30, 40, 50, 60], b=[11, 22, 33, 44, 55, 66])
    given["b"] = [*given["b"][:-1], case("other", mae_hu=0.0)]
    given["a"][0] = case("c0", mae_hu=math.nan)
    [comparison] = compare_methods(given)
    differences = np.array([-2.0, -3, -4, -5])
    assert (comparison.metric, comparison.first, comparison.second) == ("mae_hu", "a", "b")
    assert (comparison.cases, comparison.difference, comparison.effect) == (4, -3.5, -1)
    assert comparison.p == stats.wilcoxon(differences).pvalue
    assert comparison.p_holm == comparison.p


def test_holm_counts_the_pairs_of_one_metric() -> None:
    random = np.random.default_rng(0)
    base = random.normal(80, 10, 12)
    given = methods(
        a=base.tolist(),
        b=(base + random.normal(3, 2, 12)).tolist(),
        c=(base + random.normal(0, 5, 12)).tolist(),
    )
    comparisons = compare_methods(given)
    assert [(c.first, c.second) for c in comparisons] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [c.p_holm for c in comparisons] == holm([c.p for c in comparisons])
    assert max(c.p_holm / c.p for c in comparisons) == pytest.approx(3)


def test_counts_are_no_metrics_and_both_infinite_is_no_difference() -> None:
    given = {
        "a": [case("c", voxels=10, voxels_air=1, hd95_bone_mm=math.inf)],
        "b": [case("c", voxels=12, voxels_air=2, hd95_bone_mm=math.inf)],
    }
    [comparison] = compare_methods(given)
    assert (comparison.metric, comparison.difference) == ("hd95_bone_mm", 0.0)
    assert math.isnan(comparison.p)


def test_ranking_by_hand() -> None:
    """Means: MAE 60, 80, 100; PSNR 30, 30, 25; MS-SSIM all alike.

    Scaled: good 1 + 1 + 0.5, fair 0.5 + 1 + 0.5, poor 0 + 0 + 0.5. Ranks, in the order MAE, PSNR,
    MS-SSIM of c0 and c1: good 1 1, 1.5 2, 2 2; fair 2 2, 1.5 1, 2 2; poor 3 3, 3 3, 2 2.
    """
    values = {
        "poor": ((100, 25), (100, 25)),
        "good": ((50, 30), (70, 30)),
        "fair": ((70, 30), (90, 30.0001)),
    }
    given = {
        name: [
            case(f"c{i}", **{"mae_hu": mae, "psnr_db": psnr, MS_SSIM: 0.9})
            for i, (mae, psnr) in enumerate(cases)
        ]
        for name, cases in values.items()
    }
    ranked = rank_methods(given, PROFILE)
    assert [entry.method for entry in ranked] == ["good", "fair", "poor"]
    assert [entry.score for entry in ranked] == pytest.approx([2.5, 2.0, 0.5], abs=1e-4)
    assert [entry.mean_rank for entry in ranked] == pytest.approx(
        [(1 + 1 + 1.5 + 2 + 2 + 2) / 6, (2 + 2 + 1.5 + 1 + 2 + 2) / 6, (3 * 4 + 2 * 2) / 6]
    )


def test_ranking_takes_label_maps_and_leaves_out_incomplete_cases() -> None:
    """HD95 of one method is infinite: that method has 0 there, the others 1."""
    labels = {
        "a": {"liver": {"dice": 0.9, "hd95_mm": 2.0}, "heart": {"dice": 0.7, "hd95_mm": 4.0}},
        "b": {"liver": {"dice": 0.8, "hd95_mm": 9.0}, "heart": {"dice": 0.6, "hd95_mm": 9.0}},
        "c": {"liver": {"dice": 0.4, "hd95_mm": 1.0}, "heart": {"dice": 0.0, "hd95_mm": math.inf}},
    }
    given = {name: [case("p", of_method, mae_hu=50.0)] for name, of_method in labels.items()}
    given["a"].append(case("q", mae_hu=10.0))  # the others have no such case
    ranked = {entry.method: entry for entry in rank_methods(given, PROFILE)}
    dice = {"a": 1.0, "b": (0.7 - 0.2) / (0.8 - 0.2), "c": 0.0}
    hd95 = {"a": 1.0, "b": 1.0, "c": 0.0}
    assert {m: entry.score for m, entry in ranked.items()} == pytest.approx(
        {m: 0.5 + dice[m] + hd95[m] for m in labels}
    )


def test_equal_methods_share_their_places() -> None:
    ranked = rank_methods(methods(a=[10.0, 20.0], b=[10.0, 20.0]), PROFILE)
    assert [(entry.score, entry.mean_rank) for entry in ranked] == [(0.5, 1.5), (0.5, 1.5)]
