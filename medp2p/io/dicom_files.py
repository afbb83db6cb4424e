"""Which files below a path are DICOM images, and what their headers say.

pydicom parses; values are taken from its raw elements, so that nothing is guessed, coerced or
warned about with a patient's data in the text. Pixels are not read here, only their place in
the file.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydicom import Dataset, config, dcmread, uid
from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.filereader import read_file_meta_info, read_partial
from pydicom.tag import BaseTag, Tag

from medp2p.files import files_below

MODALITY_OF_CLASS: dict[str, str] = {
    uid.CTImageStorage: "CT",
    uid.EnhancedCTImageStorage: "CT",
    uid.LegacyConvertedEnhancedCTImageStorage: "CT",
    uid.MRImageStorage: "MR",
    uid.EnhancedMRImageStorage: "MR",
    uid.LegacyConvertedEnhancedMRImageStorage: "MR",
}
"""The SOP classes that are read (PS3.4 B.5), and what their voxels are."""

MAX_INFLATED_BYTES = 1 << 28
MAX_INFLATED_RATIO = 50
"""A deflated file may become this large, or this many times as large as it is."""

MAX_FRAMES = 100_000
"""More frames than this in one file are taken for a damaged header."""

_FILES_TRIED = 20
_LOOK_AHEAD_BYTES = 1 << 16
_HEAD_BYTES = 1 << 17
_MAGIC_OFFSET = 128
_META_OFFSET = 144
_UNDEFINED_LENGTH = 0xFFFFFFFF
_PIXEL_DATA = 0x7FE00010
_PIXEL_TAGS = frozenset((0x7FE00008, 0x7FE00009, _PIXEL_DATA))
_ZEROS = frozenset((0,))  # comparing a tag is slow in pydicom, hashing is not
_BINARY_NUMBERS = {"FD": "d", "FL": "f", "US": "H", "SS": "h", "UL": "I", "SL": "i"}
_LONG_VRS = (b"OB", b"OW", b"UN")

_KEYWORDS = (
    "TransferSyntaxUID",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesDescription",
    "PatientID",
    "PatientName",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "AcquisitionNumber",
    "InstanceNumber",
    "FrameOfReferenceUID",
    "TemporalPositionIdentifier",
    "TriggerTime",
    "EchoNumbers",
    "EchoTime",
    "RepetitionTime",
    "InversionTime",
    "FlipAngle",
    "ConvolutionKernel",
    "ContrastBolusAgent",
    "AnatomicalOrientationType",
    "DiffusionBValue",
    "SliceThickness",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
_FRAME_KEYWORDS = (
    "EffectiveEchoTime",
    "FrameType",
    "TemporalPositionIndex",
    "FrameAcquisitionNumber",
    "InversionTimes",
    "ComplexImageComponent",
    "StackID",
)
_TAG_OF = {keyword: tag_for_keyword(keyword) or 0 for keyword in (*_KEYWORDS, *_FRAME_KEYWORDS)}
_TAG_OF["OverlayBitPosition"] = 0x60000102  # of the first overlay, the only one looked at
_WANTED_TAGS: list[Any] = [Tag(tag) for tag in _TAG_OF.values()]  # ints are converted every time


class DamagedHeaderError(Exception):
    """A header that contradicts the standard; the text says how, without its values."""


@dataclass(frozen=True, slots=True, repr=False)
class ImageFile:
    """What one DICOM image file says of itself, whatever its frames.

    Attributes:
        path: The file.
        sop_class_uid: Kind of object (PS3.4 B.5).
        sop_instance_uid: The object.
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        patient: Hash of what tells patients apart.
        series_number: SeriesNumber, if any.
        description: SeriesDescription; may hold anything, so only shown where asked for.
        image_type: Values of ImageType.
        frame_of_reference: FrameOfReferenceUID, if any.
        contrast: What was made to look bright, such as ``"TR 500 TE 12"`` (milliseconds).
        transfer_syntax: How the pixels are stored (PS3.5 A).
        pixel_offset: First byte of native pixels in the file; None where they are encapsulated
            or deflated.
        pixel_bytes: Length of native pixels.
        frames: NumberOfFrames, 1 for a classic image.
        rows: Pixels along a column.
        columns: Pixels along a row.
        bits_allocated: Bits of a pixel in the file.
        bits_stored: Bits that count.
        high_bit: The highest of them, from 0.
        signed: Whether they are two's complement.
        samples: Values per pixel, 1 for grey.
        photometric: PhotometricInterpretation.
        overlay_in_pixels: Whether unused bits hold an overlay (retired, PS3.3-2004 C.9.2).
        lookup_table: Whether values go through a Modality LUT instead of slope and intercept.
        quadruped: Whether directions are those of an animal (PS3.3 C.7.6.1.1.1).
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    patient: str
    series_number: int | None
    description: str
    image_type: tuple[str, ...]
    frame_of_reference: str
    contrast: str
    transfer_syntax: str
    pixel_offset: int | None
    pixel_bytes: int
    frames: int
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    samples: int
    photometric: str
    overlay_in_pixels: bool
    lookup_table: bool
    quadruped: bool

    @property
    def modality(self) -> str | None:
        """``"CT"`` or ``"MR"`` by the SOP class, None for any other kind of image."""
        return MODALITY_OF_CLASS.get(self.sop_class_uid)

    @property
    def kind(self) -> str:
        """The SOP class's name, such as ``"Secondary Capture Image Storage"``."""
        return uid_name(self.sop_class_uid)


@dataclass(frozen=True, slots=True, repr=False)
class Frame:
    """One slice: a classic image, or one frame of an enhanced one.

    Attributes:
        file: The file that holds it.
        index: Which frame of the file, from 0.
        position_mm: ImagePositionPatient, LPS, if stated.
        orientation: ImageOrientationPatient, the cosines of a row, then of a column, if stated.
        pixel_spacing_mm: PixelSpacing: between rows, then between columns, if stated.
        thickness_mm: SliceThickness, if stated.
        slope: RescaleSlope, if stated.
        intercept: RescaleIntercept, if stated.
        rescale_type: What rescaled values are, ``"HU"`` or empty for CT numbers.
        echo: Echo number and time in milliseconds.
        settings: Other settings that differ between the images of a series only if they are
            of two kinds, with their names: inversion time, flip angle, kernel, ...
        frame_type: FrameType of an enhanced image.
        b_value: Diffusion weighting in s/mm².
        temporal_position: TemporalPositionIdentifier or TemporalPositionIndex.
        acquisition_number: AcquisitionNumber.
        trigger_time: TriggerTime in milliseconds.
        instance_number: InstanceNumber; for an enhanced image the frame's number.
    """

    file: ImageFile
    index: int
    position_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, ...] | None
    thickness_mm: float | None
    slope: float | None
    intercept: float | None
    rescale_type: str
    settings: tuple[tuple[str, float | str], ...]
    echo: tuple[float | None, float | None]
    frame_type: tuple[str, ...]
    b_value: float | None
    temporal_position: float | None
    acquisition_number: float | None
    trigger_time: float | None
    instance_number: float | None


@dataclass(frozen=True)
class Scan:
    """What lies below a path.

    Attributes:
        frames: Every slice of every image, file by file.
        skipped: Files that are no DICOM images, with the reason.
        damaged: DICOM files that cannot be understood, with the reason.
    """

    frames: list[Frame] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    damaged: list[tuple[Path, str]] = field(default_factory=list)


def scan_dicom(path: Path, on_file: Callable[[], None] | None = None) -> Scan:
    """Read the header of every DICOM file below a folder, or of one file, once.

    Names do not count; hidden files and folders are left out.

    Args:
        path: A folder or a file.
        on_file: Called after each file.
    """
    return scan_files(sorted(files_below(path)) if path.is_dir() else [path], on_file)


def scan_files(paths: Iterable[Path], on_file: Callable[[], None] | None = None) -> Scan:
    """Read the header of each file once; see `scan_dicom`.

    Threads would make it slower: parsing holds the interpreter's lock.
    """
    scan = Scan()
    with quiet_pydicom:
        for path in paths:
            match result := _frames_or_reason(path):
                case DamagedHeaderError():
                    scan.damaged.append((path, str(result)))
                case str():
                    scan.skipped.append((path, result))
                case _:
                    scan.frames.extend(result)
            if on_file:
                on_file()
    return scan


def series_of_damaged(path: Path) -> str:
    """Return the SeriesInstanceUID of a file that `scan_files` calls damaged, or ``""``."""
    with suppress(Exception), quiet_pydicom, _BoundedReader(path) as file:
        tags: list[Any] = [_TAG_OF["SeriesInstanceUID"]]
        header = read_partial(file, stop_when=_at_pixels, force=True, specific_tags=tags)
        return _Header(header).text("SeriesInstanceUID")
    return ""


def uid_name(value: str) -> str:
    """Name a UID of the standard; any other may tell who the patient is, and is not repeated."""
    name = uid.UID(value, config.IGNORE).name
    return "an unknown kind" if name == value else name


def is_dicom_file(path: Path) -> bool:
    """Tell from its first bytes whether a file is DICOM."""
    with path.open("rb") as file:
        return _starts_like_dicom(file.read(_MAGIC_OFFSET + 4))


def _has_magic_word(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return file.read(_MAGIC_OFFSET + 4)[_MAGIC_OFFSET:] == b"DICM"
    return True


def is_dicom_folder(path: Path) -> bool:
    """Tell whether a folder itself holds DICOM files; the first `_FILES_TRIED` are looked at."""
    if not path.is_dir():
        return False
    files = (entry for entry in sorted(path.iterdir()) if entry.is_file())
    visible = (file for file in files if not file.name.startswith("."))
    return any(is_dicom_file(file) for file in islice(visible, _FILES_TRIED))


def read_header(path: Path) -> Dataset:
    """Read a whole header, without pixels."""
    with quiet_pydicom, _BoundedReader(path) as file:
        return dcmread(file, stop_before_pixels=True, force=True)


class _QuietPydicom:
    """Silences pydicom while anybody is inside; several threads may be."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._undo = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._undo.enter_context(warnings.catch_warnings())
                self._undo.enter_context(disable_value_validation())
                warnings.filterwarnings("ignore", module="pydicom")
                logger = logging.getLogger("pydicom")
                self._undo.callback(setattr, logger, "propagate", logger.propagate)
                logger.propagate = False  # its children report to it
                silence = logging.NullHandler()
                self._undo.callback(logger.removeHandler, silence)
                logger.addHandler(silence)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._undo.close()


quiet_pydicom = _QuietPydicom()
"""Entered wherever pydicom is called: its warnings and log lines quote values of headers."""


class _BoundedReader(io.BufferedReader):
    """A file that never takes memory for more bytes than it has left, whatever a header says."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _LOOK_AHEAD_BYTES:
            size = min(size, max(0, self.size - self.tell()))
        return super().read(size)


class _Head(io.BytesIO):
    """The first bytes of a file, which notes whether any after them were asked for.

    Attributes:
        exceeded: Whether what was read from it may be wrong.
    """

    exceeded = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.exceeded |= size is None or not 0 <= size == len(data)
        return data


def _frames_or_reason(path: Path) -> list[Frame] | str | DamagedHeaderError:
    """What a file holds, why it is left out, or what is wrong with it."""
    found = _frames_or_damage(path)
    if isinstance(found, DamagedHeaderError):
        with suppress(OSError):  # of a folder that may be listed and not entered
            if path.is_symlink() and not path.exists():
                return "a link to nothing"
            if path.is_file() and not _has_magic_word(path):
                return "not DICOM"
    return found


def _frames_or_damage(path: Path) -> list[Frame] | str | DamagedHeaderError:
    try:
        return _read_frames(path)
    except DamagedHeaderError as error:
        return error
    except OSError as error:
        return DamagedHeaderError(f"cannot be read: {error.strerror or type(error).__name__}")
    except Exception as error:  # pydicom raises whatever its parser stumbles over
        return DamagedHeaderError(f"its header is damaged ({type(error).__name__})")


def _read_frames(path: Path) -> list[Frame] | str:
    """Read from memory where the header is short, which takes half the time and lets threads run.

    A file asks the system at every step, and a thread that comes back from there has to wait
    for the others.
    """
    with path.open("rb", buffering=0) as start:
        first_bytes = start.read(_HEAD_BYTES)
        is_whole = len(first_bytes) == os.fstat(start.fileno()).st_size
    _refuse_bomb(path, first_bytes)
    if is_whole:
        return _parse_frames(path, io.BytesIO(first_bytes))
    head = _Head(first_bytes)
    with suppress(Exception):
        frames = _parse_frames(path, head)
        if not head.exceeded:
            return frames
    with _BoundedReader(path) as file:
        return _parse_frames(path, file)


def _refuse_bomb(path: Path, first_bytes: bytes) -> None:
    """Refuse a deflated file (PS3.5 A.5) that would fill the memory: pydicom inflates it whole."""
    if uid.DeflatedExplicitVRLittleEndian.encode() not in first_bytes:
        return
    limit = max(MAX_INFLATED_BYTES, MAX_INFLATED_RATIO * path.stat().st_size)
    meta_bytes = read_file_meta_info(path).FileMetaInformationGroupLength
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = 0
    with path.open("rb") as file, suppress(zlib.error):
        file.seek(_META_OFFSET + meta_bytes)
        while data := file.read(_LOOK_AHEAD_BYTES):
            while data:
                inflated += len(inflater.decompress(data, _LOOK_AHEAD_BYTES))
                data = inflater.unconsumed_tail
            if inflated > limit:
                raise DamagedHeaderError(f"inflates to more than {limit / 1e6:.0f} MB")


def _parse_frames(path: Path, file: BinaryIO) -> list[Frame] | str:
    start = file.read(_MAGIC_OFFSET + 4)
    if not start:
        return "0 bytes"
    if not _starts_like_dicom(start):
        return "not DICOM"
    file.seek(0)
    dataset = read_partial(file, stop_when=_at_pixels, force=True, specific_tags=_WANTED_TAGS)
    header = _Header(dataset)
    sop_class = header.text("SOPClassUID")
    if not sop_class:
        if start[_MAGIC_OFFSET:] != b"DICM":
            return "not DICOM"
        return "DICOMDIR" if path.name.upper() == "DICOMDIR" else "DICOM without SOPClassUID"
    if sop_class == uid.MediaStorageDirectoryStorage:
        return "DICOMDIR"
    if "Rows" not in header and sop_class not in MODALITY_OF_CLASS:
        return f"no image ({uid_name(sop_class)})"
    return _frames(_image_file(path, header, file), header)


def _at_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    """Stop at integer, float and double pixels, and at zeros in place of a header."""
    if tag in _ZEROS:
        raise DamagedHeaderError("holds zeros where its header should go on; it is cut short")
    return tag in _PIXEL_TAGS


def _starts_like_dicom(start: bytes) -> bool:
    """The magic word, or without a preamble a first element of the groups 0002 or 0008."""
    if start[_MAGIC_OFFSET:] == b"DICM":
        return True
    known_group = start[:2] in (b"\x02\0", b"\0\x02", b"\x08\0", b"\0\x08")
    explicit = start[4:6].isalpha() and start[4:6].isupper()
    short_implicit = start[5:8] == b"\0\0\0"
    return known_group and (explicit or short_implicit)


def _image_file(path: Path, header: _Header, file: BinaryIO) -> ImageFile:
    representation = header.unsigned("PixelRepresentation")
    transfer_syntax = _transfer_syntax(header.dataset)
    offset, length = None, 0
    if header.text("SOPClassUID") in MODALITY_OF_CLASS:
        if "Rows" not in header:
            raise DamagedHeaderError("an image without Rows, or cut short")
        if representation not in (0, 1):
            raise DamagedHeaderError(f"PixelRepresentation is {representation}, expected 0 or 1")
        offset, length = _native_pixels(header, transfer_syntax, file)
    frames = header.integer("NumberOfFrames") or 1
    if not 1 <= frames <= MAX_FRAMES:
        raise DamagedHeaderError(f"NumberOfFrames is {frames}")
    return ImageFile(
        path=path,
        sop_class_uid=header.text("SOPClassUID"),
        sop_instance_uid=header.text("SOPInstanceUID"),
        study_uid=header.text("StudyInstanceUID"),
        series_uid=header.text("SeriesInstanceUID"),
        patient=_patient_hash(header),
        series_number=header.integer("SeriesNumber"),
        description=str(header.dataset.get("SeriesDescription") or ""),
        image_type=header.texts("ImageType"),
        frame_of_reference=header.text("FrameOfReferenceUID"),
        contrast=_contrast(header),
        transfer_syntax=transfer_syntax,
        pixel_offset=offset,
        pixel_bytes=length,
        frames=frames,
        rows=header.unsigned("Rows"),
        columns=header.unsigned("Columns"),
        bits_allocated=header.unsigned("BitsAllocated"),
        bits_stored=header.unsigned("BitsStored"),
        high_bit=header.unsigned("HighBit"),
        signed=representation == 1,
        samples=header.unsigned("SamplesPerPixel"),
        photometric=header.text("PhotometricInterpretation"),
        overlay_in_pixels=header.unsigned("OverlayBitPosition") > 0,
        lookup_table="ModalityLUTSequence" in header,
        quadruped=header.text("AnatomicalOrientationType").upper() == "QUADRUPED",
    )


def _transfer_syntax(dataset: Dataset) -> str:
    """The stated one; without file meta information what pydicom found the bytes to be."""
    stated = _Header(dataset.file_meta).text("TransferSyntaxUID")
    if stated:
        return stated
    implicit, little = dataset.original_encoding
    if implicit:
        return str(uid.ImplicitVRLittleEndian)
    return str(uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian)


def _native_pixels(header: _Header, transfer_syntax: str, file: BinaryIO) -> tuple[int | None, int]:
    """Where native pixels begin and how many bytes they have; (None, 0) for others.

    The file stands at the pixel element, where pydicom stopped.
    """
    native = {uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian}
    if transfer_syntax not in native:
        return None, 0
    implicit, little = header.dataset.original_encoding
    order: Literal["little", "big"] = "little" if little else "big"
    element = file.read(8)
    tag = int.from_bytes(element[:2], order) << 16 | int.from_bytes(element[2:4], order)
    if len(element) < 8 or tag != _PIXEL_DATA:
        raise DamagedHeaderError("holds no integer pixels, or is cut short")
    if not implicit:
        if element[4:6] not in _LONG_VRS:
            raise DamagedHeaderError("its pixels are of no known kind")
        if element[4:6] == b"OW" and not little and header.unsigned("BitsAllocated") == 8:
            raise DamagedHeaderError("8-bit pixels in big-endian words, whose order is not certain")
        element = element[:4] + file.read(4)
    length = int.from_bytes(element[4:8], order)
    if length == _UNDEFINED_LENGTH:
        raise DamagedHeaderError("its pixels are encapsulated, and it says that they are not")
    return file.tell(), length


def _patient_hash(header: _Header) -> str:
    values = (header.raw(keyword) for keyword in ("PatientID", "PatientName"))
    return hashlib.sha256(b"\0".join(value.strip() for value in values)).hexdigest()[:16]


def _contrast(header: _Header) -> str:
    times = {
        "TR": header.number("RepetitionTime"),
        "TE": header.number("EchoTime"),
        "TI": header.number("InversionTime"),
    }
    words = [f"{name} {time:.4g}" for name, time in times.items() if time]
    return " ".join(words + ["contrast agent"] * bool(header.text("ContrastBolusAgent")))


def _frames(file: ImageFile, header: _Header) -> list[Frame]:
    if not file.modality:
        return [_classic_frame(file, header)]
    per_frame = header.items("PerFrameFunctionalGroupsSequence")
    if not per_frame:
        if file.frames > 1:
            raise DamagedHeaderError("several frames, and nothing says where each lies")
        return [_classic_frame(file, header)]
    if len(per_frame) != file.frames:
        raise DamagedHeaderError(
            f"NumberOfFrames is {file.frames}, and {len(per_frame)} frames are described"
        )
    shared = header.items("SharedFunctionalGroupsSequence")
    common = shared[0] if shared else _Header(Dataset())
    cache: dict[str, Any] = {}
    return [_enhanced_frame(file, i, own, common, cache) for i, own in enumerate(per_frame)]


def _classic_frame(file: ImageFile, header: _Header) -> Frame:
    return Frame(
        file=file,
        index=0,
        position_mm=header.numbers("ImagePositionPatient", 3),
        orientation=header.numbers("ImageOrientationPatient", 6),
        pixel_spacing_mm=header.numbers("PixelSpacing", 2),
        thickness_mm=header.number("SliceThickness"),
        slope=header.number("RescaleSlope"),
        intercept=header.number("RescaleIntercept"),
        rescale_type=header.text("RescaleType"),
        settings=_settings(
            {
                "TI": header.number("InversionTime", first=True),
                "flip angle": header.number("FlipAngle", first=True),
                "kernel": header.text("ConvolutionKernel"),
            }
        ),
        echo=(header.number("EchoNumbers", first=True), header.number("EchoTime")),
        frame_type=(),
        b_value=header.number("DiffusionBValue"),
        temporal_position=header.number("TemporalPositionIdentifier"),
        acquisition_number=header.number("AcquisitionNumber"),
        trigger_time=header.number("TriggerTime"),
        instance_number=header.number("InstanceNumber"),
    )


def _enhanced_frame(
    file: ImageFile, index: int, own: _Header, shared: _Header, cache: dict[str, Any]
) -> Frame:
    def group(sequence: str) -> _Header:
        """The frame's functional group, else the one that all frames share (PS3.3 C.7.6.16)."""
        items = own.items(sequence)
        if items:
            return items[0]
        if sequence not in cache:
            items = shared.items(sequence)
            cache[sequence] = items[0] if items else _Header(Dataset())
        found: _Header = cache[sequence]
        return found

    measures = group("PixelMeasuresSequence")
    values = group("PixelValueTransformationSequence")
    content = group("FrameContentSequence")
    kind = "MRImageFrameTypeSequence" if file.modality == "MR" else "CTImageFrameTypeSequence"
    return Frame(
        file=file,
        index=index,
        position_mm=group("PlanePositionSequence").numbers("ImagePositionPatient", 3),
        orientation=group("PlaneOrientationSequence").numbers("ImageOrientationPatient", 6),
        pixel_spacing_mm=measures.numbers("PixelSpacing", 2),
        thickness_mm=measures.number("SliceThickness"),
        slope=values.number("RescaleSlope"),
        intercept=values.number("RescaleIntercept"),
        rescale_type=values.text("RescaleType"),
        settings=_settings(
            {
                "TI": group("MRModifierSequence").number("InversionTimes", first=True),
                "flip angle": group("MRTimingAndRelatedParametersSequence").number("FlipAngle"),
                "kernel": group("CTReconstructionSequence").text("ConvolutionKernel"),
                "component": group(kind).text("ComplexImageComponent"),
                "stack": content.text("StackID"),
            }
        ),
        echo=(None, group("MREchoSequence").number("EffectiveEchoTime")),
        frame_type=group(kind).texts("FrameType"),
        b_value=group("MRDiffusionSequence").number("DiffusionBValue"),
        temporal_position=content.number("TemporalPositionIndex"),
        acquisition_number=content.number("FrameAcquisitionNumber"),
        trigger_time=None,
        instance_number=float(index),
    )


def _settings(named: dict[str, float | str | None]) -> tuple[tuple[str, float | str], ...]:
    return tuple((name, value) for name, value in named.items() if value not in (None, ""))


class _Header:
    """Values of a data set, taken from its raw bytes."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._elements = {int(tag): element for tag, element in dataset.items()}

    def __contains__(self, keyword: str) -> bool:
        return _TAG_OF[keyword] in self._elements

    def raw(self, keyword: str) -> bytes:
        element = self._element(keyword)
        value = element.value if element is not None else None
        if value is None:
            return b""
        if isinstance(value, bytes):
            return value
        return str(value).encode("utf-8", "replace")

    def text(self, keyword: str) -> str:
        return self.raw(keyword).decode("ascii", "replace").strip(" \0")

    def texts(self, keyword: str) -> tuple[str, ...]:
        text = self.text(keyword)
        return tuple(word.strip() for word in text.split("\\")) if text else ()

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """``count`` finite numbers, or None if the attribute is absent or empty."""
        element = self._element(keyword)
        if element is None or not element.value:
            return None
        values = _parsed(element)
        if values is None or len(values) != count or not all(abs(v) < 1e9 for v in values):
            raise DamagedHeaderError(f"{keyword} is not {count} number(s)")
        return values

    def number(self, keyword: str, *, first: bool = False) -> float | None:
        if first:
            element = self._element(keyword)
            values = _parsed(element) if element is not None and element.value else None
            return values[0] if values else None
        found = self.numbers(keyword, 1)
        return found[0] if found else None

    def integer(self, keyword: str) -> int | None:
        value = self.number(keyword)
        if value is not None and not value.is_integer():
            raise DamagedHeaderError(f"{keyword} is not a whole number")
        return None if value is None else int(value)

    def unsigned(self, keyword: str) -> int:
        """A 16-bit number (VR US); an absent one is -1, which no check lets pass."""
        element = self._element(keyword)
        if element is None or not element.value:
            return -1
        if isinstance(element.value, int):
            return element.value
        if len(element.value) != 2:
            raise DamagedHeaderError(f"{keyword} is not a 16-bit number")
        return int.from_bytes(element.value, "little" if element.is_little_endian else "big")

    def items(self, keyword: str) -> list[_Header]:
        """The items of a sequence, none if it is absent."""
        if keyword not in self.dataset:
            return []
        element = self.dataset[keyword]
        if element.VR != "SQ":
            raise DamagedHeaderError(f"{keyword} is not a sequence")
        return [_Header(item) for item in element.value or ()]

    def _element(self, keyword: str) -> Any:
        return self._elements.get(_TAG_OF[keyword])


def _parsed(element: Any) -> tuple[float, ...] | None:
    """The numbers of an element, by its VR or by the dictionary's; None if they are none."""
    value = element.value
    try:
        if not isinstance(value, bytes):
            return tuple(float(v) for v in (value if isinstance(value, Sequence) else [value]))
        vr = element.VR if element.VR not in (None, "UN") else dictionary_VR(element.tag)
        code = _BINARY_NUMBERS.get(vr)
        if code:
            order = "<" if element.is_little_endian else ">"
            count = len(value) // struct.calcsize(code)
            return struct.unpack(f"{order}{count}{code}", value)
        return tuple(float(word) for word in value.decode("ascii").strip(" \0").split("\\"))
    except (ValueError, KeyError, TypeError, struct.error):
        return None
