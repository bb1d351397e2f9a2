"""What becomes of a world that is played for long, or left alone: ``endless`` in an evaluation.

After a while no recording says what should be seen. So pictures are held against what the simulator shows of the same
states, where there is one and it takes them, and every body must still be drawn where the state has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenizer.clip import Episode
from tokenizer.scene import StateReader
from train.measure.free_running import random_actions, start
from train.measure.measurement import Numbers
from train.measure.metrics import laplacian_variance, psnr
from worldmodel.rollout import Rollout
from worldmodel.sampling import Sampling
from worldmodel.world import World

MARKS = (16, 64, 256, 1024)  # steps
RECENT = 8  # steps up to a mark that are looked at
LEVELS = 4  # of each colour channel
COMPARED = ("psnr_db", "sharpness", "palette")
ALONE = ("idle", "moving")
HOLD = 8  # steps for which an action is held

Renderer = Callable[[Tensor], Tensor | None]


def measure_endless(
    world: World,
    episodes: Sequence[Episode],
    *,
    steps: int,
    seed: int,
    sampling: Sampling,
    render: Renderer | None = None,
) -> Numbers:
    """Rollouts from real first frames, with random actions (``moving``) and with none (``idle``), up to 16, 64, 256 …
    steps.

    ``render`` gives the simulator's picture (H, W, 3) of a state (num_values,), or None where it cannot be. Of eight
    steps up to the mark, ``plausible`` is the share of states that can be; over these, ``psnr_db`` against the
    simulator's pictures, ``sharpness``: variance of the Laplacian over theirs, and ``palette``: share of pixels that
    both have in the same coarse colours (see ``palette``). ``bodies_drawn``: share of bodies in the picture whose
    colour is nearer to what it was at first than to what is around it; ``bodies_constant``: share of rollouts with
    all so.
    """
    reader = StateReader(world.schema) if world.schema.view is not None else None
    generator = torch.Generator().manual_seed(seed)
    numbers: Numbers = {"rows": len(episodes), "steps": steps}
    for name in ALONE:
        rollout = start(world, [e.window(0, 0) for e in episodes], seed=seed, sampling=sampling)
        first = None if reader is None else body_colours(rollout, reader)
        pairs = []
        for step, action in enumerate(actions_alone(world, name, len(episodes), steps, generator), 1):
            made = rollout.step(action)
            mark = next((mark for mark in MARKS if mark - RECENT < step <= mark), None)
            if mark is not None and render is not None:
                pairs += [(made.frames[row, -1], render(made.state[row])) for row in range(len(episodes))]
            if step != mark:
                continue
            if render is not None:
                taken = [pair for pair in pairs if pair[1] is not None]
                numbers[f"{name}_plausible_{mark}"] = len(taken) / len(pairs)
                for key, value in (_compared(taken) if taken else dict.fromkeys(COMPARED)).items():
                    numbers[f"{name}_{key}_{mark}"] = value
                pairs = []
            if reader is not None and first is not None:
                (own, around, there), (now, _, still) = first, body_colours(rollout, reader)
                shown = (now - own).square().sum(-1) < (now - around).square().sum(-1)
                seen = there & still
                numbers[f"{name}_bodies_drawn_{mark}"] = shown[seen].float().mean()
                numbers[f"{name}_bodies_constant_{mark}"] = (shown | ~seen).all(1).float().mean()
    return numbers


def actions_alone(
    world: World, name: str, rows: int, steps: int, generator: torch.Generator
) -> Iterator[Tensor | Any | None]:
    """What is done in each step: nothing, where the name is ``idle``, else random actions, each held for a while."""
    action = world.actions.idle()
    for step in range(steps):
        if name == "moving" and step % HOLD == 0:
            drawn = random_actions(world, rows, 1, generator)
            action = drawn[:, 0] if isinstance(drawn, Tensor) else None
        yield action


def _compared(pairs: Sequence[tuple[Tensor, Tensor | None]]) -> dict[str, Tensor]:
    """Pictures (H, W, 3) held against the simulator's."""
    ours, real = (torch.stack(list(pictures)) for pictures in zip(*pairs, strict=True))
    sharpness = laplacian_variance(ours).mean() / laplacian_variance(real).mean()
    colours = torch.minimum(palette(ours), palette(real)).sum()
    return dict(zip(COMPARED, (psnr(ours, real).mean(), sharpness, colours), strict=True))


def palette(frames: Tensor) -> Tensor:
    """Shares of pixels (LEVELS ** 3,) by coarse colour; a pixel between two levels of a channel counts for both, so
    that a shade that hardly differs hardly counts."""
    at = frames.flatten(0, -2) / 255 * (LEVELS - 1)
    below = at.floor().clamp_max(LEVELS - 2)
    above, counts = at - below, torch.zeros(LEVELS**3, dtype=torch.float64)  # ones are lost beyond 2^24
    for corner in torch.cartesian_prod(*[torch.arange(2)] * 3):
        share = torch.where(corner == 1, above, 1 - above).prod(-1)
        code = ((below.long() + corner) * torch.tensor([LEVELS**2, LEVELS, 1])).sum(-1)
        counts.index_add_(0, code, share.double())
    return counts / len(at)


def body_colours(rollout: Rollout, reader: StateReader) -> tuple[Tensor, Tensor, Tensor]:
    """Colours (B, bodies, 3) of each body and of a ring around it, and which bodies are there. Medians, for one of them
    bears a mark, and of unit length, for lights turn and cameras too."""
    seen, (at, radius, _) = reader(rollout.state), reader.picture(rollout.state)
    picture = rollout.frames[:, -1].float()
    size, turns = torch.tensor(picture.shape[1:3]).flip(0), torch.arange(8) * torch.pi / 4
    ring = radius[..., None, None] * torch.stack([turns.cos(), turns.sin()], -1)
    rows = torch.arange(len(picture))[:, None, None]

    def colours(places: Tensor) -> Tensor:
        x, y = (places * size).long().clamp(torch.zeros(2, dtype=torch.long), size - 1).unbind(-1)
        return F.normalize(picture[rows, y, x].median(2).values, dim=-1)

    inside = ((at > 0.05) & (at < 0.95)).all(-1)
    there = (seen.present > 0.5) & (seen.size > 0) & inside
    own = torch.cat([at[:, :, None] + share * ring for share in (0.3, 0.6, 0.9)], 2)
    return colours(own), colours(at[:, :, None] + 1.8 * ring), there
