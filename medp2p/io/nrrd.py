"""NRRD: ``.nrrd``, and ``.nhdr`` with its data file (read only).

The header is text, its fields those of the NRRD format definition (teem, version 5). Named
spaces are turned into RAS+; a header without one does not say where the voxels lie.
"""

from __future__ import annotations

import math
import re
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
    cut_short,
    output_dtype,
    read_block,
    settle_non_finite,
    write_compressed,
)
from medp2p.volume import Grid, Volume

_TYPE_NAMES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long",
           "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}  # fmt: skip
_DTYPES = {name: code for code, names in _TYPE_NAMES.items() for name in names}
_NAMES = {np.dtype(code): names[0] for code, names in _TYPE_NAMES.items()}

_RAS_SIGNS = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
_SYNONYMS = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}
_MAX_LINES = 1000
_MAX_LINE_BYTES = 1 << 16


def read_nrrd(
    path: Path, *, replace_non_finite: float | None = None, volume_index: int | None = None
) -> Volume:
    """Read a NRRD file; arguments and errors as for `medp2p.io.read_volume`."""
    with path.open("rb") as file:
        fields, meaning = _read_fields(path, file)
        affine = _affine(path, fields)
        if "data file" in fields:
            with _data_file(path, fields).open("rb") as data:
                array = _read_array(path, fields, data, volume_index)
        else:
            array = _read_array(path, fields, file, volume_index)
    array = settle_non_finite(path, array, replace_non_finite)
    modality, units = meaning_of("medp2p " + meaning)
    return Volume(array, affine, modality, units, path)


def read_nrrd_grid(path: Path) -> Grid:
    """Read where the voxels lie, and no voxel."""
    with path.open("rb") as file:
        fields, _ = _read_fields(path, file)
    sizes = _sizes(path, fields)
    grid = first_grid(path, sizes, _affine(path, fields))
    chosen_volume(path, math.prod(sizes[3:]), None)
    return grid


def read_nrrd_modality(path: Path) -> str | None:
    """Read what the header notes that the voxels are."""
    with path.open("rb") as file:
        _, meaning = _read_fields(path, file)
    return meaning_of("medp2p " + meaning)[0]


def nrrd_data_file(path: Path) -> Path | None:
    """Return the file that holds the voxels; None if they follow the header.

    Raises:
        ImageReadError: If the header is damaged or that file missing.
    """
    with path.open("rb") as file:
        fields, _ = _read_fields(path, file)
    return _data_file(path, fields) if "data file" in fields else None


def _read_fields(path: Path, file: IO[bytes]) -> tuple[dict[str, str], str]:
    """Read the header and our own note, leaving the file at the first byte after them."""
    if re.fullmatch(rb"NRRD000\d", file.readline(_MAX_LINE_BYTES).strip()) is None:
        raise ImageReadError(f"{path}: not a NRRD file (wrong magic string)")
    fields: dict[str, str] = {}
    meaning = ""
    for _ in range(_MAX_LINES):
        raw_line = file.readline(_MAX_LINE_BYTES)
        line = raw_line.decode("utf-8", "surrogateescape").strip()
        if not raw_line and "data file" not in fields:
            raise cut_short(path)
        if not line:
            return fields, meaning
        key, colon, value = line.partition(":")
        if line.startswith("medp2p:="):
            meaning = value[1:]
        elif colon and not line.startswith("#") and not value.startswith("="):
            key = key.strip().lower()
            fields[_SYNONYMS.get(key, key)] = value.strip()
    raise ImageReadError(f"{path}: not a NRRD file (its header does not end)")


def _field(path: Path, fields: dict[str, str], key: str) -> str:
    if key not in fields:
        raise ImageReadError(f"{path}: the header has no field '{key}:'; it is damaged")
    return fields[key]


def _sizes(path: Path, fields: dict[str, str]) -> tuple[int, ...]:
    words = _field(path, fields, "sizes").split()
    if not all(word.isdecimal() for word in words) or len(words) < 3:
        raise ImageReadError(f"{path}: 'sizes:' in the header is not three numbers or more")
    return tuple(int(word) for word in words)


def _affine(path: Path, fields: dict[str, str]) -> NDArray[np.float64]:
    for key in ("space", "space directions", "space origin"):
        if key not in fields:
            raise GeometryError(
                f"{path}: the header has no '{key}:', so nothing says where the voxels lie; "
                "add it, for example 'space: left-posterior-superior'"
            )
    signs = _RAS_SIGNS.get(fields["space"].lower())
    if signs is None:
        raise GeometryError(
            f"{path}: a space that is not read; expected one of {', '.join(_RAS_SIGNS)}"
        )
    if set(re.findall(r'"([^"]*)"', fields.get("space units", ""))) - {"mm", ""}:
        raise GeometryError(f"{path}: 'space units:' are not mm; convert it to millimetres")
    columns = [*_directions(path, fields), _vector(path, fields["space origin"])]
    affine = np.eye(4)
    affine[:3] = np.diag(signs) @ np.array(columns).T
    return affine


def _directions(path: Path, fields: dict[str, str]) -> list[list[float]]:
    """Return the steps of i, j and k. Axes outside space are volumes if they come last."""
    words = re.findall(r"none|\([^)]*\)", fields["space directions"].lower())
    if len(words) != len(_sizes(path, fields)) or sum(word != "none" for word in words) != 3:
        raise ImageReadError(f"{path}: not an image of three axes in space")
    if "none" in words[:3]:
        raise ImageReadError(f"{path}: several channels per voxel, expected one")
    return [_vector(path, word) for word in words[:3]]


def _vector(path: Path, text: str) -> list[float]:
    try:
        vector = [float(word) for word in text.strip("() ").split(",")]
    except ValueError:
        vector = []
    if len(vector) != 3 or not all(abs(length) <= MAX_LENGTH_MM for length in vector):
        raise GeometryError(
            f"{path}: a vector in the header is not three lengths; repair the header"
        )
    return vector


def _data_file(path: Path, fields: dict[str, str]) -> Path:
    name = fields["data file"]
    if name.startswith("LIST") or "%" in name:
        raise ImageReadError(f"{path}: voxels in many files, expected one; convert it to .nrrd")
    data = path.parent / name
    if not data.is_file():
        raise ImageReadError(
            f"{path}: the data file named by 'data file:' is missing; put it beside the header"
        )
    return data


def _read_array(
    path: Path, fields: dict[str, str], file: IO[bytes], volume_index: int | None
) -> NDArray[Any]:
    code = _DTYPES.get(_field(path, fields, "type").lower())
    encoding = _field(path, fields, "encoding").lower()
    if code is None:
        raise ImageReadError(f"{path}: a voxel type that is not read; expected real numbers")
    if encoding not in ("raw", "gzip", "gz"):
        raise ImageReadError(f"{path}: an encoding that is not read; expected raw or gzip")
    if fields.get("line skip", "0") != "0" or (
        fields.get("byte skip", "0") != "0" and encoding != "raw"
    ):
        raise ImageReadError(f"{path}: 'line skip:' or 'byte skip:', which are not read here")
    endian = fields.get("endian", "") if code[1] == "1" else _field(path, fields, "endian")
    return read_block(
        path,
        file,
        _sizes(path, fields),
        np.dtype((">" if endian.lower() == "big" else "<") + code),
        compressed=encoding != "raw",
        leading_bytes=_integer(path, fields.get("byte skip", "0")),
        volume_index=volume_index,
    )


def _integer(path: Path, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ImageReadError(f"{path}: a number in the header is none; repair it") from None


def write_nrrd(
    volume: Volume, path: Path, *, dtype: VoxelType | None = None, overwrite: bool = False
) -> None:
    """Write a NRRD file; arguments and errors as for `medp2p.io.write_volume`."""
    voxel_type = output_dtype(volume.array.dtype, dtype)
    with atomic_file(path, overwrite=overwrite) as temporary, temporary.open("wb") as file:
        file.write(_header(volume, voxel_type))
        write_compressed(file, converted_slabs(path, volume.array, voxel_type), gzip=True)


def _header(volume: Volume, voxel_type: np.dtype[Any]) -> bytes:
    affine = LPS_FROM_RAS @ volume.affine
    meaning = note(volume).removeprefix("medp2p").strip()
    lines = [
        "NRRD0004",
        f"type: {_NAMES[voxel_type]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(n) for n in volume.shape)}",
        f"space directions: {' '.join(_text(affine[:3, axis]) for axis in range(3))}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: {_text(affine[:3, 3])}",
        *([f"medp2p:={meaning}"] if meaning else []),
    ]
    return ("\n".join(lines) + "\n\n").encode()


def _text(vector: NDArray[np.float64]) -> str:
    return "(" + ",".join(repr(float(value)) for value in vector) + ")"
