"""Digital subjects: physics against hand calculation, anatomy against itself and the tables."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from medp2p.phantom import CONTRASTS, LABELS, Phantom, case_seed, make_phantom
from medp2p.phantom.tissues import SEQUENCES, TISSUES, spin_echo_signal

HEAD_ONLY = ("brain", "teeth")
SMALL = (64, 64, 32)


@pytest.fixture(scope="module")
def head() -> Phantom:
    return make_phantom("head", 11, shape=(96, 96, 64), contrasts=CONTRASTS)


@pytest.fixture(scope="module")
def pelvis() -> Phantom:
    return make_phantom("pelvis", 11, shape=(112, 80, 48), contrasts=CONTRASTS)


@pytest.fixture(scope="module")
def heads() -> list[Phantom]:
    return [make_phantom("head", case_seed(0, n), shape=SMALL) for n in range(1, 9)]


def digest(phantom: Phantom) -> str:
    volumes = [*phantom.mr.values(), phantom.ct, phantom.mask, phantom.labels]
    return hashlib.sha256(b"".join(v.array.tobytes() for v in volumes)).hexdigest()


def inside(phantom: Phantom, *tissues: str) -> np.ndarray:
    """Voxels whose whole neighbourhood is of one of the tissues."""
    numbers = [LABELS[name] for name in tissues]
    return binary_erosion(np.isin(phantom.labels.array, numbers), np.ones((3, 3, 3)))


# --- physics -----------------------------------------------------------------------------


def test_signal_is_that_of_a_spin_echo() -> None:
    fat = next(t for t in TISSUES if t.name == "fat")
    t1 = SEQUENCES["t1", 1.5]
    # 1.00 (1 - exp(-500/343)) exp(-12/58): by hand 0.76719 · 0.81310
    assert (t1.repetition_ms, t1.echo_ms) == (500, 12)
    signal = spin_echo_signal(fat.proton_density, fat.relaxation[1.5], t1)
    assert signal == pytest.approx(0.62381, abs=1e-4)


def test_inversion_nulls_fluid_and_not_brain() -> None:
    tissue = {t.name: t for t in TISSUES}
    for field in (1.5, 3.0):
        flair = SEQUENCES["flair", field]
        signal = {
            name: spin_echo_signal(
                tissue[name].proton_density, tissue[name].relaxation[field], flair
            )
            for name in ("csf", "grey_matter", "white_matter")
        }
        assert signal["csf"] < 0.05
        assert signal["grey_matter"] > 4 * signal["csf"]
    white = tissue["white_matter"]
    # 0.77 |1 - 2 exp(-2200/500) + exp(-8500/500)| exp(-110/70), by hand
    expected = 0.77 * (1 - 2 * math.exp(-4.4) + math.exp(-17)) * math.exp(-110 / 70)
    assert spin_echo_signal(
        white.proton_density, white.relaxation[1.5], SEQUENCES["flair", 1.5]
    ) == pytest.approx(expected)


ICRU_44 = {
    # Density in g/cm³ and mass fractions in percent, ICRU Report 44 (1989), appendix A.
    "fat": (0.95, {"H": 11.4, "C": 59.8, "N": 0.7, "O": 27.8, "Na": 0.1, "S": 0.1, "Cl": 0.1}),
    "muscle": (
        1.05,
        {"H": 10.2, "C": 14.3, "N": 3.4, "O": 71.0, "Na": 0.1, "P": 0.2, "S": 0.3, "Cl": 0.1}
        | {"K": 0.4},
    ),
    "skin": (
        1.09,
        {"H": 10.0, "C": 20.4, "N": 4.2, "O": 64.5, "Na": 0.2, "P": 0.1, "S": 0.2, "Cl": 0.3}
        | {"K": 0.1},
    ),
    "grey_matter": (
        1.04,
        {"H": 10.7, "C": 14.5, "N": 2.2, "O": 71.2, "Na": 0.2, "P": 0.4, "S": 0.2, "Cl": 0.3}
        | {"K": 0.3},
    ),
    "cartilage": (
        1.10,
        {"H": 9.6, "C": 9.9, "N": 2.2, "O": 74.4, "Na": 0.5, "P": 2.2, "S": 0.9, "Cl": 0.3},
    ),
    "cortical_bone": (
        1.92,
        {"H": 3.4, "C": 15.5, "N": 4.2, "O": 43.5, "Na": 0.1, "Mg": 0.2, "P": 10.3, "S": 0.3}
        | {"Ca": 22.5},
    ),
}
ATOMS = {
    "H": (1, 1.008), "C": (6, 12.011), "N": (7, 14.007), "O": (8, 15.999), "Na": (11, 22.990),
    "Mg": (12, 24.305), "P": (15, 30.974), "S": (16, 32.06), "Cl": (17, 35.45), "K": (19, 39.098),
    "Ca": (20, 40.078),
}  # fmt: skip


COHERENT, PHOTOELECTRIC = 1.24e-3, 3.06e-5
"""Relative to Compton scattering, at 120 kV: Schneider et al., Phys. Med. Biol. 45:459 (2000)."""


def attenuation(density: float, percent: dict[str, float]) -> float:
    """Up to a constant factor: equation 8 of Schneider et al. 2000."""
    return density * sum(
        share / ATOMS[e][1]
        * (ATOMS[e][0] + COHERENT * ATOMS[e][0] ** 2.86 + PHOTOELECTRIC * ATOMS[e][0] ** 4.62)
        for e, share in percent.items()
    )  # fmt: skip


@pytest.mark.parametrize("name", ICRU_44)
def test_ct_numbers_follow_from_the_composition(name: str) -> None:
    water = attenuation(1.0, {"H": 11.19, "O": 88.81})
    expected = 1000 * (attenuation(*ICRU_44[name]) / water - 1)
    print(name, expected)
    tissue = next(t for t in TISSUES if t.name == name)
    assert abs(tissue.hu - expected) < max(20, 0.1 * abs(expected))
