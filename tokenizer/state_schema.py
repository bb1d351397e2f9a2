"""What the state of a world consists of. How its numbers become ids and come back is `state_codec.py`'s.

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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import ceil, inf, isfinite
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, get_args

import gymnasium
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tokenizer.action_space import ActionSpace
from tokenizer.frames import FRAMES_PER_STEP
from tokenizer.roles import check_role, nearest
from tokenizer.view import Orbit, Plane, View, view_from_json, view_to_json

Kind = Literal["continuous", "categorical", "flag", "bits"]

MOST = 2**16  # components of a field, and bins of one: beyond, memory is asked for that nobody has


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
        if self.kind not in get_args(Kind):
            raise ValueError(
                f"field {self.name!r} has the unknown kind {self.kind!r}: {nearest(self.kind, get_args(Kind))}"
            )
        for what, count in (("size", self.size), ("bins", self.bins), ("change_bins", self.change_bins)):
            if not 1 <= count <= MOST:
                raise ValueError(f"field {self.name!r} has {what} {count}: give 1 to {MOST}")
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

    def difference(self, values: Float[Tensor, "*batch"], previous: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
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
        try:
            number = float(value)
        except OverflowError:
            number = inf
        if self.kind == "categorical" and not (number.is_integer() and 0 <= number < len(self.names)):
            raise ValueError(choice)
        if self.kind == "continuous" and not self.periodic and not self.low <= number <= self.high:
            raise ValueError(f"{name} = {number:g} is outside [{self.low:g}, {self.high:g}] {self.unit}".rstrip())
        if not isfinite(number):
            raise ValueError(f"{name} = {number:g} is no number: give a finite one")
        return number

    def legal(self, values: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
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


if TYPE_CHECKING:
    Actions = _Actions
else:  # checked at run time is what is given, not the descriptor
    Actions = ActionSpace | Sequence | gymnasium.Space | None


@dataclass(frozen=True, kw_only=True)
class StateSchema:
    """Everything a state is made of, and the actions that change it.

    An empty schema (no entities) is a world without state; one without actions is a world that nobody steers.

    Raises ValueError for an unknown role, for a name that is taken or that nobody bears, and for a view that would
    show nothing.
    """

    name: str
    entities: tuple[Entity, ...] = ()
    view: View | None = None
    fps: int = 60
    frames_per_step: int = FRAMES_PER_STEP
    actions: Actions = _Actions()

    def __post_init__(self) -> None:
        for what, count in (("fps", self.fps), ("frames_per_step", self.frames_per_step)):
            if count < 1:
                raise ValueError(f"the schema {self.name!r} has {what} = {count}: it must be at least 1")
        self._refuse_twice("entity", [entity.name for entity in self.entities])
        for entity in self.entities:
            self._refuse_twice("field", [f"{entity.name}.{f.name}" for f in entity.fields])
            for f in entity.fields:
                check_role(f"field '{entity.name}.{f.name}'", f.role, kind=f.kind, size=f.size, static=f.static)
        if self.view is not None:
            self._check_view(self.view)

    def _refuse_twice(self, what: str, names: Sequence[str]) -> None:
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the schema {self.name!r} has the {what} {name!r} twice: give each its own name")

    def _check_view(self, view: View) -> None:
        bodies = [[f.size for f in e.fields if f.role == "position"] for e in self.entities]
        if not any(bodies):
            raise ValueError(
                f"the view of the schema {self.name!r} shows nothing, for no entity has a field of role 'position': "
                "give one, or leave the view out"
            )
        for entity, sizes in zip(self.entities, bodies, strict=True):
            if sizes and sum(sizes) not in (2, 3):
                raise ValueError(
                    f"{entity.name!r} has {sum(sizes)} position component(s), and a view shows 2 or 3: "
                    "give it a field of size 2 or 3, or leave the view out"
                )
        match view:
            case Orbit():
                azimuth = self._named(view.azimuth_of, "azimuth_of")
                if azimuth.kind != "continuous":
                    raise ValueError(f"azimuth_of = {view.azimuth_of!r} is {azimuth.kind}: name a continuous field")
            case Plane(tiles=tiles) if tiles is not None:
                flags = self._named(tiles.of, "tiles_of")
                if flags.role != "tiles" or flags.size != tiles.count:
                    raise ValueError(
                        f"tiles_of = {tiles.of!r} has role {flags.role!r} and size {flags.size}: a grid of "
                        f"{tiles.grid[0]} x {tiles.grid[1]} needs role 'tiles' and size {tiles.count}"
                    )

    def _named(self, name: str, what: str) -> Field:
        """The field that ``what`` of the view means by "entity.field"."""
        known = {f"{e.name}.{f.name}": f for e in self.entities for f in e.fields}
        if name not in known:
            raise ValueError(f"the view's {what} names no field {name!r} of {self.name!r}: {nearest(name, known)}")
        return known[name]

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

    @cached_property
    def value_names(self) -> tuple[str, ...]:
        """What each value of a state is: ``player.position[0]``, or ``light.angle`` where a field has only one."""
        return tuple(
            f"{entity.name}.{f.name}" + (f"[{i}]" if f.size > 1 else "")
            for entity in self.entities
            for f in entity.fields
            for i in range(f.size)
        )

    @cached_property
    def value_units(self) -> tuple[str, ...]:
        """The unit of each value of a state; empty where it has none."""
        return tuple(f.unit for entity in self.entities for f in entity.fields for _ in range(f.size))

    @property
    def value_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest that each value of a state may be, float32 (num_values,) each."""
        ends = {"flag": (0.0, 1.0), "bits": (0.0, 1.0)}
        pairs = [
            ends.get(f.kind, (0.0, len(f.names) - 1.0) if f.kind == "categorical" else (f.low, f.high))
            for entity in self.entities
            for f in entity.fields
            for _ in range(f.size)
        ]
        low, high = np.array(pairs, dtype=np.float32).reshape(-1, 2).T
        return low, high

    @property
    def _wraps(self) -> np.ndarray:
        """bool (num_values,): values that any number may be, as angles."""
        each = [f.kind == "continuous" and f.periodic for e in self.entities for f in e.fields for _ in range(f.size)]
        return np.array(each, dtype=bool)

    @property
    def num_local_ids(self) -> int:
        """Size of the local state range: all fields' absolute and change ids."""
        return self._layout[3]

    def step_time(self, unit: str) -> float:
        """How long a step is in the time that a velocity's ``unit`` ends with, as in m/s, px/frame or cell/step.

        Without a unit it is seconds. Raises ValueError for a time that is not known.
        """
        seconds, frames = {"s": 1.0, "ms": 1e-3, "min": 60.0}, {"frame": 1, "step": self.frames_per_step}
        time = unit.rpartition("/")[2].strip() if unit else "s"
        if (unit and "/" not in unit) or time not in {**seconds, **frames}:
            raise ValueError(
                f"the unit {unit!r} names no time: write velocities per {', '.join([*seconds, *frames])}, as in m/s"
            )
        if time in frames:
            return self.frames_per_step / frames[time]
        return self.frames_per_step / self.fps / seconds[time]

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
        return {name: self.columns(name, f.name) for name, f in self.fields_of(role).items()}

    def fields_of(self, role: str) -> dict[str, Field]:
        """The first field with this role, for each entity that has one."""
        found: dict[str, Field] = {}
        for entity in self.entities:
            for f in entity.fields:
                if f.role == role:
                    found.setdefault(entity.name, f)
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

    def refuse_absurd(self, values: Float[Tensor, "*batch F"]) -> None:
        """Raises ValueError for values that are not finite or lie further outside their range than it is wide.

        A little outside may be: simulators press bodies into walls.
        """
        rows = values.detach().float().cpu().reshape(-1, self.num_values)
        low, high = (torch.from_numpy(ends) for ends in self.value_bounds)
        width = (high - low).clamp_min(1)
        far = (rows < low - width) | (rows > high + width)
        wrong = ~rows.isfinite() | far & ~torch.from_numpy(self._wraps)
        if wrong.any():
            row, column = wrong.nonzero()[0].tolist()
            ends = f"{low[column]:g} to {high[column]:g}"
            raise ValueError(f"{self.value_names[column]} = {rows[row, column]:g} cannot be: give a value from {ends}")

    def write(
        self, values: Float[Tensor, "*batch F"], edit: Mapping[str, Mapping[str, Any]]
    ) -> Float[Tensor, "*batch F"]:
        """A copy of ``values`` ``(..., num_values)`` with the named fields replaced.

        Raises ValueError for an unknown entity, field or category, a wrong number of components, or a
        value outside the field's range, naming what would be right.
        """
        out = values.clone()
        for entity_name, f, value in self.said_of(edit):
            name = f"{entity_name}.{f.name}"
            if isinstance(value, Tensor | np.ndarray):
                value = value.flatten().tolist()
            parts = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            if len(parts) != f.size:
                raise ValueError(f"{name} has {f.size} component(s), got {len(parts)}")
            new = torch.tensor([f.number(part, name) for part in parts], dtype=out.dtype, device=out.device)
            out[..., self.columns(entity_name, f.name)] = f.legal(new)
        return out

    def said_of(self, fields: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Field, Any]]:
        """Entity, field and what is said of it, of ``{entity: {field: …}}``. Raises ValueError for anything else, and
        for unknown names."""
        for name, given in _mapping(fields, "entities").items():
            entity = self.entity(name)
            for field_name, value in _mapping(given, f"fields of {name!r}").items():
                yield name, entity.field(field_name), value

    # -- on disk ------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """What ``from_json`` reads, in lists, numbers and strings. Its hash is the schema's fingerprint."""
        view = None if self.view is None else view_to_json(self.view)
        return json.loads(json.dumps({**asdict(self), "view": view, "actions": self.actions.to_json()}))

    def brief_json(self) -> dict[str, Any]:
        """``to_json`` without fields' settings that say nothing of their kind, or are as usual: for people to edit."""
        about, settings = self.to_json(), Field.__dataclass_fields__
        for entity in about["entities"]:
            for f in entity["fields"]:
                always = ("low", "high", "bins") if f["kind"] == "continuous" else ()
                for key in [k for k, v in f.items() if k not in always and v in (settings[k].default, [])]:
                    del f[key]
        return about

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StateSchema:
        """Raises ValueError for what no schema says, naming the field and setting; KeyError for what is not there."""
        entities = tuple(
            Entity(name=e["name"], fields=tuple(_field_from_json(e["name"], f) for f in e["fields"]))
            for e in data["entities"]
        )
        view = None if data.get("view") is None else view_from_json(data["view"])
        rest = {k: data[k] for k in ("name", "fps", "frames_per_step")}
        return cls(entities=entities, view=view, actions=ActionSpace.from_json(data.get("actions", ())), **rest)


_SETTINGS: dict[str, tuple[str, tuple[type, ...]]] = {
    **dict.fromkeys(("name", "kind", "role", "unit"), ("a text", (str,))),
    **dict.fromkeys(("size", "bins", "change_bins"), ("a whole number", (int,))),
    **dict.fromkeys(("low", "high"), ("a number", (int, float))),
    **dict.fromkeys(("static", "periodic"), ("true or false", (bool,))),
    "change": ("a number or null", (int, float, type(None))),
    "names": ("a list of texts", (list, tuple)),
}


def _field_from_json(entity: str, data: Any) -> Field:
    """Raises ValueError for a setting that is unknown, missing or of another type."""
    if not isinstance(data, Mapping) or "name" not in data or "kind" not in data:
        raise ValueError(f"a field of the entity {entity!r} is {data!r}: it needs a name and a kind")
    name = f"{entity}.{data['name']}"
    for key, value in data.items():
        if key not in _SETTINGS:
            raise ValueError(f"field {name!r} has no setting {key!r}: {nearest(str(key), _SETTINGS)}")
        what, types = _SETTINGS[key]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise ValueError(f"field {name!r} has {key} = {value!r}: write {what}")
    names = data.get("names", ())
    if not all(isinstance(word, str) for word in names):
        raise ValueError(f"field {name!r} has names {list(names)!r}: put each in quotes")
    return Field(**{"role": "value", **data, "names": tuple(names)})


def _mapping(given: Any, of: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ValueError(f"name the {of}, as in {{entity: {{field: value}}}}, not {given!r}")
    return given
