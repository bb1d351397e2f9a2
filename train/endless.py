"""What becomes of a world that is played for long, or left alone: ``endless`` in an evaluation.

Nothing real is left to compare with after a while, so pictures are judged by what they must keep: how sharp they are,
which colours they are made of, and that every body is still drawn where the state has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tokenizer.clip import Episode
from tokenizer.state_reader import StateReader
from train.measurements import Numbers, start
from train.metrics import laplacian_variance
from worldmodel.rollout import Rollout, Sampling
from worldmodel.world import World

MARKS = (16, 64, 256, 1024)  # steps
LEVELS = 4  # of each colour channel
HOLD = 8  # steps for which an action is held


def measure_endless(world: World, episodes: Sequence[Episode], *, steps: int, seed: int, sampling: Sampling) -> Numbers:
    """Rollouts from real first frames, with random actions (``moving``) and with none (``idle``), after 16, 64, 256 …

    ``sharpness``: variance of the Laplacian over that of the same episodes' real frames. ``palette``: share of pixels
    that real frames have in the same coarse colours. ``bodies_drawn``: share of bodies in the picture whose middle
    shows what it showed at first, rather than what is around it. ``bodies_constant``: share of rollouts with all so.
    """
    real = torch.cat([torch.from_numpy(episode.frames) for episode in episodes])
    sharp, palette = laplacian_variance(real).mean(), _palette(real)
    reader = StateReader(world.schema) if world.schema.view is not None else None
    generator = torch.Generator().manual_seed(seed)
    numbers: Numbers = {"rows": len(episodes), "steps": steps}
    for name in ("idle", "moving"):
        rollout = start(world, [e.window(0, 0) for e in episodes], seed=seed, sampling=sampling)
        first = None if reader is None else _middles(rollout, reader)
        action = torch.zeros(len(episodes), dtype=torch.long)
        for step in range(1, steps + 1):
            if name == "moving" and step % HOLD == 1:
                action = torch.randint(len(world.actions), (len(episodes),), generator=generator)
            frames = rollout.step(action).frames
            if step not in MARKS:
                continue
            numbers[f"{name}_sharpness_{step}"] = laplacian_variance(frames).mean() / sharp
            numbers[f"{name}_palette_{step}"] = torch.minimum(_palette(frames), palette).sum()
            if reader is None or first is None:
                continue
            (own, around, there), (middle, _, still) = first, _middles(rollout, reader)
            shown = (middle - own).square().sum(-1) < (middle - around).square().sum(-1)
            seen = there & still
            numbers[f"{name}_bodies_drawn_{step}"] = shown[seen].float().mean()
            numbers[f"{name}_bodies_constant_{step}"] = (shown | ~seen).all(1).float().mean()
    return numbers


def _palette(frames: Tensor) -> Tensor:
    """Shares of pixels (LEVELS ** 3,) by coarse colour."""
    coarse = (frames.long() * LEVELS // 256).flatten(0, -2)
    codes = (coarse * torch.tensor([LEVELS**2, LEVELS, 1])).sum(-1)
    return torch.bincount(codes, minlength=LEVELS**3) / len(codes)


def _middles(rollout: Rollout, reader: StateReader) -> tuple[Tensor, Tensor, Tensor]:
    """Colours (B, bodies, 3) at the middle of where each body is seen and on a ring around it, and which are there."""
    seen, (at, radius, _) = reader(rollout.state), reader.picture(rollout.state)
    picture = rollout.frames[:, -1].float()
    side = picture.shape[1]
    turns = torch.arange(8) * torch.pi / 4
    ring = at[:, :, None] + 1.8 * radius[..., None, None] * torch.stack([turns.cos(), turns.sin()], -1)
    rows = torch.arange(len(picture))[:, None]

    def colours(places: Tensor) -> Tensor:
        x, y = (places * side).long().clamp(0, side - 1).unbind(-1)
        return picture[rows.view(-1, *[1] * (x.dim() - 1)), y, x]

    inside = ((at > 0.05) & (at < 0.95)).all(-1)
    there = (seen.present > 0.5) & (seen.size > 0) & inside
    return colours(at), colours(ring).median(2).values, there
