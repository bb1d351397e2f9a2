"""Bodies cast as rays and drawn as layers."""

from __future__ import annotations

from math import pi
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenizer.scene.bodies import BodyLayers
from tokenizer.scene.camera import project, unproject
from tokenizer.scene.floor import FloorShader
from tokenizer.scene.ray_casting import SOLIDS, cast_solids
from tokenizer.scene.renderer import composite
from tokenizer.state_schema import Entity, Field, StateSchema
from tokenizer.view import Orbit, Plane

SIDE = 48


def _rays(pixels: int, turn: float = 0.4) -> tuple[Tensor, Tensor]:
    """A camera five units away that looks down at the middle, in the frame of a body turned by ``turn``."""
    eye, right = torch.tensor([0.0, -3.0, 4.0]), torch.tensor([1.0, 0.0, 0.0])
    forward = -eye / eye.norm()
    up = torch.linalg.cross(right, forward)
    at = (torch.arange(pixels) + 0.5) / pixels * 2 - 1
    ray = forward + 0.45 * (at[None, :, None] * right - at[:, None, None] * up)
    c, s = torch.tensor(turn).cos(), torch.tensor(turn).sin()
    rotate = torch.stack([torch.stack([c, s, 0 * c]), torch.stack([-s, c, 0 * c]), torch.tensor([0.0, 0, 1])])
    return (rotate @ eye)[:, None, None], (ray @ rotate.T).movedim(-1, 0)


def _marched(inside: Any, origin: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    """Whether rays pass through a solid, and how far away it begins, by walking along them."""
    reach = torch.linspace(3, 7, 1600)[:, None, None]
    met = inside(*(o + reach * d for o, d in zip(origin, ray, strict=True)))
    return met.any(0), reach[met.float().argmax(0), 0, 0]


INSIDE = {
    "ball": lambda x, y, z: x**2 + y**2 + z**2 <= 1,
    "box": lambda x, y, z: torch.maximum(torch.maximum(x.abs(), y.abs()), z.abs()) <= 1,
    "cylinder": lambda x, y, z: (x**2 + y**2 <= 1) & (z.abs() <= 1),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_a_solid_covers_the_pixels_that_rays_through_it_reach(name: str) -> None:
    origin, ray = _rays(SIDE)
    cover, point, normal = cast_solids(origin, ray, torch.tensor(0.45 * 5 * 2 / SIDE))[SOLIDS.index(name)].split(
        [1, 3, 3]
    )
    fine, _ = _marched(INSIDE[name], *_rays(4 * SIDE))
    share = fine.float().unflatten(0, (SIDE, 4)).unflatten(2, (SIDE, 4)).mean((1, 3))
    error = (cover[0] - share).abs()
    assert error.mean() < 0.006
    assert error.max() < 0.5  # at corners
    met, reach = _marched(INSIDE[name], origin, ray)
    deep = met & (cover[0] == 1)
    assert (point - origin - reach * ray).abs()[:, deep].flatten().quantile(0.98) < 0.02
    assert (normal.norm(dim=0)[deep] - 1).abs().median() < 1e-3


def _field(name: str, role: str, low: float = -1, high: float = 1, **more: Any) -> Field:
    return Field(name=name, kind="continuous", role=role, low=low, high=high, bins=16, **more)


BODY = (
    Field(name="present", kind="flag", role="present", static=True),
    _field("size", "size", 0.01, 0.3, static=True),
    _field("position", "position", size=2),
    _field("yaw", "orientation", 0, pi / 2, periodic=True),
)
ORBIT = StateSchema(
    name="two bodies",
    entities=(
        Entity(name="far", fields=BODY),
        Entity(name="near", fields=BODY),
        Entity(name="camera", fields=(_field("azimuth", "camera"),)),
        Entity(name="light", fields=(_field("angle", "light", -pi, pi, periodic=True),)),
    ),
    view=Orbit(distance=3.0, elevation=0.9, fovy=0.7),
)
PLANE = StateSchema(name="a ball", entities=(Entity(name="ball", fields=BODY),), view=Plane(low=(-1, -1), high=(1, 1)))


def _state(schema: StateSchema, **edit: dict[str, Any]) -> Tensor:
    return schema.write(torch.zeros(schema.num_values), edit)[None]


def _layers(schema: StateSchema, size: tuple[int, int] = (64, 64)) -> BodyLayers:
    torch.manual_seed(0)
    layers = BodyLayers(schema, size)
    with torch.no_grad():
        layers.look.get_parameter("2.bias")[3:5] = torch.tensor([4.0, -9.0])  # dark shadows, no marks
    return layers.eval()


@torch.no_grad()
def test_a_body_is_drawn_where_it_is_and_hides_what_lies_behind_it() -> None:
    layers = _layers(ORBIT)
    there = {"present": True, "size": 0.2}
    alone = layers(_state(ORBIT, near={**there, "position": (0.0, -0.1)}))[0]
    both = layers(_state(ORBIT, near={**there, "position": (0.0, -0.1)}, far={**there, "position": (0.0, 0.25)}))[0]
    assert alone.shape == (4, 64, 64)
    middle = alone[:, 30:34, 30:34]
    assert (middle[3] < 0.2).all()
    assert (alone[3, :4, :4] == 1).all()
    assert torch.allclose(both[:, 30:34, 30:34], middle, atol=0.1)  # the near one is in front
    assert (both[3] < 0.2).sum() > 1.3 * (alone[3] < 0.2).sum()


@torch.no_grad()
def test_an_absent_body_leaves_no_trace_and_one_at_the_edge_is_cut_off() -> None:
    layers = _layers(ORBIT)
    gone = layers(_state(ORBIT, near={"size": 0.2}))[0]
    assert (gone[:3] == 0).all()
    assert (gone[3] == 1).all()
    edge = layers(_state(ORBIT, near={"present": True, "size": 0.2, "position": (1.0, -1.0)}))[0]
    assert edge.isfinite().all()


@torch.no_grad()
def test_a_shadow_falls_away_from_the_light() -> None:
    layers = _layers(ORBIT)
    body = {"present": True, "size": 0.15}
    from_east, from_west = (layers(_state(ORBIT, near=body, light={"angle": a}))[0, 3] for a in (0.0, 3.1))
    half = torch.arange(64) < 32
    west_of_it, east_of_it = (x[:, half].sum() - x[:, ~half].sum() for x in (from_east, from_west))
    assert west_of_it < -5  # less shines through in the west
    assert east_of_it > 5


@torch.no_grad()
def test_a_plane_is_seen_from_above_and_resolution_changes_only_detail() -> None:
    layers = _layers(PLANE)
    state = _state(PLANE, ball={"present": True, "size": 0.2, "position": (0.5, -0.5)})
    drawn = layers(state)[0, 3] < 0.5
    rows, columns = drawn.nonzero().float().mean(0)
    assert abs(columns - 47.5) < 1
    assert abs(rows - 15.5) < 1
    fine = BodyLayers(PLANE, (128, 128))
    fine.load_state_dict(layers.state_dict())
    halved = fine(state).unflatten(2, (64, 2)).unflatten(4, (64, 2)).mean((3, 5))
    assert (halved - layers(state)).abs().mean() < 0.01


SIZES = pytest.mark.parametrize("size", [(96, 64), (64, 112), (128, 72)], ids=lambda size: "x".join(map(str, size)))


def _drawn_ball(schema: StateSchema, size: tuple[int, int], state: Tensor) -> Tensor:
    """Where a ball hides what lies behind it, bool (height, width): without a shadow or a mark."""
    layers = _layers(schema, size)
    with torch.no_grad():
        layers.look.get_parameter("2.weight").zero_()
        layers.look.get_parameter("2.bias")[:5] = torch.tensor([20.0, -20, -20, -20, -20])
        return layers(state)[0, 3] < 0.5


def _assert_round(drawn: Tensor, at: tuple[float, float], radius: float) -> None:
    """Drawn around ``at`` (row, column), ``radius`` pixels each way."""
    places = drawn.nonzero().float()
    assert (places.mean(0) + 0.5 - torch.tensor(at)).abs().max() < 0.6
    reach = (places.amax(0) - places.amin(0) + 1) / 2
    assert (reach - radius).abs().max() <= 1


@SIZES
def test_a_ball_is_round_and_in_its_place_in_a_plane_of_any_size(size: tuple[int, int]) -> None:
    height, width = size
    view = Plane(low=(0.0, 0.0), high=(width / 40, height / 40))
    body = (BODY[0], BODY[1], _field("position", "position", 0, 4, size=2))
    schema = StateSchema(name="plane", entities=(Entity(name="ball", fields=body),), view=view)
    for x, y in ((0.8, 0.5), (1.2, 1.1)):
        state = _state(schema, ball={"present": True, "size": 0.2, "position": (x, y)})
        _assert_round(_drawn_ball(schema, size, state), (40 * y, 40 * x), 8)


@SIZES
def test_a_ball_is_round_and_in_its_place_under_a_camera_of_any_size(size: tuple[int, int]) -> None:
    height, width = size
    for position, turn in (((0.0, 0.0), 0.0), ((0.1, 0.15), 0.6)):
        state = _state(ORBIT, near={"present": True, "size": 0.2, "position": position}, camera={"azimuth": turn})
        assert ORBIT.view is not None
        at, scale = project(ORBIT.view, torch.tensor([*position, 0.2]), torch.tensor(turn), width / height)
        place = float(at[1]) * height, float(at[0]) * width
        _assert_round(_drawn_ball(ORBIT, size, state), place, 0.2 * float(scale) * height)


@SIZES
def test_the_floor_reaches_as_far_to_the_side_as_the_picture_shows(size: tuple[int, int]) -> None:
    height, width = size
    floor = FloorShader(ORBIT, size)
    places = floor._places(torch.zeros(1), torch.zeros(1, 1))[0, :2].unflatten(1, size)  # in half widths of the bounds
    assert ORBIT.view is not None
    picture = torch.tensor([20.5 / width, 30.5 / height])
    seen = unproject(ORBIT.view, picture, torch.tensor(0.0), aspect=width / height)
    torch.testing.assert_close(places[:, 30, 20], seen)
    square = FloorShader(ORBIT, (height, height))._places(torch.zeros(1), torch.zeros(1, 1))[0, :2]
    middle = square.unflatten(1, (height, height))[:, :, height // 2 - 5 : height // 2 + 5]
    torch.testing.assert_close(places[:, :, width // 2 - 5 : width // 2 + 5], middle)  # width adds, it does not stretch


def test_everything_that_is_learned_gets_a_finite_gradient() -> None:
    layers, floor = _layers(ORBIT).train(), FloorShader(ORBIT, (64, 64))
    state = _state(ORBIT, near={"present": True, "size": 0.2}, light={"angle": 1.0})
    picture = composite(composite(torch.rand(1, 3, 64, 64), floor(state)), layers(state))
    picture.square().mean().backward()
    for name, weight in [*layers.named_parameters(), *floor.named_parameters()]:
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
