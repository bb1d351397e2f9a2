"""Continuous latents to codes and back, behind one interface over vector-quantize-pytorch.

FSQ (arXiv:2309.15505) is the default: no codebook to collapse, no auxiliary loss. Residual FSQ quantises what is
left once more. Clustering VQ follows Loong (arXiv:2410.02757): k-means from a filled buffer, exponential averages,
revival of dead codes. SimVQ (arXiv:2411.02038) moves all codes by one linear layer; LFQ is MAGVIT-v2's
(arXiv:2310.05737), one bit a channel. Quantisation always runs in float32: in bfloat16 FSQ leaves half of its codes
unused.

A new quantizer is one row of :data:`KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

MOST_CODES = 2**20


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """``levels`` are FSQ's, and those of all ``stages`` of residual FSQ; ``num_codes`` and ``dim`` the others'.

    ``kind`` is one of :data:`KINDS`. ``continuous`` quantises nothing: ``dim`` numbers between -1 and 1, what a
    quantizer of that width can at best do.

    ``said`` are the codes that have an id, by their place in the codebook; all of them if it names none. In place of
    another, the nearest of these is said: a code that is hardly ever seen is learned by nobody, neither drawn well nor
    foreseen.
    """

    kind: str = "fsq"
    levels: tuple[int, ...] = (5, 5, 4, 4)
    stages: int = 2
    num_codes: int = 1024
    dim: int = 8
    said: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown quantizer {self.kind!r}; choose from {', '.join(KINDS)}")
        object.__setattr__(self, "levels", tuple(self.levels))
        object.__setattr__(self, "said", tuple(self.said))
        KINDS[self.kind].check(self)
        codes = KINDS[self.kind].size(self)
        if codes > MOST_CODES:
            raise ValueError(f"this quantizer would have {codes} codes: choose at most {MOST_CODES}")
        if self.said and not 0 <= min(self.said) <= max(self.said) < codes:
            raise ValueError(f"said names codes from {min(self.said)} to {max(self.said)}: there are {codes}")
        if len(set(self.said)) < len(self.said):
            raise ValueError("said names a code twice: name each once")

    @property
    def size(self) -> int:
        """How many ids there are; none, if it is continuous."""
        return len(self.places)

    @property
    def places(self) -> Sequence[int]:
        """Where in the codebook each id is."""
        return self.said or range(KINDS[self.kind].size(self))

    @property
    def code_levels(self) -> tuple[int, ...]:
        """Of the digits that a code's index is made of, lowest first; none where it has no such digits."""
        return self.levels if self.kind == "fsq" else ()

    @property
    def channels(self) -> int:
        """Of a latent."""
        return KINDS[self.kind].channels(self)


@dataclass(frozen=True)
class Quantized:
    """codes: like the latents (B, C, H, W); indices: int64 (B, H, W); loss: scalar, zero for FSQ."""

    codes: Float[Tensor, "B C H W"]
    indices: Int[Tensor, "B H W"]
    loss: Float[Tensor, ""]


@dataclass(frozen=True, kw_only=True)
class QuantizerKind:
    """One way to quantise.

    Attributes:
        size: how many codes a configuration makes.
        channels: how many channels a latent of it has.
        build: its codebook, a module: latents (N, n, C) in float32 to codes like them, indices and, if any, losses.
        lookup: local indices (N, n) to a codebook's codes (N, n, C).
        join: a codebook's indices to local ones, (N, n) each, where they are not the same.
        noisy: latents (N, n, C) to what training puts in place of codes while gradients settle, if anything.
        check: raises ValueError for a configuration that cannot be.
    """

    size: Callable[[QuantizerConfig], int]
    channels: Callable[[QuantizerConfig], int]
    build: Callable[[QuantizerConfig], nn.Module]
    lookup: Callable[[QuantizerConfig, Any, Tensor], Tensor]
    join: Callable[[QuantizerConfig, Tensor], Tensor] = lambda config, indices: indices
    noisy: Callable[[QuantizerConfig, Tensor], Tensor] | None = None
    check: Callable[[QuantizerConfig], None] = lambda config: None


class Quantizer(nn.Module):
    """Latents (N, C, H, W) to codes and local indices; ``lookup`` is the inverse.

    While ``noisy`` is set, training replaces FSQ's rounding by uniform noise of the same size: that lets gradients
    settle before the grid is imposed.
    """

    instead: Tensor  # the id that each code of the codebook is told by
    places: Tensor  # where in the codebook each id is

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        self.noisy = False
        self.codebook = self.kind.build(config)
        if config.said:
            every, said = torch.arange(self.kind.size(config)), torch.tensor(config.said)
            codes = self.kind.lookup(config, self.codebook, every[:, None])[:, 0]
            self.register_buffer("instead", torch.cdist(codes, codes[said]).argmin(1), persistent=False)
            self.register_buffer("places", said, persistent=False)

    @property
    def num_codes(self) -> int:
        return self.config.size

    @property
    def dim(self) -> int:
        """Channels of a latent."""
        return self.config.channels

    @property
    def kind(self) -> QuantizerKind:
        return KINDS[self.config.kind]

    def forward(self, latents: Float[Tensor, "N C H W"]) -> Quantized:
        with torch.autocast(latents.device.type, enabled=False):
            shape = latents.permute(0, 2, 3, 1).shape  # (N, H, W, C)
            flat = latents.float().permute(0, 2, 3, 1).flatten(1, 2)
            codes, indices, *losses = self.codebook(flat)
            if self.kind.noisy is not None and self.noisy and self.training:
                codes = self.kind.noisy(self.config, flat)
            indices = self.kind.join(self.config, indices)
            loss = sum((loss.sum() for loss in losses), flat.new_zeros(()))
            codes, indices = codes.reshape(shape).permute(0, 3, 1, 2), indices.reshape(shape[:-1]).long()
            if self.config.said:
                indices = self.instead[indices]
                codes = self.lookup(indices)
        return Quantized(codes, indices, loss)

    def lookup(self, indices: Int[Tensor, "N H W"]) -> Float[Tensor, "N C H W"]:
        """Local indices (N, H, W) to codes (N, C, H, W), float32. Raises ValueError without a codebook."""
        places = self.places[indices] if self.config.said else indices
        codes = self.kind.lookup(self.config, self.codebook, places.flatten(1))
        return codes.reshape(*indices.shape, -1).permute(0, 3, 1, 2)


# -- kinds --------------------------------------------------------------------------------------------
# The library takes ten seconds to import: only when used.


def _fsq(config: QuantizerConfig) -> nn.Module:
    from vector_quantize_pytorch import FSQ

    return FSQ(list(config.levels))


def _noisy_fsq(config: QuantizerConfig, flat: Tensor) -> Tensor:
    """FSQ's bounded latents with uniform noise as wide as a bin in place of rounding."""
    levels = torch.tensor(config.levels, device=flat.device, dtype=flat.dtype)
    half = (levels - 1) * 1.001 / 2
    offset = torch.where(levels % 2 == 0, 0.5, 0.0).to(flat)
    bounded = torch.tanh(flat + torch.atanh(offset / half)) * half - offset
    return (bounded + torch.rand_like(bounded) - 0.5) / (levels // 2)


def _residual_fsq(config: QuantizerConfig) -> nn.Module:
    from vector_quantize_pytorch import ResidualFSQ

    return ResidualFSQ(levels=list(config.levels), num_quantizers=config.stages)


def _places(config: QuantizerConfig, device: torch.device) -> Tensor:
    """What one of each stage's indices counts in the whole index."""
    return prod(config.levels) ** torch.arange(config.stages, device=device)


def _join_stages(config: QuantizerConfig, indices: Tensor) -> Tensor:
    return (indices * _places(config, indices.device)).sum(-1)


def _look_up_stages(config: QuantizerConfig, codebook: Any, flat: Tensor) -> Tensor:
    stages = flat[..., None] // _places(config, flat.device) % prod(config.levels)
    return codebook.get_output_from_indices(stages)


def _vq(config: QuantizerConfig) -> nn.Module:
    from vector_quantize_pytorch import VectorQuantize

    return VectorQuantize(
        dim=config.dim,
        codebook_size=config.num_codes,
        use_cosine_sim=True,
        decay=0.99,
        threshold_ema_dead_code=2,
        kmeans_init=True,
        commitment_weight=0.25,
    )


def _simvq(config: QuantizerConfig) -> nn.Module:
    from vector_quantize_pytorch import SimVQ

    return SimVQ(config.dim, config.num_codes)


def _lfq(config: QuantizerConfig) -> nn.Module:
    from vector_quantize_pytorch import LFQ

    return LFQ(codebook_size=config.num_codes)


def _check_lfq(config: QuantizerConfig) -> None:
    if config.num_codes & (config.num_codes - 1):
        raise ValueError(f"lfq has a bit a channel: {config.num_codes} codes are not a power of two")


class _Bounded(nn.Module):
    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return latents.tanh(), latents.new_zeros(latents.shape[:2])


def _look_up_nothing(config: QuantizerConfig, codebook: Any, flat: Tensor) -> Tensor:
    raise ValueError("a continuous bottleneck has no ids to look up: it only says what quantising costs")


KINDS: dict[str, QuantizerKind] = {
    "fsq": QuantizerKind(
        size=lambda config: prod(config.levels),
        channels=lambda config: len(config.levels),
        build=_fsq,
        lookup=lambda config, codebook, flat: codebook.indices_to_codes(flat),
        noisy=_noisy_fsq,
    ),
    "residual_fsq": QuantizerKind(
        size=lambda config: prod(config.levels) ** config.stages,
        channels=lambda config: len(config.levels),
        build=_residual_fsq,
        lookup=_look_up_stages,
        join=_join_stages,
    ),
    "vq": QuantizerKind(
        size=lambda config: config.num_codes,
        channels=lambda config: config.dim,
        build=_vq,
        lookup=lambda config, codebook, flat: codebook.get_output_from_indices(flat),
    ),
    "simvq": QuantizerKind(
        size=lambda config: config.num_codes,
        channels=lambda config: config.dim,
        build=_simvq,
        lookup=lambda config, codebook, flat: codebook.indices_to_codes(flat),
    ),
    "lfq": QuantizerKind(
        size=lambda config: config.num_codes,
        channels=lambda config: config.num_codes.bit_length() - 1,
        build=_lfq,
        lookup=lambda config, codebook, flat: codebook.indices_to_codes(flat),
        check=_check_lfq,
    ),
    "continuous": QuantizerKind(
        size=lambda config: 0,
        channels=lambda config: config.dim,
        build=lambda config: _Bounded(),
        lookup=_look_up_nothing,
    ),
}
