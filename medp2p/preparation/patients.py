"""Which images are of one patient, and what patients and cases are called."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from unicodedata import normalize

from medp2p.config import Config
from medp2p.errors import ManifestError
from medp2p.inspection import printable
from medp2p.preparation.found_image import Candidate, Folder, FoundImage, place_token, with_parents
from medp2p.preparation.layouts import Kinds, Place, is_kind, kinds_of

_NOBODY = ""
_MAX_SHOWN = 4

Key = TypeVar("Key")


def with_patients(data: Path, items: list[Candidate], config: Config) -> list[FoundImage]:
    """Tell who is who, and name them."""
    root = printable(data.resolve().name)
    items = [
        replace(item, place=replace(item.place, name=root))
        if item.place and not item.place.name
        else item
        for item in items
    ]
    pattern = config.data.patient_pattern
    items = _named_by_pattern(items, pattern) if pattern else _joined_to_cases(items)
    people = _people(items)
    owners: dict[Folder, set[int]] = defaultdict(set)
    for item, person in zip(items, people, strict=True):
        for folder in with_parents(item.folder) if item.tokens else ():
            owners[folder].add(person)
    people = [
        person if item.tokens else _owner(item.folder, owners)
        for item, person in zip(items, people, strict=True)
    ]
    kinds = kinds_of(config)
    places = [
        item.place or _own_folder(item.folder, person, owners, kinds)
        for item, person in zip(items, people, strict=True)
    ]
    names = _patient_names(items, people, places)
    cases = _case_names(people, places)
    return [
        replace(
            item.image,
            patient=names.get(person, _NOBODY),
            case=cases[person, place] if place else "",
            unit=repr(_unit(item, place)),
        )
        for item, person, place in zip(items, people, places, strict=True)
    ]


def look_alikes(patients: Iterable[str]) -> list[str]:
    """Say which names of patients differ in capitals, or in what is at their ends, only."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for patient in sorted(set(patients)):
        spellings[normalize("NFKC", patient).strip(" _-").casefold()].append(patient)
    alike = [names for names in spellings.values() if len(names) > 1]
    notes = [
        f"{_quoted(names)} count as different patients, who may be in different splits; give them "
        "one name if they are one"
        for names in alike[:_MAX_SHOWN]
    ]
    if len(alike) > _MAX_SHOWN:
        notes.append(f"{len(alike) - _MAX_SHOWN} more groups of patients have names so alike")
    return notes


def _quoted(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_MAX_SHOWN]) + more


def _unit(item: Candidate, place: Place | None) -> Folder:
    if item.unit is not None:
        return item.unit
    return place.parts if place else ()


def _named_by_pattern(items: Iterable[Candidate], pattern: str) -> list[Candidate]:
    """Take each patient's name from a case's name or from the path, and from nowhere else."""
    named = []
    for item in items:
        path = "/".join((*item.folder, item.image.path.name))
        texts = [item.place.name, path] if item.place else [path]
        match = next((m for text in texts if (m := re.search(pattern, text)) and m.groups()), None)
        if match:
            place = item.place or Place(item.folder, (), printable(match[1]))
            place = replace(place, patient=(printable(match[1]),))
            image = replace(item.image, person="")
            named.append(
                replace(item, image=image, place=place, tokens=frozenset({place_token(place)}))
            )
        elif item.tokens:
            raise ManifestError(
                f"{texts[0]}: data.patient_pattern {pattern!r} finds no patient in the name; "
                "expected a pattern with one group that matches every case"
            )
        else:
            named.append(item)
    return named


def _joined_to_cases(items: Sequence[Candidate]) -> list[Candidate]:
    """Let a DICOM series that lies in a case folder, with no other patient's, belong to it."""
    cases = {
        item.place.parts: place_token(item.place)
        for item in items
        if item.place and item.place.parts and not item.image.series
    }
    people: dict[Folder, set[str]] = defaultdict(set)
    for item in items:
        if item.image.series:
            for folder in with_parents(item.folder):
                people[folder].add(item.image.person or item.image.study)
    joined = []
    for item in items:
        inside = [folder for folder in with_parents(item.folder) if folder in cases]
        if item.image.series and inside and len(people[inside[0]]) == 1:
            item = replace(item, tokens=item.tokens | {cases[inside[0]]})
        joined.append(item)
    return joined


def _people(items: Sequence[Candidate]) -> list[int]:
    """Number the items so that those that share a token, or are linked by others, are one."""
    numbers = list(range(len(items)))
    first: dict[str, int] = {}

    def root(i: int) -> int:
        while numbers[i] != i:
            i = numbers[i]
        return i

    for i, item in enumerate(items):
        for token in sorted(item.tokens):
            a, b = root(first.setdefault(token, i)), root(i)
            numbers[max(a, b)] = min(a, b)
    return [root(i) for i in range(len(items))]


def _owner(folder: Folder, owners: Mapping[Folder, Collection[int]]) -> int:
    """Whose the innermost folder is that holds anything of anybody; -1 if of several."""
    found = next((owners[f] for f in with_parents(folder) if owners.get(f)), ())
    return next(iter(found)) if len(found) == 1 else -1


def _own_folder(
    folder: Folder, person: int, owners: Mapping[Folder, Collection[int]], kinds: Kinds
) -> Place | None:
    """The outermost folder that is one patient's alone, and named other than by a kind."""
    for around in reversed(with_parents(folder)):
        if owners.get(around) == {person} and not is_kind(around[-1], kinds):
            return Place(around, around, printable(around[-1]))
    return None


def _patient_names(
    items: Sequence[Candidate], people: Sequence[int], places: Sequence[Place | None]
) -> dict[int, str]:
    """Name each patient by the first of their places, else by the hash of the headers.

    What files are called comes before the folders around DICOM series.
    """
    stated: dict[int, set[Place]] = defaultdict(set)
    found: dict[int, set[Place]] = defaultdict(set)
    fallback: dict[int, str] = {}
    for item, person, place in zip(items, people, places, strict=True):
        if person >= 0 and item.place:
            stated[person].add(item.place)
        elif person >= 0 and place:
            found[person].add(place)
        elif person >= 0:
            fallback[person] = min(item.fallback, fallback.get(person, item.fallback))
    names = {}
    for person in sorted({*stated, *found, *fallback}):
        first = min(stated[person] or found[person], default=None)
        if first is None:
            names[person] = (person, fallback[person], fallback[person])
        else:
            short = first.patient[-1] if first.patient else first.name
            names[person] = (person, short, "_".join(first.patient) or first.name)
    return _distinct(names)


def _case_names(
    people: Sequence[int], places: Sequence[Place | None]
) -> dict[tuple[int, Place], str]:
    found = {(person, place) for person, place in zip(people, places, strict=True) if place}
    return _distinct(
        {key: (key[0], key[1].name, "_".join(key[1].parts) or key[1].name) for key in sorted(found)}
    )


def _distinct(names: Mapping[Key, tuple[int, str, str]]) -> dict[Key, str]:
    """Of (patient, short name, long name) take the short one where no other patient has it."""
    owners: dict[str, set[int]] = defaultdict(set)
    for person, short, _ in names.values():
        owners[short.casefold()].add(person)
    return {
        key: (short if len(owners[short.casefold()]) == 1 else printable(long)).replace("\\", "_")
        for key, (_, short, long) in names.items()
    }
