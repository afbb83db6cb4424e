"""Landmarks fitted by `prepare` reach the model file and translation."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import TINY_SETTINGS, find_cases, prepare_cases

from medp2p.checkpoint import load_model
from medp2p.config import load_config
from medp2p.errors import ConfigError
from medp2p.inference import translate, unit_sources
from medp2p.io import read_volume
from medp2p.preprocessing import body_mask, decode
from medp2p.store import PreparedData
from medp2p.training import train


def test_landmarks_are_fitted_once_and_used_everywhere(case_folder, tmp_path):
    config = load_config(overrides=TINY_SETTINGS | {"preprocessing.source.standardization": "nyul"})
    prepare_cases(find_cases(case_folder, config), tmp_path / "prepared", config)
    data = PreparedData(tmp_path / "prepared")
    landmarks = data.preprocessing.source.landmarks
    assert landmarks is not None
    assert len(landmarks) == 11
    train(tmp_path / "prepared", tmp_path / "run", config, device="cpu")
    model = load_model(tmp_path / "run" / "model.safetensors")
    assert model.card.config.preprocessing.source.landmarks == landmarks
    case = next(case for case in data.cases if case.name == "case_5")  # brings no mask
    source = read_volume(case_folder / case.name / "mr.nii.gz")
    settings = model.card.config.preprocessing
    unit, _ = unit_sources([source], body_mask(source, "MR"), settings)
    np.testing.assert_array_equal(decode(data.source(case)[0]), unit[0])
    assert translate(source, model, device="cpu").shape == source.shape
    with pytest.raises(ConfigError, match="not fitted"):
        unit_sources([source], body_mask(source, "MR"), config.preprocessing)
