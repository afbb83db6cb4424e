"""``medp2p translate``: one scan, or the cases of a manifest, through a model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medp2p.errors import ManifestError

from . import dicom_output, options
from .progress import progress_bar

if TYPE_CHECKING:
    from medp2p.inference import Translator
    from medp2p.io import DicomOptions, DicomOutput
    from medp2p.volume import Volume


def translate(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Source image or folder of a DICOM series (one per contrast, in the model's "
            "order), then the output: an image file, or a folder for a DICOM series; "
            "or a manifest.csv and an output folder.",
            metavar="INPUT... OUTPUT",
        ),
    ],
    model: Annotated[Path, typer.Option("--model", "-m", help="The model file.")],
    mask: Annotated[
        str,
        typer.Option("--mask", help="Body mask: auto (found in the source), none, or an image."),
    ] = "auto",
    split: Annotated[
        Literal["train", "validation", "test", "all"],
        typer.Option("--split", help="With a manifest: which cases."),
    ] = "test",
    to: Annotated[
        Literal["nifti", "dicom"],
        typer.Option("--to", help="With a manifest: what to write for each case."),
    ] = "nifti",
    dtype: Annotated[
        Literal["int16", "float32"] | None,
        typer.Option("--dtype", help="int16 or float32; default int16 for CT, float32 for MR."),
    ] = None,
    reslice: Annotated[
        Literal["axial"] | None,
        typer.Option(
            "--reslice",
            help="axial: write transverse slices with square pixels instead of the source's grid.",
            show_default=False,
        ),
    ] = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    batch_size: options.BatchSize = 16,
    series: options.Series = None,
    group: options.Group = None,
    volume: options.VolumeNumber = None,
    resample: options.Resample = False,
    orientation_tolerance: options.OrientationTolerance = 1e-3,
    position_tolerance: options.PositionTolerance = 0.05,
    gap_tolerance: options.GapTolerance = 0.05,
    tilt_tolerance: options.TiltTolerance = 0.5,
    also_nifti: dicom_output.AlsoNifti = False,
    series_description: dicom_output.SeriesDescription = None,
    series_number: dicom_output.SeriesNumber = None,
    uid_root: dicom_output.UidRoot = None,
    seed: dicom_output.Seed = None,
    patient_id: dicom_output.PatientId = None,
    patient_name: dicom_output.PatientName = None,
    body_part: dicom_output.BodyPart = None,
    deidentify: dicom_output.Deidentify = False,
    deidentify_key: dicom_output.DeidentifyKey = None,
    allow_burned_in: dicom_output.AllowBurnedIn = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Translate a scan onto its own grid.

    The result has the source's shape and affine, unless --reslice or --resample change it.
    Outside the body a synthetic CT has -1024 HU. CT is written as int16, rounded to the nearest
    HU. A DICOM series gets the source's patient, study and frame of reference, new UIDs, and
    labels that say that it is synthetic.
    """
    from medp2p.checkpoint import load_model
    from medp2p.inference import make_translator
    from medp2p.io import is_series_name

    if len(inputs) < 2:
        raise typer.BadParameter("name the source image and the output", param_hint="INPUT OUTPUT")
    *sources, output = inputs
    from_manifest = sources[0].suffix.lower() == ".csv"
    if from_manifest and mask not in ("auto", "none"):
        raise typer.BadParameter("auto or none with a manifest, which names the masks")
    as_series = to == "dicom" if from_manifest else is_series_name(output)
    labels = dicom_output.labels(
        as_series,
        {
            "series_description": series_description,
            "series_number": series_number,
            "uid_root": uid_root,
            "seed": seed,
            "patient_id": patient_id,
            "patient_name": patient_name,
            "body_part": body_part,
            "allow_burned_in": allow_burned_in,
        },
        also_nifti=also_nifti,
        deidentify=deidentify,
        key_file=deidentify_key,
    )
    if as_series and dtype:
        raise typer.BadParameter("a DICOM series has 16-bit integers", param_hint="--dtype")
    writing = Writing(labels, also_nifti, dtype, overwrite)
    if not from_manifest:
        _refuse_output(sources, writing.outputs(output), overwrite)
    loaded = load_model(model)
    if labels:
        writing.labels = dicom_output.name_model(labels, model, loaded.hash)
    translator = make_translator(loaded, device=device, precision=precision, batch_size=batch_size)
    reading = Reading(
        series or [],
        {
            "group": group,
            "modality": loaded.card.config.preprocessing.source.modality,
            "orientation_tolerance": orientation_tolerance,
            "position_tolerance_mm": position_tolerance,
            "gap_tolerance": gap_tolerance,
            "tilt_tolerance_degrees": tilt_tolerance,
        },
        volume,
        resample,
    )
    job = Job(translator, reading, writing, axial=reslice == "axial")
    if from_manifest:
        _translate_manifest(job, sources[0], output, mask, split)
        return
    began = time.perf_counter()
    job.run(sources, output, mask)
    typer.echo(f"{output}: {time.perf_counter() - began:.1f} s")


@dataclass(frozen=True)
class Reading:
    """How sources are read: which series of each, and with what tolerances."""

    series: list[str]
    dicom: dict[str, Any]
    volume: int | None
    resample: bool

    def read(self, paths: list[Path]) -> list[Volume]:
        """Read one volume per source."""
        from medp2p.io import read_volume

        options.refuse_without_dicom(paths, series=self.series, group=self.dicom["group"])
        chosen = options.one_each(self.series, len(paths), "--series")
        return [
            read_volume(
                path,
                volume_index=self.volume,
                resample=self.resample,
                dicom=self.dicom_options(key),
            )
            for path, key in zip(paths, chosen, strict=True)
        ]

    def dicom_options(self, series: str | None) -> DicomOptions:
        """The options for one source."""
        from medp2p.io import DicomOptions

        return DicomOptions(series=series, **self.dicom)


@dataclass
class Writing:
    """What is written, and how; ``labels`` is None unless it is a DICOM series."""

    labels: DicomOutput | None
    also_nifti: bool
    dtype: Literal["int16", "float32"] | None
    overwrite: bool

    def outputs(self, output: Path) -> list[Path]:
        """Everything that is written for one case."""
        return [output, _nifti_beside(output)] if self.also_nifti else [output]

    def write(self, result: Volume, output: Path) -> None:
        """Write the result as DICOM, as an image file, or both."""
        from medp2p.io import VoxelType, write_dicom_series, write_volume

        default: VoxelType = "int16" if result.units == "HU" else "float32"
        images = self.outputs(output)
        if self.labels:
            write_dicom_series(result, images.pop(0), self.labels, overwrite=self.overwrite)
        for path in images:
            write_volume(result, path, dtype=self.dtype or default, overwrite=self.overwrite)


@dataclass(frozen=True)
class Job:
    """Reading, translating and writing of one case after the other."""

    translator: Translator
    reading: Reading
    writing: Writing
    axial: bool

    def run(self, sources: list[Path], output: Path, mask: str) -> None:
        """Translate one case."""
        from medp2p.io import check_output, read_volume
        from medp2p.volume import axial_grid

        volumes = self.reading.read(sources)
        if self.writing.labels:
            check_output(self.writing.labels, volumes[0].dicom, str(sources[0]))
        body: Any = mask if mask in ("auto", "none") else read_volume(mask)
        onto = axial_grid(volumes[0].grid) if self.axial else None
        self.writing.write(self.translator(volumes, body, onto), output)


def _translate_manifest(job: Job, manifest: Path, output: Path, mask: str, split: str) -> None:
    from medp2p.manifest import read_manifest

    cases = [case for case in read_manifest(manifest) if split in (case.split, "all")]
    if not cases:
        raise ManifestError(
            f"{manifest}: no case is in the split {split!r}; choose another --split"
        )
    suffix = "" if job.writing.labels else ".nii.gz"
    outputs = {case.name: output / f"{case.name}{suffix}" for case in cases}
    names = job.translator.model.card.source_names
    missing = [name for name in names if name not in cases[0].sources]
    if missing:
        raise ManifestError(
            f"{manifest}: the model needs the sources {', '.join(names)}, and there is no column "
            f"source_{missing[0]}"
        )
    for case in cases:
        _refuse_output(
            [case.sources[name] for name in names],
            job.writing.outputs(outputs[case.name]),
            job.writing.overwrite,
        )
    with progress_bar("translating", len(cases), "case") as advance:
        for case in cases:
            body = str(case.mask) if mask == "auto" and case.mask else mask
            job.run([case.sources[name] for name in names], outputs[case.name], body)
            advance(note=case.name)
    typer.echo(f"{output}: {len(cases)} cases")


def _refuse_output(sources: list[Path], outputs: list[Path], overwrite: bool) -> None:
    from medp2p.io import refuse_output_among_inputs

    options.refuse_outputs_early(outputs, overwrite)
    for output in outputs:
        refuse_output_among_inputs(output, sources)


def _nifti_beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.nii.gz")
