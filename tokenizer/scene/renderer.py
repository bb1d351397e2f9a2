"""What a state says of a picture, drawn: bodies over the floor, as one layer that a decoder lays over its own."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tokenizer.scene.bodies import BodyLayers
from tokenizer.scene.floor import FloorShader
from tokenizer.state_schema import StateSchema


class SceneRenderer(nn.Module):
    """All that a state says of a picture of ``size`` (height, width) pixels, as one layer: bodies over the floor."""

    def __init__(
        self, schema: StateSchema, size: tuple[int, int], hidden: int = 32, edge: float = 1.0, mark: float = 0.08
    ) -> None:
        super().__init__()
        self.floor = FloorShader(schema, size, hidden, edge)
        self.bodies = BodyLayers(schema, size, hidden=hidden, edge=edge, mark=mark)

    def forward(self, state: Float[Tensor, "n F"]) -> Float[Tensor, "n 4 h w"]:
        """States (n, num_values) to (n, 4, height, width)."""
        seen = self.bodies.read(state)
        floor, bodies = self.floor(state, seen.scene), self.bodies(state, seen)
        return torch.cat([composite(floor[:, :3], bodies), floor[:, 3:] * bodies[:, 3:]], 1)


def composite(picture: Float[Tensor, "n 3 h w"], layer: Float[Tensor, "n 4 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Pictures (n, 3, height, width) with a layer (n, 4, height, width) over them."""
    return torch.addcmul(layer[:, :3], picture.to(layer), layer[:, 3:])


def scene_renderer(
    schema: StateSchema | None, size: tuple[int, int], hidden: int = 32, edge: float = 1.0, mark: float = 0.08
) -> SceneRenderer | None:
    """What draws a schema's states at ``size`` (height, width); None without a schema, or where it has no view.

    ``edge`` and ``mark`` are as :class:`BodyLayers` takes them, ``hidden`` is the width of its networks.
    """
    if schema is None or schema.view is None:
        return None
    return SceneRenderer(schema, size, hidden, edge, mark)
