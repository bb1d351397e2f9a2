"""Whether actions do anything: what is seen after one is held, beside what chance alone makes of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tokenizer.action_space import ActionSpace
from tokenizer.clip import Episode
from train.measure.foreground import differ
from train.measure.free_running import num_steps, prompt_steps, start
from worldmodel.sampling import Sampling
from worldmodel.world import World

HOLD = 8  # steps for which an action is held
MOST = 8  # values that are tried of a part, and parts
OTHER_DRAW = 10_000  # added to the seed


def held_actions(space: ActionSpace) -> dict[str, dict[str, np.ndarray]]:
    """Values (A,) to hold, by name, for each part: its choices one by one, or its lowest and its highest level. The
    other parts do least. Of many choices some are taken, from end to end."""
    idle = np.array([part.idle for part in space.parts], dtype=space.dtype)
    held = {}
    for column, part in list(enumerate(space.parts))[:MOST]:
        ids = np.linspace(0, part.size - 1, 2 if part.kind == "binned" else min(part.size, MOST)).round().astype(int)
        named = {}
        for value in part.decode(ids).tolist():
            named[part.label(value)] = values = idle.copy()
            values[column] = value
        if len(named) > 1:
            held[part.name] = named
    return held


def action_sensitivity(world: World, episodes: Sequence[Episode], *, seed: int, sampling: Sampling) -> dict[str, float]:
    """For each action how much of what is seen depends on it; 1 is nothing.

    From the middle of each episode every action is held for 8 steps, in two draws. ``between`` counts the pixels of the
    last picture that differ from those of the part's other actions in the other draw, ``within`` those that differ
    from the same action's: the figure is (1 + between) / (1 + within). A quantity has one, of its ends.
    """
    r = world.tokenizer.frames_per_step
    shown = [prompt_steps(world, episode) for episode in episodes]
    middle = [
        episode.window(num_steps(episode, r) // 2 - n, n)
        for episode, n in zip(episodes, shown, strict=True)
        if n == max(shown)
    ]
    draws = [start(world, middle, seed=seed + more, sampling=sampling) for more in (0, OTHER_DRAW)]

    def seen(values: np.ndarray) -> list[Tensor]:
        """The last picture of each draw, (B, H, W, 3)."""
        shown = []
        for draw in draws:
            rollout = draw.fork()
            for _ in range(HOLD):
                rollout.step(torch.from_numpy(values)[None].expand(len(middle), -1))
            shown.append(rollout.frames[:, -1].cpu())
        return shown

    def pixels(a: Tensor, b: Tensor) -> float:
        return differ(a, b).double().sum((-2, -1)).mean().item()

    found: dict[str, float] = {}
    held = held_actions(world.actions)
    for name, named in held.items():
        pictures = {label: seen(values) for label, values in named.items()}
        spread = {label: pixels(*both) for label, both in pictures.items()}
        for label, (one, two) in pictures.items():
            others = [other for other in pictures if other != label]
            between = sum(pixels(one, pictures[o][1]) + pixels(two, pictures[o][0]) for o in others) / len(others) / 2
            within = spread[label] / 2 + sum(spread[o] for o in others) / len(others) / 2
            key = name if world.actions.part(name).kind == "binned" else label
            found[key if key == name or len(held) == 1 else f"{name} {label}"] = (1 + between) / (1 + within)
    return found
