"""What only the whole set shows: leaks, copies, and cases unlike the others.

A value is unlike the others if it lies more than ``set_deviations`` robust standard deviations
(1.4826 times the median absolute deviation) from the median, where at least ``set_cases`` cases
have it. A smallest deviation keeps sets that are very even from calling everything unlike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medp2p.config import AuditSettings
from medp2p.manifest import TARGET, Verdict
from medp2p.preparation.audit import PairAudit
from medp2p.preparation.fingerprints import nearly_the_same, voxels_hash
from medp2p.preparation.layouts import MASK

MAD_TO_DEVIATION = 1.4826
"""A normal distribution's standard deviation in units of its median absolute deviation."""

MOST_OUTLIERS = 0.1
"""If a larger share of a set is unlike the rest, it is another protocol, and nothing odd."""

_MAX_SHOWN = 3


@dataclass(frozen=True)
class CaseRecord:
    """What a case leaves behind for the comparison with the others.

    Attributes:
        case: Unique name.
        patient: Whose images they are.
        split: Where a manifest states one, else None.
        sha256: Of each image's files, by image (source names and ``"target"``).
        audits: Of each image against the first source, by image; empty if the pair failed.
    """

    case: str
    patient: str
    split: str | None
    sha256: dict[str, str]
    audits: dict[str, PairAudit]


@dataclass(frozen=True)
class SetFinding:
    """Something that shows in the comparison of cases.

    Attributes:
        cases: Whom it concerns; their verdict is at best this one's.
        verdict: ``"check"`` or ``"reject"``.
        reason: One line: what was found and what is expected.
    """

    cases: tuple[str, ...]
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class _Unlike:
    """A number in which cases should be alike.

    Attributes:
        words: What it is, for the reason.
        value: The number of an audit that is compared; None if it has none.
        shown: The number as people know it.
        smallest: Deviation that counts as one at least.
        only_low: Whether high values are welcome.
    """

    words: str
    value: Callable[[PairAudit], float | None]
    shown: Callable[[PairAudit], str]
    smallest: float
    only_low: bool = False


def check_set(
    records: Sequence[CaseRecord], settings: AuditSettings | None = None
) -> list[SetFinding]:
    """Compare the cases of a set; the gravest findings come first.

    Args:
        records: Every case, also those whose own verdict is ``"reject"``.
        settings: From where on a case is unlike the others; None for the defaults.
    """
    settings = settings or AuditSettings()
    findings = [
        *_patients_in_several_splits(records),
        *_same_images(records),
        *_cases_unlike_the_others(records, settings),
    ]
    return sorted(findings, key=lambda finding: finding.verdict != "reject")


def _patients_in_several_splits(records: Sequence[CaseRecord]) -> Iterator[SetFinding]:
    by_patient: dict[str, list[CaseRecord]] = defaultdict(list)
    for record in records:
        by_patient[record.patient].append(record)
    for patient, cases in by_patient.items():
        splits = sorted({case.split for case in cases if case.split})
        if len(splits) > 1:
            yield SetFinding(
                tuple(case.case for case in cases),
                "reject",
                f"patient {patient} is in {' and '.join(splits)}, expected in one split; "
                "a patient that training sees tests nothing",
            )


@dataclass(frozen=True)
class _Image:
    """An image of a case, and what tells it from others."""

    record: CaseRecord
    name: str
    mark: str | None

    @property
    def sha256(self) -> str:
        return self.record.sha256[self.name]

    def likeness(self, other: _Image) -> str:
        """Say how an image is the same as another one."""
        if self.sha256 == other.sha256:
            return "the same files"
        same_voxels = voxels_hash(self.mark) and voxels_hash(self.mark) == voxels_hash(other.mark)
        return "the same voxels" if same_voxels else "nearly the same voxels"


def _same_images(records: Sequence[CaseRecord]) -> Iterator[SetFinding]:
    """Find images that occur in cases of different patients, or whole cases that occur twice."""
    groups = _groups_of_images(records)
    for images in _by_case(groups).values():
        yield from _twice_in_a_case(images)
    copies: set[str] = set()
    for finding in _whole_copies(groups):
        copies.update(finding.cases)
        yield finding
    told: set[tuple[str, ...]] = set()
    for group in groups:
        for finding in _shared_by_patients([i for i in group if i.record.case not in copies]):
            if finding.cases not in told:
                told.add(finding.cases)
                yield finding


Numbered = tuple[_Image, int]


def _by_case(groups: Sequence[Sequence[_Image]]) -> dict[str, list[Numbered]]:
    """The images of each case, each with the number of its group."""
    cases: dict[str, list[Numbered]] = defaultdict(list)
    for number, group in enumerate(groups):
        for image in group:
            cases[image.record.case].append((image, number))
    return cases


def _twice_in_a_case(images: Sequence[Numbered]) -> Iterator[SetFinding]:
    for (one, number), (two, other_number) in combinations(images, 2):
        if number == other_number:
            yield SetFinding(
                (one.record.case,),
                "reject",
                f"{one.name} and {two.name} are one image ({one.likeness(two)}); expected "
                "different ones",
            )
            return


def _whole_copies(groups: Sequence[Sequence[_Image]]) -> Iterator[SetFinding]:
    """Of cases with the same images under the same names, keep the best, then the first."""
    alike: dict[frozenset[tuple[str, int]], list[list[Numbered]]] = defaultdict(list)
    for images in _by_case(groups).values():
        alike[frozenset((image.name, number) for image, number in images)].append(images)
    for copies in alike.values():
        kept, *others = sorted(copies, key=lambda images: _rank(images[0][0].record))
        for images in others:
            how = images[0][0].likeness(kept[0][0])
            yield SetFinding(
                (images[0][0].record.case,),
                "reject",
                f"all images are those of case {kept[0][0].record.case} ({how}); expected each "
                "once",
            )


def _rank(record: CaseRecord) -> tuple[int, str]:
    """By the worst verdict of the case itself, then by name."""
    order: tuple[Verdict, ...] = ("use", "check", "reject")
    verdicts = [order.index(audit.verdict) for audit in record.audits.values()]
    return max(verdicts, default=len(order)), record.case


def _shared_by_patients(group: Sequence[_Image]) -> Iterator[SetFinding]:
    """Question one image in cases of several patients."""
    if len({image.record.patient for image in group}) < 2:
        return
    first = group[0]
    others = [image for image in group if image.record.patient != first.record.patient]
    listed = ", ".join(f"the {image.name} of {image.record.case}" for image in others[:_MAX_SHOWN])
    more = f" and of {len(others) - _MAX_SHOWN} more" if len(others) > _MAX_SHOWN else ""
    whose = "another patient" if len(others) == 1 else "other patients"
    yield SetFinding(
        _suspects([image.record for image in group]),
        "check",
        f"the {first.name} of {first.record.case} is {listed}{more} "
        f"({first.likeness(others[0])}), {whose}; expected images of one patient in each case",
    )


def _suspects(records: Sequence[CaseRecord]) -> tuple[str, ...]:
    """Of cases with one image: those whose own images disagree, if that leaves one patient."""
    doubtful = [record for record in records if not _fits(record)]
    fitting = {record.patient for record in records if _fits(record)}
    suspects = doubtful if len(fitting) == 1 else records
    return tuple(dict.fromkeys(record.case for record in suspects))


def _fits(record: CaseRecord) -> bool:
    return all(audit.verdict == "use" for audit in record.audits.values())


def _groups_of_images(records: Sequence[CaseRecord]) -> list[list[_Image]]:
    """Put images that are the same into one group each; masks are no images."""
    images = [
        _Image(record, name, _fingerprint(record, name))
        for record in sorted(records, key=lambda record: record.case)
        for name in record.sha256
        if name != MASK
    ]
    alike = [
        *_neighbours([image.sha256 for image in images]),
        *_neighbours([voxels_hash(image.mark) for image in images]),
        *nearly_the_same([image.mark for image in images]),
    ]
    rows, columns = np.array(alike, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(images), len(images)))
    groups: dict[int, list[_Image]] = defaultdict(list)
    numbers: Iterable[int] = connected_components(graph, directed=False)[1] if images else ()
    for image, number in zip(images, numbers, strict=True):
        groups[number].append(image)
    return list(groups.values())


def _neighbours(keys: Sequence[str | None]) -> Iterator[tuple[int, int]]:
    """Yield the positions of equal keys, each with the next."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        if key is not None:
            places[key].append(place)
    for same in places.values():
        yield from pairwise(same)


def _fingerprint(record: CaseRecord, image: str) -> str | None:
    """Audits compare each image with the first source."""
    if image in record.audits:
        return record.audits[image].fingerprints.get("target")
    first = next(iter(record.audits.values()), None)
    is_first_source = image == next(iter(record.sha256))
    return first.fingerprints.get("source") if first and is_first_source else None


def _cases_unlike_the_others(
    records: Sequence[CaseRecord], settings: AuditSettings
) -> Iterator[SetFinding]:
    audits = {r.case: r.audits[TARGET] for r in records if TARGET in r.audits}
    for kind in _comparisons():
        values = {case: kind.value(audit) for case, audit in audits.items()}
        known = {case: value for case, value in values.items() if value is not None}
        for case, deviations in _far_off(known, kind, settings).items():
            typical = min(known, key=lambda name: (abs(known[name] - _median(known)), name))
            yield SetFinding(
                (case,),
                "check",
                f"{kind.words} {kind.shown(audits[case])}, in the set typically "
                f"{kind.shown(audits[typical])}: {deviations:.0f} robust standard deviations off, "
                f"expected at most {settings.set_deviations:g}",
            )


def _median(values: dict[str, float]) -> float:
    return float(np.median(list(values.values())))


def _far_off(values: dict[str, float], kind: _Unlike, settings: AuditSettings) -> dict[str, float]:
    """How many robust deviations the values that are unlike the others are off."""
    if len(values) < settings.set_cases:
        return {}
    median = _median(values)
    spread = float(np.median([abs(value - median) for value in values.values()]))
    deviation = max(MAD_TO_DEVIATION * spread, kind.smallest)
    far = {case: (value - median) / deviation for case, value in values.items()}
    outliers = {
        case: abs(off)
        for case, off in far.items()
        if abs(off) > settings.set_deviations and not (kind.only_low and off > 0)
    }
    return outliers if len(outliers) <= max(1, MOST_OUTLIERS * len(values)) else {}


def _comparisons() -> Iterable[_Unlike]:
    yield _Unlike(
        "normalized mutual information after registration is",
        lambda audit: audit.values.get("normalized_mutual_information"),
        lambda audit: f"{audit.values['normalized_mutual_information']:.3f}",
        smallest=0.015,
        only_low=True,
    )
    for side in ("source", "target"):
        yield from _intensity_comparisons(side)
        for axis in ("x", "y", "z"):
            name = f"{side}_spacing_{axis}_mm"
            yield _Unlike(
                f"the {side}'s voxel spacing along {axis} is",
                _logarithm_of(name),
                _in_words(name, " mm"),
                smallest=0.15,
            )


def _intensity_comparisons(side: str) -> Iterator[_Unlike]:
    """CT by the median in HU, MR by the width of its values on a logarithmic scale."""
    median = f"{side}_p50"
    yield _Unlike(
        f"the {side}'s median in the body is",
        lambda audit: audit.values.get(median) if _is_ct(audit, side) else None,
        _in_words(median, " HU"),
        smallest=15.0,
    )
    high = f"{side}_p95"
    logarithm = _logarithm_of(high)
    yield _Unlike(
        f"the {side}'s 95 % quantile in the body is",
        lambda audit: None if _is_ct(audit, side) else logarithm(audit),
        _in_words(high, ""),
        smallest=0.25,
    )


def _is_ct(audit: PairAudit, side: str) -> bool:
    return f"{side}_clipped_low" in audit.values


def _logarithm_of(name: str) -> Callable[[PairAudit], float | None]:
    def logarithm(audit: PairAudit) -> float | None:
        value = audit.values.get(name)
        return float(np.log(value)) if value is not None and value > 0 else None

    return logarithm


def _in_words(name: str, unit: str) -> Callable[[PairAudit], str]:
    return lambda audit: f"{audit.values[name]:.4g}{unit}"
