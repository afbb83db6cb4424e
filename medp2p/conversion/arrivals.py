"""What arrives in a tree that somebody fills, once nobody writes to it any more.

Whether a file is quiet is told by looking at it again, never by its times: those are of another
clock, or were copied with the file. Headers are kept, so that a look at a tree in which nothing
happens costs one `stat` per file.
"""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medp2p.conversion.candidates import Candidate
from medp2p.conversion.rules import Rules
from medp2p.conversion.scans import LeftOut, Scan, Worklist
from medp2p.conversion.tree import read_tree
from medp2p.conversion.wanted import wanted_for
from medp2p.conversion.worklist import (
    check_rules,
    find_candidates,
    join_candidates,
    names_in,
    shard,
)
from medp2p.io import image_name, image_suffix
from medp2p.io.dicom_files import Scan as Headers
from medp2p.io.dicom_files import quiet_pydicom, scan_files, series_of_damaged
from medp2p.io.dicom_kinds import lost_files

if TYPE_CHECKING:
    from medp2p.checkpoint import ModelCard

SECONDS_BETWEEN_LOOKS = 5.0
"""The tree is looked at no more often than this, or than ``quiet_seconds`` if that is less."""

SHARE_OF_TIME = 0.1
"""A look at a large tree takes time; at most this share of all time is spent on looking."""

_State = tuple[int, int, int]
"""Size, time of the last change in nanoseconds and inode; zeros if there is no file."""

_GONE: _State = (0, 0, 0)


@dataclass(slots=True)
class _File:
    """A file of the tree, or one that was there lately.

    Attributes:
        state: Of the last look.
        since: When it was first seen so.
        headers: What it holds.
        parts: What it is, or may be, a part of: a series, an image, and for a damaged file
            anything in its folder.
        around: What has to be looked at together with it: these, its folder and its study.
        is_there: Whether it was in the tree at the last look.
        is_news: Whether its state has not been reckoned with yet.
    """

    state: _State
    since: float
    headers: Headers
    parts: tuple[str, ...]
    around: tuple[str, ...]
    is_there: bool = True
    is_news: bool = True


@dataclass(frozen=True)
class _Answer:
    """What was said last under a name, and of which files in which state."""

    what: Scan | LeftOut
    files: tuple[Path, ...] = field(compare=False)
    states: tuple[_State, ...] = ()


class Arrivals:
    """Finds, each time it is called, what is new in a tree or has changed.

    A scan is returned once none of its files has changed for a while: none came, grew or went.
    It is returned again whenever one did. What is left out is returned once, and again if the
    reason is another one. Once all is quiet, the names of everything that is there are returned.
    What is wanted is as for `medp2p.conversion.worklist.make_worklist`. Of what is hidden nothing
    is said. It may be called as often as one likes: the tree is looked at every few seconds.

    Args:
        incoming: A tree of DICOM studies and image files.
        rules: What is wanted.
        card: Of the model.
        quiet_seconds: For how long files must not have changed. Nothing is returned earlier
            than that after the first call.
        part: Number, from 1, and count, as for `medp2p.conversion.worklist.shard`.
        clock: Seconds that only rise.

    Raises:
        ConfigError: If the rules name other contrasts or another modality than the model has.
    """

    def __init__(
        self,
        incoming: Path,
        rules: Rules,
        card: ModelCard,
        quiet_seconds: float,
        part: tuple[int, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_rules(rules, card)
        self._incoming, self._rules, self._card, self._part = incoming, rules, card, part
        self._quiet_seconds = quiet_seconds
        self._clock = clock
        self._wanted = wanted_for(rules, card)
        self._has_contrasts = len(card.source_names) > 1 or bool(rules.sources)
        self._files: dict[Path, _File] = {}
        self._around: dict[str, set[Path]] = defaultdict(set)
        self._answers: dict[str, _Answer] = {}
        self._names: frozenset[str] | None = None
        self._next_look = -math.inf

    def __call__(self) -> Worklist:
        """Look at the tree.

        Raises:
            ImageReadError: If the tree cannot be listed; the next look may succeed.
        """
        began = self._clock()
        if began < self._next_look:
            return Worklist(())
        tree = read_tree(self._incoming)
        states = {path: _state(path) for path in tree.files}
        now = self._clock()
        pause = min(self._quiet_seconds, SECONDS_BETWEEN_LOOKS)
        self._next_look = now + max(pause, (now - began) * (1 / SHARE_OF_TIME - 1))
        self._notice(states, now)
        restless = {
            path for path, f in self._files.items() if began - f.since < self._quiet_seconds
        }
        news = [path for path, f in self._files.items() if f.is_news and path not in restless]
        looked_at = self._all_around(news)
        files = sorted(path for path in looked_at if self._files[path].is_there)
        part = replace(tree, files=files)
        found = find_candidates(self._incoming, part, self._headers(files), self._wanted)
        worklist = join_candidates(found, self._rules, self._card)
        self._reckon(news)
        self._forget_answers(names_in(worklist), looked_at)
        new = self._new_of(worklist, found, restless)
        return new if restless else self._with_all_names(new)

    def _notice(self, states: Mapping[Path, _State], now: float) -> None:
        """Note what came, changed or went, and read the headers of that."""
        with quiet_pydicom:
            for path, state in states.items():
                known = self._files.get(path)
                if known is None or known.state != state or not known.is_there:
                    self._learn(path, state, now)
        for path, known in self._files.items():
            if known.is_there and path not in states:
                known.is_there, known.is_news, known.since = False, True, now

    def _learn(self, path: Path, state: _State, now: float) -> None:
        """Read a header; what the file was a part of before may still hang on it."""
        headers = scan_files([path])
        before = self._files[path].parts if path in self._files else ()
        self._forget(path)
        parts = tuple(map(sys.intern, dict.fromkeys((*before, *_parts(path, headers)))))
        around = [*parts, _folder(path)]
        if self._has_contrasts:
            around += [f"study {frame.file.study_uid}" for frame in headers.frames[:1]]
        known = _File(state, now, headers, parts, tuple(map(sys.intern, around)))
        self._files[path] = known
        for word in known.around:
            self._around[word].add(path)

    def _forget(self, path: Path) -> None:
        known = self._files.pop(path, None)
        for word in known.around if known else ():
            self._around[word].discard(path)
            if not self._around[word]:
                del self._around[word]

    def _all_around(self, paths: Iterable[Path]) -> set[Path]:
        """All files whose meaning could hang on some: of their folders, series and studies."""
        found = set(paths)
        waiting = list(found)
        words: set[str] = set()
        while waiting:
            for word in set(self._files[waiting.pop()].around) - words:
                words.add(word)
                waiting += self._around[word] - found
                found |= self._around[word]
        return found

    def _reckon(self, news: Iterable[Path]) -> None:
        gone = {path for path in news if not self._files[path].is_there}
        for path in news:
            self._files[path].is_news = False
        for path in gone:
            self._forget(path)
        if gone:
            answers = self._answers.items()
            self._answers = {name: one for name, one in answers if gone.isdisjoint(one.files)}

    def _forget_answers(self, names: Collection[str], looked_at: set[Path]) -> None:
        """Forget what was said of things that are no longer there under their names."""
        self._answers = {
            name: one
            for name, one in self._answers.items()
            if name in names
            or (looked_at.isdisjoint(one.files) and not self._files.keys().isdisjoint(one.files))
        }

    def _with_all_names(self, worklist: Worklist) -> Worklist:
        """Add the names of all that is there, unless they were said already."""
        names = frozenset(self._answers)
        if names == self._names:
            return worklist
        self._names = names
        return replace(worklist, looked_in=("",), names=names)

    def _headers(self, files: Sequence[Path]) -> Headers:
        headers = Headers()
        for path in files:
            own = self._files[path].headers
            headers.frames.extend(own.frames)
            headers.skipped.extend(own.skipped)
            headers.damaged.extend(own.damaged)
        return headers

    def _new_of(
        self, worklist: Worklist, found: dict[str, Candidate], restless: Iterable[Path]
    ) -> Worklist:
        """Leave out what is not quiet, and what was said already."""
        moving = {word for path in restless for word in self._files[path].parts}
        visits = {one.visit for one in found.values() if self._is_of(moving, one.image.files)}
        scans, left_out = [], []
        for scan in worklist.scans:
            files = tuple(file for image in scan.images for file in image.files)
            states = tuple(self._state_of(file) for file in files)
            if not self._is_of(moving, files) and self._is_new(_Answer(scan, files, states)):
                scans.append(scan)
        for left in worklist.left_out:
            one = found[left.name]
            waits = self._is_of(moving, one.image.files)
            waits |= self._has_contrasts and bool(one.visit) and one.visit in visits
            if not waits and self._is_new(_Answer(left, one.image.files)):
                left_out.append(left)
        new = Worklist(tuple(scans), tuple(left_out))
        return shard(new, *self._part) if self._part else new

    def _is_of(self, parts: set[str], files: Iterable[Path]) -> bool:
        """Whether one of some parts is of these files, or may be."""
        return any(
            word in parts
            for file in files
            if file in self._files
            for word in (*self._files[file].parts, _folder(file))
        )

    def _state_of(self, path: Path) -> _State:
        return self._files[path].state if path in self._files else _state(path)

    def _is_new(self, answer: _Answer) -> bool:
        is_new = self._answers.get(answer.what.name) != answer
        self._answers[answer.what.name] = answer
        return is_new


def _state(path: Path) -> _State:
    try:
        stat = path.stat()
    except OSError:
        return _GONE
    return (stat.st_size, stat.st_mtime_ns, stat.st_ino)


def _parts(path: Path, headers: Headers) -> list[str]:
    """What a file may be a part of."""
    if headers.frames:
        return [f"series {headers.frames[0].file.series_uid}"]
    stem = image_name(path) if image_suffix(path) else path.stem
    parts = [f"image {path.with_name(stem or path.name)}"]
    if lost_files(headers):
        parts.append(_folder(path))
        if series := series_of_damaged(path):
            parts.append(f"series {series}")
    return parts


def _folder(path: Path) -> str:
    return f"folder {path.parent}"
