"""``medp2p convert``: one image into an image file, or out of a state that is refused."""

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import options


class Frame(StrEnum):
    """A NIfTI header's statements about where voxels lie."""

    SFORM = "sform"
    QFORM = "qform"
    PIXDIM = "pixdim"


class VoxelTypeName(StrEnum):
    """Types that voxels can be stored in."""

    UINT8 = "uint8"
    INT8 = "int8"
    UINT16 = "uint16"
    INT16 = "int16"
    UINT32 = "uint32"
    INT32 = "int32"
    FLOAT32 = "float32"
    FLOAT64 = "float64"


class ModalityName(StrEnum):
    """What voxels can be."""

    MR = "MR"
    CT = "CT"
    MASK = "MASK"


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("expected a number")
    return value


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="Image: .nii, .nii.gz, .mha, .mhd, .nrrd, .nhdr, or a folder of a DICOM series.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Image to write: .nii, .nii.gz, .mha, .mhd or .nrrd."),
    ],
    nifti_frame: Annotated[
        Frame | None,
        typer.Option(
            "--nifti-frame",
            help="Which statement of a NIfTI header to believe. pixdim: axes right, front, up, "
            "first voxel at 0, 0, 0. Default: refuse a header that contradicts itself.",
            show_default=False,
        ),
    ] = None,
    replace_non_finite: Annotated[
        float | None,
        typer.Option(
            "--replace-non-finite",
            metavar="VALUE",
            callback=_finite,
            help="Value for voxels that are NaN or infinite. Default: refuse them.",
            show_default=False,
        ),
    ] = None,
    volume: options.OneVolume = None,
    resample: options.Resample = False,
    modality: Annotated[
        ModalityName | None,
        typer.Option(
            "--modality",
            help="Note in the output what the voxels are; CT means HU. Default: as in the input.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        VoxelTypeName | None,
        typer.Option(
            "--dtype",
            help="Voxel type to store; integers are rounded and clipped. Default: as in the "
            "input, 64-bit types as 32-bit.",
            show_default=False,
        ),
    ] = None,
    series: options.OneSeries = None,
    group: options.OneGroup = None,
    orientation_tolerance: options.OrientationTolerance = None,
    position_tolerance: options.PositionTolerance = None,
    gap_tolerance: options.GapTolerance = None,
    tilt_tolerance: options.TiltTolerance = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Convert a DICOM series or an image file into an image file, every voxel in its place."""
    from medp2p.io import (
        DicomOptions,
        check_output_name,
        read_volume,
        refuse_output_among_inputs,
        write_volume,
    )

    check_output_name(output)
    options.refuse_outputs_early([output], overwrite)
    if options.is_dicom(source):
        refuse_output_among_inputs(output, [source])
    tolerances = options.tolerances(
        orientation_tolerance, position_tolerance, gap_tolerance, tilt_tolerance
    )
    chosen = {"series": series, "group": group}
    given = [name for name, value in chosen.items() if value is not None]
    options.refuse_without_dicom([source], [*given, *tolerances])
    image = read_volume(
        source,
        modality=modality.value if modality else None,
        nifti_frame=nifti_frame.value if nifti_frame else None,
        replace_non_finite=replace_non_finite,
        volume_index=volume,
        resample=resample,
        dicom=DicomOptions(series=series, group=group, **tolerances),
    )
    write_volume(image, output, dtype=dtype.value if dtype else None, overwrite=overwrite)
    size = " × ".join(str(n) for n in image.shape)
    spacing = " × ".join(f"{length:.4g}" for length in image.spacing_mm)
    typer.echo(f"{output}: {size} voxels of {spacing} mm, {image.orientation}")
