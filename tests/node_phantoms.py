"""Phantom series, and a caller, for the tests of the DICOM node."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import CTImageStorage, MRImageStorage, Verification

from medp2p.node.receiver import readable_transfer_syntaxes
from medp2p.phantom.dicom_export import mr_series, write_patient
from medp2p.phantom.hospital import make_patient, random_plan

PATIENT_WORDS = ("PatientName", "PatientID", "StudyDescription", "SeriesDescription", "StudyDate")


def write_study(folder: Path, number: int, contrasts: tuple[str, ...]) -> list[list[Path]]:
    """Write a phantom's MR study.

    Returns:
        The files of each series.
    """
    plan = random_plan(number, contrasts=contrasts, pixels=32, turned=False)
    write_patient(mr_series(make_patient(plan), number, localizer=False), folder)
    return [sorted(series.iterdir()) for series in sorted((folder / "mr").iterdir())]


def interleaved(series: Iterable[list[Path]]) -> list[Path]:
    """The first file of each, the second of each, and so on."""
    together = [(n, path) for files in series for n, path in enumerate(files)]
    return [path for _, path in sorted(together, key=lambda pair: (pair[0], str(pair[1])))]


def secrets_of(files: Iterable[Path]) -> set[str]:
    """What no log and no name may hold."""
    headers = [dcmread(path, stop_before_pixels=True) for path in files]
    words = {str(h[name].value) for h in headers for name in PATIENT_WORDS if name in h}
    uids = {str(value) for h in headers for value in (h.SOPInstanceUID, h.SeriesInstanceUID)}
    return {word for word in words | uids if len(word) > 3}


@contextmanager
def calling(
    port: int, *, title: str = "TESTER", called: str = "MEDP2P", **options: Any
) -> Iterator[Association]:
    """An association with a node; not established if it was rejected."""
    entity = AE(title)
    contexts = [build_context(Verification)]
    contexts += [
        build_context(kind, syntax)
        for kind in (CTImageStorage, MRImageStorage)
        for syntax in readable_transfer_syntaxes()
    ]
    association = entity.associate("127.0.0.1", port, contexts=contexts, ae_title=called, **options)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()
        connection = association.dul.socket and association.dul.socket.socket
        if connection:
            connection.close()


def store(association: Association, *images: Path | Dataset) -> list[int | None]:
    """Send images; the statuses of the answers, None where there was none."""
    answers = [
        association.send_c_store(image if isinstance(image, Dataset) else dcmread(image))
        for image in images
    ]
    return [answer.get("Status") for answer in answers]


def shuffled(paths: Iterable[Path], seed: int) -> list[Path]:
    """In another order, the same each time."""
    paths = list(paths)
    random.Random(seed).shuffle(paths)
    return paths
