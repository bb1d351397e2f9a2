"""Continuous latents to codes and back, behind one interface over vector-quantize-pytorch.

FSQ (arXiv:2309.15505) is the default: no codebook to collapse, no auxiliary loss. Clustering VQ follows
Loong (arXiv:2410.02757): k-means from a filled buffer, exponential averages, revival of dead codes.
Quantisation always runs in float32: in bfloat16 FSQ leaves half of its codes unused.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """``levels`` is FSQ's; ``num_codes`` and ``dim`` are clustering VQ's."""

    kind: Literal["fsq", "vq"] = "fsq"
    levels: tuple[int, ...] = (8, 8, 6, 5)
    num_codes: int = 1024
    dim: int = 8

    def __post_init__(self) -> None:
        if self.kind not in ("fsq", "vq"):
            raise ValueError(f"unknown quantizer {self.kind!r}; choose fsq or vq")
        object.__setattr__(self, "levels", tuple(self.levels))

    @property
    def size(self) -> int:
        """How many codes there are."""
        return prod(self.levels) if self.kind == "fsq" else self.num_codes


@dataclass(frozen=True)
class Quantized:
    """codes: like the latents (B, C, H, W); indices: int64 (B, H, W); loss: scalar, zero for FSQ."""

    codes: Tensor
    indices: Tensor
    loss: Tensor


class Quantizer(nn.Module):
    """Latents (N, C, H, W) to codes and local indices; ``lookup`` is the inverse.

    While ``noisy`` is set, training replaces FSQ's rounding by uniform noise of the same size: that lets gradients
    settle before the grid is imposed.
    """

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        from vector_quantize_pytorch import FSQ, VectorQuantize  # a slow import: only when used

        self.config = config
        self.noisy = False
        if config.kind == "fsq":
            self.codebook: nn.Module = FSQ(list(config.levels))
        else:
            self.codebook = VectorQuantize(
                dim=config.dim,
                codebook_size=config.num_codes,
                use_cosine_sim=True,
                decay=0.99,
                threshold_ema_dead_code=2,
                kmeans_init=True,
                commitment_weight=0.25,
            )

    @property
    def num_codes(self) -> int:
        return self.config.size

    @property
    def dim(self) -> int:
        """Channels of a latent."""
        return len(self.config.levels) if self.config.kind == "fsq" else self.config.dim

    def forward(self, latents: Tensor) -> Quantized:
        with torch.autocast(latents.device.type, enabled=False):
            flat = latents.float().permute(0, 2, 3, 1)  # (N, H, W, C)
            zero = flat.new_zeros(())
            if self.config.kind == "fsq":
                codes, indices = self.codebook(flat.flatten(1, 2))
                if self.noisy and self.training:
                    codes = self._noisy_codes(flat.flatten(1, 2))
                loss = zero
            else:
                codes, indices, loss = self.codebook(flat.flatten(1, 2))
                loss = loss.sum()
            shape = flat.shape
            codes = codes.reshape(shape).permute(0, 3, 1, 2)
        return Quantized(codes, indices.reshape(shape[:-1]).long(), loss)

    def _noisy_codes(self, flat: Tensor) -> Tensor:
        """FSQ's bounded latents with uniform noise as wide as a bin in place of rounding."""
        levels = torch.tensor(self.config.levels, device=flat.device, dtype=flat.dtype)
        half = (levels - 1) * 1.001 / 2
        offset = torch.where(levels % 2 == 0, 0.5, 0.0).to(flat)
        bounded = torch.tanh(flat + torch.atanh(offset / half)) * half - offset
        return (bounded + torch.rand_like(bounded) - 0.5) / (levels // 2)

    def lookup(self, indices: Tensor) -> Tensor:
        """Local indices (N, H, W) to codes (N, C, H, W), float32."""
        flat = indices.flatten(1)
        if self.config.kind == "fsq":
            codes = self.codebook.indices_to_codes(flat)  # type: ignore[operator]
        else:
            codes = self.codebook.get_output_from_indices(flat)  # type: ignore[operator]
        return codes.reshape(*indices.shape, -1).permute(0, 3, 1, 2)
