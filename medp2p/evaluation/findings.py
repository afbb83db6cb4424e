"""Faults that are recognized in a prediction, each by a detector of its own.

A detector measures one thing and compares it with a named threshold, which was chosen on
phantoms as ``docs/findings.md`` tells; ``benchmarks/findings.py`` measures, on others, how often
damage is found and how often a prediction without damage is blamed. Images are in RAS order:
axis 0 runs to the patient's right, axis 1 to the front, axis 2 to the head.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medp2p.metrics import TISSUES_HU, Curve, in_tissue
from medp2p.results import Finding, Values

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Image = NDArray[np.float32]
Vector = tuple[float, float, float]
Place = tuple[int, int, int]

SIDES = (("left", "right"), ("back", "front"), ("foot", "head"))
"""Names of both ends of each axis."""
PLANES = ("sagittal", "coronal", "axial")
"""Names of the slices across each axis."""
MIRRORED_WORDS = ("left to right", "front to back", "head to foot")

REACH = 6
"""Displacements up to this many voxels along each axis are looked for."""
SAMPLES = 60_000
"""About as many voxels are looked at where a mean over the body will do."""
MINIMUM_VOXELS = 100
"""A tissue, slice or mask with fewer voxels is not judged."""


@dataclass(frozen=True)
class Case:
    """A prediction and its reference, cut to the box around the mask.

    Attributes:
        prediction: float32 (I, J, K).
        reference: The same shape and units.
        inside: Voxels that are compared.
        spacing_mm: Voxel size along the axes.
        origin: Index in the whole image of the box's first voxel.
        hu: Whether values are CT numbers.
        source: The image that was translated, if its grid is the same.
        whole: The prediction before it was cut.
    """

    prediction: Image
    reference: Image
    inside: Mask
    spacing_mm: Vector
    origin: Place
    hu: bool
    source: Array | None
    whole: Array

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
        """Range of the reference inside, without the outermost percent on both ends."""
        return _range(self.true) or 1.0

    @cached_property
    def predicted_span(self) -> float:
        """The same of the prediction."""
        return _range(self.predicted)

    @cached_property
    def away_from_cavities(self) -> Mask:
        """Voxels inside that are not near air within the body; all inside if not in HU."""
        if not self.hu:
            return self.inside
        deep = ~_grown(~self.inside, NEARBY_MM, self.spacing_mm)
        cavities = deep & (self.reference < CAVITY_HU)
        return self.inside & ~_grown(cavities, CAVITY_MM, self.spacing_mm)

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


Detector = Callable[[Case], list[Finding]]


def find_faults(
    prediction: Array,
    reference: Array,
    mask: Array | None,
    spacing_mm: Sequence[float] | NDArray[np.float64],
    values: Values,
    curves: Mapping[str, Curve],
    source: Array | None = None,
) -> tuple[Finding, ...]:
    """Name the faults of a prediction, the gravest first.

    A displaced prediction is moved back by whole voxels, and cropped slices are left out, before
    other faults are looked for. A fault that explains others takes them into its own text.

    Args:
        prediction: (I, J, K) in RAS order.
        reference: The same shape and units.
        mask: The same shape, values above 0 are inside; None is the whole volume.
        spacing_mm: Distance between voxels along the three axes.
        values: From `medp2p.metrics.measure`. If ``mae_hu`` is among them the images are CT
            in HU; else the faults of tissues are not looked for.
        curves: From the same; ``power_ratio_by_frequency_per_mm`` tells which detail blur has cost.
        source: The image that was translated; looked at if it has the same shape.

    Returns:
        What lies above its threshold. Nothing if fewer than `MINIMUM_VOXELS` are compared.
    """
    found = [
        finding
        for finding in measure_faults(prediction, reference, mask, spacing_mm, values, source)
        if finding.value >= finding.threshold
    ]
    return tuple(
        replace(f, text=f.text + _lost_detail(curves)) if f.kind == "blurred" else f
        for f in _without_consequences(found)
    )


def measure_faults(
    prediction: Array,
    reference: Array,
    mask: Array | None,
    spacing_mm: Sequence[float] | NDArray[np.float64],
    values: Values,
    source: Array | None = None,
) -> list[Finding]:
    """Measure what every detector looks at, below its threshold or above.

    Arguments as for `find_faults`.
    """
    case = _cut_to_body(prediction, reference, mask, spacing_mm, values, source)
    if case is None:
        return []
    measured = [finding for detector in BEFORE_CROPPING for finding in detector(case)]
    moved_back, shift = _without_shift(case)
    kept, lost = _without_lost_slices(moved_back)
    measured += [*shift, *lost]
    return measured + [finding for detector in DETECTORS for finding in detector(kept)]


def constant(case: Case) -> list[Finding]:
    """The prediction has one value inside."""
    low, high = float(case.predicted.min()), float(case.predicted.max())
    text = (
        f"the prediction is the constant {case.amount(low)} inside the mask; check that the model "
        "was applied and that the right file was given"
    )
    return [Finding("constant", text, float(low == high), 1.0)]


COPY_CORRELATION = 0.999
"""From this correlation on two images are one, up to a linear change of units."""


def copied(case: Case) -> list[Finding]:
    """The prediction is the source or the reference."""
    found = []
    same = float(np.array_equal(case.predicted, case.true))
    text = (
        "the prediction equals the reference in every voxel inside the mask; check that the "
        "reference was not given twice"
    )
    found.append(Finding("copy_of_reference", text, same, 1.0))
    if case.source is not None and not same:
        alike = abs(_correlation(case.predicted, case.source[case.inside]))
        text = (
            f"the prediction is the source (correlation {alike:.4f} inside the mask); check that "
            "the model was applied and that the right file was given"
        )
        found.append(Finding("copy_of_source", text, alike, COPY_CORRELATION))
    return found


UNRELATED_CORRELATION = 0.35
"""With less correlation than this a prediction shows something else than the reference."""


def unrelated(case: Case) -> list[Finding]:
    """The prediction does not resemble the reference."""
    alike = _correlation(case.predicted, case.true)
    what = "is inverted against" if alike < -UNRELATED_CORRELATION else "hardly resembles"
    text = (
        f"the prediction {what} the reference: their correlation is {alike:.2f} inside the mask; "
        "check that both are of one patient and in one position"
    )
    return [Finding("unrelated", text, 1 - alike, 1 - UNRELATED_CORRELATION)]


MIRRORED_GAIN = 0.02
"""By so much the prediction's correlation with the reference rises when it is turned over."""


def mirrored(case: Case) -> list[Finding]:
    """The prediction resembles the reference more after it is turned over.

    It is turned about the middle of the image, and about the middle of the body.
    """
    step = _stride(case.true.size)
    index, true = np.argwhere(case.inside)[::step], case.true[::step]
    alike = _correlation(case.predicted[::step], true)
    found = []
    for axis in range(3):
        if case.inside.shape[axis] < 3:
            continue
        middles = {
            case.whole.shape[axis] - 1 - 2 * case.origin[axis],
            int(index[:, axis].min() + index[:, axis].max()),
        }
        turned = max(_correlation(_turned(case, index, axis, m), true) for m in middles)
        text = (
            f"the prediction is mirrored {MIRRORED_WORDS[axis]}: its correlation with the "
            f"reference is {alike:.2f}, and {turned:.2f} when it is turned over; check the "
            "orientation in the header and how the prediction was written"
        )
        gain = turned - alike if turned >= UNRELATED_CORRELATION else 0.0
        found.append(Finding("mirrored", text, gain, MIRRORED_GAIN))
    return [max(found, key=lambda finding: finding.value)] if found else []


def _turned(case: Case, index: NDArray[np.int64], axis: int, both_ends: int) -> Image:
    """The prediction in the voxels' twins; ``both_ends`` is the sum of the indices of a pair."""
    twin = index + case.origin
    twin[:, axis] = both_ends - index[:, axis] + case.origin[axis]
    twin[:, axis] = twin[:, axis].clip(0, case.whole.shape[axis] - 1)
    return _finite(case.whole[tuple(twin.T)])


WRONG_SCALE = 1.6
"""The prediction's values spread so many times wider or narrower than the reference's."""
WRONG_OFFSET_SHARE = 0.06
"""Share of the reference's range by which all values are too high or too low."""


def wrong_units(case: Case) -> list[Finding]:
    """The values follow the reference's by another scale or zero.

    The line between both images' percentiles does not depend on where the values lie.
    """
    step = _stride(case.true.size)
    share = np.arange(2, 99, 4)
    true = np.percentile(case.true[::step], share)
    predicted = np.percentile(case.predicted[::step], share)
    if np.ptp(true) == 0 or np.ptp(predicted) == 0:
        return []
    slope = float(np.std(predicted) / np.std(true))
    intercept = float(predicted.mean() - slope * true.mean())
    text = (
        f"the prediction's values are about {slope:.3g} times the reference's plus "
        f"{intercept:.3g}; check the units and the rescaling when it was written"
    )
    found = [Finding("wrong_scale", text, max(slope, 1 / slope), WRONG_SCALE)]
    offset = float(np.median(predicted - true))
    low, high = np.percentile(predicted - true, (10, 90))
    common = min(abs(low), abs(high)) if low * high > 0 else 0.0
    text = (
        f"all values are {case.amount(abs(offset))} too {'high' if offset > 0 else 'low'}; check "
        "the rescale intercept with which the prediction was written"
    )
    found.append(Finding("offset", text, common / case.span, WRONG_OFFSET_SHARE))
    return found


FLAT_SHARE = 0.01
"""A slice whose middle 98 % of values lie within this share of the range shows nothing."""
LOST_MM = 5.0
"""So much of the body's extent must be lost."""
LOST_SLICES = 2
"""And so many slices of it."""
LOST_VOXELS = 100
"""And so many voxels of the mask in them."""


def _without_lost_slices(case: Case) -> tuple[Case, list[Finding]]:
    """Look for an end of the body where the prediction shows nothing, and leave it out."""
    lost: list[Finding] = []
    inside = case.inside
    for axis, end in itertools.product(range(3), (0, 1)):
        finding, kept = _lost_end(case, inside, axis, end)
        lost += finding
        inside = kept
    return (replace(case, inside=inside) if inside is not case.inside else case), lost


def _lost_end(case: Case, inside: Mask, axis: int, end: int) -> tuple[list[Finding], Mask]:
    slices = np.flatnonzero(inside.any(axis=_others(axis)))
    if slices.size <= LOST_SLICES:
        return [], inside
    from_end = slices[::-1] if end else slices
    count = 0
    for number in from_end:
        if not _shows_nothing(case, inside, axis, int(number)):
            break
        count += 1
    if count == slices.size:
        return [], inside
    extent = count * case.spacing_mm[axis]
    first = np.array(inside.shape) / 2
    first[axis] = from_end[max(count - 1, 0)]
    text = (
        f"the prediction is cropped at the {SIDES[axis][end]}: its outermost {count} "
        f"{PLANES[axis]} slices ({extent:.0f} mm) show nothing where the reference shows the body; "
        "check the extent of the source and that every slice was translated"
    )
    lost = inside[_slab(axis, from_end[:count])]
    enough = count >= LOST_SLICES and np.count_nonzero(lost) >= LOST_VOXELS
    value = extent if enough else 0.0
    finding = Finding("cropped", text, value, LOST_MM, case.place(first))
    if value < LOST_MM:
        return [finding], inside
    kept = inside.copy()
    kept[_slab(axis, from_end[:count])] = False
    return [finding], kept


def _shows_nothing(case: Case, inside: Mask, axis: int, number: int) -> bool:
    """Whether a slice of the prediction is flat inside the body where the reference is not."""
    here = inside[_slab(axis, number)]
    if np.count_nonzero(here) < 10:
        return True
    plane = _slab(axis, number)
    low, high = np.percentile(case.prediction[plane][here], (1, 99))
    if high - low > FLAT_SHARE * min(case.span, case.predicted_span):
        return False
    true = case.reference[plane][here]
    return bool(np.abs(true - (low + high) / 2).mean() > 3 * FLAT_SHARE * case.span)


SHIFTED_VOXELS = 0.5
"""Displacement in voxels along the axis where it is largest."""
SHIFTED_GAIN = 0.04
"""Share of the squared error that moving the prediction back must take away."""
CLIPPED_SHARE = 0.25
"""Larger errors than this share of the range count as this large."""


def _without_shift(case: Case) -> tuple[Case, list[Finding]]:
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
        f"the prediction is displaced by {_directions(offset * case.spacing_mm, offset)}; check "
        "how it was resampled and written, or score again with a rigid alignment"
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
        self.index = index[:: _stride(index.size)]
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
        return _correlation(self.prediction[self.index + moved], self.true)

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


BONE_HU = 400.0
"""Bone of the reference where the prediction has, nearby, nothing above `NO_BONE_HU`."""
ADDED_BONE_HU = 600.0
"""The same for bone of the prediction where the reference has none."""
NO_BONE_HU = 150.0
NEARBY_MM = 3.0
"""Bone that is at most so far off, and at least one voxel, is not missing."""
MISSING_BONE_CM3 = 0.3
"""Volume of one connected region of missing bone."""
ADDED_BONE_CM3 = 1.2
"""Volume of one connected region of added bone."""
CAVITY_HU = -200.0
"""Air inside the body is below this in the reference."""
CAVITY_MM = 6.0
"""Nearer than this to air inside the body no single place is judged: MR shows neither air nor
compact bone, and mistakes between them are the rule there. They count in all metrics."""


def bone_holes(case: Case) -> list[Finding]:
    """Bone is missing from the prediction in one connected region, or there is too much."""
    if not case.hu:
        return []
    reference, prediction = case.reference, case.prediction
    missing = _largest_lack(case, reference > BONE_HU, prediction > NO_BONE_HU)
    added = _largest_lack(case, prediction > ADDED_BONE_HU, reference > NO_BONE_HU)
    found = []
    for kind, (cm3, place), what, threshold in (
        ("missing_bone", missing, "lacks bone that the reference has", MISSING_BONE_CM3),
        ("added_bone", added, "has bone that the reference has not", ADDED_BONE_CM3),
    ):
        text = (
            f"the prediction {what}: {cm3:.1f} cm³ in one piece around voxel {place}; look there "
            "in the bone window"
        )
        found.append(Finding(kind, text, cm3, threshold, place))
    return found


def _largest_lack(case: Case, wanted: Mask, present: Mask) -> tuple[float, Place]:
    """Volume and middle of the largest region that is wanted and not present nearby."""
    lacking = wanted & ~_grown(present, NEARBY_MM, case.spacing_mm) & case.away_from_cavities
    parts, count = ndimage.label(lacking)
    if not count:
        return 0.0, case.place((0, 0, 0))
    largest = int(np.bincount(parts.ravel())[1:].argmax()) + 1
    index = np.argwhere(parts == largest)
    middle = index[np.square((index - index.mean(axis=0)) * case.spacing_mm).sum(axis=1).argmin()]
    return len(index) * math.prod(case.spacing_mm) / 1000, case.place(middle)


LOCAL_MM = 20.0
"""Edge length of the cube over which the error is averaged."""
LOCAL_ERROR_SHARE = 0.18
"""Share of the reference's range."""
DENSE_HU = 300.0
"""Where the reference is so many times further from water, as much larger errors are usual."""


def local_error(case: Case) -> list[Finding]:
    """The error is large all over one place, more than the rest would lead to expect."""
    sizes = zip(case.inside.shape, case.spacing_mm, strict=True)
    size = [max(1, min(n, round(LOCAL_MM / spacing))) for n, spacing in sizes]
    judged = case.away_from_cavities
    counted = ndimage.uniform_filter(judged.astype(np.float32), size, mode="constant")
    total = ndimage.uniform_filter(judged * _weighed_error(case), size, mode="constant")
    known = counted > 0.5
    if not known.any():
        return []
    mean = np.where(known, total / np.maximum(counted, 0.5), 0)
    if not mean.any():
        return []
    place = np.unravel_index(np.abs(mean).argmax(), mean.shape)
    box = tuple(slice(max(0, p - n // 2), p + n // 2 + 1) for p, n in zip(place, size, strict=True))
    error = float((case.prediction - case.reference)[box][judged[box]].mean())
    voxel = case.place([int(n) for n in place])
    text = (
        f"around voxel {voxel} the prediction is {case.amount(abs(error))} too "
        f"{'high' if error > 0 else 'low'} on average over a cube of {LOCAL_MM:g} mm; look there "
        "for something that was invented or left out"
    )
    worst = abs(float(mean[place]))
    return [Finding("local_error", text, worst / case.span, LOCAL_ERROR_SHARE, voxel)]


def _weighed_error(case: Case) -> Image:
    """The error, in HU smaller in dense bone and air, whose CT numbers no MR tells exactly."""
    if not case.hu:
        return case.error
    usual = np.maximum(np.float32(1), np.abs(case.reference) / np.float32(DENSE_HU))
    return np.asarray(case.error / usual, np.float32)


FLAT_VALUE_SHARE = 0.03
"""Share of the voxels inside that have one and the same value."""
FLAT_VALUE_SPREAD = 0.1
"""The reference there spreads over at least this share of its range."""


def flat_value(case: Case) -> list[Finding]:
    """Many voxels have exactly one value where the reference varies: cut off, or filled in."""
    step = _stride(case.true.size)
    predicted, true = case.predicted[::step], case.true[::step]
    values, counts = np.unique(predicted, return_counts=True)
    value, count = float(values[counts.argmax()]), int(counts.max())
    low, high = np.percentile(true[predicted == value], (10, 90))
    if high - low < FLAT_VALUE_SPREAD * case.span or count == predicted.size:
        return []
    share = count / predicted.size
    at_end = value in (float(values[0]), float(values[-1]))
    what = f"cut off {'above' if value == values[-1] else 'below'}" if at_end else "filled with"
    text = (
        f"the prediction is {what} {case.amount(value)} in {share:.1%} of the mask, where the "
        f"reference goes from {case.amount(low)} to {case.amount(high)}; check the model's range "
        "of values and the clipping when it was written"
    )
    kind = "cut_off" if at_end else "filled"
    return [Finding(kind, text, share, FLAT_VALUE_SHARE)]


BIAS_HU: Mapping[str, float] = {"air": 280.0, "soft": 25.0, "bone": 250.0}
"""Median error over a tissue of the reference, from which on the tissue is biased."""
STEP_HU: Mapping[str, float] = {"air": 110.0, "bone": 32.0}
"""Step of the error at the value where a tissue begins."""
STEP_WINDOW_HU = 120.0
"""The step is the gap between straight lines through the errors on both sides, as wide as this."""
STEP_SAMPLES = 300_000
"""About as many voxels are looked at."""
STEP_VOXELS = 400
"""Voxels on each side without which no step is looked for."""
TISSUE_BORDERS_HU = {"air": (-200.0, -1), "bone": (250.0, 1)}
"""Where a tissue ends towards soft tissue, and on which side of it the tissue is."""


def biased_tissues(case: Case) -> list[Finding]:
    """A whole tissue is too high or too low.

    Two signs are looked for. The median error over the tissue may be larger than subjects differ.
    And the error may step up at the tissue's border, as it does if one class of tissue was
    changed: what differs between subjects grows smoothly from one CT number to the next, so a
    much smaller step can be told from it. The error is looked at against the reference's CT
    number and against the predicted one, since either may decide what was changed.
    """
    if not case.hu:
        return []
    error = case.predicted - case.true
    medians = [_median_finding(case, error, tissue) for tissue in BIAS_HU]
    found = [finding for finding in medians if finding]
    known = {finding.kind for finding in found if finding.value >= finding.threshold}
    for tissue in TISSUE_BORDERS_HU:
        if not known & {"biased_soft", f"biased_{tissue}"}:
            found.append(_step_finding(case, error, tissue))
    return found


def _median_finding(case: Case, error: Image, tissue: str) -> Finding | None:
    here = error[in_tissue(case.true, TISSUES_HU[tissue])]
    if here.size < MINIMUM_VOXELS:
        return None
    bias = float(np.median(here))
    text = _bias_text(tissue, bias, "its median error inside the mask")
    return Finding(f"biased_{tissue}", text, abs(bias), BIAS_HU[tissue])


def _step_finding(case: Case, error: Image, tissue: str) -> Finding:
    border, side = TISSUE_BORDERS_HU[tissue]
    every = max(1, error.size // STEP_SAMPLES)
    steps = [
        side * _sudden_step(values[::every], error[::every], border)
        for values in (case.true, case.predicted)
    ]
    step = max(steps, key=abs)
    text = _bias_text(tissue, step, f"the step of the error at {border:g} HU, where it begins")
    return Finding(f"biased_{tissue}", text, abs(step), STEP_HU[tissue])


def _sudden_step(values: Image, error: Image, border: float) -> float:
    """The step at the border, or 0 if one beside it is as large, or cannot be measured.

    Then the error is no straight line anywhere, and nothing is special about the border.
    """
    below, step, above = (_step(values, error, border + o * STEP_WINDOW_HU) for o in (-2, 0, 2))
    stands_out = abs(step) > abs(below) and abs(step) > abs(above)
    return step if stands_out else 0.0


def _bias_text(tissue: str, hu: float, what: str) -> str:
    direction = "high" if hu > 0 else "low"
    return (
        f"{tissue} is {abs(hu):.0f} HU too {direction} ({what}); check the CT numbers that the "
        f"method gives to {tissue}"
    )


def _step(values: Image, error: Image, border: float) -> float:
    """Gap at the border between lines through the errors below and above; NaN of few voxels.

    If values next to the border are missing, because a class was moved away from it, the line
    begins with the first ones that are there.
    """
    ends = []
    for side in (-1, 1):
        away = side * (values - border)
        near = away[(away >= 0) & (away < 3 * STEP_WINDOW_HU)]
        first = float(np.quantile(near, 0.002)) if near.size else 0.0
        here = (away >= first) & (away < first + STEP_WINDOW_HU)
        if first > STEP_WINDOW_HU or np.count_nonzero(here) < STEP_VOXELS:
            return math.nan
        ends.append(_line_at(border, values[here], error[here]))
    return ends[1] - ends[0]


def _line_at(place: float, x: Array, y: Array) -> float:
    """Height at a place of the straight line through points, the outermost 2 % of y clipped."""
    along = x.astype(np.float64) - place
    height = np.clip(y, *np.percentile(y, (2, 98))).astype(np.float64)
    apart = along - along.mean()
    square = float(apart @ apart)
    slope = float(apart @ height) / square if square else 0.0
    return float(height.mean() - slope * along.mean())


FLICKER_SHARE = 0.0028
"""Spread of the slices' own offsets, as a share of the reference's range (7 HU of 2500)."""
FLICKER_SLICES = 6
"""Fewer slices are not judged."""


def flicker(case: Case) -> list[Finding]:
    """Slices have offsets of their own.

    The median error of every slice is compared with the mean of its two neighbours'. Of offsets
    with standard deviation s, independent from slice to slice, the differences have a standard
    deviation of s·√1.5, which is estimated by their median, 1.4826 times.
    """
    error = np.where(case.inside, case.prediction - case.reference, np.float32(np.nan))
    spreads = []
    for axis in range(3):
        enough = np.count_nonzero(case.inside, axis=_others(axis)) >= MINIMUM_VOXELS
        medians = np.full(enough.size, np.nan)
        for number in np.flatnonzero(enough):
            here = case.inside.take(number, axis)
            medians[number] = np.median(error.take(number, axis)[here])
        own = medians[1:-1] - (medians[:-2] + medians[2:]) / 2
        own = own[~np.isnan(own)]
        spread = 1.4826 * float(np.median(np.abs(own))) / math.sqrt(1.5) if own.size else 0.0
        spreads.append(spread if own.size >= FLICKER_SLICES else 0.0)
    axis = int(np.argmax(spreads))
    text = (
        f"the prediction flickers from one {PLANES[axis]} slice to the next: their offsets spread "
        f"by {case.amount(spreads[axis])}; scroll through another plane, and look at slicewise "
        "normalization"
    )
    return [Finding(f"flicker_{PLANES[axis]}", text, spreads[axis] / case.span, FLICKER_SHARE)]


BLURRED_WIDTH = 1.22
"""How many times wider the prediction's edges are than the reference's."""
EDGE_QUANTILE = 0.95
"""Edges are the voxels with a gradient above this quantile of each image's own."""


def blurred(case: Case) -> list[Finding]:
    """Edges are wider than the reference's.

    The width of an edge is the range of values among five neighbours in each direction over the
    gradient, at each image's own steepest edges, in the plane of the two finest axes.
    """
    axes = tuple(np.argsort(case.spacing_mm, kind="stable")[:2])
    if min(case.inside.shape[a] for a in axes) < 2 * REACH:
        return []
    widths = [_edge_width(image, case.inside, axes) for image in (case.prediction, case.reference)]
    ratio = widths[0] / widths[1]
    if math.isnan(ratio):
        return []
    text = (
        f"the prediction is blurred: its edges are {ratio:.2f} times as wide as the reference's; "
        "check its resampling, and mistrust a low mean error"
    )
    return [Finding("blurred", text, ratio, BLURRED_WIDTH)]


def _lost_detail(curves: Mapping[str, Curve]) -> str:
    """Say from which size on all finer detail has less than half the reference's power."""
    curve = curves.get("power_ratio_by_frequency_per_mm")
    if curve is None:
        return ""
    kept = [x for x, y in zip(curve.x, curve.y, strict=True) if y >= 0.5]
    lost = [x for x in curve.x if x > max(kept, default=0.0)]
    return f"; detail finer than {1 / (2 * lost[0]):.1f} mm has lost half its power" if lost else ""


def _edge_width(image: Image, inside: Mask, axes: Sequence[int]) -> float:
    """Median of range over gradient at the steepest edges of a sample of voxels."""
    away = np.zeros(inside.shape, bool)
    inner = tuple(
        slice(2, n - 2) if axis in axes else slice(None) for axis, n in enumerate(inside.shape)
    )
    away[inner] = inside[inner]
    index = np.flatnonzero(away)
    index = index[:: _stride(index.size)]
    flat = np.ascontiguousarray(image).ravel()
    first, second = (math.prod(image.shape[axis + 1 :]) for axis in axes)
    slopes = [(flat[index + step] - flat[index - step]) / 2 for step in (first, second)]
    slope = np.hypot(*slopes)
    if not slope.any():
        return math.nan
    steep = slope > min(float(np.quantile(slope, EDGE_QUANTILE)), 0.999 * float(slope.max()))
    low = high = flat[index[steep]]
    for i, j in itertools.product(range(-2, 3), repeat=2):
        values = flat[index[steep] + i * first + j * second]
        low, high = np.minimum(low, values), np.maximum(high, values)
    return float(np.median((high - low) / slope[steep]))


BEFORE_CROPPING: tuple[Detector, ...] = (constant, copied, mirrored, unrelated)
DETECTORS: tuple[Detector, ...] = (
    wrong_units,
    bone_holes,
    flat_value,
    biased_tissues,
    flicker,
    blurred,
    local_error,
)

_TISSUES = ("biased_air", "biased_soft", "biased_bone")
_PLACES = ("missing_bone", "added_bone", "local_error")
_REST = (
    *("filled", "cut_off", "wrong_scale", "offset", "cropped", "shifted", *_PLACES, *_TISSUES),
    *("flicker_sagittal", "flicker_coronal", "flicker_axial", "blurred"),
)
EXPLAINS: Mapping[str, tuple[str, ...]] = {
    "constant": ("copy_of_source", "mirrored", "unrelated", *_REST),
    "copy_of_reference": (),
    "copy_of_source": ("mirrored", "unrelated", *_REST),
    "mirrored": ("unrelated", *_REST),
    "shifted": ("unrelated", *_PLACES, *_TISSUES),
    "unrelated": _REST,
    "cut_off": ("wrong_scale", "offset", *_PLACES, *_TISSUES),
    "wrong_scale": ("offset", "filled", "cropped", *_PLACES, *_TISSUES),
    "offset": (*_PLACES, *_TISSUES),
    "cropped": (),
    "filled": (*_PLACES, *_TISSUES),
    "missing_bone": ("local_error", "biased_bone"),
    "added_bone": ("local_error", "biased_bone"),
    "blurred": (*_PLACES[1:], "biased_air", "biased_bone"),
    "biased_soft": ("local_error",),
    "biased_bone": (),
    "biased_air": (),
    "flicker_axial": (),
    "flicker_coronal": (),
    "flicker_sagittal": (),
    "local_error": (),
}
"""Every kind, the gravest first, and which others may follow from it."""


def _without_consequences(found: Sequence[Finding]) -> tuple[Finding, ...]:
    """Order by gravity, keep the strongest of a kind, and fold consequences into their cause."""
    kinds = list(EXPLAINS)
    strongest: dict[str, Finding] = {}
    for finding in sorted(found, key=lambda f: (kinds.index(f.kind), -f.value / f.threshold)):
        strongest.setdefault(_group(finding), finding)
    explained: dict[str, list[str]] = {}
    kept: list[Finding] = []
    for finding in strongest.values():
        cause = next((f for f in kept if finding.kind in EXPLAINS[f.kind]), None)
        if cause is None:
            kept.append(finding)
        else:
            explained.setdefault(_group(cause), []).append(finding.kind.replace("_", " "))
    return tuple(
        replace(f, text=f"{f.text} (may also be behind: {', '.join(explained[_group(f)])})")
        if _group(f) in explained
        else f
        for f in kept
    )


def _group(finding: Finding) -> str:
    """Findings of one group are one fault; only cropping happens in several places."""
    return finding.text if finding.kind == "cropped" else finding.kind


def _cut_to_body(
    prediction: Array,
    reference: Array,
    mask: Array | None,
    spacing_mm: Sequence[float] | NDArray[np.float64],
    values: Values,
    source: Array | None,
) -> Case | None:
    inside = np.ones(reference.shape, bool) if mask is None else np.asarray(mask) > 0
    if np.count_nonzero(inside) < MINIMUM_VOXELS:
        return None
    box = []
    for axis in range(3):
        slices = np.flatnonzero(inside.any(axis=_others(axis)))
        low, high = int(slices[0]) - REACH, int(slices[-1]) + REACH + 1
        box.append(slice(max(low, 0), min(high, inside.shape[axis])))
    cut = tuple(box)
    x, y, z = (float(s) for s in spacing_mm)
    known = source if source is not None and source.shape == reference.shape else None
    return Case(
        prediction=_finite(prediction[cut]),
        reference=_finite(reference[cut]),
        inside=np.ascontiguousarray(inside[cut]),
        spacing_mm=(x, y, z),
        origin=(box[0].start, box[1].start, box[2].start),
        hu="mae_hu" in values,
        source=None if known is None else known[cut],
        whole=prediction,
    )


def _finite(image: Array) -> Image:
    """As float32, 0 for what is not finite."""
    floats = np.ascontiguousarray(image, np.float32)
    return np.where(np.isfinite(floats), floats, np.float32(0))


def _grown(region: Mask, mm: float, spacing_mm: Vector) -> Mask:
    """The region and what is nearer to it than so many mm, at least a voxel, along the axes."""
    grown = region.view(np.uint8)
    for axis, spacing in enumerate(spacing_mm):
        grown = ndimage.maximum_filter1d(grown, 2 * max(1, round(mm / spacing)) + 1, axis)
    return grown.view(np.bool_)


def _range(values: Array) -> float:
    low, high = np.percentile(values[:: _stride(values.size)], (1, 99))
    return float(high - low)


def _stride(size: int) -> int:
    """Step that leaves about `SAMPLES` of so many voxels."""
    return max(1, size // SAMPLES)


def _others(axis: int) -> tuple[int, int]:
    first, second = (a for a in range(3) if a != axis)
    return first, second


def _slab(axis: int, numbers: int | Array) -> tuple[Any, ...]:
    index: list[Any] = [slice(None)] * 3
    index[axis] = numbers
    return tuple(index)


def _with(place: Place, axis: int, value: int) -> Place:
    changed = list(place)
    changed[axis] = value
    return changed[0], changed[1], changed[2]


def _correlation(first: Array, second: Array) -> float:
    step = _stride(first.size)
    x, y = (np.asarray(image[::step], np.float64) for image in (first, second))
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale else 0.0


def _directions(mm: NDArray[np.float64], voxels: NDArray[np.float64]) -> str:
    parts = [
        f"{abs(mm[axis]):.1f} mm ({abs(voxels[axis]):.1f} voxels) to the "
        f"{SIDES[axis][int(voxels[axis] > 0)]}"
        for axis in range(3)
        if abs(voxels[axis]) >= 0.25
    ]
    return ", ".join(parts) or f"{np.linalg.norm(mm):.1f} mm"
