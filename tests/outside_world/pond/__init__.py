"""Pond: a leaf drifts over 16x16 pixels of water. A world that stands in none of the four packages.

``RECIPE`` has states, actions, captions and two frames a step. ``FILM`` has none of these: pictures alone, one a step,
wider than they are high. ``TILLER`` is steered by two numbers and has neither states nor captions.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from tokenizer.action_space import ActionSpace
from tokenizer.state_schema import Entity, Field, StateSchema
from train.measure.bars import Bar
from train.worlds.contract import Recipe, Simulator, Size

ACTIONS = ("drift", "left", "right")
COLOURS = {"red": (220, 40, 40), "yellow": (230, 210, 40)}
WATER = (20, 60, 120)


def pond_schema() -> StateSchema:
    leaf = (
        Field(name="colour", kind="categorical", role="colour", static=True, names=tuple(COLOURS)),
        Field(name="position", kind="continuous", role="position", size=2, low=0, high=1, bins=32, change=0.4),
        Field(name="velocity", kind="continuous", role="velocity", size=2, low=-0.4, high=0.4, bins=32, change=0.4),
    )
    episode = (
        Field(name="reward", kind="flag", role="reward"),
        Field(name="terminated", kind="flag", role="terminated"),
    )
    entities = (Entity(name="leaf", fields=leaf), Entity(name="episode", fields=episode))
    return StateSchema(name="pond", entities=entities, fps=10, frames_per_step=2, actions=ACTIONS)


class Leaf:
    """A leaf of a colour on water of ``size``: pushed sideways, it slows down and turns back at the shore."""

    def __init__(self, rng: np.random.Generator, size: Size) -> None:
        self.size = size
        self.colour = int(rng.integers(len(COLOURS)))
        self.position, self.velocity = rng.uniform(0.2, 0.8, 2), rng.uniform(-0.1, 0.1, 2)

    def move(self, push: float) -> None:
        self.velocity = np.clip(0.9 * self.velocity + (push, 0), -0.4, 0.4)
        self.position = self.position + self.velocity
        beyond = (self.position < 0) | (self.position > 1)
        self.velocity[beyond] *= -1
        self.position = np.clip(self.position, 0, 1)

    @property
    def home(self) -> bool:
        return bool(self.position[0] > 0.95)

    def picture(self) -> np.ndarray:
        height, width = self.size
        picture = np.full((height, width, 3), WATER, np.uint8)
        row, column = (int(share * (side - 4)) for share, side in zip(self.position[::-1], self.size, strict=True))
        picture[row : row + 4, column : column + 4] = list(COLOURS.values())[self.colour]
        return picture


class Pond(gymnasium.Env[np.ndarray, Any]):
    """The leaf is home, with a reward, at the right shore; after 40 steps the day is over."""

    def __init__(self, size: Size = (16, 16)) -> None:
        self.size, self.schema = size, pond_schema()
        self.observation_space = gymnasium.spaces.Box(0, 255, (*size, 3), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(len(ACTIONS))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.leaf, self.time = Leaf(self.np_random, self.size), 0
        side = "left" if self.leaf.position[0] < 0.5 else "right"
        self.caption = f"a {list(COLOURS)[self.leaf.colour]} leaf on the {side}"
        return self._told(1)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        frames = []
        for _ in range(2):
            self.leaf.move((0.0, -0.05, 0.05)[int(action)])
            frames.append((self.leaf.picture(), self.state))
        observation, info = self._told(2, frames)
        return observation, float(self.leaf.home), self.leaf.home, self.time == 40, info

    @property
    def state(self) -> np.ndarray:
        leaf, home = self.leaf, self.leaf.home and self.time > 0
        return np.array([leaf.colour, *leaf.position, *leaf.velocity, home, home], np.float32)

    def _told(self, count: int, frames: list[Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        shown = frames or [(self.leaf.picture(), self.state)]
        pictures, states = (np.stack(parts) for parts in zip(*shown, strict=True))
        assert len(pictures) == count
        info = {"frames": pictures, "states": states, "state": states[-1], "caption": self.caption}
        return pictures[-1], info


class Film(gymnasium.Env[np.ndarray, Any]):
    """The leaf alone, moved by nobody or by two numbers: a plain environment that knows nothing of world models."""

    def __init__(self, size: Size, action_space: gymnasium.Space[Any] | None = None) -> None:
        self.size = size
        self.observation_space = gymnasium.spaces.Box(0, 255, (*size, 3), np.uint8)
        self.action_space = action_space or gymnasium.spaces.Discrete(1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.leaf, self.time = Leaf(self.np_random, self.size), 0
        return self.leaf.picture(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        self.leaf.move(0.0 if action is None else 0.1 * float(action[0]) * float(action[1]))
        return self.leaf.picture(), 0.5 * self.leaf.home, False, self.time == 24, {}


def behaviour(name: str, rng: np.random.Generator) -> Any:
    held = 2 if name == "homeward" else 0
    return lambda state: held if rng.random() < 0.5 else int(rng.integers(len(ACTIONS)))


def claims(caption: str) -> list[dict[str, str]]:
    return [{"colour": colour} for colour in COLOURS if colour in caption]


def measure_shores(world: Any, episodes: Any, *, horizon: int, seed: int, sampling: Any) -> dict[str, Any]:
    """How many of the episodes reach the right shore."""
    return {"reached": sum(bool(e.states[-1, -1]) for e in episodes) / max(1, len(episodes))}


def tiller() -> gymnasium.Space[Any]:
    return gymnasium.spaces.Box(-1, 1, (2,), np.float32)


RECIPE = Recipe(
    schema=pond_schema(),
    make=Pond,
    sizes=((16, 16),),
    shares={"homeward": 0.7, "any": 0.3},
    behaviour=behaviour,
    claims=claims,
    measures={"shores": measure_shores},
    bars=(Bar("shores.reached", "≥", 0.1),),
    guidance=1.5,
    page={
        "name": "Pond",
        "intro": "Left and right blow the leaf.",
        "examples": {"Red": "a red leaf on the left"},
        "keys": {"left": {"keys": ["ArrowLeft"], "sign": "←", "place": "left"}},
    },
    folder=Path(__file__).parent,
    card="# Pond\n\nA leaf.",
)


SLOPPY = replace(RECIPE, behaviour=lambda name, rng: lambda state: 0.5)  # which is no action of a pond


def _film(size: Size) -> Simulator:
    return Film(size)


def _tiller(size: Size) -> Simulator:
    return Film(size, tiller())


FILM = Recipe(schema=StateSchema(name="film", fps=10, frames_per_step=1), make=_film, sizes=((16, 24),))
TILLER = Recipe(
    schema=StateSchema(name="tiller", fps=10, frames_per_step=1, actions=ActionSpace(tiller(), bins=5)),
    make=_tiller,
    sizes=((16, 24),),
)
