"""The files of a tree that somebody else fills, in which links may lead anywhere."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from medp2p.conversion.journal import JOURNAL_FOLDER
from medp2p.errors import ImageReadError


@dataclass(frozen=True)
class Tree:
    """What lies below a folder.

    Attributes:
        files: Every file that is not hidden, in order.
        closed: Folders that cannot be listed, with the reason.
        outside: Links that lead out of the tree; nothing there is looked at.
        outputs: Folders that `medp2p batch` writes into; nothing there is looked at.
        hidden: Files and folders whose names begin with a dot; nothing there is looked at.
        no_files: Pipes, sockets and devices; they are not opened.
    """

    files: list[Path] = field(default_factory=list)
    closed: list[tuple[Path, str]] = field(default_factory=list)
    outside: list[Path] = field(default_factory=list)
    outputs: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    no_files: list[Path] = field(default_factory=list)


def read_tree(folder: Path) -> Tree:
    """List the files below a folder.

    Links to files and folders inside the tree are followed, but nothing is listed twice. Hidden
    files and folders are left out; of these only the outermost are noted.

    Raises:
        ImageReadError: If there is no such folder, it cannot be listed, or `medp2p batch` writes
            into it.
    """
    if not folder.is_dir():
        raise ImageReadError(f"{folder}: no such folder; expected a folder of scans")
    tree = Tree()
    root = folder.resolve()
    visited: set[Path] = set()
    links = _list(folder, tree, visited)
    if tree.closed and tree.closed[0][0] == folder:
        raise ImageReadError(f"{folder}: {tree.closed[0][1]}")
    if tree.outputs and tree.outputs[0] == folder:
        raise ImageReadError(f"{folder}: holds results of medp2p batch; expected a folder of scans")
    while links:
        link = links.pop(0)
        target = Path(os.path.realpath(link))  # of a circle, too, which resolve() refuses
        kind = _file_mode(target)
        if not target.is_relative_to(root):
            tree.outside.append(link)
        elif stat.S_ISDIR(kind):
            links += _list(link, tree, visited)
        elif kind == 0 or (stat.S_ISREG(kind) and not _is_listed(target, tree, visited)):
            tree.files.append(link)
            visited.add(target)
        elif not stat.S_ISREG(kind):
            tree.no_files.append(link)
    tree.files.sort()
    return tree


def _list(start: Path, tree: Tree, visited: set[Path]) -> list[Path]:
    """Add what lies below a folder to the tree, and return the links there."""
    links: list[Path] = []
    folders = [start]
    while folders:
        folder = folders.pop()
        place = folder.resolve()
        if place in visited:
            continue
        visited.add(place)
        try:
            with os.scandir(folder) as listed:
                every = list(listed)
            entries = [entry for entry in every if not entry.name.startswith(".")]
            if _holds_journal(folder, entries):
                tree.outputs.append(folder)
                continue
            links += [folder / entry.name for entry in entries if entry.is_symlink()]
            inner = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
            files = [entry for entry in entries if entry.is_file(follow_symlinks=False)]
            others = set(entries).difference(inner, files)
        except OSError as error:
            tree.closed.append((folder, f"cannot be listed: {error.strerror}"))
            continue
        tree.hidden.extend(folder / e.name for e in every if e.name.startswith("."))
        folders += [folder / entry.name for entry in inner]
        tree.files.extend(folder / entry.name for entry in files)
        tree.no_files.extend(folder / entry.name for entry in others if not entry.is_symlink())
    return sorted(links)


def _holds_journal(folder: Path, entries: list[os.DirEntry[str]]) -> bool:
    if not any(entry.name == JOURNAL_FOLDER for entry in entries):
        return False
    with suppress(OSError), os.scandir(folder / JOURNAL_FOLDER) as listed:
        return any(entry.name.endswith(".jsonl") for entry in listed)
    return False


def _file_mode(path: Path) -> int:
    """What is there (``st_mode``); 0 if nothing is, or it may not be looked at."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _is_listed(target: Path, tree: Tree, visited: set[Path]) -> bool:
    """Whether a file is in the tree by its own name, or is no input."""
    by_itself = target.parent in visited and not target.name.startswith(".")
    outputs = (folder.resolve() for folder in tree.outputs)
    return by_itself or target in visited or any(map(target.is_relative_to, outputs))
