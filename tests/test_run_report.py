"""What a training leaves behind: how it does on the test split."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import TINY_SETTINGS

from medp2p.cli import main
from medp2p.manifest import read_manifest
from medp2p.results import read_results

SETTINGS = [
    text for k, v in TINY_SETTINGS.items() for text in ("-s", f"{k}={v}".replace("None", "null"))
]


def train(prepared: Path, run: Path, *options: str) -> object:
    with pytest.raises(SystemExit) as end:
        main(["train", str(prepared), str(run), "--device", "cpu", *options])
    return end.value.code


@pytest.fixture(scope="module")
def run(prepared_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train(prepared_folder, folder, *SETTINGS) == 0
    return folder


def test_the_test_split_is_judged_and_nobody_else(run, prepared_folder):
    manifest = read_manifest(prepared_folder / "manifest.csv")
    wanted = [case for case in manifest if case.split == "test"]
    results = read_results(run / "test")
    assert [result.case for result in results.results] == [case.name for case in wanted]
    for case, result in zip(wanted, results.results, strict=True):
        prediction = nib.load(run / "test" / "predictions" / f"{case.name}.nii.gz")
        ct = np.asarray(nib.load(case.images["target"]).dataobj, dtype=float)
        mask = np.asarray(nib.load(case.mask).dataobj) > 0
        mae = np.abs(prediction.get_fdata() - ct)[mask].mean()
        assert result.values["mae_hu"] == pytest.approx(mae, rel=1e-9)
    with (run / "test" / "cases.csv").open() as file:
        assert [row["case"] for row in csv.DictReader(file)] == [case.name for case in wanted]


def test_the_page_shows_them(run, prepared_folder):
    page = (run / "report.html").read_text()
    names = {case.name for case in read_manifest(prepared_folder / "manifest.csv")}
    shown = {result.case for result in read_results(run / "test").results}
    assert all(name in page for name in shown)
    assert not any(f">{name}<" in page for name in names - shown)


def test_it_can_be_left_out_and_made_again(run, prepared_folder, tmp_path):
    assert train(prepared_folder, tmp_path / "run", "--no-report", *SETTINGS) == 0
    assert not (tmp_path / "run" / "test").exists()
    assert not (tmp_path / "run" / "report.html").exists()
    before = (run / "report.html").read_bytes()
    assert train(prepared_folder, run, "--resume") == 0
    assert (run / "report.html").read_bytes() == before


def test_without_a_test_split_there_is_none(prepared_folder, tmp_path, capsys, case_folder):
    from conftest import find_cases, prepare_cases

    from medp2p.config import load_config

    config = load_config(overrides={**TINY_SETTINGS, "data.test_fraction": 0.0})
    prepared = tmp_path / "prepared"
    prepare_cases(find_cases(case_folder, config), prepared, config)
    assert train(prepared, tmp_path / "run", *SETTINGS, "-s", "data.test_fraction=0") == 0
    assert "is in the split test: no report.html" in capsys.readouterr().err
    assert not (tmp_path / "run" / "report.html").exists()
