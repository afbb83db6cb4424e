"""``medp2p translate``: one scan, or the cases of a manifest, through a model."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medp2p.errors import ManifestError, MedP2PError, OutputError

from . import dicom_output, options
from .progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medp2p.inference import Translator
    from medp2p.io import DicomOutput
    from medp2p.manifest import Case
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
        Literal["train", "validation", "test", "all"] | None,
        typer.Option(
            "--split", help="With a manifest: which cases. Default: test.", show_default=False
        ),
    ] = None,
    to: Annotated[
        Literal["nifti", "dicom"] | None,
        typer.Option(
            "--to",
            help="With a manifest: what to write for each case. Default: nifti.",
            show_default=False,
        ),
    ] = None,
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
    volume: options.Volumes = None,
    resample: options.Resample = False,
    orientation_tolerance: options.OrientationTolerance = None,
    position_tolerance: options.PositionTolerance = None,
    gap_tolerance: options.GapTolerance = None,
    tilt_tolerance: options.TiltTolerance = None,
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
    labels that say that it is synthetic. A manifest's cases that are no DICOM get its patient
    column as PatientID. A case that fails does not stop the others; exit code 3: some failed.
    """
    from medp2p.checkpoint import load_model
    from medp2p.devices import keep_freed_memory
    from medp2p.inference import make_translator

    if len(inputs) < 2:
        raise typer.BadParameter("name the source image and the output", param_hint="INPUT OUTPUT")
    *sources, output = inputs
    from_manifest = sources[0].suffix.lower() == ".csv"
    if from_manifest:
        _refuse_with_manifest(mask, {"--patient-id": patient_id, "--patient-name": patient_name})
    else:
        _refuse_without_manifest({"--split": split, "--to": to})
    as_series = to == "dicom" if from_manifest else _is_series_name(output)
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
    reading = Reading(
        series or [],
        group or [],
        volume or [],
        options.tolerances(
            orientation_tolerance, position_tolerance, gap_tolerance, tilt_tolerance
        ),
        resample,
    )
    if not from_manifest:
        reading.check([sources])
        writing.check(sources, output)
    loaded = load_model(model)
    if labels:
        writing.labels = dicom_output.name_model(labels, model, loaded.hash)
    keep_freed_memory()
    translator = make_translator(loaded, device=device, precision=precision, batch_size=batch_size)
    job = Job(translator, reading, writing, axial=reslice == "axial")
    if from_manifest:
        _translate_manifest(job, sources[0], output, mask, split or "test")
        return
    began = time.perf_counter()
    job.run(job.read(sources), output, mask, writing.labels)
    typer.echo(f"{output}: {time.perf_counter() - began:.1f} s")


@dataclass(frozen=True)
class Reading:
    """How sources are read: which series, group and volume of each, with what tolerances."""

    series: list[str]
    groups: list[int]
    volumes: list[int]
    tolerances: dict[str, Any]
    resample: bool

    def check(self, cases: list[list[Path]]) -> None:
        """Refuse options that do not fit the sources of the cases."""
        choices: dict[str, list[Any]] = {"series": self.series, "group": self.groups}
        given = [name for name, values in choices.items() if values]
        options.refuse_without_dicom(
            [source for sources in cases for source in sources], [*given, *self.tolerances]
        )
        for name, values in (*choices.items(), ("volume", self.volumes)):
            options.one_each(values, len(cases[0]), f"--{name}")

    def read(
        self, paths: list[Path], modality: str, stated: "Sequence[str]" = ()
    ) -> "list[Volume]":
        """Read one volume per source; of DICOM only series of ``modality``.

        Where no series is chosen by option, ``stated`` says which: ``KEY`` or ``KEY/GROUP``.
        """
        from medp2p.io import read_volume
        from medp2p.manifest import dicom_options

        count = len(paths)
        chosen = zip(
            paths,
            options.one_each(self.series, count, "--series"),
            options.one_each(self.groups, count, "--group"),
            options.one_each(self.volumes, count, "--volume"),
            [dicom_options(series) for series in stated or [""] * count],
            strict=True,
        )
        return [
            read_volume(
                path,
                volume_index=volume,
                resample=self.resample,
                dicom=replace(
                    known,
                    series=series or known.series,
                    group=group or known.group,
                    modality=modality,
                    **self.tolerances,
                ),
            )
            for path, series, group, volume, known in chosen
        ]


@dataclass
class Writing:
    """What is written, and how; ``labels`` is None unless it is a DICOM series."""

    labels: "DicomOutput | None"
    also_nifti: bool
    dtype: Literal["int16", "float32"] | None
    overwrite: bool

    def outputs(self, output: Path) -> list[Path]:
        """Everything that is written for one case."""
        return [output, _nifti_beside(output)] if self.also_nifti else [output]

    def check(self, sources: list[Path], output: Path) -> None:
        """Refuse, before any work, outputs and sources that cannot go together."""
        from medp2p.io import refuse_output_among_inputs

        outputs = self.outputs(output)
        options.refuse_outputs_early(outputs, self.overwrite)
        for path in outputs:
            refuse_output_among_inputs(path, sources)
            is_series = self.labels is not None and path == output
            if path.exists() and path.is_dir() != is_series:
                found, expected = ("a file", "a folder") if is_series else ("a folder", "a file")
                raise OutputError(f"{path}: is {found}, expected {expected}; name another output")
        if self.labels and len(set(map(options.is_dicom, sources))) > 1:
            raise typer.BadParameter(
                f"{sources[0]} and its other contrasts are of different kinds; for a DICOM output "
                "give all contrasts as DICOM, or none"
            )

    def write(self, result: "Volume", output: Path, labels: "DicomOutput | None") -> None:
        """Write the result as DICOM, as an image file, or both."""
        from medp2p.io import VoxelType, write_dicom_series, write_volume

        default: VoxelType = "int16" if result.units == "HU" else "float32"
        images = self.outputs(output)
        if labels:
            write_dicom_series(result, images.pop(0), labels, overwrite=self.overwrite)
        for path in images:
            write_volume(result, path, dtype=self.dtype or default, overwrite=self.overwrite)


@dataclass(frozen=True)
class Job:
    """Reading, translating and writing of one case after the other."""

    translator: "Translator"
    reading: Reading
    writing: Writing
    axial: bool

    def run_case(self, case: "Case", output: Path, mask: str, labels: "DicomOutput | None") -> None:
        """Translate a case of a manifest."""
        from medp2p.manifest import align_sources

        names = self.translator.model.card.source_names
        series = [case.series.get(name, "") for name in names]
        volumes = self.read([case.sources[name] for name in names], series)
        aligned = align_sources(case, dict(zip(names, volumes, strict=True)))
        self.run(aligned, output, mask, labels)

    def read(self, sources: list[Path], series: "Sequence[str]" = ()) -> "list[Volume]":
        """Read the sources of one case."""
        settings = self.translator.model.card.config.preprocessing
        return self.reading.read(sources, settings.source.modality, series)

    def run(
        self, volumes: "list[Volume]", output: Path, mask: str, labels: "DicomOutput | None"
    ) -> None:
        """Translate one case; ``labels`` as in `Writing`, with the case's own patient."""
        from medp2p.io import check_output, read_volume
        from medp2p.volume import axial_grid

        if labels:
            check_output(labels, volumes[0].dicom, volumes[0].name)
            labels = replace(labels, settings=f"mask {mask}")
            if volumes[0].dicom is None and not labels.body_part:
                typer.echo(f"{output}: no body part is stated; name it with --body-part", err=True)
        body: Any = mask if mask in ("auto", "none") else read_volume(mask)
        onto = axial_grid(volumes[0].grid) if self.axial else None
        self.writing.write(self.translator(volumes, body, onto), output, labels)


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
    sources = {case.name: [case.sources[name] for name in names] for case in cases}
    job.reading.check(list(sources.values()))
    labels = {}
    for case in cases:
        job.writing.check(sources[case.name], outputs[case.name])
        labels[case.name] = _labels_of_case(job.writing.labels, case, sources[case.name], manifest)
    failures = {}
    with progress_bar("translating", len(cases), "case") as advance:
        for case in cases:
            body = str(case.mask) if mask == "auto" and case.mask else mask
            try:
                job.run_case(case, outputs[case.name], body, labels[case.name])
            except MedP2PError as error:
                failures[case.name] = " ".join(str(error).splitlines())
            advance(note=case.name)
    for name, reason in failures.items():
        typer.echo(f"medp2p: case {name}: {reason}", err=True)
    if len(failures) == len(cases):
        raise typer.Exit(1)
    typer.echo(f"{output}: {len(cases) - len(failures)} cases")
    if failures:
        raise typer.Exit(options.EXIT_SOME_FAILED)


def _labels_of_case(
    labels: "DicomOutput | None", case: "Case", sources: list[Path], manifest: Path
) -> "DicomOutput | None":
    """Return the labels with the manifest's patient where no DICOM source says who it is."""
    from medp2p.io.dicom_deidentify import UidMap

    if labels is None or options.is_dicom(sources[0]):
        return labels
    patient = case.patient
    if not (0 < len(patient) <= 64 and patient.isprintable() and "\\" not in patient):
        raise ManifestError(
            f"{manifest}: case {case.name}: the patient cannot be written as PatientID; expected "
            "1 to 64 printable characters without a backslash"
        )
    if labels.deidentify_key:
        patient = UidMap(labels.deidentify_key).pseudonym(patient)
    return replace(labels, patient_id=patient)


def _refuse_with_manifest(mask: str, identity: dict[str, str | None]) -> None:
    if mask not in ("auto", "none"):
        raise typer.BadParameter("auto or none with a manifest, which names the masks")
    for option, value in identity.items():
        if value is not None:
            raise typer.BadParameter(
                "a manifest's cases have a patient each; it has a column for it",
                param_hint=option,
            )


def _refuse_without_manifest(given: dict[str, str | None]) -> None:
    for option, value in given.items():
        if value is not None:
            raise typer.BadParameter("only with a manifest", param_hint=option)


def _is_series_name(output: Path) -> bool:
    from medp2p.io import is_series_name

    try:
        return is_series_name(output)
    except OutputError as error:
        raise OutputError(f"{error}; a DICOM folder needs a name without a dot") from None


def _nifti_beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.nii.gz")
