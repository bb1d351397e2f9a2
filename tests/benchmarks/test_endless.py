"""A world may be played for ever."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from worldmodel.storage import BUNDLED
from worldmodel.world import World

from ..worldmodel.tiny_world import tiny_world
from .endless import endure

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc"),
]


def test_ten_thousand_steps_take_no_more_memory_than_the_first_thousand():
    found = endure(tiny_world(), 10_000)
    assert found.growth < 0.01


@pytest.mark.skipif(not (BUNDLED / "tabletop" / "world.json").is_file(), reason="no bundled world")
def test_after_ten_thousand_steps_the_picture_is_still_a_table():
    found = endure(World.from_pretrained("tabletop", device="cpu"), 10_000)
    assert found.growth < 0.01
    first, last = found.first.astype(float), found.last.astype(float)
    assert np.abs(first.mean((0, 1)) - last.mean((0, 1))).max() < 30  # the light moves, the camera turns
    rows = np.stack([first.mean((1, 2)), last.mean((1, 2))])  # what lies above and below the table stays there
    assert np.corrcoef(rows)[0, 1] > 0.7
