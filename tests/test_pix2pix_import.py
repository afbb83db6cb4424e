import math
import pickle
import zlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from medp2p.checkpoint import load_model
from medp2p.config import Config, GeneratorSettings
from medp2p.errors import CheckpointError, ConfigError, OutputError
from medp2p.networks.inference import prepare_for_inference
from medp2p.networks.patchgan import PatchDiscriminator
from medp2p.networks.unet import UNetGenerator
from medp2p.pix2pix_import import (
    convert_generator_state,
    import_generator,
    read_original_state,
    to_grayscale,
)

# Recorded from networks.UnetGenerator and networks.NLayerDiscriminator of
# junyanz/pytorch-CycleGAN-and-pix2pix at 2a7afba, run by
# `benchmarks/pix2pix_parity.py --record`: five pixels of the output for the weights and the
# image of the formulas below. The last entry of each key is training mode.
GENERATOR_OUTPUTS = {
    (5, 4, "batch", False): [0.0753875, 0.0978861, 0.0401126, -0.0128222, -0.0021189],
    (5, 4, "batch", True): [0.0541201, 0.1182702, -0.1351465, 0.3835528, -0.4758912],
    (7, 2, "batch", False): [0.0296065, -0.0956138, 0.0298901, 0.0432085, -0.1690147],
    (7, 2, "batch", True): [0.0296065, -0.1356663, 0.1348178, -0.0720703, 0.0549557],
    (5, 4, "instance", False): [0.0278149, 0.0241765, 0.1445253, 0.0580109, -0.6883892],
    (5, 4, "instance", True): [0.0278149, 0.0241765, 0.1445253, 0.0580109, -0.6883892],
}
DISCRIMINATOR_OUTPUTS = {
    ("batch", False): [0.0875776, 0.0606521, 0.0632068, 0.062363, 0.0622005],
    ("batch", True): [-0.38129, 0.181457, 0.4552811, -0.4070452, 2.1589468],
    ("instance", False): [-0.2055158, 0.0281091, 0.4216011, 0.2693568, 0.6911533],
    ("instance", True): [-0.2055158, 0.0281091, 0.4216011, 0.2693568, 0.6911533],
}


def by_formula(name: str, shape: tuple[int, ...]) -> Tensor:
    """Weights that depend on names and shapes alone, on no random generator."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    frequency = 0.618 * (1 + zlib.crc32(name.encode()) % 1000)
    wave = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64).mul(frequency).sin()
    if len(shape) == 4:
        wave *= 0.5 / math.sqrt(max(shape[:2]))
    elif name.endswith(("weight", "running_var")):
        wave = 1 + 0.3 * wave
    else:
        wave *= 0.1
    return wave.reshape(shape).float()


def formula_image(channels: int, size: int) -> Tensor:
    index = torch.arange(channels * size * size, dtype=torch.float64)
    return (0.01 * index + 1e-5 * index**2).sin().float().reshape(1, channels, size, size)


def convolution(name: str, shape: tuple[int, ...], bias: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape} | ({f"{name}.bias": (bias,)} if bias else {})


def norm_layer(name: str, norm: str, channels: int) -> dict[str, tuple[int, ...]]:
    if norm == "instance":
        return {}
    parameters = ("weight", "bias", "running_mean", "running_var")
    shapes: dict[str, tuple[int, ...]] = {f"{name}.{p}": (channels,) for p in parameters}
    return shapes | {f"{name}.num_batches_tracked": ()}


def original_generator_state(
    levels: int, channels: int = 4, norm: str = "batch", inputs: int = 1, outputs: int = 1
) -> dict[str, Tensor]:
    """A state with the names and shapes that the original's UnetGenerator saves."""
    widths = [channels * min(2**level, 8) for level in range(levels)]
    bias = norm == "instance"
    shapes = convolution("model.model.0", (widths[0], inputs, 4, 4), widths[0] * bias)
    shapes |= convolution("model.model.3", (2 * widths[0], outputs, 4, 4), outputs)
    prefix = "model.model.1.model."
    for level in range(1, levels):
        inner, outer = widths[level], widths[level - 1]
        innermost = level == levels - 1
        up, up_norm = ("3", "4") if innermost else ("5", "6")
        shapes |= convolution(f"{prefix}1", (inner, outer, 4, 4), inner * bias)
        if not innermost:
            shapes |= norm_layer(f"{prefix}2", norm, inner)
        up_inputs = inner if innermost else 2 * inner
        shapes |= convolution(f"{prefix}{up}", (up_inputs, outer, 4, 4), outer * bias)
        shapes |= norm_layer(f"{prefix}{up_norm}", norm, outer)
        prefix += "3.model."
    return {name: by_formula(name, shape) for name, shape in shapes.items()}


def original_discriminator_state(norm: str, channels: int = 4) -> dict[str, Tensor]:
    """A state with the names and shapes of the original's NLayerDiscriminator, in its order."""
    widths = [2, channels, 2 * channels, 4 * channels, 8 * channels, 1]
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, position in enumerate((0, 2, 5, 8, 11)):
        outputs, first_or_last = widths[layer + 1], layer in (0, 4)
        bias = outputs if norm == "instance" or first_or_last else 0
        shapes |= convolution(f"model.{position}", (outputs, widths[layer], 4, 4), bias)
        if not first_or_last:
            shapes |= norm_layer(f"model.{position + 1}", norm, outputs)
    return {name: by_formula(name, shape) for name, shape in shapes.items()}


def build(state: dict[str, Tensor], dropout: float = 0.0) -> UNetGenerator:
    settings, inputs, outputs, weights = convert_generator_state(state)
    generator = UNetGenerator(
        inputs, outputs, settings.levels, settings.channels, settings.norm, dropout
    )
    generator.load_state_dict(weights)
    return generator


def samples(output: Tensor) -> list[float]:
    pixels = output[0, 0].flatten()
    values: list[float] = pixels[:: len(pixels) // 5][:5].tolist()
    return values


@pytest.mark.parametrize(("key", "recorded"), GENERATOR_OUTPUTS.items())
def test_generator_predicts_what_the_original_does(
    key: tuple[int, int, str, bool], recorded: list[float]
) -> None:
    levels, channels, norm, training = key
    generator = build(original_generator_state(levels, channels, norm))
    source = formula_image(1, 2 * 2**levels)
    with torch.inference_mode():
        found = samples(generator.train(training)(source))
        assert found == pytest.approx(recorded, abs=1e-5)
        prepared = prepare_for_inference(generator, per_batch_statistics=training, precision="fp32")
        assert samples(prepared(source)) == pytest.approx(recorded, abs=1e-5)


@pytest.mark.parametrize(("key", "recorded"), DISCRIMINATOR_OUTPUTS.items())
def test_discriminator_judges_as_the_original_does(
    key: tuple[str, bool], recorded: list[float]
) -> None:
    norm, training = key
    discriminator = PatchDiscriminator(2, channels=4, norm=norm)  # type: ignore[arg-type]
    weights = original_discriminator_state(norm).values()
    discriminator.load_state_dict(dict(zip(discriminator.state_dict(), weights, strict=True)))
    with torch.inference_mode():
        found = samples(discriminator.train(training)(formula_image(2, 64)))
    assert found == pytest.approx(recorded, abs=1e-5)


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize(("levels", "inputs", "outputs"), [(5, 1, 1), (8, 3, 1), (7, 2, 3)])
def test_architecture_is_read_off_the_weights(
    levels: int, inputs: int, outputs: int, norm: str
) -> None:
    state = original_generator_state(levels, 2, norm, inputs, outputs)
    settings, found_inputs, found_outputs, _ = convert_generator_state(state)
    expected = GeneratorSettings.model_validate({"levels": levels, "channels": 2, "norm": norm})
    assert settings == expected
    assert (found_inputs, found_outputs) == (inputs, outputs)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_taken_off(prefix: str) -> None:
    state = original_generator_state(5)
    wrapped = {f"{prefix}{name}": value for name, value in state.items()}
    plain, unwrapped = convert_generator_state(state)[3], convert_generator_state(wrapped)[3]
    assert plain.keys() == unwrapped.keys()
    assert all(torch.equal(plain[name], unwrapped[name]) for name in plain)


def test_old_files_without_batch_counters_and_with_instance_statistics() -> None:
    state = original_generator_state(5)
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    build(old)
    instance = original_generator_state(5, norm="instance")
    instance["model.model.1.model.2.running_mean"] = torch.zeros(8)
    build(instance)


def test_grayscale_is_exact_for_grey_input() -> None:
    state = original_generator_state(5, inputs=3, outputs=3)
    colour = build(state).eval()
    grey = UNetGenerator(1, 1, 5, 4, "batch")
    grey.load_state_dict(to_grayscale(convert_generator_state(state)[3]))
    source = formula_image(1, 32)
    with torch.inference_mode():
        expected = colour(source.expand(1, 3, 32, 32)).atanh().mean(dim=1, keepdim=True).tanh()
        torch.testing.assert_close(grey.eval()(source), expected, atol=1e-5, rtol=0)


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"conv.weight": torch.zeros(1)}, "found other weights"),
        ({"model.1.weight": torch.zeros(64, 3, 7, 7)}, "ResNet generator"),
        (original_generator_state(4), "5 to 9 U-Net levels, found 4"),
        (without(original_generator_state(5), "model.model.1.model.2.bias"), "lacks encoder.1.1"),
        (
            without(original_generator_state(5), "model.model.1.model.3.model.1.weight"),
            "found 2|weights that pix2pix's U-Net does not have",
        ),
        (original_generator_state(5) | {"extra.weight": torch.zeros(1)}, "such as extra.weight"),
        (
            original_generator_state(5) | {"model.model.0.weight": torch.zeros(8, 1, 4, 4)},
            r"expected \[",
        ),
        (
            {
                k: v
                for k, v in original_generator_state(5).items()
                if k.endswith("weight") and v.ndim == 4
            },
            "without norm layers",
        ),
    ],
)
def test_other_weights_are_refused(state: dict[str, Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert_generator_state(state)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "latest_net_G.pth"
    torch.save(original_generator_state(5), path)
    return path


def test_imported_model_is_loaded_and_translates_as_the_original(
    checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "model.safetensors"
    config = Config()
    card = import_generator(checkpoint, output, config)
    assert card.config.method.generator == GeneratorSettings(levels=5, channels=4, norm="batch")
    model = load_model(output)
    assert model.card == card
    assert (card.batch_norm, card.target_range) == ("per_batch", (-1024.0, 3071.0))
    with torch.inference_mode():
        prepared = prepare_for_inference(
            model.generator, per_batch_statistics=True, precision="fp32"
        )
        found = samples(prepared(formula_image(1, 64)))
    assert found == pytest.approx(GENERATOR_OUTPUTS[5, 4, "batch", True], abs=1e-5)


def test_import_keeps_to_its_options(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.safetensors"
    import_generator(checkpoint, output, Config(), batch_norm="running", target_range=(0, 255))
    card = load_model(output).card
    assert (card.batch_norm, card.target_range) == ("running", (0, 255))
    with pytest.raises(OutputError, match="exists already"):
        import_generator(checkpoint, output, Config())
    import_generator(checkpoint, output, Config(), overwrite=True)
    assert load_model(output).card.batch_norm == "per_batch"


def test_channels_must_fit_the_settings(tmp_path: Path) -> None:
    path, output = tmp_path / "latest_net_G.pth", tmp_path / "model.safetensors"
    torch.save(original_generator_state(5, inputs=3, outputs=3), path)
    with pytest.raises(ConfigError, match=r"3 channels to 3.*say 1 to 1; pass --grayscale"):
        import_generator(path, output, Config())
    assert not output.exists()
    import_generator(path, output, Config(), grayscale=True)
    assert load_model(output).generator(formula_image(1, 32)).shape == (1, 1, 32, 32)


def test_mr_target_needs_a_range(checkpoint: Path, tmp_path: Path) -> None:
    to_mr = Config.model_validate({"preprocessing": {"target": {"modality": "MR"}}})
    with pytest.raises(ConfigError, match="target range"):
        import_generator(checkpoint, tmp_path / "model.safetensors", to_mr)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this must not run",))


def damaged_files(folder: Path, good: bytes) -> dict[str, str]:
    (folder / "text.pth").write_text("not a checkpoint at all")
    (folder / "empty.pth").write_bytes(b"")
    (folder / "cut.pth").write_bytes(good[: len(good) // 2])
    (folder / "pickle.pth").write_bytes(pickle.dumps(Harmful()))
    torch.save({"model": Harmful()}, folder / "harmful.pth")
    torch.save({"epoch": 3}, folder / "numbers.pth")
    torch.save([torch.zeros(1)], folder / "list.pth")
    torch.save({}, folder / "nothing.pth")
    unreadable, no_weights = "not a readable PyTorch weight file", "holds no weights by name"
    return {
        "text.pth": unreadable,
        "empty.pth": unreadable,
        "cut.pth": unreadable,
        "pickle.pth": unreadable,
        "harmful.pth": unreadable,
        "numbers.pth": "holds more than weights",
        "list.pth": no_weights,
        "nothing.pth": no_weights,
        "missing.pth": "no such file",
    }


def test_files_that_are_not_weights_are_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, message in damaged_files(tmp_path, checkpoint.read_bytes()).items():
        with pytest.raises(CheckpointError, match=message) as caught:
            read_original_state(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert "this must not run" not in capsys.readouterr().out


def test_refused_weights_name_their_file(tmp_path: Path) -> None:
    path = tmp_path / "latest_net_G.pth"
    torch.save({"conv.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"latest_net_G\.pth: expected a pix2pix U-Net"):
        import_generator(path, tmp_path / "model.safetensors", Config())
