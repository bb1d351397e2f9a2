"""Tiles of a plane that stand or are gone: where they lie, and what they and the bodies meet in each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tokenizer.scene.camera import cell_centres
from tokenizer.scene.state_reader import SceneReading, StateReader
from tokenizer.state_schema import StateSchema
from tokenizer.view import Plane, Tiles


def tile_middles(tiles: Tiles) -> Float[Tensor, "tiles 2"]:
    """Where the tiles of a plane lie, (rows * columns, 2), in the positions' units."""
    low, high = torch.tensor(tiles.low), torch.tensor(tiles.high)
    return low + cell_centres(tiles.grid) * (high - low)


def tile_at(tiles: Tiles, places: Float[Tensor, "*batch 2"]) -> Int[Tensor, "*batch"]:
    """Which tile places (..., 2) lie in, int64 (...), row by row; as many as there are for none."""
    rows, columns = tiles.grid
    low, high = torch.tensor(tiles.low), torch.tensor(tiles.high)
    column, row = ((places - low) / (high - low) * torch.tensor([columns, rows])).floor().long().unbind(-1)
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    return torch.where(inside, row * columns + column, rows * columns)


class TilePainter(nn.Module):
    """What bodies and tiles meet in each other on the way that a body takes if nothing stops it.

    Every pair of a body and a tile is told how they lie, in sizes of a tile, and which of the tile's neighbours stand;
    only what comes near counts.
    """

    FEATURES = 19

    middles: Tensor
    extent: Tensor
    slot_tiles: Tensor
    of_tiles: Tensor

    def __init__(self, schema: StateSchema, read: StateReader, width: int, hidden: int = 48, told: int = 16) -> None:
        super().__init__()
        assert isinstance(schema.view, Plane)
        tiled = schema.view.tiles
        assert tiled is not None
        assert read.tiles is not None
        self.read, self.grid = read, tiled.grid
        units = [f.unit for f in schema.fields_of("velocity").values()]
        self.step = schema.step_time(units[0] if units else "")  # in the velocities' time
        size = (torch.tensor(tiled.high) - torch.tensor(tiled.low)) / torch.tensor(tiled.grid[::-1])
        start, count = read.tiles.start, tiled.count
        slots = [
            [c - start for c in range(s.columns.start, s.columns.stop)] if s.field.role == "tiles" else []
            for s in schema.slots
        ]
        slot_tiles = torch.tensor([[*tiles, *[count] * (8 - len(tiles))] for tiles in slots])
        for name, table in (
            ("middles", tile_middles(tiled)),
            ("extent", size / 2),
            ("slot_tiles", slot_tiles),  # (slots, 8); count for none
            ("of_tiles", torch.tensor([[float(bool(tiles))] for tiles in slots])),
        ):
            self.register_buffer(name, table, persistent=False)
        self.pairs = nn.Linear(self.FEATURES, hidden)
        self.kinds = nn.Linear(read.num_kind, hidden, bias=False)
        self.mix = nn.Linear(hidden, hidden)
        self.hit = nn.Linear(hidden, width, bias=False)
        self.hitting = nn.Linear(hidden, told, bias=False)
        self.slots = nn.Linear(8 * told, width)

    def forward(
        self, state: Float[Tensor, "N F"], seen: SceneReading
    ) -> tuple[Float[Tensor, "N bodies width"], Float[Tensor, "N S width"]]:
        """States (N, num_values) to what bodies, (N, bodies, width), and the state's slots, (N, slots, width), meet."""
        dtype, stands = self.mix.weight.dtype, state[:, self.read.tiles]
        position, way = seen.position[..., :2], seen.velocity[..., :2] * self.step
        offset = (self.middles.to(state) - position[:, :, None]) / self.extent.to(state)  # (N, bodies, tiles, 2)
        way = (way / self.extent.to(state))[:, :, None].expand_as(offset)
        along = ((offset * way).sum(-1, keepdim=True) / way.square().sum(-1, keepdim=True).clamp_min(1e-4)).clamp(0, 1)
        closest = offset - along * way  # from the nearest point of the way
        near = torch.exp(-closest.square().sum(-1, keepdim=True) / 16)
        around = F.unfold(stands.unflatten(1, (1, *self.grid)), 3, padding=1).transpose(1, 2)  # (N, tiles, 9)
        told = [offset.clamp(-8, 8) / 4, way / 4, closest.clamp(-8, 8) / 4, torch.tanh(closest), along, near]
        told += [around[:, None].expand(-1, offset.shape[1], -1, -1)]
        hidden = self.pairs(torch.cat(told, -1).to(dtype)) + self.kinds(seen.kind.to(dtype))[:, :, None]
        hidden = F.gelu(self.mix(F.gelu(hidden))) * (near * seen.present[:, :, None, None]).to(dtype)
        hit = self.hit((hidden * stands[:, None, :, None].to(dtype)).sum(2))
        hitting = F.pad(self.hitting(hidden.sum(1)), (0, 0, 0, 1))[:, self.slot_tiles].flatten(2)
        return hit, self.slots(hitting) * self.of_tiles.to(dtype)
