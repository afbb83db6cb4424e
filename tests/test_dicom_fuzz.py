"""Two thousand damaged DICOM files: each gives a clean error, or a volume that its header states.

Every case is made from its number alone. A process of its own reads them under a bound on memory
and time, so that a hang or a crash is a failure like any other. To look at cases by hand:

    python tests/test_dicom_fuzz.py FOLDER FIRST COUNT

leaves the files of the cases that failed in the folder.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import resource
import shutil
import subprocess
import sys
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import dicom_phantoms as phantoms
import numpy as np
import pydicom
import pytest
from dicom_phantoms import AXIAL, SECRETS, enhanced, paint, save, slices
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from medp2p.errors import MedP2PError
from medp2p.io import read_volume
from medp2p.volume import Volume

CASES = 2000
BLOCK = 250
SECONDS = 20
"""A read that takes longer has hung."""

MEMORY_BYTES = 4 << 30
RESIDENT_BYTES = 400 << 20
"""Growth that reading files of some kilobytes may cost, the libraries' own included."""

POSITION_MM = 0.06
"""The reader's tolerance for a slice off its line, and a little for rounding."""

FIELD_MM = 0.3
"""What its tolerance on direction cosines comes to over the field."""

Generator = np.random.Generator


@dataclass(frozen=True)
class Base:
    """A sound series to damage.

    Attributes:
        files: The content of each file.
        little: Whether numbers are little-endian.
        implicit: Whether elements have no VR.
        deflated: Whether what follows group 2 is deflated.
    """

    files: list[bytes]
    little: bool = True
    implicit: bool = False
    deflated: bool = False


@dataclass(frozen=True)
class Element:
    """Where an element lies in a file: its tag at ``start``, its value from ``value``."""

    tag: int
    start: int
    value: int
    length: int
    vr: int | None

    @property
    def length_at(self) -> int:
        return self.value - self.length_size

    @property
    def length_size(self) -> int:
        return 2 if self.vr is not None and self.value - self.start == 8 else 4


def bases(folder: Path) -> dict[str, Base]:
    """Small series of every kind, written by the phantom script."""
    scan = replace(AXIAL, shape=(16, 12, 6), spacing_mm=(16.0, 21.0, 5.0))
    ct = replace(scan, modality="CT")
    rich = phantoms.both(phantoms.private_tags, phantoms.with_icons, phantoms.open_sequences)
    syntaxes = {
        "implicit": "1.2.840.10008.1.2",
        "explicit": "1.2.840.10008.1.2.1",
        "big endian": "1.2.840.10008.1.2.2",
        "deflated": "1.2.840.10008.1.2.1.99",
        "RLE": "1.2.840.10008.1.2.5",
        "JPEG 2000": "1.2.840.10008.1.2.4.90",
    }
    made = {}
    for name, syntax in syntaxes.items():
        for kind, datasets in {
            "classic": slices(scan),
            "CT": slices(ct),
            "rich": rich(slices(scan)),
            "enhanced": slices(scan),
            "enhanced CT": slices(ct),
            "open": slices(scan),
        }.items():
            painted = paint(datasets, 0)
            if kind in ("enhanced", "enhanced CT", "open"):
                if name in ("big endian", "JPEG 2000"):
                    continue
                painted = [enhanced(painted)]
                if kind == "open":
                    _open_all(painted[0])
            for n, ds in enumerate(painted):
                save(ds, folder / kind / name / f"{n}.dcm", syntax)
            files = [p.read_bytes() for p in sorted((folder / kind / name).iterdir())]
            made[f"{kind}, {name}"] = Base(
                files, name != "big endian", name == "implicit", name == "deflated"
            )
    return made


def _open_all(ds: Dataset) -> None:
    """Give every sequence and item an undefined length, so that nested values may grow."""
    for element in ds:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
                _open_all(item)


def elements(content: bytes, base: Base) -> Iterator[Element]:
    """Walk a sound file, into sequences and items too (PS3.5 7.1)."""
    at = 132
    long_vrs = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"OD", b"OL", b"UC", b"UR")
    while at + 8 <= len(content):
        meta = content[at : at + 2] == b"\x02\0"
        order = "little" if base.little or meta else "big"
        group = int.from_bytes(content[at : at + 2], order)
        tag = group << 16 | int.from_bytes(content[at + 2 : at + 4], order)
        vr = None
        size_at, size = at + 4, 4
        if group != 0xFFFE and (meta or not base.implicit):
            vr = at + 4
            long = content[vr : vr + 2] in long_vrs
            size_at, size = (at + 8, 4) if long else (at + 6, 2)
        length = int.from_bytes(content[size_at : size_at + size], order)
        value = size_at + size
        container = group == 0xFFFE or length == 0xFFFFFFFF or (tag in _SEQUENCES)
        yield Element(tag, at, value, 0 if container else length, vr)
        if tag == 0x7FE00010 and value > len(content) // 2:
            return
        at = value if container else value + length


_SEQUENCES = {
    pydicom.datadict.tag_for_keyword(word)
    for word in (
        "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence",
        "PlanePositionSequence",
        "PlaneOrientationSequence",
        "PixelMeasuresSequence",
        "PixelValueTransformationSequence",
        "FrameContentSequence",
        "MRImageFrameTypeSequence",
        "CTImageFrameTypeSequence",
        "MREchoSequence",
        "IconImageSequence",
        "ReferencedImageSequence",
        "PurposeOfReferenceCodeSequence",
    )
}

TEXTS = (
    b"",
    b"0",
    b"-1",
    b"1",
    b"2",
    b"nan",
    b"inf\\-inf",
    b"1e400",
    b"1e8\\1e8\\1e8",
    b"-5.5\\12\\0.001",
    b"1\\0\\0\\0\\0\\1",
    b"0\\1\\0\\0\\0\\-1",
    b"1,5\\2,5",
    b"8\\12.8",
    b"\\\\\\\\\\",
    b"99999999999",
    b"0x10",
    b"Quisenberry^Zephyrine",
    b"QUISENBERRY\\ZQ-7741903",
    b"2.25.7741903",
    b"\xff\xfe\x80\x00\x1b$B",
    b"\0" * 16,
    b"1" * 70000,
    b"1\\" * 9000,
)
LENGTHS = (0, 1, 3, 7, 8, 255, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 20)
VRS = b"AE AS AT CS DA DS DT FD FL IS LO LT OB OW PN SH SL SQ SS ST TM UI UL UN US UT ZZ \0\0"


def flip_bytes(content: bytearray, found: list[Element], rng: Generator, base: Base) -> None:
    end = len(content) if rng.random() < 0.3 else _header_end(content, found)
    for at in rng.integers(0, end, rng.integers(1, 20)):
        content[at] = rng.integers(256)


def flip_a_bit(content: bytearray, found: list[Element], rng: Generator, base: Base) -> None:
    content[rng.integers(132, _header_end(content, found))] ^= 1 << rng.integers(8)


def cut_off(content: bytearray, found: list[Element], rng: Generator, base: Base) -> None:
    del content[rng.integers(0, len(content)) :]


def cut_out(content: bytearray, found: list[Element], rng: Generator, base: Base) -> None:
    at = rng.integers(0, len(content))
    del content[at : at + rng.integers(1, 200)]


def put_in(content: bytearray, found: list[Element], rng: Generator, base: Base) -> None:
    at = int(rng.integers(0, len(content)))
    content[at:at] = rng.bytes(int(rng.integers(1, 200)))


def blank(content: bytearray, found: list[Element], rng: Generator, base: Base) -> None:
    at = int(rng.integers(0, len(content)))
    size = min(int(rng.integers(1, 300)), len(content) - at)
    content[at : at + size] = bytes([rng.choice([0, 0xFF, 0x20])]) * size


def drop(content: bytearray, found: list[Element], rng: Generator, base: Base) -> None:
    it = _any(found, rng)
    del content[it.start : it.value + it.length]


def double(content: bytearray, found: list[Element], rng: Generator, base: Base) -> None:
    """The same tag again, now and then with another value."""
    it = _any(found, rng)
    again = content[it.start : it.value + it.length]
    if it.length and rng.random() < 0.7:
        again[-rng.integers(1, it.length + 1)] = rng.choice(list(b"0123456789-.\\ "))
    at = it.value + it.length if rng.random() < 0.5 else it.start
    content[at:at] = again


def put_elsewhere(content: bytearray, found: list[Element], rng: Generator, base: Base) -> None:
    """An element in the wrong order, or in another item."""
    it, other = _any(found, rng), _any(found, rng)
    piece = bytes(content[it.start : it.value + it.length])
    content[other.start : other.start] = piece


def misstate_length(content: bytearray, found: list[Element], rng: Generator, base: Base) -> None:
    it = _any(found, rng)
    length = it.length + int(rng.choice([-2, -1, 1, 2, 40])) if rng.random() < 0.5 else 0
    wrong = length or int(rng.choice(LENGTHS))
    size = it.length_size
    order = "little" if base.little else "big"
    content[it.length_at : it.value] = (wrong & (256**size - 1)).to_bytes(size, order)


def change_vr(content: bytearray, found: list[Element], rng: Generator, base: Base) -> None:
    it = _any(found, rng)
    if it.vr is not None:
        content[it.vr : it.vr + 2] = bytes(rng.choice(VRS.split(b" ")).ljust(2, b"\0"))


def replace_value(content: bytearray, found: list[Element], rng: Generator, base: Base) -> None:
    """Another text of any length, its length stated rightly."""
    it = _any(found, rng)
    text = TEXTS[rng.integers(len(TEXTS))]
    text += b" " * (len(text) % 2)
    size = it.length_size
    if len(text) < 256**size:
        order = "little" if base.little else "big"
        head = len(text).to_bytes(size, order)
        content[it.length_at : it.value + it.length] = head + text


def change_digit(content: bytearray, found: list[Element], rng: Generator, base: Base) -> None:
    """The likeliest damage to go unnoticed: a number that is a number still."""
    it = _any(found, rng)
    digits = [i for i in range(it.value, it.value + it.length) if chr(content[i]) in "0123456789"]
    if digits:
        content[rng.choice(digits)] = rng.choice(list(b"0123456789.-e"))


def change_number(content: bytearray, found: list[Element], rng: Generator, base: Base) -> None:
    """Rows, bits and the like."""
    short = [e for e in found if e.tag >> 16 == 0x28 and e.length == 2]
    it = short[rng.integers(len(short))] if short else _any(found, rng)
    numbers = [0, 1, 2, 3, 8, 12, 15, 16, 17, 32, 64, 255, 4096, 65535]
    number = int(rng.choice(numbers))
    content[it.value : it.value + 2] = number.to_bytes(2, "little" if base.little else "big")


def swap(content: bytearray, found: list[Element], rng: Generator, base: Base) -> None:
    """Two values of one length change places."""
    it = _any(found, rng)
    alike = [e for e in found if e.length == it.length and e.tag >> 16 != 0x7FE0]
    if not alike or it.tag >> 16 == 0x7FE0:
        return
    other = alike[rng.integers(len(alike))]
    a, b = slice(it.value, it.value + it.length), slice(other.value, other.value + it.length)
    content[a], content[b] = bytes(content[b]), bytes(content[a])


def nest(content: bytearray, found: list[Element], rng: Generator, base: Base) -> None:
    """Sequences in sequences, up to thousands deep, closed or not."""
    depth = int(rng.choice([3, 30, 300, 3000, 30000]))
    order = "little" if base.little else "big"

    def tag(number: int) -> bytes:
        return (number >> 16).to_bytes(2, order) + (number & 0xFFFF).to_bytes(2, order)

    open_ended = b"\xff\xff\xff\xff"
    vr = b"" if base.implicit else b"SQ\0\0"
    number = int(rng.choice([0x00081140, 0x52009230, 0x00289145, 0x00091001]))
    down = (tag(number) + vr + open_ended + tag(0xFFFEE000) + open_ended) * depth
    up = (tag(0xFFFEE00D) + bytes(4) + tag(0xFFFEE0DD) + bytes(4)) * depth
    it = _any([e for e in found if e.tag >> 16 > 2] or found, rng)
    content[it.start : it.start] = down + (up if rng.random() < 0.7 else b"")


MUTATIONS: tuple[Callable[[bytearray, list[Element], Generator, Base], None], ...] = (
    flip_bytes,
    flip_a_bit,
    cut_off,
    cut_out,
    put_in,
    blank,
    drop,
    double,
    put_elsewhere,
    misstate_length,
    change_vr,
    replace_value,
    replace_value,
    change_digit,
    change_digit,
    change_digit,
    change_number,
    swap,
    nest,
)


def _header_end(content: bytearray, found: list[Element]) -> int:
    return max(133, min(found[-1].value if found else len(content), len(content)))


def _any(found: list[Element], rng: Generator) -> Element:
    """Any element, the image's geometry and pixels more often than the rest."""
    telling = [e for e in found if e.tag >> 16 in (0x18, 0x20, 0x28, 0x5200)]
    if telling and rng.random() < 0.5:
        return telling[rng.integers(len(telling))]
    return found[rng.integers(len(found))]


def _body_start(content: bytes) -> int:
    """Where group 2 ends, by its length (0002,0000)."""
    start = content.index(b"\x02\0\0\0UL") + 12
    return start + int.from_bytes(content[start - 4 : start], "little")


def damaged(base: Base, number: int, rng: Generator) -> bytes:
    """One file of a series, changed in one to three ways."""
    content = base.files[number]
    body_at = 0
    if base.deflated and rng.random() < 0.7:
        body_at = _body_start(content)
        content = content[:body_at] + zlib.decompress(content[body_at:], -15)
    plain = replace(base, deflated=False)
    changed = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        size = len(changed)
        found = [e for e in elements(bytes(changed), plain) if e.value + e.length <= size]
        mutation = MUTATIONS[rng.integers(len(MUTATIONS))]
        if size > 300 and found:
            mutation(changed, found, rng, plain)
    if body_at:
        packer = zlib.compressobj(wbits=-15)
        packed = packer.compress(bytes(changed[body_at:])) + packer.flush()
        return bytes(changed[:body_at]) + packed
    return bytes(changed)


def make_case(number: int, made: dict[str, Base], folder: Path) -> Path:
    """Write the files of one case; return the path to read."""
    rng = np.random.default_rng(number)
    name = sorted(made)[rng.integers(len(made))]
    base = made[name]
    folder.mkdir()
    alone = len(base.files) == 1 or rng.random() < 0.3
    victim = int(rng.integers(len(base.files)))
    if not alone:
        for n, content in enumerate(base.files):
            (folder / f"{n}.dcm").write_bytes(content)
    (folder / f"{victim}.dcm").write_bytes(damaged(base, victim, rng))
    return folder / f"{victim}.dcm" if alone and rng.random() < 0.5 else folder


# What the headers state, read by pydicom with none of medp2p's code.


@dataclass(frozen=True)
class Stated:
    position: NDArray[np.float64]
    row: NDArray[np.float64]
    column: NDArray[np.float64]
    spacing: NDArray[np.float64]
    thickness: float
    values: NDArray[np.float64]


def stated(path: Path) -> list[Stated] | None:
    """What a file says of its slices; None if pydicom cannot tell."""
    try:
        ds = pydicom.dcmread(path, force=True)
        pixels = ds.pixel_array
        if "PerFrameFunctionalGroupsSequence" not in ds:
            return [_stated(ds, [ds], pixels)]
        shared = ds.get("SharedFunctionalGroupsSequence")
        frames = ds.PerFrameFunctionalGroupsSequence
        planes = pixels if pixels.ndim == 3 else pixels[None]
        return [
            _stated(ds, [frame, shared[0]] if shared else [frame], plane)
            for frame, plane in zip(frames, planes, strict=True)
        ]
    except Exception:  # whatever pydicom stumbles over, it does not judge
        return None


def _stated(ds: Dataset, holders: list[Dataset], pixels: NDArray[np.generic]) -> Stated:
    """The holders are the frame's functional groups and the shared ones, or just ``ds``."""

    def numbers(keyword: str, sequence: str) -> NDArray[np.float64] | None:
        for holder in holders:
            item = holder if holder is ds else (holder.get(sequence) or [None])[0]
            if item is not None:
                found = item.get(keyword)
                several = found if isinstance(found, MultiValue) else [found]
                if any(isinstance(each, BaseTag) for each in several):
                    raise TypeError("tags are no numbers")
                return None if found is None else np.array([float(each) for each in several])
        return None

    def number(keyword: str, sequence: str, default: float) -> float:
        found = numbers(keyword, sequence)
        return default if found is None else float(found.item())

    position = numbers("ImagePositionPatient", "PlanePositionSequence")
    directions = numbers("ImageOrientationPatient", "PlaneOrientationSequence")
    spacing = numbers("PixelSpacing", "PixelMeasuresSequence")
    if position is None or directions is None or spacing is None:
        raise ValueError("no place")
    slope = number("RescaleSlope", "PixelValueTransformationSequence", 1.0)
    intercept = number("RescaleIntercept", "PixelValueTransformationSequence", 0.0)
    return Stated(
        position=position.reshape(3),
        row=directions.reshape(6)[:3],
        column=directions[3:],
        spacing=spacing.reshape(2)[::-1],
        thickness=number("SliceThickness", "PixelMeasuresSequence", 0.0),
        values=pixels.astype(np.float64).T * slope + intercept,
    )


def judge(volume: Volume, path: Path, warned: bool) -> str:
    """``right``, ``unjudged`` if pydicom cannot tell, or what is wrong."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    read = [stated(file) for file in files]
    known = [each for found in read if found for each in found]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    verdict = "right"
    for k in range(volume.shape[2]):
        at = (affine @ (0, 0, k, 1))[:3]
        near = [s for s in known if np.abs(s.position - at).max() < POSITION_MM]
        if not near and None in read:
            verdict = "unjudged"
        elif not near:
            return f"slice {k} lies where no header says"
        elif not any(_agrees(s, volume.array[:, :, k], affine) for s in near):
            if None not in read:
                return f"slice {k} is not what its header says"
            verdict = "unjudged"
    if volume.shape[2] == 1 and len(known) == 1:
        normal = np.cross(known[0].row, known[0].column)
        if not np.allclose(affine[:3, 2], normal * known[0].thickness, atol=0.1, rtol=0.01):
            return "the single slice has another thickness than its header says"
    if volume.shape[2] < len(known) and not warned:
        return f"{len(known)} slices in the headers, {volume.shape[2]} in the volume, no warning"
    return verdict


def _agrees(header: Stated, values: NDArray[np.generic], affine: NDArray[np.float64]) -> bool:
    if header.values.shape != values.shape:
        return False
    for axis, direction in enumerate((header.row, header.column)):
        extent = (values.shape[axis] - 1) * (affine[:3, axis] - direction * header.spacing[axis])
        if np.abs(extent).max() > max(FIELD_MM, 1e-3 * values.shape[axis] * header.spacing[axis]):
            return False
    scale = max(1.0, float(np.abs(header.values).max()))
    return bool(np.allclose(values.astype(np.float64), header.values, rtol=0, atol=1e-6 * scale))


# One process that reads a block of cases, and the tests that start it.


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []
        self.warned = False

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        self.warned |= record.levelno >= logging.WARNING


def outcome(path: Path) -> str:
    """What came of reading a case: ``refused``, ``right``, ``unjudged`` or a complaint."""
    records = _Records()
    logging.getLogger().addHandler(records)
    volume, error = None, None
    try:
        volume = read_volume(path)
    except MedP2PError as refusal:
        error = str(refusal)
        records.texts.append(error)
    except BaseException as other:
        return f"{type(other).__name__}: {other}"[:300]
    finally:
        logging.getLogger().removeHandler(records)
    told = [text for text in records.texts if any(secret in text.lower() for secret in SECRETS)]
    if told:
        return f"tells of the patient: {told[0]}"[:500]
    if volume is None:
        return "refused" if error and "\n" not in error and str(path) in error else f"says {error}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return judge(volume, path, records.warned)


def work(folder: Path, first: int, count: int) -> None:
    """Read cases one by one; print what came of each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    logging.getLogger().setLevel(logging.DEBUG)
    logging.getLogger("pydicom").addHandler(logging.NullHandler())
    warnings.simplefilter("error")
    made = bases(folder / "sound")
    read_volume(folder / "sound" / "classic" / "explicit")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(first, first + count):
        print(number, end=" ", flush=True)  # noqa: T201
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        result = outcome(make_case(number, made, folder / str(number)))
        faulthandler.cancel_dump_traceback_later()
        print(ascii(result), flush=True)  # noqa: T201
        if result in ("right", "refused", "unjudged"):
            shutil.rmtree(folder / str(number))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print("grown", grown * 1024, flush=True)  # noqa: T201


def test_the_judge_knows_right_from_wrong(tmp_path: Path) -> None:
    for name, multi_frame in (("classic", False), ("enhanced", True)):
        folder = tmp_path / name
        phantoms.write(folder, slices(phantoms.PLANES["oblique"]), 0, multi_frame=multi_frame)
        volume = read_volume(folder)
        assert judge(volume, folder, warned=False) == "right"
        moved, scaled = volume.affine.copy(), volume.affine.copy()
        moved[0, 3] += 0.1
        scaled[:3, 0] *= 1.01
        wrong = [
            replace(volume, affine=moved),
            replace(volume, affine=scaled),
            volume.with_array(volume.array[..., ::-1]),
            volume.with_array(volume.array + 0.01),
            replace(volume, array=volume.array[..., :-1]),
        ]
        for each in wrong:
            assert judge(each, folder, warned=False) not in ("right", "unjudged")


def test_cases_are_made_from_their_numbers_alone(tmp_path: Path) -> None:
    made = [bases(tmp_path / name) for name in ("first", "second")]
    assert made[0] == made[1]
    contents = []
    for n, each in enumerate(made):
        folder = tmp_path / str(n)
        make_case(17, each, folder)
        contents.append({p.name: p.read_bytes() for p in folder.iterdir()})
    assert contents[0] == contents[1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="bounds memory with resource")
@pytest.mark.parametrize("first", range(0, CASES, BLOCK))
def test_damaged_files_are_refused_or_read_as_they_say(tmp_path: Path, first: int) -> None:
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path), str(first), str(BLOCK)],
        capture_output=True,
        text=True,
        timeout=50 + 10 * SECONDS,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{lines[-1:]} {done.stderr[-3000:]}"
    results = dict(line.split(" ", 1) for line in lines)
    grown = int(results.pop("grown"))
    assert len(results) == BLOCK
    counts = Counter(text.strip("'") for text in results.values())
    good = ("refused", "right", "unjudged")
    assert not {n: text for n, text in results.items() if text.strip("'") not in good}
    assert counts["right"] > 0.05 * BLOCK
    assert counts["refused"] > 0.2 * BLOCK
    assert counts["unjudged"] < 0.05 * BLOCK
    assert grown < RESIDENT_BYTES


def test_a_box_of_no_length_does_not_hang(tmp_path: Path) -> None:
    """JPEG 2000 in JP2 boxes, of which one says that it has no bytes."""
    phantoms.boxed_jpeg_2000(tmp_path, 0)
    for path in tmp_path.iterdir():
        content = bytearray(path.read_bytes())
        at = content.index(b"jp2h")
        content[at - 4 : at] = bytes(4)
        path.write_bytes(content)
    code = (
        "import sys\nfrom medp2p.errors import ImageReadError\nfrom medp2p.io import read_volume\n"
        "try:\n    read_volume(sys.argv[1])\nexcept ImageReadError:\n    print('refused')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "refused"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="bounds memory with resource")
def test_a_small_file_does_not_fill_the_memory(tmp_path: Path) -> None:
    """A private element that inflates to a gigabyte, in a file of a megabyte."""
    phantoms.write(tmp_path / "sound", slices(), 0)
    phantoms.write(tmp_path / "bomb", slices(), 0, syntax="1.2.840.10008.1.2.1.99")
    path = tmp_path / "bomb" / "image_0003.dcm"
    content = path.read_bytes()
    body_at = _body_start(content)
    size = 1 << 30
    packer = zlib.compressobj(9, wbits=-15)
    packed = packer.compress(b"\x09\0\x10\0LO\x04\0ABCD\x09\0\x01\x10OB\0\0")
    packed += packer.compress(size.to_bytes(4, "little"))
    for _ in range(1 << 10):
        packed += packer.compress(bytes(1 << 20))
    packed += packer.compress(zlib.decompress(content[body_at:], -15)) + packer.flush()
    path.write_bytes(content[:body_at] + packed)
    code = (
        "import resource, sys\n"
        "from medp2p.errors import MedP2PError\nfrom medp2p.io import read_volume\n"
        "read_volume(sys.argv[1] + '/sound')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    read_volume(sys.argv[1] + '/bomb')\n"
        "except MedP2PError:\n    pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) * 1024 < RESIDENT_BYTES


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
