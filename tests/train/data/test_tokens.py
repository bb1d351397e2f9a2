"""Token shards of worlds that lack any part, from a recording to windows."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from tokenizer.action_space import ActionSpace
from tokenizer.clip import Episode
from tokenizer.state_schema import Entity, Field, StateSchema
from tokenizer.text_tokenizer import TextTokenizer
from tokenizer.video_tokenizer import QuantizerConfig, VideoTokenizer, VideoTokenizerConfig
from train.data.episode_store import EpisodeStore
from train.data.episode_writer import EpisodeWriter, RecordingConfig
from train.data.tokens import TokenDataModule, TokenisedEpisode, TokenStore, TokenWindows, TokenWriter
from train.tokenize import binned_actions, main, write_recording

R, STEPS = 2, 6
JOINT = Entity(name="joint", fields=(Field(name="angle", kind="continuous", role="value", bins=16),))
STICK = spaces.Dict(turn=spaces.Box(-1, 1, (1,), np.float32), jump=spaces.Discrete(2))
TOKENIZER = VideoTokenizerConfig(
    resolution=16, frames_per_step=R, patch=2, encoder_width=8, encoder_blocks=1, decoder_width=8, decoder_blocks=2,
    detail_width=8, detail_blocks=1, quantizer=QuantizerConfig(levels=(4, 4)),
)  # fmt: skip


def schema_of(*, state: bool, actions: bool) -> StateSchema:
    return StateSchema(
        name="arm",
        frames_per_step=R,
        entities=(JOINT,) if state else (),
        actions=ActionSpace(STICK, bins=5) if actions else ActionSpace(),
    )


def episode_of(schema: StateSchema, index: int, *, caption: bool, size: tuple[int, int] = (16, 16)) -> Episode:
    rng = np.random.default_rng(index)
    turned, jumped = rng.normal(0, 0.1, STEPS).clip(-1, 1), rng.integers(0, 2, STEPS)
    return Episode(
        frames=rng.integers(0, 256, (1 + R * STEPS, *size, 3), dtype=np.uint8),
        actions=np.stack([turned, jumped], 1).astype(np.float32) if schema.actions else None,
        states=rng.random((1 + STEPS, 1), dtype=np.float32) if schema.num_values else None,
        caption=f"an arm of lot {index}" if caption else "",
        rewards=np.arange(STEPS, dtype=np.float32),
        terminated=np.arange(STEPS) == STEPS - 1,
        frames_per_step=R,
    )


def record(folder: Path, schema: StateSchema, *, caption: bool = True, size: tuple[int, int] = (16, 16)) -> Path:
    writer = EpisodeWriter(folder, RecordingConfig(schema=schema, size=size, settings={}))
    with writer.shard(0) as shard:
        for index in range(4):
            split = "validation" if index == 3 else "train"
            shard.add(index, episode_of(schema, index, caption=caption, size=size), split)
    writer.consolidate()
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tokenizer")
    VideoTokenizer(TOKENIZER).save(folder)
    return folder


@pytest.mark.parametrize(("state", "actions", "caption"), list(product([True, False], repeat=3)))
def test_what_a_world_lacks_is_absent_from_its_tokens(
    tmp_path: Path, tokenizer: Path, state: bool, actions: bool, caption: bool
) -> None:
    schema = schema_of(state=state, actions=actions)
    write_recording(record(tmp_path / "recording", schema, caption=caption), tokenizer, tmp_path / "tokens")
    store = TokenStore(tmp_path / "tokens")
    assert store.schema == schema
    assert store.rewards == list(range(STEPS))
    assert store.ends
    assert (store.text is not None) == caption
    assert (store.vocabulary.text > 0) == caption == (tmp_path / "tokens/text.model").is_file()
    assert (store.vocabulary.action > 0) == actions
    windows = TokenWindows(store, "train", num_blocks=4, max_text=8, max_event=5, skip_share=0.5)
    item = windows[0]
    wanted = {"text", "skipped", "event_block", "event", "video", "rewards", "terminated"}
    wanted |= {"states", "opening"} if state else set()
    assert item.keys() == wanted | ({"actions"} if actions else set())
    assert item["text"].shape == ((8,) if caption else (0,))
    assert item["event"].shape == ((5,) if caption else (0,))
    assert item["video"].shape == (4, 16)
    layout = store.layout(8, 5)
    assert (layout.max_text, layout.max_event) == ((8, 5) if caption else (0, 0))
    if not state:
        assert not any(windows[draw]["skipped"].any() for draw in range(20))
    batch = next(iter(TokenDataModule(str(tmp_path / "tokens"), num_blocks=4, batch_size=2).train_dataloader()))
    assert batch["video"].shape == (2, 4, 16)


def test_actions_are_ids_and_rewards_and_ends_stay_with_the_frame_they_led_to(tmp_path: Path, tokenizer: Path) -> None:
    schema = schema_of(state=True, actions=True)
    write_recording(record(tmp_path / "recording", schema), tokenizer, tmp_path / "tokens")
    windows = TokenWindows(TokenStore(tmp_path / "tokens"), "validation", num_blocks=4, max_text=8)
    true = episode_of(schema, 3, caption=True)
    assert true.actions is not None
    assert true.states is not None
    ids = schema.actions.values_to_ids(true.actions)
    ends = 0
    for draw in range(len(windows)):
        item = windows[draw]
        start = int(np.flatnonzero(np.isclose(true.states[:, 0], item["states"][0, 0]))[0])
        assert item["actions"].dtype == torch.int64
        assert item["actions"][0].tolist() == [-1, -1]
        assert torch.equal(item["actions"][1:], ids[start : start + 3])
        assert item["rewards"].tolist() == [0, *range(start, start + 3)]
        assert item["terminated"].tolist() == [False, False, False, start == STEPS - 3]
        ends += int(item["terminated"].any())
    assert ends == 1


def test_codes_that_are_seldom_seen_are_not_said(tmp_path: Path, tokenizer: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("train.data.tokens.MOST_SEEN", 1)
    recording = record(tmp_path / "r", schema_of(state=False, actions=False), caption=False)
    write_recording(recording, tokenizer, tmp_path / "all")
    write_recording(recording, tokenizer, tmp_path / "often", least_seen=3)
    every, often = TokenStore(tmp_path / "all"), TokenStore(tmp_path / "often")
    counts = torch.cat([e.video.flatten() for e in every.load("train") if e.video is not None]).bincount()
    assert often.said == (counts >= 3).nonzero()[:, 0].tolist()
    assert 0 < len(often.said) < int((counts > 0).sum())
    for split in ("train", "validation"):
        for one in often.load(split):
            assert one.video is not None
            assert 0 <= one.video.min() <= one.video.max() < len(often.said) == often.vocabulary.size("video")
    more = record(tmp_path / "more", schema_of(state=False, actions=False), caption=False)
    write_recording(more, tokenizer, tmp_path / "both", older=tmp_path / "often")
    both = TokenStore(tmp_path / "both")
    assert both.said == often.said
    taken, old = both.load("validation")[0].video, often.load("validation")[0].video
    assert taken is not None
    assert old is not None
    assert torch.equal(taken, old)


def test_bins_are_fitted_to_the_training_episodes_and_kept_with_the_tokens(tmp_path: Path, tokenizer: Path) -> None:
    recording = record(tmp_path / "recording", schema_of(state=False, actions=True), size=(16, 32))
    command = ["--recording", str(recording), "--tokenizer", str(tokenizer), "--out", str(tmp_path / "tokens")]
    assert main([*command, "--fit", "crop", "--action-bins", "7", "--action-bins-by", "quantile"]) == 0
    levels = TokenStore(tmp_path / "tokens").schema.actions.parts[0].levels
    assert len(levels) == 7
    assert levels[0] == -1
    assert levels[-1] == 1
    assert max(abs(level) for level in levels[1:-1]) < 0.3  # where the actions are
    training = np.concatenate([a for i in range(3) if (a := EpisodeStore(recording).actions(i)) is not None])
    assert EpisodeStore(recording).schema.actions.fit(training, 7, "quantile").parts[0].levels == levels


def test_actions_without_bounds_are_given_bins_unasked(tmp_path: Path) -> None:
    loose = ActionSpace(spaces.Box(-np.inf, np.inf, (1,), np.float32))
    schema = replace(schema_of(state=False, actions=False), actions=loose)
    writer = EpisodeWriter(tmp_path, RecordingConfig(schema=schema, size=16, settings={}))
    bare = episode_of(schema_of(state=False, actions=False), 0, caption=False)
    with writer.shard(0) as shard:
        for index in range(2):
            acted = np.linspace(-3, 5 + index, STEPS, dtype=np.float32)[:, None]
            shard.add(index, replace(bare, actions=acted), ("train", "validation")[index])
    writer.consolidate()
    store = EpisodeStore(tmp_path)
    assert not store.schema.actions.fitted
    part = binned_actions(store).parts[0]
    assert (part.levels[0], part.levels[-1], part.size) == (-3, 5, 11)


def test_a_command_that_cannot_serve_says_why_in_one_line(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = record(tmp_path / "wide", schema_of(state=False, actions=False), size=(16, 32))
    slow = record(tmp_path / "slow", replace(schema_of(state=False, actions=False), frames_per_step=R))
    VideoTokenizer(replace(TOKENIZER, frames_per_step=4)).save(tmp_path / "other")
    for recording, by, options, sentence in (
        (wide, tokenizer, [], "another aspect than 16x16: choose fit crop"),
        (slow, tmp_path / "other", [], "2 frames a step and the video tokenizer 4"),
        (slow, tokenizer, ["--action-bins", "9"], "no quantities: leave out --action-bins"),
        (slow, tokenizer, ["--camera", "top"], "no camera 'top'"),
        (tmp_path / "nothing", tokenizer, [], "no recording at"),
    ):
        command = ["--recording", str(recording), "--tokenizer", str(by), "--out", str(tmp_path / "tokens")]
        assert main([*command, *options]) == 1
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(said) == 1
        assert sentence in said[0]


def writer_of(folder: Path, schema: StateSchema, text: TextTokenizer | None = None, *, codes: int = 16) -> TokenWriter:
    quantizer = QuantizerConfig(kind="vq", num_codes=codes)
    return TokenWriter(folder, schema=schema, text=text, quantizer=quantizer, grid=(1, 1))


def written(folder: Path, episodes: list[TokenisedEpisode], text: TextTokenizer | None = None) -> TokenStore:
    schema = schema_of(state=True, actions=False)
    writer = writer_of(folder, schema, text)
    writer.write_shard(episodes)
    writer.close()
    return TokenStore(folder)


def numbered(index: int = 0, length: int = 40, **changes: Any) -> TokenisedEpisode:
    states = torch.arange(length)[:, None] / length
    parts: dict[str, Any] = {"states": states, "rewards": torch.arange(length - 1).float(), **changes}
    return TokenisedEpisode(episode=index, split="train", **parts)


def test_one_episode_is_divided_by_time_with_its_events(tmp_path: Path) -> None:
    text = TextTokenizer.train(["go"], 300)
    store = written(tmp_path, [numbered(caption="go", events={10: "go", 36: "go", 38: "go"})], text)
    (train,), (validation,) = store.load("train"), store.load("validation")
    assert train.states is not None
    assert validation.states is not None
    assert validation.rewards is not None
    assert torch.equal(train.states, numbered().states[:36])  # pyright: ignore[reportOptionalSubscript]
    assert torch.equal(validation.states, numbered().states[36:])  # pyright: ignore[reportOptionalSubscript]
    assert validation.rewards.tolist() == [36, 37, 38]
    assert (train.events, validation.events) == ({10: "go"}, {2: "go"})
    windows = TokenWindows(store, "train", num_blocks=5, max_text=4, skip_share=0.9)
    assert max(float(windows[draw]["states"].max()) for draw in range(100)) == pytest.approx(35 / 40)


def test_many_different_rewards_are_told_by_a_few(tmp_path: Path) -> None:
    store = written(tmp_path, [numbered(0, rewards=torch.linspace(-1, 2, 39)), numbered(1, rewards=torch.zeros(39))])
    assert len(store.rewards) <= 33
    assert 0 in store.rewards
    assert (store.rewards[0], store.rewards[-1]) == (-1, 2)
    assert not store.ends
    assert written(tmp_path / "none", [numbered(0, rewards=None)]).rewards == []
    with pytest.raises(ValueError, match="no episode to put into"):
        writer_of(tmp_path / "empty", store.schema).close()


def test_episodes_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    for wrong, sentence in (
        (numbered(1, rewards=None), "differs from those before it in rewards"),
        (numbered(1, states=torch.zeros(40, 2)), r"states of shape \(40, 2\), but each step takes \(1,\)"),
        (numbered(1, rewards=torch.zeros(3)), "one number of latent frames, got 40 of states, 4 of rewards"),
        (numbered(1, states=None, rewards=None), "got nothing at all"),
    ):
        with pytest.raises(ValueError, match=f"^episode 1 .*{sentence}"):
            written(tmp_path, [numbered(), wrong])


def test_older_tokens_are_taken_over_and_those_of_another_vocabulary_refused(tmp_path: Path) -> None:
    older = written(tmp_path / "older", [numbered(0, 10), numbered(1, 12)])
    writer = writer_of(tmp_path / "both", older.schema)
    writer.take_over(older.folder)
    writer.write_shard([numbered(0, 20, rewards=torch.full((19,), 50.0))])
    writer.close()
    both = TokenStore(tmp_path / "both")
    episodes = [*both.load("train"), *both.load("validation")]
    assert sorted(e.num_latent_frames for e in episodes) == [10, 12, 20]
    assert 50 in both.rewards
    assert 0 in both.rewards
    with pytest.raises(ValueError, match="older has another vocabulary"):
        writer_of(tmp_path / "more", older.schema, codes=8).take_over(older.folder)


def test_a_shard_from_when_an_action_was_one_number_is_still_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    store = written(tmp_path, [numbered(i, rewards=None) for i in range(2)])
    states = torch.cat([numbered().states, numbered().states])  # pyright: ignore[reportArgumentType]
    flat = torch.arange(80, dtype=torch.int16) % 3
    save_file({"states": states, "actions": flat}, tmp_path / "tokens-00000.safetensors")
    (episode,) = store.load("train")
    assert episode.actions is not None
    assert episode.actions.shape == (39, 1)
    assert episode.actions.dtype == torch.int64


def test_broken_token_files_are_named_with_their_mend(tmp_path: Path) -> None:
    def broken(name: str) -> None:
        folder = tmp_path / name
        written(folder, [numbered(i) for i in range(3)])
        (folder / name).write_bytes((folder / name).read_bytes()[:40])
        with pytest.raises(ValueError, match=f"{name} is broken or missing .*make the tokens again"):
            TokenStore(folder).load("train")

    for name in ("tokens.json", "index.parquet", "tokens-00000.safetensors"):
        broken(name)


@pytest.mark.parametrize("size", [(24, 16), (16, 28), (32, 24)])
def test_one_clip_of_any_picture_is_tokenised_and_divided_by_time(tmp_path: Path, size: tuple[int, int]) -> None:
    schema = schema_of(state=False, actions=False)
    length = 1 + R * 30
    frames = np.random.default_rng(0).integers(0, 256, (length, 2 * size[0], 2 * size[1], 3), dtype=np.uint8)
    writer = EpisodeWriter(tmp_path / "clip", RecordingConfig(schema=schema, size=frames.shape[1:3], settings={}))
    with writer.shard(0) as shard:
        shard.add(0, Episode(frames=frames, frames_per_step=R), "train")
    writer.consolidate()
    VideoTokenizer(replace(TOKENIZER, resolution=size)).save(tmp_path / "tokenizer")
    write_recording(tmp_path / "clip", tmp_path / "tokenizer", tmp_path / "tokens")
    store = TokenStore(tmp_path / "tokens")
    assert store.grid == (size[0] // 4, size[1] // 4)
    (train,), (validation,) = store.load("train"), store.load("validation")
    assert (train.num_latent_frames, validation.num_latent_frames) == (28, 3)
    assert train.parts.keys() == validation.parts.keys() == {"video"}
    assert train.parts["video"].shape == (28, size[0] * size[1] // 16)
