"""A batch of imagined worlds to act in, as a Gymnasium vector environment: one model, one batch, rows of their own.

A row that ends begins anew with the next step (``AutoresetMode.NEXT_STEP``), while the others go on: it is
merely born later in the same cache. The observation is the last picture of a step; everything else that the
model knows stands in the infos.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from worldmodel.beginning import Beginning
from worldmodel.rollout import Rollout, Snapshot
from worldmodel.sampling import Sampling
from worldmodel.world import World

RENDER_MODES = ["rgb_array"]
_OPTIONS = ("caption", "state", "frames", "hold", "limit", "reset_mask")


@dataclass(frozen=True)
class Moment:
    """All rows as they are at one moment. Opaque: give it to ``restore``."""

    snapshot: Snapshot
    pictures: Tensor
    elapsed: np.ndarray
    ended: np.ndarray
    chances: list[np.random.Generator]


class SimulatorVectorEnv(VectorEnv[np.ndarray, Any, np.ndarray]):
    """``num_envs`` rollouts of a world model.

    Observation: uint8 (H, W, 3), the last picture of a step. Action: of the space that the world was recorded in (a
    world that nobody steers takes 0 and ignores it). Reward and termination are read from the scene state. Infos of
    every row: ``frames`` uint8 (r, H, W, 3), all pictures of the step (a beginning stands still for r of them);
    ``state`` float32 (num_values,) in the schema's units; ``caption``.

    Args:
        world: a bundled world's name (None: the default one), a world folder, a hub id, or a :class:`World`.
        engine: who computes steps (see ``World.from_pretrained``), unless ``world`` is a :class:`World`.
        caption: what every episode starts from unless ``reset``'s options say otherwise; sampled scenes if None.
        max_episode_steps: after so many steps an episode is truncated. ``gymnasium.make`` applies it by a wrapper.
        sampling: by default as the world was released.
        render_mode: None or ``rgb_array``.

    Raises ValueError when there is no such world or render mode, or no row.
    """

    metadata: dict[str, Any] = {"render_modes": RENDER_MODES, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        *,
        world: str | PathLike[str] | World | None = None,
        engine: str = "torch",
        caption: str | None = None,
        max_episode_steps: int | None = None,
        sampling: Sampling | None = None,
        render_mode: str | None = None,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"a vector environment has at least one row, got num_envs={num_envs}")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps must be at least 1, got {max_episode_steps}")
        if render_mode not in (None, *RENDER_MODES):
            raise ValueError(f"unknown render mode {render_mode!r}; choose rgb_array, or None")
        self.world = world if isinstance(world, World) else World.from_pretrained(world, engine=engine)  # type: ignore[arg-type]
        self.num_envs, self.render_mode, self.caption = num_envs, render_mode, caption
        self.max_episode_steps, self.sampling = max_episode_steps, sampling or self.world.sampling
        tokenizer, schema = self.world.tokenizer, self.world.schema
        self.metadata = {**self.metadata, "render_fps": schema.fps / tokenizer.frames_per_step}
        height, width = tokenizer.size
        self.single_observation_space = gymnasium.spaces.Box(0, 255, (height, width, 3), np.uint8)
        # A copy: a space holds the random numbers that it is sampled with, and the world may be shared.
        self.single_action_space = copy.deepcopy(self.world.actions.space) or gymnasium.spaces.Discrete(1)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rollout: Rollout | None = None
        # The last step's pictures of every row, (B, r, H, W, 3); a row at its beginning repeats its first one.
        self._pictures = torch.zeros(num_envs, tokenizer.frames_per_step, height, width, 3, dtype=torch.uint8)
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._ended = np.zeros(num_envs, dtype=np.bool_)
        self._chances = [seeding.np_random()[0] for _ in range(num_envs)]  # draw the seeds of unseeded episodes

    @property
    def rollout(self) -> Rollout:
        """The running worlds. Raises ValueError before the first ``reset``."""
        if self._rollout is None:
            raise ValueError("no episode has begun: call reset() first")
        return self._rollout

    # -- Gymnasium's verbs --------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins episodes in all rows, or in those of ``options["reset_mask"]`` (bool (B,)) while the others stay.

        Args:
            seed: row i takes ``seed + i``, or its own of a list; the same as ``World.start``'s. Rows without one
                draw the seeds of their episodes from their last.
            options: ``caption`` (one, or a list), ``state`` (an edit, or values (num_values,)), ``frames``
                uint8 (1 + r * n, H, W, 3): what to begin from, each one for all rows or one for each. ``hold`` and
                ``limit``, likewise: what the episode keeps to, its first state included. See ``Rollout.hold``.

        Raises ValueError for unknown options and for whatever ``World.start`` refuses.
        """
        options = dict(options or {})
        unknown = [name for name in options if name not in _OPTIONS]
        if unknown:
            raise ValueError(f"unknown reset option {unknown[0]!r}; there are {', '.join(_OPTIONS)}")
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int | np.integer) else seed
        seeds = [None] * self.num_envs if seeds is None else list(seeds)
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} rows: give one for all, or one for each")
        mask = options.get("reset_mask")
        if mask is not None and (np.shape(mask) != (self.num_envs,) or np.asarray(mask).dtype != np.bool_):
            raise ValueError(f"reset_mask must be a bool array of shape ({self.num_envs},), true where a row begins")
        rows = list(range(self.num_envs)) if mask is None else np.flatnonzero(mask).tolist()
        if rows:
            self._begin(rows, seeds, options)
        began = np.isin(np.arange(self.num_envs), rows)
        return self._observation(), self._infos(began)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes one action in every row; in a row that ended the action is ignored and an episode begins.

        ``actions`` is of ``action_space``, or a list with an action, or its name, for each row. Raises ValueError for
        an unknown action or a wrong number of them.
        """
        rollout, again = self.rollout, self._ended
        rewards = np.zeros(self.num_envs, dtype=np.float64)
        terminated = np.zeros(self.num_envs, dtype=np.bool_)
        if not again.all():
            step = rollout.step(actions if self.world.actions else None)
            self._pictures = step.frames
            rewards[~again] = step.reward.cpu().numpy()[~again]
            terminated[~again] = step.terminated.cpu().numpy()[~again]
            self._elapsed += 1
        if again.any():
            self._begin(np.flatnonzero(again).tolist(), [None] * self.num_envs, {})
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        if self.max_episode_steps is not None:
            truncated = self._elapsed >= self.max_episode_steps
        self._ended = terminated | truncated
        everyone = np.ones(self.num_envs, dtype=np.bool_)
        return self._observation(), rewards, terminated, truncated, self._infos(everyone)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The last picture of every row, uint8 (H, W, 3), in render mode ``rgb_array``."""
        return tuple(self._observation()) if self.render_mode == "rgb_array" else None

    def close_extras(self, **kwargs: Any) -> None:
        self._rollout = None

    # -- what only a model can do -------------------------------------------------------------------

    def edit(self, changes: Mapping[str, Mapping[str, Any]], row: int | None = None) -> None:
        """Writes the scene state of every row, or of one: the next observations follow. See ``Rollout.edit``."""
        self.rollout.edit(changes, row)

    def tell(self, event: str, row: int | None = None) -> None:
        """Tells the next step of every row, or of one, what happens. See ``Rollout.tell``."""
        self.rollout.tell(event, row)

    def snapshot(self) -> Moment:
        """All rows as they are now, to come back to."""
        own = self._pictures.clone(), self._elapsed.copy(), self._ended.copy(), copy.deepcopy(self._chances)
        return Moment(self.rollout.snapshot(), *own)

    def restore(self, moment: Moment) -> None:
        """Goes back to a snapshot; the same actions then lead to the same again."""
        self.rollout.restore(moment.snapshot)
        self._pictures = moment.pictures.clone()
        self._elapsed, self._ended = moment.elapsed.copy(), moment.ended.copy()
        self._chances = copy.deepcopy(moment.chances)

    def describe(self, row: int = 0) -> dict[str, dict[str, Any]]:
        """One row's scene state by entity and field."""
        return self.rollout.describe(row)

    # -- rows ---------------------------------------------------------------------------------------

    def _begin(self, rows: list[int], seeds: Sequence[int | None], options: Mapping[str, Any]) -> None:
        given = {name: self._each(name, options.get(name)) for name in _OPTIONS if name != "reset_mask"}
        chances, beginnings = copy.deepcopy(self._chances), []
        for row in rows:
            seed = seeds[row]
            if seed is None:
                seed = chances[row].integers(2**31)
            else:
                chances[row], _ = seeding.np_random(int(seed))
            beginnings.append(
                Beginning(
                    caption=given["caption"][row] or self.caption or "",
                    seed=int(seed),
                    state=given["state"][row],
                    frames=given["frames"][row],
                    hold=given["hold"][row],
                    limit=given["limit"][row],
                )
            )
        if len(rows) == self.num_envs:
            self._rollout = Rollout(self.world.parts, self.world.engine, beginnings, self.sampling)
        else:
            self.rollout.reset_rows(rows, beginnings)
        self._chances = chances  # not before: a beginning that is refused changes nothing
        pictures = self._pictures.to(self.world.device, copy=True)
        pictures[rows] = self.rollout.frames[rows, -1:]
        self._pictures = pictures
        self._elapsed[rows], self._ended[rows] = 0, False

    def _each(self, name: str, given: Any) -> list[Any]:
        """An option for each row: itself, or its own of a sequence or a batch."""
        if given is None or isinstance(given, str | Mapping):
            return [given] * self.num_envs
        if name == "frames" or (name == "state" and not all(isinstance(part, Mapping) for part in given)):
            given = torch.as_tensor(given)
            if given.dim() == (1 if name == "state" else 4):
                return [given] * self.num_envs
        if len(given) != self.num_envs:
            raise ValueError(f"{len(given)} {name}s for {self.num_envs} rows: give one for all, or one for each")
        return list(given)

    def _observation(self) -> np.ndarray:
        return self._pictures[:, -1].cpu().numpy().copy()

    def _infos(self, rows: np.ndarray) -> dict[str, Any]:
        infos = {
            "frames": self._pictures.cpu().numpy().copy(),
            "state": self.rollout.state.cpu().numpy().copy(),
            "caption": np.array(self.rollout.captions, dtype=object),
        }
        return infos | {f"_{name}": rows.copy() for name in infos}
