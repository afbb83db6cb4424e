"""What a DICOM node is told: its own name, who may call, how much, and where results go."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medp2p.errors import ConfigError

AE_TITLE = re.compile(r"[ -\[\]-~]{1,16}")
"""Up to 16 printable ASCII characters without a backslash (PS3.5 6.2, AE)."""


@dataclass(frozen=True)
class Limits:
    """How much callers may take; whoever takes more is refused.

    Attributes:
        associations: At once.
        pdu_bytes: Of one protocol data unit (PS3.8 9.3).
        object_bytes: Of one object.
        spool_bytes: Of all that lies in the spool.
        free_bytes: That are left free on its disk.
        request_seconds: From the connection to the association request (ACSE, ARTIM timer).
        pdu_seconds: From the first to the last byte of a protocol data unit.
        idle_seconds: Between two of them.
        message_seconds: From one whole message to the next (DIMSE).
    """

    associations: int = 16
    pdu_bytes: int = 128 * 2**10
    object_bytes: int = 2 * 2**30
    spool_bytes: int = 100 * 2**30
    free_bytes: int = 2 * 2**30
    request_seconds: float = 10.0
    pdu_seconds: float = 30.0
    idle_seconds: float = 60.0
    message_seconds: float = 600.0


@dataclass(frozen=True)
class Caller:
    """Who may send.

    Attributes:
        ae_title: Its application entity title.
        addresses: IP addresses it may call from; empty for any.
    """

    ae_title: str
    addresses: frozenset[str] = frozenset()

    def may_call_from(self, address: str) -> bool:
        """Whether an IP address is one of its own."""
        return not self.addresses or str(_ip_address(address)) in self.addresses


@dataclass(frozen=True)
class Destination:
    """Where results go.

    Attributes:
        ae_title: Its application entity title.
        host: Name or address.
        port: TCP port.
        tls: How the connection is secured; None for plain TCP.
    """

    ae_title: str
    host: str
    port: int
    tls: ssl.SSLContext | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.ae_title}@{self.host}:{self.port}"


@dataclass(frozen=True)
class Listening:
    """Where and for whom a node listens.

    Attributes:
        ae_title: The node's own.
        host: Address that is bound.
        port: TCP port; 0 for any that is free.
        callers: Who may send; empty for anybody on this machine, and nobody else.
        limits: How much.
        tls: How connections are secured; None for plain TCP.
    """

    ae_title: str = "MEDP2P"
    host: str = "127.0.0.1"
    port: int = 11112
    callers: tuple[Caller, ...] = ()
    limits: Limits = Limits()
    tls: ssl.SSLContext | None = None

    def refusal_of_address(self, address: str) -> str:
        """Say why nobody may call from an IP address; empty if somebody may."""
        if not self.callers:
            return "" if _is_loopback(address) else "is not on this machine, and --allow names none"
        known = any(caller.may_call_from(address) for caller in self.callers)
        return "" if known else "is an address that --allow does not name"

    def allows(self, ae_title: str, address: str) -> bool:
        """Whether a caller may send."""
        if not self.callers:
            return _is_loopback(address)
        return any(
            caller.ae_title == ae_title and caller.may_call_from(address) for caller in self.callers
        )


def check_ae_title(text: str, option: str) -> str:
    """Return an application entity title without the spaces around it, which do not count.

    Raises:
        ConfigError: If it is none.
    """
    title = text.strip(" ")
    if not AE_TITLE.fullmatch(title):
        raise ConfigError(
            f"{option} {text!r}: expected an AE title of 1 to 16 ASCII characters, no backslash"
        )
    return title


def parse_caller(text: str) -> Caller:
    """Read ``AE`` or ``AE@host``.

    Raises:
        ConfigError: If it is neither, or the host has no address.
    """
    title, _, host = text.partition("@")
    title = check_ae_title(title, "--allow")
    if not host:
        return Caller(title)
    try:
        found = socket.getaddrinfo(host.strip("[]"), None)
    except OSError as error:
        raise ConfigError(f"--allow {text!r}: the host has no address; name another") from error
    return Caller(title, frozenset(str(_ip_address(str(entry[4][0]))) for entry in found))


def parse_destination(text: str) -> Destination:
    """Read ``AE@host:port``.

    Raises:
        ConfigError: If it is something else.
    """
    title, _, place = text.partition("@")
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"--to {text!r}: expected AE@host:port, such as ARCHIVE@pacs:104")
    return Destination(check_ae_title(title, "--to"), host.strip("[]"), int(port))


def server_tls(certificate: Path, key: Path, authorities: Path | None) -> ssl.SSLContext:
    """Secure connections from callers, TLS 1.2 or later.

    Args:
        certificate: The node's own, PEM, with those that lead to its authority.
        key: Its private key, PEM.
        authorities: Who signs callers' certificates; None if callers need none.

    Raises:
        ConfigError: If a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, certificate, key, authorities)
    if authorities:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_tls(authorities: Path, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Secure connections to the destination, whose certificate must be for its host.

    Args:
        authorities: Who signs the destination's certificate, PEM.
        certificate: The node's own, PEM, if the destination asks for one.
        key: Its private key, PEM.

    Raises:
        ConfigError: If a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, certificate, key, authorities)
    return context


def _load(
    context: ssl.SSLContext, certificate: Path | None, key: Path | None, authorities: Path | None
) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    files: Sequence[Path | None] = (certificate, key)
    try:
        if certificate:
            context.load_cert_chain(certificate, key)
        files = (authorities,)
        if authorities:
            context.load_verify_locations(authorities)
    except OSError as error:  # SSLError is one
        names = " and ".join(str(file) for file in files if file)
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"{names}: cannot be used for TLS: {reason}; expected PEM") from error


def _is_loopback(address: str) -> bool:
    return _ip_address(address).is_loopback


def _ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Read an address without its zone; where IPv6 carries an IPv4 address, that one."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address
