"""SHA-256 of images on the disk, to tell whether they are still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from medp2p.errors import MedP2PError
from medp2p.files import files_below
from medp2p.io import data_file


def hash_path(path: Path) -> str:
    """Hash an image's file and the data file that its header names, or the files of a folder.

    Raises:
        MedP2PError: If a file cannot be read.
        ImageReadError: If the data file is missing, or the header damaged.
    """
    if path.is_dir():
        return hash_files(list(files_below(path)))
    data = data_file(path)
    return hash_files([path, data]) if data else hash_file(path)


def hash_files(files: Sequence[Path]) -> str:
    """Hash the content of files, whatever their names and order.

    Raises:
        MedP2PError: If a file cannot be read.
    """
    return hashlib.sha256("".join(sorted(map(hash_file, files))).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Hash the content of one file.

    Raises:
        MedP2PError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MedP2PError(f"{path}: cannot be read: {error.strerror or error}") from error
