"""What the journal adds up to: for a person, a spreadsheet, a program."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

from medp2p.conversion.claims import PRIVATE_FOLDER
from medp2p.conversion.hooks import FAILED, WAITS
from medp2p.conversion.journal import Event, last_of_each
from medp2p.conversion.records import content_of
from medp2p.errors import OutputError
from medp2p.files import output_errors, write_text
from medp2p.results import FORMULA_STARTS

SUMMARY_TABLE = "summary.csv"
SUMMARY_FILE = "summary.json"
RATE_WINDOW_SECONDS = 600.0
"""The rate is that of the last ten minutes of the run."""

HASHES_KEPT = 10
"""So many runs may write a summary at the same moment."""

_STATES = ("done", "skipped", "failed", "taken")
_COLUMNS = ("scan", "state", "code", "reason", "outputs", "seconds", "guard_score", "clipped")


@dataclass(frozen=True)
class Progress:
    """How far a folder of results is.

    Attributes:
        counts: Scans by state: ``done``, ``skipped``, ``failed``, and ``taken`` for those that a
            run began and has not ended.
        codes: How many skipped and failed scans have which reason, the most frequent first.
        total: Scans on the worklist of the latest run, or of the latest of each shard.
        per_hour: Scans that were done per hour, lately; 0 if none was.
        seconds: Median time from taking a scan to its result; None if none is done.
        ended: How the latest run, or the latest of each shard, ended; None if one has not said.
        hooks_failed: For so many scans the command after them has failed.
        hooks_waiting: For so many it is still to be run, or was not run to its end.
    """

    counts: dict[str, int]
    codes: dict[str, int]
    total: int
    per_hour: float
    seconds: float | None
    ended: str | None
    hooks_failed: int
    hooks_waiting: int


def progress_of(events: Sequence[Event]) -> Progress:
    """Add up the events of a journal, in order."""
    last = last_of_each(events)
    states: Counter[str] = Counter(event.kind for event in last.values())
    codes = Counter(e.code for e in last.values() if e.kind in ("skipped", "failed"))
    runs = _latest_runs(events)
    ends = {event.run: event.code for event in events if event.kind == "ended"}
    endings = [ends.get(run.run) for run in runs]
    hooks = Counter({e.scan: e.code for e in events if e.kind == "hook"}.values())
    seconds = [float(e.details["seconds"]) for e in last.values() if "seconds" in e.details]
    return Progress(
        counts={state: states.get(state, 0) for state in _STATES},
        codes=dict(codes.most_common()),
        total=sum(int(run.details.get("scans", 0)) for run in runs),
        per_hour=_per_hour(events),
        seconds=median(seconds) if seconds else None,
        ended=None if None in endings else ", ".join(sorted({str(end) for end in endings})),
        hooks_failed=hooks[FAILED],
        hooks_waiting=hooks[WAITS],
    )


def _latest_runs(events: Sequence[Event]) -> list[Event]:
    """The latest run; if it did one shard of several, the latest of each shard."""
    runs = [event for event in events if event.kind == "run"]
    count = str(runs[-1].details.get("part", "")).partition("/")[2] if runs else ""
    if not count:
        return runs[-1:]
    shards = {str(run.details.get("part", "")): run for run in runs}
    return [run for part, run in shards.items() if part.partition("/")[2] == count]


def _per_hour(events: Sequence[Event]) -> float:
    """Scans done per hour in the last `RATE_WINDOW_SECONDS` of the journal."""
    times = [datetime.fromisoformat(event.time).timestamp() for event in events]
    done = [t for t, event in zip(times, events, strict=True) if event.kind == "done"]
    if not done:
        return 0.0
    began = max(min(times), max(times) - RATE_WINDOW_SECONDS)
    span = max(times) - began
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
    if progress.hooks_waiting:
        lines.append(f"the command after a scan is still to be run for {progress.hooks_waiting}")
    width = max((len(str(n)) for n in progress.codes.values()), default=0)
    lines += [f"  {count:>{width}}  {code}" for code, count in progress.codes.items()]
    return "\n".join(lines)


def write_summary(output: Path, events: Sequence[Event]) -> None:
    """Write one row per scan as CSV, and counts with all rows as JSON.

    Raises:
        OutputError: If they cannot be written, or something is there that no run has written.
    """
    rows = [_row(event) for _, event in sorted(last_of_each(events).items())]
    progress = progress_of(events)
    values = {
        "counts": progress.counts,
        "reasons": progress.codes,
        "hooks_failed": progress.hooks_failed,
        "hooks_waiting": progress.hooks_waiting,
        "scans": rows,
    }
    texts = {SUMMARY_TABLE: _csv(rows), SUMMARY_FILE: json.dumps(values, indent=1) + "\n"}
    for name, text in texts.items():
        _write_over_own(output, name, text)


def refuse_foreign_summary(output: Path) -> None:
    """Look before a run whether its summary can be written.

    Raises:
        OutputError: If something is there that no run has written.
    """
    for name in (SUMMARY_TABLE, SUMMARY_FILE):
        _own_hashes(output, name)


def _write_over_own(output: Path, name: str, text: str) -> None:
    known = _own_hashes(output, name)
    new = hashlib.sha256(text.encode()).hexdigest()
    note = "\n".join([*known[1 - HASHES_KEPT :], new]) + "\n"
    write_text(output / PRIVATE_FOLDER / f"{name}.sha256", note, overwrite=True)
    write_text(output / name, text, overwrite=True)


def _own_hashes(output: Path, name: str) -> list[str]:
    """Hashes of what runs have written to a file; refuses what they have not."""
    path, note = output / name, output / PRIVATE_FOLDER / f"{name}.sha256"
    with output_errors(path):
        known = note.read_text(encoding="ascii").split() if note.exists() else []
        if path.exists() and content_of(path).sha256 not in known:
            raise OutputError(f"{path}: no run has written what is there; move it away")
    return known


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
