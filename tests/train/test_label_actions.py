"""What was done is written into a recording that says nothing of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenizer.action_space import ActionSpace
from tokenizer.clip import Episode
from tokenizer.state_schema import StateSchema
from train import label_actions
from train.data.episode_store import EpisodeStore
from train.data.episode_writer import EpisodeWriter, RecordingConfig
from train.modules.latent_actions import LatentActionModule

from .modules.test_latent_actions import SIZE, clips, trained


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = trained()
    path = tmp_path_factory.mktemp("codes") / "last.ckpt"
    given = {name: value for name, value in module.hparams.items() if name != "recording"}
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": given}, path)
    return path


def record(out: Path, *, actions: bool = False, episodes: int = 20) -> np.ndarray:
    """A recording of pushed blocks; (episodes, steps) pushes."""
    frames, done = clips(episodes, 8, seed=500)
    space = ActionSpace.named("stay", "down", "up", "right", "left") if actions else ActionSpace()
    schema = StateSchema(name="blocks", frames_per_step=1, actions=space)
    writer = EpisodeWriter(out, RecordingConfig(schema=schema, size=(SIZE, SIZE), settings={}))
    with writer.shard(0) as shard:
        for i in range(episodes):
            acts = done[i].numpy()[:, None] if actions else None
            episode = Episode(frames=frames[i].numpy(), actions=acts, states=None, caption="", frames_per_step=1)
            shard.add(i, episode, "train" if i < 14 else "validation" if i < 17 else "test")
    writer.consolidate()
    return done.numpy()


def test_a_copy_has_actions_and_a_second_run_changes_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = record(tmp_path / "film")
    told = ["--recording", str(tmp_path / "film"), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "labelled")]
    assert label_actions.main([*told, "--json", str(tmp_path / "figures.json")]) == 0
    numbers = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert numbers["codes_used"] >= 5
    assert numbers["inferred_against_shuffled_db"] > 2
    copy, film = EpisodeStore(tmp_path / "labelled"), EpisodeStore(tmp_path / "film")
    codes = np.stack([copy.read(i).actions[:, 0] for i in range(20)])  # type: ignore[index]
    right = sum(np.bincount(done[codes == code], minlength=5).max() for code in np.unique(codes))
    assert right > 0.7 * codes.size
    assert np.array_equal(copy.read(3).frames, film.read(3).frames)
    assert copy.split("test") == film.split("test")
    files = {p: p.read_bytes() for p in (tmp_path / "labelled").rglob("*") if p.is_file()}
    assert label_actions.main(told) == 0
    assert {p: p.read_bytes() for p in (tmp_path / "labelled").rglob("*") if p.is_file()} == files
    capsys.readouterr()


def test_a_few_labels_name_the_codes(checkpoint: Path, tmp_path: Path) -> None:
    done, names = record(tmp_path / "film"), ("stay", "down", "up", "right", "left")
    rows = [f"{i},{step},{names[done[i, step]]}" for i in range(6) for step in range(8)]
    (tmp_path / "labels.csv").write_text("episode,step,action\n" + "\n".join(rows) + "\n", encoding="utf-8")
    labels = label_actions.read_labels(tmp_path / "labels.csv")
    numbers = label_actions.label_actions(tmp_path / "film", checkpoint, tmp_path / "named", labels=labels)
    assert numbers["labels_agree"] > 0.7
    copy = EpisodeStore(tmp_path / "named")
    (part,) = copy.schema.actions.parts
    found = np.stack([copy.read(i).actions[:, 0] for i in range(20)])  # type: ignore[index]
    truth = np.vectorize(lambda push: list(part.names).index(names[push]))(done)
    assert (found == truth).mean() > 0.7


def test_what_cannot_be_labelled_is_refused_in_a_sentence(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path / "acted", actions=True, episodes=4)
    (tmp_path / "other.ckpt").write_bytes(b"nothing")
    (tmp_path / "labels.csv").write_text("episode,step,action\n90,0,left\n", encoding="utf-8")
    (tmp_path / "table.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    hidden = ["--hide-actions", "--labels"]
    for checkpoint_file, given, sentence in (
        (checkpoint, [], "has actions: give --hide-actions"),
        (tmp_path / "other.ckpt", [], "other.ckpt"),
        (checkpoint, [*hidden, str(tmp_path / "labels.csv")], "the labels speak of episode 90"),
        (checkpoint, [*hidden, str(tmp_path / "table.csv")], "is no table of labels"),
    ):
        told = ["--recording", str(tmp_path / "acted"), "--checkpoint", str(checkpoint_file)]
        assert label_actions.main([*told, *given, "--out", str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert sentence in error
        assert error.count("\n") == 1
    assert not list(tmp_path.glob("out/data/**/*.parquet"))


def test_a_checkpoint_of_other_steps_is_refused(tmp_path: Path) -> None:
    record(tmp_path / "film", episodes=4)
    module = LatentActionModule(width=8, depth=1, frames_per_step=4)
    given = {name: value for name, value in module.hparams.items() if name != "recording"}
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": given}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="was learned with 4 frames a step"):
        label_actions.label_actions(tmp_path / "film", tmp_path / "last.ckpt", tmp_path / "out")
