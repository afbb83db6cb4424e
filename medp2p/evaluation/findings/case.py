"""What a detector looks at: both images, cut to the box around the mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medp2p.evaluation.findings.arrays import (
    Array,
    Image,
    Mask,
    Place,
    Vector,
    finite,
    grown,
    other_axes,
    percentiles,
    spread,
)
from medp2p.results import Values

SIDES = (("left", "right"), ("back", "front"), ("foot", "head"))
"""Names of both ends of each axis."""
PLANES = ("sagittal", "coronal", "axial")
"""Names of the slices across each axis."""

REACH = 6
"""Displacements up to this many voxels along each axis are looked for."""
MINIMUM_VOXELS = 100
"""A tissue, slice or mask with fewer voxels is not judged."""
LEAST_SPAN_HU = 1000.0
"""The range of CT numbers counts as at least so wide: in one tissue alone it is that of noise."""
LEAST_SPREAD_HU = 50.0
"""Standard deviation of a reference's percentiles below which it may hold little but noise."""
LEAST_SPREAD_OVER_NOISE = 3.0
"""The same in other units: as a multiple of the noise from voxel to voxel."""
NEARBY_MM = 3.0
"""Bone that is at most so far off, and at least one voxel, is not missing."""
CAVITY_HU = -200.0
"""Air inside the body is below this in the reference."""
CAVITY_MM = 6.0
"""Nearer than this to air inside the body no single place is judged: MR shows neither air nor
compact bone, and mistakes between them are the rule there. They count in all metrics."""


@dataclass(frozen=True)
class Case:
    """A prediction and its reference, cut to the box around the mask.

    Attributes:
        prediction: float32 (I, J, K).
        reference: The same shape and units.
        inside: Voxels that are compared.
        spacing_mm: Voxel size along the axes.
        origin: Index in the whole image of the box's first voxel.
        values: What was measured of both images before, by name.
        source: The image that was translated, if its grid is the same.
        whole: The prediction before it was cut.
        interpolated: Whether it was interpolated since its method made it.
    """

    prediction: Image
    reference: Image
    inside: Mask
    spacing_mm: Vector
    origin: Place
    values: Values
    source: Array | None
    whole: Array
    interpolated: bool

    @property
    def hu(self) -> bool:
        """Whether values are CT numbers."""
        return "mae_hu" in self.values

    @cached_property
    def predicted(self) -> Image:
        """The prediction's values inside."""
        return self.prediction[self.inside]

    @cached_property
    def true(self) -> Image:
        """The reference's values inside."""
        return self.reference[self.inside]

    @cached_property
    def span(self) -> float:
        """Range of the reference inside, without the outermost percent on both ends.

        Of CT numbers at least `LEAST_SPAN_HU`. In other units, where there is little but noise
        inside, at least the range of what surrounds it.
        """
        span = spread(self.true)
        if self.hu:
            return max(span, LEAST_SPAN_HU)
        return (span if self.reference_varies else max(span, spread(self.reference.ravel()))) or 1.0

    @cached_property
    def predicted_span(self) -> float:
        """The same of the prediction."""
        return spread(self.predicted)

    @cached_property
    def reference_varies(self) -> bool:
        """Whether the reference inside holds more than noise, as it may not in one tissue alone."""
        least = LEAST_SPREAD_HU if self.hu else LEAST_SPREAD_OVER_NOISE * self._noise
        return float(np.std(percentiles(self.true))) >= least

    @property
    def _noise(self) -> float:
        """Standard deviation of the reference's noise, from neighbours along the finest axis.

        White noise with standard deviation s makes differences with s·√2, estimated by their
        median.
        """
        axis = int(np.argmin(self.spacing_mm))
        inside = np.moveaxis(self.inside, axis, 0)
        along = np.moveaxis(self.reference, axis, 0)
        differences = np.diff(along, axis=0)[inside[1:] & inside[:-1]]
        return 1.4826 * float(np.median(np.abs(differences))) / 2**0.5 if differences.size else 0.0

    @cached_property
    def away_from_cavities(self) -> Mask:
        """Voxels inside that are not near air within the body; all inside if not in HU."""
        if not self.hu:
            return self.inside
        deep = ~grown(~self.inside, NEARBY_MM, self.spacing_mm)
        cavities = deep & (self.reference < CAVITY_HU)
        return self.inside & ~grown(cavities, CAVITY_MM, self.spacing_mm)

    @property
    def error(self) -> Image:
        """Prediction minus reference, 0 outside."""
        return np.where(self.inside, self.prediction - self.reference, np.float32(0))

    def place(self, index: Sequence[float] | Array) -> Place:
        """Index in the whole image of a voxel in the box."""
        i, j, k = (round(float(n)) + o for n, o in zip(index, self.origin, strict=True))
        return i, j, k

    def amount(self, value: float) -> str:
        """Format a value in the images' units."""
        return f"{value:.0f} HU" if self.hu else f"{value:.3g}"


def cut_to_body(
    prediction: Array,
    reference: Array,
    mask: Array | None,
    spacing_mm: Sequence[float] | NDArray[np.float64],
    values: Values,
    source: Array | None,
    interpolated: bool,
) -> Case | None:
    """Cut both images to the box around the mask, with a margin of `REACH` voxels.

    Arguments as for `medp2p.evaluation.findings.find_faults`.

    Returns:
        None if fewer than `MINIMUM_VOXELS` are compared.
    """
    inside = np.ones(reference.shape, bool) if mask is None else np.asarray(mask) > 0
    if np.count_nonzero(inside) < MINIMUM_VOXELS:
        return None
    box = []
    for axis in range(3):
        slices = np.flatnonzero(inside.any(axis=other_axes(axis)))
        low, high = int(slices[0]) - REACH, int(slices[-1]) + REACH + 1
        box.append(slice(max(low, 0), min(high, inside.shape[axis])))
    cut = tuple(box)
    x, y, z = (float(s) for s in spacing_mm)
    known = source if source is not None and source.shape == reference.shape else None
    return Case(
        prediction=finite(prediction[cut]),
        reference=finite(reference[cut]),
        inside=np.ascontiguousarray(inside[cut]),
        spacing_mm=(x, y, z),
        origin=(box[0].start, box[1].start, box[2].start),
        values=values,
        source=None if known is None else known[cut],
        whole=prediction,
        interpolated=interpolated,
    )
