import math

import pytest
import torch

from medp2p.losses import adversarial_loss, l1, masked_l1


def test_bce_of_a_confident_discriminator_in_closed_form() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])  # probabilities 1/2 and 3/4
    assert adversarial_loss(logits, real=True).item() == pytest.approx(
        (math.log(2) + math.log(4 / 3)) / 2
    )
    assert adversarial_loss(logits, real=False).item() == pytest.approx(
        (math.log(2) + math.log(4)) / 2
    )


def test_bce_does_not_overflow() -> None:
    loss = adversarial_loss(torch.tensor([1000.0]), real=False)
    assert loss.item() == pytest.approx(1000.0)


def test_least_squares_in_closed_form() -> None:
    logits = torch.tensor([0.0, 1.0, 3.0])
    real = adversarial_loss(logits, real=True, kind="least_squares")
    fake = adversarial_loss(logits, real=False, kind="least_squares")
    assert real.item() == pytest.approx((1 + 0 + 4) / 3)
    assert fake.item() == pytest.approx((0 + 1 + 9) / 3)


@pytest.mark.parametrize("kind", ["bce", "least_squares"])
def test_adversarial_losses_are_float32_and_keep_gradients(kind: str) -> None:
    logits = torch.tensor([0.3, -0.2], dtype=torch.bfloat16, requires_grad=True)
    loss = adversarial_loss(logits, real=True, kind=kind)  # type: ignore[arg-type]
    assert loss.dtype == torch.float32
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad < 0).all()  # more "real" is better


def test_l1_is_the_mean_absolute_difference() -> None:
    prediction = torch.tensor([[[[0.5, -1.0]]]])
    target = torch.tensor([[[[1.0, 1.0]]]])
    assert l1(prediction, target).item() == pytest.approx((0.5 + 2.0) / 2)


def test_masked_l1_counts_only_the_mask() -> None:
    prediction, target = torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 7.0)
    mask = torch.zeros(2, 1, 2, 2)
    mask[0, 0, 0, 0] = mask[0, 0, 1, 1] = mask[1, 0, 0, 1] = 1
    target[0, 0, 0, 0], target[0, 0, 1, 1], target[1, 0, 0, 1] = 1.0, -2.0, 6.0
    assert masked_l1(prediction, target, mask).item() == pytest.approx((1 + 2 + 6) / 3)


def test_masked_l1_of_a_full_mask_is_l1_for_any_number_of_channels() -> None:
    torch.manual_seed(0)
    prediction, target = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    masked = masked_l1(prediction, target, torch.ones(2, 1, 4, 4))
    torch.testing.assert_close(masked, l1(prediction, target))


def test_masked_l1_of_an_empty_mask_is_zero_and_has_a_gradient() -> None:
    prediction = torch.rand(1, 1, 4, 4, requires_grad=True)
    loss = masked_l1(prediction, torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))
    loss.backward()
    assert loss.item() == 0
    assert prediction.grad is not None
    assert not prediction.grad.any()
