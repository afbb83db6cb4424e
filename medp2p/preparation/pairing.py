"""Which image goes with which: rules that one can state, and their reasons.

The rules, in this order (``docs/pairing.md``): modality or name, usable, the user's patterns, no
projections, one case folder, one study or the nearest date, the name, originals before
reformatted images, largest overlap by the headers' positions, finest spacing. From dates on they
decide between images of one kind only. Where images of several kinds fit, or the rules leave
several, a person has to choose.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import escape
from itertools import count, product

import numpy as np

from medp2p.config import Config
from medp2p.errors import ConfigError
from medp2p.inspection import printable
from medp2p.manifest import TARGET
from medp2p.preparation.found_image import FoundImage
from medp2p.preparation.layouts import MASK
from medp2p.preparation.patients import look_alikes
from medp2p.preparation.plan import LeftOut, Pair, Plan, Unused, plan_rows, plan_table

__all__ = ["LeftOut", "Pair", "Plan", "Unused", "make_plan", "plan_rows", "plan_table"]

SAME_SETTING = 0.1
"""Timings that differ by a smaller share are of one kind of image."""

SAME_OVERLAP = 0.05
"""Overlaps that differ by a smaller share are equally good."""

SAME_SPACING = 1.05
"""Voxels whose volumes differ by a smaller factor are equally fine."""

SOURCE = "source"
_MAX_SHOWN = 6


@dataclass(frozen=True)
class _Slot:
    """An image that a case needs.

    Attributes:
        role: A source's name or ``"target"``.
        name: Its name in the configuration, such as ``"mr"``.
        option: What ``--match`` calls it.
        modality: ``"MR"`` or ``"CT"``.
        alone: Whether no other image of a case has this modality.
        pattern: The user's, or None.
    """

    role: str
    name: str
    option: str
    modality: str
    alone: bool
    pattern: str | None = None


Images = dict[_Slot, list[FoundImage]]
"""What fits, by slot."""

Combination = tuple[FoundImage, ...]
"""One image per slot, the target last."""


class _Question(Exception):  # noqa: N818
    """Several images are right; the text says which."""


@dataclass
class _Choice:
    """What came of one patient's images."""

    pairs: list[tuple[Combination, list[str]]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)

    def drop(self, images: Iterable[FoundImage], reason: str) -> None:
        for image in images:
            self.reasons.setdefault(id(image), reason)


def make_plan(
    images: Sequence[FoundImage], config: Config, match: Mapping[str, str] | None = None
) -> Plan:
    """Choose the source images and the target of every patient.

    Args:
        images: What `find_images` found.
        config: Names and modalities of source and target; ``data.match``.
        match: More patterns, which win over those: by ``source``, ``target``, the name of an
            image (``mr``), or one of these for one patient (``PATIENT/source``).

    Raises:
        ConfigError: If a pattern is for an image or patient that there is not, or is empty.
    """
    by_patient: dict[str, list[FoundImage]] = defaultdict(list)
    for image in images:
        by_patient[image.patient].append(image)
    nobody = by_patient.pop("", [])
    patterns = _patterns({**config.data.match, **(match or {})}, config, by_patient)
    pairs: list[Pair] = []
    left_out: list[LeftOut] = []
    unused = [Unused(image, _why(image) or "nothing tells whose it is") for image in nobody]
    names: set[str] = set()
    for patient in sorted(by_patient):
        own = sorted(by_patient[patient], key=_order)
        choice = _choose(patient, own, _slots(config, patterns, patient))
        pairs += [_pair(c, reasons, own, config, names) for c, reasons in choice.pairs]
        left_out += choice.left_out
        unused += _unused(own, choice, pairs)
    notes = (
        *_patterns_without_match(patterns, config, by_patient),
        *look_alikes(by_patient),
        *_notes(pairs),
    )
    return Plan(tuple(pairs), tuple(left_out), tuple(unused), notes)


def _order(image: FoundImage) -> tuple[bool, int, str, str]:
    day = image.day.toordinal() if image.day else 0
    return (image.day is None, day, image.path.as_posix(), image.series)


def _patterns(
    match: Mapping[str, str], config: Config, patients: Iterable[str]
) -> dict[tuple[str, str], str]:
    """Patterns by (patient or empty, role)."""
    data = config.data
    roles = {name: [name] for name in data.sources}
    roles |= {SOURCE: list(data.sources), TARGET: [TARGET], data.target: [TARGET]}
    found: dict[tuple[str, str], str] = {}
    for key, pattern in match.items():
        patient, slash, name = key.rpartition("/")
        if name not in roles or (slash and not patient):
            raise ConfigError(
                f"match {key!r}: expected one of {', '.join(sorted(roles))}, or PATIENT/ and one "
                "of these"
            )
        if patient and patient not in patients:
            raise ConfigError(f"match {key!r}: there is no patient {patient!r}; see --dry-run")
        if not all(part.strip() for part in pattern.split("|")):
            raise ConfigError(
                f"match {key!r}: {pattern!r} has an empty part; expected a pattern such as '*t1*', "
                "or several divided by |"
            )
        found |= {(patient, role): pattern for role in roles[name]}
    return found


def _patterns_without_match(
    patterns: Mapping[tuple[str, str], str],
    config: Config,
    by_patient: Mapping[str, Sequence[FoundImage]],
) -> Iterator[str]:
    """Say which of the user's patterns match no image of the kind that they are for."""
    for (patient, role), pattern in patterns.items():
        slot = next(slot for slot in _slots(config, patterns, patient) if slot.role == role)
        asked = [by_patient[patient]] if patient else by_patient.values()
        images = (image for own in asked for image in own)
        if not any(_is_kind(image, slot) and _matches(image, pattern) for image in images):
            key = f"{patient}/{slot.option}" if patient else slot.option
            yield (
                f"the pattern {key}={pattern} matches no {_noun(slot)} of "
                f"{'this patient' if patient else 'any patient'}"
            )


def _slots(
    config: Config, patterns: Mapping[tuple[str, str], str], patient: str
) -> tuple[_Slot, ...]:
    data, images = config.data, config.preprocessing
    kinds = [(name, name, images.source.modality) for name in data.sources]
    kinds.append((TARGET, data.target, images.target.modality))
    modalities = Counter(modality for _, _, modality in kinds)
    slots = []
    for role, name, modality in kinds:
        option = TARGET if role == TARGET else SOURCE if len(kinds) == 2 else name
        pattern = patterns.get((patient, role)) or patterns.get(("", role))
        slots.append(_Slot(role, name, option, modality, modalities[modality] == 1, pattern))
    return tuple(slots)


def _choose(patient: str, images: list[FoundImage], slots: Sequence[_Slot]) -> _Choice:
    choice = _Choice()
    if not any(_is_kind(image, slot) for image in images for slot in slots):
        choice.drop(images, "nothing says that it is source or target")
        return choice
    fitting = {slot: _fitting(slot, images, choice) for slot in slots}
    missing = [slot for slot in slots if not fitting[slot]]
    if missing:
        reason = "; ".join(_what_is_missing(slot, images) for slot in missing)
        left = [f"{len(fitting[slot])} {_noun(slot)}" for slot in slots if fitting[slot]]
        hint = _what_may_help(images)
        choice.left_out.append(
            LeftOut(patient, "reject", "; ".join([reason, *left, *hint]), tuple(images))
        )
        return choice
    try:
        visits = _visits(fitting, choice)
    except _Question as question:
        choice.left_out.append(LeftOut(patient, "check", str(question), tuple(images)))
        return choice
    for visit, reasons in visits:
        try:
            combination, more = _best(visit, choice)
            _refuse_two_people(combination)
            choice.pairs.append((combination, [*_first_reasons(images, slots), *reasons, *more]))
        except _Question as question:
            there = tuple(image for group in visit.values() for image in group)
            choice.left_out.append(LeftOut(patient, "check", str(question), there))
    return choice


def _fitting(slot: _Slot, images: Sequence[FoundImage], choice: _Choice) -> list[FoundImage]:
    """The images that could fill a slot: of its kind, usable, as the user's pattern wants."""
    found = [image for image in images if _is_kind(image, slot)]
    choice.drop((image for image in found if image.problems), "cannot be read")
    found = [image for image in found if not image.problems]
    if slot.pattern:
        matching = [image for image in found if _matches(image, slot.pattern)]
        choice.drop(
            (image for image in found if image not in matching),
            f"does not match {slot.option}={slot.pattern}",
        )
        return matching
    made = [image for image in found if image.derived in ("projection", "subtraction")]
    choice.drop(made, "made of other images (a projection or subtraction)")
    return [image for image in found if image not in made]


def _is_kind(image: FoundImage, slot: _Slot) -> bool:
    """By role, else by modality, else (where two slots share it) by the name in the description."""
    if image.modality not in (slot.modality, None):
        return False
    if image.role:
        return image.role == slot.role
    if image.modality is None:
        return False
    if slot.alone or slot.pattern:
        return True
    name = re.escape(slot.name.lower())
    return bool(re.search(rf"(?<![a-z0-9]){name}w?(?![a-z0-9])", image.description.lower()))


def _matches(image: FoundImage, pattern: str) -> bool:
    """Compare without case: description, series key, file name or path; ``|`` divides patterns."""
    texts = (
        image.description,
        image.words,
        image.series,
        image.series.partition("/")[0],
        image.path.name,
        image.path.as_posix(),
    )
    return any(
        fnmatchcase(text.casefold(), one.strip().casefold())
        for one in pattern.split("|")
        for text in texts
        if text
    )


def _noun(slot: _Slot) -> str:
    return slot.modality if slot.alone else f"{slot.modality} ({slot.name})"


def _what_is_missing(slot: _Slot, images: Sequence[FoundImage]) -> str:
    """Say why nothing fits a slot."""
    found = [image for image in images if _is_kind(image, slot)]
    broken = [image for image in found if image.problems]
    usable = [image for image in found if not image.problems]
    if slot.pattern and usable:
        return f"no {_noun(slot)} matches {slot.option}={slot.pattern}; found {_listed(usable)}"
    if broken:
        return f"no {_noun(slot)} that can be used: {_with_problems(broken)}"
    if usable:
        return f"no {_noun(slot)} found but projections or subtractions: {_listed(usable)}"
    return f"no {_noun(slot)} found"


def _what_may_help(images: Sequence[FoundImage]) -> list[str]:
    hints = []
    unknown = [image for image in images if image.modality is None]
    lost = [image for image in unknown if image.problems]
    if lost:
        hints.append(f"beside it {_with_problems(lost)}")
    if len(unknown) > len(lost):
        listed = _listed([image for image in unknown if not image.problems])
        hints.append(f"nothing says what {listed} is; name it, or list it in a table")
    if any(image.series and not image.person and not image.role for image in images):
        hints.append("the headers name no patient; say it with data.patient_pattern or a table")
    return hints


def _with_problems(images: Sequence[FoundImage]) -> str:
    more = f" and {len(images) - _MAX_SHOWN} more" if len(images) > _MAX_SHOWN else ""
    return "; ".join(f"{image.label}: {_why(image)}" for image in images[:_MAX_SHOWN]) + more


def _listed(images: Sequence[FoundImage]) -> str:
    more = f" and {len(images) - _MAX_SHOWN} more" if len(images) > _MAX_SHOWN else ""
    return ", ".join(image.label for image in images[:_MAX_SHOWN]) + more


def _why(image: FoundImage) -> str:
    return printable("; ".join(image.problems))


def _visits(fitting: Images, choice: _Choice) -> list[tuple[Images, list[str]]]:
    """Divide a patient's images into visits: case folders, then studies, then dates."""
    visits: list[tuple[Images, list[str]]] = []
    for case in _whole_parts(fitting, lambda image: image.unit, "in its folder", choice):
        reasons = ["one folder"] if _count(case) < _count(fitting) else []
        for study in _whole_parts(case, _study, "in its study", choice):
            if len({_study(image) for images in study.values() for image in images}) == 1:
                one = ["one study"] if _count(study) < _count(case) else []
                visits.append((study, [*reasons, *one]))
            else:
                visits += [(v, [*reasons, *more]) for v, more in _by_date(study, choice)]
    return visits


def _study(image: FoundImage) -> str:
    return image.study or image.unit


def _count(fitting: Images) -> int:
    return sum(map(len, fitting.values()))


def _whole_parts(
    fitting: Images, key: Callable[[FoundImage], str], where: str, choice: _Choice
) -> list[Images]:
    """Divide by a key into the parts that have an image for every slot, else not at all."""
    keys = dict.fromkeys(key(image) for images in fitting.values() for image in images)
    parts = [
        {slot: [i for i in images if key(i) == k] for slot, images in fitting.items()}
        for k in keys
        if k
    ]
    whole = [part for part in parts if all(part.values())]
    if not whole:
        return [fitting]
    kept = {id(image) for part in whole for images in part.values() for image in images}
    for images in fitting.values():
        lonely = [image for image in images if id(image) not in kept]
        choice.drop(lonely, f"has no counterpart {where}, and others have")
    return whole


def _by_date(part: Images, choice: _Choice) -> list[tuple[Images, list[str]]]:
    """Pair studies that are the nearest in time to each other.

    Without dates, or with nothing to choose, all stay together.
    """
    studies = {slot: _studies(images) for slot, images in part.items()}
    if all(len(found) == 1 for found in studies.values()):
        return [(part, [])]
    reasons: list[str] = []
    part = {slot: _preferred(slot, images, choice, reasons) for slot, images in part.items()}
    studies = {slot: _studies(images) for slot, images in part.items()}
    for slot, images in part.items():
        _refuse_kinds(slot, images)
    days = [_day(study) for found in studies.values() for study in found]
    if any(day is None for day in days):
        return [(part, reasons)]
    target = next(slot for slot in part if slot.role == TARGET)
    visits = []
    for wanted in studies[target]:
        visit: Images = {}
        for slot, found in studies.items():
            near = _nearest(found, wanted) if slot is not target else [wanted]
            back = [_nearest(studies[target], study) for study in near]
            if len(near) > 1 or any(len(others) > 1 for others in back):
                raise _Question(
                    f"{_listed(part[slot])} and {_listed(part[target])} are equally near in time; "
                    f"{_how_to_choose(slot, part[slot])}"
                )
            if back[0][0] is wanted:
                visit[slot] = near[0]
        if len(visit) == len(part):
            visits.append((visit, [*reasons, f"nearest date: {_apart(visit, target)}"]))
    if not visits:
        listed = "; ".join(f"{slot.name}: {_listed(images)}" for slot, images in part.items())
        raise _Question(
            f"no day's images are nearest to each other in time: {listed}; "
            f"{_how_to_choose(target, part[target])}"
        )
    kept = {id(i) for visit, _ in visits for images in visit.values() for i in images}
    for images in part.values():
        choice.drop((i for i in images if id(i) not in kept), "others are nearer in time")
    return visits


def _studies(images: Iterable[FoundImage]) -> list[list[FoundImage]]:
    by_study: dict[str, list[FoundImage]] = defaultdict(list)
    for image in images:
        by_study[_study(image)].append(image)
    return list(by_study.values())


def _day(study: Sequence[FoundImage]) -> int | None:
    days = [image.day.toordinal() for image in study if image.day]
    return min(days, default=None)


def _nearest(
    studies: Sequence[list[FoundImage]], wanted: Sequence[FoundImage]
) -> list[list[FoundImage]]:
    distances = [abs((_day(study) or 0) - (_day(wanted) or 0)) for study in studies]
    return [s for s, d in zip(studies, distances, strict=True) if d == min(distances)]


def _apart(visit: Images, target: _Slot) -> str:
    days = [_days_between(images[0], visit[target][0]) or 0 for images in visit.values()]
    return f"{max(days)} day{'' if max(days) == 1 else 's'} apart"


def _days_between(a: FoundImage, b: FoundImage) -> int | None:
    return abs((a.day - b.day).days) if a.day and b.day else None


def _best(visit: Images, choice: _Choice) -> tuple[Combination, list[str]]:
    """Choose one image per slot among those of one visit."""
    reasons: list[str] = []
    named = {slot: _preferred(slot, images, choice, reasons) for slot, images in visit.items()}
    for slot, images in named.items():
        _refuse_kinds(slot, images)
    combinations = list(product(*named.values()))
    tolerance = -float(np.log(1 - SAME_OVERLAP))
    combinations = _keep(combinations, _lack_of_overlap, tolerance, "largest overlap", reasons)
    if all(_one_study_each(combinations, i) for i in range(len(named))):
        combinations = _keep(
            combinations, _coarseness, float(np.log(SAME_SPACING)), "finest spacing", reasons
        )
    kept = {id(image) for combination in combinations for image in combination}
    for images in named.values():
        others = [image for image in images if id(image) not in kept]
        choice.drop(others, f"another is better: {', '.join(reasons)}")
    if len(combinations) > 1:
        for i, slot in enumerate(named):
            left = list({id(c[i]): c[i] for c in combinations}.values())
            if len(left) > 1:
                raise _Question(
                    f"{len(left)} {_noun(slot)} images fit as {slot.option} equally well: "
                    f"{_listed(left)}; {_how_to_choose(slot, left)}"
                )
    return combinations[0], reasons


def _preferred(
    slot: _Slot, images: list[FoundImage], choice: _Choice, reasons: list[str]
) -> list[FoundImage]:
    """Prefer what is named like the slot, and what is original."""
    rules: tuple[tuple[str, Callable[[FoundImage], bool]], ...] = (
        (f"named {slot.name}", lambda image: image.role == slot.role),
        ("original, not reformatted", lambda image: not image.derived),
    )
    for words, rule in rules:
        better = [image for image in images if rule(image)]
        if better and len(better) < len(images):
            choice.drop((i for i in images if i not in better), f"another one is {words}")
            reasons.append(words)
            images = better
    return images


def _refuse_kinds(slot: _Slot, images: Sequence[FoundImage]) -> None:
    """Ask if images of several kinds fit.

    Raises:
        _Question: Naming one of each kind.
    """
    kinds: list[FoundImage] = []
    for image in images:
        if not any(_same_kind(image, kind) for kind in kinds):
            kinds.append(image)
    if len(kinds) > 1:
        raise _Question(
            f"{len(kinds)} {_noun(slot)} images of different kinds fit as {slot.option}: "
            f"{_listed(kinds)}; {_how_to_choose(slot, kinds)}"
        )


def _same_kind(a: FoundImage, b: FoundImage) -> bool:
    """The same description, and timings that differ by less than `SAME_SETTING`."""
    if a.role and a.role == b.role and not (a.series and b.series):
        return True
    if " ".join(a.description.casefold().split()) != " ".join(b.description.casefold().split()):
        return False
    numbers = r"\d+(?:\.\d+)?"
    if re.sub(numbers, "#", a.contrast) != re.sub(numbers, "#", b.contrast):
        return False
    found = (map(float, re.findall(numbers, image.contrast)) for image in (a, b))
    return all(abs(x - y) <= SAME_SETTING * max(x, y) for x, y in zip(*found, strict=True))


def _how_to_choose(slot: _Slot, images: Sequence[FoundImage]) -> str:
    """Suggest a pattern for the first of some images, which may hold for other patients too."""
    first, *others = images
    if first.series:
        texts = [(image.description, image.words) for image in images]
        name = next((t for t, *rest in zip(*texts, strict=True) if t and t not in rest), None)
    else:
        name = first.path.name.replace(first.patient, "*")
    if name is None or any(_matches(other, name) for other in others):
        key = f"{first.patient}/{slot.option}"
        return f"choose with --match '{key}={first.series or first.path.name}'"
    return f"choose with --match '{slot.option}={name if '*' in name else escape(name)}'"


def _keep(
    combinations: list[Combination],
    score: Callable[[Combination], float],
    tolerance: float,
    words: str,
    reasons: list[str],
) -> list[Combination]:
    """Keep the combinations of the lowest score, and note the rule if it decided."""
    scores = [score(combination) for combination in combinations]
    limit = min(scores) + tolerance
    kept = [c for c, s in zip(combinations, scores, strict=True) if s <= limit]
    if len(kept) < len(combinations):
        reasons.append(words)
    return kept


def _lack_of_overlap(combination: Combination) -> float:
    """Minus the logarithm of the volume in mm³ that target and sources share, at least 1 each."""
    *sources, target = combination
    return -float(sum(np.log(max(_shared_mm3(source, target), 1.0)) for source in sources))


def _shared_mm3(a: FoundImage, b: FoundImage) -> float:
    """Volume common to the boxes around two images, 0 unless they share a frame of reference."""
    if not a.frame_of_reference or a.frame_of_reference != b.frame_of_reference:
        return 0.0
    if a.grid is None or b.grid is None:
        return 0.0
    low = np.maximum(a.grid.corners_mm.min(axis=0), b.grid.corners_mm.min(axis=0))
    high = np.minimum(a.grid.corners_mm.max(axis=0), b.grid.corners_mm.max(axis=0))
    return float(np.prod(np.clip(high - low, 0, None)))


def _coarseness(combination: Combination) -> float:
    """Logarithm of the product of voxel volumes."""
    grids = [image.grid for image in combination if image.grid]
    return float(sum(np.log(np.prod(grid.spacing_mm)) for grid in grids))


def _one_study_each(combinations: Sequence[Combination], slot: int) -> bool:
    return len({_study(c[slot]) for c in combinations}) == 1


def _refuse_two_people(combination: Combination) -> None:
    people = {image.person for image in combination if image.person}
    if len(people) > 1:
        raise _Question(
            f"{_listed(combination)} lie in one case folder, and their headers name different "
            "patients; if they are of one (headers replaced one by one), say so with "
            "data.patient_pattern or a table"
        )


def _first_reasons(images: Sequence[FoundImage], slots: Sequence[_Slot]) -> list[str]:
    """The rules that need no comparison: the only one of its kind, or the user's pattern."""
    reasons = []
    for slot in slots:
        if slot.pattern:
            reasons.append(f"{slot.option} matches {slot.pattern}")
        elif sum(_is_kind(image, slot) for image in images) == 1:
            reasons.append(f"only {_noun(slot)}")
    return reasons


def _pair(
    combination: Combination,
    reasons: Sequence[str],
    images: Sequence[FoundImage],
    config: Config,
    names: set[str],
) -> Pair:
    *sources, target = combination
    days = [_days_between(source, target) for source in sources]
    masks = _masks(combination, images)
    usable = [mask for mask in masks if not mask.problems]
    noted = [f"mask left out: {_why(mask)}" for mask in masks if mask.problems]
    noted += [f"{len(usable)} masks fit, so none is taken"] * (len(usable) > 1)
    return Pair(
        case=_case_name(combination, names),
        patient=target.patient,
        sources=dict(zip(config.data.sources, sources, strict=True)),
        target=target,
        mask=usable[0] if len(usable) == 1 else None,
        reasons=tuple(dict.fromkeys([*reasons, *noted])),
        days_apart=None if None in days else max(day for day in days if day is not None),
        aligned=all(_are_aligned(source, target) for source in sources),
    )


def _masks(combination: Combination, images: Sequence[FoundImage]) -> list[FoundImage]:
    units = {image.unit for image in combination if image.unit}
    return [image for image in images if image.role == MASK and image.unit in units]


def _are_aligned(a: FoundImage, b: FoundImage) -> bool:
    """Whether positions agree: one frame of reference (PS3.3 C.7.4.1), else the same grid."""
    if a.frame_of_reference and b.frame_of_reference:
        return a.frame_of_reference == b.frame_of_reference
    return a.grid is not None and b.grid is not None and a.grid.difference(b.grid) is None


def _case_name(combination: Combination, names: set[str]) -> str:
    """The name that folders and files agree on, else the patient's; ``-2`` for a second one."""
    stated = {image.case for image in combination if image.case}
    name = stated.pop() if len(stated) == 1 else combination[-1].patient
    numbered = (f"{name}-{n}" if n > 1 else name for n in count(1))
    free = next(one for one in numbered if one.casefold() not in names)
    names.add(free.casefold())
    return free


def _unused(images: Sequence[FoundImage], choice: _Choice, pairs: Sequence[Pair]) -> list[Unused]:
    told = {id(image) for left in choice.left_out for image in left.images}
    for pair in pairs:
        told |= {id(i) for i in (*pair.sources.values(), pair.target, pair.mask) if i}
    return [
        Unused(image, _why(image) or choice.reasons.get(id(image), "neither source nor target"))
        for image in images
        if id(image) not in told
    ]


def _notes(pairs: Sequence[Pair]) -> list[str]:
    """Say what only the whole set shows.

    One slot may be filled with many kinds of image, which training would mix; and one patient by
    the headers may be many by the folders.
    """
    notes = []
    folders: dict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        if pair.target.person and pair.target.case:
            folders[pair.patient].append(pair.target.case)
    for cases in folders.values():
        names = sorted(set(cases))
        if len(names) > 1:
            shown = ", ".join(names[:_MAX_SHOWN]) + (", …" if len(names) > _MAX_SHOWN else "")
            notes.append(
                f"{len(names)} folders are of one patient by their headers, so they share a split: "
                f"{shown}; if the headers were made anonymous alike, set data.patient_pattern"
            )
    for name in (*(pairs[0].sources if pairs else ()), TARGET):
        kinds = Counter(
            image.description
            for pair in pairs
            if (image := pair.sources.get(name, pair.target)).series and image.description
        )
        if len(kinds) > 1:
            listed = ", ".join(f"{n} × '{kind}'" for kind, n in kinds.most_common(_MAX_SHOWN))
            more = f" and {len(kinds) - _MAX_SHOWN} more" if len(kinds) > _MAX_SHOWN else ""
            notes.append(f"{name}: {len(kinds)} descriptions: {listed}{more}")
    return notes
