"""The images of a case as they were compared, for the viewer and the PDF."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medp2p.alignment import Alignment
from medp2p.compared import compared_images, read_case, refuse_changed, with_moved_prediction
from medp2p.errors import ImageReadError
from medp2p.metrics import Profile
from medp2p.pictures import HU_WINDOW
from medp2p.preprocessing import resample
from medp2p.results import CaseFiles, CaseResult
from medp2p.volume import Grid, Volume, reorient


@dataclass(frozen=True)
class CaseImages:
    """What was compared, in RAS order on the grid of the comparison.

    Attributes:
        case: The case's name.
        method: Which prediction.
        source: The image that was translated, if it is known.
        prediction: The prediction, moved onto the reference if it was compared so.
        reference: The true image.
        mask: The voxels that were compared; None is all.
        notes: Which images were resampled or moved.
    """

    case: str
    method: str
    source: Volume | None
    prediction: Volume
    reference: Volume
    mask: NDArray[np.bool_] | None
    notes: tuple[str, ...] = ()


def read_case_images(result: CaseResult) -> CaseImages:
    """Read the images behind a result, as the evaluation compared them.

    Only the source may be resampled besides, for the picture alone.

    Args:
        result: Knows its files.

    Raises:
        ImageReadError: If the images changed since the evaluation, are gone, or cannot be read.
        GeometryError: If their voxels cannot be placed.
    """
    if result.files is None or result.files.prediction is None:
        raise ImageReadError("the prediction was not kept as a file")
    refuse_changed(result.files)
    volumes = read_case(result.files, result.where.region_name or None)
    outside = result.profile.value_range[0]
    images = compared_images(volumes, outside=outside, allow_resampling=True)
    notes = list(images.notes)
    if not result.files.hashes:
        notes.append("whether the images changed since the evaluation is not known")
    if volumes.registration is not None:
        notes.append(f"where the reference has no voxels {outside:g} is shown")
    if result.alignment:
        pose = Alignment(np.array(result.alignment))
        images = with_moved_prediction(images, pose, outside=outside)
        notes.append("prediction shown as compared, moved rigidly onto the reference")
    source, source_note = _shown_source(result.files, volumes.source, images.reference.grid)
    return CaseImages(
        result.case,
        result.method,
        source,
        images.prediction,
        images.reference,
        images.inside,
        (*notes, *source_note),
    )


def grey_range(images: CaseImages, profile: Profile) -> tuple[float, float]:
    """Return the values that pictures show black and white."""
    if profile.units == "HU":
        return HU_WINDOW
    values: NDArray[Any] = images.reference.array
    values = values if images.mask is None else values[images.mask]
    low, high = np.percentile(values, (1, 99.5))
    return float(low), float(max(high, low + 1e-6))


def _shown_source(
    files: CaseFiles, source: Volume | None, grid: Grid
) -> tuple[Volume | None, tuple[str, ...]]:
    """Return the source on the grid of the comparison, and what to know about it."""
    if source is None:
        return None, ("the source could not be read",) if files.source else ()
    source = reorient(source, "RAS")
    if source.grid.difference(grid) is None:
        return source, ()
    array = resample(source, grid, outside=float(source.array.min()))
    shown = replace(source, array=array, affine=grid.affine)
    return shown, ("source resampled onto the reference's grid",)
