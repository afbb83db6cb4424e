"""Faults that are recognized in a prediction, each by a detector of its own.

A detector measures one thing and compares it with a named threshold, which was chosen on
phantoms as ``docs/findings.md`` tells; ``benchmarks/findings.py`` measures, on others, how often
damage is found and how often a prediction without damage is blamed. Images are in RAS order:
axis 0 runs to the patient's right, axis 1 to the front, axis 2 to the head.
"""

from medp2p.evaluation.findings.cohort import find_cohort_faults
from medp2p.evaluation.findings.consequences import EXPLAINS
from medp2p.evaluation.findings.detect import find_faults, measure_faults

__all__ = ["EXPLAINS", "find_cohort_faults", "find_faults", "measure_faults"]
