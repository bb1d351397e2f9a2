"""What a person would say of a Tabletop scene: a small grammar with many forms, drawn by a random generator."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

Scene = Mapping[str, Mapping[str, Any]]

_NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
_SHAPES = {"ball": ("ball", "sphere"), "box": ("box", "cube", "block"), "cylinder": ("cylinder", "can", "drum")}
_MATERIALS = {
    "rubber": ("rubber",),
    "metal": ("metal", "steel"),
    "wood": ("wooden", "wood"),
    "glass": ("glass",),
}
_SLOW, _FAST = ("slides", "moves", "drifts"), ("shoots", "moves fast", "races")


def noun(body: Mapping[str, Any], rng: np.random.Generator, full: bool = True) -> str:
    """A body by its colour and shape, with ``full`` also its material, and sometimes its size."""

    def pick(*options: str) -> str:
        return options[rng.integers(len(options))]

    words = [body["colour"]]
    if full:
        words.append(pick(*_MATERIALS[body["material"]]))
    if rng.random() < 0.35 and not 0.07 <= body["size"] <= 0.085:
        words.insert(0, pick("small", "little") if body["size"] < 0.07 else pick("big", "large"))
    words.append(pick(*_SHAPES[body["shape"]]))
    return " ".join(words)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One or two sentences, lower case, at most about 45 words. The same generator state gives the same words."""

    def pick(*options: str) -> str:
        return options[rng.integers(len(options))]

    bodies = [name for name in ("player", "body_1", "body_2", "body_3") if scene[name]["present"]]
    others = bodies[1:]

    def speed(name: str) -> float:
        return math.hypot(*scene[name]["velocity"])

    def a(text: str) -> str:
        return ("an " if text[0] in "aeiou" else "a ") + text

    def listed(names: list[str], full: bool = True) -> str:
        parts = [a(noun(scene[name], rng, full)) for name in names]
        return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]

    def place(x: float, y: float) -> str:
        if max(abs(x), abs(y)) < 0.15:
            return pick("in the middle", "near the centre")
        words = ["north" if y > 0 else "south"] * (abs(y) > 0.15) + ["east" if x > 0 else "west"] * (abs(x) > 0.15)
        return pick("in the ", "towards the ") + "-".join(words)

    def players() -> str:
        text = noun(scene["player"], rng)
        return pick(
            f"you push {a(text)}",
            f"the player is {a(text)}",
            f"{a(text)} with a white mark",
            f"you are the {text}",
            f"{a(text)} marked white is yours",
        )

    def motion() -> str:
        moving = [name for name in others if speed(name) > 0.1]
        if not moving:
            return pick("nothing else moves", "the rest lies still", "all is at rest", "the others wait")
        name = max(moving, key=speed)
        how = pick(*_SLOW) if speed(name) < 0.45 else pick(*_FAST)
        vx, vy = scene[name]["velocity"]
        towards = ("east" if vx > 0 else "west") if abs(vx) > abs(vy) else ("north" if vy > 0 else "south")
        return f"the {noun(scene[name], rng, full=False)} {how} {towards}"

    def light() -> str:
        strength, rate = scene["light"]["brightness"], scene["light"]["rate"]
        if strength < 0.02:
            return pick("the light is out", "no light is on")
        look = "faint" if strength < 0.3 else "dim" if strength < 0.65 else "soft" if strength < 0.82 else "bright"
        if abs(rate) < 0.02:
            return pick(f"the {look} light stands still", f"{look} steady light", f"a {look} fixed lamp")
        way = "clockwise" if rate < 0 else "counterclockwise"
        pace = "slowly" if abs(rate) < 0.25 else "quickly"
        return pick(
            f"{a(look)} light circles {way}",
            f"the {look} lamp goes round {pace}, {way}",
            f"under {a(look)} light turning {way}",
            f"{look} light",
        )

    def camera() -> str:
        azimuth = scene["camera"]["azimuth"]
        if abs(azimuth) < 0.15:
            return pick("seen from the front", "the camera looks straight ahead", "front view")
        side = "left" if azimuth < 0 else "right"
        return pick(f"seen from the {side}", f"the camera stands to the {side}", f"view from the {side}")

    def target() -> str:
        where = place(*scene["target"]["position"])
        return pick(f"the goal lies {where}", f"the teal spot {where} is the target", f"target {where}")

    def table() -> str:
        return pick("on a table", "on a walled table", "on the tabletop", "inside four low walls")

    form = rng.integers(6)
    if form == 0:
        text = listed(bodies, full=bool(rng.random() < 0.5)) + pick("", f" {table()}")
    elif form == 1:
        text = players()
    elif form == 2:
        text = f"{_NUMBERS[len(bodies)]} {pick('bodies', 'things', 'toys')} {table()}: {listed(bodies)}"
    else:
        joint = pick("beside it", "also there", "with it", "around it")
        text = f"{players()}; {joint} {listed(others, full=form == 3)}"
        if form == 5:
            text = f"{table()}, {text}"
    chances = ((motion, 0.45), (light, 0.45), (camera, 0.3), (target, 0.3))
    extras = [part for part, chance in chances if rng.random() < chance]
    rng.shuffle(extras)
    for part in extras[: 1 if form == 1 else 3]:
        addition = part()
        if len(f"{text} {addition}".split()) <= 45:
            text += pick(", ", ". ", "; ") + addition
    return text


def claims(text: str, colours: tuple[str, ...]) -> list[dict[str, str]]:
    """What a caption says its bodies are, the player's first: ``colour`` and ``shape``, and ``material`` if it does.

    A caption that names more than one body names them all. Who is said to move was named before.
    """
    shape, material = (
        {word: name for name, words in kinds.items() for word in words} for kinds in (_SHAPES, _MATERIALS)
    )
    colour, stuff, form, moves = ("|".join(words) for words in (colours, material, shape, (*_SLOW, *_FAST)))
    found = re.findall(rf"\b({colour}) (?:({stuff}) )?({form})\b(?! (?:{moves}))", text)
    return [{"colour": c, "shape": shape[f]} | ({"material": material[m]} if m else {}) for c, m, f in found]
