"""Bodies drawn from the scene state, pixel by pixel, as a layer over whatever else the picture shows.

A state says exactly where small things are, and a network of a few blocks draws their edges softly. So each
body is cast as the three solids of its size (ball, box, cylinder) in a window around where it is seen, and learned
weights say which of them its kind is, which colours it has and how light falls on it; a shadow and a mark on
the floor lie under it. This is deferred shading with a learned shader (Thies et al. 2019, arXiv:1904.12356), with
analytic geometry from the schema's roles in place of a mesh.

Dimension keys: n picture, b body, k side of a window in pixels, f feature.
"""

from __future__ import annotations

from math import tan

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tokenizer.branchless import must_be_branchless
from tokenizer.scene.camera import camera, project
from tokenizer.scene.planar import planar
from tokenizer.scene.ray_casting import SOLIDS, cast_solids, coverage
from tokenizer.scene.state_reader import SceneReading, StateReader
from tokenizer.state_schema import StateSchema
from tokenizer.view import Orbit, Plane


class BodyLayers(nn.Module):
    """State vectors to premultiplied colours and what shines through, for pictures of ``size`` (height, width) pixels.

    A body without a size is a mark on the floor, of an extent that is learned.

    Args:
        mark: half extent that a body without a size starts from, in spans of the positions' range.
        window: side of the square of pixels in which a body, its shadow included, is drawn.
        hidden: width of the networks that choose colours and shade.
        edge: width of edges in pixels: 1 where pixels are means of what they show, less where they are samples.
    """

    FEATURES = 15  # of a pixel, for the shader

    unsized: Tensor
    up: Tensor
    sides: Tensor
    colours: Tensor

    def __init__(
        self,
        schema: StateSchema,
        size: tuple[int, int],
        *,
        window: int | None = None,
        hidden: int = 32,
        edge: float = 1.0,
        mark: float = 0.08,
    ) -> None:
        super().__init__()
        assert schema.view is not None
        self.view, self.edge, self.mark = schema.view, edge, mark
        self.height, self.width = size
        self.window = min(window or self.height * 3 // 8, *size)
        self.read = StateReader(schema)
        unsized = self.read.size == schema.num_values
        self.register_buffer("unsized", unsized[None], persistent=False)
        self.register_buffer("sides", torch.tensor(size[::-1]).float(), persistent=False)  # width, height
        self.register_buffer("up", torch.tensor([0.0, 0, 1]), persistent=False)
        self.register_buffer("colours", torch.tensor([1.0, 1, 1, 0]), persistent=False)  # of a layer's four parts
        self.num_sized = int((~unsized).sum())
        self.extent = nn.Parameter(torch.zeros(len(unsized)))  # logarithm, over ``mark``
        if self.read.light is not None:
            self.elevation = nn.Parameter(torch.tensor(0.9))  # of the light, in radians, which no schema tells
        inputs = self.read.num_kind + 2 + self.read.num_scene
        looks = len(SOLIDS) + 2 + 3 * 3  # which solid it is, what its shadow and its mark hide, three colours
        self.look = nn.Sequential(nn.Linear(inputs, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, looks))
        self.kind = nn.Linear(inputs, hidden)
        self.shade = nn.Linear(self.FEATURES, hidden, bias=False)
        self.shaded = nn.Linear(hidden, 4)  # light on both colours, plain light, and how much shows through
        with torch.no_grad():
            last = self.look[-1]
            assert isinstance(last, nn.Linear)
            last.weight.mul_(0.5)
            last.bias.copy_(torch.tensor([0.0, 0, 0, -1, -2] + [0.0] * 9))
            self.shaded.weight.mul_(0.3)
            self.shaded.bias.copy_(torch.tensor([1.0, 0, 0, 3]))

    # -- geometry -----------------------------------------------------------------------------------

    def _windows(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """First row and column of each body's window, int64 (n, b), for places in the picture (n, b, 2)."""
        corner = (at.detach() * self.sides.to(at) - self.window / 2).round()
        corner = corner.masked_fill(corner.isnan(), 0).clamp_min(0).minimum(self.sides.to(at) - self.window).long()
        return corner[..., 1], corner[..., 0]

    def _rays(
        self, state: Tensor, centre: Tensor, yaw: Tensor, size: Tensor, row: Tensor, column: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Each window pixel's ray in its body's frame, in units of the body's size: where it starts and where it
        goes, (n, b, 3, k, k) or broadcastable, and the direction from the body to the camera, (n, b, 3)."""
        pixels = torch.arange(self.window, device=state.device)
        across = (column[..., None] + pixels + 0.5)[..., None, None, :] / self.width  # (n, b, 1, 1, k)
        down = (row[..., None] + pixels + 0.5)[..., None, :, None] / self.height  # (n, b, 1, k, 1)
        turn = self._turn(yaw)
        if isinstance(self.view, Plane):  # seen straight from above
            low, high = self.view.low, self.view.high
            x = low[0] + across * (high[0] - low[0]) - centre[..., :1, None, None]
            y = low[1] + down * (high[1] - low[1]) - centre[..., 1:2, None, None]
            x, y = x / size[..., None, None, None], y / size[..., None, None, None]
            origin = turn[..., :1, None] * x + turn[..., 1:2, None] * y  # (n, b, 3, k, k)
            origin = origin + 4 * self.up.to(origin)[:, None, None]
            up = self.up.to(origin).expand_as(centre)
            return origin, -up[..., None, None], up
        azimuth = self.read.azimuth(state)
        assert isinstance(self.view, Orbit)
        assert azimuth is not None
        axes, eye = camera(self.view, azimuth)
        axes = turn[:, :, None] @ axes[:, None, :, :, None]  # (n, b, 3 axes, 3, 1)
        right, up, forward = axes[..., None].unbind(2)
        reach = tan(self.view.fovy / 2)
        wide = reach * self.width / self.height
        ray = torch.addcmul(forward, right, (2 * across - 1) * wide) + up * ((1 - 2 * down) * reach)
        origin = (turn @ (eye[:, None] - centre)[..., None]) / size[..., None, None]
        return origin[..., None], ray, F.normalize(origin[..., 0], dim=-1)

    @staticmethod
    def _turn(yaw: Tensor) -> Tensor:
        """Rotations from the world's frame into bodies', (n, b, 3, 3)."""
        c, s, zero = yaw.cos(), yaw.sin(), torch.zeros_like(yaw)
        return torch.stack([c, s, zero, -s, c, zero, zero, zero, zero + 1], -1).unflatten(-1, (3, 3))

    def _light(self, state: Tensor, yaw: Tensor) -> Tensor:
        """The direction towards the light in each body's frame, (n, b, 3); from straight above if none turns."""
        if self.read.light is None:
            return self.up.to(state).expand(*yaw.shape, 3)
        angle, flat = state[:, self.read.light][:, None] - yaw, self.elevation.cos()
        return torch.stack([angle.cos() * flat, angle.sin() * flat, self.elevation.sin().expand_as(angle)], -1)

    def _on_floor(self, floor: Tensor, light: Tensor) -> tuple[Tensor, Tensor]:
        """How much of each pixel a ball's shadow and a round mark of its size cover, (n, b, k * k), for places on the
        floor (n, b, 2, k, k)."""
        flat = light[..., :2].square().sum(-1, keepdim=True).clamp_min(1e-6).sqrt()
        (c, s), (x, y) = (light[..., :2] / flat)[..., None, None].unbind(2), floor.unbind(2)
        ahead, aside = c * x + s * y, c * y - s * x
        ahead = ahead * light[..., 2:, None] + flat[..., None]  # a ball that touches the floor, seen along the light
        far = torch.stack([ahead.square() + aside.square(), floor.square().sum(2)], 2)
        shadowed, marked = coverage(1 - far, self.edge).flatten(3).unbind(2)
        return shadowed, marked

    # -- the picture --------------------------------------------------------------------------------

    def forward(self, state: Float[Tensor, "n F"], seen: SceneReading | None = None) -> Float[Tensor, "n 4 h w"]:
        """States (n, num_values) to (n, 4, height, width): three premultiplied colours, and what shines
        through to what lies behind. ``seen`` is what is read of the states, if that is at hand."""
        if seen is None:
            seen = self.read.forward(state)
        azimuth = self.read.azimuth(state)
        size = torch.where(self.unsized, self.mark * self.read.unit * self.extent.exp(), seen.size.clamp_min(1e-3))
        height = torch.where(self.unsized, size.detach(), seen.centre[..., 2])
        centre = torch.cat([seen.centre[..., :2], height[..., None]], -1)
        at, scale = project(self.view, centre, None if azimuth is None else azimuth[:, None], self.width / self.height)
        there, drawn, sized = torch.ones_like(self.unsized[0]), self.unsized.shape[1], self.num_sized
        if not must_be_branchless(state):  # who is nowhere to be seen need not be cast
            there = (seen.present > 0).any(0)
            drawn, sized = int(there.sum()), int((there & ~self.unsized[0]).sum())
        # Far ones first, for what looks larger is nearer; last of all those without a size, then those not drawn.
        order = (scale.detach() + 1e6 * self.unsized + 1e9 * ~there).argsort(-1)[:, :drawn]
        told = [size[..., None], scale[..., None], seen.yaw[..., None], seen.present[..., None], at, centre, seen.kind]
        told += [seen.orientation, seen.scene[:, None].expand(-1, size.shape[1], -1)]
        told = torch.cat(told, -1)[torch.arange(len(order), device=order.device)[:, None], order]
        size, scale, yaw, present = told[..., :4].unbind(-1)
        at, centre, kind = told[..., 4:6], told[..., 6:9], told[..., 9:].to(self.shade.weight.dtype)
        row, column = self._windows(at)
        solid, shadow, mark, colours = self.look(kind).split([3, 1, 1, 9], -1)
        tint, gloss, below = colours.to(state).unflatten(-1, (3, 3)).unbind(2)

        with torch.autocast(state.device.type, enabled=False):
            light = self._light(state, yaw)
            with torch.no_grad():  # nothing is learned of it but the unsaid sizes
                origin, ray, view = self._rays(state, centre, yaw, size, row, column)
                floor = (-1 - origin[:, :, 2:]) / ray[:, :, 2:] * ray[:, :, :2] + origin[:, :, :2]
                floor = floor.clamp(-8, 8)  # (n, b, 2, k, k)
            shadowed, marked = self._on_floor(floor * (size.detach() / size)[..., None, None, None], light)
            marked = marked * (torch.sigmoid(mark.to(state)) * present[..., None])
            through = 1 - shadowed * (torch.sigmoid(shadow.to(state)) * present[..., None])
            marked, clear = (marked * through)[:, :, None], ((1 - marked) * through)[:, :, None]
            under = torch.cat([below[..., None] * marked, clear], 2)
            canvas = state.new_zeros(len(row), 4, self.height * self.width)
            canvas[:, 3] = 1
            canvas = self._over(canvas, under, row, column)
            if not sized:
                return canvas.unflatten(2, (self.height, self.width))
            origin, ray, floor = (x[:, :sized] if x.shape[1] > 1 else x for x in (origin, ray, floor))
            light, view, size, yaw, centre, kind, row, column, present = (
                x[:, :sized] for x in (light, view, size, yaw, centre, kind, row, column, present)
            )
            pixel = 1 / (self.height * scale[:, :sized] * size)
            with torch.no_grad():
                casts = cast_solids(origin, ray, pixel, self.edge).flatten(3)  # (n, b, 3, 7 * k * k)
            share = solid[:, :sized, None].to(state).softmax(-1)
            surface = (share @ casts)[:, :, 0].unflatten(-1, (7, -1))
            turn = self._turn(yaw)[..., :2, :2].transpose(-2, -1) * 2 * size[..., None, None]
            place = (turn @ floor.flatten(3) + 2 * centre[..., :2, None]) / self.read.unit  # on the floor, about one
            features = self._features(surface, light, view, place)
        lit = planar(self.shade, features.to(kind.dtype), self.kind(kind))  # (n, b, hidden, k * k)
        shaded = planar(self.shaded, F.relu(lit, inplace=True)).to(state)  # (n, b, 4, k * k)
        cover = surface[:, :, 0] * torch.sigmoid(shaded[:, :, 3]) * present[..., None]
        with torch.autocast(state.device.type, enabled=False):
            colours = torch.stack([tint, gloss, torch.ones_like(tint)], -1)[:, :sized]
            over = torch.cat([colours @ (shaded[:, :, :3] * cover[:, :, None]), 1 - cover[:, :, None]], 2)
        return self._over(canvas, over, row, column).unflatten(2, (self.height, self.width))

    @staticmethod
    def _features(surface: Tensor, light: Tensor, view: Tensor, place: Tensor) -> Tensor:
        """What the shader is told of each pixel, (n, b, f, k * k)."""
        cover, point, normal = surface.split([1, 3, 3], 2)
        half = F.normalize(light + view, dim=-1)
        lit, facing, shine = (torch.stack([light, view, half], 2) @ normal).split(1, 2)
        glint = shine.clamp_min(0).square().square().square()  # Blinn and Phong's highlights, wide and narrow
        point = 3 * point
        far = point[:, :, :2].square().sum(2, keepdim=True).sqrt()
        parts = [cover, point, far, normal, lit, lit.clamp_min(0), facing, glint, glint.square().square(), place]
        return torch.cat(parts, 2)

    def _over(self, canvas: Tensor, layers: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """A canvas (n, 4, pixels) with each body's layer (n, b, 4, k * k) over those before it."""
        pixels = torch.arange(self.window, device=row.device)
        down, across = (row[..., None] + pixels) * self.width, column[..., None] + pixels
        place = (down[..., None] + across[..., None, :]).flatten(2)[:, :, None].expand(-1, -1, 4, -1)
        colours = layers * self.colours.to(layers)[:, None]
        for i in range(layers.shape[1]):
            seen = torch.addcmul(colours[:, i], canvas.gather(2, place[:, i]), layers[:, i, 3:])
            canvas = (canvas.scatter if must_be_branchless(canvas) else canvas.scatter_)(2, place[:, i], seen)
        return canvas
