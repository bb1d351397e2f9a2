"""3-D rotary positions: (step, row, column), each turning its own third of a head.

Steps grow without end, and float32 angles go wrong after 1e7 of them, so angles come from integer indices
in float64 on the host and only their cosines travel (RoFormer, arXiv:2104.09864).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_BASE = 100.0  # windows and grids are small: slow turns would be wasted


def angles(position: Int[Tensor, "*b 3"], head_dim: int) -> Float[Tensor, "*b half"]:
    """Integer positions (..., 3) to float64 angles (..., head_dim / 2)."""
    pairs = head_dim // 6
    frequency = _BASE ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    return (position.cpu().double()[..., None] * frequency).flatten(-2)


def cos_sin(
    position: Int[Tensor, "*b 3"], head_dim: int, device: torch.device, dtype: torch.dtype
) -> tuple[Float[Tensor, "*b d"], Float[Tensor, "*b d"]]:
    """Integer positions (..., 3) to cosines and signed sines (..., head_dim), as :func:`rotate` takes them."""
    angle = angles(position, head_dim)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], -1).to(device, dtype), torch.cat([-sin, sin], -1).to(device, dtype)


def rotate(
    x: Float[Tensor, "... d"], cos: Float[Tensor, "... d"], sin: Float[Tensor, "... d"]
) -> Float[Tensor, "... d"]:
    """Turns the pairs (x[i], x[i + d/2]) of the last axis; ``cos`` and ``sin`` (..., d) broadcast over the rest."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)
