"""How often damage to a prediction is found and named, and how often an undamaged one is blamed.

    python benchmarks/findings.py MODEL [--cases 100] [--damaged 40] [--first 40] [--keep FOLDER]

MODEL is what ``medp2p demo`` trains (``demo/model/model.safetensors``). It translates phantom heads
that no training has seen. The thresholds were chosen with phantoms 0 to 29 of the series
(``--first 0 --cases 30``), so the default begins with number 40. Every detector's false alarms
are counted over all of them, without damage; then the first ones are damaged, by several
strengths, and it is counted how often the damage is named, with the right place or axis.
Intervals are the exact binomial ones of 95 %. Last, what is said of all cases together, without
damage and with bone 50 HU lower.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from scipy.stats import binomtest

from medp2p.evaluation.findings import find_cohort_faults, find_faults, measure_faults
from medp2p.evaluation.statistics import summarize_values
from medp2p.metrics import PROFILES, TISSUES_HU, voxel_metrics
from medp2p.phantom import case_seed, make_phantom
from medp2p.results import Finding
from medp2p.volume import reorient
from medp2p.workers import run_jobs

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
damage = importlib.import_module("damage")

Array = NDArray[Any]

SEED = 9000
"""Phantoms have the seeds of this series; the demo's are of series 0."""
SHAPE = (128, 128, 40)
"""As the demo's phantoms: 1.8×2.0×5.5 mm."""
HU = {"mae_hu": 0.0}
"""Says that the images are CT; the detectors read nothing else."""


@dataclass(frozen=True)
class Sample:
    """A prediction of the model and what belongs to it, in RAS order."""

    number: int
    prediction: Array
    reference: Array
    mask: Array
    source: Array
    spacing_mm: Array

    @property
    def hole(self) -> Array:
        """Where a hole is made."""
        voxel: Array = damage.skull_voxel(self.prediction, self.reference, self.mask, self.number)
        return voxel


def anywhere(_sample: Sample, _finding: Finding) -> bool:
    """Any place will do."""
    return True


def near_hole(sample: Sample, finding: Finding) -> bool:
    """Whether the place is within 20 mm of the middle of the hole."""
    if finding.place is None:
        return False
    apart = (np.array(finding.place) - sample.hole) * sample.spacing_mm
    return float(np.linalg.norm(apart)) <= 20


@dataclass(frozen=True)
class Damage:
    """Something done to a prediction, and by what it must be recognized.

    Attributes:
        kind: Of the finding.
        do: Returns the damaged prediction.
        words: Part of the finding's text: the axis or the side.
        is_there: Whether the finding's place is right.
    """

    kind: str
    do: Callable[[Sample], Array]
    words: str = ""
    is_there: Callable[[Sample, Finding], bool] = anywhere

    def is_named(self, sample: Sample, findings: tuple[Finding, ...]) -> bool:
        """Whether one of the findings names it."""
        return any(
            f.kind == self.kind and self.words in f.text and self.is_there(sample, f)
            for f in findings
        )


def _shift(x: float, y: float, z: float) -> Callable[[Sample], Array]:
    return lambda s: damage.shifted(s.prediction, (x, y, z))


def _blur(sigma: float | tuple[float, float, float]) -> Callable[[Sample], Array]:
    return lambda s: damage.blurred(s.prediction, sigma)


def _flicker(hu: float, axis: int) -> Callable[[Sample], Array]:
    return lambda s: damage.flickering(s.prediction, s.mask, hu, axis, s.number)


def _bias(hu: float, low: float, high: float = np.inf) -> Callable[[Sample], Array]:
    return lambda s: damage.biased(s.prediction, hu, low, high)


def _true_bias(hu: float) -> Callable[[Sample], Array]:
    return lambda s: damage.biased_where(s.prediction, s.reference > damage.BONE_HU, hu)


def _mirror(axis: int) -> Callable[[Sample], Array]:
    return lambda s: damage.mirrored(s.prediction, axis)


def _crop(mm: float, axis: int, value: float = damage.AIR_HU) -> Callable[[Sample], Array]:
    return lambda s: damage.cropped_body(s.prediction, s.mask, mm, s.spacing_mm, axis, value=value)


def _hole(radius_mm: float) -> Callable[[Sample], Array]:
    return lambda s: damage.with_hole(s.prediction, s.hole, radius_mm, s.spacing_mm)


def _blob(radius_mm: float, hu: float) -> Callable[[Sample], Array]:
    return lambda s: damage.with_blob(s.prediction, s.hole, radius_mm, s.spacing_mm, hu)


DAMAGES: Mapping[str, Damage] = {
    "shifted 0.5 voxel (0.9 mm) right": Damage("shifted", _shift(0.5, 0, 0), "right"),
    "shifted 1 voxel (1.8 mm) right": Damage(
        "shifted", _shift(1, 0, 0), "1.0 voxels) to the right"
    ),
    "shifted 1 voxel (2.0 mm) back": Damage("shifted", _shift(0, -1, 0), "to the back"),
    "shifted 1 voxel (5.5 mm) head": Damage("shifted", _shift(0, 0, 1), "to the head"),
    "shifted 2 voxels (3.6 mm) left": Damage("shifted", _shift(-2, 0, 0), "to the left"),
    "blurred, sigma 0.5 voxels": Damage("blurred", _blur(0.5)),
    "blurred, sigma 0.7 voxels": Damage("blurred", _blur(0.7)),
    "blurred, sigma 1 voxel": Damage("blurred", _blur(1)),
    "blurred, sigma 2 voxels": Damage("blurred", _blur(2)),
    "axial flicker of 5 HU": Damage("flicker_axial", _flicker(5, 2), "axial"),
    "axial flicker of 10 HU": Damage("flicker_axial", _flicker(10, 2), "axial"),
    "axial flicker of 20 HU": Damage("flicker_axial", _flicker(20, 2), "axial"),
    "sagittal flicker of 20 HU": Damage("flicker_sagittal", _flicker(20, 0), "sagittal"),
    "bone + 25 HU": Damage("biased_bone", _bias(25, 250), "too high"),
    "bone + 50 HU": Damage("biased_bone", _bias(50, 250), "too high"),
    "bone - 50 HU": Damage("biased_bone", _bias(-50, 250), "too low"),
    "bone + 100 HU": Damage("biased_bone", _bias(100, 250), "too high"),
    "bone (of the reference) + 50 HU": Damage("biased_bone", _true_bias(50), "too high"),
    "soft tissue + 25 HU": Damage("biased_soft", _bias(25, -200, 250), "too high"),
    "soft tissue + 50 HU": Damage("biased_soft", _bias(50, -200, 250), "too high"),
    "air + 100 HU": Damage("biased_air", _bias(100, -np.inf, -200), "too high"),
    "mirrored left to right": Damage("mirrored", _mirror(0), "left to right"),
    "mirrored front to back": Damage("mirrored", _mirror(1), "front to back"),
    "mirrored head to foot": Damage("mirrored", _mirror(2), "head to foot"),
    "cropped at the top, 5.5 mm": Damage("cropped", _crop(5.5, 2), "at the head"),
    "cropped at the top, 11 mm": Damage("cropped", _crop(11, 2), "at the head"),
    "cropped at the top, 22 mm": Damage("cropped", _crop(22, 2), "at the head"),
    "cropped at the front, 15 mm": Damage("cropped", _crop(15, 1), "at the front"),
    "filled with 0 HU at the top, 22 mm": Damage("cropped", _crop(22, 2, 0), "at the head"),
    "hole in the skull, radius 8 mm": Damage("missing_bone", _hole(8), "", near_hole),
    "hole in the skull, radius 12 mm": Damage("missing_bone", _hole(12), "", near_hole),
    "hole in the skull, radius 16 mm": Damage("missing_bone", _hole(16), "", near_hole),
    "hole in the skull, radius 20 mm": Damage("missing_bone", _hole(20), "", near_hole),
    "ball of 15 mm, 500 HU too low": Damage("local_error", _blob(15, -500), "", near_hole),
    "ball of 20 mm, 500 HU too high": Damage("local_error", _blob(20, 500), "", near_hole),
    "constant": Damage("constant", lambda s: damage.rescaled(s.prediction, 0, 40)),
    "the source": Damage("copy_of_source", lambda s: np.asarray(s.source, np.float32)),
    "the reference": Damage("copy_of_reference", lambda s: np.asarray(s.reference, np.float32)),
    "inverted": Damage("unrelated", lambda s: damage.rescaled(s.prediction, -1), "inverted"),
    "values in [-1, 1]": Damage("wrong_scale", lambda s: damage.rescaled(s.prediction, 1 / 2048)),
    "1024 too high": Damage("offset", lambda s: damage.rescaled(s.prediction, 1, 1024), "too high"),
    "cut off above 500 HU": Damage("cut_off", lambda s: damage.saturated(s.prediction, 500)),
}


@dataclass(frozen=True)
class Job:
    """One phantom."""

    number: int
    model: Path
    keep: Path | None
    damaged: bool


@dataclass(frozen=True)
class Outcome:
    """What was found for one phantom.

    Attributes:
        mae_hu: Of the undamaged prediction.
        bias_hu: Mean error of each tissue, without damage.
        measured: Highest value of each kind over its threshold, without damage.
        blamed: Kinds found without damage.
        named: Whether each damage was named.
        others: What else was found, by damage.
        seconds: Longest time of a search for faults.
    """

    mae_hu: float
    bias_hu: dict[str, float]
    measured: dict[str, float]
    blamed: tuple[str, ...]
    named: dict[str, bool]
    others: dict[str, tuple[str, ...]]
    seconds: float


def run(
    model: Annotated[Path, typer.Argument(help="Model file of the demo.")],
    cases: Annotated[int, typer.Option(help="Phantoms.")] = 100,
    damaged: Annotated[int, typer.Option(help="How many of them are damaged as well.")] = 40,
    first: Annotated[int, typer.Option(help="Number of the first phantom.")] = 40,
    jobs: Annotated[int, typer.Option(help="Processes.")] = 1,
    keep: Annotated[Path | None, typer.Option(help="Folder to keep predictions in.")] = None,
) -> None:
    """Measure and print."""
    work = [Job(first + n, model, keep, n < damaged) for n in range(cases)]
    outcomes = []
    for job, outcome in run_jobs(examine, work, jobs):
        if not isinstance(outcome, Outcome):
            raise outcome
        outcomes.append(outcome)
        print(f"phantom {job.number}: {', '.join(outcome.blamed) or 'nothing'}", file=sys.stderr)
    print(false_alarms(outcomes))
    print(detection(outcomes))
    print(cohort(outcomes))


def examine(job: Job) -> Outcome:
    """Look for faults in one prediction, and in what is left of it after each damage."""
    sample = kept_sample(job)
    seconds = []

    def faults(prediction: Array) -> tuple[Finding, ...]:
        start = time.perf_counter()
        findings = find_faults(
            prediction, sample.reference, sample.mask, sample.spacing_mm, HU, {}, sample.source
        )
        seconds.append(time.perf_counter() - start)
        return findings

    measured: dict[str, float] = defaultdict(float)
    for finding in measure_faults(
        sample.prediction, sample.reference, sample.mask, sample.spacing_mm, HU, sample.source
    ):
        share = finding.value / finding.threshold
        measured[finding.kind] = max(measured[finding.kind], share)
    named, others = {}, {}
    for name, known in DAMAGES.items() if job.damaged else ():
        findings = faults(known.do(sample))
        named[name] = known.is_named(sample, findings)
        others[name] = tuple(f.kind for f in findings if f.kind != known.kind)
    error = np.abs(sample.prediction - sample.reference)[sample.mask]
    blamed = tuple(f.kind for f in faults(sample.prediction))
    bias = voxel_metrics(sample.prediction, sample.reference, sample.mask, PROFILES["synthrad2025"])
    bias_hu = {tissue: bias[f"bias_{tissue}_hu"] for tissue in TISSUES_HU}
    return Outcome(
        float(error.mean()), bias_hu, dict(measured), blamed, named, others, max(seconds)
    )


def kept_sample(job: Job) -> Sample:
    """Return a phantom's prediction, from the folder of kept ones if it is there."""
    path = job.keep / f"{job.number:05d}.npz" if job.keep else None
    if path is None or not path.exists():
        arrays = make_arrays(job)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(path, allow_pickle=False, **arrays)
    else:
        with np.load(path) as stored:
            arrays = dict(stored)
    prediction, reference = (arrays[n].astype(np.float32) for n in ("prediction", "reference"))
    return Sample(
        job.number, prediction, reference, arrays["mask"], arrays["source"], arrays["spacing_mm"]
    )


def make_arrays(job: Job) -> dict[str, Array]:
    """Make a phantom and translate it."""
    phantom = make_phantom("head", case_seed(SEED, job.number), shape=SHAPE)
    source = phantom.mr["t1"]
    volumes = {
        "prediction": _translator(job.model)(source),
        "reference": phantom.ct,
        "mask": phantom.mask,
        "source": source,
    }
    arrays = {name: reorient(volume, "RAS").array for name, volume in volumes.items()}
    arrays["prediction"] = np.rint(arrays["prediction"]).astype(np.int16)
    arrays["mask"] = arrays["mask"] > 0
    return {**arrays, "spacing_mm": reorient(phantom.ct, "RAS").spacing_mm}


@lru_cache(maxsize=1)
def _translator(model: Path) -> Any:
    from medp2p.checkpoint import load_model
    from medp2p.inference import make_translator

    return make_translator(load_model(model), device="cpu", precision="fp32")


def false_alarms(outcomes: list[Outcome]) -> str:
    """A table of the detectors: false alarms and how near the thresholds came."""
    count = len(outcomes)
    mae = np.array([outcome.mae_hu for outcome in outcomes])
    lines = [
        f"\n{count} undamaged predictions, masked MAE {mae.mean():.1f} ± {mae.std(ddof=1):.1f} HU; "
        f"longest search {max(o.seconds for o in outcomes):.2f} s\n",
        "| detector | false alarms | rate, 95 % interval | value / threshold: median, 95 %, most |",
        "| --- | ---: | ---: | ---: |",
    ]
    kinds = list(dict.fromkeys(kind for o in outcomes for kind in o.measured))
    for kind in kinds:
        shares = np.array([o.measured.get(kind, 0) for o in outcomes])
        alarms = int((shares >= 1).sum())
        low, high = np.percentile(shares, (50, 95))
        lines.append(
            f"| {kind} | {alarms} | {_rate(alarms, count)} | {low:.2f}, {high:.2f}, "
            f"{shares.max():.2f} |"
        )
    blamed = sum(bool(o.blamed) for o in outcomes)
    return "\n".join([*lines, f"| any | {blamed} | {_rate(blamed, count)} | |"])


def detection(outcomes: list[Outcome]) -> str:
    """A table of the damages: how often named, and what else was said."""
    damaged = [outcome for outcome in outcomes if outcome.named]
    lines = [
        f"\n{len(damaged)} damaged predictions\n",
        "| damage | named as | times | rate, 95 % interval | other findings per prediction |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    for name, known in DAMAGES.items() if damaged else ():
        times = sum(outcome.named[name] for outcome in damaged)
        others = Counter(kind for outcome in damaged for kind in outcome.others[name])
        listed = ", ".join(f"{n / len(damaged):.2f} {kind}" for kind, n in others.most_common(3))
        lines.append(
            f"| {name} | {known.kind} | {times} | {_rate(times, len(damaged))} | {listed} |"
        )
    return "\n".join(lines)


def cohort(outcomes: list[Outcome]) -> str:
    """What is said of all cases together, undamaged and with bone 50 HU lower."""
    lines = []
    for name, bone_hu in (("without damage", 0), ("bone - 50 HU", -50)):
        summaries = {
            f"bias_{tissue}_hu": summarize_values(
                [o.bias_hu[tissue] + bone_hu * (tissue in ("bone", "dense_bone")) for o in outcomes]
            )
            for tissue in TISSUES_HU
        }
        findings = find_cohort_faults({"": summaries}, TISSUES_HU)
        texts = [f"- {finding.text.partition(';')[0]}" for finding in findings]
        lines += [f"\nAll {len(outcomes)} together, {name}:\n", *(texts or ["- nothing"])]
    return "\n".join(lines)


def _rate(times: int, count: int) -> str:
    interval = binomtest(times, count).proportion_ci(0.95, method="exact")
    return f"{times / count:.0%} ({interval.low:.0%} to {interval.high:.0%})"


if __name__ == "__main__":
    typer.run(run)
