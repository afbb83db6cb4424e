"""Regions drawn by others as masks: RTSTRUCT, DICOM SEG, label maps and mask images.

A region is placed by the positions that its file states in the patient, never by the order of
slices. What belongs to another patient, frame of reference or grid is refused;
``docs/regions.md`` has the rules and what they were checked against.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import RTStructureSetStorage, SegmentationStorage
from skimage.measure import grid_points_in_poly

from medp2p.errors import ConfigError, GeometryError, ImageReadError, MedP2PError
from medp2p.files import files_below
from medp2p.inspection import hider, printable
from medp2p.io import image_suffix, is_dicom_file, read_volume
from medp2p.io.dicom_files import quiet_pydicom, read_header
from medp2p.io.geometry import LPS_FROM_RAS
from medp2p.preprocessing import check_mask_values
from medp2p.volume import Volume, reorient

PLANE_TOLERANCE_MM = 0.1
"""How far the points of a contour may leave its plane, and planes that are one lie apart."""

ON_GRID_VOXELS = 0.05
"""How far, in voxels, a segmentation's voxels may lie from the reference's."""

NESTED_SHARE = 0.05
"""Contours of one slice are apart or nested if less than this share of the smaller is not."""

_POINT_DIGITS = 6
"""Contour points count to a millionth of a voxel, so that rounding errors decide nothing."""

_LABEL_MAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"
_SEGMENTATIONS = (SegmentationStorage, _LABEL_MAP_SEGMENTATION)
_XOR = "CLOSEDPLANAR_XOR"
_FILLED = ("CLOSED_PLANAR", _XOR)

Mask = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, repr=False)
class _DicomRegions:
    """A structure set or segmentation and what its header says; holds a patient's data.

    Attributes:
        path: The file.
        header: Without pixels.
        numbers: ROINumber or SegmentNumber of each region.
        names: ROIName or SegmentLabel of each.
        hide: Takes out of a name what tells who the patient is.
    """

    path: Path
    header: Dataset
    numbers: tuple[int, ...]
    names: tuple[str, ...]
    hide: Callable[[str], str]

    @property
    def is_structure_set(self) -> bool:
        return bool(self.header.SOPClassUID == RTStructureSetStorage)

    @property
    def shown_names(self) -> list[str]:
        return [printable(self.hide(name)) for name in self.names]


def region_names(path: str | Path) -> list[str]:
    """List the regions of a file, as `read_region` takes them.

    Args:
        path: As for `read_region`.

    Returns:
        Names of ROIs or segments in the file's order, words that tell who the patient is
        replaced by ``…``; for a label map the values above 0, such as ``"1"``.

    Raises:
        ImageReadError: If the file is missing, damaged or holds no regions.
    """
    path = Path(path)
    if _is_image_file(path):
        return [str(value) for value in _label_values(_read_labels(path))]
    return _read_dicom_regions(path).shown_names


def read_region(path: str | Path, reference: Volume, *, name: str | None = None) -> Volume:
    """Read a region as a mask on the voxels of an image.

    A voxel is inside if its centre is. Of a structure set, contours nested in one plane exclude
    each other in turn (outline, hole, island), and a slice takes the contours of the nearest
    plane that has some, if none is nearer than half the smallest distance of two planes.

    Args:
        path: A DICOM structure set (RTSTRUCT) or segmentation (SEG), or a folder with one; or a
            label map or mask image (NIfTI, MetaImage, NRRD).
        reference: The image that the region was drawn on, or another of its voxels or its frame
            of reference.
        name: Which region: a name in any case, or a pattern such as ``"femur*"`` that may match
            several, which are joined. None takes the only one; of a label map, all above 0.

    Returns:
        The mask on the reference's voxels, uint8, 1 inside.

    Raises:
        ImageReadError: If the file is missing, damaged, holds no such kind of object, or the
            region is empty or has fractions.
        ConfigError: If there is no region of this name, or several and none was named.
        GeometryError: If the region belongs to another patient, frame of reference or grid, or
            lies outside the image.
    """
    path = Path(path)
    if _is_image_file(path):
        inside = _label_mask(path, reference, name)
    else:
        regions = _read_dicom_regions(path)
        _refuse_other_patient_or_frame(regions, reference)
        chosen = _chosen(path, regions.names, regions.shown_names, name)
        read = _structure_mask if regions.is_structure_set else _segment_mask
        inside = read(regions, chosen, reference)
        if not inside.any():
            raise ImageReadError(
                f"{regions.path}: the region marks no voxel of {reference.name}; "
                "it is empty or smaller than a voxel, choose another"
            )
    mask = reference.with_array(inside.astype(np.uint8), modality="MASK", units=None)
    return replace(mask, path=path)


def _is_image_file(path: Path) -> bool:
    if not path.exists():
        raise ImageReadError(f"{path}: no such file or folder; check the path")
    return path.is_file() and bool(image_suffix(path))


def _read_labels(path: Path) -> Volume:
    labels = read_volume(path)
    check_mask_values(labels)
    return labels


def _label_values(labels: Volume) -> list[int]:
    return [int(value) for value in np.unique(labels.array) if value > 0]


def _label_mask(path: Path, reference: Volume, name: str | None) -> Mask:
    labels = reorient(_read_labels(path), reference.orientation)
    difference = labels.grid.difference(reference.grid)
    if difference:
        raise GeometryError(
            f"{path}: not on the grid of {reference.name}: {difference}; give the region on the "
            "image's own voxels"
        )
    values = _label_values(labels)
    if not values:
        raise ImageReadError(f"{path}: the mask is empty; give one with values above 0")
    if name is None:
        return np.asarray(labels.array > 0)
    names = [str(value) for value in values]
    chosen = _chosen(path, names, names, name)
    return np.isin(labels.array, [values[index] for index in chosen])


def _chosen(
    path: Path, names: Sequence[str], shown: Sequence[str], wanted: str | None
) -> list[int]:
    """Return the places of the wanted names in the list."""
    if wanted is None:
        if len(names) == 1:
            return [0]
        raise ConfigError(f"{path}: holds {len(names)} regions, name one of {_listed(shown)}")
    word = wanted.casefold().strip()
    words = [name.casefold().strip() for name in names]
    found = [index for index, name in enumerate(words) if name == word]
    found = found or [index for index, name in enumerate(words) if fnmatchcase(name, word)]
    if not found:
        raise ConfigError(f"{path}: no region {wanted!r}; it holds {_listed(shown)}")
    return found


def _listed(names: Sequence[str], limit: int = 40) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more


def _read_dicom_regions(path: Path) -> _DicomRegions:
    path = _only_file(path) if path.is_dir() else path
    with _reading(path):
        if not is_dicom_file(path):
            raise _no_regions(path)
        header = read_header(path)
        if header.get("SOPClassUID") == RTStructureSetStorage:
            found = [
                (int(roi.ROINumber), str(roi.get("ROIName", "")))
                for roi in header.StructureSetROISequence
            ]
        elif header.get("SOPClassUID") in _SEGMENTATIONS:
            found = [
                (int(segment.SegmentNumber), str(segment.get("SegmentLabel", "")))
                for segment in header.SegmentSequence
                if int(segment.SegmentNumber) > 0
            ]
        else:
            raise _no_regions(path)
    if not found:
        raise ImageReadError(f"{path}: holds no region; choose another file")
    numbers, names = zip(*found, strict=True)
    return _DicomRegions(path, header, numbers, names, hider(path))


def _only_file(folder: Path) -> Path:
    """Return the one structure set or segmentation below a folder."""
    found = [path for path in sorted(files_below(folder)) if _holds_regions(path)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise _no_regions(folder)
    names = ", ".join(str(path.relative_to(folder)) for path in found[:4])
    raise ImageReadError(
        f"{folder}: holds {len(found)} structure sets or segmentations, name the file: {names}"
    )


def _holds_regions(path: Path) -> bool:
    try:
        kind = read_header(path).get("SOPClassUID") if is_dicom_file(path) else None
    except Exception:  # pydicom raises whatever its parser stumbles over
        return False
    return kind == RTStructureSetStorage or kind in _SEGMENTATIONS


def _no_regions(path: Path) -> ImageReadError:
    return ImageReadError(
        f"{path}: no regions in it, expected a DICOM structure set (RTSTRUCT), a DICOM "
        "segmentation (SEG), or a label map as NIfTI, MetaImage or NRRD"
    )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a damaged file makes of pydicom and highdicom into one line without its values."""
    try:
        with quiet_pydicom:
            yield
    except (MedP2PError, MemoryError):
        raise
    except OSError as error:
        raise ImageReadError(f"{path}: cannot be read: {error.strerror or 'damaged'}") from error
    except Exception as error:  # pydicom raises whatever its parser stumbles over
        raise ImageReadError(
            f"{path}: the regions cannot be read, the file is damaged ({type(error).__name__}); "
            "get it again"
        ) from error


def _refuse_other_patient_or_frame(regions: _DicomRegions, reference: Volume) -> None:
    """Refuse what was drawn in somebody else, as far as both sides state who and where."""
    if reference.dicom is None:
        return
    patients = {_text(h, "PatientID") for h in (regions.header, reference.dicom.header)} - {""}
    if len(patients) > 1:
        raise GeometryError(
            f"{regions.path}: belongs to another patient than {reference.name}; choose the "
            "regions of this patient"
        )
    with _reading(regions.path):
        stated = _frames_of_reference(regions.header)
    if stated and reference.dicom.frame_of_reference not in ("", *stated):
        raise GeometryError(
            f"{regions.path}: drawn in another frame of reference than {reference.name}, so its "
            "positions mean nothing there; choose the regions of this image's study, or the image "
            "they were drawn on"
        )


def _text(header: Dataset, keyword: str) -> str:
    return str(header.get(keyword) or "").strip()


def _frames_of_reference(header: Dataset) -> set[str]:
    """Return what is stated: of a structure set by its ROIs (PS3.3 C.8.8.5)."""
    stated = {_text(header, "FrameOfReferenceUID")}
    for sequence, keyword in (
        ("StructureSetROISequence", "ReferencedFrameOfReferenceUID"),
        ("ReferencedFrameOfReferenceSequence", "FrameOfReferenceUID"),
    ):
        stated |= {_text(item, keyword) for item in header.get(sequence) or ()}
    return stated - {""}


def _is_known_to_belong(regions: _DicomRegions, reference: Volume) -> bool:
    """Whether both state the same frame of reference (another was refused before)."""
    return bool(
        reference.dicom
        and reference.dicom.frame_of_reference in _frames_of_reference(regions.header)
    )


def _refuse_or_note_outside(regions: _DicomRegions, reference: Volume, outside_mm: float) -> None:
    """A region that leaves the image is cut if it surely belongs to it, else refused."""
    text = f"{regions.path}: the region reaches {outside_mm:.3g} mm outside {reference.name}"
    if not _is_known_to_belong(regions, reference):
        raise GeometryError(
            f"{text}, and no common frame of reference says that they belong together; give the "
            "image it was drawn on"
        )
    _logger.warning("%s and is cut there", text)


@dataclass(frozen=True, eq=False)
class _Contour:
    """A closed polygon in one plane of the reference's voxels.

    Attributes:
        points: (n, 3) voxel indices of the reference, not whole numbers.
        exclusive: Whether the standard says that it is combined with others by XOR.
    """

    points: FloatArray
    exclusive: bool


def _structure_mask(regions: _DicomRegions, chosen: Sequence[int], reference: Volume) -> Mask:
    """Fill the contours of each chosen ROI on the reference's slices and join the ROIs."""
    inside = np.zeros(reference.shape, dtype=bool)
    for index in chosen:
        with _reading(regions.path):
            contours = _contours(regions, index, reference)
        shown = regions.shown_names[index]
        if not contours:
            raise ImageReadError(f"{regions.path}: the region {shown!r} has no closed contour")
        _refuse_contours_outside(regions, contours, reference)
        inside |= _filled(regions, contours, reference, shown)
    return inside


def _contours(regions: _DicomRegions, index: int, reference: Volume) -> list[_Contour]:
    """Return the closed contours of an ROI in voxel indices (PS3.3 C.8.8.6)."""
    to_index = np.linalg.inv(reference.affine) @ LPS_FROM_RAS
    contours = []
    for item in regions.header.get("ROIContourSequence") or ():
        if item.ReferencedROINumber != regions.numbers[index]:
            continue
        for contour in item.get("ContourSequence") or ():
            kind = _text(contour, "ContourGeometricType").upper()
            if kind not in _FILLED:
                continue
            lps = _points_of(contour)
            points = lps @ to_index[:3, :3].T + to_index[:3, 3]
            if len(points) > 2:
                contours.append(_Contour(np.round(points, _POINT_DIGITS), kind == _XOR))
    return contours


def _points_of(contour: Dataset) -> FloatArray:
    """Return (n, 3) points in LPS mm.

    Over 64 kB do not fit the length of a decimal string and travel as UN (PS3.5 6.2.2), which
    pydicom leaves as bytes.
    """
    values = contour.ContourData
    if isinstance(values, bytes):
        values = values.decode("ascii").rstrip("\0 ").split("\\")
    points = np.array(values, dtype=np.float64).reshape(-1, 3)
    if not np.isfinite(points).all():
        raise ValueError("a contour holds values that are no numbers")
    return points


def _refuse_contours_outside(
    regions: _DicomRegions, contours: Sequence[_Contour], reference: Volume
) -> None:
    points = np.concatenate([contour.points for contour in contours])
    last = np.array(reference.shape) - 0.5
    beyond = np.maximum(np.maximum(-0.5 - points, points - last), 0) * reference.spacing_mm
    outside_mm = float(beyond.max())
    if (beyond > 0).any(axis=1).all():
        raise GeometryError(
            f"{regions.path}: the region lies outside {reference.name}; give the image it was "
            "drawn on"
        )
    if outside_mm > PLANE_TOLERANCE_MM:
        _refuse_or_note_outside(regions, reference, outside_mm)


def _filled(
    regions: _DicomRegions, contours: Sequence[_Contour], reference: Volume, shown: str
) -> Mask:
    axis = _common_axis(regions, contours, reference, shown)
    planes = _planes(contours, axis, reference.spacing_mm[axis])
    inside = np.zeros(reference.shape, dtype=bool)
    slices = np.moveaxis(inside, axis, 0)
    heights = np.array(list(planes))
    nearest = _nearest_planes(heights, len(slices))
    if (np.abs(heights - np.rint(heights)) * reference.spacing_mm[axis] > PLANE_TOLERANCE_MM).any():
        _logger.warning(
            "%s: contours lie between the slices of %s; each slice takes the nearest ones",
            regions.path,
            reference.name,
        )
    cached: dict[float, Mask] = {}
    for k, height in nearest.items():
        if height not in cached:
            place = f"{regions.path}: region {shown!r}, slice {k}"
            cached[height] = _filled_plane(planes[height], axis, slices.shape[1:], place)
        slices[k] = cached[height]
    return inside


def _common_axis(
    regions: _DicomRegions, contours: Sequence[_Contour], reference: Volume, shown: str
) -> int:
    """Return the voxel axis that all contours are perpendicular to."""
    spans = np.max([np.ptp(contour.points, axis=0) for contour in contours], axis=0)
    off_plane = spans * reference.spacing_mm
    axis = int(np.argmin(off_plane))
    if off_plane[axis] > PLANE_TOLERANCE_MM:
        raise GeometryError(
            f"{regions.path}: the contours of {shown!r} leave the slices of {reference.name} by "
            f"{off_plane[axis]:.3g} mm; give the image they were drawn on"
        )
    return axis


def _planes(
    contours: Sequence[_Contour], axis: int, spacing_mm: float
) -> dict[float, list[_Contour]]:
    """Group contours by their height along an axis, in voxels, rising."""
    planes: dict[float, list[_Contour]] = {}
    last = None
    for contour in sorted(contours, key=lambda contour: float(contour.points[:, axis].mean())):
        height = float(contour.points[:, axis].mean())
        if last is None or (height - last) * spacing_mm > PLANE_TOLERANCE_MM:
            last = height
            planes[height] = []
        planes[last].append(contour)
    return planes


def _nearest_planes(heights: FloatArray, slices: int) -> dict[int, float]:
    """Return for each slice that a plane of contours speaks for the height of the plane.

    A plane reaches half the smallest distance of two planes to both sides; one alone, half a
    slice. A slice half-way takes the lower one.
    """
    thickness = min((b - a for a, b in pairwise(heights.tolist())), default=1.0)
    thickness = max(thickness, 1e-6)
    found = {}
    for k in range(slices):
        distances = np.round(np.abs(heights - k), _POINT_DIGITS)
        closest = int(np.argmin(distances))
        if distances[closest] <= thickness / 2 + 10**-_POINT_DIGITS:
            found[k] = float(heights[closest])
    return found


def _filled_plane(
    contours: Sequence[_Contour], axis: int, shape: tuple[int, ...], place: str
) -> Mask:
    """Combine the contours of one plane: nested ones exclude each other in turn.

    Voxel centres on a contour are inside, of a hole's contour too. A contour that is there
    twice counts once.

    Raises:
        ImageReadError: If contours cross that are not said to be combined by XOR.
    """
    inside = np.zeros(shape, dtype=bool)
    outline = np.zeros(shape, dtype=bool)
    seen: list[Mask] = []
    for contour in _different(contours):
        strictly, edge = _polygon(np.delete(contour.points, axis, axis=1), shape)
        if not contour.exclusive and any(_cross(strictly, other) for other in seen):
            raise ImageReadError(
                f"{place}: contours cross each other, so what is inside is not certain; "
                "join or separate them in the program that drew them"
            )
        seen.append(strictly)
        inside ^= strictly
        outline |= edge
    return inside | outline


def _different(contours: Sequence[_Contour]) -> Iterator[_Contour]:
    seen: list[bytes] = []
    for contour in contours:
        if contour.points.tobytes() not in seen:
            seen.append(contour.points.tobytes())
            yield contour


def _polygon(points: FloatArray, shape: tuple[int, ...]) -> tuple[Mask, Mask]:
    """Return the voxel centres inside a polygon (even-odd rule), and those on its edge."""
    inside = np.zeros(shape, dtype=bool)
    edge = np.zeros(shape, dtype=bool)
    low = np.maximum(np.floor(points.min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 1, shape)
    if (low >= high).any():
        return inside, edge
    size = (int(high[0] - low[0]), int(high[1] - low[1]))
    kinds = grid_points_in_poly(size, points - low, binarize=False)
    box = (slice(low[0], high[0]), slice(low[1], high[1]))
    inside[box] = kinds == 1
    edge[box] = kinds > 1
    return inside, edge


def _cross(a: Mask, b: Mask) -> bool:
    """Whether two areas overlap, and neither lies in the other."""
    common = np.count_nonzero(a & b)
    smaller = min(np.count_nonzero(a), np.count_nonzero(b))
    least = max(NESTED_SHARE * smaller, 2)
    return bool(min(common, smaller - common) > least)


def _segment_mask(regions: _DicomRegions, chosen: Sequence[int], reference: Volume) -> Mask:
    """Put the chosen segments onto the reference's voxels, which must be the segmentation's."""
    try:
        import highdicom.seg
    except ModuleNotFoundError as error:
        raise ImageReadError(
            f"{regions.path}: reading a DICOM segmentation needs highdicom; "
            "pip install 'medp2p[regions]'"
        ) from error
    numbers = [regions.numbers[index] for index in chosen]
    with _reading(regions.path):
        segmentation = highdicom.seg.segread(regions.path)
        found = segmentation.get_volume(segment_numbers=numbers)
    values: NDArray[Any] = found.array.max(axis=-1)
    if not np.isin(values, (0, 1)).all():
        raise ImageReadError(
            f"{regions.path}: holds fractions (probability or occupancy), expected 0 or 1 in each "
            "voxel; export it as a binary segmentation"
        )
    segments = Volume((values > 0), LPS_FROM_RAS @ found.affine, path=regions.path)
    return _on_reference(regions, segments, reference)


def _on_reference(regions: _DicomRegions, segments: Volume, reference: Volume) -> Mask:
    """Paste segments that lie on the reference's voxels, on some of its slices."""
    segments = reorient(segments, reference.orientation)
    to_index = np.linalg.inv(reference.affine) @ segments.affine
    corners = segments.grid.corners_mm
    index = corners @ np.linalg.inv(reference.affine)[:3, :3].T
    index += np.linalg.inv(reference.affine)[:3, 3]
    first = np.rint(to_index[:3, 3]).astype(int)
    expected = first + np.rint((corners - corners[0]) @ np.linalg.inv(segments.affine)[:3, :3].T)
    apart = float(np.abs(index - expected).max())
    if apart > ON_GRID_VOXELS:
        found, wanted = (
            " × ".join(f"{v:.4g}" for v in s.spacing_mm) for s in (segments, reference)
        )
        raise GeometryError(
            f"{regions.path}: not on the voxels of {reference.name} (up to {apart:.2g} voxels off, "
            f"spacing {found} against {wanted} mm); give the image that was segmented"
        )
    marked = np.argwhere(segments.array) + first
    within = ((marked >= 0) & (marked < reference.shape)).all(axis=1)
    if len(marked) and not within.any():
        raise GeometryError(
            f"{regions.path}: the region lies outside {reference.name}; give the image that was "
            "segmented"
        )
    if not within.all():
        beyond = np.maximum(np.maximum(-marked, marked - np.array(reference.shape) + 1), 0)
        _refuse_or_note_outside(regions, reference, float((beyond * reference.spacing_mm).max()))
    inside = np.zeros(reference.shape, dtype=bool)
    inside[tuple(marked[within].T)] = True
    return inside
