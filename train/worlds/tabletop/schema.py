"""What a Tabletop state consists of, and from where it is seen. Needs no MuJoCo."""

from __future__ import annotations

import math
from typing import Any

from tokenizer.state_schema import Entity, Field, StateSchema
from tokenizer.view import Orbit

ACTIONS = ("none", "north", "south", "west", "east", "orbit_left", "orbit_right")
BODIES = ("player", "body_1", "body_2", "body_3")
SHAPES = ("ball", "box", "cylinder")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SUBSTANCES = ("rubber", "metal", "wood", "glass")
HALF_WIDTH = 0.5
SEGMENTED = 64  # side of entity maps
RESOLUTIONS = (64, 128, 256)
VIEW = Orbit(distance=2.3, elevation=math.radians(52), fovy=math.radians(30), target=(0.0, 0.0, 0.02))


def tabletop_schema() -> StateSchema:
    """What a Tabletop state consists of. Units are metres, radians and seconds."""

    def number(name: str, role: str, unit: str, low: float, high: float, bins: int, **more: Any) -> Field:
        return Field(name=name, kind="continuous", role=role, unit=unit, low=low, high=high, bins=bins, **more)

    def static(name: str, names: tuple[str, ...]) -> Field:
        return Field(name=name, kind="categorical", role=name, static=True, names=names)

    half = HALF_WIDTH
    body = (
        Field(name="present", kind="flag", role="present", static=True),
        static("shape", SHAPES),
        static("colour", COLOURS),
        static("material", SUBSTANCES),
        number("size", "size", "m", 0.05, 0.10, 16, static=True),
        number("position", "position", "m", -half, half, 256, size=2, change=0.12),
        number("velocity", "velocity", "m/s", -2, 2, 128, size=2, change=1.5),
        number("yaw", "orientation", "rad", 0, math.pi / 2, 32, periodic=True, change=0.4),
        number("yaw_rate", "angular_velocity", "rad/s", -10, 10, 64, change=5),
    )
    camera = (
        number("azimuth", "camera", "rad", -math.pi / 4, math.pi / 4, 128, change=math.pi / 2),  # a cut
        number("azimuth_rate", "camera_rate", "rad/s", -1.5, 1.5, 64, change=0.5),
    )
    light = (
        number("angle", "light", "rad", -math.pi, math.pi, 64, periodic=True, change=0.2),
        number("rate", "light_rate", "rad/s", -1.5, 1.5, 64, change=0.2),
        number("brightness", "light_brightness", "", 0, 1, 16, change=1.0),
    )
    target = (number("position", "position", "m", -half, half, 64, size=2, static=True),)
    episode = (
        Field(name="reward", kind="flag", role="reward"),
        Field(name="terminated", kind="flag", role="terminated"),
        # Motion intensity: mean speed of the bodies that are not the player's, as a stream of states begins.
        number("motion", "motion", "m/s", 0, 0.8, 16, static=True),
    )
    return StateSchema(
        name="tabletop",
        entities=(
            *(Entity(name=name, fields=body) for name in BODIES),
            Entity(name="camera", fields=camera),
            Entity(name="light", fields=light),
            Entity(name="target", fields=target),
            Entity(name="episode", fields=episode),
        ),
        view=VIEW,
        fps=60,
        frames_per_step=4,
        actions=ACTIONS,
    )
