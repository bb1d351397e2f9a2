"""One kind of scene: bodies on a floor, seen from above or by an orbiting camera; built where a schema has a view.

This is the door: from outside, nothing below it is imported. ``scene_renderer`` and ``scene_painter`` give None for a
schema without a view, and ``state_painter`` what such a schema needs no more than.
"""

from tokenizer.scene.camera import cell_centres, project, unproject
from tokenizer.scene.grid_painter import GridPainter, scene_painter
from tokenizer.scene.renderer import SceneRenderer, composite, scene_renderer
from tokenizer.scene.slot_painter import SlotPainter, state_painter
from tokenizer.scene.state_reader import SceneReading, StateMotion, StateReader
from tokenizer.scene.tiles import tile_middles

__all__ = [
    "GridPainter",
    "SceneReading",
    "SceneRenderer",
    "SlotPainter",
    "StateMotion",
    "StateReader",
    "cell_centres",
    "composite",
    "project",
    "scene_painter",
    "scene_renderer",
    "state_painter",
    "tile_middles",
    "unproject",
]
