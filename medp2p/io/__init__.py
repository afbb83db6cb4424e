"""Volumes from files and into files.

`read_volume` and `write_volume` know NIfTI (``.nii``, ``.nii.gz``), MetaImage (``.mha``,
``.mhd`` with its data file), NRRD (``.nrrd``, ``.nhdr``) and grey 8-bit pictures (``.png``);
`read_volume` and `write_dicom_series` know DICOM. Whatever a file counts as left, right or
millimetre, a `Volume` is RAS+ millimetres. What is refused, and why, is listed in
``docs/geometry.md`` and ``docs/dicom.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medp2p.errors import ImageReadError, OutputError
from medp2p.io.dicom_files import is_dicom_file, is_dicom_folder
from medp2p.io.dicom_read import read_dicom, read_dicom_grid, refuse_other_meaning
from medp2p.io.dicom_series import DicomOptions
from medp2p.io.dicom_synthetic import DicomOutput, check_output
from medp2p.io.dicom_write import write_dicom_series
from medp2p.io.geometry import MAX_SHEAR_DEGREES, refuse_sheared, resample_orthogonal, shear_degrees
from medp2p.io.metaimage import (
    metaimage_data_file,
    read_metaimage,
    read_metaimage_grid,
    read_metaimage_modality,
    write_metaimage,
)
from medp2p.io.nifti import (
    NiftiFrame,
    read_nifti,
    read_nifti_grid,
    read_nifti_modality,
    write_nifti,
)
from medp2p.io.nrrd import (
    nrrd_data_file,
    read_nrrd,
    read_nrrd_grid,
    read_nrrd_modality,
    write_nrrd,
)
from medp2p.io.png import PNG, is_picture, read_png, read_png_grid, write_png
from medp2p.io.voxels import MAX_FLOAT32, VOXEL_TYPES, VoxelType
from medp2p.volume import EIGHT_BIT, Grid, Volume

__all__ = [
    "READ_SUFFIXES",
    "VOXEL_TYPES",
    "WRITE_SUFFIXES",
    "DicomOptions",
    "DicomOutput",
    "NiftiFrame",
    "VoxelType",
    "check_output",
    "check_output_name",
    "data_file",
    "image_name",
    "image_suffix",
    "is_dicom_file",
    "is_dicom_folder",
    "is_image",
    "is_picture",
    "is_series_name",
    "read_grid",
    "read_modality",
    "read_volume",
    "refuse_output_among_inputs",
    "write_dicom_series",
    "write_volume",
]

WRITE_SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd")
READ_SUFFIXES = (*WRITE_SUFFIXES, ".nhdr")

_DICOM = "DICOM"
_NIFTI = (".nii.gz", ".nii")
_NRRD = (".nrrd", ".nhdr")
_JPEG = (".jpg", ".jpeg")


def image_suffix(path: str | Path) -> str:
    """Return the suffix of an image file in lower case, ``""`` if it is none we read.

    ``.nii.gz`` counts as one suffix: ``image_suffix("a.b.NII.GZ") == ".nii.gz"``.
    """
    name = Path(path).name.lower()
    return next((s for s in READ_SUFFIXES if name.endswith(s) and name != s), "")


def is_image(path: str | Path) -> bool:
    """Say whether a path is an image: a file by its name, or a folder that holds DICOM files.

    Hidden files (``._mr.nii``) are none.
    """
    path = Path(path)
    if path.name.startswith("."):
        return False
    return bool(image_suffix(path)) or is_dicom_folder(path)


def image_name(path: str | Path) -> str:
    """Return an image's name: ``"mr"`` for ``mr.nii.gz``, ``mr.dcm`` or a folder ``mr``."""
    path = Path(path)
    if path.suffix.lower() in (".dcm", PNG) and not path.is_dir():
        return path.stem
    return path.name[: len(path.name) - len(image_suffix(path))]


def read_volume(
    path: str | Path,
    *,
    modality: str | None = None,
    nifti_frame: NiftiFrame | None = None,
    replace_non_finite: float | None = None,
    volume_index: int | None = None,
    resample: bool = False,
    dicom: DicomOptions | None = None,
) -> Volume:
    """Read a NIfTI, MetaImage, NRRD, PNG or DICOM file, or a folder with a DICOM series.

    Voxels keep the type they are stored in. NIfTI scaling (``scl_slope``, ``scl_inter``)
    that is not the identity is computed in float64; the result is int16, else int32, where
    slope, intercept and voxels are integers that fit, and float32 otherwise (float64 stays).
    A slope of 0 or NaN means no scaling. Trailing axes of one voxel are dropped.

    Args:
        path: The file; its suffix names the format. A folder, or a file that begins like
            DICOM, is read as DICOM.
        modality: What the voxels are (``"MR"``, ``"CT"``, ``"MASK"``); ``"CT"`` also sets
            the units to HU. None takes it from DICOM and from files that medp2p wrote, else
            leaves it open.
        nifti_frame: Which of a NIfTI header's statements about space to believe where they
            contradict each other. ``"pixdim"`` is the standard's method 1: the axes run
            right, front and up, the first voxel lies at (0, 0, 0).
        replace_non_finite: What NaN and infinity become; None refuses them.
        volume_index: Which volume to take from a file or a series of several, from 0.
        resample: Regrid axes more than 0.5 degrees off perpendicular, and DICOM slices that are
            unevenly spaced, instead of refusing them (linear interpolation, nearest for masks).
        dicom: Which DICOM series to take, and its tolerances. Of a picture of two images side
            by side the series is ``left`` or ``right``.

    Returns:
        The volume, its array Fortran-ordered, writeable, in the machine's byte order.

    Raises:
        ImageReadError: If the file is missing, empty, damaged, cut short, of several volumes
            or channels, of complex numbers or colours, or holds NaN or infinity.
        GeometryError: If the header does not say where the voxels lie, says it twice and
            differently (more than 0.1 mm at a corner voxel), or has axes more than 0.5
            degrees off perpendicular.
    """
    if replace_non_finite is not None and not abs(replace_non_finite) <= MAX_FLOAT32:
        raise ValueError(f"replace_non_finite is {replace_non_finite}, expected a number")
    path = Path(path)
    with _reading(path):
        suffix = _readable_suffix(path)
        if suffix == _DICOM:
            volume = read_dicom(path, volume_index=volume_index, resample=resample, options=dicom)
            refuse_other_meaning(path, volume.modality, modality)
        elif suffix == PNG:
            volume = read_png(path, dicom.series if dicom else None)
            refuse_other_meaning(path, volume.modality, modality)
        elif suffix in _NIFTI:
            volume = read_nifti(
                path,
                frame=nifti_frame,
                replace_non_finite=replace_non_finite,
                volume_index=volume_index,
            )
        else:
            read = read_nrrd if suffix in _NRRD else read_metaimage
            volume = read(path, replace_non_finite=replace_non_finite, volume_index=volume_index)
    if resample and shear_degrees(volume.affine) > MAX_SHEAR_DEGREES:
        volume = resample_orthogonal(volume)
    refuse_sheared(volume)
    if modality is None:
        return volume
    return volume.with_array(
        volume.array, modality=modality, units="HU" if modality == "CT" else None
    )


def read_grid(path: str | Path, *, dicom: DicomOptions | None = None) -> Grid:
    """Read where an image's voxels lie from its header, and no voxel.

    Raises:
        ImageReadError: If the file is missing or its header damaged.
        GeometryError: As for `read_volume`, but for axes off perpendicular.
    """
    path = Path(path)
    with _reading(path):
        suffix = _readable_suffix(path)
        if suffix == _DICOM:
            return read_dicom_grid(path, dicom)
        if suffix == PNG:
            return read_png_grid(path, dicom.series if dicom else None)
        if suffix in _NIFTI:
            return read_nifti_grid(path)
        return read_nrrd_grid(path) if suffix in _NRRD else read_metaimage_grid(path)


def read_modality(path: str | Path) -> str | None:
    """Read what an image file, of any format but DICOM, notes that its voxels are.

    Returns:
        ``"MR"``, ``"CT"``, ``"MASK"`` or ``"8-bit"`` (any PNG); None if medp2p did not write the
        file, or did not know.

    Raises:
        ImageReadError: If the file is missing or its header damaged.
    """
    path = Path(path)
    with _reading(path):
        suffix = _readable_suffix(path)
        if suffix == PNG:
            return EIGHT_BIT
        if suffix in _NIFTI:
            return read_nifti_modality(path)
        return read_nrrd_modality(path) if suffix in _NRRD else read_metaimage_modality(path)


def data_file(path: str | Path) -> Path | None:
    """Return the file that holds an image's voxels where that is another one than ``path``.

    Raises:
        ImageReadError: If either file is missing, or the header damaged.
    """
    path = Path(path)
    suffix = image_suffix(path)
    if suffix in _NIFTI or not suffix:
        return None
    with _reading(path):
        return nrrd_data_file(path) if suffix in _NRRD else metaimage_data_file(path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ImageReadError(f"{path}: cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise ImageReadError(f"{path}: does not fit into this machine's memory") from error


def check_output_name(path: Path) -> None:
    """Refuse a name that no image format goes with, before any work is done.

    Raises:
        OutputError: Naming the suffixes that can be written.
    """
    if image_suffix(path) not in WRITE_SUFFIXES and not is_picture(path):
        raise OutputError(
            f"{path}: no image format that can be written; "
            f"let the name end in one of {', '.join(WRITE_SUFFIXES)}"
        )


def is_series_name(path: Path) -> bool:
    """Say whether an output of this name is a folder for a DICOM series: it has no suffix.

    Raises:
        OutputError: If it has one, and of no image format that can be written.
    """
    if not path.suffix:
        return True
    if path.suffix.lower() in (".dcm", ".dicom", ".ima"):
        raise OutputError(
            f"{path}: a DICOM series is a folder with one file per slice; "
            f"name it without a suffix, such as {path.with_suffix('')}"
        )
    check_output_name(path)
    return False


def refuse_output_among_inputs(output: Path, inputs: Iterable[Path]) -> None:
    """Refuse an output inside an input folder, or around an input.

    Raises:
        OutputError: Naming both.
    """
    place = output.resolve()
    for source in inputs:
        home = source.resolve()
        if place.is_relative_to(home) or home.is_relative_to(place):
            raise OutputError(
                f"{output}: lies inside the input {source} or around it, where the next reading "
                "would take one for the other; choose another place"
            )


def write_volume(
    volume: Volume,
    path: str | Path,
    *,
    dtype: VoxelType | None = None,
    overwrite: bool = False,
) -> None:
    """Write a volume as NIfTI, MetaImage or NRRD, whole or not at all.

    The same volume gives the same bytes. NIfTI gets an sform and a qform of the volume's
    ``nifti_code``. Modality and units are noted in the header, for `read_volume`.

    Args:
        volume: What to write.
        path: Where; its suffix chooses the format: ``.nii.gz``, ``.nii``, ``.mha``,
            ``.mhd`` (with ``.zraw`` beside it), ``.nrrd``, or for 8-bit pictures ``.png``.
        dtype: How voxels are stored. Integers are rounded to nearest (halves to even), then
            clipped to the type's range. None keeps the array's own type, except bool as
            uint8, float16 and float64 as float32, 64-bit integers as int32. A PNG is uint8.
        overwrite: Whether an existing file may be replaced.

    Raises:
        OutputError: If the suffix is unknown, the file exists, the voxels hold NaN or
            infinity, or the place cannot be written. Nothing is left behind.
        GeometryError: If the axes are more than 0.5 degrees off perpendicular.
    """
    path = Path(path)
    check_output_name(path)
    suffix = image_suffix(path)
    refuse_sheared(volume)
    if is_picture(path):
        write_png(volume, path, overwrite=overwrite)
    elif suffix in _NIFTI:
        write_nifti(volume, path, dtype=dtype, overwrite=overwrite)
    elif suffix in _NRRD:
        write_nrrd(volume, path, dtype=dtype, overwrite=overwrite)
    else:
        write_metaimage(volume, path, dtype=dtype, overwrite=overwrite)


def _readable_suffix(path: Path) -> str:
    if not path.exists():
        raise ImageReadError(f"{path}: no such file")
    if path.is_dir():
        return _DICOM
    if path.suffix.lower() in (".hdr", ".img"):
        raise ImageReadError(
            f"{path}: an Analyze or NIfTI pair, expected one file; "
            "convert it to .nii.gz with the program that wrote it"
        )
    if path.stat().st_size == 0:
        raise ImageReadError(f"{path}: is empty (0 bytes); get it again")
    if is_picture(path):
        return PNG
    suffix = image_suffix(path)
    if not suffix and is_dicom_file(path):
        return _DICOM
    if path.suffix.lower() in _JPEG:
        raise ImageReadError(
            f"{path}: a JPEG, whose compression changed its values; give a PNG made of the "
            "original, or if there is none convert it (such as mogrify -format png *.jpg)"
        )
    if not suffix:
        raise ImageReadError(
            f"{path}: unknown image format, expected DICOM or one of {', '.join(READ_SUFFIXES)}"
        )
    return suffix
