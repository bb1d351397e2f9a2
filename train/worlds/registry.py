"""What the recorder needs to know of a world, by name; simulators are imported only when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tokenizer.state_schema import StateSchema

WORLDS = ("tabletop", "doom", "breakout")


class World(Protocol):
    """An environment whose ``info`` holds ``state``, ``states``, ``frames`` and ``caption`` (see ``tabletop.py``)."""

    schema: StateSchema

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]: ...

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]: ...

    def close(self) -> None: ...


def step_info(records: list[dict[str, np.ndarray]], caption: str) -> dict[str, Any]:
    """A step's ``info``, from one record for each of its pixel frames."""
    info: dict[str, Any] = {key: np.stack([record[key] for record in records]) for key in records[0]}
    return info | {"state": records[-1]["states"], "caption": caption}


@dataclass(frozen=True, kw_only=True)
class Recordable:
    """A world and how it is played: ``shares`` says how often each behaviour, a policy from states to actions.

    ``resolutions`` are those that it draws, the one to record by default first. ``segmented`` is the side of its entity
    maps in pixels, None for a world without. ``simulate`` makes one for those who want its states alone. ``event``
    draws what may befall a scene besides actions: its kind, the words that tell of it, and the edit of the state.
    """

    schema: StateSchema
    make: Callable[[int], World]
    simulate: Callable[[], World]
    shares: Mapping[str, float]
    behaviour: Callable[[str, np.random.Generator], Callable[[np.ndarray], int]]
    resolutions: tuple[int, ...]
    segmented: int | None = None
    event: Callable[[Any, np.random.Generator], tuple[str, str, Mapping[str, Any]]] | None = None


def recordable(name: str) -> Recordable:
    """Raises ValueError for an unknown name, ImportError for a simulator that is not installed."""
    if name == "tabletop":
        from train.worlds.tabletop.behaviours import SHARES, behaviour
        from train.worlds.tabletop.events import draw_event
        from train.worlds.tabletop.simulator import SEGMENTED, Tabletop, tabletop_schema

        return Recordable(
            schema=tabletop_schema(),
            make=lambda resolution: Tabletop(resolution, segmentation=True),  # type: ignore[arg-type]
            simulate=lambda: Tabletop(physics_only=True),
            shares=SHARES,
            behaviour=behaviour,
            resolutions=(128, 64, 256),
            segmented=SEGMENTED,
            event=draw_event,
        )
    if name == "doom":
        from train.worlds.doom import simulator as doom

        return Recordable(
            schema=doom.doom_schema(),
            make=doom.Doom,
            simulate=doom.Doom,
            shares=doom.SHARES,
            behaviour=doom.behaviour,
            resolutions=(128, 64),
        )
    if name == "breakout":
        from train.worlds.breakout import simulator as breakout

        return Recordable(
            schema=breakout.breakout_schema(),
            make=breakout.Breakout,
            simulate=breakout.Breakout,
            shares=breakout.SHARES,
            behaviour=breakout.behaviour,
            resolutions=(breakout.RESOLUTION,),
        )
    raise ValueError(f"no world is called {name!r}: choose from {', '.join(WORLDS)}")
