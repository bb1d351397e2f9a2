"""What the state of a world consists of, and how its numbers become ids and come back.

A schema is entities times fields. It is stored as JSON beside the data and the checkpoint, so a state
means the same thing wherever it is read. In memory a state is one flat float vector, ``(..., num_values)``,
in the schema's units; ``columns`` says where each field lies in it.

A field is either *static* (it stays for the whole scene and stands in the stream's header) or *dynamic*
(one id, or several, in every step). A dynamic field with a ``change`` is written as its change since the
previous step, in bins that are finest near zero, while its value is carried as a float: so quantisation
never accumulates. The first state of a stream has no predecessor and is always written in absolute bins.

Fields of one name and one specification share their ids between entities (a position is a position,
whoever's it is); which slot belongs to whom is told by the slot, not by the id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import asinh, ceil, isfinite, pi
from typing import Any, Literal, SupportsFloat

import gymnasium
import numpy as np
import torch
from torch import Tensor

from tokenizer.action_space import ActionSpace

Kind = Literal["continuous", "categorical", "flag", "bits"]
Coding = Literal["static", "absolute", "change"]


@dataclass(frozen=True, kw_only=True)
class Field:
    """One named quantity of an entity.

    ``size`` components share one specification and take one id each (a 2-D position has size 2), except
    for ``bits``, whose ``size`` flags are packed eight to an id. ``periodic`` values wrap between ``low``
    and ``high``. ``change`` is the largest change per step that the change bins reach; larger ones saturate.
    For ``bits`` it is 1: a step's id then says which of the eight flip.
    """

    name: str
    kind: Kind
    role: str
    unit: str = ""
    size: int = 1
    static: bool = False
    low: float = 0.0
    high: float = 1.0
    bins: int = 2
    periodic: bool = False
    change: float | None = None
    change_bins: int = 129
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "continuous" and not (self.low < self.high and self.bins >= 2):
            raise ValueError(f"field {self.name!r}: a continuous field needs low < high and at least 2 bins")
        if self.kind == "categorical" and len(self.names) < 1:
            raise ValueError(f"field {self.name!r}: a categorical field needs the names of its categories")
        if self.change is not None and self.kind == "bits" and (self.static or self.change != 1):
            raise ValueError(f"field {self.name!r}: only dynamic bits flip, and by a change of 1")
        moves = self.kind == "continuous" and not self.static and (self.change or 0) > 0
        if self.change is not None and self.kind != "bits" and not moves:
            raise ValueError(
                f"field {self.name!r}: only a dynamic continuous field can be written as a positive change"
            )
        if self.change is not None and self.change_bins % 2 == 0:
            raise ValueError(f"field {self.name!r}: change_bins must be odd, so that no change is exactly no change")

    @property
    def num_absolute(self) -> int:
        """How many absolute ids one component needs."""
        match self.kind:
            case "continuous":
                return self.bins
            case "categorical":
                return len(self.names)
            case "flag":
                return 2
            case "bits":
                return 256

    @property
    def num_change(self) -> int:
        if self.change is None:
            return 0
        return 256 if self.kind == "bits" else self.change_bins

    @property
    def num_ids(self) -> int:
        """Ids per occurrence: one a component, or one for eight bits."""
        return ceil(self.size / 8) if self.kind == "bits" else self.size

    @property
    def _change_scale(self) -> float:
        # An asinh law: linear within a fiftieth of the range, logarithmic beyond. Half of the bins lie
        # within about a tenth of the largest change.
        assert self.change is not None
        return self.change / 50

    def encode_absolute(self, values: Tensor) -> Tensor:
        """``(..., size)`` floats to ``(..., num_ids)`` ids counted from 0. Out-of-range values saturate."""
        match self.kind:
            case "continuous":
                unit = (values.double() - self.low) / (self.high - self.low)
                unit = unit % 1.0 if self.periodic else unit
                return (unit * self.bins).floor().long().clamp(0, self.bins - 1)
            case "categorical":
                return values.round().long().clamp(0, len(self.names) - 1)
            case "flag":
                return (values > 0.5).long()
            case "bits":
                flags = (values > 0.5).long()
                flags = torch.nn.functional.pad(flags, (0, self.num_ids * 8 - self.size))
                weights = 2 ** torch.arange(8, device=values.device)
                return (flags.unflatten(-1, (self.num_ids, 8)) * weights).sum(-1)

    def decode_absolute(self, ids: Tensor) -> Tensor:
        """The middle of the bin: at most half a bin from what was encoded."""
        match self.kind:
            case "continuous":
                return (self.low + (ids.double() + 0.5) / self.bins * (self.high - self.low)).float()
            case "categorical" | "flag":
                return ids.float()
            case "bits":
                shifts = torch.arange(8, device=ids.device)
                return ((ids[..., None] >> shifts) & 1).flatten(-2)[..., : self.size].float()

    def encode_change(self, change: Tensor) -> Tensor:
        """Change per step to ids counted from 0 (the middle id is exactly no change)."""
        assert self.change is not None
        scale, half = self._change_scale, (self.change_bins - 1) // 2
        unit = torch.asinh(change.double() / scale) / asinh(self.change / scale)
        return (unit.clamp(-1, 1) * half).round().long() + half

    def decode_change(self, ids: Tensor) -> Tensor:
        return self.change_centres(ids.device)[ids]

    def change_centres(self, device: torch.device | None = None) -> Tensor:
        """The change each change id stands for, ``(change_bins,)``, ascending."""
        assert self.change is not None
        scale, half = self._change_scale, (self.change_bins - 1) // 2
        unit = torch.arange(-half, half + 1, dtype=torch.float64, device=device) / half
        return (torch.sinh(unit * asinh(self.change / scale)) * scale).float()

    def difference(self, values: Tensor, previous: Tensor) -> Tensor:
        """``values - previous``, the short way round where the field is periodic."""
        change = values - previous
        if self.periodic:
            period = self.high - self.low
            change = (change + period / 2) % period - period / 2
        return change

    def number(self, value: Any, name: str) -> float:
        """What a person says of one component, as a number: a category's name or its index, a flag, a quantity.

        Raises ValueError, calling the component ``name``, when it cannot be that.
        """
        choice = f"{name} cannot be {value!r}; choose from {', '.join(self.names)}"
        if self.kind == "categorical" and isinstance(value, str):
            if value not in self.names:
                raise ValueError(choice)
            return float(self.names.index(value))
        if isinstance(value, str) or not isinstance(value, SupportsFloat):
            raise ValueError(f"{name} takes numbers, got {value!r}")
        number = float(value)
        if self.kind == "categorical" and not (number.is_integer() and 0 <= number < len(self.names)):
            raise ValueError(choice)
        if self.kind == "continuous" and not self.periodic and not self.low <= number <= self.high:
            raise ValueError(f"{name} = {number:g} is outside [{self.low:g}, {self.high:g}] {self.unit}".rstrip())
        if not isfinite(number):
            raise ValueError(f"{name} = {number:g} is no number: give a finite one")
        return number

    def legal(self, values: Tensor) -> Tensor:
        """Wraps a periodic value into its range and clamps any other continuous one."""
        if self.kind != "continuous":
            return values
        if self.periodic:
            return self.low + (values - self.low) % (self.high - self.low)
        return values.clamp(self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class Entity:
    name: str
    fields: tuple[Field, ...]

    def field(self, name: str) -> Field:
        for candidate in self.fields:
            if candidate.name == name:
                return candidate
        known = ", ".join(f.name for f in self.fields)
        raise ValueError(f"{self.name!r} has no field {name!r}; it has {known}")

    def has(self, name: str) -> bool:
        return any(f.name == name for f in self.fields)


@dataclass(frozen=True, kw_only=True)
class View:
    """How the scene falls on the picture, so that entities can be painted where they are seen.

    ``plane``: positions lie in the picture; ``low`` and ``high`` are its left-top and right-bottom corners
    in the positions' units. ``orbit``: a pinhole camera ``distance`` from ``target``, ``elevation`` radians
    above the horizontal, ``fovy`` radians high, at the azimuth told by the dynamic field ``azimuth_of``
    ("entity.field"); bodies stand on z = 0 and their middles are ``size`` above it.

    Of a plane, the flags of the field ``tiles_of`` may be tiles that stand or are gone: ``tiles`` (rows, columns), row
    by row, over the rectangle from ``tiles_low`` to ``tiles_high`` in the positions' units.
    """

    kind: Literal["plane", "orbit"]
    low: tuple[float, float] = (0.0, 0.0)
    high: tuple[float, float] = (1.0, 1.0)
    distance: float = 1.0
    elevation: float = pi / 4
    fovy: float = pi / 4
    target: tuple[float, float, float] = (0.0, 0.0, 0.0)
    azimuth_of: str = "camera.azimuth"
    tiles_of: str = ""
    tiles: tuple[int, int] = (0, 0)
    tiles_low: tuple[float, float] = (0.0, 0.0)
    tiles_high: tuple[float, float] = (1.0, 1.0)


def pack_bits(flags: Tensor) -> Tensor:
    """Up to eight flags, bool (..., n), as the bits of one number, int64 (...)."""
    return (flags * 2 ** torch.arange(flags.shape[-1], device=flags.device)).sum(-1)


def unpack_bits(numbers: Tensor, count: int) -> Tensor:
    """The lowest bits of numbers (...), bool (..., count)."""
    return ((numbers[..., None] >> torch.arange(count, device=numbers.device)) & 1).bool()


@dataclass(frozen=True)
class Slot:
    """One id of a state: which entity, field, component."""

    entity: int
    field: Field
    component: int
    columns: slice  # of the state vector: one value, or the eight of a bits id
    offset: int  # where the field's ids begin in the local state range


class _Actions:
    """A schema's action space, which may be given as one, as a Gymnasium space, or as a tuple of names."""

    def __get__(self, schema: StateSchema | None, owner: type | None = None) -> ActionSpace:
        return ActionSpace() if schema is None else schema.__dict__["actions"]

    def __set__(self, schema: StateSchema, given: ActionSpace | Sequence[str] | gymnasium.Space[Any] | None) -> None:
        schema.__dict__["actions"] = ActionSpace.of(given)


@dataclass(frozen=True, kw_only=True)
class StateSchema:
    """Everything a state is made of, and the actions that change it.

    An empty schema (no entities) is a world without state; one without actions is a world that nobody steers.
    """

    name: str
    entities: tuple[Entity, ...] = ()
    view: View | None = None
    fps: int = 60
    frames_per_step: int = 4
    actions: _Actions = _Actions()

    # -- where things are ---------------------------------------------------------------------------

    @cached_property
    def _layout(self) -> tuple[dict[tuple[str, str], slice], dict[Field, int], int, int]:
        columns: dict[tuple[str, str], slice] = {}
        offsets: dict[Field, int] = {}
        at = ids = 0
        for entity in self.entities:
            for f in entity.fields:
                columns[entity.name, f.name] = slice(at, at + f.size)
                at += f.size
                if f not in offsets:
                    offsets[f] = ids
                    ids += f.num_absolute + f.num_change
        return columns, offsets, at, ids

    @property
    def num_values(self) -> int:
        """Length of the state vector."""
        return self._layout[2]

    @property
    def num_local_ids(self) -> int:
        """Size of the local state range: all fields' absolute and change ids."""
        return self._layout[3]

    def entity(self, name: str) -> Entity:
        for candidate in self.entities:
            if candidate.name == name:
                return candidate
        raise ValueError(f"no entity {name!r} in {self.name!r}; it has {', '.join(e.name for e in self.entities)}")

    def columns(self, entity: str, field_name: str) -> slice:
        """Where a field lies in the state vector."""
        self.entity(entity).field(field_name)
        return self._layout[0][entity, field_name]

    def role_columns(self, role: str) -> dict[str, slice]:
        """Columns of the first field with this role, for each entity that has one."""
        found: dict[str, slice] = {}
        for entity in self.entities:
            for f in entity.fields:
                if f.role == role and entity.name not in found:
                    found[entity.name] = self.columns(entity.name, f.name)
        return found

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Dynamic ids of one step, in stream order."""
        return self._slots(static=False)

    @cached_property
    def static_slots(self) -> tuple[Slot, ...]:
        """Ids of the header, in stream order."""
        return self._slots(static=True)

    def _slots(self, *, static: bool) -> tuple[Slot, ...]:
        columns, offsets, _, _ = self._layout
        slots = []
        for index, entity in enumerate(self.entities):
            for f in entity.fields:
                if f.static != static:
                    continue
                start = columns[entity.name, f.name].start
                width = 8 if f.kind == "bits" else 1
                for component in range(f.num_ids):
                    low = start + component * width
                    span = slice(low, min(low + width, start + f.size))
                    slots.append(Slot(index, f, component, span, offsets[f]))
        return tuple(slots)

    # -- values <-> ids -----------------------------------------------------------------------------

    def encode(self, values: Tensor, coding: Coding, previous: Tensor | None = None) -> Tensor:
        """State vectors ``(..., num_values)`` to local ids.

        ``static`` gives the header's ids, ``absolute`` a first state's, ``change`` a later state's relative
        to ``previous`` (fields without a change coding are absolute there too).
        """
        slots = self.static_slots if coding == "static" else self.slots
        out = values.new_zeros((*values.shape[:-1], len(slots)), dtype=torch.long)
        for i, slot in enumerate(slots):
            here, first = values[..., slot.columns], slot.offset
            if coding == "change" and slot.field.change is not None:
                assert previous is not None
                first += slot.field.num_absolute
                if slot.field.kind == "bits":
                    out[..., i] = pack_bits((here > 0.5) != (previous[..., slot.columns] > 0.5)) + first
                    continue
                change = slot.field.difference(here, previous[..., slot.columns])
                out[..., i] = slot.field.encode_change(change)[..., 0] + first
            elif slot.field.kind == "bits":
                out[..., i] = pack_bits(here > 0.5) + first
            else:
                out[..., i] = slot.field.encode_absolute(here)[..., 0] + first
        return out

    def decode(self, ids: Tensor, coding: Coding, onto: Tensor) -> Tensor:
        """Local ids back to a state vector.

        ``onto`` is the state ``(..., num_values)`` that the ids speak about: the previous state for
        ``change``, any vector to be filled for ``static`` and ``absolute``. Returns a new tensor in which
        the coded columns are replaced. Changes are added to ``onto`` and kept within the field's range.
        """
        slots = self.static_slots if coding == "static" else self.slots
        out = onto.clone()
        for i, slot in enumerate(slots):
            local, changes = ids[..., i] - slot.offset, coding == "change" and slot.field.change is not None
            if changes:
                local = local - slot.field.num_absolute
            if slot.field.kind == "bits":
                flags = unpack_bits(local, slot.columns.stop - slot.columns.start)
                out[..., slot.columns] = (flags != (onto[..., slot.columns] > 0.5) if changes else flags).float()
            elif changes:
                change = slot.field.decode_change(local[..., None])
                out[..., slot.columns] = slot.field.legal(onto[..., slot.columns] + change)
            else:
                out[..., slot.columns] = slot.field.decode_absolute(local[..., None])
        return out

    def legal_ranges(self, coding: Coding) -> Tensor:
        """Half-open range of local ids each slot may take, int64 ``(num_slots, 2)``."""
        slots = self.static_slots if coding == "static" else self.slots
        ranges = []
        for slot in slots:
            low, high = slot.offset, slot.offset + slot.field.num_absolute
            if coding == "change" and slot.field.change is not None:
                low, high = high, high + slot.field.num_change
            ranges.append((low, high))
        return torch.tensor(ranges, dtype=torch.long).reshape(-1, 2)

    # -- people's view ------------------------------------------------------------------------------

    def to_dict(self, values: Tensor) -> dict[str, dict[str, Any]]:
        """One state vector ``(num_values,)`` as ``{entity: {field: value}}``; categories by name."""
        if values.shape != (self.num_values,):
            raise ValueError(f"a state of {self.name!r} has {self.num_values} values, got shape {tuple(values.shape)}")
        out: dict[str, dict[str, Any]] = {}
        for entity in self.entities:
            out[entity.name] = {}
            for f in entity.fields:
                here = values[self.columns(entity.name, f.name)].tolist()
                if f.kind == "categorical":
                    here = [f.names[int(min(max(round(v), 0), len(f.names) - 1))] for v in here]
                elif f.kind in ("flag", "bits"):
                    here = [v > 0.5 for v in here]
                out[entity.name][f.name] = here[0] if f.size == 1 else tuple(here)
        return out

    def write(self, values: Tensor, edit: Mapping[str, Mapping[str, Any]]) -> Tensor:
        """A copy of ``values`` ``(..., num_values)`` with the named fields replaced.

        Raises ValueError for an unknown entity, field or category, a wrong number of components, or a
        value outside the field's range, naming what would be right.
        """
        out = values.clone()
        for entity_name, fields in edit.items():
            entity = self.entity(entity_name)
            if not isinstance(fields, Mapping):
                raise ValueError(
                    f"an edit of {entity_name!r} names its fields, as in {{{entity_name!r}: {{field: value}}}}"
                )
            for field_name, value in fields.items():
                f, name = entity.field(field_name), f"{entity_name}.{field_name}"
                if isinstance(value, Tensor | np.ndarray):
                    value = value.flatten().tolist()
                parts = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
                if len(parts) != f.size:
                    raise ValueError(f"{name} has {f.size} component(s), got {len(parts)}")
                new = torch.tensor([f.number(part, name) for part in parts], dtype=out.dtype, device=out.device)
                out[..., self.columns(entity_name, field_name)] = f.legal(new)
        return out

    # -- on disk ------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        about = json.loads(json.dumps({**asdict(self), "actions": self.actions.to_json()}))
        if self.view is not None and not self.view.tiles_of:  # said only where there are some
            about["view"] = {name: value for name, value in about["view"].items() if not name.startswith("tiles")}
        return about

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StateSchema:
        entities = tuple(
            Entity(
                name=e["name"],
                fields=tuple(Field(**{**f, "names": tuple(f["names"])}) for f in e["fields"]),
            )
            for e in data["entities"]
        )
        view = data.get("view")
        if view is not None:
            parts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in view.items()}
            view = View(**parts)
        rest = {k: data[k] for k in ("name", "fps", "frames_per_step")}
        return cls(entities=entities, view=view, actions=ActionSpace.from_json(data.get("actions", ())), **rest)
