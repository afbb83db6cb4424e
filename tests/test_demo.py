"""The whole job as a newcomer runs it."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytestmark = pytest.mark.slow

WANTED_GAIN = 0.40
HARD_ENOUGH_HU = 100


def masked_mae(prediction: Path, case: Path) -> float:
    """By nibabel and NumPy alone."""
    ct, mask = nib.load(case / "ct.nii.gz"), nib.load(case / "mask.nii.gz")
    image = nib.load(prediction)
    np.testing.assert_array_equal(image.affine, nib.load(case / "mr.nii.gz").affine)
    assert image.shape == ct.shape
    body = mask.get_fdata() > 0
    return float(np.abs(image.get_fdata() - ct.get_fdata())[body].mean())


def test_the_demo_beats_its_baselines_on_subjects_it_never_saw(demo):
    output, printed = demo
    cases = sorted(
        path.name.removesuffix(".nii.gz") for path in (output / "predictions/model").iterdir()
    )
    assert len(cases) >= 4
    mae = {
        name: np.mean(
            [
                masked_mae(
                    output / "predictions" / name / f"{case}.nii.gz", output / "cases" / case
                )
                for case in cases
            ]
        )
        for name in ("constant", "intensity", "model")
    }
    for name, value in mae.items():
        [row] = [line for line in printed.splitlines() if line.startswith(f"| {name}")]
        [shown] = re.findall(r"[\d.]+", row)[:1]
        assert float(shown) == pytest.approx(value, abs=0.051)
    better = min(mae["constant"], mae["intensity"])
    assert better >= HARD_ENOUGH_HU
    assert mae["model"] <= (1 - WANTED_GAIN) * better
    assert "The CT noise alone is a masked MAE of" in printed
    assert sorted(p.stem for p in (output / "pictures").iterdir()) == cases
    trained = (output / "prepared" / "manifest.csv").read_text()
    for case in cases:
        [line] = [line for line in trained.splitlines() if line.startswith(f"{case},")]
        assert ",test," in line
