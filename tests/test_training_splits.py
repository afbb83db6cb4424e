"""What a run may see of each split, and what settings and saved states do to it."""

from __future__ import annotations

import copy
import csv
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import find_cases, prepare_cases, write_case
from lightning_fabric import Fabric

from medp2p.augmentation import augment
from medp2p.batch import Batch
from medp2p.checkpoint import read_card
from medp2p.config import AugmentationSettings, Pix2PixSettings
from medp2p.errors import PreparedDataError
from medp2p.manifest import Case
from medp2p.methods import build_method
from medp2p.run_records import Display, StepReport
from medp2p.training import train

STILL = AugmentationSettings(
    flip=False, rotation_degrees=0, scale=0, shift=0, intensity_scale=0, intensity_shift=0, gamma=0
)


def with_training(config, **changes):
    return config.model_copy(update={"training": config.training.model_copy(update=changes)})


def read_state(folder: Path) -> dict:
    return torch.load(folder / "state.pt", weights_only=True)


def same_weights(a: Path, b: Path) -> bool:
    first, second = (read_state(folder)["method"]["networks"]["generator"] for folder in (a, b))
    return all(torch.equal(first[name], second[name]) for name in first)


def validation_maes(folder: Path) -> list[float]:
    rows = csv.DictReader((folder / "log.csv").read_text().splitlines())
    return [float(row["validation_mae_hu"]) for row in rows]


def final_learning_rates(folder: Path) -> list[float]:
    optimizers = read_state(folder)["method"]["optimizers"]
    return [optimizers[name]["param_groups"][0]["lr"] for name in ("generator", "discriminator")]


@pytest.fixture(scope="module")
def cases(case_folder, tiny_config) -> list[Case]:
    cases = find_cases(case_folder, tiny_config)
    assert sorted(case.split for case in cases) == ["test", *["train"] * 4, "validation"]
    return cases


@pytest.fixture(scope="module")
def prepare_with_other(cases, tiny_config, tmp_path_factory):
    """Prepares the toy cases with other patients in one split, under the same names."""

    def prepare_them(split: str) -> Path:
        folder = tmp_path_factory.mktemp(f"other_{split}")
        changed = []
        for number, case in enumerate(cases):
            if case.split == split:
                place = folder / case.name
                write_case(place, 100 + number)
                sources, target = {"mr": place / "mr.nii.gz"}, place / "ct.nii.gz"
                case = replace(case, sources=sources, target=target, mask=place / "mask.nii.gz")
            changed.append(case)
        prepare_cases(changed, folder / "data", tiny_config)
        return folder / "data"

    return prepare_them


@pytest.fixture(scope="module")
def bright_training(cases, tiny_config, tmp_path_factory) -> Path:
    """Training targets are 2900 HU nearly throughout: learning them worsens validation."""
    folder = tmp_path_factory.mktemp("bright")
    changed = []
    for case in cases:
        if case.split == "train":
            ct = nib.load(case.target)
            bright = np.full(ct.shape, 2900, np.int16)
            bright[0] = -1000
            target = folder / f"{case.name}.nii.gz"
            nib.save(nib.Nifti1Image(bright, ct.affine, ct.header), target)
            case = replace(case, target=target)
        changed.append(case)
    prepare_cases(changed, folder / "data", tiny_config)
    return folder / "data"


def test_validation_and_test_cases_do_not_touch_the_weights(
    trained_run, prepare_with_other, tiny_config, tmp_path
):
    maes = {"as it was": validation_maes(trained_run)}
    for split in ("validation", "test", "train"):
        train(prepare_with_other(split), tmp_path / split, tiny_config, device="cpu")
        assert same_weights(trained_run, tmp_path / split) == (split != "train")
        maes[split] = validation_maes(tmp_path / split)
    assert maes["test"] == maes["as it was"]
    assert all(a != b for a, b in zip(maes["validation"], maes["as it was"], strict=True))


def quick(config):
    """Learns in a few steps that the target is bright, and nothing else."""
    changes = {"learning_rate": 3e-3, "adversarial_weight": 0.0}
    return config.model_copy(update={"method": config.method.model_copy(update=changes)})


def test_augmentation_settings_change_what_is_learned(prepared_folder, tiny_config, tmp_path):
    config = with_training(tiny_config, slices_per_epoch=4, decay_epochs=0)
    for name, changes in [("still", {}), ("flip", {"flip": True}), ("gamma", {"gamma": 0.5})]:
        settings = STILL.model_copy(update=changes)
        chosen = config.model_copy(update={"augmentation": settings})
        train(prepared_folder, tmp_path / name, chosen, device="cpu")
    assert not same_weights(tmp_path / "still", tmp_path / "flip")
    assert not same_weights(tmp_path / "still", tmp_path / "gamma")


def test_a_zoom_enlarges_and_shrinks_about_the_centre():
    rows, columns, radius = 41, 61, 12
    y, x = np.mgrid[:rows, :columns]
    disc = torch.from_numpy(np.hypot(y - 20, x - 30) < radius)
    target = torch.where(disc, 1.0, -1.0).expand(64, 1, rows, columns)
    batch = Batch(target, target, disc.float().expand(64, 1, rows, columns))
    settings = STILL.model_copy(update={"scale": 0.25})
    zoomed = augment(batch, settings, torch.Generator().manual_seed(0)).mask[:, 0].bool()
    heights, widths = zoomed.any(2).sum(1) / (2 * radius), zoomed.any(1).sum(1) / (2 * radius)
    zooms = torch.sqrt(zoomed.sum((1, 2)) / disc.sum())
    for sizes in (heights, widths):
        torch.testing.assert_close(sizes, zooms, atol=0.1, rtol=0)
    assert 0.73 < zooms.min() < 0.8
    assert 1.2 < zooms.max() < 1.27
    assert zooms.std() == pytest.approx(0.5 / math.sqrt(12), abs=0.04)
    assert zoomed[:, 20, 30].all()


def test_the_learning_rate_falls_during_the_run(
    trained_run, prepared_folder, tiny_config, tmp_path
):
    """Epochs 1 + 1 end at half the rate, 1 + 3 at a quarter, 2 + 0 at the whole."""
    rate = tiny_config.method.learning_rate
    assert final_learning_rates(trained_run) == pytest.approx([rate / 2] * 2)
    for epochs, decay, factor in [(1, 3, 0.25), (2, 0, 1.0)]:
        config = with_training(tiny_config, epochs=epochs, decay_epochs=decay, validate_every=9)
        output = tmp_path / f"{epochs}+{decay}"
        train(prepared_folder, output, config, device="cpu")
        assert final_learning_rates(output) == pytest.approx([rate * factor] * 2)
    assert not same_weights(trained_run, tmp_path / "2+0")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_run_is_not_resumed_on_other_patients(trained_run, prepare_with_other, tmp_path, split):
    shutil.copytree(trained_run, tmp_path / "r")
    with pytest.raises(PreparedDataError, match="not the data that the run began with"):
        train(prepare_with_other(split), tmp_path / "r", None, resume=True, device="cpu")


class StopInEpoch(Display):
    """Sends this process a signal in an epoch, as a user would."""

    def __init__(self, epoch: int) -> None:
        self.epoch_to_stop_in = epoch

    def step(self, report: StepReport) -> None:
        if report.epoch == self.epoch_to_stop_in:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_resumed_run_remembers_its_best_model(bright_training, tiny_config, tmp_path):
    """The first epoch is the best; a resumed run must not take its own first for it."""
    config = quick(with_training(tiny_config, epochs=4, decay_epochs=0))
    stopped = train(
        bright_training, tmp_path / "r", config, device="cpu", display=StopInEpoch(epoch=3)
    )
    assert stopped.interrupted
    best = (tmp_path / "r" / "model.safetensors").read_bytes()
    result = train(bright_training, tmp_path / "r", None, resume=True, device="cpu")
    maes = validation_maes(tmp_path / "r")
    assert len(maes) == 4
    assert maes == sorted(maes)
    assert (tmp_path / "r" / "model.safetensors").read_bytes() == best
    assert read_card(result.model)[0].progress["epoch"] == 1
    assert result.metrics["mae_hu"] == pytest.approx(maes[0])


@pytest.mark.parametrize("kind", ["bce", "least_squares"])
def test_the_discriminator_follows_half_the_sum_of_both_losses(kind):
    """Isola et al. 2017, section 3.3: its objective is divided by 2. Adam would hide a factor."""
    torch.manual_seed(0)
    settings = Pix2PixSettings.model_validate(
        {
            "adversarial_loss": kind,
            "generator": {"levels": 3, "channels": 4, "dropout": 0.0},
            "discriminator": {"channels": 4, "layers": 1},
            "initial_weight_sd": 0.2,
        }
    )
    method = build_method(settings, 1, 1)
    networks = {name: copy.deepcopy(network) for name, network in method.networks.items()}
    for name, network in method.networks.items():
        method.optimizers[name] = torch.optim.SGD(network.parameters(), lr=0.5)
    method.setup(Fabric(accelerator="cpu", devices=1))
    source, target = torch.rand(2, 3, 1, 32, 32) * 2 - 1
    method.training_step(Batch(source, target, torch.ones_like(source)))

    discriminator = networks["discriminator"]
    fake = discriminator(torch.cat([source, networks["generator"](source).detach()], 1))
    real = discriminator(torch.cat([source, target], 1))
    if kind == "bce":
        loss = -(torch.sigmoid(real).log().mean() + torch.sigmoid(-fake).log().mean()) / 2
    else:
        loss = ((real - 1).square().mean() + fake.square().mean()) / 2
    loss.backward()
    updated = dict(method.networks["discriminator"].named_parameters())
    for name, parameter in discriminator.named_parameters():
        expected = parameter - 0.5 * parameter.grad
        torch.testing.assert_close(updated[name], expected, atol=1e-6, rtol=1e-4)
    assert max(p.grad.abs().max() for p in discriminator.parameters()) > 1e-2
