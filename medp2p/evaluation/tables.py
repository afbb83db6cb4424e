"""Results as tables: for a person, for a spreadsheet, for a program."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from medp2p.errors import ConfigError
from medp2p.evaluation.statistics import summarize
from medp2p.files import atomic_file, write_text
from medp2p.metrics import TISSUES_HU, Profile
from medp2p.results import (
    CaseResult,
    Evaluation,
    Requirement,
    Summary,
    csv_text,
    error_decimals,
    table_rows,
)

LABEL_SCORES = (("dice", 3), ("surface_dice", 3), ("hd95_mm", 2))
"""Scores of label classes, and with how many decimals they are shown."""

TABLE_SUFFIXES = (".csv", ".parquet", ".json")

Column = tuple[str, str, int]
"""Key, heading and number of decimals."""


def result_table(evaluation: Evaluation) -> str:
    """Format an evaluation for a person.

    For one method a row per case, mean ± standard deviation, the mean's 95 % interval and the
    median; for several a row per method, the ranking and the comparisons of the main metrics.
    With label maps a row per class and method. Under it the definition and the notes.
    """
    results = evaluation.results
    several = len(evaluation.methods) > 1
    parts = [_methods_table(evaluation)] if several else [_cases_table(evaluation)]
    parts.append(_definition(results, _tissues(evaluation)))
    if evaluation.cases_differ:
        parts.append(
            "The methods have different cases: their means are not comparable. Ranking and tests "
            f"take the cases that all, or both, have: {len(evaluation.common_cases)} of all."
        )
    if several:
        parts += _ranking_tables(evaluation)
    if any(result.labels for result in results):
        parts.append(_labels_table(evaluation))
    notes = [f"note: {_case_name(result)}: {note}" for result in results for note in result.notes]
    notes += [
        f"finding: {_case_name(result)}: {finding.kind}: {finding.text}"
        for result in results
        for finding in result.findings
    ]
    notes += [
        f"finding: all cases{f' of {finding.method}' if finding.method else ''}: {finding.kind}: "
        f"{finding.text}"
        for finding in evaluation.findings
    ]
    text = "\n\n".join(parts)
    return "\n".join([text, *notes])


def comparison_table(results: Mapping[str, Sequence[CaseResult]]) -> str:
    """Format one row per method: mean ± standard deviation over its cases.

    Args:
        results: Cases by the name of the method that predicted them, such as
            ``{"pix2pix": [...], "one CT number": [...]}``; the same cases for each.

    Returns:
        A table that is also Markdown, and the definition of its numbers under it.

    Raises:
        ValueError: If a method has no case, or cases or profiles differ between methods.
    """
    every = [result for cases in results.values() for result in cases]
    if not every or not all(results.values()):
        raise ValueError("every method of a comparison needs at least one case")
    if len({result.profile for result in every}) > 1:
        raise ValueError("methods are compared under one profile")
    if len({tuple(sorted(r.case for r in cases)) for cases in results.values()}) > 1:
        raise ValueError("methods are compared on the same cases")
    columns = _columns(every[0].profile, TISSUES_HU, tissue_bias=False)
    rows = [["method", *(header for _, header, _ in columns)]]
    for method, cases in results.items():
        summaries = summarize(cases)
        means = [_mean_and_sd(summaries.get(key), n, len(cases)) for key, _, n in columns]
        rows.append([method, *means])
    return "\n".join([_aligned(rows), "", _definition(next(iter(results.values())), TISSUES_HU)])


def requirement_lines(requirements: Sequence[Requirement]) -> list[str]:
    """Say of every requirement whether it is met, with the value."""
    return [
        f"{'met' if requirement.met else 'NOT MET'}: {requirement.text}"
        f"{f' by {requirement.method}' if requirement.method else ''} "
        f"({requirement.metric} {requirement.value:.6g})"
        for requirement in requirements
    ]


def refuse_unknown_table(path: Path) -> None:
    """Refuse a table of a format that cannot be written.

    Raises:
        ConfigError: If the suffix is none of `TABLE_SUFFIXES`, or Parquet's library is missing.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise ConfigError(f"{path}: a table is {', '.join(TABLE_SUFFIXES)}; choose one of these")
    if suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ConfigError(f"{path}: Parquet needs pyarrow; pip install 'medp2p[parquet]'")


def write_table(path: Path, evaluation: Evaluation, *, overwrite: bool = False) -> None:
    """Write one row per case and method, in the format of the path's suffix.

    A value that does not exist is empty in CSV, null in JSON and Parquet; an infinite one is
    ``inf`` in CSV and Parquet and ``"inf"`` in JSON. Values have all their digits.

    Args:
        path: ``.csv``, ``.json`` (a list of objects) or ``.parquet``.
        evaluation: What to write.
        overwrite: Whether an existing file may be replaced.

    Raises:
        ConfigError: As for `refuse_unknown_table`.
        OutputError: If it exists and ``overwrite`` is false, or cannot be written.
    """
    refuse_unknown_table(path)
    suffix = path.suffix.lower()
    if suffix == ".csv":
        write_text(path, csv_text(evaluation), overwrite=overwrite)
    elif suffix == ".json":
        rows = [{k: _json_value(v) for k, v in row.items()} for row in table_rows(evaluation)]
        text = json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(path, text + "\n", overwrite=overwrite)
    else:
        import pandas as pd

        with atomic_file(path, overwrite=overwrite) as temporary:
            pd.DataFrame(table_rows(evaluation)).to_parquet(temporary, engine="pyarrow")


def write_csv(path: Path, evaluation: Evaluation, *, overwrite: bool = False) -> None:
    """Write `csv_text` to a file of any name.

    Raises:
        OutputError: If it exists and ``overwrite`` is false, or cannot be written.
    """
    write_text(path, csv_text(evaluation), overwrite=overwrite)


def _json_value(value: str | float) -> str | float | None:
    if isinstance(value, str) or math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)


def _cases_table(evaluation: Evaluation) -> str:
    results = evaluation.results
    columns = _columns(results[0].profile, _tissues(evaluation), tissue_bias=True)
    rows = [["case", *(header for _, header, _ in columns)]]
    for result in results:
        rows.append([result.case, *(_number(result.values.get(k), n) for k, _, n in columns)])
    if len(results) > 1:
        summaries = summarize(results)
        found = [(summaries.get(key), decimals) for key, _, decimals in columns]
        rows.append(["mean ± sd", *(_mean_and_sd(s, n, len(results)) for s, n in found)])
        rows.append(["median", *(_number(s.median if s else None, n) for s, n in found)])
        rows.append(["95 % interval of the mean", *(_interval(s, n) for s, n in found)])
    return _aligned(rows)


def _methods_table(evaluation: Evaluation) -> str:
    columns = _columns(evaluation.profile, _tissues(evaluation), tissue_bias=False)
    rows = [["method", "cases", *(header for _, header, _ in columns)]]
    for method, summaries in evaluation.summaries.items():
        cases = len(evaluation.of_method(method))
        means = [_mean_and_sd(summaries.get(key), n, cases) for key, _, n in columns]
        rows.append([method, str(cases), *means])
    return _aligned(rows)


def _ranking_tables(evaluation: Evaluation) -> list[str]:
    ranking = [["rank", "method", "score", "mean rank"]]
    ranking += [
        [str(place), ranked.method, f"{ranked.score:.3f}", f"{ranked.mean_rank:.2f}"]
        for place, ranked in enumerate(evaluation.ranking, 1)
    ]
    columns = _columns(evaluation.profile, {}, tissue_bias=False)
    tests = [["metric", "first", "second", "n", "median difference", "effect", "p", "p (Holm)"]]
    tests += [
        [
            heading,
            one.first,
            one.second,
            str(one.cases),
            _number(one.difference, decimals),
            _number(one.effect, 2),
            _number(one.p, 4),
            _number(one.p_holm, 4),
        ]
        for key, heading, decimals in columns
        for one in evaluation.comparisons
        if one.metric == key
    ]
    about = (
        "score: per metric 0 for the worst and 1 for the best mean, summed, as the challenge "
        "ranks; tests: Wilcoxon's signed-rank, two-sided, over the cases of both; effect: "
        "rank-biserial, positive where the first is higher"
    )
    return [_aligned(ranking), _aligned(tests), about]


def _labels_table(evaluation: Evaluation) -> str:
    """Format one row per label class and method: mean ± sd over the cases that have the class."""
    classes = dict.fromkeys(label for result in evaluation.results for label in result.labels)
    rows = [["label class", "method", "n", "Dice", "surface Dice", "HD95 (mm)"]]
    for label in classes:
        for method, summaries in evaluation.summaries.items():
            count = sum(label in result.labels for result in evaluation.of_method(method))
            if count:
                found = [(summaries.get(f"{key}_label_{label}"), n) for key, n in LABEL_SCORES]
                means = [_mean_and_sd(summary, n, count) for summary, n in found]
                rows.append([label, method, str(count), *means])
    if len(evaluation.methods) == 1:
        rows = [[label, *values] for label, _, *values in rows]
    return _aligned(rows)


def _tissues(evaluation: Evaluation) -> Mapping[str, tuple[float, float]]:
    stated = evaluation.settings.get("tissues")
    if not stated:
        return TISSUES_HU
    return {name: (float(limits[0]), float(limits[1])) for name, limits in stated.items()}


def _columns(
    profile: Profile, tissues: Mapping[str, tuple[float, float]], *, tissue_bias: bool
) -> list[Column]:
    units = f" ({profile.units})" if profile.units else ""
    structure = profile.structure.upper().replace("_", "-")
    decimals = error_decimals(profile)
    columns = [
        (profile.mae_key, f"MAE{units}", decimals),
        (profile.bias_key, f"bias{units}", decimals),
        ("psnr_db", "PSNR (dB)", 2),
        (profile.structure_key, f"{structure} {profile.name}", 4),
    ]
    if profile.units != "HU":
        return columns
    columns += [(f"mae_{tissue}_hu", f"MAE {_words(tissue)}", decimals) for tissue in tissues]
    if tissue_bias:
        columns += [(f"bias_{tissue}_hu", f"bias {_words(tissue)}", decimals) for tissue in tissues]
    return columns


def _words(name: str) -> str:
    return name.replace("_", " ")


def _definition(results: Sequence[CaseResult], tissues: Mapping[str, tuple[float, float]]) -> str:
    """Say in one line how the numbers of a table are defined."""
    profile = results[0].profile
    masks = sorted({result.where.words for result in results})
    classes = ""
    if profile.units == "HU":
        listed = ", ".join(f"{_words(name)} {_limits(*limits)}" for name, limits in tissues.items())
        classes = f"; tissues by the reference in HU: {listed}"
    methods = {result.method for result in results}
    counts = sorted({sum(result.method == method for result in results) for method in methods})
    shown = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    over = f"; mean ± sd (n - 1) over {shown} cases" if counts[-1] > 1 else ""
    return f"{profile.description}; mask: {_shortened(masks)}{classes}{over}"


def _limits(low: float, high: float) -> str:
    if math.isinf(low):
        return f"< {high:g}"
    return f"> {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"


def _case_name(result: CaseResult) -> str:
    return f"{result.case} ({result.method})" if result.method else result.case


def _shortened(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _number(value: float | None, decimals: int) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{decimals}f}"


def _interval(summary: Summary | None, decimals: int) -> str:
    if summary is None or math.isnan(summary.interval[0]):
        return "–"
    low, high = summary.interval
    return f"{low:.{decimals}f} to {high:.{decimals}f}"


def _mean_and_sd(summary: Summary | None, decimals: int, cases: int) -> str:
    """Format a mean, with the number of cases behind it if some have no value."""
    if summary is None:
        return "–"
    text = _number(summary.mean, decimals)
    if not math.isnan(summary.sd):
        text += f" ± {summary.sd:.{decimals}f}"
    if summary.infinite:
        return f"{text} (n = {summary.count}, {summary.infinite} infinite)"
    return text if summary.count in (0, cases) else f"{text} (n = {summary.count})"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Align the columns of a Markdown table; the first row is its heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in [rows[0], rules, *rows[1:]]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
