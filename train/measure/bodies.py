"""What moves in a world: its bodies in states, in entity maps and in pictures."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from math import degrees

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenizer.state_schema import StateSchema


@dataclass(frozen=True)
class Bodies:
    """The schema's movable bodies: entities with a position and a velocity. The first is the player's."""

    schema: StateSchema
    names: tuple[str, ...]

    @classmethod
    def of(cls, schema: StateSchema) -> Bodies:
        moving = schema.role_columns("velocity")
        return cls(schema, tuple(name for name in schema.role_columns("position") if name in moving))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> Tensor:
        """What an entity map shows for each body, (N,)."""
        order = [entity.name for entity in self.schema.entities]
        return torch.tensor([order.index(name) + 1 for name in self.names], dtype=torch.uint8)

    @property
    def width(self) -> float:
        """Of the table: the range of the first body's position."""
        entity = self.schema.entity(self.names[0])
        field = next(f for f in entity.fields if f.role == "position")
        return field.high - field.low

    def of_role(self, states: Tensor, role: str) -> Tensor | None:
        """(..., num_values) to (..., N, size); None where a body lacks the role."""
        columns = self.schema.role_columns(role)
        if any(name not in columns for name in self.names):
            return None
        return torch.stack([states[..., columns[name]] for name in self.names], -2)

    def present(self, states: Tensor) -> Tensor:
        """bool (..., N)."""
        flags = self.of_role(states, "present")
        return torch.ones(*states.shape[:-1], len(self), dtype=torch.bool) if flags is None else flags[..., 0] > 0.5

    def distance(self, states: Tensor, truth: Tensor) -> Tensor:
        """Of every body from where it should be, (..., N), in shares of the table's width."""
        here, there = self.of_role(states, "position"), self.of_role(truth, "position")
        assert here is not None
        assert there is not None
        return (here - there).norm(dim=-1) / self.width

    def matched(self, states: Tensor, truth: Tensor) -> Tensor:
        """States (n, num_values) with their bodies in the order in which they fit the true ones best.

        Which of several like bodies is named first cannot be seen, so every order of them is tried: the one with the
        most bodies where there is one, and of these the one with the least distance in all. The player stays itself.
        """
        fields = [self.schema.entity(name).fields for name in self.names]
        orders = [
            (0, *order)
            for order in permutations(range(1, len(self)))
            if all(fields[i] == fields[j] for i, j in zip(range(1, len(self)), order, strict=True))
        ]
        ordered = []
        for order in orders:
            candidate = states.clone()
            for name, other in zip(self.names, order, strict=True):
                for field in fields[other]:
                    here, there = (self.schema.columns(who, field.name) for who in (name, self.names[other]))
                    candidate[:, here] = states[:, there]
            ordered.append(candidate)
        candidates, there = torch.stack(ordered), self.present(truth)  # (orders, n, num_values), (n, N)
        missed = self.present(candidates) != there
        cost = (missed * 10.0 + self.distance(candidates, truth) * (there & ~missed)).sum(-1)
        return candidates[cost.argmin(0), torch.arange(len(states))]

    def masks(self, entity_map: Tensor) -> Tensor:
        """(T, H, W) to bool (T, N, H, W)."""
        return entity_map[:, None] == self.labels[:, None, None]

    def kinds(self, state: Tensor) -> tuple[Tensor, int]:
        """What tells bodies' looks apart, their colour or which body it is: (..., N), and the number of kinds."""
        colour = self.of_role(state, "colour")
        if colour is None:
            return torch.arange(len(self)).expand(*state.shape[:-1], -1), len(self)
        field = next(f for f in self.schema.entity(self.names[0]).fields if f.role == "colour")
        return colour[..., 0].round().long(), len(field.names)


def entity_map(segmentation: np.ndarray, size: tuple[int, int]) -> Tensor:
    """An entity map (T, h, w) at the pictures' size (height, width): uint8 (T, height, width)."""
    return F.interpolate(torch.from_numpy(segmentation)[:, None], size=size, mode="nearest")[:, 0]


def angle_error(schema: StateSchema, role: str, states: Tensor, truth: Tensor) -> Tensor | None:
    """Degrees between an angle and what it should be, (...); None without such a role."""
    for entity in schema.entities:
        for field in entity.fields:
            if field.role == role:
                columns = schema.columns(entity.name, field.name)
                return field.difference(states[..., columns], truth[..., columns])[..., 0].abs() * degrees(1)
    return None


def rival_colours(kinds: Tensor, typical: Tensor) -> Tensor:
    """For bodies of these kinds (M,), the typical colours of all others: (M, num_kinds, 3), its own being NaN."""
    own = torch.arange(len(typical)) == kinds[:, None]
    return torch.where(own[..., None], float("nan"), typical)
