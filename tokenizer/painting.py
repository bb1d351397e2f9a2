"""The scene state painted where it is needed: onto the frame's grid, and onto the state's own slots.

A small transformer gets little from a state that it can only attend to. Told at each cell *where each body
is relative to this cell*, it renders; told at each body where the others are relative to it, it simulates.
Both use the schema's roles alone: what has a position is a body, everything else that varies is global.
"""

from __future__ import annotations

from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.camera import cell_centres, unproject
from tokenizer.layers import general
from tokenizer.scene_schema import SceneSchema, View
from tokenizer.state_reader import Seen, StateMotion, StateReader


def tile_middles(view: View) -> Tensor:
    """Where the tiles of a plane lie, (rows * columns, 2), in the positions' units."""
    low, high = torch.tensor(view.tiles_low), torch.tensor(view.tiles_high)
    return low + cell_centres(view.tiles) * (high - low)


def tile_at(view: View, places: Tensor) -> Tensor:
    """Which tile places (..., 2) lie in, int64 (...), row by row; as many as there are for none."""
    rows, columns = view.tiles
    low, high = torch.tensor(view.tiles_low), torch.tensor(view.tiles_high)
    column, row = ((places - low) / (high - low) * torch.tensor([columns, rows])).floor().long().unbind(-1)
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    return torch.where(inside, row * columns + column, rows * columns)


class ScenePainter(nn.Module):
    """An embedding for every cell of the picture that says what the state puts there, now and a step ago.

    Besides offsets, a cell is told which of ``samples`` x ``samples`` points in it each body covers: its disc, at
    ``moments`` evenly spaced moments of the step, and at its end the square and the circle that it would have as
    footprint, at its bottom, middle and top. Where a light turns, a point is also told where on the floor it lies
    from the body, along the light and across. So edges and shadows need not be learned from offsets alone. Where there
    are tiles, each point is also told whether one stands there.
    """

    OCTAVES = 3  # of floor coordinates

    cells: Tensor
    tile: Tensor
    scale: Tensor
    down: Tensor
    across: Tensor
    points: Tensor
    heights: Tensor

    def __init__(
        self,
        schema: SceneSchema,
        grid: tuple[int, int],
        width: int,
        hidden: int = 96,
        *,
        samples: int = 4,
        moments: int = 1,
    ) -> None:
        super().__init__()
        if schema.view is None:
            raise ValueError(
                f"the schema {schema.name!r} has no view: without it, bodies cannot be placed in the picture"
            )
        self.read = StateReader(schema)
        self.grid, self.view, self.samples, self.moments = grid, schema.view, samples, moments
        self.motion = StateMotion(schema)
        rows, columns = grid
        down, across = ((torch.arange(count * samples) + 0.5) / (count * samples) for count in grid)
        points = torch.stack(torch.meshgrid(down, across, indexing="ij")[::-1], -1).flatten(0, 1)
        heights = (-1.0, 0.0, 1.0) if schema.view.kind == "orbit" else (0.0,)  # in half extents from the centre
        for name, table in (
            ("cells", cell_centres(grid)),  # (h*w, 2)
            ("scale", torch.tensor([columns, rows]) * (8 / rows)),
            ("down", down),
            ("across", across),
            ("points", points),
            ("heights", torch.tensor(heights)[:, None]),
        ):
            self.register_buffer(name, table, persistent=False)
        self.offsets = nn.Linear(16, hidden, bias=False)
        masks = moments + 2 * len(heights) + (2 if self.read.light is not None else 0)
        self.covered = nn.Linear(masks * samples**2, hidden, bias=False)
        self.kinds = nn.Linear(self.read.num_kind + 2 + 4 + self.read.num_scene, hidden)
        self.mix = nn.Linear(hidden, hidden)
        self.place = nn.Linear(4 * (1 + 2 * self.OCTAVES), hidden, bias=False)
        self.scene = nn.Linear(2 * self.read.num_scene, hidden)
        self.floor = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, width)
        self.tiles = None
        if self.read.tiles is not None:
            tile = tile_at(schema.view, unproject(schema.view, points, None))  # that each point of each cell lies in
            tile = tile.view(rows, samples, columns, samples).transpose(1, 2).reshape(rows * columns, -1)
            self.register_buffer("tile", tile, persistent=False)
            self.tiles = nn.Linear(2 * samples**2, hidden, bias=False)

    def _offset_features(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets of cells from bodies, (N, cells, bodies, 8), and how near they are, (N, cells, bodies)."""
        offset = (self.cells[None, :, None].to(at) - at[:, None]) * self.scale.to(at)  # in eighths of the picture
        square = offset.square().sum(-1, keepdim=True)
        near = torch.exp(-square / 8)
        features = [offset.clamp(-3, 3) / 2, torch.tanh(2 * offset), torch.sin(3 * offset.clamp(-1, 1))]
        return torch.cat([*features, torch.exp(-2 * square), near], -1), near[..., 0]

    def _cover(self, state: Tensor, seen: Seen, at: Tensor, radius: Tensor, sharp: Tensor) -> Tensor:
        """(N, cells, bodies, masks * samples**2): 1 where a mask covers a point, 0 elsewhere, soft by half a sample.

        ``at`` (N, moments, bodies, 2) and ``radius`` (N, moments, bodies) are as pictured; ``sharp`` (N, bodies) is how
        many picture heights a unit is. Where there is a light, the last two are coordinates along and across it in
        place of masks, in sizes of the body.
        """
        dense = 2 * len(self.down)
        across, down = self.across.to(at) - at[..., :1], self.down.to(at) - at[..., 1:]
        distance = (across.square()[..., None, :] + down.square()[..., :, None]).sqrt()
        discs = (radius[..., None, None] - distance) * dense

        size, azimuth = seen.size[:, :, None], self.read.azimuth(state)
        heights = seen.centre[:, :, None, 2:] + size[..., None] * self.heights.to(state)  # (N, bodies, heights, 1)
        turned = None if azimuth is None else azimuth[:, None, None, None]
        ground = unproject(self.view, self.points.to(state), turned, heights[..., None])
        offset = ground - seen.centre[:, :, None, None, :2]  # (N, bodies, heights, points, 2)
        x, y = offset[..., 0], offset[..., 1]
        cos, sin = seen.yaw[:, :, None, None].cos(), seen.yaw[:, :, None, None].sin()
        square = torch.maximum((cos * x + sin * y).abs(), (cos * y - sin * x).abs())
        reach = torch.stack([square, (x.square() + y.square()).sqrt()], 1)
        feet = (size[:, None, :, :, None] - reach) * (sharp * dense)[:, None, :, None, None]
        feet = feet.movedim(3, 2).flatten(1, 2).unflatten(-1, discs.shape[-2:])

        masks = torch.sigmoid(torch.cat([discs, feet], 1))  # (N, masks, bodies, height, width)
        if self.read.light is not None:
            angle = state[:, self.read.light][:, None, None]
            x, y = x[:, :, 0], y[:, :, 0]  # as seen on the floor
            lit = torch.stack([angle.cos() * x + angle.sin() * y, angle.cos() * y - angle.sin() * x], 1)
            lit = (lit / size.clamp_min(1e-3)[:, None]).clamp(-4, 4) / 4
            masks = torch.cat([masks, lit.unflatten(-1, masks.shape[-2:])], 1)
        rows, columns = self.grid
        masks = masks.unflatten(-1, (columns, self.samples)).unflatten(-3, (rows, self.samples))
        return masks.permute(0, 3, 5, 2, 1, 4, 6).flatten(4).flatten(1, 2)

    def _floor_features(self, state: Tensor, previous: Tensor) -> Tensor:
        """Where on the floor each cell looks now and a step ago, as waves too: (N, cells, 4 * (1 + 2 * OCTAVES))."""
        azimuth = self.read.azimuth(torch.cat([state, previous]))
        floor = unproject(self.view, self.cells.to(state), None if azimuth is None else azimuth[:, None])
        floor = floor.expand(2 * len(state), -1, -1)
        at = (2 * torch.cat(floor.chunk(2), -1)).clamp(-3, 3)
        waves = torch.cat([pi * 2**octave * at for octave in range(self.OCTAVES)], -1)
        return torch.cat([at, waves.sin(), waves.cos()], -1)

    def forward(self, state: Tensor, previous: Tensor) -> Tensor:
        """State and the state a step before, (N, num_values) each, to (N, h * w, width)."""
        dtype, count = self.out.weight.dtype, len(state)
        seen, before = self.read(state), self.read(previous)
        track = torch.cat([previous[:, None], self.motion(previous, state, self.moments)], 1)
        at, radius, sharp = (x.unflatten(0, (count, -1)) for x in self.read.picture(track.flatten(0, 1)))
        ends = torch.stack([at[:, -1], at[:, 0]], 1)
        offsets, near = self._offset_features(ends.flatten(0, 1))
        offsets, near = offsets.unflatten(0, (count, 2)), near.unflatten(0, (count, 2))
        kind = torch.cat(
            [
                seen.kind,
                8 * torch.stack([radius[:, -1], radius[:, 0]], -1),
                seen.orientation,
                before.orientation,
                seen.scene[:, None].expand(-1, len(self.read.bodies), -1),  # where its shadow falls, for one
            ],
            -1,
        ).to(dtype)
        cover = self._cover(state, seen, at[:, 1:], radius[:, 1:], sharp[:, -1])
        hidden = self.offsets(torch.cat([offsets[:, 0], offsets[:, 1]], -1).to(dtype)) + self.kinds(kind)[:, None]
        body = F.gelu(self.mix(F.gelu(hidden + self.covered(cover.to(dtype)))))
        weight = near.amax(1) * seen.present[:, None]
        painted = (body * weight[..., None].to(dtype)).sum(2)
        floor, scene = self._floor_features(state, previous), torch.cat([seen.scene, before.scene], -1)
        place = self.place(floor.to(dtype)) + self.scene(scene.to(dtype))[:, None]
        if self.tiles is not None:
            stands = [F.pad(x[:, self.read.tiles], (0, 1))[:, self.tile] for x in (state, previous)]
            place = place + self.tiles(torch.cat(stands, -1).to(dtype))
        return self.out(painted + self.floor(F.gelu(place)))


class StatePainter(nn.Module):
    """An embedding for every state slot: its own entity's values, the bodies around it, and the bounds and tiles it may
    meet; for tiles, the bodies that may meet them. With ``words``, also what a told event's words say to one like it.

    Bounds are the ends of a position's range, where the walls of a walled world stand. Whom an event means is hard to
    find by attention alone, for a name must meet its bearer; told of the words, an entity knows its own.
    """

    slot_entity: Tensor  # grouped by signature
    slot_body: Tensor
    low: Tensor
    high: Tensor
    turns: Tensor

    def __init__(self, schema: SceneSchema, width: int, hidden: int = 96, words: int = 0) -> None:
        super().__init__()
        self.read = StateReader(schema)
        signatures = list(dict.fromkeys(e.fields for e in schema.entities))
        alike = [[e for e in schema.entities if e.fields == fields] for fields in signatures]
        order = [schema.entities.index(e) for group in alike for e in group]
        for i, group in enumerate(alike):
            rows = [[k for f in e.fields for k in self.read.inputs_of(e, f)] for e in group]
            self.register_buffer(f"own_{i}", torch.tensor(rows, dtype=torch.long), persistent=False)
        sizes = [self.get_buffer(f"own_{i}").shape[1] for i in range(len(signatures))]
        self.own = nn.ModuleList(
            nn.Sequential(nn.Linear(n, hidden), nn.GELU(), nn.Linear(hidden, width)) for n in sizes
        )
        self.words = nn.EmbeddingBag(words, width, mode="sum") if words else None
        self.hearing = nn.ModuleList(nn.Linear(n, width) for n in sizes if words)
        self.heard = nn.Linear(width, width, bias=False) if words else None
        if self.words is not None and self.heard is not None:
            nn.init.normal_(self.words.weight, std=0.5)
            nn.init.zeros_(self.heard.weight)
        self.pairs = nn.Linear(15, hidden, bias=False)
        self.first = nn.Linear(self.read.num_kind, hidden)
        self.second = nn.Linear(self.read.num_kind, hidden, bias=False)
        self.mix = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, width)
        self.bounds = nn.Linear(18 + self.read.num_kind, hidden)
        self.bounded = nn.Linear(hidden, width, bias=False)
        nn.init.zeros_(self.bounded.weight)
        slots, places = [s.entity for s in schema.slots], {entity: i for i, entity in enumerate(order)}
        body_of = {entity: i for i, entity in enumerate(self.read.bodies)}
        for name, table in (
            ("slot_entity", [places[entity] for entity in slots]),
            ("slot_body", [body_of.get(entity, len(body_of)) for entity in slots]),
        ):
            self.register_buffer(name, torch.tensor(table, dtype=torch.long), persistent=False)
        self.tiles = TilePainter(schema, self.read, width) if self.read.tiles is not None else None
        bodies = [schema.entities[i].fields for i in self.read.bodies]
        ranges = [next((f.low, f.high) for f in fields if f.role == "position") for fields in bodies]
        angles = [[f.high - f.low for f in fields if f.role == "orientation" and f.periodic] for fields in bodies]
        low, high = (torch.tensor(ranges).reshape(-1, 2, 1) / self.read.unit).unbind(1)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        # How often a body looks the same in a whole turn; 0 for one that is not seen to turn.
        turns = torch.tensor([2 * pi / periods[0] if periods else 0.0 for periods in angles])
        self.register_buffer("turns", turns, persistent=False)

    def listen(self, words: Tensor) -> Tensor:
        """Local text ids (N, n), -1 for none, to their words' sum, (N, width): zero for those that are told nothing."""
        assert self.words is not None
        return self.words(words.clamp_min(0), per_sample_weights=(words >= 0).to(self.words.weight))

    def forward(self, state: Tensor, told: Tensor | None = None) -> Tensor:
        """State vectors (N, num_values), and what :meth:`listen` made of an event, to (N, num_slots, width)."""
        seen, dtype = self.read(state), self.out.weight.dtype
        own = [seen.encoded.to(dtype)[:, self.get_buffer(f"own_{i}")] for i in range(len(self.own))]
        entities = torch.cat([net(inputs) for net, inputs in zip(self.own, own, strict=True)], 1)
        if told is not None and self.heard is not None and (general(told) or bool(told.any())):
            hearing = torch.cat([net(inputs) for net, inputs in zip(self.hearing, own, strict=True)], 1)
            told = told[:, None].to(dtype)
            entities = entities + self.heard(F.gelu(hearing + told) * (told != 0).any(-1, keepdim=True))
        slots = entities[:, self.slot_entity]
        if not self.read.bodies:
            return slots
        met = self._around(seen, dtype) + self._bounds(seen, dtype)
        if self.tiles is not None:
            hit, hitting = self.tiles(state, seen)
            met, slots = met + hit, slots + hitting
        return slots + F.pad(met, (0, 0, 0, 1))[:, self.slot_body].to(slots)

    def matrices(self) -> list[nn.Parameter]:
        """Its weights but the biases, for an optimizer that treats matrices apart."""
        layers = [self.own, self.pairs, self.first, self.second, self.mix, self.out, self.bounds, self.bounded]
        layers += [layer for layer in (self.hearing, self.heard, self.tiles) if layer is not None]
        return [p for layer in layers for p in layer.parameters() if p.dim() == 2]

    def _around(self, seen: Seen, dtype: torch.dtype) -> Tensor:
        """What each body meets, (N, bodies, width): summed over the other bodies that are there."""
        position, velocity, size = self.read.relative(seen)
        offset = position[:, None] - position[:, :, None]  # [i, j]: from i to j
        closing = velocity[:, None] - velocity[:, :, None]
        distance = offset.norm(dim=-1, keepdim=True)
        reach = (size[:, None] + size[:, :, None])[..., None]
        gap = (distance - reach) * 10
        direction = offset / distance.clamp_min(1e-4)
        approach = (closing * direction).sum(-1, keepdim=True)
        near, nearer = torch.exp(-gap.clamp_min(0)), torch.exp(-4 * gap.clamp_min(0))
        facing = self._facing(seen, direction)
        relation = torch.cat(
            [offset * 2, closing, direction, gap.clamp(-2, 2), approach, near, nearer, near * approach, facing], -1
        ).to(dtype)
        kind = seen.kind.to(dtype)
        hidden = F.gelu(self.pairs(relation) + self.first(kind)[:, :, None] + self.second(kind)[:, None])
        hidden = F.gelu(self.mix(hidden))
        others = 1 - torch.eye(size.shape[1], device=size.device)
        weight = (seen.present[:, None] * others)[..., None].to(dtype)
        return self.out((hidden * weight).sum(2))

    def _facing(self, seen: Seen, direction: Tensor) -> Tensor:
        """Which side each of two bodies shows the other: cosine and sine for both, (N, bodies, bodies, 4)."""
        yaw = seen.orientation  # already turned as often as the body looks the same
        angle = torch.atan2(direction[..., 1], direction[..., 0])
        first = angle * self.turns.to(angle)[:, None]
        second = (angle + pi) * self.turns.to(angle)
        sides = []
        for phase, own in ((first, yaw[:, :, None]), (second, yaw[:, None])):
            cos, sin = phase.cos(), phase.sin()
            sides += [cos * own[..., 0] + sin * own[..., 1], sin * own[..., 0] - cos * own[..., 1]]
        return torch.stack(sides, -1)

    def _bounds(self, seen: Seen, dtype: torch.dtype) -> Tensor:
        """What each body is told of the ends of its range, (N, bodies, width)."""
        position, velocity, size = self.read.relative(seen)
        gap = torch.cat([position - self.low.to(size), self.high.to(size) - position], -1) - size[..., None]
        gap = gap * 10
        near, nearer = torch.exp(-gap.clamp_min(0)), torch.exp(-4 * gap.clamp_min(0))
        approach = torch.cat([-velocity, velocity], -1)
        met = torch.cat([gap.clamp(-2, 2), near, nearer, near * approach, seen.orientation], -1)
        hidden = F.gelu(self.bounds(torch.cat([met, seen.kind], -1).to(dtype)))
        return self.bounded(hidden)


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

    def __init__(self, schema: SceneSchema, read: StateReader, width: int, hidden: int = 48, told: int = 16) -> None:
        super().__init__()
        view = schema.view
        assert view is not None
        assert read.tiles is not None
        self.read, self.grid = read, view.tiles
        units = [f.unit for e in schema.entities for f in e.fields if f.role == "velocity"]
        per_frame = bool(units) and units[0].endswith("/frame")
        self.step = schema.frames_per_step / (1 if per_frame else schema.fps)  # of the velocities' time
        size = (torch.tensor(view.tiles_high) - torch.tensor(view.tiles_low)) / torch.tensor(view.tiles[::-1])
        start, count = read.tiles.start, view.tiles[0] * view.tiles[1]
        slots = [
            [c - start for c in range(s.columns.start, s.columns.stop)] if s.field.role == "tiles" else []
            for s in schema.slots
        ]
        slot_tiles = torch.tensor([[*tiles, *[count] * (8 - len(tiles))] for tiles in slots])
        for name, table in (
            ("middles", tile_middles(view)),
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

    def forward(self, state: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
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
