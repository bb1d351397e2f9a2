"""What a state without places says of a picture: learned, for no view tells what is where."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from tokenizer.causal_conv import ChannelNorm, ResidualBlock
from tokenizer.state_embedding import StateInputs, telling_inputs
from tokenizer.state_schema import StateSchema


class StateMap(nn.Module):
    """States (N, num_values) at a step's end and beginning to an embedding of every cell, (N, cells, width).

    Each cell scales and shifts what a small network makes of the values (FiLM, arXiv:1709.07871), so that a cell may
    say where it lies within what a state means: an angle lights up the cells along a rod. Says nothing before training.
    """

    telling: Tensor

    def __init__(self, schema: StateSchema, cells: int, width: int, hidden: int = 96) -> None:
        super().__init__()
        self.inputs = StateInputs(schema)
        telling = torch.tensor(telling_inputs(schema), dtype=torch.long)
        self.register_buffer("telling", telling, persistent=False)
        self.read = nn.Sequential(nn.Linear(2 * len(telling), hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.scale, self.shift = (nn.Parameter(torch.randn(cells, hidden)) for _ in range(2))
        self.out = nn.Linear(hidden, width, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, state: Float[Tensor, "N F"], previous: Float[Tensor, "N F"]) -> Float[Tensor, "N cells width"]:
        after, before = (self.inputs(values)[:, self.telling] for values in (state, previous))
        hidden = self.read(torch.cat([after, after - before], -1).to(self.out.weight.dtype))
        return self.out(F.gelu(hidden[:, None] * self.scale + self.shift))


class StateLayer(nn.Module):
    """Draws states (N, num_values) as a layer over N steps of ``frames`` pictures: (N, frames, 4, H, W).

    Three channels are colours, the fourth is how much of the picture below shows through. Whatever a state decides is
    drawn here, whole, so that a written state shows however the picture's ids resist.
    """

    def __init__(self, schema: StateSchema, grid: tuple[int, int], patch: int, frames: int, width: int) -> None:
        super().__init__()
        self.grid, self.patch, self.frames = grid, patch, frames
        self.map = StateMap(schema, grid[0] * grid[1], width)
        nn.init.normal_(self.map.out.weight, std=self.map.out.in_features**-0.5)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(2))
        self.norm = ChannelNorm(width)
        self.head = nn.Conv2d(width, 4 * frames * patch**2, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, state: Float[Tensor, "N F"], previous: Float[Tensor, "N F"]) -> Float[Tensor, "N r 4 H W"]:
        x = self.map(state, previous).transpose(1, 2).unflatten(2, self.grid)[:, None]
        for block in self.blocks:
            x = block(x)
        x = self.head(F.silu(self.norm(x[:, 0])))
        p = self.patch
        x = rearrange(x, "n (r c p q) h w -> n r c (h p) (w q)", r=self.frames, c=4, p=p, q=p)
        return torch.cat([x[:, :, :3], torch.sigmoid(x[:, :, 3:])], 2)


def speaks_unplaced(schema: StateSchema | None) -> bool:
    """Whether states tell of a picture without a view that says where."""
    return schema is not None and schema.view is None and bool(telling_inputs(schema))
