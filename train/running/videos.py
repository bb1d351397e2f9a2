"""Sample videos, written while training runs. PyAV writes them: loggers' own video support drops frames silently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from worldmodel.video_file import VideoWriter


def write_mp4(path: str | Path, frames: Tensor | np.ndarray, fps: int = 60, scale: int = 1) -> None:
    """Writes uint8 ``(T, H, W, 3)`` as H.264 (for looking at, not for training: chroma is halved).

    ``scale`` repeats pixels. Odd sizes are stretched by a row or column, for H.264 needs even ones.
    """
    video = np.asarray(frames)
    if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8:
        raise ValueError(f"a video is uint8 (frames, height, width, 3), got {video.dtype} {video.shape}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    size = video.shape[1], video.shape[2]
    with VideoWriter(path, fps=fps, size=size, min_size=scale * size[0]) as writer:
        writer.write(video)


class VideoLogger(L.Callback):
    """Every ``every_n_steps`` steps writes what ``pl_module.sample_video(batch)`` shows, if the module has it.

    ``sample_video`` gets the training batch and returns uint8 ``(T, H, W, 3)``, or None; the file is
    ``videos/<step>.mp4`` in the run's folder.
    """

    def __init__(self, every_n_steps: int = 1000, fps: int = 15, scale: int = 3) -> None:
        self.every_n_steps, self.fps, self.scale = max(1, every_n_steps), fps, scale
        self._written_at = -1

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        sample = getattr(pl_module, "sample_video", None)
        if sample is None or step == self._written_at or step % self.every_n_steps or not trainer.is_global_zero:
            return
        self._written_at = step
        pl_module.eval()
        try:
            with torch.no_grad():
                frames = sample(batch)
        finally:
            pl_module.train()
        if frames is None:
            return
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "videos"
        write_mp4(
            folder / f"{step:07d}.mp4", frames.cpu() if isinstance(frames, Tensor) else frames, self.fps, self.scale
        )
