"""Which images are the contrasts of one scan."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from medp2p.conversion.candidates import Candidate
from medp2p.conversion.rules import Rules, fits
from medp2p.conversion.wanted import Refusal
from medp2p.errors import ConfigError
from medp2p.io import image_name

Contrasts = dict[str, list[str]]
"""Names of candidates by the contrast that they are."""

Visits = dict[tuple[str, ...], Contrasts]
"""Contrasts by what the images of one scan share."""


def check_sources(rules: Rules, sources: Sequence[str]) -> None:
    """Refuse patterns for other contrasts than the model has, or for some of them only.

    Raises:
        ConfigError: Naming both.
    """
    if rules.sources and set(rules.sources) != set(sources):
        raise ConfigError(
            f"sources: found {', '.join(rules.sources)}, and the model has {', '.join(sources)}; "
            "name a pattern for each of these"
        )


def join_contrasts(
    candidates: Mapping[str, Candidate], rules: Rules, sources: Sequence[str]
) -> tuple[list[tuple[str, ...]], dict[str, Refusal]]:
    """Join the images of each scan.

    Args:
        candidates: The wanted images by name.
        rules: Patterns of the contrasts.
        sources: Names of the model's contrasts.

    Returns:
        The names of the images of each scan, in the order of the contrasts; and by name of the
        image why others are in none.
    """
    if len(sources) == 1 and not rules.sources:
        return [(name,) for name in candidates], {}
    visits: Visits = defaultdict(lambda: defaultdict(list))
    refusals = {}
    for name, candidate in candidates.items():
        fitting = _contrasts(candidate.texts, rules, sources)
        if len(fitting) == 1:
            visits[candidate.visit][fitting[0]].append(name)
        elif fitting:
            reason = f"could be {' or '.join(fitting)}; name patterns in the rule sources"
            refusals[name] = Refusal("ambiguous", reason)
        else:
            refusals[name] = Refusal("description", f"is none of {', '.join(sources)}")
    scans = []
    for contrasts in _divided(visits, candidates, rules):
        refusal = _refuse_incomplete(contrasts, sources)
        images = [name for source in sources for name in contrasts.get(source, ())]
        if refusal:
            refusals |= dict.fromkeys(images, refusal)
        else:
            scans.append(tuple(images))
    return scans, refusals


def _contrasts(texts: Sequence[str], rules: Rules, sources: Sequence[str]) -> list[str]:
    """The contrasts whose pattern fits the most telling of some texts that any pattern fits."""
    for text in texts:
        fitting = [source for source in sources if _is_contrast(source, text, rules)]
        if fitting:
            return fitting
    return []


def _is_contrast(source: str, text: str, rules: Rules) -> bool:
    if rules.sources:
        return fits(rules.sources[source], (text,))
    return bool(_word(source).search(text))


def _word(source: str) -> re.Pattern[str]:
    """The name as a word by itself, with the ``w`` for weighted or without."""
    return re.compile(rf"(?<![^\W_]){re.escape(source)}w?(?![^\W_])", re.IGNORECASE)


def _divided(visits: Visits, candidates: Mapping[str, Candidate], rules: Rules) -> list[Contrasts]:
    """Divide folders with the files of several scans by what the names share beside the contrast.

    So ``p1_t1.nii`` and ``p1_t2.nii`` are one scan, and ``p2_t1.nii`` and ``p2_t2.nii`` another.
    """
    result = []
    for contrasts in visits.values():
        images = [name for names in contrasts.values() for name in names]
        in_series = any(candidates[name].place.series for name in images)
        if in_series or all(len(names) == 1 for names in contrasts.values()):
            result.append(contrasts)
            continue
        by_rest: dict[str, Contrasts] = defaultdict(lambda: defaultdict(list))
        for source, names in contrasts.items():
            for name in names:
                stem = image_name(candidates[name].place.file)
                by_rest[_without_contrast(stem, source, rules)][source].append(name)
        result += list(by_rest.values())
    return result


def _without_contrast(stem: str, source: str, rules: Rules) -> str:
    literal = rules.sources[source].strip("*") if rules.sources else ""
    pattern = re.compile(re.escape(literal), re.IGNORECASE) if literal else _word(source)
    return pattern.sub("", stem, count=1).casefold()


def _refuse_incomplete(contrasts: Contrasts, sources: Sequence[str]) -> Refusal | None:
    several = {source: names for source, names in contrasts.items() if len(names) > 1}
    for source, names in several.items():
        listed = ", ".join(names)
        reason = f"{len(names)} images could be {source}: {listed}; choose one by a pattern"
        return Refusal("ambiguous", reason)
    missing = [source for source in sources if source not in contrasts]
    if missing:
        reason = f"without {', '.join(missing)} of the same study or folder and place in space"
        return Refusal("missing_contrast", reason)
    return None
