"""A policy is trained inside a world and measured outside of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from train.data.episode_store import EpisodeStore
from train.data.tokens import TokenStore
from train.imagine import HELD_OUT, Original, learned_from, main, measured
from train.make import main as make

from ..worldmodel.tiny_world import STATELESS, tiny_world


def test_every_held_out_seed_is_played_once_and_wins_are_counted(pond: Any) -> None:
    begun: Counter[int] = Counter()

    class Noted(pond.Pond):  # type: ignore[name-defined]
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            assert seed is not None
            begun[seed] += 1
            return super().reset(seed=seed)

    home = measured(lambda seen: [2] * len(seen), Noted, episodes=11, rows=4)
    assert begun == Counter(range(HELD_OUT, HELD_OUT + 11))
    assert (home.success, home.reward, home.episodes) == (1.0, 1.0, 11)
    assert home.length < 20
    away = measured(lambda seen: [1] * len(seen), pond.Pond, episodes=11, rows=4)
    assert away.success < 0.5


@pytest.mark.parametrize("observation", ["pixels", "state", "dict"])
def test_the_original_is_seen_as_the_world_is(pond: Any, observation: str) -> None:
    world = tiny_world(pond.RECIPE.schema, words=False)
    env = Original(world, pond.RECIPE, observation, limit=3)
    seen, _ = env.reset(seed=1)
    assert env.observation_space.contains(seen)
    ends = [env.step(np.int64(0))[2:4] for _ in range(3)]
    assert ends[-1] == (False, True)
    assert not any(truncated for _, truncated in ends[:-1])


def test_a_policy_learns_inside_and_is_measured_outside(pond: Any, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("stable_baselines3")
    tiny_world(pond.RECIPE.schema, words=False).save_pretrained(tmp_path / "world")
    given = ["--world", str(tmp_path / "world"), "--env", "pond:RECIPE", "--episodes", "3", "--limit", "6"]
    out = tmp_path / "policy"
    told = [*given, "--out", str(out), "--steps", "64", "--rows", "4", "--compare", "--json", str(tmp_path / "s.json")]
    assert main(told) == 0
    scores = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert list(scores) == ["imagined, seed 0", "real, seed 0", "by chance"]
    assert scores["imagined, seed 0"]["imagined_steps"] == scores["real, seed 0"]["real_steps"] == 64
    assert scores["imagined, seed 0"]["real_steps"] == 0
    assert main([*given, "--policy", f"{out}_0.zip"]) == 0
    assert f"{out}_0.zip"[-22:] in capsys.readouterr().out


@pytest.mark.slow
def test_world_and_policy_learn_in_turns(pond: Any, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("stable_baselines3")
    out, policy = tmp_path / "world", tmp_path / "policy"
    assert make(["--world", "pond:TILLER", "--size", "tiny", "--out", str(out)]) == 0
    told = ["--world", str(out), "--out", str(policy), "--steps", "64", "--rows", "4", "--episodes", "3"]
    told += ["--limit", "6", "--iterate", "1", "--collect", "16", "--updates", "10", "--json", str(tmp_path / "s.json")]
    assert main(told) == 0
    scores = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert list(scores) == ["round 0", "round 1", "by chance"]
    assert scores["round 1"]["real_steps"] > scores["round 0"]["real_steps"] > 0
    before, after = (load_file(path / "dynamics.safetensors") for path in (out, out / "making/rounds/1/world"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    tokens = TokenStore(out / "making/rounds/1/tokens")
    assert len(tokens.index) == len(TokenStore(out / "making/tokens").index) + 16
    assert EpisodeStore(out / "making/rounds/1/recording").read(0).behaviour == f"{policy}_round0.zip"
    capsys.readouterr()
    assert main(told) == 0
    assert "record, round 1: done already" in capsys.readouterr().out


def test_a_world_of_nobody_knows_what_asks_for_its_environment(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(ValueError, match="name it by --env"):
        learned_from(tiny_world(STATELESS))
    assert main(["--world", str(tmp_path)]) == 1
    assert "no world at" in capsys.readouterr().err
