"""Files and folders that appear whole or not at all.

A result is written under a temporary name in its own folder, flushed to the disk and
then renamed. A crash leaves a hidden ``.tmp-…`` entry at worst, never a half result.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medp2p.errors import ImageReadError, OutputError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another disk",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another disk",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EACCES: "no permission to write there; choose another place",
    errno.EPERM: "no permission to write there; choose another place",
    errno.ENOTDIR: "a part of this path is a file; choose another place",
    errno.EEXIST: "a part of this path is a file; choose another place",
    errno.ENOENT: "this place cannot hold it; choose another place",
    errno.ELOOP: "its links go round in a circle; choose another place",
    errno.EISDIR: "it is a folder; choose another name",
    errno.EFBIG: "the file system cannot hold so large a file; choose another place",
    errno.EIO: "the disk reports an error; choose another place",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise OutputError if ``path`` exists and must not be replaced, or can be no name.

    An empty folder is refused with ``overwrite`` too: nothing shows that it may be replaced.
    """
    with output_errors(path):
        if path.is_dir() and not any(path.iterdir()):
            raise OutputError(
                f"{path}: is a folder that holds nothing; remove it or name another output"
            )
        if not overwrite and (path.exists() or path.is_symlink()):
            raise OutputError(f"{path}: exists already; name another output or pass --overwrite")


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write ``path`` into an OutputError."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        reason = _REASONS.get(error.errno, f"{error.strerror}; choose another place")
        raise OutputError(f"{path}: cannot be written: {reason}") from error


@contextmanager
def atomic_file(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` when the block ends well.

    The temporary name ends like ``path``, for writers that choose a format by suffix.
    Missing parent folders are made. If the block raises, nothing is left behind.

    Raises:
        OutputError: If ``path`` exists and ``overwrite`` is false, or cannot be written
            (full disk, read-only file system, no permission).
    """
    with output_errors(path):
        refuse_existing(path, overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_beside(path)
        try:
            yield temporary
            flush_to_disk(temporary)
            _publish_file(temporary, path, overwrite)
        finally:
            temporary.unlink(missing_ok=True)
        flush_to_disk(path.parent)


@contextmanager
def atomic_folder(
    path: Path, *, marker: str | None = None, overwrite: bool = False
) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path``, with all it holds, at the end.

    Args:
        path: The folder to make.
        marker: A file that every folder of this kind holds. Only a folder that holds it is
            ever replaced, so that ``overwrite`` can take away nothing else. A link to a
            folder stays, and what it points to is replaced.
        overwrite: Whether an existing folder may be replaced.

    Raises:
        OutputError: As for `atomic_file`, and if what is there is no folder of this kind.
    """
    refuse_existing(path, overwrite)
    path = path.resolve() if path.is_dir() else path.absolute()
    with output_errors(path):
        if path.exists() and not (marker and (path / marker).is_file()):
            raise OutputError(
                f"{path}: is there and holds no {marker or 'mark of ours'}, so it is not "
                "replaced; name another output"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=".tmp-"))
        temporary.chmod(0o777 & ~_umask())
        try:
            yield temporary
            for entry in temporary.rglob("*"):
                flush_to_disk(entry)
            _publish_folder(temporary, path, overwrite)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        flush_to_disk(path.parent)


def write_text(path: Path, text: str, *, overwrite: bool = False) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def files_below(folder: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Yield every file at any depth.

    Links are followed once. Hidden files and folders, pipes, sockets and devices are left out.

    Args:
        folder: Where to look.
        on_error: Called if a folder cannot be listed, which is then left out.

    Raises:
        ImageReadError: If a folder cannot be listed and there is no ``on_error``: what is in it
            would be missed.
    """

    def refuse(error: OSError) -> None:
        raise ImageReadError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    visited = set()
    for place, folders, files in os.walk(folder, onerror=on_error or refuse, followlinks=True):
        real = Path(place).resolve()
        folders[:] = [] if real in visited else [f for f in folders if not f.startswith(".")]
        if real not in visited:
            visible = (Path(place) / file for file in files if not file.startswith("."))
            yield from (path for path in visible if not _is_device(path))
        visited.add(real)


def _is_device(path: Path) -> bool:
    """Whether reading could wait for ever: a pipe, a socket, a device."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def flush_to_disk(path: Path) -> None:
    """Ask the operating system to put a file or folder on the disk (fsync).

    Windows and some network file systems know no fsync of a folder; there it is left out.
    """
    if path.is_dir():
        with suppress(OSError):
            _fsync(path, os.O_RDONLY)
    else:
        _fsync(path, os.O_RDWR)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary_beside(path: Path) -> Path:
    suffix = "".join(path.suffixes)[-20:]
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-", suffix=suffix)
    os.close(descriptor)
    temporary = Path(name)
    temporary.chmod(0o666 & ~_umask())
    return temporary


def _publish_file(temporary: Path, path: Path, overwrite: bool) -> None:
    if overwrite:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path)
    except FileExistsError:
        refuse_existing(path, overwrite)
    except OSError:
        refuse_existing(path, overwrite)
        temporary.rename(path)


def _publish_folder(temporary: Path, path: Path, overwrite: bool) -> None:
    if overwrite and path.exists():
        replaced = Path(tempfile.mkdtemp(dir=path.parent, prefix=".tmp-")) / path.name
        path.rename(replaced)
        temporary.rename(path)
        shutil.rmtree(replaced.parent)
        return
    refuse_existing(path, overwrite)
    temporary.rename(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
