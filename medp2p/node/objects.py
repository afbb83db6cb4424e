"""One object while it arrives: a file of its own, of bounded size, checked before it is kept."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID
from pynetdicom.dsutils import create_file_meta, split_dataset

from medp2p.io.dicom_files import quiet_pydicom

_logger = logging.getLogger(__name__)

OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000
OTHER_OBJECT = 0xC111
DOES_NOT_MATCH = 0xA900
"""Statuses of C-STORE (PS3.4 B.2.3); of the range C0xx to CFFF the standard leaves the choice."""

_HEAD_BYTES = 2**20
"""UIDs of patient, study and series lie this near to the beginning of an object."""

_UID_KEYWORDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_UID_TAGS: list[BaseTag | int] = [Tag(keyword) for keyword in _UID_KEYWORDS]
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RefusedObjectError(Exception):
    """An object is not taken; the text says why in at most 64 characters, without its values.

    Attributes:
        status: Of the answer.
        series: Name of the series that lacks it now; empty if it does not say.
    """

    def __init__(self, status: int, reason: str, *, series: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.series = series


class TooLargeError(Exception):
    """An object is larger than any may be."""


class IncomingObject:
    """An object while it arrives, in a file of its own.

    Attributes:
        path: The file.
        size: Of the file.
        is_kept: Whether it has got its place under another name.

    Args:
        path: A name that is free.
        reserve: Says whether so many bytes more may be written; called with a negative number when
            they are gone again.
        most_bytes: How large a data set may be.
        sop_class: As announced.
        sop_instance: As announced.
        transfer_syntax: How it is encoded.
    """

    def __init__(
        self,
        path: Path,
        reserve: Callable[[int], bool],
        most_bytes: int,
        sop_class: UID,
        sop_instance: UID,
        transfer_syntax: UID,
    ) -> None:
        self.path = path
        self.size = 0
        self._reserve = reserve
        self._reserved = 0
        self.is_kept = False
        self._most_bytes = most_bytes
        self._announced = (sop_class, sop_instance)
        self._transfer_syntax = transfer_syntax
        self._digest = hashlib.sha256(transfer_syntax.encode())
        self._problem: RefusedObjectError | None = None
        self._file: int | None = None
        with self._refusing():
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self._append(_file_meta(sop_class, sop_instance, transfer_syntax))
        self._offset = self.size

    @property
    def digest(self) -> str:
        """Hash of the data set and its encoding."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """Add bytes of the data set; if there is no room for them they are dropped.

        Raises:
            TooLargeError: If no object may be so large.
        """
        if self.size - self._offset + len(data) > self._most_bytes:
            raise TooLargeError
        if self._problem:
            self.size += len(data)
            return
        self._digest.update(data)
        with self._refusing():
            self._append(data)

    def names(self) -> tuple[str, str, str]:
        """Return hashes of the UIDs of study, series and object.

        Raises:
            RefusedObjectError: If the data set could not be written, does not say them, or is not
                what was announced.
        """
        self._close()
        if self._problem:
            raise self._problem
        found = self._read_uids()
        sop_class, instance, study, series = found
        name = f"{_hashed(study)}/{_hashed(series)}" if _are_valid(study, series) else ""
        if not _are_valid(*found):
            reason = "no valid UIDs of study, series and object"
            raise RefusedObjectError(CANNOT_UNDERSTAND, reason, series=name)
        if (sop_class, instance) != self._announced:
            raise RefusedObjectError(
                DOES_NOT_MATCH, "not the object that was announced", series=name
            )
        return _hashed(study), _hashed(series), _hashed(instance)

    def discard(self) -> None:
        """Remove the file; what got its place stays there."""
        self._close()
        if self._reserved and not self.is_kept:
            self._reserve(-self._reserved)
            self._reserved = 0
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Remember that the disk refused; the sender hears it once all has arrived."""
        try:
            yield
        except OSError as error:
            reason = "no space" if error.errno in _NO_SPACE else "the disk refuses it"
            self._problem = RefusedObjectError(OUT_OF_RESOURCES, reason)
            self.discard()

    def _append(self, data: bytes) -> None:
        if not self._reserve(len(data)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._reserved += len(data)
        assert self._file is not None
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        self.size += len(data)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _read_uids(self) -> list[str]:
        """Parse as far as the UIDs, and never more than the first megabyte."""
        syntax = self._transfer_syntax
        with self.path.open("rb") as file:
            file.seek(self._offset)
            head = file.read(_HEAD_BYTES)
        try:
            with quiet_pydicom:
                dataset = read_dataset(
                    BytesIO(head),
                    syntax.is_implicit_VR,
                    syntax.is_little_endian,
                    stop_when=_is_past_uids,
                    specific_tags=_UID_TAGS,
                )
                return [str(dataset.get(keyword) or "") for keyword in _UID_KEYWORDS]
        except Exception as error:  # pydicom raises whatever its parser stumbles over
            _logger.debug("unexpected", exc_info=error)
            raise RefusedObjectError(CANNOT_UNDERSTAND, "its header is damaged") from error


def _is_past_uids(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return bool(tag > _UID_TAGS[-1])


def _file_meta(sop_class: UID, sop_instance: UID, transfer_syntax: UID) -> bytes:
    """Preamble and file meta information (PS3.10 7.1)."""
    meta = create_file_meta(
        sop_class_uid=sop_class, sop_instance_uid=sop_instance, transfer_syntax=transfer_syntax
    )
    file = DicomBytesIO()
    file.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(file, meta)
    return file.getvalue()


def digest_of(path: Path) -> str:
    """Return the `IncomingObject.digest` of a file that was kept."""
    meta, offset = split_dataset(path)
    digest = hashlib.sha256(str(meta.TransferSyntaxUID).encode())
    with path.open("rb") as file:
        file.seek(offset)
        while block := file.read(_HEAD_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _are_valid(*uids: str) -> bool:
    return all(UID(value).is_valid for value in uids)


def _hashed(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:32]
