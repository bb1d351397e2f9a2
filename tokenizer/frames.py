"""Sizes of pictures, and how many of them a step shows: said once, for all parts that must agree on them."""

from __future__ import annotations

from collections.abc import Sequence

FRAMES_PER_STEP = 4
"""Pixel frames of a step where nothing else is said: 15 steps a second of a world that runs at 60 frames.

Schema, recording and tokenizer each say it, for each is read alone; parts that come together must agree.
"""

Resolution = int | tuple[int, int]
"""A picture's size in pixels: the side of a square, or (height, width)."""


def picture_resolution(said: int | Sequence[int]) -> Resolution:
    """A resolution as configurations keep it: an int stays one, a list becomes (height, width).

    Raises ValueError for anything else, and for a picture without pixels.
    """
    sides = [said] if isinstance(said, int) else list(said)
    if not (isinstance(said, int) or len(sides) == 2) or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"a resolution is the side of a square or [height, width] in pixels, got {said!r}")
    return said if isinstance(said, int) else (sides[0], sides[1])


def picture_size(resolution: Resolution) -> tuple[int, int]:
    """(height, width) of a resolution."""
    return (resolution, resolution) if isinstance(resolution, int) else resolution


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
