"""Where the state falls on the picture: projecting and its inverse agree, and cells are told what is near them."""

from __future__ import annotations

from dataclasses import replace
from math import pi, radians, tan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenizer.scene import (
    GridPainter,
    SlotPainter,
    project,
    scene_painter,
    scene_renderer,
    state_painter,
    unproject,
)
from tokenizer.state_embedding import StateEmbedding
from tokenizer.state_schema import Entity, Field, StateSchema
from tokenizer.view import Orbit, Plane, Tiles

from ...worldmodel.tiny_world import PLANE, shaken

ORBIT = Orbit(distance=2.3, elevation=radians(52), fovy=radians(30), target=(0.0, 0.0, 0.02))
FLAT = Plane(low=(-0.5, 0.5), high=(0.5, -0.5))

place = st.floats(-0.5, 0.5)
azimuths = st.floats(-pi, pi)


@settings(deadline=None)
@given(st.lists(st.tuples(place, place), min_size=1, max_size=5), azimuths)
def test_a_floor_point_that_is_projected_comes_back(points: list[tuple[float, float]], azimuth: float):
    floor = torch.tensor(points)
    for view, turned in ((ORBIT, torch.tensor(azimuth)), (FLAT, None)):
        at, scale = project(view, torch.nn.functional.pad(floor, (0, 1)), turned)
        assert (scale > 0).all()
        assert (unproject(view, at, turned) - floor).abs().max() < 1e-4


def test_the_camera_looks_at_its_target_with_north_up_and_east_right():
    azimuth = torch.tensor(0.0)

    def at(x: float, y: float, z: float = 0.02) -> Tensor:
        return project(ORBIT, torch.tensor([x, y, z]), azimuth)[0]

    torch.testing.assert_close(at(0, 0), torch.tensor([0.5, 0.5]))
    assert at(0, 0.3)[1] < 0.5  # row 0 is the top
    assert at(0.3, 0)[0] > 0.5
    assert at(0, 0, 0.3)[1] < 0.5
    side = project(ORBIT, torch.tensor([0.3, 0.0, 0.02]), torch.tensor(pi / 2))[0]  # from the east
    assert side[1] > 0.5
    assert side[0] == pytest.approx(0.5, abs=1e-5)


def test_a_length_looks_as_large_as_it_is_far():
    middle = torch.tensor([0.0, 0.0, 0.02])
    _, scale = project(ORBIT, middle, torch.tensor(0.0))
    assert scale.item() == pytest.approx(1 / (2 * 2.3 * tan(radians(15))), rel=1e-4)
    aside = project(ORBIT, middle + torch.tensor([1e-3, 0, 0]), torch.tensor(0.0))[0]
    assert (aside[0] - 0.5).item() / 1e-3 == pytest.approx(scale.item(), rel=1e-2)
    _, nearer = project(ORBIT, torch.tensor([0.0, -0.4, 0.02]), torch.tensor(0.0))
    assert nearer > scale
    assert project(FLAT, middle, None)[1].item() == pytest.approx(1.0)


def state_with(schema: StateSchema, **positions: tuple[float, float]) -> Tensor:
    state = torch.zeros(1, schema.num_values)
    return schema.write(state, {name: {"position": at, "size": 0.08} for name, at in positions.items()})


def test_only_cells_near_a_body_are_told_of_its_moving():
    painter: GridPainter = shaken(GridPainter(PLANE, (8, 8), 24), 0.1)
    before = state_with(PLANE, player=(-0.4, 0.4), ball=(0.4, -0.4))
    after = state_with(PLANE, player=(-0.35, 0.4), ball=(0.4, -0.4))
    with torch.no_grad():
        change = (painter(after, after) - painter(before, before))[0].norm(dim=-1).unflatten(0, (8, 8))
    assert change[:2, :3].min() > 20 * change[5:, 5:].max()  # the player is seen at the top left


def test_a_cell_is_told_the_same_of_a_body_whatever_else_the_picture_shows():
    view = Plane(low=(-1.0, 0.5), high=(1.0, -0.5))  # twice as wide as PLANE's, and as high
    wide: GridPainter = shaken(GridPainter(replace(PLANE, view=view), (8, 16), 24), 0.1)
    square = GridPainter(PLANE, (8, 8), 24)
    square.load_state_dict(wide.state_dict())
    state = state_with(PLANE, player=(-0.1, 0.2), ball=(0.2, -0.1))
    with torch.no_grad():
        middle = wide(state, state)[0].unflatten(0, (8, 16))[:, 4:12]
        torch.testing.assert_close(middle, square(state, state)[0].unflatten(0, (8, 8)), rtol=1e-4, atol=1e-4)


def test_only_who_is_told_something_hears_it_each_in_its_own_way():
    painter, state = shaken(SlotPainter(PLANE, 24, words=9), 0.1), state_with(PLANE, player=(0.1, 0.2), ball=(-0.2, 0))
    states = PLANE.write(state.repeat(2, 1), {"player": {"colour": "red"}, "ball": {"colour": "blue"}})
    with torch.no_grad():
        silent, told = painter(states), painter(states, painter.listen(torch.tensor([[-1, -1], [3, 7]])))
        swapped = painter(states, painter.listen(torch.tensor([[7, 3], [3, 8]])))
    change = (told - silent).norm(dim=-1)
    assert change[0].abs().max() == 0
    assert change[1].min() > 0
    player, ball = ([s.entity for s in PLANE.slots].index(entity) for entity in (0, 1))
    assert not torch.allclose((told - silent)[1, player], (told - silent)[1, ball])
    torch.testing.assert_close(swapped[0], told[1])  # the order of words is for the stream to tell
    assert not torch.allclose(swapped[1], told[1])


def test_absent_bodies_are_not_painted():
    present = Field(name="present", kind="flag", role="present", static=True)
    schema = replace(
        PLANE,
        entities=tuple(replace(e, fields=(present, *e.fields)) if e.has("position") else e for e in PLANE.entities),
    )
    painter: GridPainter = shaken(GridPainter(schema, (4, 4), 24), 0.1)
    mover: SlotPainter = shaken(SlotPainter(schema, 24), 0.1)
    state = schema.write(state_with(schema, player=(0, 0), ball=(0.1, 0.1)), {"player": {"present": 1}})
    other = schema.write(state, {"ball": {"position": (-0.3, 0.2), "colour": "blue", "yaw": 1.0}})
    players = [i for i, slot in enumerate(schema.slots) if schema.entities[slot.entity].name == "player"]
    with torch.no_grad():
        assert torch.equal(painter(state, state), painter(other, other))
        assert torch.equal(mover(state)[:, players], mover(other)[:, players])
        here = schema.write(state, {"ball": {"present": 1}})
        assert not torch.equal(painter(here, here), painter(state, state))
        assert not torch.equal(mover(here)[:, players], mover(state)[:, players])


def test_the_camera_turns_the_whole_picture():
    camera = Entity(
        name="camera",
        fields=(Field(name="azimuth", kind="continuous", role="camera", low=-1, high=1, bins=8),),
    )
    schema = replace(PLANE, entities=(*PLANE.entities, camera), view=ORBIT)
    painter: GridPainter = shaken(GridPainter(schema, (4, 4), 24), 0.1)
    still = state_with(schema, player=(0, 0), ball=(0.1, 0.1))
    turned = schema.write(still, {"camera": {"azimuth": 0.5}})
    with torch.no_grad():
        change = (painter(turned, still) - painter(still, still)).norm(dim=-1)
    assert (change > 1e-3).all()


def test_a_schema_without_a_view_is_embedded_by_its_values_alone():
    schema = replace(PLANE, view=None)
    assert scene_painter(schema, (4, 4), 24) is None
    assert scene_renderer(schema, (32, 32)) is None
    assert scene_renderer(None, (32, 32)) is None
    embedding, painter = state_painter(schema, 24), state_painter(PLANE, 24)
    assert type(embedding) is StateEmbedding
    assert isinstance(painter, SlotPainter)
    shaken(embedding, 0.1)
    state = state_with(schema, player=(0, 0), ball=(0.1, 0.1))
    moved = schema.write(state, {"ball": {"position": (0.3, -0.2)}})
    owners = [schema.entities[slot.entity].name for slot in schema.slots]
    changed = (embedding(state) != embedding(moved)).any(-1)[0].tolist()
    assert changed == [owner == "ball" for owner in owners]  # nobody else is told
    assert not embedding.overlapping(state_with(schema, player=(0, 0), ball=(0, 0))).any()
    assert painter.overlapping(state_with(PLANE, player=(0, 0), ball=(0, 0))).all()


# Four by two tiles over the upper half of the plane, and a ball.
BALL = (
    Field(name="position", kind="continuous", role="position", size=2, low=-0.5, high=0.5, bins=32, change=0.2),
    Field(name="velocity", kind="continuous", role="velocity", size=2, low=-2, high=2, bins=32, change=1),
)
BRICKS = Field(name="bricks", kind="bits", role="tiles", size=8, change=1)
TILED = StateSchema(
    name="tiled",
    fps=10,
    view=replace(FLAT, tiles=Tiles(of="wall.bricks", grid=(2, 4), low=(-0.5, 0.5), high=(0.5, 0.0))),
    entities=(Entity(name="ball", fields=BALL), Entity(name="wall", fields=(BRICKS,))),
)


def tiled_state(position: tuple[float, float], velocity: tuple[float, float] = (0, 0)) -> Tensor:
    return TILED.write(torch.ones(1, TILED.num_values), {"ball": {"position": position, "velocity": velocity}})


def test_a_tile_is_painted_where_it_stands():
    painter, state = shaken(GridPainter(TILED, (4, 4), 8), 0.3), tiled_state((0.0, -0.4))
    gone = state.clone()
    gone[:, TILED.columns("wall", "bricks").start + 6] = 0  # second row, third column
    changed = (painter(gone, state) != painter(state, state)).any(-1).nonzero()[:, 1]
    assert changed.tolist() == [6]


def test_a_body_and_the_tiles_on_its_way_are_told_of_each_other():
    painter = shaken(SlotPainter(TILED, 8), 0.3)
    far, near, coming = (
        tiled_state(at, way) for at, way in (((-0.49, -0.49), (0, 0)), ((0.1, -0.1), (0, 0)), ((-0.49, -0.49), (2, 2)))
    )

    def told(state: Tensor) -> tuple[Tensor, Tensor]:
        """How much the ball's slots and the wall's differ from what they are without the tile before it."""
        gone = state.clone()
        gone[:, TILED.columns("wall", "bricks").start + 6] = 0
        met, alone = (painter.tiles(x, painter.read(x)) for x in (state, gone))
        return tuple((a - b).abs().max() for a, b in zip(met, alone, strict=True))

    assert told(near)[0] > 4 * told(far)[0]
    assert told(coming)[0] > 4 * told(far)[0]
    assert told(near)[1] > 4 * told(far)[1]
    _, hitting = painter.tiles(near, painter.read(near))
    assert not hitting[:, :4].any()  # what is no tile's slot is told of no tiles
    assert hitting[:, 4].any()
