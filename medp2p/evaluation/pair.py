"""One prediction against its reference.

Both must lie on one grid; a prediction or mask on another is refused, or resampled if asked.
Axes stored in another order or direction are the same grid: they are reordered, no value changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medp2p.alignment import Alignment, read_alignment, resample_aligned
from medp2p.config import EIGHT_BIT
from medp2p.errors import EvaluationError, GeometryError, MedP2PError
from medp2p.evaluation.findings import find_faults
from medp2p.evaluation.rigid import align_prediction
from medp2p.io import read_volume
from medp2p.manifest import aligned_volume, dicom_options
from medp2p.metrics import LABEL_SETS, TISSUES_HU, Measures, Profile, label_scores, measure
from medp2p.preprocessing import CT_AIR_HU, check_mask_values, resample
from medp2p.regions import read_region
from medp2p.results import CaseFiles, CaseResult, Finding
from medp2p.volume import Volume, reorient

WHOLE_VOLUME = "whole volume"
"""What stands in the place of a mask's name where there is no mask."""
LOOSE_SHARE = 0.1
"""A mask with a larger share of air that leads to its outside is said to be loose."""
OPENING_VOXELS = 3
"""Air behind an opening that is narrower than this (a nostril) does not lead to the outside."""

Array = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Options:
    """How a prediction is compared, beside the profile.

    Attributes:
        allow_resampling: Interpolate a prediction on another grid linearly onto the reference's;
            what lies outside it takes the lowest value of the profile's range. Take a mask, a
            region or a label map on another grid from the nearest voxel; nothing outside it is
            inside.
        align: Bring the prediction rigidly onto the reference first.
        tissues: Classes of the reference's value in HU by name, lowest and highest value.
        label_classes: Which classes of label maps count, a name among
            `medp2p.metrics.LABEL_SETS`; None for all, named by their numbers.
        region: Name of the region in a file of several.
        find_faults: Whether to look for known faults.
    """

    allow_resampling: bool = False
    align: bool = False
    tissues: Mapping[str, tuple[float, float]] = field(default_factory=lambda: dict(TISSUES_HU))
    label_classes: str | None = None
    region: str | None = None
    find_faults: bool = True


DEFAULT_OPTIONS = Options()


@dataclass(frozen=True)
class Extras:
    """What else belongs to a case.

    Attributes:
        labels: The label maps of the prediction and of the reference.
        region: Where to compare within the mask, values above 0 are inside.
        source: The image that was translated, which helps to tell why a prediction is wrong.
    """

    labels: tuple[Volume, Volume] | None = None
    region: Volume | None = None
    source: Volume | None = None


NO_EXTRAS = Extras()


def evaluate_pair(
    prediction: Volume,
    reference: Volume,
    mask: Volume | None,
    profile: Profile,
    options: Options = DEFAULT_OPTIONS,
    *,
    case: str = "",
    extras: Extras = NO_EXTRAS,
) -> CaseResult:
    """Compute all metrics of a profile for one case and look for faults.

    A structure metric without a value (a mask too small) becomes NaN with a note; the other
    metrics stand.

    Args:
        prediction: The predicted image, on the reference's grid.
        reference: The true image, in the same units.
        mask: Where to compare, values above 0 are inside; None is the whole volume.
        profile: The definition of the metrics.
        options: How they are compared.
        case: The case's name, for the table.
        extras: Label maps, a region, the image that was translated.

    Returns:
        Values, definition, notes and findings.

    Raises:
        GeometryError: If the grids differ (and resampling was not asked for), or the
            images lie apart.
        ImageReadError: If the mask is an image, by its header or its values.
        EvaluationError: If the mask is empty, a value inside it is NaN or infinite, an image
            holds one value only, or one is MR or 8-bit and the profile is for HU.
    """
    for role, volume in (("prediction", prediction), ("reference", reference)):
        _refuse_not_comparable(role, volume, profile)
    notes = _value_notes("prediction", prediction, profile)
    notes += _value_notes("reference", reference, profile)
    reference = reorient(reference, "RAS")
    inside, mask_notes = _compared_voxels(mask, extras.region, reference, profile, options)
    notes += mask_notes
    predicted, grid_notes = _predicted(prediction, reference, inside, profile, options)
    notes += grid_notes
    moved: dict[str, float] = {}
    if options.align:
        found = align_prediction(reference.with_array(predicted), reference, inside)
        predicted = found.prediction.array
        inside = found.seen if inside is None else inside & found.seen
        moved = {
            "alignment_shift_mm": float(np.linalg.norm(found.shift_mm)),
            "alignment_turn_degrees": float(found.turn_degrees),
        }
        notes.append(found.note)
    measures = _measured(predicted, reference, inside, profile, options, prediction.name)
    notes += measures.notes
    notes += _error_notes(predicted, inside, measures.values[profile.mae_key])
    labels = _label_scores(extras.labels, reference, inside, options)
    if extras.labels and not labels:
        notes.append("label maps: the reference holds no class that counts here")
    findings: tuple[Finding, ...] = ()
    if options.find_faults:
        findings = find_faults(
            predicted,
            reference.array,
            inside,
            _spacing(reference),
            measures.values,
            measures.curves,
            _voxels_on(extras.source, reference),
        )
    return CaseResult(
        case,
        {key: float(value) for key, value in (measures.values | moved).items()},
        profile,
        _name_of_mask(mask, extras.region, options.region),
        tuple(notes),
        labels=labels,
        curves=measures.curves,
        histograms=measures.histograms,
        findings=findings,
    )


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
    prediction: Volume,
    files: CaseFiles,
    profile: Profile,
    options: Options = DEFAULT_OPTIONS,
    *,
    method: str = "",
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
    region = read_region(files.region, reference, name=options.region) if files.region else None
    notes: tuple[str, ...] = ()
    if files.transform:
        alignment = read_alignment(files.transform)
        mask, share = _compared(mask, reference, alignment, prediction, options)
        region = _carried(region, alignment, prediction) if region else None
        reference = aligned_volume(reference, alignment, prediction.grid)
        notes = (
            f"reference resampled linearly by its registration onto the prediction's grid; it "
            f"covers {share:.0%} of the mask, the rest is not compared",
        )
    labels = None
    if files.prediction_labels and files.reference_labels:
        labels = read_volume(files.prediction_labels), read_volume(files.reference_labels)
    result = evaluate_pair(
        prediction,
        reference,
        mask,
        profile,
        options,
        case=files.case,
        extras=Extras(labels, region, _source(files)),
    )
    return replace(result, notes=(*notes, *result.notes), method=method, files=files)


def _source(files: CaseFiles) -> Volume | None:
    """Read the image that was translated, which is wanted for findings only."""
    if files.source is None:
        return None
    try:
        return read_volume(files.source)
    except MedP2PError:
        return None


def _compared(
    mask: Volume | None,
    reference: Volume,
    alignment: Alignment,
    prediction: Volume,
    options: Options,
) -> tuple[Volume, float]:
    """Return the mask where the reference has voxels, on the prediction's grid, and its share."""
    extent = reference.with_array(np.ones(reference.shape, np.uint8))
    seen = resample_aligned(extent, alignment, prediction.grid, outside=0, nearest=True) > 0
    wanted = np.ones_like(seen)
    if mask is not None:
        wanted, _ = _mask_voxels("mask", mask, prediction, options.allow_resampling)
    if not (seen & wanted).any():
        raise GeometryError(
            f"{reference.name}: by its registration it covers no voxel of {prediction.name} that "
            "is to be compared; check the pair"
        )
    share = np.count_nonzero(seen & wanted) / np.count_nonzero(wanted)
    compared = _as_mask(seen & wanted, prediction)
    return replace(compared, path=mask.path if mask else None), float(share)


def _carried(region: Volume, alignment: Alignment, prediction: Volume) -> Volume:
    """Bring a region that was drawn on the reference onto the prediction's grid."""
    voxels = resample_aligned(region, alignment, prediction.grid, outside=0, nearest=True)
    return replace(_as_mask(voxels > 0, prediction), path=region.path)


def _as_mask(voxels: Mask, volume: Volume) -> Volume:
    return volume.with_array(voxels.astype(np.uint8), modality="MASK", units=None)


def _refuse_not_comparable(role: str, volume: Volume, profile: Profile) -> None:
    """Refuse what no metric of the profile has a meaning for."""
    low, high = volume.array.min(), volume.array.max()
    if low == high:
        raise EvaluationError(
            f"{volume.name}: every voxel of the {role} is {float(low):g}; check the file"
        )
    if profile.units != "HU":
        return
    if volume.modality == "MR":
        raise EvaluationError(
            f"{volume.name}: this is MR, but the profile {profile.name} is for CT in HU; "
            "give the CT, or for MR --range LOW HIGH (such as --range 0 1000)"
        )
    if volume.modality == EIGHT_BIT or volume.array.dtype == np.uint8:
        raise EvaluationError(
            f"{volume.name}: this is an 8-bit picture, but the profile {profile.name} is for "
            "CT in HU; use --profile 8-bit"
        )


def _value_notes(role: str, volume: Volume, profile: Profile) -> list[str]:
    """Say if the values of a whole image are not what CT numbers look like."""
    low, high = float(volume.array.min()), float(volume.array.max())
    if profile.units != "HU" or not low > CT_AIR_HU:
        return []
    return [f"{role}: values {low:g} to {high:g} do not look like HU (air is near -1000)"]


def _compared_voxels(
    mask: Volume | None,
    region: Volume | None,
    reference: Volume,
    profile: Profile,
    options: Options,
) -> tuple[Mask | None, list[str]]:
    """Return where to compare on the reference's grid, None for everywhere, and notes on it."""
    if mask is None and region is None:
        return None, ["no mask: the background counts too"]
    inside, notes = None, []
    for role, volume in (("mask", mask), ("region", region)):
        if volume is None:
            continue
        voxels, note = _mask_voxels(role, volume, reference, options.allow_resampling)
        inside = voxels if inside is None else inside & voxels
        notes += [note] if note else []
    if inside is not None and not inside.any():
        raise EvaluationError(
            f"{region.name if region else ''}: no voxel of the region lies inside the mask; "
            "check that both belong to one case"
        )
    if mask is not None and region is None and profile.units == "HU" and inside is not None:
        share = loose_share(reference.array, inside)
        if share > LOOSE_SHARE:
            notes.append(
                f"mask: loose, {share:.0%} of it is air that leads to its outside; such voxels "
                "are easy and lower the errors"
            )
    return inside, notes


def _mask_voxels(
    role: str, mask: Volume, reference: Volume, allow_resampling: bool
) -> tuple[Mask, str | None]:
    """Return the mask on the reference's grid, and what to know about it."""
    check_mask_values(mask)
    if not mask.array.any():
        raise EvaluationError(f"{mask.name}: the {role} is empty; give one with values above 0")
    voxels = _on_grid(mask, reference)
    if voxels is not None:
        return voxels > 0, None
    if not allow_resampling:
        raise _other_grid(role, mask, reference)
    binary = mask.with_array((mask.array > 0).astype(np.uint8))
    voxels = resample(binary, reference.grid, outside=0, nearest=True) > 0
    if not voxels.any():
        raise GeometryError(
            f"{mask.name}: marks no voxel of {reference.name}, they lie apart; "
            "check that both belong to one case"
        )
    return voxels, f"{role} resampled (nearest voxel) onto the reference's grid"


def loose_share(reference: Array, inside: Mask) -> float:
    """Return which share of a mask is air that leads to the outside of the mask in its slice.

    Lungs and bowel gas do not, nor does air behind a narrow opening (`OPENING_VOXELS`).

    Args:
        reference: CT numbers in HU, axes in RAS order.
        inside: The mask, with at least one voxel.

    Returns:
        Between 0 and 1.
    """
    widths = [(OPENING_VOXELS, OPENING_VOXELS)] * 2 + [(0, 0)]
    within = np.pad(inside, widths)
    air = ~within
    air[within] = reference[inside] < CT_AIR_HU
    window = np.ones((OPENING_VOXELS, OPENING_VOXELS, 1), bool)
    wide_air = ndimage.binary_opening(air, window) | ~within
    in_slice = ndimage.generate_binary_structure(3, 1) & np.array([False, True, False])
    parts, count = ndimage.label(wide_air, in_slice)
    leads_outside = np.zeros(count + 1, bool)
    leads_outside[parts[~within]] = True
    leading = np.count_nonzero(leads_outside[parts] & within)
    return leading / np.count_nonzero(within)


def _predicted(
    prediction: Volume,
    reference: Volume,
    inside: Mask | None,
    profile: Profile,
    options: Options,
) -> tuple[Array, list[str]]:
    """Return the prediction's voxels on the reference's grid, and notes on how they got there."""
    voxels = _on_grid(prediction, reference)
    if voxels is not None:
        return voxels, []
    if not options.allow_resampling:
        raise _other_grid("prediction", prediction, reference)
    voxels, note = _resampled(prediction, reference, inside, profile)
    return voxels, [note]


def _on_grid(volume: Volume, reference: Volume) -> Array | None:
    """Return the voxels in the reference's order of axes, or None if the grids differ."""
    aligned = reorient(volume, reference.orientation)
    return None if aligned.grid.difference(reference.grid) else aligned.array


def _voxels_on(volume: Volume | None, reference: Volume) -> Array | None:
    return _on_grid(volume, reference) if volume is not None else None


def _other_grid(role: str, volume: Volume, reference: Volume) -> GeometryError:
    aligned = reorient(volume, reference.orientation)
    difference = aligned.grid.difference(reference.grid)
    return GeometryError(
        f"{volume.name}: the {role} is not on the grid of {reference.name}: {difference}; "
        "pass --resample to allow it"
    )


def _resampled(
    prediction: Volume, reference: Volume, inside: Mask | None, profile: Profile
) -> tuple[Array, str]:
    """Interpolate the prediction onto the reference's grid, and say so."""
    extent = prediction.with_array(np.ones(prediction.shape, np.uint8))
    within = resample(extent, reference.grid, outside=0, nearest=True)
    covered = float(np.mean(within if inside is None else within[inside]))
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


def _measured(
    predicted: Array,
    reference: Volume,
    inside: Mask | None,
    profile: Profile,
    options: Options,
    name: str,
) -> Measures:
    try:
        return measure(
            predicted, reference.array, inside, _spacing(reference), profile, options.tissues
        )
    except EvaluationError as error:
        raise EvaluationError(f"{name} against {reference.name}: {error}") from error


def _label_scores(
    labels: tuple[Volume, Volume] | None,
    reference: Volume,
    inside: Mask | None,
    options: Options,
) -> dict[str, dict[str, float]]:
    """Compare two label maps class by class, if there are any."""
    if labels is None:
        return {}
    predicted, true = (_label_voxels(volume, reference, options) for volume in labels)
    classes = LABEL_SETS[options.label_classes] if options.label_classes else None
    return label_scores(predicted, true, classes, inside, _spacing(reference))


def _label_voxels(labels: Volume, reference: Volume, options: Options) -> Array:
    check_mask_values(labels)
    voxels = _on_grid(labels, reference)
    if voxels is not None:
        return voxels
    if not options.allow_resampling:
        raise _other_grid("label map", labels, reference)
    return resample(labels, reference.grid, outside=0, nearest=True)


def _error_notes(predicted: Array, inside: Mask | None, mean_absolute_error: float) -> list[str]:
    values = predicted if inside is None else predicted[inside]
    notes = []
    if values.min() == values.max():
        notes.append(f"prediction: the constant {float(values.min()):g} inside the mask")
    if mean_absolute_error == 0:
        notes.append("prediction and reference are identical inside the mask: the same image?")
    return notes


def _name_of_mask(mask: Volume | None, region: Volume | None, region_name: str | None) -> str:
    names = []
    if region is not None:
        names.append(f"region {region_name} of {region.name}" if region_name else region.name)
    if mask is not None:
        names.append(mask.name)
    return " within ".join(names) or WHOLE_VOLUME


def _spacing(volume: Volume) -> tuple[float, float, float]:
    x, y, z = map(float, volume.spacing_mm)
    return x, y, z
