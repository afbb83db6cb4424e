"""The voxels of DICOM slices: decoded, rescaled, stacked.

Native pixels are read straight into the volume; compressed ones are decoded by pydicom.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread, uid

from medp2p.errors import ImageReadError
from medp2p.io.dicom_codecs import (
    codec_is_available,
    decode,
    decode_apart,
    needs_own_process,
)
from medp2p.io.dicom_files import Frame, ImageFile, quiet_pydicom, uid_name
from medp2p.io.voxels import cut_short, scale

_THREADS = 4
_HU_TYPES = ("", "HU")
_PIXEL_DATA = (0x7FE0, 0x0010)

_logger = logging.getLogger(__name__)


def read_pixels(path: Path, frames: Sequence[Frame]) -> NDArray[Any]:
    """Read the slices of a volume, rescaled.

    RescaleSlope and RescaleIntercept hold for each slice (PS3.3 C.11.1.1.2) or frame (PS3.3
    C.7.6.16.2.9). With integers that fit, and one pair for all slices, the result is int16, else
    int32; without any rescaling the stored type; else float32.

    Args:
        path: What the user named, for messages.
        frames: The slices, all of one size.

    Returns:
        Array (columns, rows, slices), Fortran-ordered, writeable.

    Raises:
        ImageReadError: If pixels are missing, damaged, in colour, compressed in a way that no
            installed codec knows, or have no defined value.
    """
    check_pixels(frames)
    if any(frame.file.photometric == "MONOCHROME1" for frame in frames):
        _logger.warning(
            "%s: MONOCHROME1 (to be displayed inverted); the values are taken as they are", path
        )
    return _rescaled(_stored_pixels(frames).transpose(2, 1, 0), frames)


def check_pixels(frames: Sequence[Frame]) -> None:
    """Refuse slices whose headers tell that `read_pixels` cannot read them; reads no pixel.

    Raises:
        ImageReadError: As for `read_pixels`, but for what only the pixels show.
    """
    for file in {frame.file.path: frame.file for frame in frames}.values():
        _check_layout(file)
        if file.pixel_offset is None:
            _check_codec(file)
    _check_values(frames)


def _check_layout(file: ImageFile) -> None:
    if file.quadruped:
        raise ImageReadError(
            f"{file.path}: of a quadruped, whose directions are other ones; expected a human"
        )
    if file.samples != 1 or not file.photometric.startswith("MONOCHROME"):
        raise ImageReadError(
            f"{file.path}: a colour image ({file.samples} values per pixel), expected grey; "
            "get the original series from the scanner or PACS"
        )
    if file.lookup_table:
        raise ImageReadError(
            f"{file.path}: its values go through a Modality LUT, expected slope and intercept; "
            "get the original series from the scanner or PACS"
        )
    consistent = (
        file.bits_allocated in (8, 16, 32)
        and 1 <= file.bits_stored <= file.bits_allocated
        and file.high_bit == file.bits_stored - 1
        and min(file.rows, file.columns) > 0
    )
    if not consistent:
        raise ImageReadError(
            f"{file.path}: {file.columns} × {file.rows} pixels of {file.bits_stored} bits (highest "
            f"{file.high_bit}) in {file.bits_allocated}, which is no valid image; get it again"
        )
    if file.pixel_offset is None:
        return
    if file.path.stat().st_size < file.pixel_offset + file.pixel_bytes:
        raise cut_short(file.path)
    _check_length(file, file.pixel_bytes)


def _check_length(file: ImageFile, found: int) -> None:
    expected = file.frames * _frame_bytes(file)
    if not expected <= found <= expected + expected % 2:
        raise ImageReadError(
            f"{file.path}: {found} bytes of pixels, expected {expected} by the header; "
            "it is damaged, get it again"
        )


def _check_values(frames: Sequence[Frame]) -> None:
    for frame in frames:
        file = frame.file
        if file.modality == "CT" and (frame.slope is None or frame.intercept is None):
            raise ImageReadError(
                f"{file.path}: a CT without RescaleSlope and RescaleIntercept, so its values "
                "cannot be told in HU; get the original series from the scanner or PACS"
            )
        if file.modality == "CT" and frame.rescale_type.upper() not in _HU_TYPES:
            raise ImageReadError(
                f"{file.path}: a CT whose values are no CT numbers (its RescaleType is not HU); "
                "choose the series in HU"
            )
        if frame.slope == 0:
            raise ImageReadError(f"{file.path}: RescaleSlope is 0; the header is damaged")


def _frame_bytes(file: ImageFile) -> int:
    return file.rows * file.columns * file.bits_allocated // 8


def _stored_pixels(frames: Sequence[Frame]) -> NDArray[Any]:
    """Stored values (slices, rows, columns), of the narrowest type that holds all slices."""
    first = frames[0].file
    dtypes = {_dtype(frame.file) for frame in frames}
    stack = np.empty((len(frames), first.rows, first.columns), dtype=np.result_type(*dtypes))
    places = {id(frame): i for i, frame in enumerate(frames)}
    ordered = sorted(frames, key=lambda frame: (str(frame.file.path), frame.index))
    by_file = [list(members) for _, members in groupby(ordered, key=lambda f: f.file.path)]
    wanted = [_Wanted(members, [stack[places[id(f)]] for f in members]) for members in by_file]
    apart = [each for each in wanted if needs_own_process(each.file.transfer_syntax)]
    here = [each for each in wanted if each not in apart]
    with quiet_pydicom, ThreadPoolExecutor(_THREADS) as threads:
        for _ in threads.map(_read_file, here):
            pass
    if apart:
        decoded = decode_apart([(each.file, each.indices) for each in apart])
        for each, arrays in zip(apart, decoded, strict=True):
            _fill(each, arrays)
    return stack


@dataclass(frozen=True, eq=False)
class _Wanted:
    """Frames of one file, and the places in the volume that they go to."""

    frames: list[Frame]
    slices: list[NDArray[Any]]

    @property
    def file(self) -> ImageFile:
        return self.frames[0].file

    @property
    def indices(self) -> list[int]:
        return [frame.index for frame in self.frames]


def _read_file(wanted: _Wanted) -> None:
    if wanted.file.pixel_offset is None:
        _decode(wanted)
        return
    _read_native(wanted.file, wanted.indices, wanted.slices)
    for pixels in wanted.slices:
        _settle_unused_bits(wanted.file, pixels)


def _fill(wanted: _Wanted, decoded: Iterable[NDArray[Any]]) -> None:
    for pixels, frame in zip(wanted.slices, decoded, strict=True):
        if frame.shape != pixels.shape:
            raise _cannot_be_decoded(wanted.file)
        pixels[...] = frame
        _settle_unused_bits(wanted.file, pixels)


def _read_native(file: ImageFile, indices: list[int], slices: list[NDArray[Any]]) -> None:
    size = _frame_bytes(file)
    dtype = _dtype(file)
    stored = dtype.newbyteorder(">" if file.transfer_syntax == uid.ExplicitVRBigEndian else "<")
    with file.path.open("rb", buffering=0) as opened:
        for index, pixels in zip(indices, slices, strict=True):
            opened.seek((file.pixel_offset or 0) + index * size)
            direct = pixels.dtype == stored
            buffer = pixels if direct else np.empty(pixels.shape, stored)
            if opened.readinto(buffer.data.cast("B")) != size:
                raise cut_short(file.path)
            if not direct:
                pixels[...] = buffer
        opened.seek((file.pixel_offset or 0) + file.pixel_bytes)
        _refuse_second_pixels(file, opened.read(4))


def _refuse_second_pixels(file: ImageFile, following: bytes) -> None:
    """Refuse what follows the pixels and is no later element (PS3.5 7.1)."""
    if len(following) < 4:
        return
    order = ">" if file.transfer_syntax == uid.ExplicitVRBigEndian else "<"
    group, element = np.frombuffer(following, f"{order}u2")
    if (int(group), int(element)) <= _PIXEL_DATA:
        raise ImageReadError(
            f"{file.path}: holds pixels twice, or something else where its pixels end; it is "
            "damaged, get it again"
        )


def _decode(wanted: _Wanted) -> None:
    file = wanted.file
    try:
        dataset = dcmread(file.path, force=True)
        if file.transfer_syntax == uid.DeflatedExplicitVRLittleEndian:
            _check_length(file, len(dataset.PixelData))
        _fill(wanted, decode(file, dataset, wanted.indices))
    except (MemoryError, ImageReadError):
        raise
    except Exception as error:  # each codec raises what it likes
        raise _cannot_be_decoded(file) from error


def _cannot_be_decoded(file: ImageFile) -> ImageReadError:
    return ImageReadError(
        f"{file.path}: its compressed pixels cannot be decoded; it is damaged, get it again"
    )


def _check_codec(file: ImageFile) -> None:
    name = uid_name(file.transfer_syntax)
    try:
        available = codec_is_available(file.transfer_syntax)
    except NotImplementedError:
        raise ImageReadError(
            f"{file.path}: pixels stored as {name}, which cannot be decoded; "
            "have it sent uncompressed"
        ) from None
    if not available:
        raise ImageReadError(
            f"{file.path}: pixels compressed as {name}, and no codec for that is installed; "
            "pip install 'medp2p[codecs]'"
        )


def _dtype(file: ImageFile) -> np.dtype[Any]:
    return np.dtype(f"{'i' if file.signed else 'u'}{file.bits_allocated // 8}")


def _settle_unused_bits(file: ImageFile, pixels: NDArray[Any]) -> None:
    """Make the unused high bits agree with the value (PS3.5 8.1.1), in place.

    Raises:
        ImageReadError: If they are set in numbers said to be unsigned and hold no overlay:
            then the numbers may be negative.
    """
    unused = pixels.dtype.itemsize * 8 - file.bits_stored
    if not unused or file.bits_stored == file.bits_allocated:
        return
    if file.signed:
        np.left_shift(pixels, unused, out=pixels)
        np.right_shift(pixels, unused, out=pixels)
        return
    highest = (1 << file.bits_stored) - 1
    if file.overlay_in_pixels:
        np.bitwise_and(pixels, highest, out=pixels)
    elif pixels.max() > highest:
        raise ImageReadError(
            f"{file.path}: values beyond the {file.bits_stored} bits that the header gives them; "
            "whether they are negative cannot be told; get it again"
        )


def _rescaled(stored: NDArray[Any], frames: Sequence[Frame]) -> NDArray[Any]:
    def slope_of(frame: Frame) -> float:
        return 1.0 if frame.slope is None else frame.slope

    pairs = {(slope_of(frame), frame.intercept or 0.0) for frame in frames}
    if pairs == {(1.0, 0.0)}:
        return stored
    if len(pairs) == 1:
        return scale(stored, *pairs.pop())
    result = np.empty(stored.shape, dtype=np.float32, order="F")
    for k, frame in enumerate(frames):
        values = stored[:, :, k].astype(np.float64) * slope_of(frame) + (frame.intercept or 0.0)
        result[:, :, k] = values
    return result
