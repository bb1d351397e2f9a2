"""A training run of a second: a small module with dropout, and windows of numbers in place of a recording.

The environment's KILL_AT says before which batch (counted from the run's start) the process kills itself,
KILL_WITH by which signal.
"""

import os
import signal

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from tokenizer.clip import Episode
from tokenizer.frames import picture_size
from tokenizer.state_schema import StateSchema
from train.data.clips import ClipDataModule, Store
from train.modules.schedule import adamw, warmup_cosine


class NumberedStore:
    """Ten training episodes of 12 steps and two of 3; every pixel and value tells its episode and its time."""

    schema = StateSchema(name="numbers", frames_per_step=2)
    size: tuple[int, int] = (4, 4)

    def split(self, name: str) -> list[int]:
        return {"train": list(range(12)), "validation": [20, 21]}.get(name, [])

    def span(self, index: int, split: str) -> range:
        return range(1 + (3 if index in (4, 5) else 12))

    def caption(self, index: int) -> str:
        return f"episode {index}"

    def read(self, index: int, resolution=None, segmentation: bool = False, *, fit=None, resample="area") -> Episode:
        steps, size = len(self.span(index, "")) - 1, picture_size(resolution or 4)
        frames = np.zeros((1 + 2 * steps, *size, 3), np.uint8)
        frames[..., 0] = index
        frames[..., 1] = np.arange(len(frames))[:, None, None]
        return Episode(
            frames=frames,
            actions=np.arange(steps)[:, None] % 3,
            states=np.stack([np.full(steps + 1, index), np.arange(steps + 1)], 1).astype(np.float32),
            caption=self.caption(index),
            segmentation=frames[:, ::2, ::2, 0] if segmentation else None,
            frames_per_step=2,
        )


class TinyClips(ClipDataModule):
    def __init__(self, num_steps: int = 2, batch_size: int = 4, num_workers: int = 0, windows_per_episode: int = 2):
        super().__init__(
            "unused",
            num_steps=num_steps,
            resolution=4,
            batch_size=batch_size,
            num_workers=num_workers,
            windows_per_episode=windows_per_episode,
            validation_windows=4,
        )

    @property
    def store(self) -> Store:
        return NumberedStore()


class TinyModule(L.LightningModule):
    def __init__(self, lr: float = 1e-2, total_steps: int = 20):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(5 * 4 * 4 * 3, 8), nn.Dropout(0.5), nn.Linear(8, 6))

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        noise = torch.rand(()) + np.random.rand()
        return (self.net(batch["frames"].flatten(1) / 255) - noise * batch["states"].flatten(1) / 12).square().mean()

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        if str(self.trainer.fit_loop.epoch_loop.total_batch_idx) == os.environ.get("KILL_AT"):
            os.kill(os.getpid(), getattr(signal, os.environ.get("KILL_WITH", "SIGKILL")))
        loss = self._loss(batch)
        self.log("loss", loss.detach(), batch_size=len(batch["frames"]))
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        self.log("val/loss", self._loss(batch), batch_size=len(batch["frames"]))

    def sample_video(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["frames"][0]

    def configure_optimizers(self):
        return warmup_cosine(adamw(self, self.hparams["lr"], 0.01), 2, self.hparams["total_steps"])
