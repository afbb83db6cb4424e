"""What a volume that came from DICOM keeps of its series, for writing a derived one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True)
class SourceImage:
    """One slice of the series.

    Attributes:
        sop_class_uid: Kind of object.
        sop_instance_uid: The object; one per slice, or one for all frames of a multi-frame file.
        frame: Number of the frame in a multi-frame file, from 1, else None.
        position_mm: Centre of the slice's first pixel in LPS millimetres (ImagePositionPatient).
    """

    sop_class_uid: str
    sop_instance_uid: str
    frame: int | None
    position_mm: tuple[float, float, float]


@dataclass(frozen=True, eq=False, repr=False)
class DicomSource:
    """A DICOM series that a volume was read from; holds a patient's data, so is never printed.

    Attributes:
        header: The header of the series' first slice as it was read, without pixels.
        images: Every slice of the volume.
        patient: Hash of the patient's id and name, to tell patients apart.
        frame_of_reference: FrameOfReferenceUID, empty if not stated; positions of two series can
            be compared where it is the same.
        others: The series of further contrasts that the volume was made from.
    """

    header: Dataset
    images: tuple[SourceImage, ...]
    patient: str = ""
    frame_of_reference: str = ""
    others: tuple[DicomSource, ...] = ()
