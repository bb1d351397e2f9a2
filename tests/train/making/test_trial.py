"""What is tried before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from train.data.episode_store import EpisodeStore
from train.making.trial import few
from train.record import main as record


def test_a_few_episodes_of_a_recording_are_a_recording_of_their_own(pond: Any, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    command = ["--world", "pond:FILM", "--resolution", "16x24", "--steps", "4", "--workers", "1", "--out", str(whole)]
    assert record([*command, "--episodes", "40"]) == 0
    store, sample = EpisodeStore(whole), EpisodeStore(few(whole, tmp_path / "few", 5))
    assert 5 <= len(sample) <= 10
    assert all(sample.split(name) for name in ("train", "validation", "test") if store.split(name))
    frames = {store.read(i).frames.tobytes() for i in range(len(store))}
    assert all(sample.read(i).frames.tobytes() in frames for i in range(len(sample)))
    assert np.array_equal(sample.read(0).frames, store.read(0).frames)
    assert len(EpisodeStore(few(whole, tmp_path / "few", 3))) < len(sample)  # made anew
    assert len(EpisodeStore(whole)) == 40
