"""One line every so many steps, readable in a terminal and in a log file, and the same as JSON."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import lightning as L


class ProgressLines(L.Callback):
    """Prints step, speed, remaining time and metrics, and appends them to ``metrics.jsonl``.

    ``hours`` count training only and go on counting after a resume, so quality can be drawn against cost.
    """

    def __init__(self, folder: str | Path, every_n_steps: int = 50) -> None:
        self.path = Path(folder) / "metrics.jsonl"
        self.every_n_steps = max(1, every_n_steps)
        self._seconds = 0.0
        self._since = (0.0, 0)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._since = (time.perf_counter(), trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            self._report(trainer, validation=False)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._report(trainer, validation=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step % self.every_n_steps:
            self._report(trainer, validation=False)

    def _report(self, trainer: L.Trainer, *, validation: bool) -> None:
        now, step = time.perf_counter(), trainer.global_step
        elapsed, steps = now - self._since[0], step - self._since[1]
        self._seconds += elapsed
        self._since = (now, step)
        if not trainer.is_global_zero:
            return
        metrics = {
            name: round(float(value), 6)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val") == validation and not name.endswith(("_step", "_epoch"))
        }
        row = {"step": step, "hours": round(self._seconds / 3600, 5), **metrics}
        with self.path.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        words = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        total = f"/{trainer.max_steps}" if trainer.max_steps > 0 else ""
        speed = f"  {steps / elapsed:.2f} steps/s" if steps and not validation else ""
        left = ""
        if speed and trainer.max_steps > step:
            left = f"  {(trainer.max_steps - step) * elapsed / steps / 60:.0f} min left"
        print(f"step {step}{total}  {words}{speed}{left}", flush=True)

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self._seconds + time.perf_counter() - self._since[0]}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self._seconds = state_dict["seconds"]
