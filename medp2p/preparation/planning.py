"""From a folder, a table or a manifest to a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medp2p.config import EIGHT_BIT, Config, DataSettings
from medp2p.errors import ConfigError, ManifestError, MedP2PError
from medp2p.io import read_grid
from medp2p.manifest import TARGET, Case, dicom_options, read_manifest, read_rows
from medp2p.preparation.discovery import FoundImage, find_images
from medp2p.preparation.pairing import Pair, Plan, make_plan
from medp2p.preparation.patients import look_alikes
from medp2p.preparation.png_pairs import plan_of_pictures
from medp2p.preparation.tables import patient_of_row, read_table_rows
from medp2p.splits import Place, split_patients

BIDS_TABLE = "participants.tsv"
_MAX_SHOWN = 4


def make_preparation_plan(
    data: Path,
    config: Config,
    *,
    progress: Callable[[], None] | None = None,
) -> Plan:
    """Find the images and choose who goes with whom.

    Args:
        data: A folder of any layout, a table of images, or a manifest, which is taken as it is.
            Where the images are 8-bit pictures, a folder of pairs; see `png_pairs`.
        config: What the images are called and what they are.
        progress: Called for each file that was looked at.

    Raises:
        ManifestError: If there is nothing, or a table does not hang together.
        ImageReadError: If a folder cannot be looked at.
    """
    if is_manifest(data):
        return plan_of_cases(read_manifest(data, every=True))
    if config.preprocessing.source.modality == EIGHT_BIT:
        return plan_of_pictures(data, config)
    return make_plan(find_images(data, config, progress), config)


def is_manifest(data: Path) -> bool:
    """Say whether a file is a table with the columns of a manifest."""
    if data.suffix.lower() != ".csv":
        return False
    columns, _ = read_rows(data)
    return {"case", "split", TARGET} <= set(columns)


def plan_of_cases(cases: Sequence[Case]) -> Plan:
    """Take the cases of a manifest as they are."""
    notes = look_alikes(case.patient for case in cases)
    return Plan(tuple(_pair_of_case(case) for case in cases), (), (), tuple(notes))


def cases_of_plan(
    plan: Plan, settings: DataSettings, strata: Mapping[str, str] | None = None
) -> list[Case]:
    """Return the pairs as cases, with their patients split.

    Raises:
        ManifestError: If there is no pair.
    """
    if not plan.pairs:
        raise nothing_to_use(f"{one.patient}: {one.reason}" for one in plan.left_out)
    cases = [case_of_pair(pair) for pair in plan.pairs]
    stated = {case.patient: Place(case.split, case.fold) for case in cases if case.split}
    patients = [case.patient for case in cases]
    places = split_patients(patients, settings, strata=strata or {}, known=stated)
    return [
        replace(case, split=places[case.patient].split, fold=places[case.patient].fold)
        for case in cases
    ]


def nothing_to_use(reasons: Iterable[str], more: str = "") -> ManifestError:
    """Say why there is no pair, by the first of the reasons."""
    known = list(reasons)
    first = f": {known[0]}" if known else ""
    others = f" (and {len(known) - 1} more)" if len(known) > 1 else ""
    return ManifestError(f"no pair can be used{first}{others}{more}")


def case_of_pair(pair: Pair) -> Case:
    """Return a pair as a case without split and verdict, or as its manifest has it."""
    if pair.stated is not None:
        return pair.stated
    images = {**pair.sources, TARGET: pair.target}
    return Case(
        name=pair.case,
        patient=pair.patient,
        split=None,
        sources={name: image.path for name, image in pair.sources.items()},
        target=pair.target.path,
        mask=pair.mask.path if pair.mask else None,
        series={name: image.series for name, image in images.items() if image.series},
    )


def read_strata(data: Path, column: str | None) -> dict[str, str]:
    """Read the column that the splits share evenly, by patient; empty if none is named.

    Patients whose value is empty are left out; see `refuse_without_stratum`.

    Args:
        data: A table with patients, or a BIDS folder with ``participants.tsv``.
        column: Its name; capitals do not count.

    Raises:
        ConfigError: If there is no such table or column, or a patient has several values.
        ManifestError: If a row names no patient.
    """
    if column is None:
        return {}
    table = data / BIDS_TABLE if data.is_dir() else data
    try:
        rows = read_table_rows(table)
    except ManifestError as error:
        raise ConfigError(
            f"data.stratify: the column {column!r} is looked for in a table of patients, and "
            f"{error}; give a table, or leave data.stratify out"
        ) from error
    columns, wanted = list(rows[0]) if rows else [], column.strip().lower()
    if wanted not in columns:
        raise ConfigError(
            f"data.stratify: {table} has the columns {', '.join(columns) or 'none'}; expected "
            f"patient and {column}"
        )
    strata: dict[str, str] = {}
    for line, row in enumerate(rows, 2):
        patient, value = patient_of_row(table, line, row), row[wanted]
        if value and strata.setdefault(patient, value) != value:
            raise ConfigError(
                f"data.stratify: {table}: line {line}: {patient} has {column} {value!r}, and "
                f"{strata[patient]!r} before; expected one value a patient"
            )
    return strata


def refuse_without_stratum(
    patients: Iterable[str], strata: Mapping[str, str], column: str | None
) -> None:
    """Refuse patients of whom the table that `read_strata` read does not say the value.

    Raises:
        ConfigError: Naming the first of them.
    """
    unknown = sorted(set(patients) - set(strata)) if column else []
    if unknown:
        more = f" and {len(unknown) - _MAX_SHOWN} more" if len(unknown) > _MAX_SHOWN else ""
        raise ConfigError(
            f"data.stratify: no value of column {column} for patients "
            f"{', '.join(unknown[:_MAX_SHOWN])}{more}; add it to the table"
        )


def _pair_of_case(case: Case) -> Pair:
    images = {name: _found(case, name) for name in case.images}
    target = images.pop(TARGET)
    return Pair(
        case=case.name,
        patient=case.patient,
        sources=images,
        target=target,
        mask=FoundImage(case.mask, case.patient, role="mask") if case.mask else None,
        reasons=("the manifest says so",),
        days_apart=None,
        aligned=False,
        stated=case,
    )


def _found(case: Case, name: str) -> FoundImage:
    path, series = case.images[name], case.series.get(name, "")
    problems: tuple[str, ...] = ()
    grid = None
    try:
        grid = read_grid(path, dicom=dicom_options(series))
    except MedP2PError as error:
        problems = (str(error),)
    return FoundImage(path, case.patient, series=series, role=name, grid=grid, problems=problems)
