"""Grey 8-bit PNG pictures as volumes of one slice, as pix2pix and its kin are trained on.

A picture says nothing about space. It gets nominal pixels of 1 mm, its columns run to the left
and its rows to the back, so that a radiologist's picture is shown the way it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from medp2p.errors import ImageReadError, OutputError
from medp2p.files import atomic_file
from medp2p.volume import EIGHT_BIT, Grid, Volume, reorient

PNG = ".png"

Half = Literal["left", "right"]
"""A half of a picture that shows two images side by side."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY_MODES = ("1", "L")
_DEEP_MODES = ("I", "F")


def is_picture(path: str | Path) -> bool:
    """Say whether a path is named as a PNG picture, and not hidden."""
    path = Path(path)
    return path.suffix.lower() == PNG and not path.name.startswith(".")


def read_png(path: Path, half: str | None = None) -> Volume:
    """Read a grey 8-bit PNG.

    Colour is taken where all channels are equal. A channel of opacity must be opaque.

    Args:
        path: The file.
        half: ``"left"`` or ``"right"`` of a picture of two images; None takes all of it.

    Returns:
        uint8 of shape (columns, rows, 1), modality ``"8-bit"``.

    Raises:
        ImageReadError: If the file is damaged, in colour, of 16 bits, or has no such half.
    """
    grey = _grey_pixels(path)
    if half is not None:
        columns = _columns_of_half(path, grey.shape[1], half)
        grey = grey[:, columns]
    array = np.asfortranarray(grey.T[:, :, None])
    return Volume(array, _nominal_affine(), modality=EIGHT_BIT, path=path)


def read_png_grid(path: Path, half: str | None = None) -> Grid:
    """Read the size of a picture, or of a half of it, from the header.

    Raises:
        ImageReadError: If the file is no PNG, or has no such half.
    """
    with _open(path) as picture:
        columns, rows = picture.size
    if half is not None:
        columns = len(range(columns)[_columns_of_half(path, columns, half)])
    return Grid((columns, rows, 1), _nominal_affine())


def write_png(volume: Volume, path: Path, *, overwrite: bool = False) -> None:
    """Write a volume of one slice as a grey 8-bit PNG, rounded and clipped to 0 to 255.

    The same volume gives the same bytes with one version of Pillow.

    Raises:
        OutputError: If the volume has several slices, a place in space, or values that are not
            8-bit grey levels, or the file exists or cannot be written.
    """
    from PIL import Image

    picture = reorient(volume, "LPS")
    if volume.modality != EIGHT_BIT:
        found = volume.modality or "an image of unknown values"
        raise OutputError(
            f"{path}: a PNG holds 8-bit grey levels, and this is {found}; write .nii.gz"
        )
    if picture.grid.difference(Grid((*picture.shape[:2], 1), _nominal_affine())):
        raise OutputError(
            f"{path}: a PNG is one slice without a place in space, and this is a volume; "
            "write .nii.gz"
        )
    if not np.isfinite(picture.array).all():
        raise OutputError(f"{path}: the image holds NaN or infinity, which no PNG can hold")
    grey = np.rint(picture.array[:, :, 0]).clip(0, 255).astype(np.uint8)
    with atomic_file(path, overwrite=overwrite) as temporary:
        Image.fromarray(np.ascontiguousarray(grey.T)).save(temporary, format="PNG")


def _nominal_affine() -> NDArray[np.float64]:
    return np.diag([-1.0, -1.0, 1.0, 1.0])


def _open(path: Path) -> Any:
    from PIL import Image

    with path.open("rb") as file:
        if file.read(len(_SIGNATURE)) != _SIGNATURE:
            raise ImageReadError(f"{path}: not a PNG file, whatever its name; give a PNG")
    try:
        return Image.open(path, formats=["PNG"])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _damaged(path) from error


def _grey_pixels(path: Path) -> NDArray[np.uint8]:
    """Grey levels, (rows, columns)."""
    with _open(path) as picture:
        mode = picture.mode
        if mode.startswith(_DEEP_MODES):
            raise ImageReadError(
                f"{path}: a PNG of 16 bits, expected 8; convert it to .nii.gz with its values, or "
                "to 8 bits with the program that wrote it"
            )
        try:
            if mode in _GREY_MODES:
                return np.array(picture.convert("L"))
            pixels = np.array(picture.convert("RGBA"))
        except (OSError, SyntaxError, ValueError) as error:
            raise _damaged(path) from error
    grey: NDArray[np.uint8] = pixels[..., 0]
    if (pixels[..., :3] != grey[..., None]).any():
        raise ImageReadError(
            f"{path}: a picture in colour, expected grey; convert it to grey, or leave it out"
        )
    if (pixels[..., 3] != 255).any():
        raise ImageReadError(f"{path}: a picture with transparent parts, expected an opaque one")
    return grey


def _damaged(path: Path) -> ImageReadError:
    return ImageReadError(f"{path}: damaged or cut short; get it again")


def _columns_of_half(path: Path, columns: int, half: str) -> slice:
    if half not in get_args(Half):
        raise ImageReadError(f"{path}: no part {half!r} in a picture; expected left or right")
    if columns % 2:
        raise ImageReadError(
            f"{path}: {columns} columns, expected an even number for two images side by side"
        )
    middle = columns // 2
    return slice(0, middle) if half == "left" else slice(middle, columns)
