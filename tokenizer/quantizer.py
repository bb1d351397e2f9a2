"""Continuous latents to codes and back, behind one interface over vector-quantize-pytorch.

FSQ (arXiv:2309.15505) is the default: no codebook to collapse, no auxiliary loss. Residual FSQ quantises what is
left once more. Clustering VQ follows Loong (arXiv:2410.02757): k-means from a filled buffer, exponential averages,
revival of dead codes. SimVQ (arXiv:2411.02038) moves all codes by one linear layer; LFQ is MAGVIT-v2's
(arXiv:2310.05737), one bit a channel. Quantisation always runs in float32: in bfloat16 FSQ leaves half of its codes
unused.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Kind = Literal["fsq", "residual_fsq", "vq", "simvq", "lfq", "continuous"]


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """``levels`` are FSQ's, and those of all ``stages`` of residual FSQ; ``num_codes`` and ``dim`` the others'.

    ``continuous`` quantises nothing: ``dim`` numbers between -1 and 1, what a quantizer of that width can at best do.
    """

    kind: Kind = "fsq"
    levels: tuple[int, ...] = (5, 5, 4, 4)
    stages: int = 2
    num_codes: int = 1024
    dim: int = 8

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"unknown quantizer {self.kind!r}; choose from {', '.join(get_args(Kind))}")
        if self.kind == "lfq" and self.num_codes & (self.num_codes - 1):
            raise ValueError(f"lfq has a bit a channel: {self.num_codes} codes are not a power of two")
        object.__setattr__(self, "levels", tuple(self.levels))

    @property
    def size(self) -> int:
        """How many codes there are; none, if it is continuous."""
        if self.kind == "continuous":
            return 0
        stages = {"fsq": 1, "residual_fsq": self.stages}.get(self.kind)
        return self.num_codes if stages is None else prod(self.levels) ** stages

    @property
    def channels(self) -> int:
        """Of a latent."""
        if self.kind in ("fsq", "residual_fsq"):
            return len(self.levels)
        return self.num_codes.bit_length() - 1 if self.kind == "lfq" else self.dim


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
        self.config = config
        self.noisy = False
        self.codebook = _codebook(config)

    @property
    def num_codes(self) -> int:
        return self.config.size

    @property
    def dim(self) -> int:
        """Channels of a latent."""
        return self.config.channels

    def forward(self, latents: Tensor) -> Quantized:
        with torch.autocast(latents.device.type, enabled=False):
            shape = latents.permute(0, 2, 3, 1).shape  # (N, H, W, C)
            flat = latents.float().permute(0, 2, 3, 1).flatten(1, 2)
            codes, indices, *losses = self.codebook(flat)
            if self.config.kind == "fsq" and self.noisy and self.training:
                codes = self._noisy_codes(flat)
            if self.config.kind == "residual_fsq":
                indices = (indices * self._places(indices.device)).sum(-1)
            loss = sum((loss.sum() for loss in losses), flat.new_zeros(()))
            codes = codes.reshape(shape).permute(0, 3, 1, 2)
        return Quantized(codes, indices.reshape(shape[:-1]).long(), loss)

    def _places(self, device: torch.device) -> Tensor:
        """What one of each stage's indices counts in the whole index."""
        return prod(self.config.levels) ** torch.arange(self.config.stages, device=device)

    def _noisy_codes(self, flat: Tensor) -> Tensor:
        """FSQ's bounded latents with uniform noise as wide as a bin in place of rounding."""
        levels = torch.tensor(self.config.levels, device=flat.device, dtype=flat.dtype)
        half = (levels - 1) * 1.001 / 2
        offset = torch.where(levels % 2 == 0, 0.5, 0.0).to(flat)
        bounded = torch.tanh(flat + torch.atanh(offset / half)) * half - offset
        return (bounded + torch.rand_like(bounded) - 0.5) / (levels // 2)

    def lookup(self, indices: Tensor) -> Tensor:
        """Local indices (N, H, W) to codes (N, C, H, W), float32. Raises ValueError without a codebook."""
        if self.config.kind == "continuous":
            raise ValueError("a continuous bottleneck has no ids to look up: it only says what quantising costs")
        flat = indices.flatten(1)
        if self.config.kind == "residual_fsq":
            flat = flat[..., None] // self._places(flat.device) % prod(self.config.levels)
        name = "get_output_from_indices" if self.config.kind in ("vq", "residual_fsq") else "indices_to_codes"
        codes = getattr(self.codebook, name)(flat)
        return codes.reshape(*indices.shape, -1).permute(0, 3, 1, 2)


class _Bounded(nn.Module):
    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return latents.tanh(), latents.new_zeros(latents.shape[:2])


def _codebook(config: QuantizerConfig) -> nn.Module:
    """Takes (N, n, C) in float32 and returns codes, indices and, most of them, a loss."""
    from vector_quantize_pytorch import FSQ, LFQ, ResidualFSQ, SimVQ, VectorQuantize  # slow: only when used

    match config.kind:
        case "continuous":
            return _Bounded()
        case "fsq":
            return FSQ(list(config.levels))
        case "residual_fsq":
            return ResidualFSQ(levels=list(config.levels), num_quantizers=config.stages)
        case "simvq":
            return SimVQ(config.dim, config.num_codes)
        case "lfq":
            return LFQ(codebook_size=config.num_codes)
        case "vq":
            return VectorQuantize(
                dim=config.dim,
                codebook_size=config.num_codes,
                use_cosine_sim=True,
                decay=0.99,
                threshold_ema_dead_code=2,
                kmeans_init=True,
                commitment_weight=0.25,
            )
