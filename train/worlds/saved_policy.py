"""Who was trained plays: a policy that ``train.imagine`` saved acts in the simulator that a world was learned from."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from train.worlds.contract import Recipe, Simulator
from worldmodel import storage


class Shown:
    """A simulator that shows who plays it what a world shows: ``pixels`` and, where there is one, the ``state``."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    @property
    def observation_space(self) -> gymnasium.Space[Any]:
        return self.simulator.observation_space

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        return self.simulator.action_space

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        observed, info = self.simulator.reset(seed=seed)
        return observed, info | {"seen": shown(observed, info)}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observed, reward, terminated, truncated, info = self.simulator.step(action)
        return observed, float(reward), terminated, truncated, info | {"seen": shown(observed, info)}

    def close(self) -> None:
        self.simulator.close()


def shown(observed: Any, info: dict[str, Any]) -> dict[str, Any]:
    """The last picture of a step as ``pixels``, and its ``state``, where there is one."""
    seen = {"pixels": info["frames"][-1] if "frames" in info else np.asarray(observed)}
    return seen | ({"state": np.asarray(info["state"], dtype=np.float32)} if "state" in info else {})


class SavedPolicy:
    """Draws actions as a saved policy does, from what :class:`Shown` tells."""

    def __init__(self, path: str | Path, seed: int) -> None:
        self.policy = _loaded(str(path))
        torch.manual_seed(seed)  # by which Stable-Baselines3 draws

    def __call__(self, seen: dict[str, Any]) -> Any:
        space = self.policy.observation_space
        if isinstance(space, gymnasium.spaces.Dict):
            given: Any = {name: _within(seen[name], space[name]) for name in space}
        else:
            given = _within(seen["pixels" if len(space.shape) == 3 else "state"], space)
        return self.policy.predict(given, deterministic=False)[0]


def _within(value: np.ndarray, space: Any) -> np.ndarray:
    return value if value.dtype == np.uint8 else np.clip(value, space.low, space.high)


@cache
def _loaded(path: str) -> Any:
    try:
        from stable_baselines3 import PPO
    except ImportError as error:
        raise ImportError("policies need Stable-Baselines3: pip install -c constraints.txt -e '.[sb3]'") from error
    try:
        return PPO.load(path, device="cpu")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} holds no policy ({error}): train one with python -m train.imagine") from None


def digest(path: Path) -> str:
    """Raises ValueError where there is no such file."""
    if not path.is_file():
        raise ValueError(f"there is no policy {path}: train one with python -m train.imagine --out")
    return storage.digest(path)[:16]


def played_by(found: Recipe, path: str | Path) -> Recipe:
    """The same world, played by a saved policy alone."""

    def behaviour(_: str, rng: np.random.Generator) -> SavedPolicy:
        return SavedPolicy(path, int(rng.integers(2**31)))

    return replace(
        found, make=lambda size: Shown(found.make(size)), shares={str(path): 1.0}, behaviour=behaviour
    )  # fmt: skip
