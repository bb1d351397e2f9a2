"""Worlds without a model, with the methods of the real one: coloured discs that go where they are pushed, and a film
of a bar that shows how often it was stepped."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tokenizer.state_schema import Entity, Field, StateSchema
from tokenizer.view import Orbit

COLOURS = {"red": (220, 50, 50), "green": (50, 170, 80), "blue": (60, 110, 240), "yellow": (240, 200, 50)}
PUSH = {"north": (0.0, 1.0), "south": (0.0, -1.0), "west": (-1.0, 0.0), "east": (1.0, 0.0)}


def number(name: str, role: str, unit: str, low: float, high: float, **more: Any) -> Field:
    return Field(name=name, kind="continuous", role=role, unit=unit, low=low, high=high, bins=64, **more)


BODY = (
    Field(name="present", kind="flag", role="present", static=True),
    Field(name="shape", kind="categorical", role="shape", static=True, names=("ball", "box", "cylinder")),
    Field(name="colour", kind="categorical", role="colour", static=True, names=tuple(COLOURS)),
    number("size", "size", "m", 0.05, 0.1, static=True),
    number("position", "position", "m", -0.5, 0.5, size=2),
    number("velocity", "velocity", "m/s", -2.0, 2.0, size=2),
    number("yaw", "orientation", "rad", 0.0, 1.5708, periodic=True),
)
SCHEMA = StateSchema(
    name="tabletop",
    actions=("none", *PUSH, "orbit_left", "orbit_right"),
    view=Orbit(),
    entities=(
        *(Entity(name=name, fields=BODY) for name in ("player", "body_1", "body_2", "body_3")),
        Entity(name="camera", fields=(number("azimuth", "camera", "rad", -0.785, 0.785),)),
        Entity(
            name="light",
            fields=(
                number("angle", "light", "rad", -3.1416, 3.1416, periodic=True),
                number("brightness", "light_brightness", "", 0.5, 1.0, static=True),
            ),
        ),
        Entity(name="target", fields=(number("position", "position", "m", -0.5, 0.5, size=2, static=True),)),
        Entity(
            name="episode",
            fields=(
                Field(name="reward", kind="flag", role="reward"),
                Field(name="terminated", kind="flag", role="terminated"),
                number("motion", "motion", "m/s", 0.0, 0.8, static=True),
            ),
        ),
    ),
)


class FakeWorld:
    """``fake_world`` makes one."""

    def __init__(self, *, step_s: float = 0.0, upsampler: bool = True, size: int = 64) -> None:
        self.text = object()  # which says that it reads a prompt
        self.page = {
            "name": "The table",
            "examples": {"Two": "two discs"},
            "event": "go north",
            "keys": {"east": {"keys": ["KeyX"]}},
        }
        self.schema, self.step_s, self.size = SCHEMA, step_s, size
        self.upsampler = object() if upsampler else None
        self.device, self.max_event, self.actions = torch.device("cpu"), 24, SCHEMA.actions

    def caption(self, state: Tensor) -> list[str]:
        x, y = state[0, SCHEMA.columns("player", "position")].tolist()
        return [f"the player is {'north' if y > 0 else 'south'}-{'east' if x > 0 else 'west'}"]

    def start(
        self, caption: str | None = None, *, seed: int = 0, state: Any = None, upsample: bool = False
    ) -> FakeRollout:
        if caption and "impossible" in caption:
            raise ValueError("No world holds the impossible; describe balls, boxes and cylinders.")
        chance = torch.Generator().manual_seed(seed)
        scene: dict[str, dict[str, Any]] = {
            "light": {"angle": 2.0, "brightness": 0.9},
            "target": {"position": (0.3, 0.3)},
        }
        for i, name in enumerate(("player", "body_1", "body_2")):
            place = (torch.rand(2, generator=chance) * 0.7 - 0.35).tolist()
            scene[name] = {
                "present": 1,
                "shape": i % 3,
                "colour": i,
                "size": 0.06 + 0.01 * i,
                "position": place,
                "yaw": 0.3,
            }
        scene["player"]["position"] = (-0.3, -0.3)
        values = SCHEMA.write(torch.zeros(1, SCHEMA.num_values), scene)
        return FakeRollout(self, SCHEMA.write(values, state or {}), upsample)


class FakeRollout:
    def __init__(self, world: FakeWorld, state: Tensor, upsample: bool, time: int = 0) -> None:
        self.world, self.state, self.upsample, self.time = world, state, upsample, time
        self.told = ""
        self.frames = self._draw(world.size)[:, None]

    def step(self, action: Any) -> SimpleNamespace:
        time.sleep(self.world.step_s)
        (index,) = SCHEMA.actions.batch(action, 1)[0].tolist()
        frames = []
        if self.told:
            self.edit({"player": {"velocity": PUSH[self.told.split()[-1]]}})
            self.told = ""
        for _ in range(SCHEMA.frames_per_step):
            self._move(SCHEMA.actions.parts[0].names[index])
            frames.append(self._draw(self.world.size * (2 if self.upsample else 1)))
        won = bool((self._at("player", "position") - self._at("target", "position")).norm() < 0.06)
        self.state = SCHEMA.write(self.state, {"episode": {"reward": won, "terminated": won}})
        self.time += 1
        pictures, flag = torch.stack(frames, 1), torch.tensor([won])
        shown = {
            "frames": pictures[:, :, ::2, ::2] if self.upsample else pictures,
            "upsampled": pictures if self.upsample else None,
        }
        return SimpleNamespace(**shown, state=self.state, reward=flag.float(), terminated=flag)

    def edit(self, edit: dict[str, dict[str, Any]]) -> None:
        self.state = SCHEMA.write(self.state, edit)

    def tell(self, event: str) -> None:
        if len(event) > 60:
            raise ValueError("the event is too long for this world: shorten it")
        self.told = event

    def snapshot(self) -> tuple[Tensor, int, str]:
        return self.state.clone(), self.time, self.told

    def restore(self, snapshot: tuple[Tensor, int, str]) -> None:
        self.state, self.time, self.told = snapshot[0].clone(), *snapshot[1:]

    def fork(self) -> FakeRollout:
        return FakeRollout(self.world, self.state.clone(), self.upsample, self.time)

    def _at(self, entity: str, field: str) -> Tensor:
        return self.state[0, SCHEMA.columns(entity, field)]

    def _move(self, action: str) -> None:
        self.state = self.state.clone()
        velocity = self._at("player", "velocity") * 0.9 + 0.1 * torch.tensor(PUSH.get(action, (0.0, 0.0)))
        turn = {"orbit_left": -0.02, "orbit_right": 0.02}.get(action, 0.0)
        self._at("player", "velocity")[:] = velocity
        self._at("player", "position")[:] = (self._at("player", "position") + velocity / SCHEMA.fps).clamp(-0.5, 0.5)
        self._at("camera", "azimuth")[:] = (self._at("camera", "azimuth") + turn).clamp(-0.785, 0.785)
        self._at("light", "angle")[:] = (self._at("light", "angle") + 0.01 + 3.14) % 6.28 - 3.14

    def _draw(self, size: int) -> Tensor:
        axis = torch.linspace(-0.6, 0.6, size)
        x, y = axis[None, :], -axis[:, None]
        frame = torch.full((size, size, 3), 150, dtype=torch.uint8)
        frame[(x.abs() < 0.52) & (y.abs() < 0.52)] = torch.tensor([196, 190, 178], dtype=torch.uint8)
        for name in ("player", "body_1", "body_2"):
            px, py = self._at(name, "position").tolist()
            colour = list(COLOURS.values())[int(self._at(name, "colour"))]
            frame[(x - px) ** 2 + (y - py) ** 2 < float(self._at(name, "size")) ** 2] = torch.tensor(
                colour, dtype=torch.uint8
            )
        return frame[None]


class FakeFilm:
    """Frames alone: no state, no text, no reward; wider than high. ``taken`` are the actions of its last rollout.

    ``fake_film`` makes one.
    """

    def __init__(self, actions: Any = None) -> None:
        self.schema = StateSchema(name="some_film", actions=actions, fps=30, frames_per_step=2)
        self.text = self.upsampler = None
        self.page: dict[str, Any] = {}
        self.device, self.max_event, self.actions = torch.device("cpu"), 0, self.schema.actions
        self.taken: list[Any] = []

    def start(self, caption: None = None, *, seed: int = 0, state: Any = None, upsample: bool = False) -> FakeScreening:
        assert caption is None
        assert state is None
        self.taken = []
        return FakeScreening(self, 0)


class FakeScreening:
    def __init__(self, world: FakeFilm, time: int) -> None:
        self.world, self.time, self.upsample, self.state = world, time, False, torch.zeros(1, 0)
        self.frames = torch.zeros(1, 1, 24, 40, 3, dtype=torch.uint8)

    def step(self, action: Any) -> SimpleNamespace:
        self.world.schema.actions.batch(action, 1)  # refuses what is not of the space
        self.world.taken.append(action)
        self.time += 1
        frames = torch.zeros(1, 2, 24, 40, 3, dtype=torch.uint8)
        frames[..., : self.time % 40, :] = 255
        return SimpleNamespace(
            frames=frames, upsampled=None, state=self.state, reward=torch.zeros(1), terminated=torch.zeros(1).bool()
        )

    def snapshot(self) -> int:
        return self.time

    def restore(self, snapshot: int) -> None:
        self.time = snapshot

    def fork(self) -> FakeScreening:
        return FakeScreening(self.world, self.time)


def fake_world(**options: Any) -> Any:
    """Typed as anything: it stands where a ``World`` is asked for."""
    return FakeWorld(**options)


def fake_film(actions: Any = None) -> Any:
    return FakeFilm(actions)
