"""Worlds run beside recorded clips: begun where a clip ends, and run on its actions, on random ones, or on none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenizer.clip import Clip
from train.data.tokens import TokenisedEpisode
from worldmodel.rollout import Rollout
from worldmodel.sampling import Sampling
from worldmodel.world import World

ROWS = 16  # of a batch
CONTEXT = 4  # latent frames before the one at which something begins


@dataclass(frozen=True)
class RolloutRecord:
    """frames uint8 (B, T, r, H, W, 3); states (B, T, num_values); rewards float32 and ends bool (B, T)."""

    frames: Tensor
    states: Tensor
    rewards: Tensor
    ends: Tensor


def imagine(rollout: Rollout, actions: Tensor | Sequence[Any]) -> RolloutRecord:
    """Runs actions (B, T, A), or one for all rows for each step."""
    steps = [rollout.step(action) for action in (actions.unbind(1) if isinstance(actions, Tensor) else actions)]
    frames, states, rewards, ends = (
        torch.stack([getattr(step, name).cpu() for step in steps], 1)
        for name in ("frames", "state", "reward", "terminated")
    )
    return RolloutRecord(frames, states, rewards, ends)


def num_steps(episode: Clip, r: int) -> int:
    """Steps of ``r`` frames that follow its first frame."""
    return (len(episode.frames) - 1) // r


def prompt_steps(world: World, episode: Clip) -> int:
    """Steps that a rollout is shown before it begins. A state tells how things move; where there is none, one picture
    does not, so 4 steps do, or half of a short episode."""
    return 0 if world.schema.num_values else min(CONTEXT, num_steps(episode, world.tokenizer.frames_per_step) // 2)


def recorded_actions(world: World, clips: Sequence[Clip], steps: int) -> Tensor | list[None]:
    """(B, steps, A), filled up by the idle action where a clip ends earlier; None a step where nobody steers."""
    if not world.actions:
        return [None] * steps
    idle = world.actions.flatten(world.actions.idle())[None]
    given = [clip.actions for clip in clips if clip.actions is not None]
    assert len(given) == len(clips)
    return padded([np.concatenate([values, idle]) for values in given], steps)


def random_actions(world: World, rows: int, steps: int, generator: torch.Generator) -> Tensor | list[None]:
    """(rows, steps, A)"""
    return world.actions.sample(rows, steps, generator=generator) if world.actions else [None] * steps


def captions(world: World, episodes: Sequence[Clip]) -> list[str] | None:
    """The episodes' captions, without those too long for this world to read; None for a world that reads none."""
    if world.text is None:
        return None
    most = world.dynamics.layout.max_text
    return [e.caption if len(world.text.encode(e.caption)) <= most else "" for e in episodes]


def start(world: World, clips: Sequence[Clip], *, seed: int, sampling: Sampling, read: bool = False) -> Rollout:
    """Rollouts that go on where clips of one length end; their state is the true one, or ``read`` from the frames."""
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips]))
    states = None
    if not read and world.schema.num_values:
        states = torch.from_numpy(np.stack([clip.states[-1] for clip in clips if clip.states is not None]))
    return world.start(captions(world, clips), frames=frames, state=states, seed=seed, sampling=sampling)


def _values(world: World, episodes: Sequence[TokenisedEpisode], steps: int) -> Tensor | list[None]:
    """Raw values (B, steps, A) of actions that are kept as ids, the last one held."""
    if not world.actions:
        return [None] * steps
    ids = [e.actions.numpy() for e in episodes if e.actions is not None]
    return world.actions.ids_to_values(padded(ids, steps))


def foreseen_states(
    world: World, episodes: Sequence[TokenisedEpisode], *, horizon: int, seed: int, sampling: Sampling
) -> Tensor:
    """Free running on the actions of episodes of states alone, from their first states: (B, horizon, num_values)."""
    found = []
    for rows in in_batches(episodes):
        rollout = world.start(state=torch.stack([e.states[0] for e in rows]), seed=seed, sampling=sampling)
        found.append(imagine(rollout, _values(world, rows, horizon)).states)
    return torch.cat(found)


def padded(parts: Sequence[np.ndarray], length: int) -> Tensor:
    """Stacks arrays (n, ...), cut to ``length`` or filled up by their last element."""
    return torch.from_numpy(
        np.stack([np.concatenate([p[:length], p[-1:].repeat(max(0, length - len(p)), 0)]) for p in parts])
    )


def in_batches(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for begin in range(0, len(rows), ROWS):
        yield rows[begin : begin + ROWS]
