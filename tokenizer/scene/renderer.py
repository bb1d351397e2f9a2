"""What a state says of a picture, drawn: bodies over the floor, as one layer that a decoder lays over its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokenizer.scene.bodies import BodyLayers
from tokenizer.scene.floor import FloorShader
from tokenizer.state_schema import StateSchema


class SceneRenderer(nn.Module):
    """All that a state says of a picture, as one layer: bodies over the floor."""

    def __init__(
        self, schema: StateSchema, resolution: int, hidden: int = 32, edge: float = 1.0, mark: float = 0.08
    ) -> None:
        super().__init__()
        self.floor = FloorShader(schema, resolution, hidden, edge)
        self.bodies = BodyLayers(schema, resolution, hidden=hidden, edge=edge, mark=mark)

    def forward(self, state: Tensor) -> Tensor:
        """States (n, num_values) to (n, 4, resolution, resolution)."""
        seen = self.bodies.read(state)
        floor, bodies = self.floor(state, seen.scene), self.bodies(state, seen)
        return torch.cat([composite(floor[:, :3], bodies), floor[:, 3:] * bodies[:, 3:]], 1)


def composite(picture: Tensor, layer: Tensor) -> Tensor:
    """Pictures (n, 3, height, width) with a layer (n, 4, height, width) over them."""
    return torch.addcmul(layer[:, :3], picture.to(layer), layer[:, 3:])
