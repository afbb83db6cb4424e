"""Trouble of the disk that ends a run, since no scan could be written."""

from __future__ import annotations

import errno
from typing import Literal, get_args

DiskTrouble = Literal["disk_full", "read_only", "disk_error"]
DISK_TROUBLES: tuple[DiskTrouble, ...] = get_args(DiskTrouble)

_TROUBLES: dict[int, DiskTrouble] = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EROFS: "read_only",
    errno.EIO: "disk_error",
}


def disk_trouble(error: BaseException | None) -> DiskTrouble | None:
    """Which trouble of the disk is behind an error, if any."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _TROUBLES:
            return _TROUBLES[error.errno]
        error = error.__cause__
    return None
