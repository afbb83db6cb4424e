"""Named sets of label classes, for `medp2p.metrics.label_scores`.

Numbers and names are those of TotalSegmentator's task ``total`` since version 2
(github.com/wasserth/TotalSegmentator, ``map_to_binary.py``); which of them count in SynthRAD2025
is from ``segmentation_metrics.py`` of github.com/SynthRAD2025/evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_VERTEBRAE = (
    "S1",
    *(f"L{number}" for number in range(5, 0, -1)),
    *(f"T{number}" for number in range(12, 0, -1)),
    *(f"C{number}" for number in range(7, 0, -1)),
)
_SPINE = {26 + place: f"vertebrae_{name}" for place, name in enumerate(_VERTEBRAE)} | {
    79: "spinal_cord"
}
_LUNGS = {
    10: "lung_upper_lobe_left",
    11: "lung_lower_lobe_left",
    12: "lung_upper_lobe_right",
    13: "lung_middle_lobe_right",
    14: "lung_lower_lobe_right",
}
_RIBS = {
    92 + 12 * second + place: f"rib_{side}_{place + 1}"
    for second, side in enumerate(("left", "right"))
    for place in range(12)
}
_TRUNK = {
    2: "kidney_right",
    3: "kidney_left",
    5: "liver",
    6: "stomach",
    51: "heart",
    116: "sternum",
}
_HEAD_AND_NECK = {
    15: "esophagus",
    16: "trachea",
    17: "thyroid_gland",
    90: "brain",
    91: "skull",
}


def _sorted(*parts: Mapping[int, str]) -> Mapping[int, str]:
    classes = {number: name for part in parts for number, name in part.items()}
    return MappingProxyType(dict(sorted(classes.items())))


LABEL_SETS: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "synthrad2025_thorax": _sorted(_TRUNK, _LUNGS, _SPINE, _RIBS),
        "synthrad2025_abdomen": _sorted(_TRUNK, _LUNGS, _SPINE, _RIBS),
        "synthrad2025_head_and_neck": _sorted(_HEAD_AND_NECK, _SPINE),
    }
)
"""Class names by label, by the set's name."""
