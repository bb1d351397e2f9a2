"""A schema is read and written by name, comes back from JSON, and refuses what would mean nothing."""

from __future__ import annotations

import json
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import worldmodel
from tokenizer.state_schema import Entity, Field, StateSchema
from tokenizer.view import Orbit, Plane, Tiles, View

from .any_schema import schemas, some_state

# -- people's view ----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(schemas(), st.integers(0, 2**31))
def test_what_is_read_by_name_can_be_written_back(schema: StateSchema, seed: int):
    state = some_state(schema, batch=1, seed=seed)[0]
    written = schema.write(torch.zeros_like(state), schema.to_dict(state))
    periodic = torch.zeros(schema.num_values)
    for entity in schema.entities:
        for f in entity.fields:
            if f.periodic and f.kind == "continuous":
                periodic[schema.columns(entity.name, f.name)] = f.high - f.low
    gap = (written - state).abs()
    assert ((gap < 1e-4) | ((gap - periodic).abs() < 1e-4)).all()


@settings(deadline=None, max_examples=40)
@given(schemas())
def test_a_schema_comes_back_from_json(schema: StateSchema):
    assert StateSchema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


PLACED = Entity(name="ball", fields=(Field(name="position", kind="continuous", role="position", size=2),))
CAMERA = Entity(name="camera", fields=(Field(name="azimuth", kind="continuous", role="camera"),))
WALL = Entity(name="wall", fields=(Field(name="bricks", kind="bits", role="tiles", size=6, change=1),))
VIEWS = (
    Orbit(distance=2.0, target=(0.0, 0.1, 0.2)),
    Plane(low=(-1.0, 1.0), high=(1.0, -1.0)),
    Plane(tiles=Tiles(of="wall.bricks", grid=(2, 3), low=(0.0, 0.5))),
)


@pytest.mark.parametrize("view", VIEWS, ids=["orbit", "plane", "tiles"])
def test_a_view_comes_back_from_json(view: View):
    schema = StateSchema(name="s", entities=(PLACED, CAMERA, WALL), view=view, fps=30)
    assert StateSchema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


def test_a_view_keeps_the_keys_that_fingerprints_were_made_of():
    plane = {"kind": "plane", "low": [0.0, 0.0], "high": [1.0, 1.0], "distance": 1.0, "elevation": pi / 4}
    plane |= {"fovy": pi / 4, "target": [0.0, 0.0, 0.0], "azimuth_of": "camera.azimuth"}
    said = StateSchema(name="s", entities=(PLACED,), view=Plane()).to_json()["view"]
    assert list(said.items()) == list(plane.items())
    tiles = {"tiles_of": "wall.bricks", "tiles": [2, 3], "tiles_low": [0.0, 0.5], "tiles_high": [1.0, 1.0]}
    said = StateSchema(name="s", entities=(PLACED, WALL), view=VIEWS[2]).to_json()["view"]
    assert list(said.items()) == list((plane | tiles).items())
    said = StateSchema(name="s", entities=(PLACED, CAMERA), view=Orbit(distance=2.0)).to_json()["view"]
    assert list(said.items()) == list((plane | {"kind": "orbit", "distance": 2.0}).items())


BUNDLED = sorted((Path(worldmodel.__file__).parent / "worlds").glob("*/world.json"))


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.parent.name)
def test_a_bundled_schema_is_written_as_it_was_read(path: Path):
    stored = json.loads(path.read_text(encoding="utf-8"))["schema"]
    assert json.dumps(StateSchema.from_json(stored).to_json()) == json.dumps(stored)


def _schema(**more: Any) -> StateSchema:
    return StateSchema(**{"name": "s", "entities": (PLACED, CAMERA, WALL), **more})


def _entity(**more: Any) -> Entity:
    return Entity(name="e", fields=(Field(**{"name": "x", "kind": "continuous", **more}),))


@pytest.mark.parametrize(
    ("wrong", "mend"),
    [
        ({"entities": (_entity(role="positon"),)}, "'e.x' has the unknown role 'positon': did you mean 'position'?"),
        ({"entities": (_entity(role="joint angle"),)}, "unknown role 'joint angle': use 'value' for what only means"),
        ({"entities": (_entity(role="position", kind="flag"),)}, "is flag, but the role 'position' is for continuous"),
        (
            {"entities": (_entity(role="position", size=4),)},
            "has size 4, but the role 'position' is for",
        ),
        ({"entities": (_entity(role="reward", static=True),)}, "is for fields with static=False"),
        ({"entities": (PLACED, PLACED)}, "has the entity 'ball' twice"),
        ({"entities": (Entity(name="e", fields=CAMERA.fields * 2),)}, "has the field 'e.azimuth' twice"),
        ({"actions": ("left", "left")}, "action names must differ"),
        ({"fps": 0}, "has fps = 0: it must be at least 1"),
        ({"frames_per_step": 0}, "has frames_per_step = 0: it must be at least 1"),
        ({"view": Orbit(azimuth_of="camera.azimut")}, "azimuth_of names no field 'camera.azimut'.*'camera.azimuth'?"),
        ({"view": Orbit(azimuth_of="wall.bricks")}, "azimuth_of = 'wall.bricks' is bits: name a continuous field"),
        ({"view": Plane(tiles=Tiles(of="wall.brick", grid=(2, 3)))}, "tiles_of names no field 'wall.brick'.*bricks'?"),
        ({"view": Plane(tiles=Tiles(of="wall.bricks", grid=(2, 2)))}, "grid of 2 x 2 needs role 'tiles' and size 4"),
        ({"view": Plane(), "entities": (CAMERA,)}, "shows nothing, for no entity has a field of role 'position'"),
        ({"view": Plane(), "entities": (_entity(role="position"),)}, "'e' has 1 position component"),
    ],
)
def test_a_schema_that_makes_no_sense_is_refused(wrong: dict[str, Any], mend: str):
    with pytest.raises(ValueError, match=mend):
        _schema(**wrong)


def test_an_unknown_kind_of_view_is_refused():
    about = _schema(view=Plane()).to_json()
    about["view"]["kind"] = "fisheye"
    with pytest.raises(ValueError, match="unknown kind of view 'fisheye'; choose from plane, orbit"):
        StateSchema.from_json(about)


@pytest.mark.parametrize(
    ("unit", "time"),
    [
        ("m/s", 0.2),
        ("", 0.2),
        ("cell/ms", 200.0),
        ("m/min", 0.2 / 60),
        ("px/frame", 4.0),
        ("px / frame", 4.0),
        ("m/step", 1.0),
    ],
)
def test_a_step_lasts_as_long_as_the_velocitys_unit_says(unit: str, time: float):
    assert _schema(fps=20, frames_per_step=4).step_time(unit) == pytest.approx(time)


@pytest.mark.parametrize("unit", ["map unit/tic", "m"])
def test_a_velocity_per_unknown_time_is_refused(unit: str):
    with pytest.raises(ValueError, match=f"the unit {unit!r} names no time: write velocities per s, ms, min, frame"):
        _schema().step_time(unit)


BODY = Entity(
    name="ball",
    fields=(
        Field(name="colour", kind="categorical", role="colour", static=True, names=("red", "blue")),
        Field(name="position", kind="continuous", role="position", unit="m", size=2, low=-0.5, high=0.5, bins=8),
        Field(name="yaw", kind="continuous", role="orientation", low=0, high=1, bins=8, periodic=True),
        Field(name="lit", kind="flag", role="value"),
    ),
)
TABLE = StateSchema(name="table", entities=(BODY,))


def test_an_edit_writes_names_numbers_and_flags_into_a_copy():
    state = torch.zeros(2, TABLE.num_values)
    edit = {"ball": {"colour": "blue", "position": (0.25, -0.5), "yaw": 1.25, "lit": True}}
    written = TABLE.write(state, edit)
    assert not state.any()
    for row in written:
        assert TABLE.to_dict(row) == {"ball": {"colour": "blue", "position": (0.25, -0.5), "yaw": 0.25, "lit": True}}
    numbers = TABLE.write(state, {"ball": {"colour": 1, "position": torch.tensor([0.25, -0.5]), "yaw": 0.25, "lit": 1}})
    assert torch.equal(numbers, written)
    arrays = {"colour": np.int64(1), "position": np.array([0.25, -0.5]), "yaw": np.float32(0.25), "lit": np.True_}
    assert torch.equal(TABLE.write(state, {"ball": arrays}), written)


@pytest.mark.parametrize(
    ("edit", "mend"),
    [
        ({"box": {}}, "no entity 'box' in 'table'; it has ball"),
        ({"ball": {"mass": 1}}, "'ball' has no field 'mass'; it has colour, position, yaw, lit"),
        ({"ball": {"colour": "green"}}, "ball.colour cannot be 'green'; choose from red, blue"),
        ({"ball": {"colour": 2}}, "ball.colour cannot be 2; choose from red, blue"),
        ({"ball": {"position": 0.1}}, r"ball.position has 2 component\(s\), got 1"),
        ({"ball": {"position": (0.1, 0.2, 0.3)}}, r"ball.position has 2 component\(s\), got 3"),
        ({"ball": {"position": (0.1, 0.7)}}, r"ball.position = 0.7 is outside \[-0.5, 0.5\] m"),
        ({"ball": {"position": (0.1, float("nan"))}}, r"ball.position = nan is outside"),
        ({"ball": {"yaw": float("inf")}}, r"ball.yaw = inf is no number"),
        ({"ball": {"position": ("here", "there")}}, r"ball.position takes numbers, got 'here'"),
        ({"ball": {"lit": None}}, r"ball.lit takes numbers, got None"),
        ({"ball": 0.3}, r"name the fields of 'ball', as in"),
    ],
)
def test_a_wrong_edit_is_answered_with_the_mend(edit: Any, mend: str):
    with pytest.raises(ValueError, match=mend):
        TABLE.write(torch.zeros(TABLE.num_values), edit)


def test_a_state_of_the_wrong_size_is_refused():
    with pytest.raises(ValueError, match=r"a state of 'table' has 5 values, got shape \(4,\)"):
        TABLE.to_dict(torch.zeros(4))


def test_columns_are_found_by_name_and_by_role():
    assert TABLE.columns("ball", "position") == slice(1, 3)
    assert TABLE.role_columns("position") == {"ball": slice(1, 3)}
    assert TABLE.role_columns("reward") == {}
    with pytest.raises(ValueError, match="'ball' has no field 'size'"):
        TABLE.columns("ball", "size")


@pytest.mark.parametrize(
    ("wrong", "mend"),
    [
        ({"kind": "continous"}, "has the unknown kind 'continous': did you mean 'continuous'?"),
        ({"kind": "flag", "size": 0}, "has size 0: give 1 to 65536"),
        ({"kind": "continuous", "low": 1, "high": 1, "bins": 4}, "low < high and at least 2 bins"),
        ({"kind": "continuous", "bins": 1}, "low < high and at least 2 bins"),
        ({"kind": "categorical"}, "needs the names of its categories"),
        ({"kind": "flag", "change": 1.0}, "only a dynamic continuous field"),
        ({"kind": "continuous", "static": True, "change": 1.0}, "only a dynamic continuous field"),
        ({"kind": "continuous", "change": 0.1, "change_bins": 4}, "change_bins must be odd"),
    ],
)
def test_a_field_that_makes_no_sense_is_refused(wrong: dict[str, Any], mend: str):
    with pytest.raises(ValueError, match=f"field 'x'.*{mend}"):
        Field(name="x", role="value", **wrong)
