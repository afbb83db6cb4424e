from __future__ import annotations

from collections import Counter

import pytest

from medp2p.config import DataSettings
from medp2p.splits import Place, split_patients

PATIENTS = [f"p{i:02d}" for i in range(40)]


def splits(places):
    return Counter(place.split for place in places.values())


def test_fractions_are_met_and_the_seed_decides():
    settings = DataSettings(test_fraction=0.2, validation_fraction=0.1)
    places = split_patients(PATIENTS, settings)
    assert splits(places) == {"train": 28, "test": 8, "validation": 4}
    assert split_patients(reversed(PATIENTS), settings) == places
    other = split_patients(PATIENTS, settings.model_copy(update={"split_seed": 1}))
    assert other != places


def test_three_patients_fill_every_split_and_two_train():
    assert splits(split_patients("abc", DataSettings())) == {"train": 1, "validation": 1, "test": 1}
    assert splits(split_patients("ab", DataSettings())) == {"train": 2}


def test_every_split_gets_its_share_of_each_stratum():
    strata = {patient: "f" if i % 4 else "m" for i, patient in enumerate(PATIENTS)}
    settings = DataSettings(test_fraction=0.2, validation_fraction=0.2)
    for seed in range(5):
        places = split_patients(
            PATIENTS, settings.model_copy(update={"split_seed": seed}), strata=strata
        )
        for split in ("test", "validation"):
            members = [strata[p] for p, place in places.items() if place.split == split]
            assert Counter(members) == {"f": 6, "m": 2}


def test_known_patients_keep_their_place_and_newcomers_fill_up():
    settings = DataSettings(test_fraction=0.25, validation_fraction=0.25)
    before = split_patients(PATIENTS[:20], settings)
    after = split_patients(PATIENTS, settings, known=before)
    assert {patient: after[patient] for patient in before} == before
    assert splits(after) == {"train": 20, "test": 10, "validation": 10}


def test_folds_share_the_training_patients_evenly():
    settings = DataSettings(test_fraction=0.2, folds=4)
    places = split_patients(PATIENTS, settings)
    assert splits(places) == {"train": 32, "test": 8}
    assert Counter(place.fold for place in places.values()) == {None: 8, 0: 8, 1: 8, 2: 8, 3: 8}
    known = {patient: place for patient, place in places.items() if patient < "p20"}
    again = split_patients(PATIENTS, settings, known=known)
    assert {patient: again[patient] for patient in known} == known


def test_other_folds_than_before_are_made_anew():
    known = {"a": Place("train", 7), "b": Place("validation"), "c": Place("test")}
    places = split_patients("abcd", DataSettings(folds=2, test_fraction=0), known=known)
    assert places["c"] == Place("test")
    assert sorted(places[p].fold for p in "abd") == [0, 0, 1]
    assert split_patients("abc", DataSettings(), known=known)["a"] == Place("train")


def test_one_fold_is_none():
    with pytest.raises(ValueError, match="folds"):
        DataSettings(folds=1)
