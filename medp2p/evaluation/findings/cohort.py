"""Faults that no single case shows, but many together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from medp2p.evaluation.findings.consequences import EXPLAINS
from medp2p.evaluation.findings.tissues import tissue_words
from medp2p.evaluation.statistics import summarize_values
from medp2p.results import CaseResult, CohortFinding, Finding, Summary

COHORT_CASES = 10
"""With fewer cases nothing is said; the bootstrap interval of a mean is too narrow then."""
COHORT_BIAS_HU: Mapping[str, float] = {"soft": 20.0}
"""Mean error of a tissue over the cases, from which on it is said."""
OTHER_COHORT_BIAS_HU = 40.0
"""The same for tissues that are not among those."""
PART_OF: Mapping[str, str] = {"dense_bone": "bone"}
"""Tissues that lie within another: they are not named beside it, and what explains its bias
explains theirs."""


def find_cohort_faults(
    summaries: Mapping[str, Mapping[str, Summary]],
    tissues: Iterable[str],
    results: Sequence[CaseResult] = (),
) -> tuple[CohortFinding, ...]:
    """Name tissues whose mean error over the cases of a method is large and surely not 0.

    The mean of ``bias_<tissue>_hu`` must lie beyond its threshold, and its 95 % bootstrap interval
    must not hold 0. A case does not count where a finding of its own explains its bias.

    Args:
        summaries: By method, of each metric over the cases.
        tissues: Names of the classes.
        results: The cases that were summarized, of all methods, with their findings.

    Returns:
        By method, in the order of the tissues. Nothing for fewer than `COHORT_CASES` cases.
    """
    names = list(tissues)
    found = []
    for method, of_metrics in summaries.items():
        cases = [result for result in results if result.method == method]
        remaining = {name: _unexplained(of_metrics, cases, name) for name in names}
        biased = {n: s for n, s in remaining.items() if s and _is_biased(s, n)}
        found += [
            _finding(method, name, summary)
            for name, summary in biased.items()
            if PART_OF.get(name) not in biased
        ]
    return tuple(found)


def _unexplained(
    of_metrics: Mapping[str, Summary], cases: Sequence[CaseResult], tissue: str
) -> Summary | None:
    """Summarize the tissue's bias without the cases whose findings explain it."""
    metric = f"bias_{tissue}_hu"
    kept = [c for c in cases if not any(_explains(f, tissue) for f in c.findings)]
    if len(kept) == len(cases):
        return of_metrics.get(metric)
    return summarize_values([case.values.get(metric, math.nan) for case in kept])


def _explains(finding: Finding, tissue: str) -> bool:
    """Whether the finding may be behind a bias of the tissue.

    What is wrong in one place only is too small for that. Lost slices are not: they are left out
    of a case's other findings, but its metrics hold them.
    """
    if finding.kind in ("missing_bone", "added_bone"):
        return False
    biased = f"biased_{PART_OF.get(tissue, tissue)}"
    if biased not in EXPLAINS:
        biased = "biased_soft"
    return finding.kind == "cropped" or biased in EXPLAINS[finding.kind]


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
    name = tissue_words(tissue)
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
