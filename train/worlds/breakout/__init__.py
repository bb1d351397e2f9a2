"""Atari's Breakout (ale-py, which takes the name ``Breakout-v0`` for its own)."""

from typing import Any

import gymnasium

if "AtariBreakout-v0" not in gymnasium.registry:
    gymnasium.register(
        "AtariBreakout-v0", entry_point="train.worlds.breakout.simulator:Breakout", max_episode_steps=4096
    )


def __getattr__(name: str) -> Any:
    if name == "RECIPE":
        from train.worlds.breakout.recipe import RECIPE

        return RECIPE
    raise AttributeError(f"module {__name__} has no attribute {name}")
