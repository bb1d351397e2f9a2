"""The model as the environments of Stable-Baselines3, TorchRL and LeRobot, by those packages' own checks."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldmodel.adapters import envhub
from worldmodel.simulator_env import SimulatorEnv
from worldmodel.simulator_vector_env import SimulatorVectorEnv

from .tiny_world import PLANE, STATELESS, tiny_world

WORLD, MORTAL = tiny_world(), tiny_world(end=1 / 8)


# -- Stable-Baselines3 ------------------------------------------------------------------------------


@pytest.mark.parametrize("observation", ["pixels", "state", "dict"])
def test_stable_baselines3_accepts_the_single_environment(observation: str):
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.env_checker import check_env

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(smaller than 36|minimal resolution|symmetric).*")
        check_env(SimulatorEnv(world=WORLD, observation=observation, max_episode_steps=20))


def test_stable_baselines3_learns_in_a_batch_and_sees_how_episodes_end():
    pytest.importorskip("stable_baselines3")
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecMonitor

    from worldmodel.adapters.sb3 import WorldVecEnv

    envs = WorldVecEnv(4, world=MORTAL, observation="state", max_episode_steps=6)
    envs.seed(3)
    first: Any = envs.reset()
    assert np.array_equal(first, SimulatorVectorEnv(4, world=MORTAL, observation="state").reset(seed=3)[0])
    over: list[dict[str, Any]] = []
    for _ in range(12):
        observed: Any
        observed, rewards, done, infos = envs.step(np.zeros(4, dtype=int))
        assert rewards.dtype == np.float32
        over += [info for info, ended in zip(infos, done) if ended]
        for row in np.flatnonzero(done):
            assert (infos[row]["terminal_observation"] != observed[row]).any()
    assert {info["TimeLimit.truncated"] for info in over} == {True, False}
    assert all("frames" not in info for info in over)
    policy = PPO("MlpPolicy", VecMonitor(envs), n_steps=8, batch_size=16, n_epochs=1, device="cpu", seed=0)
    policy.learn(64)
    assert policy.num_timesteps == 64
    assert envs.env_method("describe", indices=[1])[0] == envs.rows.describe(1)
    assert len(envs.get_attr("observation_space", [0, 2])) == 2


# -- TorchRL ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [None, 3])
@pytest.mark.parametrize("observation", ["pixels", "state", "dict", "latent"])
def test_torchrl_finds_the_specs_true(rows: int | None, observation: str):
    pytest.importorskip("torchrl")
    from torchrl.envs.utils import check_env_specs

    from worldmodel.adapters.torchrl import WorldEnv

    check_env_specs(WorldEnv(rows, world=MORTAL, observation=observation, max_episode_steps=5))


def test_torchrl_resets_the_rows_that_ended_alone():
    pytest.importorskip("torchrl")
    from worldmodel.adapters.torchrl import WorldEnv

    env = WorldEnv(4, world=MORTAL, observation="state", max_episode_steps=6)
    env.set_seed(2)
    went = env.rollout(15, break_when_any_done=False)
    done = went["next", "done"][..., 0]
    assert done.any(1).all()
    starts, ends = went["state"][:, 1:], went["next", "state"][:, :-1]
    assert torch.equal(starts[~done[:, :-1]], ends[~done[:, :-1]])
    assert not torch.equal(starts[done[:, :-1]], ends[done[:, :-1]])
    env.set_seed(2)
    assert torch.equal(env.rollout(4, break_when_any_done=False)["state"][:, 0], went["state"][:, 0])


# -- LeRobot ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [PLANE, STATELESS], ids=["state", "pictures"])
def test_a_world_folder_becomes_an_environment_of_the_hub(tmp_path: Path, schema: Any, capsys: Any):
    tiny_world(schema).save_pretrained(tmp_path)
    assert envhub.main(["--world", str(tmp_path)]) == 0
    spec = importlib.util.spec_from_file_location("env", tmp_path / "env.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    envs = module.make_env(n_envs=2, use_async_envs=False)
    observed, _ = envs.reset(seed=1)
    assert set(observed) == ({"pixels", "agent_pos"} if schema is PLANE else {"pixels"})
    assert envs.observation_space.contains(observed)
    assert envs.step(envs.action_space.sample())[0]["pixels"].shape == (2, 16, 16, 3)
    assert envhub.main(["--world", str(tmp_path / "nothing")]) == 1
    assert "no world at" in capsys.readouterr().err
