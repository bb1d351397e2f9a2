"""Normal noise that is a pure function of (seed, absolute frame, position).

Endless video is made a few frames at a time, and how it was cut into steps must not show in the picture.
So noise is hashed, not drawn: splitmix64's finalizer (Steele, Lea and Flood 2014) over integers gives every
four neighbouring values their 64 bits, and each 16 of those choose one of 65536 equally likely quantiles of
the normal distribution. Integers and a table alone: the same values on every device, in any chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod

import torch
from torch import Tensor, nn


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >> 63 else constant


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _mix(bits: Tensor) -> Tensor:
    """splitmix64's finalizer on int64, whose multiplication wraps; ``>>`` keeps the sign, so it is masked off."""
    bits = (bits ^ ((bits >> 30) & ((1 << 34) - 1))) * _FIRST
    bits = (bits ^ ((bits >> 27) & ((1 << 37) - 1))) * _SECOND
    return bits ^ ((bits >> 31) & ((1 << 33) - 1))


class FrameNoise(nn.Module):
    """Standard normal noise by name instead of by order. Holds only a table, which is not saved."""

    quantiles: Tensor

    def __init__(self) -> None:
        super().__init__()
        unit = (torch.arange(1 << 16, dtype=torch.float64) + 0.5) / (1 << 16)
        normal = torch.special.ndtri(unit)
        self.register_buffer("quantiles", (normal / normal.square().mean().sqrt()).float(), persistent=False)

    def forward(self, seed: Tensor, frame: Tensor, shape: Sequence[int]) -> Tensor:
        """One picture of noise, ``(*frame.shape, *shape)``, per absolute ``frame``.

        ``seed`` and ``frame`` are int64 and of one shape (or broadcast to it).
        """
        count = prod(shape)
        key = _mix(_mix(seed * _GOLDEN + 1) + frame * _GOLDEN)
        quarter = torch.arange(ceil(count / 4), device=key.device) * _GOLDEN
        picks = _mix(key[..., None] + quarter).view(torch.int16)[..., :count]
        return self.quantiles[picks.long() + (1 << 15)].unflatten(-1, tuple(shape))
