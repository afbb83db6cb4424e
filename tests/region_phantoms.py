"""Structure sets and segmentations of shapes that are known exactly, drawn on DICOM phantoms."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dicom_phantoms as phantoms
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

from medp2p.volume import Volume

Points = NDArray[np.float64]
Contour = tuple[str, Points]

SCAN = replace(
    phantoms.CT, shape=(56, 44, 20), spacing_mm=(2.0, 2.5, 3.0), centre_mm=(11.3, -7.1, 20.4)
)
"""A CT of few voxels that are no cubes; more columns than rows."""

CENTRE_MM = np.array([14.2, -3.3, 17.9])
"""LPS, off any voxel's centre and off the middle of the scan."""
RADIUS_MM = 21.7


def circle(
    scan: phantoms.Scan, centre: Points, radius: float, height_mm: float, count: int = 200
) -> Points:
    """A circle (count, 3) in LPS mm in the plane ``height_mm`` above the first slice.

    Its middle is the point of the plane nearest to ``centre``.
    """
    first = scan.lps_affine[:3, 3]
    away = height_mm - (centre - first) @ scan.normal
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)[:, None]
    around = np.cos(angles) * np.array(scan.row) + np.sin(angles) * np.array(scan.column)
    return centre + away * scan.normal + radius * around


def sphere(
    scan: phantoms.Scan,
    centre: Points = CENTRE_MM,
    radius: float = RADIUS_MM,
    heights_mm: Iterable[float] | None = None,
    kind: str = "CLOSED_PLANAR",
) -> list[Contour]:
    """Contours of a sphere on the scan's slices, or at other heights above the first slice."""
    if heights_mm is None:
        heights_mm = [k * scan.spacing_mm[2] for k in range(scan.shape[2])]
    found = []
    for height in heights_mm:
        away = height - (centre - scan.lps_affine[:3, 3]) @ scan.normal
        if abs(away) < radius:
            at_height = float(np.sqrt(radius**2 - away**2))
            found.append((kind, circle(scan, centre, at_height, height)))
    return found


def structure_set(scan: phantoms.Scan, regions: Mapping[str, Sequence[Contour]]) -> Dataset:
    """An RTSTRUCT of the study that `dicom_phantoms.slices` makes."""
    ds = Dataset()
    for keyword, value in phantoms.PATIENT.items():
        setattr(ds, keyword, value)
    ds.SOPClassUID = RTStructureSetStorage
    ds.SOPInstanceUID = phantoms.uid("structures", "instance")
    ds.StudyInstanceUID = phantoms.uid("study")
    ds.SeriesInstanceUID = phantoms.uid("structures", "series")
    ds.Modality = "RTSTRUCT"
    ds.Manufacturer = "Phantom"
    ds.StructureSetLabel = "shapes"
    ds.StructureSetDate, ds.StructureSetTime = "20190823", "101733"
    ds.SeriesNumber, ds.InstanceNumber = 7, 1
    images = [_reference_to(image) for image in phantoms.slices(scan)]
    series = Dataset()
    series.SeriesInstanceUID = phantoms.uid("first", "series")
    series.ContourImageSequence = images
    study = Dataset()
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = ds.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = phantoms.uid("frame of reference")
    frame.RTReferencedStudySequence = [study]
    ds.ReferencedFrameOfReferenceSequence = [frame]
    ds.StructureSetROISequence = []
    ds.ROIContourSequence = []
    ds.RTROIObservationsSequence = []
    for number, (name, contours) in enumerate(regions.items(), 1):
        _add_region(ds, number, name, contours, scan, images)
    return ds


def _reference_to(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = image.SOPClassUID
    item.ReferencedSOPInstanceUID = image.SOPInstanceUID
    return item


def _add_region(
    ds: Dataset,
    number: int,
    name: str,
    contours: Sequence[Contour],
    scan: phantoms.Scan,
    images: Sequence[Dataset],
) -> None:
    region = Dataset()
    region.ROINumber = number
    region.ReferencedFrameOfReferenceUID = phantoms.uid("frame of reference")
    region.ROIName = name
    region.ROIGenerationAlgorithm = ""
    ds.StructureSetROISequence.append(region)
    drawn = Dataset()
    drawn.ROIDisplayColor = [255, 0, 0]
    drawn.ReferencedROINumber = number
    drawn.ContourSequence = []
    for kind, points in contours:
        height = (points[0] - scan.lps_affine[:3, 3]) @ scan.normal / scan.spacing_mm[2]
        item = Dataset()
        item.ContourGeometricType = kind
        item.NumberOfContourPoints = len(points)
        item.ContourImageSequence = [images[int(np.clip(round(height), 0, len(images) - 1))]]
        item.ContourData = phantoms.numbers(points.ravel().tolist())
        drawn.ContourSequence.append(item)
    ds.ROIContourSequence.append(drawn)
    observation = Dataset()
    observation.ObservationNumber = observation.ReferencedROINumber = number
    observation.RTROIInterpretedType = "ORGAN"
    observation.ROIInterpreter = ""
    ds.RTROIObservationsSequence.append(observation)


def save(ds: Dataset, path: Path) -> Path:
    """Write a data set as a DICOM file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta = meta
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*exceeds the size of 64 kByte")
        ds.save_as(path, enforce_file_format=True)
    return path


def segmentation(
    scan: phantoms.Scan, masks: Mapping[str, NDArray[Any]], kind: str = "BINARY", **settings: Any
) -> Dataset:
    """A DICOM SEG by highdicom; masks are (columns, rows, slices) of the scan."""
    import highdicom.seg
    from highdicom import AlgorithmIdentificationSequence
    from pydicom.sr.codedict import codes

    source = phantoms.paint(phantoms.slices(scan), 0)
    for image in source:
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    algorithm = AlgorithmIdentificationSequence(
        name="shapes", version="1", family=codes.cid7162.ArtificialIntelligence
    )
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.cid7150.Tissue,
            segmented_property_type=codes.cid7166.ConnectiveTissue,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number, name in enumerate(masks, 1)
    ]
    stacked = np.stack([mask.transpose(2, 1, 0) for mask in masks.values()], axis=-1)
    if kind == "LABELMAP":
        stacked = (stacked * np.arange(1, len(masks) + 1)).max(axis=-1).astype(np.uint8)
    return highdicom.seg.Segmentation(
        source_images=source,
        pixel_array=stacked,
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=phantoms.uid("segmentation", "series"),
        series_number=8,
        sop_instance_uid=phantoms.uid("segmentation", "instance"),
        instance_number=1,
        manufacturer="Phantom",
        manufacturer_model_name="Shapes",
        software_versions="1",
        device_serial_number="1",
        **settings,
    )


def voxels_within(
    volume: Volume, inside: Callable[[Points], NDArray[np.bool_]]
) -> NDArray[np.bool_]:
    """Whether the centre of each voxel lies in a shape, a function of (..., 3) LPS mm."""
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), axis=-1)
    ras = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return inside(ras * (-1.0, -1.0, 1.0))


def in_sphere(centre: Points = CENTRE_MM, radius: float = RADIUS_MM) -> Any:
    """The function of a sphere, for `voxels_within`."""
    return lambda points: np.linalg.norm(points - centre, axis=-1) < radius
