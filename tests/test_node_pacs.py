"""`medp2p serve` between dcmtk's storescu and an Orthanc archive, as hospitals would use it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from subprocess import DEVNULL
from types import TracebackType
from typing import Any

import pytest

pytest.importorskip("pynetdicom", reason="needs pip install 'medp2p[node]'")

from node_phantoms import interleaved, secrets_of, shuffled, write_study
from pydicom import dcmread
from test_dicom_external import Orthanc, free_ports
from test_dicom_external import orthanc as orthanc

CONTRASTS = ("t1", "t2", "flair")
TITLE = "STORESCU"
"""What the archive's configuration allows to store."""

MEGABYTE = 2**20
GROWTH_BYTES = 60 * MEGABYTE
"""How much the node's processes may grow under abuse."""

pytestmark = [
    pytest.mark.external,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's /proc"),
    pytest.mark.skipif(shutil.which("storescu") is None, reason="storescu is not installed"),
]


class Serving:
    """A running `medp2p serve`; for use as a context."""

    def __init__(self, model: Path, spool: Path, archive: Orthanc, *options: str) -> None:
        self.spool = spool
        self.log = spool.with_suffix(".log")
        self.port = free_ports()[0]
        self.command = [sys.executable, "-m", "medp2p.cli", "-v", "serve", "-m", str(model)]
        self.command += ["--spool", str(spool), "--port", str(self.port), "--ae-title", TITLE]
        self.command += ["--to", f"ARCHIVE@127.0.0.1:{archive.dicom_port}", "--quiet", "1"]
        self.command += ["--device", "cpu", "--precision", "fp32", "--readers", "1"]
        self.command += ["--min-free", "0", "--idle-timeout", "5", *options]

    def __enter__(self) -> Serving:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stderr=log, stdout=log)
        begins = f"{TITLE}@127.0.0.1:{self.port} listens"
        self.said = lambda: self.log.read_text()
        before = self.said().count(begins)
        wait_for(lambda: self.said().count(begins) > before or self.process.poll() is not None)
        assert self.process.poll() is None, self.said()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait(60)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def sending(self, *files: Path, title: str = "SENDER", called: str = TITLE) -> list[str]:
        to = ["-aet", title, "-aec", called, "127.0.0.1", str(self.port)]
        return ["storescu", "--required", *to, *map(str, files)]

    def results(self) -> list[Path]:
        return sorted(
            path
            for path in (self.spool / "outgoing").rglob("*.dcm")
            if ".medp2p" not in path.relative_to(self.spool).parts
        )

    def memory_bytes(self) -> int:
        """Of all its processes."""
        return sum(map(resident_bytes, family(self.process.pid)))


def family(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in children.read_text().split():
                yield from family(int(child))


def resident_bytes(pid: int) -> int:
    with suppress(OSError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


def wait_for(is_so: Callable[[], Any], seconds: float = 120.0, step_seconds: float = 0.1) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(step_seconds)


def store(serving: Serving, *files: Path, **names: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        serving.sending(*files, **names), capture_output=True, text=True, timeout=60, check=False
    )


def in_archive(archive: Orthanc) -> dict[str, bytes]:
    """Pixels of each object, by UID; fails if one is there twice."""
    found = [
        dcmread(BytesIO(archive.bytes_at(f"/instances/{key}/file")))
        for key in archive.get("/instances")
    ]
    by_uid = {str(image.SOPInstanceUID): image.PixelData for image in found}
    assert len(by_uid) == len(found)
    return by_uid


def made(serving: Serving) -> dict[str, bytes]:
    images = [dcmread(path) for path in serving.results()]
    return {str(image.SOPInstanceUID): image.PixelData for image in images}


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> list[list[list[Path]]]:
    """Files by study and series: three studies of three series."""
    folder = tmp_path_factory.mktemp("studies")
    return [write_study(folder / f"{n}", n, CONTRASTS) for n in (1, 2, 3)]


@pytest.fixture
def emptied(orthanc) -> Orthanc:
    """The archive, with nothing in it."""
    import urllib.request

    for patient in orthanc.get("/patients"):
        request = urllib.request.Request(f"{orthanc.url}/patients/{patient}", method="DELETE")
        urllib.request.urlopen(request, timeout=60).close()
    return orthanc


def test_interleaved_series_are_translated_and_arrive(studies, emptied, tiny_model, tmp_path):
    """Alternate files of three series in one association, and three associations at once."""
    one, at_once, _ = studies
    count = sum(len(series) for study in (one, at_once) for series in study)
    with Serving(tiny_model, tmp_path / "spool", emptied) as serving:
        done = store(serving, *interleaved(one))
        assert (done.returncode, done.stderr) == (0, "")
        together = [subprocess.Popen(serving.sending(*series)) for series in at_once]
        assert [process.wait(60) for process in together] == [0, 0, 0]
        wait_for(lambda: serving.said().count("INFO: sent ") == 6)
        assert len(serving.results()) == count
        assert in_archive(emptied) == made(serving)
        abuse(serving, studies[2][0])
        assert serving.stop() == 0
        text = serving.said()
    secrets = secrets_of([path for study in studies for series in study for path in series])
    assert not [secret for secret in secrets if secret in text]
    assert "Traceback" not in text
    status = [sys.executable, "-m", "medp2p.cli", "serve", "--status", str(tmp_path / "spool")]
    said = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    assert "6 results sent, 0 under way, 0 given up" in said
    assert "6 done, 0 skipped, 0 failed" in said


def abuse(serving: Serving, series: list[Path]) -> None:
    """Everything that must be refused, while memory stays bounded and others are served."""
    before = serving.memory_bytes()
    most = before
    assert store(serving, series[0], called="OTHER").returncode != 0
    peers = []
    for sent in (
        b"GET / HTTP/1.1\r\n\r\n" + os.urandom(MEGABYTE),
        b"\x01\0\xff\xff\xff\xff" + bytes(50 * MEGABYTE),
        b"\x01\0\0\0\x01\0abc",
        b"\x04\0\0\0\0\x10" + bytes(16),
    ):
        for _ in range(3):
            peer = socket.create_connection(("127.0.0.1", serving.port))
            peer.settimeout(5)
            peers.append(peer)
            try:
                peer.sendall(sent)
            except OSError:
                continue
        most = max(most, serving.memory_bytes())
    for _ in range(200):
        peers.append(socket.create_connection(("127.0.0.1", serving.port)))
        most = max(most, serving.memory_bytes())
    time.sleep(1)
    most = max(most, serving.memory_bytes())
    assert serving.said().count("too many connections") > 150
    for peer in peers:
        peer.close()
    wait_for(lambda: store(serving, series[0]).returncode == 0, 30)
    most = max(most, serving.memory_bytes())
    assert most - before < GROWTH_BYTES, f"{(most - before) / MEGABYTE:.0f} MiB"
    for reason in (
        "called another AE title",
        "sent something that is no DICOM",
        "a protocol data unit is too long",
    ):
        assert reason in serving.said()


@pytest.mark.slow
def test_whatever_is_killed_nothing_is_lost_and_nothing_comes_twice(
    studies, emptied, tiny_model, tmp_path
):
    """SIGKILL while it receives, translates and sends; storescu is repeated until it succeeds."""
    spool = tmp_path / "spool"
    files = shuffled((path for study in studies for series in study for path in series), 1)
    incoming = spool / "incoming"
    for enough in (3, len(files) // 2):
        with Serving(tiny_model, spool, emptied) as serving:
            sending = serving.sending(*files)
            with subprocess.Popen(sending, stdout=DEVNULL, stderr=DEVNULL) as sender:
                wait_for(lambda n=enough: len(list(incoming.rglob("*.dcm"))) >= n, 30, 0.01)
                serving.process.kill()
                assert sender.wait(60) != 0
            assert enough <= len(list(incoming.rglob("*.dcm"))) < len(files)
    with Serving(tiny_model, spool, emptied) as serving:
        assert store(serving, *files).returncode == 0
    counts = [0]
    while counts[-1] < len(files):
        enough = min(counts[-1] + 20, len(files))
        with Serving(tiny_model, spool, emptied) as serving:
            wait_for(lambda n=enough: count_in(emptied) >= n, step_seconds=0.02)
            serving.process.kill()
        counts.append(count_in(emptied))
    assert any(0 < count < len(files) for count in counts), counts
    with Serving(tiny_model, spool, emptied) as serving:
        wait_for(lambda: sent_logs(spool) == 9)
        assert len(made(serving)) == len(files)
        assert in_archive(emptied) == made(serving)
        assert serving.stop() == 0


def count_in(archive: Orthanc) -> int:
    return int(archive.get("/statistics")["CountInstances"])


def sent_logs(spool: Path) -> int:
    return sum('"kind": "sent"' in path.read_text() for path in (spool / "sent").rglob("*.jsonl"))


@pytest.mark.slow
def test_an_archive_that_is_away_gets_the_results_later(studies, emptied, tiny_model, tmp_path):
    """Killed while the archive is away; the next run sends what was made before."""
    [first, *_] = studies[0]
    spool = tmp_path / "spool"
    away = Orthanc(free_ports()[0], 0)
    with Serving(tiny_model, spool, away) as serving:
        assert store(serving, *first).returncode == 0
        wait_for(lambda: "not sent to ARCHIVE@127.0.0.1" in serving.said())
        results = made(serving)
    with Serving(tiny_model, spool, emptied) as serving:
        wait_for(lambda: serving.said().count("INFO: sent ") == 1)
        assert in_archive(emptied) == results == made(serving)
        assert serving.stop() == 0
