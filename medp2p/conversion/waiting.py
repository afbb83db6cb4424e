"""Scans that are not begun yet."""

from __future__ import annotations

import time
from collections.abc import Collection

from medp2p.conversion.scans import Scan

ASK_AGAIN_SECONDS = 2.0
"""How often scans are looked at that another run has."""


class Waiting:
    """Scans that wait to be begun, the last that came of each name."""

    def __init__(self) -> None:
        self._scans: dict[str, Scan] = {}
        self._elsewhere: dict[str, Scan] = {}  # another run has them
        self._ask_again = 0.0

    @property
    def names(self) -> set[str]:
        """Of all."""
        return {*self._scans, *self._elsewhere}

    def add(self, scan: Scan) -> None:
        """Add a scan that has arrived; it replaces the one of its name."""
        self._elsewhere.pop(scan.name, None)
        self._scans[scan.name] = scan

    def forget(self, name: str) -> None:
        """Leave out what waits under a name."""
        self._scans.pop(name, None)
        self._elsewhere.pop(name, None)

    def put_back(self, scan: Scan, *, elsewhere: bool = False) -> None:
        """Let a scan wait again, unless it has come again meanwhile.

        Args:
            scan: Which.
            elsewhere: Whether another run has it.
        """
        if scan.name not in self._scans:
            (self._elsewhere if elsewhere else self._scans)[scan.name] = scan

    def next(self, under_way: Collection[str]) -> Scan | None:
        """Return the next scan; one that came again while it is under way has to wait."""
        if self._elsewhere and time.monotonic() > self._ask_again:
            self._ask_again = time.monotonic() + ASK_AGAIN_SECONDS
            self._scans |= self._elsewhere
            self._elsewhere = {}
        return next((scan for name, scan in self._scans.items() if name not in under_way), None)

    def remove(self, scan: Scan) -> None:
        """Take out a scan that begins."""
        del self._scans[scan.name]
