"""Breakout as a Gymnasium environment, its state held against the picture, and recorded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tokenizer.view import Plane
from train.data.episode_store import EpisodeStore
from train.record import record
from train.worlds.breakout.behaviours import SHARES, behaviour
from train.worlds.breakout.schema import ACTIONS, COLUMNS, ROWS, breakout_schema
from train.worlds.breakout.simulator import NOWHERE, Breakout

pytest.importorskip("ale_py")

SCHEMA = breakout_schema()
RED = (200, 72, 72)  # of the ball, of the paddle and of the top row of bricks


def value(states: np.ndarray, name: str) -> np.ndarray:
    return states[..., SCHEMA.columns(*name.split("."))]


@pytest.fixture
def breakout() -> Iterator[Breakout]:
    env = Breakout()
    yield env
    env.close()


@pytest.fixture(scope="module")
def games() -> list[tuple[np.ndarray, np.ndarray]]:
    """Frames (n, 80, 80, 3) and states (n, num_values) of a few games."""
    games = []
    env = Breakout()
    for seed in range(12):
        act, terminated = behaviour(list(SHARES)[seed % 3], np.random.default_rng(seed)), False
        infos = [env.reset(seed=seed)[1]]
        while not terminated and len(infos) < 100:
            terminated, _, info = env.step(act(infos[-1]["state"]))[2:]
            infos.append(info)
        games.append(tuple(np.concatenate([info[key] for info in infos]) for key in ("frames", "states")))
    return games


@pytest.fixture(scope="module")
def played(games: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """All their frames and states."""
    frames, states = zip(*games, strict=True)
    return np.concatenate(frames), np.concatenate(states)


@pytest.fixture(scope="module")
def moments(games: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """States and those a frame later."""
    return np.concatenate([s[:-1] for _, s in games]), np.concatenate([s[1:] for _, s in games])


def test_gymnasium_makes_it_and_finds_nothing_to_complain_about() -> None:
    env = gymnasium.make("train.worlds:AtariBreakout-v0", disable_env_checker=True).unwrapped
    assert isinstance(env, Breakout)
    check_env(env, skip_render_check=True)


def test_the_same_seed_and_actions_show_the_same_pictures(breakout: Breakout) -> None:
    runs = []
    for env in (breakout, Breakout()):
        runs.append([env.reset(seed=3)[1], *(env.step(action)[4] for action in (1, 3, 2, 0, 3, 3, 2))])
    for first, second in zip(*runs, strict=True):
        assert np.array_equal(first["frames"], second["frames"])
        assert np.array_equal(first["states"], second["states"])
        assert first["caption"] == second["caption"]
    assert not np.array_equal(runs[0][0]["state"], breakout.reset(seed=4)[1]["state"])


def test_the_bricks_of_the_state_are_those_of_the_picture(played: tuple[np.ndarray, np.ndarray]) -> None:
    frames, states = played
    assert isinstance(SCHEMA.view, Plane)
    assert SCHEMA.view.tiles is not None
    (left, top), (right, bottom) = np.array([SCHEMA.view.tiles.low, SCHEMA.view.tiles.high], dtype=int)
    lit = frames[:, top:bottom, left:right].any(-1).reshape(len(frames), ROWS, 3, COLUMNS, 4).mean((2, 4)) > 0.5
    bricks = value(states, "wall.bricks").reshape(lit.shape) > 0.5
    assert (lit == bricks).mean() > 0.999
    assert 0.02 < (~bricks).mean() < 0.9


def test_the_ball_is_where_the_state_says(played: tuple[np.ndarray, np.ndarray]) -> None:
    frames, states = played
    x, y = value(states, "ball.position").T
    # Above the paddle, below the wall, and not for a frame inside one of the sides.
    clear = (value(states, "ball.present")[:, 0] > 0.5) & (y > 33) & (y < 77) & (x > 4) & (x < 76)
    assert clear.sum() > 500
    for frame, across, down in zip(frames[clear], x[clear], y[clear]):
        rows, columns = np.nonzero((frame[32:79, 4:76] == RED).all(-1))
        assert set(columns + 4) == {int(across)}
        assert abs(rows.mean() + 32.5 - down) < 0.6
    assert (states[value(states, "ball.present")[:, 0] < 0.5, :2] == NOWHERE).all()


def test_the_paddle_is_where_the_state_says(played: tuple[np.ndarray, np.ndarray]) -> None:
    frames, states = played
    for frame, x, half, ball in zip(
        frames, value(states, "paddle.position")[:, 0], value(states, "paddle.size")[:, 0], states[:, 1]
    ):
        columns = np.nonzero((frame[79, 4:76] == RED).all(-1))[0] + 4
        if ball < 76:  # above the paddle's row
            assert abs(columns.min() - (x - half)) < 0.5
            assert abs(columns.max() + 1 - min(x + half, 76)) < 0.5


def test_ball_and_paddle_move_as_their_states_foretell(moments: tuple[np.ndarray, np.ndarray]) -> None:
    now, after = moments
    here = (value(now, "ball.present") > 0.5)[:, 0] & (value(after, "ball.present") > 0.5)[:, 0]
    here &= value(now, "ball.position")[:, 1] < 80
    moved = value(after, "ball.position") - value(now, "ball.position") - value(after, "ball.velocity")
    assert (np.abs(moved[here]) < 1e-3).all(1).mean() > 0.98  # a side throws it back within a frame
    middle = (value(now, "paddle.position")[:, 0] + value(now, "paddle.aim")[:, 0]) / 2
    middle = np.clip(middle, 4.125 + value(now, "paddle.size")[:, 0], 72.125 + value(now, "paddle.size")[:, 0])
    ahead = np.abs(value(after, "paddle.position")[:, 0] - middle)
    same = value(now, "paddle.size") == value(after, "paddle.size")
    on = (same & (value(now, "game.terminated") == 0))[:, 0]
    assert (ahead[on] <= 0.25).all()  # half a pixel of the screen's: the console rounds


def test_a_ball_breaks_one_brick_and_is_spent(moments: tuple[np.ndarray, np.ndarray]) -> None:
    now, after = moments
    gone = (value(now, "wall.bricks") - value(after, "wall.bricks")).sum(1)
    hit = gone > 0
    assert hit.sum() > 20
    assert (gone[hit] == 1).all()
    assert (value(now, "game.spent")[hit] == 0).all()
    assert (value(after, "game.spent")[hit] == 1).all()
    assert np.array_equal(hit, (value(after, "game.score") > value(now, "game.score"))[:, 0])


def test_states_stay_within_the_ranges_of_the_schema(played: tuple[np.ndarray, np.ndarray]) -> None:
    _, states = played
    for entity in SCHEMA.entities:
        for field in entity.fields:
            if field.kind == "continuous":
                values = value(states, f"{entity.name}.{field.name}")
                assert field.low <= values.min()
                assert values.max() <= field.high


def test_breaking_bricks_is_rewarded_and_losing_the_last_life_ends_the_game(breakout: Breakout) -> None:
    rewards, lost = 0.0, 0
    for seed in range(4):
        _, info = breakout.reset(seed=seed)
        act, terminated, steps = behaviour("random", np.random.default_rng(seed)), False, 0
        while not terminated:
            before = info["state"]
            _, reward, terminated, truncated, info = breakout.step(act(before))
            after = info["state"]
            steps += 1
            assert reward == (value(after, "game.score") > value(before, "game.score")) == value(after, "game.reward")
            assert terminated == (value(after, "game.lives") == 0) == value(after, "game.terminated")
            assert not truncated
            gone = value(before, "wall.bricks").sum() - value(after, "wall.bricks").sum()
            assert gone == 0 or reward == 1
            rewards, lost = rewards + reward, lost + int(terminated)
            assert steps < 4000
    assert rewards > 0
    assert lost == 4


def test_the_tracker_keeps_the_ball_far_longer_than_chance(breakout: Breakout) -> None:
    lost, hits = dict.fromkeys(("track", "random"), 0.0), dict.fromkeys(("track", "random"), 0.0)
    for name in lost:
        for seed in range(8):
            _, info = breakout.reset(seed=seed)
            act, terminated = behaviour(name, np.random.default_rng(seed)), False
            for _ in range(100):
                if not terminated:
                    before = info["state"]
                    _, _, terminated, _, info = breakout.step(act(before))
                    lost[name] += float((value(before, "game.lives") - value(info["state"], "game.lives")).item())
                    hits[name] += float(value(info["state"], "game.reward").item())
    assert lost["track"] < 0.6 * lost["random"]
    assert hits["track"] > 1.5 * hits["random"]


def test_an_unknown_action_or_resolution_is_refused_with_the_choices(
    breakout: Breakout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="reset"):
        Breakout().step(0)
    breakout.reset(seed=0)
    with pytest.raises(ValueError, match="0 to 3"):
        breakout.step(4)
    with pytest.raises(ValueError, match="choose 80"):
        Breakout(64)
    with pytest.raises(ValueError, match="choose 80"):
        record(tmp_path, 1, world="breakout", resolution=128)
    with pytest.raises(ValueError, match=", ".join(SHARES)):
        behaviour("dance", np.random.default_rng(0))
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ImportError, match="atari"):
        Breakout()


def test_it_is_recorded_like_any_world(tmp_path: Path) -> None:
    record(tmp_path, 2, world="breakout", num_steps=3)
    store = EpisodeStore(tmp_path)
    episode = store.read(1)
    assert episode.frames.shape == (1 + 4 * 3, 80, 80, 3)
    assert episode.states is not None
    assert episode.states.shape == (1 + 3, SCHEMA.num_values)
    assert episode.segmentation is None
    assert store.schema == SCHEMA
    assert store.schema.actions.parts[0].names == ACTIONS
