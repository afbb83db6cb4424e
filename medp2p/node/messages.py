"""Messages of an association (PS3.7) put together from fragments, in bounded memory."""

from __future__ import annotations

import logging
import time
from io import BytesIO

from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dsutils import decode
from pynetdicom.pdu_primitives import P_DATA

from medp2p.node.objects import IncomingObject, TooLargeError
from medp2p.node.settings import Limits
from medp2p.node.spool import Spool

_logger = logging.getLogger(__name__)

_LONGEST_COMMAND_BYTES = 16 * 2**10
_C_STORE_RQ, _C_ECHO_RQ = 0x0001, 0x0030
_NO_DATA_SET = 0x0101
_IS_COMMAND, _IS_LAST = 1, 2
"""Bits of the message control header (PS3.8 E.2)."""


class _NotAcceptableError(Exception):
    """A fragment that ends the association; the text says why, without what was sent."""


class Messages(DIMSEServiceProvider):
    """Takes requests of C-ECHO and C-STORE, one at a time; anything else ends the association.

    A data set goes to a file of the spool as it arrives; pynetdicom sees an empty one.

    Attributes:
        session: The association, as the spool sees it.
        is_admitted: Whether it was accepted.
        refusal: Why the association was ended from here; empty if it was not.

    Args:
        association: Whose messages.
        spool: Where objects go.
        limits: How long a message may take.
    """

    def __init__(self, association: Association, spool: Spool, limits: Limits) -> None:
        super().__init__(association)
        self.session = spool.begin()
        self.is_admitted = False
        self.refusal = ""
        self._spool = spool
        self._limits = limits
        self._command = b""
        self._context_id = 0
        self._arriving: IncomingObject | None = None
        self._arrived: IncomingObject | None = None
        self._last_message = time.monotonic()

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take in fragments; called by the thread that reads the connection."""
        if self.refusal:
            return
        try:
            if time.monotonic() - self._last_message > self._limits.message_seconds:
                raise _NotAcceptableError("a message took too long")
            for context_id, fragment in primitive.presentation_data_value_list:
                self._take_in(context_id, fragment)
        except _NotAcceptableError as refusal:
            self._end(str(refusal))
        except TooLargeError:
            self._end("an object is too large")
        except Exception as error:  # whatever pydicom and pynetdicom stumble over
            _logger.debug("unexpected", exc_info=True)
            self._end(f"sent a message that is damaged ({type(error).__name__})")

    @property
    def is_idle(self) -> bool:
        """Whether all that came was answered."""
        return not (self._command or self._arriving or self._arrived)

    def take_object(self) -> IncomingObject | None:
        """Return the object of the request that is being served; the caller discards it."""
        taken, self._arrived = self._arrived, None
        return taken

    def discard(self) -> None:
        """Remove what was not taken; after the association's end."""
        for left in (self._arriving, self._arrived):
            if left:
                left.discard()

    def _end(self, reason: str) -> None:
        self.refusal = reason
        self.dul.event_queue.put("Evt19")  # aborts, as after any message that is invalid

    def _take_in(self, context_id: int, fragment: bytes) -> None:
        header, data = fragment[0], fragment[1:]
        is_last = bool(header & _IS_LAST)
        if header & _IS_COMMAND:
            self._take_in_command(context_id, data, is_last)
        else:
            self._take_in_data(context_id, data, is_last)
        if is_last:
            self._last_message = time.monotonic()

    def _take_in_command(self, context_id: int, data: bytes, is_last: bool) -> None:
        if self._arriving or self._arrived or not self.msg_queue.empty():
            raise _NotAcceptableError("sent a message before the last one was answered")
        self._command += data
        if len(self._command) > _LONGEST_COMMAND_BYTES:
            raise _NotAcceptableError("a command is too long")
        if not is_last:
            return
        command, self._command = self._command, b""
        asked = decode(BytesIO(command), True, True)
        has_data = asked.CommandDataSetType != _NO_DATA_SET
        if (asked.CommandField, has_data) == (_C_STORE_RQ, True):
            self._context_id = context_id
            self._arriving = self._begin_object(
                context_id, UID(asked.AffectedSOPClassUID), UID(asked.AffectedSOPInstanceUID)
            )
        elif (asked.CommandField, has_data) != (_C_ECHO_RQ, False):
            raise _NotAcceptableError("asked for something else than C-STORE and C-ECHO")
        self._pass_on(context_id, bytes([_IS_COMMAND | _IS_LAST]) + command)

    def _begin_object(self, context_id: int, kind: UID, instance: UID) -> IncomingObject:
        contexts = {context.context_id: context for context in self.assoc.accepted_contexts}
        context = contexts.get(context_id)
        if context is None or context.abstract_syntax != kind:
            raise _NotAcceptableError("an object of a kind that was not agreed upon")
        if not instance.is_valid:
            raise _NotAcceptableError("an object without a valid UID")
        return self._spool.receive(kind, instance, UID(context.transfer_syntax[0]))

    def _take_in_data(self, context_id: int, data: bytes, is_last: bool) -> None:
        if self._arriving is None or context_id != self._context_id:
            raise _NotAcceptableError("sent data without a command")
        self._arriving.write(data)
        if is_last:
            self._arrived, self._arriving = self._arriving, None
            self._pass_on(context_id, bytes([_IS_LAST]))

    def _pass_on(self, context_id: int, fragment: bytes) -> None:
        """Let pynetdicom make a request of it, and serve that in the association's thread."""
        part = P_DATA()
        part.presentation_data_value_list.append((context_id, fragment))
        super().receive_primitive(part)
