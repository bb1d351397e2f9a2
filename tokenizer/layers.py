"""Bodies drawn from the scene state, pixel by pixel, as layers over whatever else the picture shows.

A state says exactly where small things are, and a network of a few blocks draws their edges softly. So each
body is cast as the three solids of its size (ball, box, cylinder) in a window around where it is seen, and learned
weights say which of them its kind is, which colours it has and how light falls on it; a shadow and a mark on
the floor lie under it. Deferred shading with a learned shader (Thies et al. 2019, arXiv:1904.12356), with analytic
geometry from the schema's roles in place of a mesh.

Dimension keys: n picture, b body, k side of a window in pixels, f feature.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import tan

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.camera import camera, project, unproject
from tokenizer.painting import cell_centres
from tokenizer.ray_casting import Surface, Vector, along, cast_ball, cast_box, cast_cylinder, coverage, dot
from tokenizer.scene_schema import SceneSchema
from tokenizer.state_reader import StateReader


class BodyLayers(nn.Module):
    """State vectors to premultiplied colours and what shines through, for pictures of ``resolution`` pixels.

    A body without a size is a mark on the floor, of an extent that is learned.

    Args:
        window: side of the square of pixels in which a body, its shadow included, is drawn.
        hidden: width of the networks that choose colours and shade.
    """

    FEATURES = 15

    unsized: Tensor
    SMALL = 0.08  # half extent, in the schema's unit, that a body without a size starts from

    def __init__(self, schema: SceneSchema, resolution: int, *, window: int | None = None, hidden: int = 32) -> None:
        super().__init__()
        assert schema.view is not None
        self.view, self.resolution = schema.view, resolution
        self.window = window or resolution * 3 // 8
        self.read = StateReader(schema)
        unsized = self.read.size == schema.num_values
        self.register_buffer("unsized", unsized[None], persistent=False)
        self.extent = nn.Parameter(torch.zeros(len(unsized)))  # logarithm, over SMALL
        if self.read.light is not None:
            self.elevation = nn.Parameter(torch.tensor(0.9))  # of the light, in radians, which no schema tells
        inputs = self.read.num_kind + 2 + self.read.num_scene
        # Which solid it is (3); what its shadow and its mark hide (2), how much shows through; four colours.
        self.look = nn.Sequential(nn.Linear(inputs, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, 5 + 3 * 3))
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
        corner = (at.detach() * self.resolution - self.window / 2).round()
        corner = corner.nan_to_num().clamp(0, self.resolution - self.window).long()
        return corner[..., 1], corner[..., 0]

    def _rays(
        self, state: Tensor, centre: Tensor, yaw: Tensor, size: Tensor, row: Tensor, column: Tensor
    ) -> tuple[Vector, Vector]:
        """Each window pixel's ray in its body's frame, (n, b, k, k) or broadcastable, in units of the body's size."""
        pixels = torch.arange(self.window, device=state.device)
        across = (column[..., None] + pixels + 0.5)[..., None, :] / self.resolution  # (n, b, 1, k)
        down = (row[..., None] + pixels + 0.5)[..., None] / self.resolution  # (n, b, k, 1)
        inverse = size.reciprocal()[..., None, None]
        yaw, centre = yaw[..., None, None], centre[..., None, None]  # (n, b, 1, 1), (n, b, 3, 1, 1)
        turn, lean = yaw.cos(), yaw.sin()
        azimuth = self.read.azimuth(state)
        if azimuth is None:  # a plane is seen straight from above
            low, high = self.view.low, self.view.high
            x = low[0] + across * (high[0] - low[0]) - centre[:, :, 0]
            y = low[1] + down * (high[1] - low[1]) - centre[:, :, 1]
            origin = (turn * x + lean * y) * inverse, (turn * y - lean * x) * inverse, torch.full_like(x[:1, :1], 4.0)
            zero = torch.zeros_like(inverse)
            return origin, (zero, zero, zero - 1)
        axes, eye = camera(self.view, azimuth)
        reach = tan(self.view.fovy / 2)
        across, down = (2 * across - 1) * reach, (1 - 2 * down) * reach
        right, up, forward = (axes[:, i, :, None, None, None] for i in range(3))  # (n, 3, 1, 1, 1)
        x, y, z = (forward[:, i] + across * right[:, i] + down * up[:, i] for i in range(3))
        u, v, w = (eye[:, i, None, None, None] - centre[:, :, i] for i in range(3))
        origin = (turn * u + lean * v) * inverse, (turn * v - lean * u) * inverse, w * inverse
        return origin, (turn * x + lean * y, turn * y - lean * x, z)

    def _light(self, state: Tensor, yaw: Tensor) -> Vector:
        """The direction towards the light in each body's frame, (n, b, 1, 1); from straight above if none turns."""
        if self.read.light is None:
            zero = torch.zeros_like(yaw)[..., None, None]
            return zero, zero, zero + 1
        angle = (state[:, self.read.light][:, None] - yaw)[..., None, None]
        flat = self.elevation.cos()
        return angle.cos() * flat, angle.sin() * flat, self.elevation.sin().expand_as(angle)

    @staticmethod
    def _mixed(casts: tuple[Surface, Surface, Surface], solid: Tensor) -> Surface:
        """The three solids' surfaces mixed by ``solid`` (n, b, 3), for a body is only one of them."""
        share = solid[..., None, None].unbind(2)

        def mixed(parts: Iterable[Tensor]) -> Tensor:
            ball, box, cylinder = parts
            return share[0] * ball + share[1] * box + share[2] * cylinder

        def mixed_vector(parts: Iterable[Vector]) -> Vector:
            x, y, z = (mixed(components) for components in zip(*parts, strict=True))
            return x, y, z

        return Surface(
            mixed(c.cover for c in casts),
            mixed_vector(c.point for c in casts),
            mixed_vector(c.normal for c in casts),
        )

    @staticmethod
    def _on_floor(x: Tensor, y: Tensor, light: Vector) -> tuple[Tensor, Tensor]:
        """How much of each pixel a ball's shadow and a round mark of its size cover, for places on the floor."""
        flat = (light[0].square() + light[1].square()).clamp_min(1e-6).sqrt()
        ahead, aside = (light[0] * x + light[1] * y) / flat, (light[0] * y - light[1] * x) / flat
        ahead = ahead * light[2] + flat  # a ball that touches the floor, looked at along the light
        return coverage(1 - ahead.square() - aside.square()), coverage(1 - x.square() - y.square())

    # -- the picture --------------------------------------------------------------------------------

    def forward(self, state: Tensor) -> Tensor:
        """States (n, num_values) to (n, resolution, resolution, 4): three premultiplied colours, and what shines
        through to what lies behind."""
        seen = self.read(state)
        size = torch.where(self.unsized, self.SMALL * self.extent.exp(), seen.size.clamp_min(1e-3))
        height = torch.where(self.unsized, size.detach(), seen.centre[..., 2])
        centre = torch.cat([seen.centre[..., :2], height[..., None]], -1)
        kind = torch.cat([seen.kind, seen.orientation, seen.scene[:, None].expand(-1, size.shape[1], -1)], -1)
        yaw, present, unsized = seen.yaw, seen.present, self.unsized[0]
        if not torch.is_grad_enabled():  # who is nowhere to be seen need not be cast
            bodies = (present > 0).any(0).nonzero()[:, 0]
            size, centre, kind, yaw, present = (x[:, bodies] for x in (size, centre, kind, yaw, present))
            unsized = unsized[bodies]
        solids = (~unsized).nonzero()[:, 0]
        azimuth = self.read.azimuth(state)
        at, scale = project(self.view, centre, None if azimuth is None else azimuth[:, None])
        row, column = self._windows(at)
        kind = kind.to(self.shade.weight.dtype)
        solid, shadow, mark, colours = self.look(kind).split([3, 1, 1, 9], -1)
        tint, gloss, below = colours.to(state).unflatten(-1, (3, 3)).unbind(2)

        with torch.autocast(state.device.type, enabled=False):
            light = self._light(state, yaw)
            with torch.no_grad():  # nothing is learned of it but the unsaid sizes
                origin, ray = self._rays(state, centre, yaw, size, row, column)
                x, y, _ = along(origin, ray, (-1 - origin[2]) / ray[2], bound=8)
            unit = (size.detach() / size)[..., None, None]
            shadowed, marked = self._on_floor(x * unit, y * unit, light)
            marked = marked.flatten(2) * (torch.sigmoid(mark.to(state)) * present[..., None])
            through = 1 - shadowed.flatten(2) * (torch.sigmoid(shadow.to(state)) * present[..., None])
            clear = (1 - marked) * through
            under = torch.cat([below[..., None] * (marked * through)[:, :, None], clear[:, :, None]], 2)
            canvas = state.new_zeros(len(row), self.resolution**2, 4)
            canvas[..., 3] = 1
            canvas = self._over(canvas, under, row, column)
            if not len(solids):
                return canvas.unflatten(1, 2 * [self.resolution])

            def chosen(vector: Vector) -> Vector:
                x, y, z = (part if part.shape[1] == 1 else part[:, solids] for part in vector)
                return x, y, z

            light, origin, ray = chosen(light), chosen(origin), chosen(ray)
            pixel = (1 / (self.resolution * scale * size))[:, solids, None, None]
            with torch.no_grad():
                casts = cast_ball(origin, ray), cast_box(origin, ray, pixel), cast_cylinder(origin, ray, pixel)
            surface = self._mixed(casts, solid[:, solids].to(state).softmax(-1))
            on_floor = self._places(x, y, centre, yaw, size.detach())
            features = self._features(surface, light, origin, tuple(part[:, solids] for part in on_floor))
        lit = (
            self.shade.weight @ features.to(kind.dtype) + self.kind(kind[:, solids])[..., None]
        )  # (n, b, hidden, k * k)
        shaded = self.shaded.weight @ F.relu(lit, inplace=True) + self.shaded.bias[:, None]  # (n, b, 4, k * k)
        shaded = shaded.to(state)
        cover = surface.cover.flatten(2) * torch.sigmoid(shaded[:, :, 3]) * present[:, solids, None]
        with torch.autocast(state.device.type, enabled=False):
            colours = torch.stack([tint, gloss, torch.ones_like(tint)], -1)[:, solids]
            over = torch.cat([colours @ (shaded[:, :, :3] * cover[:, :, None]), 1 - cover[:, :, None]], 2)
        # What looks larger is nearer.
        order = (scale if azimuth is not None else torch.zeros_like(scale))[:, solids].argsort(-1)
        n = torch.arange(len(row), device=row.device)[:, None]
        row, column = row[:, solids][n, order], column[:, solids][n, order]
        return self._over(canvas, over[n, order], row, column).unflatten(1, 2 * [self.resolution])

    @staticmethod
    def _places(x: Tensor, y: Tensor, centre: Tensor, yaw: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Where on the floor a window's pixels lie, in the schema's units, doubled to be about one."""
        centre, yaw, size = (part[..., None, None] for part in (centre, yaw, size))
        turn, lean = yaw.cos(), yaw.sin()
        return (centre[:, :, 0] + (turn * x - lean * y) * size) * 2, (
            centre[:, :, 1] + (lean * x + turn * y) * size
        ) * 2

    @staticmethod
    def _features(surface: Surface, light: Vector, origin: Vector, on_floor: tuple[Tensor, Tensor]) -> Tensor:
        """What the shader is told of each pixel, (n, b, f, k * k)."""
        far = dot(origin, origin).sqrt()
        view = origin[0] / far, origin[1] / far, origin[2] / far
        half = light[0] + view[0], light[1] + view[1], light[2] + view[2]
        half_length = dot(half, half).sqrt()
        (x, y, z), normal = surface.point, surface.normal
        shine = (dot(normal, half) / half_length).clamp_min(0)
        glint = shine.square().square().square()  # Blinn and Phong's highlights, wide and narrow
        lit = dot(normal, light)
        parts = [
            surface.cover, 3 * x, 3 * y, 3 * z, 3 * (x.square() + y.square()).sqrt(), *normal, lit, lit.clamp_min(0),
            dot(normal, view), glint, glint.square().square(), *on_floor,
        ]  # fmt: skip
        shape = torch.broadcast_shapes(*(part.shape for part in parts))
        return torch.stack([part.expand(shape) for part in parts], 2).flatten(3)

    def _over(self, canvas: Tensor, layers: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """A canvas (n, pixels, 4) with each body's layer (n, b, 4, k * k) over those before it."""
        n, pixels = torch.arange(len(row), device=row.device)[:, None], torch.arange(self.window, device=row.device)
        down, across = (row[..., None] + pixels) * self.resolution, column[..., None] + pixels
        place = (down[..., None] + across[..., None, :]).flatten(2)
        layers = layers.mT
        colours = layers * layers.new_tensor([1.0, 1, 1, 0])
        for i in range(layers.shape[1]):
            at = n, place[:, i]
            put = canvas.index_put if torch.is_grad_enabled() else canvas.index_put_
            canvas = put(at, torch.addcmul(colours[:, i], canvas[at], layers[:, i, :, 3:]))
        return canvas


class FloorShader(nn.Module):
    """State vectors to a layer of the floor, (n, resolution, resolution, 4) like those of bodies, pixel by pixel.

    Every pixel's place on the floor goes through a small network whose thresholds the camera's angle and the rest of
    the scene shift: so straight edges (of a table, of walls) are drawn straight, wherever they come to lie.
    """

    points: Tensor

    def __init__(self, schema: SceneSchema, resolution: int, hidden: int = 32) -> None:
        super().__init__()
        assert schema.view is not None
        self.view, self.resolution, self.read = schema.view, resolution, StateReader(schema)
        self.register_buffer("points", cell_centres((resolution, resolution)), persistent=False)
        self.place = nn.Linear(2, hidden, bias=False)
        self.scene = nn.Linear(self.read.num_scene, hidden)
        self.mix = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 4)
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.out.bias.copy_(torch.tensor([0.0, 0, 0, -2]))  # almost clear

    def forward(self, state: Tensor, moments: int = 1) -> Tensor:
        """States (n, num_values), ``moments`` for every step: over a step only the camera's turn is looked at."""
        last = state[moments - 1 :: moments]
        azimuth = self.read.azimuth(state)
        still = azimuth is None or (
            not torch.is_grad_enabled() and bool((azimuth.view(-1, moments).diff(dim=1) == 0).all())
        )
        if still:
            return self._layer(
                last, self.read.scene(last), None if azimuth is None else self.read.azimuth(last)
            ).repeat_interleave(moments, 0)
        return self._layer(state, self.read.scene(last).repeat_interleave(moments, 0), azimuth)

    def _layer(self, state: Tensor, scene: Tensor, azimuth: Tensor | None) -> Tensor:
        floor = unproject(self.view, self.points.to(state), None if azimuth is None else azimuth[:, None])
        place = (16 * floor).clamp(-24, 24).to(self.place.weight.dtype)  # a table's edges lie a few units away
        scene = self.scene(scene.to(self.place.weight.dtype))[:, None]
        colour = self.out(F.relu(self.mix(F.relu(self.place(place) + scene)))).to(state)
        through = torch.sigmoid(-colour[..., 3:])
        layer = torch.cat([colour[..., :3] * (1 - through), through], -1)
        return layer.unflatten(1, (self.resolution, self.resolution))


def composite(picture: Tensor, layers: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) with layers (N, H, W, 4) over them."""
    layers = layers.movedim(-1, 1)
    return torch.addcmul(layers[:, :3], picture.to(layers), layers[:, 3:])
