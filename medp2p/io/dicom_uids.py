"""New DICOM UIDs that follow from what they name, so that the same inputs give the same UIDs."""

from __future__ import annotations

import hashlib
import re

from medp2p.errors import ConfigError

UUID_ROOT = "2.25"
"""The root of UIDs that are numbers of 128 bits and need no registration (PS3.5 B.2)."""

MAX_UID_LENGTH = 64
"""PS3.5 9.1."""

MIN_DIGITS = 24
"""Fewer digits than this could give two images one UID: 10^24 is about 2^80."""

MAX_ROOT_LENGTH = MAX_UID_LENGTH - MIN_DIGITS - 1
"""Characters of a root, without a dot at its end."""

DICOM_ROOT = "1.2.840.10008"
"""For what the standard itself registers (PS3.5 9); no image's UID may begin with it."""

_UUID_DIGITS = 38
_COMPONENT = r"(0|[1-9][0-9]*)"


def check_uid_root(root: str) -> str:
    """Return a root for UIDs as it is used, without a dot at its end.

    Raises:
        ConfigError: If it is no root (PS3.5 9.1), is DICOM's own or below it, or is longer than
            `MAX_ROOT_LENGTH`.
    """
    cut = root.removesuffix(".")
    if not re.fullmatch(rf"[0-2](\.{_COMPONENT})+", cut):
        raise ConfigError(
            f"{root!r} is no root for UIDs, expected whole numbers with dots between them and "
            "no leading zeros, such as 1.2.826.0.1.3680043.10.999"
        )
    if f"{cut}.".startswith(f"{DICOM_ROOT}."):
        raise ConfigError(
            f"{root!r} belongs to the DICOM standard, expected a root of your own; get one, or "
            "leave it out"
        )
    if len(cut) > MAX_ROOT_LENGTH:
        raise ConfigError(
            f"{root!r} is a root of {len(cut)} characters, expected at most {MAX_ROOT_LENGTH}, "
            f"so that new UIDs fit into {MAX_UID_LENGTH}"
        )
    return cut


def make_uid(root: str | None, identity: bytes, *names: object) -> str:
    """Make a UID for one thing.

    Args:
        root: From `check_uid_root`; None is `UUID_ROOT`.
        identity: What the UID follows from, such as a hash of the whole result.
        names: Which of its things, such as ``"image", 3``.

    Returns:
        At most 64 characters; another identity or name gives another.
    """
    root = root or UUID_ROOT
    digest = hashlib.sha256(repr((identity, *names)).encode()).digest()
    digits = min(MAX_UID_LENGTH - len(root) - 1, _UUID_DIGITS)
    return f"{root}.{int.from_bytes(digest[:16]) % 10**digits}"
