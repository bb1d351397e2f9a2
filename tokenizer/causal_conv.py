"""Convolutions that look only back in time, and the cache that lets them run one latent frame at a time.

Space and time are factorised: a spatial convolution sees one latent frame, a temporal one mixes the last
few latent frames at each place. The past before the first frame is the first frame repeated, so a clip has
no false dark beginning. Whole-clip and streaming results are equal because a cache keeps exactly the
frames that the kernel still reaches. MAGVIT-v2 (arXiv:2310.05737) convolves so too, over space and time at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def pick(x: Tensor, rows: Tensor | None, axis: int = 0) -> Tensor:
    """These rows of a tensor along an axis; the same memory where all of them are one, or where none are named."""
    if rows is None:
        return x
    if bool((rows == rows[0]).all()):
        shape = list(x.shape)
        shape[axis] = len(rows)
        return x.narrow(axis, int(rows[0]), 1).expand(shape)
    return x.index_select(axis, rows.to(x.device))


class StreamingCache:
    """The kept past of every causal convolution, keyed by module, for a batch of streams.

    A row may be reset alone: its next frame is then treated as the first of a stream.
    """

    def __init__(self, batch: int) -> None:
        self.past: dict[nn.Module, Tensor] = {}
        self.fresh = torch.ones(batch, dtype=torch.bool)  # on the host, where it is asked

    def reset(self, rows: list[int] | Tensor) -> None:
        """Forgets the past of these rows."""
        self.fresh[rows.cpu() if isinstance(rows, Tensor) else rows] = True

    def advance(self) -> None:
        """Call once after each pass over all modules: no row is at its beginning any more."""
        self.fresh = torch.zeros_like(self.fresh)

    def fork(self, rows: Tensor | None = None) -> StreamingCache:
        """An independent copy of all rows, or of these. Kept frames are replaced, never written into, so they may be
        shared."""
        twin = StreamingCache(0)
        twin.past = {module: pick(frames, rows) for module, frames in self.past.items()}
        twin.fresh = (self.fresh if rows is None else self.fresh[rows.cpu()]).clone()
        return twin

    def packed(self, places: Mapping[nn.Module, str]) -> tuple[Tensor, dict[str, Tensor]]:
        """To be kept without the modules: by their names."""
        return self.fresh, {places[module]: frames for module, frames in self.past.items()}

    @classmethod
    def unpacked(cls, packed: tuple[Tensor, Mapping[str, Tensor]], modules: Mapping[str, nn.Module]) -> StreamingCache:
        cache = cls(0)
        cache.fresh, cache.past = packed[0], {modules[name]: frames for name, frames in packed[1].items()}
        return cache

    def adopt(self, other: StreamingCache, rows: list[int]) -> None:
        """Takes over another cache's streams as these rows, in order."""
        for module, theirs in other.past.items():
            mine = self.past.get(module)
            mine = theirs.new_zeros(len(self.fresh), *theirs.shape[1:]) if mine is None else mine.clone()
            mine[rows] = theirs
            self.past[module] = mine
        self.fresh[rows] = other.fresh

    def prepend(self, module: nn.Module, x: Float[Tensor, "B T *rest"], count: int) -> Float[Tensor, "B Tc *rest"]:
        """``x`` (B, T, ...) with the ``count`` frames before it, which are then replaced by its own last."""
        first = x[:, :1].expand(-1, count, *x.shape[2:])
        past = self.past.get(module)
        if past is None:
            past = first
        elif self.fresh.any():
            past = torch.where(self.fresh.to(x.device).view(-1, *[1] * (x.dim() - 1)), first, past)
        x = torch.cat([past, x], 1)
        self.past[module] = x[:, -count:]
        return x


def rms_norm(
    x: Float[Tensor, "*batch width"], weight: Float[Tensor, " width"] | None = None
) -> Float[Tensor, "*batch width"]:
    """Root mean square norm over the last axis (arXiv:1910.07467), scaled by ``weight``.

    On a CPU, ``F.rms_norm`` is half a dozen operations; where nothing is learned, in float32, two do.
    """
    if torch.is_grad_enabled() or x.dtype != torch.float32 or x.is_cuda:
        return F.rms_norm(x, x.shape[-1:], None if weight is None else weight.to(x.dtype), 1e-6)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-6)
    return x / length * (x.shape[-1] ** 0.5 if weight is None else weight * x.shape[-1] ** 0.5)


class RMSNorm(nn.Module):
    """:func:`rms_norm` with learned scales."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        return rms_norm(x, self.weight)


class ChannelNorm(RMSNorm):
    """RMS norm over channels at each place: nothing is pooled over time or space, so nothing leaks."""

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class CausalTemporalConv(nn.Module):
    """Mixes each place with its own ``kernel - 1`` previous latent frames: (B, T, C, H, W) to the same."""

    def __init__(self, channels: int, kernel: int = 2) -> None:
        super().__init__()
        self.kernel = kernel
        self.taps = nn.ModuleList(nn.Conv2d(channels, channels, 1, bias=False) for _ in range(kernel))

    def forward(self, x: Float[Tensor, "B T C H W"], cache: StreamingCache | None = None) -> Float[Tensor, "B T C H W"]:
        steps = x.shape[1]
        reach = self.kernel - 1
        if cache is None:
            x = torch.cat([x[:, :1].expand(-1, reach, -1, -1, -1), x], 1)
        else:
            x = cache.prepend(self, x, reach)
        out = None
        for i, tap in enumerate(self.taps):
            term = tap(x[:, i : i + steps].flatten(0, 1))
            out = term if out is None else out + term
        assert out is not None
        return out.unflatten(0, (-1, steps))


class ResidualBlock(nn.Module):
    """Norm, spatial convolution, SiLU, pointwise convolution; optionally a causal look back in time."""

    def __init__(self, channels: int, *, spatial: int = 3, temporal: int = 1) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.spatial = nn.Conv2d(channels, channels, spatial, padding=spatial // 2)
        self.pointwise = nn.Conv2d(channels, channels, 1)
        self.temporal = CausalTemporalConv(channels, temporal) if temporal > 1 else None
        nn.init.zeros_(self.pointwise.weight)
        nn.init.zeros_(self.pointwise.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "B T C H W"], cache: StreamingCache | None = None) -> Float[Tensor, "B T C H W"]:
        steps = x.shape[1]
        flat = x.flatten(0, 1)
        h = self.spatial(self.norm(flat))
        if self.temporal is not None:
            h = h + self.temporal(h.unflatten(0, (-1, steps)), cache).flatten(0, 1)
        flat = flat + self.pointwise(F.silu(h))
        return flat.unflatten(0, (-1, steps))
