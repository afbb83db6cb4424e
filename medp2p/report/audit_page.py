"""The audit of a training set as one page that a person can skim in minutes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medp2p.report.page import render
from medp2p.report.pair_picture import COLUMNS, ROWS

VERDICTS = ("reject", "check", "use")
"""From the worst."""

KEY_NUMBERS = {
    "residual_mm": ("misalignment", "mm"),
    "parts_mm": ("parts disagree", "mm"),
    "lost_parts": ("lost parts", "%"),
    "surface_mm": ("surfaces apart", "mm"),
    "body_covered": ("covered", "%"),
    "normalized_mutual_information": ("mutual information", ""),
    "turned_degrees": ("turned", "°"),
    "shifted_mm": ("shifted", "mm"),
}
"""What a card shows at once: name of a value, its label and its unit."""


@dataclass(frozen=True)
class AuditCard:
    """A case on the page.

    Attributes:
        case: Its name.
        patient: Whose images they are.
        split: Where it went; empty if it is not used.
        verdict: One of `VERDICTS`.
        decision: The user's, or empty.
        reasons: For the verdict.
        values: By image and name; the first image's are the key numbers.
        picture: A JPEG of `pair_picture`, or None.
    """

    case: str
    patient: str
    split: str
    verdict: str
    decision: str
    reasons: tuple[str, ...]
    values: Mapping[str, Mapping[str, float | None]]
    picture: bytes | None

    @property
    def key_values(self) -> Mapping[str, float | None]:
        """The values that the card shows at once."""
        return next(iter(self.values.values()), {})

    @property
    def residual(self) -> float:
        """What is left of the misalignment, for sorting; unknown comes first."""
        value = self.key_values.get("residual_mm")
        return 1e6 if value is None else value


@dataclass(frozen=True)
class AuditRemark:
    """Something about the set, or a patient of whom there is no pair."""

    names: tuple[str, ...]
    verdict: str
    reason: str


def audit_page(
    cards: Sequence[AuditCard],
    findings: Sequence[AuditRemark],
    left_out: Sequence[AuditRemark],
    *,
    settings: Mapping[str, Any],
    definitions: Mapping[str, str],
    versions: Mapping[str, str],
) -> str:
    """Write the page; the same content gives the same text.

    Args:
        cards: The cases.
        findings: What the comparison of cases showed.
        left_out: Patients without a pair.
        settings: The thresholds.
        definitions: What each value means.
        versions: Of the libraries that took part.
    """
    ordered = sorted(cards, key=lambda card: (VERDICTS.index(card.verdict), card.case))
    counts = Counter(card.verdict for card in cards)
    return render(
        "audit.html",
        cards=ordered,
        counts={verdict: counts[verdict] for verdict in VERDICTS},
        decided=sum(card.decision not in ("", card.verdict) for card in cards),
        used=sum((card.decision or card.verdict) == "use" for card in cards),
        findings=findings,
        left_out=left_out,
        settings=settings,
        definitions=definitions,
        versions=versions,
        key_numbers=KEY_NUMBERS,
        columns=COLUMNS,
        rows=ROWS,
    )
