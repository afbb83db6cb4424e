"""Which patients train, choose and test: by patient, at random, reproducibly.

A patient's cases share one split. Whoever has a place keeps it when others come.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from medp2p.config import DataSettings

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Place:
    """Where a patient belongs.

    Attributes:
        split: ``"train"``, ``"validation"`` or ``"test"``.
        fold: Of the cross-validation, from 0; None for test patients and without folds.
    """

    split: Split
    fold: int | None = None


_TRAIN: Split = "train"
_NOTHING: Mapping[str, str] = MappingProxyType({})
_NOBODY: Mapping[str, Place] = MappingProxyType({})


def split_patients(
    patients: Iterable[str],
    settings: DataSettings,
    *,
    strata: Mapping[str, str] = _NOTHING,
    known: Mapping[str, Place] = _NOBODY,
) -> dict[str, Place]:
    """Assign patients to splits, and to folds if asked for, by ``settings.split_seed``.

    With three patients or more, a split of non-zero fraction gets at least one. With folds there
    is no validation split: each training patient has a fold, and training chooses one.

    Args:
        patients: Their names, in any order.
        settings: Fractions, folds and seed.
        strata: Of each patient a word; every split gets its share of each.
        known: Patients who have a place already and keep it.

    Returns:
        The place of every patient.
    """
    order = _spread(_shuffled(patients, settings.split_seed), strata)
    validation_fraction = 0.0 if settings.folds else settings.validation_fraction
    wanted: dict[Split, int] = {
        "test": _count(settings.test_fraction, len(order)),
        "validation": _count(validation_fraction, len(order)),
    }
    places = {patient: known[patient] for patient in order if patient in known}
    filled = Counter(place.split for place in places.values())
    newcomers = [patient for patient in order if patient not in places]
    for patient in newcomers:
        split = next((name for name in wanted if filled[name] < wanted[name]), _TRAIN)
        filled[split] += 1
        places[patient] = Place(split)
    return _with_folds(places, order, settings.folds)


def _shuffled(patients: Iterable[str], seed: int) -> list[str]:
    unique = sorted(set(patients))
    return [unique[i] for i in np.random.default_rng(seed).permutation(len(unique))]


def _spread(order: Sequence[str], strata: Mapping[str, str]) -> list[str]:
    """Mix the strata, so that any first part of the list has its share of each."""
    groups: dict[str, list[str]] = defaultdict(list)
    for patient in order:
        groups[strata.get(patient, "")].append(patient)
    ranks = {
        patient: ((rank + 0.5) / len(members), name)
        for name, members in groups.items()
        for rank, patient in enumerate(members)
    }
    return sorted(order, key=lambda patient: ranks[patient])


def _count(fraction: float, patients: int) -> int:
    return max(round(fraction * patients), 1 if fraction > 0 and patients >= 3 else 0)


def _with_folds(
    places: Mapping[str, Place], order: Sequence[str], folds: int | None
) -> dict[str, Place]:
    if folds is None:
        return {patient: Place(places[patient].split) for patient in order}
    sizes = Counter(dict.fromkeys(range(folds), 0))
    kept = {p: fold for p, place in places.items() if (fold := place.fold) in sizes}
    sizes.update(fold for fold in kept.values() if fold is not None)
    result = {}
    for patient in order:
        if places[patient].split == "test":
            result[patient] = Place("test")
            continue
        fold = kept.get(patient)
        if fold is None:
            fold = min(sizes, key=lambda number: (sizes[number], number))
            sizes[fold] += 1
        result[patient] = Place("train", fold)
    return result
