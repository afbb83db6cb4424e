"""The phantom MR as a scanner would send it: a DICOM series with the header of a real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from medp2p.files import atomic_folder
from medp2p.phantom.dicom_export import SCANNER, phantom_uid, sequence_header, series_images
from medp2p.volume import Volume

IDENTITY = ("medp2p sample",)
"""What the UIDs follow from."""
TILT_DEGREES = (6.0, -3.0, 8.0)
"""A head is never straight in the coil, and slices follow the head."""

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


def write_mr_series(mr: Volume, folder: Path) -> None:
    """Write an MR phantom as a series of classic images, tilted, the last slice first.

    Args:
        mr: Voxels in LPS order, whole numbers from 0.
        folder: Where; replaced if it is such a series.
    """
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", TILT_DEGREES, degrees=True).as_matrix()
    ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    tilted = mr.with_array(mr.array, affine=ras @ turn @ ras @ mr.affine)
    header = {**SCANNER, **PATIENT, **STUDY, **SERIES, **sequence_header("t1", 1.5), **_uids()}
    images = series_images(tilted, header, IDENTITY)
    with atomic_folder(folder, marker=images[0][0], overwrite=True) as temporary:
        for name, image in images:
            private = image.private_block(0x0019, "MEDP2P PHANTOM", create=True)
            private.add_new(0x10, "LO", "gradient mode: normal")
            private.add_new(0x11, "DS", "42.5")
            image.save_as(temporary / name, enforce_file_format=True)


def _uids() -> dict[str, object]:
    return {
        "StudyInstanceUID": phantom_uid(*IDENTITY, "study"),
        "SeriesInstanceUID": phantom_uid(*IDENTITY, "series"),
        "FrameOfReferenceUID": phantom_uid(*IDENTITY, "frame of reference"),
    }
