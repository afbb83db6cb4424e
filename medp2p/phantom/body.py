"""What the parts of a body have in common while they are painted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medp2p.phantom.canvas import Canvas
from medp2p.phantom.shapes import Array, deviate

SIDES = (-1.0, 1.0)
"""Signs of x on the body's left and right."""


@dataclass(frozen=True)
class Body:
    """A body on a canvas.

    Attributes:
        canvas: Painted on.
        rng: Draws the subject's proportions. They are drawn in the same order whatever the
            grid shows, so that every grid shows the same subject.
        outline: Distance to the surface of the body in mm on the whole grid.
    """

    canvas: Canvas
    rng: np.random.Generator
    outline: Array

    def vary(self, value: float, relative: float = 0.1) -> float:
        """A value of this subject around the average."""
        return value * (1 + relative * deviate(self.rng))

    def shift(self, mm: float) -> float:
        """A displacement of this subject around zero."""
        return mm * deviate(self.rng)
