"""Any schema that is allowed, and legal states of it, for hypothesis."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from tokenizer.state_schema import Entity, Field, StateSchema

names = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True).map(tuple)


@st.composite
def fields(draw: st.DrawFn, name: str) -> Field:
    """Any field that the schema allows."""
    kind = draw(st.sampled_from(["continuous", "categorical", "flag", "bits"]))
    common: dict[str, Any] = {"name": name, "kind": kind, "role": "value", "static": draw(st.booleans())}
    common["size"] = draw(st.integers(1, 19 if kind == "bits" else 3))
    if kind == "categorical":
        return Field(**common, names=draw(names))
    if kind != "continuous":
        return Field(**common)
    low, width = draw(st.floats(-10, 10)), draw(st.floats(0.1, 20))
    change = None
    if not common["static"] and draw(st.booleans()):
        change = draw(st.floats(0.01, 0.5)) * width
    return Field(
        **common,
        low=low,
        high=low + width,
        bins=draw(st.integers(2, 300)),
        periodic=draw(st.booleans()),
        change=change,
        change_bins=draw(st.sampled_from([3, 9, 65, 129])),
    )


@st.composite
def schemas(draw: st.DrawFn) -> StateSchema:
    entities = []
    for i in range(draw(st.integers(0, 3))):
        count = draw(st.integers(1, 4))
        entities.append(Entity(name=f"e{i}", fields=tuple(draw(fields(f"f{j}")) for j in range(count))))
    return StateSchema(name="any", entities=tuple(entities), actions=("go",))


def some_state(schema: StateSchema, batch: int = 3, seed: int = 0) -> torch.Tensor:
    """Legal values of every field."""
    chance = torch.Generator().manual_seed(seed)
    values = torch.zeros(batch, schema.num_values)
    for entity in schema.entities:
        for f in entity.fields:
            here = schema.columns(entity.name, f.name)
            part = torch.rand(batch, f.size, generator=chance)
            match f.kind:
                case "continuous":
                    part = (f.low + part * (f.high - f.low)).clamp(f.low, f.high)
                case "categorical":
                    part = (part * len(f.names)).floor()
                case _:
                    part = (part > 0.5).float()
            values[:, here] = part
    return values


def bins(schema: StateSchema) -> torch.Tensor:
    """Width of a bin of every value; 0 where ids are exact."""
    width = torch.zeros(schema.num_values)
    for entity in schema.entities:
        for f in entity.fields:
            if f.kind == "continuous":
                width[schema.columns(entity.name, f.name)] = (f.high - f.low) / f.bins
    return width
