"""The note in our own files that says what their voxels are, such as ``medp2p CT HU``."""

from __future__ import annotations

import re

from medp2p.volume import Volume

_NOTE = re.compile(r"medp2p(?: (?P<modality>CT|MR|MASK|8-bit))?(?: (?P<units>HU))?")


def note(volume: Volume) -> str:
    """Return the note for a volume's header."""
    return " ".join(["medp2p", *(word for word in (volume.modality, volume.units) if word)])


def meaning_of(text: str) -> tuple[str | None, str | None]:
    """Return modality and units that a note states, or None for each that it does not."""
    match = _NOTE.fullmatch(text.strip("\0 "))
    return (match["modality"], match["units"]) if match else (None, None)
