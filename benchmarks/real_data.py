"""Train on part of one real specimen and test on the rest of it, along k, with gaps between.

    python benchmarks/real_data.py pork DATA/pork_t2_ct OUT
    python benchmarks/real_data.py stroke DATA/stroke_t1_t2_flair OUT

One specimen proves plumbing and physics, never generalization. OUT gets the slabs, the
prepared folder, the run, the predictions, a picture and ``table.md``.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from numpy.typing import NDArray

from medp2p.evaluation import Layout, comparison_table, evaluate_folders
from medp2p.io import read_volume, write_volume
from medp2p.manifest import Case, write_manifest
from medp2p.metrics import PROFILES, Profile, range_profile
from medp2p.pictures import write_volumes_picture
from medp2p.splits import Split
from medp2p.volume import Volume


@dataclass(frozen=True)
class Experiment:
    """Which slabs of which images, and how they are learnt."""

    source: str
    target: str
    mask: str | None
    preset: str
    settings: tuple[str, ...]
    slabs: tuple[tuple[Split, int, int], ...]


EXPERIMENTS = {
    "pork": Experiment(
        source="mr",
        target="ct",
        mask="mask",
        preset="demo",
        settings=("slices.size=[160,128]", "method.generator.levels=5", "training.epochs=60"),
        slabs=(("train", 0, 46), ("validation", 49, 54), ("test", 57, 72), ("train", 75, 94)),
    ),
    "stroke": Experiment(
        source="T1",
        target="T2",
        mask=None,
        preset="t1_to_t2",
        settings=(
            "preprocessing.spacing_mm=[null,null,null]",
            "slices.size=[160,128]",
            "method.generator.levels=5",
            "method.generator.channels=24",
            "method.discriminator.channels=24",
            "method.masked_l1=true",
            "method.adversarial_weight=0.1",
            "method.learning_rate=0.001",
            "training.epochs=30",
            "training.decay_epochs=10",
            "training.validate_every=10",
        ),
        slabs=(("train", 10, 62), ("validation", 65, 72), ("test", 75, 95), ("train", 98, 135)),
    ),
}


def run(
    name: Annotated[Literal["pork", "stroke"], typer.Argument()],
    data: Annotated[Path, typer.Argument(help="Folder with the images.")],
    output: Annotated[Path, typer.Argument(help="Folder to make.")],
) -> None:
    """Cut slabs, prepare, train, translate the test slab, and judge it against the baselines."""
    experiment = EXPERIMENTS[name]
    cases = _cut_slabs(experiment, data, output / "cases")
    manifest = output / "manifest.csv"
    write_manifest(manifest, cases)
    prepared, model = output / "prepared", output / "run" / "model.safetensors"
    settings = [part for text in experiment.settings for part in ("--set", text)]
    options = ["--preset", experiment.preset, *settings]
    medp2p("prepare", manifest, prepared, *options)
    medp2p("train", prepared, output / "run", *options)
    medp2p("translate", manifest, output / "predictions" / "model", "--model", model)
    medp2p("baselines", prepared, output / "predictions")
    table = _table(experiment, output)
    (output / "table.md").write_text(table + "\n", encoding="utf-8")
    typer.echo(table)
    [test] = [case for case in cases if case.split == "test"]
    assert test.mask is not None
    modalities = ("MR", "CT") if experiment.target == "ct" else ("MR", "MR")
    write_volumes_picture(
        output / "picture.png",
        source=read_volume(test.sources[experiment.source]),
        prediction=read_volume(output / "predictions" / "model" / f"{test.name}.nii.gz"),
        target=read_volume(test.target),
        mask=read_volume(test.mask),
        modalities=modalities,
    )


def medp2p(*arguments: object) -> None:
    """Run a medp2p command and stop if it fails."""
    typer.echo("medp2p " + " ".join(map(str, arguments)), err=True)
    subprocess.run([sys.executable, "-m", "medp2p.cli", *map(str, arguments)], check=True)


def _cut_slabs(experiment: Experiment, data: Path, folder: Path) -> list[Case]:
    source = read_volume(data / f"{experiment.source}.nii.gz")
    target = read_volume(data / f"{experiment.target}.nii.gz")
    if experiment.mask:
        mask = read_volume(data / f"{experiment.mask}.nii.gz")
    else:
        mask = source.with_array((source.array > 0).astype(np.uint8))
    cases = []
    for split, first, end in experiment.slabs:
        name = f"slab_{first:03d}_{end:03d}"
        paths = {key: folder / name / f"{key}.nii.gz" for key in ("source", "target", "mask")}
        for path, volume in zip(paths.values(), (source, target, mask), strict=True):
            write_volume(_slab(volume, first, end), path)
        sources = {experiment.source: paths["source"]}
        cases.append(Case(name, name, split, sources, paths["target"], paths["mask"]))
    return cases


def _slab(volume: Volume, first: int, end: int) -> Volume:
    affine = volume.affine.copy()
    affine[:3, 3] = (volume.affine @ [0, 0, first, 1])[:3]
    return Volume(volume.array[:, :, first:end], affine, volume.modality, volume.units)


def _table(experiment: Experiment, output: Path) -> str:
    results = {
        name: evaluate_folders(
            output / "predictions" / name,
            output / "cases",
            _profile(experiment, output),
            layout=Layout(target_name="target"),
        ).results
        for name in ("constant", "intensity", "model")
    }
    return comparison_table(results)


def _profile(experiment: Experiment, output: Path) -> Profile:
    if experiment.target == "ct":
        return PROFILES["synthrad2025"]
    [slab] = [f"slab_{a:03d}_{b:03d}" for split, a, b in experiment.slabs if split == "test"]
    folder = output / "cases" / slab
    values: NDArray[np.floating] = read_volume(folder / "target.nii.gz").array
    return range_profile(0.0, float(np.percentile(values[values > 0], 99.5)))


if __name__ == "__main__":
    typer.run(run)
