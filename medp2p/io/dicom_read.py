"""DICOM series as volumes: classic and enhanced CT and MR images.

No geometry is invented: what the headers do not place exactly is refused with the reason, and
with the option that allows it where there is one (``docs/dicom.md``).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medp2p.dicom_source import DicomSource, SourceImage
from medp2p.errors import GeometryError, ImageReadError
from medp2p.io.dicom_files import Frame, read_header, scan_dicom, scan_files
from medp2p.io.dicom_pixels import check_pixels, read_pixels
from medp2p.io.dicom_series import (
    DicomOptions,
    Group,
    Stack,
    choose_group,
    choose_stack,
    irregularities,
)
from medp2p.io.geometry import LPS_FROM_RAS, MAX_RESAMPLED_GROWTH
from medp2p.volume import Grid, Volume


def read_dicom(
    path: Path,
    *,
    volume_index: int | None = None,
    resample: bool = False,
    options: DicomOptions | None = None,
) -> Volume:
    """Read one CT or MR volume from a folder, at any depth, or from one file.

    Args:
        path: A folder that holds a series, or an image file.
        volume_index: Which volume of a time series, from 0.
        resample: Interpolate slices that are missing, unevenly spaced, shifted or tilted onto
            an even, perpendicular grid instead of refusing them.
        options: Which series, and tolerances.

    Returns:
        The volume, its third axis along the slices' normal, with its `DicomSource`.

    Raises:
        ImageReadError: If there is no such series, several and none was chosen, or a damaged one.
        GeometryError: If the headers do not place the slices as one even stack.
    """
    options = options or DicomOptions()
    stack = _find_stack(path, volume_index, options)
    problems = irregularities(stack, options)
    if problems and not resample:
        raise GeometryError(f"{path}: {problems[0]} (options of medp2p convert and translate)")
    array = read_pixels(path, stack.frames)
    modality = stack.frames[0].file.modality
    volume = Volume(
        array,
        stack_affine(stack),
        modality=modality,
        units="HU" if modality == "CT" else None,
        path=path,
        dicom=_source(stack),
    )
    return _even_volume(volume, stack) if problems else volume


def read_dicom_grid(path: Path, options: DicomOptions | None = None) -> Grid:
    """Read where the voxels of a series lie, and no voxel; errors as for `read_dicom`."""
    options = options or DicomOptions()
    return group_grid(path, _find_group(path, options), options)


def group_grid(path: Path, group: Group, options: DicomOptions) -> Grid:
    """Return where the voxels of a group of slices lie; errors as for `read_dicom`."""
    stack = choose_stack(path, group, None, options)
    problems = irregularities(stack, options)
    if problems:
        raise GeometryError(f"{path}: {problems[0]} (options of medp2p convert and translate)")
    check_pixels(stack.frames)
    file = stack.frames[0].file
    return Grid((file.columns, file.rows, len(stack.frames)), stack_affine(stack))


def stack_affine(stack: Stack) -> NDArray[np.float64]:
    """Return the affine to RAS+ of voxel (column, row, slice) (PS3.3 C.7.6.2.1.1)."""
    between_rows, between_columns = stack.frames[0].pixel_spacing_mm or (0.0, 0.0)
    affine = np.eye(4)
    affine[:3, 0] = stack.row * between_columns
    affine[:3, 1] = stack.column * between_rows
    affine[:3, 2] = stack.step_mm
    affine[:3, 3] = stack.positions_mm[0]
    result: NDArray[np.float64] = LPS_FROM_RAS @ affine
    return result


def _find_stack(path: Path, volume_index: int | None, options: DicomOptions) -> Stack:
    return choose_stack(path, _find_group(path, options), volume_index, options)


def _find_group(path: Path, options: DicomOptions) -> Group:
    scan = scan_files(options.files) if options.files else scan_dicom(path)
    return choose_group(path, scan, options)


def _source(stack: Stack) -> DicomSource:
    file = stack.frames[0].file
    images = tuple(map(_source_image, stack.frames))
    return DicomSource(_source_header(stack), images, file.patient, file.frame_of_reference)


def _source_header(stack: Stack) -> Dataset:
    header = read_header(stack.frames[0].file.path)
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        if keyword in header:
            del header[keyword]
    return header


def _source_image(frame: Frame) -> SourceImage:
    x, y, z = frame.position_mm or ()
    return SourceImage(
        frame.file.sop_class_uid,
        frame.file.sop_instance_uid,
        frame.index + 1 if frame.file.frames > 1 else None,
        (x, y, z),
    )


def _even_volume(volume: Volume, stack: Stack) -> Volume:
    """Interpolate an irregular stack linearly onto even slices that follow their normal.

    Each slice is shifted in its plane to where its header puts it, then slices are interpolated
    along the normal. The spacing is near the median gap, so that the first and last slice stay
    slices. Outside a slice lies the volume's minimum.

    Raises:
        GeometryError: If the grid would grow over `MAX_RESAMPLED_GROWTH` times.
    """
    spacing = stack.frames[0].pixel_spacing_mm or (0.0, 0.0)
    in_plane = np.array([spacing[1], spacing[0]])
    directions = np.stack([stack.row, stack.column, stack.normal], axis=1)
    along = np.asarray(np.linalg.solve(directions, stack.positions_mm.T).T, dtype=np.float64)
    offsets, heights = along[:, :2] / in_plane, along[:, 2]
    first = offsets.min(axis=0)
    offsets = np.round(offsets - first, 6)  # a millionth of a pixel outside is not outside
    count = round((heights[-1] - heights[0]) / float(np.median(np.diff(heights)))) + 1
    size = np.array(volume.shape[:2]) + np.ceil(offsets.max(axis=0)).astype(int)
    shape = (int(size[0]), int(size[1]), count)
    if np.prod(shape, dtype=float) > MAX_RESAMPLED_GROWTH * volume.array.size:
        raise GeometryError(
            f"{volume.name}: an even grid would need over {MAX_RESAMPLED_GROWTH} times the "
            "voxels; get the original series from the scanner or PACS"
        )
    wanted = np.linspace(heights[0], heights[-1], count)
    array = _interpolated_slices(volume.array, offsets, heights, wanted, shape)
    step = (heights[-1] - heights[0]) / (count - 1)
    affine = np.eye(4)
    affine[:3, :3] = directions * [*in_plane, step]
    affine[:3, 3] = directions @ [*(first * in_plane), heights[0]]
    return replace(volume, array=array, affine=LPS_FROM_RAS @ affine)


def _interpolated_slices(
    array: NDArray[Any],
    offsets: NDArray[np.float64],
    heights: NDArray[np.float64],
    wanted: NDArray[np.float64],
    shape: tuple[int, int, int],
) -> NDArray[Any]:
    from scipy.ndimage import affine_transform  # costs 0.2 s, and is seldom needed

    floor = float(array.min())
    working = np.float64 if array.dtype.itemsize > 2 else np.float32
    result = np.empty(shape, dtype=array.dtype, order="F")

    def shifted(k: int) -> NDArray[Any]:
        moved: NDArray[Any] = affine_transform(
            array[:, :, k],
            np.ones(2),
            -offsets[k],
            output_shape=shape[:2],
            output=working,
            order=1,
            mode="constant",
            cval=floor,
        )
        return moved

    for k, height in enumerate(wanted):
        above = int(np.clip(np.searchsorted(heights, height), 1, len(heights) - 1))
        share = (height - heights[above - 1]) / (heights[above] - heights[above - 1])
        values = (1 - share) * shifted(above - 1) + share * shifted(above)
        result[:, :, k] = np.rint(values) if array.dtype.kind in "iu" else values
    return result


def refuse_other_meaning(path: Path, found: str | None, wanted: str | None) -> None:
    """Refuse to call a series what its headers say it is not.

    Raises:
        ImageReadError: If ``wanted`` is another modality than the one found.
    """
    if wanted is not None and wanted != found:
        raise ImageReadError(
            f"{path}: the DICOM headers say {found}, expected {wanted}; choose another scan"
        )
