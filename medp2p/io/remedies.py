"""Commands that errors name, ready to be copied."""

from __future__ import annotations

import shlex
from pathlib import Path


def convert_with(path: Path, option: str) -> str:
    """Return the ``medp2p convert`` command that reads ``path`` with an option."""
    return f"medp2p convert {shlex.quote(str(path))} OUT {option}"
