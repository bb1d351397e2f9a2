"""The network of the upsampler: a U-Net over patches of pixels, causal in time.

Spatial layers see one frame. The temporal ones keep the few frames they reach in a :class:`StreamingCache`. No
normalisation pools over places or frames, so a stream of steps equals the whole clip.

Dimension keys: b row of the batch, t pixel frame, h w patch cell, c channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import log

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from tokenizer.causal_conv import StreamingCache
from tokenizer.frames import Resolution, picture_resolution, picture_size, said_size


@dataclass(frozen=True, kw_only=True)
class UpsamplerConfig:
    """Shape of an upsampler.

    Attributes:
        resolution: of the frames that come in: a square's side, or (height, width).
        factor: how many times larger the frames that go out are.
        patch: outgoing pixels on the side of a patch, which is one cell of the U-Net's finest level.
        width: channels of the finest level; each coarser one has half the side and ``growth`` times the channels.
        levels: levels of the U-Net.
        depth: blocks of a level on the way down, and again on the way up.
        growth: see ``width``.
        condition: channels of the vector that carries time, light and camera into every block.
        reach: frames a temporal layer sees, its own included.
        noise: standard deviation of the flow's starting noise, for pixels in [-1, 1].
        detail: standard deviation expected of what the drawing misses, in units of ``noise``.
        shader_width: hidden width of what draws floor and bodies.
        edge: width in pixels of the edges that are drawn; 1 if recorded pixels are means of what they show, less if
            they are samples of it, as a renderer without anti-aliasing makes them.
        mean_flow: whether the network is told how far a step will go, and so predicts the flow's mean velocity over
            the step (MeanFlow, arXiv:2505.13447): few steps then sample as many would, where plain flow matching
            gives the mean of all that could be.
        experts: networks that share the denoising, each for its part of the time: the first, at most noise, lays out,
            the last refines (eDiff-I, arXiv:2211.01324). A single step needs the first alone.
    """

    resolution: Resolution = 64
    factor: int = 2
    patch: int = 4
    width: int = 48
    levels: int = 3
    depth: int = 2
    growth: float = 2.0
    condition: int = 64
    reach: int = 3
    noise: float = 0.05
    detail: float = 0.7
    shader_width: int = 32
    edge: float = 1.0
    mean_flow: bool = False
    experts: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolution", picture_resolution(self.resolution))
        if self.patch % self.factor:
            raise ValueError(f"a patch of {self.patch} pixels must be a multiple of the factor {self.factor}")
        coarsest = self.patch * 2 ** (self.levels - 1)
        if any(side % coarsest for side in self.size):
            raise ValueError(
                f"{said_size(self.small_size)} x {self.factor} pixels must be multiples of {coarsest}, "
                f"the side of the coarsest of {self.levels} levels: use fewer levels or a smaller patch"
            )

    @property
    def small_size(self) -> tuple[int, int]:
        """(height, width) of the frames that come in."""
        return picture_size(self.resolution)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames that go out."""
        height, width = self.small_size
        return height * self.factor, width * self.factor

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(int(self.width * self.growth**level) // 8 * 8 for level in range(self.levels))


@dataclass(frozen=True)
class Conditions:
    """What a clip's every denoising step knows.

    drawn: bicubic interpolation with what the state says drawn over it, (B, T, 3, H, W) in [-1, 1]; cells: both as the
    network sees them, (B, T, h, w, width); scene: light, camera and the rest that stands nowhere, (B, T, condition).
    """

    drawn: Float[Tensor, "B T 3 H W"]
    cells: Float[Tensor, "B T h w width"]
    scene: Float[Tensor, "B T condition"]


class Norm(nn.RMSNorm):
    """RMS norm whose weight follows the features' precision: mixed, torch runs it unfused."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class ConvBlock(nn.Module):
    """ConvNeXt block (arXiv:2201.03545), modulated: 5 x 5 depthwise, norm over channels, a pointwise hidden layer."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm = Norm(width, eps=1e-6)
        self.modulate = nn.Linear(condition, 2 * width)
        self.widen = nn.Linear(width, 3 * width)
        self.narrow = nn.Linear(3 * width, width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        # channels last: the view that a convolution wants of this memory is a channels_last one
        flat = self.spatial(x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        scale, shift = self.modulate(condition).flatten(0, 1)[:, None, None].chunk(2, -1)
        flat = torch.addcmul(shift, self.norm(flat), 1 + scale)
        return x + self.narrow(F.relu(self.widen(flat), inplace=True)).view_as(x)


class TemporalMix(nn.Module):
    """Each cell with its own last ``reach`` frames; before a stream's first frame stand copies of it."""

    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.norm = Norm(width, eps=1e-6)
        self.mix = nn.Linear(reach * width, width)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, x: Tensor, cache: StreamingCache) -> Tensor:
        frames = x.shape[1]
        past = cache.prepend(self, self.norm(x), self.reach - 1)
        return x + self.mix(torch.cat([past[:, i : i + frames] for i in range(self.reach)], -1))


class Level(nn.Module):
    """Blocks of one resolution; the temporal layer stands before them."""

    def __init__(self, width: int, config: UpsamplerConfig) -> None:
        super().__init__()
        self.temporal = TemporalMix(width, config.reach)
        self.blocks = nn.ModuleList(ConvBlock(width, config.condition) for _ in range(config.depth))

    def forward(self, x: Tensor, condition: Tensor, cache: StreamingCache) -> Tensor:
        x = self.temporal(x, cache)
        for block in self.blocks:
            x = block(x, condition)
        return x


def to_patches(video: Tensor, side: int) -> Tensor:
    return rearrange(video, "b t c (h p) (w q) -> b t h w (c p q)", p=side, q=side)


def from_patches(cells: Tensor, side: int) -> Tensor:
    return rearrange(cells, "b t h w (c p q) -> b t c (h p) (w q)", p=side, q=side)


def convolve(convolution: nn.Conv2d, cells: Tensor) -> Tensor:
    """A spatial convolution of (b, t, h, w, c)."""
    flat = convolution(cells.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return flat.unflatten(0, cells.shape[:2])


class UNet(nn.Module):
    """What a denoising step adds to the guess that needs no looking, in units of one."""

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        width, widths = config.width, config.widths
        self.time = nn.Sequential(
            nn.Linear(32, config.condition), nn.SiLU(), nn.Linear(config.condition, config.condition)
        )
        self.span = None
        if config.mean_flow:
            self.span = nn.Linear(32, config.condition, bias=False)
            nn.init.zeros_(self.span.weight)
        self.see_guess = nn.Conv2d(3 * config.patch**2, width, 3, padding=1)
        self.down = nn.ModuleList(Level(w, config) for w in widths)
        self.up = nn.ModuleList(Level(w, config) for w in widths[:-1])
        self.coarsen = nn.ModuleList(nn.Linear(4 * a, b) for a, b in pairwise(widths))
        self.refine = nn.ModuleList(nn.Linear(b, 4 * a) for a, b in pairwise(widths))
        self.norm = Norm(width, eps=1e-6)
        self.head = nn.Conv2d(width, 3 * config.patch**2, 3, padding=1)
        nn.init.zeros_(self.head.weight)  # an untrained upsampler is what it is given
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)

    def forward(
        self, seen: Tensor, given: Conditions, time: Tensor, until: Tensor | None, cache: StreamingCache
    ) -> Tensor:
        """``seen`` is what is looked at of the noisy residual, (B, T, h, w, 3 * patch**2); the result is alike."""
        condition = given.scene + self.time(_waves(time, seen))[:, None]
        if self.span is not None:
            condition = condition + self.span(_waves(time if until is None else time - until, seen))[:, None]
        condition = F.silu(condition)
        x = given.cells + convolve(self.see_guess, seen)
        skips: list[Tensor] = []
        for level, coarsen in zip(self.down, self.coarsen, strict=False):
            x = level(x, condition, cache)
            skips.append(x)
            x = coarsen(rearrange(x, "b t (h p) (w q) c -> b t h w (p q c)", p=2, q=2))
        x = self.down[-1](x, condition, cache)
        for level, refine in zip(reversed(self.up), reversed(self.refine), strict=True):
            x = rearrange(refine(x), "b t h w (p q c) -> b t (h p) (w q) c", p=2, q=2) + skips.pop()
            x = level(x, condition, cache)
        return convolve(self.head, F.silu(self.norm(x)))


def _waves(time: Tensor, like: Tensor) -> Tensor:
    octaves = torch.exp(torch.linspace(0, log(64), 16, device=like.device, dtype=like.dtype))
    angles = time.to(like.dtype)[:, None] * octaves
    return torch.cat([angles.sin(), angles.cos()], -1)
