"""Which images are the contrasts of one scan.

Of DICOM images headers say it. Files are of one scan only if they lie in one folder and their names
are the same but for the contrast, so that ``p1_t1.nii`` is never taken with ``p2_t2.nii``, whatever
else is there or has not come yet.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, zip_longest

from medp2p.conversion.candidates import Candidate
from medp2p.conversion.rules import Rules, fits
from medp2p.conversion.wanted import Refusal
from medp2p.errors import ConfigError

Contrasts = dict[str, list[str]]
"""Names of candidates by the contrast that they are."""

Visits = dict[tuple[tuple[str, ...], tuple[str, ...]], Contrasts]
"""Contrasts by what the images of one scan share: their visit, and what their names hold beside the
contrast."""


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
    refusals: dict[str, Refusal] = {}
    for name, candidate in candidates.items():
        fitting = _contrasts(candidate.texts, rules, sources)
        if len(fitting) == 1:
            rest = _rest_of_name(candidate, fitting[0], rules)
            visits[candidate.visit, rest][fitting[0]].append(name)
        elif fitting:
            reason = f"could be {' or '.join(fitting)}; name patterns in the rule sources"
            refusals[name] = Refusal("ambiguous", reason)
        else:
            refusals[name] = Refusal("description", f"is none of {', '.join(sources)}")
    scans = []
    for contrasts in visits.values():
        images = [name for source in sources for name in contrasts.get(source, ())]
        refusal = _refuse_incomplete(contrasts, sources, [candidates[name] for name in images])
        if refusal:
            refusals |= dict.fromkeys(images, refusal)
        else:
            scans.append(tuple(images))
    return sorted(scans), refusals


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


def _rest_of_name(candidate: Candidate, source: str, rules: Rules) -> tuple[str, ...]:
    """What a file's name holds beside the contrast: what the wildcards of a pattern stand for.

    Without a pattern that fits the name it is what stands around the contrast's word. Empty for
    DICOM images.
    """
    if candidate.place.series:
        return ()
    _, stem, path = candidate.texts
    for text in (stem, path) if rules.sources else ():
        if found := _with_wildcards_as_groups(rules.sources[source]).fullmatch(text.casefold()):
            return _trimmed(found.groups())
    return _trimmed(_word(source).split(stem.casefold(), maxsplit=1))


def _with_wildcards_as_groups(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*|\?|\[[^\]]+\])", pattern.casefold())
    groups = ("(.*?)" if part == "*" else "(.)" for part in parts[1::2])
    literals = map(re.escape, parts[::2])
    return re.compile("".join(chain(*zip_longest(literals, groups, fillvalue=""))), re.DOTALL)


def _trimmed(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(filter(None, (text.strip("_-. ") for text in texts)))


def _refuse_incomplete(
    contrasts: Contrasts, sources: Sequence[str], candidates: Sequence[Candidate]
) -> Refusal | None:
    several = {source: names for source, names in contrasts.items() if len(names) > 1}
    for source, names in several.items():
        listed = ", ".join(names)
        reason = f"{len(names)} images could be {source}: {listed}; choose one by a pattern"
        return Refusal("ambiguous", reason)
    missing = ", ".join(source for source in sources if source not in contrasts)
    if not missing:
        return None
    if candidates[0].place.series:
        reason = f"without {missing} of the same study or folder and place in space"
    else:
        reason = f"without {missing} in its folder under a name that is the same but for that"
    return Refusal("missing_contrast", reason)
