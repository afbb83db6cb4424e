"""What `Arrivals` returns while files come, grow and go."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from dicom_phantoms import CT, paint, repeated, save, setting, slices, uid
from test_worklist import TWO, contrast, model, names, place, series, worklist, write_image

from medp2p.checkpoint import ModelCard
from medp2p.conversion.arrivals import Arrivals
from medp2p.conversion.rules import Rules, load_rules
from medp2p.conversion.scans import LeftOut, Scan, Worklist
from medp2p.conversion.worklist import shard
from medp2p.errors import ConfigError, ImageReadError
from medp2p.io.dicom_files import scan_files

QUIET = 20.0
NOTHING = Worklist(())


class Watched:
    """A tree, and a clock that goes only when told to."""

    def __init__(self, tree: Path, card: ModelCard | None = None, **options: object) -> None:
        self.time = 1000.0
        rules = options.pop("rules", load_rules())
        tree.mkdir(exist_ok=True)
        self.find = Arrivals(
            tree,
            rules,  # type: ignore[arg-type]
            card or model(),
            QUIET,
            clock=lambda: self.time,
            **options,  # type: ignore[arg-type]
        )

    def after(self, seconds: float) -> Worklist:
        self.time += seconds
        return self.find()

    def settled(self) -> Worklist:
        """Look until all that happened is long ago."""
        found = [self.after(6), self.after(QUIET)]
        return Worklist(
            tuple(scan for one in found for scan in one.scans),
            tuple(left for one in found for left in one.left_out),
        )


@pytest.fixture
def tree(tmp_path) -> Path:
    return tmp_path / "incoming"


def lines(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_a_series_is_returned_once_it_has_been_quiet(tree):
    watched = Watched(tree)
    images = paint(slices(), 2)
    for k, ds in enumerate(images):
        save(ds, tree / "p" / f"{k}.dcm")
        assert watched.after(6) == NOTHING
    assert watched.after(10) == NOTHING
    found = watched.after(10)
    assert names(found) == ["p"]
    assert found.left_out == ()
    assert len(found.scans[0].images[0].files) == len(images)
    assert [watched.after(30) for _ in range(3)] == [NOTHING] * 3


def test_times_of_files_do_not_count(tree):
    watched = Watched(tree)
    old = write_image(tree / "old.nii")
    os.utime(old, (0, 0))
    new = write_image(tree / "new.nii")
    os.utime(new, (2**32, 2**32))
    assert watched.after(6) == NOTHING
    assert names(watched.after(QUIET)) == ["new.nii", "old.nii"]


def test_a_series_that_grows_or_changes_comes_again(tree):
    watched = Watched(tree)
    images = paint(slices(), 2)
    for k, ds in enumerate(images[:-1]):
        save(ds, tree / f"{k}.dcm")
    write_image(tree / "other.nii")
    (_, first) = watched.settled().scans
    save(images[-1], tree / "last.dcm")
    (second,) = watched.settled().scans
    assert first.name == second.name
    assert second.voxels > first.voxels
    os.utime(tree / "last.dcm", (1, 1))
    (third,) = watched.settled().scans
    assert third.images == second.images
    (tree / "last.dcm").unlink()
    (fourth,) = watched.settled().scans
    assert fourth.images == first.images
    assert watched.settled() == NOTHING


def test_a_series_that_is_being_moved_away_is_not_taken_in_part(tree, tmp_path):
    watched = Watched(tree)
    series(tree / "p")
    assert names(watched.settled()) == ["p"]
    files = lines(tree / "p")
    for number, file in enumerate(files):
        target = tmp_path / "q" / file.name
        target.parent.mkdir(exist_ok=True)
        file.rename(target)
        if number % 4 == 0:
            assert watched.after(6) == NOTHING
    assert watched.settled() == NOTHING
    shutil.copytree(tmp_path / "q", tree / "p", dirs_exist_ok=True)
    assert names(watched.settled()) == ["p"]


def test_a_renamed_folder_is_a_new_place(tree):
    watched = Watched(tree)
    series(tree / "p")
    watched.settled()
    (tree / "p").rename(tree / "q")
    assert names(watched.settled()) == ["q"]


def test_what_is_left_out_is_said_once(tree):
    watched = Watched(tree)
    series(tree / "ct", slices(CT, name="ct"))
    write_image(tree / "few.nii", (32, 32, 3), (1, 1, 5))
    (tree / "x.zip").write_bytes(b"PK")
    (tree / "out.nii").symlink_to("/")
    found = watched.settled()
    assert names(found) == []
    said = {place(one.name): one.code for one in found.left_out}
    assert said == {
        "ct": "modality",
        "few.nii": "few_slices",
        "x.zip": "not_read",
        "out.nii": "outside",
    }
    write_image(tree / "good.nii")
    found = watched.settled()
    assert names(found) == ["good.nii"]
    assert found.left_out == ()
    write_image(tree / "few.nii", (32, 32, 4), (1, 1, 5))
    (again,) = watched.settled().left_out
    assert again.reason.startswith("4 slices")
    write_image(tree / "few.nii")
    assert names(watched.settled()) == ["few.nii"]


def test_once_all_is_quiet_the_names_of_all_are_said(tree):
    watched = Watched(tree, TWO)
    write_image(tree / "x_t2.nii.gz")
    assert watched.after(6).looked_in == ()
    found = watched.after(QUIET)
    assert (found.looked_in, found.names) == (("",), {"x_t2"})
    assert watched.after(6).looked_in == ()
    write_image(tree / "x_t1.nii.gz")
    assert watched.after(6).looked_in == ()
    found = watched.after(QUIET)
    assert (found.looked_in, found.names) == (("",), {"x_t1"})
    (tree / "x_t1.nii.gz").unlink()
    assert [watched.after(QUIET).names for _ in range(3)][1:] == [{"x_t2"}, frozenset()]
    (tree / "x_t2.nii.gz").unlink()
    found = [watched.after(QUIET) for _ in range(2)][1]
    assert (found.looked_in, found.names) == (("",), frozenset())


def test_nothing_is_said_of_a_series_that_is_being_copied(tree, tmp_path):
    """Neither that a file is damaged, nor that a slice is missing."""
    series(tmp_path / "there")
    watched = Watched(tree)
    (tree / "p").mkdir()
    for file in reversed(lines(tmp_path / "there")):
        content = file.read_bytes()
        for part in (0, 200, len(content) - 10, len(content)):
            (tree / "p" / file.name).write_bytes(content[:part])
            assert watched.after(5) == NOTHING
    assert names(watched.settled()) == ["p"]


def test_a_file_that_never_rests_keeps_only_its_own_series(tree):
    watched = Watched(tree)
    for name in ("a", "b"):
        for k, ds in enumerate(paint(slices(name=name), 2)):
            save(ds, tree / f"{name}{k}.dcm")
    found = []
    for number in range(8):
        (tree / "transfer.log").write_text("line\n" * number)
        os.utime(tree / "a0.dcm", (number, number))
        found += watched.after(10).scans
    assert [scan.images[0].files[0].name for scan in found] == ["b0.dcm"]


def test_a_damaged_file_is_reported_once_it_is_quiet(tree):
    watched = Watched(tree)
    folder = series(tree / "p")
    last = lines(folder)[-1]
    content = last.read_bytes()
    last.write_bytes(content[:400])
    (left,) = watched.settled().left_out
    assert (left.code, left.failed) == ("damaged", True)
    last.write_bytes(content)
    assert names(watched.settled()) == ["p"]


def test_contrasts_wait_for_each_other(tree):
    watched = Watched(tree, TWO)
    series(tree / "p" / "a", contrast("1", "T1"))
    assert watched.after(6) == NOTHING
    series(tree / "p" / "b", contrast("2", "T2"))
    assert watched.after(15) == NOTHING
    assert watched.after(15) == NOTHING
    found = watched.after(15)
    assert names(found) == ["p/a"]
    assert found.left_out == ()
    write_image(tree / "q" / "x_t1.nii.gz")
    assert [one.code for one in watched.settled().left_out] == ["missing_contrast"]
    write_image(tree / "q" / "x_t2.nii.gz")
    assert names(watched.settled()) == ["q/x_t1"]


def test_files_of_two_patients_are_never_joined(tree):
    watched = Watched(tree, TWO)
    write_image(tree / "p1_t1.nii.gz")
    watched.after(6)
    write_image(tree / "p2_t2.nii.gz")
    found = watched.settled()
    assert found.scans == ()
    assert [one.code for one in found.left_out] == ["missing_contrast"] * 2
    write_image(tree / "p1_t2.nii.gz")
    (scan,) = watched.settled().scans
    assert [image.path.name for image in scan.images] == ["p1_t1.nii.gz", "p1_t2.nii.gz"]


def test_another_kind_of_image_in_a_series_does_not_bring_the_first_again(tree):
    watched = Watched(tree)
    series(tree / "p")
    (first,) = watched.settled().scans
    derived = paint(setting(ImageType=["DERIVED", "SECONDARY", "MPR"])(slices()), 2)
    for k, ds in enumerate(derived):
        ds.SOPInstanceUID = uid("derived", k)
        save(ds, tree / "p" / f"derived_{k}.dcm")
    found = watched.settled()
    assert found.scans == ()
    (left,) = found.left_out
    assert left.code == "derived"
    assert left.name != first.name
    assert left.name.partition("_")[0] == first.name.partition("_")[0]


def test_headers_are_read_once(tree, monkeypatch):
    looked_at: list[Path] = []

    def count(paths: Iterable[Path]) -> object:
        looked_at.extend(paths)
        return scan_files(looked_at[-1:])

    monkeypatch.setattr("medp2p.conversion.arrivals.scan_files", count)
    watched = Watched(tree)
    for name in "abc":
        series(tree / name, slices(name=name))
    watched.settled()
    total = len(looked_at)
    assert total == len(list(tree.rglob("*.dcm")))
    watched.settled()
    os.utime(tree / "b" / "image_0000.dcm", (5, 5))
    assert names(watched.settled()) == ["b"]
    assert looked_at[total:] == [tree / "b" / "image_0000.dcm"]


def test_looks_are_not_too_frequent(tree):
    watched = Watched(tree)
    write_image(tree / "a.nii")
    watched.after(6)
    (tree / "a.nii").unlink()
    tree.rmdir()
    assert watched.after(1) == NOTHING
    with pytest.raises(ImageReadError, match="no such folder"):
        watched.after(6)
    write_image(tree / "b.nii")
    assert names(watched.settled()) == ["b.nii"]


def test_parts_share_what_arrives(tree):
    for number in range(12):
        write_image(tree / f"p{number}.nii.gz")
    (tree / "x.zip").write_bytes(b"PK")
    parts = [Watched(tree, part=(number, 3)).settled() for number in (1, 2, 3)]
    everything = worklist(tree)
    for number, part in enumerate(parts, 1):
        assert set(part.scans) == set(shard(everything, number, 3).scans)
    assert sum(len(part.left_out) for part in parts) == 1


def test_patterns_of_other_contrasts_are_refused(tree):
    with pytest.raises(ConfigError, match="the model has t1, t2"):
        Watched(tree, TWO, rules=Rules(sources={"t1": "*T1*"}))


def test_a_rule_for_another_modality_is_refused(tree):
    with pytest.raises(ConfigError, match="modality: found CT, expected MR"):
        Watched(tree, rules=Rules(modality="CT"))


def change(rng: np.random.Generator, tree: Path, number: int) -> None:
    """Let something come, grow or go."""
    folder = tree / str(rng.choice(["a", "b", "b/c", "."]))
    files = [path for path in sorted(tree.rglob("*")) if path.is_file()]
    kind = int(rng.integers(0, 7))
    described = setting(SeriesDescription=str(rng.choice(["T1", "T2", "scout"])))
    datasets = described(slices(CT, name="CT") if kind == 0 else slices(name=f"{number}"))
    if kind in (0, 1):
        series(folder / f"s{number}", datasets)
    elif kind == 2:
        spread = paint(repeated(1)(datasets), 2)
        for k, ds in enumerate(spread):
            save(ds, tree / str(rng.choice(["a", "b"])) / f"{number}_{k}.dcm")
    elif kind == 3:
        stem = str(rng.choice(["x_t1", "x_t2", "t1", "t2", "ct"]))
        write_image(folder / f"{stem}{rng.choice(['.nii', '.nii.gz'])}")
    elif kind == 4 and files:
        files[rng.integers(len(files))].unlink()
    elif kind == 5 and files:
        file = files[rng.integers(len(files))]
        file.write_bytes(file.read_bytes()[: int(rng.integers(0, 1000))])
    elif files:
        file = files[rng.integers(len(files))]
        file.rename(file.with_name(f"moved {number}{file.suffix}"))


@pytest.mark.parametrize("sources", [("mr",), ("t1", "t2")])
@pytest.mark.parametrize("seed", range(3))
def test_in_the_end_all_was_said_as_of_the_whole_tree(tree, seed, sources):
    """Whatever happens in between, the last word on each scan is that of `make_worklist`."""
    rng = np.random.default_rng([seed, 5])
    card = model(sources)
    watched = Watched(tree, card)
    last: dict[str, Scan | LeftOut] = {}
    for number in range(16):
        change(rng, tree, number)
        found = watched.after(float(rng.choice([1.0, 6.0, 30.0])))
        last |= {one.name: one for one in (*found.scans, *found.left_out)}
    found = watched.settled()
    last |= {one.name: one for one in (*found.scans, *found.left_out)}
    whole = worklist(tree, card)
    expected = {one.name: one for one in (*whole.scans, *whole.left_out)}
    assert len(expected) > 3
    assert {name: last.get(name) for name in expected} == expected
    assert watched.settled() == NOTHING
