"""Killed and resumed, a run ends in the same weights, bit for bit, as one that was left alone.

Three things make it so. Windows are drawn by number (``train.data.draws``), and how many were taken is in
the checkpoint. All randomness inside a step is a function of (seed, rank, step): the generators are
seeded afresh before each batch, so whatever validation or sample videos draw in between cannot be felt, and
there is no random state to save. And the checkpoint is replaced in one move, so a kill leaves the last one
or the new one, never half of it.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint


def refuse_changes(saved: dict[str, Any], mine: dict[str, Any]) -> None:
    """Refuses to go on with other batches than the run began with: the loader would resume wrongly in silence."""
    changed = [f"{name} {saved.get(name)} (now {mine[name]})" for name in mine if saved.get(name) != mine[name]]
    if changed:
        raise ValueError(f"the run that is resumed began with {', '.join(changed)}: set it back, or begin a new run")


class SeededSteps(L.Callback):
    """Seeds torch, numpy and python before every training batch.

    A module that keeps a ``torch.Generator`` of its own must seed it from ``global_step`` likewise.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        key = (self.seed, trainer.global_rank, trainer.global_step, batch_idx)
        first, second, third = (int(word) for word in np.random.SeedSequence(key).generate_state(3))
        torch.manual_seed(first)
        np.random.seed(second)
        random.seed(third)

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        if state_dict["seed"] != self.seed:
            raise ValueError(
                f"the run that is resumed began with seed {state_dict['seed']}: give --seed_everything "
                f"{state_dict['seed']}, or begin a new run"
            )


class LatestCheckpoint(Checkpoint):
    """Keeps one checkpoint, ``last.ckpt``: saved every so many optimizer steps, and when training ends."""

    def __init__(self, folder: str | Path, every_n_train_steps: int = 500) -> None:
        if every_n_train_steps < 1:
            raise ValueError(f"a checkpoint every {every_n_train_steps} steps cannot be: give 1 or more")
        self.path = Path(folder) / "last.ckpt"
        self.every_n_train_steps = every_n_train_steps
        self._saved_at = 0
        self._interrupted = False
        self._before: Any = None  # who took Ctrl-C before

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupt)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-C: once, and the step that is being made is saved first; twice, and it ends at once."""
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        print("\nsaving before it ends (Ctrl-C again: end without)", file=sys.stderr, flush=True)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        whole = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self._interrupted and whole and not trainer.is_last_batch:
            self._save(trainer)
            raise KeyboardInterrupt
        # After an epoch's last batch Lightning could not tell where to go on; the epoch's end follows at once.
        if not trainer.is_last_batch and trainer.global_step - self._saved_at >= self.every_n_train_steps:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        steps = trainer.global_step - self._saved_at
        if steps >= self.every_n_train_steps or (steps and (trainer.fit_loop.done or self._interrupted)):
            self._save(trainer)
        if self._interrupted:
            raise KeyboardInterrupt

    def _save(self, trainer: L.Trainer) -> None:
        self._saved_at = trainer.global_step
        partial = self.path.with_suffix(".partial")
        trainer.save_checkpoint(partial, weights_only=False)
        if trainer.is_global_zero:
            with open(partial, "rb") as written:
                os.fsync(written.fileno())
            partial.replace(self.path)
