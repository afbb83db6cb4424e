"""Conditions that turn an evaluation into a pass or fail: ``mae<80``, ``bone_dice>0.8``."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from medp2p.errors import ConfigError
from medp2p.metrics import LABEL_SETS, Profile
from medp2p.results import Requirement, Summary

_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_FORM = re.compile(r"\s*([\w-]+)\s*(<=|>=|<|>)\s*(\S+)\s*")
_LEFT_OUT = {"hu", "db", "mm", "nats", "label"}
_NEAR = 4
"""How many names an answer to an unknown one lists."""


@dataclass(frozen=True)
class Gate:
    """A condition on the mean of a metric over the cases.

    Attributes:
        text: As it was given.
        metric: The metric's full name.
        relation: ``<``, ``<=``, ``>`` or ``>=``.
        limit: What the mean is compared with.
    """

    text: str
    metric: str
    relation: str
    limit: float


def read_gate(text: str, names: Sequence[str], profile: Profile) -> Gate:
    """Read a condition such as ``mae<80``.

    Args:
        text: A metric, a relation and a number. The metric may be named without its unit and
            profile and with its words in any order: ``bone_dice`` for ``dice_bone``.
        names: The metrics that there are, as from `metric_values`.
        profile: Whose name may be left out.

    Raises:
        ConfigError: If it has another form, or the name is unknown or means several metrics.
    """
    match = _FORM.fullmatch(text)
    try:
        name, relation, limit = match.groups() if match else ("", "", "none")
        number = float(limit)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise ConfigError(
            f"--require {text!r}: expected a metric, <, <=, > or >=, and a number, such as 'mae<80'"
        )
    return Gate(text.strip(), _full_name(name, names, profile), relation, number)


def _full_name(name: str, names: Sequence[str], profile: Profile) -> str:
    if name in names:
        return name
    wanted = _words(name, profile)
    fitting = [known for known in names if _words(known, profile) == wanted]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ConfigError(f"--require: {name!r} may mean {', '.join(fitting)}; name one of them")
    short = {"_".join(_words(known, profile)): known for known in reversed(names)}
    if "label" in name.lower() and not any("_label_" in known for known in names):
        raise ConfigError(
            f"--require: {name!r} needs --label-classes, which names the labels beforehand"
        )
    near = get_close_matches("_".join(wanted), short, n=_NEAR, cutoff=0.5)
    listed = [short[key] for key in near] or list(names[:_NEAR])
    raise ConfigError(
        f"--require: no metric {name!r} under the profile {profile.name}; near it are "
        f"{', '.join(listed)}"
    )


def _words(name: str, profile: Profile) -> list[str]:
    """Return the words of a name in alphabetical order, without units and profile."""
    plain = name.lower().replace("-", "_").removesuffix("_" + profile.name.replace("-", "_"))
    return sorted(set(plain.split("_")) - _LEFT_OUT)


def metric_values(
    profile: Profile, tissues: Sequence[str], label_classes: str | None = None
) -> list[str]:
    """Return the names of all values that a case can have, without counts of voxels.

    Args:
        profile: The definition of the metrics.
        tissues: Names of the tissue classes.
        label_classes: A set of classes of label maps, None if there are none.
    """
    unit = "_hu" if profile.units == "HU" else ""
    names = [f"mae{unit}", f"bias{unit}", "psnr_db", profile.structure_key, f"rmse{unit}", "ncc"]
    names += ["mutual_information_nats"]
    if profile.units == "HU":
        for tissue in tissues:
            names += [f"mae_{tissue}_hu", f"bias_{tissue}_hu", f"dice_{tissue}"]
            names += [f"hd95_{tissue}_mm", f"surface_dice_{tissue}"]
        names += ["wepl_mae_mm", "wepl_p95_mm"]
    names += [f"flicker_{plane}" for plane in ("sagittal", "coronal", "axial")]
    names += ["power_ratio", "edge_width_ratio"]
    for label in LABEL_SETS[label_classes].values() if label_classes else ():
        names += [f"{score}_label_{label}" for score in ("dice", "hd95_mm", "surface_dice")]
    return names


def check_gates(
    gates: Sequence[Gate], summaries: Mapping[str, Mapping[str, Summary]]
) -> tuple[Requirement, ...]:
    """Say of every method whether it meets every condition.

    A mean without any value meets nothing. A metric that is infinite for a case has an infinite
    mean here: a missed structure is not averaged away.
    """
    requirements = []
    for method, summary in summaries.items():
        for gate in gates:
            value = _mean(summary.get(gate.metric))
            met = bool(_OPERATORS[gate.relation](value, gate.limit))
            requirements.append(Requirement(gate.text, gate.metric, value, met, method))
    return tuple(requirements)


def _mean(summary: Summary | None) -> float:
    if summary is None:
        return math.nan
    return math.inf if summary.infinite else summary.mean
