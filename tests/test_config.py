from __future__ import annotations

import pytest

from medp2p.config import (
    Config,
    config_yaml,
    load_config,
    parse_yaml,
    validate_config,
)
from medp2p.errors import ConfigError
from medp2p.resources import preset_names, preset_text


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_is_valid_and_described(name):
    config = load_config(preset=name)
    assert config.description
    assert validate_config(parse_yaml(config_yaml(config), "x"), "x") == config


def test_the_named_presets_are_there():
    assert {"mr_to_ct", "mr_to_ct_pelvis", "t1_to_t2", "ct_to_mr", "demo"} <= set(preset_names())


def test_defaults_are_pix2pix_of_the_paper():
    method = Config().method
    assert (method.l1_weight, method.learning_rate, method.betas) == (100.0, 2e-4, (0.5, 0.999))
    assert (method.generator.levels, method.generator.channels) == (8, 64)
    assert Config().preprocessing.target.hu_range == (-1024.0, 3071.0)


def test_later_wins(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("training: {epochs: 7, batch_size: 3}\n")
    config = load_config(
        preset="demo",
        file=file,
        assignments=["training.batch_size=5"],
        overrides={"training.seed": 9, "training.epochs": None},
    )
    assert config.training.epochs == 7
    assert config.training.batch_size == 5
    assert config.training.seed == 9
    assert config.slices.size == load_config(preset="demo").slices.size


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("training.epohs=3", ["training.epohs", "did you mean epochs", "batch_size"]),
        ("trainin.epochs=3", ["trainin", "training"]),
        ("training.epochs=0", ["training.epochs", "found 0"]),
        ("training.epochs=many", ["training.epochs", "many"]),
        ("slices.size=[100,100]", ["slices.size", "multiple of 32"]),
        ("slices.stack=2", ["slices", "odd"]),
        ("method.name=cyclegann", ["method.name", "cyclegann"]),
        ("preprocessing.target.hu_range=[100,-100]", ["hu_range", "rise"]),
        ("preprocessing.spacing_mm=[1,0,1]", ["preprocessing.spacing_mm", "found 0"]),
        ("training.epochs", ["key.path=value"]),
        ("data.patient_pattern=(", ["patient_pattern", "regular expression"]),
        ("data.split_seed=-1", ["data.split_seed"]),
        ("training.seed=-1", ["training.seed"]),
        ("method.betas=[1,1]", ["method.betas"]),
        ("method.discriminator.layers=6", ["discriminator.layers", "192"]),
        ("preprocessing.spacing_mm=[1,1,.inf]", ["preprocessing.spacing_mm"]),
        ("augmentation.rotation_degrees=.inf", ["augmentation.rotation_degrees"]),
        ("data.test_fraction=0.95", ["leave nothing to train on"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_path(assignment, expected):
    with pytest.raises(ConfigError) as error:
        load_config(preset="demo", assignments=[assignment])
    for text in expected:
        assert text in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["- a list", "a: [unclosed", "just text"])
def test_a_file_that_is_no_settings_is_refused(tmp_path, text):
    file = tmp_path / "my.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"my\.yaml"):
        load_config(file=file)


def test_a_missing_file_and_an_unknown_preset_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(file=tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="mr_to_ct"):
        preset_text("mr_to_cd")


def test_a_new_method_name_replaces_the_whole_block():
    from medp2p.config import _merge

    old = {"method": {"name": "pix2pix", "l1_weight": 3}}
    assert _merge(old, {"method": {"name": "other"}}) == {"method": {"name": "other"}}
    assert _merge(old, {"method": {"l1_weight": 4}})["method"] == {
        "name": "pix2pix",
        "l1_weight": 4,
    }


def test_settings_are_frozen():
    config = Config()
    with pytest.raises(ValueError, match="frozen"):
        config.training.epochs = 3  # type: ignore[misc]
