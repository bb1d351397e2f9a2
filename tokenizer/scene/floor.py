"""Floor and walls drawn from the scene state, pixel by pixel: level rectangles, shaded like the bodies."""

from __future__ import annotations

from math import tan
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tokenizer.branchless import must_be_branchless
from tokenizer.scene.camera import camera, cell_centres, unproject
from tokenizer.scene.planar import planar
from tokenizer.scene.ray_casting import coverage
from tokenizer.scene.state_reader import StateReader
from tokenizer.state_schema import StateSchema
from tokenizer.view import Orbit, Plane


class FloorShader(nn.Module):
    """State vectors to a layer of the floor, (n, 4, height, width) like those of bodies, pixel by pixel.

    Floor and walls, if there are any, end somewhere near the bounds of what has a position. So every pixel is told
    which of a few level rectangles around those bounds its ray passes through, as sharply as pixels are; how high they
    lie and how far they reach is learned, and so is what colour that means under the scene's light.
    """

    points: Tensor
    levels: Tensor
    # Heights, and reach beyond the bounds, that rectangles start from; all in half widths of the bounds.
    LEVELS: ClassVar = ((0.0, 0.0), (0.0, 0.1), (0.1, 0.0), (0.1, 0.1))
    STEP = 0.02  # by which a learned number of one changes them

    def __init__(self, schema: StateSchema, size: tuple[int, int], hidden: int = 32, edge: float = 1.0) -> None:
        super().__init__()
        assert schema.view is not None
        self.view, self.size, self.edge, self.read = schema.view, size, edge, StateReader(schema)
        self.register_buffer("points", self._points(), persistent=False)
        fields = [f for e in schema.entities for f in e.fields if f.role == "position"]
        low, high = min(f.low for f in fields), max(f.high for f in fields)
        self.middle, self.bound = (low + high) / 2, (high - low) / 2
        self.register_buffer("levels", torch.tensor(self.LEVELS), persistent=False)
        self.moved = nn.Parameter(torch.zeros(len(self.LEVELS), 2))
        self.place = nn.Linear(2 + len(self.LEVELS), hidden, bias=False)
        self.scene = nn.Linear(self.read.num_scene, hidden)
        self.mix = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 4)
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.out.bias.copy_(torch.tensor([0.0, 0, 0, -2]))  # almost clear

    def _points(self) -> Tensor:
        """The pixels' places in the picture (pixels, 2), or the directions of their rays in the camera's frame
        (3, pixels)."""
        at = cell_centres(self.size)
        if isinstance(self.view, Plane):
            return at
        reach = tan(self.view.fovy / 2)
        across, down = ((2 * at - 1) * reach).unbind(1)
        across = across * (self.size[1] / self.size[0])
        return torch.stack([across, -down, torch.ones_like(across)])

    def forward(
        self, state: Float[Tensor, "n F"], scene: Float[Tensor, "n scene"] | None = None
    ) -> Float[Tensor, "n 4 h w"]:
        """States (n, num_values) to a layer each; ``scene`` (n, num_scene) is what is read of them, if at hand."""
        azimuth, scene = self.read.azimuth(state), self.read.scene(state) if scene is None else scene
        if must_be_branchless(state):
            return self._layer(azimuth, scene)
        # Where neither camera nor light turns from one moment to the next, the floor stays as it is.
        told = torch.cat([(scene.new_zeros(len(scene)) if azimuth is None else azimuth)[:, None], scene], 1)
        told, place = told.unique_consecutive(dim=0, return_inverse=True)
        drawn = self._layer(None if azimuth is None else told[:, 0], told[:, 1:])
        return drawn.expand(len(state), -1, -1, -1) if len(told) == 1 else drawn[place]

    def _layer(self, azimuth: Tensor | None, scene: Tensor) -> Tensor:
        kind = self.place.weight
        with torch.autocast(scene.device.type, enabled=False):  # which would round places to half a pixel
            place = self._places(azimuth, scene).to(kind)
            hidden = planar(self.place, place, self.scene(scene.to(kind)))
            hidden = planar(self.mix, F.relu(hidden, inplace=True))
            colour = planar(self.out, F.relu(hidden, inplace=True)).to(scene)
        through = torch.sigmoid(-colour[:, 3:])
        return torch.cat([colour[:, :3] * (1 - through), through], 1).unflatten(2, self.size)

    def _places(self, azimuth: Tensor | None, like: Tensor) -> Tensor:
        """Where on the floor pixels lie, about one at the bounds, and which rectangles they show: (n, 6, pixels)."""
        height, beyond = (self.levels + self.STEP * self.moved).to(like).unbind(1)
        if azimuth is None:
            floor = (unproject(self.view, self.points.to(like), None).transpose(-2, -1) - self.middle) / self.bound
            floor = level = floor.expand(len(like), 1, -1, -1)
        else:  # a ray passes a height where it is nearer to the eye by that share of the way
            assert isinstance(self.view, Orbit)
            axes, eye = camera(self.view, azimuth)
            ray = axes.transpose(-2, -1) @ self.points.to(like)  # (n, 3, pixels)
            reach = eye[:, 2:, None] / (-ray[:, 2:]).clamp_min(0.05)  # rays above the horizon end far out
            toward = (eye[:, :2, None] - self.middle) / self.bound
            floor = torch.addcmul(toward, reach, ray[:, :2] / self.bound)[:, None]
            share = (height * self.bound / eye[:, 2:])[..., None, None]
            level = torch.lerp(floor, toward[:, None], share)
        inside = 1 + beyond[:, None] - level.abs().amax(2)  # (n, 4, pixels)
        shown = coverage(inside.unflatten(-1, self.size), self.edge).flatten(2)
        return torch.cat([floor[:, 0].clamp(-1.5, 1.5), 2 * shown - 1], 1)
