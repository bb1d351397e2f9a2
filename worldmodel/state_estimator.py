"""Reads the scene state from pixels, and writes it id by id.

Cells of the picture are a prefix; after them come the ids of what does not change and of the state in absolute bins,
each told those before it (Pix2Seq, arXiv:2109.10852). So what a picture leaves open, such as which of two like bodies
is named first, is settled once, and everything later agrees with it. Unlike there, ids are the schema's, and a
quantity is the mean over the likeliest id's neighbourhood: finer than a bin.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from tokenizer.causal_conv import ResidualBlock, RMSNorm
from tokenizer.frames import Resolution, picture_resolution, picture_size, said_size, whole_cells
from tokenizer.state_codec import StateCodec
from tokenizer.state_schema import Slot, StateSchema
from worldmodel.attention import attend
from worldmodel.rotary import cos_sin
from worldmodel.transformer import Block, DynamicsConfig, KeysValues, bias_of, only_legal

CELL = 8  # pixels, each way


@dataclass(frozen=True, kw_only=True)
class StateEstimatorConfig:
    """The frames' resolution, a square's side or (height, width), and the sizes of the transformer and of the
    convolutions before it."""

    resolution: Resolution = 64
    width: int = 192
    depth: int = 3
    heads: int = 4
    stem_width: int = 64
    stem_depth: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolution", picture_resolution(self.resolution))
        whole_cells(self.resolution, CELL)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames."""
        return picture_size(self.resolution)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of cells."""
        return whole_cells(self.resolution, CELL)


class StateEstimator(nn.Module):
    """The pixel frames of one step, and the one before them, to the state at their end.

    An entity that is said not to be present has nothing else to say: its later slots are zero, as recordings leave
    them, and whatever follows is told nothing of them.

    Raises ValueError for a schema that has no state.
    """

    NEIGHBOURHOOD = 1 / 32  # of a quantity's range, to either side

    legal: Tensor  # local ids that each slot may take, (n, 2)
    owner: Tensor  # (n,): the earlier slot that says whether a slot's entity is present; n where there is none
    cos: Tensor
    sin: Tensor

    def __init__(self, config: StateEstimatorConfig, schema: StateSchema) -> None:
        super().__init__()
        self.config, self.schema, self.num_frames = config, schema, 1 + schema.frames_per_step
        if not schema.num_values:
            raise ValueError(f"{schema.name!r} has no scene state to estimate")
        self.codec = StateCodec(schema)
        width, stem, (rows, columns) = config.width, config.stem_width, config.grid
        self.slots: tuple[Slot, ...] = (*schema.static_slots, *schema.slots)
        self.num_static, self.num_slots = len(schema.static_slots), len(self.slots)

        self.fine = nn.Conv2d(3 * self.num_frames + 2, stem // 2, 4, stride=2, padding=1)
        self.coarse = nn.Conv2d(stem // 2, stem, 4, stride=2, padding=1)
        self.stem = nn.ModuleList(ResidualBlock(stem) for _ in range(config.stem_depth))
        self.merge = nn.Conv2d(stem, width, 2, stride=2)
        self.cell = nn.Parameter(torch.randn(rows * columns, width) * 0.02)
        self.slot = nn.Parameter(torch.randn(self.num_slots, width) * 0.02)
        self.embed = nn.Embedding(schema.num_local_ids + 1, width)  # the last one stands for none
        size = DynamicsConfig(width=width, depth=config.depth, heads=config.heads)
        self.blocks = nn.ModuleList(Block(size) for _ in range(config.depth))
        self.norm = RMSNorm(width)
        self.head = nn.Linear(width, schema.num_local_ids)
        nn.init.normal_(self.embed.weight, std=0.02)
        for block in self.blocks:
            for last in (block.merge, block.down):
                nn.init.normal_(last.weight, std=0.02 / (2 * config.depth) ** 0.5)  # type: ignore[arg-type]

        flags = {slot.entity: i for i, slot in enumerate(self.slots) if slot.field.role == "present"}
        owner = [flags.get(slot.entity, self.num_slots) for slot in self.slots]
        owner = [at if at < i else self.num_slots for i, at in enumerate(owner)]
        legal = torch.cat([self.codec.legal_ranges("static"), self.codec.legal_ranges("absolute")])
        place = torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns))
        said = F.pad(1 + torch.arange(self.num_slots)[:, None], (0, 2))
        cos, sin = cos_sin(torch.cat([place, said]), config.width // config.heads, torch.device("cpu"), torch.float32)
        for name, table in (("legal", legal), ("owner", torch.tensor(owner)), ("cos", cos), ("sin", sin)):
            self.register_buffer(name, table, persistent=False)

    # -- a state and its ids ------------------------------------------------------------------------

    def encode(self, states: Float[Tensor, "*batch F"]) -> Int[Tensor, "*batch n"]:
        """States (..., num_values) to the local ids that say them, (..., n): static slots, then the state's."""
        return torch.cat([self.codec.encode(states, "static"), self.codec.encode(states, "absolute")], -1)

    def absent(self, ids: Int[Tensor, "*batch n"]) -> Bool[Tensor, "*batch n"]:
        """Which of the ids (..., n) belong to an entity of which an earlier id says that it is not present."""
        return F.pad(ids == self.legal[:, 0], (0, 1))[..., self.owner]

    # -- the network --------------------------------------------------------------------------------

    def see(self, frames: UInt8[Tensor, "B r H W 3"]) -> Float[Tensor, "B cells width"]:
        """Frames uint8 (B, 1 + r, H, W, 3) to cells (B, h * w, width)."""
        video = frames.movedim(-1, 2).float() / 255 - 0.5
        down, across = (torch.linspace(-1, 1, side, device=frames.device) for side in self.config.size)
        place = torch.stack(torch.meshgrid(down, across, indexing="ij")).expand(len(frames), -1, -1, -1)
        x = torch.cat([video[:, -1], (video[:, :-1] - video[:, -1:]).flatten(1, 2), place], 1)
        x = F.silu(self.fine(x.contiguous(memory_format=torch.channels_last)))
        x = self.coarse(x)[:, None]
        for block in self.stem:
            x = block(x)
        return self.merge(x[:, 0]).flatten(2).transpose(1, 2) + self.cell

    def told(self, ids: Int[Tensor, "B n"]) -> Float[Tensor, "B n width"]:
        """Inputs (B, n, width) of the slots: each is given the id before it."""
        none = self.embed.num_embeddings - 1
        before = F.pad(torch.where(self.absent(ids), none, ids)[:, :-1], (1, 0), value=none)
        return self.embed(before) + self.slot

    def forward(
        self, frames: UInt8[Tensor, "B r H W 3"], ids: Int[Tensor, "B n"]
    ) -> tuple[Float[Tensor, "B n ids"], Float[Tensor, "B cells width"]]:
        """Teacher forcing: frames uint8 (B, 1 + r, H, W, 3) and ids (B, n) to logits (B, n, local state ids), and what
        the cells hold at the end (B, h * w, width)."""
        x = torch.cat([self.see(frames), self.told(ids)], 1)
        seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        seen[:, : len(self.cell)] = True
        hidden, _ = self._pass(x, slice(0, x.shape[1]), None, seen)
        cells, slots = hidden.split([len(self.cell), self.num_slots], 1)
        return self._logits(slots, slice(None)), cells

    def _pass(
        self, x: Tensor, places: slice, past: KeysValues | None, seen: Tensor | None
    ) -> tuple[Tensor, KeysValues]:
        """Inputs (B, Q, width) after the ``past``'s: hidden (B, Q, width), and keys and values with theirs."""
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        cos, sin = self.cos[places].to(dtype), self.sin[places].to(dtype)
        bias = None if seen is None else bias_of(seen, dtype)[None, None]
        all_keys, all_values = [], []
        for layer, block in enumerate(self.blocks):
            query, key, value = block.project(x, cos, sin)  # type: ignore[operator]
            if past is not None:
                key, value = torch.cat([past.keys[layer], key], 2), torch.cat([past.values[layer], value], 2)
            all_keys.append(key)
            all_values.append(value)
            x = block.finish(x, attend(query, [key], [value], bias))  # type: ignore[operator]
        return self.norm(x), KeysValues(torch.stack(all_keys), torch.stack(all_values))

    def _logits(self, hidden: Tensor, slots: slice) -> Tensor:
        return only_legal(self.head(hidden), self.legal[slots])

    # -- reading ------------------------------------------------------------------------------------

    @torch.inference_mode()
    def estimate(self, frames: Tensor) -> Float[Tensor, "B F"]:
        """The state that frames show at their end: float32 (B, num_values) in the schema's units, the likeliest.

        Args:
            frames: uint8 (B, T, H, W, 3), of which the last ``1 + r`` count, r being the frames of a step. Where there
                are fewer, the first stands in for those before it: nothing is then known to have moved.

        Raises ValueError for frames of another type or shape.
        """
        ids, logits = self.say(self.checked(frames))
        state = torch.zeros(len(frames), self.schema.num_values, device=ids.device)
        state = self.codec.decode(ids[:, : self.num_static], "static", state)
        state = self.codec.decode(ids[:, self.num_static :], "absolute", state)
        for i, (slot, absent) in enumerate(zip(self.slots, self.absent(ids).unbind(1), strict=True)):
            if slot.field.kind == "continuous":
                state[:, slot.columns] = self._quantity(slot, ids[:, i], logits[:, i])[:, None]
            state[absent, slot.columns] = 0
        return state

    def checked(self, frames: Tensor) -> UInt8[Tensor, "B r H W 3"]:
        """The frames (B, 1 + r, H, W, 3) that count. Raises ValueError for another type or shape."""
        height, width = self.config.size
        if frames.dtype != torch.uint8:
            raise ValueError(f"frames are uint8, got {frames.dtype}: multiply by 255 and convert")
        if frames.dim() != 5 or not frames.shape[1] or frames.shape[2:] != (height, width, 3):
            raise ValueError(
                f"states are read from clips (rows, frames, {height}, {width}, 3), got shape {tuple(frames.shape)}: "
                f"resize the frames to {said_size(self.config.size)} first"
            )
        frames = frames[:, -self.num_frames :]
        missing = self.num_frames - frames.shape[1]
        return torch.cat([frames[:, :1].expand(-1, missing, -1, -1, -1), frames], 1)

    def say(self, frames: UInt8[Tensor, "B r H W 3"]) -> tuple[Int[Tensor, "B n"], Float[Tensor, "B n ids"]]:
        """Frames (B, 1 + r, H, W, 3) to the likeliest ids, one after another (B, n), and their logits (B, n, ids)."""
        cells = self.see(frames)
        count = cells.shape[1]
        _, past = self._pass(cells, slice(0, count), None, None)
        ids = torch.zeros(len(frames), self.num_slots, dtype=torch.long, device=frames.device)
        logits = []
        for i in range(self.num_slots):
            hidden, past = self._pass(self.told(ids)[:, i : i + 1], slice(count + i, count + i + 1), past, None)
            logits.append(self._logits(hidden, slice(i, i + 1)))
            ids[:, i] = logits[i][:, 0].argmax(-1)
        return ids, torch.cat(logits, 1)

    def _quantity(self, slot: Slot, ids: Tensor, logits: Tensor) -> Tensor:
        """The mean of a continuous slot's value around its likeliest ids (B,), from logits (B, ids): (B,)."""
        field, bins = slot.field, slot.field.bins
        reach = ceil(bins * self.NEIGHBOURHOOD)
        near = (ids - slot.offset)[:, None] + torch.arange(-reach, reach + 1, device=ids.device)
        share = logits[:, slot.offset : slot.offset + bins].softmax(-1).gather(1, near % bins)
        if not field.periodic:
            share = share * ((near >= 0) & (near < bins))
        mean = (share * near).sum(1) / share.sum(1)
        return field.legal(field.low + (mean + 0.5) / bins * (field.high - field.low))
