"""Small cases on the disk for the tests of evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from medp2p.volume import Volume

Array = NDArray[Any]
SHAPE = (20, 18, 14)
AFFINE = np.array([[-1.5, 0, 0, 30.0], [0, 0, 2.0, -5], [0, 1.2, 0, 7], [0, 0, 0, 1]])


def ct_array(seed: int = 0) -> Array:
    """Air around a box of soft tissue with a plate of bone; noise of 20 HU."""
    random = np.random.default_rng(seed)
    array = np.full(SHAPE, -1000)
    array[4:16, 4:14, 2:12] = 40
    array[4:6, 4:14, 2:12] = 800
    return (array + random.integers(-20, 21, SHAPE)).astype(np.int16)


def mask_array() -> Array:
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:16, 4:14, 2:12] = 1
    return mask


def volume(array: Array, affine: Array = AFFINE) -> Volume:
    return Volume(array, affine)


def save(path: Path, array: Array, affine: Array = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def write_references(folder: Path, numbers: range) -> Path:
    """Write ``p1/ct``, ``mask`` and ``mr`` and so on."""
    for number in numbers:
        save(folder / f"p{number}/ct.nii.gz", ct_array(number))
        save(folder / f"p{number}/mask.nii.gz", mask_array())
        save(folder / f"p{number}/mr.nii.gz", ct_array(number + 100) + np.int16(1100))
    return folder


def write_predictions(folder: Path, numbers: range, errors: dict[int, int] | int) -> Path:
    """Write predictions that are too high by an error in HU, the same for all or by case."""
    for number in numbers:
        error = errors if isinstance(errors, int) else errors[number]
        save(folder / f"p{number}.nii.gz", ct_array(number) + np.int16(error))
    return folder


def run(*arguments: object) -> int:
    """Run the command and return its exit code."""
    from medp2p.cli import main

    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)
