"""Tabletop as others ask for it. MuJoCo is imported only to simulate."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from train.measure.bars import Bar
from train.worlds.contract import Recipe, Simulator, Size
from train.worlds.tabletop.behaviours import SHARES, behaviour
from train.worlds.tabletop.captions import claims
from train.worlds.tabletop.events import draw_event
from train.worlds.tabletop.release import SIZES, stages
from train.worlds.tabletop.schema import COLOURS, SEGMENTED, tabletop_schema

FOLDER = Path(__file__).parent
BARS = (
    Bar("tokenizer.body_psnr_db", "≥", 26),
    Bar("tokenizer.ids_per_frame", "≤", 16),
    Bar("tokenizer.small_body_recall", "≥", 0.95),
    Bar("tokenizer.small_body_precision", "≥", 0.95),
    Bar("rollout.player_error_16", "≤", 0.05),
    Bar("rollout.player_error_16_of_copy_last", "≤", 0.5),
    Bar("rollout.player_error_64", "≤", 0.1),
    Bar("rollout.others_error_64", "≤", 0.12),
    Bar("edit.obeyed", "≥", 0.95),
    Bar("edit.obeyed_first_step", "≥", 0.8),
    Bar("edit.others_undisturbed", "≥", 0.97),
    Bar("text.attributes_obeyed", "≥", 0.9),
    Bar("events.obeyed", "≥", 0.9),
    Bar("caption.claims_true", "≥", 0.9),
    Bar("endless.idle_sharpness_1024", "≥", 0.9),
    Bar("endless.idle_palette_1024", "≥", 0.9),
    Bar("endless.idle_bodies_constant_1024", "≥", 0.95),
    Bar("endless.moving_sharpness_1024", "≥", 0.9),
    Bar("endless.moving_palette_1024", "≥", 0.9),
    Bar("endless.moving_bodies_constant_1024", "≥", 0.95),
    Bar("speed.decode_ms_per_frame", "≤", 1.5),
    Bar("speed.upsample_ms_per_frame", "≤", 15),
)
PHRASES = {
    "events": {
        "stopped": "everything stops",
        "slower": "everything slows down",
        "as_is": "",
        "faster": "everything speeds up",
    },
    "shots": {"told": "a new shot", "dark": "the light goes out"},
}


def _make(size: Size) -> Simulator:
    from train.worlds.tabletop.simulator import Tabletop

    return Tabletop(size[0], segmentation=True)


def _simulate() -> Simulator:
    from train.worlds.tabletop.simulator import Tabletop

    return Tabletop(physics_only=True)


RECIPE = Recipe(
    schema=tabletop_schema(),
    make=_make,
    sizes=((128, 128), (64, 64), (256, 256)),
    simulate=_simulate,
    shares=SHARES,
    behaviour=behaviour,
    segmented=(SEGMENTED, SEGMENTED),
    editable=True,
    event=draw_event,
    claims=partial(claims, colours=COLOURS),
    phrases=PHRASES,
    bars=BARS,
    guidance=2.0,  # as captions are kept to best: `text` of an evaluation
    page=json.loads((FOLDER / "page.json").read_text(encoding="utf-8")),
    folder=FOLDER,
    release={name: partial(stages, size) for name, size in SIZES.items()},
    card=(FOLDER / "card.md").read_text(encoding="utf-8"),
)
