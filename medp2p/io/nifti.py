"""NIfTI-1 and NIfTI-2: ``.nii`` and ``.nii.gz``.

nibabel reads and makes the headers; voxels go straight between file and array. The rules for
headers that contradict themselves are in ``docs/geometry.md``. NIfTI-1 clauses are those of
the standard's header file ``nifti1.h``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any, Literal, cast

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from medp2p.errors import GeometryError, ImageReadError, OutputError
from medp2p.files import atomic_file
from medp2p.io.meaning import meaning_of, note
from medp2p.io.remedies import convert_with
from medp2p.io.voxels import (
    VOXEL_TYPES,
    VoxelType,
    chosen_volume,
    converted_slabs,
    cut_short,
    damaged_data,
    output_dtype,
    read_to_end,
    read_voxels,
    refuse_larger_than_file,
    scale,
    settle_non_finite,
    write_compressed,
)
from medp2p.volume import Grid, Volume

NiftiFrame = Literal["sform", "qform", "pixdim"]

FRAME_TOLERANCE_MM = 0.1
"""sform and qform may place a corner voxel this far apart."""

QFORM_ERROR_MM = 0.01
"""A qform that cannot place every corner voxel this well is left out (its code is 0)."""

_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""``xyzt_units``: unknown (taken as millimetres), metres, millimetres, micrometres."""

_ALIGNED = 2
_READABLE = (*VOXEL_TYPES, "int64", "uint64")
_REPAIRABLE = 40
_SILENT = logging.Logger("medp2p.io.nifti.header", level=logging.CRITICAL + 1)


def read_nifti(
    path: Path,
    *,
    frame: NiftiFrame | None = None,
    replace_non_finite: float | None = None,
    volume_index: int | None = None,
) -> Volume:
    """Read a NIfTI file; arguments and errors as for `medp2p.io.read_volume`."""
    with _opened(path) as (header, stream):
        shape, index = _shape(path, header, volume_index)
        affine, code = _affine(path, header, shape, frame)
        array = _read_array(path, header, stream, shape, index)
    array = settle_non_finite(path, array, replace_non_finite)
    modality, units = _meaning(header)
    return Volume(array, affine, modality, units, path, code)


def read_nifti_grid(path: Path) -> Grid:
    """Read where the voxels lie, and no voxel."""
    with _opened(path) as (header, _):
        shape, _ = _shape(path, header, None)
        return Grid(shape, _affine(path, header, shape, None)[0])


def read_nifti_modality(path: Path) -> str | None:
    """Read what the header notes that the voxels are."""
    with _opened(path) as (header, _):
        return _meaning(header)[0]


def _meaning(header: nib.Nifti1Header) -> tuple[str | None, str | None]:
    return meaning_of(bytes(header["descrip"]).decode("ascii", "replace"))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[nib.Nifti1Header, IO[bytes]]]:
    """The header, and the uncompressed stream of what follows it."""
    compressed = _is_compressed(path)
    try:
        with path.open("rb") as file, damaged_data(path), np.errstate(invalid="ignore"):
            _check_compression(path, file, compressed)
            stream = cast("IO[bytes]", igzip.open(file, "rb")) if compressed else file
            yield _read_header(path, stream), stream
    except HeaderDataError as error:
        raise ImageReadError(f"{path}: the NIfTI header is damaged ({error})") from error


def _is_compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _check_compression(path: Path, file: IO[bytes], expected: bool) -> None:
    found = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    if expected and not found:
        raise ImageReadError(
            f"{path}: not gzip data; if it is a plain NIfTI file, rename it to end in .nii"
        )
    if found and not expected:
        raise ImageReadError(f"{path}: gzip data; rename it to end in .nii.gz")


def _read_header(path: Path, stream: IO[bytes]) -> nib.Nifti1Header:
    start = stream.read(4)
    kind = _header_class(path, start)
    block = start + stream.read(kind.sizeof_hdr - 4)
    if len(block) < kind.sizeof_hdr:
        raise cut_short(path)
    header = kind(block, check=False)
    if header["magic"].item() != kind.single_magic:
        raise ImageReadError(
            f"{path}: not a NIfTI file in one piece (wrong magic string); "
            "convert it to .nii.gz with the program that wrote it"
        )
    return header


def _header_class(path: Path, start: bytes) -> type[nib.Nifti1Header]:
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        if kind.sizeof_hdr in (int.from_bytes(start, "little"), int.from_bytes(start, "big")):
            return kind
    raise ImageReadError(f"{path}: not a NIfTI file (its header has no known size)")


def _shape(
    path: Path, header: nib.Nifti1Header, volume_index: int | None
) -> tuple[tuple[int, int, int], int]:
    """Return the size of one volume, and how many volumes lie before the wanted one."""
    dim = [int(n) for n in header["dim"]]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise ImageReadError(
            f"{path}: the header says dim = {dim}, expected 1 to 7 axes of at least one voxel; "
            "it is damaged or empty"
        )
    size = [*dim[1 : dim[0] + 1], 1, 1][: max(3, dim[0])]
    return (size[0], size[1], size[2]), chosen_volume(path, math.prod(size[3:]), volume_index)


def _affine(
    path: Path, header: nib.Nifti1Header, shape: tuple[int, int, int], frame: NiftiFrame | None
) -> tuple[NDArray[np.float64], int]:
    """Return voxel to RAS+ millimetres and the NIfTI code of that space."""
    units = int(header["xyzt_units"]) & 0b111
    if units not in _MM_PER_UNIT:
        raise GeometryError(f"{path}: unit of length {units}, expected 0 to 3; repair the header")
    pixdim = np.array(header["pixdim"][1:4], dtype=np.float64)
    header.check_fix(logger=_SILENT, error_level=_REPAIRABLE)
    codes = {"sform": int(header["sform_code"]), "qform": int(header["qform_code"])}
    if frame is None:
        frame = _default_frame(path, header, shape, pixdim, codes, _MM_PER_UNIT[units])
    elif frame != "pixdim" and codes[frame] == 0:
        raise GeometryError(f"{path}: has no {frame} (its code is 0); choose another --nifti-frame")
    affine = _frame_affine(path, header, pixdim, frame)
    affine[:3] *= _MM_PER_UNIT[units]
    return affine, codes.get(frame, _ALIGNED)


def _default_frame(
    path: Path,
    header: nib.Nifti1Header,
    shape: tuple[int, int, int],
    pixdim: NDArray[np.float64],
    codes: dict[str, int],
    mm_per_unit: float,
) -> NiftiFrame:
    if not any(codes.values()):
        raise GeometryError(
            f"{path}: sform and qform codes are both 0, so nothing says where the voxels lie; "
            "if the axes run right, front, up: "
            f"{convert_with(path, '--nifti-frame pixdim')}"
        )
    if not all(codes.values()):
        return "sform" if codes["sform"] else "qform"
    places = [Grid(shape, _frame_affine(path, header, pixdim, f)) for f in ("sform", "qform")]
    apart = np.linalg.norm(places[0].corners_mm - places[1].corners_mm, axis=1).max() * mm_per_unit
    if not apart <= FRAME_TOLERANCE_MM:
        raise GeometryError(
            f"{path}: sform and qform place a corner voxel {apart:.4g} mm apart, expected at most "
            f"{FRAME_TOLERANCE_MM}; choose: {convert_with(path, '--nifti-frame sform|qform')}"
        )
    return "sform"


def _frame_affine(
    path: Path, header: nib.Nifti1Header, pixdim: NDArray[np.float64], frame: NiftiFrame
) -> NDArray[np.float64]:
    if frame != "sform" and not (np.isfinite(pixdim) & (pixdim > 0)).all():
        raise GeometryError(
            f"{path}: pixdim says a spacing of {pixdim.tolist()}, expected more than 0; "
            f"if there is an sform: {convert_with(path, '--nifti-frame sform')}"
        )
    if frame == "pixdim":
        return np.diag([*pixdim, 1.0])
    try:
        affine = header.get_sform() if frame == "sform" else header.get_qform()
    except ValueError:
        affine = np.full((4, 4), np.nan)
    if not np.isfinite(affine).all():
        other = "qform" if frame == "sform" else "sform"
        raise GeometryError(
            f"{path}: the {frame} is no affine of finite numbers; choose the other: "
            f"{convert_with(path, f'--nifti-frame {other}')}"
        )
    return np.array(affine, dtype=np.float64)


def _read_array(
    path: Path,
    header: nib.Nifti1Header,
    stream: IO[bytes],
    shape: tuple[int, int, int],
    volume: int,
) -> NDArray[Any]:
    dtype = header.get_data_dtype()
    if dtype.name not in _READABLE:
        raise ImageReadError(
            f"{path}: voxels are complex numbers, colours or longer than 64 bits, "
            "expected real numbers"
        )
    offset = float(header["vox_offset"])
    if not (offset >= header.single_vox_offset and offset.is_integer()):
        raise ImageReadError(
            f"{path}: the header puts the voxels at byte {offset:g}, expected "
            f"{header.single_vox_offset} or more; it is damaged"
        )
    volumes = math.prod(int(n) for n in header["dim"][4 : 1 + int(header["dim"][0])])
    volume_bytes = math.prod(shape) * dtype.itemsize
    refuse_larger_than_file(
        path,
        claimed=int(offset) + volumes * volume_bytes,
        held=path.stat().st_size,
        compressed=_is_compressed(path),
    )
    skip = int(offset) - header.sizeof_hdr + volume * volume_bytes
    array = read_voxels(path, stream, shape, dtype, skip=skip)
    if _is_compressed(path):
        read_to_end(stream)
    slope, intercept = header.get_slope_inter()
    if slope is None or (slope, intercept) == (1.0, 0.0):
        return array
    return scale(array, slope, intercept)


def write_nifti(
    volume: Volume, path: Path, *, dtype: VoxelType | None = None, overwrite: bool = False
) -> None:
    """Write a NIfTI-1 file; arguments and errors as for `medp2p.io.write_volume`."""
    voxel_type = output_dtype(volume.array.dtype, dtype)
    start = _header_for(volume, path, voxel_type).binaryblock + bytes(4)
    slabs = converted_slabs(path, volume.array, voxel_type)
    compressed = path.name.lower().endswith(".gz")
    with atomic_file(path, overwrite=overwrite) as temporary, temporary.open("wb") as file:
        if compressed:
            write_compressed(file, chain([start], slabs), gzip=True)
        else:
            file.write(start)
            for slab in slabs:
                file.write(slab)


def _header_for(volume: Volume, path: Path, voxel_type: np.dtype[Any]) -> nib.Nifti1Header:
    if max(volume.shape) > np.iinfo(np.int16).max:
        raise OutputError(
            f"{path}: {max(volume.shape)} voxels along an axis, NIfTI-1 holds 32767; "
            "write .mha or .nrrd instead"
        )
    header = nib.Nifti1Header(endianness="<")
    header.set_data_dtype(voxel_type)
    header.set_data_shape(volume.shape)
    header["vox_offset"] = header.single_vox_offset
    header["magic"] = header.single_magic
    header["descrip"] = note(volume).encode()
    header.set_xyzt_units("mm")
    header.set_sform(volume.affine, code=volume.nifti_code)
    header.set_qform(volume.affine, code=volume.nifti_code, strip_shears=True)
    placed = Grid(volume.shape, header.get_qform())
    if np.linalg.norm(placed.corners_mm - volume.grid.corners_mm, axis=1).max() > QFORM_ERROR_MM:
        header["qform_code"] = 0
    return header
