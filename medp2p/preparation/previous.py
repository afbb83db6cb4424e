"""What earlier runs left in the output folder, and what of it still counts.

``history.json`` remembers every case that ever was in the set: what was written of it into
``manifest.csv``, and what the user wrote there instead. A case that is missing for a while, or
comes back under another name with the same images, is known again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import yaml

from medp2p.config import Config, config_yaml
from medp2p.errors import ManifestError, OutputError
from medp2p.files import output_errors, write_text
from medp2p.manifest import Case, Verdict, read_rows
from medp2p.splits import Place, Split

MARKER_FILE = ".medp2p-prepared"
"""A folder that holds this was made by `medp2p prepare`; nothing else is ever replaced."""
LOCK_FILE = ".lock"
CONFIG_FILE = "config.yaml"
MANIFEST_FILE = "manifest.csv"
HISTORY_FILE = "history.json"

_SECTIONS = ("data", "preparation", "preprocessing")
_SPLITTING = ("validation_fraction", "test_fraction", "split_seed", "folds", "stratify")
_CHOICE = "data.match"
"""Answers a question of the run before, so it may change."""


@dataclass(frozen=True)
class Row:
    """What a row of the manifest says that can be changed by hand."""

    decision: str = ""
    split: str = ""
    fold: str = ""


@dataclass(frozen=True)
class Remembered:
    """One case of earlier runs.

    Attributes:
        patient: Whose images they are.
        images: SHA-256 of its images.
        written: What was written into the manifest last; while that is under way also what was
            written before.
        decision: The user's: None if there never was one, ``""`` if it was taken back.
        place: Split and fold by the user's hand, None if there are none.
    """

    patient: str
    images: tuple[str, ...]
    written: tuple[Row, ...]
    decision: str | None = None
    place: Place | None = None


@dataclass(frozen=True)
class Previous:
    """All that is known of earlier runs.

    Attributes:
        cases: By name.
        manifest: Hash of the manifest that the user's decisions were read from.
        same_splits: Whether splits of earlier runs count: the settings for them are as before.
    """

    cases: Mapping[str, Remembered] = field(default_factory=dict)
    manifest: str = ""
    same_splits: bool = True

    def of(self, name: str, images: Iterable[str]) -> Remembered | None:
        """Return what is known of a case, by its images rather than by its name.

        Under its own name with other images a case keeps its split, but no decision: that was
        about the images of then.

        Args:
            name: Its name now.
            images: SHA-256 of its images; none if they could not be read.
        """
        now, named = set(images), self.cases.get(name)
        if named and (not now or now & {*named.images} or not named.images):
            return named
        alike = (self.cases[other] for other in sorted(self.cases))
        same = next((case for case in alike if now & {*case.images}), None)
        return same or (replace(named, decision=None) if named else None)


def claim_folder(output: Path, config: Config, *, overwrite: bool) -> None:
    """See that the output folder is new, or of an earlier run with these settings.

    Raises:
        OutputError: If it is somebody else's, or was prepared with other settings.
    """
    with output_errors(output):
        if not (output / MARKER_FILE).is_file():
            _refuse_foreign(output)
            return
    changed = _changed_settings(output, config)
    if changed and not overwrite:
        raise OutputError(
            f"{output}: was prepared with other settings ({', '.join(changed)}); name another "
            "output, or pass --overwrite to prepare it again"
        )


def _refuse_foreign(output: Path) -> None:
    if not output.exists() and not output.is_symlink():
        return
    if not output.is_dir() or any(entry.name != LOCK_FILE for entry in output.iterdir()):
        raise OutputError(
            f"{output}: exists already and was not made by `medp2p prepare`; name another output"
        )


def settings_text(config: Config) -> str:
    """The settings that decide about a prepared folder, as YAML."""
    values = yaml.safe_load(config_yaml(config))
    return yaml.safe_dump({section: values[section] for section in _SECTIONS}, sort_keys=False)


def read_previous(output: Path, config: Config) -> Previous:
    """Read the history, and what the user changed in the manifest since.

    Args:
        output: The prepared folder.
        config: Tells whether splits are still made as before.

    Raises:
        ManifestError: If either cannot be read, or the manifest contradicts itself.
    """
    splitting, history = _read_history(output / HISTORY_FILE)
    same_splits = splitting == _splitting(config)
    path = output / MANIFEST_FILE
    if not path.exists():
        return Previous(history, "", same_splits)
    columns, rows = read_rows(path)
    missing = {"case", "patient", "split", "decision"} - set(columns)
    if missing:
        raise ManifestError(
            f"{path}: the column {min(missing)} is missing, found {', '.join(columns) or 'none'}; "
            "restore it, or remove the file to give up the decisions in it"
        )
    cases = dict(history)
    seen: set[str] = set()
    for row in rows:
        name = row["case"]
        if name in seen:
            raise ManifestError(f"{path}: case {name} is there twice; take one row out")
        if name not in cases:
            raise ManifestError(
                f"{path}: there is no case {name!r}; the column case must stay as it was written"
            )
        seen.add(name)
        cases[name] = _with_changes(cases[name], row, f"{path}: case {name}")
    return Previous(cases, _hash(path), same_splits)


def refuse_changed_manifest(output: Path, previous: Previous) -> None:
    """Refuse to replace a manifest that was changed since its decisions were read.

    Raises:
        ManifestError: If it was.
    """
    path = output / MANIFEST_FILE
    if path.exists() and _hash(path) != previous.manifest:
        raise ManifestError(
            f"{path}: was changed while `medp2p prepare` was running; run it again, which is quick"
        )


def decision_of(case: Case, known: Remembered | None) -> Verdict | None:
    """Return what the user says of a case: in the output's manifest, else in the input's."""
    if known is not None and known.decision is not None:
        return known.decision or None  # type: ignore[return-value]
    return case.decision


def known_places(
    cases: Iterable[tuple[Case, Remembered | None]], previous: Previous
) -> dict[str, Place]:
    """Return where patients belong already: by hand, by the input's manifest, by earlier runs.

    Raises:
        ManifestError: If one patient's rows were given different splits by hand.
    """
    by_hand: dict[str, Place] = {}
    stated: dict[str, Place] = {}
    earlier: dict[str, Place] = {}
    for case, known in cases:
        if known is not None and known.place is not None:
            first = by_hand.setdefault(case.patient, known.place)
            if first != known.place:
                raise ManifestError(
                    f"{MANIFEST_FILE}: patient {case.patient} was given the splits {first.split} "
                    f"and {known.place.split}; put all cases of a patient into one split"
                )
        if case.split:
            stated[case.patient] = Place(case.split, case.fold)
        if known is not None and known.written[-1].split and previous.same_splits:
            earlier.setdefault(case.patient, _place(known.written[-1]))
    return {**earlier, **stated, **by_hand}


def write_history(
    output: Path,
    cases: Sequence[tuple[Case, tuple[str, ...], Remembered | None]],
    previous: Previous,
    config: Config,
    *,
    under_way: bool,
) -> None:
    """Remember every case, before (``under_way``) and after the manifest is written.

    Args:
        output: The prepared folder.
        cases: Each case as it goes into the manifest, the SHA-256 of its images, and what was
            known of it.
        previous: Whatever else is known is kept.
        config: How splits were made.
        under_way: Whether the manifest is still to be written.
    """
    names = {case.name for case, _, _ in cases}
    renamed = [known for case, _, known in cases if case.name not in previous.cases]
    history = {
        name: known
        for name, known in previous.cases.items()
        if name in names or not any(known is other for other in renamed)
    }
    for case, images, known in cases:
        row = row_of(case)
        before = known.written[-1:] if known and under_way else ()
        history[case.name] = Remembered(
            patient=case.patient,
            images=images or (known.images if known else ()),
            written=(*before, row),
            decision=known.decision if known else None,
            place=known.place if known else None,
        )
    cases_known = {name: asdict(history[name]) for name in sorted(history)}
    content = {"splitting": _splitting(config), "cases": cases_known}
    write_text(output / HISTORY_FILE, json.dumps(content, indent=1) + "\n", overwrite=True)


def row_of(case: Case) -> Row:
    """Return what the manifest says of a case that can be changed by hand."""
    fold = "" if case.fold is None else str(case.fold)
    return Row(case.decision or "", case.split or "", fold)


def _with_changes(known: Remembered, row: Mapping[str, str], where: str) -> Remembered:
    now = Row(row["decision"].lower(), row["split"].lower(), row.get("fold", ""))
    if now.decision not in ("", *get_args(Verdict)):
        raise ManifestError(
            f"{where}: the decision is {now.decision!r}; expected use, check or reject"
        )
    if all(now.decision != written.decision for written in known.written):
        known = replace(known, decision=now.decision)
    splits = [(written.split, written.fold) for written in known.written]
    if now.split and (now.split, now.fold) not in splits:
        if now.split not in get_args(Split) or not (now.fold.isdecimal() or not now.fold):
            raise ManifestError(
                f"{where}: split {now.split!r}, fold {now.fold!r}; expected "
                f"{', '.join(get_args(Split))} and a number from 0 or nothing"
            )
        known = replace(known, place=_place(now))
    return known


def _place(row: Row) -> Place:
    return Place(row.split, int(row.fold) if row.fold else None)  # type: ignore[arg-type]


def _splitting(config: Config) -> dict[str, Any]:
    """The settings that decide who is in which split."""
    data = config.data.model_dump(mode="json")
    return {name: data[name] for name in _SPLITTING}


def _read_history(path: Path) -> tuple[dict[str, Any], dict[str, Remembered]]:
    """Return how splits were made, and all cases by name."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        cases = {name: _remembered(entry) for name, entry in content["cases"].items()}
        return dict(content["splitting"]), cases
    except FileNotFoundError:
        return {}, {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(
            f"{path}: cannot be read, and holds decisions; restore it, or name another output"
        ) from error


def _remembered(entry: dict[str, Any]) -> Remembered:
    return Remembered(
        patient=entry["patient"],
        images=tuple(entry["images"]),
        written=tuple(Row(**row) for row in entry["written"]),
        decision=entry["decision"],
        place=Place(**entry["place"]) if entry["place"] else None,
    )


def _changed_settings(output: Path, config: Config) -> list[str]:
    path = output / CONFIG_FILE
    try:
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise OutputError(
            f"{path}: cannot be read; restore it, or name another output: {error}"
        ) from error
    differences = _differences(before, yaml.safe_load(settings_text(config)), "")
    return [path for path in differences if not path.startswith(_CHOICE)]


def _differences(before: Any, now: Any, where: str) -> list[str]:
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [where]
    names = [*now, *(name for name in before if name not in now)]
    return [
        path
        for name in names
        for path in _differences(before.get(name), now.get(name), f"{where}.{name}".lstrip("."))
    ]


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
