"""Regions against shapes that are known exactly, and against plastimatch and dcmqi."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dicom_phantoms as phantoms
import numpy as np
import pytest
import region_phantoms as shapes
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset
from region_phantoms import CENTRE_MM, RADIUS_MM, SCAN, Contour, sphere

from medp2p.errors import ConfigError, GeometryError, ImageReadError, MedP2PError
from medp2p.io import read_volume, write_volume
from medp2p.regions import read_region, region_names
from medp2p.volume import Volume, reorient

HOLE_MM = 10.0
OBLIQUE = replace(SCAN, **phantoms.turned((1, 0, 0), (0, 1, 0), (25, -18, 33)))
SAGITTAL = replace(SCAN, row=(0, 1, 0), column=(0, 0, -1))


def beside(mm: float) -> NDArray[np.float64]:
    """A point so far to the left of the sphere's centre."""
    return CENTRE_MM + np.array([mm, 0.0, 0.0])


def series(folder: Path, scan: phantoms.Scan = SCAN) -> Volume:
    phantoms.write(folder, phantoms.slices(scan), 0)
    return read_volume(folder)


def refusal_of(path: Path, reference: Volume) -> str:
    """The error's text, empty if the region can be read."""
    try:
        read_region(path, reference)
    except MedP2PError as error:
        return str(error)
    return ""


def drawn(path: Path, scan: phantoms.Scan = SCAN, **regions: list[Contour]) -> Path:
    return shapes.save(shapes.structure_set(scan, regions), path / "structures.dcm")


def with_hole(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    distance = np.linalg.norm(points - CENTRE_MM, axis=-1)
    return (distance < RADIUS_MM) & (distance >= HOLE_MM)


def keyholes(scan: phantoms.Scan) -> list[Contour]:
    """A sphere with a hole, each slice one contour that runs in and out on one line."""
    holes = {round(float(points[0] @ scan.normal), 3): points for _, points in holes_of(scan)}
    contours = []
    for kind, points in sphere(scan):
        hole = holes.get(round(float(points[0] @ scan.normal), 3))
        if hole is not None:
            points = np.concatenate([points, points[:1], hole[:1], hole[::-1]])
        contours.append((kind, points))
    return contours


def holes_of(scan: phantoms.Scan, kind: str = "CLOSED_PLANAR") -> list[Contour]:
    return sphere(scan, radius=HOLE_MM, kind=kind)


@pytest.fixture(scope="module")
def ct(tmp_path_factory) -> Volume:
    return series(tmp_path_factory.mktemp("ct"))


@pytest.mark.parametrize("scan", [SCAN, OBLIQUE, SAGITTAL], ids=["axial", "oblique", "sagittal"])
def test_a_sphere_marks_the_voxels_whose_centre_it_holds(tmp_path, scan):
    reference = series(tmp_path / "ct", scan)
    mask = read_region(drawn(tmp_path, scan, ball=sphere(scan)), reference)
    assert np.array_equal(mask.array, shapes.voxels_within(reference, shapes.in_sphere()))
    assert mask.array.sum() > 2500
    assert mask.grid.difference(reference.grid) is None
    assert (mask.modality, mask.units, mask.array.dtype) == ("MASK", None, np.uint8)


def test_the_volume_is_the_shape_s(tmp_path):
    fine = replace(SCAN, shape=(150, 120, 60), spacing_mm=(0.5, 0.6, 0.9))
    mask = read_region(drawn(tmp_path, fine, ball=sphere(fine)), series(tmp_path / "ct", fine))
    found = mask.array.sum() * np.prod(mask.spacing_mm)
    assert found == pytest.approx(4 / 3 * np.pi * RADIUS_MM**3, rel=2e-3)


@pytest.mark.parametrize(
    "contours",
    [
        sphere(SCAN) + holes_of(SCAN),
        holes_of(SCAN) + sphere(SCAN),
        sphere(SCAN, kind="CLOSEDPLANAR_XOR") + holes_of(SCAN, "CLOSEDPLANAR_XOR"),
        keyholes(SCAN),
    ],
    ids=["nested", "hole first", "xor", "keyhole"],
)
def test_holes(tmp_path, ct, contours):
    mask = read_region(drawn(tmp_path, shell=contours), ct)
    assert np.array_equal(mask.array, shapes.voxels_within(ct, with_hole))


def test_an_island_in_a_hole_and_two_parts_side_by_side(tmp_path, ct):
    other = beside(-38.0)
    contours = sphere(SCAN) + holes_of(SCAN) + sphere(SCAN, radius=5.0)
    contours += sphere(SCAN, other, 9.0)
    wanted = shapes.voxels_within(
        ct,
        lambda points: (
            with_hole(points)
            | shapes.in_sphere(radius=5.0)(points)
            | shapes.in_sphere(other, 9.0)(points)
        ),
    )
    assert np.array_equal(read_region(drawn(tmp_path, parts=contours), ct).array, wanted)


def test_voxel_centres_on_a_contour_are_inside_and_on_a_hole_s_too(tmp_path, ct):
    """PS3.3 C.8.8.6.3: points along the path belong to the region."""
    affine = SCAN.lps_affine

    def box(low: int, high: int) -> Contour:
        corners = np.array([(low, low), (low, high), (high, high), (high, low)], float)
        index = np.column_stack([corners, np.full(4, 5.0), np.ones(4)])
        return "CLOSED_PLANAR", (index @ affine.T)[:, :3]

    array = read_region(drawn(tmp_path, box=[box(10, 20), box(13, 17)]), ct).array
    placed = np.zeros(ct.shape, bool)
    placed[10:21, 10:21, 5] = True
    placed[14:17, 14:17, 5] = False
    assert np.array_equal(array, placed)


def test_a_contour_that_is_there_twice_counts_once(tmp_path, ct):
    once = read_region(drawn(tmp_path / "1", ball=sphere(SCAN)), ct)
    twice = read_region(drawn(tmp_path / "2", ball=sphere(SCAN) + sphere(SCAN)), ct)
    assert np.array_equal(once.array, twice.array)


def test_a_contour_of_more_than_64_kilobytes(tmp_path, ct):
    middle = (CENTRE_MM - SCAN.lps_affine[:3, 3]) @ SCAN.normal
    points = shapes.circle(SCAN, CENTRE_MM, RADIUS_MM, round(middle / 3) * 3.0, count=3000)
    mask = read_region(drawn(tmp_path, disc=[("CLOSED_PLANAR", points)]), ct)
    area = mask.array.sum() * np.prod(mask.spacing_mm[:2])
    assert area == pytest.approx(np.pi * RADIUS_MM**2, rel=0.02)


def test_position_decides_and_not_the_order_of_contours(tmp_path, ct):
    shuffled = sphere(SCAN)
    np.random.default_rng(3).shuffle(shuffled)
    ds = shapes.structure_set(SCAN, {"ball": shuffled})
    for contour in ds.ROIContourSequence[0].ContourSequence:
        contour.ContourImageSequence = (
            ds.ROIContourSequence[0].ContourSequence[0].ContourImageSequence
        )
    mask = read_region(shapes.save(ds, tmp_path / "shuffled.dcm"), ct)
    assert np.array_equal(mask.array, shapes.voxels_within(ct, shapes.in_sphere()))


def test_the_mask_follows_a_reference_with_other_axes(tmp_path, ct):
    path = drawn(tmp_path, ball=sphere(SCAN))
    other = reorient(ct, "SPR")
    mask = reorient(read_region(path, other), ct.orientation)
    assert np.array_equal(mask.array, read_region(path, ct).array)


def test_contours_between_slices_go_to_the_nearest(tmp_path, ct, caplog):
    heights = np.arange(20) * 3.0 + 1.2
    with caplog.at_level(logging.WARNING, "medp2p"):
        mask = read_region(drawn(tmp_path, ball=sphere(SCAN, heights_mm=heights)), ct)
    assert "between the slices" in caplog.text
    lower = shapes.voxels_within(
        ct, lambda points: shapes.in_sphere()(points + 1.2 * np.asarray(SCAN.normal))
    )
    assert np.array_equal(mask.array, lower)


def test_contours_of_thick_slices_fill_the_thin_ones_between(tmp_path):
    thin = replace(SCAN, shape=(56, 44, 60), spacing_mm=(2.0, 2.5, 1.0))
    reference = series(tmp_path / "ct", thin)
    contours = sphere(thin, heights_mm=np.arange(20) * 3.0)
    array = read_region(drawn(tmp_path, thin, ball=contours), reference).array
    for k in range(1, 58, 3):
        assert np.array_equal(array[:, :, k - 1], array[:, :, k])
        assert np.array_equal(array[:, :, k + 1], array[:, :, k + 2])


def test_a_gap_that_was_left_stays(tmp_path, ct):
    two = [c for n, c in enumerate(sphere(SCAN)) if n not in (6, 7, 8)]
    filled = read_region(drawn(tmp_path, two=two), ct).array.any(axis=(0, 1))
    first = int(np.argmax(filled))
    assert not filled[first + 6 : first + 9].any()
    assert filled[first + 9]


def test_the_wanted_region(tmp_path, ct):
    left, right = beside(15.0), beside(-15.0)
    path = drawn(
        tmp_path,
        **{
            "Femur_L": sphere(SCAN, left, 8.0),
            "femur_R": sphere(SCAN, right, 8.0),
            "PTV [1]": sphere(SCAN),
        },
    )
    assert region_names(path) == ["Femur_L", "femur_R", "PTV [1]"]
    wanted = {
        "femur_l": shapes.in_sphere(left, 8.0),
        "ptv [1]": shapes.in_sphere(),
        "FEMUR*": lambda points: (
            shapes.in_sphere(left, 8.0)(points) | shapes.in_sphere(right, 8.0)(points)
        ),
    }
    for name, shape in wanted.items():
        found = read_region(path, ct, name=name).array
        assert np.array_equal(found, shapes.voxels_within(ct, shape)), name
    with pytest.raises(ConfigError, match=r"no region 'liver'; it holds 'Femur_L', 'femur_R'"):
        read_region(path, ct, name="liver")
    with pytest.raises(ConfigError, match=r"holds 3 regions, name one of 'Femur_L'"):
        read_region(path, ct)


def test_a_folder_with_one_structure_set(tmp_path, ct):
    phantoms.write(tmp_path / "series", phantoms.slices(SCAN), 0)
    drawn(tmp_path, ball=sphere(SCAN))
    assert region_names(tmp_path) == ["ball"]
    drawn(tmp_path / "second", ball=sphere(SCAN))
    with pytest.raises(ImageReadError, match="holds 2 structure sets"):
        read_region(tmp_path, ct)


def test_names_in_messages_hide_the_patient(tmp_path, ct):
    path = drawn(tmp_path, **{"Quisenberry tumour": sphere(SCAN), "ZQ-7741903 node": sphere(SCAN)})
    assert region_names(path) == ["… tumour", "… node"]
    with pytest.raises(ConfigError) as error:
        read_region(path, ct, name="liver")
    assert not any(secret in str(error.value).lower() for secret in phantoms.SECRETS)
    assert read_region(path, ct, name="*tumour").array.any()


def change(**changes: str) -> Callable[[Dataset], None]:
    def apply(ds: Dataset) -> None:
        for keyword, value in changes.items():
            setattr(ds, keyword, value)

    return apply


def other_frame(ds: Dataset) -> None:
    ds.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = phantoms.uid("elsewhere")
    for region in ds.StructureSetROISequence:
        region.ReferencedFrameOfReferenceUID = phantoms.uid("elsewhere")


def no_contours(ds: Dataset) -> None:
    del ds.ROIContourSequence[0].ContourSequence


def point_only(ds: Dataset) -> None:
    for contour in ds.ROIContourSequence[0].ContourSequence:
        contour.ContourGeometricType = "POINT"


def no_numbers(ds: Dataset) -> None:
    del ds.ROIContourSequence[0].ContourSequence[0].ContourData


@pytest.mark.parametrize(
    ("contours", "damage", "error", "words"),
    [
        (sphere(SCAN), change(PatientID="somebody else"), GeometryError, "another patient"),
        (sphere(SCAN), other_frame, GeometryError, "another frame of reference"),
        (sphere(SCAN), no_contours, ImageReadError, "no closed contour"),
        (sphere(SCAN), point_only, ImageReadError, "no closed contour"),
        (sphere(SCAN), no_numbers, ImageReadError, "damaged"),
        (sphere(SCAN, beside(400.0)), None, GeometryError, "lies outside"),
        (sphere(SCAN, radius=0.2), None, ImageReadError, "no closed contour"),
        (sphere(SCAN, SCAN.lps_affine[:3, 3] + (21.0, 21.3, 9.0), 0.4), None, ImageReadError, "no"),
        (sphere(OBLIQUE), None, GeometryError, "leave the slices"),
        (
            sphere(SCAN) + sphere(SCAN, beside(15.0)),
            None,
            ImageReadError,
            "contours cross each other",
        ),
    ],
)
def test_structure_sets_that_are_refused(tmp_path, ct, contours, damage, error, words):
    ds = shapes.structure_set(SCAN, {"ball": contours})
    if damage:
        damage(ds)
    path = shapes.save(ds, tmp_path / "structures.dcm")
    with pytest.raises(error, match=words) as refusal:
        read_region(path, ct)
    text = str(refusal.value)
    assert "\n" not in text
    assert not any(secret in text.lower() for secret in phantoms.SECRETS)


def test_a_region_that_leaves_the_image_is_cut_if_it_surely_belongs_to_it(tmp_path, caplog):
    short = replace(SCAN, shape=(56, 44, 8))
    reference = series(tmp_path / "ct", short)
    path = drawn(tmp_path, short, ball=sphere(short, heights_mm=np.arange(-6, 14) * 3.0))
    with caplog.at_level(logging.WARNING, "medp2p"):
        mask = read_region(path, reference)
    assert "outside" in caplog.text
    assert "is cut there" in caplog.text
    assert np.array_equal(mask.array, shapes.voxels_within(reference, shapes.in_sphere()))
    nowhere = replace(reference, dicom=None)
    with pytest.raises(GeometryError, match="no common frame of reference"):
        read_region(path, nowhere)


def test_a_reference_without_a_frame_of_reference(tmp_path, ct):
    write_volume(ct, tmp_path / "ct.nii.gz")
    reference = read_volume(tmp_path / "ct.nii.gz")
    mask = read_region(drawn(tmp_path, ball=sphere(SCAN)), reference)
    assert np.array_equal(mask.array, shapes.voxels_within(reference, shapes.in_sphere()))


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "FRACTIONAL"])
@pytest.mark.parametrize("scan", [SCAN, OBLIQUE], ids=["axial", "oblique"])
def test_segmentations(tmp_path, scan, kind):
    reference = series(tmp_path / "ct", scan)
    left, right = beside(15.0), beside(-15.0)
    masks = {
        name: shapes.voxels_within(reference, shapes.in_sphere(centre, 9.0))
        for name, centre in (("Femur L", left), ("Femur R", right))
    }
    ds = shapes.segmentation(scan, masks, kind)
    path = shapes.save(ds, tmp_path / "segmentation.dcm")
    assert region_names(path) == ["Femur L", "Femur R"]
    for name, mask in masks.items():
        assert np.array_equal(read_region(path, reference, name=name.upper()).array, mask)
    both = read_region(path, reorient(reference, "SAL"), name="femur*")
    joined = masks["Femur L"] | masks["Femur R"]
    assert np.array_equal(reorient(both, reference.orientation).array, joined)


def segmented(tmp_path: Path, ct: Volume, kind: str = "BINARY", value: Any = True) -> Dataset:
    mask = shapes.voxels_within(ct, shapes.in_sphere())
    return shapes.segmentation(SCAN, {"ball": mask * np.asarray(value)}, kind)


def no_segments(ds: Dataset) -> None:
    ds.SegmentSequence = []


def other_segment_frame(ds: Dataset) -> None:
    ds.FrameOfReferenceUID = phantoms.uid("elsewhere")


def moved(ds: Dataset, by: tuple[float, float, float]) -> None:
    for frame in ds.PerFrameFunctionalGroupsSequence:
        position = frame.PlanePositionSequence[0]
        place = np.array(position.ImagePositionPatient, float) + by
        position.ImagePositionPatient = phantoms.numbers(place.tolist())


def cut_pixels(ds: Dataset) -> None:
    ds.PixelData = ds.PixelData[: len(ds.PixelData) // 4 * 2]


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (change(PatientID="somebody else"), GeometryError, "another patient"),
        (other_segment_frame, GeometryError, "another frame of reference"),
        (no_segments, ImageReadError, "no region"),
        (lambda ds: moved(ds, (0.7, 0.0, 0.0)), GeometryError, "not on the voxels"),
        (lambda ds: moved(ds, (0.0, 900.0, 0.0)), GeometryError, "lies outside"),
        (cut_pixels, ImageReadError, "damaged"),
    ],
)
def test_segmentations_that_are_refused(tmp_path, ct, damage, error, words):
    ds = segmented(tmp_path, ct)
    damage(ds)
    path = shapes.save(ds, tmp_path / "segmentation.dcm")
    with pytest.raises(error, match=words) as refusal:
        read_region(path, ct)
    text = str(refusal.value)
    assert "\n" not in text
    assert not any(secret in text.lower() for secret in phantoms.SECRETS)


def test_a_segmentation_with_fractions_is_refused(tmp_path, ct):
    ds = segmented(tmp_path, ct, "FRACTIONAL", 0.4)
    path = shapes.save(ds, tmp_path / "segmentation.dcm")
    with pytest.raises(ImageReadError, match="holds fractions"):
        read_region(path, ct)


def test_without_highdicom_the_error_names_what_to_install(tmp_path, ct, monkeypatch):
    path = shapes.save(segmented(tmp_path, ct), tmp_path / "segmentation.dcm")
    monkeypatch.setitem(sys.modules, "highdicom", None)
    monkeypatch.setitem(sys.modules, "highdicom.seg", None)
    with pytest.raises(ImageReadError, match=r"pip install 'medp2p\[regions\]'"):
        read_region(path, ct)


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_label_maps(tmp_path, ct, suffix):
    labels = np.zeros(ct.shape, np.uint8)
    labels[4:9, 5:9, 3:8] = 2
    labels[20:30, 5:9, 3:8] = 7
    path = tmp_path / f"labels{suffix}"
    write_volume(reorient(ct.with_array(labels, modality="MASK", units=None), "RAS"), path)
    assert region_names(path) == ["2", "7"]
    assert np.array_equal(read_region(path, ct).array, labels > 0)
    assert np.array_equal(read_region(path, ct, name="7").array, labels == 7)
    with pytest.raises(ConfigError, match="no region '1'; it holds '2', '7'"):
        read_region(path, ct, name="1")


@pytest.mark.parametrize(
    ("values", "spacing", "error", "words"),
    [
        (0.0, 1.0, ImageReadError, "empty"),
        (0.5, 1.0, ImageReadError, "fractions"),
        (-1.0, 1.0, ImageReadError, "negative"),
        (1.0, 1.1, GeometryError, "not on the grid"),
    ],
)
def test_label_maps_that_are_refused(tmp_path, ct, values, spacing, error, words):
    affine = ct.affine @ np.diag([spacing, 1, 1, 1])
    array = np.zeros(ct.shape, np.float32)
    array[3:5, 3:5, 3:5] = values
    write_volume(Volume(array, affine), tmp_path / "labels.nii.gz")
    with pytest.raises(error, match=words):
        read_region(tmp_path / "labels.nii.gz", ct)


def test_what_holds_no_regions(tmp_path, ct):
    with pytest.raises(ImageReadError, match="no such file or folder"):
        read_region(tmp_path / "nothing", ct)
    (tmp_path / "text.txt").write_text("no regions")
    with pytest.raises(ImageReadError, match="no regions in it"):
        read_region(tmp_path / "text.txt", ct)
    phantoms.write(tmp_path / "series", phantoms.slices(SCAN)[:2], 0)
    with pytest.raises(ImageReadError, match="no regions in it"):
        read_region(tmp_path / "series", ct)


def test_files_cut_short_or_scrambled_are_refused_in_one_line(tmp_path, ct):
    rng = np.random.default_rng(5)
    whole = {
        "structures": drawn(tmp_path, ball=sphere(SCAN)).read_bytes(),
        "segments": shapes.save(segmented(tmp_path, ct), tmp_path / "seg.dcm").read_bytes(),
    }
    wrong = tmp_path / "wrong.dcm"
    messages = []
    for content in whole.values():
        for trial in range(30):
            damaged = bytearray(content)
            if trial % 2:
                damaged = damaged[: rng.integers(200, len(damaged))]
            else:
                for place in rng.integers(132, len(damaged), 40):
                    damaged[place] = rng.integers(256)
            wrong.write_bytes(damaged)
            if text := refusal_of(wrong, ct):
                messages.append(text)
    assert len(messages) > 20
    assert not any("\n" in text or "quisenberry" in text.lower() for text in messages)


@pytest.mark.external
@pytest.mark.parametrize("scan", [SCAN, OBLIQUE], ids=["axial", "oblique"])
def test_plastimatch_fills_the_same_voxels(tmp_path, scan):
    program = shutil.which("plastimatch")
    if not program:
        pytest.skip("plastimatch is not installed")
    reference = series(tmp_path / "ct", scan)
    contours = sphere(scan, CENTRE_MM, 18.3) + sphere(scan, beside(3.0), 7.9)
    path = drawn(tmp_path, scan, shell=contours)
    command = [program, "convert", "--input", str(path), "--referenced-ct", str(tmp_path / "ct")]
    command += ["--xor-contours", "--output-prefix", str(tmp_path / "out")]
    command += ["--prefix-format", "nrrd"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    (written,) = (tmp_path / "out").rglob("*.nrrd")
    theirs = reorient(read_volume(written), reference.orientation)
    assert theirs.grid.difference(reference.grid) is None
    assert np.array_equal(read_region(path, reference).array, theirs.array)


@pytest.mark.external
def test_dcmqi_reads_the_same_segments(tmp_path, ct):
    program = shutil.which("segimage2itkimage")
    if not program:
        pytest.skip("dcmqi (segimage2itkimage) is not installed")
    path = shapes.save(segmented(tmp_path, ct), tmp_path / "segmentation.dcm")
    command = [program, "--inputDICOM", str(path), "--outputDirectory", str(tmp_path)]
    subprocess.run([*command, "-t", "nii"], check=True, capture_output=True, timeout=60)
    (written,) = tmp_path.glob("*.nii.gz")
    theirs = sitk.ReadImage(str(written))
    mask = read_region(path, ct)
    voxels = np.argwhere(mask.array)
    assert int(sitk.GetArrayFromImage(theirs).astype(bool).sum()) == len(voxels)
    for voxel in voxels[::50]:
        lps = (ct.affine @ [*voxel, 1])[:3] * (-1, -1, 1)
        assert theirs[theirs.TransformPhysicalPointToIndex(lps.tolist())] > 0
