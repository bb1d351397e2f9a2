"""One imagined world to act in, as a Gymnasium environment: row 0 of a vector environment of one row."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import iterate

from worldmodel.rollout import Rollout
from worldmodel.simulator_vector_env import Moment, SimulatorVectorEnv
from worldmodel.window import Window
from worldmodel.world import World


class SimulatorEnv(gymnasium.Env[Any, Any]):
    """A world model as an environment; arguments, observations and infos are :class:`SimulatorVectorEnv`'s.

    Infos also hold ``scene``, the state by entity and field. There is one more render mode, ``human``: a window that
    shows every step (it needs pygame).
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"]}  # noqa: RUF012

    def __init__(
        self,
        *,
        world: str | PathLike[str] | World | None = None,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        **asked: Any,
    ) -> None:
        shown = "rgb_array" if render_mode == "human" else render_mode
        # Who ends an episode begins the next, by reset.
        asked |= {"autoreset_mode": AutoresetMode.DISABLED, "render_mode": shown}
        self.rows = SimulatorVectorEnv(1, world=world, max_episode_steps=max_episode_steps, **asked)
        self.world, self.render_mode = self.rows.world, render_mode
        self.metadata = {**self.metadata, "render_fps": self.rows.metadata["render_fps"]}
        self.observation_space = self.rows.single_observation_space
        self.action_space = self.rows.single_action_space
        self._window = Window(self.world.schema.name, self.metadata["render_fps"]) if render_mode == "human" else None

    @property
    def rollout(self) -> Rollout:
        """The running world, a batch of one."""
        return self.rows.rollout

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode. Options: ``caption``, ``state``, ``frames``, ``hold``, ``limit``.

        See ``SimulatorVectorEnv.reset``.
        """
        super().reset(seed=seed)
        observations, infos = self.rows.reset(seed=seed, options=options)
        self._show()
        return self._first(observations), self._info(infos)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes one action of ``action_space``, or its name.

        Raises ValueError for an unknown action, and when the episode has ended and was not reset.
        """
        if self.rows.ended[0]:
            raise ValueError("this episode has ended: call reset() to begin another")
        observations, rewards, terminated, truncated, infos = self.rows.step([action])
        self._show()
        ends = bool(terminated[0]), bool(truncated[0])
        return self._first(observations), float(rewards[0]), *ends, self._info(infos)

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The last picture, uint8 (H, W, 3), in render mode ``rgb_array``."""
        pictures = self.rows.render()
        return None if pictures is None or self._window is not None else pictures[0]

    def close(self) -> None:
        self.rows.close()
        if self._window is not None:
            self._window.close()

    def edit(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Writes the scene state; the next observation follows. See ``Rollout.edit``."""
        self.rows.edit(changes)

    def tell(self, event: str) -> None:
        """Tells the next step what happens. See ``Rollout.tell``."""
        self.rows.tell(event)

    def snapshot(self) -> Moment:
        """The episode as it is now, to come back to."""
        return self.rows.snapshot()

    def restore(self, moment: Moment) -> None:
        """Goes back to a snapshot; the same actions then lead to the same again."""
        self.rows.restore(moment)

    def _show(self) -> None:
        if self._window is not None:
            pictures = self.rows.render()
            assert pictures is not None
            self._window.show(pictures[0])

    def _first(self, observations: Any) -> Any:
        if self.rows.tensors:
            several = isinstance(observations, dict)
            return {name: one[0] for name, one in observations.items()} if several else observations[0]
        return next(iterate(self.rows.observation_space, observations))

    def _info(self, infos: dict[str, Any]) -> dict[str, Any]:
        return {name: infos[name][0] for name in infos if not name.startswith("_")} | {"scene": self.rows.describe()}
