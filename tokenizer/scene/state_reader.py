"""What a flat state vector says of bodies and scene, by the schema's roles alone, as tensors for networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tokenizer.scene.camera import project
from tokenizer.state_embedding import StateInputs
from tokenizer.state_schema import Entity, Field, StateSchema
from tokenizer.view import Orbit, Plane


@dataclass(frozen=True)
class SceneReading:
    """What states (N, num_values) say of their B bodies and of the rest, zero where a role is missing.

    position, velocity: (N, B, 2 or 3). centre: (N, B, 3), the position, standing on the floor if it has no height.
    size, present, yaw: (N, B). orientation: (N, B, 2), cosine and sine, turned once per period of its field.
    kind: (N, B, num_kind). scene: (N, num_scene). inputs: (N, size + 1), every value as ``StateInputs`` gives it.
    """

    position: Float[Tensor, "N B d"]
    velocity: Float[Tensor, "N B d"]
    centre: Float[Tensor, "N B 3"]
    size: Float[Tensor, "N B"]
    present: Float[Tensor, "N B"]
    yaw: Float[Tensor, "N B"]
    orientation: Float[Tensor, "N B 2"]
    kind: Float[Tensor, "N B kind"]
    scene: Float[Tensor, "N scene"]
    inputs: Float[Tensor, "N inputs"]

    @property
    def overlapping(self) -> Bool[Tensor, " N"]:
        """In which states bodies stand in one another, bool (N,)."""
        solid = (self.present > 0.5) & (self.size > 0)
        near = torch.cdist(self.position, self.position) < 0.9 * (self.size[:, None] + self.size[:, :, None])
        return (near & solid[:, None] & solid[:, :, None]).sum((1, 2)) > solid.sum(1)  # each is near itself


class StateReader(nn.Module):
    """Pulls what painters need out of flat state vectors, by role. Holds no weights.

    Bodies are the entities with a ``position``; their ``kind`` vector says shape, colour, material, size and
    which entity they are when they are one of a kind. ``scene`` is every other dynamic value plus static
    scene-wide ones that can be seen, normalised, angles as sine and cosine.

    Everything is looked up in tables made once, for a state is read several times a step.
    """

    position: Tensor  # columns of the state, to which a zero and a one are appended, (B, width)
    velocity: Tensor
    size: Tensor
    present: Tensor
    orientation: Tensor
    turned: Tensor  # which network inputs
    kinds: Tensor
    rest: Tensor
    marks: Tensor

    def __init__(self, schema: StateSchema) -> None:
        super().__init__()
        self.schema = schema
        self.bodies = [i for i, e in enumerate(schema.entities) if any(f.role == "position" for f in e.fields)]
        self.inputs = StateInputs(schema)
        entities = [schema.entities[i] for i in self.bodies]
        zero, one = schema.num_values, schema.num_values + 1

        def raw(role: str, width: int, missing: int) -> list[list[int]]:
            found = [[c for f in e.fields if f.role == role for c in self._columns(e, f)] for e in entities]
            return [columns[:width] or [missing] * width for columns in found]

        width = max([len(columns) for columns in raw("position", 3, zero)], default=2)
        self._keep("position", raw("position", width, zero), torch.long, (len(entities), width))
        # Networks are told lengths in spans of a position's range, and velocities in halves of theirs.
        self.unit = self._span(entities, "position", 1.0)
        self.pace = self._span(entities, "velocity", 4.0) / 4
        self._keep("velocity", raw("velocity", width, zero), torch.long, (len(entities), width))
        for role, missing in (("size", zero), ("present", one), ("orientation", zero)):
            self._keep(role, raw(role, 1, missing), torch.long)

        def inputs(entity: Entity, role: str, width: int, periodic: bool = False) -> list[int]:
            fields = [f for f in entity.fields if f.role == role and f.periodic >= periodic]
            found = self.inputs.entries(entity, fields[0])[:width] if fields else []
            return found + [self.inputs.size] * (width - len(found))

        names = {role: self._names(role) for role in ("shape", "colour", "material")}
        self._keep(
            "turned", [inputs(e, "orientation", 2, periodic=True) for e in entities], torch.long, (len(entities), 2)
        )
        kinds = [[i for role in names for i in inputs(e, role, len(names[role]))] for e in entities]
        self._keep("kinds", kinds, torch.long, (len(entities), sum(map(len, names.values()))))
        groups = list(dict.fromkeys(e.fields for e in entities))
        marks = torch.zeros(len(entities), len(groups) + 1)
        for row, entity in enumerate(entities):
            marks[row, groups.index(entity.fields)] = 1
            # The first of its group is set apart: in a world with a player, that is the player.
            marks[row, -1] = float([e.fields for e in entities].index(entity.fields) == row)
        self.register_buffer("marks", marks, persistent=False)
        self.num_kind = sum(map(len, names.values())) + 1 + marks.shape[1]

        scene = [
            (e, f)
            for e in schema.entities
            for f in e.fields
            if e not in entities and f.role not in ("reward", "terminated", "motion", "tiles")
        ]
        self._keep("rest", [i for e, f in scene for i in self.inputs.entries(e, f)], torch.long)
        self.num_scene = len(self.rest)
        # The column of the light's angle about the vertical, if there is one.
        lights = [self._columns(e, f)[0] for e, f in scene if f.role == "light" and f.periodic]
        self.light = lights[0] if lights else None
        # Where the tiles of a plane stand in the state, if there are any.
        tiles = schema.view.tiles if isinstance(schema.view, Plane) else None
        self.tiles = None if tiles is None else schema.columns(*tiles.of.split("."))
        # The column of the camera's azimuth, if the view turns.
        orbit = schema.view if isinstance(schema.view, Orbit) else None
        self.turning = None if orbit is None else schema.columns(*orbit.azimuth_of.split(".")).start

    def _keep(self, name: str, values: Sequence[Any], dtype: torch.dtype, shape: tuple[int, ...] = (-1,)) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=dtype).reshape(shape), persistent=False)

    @staticmethod
    def _span(entities: Sequence[Entity], role: str, missing: float) -> float:
        return next((f.high - f.low for e in entities for f in e.fields if f.role == role), missing)

    def _columns(self, entity: Entity, f: Field) -> range:
        span = self.schema.columns(entity.name, f.name)
        return range(span.start, span.stop)

    def _names(self, role: str) -> tuple[str, ...]:
        names: dict[str, None] = {}
        for entity in self.schema.entities:
            for f in entity.fields:
                if f.role == role:
                    names.update(dict.fromkeys(f.names))
        return tuple(names)

    def scene(self, state: Float[Tensor, "N F"]) -> Float[Tensor, "N scene"]:
        """(N, num_values) to (N, num_scene)."""
        return self.inputs(state)[:, self.rest]

    def forward(self, state: Float[Tensor, "N F"]) -> SceneReading:
        inputs = self.inputs(state)
        padded = F.pad(F.pad(state, (0, 1)), (0, 1), value=1.0)
        position, size = padded[:, self.position], padded[:, self.size]
        marks = self.marks.to(state).expand(len(state), -1, -1)
        return SceneReading(
            position=position,
            velocity=padded[:, self.velocity],
            centre=self._standing(position, size),
            size=size,
            present=padded[:, self.present],
            yaw=padded[:, self.orientation],
            orientation=inputs[:, self.turned],
            kind=torch.cat([inputs[:, self.kinds], size[..., None] * (10 / self.unit), marks], -1),
            scene=inputs[:, self.rest],
            inputs=inputs,
        )

    @staticmethod
    def _standing(position: Tensor, size: Tensor) -> Tensor:
        return position if position.shape[-1] == 3 else torch.cat([position, size[..., None]], -1)

    def relative(self, seen: SceneReading) -> tuple[Tensor, Tensor, Tensor]:
        """Positions and velocities in the plane, (N, B, 2), and sizes, (N, B), in units of their own ranges."""
        return seen.position[..., :2] / self.unit, seen.velocity[..., :2] / self.pace, seen.size / self.unit

    def azimuth(self, state: Float[Tensor, "N F"]) -> Float[Tensor, " N"] | None:
        """(N,) or None when the view does not turn."""
        return None if self.turning is None else state[:, self.turning]

    def motion(self, state: Float[Tensor, "N F"]) -> Float[Tensor, " N"]:
        """Mean speed of the bodies that are there and have a velocity but the first (the player): (N,), in its unit."""
        seen, moves = self.forward(state), (self.velocity != self.schema.num_values).any(-1)
        there = (seen.present * moves)[:, 1:]
        return (seen.velocity.norm(dim=-1)[:, 1:] * there).sum(-1) / there.sum(-1).clamp_min(1)

    def begun(self, states: Float[Tensor, "T F"]) -> Float[Tensor, "T F"]:
        """A stream of states (T, num_values) that begins with the first: a copy, with that one's motion intensity."""
        states = states.clone()
        for entity in self.schema.entities:
            for f in (f for f in entity.fields if f.role == "motion"):
                states[:, self.schema.columns(entity.name, f.name)] = f.legal(self.motion(states[:1]))
        return states

    def picture(self, state: Tensor, aspect: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """Where bodies are seen in a picture ``aspect`` times as wide as high, (N, B, 2), their apparent radius and how
        many picture heights a unit is, (N, B)."""
        assert self.schema.view is not None
        padded, azimuth = F.pad(state, (0, 1)), self.azimuth(state)
        size = padded[:, self.size]
        centre = self._standing(padded[:, self.position], size)
        at, scale = project(self.schema.view, centre, None if azimuth is None else azimuth[:, None], aspect)
        return at, scale * size, scale


class StateMotion(nn.Module):
    """Scene states at every pixel frame of a step, from the states at its ends.

    Continuous dynamic values move evenly (the short way round where they are periodic); all others are the
    step's own, and so are those of the roles that are ``held`` and what a cut has moved by more than ``CUT`` of its
    range.
    """

    CUT = 0.25

    moves: Tensor
    wraps: Tensor
    low: Tensor
    period: Tensor
    cut: Tensor  # the changes from which on a value was moved by a cut

    def __init__(self, schema: StateSchema, held: tuple[str, ...] = ()) -> None:
        super().__init__()
        moves = torch.zeros(schema.num_values, dtype=torch.bool)
        wraps, low, period = moves.clone(), torch.zeros(schema.num_values), torch.ones(schema.num_values)
        cut = torch.full_like(low, torch.inf)
        for entity in schema.entities:
            for f in entity.fields:
                columns = schema.columns(entity.name, f.name)
                moves[columns] = f.kind == "continuous" and not f.static and f.role not in held
                if f.periodic:
                    wraps[columns], low[columns], period[columns] = True, f.low, f.high - f.low
                elif f.kind == "continuous":
                    cut[columns] = self.CUT * (f.high - f.low)
        for name, values in (("moves", moves), ("wraps", wraps), ("low", low), ("period", period), ("cut", cut)):
            self.register_buffer(name, values, persistent=False)

    def forward(
        self, previous: Float[Tensor, "*batch F"], state: Float[Tensor, "*batch F"], frames: int
    ) -> Float[Tensor, "*batch {frames} F"]:
        """``(..., num_values)`` twice to ``(..., frames, num_values)``; the last of them is ``state``."""
        fraction = torch.arange(1, frames + 1, device=state.device, dtype=state.dtype)[:, None] / frames
        change, span = state - previous, self.period
        change = torch.where(self.wraps, (change + span / 2) % span - span / 2, change)[..., None, :]
        moved = torch.addcmul(previous[..., None, :], change, fraction)
        moved = torch.where(self.wraps, self.low + (moved - self.low) % span, moved)
        moves = self.moves & (change.abs() < self.cut) & (fraction < 1)
        return torch.where(moves, moved, state[..., None, :])
