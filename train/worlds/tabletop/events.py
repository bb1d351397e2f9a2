"""What may befall a Tabletop in mid-stream besides actions, each with the words that tell of it beforehand.

An event is an edit of velocities and rates, of the light's brightness, or a cut to where else the camera stands, small
enough to be a step's change in the schema; physics goes on from there. Bodies are named by their colour, so of those
whose colour another shares none is spoken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from train.worlds.tabletop.captions import noun

Scene = Mapping[str, Mapping[str, Any]]
Event = tuple[str, str, dict[str, dict[str, Any]]]

_DIRECTIONS = {
    "north": (0, 1), "north-east": (1, 1), "east": (1, 0), "south-east": (1, -1),
    "south": (0, -1), "south-west": (-1, -1), "west": (-1, 0), "north-west": (-1, 1),
}  # fmt: skip
_KICK, _SWING, _TURN = 1.0, 0.45, 0.19  # m/s, rad/s, rad/s
_TOP = 1.9  # m/s
_ASIDE = 0.5  # rad: where a new shot is taken from, to either side


def draw_event(scene: Scene, rng: np.random.Generator) -> Event:
    """One event that makes sense in this scene: its kind, its words, and the edit that it is."""

    def pick(*options: str) -> str:
        return options[rng.integers(len(options))]

    bodies = [name for name in ("player", "body_1", "body_2", "body_3") if scene[name]["present"]]
    colours = [scene[name]["colour"] for name in bodies]
    known = [name for name, colour in zip(bodies, colours, strict=True) if colours.count(colour) == 1]
    moving = [name for name in bodies if math.hypot(*scene[name]["velocity"]) > 0.1]
    swing, turn = scene["camera"]["azimuth_rate"], scene["light"]["rate"]

    def scaled(name: str, share: float) -> dict[str, Any]:
        speed = math.hypot(*scene[name]["velocity"])
        share = min(share, (speed + 1.2) / max(speed, 1e-6), _TOP / max(speed, 1e-6))
        return {
            "velocity": tuple(share * v for v in scene[name]["velocity"]),
            "yaw_rate": share * scene[name]["yaw_rate"],
        }

    def kicked(name: str, x: float, y: float) -> dict[str, Any]:
        far, (vx, vy) = _KICK / math.hypot(x, y), scene[name]["velocity"]
        return {"velocity": tuple(float(np.clip(v + far * way, -_TOP, _TOP)) for v, way in ((vx, x), (vy, y)))}

    def turned(by: float) -> dict[str, dict[str, Any]]:
        return {"light": {"rate": float(np.clip(turn + by, -1.0, 1.0))}}

    kinds = ["kick"] * 5 * bool(known) + ["stop"] * bool(set(known) & set(moving)) + ["camera"] * 2 + ["light"] * 2
    kinds += ["shot", "brightness"] * 2
    kinds += ["all_stop", "slower", "faster"] * bool(moving)
    kind = pick(*kinds)
    if kind == "kick":
        name, way = pick(*known), pick(*_DIRECTIONS)
        body = noun(scene[name], rng, full=bool(rng.random() < 0.3))
        text = pick(f"the {body} is kicked {way}", f"kick the {body} to the {way}", f"the {body} is pushed {way}")
        return kind, text, {name: kicked(name, *_DIRECTIONS[way])}
    if kind == "stop":
        name = pick(*(name for name in known if name in moving))
        return (
            kind,
            pick("the {} stops", "stop the {}").format(noun(scene[name], rng, full=False)),
            {name: scaled(name, 0)},
        )
    if kind == "all_stop":
        return kind, pick("everything stops", "all bodies stop"), {name: scaled(name, 0) for name in moving}
    if kind == "slower":
        return kind, pick("everything slows down", "slow motion"), {name: scaled(name, 0.5) for name in moving}
    if kind == "faster":
        return kind, pick("everything speeds up", "all goes faster"), {name: scaled(name, 1.6) for name in moving}
    if kind == "camera":
        side, way = ("left", -1) if rng.random() < 0.5 else ("right", 1)
        if 0.05 < abs(swing) <= _SWING:
            return kind, pick("the camera stands still", "the camera stops"), {"camera": {"azimuth_rate": 0.0}}
        rate = float(np.clip(swing + way * _SWING, -1.4, 1.4))
        return kind, pick(f"the camera swings {side}", f"pan {side}"), {"camera": {"azimuth_rate": rate}}
    if kind == "shot":
        azimuth = scene["camera"]["azimuth"]
        views = {"left": -_ASIDE, "right": _ASIDE, "front": 0.0}
        side = pick(*(side for side, there in views.items() if abs(there - azimuth) > 0.25))
        text = pick(f"cut to the {side}", f"a new shot from the {side}", f"a new shot, seen from the {side}")
        if rng.random() < 0.25:  # none is named: from the other side
            side, text = "right" if azimuth < 0 else "left", pick("a new shot", "cut")
        return kind, text, {"camera": {"azimuth": views[side], "azimuth_rate": 0.0}}
    if kind == "brightness":
        strength = scene["light"]["brightness"]
        if strength < 0.35:
            text, new = pick("the light comes on", "lights on", "the lamp goes on"), 1.0
        elif rng.random() < 0.5:
            text, new = pick("the light goes out", "lights out", "the lamp goes out"), 0.0
        elif strength > 0.75 or rng.random() < 0.5:
            text, new = pick("the light dims", "dim the light"), strength - 0.3
        else:
            text, new = pick("the light grows brighter", "brighten the light"), min(strength + 0.3, 1.0)
        return kind, text, {"light": {"brightness": new}}
    still = abs(turn) < 0.02
    if not still and abs(turn) <= _TURN and rng.random() < 0.5:
        return kind, pick("the light stands still", "the light stops"), turned(-turn)
    back = -1 if rng.random() < 0.5 else 1
    way = "clockwise" if back < 0 else "counterclockwise"
    if still or rng.random() < 0.5:
        return kind, pick(f"the light turns {way}", f"turn the light {way}"), turned(back * _TURN)
    quicker = rng.random() < 0.5
    by = math.copysign(_TURN if quicker else min(_TURN, abs(turn)), turn) * (1 if quicker else -1)
    return kind, f"the light turns {'faster' if quicker else 'slower'}", turned(by)
