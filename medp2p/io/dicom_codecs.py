"""Compressed DICOM pixels, decoded so that a damaged file is an error and no more.

pydicom chooses among the installed codecs, but never GDCM's Python package: it ends the process at
some damaged JPEG images. What only GDCM decodes is decoded by SimpleITK, which has GDCM in it, in
a process of its own, so that nothing else is lost if it ends.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from threading import Timer
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels

from medp2p.errors import ImageReadError
from medp2p.io.dicom_files import ImageFile, quiet_pydicom

MAX_SECONDS_PER_FILE = 120
"""A codec that has not returned by then hangs."""

_BY_ITK = {
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
}
_JP2_SIGNATURE = b"\0\0\0\x0cjP  "
_LAYOUT_KEYWORDS = (
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)


def codec_is_available(transfer_syntax: str) -> bool:
    """Tell whether pixels stored so can be decoded here.

    Raises:
        NotImplementedError: If no codec for them is known at all.
    """
    return transfer_syntax in _BY_ITK or bool(_plugins(transfer_syntax))


def needs_own_process(transfer_syntax: str) -> bool:
    """Tell whether `decode_apart` decodes pixels stored so, and not `decode`."""
    return transfer_syntax in _BY_ITK


def decode(file: ImageFile, dataset: Dataset, indices: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Decode some frames of a file; values are as stored, not rescaled.

    Args:
        file: What its header says.
        dataset: The whole file.
        indices: Which frames, from 0.

    Yields:
        Arrays (rows, columns).

    Raises:
        Exception: Of any kind, where the compressed data are damaged.
    """
    if file.transfer_syntax in uid.JPEG2000TransferSyntaxes:
        _refuse_boxes(file, dataset)
    plugin = _plugins(file.transfer_syntax)[0]
    yield from iter_pixels(dataset, indices=indices, raw=True, decoding_plugin=plugin)


def decode_apart(
    requests: Sequence[tuple[ImageFile, Sequence[int]]],
) -> Iterator[list[NDArray[Any]]]:
    """Decode frames of several files in another process.

    Args:
        requests: Files, and which of their frames, from 0.

    Yields:
        For each file a list of arrays (rows, columns), as stored.

    Raises:
        ImageReadError: Naming the first file that cannot be decoded.
    """
    command = [sys.executable, "-P", "-m", "medp2p.io.dicom_codecs"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            for file, indices in requests:
                watch = Timer(MAX_SECONDS_PER_FILE, child.kill)
                watch.start()
                try:
                    yield _ask(child.stdin, child.stdout, file, indices)
                except (OSError, ValueError, EOFError) as error:
                    raise ImageReadError(
                        f"{file.path}: its compressed pixels cannot be decoded; it is damaged, "
                        "get it again"
                    ) from error
                finally:
                    watch.cancel()
        finally:
            child.kill()
            with suppress(OSError):
                child.stdin.close()


def _ask(
    to_child: IO[bytes], from_child: IO[bytes], file: ImageFile, indices: Sequence[int]
) -> list[NDArray[Any]]:
    to_child.write(json.dumps([str(file.path.absolute()), list(indices)]).encode() + b"\n")
    to_child.flush()
    return [_receive(from_child) for _ in indices]


def _send(to: IO[bytes], array: NDArray[Any]) -> None:
    packed = io.BytesIO()
    np.save(packed, array, allow_pickle=False)
    to.write(len(packed.getvalue()).to_bytes(8) + packed.getvalue())


def _receive(source: IO[bytes]) -> NDArray[Any]:
    size = int.from_bytes(source.read(8))
    array: NDArray[Any] = np.load(io.BytesIO(source.read(size)), allow_pickle=False)
    return array


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Decode what is asked for until nobody asks; end at the first failure."""
    for line in requests:
        path, indices = json.loads(line)
        with quiet_pydicom:
            dataset = dcmread(path, force=True)
            for index in indices:
                _send(answers, _decoded_by_itk(dataset, index))
        answers.flush()


def _plugins(transfer_syntax: str) -> list[str]:
    with quiet_pydicom:
        decoder = get_decoder(uid.UID(transfer_syntax))
    if not decoder.is_encapsulated:
        return [""]
    return [name for name in decoder.available_plugins if name != "gdcm"]


def _refuse_boxes(file: ImageFile, dataset: Dataset) -> None:
    """Refuse JPEG 2000 in JP2 boxes, which DICOM does not allow (PS3.5 A.4.4)."""
    for frame in generate_frames(dataset.PixelData, number_of_frames=file.frames):
        if frame.startswith(_JP2_SIGNATURE):
            raise ImageReadError(
                f"{file.path}: JPEG 2000 in JP2 boxes, expected the bare code stream; "
                "have it sent uncompressed"
            )


def _decoded_by_itk(dataset: Dataset, index: int) -> NDArray[Any]:
    """Decode one frame in a file of its own, without what would rescale or place it."""
    import SimpleITK as sitk

    count = int(dataset.get("NumberOfFrames") or 1)
    frames = generate_frames(dataset.PixelData, number_of_frames=count)
    single = Dataset()
    single.SOPClassUID = uid.SecondaryCaptureImageStorage
    single.SOPInstanceUID = "2.25.1"
    for keyword in _LAYOUT_KEYWORDS:
        setattr(single, keyword, dataset[keyword].value)
    single.PhotometricInterpretation = "MONOCHROME2"  # GDCM inverts the other
    single.PixelData = encapsulate([next(islice(frames, index, None))])
    single["PixelData"].VR = "OB"
    single.file_meta = FileMetaDataset()
    single.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.dcm"
        single.save_as(path, enforce_file_format=True)
        image = sitk.ReadImage(str(path), imageIO="GDCMImageIO")
    array: NDArray[Any] = sitk.GetArrayFromImage(image)
    return np.ascontiguousarray(array.reshape(array.shape[-2:]))


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
