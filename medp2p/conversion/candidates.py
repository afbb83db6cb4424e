"""Something in a tree that is a scan, or could be taken for one."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medp2p.conversion.scan_names import Place
from medp2p.conversion.scans import ScanImage
from medp2p.conversion.wanted import Refusal
from medp2p.errors import MedP2PError
from medp2p.inspection import printable
from medp2p.io.geometry import refuse_sheared
from medp2p.volume import Grid, Volume

_COMMAND = re.compile(r"medp2p convert .* OUT (--[\w-]+(?: [^\s,;:]+)?).*", re.DOTALL)
"""The remedy that a reader names; group 1 is the option that helps."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One image, and why it is left out if it is.

    Attributes:
        place: What names it.
        image: What would be read.
        texts: What patterns are matched against, the most telling first. Never shown.
        visit: Images that share it can be the contrasts of one scan. Never shown.
        grid: Where its voxels lie; None where it is left out before that is known.
        refusal: Why it is left out; None if it is wanted.
    """

    place: Place
    image: ScanImage
    texts: tuple[str, ...] = ()
    visit: tuple[str, ...] = ()
    grid: Grid | None = None
    refusal: Refusal | None = None


def place_of_file(incoming: Path, path: Path) -> Place:
    """Return what names a file."""
    relative = path.relative_to(incoming)
    return Place(relative.parts[:-1], relative.name)


def without_image(incoming: Path, path: Path, refusal: Refusal) -> Candidate:
    """Make the candidate for something that is no image, or cannot be looked at."""
    return Candidate(place_of_file(incoming, path), ScanImage(path, (path,)), refusal=refusal)


def refuse_shear(path: Path, grid: Grid) -> None:
    """Refuse axes that are not perpendicular.

    Raises:
        GeometryError: If they are not.
    """
    refuse_sheared(Volume(np.zeros((1, 1, 1), np.uint8), grid.affine, path=path))


def unreadable(error: MedP2PError, image: ScanImage, *, hide_names: bool) -> Refusal:
    """Take over the reader's words, with paths as seen from the image's folder.

    Of a command that helps only the option is kept.

    Args:
        error: What the reader said.
        image: What it was about.
        hide_names: Whether names of files are left out, too.
    """
    text = _COMMAND.sub(r"medp2p convert … \1", str(error).removeprefix(f"{image.path}: "))
    for file in image.files if hide_names else ():
        text = text.replace(str(file), "a file")
    home = image.path if image.path not in image.files else image.path.parent
    return Refusal("damaged", printable(text.replace(f"{home}{os.sep}", "")), failed=True)


def shown(path: Path, hide_names: bool) -> str:
    """Return a file's name as a reason may hold it."""
    return "a file" if hide_names else printable(path.name)


def time_series(volumes: int) -> Refusal:
    """Refuse several volumes in one."""
    return Refusal("time_series", f"{volumes} volumes (a time series, or several contrasts) in one")
