"""Aligned 8-bit pictures in the two layouts of the original pix2pix, taken as they are.

- side by side: ``train/1.png`` shows both images, the left one and the right one
- folders: ``A/train/1.png`` and ``B/train/1.png``, of one size

``A`` and ``B`` are the names in ``data.sources`` and ``data.target``. Of pictures side by side the
first name in alphabetical order is the left one, so that exchanging the names turns the direction.
The folders ``train``, ``val`` (or ``validation``) and ``test`` are the splits; without them
patients are split at random. Each picture is a patient of its own unless ``data.patient_pattern``
finds the patient in its path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from medp2p.config import EIGHT_BIT, Config
from medp2p.errors import ManifestError, MedP2PError
from medp2p.inspection import printable
from medp2p.io import is_picture, read_grid
from medp2p.manifest import TARGET, Case, dicom_options
from medp2p.preparation.found_image import FoundImage
from medp2p.preparation.plan import LeftOut, Pair, Plan
from medp2p.splits import Split

SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "val": "validation",
    "validation": "validation",
    "test": "test",
}
SIDES = ("left", "right")


def plan_of_pictures(data: Path, config: Config) -> Plan:
    """Pair the pictures below a folder.

    Args:
        data: The folder, in either layout.
        config: Names of the images, and the pattern of patients' names.

    Raises:
        ManifestError: If there are no pictures in either layout.
    """
    names = [*config.data.sources, config.data.target]
    if not data.is_dir():
        raise ManifestError(f"{data}: not a folder; expected a folder of PNG pictures")
    folders = [data / name for name in names]
    if all(folder.is_dir() for folder in folders):
        found = list(_pairs_in_folders(folders, config))
    elif len(names) == 2:
        found = list(_pairs_side_by_side(data, config))
    else:
        found = []
    if not found:
        raise ManifestError(
            f"{data}: no pairs of pictures; expected {names[0]}/train/1.png and "
            f"{names[-1]}/train/1.png, or train/1.png with both side by side (JPEG files have to "
            "be converted)"
        )
    pairs = tuple(one for one in found if isinstance(one, Pair))
    left_out = tuple(one for one in found if isinstance(one, LeftOut))
    return Plan(pairs, left_out, ())


def _pairs_in_folders(folders: Sequence[Path], config: Config) -> Iterator[Pair | LeftOut]:
    places = sorted({path.relative_to(f) for f in folders for path in _pictures(f)})
    for place in places:
        paths = [folder / place for folder in folders]
        missing = [path for path in paths if not path.exists()]
        if missing:
            there = tuple(FoundImage(path) for path in paths if path not in missing)
            reason = f"there is no {missing[0]}; add it, or leave its partner out"
            yield LeftOut(_case_name(place), "reject", reason, there)
        else:
            yield _pair(place, paths, [""] * len(paths), "same name in both folders", config)


def _pairs_side_by_side(data: Path, config: Config) -> Iterator[Pair | LeftOut]:
    names = [*config.data.sources, config.data.target]
    sides = SIDES if names == sorted(names) else SIDES[::-1]
    for path in _pictures(data):
        yield _pair(path.relative_to(data), [path, path], sides, "side by side", config)


def _pictures(folder: Path) -> list[Path]:
    """The pictures in a folder and in those of its splits."""
    folders = [folder, *(folder / name for name in SPLIT_FOLDERS)]
    entries = [path for one in folders if one.is_dir() for path in sorted(one.iterdir())]
    return [path for path in entries if is_picture(path) and path.is_file()]


def _pair(
    place: Path, paths: Sequence[Path], parts: Sequence[str], reason: str, config: Config
) -> Pair | LeftOut:
    patient = _patient(place, config.data.patient_pattern)
    name = _case_name(place)
    images = [_image(path, part, patient) for path, part in zip(paths, parts, strict=True)]
    problem = _problem(images)
    if problem:
        return LeftOut(patient, "reject", problem, tuple(images))
    *sources, target = images
    by_name = dict(zip(config.data.sources, sources, strict=True))
    named = {**by_name, TARGET: target}
    stated = Case(
        name=name,
        patient=patient,
        split=SPLIT_FOLDERS.get(place.parts[0]) if len(place.parts) > 1 else None,
        sources={source: image.path for source, image in by_name.items()},
        target=target.path,
        mask=None,
        series={role: image.series for role, image in named.items() if image.series},
    )
    return Pair(name, patient, by_name, target, None, (reason,), None, True, stated)


def _image(path: Path, part: str, patient: str) -> FoundImage:
    problems: tuple[str, ...] = ()
    grid = None
    try:
        grid = read_grid(path, dicom=dicom_options(part))
    except MedP2PError as error:
        problems = (str(error),)
    return FoundImage(path, patient, series=part, modality=EIGHT_BIT, grid=grid, problems=problems)


def _problem(images: Sequence[FoundImage]) -> str | None:
    problems = [problem for image in images for problem in image.problems]
    if problems:
        return problems[0]
    sizes = [image.grid.shape[:2] for image in images if image.grid]
    if len(set(sizes)) > 1:
        shown = " and ".join("×".join(map(str, size)) for size in sizes)
        return f"{images[0].path} and its partner have {shown} pixels, expected one size"
    return None


def _case_name(place: Path) -> str:
    return printable("_".join(place.with_suffix("").parts))


def _patient(place: Path, pattern: str | None) -> str:
    if pattern is None:
        return _case_name(place)
    match = re.search(pattern, place.as_posix())
    if not (match and match.groups()):
        raise ManifestError(
            f"{place}: data.patient_pattern {pattern!r} finds no patient in the path; expected a "
            "pattern with one group that matches every picture"
        )
    return printable(match[1])
