from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import decide_to_use, make_pair, refused, run, write_case

MEDP2P = str(Path(sys.executable).with_name("medp2p"))


def fastest(command: list[str], runs: int = 7) -> float:
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return min(times)


def test_help_answers_at_once():
    help_time = fastest([MEDP2P, "--help"])
    typer_time = fastest([sys.executable, "-c", "import typer"])
    assert help_time <= 2 * typer_time


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom medp2p.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'numpy', 'torch', 'pydantic', 'monai', 'nibabel', 'rich'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "command",
    [
        "phantom",
        "manifest",
        "prepare",
        "train",
        "translate",
        "evaluate",
        "baselines",
        "demo",
        "info",
        "presets",
        "convert",
        "import-pix2pix",
    ],
)
def test_every_command_explains_itself(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "Usage: " in out
    assert len(out.splitlines()) > 6


def test_the_whole_job_through_the_command(capsys, case_folder, tiny_config, tmp_path):
    from medp2p.config import config_yaml

    config = tmp_path / "tiny.yaml"
    config.write_text(config_yaml(tiny_config))
    prepared, model = tmp_path / "prepared", tmp_path / "run" / "model.safetensors"
    assert run(capsys, "manifest", case_folder, tmp_path / "m.csv", "-c", config)[0] == 0
    decide_to_use(tmp_path / "m.csv")
    code, out, err = run(capsys, "prepare", tmp_path / "m.csv", prepared, "-c", config, "-j", 1)
    assert (code, "6 cases" in out, "MB" in err) == (0, True, True)
    code, out, _ = run(capsys, "train", prepared, tmp_path / "run", "-c", config, "--device", "cpu")
    assert (code, "2 epochs, validation mae_hu" in out) == (0, True)
    code, out, _ = run(capsys, "info", model)
    assert code == 0
    assert "MR (mr) to CT, -1024 to 3071 HU" in out
    card = json.loads(run(capsys, "info", model, "--json")[1])
    assert card["config"] == tiny_config.model_dump(mode="json")

    scan = case_folder / "case_0" / "mr.nii.gz"
    result = tmp_path / "sct.nii.gz"
    assert run(capsys, "translate", scan, result, "-m", model)[0] == 0
    source, image = nib.load(scan), nib.load(result)
    np.testing.assert_array_equal(image.affine, source.affine)
    assert image.shape == source.shape
    assert image.get_data_dtype() == np.int16

    test_cases = tmp_path / "predictions"
    assert run(capsys, "translate", prepared / "manifest.csv", test_cases, "-m", model)[0] == 0
    assert len(list(test_cases.iterdir())) == 1
    assert run(capsys, "baselines", prepared, tmp_path / "base")[0] == 0
    for folder in (test_cases, tmp_path / "base" / "constant", tmp_path / "base" / "intensity"):
        code, out, _ = run(capsys, "evaluate", folder, prepared / "manifest.csv", "--json")
        assert code == 0
        assert len(json.loads(out)["cases"]) == 1
    code, _, err = run(capsys, "evaluate", test_cases, case_folder)
    assert (code, err.count("no prediction for this case")) == (3, 5)
    code, out, _ = run(
        capsys,
        "evaluate",
        result,
        case_folder / "case_0" / "ct.nii.gz",
        "--profile",
        "synthrad2023",
    )
    assert code == 0
    assert "synthrad2023" in out


@pytest.fixture(scope="module")
def model_file(trained_run) -> Path:
    return trained_run / "model.safetensors"


@pytest.fixture
def scan(tmp_path) -> Path:
    write_case(tmp_path / "scan", 3)
    return tmp_path / "scan" / "mr.nii.gz"


def test_wrong_paths_are_one_line(capsys, scan, model_file, prepared_folder, tmp_path):
    none = tmp_path / "none"
    out = tmp_path / "out.nii.gz"
    assert "no such file" in refused(capsys, "translate", none / "a.nii", out, "-m", model_file)
    assert "no such model" in refused(capsys, "translate", scan, out, "-m", none)
    assert "not a folder" in refused(capsys, "prepare", none, tmp_path / "p")
    assert "no such file" in refused(capsys, "prepare", none / "m.csv", tmp_path / "p")
    assert "not a prepared folder" in refused(capsys, "train", none, tmp_path / "r")
    assert "not a prepared folder" in refused(capsys, "baselines", none, tmp_path / "r")
    assert "no such model" in refused(capsys, "info", none)
    assert not out.exists()
    assert not (tmp_path / "r").exists()
    assert not (tmp_path / "p").exists()


def test_wrong_settings_are_usage_errors(capsys, prepared_folder, tmp_path):
    line = refused(
        capsys, "train", prepared_folder, tmp_path / "r", "-s", "training.epoch=1", code=2
    )
    assert "did you mean epochs" in line
    assert "mr_to_ct" in refused(
        capsys, "train", prepared_folder, tmp_path / "r", "-p", "nothing", code=2
    )
    assert run(capsys, "train", "--no-such-option")[0] == 2
    assert run(capsys, "translate", "one.nii")[0] == 2


def test_an_mr_where_the_ct_should_be_is_refused_by_name(capsys, tmp_path):
    write_case(tmp_path / "cases" / "a", 1)
    shutil.copy(tmp_path / "cases" / "a" / "mr.nii.gz", tmp_path / "cases" / "a" / "ct.nii.gz")
    line = refused(capsys, "prepare", tmp_path / "cases", tmp_path / "p")
    assert " a: " in line
    assert "not CT numbers" in line
    assert not (tmp_path / "p" / "index.json").exists()


def test_masks_that_are_empty_or_elsewhere_are_refused_by_name(capsys, tmp_path):
    folder = tmp_path / "cases" / "a"
    write_case(folder, 1)
    mask = nib.load(folder / "mask.nii.gz")
    empty = nib.Nifti1Image(np.zeros(mask.shape, np.uint8), mask.affine, mask.header)
    nib.save(empty, folder / "mask.nii.gz")
    assert "0 voxels" in refused(capsys, "prepare", tmp_path / "cases", tmp_path / "p")
    write_case(folder, 1)
    moved = nib.Nifti1Image(mask.get_fdata().astype(np.uint8), mask.affine + 3 * np.eye(4)[:, [3]])
    moved.affine[3] = [0, 0, 0, 1]
    moved = nib.Nifti1Image(
        make_pair(1)[2], mask.affine + np.array([[0, 0, 0, 3.0]] + [[0.0] * 4] * 3)
    )
    nib.save(moved, folder / "mask.nii.gz")
    line = refused(capsys, "prepare", tmp_path / "cases", tmp_path / "p")
    assert " a: " in line
    assert "not on the grid" in line


def test_existing_outputs_are_left_alone(
    capsys, scan, model_file, prepared_folder, case_folder, tmp_path
):
    out = tmp_path / "out.nii.gz"
    out.write_text("precious")
    assert "--overwrite" in refused(capsys, "translate", scan, out, "-m", model_file)
    assert out.read_text() == "precious"
    assert run(capsys, "translate", scan, out, "-m", model_file, "--overwrite")[0] == 0
    assert nib.load(out).shape == nib.load(scan).shape
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / "keep.txt").write_text("precious")
    settings = ["-s", "preprocessing.spacing_mm=[null,null,null]"]
    assert "exists already" in refused(capsys, "prepare", case_folder, folder, *settings)
    assert (folder / "keep.txt").read_text() == "precious"
    assert "exists already" in refused(capsys, "demo", folder)
    assert "exists already" in refused(capsys, "manifest", case_folder, out)


def test_the_same_inputs_give_the_same_bytes(capsys, scan, model_file, case_folder, tmp_path):
    cases = tmp_path / "cases.csv"
    assert run(capsys, "manifest", case_folder, cases)[0] == 0
    decide_to_use(cases)
    for name in ("a", "b"):
        target = tmp_path / f"{name}.nii.gz"
        assert run(capsys, "translate", scan, target, "-m", model_file, "--device", "cpu")[0] == 0
        settings = ["-s", "preprocessing.spacing_mm=[null,null,null]"]
        assert run(capsys, "prepare", cases, tmp_path / name, *settings, "--jobs", 1)[0] == 0
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    files = [file for file in (tmp_path / "a").rglob("*") if file.is_file()]
    assert len(files) > 6
    for file in files:
        other = tmp_path / "b" / file.relative_to(tmp_path / "a")
        assert file.read_bytes() == other.read_bytes(), file.name


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
class TestFullAndReadOnlyDisks:
    def fill(self, disk: Path, leave: int) -> None:
        free = shutil.disk_usage(disk).free
        (disk / "filler").write_bytes(os.urandom(max(free - leave, 0)))

    def test_prepare_says_what_is_needed_before_it_starts(self, capsys, small_disk, tmp_path):
        write_case(tmp_path / "cases" / "a", 1, shape=(128, 128, 40))
        settings = ["-s", "preprocessing.spacing_mm=[null,null,null]"]
        line = refused(capsys, "prepare", tmp_path / "cases", small_disk / "p", *settings)
        assert "needs 3 MB and 1 MB are free" in line
        assert list(small_disk.iterdir()) == []

    def test_translate_leaves_nothing_half_written(self, capsys, scan, model_file, small_disk):
        self.fill(small_disk, 2000)
        line = refused(capsys, "translate", scan, small_disk / "out.nii.gz", "-m", model_file)
        assert "disk is full" in line
        assert [path.name for path in small_disk.iterdir()] == ["filler"]

    def test_training_stops_with_a_reason(
        self, capsys, prepared_folder, tiny_config, small_disk, tmp_path
    ):
        from medp2p.config import config_yaml

        config = tmp_path / "c.yaml"
        config.write_text(config_yaml(tiny_config))
        self.fill(small_disk, 50_000)
        line = refused(capsys, "train", prepared_folder, small_disk / "r", "-c", config)
        assert "disk is full" in line
        assert not list(small_disk.rglob("*.tmp*"))
        assert not (small_disk / "r" / "model.safetensors").exists()

    def test_a_read_only_disk_is_named(self, capsys, scan, model_file, prepared_folder, small_disk):
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        out = small_disk / "out.nii.gz"
        assert "read-only" in refused(capsys, "translate", scan, out, "-m", model_file)
        assert "read-only" in refused(
            capsys, "train", prepared_folder, small_disk / "r", "-p", "demo"
        )
