"""What `make_worklist` takes from a tree, what it leaves out, and what it says of it."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_phantoms import (
    AXIAL,
    CASES,
    CT,
    PLANES,
    SECRETS,
    SOP_CLASSES,
    Right,
    Slices,
    paint,
    repeated,
    save,
    setting,
    slices,
    two_patients,
    uid,
    with_localizer,
    without,
    write,
)
from region_phantoms import save as save_structures
from region_phantoms import structure_set

from medp2p.checkpoint import ModelCard
from medp2p.config import load_config
from medp2p.conversion.journal import Journal
from medp2p.conversion.rules import Rules, load_rules
from medp2p.conversion.scan_names import LONGEST_PART
from medp2p.conversion.scans import LeftOut, Scan, Worklist
from medp2p.conversion.worklist import make_worklist, shard
from medp2p.errors import ConfigError, ImageReadError
from medp2p.io import read_volume, write_dicom_series, write_volume
from medp2p.io.dicom_files import scan_files
from medp2p.manifest import dicom_options
from medp2p.phantom.dicom_export import export_random_patient
from medp2p.volume import Volume

SHAPE = (12, 11, 10)


def model(sources: tuple[str, ...] = ("mr",), **settings: object) -> ModelCard:
    """The card of an MR model, of axial slices and 1 mm in the plane unless told otherwise."""
    named = {key.replace("__", "."): value for key, value in settings.items()}
    return ModelCard(load_config(overrides=named), sources, (-1024.0, 3071.0))


OF_CT = model(("ct",), preprocessing__source__modality="CT")


def worklist(tree: Path, card: ModelCard | None = None, **rules: object) -> Worklist:
    return make_worklist(tree, load_rules(overrides=rules), card or model())


def place(name: str) -> str:
    """The folder of DICOM images that are called by series and kind, any other name as it is."""
    return re.sub("/series-[0-9a-f]{8}_[0-9a-f]{6}$", "", name)


def names(found: Worklist) -> list[str]:
    return [place(scan.name) for scan in found.scans]


def codes(found: Worklist) -> dict[str, str]:
    return {place(one.name): one.code for one in found.left_out}


def only(found: Worklist) -> LeftOut:
    """What is left out of a tree in which nothing is wanted."""
    assert names(found) == []
    (one,) = found.left_out
    return one


def write_image(
    path: Path, shape: tuple[int, ...] = SHAPE, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.zeros(shape, np.int16), np.diag([*spacing, 1.0]))
    image.to_filename(path)
    return path


def series(folder: Path, datasets: Slices | None = None, name: str = "first") -> Path:
    """Write a DICOM series, of axial MR unless told otherwise."""
    write(folder, datasets or slices(name=name), 2)
    return folder


def read(scan: Scan) -> list[Volume]:
    return [
        read_volume(image.path, dicom=dicom_options(image.series, image.files))
        for image in scan.images
    ]


# What is found.


def test_dicom_and_other_files_at_any_depth(tmp_path):
    series(tmp_path / "a" / "deep" / "series")
    write(tmp_path / "b", slices(name="enhanced"), 2, multi_frame=True)
    write_image(tmp_path / "c.nii.gz")
    write_image(tmp_path / "d" / "e.nii")
    for suffix in ("mha", "mhd", "nrrd"):
        image = Volume(np.zeros(SHAPE, np.int16), np.eye(4))
        write_volume(image, tmp_path / "f" / f"{suffix} image.{suffix}")
    write_image(tmp_path / ".hidden" / "x.nii")
    write_image(tmp_path / "._resource.nii")
    for name in ("README.txt", "settings.json", "image.raw", "d/picture.png"):
        (tmp_path / name).write_bytes(b"no image")
    found = worklist(tmp_path)
    expected = ["a/deep/series", "b", "c", "d/e.nii"]
    expected += ["f/mha image.mha", "f/mhd image.mhd", "f/nrrd image.nrrd"]
    assert names(found) == expected
    assert found.left_out == ()
    for scan in found.scans:
        (volume,) = read(scan)
        assert scan.voxels == np.prod(volume.shape)
        newest = max(file.stat().st_mtime for file in scan.images[0].files)
        assert scan.modified == newest
    (header, voxels) = found.scans[5].images[0].files
    assert (header.suffix, voxels.suffix) == (".mhd", ".zraw")


def test_a_tree_in_which_all_is_hidden_is_not_passed_over(tmp_path):
    assert worklist(tmp_path) == Worklist(())
    write_image(tmp_path / ".cache" / "x.nii")
    one = only(worklist(tmp_path))
    assert (one.name, one.code, one.failed) == (".cache", "hidden", False)
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "README.txt").touch()
    assert only(worklist(tmp_path)).reason.startswith("2 hidden files or folders and nothing else")
    assert only(worklist(tmp_path, hash_names=True)).name != ".DS_Store"
    write_image(tmp_path / "y.nii")
    assert worklist(tmp_path).left_out == ()


def test_several_series_in_one_folder(tmp_path):
    for number in range(3):
        for k, ds in enumerate(paint(slices(name=f"series {number}"), number)):
            save(ds, tmp_path / "flat" / f"IM{k:03d}{number}")
    found = worklist(tmp_path)
    keys = [scan.images[0].series for scan in found.scans]
    assert [scan.name[:-7] for scan in found.scans] == [f"flat/series-{key}" for key in keys]
    assert len(set(keys)) == 3
    assert len({read(scan)[0].array.tobytes() for scan in found.scans}) == 3


def test_a_scan_keeps_its_name_beside_a_localizer_and_a_structure_set(tmp_path):
    series(tmp_path / "p" / "mr")
    before = worklist(tmp_path)
    scout = setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])(slices(name="scout"))
    write(tmp_path / "p" / "mr", scout, 2, names="scout_{}".format)
    save_structures(structure_set(AXIAL, {}), tmp_path / "p" / "mr" / "rs.dcm")
    after = worklist(tmp_path)
    assert after.scans == before.scans
    assert sorted(codes(after).values()) == ["localizer", "not_a_scan"]


def test_a_series_over_several_folders_has_the_one_around_them(tmp_path):
    for k, ds in enumerate(paint(slices(), 2)):
        save(ds, tmp_path / "p" / f"part_{k % 2}" / f"{k}.dcm")
    found = worklist(tmp_path)
    assert names(found) == ["p"]
    assert read(found.scans[0])[0].shape == AXIAL.shape


def test_a_copy_does_not_rename_a_series(tmp_path):
    series(tmp_path / "p1")
    before = worklist(tmp_path).scans[0]
    for place in ("export/p1_again", "p2"):
        shutil.copytree(tmp_path / "p1", tmp_path / place)
        (scan,) = worklist(tmp_path).scans
        assert scan.name == before.name
        assert read(scan)[0].shape == AXIAL.shape
    shutil.copytree(tmp_path / "p1", tmp_path / "export" / "p3")
    shutil.rmtree(tmp_path / "p1")
    assert names(worklist(tmp_path)) == ["p2"]


def test_what_is_left_out_has_the_files_of_the_scan(tmp_path):
    series(tmp_path / "a")
    write_volume(Volume(np.zeros(SHAPE, np.int16), np.eye(4)), tmp_path / "b.mhd")
    found = {one.name: one.images[0].files for one in worklist(tmp_path).scans}
    for rules in ({"exclude": "*"}, {"minimum_slices": 500}, {"since": "2999-01-01"}):
        left_out = worklist(tmp_path, **rules)
        assert {one.name: one.files for one in left_out.left_out} == found
        assert left_out.names == found.keys()
    assert len(found["b.mhd"]) == 2


def test_phantom_patients(tmp_path):
    for number in (1, 2):
        export_random_patient(tmp_path, 5, number, contrasts=("t1", "t2"), pixels=32)
    found = worklist(tmp_path)
    expected = [f"patient_00{n}/mr/{s}" for n in (1, 2) for s in ("2_t1", "3_t2")]
    assert names(found) == expected
    assert Counter(codes(found).values()) == {"localizer": 2, "modality": 2}
    assert names(worklist(tmp_path, include="*T2 SE*")) == expected[1::2]
    assert [len(scan.images[0].files) for scan in found.scans] == [
        read(scan)[0].shape[2] for scan in found.scans
    ]


# What is left out, and why.

FEW = replace(AXIAL, shape=(32, 20, 7))
THICK_SAGITTAL = replace(PLANES["sagittal"], spacing_mm=(1.0, 1.0, 4.0))
TILTED = replace(AXIAL, tilt_degrees=10.0)
OF_TYPE = {
    "localizer": ("ORIGINAL", "PRIMARY", "LOCALIZER"),
    "reformatted": ("DERIVED", "SECONDARY", "MPR"),
    "secondary": ("DERIVED", "SECONDARY"),
    "diffusion map": ("DERIVED", "PRIMARY", "DIFFUSION", "ADC"),
    "mosaic": ("ORIGINAL", "PRIMARY", "M", "MOSAIC"),
}
TROUBLES = {name: (AXIAL, setting(ImageType=list(words))) for name, words in OF_TYPE.items()} | {
    "CT": (CT, setting()),
    "scout by its description": (AXIAL, setting(SeriesDescription="3-plane scout")),
    "secondary capture": (AXIAL, setting(SOPClassUID=SOP_CLASSES["secondary capture"])),
    "synthetic": (AXIAL, setting(SyntheticData="YES")),
    "time series": (AXIAL, repeated(3, TemporalPositionIdentifier=lambda t, _: t + 1)),
    "few slices": (FEW, setting()),
    "thick sagittal slices": (THICK_SAGITTAL, setting()),
    "missing slice": (AXIAL, without(4)),
    "tilted": (TILTED, setting()),
    "colour": (AXIAL, setting(SamplesPerPixel=3, PhotometricInterpretation="RGB")),
    "two patients": (AXIAL, two_patients),
    "one slice of another width": (AXIAL, setting(5, PixelSpacing=["9", "9"])),
    "last slice without a place": (
        AXIAL,
        setting(-1, ImagePositionPatient=None, PixelSpacing=None),
    ),
    "CT among MR": (AXIAL, setting(-1, SOPClassUID=SOP_CLASSES["CT"])),
}
UNWANTED = {
    "CT": "modality",
    "localizer": "localizer",
    "scout by its description": "localizer",
    "secondary capture": "not_a_scan",
    "reformatted": "derived",
    "secondary": "derived",
    "diffusion map": "derived",
    "synthetic": "synthetic",
    "time series": "time_series",
    "mosaic": "time_series",
    "few slices": "few_slices",
    "thick sagittal slices": "plane",
}


def troubled(folder: Path, trouble: str) -> Path:
    scan, change = TROUBLES[trouble]
    for n, ds in enumerate(change(paint(slices(scan), 2))):
        save(ds, folder / f"{n}.dcm")
    return folder


@pytest.mark.parametrize("trouble", TROUBLES)
def test_series_that_are_left_out(tmp_path, trouble):
    troubled(tmp_path / "patient" / "series", trouble)
    found = worklist(tmp_path)
    assert names(found) == []
    expected = (UNWANTED.get(trouble, "damaged"), trouble not in UNWANTED)
    assert expected in {(one.code, one.failed) for one in found.left_out}
    for one in found.left_out:
        assert one.name.startswith("patient/series")
        assert "\n" not in one.reason
        assert str(tmp_path) not in one.reason


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:400]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(bytes(2000)),
        lambda file: file.write_bytes(file.read_bytes()[:-100]),
    ],
    ids=["header cut off", "empty", "zeros", "pixels cut off"],
)
def test_a_series_that_lost_its_last_slice_is_left_out(tmp_path, damage):
    folder = series(tmp_path / "series")
    damage(folder / f"image_{AXIAL.shape[2] - 1:04d}.dcm")
    one = only(worklist(tmp_path))
    assert (place(one.name), one.code, one.failed) == ("series", "damaged", True)
    assert f"image_{AXIAL.shape[2] - 1:04d}.dcm" in one.reason


def test_a_damaged_file_by_itself_is_reported(tmp_path):
    series(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.dcm").write_bytes(b"garbage")
    found = worklist(tmp_path)
    assert names(found) == ["good"]
    assert [(one.name, one.code, one.failed) for one in found.left_out] == [
        ("bad/damaged files", "damaged", True)
    ]


def test_damaged_files_of_a_series_or_a_folder_are_one(tmp_path):
    for k, ds in enumerate(paint(slices(), 2)):
        save(ds, tmp_path / "p" / f"part_{k % 2}" / f"{k}.dcm")
    for file in (tmp_path / "p").rglob("*.dcm"):
        content = file.read_bytes()
        file.write_bytes(content[: content.index(uid("first", "series").encode()) + 100])
    for number in range(4):
        (tmp_path / f"{number}.dcm").write_bytes(b"garbage")
    count = AXIAL.shape[2]
    found = worklist(tmp_path)
    loose, of_series = found.left_out
    assert (loose.name, loose.code, loose.failed) == ("damaged files", "damaged", True)
    assert loose.reason == "4 damaged files, the first: 0.dcm: not DICOM; get them again"
    assert re.fullmatch("p/series-[0-9a-f]{8}_damaged", of_series.name)
    assert of_series.reason.startswith(f"{count} damaged files, the first: 0.dcm: ")
    assert of_series.failed
    hashed = worklist(tmp_path, hash_names=True)
    assert not [one.reason for one in hashed.left_out if ".dcm" in one.reason]


def test_what_helps_is_named_in_whole_sentences(tmp_path):
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4))
    image.set_qform(np.diag([1, 1, 1, 1]) + np.eye(4, k=3) * 25, 1)
    image.to_filename(tmp_path / "it's two, places.nii")
    reason = only(worklist(tmp_path)).reason
    assert reason.startswith("sform and qform place a corner voxel 25 mm apart")
    assert reason.endswith("; choose: medp2p convert … --nifti-frame sform|qform")
    hashed = only(worklist(tmp_path, hash_names=True)).reason
    assert hashed == reason


@pytest.mark.parametrize("damage", ["empty", "garbage", "cut", "sheared"])
def test_a_damaged_image_file_is_reported(tmp_path, damage):
    path = write_image(tmp_path / "scan.nii")
    if damage == "sheared":
        affine = np.eye(4)
        affine[0, 1] = 0.3
        nib.Nifti1Image(np.zeros(SHAPE, np.int16), affine).to_filename(path)
    else:
        content = {"empty": b"", "garbage": b"x" * 1000, "cut": path.read_bytes()[:200]}
        path.write_bytes(content[damage])
    one = only(worklist(tmp_path))
    assert (one.name, one.code, one.failed) == ("scan.nii", "damaged", True)


def test_files_that_are_left_out(tmp_path):
    write_image(tmp_path / "a" / "mask.nii.gz")
    write_image(tmp_path / "a" / "t1_seg.nii.gz")
    write_image(tmp_path / "labels" / "a.nii.gz")
    write_image(tmp_path / "a" / "ct.nii.gz")
    write_image(tmp_path / "CT" / "b.nii.gz")
    write_image(tmp_path / "a" / "bold.nii.gz", (*SHAPE, 3))
    write_image(tmp_path / "a" / "thin.nii.gz", (64, 64, 3), (1, 1, 5))
    write_image(tmp_path / "a" / "coronal.nii.gz", (64, 20, 64), (1, 5, 1))
    (tmp_path / "a" / "scans.zip").write_bytes(b"PK")
    (tmp_path / "a" / "scan.mgz").write_bytes(b"mgz")
    mr = Volume(np.zeros(SHAPE, np.int16), np.eye(4), modality="CT", units="HU")
    write_volume(mr, tmp_path / "a" / "noted.nrrd")
    found = worklist(tmp_path)
    assert names(found) == []
    assert codes(found) == {
        "a/mask": "mask",
        "a/t1_seg": "mask",
        "labels/a": "mask",
        "a/ct": "modality",
        "CT/b": "modality",
        "a/bold": "time_series",
        "a/thin": "few_slices",
        "a/coronal": "plane",
        "a/scans.zip": "not_read",
        "a/scan.mgz": "not_read",
        "a/noted.nrrd": "modality",
    }
    assert not any(one.failed for one in found.left_out)


def test_a_bids_sidecar_says_what_a_file_is(tmp_path):
    for name, sidecar in {
        "ct": {"Modality": "MR"},
        "pet": {"Modality": "PT"},
        "plain": {"Modality": "CT"},
        "odd": ["no", "mapping"],
    }.items():
        write_image(tmp_path / f"sub-01_{name}.nii.gz")
        (tmp_path / f"sub-01_{name}.json").write_text(json.dumps(sidecar))
    found = worklist(tmp_path)
    assert names(found) == ["sub-01_ct", "sub-01_odd"]
    assert set(codes(found).values()) == {"modality"}


def test_two_kinds_of_image_in_one_series_need_a_choice(tmp_path):
    echoes = repeated(2, EchoNumbers=lambda t, _: t + 1, EchoTime=lambda t, _: str(20 + 80 * t))
    series(tmp_path / "s", echoes(slices()))
    left_out = worklist(tmp_path).left_out
    assert [one.code for one in left_out] == ["ambiguous"] * 2
    assert "choose one by a pattern" in left_out[0].reason
    assert not any(word in left_out[0].reason for word in ("echo", "100", "ORIGINAL"))
    found = worklist(tmp_path, include="*echo 2 at*")
    assert [read(scan)[0].shape for scan in found.scans] == [AXIAL.shape]
    other = worklist(tmp_path, include="*echo 1 at*")
    assert not np.array_equal(read(found.scans[0])[0].array, read(other.scans[0])[0].array)


def test_a_localizer_in_a_series_does_not_keep_it_out(tmp_path):
    series(tmp_path / "s", with_localizer(slices()))
    found = worklist(tmp_path)
    assert names(found) == ["s"]
    assert codes(found) == {f"s/series-{found.scans[0].images[0].series}_scout": "localizer"}
    assert read(found.scans[0])[0].shape == AXIAL.shape


KINDS = {
    "plain": setting(),
    "derived": setting(ImageType=["DERIVED", "PRIMARY", "MPR"]),
    "echo": setting(EchoNumbers=2, EchoTime="90"),
    "phase": setting(ImageType=["ORIGINAL", "PRIMARY", "P"]),
    "scout": setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
}
"""Kinds of image of one series."""
LABELS = {
    "plain": "*echo 1*ORIGINAL?PRIMARY?M",
    "derived": "*DERIVED*",
    "echo": "*echo 2*",
    "phase": "*ORIGINAL?PRIMARY?P",
}
"""What tells them apart, as `medp2p inspect` shows it."""


@pytest.mark.parametrize("order", list(permutations(["plain", "derived", "phase"])))
def test_a_kind_of_image_keeps_its_name_whatever_others_come(tmp_path, order):
    """Nor does it come again, or is read from other files."""
    known: dict[str, Scan] = {}
    for kind in (*order, "echo", "scout"):
        datasets = paint(KINDS[kind](slices()), 2)
        for k, ds in enumerate(datasets):
            ds.SOPInstanceUID = uid(kind, k)
            save(ds, tmp_path / "p" / f"{kind}_{k:02d}.dcm")
        found = worklist(tmp_path)
        assert len({one.name for one in (*found.scans, *found.left_out)}) == len(found.scans) + len(
            found.left_out
        )
        for chosen in ("plain", "derived", "echo", "phase"):
            taken = worklist(tmp_path, include=LABELS[chosen], derived=True).scans
            for scan in taken:
                assert {file.name[: len(chosen)] for file in scan.images[0].files} == {chosen}
                assert known.setdefault(chosen, scan) == scan
                assert read(scan)[0].shape == AXIAL.shape
    assert len({scan.name for scan in known.values()}) == len(known) == 4


def test_kinds_of_image_in_one_file_are_told_apart(tmp_path):
    echoes = repeated(2, EchoNumbers=lambda t, _: t + 1, EchoTime=lambda t, _: str(20 + 80 * t))
    write(tmp_path / "s", echoes(slices()), 2, multi_frame=True)
    scans = [worklist(tmp_path, include=f"*at {ms} ms*").scans[0] for ms in (20, 100)]
    assert scans[0].name != scans[1].name
    assert scans[0].images[0].files == scans[1].images[0].files
    voxels = [read(scan)[0].array for scan in scans]
    assert not np.array_equal(*voxels)


def test_synthetic_images_of_ours_are_no_inputs(tmp_path):
    source = read_volume(series(tmp_path / "source", slices(CT)))
    write_dicom_series(source, tmp_path / "made")
    found = worklist(tmp_path, OF_CT, derived=True)
    assert names(found) == ["source"]
    assert list(codes(found).values()) == ["synthetic"]


def test_the_folder_of_a_batch_is_no_input(tmp_path):
    write_image(tmp_path / "in.nii")
    write_image(tmp_path / "results" / "deep" / "out.nii")
    with Journal(tmp_path / "results"):
        pass
    (tmp_path / "link.nii").symlink_to(tmp_path / "results" / "deep" / "out.nii")
    found = worklist(tmp_path)
    assert names(found) == ["in.nii"]
    assert codes(found) == {"results": "own_output"}
    with pytest.raises(ImageReadError, match="holds results of medp2p batch"):
        worklist(tmp_path / "results")
    with pytest.raises(ImageReadError, match="no such folder"):
        worklist(tmp_path / "nowhere")


# Rules.


def test_patterns_fit_description_and_path(tmp_path):
    series(tmp_path / "p1" / "x", setting(SeriesDescription="Ax T1 MPRAGE")(slices(name="a")))
    series(tmp_path / "p2" / "y", setting(SeriesDescription="ax t2 tse")(slices(name="b")))
    write_image(tmp_path / "p3" / "anat_T1w.nii.gz")
    assert names(worklist(tmp_path, include="*t1*")) == ["p1/x", "p3/anat_T1w"]
    assert names(worklist(tmp_path, include=["*tse", "p3/*"])) == ["p2/y", "p3/anat_T1w"]
    assert names(worklist(tmp_path, exclude="*MPRAGE*")) == ["p2/y", "p3/anat_T1w"]
    found = worklist(tmp_path, include="*t1*", exclude="P1*")
    assert names(found) == ["p3/anat_T1w"]
    assert "mprage" not in repr(found.left_out).lower()


def test_study_dates(tmp_path):
    for day in ("20190823", "20240131", ""):
        trouble = setting(StudyDate=day, SeriesDate="", AcquisitionDate="")
        series(tmp_path / f"d{day}", trouble(slices(name=day)))
    write_image(tmp_path / "file.nii")
    assert len(worklist(tmp_path).scans) == 4
    found = worklist(tmp_path, since="20240131")
    assert names(found) == ["d20240131"]
    assert set(codes(found).values()) == {"date"}
    assert names(worklist(tmp_path, since="2019-01-01", to_date="2024-01-30")) == ["d20190823"]
    assert "2019-08-23" not in repr(found.left_out)


def test_planes_and_thick_slices(tmp_path):
    for plane in ("axial", "coronal", "sagittal"):
        for name, gap in (("thick", 4.0), ("fine", 1.5)):
            scan = replace(PLANES[plane], spacing_mm=(1.0, 1.0, gap))
            series(tmp_path / f"{plane} {name}", slices(scan, name=f"{plane} {name}"))
    fine = ["axial fine", "axial thick", "coronal fine", "sagittal fine"]
    assert names(worklist(tmp_path)) == fine
    assert names(worklist(tmp_path, plane="coronal")) == ["coronal fine", "coronal thick"]
    assert len(worklist(tmp_path, plane="any").scans) == 6
    sagittal = model(slices__plane="sagittal", preprocessing__spacing_mm=[None, 1.0, 1.0])
    assert "sagittal thick" in names(worklist(tmp_path, sagittal))
    assert "axial thick" not in names(worklist(tmp_path, sagittal))
    coarse = model(preprocessing__spacing_mm=[4.0, 4.0, None])
    assert len(worklist(tmp_path, coarse).scans) == 6


def test_slices_that_the_model_needs(tmp_path):
    write_image(tmp_path / "ten.nii", (32, 32, 10), (1, 1, 3))
    assert names(worklist(tmp_path)) == ["ten.nii"]
    assert "10 slices" in only(worklist(tmp_path, model(slices__stack=11))).reason
    assert only(worklist(tmp_path, minimum_slices=11)).code == "few_slices"
    assert names(worklist(tmp_path, model(slices__stack=11), minimum_slices=3)) == ["ten.nii"]


def test_a_ct_model_takes_ct(tmp_path):
    series(tmp_path / "ct", slices(CT))
    write_image(tmp_path / "x_ct.nii")
    write_image(tmp_path / "x_mr.nii")
    assert names(worklist(tmp_path, OF_CT)) == ["ct", "x_ct.nii"]
    assert names(worklist(tmp_path, OF_CT, modality="CT")) == ["ct", "x_ct.nii"]


def test_a_rule_for_another_modality_than_the_model_s_is_refused(tmp_path):
    series(tmp_path / "ct", slices(CT))
    for card, other in ((model(), "CT"), (OF_CT, "MR")):
        with pytest.raises(ConfigError, match=f"found {other}, expected .*; leave the rule out"):
            worklist(tmp_path, card, modality=other)


def test_rules_from_a_file(tmp_path):
    file = tmp_path / "rules.yaml"
    file.write_text("# at night\ninclude: '*T1*'\nsince: 20240131\nto_date: 2024-02-01\n")
    rules = load_rules(file, {"minimum_slices": 20, "exclude": None})
    assert rules.include == ("*T1*",)
    assert (str(rules.since), str(rules.to_date)) == ("2024-01-31", "2024-02-01")
    assert rules.minimum_slices == 20
    assert load_rules() == Rules()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("modality: MR\ninclud: '*'\n", "line 2: unknown rule includ; did you mean include?"),
        ("exclude:\n  - a\n  - ''\n", "line 3: exclude.1"),
        ("\n\nplane: oblique\n", "line 3: plane"),
        ("minimum_slices: 0\n", "line 1: minimum_slices"),
        ("since: yesterday\n", "line 1: since"),
        ("since: 2024-02-01\nto_date: 2024-01-01\n", "is after to_date"),
        ("a: [1\n", "not valid YAML"),
        ("- a\n", "expected settings"),
    ],
)
def test_wrong_rules_are_refused_with_their_line(tmp_path, text, words):
    file = tmp_path / "rules.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(words)) as error:
        load_rules(file)
    assert str(file) in str(error.value)


def test_wrong_options_are_refused():
    with pytest.raises(ConfigError, match="options: plane"):
        load_rules(overrides={"plane": "up"})
    with pytest.raises(ConfigError, match="cannot be read"):
        load_rules(Path("no such file.yaml"))


# Several contrasts.

TWO = model(("t1", "t2"))


def contrast(name: str, description: str, frame: str = "one", study: str = "study") -> Slices:
    frame_uid, study_uid = uid("frame", frame), uid(study)
    return setting(
        SeriesDescription=description, FrameOfReferenceUID=frame_uid, StudyInstanceUID=study_uid
    )(slices(name=name))


def test_contrasts_of_one_study_are_one_scan(tmp_path):
    series(tmp_path / "p" / "b", contrast("2", "Ax T1 SE"))
    series(tmp_path / "p" / "a", contrast("1", "Ax T2 SE"))
    series(tmp_path / "p" / "c", contrast("3", "Ax FLAIR"))
    found = worklist(tmp_path, TWO)
    (scan,) = found.scans
    assert place(scan.name) == "p/b"
    assert [image.path.name for image in scan.images] == ["b", "a"]
    assert codes(found) == {"p/c": "description"}
    by_pattern = worklist(tmp_path, TWO, sources={"t1": "*flair*", "t2": "*T2*"})
    assert [image.path.name for image in by_pattern.scans[0].images] == ["c", "a"]


def test_a_missing_contrast(tmp_path):
    series(tmp_path / "p" / "t1", contrast("1", "T1"))
    series(tmp_path / "q" / "t2", contrast("2", "T2", study="other"))
    series(tmp_path / "r" / "t1", contrast("3", "T1", study="moved"))
    series(tmp_path / "r" / "t2", contrast("4", "T2", frame="two", study="moved"))
    found = worklist(tmp_path, TWO)
    assert found.scans == ()
    assert set(codes(found).values()) == {"missing_contrast"}
    assert len(found.left_out) == 4
    assert "without t2" in found.left_out[0].reason


def test_two_candidates_for_one_contrast_are_named(tmp_path):
    series(tmp_path / "p" / "first", contrast("1", "T1"))
    series(tmp_path / "p" / "again", contrast("2", "T1 repeat"))
    series(tmp_path / "p" / "t2", contrast("3", "T2"))
    found = worklist(tmp_path, TWO)
    assert set(codes(found).values()) == {"ambiguous"}
    listed = ", ".join(sorted(one.name for one in found.left_out if "t2" not in one.name))
    assert all(listed in one.reason for one in found.left_out)
    assert names(worklist(tmp_path, TWO, exclude="*repeat*")) == ["p/first"]


def test_contrasts_in_files(tmp_path):
    for name in ("a/t1", "a/t2", "b/p1_T1w", "b/p1_T2w", "b/p2_T1w", "b/p2_T2w", "b/p3_T1w"):
        write_image(tmp_path / f"{name}.nii.gz")
    found = worklist(tmp_path, TWO)
    assert names(found) == ["a/t1", "b/p1_T1w", "b/p2_T1w"]
    pairs = [[image.path.name for image in scan.images] for scan in found.scans]
    assert pairs[2] == ["p2_T1w.nii.gz", "p2_T2w.nii.gz"]
    assert codes(found) == {"b/p3_T1w": "missing_contrast"}


def test_files_of_two_patients_are_never_joined(tmp_path):
    write_image(tmp_path / "p1_t1.nii.gz")
    write_image(tmp_path / "p2_t2.nii.gz")
    for rules in ({}, {"sources": {"t1": "*t1*", "t2": "*t2*"}}, {"joined_by": "folder"}):
        found = worklist(tmp_path, TWO, **rules)
        assert found.scans == ()
        assert codes(found) == {"p1_t1": "missing_contrast", "p2_t2": "missing_contrast"}
        assert "under a name that is the same but for that" in found.left_out[0].reason
    write_image(tmp_path / "p1_t2.nii")
    for rules in ({}, {"sources": {"t1": "*T1*", "t2": "*_t2"}}):
        found = worklist(tmp_path, TWO, **rules)
        (scan,) = found.scans
        assert [image.path.name for image in scan.images] == ["p1_t1.nii.gz", "p1_t2.nii"]
        assert codes(found) == {"p2_t2": "missing_contrast"}


@pytest.mark.parametrize(
    ("stems", "patterns", "joined"),
    [
        (("t1", "T2w"), None, True),
        (("t1", "p1_t2"), None, False),
        (("p1_t1_3", "p1_t2_4"), None, False),
        (("sub-1_mprage", "sub-1_tse"), ("*mprage*", "*tse*"), True),
        (("sub-1_mprage", "sub-2_tse"), ("*mprage*", "*tse*"), False),
        (("sub-1_mprage", "sub-2_tse"), ("sub-?_mprage", "sub-?_tse"), False),
        (("sub-1_mprage", "sub-2_tse"), ("sub-[12]_mprage", "sub-[12]_tse"), False),
        (("sub-1_mprage", "sub-1_tse"), ("sub-[12]_mprage", "sub-[12]_tse"), True),
        (("mprage sag", "tse ax"), ("mprage sag", "tse ax"), True),
        (("mprage sag", "tse ax"), ("*mprage*", "*tse*"), False),
        (("first", "second"), ("p/first.*", "p/second.*"), True),
        (("1_a", "2_a"), ("p/1_*", "p/2_*"), True),
        (("1_a", "2_b"), ("p/1_*", "p/2_*"), False),
    ],
)
def test_names_of_files_must_be_the_same_but_for_the_contrast(tmp_path, stems, patterns, joined):
    for stem in stems:
        write_image(tmp_path / "p" / f"{stem}.nii.gz")
    rules = {"sources": dict(zip(TWO.source_names, patterns, strict=True))} if patterns else {}
    found = worklist(tmp_path, TWO, **rules)
    assert [scan.name for scan in found.scans] == ([f"p/{stems[0]}"] if joined else [])
    assert len(found.left_out) == (0 if joined else 2)


def test_a_sidecar_says_the_contrast_and_the_name_whose_it_is(tmp_path):
    for stem, description in {
        "sub-01_T1w": "Sag MPRAGE",
        "sub-01_T2w": "Ax TSE",
        "sub-02_T1w": "Sag MPRAGE",
    }.items():
        write_image(tmp_path / f"{stem}.nii.gz")
        (tmp_path / f"{stem}.json").write_text(json.dumps({"SeriesDescription": description}))
    found = worklist(tmp_path, TWO, sources={"t1": "*mprage*", "t2": "*tse*"})
    assert names(found) == ["sub-01_T1w"]
    assert codes(found) == {"sub-02_T1w": "missing_contrast"}


def test_contrasts_joined_by_folder(tmp_path):
    series(tmp_path / "p", contrast("1", "T1") + contrast("2", "T2"))
    series(tmp_path / "q", contrast("3", "T1") + contrast("4", "T2"))
    assert {one.code for one in worklist(tmp_path, TWO).left_out} == {"ambiguous"}
    found = worklist(tmp_path, TWO, joined_by="folder")
    assert [scan.name.split("/")[0] for scan in found.scans] == ["p", "q"]


def test_patterns_of_other_contrasts_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="the model has t1, t2"):
        worklist(tmp_path, TWO, sources={"t1": "*T1*"})


# Names.


def raw(name: str) -> str:
    return os.fsdecode(name.encode("latin-1"))


AWKWARD = [
    "new\nline",
    "tab\tand 'quotes' \"both\"",
    "bell\a\x1b[31m",
    raw("invalid \xff\xfe"),
    "x" * 248,
    "ü" * 124,
    "back\\slash",
    "trailing. .",
    "right‮left",
    "-option",
    "$(touch pwned)",
    "日本語",
]


@pytest.mark.parametrize("awkward", AWKWARD, ids=range(len(AWKWARD)))
def test_any_name_works(tmp_path, awkward):
    write_image(tmp_path / "folder" / f"{awkward}.nii")
    series(tmp_path / awkward / "series")
    found = worklist(tmp_path)
    assert len(found.scans) == 2
    for scan in found.scans:
        assert scan.name.isprintable()
        assert all(0 < len(part.encode()) <= LONGEST_PART + 16 for part in scan.name.split("/"))
        assert read(scan)[0].array.size == scan.voxels
        result = tmp_path / "out" / f"{scan.name}.nii.gz"
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_bytes(b"")
    series(tmp_path / awkward / "series", without(3)(slices()))
    (tmp_path / awkward / "series" / "image_0011.dcm").unlink()
    shutil.rmtree(tmp_path / "out")
    for one in worklist(tmp_path).left_out:
        assert f"{one.name}{one.reason}".isprintable()


# Links.


def test_links(tmp_path):
    tree, elsewhere = tmp_path / "tree", tmp_path / "elsewhere"
    write_image(tree / "real" / "a.nii")
    write_image(tree / ".store" / "hash1.nii")
    write_image(tree / ".store" / "folder" / "c.nii")
    write_image(elsewhere / "secret" / "b.nii")
    (tree / "again").symlink_to(tree / "real")
    (tree / "again.nii").symlink_to(tree / "real" / "a.nii")
    (tree / "kept.nii").symlink_to(tree / ".store" / "hash1.nii")
    (tree / "kept twice.nii").symlink_to(tree / ".store" / "hash1.nii")
    (tree / "kept folder").symlink_to(tree / ".store" / "folder")
    (tree / "out").symlink_to(elsewhere)
    (tree / "outer.nii").symlink_to("../elsewhere/secret/b.nii")
    (tree / "out via real.nii").symlink_to(tree / "real" / ".." / ".." / "elsewhere")
    (tree / "circle").symlink_to(tree / "circle")
    (tree / "up").symlink_to(tree)
    (tree / "gone.nii").symlink_to(tree / "nothing.nii")
    os.mkfifo(tree / "pipe.nii")
    found = worklist(tree)
    assert names(found) == ["kept folder/c.nii", "kept twice.nii", "real/a.nii"]
    outside = {"out", "outer.nii", "out via real.nii"}
    others = {"gone.nii": "damaged", "pipe.nii": "not_read"}
    assert codes(found) == dict.fromkeys(outside, "outside") | others
    assert "elsewhere" not in repr(found)
    assert "secret" not in repr(found)


def test_voxels_outside_the_tree_are_not_read(tmp_path):
    image = Volume(np.zeros(SHAPE, np.int16), np.eye(4))
    write_volume(image, tmp_path / "elsewhere" / "a.mhd")
    tree = tmp_path / "tree"
    tree.mkdir()
    header = (tmp_path / "elsewhere" / "a.mhd").read_text()
    (tree / "a.mhd").write_text(header.replace("a.zraw", "../elsewhere/a.zraw"))
    assert only(worklist(tree)).code == "outside"


def test_a_tree_that_is_a_link(tmp_path):
    write_image(tmp_path / "real" / "a.nii")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert names(worklist(tmp_path / "link")) == ["a.nii"]


LOOK = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_worklist import worklist
worklist(Path(sys.argv[1]))  # all that is needed is imported now
if os.geteuid() == 0:  # root may look at everything
    os.setuid(65534)
for one in worklist(Path(sys.argv[1])).left_out:
    print(one.name, one.code, one.failed)
"""


def test_what_may_not_be_looked_at_is_reported(tmp_path):
    write_image(tmp_path / "closed" / "a.nii")
    write_image(tmp_path / "unreadable.nii").chmod(0)
    write_image(tmp_path / "not entered" / "a.nii")
    (tmp_path / "link.nii").symlink_to(tmp_path / "closed" / "a.nii")
    (tmp_path / "results" / "journal").mkdir(parents=True)
    closed = {"closed": 0, "results/journal": 0, "not entered": 0o444}
    for parent in (tmp_path, *list(tmp_path.parents)[:2]):
        parent.chmod(0o755)
    for name, mode in closed.items():
        (tmp_path / name).chmod(mode)
    command = [sys.executable, "-B", "-c", LOOK, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for name in closed:
        (tmp_path / name).chmod(0o755)
    assert done.returncode == 0, done.stderr
    expected = ("closed", "link.nii", "not entered/a.nii", "results/journal", "unreadable.nii")
    assert done.stdout.splitlines() == [f"{name} damaged True" for name in expected]


def test_a_series_whose_files_vanish_is_reported(tmp_path, monkeypatch):
    folder = series(tmp_path / "s")
    shutil.copy(folder / "image_0000.dcm", folder / "copy.dcm")

    def scan_and_lose(files, progress):
        headers = scan_files(files, progress)
        (folder / "copy.dcm").unlink()
        return headers

    monkeypatch.setattr("medp2p.conversion.worklist.scan_files", scan_and_lose)
    one = only(worklist(tmp_path))
    assert (place(one.name), one.code, one.failed) == ("s", "damaged", True)


# Parts.


def test_every_scan_is_in_one_part_whatever_else_is_there(tmp_path):
    scans = tuple(Scan(f"patient {n}/scan", ()) for n in range(300))
    left_out = tuple(LeftOut(f"patient {n}/other", "mask", "a mask") for n in range(50))
    whole = Worklist(scans, left_out)
    parts = [shard(whole, number, 7) for number in range(1, 8)]
    assert sorted((s for part in parts for s in part.scans), key=scans.index) == list(scans)
    assert sum(len(part.left_out) for part in parts) == 50
    assert min(len(part.scans) for part in parts) > 20
    fewer = Worklist(scans[::3])
    for number, part in enumerate(parts, 1):
        assert set(shard(fewer, number, 7).scans) == set(part.scans) & set(fewer.scans)
    for number, count in ((0, 7), (8, 7), (1, 0)):
        with pytest.raises(ValueError, match="parts are numbered"):
            shard(whole, number, count)


# Privacy.


def told(found: Worklist) -> str:
    """Everything that may be shown or written of a worklist, in lower case."""
    texts = [scan.name for scan in found.scans]
    texts += [f"{one.name} {one.code} {one.reason}" for one in found.left_out]
    return "\n".join(texts).lower()


def check_that_nothing_is_told(tree: Path, caplog: pytest.LogCaptureFixture) -> list[Worklist]:
    caplog.clear()
    lists = [
        worklist(tree, card, hash_names=hashed, **rules)
        for card in (model(), OF_CT)
        for hashed in (False, True)
        for rules in ({"since": "2019-08-24"}, {"exclude": "*whim??cal*"}, {})
    ]
    text = "\n".join([*map(told, lists), caplog.text.lower()])
    assert not [secret for secret in SECRETS if secret in text]
    for found in lists:
        assert str(tree).lower() not in told(found)
    return lists


@pytest.mark.parametrize("trouble", TROUBLES)
def test_nothing_of_a_header_is_told(tmp_path, caplog, trouble):
    troubled(tmp_path / "s", trouble)
    check_that_nothing_is_told(tmp_path, caplog)


@pytest.mark.slow
def test_nothing_of_any_phantom_is_told_and_what_is_listed_can_be_read(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for number, case in enumerate(case for case in CASES if not case.program):
        case.make(tmp_path / str(number) / "p", 2)
        *_, found = check_that_nothing_is_told(tmp_path / str(number), caplog)[:6]
        is_whole = isinstance(case.expected, Right) and case.where == "." and not case.options
        if is_whole and found.scans:
            (scan,) = found.scans
            assert read(scan)[0].shape == case.expected.scan.shape, case.name


def test_hashed_names_say_nothing_of_the_path(tmp_path):
    series(tmp_path / "Jane Doe" / "brain", contrast("1", "T1"))
    series(tmp_path / "Jane Doe" / "again", contrast("2", "T1"))
    broken = series(tmp_path / "Jane Doe" / "broken", slices(name="3"))
    (broken / "image_0003.dcm").write_bytes(b"")
    series(tmp_path / "John Doe" / "gap", without(4)(slices(name="4")))
    (tmp_path / "Jane Doe.nii").write_bytes(b"Jane Doe")
    nib.Nifti1Image(np.zeros((*SHAPE, 2), np.int16), np.eye(4)).to_filename(
        tmp_path / "John Doe" / "Jane's.nii"
    )
    write_image(tmp_path / "Jane Doe" / "ok.nii")
    for card in (model(), TWO):
        plain, hashed = worklist(tmp_path, card), worklist(tmp_path, card, hash_names=True)
        assert len(plain.scans) == len(hashed.scans)
        assert len(plain.left_out) == len(hashed.left_out)
        text = told(hashed)
        assert not [word for word in ("doe", "jane", "brain", "image_", "ok") if word in text]
        assert all(re.fullmatch("[0-9a-f]{12}", name) for name in names(hashed))
    assert {scan.images for scan in worklist(tmp_path).scans} == {
        scan.images for scan in worklist(tmp_path, hash_names=True).scans
    }


# Real data, and speed.


@pytest.mark.real_data
@pytest.mark.skipif(
    "MEDP2P_REAL_DATA" not in os.environ, reason="MEDP2P_REAL_DATA names no folder of real data"
)
def test_real_series():
    data = Path(os.environ["MEDP2P_REAL_DATA"]) / "dicom"
    found = worklist(data, exclude="*ground_truth*", minimum_slices=4)
    for scan in found.scans:
        assert read(scan)[0].array.size == scan.voxels
    series_names = {name.removeprefix("dicom2nifti/") for name in names(found)}
    expected = {"anatomical/001", "hitachi/anatomical/001", "siemens_multiframe/anatomical/001"}
    assert expected <= series_names
    of = codes(found)
    assert of["ge_epi_timeseries/series"] == "time_series"
    assert of["siemens_xa10_enhanced/series"] == "time_series"
    assert of["dicom2nifti/generic/anatomical/002_non_isotropic"] == "derived"
    values = set()
    for file in data.rglob("*.dcm"):
        header = pydicom.dcmread(file, stop_before_pixels=True)
        keywords = ("PatientName", "PatientID", "StudyDate", "SeriesInstanceUID", "StudyID")
        values |= {str(header.get(k, "")) for k in (*keywords, "SeriesDescription")}
    assert len(values) > 10
    reasons = " ".join(one.reason for one in found.left_out)
    assert not [value for value in values if len(value) > 3 and value in reasons]


@pytest.mark.slow
def test_ten_thousand_files_take_little_longer_than_their_headers(tmp_path):
    patient = export_random_patient(tmp_path / "one", 5, 1, pixels=32)
    images = [pydicom.dcmread(file) for file in sorted((patient / "mr" / "2_t1").iterdir())]
    count = 10_000 // len(images)
    for number in range(count):
        for k, ds in enumerate(images):
            ds.PatientID, ds.StudyInstanceUID = f"P{number // 5}", uid("study", number // 5)
            ds.SeriesInstanceUID, ds.SOPInstanceUID = uid("series", number), uid(number, k)
            path = tmp_path / "many" / f"p{number // 5}" / f"s{number % 5}" / f"{k}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            ds.save_as(path)
    files = sorted((tmp_path / "many").rglob("*.dcm"))
    assert len(files) > 9_900
    ratios = []
    for _ in range(3):
        began = time.process_time()
        assert len(worklist(tmp_path / "many").scans) == count
        ours = time.process_time() - began
        began = time.process_time()
        for file in files:
            pydicom.dcmread(file, stop_before_pixels=True)
        ratios.append(ours / (time.process_time() - began))
    assert min(ratios) < 1.7, ratios  # others on the machine disturb both sides differently
