from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import find_cases, prepare_cases
from filelock import FileLock
from safetensors.torch import load_file

from medp2p.checkpoint import load_model, read_card
from medp2p.config import config_yaml
from medp2p.errors import (
    CheckpointError,
    ConfigError,
    OutputError,
    PreparedDataError,
    TrainingError,
)
from medp2p.run_records import Display, StepReport
from medp2p.training import train


def with_training(config, **changes):
    return config.model_copy(update={"training": config.training.model_copy(update=changes)})


def all_body_slices(config):
    slices = config.slices.model_copy(update={"minimum_mask_fraction": 1.0})
    return with_training(config, slices_per_epoch=8).model_copy(update={"slices": slices})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "state.pt", weights_only=True)["method"]["networks"]["generator"]


def read_log(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "log.csv").read_text().splitlines()))


def same_weights(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_leaves_a_model_a_state_a_log_and_a_picture(trained_run, tiny_config):
    names = {path.name for path in trained_run.iterdir()}
    assert names == {
        "model.safetensors",
        "state.pt",
        "config.yaml",
        "log.csv",
        "samples",
        "tensorboard",
        ".lock",
    }
    assert (trained_run / "config.yaml").read_text() == config_yaml(tiny_config)
    rows = read_log(trained_run)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["l1"]) < float(rows[0]["l1"])
    assert float(rows[1]["validation_mae_hu"]) > 0
    assert sorted(p.name for p in (trained_run / "samples").iterdir())[-1] == "epoch_0002.png"


def test_the_card_says_what_the_model_is(trained_run, tiny_config):
    card, digest = read_card(trained_run / "model.safetensors")
    assert card.config == tiny_config
    assert card.source_names == ("mr",)
    assert card.target_range == (-1024.0, 3071.0)
    assert card.fingerprint["cases"] == 4
    assert card.metrics["validation_mae_hu"] > 0
    assert card.versions["torch"] == torch.__version__
    assert len(digest) == 64


def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(
    trained_run, prepared_folder, tiny_config, tmp_path
):
    train(prepared_folder, tmp_path / "again", tiny_config, device="cpu")
    assert same_weights(trained_run, tmp_path / "again")
    assert load_model(trained_run / "model.safetensors").hash == (
        load_model(tmp_path / "again" / "model.safetensors").hash
    )
    train(prepared_folder, tmp_path / "other", with_training(tiny_config, seed=1), device="cpu")
    assert not same_weights(trained_run, tmp_path / "other")


class StopAfter(Display):
    """Sends this process a signal in the middle of an epoch, as a user would."""

    def __init__(self, images: int, number: int) -> None:
        self.images, self.number = images, number

    def step(self, report: StepReport) -> None:
        if report.images_done == self.images:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_the_resumed_run_is_equal(
    trained_run, prepared_folder, tiny_config, tmp_path, number
):
    stopped = train(
        prepared_folder, tmp_path / "r", tiny_config, device="cpu", display=StopAfter(12, number)
    )
    assert stopped.interrupted
    assert stopped.epochs == 0
    assert not (tmp_path / "r" / "model.safetensors").exists()
    resumed = train(prepared_folder, tmp_path / "r", None, resume=True, device="cpu")
    assert not resumed.interrupted
    assert same_weights(trained_run, tmp_path / "r")
    log, expected = (folder / "log.csv" for folder in (tmp_path / "r", trained_run))
    assert log.read_text() == expected.read_text()


def start_training(*arguments: object, launcher: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    command = [sys.executable, *launcher, "-m", "medp2p.cli", "train", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("delay", [0.4, pytest.param(1.3, marks=pytest.mark.slow)])
def test_a_killed_run_resumed_ends_with_the_weights_of_one_never_interrupted(
    prepared_folder, tiny_config, tmp_path, delay
):
    config = tmp_path / "c.yaml"
    config.write_text(
        config_yaml(with_training(tiny_config, epochs=15, decay_epochs=5, validate_every=4))
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = ("--config", config, "--device", "cpu")
    process = start_training(prepared_folder, whole, *options)
    assert process.wait(120) == 0, process.communicate()
    process.communicate()
    process = start_training(prepared_folder, killed, *options)
    while not (killed / "log.csv").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    epoch = torch.load(killed / "state.pt", weights_only=True)["progress"]["epoch"]
    assert epoch < 20
    process = start_training(prepared_folder, killed, "--resume", "--device", "cpu")
    assert process.wait(120) == 0, process.communicate()
    process.communicate()
    assert same_weights(whole, killed)
    assert (whole / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
    assert (whole / "log.csv").read_text() == (killed / "log.csv").read_text()


def test_fine_tuning_starts_from_the_other_model_s_weights(
    trained_run, prepared_folder, tiny_config, tmp_path
):
    config = tiny_config.model_copy(
        update={"method": tiny_config.method.model_copy(update={"learning_rate": 1e-12})}
    )
    train(
        prepared_folder,
        tmp_path / "tuned",
        config,
        device="cpu",
        init=trained_run / "model.safetensors",
    )
    start = load_file(trained_run / "model.safetensors")
    for name, tensor in weights(tmp_path / "tuned").items():
        torch.testing.assert_close(tensor, start[name], atol=1e-6, rtol=1e-5)
    generator = config.method.generator.model_copy(update={"channels": 4})
    wrong = config.model_copy(
        update={"method": config.method.model_copy(update={"generator": generator})}
    )
    with pytest.raises(CheckpointError, match="the configured network has"):
        train(
            prepared_folder,
            tmp_path / "wrong",
            wrong,
            device="cpu",
            init=trained_run / "model.safetensors",
        )


def test_early_stopping_counts_validations(prepared_folder, tiny_config, tmp_path):
    config = with_training(tiny_config, epochs=30, patience=2)
    config = config.model_copy(
        update={"method": config.method.model_copy(update={"learning_rate": 1e-12})}
    )
    result = train(prepared_folder, tmp_path / "r", config, device="cpu")
    assert result.epochs < 30


def test_the_best_epoch_is_kept(prepared_folder, tiny_config, tmp_path):
    result = train(
        prepared_folder, tmp_path / "r", with_training(tiny_config, epochs=6), device="cpu"
    )
    rows = read_log(tmp_path / "r")
    best = min(rows, key=lambda row: float(row["validation_mae_hu"]))
    card, _ = read_card(result.model)
    assert card.progress["epoch"] == int(best["epoch"])
    assert card.metrics["validation_mae_hu"] == pytest.approx(float(best["validation_mae_hu"]))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(
    prepared_folder, tiny_config, tmp_path
):
    config = tiny_config.model_copy(
        update={"method": tiny_config.method.model_copy(update={"learning_rate": 1e30})}
    )
    with pytest.raises(TrainingError, match=r"(nan|inf) at epoch \d+, step \d+"):
        train(prepared_folder, tmp_path / "r", config, device="cpu")


def test_wrong_starts_are_refused(trained_run, prepared_folder, tiny_config, tmp_path):
    with pytest.raises(OutputError, match="holds a run already"):
        train(prepared_folder, trained_run, tiny_config, device="cpu")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "config.yaml").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        train(prepared_folder, tmp_path / "notes", tiny_config, device="cpu")
    assert (tmp_path / "notes" / "config.yaml").read_text() == "mine"
    with pytest.raises(ConfigError, match="leave out --init"):
        train(
            prepared_folder,
            trained_run,
            None,
            resume=True,
            init=trained_run / "model.safetensors",
            device="cpu",
        )
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(prepared_folder, tmp_path / "r", None, resume=True, device="cpu")
    with pytest.raises(ConfigError, match="keeps its settings"):
        train(prepared_folder, trained_run, tiny_config, resume=True, device="cpu")
    huge = with_training(tiny_config, batch_size=4096)
    with pytest.raises(TrainingError, match=r"training\.batch_size"):
        train(prepared_folder, tmp_path / "r", huge, device="cpu")
    with pytest.raises(TrainingError, match="minimum_mask_fraction"):
        train(prepared_folder, tmp_path / "r", all_body_slices(tiny_config), device="cpu")
    other = tiny_config.model_copy(
        update={
            "preprocessing": tiny_config.preprocessing.model_copy(update={"spacing_mm": (1, 1, 1)})
        }
    )
    with pytest.raises(PreparedDataError, match="spacing_mm"):
        train(prepared_folder, tmp_path / "r", other, device="cpu")


def test_two_runs_never_share_a_folder(trained_run, prepared_folder):
    with FileLock(trained_run / ".lock"):
        process = start_training(prepared_folder, trained_run, "--resume", "--device", "cpu")
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert b"another run is writing there" in err


def test_a_run_is_not_resumed_on_other_data(
    trained_run, prepared_folder, case_folder, tiny_config, tmp_path
):
    other_data = tiny_config.data.model_copy(update={"split_seed": 5})
    cases = find_cases(case_folder, tiny_config.model_copy(update={"data": other_data}))
    prepare_cases(cases, tmp_path / "p", tiny_config)
    with pytest.raises(PreparedDataError, match="not the data that the run began with"):
        train(tmp_path / "p", trained_run, None, resume=True, device="cpu")


def test_a_changed_byte_in_the_prepared_voxels_is_found(prepared_folder, tiny_config, tmp_path):
    shutil.copytree(prepared_folder, tmp_path / "p")
    with (tmp_path / "p" / "cases" / "case_3" / "voxels.i16").open("r+b") as file:
        file.seek(1000)
        file.write(b"\x12\x34")
    with pytest.raises(PreparedDataError, match="checksum"):
        train(tmp_path / "p", tmp_path / "r", tiny_config, device="cpu")


def test_a_damaged_state_is_refused(trained_run, prepared_folder, tmp_path):
    whole = (trained_run / "state.pt").read_bytes()
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "state.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        train(prepared_folder, tmp_path / "r", None, resume=True, device="cpu")


TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node=2")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), TORCHRUN], ids=["--processes 2", "torchrun"])
def test_two_processes_train_together(prepared_folder, tiny_config, tmp_path, launcher):
    config = tmp_path / "c.yaml"
    config.write_text(config_yaml(with_training(tiny_config, batch_size=2)))
    processes = () if launcher else ("--processes", "2")
    options = ("--config", config, "--device", "cpu", *processes)
    process = start_training(prepared_folder, tmp_path / "r", *options, launcher=launcher)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert out.decode().count("2 epochs") == 1
    rows = read_log(tmp_path / "r")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["l1"]) < float(rows[0]["l1"])
