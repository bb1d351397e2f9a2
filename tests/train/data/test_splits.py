"""Which episodes, or which part of one, validate where nobody has marked any."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from tokenizer.clip import Episode
from tokenizer.state_schema import StateSchema
from train.data.clips import ClipDataset
from train.data.episode_store import EpisodeStore
from train.data.episode_writer import EpisodeWriter, RecordingConfig
from train.data.splits import divide


def test_marked_episodes_go_where_their_marks_say() -> None:
    parts = divide(["train", "test", "validation", None], [5, 6, 7, 8], "marked")
    assert parts == {"train": {0: range(5), 3: range(8)}, "validation": {2: range(7)}, "test": {1: range(6)}}


@pytest.mark.parametrize("count", [2, 3, 10, 300])
def test_without_marks_about_a_tenth_validates_and_it_is_always_the_same(count: int) -> None:
    parts = divide([None] * count, [5] * count, f"{count} unmarked")
    train, validation = set(parts["train"]), set(parts["validation"])
    assert train | validation == set(range(count))
    assert not train & validation
    assert train
    assert 1 <= len(validation) <= max(1, count // 5)
    assert divide([None] * count, [5] * count, "again") == parts


def test_episodes_marked_for_testing_do_not_validate() -> None:
    parts = divide(["test"] * 20, [5] * 20, "held out")
    assert parts["validation"] == parts["train"] == {}
    parts = divide(["test"] * 20 + ["train"], [50] * 21, "one to train with")
    assert parts["train"] == {20: range(45)}
    assert parts["validation"] == {20: range(45, 50)}


def test_it_is_said_once_in_a_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            divide([None] * 7, [5] * 7, "seven clips")
            divide(["train", "validation"], [5, 5], "two clips")
    assert [record.message for record in caplog.records] == [
        "seven clips has no validation episodes: 1 of 7 training episodes validate instead"
    ]


def test_one_long_clip_is_divided_by_time_and_no_training_window_reaches_its_end(tmp_path: Path) -> None:
    steps, r = 40, 2
    frames = np.zeros((1 + r * steps, 8, 8, 3), np.uint8)
    frames[..., 0] = np.arange(len(frames))[:, None, None]
    writer = EpisodeWriter(
        tmp_path, RecordingConfig(schema=StateSchema(name="clip", frames_per_step=r), size=8, settings={})
    )
    with writer.shard(0) as shard:
        shard.add(0, Episode(frames=frames, frames_per_step=r), "train")
    writer.consolidate()
    store = EpisodeStore(tmp_path)
    assert store.split("train") == store.split("validation") == [0]
    shown = {}
    for split in ("train", "validation"):
        clips = ClipDataset(store, split, num_steps=2, resolution=8)
        shown[split] = {int(t) for draw in range(300) for t in clips[draw]["frames"][:, 0, 0, 0]}
    assert shown["train"] == set(range(73))
    assert shown["validation"] == set(range(74, 81))
    with pytest.raises(ValueError, match="no validation episode is 4 steps long, the longest has 3: lower num_steps"):
        ClipDataset(store, "validation", num_steps=4, resolution=8)
