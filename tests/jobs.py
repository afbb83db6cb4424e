"""Jobs for processes, in a module of their own so that these start quickly."""

from __future__ import annotations

import os
import signal

from medp2p.errors import MedP2PError


def square_or_die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 4:
        raise MedP2PError("four is not allowed")
    return number * number
