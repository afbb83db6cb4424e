"""The images of a case as they were compared, all on one grid, for the viewer and the PDF."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medp2p.alignment import Alignment, read_alignment, resample_aligned
from medp2p.errors import ImageReadError, MedP2PError
from medp2p.io import read_volume
from medp2p.manifest import aligned_volume, dicom_options
from medp2p.metrics import Profile
from medp2p.pictures import HU_WINDOW
from medp2p.preprocessing import resample
from medp2p.regions import read_region
from medp2p.results import CaseFiles, CaseResult
from medp2p.volume import Grid, Volume, reorient


@dataclass(frozen=True)
class CaseImages:
    """What was compared, in RAS order on the grid of the comparison.

    Attributes:
        case: The case's name.
        method: Which prediction.
        source: The image that was translated, if it is known.
        prediction: The prediction.
        reference: The true image.
        mask: Where they were compared; None is everywhere.
        notes: Which images were resampled to be shown.
    """

    case: str
    method: str
    source: Volume | None
    prediction: Volume
    reference: Volume
    mask: NDArray[np.bool_] | None
    notes: tuple[str, ...] = ()


def read_case_images(result: CaseResult, region: str | None = None) -> CaseImages:
    """Read the images behind a result, and put them onto one grid as the evaluation did.

    The grid is the reference's, or the prediction's where the reference was brought there by its
    registration. Another order of axes changes no voxel; an image on another grid is resampled
    (linear; the mask takes the nearest voxel), and a note says so.

    Args:
        result: Knows its files.
        region: Name of the region that was compared, in a file of several.

    Raises:
        ImageReadError: If the images are not on disk any more, or cannot be read.
        GeometryError: If their voxels cannot be placed.
    """
    files = result.files
    if files is None or files.prediction is None:
        raise ImageReadError("the prediction was not kept as a file")
    prediction = reorient(read_volume(files.prediction), "RAS")
    reference = read_volume(files.reference, dicom=dicom_options(files.series))
    drawn = read_region(files.region, reference, name=region) if files.region else None
    alignment = read_alignment(files.transform) if files.transform else Alignment.identity()
    notes = []
    if files.transform:
        reference = aligned_volume(reference, alignment, prediction.grid)
        notes.append("reference resampled by its registration")
    reference = reorient(reference, "RAS")
    grid = reference.grid
    if prediction.grid.difference(grid):
        notes.append("prediction resampled onto the reference's grid")
        prediction = _on_grid(prediction, grid, outside=result.profile.value_range[0])
    if "alignment_shift_mm" in result.values:
        notes.append("prediction shown as it lies, before its rigid alignment")
    source, source_note = _source(files, grid)
    notes += [source_note] if source_note else []
    masks = [_mask_on(read_volume(files.mask), Alignment.identity(), grid)] if files.mask else []
    masks += [_mask_on(drawn, alignment, grid)] if drawn else []
    return CaseImages(
        result.case,
        result.method,
        source,
        prediction,
        reference,
        np.logical_and.reduce(masks) if masks else None,
        tuple(notes),
    )


def grey_range(images: CaseImages, profile: Profile) -> tuple[float, float]:
    """Return the values that pictures show black and white."""
    if profile.units == "HU":
        return HU_WINDOW
    values: NDArray[Any] = images.reference.array
    values = values if images.mask is None else values[images.mask]
    low, high = np.percentile(values, (1, 99.5))
    return float(low), float(max(high, low + 1e-6))


def _source(files: CaseFiles, grid: Grid) -> tuple[Volume | None, str]:
    """Return the source and what to know about it; it can be done without."""
    if files.source is None:
        return None, ""
    try:
        source = reorient(read_volume(files.source), "RAS")
    except MedP2PError:
        return None, "the source could not be read"
    if source.grid.difference(grid):
        source = _on_grid(source, grid, outside=float(source.array.min()))
        return source, "source resampled onto the reference's grid"
    return source, ""


def _on_grid(volume: Volume, grid: Grid, *, outside: float) -> Volume:
    array = resample(volume, grid, outside=outside)
    return replace(volume, array=array, affine=grid.affine)


def _mask_on(mask: Volume, alignment: Alignment, grid: Grid) -> NDArray[np.bool_]:
    binary = mask.with_array((mask.array > 0).astype(np.uint8))
    return resample_aligned(binary, alignment, grid, outside=0, nearest=True) > 0
