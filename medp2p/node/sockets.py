"""Sockets that read protocol data units (PS3.8 9.3.1) of bounded length in bounded time."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable

from medp2p.node.settings import Limits

_HEADER_BYTES = 6
_TYPES = range(1, 8)


class UnitReader:
    """Reads from a connection, and looks at the six bytes that say a unit's type and length.

    Attributes:
        refusal: Why nothing more is read; empty unless something was refused.

    Args:
        limits: How long a unit may be, and how much time it may take.
    """

    def __init__(self, limits: Limits) -> None:
        self.refusal = ""
        self._limits = limits
        self._header = b""
        self._left = 0
        self._due = 0.0

    def read(
        self, connection: socket.socket, receive: Callable[[int], bytes], wanted: int
    ) -> bytes:
        """Read at most what is left of the unit under way.

        Args:
            connection: Whose time limit is set.
            receive: Reads from it.
            wanted: How many bytes at most.

        Raises:
            ConnectionAbortedError: If the unit is too long, comes too slowly, or is none, and at
                every call after that.
        """
        if not self._header and not self._left:
            self._due = time.monotonic() + self._limits.pdu_seconds
        patience = self._due - time.monotonic()
        if self.refusal or patience <= 0:
            raise self.refuse("a protocol data unit took too long")
        connection.settimeout(patience)
        try:
            data = receive(min(wanted, self._left or _HEADER_BYTES - len(self._header)))
        except TimeoutError:
            raise self.refuse("a protocol data unit took too long") from None
        finally:
            connection.settimeout(self._limits.pdu_seconds)  # for what is sent
        if self._left:
            self._left -= len(data)
        else:
            self._header += data
            if len(self._header) == _HEADER_BYTES:
                self._left = self._checked_length()
                self._header = b""
        return data

    def refuse(self, reason: str) -> ConnectionAbortedError:
        """Read nothing more; the first reason counts."""
        self.refusal = self.refusal or reason
        return ConnectionAbortedError(self.refusal)

    def _checked_length(self) -> int:
        length = int.from_bytes(self._header[2:])
        if self._header[0] not in _TYPES:
            raise self.refuse("sent something that is no DICOM")
        if length > self._limits.pdu_bytes:
            raise self.refuse("a protocol data unit is too long")
        return length


class BoundedSocket(socket.socket):
    """Plain TCP."""

    reader: UnitReader

    def recv(self, size: int, flags: int = 0) -> bytes:  # noqa: ARG002
        """Read from the unit under way."""
        return self.reader.read(self, super().recv, size)


class BoundedTlsSocket(ssl.SSLSocket):
    """TCP with TLS."""

    reader: UnitReader

    def recv(self, size: int = 1024, flags: int = 0) -> bytes:  # noqa: ARG002
        """Read from the unit under way."""
        return self.reader.read(self, super().recv, size)
