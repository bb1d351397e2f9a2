"""How a recorded Breakout is played: a tracker that sometimes misses, held actions, any."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from train.worlds.breakout.schema import ACTIONS, breakout_schema

SHARES = {"track": 0.6, "wander": 0.25, "random": 0.15}
PADDLE_Y = 79.625
_SIDES = (4.625, 75.625)  # where the ball's middle turns back
_PUSHES = {0: 0, 2: 3, 3: -3}  # which way an action moves the aim


def behaviour(name: str, rng: np.random.Generator) -> Callable[[np.ndarray], int]:
    """A policy from float32 states to action indices: follow the ball and sometimes miss, hold an action, or any.

    Raises ValueError for a name that isn't in ``SHARES``.
    """
    if name not in SHARES:
        raise ValueError(f"behaviour {name!r} is unknown: choose from {', '.join(SHARES)}")
    if name == "track":
        return tracker(rng, careless=0.06)
    longest = 6 if name == "wander" else 1
    held, left = 0, 0

    def act(state: np.ndarray) -> int:
        nonlocal held, left
        left -= 1
        if left <= 0:
            held, left = int(rng.integers(len(ACTIONS))), int(rng.integers(1, longest + 1))
        return held

    return act


def tracker(rng: np.random.Generator, *, careless: float) -> Callable[[np.ndarray], int]:
    """Follows the ball to meet it with another part of the paddle each time, and fires when there is none.

    ``careless`` is how often it is late for a step, and how often it goes for the wrong place.
    """
    schema = breakout_schema()
    ball, paddle = ({f.name: schema.columns(e.name, f.name) for f in e.fields} for e in schema.entities[:2])
    held, fell, offset = 0, False, 0.0

    def landing(x: float, y: float, across: float, down: float) -> tuple[float, float]:
        """Where the ball comes down to the paddle, thrown back by the sides, and in how many frames."""
        if down <= 0:
            return x, 8.0  # stay below it while it rises
        low, span = _SIDES[0], _SIDES[1] - _SIDES[0]
        frames = max(PADDLE_Y - 3 - y, 0) / down
        far = (x + across * frames - low) % (2 * span)
        return low + min(far, 2 * span - far), frames

    def towards(goal: float, frames: float, here: float, ahead: float) -> int:
        """The action after which the paddle, let go, is nearest to the goal in so many frames."""
        errors = {}
        for action, push in _PUSHES.items():
            x, aim = here, ahead
            for frame in range(min(max(round(frames), 4), 8)):
                x, aim = (x + aim) / 2, aim + push * (frame < schema.frames_per_step)
            errors[action] = abs(x - goal)
        return min(errors, key=errors.__getitem__)

    def act(state: np.ndarray) -> int:
        nonlocal held, fell, offset
        if rng.random() < careless:
            return held
        if state[ball["present"]].item() < 0.5:
            held = ACTIONS.index("fire") if rng.random() < 0.5 else int(rng.integers(len(ACTIONS)))
            return held
        velocity = state[ball["velocity"]].tolist()
        if velocity[1] > 0 and not fell:
            offset = rng.uniform(-16, 16) if rng.random() < careless else rng.normal()
        fell = velocity[1] > 0
        goal, frames = landing(*state[ball["position"]].tolist(), *velocity)
        held = towards(goal + offset, frames, state[paddle["position"]][0].item(), state[paddle["aim"]].item())
        return held

    return act
