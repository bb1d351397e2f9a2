"""The scene state painted where it is needed: onto the frame's grid, and onto the state's own slots.

A small transformer gets little from a state that it can only attend to. Told at each cell *where each body
is relative to this cell*, it renders; told at each body where the others are relative to it, it simulates.
Both use the schema's roles alone: what has a position is a body, everything else that varies is global.
"""

from __future__ import annotations

from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.scene_schema import Field, SceneSchema, View


def project(view: View, points: Tensor, azimuth: Tensor | None) -> tuple[Tensor, Tensor]:
    """Points (..., 3) to picture coordinates in [0, 1] (x right, y down) and how large a unit length looks there.

    ``azimuth`` (broadcastable to ``points[..., 0]``) turns an orbiting camera; the second value is in picture
    heights per unit, (...,).
    """
    if view.kind == "plane":
        low, high = points.new_tensor(view.low), points.new_tensor(view.high)
        scale = 1 / (high - low).abs()[1]
        return (points[..., :2] - low) / (high - low), scale.expand(points.shape[:-1])
    assert azimuth is not None
    forward, right, up, eye = _camera(view, azimuth)
    ray = points - eye
    depth = (ray * forward).sum(-1).clamp_min(1e-3)
    half = torch.tan(points.new_tensor(view.fovy / 2))
    x, y = (ray * right).sum(-1) / (depth * half), (ray * up).sum(-1) / (depth * half)
    return torch.stack([0.5 + x / 2, 0.5 - y / 2], -1), 1 / (2 * depth * half)


def unproject_floor(view: View, picture: Tensor, azimuth: Tensor | None) -> Tensor:
    """The floor point (..., 2) seen at picture coordinates (..., 2), on z = 0 for an orbiting camera."""
    if view.kind == "plane":
        low, high = picture.new_tensor(view.low), picture.new_tensor(view.high)
        return low + picture * (high - low)
    assert azimuth is not None
    forward, right, up, eye = _camera(view, azimuth)
    half = torch.tan(picture.new_tensor(view.fovy / 2))
    x, y = (2 * picture[..., :1] - 1) * half, (1 - 2 * picture[..., 1:]) * half
    ray = forward + x * right + y * up
    reach = eye[..., 2:] / (-ray[..., 2:]).clamp_min(0.05)  # rays above the horizon end far out
    return (eye + reach * ray)[..., :2]


def _camera(view: View, azimuth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unit vectors forward, right, up and the eye of an orbiting camera, each (..., 3)."""
    cos_e, sin_e = torch.cos(azimuth.new_tensor(view.elevation)), torch.sin(azimuth.new_tensor(view.elevation))
    cos_a, sin_a, zero = torch.cos(azimuth), torch.sin(azimuth), torch.zeros_like(azimuth)
    back = torch.stack([cos_e * sin_a, -cos_e * cos_a, sin_e + zero], -1)
    right = torch.stack([cos_a, sin_a, zero], -1)
    up = torch.stack([-sin_e * sin_a, sin_e * cos_a, cos_e + zero], -1)
    return -back, right, up, azimuth.new_tensor(view.target) + view.distance * back


class StateReader(nn.Module):
    """Pulls what painters need out of flat state vectors, by role. Holds no weights.

    Bodies are the entities with a ``position``; their ``kind`` vector says shape, colour, material, size and
    which entity they are when they are one of a kind. ``scene`` is every other dynamic value plus static
    scene-wide ones, normalised, angles as sine and cosine.
    """

    marks: Tensor

    def __init__(self, schema: SceneSchema) -> None:
        super().__init__()
        self.schema = schema
        self.bodies = [i for i, e in enumerate(schema.entities) if any(f.role == "position" for f in e.fields)]
        signatures = [schema.entities[i].fields for i in self.bodies]
        self.kind_names = [(role, name) for role in ("shape", "colour", "material") for name in self._names(role)]
        self.groups = list(dict.fromkeys(signatures))
        marks = torch.zeros(len(self.bodies), len(self.groups) + 1)
        for row, signature in enumerate(signatures):
            marks[row, self.groups.index(signature)] = 1
            # The first of its group is set apart: in a world with a player, that is the player.
            marks[row, -1] = float(signatures.index(signature) == row)
        self.register_buffer("marks", marks, persistent=False)
        self.num_kind = len(self.kind_names) + 1 + marks.shape[1]
        body_entities = {schema.entities[i].name for i in self.bodies}
        self.scene_fields: list[tuple[slice, Field]] = [
            (schema.columns(e.name, f.name), f)
            for e in schema.entities
            for f in e.fields
            if e.name not in body_entities and f.role not in ("reward", "terminated")
        ]
        self.num_scene = sum(self._encoded_size(f) for _, f in self.scene_fields)

    def _names(self, role: str) -> tuple[str, ...]:
        names: dict[str, None] = {}
        for entity in self.schema.entities:
            for f in entity.fields:
                if f.role == role:
                    names.update(dict.fromkeys(f.names))
        return tuple(names)

    @staticmethod
    def _encoded_size(f: Field) -> int:
        if f.kind == "categorical":
            return len(f.names) * f.size
        return f.size * (2 if f.periodic else 1)

    @staticmethod
    def normalise(f: Field, values: Tensor) -> Tensor:
        """Field values (..., size) to network inputs of about unit size."""
        if f.kind == "categorical":
            return F.one_hot(values.round().long().clamp(0, len(f.names) - 1), len(f.names)).flatten(-2).to(values)
        if f.kind != "continuous":
            return values
        unit = (values - f.low) / (f.high - f.low)
        if f.periodic:
            return torch.cat([torch.cos(2 * pi * unit), torch.sin(2 * pi * unit)], -1)
        return 2 * unit - 1

    def scene(self, state: Tensor) -> Tensor:
        """(N, num_values) to (N, num_scene)."""
        if not self.scene_fields:
            return state.new_zeros(len(state), 0)
        return torch.cat([self.normalise(f, state[:, columns]) for columns, f in self.scene_fields], -1)

    def _per_body(self, state: Tensor, role: str, width: int, default: float = 0.0) -> Tensor:
        columns = self.schema.role_columns(role)
        missing = state.new_full((len(state), width), default)
        names = [self.schema.entities[i].name for i in self.bodies]
        return self._beside([state[:, columns[n]] if n in columns else missing for n in names], missing)

    @staticmethod
    def _beside(bodies: list[Tensor], nobody: Tensor) -> Tensor:
        """Features of bodies (N, n) each as (N, bodies, n). There may be no body, ``nobody`` tells N and n."""
        return torch.stack(bodies, 1) if bodies else nobody[:, None][:, :0]

    def position(self, state: Tensor) -> Tensor:
        """(N, bodies, 2 or 3)"""
        return self._per_body(state, "position", 2)

    def velocity(self, state: Tensor) -> Tensor:
        return self._per_body(state, "velocity", 2)

    def size(self, state: Tensor) -> Tensor:
        """(N, bodies)"""
        return self._per_body(state, "size", 1)[..., 0]

    def present(self, state: Tensor) -> Tensor:
        """(N, bodies), 1 for bodies that are there."""
        return self._per_body(state, "present", 1, 1.0)[..., 0]

    def orientation(self, state: Tensor) -> Tensor:
        """(N, bodies, 2): cosine and sine of each body's angle, turned once per period of its field."""
        out = []
        for index in self.bodies:
            entity = self.schema.entities[index]
            f = next((f for f in entity.fields if f.role == "orientation" and f.periodic), None)
            if f is None:
                out.append(state.new_zeros(len(state), 2))
            else:
                out.append(self.normalise(f, state[:, self.schema.columns(entity.name, f.name)])[..., :2])
        return self._beside(out, state.new_zeros(len(state), 2))

    def kind(self, state: Tensor) -> Tensor:
        """(N, bodies, num_kind): one-hot shape, colour and material, size, and which group of entities."""
        parts = []
        for role in ("shape", "colour", "material"):
            names = self._names(role)
            columns = self.schema.role_columns(role)
            rows = []
            for entity in (self.schema.entities[i] for i in self.bodies):
                f = next((f for f in entity.fields if f.role == role), None)
                if f is None:
                    rows.append(state.new_zeros(len(state), len(names)))
                else:
                    index = state[:, columns[entity.name].start].long().clamp(0, len(names) - 1)
                    rows.append(F.one_hot(index, len(names)))
            parts.append(self._beside([row.to(state) for row in rows], state.new_zeros(len(state), len(names))))
        size = self.size(state)[..., None] * 10
        return torch.cat([*parts, size, self.marks.to(state).expand(len(state), -1, -1)], -1)

    def azimuth(self, state: Tensor) -> Tensor | None:
        """(N,) or None when the view does not turn."""
        if self.schema.view is None or self.schema.view.kind != "orbit":
            return None
        entity, name = self.schema.view.azimuth_of.split(".")
        return state[:, self.schema.columns(entity, name).start]

    def picture(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Where bodies are seen: picture coordinates (N, bodies, 2) and apparent radius (N, bodies)."""
        view = self.schema.view
        assert view is not None
        position, size, azimuth = self.position(state), self.size(state), self.azimuth(state)
        if position.shape[-1] == 2:
            position = torch.cat([position, size[..., None]], -1)
        at, scale = project(view, position, None if azimuth is None else azimuth[:, None])
        return at, scale * size


class ScenePainter(nn.Module):
    """An embedding for every cell of the picture that says what the state puts there, now and a step ago."""

    cells: Tensor

    def __init__(self, schema: SceneSchema, grid: tuple[int, int], width: int, hidden: int = 96) -> None:
        super().__init__()
        if schema.view is None:
            raise ValueError(
                f"the schema {schema.name!r} has no view: without it, bodies cannot be placed in the picture"
            )
        self.read = StateReader(schema)
        self.grid, self.view = grid, schema.view
        rows, columns = grid
        y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
        self.register_buffer("cells", torch.stack([x, y], -1).flatten(0, 1), persistent=False)  # (h*w, 2)
        self.offsets = nn.Linear(16, hidden, bias=False)
        self.kinds = nn.Linear(self.read.num_kind + 2 + 4 + self.read.num_scene, hidden)
        self.mix = nn.Linear(hidden, hidden)
        self.place = nn.Linear(4, hidden, bias=False)
        self.scene = nn.Linear(2 * self.read.num_scene, hidden)
        self.floor = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, width)

    def _offset_features(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets of cells from bodies, (N, cells, bodies, 8), and how near they are, (N, cells, bodies)."""
        scale = at.new_tensor([self.grid[1], self.grid[0]]) * (8 / self.grid[0])  # in eighths of the picture
        offset = (self.cells[None, :, None].to(at) - at[:, None]) * scale
        square = offset.square().sum(-1, keepdim=True)
        near = torch.exp(-square / 8)
        features = [offset.clamp(-3, 3) / 2, torch.tanh(2 * offset), torch.sin(3 * offset.clamp(-1, 1))]
        return torch.cat([*features, torch.exp(-2 * square), near], -1), near[..., 0]

    def forward(self, state: Tensor, previous: Tensor) -> Tensor:
        """State and the state a step before, (N, num_values) each, to (N, h * w, width)."""
        read, dtype = self.read, self.out.weight.dtype
        at, radius = read.picture(state)
        before, radius_before = read.picture(previous)
        here, near = self._offset_features(at)
        there, near_before = self._offset_features(before)
        seen = torch.cat([here, there], -1).to(dtype)
        kind = torch.cat(
            [
                read.kind(state),
                (8 * radius)[..., None],
                (8 * radius_before)[..., None],
                read.orientation(state),
                read.orientation(previous),
                read.scene(state)[:, None].expand(-1, len(read.bodies), -1),  # where its shadow falls, for one
            ],
            -1,
        ).to(dtype)
        body = F.gelu(self.mix(F.gelu(self.offsets(seen) + self.kinds(kind)[:, None])))
        weight = torch.maximum(near, near_before) * read.present(state)[:, None]
        painted = (body * weight[..., None].to(dtype)).sum(2)
        azimuth, azimuth_before = read.azimuth(state), read.azimuth(previous)
        cells = self.cells.to(state)
        floor = [
            unproject_floor(self.view, cells, None if a is None else a[:, None]).expand(len(state), -1, -1)
            for a in (azimuth, azimuth_before)
        ]
        scene = torch.cat([read.scene(state), read.scene(previous)], -1).to(dtype)
        place = self.place((2 * torch.cat(floor, -1)).clamp(-3, 3).to(dtype)) + self.scene(scene)[:, None]
        return self.out(painted + self.floor(F.gelu(place)))


class StatePainter(nn.Module):
    """An embedding for every state slot: its own entity's values, and the bodies around it."""

    slot_entity: Tensor

    def __init__(self, schema: SceneSchema, width: int, hidden: int = 96) -> None:
        super().__init__()
        self.schema = schema
        self.read = StateReader(schema)
        self.signatures = list(dict.fromkeys(e.fields for e in schema.entities))
        sizes = [sum(StateReader._encoded_size(f) for f in fields) for fields in self.signatures]
        self.own = nn.ModuleList(
            nn.Sequential(nn.Linear(n, hidden), nn.GELU(), nn.Linear(hidden, width)) for n in sizes
        )
        self.pairs = nn.Linear(11, hidden, bias=False)
        self.first = nn.Linear(self.read.num_kind, hidden)
        self.second = nn.Linear(self.read.num_kind, hidden, bias=False)
        self.mix = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, width)
        self.register_buffer("slot_entity", torch.tensor([s.entity for s in schema.slots]), persistent=False)

    def forward(self, state: Tensor) -> Tensor:
        """State vectors (N, num_values) to (N, num_slots, width)."""
        dtype = self.out.weight.dtype
        embedded: list[Tensor | None] = [None] * len(self.schema.entities)
        for fields, net in zip(self.signatures, self.own, strict=True):
            alike = [i for i, e in enumerate(self.schema.entities) if e.fields == fields]
            rows = [
                torch.cat(
                    [
                        StateReader.normalise(f, state[:, self.schema.columns(self.schema.entities[i].name, f.name)])
                        for f in fields
                    ],
                    -1,
                )
                for i in alike
            ]
            for i, row in zip(alike, net(torch.stack(rows, 1).to(dtype)).unbind(1), strict=True):
                embedded[i] = row
        entities = torch.stack([e for e in embedded if e is not None], 1)  # (N, entities, width)
        if self.read.bodies:
            around = torch.zeros_like(entities).index_copy(
                1, torch.tensor(self.read.bodies, device=state.device), self._around(state, dtype).to(entities)
            )
            entities = entities + around
        return entities[:, self.slot_entity]

    def _around(self, state: Tensor, dtype: torch.dtype) -> Tensor:
        """What each body meets, (N, bodies, width): summed over the other bodies that are there."""
        read = self.read
        position, velocity, size = read.position(state)[..., :2], read.velocity(state)[..., :2], read.size(state)
        offset = position[:, None] - position[:, :, None]  # [i, j]: from i to j
        closing = velocity[:, None] - velocity[:, :, None]
        distance = offset.norm(dim=-1, keepdim=True)
        reach = (size[:, None] + size[:, :, None])[..., None]
        gap = (distance - reach) * 10
        direction = offset / distance.clamp_min(1e-4)
        approach = (closing * direction).sum(-1, keepdim=True)
        near, nearer = torch.exp(-gap.clamp_min(0)), torch.exp(-4 * gap.clamp_min(0))
        relation = torch.cat(
            [offset * 2, closing, direction, gap.clamp(-2, 2), approach, near, nearer, near * approach], -1
        ).to(dtype)
        kind = read.kind(state).to(dtype)
        hidden = F.gelu(self.pairs(relation) + self.first(kind)[:, :, None] + self.second(kind)[:, None])
        hidden = F.gelu(self.mix(hidden))
        others = 1 - torch.eye(len(read.bodies), device=state.device)
        weight = (read.present(state)[:, None] * others)[..., None].to(dtype)
        return self.out((hidden * weight).sum(2))
