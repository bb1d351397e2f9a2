"""Doom's rooms as a Gymnasium environment, and recorded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from train.data.episode_store import EpisodeStore
from train.record import record
from train.worlds.doom.behaviours import SHARES, behaviour
from train.worlds.doom.schema import ACTIONS
from train.worlds.doom.simulator import Doom

pytest.importorskip("vizdoom")


@pytest.fixture
def doom() -> Iterator[Doom]:
    env = Doom(64)
    yield env
    env.close()


def test_gymnasium_finds_nothing_to_complain_about(doom: Doom) -> None:
    check_env(doom, skip_render_check=True)


def test_the_same_seed_and_actions_show_the_same_pictures(doom: Doom) -> None:
    runs = []
    for _ in range(2):
        runs.append([doom.reset(seed=3)[1], *(doom.step(action)[4] for action in (1, 3, 5))])
    for first, second in zip(*runs, strict=True):
        assert np.array_equal(first["frames"], second["frames"])
        assert np.array_equal(first["states"], second["states"])
    assert not np.array_equal(runs[0][0]["frames"], doom.reset(seed=4)[1]["frames"])


def test_turning_turns_the_heading_and_walking_changes_the_place(doom: Doom) -> None:
    before = doom.reset(seed=0)[1]["state"]
    turned = doom.step(ACTIONS.index("turn_left"))[4]["state"]
    assert math.remainder(turned[4] - before[4], 2 * math.pi) > 0.05
    assert np.abs(turned[:2] - before[:2]).max() < 1
    walked = max((doom.step(ACTIONS.index("forward"))[4]["state"] for _ in range(4)), key=lambda s: np.abs(s[:2]).sum())
    assert np.abs(walked[:2] - turned[:2]).max() > 2


def test_an_unknown_action_or_resolution_is_refused_with_the_choices(doom: Doom) -> None:
    doom.reset(seed=0)
    with pytest.raises(ValueError, match="0 to 5"):
        doom.step(6)
    with pytest.raises(ValueError, match="64 or 128"):
        Doom(100)
    with pytest.raises(ValueError, match=", ".join(SHARES)):
        behaviour("dance", np.random.default_rng(0))


def test_it_is_recorded_like_any_world(tmp_path: Path) -> None:
    record(tmp_path, 2, world="doom", num_steps=3, resolution=64)
    store = EpisodeStore(tmp_path)
    episode = store.read(1)
    assert episode.frames.shape == (1 + 4 * 3, 64, 64, 3)
    assert episode.segmentation is None
    assert store.schema.actions.parts[0].names == ACTIONS
    assert episode.frames.std() > 10
