"""Written series, judged by programs that know nothing of medp2p (Debian packages).

dciodvfy and dcentvfy (dicom3tools) check objects and series, dcmftest and storescu (dcmtk) that
they travel, Orthanc that they arrive, dcm2niix that their voxels lie where ours do.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import oblique_affine
from dicom_phantoms import (
    CHARACTER_SETS,
    PLANES,
    Scan,
    Slices,
    long_uids,
    private_tags,
    setting,
    slices,
    write,
)
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from medp2p.io import read_volume, write_volume
from medp2p.io.dicom_write import DicomOutput, write_dicom_series
from medp2p.volume import Volume, axial_grid, reorient

SECONDS = 60
"""Longest that a program may take."""

MODEL = DicomOutput(model_name="model.safetensors", model_hash="ab" * 32)
SMALL = Scan(shape=(16, 12, 4), spacing_mm=(4.0, 5.0, 3.0), centre_mm=(3.0, -7.0, 11.0))

FALSE_ALARMS = ("(0x0008,0x001c)", "this is a Standard Extended SOP Class")
"""The 2022 build of dciodvfy does not know SyntheticData, which is in the standard since 2022."""

BANNERS = ("CTImage", "MRImage")

NOT_JUDGED = ("ISO_IR 13", "GBK", "\\ISO 2022 IR 58")
"""dciodvfy takes letters of the first two for control characters, in the source as well; pydicom
writes the third without its escape sequences."""

UNKNOWN_SIDE = "is only permitted to be empty when actually unknown"
NO_DICOMDIR = "Missing attribute or value that would be needed to build DICOMDIR"


def run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program, or skip where it is not installed."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    command = [program, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False
    )


def remarks(path: Path) -> list[str]:
    """What dciodvfy finds in one file, but for its one false alarm."""
    done = run("dciodvfy", path)
    lines = (done.stdout + done.stderr).splitlines()
    found = [
        line
        for line in lines
        if line.strip() and line not in BANNERS and not any(known in line for known in FALSE_ALARMS)
    ]
    return found if done.returncode == 0 else [f"exit code {done.returncode}", *found]


def check_series(folder: Path, allowed: tuple[str, ...] = ()) -> None:
    """Validate all files of a series, singly and together."""
    files = sorted(folder.iterdir())
    for path in (files[0], files[len(files) // 2], files[-1]):
        found = remarks(path)
        assert [line for line in found if not any(words in line for words in allowed)] == []
    together = run("dcentvfy", *files)
    assert (together.returncode, together.stdout, together.stderr) == (0, "", "")


def translated(folder: Path, datasets: Slices, modality: str, **options: Any) -> Volume:
    """A synthetic volume on the grid of a series."""
    write(folder, datasets, 2, **options)
    source = read_volume(folder)
    values = np.rint(source.array.astype(np.float32)) + 300
    units = "HU" if modality == "CT" else None
    return source.with_array(values, modality=modality, units=units, path=None)


def made(modality: str, affine: NDArray[np.float64] | None = None) -> Volume:
    """A synthetic volume that was never DICOM."""
    values = np.random.default_rng(0).integers(0, 2000, (30, 20, 6)).astype(np.int16)
    affine = np.diag([1.5, 2.0, 3.0, 1.0]) if affine is None else affine
    units = "HU" if modality == "CT" else None
    return Volume(values, affine, modality=modality, units=units)


def headers(**values: Any) -> Callable[[], Slices]:
    return lambda: setting(**values)(slices(SMALL))


HOSPITALS: dict[str, Callable[[], Slices]] = {
    "plain": headers(),
    "private tags, German": lambda: private_tags(
        headers(
            SpecificCharacterSet="ISO_IR 100",
            PatientName="Müller^Jürgen",
            StudyDescription="Schädel, übliche Serie",
            PatientWeight="71.5",
            PatientSize="1.80",
            IssuerOfPatientID="KH Süd",
        )()
    ),
    "long UIDs": lambda: long_uids(slices(SMALL)),
    "right knee": headers(BodyPartExamined="KNEE", Laterality="R"),
    "head with a side": headers(BodyPartExamined="HEAD", Laterality="L"),
    "lower case": headers(BodyPartExamined="Head", PatientSex="f"),
    "lossy": headers(
        LossyImageCompression="01",
        LossyImageCompressionRatio="8",
        LossyImageCompressionMethod="ISO_10918_1",
    ),
    "de-identified before": headers(PatientIdentityRemoved="YES"),
    "wrong values": headers(
        PatientBirthDate="1937.02.14",
        PatientSex="male",
        PatientAge="86",
        PatientPosition="SUPINE",
        PatientWeight="0",
        PositionReferenceIndicator="",
    ),
    "no frame of reference": headers(FrameOfReferenceUID=None, Manufacturer=None),
}

INCOMPLETE: dict[str, Callable[[], Slices]] = {
    "no body part": headers(BodyPartExamined=None),
    "a knee of no side": headers(BodyPartExamined="KNEE"),
    "nothing that may be missing": headers(
        **dict.fromkeys(
            (
                "PatientName",
                "PatientBirthDate",
                "PatientSex",
                "PatientAge",
                "StudyDate",
                "StudyTime",
                "StudyID",
                "StudyDescription",
                "AccessionNumber",
                "ReferringPhysicianName",
                "PatientPosition",
                "PositionReferenceIndicator",
                "BodyPartExamined",
                "FrameOfReferenceUID",
                "SeriesNumber",
                "Manufacturer",
            )
        )
    ),
    "dates of another standard": headers(StudyDate="2019.08.23", StudyTime="10:17:33"),
}
"""Sources that lack what a complete header needs; nothing may be invented for them."""


@pytest.mark.external
@pytest.mark.parametrize("multi_frame", [False, True], ids=["classic", "enhanced"])
@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("hospital", HOSPITALS)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_objects_and_series_are_valid(
    tmp_path: Path, hospital: str, modality: str, multi_frame: bool
) -> None:
    made_by = HOSPITALS[hospital]()
    volume = translated(tmp_path / "in", made_by, modality, multi_frame=multi_frame)
    write_dicom_series(volume, tmp_path / "out", MODEL)
    check_series(tmp_path / "out")


@pytest.mark.external
@pytest.mark.parametrize("source", INCOMPLETE)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_what_the_source_lacks_is_the_only_remark(tmp_path: Path, source: str) -> None:
    volume = translated(tmp_path / "in", INCOMPLETE[source](), "CT")
    write_dicom_series(volume, tmp_path / "out", MODEL)
    check_series(tmp_path / "out", allowed=(UNKNOWN_SIDE, NO_DICOMDIR))


@pytest.mark.external
@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("label", [None, "合成 für Łukasz"])
def test_series_without_a_source_are_valid(
    tmp_path: Path, modality: str, label: str | None
) -> None:
    options = replace(MODEL, series_description=label)
    write_dicom_series(made(modality), tmp_path / "bare", options)
    check_series(tmp_path / "bare", allowed=(UNKNOWN_SIDE,))
    said = replace(options, body_part="PELVIS", patient_id="P1", patient_name="Doe^Jane")
    write_dicom_series(made(modality, oblique_affine()), tmp_path / "said", said)
    check_series(tmp_path / "said")


@pytest.mark.external
@pytest.mark.parametrize("label", [None, "合成 für Łukasz"], ids=["ASCII label", "other label"])
@pytest.mark.parametrize("terms", CHARACTER_SETS)
def test_names_of_any_script_are_valid(tmp_path: Path, terms: str, label: str | None) -> None:
    if terms in NOT_JUDGED:
        pytest.skip("dciodvfy does not know this character set, or pydicom cannot write it")
    name = CHARACTER_SETS[terms].rstrip("=")
    name = name if "^" in name else f"{name}^A"
    trouble = setting(SpecificCharacterSet=terms.split("\\"), PatientName=name)
    volume = translated(tmp_path / "in", trouble(slices(SMALL)), "CT")
    write_dicom_series(volume, tmp_path / "out", replace(MODEL, series_description=label))
    check_series(tmp_path / "out")


@pytest.mark.external
@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("multi_frame", [False, True], ids=["classic", "enhanced"])
def test_deidentified_series_are_valid(tmp_path: Path, modality: str, multi_frame: bool) -> None:
    volume = translated(tmp_path / "in", slices(SMALL), modality, multi_frame=multi_frame)
    options = replace(MODEL, deidentify_key=b"0123456789abcdef")
    write_dicom_series(volume, tmp_path / "out", options)
    check_series(tmp_path / "out")


@pytest.mark.external
def test_a_resliced_series_is_valid(tmp_path: Path) -> None:
    scan = replace(PLANES["oblique coronal"], shape=(16, 12, 6))
    volume = translated(tmp_path / "in", slices(scan), "CT")
    grid = axial_grid(volume.grid)
    axial = replace(volume, array=np.zeros(grid.shape, np.int16), affine=grid.affine)
    write_dicom_series(axial, tmp_path / "out", MODEL)
    check_series(tmp_path / "out")


@pytest.mark.external
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_files_are_dicom_files(tmp_path: Path, modality: str) -> None:
    write_dicom_series(made(modality), tmp_path / "out", MODEL)
    for path in sorted((tmp_path / "out").iterdir()):
        assert run("dcmftest", path).stdout.startswith("yes:")
        dumped = run("dcmdump", path)
        assert (dumped.returncode, dumped.stderr) == (0, "")


# dcm2niix


def same_place(found: Volume, expected: Volume) -> None:
    turned = reorient(found, expected.orientation)
    np.testing.assert_allclose(turned.affine, expected.affine, atol=1e-3)
    np.testing.assert_array_equal(turned.array, expected.array)


def by_dcm2niix(folder: Path, place: Path) -> Volume:
    place.mkdir()
    done = run("dcm2niix", "-b", "n", "-z", "n", "-f", "found", "-o", place, folder)
    (path,) = place.glob("*.nii")
    assert done.returncode == 0
    image: Any = nib.load(path)
    assert image.header.get_slope_inter() in ((None, None), (1.0, 0.0))
    return Volume(np.asanyarray(image.dataobj), image.affine)


@pytest.mark.external
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_another_reader_finds_every_voxel_in_its_place(
    tmp_path: Path, plane: str, modality: str
) -> None:
    """The series as dcm2niix reads it against our own NIfTI of the same result."""
    volume = translated(tmp_path / "in", slices(PLANES[plane]), modality)
    write_dicom_series(volume, tmp_path / "series", MODEL)
    write_volume(volume, tmp_path / "ours.nii.gz", dtype="int16")
    found = by_dcm2niix(tmp_path / "series", tmp_path / "found")
    same_place(found, volume)
    same_place(found, read_volume(tmp_path / "ours.nii.gz"))


@pytest.mark.external
@pytest.mark.parametrize("orientation", ["RAS", "LAS", "PSR", "SLA"])
def test_another_reader_finds_left_handed_axes_in_their_place(
    tmp_path: Path, orientation: str
) -> None:
    volume = reorient(made("CT", oblique_affine()), orientation)
    write_dicom_series(volume, tmp_path / "series")
    same_place(by_dcm2niix(tmp_path / "series", tmp_path / "found"), volume)


# Orthanc


class Orthanc:
    """A running archive, spoken to by its REST interface."""

    def __init__(self, dicom_port: int, http_port: int) -> None:
        self.dicom_port = dicom_port
        self.url = f"http://127.0.0.1:{http_port}"

    def get(self, path: str) -> Any:
        return json.loads(self.bytes_at(path))

    def bytes_at(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=SECONDS) as answer:
            content: bytes = answer.read()
        return content


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Its own configuration, ports and folder; it takes images from this machine only."""
    program = shutil.which("Orthanc", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None or shutil.which("storescu") is None:
        pytest.skip("Orthanc and storescu are not both installed")
    folder = tmp_path_factory.mktemp("orthanc")
    dicom_port, http_port = free_ports()
    configuration = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [],
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomPort": dicom_port,
        "DicomAet": "ARCHIVE",
        "DicomAlwaysAllowStore": False,
        "DicomCheckModalityHost": True,
        "DicomModalities": {"test": ["STORESCU", "127.0.0.1", dicom_port]},
        "MaximumStorageSize": 200,
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    limited = ["timeout", "300", program, str(folder / "orthanc.json")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(limited, stdout=log, stderr=log)
    archive = Orthanc(dicom_port, http_port)
    try:
        wait_for(archive, process, folder / "log")
        yield archive
    finally:
        process.terminate()
        process.wait(SECONDS)


def wait_for(archive: Orthanc, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(10 * SECONDS):
        try:
            archive.get("/system")
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text(errors="replace")
            time.sleep(0.1)
        else:
            return
    pytest.fail("Orthanc does not answer")


SENT: dict[str, Callable[[Path], Volume]] = {
    "CT of a classic source": lambda folder: translated(
        folder, setting(PatientID="classic")(slices(SMALL)), "CT"
    ),
    "MR of an enhanced source": lambda folder: translated(
        folder,
        setting(
            PatientID="enhanced",
            SpecificCharacterSet=["", "ISO 2022 IR 87"],
            PatientName=CHARACTER_SETS["\\ISO 2022 IR 87"],
        )(slices(PLANES["oblique"])),
        "MR",
        multi_frame=True,
    ),
    "CT of no source": lambda _: made("CT", oblique_affine()),
}


@pytest.mark.external
@pytest.mark.parametrize("kind", SENT)
def test_an_archive_stores_and_returns_every_data_set(
    tmp_path: Path, orthanc: Orthanc, kind: str
) -> None:
    volume = SENT[kind](tmp_path / "in")
    write_dicom_series(volume, tmp_path / "out", MODEL)
    files = sorted((tmp_path / "out").iterdir())
    to = ("-aec", "ARCHIVE", "127.0.0.1", str(orthanc.dicom_port))
    sent = run("storescu", *to, *files)
    assert (sent.returncode, sent.stderr) == (0, "")
    first = dcmread(files[0])
    series = [
        key
        for key in orthanc.get("/series")
        if orthanc.get(f"/series/{key}")["MainDicomTags"]["SeriesInstanceUID"]
        == first.SeriesInstanceUID
    ]
    assert len(series) == 1
    order = orthanc.get(f"/series/{series[0]}/ordered-slices")
    assert order["Type"] == "Volume"
    assert len(order["Slices"]) == len(files)
    returned = [dcmread(BytesIO(orthanc.bytes_at(path))) for path in order["Dicom"]]
    by_height = sorted(returned, key=lambda ds: float(ds.SliceLocation))
    for path, back in zip(files, by_height, strict=True):
        assert elements(back) == elements(dcmread(path))


def elements(ds: Dataset) -> dict[str, Any]:
    """Every element with its value, pixels too; in an empty one None and "" are the same."""
    return {str(e.tag): e.value or "" if e.VR != "OW" else bytes(e.value) for e in ds}


@pytest.mark.external
def test_a_rerun_is_the_same_object_to_an_archive(tmp_path: Path, orthanc: Orthanc) -> None:
    to = ("-aec", "ARCHIVE", "127.0.0.1", str(orthanc.dicom_port))
    counts = []
    for name in ("a", "b"):
        datasets = setting(PatientID="rerun")(slices(SMALL, "rerun"))
        volume = translated(tmp_path / f"in_{name}", datasets, "CT")
        write_dicom_series(volume, tmp_path / name, MODEL)
        assert run("storescu", *to, *sorted((tmp_path / name).iterdir())).returncode == 0
        counts.append(orthanc.get("/statistics")["CountInstances"])
    assert counts[0] == counts[1] > 0
