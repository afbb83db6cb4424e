"""Phantom scans as scanners send them: DICOM series with the headers of real ones.

Classic MR and CT images (PS3.3 A.4 and A.3), one file a slice. All persons are invented. The same
patient gives the same bytes.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from medp2p.dicom_numbers import decimal_string
from medp2p.files import atomic_folder
from medp2p.phantom.hospital import PatientScans, random_patient
from medp2p.phantom.subject import Anatomy, case_seed
from medp2p.phantom.tissues import SEQUENCES, Contrast
from medp2p.volume import Volume

HOUNSFIELD_OFFSET = 1024
"""Added to CT numbers for storing, so that none is negative."""

SCANNER: Mapping[str, object] = {
    "Manufacturer": "medp2p",
    "ManufacturerModelName": "Digital phantom",
    "DeviceSerialNumber": "0000",
    "SoftwareVersions": "1",
    "InstitutionName": "Phantom Hospital",
    "StationName": "PHANTOM1",
}
SPIN_ECHO: Mapping[str, object] = {
    "ImagedNucleus": "1H",
    "ReceiveCoilName": "HEAD",
    "TransmitCoilName": "BODY",
    "ScanningSequence": "SE",
    "SequenceVariant": "NONE",
    "ScanOptions": "",
    "MRAcquisitionType": "2D",
    "SequenceName": "*se2d1",
    "EchoNumbers": "1",
    "EchoTrainLength": "1",
    "NumberOfAverages": "1",
    "FlipAngle": "90",
    "PercentSampling": "100",
    "PercentPhaseFieldOfView": "100",
    "PixelBandwidth": "130",
    "InPlanePhaseEncodingDirection": "ROW",
    "VariableFlipAngleFlag": "N",
    "AngioFlag": "N",
    "SAR": "0.5",
    "WindowCenter": "300",
    "WindowWidth": "600",
}
CT_SCAN: Mapping[str, object] = {
    "KVP": "120",
    "XRayTubeCurrent": "250",
    "ExposureTime": "500",
    "ConvolutionKernel": "STANDARD",
    "GantryDetectorTilt": "0",
    "RotationDirection": "CW",
    "ScanOptions": "AXIAL MODE",
    "WindowCenter": "40",
    "WindowWidth": "400",
}
_BODY_PART: Mapping[Anatomy, str] = {"head": "HEAD", "pelvis": "PELVIS"}
_FIRST_DAY = datetime.date(2020, 1, 2)

Layout = Literal["folders", "flat"]


@dataclass(frozen=True)
class Study:
    """One visit of one patient to one scanner.

    Attributes:
        patient: Number of the patient; name, id and date of birth follow from it.
        day: Days since the first of January 2020.
        anatomy: What part of the body is scanned.
        name: Tells the studies of a day apart; the UIDs follow from patient, day and name.
    """

    patient: int
    day: int
    anatomy: Anatomy
    name: str

    def uid(self, *names: object) -> UID:
        """The UID of one of the study's things."""
        return phantom_uid("medp2p study", self.patient, self.day, self.name, *names)

    def header(self) -> dict[str, object]:
        """What all images of the study say about patient and study."""
        date = (_FIRST_DAY + datetime.timedelta(days=self.day)).strftime("%Y%m%d")
        part = _BODY_PART[self.anatomy]
        return {
            **SCANNER,
            "PatientName": f"Phantom^{self.patient:03d}",
            "PatientID": f"PHANTOM-{self.patient:04d}",
            "PatientBirthDate": f"{1940 + self.patient % 60}0101",
            "PatientSex": "O",
            "PatientWeight": "70",
            "PatientPosition": "HFS",
            "StudyDate": date,
            "StudyTime": "093000",
            "StudyID": str(self.day + 1),
            "AccessionNumber": f"A{self.patient:04d}{self.day:03d}",
            "ReferringPhysicianName": "Doe^Referring",
            "StudyDescription": f"{self.name} {part.capitalize()}",
            "StudyInstanceUID": self.uid("study"),
            "FrameOfReferenceUID": self.uid("frame of reference"),
            "SeriesDate": date,
            "SeriesTime": "093500",
            "AcquisitionDate": date,
            "AcquisitionTime": "093512.5",
            "ContentDate": date,
            "ContentTime": "093730",
            "PositionReferenceIndicator": "",
            "OperatorsName": "Doe^Operator",
            "BodyPartExamined": part,
        }


@dataclass(frozen=True, eq=False)
class Series:
    """A series to be written.

    Attributes:
        folder: Where its images go, below the patient's folder.
        images: One volume; for a localizer several of one slice.
        header: Everything but pixels, positions and the numbers of images.
        localizer: Whether it is a scout of crossing slices.
    """

    folder: str
    images: tuple[Volume, ...]
    header: Mapping[str, object]
    localizer: bool = False


def export_random_patient(
    folder: Path,
    series_seed: int,
    number: int,
    *,
    anatomy: Anatomy = "head",
    contrasts: tuple[Contrast, ...] = ("t1",),
    pixels: int = 128,
    turned: bool = True,
    overwrite: bool = False,
) -> Path:
    """Make one patient of a series and write MR and CT study below ``folder``.

    Args:
        folder: Of all patients; this one gets ``patient_001`` and so on.
        series_seed: Decides all patients.
        number: Which of them, from 1.
        anatomy: What part of the body.
        contrasts: MR series beside the localizer.
        pixels: Of the MR across the field of view.
        turned: Whether some patients lie far off, see `random_plan`.
        overwrite: Whether an existing patient may be replaced.

    Returns:
        The patient's folder.
    """
    scans = random_patient(
        case_seed(series_seed, number),
        anatomy=anatomy,
        contrasts=contrasts,
        pixels=pixels,
        turned=turned,
    )
    place = folder / f"patient_{number:03d}"
    write_patient([*mr_series(scans, number), *ct_series(scans, number)], place, overwrite)
    return place


def mr_series(scans: PatientScans, patient: int, *, localizer: bool = True) -> list[Series]:
    """The MR study of a patient: a localizer and a series per contrast."""
    plan = scans.plan
    study = Study(patient, _day(plan.seed, 40), plan.anatomy, "MR")
    series = []
    if localizer:
        first = next(iter(scans.mr.values()))
        header = _mr_header(study, "t1", plan.field_strength_t, 1, "localizer")
        series.append(Series("mr/1_localizer", _scout(first), header, localizer=True))
    for number, (contrast, volume) in enumerate(scans.mr.items(), start=2):
        name = f"{contrast.upper()} SE axial"
        header = _mr_header(study, contrast, plan.field_strength_t, number, name)
        series.append(Series(f"mr/{number}_{contrast}", (volume,), header))
    return series


def ct_series(scans: PatientScans, patient: int) -> list[Series]:
    """The CT study of a patient, one to twenty days after the MR: a single series."""
    plan = scans.plan
    day = _day(plan.seed, 40) + 1 + _day(plan.seed + 1, 20)
    study = Study(patient, day, plan.anatomy, "CT")
    header = {
        **study.header(),
        **CT_SCAN,
        "Modality": "CT",
        "SeriesNumber": "2",
        "SeriesDescription": "Axial standard",
        "ProtocolName": "Routine",
        "SeriesInstanceUID": study.uid("series", 2),
    }
    return [Series("ct/2_axial", (scans.ct,), header)]


def write_patient(
    series: Sequence[Series], folder: Path, overwrite: bool = False, layout: Layout = "folders"
) -> None:
    """Write a patient's series into one folder, whole or not at all.

    Args:
        series: What to write.
        folder: The patient's folder.
        overwrite: Whether it may be replaced, if it is one of these.
        layout: A folder per study and series, or all images side by side, in no order.

    Raises:
        OutputError: If the folder exists already or cannot be written.
    """
    images = {}
    for one in series:
        for name, image in _images_of(one):
            flat = f"IM{image.SOPInstanceUID[-9:]}"
            images[flat if layout == "flat" else f"{one.folder}/{name}"] = image
    with atomic_folder(folder, marker=next(iter(images)), overwrite=overwrite) as temporary:
        for place, image in images.items():
            (temporary / place).parent.mkdir(parents=True, exist_ok=True)
            image.save_as(temporary / place, enforce_file_format=True)


def series_images(
    volume: Volume, header: Mapping[str, object], identity: Sequence[object]
) -> list[tuple[str, Dataset]]:
    """Make the images of a series, the last slice first.

    Args:
        volume: MR of whole numbers from 0 to 4095, or CT in HU from -1024 to 3071; the voxels are
            stored along the volume's own axes.
        header: Everything but pixels, position and the image's own numbers.
        identity: What the UIDs of the images follow from.

    Returns:
        File name and image of every slice.
    """
    count = volume.shape[2]
    result = []
    for k in range(count - 1, -1, -1):
        number = count - k
        image = _image(volume, k, header, number)
        image.SOPInstanceUID = phantom_uid(*identity, "image", number)
        result.append((f"IM{number:04d}", image))
    return result


def phantom_uid(*names: object) -> UID:
    """A UID that follows from names, below the root 2.25 (PS3.5 B.2)."""
    digest = hashlib.sha256(repr(names).encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:16], 'big')}")


def sequence_header(contrast: Contrast, field_strength_t: float) -> dict[str, object]:
    """What an MR header says about the phantom's spin echo."""
    timing = SEQUENCES[contrast, field_strength_t]
    header: dict[str, object] = {
        **SPIN_ECHO,
        "MagneticFieldStrength": f"{field_strength_t:g}",
        "ImagingFrequency": f"{42.577 * field_strength_t:.2f}",
        "RepetitionTime": f"{timing.repetition_ms:g}",
        "EchoTime": f"{timing.echo_ms:g}",
    }
    if timing.inversion_ms is not None:
        header["ScanningSequence"] = ["SE", "IR"]
        header["InversionTime"] = f"{timing.inversion_ms:g}"
    return header


def _images_of(series: Series) -> list[tuple[str, Dataset]]:
    uid = series.header["SeriesInstanceUID"]
    if not series.localizer:
        return series_images(series.images[0], series.header, (str(uid),))
    result = []
    for number, volume in enumerate(series.images, start=1):
        ((_, image),) = series_images(volume, series.header, (str(uid), number))
        image.InstanceNumber = number
        image.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        result.append((f"IM{number:04d}", image))
    return result


def _mr_header(
    study: Study, contrast: Contrast, field: float, number: int, name: str
) -> dict[str, object]:
    return {
        **study.header(),
        **sequence_header(contrast, field),
        "Modality": "MR",
        "SeriesNumber": str(number),
        "SeriesDescription": name,
        "ProtocolName": name,
        "SeriesInstanceUID": study.uid("series", number),
    }


def _scout(mr: Volume) -> tuple[Volume, ...]:
    """The middle slice across each axis of an MR."""
    slices = []
    for axis in range(3):
        order = [*(other for other in range(3) if other != axis), axis]
        middle = mr.shape[axis] // 2
        affine = mr.affine.copy()
        affine[:3, 3] += affine[:3, axis] * middle
        affine[:3, :3] = affine[:3, order]
        one = np.take(mr.array, [middle], axis).transpose(order)
        slices.append(replace(mr, array=one, affine=affine))
    return tuple(slices)


def _day(seed: int, days: int) -> int:
    return int(np.random.default_rng([seed, 21]).integers(days))


def _image(volume: Volume, k: int, header: Mapping[str, object], number: int) -> Dataset:
    image = Dataset()
    for keyword, value in header.items():
        setattr(image, keyword, value)
    is_ct = header["Modality"] == "CT"
    image.SpecificCharacterSet = "ISO_IR 100"
    image.ImageType = ["ORIGINAL", "PRIMARY", *(["AXIAL"] if is_ct else ["M", "ND"])]
    image.SOPClassUID = CTImageStorage if is_ct else MRImageStorage
    image.InstanceNumber = number
    image.AcquisitionNumber = 1
    _place(image, volume, k)
    values: NDArray[Any] = volume.array[:, :, k].astype(np.int32)
    if is_ct:
        image.RescaleIntercept, image.RescaleSlope = str(-HOUNSFIELD_OFFSET), "1"
        image.RescaleType = "HU"
        values = values + HOUNSFIELD_OFFSET
    _set_pixels(image, values.clip(0, 4095))
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return image


def _place(image: Dataset, volume: Volume, k: int) -> None:
    """Position, orientation and spacing, in the standard's LPS (PS3.3 C.7.6.2)."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    spacing = volume.spacing_mm
    row, column = (affine[:3, axis] / spacing[axis] for axis in (0, 1))
    position = affine[:3, :3] @ (0, 0, k) + affine[:3, 3]
    image.ImagePositionPatient = _decimals(position)
    image.ImageOrientationPatient = _decimals(np.concatenate([row, column]))
    image.PixelSpacing = _decimals(spacing[[1, 0]].round(9))
    image.SliceThickness = decimal_string(round(0.9 * spacing[2], 3))
    if image.Modality == "MR":
        image.SpacingBetweenSlices = decimal_string(spacing[2])
    image.SliceLocation = decimal_string(float(position @ np.cross(row, column)))


def _set_pixels(image: Dataset, values: NDArray[np.integer]) -> None:
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Columns, image.Rows = values.shape
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelRepresentation = 0
    image.SmallestImagePixelValue = int(values.min())
    image.LargestImagePixelValue = int(values.max())
    image.PixelData = np.ascontiguousarray(values.T.astype("<u2")).tobytes()


def _decimals(values: NDArray[np.floating]) -> list[str]:
    return [decimal_string(value) for value in values]
