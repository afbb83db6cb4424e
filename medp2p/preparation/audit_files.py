"""The audit as ``audit.csv``, ``audit.json`` and one page for people, ``audit.html``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from medp2p.config import AuditSettings
from medp2p.errors import ImageReadError
from medp2p.files import write_text
from medp2p.manifest import TARGET, Verdict
from medp2p.preparation.audit import VALUES, PairAudit
from medp2p.preparation.set_checks import SetFinding
from medp2p.report.audit_page import AuditCard, AuditRemark, audit_page

AUDIT_TABLE = "audit.csv"
AUDIT_FILE = "audit.json"
AUDIT_PAGE = "audit.html"

_FIRST_COLUMNS = ("case", "patient", "split", "verdict", "decision", "reasons")


@dataclass(frozen=True)
class AuditedCase:
    """A case as the audit shows it.

    Attributes:
        case: Unique name.
        patient: Whose images they are.
        split: Where it went, None if it is not used.
        verdict: The graver of the pair's own and the set's.
        decision: The user's, None if there is none.
        reasons: For the verdict.
        audits: By image; empty if the pair could not be examined.
        picture: JPEG file of `audit_picture`, None if there is none.
    """

    case: str
    patient: str
    split: str | None
    verdict: Verdict
    decision: Verdict | None
    reasons: tuple[str, ...]
    audits: dict[str, PairAudit]
    picture: Path | None


@dataclass(frozen=True)
class LeftOutPatient:
    """A patient of whom there is no pair, and why."""

    patient: str
    verdict: Literal["check", "reject"]
    reason: str


def write_audit_files(
    output: Path,
    cases: Sequence[AuditedCase],
    left_out: Sequence[LeftOutPatient],
    findings: Sequence[SetFinding],
    settings: AuditSettings,
    versions: Mapping[str, str],
) -> None:
    """Write the three files into the prepared folder; existing ones are replaced.

    Args:
        output: The prepared folder.
        cases: Every pair.
        left_out: Patients without a pair.
        findings: What the comparison of cases showed.
        settings: The thresholds.
        versions: Of the libraries that took part.

    Raises:
        OutputError: If one cannot be written.
        ImageReadError: If a picture cannot be read.
    """
    write_text(output / AUDIT_TABLE, _table(cases, left_out), overwrite=True)
    content = _content(cases, left_out, findings, settings, versions)
    write_text(output / AUDIT_FILE, json.dumps(content, indent=1) + "\n", overwrite=True)
    page = audit_page(
        [_card(case) for case in cases],
        [AuditRemark(finding.cases, finding.verdict, finding.reason) for finding in findings],
        [AuditRemark((one.patient,), one.verdict, one.reason) for one in left_out],
        settings=settings.model_dump(mode="json"),
        definitions=VALUES,
        versions=versions,
    )
    write_text(output / AUDIT_PAGE, page, overwrite=True)


def _table(cases: Sequence[AuditedCase], left_out: Sequence[LeftOutPatient]) -> str:
    """One row per pair and per left-out patient; images but the target have a prefix."""
    rows: list[dict[str, str]] = []
    for case in cases:
        row = {
            "case": case.case,
            "patient": case.patient,
            "split": case.split or "",
            "verdict": case.verdict,
            "decision": case.decision or "",
            "reasons": "; ".join(case.reasons),
        }
        for image, audit in case.audits.items():
            prefix = "" if image == TARGET else f"{image}_"
            row |= {f"{prefix}{n}": "" if v is None else f"{v}" for n, v in audit.values.items()}
        rows.append(row)
    for one in left_out:
        rows.append({"patient": one.patient, "verdict": one.verdict, "reasons": one.reason})
    columns = dict.fromkeys([*_FIRST_COLUMNS, *(name for row in rows for name in row)])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _content(
    cases: Sequence[AuditedCase],
    left_out: Sequence[LeftOutPatient],
    findings: Sequence[SetFinding],
    settings: AuditSettings,
    versions: Mapping[str, str],
) -> dict[str, Any]:
    return {
        "cases": [
            {
                "case": case.case,
                "patient": case.patient,
                "split": case.split,
                "verdict": case.verdict,
                "decision": case.decision,
                "reasons": list(case.reasons),
                "values": {image: audit.values for image, audit in case.audits.items()},
            }
            for case in cases
        ],
        "left_out": [asdict(one) for one in left_out],
        "findings": [asdict(finding) for finding in findings],
        "settings": settings.model_dump(mode="json"),
        "definitions": dict(VALUES),
        "versions": dict(versions),
    }


def _card(case: AuditedCase) -> AuditCard:
    audits = sorted(case.audits.items(), key=lambda item: item[0] != TARGET)
    return AuditCard(
        case=case.case,
        patient=case.patient,
        split=case.split or "",
        verdict=case.verdict,
        decision=case.decision or "",
        reasons=case.reasons,
        values={image: audit.values for image, audit in audits},
        picture=_picture(case.picture) if case.picture else None,
    )


def _picture(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageReadError(f"{path}: cannot be read: {error.strerror}; run it again") from error
