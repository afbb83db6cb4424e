"""How far a predicted image is from its reference: arrays in, numbers out.

A number means little without its definition, so every metric is computed under a named
`Profile`: the two SynthRAD challenges' definitions for CT (`PROFILES`), or a stated range of
values for any other image (`range_profile`). ``docs/metrics.md`` has the definitions in full.

Two plain dicts hold the metrics: `VOXEL_METRICS` look at the voxels inside the mask one by
one, `STRUCTURE_METRICS` at their neighbourhoods. Training's validation and the evaluation of
finished images share them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medp2p.errors import ConfigError, EvaluationError

Array = NDArray[Any]
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
Box = tuple[slice, ...]

HU_RANGE_SYNTHRAD2023 = (-1024.0, 3000.0)
HU_RANGE_SYNTHRAD2025 = (-1024.0, 3071.0)

TISSUES_HU: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"air": (-math.inf, -200.0), "soft": (-200.0, 250.0), "bone": (250.0, math.inf)}
)
"""Tissue classes by the reference's CT number in HU; -200 and 250 themselves are soft."""

WINDOW = 7
"""Edge length in voxels of the cubic SSIM window."""
MARGIN = WINDOW // 2
"""Voxels dropped from every face, where the window would leave the volume."""
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the five scales, finest first (Wang, Simoncelli and Bovik 2003, section 3.2)."""
MS_SSIM_MINIMUM_SIZE = 97
"""Voxels per axis that leave one full window at the fifth scale; shorter axes are padded."""

_BLOCK = (16, 32, 256)
"""Voxels of a volume handled at a time: small enough for the processor's cache."""
_PIECE = 65536
"""Values of a flat array handled at a time."""


@dataclass(frozen=True)
class Profile:
    """A named definition of the metrics.

    Attributes:
        name: Written beside every value.
        value_range: Lowest and highest value, in ``units``. PSNR and the structure metric
            clip to it, and its width is their data range. MAE and bias don't clip.
        structure: Which structure metric belongs to the profile.
        units: ``"HU"`` for CT numbers, which also brings the tissue classes; ``"grey levels"``
            for 8-bit pictures; else None.

    Raises:
        ValueError: If the range does not rise or is not finite.
    """

    name: str
    value_range: tuple[float, float]
    structure: Literal["ssim", "ms_ssim", "ssim_2d"]
    units: str | None = None

    def __post_init__(self) -> None:
        low, high = self.value_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"a range of values must be finite and rise, got {low:g}, {high:g}")

    @property
    def span(self) -> float:
        """Width of the range, the Q of PSNR and SSIM."""
        return self.value_range[1] - self.value_range[0]

    @property
    def mae_key(self) -> str:
        """Name of the mean absolute error among the values: ``"mae_hu"``, or ``"mae"``."""
        return "mae" + self._unit_suffix

    @property
    def bias_key(self) -> str:
        """Name of the mean error among the values: ``"bias_hu"``, or ``"bias"``."""
        return "bias" + self._unit_suffix

    @property
    def structure_key(self) -> str:
        """Name of the structure metric among the values, such as ``"ssim_synthrad2023"``."""
        return f"{self.structure}_{self.name}"

    @property
    def description(self) -> str:
        """Profile, range and structure metric in one line."""
        low, high = self.value_range
        units = f" {self.units}" if self.units else ""
        return f"profile {self.name}: range [{low:g}, {high:g}]{units}, {self.structure_key}"

    @property
    def _unit_suffix(self) -> str:
        return "_hu" if self.units == "HU" else ""


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "synthrad2023": Profile("synthrad2023", HU_RANGE_SYNTHRAD2023, "ssim", "HU"),
        "synthrad2025": Profile("synthrad2025", HU_RANGE_SYNTHRAD2025, "ms_ssim", "HU"),
    }
)
"""The challenges' definitions; ranges as in the code that made their leaderboards."""

PICTURE_PROFILE = Profile("8-bit", (0.0, 255.0), "ssim_2d", "grey levels")
"""For grey 8-bit pictures of one slice."""


def range_profile(low: float, high: float) -> Profile:
    """Return a profile for images whose values are not CT numbers.

    MAE, bias, PSNR and SSIM are those of ``synthrad2023`` with the stated range; there are
    no tissue classes. Its name is ``"range"``.

    Args:
        low: Lowest value of the range, for example 0.
        high: Highest value; the same for all images that are compared with each other.

    Raises:
        ValueError: If the range does not rise or is not finite.
    """
    return Profile("range", (float(low), float(high)), "ssim")


def choose_profile(name: str | None, value_range: tuple[float, float] | None = None) -> Profile:
    """Return the profile that a user asked for.

    Args:
        name: A key of `PROFILES`, ``"8-bit"``, ``"range"``, or None: ``"range"`` if a range is
            given, else ``"synthrad2025"``.
        value_range: Lowest and highest value; for the profile ``"range"`` only.

    Raises:
        ConfigError: If there is no such profile, or the range is missing, superfluous or
            does not rise.
    """
    name = name or ("range" if value_range else "synthrad2025")
    if name == "range":
        if value_range is None:
            raise ConfigError("the profile range needs --range LOW HIGH, such as --range 0 1000")
        low, high = value_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"--range must be finite and rise, got {low:g} {high:g}")
        return range_profile(low, high)
    profiles = {**PROFILES, PICTURE_PROFILE.name: PICTURE_PROFILE}
    if name not in profiles:
        known = ", ".join([*PROFILES, "range", PICTURE_PROFILE.name])
        raise ConfigError(f"no profile {name!r}; the profiles are {known}")
    if value_range:
        raise ConfigError(f"the profile {name} has its own range; leave out --range or --profile")
    return profiles[name]


def compute_metrics(
    prediction: Array, reference: Array, mask: Array | None, profile: Profile
) -> dict[str, float]:
    """Compute all metrics of a profile.

    Args:
        prediction: Three axes, in the profile's units.
        reference: The same shape and units.
        mask: The same shape, values above 0 are inside; None is the whole volume.
        profile: The definition to use.

    Returns:
        The values of `voxel_metrics` followed by the structure metric under the key
        `Profile.structure_key`.

    Raises:
        EvaluationError: If shapes differ, the mask is empty, a value inside it is NaN or
            infinite, or the structure metric runs out of mask.
    """
    values = voxel_metrics(prediction, reference, mask, profile)
    structure = STRUCTURE_METRICS[profile.structure]
    values[profile.structure_key] = structure(prediction, reference, mask, profile.value_range)
    return values


def metric_names(profile: Profile) -> list[str]:
    """Return the names of a profile's metrics, without the counts of voxels."""
    names = [profile.mae_key, profile.bias_key, "psnr_db"]
    if profile.units == "HU":
        names += [f"{kind}_{tissue}_hu" for tissue in TISSUES_HU for kind in ("mae", "bias")]
    return [*names, profile.structure_key]


def available_metrics(
    prediction: Array, reference: Array, mask: Array | None, profile: Profile
) -> tuple[dict[str, float], str | None]:
    """Compute all metrics of a profile that have a value; as `compute_metrics` otherwise.

    Returns:
        The values, with NaN for a structure metric that runs out of mask, and why it did, or
        None.

    Raises:
        EvaluationError: If `voxel_metrics` raises it.
    """
    values = voxel_metrics(prediction, reference, mask, profile)
    structure = STRUCTURE_METRICS[profile.structure]
    try:
        values[profile.structure_key] = structure(prediction, reference, mask, profile.value_range)
    except EvaluationError as error:
        values[profile.structure_key] = math.nan
        return values, str(error)
    return values, None


def voxel_metrics(
    prediction: Array, reference: Array, mask: Array | None, profile: Profile
) -> dict[str, float]:
    """Compute the metrics that compare voxel by voxel.

    Args:
        prediction: Any shape, in the profile's units.
        reference: The same shape and units.
        mask: The same shape, values above 0 are inside; None is the whole volume.
        profile: The definition to use.

    Returns:
        ``mae_hu``, ``bias_hu``, ``psnr_db`` and ``voxels``, their number; then for each of
        `TISSUES_HU`, such as air, ``mae_air_hu``, ``bias_air_hu`` and ``voxels_air``. A
        class that the reference does not hold inside the mask has NaN and a count of 0.
        Without units the names are ``mae``, ``bias``, ``psnr_db``, ``voxels``.

    Raises:
        EvaluationError: If shapes differ, the mask is empty or a value inside it is NaN or
            infinite.
    """
    predicted, true = _values_inside(prediction, reference, mask)
    values = {
        key + (profile._unit_suffix if key != "psnr_db" else ""): metric(
            predicted, true, profile.value_range
        )
        for key, metric in VOXEL_METRICS.items()
    }
    values["voxels"] = true.size
    if profile.units == "HU":
        values |= _tissue_metrics(predicted, true)
    return values


def masked_mae(prediction: Array, reference: Array, mask: Array | None = None) -> float:
    """Mean absolute error over the voxels inside the mask, without clipping.

    Args:
        prediction: Any shape.
        reference: The same shape and units.
        mask: The same shape, values above 0 are inside; None is everything.

    Returns:
        The error in the images' units.

    Raises:
        EvaluationError: As for `voxel_metrics`.
    """
    predicted, true = _values_inside(prediction, reference, mask)
    return _mean(lambda p, t: np.abs(p - t), predicted, true)


def masked_bias(prediction: Array, reference: Array, mask: Array | None = None) -> float:
    """Mean error, prediction minus reference, over the voxels inside the mask.

    Arguments, units and errors are those of `masked_mae`.
    """
    predicted, true = _values_inside(prediction, reference, mask)
    return _mean(lambda p, t: p - t, predicted, true)


def psnr(
    prediction: Array,
    reference: Array,
    mask: Array | None = None,
    value_range: tuple[float, float] = HU_RANGE_SYNTHRAD2025,
) -> float:
    """Peak signal-to-noise ratio over the voxels inside the mask.

    10·log10(Q² / MSE) where Q is the width of the range and both images are clipped to it.

    Args:
        prediction: Any shape.
        reference: The same shape and units.
        mask: The same shape, values above 0 are inside; None is everything.
        value_range: Lowest and highest value.

    Returns:
        Decibels; infinite if nothing differs after clipping.

    Raises:
        EvaluationError: As for `voxel_metrics`.
    """
    predicted, true = _values_inside(prediction, reference, mask)
    low, high = value_range
    mean_square = _mean(
        lambda p, t: np.square(np.clip(p, low, high) - np.clip(t, low, high)), predicted, true
    )
    return 10 * math.log10((high - low) ** 2 / mean_square) if mean_square else math.inf


def ssim(
    prediction: Array,
    reference: Array,
    mask: Array | None = None,
    value_range: tuple[float, float] = HU_RANGE_SYNTHRAD2023,
) -> float:
    """Structural similarity on the whole 3-D volume, as SynthRAD2023 defines it.

    Both images are clipped to the range and set to its lower end outside the mask; local
    statistics are those of a uniform 7×7×7 window with the sample covariance; the map is
    averaged over the mask without the outermost three voxels of the volume.
    The index is that of Wang et al., IEEE Trans. Image Process. 13 (2004), eq. 13, K1 = 0.01
    and K2 = 0.03. SSIM of 2-D slices or with a Gaussian window are other numbers.

    Args:
        prediction: Three axes of at least seven voxels.
        reference: The same shape and units.
        mask: The same shape, values above 0 are inside; None is the whole volume.
        value_range: Lowest and highest value; the width is the data range.

    Returns:
        At most 1, for equal images.

    Raises:
        EvaluationError: As for `voxel_metrics`, or if no voxel of the mask is at least three
            voxels from the faces of the volume.
    """
    pair = _prepared_pair(prediction, reference, mask, value_range)
    similarity = _mean_similarity(pair, exponent=None)
    if similarity is None:
        raise EvaluationError(
            f"SSIM has no value: no voxel of the mask lies {MARGIN} voxels or more from every face "
            f"of the volume of {_sizes(pair.reference.shape)} voxels; give a larger image or mask"
        )
    return similarity


def ms_ssim(
    prediction: Array,
    reference: Array,
    mask: Array | None = None,
    value_range: tuple[float, float] = HU_RANGE_SYNTHRAD2025,
) -> float:
    """Multi-scale structural similarity of the 3-D volume, as SynthRAD2025 computes it.

    The product over five scales of the mean, inside the mask, of (L·C·S)^w, where luminance,
    contrast and structure share the scale's weight. Wang, Simoncelli and Bovik (Asilomar 2003,
    eq. 7) weight luminance at the last scale only; the challenge's own code, which made its
    leaderboard, weights it at all five, and so does this function. L·C·S is then the SSIM of
    the scale, clipped below at 0, because C3 = C2/2.

    Axes shorter than 97 voxels are padded with their edge values. From one scale to the next
    images are averaged over 2×2×2 voxels and every second one is kept, and so is every second
    voxel of the mask.

    Arguments are those of `ssim`, with any number of voxels per axis.

    Returns:
        Between 0 and 1.

    Raises:
        EvaluationError: As for `voxel_metrics`, or if no voxel of the mask is left at a scale;
            the message says at which.
    """
    pair = _padded(_prepared_pair(prediction, reference, mask, value_range))
    product = 1.0
    for scale, weight in enumerate(MS_SSIM_WEIGHTS, start=1):
        if scale > 1:
            pair = _halved(pair)
        similarity = _mean_similarity(pair, exponent=weight)
        if similarity is None:
            raise EvaluationError(
                f"MS-SSIM has no value: at scale {scale} of {len(MS_SSIM_WEIGHTS)} "
                f"({_sizes(pair.reference.shape)} voxels) no voxel of the mask is left; the mask "
                "is too small or too near the faces of the volume, use the profile synthrad2023"
            )
        product *= min(max(similarity, 0.0), 1.0)
    return product


def ssim_2d(
    prediction: Array,
    reference: Array,
    mask: Array | None = None,
    value_range: tuple[float, float] = PICTURE_PROFILE.value_range,
) -> float:
    """Structural similarity of a picture, in the plane.

    As `ssim`, with a window of 7×7 pixels; without the outermost three pixels. With no mask this
    is what scikit-image's ``structural_similarity`` gives by default.

    Args:
        prediction: Three axes, one of them of one voxel, the others of at least seven.
        reference: The same shape and units.
        mask: The same shape, values above 0 are inside; None is the whole picture.
        value_range: Lowest and highest value; the width is the data range.

    Returns:
        At most 1, for equal images.

    Raises:
        EvaluationError: As for `voxel_metrics`, or if this is no picture or too small a one.
    """
    from skimage.metrics import structural_similarity

    _values_inside(prediction, reference, mask)
    flat = [axis for axis, size in enumerate(reference.shape) if size == 1]
    if len(flat) != 1 or sorted(reference.shape)[1] < WINDOW:
        raise EvaluationError(
            f"SSIM of a picture has no value: found {_sizes(reference.shape)} voxels, expected one "
            f"slice of at least {WINDOW} pixels each way"
        )
    low, high = value_range
    inside = np.ones(reference.shape, bool) if mask is None else mask > 0
    images = (np.where(inside, np.clip(a, low, high), low) for a in (prediction, reference))
    predicted, true = (np.squeeze(a, flat[0]).astype(np.float64) for a in images)
    _, similarity = structural_similarity(
        predicted, true, data_range=high - low, win_size=WINDOW, full=True
    )
    inner = (slice(MARGIN, -MARGIN),) * 2
    kept = np.squeeze(inside, flat[0])[inner]
    if not kept.any():
        raise EvaluationError(
            f"SSIM of a picture has no value: no pixel of the mask lies {MARGIN} pixels or more "
            "from its border; give a larger mask"
        )
    return float(similarity[inner][kept].mean(dtype=np.float64))


VoxelMetric = Callable[[Array, Array, tuple[float, float]], float]
StructureMetric = Callable[[Array, Array, Array | None, tuple[float, float]], float]

VOXEL_METRICS: Mapping[str, VoxelMetric] = MappingProxyType(
    {
        "mae": lambda prediction, reference, _: masked_mae(prediction, reference),
        "bias": lambda prediction, reference, _: masked_bias(prediction, reference),
        "psnr_db": lambda prediction, reference, value_range: psnr(
            prediction, reference, value_range=value_range
        ),
    }
)
"""Metrics of the values inside the mask: (prediction, reference, range) to a number."""

STRUCTURE_METRICS: Mapping[str, StructureMetric] = MappingProxyType(
    {"ssim": ssim, "ms_ssim": ms_ssim, "ssim_2d": ssim_2d}
)
"""Metrics of volumes: (prediction, reference, mask, range) to a number."""


def _tissue_metrics(predicted: Array, true: Array) -> dict[str, float]:
    values: dict[str, float] = {}
    for tissue, (low, high) in TISSUES_HU.items():
        if tissue == "soft":
            inside = (true >= low) & (true <= high)
        else:
            inside = (true > low) & (true < high)
        count = int(np.count_nonzero(inside))
        pair = predicted[inside], true[inside]
        values[f"mae_{tissue}_hu"] = masked_mae(*pair) if count else math.nan
        values[f"bias_{tissue}_hu"] = masked_bias(*pair) if count else math.nan
        values[f"voxels_{tissue}"] = count
    return values


def _values_inside(prediction: Array, reference: Array, mask: Array | None) -> tuple[Array, Array]:
    """Return the values inside the mask of both images as flat arrays, all of them finite."""
    inside = _checked_mask(prediction, reference, mask)
    order = _slowest_axis_first(reference)
    chosen = ... if mask is None else inside.transpose(order)
    predicted = prediction.transpose(order)[chosen].ravel()
    true = reference.transpose(order)[chosen].ravel()
    _refuse_not_finite("prediction", predicted)
    _refuse_not_finite("reference", true)
    return predicted, true


def _mean(
    compare: Callable[[FloatArray, FloatArray], FloatArray], predicted: Array, true: Array
) -> float:
    """Average ``compare(predicted, true)`` over flat arrays, in float64 and piece by piece."""
    total = 0.0
    for start in range(0, predicted.size, _PIECE):
        piece = slice(start, start + _PIECE)
        total += float(
            compare(predicted[piece].astype(np.float64), true[piece].astype(np.float64)).sum()
        )
    return total / predicted.size


def _checked_mask(prediction: Array, reference: Array, mask: Array | None) -> BoolArray:
    """Return the mask as booleans, after checking that shapes agree and it is not empty."""
    if prediction.shape != reference.shape:
        raise EvaluationError(
            f"the prediction has {_sizes(prediction.shape)} voxels and the reference "
            f"{_sizes(reference.shape)}; compare images on one grid"
        )
    if mask is None:
        if not reference.size:
            raise EvaluationError("the images have no voxels; there is nothing to compare")
        return np.broadcast_to(np.True_, reference.shape)
    if mask.shape != reference.shape:
        raise EvaluationError(
            f"the mask has {_sizes(mask.shape)} voxels and the reference "
            f"{_sizes(reference.shape)}; give a mask on the reference's grid"
        )
    inside: BoolArray = mask > 0
    if not inside.any():
        raise EvaluationError("the mask is empty: no voxel is above 0; give a mask of the body")
    return inside


def _slowest_axis_first(image: Array) -> list[int]:
    """Return the order of axes in which the voxels lie one after the other in memory."""
    return sorted(range(image.ndim), key=lambda axis: -abs(image.strides[axis]))


def _refuse_not_finite(name: str, values: Array) -> None:
    if values.dtype.kind != "f":
        return
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise EvaluationError(
            f"the {name} holds NaN or infinity in {bad} voxels inside the mask; repair the image "
            "or leave these voxels out of the mask"
        )


@dataclass(frozen=True)
class _Pair:
    """Two images to be compared by their structure, read block by block.

    Attributes:
        prediction: Three axes, any real dtype.
        reference: The same shape.
        inside: The same shape; where the similarity is averaged.
        low: Lower end of the range.
        high: Upper end of the range.
        blank_outside: Whether both images are set to ``low`` outside ``inside``.
    """

    prediction: Array
    reference: Array
    inside: BoolArray
    low: float
    high: float
    blank_outside: bool

    def read(self, box: Box) -> tuple[FloatArray, FloatArray]:
        """Return new arrays of both images within ``box``, clipped and shifted to 0..Q."""
        return self._read(self.prediction, box), self._read(self.reference, box)

    def _read(self, image: Array, box: Box) -> FloatArray:
        values = image[box].astype(np.float64)
        np.clip(values, self.low, self.high, out=values)
        values -= self.low
        if self.blank_outside:
            values[~self.inside[box]] = 0
        return values


def _prepared_pair(
    prediction: Array, reference: Array, mask: Array | None, value_range: tuple[float, float]
) -> _Pair:
    """Check both images and view them with the slowest axis in memory first."""
    inside = _checked_mask(prediction, reference, mask)
    if reference.ndim != 3:
        raise EvaluationError(
            f"an image has {reference.ndim} axes; volumes with three are compared"
        )
    order = _slowest_axis_first(reference)
    pair = _Pair(
        prediction.transpose(order),
        reference.transpose(order),
        inside.transpose(order),
        *value_range,
        blank_outside=mask is not None,
    )
    for box in _blocks(pair.inside):
        inside_box = pair.inside[box]
        _refuse_not_finite("prediction", pair.prediction[box][inside_box])
        _refuse_not_finite("reference", pair.reference[box][inside_box])
    return pair


def _mean_similarity(pair: _Pair, exponent: float | None) -> float | None:
    """Average the SSIM map over the mask without the volume's outermost `MARGIN` voxels.

    Args:
        pair: The images.
        exponent: If given, each value is clipped below at 0 and raised to it first.

    Returns:
        The mean, or None if no voxel of the mask is left.
    """
    inner = pair.inside[(slice(MARGIN, -MARGIN),) * 3]
    total, count = 0.0, 0
    for box in _blocks(inner):
        windows = tuple(slice(s.start, s.stop + 2 * MARGIN) for s in box)
        similarity = _similarity_map(*pair.read(windows), pair.high - pair.low)[inner[box]]
        if exponent is not None:
            similarity = np.maximum(similarity, 0) ** exponent
        total += float(similarity.sum())
        count += similarity.size
    return total / count if count else None


def _similarity_map(x: FloatArray, y: FloatArray, data_range: float) -> FloatArray:
    """Compute SSIM at every voxel whose window lies inside the block; overwrites ``x`` and ``y``.

    Its denominators hold only the sum of both variances, so four window means are enough.

    Args:
        x: One image, shape (a, b, c), not negative.
        y: The other.
        data_range: Q in C1 = (0.01 Q)² and C2 = (0.03 Q)².

    Returns:
        Shape (a - 6, b - 6, c - 6).
    """
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    sample = WINDOW**3 / (WINDOW**3 - 1)
    mean_x, mean_y, mean_xy = _window_mean(x), _window_mean(y), _window_mean(x * y)
    x *= x
    y *= y
    x += y
    mean_squares = _window_mean(x)

    product = mean_x * mean_y
    mean_x *= mean_x
    mean_y *= mean_y
    squares = np.add(mean_x, mean_y, out=mean_x)
    covariance = np.subtract(mean_xy, product, out=mean_xy)
    covariance *= sample
    variances = np.subtract(mean_squares, squares, out=mean_squares)
    variances *= sample
    similarity = (2 * product + c1) * (2 * covariance + c2)
    similarity /= (squares + c1) * (variances + c2)
    return similarity


def _window_mean(values: FloatArray) -> FloatArray:
    """Mean over the 7×7×7 window at every place where it fits, one axis after the other."""
    for axis in range(3):
        values = np.moveaxis(_sum_of_seven(np.moveaxis(values, axis, 0)), 0, axis)
    values /= WINDOW**3
    return values


def _sum_of_seven(values: FloatArray) -> FloatArray:
    """Sum seven neighbours along the first axis, as 4 + 2 + 1."""
    places = len(values) - WINDOW + 1
    pairs = values[1:] + values[:-1]
    total = pairs[:places] + pairs[2 : 2 + places]
    total += pairs[4 : 4 + places]
    total += values[6:]
    return total


def _blocks(inside: BoolArray) -> Iterator[Box]:
    """Yield boxes that together hold every voxel of the mask once, each as tight as it can be."""
    starts = (range(0, size, step) for size, step in zip(inside.shape, _BLOCK, strict=True))
    first, second, third = (list(values) for values in starts)
    for i in first:
        for j in second:
            for k in third:
                block = inside[i : i + _BLOCK[0], j : j + _BLOCK[1], k : k + _BLOCK[2]]
                tight = _bounding_box(block)
                if tight is not None:
                    yield tuple(
                        slice(start + s.start, start + s.stop)
                        for start, s in zip((i, j, k), tight, strict=True)
                    )


def _bounding_box(inside: BoolArray) -> Box | None:
    """Return the smallest box around the mask, or None if it is empty."""
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(inside.any(axis=others))
        if not places.size:
            return None
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    return tuple(box)


def _padded(pair: _Pair) -> _Pair:
    """Repeat edge voxels up to `MS_SSIM_MINIMUM_SIZE`: half before, the rest after."""
    missing = [max(0, MS_SSIM_MINIMUM_SIZE - size) for size in pair.inside.shape]
    if not any(missing):
        return pair
    widths = [(count // 2, count - count // 2) for count in missing]
    return _Pair(
        np.pad(pair.prediction, widths, mode="edge"),
        np.pad(pair.reference, widths, mode="edge"),
        np.pad(pair.inside, widths, mode="edge"),
        pair.low,
        pair.high,
        pair.blank_outside,
    )


def _halved(pair: _Pair) -> _Pair:
    """Return the next scale: output voxel i is the mean of voxels 2i - 1 and 2i along each axis.

    What lies before the first voxel counts as 0. The mask keeps every second voxel.
    """
    inside = pair.inside[::2, ::2, ::2]
    prediction, reference = np.empty(inside.shape), np.empty(inside.shape)
    for i in range(len(inside)):
        slab = (slice(max(0, 2 * i - 1), 2 * i + 1), slice(None), slice(None))
        for values, out in zip(pair.read(slab), (prediction, reference), strict=True):
            out[i] = _sum_of_pairs(_sum_of_pairs(values.sum(axis=0), 0), 1) / 8
    return _Pair(prediction, reference, inside, 0.0, pair.high - pair.low, blank_outside=False)


def _sum_of_pairs(values: FloatArray, axis: int) -> FloatArray:
    """Add elements 2i - 1 and 2i along an axis, element -1 being 0."""
    values = np.moveaxis(values, axis, 0)
    total = values[::2].copy()
    total[1:] += values[1:-1:2]
    return np.moveaxis(total, 0, axis)


def _sizes(shape: tuple[int, ...]) -> str:
    return "×".join(str(size) for size in shape)
