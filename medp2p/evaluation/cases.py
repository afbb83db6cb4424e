"""Which files belong to which case: two images, folders, a manifest, several methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from medp2p.errors import ConfigError, EvaluationError, ImageReadError, ManifestError
from medp2p.io import image_name, is_image
from medp2p.manifest import TARGET, Case, is_named_image, read_rows, read_split
from medp2p.results import CaseFiles

PREDICTION_NAMES = ("sct", "prediction")
"""Names, beside the target's own, of the prediction among several images of a case folder."""
CASE_FOLDER_LEVELS = 3
"""Case folders are looked for this deep: ``CASE/`` is 1, ``brain/CASE/`` is 2."""

SOURCE_NAMES = ("mr", "cbct", "source")
"""Names of the image that was translated, beside the reference in a case folder."""
LABEL_NAMES = ("labels", "segmentation", "seg")
"""Names of the label map among several images of a case folder."""

Pairing = tuple[list[CaseFiles], dict[str, str]]
"""The cases that can be compared, and for every other case why it is left out."""
Found = tuple[dict[str, Path], dict[str, str]]
"""One image per case, and for cases with none or several what is wrong."""


@dataclass(frozen=True)
class Layout:
    """Where the files of a cohort lie beside predictions and references.

    Attributes:
        mask: A mask image, or for folders a folder of masks; None takes those beside the
            references, or a manifest's.
        target_name: File name, without suffix, of the reference in a case folder.
        mask_name: File name, without suffix, of the mask in a case folder.
        split: The cases of a manifest that count, or ``"all"``.
        reference_labels: A label map of the reference, or a folder with one for each case.
        region: A file with the region to compare, or a folder with one for each case.
    """

    mask: Path | None = None
    target_name: str = "ct"
    mask_name: str = "mask"
    split: str = "test"
    reference_labels: Path | None = None
    region: Path | None = None


DEFAULT_LAYOUT = Layout()


def pair_methods(
    predictions: Mapping[str, Path],
    reference: Path,
    layout: Layout = DEFAULT_LAYOUT,
    *,
    labels: Mapping[str, Path] = MappingProxyType({}),
) -> dict[str, Pairing]:
    """Find the cases of every method.

    Args:
        predictions: By method, an image, a folder, or a table (``.csv``) with the columns
            ``case`` and ``prediction``, or ``prediction_<method>`` for several.
        reference: As for `pair_paths`.
        layout: Where the other files lie.
        labels: By method, a label map of the prediction, or a folder with one for each case.

    Raises:
        ConfigError: If a method is there twice, or label maps are there for one side only.
        ManifestError: If a table of predictions cannot be read.
        EvaluationError: As for `pair_paths`.
        ImageReadError: As for `pair_paths`.
    """
    found: dict[str, Path | Found] = {}
    for name, path in predictions.items():
        tables = read_predictions(path) if path.suffix.lower() == ".csv" else {"": path}
        for method, images in tables.items():
            full_name = "/".join(part for part in (name, method) if part)
            if full_name in found:
                raise ConfigError(f"{path}: the method {full_name!r} is there twice; rename one")
            found[full_name] = images
    pairings = {
        method: pair_paths(images, reference, layout, alone=len(found) == 1)
        for method, images in found.items()
    }
    pairings = {
        method: with_extras(pairing, layout, labels.get(method))
        for method, pairing in pairings.items()
    }
    if any(files.mask for pairs, _ in pairings.values() for files in pairs):
        pairings = {m: _without_unmasked(*pairing) for m, pairing in pairings.items()}
    return pairings


def pair_paths(
    prediction: Path | Found,
    reference: Path,
    layout: Layout = DEFAULT_LAYOUT,
    *,
    alone: bool = True,
) -> Pairing:
    """Return the one case of two images, or match the cases of folders or a manifest.

    Args:
        prediction: An image, a folder, or the images of cases that were found before.
        reference: An image, a folder, or a manifest (``.csv``), whose targets and masks are
            taken.
        layout: Where the other files lie; no mask with a manifest.
        alone: Whether this is the only method: a pair of images is then named after the
            prediction, else after the reference.

    Raises:
        ConfigError: If there is a mask beside a manifest.
        EvaluationError: If one path is a file and another a folder, or folders have no case
            in common.
        ImageReadError: If a path does not exist.
    """
    given = [prediction] if isinstance(prediction, Path) else []
    paths = [*given, reference, *([layout.mask] if layout.mask else [])]
    for path in paths:
        if not path.exists():
            raise ImageReadError(f"{path}: no such file or folder; check the path")
    if reference.suffix.lower() == ".csv":
        if layout.mask:
            raise ConfigError(f"{reference}: the manifest names the masks; leave out --mask")
        cases, failures = read_split(reference, layout.split)
        return pair_manifest(prediction, cases, failures)
    if not isinstance(prediction, Path):
        return pair_folders(prediction, reference, layout)
    folders = [path for path in paths if path.is_dir() and not is_image(path)]
    images = [path for path in paths if path not in folders]
    if folders and images:
        raise EvaluationError(
            f"{folders[0]} is a folder and {images[0]} an image; give all of a kind"
        )
    if folders:
        return pair_folders(prediction, reference, layout)
    case = image_name(prediction if alone else reference)
    return [CaseFiles(case, prediction, reference, layout.mask)], {}


def read_predictions(table: Path) -> dict[str, Found]:
    """Read which image every method predicted for every case.

    Args:
        table: A CSV with a column ``case`` and one column ``prediction`` or several
            ``prediction_<method>``; paths are relative to its folder or absolute, an empty one
            is a case without prediction. Other columns don't matter, so it may be a manifest.

    Returns:
        By method ("" for the column ``prediction``) the image of each case.

    Raises:
        ManifestError: If it cannot be read or has no such column.
    """
    columns, rows = read_rows(table)
    named = {c: c.removeprefix("prediction").removeprefix("_") for c in columns}
    methods = {c: method for c, method in named.items() if c.startswith("prediction")}
    if "case" not in columns or not methods:
        raise ManifestError(
            f"{table}: found the columns {', '.join(columns) or 'none'}; expected case and "
            "prediction, or prediction_<method> for each of several methods"
        )
    times = Counter(row["case"] for row in rows)
    twice = {
        case: f"{table}: case {case} is there {count} times; leave one row"
        for case, count in times.items()
        if count > 1
    }
    found: dict[str, Found] = {}
    for column, method in methods.items():
        images = {
            row["case"]: table.parent / row[column]
            for row in rows
            if row[column] and row["case"] not in twice
        }
        found[method] = images, dict(twice)
    return found


def case_files(case: Case, prediction: Path | None = None) -> CaseFiles:
    """Return the files of a manifest's case, with its prediction if there is one on disk."""
    return CaseFiles(
        case.name,
        prediction,
        case.target,
        case.mask,
        case.series.get(TARGET, ""),
        case.transforms.get(TARGET),
        next(iter(case.sources.values())),
    )


def pair_manifest(
    prediction: Path | Found,
    cases: Sequence[Case],
    failures: Mapping[str, str] = MappingProxyType({}),
) -> Pairing:
    """Match predictions with the targets and masks of a manifest's cases.

    As in `pair_folders`, where some cases have a mask, all must.

    Args:
        prediction: A folder, or the images of cases that were found before.
        cases: The manifest's cases that count.
        failures: Why other cases of the manifest cannot be compared.

    Raises:
        ImageReadError: If the folder does not exist.
        EvaluationError: If no case has a prediction.
    """
    predictions, unusable = _found(prediction, PREDICTION_NAMES)
    predicted = predictions.keys() | unusable.keys()
    if not any(name in predicted for name in (*(case.name for case in cases), *failures)):
        raise EvaluationError(
            f"no case in common: {_place(prediction)} has {_listed(predicted)}, the manifest "
            f"{', '.join(case.name for case in cases[:4]) or 'none in this split'}"
        )
    missing = f"no prediction for this case in {_place(prediction)}"
    left_out = dict(failures) | {
        case.name: unusable.get(case.name, missing)
        for case in cases
        if case.name not in predictions
    }
    pairs = [case_files(case, predictions[case.name]) for case in cases if case.name in predictions]
    return _alike_masked(pairs, left_out)


def pair_folders(
    prediction: Path | Found,
    reference: Path,
    layout: Layout = DEFAULT_LAYOUT,
) -> Pairing:
    """Match the cases of two folders by name.

    A prediction is ``CASE.nii.gz`` (any image format, ``CASE.dcm`` too), a folder ``CASE/`` of
    DICOM files, or the one image in the folder ``CASE/``; among several images the one called
    `PREDICTION_NAMES` or as the target.
    A reference is ``CASE/ct.nii.gz`` (``CASE/ct.dcm``, a DICOM folder ``CASE/ct/``), with
    ``CASE/mask.nii.gz`` beside it if there is one, or ``CASE.nii.gz``. A mask in a folder of its
    own is ``CASE/mask.nii.gz`` or ``CASE.nii.gz``.
    Where a DICOM folder and one image file have the same place and name, the file counts.
    Case folders may lie in others that hold no image (``brain/CASE/``, `CASE_FOLDER_LEVELS`).
    Where some cases have a mask, all must: their mean would mix two definitions.

    Returns:
        The cases found on both sides, sorted, and for every other case why it is left out.

    Raises:
        ImageReadError: If a folder does not exist.
        EvaluationError: If there is no case in common.
    """
    target_name = layout.target_name
    predictions, bad_predictions = _found(prediction, (*PREDICTION_NAMES, target_name))
    references, bad_references = _images_by_case(reference, (target_name,), any_single=False)
    predicted = predictions.keys() | bad_predictions.keys()
    referenced = references.keys() | bad_references.keys()
    if not predicted & referenced:
        raise EvaluationError(
            f"no case in common: {_place(prediction)} has {_listed(predicted)}, {reference} has "
            f"{_listed(referenced)}; name the predictions after their cases"
        )
    failures = bad_references | bad_predictions
    for case in sorted(predictions.keys() - referenced):
        failures[case] = f"{predictions[case]}: no reference for this case in {reference}"
    for case in sorted(references.keys() - predicted):
        failures[case] = f"{references[case]}: no prediction for this case in {_place(prediction)}"
    common = sorted(predictions.keys() & references.keys())
    mask_of = _masks_by_case(common, references, layout.mask, layout.mask_name, failures)
    pairs = [
        CaseFiles(
            case,
            predictions[case],
            references[case],
            mask_of[case],
            source=_source_beside(references[case], case),
        )
        for case in common
        if case not in failures
    ]
    return _alike_masked(pairs, failures)


def _found(prediction: Path | Found, names: tuple[str, ...]) -> Found:
    if isinstance(prediction, Path):
        return _images_by_case(prediction, names, any_single=True)
    return prediction


def _place(prediction: Path | Found) -> str:
    return str(prediction) if isinstance(prediction, Path) else "the table of predictions"


def _source_beside(reference: Path, case: str) -> Path | None:
    """Return the image that was translated, if it lies in the same case folder."""
    if reference.parent.name != case:
        return None
    images = [path for path in reference.parent.iterdir() if is_named_image(path, SOURCE_NAMES)]
    return min(images, key=lambda path: SOURCE_NAMES.index(image_name(path)), default=None)


def with_extras(pairing: Pairing, layout: Layout, prediction_labels: Path | None = None) -> Pairing:
    """Add label maps and regions to the cases of a method.

    Raises:
        ConfigError: If label maps are there for one side only.
        EvaluationError: If there is one file for several cases.
        ImageReadError: If a path does not exist.
    """
    pairs, failures = pairing
    if bool(layout.reference_labels) != bool(prediction_labels):
        raise ConfigError(
            "label maps are compared with each other; give --labels-pred and --labels-ref, the "
            "first for every method"
        )
    for role, path in (
        ("prediction_labels", prediction_labels),
        ("reference_labels", layout.reference_labels),
        ("region", layout.region),
    ):
        if path:
            pairs, failures = _with_extra(pairs, failures, role, path)
    return pairs, failures


def _with_extra(pairs: list[CaseFiles], failures: dict[str, str], role: str, path: Path) -> Pairing:
    """Add one more file to every case; a case without it is left out."""
    if not path.exists():
        raise ImageReadError(f"{path}: no such file or folder; check the path")
    if len(pairs) == 1 and not failures and (path.is_file() or is_image(path)):
        return [_with_file(pairs[0], role, path)], failures
    if path.is_file():
        raise EvaluationError(f"{path} is a file; for several cases give a folder with one of each")
    found, unusable = (
        _files_by_case(path) if role == "region" else _images_by_case(path, LABEL_NAMES, True)
    )
    what = role.replace("_", " ").removesuffix("s")
    lacking = {
        files.case: unusable.get(files.case, f"{path}: no {what} for case {files.case}")
        for files in pairs
        if files.case not in found
    }
    complete = [_with_file(f, role, found[f.case]) for f in pairs if f.case in found]
    return complete, failures | lacking


def _with_file(files: CaseFiles, role: str, path: Path) -> CaseFiles:
    changes: dict[str, Any] = {role: path}
    return replace(files, **changes)


def _files_by_case(folder: Path) -> Found:
    """Find one file or folder per case, of any format, named after it."""
    found: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        name = image_name(entry)
        case = entry.stem if name == entry.name and entry.is_file() else name
        if not entry.name.startswith("."):
            found.setdefault(case, []).append(entry)
    unusable = {
        case: f"{folder}: several regions for one case: {', '.join(e.name for e in entries)}"
        for case, entries in found.items()
        if len(entries) > 1
    }
    return {case: e[0] for case, e in found.items() if case not in unusable}, unusable


def _alike_masked(pairs: list[CaseFiles], failures: dict[str, str]) -> Pairing:
    """Where some cases have a mask, move those without to the failures."""
    if not any(pair.mask for pair in pairs):
        return pairs, failures
    return _without_unmasked(pairs, failures)


def _without_unmasked(pairs: list[CaseFiles], failures: dict[str, str]) -> Pairing:
    reasons = {
        pair.case: f"{pair.reference}: no mask for this case, while others have one; "
        "give all cases a mask, or none"
        for pair in pairs
        if not pair.mask
    }
    return [pair for pair in pairs if pair.mask], failures | reasons


def _images_by_case(folder: Path, names: tuple[str, ...], any_single: bool) -> Found:
    """Find one image per case: files named after it, or images in a folder named after it.

    Args:
        folder: Where to look.
        names: Names, without suffix, of the image wanted in a case folder.
        any_single: Whether the only image of a case folder may have any name.

    Returns:
        The image of each case, and for cases with none or several what is wrong.
    """
    if not folder.is_dir():
        raise ImageReadError(f"{folder}: no such folder; check the path")
    found: dict[str, list[Path]] = {}
    for image in sorted(folder.iterdir()):
        if _is_image_of_a_case(image, names):
            found.setdefault(image_name(image), []).append(image)
    for case_folder in _case_folders(folder, CASE_FOLDER_LEVELS, names):
        found.setdefault(case_folder.name, []).extend(_images_in(case_folder, names, any_single))
    unusable = {}
    found = {case: _without_twin_series(images) for case, images in found.items()}
    for case, images in found.items():
        if len(images) > 1:
            listed = ", ".join(str(path.relative_to(folder)) for path in images)
            unusable[case] = f"{folder}: several images for one case: {listed}; leave one"
        elif not images:
            wanted = " or ".join(names)
            unusable[case] = f"{folder}: no image called {wanted} in the folder {case}; name it so"
    return {case: images[0] for case, images in found.items() if case not in unusable}, unusable


def _is_image_of_a_case(path: Path, names: Sequence[str]) -> bool:
    """Whether this is ``CASE.nii.gz``, ``CASE.dcm`` or ``CASE/``, a folder of one series."""
    if path.is_dir():
        return is_image(path) and not _holds_named(path, names)
    is_dicom_name = path.suffix.lower() == ".dcm" and not path.name.startswith(".")
    return is_image(path) or (is_dicom_name and is_named_image(path, [path.stem]))


def _holds_named(folder: Path, names: Sequence[str]) -> bool:
    return any(is_named_image(path, names) for path in folder.iterdir() if path.is_file())


def _without_twin_series(images: list[Path]) -> list[Path]:
    """Leave out a DICOM folder that has an image file of the same name beside it."""
    files = {path.parent / image_name(path) for path in images if path.is_file()}
    return [path for path in images if not path.is_dir() or path not in files]


def _case_folders(folder: Path, levels: int, names: Sequence[str]) -> Iterator[Path]:
    """List the folders that hold images, but none inside such a folder."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        if any(is_image(path) or is_named_image(path, names) for path in entry.iterdir()):
            yield entry
        elif levels > 1:
            yield from _case_folders(entry, levels - 1, names)


def _images_in(folder: Path, names: tuple[str, ...], any_single: bool) -> list[Path]:
    entries = sorted(folder.iterdir())
    named = [path for path in entries if is_named_image(path, names)]
    images = [path for path in entries if is_image(path)]
    if not named and any_single and len(images) == 1:
        return images
    return named


def _masks_by_case(
    cases: Iterable[str],
    references: Mapping[str, Path],
    masks: Path | None,
    mask_name: str,
    failures: dict[str, str],
) -> dict[str, Path | None]:
    """Find each case's mask in the folder of masks, or beside a reference in a case folder."""
    if masks is not None:
        given, unusable = _images_by_case(masks, (mask_name,), any_single=True)
        for case in cases:
            if case not in given:
                failures[case] = unusable.get(case, f"{masks}: no mask for case {case}")
        return {case: given.get(case) for case in cases}
    found: dict[str, Path | None] = {}
    for case in cases:
        folder = references[case].parent
        beside = _images_in(folder, (mask_name,), False) if folder.name == case else []
        if len(beside) > 1:
            failures[case] = f"{folder}: several masks: {', '.join(p.name for p in beside)}"
        found[case] = beside[0] if beside else None
    return found


def _listed(cases: Iterable[str], limit: int = 4) -> str:
    names = sorted(cases)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) + more) or "none"
