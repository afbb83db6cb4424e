"""Predictions against references: which files belong together, their numbers, what follows.

`cases` finds the files, `pair` compares one prediction with its reference, `cohort` does so for
many, `statistics` and `gates` draw conclusions and `tables` writes them down.
"""

from medp2p.evaluation.cases import (
    DEFAULT_LAYOUT,
    Layout,
    Pairing,
    case_files,
    pair_folders,
    pair_manifest,
    pair_methods,
    pair_paths,
    read_predictions,
    with_extras,
)
from medp2p.evaluation.cohort import evaluate_cases, evaluate_folders, evaluate_methods
from medp2p.evaluation.gates import Gate, check_gates, metric_values, read_gate
from medp2p.evaluation.pair import (
    Extras,
    Options,
    evaluate_files,
    evaluate_pair,
    loose_share,
)
from medp2p.evaluation.statistics import (
    bootstrap_interval,
    compare_methods,
    holm,
    rank_biserial,
    rank_methods,
    signed_rank_p,
    summarize,
)
from medp2p.evaluation.tables import (
    comparison_table,
    refuse_unknown_table,
    requirement_lines,
    result_table,
    write_csv,
    write_table,
)
from medp2p.results import (
    WHOLE_VOLUME,
    CaseFiles,
    CaseResult,
    Evaluation,
    Failure,
    Summary,
    Where,
    as_json,
)

__all__ = [
    "DEFAULT_LAYOUT",
    "WHOLE_VOLUME",
    "CaseFiles",
    "CaseResult",
    "Evaluation",
    "Extras",
    "Failure",
    "Gate",
    "Layout",
    "Options",
    "Pairing",
    "Summary",
    "Where",
    "as_json",
    "bootstrap_interval",
    "case_files",
    "check_gates",
    "compare_methods",
    "comparison_table",
    "evaluate_cases",
    "evaluate_files",
    "evaluate_folders",
    "evaluate_methods",
    "evaluate_pair",
    "holm",
    "loose_share",
    "metric_values",
    "pair_folders",
    "pair_manifest",
    "pair_methods",
    "pair_paths",
    "rank_biserial",
    "rank_methods",
    "read_gate",
    "read_predictions",
    "refuse_unknown_table",
    "requirement_lines",
    "result_table",
    "signed_rank_p",
    "summarize",
    "with_extras",
    "write_csv",
    "write_table",
]
