"""A state as a network takes it in: every value as an input of about unit size, and every slot of the next state told
what its own entity is like. Knows nothing of places or pictures: what a view adds is `scene/`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tokenizer.branchless import must_be_branchless
from tokenizer.state_schema import Entity, Field, StateSchema


class StateInputs(nn.Module):
    """States as network inputs: values in [-1, 1], categories one-hot, angles as cosines and sines. Holds no weights.

    Everything is looked up in tables made once, for a state is read several times a step.
    """

    linear_column: Tensor
    linear_a: Tensor
    linear_b: Tensor
    chosen_column: Tensor
    chosen_a: Tensor
    chosen_b: Tensor
    angle_column: Tensor
    angle_a: Tensor
    angle_b: Tensor

    def __init__(self, schema: StateSchema) -> None:
        super().__init__()
        self.schema = schema
        linear: list[tuple[int, float, float]] = []
        chosen: list[tuple[int, int, int]] = []
        angles: list[tuple[int, float, float]] = []
        found: dict[tuple[str, str], list[tuple[str, int]]] = {}
        for entity in schema.entities:
            for f in entity.fields:
                here = found.setdefault((entity.name, f.name), [])
                span = schema.columns(entity.name, f.name)
                columns = range(span.start, span.stop)
                if f.kind == "categorical":
                    here += [("chosen", len(chosen) + i) for i in range(len(columns) * len(f.names))]
                    chosen += [(c, i, len(f.names) - 1) for c in columns for i in range(len(f.names))]
                elif f.kind == "continuous" and f.periodic:
                    here += [(part, len(angles) + i) for part in ("cos", "sin") for i in range(len(columns))]
                    turn = 2 * pi / (f.high - f.low)
                    angles += [(c, turn, -turn * f.low) for c in columns]
                else:
                    here += [("linear", len(linear) + i) for i in range(len(columns))]
                    law = (2 / (f.high - f.low), -2 * f.low / (f.high - f.low) - 1)
                    linear += [(c, *law) if f.kind == "continuous" else (c, 1.0, 0.0) for c in columns]
        starts = {"linear": 0, "chosen": len(linear)}
        starts["cos"] = starts["chosen"] + len(chosen)
        starts["sin"] = starts["cos"] + len(angles)
        self._entries = {key: [starts[part] + i for part, i in places] for key, places in found.items()}
        self.size = starts["sin"] + len(angles)
        for name, rows in (("linear", linear), ("chosen", chosen), ("angle", angles)):
            self._keep(f"{name}_column", [row[0] for row in rows], torch.long)
            self._keep(f"{name}_a", [row[1] for row in rows], torch.float)
            self._keep(f"{name}_b", [row[2] for row in rows], torch.float)

    def _keep(self, name: str, values: Sequence[Any], dtype: torch.dtype) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)

    def entries(self, entity: Entity, f: Field) -> list[int]:
        """Which inputs say a field: a value, a category one-hot, or first cosines and then sines."""
        return self._entries[entity.name, f.name]

    def forward(self, state: Float[Tensor, "N F"]) -> Float[Tensor, "N inputs"]:
        """States (N, num_values) to inputs (N, size + 1), the last of which is zero, for whoever lacks a field."""
        linear = torch.addcmul(self.linear_b.to(state), state[:, self.linear_column], self.linear_a.to(state))
        named = state[:, self.chosen_column].round().clamp_min(0).minimum(self.chosen_b.to(state))
        angle = torch.addcmul(self.angle_b.to(state), state[:, self.angle_column], self.angle_a.to(state))
        chosen = (named == self.chosen_a.to(state)).to(state)
        return torch.cat([linear, chosen, angle.cos(), angle.sin(), state.new_zeros(len(state), 1)], 1)


def telling_inputs(schema: StateSchema) -> list[int]:
    """Which of a schema's inputs say how things are: not reward and end, nor the motion that a stream began with."""
    inputs, others = StateInputs(schema), ("reward", "terminated", "motion")
    return [i for e in schema.entities for f in e.fields if f.role not in others for i in inputs.entries(e, f)]


class StateEmbedding(nn.Module):
    """An embedding for every state slot of what its entity is like. With ``words``, also of what an event says to one
    like it.

    Whom an event means is hard to find by attention alone, for a name must meet its bearer; told of the words, an
    entity knows its own.
    """

    slot_entity: Tensor  # grouped by signature

    def __init__(self, schema: StateSchema, width: int, hidden: int = 96, words: int = 0) -> None:
        super().__init__()
        self.inputs = StateInputs(schema)
        signatures = list(dict.fromkeys(e.fields for e in schema.entities))
        alike = [[e for e in schema.entities if e.fields == fields] for fields in signatures]
        order = [schema.entities.index(e) for group in alike for e in group]
        for i, group in enumerate(alike):
            rows = [[k for f in e.fields for k in self.inputs.entries(e, f)] for e in group]
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
        places = {entity: i for i, entity in enumerate(order)}
        slots = torch.tensor([places[s.entity] for s in schema.slots], dtype=torch.long)
        self.register_buffer("slot_entity", slots, persistent=False)

    def listen(self, words: Int[Tensor, "N n"]) -> Float[Tensor, "N width"]:
        """Local text ids (N, n), -1 for none, to their words' sum, (N, width): zero for those that are told nothing."""
        assert self.words is not None
        return self.words(words.clamp_min(0), per_sample_weights=(words >= 0).to(self.words.weight))

    def forward(
        self, state: Float[Tensor, "N F"], told: Float[Tensor, "N width"] | None = None
    ) -> Float[Tensor, "N S width"]:
        """States (N, num_values), and what :meth:`listen` made of an event, to (N, num_slots, width)."""
        return self.own_slots(self.inputs(state), told)

    def own_slots(
        self, inputs: Float[Tensor, "N inputs"], told: Float[Tensor, "N width"] | None
    ) -> Float[Tensor, "N S width"]:
        """The same from what :class:`StateInputs` makes of the states."""
        inputs = inputs.to(self.dtype)
        own = [inputs[:, self.get_buffer(f"own_{i}")] for i in range(len(self.own))]
        entities = torch.cat([net(each) for net, each in zip(self.own, own, strict=True)], 1)
        if told is not None and self.heard is not None and (must_be_branchless(told) or bool(told.any())):
            hearing = torch.cat([net(each) for net, each in zip(self.hearing, own, strict=True)], 1)
            told = told[:, None].to(self.dtype)
            entities = entities + self.heard(F.gelu(hearing + told) * (told != 0).any(-1, keepdim=True))
        return entities[:, self.slot_entity]

    def overlapping(self, state: Float[Tensor, "N F"]) -> Bool[Tensor, " N"]:
        """In which states (N, num_values) entities stand in one another, bool (N,): none, where nothing has a place."""
        return torch.zeros(len(state), dtype=torch.bool, device=state.device)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.own.parameters()).dtype

    def matrices(self) -> list[nn.Parameter]:
        """Its weights but the biases, for an optimizer that treats matrices apart."""
        return [p for layer in self._layers() for p in layer.parameters() if p.dim() == 2]

    def _layers(self) -> list[nn.Module]:
        return [layer for layer in (self.own, self.hearing, self.heard) if layer is not None]
