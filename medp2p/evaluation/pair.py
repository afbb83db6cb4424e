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

from medp2p.alignment import Alignment, resample_aligned
from medp2p.compared import (
    CaseVolumes,
    ComparedImages,
    compared_images,
    other_grid,
    read_case,
    voxels_on,
    with_hashes,
    with_moved_prediction,
)
from medp2p.config import EIGHT_BIT
from medp2p.errors import EvaluationError
from medp2p.evaluation.findings import find_faults
from medp2p.evaluation.rigid import ALIGNMENT_REACH_MM, RigidAlignment, find_alignment
from medp2p.io import read_volume
from medp2p.metrics import LABEL_SETS, TISSUES_HU, Measures, Profile, label_scores, measure
from medp2p.preprocessing import CT_AIR_HU, check_mask_values
from medp2p.results import CaseFiles, CaseResult, Finding, Matrix, Where
from medp2p.volume import Volume

FEW_VOXELS = 100
"""Over fewer voxels than this, values of tissues, structure and sharpness mean nothing."""
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
    volumes = CaseVolumes(prediction, reference, mask, extras.region, extras.source)
    return _evaluated(volumes, extras.labels, profile, options, case)


def evaluate_files(
    files: CaseFiles,
    profile: Profile,
    options: Options = DEFAULT_OPTIONS,
    *,
    method: str = "",
    prediction: Volume | None = None,
) -> CaseResult:
    """Compare the files of a case, as `evaluate_pair`, and note their SHA-256.

    A reference that was registered is brought onto the prediction's grid through its transform,
    in one linear interpolation; voxels that it does not cover are not compared.

    Args:
        files: Where the images are.
        profile: The definition of the metrics.
        options: How they are compared.
        method: Whose prediction it is.
        prediction: Taken instead of the file.

    Raises:
        ImageReadError: If a file is missing or damaged, or as for `evaluate_pair`.
        GeometryError: As for `evaluate_pair`.
        EvaluationError: As for `evaluate_pair`, and if there is no prediction.
    """
    files = with_hashes(files)
    volumes = read_case(files, options.region, prediction)
    labels = None
    if files.prediction_labels and files.reference_labels:
        labels = read_volume(files.prediction_labels), read_volume(files.reference_labels)
    result = _evaluated(volumes, labels, profile, options, files.case)
    return replace(result, method=method, files=files)


def _evaluated(
    volumes: CaseVolumes,
    label_maps: tuple[Volume, Volume] | None,
    profile: Profile,
    options: Options,
    case: str,
) -> CaseResult:
    notes = []
    for role, volume in (("prediction", volumes.prediction), ("reference", volumes.reference)):
        _refuse_not_comparable(role, volume, profile)
        notes += _value_notes(role, volume, profile)
    outside = profile.value_range[0]
    images = compared_images(volumes, outside=outside, allow_resampling=options.allow_resampling)
    notes += _mask_notes(volumes, images, profile)
    notes += images.notes
    found: RigidAlignment | None = None
    if options.align:
        found = find_alignment(images.prediction, images.reference, _reached(images))
        notes.append(found.note)
        if found.moved:
            images = with_moved_prediction(images, found.pose, outside=outside)
    measures = _measured(images, profile, options)
    notes += measures.notes
    notes += _error_notes(images, measures.values[profile.mae_key])
    pose = found.pose if found else Alignment.identity()
    labels = _label_scores(label_maps, volumes, images, pose, options)
    if label_maps and not labels:
        notes.append("label maps: the reference holds no class that counts here")
    findings: tuple[Finding, ...] = ()
    if options.find_faults:
        findings = _faults(images, measures, volumes.source)
        notes += _sharpness_notes(images)
    return CaseResult(
        case,
        {key: float(value) for key, value in (measures.values | _moved(found)).items()},
        profile,
        _where(volumes, options.region),
        tuple(notes),
        labels=labels,
        curves=measures.curves,
        histograms=measures.histograms,
        findings=findings,
        alignment=_pose(found),
    )


def _reached(images: ComparedImages) -> Mask | None:
    """The compared voxels around which the prediction has values of its own; None for all."""
    filled = images.filled
    if filled is None or not filled.any():
        return images.inside
    spacing = images.reference.spacing_mm
    reached = ndimage.distance_transform_edt(~filled, sampling=spacing) > ALIGNMENT_REACH_MM
    return reached if images.inside is None else images.inside & reached


def _faults(
    images: ComparedImages, measures: Measures, source: Volume | None
) -> tuple[Finding, ...]:
    reference = images.reference
    return find_faults(
        images.prediction.array,
        reference.array,
        images.inside,
        _spacing(reference),
        measures.values,
        measures.curves,
        voxels_on(source, reference) if source else None,
        interpolated=images.prediction_interpolated,
    )


def _sharpness_notes(images: ComparedImages) -> list[str]:
    """Say whether interpolation, which blurs, stands in the way of judging the sharpness."""
    notes = []
    if images.prediction_interpolated:
        notes.append("the prediction was interpolated here: whether it is blurred is not judged")
    if images.reference_interpolated:
        notes.append("the reference was interpolated here: a blurred prediction may look sharp")
    return notes


def _moved(found: RigidAlignment | None) -> dict[str, float]:
    if found is None:
        return {}
    return {
        "alignment_shift_mm": float(np.linalg.norm(found.shift_mm)),
        "alignment_turn_degrees": float(found.turn_degrees),
    }


def _pose(found: RigidAlignment | None) -> Matrix | None:
    if found is None or not found.moved:
        return None
    return tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in found.pose.matrix)


def _where(volumes: CaseVolumes, region_name: str | None) -> Where:
    mask, region = volumes.mask, volumes.region
    return Where(
        mask=mask.name if mask else "",
        region=region.name if region else "",
        region_name=(region_name or "") if region else "",
    )


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


def _mask_notes(volumes: CaseVolumes, images: ComparedImages, profile: Profile) -> list[str]:
    """Say what is suspicious about where images are compared."""
    notes = []
    mask, inside = volumes.mask, images.inside
    if mask is None and volumes.region is None:
        notes.append("no mask: the background counts too")
    if inside is None:
        return notes
    count = np.count_nonzero(inside)
    if count < FEW_VOXELS:
        notes.append(
            f"mask: only {count} {'voxel is' if count == 1 else 'voxels are'} compared; values of "
            "tissues, structure and sharpness mean nothing over so few"
        )
    elif mask is not None and volumes.region is None and profile.units == "HU":
        share = loose_share(images.reference.array, inside)
        if share > LOOSE_SHARE:
            notes.append(
                f"mask: loose, {share:.0%} of it is air that leads to its outside; such voxels "
                "are easy and lower the errors"
            )
    return notes


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


def _measured(images: ComparedImages, profile: Profile, options: Options) -> Measures:
    prediction, reference = images.prediction, images.reference
    try:
        return measure(
            prediction.array,
            reference.array,
            images.inside,
            _spacing(reference),
            profile,
            options.tissues,
        )
    except EvaluationError as error:
        raise EvaluationError(f"{prediction.name} against {reference.name}: {error}") from error


def _label_scores(
    label_maps: tuple[Volume, Volume] | None,
    volumes: CaseVolumes,
    images: ComparedImages,
    pose: Alignment,
    options: Options,
) -> dict[str, dict[str, float]]:
    """Compare two label maps class by class, each moved as the image that it belongs to."""
    if label_maps is None:
        return {}
    for labels in label_maps:
        check_mask_values(labels)
    of_prediction, of_reference = label_maps
    predicted = _label_voxels(of_prediction, images.reference, images.reference, pose, options)
    registration = volumes.registration or Alignment.identity()
    on_prediction = voxels_on(of_reference, images.reference)
    if on_prediction is not None and voxels_on(of_reference, volumes.reference) is None:
        true = on_prediction
    else:
        true = _label_voxels(
            of_reference, volumes.reference, images.reference, registration, options
        )
    classes = LABEL_SETS[options.label_classes] if options.label_classes else None
    return label_scores(predicted, true, classes, images.inside, _spacing(images.reference))


def _label_voxels(
    labels: Volume, image: Volume, reference: Volume, alignment: Alignment, options: Options
) -> Array:
    """Bring a label map from its image's grid to the grid of the comparison, by nearest voxel."""
    if voxels_on(labels, image) is None and not options.allow_resampling:
        raise other_grid("label map", labels, image)
    return resample_aligned(labels, alignment, reference.grid, outside=0, nearest=True)


def _error_notes(images: ComparedImages, mean_absolute_error: float) -> list[str]:
    predicted = images.prediction.array
    values = predicted if images.inside is None else predicted[images.inside]
    notes = []
    if values.min() == values.max():
        notes.append(f"prediction: the constant {float(values.min()):g} inside the mask")
    if mean_absolute_error == 0:
        notes.append("prediction and reference are identical inside the mask: the same image?")
    return notes


def _spacing(volume: Volume) -> tuple[float, float, float]:
    x, y, z = map(float, volume.spacing_mm)
    return x, y, z
