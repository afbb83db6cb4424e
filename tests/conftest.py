"""Small data sets that tests make for themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command run in this process."""
    from medp2p.cli import main

    try:
        main([str(argument) for argument in arguments])
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys, *arguments: object, code: int = 1) -> str:
    """The one line that a user's mistake gets."""
    found, out, err = run(capsys, *arguments)
    assert found == code, err
    assert out == ""
    lines = err.strip().splitlines()
    assert "Traceback" not in err
    assert lines[-1].startswith("medp2p: "), err
    return lines[-1]


def mount(*arguments: str | Path) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs Linux's tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", disk)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def oblique_affine(spacing=(1.0, 1.2, 2.5), degrees=(10.0, -7.0, 15.0), origin=(-30.0, 12.0, 5.0)):
    """An affine with rotated axes and anisotropic spacing."""
    a, b, c = np.deg2rad(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = x @ y @ z * np.array(spacing)
    affine[:3, 3] = origin
    return affine


def make_pair(seed: int, shape=(40, 36, 10)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A toy MR, CT and mask: skin, a shell that is dark on MR (bone), tissue, and a hole (air)."""
    rng = np.random.default_rng(seed)
    size = np.array(shape)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    centre = (size - 1) / 2 + rng.uniform(-1, 1, 3)
    radius = np.linalg.norm((index - centre) / (size * rng.uniform(0.38, 0.44, 3)), axis=-1)
    hole = np.linalg.norm((index - centre - [3, 2, 0]) / [4, 4, 3], axis=-1) < 1
    body = radius < 1
    bone = (radius > 0.7) & (radius < 0.85)
    ct = np.select([~body, hole, bone], [-1000, -1000, 900], 40) + rng.normal(0, 8, shape)
    mr = np.select([~body, hole, bone], [5, 5, 30], 300) * 1.0 + rng.normal(0, 6, shape)
    return np.abs(mr).astype(np.float32), np.rint(ct).astype(np.int16), body.astype(np.uint8)


def write_case(folder: Path, seed: int, affine=None, shape=(40, 36, 10), mask: bool = True) -> None:
    """Write a toy case with nibabel, independently of medp2p's own writer."""
    folder.mkdir(parents=True, exist_ok=True)
    mr, ct, body = make_pair(seed, shape)
    affine = np.diag([1.5, 1.5, 3.0, 1.0]) if affine is None else affine
    images = {"mr": mr, "ct": ct} | ({"mask": body} if mask else {})
    for name, array in images.items():
        image = nib.Nifti1Image(array, affine)
        image.set_qform(affine, code=1)
        image.set_sform(affine, code=1)
        nib.save(image, folder / f"{name}.nii.gz")


@pytest.fixture(scope="session")
def case_folder(tmp_path_factory) -> Path:
    """Six toy cases in case folders."""
    folder = tmp_path_factory.mktemp("cases")
    for seed in range(6):
        write_case(folder / f"case_{seed}", seed, mask=seed != 5)
    return folder


TINY_SETTINGS = {
    "preprocessing.spacing_mm": [None, None, None],
    "slices.size": [32, 32],
    "data.validation_fraction": 0.17,
    "data.test_fraction": 0.17,
    "method.generator.levels": 4,
    "method.generator.channels": 8,
    "method.discriminator.channels": 8,
    "training.epochs": 1,
    "training.decay_epochs": 1,
    "training.batch_size": 4,
    "training.validate_every": 1,
    "training.precision": "fp32",
    "training.save_minutes": 0.005,
}


@pytest.fixture(scope="session")
def tiny_config():
    """Settings of a network that trains in a second."""
    from medp2p.config import load_config

    return load_config(overrides=TINY_SETTINGS)


def find_cases(folder: Path, config):
    """The cases of a folder, split, as `medp2p manifest` lists them."""
    from medp2p.preparation.planning import cases_of_plan, make_preparation_plan

    return cases_of_plan(make_preparation_plan(folder, config), config.data)


def prepare_cases(cases, folder: Path, config) -> None:
    """Prepare cases as they are, whatever the audit says of toys."""
    from medp2p.preparation.pipeline import prepare
    from medp2p.preparation.planning import plan_of_cases

    prepare(plan_of_cases([replace(case, decision="use") for case in cases]), folder, config)


def decide_to_use(manifest: Path) -> None:
    """Write the user's decision to use every case into a manifest."""
    heading, *rows = manifest.read_text().splitlines()
    lines = [f"{heading},decision", *(f"{row},use" for row in rows)]
    manifest.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def prepared_folder(case_folder, tiny_config, tmp_path_factory) -> Path:
    """The toy cases, prepared."""
    folder = tmp_path_factory.mktemp("prepared") / "data"
    prepare_cases(find_cases(case_folder, tiny_config), folder, tiny_config)
    return folder


@pytest.fixture(scope="session")
def trained_run(prepared_folder, tiny_config, tmp_path_factory) -> Path:
    """The output folder of a short training."""
    from medp2p.training import train

    folder = tmp_path_factory.mktemp("run") / "out"
    train(prepared_folder, folder, tiny_config, device="cpu")
    return folder


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> tuple[Path, str]:
    """The folder of `medp2p demo`, run as a newcomer runs it, and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    command = [sys.executable, "-m", "medp2p.cli", "demo", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A network of random weights, small and quick."""
    import torch

    from medp2p.checkpoint import ModelCard, save_model
    from medp2p.config import load_config
    from medp2p.methods import build_generator

    torch.manual_seed(3)
    config = load_config(overrides=TINY_SETTINGS)
    generator = build_generator(config.method, in_channels=1, out_channels=1)
    card = ModelCard(config, ("mr",), (-1024.0, 3071.0))
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(path, generator.state_dict(), card)
    return path
