"""A world model as a batched TorchRL environment: tensors in and out, on the world's device (arXiv:2306.00577)."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.envs import EnvBase
from torchrl.envs.libs.gym import _gym_to_torchrl_spec_transform as spec_of

from worldmodel.simulator_vector_env import SimulatorVectorEnv


class WorldEnv(EnvBase):
    """``num_envs`` rows of one batch, or one environment without a batch if None.

    All other arguments are :class:`SimulatorVectorEnv`'s. The tensordict holds the observation under its name
    (``pixels``, ``state``, ``latent``, or both of a ``dict``), ``reward``, ``done``, ``terminated`` and ``truncated``.
    Rows begin anew by a partial reset, as TorchRL's collectors ask for it.
    """

    def __init__(self, num_envs: int | None = None, **asked: Any) -> None:
        self._asked_rows = num_envs
        rows = SimulatorVectorEnv(
            num_envs or 1, frames=False, tensors=True, autoreset_mode=AutoresetMode.DISABLED, **asked
        )
        batch = torch.Size([] if num_envs is None else [num_envs])
        super().__init__(device=rows.world.device, batch_size=batch)
        self.rows = rows
        kind, space = rows.observation, rows.single_observation_space if num_envs is None else rows.observation_space
        observed = {kind: space} if kind != "dict" else dict(space.spaces)  # type: ignore[attr-defined]
        self.observation_spec = Composite(
            {name: self._spec(one) for name, one in observed.items()}, shape=batch, device=self.device
        )
        acted = rows.single_action_space if num_envs is None else rows.action_space
        self.action_spec = self._spec(acted)
        self.reward_spec = Unbounded(shape=torch.Size([*batch, 1]), dtype=torch.float32, device=self.device)
        flag = Categorical(2, shape=torch.Size([*batch, 1]), dtype=torch.bool, device=self.device)
        self.done_spec = Composite(
            {name: flag.clone() for name in ("done", "terminated", "truncated")}, shape=batch, device=self.device
        )

    def _spec(self, space: Any) -> Any:
        return spec_of(space, device=self.device, categorical_action_encoding=True)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        options = dict(kwargs.get("options") or {})
        if mask is not None and not bool(mask.all()):
            options["reset_mask"] = mask.reshape(-1).cpu().numpy()
        seeds, self._seeds = getattr(self, "_seeds", None), None
        observed, _ = self.rows.reset(seed=seeds, options=options)
        ended = torch.from_numpy(self.rows.ended).to(self.device)
        flags = dict.fromkeys(("done", "terminated"), ended) | {"truncated": torch.zeros_like(ended)}
        return self._told(observed, flags)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = tensordict.get(self.action_key)
        observed, reward, terminated, truncated, _ = self.rows.step(
            action[None] if self._asked_rows is None else action
        )
        flags = {"done": terminated | truncated, "terminated": terminated, "truncated": truncated}
        return self._told(observed, flags | {"reward": reward})

    def _told(self, observed: Any, columns: dict[str, torch.Tensor]) -> TensorDictBase:
        seen = observed if isinstance(observed, dict) else {self.rows.observation: observed}
        told = seen | {name: column[:, None] for name, column in columns.items()}
        if self._asked_rows is None:
            told = {name: value[0] for name, value in told.items()}
        return TensorDict(told, batch_size=self.batch_size, device=self.device)

    def _set_seed(self, seed: int | None) -> None:
        self._seeds = seed
