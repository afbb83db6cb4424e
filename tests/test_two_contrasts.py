"""Two source contrasts, and stacks of them: which channel is which, from file to network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import find_cases, make_pair, oblique_affine, prepare_cases

from medp2p.checkpoint import Model, ModelCard, load_model
from medp2p.cli import main
from medp2p.config import Config, load_config
from medp2p.dataset import SliceBatches
from medp2p.inference import Translator, predict_volume, translate
from medp2p.io import read_volume
from medp2p.manifest import write_manifest
from medp2p.metrics import masked_mae
from medp2p.preprocessing import decode
from medp2p.store import PreparedData
from medp2p.training import TrainingResult, train
from medp2p.volume import Volume

CPU = torch.device("cpu")
CONTRASTS = ("t2", "t1")
"""In the model's order, which is not the alphabet's."""

SETTINGS = {
    "data.sources": list(CONTRASTS),
    "data.validation_fraction": 0.34,
    "data.test_fraction": 0.0,
    "preprocessing.spacing_mm": [None, None, None],
    "slices.size": [48, 48],
    "slices.stack": 3,
    "slices.minimum_mask_fraction": 0.0,
    "method.generator.levels": 4,
    "method.generator.channels": 8,
    "method.discriminator.channels": 8,
    "method.learning_rate": 2e-3,
    "training.epochs": 4,
    "training.decay_epochs": 0,
    "training.batch_size": 4,
    "training.validate_every": 4,
    "training.precision": "fp32",
}


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(overrides=SETTINGS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three cases whose contrasts and neighbouring slices all differ."""
    folder = tmp_path_factory.mktemp("contrasts")
    for seed in range(3):
        t1, ct, body = make_pair(seed)
        noise = np.random.default_rng(50 + seed).normal(0, 20, t1.shape)
        t2 = (np.abs(400 - t1 + noise) * (1 + np.arange(10) / 10)).astype(np.float32)
        place = folder / f"case_{seed}"
        place.mkdir()
        for name, array in {"t1": t1, "t2": t2, "ct": ct, "mask": body}.items():
            image = nib.Nifti1Image(array, np.diag([1.5, 1.5, 3.0, 1.0]))
            nib.save(image, place / f"{name}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def data(folder, config, tmp_path_factory) -> PreparedData:
    prepared = tmp_path_factory.mktemp("prepared") / "data"
    prepare_cases(find_cases(folder, config), prepared, config)
    return PreparedData(prepared)


def read_sources(folder: Path) -> list[Volume]:
    return [read_volume(folder / f"{name}.nii.gz") for name in CONTRASTS]


def training_input(data: PreparedData, config: Config, name: str) -> torch.Tensor:
    [case] = [case for case in data.cases if case.name == name]
    batches = SliceBatches(data, [case], config.slices, CPU)
    return batches.gather(list(range(len(batches.samples))), torch.Generator()).source


def test_prepared_channels_are_the_contrasts_in_the_settings_order(data, folder):
    assert data.sources == list(CONTRASTS)
    case = data.cases[0]
    body = data.mask(case) > 0
    for codes, name in zip(data.source(case), CONTRASTS, strict=True):
        image = nib.as_closest_canonical(nib.load(folder / case.name / f"{name}.nii.gz"))
        values = image.get_fdata().transpose(2, 1, 0)[body]
        correlation = np.corrcoef(values, codes[body])[0, 1]
        assert correlation > 0.99


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_stack_of_contrasts_reaches_the_network_in_the_order_of_training(data, config, plane):
    slices = config.slices.model_copy(update={"plane": plane})
    case = data.cases[0]
    seen = []

    def remember(stacks):
        seen.append(stacks.clone())
        return stacks[:, :1]

    predict_volume(remember, decode(data.source(case)), slices, CPU, batch_size=4)
    expected = training_input(data, config.model_copy(update={"slices": slices}), case.name)
    assert expected.shape[1] == 6
    assert len({channel.numpy().tobytes() for channel in expected[5]}) == 6
    assert torch.equal(torch.cat(seen), expected)


def test_files_reach_the_network_as_they_did_in_training(data, folder, config):
    seen = []

    def remember(stacks):
        seen.append(stacks.clone())
        return stacks[:, :1]

    card = ModelCard(config, CONTRASTS, (-1024.0, 3071.0))
    translator = Translator(Model(torch.nn.Identity(), card, "none"), CPU, remember, 16)
    mask = read_volume(folder / "case_1" / "mask.nii.gz")
    translator(read_sources(folder / "case_1"), mask)
    assert torch.equal(torch.cat(seen), training_input(data, config, "case_1"))


def test_the_result_lies_on_the_first_contrast_s_grid():
    """Each channel alone gives back its own contrast; the second one is resampled."""
    limits = {"modality": "CT", "hu_range": [-60.0, 60.0]}
    values = {
        "preprocessing": {"source": limits, "target": limits, "spacing_mm": [None, None, None]},
        "slices": {"size": [32, 32]},
        "method": {"generator": {"levels": 4}},
    }
    card = ModelCard(Config.model_validate(values), ("a", "b"), (-60.0, 60.0))
    affine = oblique_affine((2.0, 2.0, 3.0), origin=(-20, -20, -10))
    rng = np.random.default_rng(0)
    one = Volume(rng.uniform(-50, 50, (20, 18, 8)).astype(np.float32), affine, path=Path("a.nii"))
    turned = one.array[::-1, :, ::-1].copy()
    flip = np.diag([-1.0, 1.0, -1.0, 1.0])
    flip[:3, 3] = 19, 0, 7
    two = Volume(-turned, affine @ flip, path=Path("b.nii"))
    for channel, sign in [(0, 1), (1, -1)]:
        translator = Translator(
            Model(torch.nn.Identity(), card, "none"),
            CPU,
            lambda slices, channel=channel: slices[:, channel : channel + 1],
            4,
        )
        result = translator([one, two], "none")
        np.testing.assert_array_equal(result.affine, one.affine)
        np.testing.assert_allclose(result.array, sign * one.array, atol=0.01)


@pytest.fixture(scope="module")
def trained(data, config, tmp_path_factory) -> TrainingResult:
    return train(data.folder, tmp_path_factory.mktemp("run") / "r", config, device="cpu")


def test_a_trained_model_translates_as_it_was_validated(trained, data, folder):
    model = load_model(trained.model)
    assert model.card.source_names == CONTRASTS
    [case] = data.split("validation")
    place = folder / case.name
    mask = read_volume(place / "mask.nii.gz")
    target = nib.load(place / "ct.nii.gz").get_fdata()
    sources = read_sources(place)
    ct = translate(sources, model, mask=mask, device="cpu", precision="fp32").array
    mae = masked_mae(ct, target, mask.array > 0)
    assert mae == pytest.approx(trained.metrics["mae_hu"], rel=1e-3)
    swapped = translate(sources[::-1], model, mask=mask, device="cpu", precision="fp32").array
    assert np.abs(swapped - ct).mean() > 20


def test_a_manifest_names_the_contrasts_so_that_its_columns_may_stand_in_any_order(
    trained, folder, config, tmp_path, capsys
):
    cases = find_cases(folder, config)
    expected = translate(
        read_sources(folder / "case_0"),
        load_model(trained.model),
        mask=read_volume(folder / "case_0" / "mask.nii.gz"),
        device="cpu",
        precision="fp32",
    )
    options = ["-m", trained.model, "--split", "all", "--device", "cpu", "--precision", "fp32"]
    for order in (("t1", "t2"), ("t2", "t1")):
        manifest, output = tmp_path / f"{order[0]}.csv", tmp_path / order[0]
        sources = [{name: case.sources[name] for name in order} for case in cases]
        write_manifest(
            manifest, [replace(c, sources=s) for c, s in zip(cases, sources, strict=True)]
        )
        assert f"source_{order[0]},source_{order[1]}" in manifest.read_text()
        run(["translate", manifest, output, *options])
        result = nib.load(output / "case_0.nii.gz").get_fdata()
        np.testing.assert_allclose(result, expected.array, atol=0.51)
    lone = tmp_path / "lone.csv"
    write_manifest(lone, [replace(c, sources={"t1": c.sources["t1"]}) for c in cases])
    with pytest.raises(SystemExit) as end:
        run(["translate", lone, tmp_path / "lone", *options])
    assert end.value.code == 1
    assert "source_t2" in capsys.readouterr().err


def run(arguments: list[object]) -> None:
    """Run a command in this process; it ends with `SystemExit` if it fails."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        if end.code:
            raise
