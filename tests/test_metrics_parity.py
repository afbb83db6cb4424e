"""Metrics against the values of the organisers' own code."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from medp2p.metrics import PROFILES, compute_metrics

# Recorded with benchmarks/synthrad_parity.py from the organisers' code: MAE (HU), PSNR (dB) and
# structure metric of its random cases. NumPy 2.4.6, SciPy 1.17.1, scikit-image 0.26.0.
# SynthRAD2023/metrics at 3200007e7029282416445719f7aae27e3a87308d, SSIM:
SYNTHRAD2023_VALUES = (
    (352.4511411885101, 15.47220899616084, 0.6905855740768968),
    (294.6964556647504, 16.70884778715467, 0.7448076021638416),
    (243.43018546769355, 18.048208806635458, 0.8021444457914151),
    (307.296571484766, 16.639031919450844, 0.72682292312459),
    (333.69614924253995, 16.31650576878741, 0.7711482777321218),
    (391.32348271509846, 15.459106717873098, 0.604819039724917),
    (406.85805061487684, 15.095875980652401, 0.7017814634311543),
    (296.9121402669447, 18.077733099234685, 0.8385459323825745),
    (471.7580198496731, 14.435381257684643, 0.6424940011687571),
    (482.4642028837252, 14.422887698406921, 0.7613039002404737),
    (503.11781514210935, 14.419487640133553, 0.6405177205847324),
    (442.0713600835639, 16.255932241726466, 0.6912277102395533),
    (503.1478190100907, 15.298812906312335, 0.6642480543097395),
    (611.6629621260856, 13.479207269534774, 0.7282426699007554),
    (568.4665486505055, 14.548001123365097, 0.6464829914524561),
    (600.2664554913922, 14.089462550538546, 0.6567570605131194),
    (653.2181606611174, 13.458649229208255, 0.6390725171356418),
    (639.75213872866, 13.919379471251466, 0.6709740308779463),
    (691.0147036076817, 13.486904105649682, 0.6202511246744903),
    (717.3369701258425, 13.246799429824396, 0.7091555895639086),
)
SYNTHRAD2023_PORK = (106.13758901913347, 26.734758514389814, 0.7308279442164682)
# SynthRAD2025/evaluation at 17cac47b6288fcb66c5818c9d50eb9534d613fa2, MS-SSIM:
SYNTHRAD2025_VALUES = (
    (352.4511411885101, 15.617593968002584, 0.697756119902912),
    (294.6964556647504, 16.860314414293903, 0.7994653628557387),
    (243.43018546769355, 18.200077292581042, 0.8916976942547985),
    (307.296571484766, 16.78771188481946, 0.7718843806804048),
    (333.69614924253995, 16.468424449758736, 0.8290210231376274),
    (391.32348271509846, 15.606516370782447, 0.5661395432614097),
    (406.85805061487684, 15.242596663270886, 0.7562322643842869),
    (296.9121402669447, 18.2279823008728, 0.9212213836247458),
    (471.7580198496731, 14.580236075132774, 0.471717980651758),
    (482.4642028837252, 14.569547530595433, 0.7244334913557782),
    (503.11781514210935, 14.564339916384752, 0.6460625159674884),
    (442.0713600835639, 16.40766496453554, 0.7999783282746828),
    (503.1478190100907, 15.449670036453924, 0.7439899658037125),
    (611.6629621260856, 13.627175191299216, 0.823355141461144),
    (568.4665486505055, 14.696067787348797, 0.7832013335898604),
    (600.2664554913922, 14.23635753638781, 0.5406619472903413),
    (653.2181606611174, 13.602155514831185, 0.56348770655216),
    (639.75213872866, 14.069245611595424, 0.7190456805498752),
    (691.0147036076817, 13.631520307871213, 0.39717328685635356),
    (717.3369701258425, 13.39109442289638, 0.7341327605474983),
)
SYNTHRAD2025_PORK = (106.13758901913347, 26.886677195361138, 0.7153652453100002)

# a whole volume large enough for MS-SSIM; volumes with short axes and, in turn, a blob, a slab,
# an ellipsoid with holes, a shell and a sponge as masks
QUICK_CASES = (0, 2, 5, 7, 13, 16)


@pytest.fixture(scope="module")
def parity() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "synthrad_parity.py"
    specification = importlib.util.spec_from_file_location("synthrad_parity", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def our_values(case: Any, name: str) -> tuple[float, ...]:
    profile = PROFILES[name]
    prediction, reference, mask = case
    values = compute_metrics(prediction, reference, mask, profile)
    return tuple(values[key] for key in ("mae_hu", "psnr_db", profile.structure_key))


@pytest.mark.parametrize(
    "number",
    [n if n in QUICK_CASES else pytest.param(n, marks=pytest.mark.slow) for n in range(20)],
)
def test_agrees_with_the_organisers_code(parity: ModuleType, number: int) -> None:
    case = parity.random_case(number)
    for name, recorded in (
        ("synthrad2023", SYNTHRAD2023_VALUES),
        ("synthrad2025", SYNTHRAD2025_VALUES),
    ):
        assert our_values(case, name) == pytest.approx(recorded[number], rel=1e-9, abs=0)


@pytest.mark.real_data
@pytest.mark.skipif(
    "MEDP2P_REAL_DATA" not in os.environ, reason="MEDP2P_REAL_DATA names no folder of real scans"
)
def test_agrees_with_the_organisers_code_on_the_pork(parity: ModuleType) -> None:
    case = parity.pork_case(Path(os.environ["MEDP2P_REAL_DATA"]))
    assert our_values(case, "synthrad2023") == pytest.approx(SYNTHRAD2023_PORK, rel=1e-9, abs=0)
    assert our_values(case, "synthrad2025") == pytest.approx(SYNTHRAD2025_PORK, rel=1e-9, abs=0)
