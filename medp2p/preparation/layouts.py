"""What the user's own folders and files say by their names: of whom, and what kind of image.

A name is taken apart into words. The words that name a kind of image (``mr``, ``ct``, ``T1w``, the
names in ``data.sources``) say what the image is. What is left of the path says whose it is, so
that ``mr/p01.nii.gz`` and ``ct/p01.nii.gz``, ``p01_mr.nii.gz`` and ``p01_ct.nii.gz``, and
``p01/mr.nii.gz`` and ``p01/ct.nii.gz`` belong together.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from medp2p.config import Config
from medp2p.io.meaning import MODALITY_OF_WORD
from medp2p.manifest import TARGET

MASK = "mask"
"""The body mask's name among a case's images."""

_BETWEEN_WORDS = r"[_\-.\s]+"
_BIDS_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")
_BIDS_SESSION = re.compile(r"ses-[A-Za-z0-9]+")
_NOT_OF_THE_IMAGE = re.compile(r"(?:sub|ses|run)-[A-Za-z0-9]+_?")
_BIDS_FILES = ("dataset_description.json", "participants.tsv")
_BIDS_DERIVED = ("derivatives", "sourcedata", "code")


@dataclass(frozen=True)
class Kinds:
    """The words that name a kind of image, in lower case.

    Attributes:
        roles: Which image of a case a word means: a source's name, ``"target"`` or ``"mask"``.
        modalities: ``"MR"``, ``"CT"`` or ``"MASK"`` by word; None for kinds that are neither.
    """

    roles: dict[str, str]
    modalities: dict[str, str | None]


@dataclass(frozen=True, order=True)
class Place:
    """Where an image belongs by its name.

    Attributes:
        parts: What is left of the path; images that share it are of one case.
        patient: The part of it that names the patient.
        name: Of the case.
    """

    parts: tuple[str, ...]
    patient: tuple[str, ...]
    name: str


@dataclass(frozen=True)
class Named:
    """What a name says of an image.

    Attributes:
        place: Where it belongs.
        role: Which image of a case it is: a source's name, ``"target"`` or ``"mask"``, or empty.
        modality: ``"MR"``, ``"CT"``, ``"MASK"``, or None.
        by_itself: Whether the name is the kind and nothing else, as in ``CASE/mr.nii.gz``.
    """

    place: Place
    role: str
    modality: str | None
    by_itself: bool


def kinds_of(config: Config) -> Kinds:
    """Return the words of a configuration, with the usual ones for MR, CT and masks."""
    data, images = config.data, config.preprocessing
    roles = {name.lower(): name for name in data.sources} | {data.target.lower(): TARGET}
    modalities: dict[str, str | None] = dict(MODALITY_OF_WORD)
    modalities |= {name.lower(): images.source.modality for name in data.sources}
    modalities[data.target.lower()] = images.target.modality
    if data.mask:
        roles[data.mask.lower()] = MASK
        modalities[data.mask.lower()] = "MASK"
    return Kinds(roles, modalities)


def read_file_name(parts: Sequence[str], kinds: Kinds) -> Named:
    """Read the name of a file.

    Args:
        parts: Its path below the searched folder, the last part without suffix.
        kinds: The words for kinds of images.
    """
    *folders, stem = parts
    subject = next((i for i, part in enumerate(folders) if _BIDS_SUBJECT.fullmatch(part)), None)
    if subject is not None:
        return _read_bids(folders, subject, stem, kinds)
    word = _last_kind(stem, kinds)
    if word is not None and word == stem.lower():
        return _named(_without_kinds(folders, kinds), word, kinds, by_itself=True)
    if word is None:
        word = next((w for f in reversed(folders) if (w := _last_kind(f, kinds))), None)
    if folders and _begins_with(stem, folders[-1]):
        return _named(_without_kinds(folders, kinds), word, kinds)
    left = [rest for part in (*folders, stem) if (rest := _without_words(part, kinds))]
    return _named(left, word, kinds)


def read_folder_name(parts: Sequence[str], kinds: Kinds) -> Named | None:
    """Read a folder that is named by a kind, as ``CASE/mr`` is; None for any other.

    Args:
        parts: Its path below the searched folder.
        kinds: The words for kinds of images.
    """
    for i in reversed(range(len(parts))):
        if parts[i].lower() in kinds.modalities:
            folders = _without_kinds(parts[:i], kinds)
            return _named(folders, parts[i].lower(), kinds, by_itself=True)
    return None


def description_of(stem: str) -> str:
    """Return a file's name without suffix, and without the subject, session and run of BIDS."""
    return _NOT_OF_THE_IMAGE.sub("", stem).strip("_") or stem


def is_kind(name: str, kinds: Kinds) -> bool:
    """Say whether a name consists of words for kinds of images, so that it names nobody."""
    return not _without_words(name, kinds)


def without_bids_derivatives(files: Sequence[Path]) -> list[Path]:
    """Leave out what lies in ``derivatives``, ``sourcedata`` and ``code`` of a BIDS data set."""
    homes = {file.parent for file in files if file.name in _BIDS_FILES}
    for file in files:
        homes |= {p.parent for p in file.parents if _BIDS_SUBJECT.fullmatch(p.name)}
    left_out = {home / name for home in homes for name in _BIDS_DERIVED}
    return [file for file in files if left_out.isdisjoint(file.parents)]


def _read_bids(folders: Sequence[str], subject: int, stem: str, kinds: Kinds) -> Named:
    patient = tuple(folders[: subject + 1])
    session = [part for part in folders[subject + 1 :] if _BIDS_SESSION.fullmatch(part)][:1]
    word = stem.rsplit("_", 1)[-1].lower()
    place = Place((*patient, *session), patient, "_".join([patient[-1], *session]))
    return Named(place, _role(word, kinds), kinds.modalities.get(word), by_itself=False)


def _named(
    parts: Sequence[str], word: str | None, kinds: Kinds, *, by_itself: bool = False
) -> Named:
    place = Place(tuple(parts), tuple(parts), parts[-1] if parts else "")
    if word is None:
        return Named(place, "", None, by_itself)
    return Named(place, _role(word, kinds), kinds.modalities[word], by_itself)


def _begins_with(name: str, start: str) -> bool:
    rest = name.lower().removeprefix(start.lower())
    return rest != name.lower() and not rest[:1].isalnum()


def _role(word: str, kinds: Kinds) -> str:
    """The role that a word means; a trailing "w" for "weighted" does not count."""
    return kinds.roles.get(word) or kinds.roles.get(word.removesuffix("w"), "")


def _last_kind(part: str, kinds: Kinds) -> str | None:
    if part.lower() in kinds.modalities:
        return part.lower()
    words = re.split(_BETWEEN_WORDS, part.lower())
    return next((word for word in reversed(words) if word in kinds.modalities), None)


def _without_kinds(parts: Sequence[str], kinds: Kinds) -> list[str]:
    """Leave out the parts that are a kind and nothing else."""
    return [part for part in parts if part.lower() not in kinds.modalities]


def _without_words(part: str, kinds: Kinds) -> str:
    """Take the words that name a kind out of a name, with what divides them from the rest."""
    known: Collection[str] = kinds.modalities
    pieces = re.split(f"({_BETWEEN_WORDS})", part)
    words, dividers = pieces[::2], [*pieces[1::2], ""]
    kept = [(w, d) for w, d in zip(words, dividers, strict=True) if w.lower() not in known]
    text = "".join(word + divider for word, divider in kept)
    return text if len(kept) == len(words) else text.strip("_-. \t")
