"""Gymnasium environments of every kind become worlds that are recorded alike."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from demo.controls import Controls
from tokenizer.clip import Episode
from train.check_world import faults
from train.data.episode_store import EpisodeStore
from train.record import main
from train.worlds.gym_world import GymWorld
from train.worlds.play import draw_episode, play_episode
from train.worlds.registry import recipe

OUTSIDE = Path(__file__).parents[2] / "outside_world"
TOYS = ("Toy", "Rig", "Brief", "Chatty", "Planes", "Grey", "Skipping")


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(OUTSIDE))
    yield __import__("toys")
    sys.modules.pop("toys")
    for name in [name for name, spec in gymnasium.registry.items() if str(spec.entry_point).startswith("toys:")]:
        gymnasium.registry.pop(name)


def toy(kind: str = "Toy", **asked: Any) -> GymWorld:
    return GymWorld.look(f"toys:{kind}-v0", **asked)


def played(world: GymWorld, acting: str = "random", steps: int = 30, seed: int = 3) -> Episode:
    made, size = world.recipe(), (world.size[0], world.size[1])
    with closing(made.make(size)) as env:
        return play_episode(made, env, seed, acting, steps, size)[0]


# -- what is found --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TOYS)
def test_an_environment_is_a_world_that_holds_to_the_contract(kind: str) -> None:
    assert faults(toy(kind, state="auto").recipe()) == []


def test_what_was_found_is_said_in_sentences() -> None:
    pictures, actions, player, state = toy().said()
    assert pictures == (
        "toys:Toy-v0: pictures from the observation, 32x32, 10 frames a second, one frame a step; reward and end are "
        "recorded"
    )
    assert actions == "actions: Discrete(2), action: 0 left, 1 right"
    assert player.startswith("who plays holds an action with a chance of 0.9 a step")
    assert state == "no state is recorded: pictures alone"
    assert any("most episodes end within 2 steps" in sentence for sentence in toy("Brief").said())
    *_, count, x = toy(state="auto").said()
    assert count == "a state of 1 value, from info:x"
    assert x.startswith("x: a whole number")


def test_actions_are_the_environments_own() -> None:
    for kind in ("Toy", "Rig"):
        with toy(kind).opened() as env:
            assert toy(kind).recipe().schema.actions.space == env.action_space
    rig = toy("Rig").recipe().schema.actions
    assert [part.name for part in rig.parts] == ["gear", "push.0", "push.1", "horn"]
    assert rig.part("gear").start == 1
    assert toy().recipe().schema.actions.parts[0].names == ("left", "right")


def test_arrow_keys_are_for_choices_that_mean_them() -> None:
    page = toy().recipe().page
    assert page["keys"]["left"] == {"keys": ["ArrowLeft"], "sign": "←", "place": "left"}
    assert page["name"] == "Toy-v0"
    assert toy("Rig").recipe().page["keys"] == {}
    world = toy()
    tools = replace(world, schema=dict(world.schema) | {"actions": ["pickup", "drop", "toggle", "forward", "done"]})
    assert {name: key["keys"] for name, key in tools.recipe().page["keys"].items()} == {
        "pickup": ["KeyP"], "drop": ["KeyX"], "toggle": ["Space"], "forward": ["ArrowUp"], "done": [],
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["Planes", "Grey"])
def test_pictures_of_other_layouts_are_shown_as_they_are(kind: str) -> None:
    np.testing.assert_array_equal(played(toy(kind)).frames, played(toy()).frames)


def test_a_mission_is_the_caption_and_keys_of_the_observation_are_the_state() -> None:
    world = toy("Rig", state="auto")
    assert (world.pixels, world.state) == ("image", "obs:place")
    episode = played(world)
    assert episode.caption == "go east"
    assert episode.states is not None
    assert episode.states[:, 1].tolist() == list(range(episode.num_steps + 1))
    assert [field.name for field in world.recipe().schema.entities[0].fields] == ["place.0", "place.1"]


def test_a_chosen_size_is_kept() -> None:
    assert tuple(toy(size=(16, 24)).size) == (16, 24)
    assert played(toy(size=(16, 24))).frames.shape[1:] == (16, 24, 3)


@pytest.mark.parametrize(
    ("kind", "asked", "sentence"),
    [
        ("Broken", {}, r"toys:Broken-v0 failed in a step with [01] \(IndexError: the axle broke\)"),
        ("Still", {}, "shows the same picture whatever is done: there is nothing to learn"),
        ("Silent", {}, "gives no picture by 'render', but NoneType: choose --pixels"),
        ("Worded", {}, "a Text space has no fixed number of ids"),
        ("Toy", {"env_args": {"wheels": 3}}, "does not take .*wheels"),
        ("Toy", {"policy": "clever"}, "unknown policy 'clever': choose sticky, random, or my_module:act"),
        ("Toy", {"policy": "toys:go_west"}, "there is no policy toys:go_west .*: name it as my_module:act"),
        ("Toy", {"state": "info:about"}, "has no numbers under info:about: there is x, about"),
        ("Toy", {"state": "ram"}, "--state ram is for Atari's games"),
        ("Toy", {"state": "all"}, "--state all is unknown: choose none, auto"),
        ("Toy", {"pixels": "image"}, "gives no picture by 'image'"),
        ("Toy", {"frame_skip": 0}, "frame_skip is 0: it is a whole number, at least 1"),
        ("Toy", {"size": (16, 20)}, "size 16x20 is no multiple of 8: choose 16x16"),
        ("Top", {}, "Gymnasium knows no toys:Top-v0"),
    ],
)
def test_what_makes_no_world_is_refused_in_a_sentence(kind: str, asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=sentence) as refused:
        toy(kind, **asked)
    assert "\n" not in str(refused.value)


def test_a_module_that_is_not_there_is_asked_for() -> None:
    with pytest.raises(ImportError, match="no_such_toys:Toy-v0 needs the module no_such_toys: install it"):
        GymWorld.look("no_such_toys:Toy-v0")


def test_an_environment_that_prints_is_not_heard(capfd: pytest.CaptureFixture[str]) -> None:
    played(toy("Chatty"))
    assert capfd.readouterr() == ("", "")


# -- its file -------------------------------------------------------------------------------------------


def test_a_world_is_saved_and_loaded(tmp_path: Path) -> None:
    world = toy("Rig", state="auto", frame_skip=2)
    world.save(tmp_path / "rig.yaml")
    loaded = recipe(str(tmp_path / "rig.yaml"))
    assert loaded.schema == world.recipe().schema
    assert loaded.source == world.recipe().source
    assert GymWorld.load(tmp_path / "rig.yaml").said() == world.said()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("fps: 10", "fsp: 10", "has an unknown fsp: it may say env, env_args"),
        ("size:\n- 32", "size:\n- 65", "size 65x32 is no multiple of 8"),
        ("size:\n- 32\n- 32", "size: 32", "size is 32"),
        ("env: toys:Toy-v0", "", "names no environment: it needs a line 'env: ID'"),
        ("env: toys:Toy-v0", "env: [toys", "is no YAML"),
        ("policy: sticky", "policy: clever", "unknown policy 'clever': choose sticky, random, or my_module:act"),
        ("stickiness: 0.9", "stickiness: often", "stickiness is 'often'"),
        ("frame_skip: 1", "frame_skip: 0", "frame_skip is 0"),
        ("frame_skip: 1", "frame_skip: 2", "frame_skip is 2, but the schema's frames_per_step is 1"),
        ("fps: 10\npixels", "fps: 12\npixels", "fps is 12, but the schema's fps is 10"),
        ("resize: every 1st pixel", "resize: magic", "resize 'magic' is unknown"),
        ("state: none", "state: all", "state all is unknown"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    path = tmp_path / "toy.yaml"
    toy().save(path)
    written = path.read_text(encoding="utf-8")
    assert old in written
    path.write_text(written.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=sentence) as refused:
        recipe(str(path))
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_missed() -> None:
    with pytest.raises(ValueError, match=r"there is no nowhere\.yaml: name the environment with --env"):
        GymWorld.load("nowhere.yaml")


# -- what is recorded -----------------------------------------------------------------------------------


def test_a_skip_records_every_frame_and_sums_the_reward() -> None:
    world = toy("Skipping", state="auto")
    assert (world.frame_skip, dict(world.env_args)["frameskip"]) == (4, 1)
    world = replace(world, policy="toys:go_east")
    single = replace(toy("Toy", state="auto"), policy="toys:go_east")
    few, many = (played(each, acting="toys:go_east") for each in (world, single))
    assert (few.frames_per_step, few.num_steps) == (4, -(-many.num_steps // 4))
    np.testing.assert_array_equal(few.frames[: len(many.frames)], many.frames)
    assert few.rewards is not None
    assert few.rewards[:-1].tolist() == [4.0] * (few.num_steps - 1)
    assert many.rewards is not None
    assert few.rewards.sum() == many.rewards.sum()


def test_an_end_within_a_step_holds_the_last_frame() -> None:
    world = replace(toy(frame_skip=8), policy="toys:go_east")
    episode = played(world, acting="toys:go_east")
    steps = played(replace(toy(), policy="toys:go_east"), acting="toys:go_east").num_steps
    held = 8 * episode.num_steps - steps
    assert 0 < held < 8
    assert (episode.frames[-held:] == episode.frames[-held - 1]).all()
    assert episode.terminated is not None
    assert episode.terminated.tolist() == [False] * (episode.num_steps - 1) + [True]
    assert not episode.truncated


def test_what_is_cut_is_not_ended() -> None:
    episode = played(toy("Brief"))
    assert (episode.num_steps, episode.truncated) == (2, True)
    assert episode.terminated is not None
    assert not episode.terminated.any()


def test_a_policy_of_ones_own_sees_observation_and_info() -> None:
    episode = played(toy(policy="toys:go_east"), acting="toys:go_east")
    assert episode.actions is not None
    assert (episode.actions == 1).all()


def test_a_seed_is_an_episode() -> None:
    world = toy("Rig")
    first, again, other = (played(world, "sticky", seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.frames, again.frames)
    assert first.actions is not None
    assert again.actions is not None
    assert first.actions.tobytes() == again.actions.tobytes()
    assert first.frames.tobytes() != other.frames.tobytes()


# -- by command -----------------------------------------------------------------------------------------


def test_an_environment_is_recorded_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "toy"
    given = ["--out", str(out), "--episodes", "18", "--steps", "5", "--workers", "2", "--seed", "5"]
    asked = ["--policy", "toys:go_east", "--frame-skip", "2", "--state", "info:x", "--env-args", '{"length": 8}']
    assert main(["--env", "toys:Toy-v0", *asked, *given]) == 0
    assert "toys:Toy-v0: pictures from the observation, 32x32" in capsys.readouterr().out
    store = EpisodeStore(out)
    world = GymWorld.load(out / "world.yaml")
    assert (store.settings["world"], store.size) == (str(out / "world.yaml"), (32, 32))
    assert (world.frame_skip, world.state, dict(world.env_args)) == (2, "info:x", {"length": 8})
    # Each worker recorded what is played here.
    with closing(world.simulator((32, 32))) as env:
        for index in (17, 0, 15, 16):
            here, _ = play_episode(world.recipe(), env, *draw_episode(world.recipe(), 5, index), 5, (32, 32))
            there = store.read(index)
            for name in ("frames", "actions", "states", "rewards", "terminated"):
                np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
            assert (here.caption, here.seed, here.truncated) == (there.caption, there.seed, there.truncated)
            assert here.actions is not None
            assert (here.actions == 1).all()
    before = sorted(path.stat().st_mtime_ns for path in out.rglob("*.mp4"))
    assert main(["--env", "toys:Toy-v0", *given]) == 0  # goes on where it stopped, which is the end
    assert sorted(path.stat().st_mtime_ns for path in out.rglob("*.mp4")) == before


def test_commands_refuse_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--out", str(tmp_path / "toy"), "--episodes", "1", "--workers", "1"]
    for asked, sentence in {
        ("--env", "toys:Still-v0"): "shows the same picture",
        ("--env", "toys:Toy-v0", "--env-args", "length=3"): "--env-args is no JSON",
        ("--env", "toys:Toy-v0", "--env-args", "[3]"): "--env-args names no arguments",
        ("--env", "no_toys:Toy-v0"): "needs the module no_toys",
    }.items():
        assert main([*asked, *given]) == 1
        assert sentence in capsys.readouterr().err


# -- environments of others -----------------------------------------------------------------------------


def test_minigrid_is_a_world() -> None:
    pytest.importorskip("minigrid")
    world = GymWorld.look("MiniGrid-Empty-5x5-v0", policy="random")
    assert (world.pixels, world.resize, tuple(world.size)) == ("render", "every 2nd pixel", (80, 80))
    found = world.recipe()
    assert found.schema.actions.parts[0].names[:3] == ("left", "right", "forward")
    assert faults(found) == []
    assert played(world, steps=2).caption == "get to the green goal square"
    assert Controls(found.schema.actions, found.page["keys"]).action(0) == 6  # done, and not left, while no key is held


@pytest.mark.parametrize(("env", "size"), [("CartPole-v1", (64, 96)), ("Pendulum-v1", (64, 64))])
def test_classic_control_is_a_world(env: str, size: tuple[int, int]) -> None:
    pytest.importorskip("pygame")
    world = GymWorld.look(env, policy="random", state="auto")
    assert (world.pixels, tuple(world.size), world.state) == ("render", size, "obs")
    with gymnasium.make(env) as made:  # type: ignore[attr-defined]
        assert world.recipe().schema.actions.space == made.action_space
    episode = played(world, steps=4)
    assert episode.frames.shape == (1 + 4 * world.frame_skip, *size, 3)
    assert episode.frames[0].std() > 1


def test_atari_is_a_world() -> None:
    pytest.importorskip("ale_py")
    world = GymWorld.look("ALE/Pong-v5", policy="random")
    assert (world.frame_skip, world.fps, tuple(world.size)) == (4, 60, (104, 80))
    assert world.recipe().page["keys"]["RIGHT"]["keys"] == ["ArrowRight"]
    episode = played(world, steps=3)
    assert episode.frames.shape == (13, 104, 80, 3)
    assert toy().fps == 10  # which is no game of Atari's
