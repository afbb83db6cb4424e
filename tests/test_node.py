"""The parts of the DICOM node; with other programs in test_node_pacs.py."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pynetdicom", reason="needs pip install 'medp2p[node]'")

import trustme
from conftest import refused
from node_phantoms import calling, interleaved, secrets_of, store, write_study
from pydicom import Dataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.uid import (
    MPEG2MPML,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
    generate_uid,
)
from pynetdicom.dsutils import encode

from medp2p.checkpoint import read_card
from medp2p.conversion.journal import Event, read_events
from medp2p.conversion.records import content_of
from medp2p.conversion.rules import Rules
from medp2p.conversion.scans import Scan
from medp2p.errors import ConfigError, OutputError
from medp2p.io import read_volume
from medp2p.node import sender as sender_module
from medp2p.node import settled as settled_module
from medp2p.node import spool as spool_module
from medp2p.node.deliveries import Delivery, count_deliveries, load_delivery
from medp2p.node.objects import RefusedObjectError
from medp2p.node.receiver import Receiver, readable_transfer_syntaxes
from medp2p.node.retention import Retention
from medp2p.node.sender import Sender
from medp2p.node.series import MARK, held_series
from medp2p.node.service import status_text
from medp2p.node.settings import (
    Caller,
    Destination,
    Limits,
    Listening,
    client_tls,
    parse_caller,
    parse_destination,
    server_tls,
)
from medp2p.node.settled import Settled
from medp2p.node.spool import Session, Spool

pytestmark = pytest.mark.filterwarnings(
    # pynetdicom leaves a socket that was refused to the garbage collector
    "ignore:Exception ignored in. .*socket:pytest.PytestUnraisableExceptionWarning"
)

LIMITS = Limits(
    associations=4, free_bytes=0, request_seconds=2.0, pdu_seconds=2.0, object_bytes=4 * 2**20
)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> list[list[Path]]:
    """The files of two series."""
    return write_study(tmp_path_factory.mktemp("study") / "patient", 1, ("t1", "t2"))


@contextmanager
def node(folder: Path, limits: Limits = LIMITS, **listening: Any) -> Iterator[Receiver]:
    with (
        Spool(folder, limits) as spool,
        Receiver(spool, Listening(port=0, limits=limits, **listening)) as receiver,
    ):
        yield receiver


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "incoming").rglob("*.dcm"))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What medp2p logs; the other side of the tests' associations is pynetdicom itself."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("medp2p")]


def settled(spool: Spool, seconds: float = 5.0, **options: Any) -> list[str]:
    """What settles within some seconds."""
    end = time.monotonic() + seconds
    while True:
        found = spool.take_settled(0.0, by_study=False, **options)
        if found or time.monotonic() > end:
            return found
        time.sleep(0.02)


def pixels(path: Path) -> tuple[str, bytes]:
    image = dcmread(path)
    return str(image.SOPInstanceUID), image.PixelData


# Objects


def test_objects_are_kept_as_they_were_sent(study, tmp_path, caplog):
    files = interleaved(study)
    with node(tmp_path) as receiver:
        with calling(receiver.port) as association:
            assert association.send_c_echo().Status == 0
            assert store(association, *files) == [0] * len(files)
            assert len(kept(tmp_path)) == len(files)
            assert receiver.spool.take_settled(0.0, by_study=False) == []
        names = settled(receiver.spool)
        assert settled(receiver.spool, 0.0) == []
    assert sorted(map(pixels, kept(tmp_path))) == sorted(map(pixels, files))
    assert len(names) == 2
    for name, series in zip(sorted(names), sorted(names), strict=True):
        assert (tmp_path / "incoming" / series).is_dir(), name
    volumes = [read_volume(tmp_path / "incoming" / name) for name in names]
    originals = [read_volume(files[0].parent) for files in study]
    assert {v.array.tobytes() for v in volumes} == {v.array.tobytes() for v in originals}
    assert list((tmp_path / "receiving").iterdir()) == []
    assert said(caplog) == []


def test_nobody_else_reads_the_spool_and_names_say_nothing(study, tmp_path):
    with node(tmp_path / "spool") as receiver, calling(receiver.port) as association:
        store(association, *study[0])
    for path in (tmp_path / "spool").rglob("*"):
        allowed = 0o700 if path.is_dir() else 0o600
        if path.name != "lock":
            assert stat.S_IMODE(path.stat().st_mode) & ~allowed == 0, path
    secrets = secrets_of(study[0])
    names = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    assert secrets
    assert not [name for name in names if any(secret in name for secret in secrets)]


def test_the_same_object_again_is_no_harm_and_another_is_refused(study, tmp_path, caplog):
    path = study[0][0]
    changed = dcmread(path)
    changed.PixelData = bytes(len(changed.PixelData))
    with node(tmp_path) as receiver, calling(receiver.port) as association:
        assert store(association, path) == [0]
        [file] = kept(tmp_path)
        before = (file.read_bytes(), file.stat().st_ino, file.stat().st_mtime_ns)
        assert store(association, path, changed) == [0, 0xC111]
        assert (file.read_bytes(), file.stat().st_ino, file.stat().st_mtime_ns) == before
    held, line = said(caplog)
    assert held.endswith("two versions of its images came")
    assert line == (
        "refused TESTER@127.0.0.1: object refused: another object of this UID is here, and is kept"
    )


def test_what_is_not_what_was_announced_is_refused(study, tmp_path, caplog):
    """The command says one UID, the data set another, or none that is one."""
    image = dcmread(study[0][0])
    with node(tmp_path) as receiver:
        for keyword, value, status in (
            ("SOPInstanceUID", generate_uid(), 0xA900),
            ("SeriesInstanceUID", "1.2.not.a.uid", 0xC000),
            ("StudyInstanceUID", None, 0xC000),
        ):
            broken = deepcopy(image)
            with disable_value_validation():
                setattr(broken, keyword, value)
            with calling(receiver.port) as association:
                assert send_as(association, broken, image.SOPInstanceUID) == status
    assert kept(tmp_path) == []
    assert len(said(caplog)) == 3
    assert not [line for line in said(caplog) if image.SOPInstanceUID in line]


def send_as(association: Any, image: Dataset, instance: str) -> int:
    """Send with another SOP Instance UID in the command than in the data set."""
    from io import BytesIO

    from pynetdicom.dimse_primitives import C_STORE
    from pynetdicom.dsutils import encode

    contexts = association.accepted_contexts
    [context] = [
        c
        for c in contexts
        if c.abstract_syntax == image.SOPClassUID and c.transfer_syntax[0] == ExplicitVRLittleEndian
    ]
    request = C_STORE()
    request.MessageID = 1
    request.Priority = 2
    request.AffectedSOPClassUID = image.SOPClassUID
    request.AffectedSOPInstanceUID = instance
    request.DataSet = BytesIO(encode(image, False, True) or b"")
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, context.context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return int(answer.Status)


def test_compressed_objects_are_kept_compressed(study, tmp_path):
    image = dcmread(study[0][0])
    image.compress(RLELossless)
    with node(tmp_path) as receiver, calling(receiver.port) as association:
        assert store(association, image) == [0]
    [path] = kept(tmp_path)
    assert dcmread(path).file_meta.TransferSyntaxUID == RLELossless
    assert (dcmread(path).pixel_array == dcmread(study[0][0]).pixel_array).all()


def test_all_readable_transfer_syntaxes_are_taken():
    found = readable_transfer_syntaxes()
    assert {RLELossless, JPEGLosslessSV1, JPEG2000Lossless, ExplicitVRLittleEndian} <= set(found)
    assert MPEG2MPML not in found
    assert DeflatedExplicitVRLittleEndian not in found, "it may inflate to any size"


def test_a_full_disk_is_said_and_nothing_is_left(study, small_disk, caplog):
    """A real file system of one megabyte; the object is larger."""
    image = dcmread(study[0][0])
    image.Rows, image.Columns = 1024, 1024
    image.PixelData = bytes(2 * 1024 * 1024)
    with node(small_disk) as receiver, calling(receiver.port) as association:
        assert store(association, image, study[0][1]) == [0xA700, 0]
        assert list((small_disk / "receiving").iterdir()) == []
        assert receiver.spool._used == sum(p.stat().st_size for p in kept(small_disk))
    assert len(kept(small_disk)) == 1
    assert said(caplog) == ["refused TESTER@127.0.0.1: object refused: no space"]


@pytest.mark.parametrize("limits", [{"spool_bytes": 2000}, {"free_bytes": 2**60}])
def test_a_full_spool_is_said(study, tmp_path, limits):
    with (
        node(tmp_path, replace(LIMITS, **limits)) as receiver,
        calling(receiver.port) as association,
    ):
        assert store(association, study[0][0]) == [0xA700]
    assert kept(tmp_path) == []


# Series


def test_a_series_waits_for_all_associations_that_send_to_it(study, tmp_path):
    first, second = study
    with node(tmp_path) as receiver:
        spool = receiver.spool
        with calling(receiver.port) as one:
            store(one, *first[:5], *second)
            with calling(receiver.port, title="OTHER") as other:
                store(other, *first[5:])
            assert settled(spool, 0.3) == []
        assert len(settled(spool)) == 2
        assert settled(spool, 0.0) == []
        with calling(receiver.port) as again:
            store(again, *first)
        assert settled(spool, 0.3) == []
        assert spool.broken_off() == []


def test_quiet_is_waited_for(study, tmp_path):
    with node(tmp_path) as receiver:
        with calling(receiver.port) as association:
            store(association, *study[0])
        began = time.monotonic()
        while not receiver.spool.take_settled(1.0, by_study=False):
            assert time.monotonic() - began < 10
            time.sleep(0.02)
        assert time.monotonic() - began > 0.8


def test_a_part_of_a_series_is_never_taken_for_the_whole(study, tmp_path, caplog):
    first, second = study
    with node(tmp_path) as receiver:
        with calling(receiver.port) as association:
            store(association, *second, *first[:4])
            association.abort()
        with calling(receiver.port) as unrelated:
            store(unrelated)
        assert settled(receiver.spool, 0.3) == []
        assert len(receiver.spool.broken_off()) == 2
    assert "2 of them wait" in status_text(tmp_path)
    with node(tmp_path) as receiver:  # as after a kill
        assert settled(receiver.spool, 0.3) == []
        with calling(receiver.port) as association:
            store(association, *first[4:])
        [done] = settled(receiver.spool)
        assert len(list((tmp_path / "incoming" / done).glob("*.dcm"))) == len(first)
        assert len(receiver.spool.broken_off()) == 1, "nobody has come back for the second"
        with calling(receiver.port) as association:
            store(association, second[0])
        assert len(settled(receiver.spool)) == 1
        assert receiver.spool.broken_off() == []
    assert list(tmp_path.rglob(f"{MARK}*")) == []
    assert said(caplog) == ["TESTER@127.0.0.1 broke off"]


def test_who_began_before_the_break_does_not_make_up_for_it(study, tmp_path):
    first = study[0]
    with node(tmp_path) as receiver:
        with calling(receiver.port) as early:
            store(early, first[0])
            with calling(receiver.port) as broken:
                store(broken, first[1])
                broken.abort()
            store(early, *first[2:])
        assert settled(receiver.spool, 0.3) == []
        with calling(receiver.port) as late:
            store(late, first[1])
        assert len(settled(receiver.spool)) == 1


def test_whoever_was_released_is_done(study, tmp_path):
    """Nothing is held any more when the caller hears that it is released, killed or not."""
    with node(tmp_path) as receiver:
        for _ in range(5):
            with calling(receiver.port) as association:
                store(association, study[0][0])
            assert list(tmp_path.rglob(f"{MARK}*")) == []


def test_a_lost_object_holds_its_series(study, tmp_path):
    """Its sender was told that there is no room, and has to send it again."""
    limits = replace(LIMITS, spool_bytes=30_000)
    with node(tmp_path, limits) as receiver:
        with calling(receiver.port) as association:
            assert set(store(association, *study[0])) == {0, 0xA700}
        assert settled(receiver.spool, 0.3) == []
        assert len(receiver.spool.broken_off()) == 1


def give(spool: Spool, *images: Dataset, released: bool = True) -> list[int]:
    """An association that sends images; the statuses of the answers."""
    session = spool.begin()
    answers = [give_one(spool, session, image) for image in images]
    spool.end(session, released=released)
    return answers


def give_one(spool: Spool, session: Session, image: Dataset, announced: str = "") -> int:
    received = spool.receive(
        image.SOPClassUID, UID(announced or image.SOPInstanceUID), ExplicitVRLittleEndian
    )
    received.write(encode(image, False, True) or b"")
    try:
        spool.keep(received, session)
    except RefusedObjectError as refusal:
        return refusal.status
    return 0


@pytest.fixture(scope="module")
def versions(study) -> tuple[list[Dataset], list[Dataset]]:
    """The images of a series, and others of the same UIDs."""
    first = [dcmread(path) for path in study[0]]
    second = deepcopy(first)
    for image in second:
        image.PixelData = image.PixelData[::-1]
    return first, second


def take(spool: Spool, quiet_seconds: float = 0.0) -> list[str]:
    return spool.take_settled(quiet_seconds, by_study=False)


def test_another_version_does_not_make_up_for_what_is_missing(versions, tmp_path, caplog):
    one, other = versions
    with Spool(tmp_path, LIMITS) as spool:
        assert give(spool, *one[:5], released=False) == [0] * 5
        assert give(spool, *other) == [0xC111] * 5 + [0] * (len(one) - 5)
        assert take(spool) == []
    with Spool(tmp_path, LIMITS) as spool:
        give(spool, *one)
        assert take(spool) == []
        [name] = spool.broken_off()
    assert said(caplog) == [f"held: {name}: two versions of its images came"]
    assert held_series(tmp_path) == {name: "two versions of its images came"}
    assert f"{name}: two versions" in status_text(tmp_path)


def test_another_version_redeems_nothing(versions, tmp_path):
    one, other = versions
    with Spool(tmp_path, LIMITS) as spool:
        give(spool, *one[:5], released=False)
        assert give(spool, *other[:5]) == [0xC111] * 5
        assert take(spool) == []


@pytest.mark.parametrize("with_restarts", [False, True])
def test_versions_do_not_mix_where_each_image_has_its_association(
    versions, tmp_path, with_restarts
):
    one, other = versions
    images = [*one[:5], *other[4:]]
    if with_restarts:
        for image in images:
            with Spool(tmp_path, LIMITS) as spool:
                give(spool, image)
    with Spool(tmp_path, LIMITS) as spool:
        for image in images:
            give(spool, image)
        assert take(spool) == []


def test_versions_do_not_mix_in_whatever_order_they_come(versions, tmp_path):
    one, other = versions
    orders = (
        [one[:5], [*other[5:], other[0]]],
        [one[:5], [other[0], *other[5:]]],
        [one[:5], other[5:], other[:1]],
        [[*one[:5], *other[5:], other[0]]],
    )
    for n, associations in enumerate(orders):
        with Spool(tmp_path / f"{n}", LIMITS) as spool:
            for images in associations:
                give(spool, *images)
            assert take(spool) == [], n


def test_a_whole_series_stays_what_it_is_when_another_version_comes(versions, tmp_path):
    one, other = versions
    with Spool(tmp_path, LIMITS) as spool:
        give(spool, *one[1:])
        assert give(spool, *other[1:]) == [0xC111] * (len(one) - 1)
        [name] = take(spool)
    found = {dcmread(path).PixelData for path in (tmp_path / "incoming" / name).glob("*.dcm")}
    assert found == {image.PixelData for image in one[1:]}
    with Spool(tmp_path, LIMITS) as spool:
        assert give(spool, other[0]) == [0]
        assert take(spool) == [], "it may be of the other version"


def test_only_the_series_that_is_sent_again_goes_on(study, tmp_path):
    first, second = ([dcmread(path) for path in series] for series in study)
    with Spool(tmp_path, LIMITS) as spool:
        give(spool, *first[:9], *second[:9], released=False)
        give(spool, *first[9:])
        [name] = take(spool)
        assert name.endswith(hashed(first[0].SeriesInstanceUID))
        assert [name.endswith(hashed(second[0].SeriesInstanceUID)) for name in spool.broken_off()]
        give(spool, *second[9:])
        assert len(take(spool)) == 1


def hashed(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


def test_a_restart_waits_for_the_quiet_time(versions, tmp_path):
    with Spool(tmp_path, LIMITS) as spool:
        give(spool, *versions[0][:8])
    with Spool(tmp_path, LIMITS) as spool:
        assert take(spool, 0.5) == []
        time.sleep(0.6)
        assert len(take(spool, 0.5)) == 1


def test_an_object_of_no_series_holds_none(versions, tmp_path):
    nowhere = deepcopy(versions[0][0])
    del nowhere.StudyInstanceUID
    with Spool(tmp_path, LIMITS) as spool:
        assert give(spool, *versions[0], nowhere) == [0] * len(versions[0]) + [0xC000]
        assert len(take(spool)) == 1


@pytest.mark.parametrize("is_first", [True, False])
def test_a_refused_object_holds_its_series_only(study, tmp_path, is_first):
    first, second = ([dcmread(path) for path in series] for series in study)
    with Spool(tmp_path, LIMITS) as spool:
        session = spool.begin()
        images = [*first[1:], *second]
        for image in images[: 0 if is_first else None]:
            assert give_one(spool, session, image) == 0
        assert give_one(spool, session, first[0], announced=generate_uid()) == 0xA900
        for image in images:
            assert give_one(spool, session, image) == 0
        spool.end(session, released=True)
        [name] = take(spool)
        assert name.endswith(hashed(second[0].SeriesInstanceUID))
        give(spool, first[0])
        assert len(take(spool)) == 1


@pytest.mark.parametrize("by_restart", [False, True])
def test_whoever_removes_the_marks_lets_a_series_go(versions, tmp_path, by_restart):
    one, other = versions
    with Spool(tmp_path, LIMITS) as spool:
        give(spool, *one[:5], released=False)
        give(spool, *other[:5])
        assert take(spool) == []
        for mark in tmp_path.rglob(f"{MARK}*"):
            mark.unlink()
        if not by_restart:
            assert len(take(spool)) == 1
    with Spool(tmp_path, LIMITS) as spool:
        assert len(take(spool)) == 1


def test_the_mark_of_an_open_association_stays(versions, tmp_path):
    with Spool(tmp_path, LIMITS) as spool:
        session = spool.begin()
        give_one(spool, session, versions[0][0])
        for mark in tmp_path.rglob(f"{MARK}*"):
            mark.unlink()
        assert take(spool) == []


def test_a_mark_that_cannot_be_removed_holds(versions, tmp_path, monkeypatch, caplog):
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted")

    with Spool(tmp_path, LIMITS) as spool:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", refuse)
            give(spool, *versions[0])
        assert take(spool) == []
        assert "a mark cannot be removed: Operation not permitted" in said(caplog)[0]
        give(spool, versions[0][0])
        assert len(take(spool)) == 1


def test_an_object_that_was_refused_once_it_had_its_name_is_taken_up(
    versions, tmp_path, monkeypatch
):
    """The disk refuses to flush the folder; the sender comes back."""
    images, _ = versions
    with Spool(tmp_path, LIMITS) as spool:
        give(spool, *images[:9])
        [name] = take(spool)

        def refuse(path: Path) -> None:
            if path == spool.incoming / name:
                raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(spool_module, "flush_to_disk", refuse)
            assert give(spool, images[9]) == [0xA700]
        assert take(spool) == []
        assert give(spool, images[9]) == [0]
        assert take(spool) == [name]


def test_a_file_system_without_hard_links_is_refused(tmp_path, monkeypatch):
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        with pytest.raises(OutputError, match=r"no hard links.*name a folder on another disk"):
            Spool(tmp_path, LIMITS).__enter__()
    with Spool(tmp_path, LIMITS):
        assert list(tmp_path.rglob("*trial*")) == []


def test_scans_are_named_by_their_unit(study, tmp_path, tiny_model):
    card, _ = read_card(tiny_model)
    with node(tmp_path) as receiver:
        find = Settled(receiver.spool, Rules(), card, quiet_seconds=0.0)
        assert find().scans == ()
        with calling(receiver.port) as association:
            store(association, *study[0], *study[1][:3])
        deadline = time.monotonic() + 5
        while not (worklist := find()).scans:
            assert time.monotonic() < deadline
        assert find().left_out == ()
    [scan], [short] = worklist.scans, worklist.left_out
    assert len(scan.images[0].files) == len(study[0])
    assert short.code == "few_slices"
    place = scan.images[0].path.relative_to(tmp_path / "incoming").as_posix()
    assert scan.name.startswith(f"{place}/")
    soon = time.time() + 1
    assert not receiver.spool.remove(place, soon)
    find.answered(place, Event("skipped", "", "run", scan.name))
    assert receiver.spool.remove(place, soon)


def test_a_study_is_the_unit_of_several_contrasts(study, tmp_path, tiny_model):
    card, _ = read_card(tiny_model)
    card = replace(card, source_names=("t1", "t2"))
    with node(tmp_path) as receiver:
        find = Settled(receiver.spool, Rules(), card, quiet_seconds=0.0)
        with calling(receiver.port) as association:
            store(association, *study[0])
            with calling(receiver.port) as other:
                store(other, *study[1])
            time.sleep(0.3)
            assert find().scans == find().left_out == ()
        deadline = time.monotonic() + 5
        while not (worklist := find()).scans:
            assert time.monotonic() < deadline
    [scan] = worklist.scans
    assert len(scan.images) == 2


def test_one_process_is_in_charge_of_a_spool(tmp_path, tiny_model, capsys):
    with Spool(tmp_path, LIMITS):
        with pytest.raises(OutputError, match="another `medp2p serve` is in charge"):
            Spool(tmp_path, LIMITS).__enter__()
        said = refused(capsys, "serve", "-m", tiny_model, "--spool", tmp_path, "--port", 0)
        assert "is in charge of it; name another spool" in said
    with Spool(tmp_path, LIMITS):
        pass


def test_what_a_killed_process_left_is_removed(tmp_path):
    with Spool(tmp_path, LIMITS):
        (tmp_path / "receiving" / "half.dcm").write_bytes(b"half")
        (tmp_path / "receiving" / "removed-x" / "y").mkdir(parents=True)
    with Spool(tmp_path, LIMITS):
        assert list((tmp_path / "receiving").iterdir()) == []


# Callers


def test_only_this_machine_reaches_it(tmp_path):
    with node(tmp_path) as receiver:
        wanted = f":{receiver.port:04X} "
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        listening = [
            line.split()[1] for line in lines if wanted in line and line.split()[3] == "0A"
        ]
        assert listening == [f"0100007F:{receiver.port:04X}"]
        lines6 = Path("/proc/net/tcp6").read_text()
        assert f":{receiver.port:04X} 0000" not in lines6


@pytest.mark.parametrize(
    ("callers", "title", "called", "reason"),
    [
        ((), "ANYBODY", "OTHER", "called another AE title"),
        ((Caller("CT1"),), "CT2", "MEDP2P", "is not allowed to send"),
        ((Caller("CT1", frozenset({"10.0.0.1"})), Caller("CT2")), "CT1", "MEDP2P", "not allowed"),
        ((Caller("CT1", frozenset({"10.0.0.1"})),), "CT1", "MEDP2P", "--allow does not name"),
        ((), "ANYBODY", "MEDP2P", ""),
        ((Caller("CT1"),), "CT1", "MEDP2P", ""),
        ((Caller("CT1", frozenset({"127.0.0.1"})),), "CT1", "MEDP2P", ""),
    ],
)
def test_callers(tmp_path, caplog, callers, title, called, reason):
    with (
        node(tmp_path, callers=callers) as receiver,
        calling(receiver.port, title=title, called=called) as association,
    ):
        assert association.is_established == (not reason)
    lines = said(caplog)
    assert len(lines) == bool(reason)
    assert not reason or reason in lines[0]


def test_without_an_allow_list_other_machines_are_refused():
    open_to_all = Listening(host="0.0.0.0")
    assert open_to_all.refusal_of_address("127.0.0.1") == ""
    assert open_to_all.refusal_of_address("::1") == ""
    assert open_to_all.refusal_of_address("::ffff:127.0.0.1") == ""
    assert open_to_all.allows("CT1", "::ffff:127.0.0.1")
    assert "not on this machine" in open_to_all.refusal_of_address("::ffff:192.0.2.7")
    assert "not on this machine" in open_to_all.refusal_of_address("192.0.2.7")
    assert not open_to_all.allows("CT1", "192.0.2.7")
    named = Listening(callers=(Caller("CT1"),))
    assert named.refusal_of_address("192.0.2.7") == ""
    assert named.allows("CT1", "192.0.2.7")
    assert not named.allows("CT2", "127.0.0.1")
    at_home = Listening(host="::", callers=(parse_caller("CT1@192.0.2.7"),))
    assert at_home.refusal_of_address("::ffff:192.0.2.7") == ""
    assert at_home.allows("CT1", "::ffff:192.0.2.7")
    assert not at_home.allows("CT1", "::ffff:192.0.2.8")


def test_addresses_are_read():
    assert parse_destination("ARCHIVE@pacs:104") == Destination("ARCHIVE", "pacs", 104)
    assert parse_destination("A@[::1]:104").host == "::1"
    assert parse_caller("CT1") == Caller("CT1")
    assert "127.0.0.1" in parse_caller("CT1@127.0.0.1").addresses
    assert parse_caller("CT1@[::1]") == parse_caller("CT1@::1") == Caller("CT1", frozenset({"::1"}))
    for wrong in ("ARCHIVE", "ARCHIVE@pacs", "ARCHIVE@pacs:0", "ARCHIVE@:104", "@pacs:104"):
        with pytest.raises(ConfigError):
            parse_destination(wrong)
    for wrong in ("", "A" * 17, "A\\B", "Ä"):
        with pytest.raises(ConfigError, match="expected an AE title"):
            parse_caller(wrong)


# Abuse

ABUSE = {
    "garbage": (bytes(range(256)) * 20, "sent something that is no DICOM"),
    "another protocol": (b"GET / HTTP/1.0\r\n\r\n", "sent something that is no DICOM"),
    "a claim of 4 GB": (b"\x01\0\xff\xff\xff\xff" + bytes(10_000), "too long"),
    "half a request": (b"\x01\0\0\0\0\x10abc", "took too long"),
    "no request": (b"\x04\0\0\0\0\0", "asked for no association"),
    "an empty request": (b"\x01\0\0\0\0\0", "asked for no association"),
    "a damaged request": (b"\x01\0\0\0\0\x44" + bytes(68), "asked for no association"),
    "nothing": (b"", "asked for no association"),
}


@pytest.mark.parametrize("kind", ABUSE)
def test_what_is_no_association_is_refused(study, tmp_path, caplog, kind):
    sent, reason = ABUSE[kind]
    limits = replace(LIMITS, request_seconds=1.0, pdu_seconds=1.0)
    with node(tmp_path, limits) as receiver:
        with socket.create_connection(("127.0.0.1", receiver.port)) as peer:
            peer.settimeout(10)
            peer.sendall(sent)
            try:
                while peer.recv(1000):
                    pass
            except ConnectionResetError:
                pass
        with calling(receiver.port) as association:
            assert store(association, study[0][0]) == [0]
    lines = said(caplog)
    assert len(lines) == 1, lines
    assert reason in lines[0]


def test_data_that_never_end_are_refused(study, tmp_path, caplog):
    """A data set of more than the limit; the association is aborted while it arrives."""
    image = dcmread(study[0][0])
    image.PixelData = bytes(2 * LIMITS.object_bytes)
    with node(tmp_path) as receiver:
        with calling(receiver.port) as association:
            assert store(association, image) == [None]
        deadline = time.monotonic() + 5
        while list((tmp_path / "receiving").iterdir()):
            assert time.monotonic() < deadline
        with calling(receiver.port) as association:
            assert store(association, study[0][0]) == [0]
    assert "an object is too large" in said(caplog)[0]


def test_other_requests_end_the_association(tmp_path, caplog):
    from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelFind

    with node(tmp_path) as receiver, calling(receiver.port) as association:
        query = Dataset()
        query.PatientName = "*"
        context = association.accepted_contexts[0]
        kind = PatientRootQueryRetrieveInformationModelFind
        association._accepted_cx[context.context_id].abstract_syntax = kind
        answers = list(association.send_c_find(query, kind))
        assert answers[0][0] == Dataset()
    assert "asked for something else than C-STORE and C-ECHO" in said(caplog)[0]


def test_too_many_associations_are_rejected_and_the_rest_goes_on(study, tmp_path, caplog):
    limits = replace(LIMITS, request_seconds=1.0)
    with node(tmp_path, limits) as receiver, calling(receiver.port) as first:
        peers = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(200)]
        assert store(first, study[0][0]) == [0]
        deadline = time.monotonic() + 10
        while len(said(caplog)) < 150:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert threading.active_count() < 60
        with calling(receiver.port) as one_more:
            assert not one_more.is_established
        for peer in peers:
            peer.close()
        while receiver._server.connections > 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with calling(receiver.port) as later:
            assert store(later, study[0][1]) == [0]


def test_a_silent_caller_is_cut(tmp_path):
    limits = replace(LIMITS, idle_seconds=0.5)
    with node(tmp_path, limits) as receiver, calling(receiver.port) as association:
        deadline = time.monotonic() + 10
        while association.is_established:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_port_that_is_taken_is_refused(tmp_path):
    with (
        node(tmp_path / "a") as receiver,
        Spool(tmp_path / "b", LIMITS) as spool,
        pytest.raises(OutputError, match="something listens there already"),
        Receiver(spool, Listening(port=receiver.port)),
    ):
        pass


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Certificate and key for 127.0.0.1, and the authority that signed it."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    paths = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
    issued.private_key_pem.write_to_path(str(paths[1]))
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(paths[0]), append=True)
    authority.cert_pem.write_to_path(str(paths[2]))
    return paths


def test_tls(study, tmp_path, certificates, caplog):
    certificate, key, authority = certificates
    client = client_tls(authority, None, None)
    with node(tmp_path, tls=server_tls(certificate, key, None)) as receiver:
        with calling(receiver.port, tls_args=(client, "127.0.0.1")) as association:
            assert set(store(association, *study[0])) == {0}
        assert said(caplog) == []
        with calling(receiver.port) as plain:
            assert not plain.is_established
    assert len(kept(tmp_path)) == len(study[0])
    assert "no TLS that is accepted" in said(caplog)[0]


def test_callers_show_certificates(study, tmp_path, certificates, caplog):
    certificate, key, authority = certificates
    stranger = client_tls(authority, None, None)
    known = client_tls(authority, certificate, key)
    with node(tmp_path, tls=server_tls(certificate, key, authority)) as receiver:
        with calling(receiver.port, tls_args=(stranger, "127.0.0.1")) as association:
            assert not association.is_established
        assert "no TLS that is accepted" in said(caplog)[0]
        with calling(receiver.port, tls_args=(known, "127.0.0.1")) as association:
            assert store(association, study[0][0]) == [0]


def test_whoever_is_slow_with_tls_stops_nobody(study, tmp_path, certificates):
    certificate, key, authority = certificates
    client = client_tls(authority, None, None)
    with node(tmp_path, tls=server_tls(certificate, key, None)) as receiver:
        slow = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(2)]
        began = time.monotonic()
        with calling(receiver.port, tls_args=(client, "127.0.0.1")) as association:
            assert store(association, study[0][0]) == [0]
        assert time.monotonic() - began < LIMITS.request_seconds
        for peer in slow:
            peer.close()


def test_files_that_are_no_certificates_are_refused(tmp_path, certificates):
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    with pytest.raises(ConfigError, match=r"wrong\.pem.*cannot be used for TLS"):
        server_tls(wrong, certificates[1], None)
    with pytest.raises(ConfigError, match=r"missing\.pem.*cannot be used for TLS"):
        client_tls(tmp_path / "missing.pem", None, None)


# Results on their way


@pytest.fixture
def results(study, tmp_path) -> Path:
    """A folder of results with one series, ``a/b/c``."""
    folder = tmp_path / "results" / "a" / "b" / "c"
    folder.mkdir(parents=True)
    for path in study[0]:
        (folder / path.name).write_bytes(path.read_bytes())
    return tmp_path / "results"


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(sender_module, "FIRST_PAUSE_SECONDS", 0.2)


def send(results: Path, tmp_path: Path, port: int, retry_seconds: float = 60.0, **more: Any):
    to = Destination("MEDP2P", "127.0.0.1", port, **more)
    return Sender(results, tmp_path / "sent", to, "SENDER", retry_seconds)


def wait_until_sent(sender: Sender, sha256: str, seconds: float = 15.0) -> None:
    """Or given up."""
    end = time.monotonic() + seconds
    while not sender.delivery_of("a/b/c", sha256).ended:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_results_are_sent_once(results, study, tmp_path, certificates):
    certificate, key, authority = certificates
    digest = content_of(results / "a/b/c").sha256
    tls = client_tls(authority, certificate, key)
    with node(tmp_path / "archive", tls=server_tls(certificate, key, authority)) as archive:
        for _ in range(2):
            with send(results, tmp_path, archive.port, tls=tls) as sender:
                sender.add("a/b/c", digest)
                wait_until_sent(sender, digest)
                assert sender.delivery_of("a/b/c", digest).ended == "sent"
        assert len(kept(tmp_path / "archive")) == len(study[0])
    lines = (tmp_path / "sent/a/b/c.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds == ["began", *["acknowledged"] * len(study[0]), "sent"]
    assert count_deliveries(tmp_path / "sent") == {"sent": 1, "given_up": 0, "waiting": 0}


def test_only_what_was_not_acknowledged_is_sent_again(results, study, tmp_path):
    digest = content_of(results / "a/b/c").sha256
    to = "MEDP2P@127.0.0.1:{}"
    with node(tmp_path / "archive") as archive:
        delivery = load_delivery(tmp_path / "sent", "a/b/c", digest, to.format(archive.port))
        delivery.note("began")
        for path in study[0][:5]:
            delivery.note("acknowledged", path.name)
        with delivery.log.open("a") as log:
            log.write('{"kind": "acknow')
        with send(results, tmp_path, archive.port) as sender:
            sender.add("a/b/c", digest)
            wait_until_sent(sender, digest)
        assert len(kept(tmp_path / "archive")) == len(study[0]) - 5
    again = load_delivery(tmp_path / "sent", "a/b/c", digest, to.format(archive.port))
    assert (again.ended, len(again.acknowledged)) == ("sent", len(study[0]))
    other = load_delivery(tmp_path / "sent", "a/b/c", "another", to.format(archive.port))
    assert (other.ended, other.acknowledged, other.began) == ("", set(), 0.0)


def test_it_is_tried_until_the_destination_is_there(results, study, tmp_path, quick, caplog):
    digest = content_of(results / "a/b/c").sha256
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with send(results, tmp_path, port) as sender:
        sender.add("a/b/c", digest)
        deadline = time.monotonic() + 10
        while len(said(caplog)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with (
            Spool(tmp_path / "archive", LIMITS) as spool,
            Receiver(spool, Listening(port=port, limits=LIMITS)),
        ):
            wait_until_sent(sender, digest)
        assert len(kept(tmp_path / "archive")) == len(study[0])
    assert said(caplog)[0].endswith("a/b/c: MEDP2P cannot be reached; next try in 0 s")


def test_it_is_given_up_after_a_time_and_taken_up_with_more(results, tmp_path, quick, caplog):
    digest = content_of(results / "a/b/c").sha256
    with node(tmp_path / "archive") as archive:
        wrong = replace(archive.listening, ae_title="WRONG")
        archive.listening = wrong
        with send(results, tmp_path, archive.port, retry_seconds=1.0) as sender:
            sender.add("a/b/c", digest)
            wait_until_sent(sender, digest)
            assert sender.delivery_of("a/b/c", digest).ended == "given_up"
        assert said(caplog)[-1].startswith("given up: a/b/c: MEDP2P rejects the association")
        archive.listening = replace(wrong, ae_title="MEDP2P")
        with send(results, tmp_path, archive.port, retry_seconds=60.0) as sender:
            sender.add("a/b/c", digest)
            deadline = time.monotonic() + 15
            while sender.delivery_of("a/b/c", digest).ended != "sent":
                assert time.monotonic() < deadline
                time.sleep(0.05)
    assert kept(tmp_path / "archive")


def test_one_refused_object_does_not_stop_the_others(results, study, tmp_path, quick, caplog):
    """The archive has another object of the UID of the third."""
    digest = content_of(results / "a/b/c").sha256
    other = dcmread(study[0][2])
    other.PixelData = bytes(len(other.PixelData))
    with node(tmp_path / "archive") as archive:
        with calling(archive.port) as association:
            assert store(association, other) == [0]
        with send(results, tmp_path, archive.port, retry_seconds=0.1) as sender:
            sender.add("a/b/c", digest)
            wait_until_sent(sender, digest)
            delivery = sender.delivery_of("a/b/c", digest)
        assert len(kept(tmp_path / "archive")) == len(study[0])
    assert len(delivery.acknowledged) == len(study[0]) - 1
    assert delivery.ended == "given_up"
    assert "1 of 11 objects refused with status C111" in "".join(said(caplog))


def test_what_somebody_changed_is_not_sent(results, tmp_path, quick, caplog):
    digest = content_of(results / "a/b/c").sha256
    (results / "a/b/c/IM0001").write_bytes(b"other")
    with (
        node(tmp_path / "archive") as archive,
        send(results, tmp_path, archive.port, retry_seconds=0.5) as sender,
    ):
        sender.add("a/b/c", digest)
        wait_until_sent(sender, digest)
    assert kept(tmp_path / "archive") == []
    assert "it is not what the journal says" in said(caplog)[0]


def test_a_result_that_is_replaced_while_it_is_sent_is_not_noted_as_sent(
    results, study, tmp_path, quick, caplog
):
    """As in `publish`; the other one is sent as soon as it is known."""
    folder, other = results / "a/b/c", tmp_path / "other"
    shutil.copytree(folder, other)
    for path in other.iterdir():
        image = dcmread(path)
        image.SOPInstanceUID = generate_uid()
        image.save_as(path)
    old, new = content_of(folder).sha256, content_of(other).sha256
    sender_note = Delivery.note

    def note(self: Delivery, kind: Any, file: str = "") -> None:
        sender_note(self, kind, file)
        if self.sha256 == old and len(self.acknowledged) == 3 and other.exists():
            folder.rename(tmp_path / "replaced")
            other.rename(folder)

    with (
        pytest.MonkeyPatch.context() as patch,
        node(tmp_path / "archive") as archive,
        send(results, tmp_path, archive.port) as sender,
    ):
        patch.setattr(Delivery, "note", note)
        sender.add("a/b/c", old)
        deadline = time.monotonic() + 10
        while not said(caplog):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        sender.add("a/b/c", new)
        wait_until_sent(sender, new)
        first = sender.delivery_of("a/b/c", old)
        assert (len(first.acknowledged), first.ended) == (3, "")
    assert len(kept(tmp_path / "archive")) == 3 + len(study[0])
    assert "it is not what the journal says" in said(caplog)[0]


def test_what_a_destination_has_is_not_sent_to_another(results, study, tmp_path):
    """Nor to the same one under another name of its host."""
    digest = content_of(results / "a/b/c").sha256
    earlier = load_delivery(tmp_path / "sent", "a/b/c", digest, "ARCHIVE@localhost:104")
    with (
        node(tmp_path / "archive") as archive,
        send(results, tmp_path, archive.port) as sender,
    ):
        earlier.note("acknowledged", study[0][0].name)
        assert sender.delivery_of("a/b/c", digest).acknowledged == set(), "it has only a part"
        earlier.note("sent")
        sender.add("a/b/c", digest)
        time.sleep(1.0)
        assert kept(tmp_path / "archive") == []
        (tmp_path / "sent/a/b/c.jsonl").unlink()
        sender.add("a/b/c", digest)
        wait_until_sent(sender, digest)
        assert len(kept(tmp_path / "archive")) == len(study[0])


# After a restart


def test_what_has_its_results_is_not_taken_after_a_restart(versions, tmp_path, tiny_model):
    """Whatever the settings are then; unless objects come, or somebody removes the file."""
    card, _ = read_card(tiny_model)
    images, _ = versions
    with Spool(tmp_path, LIMITS) as spool:
        find = Settled(spool, Rules(), card, quiet_seconds=0.0)
        give(spool, *images[:9])
        [early] = find().scans
        give(spool, images[9])
        [scan] = find().scans
        find.answered(unit_of(scan.name), is_made(early))
    with Spool(tmp_path, LIMITS) as spool:
        find = Settled(spool, Rules(), card, quiet_seconds=0.0)
        [scan] = find().scans  # the result was of a part only
        find.answered(unit_of(scan.name), is_made(scan))
    with Spool(tmp_path, LIMITS) as spool:
        find = Settled(spool, Rules(minimum_slices=5), card, quiet_seconds=0.0)
        assert find().scans == ()
        give(spool, images[10])
        [scan] = find().scans
        find.answered(unit_of(scan.name), is_made(scan))
    [note] = tmp_path.glob("incoming/*/*/.settled-*")
    note.unlink()
    with Spool(tmp_path, LIMITS) as spool:
        find = Settled(spool, Rules(), card, quiet_seconds=0.0)
        [scan] = find().scans
        find.answered(unit_of(scan.name), Event("failed", "", "run", scan.name))
    with Spool(tmp_path, LIMITS) as spool:
        assert Settled(spool, Rules(), card, quiet_seconds=0.0)().scans, "it had failed"


def unit_of(scan: str) -> str:
    return "/".join(scan.split("/")[:2])


def is_made(scan: Scan) -> Event:
    return Event("done", "", "run", scan.name, details={"files": len(scan.images[0].files)})


def test_contrasts_of_a_folder_are_refused(tmp_path, tiny_model):
    card, _ = read_card(tiny_model)
    card = replace(card, source_names=("t1", "t2"))
    with pytest.raises(ConfigError, match="joined_by: folder: every series has a folder"):
        Settled(Spool(tmp_path, LIMITS), Rules(joined_by="folder"), card, 0.0)


def test_a_unit_that_is_looked_at_names_all_that_it_holds(versions, tmp_path, tiny_model):
    """So that what was refused before more came no longer counts."""
    card, _ = read_card(tiny_model)
    with Spool(tmp_path, LIMITS) as spool:
        give(spool, *versions[0][:9])
        found = Settled(spool, Rules(), card, quiet_seconds=0.0)()
    [scan] = found.scans
    assert found.looked_in == (f"{unit_of(scan.name)}/",)
    assert found.names == {scan.name}


# What is taken away


def grow_old(folder: Path) -> None:
    """As if all series had come two hours ago."""
    for series in (folder / "incoming").glob("*/*"):
        os.utime(series, (time.time() - 7200, time.time() - 7200))


def test_copies_are_taken_away_after_a_time(study, tmp_path, tiny_model):
    card, _ = read_card(tiny_model)
    long_ago = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    both = len(study[0]) + len(study[1])
    with node(tmp_path) as receiver, send(tmp_path / "outgoing", tmp_path, 1) as sender:
        spool = receiver.spool
        with calling(receiver.port) as association:
            store(association, *study[0], *study[1])
        find = Settled(spool, Rules(), card, quiet_seconds=0.0)
        while not (scans := find().scans):
            time.sleep(0.02)
        sent, skipped = scans
        result = spool.outgoing / sent.name
        result.mkdir(parents=True)
        (result / "CT").write_bytes(b"CT")
        outputs = {sent.name: {"sha256": "x", "bytes": 2}}
        details = {"outputs": outputs, "files": len(sent.images[0].files)}
        done = Event("done", long_ago, "run", sent.name, details=details)
        retention = Retention(spool, find, sender, 3600.0, [])
        without_sender = Retention(spool, find, None, 0.0, [])
        retention.clean()
        for one in (retention, without_sender):
            one.note(done)
            one.note(Event("skipped", long_ago, "run", skipped.name, code="guard"))
        without_sender.clean()
        retention.clean()
        assert len(kept(tmp_path)) == both, "the images have just come"
        grow_old(tmp_path)
        retention.clean()
        assert len(kept(tmp_path)) == len(sent.images[0].files)
        delivery = sender.delivery_of(sent.name, "x")
        for kind in ("given_up", "sent"):
            delivery.note(kind)
            retention.clean()
            assert result.exists(), "given up, or just sent"
        past = delivery.log.read_text().replace(f"{datetime.now(UTC):%Y}", "2020")
        delivery.log.write_text(past)
        grow_old(tmp_path)
    with node(tmp_path) as receiver, send(tmp_path / "outgoing", tmp_path, 1) as sender:
        find = Settled(receiver.spool, Rules(), card, quiet_seconds=0.0)
        retention = Retention(receiver.spool, find, sender, 3600.0, [done])
        assert find().scans == ()
        retention.clean()
        assert not result.exists()
        assert not delivery.log.exists()
        assert kept(tmp_path) == []
        assert (tmp_path / "outgoing").is_dir()


@pytest.fixture
def no_archive(tmp_path) -> Iterator[Sender]:
    """A sender that has nothing to send."""
    with send(tmp_path / "outgoing", tmp_path, 1) as sender:
        yield sender


def is_done(name: str) -> Event:
    """A scan was skipped two hours ago."""
    long_ago = datetime.now(UTC) - timedelta(hours=2)
    return Event("skipped", long_ago.isoformat(), "run", name, code="guard")


def test_what_came_last_and_is_held_is_not_taken_away(
    versions, tmp_path, tiny_model, no_archive, caplog
):
    """An earlier part of the series is done with; the sender of more has broken off."""
    card, _ = read_card(tiny_model)
    images, _ = versions
    with Spool(tmp_path, LIMITS) as spool:
        find = Settled(spool, Rules(), card, quiet_seconds=0.0)
        retention = Retention(spool, find, no_archive, 3600.0, [])
        give(spool, *images[:9])
        [scan] = find().scans
        retention.note(is_done(scan.name))
        grow_old(tmp_path)
        give(spool, images[9], released=False)
        retention.clean()
        assert len(kept(tmp_path)) == 10
        give(spool, images[10])
        retention.clean()
        assert len(kept(tmp_path)) == 11
        [scan] = find().scans
        assert len(scan.images[0].files) == 11
        grow_old(tmp_path)
        retention.clean()
        assert len(kept(tmp_path)) == 11, "it is being translated"
        give(spool, images[0], released=False)
        grow_old(tmp_path)
        retention.clean()
        assert kept(tmp_path) == []
    [event] = read_events(tmp_path / "outgoing")
    assert (event.kind, event.code, scan.name.startswith(event.scan)) == ("skipped", "held", True)
    assert said(caplog) == [f"taken away: {event.scan}, which was held"]


def test_what_is_being_looked_at_is_not_taken_away(
    versions, tmp_path, tiny_model, no_archive, monkeypatch
):
    card, _ = read_card(tiny_model)
    images, _ = versions
    make_worklist = settled_module.make_worklist
    with Spool(tmp_path, LIMITS) as spool:
        find = Settled(spool, Rules(), card, quiet_seconds=0.0)
        retention = Retention(spool, find, no_archive, 0.0, [])
        give(spool, *images[:9])
        [scan] = find().scans
        retention.note(is_done(scan.name))
        give(spool, *images[9:])

        def clean_meanwhile(*arguments: Any) -> Any:
            retention.clean()
            return make_worklist(*arguments)

        monkeypatch.setattr(settled_module, "make_worklist", clean_meanwhile)
        [scan] = find().scans
        retention.clean()
        assert len(scan.images[0].files) == len(kept(tmp_path)) == len(images)


def test_what_is_skipped_again_is_taken_away_again(versions, tmp_path, tiny_model, no_archive):
    """The journal says nothing new of it."""
    card, _ = read_card(tiny_model)
    with Spool(tmp_path, LIMITS) as spool:
        find = Settled(spool, Rules(minimum_slices=15), card, quiet_seconds=0.0)
        retention = Retention(spool, find, no_archive, 3600.0, [])
        for _ in range(2):
            give(spool, *versions[0])
            retention.clean()
            [left_out] = find().left_out
            retention.clean()
            assert len(kept(tmp_path)) == len(versions[0])
            grow_old(tmp_path)
            retention.clean()
            assert kept(tmp_path) == []
        retention.note(is_done(left_out.name))


def test_every_line_that_is_logged_is_one_line_without_values(study, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with node(tmp_path) as receiver:
        with calling(receiver.port, title="EVIL") as association:
            store(association, *study[0][:2])
            association.abort()
        deadline = time.monotonic() + 5
        while not receiver.spool.broken_off():
            assert time.monotonic() < deadline
    lines = said(caplog)
    assert any("EVIL@127.0.0.1" in line for line in lines)
    assert not [line for line in lines if len(line.splitlines()) != 1]
    assert not [line for line in lines for secret in secrets_of(study[0]) if secret in line]


def test_options_are_refused_before_any_work(tmp_path, tiny_model, capsys):
    common = ("serve", "-m", tiny_model, "--spool", tmp_path / "spool")
    for more, reason in (
        (("--to", "ARCHIVE"), "expected AE@host:port"),
        (("--ae-title", "A\\B"), "expected an AE title"),
        (("--allow", "CT1@no.such.host.invalid"), "the host has no address"),
        (("--uid-root", "abc"), "is no root for UIDs"),
    ):
        assert reason in refused(capsys, *common, *more, code=2)
    assert not (tmp_path / "spool").exists()
    assert "is no spool" in refused(capsys, "serve", "--status", tmp_path)
