"""Faults that no single case shows, but many together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from medp2p.results import CohortFinding, Summary

COHORT_CASES = 10
"""With fewer cases nothing is said; the bootstrap interval of a mean is too narrow then."""
COHORT_BIAS_HU: Mapping[str, float] = {"soft": 20.0}
"""Mean error of a tissue over the cases, from which on it is said."""
OTHER_COHORT_BIAS_HU = 40.0
"""The same for tissues that are not among those."""


def find_cohort_faults(
    summaries: Mapping[str, Mapping[str, Summary]], tissues: Iterable[str]
) -> tuple[CohortFinding, ...]:
    """Name tissues whose mean error over the cases of a method is large and surely not 0.

    The mean of ``bias_<tissue>_hu`` must lie beyond its threshold, and its 95 % bootstrap interval
    must not hold 0.

    Args:
        summaries: By method, of each metric over the cases.
        tissues: Names of the classes.

    Returns:
        By method, in the order of the tissues. Nothing for fewer than `COHORT_CASES` cases.
    """
    return tuple(
        _finding(method, tissue, summary)
        for method, of_metrics in summaries.items()
        for tissue in tissues
        if (summary := of_metrics.get(f"bias_{tissue}_hu")) and _is_biased(summary, tissue)
    )


def _threshold(tissue: str) -> float:
    return COHORT_BIAS_HU.get(tissue, OTHER_COHORT_BIAS_HU)


def _is_biased(summary: Summary, tissue: str) -> bool:
    low, high = summary.interval
    return (
        summary.count >= COHORT_CASES
        and abs(summary.mean) >= _threshold(tissue)
        and (low > 0 or high < 0)
    )


def _finding(method: str, tissue: str, summary: Summary) -> CohortFinding:
    low, high = summary.interval
    name = tissue.replace("_", " ")
    direction = "high" if summary.mean > 0 else "low"
    text = (
        f"{name} is too {direction}: over {summary.count} cases, mean {summary.mean:.0f} HU "
        f"(95 % {low:.0f} to {high:.0f}); a method that was trained for a small mean error may do "
        f"so by itself where its source tells little, else check the CT numbers that it gives to "
        f"{name}"
    )
    return CohortFinding(
        f"biased_{tissue}", text, abs(summary.mean), _threshold(tissue), summary.count, method
    )
