"""The scene state painted onto its own slots: told at each body where the others are relative to it, a small
transformer simulates."""

from __future__ import annotations

from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.scene.branchless import must_be_branchless
from tokenizer.scene.state_reader import Seen, StateReader
from tokenizer.scene.tiles import TilePainter
from tokenizer.state_schema import StateSchema


class SlotPainter(nn.Module):
    """An embedding for every state slot: its own entity's values, the bodies around it, and the bounds and tiles it may
    meet; for tiles, the bodies that may meet them. With ``words``, also what a told event's words say to one like it.

    Bounds are the ends of a position's range, where the walls of a walled world stand. Whom an event means is hard to
    find by attention alone, for a name must meet its bearer; told of the words, an entity knows its own.
    """

    slot_entity: Tensor  # grouped by signature
    slot_body: Tensor
    low: Tensor
    high: Tensor
    turns: Tensor

    def __init__(self, schema: StateSchema, width: int, hidden: int = 96, words: int = 0) -> None:
        super().__init__()
        self.read = StateReader(schema)
        signatures = list(dict.fromkeys(e.fields for e in schema.entities))
        alike = [[e for e in schema.entities if e.fields == fields] for fields in signatures]
        order = [schema.entities.index(e) for group in alike for e in group]
        for i, group in enumerate(alike):
            rows = [[k for f in e.fields for k in self.read.inputs_of(e, f)] for e in group]
            self.register_buffer(f"own_{i}", torch.tensor(rows, dtype=torch.long), persistent=False)
        sizes = [self.get_buffer(f"own_{i}").shape[1] for i in range(len(signatures))]
        self.own = nn.ModuleList(
            nn.Sequential(nn.Linear(n, hidden), nn.GELU(), nn.Linear(hidden, width)) for n in sizes
        )
        self.words = nn.EmbeddingBag(words, width, mode="sum") if words else None
        self.hearing = nn.ModuleList(nn.Linear(n, width) for n in sizes if words)
        self.heard = nn.Linear(width, width, bias=False) if words else None
        if self.words is not None and self.heard is not None:
            nn.init.normal_(self.words.weight, std=0.5)
            nn.init.zeros_(self.heard.weight)
        self.pairs = nn.Linear(15, hidden, bias=False)
        self.first = nn.Linear(self.read.num_kind, hidden)
        self.second = nn.Linear(self.read.num_kind, hidden, bias=False)
        self.mix = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, width)
        self.bounds = nn.Linear(18 + self.read.num_kind, hidden)
        self.bounded = nn.Linear(hidden, width, bias=False)
        nn.init.zeros_(self.bounded.weight)
        slots, places = [s.entity for s in schema.slots], {entity: i for i, entity in enumerate(order)}
        body_of = {entity: i for i, entity in enumerate(self.read.bodies)}
        for name, table in (
            ("slot_entity", [places[entity] for entity in slots]),
            ("slot_body", [body_of.get(entity, len(body_of)) for entity in slots]),
        ):
            self.register_buffer(name, torch.tensor(table, dtype=torch.long), persistent=False)
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

    def listen(self, words: Tensor) -> Tensor:
        """Local text ids (N, n), -1 for none, to their words' sum, (N, width): zero for those that are told nothing."""
        assert self.words is not None
        return self.words(words.clamp_min(0), per_sample_weights=(words >= 0).to(self.words.weight))

    def forward(self, state: Tensor, told: Tensor | None = None) -> Tensor:
        """State vectors (N, num_values), and what :meth:`listen` made of an event, to (N, num_slots, width)."""
        seen, dtype = self.read(state), self.out.weight.dtype
        own = [seen.encoded.to(dtype)[:, self.get_buffer(f"own_{i}")] for i in range(len(self.own))]
        entities = torch.cat([net(inputs) for net, inputs in zip(self.own, own, strict=True)], 1)
        if told is not None and self.heard is not None and (must_be_branchless(told) or bool(told.any())):
            hearing = torch.cat([net(inputs) for net, inputs in zip(self.hearing, own, strict=True)], 1)
            told = told[:, None].to(dtype)
            entities = entities + self.heard(F.gelu(hearing + told) * (told != 0).any(-1, keepdim=True))
        slots = entities[:, self.slot_entity]
        if not self.read.bodies:
            return slots
        met = self._around(seen, dtype) + self._bounds(seen, dtype)
        if self.tiles is not None:
            hit, hitting = self.tiles(state, seen)
            met, slots = met + hit, slots + hitting
        return slots + F.pad(met, (0, 0, 0, 1))[:, self.slot_body].to(slots)

    def matrices(self) -> list[nn.Parameter]:
        """Its weights but the biases, for an optimizer that treats matrices apart."""
        layers = [self.own, self.pairs, self.first, self.second, self.mix, self.out, self.bounds, self.bounded]
        layers += [layer for layer in (self.hearing, self.heard, self.tiles) if layer is not None]
        return [p for layer in layers for p in layer.parameters() if p.dim() == 2]

    def _around(self, seen: Seen, dtype: torch.dtype) -> Tensor:
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

    def _facing(self, seen: Seen, direction: Tensor) -> Tensor:
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

    def _bounds(self, seen: Seen, dtype: torch.dtype) -> Tensor:
        """What each body is told of the ends of its range, (N, bodies, width)."""
        position, velocity, size = self.read.relative(seen)
        gap = torch.cat([position - self.low.to(size), self.high.to(size) - position], -1) - size[..., None]
        gap = gap * 10
        near, nearer = torch.exp(-gap.clamp_min(0)), torch.exp(-4 * gap.clamp_min(0))
        approach = torch.cat([-velocity, velocity], -1)
        met = torch.cat([gap.clamp(-2, 2), near, nearer, near * approach, seen.orientation], -1)
        hidden = F.gelu(self.bounds(torch.cat([met, seen.kind], -1).to(dtype)))
        return self.bounded(hidden)
