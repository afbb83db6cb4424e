"""Pictures of a case: source, prediction, target and signed error, side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medp2p.files import atomic_file
from medp2p.volume import Volume, reorient

HU_WINDOW = (-200.0, 800.0)
"""Grey values of a CT picture: soft tissue and bone are both seen."""

HU_ERROR_LIMIT = 500.0
"""Errors of this many HU and more have the strongest colour."""


def write_case_picture(
    path: Path,
    source: NDArray[Any],
    prediction: NDArray[Any],
    target: NDArray[Any],
    mask: NDArray[np.bool_],
    *,
    spacing_kji: Sequence[float],
    modalities: tuple[str, str],
    overwrite: bool = True,
) -> None:
    """Write a PNG with three axial slices and the middle sagittal one.

    Args:
        path: The PNG.
        source: (K, J, I), feet to head, back to front, left to right, as on a training grid.
        prediction: Likewise, in HU or MR units.
        target: Likewise.
        mask: Likewise; the slices are spread over it.
        spacing_kji: Voxel spacing in mm along K, J, I.
        modalities: Of source and target, ``"MR"`` or ``"CT"``.
        overwrite: Whether an existing file may be replaced.

    Raises:
        OutputError: If it cannot be written.
    """
    from matplotlib.figure import Figure

    grey = _grey_range(target, mask, modalities[1])
    limit = HU_ERROR_LIMIT if modalities[1] == "CT" else (grey[1] - grey[0]) / 2
    columns = [
        (f"source ({modalities[0]})", source, _grey_range(source, mask, modalities[0]), "gray"),
        (f"synthetic {modalities[1]}", prediction, grey, "gray"),
        (f"target ({modalities[1]})", target, grey, "gray"),
        ("error", np.ma.masked_where(~mask, prediction - target), (-limit, limit), "RdBu_r"),
    ]
    views = _views(mask)
    heights = [_view(target, view, spacing_kji)[1] for view in views]
    figure = Figure(figsize=(10, 0.4 + 2.4 * sum(heights)), layout="constrained", facecolor="black")
    axes = figure.subplots(
        len(views), len(columns), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for number, (row, view) in enumerate(zip(axes, views, strict=True)):
        for axis, (title, volume, (low, high), colours) in zip(row, columns, strict=True):
            image, height = _view(volume, view, spacing_kji)
            shown = axis.imshow(image, cmap=colours, vmin=low, vmax=high, extent=(0, 1, 0, height))
            axis.set_axis_off()
            if number == 0:
                axis.set_title(title, color="white", fontsize=10)
    unit = {"CT": "HU", "MR": "MR units"}.get(modalities[1], "grey levels")
    bar = figure.colorbar(shown, ax=axes[:, -1], fraction=0.05)
    bar.set_label(f"synthetic minus target, {unit}", color="white")
    bar.ax.tick_params(colors="white")
    with atomic_file(path, overwrite=overwrite) as temporary:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
        temporary.write_bytes(buffer.getvalue())


def write_volumes_picture(
    path: Path,
    *,
    source: Volume,
    prediction: Volume,
    target: Volume,
    mask: Volume,
    modalities: tuple[str, str],
    overwrite: bool = True,
) -> None:
    """Write the picture of volumes that share a grid, in any orientation.

    Raises:
        OutputError: If it cannot be written.
    """
    arrays = [reorient(v, "RAS").array.transpose(2, 1, 0) for v in (source, prediction, target)]
    body = reorient(mask, "RAS")
    write_case_picture(
        path,
        arrays[0],
        arrays[1],
        arrays[2],
        body.array.transpose(2, 1, 0) > 0,
        spacing_kji=body.spacing_mm[::-1].tolist(),
        modalities=modalities,
        overwrite=overwrite,
    )


def _grey_range(
    volume: NDArray[Any], mask: NDArray[np.bool_], modality: str
) -> tuple[float, float]:
    if modality == "CT" and volume.min() < -200:
        return HU_WINDOW
    inside = volume[mask] if mask.any() else volume
    low, high = np.percentile(inside, (1, 99.5))
    return float(low), float(max(high, low + 1e-6))


def _views(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(axis, index) of the slices shown: three axial ones and the middle sagittal one."""
    inside = np.flatnonzero(mask.any(axis=(1, 2))) if mask.any() else np.arange(mask.shape[0])
    axial = [int(inside[int(len(inside) * share)]) for share in (0.75, 0.5, 0.25)]
    return [(0, index) for index in axial] + [(2, mask.shape[2] // 2)]


def _view(
    volume: NDArray[Any], view: tuple[int, int], spacing_kji: Sequence[float]
) -> tuple[NDArray[Any], float]:
    """One slice as shown, and its height by its width.

    The patient's right, or the face, is on the left; the front, or the head, is up.
    """
    axis, index = view
    image = volume[index][::-1, ::-1] if axis == 0 else volume[::-1, ::-1, index]
    down, across = (spacing_kji[1], spacing_kji[2]) if axis == 0 else spacing_kji[:2]
    return image, image.shape[0] * down / (image.shape[1] * across)
