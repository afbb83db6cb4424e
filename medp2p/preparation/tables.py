"""A user's own table of images: a manifest, one row per case, or one row per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medp2p.config import Config
from medp2p.errors import ManifestError
from medp2p.manifest import TARGET, read_rows
from medp2p.preparation.layouts import MASK, Kinds, kinds_of

_PATIENT = ("patient", "subject", "participant_id", "case", "id")
_VISIT = ("visit", "session", "case")
_KIND = ("modality", "kind", "image", "contrast")
_PATH = ("path", "file", "folder")


@dataclass(frozen=True)
class TableImage:
    """What a table says of one image.

    Attributes:
        path: A file or a folder with a DICOM series.
        patient: Whose it is.
        case: Name of the case, empty if the table has none.
        unit: Images of one case or visit share it.
        role: Which image of a case it is: a source's name, ``"target"`` or ``"mask"``, or empty.
        modality: ``"MR"``, ``"CT"``, ``"MASK"``, or None.
        series: Which DICOM series of a folder, ``KEY`` or ``KEY/GROUP``, or empty.
    """

    path: Path
    patient: str
    case: str
    unit: str
    role: str
    modality: str | None
    series: str


def read_table(path: Path, config: Config) -> list[TableImage]:
    """Read a table of images; its columns are in ``docs/pairing.md``.

    Paths are relative to the table's folder or absolute.

    Raises:
        ManifestError: If it cannot be read, or a column or value is missing.
    """
    rows = read_table_rows(path)
    columns = list(rows[0]) if rows else []
    if not rows:
        raise ManifestError(f"{path}: no rows; expected one per case or one per image")
    kinds = kinds_of(config)
    kind, place = _first(columns, _KIND), _first(columns, _PATH)
    if kind and place:
        return [_long_row(path, n, row, kind, place, kinds) for n, row in enumerate(rows, 2)]
    images = _image_columns(columns, config)
    if not images:
        wanted = ", ".join((*config.data.sources, config.data.target))
        raise ManifestError(
            f"{path}: found the columns {', '.join(columns) or 'none'}; expected patient, {wanted} "
            "(one row per case) or patient, modality, path (one row per image)"
        )
    return [
        image for n, row in enumerate(rows, 2) for image in _wide_row(path, n, row, images, kinds)
    ]


def read_table_rows(path: Path) -> list[dict[str, str]]:
    """Read a table as `read_rows`, whatever the capitals of its columns.

    Raises:
        ManifestError: If it cannot be read.
    """
    _, rows = read_rows(path)
    return [{column.lower(): value for column, value in row.items()} for row in rows]


def _first(columns: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def _image_columns(columns: Sequence[str], config: Config) -> dict[str, str]:
    """Which column holds which image: by the names of a manifest, or by the image's own."""
    data = config.data
    names = {name.lower(): name for name in data.sources}
    names |= {f"source_{name.lower()}": name for name in data.sources}
    names |= {TARGET: TARGET, data.target.lower(): TARGET, MASK: MASK}
    if data.mask:
        names[data.mask.lower()] = MASK
    found = {column: names[column] for column in columns if column in names}
    return found if set(found.values()) - {MASK} else {}


def _wide_row(
    path: Path, line: int, row: dict[str, str], images: dict[str, str], kinds: Kinds
) -> list[TableImage]:
    patient, case = patient_of_row(path, line, row), row.get("case", "")
    unit = f"{path}:{line}"
    found = []
    for column, role in images.items():
        if not row[column]:
            continue
        series = row.get(f"series_{role.lower()}", "")
        modality = _modality_of(role, kinds)
        file = path.parent / row[column]
        found.append(TableImage(file, patient, case, unit, role, modality, series))
    return found


def _long_row(
    path: Path, line: int, row: dict[str, str], kind: str, place: str, kinds: Kinds
) -> TableImage:
    patient = patient_of_row(path, line, row)
    word = row[kind].lower()
    if word not in kinds.modalities or not row[place]:
        raise ManifestError(
            f"{path}: line {line}: {kind} {row[kind]!r} and {place} {row[place]!r}; expected one "
            f"of {', '.join(kinds.roles)} and the path of an image"
        )
    visit = _first(list(row), _VISIT)
    return TableImage(
        path=path.parent / row[place],
        patient=patient,
        case=row.get("case", ""),
        unit=f"{path}:{patient}:{row[visit] if visit else ''}",
        role=kinds.roles.get(word, ""),
        modality=kinds.modalities[word],
        series=row.get("series", ""),
    )


def patient_of_row(path: Path, line: int, row: dict[str, str]) -> str:
    """Return whose images a row names.

    Raises:
        ManifestError: If it names nobody, or by no plain name.
    """
    patient = next((row[name] for name in _PATIENT if row.get(name)), "")
    if not patient:
        raise ManifestError(
            f"{path}: line {line} names no patient; expected a column patient (or case)"
        )
    for name in (patient, row.get("case", "")):
        if name.startswith(".") or "/" in name or "\\" in name:
            raise ManifestError(f"{path}: line {line}: {name!r} is no plain name")
    return patient


def _modality_of(role: str, kinds: Kinds) -> str | None:
    return next((kinds.modalities[w] for w, r in kinds.roles.items() if r == role), "MASK")
