"""Doom as others ask for it. ViZDoom is imported only to play."""

from __future__ import annotations

import json
from pathlib import Path

from train.worlds.contract import Recipe, Simulator, Size
from train.worlds.doom.behaviours import SHARES, behaviour
from train.worlds.doom.schema import doom_schema

FOLDER = Path(__file__).parent


def _make(size: Size) -> Simulator:
    from train.worlds.doom.simulator import Doom

    return Doom(size[0])


RECIPE = Recipe(
    schema=doom_schema(),
    make=_make,
    sizes=((128, 128), (64, 64)),
    shares=SHARES,
    behaviour=behaviour,
    page=json.loads((FOLDER / "page.json").read_text(encoding="utf-8")),
    folder=FOLDER,
)
