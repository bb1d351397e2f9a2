"""States to ids and back: the header's static ids, a first state's absolute ones, every later state's changes.

A change is learned as two neighbouring bins whose mean is the exact value (two-hot, DreamerV3,
arXiv:2301.04104). When it is sampled, the id goes into the stream and the value that is carried is the
distribution's mean in the id's neighbourhood: a choice between ways a collision may go, without the bins'
rounding adding up over a long rollout.

Change bins follow an asinh law: linear within a fiftieth of the field's largest change, logarithmic beyond, so that
half of them lie within about a tenth of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import asinh
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tokenizer.state_schema import Field, Slot, StateSchema

Coding = Literal["static", "absolute", "change"]

_LINEAR = 50  # the largest change over the one up to which bins are about evenly wide


# -- one component ------------------------------------------------------------------------------------


def encode_values(field: Field, values: Float[Tensor, "*batch size"]) -> Int[Tensor, "*batch ids"]:
    """``(..., size)`` floats to ``(..., num_ids)`` absolute ids counted from 0. Out-of-range values saturate."""
    match field.kind:
        case "continuous":
            unit = (values.double() - field.low) / (field.high - field.low)
            unit = unit % 1.0 if field.periodic else unit
            return (unit * field.bins).floor().long().clamp(0, field.bins - 1)
        case "categorical":
            return values.round().long().clamp(0, len(field.names) - 1)
        case "flag":
            return (values > 0.5).long()
        case "bits":
            flags = F.pad(values > 0.5, (0, field.num_ids * 8 - field.size))
            return pack_bits(flags.unflatten(-1, (field.num_ids, 8)))


def decode_values(field: Field, ids: Int[Tensor, "*batch ids"]) -> Float[Tensor, "*batch size"]:
    """Absolute ids ``(..., num_ids)`` to the middles of their bins: at most half a bin from what was encoded."""
    match field.kind:
        case "continuous":
            return (field.low + (ids.double() + 0.5) / field.bins * (field.high - field.low)).float()
        case "categorical" | "flag":
            return ids.float()
        case "bits":
            return unpack_bits(ids, 8).flatten(-2)[..., : field.size].float()


def change_centres(field: Field, device: torch.device | None = None) -> Float[Tensor, " change_bins"]:
    """The change each change id stands for, ``(change_bins,)``, ascending; the middle one is exactly 0."""
    assert field.change is not None
    scale, half = field.change / _LINEAR, (field.change_bins - 1) // 2
    unit = torch.arange(-half, half + 1, dtype=torch.float64, device=device) / half
    return (torch.sinh(unit * asinh(field.change / scale)) * scale).float()


def pack_bits(flags: Bool[Tensor, "*batch n"]) -> Int[Tensor, "*batch"]:
    """Up to eight flags, bool (..., n), as the bits of one number, int64 (...)."""
    return (flags * 2 ** torch.arange(flags.shape[-1], device=flags.device)).sum(-1)


def unpack_bits(numbers: Int[Tensor, "*batch"], count: int) -> Bool[Tensor, "*batch {count}"]:
    """The lowest bits of numbers (...), bool (..., count)."""
    return ((numbers[..., None] >> torch.arange(count, device=numbers.device)) & 1).bool()


# -- a whole state ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChangeTargets:
    """Which ids a true next state asks for: (..., S) each; ``weight`` is the share of ``high``."""

    low: Int[Tensor, "*batch S"]
    high: Int[Tensor, "*batch S"]
    weight: Float[Tensor, "*batch S"]


class StateCodec(nn.Module):
    """Says states in a schema's local ids, and steps a state forward by ids. Holds no weights.

    Dimension keys: B rows, F values of a state, S its slots in a step (in the header, where it is ``static``).
    """

    NEIGHBOURHOOD = 8

    moving: Tensor  # slots that are written as changes; the others below are theirs, (moving,) each
    column: Tensor
    law: Tensor
    reach: Tensor
    middle: Tensor
    first: Tensor
    low: Tensor
    period: Tensor
    periodic: Tensor
    largest: Tensor
    still: Tensor
    room: Tensor  # the columns of the sizes of those whose position it is; num_values for none
    centres: Tensor  # the change that every local id stands for

    def __init__(self, schema: StateSchema) -> None:
        super().__init__()
        self.schema = schema
        slots = schema.slots
        moving = [i for i, s in enumerate(slots) if s.field.change is not None and s.field.kind == "continuous"]
        self.num_slots = len(slots)

        def table(values: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(values, dtype=dtype)

        change = [slots[i].field for i in moving]
        centres = torch.zeros(max(1, schema.num_local_ids))
        for i in moving:
            start = slots[i].offset + slots[i].field.num_absolute
            centres[start : start + slots[i].field.num_change] = change_centres(slots[i].field)
        buffers = {
            "moving": table(moving, torch.long),
            "column": table([slots[i].columns.start for i in moving], torch.long),
            "law": table([f.change / _LINEAR for f in change if f.change]),
            "reach": table([asinh(_LINEAR) for _ in change]),
            "middle": table([(f.change_bins - 1) // 2 for f in change], torch.long),
            "first": table([slots[i].offset + slots[i].field.num_absolute for i in moving], torch.long),
            "low": table([f.low for f in change]),
            "period": table([f.high - f.low for f in change]),
            "periodic": table([f.periodic for f in change], torch.bool),
            "largest": table([f.change or 0.0 for f in change]),
            "room": table([self._room(schema, slots[i]) for i in moving], torch.long),
            "still": table([0.51 * (f.high - f.low) / f.bins * (not f.periodic) for f in change]),
            "centres": centres,
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer, persistent=False)
        self.rest = [(i, s) for i, s in enumerate(slots) if s.field.change is None]
        self.flips = [(i, s) for i, s in enumerate(slots) if s.field.change is not None and s.field.kind == "bits"]

    # -- ids and values -----------------------------------------------------------------------------

    def encode(
        self,
        values: Float[Tensor, "*batch F"],
        coding: Coding,
        previous: Float[Tensor, "*batch F"] | None = None,
    ) -> Int[Tensor, "*batch S"]:
        """States ``(..., F)`` to local ids, int64 ``(..., S)``.

        ``static`` gives the header's ids, ``absolute`` a first state's, ``change`` a later state's after
        ``previous`` (fields without a change are absolute there too): of two neighbouring changes, the nearer by value.
        """
        if coding == "change":
            assert previous is not None
            targets = self.targets(values, previous)
            return torch.where(targets.weight > 0.5, targets.high, targets.low)
        slots = self.schema.static_slots if coding == "static" else self.schema.slots
        out = values.new_zeros((*values.shape[:-1], len(slots)), dtype=torch.long)
        for i, slot in enumerate(slots):
            out[..., i] = self._local_id(slot, values)
        return out

    def decode(
        self, ids: Int[Tensor, "*batch S"], coding: Coding, onto: Float[Tensor, "*batch F"]
    ) -> Float[Tensor, "*batch F"]:
        """Local ids ``(..., S)`` back to states ``(..., F)``.

        ``onto`` (..., F) is the state that they speak about: the previous one for ``change``, any to be filled for
        ``static`` and ``absolute``. Returns a new tensor in which the coded columns are replaced.
        """
        if coding == "change":
            return self.advance(onto, ids)
        out = onto.clone()
        for i, slot in enumerate(self.schema.static_slots if coding == "static" else self.schema.slots):
            out[..., slot.columns] = self._values_of(slot, ids[..., i])
        return out

    def legal_ranges(self, coding: Coding) -> Int[Tensor, "S 2"]:
        """Half-open range of local ids each slot may take, int64 ``(S, 2)``."""
        ranges = []
        for slot in self.schema.static_slots if coding == "static" else self.schema.slots:
            low, high = slot.offset, slot.offset + slot.field.num_absolute
            if coding == "change" and slot.field.change is not None:
                low, high = high, high + slot.field.num_change
            ranges.append((low, high))
        return torch.tensor(ranges, dtype=torch.long).reshape(-1, 2)

    @staticmethod
    def _local_id(slot: Slot, values: Tensor) -> Tensor:
        """The absolute id that a slot says of states (..., F), (...)."""
        here = values[..., slot.columns]
        local = pack_bits(here > 0.5) if slot.field.kind == "bits" else encode_values(slot.field, here)[..., 0]
        return local + slot.offset

    @staticmethod
    def _values_of(slot: Slot, ids: Tensor) -> Tensor:
        """The values (..., columns of the slot) that its absolute ids (...) say."""
        local, width = ids - slot.offset, slot.columns.stop - slot.columns.start
        if slot.field.kind == "bits":
            return unpack_bits(local, width).float()
        return decode_values(slot.field, local[..., None])

    # -- changes ------------------------------------------------------------------------------------

    def _changes(self, values: Tensor, previous: Tensor) -> Tensor:
        change = values[..., self.column] - previous[..., self.column]
        short = (change + self.period / 2) % self.period - self.period / 2
        return torch.where(self.periodic, short, change)

    def targets(self, values: Float[Tensor, "*batch F"], previous: Float[Tensor, "*batch F"]) -> ChangeTargets:
        """The two ids around each true change, and where between them it lies. Other slots get one id twice."""
        change = self._changes(values, previous)
        place = torch.asinh(change / self.law) / self.reach * self.middle
        place = torch.minimum(torch.maximum(place, -self.middle.float()), self.middle.float())
        below = torch.minimum(place.floor().long(), self.middle - 1)
        low = torch.zeros(*values.shape[:-1], self.num_slots, dtype=torch.long, device=values.device)
        for i, slot in self.rest:
            low[..., i] = self._local_id(slot, values)
        for i, slot in self.flips:
            flipped = (values[..., slot.columns] > 0.5) != (previous[..., slot.columns] > 0.5)
            low[..., i] = pack_bits(flipped) + slot.offset + slot.field.num_absolute
        high, weight = low.clone(), torch.zeros(low.shape, device=values.device)
        ids = below + self.middle + self.first
        a, b = self.centres[ids], self.centres[ids + 1]
        low[..., self.moving], high[..., self.moving] = ids, ids + 1
        weight[..., self.moving] = ((change - a) / (b - a)).clamp(0, 1)
        return ChangeTargets(low, high, weight)

    def advance(
        self,
        previous: Float[Tensor, "*batch F"],
        ids: Int[Tensor, "*batch S"],
        probabilities: Float[Tensor, "*batch S ids"] | None = None,
    ) -> Float[Tensor, "*batch F"]:
        """The state (..., F) that ids (..., S) lead to, as changes to ``previous`` (..., F).

        ``probabilities`` (..., S, local ids) refine sampled changes by the ids around them; without them, each change
        is the middle of its bin.
        """
        chosen = ids[..., self.moving]
        if probabilities is None:
            change = self.centres[chosen]
        else:
            near = torch.arange(-self.NEIGHBOURHOOD, self.NEIGHBOURHOOD + 1, device=ids.device)
            around = (chosen[..., None] + near).clamp_min(0)
            inside = (around >= self.first[:, None]) & (around <= (self.first + 2 * self.middle)[:, None])
            around = around.clamp_max(len(self.centres) - 1)
            mass = probabilities[..., self.moving, :].gather(-1, around) * inside
            change = (mass * self.centres[around]).sum(-1) / mass.sum(-1).clamp_min(1e-9)
        out = previous.clone()
        out[..., self.column] = previous[..., self.column] + change
        out = self.set_absolute(self.legal(out, whole=True), ids)
        for i, slot in self.flips:
            here = previous[..., slot.columns]
            flipped = unpack_bits(ids[..., i] - slot.offset - slot.field.num_absolute, here.shape[-1])
            out[..., slot.columns] = ((here > 0.5) != flipped).to(out)
        return out

    def set_absolute(
        self, values: Float[Tensor, "*batch F"], ids: Int[Tensor, "*batch S"]
    ) -> Float[Tensor, "*batch F"]:
        """States (..., F) in which the fields that do not go by changes are what ids (..., S) say."""
        out = values.clone()
        for i, slot in self.rest:
            out[..., slot.columns] = self._values_of(slot, ids[..., i]).to(out)
        return out

    # -- what probabilities say ---------------------------------------------------------------------

    def outlook(
        self, values: Float[Tensor, "B F"], probabilities: Float[Tensor, "B S ids"]
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """The mean reward, and how likely the end is, (B,) each, of states (B, F) whose ids had ``probabilities``.

        0 where the state holds none. A reward that goes by changes is a mean as it stands.
        """
        means = []
        for role in ("reward", "terminated"):
            mean = values.new_zeros(len(values))
            for i, slot in enumerate(self.schema.slots):
                if slot.field.role == role:
                    mean = values[:, slot.columns.start]
                    if slot.field.change is None:
                        ids = torch.arange(slot.field.num_absolute, device=values.device)
                        said = self._values_of(slot, ids + slot.offset)[:, 0]
                        mean = probabilities[:, i, slot.offset : slot.offset + len(ids)] @ said.to(probabilities)
            means.append(mean)
        return means[0], means[1]

    def by_entity(self, each: Float[Tensor, "B S"]) -> Float[Tensor, "B entities"]:
        """The mean over each entity's slots, in the schema's order; 0 for one without any."""
        owner = torch.tensor([slot.entity for slot in self.schema.slots], device=each.device)
        entities = torch.arange(len(self.schema.entities), device=each.device)
        mine = (owner == entities[:, None]).to(each)
        return each @ mine.T / mine.sum(1).clamp_min(1)

    # -- what values may be -------------------------------------------------------------------------

    @staticmethod
    def _room(schema: StateSchema, slot: Slot) -> int:
        entity = schema.entities[slot.entity]
        if slot.field.role != "position" or schema.view is None:
            return schema.num_values
        sizes = [f for f in entity.fields if f.role == "size"]
        return schema.columns(entity.name, sizes[0].name).start if sizes else schema.num_values

    def legal(self, values: Float[Tensor, "*batch F"], *, whole: bool = False) -> Float[Tensor, "*batch F"]:
        """Wraps and clamps the columns that move by changes. Returns a new tensor.

        ``whole`` is for bodies that a view shows between the ends of their range as between walls: a body with a size
        does not reach over them either. Where there is no view, it changes nothing.
        """
        here, low, high = values[..., self.column], self.low, self.low + self.period
        wrapped = low + (here - low) % self.period
        if whole:
            room = F.pad(values, (0, 1))[..., self.room]
            low, high = low + room, high - room
        clamped = torch.minimum(torch.maximum(here, low), high)
        out = values.clone()
        out[..., self.column] = torch.where(self.periodic, wrapped, clamped)
        return out

    def perturb(
        self, values: Float[Tensor, "*batch F"], noise: Float[Tensor, "*batch moving"]
    ) -> Float[Tensor, "*batch F"]:
        """Adds ``noise`` (..., moving) in units of each field's largest change, keeping values legal."""
        out = values.clone()
        out[..., self.column] = values[..., self.column] + noise * self.largest
        return self.legal(out)

    def settled(self, values: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch F"]:
        """Takes what is within half a bin of zero to be at rest, for scenes that a view shows.

        With an even number of bins zero lies between two, so a body that was drawn to rest would creep. A thousandth
        of its value is left, so that it still is in the bin that was drawn. Without a view, zero is a value like any
        other (a joint's angle, say), and only ``legal`` remains.
        """
        if self.schema.view is None:
            return self.legal(values)
        here, out = values[..., self.column], values.clone()
        out[..., self.column] = torch.where(here.abs() < self.still, 1e-3 * here, here)
        return self.legal(out)
