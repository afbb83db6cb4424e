"""What an evaluation found, as plain data, and its file ``results.json``.

`medp2p.evaluation` makes it, `medp2p.report` shows it; neither needs the other.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from medp2p.errors import EvaluationError
from medp2p.files import atomic_folder
from medp2p.metrics import Curve, Histogram2D, Profile

WHOLE_VOLUME = "whole volume"
"""What stands in the place of a mask's name where there is no mask."""

RESULTS_FILE = "results.json"
CASES_FILE = "cases.csv"
FORMAT = 2
"""Version of what ``results.json`` holds."""

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""First characters that make a spreadsheet take a text for a formula (OWASP, "CSV Injection")."""


def _nan_for_null(value: Any) -> Any:
    return math.nan if value is None else value


def _nan_for_nulls(curve: Any) -> Any:
    if not isinstance(curve, dict) or not isinstance(curve.get("y"), list):
        return curve
    return curve | {"y": [_nan_for_null(value) for value in curve["y"]]}


Number = Annotated[float, BeforeValidator(_nan_for_null)]
"""A float whose NaN is null in JSON."""
Values = Mapping[str, Number]


@dataclass(frozen=True)
class Finding:
    """A fault that was recognized in a prediction.

    Attributes:
        kind: Which, a word from ``medp2p.evaluation.findings``.
        text: One sentence for a person, with the number behind it and what to do.
        value: The number that was compared with the threshold.
        threshold: From where on it is a fault.
        place: Index of the voxel (i, j, k) of the reference, RAS order, where to look first;
            None if it is everywhere.
    """

    kind: str
    text: str
    value: Number
    threshold: Number
    place: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class CaseFiles:
    """Which files are compared for one case.

    Attributes:
        case: The case's name.
        prediction: The predicted image; None if there is none on disk.
        reference: The true image.
        mask: Where to compare, None for everywhere.
        series: Which DICOM series the reference is, ``KEY`` or ``KEY/GROUP``.
        transform: The file with the reference's alignment to the image that was translated; None
            where their positions agree.
        source: The image that was translated, for the report; None if it is not known.
        prediction_labels: The label map of the prediction, if there is one.
        reference_labels: The label map of the reference.
        region: The file with the region that is compared, if not all of the mask is.
        hashes: SHA-256 of each file as it was compared, by the names of the fields above; empty
            before.
    """

    case: str
    prediction: Path | None
    reference: Path
    mask: Path | None
    series: str = ""
    transform: Path | None = None
    source: Path | None = None
    prediction_labels: Path | None = None
    reference_labels: Path | None = None
    region: Path | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Where:
    """Which voxels were compared: those inside the mask and the region, else the whole volume.

    Attributes:
        mask: Path of the mask; empty if there was none.
        region: Path of the region; empty if there was none.
        region_name: Which region of the file; empty for the only one.
    """

    mask: str = ""
    region: str = ""
    region_name: str = ""

    @property
    def words(self) -> str:
        """For a person, with names of files: ``region liver of rs.dcm within mask.nii.gz``."""
        region = Path(self.region).name
        if self.region_name:
            region = f"region {self.region_name} of {region}"
        names = [name for name in (region, Path(self.mask).name) if name]
        return " within ".join(names) or WHOLE_VOLUME


Matrix = tuple[tuple[float, float, float, float], ...]
"""A (4, 4) affine, row by row."""


@dataclass(frozen=True)
class CaseResult:
    """The metrics of one case and what they were computed from.

    Attributes:
        case: The case's name.
        values: By name, as ``docs/metrics.md`` defines them; NaN where a metric has no value.
        profile: The definition behind the values.
        where: Which voxels were compared.
        notes: What a reader should know before trusting the values.
        method: Which prediction of the case this is; empty if there is but one.
        labels: For each label class its scores (``dice``, ``hd95_mm``, ``surface_dice``).
        curves: By name.
        histograms: By name.
        findings: Faults that were recognized.
        files: The files that were compared; None if the images came from memory.
        alignment: Where the reference's world lies in the prediction's, RAS+ mm, if the
            prediction was moved onto the reference before it was compared.
    """

    case: str
    values: Values
    profile: Profile
    where: Where = Where()
    notes: tuple[str, ...] = ()
    method: str = ""
    labels: Mapping[str, Values] = field(default_factory=dict)
    curves: Mapping[str, Annotated[Curve, BeforeValidator(_nan_for_nulls)]] = field(
        default_factory=dict
    )
    histograms: Mapping[str, Histogram2D] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    files: CaseFiles | None = None
    alignment: Matrix | None = None


@dataclass(frozen=True)
class Failure:
    """A case without values.

    Attributes:
        case: The case's name.
        reason: Why, in one line.
        method: Which prediction of the case.
    """

    case: str
    reason: str
    method: str = ""


@dataclass(frozen=True)
class Summary:
    """One metric over several cases; cases without a value are left out and not counted.

    Attributes:
        mean: Arithmetic mean, NaN without any value.
        sd: Sample standard deviation (n - 1), NaN for fewer than two values.
        median: Median.
        count: Number of cases with a finite value, which the others are computed from.
        interval: 95 % bootstrap interval of the mean, low and high; NaN for fewer than two.
        infinite: Number of cases whose value is infinite; they are left out of the others.
    """

    mean: Number
    sd: Number
    median: Number
    count: int
    interval: tuple[Number, Number] = (math.nan, math.nan)
    infinite: int = 0


@dataclass(frozen=True)
class Comparison:
    """Two methods on one metric, over the cases that both have.

    Attributes:
        metric: Its name.
        first: A method.
        second: Another.
        cases: How many cases both have a value for.
        difference: Median over the cases of first minus second.
        p: Of Wilcoxon's signed-rank test, two-sided; NaN if every difference is 0.
        p_holm: The same after Holm's correction over all comparisons of the metric.
        effect: Matched-pairs rank-biserial correlation, -1 to 1; positive if the first is higher.
    """

    metric: str
    first: str
    second: str
    cases: int
    difference: Number
    p: Number
    p_holm: Number
    effect: Number


class Ranked(NamedTuple):
    """A method's place among the others.

    Attributes:
        method: Its name.
        score: The challenge's: for every ranked metric the mean over the cases, scaled to 0 for
            the worst method and 1 for the best, summed over the metrics.
        mean_rank: Its rank (1 is best, ties share their mean) in each case and metric, averaged.
    """

    method: str
    score: float
    mean_rank: float


@dataclass(frozen=True)
class Requirement:
    """A condition that a run must meet.

    Attributes:
        text: As it was given, such as ``mae<80``.
        metric: The metric's name.
        value: Its mean over the cases, infinite if one is, NaN if there is none.
        met: Whether it holds.
        method: Of which method.
    """

    text: str
    metric: str
    value: Number
    met: bool
    method: str = ""


@dataclass(frozen=True)
class CohortFinding:
    """A fault that was recognized over the cases of a method together.

    Attributes:
        kind: Which, a word from ``medp2p.evaluation.findings``.
        text: One sentence for a person, with the numbers behind it.
        value: The number that was compared with the threshold.
        threshold: From where on it is a fault.
        cases: How many cases it is over.
        method: Of which method.
    """

    kind: str
    text: str
    value: Number
    threshold: Number
    cases: int
    method: str = ""


@dataclass(frozen=True)
class Evaluation:
    """The results of several cases.

    Attributes:
        results: The cases with values, of all methods.
        failures: The other cases.
        summaries: Of each method, each metric over its cases.
        comparisons: Of every two methods on every metric.
        ranking: Methods, best score first; empty for one method.
        requirements: What was required, and whether it holds.
        findings: Faults that were recognized over the cases of a method together.
        settings: What was asked for, to do it again.
        versions: Of the libraries that matter.
    """

    results: tuple[CaseResult, ...]
    failures: tuple[Failure, ...] = ()
    summaries: Mapping[str, Mapping[str, Summary]] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    ranking: tuple[Ranked, ...] = ()
    requirements: tuple[Requirement, ...] = ()
    findings: tuple[CohortFinding, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, in the order of their first case."""
        return tuple(dict.fromkeys(result.method for result in self.results))

    @property
    def profile(self) -> Profile:
        """The definition behind all values."""
        return self.results[0].profile

    @property
    def common_cases(self) -> tuple[str, ...]:
        """Names of the cases that every method has."""
        cases = [{result.case for result in self.of_method(m)} for m in self.methods]
        shared = set.intersection(*cases) if cases else set()
        return tuple(dict.fromkeys(r.case for r in self.results if r.case in shared))

    @property
    def cases_differ(self) -> bool:
        """Whether some method lacks a case of another: then means are over different cases."""
        return len(self.common_cases) < len({result.case for result in self.results})

    def of_method(self, method: str) -> tuple[CaseResult, ...]:
        """Return the cases of one method."""
        return tuple(result for result in self.results if result.method == method)


def as_json(evaluation: Evaluation, *, arrays: bool = True) -> dict[str, Any]:
    """Return an evaluation as plain data for JSON: NaN becomes null, infinity ``"inf"``.

    Args:
        evaluation: Of at least one case.
        arrays: Whether to keep curves and histograms, which are most of it.
    """
    data: dict[str, Any] = {"format": FORMAT, "profile": _plain(evaluation.profile)}
    data |= _plain(evaluation)
    data["cases"] = data.pop("results")
    data["ranking"] = [ranked._asdict() for ranked in evaluation.ranking]
    for case in data["cases"]:
        del case["profile"]
        if not arrays:
            del case["curves"], case["histograms"]
    return data


def write_results(folder: Path, evaluation: Evaluation, *, overwrite: bool = False) -> None:
    """Write a folder with ``results.json`` and ``cases.csv``, whole or not at all.

    Raises:
        OutputError: If it exists and ``overwrite`` is false, is no folder of results, or cannot
            be written.
    """
    with atomic_folder(folder, marker=RESULTS_FILE, overwrite=overwrite) as temporary:
        write_results_into(temporary, evaluation)


def write_results_into(folder: Path, evaluation: Evaluation) -> None:
    """Write ``results.json`` and ``cases.csv`` into a new folder that exists."""
    text = json.dumps(as_json(evaluation), ensure_ascii=False, allow_nan=False)
    (folder / RESULTS_FILE).write_text(text + "\n", encoding="utf-8", newline="\n")
    (folder / CASES_FILE).write_text(csv_text(evaluation), encoding="utf-8", newline="\n")


def read_results(path: Path) -> Evaluation:
    """Read what `write_results` wrote.

    Args:
        path: The folder, or its ``results.json``.

    Raises:
        EvaluationError: If it is missing, damaged, of another version or something else.
    """
    file = path / RESULTS_FILE if path.is_dir() else path
    again = "make it with `medp2p evaluate PREDICTION REFERENCE --output FOLDER`"
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EvaluationError(f"{file}: no such file; {again}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise EvaluationError(f"{file}: cannot be read as JSON; {again}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format", "none") if isinstance(data, dict) else "none"
        raise EvaluationError(
            f"{file}: no results of this version (format {str(found)[:20]}, expected {FORMAT}); "
            f"{again}"
        )
    try:
        return _evaluation_of(data)
    except (ValidationError, KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(f"{file}: damaged at {_damage(error)}; {again}") from error


def table_rows(evaluation: Evaluation) -> list[dict[str, str | float]]:
    """Return a table with one row per case (and method, if methods have names).

    A row holds the definition (profile, range, mask and region; both are empty where the whole
    volume was compared), every value as `scores` names them, notes, kinds of findings and, for a
    case without values, the error. All rows have the same columns; a value that does not exist
    is NaN.
    """
    profile = evaluation.profile
    low, high = profile.value_range
    definition: dict[str, str | float] = {
        "profile": profile.name,
        "range_low": low,
        "range_high": high,
    }
    names = dict.fromkeys(name for result in evaluation.results for name in scores(result))
    nothing = dict.fromkeys(names, math.nan)
    rows: list[dict[str, str | float]] = [
        {
            "case": result.case,
            "method": result.method,
            **definition,
            **vars(result.where),
            **nothing,
            **scores(result),
            "notes": "; ".join(result.notes),
            "findings": "; ".join(finding.kind for finding in result.findings),
            "error": "",
        }
        for result in evaluation.results
    ]
    rows += [
        {
            "case": failure.case,
            "method": failure.method,
            **definition,
            **vars(Where()),
            **nothing,
            "notes": "",
            "findings": "",
            "error": failure.reason,
        }
        for failure in evaluation.failures
    ]
    if not any(row["method"] for row in rows):
        for row in rows:
            del row["method"]
    return rows


def csv_text(evaluation: Evaluation) -> str:
    """Return `table_rows` as CSV: values with all their digits, empty where there is none.

    Text that a spreadsheet would take for a formula (`FORMULA_STARTS`) gets an apostrophe.
    """
    rows = table_rows(evaluation)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(map(_cell, rows[0]))
    table.writerows(map(_cell, row.values()) for row in rows)
    return text.getvalue()


def _cell(value: str | float) -> str | float:
    if isinstance(value, str):
        return without_formula(value)
    return "" if math.isnan(value) else value


def without_formula(text: str) -> str:
    """Put an apostrophe before what a spreadsheet would take for a formula (`FORMULA_STARTS`)."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def error_decimals(profile: Profile) -> int:
    """Return how many decimals an error in the profile's units is shown with.

    One over a range of 100 and more, such as HU; three over a range of 1.
    """
    return 1 + max(0, math.ceil(math.log10(100 / profile.span)))


def scores(result: CaseResult) -> dict[str, float]:
    """Return the values of a case and of its label classes, these as ``dice_label_<class>``."""
    labels = {
        f"{score}_label_{label}": value
        for label, of_class in result.labels.items()
        for score, value in of_class.items()
    }
    return {**result.values, **labels}


def _plain(value: Any) -> Any:
    """Turn dataclasses, mappings, paths and numbers into what JSON knows."""
    if is_dataclass(value):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return float(value) if math.isfinite(value) else ("inf" if value > 0 else "-inf")
    return value


def _evaluation_of(data: dict[str, Any]) -> Evaluation:
    results = [{**case, "profile": data["profile"]} for case in data["cases"]]
    evaluation = TypeAdapter(Evaluation).validate_python({**data, "results": results})
    if not evaluation.results:
        raise KeyError("cases")
    return evaluation


def _damage(error: Exception) -> str:
    """Say where, in few words."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))} ({first['msg'].lower()})"
    return str(error)[:60]
