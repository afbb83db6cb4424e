"""The receiving side of a DICOM node: C-STORE and C-ECHO for known callers, within limits.

pynetdicom speaks the protocol. What it would take without bound is bounded here: connections,
the length of a protocol data unit and the time it takes, messages that are not answered yet, the
length of a message; a data set goes to the disk as it arrives. Whoever is refused is named in one
line of the log by AE title and address, and nothing of what was sent is.
"""

from __future__ import annotations

import errno
import logging
import ssl
import threading
import time
from socketserver import BaseServer
from types import TracebackType
from typing import Any

from pydicom import Dataset
from pydicom.uid import AllTransferSyntaxes
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_RELEASE
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from medp2p.errors import OutputError
from medp2p.inspection import printable
from medp2p.io.dicom_codecs import codec_is_available
from medp2p.io.dicom_files import MODALITY_OF_CLASS
from medp2p.node.messages import Messages
from medp2p.node.objects import CANNOT_UNDERSTAND, RefusedObjectError
from medp2p.node.settings import Listening
from medp2p.node.sockets import BoundedSocket, BoundedTlsSocket, UnitReader
from medp2p.node.spool import Spool

_logger = logging.getLogger(__name__)

_config.LOG_HANDLER_LEVEL = "none"
_logger_of_pynetdicom = logging.getLogger("pynetdicom")
_logger_of_pynetdicom.addHandler(logging.NullHandler())
_logger_of_pynetdicom.propagate = False  # its lines quote what was sent

_POLL_SECONDS = 0.5

MORE_CONNECTIONS = 8
"""So many above the limit are told that there are too many; others are just closed."""

_REJECTED, _FOR_NOW = 1, 2
_BY_USER, _BY_PROVIDER = 1, 3
_CALLING_TITLE, _CALLED_TITLE, _TOO_MANY = 3, 7, 2
"""Of A-ASSOCIATE-RJ (PS3.8 table 9-21): result, source, reason."""


def readable_transfer_syntaxes() -> list[str]:
    """Return the transfer syntaxes that `medp2p.io` can read with what is installed.

    Without deflated data sets: a small one may inflate to any size as soon as it is looked at.
    """
    bounded = [syntax for syntax in AllTransferSyntaxes if not syntax.is_deflated]
    return [str(syntax) for syntax in bounded if _is_readable(str(syntax))]


def _is_readable(transfer_syntax: str) -> bool:
    try:
        return codec_is_available(transfer_syntax)
    except NotImplementedError:
        return False


class Receiver:
    """Listens from when the context is entered until it is left.

    Args:
        spool: Where objects go.
        listening: Where, for whom and how much.

    Raises:
        OutputError: If the port cannot be bound.
    """

    def __init__(self, spool: Spool, listening: Listening) -> None:
        self.spool = spool
        self.listening = listening

    def __enter__(self) -> Receiver:
        limits = self.listening.limits
        entity = AE(self.listening.ae_title)
        entity.maximum_pdu_size = limits.pdu_bytes
        entity.maximum_associations = limits.associations + 2 * MORE_CONNECTIONS
        entity.acse_timeout = limits.request_seconds
        entity.network_timeout = limits.idle_seconds
        entity.dimse_timeout = limits.message_seconds
        entity.connection_timeout = limits.request_seconds
        syntaxes = readable_transfer_syntaxes()
        contexts = [build_context(kind, syntaxes) for kind in MODALITY_OF_CLASS]
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._admit),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_ACSE_RECV, self._end_before_answer),
        ]
        address = (self.listening.host, self.listening.port)
        try:
            self._server = _Server(
                entity,
                address,
                self.listening.ae_title,
                [build_context(Verification), *contexts],
                evt_handlers=handlers,
                request_handler=_Handler,
                receiver=self,
            )
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            reason = "something listens there already" if in_use else error.strerror or str(error)
            raise OutputError(
                f"{address[0]} port {address[1]}: cannot be listened to: {reason}"
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(0.0 if kind else self.listening.limits.pdu_seconds)

    @property
    def port(self) -> int:
        """The TCP port that is bound."""
        return int(self._server.server_address[1])

    def stop(self, grace_seconds: float) -> None:
        """Take no more associations, let those that are open end, then abort them."""
        self._server.stop_listening()
        self._thread.join()
        end = time.monotonic() + grace_seconds
        while self._server.connections and time.monotonic() < end:
            time.sleep(0.05)
        for association in self._server.active_associations:
            association.abort()

    # What pynetdicom asks; in threads of associations

    def _admit(self, event: evt.Event) -> None:
        """Accept an association request, or reject it."""
        association: Any = event.assoc
        request: Any = association.requestor.primitive
        calling = str(request.calling_ae_title or "").strip()
        address = association.requestor.address
        if self._server.connections > self.listening.limits.associations:
            reason, answer = "too many associations", (_FOR_NOW, _BY_PROVIDER, _TOO_MANY)
        elif str(request.called_ae_title or "").strip() != self.listening.ae_title:
            reason, answer = "called another AE title", (_REJECTED, _BY_USER, _CALLED_TITLE)
        elif not self.listening.allows(calling, address):
            reason, answer = "is not allowed to send", (_REJECTED, _BY_USER, _CALLING_TITLE)
        else:
            association.dimse.is_admitted = True
            _logger.info("%s: association", _name_of(association, calling))
            return
        _refuse(_name_of(association, calling), reason)
        association.acse.send_reject(*answer)
        association.kill()

    def _store(self, event: evt.Event) -> Dataset:
        """Keep an object; the answer goes out when this returns."""
        messages: Any = event.assoc.dimse
        answer = Dataset()
        answer.Status = 0
        try:
            received = messages.take_object()
            if received is None:
                raise RefusedObjectError(CANNOT_UNDERSTAND, "no data set")
            self.spool.keep(received, messages.session)
        except RefusedObjectError as refusal:
            _refuse(_name_of(event.assoc), f"object refused: {refusal}")
            answer.Status = refusal.status
            answer.ErrorComment = str(refusal)
        except Exception as error:
            _logger.debug("unexpected", exc_info=True)
            messages.session.lost_objects = True
            _refuse(_name_of(event.assoc), f"object refused: {type(error).__name__}")
            answer.Status = CANNOT_UNDERSTAND
        return answer

    def _end_before_answer(self, event: evt.Event) -> None:
        """Tell the spool of a release before the caller hears that it was granted."""
        messages: Any = event.assoc.dimse
        primitive: Any = event.primitive  # type: ignore[attr-defined]
        if isinstance(primitive, A_RELEASE) and messages.is_admitted and messages.is_idle:
            self.spool.end(messages.session, released=True)


class _Server(ThreadedAssociationServer):
    """Accepts connections, so many at a time; each has a thread that lasts as long as it does."""

    request_queue_size = 64
    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any, receiver: Receiver, **options: Any) -> None:
        self.receiver = receiver
        self.connections = 0
        self._count = threading.Lock()
        super().__init__(*arguments, **options)
        self._tls = receiver.listening.tls
        if self._tls:
            self._tls.sslsocket_class = BoundedTlsSocket

    def get_request(self) -> Any:
        """Accept a connection; TLS is agreed upon in its own thread, so nobody waits for it."""
        assert self.socket is not None
        client, address = self.socket.accept()
        limits = self.receiver.listening.limits
        client.settimeout(limits.request_seconds)
        bounded: Any
        if self._tls:
            bounded = self._tls.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        else:
            bounded = BoundedSocket(fileno=client.detach())
        bounded.reader = UnitReader(limits)
        return bounded, address

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        """Close connections at once that nobody may make, and those that are far too many."""
        listening = self.receiver.listening
        reason = listening.refusal_of_address(client_address[0])
        with self._count:
            if self.connections >= listening.limits.associations + MORE_CONNECTIONS:
                reason = reason or "too many connections"
            if not reason:
                self.connections += 1
        if reason:
            _refuse(client_address[0], reason)
        return not reason

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection until it is closed."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._count:
                self.connections -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Say in one line what ended a connection."""
        _logger.debug("unexpected", exc_info=True)
        _refuse(client_address[0], "connection ended by an error")

    def stop_listening(self) -> None:
        """Accept no more connections."""
        BaseServer.shutdown(self)
        self.server_close()


class _Handler(RequestHandler):
    """Serves one connection."""

    server: _Server

    def handle(self) -> None:
        """Agree upon TLS, run the association to its end, and tell the spool how it ended."""
        if isinstance(self.request, ssl.SSLSocket):
            try:
                self.request.do_handshake()
            except (OSError, ValueError) as error:
                _refuse(self.client_address[0], f"no TLS that is accepted ({_in_a_word(error)})")
                self.server.shutdown_request(self.request)
                return
        spool, limits = self.server.receiver.spool, self.server.receiver.listening.limits
        association = self._create_association()
        messages = Messages(association, spool, limits)
        association.dimse = messages
        try:
            association.start()
            association.join()
            association.dul.join(limits.pdu_seconds)
        finally:
            messages.discard()
            spool.end(messages.session, released=False)
            self.server.shutdown_request(self.request)
        reason = messages.refusal or self.request.reader.refusal
        if not messages.is_admitted and not association.is_rejected:
            reason = reason or "asked for no association that can be understood"
        if reason:
            _refuse(_name_of(association), reason)
        elif messages.is_admitted and not association.is_released:
            _logger.warning("%s broke off", _name_of(association))


def _name_of(association: Association, title: str = "") -> str:
    title = title or association.requestor.ae_title
    return f"{printable(title) or '?'}@{association.requestor.address}"


def _refuse(caller: str, reason: str) -> None:
    _logger.warning("refused %s: %s", caller, reason)


def _in_a_word(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or type(error).__name__).lower().replace("_", " ")
