"""What the last picture says of the next one.

Most of what happens in a picture comes from nearby. A small convolution over the grid says so cheaply, cell by cell,
and attention is left with what is far away in space or time. It looks at nothing that is sampled in the step, so it is
computed once a step, whatever number of passes its ids take. What is long ago is told by one vector a picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tokenizer.causal_conv import ResidualBlock


class CodeEmbedding(nn.Module):
    """Video ids (..., V) to (..., V, width). ``digits`` (codes, n) are the parts of which FSQ's codes are made, if it
    made them: alike codes begin alike."""

    digits: Tensor

    def __init__(self, num_codes: int, width: int, digits: Tensor | None) -> None:
        super().__init__()
        self.codes = nn.Embedding(num_codes, width)  # not "code", which a traced module has already
        if digits is not None:
            self.register_buffer("digits", digits, persistent=False)
            self.digit = nn.Embedding(int(digits.max()) + 1, width)
        else:
            self.digit = None

    def forward(self, ids: Int[Tensor, "*b V"]) -> Float[Tensor, "*b V width"]:
        x = self.codes(ids)
        return x if self.digit is None else x + F.embedding(self.digits[ids], self.digit.weight).sum(-2)


class PictureSummary(nn.Module):
    """Ids of pictures (..., V) to what is in them, (..., 2 * hidden): cells on average, and the strongest of them."""

    def __init__(self, num_codes: int, grid: tuple[int, int], digits: Tensor | None, hidden: int = 48) -> None:
        super().__init__()
        self.grid, self.size = grid, 2 * hidden
        self.codes = CodeEmbedding(num_codes, hidden, digits)
        self.near = nn.Conv2d(hidden, hidden, 3, padding=1)

    def forward(self, ids: Int[Tensor, "*b V"]) -> Float[Tensor, "*b size"]:
        x = self.codes(ids).flatten(0, -3).transpose(1, 2).unflatten(2, self.grid)
        x = (x + F.gelu(self.near(x))).flatten(2)
        return torch.cat([x.mean(2), x.amax(2)], 1).unflatten(0, ids.shape[:-1])


class NearbyCells(nn.Module):
    """The last picture's ids (N, V), -1 for none, and what is done (N, 1, outer) to inputs of the next one's slots
    (N, V, outer), ``outer`` being the transformer's width. Says nothing before training."""

    def __init__(
        self, num_codes: int, grid: tuple[int, int], outer: int, width: int, blocks: int, digits: Tensor | None
    ) -> None:
        super().__init__()
        self.grid = grid
        self.codes = CodeEmbedding(num_codes, width, digits)
        self.none = nn.Parameter(torch.zeros(width))
        self.place = nn.Parameter(torch.zeros(width, *grid))
        self.act = nn.Linear(outer, width)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(blocks))
        self.out = nn.Linear(width, outer)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, ids: Int[Tensor, "N V"], action: Float[Tensor, "N 1 outer"]) -> Float[Tensor, "N V outer"]:
        x = torch.where((ids >= 0)[..., None], self.codes(ids.clamp_min(0)), self.none) + self.act(action)
        x = x.transpose(1, 2).unflatten(2, self.grid) + self.place
        x = x[:, None]
        for block in self.blocks:
            x = block(x)
        return self.out(F.silu(x[:, 0].flatten(2).transpose(1, 2)))
