"""What is kept while a world goes on: fields of its state at a value or within limits, regions of its picture.

Limits are (B, F, 2), the lowest and the highest value of every column of a state. A field that is held has both alike;
one that is free has them beyond any value. On a periodic field they are the ends of the arc that goes up from the
first to the second. They come in as tensors, so one exported graph serves whatever is held.

A limit is like a wall: a value sampled outside is clamped to the nearer end and encoded again. The logits are not
masked. With every likely id masked the rest is noise, and a body pushed against a limit jumps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from tokenizer.state_codec import StateCodec
from tokenizer.state_schema import Field, StateSchema

FREE = 1e30  # beyond any value, and finite: differences of infinities are no numbers


class StateLimiter(nn.Module):
    """Writes limits for people and keeps states and ids within them. Holds no weights.

    Dimension keys: B rows, F values of a state, S its slots.
    """

    period: Tensor  # (F,), 1 where nothing wraps
    periodic: Tensor  # (F,)
    said: Tensor  # 1 where a slot's id says a column, else 0, (F, S)

    def __init__(self, schema: StateSchema, codec: StateCodec) -> None:
        super().__init__()
        self.schema, self.codec = schema, codec
        period, periodic = torch.ones(schema.num_values), torch.zeros(schema.num_values, dtype=torch.bool)
        for entity in schema.entities:
            for f in entity.fields:
                if f.periodic:
                    columns = schema.columns(entity.name, f.name)
                    period[columns], periodic[columns] = f.high - f.low, True
        said = torch.zeros(schema.num_values, len(schema.slots))
        for i, slot in enumerate(schema.slots):
            said[slot.columns, i] = 1
        for name, buffer in (("period", period), ("periodic", periodic), ("said", said)):
            self.register_buffer(name, buffer, persistent=False)

    # -- people's side ------------------------------------------------------------------------------

    @staticmethod
    def free(*shape: int) -> Tensor:
        """Limits (..., 2) that keep nothing."""
        return torch.tensor([-FREE, FREE]).repeat(*shape, 1)

    def hold(self, limits: Tensor, fields: Mapping[str, Mapping[str, Any]]) -> Tensor:
        """A copy of limits (..., F, 2) in which the named fields have one value.

        Raises ValueError for what ``StateSchema.write`` refuses, and for a field that never changes.
        """
        out = limits.clone()
        for name, f, columns, value in self._named(fields):
            out[..., columns, :] = self._value(name, f, value)[:, None].to(out)
        return out

    def limit(self, limits: Tensor, fields: Mapping[str, Mapping[str, Any]]) -> Tensor:
        """A copy of limits (..., F, 2) in which the named fields lie within (low, high), each a value of the field.

        Raises ValueError for what ``hold`` refuses, a field that is no quantity, and ends in the wrong order.
        """
        out = limits.clone()
        for name, f, columns, ends in self._named(fields):
            label = f"{name}.{f.name}"
            if f.kind != "continuous":
                raise ValueError(f"{label} is no quantity that could be limited: hold it at a value")
            if isinstance(ends, str) or not hasattr(ends, "__len__") or len(ends) != 2:
                raise ValueError(f"limits of {label} are a pair (low, high), got {ends!r}")
            low, high = (self._value(name, f, end) for end in ends)
            if f.periodic:  # once around is no limit, though its ends are the same
                low_end, high_end = (torch.as_tensor(end, dtype=torch.float64).flatten() for end in ends)
                around = high_end - low_end >= f.high - f.low
                low, high = low.masked_fill(around, -FREE), high.masked_fill(around, FREE)
            elif bool((low > high).any()):
                raise ValueError(f"limits of {label} are (low, high), and low {ends[0]} is above high {ends[1]}")
            out[..., columns, :] = torch.stack([low, high], -1).to(out)
        return out

    def release(self, limits: Tensor, fields: Mapping[str, str | Iterable[str]]) -> Tensor:
        """A copy of limits (..., F, 2) in which the named fields are free."""
        out = limits.clone()
        if isinstance(fields, Mapping):  # anything else is refused below
            names = {name: [given] if isinstance(given, str) else given for name, given in fields.items()}
            fields = {name: dict.fromkeys(given) for name, given in names.items()}
        for _, _, columns, _ in self._named(fields):
            out[..., columns, :] = self.free(1).to(out)
        return out

    def _named(self, fields: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Field, slice, Any]]:
        """Entity, field, columns and what is said of it."""
        for name, f, value in self.schema.said_of(fields):
            if f.static:
                raise ValueError(f"{name}.{f.name} never changes, so there is nothing to hold: use edit")
            yield name, f, self.schema.columns(name, f.name), value

    def _value(self, name: str, f: Field, value: Any) -> Tensor:
        blank = torch.zeros(self.schema.num_values)
        written = self.schema.write(blank, {name: {f.name: value}})[self.schema.columns(name, f.name)]
        if not f.periodic:
            return written
        exact = torch.as_tensor(value, dtype=torch.float32).flatten()  # to wrap is to round
        return torch.where((exact >= f.low) & (exact < f.high), exact, written)

    # -- the step's side ----------------------------------------------------------------------------

    def keep(self, values: Float[Tensor, "B F"], limits: Float[Tensor, "B F 2"]) -> Float[Tensor, "B F"]:
        """States (B, F) with what lies outside of limits (B, F, 2) brought to their nearer end."""
        low, high = limits[..., 0], limits[..., 1]
        clamped = torch.minimum(torch.maximum(values, low), high)
        width = high - low + torch.where(high < low, self.period, 0.0)
        above = (values - low) % self.period  # how far up from the arc's beginning
        nearer = torch.where(above - width < self.period - above, high, low)
        return torch.where(self.periodic, torch.where(above > width, nearer, values), clamped)

    def keep_step(
        self,
        ids: Int[Tensor, "B S"],
        state: Float[Tensor, "B F"],
        previous: Float[Tensor, "B F"],
        limits: Float[Tensor, "B F 2"],
    ) -> tuple[Int[Tensor, "B S"], Float[Tensor, "B F"]]:
        """A state (B, F) within limits (B, F, 2), and the ids (B, S) that say so after ``previous`` (B, F), or, where
        none reaches so far, the nearest."""
        kept = self.keep(state, limits)
        moved = (kept != state).to(self.said) @ self.said > 0
        return torch.where(moved, self.codec.encode(kept, "change", previous), ids), kept


@dataclass(frozen=True)
class Steering:
    """What every row of a rollout is kept to. Replaced, never written into, so copies of a rollout may share it.

    limits: (B, F, 2), as :class:`StateLimiter` takes them. locked: bool (B, V), cells whose ids stay.
    """

    limits: Float[Tensor, "B F 2"]
    locked: Bool[Tensor, "B V"]

    @cached_property
    def active(self) -> bool:
        """Whether any row is held, limited or locked."""
        return bool((self.limits.abs() < FREE).any() | self.locked.any())

    def with_limits(self, rows: slice | Tensor, limits: Tensor) -> Steering:
        """With other limits in some rows."""
        out = self.limits.clone()
        out[rows] = limits
        return Steering(out, self.locked)

    def with_locked(self, rows: slice | Tensor, locked: Tensor | bool) -> Steering:
        """With other cells locked in some rows."""
        out = self.locked.clone()
        out[rows] = locked
        return Steering(self.limits, out)

    def keep_pixels(
        self, frames: UInt8[Tensor, "B n H W 3"], before: UInt8[Tensor, "B H W 3"], grid: tuple[int, int]
    ) -> UInt8[Tensor, "B n H W 3"]:
        """Frames (B, n, H, W, 3) that in locked cells are as the picture (B, H, W, 3) before them."""
        if not self.active:
            return frames
        rows, columns = (length // cells for length, cells in zip(frames.shape[2:4], grid, strict=True))
        locked = self.locked.unflatten(1, grid).repeat_interleave(rows, 1).repeat_interleave(columns, 2)
        return torch.where(locked[:, None, :, :, None], before[:, None], frames)
