"""Options of commands that write a DICOM series."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from medp2p.io import DicomOutput

SMALLEST_KEY_BYTES = 16

AlsoNifti = Annotated[
    bool, typer.Option("--also-nifti", help="Beside a DICOM series OUT also write OUT.nii.gz.")
]
SeriesDescription = Annotated[
    str | None,
    typer.Option("--series-description", help="DICOM output: its name.", show_default=False),
]
SeriesNumber = Annotated[
    int | None,
    typer.Option(
        "--series-number",
        min=0,
        max=2**31 - 1,
        help="DICOM output: its number in the study.",
        show_default=False,
    ),
]
UidRoot = Annotated[
    str | None,
    typer.Option(
        "--uid-root",
        help="DICOM output: your institution's root for new UIDs. Default: 2.25.",
        show_default=False,
    ),
]
Seed = Annotated[
    str | None,
    typer.Option(
        "--seed",
        help="DICOM output: make UIDs from this text, source and model instead of from the "
        "result, so that a re-run is recognized.",
        show_default=False,
    ),
]
PatientId = Annotated[
    str | None,
    typer.Option(
        "--patient-id",
        help="DICOM output of a source that is not DICOM; not with a manifest.",
        show_default=False,
    ),
]
PatientName = Annotated[
    str | None,
    typer.Option(
        "--patient-name",
        help="DICOM output of a source that is not DICOM; not with a manifest.",
        show_default=False,
    ),
]
BodyPart = Annotated[
    str | None,
    typer.Option(
        "--body-part",
        help="DICOM output of a source that does not say it, such as HEAD.",
        show_default=False,
    ),
]
Deidentify = Annotated[
    bool,
    typer.Option(
        "--deidentify",
        help="DICOM output: take out what names the patient (PS3.15 basic profile). "
        "It does not take off a face.",
    ),
]
DeidentifyKey = Annotated[
    Path | None,
    typer.Option(
        "--deidentify-key",
        help="A secret file of 16 bytes or more: the same key gives the same new UIDs and patient "
        "ids in every run. Default: a new random key for each run.",
        show_default=False,
    ),
]
AllowBurnedIn = Annotated[
    bool,
    typer.Option(
        "--allow-burned-in",
        help="DICOM output: accept a source with text in its pixels, which may name the patient.",
    ),
]


def labels(
    as_series: bool,
    texts: dict[str, Any],
    *,
    also_nifti: bool,
    deidentify: bool,
    key_file: Path | None,
) -> "DicomOutput | None":
    """Return the labels of a DICOM output, None for any other; options must not be idle."""
    if not as_series:
        given = [
            f"--{name.replace('_', '-')}"
            for name, value in texts.items()
            if value is not None and value is not False
        ]
        given += ["--also-nifti"] * also_nifti + ["--deidentify"] * deidentify
        given += ["--deidentify-key"] * (key_file is not None)
        if given:
            raise typer.BadParameter(
                "only for a DICOM output; name a folder without a suffix", param_hint=given[0]
            )
        return None
    if key_file and not deidentify:
        raise typer.BadParameter("goes with --deidentify", param_hint="--deidentify-key")
    if deidentify and texts["seed"] is not None and key_file is None:
        raise typer.BadParameter(
            "with --deidentify a re-run is recognized only with --deidentify-key, which makes "
            "the same UIDs again",
            param_hint="--seed",
        )
    from medp2p.io import DicomOutput

    return DicomOutput(**texts, deidentify_key=_key(key_file) if deidentify else None)


def name_model(labels: "DicomOutput", model: Path, digest: str) -> "DicomOutput":
    """Return the labels with the model's file name and hash."""
    return replace(labels, model_name=model.name, model_hash=digest)


def _key(file: Path | None) -> bytes:
    import secrets

    from medp2p.errors import ConfigError

    if file is None:
        return secrets.token_bytes(32)
    try:
        key = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from error
    if len(key) < SMALLEST_KEY_BYTES:
        raise ConfigError(
            f"{file}: a key of {len(key)} bytes, expected {SMALLEST_KEY_BYTES} or more; make one "
            "with: head -c 32 /dev/urandom"
        )
    return key
