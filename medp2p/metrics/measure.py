"""All metrics of one case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medp2p.errors import EvaluationError
from medp2p.metrics.arrays import (
    Array,
    BoolArray,
    FloatArray,
    bounding_box,
    checked_mask,
    values_inside,
)
from medp2p.metrics.consistency import flicker
from medp2p.metrics.curves import (
    Curve,
    Histogram2D,
    bland_altman_histogram,
    error_by_slice,
    joint_histogram,
)
from medp2p.metrics.information import mutual_information
from medp2p.metrics.interfaces import depth_mm, error_by_depth, error_by_interface_distance
from medp2p.metrics.overlap import tissue_overlap
from medp2p.metrics.profiles import Profile
from medp2p.metrics.sharpness import edge_width_ratio, power_ratio, tissue_depth_mm
from medp2p.metrics.structure import STRUCTURE_METRICS
from medp2p.metrics.tissues import AIR_HU, TISSUES_HU, Tissues, tissue_metrics
from medp2p.metrics.voxels import VOXEL_METRICS, ncc, rmse
from medp2p.metrics.wepl import wepl_difference


@dataclass(frozen=True)
class Measures:
    """What was measured of one case.

    Attributes:
        values: By name; NaN where a metric has no value.
        curves: By name.
        histograms: ``joint`` and ``bland_altman``.
        notes: Why a metric has no value, one line each.
    """

    values: dict[str, float]
    curves: dict[str, Curve] = field(default_factory=dict)
    histograms: dict[str, Histogram2D] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def measure(
    prediction: Array,
    reference: Array,
    mask: Array | None,
    spacing_mm: Sequence[float],
    profile: Profile,
    tissues: Tissues = TISSUES_HU,
    *,
    dtype: type[np.floating[Any]] = np.float64,
) -> Measures:
    """Compute every metric, curve and histogram of one case.

    ``docs/metrics.md`` lists the names with their definitions. Those in HU, of tissues and of
    WEPL are there under a profile for CT only.

    Args:
        prediction: Three axes in RAS order, in the profile's units.
        reference: The same shape and units.
        mask: The same shape, values above 0 are inside; None is the whole volume.
        spacing_mm: Of the voxels along each axis.
        profile: The definition of the metrics.
        tissues: Classes in HU by name, for `medp2p.metrics.in_tissue`.
        dtype: Of SSIM and MS-SSIM, ``np.float64`` or ``np.float32``; all else is float64.

    Returns:
        The measures. A metric without a value is NaN, with a note where that is not plain from
        another value; a curve without a point is left out.

    Raises:
        EvaluationError: If the images have not three axes, shapes differ, the mask is empty or a
            value inside it is NaN or infinite.
        ValueError: If a spacing is not positive.
    """
    if len(spacing_mm) != 3 or not all(0 < spacing < math.inf for spacing in spacing_mm):
        raise ValueError(f"three positive spacings are needed, got {tuple(spacing_mm)}")
    predicted, true = (
        values.astype(np.float64) for values in values_inside(prediction, reference, mask)
    )
    if reference.ndim != 3:
        raise EvaluationError(
            f"an image has {reference.ndim} axes; volumes with three are compared"
        )
    voxels = voxel_metrics(predicted, true, None, profile, tissues)
    structure, note = _structure(prediction, reference, mask, profile, dtype)
    inside_range = (predicted, true, None, profile.value_range)
    values = {
        **{key: voxels.pop(key) for key in (profile.mae_key, profile.bias_key, "psnr_db")},
        profile.structure_key: structure,
        "rmse" + profile.unit_suffix: rmse(predicted, true),
        "ncc": ncc(predicted, true),
        "mutual_information_nats": mutual_information(*inside_range),
        **voxels,
    }
    histograms = {
        "joint": joint_histogram(predicted, true, profile.value_range),
        "bland_altman": bland_altman_histogram(predicted, true, profile.value_range),
    }
    case = _cropped(prediction, reference, mask, spacing_mm, profile)
    curves = error_by_slice(case.error, case.inside, case.start) | _distance_curves(case, tissues)
    if case.in_hu:
        values |= tissue_overlap(case.prediction, case.reference, case.inside, spacing_mm, tissues)
        wepl = wepl_difference(case.prediction, case.reference, case.inside, spacing_mm)
        values |= {"wepl_mae_mm": wepl.mean_absolute_mm, "wepl_p95_mm": wepl.percentile_95_mm}
        curves["wepl_mae_by_angle_degrees"] = wepl.by_angle
    values |= flicker(case.error, case.reference, case.inside, spacing_mm)
    values |= _sharpness(case, curves)
    curves = {name: curve for name, curve in curves.items() if curve.x}
    return Measures(values, curves, histograms, [note] if note else [])


@dataclass(frozen=True)
class _Case:
    """Both images on the mask's bounding box with a margin of one voxel, as float64.

    Attributes:
        prediction: 0 outside the mask.
        reference: 0 outside the mask.
        error: Prediction minus reference, 0 outside the mask.
        inside: The mask.
        start: Index of the first voxel in the whole volume.
        spacing_mm: Of the voxels along each axis.
        profile: The definition of the metrics.
    """

    prediction: FloatArray
    reference: FloatArray
    error: FloatArray
    inside: BoolArray
    start: tuple[int, ...]
    spacing_mm: Sequence[float]
    profile: Profile

    @property
    def in_hu(self) -> bool:
        return self.profile.units == "HU"


def _cropped(
    prediction: Array,
    reference: Array,
    mask: Array | None,
    spacing_mm: Sequence[float],
    profile: Profile,
) -> _Case:
    inside = checked_mask(prediction, reference, mask)
    tight = bounding_box(inside)
    assert tight is not None
    box = tuple(
        slice(max(0, part.start - 1), min(size, part.stop + 1))
        for part, size in zip(tight, inside.shape, strict=True)
    )
    inside = np.ascontiguousarray(inside[box])
    predicted, true = (_kept(image[box], inside) for image in (prediction, reference))
    start = tuple(part.start for part in box)
    return _Case(predicted, true, predicted - true, inside, start, spacing_mm, profile)


def _kept(image: Array, inside: BoolArray) -> FloatArray:
    """Return the image as float64 with 0 outside the mask."""
    kept: FloatArray = np.zeros(inside.shape)
    np.copyto(kept, image, where=inside)
    return kept


def _structure(
    prediction: Array,
    reference: Array,
    mask: Array | None,
    profile: Profile,
    dtype: type[np.floating[Any]],
) -> tuple[float, str | None]:
    """Return the structure metric, or NaN and why it has no value."""
    metric = STRUCTURE_METRICS[profile.structure]
    try:
        return metric(prediction, reference, mask, profile.value_range, dtype), None
    except EvaluationError as error:
        return math.nan, str(error)


def _distance_curves(case: _Case, tissues: Tissues) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    depth = depth_mm(case.inside, case.spacing_mm)
    if depth is not None:
        names = ("mae_by_depth_mm", "bias_by_depth_mm")
        curves |= dict(zip(names, error_by_depth(case.error, case.inside, depth), strict=True))
    if case.in_hu:
        curve = error_by_interface_distance(
            case.error, case.reference, case.inside, case.spacing_mm, tissues
        )
        if curve is not None:
            curves["mae_by_interface_distance_mm"] = curve
    return curves


def _sharpness(case: _Case, curves: dict[str, Curve]) -> dict[str, float]:
    """Return both measures of sharpness and add their curve."""
    tissue = case.inside & (case.reference > AIR_HU) if case.in_hu else case.inside
    depth = tissue_depth_mm(tissue, case.spacing_mm)
    predicted, true = (
        np.clip(image, *case.profile.value_range) for image in (case.prediction, case.reference)
    )
    ratio, curve = power_ratio(predicted, true, depth, case.spacing_mm)
    curves["power_ratio_by_frequency_per_mm"] = curve
    width = edge_width_ratio(predicted, true, depth, case.spacing_mm)
    return {"power_ratio": ratio, "edge_width_ratio": width}


def compute_metrics(
    prediction: Array, reference: Array, mask: Array | None, profile: Profile
) -> dict[str, float]:
    """Compute all metrics of a profile.

    Args:
        prediction: Three axes, in the profile's units.
        reference: The same shape and units.
        mask: The same shape, values above 0 are inside; None is the whole volume.
        profile: The definition to use.

    Returns:
        The values of `voxel_metrics` followed by the structure metric under the key
        `Profile.structure_key`.

    Raises:
        EvaluationError: If shapes differ, the mask is empty, a value inside it is NaN or
            infinite, or the structure metric runs out of mask.
    """
    values = voxel_metrics(prediction, reference, mask, profile)
    structure = STRUCTURE_METRICS[profile.structure]
    values[profile.structure_key] = structure(prediction, reference, mask, profile.value_range)
    return values


def metric_names(profile: Profile) -> list[str]:
    """Return the names of a profile's metrics, without the counts of voxels."""
    names = [profile.mae_key, profile.bias_key, "psnr_db"]
    if profile.units == "HU":
        names += [f"{kind}_{tissue}_hu" for tissue in TISSUES_HU for kind in ("mae", "bias")]
    return [*names, profile.structure_key]


def available_metrics(
    prediction: Array, reference: Array, mask: Array | None, profile: Profile
) -> tuple[dict[str, float], str | None]:
    """Compute all metrics of a profile that have a value; as `compute_metrics` otherwise.

    Returns:
        The values, with NaN for a structure metric that runs out of mask, and why it did, or
        None.

    Raises:
        EvaluationError: If `voxel_metrics` raises it.
    """
    values = voxel_metrics(prediction, reference, mask, profile)
    structure, note = _structure(prediction, reference, mask, profile, np.float64)
    values[profile.structure_key] = structure
    return values, note


def voxel_metrics(
    prediction: Array,
    reference: Array,
    mask: Array | None,
    profile: Profile,
    tissues: Tissues = TISSUES_HU,
) -> dict[str, float]:
    """Compute the metrics that compare voxel by voxel.

    Args:
        prediction: Any shape, in the profile's units.
        reference: The same shape and units.
        mask: The same shape, values above 0 are inside; None is the whole volume.
        profile: The definition to use.
        tissues: Classes in HU by name.

    Returns:
        ``mae_hu``, ``bias_hu``, ``psnr_db`` and ``voxels``, their number; then for each of
        `TISSUES_HU`, such as air, ``mae_air_hu``, ``bias_air_hu`` and ``voxels_air``. A
        class that the reference does not hold inside the mask has NaN and a count of 0.
        Without units the names are ``mae``, ``bias``, ``psnr_db``, ``voxels``.

    Raises:
        EvaluationError: If shapes differ, the mask is empty or a value inside it is NaN or
            infinite.
    """
    predicted, true = values_inside(prediction, reference, mask)
    values = {
        key + (profile.unit_suffix if key != "psnr_db" else ""): metric(
            predicted, true, profile.value_range
        )
        for key, metric in VOXEL_METRICS.items()
    }
    values["voxels"] = true.size
    if profile.units == "HU":
        values |= tissue_metrics(predicted, true, tissues)
    return values
