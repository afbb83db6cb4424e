"""``medp2p inspect``: what a folder or file holds, and what keeps it from being read."""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .progress import progress_bar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from medp2p.inspection import (
        GroupReport,
        Inspection,
        Patient,
        Place,
        StudyReport,
    )

WIDE = 130
"""Terminals of fewer columns get two lines per row."""

WIDTH_OF_FILES = 160
MAX_DAMAGED_SHOWN = 20


def inspect(
    path: Annotated[Path, typer.Argument(help="A folder, searched at any depth, or a file.")],
    show_patient: Annotated[
        bool,
        typer.Option(
            "--show-patient",
            help="Show patient name, id and study date, and descriptions in full.",
        ),
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show what a folder or file holds.

    DICOM studies and series, image files, and what keeps each from being read. Reads headers
    only.
    """
    import json

    from medp2p import inspection

    files = inspection.find_files(path)
    with progress_bar("looking", len(files), "file") as advance:
        found = inspection.inspect(path, show_patient=show_patient, files=files, on_file=advance)
    if as_json:
        typer.echo(json.dumps(_json_values(found), indent=1, default=str))
    else:
        _print(found)


def _json_values(found: "Inspection") -> dict[str, Any]:
    values = asdict(found)
    values["damaged"] = [{"path": file, "reason": reason} for file, reason in found.damaged]
    return values


def _print(found: "Inspection") -> None:
    from rich.console import Console

    free_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(width=None if free_width else WIDTH_OF_FILES, highlight=False)
    for study in found.studies:
        _print_line(console, _study_title(study, found))
        console.print(_series_table(study, console.width))
        _print_problems(console, _series_problems(study))
    if found.images:
        _print_line(console, "Image files")
        console.print(_image_table(found, console.width))
        problems = [(_shown_path(i.path, found), p) for i in found.images for p in i.problems]
        _print_problems(console, problems)
    if found.damaged:
        _print_line(console, f"Damaged: {len(found.damaged)} file(s); no folder with one is read")
        shown = found.damaged[:MAX_DAMAGED_SHOWN]
        _print_problems(console, [(_shown_path(file, found), reason) for file, reason in shown])
        if len(found.damaged) > len(shown):
            _print_line(console, f"  and {len(found.damaged) - len(shown)} more; --json lists all")
    if found.skipped:
        counts = (f"{count} × {reason}" for reason, count in found.skipped.items())
        _print_line(console, f"Left out: {', '.join(counts)}")
    _print_line(console, _summary(found))


def _study_title(study: "StudyReport", found: "Inspection") -> str:
    who = f": {_who(study.patient)}" if study.patient else ""
    where = "" if study.folder == found.path else f" in {_shown_path(study.folder, found)}"
    return f"Study {study.number}{who}{where}"


def _who(patient: "Patient") -> str:
    words = (patient.name, patient.patient_id, patient.study_date)
    return ", ".join(word or "–" for word in words)


def _summary(found: "Inspection") -> str:
    series = sum(len(study.series) for study in found.studies)
    return (
        f"{found.path}: files {found.files}, studies {len(found.studies)}, series {series}, "
        f"image files {len(found.images)}"
    )


def _series_table(study: "StudyReport", width: int) -> "Table":
    table = _table("series", "no.", "group", "", "description", "size", "plane", "contrast")
    for series in study.series:
        for group in series.groups:
            _add_row(
                table,
                series.key,
                _number(series.number),
                _number(group.number),
                series.modality or "–",
                _joined(width, series.description, _kind(group)),
                _group_size(group, width),
                _group_plane(group, width),
                group.contrast,
            )
    return table


def _image_table(found: "Inspection", width: int) -> "Table":
    table = _table("file", "", "size", "plane")
    for image in found.images:
        place = image.place
        _add_row(
            table,
            _shown_path(image.path, found),
            image.modality or "–",
            _joined(width, _times(place.size), _spacing(place)) if place else "–",
            _joined(width, place.plane, place.orientation) if place else "–",
        )
    return table


def _table(*headings: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(
            heading,
            no_wrap=heading in ("series", "size"),
            overflow="fold",
            min_width=len(heading),
        )
    return table


def _add_row(table: "Table", *cells: str) -> None:
    from rich.text import Text

    table.add_row(*(Text(cell) for cell in cells))


def _kind(group: "GroupReport") -> str:
    return group.kind.removeprefix("ORIGINAL\\PRIMARY\\").replace("\\", " ")


def _group_size(group: "GroupReport", width: int) -> str:
    if group.place is None:
        return _joined(width, f"{_times(group.size)}, {group.slices} images")
    volumes = f"{group.volumes} volumes" if group.volumes > 1 else ""
    return _joined(width, _times(group.place.size), _spacing(group.place), volumes)


def _group_plane(group: "GroupReport", width: int) -> str:
    return _joined(width, group.plane, group.place.orientation if group.place else "")


def _joined(width: int, *parts: str) -> str:
    return ("  " if width >= WIDE else "\n").join(part for part in parts if part)


def _times(numbers: Iterable[int]) -> str:
    return " × ".join(map(str, numbers))


def _spacing(place: "Place") -> str:
    return " × ".join(f"{length:.4g}" for length in place.spacing_mm) + " mm"


def _number(number: int | None) -> str:
    return "–" if number is None else str(number)


def _shown_path(path: Path, found: "Inspection") -> str:
    from medp2p.inspection import printable

    inside = path != found.path and path.is_relative_to(found.path)
    return printable(str(path.relative_to(found.path) if inside else path))


def _series_problems(study: "StudyReport") -> Iterator[tuple[str, str]]:
    for series in study.series:
        yield from ((series.key, problem) for problem in series.problems)
        for group in series.groups:
            name = f"{series.key} group {group.number}" if len(series.groups) > 1 else series.key
            if group.number is None:
                name = series.key
            yield from ((name, problem) for problem in group.problems)


def _print_problems(console: "Console", problems: Iterable[tuple[str, str]]) -> None:
    """Print each problem beside what it is about, wrapped under its own beginning."""
    from rich.table import Table
    from rich.text import Text

    from medp2p.inspection import printable

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(max_width=console.width // 3, overflow="fold")
    table.add_column(overflow="fold")
    for name, problem in problems:
        table.add_row(Text(f"! {name}"), Text(printable(problem)))
    if table.row_count:
        console.print(table)
    console.print()


def _print_line(console: "Console", line: str) -> None:
    from rich.text import Text

    from medp2p.inspection import printable

    console.print(Text(printable(line)))
