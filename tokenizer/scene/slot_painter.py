"""The scene state painted onto its own slots: told at each body where the others are relative to it, a small
transformer simulates."""

from __future__ import annotations

from math import pi

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tokenizer.scene.state_reader import SceneReading, StateReader
from tokenizer.scene.tiles import TilePainter
from tokenizer.state_embedding import StateEmbedding
from tokenizer.state_schema import StateSchema


class SlotPainter(StateEmbedding):
    """An embedding for every state slot: besides its own entity's values, the bodies around it and the bounds and tiles
    it may meet; for tiles, the bodies that may meet them.

    Bounds are the ends of a position's range, where the walls of a walled world stand.
    """

    slot_body: Tensor
    low: Tensor
    high: Tensor
    turns: Tensor

    def __init__(self, schema: StateSchema, width: int, hidden: int = 96, words: int = 0) -> None:
        super().__init__(schema, width, hidden, words)
        self.read = StateReader(schema)
        self.pairs = nn.Linear(15, hidden, bias=False)
        self.first = nn.Linear(self.read.num_kind, hidden)
        self.second = nn.Linear(self.read.num_kind, hidden, bias=False)
        self.mix = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, width)
        self.bounds = nn.Linear(18 + self.read.num_kind, hidden)
        self.bounded = nn.Linear(hidden, width, bias=False)
        nn.init.zeros_(self.bounded.weight)
        body_of = {entity: i for i, entity in enumerate(self.read.bodies)}
        slot_body = torch.tensor([body_of.get(s.entity, len(body_of)) for s in schema.slots], dtype=torch.long)
        self.register_buffer("slot_body", slot_body, persistent=False)
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

    def forward(
        self, state: Float[Tensor, "N F"], told: Float[Tensor, "N width"] | None = None
    ) -> Float[Tensor, "N S width"]:
        seen, dtype = self.read(state), self.out.weight.dtype
        slots = self.own_slots(seen.inputs, told)
        met = self._around(seen, dtype) + self._bounds(seen, dtype)
        if self.tiles is not None:
            hit, hitting = self.tiles(state, seen)
            met, slots = met + hit, slots + hitting
        return slots + F.pad(met, (0, 0, 0, 1))[:, self.slot_body].to(slots)

    def overlapping(self, state: Float[Tensor, "N F"]) -> Bool[Tensor, " N"]:
        return self.read(state).overlapping

    def _layers(self) -> list[nn.Module]:  # in the order that optimizers' kept states have
        own, *heard = super()._layers()
        met = [self.pairs, self.first, self.second, self.mix, self.out, self.bounds, self.bounded]
        return [own, *met, *heard, *([] if self.tiles is None else [self.tiles])]

    def _around(self, seen: SceneReading, dtype: torch.dtype) -> Tensor:
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

    def _facing(self, seen: SceneReading, direction: Tensor) -> Tensor:
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

    def _bounds(self, seen: SceneReading, dtype: torch.dtype) -> Tensor:
        """What each body is told of the ends of its range, (N, bodies, width)."""
        position, velocity, size = self.read.relative(seen)
        gap = torch.cat([position - self.low.to(size), self.high.to(size) - position], -1) - size[..., None]
        gap = gap * 10
        near, nearer = torch.exp(-gap.clamp_min(0)), torch.exp(-4 * gap.clamp_min(0))
        approach = torch.cat([-velocity, velocity], -1)
        met = torch.cat([gap.clamp(-2, 2), near, nearer, near * approach, seen.orientation], -1)
        hidden = F.gelu(self.bounds(torch.cat([met, seen.kind], -1).to(dtype)))
        return self.bounded(hidden)


def state_painter(schema: StateSchema, width: int, words: int = 0) -> StateEmbedding | None:
    """What embeds a schema's states slot by slot, ``width`` wide, with ``words`` that an event may say.

    Where there is a view, slots are told what their bodies may meet; without one, of their entity's own values; where
    nothing ever varies, there is nothing to embed: None.
    """
    if not schema.slots:
        return None
    return (StateEmbedding if schema.view is None else SlotPainter)(schema, width, words=words)
