"""What the recorder needs to know of a world, by name; simulators are imported only when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tokenizer.scene_schema import SceneSchema

WORLDS = ("tabletop", "doom")


class World(Protocol):
    """An environment whose ``info`` holds ``state``, ``states``, ``frames`` and ``caption`` (see ``tabletop.py``)."""

    schema: SceneSchema

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]: ...

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Recordable:
    """A world and how it is played: ``shares`` says how often each behaviour, a policy from states to actions.

    ``segmented`` is the side of its entity maps in pixels, None for a world without.
    """

    schema: SceneSchema
    make: Callable[[int], World]
    shares: Mapping[str, float]
    behaviour: Callable[[str, np.random.Generator], Callable[[np.ndarray], int]]
    segmented: int | None = None


def recordable(name: str) -> Recordable:
    """Raises ValueError for an unknown name, ImportError for a simulator that is not installed."""
    if name == "tabletop":
        from train.worlds.tabletop import SEGMENTED, Tabletop, tabletop_schema
        from train.worlds.tabletop_behaviours import SHARES, behaviour

        return Recordable(
            schema=tabletop_schema(),
            make=lambda resolution: Tabletop(resolution, segmentation=True),  # type: ignore[arg-type]
            shares=SHARES,
            behaviour=behaviour,
            segmented=SEGMENTED,
        )
    if name == "doom":
        from train.worlds import doom

        return Recordable(schema=doom.doom_schema(), make=doom.Doom, shares=doom.SHARES, behaviour=doom.behaviour)
    raise ValueError(f"no world is called {name!r}: choose from {', '.join(WORLDS)}")
