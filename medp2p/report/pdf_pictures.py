"""The worst slices as pictures on pages of the PDF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure, FigureBase
from numpy.typing import NDArray

from medp2p.errors import MedP2PError
from medp2p.report.case_images import CaseImages, grey_range, read_case_images
from medp2p.report.content import LeftOut, whose
from medp2p.report.figure_style import method_label
from medp2p.report.metric_words import metric_words
from medp2p.report.pdf_pages import page_with_head, parts_of, save_page
from medp2p.report.planes import shown_axes, shown_slice
from medp2p.report.viewer import ERROR_LIMIT_HU
from medp2p.report.worst_slices import WorstSlice, worst_slices
from medp2p.results import Evaluation

PICTURES = 10
"""Worst slices that are shown as pictures."""
PICTURES_PER_PAGE = 5


@dataclass(frozen=True)
class _Picture:
    """A slice of each image, (rows, columns) as `shown_slice` turns it."""

    title: str
    images: dict[str, NDArray[Any]]
    window: tuple[float, float]
    aspect: float


def save_pictures(
    pages: PdfPages, evaluation: Evaluation, left_out: LeftOut | None = None
) -> dict[str, list[str]]:
    """Draw the worst slices; return the cases whose images cannot be read, by the reason.

    Args:
        pages: Where to.
        evaluation: Whose slices.
        left_out: Called with such a case and the reason.
    """
    unseen: dict[str, list[str]] = {}
    pictures: dict[WorstSlice, _Picture] = {}
    worst = worst_slices(evaluation.results, PICTURES)
    for result in evaluation.results:
        wanted = [w for w in worst if (w.case, w.method) == (result.case, result.method)]
        if not wanted:
            continue
        try:
            images = read_case_images(result)
            pictures |= {one: _picture(one, images, evaluation) for one in wanted}
        except MedP2PError as error:
            unseen.setdefault(str(error), []).append(whose(result, evaluation))
            if left_out:
                left_out(whose(result, evaluation), str(error))
    shown = [pictures[one] for one in worst if one in pictures]
    for start in range(0, len(shown), PICTURES_PER_PAGE):
        save_page(pages, _picture_page(shown[start : start + PICTURES_PER_PAGE], evaluation))
    return unseen


def _picture(worst: WorstSlice, images: CaseImages, evaluation: Evaluation) -> _Picture:
    volumes = {
        "source": images.source,
        "prediction": images.prediction,
        "reference": images.reference,
    }
    slices = {
        name: shown_slice(volume.array, worst.plane, worst.index).astype(np.float32)
        for name, volume in volumes.items()
        if volume is not None
    }
    error = slices["prediction"] - slices["reference"]
    if images.mask is not None:
        outside = ~shown_slice(images.mask, worst.plane, worst.index)
        error = np.ma.masked_where(outside, error)
    down, across = images.reference.spacing_mm[list(shown_axes(worst.plane))]
    mae = metric_words(evaluation.profile.mae_key, evaluation.profile, {})
    error_text = f"{mae.label} {mae.shown(worst.mae)} {mae.unit}".rstrip()
    title = f"{worst.case}, {worst.plane} slice {worst.index}, {error_text}"
    if len(evaluation.methods) > 1:
        title = f"{method_label(worst.method)}: {title}"
    return _Picture(
        title,
        slices | {"error": error},
        grey_range(images, evaluation.profile),
        float(down / across),
    )


def _picture_page(pictures: Sequence[_Picture], evaluation: Evaluation) -> Figure:
    """Draw a row for each slice; the patient's right, or face, is on the left."""
    figure, body = page_with_head(
        "Worst slices",
        "The patient's right, or in sagittal planes the face, is on the left. Error: prediction "
        "minus reference.",
    )
    for [row], picture in zip(parts_of(body, PICTURES_PER_PAGE, 1), pictures, strict=False):
        [head], [images] = parts_of(row, 2, 1, height_ratios=[1, 10])
        head.text(0, 0.1, picture.title, fontsize=8.5)
        _draw_picture(images, picture, evaluation.profile.units or "")
    return figure


def _draw_picture(row: FigureBase, picture: _Picture, unit: str) -> None:
    low, high = picture.window
    limit = ERROR_LIMIT_HU if unit == "HU" else (high - low) / 5
    windows = {"error": (-limit, limit)}
    if "source" in picture.images:
        darkest, brightest = np.nanpercentile(picture.images["source"], (1, 99.5))
        windows["source"] = (float(darkest), float(max(brightest, darkest + 1e-6)))
    places = np.ravel(np.asarray(row.subplots(1, len(picture.images))))
    for axes, (name, image) in zip(places, picture.images.items(), strict=True):
        black, white = windows.get(name, picture.window)
        axes.set_facecolor("black")
        drawn = axes.imshow(
            image,
            cmap="RdBu_r" if name == "error" else "gray",
            vmin=black,
            vmax=white,
            aspect=picture.aspect,
            interpolation="none",
        )
        axes.set(xticks=[], yticks=[], xlabel=name)
        if name == "error":
            row.colorbar(drawn, ax=axes, label=unit, shrink=0.8)
