"""Gymnasium environments of every kind, for ``train.worlds.gym_world``. Importing this registers them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

SIDE = 32


class Toy(gymnasium.Env[Any, Any]):
    """A white square on black that action 0 moves left and 1 right. It ends at the edge, and is cut after 20 steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    length = 20

    def __init__(self, render_mode: str | None = None, length: int = 0) -> None:
        self.render_mode, self.length = render_mode, length or self.length
        self.action_space: spaces.Space[Any] = spaces.Discrete(2)
        self.observation_space: spaces.Space[Any] = self.pictures()
        self.x = self.time = 0

    def pictures(self) -> spaces.Space[Any]:
        return spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)

    def get_action_meanings(self) -> list[str]:
        return ["left", "right"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.time = int(self.np_random.integers(8, 20)), 0
        return self.seen(), {"x": self.x, "about": "a square"}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.x += self.moved(action)
        self.time += 1
        over = not 0 < self.x < SIDE - 4
        return self.seen(), 1.0, over, self.time >= self.length and not over, {"x": self.x, "about": "a square"}

    def moved(self, action: Any) -> int:
        return 1 if action == 1 else -1

    def seen(self) -> Any:
        return self.drawn()

    def drawn(self) -> np.ndarray:
        picture = np.zeros((SIDE, SIDE, 3), np.uint8)
        picture[12:16, max(0, self.x) : self.x + 4] = 255
        return picture

    def render(self) -> Any:
        return self.drawn()


class Rig(Toy):
    """Dict actions, and a Dict observation with picture, mission and numbers."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.action_space = spaces.Dict(
            gear=spaces.Discrete(2, start=1), push=spaces.Box(-1.0, 1.0, (2,), np.float32), horn=spaces.MultiBinary(1)
        )
        self.observation_space = spaces.Dict(
            image=self.pictures(), place=spaces.Box(-99.0, 99.0, (2,), np.float64), mission=spaces.Text(40)
        )

    def moved(self, action: Any) -> int:
        return int(action["gear"] * np.sign(action["push"][0]))

    def seen(self) -> Any:
        return {
            "image": self.drawn(),
            "place": np.array([self.x, self.time], np.float64),
            "mission": f"go {'east' if self.time == 0 else 'on'}",
        }


class Brief(Toy):
    """Cut after 2 steps."""

    length = 2


class Broken(Toy):
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        raise IndexError("the axle broke")


class Chatty(Toy):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        print("chatter")
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        print("chatter")
        return super().step(action)


class Still(Toy):
    def drawn(self) -> np.ndarray:
        return np.full((SIDE, SIDE, 3), 7, np.uint8)


class Planes(Toy):
    """Its pictures have their channels first."""

    def pictures(self) -> spaces.Space[Any]:
        return spaces.Box(0, 255, (3, SIDE, SIDE), np.uint8)

    def seen(self) -> Any:
        return np.moveaxis(self.drawn(), 2, 0)


class Grey(Toy):
    """Its pictures have no channels."""

    def pictures(self) -> spaces.Space[Any]:
        return spaces.Box(0, 255, (SIDE, SIDE), np.uint8)

    def seen(self) -> Any:
        return self.drawn()[..., 0]


class Skipping(Toy):
    """Has a ``frameskip`` of its own, as Atari's games do."""

    def __init__(self, render_mode: str | None = None, frameskip: int = 4) -> None:
        super().__init__(render_mode)
        self.frameskip = frameskip

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        told: Any = None
        for _ in range(self.frameskip):
            told = super().step(action)
        return told


class Silent(Toy):
    """Shows nothing."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def pictures(self) -> spaces.Space[Any]:
        return spaces.Box(-99.0, 99.0, (1,), np.float32)

    def seen(self) -> Any:
        return np.array([self.x], np.float32)


class Worded(Toy):
    """Takes words, which no recording holds."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.action_space = spaces.Text(10)


def go_east(observation: Any, info: Any) -> int:
    """A policy. Raises TypeError where it isn't given what the environment told."""
    if observation.shape != (SIDE, SIDE, 3) or "about" not in info:
        raise TypeError(f"a policy was given {observation!r} and {info!r}")
    return 1


for kind in (Toy, Rig, Brief, Broken, Chatty, Still, Planes, Grey, Silent, Worded):
    gymnasium.register(f"{kind.__name__}-v0", f"toys:{kind.__name__}")
gymnasium.register("Skipping-v0", "toys:Skipping", kwargs={"frameskip": 4})
