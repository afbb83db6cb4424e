"""Scans under way, and whether there is room for one more."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medp2p.conversion.claims import Claim
from medp2p.conversion.scans import Scan
from medp2p.conversion.work import WasPredicted, WasRead
from medp2p.files import output_errors

BYTES_PER_VOXEL = 64
"""Memory that a scan takes at most while it is read, predicted or written, per source voxel."""

UNKNOWN_SCAN_BYTES = 2**30
"""Memory for a scan whose header does not say its size."""

OUTPUT_BYTES_PER_VOXEL = 4
SPARE_DISK_BYTES = 2**20
"""Disk space that is left free, for the journal."""

Stage = Literal["queued", "reading", "read", "predicting", "predicted", "writing"]


def memory_bytes_of(scan: Scan) -> int:
    """What a scan takes at most while it is read, predicted or written."""
    return scan.voxels * len(scan.images) * BYTES_PER_VOXEL or UNKNOWN_SCAN_BYTES


@dataclass(eq=False)
class UnderWay:
    """A scan under way: begun, and not yet done, skipped or failed.

    Attributes:
        scan: Which.
        target: Where its result will lie below the output folder.
        stage: Where it is.
        began: When, of `time.monotonic`.
        claim: None while it is only looked at.
        read: Once it was read.
        codes: For the network, once it was read.
        rest: All else of the scan, once it was read.
        prediction: Once it was predicted.
        unit: What was predicted.
        writes: How often it was begun to be written.
        deaths: How many workers died at it.
        late: Whether its worker was killed for being late.
        is_outdated: Whether its files have changed since it was begun.
    """

    scan: Scan
    target: str
    stage: Stage = "queued"
    began: float = field(default_factory=time.monotonic)
    claim: Claim | None = None
    read: WasRead | None = None
    codes: Any = None
    rest: Any = None
    prediction: WasPredicted | None = None
    unit: Any = None
    writes: int = 0
    deaths: int = 0
    late: bool = False
    is_outdated: bool = False

    def step_back(self) -> None:
        """Return to the stage before the one that broke off."""
        steps: dict[Stage, Stage] = {
            "reading": "queued",
            "predicting": "read",
            "writing": "predicted",
        }
        self.stage = steps.get(self.stage, self.stage)

    def begin_again(self) -> None:
        """Return to the beginning, without what was read and predicted."""
        self.stage = "queued"
        self.read = self.codes = self.rest = self.prediction = self.unit = None


def is_room_for(
    scan: Scan, under_way: Collection[UnderWay], most_scans: int, memory_bytes: int
) -> bool:
    """Whether one more scan may be begun; one that needs more than all memory is alone."""
    if len(under_way) >= most_scans:
        return False
    if any(one.deaths and one.stage == "reading" for one in under_way):
        return False
    used = sum(memory_bytes_of(one.scan) for one in under_way)
    return not under_way or used + memory_bytes_of(scan) <= memory_bytes


def is_disk_space_for(scan: Scan, under_way: Collection[UnderWay], output: Path) -> bool:
    """Whether the results of all that is under way and of one more scan fit on the disk.

    Raises:
        OutputError: If the output folder is gone.
    """
    voxels = scan.voxels + sum(one.scan.voxels for one in under_way)
    wanted = voxels * OUTPUT_BYTES_PER_VOXEL + SPARE_DISK_BYTES
    return free_bytes(output) >= wanted


def free_bytes(output: Path) -> int:
    """How much is free on the disk of the results.

    Raises:
        OutputError: If the output folder is gone.
    """
    with output_errors(output):
        return shutil.disk_usage(output).free
