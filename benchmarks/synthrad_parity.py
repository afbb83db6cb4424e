"""Compare medp2p's metrics with the SynthRAD organisers' own code, run side by side.

Usage::

    python benchmarks/synthrad_parity.py --synthrad2023 CHECKOUT --synthrad2025 CHECKOUT

where the checkouts are of https://github.com/SynthRAD2023/metrics and of
https://github.com/SynthRAD2025/evaluation (the leaderboard's code, range up to 3071 HU) or
https://github.com/SynthRAD2025/metrics (range up to 3000 HU: it is compared with this
project's metrics on that range). Their code needs SimpleITK and scikit-image; ``evalutils``,
with which the 2023 code reads files, is replaced by an empty module where it is missing, for
arrays are handed over.

Prints the relative differences on twenty random volumes with masks of odd shapes and, with
``--real-data FOLDER`` or ``MEDP2P_REAL_DATA``, on the MR-CT pair in its ``pork_t2_ct``; then time
and memory of the structure metrics on 256×256×180 voxels in float64, and in float32 with what
that changes. Exit code 1 if a value differs by more than `TOLERANCE`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medp2p.io import read_volume
from medp2p.metrics import PROFILES, Profile, compute_metrics, ms_ssim, ssim

TOLERANCE = 1e-6
REPEATS = 5
LARGE = (256, 256, 180)

Image = NDArray[np.float64]
Mask = NDArray[np.uint8]

SHAPES = (
    (101, 99, 97),
    (60, 107, 98),
    (128, 40, 33),
    (97, 97, 110),
    (31, 64, 65),
    (120, 101, 9),
    (133, 131, 115),
    (64, 64, 64),
    (50, 131, 77),
    (113, 100, 99),
    (98, 112, 103),
    (40, 97, 130),
    (105, 33, 118),
    (8, 120, 120),
    (99, 98, 140),
    (64, 128, 32),
    (110, 17, 101),
    (97, 128, 99),
    (128, 128, 24),
    (100, 101, 98),
)


def random_case(number: int) -> tuple[Image, Image, Mask]:
    """Return prediction, reference and mask of one of twenty cases, the same on every machine.

    Values leave the profiles' ranges at both ends. The masks of ten are, in turn: the whole volume,
    a tilted ellipsoid, a blob, a shell, two separate blobs, a slab that touches the faces,
    a sponge, an ellipsoid with holes, all but one corner, and every third row.
    """
    shape = SHAPES[number]
    random = np.random.RandomState(number)  # the legacy generator: its stream is frozen
    reference = 900 * _smooth_noise(random, shape, 4) + 40 * random.standard_normal(shape)
    reference += 1500 * (_smooth_noise(random, shape, 2) > 1.2)
    inverted = _smooth_noise(random, shape, 4) > 1.0  # so that structure turns negative
    prediction = np.where(inverted, -1.0, 0.9) * reference + 30 * number
    prediction += 120 * _smooth_noise(random, shape, 3) + 60 * random.standard_normal(shape)
    mask = _odd_masks(shape, _smooth_noise(random, shape, 5))[number % 10]
    return prediction, reference, mask.astype(np.uint8) * (1 + number % 2)


def pork_case(real_data: Path) -> tuple[Image, Image, Mask]:
    """Return the pork's MR, CT in HU and mask; the MR is scaled to the CT's mean and spread.

    That is no prediction, but it is real, and far from the CT where bone is dark in MR.
    """
    folder = real_data / "pork_t2_ct"
    mr, ct, mask = (
        read_volume(folder / f"{name}.nii.gz").array.astype(np.float64)
        for name in ("mr", "ct", "mask")
    )
    inside = mask > 0
    prediction = (mr - mr[inside].mean()) / mr[inside].std() * ct[inside].std() + ct[inside].mean()
    return np.clip(prediction, -1024, 3071), ct, inside.astype(np.uint8)


def all_cases(real_data: Path | None) -> dict[str, Callable[[], tuple[Image, Image, Mask]]]:
    """Return what makes each case, by its name."""
    cases: dict[str, Callable[[], tuple[Image, Image, Mask]]] = {
        f"random {number}": partial(random_case, number) for number in range(len(SHAPES))
    }
    if real_data:
        cases["pork"] = partial(pork_case, real_data)
    return cases


def _smooth_noise(random: np.random.RandomState, shape: tuple[int, ...], sigma: float) -> Image:
    noise: Image = ndimage.gaussian_filter(random.standard_normal(shape), sigma)
    normal: Image = (noise - noise.mean()) / noise.std()
    return normal


def _odd_masks(shape: tuple[int, ...], noise: Image) -> list[NDArray[np.bool_]]:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    tilted = (x + 0.4 * y) ** 2 / 0.8 + (y - 0.3 * z) ** 2 / 0.5 + z**2
    blobs = ((x - 0.6) ** 2 + y**2 + z**2 < 0.15) | (x**2 + (y + 0.1) ** 2 + z**2 < 0.08)
    return [
        np.ones(shape, bool),
        tilted < 0.7,
        radius + 0.15 * noise < 0.7,
        (radius < 0.95) & ~((np.abs(x) > 0.3) & (radius < 0.5)),
        blobs,
        np.abs(x - 0.2 * y) < 0.5,
        noise > -0.5,
        (radius < 0.9) & (noise < 0.8),
        (x < 0.5) | (y < 0.5) | (z < 0.5),
        np.arange(shape[0])[:, None, None] % 3 != 1 + 0 * noise,
    ]


def load_organisers(checkout: Path, name: str) -> Any:
    """Return the ``ImageMetrics`` object of a checkout of the organisers' code."""
    if "evalutils" not in sys.modules and importlib.util.find_spec("evalutils") is None:
        for module in ("evalutils", "evalutils.io"):
            sys.modules[module] = ModuleType(module)
            sys.modules[module].__dict__["SimpleITKLoader"] = None
    path = checkout / "functions" / "image_metrics.py"
    path = path if path.exists() else checkout / "image_metrics.py"
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None or not path.exists():
        sys.exit(f"{checkout}: no image_metrics.py there; give a checkout of the organisers' code")
    loaded = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(loaded)
    return loaded.ImageMetrics()


def with_range_of(organisers: Any, profile: Profile) -> Profile:
    """Return the profile on the range of the organisers' code, saying so if it is another."""
    low, high = (float(value) for value in organisers.dynamic_range)
    if (low, high) == profile.value_range:
        return profile
    print(f"{profile.name}: this code's range is [{low:g}, {high:g}]; compared on that range")
    return replace(profile, value_range=(low, high))


def theirs_2023(organisers: Any, case: tuple[Image, Image, Mask]) -> dict[str, float]:
    """Return the organisers' 2023 values under our names."""
    prediction, reference, mask = case
    return {
        "mae_hu": organisers.mae(reference, prediction, mask),
        "psnr_db": organisers.psnr(reference, prediction, mask, use_population_range=True),
        "ssim_synthrad2023": float(organisers.ssim(reference, prediction, mask)),
    }


def theirs_2025(organisers: Any, case: tuple[Image, Image, Mask]) -> dict[str, float]:
    """Return the organisers' 2025 values under our names."""
    prediction, reference, mask = case
    values = organisers.score_patient(reference, prediction, mask)
    return {
        "mae_hu": values["mae"],
        "psnr_db": values["psnr"],
        "ms_ssim_synthrad2025": values["ms_ssim"],
    }


def compare(
    organisers: Any,
    theirs: Callable[[Any, tuple[Image, Image, Mask]], dict[str, float]],
    profile: Profile,
    real_data: Path | None,
) -> float:
    """Print both sides' values on all cases and return the largest relative difference."""
    profile = with_range_of(organisers, profile)
    worst = 0.0
    for name, make_case in all_cases(real_data).items():
        case = make_case()
        expected = theirs(organisers, case)
        ours = compute_metrics(*case, profile)
        differences = {key: abs(ours[key] / value - 1) for key, value in expected.items()}
        shown = "  ".join(f"{key} {expected[key]!r} ({differences[key]:.0e})" for key in expected)
        print(f"{profile.name} {name}: {shown}", flush=True)
        worst = max(worst, *differences.values())
    return worst


def large_case(*, whole: bool) -> tuple[Image, Image, Mask]:
    """Return a case of 256×256×180 voxels with a head's mask (38 % of it) or a full one."""
    random = np.random.RandomState(0)
    reference = random.normal(0, 500, LARGE)
    prediction = reference + random.normal(0, 200, LARGE)
    if whole:
        return prediction, reference, np.ones(LARGE, np.uint8)
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in LARGE), indexing="ij")
    head = sum((x / r) ** 2 for x, r in zip(axes, (0.85, 0.95, 0.92), strict=True)) < 1
    return prediction, reference, np.asarray(head, np.uint8)


def peak_mib(work: Callable[[], object]) -> float:
    """Return the highest amount of memory that ``work`` holds at one time, in MiB."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def race(
    name: str,
    theirs: Callable[[Image, Image, Mask], object],
    ours: Callable[..., float],
    case: tuple[Image, Image, Mask],
) -> None:
    """Time all sides in turn and print medians, their ratio and the memory of each."""
    prediction, reference, mask = case
    sides: dict[str, Callable[[], object]] = {
        "theirs": lambda: theirs(reference, prediction, mask),
        "float64": lambda: ours(prediction, reference, mask),
        "float32": lambda: ours(prediction, reference, mask, dtype=np.float32),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(REPEATS):
        for side, work in sides.items():
            start = time.perf_counter()
            work()
            seconds[side].append(time.perf_counter() - start)
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    memory = {side: peak_mib(work) for side, work in sides.items()}
    print(f"{name}: theirs {medians['theirs']:.2f} s, {memory['theirs']:.0f} MiB")
    for side in ("float64", "float32"):
        print(
            f"  ours in {side}: {medians[side]:.2f} s, {memory[side]:.0f} MiB; "
            f"time {medians[side] / medians['theirs']:.2f}, "
            f"memory {memory[side] / memory['theirs']:.3f}"
        )
    difference = abs(float(sides["float32"]()) - float(sides["float64"]()))  # type: ignore[arg-type]
    print(f"  float32 differs from float64 by {difference:.1e}", flush=True)


def main() -> None:
    """Run both comparisons and the race."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--synthrad2023", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--synthrad2025", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument(
        "--real-data",
        type=Path,
        default=os.environ.get("MEDP2P_REAL_DATA"),
        metavar="FOLDER",
        help="with pork_t2_ct in it; MEDP2P_REAL_DATA otherwise",
    )
    parser.add_argument("--no-race", action="store_true", help="compare values only")
    arguments = parser.parse_args()
    organisers_2023 = load_organisers(arguments.synthrad2023, "synthrad2023_metrics")
    organisers_2025 = load_organisers(arguments.synthrad2025, "synthrad2025_metrics")

    worst = max(
        compare(organisers_2023, theirs_2023, PROFILES["synthrad2023"], arguments.real_data),
        compare(organisers_2025, theirs_2025, PROFILES["synthrad2025"], arguments.real_data),
    )
    print(f"largest relative difference: {worst:.1e} (tolerance {TOLERANCE:.0e})")
    for whole in () if arguments.no_race else (False, True):
        case = large_case(whole=whole)
        mask = f"{'full' if whole else 'head'} mask ({100 * case[2].mean():.0f} % of voxels)"
        race(f"SSIM 2023, {mask}", organisers_2023.ssim, ssim, case)
        race(f"MS-SSIM 2025, {mask}", organisers_2025.ms_ssim, ms_ssim, case)
    if not worst <= TOLERANCE:
        sys.exit(1)


if __name__ == "__main__":
    main()
