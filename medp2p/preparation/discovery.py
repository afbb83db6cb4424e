"""What images lie below a folder, and of whom.

Headers are read once and voxels never. Patients are told apart by what the headers say, and named
by the user's own folders and files: nothing that a header says of a patient comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from medp2p.config import Config
from medp2p.errors import ManifestError
from medp2p.files import files_below
from medp2p.inspection import noting, printable
from medp2p.io import image_name, image_suffix, is_picture, read_grid, read_modality
from medp2p.io.dicom_files import Scan, scan_files
from medp2p.io.dicom_kinds import lost_files
from medp2p.io.geometry import refuse_sheared
from medp2p.preparation.dicom_discovery import dicom_candidates, empty_volume
from medp2p.preparation.found_image import Candidate, FoundImage, place_token, relative_folder
from medp2p.preparation.layouts import (
    Kinds,
    Named,
    Place,
    description_of,
    kinds_of,
    read_file_name,
    without_bids_derivatives,
)
from medp2p.preparation.patients import with_patients
from medp2p.preparation.previous import MARKER_FILE
from medp2p.preparation.tables import TableImage, read_table

__all__ = ["FoundImage", "find_images", "list_files"]

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar")


def list_files(data: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """List what `find_images` will look at.

    Returns:
        Every file at any depth that is not hidden, sorted, without the derivatives of a BIDS data
        set and without prepared folders; and the folders that cannot be listed, with the reason.

    Raises:
        ManifestError: If there is no such folder, it cannot be listed, or is a prepared one.
    """
    if not data.is_dir():
        raise ManifestError(f"{data}: not a folder; expected a folder of scans or a table (.csv)")
    closed: list[tuple[Path, str]] = []

    def note(error: OSError) -> None:
        closed.append((Path(error.filename), f"cannot be listed: {error.strerror}"))

    if (data / MARKER_FILE).exists():
        raise ManifestError(f"{data}: made by medp2p prepare; expected the folder of the scans")
    files = _without_prepared(data, without_bids_derivatives(sorted(files_below(data, note))))
    if closed and closed[0][0] == data:
        raise ManifestError(f"{data}: {closed[0][1]}")
    return files, closed


def _without_prepared(data: Path, files: Iterable[Path]) -> list[Path]:
    """Leave out what `medp2p.preparation` wrote: folders that hold its marker, and all below."""
    prepared = {data: False}

    def is_prepared(folder: Path) -> bool:
        if folder not in prepared:
            marked = (folder / MARKER_FILE).exists()
            prepared[folder] = marked or is_prepared(folder.parent)
        return prepared[folder]

    return [file for file in files if not is_prepared(file.parent)]


def find_images(
    data: Path,
    config: Config,
    progress: Callable[[], None] | None = None,
    *,
    files: Sequence[Path] | None = None,
) -> list[FoundImage]:
    """List the images below a folder, or those that a table (``.csv``, ``.tsv``) names.

    What cannot be read is listed too, with the problem.

    Args:
        data: A folder in any of the layouts of ``docs/pairing.md``, or a table.
        config: Names of the images, their modalities, and the pattern of patients' names.
        progress: Called after each file of a folder.
        files: What `list_files` found there, if that is known already.

    Raises:
        ManifestError: If there is none, or the table does not hang together.
    """
    if data.suffix.lower() in (".csv", ".tsv"):
        return _images_of_table(data, config)
    closed: list[tuple[Path, str]] = []
    if files is None:
        files, closed = list_files(data)
    scan = scan_files(files, progress)
    kinds = kinds_of(config)
    items = [
        *dicom_candidates(data, scan, kinds),
        *_file_items(data, scan, kinds),
        *_lost_items(data, scan, closed),
    ]
    if not items:
        raise _no_case(data, files, config)
    return with_patients(data, items, config)


def _no_case(data: Path, files: Iterable[Path], config: Config) -> ManifestError:
    if any(is_picture(file) for file in files):
        return ManifestError(
            f"{data}: no case found, but PNG pictures; for aligned pairs of 8-bit pictures use "
            "--preset pix2pix_png, for scans give the DICOM or NIfTI files"
        )
    return ManifestError(
        f"{data}: no case found; expected CT or MR series, or image files that are named such "
        f"as CASE/{config.data.sources[0]}.nii.gz and CASE/{config.data.target}.nii.gz "
        "(set data.sources and data.target for other names)"
    )


def _lost_items(data: Path, scan: Scan, closed: Iterable[tuple[Path, str]]) -> list[Candidate]:
    """What may hold images that nobody can see."""
    archives = [
        (path, "an archive; unpack it")
        for path, _ in scan.skipped
        if path.name.lower().endswith(_ARCHIVES)
    ]
    lost = [*lost_files(scan), *archives, *closed]
    return [
        Candidate(
            FoundImage(path, description=printable(path.name), problems=(reason,)),
            relative_folder(data, path.parent),
        )
        for path, reason in sorted(lost)
    ]


def _file_items(data: Path, scan: Scan, kinds: Kinds) -> list[Candidate]:
    paths = [p for p, reason in scan.skipped if image_suffix(p) and reason == "not DICOM"]
    paths += [p for p, reason in scan.skipped if image_suffix(p) and reason == "0 bytes"]
    names = {
        path: read_file_name((*relative_folder(data, path.parent), image_name(path)), kinds)
        for path in sorted(paths)
    }
    cases = {path.parent: named.place for path, named in names.items() if named.by_itself}
    return [_file_item(data, path, named, cases.get(path.parent)) for path, named in names.items()]


def _file_item(data: Path, path: Path, named: Named, case: Place | None) -> Candidate:
    """The image in a file, which belongs to the case of its folder if that is a case folder."""
    role = named.role if named.by_itself or not case else ""
    image = _image_of_file(path, role, named.modality)
    place = case or named.place
    tokens = frozenset({place_token(place)})
    return Candidate(image, relative_folder(data, path.parent), place, place.parts, tokens=tokens)


def _image_of_file(path: Path, role: str, modality: str | None) -> FoundImage:
    """Read what a file that is not DICOM says of itself, against what it is called."""
    problems: list[str] = []
    stated, grid = None, None
    with noting(problems, path):
        stated = read_modality(path)
        grid = read_grid(path)
        refuse_sheared(empty_volume(path, grid))
    if stated and modality and stated != modality:
        problems.append(f"its name or table says {modality}, and its header says {stated}")
    return FoundImage(
        path=path,
        modality=modality or stated,
        description=printable(description_of(image_name(path))),
        role=role,
        grid=grid,
        problems=tuple(problems),
    )


def _images_of_table(table: Path, config: Config) -> list[FoundImage]:
    kinds = kinds_of(config)
    scans: dict[Path, list[FoundImage]] = {}
    images = []
    for row in read_table(table, config):
        if row.path not in scans:
            scans[row.path] = _images_at(row.path, kinds)
        images += [_as_stated(image, row) for image in _chosen(scans[row.path], row)]
    return images


def _images_at(path: Path, kinds: Kinds) -> list[FoundImage]:
    """The image in a file, or the series in a folder."""
    if not path.exists():
        return [FoundImage(path, problems=("does not exist",))]
    if path.is_file() and image_suffix(path):
        return [_image_of_file(path, "", None)]
    data = path if path.is_dir() else path.parent
    files, closed = list_files(path) if path.is_dir() else ([path], [])
    scan = scan_files(files)
    items = [*dicom_candidates(data, scan, kinds), *_lost_items(data, scan, closed)]
    return [item.image for item in items] or [FoundImage(path, problems=("holds no image",))]


def _chosen(images: Sequence[FoundImage], row: TableImage) -> list[FoundImage]:
    """The series that a row names, or all."""
    if not row.series:
        return list(images)
    found = [image for image in images if image.series == row.series]
    return found or [FoundImage(row.path, problems=(f"holds no series {row.series}",))]


def _as_stated(image: FoundImage, row: TableImage) -> FoundImage:
    problems = image.problems
    if image.modality and row.modality and image.modality != row.modality:
        problems += (f"the table says {row.modality}, and its header says {image.modality}",)
    return replace(
        image,
        patient=row.patient,
        modality=row.modality or image.modality,
        description=image.description or printable(image_name(row.path)),
        role=row.role,
        case=row.case,
        unit=row.unit,
        person="",
        problems=problems,
    )
