"""What a state without places says of every cell of a picture: learned, for no view tells what is where."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

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


def state_map(schema: StateSchema | None, cells: int, width: int) -> StateMap | None:
    """What maps a schema's states, ``width`` wide; None where a view places them, or nothing tells of a picture."""
    if schema is None or schema.view is not None or not telling_inputs(schema):
        return None
    return StateMap(schema, cells, width)
