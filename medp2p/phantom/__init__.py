"""Digital subjects: random anatomy, its CT numbers and its MR signal.

A subject is drawn from a seed: smooth implicit shapes (`head`, `pelvis`) with random
proportions, bent by a random smooth deformation and posed at random, are painted onto a grid
(`canvas`) as CT numbers and spin-echo signals (`tissues`); then the scanners add their blur,
shading and noise (`imaging`). The anatomy depends on the seed and on position alone, so any
grid shows the same subject.
"""

from medp2p.phantom.subject import ANATOMIES, Anatomy, Phantom, case_seed, make_phantom
from medp2p.phantom.tissues import (
    CONTRASTS,
    FIELD_STRENGTHS_T,
    LABELS,
    Contrast,
)

__all__ = [
    "ANATOMIES",
    "CONTRASTS",
    "FIELD_STRENGTHS_T",
    "LABELS",
    "Anatomy",
    "Contrast",
    "Phantom",
    "case_seed",
    "make_phantom",
]
