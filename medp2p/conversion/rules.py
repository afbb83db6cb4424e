"""Which scans of a tree are wanted: rules from a YAML file or from options.

All is taken from the model unless a rule says otherwise. Importing this loads neither torch nor
NumPy.
"""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, model_validator

from medp2p.config import Modality, PositiveInt, Settings, parse_yaml
from medp2p.errors import ConfigError

MINIMUM_SLICES = 8
"""Fewer slices are a scout or a fragment unless a rule says otherwise."""


def _date(value: Any) -> Any:
    """Take 20240131 as DICOM writes it; pydantic would take it for seconds since 1970."""
    text = str(value)
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if re.fullmatch(r"\d{8}", text) else value


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Pattern = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Patterns = Annotated[tuple[Pattern, ...], BeforeValidator(_several)]
Day = Annotated[datetime.date, BeforeValidator(_date)]


class Rules(Settings):
    """What is wanted. Patterns are ``*`` and ``?`` of a shell, and capitals do not matter."""

    modality: Modality | None = None
    """Of the scans: what the model was trained on, and any other is refused; null leaves it to the
    model."""
    include: Patterns = ()
    """Take only what fits one of these, by its series description, by its path below the tree
    (``*`` matches slashes, too) or by the kind of image that `medp2p inspect` shows."""
    exclude: Patterns = ()
    """Leave out what fits one of these."""
    minimum_slices: PositiveInt | None = None
    """Null is 8, or as many as the model sees at a time."""
    plane: Literal["auto", "any", "axial", "coronal", "sagittal"] = "auto"
    """Of the slices. ``auto`` is any plane, but thick slices only in the model's own plane: across
    them the model would see interpolated images."""
    derived: bool = False
    """Take images that were made of others, too: reformatted ones, projections, maps."""
    since: Day | None = None
    """First study date; scans without one are left out then."""
    to_date: Day | None = None
    """Last study date; scans without one are left out then."""
    sources: dict[str, Pattern] = Field(default={})
    """For a model with several contrasts, the pattern of each (``{t1: '*T1*', t2: '*T2*'}``); null
    looks for their names as words. In names of files the wildcards must stand for the same in all
    contrasts of a scan: ``*T1*`` and ``*T2*`` join ``p1_T1w.nii`` and ``p1_T2w.nii``."""
    joined_by: Literal["study", "folder"] = "study"
    """Which images are the contrasts of one scan: those of one DICOM study, or of one folder. Files
    that are not DICOM must lie in one folder and have the same name but for the contrast. A DICOM
    frame of reference must be shared."""
    hash_names: bool = False
    """Name scans by a hash of their place, where paths tell who the patient is."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.since and self.to_date and self.since > self.to_date:
            raise ValueError(f"since ({self.since}) is after to_date ({self.to_date})")
        return self


def load_rules(file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Rules:
    """Merge a YAML file and options; an option wins.

    Args:
        file: A YAML mapping of the names in `Rules`.
        overrides: Values by name; None is left out.

    Raises:
        ConfigError: For an unknown name, a wrong value, a missing or malformed file; it names the
            line.
    """
    text = _read(file) if file else ""
    values = parse_yaml(text, str(file))
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    try:
        return Rules.model_validate({**values, **given})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        location = [part for part in first["loc"] if not str(part).startswith("function-")]
        is_option = not file or (bool(location) and location[0] in given)
        where = "options" if is_option else _place(str(file), text, location)
        raise ConfigError(f"{where}: {_explained(first, location)}") from error


def fits(pattern: str, texts: Sequence[str]) -> bool:
    """Say whether a pattern fits one of several texts."""
    wanted = pattern.casefold()
    return any(fnmatchcase(text.casefold(), wanted) for text in texts)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as a file of rules: {error}") from error


def _explained(error: Any, location: Sequence[str | int]) -> str:
    name = ".".join(map(str, location))
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, Rules.model_fields, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"unknown rule {name}; {hint}valid here: {', '.join(Rules.model_fields)}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{name}: {message}, found {error['input']!r:.60}" if name else message


def _place(file: str, text: str, location: Sequence[str | int]) -> str:
    """The file, and the line of the deepest key or entry on the way that is written in it."""
    node: Any = yaml.compose(text)
    line = None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == str(part)), None)
            key, node = pair if pair else (None, None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            key = node = node.value[part]
        else:
            break
        if key is None:
            break
        line = key.start_mark.line + 1
    return f"{file}, line {line}" if line else file
