"""Where one image's world lies in another's, and taking images there.

Registration finds an `Alignment`; everything else only uses it. World coordinates are RAS+
millimetres as in `medp2p.volume`; ITK's LPS appears only where a transform is read, written or
handed to SimpleITK.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medp2p.errors import ImageReadError
from medp2p.files import atomic_file
from medp2p.volume import Grid, Volume, reorient

if TYPE_CHECKING:
    import SimpleITK as sitk

RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""RAS+ to LPS+ millimetres, and back."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where points of the fixed image's world lie in the moving image's world.

    Attributes:
        matrix: (4, 4) float64, fixed RAS+ mm to moving RAS+ mm, rigid or affine.
        deformation: Transform from the fixed world to itself in LPS mm, applied before
            ``matrix``; None if there is none.

    Raises:
        ValueError: If the matrix is not a finite, invertible affine.
    """

    matrix: NDArray[np.float64]
    deformation: sitk.Transform | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.array_equal(matrix[3], (0, 0, 0, 1)):
            raise ValueError("an alignment's matrix is (4, 4) and ends in the row 0 0 0 1")
        if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
            raise ValueError("an alignment's matrix is finite and can be inverted")
        matrix.flags.writeable = False
        object.__setattr__(self, "matrix", matrix)

    @classmethod
    def identity(cls) -> Alignment:
        """The alignment of images that share one world."""
        return cls(np.eye(4))

    @property
    def is_identity(self) -> bool:
        """Whether points stay exactly where they are."""
        return self.deformation is None and np.array_equal(self.matrix, np.eye(4))


def move_points(points_mm: NDArray[np.float64], alignment: Alignment) -> NDArray[np.float64]:
    """Take points of the fixed world to the moving world.

    Args:
        points_mm: (n, 3) RAS+ mm in the fixed world.
        alignment: Where they lie in the moving world.

    Returns:
        (n, 3) RAS+ mm in the moving world.
    """
    if alignment.deformation is not None:
        deform: Callable[[list[float]], tuple[float, ...]] = alignment.deformation.TransformPoint
        lps = [deform([-float(x), -float(y), float(z)]) for x, y, z in points_mm]
        points_mm = np.array(lps).reshape(-1, 3) * (-1.0, -1.0, 1.0)
    moved: NDArray[np.float64] = points_mm @ alignment.matrix[:3, :3].T + alignment.matrix[:3, 3]
    return moved


def place(volume: Volume, alignment: Alignment) -> Volume:
    """Put the moving volume into the fixed world by changing its affine; no voxel is touched.

    A deformation is left out: only the linear part fits into an affine.
    """
    if np.array_equal(alignment.matrix, np.eye(4)):
        return volume
    return replace(volume, affine=np.linalg.inv(alignment.matrix) @ volume.affine)


def resample_aligned(
    volume: Volume,
    alignment: Alignment,
    grid: Grid,
    *,
    outside: float | None = None,
    nearest: bool = False,
) -> NDArray[Any]:
    """Sample the moving volume at the voxel centres of a grid in the fixed world.

    Every transform is composed, so that values are interpolated once: linearly in float32, or
    the nearest voxel with its dtype kept. Where only the order of axes differs no value changes.

    Args:
        volume: The moving image.
        alignment: Where the fixed world lies in the moving image's world.
        grid: Where values are wanted.
        outside: Value for points more than half a voxel outside the image; None continues
            the outermost voxel.
        nearest: Take the nearest voxel, for masks and labels.

    Returns:
        Array of ``grid.shape``; float32, or the volume's dtype if nothing was interpolated.
    """
    import SimpleITK as sitk

    placed = reorient(place(volume, alignment), grid.orientation)
    if alignment.deformation is None and placed.grid.difference(grid) is None:
        return placed.array
    values = placed.array if nearest else placed.array.astype(np.float32, copy=False)
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    sampler = sitk.ResampleImageFilter()
    sampler.SetSize([int(n) for n in grid.shape])
    sampler.SetTransform(_index_transform(placed.affine, alignment.deformation, grid.affine))
    sampler.SetInterpolator(sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear)
    sampler.SetUseNearestNeighborExtrapolator(outside is None)
    sampler.SetDefaultPixelValue(0.0 if outside is None else float(outside))
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.transpose(2, 1, 0)))
    sampled = sitk.GetArrayFromImage(sampler.Execute(image)).transpose(2, 1, 0)
    return sampled.astype(volume.array.dtype, copy=False) if nearest else sampled


def write_alignment(path: Path, alignment: Alignment, *, overwrite: bool = False) -> None:
    """Write an ITK transform file: LPS mm, fixed to moving, as resampling filters expect it.

    SimpleITK, elastix and 3D Slicer read it. The same alignment gives the same bytes.

    Args:
        path: A ``.tfm`` file to make.
        alignment: What to write.
        overwrite: Whether an existing file may be replaced.

    Raises:
        ValueError: If the name does not end in ``.tfm``.
        OutputError: If the file exists or cannot be written.
    """
    import SimpleITK as sitk

    if path.suffix != ".tfm":
        raise ValueError(f"{path}: an alignment is written as .tfm")
    linear = linear_transform(RAS_LPS @ alignment.matrix @ RAS_LPS)
    whole: sitk.Transform = linear
    if alignment.deformation is not None:
        whole = sitk.CompositeTransform([linear, alignment.deformation])
    with atomic_file(path, overwrite=overwrite) as temporary:
        sitk.WriteTransform(whole, str(temporary))


def read_alignment(path: Path) -> Alignment:
    """Read an ITK transform file (``.tfm``, ``.txt``, ``.h5``) that maps fixed to moving.

    A chain may end in linear transforms, which become the matrix; what comes before them is
    the deformation.

    Raises:
        ImageReadError: If the file is missing, damaged, two-dimensional or flattens space.
    """
    import SimpleITK as sitk

    if not path.is_file():
        raise ImageReadError(f"{path}: no such transform file; give one that ITK wrote (.tfm)")
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise ImageReadError(
            f"{path}: is no transform that ITK reads, or is damaged; write it again (.tfm)"
        ) from error
    if transform.GetDimension() != 3:
        raise ImageReadError(
            f"{path}: a transform of {transform.GetDimension()} dimensions, expected 3"
        )
    steps = _steps(transform)
    if path.suffix in (".tfm", ".txt") and not _is_whole(path, steps):
        raise ImageReadError(f"{path}: the transform is cut short or damaged; write it again")
    matrix = np.eye(4)
    while steps and steps[0].IsLinear():
        matrix = matrix @ linear_matrix(steps.pop(0))
    deformation = None if not steps else _chain(steps)
    try:
        return Alignment(RAS_LPS @ matrix @ RAS_LPS, deformation)
    except ValueError as error:
        raise ImageReadError(
            f"{path}: holds a transform that is not finite or flattens space; write it again"
        ) from error


def linear_transform(matrix: NDArray[np.floating[Any]]) -> sitk.AffineTransform:
    """The (4, 4) matrix as SimpleITK's transform, about the origin."""
    import SimpleITK as sitk

    return sitk.AffineTransform(
        [float(v) for v in matrix[:3, :3].ravel()], [float(v) for v in matrix[:3, 3]]
    )


def _index_transform(
    moving_affine: NDArray[np.float64],
    deformation: sitk.Transform | None,
    fixed_affine: NDArray[np.float64],
) -> sitk.Transform:
    """Voxel index of the fixed grid to voxel index of the placed moving image."""
    import SimpleITK as sitk

    if deformation is None:
        return linear_transform(np.linalg.inv(moving_affine) @ fixed_affine)
    to_world = linear_transform(RAS_LPS @ fixed_affine)
    to_index = linear_transform(np.linalg.inv(moving_affine) @ RAS_LPS)
    return sitk.CompositeTransform([to_index, deformation, to_world])


def _steps(transform: sitk.Transform) -> list[sitk.Transform]:
    """The transforms that a chain is made of, the one that is applied last first."""
    import SimpleITK as sitk

    transform = transform.Downcast()
    if not isinstance(transform, sitk.CompositeTransform):
        return [transform]
    parts = (transform.GetNthTransform(n) for n in range(transform.GetNumberOfTransforms()))
    return [step for part in parts for step in _steps(part)]


def _is_whole(path: Path, steps: list[sitk.Transform]) -> bool:
    """Whether a text file holds all numbers of its transforms; ITK reads zeros for lost ones."""
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = [line.split() for line in text.splitlines()]
    ends = sum(line[:1] == ["FixedParameters:"] for line in lines)
    counts = [len(line) - 1 for line in lines if line[:1] == ["Parameters:"]]
    expected = [len(step.GetParameters()) for step in steps]
    return text.endswith("\n") and ends == len(steps) and counts == expected


def _chain(steps: list[sitk.Transform]) -> sitk.Transform:
    import SimpleITK as sitk

    return steps[0] if len(steps) == 1 else sitk.CompositeTransform(steps)


def linear_matrix(transform: sitk.Transform) -> NDArray[np.float64]:
    """The (4, 4) matrix of any linear transform; exact where it turns about the origin."""
    matrix = np.eye(4)
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix[:3, 3] = origin
    if hasattr(transform, "GetMatrix"):
        matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
        return matrix
    for axis, unit in enumerate(np.eye(3).tolist()):
        matrix[:3, axis] = np.array(transform.TransformPoint(unit)) - origin
    return matrix
