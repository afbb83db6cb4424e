"""What a model must beat: predictions that use no spatial context.

- ``constant``: one value for the whole body, the median of the training targets;
- ``intensity``: the best function of the source's intensity alone, the median training target
  in each bin of the source's unit value (the median minimizes the mean absolute error).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medp2p.config import PreprocessingSettings
from medp2p.errors import PreparedDataError
from medp2p.inference import Mask, UnitPredictor, translate_with
from medp2p.io import read_volume
from medp2p.manifest import Case, read_sources
from medp2p.preprocessing import CODES_PER_UNIT
from medp2p.store import PreparedData
from medp2p.volume import Volume

INTENSITY_BINS = 256
"""Bins over the source's unit range -1..2."""

_TARGET_CODES = 2 * CODES_PER_UNIT + 1


@dataclass(frozen=True)
class Baselines:
    """Fitted on the training split.

    Attributes:
        constant: Unit value of the target.
        by_intensity: Unit value of the target in each bin of the first source's unit value.
        target_range: Values that -1 and +1 stand for.
    """

    constant: float
    by_intensity: NDArray[np.float32]
    target_range: tuple[float, float]

    def predictors(self) -> dict[str, UnitPredictor]:
        """The baselines as functions of unit sources, for `inference.translate_with`."""
        return {"constant": self._predict_constant, "intensity": self._predict_by_intensity}

    def _predict_constant(self, unit: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.full(unit.shape[1:], self.constant, dtype=np.float32)

    def _predict_by_intensity(self, unit: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.by_intensity[_bins(unit[0])]


def fit_baselines(data: PreparedData) -> Baselines:
    """Fit both baselines on the body voxels of the training split.

    Medians are exact: a histogram of every target code per bin is counted case by case.

    Raises:
        PreparedDataError: If no case is in the training split.
    """
    cases = data.split("train")
    if not cases:
        raise PreparedDataError(f"{data.folder}: no case is in the split 'train'")
    counts = np.zeros((INTENSITY_BINS, _TARGET_CODES), dtype=np.int64)
    for case in cases:
        body = data.mask(case) > 0
        bins = _bins(data.source(case)[0][body].astype(np.float32) / CODES_PER_UNIT)
        codes = np.clip(data.target(case)[body].astype(np.int64) + CODES_PER_UNIT, 0, None)
        codes = np.minimum(codes, _TARGET_CODES - 1)
        flat = np.bincount(bins * _TARGET_CODES + codes, minlength=counts.size)
        counts += flat.reshape(counts.shape)
    overall = _median_code(counts.sum(axis=0))
    medians = [_median_code(row) if row.any() else overall for row in counts]
    ranges = np.median([case.target_range for case in cases], axis=0)
    return Baselines(
        constant=_unit(overall),
        by_intensity=np.array([_unit(code) for code in medians], dtype=np.float32),
        target_range=(float(ranges[0]), float(ranges[1])),
    )


def predict_case(
    baselines: Baselines, case: Case, settings: PreprocessingSettings
) -> dict[str, Volume]:
    """Predict a case by each baseline, on the grid of its first source.

    Raises:
        ImageReadError: If an image cannot be read.
    """
    sources = read_sources(case)
    mask: Mask = read_volume(case.mask) if case.mask else "auto"
    return {
        name: translate_with(predict, sources, mask, settings, baselines.target_range)
        for name, predict in baselines.predictors().items()
    }


def _bins(unit: NDArray[np.float32]) -> NDArray[np.int64]:
    position = (unit + 1) * np.float32(INTENSITY_BINS / 3)
    bins: NDArray[np.int64] = np.clip(position.astype(np.int64), 0, INTENSITY_BINS - 1)
    return bins


def _median_code(histogram: NDArray[np.int64]) -> int:
    cumulative = np.cumsum(histogram)
    return int(np.searchsorted(cumulative, (cumulative[-1] + 1) // 2))


def _unit(code: int) -> float:
    return (code - CODES_PER_UNIT) / CODES_PER_UNIT
