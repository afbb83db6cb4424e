from __future__ import annotations

import os
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import make_pair
from dicom_phantoms import PATIENT, SECRETS, paint, save, set_pixels, slices
from dicom_phantoms import Scan as ScanGeometry
from test_worklist import model, series, worklist, write_image

from medp2p.conversion.job import OutputKind, output_name
from medp2p.conversion.journal import last_of_each, read_events
from medp2p.conversion.scan_names import LONGEST_PART, Place, hashed, name_of
from medp2p.conversion.scans import Scan, ScanImage
from medp2p.io import image_suffix, is_picture

KEY = "4f3a2b1c"
WORDS = (
    *("mr", "MR", "p1", "20240131", "a.b", "t1.nii", "mr.nii.gz", "x.mha", "x.mhd", "scan.dcm"),
    *("journal", "Journal", "summary.csv", "summary.json", "aux", "COM1", "con.t1", "a ", "a."),
    *(
        "new\nline",
        "new\tline",
        "new_line",
        "\x1b[31m",
        "'",
        '"',
        "a:b",
        "a*b",
        "a\\b",
        "$(x)",
        "-",
    ),
    *(f"series-{KEY}", f"series-{KEY}_2", f"SERIES-{KEY}", f"mr~{KEY}", KEY, "mr.dicom", "mr.png"),
    *("x" * 240, "x" * 241, "ü" * 120, "ü", unicodedata.normalize("NFD", "ü"), "日本", "‮x"),
    *(os.fsdecode(b"\xff"), os.fsdecode(b"\xfe"), "~", "_"),
)
SUFFIXES = (
    ".nii.gz",
    ".nii",
    ".mha",
    ".mhd",
    ".nrrd",
    ".nhdr",
    ".png",
    ".NII.GZ",
    ".Nii",
    "",
    ".zip",
)


def places() -> Iterator[Place]:
    """Every place of one folder, and many of two."""
    folders = [(), *((word,) for word in WORDS), *product(WORDS[::6], WORDS[::7])]
    folders += [(f"{word}{suffix}",) for word in WORDS[:4] for suffix in SUFFIXES]
    folders += [(f"{word}~{hashed(word)[:8]}",) for word in WORDS]
    for folder in dict.fromkeys(folders):
        yield Place(folder, series=KEY)
        yield Place(folder, series=f"{KEY}_2")
        for word, suffix in product(WORDS, SUFFIXES):
            if len(os.fsencode(word + suffix)) <= 255:
                yield Place(folder, word + suffix)


@pytest.fixture(scope="module")
def named() -> dict[str, list[Place]]:
    """Images by name."""
    result: dict[str, list[Place]] = {}
    for place in dict.fromkeys(places()):
        if place.is_image:
            result.setdefault(name_of(place), []).append(place)
    return result


def test_two_places_never_have_one_name(named):
    assert len(named) > 15_000
    assert [found for found in named.values() if len(found) > 1] == []


def test_names_fit_everywhere(named):
    for name in named:
        assert name.isprintable()
        for part in name.split("/"):
            assert 0 < len(part.encode()) <= LONGEST_PART + len(".nii.gz")
            assert not set(part) & set('<>:"|?*\\')
            assert part == part.rstrip(" .")
            assert part.partition(".")[0].casefold() not in ("aux", "con", "com1")
        assert name.partition("/")[0].casefold() not in ("journal", "summary.csv", "summary.json")


def scan(name: str, place: Place) -> Scan:
    path = Path(*place.folders, place.file)
    return Scan(name, (ScanImage(path, (path,), place.series),))


@pytest.mark.parametrize("kind", ["same", "nifti", "dicom"])
def test_no_result_is_in_the_place_of_another_or_in_its_folder(named, kind: OutputKind):
    outputs = [output_name(scan(name, where), kind) for name, (where,) in named.items()]
    assert len(set(outputs)) == len(outputs)
    parents = {str(parent) for output in outputs for parent in Path(output).parents}
    assert not parents & set(outputs)
    assert not parents & {f"journal{suffix}" for suffix in ("", *SUFFIXES)}


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (Place(("p1", "t1"), series=KEY), f"p1/t1/series-{KEY}"),
        (Place((), series=f"{KEY}_2"), f"series-{KEY}_2"),
        (Place(("p 1",), "mr.nii.gz"), "p 1/mr"),
        (Place(("p1",), "mr.nii"), "p1/mr.nii"),
        (Place(("p1",), "mr.mha"), "p1/mr.mha"),
        (Place(("20240131",), "sub-01_T1w.nii.gz"), "20240131/sub-01_T1w"),
        (Place(("p1",), "scans.zip"), "p1/scans.zip"),
        (Place(("Größe",), "日本語.nii.gz"), "Größe/日本語"),
    ],
)
def test_names_are_as_one_would_guess(place, name):
    assert name_of(place) == name


def random_place(rng: np.random.Generator, tree: Path) -> Path:
    words = ("a", "A", "mr", "mr.nii", "a.b", "series-00000000", "journal", "x\ny", "x_y", "mr~0")
    folder = tree.joinpath(*rng.choice(words, rng.integers(0, 3)))
    return folder / str(rng.choice(words))


def add_something(rng: np.random.Generator, tree: Path, number: int) -> None:
    """Add a scan of any kind at a place where there is none yet."""
    path = random_place(rng, tree)
    kind = rng.integers(0, 4)
    suffix = str(rng.choice([".nii.gz", ".nii"]))
    try:
        if kind == 0:
            file = path.with_name(path.name + suffix)
            if not file.exists():
                write_image(file)
        elif kind == 1:
            series(path, slices(name=str(number)))
        elif kind == 2:
            for k, ds in enumerate(paint(slices(name=str(number)), 2)):
                save(ds, path / f"flat_{number}_{k}")
        else:
            path.mkdir(parents=True, exist_ok=True)
            (path / f"damaged_{number}.dcm").write_bytes(b"x")
    except (FileExistsError, NotADirectoryError):
        pass


@pytest.mark.parametrize("seed", range(3))
def test_a_scan_keeps_its_name_whatever_comes_beside_it(tmp_path, seed):
    rng = np.random.default_rng([seed, 77])
    known: dict[frozenset[Path], str] = {}
    outputs: dict[OutputKind, list[str]] = {}
    for number in range(14):
        add_something(rng, tmp_path, number)
        found = worklist(tmp_path)
        for one in found.scans:
            files = frozenset(one.images[0].files)
            assert known.setdefault(files, one.name) == one.name
        names = [one.name for one in (*found.scans, *found.left_out)]
        assert len(set(names)) == len(names)
        for kind in ("same", "nifti", "dicom"):
            outputs[kind] = [output_name(one, kind) for one in found.scans]  # type: ignore[index]
    assert len(known) > 5
    for made in outputs.values():
        parents = {str(parent) for output in made for parent in Path(output).parents}
        assert len(set(made)) == len(made)
        assert not parents & set(made)


def test_scans_of_several_contrasts_keep_their_names(tmp_path):
    card = model(("t1", "t2"))
    known = {}
    for study in ("b", "a", "a/b", "c"):
        for word in ("t2", "t1"):
            write_image(tmp_path / study / f"x_{word}.nii.gz")
            write_image(tmp_path / study / f"y_{word}.mha.nii")
            for one in worklist(tmp_path, card).scans:
                assert known.setdefault(one.images, one.name) == one.name
    assert len(known) == len(set(known.values())) == 8


def test_only_what_cannot_be_an_image_gives_way():
    assert not Place((), "IM0001").is_image
    assert not Place((), "a.zip").is_image
    assert all(Place((), name).is_image for name in ("a.NII", "a.png", "b.mhd"))
    assert all(is_picture(name) or image_suffix(name) for name in ("a.NII", "a.png", "b.mhd"))


# The whole command, over a tree that nobody would like to have.


def raw(name: bytes) -> str:
    return os.fsdecode(name)


LONG = "Doe" + "x" * 245
ODD = {
    "Jane Doe/a scan": "Jane Doe/a scan",
    "new\nline Doe/x": "new_line Doe~",
    'it\'s "Doe" $(touch pwned); `id`/x': "it's _Doe_ $(touch pwned); `id`~",
    "bell\a\x1b[31m Doe/\x1b]0;x\a": "bell__[31m Doe~",
    raw(b"Doe \xff\xfe/\xe4"): "Doe __~",
    "-Doe/--help": "-Doe/--help",
    f"{LONG[:252]}/{LONG}": LONG[:191],
}
"""Places of images, and how their names begin."""


def write_odd_tree(tree: Path, elsewhere: Path) -> None:
    for seed, name in enumerate(ODD):
        image = nib.Nifti1Image(make_pair(seed)[0], np.diag([1.5, 1.5, 3.0, 1.0]))
        image.header["descrip"] = PATIENT["PatientName"].encode()
        path = tree / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)
    voxels = make_pair(20)[0].astype(np.int16)
    geometry = ScanGeometry("MR", shape=(40, 36, 10), spacing_mm=(1.5, 1.5, 3.0))
    for folder, kept in (("Doe\x1b[2J\nseries", 10), ("broken Doe\n", 9)):
        for k, ds in enumerate(slices(geometry, name=folder)):
            ds.RescaleSlope, ds.RescaleIntercept = "1", "0"
            set_pixels(ds, np.ascontiguousarray(voxels[:, :, k].T).tobytes())
            save(ds, tree / folder / f"Doe\n{k}.dcm")
        if kept < 10:
            (tree / folder / "Doe\n4.dcm").unlink()
        shutil.copy(tree / folder / "Doe\n0.dcm", tree / folder / "Doe\nagain.dcm")
    shutil.copytree(tree / "Jane Doe", elsewhere / "Popplewell")
    (tree / "Doe out").symlink_to(elsewhere / "Popplewell")
    (tree / "Doe out.nii.gz").symlink_to(elsewhere / "Popplewell" / "a scan.nii.gz")
    (tree / "Jane Doe" / "round").symlink_to(tree)
    (tree / "Doe circle.nii.gz").symlink_to(tree / "Doe circle.nii.gz")


@pytest.mark.parametrize("hash_names", [False, True])
def test_a_tree_of_odd_names_is_translated_and_nothing_of_a_header_told(
    tmp_path, tiny_model, hash_names
):
    tree, output = tmp_path / "incoming", tmp_path / "out"
    write_odd_tree(tree, tmp_path / "elsewhere")
    before = {path: path.lstat() for path in sorted(tmp_path.rglob("*"))}
    command = [sys.executable, "-m", "medp2p.cli", "batch", "incoming", "out"]
    command += ["-m", str(tiny_model), "--device", "cpu", "--precision", "fp32", "--readers", "1"]
    command += ["--hash-names"] * hash_names
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert ("there twice" in done.stderr) is not hash_names  # it names files
    after = {path: path.lstat() for path in before}
    assert {p: (s.st_size, s.st_mtime_ns) for p, s in after.items() if not p.is_dir()} == {
        p: (s.st_size, s.st_mtime_ns) for p, s in before.items() if not p.is_dir()
    }

    last = last_of_each(read_events(output))
    told = "\n".join([*last, done.stdout, done.stderr])
    results = [path for event in last.values() for path in event.details.get("outputs", {})]
    assert len(results) == len(ODD) + 1
    assert sum(path.endswith(".nii.gz") for path in results) == len(ODD)
    for path in results:
        assert (output / path).exists()
        assert path.isprintable()
    assert sum(event.kind == "done" for event in last.values()) == len(results)
    left_out = Counter(event.code for event in last.values() if event.kind != "done")
    assert left_out == {"damaged": 2, "outside": 2}

    told += "\n".join(path.read_text() for path in (output / "journal").iterdir())
    told += "\n".join((output / name).read_text() for name in ("summary.csv", "summary.json"))
    told += "\n".join(str(path.relative_to(output)) for path in output.rglob("*"))
    assert not [secret for secret in SECRETS if secret in told.lower()]
    assert "Popplewell" not in told
    assert all(c.isprintable() or c in "\n\r" for c in done.stdout + done.stderr)
    if hash_names:
        words = ("doe", "jane", "scan.nii", "xxxx", "again", "pwned", "broken", "help", "line")
        assert not [word for word in words if word in told.lower()]
    else:
        starts = [*ODD.values(), "Doe_[2J_series~"]
        assert all(any(path.startswith(start) for path in results) for start in starts)
    assert not list(tmp_path.rglob("pwned*"))
