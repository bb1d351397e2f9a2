"""How a recorded Doom is walked through."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from train.worlds.doom.schema import ACTIONS

SHARES = {"wander": 0.8, "turn": 0.2}


def behaviour(name: str, rng: np.random.Generator) -> Callable[[np.ndarray], int]:
    """A policy from float32 states to action indices: walk and turn away from walls, or mostly look around.

    Raises ValueError for a name that isn't in ``SHARES``.
    """
    if name not in SHARES:
        raise ValueError(f"behaviour {name!r} is unknown: choose from {', '.join(SHARES)}")
    held, left = 1, 0
    last = np.full(2, np.inf)

    def act(state: np.ndarray) -> int:
        nonlocal held, left, last
        stuck = held != 0 and np.abs(state[:2] - last).max() < 2.0
        last = state[:2].copy()
        left -= 1
        if stuck and ACTIONS[held].startswith("forward"):
            held, left = int(rng.choice([2, 3])), int(rng.integers(6, 13))  # a quarter to half a turn
        elif left <= 0:
            weights = [0.02, 0.5, 0.1, 0.1, 0.14, 0.14] if name == "wander" else [0.1, 0.2, 0.3, 0.3, 0.05, 0.05]
            held, left = int(rng.choice(len(ACTIONS), p=weights)), int(rng.integers(1, 7))
        return held

    return act
