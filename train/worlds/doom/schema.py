"""What a Doom state consists of. Needs no ViZDoom."""

from __future__ import annotations

import math
from typing import Any

from tokenizer.state_schema import Entity, Field, StateSchema

ACTIONS = ("none", "forward", "turn_left", "turn_right", "forward_left", "forward_right")
_LOW, _HIGH = (350.0, -650.0), (1150.0, 150.0)  # the corners of the map, in its units


def doom_schema() -> StateSchema:
    """What a state consists of: the player's place and motion, in map units, radians and tics. There is no view."""

    def number(name: str, role: str, unit: str, low: float, high: float, bins: int, **more: Any) -> Field:
        return Field(name=name, kind="continuous", role=role, unit=unit, low=low, high=high, bins=bins, **more)

    player = (
        number("east", "position", "map unit", _LOW[0], _HIGH[0], 256, change=60),
        number("north", "position", "map unit", _LOW[1], _HIGH[1], 256, change=60),
        number("velocity", "velocity", "map unit/tic", -20, 20, 64, size=2, change=10),
        number("heading", "orientation", "rad", -math.pi, math.pi, 128, periodic=True, change=1.0),
    )
    episode = (
        Field(name="reward", kind="flag", role="reward"),
        Field(name="terminated", kind="flag", role="terminated"),
    )
    return StateSchema(
        name="doom",
        entities=(Entity(name="player", fields=player), Entity(name="episode", fields=episode)),
        fps=35,
        frames_per_step=4,
        actions=ACTIONS,
    )
