"""What a film tells: shots, one after the other, and how they are written down.

A story is plain data, so that people and programs can write it: ``story.yaml`` holds a list of ``shots``, each with the
fields of :class:`Shot`. Long videos made shot by shot from one plot are DropletVideo's idea (arXiv:2503.06053).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any

import yaml

from tokenizer.roles import nearest

POLICIES = ("idle", "random", "likely")
Fields = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One shot. All that begins happens at its first step.

    Attributes:
        seconds: how long it is.
        prompt: a new scene, in words. Without it, and without a ``state`` or ``motion``, the scene goes on.
        state: a part of the new scene's state, ``{entity: {field: value}}``; the rest is sampled to go with it.
        motion: how fast things move as the new scene begins, where the world knows such a value.
        tell: what happens, in words, as ``Rollout.tell`` takes them: "cut to the left".
        edit: values that are written, as ``Rollout.edit`` takes them.
        hold, limit: what is kept while the shot lasts, as ``Rollout.hold`` and ``Rollout.limit`` take it.
        camera_of: the number of an earlier shot of the same scene, from 1 on, whose camera is taken up again.
        dissolve: seconds in which the shot before fades into this one; 0 is a hard cut.
        action: what is done all the time: an action of the world, or one of :data:`POLICIES`. None: what is likely,
            in a world that knows it, else random actions.
        actions: what is done instead, in order: pairs of an action and its seconds. Afterwards ``action`` is done.
    """

    seconds: float
    prompt: str = ""
    state: Fields | None = None
    motion: float | None = None
    tell: str = ""
    edit: Fields | None = None
    hold: Fields | None = None
    limit: Fields | None = None
    camera_of: int | None = None
    dissolve: float = 0.0
    action: Any = None
    actions: Sequence[tuple[Any, float]] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for what is no length, words or fields."""
        _number("seconds", self.seconds, above=0)
        _number("dissolve", self.dissolve)
        if self.dissolve >= self.seconds:
            raise ValueError(f"dissolve is {self.dissolve} s of a shot of {self.seconds} s: let it be shorter")
        for name in ("prompt", "tell"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is a text, got {getattr(self, name)!r}")
        for name in ("state", "edit", "hold", "limit"):
            given = getattr(self, name)
            nested = isinstance(given, Mapping) and all(isinstance(values, Mapping) for values in given.values())
            if given is not None and not nested:
                raise ValueError(f"{name} is {{entity: {{field: value}}}}, got {given!r}")
        if self.motion is not None:
            _number("motion", self.motion)
        pairs = self.actions if isinstance(self.actions, list | tuple) else [self.actions]
        for one in pairs:
            if not isinstance(one, list | tuple) or len(one) != 2:
                raise ValueError(f"actions are pairs of an action and its seconds, got {one!r}")
            _number("an action's seconds", one[1], above=0)
        object.__setattr__(self, "actions", tuple(map(tuple, pairs)))  # as they are written in YAML too

    @property
    def new_scene(self) -> bool:
        return bool(self.prompt) or self.state is not None or self.motion is not None


@dataclass(frozen=True, kw_only=True)
class Story:
    """Shots, in order. Raises ValueError for none, and for a camera of a shot that is not there."""

    shots: tuple[Shot, ...]

    def __post_init__(self) -> None:
        if not self.shots:
            raise ValueError("a story has at least one shot: name one under shots")
        scene = 0
        for i, shot in enumerate(self.shots):
            scene = i if shot.new_scene else scene
            if shot.camera_of is not None and not (type(shot.camera_of) is int and scene + 1 <= shot.camera_of <= i):
                raise ValueError(
                    f"shot {i + 1} takes up the camera of shot {shot.camera_of!r}: name an earlier shot of its scene"
                )

    @property
    def seconds(self) -> float:
        return sum(shot.seconds for shot in self.shots)

    def to_json(self) -> dict[str, Any]:
        """Without what is as it is by default."""
        default = {f.name: f.default for f in fields(Shot)}
        return {"shots": [{k: v for k, v in asdict(shot).items() if v != default[k]} for shot in self.shots]}

    @classmethod
    def from_json(cls, told: Any) -> Story:
        """Raises ValueError, with the shot's number, for anything that is no story."""
        if not isinstance(told, Mapping) or not isinstance(told.get("shots"), list):
            raise ValueError("a story is a list under the key shots: each shot has seconds, and what happens in it")
        if set(told) != {"shots"}:
            unknown = sorted(set(told) - {"shots"})
            raise ValueError(f"a story knows no {', '.join(map(str, unknown))}: it has shots alone")
        known, shots = [f.name for f in fields(Shot)], []
        for i, one in enumerate(told["shots"], 1):
            if not isinstance(one, Mapping):
                raise ValueError(f"shot {i} is {one!r}: write its fields below each other, seconds first")
            for name in one:
                if name not in known:
                    raise ValueError(f"shot {i} has an unknown {name!r}: {nearest(str(name), known)}")
            if "seconds" not in one:
                raise ValueError(f"shot {i} says no seconds: say how long it is")
            try:
                shots.append(Shot(**one))
            except ValueError as error:
                raise ValueError(f"shot {i}: {error}") from None
        return cls(shots=tuple(shots))

    @classmethod
    def load(cls, path: str | Path) -> Story:
        """Reads ``story.yaml``. Raises ValueError for a file that is missing or tells no story."""
        try:
            return cls.from_json(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{path} cannot be read ({str(error).splitlines()[0]}): write it as YAML") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _number(name: str, value: Any, above: float | None = None) -> None:
    good = isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
    if not good or value < 0 or (above is not None and value <= above):
        least = "0 or more" if above is None else f"above {above}"
        raise ValueError(f"{name} is {value!r}: give a number {least}")
