"""The sending side of a DICOM node: results go to a destination until it has acknowledged them."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from medp2p.conversion.records import content_of
from medp2p.errors import MedP2PError
from medp2p.io.dicom_files import quiet_pydicom
from medp2p.node.deliveries import Delivery, load_delivery
from medp2p.node.settings import Destination

_logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 600.0
"""The pause doubles from try to try."""

TIMEOUT_SECONDS = 30.0
WARNINGS = (0xB000, 0xB006, 0xB007)
"""Statuses of C-STORE with which an object is stored, too (PS3.4 B.2.3)."""

_TICK_SECONDS = 0.5
_NOT_AS_MADE = "it is not what the journal says"


class _NotSentError(Exception):
    """A try has failed; the text says why."""


@dataclass(eq=False)
class _Pending:
    """A result that is not sent yet.

    Attributes:
        delivery: How far it is.
        next_try: When, of `time.monotonic`.
        pause: Before the try after that, in seconds.
    """

    delivery: Delivery
    next_try: float = field(default_factory=time.monotonic)
    pause: float = field(default_factory=lambda: FIRST_PAUSE_SECONDS)


class Sender:
    """Sends results one after the other, in a thread of its own while the context lasts.

    Args:
        results: The folder of results.
        sent: Where it says what the destination has.
        destination: Where they go.
        ae_title: The node's own.
        retry_seconds: From the first try of a result until it is given up.
    """

    def __init__(
        self,
        results: Path,
        sent: Path,
        destination: Destination,
        ae_title: str,
        retry_seconds: float,
    ) -> None:
        self._results = results
        self._sent = sent
        self._destination = destination
        self._retry_seconds = retry_seconds
        self._entity = AE(ae_title)
        self._entity.acse_timeout = TIMEOUT_SECONDS
        self._entity.connection_timeout = TIMEOUT_SECONDS
        self._entity.dimse_timeout = TIMEOUT_SECONDS
        self._entity.network_timeout = TIMEOUT_SECONDS
        self._pending: dict[str, _Pending] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join(2 * TIMEOUT_SECONDS)

    def add(self, result: str, sha256: str) -> None:
        """Send a result, unless the destination has it or it was given up.

        Args:
            result: Path below the folder of results, of a DICOM series.
            sha256: What it holds.
        """
        delivery = load_delivery(self._sent, result, sha256, str(self._destination))
        is_over = delivery.ended == "sent" or (
            delivery.ended == "given_up" and self._is_late(delivery)
        )
        with self._lock:
            known = self._pending.get(result)
            if not is_over and not (known and known.delivery.sha256 == sha256):
                self._pending[result] = _Pending(delivery)

    def delivery_of(self, result: str, sha256: str) -> Delivery:
        """Say how far a result is."""
        return load_delivery(self._sent, result, sha256, str(self._destination))

    def _work(self) -> None:
        while not self._stopped.wait(_TICK_SECONDS):
            with self._lock:
                now = time.monotonic()
                due = [one for one in self._pending.values() if one.next_try <= now]
            for one in due:
                if self._stopped.is_set():
                    return
                if self._is_wanted(one):
                    self._try(one)

    def _try(self, one: _Pending) -> None:
        """Send a result, or put it off."""
        delivery = one.delivery
        try:
            if not delivery.began:
                delivery.note("began")
            if not self._send(delivery):
                return
            delivery.note("sent")
            _logger.info("sent %s", delivery.result)
            self._forget(one)
        except (_NotSentError, MedP2PError, OSError) as error:
            self._put_off(one, str(error))
        except Exception as error:  # whatever pydicom and pynetdicom stumble over
            _logger.debug("unexpected", exc_info=True)
            self._put_off(one, f"failed with {type(error).__name__}")

    def _put_off(self, one: _Pending, reason: str) -> None:
        delivery = one.delivery
        if not self._is_wanted(one):
            _logger.info("%s: another result has taken its place, which is sent", delivery.result)
            return
        if not self._is_late(delivery):
            _logger.warning(
                "not sent to %s: %s: %s; next try in %.0f s",
                self._destination,
                delivery.result,
                reason,
                one.pause,
            )
            one.next_try = time.monotonic() + one.pause
            one.pause = min(2 * one.pause, LONGEST_PAUSE_SECONDS)
            return
        _logger.error(
            "given up: %s: %s after %.1f hours of trying; it stays in the spool",
            delivery.result,
            reason,
            self._retry_seconds / 3600,
        )
        self._forget(one)
        try:
            delivery.note("given_up")
        except MedP2PError as error:
            _logger.warning("%s", error)

    def _is_wanted(self, one: _Pending) -> bool:
        """Whether no other result has taken its place."""
        with self._lock:
            return self._pending.get(one.delivery.result) is one

    def _forget(self, one: _Pending) -> None:
        with self._lock:
            if self._pending.get(one.delivery.result) is one:
                del self._pending[one.delivery.result]

    def _is_late(self, delivery: Delivery) -> bool:
        return bool(delivery.began) and time.time() - delivery.began >= self._retry_seconds

    def _send(self, delivery: Delivery) -> bool:
        """Send the files that the destination does not have, and note each that it then has.

        Another result may take the place of this one meanwhile; no file of that is sent.

        Returns:
            Whether the destination has all of them; false if it was stopped before.

        Raises:
            _NotSentError: If the destination does not take one; it has got the others then, unless
                the connection broke off, or the result is another one by now.
            OSError: If a file cannot be read.
        """
        folder = self._results / delivery.result
        hashes = {path: content_of(path).sha256 for path in sorted(folder.iterdir())}
        if content_of(folder).sha256 != delivery.sha256:  # of all that was hashed before, too
            raise _NotSentError(_NOT_AS_MADE)
        files = [path for path in hashes if path.name not in delivery.acknowledged]
        if not files:
            return True
        kind = _read(files[0], hashes[files[0]]).SOPClassUID
        refusals = []
        with self._association(str(kind)) as association:
            for path in files:
                if self._stopped.is_set():
                    return False
                image = _read(path, hashes[path])
                with quiet_pydicom:
                    answer = association.send_c_store(image)
                status = answer.get("Status")
                if status is None:
                    raise _NotSentError("the connection broke off, or there is no answer")
                if status == 0 or status in WARNINGS:
                    delivery.note("acknowledged", path.name)
                else:
                    refusals.append(status)
        if refusals:
            statuses = ", ".join(f"{status:04X}" for status in sorted(set(refusals)))
            of_all = f"{len(refusals)} of {len(files)} objects"
            raise _NotSentError(f"{of_all} refused with status {statuses}")
        return True

    @contextmanager
    def _association(self, kind: str) -> Iterator[Association]:
        to = self._destination
        options: dict[str, Any] = {"tls_args": (to.tls, to.host)} if to.tls else {}
        contexts = [build_context(kind, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])]
        association = self._entity.associate(
            to.host, to.port, contexts=contexts, ae_title=to.ae_title, **options
        )
        if not association.is_established:
            how = "rejects the association" if association.is_rejected else "cannot be reached"
            raise _NotSentError(f"{to.ae_title} {how}")
        try:
            if not association.accepted_contexts:
                raise _NotSentError(f"{to.ae_title} takes no such objects")
            yield association
        finally:
            if association.is_established:
                association.release()


def _read(path: Path, sha256: str) -> Dataset:
    """Read an image; what is decoded is what was hashed.

    Raises:
        _NotSentError: If it has another hash.
        OSError: If it cannot be read.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise _NotSentError(_NOT_AS_MADE)
    with quiet_pydicom:
        return dcmread(BytesIO(data))
