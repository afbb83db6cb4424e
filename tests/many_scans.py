"""Three hundred small phantom scans in DICOM and NIfTI; thirty are broken or are no scans.

    python tests/many_scans.py FOLDER [TOTAL]

writes the tree, to be looked at or translated. With ``--good`` nothing in it is broken.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from dicom_phantoms import (
    PATIENT,
    SOP_CLASSES,
    Scan,
    Slices,
    Trouble,
    doubled_position,
    enhanced,
    numbers,
    pixels,
    repeated,
    save,
    save_as_said,
    set_pixels,
    setting,
    slices,
    two_patients,
    uid,
    without,
)
from numpy.typing import NDArray

from medp2p.phantom import Phantom, make_phantom

TOTAL = 300
SHAPE = (48, 48, 24)
SUBJECTS = 12
"""Heads that the scans show; every scan has noise and brightness of its own."""

Voxels = NDArray[np.int16]


@dataclass(frozen=True)
class Report:
    """What must be said of something that is not translated.

    Attributes:
        kind: ``"failed"`` if it is damaged, ``"skipped"`` if it is not wanted.
        code: As of a journal's event.
        words: What the reason must hold.
    """

    kind: str
    code: str
    words: str


@dataclass(frozen=True)
class ManyScans:
    """The tree.

    Attributes:
        folder: Where.
        good: By place below the folder the formats of the scans that a head MR model is for.
        broken: By place what must be said of the others.
    """

    folder: Path
    good: dict[str, str]
    broken: dict[str, Report]


def make_scans(folder: Path, total: int = TOTAL, *, broken: bool = True) -> ManyScans:
    """Write the tree; takes about twenty seconds for 300 scans.

    Args:
        folder: To be made.
        total: How many scans, the broken ones included.
        broken: Whether there are any.
    """
    heads = [make_phantom("head", 700 + n, shape=SHAPE, contrasts=("t1",)) for n in range(SUBJECTS)]
    reports: dict[str, Report] = {}
    for number, (case, (make, report)) in enumerate(BROKEN.items() if broken else ()):
        name = f"broken/{case}"
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        make(place, Head(heads[number % SUBJECTS], 1000 + number))
        reports[name] = report
    good: dict[str, str] = {}
    for number in range(total - len(reports)):
        head = Head(heads[number % SUBJECTS], number)
        kind, make_good = list(FORMATS.items())[number % len(FORMATS)]
        name = f"site {number % 4}/patient_{number:03d}/t1"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make_good(folder / name, head)
        good[name] = kind
    return ManyScans(folder, good, reports)


class Head:
    """One scan of a head: its voxels, and how they are written."""

    def __init__(self, phantom: Phantom, number: int) -> None:
        rng = np.random.default_rng([number, 5])
        mr = phantom.mr["t1"]
        noisy = mr.array * rng.uniform(0.7, 1.4) + rng.normal(0, 3, mr.shape)
        self.number = number
        self.mr: Voxels = np.rint(noisy).clip(0, 4095).astype(np.int16)
        self.ct: Voxels = np.rint(phantom.ct.array).astype(np.int16)
        self.affine = mr.affine
        self.spacing_mm = tuple(float(v) for v in mr.spacing_mm)

    def slices(self, modality: str = "MR", voxels: Voxels | None = None) -> Slices:
        """A classic series with pixels; every scan is of a patient and a study of its own."""
        voxels = self.mr if voxels is None else voxels
        scan = Scan(modality, shape=SHAPE, spacing_mm=self.spacing_mm)  # type: ignore[arg-type]
        datasets = slices(scan, name=f"scan {self.number}")
        for k, ds in enumerate(datasets):
            ds.PatientID = f"{PATIENT['PatientID']}-{self.number}"
            ds.StudyInstanceUID = uid("study", self.number)
            ds.FrameOfReferenceUID = uid("frame of reference", self.number)
            ds.BodyPartExamined = "HEAD"
            ds.RescaleSlope, ds.RescaleIntercept = "1", "0"
            set_pixels(ds, np.ascontiguousarray(voxels[:, :, k].T).tobytes())
        return datasets

    def nifti(self, voxels: NDArray[Any] | None = None) -> nib.Nifti1Image:
        """An image whose header says more than it should."""
        image = nib.Nifti1Image(self.mr if voxels is None else voxels, self.affine)
        image.set_qform(self.affine, 1)
        image.set_sform(self.affine, 1)
        image.header["descrip"] = f"{PATIENT['PatientName']} {PATIENT['PatientBirthDate']}".encode()
        image.header["db_name"] = PATIENT["PatientID"].encode()
        image.header["aux_file"] = PATIENT["StudyDescription"].encode()
        return image


Make = Callable[[Path, Head], None]
"""Writes a scan; the path is the folder, or the file without its suffix."""


# Good ones.


def classic(place: Path, head: Head, trouble: Trouble = lambda datasets: datasets) -> None:
    """A classic series, one file a slice."""
    for n, ds in enumerate(trouble(head.slices())):
        save(ds, place / f"image_{n:04d}.dcm")


def multi_frame(place: Path, head: Head) -> None:
    """One enhanced file."""
    save(enhanced(head.slices()), place / "image.dcm")


def compressed(place: Path, head: Head) -> None:
    """A compressed NIfTI file."""
    nib.save(head.nifti(), _named(place, ".nii.gz"))


def plain(place: Path, head: Head) -> None:
    """An uncompressed NIfTI file."""
    nib.save(head.nifti(), _named(place, ".nii"))


FORMATS: dict[str, Make] = {"NIfTI": compressed, "DICOM": classic, "enhanced DICOM": multi_frame}


# Broken ones.


def _named(place: Path, suffix: str) -> Path:
    return place.with_name(f"{place.name}{suffix}")


def _series(trouble: Trouble) -> Make:
    return lambda place, head: classic(place, head, trouble)


def _image(change: Callable[[Head], nib.Nifti1Image]) -> Make:
    return lambda place, head: nib.save(change(head), _named(place, ".nii.gz"))


def _cut(make: Make, file: Callable[[Path], Path], keep: Callable[[int], int]) -> Make:
    """Write a scan and keep the beginning of one of its files."""

    def cut(place: Path, head: Head) -> None:
        make(place, head)
        path = file(place)
        content = path.read_bytes()
        path.write_bytes(content[: keep(len(content))])

    return cut


def _last_image(place: Path) -> Path:
    return place / f"image_{SHAPE[2] - 1:04d}.dcm"


def _narrower(datasets: Slices) -> Slices:
    """Two slices of half the width."""
    for ds in datasets[10:12]:
        half = np.ascontiguousarray(pixels(ds)[:, ::2])
        ds.Columns = half.shape[1]
        set_pixels(ds, half.tobytes())
    return datasets


def _two_stacks(datasets: Slices) -> Slices:
    """The upper half is followed by a coronal stack."""
    x, y, z = datasets[-1].ImagePositionPatient
    for n, ds in enumerate(datasets[12:]):
        ds.ImageOrientationPatient = numbers((1, 0, 0, 0, 0, -1))
        ds.ImagePositionPatient = numbers((x, y + 10 * n, z))
    return datasets


def _constant(datasets: Slices) -> Slices:
    for ds in datasets:
        set_pixels(ds, np.full_like(pixels(ds), 70).tobytes())
    return datasets


def _ct(place: Path, head: Head) -> None:
    for n, ds in enumerate(head.slices("CT", head.ct)):
        save(ds, place / f"image_{n:04d}.dcm")


def _unknown_syntax(place: Path, head: Head) -> None:
    for n, ds in enumerate(head.slices()):
        path = place / f"image_{n:04d}.dcm"
        save_as_said(ds, path, "1.2.840.10008.1.2.4.9999", implicit=False)


def _with_nan(head: Head) -> nib.Nifti1Image:
    voxels = head.mr.astype(np.float32)
    voxels[20:24, 20, 12] = np.nan
    return head.nifti(voxels)


def _two_places(head: Head) -> nib.Nifti1Image:
    image = head.nifti()
    elsewhere = head.affine.copy()
    elsewhere[:3, 3] += (0, 25, 0)
    image.set_qform(elsewhere, 1)
    return image


def _sheared(head: Head) -> nib.Nifti1Image:
    image = head.nifti()
    affine = head.affine.copy()
    affine[0, 1] = 2.0
    image.set_qform(None, 0)
    image.set_sform(affine, 1)
    return image


def _text(place: Path, _: Head) -> None:
    _named(place, ".nii.gz").write_text("not scanned yet\n")


def _with_sidecar(place: Path, head: Head) -> None:
    compressed(place, head)
    _named(place, ".json").write_text(json.dumps({"Modality": "PT"}))


def _failed(code: str, words: str) -> Report:
    return Report("failed", code, words)


def _skipped(code: str, words: str) -> Report:
    return Report("skipped", code, words)


BROKEN: dict[str, tuple[Make, Report]] = {
    # Files
    "file cut short": (
        _cut(compressed, lambda place: _named(place, ".nii.gz"), lambda size: size // 2),
        _failed("unreadable", "cut short"),
    ),
    "plain file cut short": (
        _cut(plain, lambda place: _named(place, ".nii"), lambda size: size - 500),
        _failed("unreadable", "cut short"),
    ),
    "empty file": (
        lambda place, _: _named(place, ".nii.gz").touch(),
        _failed("damaged", "0 bytes"),
    ),
    "text": (
        _text,
        _failed("damaged", "not gzip"),
    ),
    "not a number": (_image(_with_nan), _failed("unreadable", "NaN")),
    "constant": (
        _image(lambda head: head.nifti(np.full(SHAPE, 70, np.int16))),
        _failed("unreadable", "no body found"),
    ),
    "four dimensions": (
        _image(lambda head: head.nifti(np.stack([head.mr] * 3, axis=-1))),
        _skipped("time_series", "3 volumes"),
    ),
    "brain_mask": (
        _image(lambda head: head.nifti((head.mr > 100).astype(np.uint8))),
        _skipped("mask", "a mask or labels"),
    ),
    "hounsfield units": (
        _image(lambda head: head.nifti(head.ct)),
        _failed("unreadable", "look like a CT in HU"),
    ),
    "sform against qform": (_image(_two_places), _failed("damaged", "sform and qform")),
    "sheared": (_image(_sheared), _failed("damaged", "perpendicular")),
    "sidecar": (_with_sidecar, _skipped("modality", "PET; expected MR")),
    # DICOM series
    "pixels cut short": (
        _cut(classic, _last_image, lambda size: size - 100),
        _failed("damaged", "image_0023.dcm"),
    ),
    "header cut short": (
        _cut(classic, _last_image, lambda _: 400),
        _failed("damaged", "image_0023.dcm"),
    ),
    "enhanced cut short": (
        _cut(multi_frame, lambda place: place / "image.dcm", lambda size: size // 2),
        _failed("damaged", "cut short"),
    ),
    "missing slice": (_series(without(10)), _failed("damaged", "missing")),
    "two widths": (_series(_narrower), _failed("damaged", "2 slice(s) missing")),
    "two orientations": (
        _series(_two_stacks),
        _skipped("ambiguous", "2 kinds of image in one series"),
    ),
    "one place twice": (_series(doubled_position), _failed("damaged", "with other pixels")),
    "two patients": (_series(two_patients), _failed("damaged", "two patients")),
    "no body": (_series(_constant), _failed("unreadable", "no body found")),
    "unknown syntax": (_unknown_syntax, _failed("damaged", "cannot be decoded")),
    "ct": (_ct, _skipped("modality", "CT; expected MR")),
    "pet": (
        _series(setting(Modality="PT", SOPClassUID=SOP_CLASSES["PET"])),
        _skipped("not_a_scan", "Positron Emission Tomography"),
    ),
    "scout": (
        _series(setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
        _skipped("localizer", "localizer"),
    ),
    "secondary capture": (
        _series(setting(SOPClassUID=SOP_CLASSES["secondary capture"])),
        _skipped("not_a_scan", "Secondary Capture"),
    ),
    "time series": (
        _series(repeated(3, TemporalPositionIdentifier=lambda t, _: t + 1)),
        _skipped("time_series", "3 volumes"),
    ),
    "derived": (
        _series(setting(ImageType=["DERIVED", "SECONDARY", "MPR"])),
        _skipped("derived", "made of other images"),
    ),
    "synthetic": (_series(setting(SyntheticData="YES")), _skipped("synthetic", "synthetic")),
    "few slices": (
        _series(lambda datasets: datasets[:5]),
        _skipped("few_slices", "5 slices; expected at least 8"),
    ),
}
"""What is written, and what must be said of it."""


if __name__ == "__main__":
    arguments = [word for word in sys.argv[1:] if word != "--good"]
    make_scans(
        Path(arguments[0]), *map(int, arguments[1:2]), broken=len(arguments) == len(sys.argv) - 1
    )
