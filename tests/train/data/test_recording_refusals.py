"""What the writer of recordings refuses, and that nothing of a refused episode is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from tokenizer.action_space import ActionSpace
from tokenizer.clip import Episode
from tokenizer.state_schema import Entity, Field, StateSchema
from train.data.episode_store import EpisodeStore
from train.data.episode_writer import EpisodeWriter, RecordingConfig

STEPS, R = 3, 2
DOT = Entity(name="dot", fields=(Field(name="x", kind="continuous", role="position", size=2),))
STICK = spaces.Dict(
    move=spaces.Box(np.array([-1, -1], np.float32), np.array([1, 1], np.float32)), jump=spaces.Discrete(2)
)
SCHEMA = StateSchema(name="dot", entities=(DOT,), frames_per_step=R, actions=ActionSpace(STICK))
CHOICES = StateSchema(name="choices", frames_per_step=R, actions=("stay", "go"))
BARE = StateSchema(name="bare", frames_per_step=R)


def config(schema: StateSchema = SCHEMA, **changes: Any) -> RecordingConfig:
    return RecordingConfig(**{"schema": schema, "size": (24, 32), "segmentation": (12, 16), "settings": {}, **changes})


def episode(**changes: Any) -> Episode:
    rng, length = np.random.default_rng(0), 1 + R * STEPS
    made = Episode(
        frames=rng.integers(0, 256, (length, 24, 32, 3), dtype=np.uint8),
        actions=np.stack([*rng.uniform(-1, 1, (2, STEPS)), rng.integers(0, 2, STEPS)], 1).astype(np.float32),
        states=rng.random((1 + STEPS, 2), dtype=np.float32),
        segmentation=rng.integers(0, 2, (length, 12, 16), dtype=np.uint8),
        rewards=np.arange(STEPS, dtype=np.float32),
        terminated=np.array([False, False, True]),
        frames_per_step=R,
    )
    return replace(made, **changes)


def bare(**changes: Any) -> Episode:
    nothing = dict.fromkeys(("actions", "states", "segmentation", "rewards", "terminated"))
    return episode(**{**nothing, **changes})


def record(path: Path, setting: RecordingConfig, *episodes: Episode, split: str = "train") -> EpisodeStore:
    writer = EpisodeWriter(path, setting)
    with writer.shard(0) as shard:
        for i, one in enumerate(episodes):
            shard.add(i, one, split)
    writer.consolidate()
    return EpisodeStore(path)


def with_nan(values: np.ndarray, value: float = np.nan) -> np.ndarray:
    values = values.copy()
    values[1] = value
    return values


WHOLE = episode()
assert WHOLE.actions is not None
assert WHOLE.states is not None
assert WHOLE.rewards is not None
ACTIONS, STATES, REWARDS = WHOLE.actions, WHOLE.states, WHOLE.rewards
REFUSED: dict[str, tuple[Callable[[], Episode], str]] = {
    "frames of another size": (lambda: episode(frames=WHOLE.frames[:, :20]), "holds uint8 \\(7, 24, 32, 3\\)"),
    "frames of another type": (lambda: episode(frames=WHOLE.frames / 255), "frames of float64"),
    "a frame too many": (
        lambda: episode(
            frames=np.concatenate([WHOLE.frames, WHOLE.frames[:1]]), segmentation=np.zeros((8, 12, 16), np.uint8)
        ),
        r"8 frames, but steps of 2 frames take 1 \+ 2n",
    ),
    "no frames": (
        lambda: episode(frames=WHOLE.frames[:0], segmentation=np.zeros((0, 12, 16), np.uint8)),
        "0 frames, but steps",
    ),
    "other steps than the schema's": (lambda: episode(frames_per_step=3), "3 frames a step and its schema 2"),
    "an action too few": (lambda: episode(actions=ACTIONS[:-1]), r"3 steps take numbers of shape \(3, 3\)"),
    "actions of another width": (lambda: episode(actions=np.zeros((3, 2))), r"actions of float64 \(3, 2\)"),
    "actions of text": (lambda: episode(actions=np.full((3, 3), "left")), "actions of <U4"),
    "actions out of range": (lambda: episode(actions=ACTIONS * 9), r"part 'move.\d': action .* is outside"),
    "an action that is no number": (lambda: episode(actions=with_nan(ACTIONS)), "action nan"),
    "half a choice": (lambda: episode(actions=with_nan(ACTIONS, 0.5)), "part 'jump'"),
    "no actions": (lambda: episode(actions=None), "has no actions"),
    "a state too few": (lambda: episode(states=STATES[1:]), r"states of float32 \(3, 2\)"),
    "states of another width": (lambda: episode(states=np.zeros((4, 3), np.float32)), r"wants numbers of shape \(4, 2"),
    "states that are no numbers": (lambda: episode(states=with_nan(STATES)), "states that are no finite"),
    "states without end": (lambda: episode(states=with_nan(STATES, np.inf)), "states that are no finite"),
    "no states": (lambda: episode(states=None), "has no states"),
    "no segmentation": (lambda: episode(segmentation=None), "has no segmentation"),
    "segmentation of another size": (
        lambda: episode(segmentation=np.zeros((7, 24, 32), np.uint8)),
        r"segmentation of uint8 \(7, 24, 32\)",
    ),
    "a reward too few": (lambda: episode(rewards=np.zeros(2)), "rewards of float64"),
    "a reward that is no number": (lambda: episode(rewards=with_nan(REWARDS)), "reward that is no finite number"),
    "an end in the middle": (
        lambda: episode(terminated=np.array([False, True, False])),
        "goes on after its end, step 1",
    ),
    "ends that are numbers": (lambda: episode(terminated=np.zeros(3)), "terminated of float64"),
    "a caption that is none": (lambda: episode(caption=7), "caption of type int"),
    "a caption that UTF-8 cannot hold": (lambda: episode(caption="a \ud800 b"), "UTF-8 cannot hold"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_not_be_read_back_is_refused_in_a_sentence_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    make, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=f"^episode 1.*{sentence}") as refused:
        record(tmp_path, config(), episode(), make())
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["info.json"]


def test_a_refused_episode_leaves_those_beside_it_as_they_were(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path, config())
    with writer.shard(0) as shard:
        with pytest.raises(ValueError, match="has no actions"):
            shard.add(0, episode(actions=None), "train")
        shard.add(0, episode(), "train")
    assert writer.consolidate() == 1
    assert np.array_equal(EpisodeStore(tmp_path).read(0).frames, WHOLE.frames)


def test_choices_are_whole_numbers_of_the_listed(tmp_path: Path) -> None:
    plain = config(CHOICES, segmentation=None)
    for wrong, sentence in (
        (np.array([[0], [1], [2]]), "0 stay, 1 go"),
        (np.array([[0], [-1], [1]]), "0 stay, 1 go"),
        (np.array([[0.0], [1.0], [1.0]]), "whole numbers of shape"),
        (np.array([0, 1, 1]), r"shape \(3, 1\)"),
    ):
        with pytest.raises(ValueError, match=sentence):
            record(tmp_path / "no", plain, bare(actions=wrong))
    acted = np.array([[1], [0], [1]])
    read = record(tmp_path / "yes", plain, bare(actions=acted)).read(0)
    assert read.actions is not None
    assert read.actions.dtype == np.int64
    assert np.array_equal(read.actions, acted)


def test_what_a_recording_does_not_store_is_not_dropped_in_silence(tmp_path: Path) -> None:
    for given, sentence in (
        ({"actions": np.zeros((3, 1), np.int64)}, "takes none"),
        ({"states": STATES}, r"wants numbers of shape \(4, 0\)"),
        ({"segmentation": WHOLE.segmentation}, "does not store"),
    ):
        with pytest.raises(ValueError, match=sentence):
            record(tmp_path, config(BARE, segmentation=None), bare(**given))
    with pytest.raises(ValueError, match="split 'dev'"):
        record(tmp_path, config(BARE, segmentation=None), bare(), split="dev")


def test_every_part_of_a_mixed_action_comes_back_and_is_named_on_disk(tmp_path: Path) -> None:
    store = record(tmp_path, config(), episode(caption="ein Würfel, 方块"))
    read = store.read(0, segmentation=True)
    for name in ("frames", "actions", "states", "segmentation", "rewards", "terminated"):
        assert np.array_equal(getattr(read, name), getattr(WHOLE, name)), name
        assert getattr(read, name).dtype == getattr(WHOLE, name).dtype
    assert read.caption == "ein Würfel, 方块"
    assert store.has_captions
    assert store.size == (24, 32)
    assert store.schema == SCHEMA
    feature = json.loads((tmp_path / "meta/info.json").read_text(encoding="utf-8"))["features"]
    assert feature["action"]["names"] == [part.name for part in SCHEMA.actions.parts]
    assert feature["observation.images.front"]["shape"] == [24, 32, 3]


def test_a_bare_video_has_no_column_for_what_it_lacks(tmp_path: Path) -> None:
    store = record(tmp_path, config(BARE, segmentation=None), bare())
    read = store.read(0)
    assert np.array_equal(read.frames, WHOLE.frames)
    assert all(getattr(read, name) is None for name in ("actions", "states", "segmentation", "rewards", "terminated"))
    assert read.num_steps == STEPS
    assert not store.has_captions
    features = json.loads((tmp_path / "meta/info.json").read_text(encoding="utf-8"))["features"]
    places = {"timestamp", "frame_index", "episode_index", "index", "task_index"}
    assert set(features) == places | {"observation.images.front"}


def test_a_limit_ends_an_episode_without_terminating_it(tmp_path: Path) -> None:
    ends = {"cut": (False, True), "ended": (True, False), "running": (False, False), "both": (True, True)}
    episodes = [
        bare(rewards=REWARDS, terminated=np.array([False, False, last]), truncated=cut) for last, cut in ends.values()
    ]
    store = record(tmp_path, config(BARE, segmentation=None), *episodes)
    for i, (last, cut) in enumerate(ends.values()):
        read = store.read(i)
        assert read.terminated is not None
        assert read.terminated.tolist() == [False, False, last]
        assert read.truncated == cut
        assert read.rewards is not None
        assert np.array_equal(read.rewards, REWARDS)


def test_reward_and_end_of_the_schema_are_not_given_twice(tmp_path: Path) -> None:
    outcome = (
        Field(name="reward", kind="flag", role="reward"),
        Field(name="terminated", kind="flag", role="terminated"),
    )
    schema = StateSchema(name="told", entities=(Entity(name="episode", fields=outcome),), frames_per_step=R)
    states = np.array([[0, 0], [1, 0], [0, 0], [1, 1]], np.float32)
    store = record(tmp_path, config(schema, segmentation=None), bare(states=states, truncated=True))
    read = store.read(0)
    assert read.rewards is None
    assert read.terminated is None
    assert read.truncated
    assert read.states is not None
    assert np.array_equal(read.states, states)
    features = json.loads((tmp_path / "meta/info.json").read_text(encoding="utf-8"))["features"]
    assert {"next.reward", "next.done"} < features.keys()


def test_episodes_of_one_recording_tell_the_same_things(tmp_path: Path) -> None:
    plain = config(BARE, segmentation=None)
    told, untold = bare(rewards=REWARDS), bare()
    with pytest.raises(ValueError, match="record both or neither"):
        record(tmp_path / "one shard", plain, told, untold)
    writer = EpisodeWriter(tmp_path / "two shards", plain)
    for number, one in enumerate((told, untold)):
        with writer.shard(number) as shard:
            shard.add(number, one, "train")
    with pytest.raises(ValueError, match=r"do not record the same things \(next.reward\)"):
        writer.consolidate()


def test_a_folder_of_another_size_schema_or_setting_is_refused(tmp_path: Path) -> None:
    record(tmp_path, config(), episode())
    for other in (config(size=(32, 24)), config(CHOICES), config(segmentation=None), config(settings={"seed": 1})):
        with pytest.raises(ValueError, match="choose another folder"):
            EpisodeWriter(tmp_path, other)
    EpisodeWriter(tmp_path, config())
