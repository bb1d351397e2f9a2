"""A world folder as an environment of LeRobot's EnvHub: ``python -m worldmodel.adapters.envhub --world W``.

It writes ``env.py`` into the folder. Uploaded to the Hugging Face hub, the folder is a world, and an environment for
``lerobot.envs.factory.make_env("owner/name", n_envs=4, trust_remote_code=True)``, as LeRobot's page on environments
from the hub describes it: a function ``make_env`` that gives a Gymnasium vector environment. Pictures are ``pixels``
there and a state is ``agent_pos``.
"""

from __future__ import annotations

import argparse
import sys
from os import PathLike
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.vector import VectorObservationWrapper

from worldmodel import storage
from worldmodel.simulator_vector_env import SimulatorVectorEnv
from worldmodel.world import World

_FILE = '''"""This world as an environment. Made by ``python -m worldmodel.adapters.envhub``."""

from pathlib import Path

from worldmodel.adapters.envhub import Environment


def make_env(n_envs: int = 1, use_async_envs: bool = False) -> Environment:
    """``n_envs`` rows of one batch, in this process whatever ``use_async_envs`` says."""
    return Environment(n_envs, world=Path(__file__).parent)
'''


class Environment(VectorObservationWrapper):
    """:class:`SimulatorVectorEnv` with observations by LeRobot's names."""

    def __init__(self, n_envs: int = 1, *, world: str | PathLike[str] | World | None = None, **asked: Any) -> None:
        loaded = world if isinstance(world, World) else World.from_pretrained(world)  # type: ignore[arg-type]
        has_state = loaded.schema.num_values > 0
        observation = "dict" if has_state else "pixels"
        rows = SimulatorVectorEnv(n_envs, world=loaded, observation=observation, **asked)
        super().__init__(rows)
        for single in ("single_observation_space", "observation_space"):
            space = getattr(rows, single)
            members = {"pixels": space["pixels"], "agent_pos": space["state"]} if has_state else {"pixels": space}
            setattr(self, single, gymnasium.spaces.Dict(members))

    def observations(self, observations: Any) -> dict[str, Any]:
        if isinstance(observations, dict):
            return {"pixels": observations["pixels"], "agent_pos": observations["state"]}
        return {"pixels": observations}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m worldmodel.adapters.envhub", description=__doc__)
    parser.add_argument("--world", required=True, type=Path, help="a world folder")
    chosen = parser.parse_args(arguments)
    try:
        path = storage.find(chosen.world) / "env.py"
        path.write_text(_FILE, encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written to {path}: upload the folder, and LeRobot's make_env takes its name")
    return 0


if __name__ == "__main__":
    sys.exit(main())
