"""A world model as Stable-Baselines3's vectorised environment (Raffin et al. 2021, JMLR 22/268)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from torch import Tensor

from worldmodel.simulator_vector_env import SimulatorVectorEnv


class Scaled(BaseFeaturesExtractor):
    """A state (B, F) brought within -1 and 1 by the ends of its space, as a policy's features."""

    low: Tensor
    high: Tensor

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, int(np.prod(observation_space.shape)))
        self.register_buffer("low", torch.from_numpy(observation_space.low).flatten())
        self.register_buffer("high", torch.from_numpy(observation_space.high).flatten())

    def forward(self, observations: Tensor) -> Tensor:
        return 2 * (observations.flatten(1) - self.low) / (self.high - self.low).clamp_min(1e-6) - 1


class WorldVecEnv(VecEnv):
    """``num_envs`` rows of one batch; all other arguments are :class:`SimulatorVectorEnv`'s.

    A row that ends begins anew in the same step, and its info holds ``terminal_observation`` and
    ``TimeLimit.truncated``. Infos hold no pictures unless ``frames`` is asked for. What ``starts`` or the world itself
    samples is what episodes begin from. ``set_options`` takes ``SimulatorVectorEnv.reset``'s, for all rows.
    """

    def __init__(self, num_envs: int, *, frames: bool = False, **asked: Any) -> None:
        self.rows = SimulatorVectorEnv(num_envs, frames=frames, autoreset_mode=AutoresetMode.SAME_STEP, **asked)
        self._actions: Any = None
        super().__init__(num_envs, self.rows.single_observation_space, self.rows.single_action_space)

    def reset(self) -> VecEnvObs:
        options = next((given for given in self._options if given), {})
        observed, infos = self.rows.reset(seed=self._seeds, options=options)
        self.reset_infos = self._row_by_row(infos)
        self._reset_seeds()
        self._reset_options()
        return observed

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        observed, rewards, terminated, truncated, infos = self.rows.step(self._actions)
        final, last = infos.pop("final_obs", None), infos.pop("final_info", None)
        each = self._row_by_row(infos)
        for row in np.flatnonzero(terminated | truncated):
            assert final is not None
            each[row] = self._row_by_row(last)[row] | {
                "terminal_observation": final[row],
                "TimeLimit.truncated": bool(truncated[row] and not terminated[row]),
            }
        return observed, rewards.astype(np.float32), terminated | truncated, each

    def close(self) -> None:
        self.rows.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        return self.rows.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        values = self.rows.get_attr(attr_name)
        return [values[i] for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Of all rows at once, for they share it."""
        self.rows.set_attr(attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> Any:
        if method_name == "render":
            return list(self.get_images())
        method = getattr(self.rows, method_name)
        return [method(*method_args, **method_kwargs, row=i) for i in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]

    def _row_by_row(self, infos: dict[str, Any]) -> list[dict[str, Any]]:
        names = [name for name in infos if not name.startswith("_")]
        return [{name: infos[name][row] for name in names} for row in range(self.num_envs)]
