"""MetaImage: ``.mha``, and ``.mhd`` with its data file.

The header is text of ``Key = Value`` lines, the last one ``ElementDataFile``; the keys are those
of MetaIO's documentation. World coordinates are LPS millimetres. Voxels are read here and not by
ITK, which takes a damaged compressed block for whole.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medp2p.errors import GeometryError, ImageReadError
from medp2p.files import atomic_file
from medp2p.io.geometry import LPS_FROM_RAS, MAX_LENGTH_MM, first_grid
from medp2p.io.meaning import meaning_of, note
from medp2p.io.voxels import (
    VoxelType,
    chosen_volume,
    converted_slabs,
    output_dtype,
    read_block,
    settle_non_finite,
    write_compressed,
)
from medp2p.volume import Grid, Volume

_DTYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_ELEMENT_TYPES = {np.dtype(code): name for name, code in _DTYPES.items()}

_SYNONYMS = {
    "Orientation": "TransformMatrix",
    "Rotation": "TransformMatrix",
    "Origin": "Offset",
    "Position": "Offset",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
_DEFAULTS = {
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "ElementNumberOfChannels": "1",
    "HeaderSize": "0",
}
_PLACE_KEYS = ("TransformMatrix", "ElementSpacing", "Offset")
_MAX_LINES = 1000
_MAX_LINE_BYTES = 1 << 16


def read_metaimage(
    path: Path, *, replace_non_finite: float | None = None, volume_index: int | None = None
) -> Volume:
    """Read a MetaImage; arguments and errors as for `medp2p.io.read_volume`."""
    with path.open("rb") as file:
        fields = _read_fields(path, file)
        affine = _affine(path, fields)
        if fields["ElementDataFile"].upper() == "LOCAL":
            array = _read_array(path, fields, file, volume_index)
        else:
            with _data_file(path, fields).open("rb") as data:
                array = _read_array(path, fields, data, volume_index)
    array = settle_non_finite(path, array, replace_non_finite)
    modality, units = _meaning(fields)
    return Volume(array, affine, modality, units, path)


def read_metaimage_grid(path: Path) -> Grid:
    """Read where the voxels lie, and no voxel."""
    with path.open("rb") as file:
        fields = _read_fields(path, file)
    sizes = _integers(path, fields, "DimSize", _axes(path, fields))
    grid = first_grid(path, sizes, _affine(path, fields))
    chosen_volume(path, math.prod(sizes[3:]), None)
    return grid


def read_metaimage_modality(path: Path) -> str | None:
    """Read what the header notes that the voxels are."""
    with path.open("rb") as file:
        return _meaning(_read_fields(path, file))[0]


def metaimage_data_file(path: Path) -> Path | None:
    """Return the file that holds the voxels; None if they follow the header.

    Raises:
        ImageReadError: If the header is damaged or that file missing.
    """
    with path.open("rb") as file:
        fields = _read_fields(path, file)
    return None if fields["ElementDataFile"].upper() == "LOCAL" else _data_file(path, fields)


def _meaning(fields: dict[str, str]) -> tuple[str | None, str | None]:
    return meaning_of("medp2p " + fields.get("medp2p", ""))


def _read_fields(path: Path, file: IO[bytes]) -> dict[str, str]:
    """Read the header's lines, leaving the file at the first byte after them."""
    fields = dict(_DEFAULTS)
    for _ in range(_MAX_LINES):
        line = file.readline(_MAX_LINE_BYTES)
        key, equals, value = line.decode("utf-8", "surrogateescape").partition("=")
        key = key.strip()
        if not equals:
            break
        fields[_SYNONYMS.get(key, key)] = value.strip()
        if key == "ElementDataFile":
            return fields
    raise ImageReadError(f"{path}: not a MetaImage (its header has no ElementDataFile)")


def _numbers(path: Path, fields: dict[str, str], key: str, count: int) -> NDArray[np.float64]:
    try:
        values = np.array([float(word) for word in fields[key].split()])
    except KeyError:
        if key in _PLACE_KEYS:
            raise GeometryError(
                f"{path}: the header has no {key}, so nothing says where the voxels lie; add it"
            ) from None
        raise ImageReadError(f"{path}: the header has no {key}; it is damaged") from None
    except ValueError:
        values = np.empty(0)
    if len(values) != count or not (np.abs(values) <= MAX_LENGTH_MM).all():
        raise ImageReadError(f"{path}: the header's {key} is not {count} number(s); repair it")
    return values


def _integers(path: Path, fields: dict[str, str], key: str, count: int) -> tuple[int, ...]:
    return tuple(int(value) for value in _numbers(path, fields, key, count))


def _is_true(text: str) -> bool:
    return text[:1] in ("T", "t", "1")


def _axes(path: Path, fields: dict[str, str]) -> int:
    (axes,) = _integers(path, fields, "NDims", 1)
    if not 3 <= axes <= 7:
        raise ImageReadError(f"{path}: an image of {axes} axes, expected three")
    return axes


def _affine(path: Path, fields: dict[str, str]) -> NDArray[np.float64]:
    axes = _axes(path, fields)
    directions = _numbers(path, fields, "TransformMatrix", axes * axes).reshape(axes, axes)
    spacing = _numbers(path, fields, "ElementSpacing", axes)
    if spacing.min() <= 0:
        raise GeometryError(f"{path}: the header's ElementSpacing is not above 0; repair it")
    affine = np.eye(4)
    affine[:3, :3] = directions[:3, :3].T * spacing[:3]
    affine[:3, 3] = _numbers(path, fields, "Offset", axes)[:3]
    return LPS_FROM_RAS @ affine


def _data_file(path: Path, fields: dict[str, str]) -> Path:
    name = fields["ElementDataFile"]
    if name.startswith("LIST") or "%" in name:
        raise ImageReadError(f"{path}: voxels in many files, expected one; convert it to .mha")
    data = path.parent / name
    if not data.is_file():
        raise ImageReadError(
            f"{path}: the data file named by ElementDataFile is missing; put it beside the header"
        )
    return data


def _read_array(
    path: Path, fields: dict[str, str], file: IO[bytes], volume_index: int | None
) -> NDArray[Any]:
    if not _is_true(fields["BinaryData"]):
        raise ImageReadError(f"{path}: voxels written as text, expected binary; convert it")
    (channels,) = _integers(path, fields, "ElementNumberOfChannels", 1)
    (leading_bytes,) = _integers(path, fields, "HeaderSize", 1)
    if channels != 1:
        raise ImageReadError(f"{path}: {channels} channels per voxel, expected one")
    if fields.get("ElementType") not in _DTYPES:
        raise ImageReadError(
            f"{path}: an ElementType that is not read; expected one of {', '.join(_DTYPES)}"
        )
    order = ">" if _is_true(fields["BinaryDataByteOrderMSB"]) else "<"
    sizes = _integers(path, fields, "DimSize", _axes(path, fields))
    return read_block(
        path,
        file,
        sizes,
        np.dtype(order + _DTYPES[fields["ElementType"]]),
        compressed=_is_true(fields["CompressedData"]),
        leading_bytes=leading_bytes,
        volume_index=volume_index,
    )


def write_metaimage(
    volume: Volume, path: Path, *, dtype: VoxelType | None = None, overwrite: bool = False
) -> None:
    """Write a MetaImage; arguments and errors as for `medp2p.io.write_volume`.

    A ``.mhd`` gets its voxels in a ``.zraw`` of the same name. That file is in place before
    the header that points at it, and an old header goes before its data file is replaced.
    """
    voxel_type = output_dtype(volume.array.dtype, dtype)
    slabs = converted_slabs(path, volume.array, voxel_type)
    if path.suffix.lower() == ".mha":
        with atomic_file(path, overwrite=overwrite) as temporary, temporary.open("wb") as file:
            start = _header(volume, voxel_type, 0, "LOCAL")
            file.write(start)
            size = write_compressed(file, slabs, gzip=False)
            file.seek(0)
            file.write(_header(volume, voxel_type, size, "LOCAL"))
        return
    data_path = path.with_suffix(".zraw")
    with (
        atomic_file(path, overwrite=overwrite) as header,
        atomic_file(data_path, overwrite=overwrite) as data,
    ):
        with data.open("wb") as file:
            size = write_compressed(file, slabs, gzip=False)
        header.write_bytes(_header(volume, voxel_type, size, data_path.name))
        if overwrite:
            path.unlink(missing_ok=True)


def _header(volume: Volume, voxel_type: np.dtype[Any], size: int, data: str) -> bytes:
    """Return the header; its length does not depend on ``size``."""
    affine = LPS_FROM_RAS @ volume.affine
    meaning = note(volume).removeprefix("medp2p").strip()
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        f"CompressedDataSize = {size:020d}",
        f"TransformMatrix = {_text((affine[:3, :3] / volume.spacing_mm).T.ravel())}",
        f"Offset = {_text(affine[:3, 3])}",
        "CenterOfRotation = 0 0 0",
        "AnatomicalOrientation = RAI",
        f"ElementSpacing = {_text(volume.spacing_mm)}",
        *([f"medp2p = {meaning}"] if meaning else []),
        f"DimSize = {' '.join(str(n) for n in volume.shape)}",
        f"ElementType = {_ELEMENT_TYPES[voxel_type]}",
        f"ElementDataFile = {data}",
    ]
    return ("\n".join(lines) + "\n").encode()


def _text(values: NDArray[np.float64]) -> str:
    return " ".join(repr(float(value)) for value in values)
