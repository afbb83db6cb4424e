"""Everything of a translation but the network: volume to network input, prediction to volume.

`prepare`, a prediction and `finish` are the three steps of every translation, so that they can
run in different processes and give the same bytes. Nothing here imports torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medp2p.config import ImageSettings, PreprocessingSettings
from medp2p.dicom_source import DicomSource
from medp2p.errors import ImageReadError, MedP2PError
from medp2p.preprocessing import (
    body_mask,
    carry_mask,
    check_mask,
    check_modality,
    decode,
    from_unit,
    output_limits,
    prepare_onto,
    prepare_source,
    resample,
)
from medp2p.volume import Grid, Volume

_logger = logging.getLogger(__name__)

Mask = Volume | Literal["auto", "none"]
"""A body mask on the source's grid, or: find it in the source, or: keep every voxel."""

UnitPredictor = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Unit values of all sources (C, K, J, I) to those of the target (K, J, I)."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan as the network gets it, and what is needed to bring the prediction back.

    Attributes:
        codes: Sources on the training grid, int16 (C, K, J, I).
        grid: The training grid, indexed (I, J, K).
        body: Body voxels (bool) on the first source's grid, with all else that it says.
        masked: Whether the result is cut out along the body.
    """

    codes: NDArray[np.int16]
    grid: Grid
    body: Volume
    masked: bool


def prepare(sources: Sequence[Volume], mask: Mask, settings: PreprocessingSettings) -> Prepared:
    """Find the body and bring the sources to the training grid.

    Args:
        sources: One volume per contrast.
        mask: Body mask on the first source's grid, ``"auto"`` or ``"none"``.
        settings: Spacing and value mapping.

    Raises:
        ImageReadError: If there is no body, or no contrast in it.
        GeometryError: If a further source does not overlap the first one's body, or the mask is
            on another grid.
    """
    reference = sources[0]
    body = _body(reference, mask, settings.source)
    codes, grid = _coded_sources(sources, body, settings)
    said = replace(reference, array=body, dicom=_dicom_sources(sources))
    return Prepared(codes, grid, said, masked=mask != "none")


def finish(
    prepared: Prepared,
    prediction: NDArray[np.float32],
    settings: PreprocessingSettings,
    target_range: tuple[float, float],
    onto: Grid | None = None,
) -> Volume:
    """Bring a prediction back to the scan's own grid and values.

    Args:
        prepared: The scan.
        prediction: Unit values of the target on the training grid, (K, J, I).
        settings: What the target is.
        target_range: Values that -1 and +1 stand for in the output.
        onto: The grid of the result, if not the first source's.
    """
    body = prepared.body
    result_grid = onto or body.grid
    predicted = from_unit(prediction.transpose(2, 1, 0), target_range)
    values = resample(Volume(predicted, prepared.grid.affine), result_grid)
    limits = output_limits(target_range, settings.target)
    values = np.clip(values, *limits).astype(np.float32, copy=False)
    if prepared.masked or onto:
        kept = body if prepared.masked else body.with_array(np.ones_like(body.array))
        inside = resample(kept, result_grid, outside=0, nearest=True) > 0
        values = np.where(inside, values, np.float32(target_range[0]))
    target = settings.target.modality
    return replace(
        body,
        array=values,
        affine=result_grid.affine,
        modality=target,
        units="HU" if target == "CT" else None,
        path=None,
    )


def translate_with(
    predict: UnitPredictor,
    sources: Sequence[Volume],
    mask: Mask,
    settings: PreprocessingSettings,
    target_range: tuple[float, float],
    onto: Grid | None = None,
) -> Volume:
    """Do everything around a prediction on the training grid, and undo it.

    Args:
        predict: Unit values of the sources (C, K, J, I) to those of the target (K, J, I).
        sources: One volume per contrast.
        mask: As for `prepare`.
        settings: The preprocessing, and what the target is.
        target_range: Values that -1 and +1 stand for in the output.
        onto: The grid of the result, if not the first source's.
    """
    prepared = prepare(sources, mask, settings)
    prediction = predict(decode(prepared.codes))
    return finish(prepared, prediction, settings, target_range, onto)


def unit_sources(
    sources: Sequence[Volume], body: NDArray[np.bool_], settings: PreprocessingSettings
) -> tuple[NDArray[np.float32], Grid]:
    """Return the network's input on the training grid of the first source.

    Args:
        sources: One volume per contrast.
        body: Body voxels on the first source's grid.
        settings: Spacing and value mapping.

    Returns:
        float32 (C, K, J, I) and the training grid.

    Raises:
        GeometryError: If a further source does not overlap the first one's body.
    """
    codes, grid = _coded_sources(sources, body, settings)
    return decode(codes), grid


def check_sources(volumes: Sequence[Volume], names: Sequence[str], settings: ImageSettings) -> None:
    """Refuse sources that a model is not for.

    Args:
        volumes: One per contrast.
        names: The model's source names.
        settings: What the model's sources are.

    Raises:
        ImageReadError: If one is of another modality or of another patient.
        MedP2PError: If their number is not the model's.
    """
    if len(volumes) != len(names):
        raise MedP2PError(
            f"the model needs {len(names)} source images ({', '.join(names)}), found {len(volumes)}"
        )
    for volume in volumes:
        check_modality(volume, settings, "source")
        _check_same_patient(volumes[0], volume)


def _coded_sources(
    sources: Sequence[Volume], body: NDArray[np.bool_], settings: PreprocessingSettings
) -> tuple[NDArray[np.int16], Grid]:
    first = prepare_source(sources[0], body, settings)
    prepared = [first]
    for volume in sources[1:]:
        own_body = carry_mask(body, sources[0], volume)
        prepared.append(prepare_onto(volume, own_body, settings.source, first.grid))
    return np.stack([image.codes for image in prepared]), first.grid


def _dicom_sources(sources: Sequence[Volume]) -> DicomSource | None:
    first, *others = sources
    if first.dicom is None:
        return None
    return replace(first.dicom, others=tuple(v.dicom for v in others if v.dicom))


def _check_same_patient(first: Volume, other: Volume) -> None:
    """Refuse contrasts of two patients; warn where nothing says that their positions agree."""
    if not (first.dicom and other.dicom):
        return
    if first.dicom.patient != other.dicom.patient:
        raise ImageReadError(
            f"{first.name} and {other.name} are of two patients; give one patient's scans"
        )
    if first.dicom.frame_of_reference != other.dicom.frame_of_reference:
        _logger.warning(
            "%s and %s have different frames of reference, so their positions may not agree",
            first.name,
            other.name,
        )


def _body(reference: Volume, mask: Mask, settings: ImageSettings) -> NDArray[np.bool_]:
    if isinstance(mask, Volume):
        return check_mask(mask, reference)
    return body_mask(reference, settings.modality)
