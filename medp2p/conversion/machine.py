"""What this machine, or the part of it that a cluster gave us, has free."""

from __future__ import annotations

from pathlib import Path

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)
"""Limit and use of memory of this process's group, versions 2 and 1 (cgroups(7))."""

_WITHOUT_PROC = 4 * 2**30


def free_memory_bytes() -> int:
    """Memory that can be used before anything is swapped out or killed."""
    free = [_available(), *(_left(Path(limit), Path(used)) for limit, used in _CGROUPS)]
    return min((n for n in free if n is not None), default=_WITHOUT_PROC)


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    values = dict(line.split(":", 1) for line in lines)
    return int(values["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in values else None


def _left(limit: Path, used: Path) -> int | None:
    """What a group may still use; None without a limit."""
    try:
        return max(0, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):
        return None
