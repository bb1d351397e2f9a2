"""Codes find out what somebody did: a block that is pushed about, before a stripe that moves by itself."""

from __future__ import annotations

from functools import cache
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from train.modules.latent_actions import (
    LatentActionModule,
    LatentActions,
    Whitening,
    _without_cuts,
    compare,
    figures,
)

SIZE, BLOCK, PUSH, STRIDE = 24, 5, 3, 2
PUSHES = torch.tensor([[0, 0], [PUSH, 0], [-PUSH, 0], [0, PUSH], [0, -PUSH]])


def clips(rows: int, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """uint8 (rows, 1 + steps, SIZE, SIZE, 3), and what was done in each step, (rows, steps)."""
    chance = torch.Generator().manual_seed(seed)
    done = torch.randint(len(PUSHES), (rows, steps), generator=chance)
    at = [torch.randint(SIZE - BLOCK + 1, (rows, 2), generator=chance)]
    for step in range(steps):
        at.append((at[-1] + PUSHES[done[:, step]]).clamp(0, SIZE - BLOCK))
    edge = torch.stack(at, 1)
    stripe = torch.randint(SIZE - STRIDE * steps - 1, (rows, 1), generator=chance) + STRIDE * torch.arange(1 + steps)
    line = torch.arange(SIZE)
    inside = [(line >= edge[..., i : i + 1]) & (line < edge[..., i : i + 1] + BLOCK) for i in range(2)]
    block = (inside[0][..., :, None] & inside[1][..., None, :]).float()
    pictures = torch.stack([block, torch.zeros_like(block), torch.zeros_like(block)], -1)
    lit = (line >= stripe[..., None]) & (line < stripe[..., None] + 2)
    pictures[..., 1] = lit[..., None].float()
    return (255 * pictures).byte(), done


@cache
def trained(updates: int = 400) -> LatentActionModule:
    torch.manual_seed(0)
    module = LatentActionModule(width=32, depth=3, total_steps=updates)
    optimizer = torch.optim.AdamW(module.parameters(), 4e-3)
    with patch.object(module, "log_dict"), patch.object(module, "log"):
        for i in range(updates):
            with patch.object(LatentActionModule, "global_step", i):
                loss = module.training_step({"frames": clips(8, 4, i)[0]}, i)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return module.eval()


def test_codes_are_what_was_done_and_do_the_same_elsewhere() -> None:
    module = trained()
    frames, done = clips(48, 6, seed=1000)
    past, following = module.pairs(frames)
    compared = compare(module.model, past, following)
    after = done[:, 1:].flatten()  # of the first step there is no past of two pictures
    table = torch.zeros(module.model.num_codes, len(PUSHES)).index_put_(
        (compared.codes, after), torch.ones(len(after)), accumulate=True
    )
    assert table.amax(1).sum() / table.sum() > 0.7  # a third would be chance
    assert (table.sum(1) > 0).sum() >= len(PUSHES)
    assert compared.inferred > compared.shuffled + 3
    assert compared.agreement > 0.5


def test_a_code_that_says_nothing_of_actions_is_told_from_one_that_does() -> None:
    torch.manual_seed(0)
    model = LatentActions(width=16, depth=2).eval()
    past, following = LatentActionModule().pairs(clips(48, 6, seed=2)[0])
    compared = compare(model, past, following)
    assert abs(compared.inferred - compared.shuffled) < 1


@pytest.mark.parametrize("shared", [0.0, 0.999])
def test_whitened_bits_are_all_in_use_however_alike_their_channels_are(shared: float) -> None:
    torch.manual_seed(0)
    common = torch.randn(4096, 1)
    values = 5 + shared * common + (1 - shared**2) ** 0.5 * torch.randn(4096, 3)
    white = Whitening(3).train()(values)
    codes = ((white > 0).long() << torch.arange(3)).sum(1)
    assert figures(codes, 8)["codes_used"] == 8
    assert figures(codes, 8)["perplexity"] > 7
    settled = Whitening(3).eval()
    settled.settle(values)
    assert torch.allclose(settled(values), white, atol=1e-3)


def test_any_size_of_picture_is_taken() -> None:
    model = LatentActions(width=8, depth=1, patch=4)
    past, following = torch.rand(2, 2, 3, 21, 30), torch.rand(2, 3, 21, 30)
    digits, codes = model.infer(past, following)
    assert codes.shape == (2,)
    assert model.foresee(past, digits).shape == following.shape


def test_a_cut_is_no_action() -> None:
    past, following = LatentActionModule().pairs(clips(4, 4, seed=3)[0])
    following = following.clone()
    following[5] = 1 - past[5, -1]
    kept, after = _without_cuts(past, following)
    assert len(kept) == len(after) == len(past) - 1
    assert torch.equal(after, torch.cat([following[:5], following[6:]]))
    assert len(_without_cuts(past[5:6], following[5:6])[0]) == 1  # nothing else to learn from
