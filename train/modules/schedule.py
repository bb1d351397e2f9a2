"""The optimizer and the learning rate that all trainings share."""

from __future__ import annotations

import re
import warnings
from math import cos, pi
from typing import Any

import lightning as L
import torch
from torch import nn

from train.running.checkpoint import read_checkpoint

_EPS = 1e-12  # errors of pictures are small, and their gradients far smaller: 1e-8 would hold steps back


def adamw(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """Fused AdamW; matrices decay, vectors (norms, biases, gates) do not."""
    groups = _decay_groups([p for p in module.parameters() if p.requires_grad], weight_decay)
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=_EPS, fused=True)


def _decay_groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


class Muon(torch.optim.Optimizer):
    """Moves a matrix by its orthogonalised momentum (https://kellerjordan.github.io/posts/muon/).

    The step size is matched to AdamW's (arXiv:2502.16982). It does as ``torch.optim.Muon`` does, but in float32 on a
    CPU: torch's takes bfloat16, which is ten times slower on one without instructions for it. Matrices of one shape go
    together.
    """

    _COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration
    _ROUNDS = 5

    def __init__(self, matrices: list[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in alike.items():
                wanted = torch.stack([self._momentum(matrix, group["momentum"]) for matrix in matrices])
                moves = self._orthogonal(wanted) * (-0.2 * group["lr"] * max(shape) ** 0.5)
                for matrix, move in zip(matrices, moves, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(move)

    def _momentum(self, matrix: nn.Parameter, momentum: float) -> torch.Tensor:
        """Nesterov's, of a matrix that has a gradient."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        kept = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(kept, momentum)

    def _orthogonal(self, matrices: torch.Tensor) -> torch.Tensor:
        """Matrices (n, rows, columns) with singular values near 1 and the same directions."""
        x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
        flip = x.shape[-2] > x.shape[-1]
        x = x.mT if flip else x
        x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
        a, b, c = self._COEFFICIENTS
        for _ in range(self._ROUNDS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return (x.mT if flip else x).to(matrices.dtype)


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon for the hidden matrices, AdamW for everything else, as one optimizer.

    Both take one learning rate. A convolution's kernel is a matrix of outputs by everything that feeds them: Muon is
    given a view of it.
    """

    def __init__(self, module: nn.Module, hidden: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        chosen = {id(p) for p in hidden}
        rest = [p for p in module.parameters() if p.requires_grad and id(p) not in chosen]
        super().__init__([*hidden, *rest], {"lr": lr})
        self.hidden = hidden
        self.matrices = [nn.Parameter(_as_matrix(p.data)) for p in hidden]
        self.parts: list[torch.optim.Optimizer] = [
            Muon(self.matrices, lr, weight_decay),
            torch.optim.AdamW(_decay_groups(rest, weight_decay), lr=lr, betas=(0.9, 0.98), eps=_EPS, fused=True),
        ]
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for weight, matrix in zip(self.hidden, self.matrices, strict=True):
            matrix.grad = None if weight.grad is None else _as_matrix(weight.grad)
        for part in self.parts:
            part.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for weight in self.hidden:  # the groups hold Muon's views of them
            weight.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, saved in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(saved)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def _as_matrix(weight: torch.Tensor) -> torch.Tensor:
    """A kernel (out, in, h, w) as (out, h * w * in): a view of channels-last weights; a matrix as it is."""
    if weight.dim() == 4:
        weight = weight.permute(0, 2, 3, 1)
        return weight.view(len(weight), -1) if weight.is_contiguous() else weight.reshape(len(weight), -1)
    return weight


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


def load_trained(module: nn.Module, checkpoint: str, prefix: str) -> None:
    """Starts ``module`` from the weights under ``prefix`` of a Lightning checkpoint (averaged ones, if kept).

    A model may have grown since: layers that the checkpoint lacks keep their initial weights, further inputs of
    a linear layer start at zero, and further experts as the first one (as eDiff-I splits them, arXiv:2211.01324).
    """
    saved = read_checkpoint(checkpoint)["state_dict"]
    weights = {name: value for name, value in saved.items() if name.startswith(prefix)}
    ours = {name: value for name, value in module.state_dict().items() if name.startswith(prefix)}
    for name in ours.keys() - weights.keys():
        first = re.sub(r"\bexperts\.\d+\.", "experts.0.", name)
        if first in weights:
            weights[name] = weights[first]
    for name, value in weights.items():
        if name in ours and value.dim() == 2 and value.shape[1] < ours[name].shape[1]:
            weights[name] = nn.functional.pad(value, (0, ours[name].shape[1] - value.shape[1]))
    fits = all(name in ours and ours[name].shape == value.shape for name, value in weights.items())
    if not weights or not fits:
        raise ValueError(f"{checkpoint} holds no weights for this model: start from a run of the same configuration")
    fresh = sorted({name.removeprefix(prefix) for name in ours.keys() - weights.keys()})
    if fresh:
        warnings.warn(f"{checkpoint} lacks {', '.join(fresh)}: they start untrained", stacklevel=2)
    module.load_state_dict(weights, strict=False)


class ScheduledModule(L.LightningModule):
    """A module that trains with ``adamw`` (or ``MuonAndAdamW``, if it names hidden matrices) and ``warmup_cosine``.

    Their numbers are its hyper-parameters ``lr``, ``weight_decay``, ``warmup_steps`` and ``total_steps``.
    Gradients are clipped here because Lightning refuses to clip for a fused optimizer under mixed precision,
    though bfloat16 scales nothing.
    """

    def configure_optimizers(self) -> Any:
        given = self.hparams
        hidden = self.hidden_matrices()
        if hidden:
            optimizer: torch.optim.Optimizer = MuonAndAdamW(self, hidden, given["lr"], given["weight_decay"])
        else:
            optimizer = adamw(self, given["lr"], given["weight_decay"])
        return warmup_cosine(optimizer, given["warmup_steps"], given["total_steps"])

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The matrices that Muon is to train; none by default."""
        return []

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
