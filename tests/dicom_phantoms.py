"""DICOM phantoms in which every voxel stores its own position, and the troubles real folders have.

A phantom is a list of data sets, one per slice, made by `slices` with pydicom alone. A trouble is
a function from such a list to another. `write` paints the pixels last, from what the headers then
say, and saves them as classic files or as one enhanced multi-frame file. `CASES` lists every
case with what must come of reading it.

A voxel's value is its LPS coordinate in mm along one axis (0 x, 1 y, 2 z), plus `MARK` times
the number in ImageComments, which tells echoes and time points apart. Stored values are 16-bit
in steps of 1/128 mm over ±256 mm, so rounding costs at most 0.004 mm and an error of 0.01 mm
shows. The field is 256 × 256 mm unless a case says otherwise.

    python tests/dicom_phantoms.py FOLDER

writes every case into a folder of its own, to be looked at with other software.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset, config
from pydicom.charset import convert_encodings
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.fileset import FileSet
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from pydicom.valuerep import DSfloat, PersonName

STEP = 2.0**-7
"""Millimetres per stored value."""

MARK = 1000.0
"""Millimetres added to a voxel's coordinate per unit of ImageComments."""

SOP_CLASSES = {
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "enhanced MR": "1.2.840.10008.5.1.4.1.1.4.1",
    "enhanced CT": "1.2.840.10008.5.1.4.1.1.2.1",
    "secondary capture": "1.2.840.10008.5.1.4.1.1.7",
    "PET": "1.2.840.10008.5.1.4.1.1.128",
    "encapsulated PDF": "1.2.840.10008.5.1.4.1.1.104.1",
    "structure set": "1.2.840.10008.5.1.4.1.1.481.3",
}

PATIENT = {
    "PatientName": "Quisenberry^Zephyrine",
    "PatientID": "ZQ-7741903",
    "PatientBirthDate": "19370214",
    "PatientSex": "O",
    "PatientAge": "086Y",
    "PatientComments": "Allergic to marzipan",
    "StudyDate": "20190823",
    "SeriesDate": "20190823",
    "AcquisitionDate": "20190823",
    "ContentDate": "20190823",
    "StudyTime": "101733.25",
    "StudyID": "STU88231",
    "AccessionNumber": "ACC5561209",
    "StudyDescription": "Whimsical pelvis",
    "SeriesDescription": "Whimsical t2 tse",
    "ProtocolName": "Whimsical protocol",
    "ReferringPhysicianName": "Popplewell^Ebenezer",
    "InstitutionName": "Saint Eulalia",
    "StationName": "MARGRAVE7",
}

SECRETS = (
    "quisenberry",
    "zephyrine",
    "7741903",
    "19370214",
    "marzipan",
    "20190823",
    "101733",
    "stu88231",
    "5561209",
    "whimsical",
    "popplewell",
    "eulalia",
    "margrave7",
    "2.25.",
)
"""What must appear in no message, in lower case; every UID of a phantom begins with 2.25."""


def uid(*words: object) -> str:
    """A UID that is always the same for the same words."""
    return "2.25." + str(int.from_bytes(sha256(repr(words).encode()).digest()[:15], "big"))


def uid_of_64(*words: object) -> str:
    """A UID of the longest length that DICOM allows (PS3.5 9.1)."""
    digits = str(int.from_bytes(sha256(repr(words).encode()).digest() * 3, "big"))
    return ("2.25.1" + digits)[:64]


@dataclass(frozen=True)
class Scan:
    """Kind and place of a phantom, in LPS millimetres.

    Attributes:
        modality: ``"MR"`` (unsigned pixels) or ``"CT"`` (signed).
        row: Direction in which the column index grows.
        column: Direction in which the row index grows.
        shape: Columns, rows, slices.
        spacing_mm: Between columns, between rows, between slices.
        centre_mm: Centre of the voxels.
        tilt_degrees: How far the way from slice to slice leans from the normal to ``column``.
        bits: Bits stored, of 16, unless 8.
    """

    modality: str = "MR"
    row: tuple[float, float, float] = (1, 0, 0)
    column: tuple[float, float, float] = (0, 1, 0)
    shape: tuple[int, int, int] = (32, 20, 12)
    spacing_mm: tuple[float, float, float] = (8.0, 12.8, 5.0)
    centre_mm: tuple[float, float, float] = (7.5, -11.25, 20.0)
    tilt_degrees: float = 0.0
    bits: int = 16

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.row, self.column)

    @property
    def lps_affine(self) -> NDArray[np.float64]:
        """(4, 4) (column, row, slice) index to LPS mm; slices rise along the normal."""
        tilt = np.radians(self.tilt_degrees)
        step = self.normal + np.tan(tilt) * np.array(self.column)
        affine = np.eye(4)
        affine[:3, :3] = np.stack([self.row, self.column, step], axis=1) * self.spacing_mm
        middle = (np.array(self.shape) - 1) / 2
        affine[:3, 3] = np.array(self.centre_mm) - affine[:3, :3] @ middle
        return affine

    @property
    def slope(self) -> float:
        return STEP * 2 ** (4 if self.bits == 8 else 0)


def turned(row: Sequence[float], column: Sequence[float], degrees: Sequence[float]) -> Any:
    """Directions after turns about x, y and z."""
    a, b, c = np.radians(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    turn = z @ y @ x
    return {"row": tuple(turn @ row), "column": tuple(turn @ column)}


AXIAL = Scan()
CT = Scan("CT")
SMALL = Scan(shape=(24, 20, 6), spacing_mm=(1.0, 1.2, 1.5), centre_mm=(0.0, 0.0, 0.0), bits=12)
"""A 24 mm field, which 12 bits of 1/128 mm can hold."""

PLANES = {
    "axial": AXIAL,
    "sagittal": Scan(row=(0, 1, 0), column=(0, 0, -1)),
    "coronal": Scan(row=(1, 0, 0), column=(0, 0, -1)),
    "oblique": Scan(**turned((1, 0, 0), (0, 1, 0), (25, -18, 33))),
    "oblique coronal": Scan(**turned((1, 0, 0), (0, 0, -1), (10, 14, -8))),
    "feet first": Scan(row=(-1, 0, 0), column=(0, 1, 0)),
    "prone": Scan(row=(-1, 0, 0), column=(0, -1, 0)),
    "feet first prone": Scan(row=(1, 0, 0), column=(0, -1, 0)),
    "decubitus": Scan(row=(0, 1, 0), column=(-1, 0, 0)),
    "ct axial": CT,
    "ct oblique": replace(CT, **turned((1, 0, 0), (0, 1, 0), (-12, 9, 5))),
}

Slices = list[Dataset]
Trouble = Callable[[Slices], Slices]


def numbers(values: Sequence[float]) -> list[DSfloat]:
    """Decimal strings of at most 16 characters (PS3.5 6.2)."""
    return [DSfloat(float(v), auto_format=True) for v in values]


def slices(scan: Scan = AXIAL, name: str = "first") -> Slices:
    """Headers of a classic series, in the order of rising position along the normal.

    Args:
        scan: What and where.
        name: Another name makes another series of the same study.
    """
    made = []
    affine = scan.lps_affine
    for k in range(scan.shape[2]):
        ds = Dataset()
        for keyword, value in PATIENT.items():
            setattr(ds, keyword, value)
        ds.SOPClassUID = SOP_CLASSES[scan.modality]
        ds.SOPInstanceUID = uid(name, "image", k)
        ds.StudyInstanceUID = uid("study")
        ds.SeriesInstanceUID = uid(name, "series")
        ds.FrameOfReferenceUID = uid("frame of reference")
        ds.PositionReferenceIndicator = ""
        ds.Modality = scan.modality
        ds.Manufacturer = "Phantom"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if scan.modality == "CT" else "M"]
        ds.SeriesNumber = 3
        ds.AcquisitionNumber = 1
        ds.InstanceNumber = k + 1
        ds.PatientPosition = "HFS"
        ds.BodyPartExamined = "PELVIS"
        ds.ImagePositionPatient = numbers((affine @ (0, 0, k, 1))[:3])
        ds.ImageOrientationPatient = numbers((*scan.row, *scan.column))
        ds.PixelSpacing = numbers((scan.spacing_mm[1], scan.spacing_mm[0]))
        ds.SliceThickness = numbers(scan.spacing_mm[2:])[0]
        ds.SliceLocation = numbers([scan.normal @ (affine @ (0, 0, k, 1))[:3]])[0]
        ds.SamplesPerPixel = 1
        ds.PhotometricInterpretation = "MONOCHROME2"
        ds.Columns, ds.Rows = scan.shape[:2]
        ds.BitsAllocated = 8 if scan.bits == 8 else 16
        ds.BitsStored = scan.bits
        ds.HighBit = scan.bits - 1
        ds.PixelRepresentation = 1 if scan.modality == "CT" else 0
        lowest = 0.0 if scan.modality == "CT" else -(2 ** (scan.bits - 1)) * scan.slope
        ds.RescaleIntercept, ds.RescaleSlope = numbers((lowest, scan.slope))
        if scan.modality == "CT":
            ds.KVP = "120"
            ds.RescaleType = "HU"
        else:
            ds.ScanningSequence = "SE"
            ds.SequenceVariant = "SK"
            ds.MRAcquisitionType = "2D"
            ds.EchoTime = "80"
            ds.RepetitionTime = "4000"
        made.append(ds)
    return made


def coordinates(ds: Dataset, axis: int) -> NDArray[np.float64]:
    """LPS coordinate in mm of every pixel of one slice, (rows, columns) (PS3.3 C.7.6.2.1.1)."""
    first, directions = (
        np.array(value, float) for value in (ds.ImagePositionPatient, ds.ImageOrientationPatient)
    )
    between_rows, between_columns = (float(v) for v in ds.PixelSpacing)
    along_row = directions[axis] * between_columns * np.arange(ds.Columns)
    along_column = directions[3 + axis] * between_rows * np.arange(ds.Rows)
    return first[axis] + along_row[None, :] + along_column[:, None]


def stored_values(ds: Dataset, axis: int) -> NDArray[np.int64]:
    """What to store so that rescaling gives the coordinates plus the mark."""
    wanted = coordinates(ds, axis) + MARK * float(ds.get("ImageComments", 0))
    slope, intercept = float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))
    stored = np.rint((wanted - intercept) / slope).astype(np.int64)
    lowest = -(1 << (ds.BitsStored - 1)) if ds.PixelRepresentation else 0
    if stored.min() < lowest or stored.max() >= lowest + (1 << ds.BitsStored):
        raise ValueError(f"stored values {stored.min()} to {stored.max()} do not fit")
    return stored


def paint(datasets: Slices, axis: int) -> Slices:
    """Give every slice that has a place its pixels; slices without one get those they had."""
    for ds in datasets:
        if "PixelData" not in ds:
            allocated = ds.BitsAllocated
            values = stored_values(ds, axis) & ((1 << allocated) - 1)
            set_pixels(ds, values.astype(f"<u{allocated // 8}").tobytes())
    return datasets


def set_pixels(ds: Dataset, content: bytes) -> None:
    ds.add_new(
        "PixelData", "OB" if ds.BitsAllocated == 8 else "OW", content + bytes(len(content) % 2)
    )


def pixels(ds: Dataset) -> NDArray[Any]:
    """The stored bytes of one slice as unsigned numbers, (rows, columns)."""
    kind = f"<u{ds.BitsAllocated // 8}"
    return np.frombuffer(ds.PixelData, kind)[: ds.Rows * ds.Columns].reshape(ds.Rows, ds.Columns)


_GROUPS: dict[str, tuple[str, ...]] = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
}


def functional_groups(ds: Dataset, number: int) -> dict[str, Dataset]:
    """The functional groups of one frame (PS3.3 C.7.6.16.2), from a classic header."""
    groups = {}
    for name, keywords in _GROUPS.items():
        item = Dataset()
        for keyword in keywords:
            if keyword in ds:
                item[keyword] = ds[keyword]
        if len(item):
            groups[name] = item
    content = Dataset()
    content.FrameAcquisitionNumber = 1
    content.StackID = "1"
    content.InStackPositionNumber = number
    if "TemporalPositionIdentifier" in ds:
        content.TemporalPositionIndex = int(ds.TemporalPositionIdentifier)
    groups["FrameContentSequence"] = content
    frame_type = Dataset()
    frame_type.FrameType = [*ds.ImageType, "NONE"][:4]
    if "ComplexImageComponent" in ds:
        frame_type.ComplexImageComponent = ds.ComplexImageComponent
    groups[f"{ds.Modality}ImageFrameTypeSequence"] = frame_type
    if ds.Modality == "MR":
        echo = Dataset()
        echo.EffectiveEchoTime = float(ds.EchoTime)
        groups["MREchoSequence"] = echo
    if "DiffusionBValue" in ds:
        diffusion = Dataset()
        diffusion.DiffusionBValue = ds.DiffusionBValue
        groups["MRDiffusionSequence"] = diffusion
    return groups


def enhanced(frames: Slices) -> Dataset:
    """One enhanced multi-frame data set; what all frames share goes into the shared groups."""
    first = frames[0]
    per_frame_only = {keyword for keywords in _GROUPS.values() for keyword in keywords}
    per_frame_only |= {"EchoTime", "DiffusionBValue", "TemporalPositionIdentifier", "PixelData"}
    per_frame_only |= {"SliceLocation", "ImageComments", "ComplexImageComponent"}
    made = Dataset()
    for element in first:
        if element.keyword not in per_frame_only:
            made.add(deepcopy(element))
    made.SOPClassUID = SOP_CLASSES[f"enhanced {first.Modality}"]
    made.ImageType = [*first.ImageType, "NONE"][:4]
    made.NumberOfFrames = len(frames)
    groups = [functional_groups(ds, n + 1) for n, ds in enumerate(frames)]
    shared = {
        name: item
        for name, item in groups[0].items()
        if name != "FrameContentSequence" and all(g.get(name) == item for g in groups)
    }
    made.SharedFunctionalGroupsSequence = DicomSequence([_item(shared)])
    made.PerFrameFunctionalGroupsSequence = DicomSequence(
        [_item({n: item for n, item in g.items() if n not in shared}) for g in groups]
    )
    set_pixels(made, b"".join(pixels(ds).tobytes() for ds in frames))
    return made


def _item(groups: dict[str, Dataset]) -> Dataset:
    made = Dataset()
    for name, item in groups.items():
        setattr(made, name, DicomSequence([item]))
    return made


def jpeg_2000(ds: Dataset, *, boxed: bool = False) -> bytes:
    """The pixels of one slice, lossless; in the boxes of a JP2 file, which DICOM does not allow."""
    buffer = io.BytesIO()
    image = PIL.Image.fromarray(pixels(ds))
    image.save(buffer, "JPEG2000", irreversible=False, no_jp2=not boxed)
    return buffer.getvalue()


def save(ds: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> None:
    """Write one file as PS3.10 has it, in a transfer syntax that this script can encode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax == RLELossless:
        ds.compress(RLELossless, generate_instance_uid=False)
    elif syntax == JPEG2000Lossless:
        ds.add_new("PixelData", "OB", encapsulate([jpeg_2000(ds)]))
    elif syntax == ExplicitVRBigEndian:
        ds.PixelData = pixels(ds).byteswap().tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path, enforce_file_format=True)


def write(
    folder: Path,
    datasets: Slices,
    axis: int,
    *,
    multi_frame: bool = False,
    syntax: str = ExplicitVRLittleEndian,
    names: Callable[[int], str] = "image_{:04d}.dcm".format,
) -> None:
    """Paint and save a phantom."""
    painted = paint(datasets, axis)
    for n, ds in enumerate([enhanced(painted)] if multi_frame else painted):
        save(ds, folder / names(n), syntax)


def without_preamble(ds: Dataset, path: Path, *, implicit: bool, meta: bool) -> None:
    """Write a data set as it travels on a network: no preamble, with or without group 2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if meta:
        save(ds, path, ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian)
        path.write_bytes(path.read_bytes()[132:])
    else:
        ds.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=False)


def save_as_said(ds: Dataset, path: Path, syntax: str, *, implicit: bool) -> None:
    """Write a file with little-endian elements, whatever transfer syntax its group 2 names.

    Nothing is checked: any SpecificCharacterSet goes in as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SOP_CLASSES["MR"]
    meta.MediaStorageSOPInstanceUID = uid("any")
    meta.TransferSyntaxUID = syntax
    head, body = io.BytesIO(), io.BytesIO()
    pydicom.filewriter.write_file_meta_info(head, meta)
    ds = deepcopy(ds)
    charset = ds.pop("SpecificCharacterSet", None)
    ds.save_as(body, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    path.write_bytes(bytes(128) + b"DICM" + head.getvalue())
    with path.open("ab") as file:
        if charset is not None:
            text = str(charset.value).encode()
            text += b" " * (len(text) % 2)
            file.write(b"\x08\x00\x05\x00" + len(text).to_bytes(4, "little") + text)
        file.write(body.getvalue())


def raw(ds: Dataset, keyword: str, text: str) -> None:
    """Put any text into an element; save it with implicit VRs, where the text is all there is."""
    ds[keyword] = DataElement(
        tag_for_keyword(keyword) or 0, "LT", text, validation_mode=config.IGNORE
    )


# Troubles: each takes the slices of a series and returns those of a troubled one.


def moved(ds: Dataset, offset_mm: Sequence[float] | NDArray[np.float64]) -> None:
    ds.ImagePositionPatient = numbers(np.array(ds.ImagePositionPatient, float) + offset_mm)


def normal_of(ds: Dataset) -> NDArray[np.float64]:
    directions = np.array(ds.ImageOrientationPatient, float)
    return np.cross(directions[:3], directions[3:])


def setting(which: slice | int | None = None, **values: Any) -> Trouble:
    """Set attributes of all slices, or of those that ``which`` picks; None deletes."""

    def trouble(datasets: Slices) -> Slices:
        picked = datasets if which is None else datasets[which]
        for ds in [picked] if isinstance(picked, Dataset) else picked:
            for keyword, value in values.items():
                if value is None:
                    ds.pop(keyword, None)
                else:
                    setattr(ds, keyword, value)
        return datasets

    return trouble


def without(*indices: int) -> Trouble:
    return lambda datasets: [ds for k, ds in enumerate(datasets) if k not in indices]


def shuffled(datasets: Slices) -> Slices:
    """Files and instance numbers in an order that has nothing to do with positions."""
    order = np.random.default_rng(1).permutation(len(datasets))
    for number, k in enumerate(order):
        datasets[k].InstanceNumber = number + 1
        datasets[k].SliceLocation = float(order[-number])
    return [datasets[k] for k in np.random.default_rng(2).permutation(len(datasets))]


def falling(datasets: Slices) -> Slices:
    """Positions fall against the normal while instance numbers rise."""
    for number, ds in enumerate(reversed(datasets)):
        ds.InstanceNumber = number + 1
    return datasets[::-1]


def stretched(datasets: Slices) -> Slices:
    """From the middle on, slices lie twice as far apart."""
    middle = len(datasets) // 2
    step = normal_of(datasets[0]) * AXIAL.spacing_mm[2]
    for k, ds in enumerate(datasets[middle:], 1):
        moved(ds, k * step)
    return datasets


def jittered(offset_mm: float, along: str) -> Trouble:
    """Move each slice by a tenth or so, in its plane or along the normal; the ends stay."""

    def trouble(datasets: Slices) -> Slices:
        noise = np.random.default_rng(3)
        for ds in datasets[1:-1]:
            row = np.array(ds.ImageOrientationPatient[:3], float)
            direction = row if along == "row" else normal_of(ds)
            moved(ds, direction * offset_mm * noise.choice([-1, 1]))
        return datasets

    return trouble


def noisy_orientation(datasets: Slices) -> Slices:
    """Turn every slice in its plane by 1e-4, back and forth."""
    for k, ds in enumerate(datasets):
        directions = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
        turn = 1e-4 * (-1) ** k
        row = directions[0] + turn * directions[1]
        column = directions[1] - turn * directions[0]
        ds.ImageOrientationPatient = numbers((*row, *column))
    return datasets


def rounded_orientation(datasets: Slices) -> Slices:
    """Direction cosines of four decimals, as some scanners write them."""
    for ds in datasets:
        ds.ImageOrientationPatient = numbers(
            np.round(np.array(ds.ImageOrientationPatient, float), 4)
        )
    return datasets


def one_shifted(datasets: Slices) -> Slices:
    """One slice lies 3 mm aside in its own plane."""
    moved(datasets[4], 3 * np.array(datasets[4].ImageOrientationPatient[:3], float))
    return datasets


def doubled_position(datasets: Slices) -> Slices:
    """Two slices claim one place and show different pixels."""
    extra = deepcopy(datasets[5])
    extra.SOPInstanceUID = uid("other pixels")
    extra.ImageComments = "0.01"
    return [*datasets, extra]


def doubled_rescale(datasets: Slices) -> Slices:
    """Two slices claim one place and store the same, but rescale it differently."""
    extra = deepcopy(datasets[5])
    extra.SOPInstanceUID = uid("other rescale")
    extra.RescaleIntercept = numbers([float(extra.RescaleIntercept) + 10])[0]
    extra.ImageComments = "0.01"
    return [*datasets, extra]


def repeated(times: int = 3, **identify: Callable[[int, int], Any]) -> Trouble:
    """The stack again and again, marked 0, 1, ...; ``identify`` gives what tells them apart.

    Each keyword's function takes the repetition and the slice, both from 0.
    """

    def trouble(datasets: Slices) -> Slices:
        made = []
        for t in range(times):
            for k, ds in enumerate(datasets):
                again = deepcopy(ds)
                again.SOPInstanceUID = uid("repetition", t, k)
                again.InstanceNumber = t * len(datasets) + k + 1
                again.ImageComments = str(t)
                intercept = float(again.get("RescaleIntercept", 0)) + MARK * t
                again.RescaleIntercept = numbers([intercept])[0]
                for keyword, value in identify.items():
                    if value(t, k) is None:
                        again.pop(keyword, None)
                    else:
                        setattr(again, keyword, value(t, k))
                made.append(again)
        return made

    return trouble


def interleaved_times(datasets: Slices) -> Slices:
    """Two times whose slices lie between each other's, as after a move of the table."""
    troubled = repeated(2, TemporalPositionIdentifier=lambda t, _: t + 1)(datasets)
    for ds in troubled[len(datasets) :]:
        moved(ds, normal_of(ds) * AXIAL.spacing_mm[2] / 2)
    return troubled


def with_localizer(datasets: Slices) -> Slices:
    """Three scouts of other planes under the same series UID."""
    scouts = slices(replace(PLANES["coronal"], modality=datasets[0].Modality, shape=(32, 20, 3)))
    for n, scout in enumerate(scouts):
        scout.SOPInstanceUID = uid("scout", n)
        scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    return [scouts[0], *datasets, *scouts[1:]]


def two_series(datasets: Slices) -> Slices:
    other = slices(replace(AXIAL, modality=datasets[0].Modality), name="second")
    for ds in other:
        ds.ImageComments = "1"
        ds.RescaleIntercept = numbers([float(ds.RescaleIntercept) + MARK])[0]
        ds.SeriesNumber = 4
    return datasets + other


def two_patients(datasets: Slices) -> Slices:
    """Another patient's slices, between the first one's, under the same series UID."""
    for ds in datasets[1::2]:
        ds.PatientName = "Quisenberry^Zephyrine II"
        ds.PatientID = "ZQ-7741903-B"
    return datasets


def varied_rescale(datasets: Slices) -> Slices:
    """Slope and intercept of each slice's own, as PET and some MR scanners write them."""
    for k, ds in enumerate(datasets):
        ds.RescaleSlope = numbers([STEP * (1 + k / 16)])[0]
        ds.RescaleIntercept = numbers([float(ds.RescaleIntercept) * (1 + k / 16) + k])[0]
    return datasets


def private_tags(datasets: Slices) -> Slices:
    for ds in datasets:
        block = ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
        block.add_new(0x10, "OB", bytes(range(256)) * 40)
        block.add_new(0x20, "LO", PATIENT["PatientName"])
        ds.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(3, "FL", 1000.0)
    return datasets


def long_uids(datasets: Slices) -> Slices:
    for k, ds in enumerate(datasets):
        ds.SOPInstanceUID = uid_of_64("image", k)
        ds.SeriesInstanceUID = uid_of_64("series")
        ds.StudyInstanceUID = uid_of_64("study")
        ds.FrameOfReferenceUID = uid_of_64("frame of reference")
    return datasets


def both(*troubles: Trouble) -> Trouble:
    """One trouble after another."""

    def trouble(datasets: Slices) -> Slices:
        for each in troubles:
            datasets = each(datasets)
        return datasets

    return trouble


CHARACTER_SETS: dict[str, str | bytes] = {
    "ISO_IR 6": "Smith^John",
    "ISO_IR 100": "Müller^Jürgen",
    "ISO_IR 101": "Dvořák^Jiří",
    "ISO_IR 109": "Ĉapek^Ĝoja",
    "ISO_IR 110": "Bērziņš^Jānis",
    "ISO_IR 144": "Люкceмбypг",
    "ISO_IR 127": "قباني^لنزار",
    "ISO_IR 126": "Διονυσιος",
    "ISO_IR 138": "שרון^דבורה",
    "ISO_IR 148": "Çavuşoğlu^Çağla",
    "ISO_IR 13": "ﾔﾏﾀﾞ^ﾀﾛｳ",
    "ISO_IR 166": "สมชาย^ใจดี",
    "ISO_IR 192": "Wang^XiaoDong=王^小东=",
    "GB18030": "Wang^XiaoDong=王^小东=",
    "GBK": "Wang^XiaoDong=王^小东=",
    "\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "ISO 2022 IR 13\\ISO 2022 IR 87": "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    "\\ISO 2022 IR 87\\ISO 2022 IR 159": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "\\ISO 2022 IR 149": "Hong^Gildong=洪^吉洞=홍^길동",
    "\\ISO 2022 IR 58": b"Wang^XiaoDong=\x1b$)A\xcd\xf5^\x1b$)A\xd0\xa1\xb6\xab",
}
"""Defined terms of SpecificCharacterSet (PS3.3 C.12.1.1.2), each with a name it can hold.

The last one is in bytes, since pydicom 3.0 leaves its escape sequences out (PS3.5 K.2).
"""


def named(terms: str, name: str | bytes) -> Trouble:
    """The patient's name in a character set; terms are split at backslashes."""
    several = terms.split("\\")
    if isinstance(name, bytes):
        name = PersonName(name, encodings=convert_encodings(several))
    return setting(SpecificCharacterSet=several, PatientName=name)


# What must come of a case.


@dataclass(frozen=True)
class Right:
    """A volume on the scan's grid, each voxel with its coordinate.

    Attributes:
        scan: Where the voxels must lie.
        tolerance_mm: Largest error of a voxel's value against its place, and of the corners.
        mark: Which repetition, echo or series it must be.
        logged: Regular expression of a log record that must have been written.
    """

    scan: Scan = AXIAL
    tolerance_mm: float = 0.005
    mark: int = 0
    logged: str | None = None


@dataclass(frozen=True)
class Refused:
    """An error of this class whose message matches every expression, in any letter case."""

    error: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class RightOrRefused:
    """Both are sound; a wrong volume is not. The attributes are those of `Right`."""

    scan: Scan = AXIAL
    tolerance_mm: float = 0.005
    mark: int = 0
    logged: str | None = None


@dataclass(frozen=True)
class Resampled:
    """A volume on perpendicular axes; each voxel between the scanned ones has its coordinate.

    Attributes:
        trouble: Makes the slices that were scanned, for where they lie.
        scan: What the trouble was applied to.
    """

    trouble: Trouble
    scan: Scan = AXIAL
    tolerance_mm: float = 0.03


Expected = Right | Refused | RightOrRefused | Resampled


@dataclass(frozen=True)
class Case:
    """One folder and what reading it must give.

    Attributes:
        name: Short, unique, fit for a test's id.
        make: Writes the folder's files; the number is the axis whose coordinate voxels store.
        expected: What must come of it.
        where: The path to read, below the folder.
        options: Keyword arguments of the reader; those of ``DicomOptions`` under ``dicom``.
        program: A program from outside Python that ``make`` calls.
    """

    name: str
    make: Callable[[Path, int], None]
    expected: Expected
    where: str = "."
    options: dict[str, Any] = field(default_factory=dict)
    program: str | None = None


def _series(
    trouble: Trouble = lambda datasets: datasets,
    scan: Scan = AXIAL,
    *,
    painted_first: bool = False,
    **writing: Any,
) -> Callable[[Path, int], None]:
    """Write a troubled scan; painted first, its pixels ignore what the trouble does to places."""

    def make(folder: Path, axis: int) -> None:
        datasets = slices(scan)
        if painted_first:
            paint(datasets, axis)
        write(folder, trouble(datasets), axis, **writing)

    return make


def _after(make: Callable[[Path, int], None], then: Callable[[Path], None]) -> Any:
    """Write files and then do something to the folder."""

    def made(folder: Path, axis: int) -> None:
        make(folder, axis)
        then(folder)

    return made


def _both_kinds(
    name: str,
    trouble: Trouble,
    expected: Expected,
    *,
    scan: Scan = AXIAL,
    options: dict[str, Any] | None = None,
    painted_first: bool = False,
) -> Iterator[Case]:
    """The same trouble as classic files and as one enhanced file."""
    for kind, multi_frame in (("classic", False), ("enhanced", True)):
        yield Case(
            f"{name}, {kind}",
            _series(trouble, scan, painted_first=painted_first, multi_frame=multi_frame),
            expected,
            options=options or {},
        )


def orientation_cases() -> Iterator[Case]:
    for name, scan in PLANES.items():
        for order, trouble in (("rising", shuffled), ("falling", falling)):
            yield from _both_kinds(f"{name} {order}", trouble, Right(scan), scan=scan)
    anisotropic = Scan(shape=(7, 31, 5), spacing_mm=(32.0, 8.0, 0.7))
    yield from _both_kinds("odd sizes", shuffled, Right(anisotropic), scan=anisotropic)
    large = replace(AXIAL, spacing_mm=(8.0, 12.8, 0.3))
    yield from _both_kinds("thin slices", shuffled, Right(large), scan=large)


def folder_cases() -> Iterator[Case]:
    nothing = Refused("ImageReadError", ("no .*image|empty",))
    yield Case("empty folder", lambda folder, _: folder.mkdir(parents=True), nothing)
    yield Case("empty folders", lambda folder, _: (folder / "a/b").mkdir(parents=True), nothing)
    yield Case(
        "no such folder",
        lambda folder, _: folder.mkdir(parents=True),
        Refused("ImageReadError", ("no such",)),
        where="missing",
    )
    yield Case("only text", lambda folder, _: _litter(folder), nothing)
    yield Case("only a DICOMDIR", lambda folder, axis: _file_set(folder, axis, False), nothing)
    yield Case("only a PDF in DICOM", lambda folder, _: _pdf(folder), nothing)
    yield Case("only a structure set", lambda folder, _: _structures(folder), nothing)
    yield Case("only empty files", lambda folder, _: _empty_files(folder), nothing)
    yield Case(
        "a DICOMDIR with its files", lambda folder, axis: _file_set(folder, axis, True), Right()
    )
    yield Case(
        "good ones among litter",
        _after(_series(), lambda folder: (_litter(folder), _pdf(folder), _structures(folder))),
        Right(),
    )
    yield Case(
        "empty file among good ones",
        _after(_series(), _empty_files),
        Right(logged="skipped|left out|ignored|empty"),
    )
    yield Case(
        "no extensions, nested",
        _series(shuffled, names=lambda n: f"{n % 3}/{n % 2}/{n:08X}"),
        Right(),
    )
    yield Case(
        "names of other formats",
        _series(
            names=lambda n: f"{n}" + (".txt", ".ima", ".nii", ".jpg", " .dcm", ".ä.dcm")[n % 6]
        ),
        Right(),
    )
    yield Case(
        "a folder that links to itself",
        _after(_series(), lambda folder: (folder / "loop").symlink_to(folder)),
        Right(),
    )
    yield Case(
        "a broken link",
        _after(_series(), lambda folder: (folder / "gone").symlink_to(folder / "missing")),
        RightOrRefused(),
    )
    for implicit in (True, False):
        for meta in (True, False):
            yield Case(
                f"no preamble, {'implicit' if implicit else 'explicit'} VR, "
                f"{'with' if meta else 'without'} group 2",
                lambda folder, axis, implicit=implicit, meta=meta: _bare(  # type: ignore[misc]
                    folder, axis, implicit, meta
                ),
                Right(),
            )
    yield Case("one slice by its file name", _series(), Right(_only(0)), where="image_0000.dcm")
    yield Case(
        "enhanced by its file name", _series(multi_frame=True), Right(), where="image_0000.dcm"
    )
    yield Case(
        "enhanced CT by its file name",
        _series(scan=CT, multi_frame=True),
        Right(CT),
        where="image_0000.dcm",
    )


def _only(k: int, scan: Scan = AXIAL) -> Scan:
    """The scan of one slice of a scan."""
    centre = scan.lps_affine @ ((scan.shape[0] - 1) / 2, (scan.shape[1] - 1) / 2, k, 1)
    return replace(scan, shape=(*scan.shape[:2], 1), centre_mm=tuple(centre[:3]))


def _first(count: int, scan: Scan = AXIAL) -> Scan:
    """The scan of the first slices of a scan."""
    middle = [(n - 1) / 2 for n in (*scan.shape[:2], count)]
    centre = scan.lps_affine @ (*middle, 1)
    return replace(scan, shape=(*scan.shape[:2], count), centre_mm=tuple(centre[:3]))


def _litter(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.txt").write_text("Scans of a phantom\n" * 30)
    (folder / ".DS_Store").write_bytes(bytes(range(256)) * 24)
    (folder / "report.pdf").write_bytes(b"%PDF-1.4\n" + bytes(500) + b"%%EOF")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(500))
    (folder / "table.csv").write_text("id,modality\n1,MR\n")
    (folder / "one byte").write_bytes(b"\x08")
    (folder / "zip.zip").write_bytes(b"PK\x03\x04" + zlib.compress(bytes(900)))


def _empty_files(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "image_0003b.dcm").write_bytes(b"")
    (folder / "empty").write_bytes(b"")


def _pdf(folder: Path) -> None:
    ds = deepcopy(slices()[0])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows"):
        del ds[keyword]
    ds.SOPClassUID = SOP_CLASSES["encapsulated PDF"]
    ds.SOPInstanceUID = uid("pdf")
    ds.SeriesInstanceUID = uid("pdf series")
    ds.Modality = "DOC"
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    ds.EncapsulatedDocument = b"%PDF-1.4" + bytes(600)
    save(ds, folder / "document.dcm")


def _structures(folder: Path) -> None:
    ds = Dataset()
    for keyword, value in PATIENT.items():
        setattr(ds, keyword, value)
    ds.SOPClassUID = SOP_CLASSES["structure set"]
    ds.SOPInstanceUID = uid("structures")
    ds.SeriesInstanceUID = uid("structures series")
    ds.StudyInstanceUID = uid("study")
    ds.Modality = "RTSTRUCT"
    ds.StructureSetLabel = "Prostate"
    save(ds, folder / "RS.dcm")


def _file_set(folder: Path, axis: int, keep_images: bool) -> None:
    made = FileSet()
    for ds in paint(slices(), axis):
        save(ds, folder / "staged.dcm")
        made.add(pydicom.dcmread(folder / "staged.dcm"))
    (folder / "staged.dcm").unlink()
    made.write(folder)
    made._stage["t"].cleanup()  # else it warns when collected
    if not keep_images:
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)


def _bare(folder: Path, axis: int, implicit: bool, meta: bool) -> None:
    for n, ds in enumerate(paint(slices(), axis)):
        without_preamble(ds, folder / f"{n}.dcm", implicit=implicit, meta=meta)


def selection_cases() -> Iterator[Case]:
    two = _series(two_series)
    yield Case("two series", two, Refused("ImageReadError", ("--series", "2 series|two series")))
    for mark, name in enumerate(("first", "second")):
        options = {"dicom": {"series": uid(name, "series")}}
        yield Case(f"two series, {name}", two, Right(mark=mark), options=options)
    yield Case(
        "two series, one that is not there",
        two,
        Refused("ImageReadError", ("0 series|no series",)),
        options={"dicom": {"series": "7"}},
    )
    yield Case(
        "localizer in the series",
        _series(with_localizer),
        Right(logged="localizer"),
    )
    yield Case(
        "localizer in a CT series",
        _series(with_localizer, CT),
        Right(CT, logged="localizer"),
    )
    yield Case(
        "only a localizer",
        _series(setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
        Refused("ImageReadError", ("localizer",)),
    )
    groups = {
        "two echoes": repeated(
            2, EchoTime=lambda t, _: (80, 20)[t], EchoNumbers=lambda t, _: 2 - t
        ),
        "two echoes without numbers": repeated(2, EchoTime=lambda t, _: (20, 80)[t]),
        "magnitude and phase": repeated(
            2, ImageType=lambda t, _: ["ORIGINAL", "PRIMARY", ("M", "P")[t]]
        ),
        "two b-values": repeated(2, DiffusionBValue=lambda t, _: (0.0, 1000.0)[t]),
    }
    for name, trouble in groups.items():
        yield from _both_kinds(name, trouble, Refused("ImageReadError", ("--group", "2 kinds")))
        yield from _both_kinds(
            f"{name}, one not there",
            trouble,
            Refused("ImageReadError", ("no group 3", "1 to 2")),
            options={"dicom": {"group": 3}},
        )
    components = repeated(2, ComplexImageComponent=lambda t, _: ("MAGNITUDE", "PHASE")[t])
    yield Case(
        "magnitude and phase by component",
        _series(components, multi_frame=True),
        Refused("ImageReadError", ("--group|--volume",)),
    )
    planes = lambda datasets: datasets + _renumbered(slices(PLANES["sagittal"]))  # noqa: E731
    yield from _both_kinds("two planes", planes, Refused("ImageReadError", ("--group",)))
    matrices = lambda datasets: datasets + _renumbered(slices(Scan(shape=(16, 20, 12))))  # noqa: E731
    yield Case("two sizes", _series(matrices), Refused("ImageReadError", ("--group",)))
    yield Case(
        "one slice of another spacing",
        _series(setting(7, PixelSpacing=[12.8, 8.1])),
        Refused("ImageReadError", ("--group",)),
    )
    yield Case(
        "one slice of another orientation",
        _series(setting(7, ImageOrientationPatient=[-1, 0, 0, 0, 1, 0]), painted_first=True),
        Refused("ImageReadError", ("--group",)),
    )
    yield Case(
        "two patients in one series",
        _series(two_patients),
        Refused("ImageReadError", ("patient",)),
    )
    yield Case(
        "two frames of reference in one series",
        _series(setting(slice(6, None), FrameOfReferenceUID=uid("another frame"))),
        Refused("(ImageRead|Geometry)Error", ("--group|frames? of reference",)),
    )
    yield Case(
        "two studies in one series",
        _series(setting(slice(6, None), StudyInstanceUID=uid("another study"))),
        RightOrRefused(),
    )


def _renumbered(datasets: Slices) -> Slices:
    """The same series, other images."""
    for n, ds in enumerate(datasets):
        ds.SOPInstanceUID = uid("renumbered", n)
        ds.InstanceNumber = 100 + n
    return datasets


def time_cases() -> Iterator[Case]:
    by_number = repeated(3)
    kinds: dict[str, tuple[Trouble, bool]] = {
        "by temporal position": (repeated(3, TemporalPositionIdentifier=lambda t, _: t + 1), True),
        "by temporal position against instance number": (
            repeated(
                3,
                TemporalPositionIdentifier=lambda t, _: t + 1,
                InstanceNumber=lambda t, k: (2 - t) * 12 + k + 1,
            ),
            True,
        ),
        "by instance number": (by_number, False),
        "by instance number, times of a slice together": (
            repeated(3, InstanceNumber=lambda t, k: k * 3 + t + 1),
            False,
        ),
    }
    for name, (trouble, has_enhanced) in kinds.items():
        for multi_frame in (False, True) if has_enhanced else (False,):
            full = f"time series {name}, {'enhanced' if multi_frame else 'classic'}"
            make = _series(trouble, multi_frame=multi_frame)
            yield Case(
                full, make, Refused("ImageReadError", ("3 different images|3 volumes", "--volume"))
            )
            for index in range(3):
                yield Case(
                    f"{full}, {index}", make, Right(mark=index), options={"volume_index": index}
                )
            for index in (3, -1):
                yield Case(
                    f"{full}, {index} is not there",
                    make,
                    Refused("ImageReadError", ("0 to 2",)),
                    options={"volume_index": index},
                )
    order = np.random.default_rng(5).permutation(36)
    mixed = repeated(3, InstanceNumber=lambda t, k: int(order[t * 12 + k]) + 1)
    yield Case(
        "time series of mixed instance numbers, 0",
        _series(mixed),
        RightOrRefused(),
        options={"volume_index": 0},
    )
    yield Case(
        "time series of mixed instance numbers, 1",
        _series(mixed),
        RightOrRefused(mark=1),
        options={"volume_index": 1},
    )
    yield from _both_kinds(
        "two times on interleaved positions", interleaved_times, RightOrRefused()
    )
    cut = lambda datasets: by_number(datasets)[:-1]  # noqa: E731
    yield Case("time series cut short", _series(cut), Refused("(ImageRead|Geometry)Error", ("",)))
    yield Case(
        "time series cut short, 0", _series(cut), RightOrRefused(), options={"volume_index": 0}
    )
    nameless = repeated(3, InstanceNumber=lambda _t, _k: None)
    yield Case(
        "time series that nothing tells apart",
        _series(nameless),
        Refused("(ImageRead|Geometry)Error", ("",)),
    )
    yield Case(
        "time series that nothing tells apart, 0",
        _series(nameless),
        Refused("(ImageRead|Geometry)Error", ("",)),
        options={"volume_index": 0},
    )


def position_cases() -> Iterator[Case]:
    twice = "lies where|same (position|place)"
    yield Case(
        "the same file twice",
        _after(_series(), lambda f: _copy(f, "image_0004.dcm", "copy/a.dcm")),
        Right(logged="twice|duplicate|copies|copy|identical"),
    )
    yield Case(
        "every file twice",
        _after(_series(), lambda f: [_copy(f, p.name, f"copy/{p.name}") for p in f.glob("*.dcm")]),
        Right(logged="twice|duplicate|copies|copy|identical"),
    )
    yield Case(
        "the same image in another transfer syntax",
        _after(_series(), _implicit_copy),
        RightOrRefused(),
    )
    yield Case(
        "one instance UID for all slices",
        _series(setting(SOPInstanceUID=uid("one for all"))),
        RightOrRefused(),
    )
    for name, trouble in (("pixels", doubled_position), ("rescale", doubled_rescale)):
        yield from _both_kinds(
            f"one position twice with other {name}",
            trouble,
            Refused("(ImageRead|Geometry)Error", (twice,)),
        )
    missing = Refused("GeometryError", ("--resample", "gap|missing"))
    yield from _both_kinds("missing middle slice", without(6), missing)
    yield from _both_kinds("missing second slice", without(1), missing)
    yield from _both_kinds("two missing slices", without(3, 8), missing)
    three = Scan(shape=(32, 20, 4))
    yield from _both_kinds("missing slice of four", without(1), missing, scan=three)
    yield from _both_kinds("missing slice, CT", without(6), missing, scan=CT)
    for name, trouble, scan in (
        ("missing middle slice", without(6), AXIAL),
        ("missing second slice", without(1), PLANES["oblique"]),
        ("change of spacing", stretched, CT),
        ("missing slices of a tilted gantry", without(3, 4), replace(CT, tilt_degrees=10)),
        ("one slice shifted in its plane", one_shifted, PLANES["oblique coronal"]),
    ):
        yield from _both_kinds(
            f"{name}, resampled",
            trouble,
            Resampled(trouble, scan),
            scan=scan,
            options={"resample": True},
        )
    yield from _both_kinds(
        "change of spacing", stretched, Refused("GeometryError", ("--resample", "spacing|gap"))
    )
    for name, degrees in (("tilted gantry", 18.5), ("gantry tilted back", -12.0)):
        scan = replace(CT, tilt_degrees=degrees)
        yield from _both_kinds(
            name,
            shuffled,
            Refused("GeometryError", ("tilt", f"{abs(degrees):.1f}", "--resample")),
            scan=scan,
        )
        yield from _both_kinds(
            f"{name}, resampled",
            shuffled,
            Resampled(lambda datasets: datasets, scan),
            scan=scan,
            options={"resample": True},
        )
    leaning = replace(PLANES["ct oblique"], tilt_degrees=15)
    yield from _both_kinds(
        "tilted gantry, oblique, resampled",
        shuffled,
        Resampled(lambda datasets: datasets, leaning),
        scan=leaning,
        options={"resample": True},
    )
    slight = replace(CT, tilt_degrees=0.4)
    yield from _both_kinds("tilt within tolerance", shuffled, Right(slight), scan=slight)
    yield from _both_kinds(
        "tilt outside a smaller tolerance",
        shuffled,
        Refused("GeometryError", ("tilt", "0.4", "--resample")),
        scan=slight,
        options={"dicom": {"tilt_tolerance_degrees": 0.3}},
    )
    yield from _both_kinds("noisy orientation", noisy_orientation, Right(tolerance_mm=0.03))
    yield from _both_kinds(
        "rounded orientation",
        rounded_orientation,
        Right(PLANES["oblique"], tolerance_mm=0.03),
        scan=PLANES["oblique"],
    )
    for along in ("row", "normal"):
        jitter = jittered(0.1, along)
        yield from _both_kinds(
            f"position jitter along the {along}",
            jitter,
            Refused("GeometryError", ("--position-tolerance", r"0\.1")),
        )
        yield from _both_kinds(
            f"position jitter along the {along}, accepted",
            jitter,
            Right(tolerance_mm=0.15),
            options={"dicom": {"position_tolerance_mm": 0.15}},
        )
    yield from _both_kinds(
        "position jitter within tolerance", jittered(0.02, "row"), Right(tolerance_mm=0.03)
    )
    uneven = jittered(0.3, "normal")
    loose = {"position_tolerance_mm": 0.35, "gap_tolerance": 0.13}
    yield from _both_kinds(
        "uneven gaps", uneven, Refused("GeometryError", ("--gap-tolerance", "--resample"))
    )
    yield from _both_kinds(
        "uneven gaps, accepted", uneven, Right(tolerance_mm=0.35), options={"dicom": loose}
    )
    yield from _both_kinds(
        "uneven gaps, resampled", uneven, Resampled(uneven), options={"resample": True}
    )
    yield from _both_kinds(
        "missing slice within wide tolerances",
        without(6),
        missing,
        options={"dicom": {"position_tolerance_mm": 5.0, "gap_tolerance": 0.3}},
    )
    yield from _both_kinds(
        "one slice shifted in its plane",
        one_shifted,
        Refused("GeometryError", ("--position-tolerance", "slice|position")),
    )


def _copy(folder: Path, name: str, to: str) -> None:
    (folder / to).parent.mkdir(exist_ok=True)
    shutil.copy(folder / name, folder / to)


def _implicit_copy(folder: Path) -> None:
    ds = pydicom.dcmread(folder / "image_0004.dcm")
    save(ds, folder / "again.dcm", ImplicitVRLittleEndian)


def geometry_cases() -> Iterator[Case]:
    one = _only(5)
    yield from _both_kinds("single slice", lambda d: d[5:6], Right(one))
    yield from _both_kinds(
        "single slice without thickness",
        both(lambda d: d[5:6], setting(SliceThickness=None)),
        Refused("GeometryError", ("SliceThickness|thickness",)),
    )
    yield from _both_kinds("two slices", lambda d: d[:2], Right(_first(2)))
    for name, thickness in (("absent", None), ("half the spacing", 2.5), ("twice it", 10.0)):
        yield from _both_kinds(f"thickness {name}", setting(SliceThickness=thickness), Right())
    yield from _both_kinds(
        "wrong spacing between slices", setting(SpacingBetweenSlices="2.2"), Right()
    )
    yield Case(
        "no instance numbers", _series(both(shuffled, setting(InstanceNumber=None))), Right()
    )
    yield Case("equal instance numbers", _series(setting(InstanceNumber=1)), Right())
    placed = {
        "ImagePositionPatient": "ImagePositionPatient",
        "ImageOrientationPatient": "ImageOrientationPatient|--group",
        "PixelSpacing": "PixelSpacing|--group",
    }
    for keyword, words in placed.items():
        refused = Refused("(Geometry|ImageRead)Error", (words,))
        for where, which in (("all slices", None), ("one slice", 6), ("the last slice", 11)):
            yield Case(f"{keyword} missing in {where}", _lacking(keyword, which, False), refused)
        yield Case(f"{keyword} missing, enhanced", _lacking(keyword, None, True), refused)
        wrong = {
            "not a number": "nan\\1\\0\\0\\1\\0",
            "infinite": "1\\inf\\0\\0\\1\\0",
            "a decimal comma": "1,5\\0,5\\0\\0\\1\\0",
            "no text": "",
            "words": "one\\two\\three\\four\\five\\six",
            "too few": "1",
            "huge": "1e300\\1e300\\1e300\\1e300\\1e300\\1e300",
        }
        count = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
        for what, text in wrong.items():
            cut = "\\".join(text.split("\\")[: count[keyword]])
            yield Case(
                f"{keyword} is {what}",
                _lacking(keyword, 6, False, cut),
                Refused("(Geometry|ImageRead)Error", ("",)),
            )
    yield Case(
        "PixelSpacing only of the detector",
        _series(_detector_spacing, painted_first=True),
        RightOrRefused(),
    )
    for name, directions in {
        "not perpendicular": [1, 0, 0, 0.6, 0.8, 0],
        "not of length one": [2, 0, 0, 0, 1, 0],
        "zero": [0, 0, 0, 0, 0, 0],
        "one direction twice": [1, 0, 0, 1, 0, 0],
    }.items():
        yield from _both_kinds(
            f"orientation {name}",
            setting(ImageOrientationPatient=directions),
            Refused("(Geometry|ImageRead)Error", ("orientation|direction|perpendicular",)),
            painted_first=True,
        )
    for name, spacing in {"zero": [0, 8], "negative": [12.8, -8]}.items():
        yield from _both_kinds(
            f"pixel spacing {name}",
            setting(PixelSpacing=spacing),
            Refused("(Geometry|ImageRead)Error", ("spacing",)),
            painted_first=True,
        )
    yield Case("mosaic", _mosaic, Refused("ImageReadError", ("mosaic", "dcm2niix")))
    yield from _both_kinds(
        "rescale of each slice's own", varied_rescale, Right(tolerance_mm=0.01), scan=AXIAL
    )
    yield from _both_kinds(
        "rescale of each slice's own, CT", varied_rescale, Right(CT, tolerance_mm=0.01), scan=CT
    )


def _lacking(keyword: str, which: int | None, multi_frame: bool, text: str | None = None) -> Any:
    """Take an attribute away after painting, or put some text in its place."""

    def make(folder: Path, axis: int) -> None:
        painted = paint(slices(), axis)
        for ds in painted if which is None else [painted[which]]:
            if text is None:
                del ds[keyword]
            else:
                raw(ds, keyword, text)
        write(folder, painted, axis, multi_frame=multi_frame, syntax=ImplicitVRLittleEndian)

    return make


def _detector_spacing(datasets: Slices) -> Slices:
    for ds in datasets:
        ds.ImagerPixelSpacing = ds.PixelSpacing
        del ds.PixelSpacing
    return datasets


def _mosaic(folder: Path, axis: int) -> None:
    """A Siemens mosaic: all slices as tiles of one image."""
    datasets = slices(Scan(shape=(96, 60, 3), spacing_mm=(2.0, 2.0, 30.0)))
    for ds in datasets:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    write(folder, datasets, axis)


def enhanced_cases() -> Iterator[Case]:
    yield Case("enhanced in two files", _two_files, Right())
    yield Case("enhanced, one frame a file", _one_frame_files, Right())
    yield Case(
        "enhanced with a second stack",
        _series(lambda d: d + slices(PLANES["sagittal"])[:4], multi_frame=True),
        Refused("ImageReadError", ("--group",)),
    )
    damages: dict[str, Callable[[Dataset], None]] = {
        "more frames than pixels": lambda ds: setattr(ds, "NumberOfFrames", 13),
        "fewer frames than headers": lambda ds: setattr(ds, "NumberOfFrames", 11),
        "no frame count": lambda ds: ds.__delattr__("NumberOfFrames"),
        "frame count of zero": lambda ds: setattr(ds, "NumberOfFrames", 0),
        "no frame headers": lambda ds: ds.__delattr__("PerFrameFunctionalGroupsSequence"),
        "no shared headers": lambda ds: ds.__delattr__("SharedFunctionalGroupsSequence"),
        "a frame header too few": lambda ds: ds.PerFrameFunctionalGroupsSequence.pop(),
        "an empty frame header": lambda ds: ds.PerFrameFunctionalGroupsSequence[3].clear(),
        "a frame without position": lambda ds: ds.PerFrameFunctionalGroupsSequence[3].__delattr__(
            "PlanePositionSequence"
        ),
        "an empty position": lambda ds: ds.PerFrameFunctionalGroupsSequence[
            3
        ].PlanePositionSequence.clear(),
    }
    for name, damage in damages.items():
        yield Case(
            f"enhanced with {name}",
            lambda folder, axis, damage=damage: _damaged(folder, axis, damage),  # type: ignore[misc]
            Refused("(ImageRead|Geometry)Error", ("",)),
        )
    yield Case(
        "position in the top of an enhanced file",
        lambda folder, axis: _damaged(
            folder,
            axis,
            lambda ds: setattr(ds, "ImagePositionPatient", [1, 2, 3]),
        ),
        Right(),
    )


def _two_files(folder: Path, axis: int) -> None:
    painted = paint(shuffled(slices()), axis)
    for n, part in enumerate((painted[:5], painted[5:])):
        save(enhanced(part), folder / f"{n}.dcm")


def _one_frame_files(folder: Path, axis: int) -> None:
    for n, ds in enumerate(paint(shuffled(slices()), axis)):
        save(enhanced([ds]), folder / f"{n}.dcm")


def _damaged(folder: Path, axis: int, damage: Callable[[Dataset], None]) -> None:
    ds = enhanced(paint(slices(), axis))
    damage(ds)
    save(ds, folder / "a.dcm")


def pixel_cases() -> Iterator[Case]:
    for name, cut in (("half", 0.5), ("two bytes", -2), ("all", 0.0)):
        for which in (5, 11):
            yield Case(
                f"{name} of the pixels of slice {which} cut off",
                _after(
                    _series(),
                    lambda folder, cut=cut, which=which: _truncate(  # type: ignore[misc]
                        folder / f"image_{which:04d}.dcm", cut
                    ),
                ),
                Refused("ImageReadError", (f"image_{which:04d}",)),
            )
    yield Case(
        "enhanced with half of its pixels cut off",
        _after(_series(multi_frame=True), lambda folder: _truncate(folder / "image_0000.dcm", 0.5)),
        Refused("ImageReadError", ("image_0000",)),
    )
    yield Case(
        "one slice without pixels",
        _after(_series(), lambda folder: _without_pixels(folder / "image_0011.dcm")),
        Refused("ImageReadError", ("",)),
    )
    yield Case(
        "the last slice's header cut off",
        _after(_series(), lambda folder: _behead(folder / "image_0011.dcm", 600)),
        RightOrRefused(_first(11), logged="damaged|skipped|left out"),
    )
    yield Case(
        "the last slice overwritten with noise",
        _after(_series(), lambda folder: _behead(folder / "image_0011.dcm", 132, noise=True)),
        RightOrRefused(_first(11), logged="damaged|skipped|left out"),
    )
    small = Right(SMALL)
    signed = replace(SMALL, modality="CT")
    yield Case("12 bits of 16", _series(scan=SMALL), small)
    yield Case("12 bits of 16, signed", _series(scan=signed), Right(signed))
    yield Case(
        "12 bits of 16, sign bits not extended",
        _bits(signed, lambda stored: stored & 0x0FFF),
        Right(signed),
    )
    for name, scan in (("", SMALL), (", signed", signed)):
        yield Case(
            f"12 bits of 16{name}, an overlay above",
            _bits(scan, lambda stored: (stored & 0x0FFF) | 0xA000, _overlaid),
            Right(scan),
        )
        yield Case(
            f"12 bits of 16{name}, rubbish above",
            _bits(scan, lambda stored: (stored & 0x0FFF) | 0xA000),
            RightOrRefused(scan),
        )
        yield Case(
            f"12 bits at the top of 16{name}",
            _bits(scan, lambda stored: (stored & 0x0FFF) << 4, HighBit=15),
            RightOrRefused(scan),
        )
    byte = replace(SMALL, bits=8)
    yield Case("8 bits", _series(scan=byte), Right(byte, tolerance_mm=0.065))
    odd = replace(byte, shape=(7, 5, 3))
    yield from _both_kinds("8 bits, odd", lambda d: d, Right(odd, tolerance_mm=0.065), scan=odd)
    yield Case(
        "8 bits, big endian",
        _series(scan=byte, syntax=ExplicitVRBigEndian),
        Right(byte, tolerance_mm=0.065),
    )
    yield Case(
        "8 bits, big endian, in words", _byte_words, RightOrRefused(byte, tolerance_mm=0.065)
    )
    yield Case("32 bits", _wide, RightOrRefused())
    yield Case("float pixels", _float_pixels, RightOrRefused())
    yield Case(
        "MONOCHROME1",
        _bits(AXIAL, lambda s: s, PhotometricInterpretation="MONOCHROME1"),
        Right(logged="MONOCHROME1"),
    )
    yield Case("RGB", _rgb, Refused("ImageReadError", ("RGB|colou?r",)))
    yield Case(
        "palette colour",
        _bits(SMALL, lambda s: s, PhotometricInterpretation="PALETTE COLOR"),
        Refused("ImageReadError", ("palette|colou?r",)),
    )
    yield Case(
        "two samples a pixel",
        _bits(SMALL, lambda s: s, SamplesPerPixel=2),
        Refused("ImageReadError", ("",)),
    )
    yield Case(
        "secondary capture",
        _series(setting(SOPClassUID=SOP_CLASSES["secondary capture"])),
        Refused("ImageReadError", ("secondary capture",)),
    )
    yield Case(
        "PET",
        _series(setting(SOPClassUID=SOP_CLASSES["PET"], Modality="PT")),
        Refused("ImageReadError", ("MR|CT",)),
    )
    yield Case(
        "CT where MR is wanted",
        _series(scan=CT),
        Refused("ImageReadError", ("CT", "MR")),
        options={"modality": "MR"},
    )
    yield Case(
        "MR where CT is wanted",
        _series(),
        Refused("ImageReadError", ("CT", "MR")),
        options={"modality": "CT"},
    )
    yield Case("MR where MR is wanted", _series(), Right(), options={"modality": "MR"})
    yield Case(
        "CT among MR in one series",
        _series(lambda d: d[:6] + slices(CT)[6:]),
        Refused("ImageReadError", ("",)),
    )
    yield Case("signed and unsigned slices", _signs, RightOrRefused(CT))
    yield Case("slices of 12 and of 16 bits", _mixed_bits, RightOrRefused(SMALL))
    for keyword in (
        "BitsAllocated",
        "Rows",
        "Columns",
        "PixelRepresentation",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "BitsStored",
        "HighBit",
    ):
        yield Case(f"no {keyword}", _bits(AXIAL, lambda s: s, **{keyword: None}), RightOrRefused())
    for keyword, value in (
        ("BitsAllocated", 7),
        ("BitsAllocated", 12),
        ("BitsStored", 0),
        ("BitsStored", 99),
        ("Rows", 0),
        ("Columns", 65535),
        ("PixelRepresentation", 3),
    ):
        yield Case(
            f"{keyword} of {value}",
            _bits(AXIAL, lambda s: s, **{keyword: value}),
            Refused("(ImageRead|Geometry)Error", ("",)),
        )
    yield Case("slope of zero", _bits(AXIAL, lambda s: s, RescaleSlope=0), RightOrRefused())
    yield Case(
        "CT without rescale",
        _series(setting(RescaleSlope=None, RescaleIntercept=None), CT),
        Refused("ImageReadError", ("rescale",)),
    )
    yield Case(
        "intercept without slope",
        _bits(CT, lambda s: s, RescaleSlope=None),
        Refused("ImageReadError", ("rescale",)),
    )
    yield Case("more bytes than pixels", _series(_longer, painted_first=True), RightOrRefused())


def _truncate(path: Path, part: float) -> None:
    """Cut a file off within its pixels, which come last."""
    content = path.read_bytes()
    ds = pydicom.dcmread(path)
    size = len(ds.PixelData)
    kept = size - 2 if part < 0 else int(size * part)
    path.write_bytes(content[: len(content) - size + kept])


def _without_pixels(path: Path) -> None:
    ds = pydicom.dcmread(path)
    del ds.PixelData
    ds.save_as(path)


def _behead(path: Path, keep: int, noise: bool = False) -> None:
    content = path.read_bytes()
    tail = np.random.default_rng(4).bytes(len(content) - keep) if noise else b""
    path.write_bytes(content[:keep] + tail)


def _bits(
    scan: Scan,
    change: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    then: Trouble = lambda datasets: datasets,
    **values: Any,
) -> Callable[[Path, int], None]:
    """Change stored bits, then attributes, behind the painter's back."""

    def make(folder: Path, axis: int) -> None:
        painted = paint(slices(scan), axis)
        for ds in painted:
            stored = change(pixels(ds).astype(np.int64))
            set_pixels(ds, (stored & 0xFFFF).astype("<u2").tobytes())
        write(folder, then(setting(**values)(painted)), axis)

    return make


def _overlaid(datasets: Slices) -> Slices:
    """Say that bit 15 of the pixels is an overlay (retired, PS3.3-2004 C.9.2)."""
    for ds in datasets:
        ds.add_new(0x60000010, "US", ds.Rows)
        ds.add_new(0x60000011, "US", ds.Columns)
        ds.add_new(0x60000040, "CS", "G")
        ds.add_new(0x60000050, "SS", [1, 1])
        ds.add_new(0x60000100, "US", 16)
        ds.add_new(0x60000102, "US", 15)
    return datasets


def _byte_words(folder: Path, axis: int) -> None:
    """Bytes of pixels as 16-bit words, of which big-endian files swap the halves (PS3.5 A.3)."""
    for n, ds in enumerate(paint(slices(replace(SMALL, bits=8)), axis)):
        save(ds, folder / f"{n}.dcm", ExplicitVRBigEndian)
        content = (folder / f"{n}.dcm").read_bytes()
        at = content.index(b"\x7f\xe0\x00\x10OB")
        words = np.frombuffer(content[at + 12 :], "<u2").byteswap().tobytes()
        head = content[at : at + 12].replace(b"OB", b"OW")
        (folder / f"{n}.dcm").write_bytes(content[:at] + head + words)


def _wide(folder: Path, axis: int) -> None:
    datasets = slices()
    for ds in datasets:
        ds.BitsAllocated = ds.BitsStored = 32
        ds.HighBit = 31
    write(folder, datasets, axis)


def _float_pixels(folder: Path, axis: int) -> None:
    datasets = slices()
    for ds in datasets:
        ds.FloatPixelData = coordinates(ds, axis).astype("<f4").tobytes()
        ds.BitsAllocated = 32
        for keyword in ("BitsStored", "HighBit", "PixelRepresentation"):
            del ds[keyword]
        del ds.RescaleSlope, ds.RescaleIntercept
    for n, ds in enumerate(datasets):
        save(ds, folder / f"{n}.dcm")


def _rgb(folder: Path, axis: int) -> None:
    byte = replace(SMALL, bits=8)
    painted = paint(slices(byte), axis)
    for ds in painted:
        set_pixels(ds, np.repeat(pixels(ds).ravel(), 3).tobytes())
        ds.SamplesPerPixel = 3
        ds.PhotometricInterpretation = "RGB"
        ds.PlanarConfiguration = 0
    write(folder, painted, axis)


def _signs(folder: Path, axis: int) -> None:
    datasets = slices(CT)
    for ds in datasets[::2]:
        ds.PixelRepresentation = 0
        ds.RescaleIntercept = "-256"
    write(folder, datasets, axis)


def _mixed_bits(folder: Path, axis: int) -> None:
    datasets = slices(SMALL)
    for ds in datasets[::2]:
        ds.BitsStored = 16
        ds.HighBit = 15
    write(folder, datasets, axis)


def _longer(datasets: Slices) -> Slices:
    for ds in datasets:
        set_pixels(ds, ds.PixelData + bytes(100))
    return datasets


def syntax_cases() -> Iterator[Case]:
    for name, syntax in {
        "implicit": ImplicitVRLittleEndian,
        "big endian": ExplicitVRBigEndian,
        "deflated": DeflatedExplicitVRLittleEndian,
        "RLE": RLELossless,
    }.items():
        for scan in (AXIAL, CT):
            label = f"{name}, {scan.modality}"
            yield Case(f"{label}, classic", _series(scan=scan, syntax=syntax), Right(scan))
    for name, syntax in {
        "implicit": ImplicitVRLittleEndian,
        "big endian": ExplicitVRBigEndian,
        "deflated": DeflatedExplicitVRLittleEndian,
        "RLE": RLELossless,
    }.items():
        make = _series(multi_frame=True, syntax=syntax)
        if syntax != ExplicitVRBigEndian:
            yield Case(f"{name}, enhanced", make, Right())
    yield Case("JPEG 2000", _series(syntax=JPEG2000Lossless), Right())
    yield Case("JPEG 2000 in boxes", boxed_jpeg_2000, RightOrRefused())
    signed = RightOrRefused(CT)  # the code stream says unsigned, PixelRepresentation signed
    yield Case("JPEG 2000 of signed pixels", _series(scan=CT, syntax=JPEG2000Lossless), signed)
    for name, program, options in (
        ("JPEG lossless", "dcmcjpeg", ("+e1",)),
        ("JPEG lossless, any predictor", "dcmcjpeg", ("+el",)),
        ("JPEG-LS", "dcmcjpls", ()),
    ):
        for scan in (AXIAL, CT):
            yield Case(
                f"{name} by {program}, {scan.modality}",
                _after(
                    _series(scan=scan),
                    lambda folder, command=(program, *options): _compress(  # type: ignore[misc]
                        folder, command
                    ),
                ),
                Right(scan),
                program=program,
            )
    for name, syntax in {
        "HTJ2K": HTJ2KLossless,
        "JPEG lossless": JPEGLosslessSV1,
        "JPEG-LS": JPEGLSLossless,
        "JPEG 2000": JPEG2000Lossless,
        "RLE": RLELossless,
        "JPEG baseline": "1.2.840.10008.1.2.4.50",
        "MPEG 4": "1.2.840.10008.1.2.4.102",
        "an unknown syntax": "1.2.840.10008.1.2.4.9999",
        "a private syntax": "1.2.840.113619.5.2",
    }.items():
        yield Case(
            f"{name} that is none", falsely_compressed(syntax), Refused("ImageReadError", ("",))
        )
    yield Case(
        "two transfer syntaxes in one series",
        _mixed_syntaxes,
        Right(),
    )
    yield Case("no transfer syntax", _after(_series(), _forget_syntaxes), RightOrRefused())


def boxed_jpeg_2000(folder: Path, axis: int) -> None:
    for n, ds in enumerate(paint(slices(), axis)):
        ds.add_new("PixelData", "OB", encapsulate([jpeg_2000(ds, boxed=True)]))
        ds["PixelData"].is_undefined_length = True
        save_as_said(ds, folder / f"{n}.dcm", JPEG2000Lossless, implicit=False)


def _compress(folder: Path, command: Sequence[str]) -> None:
    for path in sorted(folder.glob("*.dcm")):
        packed = path.with_suffix(".packed")
        subprocess.run([*command, str(path), str(packed)], check=True, capture_output=True)
        packed.replace(path)


def falsely_compressed(syntax: str) -> Callable[[Path, int], None]:
    """Plain pixels in fragments that a header calls compressed."""

    def make(folder: Path, axis: int) -> None:
        for n, ds in enumerate(paint(slices(), axis)):
            ds.add_new("PixelData", "OB", encapsulate([ds.PixelData]))
            ds["PixelData"].is_undefined_length = True
            save_as_said(ds, folder / f"{n}.dcm", syntax, implicit=False)

    return make


def _mixed_syntaxes(folder: Path, axis: int) -> None:
    kinds = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless)
    for n, ds in enumerate(paint(slices(), axis)):
        save(ds, folder / f"{n}.dcm", kinds[n % 4])


def _forget_syntaxes(folder: Path) -> None:
    """Overwrite the element's tag (0002,0010) with an unknown one of the same group."""
    for path in folder.glob("*.dcm"):
        content = path.read_bytes()
        path.write_bytes(content.replace(b"\x02\x00\x10\x00UI", b"\x02\x00\x11\x00UI", 1))


def header_cases() -> Iterator[Case]:
    for terms, name in CHARACTER_SETS.items():
        yield Case(
            f"character set {terms.replace(chr(92), '+')}", _series(named(terms, name)), Right()
        )
    for terms in ("ISO_IR 999", "latin1", "ISO 2022 IR 87\\nonsense"):
        yield Case(f"character set {terms.replace(chr(92), '+')}", _set_charset(terms), Right())
    yield Case("name in bytes of no character set", _garbled_name, Right())
    yield from _both_kinds("UIDs of 64 characters", long_uids, Right())
    yield Case("private tags", _series(private_tags), Right())
    yield Case(
        "private tags, implicit", _series(private_tags, syntax=ImplicitVRLittleEndian), Right()
    )
    yield Case(
        "UIDs that are none",
        _series_raw({"SOPInstanceUID": "1.02.x y", "StudyInstanceUID": ""}),
        RightOrRefused(),
    )
    yield Case(
        "dates and ages that are none",
        _series_raw({"StudyDate": "2019-08-23", "PatientAge": "old", "StudyTime": "noon"}),
        Right(),
    )
    yield Case(
        "counts that are none",
        _series_raw({"InstanceNumber": "one", "SeriesNumber": "3.5", "EchoTime": "8 0"}),
        RightOrRefused(),
    )
    yield Case(
        "numbers longer than 16 characters",
        _series(_long_numbers, painted_first=True, syntax=ImplicitVRLittleEndian),
        Right(),
    )
    yield Case("an icon with pixels of its own", _series(with_icons), Right())
    yield Case("sequences of undefined length", _series(open_sequences), Right())
    yield Case("padding after the pixels", _series(_trailing_padding), Right())
    yield Case("pixels of unknown VR", _series(_unknown_vr, painted_first=True), RightOrRefused())
    yield Case("one frame said", _series(setting(NumberOfFrames=1)), Right())
    yield Case(
        "classic images of several frames", _old_multi_frame, Refused("ImageReadError", ("frames",))
    )
    for name, other in {"implicit": b"\0\0\0", "big endian": b".2\0"}.items():
        yield Case(
            f"explicit files that say {name}",
            _after(_series(), lambda folder, other=other: _resay(folder, other)),  # type: ignore[misc]
            RightOrRefused(),
        )
    yield Case("no study UID", _series(setting(StudyInstanceUID=None)), RightOrRefused())
    yield Case("no series UID", _series(setting(SeriesInstanceUID=None)), RightOrRefused())
    yield Case("no frame of reference", _series(setting(FrameOfReferenceUID=None)), Right())
    yield Case(
        "no patient", _series(setting(PatientName=None, PatientID=None, PatientSex=None)), Right()
    )
    yield Case("no image type", _series(setting(ImageType=None)), RightOrRefused())
    yield Case("no modality", _series(setting(Modality=None)), RightOrRefused())
    yield Case("modality against the class", _series(setting(Modality="CT")), RightOrRefused())


def with_icons(datasets: Slices) -> Slices:
    """A thumbnail before the image, with rows, columns and pixels (PS3.3 C.7.6.1.1.6)."""
    for ds in datasets:
        icon = Dataset()
        icon.SamplesPerPixel = 1
        icon.PhotometricInterpretation = "MONOCHROME2"
        icon.Rows = icon.Columns = 4
        icon.BitsAllocated = icon.BitsStored = 8
        icon.HighBit = 7
        icon.PixelRepresentation = 0
        icon.add_new("PixelData", "OB", bytes(range(16)))
        ds.IconImageSequence = DicomSequence([icon])
    return datasets


def open_sequences(datasets: Slices) -> Slices:
    for ds in datasets:
        inner, item = Dataset(), Dataset()
        inner.CodeValue = "110514"
        item.ReferencedSOPInstanceUID = uid("referenced")
        item.PurposeOfReferenceCodeSequence = DicomSequence([inner])
        ds.ReferencedImageSequence = DicomSequence([item, deepcopy(item)])
        for sequence in (ds["ReferencedImageSequence"], item["PurposeOfReferenceCodeSequence"]):
            sequence.is_undefined_length = True
    return datasets


def _trailing_padding(datasets: Slices) -> Slices:
    for ds in datasets:
        ds.add_new(0xFFFCFFFC, "OB", bytes(126))
    return datasets


def _unknown_vr(datasets: Slices) -> Slices:
    for ds in datasets:
        ds.add_new("PixelData", "UN", ds.PixelData)
    return datasets


def _old_multi_frame(folder: Path, axis: int) -> None:
    painted = paint(slices(), axis)
    whole = painted[0]
    set_pixels(whole, b"".join(ds.PixelData for ds in painted))
    whole.NumberOfFrames = len(painted)
    save(whole, folder / "a.dcm")


def _resay(folder: Path, end: bytes) -> None:
    """Let explicit little-endian files claim another transfer syntax in group 2."""
    said = b"1.2.840.10008.1.2.1\0"
    for path in folder.glob("*.dcm"):
        content = path.read_bytes()
        path.write_bytes(content.replace(said, said[:-3] + end, 1))


def _set_charset(terms: str) -> Callable[[Path, int], None]:
    return _series_raw({"SpecificCharacterSet": terms})


def _series_raw(texts: dict[str, str]) -> Callable[[Path, int], None]:
    def make(folder: Path, axis: int) -> None:
        painted = paint(slices(), axis)
        for ds in painted:
            for keyword, text in texts.items():
                raw(ds, keyword, text)
        for n, ds in enumerate(painted):
            save_as_said(ds, folder / f"{n}.dcm", ImplicitVRLittleEndian, implicit=True)

    return make


def _garbled_name(folder: Path, axis: int) -> None:
    """A name in bytes that UTF-8, which the header promises, does not have."""
    trouble = setting(SpecificCharacterSet="ISO_IR 192", PatientName="Quisenberry^ZZZZ")
    write(folder, trouble(slices()), axis)
    for path in folder.glob("*.dcm"):
        path.write_bytes(path.read_bytes().replace(b"^ZZZZ", b"^\xff\xfe\x80\xc3"))


def _long_numbers(datasets: Slices) -> Slices:
    for ds in datasets:
        text = "\\".join(f"{float(v):.20f}" for v in ds.ImagePositionPatient)
        raw(ds, "ImagePositionPatient", text)
    return datasets


CASES: tuple[Case, ...] = (
    *orientation_cases(),
    *folder_cases(),
    *selection_cases(),
    *time_cases(),
    *position_cases(),
    *geometry_cases(),
    *enhanced_cases(),
    *pixel_cases(),
    *syntax_cases(),
    *header_cases(),
)

if len({case.name for case in CASES}) != len(CASES):
    names = sorted(case.name for case in CASES)
    raise RuntimeError(f"two cases of one name: {[a for a, b in pairwise(names) if a == b]}")

if __name__ == "__main__":
    for case in CASES:
        if not case.program or shutil.which(case.program):
            case.make(Path(sys.argv[1]) / case.name, 2)
