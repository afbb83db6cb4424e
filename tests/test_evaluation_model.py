"""Evaluation of a model, which translates the cases of a manifest first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cohorts import run

from medp2p.compared import refuse_changed
from medp2p.evaluation import evaluate_cases
from medp2p.results import read_results


def test_what_a_model_predicts_is_kept_among_the_results(
    trained_run: Path, prepared_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, manifest = trained_run / "model.safetensors", prepared_folder / "manifest.csv"
    output = tmp_path / "results"
    assert run("evaluate", model, manifest, "--output", output, "--json") == 0
    data = json.loads(capsys.readouterr().out)
    [result] = read_results(output).results
    assert result.values["mae_hu"] == data["cases"][0]["values"]["mae_hu"]
    assert result.files is not None
    assert result.files.prediction == output / "predictions" / f"{result.case}.nii.gz"
    assert result.files.source is not None
    assert {"prediction", "reference", "source"} <= result.files.hashes.keys()
    refuse_changed(result.files)
    [again] = evaluate_cases([result.files], result.profile).results
    assert again.values == pytest.approx(result.values, nan_ok=True)
    assert run("evaluate", f"a={model}", f"b={model}", manifest) == 2
    assert "a model is evaluated alone" in capsys.readouterr().err
    assert run("evaluate", model, manifest, "--output", output) == 1
    assert "exists already" in capsys.readouterr().err
