"""What an installation holds, and what it offers."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import medp2p

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_of_the_tree_is_shipped():
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "medp2p").rglob("__init__.py")
    }
    assert listed == found | {"medp2p.cli", "medp2p.configs", "medp2p.sample_data"}


def test_every_public_name_loads_and_nothing_loads_before():
    for name in medp2p.__all__:
        assert getattr(medp2p, name).__module__.startswith("medp2p")
    with pytest.raises(AttributeError, match="nothing"):
        _ = medp2p.nothing
    code = "import sys, medp2p; print('torch' in sys.modules or 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_versions_agree():
    assert PROJECT["project"]["version"] == medp2p.__version__
    assert f"## {medp2p.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_dependency_is_bounded_with_a_reason_and_has_a_tested_version():
    text = (ROOT / "pyproject.toml").read_text()
    tested = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    for dependency in PROJECT["project"]["dependencies"]:
        name, bound, _ = dependency.partition(">=")
        assert bound, dependency
        [line] = [line for line in text.splitlines() if f'"{dependency}"' in line]
        assert "#" in line, dependency
        assert name.lower() in tested, name


def test_every_error_is_drawn_in_the_tree():
    errors = importlib.import_module("medp2p.errors")
    for name, value in vars(errors).items():
        if isinstance(value, type):
            assert name in (errors.__doc__ or "")
            assert issubclass(value, errors.MedP2PError)


@pytest.mark.slow
def test_a_wheel_holds_presets_samples_and_the_command(tmp_path):
    source = tmp_path / "source"
    unwanted = shutil.ignore_patterns(".*", "build", "demo", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=unwanted)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(source)],
        check=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "medp2p/configs/mr_to_ct.yaml" in names
    assert "medp2p/cli/train.py" in names
    assert "medp2p/py.typed" in names
    assert any(name.startswith("medp2p/sample_data/") for name in names)
    top = {name.split("/")[0] for name in names}
    assert top == {"medp2p", f"medp2p-{medp2p.__version__}.dist-info"}
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), wheel],
        check=True,
    )
    code = (
        "import medp2p, sys; assert medp2p.__file__.startswith(sys.argv[1]);"
        "from medp2p.resources import preset_names; print(preset_names());"
        "from medp2p.cli import main"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(target), "PATH": ""},
    )
    assert "mr_to_ct" in done.stdout
