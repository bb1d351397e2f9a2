"""What reconstruction may be asked for: each loss sees what its name says, and the discriminator trains beside."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from train.modules.picture_losses import PatchDiscriminator, adaptive, adversarial, laplacian, worst
from train.modules.tokenizer import TokenizerModule


def _clip(batch: int = 2, frames: int = 5) -> Tensor:
    return torch.rand(batch, frames, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_bands_weigh_fine_errors_more_than_pixels_do() -> None:
    grid = torch.arange(16)
    fine = ((grid[:, None] + grid) % 2 * 2 - 1).float().expand(1, 1, 3, 16, 16)
    flat = torch.ones_like(fine)
    assert laplacian(fine) > 0.9 * laplacian(flat) > 0
    assert laplacian(2 * fine) == pytest.approx(2 * laplacian(fine).item())
    assert laplacian(torch.zeros_like(fine)) == 0


def test_the_worst_pixels_are_those_with_the_largest_error() -> None:
    square = torch.zeros(2, 1, 3, 10, 10)
    square[0, 0, :, 0, :2] = torch.tensor([9.0, 3.0])
    assert worst(square, share=0.02).item() == pytest.approx((9 + 3) / 4)
    assert worst(square, share=0.01).item() == pytest.approx(9 / 2)


def test_generator_and_discriminator_each_pull_on_their_own_weights() -> None:
    torch.manual_seed(0)
    discriminator, truth = PatchDiscriminator(8, 2), _clip()
    made = (0.5 * truth + 0.2).requires_grad_()
    wanted, own = adversarial(discriminator, made, truth)
    wanted.backward(retain_graph=True)
    assert made.grad is not None
    assert made.grad.abs().sum() > 0
    assert all(p.grad is None for p in discriminator.parameters())
    made.grad = None
    own.backward()
    assert made.grad is None
    assert all(p.grad is not None for p in discriminator.parameters())


def test_a_discriminator_learns_to_tell_blurred_from_sharp() -> None:
    torch.manual_seed(0)
    discriminator, truth = PatchDiscriminator(8, 2), _clip(4)
    made = torch.nn.functional.avg_pool2d(truth.flatten(0, 1), 3, 1, 1).view_as(truth)
    optimizer, losses = torch.optim.AdamW(discriminator.parameters(), 3e-3), []
    for _ in range(30):
        _, own = adversarial(discriminator, made, truth)
        optimizer.zero_grad()
        own.backward()
        optimizer.step()
        losses.append(own.item())
    assert losses[-1] < 0.3 * losses[0]
    assert discriminator(truth)[-1].mean() > discriminator(made)[-1].mean() + 1


def test_the_adaptive_weight_makes_both_pull_alike() -> None:
    last = torch.nn.Linear(4, 4)
    out = last(torch.ones(1, 4))
    recon, wanted = out.square().mean(), 50 * out.sum()
    scaled = adaptive(recon, wanted, last.weight) * wanted
    pulls = [torch.autograd.grad(loss, last.weight, retain_graph=True)[0].norm() for loss in (recon, scaled)]
    assert pulls[0].item() == pytest.approx(pulls[1].item(), rel=1e-3)


def test_every_loss_joins_in_and_the_discriminator_from_its_step_on(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"resolution": 16, "encoder_width": 16, "decoder_width": 16, "detail_width": 16}
    batch = {"frames": (_clip().movedim(2, -1) * 255).to(torch.uint8)}

    def loss(**weights: float) -> Tensor:
        torch.manual_seed(0)
        module = TokenizerModule(config, noise_steps=0, adversarial_start=1, **weights)  # type: ignore[arg-type]
        monkeypatch.setattr(TokenizerModule, "global_step", property(lambda self: step))
        return module.training_step(batch, 0)

    step = 0
    plain = loss()
    assert loss(laplacian_weight=1.0) > plain
    assert loss(worst_weight=1.0) > plain
    assert loss(adversarial_weight=0.1) == plain
    step = 1
    assert loss(adversarial_weight=0.1) != loss()


def test_lpips_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ValueError, match=r"pip install lpips .*or leave lpips_weight at 0"):
        TokenizerModule({"resolution": 16}, lpips_weight=1.0)


def test_bands_are_told_of_pictures_that_do_not_halve_evenly() -> None:
    assert laplacian(torch.rand(1, 2, 3, 36, 20)).isfinite()
