"""What a Breakout state consists of. Needs no ale-py."""

from __future__ import annotations

from typing import Any

from tokenizer.state_schema import Entity, Field, StateSchema
from tokenizer.view import Plane, Tiles

ACTIONS = ("noop", "fire", "right", "left")
RESOLUTION = 80
ROWS, COLUMNS = 6, 18  # of bricks, 4x3 pixels each
_WALL = ((4.0, 13.0), (76.0, 31.0))  # its corners in the picture


def breakout_schema() -> StateSchema:
    """What a state consists of, in pixels of the picture. A ball that falls is followed to 16 pixels below it."""

    def number(name: str, role: str, low: float, high: float, bins: int, **more: Any) -> Field:
        return Field(name=name, kind="continuous", role=role, low=low, high=high, bins=bins, **more)

    # Bins are as fine as the console's numbers, and their middles are these numbers.
    position = number("position", "position", 0, 96, 384, unit="px", size=2, change=48)
    ball = (
        position,
        number("velocity", "velocity", -2.03125, 2.03125, 65, unit="px/frame", size=2, change=4.0625),
        Field(name="present", kind="flag", role="present"),
    )
    paddle = (
        position,
        number("size", "size", 2.5, 4.5, 2, unit="px"),  # half its width: 4, and 3 once the ball was at the top
        number("aim", "rate", 0, 100, 400, unit="px", change=16),  # where it is heading: beyond the sides, at times
    )
    wall = (Field(name="bricks", kind="bits", role="tiles", size=ROWS * COLUMNS, change=1),)
    game = (
        number("score", "score", -0.5, 864.5, 865, change=16),
        Field(name="lives", kind="categorical", role="lives", names=tuple("012345")),
        number("hits", "rate", -0.5, 12.5, 13),
        Field(name="spent", kind="flag", role="rate"),  # it broke a brick: no other before the paddle or the top
        Field(name="reward", kind="flag", role="reward"),
        Field(name="terminated", kind="flag", role="terminated"),
    )
    parts = {"ball": ball, "paddle": paddle, "wall": wall, "game": game}
    return StateSchema(
        name="breakout",
        entities=tuple(Entity(name=name, fields=fields) for name, fields in parts.items()),
        view=Plane(
            low=(0.0, 0.0),
            high=(80.0, 80.0),
            tiles=Tiles(of="wall.bricks", grid=(ROWS, COLUMNS), low=_WALL[0], high=_WALL[1]),
        ),
        fps=60,
        frames_per_step=4,
        actions=ACTIONS,
    )
