"""The versions that a result may depend on."""

from __future__ import annotations

import platform
from importlib.metadata import version

LIBRARIES = ("medp2p", "torch", "numpy", "SimpleITK", "scipy", "scikit-image")


def library_versions() -> dict[str, str]:
    """Return the versions of Python, medp2p and the libraries that compute for it."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}
