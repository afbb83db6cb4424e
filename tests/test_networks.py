import pytest
import torch
from torch import Tensor, nn

from medp2p.networks.inference import bf16_is_fast, prepare_for_inference
from medp2p.networks.initialization import initialize_weights
from medp2p.networks.patchgan import PatchDiscriminator
from medp2p.networks.unet import InstanceNorm, UNetGenerator


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def small_unet(**options: object) -> UNetGenerator:
    """A generator whose weights and running statistics are far from their defaults."""
    torch.manual_seed(0)
    settings = {"levels": 4, "channels": 8, **options}
    generator = UNetGenerator(1, 1, **settings)  # type: ignore[arg-type]
    initialize_weights(generator, 0.1)
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.3)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
            nn.init.normal_(module.bias, 0.0, 0.2)
    return generator


def images(count: int = 2, channels: int = 1, size: tuple[int, int] = (32, 48)) -> Tensor:
    torch.manual_seed(1)
    return torch.rand(count, channels, *size) * 2 - 1


def test_unet_256_has_the_parameters_of_the_paper_s_generator() -> None:
    with torch.device("meta"):
        assert count(UNetGenerator(1, 1)) == 54_407_809
        assert count(UNetGenerator(3, 3)) == 54_413_955  # what the original prints: 54.414 M


def test_unet_channels_double_up_to_eight_times() -> None:
    generator = UNetGenerator(1, 1, levels=6, channels=4)
    widths = [stage[0].out_channels for stage in generator.encoder]  # type: ignore[index]
    assert widths == [4, 8, 16, 32, 32, 32]


@pytest.mark.parametrize(
    ("levels", "stages"), [(9, [1, 2, 3, 4]), (8, [1, 2, 3]), (7, [1, 2]), (6, [1]), (4, [1])]
)
def test_dropout_sits_in_the_stages_next_to_the_innermost(levels: int, stages: list[int]) -> None:
    generator = UNetGenerator(1, 1, levels=levels, channels=2)
    found = [
        position
        for position, stage in enumerate(generator.decoder)
        if any(isinstance(module, nn.Dropout) for module in stage.children())
    ]
    assert found == stages
    without = UNetGenerator(1, 1, levels=levels, channels=2, dropout=0.0)
    assert not any(isinstance(module, nn.Dropout) for module in without.modules())


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_bias_only_where_no_affine_norm_follows(norm: str) -> None:
    generator = UNetGenerator(1, 1, levels=4, channels=4, norm=norm)  # type: ignore[arg-type]
    convolutions = [m for m in generator.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    with_bias = [m.bias is not None for m in convolutions]
    assert with_bias == [norm == "instance"] * 7 + [True]


@pytest.mark.parametrize("head", ["tanh", "linear"])
@pytest.mark.parametrize("upsampling", ["transposed", "resize"])
@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 1), (5, 2)])
def test_every_option_translates_and_reaches_every_weight(
    norm: str, upsampling: str, head: str, inputs: int, outputs: int
) -> None:
    generator = UNetGenerator(
        inputs,
        outputs,
        levels=3,
        channels=4,
        norm=norm,  # type: ignore[arg-type]
        upsampling=upsampling,  # type: ignore[arg-type]
        head=head,  # type: ignore[arg-type]
    )
    prediction = generator(images(2, inputs, (24, 40)))
    assert prediction.shape == (2, outputs, 24, 40)
    prediction.square().mean().backward()
    assert all(parameter.grad is not None for parameter in generator.parameters())


def test_linear_head_leaves_the_unit_range_and_tanh_does_not() -> None:
    source = images()
    linear = small_unet(head="linear").eval()
    bounded = small_unet(head="tanh").eval()
    for generator in (linear, bounded):
        nn.init.constant_(generator.decoder[-1][0].bias, 3.0)  # type: ignore[index]
    assert linear(source).abs().max() > 1
    torch.testing.assert_close(linear(source).tanh(), bounded(source))


def test_source_is_left_as_it_was() -> None:
    source = images()
    before = source.clone()
    small_unet()(source)
    assert torch.equal(source, before)


@pytest.mark.parametrize("size", [(33, 32), (32, 40), (8, 16)])
def test_sizes_that_cannot_be_halved_often_enough_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"multiples of 16 .* got"):
        small_unet()(images(size=size))


def test_one_level_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        UNetGenerator(1, 1, levels=1)


def test_instance_norm_agrees_with_torch_and_its_gradients_too() -> None:
    source = images(3, 4, (6, 10)).requires_grad_()
    ours, theirs = InstanceNorm(4, affine=True), nn.InstanceNorm2d(4, affine=True)
    for norm in (ours, theirs):
        nn.init.constant_(norm.weight, 1.5)
        nn.init.constant_(norm.bias, -0.5)
    weights = torch.linspace(-1, 1, source.numel()).reshape(source.shape)
    (gradient,) = torch.autograd.grad((ours(source) * weights).sum(), source)
    (expected,) = torch.autograd.grad((theirs(source) * weights).sum(), source)
    torch.testing.assert_close(ours(source), theirs(source))
    torch.testing.assert_close(gradient, expected)


def test_initial_weights_have_the_wanted_spread() -> None:
    torch.manual_seed(0)
    generator = UNetGenerator(1, 1, levels=5, channels=16, norm="batch")
    initialize_weights(generator, 0.05)
    convolution, norm = generator.encoder[3][0], generator.encoder[3][1]  # type: ignore[index]
    assert convolution.weight.mean().abs().item() < 0.001
    assert convolution.weight.std().item() == pytest.approx(0.05, rel=0.02)
    assert norm.weight.mean().item() == pytest.approx(1.0, abs=0.03)
    assert 0.03 < norm.weight.std().item() < 0.07
    assert not norm.bias.any()
    assert not generator.decoder[-1][0].bias.any()  # type: ignore[index]


def test_discriminator_has_the_parameters_of_the_paper_s() -> None:
    assert count(PatchDiscriminator(2)) == 2_764_609


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_discriminator_sees_patches_of_70_pixels(norm: str) -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(2, channels=4, norm=norm).eval()  # type: ignore[arg-type]
    if norm == "instance":  # a mean over the image would make every pixel count
        for module in discriminator.modules():
            for name, child in module.named_children():
                if isinstance(child, nn.InstanceNorm2d):
                    setattr(module, name, nn.Identity())
    pair = torch.rand(1, 2, 256, 256, requires_grad=True)
    logits = discriminator(pair)
    assert logits.shape == (1, 1, 30, 30)
    logits[0, 0, 15, 15].backward()
    assert pair.grad is not None
    seen = pair.grad[0].abs().sum(0).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [70, 70]


def test_discriminator_instance_norm_has_no_weights_but_biases_before_it() -> None:
    discriminator = PatchDiscriminator(2, channels=4, norm="instance")
    norms = [m for m in discriminator.modules() if isinstance(m, nn.InstanceNorm2d)]
    assert len(norms) == 3
    assert all(norm.weight is None for norm in norms)
    convolutions = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d)]
    assert all(convolution.bias is not None for convolution in convolutions)


@pytest.mark.parametrize("upsampling", ["transposed", "resize"])
@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_prepared_generator_predicts_the_same(norm: str, upsampling: str, outputs: int) -> None:
    torch.manual_seed(0)
    generator = small_unet(norm=norm, upsampling=upsampling, levels=5)
    if outputs == 2:
        generator = UNetGenerator(1, 2, 5, 8, norm, upsampling=upsampling)  # type: ignore[arg-type]
    prepared = prepare_for_inference(generator, per_batch_statistics=False, precision="fp32")
    source = images(3, size=(64, 96))
    with torch.inference_mode():
        expected = generator.eval()(source)
        assert expected.std() > 0.01
        torch.testing.assert_close(prepared(source), expected, atol=1e-5, rtol=0)


def test_prepared_generator_predicts_the_same_without_onednn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = small_unet()
    monkeypatch.setattr("medp2p.networks.inference._onednn_packs", lambda: False)
    prepared = prepare_for_inference(generator, per_batch_statistics=False, precision="fp32")
    rounded = prepare_for_inference(generator, per_batch_statistics=False, precision="bf16")
    with torch.inference_mode():
        expected = generator.eval()(images())
        torch.testing.assert_close(prepared(images()), expected, atol=1e-5, rtol=0)
        assert 0 < (rounded(images()) - expected).abs().mean() < 0.01


def test_preparing_leaves_the_generator_as_it_was() -> None:
    generator = small_unet().train()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    prepare_for_inference(generator, per_batch_statistics=True, precision="bf16")
    after = generator.state_dict()
    assert generator.training
    assert all(
        torch.equal(value, after[name]) and value.dtype == after[name].dtype
        for name, value in before.items()
    )


def test_per_batch_statistics_are_training_mode_one_image_at_a_time() -> None:
    generator = small_unet(dropout=0.0)
    prepared = prepare_for_inference(generator, per_batch_statistics=True, precision="fp32")
    source = images(4)
    with torch.inference_mode():
        together = prepared(source)
        one_by_one = torch.cat([prepared(image) for image in source.split(1)])
        expected = torch.cat([generator.train()(image) for image in source.split(1)])
    torch.testing.assert_close(together, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(together, one_by_one, atol=1e-5, rtol=0)
    running = prepare_for_inference(generator, per_batch_statistics=False, precision="fp32")
    assert (running(source) - expected).abs().max() > 0.01


@pytest.mark.parametrize("per_batch_statistics", [False, True])
def test_bf16_is_close_and_stays_float32_outside(per_batch_statistics: bool) -> None:
    generator = small_unet()
    source = images()
    exact, rounded = (
        prepare_for_inference(
            generator, per_batch_statistics=per_batch_statistics, precision=precision
        )(source)
        for precision in ("fp32", "bf16")
    )
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().mean() < 0.01


def test_other_generators_are_only_put_into_evaluation_mode() -> None:
    generator = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Dropout(0.5)).train()
    prepared = prepare_for_inference(generator, per_batch_statistics=False, precision="fp32")
    assert not prepared.training
    assert torch.equal(prepared(images()), generator[0](images()))


def test_bf16_is_said_to_be_fast_only_where_it_can_be() -> None:
    assert isinstance(bf16_is_fast(torch.device("cpu")), bool)
    assert not bf16_is_fast(torch.device("meta"))
