"""What voxels are by a note in our own files, such as ``medp2p CT HU``, or by a file's name."""

from __future__ import annotations

import re

from medp2p.volume import Volume

_NOTE = re.compile(r"medp2p(?: (?P<modality>CT|MR|MASK|8-bit))?(?: (?P<units>HU))?")

MODALITY_OF_WORD: dict[str, str | None] = {
    **dict.fromkeys(("mr", "mri", "mprage", "flair", "t1", "t1w", "t1c", "t1ce", "t1gd"), "MR"),
    **dict.fromkeys(("t2", "t2w", "pd", "pdw", "t1rho", "inplanet1", "inplanet2"), "MR"),
    "ct": "CT",
    **dict.fromkeys(("mask", "masks", "seg", "dseg", "label", "labels"), "MASK"),
    **dict.fromkeys(("cbct", "pet"), None),
}
"""What the words in names of files and folders say that an image is; None for another kind."""


def note(volume: Volume) -> str:
    """Return the note for a volume's header."""
    return " ".join(["medp2p", *(word for word in (volume.modality, volume.units) if word)])


def meaning_of(text: str) -> tuple[str | None, str | None]:
    """Return modality and units that a note states, or None for each that it does not."""
    match = _NOTE.fullmatch(text.strip("\0 "))
    return (match["modality"], match["units"]) if match else (None, None)
