"""Sizes of pictures, and how many of them a step shows: said once, for all parts that must agree on them."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

FRAMES_PER_STEP = 4
"""Pixel frames of a step where nothing else is said: 15 steps a second of a world that runs at 60 frames.

Schema, recording and tokenizer each say it, for each is read alone; parts that come together must agree.
"""

Resolution = int | tuple[int, int]
"""A picture's size in pixels: the side of a square, or (height, width)."""


def picture_size(resolution: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a resolution: one number is the side of a square. Raises ValueError for anything else."""
    sides = list(resolution) if isinstance(resolution, Sequence) else [resolution] * 2
    if len(sides) != 2 or not all(isinstance(side, Integral) and int(side) > 0 for side in sides):
        raise ValueError(f"a picture's size is a number of pixels or [height, width], got {resolution!r}")
    return int(sides[0]), int(sides[1])


def picture_resolution(said: int | Sequence[int]) -> Resolution:
    """A resolution as configurations keep it: one number stays one, a list becomes (height, width)."""
    size = picture_size(said)
    return size if isinstance(said, Sequence) else size[0]


def whole_cells(resolution: Resolution, cell: int) -> tuple[int, int]:
    """How many (rows, columns) of square cells a picture has. Raises ValueError where a cell would be cut."""
    height, width = picture_size(resolution)
    if height % cell or width % cell:
        near = tuple(max(1, round(side / cell)) * cell for side in (height, width))
        said = f"resolution {resolution}" if isinstance(resolution, int) else f"resolution {height} x {width}"
        raise ValueError(
            f"{said} is not a multiple of the cell of {cell} pixels: {near[0]} x {near[1]} (height x width) would be"
        )
    return height // cell, width // cell


def said_size(size: tuple[int, int]) -> str:
    """A size as sentences say it: height x width."""
    return f"{size[0]}x{size[1]}"
