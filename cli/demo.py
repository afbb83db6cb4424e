"""``medp2p demo``: the whole job on phantoms."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .baselines import write_baselines
from .phantom import phantom
from .prepare import prepare
from .train import train
from .translate import translate

if TYPE_CHECKING:
    from medp2p.evaluation import Evaluation

PICTURES = "pictures"


def demo(
    output: Annotated[Path, typer.Argument(help="Folder for everything the demo makes.")],
    cases: Annotated[int, typer.Option("--cases", min=8, help="Phantom subjects in all.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Of phantoms, split and training.")] = 0,
    set_: options.Assignments = None,
    device: options.Device = "auto",
) -> None:
    """Do the whole job on phantom heads.

    Makes subjects, learns MR to CT, translates unseen ones and judges the result. The table
    compares the model with two baselines on subjects that training never saw: one CT number
    for the whole body, and the best function of MR intensity alone.
    """
    from medp2p.files import refuse_existing

    refuse_existing(output, overwrite=False)
    assignments = [f"training.seed={seed}", f"data.split_seed={seed}", *(set_ or [])]
    scans, prepared, run = output / "cases", output / "prepared", output / "model"
    predictions = output / "predictions"

    _say(f"1. {cases} phantom heads, MR and CT")
    phantom(scans, cases=cases, seed=seed, size="128,128,40")
    _say("2. Resample, normalize and pack them; a sixth is kept unseen for the test")
    prepare(scans, prepared, preset="demo", set_=assignments)
    _say("3. Train pix2pix")
    train(prepared, run, preset="demo", set_=assignments, device=device, report=False)
    _say("4. Translate the unseen cases, by the model and by the two baselines")
    manifest = prepared / "manifest.csv"
    model = run / "model.safetensors"
    translate([manifest, predictions / "model"], model=model, device=device)
    write_baselines(prepared, predictions, split="test", overwrite=False)
    _say("5. Judge them")
    typer.echo(_judge(scans, predictions))
    _write_pictures(scans, predictions / "model", output / PICTURES)
    _say(f"Pictures: {output / PICTURES}. Look into {run / 'samples'} to see it learn.")


def _judge(scans: Path, predictions: Path) -> str:
    import json

    from medp2p.evaluation import comparison_table, evaluate_folders
    from medp2p.metrics import PROFILES

    results: dict[str, Evaluation] = {
        name: evaluate_folders(predictions / name, scans, PROFILES["synthrad2025"])
        for name in ("constant", "intensity", "model")
    }
    table = comparison_table({name: result.results for name, result in results.items()})
    mae = {
        name: sum(case.values["mae_hu"] for case in result.results) / len(result.results)
        for name, result in results.items()
    }
    floors = [
        json.loads((scans / case.case / "phantom.json").read_text())["ct_noise_mae_hu"]
        for case in results["model"].results
    ]
    best = min(mae["constant"], mae["intensity"])
    return (
        f"{table}\n\nThe CT noise alone is a masked MAE of {sum(floors) / len(floors):.1f} HU: no "
        f"model can be better.\nThe model's masked MAE is {1 - mae['model'] / best:.0%} below the "
        "better baseline's."
    )


def _write_pictures(scans: Path, predictions: Path, output: Path) -> None:
    from medp2p.io import read_volume
    from medp2p.pictures import write_volumes_picture

    for path in sorted(predictions.glob("*.nii.gz")):
        name = path.name.removesuffix(".nii.gz")
        case = scans / name
        write_volumes_picture(
            output / f"{name}.png",
            source=read_volume(case / "mr.nii.gz"),
            prediction=read_volume(path),
            target=read_volume(case / "ct.nii.gz"),
            mask=read_volume(case / "mask.nii.gz"),
            modalities=("MR", "CT"),
        )


def _say(text: str) -> None:
    typer.echo(f"\n{text}", err=True)
