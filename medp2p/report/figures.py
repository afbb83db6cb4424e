"""All figures of an evaluation, by section; the page shows them as SVG, the PDF draws them again.

What is drawn how: `distributions`, `agreement` and `curves`.
"""

from __future__ import annotations

from medp2p.report.agreement import histogram_panels
from medp2p.report.curves import curve_panels, slice_panels
from medp2p.report.distributions import box_panels
from medp2p.report.panels import Section
from medp2p.results import Evaluation


def figure_sections(evaluation: Evaluation) -> list[Section]:
    """Return all figures that the evaluation has data for, by section."""
    sections = (
        Section(
            "distributions",
            "Metrics over the cases",
            "A point is a case. Boxes span the quartiles with the median as a line; whiskers "
            "reach the furthest case within 1.5 interquartile ranges.",
            tuple(box_panels(evaluation)),
        ),
        Section(
            "agreement",
            "Agreement voxel by voxel",
            "All cases of a method together; the colour counts voxels of the masks on a "
            "logarithmic scale. What lies beyond the axes counts in the outermost bins.",
            tuple(histogram_panels(evaluation)),
        ),
        Section(
            "where",
            "Where the error is",
            "Thin lines are cases, thick ones the mean over the cases of a method.",
            tuple(curve_panels(evaluation)),
        ),
        Section(
            "slices",
            "Error by slice",
            "From the first to the last slice that is compared. Thin lines are cases, thick ones "
            "the mean over the cases of a method.",
            tuple(slice_panels(evaluation)),
        ),
    )
    return [section for section in sections if section.panels]
