"""A person plays the real simulator on the page, and what was played is a recording like any other."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from demo.__main__ import main
from demo.session import Session
from demo.simulated_world import SimulatedWorld
from train.data.episode_store import EpisodeStore
from train.record import main as record


def play(world: Any, seed: int, held: list[str]) -> Session:
    session = Session(world)
    session.start(None, seed)
    for name in held:
        session.hold([name] if name else [])
        session.step()
    return session


def test_what_a_person_plays_is_what_the_simulator_does_with_the_same_seed_and_actions(
    pond: Any, tmp_path: Path
) -> None:
    world: Any = SimulatedWorld("pond:RECIPE", tmp_path)
    play(world, 5, ["left", "", "right", "left"])
    assert "1 episodes played by hand, 4 steps" in world.close()
    store = EpisodeStore(tmp_path)
    episode = store.read(0)
    assert (episode.seed, episode.behaviour, store.split("train")) == (5, "human", [0])
    assert episode.actions is not None
    assert episode.actions.tolist() == [[1], [0], [2], [1]]
    with closing(pond.RECIPE.make(world.size)) as env:
        shown = [env.reset(seed=5)[1]["frames"], *(env.step(a)[-1]["frames"] for a in (1, 0, 2, 1))]
    assert np.array_equal(episode.frames, np.concatenate(shown))


def test_a_long_episode_is_written_in_pieces_that_join(pond: Any, tmp_path: Path) -> None:
    world: Any = SimulatedWorld("pond:FILM", tmp_path, most_steps=4)
    play(world, 2, [""] * 10)
    world.close()
    pieces = [EpisodeStore(tmp_path).read(i) for i in range(3)]
    assert [piece.num_steps for piece in pieces] == [4, 4, 2]
    for one, other in pairwise(pieces):
        assert np.array_equal(one.frames[-1], other.frames[0])
    assert sorted(EpisodeStore(tmp_path).split("validation")) == [1]


def test_a_recording_by_hand_goes_on_where_it_stopped_and_holds_one_world(pond: Any, tmp_path: Path) -> None:
    for seed in (1, 2):
        world: Any = SimulatedWorld("pond:RECIPE", tmp_path)
        play(world, seed, ["left"] * 3)
        world.close()
    assert [EpisodeStore(tmp_path).read(i).seed for i in range(2)] == [1, 2]
    with pytest.raises(ValueError, match="holds a recording made with"):
        SimulatedWorld("pond:FILM", tmp_path)


def test_the_real_world_ends_and_has_no_way_back(pond: Any, tmp_path: Path) -> None:
    world: Any = SimulatedWorld("pond:FILM", tmp_path)
    session = play(world, 2, [""] * 24)
    assert session.branch.picture.terminated  # truncated: the page stops all the same
    for act, sentence in (
        (session.undo, "cannot go back"),
        (session.fork, "cannot be copied"),
        (lambda: session.edit({}), "cannot be written"),
    ):
        with pytest.raises(ValueError, match=sentence):
            act()
    session.step()
    world.close()
    episode, following = (EpisodeStore(tmp_path).read(i) for i in range(2))
    assert (following.seed, following.num_steps) == (3, 1)
    assert (episode.num_steps, episode.truncated) == (24, True)
    assert episode.terminated is not None
    assert not episode.terminated.any()


@pytest.fixture
def same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("same_threads")
def test_the_page_plays_the_simulator_through_its_socket(
    pond: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, own = io.StringIO(), logging.getLogger("of somebody else")
    handler = logging.StreamHandler(kept)
    handler.close = kept.close  # type: ignore[method-assign]
    own.addHandler(handler)
    assert main(["--smoke", "--simulate", "pond:TILLER", "--record", str(tmp_path)]) == 0
    assert not kept.closed  # a server leaves other people's logging alone
    assert "2 episodes played by hand" in capsys.readouterr().out
    first, second = (EpisodeStore(tmp_path).read(i) for i in range(2))
    assert first.num_steps == 24
    assert second.num_steps >= 40 - 24
    assert first.actions is not None
    assert len(np.unique(first.actions, axis=0)) > 1


def test_record_hands_a_player_over_to_the_page(pond: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    taken = ["--play", "--port", "99999", "--world", "pond:RECIPE", "--out", str(tmp_path)]
    assert record(taken) == 1
    assert "choose another --port" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        main(["--simulate", "pond:RECIPE"])
    assert "--simulate and --record go together" in capfd.readouterr().err
