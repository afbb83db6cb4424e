"""Who goes with whom, who is left out, and why; as values and as text."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medp2p.inspection import printable
from medp2p.manifest import TARGET, Case
from medp2p.preparation.found_image import FoundImage

_PARTS_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Pair:
    """The images of one case.

    Attributes:
        case: Unique plain name; names the outputs.
        patient: Cases of one patient share a split.
        sources: By the names in ``data.sources``.
        target: The wanted image.
        mask: The body mask that came with them, if any.
        reasons: The rules that chose, in words.
        days_apart: Between the target and a source, the most of any source; None where a date
            is not known.
        aligned: Whether positions agree: one frame of reference or one grid.
        stated: The row of the manifest that it comes from, if it comes from one.
    """

    case: str
    patient: str
    sources: dict[str, FoundImage]
    target: FoundImage
    mask: FoundImage | None
    reasons: tuple[str, ...]
    days_apart: int | None
    aligned: bool
    stated: Case | None = None


@dataclass(frozen=True, eq=False)
class LeftOut:
    """A patient, or a visit of one, of whom there is no pair.

    Attributes:
        patient: Name of the patient within this run.
        verdict: ``"check"`` if a person has to choose, ``"reject"`` if there is nothing to choose.
        reason: Why, and what to do.
        images: What there is.
    """

    patient: str
    verdict: Literal["check", "reject"]
    reason: str
    images: tuple[FoundImage, ...]


@dataclass(frozen=True, eq=False)
class Unused:
    """An image that no rule chose.

    Attributes:
        image: The image.
        reason: Why not.
    """

    image: FoundImage
    reason: str


@dataclass(frozen=True, eq=False)
class Plan:
    """Who goes with whom.

    Attributes:
        pairs: By patient and case.
        left_out: By patient.
        unused: Images of patients with a pair, and images of nobody, by path.
        notes: What is noteworthy of all of it.
    """

    pairs: tuple[Pair, ...]
    left_out: tuple[LeftOut, ...]
    unused: tuple[Unused, ...]
    notes: tuple[str, ...] = ()


def plan_rows(plan: Plan) -> dict[str, list[dict[str, Any]]]:
    """Return a plan as values for JSON: ``pairs``, ``left_out``, ``unused`` and ``notes``."""
    return {
        "pairs": [_row_of_pair(pair) for pair in plan.pairs],
        "left_out": [
            {
                "patient": left.patient,
                "verdict": left.verdict,
                "reason": left.reason,
                "images": [_row_of_image(image) for image in left.images],
            }
            for left in plan.left_out
        ],
        "unused": [_row_of_image(u.image) | {"reason": u.reason} for u in plan.unused],
        "notes": [{"note": note} for note in plan.notes],
    }


def _row_of_pair(pair: Pair) -> dict[str, Any]:
    return {
        "case": pair.case,
        "patient": pair.patient,
        "sources": {name: _row_of_image(image) for name, image in pair.sources.items()},
        "target": _row_of_image(pair.target),
        "mask": str(pair.mask.path) if pair.mask else None,
        "days_apart": pair.days_apart,
        "aligned": pair.aligned,
        "reasons": list(pair.reasons),
    }


def _row_of_image(image: FoundImage) -> dict[str, Any]:
    grid = image.grid
    return {
        "path": str(image.path),
        "series": image.series,
        "modality": image.modality,
        "description": image.description,
        "contrast": image.contrast,
        "size": list(grid.shape) if grid else None,
        "spacing_mm": [round(float(s), 4) for s in grid.spacing_mm] if grid else None,
        "problems": list(image.problems),
    }


def plan_table(plan: Plan, width: int = 160) -> str:
    """Show a plan as text, for ``--dry-run``.

    Args:
        plan: The plan.
        width: Characters per line.
    """
    from rich.console import Console

    text = io.StringIO()
    console = Console(file=text, width=width, highlight=False, color_system=None, emoji=False)
    if plan.pairs:
        sources = list(plan.pairs[0].sources)
        rows = [_cells_of_pair(pair) for pair in plan.pairs]
        _print_table(
            console, ("case", "patient", *sources, TARGET, "days", "positions", "reason"), rows
        )
    if plan.left_out:
        rows = [
            (left.patient, left.verdict, left.reason, _where(left.images)) for left in plan.left_out
        ]
        _print_table(console, ("left out", "verdict", "reason", "where"), rows)
    if plan.unused:
        unused = [(u.image.patient or "–", _shown(u.image), u.reason) for u in plan.unused]
        _print_table(console, ("patient", "not used", "reason"), unused)
    for note in plan.notes:
        console.print(f"Note: {printable(note)}", markup=False)
    counts = Counter(left.verdict for left in plan.left_out)
    console.print(
        f"pairs {len(plan.pairs)}, to check {counts['check']}, rejected {counts['reject']}, "
        f"images not used {len(plan.unused)}"
    )
    return text.getvalue()


def _cells_of_pair(pair: Pair) -> tuple[str, ...]:
    return (
        pair.case,
        pair.patient,
        *(_shown(image) for image in pair.sources.values()),
        _shown(pair.target),
        "–" if pair.days_apart is None else str(pair.days_apart),
        "agree" if pair.aligned else "to register",
        ", ".join(pair.reasons),
    )


def _where(images: Sequence[FoundImage]) -> str:
    """The end of the path that all images share."""
    shared = Path(os.path.commonpath([image.path.absolute() for image in images]))
    parts = shared.parts[-_PARTS_SHOWN:]
    return str(Path("…", *parts) if len(parts) < len(shared.parts) else shared)


def _shown(image: FoundImage) -> str:
    words = [image.label]
    if image.grid:
        words.append("×".join(map(str, image.grid.shape)))
        words.append(" × ".join(f"{s:.4g}" for s in image.grid.spacing_mm) + " mm")
    return ", ".join(words) if image.description or image.series else str(image.path)


def _print_table(console: Any, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="")
    for heading in headings:
        table.add_column(heading, overflow="fold", min_width=min(len(heading), 10))
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)
    console.print()
