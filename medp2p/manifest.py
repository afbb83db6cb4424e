"""The list of cases of a data set: who has which images, and in which split.

On disk a CSV with one row per case: ``case, patient, split, source_<name> …, target, mask``.
Paths are relative to the CSV's folder or absolute; an empty mask is made from the source.

`medp2p prepare` adds ``series_<name>`` (which DICOM series of a folder), ``transform_<name>``
(how an image lies against the first source), ``fold``, ``verdict`` (use, check or reject) and
``decision``, which is the user's and overrides the verdict. ``<name>`` is a source or ``target``.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from medp2p.alignment import Alignment, place, read_alignment, resample_aligned
from medp2p.errors import ImageReadError, ManifestError
from medp2p.files import files_below, write_text
from medp2p.io import (
    DicomOptions,
    image_name,
    image_suffix,
    is_dicom_file,
    is_image,
    read_volume,
)
from medp2p.splits import Split
from medp2p.volume import Grid, Volume

Verdict = Literal["use", "check", "reject"]

TARGET = "target"
"""The target's name among a case's images."""


@dataclass(frozen=True)
class Case:
    """One pair of images of one patient.

    Attributes:
        name: Unique in the data set; names the outputs.
        patient: Cases of one patient share a split.
        split: ``"train"``, ``"validation"`` or ``"test"``; None for a case that is not used.
        sources: Path of each source contrast by name, in channel order.
        target: Path of the wanted image.
        mask: Path of the body mask, or None.
        series: By image, which DICOM series lies at its path: ``KEY`` or ``KEY/GROUP``.
        transforms: By image, the file with its `Alignment` to the first source; none where the
            positions agree.
        fold: Of the cross-validation, from 0.
        verdict: What the audit says of the pair.
        decision: What the user says of it.
    """

    name: str
    patient: str
    split: Split | None
    sources: dict[str, Path]
    target: Path
    mask: Path | None
    series: dict[str, str] = field(default_factory=dict)
    transforms: dict[str, Path] = field(default_factory=dict)
    fold: int | None = None
    verdict: Verdict = "use"
    decision: Verdict | None = None

    @property
    def used(self) -> bool:
        """Whether the case is for training, validation or test."""
        return (self.decision or self.verdict) == "use"

    @property
    def images(self) -> dict[str, Path]:
        """Paths of the sources and of the target, by name."""
        return {**self.sources, TARGET: self.target}


def dicom_options(series: str, files: tuple[Path, ...] = ()) -> DicomOptions:
    """Return the options that read ``KEY`` or ``KEY/GROUP``, as a manifest names a series."""
    key, _, group = series.partition("/")
    return DicomOptions(series=key or None, group=int(group) if group else None, files=files)


def read_case_image(case: Case, name: str) -> Volume:
    """Read an image of a case as its file has it.

    Args:
        case: The case.
        name: A source's name or ``"target"``.

    Raises:
        ImageReadError: If it cannot be read.
        GeometryError: If its voxels cannot be placed.
    """
    return read_volume(case.images[name], dicom=dicom_options(case.series.get(name, "")))


def read_sources(case: Case) -> list[Volume]:
    """Read the sources of a case, each in the place where the first one has the patient.

    Raises:
        ImageReadError: If one cannot be read.
        GeometryError: If voxels cannot be placed.
    """
    return align_sources(case, {name: read_case_image(case, name) for name in case.sources})


def align_sources(case: Case, volumes: Mapping[str, Volume]) -> list[Volume]:
    """Put every source into the place where the first one has the patient.

    Args:
        case: Says how they lie against each other.
        volumes: The sources by name, the first one first.

    Raises:
        ImageReadError: If the file of an alignment is missing or damaged.
    """
    first = next(iter(volumes.values()))
    aligned = []
    for name, volume in volumes.items():
        alignment = case_alignment(case, name)
        if alignment is None:
            aligned.append(volume)
        elif alignment.deformation is None:
            aligned.append(place(volume, alignment))
        else:
            aligned.append(aligned_volume(volume, alignment, first.grid))
    return aligned


def case_alignment(case: Case, name: str) -> Alignment | None:
    """Return how an image lies against the first source, None where the positions agree.

    Raises:
        ImageReadError: If the file with it is missing or damaged.
    """
    return read_alignment(case.transforms[name]) if name in case.transforms else None


def aligned_volume(volume: Volume, alignment: Alignment, grid: Grid) -> Volume:
    """Resample an image once, linearly, to a grid in the first source's world."""
    array = resample_aligned(volume, alignment, grid)
    return replace(volume, array=array, affine=grid.affine)


def read_manifest(path: Path, *, every: bool = False) -> list[Case]:
    """Read a manifest.

    Args:
        path: The CSV file.
        every: Also return the cases that are not used, by verdict or decision.

    Raises:
        ManifestError: If a column or file is missing, a split is unknown, a case is there
            twice, or a patient is in two splits.
    """
    columns, rows = read_rows(path)
    sources = _source_columns(columns, path)
    cases = [_case_of_row(row, sources, path) for row in rows]
    used = [case for case in cases if case.used]
    check_cases(used, path)
    _refuse_if_not_as_prepared(path, used)
    return cases if every else used


def read_split(path: Path, split: str) -> tuple[list[Case], dict[str, str]]:
    """Read the used cases of one split; one that is wrong does not hide the others.

    Args:
        path: The CSV file.
        split: Which cases, or ``"all"``.

    Returns:
        The cases, and for those that are there twice, lack a file or have a wrong entry why.

    Raises:
        ManifestError: If the file cannot be read, a column is missing or a patient is in two
            splits.
    """
    columns, rows = read_rows(path)
    sources = _source_columns(columns, path)
    cases, failures = [], {}
    times = Counter(row["case"] for row in rows)
    for row in rows:
        try:
            case = _case_of_row(row, sources, path)
            if times[case.name] > 1:
                raise ManifestError(
                    f"{path}: case {case.name} is there {times[case.name]} times; give each its "
                    "own name"
                )
            if case.used:
                _refuse_missing_file(case, path)
                cases.append(case)
        except ManifestError as error:
            if split in (row["split"], "all"):
                failures[row["case"] or "without a name"] = str(error)
    if cases:
        check_cases(cases, path)
    _refuse_if_not_as_prepared(path, cases)
    return [case for case in cases if split in (case.split, "all")], failures


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read a table with a heading, divided by commas, semicolons or tabs.

    Returns:
        The columns and the rows, without spaces around values.

    Raises:
        ManifestError: If it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        heading = text.partition("\n")[0]
        reader = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=heading.count))
        lines = [[value.strip() for value in line] for line in reader if any(line)]
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file; make one with `medp2p manifest`") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot be read as a CSV file: {error}") from error
    columns, *values = lines or [[]]
    width = len(columns)
    rows = [dict(zip(columns, [*line, *[""] * width][:width], strict=True)) for line in values]
    return columns, rows


def _source_columns(columns: Sequence[str], path: Path) -> list[str]:
    """Return the columns of sources, if all that a manifest needs are there."""
    sources = [column for column in columns if column.startswith("source_")]
    missing = {"case", "split", "target"} - set(columns)
    if missing or not sources:
        lacking = ", ".join(sorted(missing) or ["source_<name>"])
        raise ManifestError(
            f"{path}: the column {lacking} is missing, found {', '.join(columns) or 'none'}; "
            "expected case, patient, split, source_<name>, target, mask"
        )
    return sources


def _refuse_if_not_as_prepared(path: Path, used: Sequence[Case]) -> None:
    """Refuse a prepared folder's manifest if its index, which training reads, says otherwise."""
    try:
        index = json.loads((path.parent / "index.json").read_text(encoding="utf-8"))
        prepared = {case["name"]: (case["split"], case["fold"]) for case in index["cases"]}
    except (OSError, ValueError, KeyError, TypeError):
        return
    if (path.parent / "config.yaml").is_file() and prepared != {
        case.name: (case.split, case.fold) for case in used
    }:
        raise ManifestError(
            f"{path}: was changed since `medp2p prepare` wrote it; run that again, so that "
            "training knows too"
        )


def write_manifest(
    path: Path, cases: Sequence[Case], *, audited: bool = False, overwrite: bool = False
) -> None:
    """Write a manifest; paths inside its folder are relative to it, others absolute.

    Args:
        path: The CSV file.
        cases: One row each.
        audited: Whether to write verdicts and a column for the user's decisions.
        overwrite: Whether an existing file may be replaced.

    Raises:
        OutputError: If it exists already or cannot be written.
    """
    rows = [_row_of_case(case, path.parent.resolve(), audited) for case in cases]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    columns.sort(key=_column_order)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue(), overwrite=overwrite)


_FIRST_COLUMNS = ("case", "patient", "split", "fold", "verdict", "decision")
_KINDS_OF_COLUMN = ("source_", "target", "mask", "series_", "transform_")


def _column_order(column: str) -> int:
    if column in _FIRST_COLUMNS:
        return _FIRST_COLUMNS.index(column)
    kind = next(i for i, start in enumerate(_KINDS_OF_COLUMN) if column.startswith(start))
    return len(_FIRST_COLUMNS) + kind


def _row_of_case(case: Case, folder: Path, audited: bool) -> dict[str, str]:
    def shown(path: Path) -> str:
        place = path.resolve()
        return str(place.relative_to(folder) if place.is_relative_to(folder) else place)

    row = {
        "case": case.name,
        "patient": case.patient,
        "split": case.split or "",
        **{f"source_{name}": shown(path) for name, path in case.sources.items()},
        TARGET: shown(case.target),
        "mask": shown(case.mask) if case.mask else "",
        **{f"series_{name}": series for name, series in case.series.items()},
        **{f"transform_{name}": shown(path) for name, path in case.transforms.items()},
    }
    if case.fold is not None:
        row["fold"] = str(case.fold)
    if audited:
        row |= {"verdict": case.verdict, "decision": case.decision or ""}
    return row


def check_cases(cases: Sequence[Case], where: Path) -> None:
    """Refuse a data set that does not hang together.

    Raises:
        ManifestError: If it is empty, a case is there twice, a patient is in two splits, a
            file does not exist, or an image belongs to two cases.
    """
    if not cases:
        raise ManifestError(f"{where}: no cases; expected one row or folder per case")
    twice = [name for name, count in Counter(case.name for case in cases).items() if count > 1]
    if twice:
        raise ManifestError(f"{where}: case {twice[0]} is there twice; give each its own name")
    names = list(cases[0].sources)
    for case in cases:
        if list(case.sources) != names:
            raise ManifestError(
                f"{where}: case {case.name} has the sources {', '.join(case.sources)}, case "
                f"{cases[0].name} has {', '.join(names)}; expected the same in the same order"
            )
    splits: dict[str, Case] = {}
    for case in (case for case in cases if case.used):
        first = splits.setdefault(case.patient, case)
        if first.split != case.split:
            raise ManifestError(
                f"{where}: patient {case.patient} is in two splits (case {first.name} in "
                f"{first.split}, case {case.name} in {case.split}); put all cases of a patient "
                "into one split"
            )
    owners: dict[tuple[Path, str], str] = {}
    for case in cases:
        _refuse_missing_file(case, where)
        for name, file in case.images.items():
            image = (file.resolve(), case.series.get(name, ""))
            owner = owners.setdefault(image, case.name)
            if owner != case.name:
                raise ManifestError(f"{where}: {file} is an image of {owner} and of {case.name}")


def _refuse_missing_file(case: Case, where: Path) -> None:
    for file in (*case.sources.values(), case.target, case.mask):
        if file is not None and not file.exists():
            raise ManifestError(f"{where}: case {case.name}: {file} does not exist")


def _case_of_row(row: dict[str, str], sources: Sequence[str], path: Path) -> Case:
    name, split = row["case"], row["split"]
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise ManifestError(f"{path}: {name!r} is no case name; expected a plain name")
    verdict = _one_of(row.get("verdict") or "use", Verdict, f"{path}: case {name}: verdict")
    decision = (row.get("decision") or "").lower()
    if decision:
        decision = _one_of(decision, Verdict, f"{path}: case {name}: decision")
    if split or (decision or verdict) == "use":
        _one_of(split, Split, f"{path}: case {name}: split")
    for column in (*sources, TARGET):
        if not row[column]:
            raise ManifestError(f"{path}: case {name}: the column {column} is empty")
    names = [*(column.removeprefix("source_") for column in sources), TARGET]
    mask, fold = row.get("mask"), row.get("fold")
    if fold and not fold.isdecimal():
        raise ManifestError(f"{path}: case {name}: fold {fold!r}; expected a number from 0")
    return Case(
        name=name,
        patient=row.get("patient") or name,
        split=split or None,  # type: ignore[arg-type]
        sources={c.removeprefix("source_"): path.parent / row[c] for c in sources},
        target=path.parent / row[TARGET],
        mask=path.parent / mask if mask else None,
        series={n: series for n in names if (series := row.get(f"series_{n}"))},
        transforms={n: path.parent / file for n in names if (file := row.get(f"transform_{n}"))},
        fold=int(fold) if fold else None,
        verdict=verdict,  # type: ignore[arg-type]
        decision=decision or None,  # type: ignore[arg-type]
    )


def _one_of(value: str, kind: Any, where: str) -> str:
    if value not in get_args(kind):
        raise ManifestError(f"{where} {value!r}; expected {', '.join(get_args(kind))}")
    return value


def is_named_image(path: Path, names: Sequence[str]) -> bool:
    """Say whether a path is an image of one of these names.

    Such are a file of an image format, a DICOM file with the suffix ``.dcm`` or none, and a
    folder that holds DICOM files at any depth.

    Raises:
        ImageReadError: If a file or folder of that name cannot be read.
    """
    if image_name(path) not in names:
        return False
    if path.is_dir():
        return any(map(_is_dicom, files_below(path)))
    return path.is_file() and (is_image(path) if image_suffix(path) else _is_dicom(path))


def _is_dicom(path: Path) -> bool:
    try:
        return is_dicom_file(path)
    except OSError as error:
        raise ImageReadError(f"{path}: cannot be read: {error.strerror or error}") from error
