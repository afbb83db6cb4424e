"""What goes from process to process arrives as it was, and leaves nothing behind."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from medp2p.conversion.transport import LARGE_BYTES, receive, send

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


def there_and_back(value):
    here, there = multiprocessing.Pipe()
    sender = threading.Thread(target=send, args=(here, value))
    sender.start()
    received = receive(there)
    sender.join()
    return received


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(101, 83, 67)).astype(np.float32)
    return {
        "plain": volume,
        "Fortran": np.asfortranarray(volume[:, :, :-1] > 0),
        "odd size": rng.integers(0, 255, LARGE_BYTES + 13, np.uint8),
        "sliced": volume[::2, ::-1],
        "empty": np.empty((0, 5)),
        "small": np.arange(7),
    }


@pytest.mark.parametrize("has_shared_memory", [True, False])
def test_arrays_arrive_as_they_were(monkeypatch, has_shared_memory):
    if not has_shared_memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    value = arrays()
    received = there_and_back({"arrays": value, "text": "x", "again": value["plain"]})
    assert received["text"] == "x"
    assert received["again"] is received["arrays"]["plain"]
    for name, array in value.items():
        other = received["arrays"][name]
        np.testing.assert_array_equal(other, array)
        assert other.dtype == array.dtype
        assert other.flags.aligned
        assert other.flags.writeable


def test_what_the_other_changes_is_its_own():
    array = np.zeros(LARGE_BYTES, np.uint8)
    received = there_and_back(array)
    received[:] = 1
    assert not array.any()
    array[:] = 2
    assert (received == 1).all()


def _send_many(pipe: Connection, count: int) -> None:
    for number in range(count):
        send(pipe, np.full((300, 1000), number, np.float32))
    send(pipe, "end")
    pipe.close()


@linux
def test_memory_and_descriptors_are_given_back():
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_send_many, args=(theirs, 200))
    process.start()
    theirs.close()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(200):
        array = receive(ours)
        assert (array == number).all()
    del array
    assert receive(ours) == "end"
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert "medp2p" not in Path("/proc/self/maps").read_text()
    with pytest.raises(EOFError):
        receive(ours)
    process.join()
    assert process.exitcode == 0


def _send_half(pipe: Connection) -> None:
    """Announce an array, and end before it."""
    from medp2p.conversion import transport

    transport.reduction.send_handle = lambda *_: os._exit(1)
    send(pipe, np.zeros(LARGE_BYTES, np.uint8))


@linux
def test_a_sender_that_dies_in_the_middle_is_noticed():
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_send_half, args=(theirs,))
    process.start()
    theirs.close()
    with pytest.raises(EOFError):
        receive(ours)
    process.join()
