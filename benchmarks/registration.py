"""How well images that lie anywhere are brought to one place, where the truth is known.

    python benchmarks/registration.py OUT [--cases 60] [--jobs 2] [--only phantoms]

``phantoms``: patients scanned by two scanners with worlds of their own; half of them a little
tilted, a quarter turned by 15 to 60 degrees, a quarter by more. ``pork``: the CT turned by each
of the 24 axis turns, up to 10 degrees more about each axis, and shifted by up to 40 mm.
``stroke``: T2 displaced against T1 likewise, ten times. The last two take the given alignment as
the truth and find the scans through MEDP2P_REAL_DATA. OUT gets ``registration.json`` and
``registration.png``.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import typer
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from medp2p.alignment import move_points
from medp2p.config import AuditSettings, ImageSettings, Modality, RegistrationSettings
from medp2p.errors import MedP2PError
from medp2p.io import read_volume
from medp2p.phantom import ANATOMIES
from medp2p.phantom.hospital import PatientPlan, make_patient, random_plan
from medp2p.pose_search import turn_degrees
from medp2p.preparation.audit import audit_pair
from medp2p.preprocessing import body_mask
from medp2p.registration import Registration, register
from medp2p.volume import Volume
from medp2p.workers import run_jobs

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]
Kind = Literal["phantoms", "pork", "stroke"]

KINDS: tuple[Kind, ...] = ("phantoms", "pork", "stroke")
TURNS_DEGREES = ((0, 15), (15, 60), (0, 15), (60, 181))
"""Every fourth phantom patient is turned by as much."""

FIRST_SEED = 4000
MOST_POINTS = 4000
"""Errors are means over about this many voxels of the body."""


@dataclass(frozen=True)
class Job:
    """One pair to register."""

    kind: Kind
    number: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What registration and audit said of a pair, and how far it was off.

    Attributes:
        kind: Which of the experiments.
        number: Number of the pair in it.
        name: For tables.
        turned_degrees: True turn.
        shifted_mm: True shift of the middle of the body.
        voxel_mm: Longest edge of a voxel of either image.
        error_mm: Mean distance from the truth over the body.
        bone_error_mm: The same over CT above 250 HU; None without a CT on the same voxels.
        seconds: Of the registration.
        verdict: The audit's.
        reasons: The audit's.
        score: See `medp2p.registration.Starts`, as the others.
        margin: How much better than any other pose.
        information_nats: Mutual information after registration.
        last_step_mm: See `medp2p.registration.Registration`.
        found: Where some points of the body came to lie, in the true frame, for the spread.
    """

    kind: Kind
    number: int
    name: str
    turned_degrees: float
    shifted_mm: float
    voxel_mm: float
    error_mm: float
    bone_error_mm: float | None
    seconds: float
    verdict: str
    reasons: tuple[str, ...]
    score: float
    margin: float
    information_nats: float
    last_step_mm: float
    found: list[list[float]]

    @property
    def voxels(self) -> float:
        """The error in voxels."""
        return self.error_mm / self.voxel_mm


def run(
    output: Annotated[Path, typer.Argument(help="Folder for the figure and the numbers.")],
    cases: Annotated[int, typer.Option(help="Phantom patients.")] = 60,
    jobs: Annotated[int, typer.Option(help="Processes.")] = 1,
    only: Annotated[Kind | None, typer.Option(help="One of the experiments.")] = None,
) -> None:
    """Register, compare with the truth, print and draw the distribution."""
    output.mkdir(parents=True, exist_ok=True)
    work = [job for kind in KINDS if only in (None, kind) for job in _jobs(kind, cases)]
    outcomes = []
    for job, outcome in run_jobs(measure, work, jobs):
        if isinstance(outcome, MedP2PError):
            print(f"{job.kind} {job.number}: {outcome}", flush=True)
            continue
        print(_line(outcome), flush=True)
        outcomes.append(outcome)
    outcomes.sort(key=lambda outcome: (KINDS.index(outcome.kind), outcome.number))
    text = json.dumps([asdict(outcome) for outcome in outcomes], indent=1)
    (output / "registration.json").write_text(text + "\n", encoding="utf-8")
    for kind in KINDS:
        of_kind = [outcome for outcome in outcomes if outcome.kind == kind]
        if of_kind:
            print(summary(kind, of_kind, sum(job.kind == kind for job in work)))
    draw(outcomes, output / "registration.png")


def measure(job: Job) -> Outcome:
    """Make or read a pair, register and audit it, and compare with the truth."""
    if job.kind == "phantoms":
        plan = _plan(job)
        patient = make_patient(plan)
        mr, ct = next(iter(patient.mr.values())), patient.ct
        return _outcome(job, _name(plan), mr, ct, plan.ct_from_mr, patient.mr_mask.array > 0)
    fixed, moving, body = _real_pair(job.kind)
    matrix = _displacement(moving, job)
    moved = Volume(moving.array, matrix @ moving.affine, moving.modality, moving.units)
    bone = body & (moving.array > 250) if job.kind == "pork" else None
    return _outcome(job, f"{job.kind} {job.number}", fixed, moved, matrix, body, bone, body)


def _jobs(kind: Kind, cases: int) -> Iterator[Job]:
    if kind != "phantoms":
        for number in range(24 if kind == "pork" else 10):
            yield Job(kind, number, number)
        return
    seed = FIRST_SEED
    for number in range(cases):
        least, most = TURNS_DEGREES[number % len(TURNS_DEGREES)]
        while True:
            job, seed = Job(kind, number, seed), seed + 1
            if least <= turn_degrees(_plan(job).ct_from_mr) < most:
                break
        yield job


def _plan(job: Job) -> PatientPlan:
    return random_plan(job.seed, anatomy=ANATOMIES[job.number // 2 % len(ANATOMIES)])


def _name(plan: PatientPlan) -> str:
    return f"{plan.anatomy} {plan.seed}"


def _real_pair(kind: Kind) -> tuple[Volume, Volume, Mask]:
    data = Path(os.environ["MEDP2P_REAL_DATA"])
    if kind == "pork":
        folder = data / "pork_t2_ct"
        mr, ct = read_volume(folder / "mr.nii.gz"), read_volume(folder / "ct.nii.gz")
        body = read_volume(folder / "mask.nii.gz").array > 0
        return (
            Volume(mr.array, mr.affine, "MR"),
            Volume(ct.array, ct.affine, "CT", "HU"),
            body,
        )
    folder = data / "stroke_t1_t2_flair"
    t1, t2 = read_volume(folder / "T1.nii.gz"), read_volume(folder / "T2.nii.gz")
    return Volume(t1.array, t1.affine, "MR"), Volume(t2.array, t2.affine, "MR"), t1.array > 0


def _displacement(volume: Volume, job: Job) -> Matrix:
    """An axis turn, a small turn about the middle of the image, and a shift."""
    rng = np.random.default_rng([job.seed, len(job.kind)])
    group = Rotation.create_group("O")
    turn = Rotation.from_rotvec(np.deg2rad(rng.uniform(-10, 10, 3)))
    turn = turn * group[job.number if job.kind == "pork" else int(rng.integers(24))]
    middle = volume.affine[:3, :3] @ ((np.array(volume.shape) - 1) / 2) + volume.affine[:3, 3]
    matrix = np.eye(4)
    matrix[:3, :3] = turn.as_matrix()
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle + rng.uniform(-40, 40, 3)
    return matrix


def _outcome(
    job: Job,
    name: str,
    fixed: Volume,
    moving: Volume,
    true: Matrix,
    body: Mask,
    bone: Mask | None = None,
    known_body: Mask | None = None,
) -> Outcome:
    modalities: list[Modality] = ["MR", "CT" if moving.modality == "CT" else "MR"]
    if known_body is None:
        bodies = (body_mask(fixed, modalities[0]), body_mask(moving, modalities[1]))
    else:
        bodies = (known_body, known_body)
    start = time.perf_counter()
    found = register(fixed, moving, *bodies, RegistrationSettings(mode="rigid"), seed=0)
    seconds = time.perf_counter() - start
    images = (ImageSettings(modality=modalities[0]), ImageSettings(modality=modalities[1]))
    audit = audit_pair(fixed, moving, *bodies, found.alignment, found, images, AuditSettings())
    points = _points(fixed, body)
    middle = points.mean(axis=0, keepdims=True)
    return Outcome(
        kind=job.kind,
        number=job.number,
        name=name,
        turned_degrees=turn_degrees(true),
        shifted_mm=float(np.linalg.norm(_moved(middle, true) - middle)),
        voxel_mm=float(max(fixed.spacing_mm.max(), moving.spacing_mm.max())),
        error_mm=_error_mm(found, true, points),
        bone_error_mm=None if bone is None else _error_mm(found, true, _points(fixed, bone)),
        seconds=seconds,
        verdict=audit.verdict,
        reasons=audit.reasons,
        score=found.starts.chosen,
        margin=found.starts.margin,
        information_nats=found.mutual_information_after,
        last_step_mm=found.last_step_mm,
        found=_moved(move_points(points[::40], found.alignment), np.linalg.inv(true)).tolist(),
    )


def _points(volume: Volume, body: Mask) -> Matrix:
    index = np.argwhere(body)
    return _moved(index[:: max(1, len(index) // MOST_POINTS)], volume.affine)


def _moved(points: NDArray[Any], matrix: NDArray[Any]) -> Matrix:
    moved: Matrix = points @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


def _error_mm(found: Registration, true: Matrix, points: Matrix) -> float:
    difference = move_points(points, found.alignment) - _moved(points, true)
    return float(np.linalg.norm(difference, axis=1).mean())


def _line(outcome: Outcome) -> str:
    return (
        f"{outcome.name:12} turned {outcome.turned_degrees:4.0f}° {outcome.shifted_mm:4.0f} mm  "
        f"error {outcome.error_mm:6.2f} mm = {outcome.voxels:5.2f} voxels  "
        f"score {outcome.score:.2f} margin {outcome.margin:.2f} last {outcome.last_step_mm:.1f} mm"
        f"  {outcome.seconds:4.1f} s  {outcome.verdict}: {'; '.join(outcome.reasons)}"
    )


def summary(kind: Kind, outcomes: list[Outcome], asked: int) -> str:
    """The distribution of the errors in words."""
    errors = np.array([outcome.error_mm for outcome in outcomes])
    voxels = np.array([outcome.voxels for outcome in outcomes])
    quantiles = np.quantile(errors, [0.5, 0.75, 0.95, 1])
    seconds = np.median([outcome.seconds for outcome in outcomes])
    lines = [
        f"\n{kind}: {len(outcomes)} of {asked} pairs registered, {seconds:.1f} s each (median)",
        "  error over the body: median {:.2f}, 75 % {:.2f}, 95 % {:.2f}, largest {:.2f} mm".format(
            *quantiles
        ),
        f"  below half the larger voxel: {(voxels < 0.5).sum()} of {asked} "
        f"({(voxels < 0.5).sum() / asked:.1%}); the largest is {voxels.max():.2f} voxels",
    ]
    if kind != "phantoms":
        found = np.array([outcome.found for outcome in outcomes])
        apart = np.linalg.norm(found - found.mean(axis=0), axis=2).mean()
        lines.append(f"  from their mean position: {apart:.3f} mm on average in the body")
    bone = [o.bone_error_mm for o in outcomes if o.bone_error_mm is not None]
    if bone:
        lines.append(f"  over CT > 250 HU: mean {np.mean(bone):.2f}, largest {max(bone):.2f} mm")
    off = [outcome for outcome in outcomes if outcome.voxels > 2]
    lines.append(f"  worse than two voxels: {len(off)}")
    lines += [f"    {outcome.name}: {outcome.verdict}" for outcome in off]
    lines.append(f"  verdicts: {_verdicts(outcomes, lambda _: True)}")
    lines.append(
        f"  of those turned by 30° or less: {_verdicts(outcomes, lambda o: o.turned_degrees <= 30)}"
    )
    return "\n".join(lines)


def _verdicts(outcomes: list[Outcome], chosen: Callable[[Outcome], bool]) -> str:
    of_these = [outcome.verdict for outcome in outcomes if chosen(outcome)]
    return ", ".join(f"{of_these.count(v)} {v}" for v in ("use", "check", "reject"))


def draw(outcomes: list[Outcome], path: Path) -> None:
    """The errors in order of size, and against the turn."""
    marks = {"use": "o", "check": "^", "reject": "s"}
    colours = {"phantoms": "tab:blue", "pork": "tab:orange", "stroke": "tab:green"}
    figure, (ordered, turned) = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for kind in KINDS:
        of_kind = sorted((o for o in outcomes if o.kind == kind), key=lambda o: o.voxels)
        share = (np.arange(len(of_kind)) + 0.5) / max(1, len(of_kind)) * 100
        for verdict, mark in marks.items():
            chosen = [n for n, outcome in enumerate(of_kind) if outcome.verdict == verdict]
            if not chosen:
                continue
            voxels = [of_kind[n].voxels for n in chosen]
            style = {"marker": mark, "s": 18, "color": colours[kind], "alpha": 0.8}
            ordered.scatter(share[chosen], voxels, label=f"{kind}: {verdict}", **style)
            turned.scatter([of_kind[n].turned_degrees for n in chosen], voxels, **style)
    for axes, label in ((ordered, "% of the pairs"), (turned, "true turn in degrees")):
        axes.axhline(0.5, color="grey", linewidth=0.8, linestyle="--")
        axes.axhline(2.0, color="grey", linewidth=0.8)
        axes.set_yscale("log")
        axes.set_xlabel(label)
    ordered.set_ylabel("mean error over the body, in voxels")
    ordered.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    typer.run(run)
