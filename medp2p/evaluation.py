"""Predictions against references, case by case and as a table.

Both must lie on one grid; a prediction or mask on another is refused, or resampled if asked.
Axes stored in another order or direction are the same grid: they are reordered, no value changes.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medp2p.alignment import Alignment, read_alignment, resample_aligned
from medp2p.config import EIGHT_BIT
from medp2p.errors import (
    ConfigError,
    EvaluationError,
    GeometryError,
    ImageReadError,
    MedP2PError,
)
from medp2p.files import write_text
from medp2p.io import image_name, is_image, read_volume
from medp2p.manifest import (
    TARGET,
    Case,
    aligned_volume,
    dicom_options,
    is_named_image,
    read_manifest,
)
from medp2p.metrics import TISSUES_HU, Profile, available_metrics
from medp2p.preprocessing import CT_AIR_HU, check_mask_values, resample
from medp2p.volume import Volume, reorient

WHOLE_VOLUME = "whole volume"
"""What stands in the place of a mask's name where there is no mask."""
PREDICTION_NAMES = ("sct", "prediction")
"""Names, beside the target's own, of the prediction among several images of a case folder."""
CASE_FOLDER_LEVELS = 3
"""Case folders are looked for this deep: ``CASE/`` is 1, ``brain/CASE/`` is 2."""


@dataclass(frozen=True)
class CaseResult:
    """The metrics of one case and what they were computed from.

    Attributes:
        case: The case's name.
        values: As from `medp2p.metrics.compute_metrics`; NaN where a metric has no value.
        profile: The definition behind the values.
        mask: The mask's path or `WHOLE_VOLUME`.
        notes: What a reader should know before trusting the values.
    """

    case: str
    values: Mapping[str, float]
    profile: Profile
    mask: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """The results of several cases.

    Attributes:
        results: The cases with values.
        failures: Why the other cases have none, by case.
    """

    results: tuple[CaseResult, ...]
    failures: Mapping[str, str]


@dataclass(frozen=True)
class CaseFiles:
    """Which files are compared for one case.

    Attributes:
        case: The case's name.
        prediction: The predicted image; None if there is none on disk.
        reference: The true image.
        mask: Where to compare, None for everywhere.
        series: Which DICOM series the reference is, ``KEY`` or ``KEY/GROUP``.
        transform: The file with the reference's alignment to the image that was translated; None
            where their positions agree.
    """

    case: str
    prediction: Path | None
    reference: Path
    mask: Path | None
    series: str = ""
    transform: Path | None = None


@dataclass(frozen=True)
class Summary:
    """One metric over several cases; cases without a value are left out and not counted.

    Attributes:
        mean: Arithmetic mean, NaN without any value.
        sd: Sample standard deviation (n - 1), NaN for fewer than two values.
        median: Median.
        count: Number of cases with a value.
    """

    mean: float
    sd: float
    median: float
    count: int


def evaluate_pair(
    prediction: Volume,
    reference: Volume,
    mask: Volume | None,
    profile: Profile,
    *,
    case: str = "",
    allow_resampling: bool = False,
) -> CaseResult:
    """Compute all metrics of a profile for one case.

    A structure metric without a value (a mask too small) becomes NaN with a note; the other
    metrics stand.

    Args:
        prediction: The predicted image, on the reference's grid.
        reference: The true image, in the same units.
        mask: Where to compare, values above 0 are inside; None is the whole volume.
        profile: The definition of the metrics.
        case: The case's name, for the table.
        allow_resampling: Interpolate a prediction on another grid linearly onto the
            reference's; what lies outside it takes the lowest value of the profile's range.
            Take a mask on another grid from the nearest voxel; nothing outside it is inside.

    Returns:
        Values, definition and notes.

    Raises:
        GeometryError: If the grids differ (and resampling was not asked for), or the
            images lie apart.
        ImageReadError: If the mask is an image, by its header or its values.
        EvaluationError: If the mask is empty, a value inside it is NaN or infinite, or an
            image is marked as MR or as an 8-bit picture and the profile is for HU.
    """
    _refuse_mr_as_hu((prediction, reference), profile)
    inside, mask_note = _mask_voxels(mask, reference, allow_resampling)
    notes = _value_notes("prediction", prediction, profile)
    notes += _value_notes("reference", reference, profile)
    notes += [mask_note] if mask_note else []
    predicted = _on_grid(prediction, reference)
    if predicted is None:
        if not allow_resampling:
            raise _other_grid("prediction", prediction, reference)
        predicted, note = _resampled(prediction, reference, inside, profile)
        notes.append(note)
    arrays = (predicted, reference.array, inside)
    try:
        values, missing = available_metrics(*arrays, profile)
    except EvaluationError as error:
        raise EvaluationError(f"{prediction.name} against {reference.name}: {error}") from error
    if missing:
        notes.append(missing)
    notes += _error_notes(predicted, inside, values[profile.mae_key])
    name = WHOLE_VOLUME if mask is None else mask.name
    return CaseResult(case, values, profile, name, tuple(notes))


def read_prediction(files: CaseFiles) -> Volume:
    """Read the prediction of a case.

    Raises:
        ImageReadError: If it is missing or damaged.
        EvaluationError: If there is none.
    """
    if files.prediction is None:
        raise EvaluationError(f"case {files.case}: there is no prediction")
    return read_volume(files.prediction)


def evaluate_prediction(
    prediction: Volume, files: CaseFiles, profile: Profile, *, allow_resampling: bool = False
) -> CaseResult:
    """Compare a prediction with the files of its case, as `evaluate_pair`.

    A reference that was registered is brought onto the prediction's grid through its transform,
    in one linear interpolation; voxels that it does not cover are not compared.

    Raises:
        ImageReadError: If a file is missing or damaged, or as for `evaluate_pair`.
        GeometryError: As for `evaluate_pair`.
        EvaluationError: As for `evaluate_pair`.
    """
    reference = read_volume(files.reference, dicom=dicom_options(files.series))
    mask = read_volume(files.mask) if files.mask else None
    notes: tuple[str, ...] = ()
    if files.transform:
        alignment = read_alignment(files.transform)
        mask, share = _compared(mask, reference, alignment, prediction, allow_resampling)
        reference = aligned_volume(reference, alignment, prediction.grid)
        notes = (
            f"reference resampled linearly by its registration onto the prediction's grid; it "
            f"covers {share:.0%} of the mask, the rest is not compared",
        )
    result = evaluate_pair(
        prediction, reference, mask, profile, case=files.case, allow_resampling=allow_resampling
    )
    return replace(result, notes=(*notes, *result.notes))


def _compared(
    mask: Volume | None,
    reference: Volume,
    alignment: Alignment,
    prediction: Volume,
    allow_resampling: bool,
) -> tuple[Volume, float]:
    """Return the mask where the reference has voxels, on the prediction's grid, and its share."""
    extent = reference.with_array(np.ones(reference.shape, np.uint8))
    seen = resample_aligned(extent, alignment, prediction.grid, outside=0, nearest=True) > 0
    inside, _ = _mask_voxels(mask, prediction, allow_resampling)
    wanted = np.ones_like(seen) if inside is None else inside > 0
    if not (seen & wanted).any():
        raise GeometryError(
            f"{reference.name}: by its registration it covers no voxel of {prediction.name} that "
            "is to be compared; check the pair"
        )
    share = np.count_nonzero(seen & wanted) / np.count_nonzero(wanted)
    compared = prediction.with_array((seen & wanted).astype(np.uint8), modality="MASK", units=None)
    return replace(compared, path=mask.path if mask else None), float(share)


def evaluate_folders(
    prediction: Path,
    reference: Path,
    profile: Profile,
    *,
    masks: Path | None = None,
    target_name: str = "ct",
    mask_name: str = "mask",
    allow_resampling: bool = False,
) -> Evaluation:
    """Compare the cases of two folders: `pair_folders`, then `evaluate_cases`.

    Args:
        prediction: Folder of predictions.
        reference: Folder of references.
        profile: The definition of the metrics.
        masks: Folder of masks, if they don't lie beside the references.
        target_name: File name, without suffix, of the reference in a case folder.
        mask_name: File name, without suffix, of the mask in a case folder.
        allow_resampling: As for `evaluate_pair`.

    Raises:
        EvaluationError: If the folders have no case in common, or no case could be evaluated.
        ImageReadError: If a folder does not exist.
    """
    pairs, failures = pair_folders(
        prediction, reference, masks=masks, target_name=target_name, mask_name=mask_name
    )
    return evaluate_cases(pairs, profile, failures=failures, allow_resampling=allow_resampling)


def evaluate_cases(
    pairs: Sequence[CaseFiles],
    profile: Profile,
    *,
    failures: Mapping[str, str] = MappingProxyType({}),
    allow_resampling: bool = False,
    progress: Callable[[str], None] | None = None,
    predict: Callable[[CaseFiles], Volume] = read_prediction,
) -> Evaluation:
    """Compare several cases; one that fails does not stop the others.

    Args:
        pairs: The files of each case.
        profile: The definition of the metrics.
        failures: Cases that are known to have no result, with the reason; go into the result.
        allow_resampling: As for `evaluate_pair`.
        progress: Called with a case's name when it is done.
        predict: Returns the prediction of a case.

    Raises:
        EvaluationError: If no case could be evaluated.
        MedP2PError: What is wrong with the only case, if there is but one.
    """
    results, failed = [], {}
    for files in pairs:
        try:
            results.append(
                evaluate_prediction(
                    predict(files), files, profile, allow_resampling=allow_resampling
                )
            )
        except MedP2PError as error:
            if len(pairs) == 1 and not failures:
                raise
            failed[files.case] = str(error)
        if progress:
            progress(files.case)
    if not results:
        raise _nothing_evaluated(failed, failures)
    return Evaluation(tuple(results), dict(sorted({**failures, **failed}.items())))


def pair_paths(
    prediction: Path,
    reference: Path,
    *,
    mask: Path | None = None,
    target_name: str = "ct",
    mask_name: str = "mask",
    split: str = "test",
) -> tuple[list[CaseFiles], dict[str, str]]:
    """Return the one case of two images, or match the cases of folders or a manifest.

    Args:
        prediction: An image or a folder.
        reference: The same, or a manifest (``.csv``), whose targets and masks are taken.
        mask: A mask image, or for folders a folder of masks; not with a manifest.
        target_name: As for `pair_folders`.
        mask_name: As for `pair_folders`.
        split: The manifest's cases that count, or ``"all"``.

    Raises:
        ConfigError: If there is a mask beside a manifest.
        EvaluationError: If one path is a file and another a folder, or folders have no case
            in common.
        ImageReadError: If a path does not exist.
    """
    paths = [prediction, reference, *([mask] if mask else [])]
    for path in paths:
        if not path.exists():
            raise ImageReadError(f"{path}: no such file or folder; check the path")
    if reference.suffix.lower() == ".csv":
        if mask:
            raise ConfigError(f"{reference}: the manifest names the masks; leave out --mask")
        cases = [c for c in read_manifest(reference) if split in (c.split, "all")]
        return pair_manifest(prediction, cases)
    folders = [path for path in paths if path.is_dir() and not is_image(path)]
    images = [path for path in paths if path not in folders]
    if folders and images:
        raise EvaluationError(
            f"{folders[0]} is a folder and {images[0]} an image; give all of a kind"
        )
    if folders:
        return pair_folders(
            prediction, reference, masks=mask, target_name=target_name, mask_name=mask_name
        )
    return [CaseFiles(image_name(prediction), prediction, reference, mask)], {}


def case_files(case: Case, prediction: Path | None = None) -> CaseFiles:
    """Return the files of a manifest's case, with its prediction if there is one on disk."""
    return CaseFiles(
        case.name,
        prediction,
        case.target,
        case.mask,
        case.series.get(TARGET, ""),
        case.transforms.get(TARGET),
    )


def pair_manifest(
    prediction: Path, cases: Sequence[Case]
) -> tuple[list[CaseFiles], dict[str, str]]:
    """Match a folder of predictions with the targets and masks of a manifest's cases.

    As in `pair_folders`, where some cases have a mask, all must.

    Returns:
        The cases with a prediction, and for the others why they are left out.

    Raises:
        ImageReadError: If the folder does not exist.
        EvaluationError: If no case has a prediction.
    """
    predictions, unusable = _images_by_case(prediction, PREDICTION_NAMES, any_single=True)
    predicted = predictions.keys() | unusable.keys()
    if not any(case.name in predicted for case in cases):
        raise EvaluationError(
            f"no case in common: {prediction} has {_listed(predicted)}, the manifest "
            f"{', '.join(case.name for case in cases[:4]) or 'none in this split'}"
        )
    missing = f"no prediction for this case in {prediction}"
    failures = {
        case.name: unusable.get(case.name, missing)
        for case in cases
        if case.name not in predictions
    }
    pairs = [case_files(case, predictions[case.name]) for case in cases if case.name in predictions]
    return _alike_masked(pairs, failures)


def pair_folders(
    prediction: Path,
    reference: Path,
    *,
    masks: Path | None = None,
    target_name: str = "ct",
    mask_name: str = "mask",
) -> tuple[list[CaseFiles], dict[str, str]]:
    """Match the cases of two folders by name.

    A prediction is ``CASE.nii.gz`` (any image format, ``CASE.dcm`` too), a folder ``CASE/`` of
    DICOM files, or the one image in the folder ``CASE/``; among several images the one called
    `PREDICTION_NAMES` or ``target_name``.
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
    names = (*PREDICTION_NAMES, target_name)
    predictions, bad_predictions = _images_by_case(prediction, names, any_single=True)
    references, bad_references = _images_by_case(reference, (target_name,), any_single=False)
    predicted = predictions.keys() | bad_predictions.keys()
    referenced = references.keys() | bad_references.keys()
    if not predicted & referenced:
        raise EvaluationError(
            f"no case in common: {prediction} has {_listed(predicted)}, {reference} has "
            f"{_listed(referenced)}; name the predictions after their cases"
        )
    failures = bad_references | bad_predictions
    for case in sorted(predictions.keys() - referenced):
        failures[case] = f"{predictions[case]}: no reference for this case in {reference}"
    for case in sorted(references.keys() - predicted):
        failures[case] = f"{references[case]}: no prediction for this case in {prediction}"
    common = sorted(predictions.keys() & references.keys())
    mask_of = _masks_by_case(common, references, masks, mask_name, failures)
    pairs = [
        CaseFiles(case, predictions[case], references[case], mask_of[case])
        for case in common
        if case not in failures
    ]
    return _alike_masked(pairs, failures)


def summarize(results: Sequence[CaseResult]) -> dict[str, Summary]:
    """Return mean, standard deviation and median of every metric over the cases."""
    return {
        key: _summary([result.values[key] for result in results])
        for key in (results[0].values if results else ())
    }


def result_table(evaluation: Evaluation) -> str:
    """Format one row per case, mean ± standard deviation, median, definition and notes."""
    results = evaluation.results
    columns = _columns(results[0].profile, tissue_bias=True)
    rows = [["case", *(header for _, header, _ in columns)]]
    for result in results:
        rows.append([result.case, *(_number(result.values[key], n) for key, _, n in columns)])
    if len(results) > 1:
        summaries = summarize(results)
        means = [_mean_and_sd(summaries[key], n, len(results)) for key, _, n in columns]
        rows.append(["mean ± sd", *means])
        rows.append(["median", *(_number(summaries[key].median, n) for key, _, n in columns)])
    lines = [_aligned(rows), "", _definition(results)]
    lines += [f"note: {result.case}: {note}" for result in results for note in result.notes]
    return "\n".join(lines)


def comparison_table(results: Mapping[str, Sequence[CaseResult]]) -> str:
    """Format one row per method: mean ± standard deviation over its cases.

    Args:
        results: Cases by the name of the method that predicted them, such as
            ``{"pix2pix": [...], "one CT number": [...]}``; the same cases for each.

    Returns:
        A table that is also Markdown, and the definition of its numbers under it.

    Raises:
        ValueError: If a method has no case, or cases or profiles differ between methods.
    """
    every = [result for cases in results.values() for result in cases]
    if not every or not all(results.values()):
        raise ValueError("every method of a comparison needs at least one case")
    if len({result.profile for result in every}) > 1:
        raise ValueError("methods are compared under one profile")
    if len({tuple(sorted(r.case for r in cases)) for cases in results.values()}) > 1:
        raise ValueError("methods are compared on the same cases")
    columns = _columns(every[0].profile, tissue_bias=False)
    rows = [["method", *(header for _, header, _ in columns)]]
    for method, cases in results.items():
        summaries = summarize(cases)
        means = [_mean_and_sd(summaries[key], n, len(cases)) for key, _, n in columns]
        rows.append([method, *means])
    return "\n".join([_aligned(rows), "", _definition(next(iter(results.values())))])


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation as plain dicts for JSON; NaN and infinity become None."""
    profile = evaluation.results[0].profile
    return {
        "profile": {
            "name": profile.name,
            "range": list(profile.value_range),
            "units": profile.units,
            "structure": profile.structure_key,
        },
        "cases": [
            {
                "case": result.case,
                "mask": result.mask,
                "values": {key: _finite_or_none(value) for key, value in result.values.items()},
                "notes": list(result.notes),
            }
            for result in evaluation.results
        ],
        "failures": dict(evaluation.failures),
        "summary": {
            key: {
                "mean": _finite_or_none(summary.mean),
                "sd": _finite_or_none(summary.sd),
                "median": _finite_or_none(summary.median),
                "count": summary.count,
            }
            for key, summary in summarize(evaluation.results).items()
        },
    }


def write_json(path: Path, evaluation: Evaluation, *, overwrite: bool = False) -> None:
    """Write `as_json` to a file.

    Raises:
        OutputError: If it exists and ``overwrite`` is false, or cannot be written.
    """
    text = json.dumps(as_json(evaluation), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n", overwrite=overwrite)


def write_csv(path: Path, evaluation: Evaluation, *, overwrite: bool = False) -> None:
    """Write one line per case with its definition: profile, range, mask, values, notes, error.

    A value that does not exist is an empty field. Values have all their digits.

    Raises:
        OutputError: If it exists and ``overwrite`` is false, or cannot be written.
    """
    profile = evaluation.results[0].profile
    keys = list(evaluation.results[0].values)
    definition = [profile.name, *profile.value_range]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["case", "profile", "range_low", "range_high", "mask", *keys, "notes", "error"])
    for result in evaluation.results:
        values = ["" if math.isnan(result.values[key]) else result.values[key] for key in keys]
        notes = "; ".join(result.notes)
        table.writerow([result.case, *definition, result.mask, *values, notes, ""])
    for case, reason in evaluation.failures.items():
        table.writerow([case, *definition, "", *[""] * len(keys), "", reason])
    write_text(path, text.getvalue(), overwrite=overwrite)


def _on_grid(volume: Volume, reference: Volume) -> NDArray[Any] | None:
    """Return the voxels in the reference's order of axes, or None if the grids differ."""
    aligned = reorient(volume, reference.orientation)
    return None if aligned.grid.difference(reference.grid) else aligned.array


def _refuse_mr_as_hu(volumes: Iterable[Volume], profile: Profile) -> None:
    for volume in volumes:
        if profile.units == "HU" and volume.modality == "MR":
            raise EvaluationError(
                f"{volume.name}: this is MR, but the profile {profile.name} is for CT in HU; "
                "give the CT, or for MR --range LOW HIGH (such as --range 0 1000)"
            )
        if profile.units == "HU" and volume.modality == EIGHT_BIT:
            raise EvaluationError(
                f"{volume.name}: this is an 8-bit picture, but the profile {profile.name} is for "
                "CT in HU; use --profile 8-bit"
            )


def _mask_voxels(
    mask: Volume | None, reference: Volume, allow_resampling: bool
) -> tuple[NDArray[Any] | None, str | None]:
    """Return the mask on the reference's grid, None without one, and what to know about it."""
    if mask is None:
        return None, "no mask: the background counts too"
    check_mask_values(mask)
    if not mask.array.any():
        raise EvaluationError(f"{mask.name}: the mask is empty; give one with values above 0")
    voxels = _on_grid(mask, reference)
    if voxels is not None:
        return voxels, None
    if not allow_resampling:
        raise _other_grid("mask", mask, reference)
    binary = mask.with_array((mask.array > 0).astype(np.uint8))
    voxels = resample(binary, reference.grid, outside=0, nearest=True)
    if not voxels.any():
        raise GeometryError(
            f"{mask.name}: marks no voxel of {reference.name}, they lie apart; "
            "check that both belong to one case"
        )
    return voxels, "mask resampled (nearest voxel) onto the reference's grid"


def _other_grid(role: str, volume: Volume, reference: Volume) -> GeometryError:
    aligned = reorient(volume, reference.orientation)
    difference = aligned.grid.difference(reference.grid)
    return GeometryError(
        f"{volume.name}: the {role} is not on the grid of {reference.name}: {difference}; "
        "pass --resample to allow it"
    )


def _resampled(
    prediction: Volume, reference: Volume, inside: NDArray[Any] | None, profile: Profile
) -> tuple[NDArray[Any], str]:
    """Interpolate the prediction onto the reference's grid, and say so."""
    extent = prediction.with_array(np.ones(prediction.shape, np.uint8))
    within = resample(extent, reference.grid, outside=0, nearest=True)
    covered = float(np.mean(within if inside is None else within[inside > 0]))
    if covered == 0:
        raise GeometryError(
            f"{prediction.name}: lies apart from what is compared in {reference.name}; "
            "check that both belong to one case"
        )
    array = resample(prediction, reference.grid, outside=profile.value_range[0])
    note = "prediction resampled linearly onto the reference's grid"
    if covered < 1:
        note += (
            f"; {100 * (1 - covered):.2g} % of the compared voxels lie outside it and count as "
            f"{profile.value_range[0]:g}"
        )
    return array, note


def _value_notes(role: str, volume: Volume, profile: Profile) -> list[str]:
    """Say if the values of a whole image are not what CT numbers look like."""
    if profile.units != "HU":
        return []
    low, high = float(volume.array.min()), float(volume.array.max())
    if low <= CT_AIR_HU:
        return []
    kind = ", an 8-bit picture" if volume.array.dtype == np.uint8 else ""
    return [f"{role}: values {low:g} to {high:g} do not look like HU (air is near -1000){kind}"]


def _error_notes(
    predicted: NDArray[Any], inside: NDArray[Any] | None, mean_absolute_error: float
) -> list[str]:
    values = predicted if inside is None else predicted[inside > 0]
    notes = []
    if values.min() == values.max():
        notes.append(f"prediction: the constant {float(values.min()):g} inside the mask")
    if mean_absolute_error == 0:
        notes.append("prediction and reference are identical inside the mask: the same image?")
    return notes


def _nothing_evaluated(tried: Mapping[str, str], untried: Mapping[str, str]) -> EvaluationError:
    """Tell the reason of one case, rather of one that was tried than of one left out before."""
    reasons = {**tried, **untried}
    if not reasons:
        return EvaluationError("no case was given")
    case, reason = next(iter(reasons.items()))
    if len(reasons) == 1:
        return EvaluationError(f"case {case} could not be evaluated: {reason}")
    which = "the first that was tried" if tried else "the first"
    return EvaluationError(
        f"none of {len(reasons)} cases could be evaluated; {which}, {case}: {reason}"
    )


def _alike_masked(
    pairs: list[CaseFiles], failures: dict[str, str]
) -> tuple[list[CaseFiles], dict[str, str]]:
    """Where some cases have a mask, move those without to the failures."""
    if not any(pair.mask for pair in pairs):
        return pairs, failures
    reasons = {
        pair.case: f"{pair.reference}: no mask for this case, while others have one; "
        "give all cases a mask, or none"
        for pair in pairs
        if not pair.mask
    }
    return [pair for pair in pairs if pair.mask], failures | reasons


def _images_by_case(
    folder: Path, names: tuple[str, ...], *, any_single: bool
) -> tuple[dict[str, Path], dict[str, str]]:
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


def _summary(values: Sequence[float]) -> Summary:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Summary(math.nan, math.nan, math.nan, 0)
    finite = all(map(math.isfinite, known))
    sd = float(np.std(known, ddof=1)) if finite and len(known) > 1 else math.nan
    return Summary(sum(known) / len(known), sd, float(np.median(known)), len(known))


def _columns(profile: Profile, *, tissue_bias: bool) -> list[tuple[str, str, int]]:
    """Return key, heading and number of decimals of the columns of a table."""
    units = f" ({profile.units})" if profile.units else ""
    structure = profile.structure.upper().replace("_", "-")
    columns = [
        (profile.mae_key, f"MAE{units}", 1),
        (profile.bias_key, f"bias{units}", 1),
        ("psnr_db", "PSNR (dB)", 2),
        (profile.structure_key, f"{structure} {profile.name}", 4),
    ]
    if profile.units != "HU":
        return columns
    columns += [(f"mae_{tissue}_hu", f"MAE {tissue}", 1) for tissue in TISSUES_HU]
    if tissue_bias:
        columns += [(f"bias_{tissue}_hu", f"bias {tissue}", 1) for tissue in TISSUES_HU]
    return columns


def _definition(results: Sequence[CaseResult]) -> str:
    """Say in one line how the numbers of a table are defined."""
    profile = results[0].profile
    masks = sorted({Path(result.mask).name for result in results})
    tissues = ""
    if profile.units == "HU":
        low, high = TISSUES_HU["soft"]
        tissues = f"; tissues by the reference: air < {low:g}, soft, bone > {high:g} HU"
    over = f"; mean ± sd (n - 1) over {len(results)} cases" if len(results) > 1 else ""
    return f"{profile.description}; mask: {_shortened(masks)}{tissues}{over}"


def _shortened(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _number(value: float, decimals: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{decimals}f}"


def _mean_and_sd(summary: Summary, decimals: int, cases: int) -> str:
    """Format a mean, with the number of cases behind it if some have no value."""
    text = _number(summary.mean, decimals)
    if not math.isnan(summary.sd):
        text += f" ± {summary.sd:.{decimals}f}"
    return text if summary.count in (0, cases) else f"{text} (n = {summary.count})"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Align the columns of a Markdown table; the first row is its heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in [rows[0], rules, *rows[1:]]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
