"""What a tree holds for a model, and of everything else in one line why it is left out.

Headers are read once and voxels never. What a header says of the patient decides which images
belong together and goes no further: it is in no name and in no reason. Series descriptions are
matched against patterns, and not shown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medp2p.conversion.candidates import Candidate, without_image
from medp2p.conversion.contrasts import check_sources, join_contrasts
from medp2p.conversion.dicom_candidates import dicom_candidates
from medp2p.conversion.file_candidates import file_candidates, other_candidates
from medp2p.conversion.rules import Rules
from medp2p.conversion.scan_names import hashed, name_of
from medp2p.conversion.scans import LeftOut, Scan, Worklist
from medp2p.conversion.tree import Tree, read_tree
from medp2p.conversion.wanted import Refusal, Wanted, check_modality, wanted_for
from medp2p.io.dicom_files import Scan as Headers
from medp2p.io.dicom_files import scan_files

if TYPE_CHECKING:
    from medp2p.checkpoint import ModelCard


def check_rules(rules: Rules, card: ModelCard) -> None:
    """Refuse rules by which nothing could be translated.

    Raises:
        ConfigError: If the rules name other contrasts or another modality than the model has.
    """
    check_sources(rules, card.source_names)
    check_modality(rules, card)


def make_worklist(
    incoming: Path, rules: Rules, card: ModelCard, progress: Callable[[], None] | None = None
) -> Worklist:
    """Find what a model is for.

    Args:
        incoming: A tree of DICOM studies and image files; `medp2p.conversion.tree` says which links
            are followed.
        rules: What is wanted.
        card: Of the model.
        progress: Called after each file.

    Returns:
        What is to be translated, and what is left out. A file that is no image at all is in
        neither, nor is what is hidden unless there is nothing else.

    Raises:
        ImageReadError: If there is no such folder, or it holds results of a batch.
        ConfigError: If the rules name other contrasts or another modality than the model has.
    """
    check_rules(rules, card)
    tree = read_tree(incoming)
    headers = scan_files(tree.files, progress)
    found = find_candidates(incoming, tree, headers, wanted_for(rules, card))
    worklist = join_candidates(found or _hidden(incoming, tree, rules), rules, card)
    return replace(worklist, looked_in=("",), names=names_in(worklist))


def names_in(worklist: Worklist) -> frozenset[str]:
    """Names of all that is on a worklist."""
    scans = {scan.name for scan in worklist.scans}
    return frozenset(scans.union(left_out.name for left_out in worklist.left_out))


def find_candidates(
    incoming: Path, tree: Tree, headers: Headers, wanted: Wanted
) -> dict[str, Candidate]:
    """Return all that is a scan or could be taken for one, by name and in order of names.

    Args:
        incoming: The searched folder.
        tree: What lies there, or a part of it that holds all files of a folder and of a series.
        headers: Of its files.
        wanted: What is wanted.
    """
    found = [
        *dicom_candidates(incoming, headers, wanted),
        *file_candidates(incoming, tree, headers, wanted),
        *other_candidates(incoming, tree, headers),
    ]
    named: dict[str, Candidate] = {}
    for one in sorted(found, key=lambda one: not one.place.is_image):
        name = _name(one, wanted.rules)
        if name in named and not one.place.is_image:
            name = f"{name}~{hashed(name)[:8]}"
        named[name] = _one_of_two(named[name], one) if name in named else one
    return dict(sorted(named.items()))


def join_candidates(found: Mapping[str, Candidate], rules: Rules, card: ModelCard) -> Worklist:
    """Make scans of the images that are wanted; the rest is left out.

    Args:
        found: By name; images that belong together all or none.
        rules: What is wanted.
        card: Of the model.
    """
    takeable = {name: one for name, one in found.items() if one.refusal is None}
    refusals = {name: one.refusal for name, one in found.items() if one.refusal}
    joined, incomplete = join_contrasts(takeable, rules, card.source_names)
    return Worklist(
        tuple(_scan([takeable[name] for name in names], names[0]) for names in joined),
        tuple(
            LeftOut(name, why.code, why.reason, why.failed, found[name].image.files)
            for name, why in sorted({**refusals, **incomplete}.items())
        ),
    )


def shard(worklist: Worklist, number: int, count: int) -> Worklist:
    """Return one of several parts of a worklist; each scan is in exactly one.

    Which one follows from the scan's name, whatever else is in the list.

    Args:
        worklist: All.
        number: Which part, from 1.
        count: How many parts.

    Raises:
        ValueError: If there is no such part.
    """
    if not 1 <= number <= count:
        raise ValueError(f"part {number} of {count}; parts are numbered from 1")

    def is_here(one: Scan | LeftOut) -> bool:
        return int(hashlib.sha256(one.name.encode()).hexdigest(), 16) % count == number - 1

    return replace(
        worklist,
        scans=tuple(filter(is_here, worklist.scans)),
        left_out=tuple(filter(is_here, worklist.left_out)),
    )


def _hidden(incoming: Path, tree: Tree, rules: Rules) -> dict[str, Candidate]:
    """Leave out, as one, what is hidden in a tree in which nothing else was found."""
    if not tree.hidden:
        return {}
    count = len(tree.hidden)
    reason = (
        f"{count} hidden {'file or folder' if count == 1 else 'files or folders'} and nothing else "
        "that could be translated; names that begin with a dot are left out: rename what is wanted"
    )
    one = without_image(incoming, min(tree.hidden), Refusal("hidden", reason))
    return {_name(one, rules): one}


def _name(candidate: Candidate, rules: Rules) -> str:
    name = name_of(candidate.place)
    return hashed(name) if rules.hash_names else name


def _one_of_two(first: Candidate, second: Candidate) -> Candidate:
    """Leave out what cannot be told apart, such as scouts of one series; damage counts more."""
    refusals = [one.refusal for one in (first, second) if one.refusal]
    if len(refusals) < 2:
        refusals = [Refusal("ambiguous", "is there twice under one name", failed=True)]
    refusal = next((why for why in refusals if why.failed), refusals[0])
    files = tuple(sorted({*first.image.files, *second.image.files}))
    return replace(first, image=replace(first.image, files=files), refusal=refusal)


def _scan(candidates: Sequence[Candidate], name: str) -> Scan:
    first = candidates[0].grid
    images = tuple(one.image for one in candidates)
    return Scan(
        name,
        images,
        voxels=first.shape[0] * first.shape[1] * first.shape[2] if first else 0,
        modified=_modified([file for image in images for file in image.files]),
    )


def _modified(files: Sequence[Path]) -> float:
    """When the newest of some files was changed; what is gone by now does not count."""
    newest = 0.0
    for file in files:
        with suppress(OSError):
            newest = max(newest, file.stat().st_mtime)
    return newest
