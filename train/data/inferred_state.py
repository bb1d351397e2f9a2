"""A schema inferred from numbers that nobody described: ranges, flags, categories, angles, and what never changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import tau
from typing import Any

import numpy as np

from tokenizer.state_schema import Entity, Field

BINS = 256
CHANGE_BINS = 257
MOST_CATEGORIES = 16
_MARGIN = 0.1  # of what was seen, on either side, for what was not
_FASTER = 1.5  # than the largest change that was seen
_TURNS = {"rad": tau, "deg": 360.0}
_NEAR_A_TURN = 0.75  # of a full turn: a jump that is no motion
_NEARBY = 4  # columns between a cosine and its sine, at the most


@dataclass(frozen=True, kw_only=True)
class InferredState:
    """entities: of a schema that fits the values. said: what was inferred, a line a field."""

    entities: tuple[Entity, ...]
    said: list[str]


def infer_state(values: Sequence[np.ndarray], names: Sequence[str]) -> InferredState:
    """``values``: (n_i, D) of each episode, a row a step. ``names``: one for each of the D numbers.

    All become fields of the role "value", of one entity "state", which have no place in the picture. Raises ValueError
    for numbers that are not finite, and for names that do not fit.
    """
    if any(part.ndim != 2 or part.shape[1] != len(names) for part in values) or len(set(names)) != len(names):
        raise ValueError(f"a state of values {[part.shape for part in values][:3]} needs a name of its own for each")
    for episode, part in enumerate(values):
        wrong = np.flatnonzero(~np.isfinite(part).all(0))
        if len(wrong):
            raise ValueError(
                f"{names[wrong[0]]} is no finite number in episode {episode}: leave that number out of the state"
            )
    columns = [[np.asarray(part[:, i], np.float64) for part in values if len(part)] for i in range(len(names))]
    fields, said = [], []
    for name, column in zip(names, columns, strict=True):
        field, why = _field(name, column)
        fields.append(field)
        said.append(f"{name}: {why}")
    for i, j in combinations(range(len(names)), 2):
        if j - i <= _NEARBY and _on_a_circle(np.concatenate(columns[i]), np.concatenate(columns[j])):
            said.append(f"{names[i]} and {names[j]} are cosine and sine of one angle: write both")
    return InferredState(entities=(Entity(name="state", fields=tuple(fields)),) if fields else (), said=said)


def _field(name: str, column: Sequence[np.ndarray]) -> tuple[Field, str]:
    seen = np.concatenate(column)
    low, high = float(seen.min()), float(seen.max())
    still = high > low and all((part == part[0]).all() for part in column)  # what never differs may yet change
    kept: dict[str, Any] = {"name": name, "role": "value"}
    never = ", the same throughout an episode" if still else ""
    if still:
        kept["static"] = True
    if (seen == np.round(seen)).all() and high - low < MOST_CATEGORIES:
        if low >= 0 and high == 1:
            return Field(kind="flag", **kept), f"a flag{never}"
        if low >= 0:  # a category's number is its place in the list
            count = int(high) + 1
            listed = tuple(str(i) for i in range(max(2, count)))
            return Field(kind="categorical", names=listed, **kept), f"one of {len(listed)} categories{never}"
    changes = np.concatenate([np.diff(part) for part in column])
    for unit, turn in _TURNS.items():
        wrapped = (changes + turn / 2) % turn - turn / 2
        jumps = np.abs(changes) > _NEAR_A_TURN * turn
        if jumps.any() and high - low <= 1.01 * turn and np.abs(wrapped).max() < turn / 4:
            start = 0.0 if low >= -0.01 * turn else -turn / 2
            angle = {"low": start, "high": start + turn, "periodic": True, "unit": unit}
            return (
                Field(kind="continuous", bins=BINS, **angle, **kept, **_changing(wrapped)),
                f"an angle that goes round at {start + turn:.4g} {unit}",
            )
    span = high - low or max(1.0, abs(low))
    field = Field(
        kind="continuous", low=low - _MARGIN * span, high=high + _MARGIN * span, bins=BINS, **kept,
        **({} if still else _changing(changes)),
    )  # fmt: skip
    much = f", changes by up to {np.abs(changes).max():.3g} a step" if len(changes) and not still else ""
    return field, f"a number from {low:.4g} to {high:.4g}{much}{never}"


def _changing(changes: np.ndarray) -> dict[str, Any]:
    largest = float(np.abs(changes).max(initial=0.0))
    return {"change": _FASTER * largest, "change_bins": CHANGE_BINS} if largest else {}


def _on_a_circle(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a**2 + b**2 - 1).max() < 1e-3) and a.std() > 0.01 and b.std() > 0.01
