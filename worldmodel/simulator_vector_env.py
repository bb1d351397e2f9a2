"""A batch of imagined worlds to act in, as a Gymnasium vector environment: one model, one batch, rows of their own.

A row that ends begins anew while the others go on: it is merely born later in the same cache. When it does so is the
``autoreset_mode``. What is observed is a choice; everything else that the model knows stands in the infos.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate
from torch import Tensor

from worldmodel.beginning import Beginning
from worldmodel.rollout import Rollout, Snapshot, Step
from worldmodel.sampling import Sampling
from worldmodel.world import World

OBSERVATIONS = ("pixels", "state", "dict", "latent")
_OPTIONS = ("caption", "state", "frames", "hold", "limit", "reset_mask")

Starts = Sequence[Any] | np.ndarray | Tensor | Callable[[np.random.Generator], Any]


@dataclass(frozen=True)
class Moment:
    """All rows as they are at one moment. Give it to ``restore``. It holds no weights and may be pickled."""

    snapshot: Snapshot
    elapsed: np.ndarray
    ended: np.ndarray
    chances: list[np.random.Generator]


class SimulatorVectorEnv(VectorEnv[Any, Any, Any]):
    """``num_envs`` rollouts of a world model.

    Action: of the space that the world was recorded in (a world that nobody steers takes 0 and ignores it). Reward and
    termination are what the world has learned of them. Infos of every row: ``state`` float32 (num_values,) in the
    schema's units; ``caption``; after a step ``reward_mean`` and ``terminated_probability``, what was expected before
    ids were chosen; ``frames`` uint8 (r, H, W, 3), all pictures of the step, if it is drawn (a beginning stands still
    for r of them); ``doubt`` float32, if that was asked for (see ``Step``).

    Args:
        world: a bundled world's name (None: the default one), a world folder, a hub id, or a :class:`World`.
        engine: who computes steps (see ``World.from_pretrained``), unless ``world`` is a :class:`World`.
        caption: what every episode starts from unless ``reset``'s options say otherwise; sampled scenes if None.
        max_episode_steps: after so many steps an episode is truncated. ``gymnasium.make`` applies it by a wrapper.
        sampling: by default as the world was released.
        observation: ``pixels``, uint8 (H, W, 3), the last picture of a step; ``state``, float32 (num_values,), whose
            ``state_names`` and ``state_units`` the environment knows; ``dict`` of both; or ``latent``, float32
            (slots, width), what the transformer's last layer keeps of the step's action and state slots, and of its
            picture's where one is drawn.
        draw: whether pictures are made. By default where they are observed or needed. Without them a step is several
            times faster, the state goes exactly the same way, and ``render`` draws one when it is asked.
        frames: whether infos hold the pictures of a step.
        doubt: whether infos say how sure the model was.
        tensors: whether observations, rewards and ends are tensors on the world's device.
        device: where the world computes, unless ``world`` is a :class:`World`.
        starts: what episodes begin from: states (N, num_values), a sequence of ``reset``'s options, or a function of
            a NumPy generator that gives such options. Each episode takes one by chance; else scenes are sampled.
        autoreset_mode: NEXT_STEP, SAME_STEP (infos then hold ``final_obs`` and ``final_info``) or DISABLED.
        render_mode: None or ``rgb_array``.

    Raises ValueError when there is no such world, mode or observation, or no row.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        *,
        world: str | PathLike[str] | World | None = None,
        engine: str = "torch",
        caption: str | None = None,
        max_episode_steps: int | None = None,
        sampling: Sampling | None = None,
        observation: str = "pixels",
        draw: bool | None = None,
        frames: bool = True,
        doubt: bool = False,
        tensors: bool = False,
        device: str | torch.device | None = None,
        starts: Starts | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"a vector environment has at least one row, got num_envs={num_envs}")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps must be at least 1, got {max_episode_steps}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            known = ", ".join(self.metadata["render_modes"])
            raise ValueError(f"unknown render mode {render_mode!r}; choose {known}, or None")
        if observation not in OBSERVATIONS:
            raise ValueError(f"unknown observation {observation!r}; choose from {', '.join(OBSERVATIONS)}")
        if starts is not None and not callable(starts) and not len(starts):
            raise ValueError("starts is empty: give at least one, or None for scenes that the world samples")
        self.world = world if isinstance(world, World) else World.from_pretrained(world, engine=engine, device=device)  # type: ignore[arg-type]
        tokenizer, schema, dynamics = self.world.tokenizer, self.world.schema, self.world.dynamics
        if observation in ("state", "dict") and not schema.num_values:
            raise ValueError(f"this world has no state to observe: choose pixels or latent, not {observation}")
        seen = observation in ("pixels", "dict")
        if seen and draw is False:
            raise ValueError(f"{observation} are observed, so they are drawn: leave draw out")
        self.draw = (seen or not dynamics.simulates_alone) if draw is None else draw
        if not self.draw and not dynamics.simulates_alone:
            raise ValueError("this world's steps look at their pictures: it cannot go on without drawing them")
        self.num_envs, self.render_mode, self.caption = num_envs, render_mode, caption
        self.max_episode_steps, self.sampling = max_episode_steps, sampling or self.world.sampling
        self.observation, self.frames, self.doubt, self.tensors = observation, frames and self.draw, doubt, tensors
        self.starts, self.autoreset_mode = starts, AutoresetMode(autoreset_mode)
        fps = schema.fps / tokenizer.frames_per_step
        self.metadata = {**self.metadata, "render_fps": fps, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = self._observed_space()
        # A copy: a space holds the random numbers that it is sampled with, and the world may be shared.
        self.single_action_space = copy.deepcopy(self.world.actions.space) or gymnasium.spaces.Discrete(1)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rollout: Rollout | None = None
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._ended = np.zeros(num_envs, dtype=np.bool_)
        self._chances = [seeding.np_random()[0] for _ in range(num_envs)]  # draw the seeds of unseeded episodes

    @property
    def rollout(self) -> Rollout:
        """The running worlds. Raises ValueError before the first ``reset``."""
        if self._rollout is None:
            raise ValueError("no episode has begun: call reset() first")
        return self._rollout

    @property
    def ended(self) -> np.ndarray:
        """bool (B,): whose episode the last step ended."""
        return self._ended.copy()

    @property
    def state_names(self) -> tuple[str, ...]:
        """What each value of a state is, as ``player.position[0]``."""
        return self.world.schema.value_names

    @property
    def state_units(self) -> tuple[str, ...]:
        """The unit of each value of a state; empty where it has none."""
        return self.world.schema.value_units

    # -- Gymnasium's verbs --------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
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
        return self._observed(), _marked(self._told(), began)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Takes one action in every row. In a row that ended, an episode begins instead, where ``autoreset_mode`` is
        NEXT_STEP, and where it is DISABLED that is an error.

        ``actions`` is of ``action_space``, or a list with an action, or its name, for each row. Raises ValueError for
        an unknown action or a wrong number of them.
        """
        rollout, again = self.rollout, self._ended.copy()
        if again.any() and self.autoreset_mode is AutoresetMode.DISABLED:
            raise ValueError(f"rows {np.flatnonzero(again).tolist()} have ended: reset them with options['reset_mask']")
        rewards, device = torch.zeros(self.num_envs, dtype=torch.float64), self.world.device
        terminated = torch.zeros(self.num_envs, dtype=torch.bool)
        made: Step | None = None
        if not again.all():
            made = rollout.step(actions if self.world.actions else None)
            went = torch.from_numpy(~again)
            rewards[went], terminated[went] = made.reward.cpu().double()[went], made.terminated.cpu()[went]
            self._elapsed += 1
        if again.any():
            self._begin(np.flatnonzero(again).tolist(), [None] * self.num_envs, {})
        truncated = torch.zeros(self.num_envs, dtype=torch.bool)
        if self.max_episode_steps is not None:
            truncated = torch.from_numpy(self._elapsed >= self.max_episode_steps)
        self._ended = (terminated | truncated).numpy()
        everyone = np.ones(self.num_envs, dtype=np.bool_)
        if made is not None:
            for expected in (made.reward_mean, made.terminated_probability):
                expected.masked_fill_(torch.from_numpy(again).to(device), 0)
        observed, infos = self._observed(), _marked(self._told(made), everyone)
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._ended.any():
            over = self._ended.copy()
            final = np.empty(self.num_envs, dtype=object)
            for i, one in enumerate(iterate(self.observation_space, observed)):
                final[i] = one if over[i] else None
            last = {"final_obs": final, "_final_obs": over.copy(), "final_info": infos, "_final_info": over}
            self._begin(np.flatnonzero(over).tolist(), [None] * self.num_envs, {})
            observed, infos = self._observed(), _marked(self._told(made), everyone) | last
        if self.tensors:
            return observed, rewards.float().to(device), terminated.to(device), truncated.to(device), infos
        return observed, rewards.numpy(), terminated.numpy(), truncated.numpy(), infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The last picture of every row, uint8 (H, W, 3), in render mode ``rgb_array``."""
        return tuple(self.rollout.picture().cpu().numpy().copy()) if self.render_mode == "rgb_array" else None

    def close_extras(self, **kwargs: Any) -> None:
        self._rollout = None

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """What ``get_attr`` gives, called row by row: ``call("describe")``, ``call("edit", changes)``."""
        made = getattr(self, name)
        if not callable(made):
            return self.get_attr(name)
        return tuple(made(*args, **kwargs, row=row) for row in range(self.num_envs))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute, for every row. All rows share all but their spaces."""
        own = {"observation_space": "single_observation_space", "action_space": "single_action_space"}
        return (getattr(self, own.get(name, name)),) * self.num_envs

    def set_attr(self, name: str, values: Any) -> None:
        """Sets an attribute. Raises ValueError for one that is not there, or values that are not all the same."""
        each = list(values) if isinstance(values, list | tuple) else [values]
        if len(each) not in (1, self.num_envs) or any(value != each[0] for value in each):
            raise ValueError(f"all rows share {name}: give one value")
        if not hasattr(self, name):
            raise ValueError(f"there is no {name!r} to set")
        setattr(self, name, each[0])

    # -- what only a model can do -------------------------------------------------------------------

    def edit(self, changes: Mapping[str, Mapping[str, Any]], row: int | None = None) -> None:
        """Writes the scene state of every row, or of one: the next observations follow. See ``Rollout.edit``."""
        self.rollout.edit(changes, row)

    def tell(self, event: str, row: int | None = None) -> None:
        """Tells the next step of every row, or of one, what happens. See ``Rollout.tell``."""
        self.rollout.tell(event, row)

    def snapshot(self) -> Moment:
        """All rows as they are now, to come back to."""
        return Moment(self.rollout.snapshot(), self._elapsed.copy(), self._ended.copy(), copy.deepcopy(self._chances))

    def restore(self, moment: Moment, rows: Sequence[int] | None = None) -> None:
        """Goes back to a snapshot; the same actions then lead to the same again.

        That of one row goes into all of these; ``rows`` says for each of these which of the snapshot's it becomes.
        Raises ValueError for a snapshot of another world, or of another number of rows.
        """
        chosen = list(range(len(moment.elapsed)) if rows is None else rows)
        chosen = chosen * self.num_envs if rows is None and len(chosen) == 1 else chosen
        kept = moment.snapshot.of(self.world.parts, self.world.engine)
        if len(chosen) != self.num_envs or kept.draw != self.draw:
            made = f"of {len(chosen)} rows, {'' if kept.draw else 'not '}drawn"
            raise ValueError(f"this snapshot is {made}: these are {self.num_envs}, {'' if self.draw else 'not '}drawn")
        self._rollout = kept.fork(chosen)
        self._elapsed, self._ended = moment.elapsed[chosen], moment.ended[chosen]
        self._chances = [copy.deepcopy(moment.chances[i]) for i in chosen]

    def describe(self, row: int = 0) -> dict[str, dict[str, Any]]:
        """One row's scene state by entity and field."""
        return self.rollout.describe(row)

    # -- copies -------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rollout": None if self._rollout is None else self._rollout.snapshot()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        kept = state["_rollout"]
        self._rollout = None if kept is None else kept.of(self.world.parts, self.world.engine)

    # -- rows ---------------------------------------------------------------------------------------

    def _begin(self, rows: list[int], seeds: Sequence[int | None], options: Mapping[str, Any]) -> None:
        names = [name for name in _OPTIONS if name != "reset_mask"]
        given = {name: self._each(name, options.get(name)) for name in names}
        untold = not any(options.get(name) is not None for name in ("caption", "state", "frames"))
        chances, beginnings = copy.deepcopy(self._chances), []
        for row in rows:
            seed = seeds[row]
            if seed is None:
                seed = chances[row].integers(2**31)
            else:
                chances[row], _ = seeding.np_random(int(seed))
            told = {name: given[name][row] for name in names}
            if untold and self.starts is not None:
                told = {name: value for name, value in told.items() if value is not None} | self._start(chances[row])
            caption = told.pop("caption", None) or self.caption or ""
            beginnings.append(Beginning(caption=caption, seed=int(seed), **told))
        if len(rows) == self.num_envs:
            begun = Rollout(
                self.world.parts, self.world.engine, beginnings, self.sampling, draw=self.draw, doubt=self.doubt
            )
            self._rollout = begun
        else:
            self.rollout.reset_rows(rows, beginnings)
        self._chances = chances  # not before: a beginning that is refused changes nothing
        self._elapsed[rows], self._ended[rows] = 0, False

    def _start(self, chance: np.random.Generator) -> dict[str, Any]:
        """One of ``starts``, as options of a beginning."""
        assert self.starts is not None
        one = self.starts(chance) if callable(self.starts) else self.starts[int(chance.integers(len(self.starts)))]
        told = dict(one) if isinstance(one, Mapping) and set(one) <= set(_OPTIONS) else {"state": one}
        return {
            name: torch.as_tensor(value) if name in ("state", "frames") and not isinstance(value, Mapping) else value
            for name, value in told.items()
        }

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

    # -- what is seen -------------------------------------------------------------------------------

    def _observed_space(self) -> gymnasium.Space[Any]:
        height, width = self.world.tokenizer.size
        pixels = gymnasium.spaces.Box(0, 255, (height, width, 3), np.uint8)
        if self.observation == "pixels":
            return pixels
        if self.observation == "latent":
            layout = self.world.dynamics.layout
            slots = layout.num_settled + (layout.num_video if self.draw else 0)
            return gymnasium.spaces.Box(-np.inf, np.inf, (slots, self.world.dynamics.config.width), np.float32)
        low, high = self.world.schema.value_bounds
        state = gymnasium.spaces.Box(low, high, dtype=np.float32)
        return state if self.observation == "state" else gymnasium.spaces.Dict({"pixels": pixels, "state": state})

    def _observed(self) -> Any:
        rollout, kind = self.rollout, self.observation
        if kind == "latent":
            return self._out(rollout.latent)
        pixels = self._out(rollout.frames[:, -1]) if kind in ("pixels", "dict") else None
        if kind == "pixels":
            return pixels
        space = self.single_observation_space
        box = space["state"] if isinstance(space, gymnasium.spaces.Dict) else space
        assert isinstance(box, gymnasium.spaces.Box)
        low, high = (torch.from_numpy(end).to(rollout.state.device) for end in (box.low, box.high))
        state = self._out(torch.minimum(torch.maximum(rollout.state, low), high))
        return state if kind == "state" else {"pixels": pixels, "state": state}

    def _told(self, made: Step | None = None) -> dict[str, Any]:
        """What infos say of every row."""
        rollout, r = self.rollout, self.world.tokenizer.frames_per_step
        infos: dict[str, Any] = {"state": self._out(rollout.state)}
        if self.frames:  # a row at its beginning repeats its first picture
            shown = rollout.frames
            infos["frames"] = self._out(shown if shown.shape[1] == r else shown[:, -1:].expand(-1, r, -1, -1, -1))
        infos["caption"] = np.array(rollout.captions, dtype=object)
        if made is not None:
            infos["reward_mean"] = self._out(made.reward_mean)
            infos["terminated_probability"] = self._out(made.terminated_probability)
            if made.doubt is not None:
                infos["doubt"] = self._out(made.doubt)
        return infos

    def _out(self, x: Tensor) -> Any:
        return x.clone() if self.tensors else x.cpu().numpy().copy()


def _marked(infos: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Infos as a vector environment gives them: beside each, which rows it is of."""
    return infos | {f"_{name}": rows.copy() for name in infos}
