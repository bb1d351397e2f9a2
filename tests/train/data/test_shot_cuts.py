"""Cuts are found between moving pictures, at the very ends too; motion, a fade and black are none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from train.data.shot_cuts import Shown, split_at_cuts


def pan(seed: int, count: int, speed: int) -> list[np.ndarray]:
    """A camera that moves ``speed`` of 112 pixels a picture over a blurred scene."""
    blocks = np.random.default_rng(seed).integers(0, 256, (12, 20, 3)).astype(np.uint8)
    scene = np.asarray(Image.fromarray(blocks).resize((900, 400), Image.Resampling.BICUBIC))
    return [scene[100:164, i * speed : i * speed + 112] for i in range(count)]


def begins(pictures: list[np.ndarray]) -> list[int]:
    marked = list(split_at_cuts(Shown(pixels, i, i == 0) for i, pixels in enumerate(pictures)))
    assert [shown.number for shown in marked] == list(range(len(pictures)))
    return [shown.number for shown in marked if shown.begins]


@pytest.mark.parametrize("speed", [0, 2, 5])
@pytest.mark.parametrize("grey", [False, True])
def test_a_cut_between_moving_pictures_is_found_and_the_motion_is_none(speed: int, grey: bool) -> None:
    pictures = pan(1, 1, speed) + pan(2, 25, speed) + pan(3, 3, speed) + pan(4, 25, speed) + pan(5, 1, speed)
    if grey:
        pictures = [np.repeat(p.mean(-1, keepdims=True), 3, -1).astype(np.uint8) for p in pictures]
    assert begins(pictures) == [0, 1, 26, 29, 54]


def test_a_fade_and_black_are_no_cuts() -> None:
    faded = [(p * min(i, 59 - i, 20) / 20).astype(np.uint8) for i, p in enumerate(pan(1, 60, 2))]
    assert begins(faded[1:-1]) == [0]
    assert begins([np.zeros((16, 16, 3), np.uint8)] * 30) == [0]


def test_a_held_picture_stays_with_its_shot() -> None:
    one, two = pan(1, 6, 2), pan(2, 6, 2)
    held = [Shown(p, i // 3, i == 0) for i, p in enumerate(np.repeat(np.stack(one + two), 3, 0))]
    assert [i for i, shown in enumerate(split_at_cuts(held)) if shown.begins] == [0, 18]
