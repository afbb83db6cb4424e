"""What the journal adds up to: for a person, a spreadsheet, a program."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

from medp2p.conversion.journal import Event, last_of_each
from medp2p.files import write_text
from medp2p.results import FORMULA_STARTS

SUMMARY_TABLE = "summary.csv"
SUMMARY_FILE = "summary.json"
RATE_WINDOW_SECONDS = 600.0
"""The rate is that of the last ten minutes of the run."""

_STATES = ("done", "skipped", "failed", "taken")
_COLUMNS = ("scan", "state", "code", "reason", "outputs", "seconds", "guard_score", "clipped")


@dataclass(frozen=True)
class Progress:
    """How far a folder of results is.

    Attributes:
        counts: Scans by state: ``done``, ``skipped``, ``failed``, and ``taken`` for those that a
            run began and has not ended.
        codes: How many skipped and failed scans have which reason, the most frequent first.
        total: Scans on the worklist of the latest run.
        per_hour: Scans that were done per hour, lately; 0 if none was.
        seconds: Median time from taking a scan to its result; None if none is done.
        ended: How the latest run ended, None if it has not said so.
        hooks_failed: For so many scans the command after them has not succeeded.
    """

    counts: dict[str, int]
    codes: dict[str, int]
    total: int
    per_hour: float
    seconds: float | None
    ended: str | None
    hooks_failed: int


def progress_of(events: Sequence[Event]) -> Progress:
    """Add up the events of a journal, in order of time."""
    last = last_of_each(events)
    states: Counter[str] = Counter(event.kind for event in last.values())
    codes = Counter(e.code for e in last.values() if e.kind in ("skipped", "failed"))
    runs = [event for event in events if event.kind == "run"]
    ends = [
        event for event in events if event.kind == "ended" and runs and event.run == runs[-1].run
    ]
    seconds = [float(e.details["seconds"]) for e in last.values() if "seconds" in e.details]
    return Progress(
        counts={state: states.get(state, 0) for state in _STATES},
        codes=dict(codes.most_common()),
        total=int(runs[-1].details.get("scans", 0)) if runs else 0,
        per_hour=_per_hour(events),
        seconds=median(seconds) if seconds else None,
        ended=(ends[-1].code or "finished") if ends else None,
        hooks_failed=_hooks_failed(events),
    )


def _hooks_failed(events: Sequence[Event]) -> int:
    last = {event.scan: event.code for event in events if event.kind == "hook"}
    return sum(map(bool, last.values()))


def _per_hour(events: Sequence[Event]) -> float:
    """Scans done per hour in the last `RATE_WINDOW_SECONDS` of the journal."""
    times = [datetime.fromisoformat(event.time).timestamp() for event in events]
    done = [t for t, event in zip(times, events, strict=True) if event.kind == "done"]
    if not done:
        return 0.0
    began = max(times[0], times[-1] - RATE_WINDOW_SECONDS)
    span = times[-1] - began
    return 3600 * sum(t >= began for t in done) / span if span > 0 else 0.0


def progress_text(progress: Progress) -> str:
    """Format for a person: counts, rate, and reasons by how often they occur."""
    counts = progress.counts
    finished = counts["done"] + counts["skipped"] + counts["failed"]
    parts = [f"{counts[state]} {state}" for state in ("done", "skipped", "failed")]
    if counts["taken"]:
        parts.append(f"{counts['taken']} under way or cut off")
    lines = [f"{finished} of {max(progress.total, finished)} scans: {', '.join(parts)}"]
    if progress.seconds is not None:
        lines.append(f"{progress.per_hour:.0f} scans an hour, {progress.seconds:.1f} s a scan")
    lines.append(f"the latest run {progress.ended or 'goes on, or was cut off'}")
    if progress.hooks_failed:
        lines.append(f"the command after a scan failed for {progress.hooks_failed}")
    width = max((len(str(n)) for n in progress.codes.values()), default=0)
    lines += [f"  {count:>{width}}  {code}" for code, count in progress.codes.items()]
    return "\n".join(lines)


def write_summary(output: Path, events: Sequence[Event]) -> None:
    """Write one row per scan as CSV, and counts with all rows as JSON.

    Raises:
        OutputError: If they cannot be written.
    """
    rows = [_row(event) for _, event in sorted(last_of_each(events).items())]
    write_text(output / SUMMARY_TABLE, _csv(rows), overwrite=True)
    progress = progress_of(events)
    values = {
        "counts": progress.counts,
        "reasons": progress.codes,
        "hooks_failed": progress.hooks_failed,
        "scans": rows,
    }
    write_text(output / SUMMARY_FILE, json.dumps(values, indent=1) + "\n", overwrite=True)


def _csv(rows: Sequence[dict[str, str | float]]) -> str:
    """Text that a spreadsheet would take for a formula gets an apostrophe."""
    text = io.StringIO()
    table = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue()


def _cell(value: str | float) -> str | float:
    is_formula = isinstance(value, str) and value.startswith(FORMULA_STARTS)
    return f"'{value}" if is_formula else value


def _row(event: Event) -> dict[str, str | float]:
    quality = event.details.get("quality", {})
    return {
        "scan": event.scan,
        "state": event.kind,
        "code": event.code,
        "reason": event.reason,
        "outputs": " ".join(event.details.get("outputs", {})),
        "seconds": event.details.get("seconds", ""),
        "guard_score": quality.get("guard_score", ""),
        "clipped": quality.get("clipped", ""),
    }
