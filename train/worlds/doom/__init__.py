"""Doom's rooms seen in first person (ViZDoom)."""

from typing import Any

import gymnasium

if "Doom-v0" not in gymnasium.registry:
    gymnasium.register("Doom-v0", entry_point="train.worlds.doom.simulator:Doom", max_episode_steps=512)


def __getattr__(name: str) -> Any:
    if name == "RECIPE":
        from train.worlds.doom.recipe import RECIPE

        return RECIPE
    raise AttributeError(f"module {__name__} has no attribute {name}")
