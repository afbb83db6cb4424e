"""What `medp2p prepare` costs beside the registrations it cannot do without, and its memory.

Makes phantom patients whose CT lies elsewhere than their MR, prepares them in two processes, and
runs their registrations alone, also in two processes, the bodies being found beforehand. Both times
are of the clock, from the start of the processes to the end of the last case. Voxels stay as large
as they are. Linux only: memory is read from /proc.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from process_memory import family, memory_mib
from scipy.spatial.transform import Rotation

SECONDS_BETWEEN_LOOKS = 1.0
TURN_DEGREES = 8.0
SHIFT_MM = 20.0


@dataclass(frozen=True)
class Cost:
    """What a command took.

    Attributes:
        seconds: Wall time.
        peak_mib: Most memory of all its processes together (proportional set size).
    """

    seconds: float
    peak_mib: float


def run(
    folder: Annotated[Path, typer.Argument(help="Folder to make; phantoms there are kept.")],
    cases: Annotated[int, typer.Option(min=1)] = 30,
    size: Annotated[int, typer.Option(help="Voxels along each axis.")] = 128,
    jobs: Annotated[int, typer.Option(min=1)] = 2,
    turns: Annotated[int, typer.Option(min=1, help="Take turns and report medians.")] = 1,
) -> None:
    """Compare the whole preparation with its registrations alone."""
    scans = folder / "scans"
    numbers = [n for n in range(cases) if not (scans / f"case_{n:02d}" / "ct.nii.gz").exists()]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        list(pool.map(_make_case, [scans] * len(numbers), numbers, [size] * len(numbers)))
    _find_bodies(scans, cases, jobs)
    whole, alone = [], []
    for _ in range(turns):
        shutil.rmtree(folder / "prepared", ignore_errors=True)
        whole.append(_prepare(scans, folder / "prepared", jobs))
        alone.append(_register_all(scans, cases, jobs))
    seconds = float(np.median([cost.seconds for cost in whole]))
    registrations = float(np.median(alone))
    typer.echo(
        json.dumps(
            {
                "cases": cases,
                "voxels": [size] * 3,
                "processes": jobs,
                "prepare_over_registrations": round(seconds / registrations, 3),
                "registration_seconds_each": round(registrations * jobs / cases, 2),
                "peak_mib": round(max(cost.peak_mib for cost in whole)),
            },
            indent=1,
        )
    )


def _make_case(scans: Path, number: int, size: int) -> None:
    from medp2p.io import write_volume
    from medp2p.phantom import make_phantom
    from medp2p.phantom.hospital import displacement
    from medp2p.volume import Volume

    rng = np.random.default_rng(number)
    subject = make_phantom("head", 1000 + number, shape=(size, size, size))
    turn = Rotation.from_rotvec(np.deg2rad(rng.uniform(-TURN_DEGREES, TURN_DEGREES, 3)))
    x, y, z = (float(v) for v in rng.uniform(-SHIFT_MM, SHIFT_MM, 3))
    moved = displacement("head", turn, (x, y, z)) @ subject.ct.affine
    place = scans / f"case_{number:02d}"
    write_volume(subject.mr["t1"], place / "mr.nii.gz", dtype="int16", overwrite=True)
    ct = Volume(subject.ct.array, moved, "CT", "HU")
    write_volume(ct, place / "ct.nii.gz", dtype="int16", overwrite=True)


def _prepare(scans: Path, output: Path, jobs: int) -> Cost:
    command = [sys.executable, "-m", "medp2p.cli", "prepare", str(scans), str(output)]
    began, peak = time.perf_counter(), 0.0
    native = "preprocessing.spacing_mm=[null,null,null]"
    process = subprocess.Popen([*command, "-p", "mr_to_ct", "-s", native, "--jobs", str(jobs)])
    while process.poll() is None:
        peak = max(peak, sum(map(memory_mib, family(process.pid))))
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        raise typer.Exit(process.returncode)
    return Cost(time.perf_counter() - began, peak)


def _find_bodies(scans: Path, cases: int, jobs: int) -> None:
    folders = [scans / f"case_{n:02d}" for n in range(cases)]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        list(pool.map(_write_bodies, folders))


def _write_bodies(folder: Path) -> None:
    from medp2p.io import read_volume
    from medp2p.preprocessing import body_mask

    for name, modality in (("mr", "MR"), ("ct", "CT")):
        body = body_mask(read_volume(folder / f"{name}.nii.gz"), modality)
        np.save(folder / f"{name}_body.npy", body)


def _register_all(scans: Path, cases: int, jobs: int) -> float:
    """Seconds of all registrations, shared by the processes."""
    folders = [scans / f"case_{n:02d}" for n in range(cases)]
    began = time.perf_counter()
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        list(pool.map(_register, folders))
    return time.perf_counter() - began


def _register(folder: Path) -> None:
    import SimpleITK as sitk

    from medp2p.config import RegistrationSettings
    from medp2p.io import read_volume
    from medp2p.registration import register

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    mr, ct = read_volume(folder / "mr.nii.gz"), read_volume(folder / "ct.nii.gz")
    bodies = np.load(folder / "mr_body.npy"), np.load(folder / "ct_body.npy")
    register(mr, ct, *bodies, RegistrationSettings(), 0)


if __name__ == "__main__":
    typer.run(run)
