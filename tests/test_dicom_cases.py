"""Every case of `dicom_phantoms`: the volume is right, or the error is the one promised.

What is right is computed from the phantom alone: a voxel's value is where it was scanned.
"""

from __future__ import annotations

import logging
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dicom_phantoms as phantoms
import numpy as np
import pytest
from dicom_phantoms import CASES, MARK, SECRETS, Case, Refused, Resampled, Right, RightOrRefused
from numpy.typing import NDArray

from medp2p.errors import MedP2PError
from medp2p.io import DicomOptions, read_volume
from medp2p.io.geometry import shear_degrees
from medp2p.volume import Volume

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@contextmanager
def nothing_told(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail if a message, log record or warning repeats what a header says of the patient."""
    caplog.clear()
    texts = []
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        try:
            yield
        except MedP2PError as error:
            texts.append(str(error))
            raise
        finally:
            texts += [record.getMessage() for record in caplog.records]
            texts += [str(record.exc_info) for record in caplog.records if record.exc_info]
            texts += [str(each.message) for each in caught]
            told = [t for t in texts if any(secret in t.lower() for secret in SECRETS)]
            assert not told
    assert not [str(each.message) for each in caught]


def read(case: Case, folder: Path) -> Volume:
    options = dict(case.options)
    if "dicom" in options:
        options["dicom"] = DicomOptions(**options["dicom"])
    return read_volume(folder / case.where, **options)


def lps_positions(volume: Volume) -> NDArray[np.float64]:
    """Where the volume says that its voxels lie, LPS mm, (i, j, k, 3)."""
    affine = RAS_FROM_LPS @ volume.affine
    index = np.stack(np.meshgrid(*[np.arange(n) for n in volume.array.shape], indexing="ij"), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def corners(affine: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    index = np.stack(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij"), -1).reshape(8, 3)
    return index @ affine[:3, :3].T + affine[:3, 3]


def check_right(volume: Volume, expected: Right | RightOrRefused, axis: int) -> None:
    scan = expected.scan
    assert volume.shape == scan.shape
    off = corners(RAS_FROM_LPS @ volume.affine, scan.shape) - corners(scan.lps_affine, scan.shape)
    assert np.abs(off).max() <= max(expected.tolerance_mm, 1e-3)
    values = volume.array.astype(np.float64) - MARK * expected.mark
    assert np.abs(values - lps_positions(volume)[..., axis]).max() <= expected.tolerance_mm
    assert volume.modality == scan.modality
    assert volume.units == ("HU" if scan.modality == "CT" else None)
    assert volume.dicom is not None


def check_resampled(volume: Volume, expected: Resampled, axis: int) -> None:
    """Voxels between scanned slices hold their own coordinate; every scanned voxel is covered."""
    assert shear_degrees(volume.affine) < 1e-3
    datasets = expected.trouble(phantoms.slices(expected.scan))
    places = np.array([[float(v) for v in ds.ImagePositionPatient] for ds in datasets])
    rows, columns = datasets[0].Rows, datasets[0].Columns
    between_rows, between_columns = (float(v) for v in datasets[0].PixelSpacing)
    row, column, normal = expected.scan.row, expected.scan.column, expected.scan.normal
    positions = lps_positions(volume)
    height = positions @ normal
    heights = places @ normal
    first = np.stack([np.interp(height, heights, places[:, a]) for a in range(3)], -1)
    i = (positions - first) @ row / between_columns
    j = (positions - first) @ column / between_rows
    slack = 1e-6
    inside = (i >= -slack) & (i <= columns - 1 + slack) & (j >= -slack) & (j <= rows - 1 + slack)
    inside &= (height >= heights[0] - slack) & (height <= heights[-1] + slack)
    assert inside.sum() >= 0.6 * rows * columns * len(datasets)
    values = volume.array.astype(np.float64)
    off = np.abs(values - positions[..., axis])
    assert off[inside].max() <= expected.tolerance_mm
    assert ((off <= expected.tolerance_mm) | (values == values.min())).all()
    to_index = np.linalg.inv(RAS_FROM_LPS @ volume.affine)
    for place in places:
        scanned = np.eye(4)
        scanned[:3, 0] = np.array(row) * between_columns
        scanned[:3, 1] = np.array(column) * between_rows
        scanned[:3, 3] = place
        index = corners(to_index @ scanned, (columns, rows, 1))
        assert index.min() >= -1e-3
        assert (index <= np.array(volume.shape) - 1 + 1e-3).all()


def check_error(
    error: MedP2PError, folder: Path, error_class: str = ".*", words: tuple[str, ...] = ()
) -> None:
    """The folder's own name counts for nothing: it holds the name of the case."""
    assert re.fullmatch(error_class, type(error).__name__)
    assert str(folder) in str(error)
    text = str(error).replace(str(folder), "FOLDER")
    assert "\n" not in text
    for word in words:
        assert re.search(word, text, re.IGNORECASE), f"{word!r} is not in: {text}"


def log_text(caplog: pytest.LogCaptureFixture, folder: Path) -> str:
    records = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert all(r.name.startswith("medp2p") for r in records)
    return "\n".join(record.getMessage().replace(str(folder), "FOLDER") for record in records)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace("/", " or "))
def test_case(case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if case.program and not shutil.which(case.program):
        pytest.skip(f"{case.program} (Debian package dcmtk) is not here")
    expected = case.expected
    for axis in (2,) if isinstance(expected, Refused) else (0, 1, 2):
        folder = tmp_path / f"phantom_{axis}"
        case.make(folder, axis)
        error = None
        try:
            with nothing_told(caplog):
                volume = read(case, folder)
        except MedP2PError as refusal:
            error = refusal
        match expected:
            case Refused():
                assert error is not None, "nothing was refused"
                check_error(error, folder, expected.error, expected.words)
            case Resampled():
                assert error is None, error
                check_resampled(volume, expected, axis)
            case RightOrRefused() if error is not None:
                check_error(error, folder, "(ImageRead|Geometry)Error")
            case Right() | RightOrRefused():
                assert error is None, error
                check_right(volume, expected, axis)
                if expected.logged:
                    assert re.search(expected.logged, log_text(caplog, folder), re.IGNORECASE)
        shutil.rmtree(folder)


def test_phantom_shows_a_hundredth_of_a_millimetre() -> None:
    """Voxels hold their place to half a stored step, far below what the tests look for."""
    for axis in range(3):
        for scan in phantoms.PLANES.values():
            for k, ds in enumerate(phantoms.paint(phantoms.slices(scan), axis)):
                kind = np.int16 if ds.PixelRepresentation else np.uint16
                stored = phantoms.pixels(ds).view(kind).astype(float)
                values = stored * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
                i, j = np.meshgrid(np.arange(ds.Columns), np.arange(ds.Rows))
                place = scan.lps_affine @ np.stack([i, j, i * 0 + k, i * 0 + 1]).reshape(4, -1)
                assert np.abs(values.ravel() - place[axis]).max() < 0.0041


def test_a_wrong_place_would_be_noticed(tmp_path: Path) -> None:
    """The checks fail on a volume that is off by 0.01 mm, flipped, or of the wrong series."""
    case: Any = next(case for case in CASES if case.name == "oblique rising, classic")
    case.make(tmp_path, 0)
    volume = read(case, tmp_path)
    check_right(volume, case.expected, 0)
    shifted = volume.affine.copy()
    shifted[0, 3] += 0.01
    flipped = volume.array[..., ::-1]
    for wrong in (
        Volume(volume.array, shifted, "MR", dicom=volume.dicom),
        volume.with_array(flipped),
        volume.with_array(volume.array + 1),
    ):
        with pytest.raises(AssertionError):
            check_right(wrong, case.expected, 0)
