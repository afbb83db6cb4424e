"""An image that discovery found, before and after it is known whose it is."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path

from medp2p.io import DicomOptions
from medp2p.preparation.layouts import Place
from medp2p.volume import Grid

_NOBODY = ""


Folder = tuple[str, ...]
"""A folder's path below the searched one, as its parts."""


@dataclass(frozen=True, eq=False)
class FoundImage:
    """One volume that could be a source, a target or a mask.

    Attributes:
        path: The file, or the folder that holds the series.
        patient: Name of the patient within this run, empty if nothing tells whose it is.
        series: Which DICOM series at the path, ``KEY`` or ``KEY/GROUP``; empty for other files.
        files: The files of a DICOM series, so that nobody has to look for them again.
        modality: ``"MR"``, ``"CT"`` or ``"MASK"`` where a name, table or header says it.
        description: The series description as `medp2p.inspection` shows it, or the file's name.
        contrast: What else tells images apart: timing in milliseconds, contrast agent, kind.
        derived: How it was made of other images: ``"projection"``, ``"subtraction"`` or
            ``"reformatted"``; empty for what a scanner measured, as far as known.
        role: Which image of a case this is where a name or a table says it: a source's name,
            ``"target"`` or ``"mask"``; else empty.
        case: Name that the user's folders and files give to its case, else empty.
        grid: Where its voxels lie, None if the header does not say.
        unit: Images that are one case by their names or table share it. Never shown.
        study: Images of one study share it; empty where unknown. Never shown.
        day: When it was taken. Never shown; only differences in days are.
        frame_of_reference: Images that share it share positions; empty where unknown. Never shown.
        person: Hash of what the header says of the patient; empty where it says nothing, or
            where the user said who it is. Never shown.
        problems: What keeps it from being used.
    """

    path: Path
    patient: str = _NOBODY
    series: str = ""
    files: tuple[Path, ...] = field(default=(), repr=False)
    modality: str | None = None
    description: str = ""
    contrast: str = ""
    derived: str = ""
    role: str = ""
    case: str = ""
    grid: Grid | None = field(default=None, repr=False)
    unit: str = field(default="", repr=False)
    study: str = field(default="", repr=False)
    day: datetime.date | None = field(default=None, repr=False)
    frame_of_reference: str = field(default="", repr=False)
    person: str = field(default="", repr=False)
    problems: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The image in words: its description, and what ``--series`` takes."""
        if not self.series:
            return f"'{self.words}'"
        return f"'{self.words}' ({self.series})" if self.words else self.series

    @property
    def words(self) -> str:
        """Description and contrast."""
        return ", ".join(word for word in (self.description, self.contrast) if word)

    @property
    def dicom_options(self) -> DicomOptions | None:
        """What `medp2p.io.read_volume` needs to read this series without a search."""
        if not self.series:
            return None
        key, _, group = self.series.partition("/")
        return DicomOptions(series=key, group=int(group) if group else None, files=self.files)


@dataclass(frozen=True)
class Candidate:
    """An image, and what tells whose it is.

    Attributes:
        image: The image.
        folder: Where it lies.
        place: What names its case and patient; None for what its header tells apart.
        unit: What its path has in common with images of the same case, if its name says it.
        fallback: Name of the patient where no folder has one.
        tokens: Images that share one of these are of one patient.
    """

    image: FoundImage
    folder: Folder
    place: Place | None = None
    unit: Folder | None = None
    fallback: str = _NOBODY
    tokens: frozenset[str] = frozenset()


def with_parents(folder: Folder) -> list[Folder]:
    """Return a folder and those around it below the searched one, the innermost first."""
    return [folder[:depth] for depth in range(len(folder), 0, -1)]


def place_token(place: Place) -> str:
    """Return the token that images of one patient by their names share."""
    return f"place {'/'.join(place.patient)}"


def relative_folder(data: Path, path: Path) -> Folder:
    """Return a folder as its parts below the searched one."""
    return path.relative_to(data).parts
