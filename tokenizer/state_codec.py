"""The state as the transformer predicts it: all slots at once, changes as distributions over their bins.

A change is learned as two neighbouring bins whose mean is the exact value (two-hot, DreamerV3,
arXiv:2301.04104). When it is sampled, the id goes into the stream and the value that is carried is the
distribution's mean in the id's neighbourhood: a choice between ways a collision may go, without the bins'
rounding adding up over a long rollout.

``StateSchema`` does the same slot by slot for people and files; this is the tensor form for every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import asinh

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.state_schema import Slot, StateSchema, pack_bits, unpack_bits


@dataclass(frozen=True)
class ChangeTargets:
    """Which ids a true next state asks for: (..., S) each; ``weight`` is the share of ``high``."""

    low: Tensor
    high: Tensor
    weight: Tensor


class StateCodec(nn.Module):
    """Steps a state vector forward by ids. Holds no weights."""

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
            centres[start : start + slots[i].field.num_change] = slots[i].field.change_centres()
        buffers = {
            "moving": table(moving, torch.long),
            "column": table([slots[i].columns.start for i in moving], torch.long),
            "law": table([f.change / 50 for f in change if f.change]),
            "reach": table([asinh(50) for _ in change]),
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

    def _changes(self, values: Tensor, previous: Tensor) -> Tensor:
        change = values[..., self.column] - previous[..., self.column]
        short = (change + self.period / 2) % self.period - self.period / 2
        return torch.where(self.periodic, short, change)

    @staticmethod
    def _room(schema: StateSchema, slot: Slot) -> int:
        entity = schema.entities[slot.entity]
        if slot.field.role != "position":
            return schema.num_values
        sizes = [f for f in entity.fields if f.role == "size"]
        return schema.columns(entity.name, sizes[0].name).start if sizes else schema.num_values

    def legal(self, values: Tensor, *, whole: bool = False) -> Tensor:
        """Wraps and clamps the columns that move by changes; ``whole`` bodies do not reach over the ends of their range
        either. Returns a new tensor."""
        here, low, high = values[..., self.column], self.low, self.low + self.period
        wrapped = low + (here - low) % self.period
        if whole:
            room = F.pad(values, (0, 1))[..., self.room]
            low, high = low + room, high - room
        clamped = torch.minimum(torch.maximum(here, low), high)
        out = values.clone()
        out[..., self.column] = torch.where(self.periodic, wrapped, clamped)
        return out

    def perturb(self, values: Tensor, noise: Tensor) -> Tensor:
        """Adds ``noise`` (..., moving) in units of each field's largest change, keeping values legal."""
        out = values.clone()
        out[..., self.column] = values[..., self.column] + noise * self.largest
        return self.legal(out)

    def settled(self, values: Tensor) -> Tensor:
        """Takes what is within half a bin of zero to be at rest: with an even number of bins, zero lies between two.

        A thousandth of it is left, so that it still is in the bin that was drawn.
        """
        here, out = values[..., self.column], values.clone()
        out[..., self.column] = torch.where(here.abs() < self.still, 1e-3 * here, here)
        return self.legal(out)

    def targets(self, values: Tensor, previous: Tensor) -> ChangeTargets:
        """The two ids around each true change, and where between them it lies. Other slots get one id twice."""
        change = self._changes(values, previous)
        place = torch.asinh(change / self.law) / self.reach * self.middle
        place = torch.minimum(torch.maximum(place, -self.middle.float()), self.middle.float())
        below = torch.minimum(place.floor().long(), self.middle - 1)
        low = torch.zeros(*values.shape[:-1], self.num_slots, dtype=torch.long, device=values.device)
        for i, slot in self.rest:
            here = values[..., slot.columns]
            local = pack_bits(here > 0.5) if slot.field.kind == "bits" else slot.field.encode_absolute(here)[..., 0]
            low[..., i] = local + slot.offset
        for i, slot in self.flips:
            flipped = (values[..., slot.columns] > 0.5) != (previous[..., slot.columns] > 0.5)
            low[..., i] = pack_bits(flipped) + slot.offset + slot.field.num_absolute
        high, weight = low.clone(), torch.zeros(low.shape, device=values.device)
        ids = below + self.middle + self.first
        a, b = self.centres[ids], self.centres[ids + 1]
        low[..., self.moving], high[..., self.moving] = ids, ids + 1
        weight[..., self.moving] = ((change - a) / (b - a)).clamp(0, 1)
        return ChangeTargets(low, high, weight)

    def encode(self, values: Tensor, previous: Tensor) -> Tensor:
        """The ids (..., S) that say ``values`` after ``previous``: the nearer of the two targets."""
        targets = self.targets(values, previous)
        return torch.where(targets.weight > 0.5, targets.high, targets.low)

    def advance(self, previous: Tensor, ids: Tensor, probabilities: Tensor) -> Tensor:
        """The state (B, F) that sampled ids (B, S) lead to; ``probabilities`` (B, S, local ids) refine changes."""
        chosen = ids[:, self.moving]
        near = torch.arange(-self.NEIGHBOURHOOD, self.NEIGHBOURHOOD + 1, device=ids.device)
        around = (chosen[..., None] + near).clamp_min(0)
        inside = (around >= self.first[:, None]) & (around <= (self.first + 2 * self.middle)[:, None])
        around = around.clamp_max(len(self.centres) - 1)
        mass = probabilities[:, self.moving].gather(-1, around) * inside
        change = (mass * self.centres[around]).sum(-1) / mass.sum(-1).clamp_min(1e-9)
        out = previous.clone()
        out[:, self.column] = previous[:, self.column] + change
        out = self.set_absolute(self.legal(out, whole=True), ids)
        for i, slot in self.flips:
            here = previous[:, slot.columns]
            flipped = unpack_bits(ids[:, i] - slot.offset - slot.field.num_absolute, here.shape[1])
            out[:, slot.columns] = ((here > 0.5) != flipped).to(out)
        return out

    def set_absolute(self, values: Tensor, ids: Tensor) -> Tensor:
        """States (B, F) in which the fields that do not go by changes are what ids (B, S) say."""
        out = values.clone()
        for i, slot in self.rest:
            local, width = ids[:, i] - slot.offset, slot.columns.stop - slot.columns.start
            if slot.field.kind == "bits":
                out[:, slot.columns] = unpack_bits(local, width).to(out)
            else:
                out[:, slot.columns] = slot.field.decode_absolute(local[:, None]).to(out)
        return out
