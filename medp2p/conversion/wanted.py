"""Whether a scan is wanted, by what is known of it before its voxels are read."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medp2p.config import EIGHT_BIT, Modality, Plane
from medp2p.conversion.rules import MINIMUM_SLICES, Rules, fits
from medp2p.errors import ConfigError
from medp2p.volume import Grid

if TYPE_CHECKING:
    from medp2p.checkpoint import ModelCard

THICK = 2.0
"""Slices are thick if further apart than this many times the width of a pixel, the scan's own and
the model's."""

_PLANE_ACROSS: tuple[Plane, ...] = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class Refusal:
    """Why something is left out; attributes as of `medp2p.conversion.scans.LeftOut`."""

    code: str
    reason: str
    failed: bool = False


@dataclass(frozen=True)
class Wanted:
    """The rules, with what the model says where they leave it open.

    Attributes:
        rules: The rules.
        modality: Of the scans.
        minimum_slices: That a scan needs.
        model_plane: Of the slices that the model translates.
        model_spacing_mm: Of the training grid along left-right, back-front and feet-head; None
            where it is each volume's own.
    """

    rules: Rules
    modality: Modality
    minimum_slices: int
    model_plane: Plane
    model_spacing_mm: tuple[float | None, float | None, float | None]

    def refuse_modality(self, modality: str | None) -> Refusal | None:
        """Refuse another modality than the wanted one; None is not known, and passes."""
        if modality in (None, self.modality):
            return None
        if modality == "MASK":
            return Refusal("mask", f"a mask or labels; expected {self.modality}")
        return Refusal("modality", f"{modality}; expected {self.modality}")

    def refuse_texts(self, texts: Sequence[str]) -> Refusal | None:
        """Refuse what ``include`` does not fit, or ``exclude`` does."""
        include = self.rules.include
        if include and not any(fits(pattern, texts) for pattern in include):
            return Refusal("description", f"fits none of the patterns {', '.join(include)}")
        hit = next((pattern for pattern in self.rules.exclude if fits(pattern, texts)), None)
        return Refusal("description", f"excluded by the pattern {hit}") if hit else None

    def refuse_day(self, dates: Iterable[str] = ()) -> Refusal | None:
        """Refuse what was taken on other days; the first of some dates (YYYYMMDD) counts."""
        since, to_date = self.rules.since, self.rules.to_date
        if not since and not to_date:
            return None
        day = next(filter(None, map(_day, dates)), None)
        if day is None:
            return Refusal("date", "does not say when it was taken, and a rule asks for dates")
        if since and day < since:
            return Refusal("date", f"taken before {since}")
        return Refusal("date", f"taken after {to_date}") if to_date and day > to_date else None

    def refuse_grid(self, grid: Grid, slice_axis: int) -> Refusal | None:
        """Refuse too few slices, and slices in another plane.

        Args:
            grid: Where the voxels lie.
            slice_axis: Which axis goes from slice to slice.
        """
        slices = grid.shape[slice_axis]
        if slices < self.minimum_slices:
            found = f"{slices} slice" if slices == 1 else f"{slices} slices"
            return Refusal("few_slices", f"{found}; expected at least {self.minimum_slices}")
        rule = self.rules.plane
        if rule == "any" or self.modality == EIGHT_BIT:
            return None
        across = int(np.argmax(np.abs(grid.affine[:3, slice_axis])))
        plane = _PLANE_ACROSS[across]
        if rule != "auto":
            return Refusal("plane", f"{plane}; expected {rule}") if plane != rule else None
        if plane == self.model_plane or not self._is_thick(grid, slice_axis, across):
            return None
        return Refusal(
            "plane",
            f"thick {plane} slices ({grid.spacing_mm[slice_axis]:.3g} mm apart); the model is for "
            f"{self.model_plane} ones; the rule plane: any takes them",
        )

    def _is_thick(self, grid: Grid, slice_axis: int, across: int) -> bool:
        pixel_mm = float(np.delete(grid.spacing_mm, slice_axis).max())
        fine_mm = max(pixel_mm, self.model_spacing_mm[across] or 0.0)
        return bool(grid.spacing_mm[slice_axis] > THICK * fine_mm)


def check_modality(rules: Rules, card: ModelCard) -> None:
    """Refuse a rule for another modality than the model's, with which no scan could be translated.

    Raises:
        ConfigError: Naming both.
    """
    expected = card.config.preprocessing.source.modality
    if rules.modality not in (None, expected):
        raise ConfigError(
            f"modality: found {rules.modality}, expected {expected}, which the model translates; "
            f"leave the rule out, or choose a model for {rules.modality}"
        )


def wanted_for(rules: Rules, card: ModelCard) -> Wanted:
    """Fill in from the model what the rules leave open."""
    config = card.config
    modality = config.preprocessing.source.modality
    needed = 1 if modality == EIGHT_BIT else max(MINIMUM_SLICES, config.slices.stack)
    return Wanted(
        rules,
        modality,
        rules.minimum_slices or needed,
        config.slices.plane,
        config.preprocessing.spacing_mm,
    )


def slice_axis_of(grid: Grid) -> int:
    """Guess which axis of a volume goes from slice to slice.

    It is the one with the largest spacing, and of several of about one spacing the shortest.
    """
    spacing = grid.spacing_mm
    coarse = np.flatnonzero(spacing > 0.99 * spacing.max())
    return int(min(coarse, key=lambda axis: grid.shape[axis]))


def _day(text: str) -> datetime.date | None:
    try:
        return datetime.datetime.strptime(text.strip(), "%Y%m%d").date()
    except ValueError:
        return None
