"""How often the input guard catches a scan that a model is not for, and refuses one that it is for.

    python benchmarks/guard.py FOLDER [--series 9200] [--heads 100] [--pelvises 30] [--jobs 2]

Training subjects are scanned by one protocol: one field strength, one shading, one noise, one grid,
and the true body mask. Other subjects are new scans, with the body mask that is found in the
image: both field strengths, other noise and shading, finer or coarser voxels, oblique; of every
third only a part of the height, and of every fourth a part of the width is cut off. The looks are
kept in FOLDER, so that the judging alone can be run again. Thresholds were chosen on series 9000
and the way of judging after series 9100 had been seen.

With ``--real-data FOLDER`` (or MEDP2P_REAL_DATA) real scans are judged too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from scipy.stats import binomtest

from medp2p.config import ImageSettings, PreprocessingSettings
from medp2p.conversion.guard import is_part, judge
from medp2p.errors import MedP2PError
from medp2p.fingerprint import Look, describe, describe_parts, summary
from medp2p.io import read_volume
from medp2p.phantom import CONTRASTS, LABELS, Anatomy, Phantom, case_seed, make_phantom
from medp2p.preprocessing import (
    body_mask,
    check_modality,
    decode,
    prepare_mask,
    prepare_source,
)
from medp2p.volume import Volume
from medp2p.workers import run_jobs

Array = NDArray[Any]

Image = tuple[Volume, PreprocessingSettings, Array | None]
"""A volume, how it is prepared, and its body if that is given."""

Seen = Sequence[Look]
"""What an image looks like as a whole, then what its parts do; empty if it is refused before."""

ANATOMIES: tuple[Anatomy, ...] = ("head", "pelvis")
TRAINING_CASES: Mapping[Anatomy, tuple[int, ...]] = {"head": (8, 20, 60), "pelvis": (8, 20)}

TRAINING_SERIES = 100_000
"""Added to the number of a series for its training subjects."""

MR = PreprocessingSettings(
    source=ImageSettings(modality="MR"),
    target=ImageSettings(modality="CT"),
    spacing_mm=(2.0, 2.0, None),
)
CT = PreprocessingSettings(
    source=ImageSettings(modality="CT"),
    target=ImageSettings(modality="MR"),
    spacing_mm=(2.0, 2.0, None),
)

TRAINING_SHAPE: Mapping[Anatomy, tuple[int, int, int]] = {
    "head": (72, 78, 36),
    "pelvis": (96, 73, 36),
}
BRAIN = ("csf", "grey_matter", "white_matter", "deep_grey_matter")
"""Labels of what is left of a head when the rest is taken away."""


@dataclass(frozen=True)
class Guarded:
    """A model that needs a guard.

    Attributes:
        training: Anatomy and image that it is trained on.
        right: Image of a new scan that it is for.
        wrong: Images of the same body that it is not for.
        elsewhere: Images of the other anatomy that it is not for.
    """

    training: tuple[Anatomy, str]
    right: str
    wrong: tuple[str, ...]
    elsewhere: tuple[str, ...]


def _of_mr(anatomy: Anatomy, contrast: str) -> Guarded:
    images = (*CONTRASTS, "ct_as_mr", f"inverted_{contrast}", f"inverted_body_{contrast}", "noise")
    wrong = tuple(image for image in images if image != contrast)
    return Guarded((anatomy, contrast), contrast, wrong, ("t1", "t2"))


MODELS: Mapping[str, Guarded] = {
    "head T1": _of_mr("head", "t1"),
    "pelvis T1": _of_mr("pelvis", "t1"),
    "head T2": _of_mr("head", "t2"),
    "head CT": Guarded(
        ("head", "ct"), "ct", ("t1_as_ct", "inverted_ct", "offset_ct", "noise_ct"), ("ct",)
    ),
}


@dataclass(frozen=True)
class Job:
    """One subject to scan."""

    anatomy: Anatomy
    series: int
    number: int
    training: bool
    folder: Path

    @property
    def path(self) -> Path:
        """Where its looks are kept."""
        role = "training" if self.training else "scan"
        return self.folder / f"{self.series}_{self.anatomy}_{role}_{self.number:03d}.json"


def scan(job: Job) -> None:
    """Scan one subject and keep what its images look like, by name."""
    if job.path.exists():
        return
    looks: dict[str, list[dict[str, Any]]] = {}
    images = _training_images(job) if job.training else _new_images(job)
    for name, (volume, settings, mask) in images.items():
        try:
            seen = look_at(volume, settings, mask, with_parts=job.training)
        except MedP2PError:
            seen = []
        looks[name] = [asdict(look) for look in seen]
    job.path.parent.mkdir(parents=True, exist_ok=True)
    temporary = job.path.with_suffix(".tmp")
    temporary.write_text(json.dumps(looks))
    temporary.rename(job.path)


def look_at(
    volume: Volume,
    settings: PreprocessingSettings,
    mask: Array | None = None,
    *,
    with_parts: bool = False,
) -> list[Look]:
    """Measure a volume, and its parts, as training and translation do."""
    check_modality(volume, settings.source, "source")
    body = body_mask(volume, settings.source.modality) if mask is None else mask
    prepared = prepare_source(volume, body, settings)
    unit, grid = decode(prepared.codes)[None], prepared.grid
    on_grid = prepare_mask(volume.with_array(body), grid)
    parts = describe_parts(unit, on_grid, grid.spacing_mm) if with_parts else []
    return [describe(unit, on_grid, grid.spacing_mm), *parts]


def _training_images(job: Job) -> dict[str, Image]:
    subject = make_phantom(
        job.anatomy,
        case_seed(job.series + TRAINING_SERIES, job.number),
        shape=TRAINING_SHAPE[job.anatomy],
        contrasts=CONTRASTS,
    )
    body = subject.mask.array > 0
    images: dict[str, Image] = {
        contrast: (volume, MR, body) for contrast, volume in subject.mr.items()
    }
    images["ct"] = (subject.ct, CT, body)
    if job.anatomy == "head":
        images |= _brains(subject)
    return images


def _new_images(job: Job) -> dict[str, Image]:
    rng = np.random.default_rng([job.series, job.number, job.anatomy == "head"])
    subject = _scanned(job, rng)
    images: dict[str, Image] = {}
    for contrast, volume in subject.mr.items():
        images[contrast] = (volume, MR, None)
    for contrast in ("t1", "t2"):
        array = subject.mr[contrast].array.astype(np.float32)
        turned = array.max() - array
        body = subject.mask.array > 0
        images[f"inverted_{contrast}"] = (subject.mr[contrast].with_array(turned), MR, None)
        inside = np.where(body, turned, array)
        images[f"inverted_body_{contrast}"] = (subject.mr[contrast].with_array(inside), MR, None)
    t1, hu = subject.mr["t1"], subject.ct.array.astype(np.float32)
    noise = rng.normal(500, 150, t1.shape).clip(0).astype(np.float32)
    images["noise"] = (t1.with_array(noise), MR, None)
    images["ct_as_mr"] = (Volume(hu + 1024, t1.affine), MR, None)
    images["ct"] = (subject.ct, CT, None)
    images["t1_as_ct"] = (Volume(t1.array - np.float32(1024), t1.affine), CT, None)
    images["inverted_ct"] = (Volume(-hu, t1.affine), CT, None)
    images["offset_ct"] = (subject.ct.with_array(hu + 1024), CT, None)
    noise_hu = rng.normal(0, 500, t1.shape).clip(-1024).astype(np.float32)
    images["noise_ct"] = (Volume(noise_hu, t1.affine), CT, None)
    return images


def _scanned(job: Job, rng: np.random.Generator) -> Phantom:
    """Scan a subject somehow; what is cut off is cut off all images."""
    in_plane = float(rng.uniform(2.6, 4.0) if job.anatomy == "head" else rng.uniform(3.5, 5.5))
    spacing = (in_plane, in_plane, float(rng.uniform(4.0, 8.0)))
    extent = {"head": (230, 250, 220), "pelvis": (420, 320, 250)}[job.anatomy]
    i, j, k = (round(mm / s) for mm, s in zip(extent, spacing, strict=True))
    subject = make_phantom(
        job.anatomy,
        case_seed(job.series, job.number),
        shape=(i, j, k),
        spacing_mm=spacing,
        contrasts=CONTRASTS,
        field_strength_t=float(rng.choice([1.5, 3.0])),
        oblique_degrees=float(rng.uniform(0, 8)),
        mr_noise=float(rng.uniform(0.01, 0.05)),
        shading_strength=float(rng.uniform(0.05, 0.25)),
    )
    box = [slice(None)] * 3
    if rng.random() < 1 / 3:
        kept = int(rng.uniform(0.25, 0.8) * k)
        first = int(rng.integers(0, k - kept + 1))
        box[2] = slice(first, first + kept)
    if rng.random() < 1 / 4:
        lost = int(rng.uniform(0.1, 0.25) * i)
        box[0] = slice(lost, None) if rng.random() < 0.5 else slice(None, i - lost)

    def cut(volume: Volume) -> Volume:
        affine = volume.affine.copy()
        start = [s.start or 0 for s in box]
        affine[:3, 3] += affine[:3, :3] @ start
        return replace(volume, array=np.ascontiguousarray(volume.array[tuple(box)]), affine=affine)

    return replace(
        subject,
        mr={contrast: cut(volume) for contrast, volume in subject.mr.items()},
        ct=cut(subject.ct),
        mask=cut(subject.mask),
        labels=cut(subject.labels),
    )


def _brains(subject: Phantom) -> dict[str, Image]:
    """The head's images with all but the brain made 0."""
    brain = np.isin(subject.labels.array, [LABELS[name] for name in BRAIN])
    return {
        f"brain_{contrast}": (volume.with_array(np.where(brain, volume.array, 0)), MR, None)
        for contrast, volume in subject.mr.items()
    }


def run(
    folder: Annotated[Path, typer.Argument(help="Folder to keep the looks in.")],
    series: Annotated[int, typer.Option(help="Number of the series of subjects.")] = 9200,
    heads: Annotated[int, typer.Option(help="New scans of heads.")] = 100,
    pelvises: Annotated[int, typer.Option(help="New scans of pelvises.")] = 30,
    training: Annotated[int, typer.Option(min=8, help="At most so many training subjects.")] = 60,
    jobs: Annotated[int, typer.Option(help="Processes.")] = 1,
    real_data: Annotated[Path | None, typer.Option(envvar="MEDP2P_REAL_DATA")] = None,
) -> None:
    """Measure and print."""
    counts: dict[Anatomy, int] = {"head": heads, "pelvis": pelvises}
    new = {a: [Job(a, series, n, False, folder) for n in range(counts[a])] for a in ANATOMIES}
    cases = {a: [n for n in TRAINING_CASES[a] if n <= training] for a in ANATOMIES}
    known = {a: [Job(a, series, n, True, folder) for n in range(cases[a][-1])] for a in ANATOMIES}
    for job, result in run_jobs(scan, [j for a in ANATOMIES for j in (*known[a], *new[a])], jobs):
        if isinstance(result, MedP2PError):
            raise result
        print(job.path.name, file=sys.stderr)
    scans = {a: [read_looks(job) for job in new[a]] for a in ANATOMIES}
    trained = {a: [read_looks(job) for job in known[a]] for a in ANATOMIES}
    for name, model in MODELS.items():
        anatomy, image = model.training
        for count in cases[anatomy]:
            prints = fingerprint_of([looks[image] for looks in trained[anatomy]][:count])
            print(f"\n{name}, {count} training cases\n")
            print(table(model, prints, scans))
    if real_data:
        for count in cases["head"]:
            print(f"\n{count} training cases")
            print(real_table(real_data, trained["head"][:count]))


def read_looks(job: Job) -> dict[str, Seen]:
    """Read what `scan` kept."""
    kept = json.loads(job.path.read_text())
    return {name: [Look(**values) for values in looks] for name, looks in kept.items()}


def fingerprint_of(cases: Sequence[Seen]) -> dict[str, Any]:
    """Make the part of a fingerprint that `judge` reads."""
    looks = [whole for whole, *_ in cases]
    spacing = np.array([look.spacing_mm for look in looks])
    return {
        "sources": ["mr"],
        "spacing_mm": [spacing.min(axis=0).tolist(), spacing.max(axis=0).tolist()],
        "looks": summary(looks),
        "part_looks": [summary(part) for part in zip(*(parts for _, *parts in cases), strict=True)],
    }


def table(
    model: Guarded,
    prints: Mapping[str, Any],
    scans: Mapping[Anatomy, Sequence[Mapping[str, Seen]]],
) -> str:
    """How many of each kind of scan are refused, and the scores' lowest, median and highest.

    Scans of so small a part of the body that they are judged as such are counted once more.
    """
    own = model.training[0]
    other: Anatomy = "pelvis" if own == "head" else "head"
    kinds = [(own, image) for image in (model.right, *model.wrong)]
    kinds += [(other, image) for image in model.elsewhere]
    lines = [
        "| scan | refused | rate, 95 % interval | parts | score: lowest, median, highest |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    height = prints["looks"]["body"]["height_mm"]
    for anatomy, image in kinds:
        wholes = [looks[model.right] for looks in scans[anatomy]]
        part = np.array([bool(looks) and is_part(looks[0], height) for looks in wholes])
        seen = [looks[image] for looks in scans[anatomy]]
        scores = np.array([judge(looks[0], prints).score if looks else np.inf for looks in seen])
        low, middle, high = np.quantile(scores, (0, 0.5, 1), method="nearest")
        refused = int((scores >= 1).sum())
        right = ", right" if (anatomy, image) == (own, model.right) else ""
        lines.append(
            f"| {anatomy} {image.replace('_', ' ')}{right} | {refused} of {len(seen)} | "
            f"{_rate(refused, len(seen))} | {(scores[part] >= 1).sum()} of {part.sum()} | "
            f"{low:.2f}, {middle:.2f}, {high:.2f} |"
        )
    return "\n".join(lines)


def real_table(real_data: Path, heads: Sequence[Mapping[str, Seen]]) -> str:
    """Judge real scans by phantom heads, and by their brains alone."""
    models = {"head T1": "t1", "brain T1": "brain_t1", "brain T2": "brain_t2"}
    prints = {
        name: fingerprint_of([looks[image] for looks in heads]) for name, image in models.items()
    }
    lines = ["\n| real scan | model | score | reasons |", "| --- | --- | ---: | --- |"]
    for path in ("pork_t2_ct/mr", *(f"stroke_t1_t2_flair/{c}" for c in ("T1", "T2", "FLAIR"))):
        (look,) = look_at(read_volume(real_data / f"{path}.nii.gz"), MR)
        for name, known in prints.items():
            judgement = judge(look, known)
            reasons = "; ".join(judgement.reasons)
            lines.append(f"| {path} | {name} | {judgement.score:.2f} | {reasons} |")
    return "\n".join(lines)


def _rate(times: int, count: int) -> str:
    interval = binomtest(times, count).proportion_ci(0.95, method="exact")
    return f"{times / count:.0%} ({interval.low:.0%} to {interval.high:.0%})"


if __name__ == "__main__":
    typer.run(run)
