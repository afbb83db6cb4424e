"""What `medp2p evaluate` takes per case, and whether its memory grows with the number of cases.

Makes pairs of a phantom's CT and a prediction of it that is blurred, noisy and off by smooth
errors, with the body as mask; a few phantoms with fresh noise stand for many patients. Then runs
the command and looks at the memory of all its processes together (proportional set size) once a
second. Linux only: memory is read from /proc.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from process_memory import family, memory_mib
from scipy import ndimage

SECONDS_BETWEEN_LOOKS = 1.0
BLUR_VOXELS = 0.8
NOISE_HU = 20.0
SMOOTH_ERROR_HU = 40.0
SMOOTH_ERROR_VOXELS = 6.0


@dataclass(frozen=True)
class Course:
    """What a command took.

    Attributes:
        seconds: Wall time.
        cpu_seconds: Of all its processes.
        main_mib: Proportional set size of the process that collects the results, at every look.
        workers_mib: That of all others together, which hold the images.
    """

    seconds: float
    cpu_seconds: float
    main_mib: list[float]
    workers_mib: list[float]


def quarters(values: list[float]) -> list[int]:
    """Return the highest value in each quarter of the time."""
    return [round(float(part.max())) for part in np.array_split(values, 4)]


def run(
    folder: Annotated[Path, typer.Argument(help="Folder to make; images there are kept.")],
    cases: Annotated[int, typer.Option(min=4)] = 100,
    phantoms: Annotated[int, typer.Option(min=1, help="How many are distinct.")] = 8,
    size: Annotated[int, typer.Option(help="Voxels along each axis.")] = 128,
    jobs: Annotated[int, typer.Option(min=1)] = 2,
    make_only: Annotated[bool, typer.Option(help="Make the images and stop.")] = False,
) -> None:
    """Evaluate many cases in parallel and report time and memory."""
    images = folder / f"images_{size}"
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        make = partial(_make_cases, images, phantoms=phantoms, cases=cases, size=size)
        list(pool.map(make, range(phantoms)))
    if make_only:
        return
    course = _evaluate(images, folder, jobs)
    typer.echo(
        json.dumps(
            {
                "cases": cases,
                "voxels": [size] * 3,
                "processes": jobs,
                "seconds_per_case": round(course.seconds / cases, 2),
                "cpu_seconds_per_case": round(course.cpu_seconds / cases, 2),
                "peak_mib_by_quarter": quarters(
                    [sum(pair) for pair in zip(course.main_mib, course.workers_mib, strict=True)]
                ),
                "peak_mib_by_quarter_workers": quarters(course.workers_mib),
                "peak_mib_by_quarter_main": quarters(course.main_mib),
            },
            indent=1,
        )
    )


def _make_cases(images: Path, phantom: int, *, phantoms: int, cases: int, size: int) -> None:
    """Write every case of one phantom that is not there yet."""
    from medp2p.io import write_volume
    from medp2p.phantom import make_phantom

    names = {n: f"case_{n:03d}.nii.gz" for n in range(phantom, cases, phantoms)}
    missing = {n: name for n, name in names.items() if not (images / "mask" / name).exists()}
    if not missing:
        return
    subject = make_phantom("head", 2000 + phantom, shape=(size, size, size))
    clean = subject.ct_noise_free.array.astype(np.float64)
    blurred = ndimage.gaussian_filter(clean, BLUR_VOXELS)
    for number, name in missing.items():
        rng = np.random.default_rng(number)
        reference = clean + rng.normal(0, NOISE_HU, clean.shape)
        predicted = blurred + _smooth_error(rng, clean.shape) + rng.normal(0, NOISE_HU, clean.shape)
        for kind, values in (("prediction", predicted), ("reference", reference)):
            voxels = np.clip(np.rint(values), -1024, 3071).astype(np.int16)
            write_volume(subject.ct.with_array(voxels), images / kind / name, overwrite=True)
        write_volume(subject.mask, images / "mask" / name, overwrite=True)


def _smooth_error(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    noise = ndimage.gaussian_filter(rng.normal(0, 1, shape), SMOOTH_ERROR_VOXELS)
    error: NDArray[np.float64] = noise * (SMOOTH_ERROR_HU / noise.std())
    return error


def _evaluate(images: Path, folder: Path, jobs: int) -> Course:
    command = [sys.executable, "-m", "medp2p.cli", "evaluate"]
    command += [str(images / "prediction"), str(images / "reference")]
    command += ["--mask", str(images / "mask"), "--jobs", str(jobs)]
    command += ["--csv", str(folder / "cases.csv"), "--overwrite"]
    began, cpu = time.perf_counter(), 0.0
    main: list[float] = []
    workers: list[float] = []
    with (folder / "evaluate.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            processes = list(family(process.pid))
            main.append(memory_mib(process.pid))
            workers.append(sum(map(memory_mib, processes[1:])))
            cpu = max(cpu, sum(map(_cpu_seconds, processes)))
            time.sleep(SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        typer.echo((folder / "evaluate.log").read_text()[-2000:], err=True)
        raise typer.Exit(process.returncode)
    return Course(time.perf_counter() - began, cpu, main, workers)


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    typer.run(run)
