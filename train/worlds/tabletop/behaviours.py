"""How a recorded player acts: each behaviour maps scene states to actions, with its own random generator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from train.worlds.tabletop.schema import ACTIONS, BODIES, tabletop_schema

SHARES = {"random": 0.35, "seek_body": 0.35, "seek_target": 0.2, "idle": 0.1}
_NONE, _NORTH, _SOUTH, _WEST, _EAST, _LEFT, _RIGHT = range(len(ACTIONS))


def behaviour(name: str, rng: np.random.Generator) -> Callable[[np.ndarray], int]:
    """A policy from float32 states ``(num_values,)`` to action indices. Camera orbits are sprinkled into all.

    Raises ValueError for a name that isn't in ``SHARES``.
    """
    if name not in SHARES:
        raise ValueError(f"behaviour {name!r} is unknown: choose from {', '.join(SHARES)}")
    schema = tabletop_schema()
    at = {(e.name, f.name): schema.columns(e.name, f.name) for e in schema.entities for f in e.fields}
    orbits = rng.choice([0.0, 0.03, 0.1], p=[0.35, 0.4, 0.25])
    held, left = _NONE, 0
    goal = ""

    def towards(state: np.ndarray, place: np.ndarray, *, brake: bool) -> int:
        error = place - state[at["player", "position"]]
        if brake:  # a player that lets go slides on for a sixth of a second
            error = error - state[at["player", "velocity"]] / 6
            if np.abs(error).max() < 0.025:
                return _NONE
        across, away = np.abs(error)
        first = across > away if rng.random() < 0.85 else across <= away
        if first:
            return _EAST if error[0] > 0 else _WEST
        return _NORTH if error[1] > 0 else _SOUTH

    def act(state: np.ndarray) -> int:
        nonlocal held, left, goal
        if left == 0 and rng.random() < orbits:
            held, left = int(rng.choice([_LEFT, _RIGHT])), int(rng.integers(2, 13))
        if left > 0:
            left -= 1
            return held
        if name == "idle":
            return _NONE
        if name == "random":
            held, left = int(rng.choice([_NONE, _NORTH, _SOUTH, _WEST, _EAST])), int(rng.integers(0, 8))
            return held
        if rng.random() < 0.12:
            return int(rng.integers(_EAST + 1))
        if name == "seek_target":
            return towards(state, state[at["target", "position"]], brake=True)
        others = [body for body in BODIES[1:] if state[at[body, "present"]][0] > 0.5]
        if not goal or rng.random() < 0.06:
            goal = str(rng.choice(others))
        return towards(state, state[at[goal, "position"]], brake=False)

    return act
