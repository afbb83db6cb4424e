"""Which faults follow from others: one fault, one finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from medp2p.results import Finding

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


def without_consequences(found: Sequence[Finding]) -> tuple[Finding, ...]:
    """Order by gravity, keep the strongest of a kind, and fold consequences into their cause."""
    kinds = list(EXPLAINS)
    strongest: dict[str, Finding] = {}
    for finding in sorted(found, key=lambda f: (kinds.index(f.kind), -f.value / f.threshold)):
        strongest.setdefault(_group(finding), finding)
    explained: dict[str, dict[str, None]] = {}
    kept: list[Finding] = []
    for finding in strongest.values():
        cause = next((f for f in kept if finding.kind in EXPLAINS[f.kind]), None)
        if cause is None:
            kept.append(finding)
        else:
            explained.setdefault(_group(cause), {})[finding.kind.replace("_", " ")] = None
    return tuple(
        replace(f, text=f"{f.text} (may also be behind: {', '.join(explained[_group(f)])})")
        if _group(f) in explained
        else f
        for f in kept
    )


def _group(finding: Finding) -> str:
    """Findings of one group are one fault; only cropping happens in several places."""
    return finding.text if finding.kind == "cropped" else finding.kind
