"""What is to be translated, as plain data that goes from process to process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ScanImage:
    """One image of a scan.

    Attributes:
        path: What `medp2p.io.read_volume` reads: an image file, or the folder or a file of a
            DICOM series.
        files: Every file that its voxels and header come from.
        series: Which DICOM series of ``path``, ``KEY`` or ``KEY/GROUP``; empty for other files.
    """

    path: Path
    files: tuple[Path, ...]
    series: str = ""


@dataclass(frozen=True)
class Scan:
    """One thing to translate.

    Attributes:
        name: Its place in the tree, printable, with forward slashes: the file without ``.nii.gz``,
            or for a DICOM series its folder and ``series-KEY_KIND``.
        images: One per source contrast of the model, in the model's order.
        voxels: Of the first image, from its header; 0 if that does not say.
        modified: When the newest of its files was last changed, seconds since 1970.
    """

    name: str
    images: tuple[ScanImage, ...]
    voxels: int = 0
    modified: float = 0.0


@dataclass(frozen=True)
class LeftOut:
    """Something in the tree that is not translated.

    Attributes:
        name: As of a `Scan`.
        code: The reason in a word, to count by: ``modality``, ``description``, ``few_slices``,
            ``plane``, ``date``, ``damaged``, ``ambiguous``, ``foreign`` and the like.
        reason: In one line: what was found and what was expected.
        failed: Whether it is damaged, rather than not wanted.
        files: Of the image, as of a `ScanImage`; empty where they are not known.
    """

    name: str
    code: str
    reason: str
    failed: bool = False
    files: tuple[Path, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Worklist:
    """What a tree holds for a model.

    Attributes:
        scans: In order of their names.
        left_out: The others.
        looked_in: What was looked at as a whole: how the names there begin; ``("",)`` is all.
        names: Of everything that is there, whether or not it is new or in this part of the list.
    """

    scans: tuple[Scan, ...]
    left_out: tuple[LeftOut, ...] = field(default=())
    looked_in: tuple[str, ...] = field(default=(), compare=False)
    names: frozenset[str] = field(default=frozenset(), compare=False)
