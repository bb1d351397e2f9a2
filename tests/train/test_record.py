"""What is recorded of worlds that lack parts, and what is refused rather than rounded, squashed or dropped."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from tokenizer.action_space import ActionSpace
from tokenizer.clip import Episode
from train.data.episode_store import EpisodeStore
from train.imagine import Original
from train.record import main, parse_size
from train.worlds.contract import Recipe
from train.worlds.held_out import held_out, held_out_states, version
from train.worlds.play import draw_episode, play_episode, simulate_episode
from train.worlds.saved_policy import played_by

from ..worldmodel.tiny_world import tiny_world


def played(world: Recipe, steps: int = 30, acting: str = "any") -> Episode:
    with closing(world.make(world.sizes[0])) as env:
        return play_episode(world, env, 3, acting, steps, world.sizes[0])[0]


def test_a_world_of_pictures_alone_has_pictures_alone(pond: Any) -> None:
    episode = played(pond.FILM, steps=10)
    assert episode.frames.shape == (11, 16, 24, 3)
    assert (episode.actions, episode.states, episode.caption, episode.segmentation) == (None, None, "", None)
    assert episode.rewards is not None
    assert set(episode.rewards.tolist()) <= {0.0, 0.5}
    assert episode.terminated is not None
    assert not episode.terminated.any()


def test_truncation_ends_an_episode_and_is_not_termination(pond: Any) -> None:
    episode = played(pond.FILM, steps=50)
    assert episode.num_steps == 24
    assert episode.truncated
    assert episode.terminated is not None
    assert not episode.terminated.any()
    assert not played(pond.FILM, steps=10).truncated


def test_actions_of_numbers_are_kept_as_they_were_given(pond: Any) -> None:
    episode = played(pond.TILLER)
    assert episode.actions is not None
    assert (episode.actions.dtype, episode.actions.shape) == (np.float32, (24, 2))
    assert np.abs(episode.actions - np.round(episode.actions)).max() > 0.01


def test_a_schema_that_tells_of_reward_and_end_has_no_columns_beside_it(pond: Any) -> None:
    episode = played(pond.RECIPE)
    assert (episode.rewards, episode.terminated) == (None, None)
    assert episode.states is not None
    assert episode.states.shape == (1 + episode.num_steps, 7)


@pytest.mark.parametrize("action", [1.5, np.float32(1), 3, "left", np.array([1])])
def test_an_action_outside_the_space_is_refused_and_not_rounded(pond: Any, action: Any) -> None:
    world = replace(pond.RECIPE, behaviour=lambda name, rng: lambda state: action)
    with pytest.raises(ValueError, match=r"which is not in Discrete\(3\): return an action of the space"):
        played(world)


def test_a_float64_action_is_refused_where_float32_is_kept(pond: Any) -> None:
    world = replace(pond.TILLER, shares={"any": 1.0}, behaviour=lambda name, rng: lambda seen: np.array([0.1, 0.2]))
    with pytest.raises(ValueError, match=r"which is not in Box"):
        played(world)


def test_pictures_of_another_size_are_refused(pond: Any) -> None:
    world = replace(pond.FILM, make=lambda size: pond.Film((16, 16)))
    with pytest.raises(ValueError, match=r"film: frames after reset have the shape \(1, 16, 24, 3\), got \(1, 16, 16"):
        played(world)


def test_several_frames_a_step_must_all_be_given(pond: Any) -> None:
    world = replace(pond.FILM, schema=replace(pond.FILM.schema, frames_per_step=4))
    with pytest.raises(ValueError, match=r"frames_per_step is 4: give every pixel frame .* or set frames_per_step=1"):
        played(world)


def test_policies_of_a_world_without_states_see_its_pictures(pond: Any) -> None:
    seen = []
    steered = replace(
        pond.FILM,
        schema=replace(pond.FILM.schema, actions=ActionSpace(pond.tiller(), bins=5)),
        make=lambda size: pond.Film(size, pond.tiller()),
        shares={"look": 1.0},
        behaviour=lambda name, rng: lambda view: seen.append(view) or np.zeros(2, np.float32),
    )
    played(steered, steps=2, acting="look")
    assert [view.shape for view in seen] == [(16, 24, 3)] * 2


def test_states_alone_are_those_that_come_with_pictures(pond: Any) -> None:
    alone, episode = simulate_episode(pond.RECIPE, 3, "any", 30, "test"), played(pond.RECIPE)
    assert alone.states is not None
    np.testing.assert_array_equal(alone.states.numpy(), episode.states)
    with pytest.raises(ValueError, match="'film' has no states to simulate alone: record it with its pictures"):
        simulate_episode(pond.FILM, 3, "random", 5, "test")


def test_sizes_are_given_as_one_number_or_two() -> None:
    assert (parse_size("64"), parse_size("64x112")) == ((64, 64), (64, 112))
    with pytest.raises(ValueError, match="HEIGHTxWIDTH, as 64 or 64x112, not '64,112'"):
        parse_size("64,112")


def test_a_world_of_pictures_is_recorded_and_read_again(
    pond: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--episodes", "3", "--steps", "5", "--workers", "1"]
    assert main(["--world", "pond:FILM", "--out", str(tmp_path / "film"), "--resolution", "16x24", *given]) == 0
    store = EpisodeStore(tmp_path / "film")
    assert store.settings["world"] == "pond:FILM"
    assert store.size == (16, 24)
    assert store.read(2).frames.shape == (6, 16, 24, 3)
    assert store.read(2).actions is None
    assert main(["--world", "pond:FILM", "--out", str(tmp_path / "other"), "--resolution", "24", *given]) == 1
    assert "resolution 24x24 is not drawn by pond:FILM: choose 16x24" in capsys.readouterr().err
    assert main(["--world", "ponds", "--out", str(tmp_path / "other"), *given]) == 1
    assert "did you mean pond?" in capsys.readouterr().err


def test_held_out_episodes_come_from_any_worlds_simulator(pond: Any, tmp_path: Path) -> None:
    store = held_out("pond:RECIPE", pond.RECIPE, 3, num_steps=3, folder=tmp_path)
    assert store.path.name.startswith("held-out-pond-RECIPE-3-")
    assert len(store.split("test")) == 4
    assert len(held_out_states(pond.RECIPE, 2, num_steps=3)) == 2
    assert (
        version(pond.RECIPE) == version(pond.RECIPE) != version(replace(pond.RECIPE, folder=None, make=gymnasium.Env))
    )


def test_what_a_worker_refuses_ends_the_command_with_its_sentence(
    pond: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--episodes", "1", "--workers", "1", "--out", str(tmp_path / "sloppy")]
    assert main(["--world", "pond:SLOPPY", *given]) == 1
    assert "did 0.5, which is not in Discrete(3)" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.part"))


def test_a_policy_that_was_trained_plays_and_each_episode_is_its_seeds(
    pond: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = pytest.importorskip("stable_baselines3")
    world = tiny_world(pond.RECIPE.schema, words=False)
    env = Original(world, pond.RECIPE, "state", limit=5)
    library.PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu").save(tmp_path / "policy.zip")
    path = tmp_path / "policy.zip"
    told = ["--world", "pond:RECIPE", "--policy", str(path), "--steps", "5", "--workers", "1"]
    assert main([*told, "--episodes", "3", "--out", str(tmp_path / "played")]) == 0
    kept, again = EpisodeStore(tmp_path / "played").read(2), played_by(pond.RECIPE, path)
    with closing(again.make(again.sizes[0])) as simulator:
        episode, _ = play_episode(again, simulator, *draw_episode(again, 0, 2), 5, again.sizes[0])
    np.testing.assert_array_equal(kept.frames, episode.frames)
    np.testing.assert_array_equal(kept.actions, episode.actions)
    assert kept.behaviour == str(path)
    assert main([*told[:3], str(tmp_path / "none.zip"), "--out", str(tmp_path / "third")]) == 1
    assert "train one with python -m train.imagine" in capsys.readouterr().err
