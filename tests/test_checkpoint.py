from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from medp2p.checkpoint import load_model, read_card, save_model
from medp2p.errors import CheckpointError, OutputError


@pytest.fixture
def model_file(trained_run):
    return trained_run / "model.safetensors"


def rewrite(model_file, path, change):
    """Write the model again with a changed description."""
    with safe_open(model_file, framework="pt") as file:
        description = json.loads(file.metadata()["medp2p"])
    change(description)
    save_file(load_file(model_file), path, metadata={"medp2p": json.dumps(description)})


def refuse(path, *words):
    for read in (load_model, read_card):
        with pytest.raises(CheckpointError) as error:
            read(path)
        for word in (str(path), *words):
            assert word in str(error.value)
        assert "\n" not in str(error.value)


def test_a_model_survives_writing_and_reading(model_file, tmp_path):
    model = load_model(model_file)
    digest = save_model(tmp_path / "m.safetensors", model.generator.state_dict(), model.card)
    assert digest == model.hash
    assert (tmp_path / "m.safetensors").read_bytes() == model_file.read_bytes()
    assert not model.generator.training
    with pytest.raises(OutputError, match="exists already"):
        save_model(tmp_path / "m.safetensors", model.generator.state_dict(), model.card)


def test_the_hash_changes_with_weights_and_with_settings(model_file, tmp_path):
    model = load_model(model_file)
    weights = {name: tensor.clone() for name, tensor in model.generator.state_dict().items()}
    next(iter(weights.values())).view(-1)[0] += 1e-3
    assert save_model(tmp_path / "a.safetensors", weights, model.card) != model.hash
    import dataclasses

    card = dataclasses.replace(model.card, batch_norm="per_batch")
    other = save_model(tmp_path / "b.safetensors", model.generator.state_dict(), card)
    assert other != model.hash


def test_what_is_no_model_is_refused(tmp_path, model_file):
    refuse(tmp_path / "none.safetensors", "no such model file")
    (tmp_path / "text.safetensors").write_text("hello, I am no model")
    refuse(tmp_path / "text.safetensors", "not a model file")
    (tmp_path / "empty.safetensors").touch()
    refuse(tmp_path / "empty.safetensors", "not a model file")
    torch.save({"a": torch.zeros(3)}, tmp_path / "pickle.pth")
    refuse(tmp_path / "pickle.pth", "pickled", "import-pix2pix")
    save_file({"a": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    refuse(tmp_path / "foreign.safetensors", "not of medp2p")
    refuse(tmp_path, "no such model file")


def test_a_download_cut_off_is_refused(tmp_path, model_file):
    whole = model_file.read_bytes()
    for share in (0.001, 0.5, 0.999):
        path = tmp_path / f"{share}.safetensors"
        path.write_bytes(whole[: int(len(whole) * share)])
        refuse(path, "cut off")


def test_a_flipped_bit_in_the_weights_is_found(tmp_path, model_file):
    damaged = bytearray(model_file.read_bytes())
    damaged[-1000] ^= 4
    path = tmp_path / "m.safetensors"
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="checksum"):
        load_model(path)


def test_a_model_of_a_newer_version_is_refused(tmp_path, model_file):
    path = tmp_path / "m.safetensors"
    rewrite(model_file, path, lambda description: description.update(version=99))
    refuse(path, "99", "newer medp2p")


def test_a_card_that_cannot_be_read_is_refused(tmp_path, model_file):
    path = tmp_path / "m.safetensors"
    rewrite(model_file, path, lambda description: description.update(card={}))
    refuse(path, "description")
    rewrite(model_file, path, lambda d: d["card"]["config"]["slices"].update(surprise=1))
    refuse(path, "slices.surprise")
    for text in ("not JSON", "[]", '{"version": "1"}'):
        save_file(load_file(model_file), path, metadata={"medp2p": text})
        refuse(path, "description")


def test_settings_that_only_training_knew_do_not_make_a_model_useless(tmp_path, model_file):
    path = tmp_path / "m.safetensors"
    rewrite(model_file, path, lambda d: d["card"]["config"]["training"].update(bygone=1))
    card, _ = read_card(path)
    assert card.config == read_card(model_file)[0].config


def test_weights_of_another_network_are_refused(tmp_path, model_file):
    model = load_model(model_file)
    weights = dict(model.generator.state_dict())
    weights.pop(sorted(weights)[0])
    save_model(tmp_path / "m.safetensors", weights, model.card)
    with pytest.raises(CheckpointError, match="nothing"):
        load_model(tmp_path / "m.safetensors")
