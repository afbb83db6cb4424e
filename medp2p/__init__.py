"""medp2p: translate one kind of medical scan into another, and judge the result.

The names below are the public API; each loads what it needs when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medp2p.checkpoint import load_model as load_model
    from medp2p.errors import MedP2PError as MedP2PError
    from medp2p.inference import translate as translate
    from medp2p.io import DicomOptions as DicomOptions
    from medp2p.io import DicomOutput as DicomOutput
    from medp2p.io import read_volume as read_volume
    from medp2p.io import write_dicom_series as write_dicom_series
    from medp2p.io import write_volume as write_volume
    from medp2p.volume import Volume as Volume

__version__ = "0.1.0"

_HOMES = {
    "DicomOptions": "medp2p.io",
    "DicomOutput": "medp2p.io",
    "MedP2PError": "medp2p.errors",
    "Volume": "medp2p.volume",
    "load_model": "medp2p.checkpoint",
    "read_volume": "medp2p.io",
    "translate": "medp2p.inference",
    "write_dicom_series": "medp2p.io",
    "write_volume": "medp2p.io",
}

__all__ = [
    "DicomOptions",
    "DicomOutput",
    "MedP2PError",
    "Volume",
    "load_model",
    "read_volume",
    "translate",
    "write_dicom_series",
    "write_volume",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'medp2p' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
