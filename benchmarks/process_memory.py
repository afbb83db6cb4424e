"""Memory and CPU time of a process and all that it starts; Linux only, read from /proc."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path


def family(pid: int) -> Iterator[int]:
    """Yield a process and, below it, every process that it or they started."""
    yield pid
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = tasks.read_text().split()
        except OSError:
            continue
        for child in children:
            yield from family(int(child))


def memory_mib(pid: int) -> float:
    """Return the proportional set size of a process; 0 once it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line[:4] == "Pss:")


def cpu_seconds(pid: int) -> float:
    """Return what a process has computed so far; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_over_time(
    process: subprocess.Popen[bytes], seconds_between_looks: float
) -> list[tuple[float, float]]:
    """Wait for a process; return seconds since now and MiB of it and of all that it started."""
    began = time.perf_counter()
    looks = []
    while process.poll() is None:
        mib = sum(map(memory_mib, family(process.pid)))
        looks.append((time.perf_counter() - began, mib))
        time.sleep(seconds_between_looks)
    return looks
