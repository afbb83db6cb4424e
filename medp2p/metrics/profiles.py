"""Named definitions of the metrics: a range of values and which structure metric belongs to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from medp2p.errors import ConfigError

HU_RANGE_SYNTHRAD2023 = (-1024.0, 3000.0)
HU_RANGE_SYNTHRAD2025 = (-1024.0, 3071.0)


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
        return "mae" + self.unit_suffix

    @property
    def bias_key(self) -> str:
        """Name of the mean error among the values: ``"bias_hu"``, or ``"bias"``."""
        return "bias" + self.unit_suffix

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
    def unit_suffix(self) -> str:
        """What the names of values in the images' units end with: ``"_hu"`` or nothing."""
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
