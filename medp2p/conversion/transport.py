"""Values from process to process; large arrays travel as memory that both processes see.

An array that goes through a pipe is copied six times, and each copy asks the system for fresh
memory. Where the system has memory without a name (Linux, ``memfd_create``) large arrays are
written into it once and its descriptor is sent. Nothing is left behind however a process ends: the
memory goes with the last process that holds it.
"""

from __future__ import annotations

import mmap
import os
import pickle
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

LARGE_BYTES = 2**18
"""Smaller arrays go through the pipe."""

ALIGNED_BYTES = 64
"""Arrays begin at multiples of this, as processors like it."""


def send(pipe: Connection, value: Any) -> None:
    """Send what can be pickled.

    Raises:
        OSError: If the other end is closed, or memory runs out.
    """
    large: list[memoryview] = []

    def goes_through_pipe(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        is_large = raw.nbytes >= LARGE_BYTES and hasattr(os, "memfd_create")
        if is_large:
            large.append(raw)
        return not is_large

    message = pickle.dumps(value, protocol=5, buffer_callback=goes_through_pipe)
    places = _places([raw.nbytes for raw in large])
    pipe.send_bytes(pickle.dumps((message, places)))
    if large:
        memory = os.memfd_create("medp2p")
        try:
            for raw, (start, _) in zip(large, places, strict=True):
                _write(memory, raw, start)
            reduction.send_handle(pipe, memory, os.getpid())  # only Windows asks for the process
        finally:
            os.close(memory)


def receive(pipe: Connection) -> Any:
    """Wait for what `send` sends at the other end; arrays can be written to.

    Raises:
        EOFError: If the other end is closed.
        OSError: If it breaks.
    """
    message, places = pickle.loads(pipe.recv_bytes())
    if not places:
        return pickle.loads(message)
    memory = reduction.recv_handle(pipe)
    try:
        whole = memoryview(mmap.mmap(memory, places[-1][1]))
    finally:
        os.close(memory)
    return pickle.loads(message, buffers=[whole[start:end] for start, end in places])


def _places(sizes: list[int]) -> list[tuple[int, int]]:
    """Where each array begins and ends in the shared memory."""
    places, start = [], 0
    for size in sizes:
        places.append((start, start + size))
        start += -(-size // ALIGNED_BYTES) * ALIGNED_BYTES
    return places


def _write(file: int, data: memoryview, start: int) -> None:
    while data:
        written = os.pwrite(file, data, start)
        data, start = data[written:], start + written
