"""What ``medp2p batch`` and ``medp2p serve`` have in common: how scans are translated."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from . import dicom_output, options

if TYPE_CHECKING:
    from medp2p.conversion.job import ConversionJob


def make_job(
    model: Path,
    labels: dict[str, Any],
    *,
    deidentify: bool,
    deidentify_key: Path | None,
    device: list[str] | None,
    precision: options.Precision,
    batch_size: int,
    mask: Literal["auto", "none"],
    force: bool,
    readers: int | None,
    time_limit: float,
    **more: Any,
) -> "ConversionJob":
    """Put options together; those that no scan could be translated with are refused.

    Args:
        model: The model file.
        labels: Of DICOM results, by the names of `medp2p.io.DicomOutput`.
        deidentify: The option.
        deidentify_key: The option.
        device: The option.
        precision: The option.
        batch_size: The option.
        mask: The option.
        force: The option.
        readers: The option.
        time_limit: The option.
        more: Of `ConversionJob`.

    Raises:
        ConfigError: If a label cannot be written.
    """
    from medp2p.conversion.job import ConversionJob
    from medp2p.io.dicom_synthetic import check_output

    if deidentify and deidentify_key is None:
        raise typer.BadParameter(
            "needs --deidentify-key here, so that the same series gets the same ids again",
            param_hint="--deidentify",
        )
    output = dicom_output.labels(
        True, labels, also_nifti=False, deidentify=deidentify, key_file=deidentify_key
    )
    assert output
    check_output(replace(output, seed=None), None)
    if readers:
        more["readers"] = readers
    return ConversionJob(
        model,
        devices=tuple(device or ["auto"]),
        precision=precision,
        batch_size=batch_size,
        mask=mask,
        labels=output,
        guard="force" if force else "skip",
        time_limit_seconds=time_limit,
        **more,
    )
