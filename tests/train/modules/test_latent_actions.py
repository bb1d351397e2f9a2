"""Codes find out what somebody did: a block that is pushed about, before a stripe that moves by itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from train.modules.latent_actions import (
    LatentActionModule,
    LatentActions,
    Whitening,
    compare,
    figures,
    moved,
    warp,
    without_cuts,
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


def looks(rows: int, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """As ``clips``, of somebody who looks about among walls that differ in every row: nothing stays where it was."""
    chance = torch.Generator().manual_seed(seed)
    done = torch.randint(3, (rows, steps), generator=chance)
    rough = torch.rand(rows, 3, SIZE // 4, 60, generator=chance)
    walls = F.interpolate(rough, (SIZE, 240), mode="bilinear", align_corners=True)
    at = 100 + torch.cat([torch.zeros(rows, 1, dtype=torch.long), 4 * (done - 1).cumsum(1)], 1)
    columns = at[..., None] + torch.arange(SIZE)  # (rows, 1 + steps, SIZE)
    seen = torch.stack([wall[:, :, where].permute(2, 1, 3, 0) for wall, where in zip(walls, columns)])
    return (255 * seen).byte(), done


@cache
def trained(make: Callable[[int, int, int], tuple[Tensor, Tensor]] = clips, updates: int = 600) -> LatentActionModule:
    torch.manual_seed(0)
    module = LatentActionModule(width=32, depth=3)
    optimizer = torch.optim.AdamW(module.parameters(), 4e-3)
    with patch.object(module, "log"):
        for i in range(updates):
            loss = module.training_step({"frames": make(24, 1, i)[0]}, i)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    module.model.settle(module.model.points(*module.pairs(make(512, 1, 999)[0])))
    return module.eval()


@pytest.mark.slow
def test_codes_are_what_was_done_and_do_the_same_elsewhere() -> None:
    module = trained()
    frames, done = clips(48, 6, seed=1000)
    last, following = module.pairs(frames)
    compared = compare(module.model, last, following)
    table = torch.zeros(module.model.num_codes, len(PUSHES)).index_put_(
        (compared.codes, done.flatten()), torch.ones(done.numel()), accumulate=True
    )
    assert table.amax(1).sum() / table.sum() > 0.7  # a third would be chance
    assert (table.sum(1) > 0).sum() >= len(PUSHES)
    assert compared.inferred > compared.shuffled + 3
    assert compared.agreement > 0.5


def test_codes_say_which_way_somebody_looks_whatever_there_is_to_see() -> None:
    module = trained(looks, 200)
    frames, done = looks(48, 6, seed=1000)
    codes = module.model.code(module.model.points(*module.pairs(frames)))
    table = torch.zeros(module.model.num_codes, 3).index_put_(
        (codes, done.flatten()), torch.ones(done.numel()), accumulate=True
    )
    assert table.amax(1).sum() / table.sum() > 0.9  # two fifths would be chance


def test_a_shift_is_found_wherever_it_is_and_undone() -> None:
    last = F.interpolate(torch.rand(2, 3, 12, 12), (36, 36), mode="bilinear")
    following = last.roll((-2, 4), (2, 3))  # two up, four to the right
    near = moved(last, following, 4)[:, :49].unflatten(1, (7, 7))[..., 3:6, 3:6]
    assert (near.flatten(1, 2).argmax(1) == 4 * 7 + 1).all()  # at half the size, one down and two to the left
    back = warp(last, torch.tensor([-4.0, 2.0])[:, None, None].expand(2, 2, 36, 36))
    assert torch.allclose(back[..., 4:-4, 4:-4], following[..., 4:-4, 4:-4], atol=1e-4)


def test_a_code_that_says_nothing_of_actions_is_told_from_one_that_does() -> None:
    torch.manual_seed(0)
    model = LatentActions(width=16, depth=2).eval()
    last, following = LatentActionModule().pairs(clips(48, 6, seed=2)[0])
    model.settle(model.points(last, following))
    compared = compare(model, last, following)
    assert abs(compared.inferred - compared.shuffled) < 1


def test_codes_are_found_the_same_again_and_leave_chance_alone() -> None:
    points, model = torch.randn(512, 2), LatentActions(width=8, depth=1).eval()
    model.settle(points)
    found, before = model.centres.clone(), torch.get_rng_state()
    model.settle(points)
    assert torch.equal(model.centres, found)
    assert torch.equal(torch.get_rng_state(), before)
    assert figures(model.code(points), 8)["codes_used"] == 8


@pytest.mark.parametrize("shared", [0.0, 0.999])
def test_whitened_numbers_all_say_something_however_alike_they_are(shared: float) -> None:
    torch.manual_seed(0)
    common = torch.randn(4096, 1)
    values = 5 + shared * common + (1 - shared**2) ** 0.5 * torch.randn(4096, 3)
    white = Whitening(3).train()(values)
    assert torch.allclose(white.T.cov(), torch.eye(3), atol=0.1)
    settled = Whitening(3).eval()
    settled.settle(values)
    assert torch.allclose(settled(values), white, atol=1e-3)


def test_any_size_of_picture_is_taken() -> None:
    model = LatentActions(width=8, depth=1, patch=4)
    last, following = torch.rand(2, 3, 21, 30), torch.rand(2, 3, 21, 30)
    points = model.points(last, following)
    assert model.code(points).shape == (2,)
    assert model.act(last, points).shape == following.shape


def test_a_cut_is_no_action() -> None:
    last, following = LatentActionModule().pairs(clips(4, 4, seed=3)[0])
    following = following.clone()
    following[5] = 1 - last[5]
    kept, after = without_cuts(last, following)
    assert len(kept) == len(after) == len(last) - 1
    assert torch.equal(after, torch.cat([following[:5], following[6:]]))
    assert len(without_cuts(last[5:6], following[5:6])[0]) == 1  # nothing else to learn from
    looking = LatentActionModule().pairs(looks(4, 4, seed=3)[0])
    assert len(without_cuts(*looking)[0]) == 16  # all that somebody does who looks about
