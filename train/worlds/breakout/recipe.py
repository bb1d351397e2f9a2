"""Breakout as others ask for it. ale-py is imported only to play."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from train.measure.bars import Bar
from train.worlds.breakout.behaviours import SHARES, behaviour
from train.worlds.breakout.schema import RESOLUTION, breakout_schema
from train.worlds.contract import Recipe, Simulator, Size

FOLDER = Path(__file__).parent


def _make(size: Size) -> Simulator:
    from train.worlds.breakout.simulator import Breakout

    return Breakout(size[0])


def _measure(*given: Any, **asked: Any) -> dict[str, Any]:
    from train.worlds.breakout.measures import measure_breakout

    return measure_breakout(*given, **asked)


RECIPE = Recipe(
    schema=breakout_schema(),
    make=_make,
    sizes=((RESOLUTION, RESOLUTION),),
    shares=SHARES,
    behaviour=behaviour,
    measures={"breakout": _measure},
    bars=(Bar("breakout.one_ball", "≥", 0.97), Bar("breakout.ball_agrees", "≥", 0.97)),
    page=json.loads((FOLDER / "page.json").read_text(encoding="utf-8")),
    folder=FOLDER,
)
