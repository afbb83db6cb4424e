"""The images of a case on one grid, and which of their voxels are compared.

Evaluation computes its numbers from what `compared_images` returns, and a report shows the same.
The grid is the reference's, or the prediction's where the reference was registered to it. Axes
stored in another order or direction are the same grid: they are reordered, no value changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medp2p.alignment import Alignment, read_alignment, resample_aligned
from medp2p.errors import EvaluationError, GeometryError, ImageReadError, MedP2PError
from medp2p.hashes import hash_path
from medp2p.io import read_volume
from medp2p.manifest import dicom_options
from medp2p.preprocessing import check_mask_values, resample
from medp2p.regions import read_region
from medp2p.results import CaseFiles
from medp2p.volume import Grid, Volume, reorient

SHOWN_FILES = ("prediction", "reference", "mask", "region", "transform", "source")
"""Which files of a case its images are made from; label maps are compared only."""

CENTRE_TOLERANCE = 0.01
"""In voxels; a point so little beyond the outermost centres counts as on them."""

Array = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class CaseVolumes:
    """The images of a case as they are stored.

    Attributes:
        prediction: The predicted image.
        reference: The true image.
        mask: Where to compare, values above 0 are inside; None for everywhere.
        region: Where to compare within the mask, on the reference's world.
        source: The image that was translated, if it is known.
        registration: Where the prediction's world lies in the reference's, if the reference was
            registered.
    """

    prediction: Volume
    reference: Volume
    mask: Volume | None = None
    region: Volume | None = None
    source: Volume | None = None
    registration: Alignment | None = None


@dataclass(frozen=True, eq=False)
class ComparedImages:
    """Prediction and reference on one grid, axes in RAS order.

    Attributes:
        prediction: The predicted image.
        reference: The true image.
        inside: The voxels that are compared; None for all.
        notes: What was done to bring them to one grid.
        filled: Voxels that a resampled prediction does not reach; None if there are none.
        prediction_interpolated: Whether the prediction's values were interpolated, which blurs.
        reference_interpolated: Whether the reference's were.
    """

    prediction: Volume
    reference: Volume
    inside: Mask | None
    notes: tuple[str, ...] = ()
    filled: Mask | None = None
    prediction_interpolated: bool = False
    reference_interpolated: bool = False


def read_case(
    files: CaseFiles, region_name: str | None = None, prediction: Volume | None = None
) -> CaseVolumes:
    """Read the images of a case.

    Args:
        files: Where they are. A source that cannot be read is done without.
        region_name: Which region of a file with several.
        prediction: Taken instead of the file.

    Raises:
        EvaluationError: If there is no prediction.
        ImageReadError: If a file is missing or damaged.
        GeometryError: If voxels cannot be placed, or the region does not belong to the reference.
        ConfigError: If the region's file holds no region of the name, or several and no name is
            given.
    """
    if prediction is None:
        prediction = _read_prediction(files)
    reference = read_volume(files.reference, dicom=dicom_options(files.series))
    return CaseVolumes(
        prediction,
        reference,
        mask=read_volume(files.mask) if files.mask else None,
        region=read_region(files.region, reference, name=region_name) if files.region else None,
        source=_read_source(files),
        registration=read_alignment(files.transform) if files.transform else None,
    )


def compared_images(
    volumes: CaseVolumes, *, outside: float, allow_resampling: bool = False
) -> ComparedImages:
    """Bring the images of a case onto one grid, and find the voxels that are compared.

    These are the voxels inside the mask and the region that a registered reference covers.

    Args:
        volumes: As they are stored.
        outside: Value of a resampled prediction where it has no voxels.
        allow_resampling: Interpolate a prediction on another grid linearly, and take a mask or
            region on another grid from the nearest voxel, instead of refusing it.

    Raises:
        GeometryError: If grids differ and resampling is not allowed, or images lie apart.
        ImageReadError: If the mask is an image, by its header or its values.
        EvaluationError: If the mask or region is empty, or they have no voxel in common.
    """
    reference, region, seen = _registered(volumes, outside)
    inside, notes = _marked_voxels(volumes.mask, region, reference, allow_resampling)
    if seen is not None:
        wanted = np.ones_like(seen) if inside is None else inside
        inside = seen & wanted
        _refuse_uncovered(inside, volumes)
        notes.insert(0, _registration_note(inside, wanted, volumes))
    voxels = voxels_on(volumes.prediction, reference)
    interpolated = voxels is None
    filled: Mask | None = None
    if voxels is None:
        if not allow_resampling:
            raise other_grid("prediction", volumes.prediction, reference)
        voxels, filled, note = _resampled(volumes.prediction, reference, inside, outside)
        notes.append(note)
    return ComparedImages(
        replace(volumes.prediction, array=voxels, affine=reference.affine),
        reference,
        inside,
        tuple(notes),
        filled,
        prediction_interpolated=interpolated,
        reference_interpolated=volumes.registration is not None,
    )


def with_moved_prediction(
    images: ComparedImages, alignment: Alignment, *, outside: float
) -> ComparedImages:
    """Move the prediction, and leave out the voxels that it no longer covers.

    Args:
        images: On one grid.
        alignment: Where the reference's world lies in the prediction's.
        outside: Value of the prediction where it has none.
    """
    prediction, seen = moved_onto(images.prediction, alignment, images.reference.grid, outside)
    inside = seen if images.inside is None else images.inside & seen
    return replace(images, prediction=prediction, inside=inside, prediction_interpolated=True)


def moved_onto(
    volume: Volume, alignment: Alignment, grid: Grid, outside: float
) -> tuple[Volume, Mask]:
    """Resample a volume once, linearly, and tell which voxels of the grid it covers.

    It covers what lies between its outermost voxel centres: nothing is extrapolated.

    Args:
        volume: The moving image.
        alignment: Where the grid's world lies in the moving image's.
        grid: Where values are wanted.
        outside: Value of what is not covered.
    """
    extent = _between_centres(volume)
    seen = resample_aligned(extent, alignment, grid, outside=0, nearest=True) > 0
    array = np.where(seen, resample_aligned(volume, alignment, grid), np.float32(outside))
    return replace(volume, array=array, affine=grid.affine), seen


def _between_centres(volume: Volume) -> Volume:
    """Ones from the first to the last voxel centre along every axis, where values are known."""
    count = np.maximum(np.array(volume.shape) - 1, 1)
    single = np.array(volume.shape) == 1
    length = np.where(single, 1.0, count + 2 * CENTRE_TOLERANCE)
    first = np.where(single, 0.0, length / count / 2 - CENTRE_TOLERANCE)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    affine[:3, :3] *= length / count
    return replace(volume, array=np.ones(count, np.uint8), affine=affine)


def voxels_on(volume: Volume, reference: Volume) -> Array | None:
    """Return the voxels in the reference's order of axes, or None if the grids differ."""
    aligned = reorient(volume, reference.orientation)
    return None if aligned.grid.difference(reference.grid) else aligned.array


def other_grid(role: str, volume: Volume, reference: Volume) -> GeometryError:
    """Return the refusal of a volume that is not on the reference's grid."""
    aligned = reorient(volume, reference.orientation)
    difference = aligned.grid.difference(reference.grid)
    return GeometryError(
        f"{volume.name}: the {role} is not on the grid of {reference.name}: {difference}; "
        "pass --resample to allow it"
    )


def with_hashes(files: CaseFiles) -> CaseFiles:
    """Note the SHA-256 of every file of a case, so that a later change is seen.

    Raises:
        MedP2PError: If a file cannot be read; a source that is not there is left out.
    """
    return replace(
        files,
        hashes={
            role: hash_path(path)
            for role, path in _paths(files).items()
            if role != "source" or path.exists()
        },
    )


def refuse_changed(files: CaseFiles) -> None:
    """Refuse images that are not those that were compared.

    Files without a noted hash are not checked.

    Raises:
        ImageReadError: If a file changed since its hash was noted, or is gone.
    """
    for role, path in _paths(files).items():
        if role not in files.hashes or role not in SHOWN_FILES:
            continue
        again = f"run `medp2p evaluate` again, or put the {role} back"
        if not path.exists():
            raise ImageReadError(f"{path}: gone since the evaluation; {again}")
        if hash_path(path) != files.hashes[role]:
            raise ImageReadError(f"{path}: changed since the evaluation; {again}")


def _paths(files: CaseFiles) -> Mapping[str, Path]:
    names = (*SHOWN_FILES, "prediction_labels", "reference_labels")
    return {name: path for name in names if (path := getattr(files, name)) is not None}


def _read_prediction(files: CaseFiles) -> Volume:
    if files.prediction is None:
        raise EvaluationError(f"case {files.case}: there is no prediction on disk")
    return read_volume(files.prediction)


def _read_source(files: CaseFiles) -> Volume | None:
    if files.source is None:
        return None
    try:
        return read_volume(files.source)
    except MedP2PError:
        return None


def _registered(volumes: CaseVolumes, outside: float) -> tuple[Volume, Volume | None, Mask | None]:
    """Return reference and region in RAS order, brought to the prediction if registered.

    The last is where a registered reference has voxels; elsewhere it is ``outside``.
    """
    alignment, reference, region = volumes.registration, volumes.reference, volumes.region
    if alignment is None:
        return reorient(reference, "RAS"), region, None
    grid = reorient(volumes.prediction, "RAS").grid
    reference, seen = moved_onto(reference, alignment, grid, outside)
    if region is not None:
        carried = resample_aligned(region, alignment, grid, outside=0, nearest=True)
        region = replace(region, array=carried, affine=grid.affine)
    return reference, region, seen


def _refuse_uncovered(inside: Mask, volumes: CaseVolumes) -> None:
    if not inside.any():
        raise GeometryError(
            f"{volumes.reference.name}: by its registration it covers no voxel of "
            f"{volumes.prediction.name} that is to be compared; check the pair"
        )


def _registration_note(inside: Mask, wanted: Mask, volumes: CaseVolumes) -> str:
    share = np.count_nonzero(inside) / np.count_nonzero(wanted)
    what = "the mask" if volumes.mask and not volumes.region else "what is to be compared"
    return (
        "reference resampled linearly by its registration onto the prediction's grid; it "
        f"covers {math.floor(1000 * share) / 10:g} % of {what}, the rest is left out"
    )


def _marked_voxels(
    mask: Volume | None, region: Volume | None, reference: Volume, allow_resampling: bool
) -> tuple[Mask | None, list[str]]:
    """Return the voxels inside mask and region, None for everywhere, and notes on them."""
    inside: Mask | None = None
    notes = []
    for role, volume in (("mask", mask), ("region", region)):
        if volume is None:
            continue
        voxels, note = _mask_voxels(role, volume, reference, allow_resampling)
        inside = voxels if inside is None else inside & voxels
        notes += [note] if note else []
    if region is not None and inside is not None and not inside.any():
        raise EvaluationError(
            f"{region.name}: no voxel of the region lies inside the mask; "
            "check that both belong to one case"
        )
    return inside, notes


def _mask_voxels(
    role: str, mask: Volume, reference: Volume, allow_resampling: bool
) -> tuple[Mask, str | None]:
    """Return the mask on the reference's grid, and what to know about it."""
    check_mask_values(mask)
    if not mask.array.any():
        raise EvaluationError(f"{mask.name}: the {role} is empty; give one with values above 0")
    voxels = voxels_on(mask, reference)
    if voxels is not None:
        return voxels > 0, None
    if not allow_resampling:
        raise other_grid(role, mask, reference)
    binary = mask.with_array((mask.array > 0).astype(np.uint8))
    voxels = resample(binary, reference.grid, outside=0, nearest=True) > 0
    if not voxels.any():
        raise GeometryError(
            f"{mask.name}: marks no voxel of {reference.name}, they lie apart; "
            "check that both belong to one case"
        )
    return voxels, f"{role} resampled (nearest voxel) onto the reference's grid"


def _resampled(
    prediction: Volume, reference: Volume, inside: Mask | None, outside: float
) -> tuple[Array, Mask, str]:
    """Interpolate the prediction onto the reference's grid; tell what it does not reach."""
    extent = prediction.with_array(np.ones(prediction.shape, np.uint8))
    within = resample(extent, reference.grid, outside=0, nearest=True)
    covered = float(np.mean(within if inside is None else within[inside]))
    if covered == 0:
        raise GeometryError(
            f"{prediction.name}: lies apart from what is compared in {reference.name}; "
            "check that both belong to one case"
        )
    note = "prediction resampled linearly onto the reference's grid"
    if covered < 1:
        note += (
            f"; {100 * (1 - covered):.2g} % of the compared voxels lie outside it and count as "
            f"{outside:g}"
        )
    return resample(prediction, reference.grid, outside=outside), within == 0, note
