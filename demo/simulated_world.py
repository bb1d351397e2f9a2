"""A simulator in a model's place: on the page a person plays the real thing, and what is played is recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.data.episode_writer import EpisodeWriter, RecordingConfig
from train.worlds.contract import Simulator
from train.worlds.play import StepRecord, as_episode, check_action
from train.worlds.registry import recipe

MOST_STEPS = 512  # of an episode that is kept in memory
BY_HAND = "human"
_EVERY = 8  # of eight episodes one is for validation and one for tests


class SimulatedWorld:
    """What the page asks of a world, answered by a recipe's simulator, for one player at a time.

    Each episode becomes a shard of the recording in ``out`` when it ends, when another one is begun, and when the
    world is closed. One of more than ``most_steps`` is written in pieces, of which each begins with the last picture of
    the one before.

    Raises ValueError for an unknown world, and for a folder that holds something else.
    """

    def __init__(self, name: str, out: str | Path, *, most_steps: int = MOST_STEPS) -> None:
        self.recipe, self.most_steps = recipe(name), most_steps
        self.schema, self.actions, self.size = self.recipe.schema, self.recipe.schema.actions, self.recipe.sizes[0]
        about = dict(self.recipe.page)
        intro = f"The real thing, not a model of it. What you play is recorded into {out}."
        self.page = {"name": about.get("name", self.schema.name), "intro": intro, "keys": about.get("keys", {})}
        self.text = self.upsampler = None
        self.device, self.max_event = torch.device("cpu"), 0
        settings = {"world": name, "played": "by hand"}
        config = RecordingConfig(
            schema=self.schema, size=self.size, segmentation=self.recipe.segmented, settings=settings
        )
        self.writer = EpisodeWriter(out, config)
        self.writer.discard_unfinished()
        self.num_episodes = 0
        while self.writer.shard_episodes(self.num_episodes) is not None:
            self.num_episodes += 1
        self.num_steps = 0  # that were written since
        self._env: Simulator | None = None
        self._played: SimulatedRollout | None = None

    @property
    def env(self) -> Simulator:
        """Made by the thread that steps it: some draw with a context that belongs to one."""
        if self._env is None:
            self._env = self.recipe.make(self.size)
        return self._env

    def start(
        self, caption: None = None, *, seed: int = 0, state: Any = None, upsample: bool = False
    ) -> SimulatedRollout:
        """Begins an episode and writes the one before."""
        if state is not None:
            raise ValueError("The real world begins as its seed says: start it without a state.")
        self._write_played()
        self._played = SimulatedRollout(self, seed)
        return self._played

    def write(self, rollout: SimulatedRollout) -> None:
        """Writes what was played of an episode since it was written last."""
        if not rollout.actions:
            return
        number = self.num_episodes
        split = {1: "validation", 5: "test"}.get(number % _EVERY, "train")
        episode, frame_states = as_episode(
            self.recipe, rollout.records, rollout.actions, rollout.rewards, rollout.terminated, rollout.truncated,
            seed=rollout.seed, acting=BY_HAND,
        )  # fmt: skip
        with self.writer.shard(number) as shard:
            shard.add(number, episode, split, frame_states)
        self.writer.consolidate()
        self.num_episodes, self.num_steps = number + 1, self.num_steps + len(rollout.actions)
        rollout.forget()

    def close(self) -> str:
        """Writes the last episode. Returns what was recorded, in a sentence."""
        self._write_played()
        if self._env is not None:
            self._env.close()
            self._env = None
        path = self.writer.path
        return f"{path}: {self.num_episodes} episodes played by hand, {self.num_steps} steps of them now"

    def _write_played(self) -> None:
        if self._played is not None:
            self.write(self._played)
            self._played = None


@dataclass(frozen=True, kw_only=True)
class SimulatedStep:
    """As a model's step: frames uint8 (1, r, height, width, 3), state (1, num_values), reward and terminated (1,)."""

    frames: Tensor
    state: Tensor
    reward: Tensor
    terminated: Tensor
    upsampled: None = None


class SimulatedRollout:
    """An episode as it is played, and the next ones for a player who plays on. There is no way back, and no way to
    change it."""

    def __init__(self, world: SimulatedWorld, seed: int) -> None:
        self.world, self.time, self.upsample = world, 0, False
        self._begin(seed)

    def _begin(self, seed: int) -> None:
        observation, info = self.world.env.reset(seed=seed)
        self.seed = seed
        self.records = [StepRecord.of(self.world.recipe, self.world.size, observation, info, 1)]
        self.actions: list[Any] = []
        self.rewards: list[float] = []
        self.terminated = self.truncated = False

    @property
    def frames(self) -> Tensor:
        """The last step's, or the first picture."""
        return torch.from_numpy(self.records[-1].frames)[None]

    @property
    def state(self) -> Tensor:
        states = self.records[-1].states
        return torch.zeros(1, 0) if states is None else torch.from_numpy(np.asarray(states[-1:], np.float32))

    def step(self, action: Any) -> SimulatedStep:
        """After an end the next seed's episode begins. The page stops at a truncation as it does at an end."""
        world, recipe = self.world, self.world.recipe
        if self.terminated or self.truncated:
            self._begin(self.seed + 1)
        if len(self.actions) >= world.most_steps:
            world.write(self)
        check_action(recipe, world.env, action, BY_HAND)
        observation, reward, terminated, truncated, info = world.env.step(action)
        self.records.append(StepRecord.of(recipe, world.size, observation, info, recipe.schema.frames_per_step))
        self.actions.append(action)
        self.rewards.append(float(reward))
        self.terminated, self.truncated, self.time = bool(terminated), bool(truncated), self.time + 1
        over = self.terminated or self.truncated
        step = SimulatedStep(
            frames=self.frames, state=self.state, reward=torch.tensor([float(reward)]), terminated=torch.tensor([over])
        )
        if over:
            world.write(self)
        return step

    def forget(self) -> None:
        """Lets go of what was written; the last picture begins what follows."""
        last = self.records[-1]
        states = None if last.states is None else last.states[-1:]
        maps = None if last.segmentation is None else last.segmentation[-1:]
        self.records = [
            StepRecord(frames=last.frames[-1:], states=states, segmentation=maps, caption=last.caption, seen=last.seen)
        ]
        self.actions, self.rewards = [], []

    def snapshot(self) -> None:
        """Nothing that could be gone back to."""

    def restore(self, _: None) -> None:
        raise ValueError("The real world cannot go back: restart it.")

    def fork(self) -> SimulatedRollout:
        raise ValueError("The real world cannot be copied.")

    def edit(self, _: Mapping[str, Mapping[str, Any]]) -> None:
        raise ValueError("The real world is recorded as it is: its state cannot be written.")
