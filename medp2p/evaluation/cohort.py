"""Many cases, of one method or several, at once in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from medp2p.errors import EvaluationError, MedP2PError
from medp2p.evaluation.cases import DEFAULT_LAYOUT, Layout, Pairing, pair_folders
from medp2p.evaluation.findings import find_cohort_faults
from medp2p.evaluation.gates import Gate, check_gates
from medp2p.evaluation.pair import DEFAULT_OPTIONS, Options, evaluate_files
from medp2p.evaluation.statistics import compare_methods, rank_methods, summarize
from medp2p.metrics import Profile
from medp2p.results import CaseFiles, CaseResult, Evaluation, Failure
from medp2p.versions import library_versions
from medp2p.volume import Volume
from medp2p.workers import run_jobs

Progress = Callable[[str], None]
Predict = Callable[[CaseFiles], Volume]


@dataclass(frozen=True)
class _Task:
    """One case of one method, as a process gets it."""

    number: int
    method: str
    files: CaseFiles
    profile: Profile
    options: Options


def evaluate_folders(
    prediction: Path,
    reference: Path,
    profile: Profile,
    options: Options = DEFAULT_OPTIONS,
    *,
    layout: Layout = DEFAULT_LAYOUT,
) -> Evaluation:
    """Compare the cases of two folders: `pair_folders`, then `evaluate_cases`.

    Args:
        prediction: Folder of predictions.
        reference: Folder of references.
        profile: The definition of the metrics.
        options: As for `evaluate_pair`.
        layout: Names in the folders, and where masks lie if not beside the references.

    Raises:
        EvaluationError: If the folders have no case in common, or no case could be evaluated.
        ImageReadError: If a folder does not exist.
    """
    pairs, failures = pair_folders(prediction, reference, layout)
    return evaluate_cases(pairs, profile, options, failures=failures)


def evaluate_cases(
    pairs: Sequence[CaseFiles],
    profile: Profile,
    options: Options = DEFAULT_OPTIONS,
    *,
    failures: Mapping[str, str] = MappingProxyType({}),
    progress: Progress | None = None,
    predict: Predict | None = None,
    jobs: int = 1,
) -> Evaluation:
    """Compare several cases of one method; arguments and errors are those of `evaluate_methods`."""
    pairings = {"": (list(pairs), dict(failures))}
    return evaluate_methods(
        pairings, profile, options, progress=progress, predict=predict, jobs=jobs
    )


def evaluate_methods(
    pairings: Mapping[str, Pairing],
    profile: Profile,
    options: Options = DEFAULT_OPTIONS,
    *,
    gates: Sequence[Gate] = (),
    progress: Progress | None = None,
    predict: Predict | None = None,
    jobs: int = 1,
) -> Evaluation:
    """Compare the cases of several methods; one that fails does not stop the others.

    Values do not depend on ``jobs``. Each process holds the images of one case at a time.

    Args:
        pairings: By method, its cases, and why other cases have no result.
        profile: The definition of the metrics.
        options: As for `evaluate_pair`.
        gates: What the means must meet.
        progress: Called with a case's name when it is done.
        predict: Returns the prediction of a case instead of reading it; then cases are done one
            after another in this process.
        jobs: How many cases are compared at a time.

    Raises:
        EvaluationError: If no case could be evaluated.
        MedP2PError: What is wrong with the only case, if there is but one.
    """
    tasks = [
        _Task(number, method, files, profile, options)
        for number, (method, files) in enumerate(
            (method, files) for method, (pairs, _) in pairings.items() for files in pairs
        )
    ]
    left_out = [
        Failure(case, reason, method)
        for method, (_, failures) in pairings.items()
        for case, reason in failures.items()
    ]
    outcomes: dict[int, CaseResult | MedP2PError] = {}
    for task, outcome in _outcomes(tasks, predict, jobs, alone=len(tasks) == 1 and not left_out):
        outcomes[task.number] = outcome
        if progress:
            progress(task.files.case)
    results, failed = [], []
    for task in tasks:
        outcome = outcomes[task.number]
        if isinstance(outcome, CaseResult):
            results.append(outcome)
        else:
            failed.append(Failure(task.files.case, str(outcome), task.method))
    if not results:
        raise _nothing_evaluated(failed, left_out)
    place = {method: number for number, method in enumerate(pairings)}
    failures = sorted([*left_out, *failed], key=lambda f: (place[f.method], f.case))
    return _evaluation(results, failures, profile, options, gates)


def _outcomes(
    tasks: Sequence[_Task], predict: Predict | None, jobs: int, *, alone: bool
) -> Iterator[tuple[_Task, CaseResult | MedP2PError]]:
    """Yield every task with its result or refusal, as they end; the only one raises it."""
    if alone:
        yield tasks[0], _evaluate(tasks[0], predict)
    elif predict is None:
        yield from run_jobs(_evaluate, tasks, jobs)
    else:
        for task in tasks:
            try:
                yield task, _evaluate(task, predict)
            except MedP2PError as error:
                yield task, error


def _evaluate(task: _Task, predict: Predict | None = None) -> CaseResult:
    return evaluate_files(
        task.files,
        task.profile,
        task.options,
        method=task.method,
        prediction=predict(task.files) if predict else None,
    )


def _evaluation(
    results: Sequence[CaseResult],
    failures: Sequence[Failure],
    profile: Profile,
    options: Options,
    gates: Sequence[Gate],
) -> Evaluation:
    """Add what follows from the cases."""
    methods: dict[str, list[CaseResult]] = {}
    for result in results:
        methods.setdefault(result.method, []).append(result)
    summaries = {method: summarize(cases) for method, cases in methods.items()}
    several = len(methods) > 1
    return Evaluation(
        tuple(results),
        tuple(failures),
        summaries,
        compare_methods(methods) if several else (),
        rank_methods(methods, profile) if several else (),
        check_gates(gates, summaries),
        find_cohort_faults(summaries, options.tissues, results) if options.find_faults else (),
        settings=_settings(options),
        versions=library_versions(),
    )


def _settings(options: Options) -> dict[str, object]:
    return {
        "resample": options.allow_resampling,
        "align": options.align,
        "tissues": {name: list(limits) for name, limits in options.tissues.items()},
        "label_classes": options.label_classes,
        "region": options.region,
    }


def _nothing_evaluated(tried: Sequence[Failure], untried: Sequence[Failure]) -> EvaluationError:
    """Tell the reason of one case, rather of one that was tried than of one left out before."""
    failures = [*tried, *untried]
    if not failures:
        return EvaluationError("no case was given")
    first = failures[0]
    if len(failures) == 1:
        return EvaluationError(f"case {first.case} could not be evaluated: {first.reason}")
    which = "the first that was tried" if tried else "the first"
    return EvaluationError(
        f"none of {len(failures)} cases could be evaluated; {which}, {first.case}: {first.reason}"
    )
