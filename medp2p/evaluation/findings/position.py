"""Whether the prediction lies beside the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medp2p.evaluation.findings.arrays import Place, correlation, sample_step
from medp2p.evaluation.findings.case import MINIMUM_VOXELS, REACH, SIDES, Case
from medp2p.evaluation.findings.identity import UNRELATED_CORRELATION
from medp2p.results import Finding

SHIFTED_VOXELS = 0.5
"""Displacement in voxels along the axis where it is largest."""
SHIFTED_GAIN = 0.04
"""Share of the squared error that moving the prediction back must take away."""
CLIPPED_SHARE = 0.25
"""Larger errors than this share of the range count as this large."""


def without_shift(case: Case) -> tuple[Case, list[Finding]]:
    """Look for a displacement, and move the prediction back if there is one.

    The squared error, large errors clipped, is minimized over whole voxels and, by the parabola
    through its neighbours, over parts of voxels.
    """
    misfit = _Misfit(case)
    if misfit.count < MINIMUM_VOXELS:
        return case, []
    best = misfit.best()
    parts = [misfit.part_of_voxel(best, axis) for axis in range(3)]
    offset = np.array(best) + np.array(parts)
    gain = 1 - misfit(best) / misfit((0, 0, 0)) if misfit((0, 0, 0)) else 0.0
    resembles = misfit.correlation(best) >= UNRELATED_CORRELATION
    voxels = float(np.abs(offset).max())
    value = voxels if resembles and (gain >= SHIFTED_GAIN or not any(best)) else 0.0
    text = (
        "against the reference, the prediction lies "
        f"{_directions(offset * case.spacing_mm, offset)}; check how it was resampled and "
        "written, or score again with a rigid alignment"
    )
    finding = Finding("shifted", text, value, SHIFTED_VOXELS)
    return (_moved_back(case, best) if value >= SHIFTED_VOXELS else case), [finding]


def _moved_back(case: Case, offset: Place) -> Case:
    """The case with voxel x + offset of the prediction in the place of x, where there is one."""
    targets, sources = [], []
    for o, n in zip(offset, case.inside.shape, strict=True):
        targets.append(slice(max(0, -o), n - max(0, o)))
        sources.append(slice(max(0, o), n - max(0, -o)))
    prediction, inside = case.reference.copy(), np.zeros_like(case.inside)
    prediction[tuple(targets)] = case.prediction[tuple(sources)]
    inside[tuple(targets)] = case.inside[tuple(targets)]
    return replace(case, prediction=prediction, inside=inside)


class _Misfit:
    """Squared error of the prediction moved back by whole voxels, over a sample of voxels."""

    def __init__(self, case: Case) -> None:
        shape = case.inside.shape
        self.reach = tuple(REACH if n >= 4 * REACH else (n // 6) for n in shape)
        inner = tuple(slice(r, n - r) for r, n in zip(self.reach, shape, strict=True))
        away = np.zeros(shape, bool)
        away[inner] = case.inside[inner]
        index = np.flatnonzero(away)
        self.index = index[:: sample_step(index.size)]
        self.count = self.index.size
        self.true = case.reference.ravel()[self.index]
        self.prediction = np.ascontiguousarray(case.prediction).ravel()
        self.steps = (shape[1] * shape[2], shape[2], 1)
        self.largest = CLIPPED_SHARE * case.span
        self.known: dict[Place, float] = {}

    def __call__(self, offset: Place) -> float:
        if offset not in self.known:
            moved = sum(o * s for o, s in zip(offset, self.steps, strict=True))
            error = self.prediction[self.index + moved] - self.true
            error -= np.median(error[::7])
            self.known[offset] = float(np.square(error.clip(-self.largest, self.largest)).mean())
        return self.known[offset]

    def correlation(self, offset: Place) -> float:
        """Of the prediction moved back with the reference."""
        moved = sum(o * s for o, s in zip(offset, self.steps, strict=True))
        return correlation(self.prediction[self.index + moved], self.true)

    def best(self) -> Place:
        """Go to the best offset along each axis in turn until none is better."""
        best: Place = (0, 0, 0)
        for _ in range(4):
            before = best
            for axis in range(3):
                reach = self.reach[axis]
                best = min((_with(best, axis, o) for o in range(-reach, reach + 1)), key=self)
            if best == before:
                break
        return best

    def part_of_voxel(self, best: Place, axis: int) -> float:
        """Where the parabola through the best offset and its neighbours has its minimum."""
        if abs(best[axis]) >= self.reach[axis]:
            return 0.0
        below, above = (self(_with(best, axis, best[axis] + o)) for o in (-1, 1))
        curvature = below + above - 2 * self(best)
        return 0.5 * (below - above) / curvature if curvature > 0 else 0.0


def _with(place: Place, axis: int, value: int) -> Place:
    changed = list(place)
    changed[axis] = value
    return changed[0], changed[1], changed[2]


def _directions(mm: NDArray[np.float64], voxels: NDArray[np.float64]) -> str:
    parts = [
        f"{abs(mm[axis]):.1f} mm ({abs(voxels[axis]):.1f} voxels) to the "
        f"{SIDES[axis][int(voxels[axis] > 0)]}"
        for axis in range(3)
        if abs(voxels[axis]) >= 0.25
    ]
    return " and ".join(parts) or "in its place"
