"""The model as an environment: Gymnasium's contract, rows that are their own worlds, what only a model can do."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import concatenate, create_empty_array
from gymnasium.wrappers.vector import DictInfoToList

from worldmodel.sampling import Sampling
from worldmodel.simulator_env import SimulatorEnv
from worldmodel.simulator_vector_env import OBSERVATIONS, SimulatorVectorEnv
from worldmodel.world import World

from .tiny_world import PLANE, STATELESS, UNSTEERED, tiny_world

ID = "worldmodel:WorldModel-v0"
WORLD = tiny_world()
MORTAL = tiny_world(end=1 / 8)


def make(**more: Any) -> SimulatorEnv:
    env = gymnasium.make(ID, world=more.pop("world", WORLD), **more).unwrapped
    assert isinstance(env, SimulatorEnv)
    return env


def make_vec(num_envs: int, **more: Any) -> SimulatorVectorEnv:
    envs = gymnasium.make_vec(ID, num_envs, world=more.pop("world", WORLD), **more)
    assert isinstance(envs, SimulatorVectorEnv)
    return envs


def actions_of(steps: int, rows: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(PLANE.actions.num_ids, size=(steps, rows))


def play(envs: SimulatorVectorEnv, actions: np.ndarray) -> list[np.ndarray]:
    """Observations, rewards, ends and states of every step, each (steps, rows, ...)."""
    steps = []
    for action in actions:
        observation, reward, terminated, truncated, info = envs.step(action)
        steps.append((observation, reward, terminated, truncated, info["state"]))
    return [np.stack(column) for column in zip(*steps)]


def assert_same_pictures(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Equal but for the rounding of a grey level: batches of different sizes add up in different orders."""
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1
    assert (ours != theirs).mean() < 0.005


# -- Gymnasium's contract ---------------------------------------------------------------------------


def test_gymnasiums_checker_finds_nothing_to_warn_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make())
        check_env(make(render_mode="rgb_array"))


def test_importing_the_package_loads_no_torch():
    code = "import sys, worldmodel; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_spaces_are_batches_of_the_single_ones():
    envs, env = make_vec(3), make()
    assert envs.single_observation_space == env.observation_space
    assert envs.single_action_space == env.action_space
    assert envs.observation_space.shape == (3, 16, 16, 3)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert envs.observation_space.contains(envs.reset(seed=1)[0])
    assert env.metadata["render_fps"] == 30


def test_seeded_rollouts_repeat_and_seeds_differ():
    envs, seen = make_vec(2), []
    for seed in (3, 3, 4):
        first, _ = envs.reset(seed=seed)
        seen.append([first, *play(envs, actions_of(25, 2))])
    assert all(np.array_equal(a, b) for a, b in zip(seen[0], seen[1]))
    assert all((a != b).any() for a, b in zip(seen[0][:2], seen[2][:2]))


def test_the_seed_is_the_worlds_seed():
    rollout = WORLD.start("a blue player", seed=5)
    env = make()
    observation, info = env.reset(seed=5, options={"caption": "a blue player"})
    assert np.array_equal(observation, rollout.frames[0, -1].numpy())
    step, (observation, *_, info) = rollout.step("left"), env.step(1)
    assert np.array_equal(info["frames"], step.frames[0].numpy())
    assert np.array_equal(observation, info["frames"][-1])
    assert np.array_equal(info["state"], step.state[0].numpy())


def test_episodes_after_a_seeded_one_differ_and_repeat_too():
    def three_beginnings() -> list[np.ndarray]:
        env = make()
        return [env.reset(seed=11)[1]["state"], env.reset()[1]["state"], env.reset()[1]["state"]]

    first, again = three_beginnings(), three_beginnings()
    assert np.array_equal(first, again)
    assert len({state.tobytes() for state in first}) == 3


def test_infos_tell_the_frames_the_state_by_name_and_the_caption():
    env = make()
    _, info = env.reset(seed=2, options={"caption": "two bodies"})
    assert info["frames"].shape == (2, 16, 16, 3)
    assert (info["frames"][0] == info["frames"][1]).all()
    assert info["caption"] == "two bodies"
    _, reward, terminated, _, info = env.step(0)
    assert info["scene"]["player"]["colour"] in ("red", "green", "blue")
    assert info["scene"] == PLANE.to_dict(torch.from_numpy(info["state"]))
    assert bool(reward) == info["scene"]["episode"]["reward"]
    assert terminated == info["scene"]["episode"]["terminated"]


def test_render_gives_the_observation_in_rgb_array_mode_alone():
    env = make(render_mode="rgb_array")
    observation, _ = env.reset(seed=1)
    assert np.array_equal(env.render(), observation)  # pyright: ignore[reportArgumentType]
    plain = make()
    plain.reset(seed=1)
    assert plain.render() is None


def test_what_is_returned_is_the_callers_to_spoil():
    ours, theirs = make_vec(2), make_vec(2)
    for envs in (ours, theirs):
        envs.reset(seed=1)
    for action in actions_of(5, 2):
        spoilt = ours.step(action)
        kept = theirs.step(action)
        assert np.array_equal(spoilt[0], kept[0])
        for array in (*spoilt[:4], *(a for n, a in spoilt[4].items() if n != "caption")):
            array[...] = 0


# -- rows -------------------------------------------------------------------------------------------


def test_each_row_equals_the_single_environment_through_the_ends_of_episodes():
    rows, actions = 4, actions_of(30, 4)
    envs = make_vec(rows, world=MORTAL, max_episode_steps=9)
    first, _ = envs.reset(seed=20)
    pictures, rewards, terminated, truncated, states = play(envs, actions)
    assert terminated.any()
    assert truncated.any()
    for row in range(rows):
        env = SimulatorEnv(world=MORTAL, max_episode_steps=9)
        observation, _ = env.reset(seed=20 + row)
        assert_same_pictures(observation, first[row])
        ended = False
        for t, action in enumerate(actions[:, row]):
            if ended:
                observation, info = env.reset()
                outcome = (observation, 0.0, False, False, info)
            else:
                outcome = env.step(action)
            assert_same_pictures(outcome[0], pictures[t, row])
            assert outcome[1:4] == (rewards[t, row], terminated[t, row], truncated[t, row])
            np.testing.assert_allclose(outcome[4]["state"], states[t, row], atol=1e-5)
            ended = outcome[2] or outcome[3]


def test_a_row_that_ends_begins_anew_with_the_next_step_and_ignores_its_action():
    envs = make_vec(2, max_episode_steps=3)
    envs.reset(seed=1, options={"caption": "a blue player"})
    envs.step(np.array([0, 0]))
    envs.reset(seed=[50, None], options={"reset_mask": np.array([True, False])})
    *_, truncated, infos = play(envs, actions_of(2, 2))
    assert truncated.tolist() == [[False, False], [False, True]]
    _, rewards, terminated, truncated, infos = envs.step(np.array([1, 1]))
    assert (rewards[1], terminated[1], truncated[1]) == (0, False, False)
    assert truncated[0]  # its own episode is three steps old now
    assert (infos["frames"][1, 0] == infos["frames"][1, 1]).all()  # a beginning stands still
    assert infos["caption"].tolist() == ["", ""]  # options are one episode's
    assert not envs.step(np.array([1, 1]))[3].any()


def test_every_episode_begins_from_the_environments_own_caption():
    envs = make_vec(2, caption="two bodies", max_episode_steps=1)
    assert envs.reset(seed=1)[1]["caption"].tolist() == ["two bodies"] * 2
    for _ in range(3):
        assert envs.step(np.array([0, 0]))[4]["caption"].tolist() == ["two bodies"] * 2
    assert envs.reset(options={"caption": ["a red ball", ""]})[1]["caption"].tolist() == ["a red ball", "two bodies"]


def test_a_row_reset_alone_leaves_the_others_undisturbed_and_equals_a_fresh_start():
    disturbed, calm, alone = make_vec(3), make_vec(3), make_vec(1)
    actions = actions_of(12, 3)
    for envs in (disturbed, calm):
        envs.reset(seed=7)
        play(envs, actions[:4])
    observation, infos = disturbed.reset(seed=[None, 90, None], options={"reset_mask": np.array([False, True, False])})
    assert infos["_state"].tolist() == [False, True, False]
    ours, theirs = play(disturbed, actions[4:]), play(calm, actions[4:])
    for a, b in zip(ours, theirs):  # one batch of one size: bit for bit
        assert np.array_equal(a[:, [0, 2]], b[:, [0, 2]])
    first, _ = alone.reset(seed=90)
    assert_same_pictures(first[0], observation[1])
    assert_same_pictures(play(alone, actions[4:, 1:2])[0][:, 0], ours[0][:, 1])


def test_a_truncated_world_and_a_terminated_one_are_told_apart():
    envs = make_vec(8, world=MORTAL, max_episode_steps=6)
    envs.reset(seed=0)
    _, _, terminated, truncated, states = play(envs, actions_of(25, 8))
    assert (states[..., PLANE.columns("episode", "terminated")][..., 0][terminated] == 1).all()
    assert terminated.any()
    assert truncated.any()


def test_infos_can_be_read_row_by_row_with_gymnasiums_wrapper():
    envs = DictInfoToList(make_vec(2))
    _, infos = envs.reset(seed=1)
    assert [sorted(info) for info in infos] == [["caption", "frames", "state"]] * 2


# -- what only a model can do -----------------------------------------------------------------------


def test_an_episode_may_begin_from_a_state_an_edit_or_frames():
    env = make()
    here = {"player": {"position": (0.25, -0.25), "colour": "blue"}}
    _, info = env.reset(seed=1, options={"state": here})
    assert info["scene"]["player"]["position"] == (0.25, -0.25)
    assert info["scene"]["player"]["colour"] == "blue"
    _, again = env.reset(seed=2, options={"state": info["state"]})
    assert np.array_equal(again["state"], info["state"])
    frames = np.random.default_rng(0).integers(256, size=(5, 16, 16, 3), dtype=np.uint8)
    env.reset(seed=1, options={"frames": frames})
    envs = make_vec(2)
    edits = [{"player": {"position": (x, 0.0)}} for x in (-0.25, 0.25)]
    _, infos = envs.reset(seed=1, options={"state": edits, "frames": np.stack([frames, frames[::-1]])})
    assert infos["state"][:, PLANE.columns("player", "position")].tolist() == [[-0.25, 0.0], [0.25, 0.0]]
    values = infos["state"].copy()
    assert np.array_equal(envs.reset(seed=1, options={"state": values})[1]["state"], values)


def test_an_episode_may_keep_to_holds_and_limits_until_the_next_one():
    envs, yaw = make_vec(2, max_episode_steps=4), PLANE.columns("player", "yaw")
    hold, limit = [{"player": {"yaw": 0.3}}, None], {"ball": {"position": ((-0.5, -0.5), (0.0, 0.0))}}
    _, infos = envs.reset(seed=1, options={"hold": hold, "limit": limit})
    states = np.concatenate([infos["state"][None], play(envs, actions_of(4, 2))[-1]])
    assert (states[:, 0, yaw] == np.float32(0.3)).all()
    assert (states[:, 1, yaw] != np.float32(0.3)).all()
    assert (states[..., PLANE.columns("ball", "position")] <= 0).all()
    after = play(envs, actions_of(3, 2))[-1]
    assert (after[:, 0, yaw] != np.float32(0.3)).all()
    env = make()
    _, info = env.reset(seed=1, options={"hold": {"player": {"yaw": 0.3}}})
    assert info["scene"]["player"]["yaw"] == env.step(1)[-1]["scene"]["player"]["yaw"] == pytest.approx(0.3)


def test_an_edit_is_where_the_next_step_starts_from():
    envs = make_vec(2)
    envs.reset(seed=1)
    envs.edit({"player": {"position": (0.4, 0.4)}}, row=1)
    assert envs.describe(1)["player"]["position"] == pytest.approx((0.4, 0.4))
    *_, infos = envs.step(np.array([0, 0]))
    position = infos["state"][:, PLANE.columns("player", "position")]
    assert np.abs(position[1] - 0.4).max() <= 0.2001  # one step's largest change
    assert np.abs(position[0] - 0.4).max() > 0.2001
    env = make()
    env.reset(seed=1)
    env.tell("rolls")
    env.edit({"player": {"colour": "green"}})
    assert env.step(0)[-1]["scene"]["player"]["colour"] == "green"


def test_a_snapshot_brings_everything_back_even_the_ends_and_the_dice():
    envs, actions = make_vec(3, world=MORTAL, max_episode_steps=5), actions_of(14, 3)
    envs.reset(seed=4)
    play(envs, actions[:5])
    moment = envs.snapshot()
    first = play(envs, actions)
    envs.restore(moment)
    for a, b in zip(first, play(envs, actions)):
        assert np.array_equal(a, b)


def test_the_single_environment_can_be_rewound_past_its_end():
    env = SimulatorEnv(world=WORLD, max_episode_steps=2)
    env.reset(seed=4)
    env.step(0)
    moment = env.snapshot()
    ended = env.step(1)
    assert ended[3]
    env.restore(moment)
    again = env.step(1)
    assert again[3]
    assert np.array_equal(ended[0], again[0])


def test_worlds_without_state_or_without_actions_can_be_acted_in():
    for schema in (STATELESS, UNSTEERED):
        envs = make_vec(2, world=tiny_world(schema), max_episode_steps=3)
        envs.reset(seed=1)
        _, rewards, terminated, truncated, states = play(envs, np.zeros((4, 2), dtype=np.int64))
        assert not rewards.any()
        assert not terminated.any()
        assert truncated.sum(0).tolist() == [1, 1]
        assert states.shape == (4, 2, 0)
        check_env(SimulatorEnv(world=envs.world), skip_render_check=True, skip_close_check=True)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (1,)),
        spaces.MultiDiscrete([3, 2], start=[1, 0]),
        spaces.Dict(gear=spaces.Discrete(3), push=spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.MultiBinary(2)])),
    ],
    ids=str,
)
def test_the_action_space_is_the_one_that_the_world_was_recorded_in(space):
    world = tiny_world(replace(STATELESS, actions=space))
    env, envs = make(world=world), make_vec(2, world=world)
    assert env.action_space == space
    assert env.action_space is not world.schema.actions.space, "its dice are the environment's own"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
    env.action_space.seed(1)
    actions = [env.action_space.sample() for _ in range(8)]
    alone = []
    for action in actions:
        env.reset(seed=4)
        alone.append(env.step(action)[-1]["frames"])
    assert any((pictures != alone[0]).any() for pictures in alone), "the action matters"
    envs.reset(seed=4)
    batch = concatenate(space, [actions[0], actions[1]], create_empty_array(space, 2))
    assert envs.action_space.contains(batch)
    assert_same_pictures(envs.step(batch)[-1]["frames"][:1], alone[0][None])


def test_actions_outside_of_the_space_are_refused():
    env = make(world=tiny_world(replace(STATELESS, actions=spaces.Box(-1, 1, (1,)))))
    env.reset(seed=1)
    for action, sentence in (
        ([1.5], r"action 1.5 is outside \[-1, 1\]"),
        ([np.nan], "no such number"),
        ([0, 0], "shape"),
    ):
        with pytest.raises(ValueError, match=sentence):
            env.step(np.array(action, np.float32))


def test_a_saved_world_is_made_by_its_folder(tmp_path):
    WORLD.save_pretrained(tmp_path)
    env = gymnasium.make(ID, world=str(tmp_path), max_episode_steps=3)
    assert np.array_equal(env.reset(seed=3)[0], make().reset(seed=3)[0])
    assert [env.step(0)[3] for _ in range(3)] == [False, False, True]
    assert env.spec is not None
    assert env.spec.kwargs["world"] == str(tmp_path)


# -- mistakes ---------------------------------------------------------------------------------------


def test_mistakes_are_answered_with_the_mend():
    envs = make_vec(2)
    with pytest.raises(ValueError, match=r"call reset\(\) first"):
        envs.step(np.array([0, 0]))
    with pytest.raises(ValueError, match=r"call reset\(\) first"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"action 3 is outside .* choose from 0 none, 1 left, 2 right"):
        envs.step(np.array([0, 3]))
    with pytest.raises(ValueError, match="3 actions for 2 worlds"):
        envs.step(np.array([0, 1, 2]))
    with pytest.raises(ValueError, match="unknown reset option 'prompt'; there are caption, state, frames, hold"):
        envs.reset(options={"prompt": "a red ball"})
    with pytest.raises(ValueError, match="3 seeds for 2 rows"):
        envs.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match=r"bool array of shape \(2,\)"):
        envs.reset(options={"reset_mask": np.array([1, 0])})
    with pytest.raises(ValueError, match="3 captions for 2 rows: give one for all, or one for each"):
        envs.reset(options={"caption": ["a", "b", "c"]})
    with pytest.raises(ValueError, match="'player' has no field 'mass'"):
        envs.reset(options={"state": {"player": {"mass": 1}}})
    with pytest.raises(ValueError, match=r"player\.colour never changes"):
        envs.reset(options={"hold": {"player": {"colour": "red"}}})
    with pytest.raises(ValueError, match="1 limits for 2 rows: give one for all, or one for each"):
        envs.reset(options={"limit": [{"player": {"yaw": (0.1, 0.2)}}]})
    with pytest.raises(ValueError, match="has 15 values, got shape"):
        envs.reset(options={"state": np.zeros(4)})
    with pytest.raises(ValueError, match="16x16 RGB frames"):
        envs.reset(options={"frames": np.zeros((1, 8, 8, 3), dtype=np.uint8)})
    with pytest.raises(ValueError, match="row 2 does not exist"):
        envs.edit({"player": {"yaw": 1.0}}, row=2)
    with pytest.raises(ValueError, match="at least one row"):
        make_vec(0)
    with pytest.raises(ValueError, match="max_episode_steps must be at least 1"):
        make_vec(1, max_episode_steps=0)
    with pytest.raises(ValueError, match="choose rgb_array"):
        make_vec(1, render_mode="human")
    with pytest.raises(ValueError, match="no world at 'nowhere'"):
        make_vec(1, world="nowhere")


def test_a_refused_beginning_changes_nothing():
    ours, theirs = make_vec(2, max_episode_steps=4), make_vec(2, max_episode_steps=4)
    for envs in (ours, theirs):
        envs.reset(seed=0, options={"caption": "a red ball"})
        play(envs, actions_of(2, 2))
    wrongs = {
        "shorten it": {"caption": "much too long a caption for six"},
        "choose from red, green, blue": {"state": {"player": {"colour": "mauve"}}},
        "no field 'mass'": {"hold": {"player": {"mass": 1}}},
    }
    for mend, wrong in wrongs.items():
        with pytest.raises(ValueError, match=mend):
            ours.reset(options=wrong | {"reset_mask": np.array([True, False])})
    for a, b in zip(play(ours, actions_of(9, 2)), play(theirs, actions_of(9, 2))):  # new episodes are the same too
        assert np.array_equal(a, b)


def test_names_serve_as_actions_and_an_ended_episode_says_so():
    env = SimulatorEnv(world=WORLD, max_episode_steps=1)
    env.reset(seed=0)
    assert env.step("left")[3]
    with pytest.raises(ValueError, match=r"this episode has ended: call reset\(\)"):
        env.step("left")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="unknown action 'up'; choose from 0 none"):
        env.step("up")


def test_the_world_may_be_shared_by_many_environments():
    a, b = SimulatorEnv(world=WORLD), SimulatorEnv(world=WORLD)
    a.reset(seed=1)
    b.reset(seed=1)
    a.step(1)
    assert isinstance(a.world, World)
    assert a.world is b.world
    assert (a.rollout.time, b.rollout.time) == (1, 0)


def test_an_engine_is_chosen_by_name(tmp_path: Path) -> None:
    WORLD.save_pretrained(tmp_path)
    assert SimulatorEnv(world=tmp_path, engine="torch").world.engine.name == "torch"
    for make_env in (SimulatorEnv, SimulatorVectorEnv):
        with pytest.raises(ValueError, match="unknown engine 'steam'"):
            make_env(world=tmp_path, engine="steam")


# -- what is observed -------------------------------------------------------------------------------


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_whatever_is_observed_is_of_its_space_and_gymnasium_agrees(observation: str):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if observation == "latent":
            warnings.filterwarnings("ignore", ".*Box observation space.*infinity.*")
        check_env(make(observation=observation, render_mode="rgb_array"))
    envs = make_vec(3, world=MORTAL, observation=observation, max_episode_steps=5)
    assert envs.observation_space.contains(envs.reset(seed=1)[0])
    for action in actions_of(8, 3):
        assert envs.observation_space.contains(envs.step(action)[0])


def test_a_state_is_named_bounded_and_the_infos_one():
    envs = make_vec(2, observation="state")
    observed, infos = envs.reset(seed=1)
    assert np.array_equal(observed, infos["state"])
    assert envs.state_names[PLANE.columns("player", "position")] == ("player.position[0]", "player.position[1]")
    assert envs.state_names[PLANE.columns("player", "yaw").start] == "player.yaw"
    assert envs.state_units[PLANE.columns("player", "position")] == ("m", "m")
    assert len(envs.state_names) == len(envs.state_units) == PLANE.num_values
    space = envs.single_observation_space
    assert isinstance(space, spaces.Box)
    assert space.low[PLANE.columns("player", "position")].tolist() == [-0.5, -0.5]
    assert space.high[PLANE.columns("player", "colour")].tolist() == [2]
    both, _ = make_vec(2, observation="dict").reset(seed=1)
    assert np.array_equal(both["state"], observed)
    assert np.array_equal(both["pixels"], make_vec(2).reset(seed=1)[0])


def test_the_latent_is_what_the_next_step_attends_to_of_this_one():
    drawn, alone = make_vec(2, observation="latent", draw=True), make_vec(2, observation="latent")
    layout = WORLD.dynamics.layout
    for envs in (drawn, alone):
        envs.reset(seed=1)
    for action in actions_of(6, 2):  # round the ring and on
        seen, few = drawn.step(action)[0], alone.step(action)[0]
        assert seen.shape == (2, layout.num_settled + layout.num_video, WORLD.dynamics.config.width)
        assert np.array_equal(few, seen[:, : layout.num_settled])
    assert len({row.tobytes() for row in seen[0]}) == len(seen[0])


def test_states_are_the_same_bit_for_bit_whether_drawn_or_not():
    drawn, alone = (
        make_vec(3, world=MORTAL, max_episode_steps=7),
        make_vec(3, world=MORTAL, max_episode_steps=7, draw=False, observation="state"),
    )
    for envs in (drawn, alone):
        envs.reset(seed=5)
    for action in actions_of(20, 3):
        ours, theirs = drawn.step(action), alone.step(action)
        assert np.array_equal(ours[4]["state"], theirs[0])
        assert all(np.array_equal(a, b) for a, b in zip(ours[1:4], theirs[1:4]))
        assert "frames" not in theirs[4]
        assert np.array_equal(ours[4]["reward_mean"], theirs[4]["reward_mean"])


def test_what_is_not_drawn_can_still_be_looked_at():
    envs = make_vec(2, observation="state", render_mode="rgb_array")
    envs.reset(seed=1)
    envs.step(np.array([1, 2]))
    state = envs.rollout.state.clone()
    pictures = envs.render()
    assert pictures is not None
    assert torch.equal(envs.rollout.state, state)
    captions = envs.rollout.captions
    seeds = envs.rollout.now.seeds.tolist()
    fresh = WORLD.start(captions, state=state, seed=seeds).frames[:, -1].numpy()
    assert np.array_equal(np.stack(pictures), fresh)


def test_who_must_draw_says_so():
    film = tiny_world(STATELESS)
    with pytest.raises(ValueError, match="cannot go on without drawing"):
        make_vec(2, world=film, draw=False, observation="latent")
    with pytest.raises(ValueError, match="no state to observe"):
        make_vec(2, world=film, observation="state")
    with pytest.raises(ValueError, match="so they are drawn"):
        make_vec(2, draw=False)
    with pytest.raises(ValueError, match="choose from pixels, state, dict, latent"):
        make_vec(2, observation="ram")
    with pytest.raises(ValueError, match="draws none"):
        WORLD.start(seed=0, draw=False).lock(np.ones((16, 16), dtype=bool))
    assert make_vec(2, world=film, observation="latent").draw


def test_tensors_stay_tensors():
    envs, plain = make_vec(2, tensors=True, observation="dict"), make_vec(2, observation="dict")
    first, theirs = envs.reset(seed=1)[0], plain.reset(seed=1)[0]
    assert torch.equal(first["state"], torch.from_numpy(theirs["state"]))
    observed, rewards, terminated, truncated, infos = envs.step(torch.tensor([1, 2]))
    assert all(
        isinstance(x, torch.Tensor) for x in (*observed.values(), rewards, terminated, truncated, infos["state"])
    )
    env = make(tensors=True, observation="dict")
    assert env.reset(seed=1)[0]["pixels"].shape == (16, 16, 3)


def test_infos_without_pictures_and_with_doubt():
    envs = make_vec(2, frames=False, doubt=True)
    envs.reset(seed=1)
    infos = envs.step(np.array([0, 1]))[4]
    assert "frames" not in infos
    assert infos["doubt"].shape == (2, len(PLANE.entities))
    assert (infos["doubt"] > 0).all()
    film = make_vec(2, world=tiny_world(STATELESS), doubt=True)
    film.reset(seed=1)
    assert film.step(np.array([0, 1]))[4]["doubt"].shape == (2, 1)


def test_what_is_expected_stands_beside_what_was_drawn():
    envs = make_vec(8, autoreset_mode="Disabled", sampling=Sampling())
    envs.reset(seed=3)
    for action in actions_of(6, 8):
        _, reward, terminated, _, infos = envs.step(action)
        envs.reset(options={"reset_mask": terminated})
        assert ((infos["reward_mean"] > 0.5) == (reward > 0.5)).all()  # the likeliest is drawn
        assert ((infos["terminated_probability"] > 0.5) == terminated).all()
        assert (infos["terminated_probability"] > 0).all()


# -- beginnings, ends, copies -----------------------------------------------------------------------


def test_same_step_gives_the_last_observation_and_begins_at_once():
    mode, rows = AutoresetMode.SAME_STEP, 3
    ours, next_step = (make_vec(rows, max_episode_steps=3, autoreset_mode=m) for m in (mode, AutoresetMode.NEXT_STEP))
    assert ours.metadata["autoreset_mode"] is mode
    for envs in (ours, next_step):
        envs.reset(seed=2)
    for t, action in enumerate(actions_of(3, rows)):
        seen, theirs = ours.step(action), next_step.step(action)
        if t < 2:
            assert np.array_equal(seen[0], theirs[0])
            assert "final_obs" not in seen[4]
    assert seen[3].all()
    assert np.array_equal(np.stack(seen[4]["final_obs"]), theirs[0])
    assert np.array_equal(seen[4]["final_info"]["state"], theirs[4]["state"])
    again = next_step.step(actions_of(1, rows)[0])
    assert np.array_equal(seen[0], again[0])
    assert not ours.step(actions_of(1, rows)[0])[3].any()


def test_without_autoreset_an_ended_row_waits_for_its_reset():
    envs = make_vec(2, max_episode_steps=2, autoreset_mode="Disabled")
    envs.reset(seed=2)
    envs.step(np.array([0, 0]))
    assert envs.step(np.array([0, 0]))[3].all()
    with pytest.raises(ValueError, match="have ended"):
        envs.step(np.array([0, 0]))
    envs.reset(options={"reset_mask": np.array([True, True])})
    assert not envs.step(np.array([0, 0]))[3].any()


def test_every_episode_may_begin_from_a_pool():
    pool = WORLD.start(seed=list(range(4))).state.numpy()
    envs = make_vec(6, starts=pool, observation="state", max_episode_steps=1)
    known = {row.tobytes() for row in pool}
    seen = {row.tobytes() for row in envs.reset(seed=0)[0]}
    for _ in range(4):
        seen |= {row.tobytes() for row in envs.step(np.zeros(6, dtype=int))[0]} if envs.ended.all() else set()
        envs.step(np.zeros(6, dtype=int))
    assert seen == known
    told = {"caption": "two bodies", "state": {"player": {"position": (0.25, 0.25)}}}
    infos = make_vec(2, starts=lambda chance: told).reset(seed=0)[1]
    assert infos["caption"].tolist() == ["two bodies"] * 2
    assert infos["state"][:, PLANE.columns("player", "position")].tolist() == [[0.25, 0.25]] * 2
    with pytest.raises(ValueError, match="starts is empty"):
        make_vec(2, starts=[])


def test_one_moment_forks_into_many_rows_and_goes_on_as_the_one_that_stayed():
    one, many = make_vec(1, observation="state"), make_vec(5, observation="state")
    one.reset(seed=1)
    play(one, actions_of(6))
    many.restore(one.snapshot())
    rollout = one.rollout
    forked = rollout.fork([0] * 5)
    for mine, theirs in zip((*forked.cache.far, *forked.cache.near), (*rollout.cache.far, *rollout.cache.near)):
        assert torch.equal(mine.keys, theirs.keys.expand_as(mine.keys))
        assert torch.equal(mine.values, theirs.values.expand_as(mine.values))
    for action in actions_of(8, seed=3):
        ours, theirs = many.step(np.repeat(action, 5))[0], one.step(action)[0]
        np.testing.assert_allclose(ours, np.repeat(theirs, 5, 0), atol=1e-6)
    branched = many.step(np.array([0, 1, 2, 1, 0]))[0]
    assert np.array_equal(branched[1], branched[3])
    assert (branched[0] != branched[1]).any()


def test_rows_are_forked_in_any_order_and_leave_what_they_came_from_alone():
    rollout, calm = (WORLD.start(seed=[1, 2, 3]) for _ in range(2))
    for r in (rollout, calm):
        r.step([0, 1, 2])
    fork = rollout.fork([2, 0, 2, 1])
    for action in ([0, 1, 2, 0], [2, 2, 1, 1]):
        fork.step(action)
    for action in ([0, 1, 2], [1, 1, 1]):
        assert torch.equal(rollout.step(action).frames, calm.step(action).frames)
    with pytest.raises(ValueError, match="cannot be taken"):
        rollout.fork([3])


@pytest.mark.parametrize("draw", [True, False])
def test_environments_and_moments_are_pickled_and_copied_without_weights(draw: bool):
    asked = {"observation": "pixels" if draw else "state", "max_episode_steps": 9}
    envs, actions = make_vec(2, **asked), actions_of(12, 2)
    envs.reset(seed=4)
    play(envs, actions[:3])
    moment, twin = envs.snapshot(), copy.deepcopy(envs)
    packed = pickle.dumps(moment)
    weights = sum(p.numel() * p.element_size() for p in WORLD.dynamics.parameters())
    assert twin.world is envs.world
    carried = pickle.loads(pickle.dumps(envs))
    first = play(envs, actions[3:])
    other = make_vec(2, **asked)
    other.restore(pickle.loads(packed))
    for again in (twin, other, carried):
        for a, b in zip(first, play(again, actions[3:])):
            assert np.array_equal(a, b)
    assert len(pickle.dumps(envs)) - len(packed) < 3 * weights
    with pytest.raises(ValueError, match="another world"):
        make_vec(2, world=MORTAL, **asked).restore(pickle.loads(packed))


def test_attributes_of_rows_are_read_set_and_called():
    envs = make_vec(3)
    envs.reset(seed=1)
    assert envs.get_attr("action_space") == (envs.single_action_space,) * 3
    assert envs.call("describe") == tuple(envs.describe(row) for row in range(3))
    envs.set_attr("max_episode_steps", 2)
    envs.step(np.zeros(3, dtype=int))
    assert envs.step(np.zeros(3, dtype=int))[3].all()
    with pytest.raises(ValueError, match="give one value"):
        envs.set_attr("max_episode_steps", [1, 2, 3])
    with pytest.raises(ValueError, match="no 'steps' to set"):
        envs.set_attr("steps", 1)


def test_a_window_shows_every_step(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    shown: list[np.ndarray] = []
    env = make(render_mode="human", observation="state")
    assert env._window is not None
    show = env._window.show
    monkeypatch.setattr(env._window, "show", lambda picture: (shown.append(picture), show(picture)))
    env.reset(seed=1)
    env.step(0)
    assert len(shown) == 2
    assert (shown[0] != shown[1]).any()
    assert env.render() is None
    env.close()
