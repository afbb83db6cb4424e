"""The list of cases of a data set: who has which images, and in which split.

On disk a CSV with one row per case: ``case, patient, split, source_<name> …, target, mask``.
Paths are relative to the CSV's folder or absolute; an empty mask is made from the source.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from medp2p.config import DataSettings
from medp2p.errors import ImageReadError, ManifestError
from medp2p.files import files_below, write_text
from medp2p.io import READ_SUFFIXES, image_name, image_suffix, is_dicom_file, is_image

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Case:
    """One pair of images of one patient.

    Attributes:
        name: Unique in the data set; names the outputs.
        patient: Cases of one patient share a split.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        sources: Path of each source contrast by name, in channel order.
        target: Path of the wanted image.
        mask: Path of the body mask, or None.
    """

    name: str
    patient: str
    split: Split
    sources: dict[str, Path]
    target: Path
    mask: Path | None


def load_cases(data: Path, settings: DataSettings) -> list[Case]:
    """Read a manifest (``.csv``), or scan a folder of case folders.

    Raises:
        ManifestError: As `read_manifest` and `scan_case_folders`.
    """
    if data.suffix.lower() == ".csv":
        return read_manifest(data)
    return scan_case_folders(data, settings)


def scan_case_folders(folder: Path, settings: DataSettings) -> list[Case]:
    """List the cases of a folder that holds one folder per case.

    Files are found by name without suffix (``mr.nii.gz``, ``ct.mha``, …), as in the SynthRAD
    challenges; a DICOM file of that name (``mr.dcm`` or ``mr``), or a folder that holds DICOM
    files at any depth, is an image too. Case folders may lie at any depth, so
    ``brain/1BA001/mr.nii.gz`` is found; the case is named by its own folder.
    Links are followed, hidden files and folders left out.

    Raises:
        ManifestError: If there is no case, a case lacks an image, two cases share a name, or
            an image is there in two formats.
        ImageReadError: If a file or folder cannot be read.
    """
    if not folder.is_dir():
        raise ManifestError(
            f"{folder}: not a folder; expected a folder of case folders or a manifest (.csv)"
        )
    wanted = (*settings.sources, settings.target)
    folders = _case_folders(folder, wanted)
    if not folders:
        raise ManifestError(
            f"{folder}: no case found; expected files like CASE/{wanted[0]}.nii.gz and "
            f"CASE/{wanted[-1]}.nii.gz, or folders CASE/{wanted[0]} and CASE/{wanted[-1]} of "
            "DICOM files (set data.sources and data.target for other names)"
        )
    names = [case.name for case in folders]
    patients = [_patient_of(name, settings.patient_pattern) for name in names]
    splits = split_patients(patients, settings)
    cases = [
        Case(
            name=case.name,
            patient=patient,
            split=splits[patient],
            sources={name: _find_image(case, name) for name in settings.sources},
            target=_find_image(case, settings.target),
            mask=_find_mask(case, settings.mask),
        )
        for case, patient in zip(folders, patients, strict=True)
    ]
    check_cases(cases, folder)
    return cases


def split_patients(patients: Sequence[str], settings: DataSettings) -> dict[str, Split]:
    """Assign patients to splits at random, reproducibly by ``settings.split_seed``.

    With three patients or more, a split of non-zero fraction gets at least one.
    """
    unique = sorted(set(patients))
    order = [unique[i] for i in np.random.default_rng(settings.split_seed).permutation(len(unique))]
    counts = [
        max(round(fraction * len(order)), 1 if fraction > 0 and len(order) >= 3 else 0)
        for fraction in (settings.test_fraction, settings.validation_fraction)
    ]
    test, validation = counts[0], counts[0] + counts[1]
    return {
        patient: "test" if i < test else "validation" if i < validation else "train"
        for i, patient in enumerate(order)
    }


def read_manifest(path: Path) -> list[Case]:
    """Read a manifest.

    Raises:
        ManifestError: If a column or file is missing, a split is unknown, a case is there
            twice, or a patient is in two splits.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file; make one with `medp2p manifest`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read as a CSV file: {error}") from error
    try:
        reader = csv.DictReader(io.StringIO(text))
        columns = list(reader.fieldnames or [])
        rows = list(reader)
    except csv.Error as error:
        raise ManifestError(f"{path}: cannot be read as a CSV file: {error}") from error
    sources = [column for column in columns if column.startswith("source_")]
    missing = {"case", "split", "target"} - set(columns)
    if missing or not sources:
        lacking = ", ".join(sorted(missing) or ["source_<name>"])
        raise ManifestError(
            f"{path}: the column {lacking} is missing, found {', '.join(columns) or 'none'}; "
            "expected case, patient, split, source_<name>, target, mask"
        )
    cases = [_case_of_row(row, sources, path) for row in rows]
    check_cases(cases, path)
    return cases


def write_manifest(path: Path, cases: Sequence[Case], *, overwrite: bool = False) -> None:
    """Write a manifest with absolute paths.

    Raises:
        OutputError: If it exists already or cannot be written.
    """
    text = io.StringIO()
    sources = list(cases[0].sources)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["case", "patient", "split", *(f"source_{name}" for name in sources), "target", "mask"]
    )
    for case in cases:
        images = [*case.sources.values(), case.target]
        mask = case.mask.resolve() if case.mask else ""
        writer.writerow([case.name, case.patient, case.split, *(p.resolve() for p in images), mask])
    write_text(path, text.getvalue(), overwrite=overwrite)


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
    for case in cases:
        first = splits.setdefault(case.patient, case)
        if first.split != case.split:
            raise ManifestError(
                f"{where}: patient {case.patient} is in two splits (case {first.name} in "
                f"{first.split}, case {case.name} in {case.split}); put all cases of a patient "
                "into one split"
            )
    owners: dict[Path, str] = {}
    for case in cases:
        for file in (*case.sources.values(), case.target, case.mask):
            if file is not None and not file.exists():
                raise ManifestError(f"{where}: case {case.name}: {file} does not exist")
        for file in (*case.sources.values(), case.target):
            owner = owners.setdefault(file.resolve(), case.name)
            if owner != case.name:
                raise ManifestError(f"{where}: {file} is an image of {owner} and of {case.name}")


def _case_of_row(row: dict[str, str], sources: Sequence[str], path: Path) -> Case:
    row = {column: (row[column] or "").strip() for column in row if column}
    name, split = row["case"], row["split"]
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise ManifestError(f"{path}: {name!r} is no case name; expected a plain name")
    if split not in get_args(Split):
        raise ManifestError(
            f"{path}: case {name}: split {split!r}; expected {', '.join(get_args(Split))}"
        )
    for column in (*sources, "target"):
        if not row[column]:
            raise ManifestError(f"{path}: case {name}: the column {column} is empty")
    mask = row.get("mask")
    return Case(
        name=name,
        patient=row.get("patient") or name,
        split=split,  # type: ignore[arg-type]
        sources={c.removeprefix("source_"): path.parent / row[c] for c in sources},
        target=path.parent / row["target"],
        mask=path.parent / mask if mask else None,
    )


def _patient_of(case: str, pattern: str | None) -> str:
    if pattern is None:
        return case
    match = re.search(pattern, case)
    if not match or not match.groups():
        raise ManifestError(
            f"case {case}: data.patient_pattern {pattern!r} finds no patient in the name; "
            "expected a pattern with one group that matches every case"
        )
    return match.group(1)


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


def _case_folders(folder: Path, wanted: Sequence[str]) -> list[Path]:
    """Find the folders that hold an image of a wanted name."""
    below = list(files_below(folder))
    series = {s for path in below if (s := _folder_named(path, folder, wanted)) is not None}
    outer = {parent for path in series for parent in path.parents}
    series = {path for path in series - outer if is_named_image(path, wanted)}
    files = (path for path in below if series.isdisjoint(path.parents))
    images = (*series, *(path for path in files if is_named_image(path, wanted)))
    return sorted({path.parent for path in images})


def _folder_named(path: Path, top: Path, names: Sequence[str]) -> Path | None:
    """Return the innermost folder of one of these names that a file below ``top`` lies in."""
    inside = (parent for parent in path.parents if parent.is_relative_to(top) and parent != top)
    return next((parent for parent in inside if parent.name in names), None)


def _find_image(folder: Path, name: str) -> Path:
    files = _images_named(folder, name)
    if not files:
        raise ManifestError(
            f"{folder}: no {name} image; expected {name}.nii.gz (or {', '.join(READ_SUFFIXES)}, "
            f".dcm) or a folder {name} of DICOM files"
        )
    if len(files) > 1:
        raise ManifestError(
            f"{folder}: {files[0].name} and {files[1].name}; keep one of them in the case folder"
        )
    return files[0]


def _find_mask(folder: Path, name: str | None) -> Path | None:
    if name is None or not _images_named(folder, name):
        return None
    return _find_image(folder, name)


def _images_named(folder: Path, name: str) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if is_named_image(path, [name])]
