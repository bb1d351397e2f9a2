"""Reward and end of an episode, read from what a step led to: its two states, or its picture where there is none.

Whether something was reached or lost follows from where everything is *after* the step, often by a sharp threshold.
A pass that foresees all slots at once would have to simulate within itself to know; so these slots are read when the
others are settled, by a small network over pairs of bodies (a relation network, arXiv:1706.01427).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tokenizer.scene import SceneReading, StateReader
from tokenizer.state_embedding import StateInputs, telling_inputs
from tokenizer.state_schema import StateSchema

ROLES = ("reward", "terminated")


def outcome_reader(schema: StateSchema, num_ids: int) -> OutcomeReader | PlainOutcomeReader | None:
    """What reads a schema's reward and end among ``num_ids`` local state ids: from its bodies where a view places them,
    else from the plain values; None where there is neither reward nor end, or nothing else that could tell them."""
    if not outcome_slots(schema):
        return None
    if schema.view is not None:
        return OutcomeReader(schema, num_ids)
    return PlainOutcomeReader(schema, num_ids) if telling_inputs(schema) else None


def outcome_slots(schema: StateSchema) -> list[int]:
    """The slots of a step that say its reward and its end."""
    return [i for i, s in enumerate(schema.slots) if s.field.role in ROLES and s.field.change is None]


class PlainOutcomeReader(nn.Module):
    """:class:`OutcomeReader` for a state without places: its values at a step's end and beginning, side by side."""

    places: Tensor
    telling: Tensor

    def __init__(self, schema: StateSchema, num_ids: int, hidden: int = 96) -> None:
        super().__init__()
        self.inputs, self.slots = StateInputs(schema), outcome_slots(schema)
        self.register_buffer("places", torch.tensor(self.slots, dtype=torch.long), persistent=False)
        telling = torch.tensor(telling_inputs(schema), dtype=torch.long)
        self.register_buffer("telling", telling, persistent=False)
        self.rest = nn.Linear(3 * len(telling), hidden)
        self.slot = nn.Embedding(len(self.slots), hidden)
        self.join = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, num_ids)

    def forward(self, state: Tensor, previous: Tensor) -> Tensor:
        """States (N, num_values) at a step's end and beginning to logits (N, O, local state ids)."""
        after, before = (self.inputs(values)[:, self.telling] for values in (state, previous))
        hidden = self.rest(torch.cat([after, before, 10 * (after - before)], -1).to(self.head.weight.dtype))
        hidden = hidden[:, None] + self.slot.weight
        return self.head(F.gelu(self.join(F.gelu(hidden))))


class OutcomeReader(nn.Module):
    """States (N, num_values) at a step's end and its beginning to logits of its outcome, (N, O, local state ids), for a
    schema with a view.

    ``slots``, as a tensor ``places``, are the O slots of the state that are read so: those of reward and end.
    """

    places: Tensor

    PAIR = 10

    def __init__(self, schema: StateSchema, num_ids: int, hidden: int = 96) -> None:
        super().__init__()
        self.read = StateReader(schema)
        self.slots = outcome_slots(schema)
        self.register_buffer("places", torch.tensor(self.slots, dtype=torch.long), persistent=False)
        self.first = nn.Linear(self.read.num_kind, hidden)
        self.second = nn.Linear(self.read.num_kind, hidden, bias=False)
        self.pair = nn.Linear(self.PAIR, hidden, bias=False)
        self.mix = nn.Linear(hidden, hidden)
        self.rest = nn.Linear(2 * self.read.num_scene, hidden)
        self.slot = nn.Embedding(max(1, len(self.slots)), hidden)
        self.join = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, num_ids)

    def _pairs(self, seen: SceneReading) -> Tensor:
        """(N, bodies, bodies, PAIR) of how each body lies and moves relative to each."""
        position, velocity, size = self.read.relative(seen)
        offset = position[:, None] - position[:, :, None]
        closing = velocity[:, None] - velocity[:, :, None]
        distance = (offset.square().sum(-1, keepdim=True) + 1e-8).sqrt()
        speed = (closing.square().sum(-1, keepdim=True) + 1e-8).sqrt()
        gap = distance - (size[:, None] + size[:, :, None])[..., None]
        fine = [torch.log(x + 0.01) for x in (distance, speed, gap.clamp_min(0))]  # thresholds may lie close to zero
        return torch.cat([2 * offset, closing, distance, speed, gap, *fine], -1)

    def forward(self, state: Tensor, previous: Tensor) -> Tensor:
        seen, dtype = self.read(state), self.head.weight.dtype
        rest = torch.cat([seen.scene, self.read.scene(previous)], -1)
        hidden = self.rest(rest.to(dtype))
        kind = seen.kind.to(dtype)
        pair = self.pair(self._pairs(seen).to(dtype)) + self.first(kind)[:, :, None] + self.second(kind)[:, None]
        met = F.gelu(self.mix(F.gelu(pair)))
        there = seen.present[:, None] * seen.present[:, :, None]
        hidden = hidden + (met * there[..., None].to(dtype)).sum((1, 2))
        hidden = hidden[:, None] + self.slot.weight[: len(self.slots)]
        return self.head(F.gelu(self.join(F.gelu(hidden))))


@dataclass(frozen=True)
class OutcomeLogits:
    """reward: (..., number of its values), end: (...,), each None where it is not foreseen."""

    reward: Tensor | None
    end: Tensor | None


class FrameOutcome(nn.Module):
    """Reward and end read from a step's picture, for worlds whose state does not hold them.

    Every cell tells its new code, the one before it and what its slot was told before it was drawn: what was done, and
    what is nearby. What came near each other is joined by two convolutions, and the picture's mean and its strongest
    cells say what happened.

    Args:
        rewards: the values that a reward may take; none where there is no reward.
        ends: whether episodes end.
    """

    values: Tensor

    def __init__(
        self,
        width: int,
        num_codes: int,
        grid: tuple[int, int],
        rewards: tuple[float, ...],
        ends: bool,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("values", torch.tensor(rewards), persistent=False)
        self.new, self.before = nn.Embedding(num_codes, hidden), nn.Embedding(num_codes, hidden)
        self.told = nn.Linear(width, hidden)
        self.near = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.wide = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.reward = nn.Linear(2 * hidden, len(rewards)) if rewards else None
        self.end = nn.Linear(2 * hidden, 1) if ends else None

    def forward(
        self, told: Float[Tensor, "*b V width"], ids: Int[Tensor, "*b V"], previous: Int[Tensor, "*b V"]
    ) -> OutcomeLogits:
        """What video slots are told (..., V, width), their ids (..., V) and the last picture's, -1 for none."""
        before = self.before(previous.clamp_min(0)) * (previous >= 0)[..., None].to(told.dtype)
        cells = self.told(told) + self.new(ids.clamp_min(0)) + before
        x = cells.flatten(0, -3).transpose(1, 2).unflatten(2, self.grid)
        x = x + F.gelu(self.near(F.gelu(x)))
        x = (x + F.gelu(self.wide(x))).flatten(2)
        pooled = torch.cat([x.mean(2), x.amax(2)], 1).unflatten(0, ids.shape[:-1])
        reward = None if self.reward is None else self.reward(pooled).float()
        return OutcomeLogits(reward, None if self.end is None else self.end(pooled)[..., 0].float())

    def likeliest(self, logits: OutcomeLogits) -> tuple[Float[Tensor, "*b"], Bool[Tensor, "*b"]]:
        """Reward, float32, and whether the episode ends, bool: (...,) each."""
        some = logits.end if logits.reward is None else logits.reward[..., 0]
        assert some is not None
        nothing = torch.zeros_like(some)
        reward = nothing if logits.reward is None else self.values[logits.reward.argmax(-1)]
        return reward, nothing > 0 if logits.end is None else logits.end > 0

    def expected(self, logits: OutcomeLogits) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
        """The mean reward, and how likely it is that the episode ends: (...,) each."""
        some = logits.end if logits.reward is None else logits.reward[..., 0]
        assert some is not None
        nothing = torch.zeros_like(some)
        reward = nothing if logits.reward is None else logits.reward.softmax(-1) @ self.values
        return reward, nothing if logits.end is None else logits.end.sigmoid()
