"""Worlds that lack any part, of any size, go the whole way: packed, trained, exported, started and stepped."""

from __future__ import annotations

import math
from itertools import cycle, product
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from gymnasium import spaces

from tokenizer.action_space import ActionSpace
from tokenizer.clip import Episode
from tokenizer.state_schema import Entity, Field, StateSchema
from train.data.clips import ClipDataModule
from train.data.episode_writer import EpisodeWriter, RecordingConfig
from train.data.tokens import TokenDataModule
from train.export import export_world, read_tokenizer
from train.modules.dynamics import DynamicsModule
from train.modules.tokenizer import TokenizerModule
from train.tokenize import write_recording
from worldmodel.world import World

R, STEPS = 2, 7
SIZES = ((96, 64), (64, 112), (128, 72))  # height, width
ARM = Entity(
    name="arm",
    fields=(
        Field(name="angle", kind="continuous", role="value", low=-1, high=1, bins=16, change=0.5),
        Field(name="grip", kind="flag", role="value"),
    ),
)
STICK = spaces.Dict(turn=spaces.Box(-1, 1, (2,), np.float32), jump=spaces.Discrete(2))
TOKENIZER = {
    "frames_per_step": R, "encoder_width": 8, "encoder_blocks": 1, "decoder_width": 8, "decoder_blocks": 2,
    "detail_width": 8, "detail_blocks": 1, "quantizer": {"levels": [4, 4]},
}  # fmt: skip
DYNAMICS = {"width": 24, "depth": 1, "heads": 2, "window": 2, "read_outcome": True}


def schema_of(*, state: bool, actions: bool) -> StateSchema:
    return StateSchema(
        name="arm",
        frames_per_step=R,
        entities=(ARM,) if state else (),
        actions=ActionSpace(STICK, bins=5) if actions else ActionSpace(),
    )


def record(folder: Path, schema: StateSchema, size: tuple[int, int], *, caption: bool) -> Path:
    """A bright bar that moves to the right, and brings a reward when it has arrived."""
    writer = EpisodeWriter(folder, RecordingConfig(schema=schema, size=size, settings={}))
    with writer.shard(0) as shard:
        for index in range(5):
            rng = np.random.default_rng(index)
            frames = rng.integers(0, 60, (1 + R * STEPS, *size, 3), dtype=np.uint8)
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
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], Path]:
    """A tokenizer for each size, trained for two steps on pictures alone."""
    folders = {}
    for size in SIZES:
        folders[size] = folder = tmp_path_factory.mktemp("tokenizer")
        recording = record(folder / "recording", schema_of(state=False, actions=False), size, caption=False)
        torch.manual_seed(0)
        module = TokenizerModule({**TOKENIZER, "resolution": list(size)})
        data = ClipDataModule(str(recording), num_steps=2, resolution=list(size), batch_size=2, validation_windows=2)
        trainer = trainer_of(folder, 2)
        trainer.fit(module, data)
        trainer.save_checkpoint(folder / "tokenizer.ckpt")
        read_tokenizer(folder / "tokenizer.ckpt").save(folder)
    return folders


def trainer_of(folder: Path, steps: int, *callbacks: L.Callback) -> L.Trainer:
    return L.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, callbacks=list(callbacks), enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1, default_root_dir=folder,
    )  # fmt: skip


class Logged(L.Callback):
    """What was logged in training and in validation."""

    def __init__(self) -> None:
        self.training: dict[str, float] = {}
        self.validation: dict[str, float] = {}

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self.training |= {name: float(value) for name, value in trainer.logged_metrics.items()}

    def on_validation_end(self, trainer: L.Trainer, *_: object) -> None:
        self.validation |= {name: float(value) for name, value in trainer.callback_metrics.items()}


LACKS = list(product([True, False], repeat=3))


@pytest.mark.parametrize(
    ("state", "actions", "caption", "size"), [(*has, size) for has, size in zip(LACKS, cycle(SIZES))]
)
def test_a_world_without_any_of_its_parts_trains_and_runs(
    state: bool,
    actions: bool,
    caption: bool,
    size: tuple[int, int],
    tmp_path: Path,
    tokenizers: dict[tuple[int, int], Path],
) -> None:
    tokenizer = tokenizers[size]
    schema = schema_of(state=state, actions=actions)
    write_recording(record(tmp_path / "recording", schema, size, caption=caption), tokenizer, tmp_path / "tokens")
    torch.manual_seed(0)
    module = DynamicsModule(str(tmp_path / "tokens"), DYNAMICS | ({"max_text": 16} if caption else {}))
    data = TokenDataModule(
        str(tmp_path / "tokens"), num_blocks=4, max_text=16 if caption else 0, batch_size=2, skip_share=0.0
    )
    logged = Logged()
    trainer = trainer_of(tmp_path, 3, logged)
    trainer.fit(module, data)

    wanted = {"loss", "video", "reward", "end"}
    wanted |= {"state", "first_state"} if state else set()
    wanted |= {"header"} if caption else set()
    wanted |= {"action"} if actions and not state else set()
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
    frames = torch.randint(0, 256, (1 + 3 * R, *size, 3), dtype=torch.uint8)
    begun = torch.zeros(schema.num_values) if state else None
    for rollout in (world.start(frames=frames, state=begun), world.start(seed=3, batch=2)):
        action = {"turn": np.array([0.3, -1], np.float32), "jump": 1} if actions else None
        for _ in range(4):
            step = rollout.step(action)
        assert step.frames.shape == (len(rollout), R, *size, 3)
        assert step.state.shape == (len(rollout), schema.num_values)
        assert step.reward.shape == step.terminated.shape == (len(rollout),)
        assert set(step.reward.tolist()) <= {0.0, 1.0}
