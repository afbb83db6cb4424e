"""Atomic writes, also on a full and on a read-only file system."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import numpy as np
import pytest
from conftest import mount

from medp2p.errors import OutputError
from medp2p.files import atomic_file, atomic_folder, files_below, refuse_existing, write_text
from medp2p.io import WRITE_SUFFIXES, read_volume, write_volume
from medp2p.volume import Volume


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def noise(size: int = 1, seed: int = 0) -> Volume:
    """About ``size`` megabytes that do not compress."""
    values = np.random.default_rng(seed).integers(-32768, 32767, (128, 64, 64 * size))
    return Volume(values.astype(np.int16), np.eye(4))


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "scan.v1.nii.gz"
    with atomic_file(path) as temporary:
        temporary.write_bytes(b"voxels")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.name.endswith(".nii.gz")
        assert temporary.name.startswith(".tmp-")
    assert contents(tmp_path) == {"new/folder/scan.v1.nii.gz": b"voxels"}


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "series") as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "1.dcm").write_bytes(b"1")
        assert not (tmp_path / "series").exists()
    assert contents(tmp_path) == {"series/deep/1.dcm": b"1"}


@pytest.mark.skipif(sys.platform == "win32", reason="permission bits of POSIX")
def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    write_text(tmp_path / "ours", "x")
    (tmp_path / "usual").write_text("x")
    with atomic_folder(tmp_path / "our_folder"):
        pass
    (tmp_path / "usual_folder").mkdir()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert (tmp_path / "our_folder").stat().st_mode == (tmp_path / "usual_folder").stat().st_mode


def fail_while_writing(atomic: Callable[..., AbstractContextManager[Path]], path: Path) -> None:
    with atomic(path, overwrite=True) as temporary:
        (temporary / "part" if temporary.is_dir() else temporary).write_bytes(b"half")
        raise KeyError(path)


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_a_failure_leaves_nothing(
    tmp_path: Path, atomic: Callable[..., AbstractContextManager[Path]]
) -> None:
    with pytest.raises(KeyError):
        fail_while_writing(atomic, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "out", "old")
    with pytest.raises(KeyError):
        fail_while_writing(atomic_file, tmp_path / "out")
    assert contents(tmp_path) == {"out": b"old"}


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    write_text(tmp_path / "out", "old")
    with pytest.raises(OutputError, match=r"exists already.*--overwrite"):
        write_text(tmp_path / "out", "new")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="exists already"):
        write_text(tmp_path / "link", "new")
    with pytest.raises(OutputError, match="exists already"), atomic_folder(tmp_path / "out"):
        pass
    assert contents(tmp_path) == {"out": b"old"}
    write_text(tmp_path / "out", "new\n", overwrite=True)
    assert contents(tmp_path) == {"out": b"new\n"}


def test_folders_are_replaced_when_asked(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        with atomic_folder(tmp_path / "out", marker="mark", overwrite=True) as temporary:
            (temporary / "mark").write_bytes(b"")
            (temporary / content.decode()).write_bytes(content)
    assert contents(tmp_path) == {"out/new": b"new", "out/mark": b""}
    assert [f.name for f in tmp_path.iterdir()] == ["out"]


def test_folders_of_another_kind_are_never_replaced(tmp_path: Path) -> None:
    write_text(tmp_path / "scans" / "patient.txt", "precious")
    for marker in ("mark", None):
        with (
            pytest.raises(OutputError, match="not replaced"),
            atomic_folder(tmp_path / "scans", marker=marker, overwrite=True),
        ):
            pass
    assert contents(tmp_path) == {"scans/patient.txt": b"precious"}


def test_a_link_to_a_folder_stays(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        with atomic_folder(tmp_path / "far/out", marker="mark", overwrite=True) as temporary:
            (temporary / "mark").write_bytes(content)
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(tmp_path / "far/out", target_is_directory=True)
    with atomic_folder(tmp_path / "link", marker="mark", overwrite=True) as temporary:
        (temporary / "mark").write_bytes(b"newer")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "far") == {"out/mark": b"newer"}


def test_an_empty_folder_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for overwrite in (False, True):
        with (
            pytest.raises(OutputError, match="holds nothing"),
            atomic_folder(tmp_path / "out", marker="mark", overwrite=overwrite),
        ):
            pass
        with pytest.raises(OutputError, match="holds nothing"):
            write_text(tmp_path / "out", "x", overwrite=overwrite)


@pytest.mark.skipif(sys.platform == "win32", reason="names of 255 bytes")
def test_long_names(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / ("n" * 255)):
        pass
    write_text(tmp_path / ("m" * 251 + ".txt"), "x")
    assert len(list(tmp_path.iterdir())) == 2
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="too long"):
            refuse_existing(tmp_path / ("n" * 256), overwrite)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux's /proc")
def test_a_place_that_holds_no_files() -> None:
    for name in ("medp2p", "medp2p/out"):
        with pytest.raises(OutputError, match="cannot be written"):
            write_text(Path("/proc") / name, "x")
        with (
            pytest.raises(OutputError, match="cannot be written"),
            atomic_folder(Path("/proc") / name),
        ):
            pass


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic_file(tmp_path / "out"))
        temporary.write_bytes(b"ours")
        (tmp_path / "out").write_bytes(b"theirs")
        with pytest.raises(OutputError, match="exists already"):
            stack.close()
    assert contents(tmp_path) == {"out": b"theirs"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file/out", "a part of this path is a file"),
        ("file/deeper/out", "a part of this path is a file"),
        ("folder", "is a folder"),
        ("n" * 300, "too long"),
    ],
)
def test_impossible_places(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=reason) as caught:
        write_text(tmp_path / name, "x", overwrite=True)
    assert "\n" not in str(caught.value)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_writer_leaves_no_half_result(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time\nfrom medp2p.files import atomic_file\n"
        "with atomic_file(pathlib.Path(sys.argv[1]), overwrite=True) as temporary:\n"
        "    temporary.write_bytes(b'half')\n    print('writing', flush=True)\n    time.sleep(60)\n"
    )
    write_text(tmp_path / "out", "old")
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    assert (tmp_path / "out").read_text() == "old"
    others = [f.name for f in tmp_path.iterdir() if f.name != "out"]
    assert all(name.startswith(".tmp-") for name in others)


def test_full_disk(small_disk: Path) -> None:
    with (
        pytest.raises(OutputError, match="the disk is full"),
        atomic_file(small_disk / "out") as temporary,
    ):
        temporary.write_bytes(bytes(3 << 20))
    assert list(small_disk.iterdir()) == []
    with (
        pytest.raises(OutputError, match="the disk is full"),
        atomic_folder(small_disk / "out") as temporary,
    ):
        (temporary / "a").write_bytes(bytes(3 << 20))
    assert list(small_disk.iterdir()) == []


def test_read_only_file_system(small_disk: Path) -> None:
    write_text(small_disk / "out", "old")
    mount("-o", "remount,ro", small_disk)
    for name in ("out", "new", "folder/new"):
        with pytest.raises(OutputError, match="read-only"):
            write_text(small_disk / name, "x", overwrite=True)
    for name in ("new", "folder/new"):
        with pytest.raises(OutputError, match="read-only"), atomic_folder(small_disk / name):
            pass
    with pytest.raises(OutputError, match="exists already"):
        write_text(small_disk / "out", "x")
    assert contents(small_disk) == {"out": b"old"}


@pytest.mark.parametrize("suffix", WRITE_SUFFIXES)
def test_image_on_a_full_disk(small_disk: Path, suffix: str) -> None:
    path = small_disk / f"image{suffix}"
    with pytest.raises(OutputError, match="the disk is full"):
        write_volume(noise(3), path)
    assert list(small_disk.iterdir()) == []
    old = Volume(noise().array[:, :, :20], np.eye(4))
    write_volume(old, path)
    with pytest.raises(OutputError, match="the disk is full"):
        write_volume(noise(seed=1), path, overwrite=True)
    np.testing.assert_array_equal(read_volume(path).array, old.array)
    assert len(list(small_disk.iterdir())) == (2 if suffix == ".mhd" else 1)


@pytest.mark.parametrize("suffix", WRITE_SUFFIXES)
def test_image_on_a_read_only_file_system(small_disk: Path, suffix: str) -> None:
    path = small_disk / f"image{suffix}"
    small = Volume(np.ones((4, 4, 4), np.int16), np.eye(4))
    write_volume(small, path)
    before = contents(small_disk)
    mount("-o", "remount,ro", small_disk)
    np.testing.assert_array_equal(read_volume(path).array, small.array)
    for name in (f"image{suffix}", f"other{suffix}"):
        with pytest.raises(OutputError, match="read-only"):
            write_volume(small, small_disk / name, overwrite=True)
    assert contents(small_disk) == before


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    assert sorted(path.name for path in files_below(tmp_path)) == ["file", "gone"]
