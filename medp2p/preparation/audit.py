"""One pair: does it fit, is it what it should be, and may it train?

`audit_pair` measures (`VALUES` names and defines every number) and judges by the thresholds of
`AuditSettings`. ``docs/audit.md`` says how well the measures do on pairs whose truth is known,
and what no measure sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from medp2p.alignment import Alignment
from medp2p.config import EIGHT_BIT, AuditSettings, ImageSettings
from medp2p.manifest import Verdict
from medp2p.padding import padding_value
from medp2p.preparation.block_matching import (
    LEAST_PARTS,
    LOST_SHARE,
    CommonView,
    common_view,
    misalignment,
    mutual_information,
)
from medp2p.preparation.fingerprints import fingerprint
from medp2p.report.pair_picture import pair_picture as audit_picture
from medp2p.volume import Volume, reorient

if TYPE_CHECKING:
    from medp2p.registration import Registration

__all__ = ["VALUES", "PairAudit", "audit_pair", "audit_picture"]

Mask = NDArray[np.bool_]
Values = dict[str, float | None]
Judgement = tuple[Verdict, str]

AIR_HU = -300.0
AIR_SHARE = 0.25
"""MR below this share of the way from its background to the body's median is air, or bone."""

BONE_HU = 250.0
METAL_HU = 3000.0
"""Enamel reaches about 2800 HU; scanners that end at 3071 show metal there."""

CT_LOWEST_HU = -500.0
"""A CT in HU has values below this: the air around the body."""

MR_LOWEST = -900.0
"""An MR has no values down here: it is stored from 0, or standardized around 0."""

CT_OFFSET_HU = 1024.0
"""What is subtracted from stored values to get HU in most CT (DICOM's rescale intercept)."""

WIDE_RANGE_HU = 1000.0
"""A narrower ``hu_range`` is a window chosen on purpose, which clips."""

QUANTILES = (5, 25, 50, 75, 95)

_AXES = ("x", "y", "z")
_SAMPLES_PER_AXIS = 128
_SIDES = ("source", "target")

VALUES: Mapping[str, str] = MappingProxyType(
    {
        "residual_mm": "Estimated misalignment that is left: mean displacement of the body by the "
        "rigid motion that suits its parts best. At least the search range if many parts are lost.",
        "parts_mm": "How far a part of the body lies from where that motion takes it, median.",
        "lost_parts": "Share of the parts that fit best at the end of the search range.",
        "parts": "How many parts of the body could be compared.",
        "mutual_information_before_nats": "Mutual information of the images where the headers put "
        "them, in nats: 16 grey levels each, where either body lies in both fields of view.",
        "mutual_information_nats": "The same after registration.",
        "normalized_mutual_information_before": "Twice the mutual information over the sum of "
        "both entropies, 0 to 1, where the headers put the images.",
        "normalized_mutual_information": "The same after registration.",
        "edge_agreement": "Squared cosine between the gradients of both images inside the body, "
        "mean weighted by their lengths; 1/3 if they have nothing to do with each other.",
        "turned_degrees": "Angle by which registration turned the image against the headers.",
        "shifted_mm": "Distance by which registration moved the middle of the body.",
        "start_margin": "How much better the chosen pose is than the best other one, 0 to 1.",
        "body_covered": "Share of the source's body that the target's field of view shows.",
        "body_dice": "Dice of both bodies inside both fields of view.",
        "surface_mm": "Mean distance of the bodies' surfaces inside both fields of view.",
        "surface_p95_mm": "95 % of the surfaces are nearer to each other than this.",
        "body_size_mm": "Cube root of the volume of the box around the source's body.",
        "bone_signal_ratio": "Median MR signal where the CT has bone (over 250 HU), divided by "
        "that of soft tissue (-100 to 100 HU).",
        "metal_cm3": "Volume of the CT's body over 3000 HU.",
        "{side}_loose_mask": "Share of the body mask that is air with a way to the outside.",
        "{side}_clipped_low": "Share of the body below hu_range (CT).",
        "{side}_clipped_high": "Share of the body above hu_range (CT).",
        "{side}_saturated": "Share of the body that has exactly the image's highest value.",
        "{side}_padding": "Share of the image that was not measured but filled with a number.",
        "{side}_lowest": "Lowest value of the image.",
        "{side}_highest": "Highest value of the image.",
        **{f"{{side}}_p{q:02}": f"{q} % of the body have a lower value." for q in QUANTILES},
        **{f"{{side}}_spacing_{axis}_mm": f"Voxel spacing along {axis} (RAS)." for axis in _AXES},
        **{
            f"{{side}}_size_{axis}_mm": f"Extent of the image along {axis} (RAS)." for axis in _AXES
        },
    }
)
"""Every value of an audit and what it means; ``{side}`` is ``source`` or ``target``."""


@dataclass(frozen=True)
class PairAudit:
    """What was measured on a pair, and what follows.

    Attributes:
        values: By name (`VALUES` defines each); None where a value has no meaning.
        verdict: ``"use"``, ``"check"`` or ``"reject"``.
        reasons: One line each, the gravest first; empty for ``"use"``.
        fingerprints: Of ``"source"`` and ``"target"``, to recognize an image under other names.
    """

    values: dict[str, float | None]
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    fingerprints: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PairAudit:
        """Make an audit of what `dataclasses.asdict` made of one, by way of JSON."""
        return cls(**{**values, "reasons": tuple(values["reasons"])})


@dataclass(frozen=True, eq=False)
class _Side:
    """One image of a pair, thinned out for counting.

    Attributes:
        name: ``"source"`` or ``"target"``; values are called so.
        shown: What reasons call it.
        volume: The image.
        body: Its body voxels, at least one.
        settings: What it should be.
        padding: Voxels that were not measured, None if there are none.
        values: Every few measured voxels of it.
        inside: Those in the body; not empty.
    """

    name: str
    shown: str
    volume: Volume
    body: Mask
    settings: ImageSettings
    padding: Mask | None
    values: NDArray[np.float32]
    inside: NDArray[np.float32]


def audit_pair(
    source: Volume,
    target: Volume,
    source_body: Mask,
    target_body: Mask,
    alignment: Alignment,
    registration: Registration | None,
    images: tuple[ImageSettings, ImageSettings],
    settings: AuditSettings,
    *,
    target_name: str = "target",
) -> PairAudit:
    """Measure a pair and judge it.

    Args:
        source: The fixed image.
        target: The moving image (or a further source).
        source_body: Body voxels on the source's grid.
        target_body: Body voxels on the target's grid.
        alignment: Where the source's world lies in the target's.
        registration: How the alignment was found; None if the positions were taken as stated.
        images: What source and target should be.
        settings: From where on a pair is in question or rejected.
        target_name: What reasons call the target.
    """
    shown = ("source", target_name)
    fingerprints = {"source": fingerprint(source), "target": fingerprint(target)}
    values: Values = {}
    for name, volume in zip(_SIDES, (source, target), strict=True):
        values |= _geometry_values(name, volume)
    empty = [
        f"the {name} has no body: its mask is empty; repair the mask or remove it"
        for name, body in zip(shown, (source_body, target_body), strict=True)
        if not body.any()
    ]
    if empty:
        return PairAudit(_rounded(values), "reject", tuple(empty), fingerprints)
    sides = (
        _side("source", shown[0], source, source_body, images[0]),
        _side("target", shown[1], target, target_body, images[1]),
    )
    view = _view(sides, alignment)
    if not view.source_body.any():
        reason = "the source's body mask is scattered voxels, expected a body; repair the mask"
        return PairAudit(_rounded(values), "reject", (reason,), fingerprints)
    for side in sides:
        values |= _intensity_values(side, view)
    values |= _agreement_values(view, images)
    values |= _registration_values(registration)
    before = view
    if not alignment.is_identity:
        before = _view(sides, Alignment.identity())
    values |= _information_values(before, view)
    judgements = list(_what_they_are(sides, values))
    if not judgements:
        judgements = list(_judgements(values, sides, registration, settings))
    order: tuple[Verdict, ...] = ("reject", "check", "use")
    judgements.sort(key=lambda judgement: order.index(judgement[0]))
    verdict: Verdict = judgements[0][0] if judgements else "use"
    return PairAudit(_rounded(values), verdict, tuple(text for _, text in judgements), fingerprints)


def _side(name: str, shown: str, volume: Volume, body: Mask, settings: ImageSettings) -> _Side:
    lowest = padding_value(volume, settings.modality)
    padding = None if lowest is None else np.asarray(volume.array == lowest)
    thin = tuple(slice(None, None, max(1, n // _SAMPLES_PER_AXIS)) for n in volume.shape)
    measured = np.ones_like(body[thin]) if padding is None else ~padding[thin]
    values = volume.array[thin][measured].astype(np.float32)
    inside = volume.array[thin][measured & body[thin]].astype(np.float32)
    if inside.size == 0:
        inside = volume.array[body].astype(np.float32)
    return _Side(name, shown, volume, body, settings, padding, values, inside)


def _view(sides: tuple[_Side, _Side], alignment: Alignment) -> CommonView:
    source, target = sides
    return common_view(
        source.volume,
        target.volume,
        source.body,
        target.body,
        alignment,
        source_padding=source.padding,
        target_padding=target.padding,
    )


def _geometry_values(name: str, volume: Volume) -> Values:
    grid = reorient(volume.with_array(volume.array), "RAS").grid
    values: Values = {}
    for axis, spacing, n in zip(_AXES, grid.spacing_mm, grid.shape, strict=True):
        values[f"{name}_spacing_{axis}_mm"] = float(spacing)
        values[f"{name}_size_{axis}_mm"] = float(spacing * n)
    return values


def _intensity_values(side: _Side, view: CommonView) -> Values:
    name, inside = side.name, side.inside
    lowest, highest = float(side.values.min()), float(side.values.max())
    quantiles = np.percentile(inside, QUANTILES)
    values: Values = {
        f"{name}_lowest": lowest,
        f"{name}_highest": highest,
        f"{name}_saturated": float(np.mean(inside == highest)),
        f"{name}_padding": 0.0 if side.padding is None else float(side.padding.mean()),
        f"{name}_loose_mask": _loose_mask(side, view),
    }
    values |= {f"{name}_p{q:02}": float(v) for q, v in zip(QUANTILES, quantiles, strict=True)}
    if side.settings.modality == "CT":
        low, high = side.settings.hu_range
        values[f"{name}_clipped_low"] = float(np.mean(inside < low))
        values[f"{name}_clipped_high"] = float(np.mean(inside > high))
        if name == "target":
            share = float(np.mean(inside >= METAL_HU)) * float(side.body.mean())
            voxel_cm3 = abs(np.linalg.det(side.volume.affine[:3, :3])) / 1000
            values["metal_cm3"] = share * side.volume.array.size * voxel_cm3
    return values


def _loose_mask(side: _Side, view: CommonView) -> float | None:
    """Share of the mask that is air with a way to the outside, on the common lattice."""
    image = view.source if side.name == "source" else view.target
    body = view.source_body if side.name == "source" else view.target_body
    measured = body & view.shown
    if not measured.any() or image.min() == image.max():
        return None
    if side.settings.modality == "CT" and not _is_grey(side):
        threshold = AIR_HU
    else:
        around = image[view.shown & ~body]
        air = float(np.median(around)) if around.size else float(image.min())
        threshold = air + AIR_SHARE * (float(np.median(image[measured])) - air)
    loose = measured & (image < threshold)
    outside = ndimage.binary_propagation(~body, mask=~body | loose)
    return float(np.mean(outside[measured]))


def _agreement_values(view: CommonView, images: tuple[ImageSettings, ImageSettings]) -> Values:
    values: Values = {
        "body_size_mm": view.body_size_mm,
        "body_covered": float(np.mean(view.shown[view.source_body])),
        "edge_agreement": _edge_agreement(view),
        "bone_signal_ratio": _bone_signal_ratio(view, images),
        "residual_mm": None,
        "parts_mm": None,
        "lost_parts": None,
        "parts": 0.0,
    }
    values |= _surface_values(view)
    found = misalignment(view)
    if found:
        values["residual_mm"] = found.residual_mm
        values["parts_mm"] = found.parts_mm
        values["lost_parts"] = found.lost_parts
        values["parts"] = float(found.parts)
    return values


def _surface_values(view: CommonView) -> Values:
    source, target = view.source_body & view.shown, view.target_body & view.shown
    count = int(source.sum() + target.sum())
    dice = 2 * int((source & target).sum()) / count if count else None
    inner = ndimage.binary_erosion(view.shown, iterations=2, border_value=1)
    edges = [_surface(view.source_body), _surface(target)]
    near = [edge & inner for edge in edges]
    if not all(edge.any() for edge in near):
        return {"body_dice": dice, "surface_mm": None, "surface_p95_mm": None}
    spacing = view.grid.spacing_mm
    distances = np.concatenate(
        [
            KDTree(np.argwhere(edges[1 - n]) * spacing).query(np.argwhere(near[n]) * spacing)[0]
            for n in (0, 1)
        ]
    )
    return {
        "body_dice": dice,
        "surface_mm": float(distances.mean()),
        "surface_p95_mm": float(np.quantile(distances, 0.95)),
    }


def _surface(body: Mask) -> Mask:
    return np.asarray(body & ~ndimage.binary_erosion(body, border_value=1))


def _edge_agreement(view: CommonView) -> float | None:
    where = view.source_body & view.target_body & view.shown
    spacing = view.grid.spacing_mm
    axes = [axis for axis, n in enumerate(view.grid.shape) if n > 1]
    if not where.any() or not axes:
        return None
    first, second = (
        np.stack([np.gradient(image, spacing[axis], axis=axis)[where] for axis in axes])
        for image in (view.source, view.target)
    )
    lengths = np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0)
    if lengths.sum() == 0:
        return None
    products = (first * second).sum(axis=0)
    squared = np.square(products) / np.where(lengths > 0, lengths, 1)
    return float(squared.sum() / lengths.sum())


def _bone_signal_ratio(
    view: CommonView, images: tuple[ImageSettings, ImageSettings]
) -> float | None:
    if (images[0].modality, images[1].modality) != ("MR", "CT"):
        return None
    where = view.source_body & view.target_body
    bone = view.source[where & (view.target > BONE_HU)]
    soft = view.source[where & (np.abs(view.target) < 100)]
    if bone.size == 0 or soft.size == 0 or np.median(soft) <= 0:
        return None
    return float(np.median(bone) / np.median(soft))


def _registration_values(registration: Registration | None) -> Values:
    if registration is None:
        return {"turned_degrees": None, "shifted_mm": None, "start_margin": None}
    return {
        "turned_degrees": float(registration.turned_degrees),
        "shifted_mm": float(registration.shifted_mm),
        "start_margin": float(registration.starts.margin),
    }


def _information_values(before: CommonView, after: CommonView) -> Values:
    (nats, normalized), (nats_before, normalized_before) = (
        mutual_information(view) for view in (after, before)
    )
    return {
        "mutual_information_before_nats": nats_before,
        "mutual_information_nats": nats,
        "normalized_mutual_information_before": normalized_before,
        "normalized_mutual_information": normalized,
    }


Kind = Literal["CT in HU", "CT without its offset", "MR"]


def _is_grey(side: _Side) -> bool:
    """Whether an image has 256 grey levels, as a PNG has: nothing tells then what it was."""
    return side.volume.array.dtype == np.uint8


def _kind(side: _Side) -> Kind:
    """Tell CT from MR by the values alone, whatever the header says."""
    lowest, highest = float(side.values.min()), float(side.values.max())
    if side.settings.modality == "MR":
        return "CT in HU" if lowest <= MR_LOWEST else "MR"
    if lowest <= CT_LOWEST_HU:
        return "CT in HU"
    body = side.inside[side.inside > lowest + CT_OFFSET_HU / 2]
    if body.size and lowest >= -50 and highest > CT_OFFSET_HU + BONE_HU:
        median = float(np.median(body))
        alike = float(np.mean(np.abs(body - median) < 100))
        if abs(median - CT_OFFSET_HU) < 200 and alike > 0.5:
            return "CT without its offset"
    return "MR"


def _what_they_are(sides: tuple[_Side, _Side], values: Values) -> Iterator[Judgement]:
    """Find images that are not what they are called; nothing else counts then."""
    if any(_is_grey(side) for side in sides):
        return
    kinds = [_kind(side) for side in sides]
    wrong = [
        side
        for side, kind in zip(sides, kinds, strict=True)
        if kind[:2] != side.settings.modality and not _is_window(side.settings)
    ]
    if len(wrong) == 2:
        yield (
            "reject",
            "the images are swapped: by its values the source is "
            f"{_named(kinds[0])} and the {sides[1].shown} {_named(kinds[1])}, expected "
            f"{sides[0].settings.modality} and {sides[1].settings.modality}; name them rightly",
        )
        return
    for side, kind in zip(sides, kinds, strict=True):
        low, high = values[f"{side.name}_lowest"], values[f"{side.name}_highest"]
        found = f"the {side.shown} has values {low:.5g}..{high:.5g}"
        if side in wrong:
            yield (
                "reject",
                f"{found} and looks like {_named(kind)}, expected {side.settings.modality}; "
                "give the right image",
            )
        elif kind == "CT without its offset" and side.settings.modality == "CT":
            yield (
                "reject",
                f"{found}, soft tissue near {np.median(side.inside):.4g}: not HU, an offset of "
                f"{CT_OFFSET_HU:g} is missing (air is expected near -1000, soft tissue near 40)",
            )


def _named(kind: Kind) -> str:
    return "CT" if kind.startswith("CT") else "MR"


def _is_window(settings: ImageSettings) -> bool:
    """Whether a CT's range leaves air out, so that the image may have none."""
    return settings.modality == "CT" and settings.hu_range[0] > CT_LOWEST_HU


def _judgements(
    values: Values,
    sides: tuple[_Side, _Side],
    registration: Registration | None,
    settings: AuditSettings,
) -> Iterator[Judgement]:
    if all(side.settings.modality == EIGHT_BIT for side in sides):
        return  # pictures are taken as they are
    yield from _judge_pose(values, sides, settings)
    yield from _judge_registration(values, registration, settings)
    yield from _judge_bodies(values, sides, settings)
    for side in sides:
        if side.settings.modality == "CT" and not _is_grey(side):
            yield from _judge_ct(side, values, settings)


def _judge_pose(
    values: Values, sides: tuple[_Side, _Side], settings: AuditSettings
) -> Iterator[Judgement]:
    residual, parts = values["residual_mm"], values["parts_mm"]
    lost, size = values["lost_parts"], values["body_size_mm"]
    if residual is None or parts is None or lost is None or size is None:
        yield (
            "check",
            f"{values['parts']:.0f} parts of the body can be compared, expected at least "
            f"{LEAST_PARTS}: nothing is known about misalignment; look at the pictures",
        )
        return
    if lost > settings.lost_parts[0]:
        yield (
            "reject" if lost > settings.lost_parts[1] else "check",
            f"{lost:.0%} of the body's parts are not found where they should be, expected at most "
            f"{settings.lost_parts[0]:.0%}; wrong registration, or another patient",
        )
    longest = max(float(side.volume.spacing_mm.max()) for side in sides)
    limit = min(settings.residual_voxels * longest, settings.residual_mm)
    if residual > limit:
        about = "at least" if lost > LOST_SHARE else "about"
        yield (
            "check",
            f"the images lie {about} {residual:.1f} mm apart, expected at most {limit:.1f} mm",
        )
    if parts > settings.parts_share * size:
        yield (
            "check",
            f"parts of the body disagree about the pose by {parts:.1f} mm, expected at most "
            f"{settings.parts_share * size:.1f} mm; the body is bent, or another patient's",
        )


def _judge_registration(
    values: Values, registration: Registration | None, settings: AuditSettings
) -> Iterator[Judgement]:
    if registration is None:
        return
    turned = values["turned_degrees"]
    if turned is not None and turned > settings.turned_degrees:
        yield (
            "check",
            f"turned by {turned:.0f}° against the headers, expected at most "
            f"{settings.turned_degrees:.0f}°; scanners are rarely wrong, look at the pictures",
        )
    for note in registration.notes:
        yield "check", note


def _judge_bodies(
    values: Values, sides: tuple[_Side, _Side], settings: AuditSettings
) -> Iterator[Judgement]:
    covered = values["body_covered"] or 0.0
    if covered < settings.covered[0]:
        yield (
            "reject" if covered < settings.covered[1] else "check",
            f"the {sides[1].shown} shows {covered:.0%} of the source's body, expected at least "
            f"{settings.covered[0]:.0%}",
        )
    surface, size = values["surface_mm"], values["body_size_mm"]
    if surface is not None and size is not None and surface > settings.surface_share * size:
        yield (
            "check",
            f"the bodies' surfaces lie {surface:.1f} mm apart, expected at most "
            f"{settings.surface_share * size:.1f} mm; another patient, or a wrong mask",
        )
    for side in sides:
        loose = values.get(f"{side.name}_loose_mask")
        if loose is not None and loose > settings.loose_mask:
            yield (
                "check",
                f"{loose:.0%} of the {side.shown}'s body mask is air, expected at most "
                f"{settings.loose_mask:.0%}; give a tighter mask",
            )


def _judge_ct(side: _Side, values: Values, settings: AuditSettings) -> Iterator[Judgement]:
    low, high = settings.median_hu
    median = float(np.median(side.inside))
    if not low <= median <= high:
        yield (
            "check",
            f"the {side.shown}'s median inside the body is {median:.0f} HU, expected {low:.0f} to "
            f"{high:.0f}; is it in HU?",
        )
    clipped = (values[f"{side.name}_clipped_low"] or 0.0) + (
        values[f"{side.name}_clipped_high"] or 0.0
    )
    hu_range = side.settings.hu_range
    if clipped > settings.clipped and hu_range[1] - hu_range[0] > WIDE_RANGE_HU:
        yield (
            "check",
            f"{clipped:.0%} of the {side.shown}'s body lies outside hu_range {hu_range[0]:g}.."
            f"{hu_range[1]:g}, expected at most {settings.clipped:.0%}",
        )
    metal = values.get("metal_cm3")
    if side.name == "target" and metal is not None and metal > settings.metal_cm3:
        yield (
            "check",
            f"{metal:.1f} cm³ of metal, expected at most {settings.metal_cm3:g}; streaks around "
            "it are not tissue",
        )


def _rounded(values: Values) -> Values:
    """Six digits of every value, in the order of `VALUES`."""
    names = [n for key in VALUES for n in dict.fromkeys(key.format(side=s) for s in _SIDES)]
    found = {name: values[name] for name in names if name in values}
    return {n: v if v is None else float(f"{v:.6g}") for n, v in found.items()}
