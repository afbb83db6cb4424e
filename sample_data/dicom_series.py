"""The phantom MR as a scanner would send it: a DICOM series with the header of a real one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import format_number_as_ds
from scipy.spatial.transform import Rotation

from medp2p.files import atomic_folder
from medp2p.volume import Volume

TILT_DEGREES = (6.0, -3.0, 8.0)
"""A head is never straight in the coil, and slices follow the head."""

SCANNER = {
    "Manufacturer": "medp2p",
    "ManufacturerModelName": "Digital phantom",
    "DeviceSerialNumber": "0000",
    "SoftwareVersions": "1",
    "InstitutionName": "Phantom Hospital",
    "StationName": "PHANTOM1",
    "MagneticFieldStrength": "1.5",
    "ImagingFrequency": "63.87",
    "ImagedNucleus": "1H",
    "ReceiveCoilName": "HEAD",
    "TransmitCoilName": "BODY",
}
PATIENT = {
    "PatientName": "Phantom^Head",
    "PatientID": "PHANTOM-0005",
    "PatientBirthDate": "19700101",
    "PatientSex": "O",
    "PatientAge": "050Y",
    "PatientWeight": "70",
    "PatientPosition": "HFS",
}
STUDY = {
    "StudyDate": "20200102",
    "StudyTime": "093000",
    "StudyID": "1",
    "AccessionNumber": "A0001",
    "ReferringPhysicianName": "Doe^Referring",
    "StudyDescription": "Head",
}
SERIES = {
    "Modality": "MR",
    "SeriesDate": "20200102",
    "SeriesTime": "093500",
    "AcquisitionDate": "20200102",
    "AcquisitionTime": "093512.5",
    "ContentDate": "20200102",
    "ContentTime": "093730",
    "SeriesNumber": "3",
    "SeriesDescription": "T1 SE axial",
    "ProtocolName": "T1 SE axial",
    "BodyPartExamined": "HEAD",
    "PositionReferenceIndicator": "",
    "OperatorsName": "Doe^Operator",
}
SEQUENCE = {
    "ScanningSequence": "SE",
    "SequenceVariant": "NONE",
    "ScanOptions": "",
    "MRAcquisitionType": "2D",
    "SequenceName": "*se2d1",
    "RepetitionTime": "500",
    "EchoTime": "12",
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
}


def write_mr_series(mr: Volume, folder: Path) -> None:
    """Write an MR phantom as a series of classic images, tilted, the last slice first.

    Args:
        mr: Voxels in LPS order, whole numbers from 0.
        folder: Where; replaced if it is such a series.
    """
    names = [f"IM{k:04d}" for k in range(1, mr.shape[2] + 1)]
    with atomic_folder(folder, marker=names[0], overwrite=True) as temporary:
        for k, name in enumerate(reversed(names)):
            _image(mr, k, number=len(names) - k).save_as(temporary / name, enforce_file_format=True)


def _image(mr: Volume, k: int, number: int) -> Dataset:
    image = Dataset()
    for values in (PATIENT, STUDY, SERIES, SCANNER, SEQUENCE):
        for keyword, value in values.items():
            setattr(image, keyword, value)
    image.SpecificCharacterSet = "ISO_IR 100"
    image.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    image.SOPClassUID = MRImageStorage
    image.SOPInstanceUID = _uid("image", number)
    image.StudyInstanceUID = _uid("study")
    image.SeriesInstanceUID = _uid("series")
    image.FrameOfReferenceUID = _uid("frame of reference")
    image.InstanceNumber = number
    image.AcquisitionNumber = 1
    _place(image, mr, k)
    _pixels(image, mr.array[:, :, k])
    private = image.private_block(0x0019, "MEDP2P PHANTOM", create=True)
    private.add_new(0x10, "LO", "gradient mode: normal")
    private.add_new(0x11, "DS", "42.5")
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return image


def _place(image: Dataset, mr: Volume, k: int) -> None:
    """Position, orientation and spacing: the phantom's own, turned by `TILT_DEGREES` (LPS)."""
    turn = Rotation.from_euler("xyz", TILT_DEGREES, degrees=True).as_matrix()
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ mr.affine
    spacing = mr.spacing_mm
    row, column = (turn @ affine[:3, axis] / spacing[axis] for axis in (0, 1))
    position = turn @ (affine[:3, :3] @ (0, 0, k) + affine[:3, 3])
    image.ImagePositionPatient = _decimals(position)
    image.ImageOrientationPatient = _decimals(np.concatenate([row, column]))
    image.PixelSpacing = _decimals(spacing[[1, 0]])
    image.SliceThickness = format_number_as_ds(round(0.9 * spacing[2], 3))
    image.SpacingBetweenSlices = format_number_as_ds(float(spacing[2]))
    image.SliceLocation = format_number_as_ds(float(position @ np.cross(row, column)))


def _pixels(image: Dataset, values: NDArray[np.integer]) -> None:
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Columns, image.Rows = values.shape
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelRepresentation = 0
    image.SmallestImagePixelValue = int(values.min())
    image.LargestImagePixelValue = int(values.max())
    image.WindowCenter, image.WindowWidth = "300", "600"
    image.PixelData = np.ascontiguousarray(values.T.astype("<u2")).tobytes()


def _decimals(values: NDArray[np.floating]) -> list[str]:
    return [format_number_as_ds(float(value)) for value in values]


def _uid(*names: object) -> UID:
    digest = hashlib.sha256(repr(("medp2p sample", *names)).encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:16], 'big')}")
