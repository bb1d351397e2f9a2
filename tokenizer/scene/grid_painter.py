"""The scene state painted onto the frame's grid: told at each cell *where each body is relative to this cell*, a small
transformer renders; it gets little from a state that it can only attend to.

What has a position is a body, everything else that varies is global (see ``roles.py``).
"""

from __future__ import annotations

from math import pi

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tokenizer.scene.camera import cell_centres, unproject
from tokenizer.scene.state_reader import SceneReading, StateMotion, StateReader
from tokenizer.scene.tiles import tile_at
from tokenizer.state_schema import StateSchema
from tokenizer.view import Orbit


class GridPainter(nn.Module):
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
        schema: StateSchema,
        grid: tuple[int, int],
        width: int,
        hidden: int = 96,
        *,
        samples: int = 4,
        moments: int = 1,
    ) -> None:
        super().__init__()
        assert schema.view is not None
        self.read = StateReader(schema)
        self.grid, self.view, self.samples, self.moments = grid, schema.view, samples, moments
        self.motion = StateMotion(schema)
        rows, columns = grid
        self.aspect = columns / rows  # cells are square
        down, across = ((torch.arange(count * samples) + 0.5) / (count * samples) for count in grid)
        points = torch.stack(torch.meshgrid(down, across, indexing="ij")[::-1], -1).flatten(0, 1)
        heights = (-1.0, 0.0, 1.0) if isinstance(schema.view, Orbit) else (0.0,)  # in half extents from the centre
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
        if not isinstance(schema.view, Orbit) and schema.view.tiles is not None:
            tile = tile_at(
                schema.view.tiles, unproject(schema.view, points, None)
            )  # that each point of each cell lies in
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

    def _cover(self, state: Tensor, seen: SceneReading, at: Tensor, radius: Tensor, sharp: Tensor) -> Tensor:
        """(N, cells, bodies, masks * samples**2): 1 where a mask covers a point, 0 elsewhere, soft by half a sample.

        ``at`` (N, moments, bodies, 2) and ``radius`` (N, moments, bodies) are as pictured; ``sharp`` (N, bodies) is how
        many picture heights a unit is. Where there is a light, the last two are coordinates along and across it in
        place of masks, in sizes of the body.
        """
        dense = 2 * len(self.down)
        across, down = self.across.to(at) - at[..., :1], self.down.to(at) - at[..., 1:]
        across = across if self.aspect == 1 else across * self.aspect  # in picture heights
        distance = (across.square()[..., None, :] + down.square()[..., :, None]).sqrt()
        discs = (radius[..., None, None] - distance) * dense

        size, azimuth = seen.size[:, :, None], self.read.azimuth(state)
        heights = seen.centre[:, :, None, 2:] + size[..., None] * self.heights.to(state)  # (N, bodies, heights, 1)
        turned = None if azimuth is None else azimuth[:, None, None, None]
        ground = unproject(self.view, self.points.to(state), turned, heights[..., None], self.aspect)
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
        turned = None if azimuth is None else azimuth[:, None]
        floor = unproject(self.view, self.cells.to(state), turned, aspect=self.aspect)
        floor = floor.expand(2 * len(state), -1, -1)
        at = (2 * torch.cat(floor.chunk(2), -1)).clamp(-3, 3)
        waves = torch.cat([pi * 2**octave * at for octave in range(self.OCTAVES)], -1)
        return torch.cat([at, waves.sin(), waves.cos()], -1)

    def forward(self, state: Float[Tensor, "N F"], previous: Float[Tensor, "N F"]) -> Float[Tensor, "N cells width"]:
        """State and the state a step before, (N, num_values) each, to (N, h * w, width)."""
        dtype, count = self.out.weight.dtype, len(state)
        seen, before = self.read(state), self.read(previous)
        track = torch.cat([previous[:, None], self.motion(previous, state, self.moments)], 1)
        at, radius, sharp = (x.unflatten(0, (count, -1)) for x in self.read.picture(track.flatten(0, 1), self.aspect))
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


def scene_painter(schema: StateSchema, grid: tuple[int, int], width: int, *, moments: int = 1) -> GridPainter | None:
    """What paints a schema's states onto ``grid`` (rows, columns), ``width`` wide; None where it has no view."""
    return None if schema.view is None else GridPainter(schema, grid, width, moments=moments)
