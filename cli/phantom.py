"""``medp2p phantom``: digital subjects, as folders of paired MR and CT volumes."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import options
from .progress import progress_bar

if TYPE_CHECKING:
    from medp2p.phantom import Contrast, Phantom

AnatomyName = Literal["head", "pelvis"]
CONTRASTS = ("t1", "t2", "pd", "flair")


def phantom(
    output: Annotated[Path, typer.Argument(help="Folder to write the case folders into.")],
    cases: Annotated[int, typer.Option("--cases", "-n", min=1, help="Number of subjects.")] = 10,
    anatomy: Annotated[AnatomyName, typer.Option(help="Part of the body.")] = "head",
    seed: Annotated[int, typer.Option(min=0, help="Decides all that is random.")] = 0,
    size: Annotated[
        str, typer.Option(help="Voxels: one number, or three as 128,128,40 (left-right first).")
    ] = "128",
    spacing: Annotated[
        str | None,
        typer.Option(help="Voxel size in mm, one or three numbers.  [default: fits the body]"),
    ] = None,
    contrast: Annotated[
        str, typer.Option(help="MR contrast: t1, t2, pd or flair; several as t1,t2.")
    ] = "t1",
    field_strength: Annotated[float, typer.Option(help="1.5 or 3 tesla.")] = 1.5,
    oblique: Annotated[float, typer.Option(help="Turn the grid by so many degrees.")] = 0.0,
    dicom: Annotated[
        bool,
        typer.Option(
            "--dicom",
            help="Patients as a hospital exports them: DICOM studies, MR and CT of different days "
            "and in different places, thick slices, a couch in the CT.",
        ),
    ] = False,
    turned: Annotated[
        bool,
        typer.Option("--turned", help="With --dicom: let some patients lie far off, up to 180°."),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="With --dicom: patients at a time. Default: one per core.",
            show_default=False,
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Make digital subjects with MR and CT that belong together.

    Each subject is a folder: ct.nii.gz, mask.nii.gz, labels.nii.gz, phantom.json and
    mr.nii.gz (with several contrasts t1.nii.gz, t2.nii.gz, …). A seed gives the same bytes
    every time. With --dicom each is a patient: patient_001/mr and patient_001/ct hold the series
    of two studies; --size is then one number, the pixels of the MR across the body.
    """
    import json

    shape = _three(size, int, "--size")
    spacing_mm = None if spacing is None else _three(spacing, float, "--spacing")
    contrasts: Any = contrast.split(",")
    if not set(contrasts) <= set(CONTRASTS):
        known = ", ".join(CONTRASTS)
        raise typer.BadParameter(f"{contrast!r}, expected some of {known}", param_hint="--contrast")
    if field_strength not in (1.5, 3.0):
        raise typer.BadParameter(
            f"{field_strength:g} is neither 1.5 nor 3", param_hint="--field-strength"
        )
    if not abs(oblique) <= 45:
        raise typer.BadParameter(f"{oblique:g} is more than 45", param_hint="--oblique")
    if dicom:
        if len(set(shape)) > 1 or spacing is not None or oblique or field_strength != 1.5:
            raise typer.BadParameter(
                "takes one number as --size and no --spacing, --oblique or --field-strength: "
                "they are drawn",
                param_hint="--dicom",
            )
        export = Export(output, seed, anatomy, tuple(contrasts), shape[0], turned, overwrite)
        _write_patients(export, cases, jobs or options.processor_cores(), as_json)
        return
    folders = [output / f"{anatomy}_{number:03d}" for number in range(1, cases + 1)]
    options.refuse_outputs_early(folders, overwrite)

    from medp2p.phantom import case_seed, make_phantom

    began, floors = time.perf_counter(), []
    with progress_bar("phantoms", cases, "case") as advance:
        for number, folder in enumerate(folders, start=1):
            subject = make_phantom(
                anatomy,
                case_seed(seed, number),
                shape=shape,
                spacing_mm=spacing_mm,
                contrasts=contrasts,
                field_strength_t=3.0 if field_strength == 3.0 else 1.5,
                oblique_degrees=oblique,
            )
            write_phantom(subject, folder, overwrite=overwrite)
            floors.append(subject.ct_noise_mae_hu)
            advance()
    floor = sum(floors) / len(floors)
    if as_json:
        typer.echo(json.dumps({"cases": [str(f) for f in folders], "ct_noise_mae_hu": floor}))
        return
    typer.echo(
        f"{output}: {cases} cases in {time.perf_counter() - began:.0f} s; "
        f"the CT noise alone is a masked MAE of {floor:.1f} HU"
    )


@dataclass(frozen=True)
class Export:
    """A series of patients to be written as DICOM; the fields are options of the command."""

    output: Path
    seed: int
    anatomy: AnatomyName
    contrasts: "tuple[Contrast, ...]"
    pixels: int
    turned: bool
    overwrite: bool


def _write_patients(export: Export, patients: int, jobs: int, as_json: bool) -> None:
    """Write all patients, several at a time."""
    import json

    numbers = range(1, patients + 1)
    folders = [export.output / f"patient_{number:03d}" for number in numbers]
    options.refuse_outputs_early(folders, export.overwrite)

    from medp2p.errors import MedP2PError
    from medp2p.workers import run_jobs

    began = time.perf_counter()
    with progress_bar("patients", patients, "patient") as advance:
        for _, result in run_jobs(_write_patient, [(export, n) for n in numbers], jobs):
            if isinstance(result, MedP2PError):
                raise result
            advance()
    if as_json:
        typer.echo(json.dumps({"patients": [str(folder) for folder in folders]}))
        return
    typer.echo(f"{export.output}: {patients} patients in {time.perf_counter() - began:.0f} s")


def _write_patient(job: tuple[Export, int]) -> Path:
    from medp2p.phantom.dicom_export import export_random_patient

    export, number = job
    return export_random_patient(
        export.output,
        export.seed,
        number,
        anatomy=export.anatomy,
        contrasts=export.contrasts,
        pixels=export.pixels,
        turned=export.turned,
        overwrite=export.overwrite,
    )


def write_phantom(subject: "Phantom", folder: Path, *, overwrite: bool = False) -> None:
    """Write a subject as a case folder, whole or not at all.

    Raises:
        OutputError: If the folder exists and ``overwrite`` is false, or cannot be written.
    """
    import json

    from medp2p.files import atomic_folder, write_text
    from medp2p.io import write_volume

    with atomic_folder(folder, marker="phantom.json", overwrite=overwrite) as temporary:
        for contrast, volume in subject.mr.items():
            name = contrast if len(subject.mr) > 1 else "mr"
            write_volume(volume, temporary / f"{name}.nii.gz", dtype="int16")
        write_volume(subject.ct, temporary / "ct.nii.gz", dtype="int16")
        write_volume(subject.mask, temporary / "mask.nii.gz", dtype="uint8")
        write_volume(subject.labels, temporary / "labels.nii.gz", dtype="uint8")
        write_text(temporary / "phantom.json", json.dumps(_description(subject), indent=1) + "\n")


def _description(subject: "Phantom") -> dict[str, Any]:
    from medp2p.phantom import LABELS

    return {
        "anatomy": subject.anatomy,
        "seed": subject.seed,
        **subject.parameters,
        "ct_noise_mae_hu": round(subject.ct_noise_mae_hu, 4),
        "tissue_hu": subject.tissue_hu,
        "labels": LABELS,
    }


def _three(text: str, number: type, option: str) -> Any:
    """Read one or three positive numbers."""
    try:
        values = [number(part) for part in text.replace("x", ",").split(",")]
    except ValueError:
        values = []
    if len(values) == 1:
        values *= 3
    if len(values) != 3 or not all(math.isfinite(v) and v > 0 for v in values):
        raise typer.BadParameter(f"{text!r} is not one or three numbers above 0", param_hint=option)
    return tuple(values)
