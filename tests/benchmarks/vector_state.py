"""How well a world keeps and shows a state that has no place in the picture: Pendulum's cosine, sine and velocity.

``python -m tests.benchmarks.vector_state --world W --recording R [--json FILE]``, where R is what
``python -m train.record --env Pendulum-v1 --state obs`` recorded and W was trained on.

``error``: over held-out episodes, by field, the mean distance from the truth after 16 free steps on the recorded
actions, as a share of the field's range in the recording. ``edits``: of 50 rollouts into which another angle and
velocity were written, in how many the next picture is nearer to the real one of where the written state leads than to
that of where the unwritten one does, over the pixels that are no background in either; ``edits_later`` likewise after
8 steps. ``edit_psnr`` is the next picture's over these pixels, and ``unedited_psnr`` what the other real picture gets.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenizer.clip import Clip, Episode
from train.data.episode_store import EpisodeStore
from train.measure.foreground import differ, median_picture
from train.measure.free_running import CONTEXT, imagine, start
from train.measure.metrics import decibels
from train.worlds.gym_world import GymSimulator, GymWorld
from worldmodel.world import World

HORIZON = 16
EDITS, LATER = 50, 8
LEAST = np.pi / 6  # by which a written angle differs from what was
FASTEST = 4.0  # radians a second
BARS = {"error": 0.05, "edits": 0.9}


def free_running_error(world: World, episodes: list[Episode]) -> dict[str, float]:
    """By field, after ``HORIZON`` steps, as a share of what was recorded of it."""
    seen = torch.cat([torch.from_numpy(_states(e)) for e in episodes])
    begins = range(CONTEXT, min(map(len, map(_states, episodes))) - HORIZON, HORIZON)
    errors = []
    for at in begins:
        rollout = start(world, [e.window(at - CONTEXT, CONTEXT) for e in episodes], seed=0, sampling=world.sampling)
        made = imagine(rollout, _actions(episodes, [at] * len(episodes), HORIZON)).states[:, -1]
        truth = torch.stack([torch.from_numpy(_states(e)[at + HORIZON]) for e in episodes])
        errors.append((made - truth).abs())
    share = torch.cat(errors).mean(0) / (seen.amax(0) - seen.amin(0))
    return dict(zip([f.name for f in world.schema.entities[0].fields], share.tolist(), strict=True))


def edits(world: World, env: GymSimulator, episodes: list[Episode], seed: int = 0) -> dict[str, float]:
    """Writes another angle and velocity, and compares pictures with the environment's own."""
    rng = np.random.default_rng(seed)
    chosen = [episodes[i] for i in rng.integers(len(episodes), size=EDITS)]
    begins = [int(rng.integers(CONTEXT, len(_states(e)) - LATER)) for e in chosen]
    clips = [e.window(at - CONTEXT, CONTEXT) for e, at in zip(chosen, begins, strict=True)]
    actions = _actions(chosen, begins, LATER)
    rollout = start(world, clips, seed=seed, sampling=world.sampling)
    fields, real = [f.name for f in world.schema.entities[0].fields], []
    for row, clip in enumerate(clips):
        was = _angle_and_velocity(clip)
        now = np.array([was[0] + rng.uniform(LEAST, 2 * np.pi - LEAST), rng.uniform(-FASTEST, FASTEST)])
        values = (float(np.cos(now[0])), float(np.sin(now[0])), float(now[1]))
        rollout.edit({world.schema.entities[0].name: dict(zip(fields, values, strict=True))}, row=row)
        real.append([_played(env, state, actions[row].numpy()) for state in (now, was)])
    made = imagine(rollout, actions).frames[:, :, -1]
    truth = torch.from_numpy(np.array(real))  # (rows, edited or not, steps, H, W, 3)
    median = median_picture(torch.from_numpy(np.concatenate([e.frames for e in episodes[:20]])))
    where = differ(truth, median).any(1)
    errors = torch.stack([_error(made, truth[:, i], where) for i in range(2)])  # (edited or not, rows, steps)
    nearer = (errors[0] < errors[1]).float().mean(0)
    other = _error(truth[:, 1], truth[:, 0], where)[:, 0].mean()
    return {
        "edits": float(nearer[0]),
        "edits_later": float(nearer[-1]),
        "edit_psnr": float(decibels(errors[0, :, 0].mean())),
        "unedited_psnr": float(decibels(other)),
    }


def _error(made: Tensor, truth: Tensor, where: Tensor) -> Tensor:
    """Mean squared error over the pixels ``where`` (..., H, W) of pictures (..., H, W, 3), in [0, 1]: (...)."""
    square = ((made.float() - truth.float()) / 255).square().mean(-1) * where
    return square.sum((-1, -2)) / where.sum((-1, -2)).clamp_min(1)


def _played(env: GymSimulator, state: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """What the environment shows after each action from an angle and a velocity on, (steps, H, W, 3)."""
    env.reset(seed=0)
    pendulum: Any = env.env.unwrapped
    pendulum.state = state.copy()
    return np.stack([env.step(action.astype(np.float32))[0] for action in actions])


def _angle_and_velocity(clip: Clip) -> np.ndarray:
    assert clip.states is not None
    cosine, sine, velocity = clip.states[-1]
    return np.array([np.arctan2(sine, cosine), velocity])


def _states(episode: Episode) -> np.ndarray:
    assert episode.states is not None
    return episode.states


def _actions(episodes: list[Episode], begins: list[int], count: int) -> Tensor:
    """(B, count, A), from a moment of each episode on."""
    found = [e.actions[at : at + count] for e, at in zip(episodes, begins, strict=True) if e.actions is not None]
    return torch.from_numpy(np.stack(found))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--world", required=True)
    parser.add_argument("--recording", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    described = GymWorld.load(asked.recording / "world.yaml")
    if described.env != "Pendulum-v1":
        print(f"error: {asked.recording} is of {described.env}: record --env Pendulum-v1 --state obs", file=sys.stderr)
        return 1
    world, store = World.from_pretrained(asked.world), EpisodeStore(asked.recording)
    episodes = [store.read(i) for split in ("validation", "test") for i in store.split(split)]
    env = described.simulator(store.size)
    numbers: dict[str, Any] = {"error": free_running_error(world, episodes), **edits(world, env, episodes)}
    env.close()
    for name, value in numbers.items():
        print(f"{name:14}", value if name != "error" else {k: f"{v:.2%}" for k, v in value.items()})
    good = max(numbers["error"].values()) <= BARS["error"] and numbers["edits"] >= BARS["edits"]
    print("reached" if good else "missed", f"error <= {BARS['error']:.0%}, edits >= {BARS['edits']:.0%}", sep=": ")
    if asked.json:
        asked.json.write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
