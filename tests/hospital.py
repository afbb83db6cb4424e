"""A folder of thirty phantom patients as a hospital exports them, eight of them with a fault."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import CTImageStorage, MRImageStorage

from medp2p.phantom import Contrast, case_seed
from medp2p.phantom.dicom_export import ct_series, mr_series, write_patient
from medp2p.phantom.hospital import PatientScans, make_patient, random_plan
from medp2p.volume import Grid

PATIENTS = 30
SERIES_SEED = 77
PIXELS = 96
MR_SLICE_MM = 5.0


@dataclass(frozen=True)
class Hospital:
    """Where the patients lie, and who has which fault.

    Attributes:
        folder: Holds ``patient_001`` to ``patient_030``.
        without_ct: Have an MR study only.
        two_mrs: Have a T1 and a T2 that both fit.
        wrong_ct: Has a CT of somebody else under his own name.
        broken: His CT is half a download: slices are missing and the last one is cut short.
        swapped: His MR is labelled CT, and his CT is labelled MR.
        flat: Have all their files side by side in one folder.
    """

    folder: Path
    without_ct: tuple[str, ...] = ("patient_004", "patient_011", "patient_023")
    two_mrs: tuple[str, ...] = ("patient_007", "patient_019")
    wrong_ct: str = "patient_013"
    broken: str = "patient_016"
    swapped: str = "patient_026"
    flat: tuple[str, ...] = ("patient_005", "patient_020")

    @property
    def faulty(self) -> set[str]:
        """Who must not train unasked."""
        alone = {self.wrong_ct, self.broken, self.swapped}
        return alone | set(self.without_ct) | set(self.two_mrs)

    @property
    def sound(self) -> set[str]:
        """Who must train."""
        return {patient_name(number) for number in range(1, PATIENTS + 1)} - self.faulty


def patient_name(number: int) -> str:
    return f"patient_{number:03d}"


def make_hospital(folder: Path) -> Hospital:
    """Write the patients; takes about a minute on one core."""
    hospital = Hospital(folder)
    for number in range(1, PATIENTS + 1):
        write_hospital_patient(hospital, number)
    return hospital


def write_hospital_patient(hospital: Hospital, number: int) -> None:
    """Write one of them, with his fault if he has one."""
    name = patient_name(number)
    scans = _scans(number, two_contrasts=name in hospital.two_mrs)
    if name == hospital.wrong_ct:
        scans = replace(scans, ct=_scans(number + PATIENTS).ct)
    series = mr_series(scans, number)
    if name not in hospital.without_ct:
        series += ct_series(scans, number)
    layout = "flat" if name in hospital.flat else "folders"
    write_patient(series, hospital.folder / name, layout=layout)
    if name == hospital.swapped:
        _swap_labels(hospital.folder / name)
    if name == hospital.broken:
        _stop_download(hospital.folder / name / "ct" / "2_axial")


def _scans(number: int, *, two_contrasts: bool = False) -> PatientScans:
    contrasts: tuple[Contrast, ...] = ("t1", "t2") if two_contrasts else ("t1",)
    seed = case_seed(SERIES_SEED, number)
    plan = random_plan(seed, contrasts=contrasts, pixels=PIXELS, turned=False)
    return make_patient(replace(plan, mr_grid=_with_thin_slices(plan.mr_grid)))


def _with_thin_slices(grid: Grid) -> Grid:
    """The same field of view in slices of at most `MR_SLICE_MM`."""
    spacing = grid.spacing_mm
    thin = min(float(spacing[2]), MR_SLICE_MM)
    count = round(grid.shape[2] * spacing[2] / thin)
    affine = grid.affine.copy()
    affine[:3, 2] *= thin / spacing[2]
    affine[:3, 3] += (grid.affine[:3, 2] * (grid.shape[2] - 1) - affine[:3, 2] * (count - 1)) / 2
    return Grid((*grid.shape[:2], count), affine)


def _swap_labels(patient: Path) -> None:
    """Call the MR a CT and the CT an MR, and leave all else as it is."""
    labels = {"mr": ("CT", CTImageStorage), "ct": ("MR", MRImageStorage)}
    for study, (modality, storage) in labels.items():
        for file in sorted((patient / study).rglob("IM*")):
            image = dcmread(file)
            image.Modality, image.SOPClassUID = modality, storage
            image.file_meta.MediaStorageSOPClassUID = storage
            if modality == "CT":
                image.RescaleSlope, image.RescaleIntercept = "1", "0"
            image.save_as(file, enforce_file_format=True)


def _stop_download(series: Path) -> None:
    """Keep two thirds of the files, the last of them cut to half."""
    files = sorted(series.iterdir())
    keep = 2 * len(files) // 3
    for file in files[keep:]:
        file.unlink()
    cut = files[keep - 1]
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
