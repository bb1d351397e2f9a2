"""The two networks between pixels and latents: a local encoder and a decoder that looks wide and back.

The encoder sees nothing but its own cell (8x8 pixels over one latent frame by default), so an id stays put
where pixels stay put, and that is what makes ids predictable. Whatever crosses cells is the decoder's work. The
decoder may be told the scene state, which is sampled before the picture and knows what the ids lost.
Both patchify before any convolution, the largest speed lever there is. MAGVIT-v2 (arXiv:2310.05737) and
CogVideoX (arXiv:2408.06072) use wide causal encoders instead: better pixels, restless ids.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tokenizer.causal_conv import ChannelNorm, ResidualBlock, StreamingCache
from tokenizer.frames import FRAMES_PER_STEP, Resolution, picture_resolution, picture_size, whole_cells
from tokenizer.quantizer import QuantizerConfig
from tokenizer.scene import StateMotion, composite, scene_renderer
from tokenizer.state_map import StateLayer, speaks_unplaced
from tokenizer.state_schema import StateSchema


@dataclass(frozen=True, kw_only=True)
class VideoTokenizerConfig:
    """Sizes of the tokenizer. ``patch`` pixels are folded away first, then 2x2 patches make one cell.

    ``resolution`` is the side of a square picture or (height, width), in multiples of the cell.
    With ``still`` a picture is learned over which all others are drawn: what places mostly show.
    With ``spread`` each channel of a latent has the same spread over a batch, so that codes are in use from the start.
    With ``by_name`` the decoder also learns a picture of each code's own, which may be as sharp as it has to be.
    ``edge`` is the width in pixels of the edges that are drawn from a state (see ``coverage`` in `ray_casting.py`),
    ``mark`` how large a body without a size is drawn before it is learned (see ``BodyLayers``).
    """

    resolution: Resolution = 64
    frames_per_step: int = FRAMES_PER_STEP
    patch: int = 4
    encoder_width: int = 256
    encoder_blocks: int = 2
    spread: bool = False
    still: bool = False
    by_name: bool = False
    decoder_width: int = 128
    decoder_blocks: int = 2
    detail_width: int = 64
    detail_blocks: int = 1
    shader_width: int = 32
    edge: float = 1.0
    mark: float = 0.08
    temporal_kernel: int = 2
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)

    def __post_init__(self) -> None:
        if isinstance(self.quantizer, dict):
            object.__setattr__(self, "quantizer", QuantizerConfig(**self.quantizer))
        object.__setattr__(self, "resolution", picture_resolution(self.resolution))
        if self.frames_per_step < 1:
            raise ValueError(f"frames_per_step is {self.frames_per_step}: a step shows at least one frame")
        whole_cells(self.resolution, self.cell)

    @property
    def cell(self) -> int:
        """Pixels on the side of a cell."""
        return 2 * self.patch

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a picture."""
        return picture_size(self.resolution)

    @property
    def grid(self) -> tuple[int, int]:
        """Cells of a latent frame, (rows, columns)."""
        return whole_cells(self.resolution, self.cell)

    @property
    def patch_values(self) -> int:
        return self.patch**2 * self.frames_per_step * 3


class Encoder(nn.Module):
    """Pixel frames (N, r, 3, H, W) of single latent frames to latents (N, C, h, w). No state, no overlap."""

    def __init__(self, config: VideoTokenizerConfig, latent_dim: int) -> None:
        super().__init__()
        width = config.encoder_width
        self.patch = config.patch
        self.embed = nn.Conv2d(config.patch_values, width, 1)
        self.fine = nn.ModuleList(ResidualBlock(width, spatial=1) for _ in range(config.encoder_blocks))
        self.merge = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.coarse = nn.ModuleList(ResidualBlock(2 * width, spatial=1) for _ in range(config.encoder_blocks))
        self.head = nn.Sequential(ChannelNorm(2 * width), nn.Conv2d(2 * width, latent_dim, 1))
        if config.spread:
            self.head.append(nn.BatchNorm2d(latent_dim, affine=False, momentum=0.05))

    def forward(self, frames: Float[Tensor, "N r 3 H W"]) -> Float[Tensor, "N C h w"]:
        p = self.patch
        x = rearrange(frames, "n r c (h p) (w q) -> n (r c p q) h w", p=p, q=p)
        x = self.embed(x.contiguous(memory_format=torch.channels_last))[:, None]
        for block in self.fine:
            x = block(x)
        x = self.merge(x[:, 0])[:, None]
        for block in self.coarse:
            x = block(x)
        return self.head(x[:, 0])


@dataclass(frozen=True)
class FrameStates:
    """The scene states that latent frames show: at each one's end, and a step before it, (B, T, num_values) each.

    ``known`` bool (B, T) says where they hold; None means everywhere.
    """

    state: Float[Tensor, "B T F"]
    previous: Float[Tensor, "B T F"]
    known: Bool[Tensor, "B T"] | None = None

    @classmethod
    def of(cls, states: Float[Tensor, "B T F"], known: Bool[Tensor, "B T"] | None = None) -> FrameStates:
        """Consecutive latent frames' states; nothing moves in the first."""
        return cls(states, torch.cat([states[:, :1], states[:, :-1]], 1), known)


class Decoder(nn.Module):
    """Codes (B, T, C, h, w) to pixel frames (B, T, r, 3, H, W), causal over T.

    With a ``schema`` that has a view it also takes the scene state: floor and bodies are drawn as layers, pixel by
    pixel, for straight edges and bodies of a few pixels are what few codes lose first, and what a state says best. What
    the codes know beyond the state is added on top. Where a schema has no view, the layer that its states are drawn as
    is learned.
    """

    def __init__(self, config: VideoTokenizerConfig, latent_dim: int, schema: StateSchema | None = None) -> None:
        super().__init__()
        width, detail, (rows, columns) = config.decoder_width, config.detail_width, config.grid
        self.config = config
        self.embed = nn.Conv2d(latent_dim, width, 3, padding=1)
        self.names = nn.Embedding(config.quantizer.size, 4 * config.patch_values) if config.by_name else None
        if self.names is not None:
            nn.init.zeros_(self.names.weight)
        self.place = nn.Parameter(torch.zeros(width, rows, columns))
        self.coarse = nn.ModuleList(
            ResidualBlock(width, temporal=config.temporal_kernel if i < 2 else 1) for i in range(config.decoder_blocks)
        )
        self.split = nn.Conv2d(width, 4 * detail, 1)
        self.detail_place = nn.Parameter(torch.zeros(detail, 2 * rows, 2 * columns))
        self.still = nn.Parameter(torch.zeros(3, *config.size)) if config.still else None
        self.motion = self.correct = None
        self.layer = scene_renderer(schema, config.size, hidden=config.shader_width, edge=config.edge, mark=config.mark)
        if self.layer is not None and schema is not None:
            self.motion = StateMotion(schema, held=("light",))
            self.correct = nn.Conv2d(detail, config.patch_values, 1)
            nn.init.zeros_(self.correct.weight)
            nn.init.zeros_(self.correct.bias)  # type: ignore[arg-type]
        self.learned_layer: StateLayer | None = None
        if schema is not None and speaks_unplaced(schema):
            patches = (2 * rows, 2 * columns)
            self.learned_layer = StateLayer(schema, patches, config.patch, config.frames_per_step, detail)
        self.fine = nn.ModuleList(ResidualBlock(detail) for _ in range(config.detail_blocks))
        self.norm = ChannelNorm(detail)
        self.head = nn.Conv2d(detail, config.patch_values, 1)
        if config.still:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def draw(self, shown: FrameStates) -> Float[Tensor, "B T r 4 H W"] | None:
        """What is drawn of states over the picture's frames, (B, T, r, 4, H, W); None for a decoder without states."""
        if self.learned_layer is not None:
            drawn = self.learned_layer(shown.state.flatten(0, 1), shown.previous.flatten(0, 1))
            return drawn.unflatten(0, shown.state.shape[:2])
        if self.layer is None or self.motion is None:
            return None
        r = self.config.frames_per_step
        states = self.motion(shown.previous, shown.state, r)
        return self.layer(states.flatten(0, 2)).unflatten(0, states.shape[:3])

    def forward(
        self,
        codes: Float[Tensor, "B T C h w"],
        cache: StreamingCache | None = None,
        shown: FrameStates | None = None,
        drawn: Float[Tensor, "B T r 4 H W"] | None = None,
        at: Int[Tensor, "B 2"] | None = None,
        ids: Int[Tensor, "B T h w"] | None = None,
    ) -> Float[Tensor, "B T r 3 H W"]:
        """``drawn`` is what :meth:`draw` made of ``shown``, if that is at hand.

        ``at`` is the first row and column of cells, where codes are those of a part of the picture. ``ids`` are the
        codes' own, where they have any.
        """
        steps = codes.shape[1]
        x = codes.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        place, detail_place = self.place, self.detail_place
        if at is not None:
            rows, columns = codes.shape[3:]
            place = _part(place, at, (rows, columns)).repeat_interleave(steps, 0)
            detail_place = _part(detail_place, 2 * at, (2 * rows, 2 * columns)).repeat_interleave(steps, 0)
        x = self.embed(x) + place
        x = x.unflatten(0, (-1, steps))
        for block in self.coarse:
            x = block(x, cache)
        x = nn.functional.pixel_shuffle(self.split(x.flatten(0, 1)), 2)
        x = x.contiguous(memory_format=torch.channels_last) + detail_place
        x = x[:, None]
        for block in self.fine:
            x = block(x)
        x = nn.functional.silu(self.norm(x[:, 0]))
        frames = self._to_frames(self.head(x), steps)
        if self.names is not None and ids is not None:
            r, cell = self.config.frames_per_step, self.config.cell
            own = rearrange(self.names(ids), "b t h w (r c p q) -> b t r c (h p) (w q)", r=r, c=3, p=cell, q=cell)
            frames = frames + own
        if self.still is not None:
            still, cell = self.still[None], self.config.cell
            if at is not None:
                still = _part(self.still, cell * at, (cell * codes.shape[3], cell * codes.shape[4]))
            frames = frames + still[:, None, None]
        if shown is not None:
            drawn = self.draw(shown) if drawn is None else drawn
        if shown is not None and drawn is not None:
            over = composite(frames.flatten(0, 2), drawn.flatten(0, 2)).view_as(frames)
            known = None if shown.known is None else shown.known[..., None, None, None, None]
            frames = over if known is None else torch.where(known, over, frames.to(over))
        return frames if self.correct is None else frames + self._to_frames(self.correct(x), steps)

    def _to_frames(self, cells: Tensor, steps: int) -> Tensor:
        r, p = self.config.frames_per_step, self.config.patch
        return rearrange(cells, "(b t) (r c p q) h w -> b t r c (h p) (w q)", t=steps, r=r, c=3, p=p, q=p)


def _part(whole: Float[Tensor, "C H W"], at: Int[Tensor, "B 2"], size: tuple[int, int]) -> Float[Tensor, "B C h w"]:
    """The parts of this size that begin at these rows and columns."""
    rows, columns = (at[:, i, None] + torch.arange(size[i], device=at.device) for i in range(2))
    return whole[:, rows[:, :, None], columns[:, None]].movedim(0, 1)
