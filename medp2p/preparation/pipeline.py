"""A plan of pairs into a prepared folder, resumable, one process per case.

The folder holds ``config.yaml`` (the settings), ``pairs/CASE`` (transforms, body mask, picture and
audit of every pair), ``cases/CASE`` (the voxels of every pair in use), ``manifest.csv``,
``audit.csv``, ``audit.json``, ``audit.html``, ``preparation.json`` (every parameter, version and
hash) and, last, ``index.json``, without which it is no prepared folder. A case whose images and
settings are as before is left alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from medp2p.config import Config, ImageSettings, PreprocessingSettings
from medp2p.errors import ManifestError, MedP2PError, OutputError
from medp2p.files import output_errors, write_text
from medp2p.manifest import TARGET, Case, Verdict, write_manifest
from medp2p.preparation.audit_files import (
    AUDIT_PAGE,
    AuditedCase,
    LeftOutPatient,
    write_audit_files,
)
from medp2p.preparation.examination import (
    BODY_FILE,
    PICTURE_FILE,
    RECORD_FILE,
    PairJob,
    PairRecord,
    examine_pair,
)
from medp2p.preparation.packing import RECORD_FILE as PACKED_FILE
from medp2p.preparation.packing import PackedCase, PackingJob, pack_case
from medp2p.preparation.pairing import LeftOut, Pair, Plan
from medp2p.preparation.planning import case_of_pair, nothing_to_use
from medp2p.preparation.previous import (
    CONFIG_FILE,
    LOCK_FILE,
    MANIFEST_FILE,
    MARKER_FILE,
    Previous,
    Remembered,
    claim_folder,
    decision_of,
    known_places,
    read_previous,
    refuse_changed_manifest,
    settings_text,
    write_history,
)
from medp2p.preparation.set_checks import CaseRecord, SetFinding, check_set
from medp2p.preprocessing import fit_landmarks, training_grid
from medp2p.splits import split_patients
from medp2p.store import CASES_FOLDER, INDEX_FILE, write_index
from medp2p.versions import library_versions
from medp2p.workers import Workers

PAIRS_FOLDER = "pairs"
REPORT_FILE = "preparation.json"

BYTES_PER_VOXEL_OF_IMAGE = 2
BYTES_PER_VOXEL_OF_MASK = 1


@dataclass(frozen=True)
class JudgedPair:
    """A pair after its examination.

    Attributes:
        pair: As planned.
        case: With what was found: transforms, mask, verdict and split.
        record: None if the examination failed.
        reasons: For the verdict.
        known: What earlier runs knew of it.
        failed: Whether it could not be examined, or not be packed.
    """

    pair: Pair
    case: Case
    record: PairRecord | None
    reasons: tuple[str, ...]
    known: Remembered | None = None
    failed: bool = False


@dataclass(frozen=True)
class Preparation:
    """What came of a plan.

    Attributes:
        pairs: Every pair, in the plan's order.
        left_out: Patients without a pair.
        findings: What only the whole set shows.
        notes: What is noteworthy of all of it.
    """

    pairs: tuple[JudgedPair, ...]
    left_out: tuple[LeftOut, ...]
    findings: tuple[SetFinding, ...]
    notes: tuple[str, ...] = ()

    @property
    def used(self) -> tuple[JudgedPair, ...]:
        """The pairs that training, validation and test use."""
        return tuple(judged for judged in self.pairs if judged.case.used)


def prepare(
    plan: Plan,
    output: Path,
    config: Config,
    *,
    strata: Mapping[str, str] | None = None,
    jobs: int = 1,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Preparation:
    """Examine every pair, and pack those in use; what is there already stays.

    Args:
        plan: Who goes with whom.
        output: The prepared folder, new or of an earlier run.
        config: The sections ``data``, ``preparation`` and ``preprocessing`` count.
        strata: Of each patient a word; splits share each evenly.
        jobs: Processes, each with one case at a time.
        overwrite: Whether the results of other settings may be replaced.
        progress: Called with a case's name when a step of it is done; twice for a case in use.

    Raises:
        OutputError: If the folder is somebody else's, in use, or cannot be written.
        ManifestError: If there is no pair, or none that can be used.
    """
    if not plan.pairs:
        raise _nothing_to_use(plan, (), output)
    _refuse_output_around_inputs(output, plan)
    claim_folder(output, config, overwrite=overwrite)
    read_previous(output, config)
    check_space(output, needed_bytes(plan, config.preprocessing))
    report = progress or (lambda _: None)
    with output_errors(output):
        output.mkdir(parents=True, exist_ok=True)
        with _sole_run(output), Workers(min(jobs, len(plan.pairs))) as workers:
            _begin(output, config)
            examined = _examine(plan, output, config, workers, report)
            records = [_case_record(job, found) for _, job, found in examined]
            findings = check_set(records, config.preparation.audit)
            previous = read_previous(output, config)
            judged = _judge(examined, findings, config, previous, strata or {})
            fitted = _fit_landmarks(judged, config.preprocessing)
            judged, packed = _pack(judged, examined, output, fitted, workers, report)
            notes = _notes_on_splits(judged, config)
            preparation = Preparation(tuple(judged), plan.left_out, tuple(findings), notes)
            _write_results(preparation, previous, packed, output, config, fitted)
    if not preparation.used:
        raise _nothing_to_use(plan, preparation.pairs, output)
    return preparation


def needed_bytes(plan: Plan, settings: PreprocessingSettings) -> int:
    """Return the size of the prepared folder, from the sizes that the images' headers state."""
    total = 0
    for pair in plan.pairs:
        first = next(iter(pair.sources.values()))
        if first.grid is None:
            continue
        voxels = int(np.prod(training_grid(first.grid, settings).shape))
        images = len(pair.sources) + 1
        total += voxels * (images * BYTES_PER_VOXEL_OF_IMAGE + BYTES_PER_VOXEL_OF_MASK)
    return total


def check_space(output: Path, needed: int) -> None:
    """Refuse a disk that cannot hold ``needed`` bytes, beside what is there already.

    Raises:
        OutputError: Naming what is needed and what is free.
    """
    place = output.absolute()
    while not place.exists():
        place = place.parent
    with output_errors(output):
        free = shutil.disk_usage(place).free
        cases = output / CASES_FOLDER
        there = sum(f.stat().st_size for f in cases.rglob("*") if f.is_file())
    if needed - there > free:
        raise OutputError(
            f"{output}: needs {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free; "
            "free some space or choose another disk"
        )


def _begin(output: Path, config: Config) -> None:
    """Take away what says that the folder is complete, and what a killed run left."""
    write_text(output / MARKER_FILE, "made by medp2p prepare\n", overwrite=True)
    (output / INDEX_FILE).unlink(missing_ok=True)
    for folder in (output, output / PAIRS_FOLDER, output / CASES_FOLDER):
        for leftover in folder.glob(".tmp-*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    write_text(output / CONFIG_FILE, settings_text(config), overwrite=True)


@contextmanager
def _sole_run(output: Path) -> Iterator[None]:
    try:
        with FileLock(output / LOCK_FILE, timeout=0):
            yield
    except Timeout:
        raise OutputError(f"{output}: another run prepares it right now; wait for it") from None


Examined = tuple[Pair, PairJob, PairRecord | MedP2PError]


def _examine(
    plan: Plan, output: Path, config: Config, workers: Workers, report: Callable[[str], None]
) -> list[Examined]:
    versions = library_versions()
    jobs = [_pair_job(pair, output, config, versions) for pair in plan.pairs]
    results: dict[str, PairRecord | MedP2PError] = {}
    for job, result in workers.run(examine_pair, jobs):
        results[job.case.name] = result
        report(job.case.name)
    return [(pair, job, results[job.case.name]) for pair, job in zip(plan.pairs, jobs, strict=True)]


def _pair_job(pair: Pair, output: Path, config: Config, versions: Mapping[str, str]) -> PairJob:
    images = {**pair.sources, "target": pair.target}
    return PairJob(
        case=case_of_pair(pair),
        files={name: image.files for name, image in images.items() if image.files},
        folder=output / PAIRS_FOLDER / pair.case,
        preparation=config.preparation,
        preprocessing=config.preprocessing,
        versions=versions,
    )


def _judge(
    examined: Sequence[Examined],
    findings: Sequence[SetFinding],
    config: Config,
    previous: Previous,
    strata: Mapping[str, str],
) -> list[JudgedPair]:
    """Settle verdicts, by what the set shows and the user decided, and then the splits."""
    judged = [_judge_pair(one, findings, previous) for one in examined]
    return _with_splits(judged, config, previous, strata)


def _judge_pair(
    examined: Examined, findings: Sequence[SetFinding], previous: Previous
) -> JudgedPair:
    pair, job, found = examined
    case = job.case
    verdict, reasons = _own_verdict(found)
    for finding in findings:
        if case.name in finding.cases:
            verdict = worse(verdict, finding.verdict)
            reasons = (*reasons, finding.reason)
    record = None if isinstance(found, MedP2PError) else found
    known = previous.of(case.name, _images_of(record))
    decision = decision_of(case, known)
    if record:
        case = _with_results(case, job.folder, record)
    elif decision == "use":
        decision = None
    if decision and decision != verdict:
        reasons = (f"your decision: {decision}", *reasons)
    case = replace(case, verdict=verdict, decision=decision)
    return JudgedPair(pair, case, record, reasons, known, failed=record is None)


def _images_of(record: PairRecord | None) -> tuple[str, ...]:
    """Hashes of a pair's images, without the mask, which several pairs may share."""
    if record is None:
        return ()
    return tuple(sha256 for name, sha256 in record.inputs.items() if name != "mask")


def _case_record(job: PairJob, found: PairRecord | MedP2PError) -> CaseRecord:
    case = job.case
    return CaseRecord(
        case=case.name,
        patient=case.patient,
        split=case.split,
        sha256={} if isinstance(found, MedP2PError) else found.inputs,
        audits={} if isinstance(found, MedP2PError) else found.audits,
    )


def _own_verdict(found: PairRecord | MedP2PError) -> tuple[Verdict, tuple[str, ...]]:
    if isinstance(found, MedP2PError):
        return "reject", (" ".join(str(found).splitlines()),)
    verdict: Verdict = "use"
    reasons: list[str] = []
    for name, audit in found.audits.items():
        verdict = worse(verdict, audit.verdict)
        prefix = "" if name == TARGET else f"{name}: "
        reasons += [f"{prefix}{reason}" for reason in audit.reasons]
    return verdict, tuple(reasons)


def worse(one: Verdict, other: Verdict) -> Verdict:
    """Return the graver of two verdicts."""
    order: tuple[Verdict, ...] = ("use", "check", "reject")
    return max(one, other, key=order.index)


def _with_results(case: Case, folder: Path, record: PairRecord) -> Case:
    return replace(
        case,
        mask=case.mask or folder / BODY_FILE,
        transforms={name: folder / file for name, file in record.transforms.items()},
    )


def _with_splits(
    judged: Sequence[JudgedPair], config: Config, previous: Previous, strata: Mapping[str, str]
) -> list[JudgedPair]:
    used = [one.case.patient for one in judged if one.case.used]
    known = known_places([(one.case, one.known) for one in judged], previous)
    places = split_patients(used, config.data, strata=strata, known=known)
    result = []
    for one in judged:
        place = places.get(one.case.patient) if one.case.used else None
        case = replace(
            one.case, split=place.split if place else None, fold=place.fold if place else None
        )
        result.append(replace(one, case=case))
    return result


def _notes_on_splits(judged: Sequence[JudgedPair], config: Config) -> tuple[str, ...]:
    """Say if a split that is wanted has nobody in it."""
    used = [one.case for one in judged if one.case.used]
    there = {case.split for case in used}
    wanted = {"train": True, "test": config.data.test_fraction > 0}
    wanted["validation"] = config.data.validation_fraction > 0 and not config.data.folds
    return tuple(
        f"no patient is in the split {split}; add patients, or write {split} into the column "
        f"split of {MANIFEST_FILE} and run this again"
        for split, is_wanted in wanted.items()
        if used and is_wanted and split not in there
    )


def _fit_landmarks(
    judged: Sequence[JudgedPair], settings: PreprocessingSettings
) -> PreprocessingSettings:
    """Fit what intensity standardization needs on the training patients, and nobody else."""
    training = [one for one in judged if one.case.split == "train" and one.record]
    fitted = {}
    for role in ("source", "target"):
        images: ImageSettings = getattr(settings, role)
        if images.standardization != "nyul" or images.landmarks is not None:
            continue
        marks = [
            landmarks
            for one in training
            if one.record
            for name, landmarks in one.record.landmarks.items()
            if (name == TARGET) == (role == TARGET)
        ]
        if marks:
            fitted[role] = images.model_copy(update={"landmarks": fit_landmarks(marks)})
    return settings.model_copy(update=fitted)


def _pack(
    judged: Sequence[JudgedPair],
    examined: Sequence[Examined],
    output: Path,
    settings: PreprocessingSettings,
    workers: Workers,
    report: Callable[[str], None],
) -> tuple[list[JudgedPair], dict[str, PackedCase]]:
    """Pack the pairs in use; one that cannot be packed is rejected."""
    pair_jobs = {job.case.name: job for _, job, _ in examined}
    jobs = [
        PackingJob(
            pair_jobs[one.case.name], one.record, settings, output / CASES_FOLDER / one.case.name
        )
        for one in judged
        if one.case.used and one.record
    ]
    packed: dict[str, PackedCase] = {}
    refused: dict[str, str] = {}
    for job, result in workers.run(pack_case, jobs):
        if isinstance(result, MedP2PError):
            refused[job.record.case] = " ".join(str(result).splitlines())
        else:
            packed[job.record.case] = result
        report(job.record.case)
    return [_refused(one, refused.get(one.case.name)) for one in judged], packed


def _refused(judged: JudgedPair, reason: str | None) -> JudgedPair:
    if reason is None:
        return judged
    case = replace(judged.case, verdict="reject", decision=None, split=None, fold=None)
    return replace(judged, case=case, reasons=(*judged.reasons, reason), failed=True)


def _write_results(
    preparation: Preparation,
    previous: Previous,
    packed: Mapping[str, PackedCase],
    output: Path,
    config: Config,
    fitted: PreprocessingSettings,
) -> None:
    """Write tables and page, take away what no longer belongs, and last the index."""
    write_audit_files(
        output,
        [_audited(one, output) for one in preparation.pairs],
        [LeftOutPatient(one.patient, one.verdict, one.reason) for one in preparation.left_out],
        preparation.findings,
        config.preparation.audit,
        library_versions(),
    )
    cases = [one.case for one in preparation.pairs]
    history = [(one.case, _images_of(one.record), one.known) for one in preparation.pairs]
    refuse_changed_manifest(output, previous)
    write_history(output, history, previous, config, under_way=True)
    write_manifest(output / MANIFEST_FILE, cases, audited=True, overwrite=True)
    write_history(output, history, previous, config, under_way=False)
    report = _report(preparation, packed, config, fitted)
    write_text(output / REPORT_FILE, json.dumps(report, indent=1) + "\n", overwrite=True)
    _keep_only(output / PAIRS_FOLDER, {case.name for case in cases}, RECORD_FILE)
    _keep_only(output / CASES_FOLDER, set(packed), PACKED_FILE)
    if packed:
        prepared = [
            replace(packed[one.case.name].prepared, split=one.case.split or "", fold=one.case.fold)
            for one in preparation.used
        ]
        write_index(output, fitted, list(cases[0].sources), prepared)


def _audited(one: JudgedPair, output: Path) -> AuditedCase:
    case = one.case
    return AuditedCase(
        case=case.name,
        patient=case.patient,
        split=case.split,
        verdict=case.verdict,
        decision=case.decision,
        reasons=one.reasons,
        audits=one.record.audits if one.record else {},
        picture=output / PAIRS_FOLDER / case.name / PICTURE_FILE if one.record else None,
    )


def _report(
    preparation: Preparation,
    packed: Mapping[str, PackedCase],
    config: Config,
    fitted: PreprocessingSettings,
) -> dict[str, Any]:
    settings = config.model_dump(mode="json", include={"data", "preparation"})
    return {
        "settings": {**settings, "preprocessing": fitted.model_dump(mode="json")},
        "versions": library_versions(),
        "cases": [_case_report(one, packed.get(one.case.name)) for one in preparation.pairs],
    }


def _case_report(one: JudgedPair, packed: PackedCase | None) -> dict[str, Any]:
    case = one.case
    return {
        "case": case.name,
        "patient": case.patient,
        "split": case.split,
        "fold": case.fold,
        "verdict": case.verdict,
        "decision": case.decision,
        "chosen": list(one.pair.reasons),
        "files": {name: str(path) for name, path in case.images.items()},
        "series": case.series,
        "sha256": one.record.inputs if one.record else None,
        "examined_as": one.record.key if one.record else None,
        "packed_as": packed.key if packed else None,
        "prepared": asdict(packed.prepared) if packed else None,
    }


def _keep_only(folder: Path, names: set[str], marker: str) -> None:
    """Take away our own results of cases that are not in the data set any more."""
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.name not in names and (entry / marker).is_file():
            shutil.rmtree(entry)


def _refuse_output_around_inputs(output: Path, plan: Plan) -> None:
    place = output.resolve()
    for pair in plan.pairs:
        case = case_of_pair(pair)
        for file in (*case.images.values(), *([case.mask] if case.mask else [])):
            if file.resolve().is_relative_to(place):
                raise OutputError(f"{output}: holds {file}, an input; name another output")


def _nothing_to_use(plan: Plan, pairs: Sequence[JudgedPair], output: Path) -> ManifestError:
    reasons = [f"{one.case.name}: {reason}" for one in pairs for reason in one.reasons[:1]]
    reasons += [f"{left.patient}: {left.reason}" for left in plan.left_out]
    return nothing_to_use(reasons, f"; see {output / AUDIT_PAGE}" if pairs else "")
