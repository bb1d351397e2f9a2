"""The optimizer and the learning rate that all three trainings share."""

from __future__ import annotations

from math import cos, pi
from typing import Any

import lightning as L
import torch
from torch import nn


def adamw(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """Fused AdamW; matrices decay, vectors (norms, biases, gates) do not."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)


def warmup_cosine(optimizer: torch.optim.Optimizer, warmup_steps: int, total_steps: int) -> dict[str, Any]:
    """Linear warm-up, then a cosine down to a hundredth at ``total_steps``, in Lightning's form.

    Total steps come from the configuration: reading ``trainer.estimated_stepping_batches`` would drop the
    data loader's saved position, and with it exact resume.
    """

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, warmup_steps))
        progress = min(1.0, step / max(1, total_steps))
        return warm * (0.01 + 0.99 * 0.5 * (1 + cos(pi * progress)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class ScheduledModule(L.LightningModule):
    """A module that trains with ``adamw`` and ``warmup_cosine``, from its own hyper-parameters.

    They are ``lr``, ``weight_decay``, ``warmup_steps`` and ``total_steps``. Gradients are clipped here because
    Lightning refuses to clip for a fused optimizer under mixed precision, though bfloat16 scales nothing.
    """

    def configure_optimizers(self) -> Any:
        given = self.hparams
        optimizer = adamw(self, given["lr"], given["weight_decay"])
        return warmup_cosine(optimizer, given["warmup_steps"], given["total_steps"])

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
