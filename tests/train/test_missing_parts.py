"""Worlds of which any part may be missing go the whole way: packed, trained, exported, started and stepped."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from gymnasium import spaces

from tokenizer.action_space import ActionSpace
from tokenizer.clip import Episode
from tokenizer.state_schema import Entity, Field, StateSchema
from tokenizer.video_tokenizer import QuantizerConfig, VideoTokenizer, VideoTokenizerConfig
from train.data.episode_writer import EpisodeWriter, RecordingConfig
from train.data.tokens import TokenDataModule
from train.export import export_world
from train.modules.dynamics import DynamicsModule
from train.tokenize import write_recording
from worldmodel.world import World

R, STEPS, SIZE = 2, 7, (16, 24)
ARM = Entity(
    name="arm",
    fields=(
        Field(name="angle", kind="continuous", role="value", low=-1, high=1, bins=16, change=0.5),
        Field(name="grip", kind="flag", role="value"),
    ),
)
STICK = spaces.Dict(turn=spaces.Box(-1, 1, (2,), np.float32), jump=spaces.Discrete(2))
TOKENIZER = VideoTokenizerConfig(
    resolution=SIZE, frames_per_step=R, patch=2, encoder_width=8, encoder_blocks=1, decoder_width=8, decoder_blocks=2,
    detail_width=8, detail_blocks=1, quantizer=QuantizerConfig(levels=(4, 4)),
)  # fmt: skip
DYNAMICS = {"width": 24, "depth": 1, "heads": 2, "window": 2, "tokens_per_pass": [24, 6], "read_outcome": True}


def schema_of(*, state: bool, actions: bool) -> StateSchema:
    return StateSchema(
        name="arm",
        frames_per_step=R,
        entities=(ARM,) if state else (),
        actions=ActionSpace(STICK, bins=5) if actions else ActionSpace(),
    )


def record(folder: Path, schema: StateSchema, *, caption: bool) -> Path:
    """A bright bar that moves to the right, and brings a reward when it has arrived."""
    writer = EpisodeWriter(folder, RecordingConfig(schema=schema, size=SIZE, settings={}))
    with writer.shard(0) as shard:
        for index in range(5):
            rng = np.random.default_rng(index)
            frames = rng.integers(0, 60, (1 + R * STEPS, *SIZE, 3), dtype=np.uint8)
            for t, frame in enumerate(frames):
                frame[:, t : t + 4] = 220
            turns, jumps = rng.uniform(-1, 1, (STEPS, 2)), rng.integers(0, 2, (STEPS, 1))
            actions = np.concatenate([turns, jumps], 1).astype(np.float32)
            states = np.stack([np.linspace(-0.5, 0.5, 1 + STEPS), np.arange(1 + STEPS) % 2], 1).astype(np.float32)
            episode = Episode(
                frames=frames,
                actions=actions if schema.actions else None,
                states=states if schema.num_values else None,
                caption=f"an arm of lot {index}" if caption else "",
                rewards=(np.arange(STEPS) == STEPS - 1).astype(np.float32),
                terminated=np.arange(STEPS) == STEPS - 1,
                frames_per_step=R,
            )
            shard.add(index, episode, "validation" if index == 4 else "train")
    writer.consolidate()
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    torch.manual_seed(0)
    VideoTokenizer(TOKENIZER).save(folder)
    return folder


class Logged(L.Callback):
    """What was logged in training and in validation."""

    def __init__(self) -> None:
        self.training: dict[str, float] = {}
        self.validation: dict[str, float] = {}

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self.training |= {name: float(value) for name, value in trainer.logged_metrics.items()}

    def on_validation_end(self, trainer: L.Trainer, *_: object) -> None:
        self.validation |= {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize(("state", "actions", "caption"), list(product([True, False], repeat=3)))
def test_a_world_without_any_of_its_parts_trains_and_runs(
    state: bool, actions: bool, caption: bool, tmp_path: Path, tokenizer: Path
) -> None:
    schema = schema_of(state=state, actions=actions)
    write_recording(record(tmp_path / "recording", schema, caption=caption), tokenizer, tmp_path / "tokens")
    torch.manual_seed(0)
    module = DynamicsModule(str(tmp_path / "tokens"), DYNAMICS | ({"max_text": 16} if caption else {}))
    data = TokenDataModule(
        str(tmp_path / "tokens"), num_blocks=4, max_text=16 if caption else 0, batch_size=2, skip_share=0.0
    )
    logged = Logged()
    trainer = L.Trainer(
        max_steps=3, accelerator="cpu", logger=False, callbacks=[logged], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, data)

    wanted = {"loss", "video", "reward", "end"}
    wanted |= {"state", "first_state"} if state else set()
    wanted |= {"header"} if caption else set()
    wanted |= {"caption"} if state and caption else set()
    assert set(logged.training) == wanted
    trainer.validate(module, data, verbose=False)
    assert {f"val/{name}" for name in wanted} <= set(logged.validation)
    assert all(math.isfinite(value) for value in (*logged.training.values(), *logged.validation.values()))

    trainer.save_checkpoint(tmp_path / "dynamics.ckpt")
    export_world(tokenizer, tmp_path / "tokens", tmp_path / "dynamics.ckpt", None, tmp_path / "world")
    world = World.from_pretrained(tmp_path / "world", device="cpu")
    assert (world.text is not None) == caption
    assert (tmp_path / "world" / "text.model").exists() == caption
    frames = torch.randint(0, 256, (1 + 3 * R, *SIZE, 3), dtype=torch.uint8)
    begun = torch.zeros(schema.num_values) if state else None
    for rollout in (world.start(frames=frames, state=begun), world.start(seed=3, batch=2)):
        action = {"turn": np.array([0.3, -1], np.float32), "jump": 1} if actions else None
        for _ in range(4):
            step = rollout.step(action)
        assert step.frames.shape == (len(rollout), R, *SIZE, 3)
        assert step.state.shape == (len(rollout), schema.num_values)
        assert step.reward.shape == step.terminated.shape == (len(rollout),)
        assert set(step.reward.tolist()) <= {0.0, 1.0}
