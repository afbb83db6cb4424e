"""A 3-D image and its place in space.

World coordinates are RAS+ millimetres (nibabel's convention): ``affine @ (i, j, k, 1)`` is
the centre of voxel (i, j, k); x grows towards the patient's right, y to the front, z to the head.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import (
    aff2axcodes,
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from numpy.typing import NDArray

from medp2p.dicom_source import DicomSource
from medp2p.errors import GeometryError

EIGHT_BIT = "8-bit"
"""Modality of grey pictures of 256 levels, of whatever they show."""

GRID_TOLERANCE_MM = 0.01
"""Two grids are the same if no corner voxel lies further apart than this."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of an image lie.

    Attributes:
        shape: Number of voxels along i, j, k.
        affine: (4, 4) float64, voxel index to RAS+ millimetres.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"a grid has three axes of at least one voxel, got {self.shape}")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4):
            raise ValueError(f"an affine has shape (4, 4), got {affine.shape}")
        if not np.array_equal(affine[3], (0, 0, 0, 1)):
            raise ValueError(f"an affine ends in the row 0 0 0 1, got {affine[3].tolist()}")
        affine.flags.writeable = False
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "affine", affine)

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Distance between voxel centres along i, j, k in millimetres, shape (3,)."""
        spacing: NDArray[np.float64] = np.linalg.norm(self.affine[:3, :3], axis=0)
        return spacing

    @property
    def orientation(self) -> str:
        """The nearest world direction of each axis, such as ``"RAS"`` or ``"LPS"``."""
        return "".join(aff2axcodes(self.affine))

    @property
    def corners_mm(self) -> NDArray[np.float64]:
        """World positions of the eight corner voxels, shape (8, 3)."""
        last = np.array(self.shape) - 1
        index = np.stack(np.meshgrid(*[(0, n) for n in last], indexing="ij"), -1).reshape(8, 3)
        corners: NDArray[np.float64] = index @ self.affine[:3, :3].T + self.affine[:3, 3]
        return corners

    def difference(self, other: Grid) -> str | None:
        """Say in words how ``other`` differs from this grid, or None if it does not.

        Tolerance: `GRID_TOLERANCE_MM` at the corner voxels.
        """
        if self.shape != other.shape:
            return f"size {_sizes(self.shape)} against {_sizes(other.shape)} voxels"
        offset = np.linalg.norm(self.corners_mm - other.corners_mm, axis=1).max()
        if offset <= GRID_TOLERANCE_MM:
            return None
        if self.orientation != other.orientation:
            return f"orientation {self.orientation} against {other.orientation}"
        if not np.allclose(self.spacing_mm, other.spacing_mm, rtol=0, atol=1e-3):
            return f"spacing {_lengths(self.spacing_mm)} against {_lengths(other.spacing_mm)} mm"
        return f"positions up to {offset:.3g} mm apart"


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D image: voxels, their place, and what they are.

    Attributes:
        array: Voxel values indexed (i, j, k); any real dtype.
        affine: (4, 4) voxel index to RAS+ millimetres, as in `Grid`.
        modality: ``"MR"``, ``"CT"``, ``"MASK"`` or `EIGHT_BIT` where known, else None.
        units: What a value means, ``"HU"`` for CT numbers, else None.
        path: The file the volume was read from, if any.
        nifti_code: NIfTI's name for the world space (1 scanner, 2 aligned, 3 Talairach,
            4 MNI, 5 another template), kept so that a result is labelled like its source.
        dicom: The DICOM series that the volume, or the source it was made from, was read from.

    Raises:
        ValueError: If the array is not 3-D, the affine not (4, 4) or the code not 1 to 5.
        GeometryError: If the affine is not finite or flattens space.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    modality: str | None = None
    units: str | None = None
    path: Path | None = None
    nifti_code: int = 1
    dicom: DicomSource | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.array.ndim != 3:
            raise ValueError(f"a volume's array has three axes, got shape {self.array.shape}")
        if self.nifti_code not in range(1, 6):
            raise ValueError(f"a NIfTI code for a known space is 1 to 5, got {self.nifti_code}")
        grid = Grid(self.array.shape, self.affine)
        object.__setattr__(self, "affine", grid.affine)
        if not np.isfinite(grid.affine).all():
            raise GeometryError(f"{self.name}: the affine holds NaN or infinity; repair the header")
        if abs(np.linalg.det(grid.affine[:3, :3])) < 1e-12:
            raise GeometryError(
                f"{self.name}: the affine flattens space (spacing {_lengths(grid.spacing_mm)} mm); "
                "repair the header"
            )

    @property
    def name(self) -> str:
        """The file's path for messages, or ``"volume"``."""
        return str(self.path) if self.path else "volume"

    @property
    def grid(self) -> Grid:
        """Shape and affine."""
        return Grid(self.array.shape, self.affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along i, j, k."""
        return self.grid.shape

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Distance between voxel centres along i, j, k in millimetres."""
        return self.grid.spacing_mm

    @property
    def orientation(self) -> str:
        """The nearest world direction of each axis, such as ``"RAS"``."""
        return self.grid.orientation

    def with_array(self, array: NDArray[Any], **changes: Any) -> Volume:
        """Return a volume on the same grid with other voxels (and other fields).

        Raises:
            ValueError: If the shape differs.
        """
        if array.shape != self.array.shape:
            raise ValueError(f"array of shape {array.shape} on a grid of {self.array.shape}")
        return replace(self, array=array, **changes)


def reorient(volume: Volume, orientation: str) -> Volume:
    """Permute and flip axes to the named orientation without touching a voxel.

    Args:
        volume: Any volume.
        orientation: Three letters, one of R/L, A/P and S/I each, such as ``"RAS"``.

    Returns:
        The same voxels in the same places; the array is a view.

    Raises:
        ValueError: If ``orientation`` is not such a name.
    """
    if sorted("RLAPSI".find(letter) // 2 for letter in orientation) != [0, 1, 2]:
        raise ValueError(
            f"orientation {orientation!r}; expected one each of R/L, A/P and S/I, such as 'RAS'"
        )
    change = ornt_transform(io_orientation(volume.affine), axcodes2ornt(tuple(orientation)))
    array = apply_orientation(volume.array, change)
    affine = volume.affine @ inv_ornt_aff(change, volume.array.shape)
    return replace(volume, array=array, affine=affine)


def axial_grid(grid: Grid) -> Grid:
    """Return the transverse grid that covers another, as planning systems expect CT.

    Rows run to the left, columns to the back, slices from foot to head (LPS). Pixels are square,
    as fine as the finer in-plane direction; slices lie as far apart as the voxels of ``grid``
    along the axis that is nearest to the body's length.
    """
    of_world = io_orientation(grid.affine)[:, 0].astype(int)
    x, y, z = grid.spacing_mm[np.argsort(of_world)]
    spacing = np.array([min(x, y), min(x, y), z])
    low, high = grid.corners_mm.min(axis=0), grid.corners_mm.max(axis=0)
    sizes = np.ceil((high - low) / spacing - 1e-3).astype(int) + 1
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = (high[0], high[1], low[2])
    return Grid((int(sizes[0]), int(sizes[1]), int(sizes[2])), affine)


def _sizes(shape: tuple[int, ...]) -> str:
    return "×".join(str(n) for n in shape)


def _lengths(values: NDArray[np.float64]) -> str:
    return " × ".join(f"{v:.4g}" for v in values)
