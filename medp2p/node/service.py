"""A DICOM node: receives, translates and sends, until a signal or a disk ends it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from medp2p.checkpoint import read_card
from medp2p.conversion.job import ConversionJob
from medp2p.conversion.journal import Event, last_of_each, read_events
from medp2p.conversion.pipeline import Conversion, convert
from medp2p.conversion.rules import Rules
from medp2p.conversion.scans import Worklist
from medp2p.conversion.summary import progress_of, progress_text
from medp2p.errors import MedP2PError
from medp2p.node.deliveries import count_deliveries
from medp2p.node.receiver import Receiver
from medp2p.node.retention import Retention
from medp2p.node.sender import Sender
from medp2p.node.series import held_series
from medp2p.node.settings import Destination, Listening
from medp2p.node.settled import Settled
from medp2p.node.spool import Spool

_logger = logging.getLogger(__name__)

HOUSEKEEPING_SECONDS = 30.0


@dataclass(frozen=True)
class Node:
    """What a node does.

    Attributes:
        spool: Its folder.
        listening: Where and for whom it listens.
        job: How scans are translated; results are always DICOM.
        rules: Which series are wanted.
        destination: Where results go; None leaves them in the spool.
        quiet_seconds: So long after its last object a series is taken for whole.
        retry_seconds: How long a result is tried to be sent.
        keep_seconds: How long after that copies stay in the spool.
    """

    spool: Path
    listening: Listening
    job: ConversionJob
    rules: Rules
    destination: Destination | None = None
    quiet_seconds: float = 30.0
    retry_seconds: float = 24 * 3600.0
    keep_seconds: float = 7 * 24 * 3600.0


def serve(node: Node, on_listening: Callable[[int], None] | None = None) -> Conversion:
    """Run a node.

    SIGINT and SIGTERM end it in order: writes under way and what is being received are finished.

    Args:
        node: What it does.
        on_listening: Called with the port once it listens.

    Returns:
        What became of the scans, and why it ended.

    Raises:
        OutputError: If the spool has another owner or cannot be written, or the port cannot be
            bound.
        CheckpointError: If the model cannot be read.
        ConfigError: If the rules are not for this model, or not for a node.
        MedP2PError: If a device is not there, or processes die one after the other.
    """
    card, _ = read_card(node.job.model)
    spool = Spool(node.spool, node.listening.limits)
    settled = Settled(spool, node.rules, card, node.quiet_seconds)
    with _owner_only(), spool, ExitStack() as stack:
        events = read_events(spool.outgoing)
        sender = _sender(node, spool)
        retention = Retention(spool, settled, sender, node.keep_seconds, events)

        def note(event: Event) -> None:
            retention.note(event)
            if sender and event.kind == "done":
                _send(sender, event)

        if sender:
            for event in last_of_each(events).values():
                if event.kind == "done" and _is_there(spool, event):
                    _send(sender, event)
            stack.enter_context(sender)
        stack.enter_context(_housekeeping(spool, retention))
        receiver = stack.enter_context(Receiver(spool, node.listening))
        if on_listening:
            on_listening(receiver.port)
        return convert(Worklist(()), spool.outgoing, node.job, more=settled, on_event=note)


def status_text(folder: Path) -> str:
    """Say how far a spool is, for a person; from the disk, whether or not it is being served.

    Raises:
        MedP2PError: If it is no spool.
    """
    if not (folder / "incoming").is_dir():
        raise MedP2PError(f"{folder}: is no spool of `medp2p serve`; name one")
    lines = []
    events = read_events(folder / "outgoing")
    if events:
        lines.append(progress_text(progress_of(events)))
    series = sum(1 for _ in (folder / "incoming").glob("*/*/"))
    lines.append(f"{series} series in the spool")
    held = held_series(folder)
    if held:
        lines.append(f"{len(held)} of them wait, since they may lack images or hold wrong ones:")
        lines += [f"  {name}: {reason}" for name, reason in held.items()]
    sent = count_deliveries(folder / "sent")
    if any(sent.values()):
        lines.append(
            f"{sent['sent']} results sent, {sent['waiting']} under way, {sent['given_up']} given up"
        )
    return "\n".join(lines)


def _sender(node: Node, spool: Spool) -> Sender | None:
    if node.destination is None:
        return None
    title = node.listening.ae_title
    return Sender(spool.outgoing, spool.sent, node.destination, title, node.retry_seconds)


def _send(sender: Sender, event: Event) -> None:
    for result, content in event.details.get("outputs", {}).items():
        sender.add(result, content["sha256"])


def _is_there(spool: Spool, event: Event) -> bool:
    outputs = event.details.get("outputs", {})
    return all((spool.outgoing / result).is_dir() for result in outputs)


@contextmanager
def _housekeeping(spool: Spool, retention: Retention) -> Iterator[None]:
    """Measure the spool and take away what is done with, from time to time."""
    stopped = threading.Event()

    def work() -> None:
        while not stopped.wait(HOUSEKEEPING_SECONDS):
            try:
                spool.measure()
                retention.clean()
            except Exception as error:
                _logger.warning("housekeeping: %s", error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


@contextmanager
def _owner_only() -> Iterator[None]:
    """Let nobody else read what this process and its children write."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
