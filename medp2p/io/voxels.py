"""Voxels between files and arrays, a slab at a time, so that nothing is held twice."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from gzip import BadGzipFile
from pathlib import Path
from typing import IO, Any, Literal, cast, get_args

import numpy as np
from isal import igzip, igzip_lib, isal_zlib
from numpy.typing import NDArray

from medp2p.errors import ImageReadError, OutputError
from medp2p.io.remedies import convert_with

VoxelType = Literal["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]
VOXEL_TYPES: tuple[VoxelType, ...] = get_args(VoxelType)

MAX_FLOAT32 = float(np.finfo(np.float32).max)

MAX_DEFLATE_RATIO = 1032
"""Deflate cannot shrink data further than this (one bit for 258 bytes, RFC 1951)."""

COMPRESSION_LEVEL = 2
"""isal's levels run from 0 to 3; ``docs/geometry.md`` says what was measured."""

_ISAL_ERROR = cast("type[Exception]", igzip_lib.IsalError)
_CHUNK_BYTES = 1 << 18
_GZIP_WRAPPER = 16


class ZlibReader:
    """Reads a zlib stream (RFC 1950) from a file, checking its Adler-32 at the end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decompressor = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_ZLIB)

    def read(self, size: int) -> bytes:
        """Return 1 to ``size`` bytes, or none at the end of the stream."""
        while not self._decompressor.eof:
            compressed = b""
            if self._decompressor.needs_input:
                compressed = self._file.read(_CHUNK_BYTES)
                if not compressed:
                    raise EOFError
            data: bytes = self._decompressor.decompress(compressed, size)
            if data:
                return data
        return b""


@contextmanager
def damaged_data(path: Path) -> Iterator[None]:
    """Turn what a decompressor raises into an ImageReadError."""
    try:
        yield
    except EOFError as error:
        raise cut_short(path) from error
    except (BadGzipFile, zlib.error, _ISAL_ERROR) as error:
        raise ImageReadError(f"{path}: its compressed data are damaged; get it again") from error


def cut_short(path: Path) -> ImageReadError:
    """Make the error for a file that ends before its voxels do."""
    return ImageReadError(f"{path}: ends before its voxels do; it is cut short, get it again")


def chosen_volume(path: Path, count: int, index: int | None) -> int:
    """Return the index of the wanted volume in a file that holds ``count`` of them.

    Raises:
        ImageReadError: If there are several and none was chosen, or not that one.
    """
    if index is None and count == 1:
        return 0
    if index is None:
        raise ImageReadError(
            f"{path}: holds {count} volumes, expected one; "
            f"choose one, 0 to {count - 1}: {convert_with(path, '--volume K')}"
        )
    if not 0 <= index < count:
        raise ImageReadError(f"{path}: has no volume {index}; they are numbered 0 to {count - 1}")
    return index


def refuse_larger_than_file(path: Path, claimed: int, held: int, *, compressed: bool) -> None:
    """Raise before memory is taken for voxels that the file cannot hold.

    Args:
        path: The file, for the message.
        claimed: Bytes of voxels (and what precedes them) by the header.
        held: Bytes on the disk.
        compressed: Whether they are deflated.
    """
    if claimed > held * (MAX_DEFLATE_RATIO if compressed else 1):
        raise ImageReadError(
            f"{path}: the header promises {claimed} bytes of voxels and the file has {held}"
            f"{' compressed' if compressed else ''} bytes; it is cut short or damaged, "
            "get it again"
        )


def read_block(
    path: Path,
    file: IO[bytes],
    sizes: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    compressed: bool,
    leading_bytes: int = 0,
    volume_index: int | None = None,
) -> NDArray[Any]:
    """Read one volume from a file that is voxels from here to its end.

    Args:
        path: The image, for messages.
        file: Stands where the voxels (or what leads them) begin.
        sizes: Number of voxels along each axis, the fastest first, three or more axes.
        dtype: How they are stored, in either byte order.
        compressed: Whether they are a zlib or gzip stream.
        leading_bytes: Bytes before the voxels; -1 if the voxels are the last in the file.
        volume_index: Which volume, where there are more than three axes.

    Returns:
        As `read_voxels`.

    Raises:
        ImageReadError: If the file holds more or less than ``sizes`` says, is damaged,
            or holds several volumes and none was chosen.
    """
    if min(sizes) < 1:
        raise ImageReadError(f"{path}: an axis of no voxels, expected at least one; it is empty")
    volume = chosen_volume(path, math.prod(sizes[3:]), volume_index)
    volume_bytes = math.prod(sizes[:3]) * dtype.itemsize
    claimed = math.prod(sizes) * dtype.itemsize
    held = os.fstat(file.fileno()).st_size - file.tell()
    if leading_bytes < 0:
        leading_bytes = max(0, held - claimed)
    held -= leading_bytes
    refuse_larger_than_file(path, claimed, held, compressed=compressed)
    if not compressed and held > claimed:
        raise ImageReadError(
            f"{path}: {held} bytes of voxels, expected {claimed} by the header, "
            "so where they begin is not certain; repair the header"
        )
    file.seek(leading_bytes, os.SEEK_CUR)
    with damaged_data(path):
        stream = _decompressed(file) if compressed else file
        array = read_voxels(path, stream, sizes[:3], dtype, skip=volume * volume_bytes)
        _discard(path, stream, claimed - (volume + 1) * volume_bytes)
        if compressed and stream.read(1):
            raise ImageReadError(f"{path}: more voxels than the header says; repair the header")
    return array


def _decompressed(file: IO[bytes]) -> IO[bytes] | ZlibReader:
    start = file.tell()
    gzipped = file.read(2) == b"\x1f\x8b"
    file.seek(start)
    return igzip.open(file, "rb") if gzipped else ZlibReader(file)


def read_voxels(
    path: Path,
    stream: IO[bytes] | ZlibReader,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    skip: int = 0,
) -> NDArray[Any]:
    """Read one image whose first axis varies fastest.

    Args:
        path: The file, for messages.
        stream: What the voxels are read from.
        shape: Number of voxels along i, j, k.
        dtype: How they are stored, in either byte order.
        skip: Bytes to leave out before.

    Returns:
        Fortran-ordered array of ``shape`` in the machine's byte order, writeable.

    Raises:
        ImageReadError: If the stream ends too soon.
    """
    _discard(path, stream, skip)
    array = np.empty(shape, dtype=dtype, order="F")
    buffer = array.reshape(-1, order="F").view(np.uint8)
    filled = 0
    while filled < len(buffer):
        data = stream.read(min(_CHUNK_BYTES, len(buffer) - filled))
        if not data:
            raise cut_short(path)
        buffer[filled : filled + len(data)] = np.frombuffer(data, dtype=np.uint8)
        filled += len(data)
    if not dtype.isnative:
        array = array.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return array


def _discard(path: Path, stream: IO[bytes] | ZlibReader, size: int) -> None:
    while size > 0:
        data = stream.read(min(_CHUNK_BYTES, size))
        if not data:
            raise cut_short(path)
        size -= len(data)


def read_to_end(stream: IO[bytes] | ZlibReader) -> None:
    """Read what is left, so that a checksum at the end is looked at."""
    while stream.read(_CHUNK_BYTES):
        pass


def scale(array: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """Apply ``slope * value + intercept``, computed in float64.

    Returns:
        Integers with integral slope and intercept give int16 if every value fits, else
        int32 if every value fits. Stored float64 stays float64. All else is float32, where
        values beyond its range become infinite.
    """
    result = np.empty(array.shape, dtype=_scaled_dtype(array, slope, intercept), order="F")
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(array.shape[2]):
            result[:, :, k] = array[:, :, k].astype(np.float64) * slope + intercept
    return result


def _scaled_dtype(array: NDArray[Any], slope: float, intercept: float) -> np.dtype[Any]:
    if array.dtype == np.float64:
        return array.dtype
    if array.dtype.kind in "iu" and slope.is_integer() and intercept.is_integer():
        ends = [int(v) * int(slope) + int(intercept) for v in (array.min(), array.max())]
        for integer in (np.int16, np.int32):
            limits = np.iinfo(integer)
            if limits.min <= min(ends) and max(ends) <= limits.max:
                return np.dtype(integer)
    return np.dtype(np.float32)


def settle_non_finite(path: Path, array: NDArray[Any], replacement: float | None) -> NDArray[Any]:
    """Replace NaN and infinity in place, or refuse them.

    Raises:
        ImageReadError: If there are any and ``replacement`` is None.
    """
    if array.dtype.kind != "f":
        return array
    count = 0
    for k in range(array.shape[2]):
        bad = ~np.isfinite(array[:, :, k])
        if bad.any():
            count += int(bad.sum())
            if replacement is not None:
                array[:, :, k][bad] = replacement
    if count and replacement is None:
        raise ImageReadError(
            f"{path}: {count} of {array.size} voxels are NaN or infinite, expected numbers; "
            f"choose a value for them: {convert_with(path, '--replace-non-finite VALUE')}"
        )
    return array


def output_dtype(dtype: np.dtype[Any], wanted: VoxelType | None) -> np.dtype[Any]:
    """Return the type voxels are written in.

    Without a wish the array's own, except bool as uint8, float16 and float64 as float32
    and 64-bit integers as int32.

    Raises:
        ValueError: If the wish is not one of `VOXEL_TYPES`, or the array is not of numbers.
    """
    if wanted is not None and wanted not in VOXEL_TYPES:
        raise ValueError(f"voxel type {wanted!r}; expected one of {', '.join(VOXEL_TYPES)}")
    if dtype.kind not in "biuf":
        raise ValueError(f"an array of {dtype} cannot be written; expected real numbers")
    if wanted is not None:
        return np.dtype(wanted)
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.name in VOXEL_TYPES and dtype != np.float64:
        return dtype.newbyteorder("=")
    return np.dtype(np.float32 if dtype.kind == "f" else np.int32)


def converted_slabs(path: Path, array: NDArray[Any], dtype: np.dtype[Any]) -> Iterator[memoryview]:
    """Yield the slices along k as ``dtype``, in the order of a file (i varies fastest).

    Integers are rounded to nearest (halves to even), then clipped to the type's range.

    Raises:
        OutputError: At a NaN, an infinity, or a float beyond float32's range.
    """
    for k in range(array.shape[2]):
        slab = array[:, :, k]
        if slab.dtype.kind == "f" and not np.isfinite(slab).all():
            raise OutputError(
                f"{path}: the result holds NaN or infinity in slice {k}; nothing was written"
            )
        yield np.ascontiguousarray(_converted(path, slab, dtype).T).data


def _converted(path: Path, slab: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if slab.dtype == dtype or np.can_cast(slab.dtype, dtype, "safe"):
        return slab.astype(dtype, copy=False)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if slab.dtype.kind == "f":
            slab = np.rint(slab.astype(np.float64))
        return slab.clip(limits.min, limits.max).astype(dtype)
    if slab.dtype.kind == "f" and np.abs(slab).max() > np.finfo(dtype).max:
        raise OutputError(f"{path}: values beyond the range of {dtype}; nothing was written")
    return slab.astype(dtype)


def write_compressed(file: IO[bytes], pieces: Iterable[bytes | memoryview], *, gzip: bool) -> int:
    """Write pieces as one zlib stream (gzip: one gzip member without time and name).

    Returns:
        Bytes written.
    """
    window = isal_zlib.MAX_WBITS + (_GZIP_WRAPPER if gzip else 0)
    compressor = isal_zlib.compressobj(COMPRESSION_LEVEL, wbits=window)
    written = 0
    for piece in pieces:
        written += file.write(compressor.compress(piece))
    return written + file.write(compressor.flush())
