"""Pictures brought to another size: halved exactly where that is enough, else resampled by Pillow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from tokenizer.clip import shrink

Fit = Literal["crop", "letterbox"]
Resample = Literal["area", "lanczos"]


@dataclass(frozen=True, kw_only=True)
class Resizing:
    """How pictures of ``stored`` (height, width) come to ``target``.

    ``fit`` says what becomes of another aspect: ``crop`` keeps the middle, ``letterbox`` shows all between black
    bars, None refuses it. ``resample`` is the filter: ``area`` means (Lanczos where the picture grows), or ``lanczos``.

    Raises ValueError for another aspect without a ``fit``, and for an unknown ``fit`` or ``resample``.
    """

    stored: tuple[int, int]
    target: tuple[int, int]
    fit: Fit | None = None
    resample: Resample = "area"

    def __post_init__(self) -> None:
        for name, value, known in (("fit", self.fit, Fit), ("resample", self.resample, Resample)):
            if value is not None and value not in get_args(known):
                raise ValueError(f"{name} {value!r} is unknown: choose {' or '.join(get_args(known))}")
        (height, width), (rows, columns) = self.stored, self.target
        if height * columns != width * rows and self.fit is None:
            raise ValueError(
                f"pictures of {height}x{width} (height x width) have another aspect than {rows}x{columns}: choose "
                "fit crop, which keeps the middle, or fit letterbox, which adds black bars"
            )

    @property
    def exact(self) -> bool:
        """Whether the target is all, half or a quarter of what is stored: then means of 2x2 pixels do."""
        return any(self.stored == (self.target[0] << i, self.target[1] << i) for i in range(3))

    def frames(self, frames: np.ndarray) -> np.ndarray:
        """uint8 ``(n, height, width, 3)`` to ``(n, *target, 3)``."""
        return shrink(frames, self.target) if self.exact else self._resampled(frames, smooth=True)

    def labels(self, labels: np.ndarray) -> np.ndarray:
        """Entity maps uint8 ``(n, h, w)`` of the same pictures, at any resolution, to ``(n, *target)``: the nearest."""
        return self._resampled(labels, smooth=False)

    def _resampled(self, pictures: np.ndarray, *, smooth: bool) -> np.ndarray:
        height, width = pictures.shape[1:3]
        rows, columns = self.target
        # Of a picture at another resolution than ``stored`` (an entity map) the same part is kept.
        scale = (rows / self.stored[0], columns / self.stored[1])
        left = top = 0.0
        inner_rows, inner_columns = rows, columns
        if self.fit == "crop":
            top = (1 - scale[0] / max(scale)) / 2 * height
            left = (1 - scale[1] / max(scale)) / 2 * width
        elif self.fit == "letterbox":
            inner_rows = max(1, round(self.stored[0] * min(scale)))
            inner_columns = max(1, round(self.stored[1] * min(scale)))
        down = inner_rows <= height - 2 * top and inner_columns <= width - 2 * left
        method = Image.Resampling.NEAREST
        if smooth:
            method = Image.Resampling.BOX if self.resample == "area" and down else Image.Resampling.LANCZOS
        box = (left, top, width - left, height - top)
        y, x = (rows - inner_rows) // 2, (columns - inner_columns) // 2
        out = np.zeros((len(pictures), rows, columns, *pictures.shape[3:]), np.uint8)
        for shown, picture in zip(out, pictures, strict=True):
            resized = Image.fromarray(np.ascontiguousarray(picture)).resize((inner_columns, inner_rows), method, box)
            shown[y : y + inner_rows, x : x + inner_columns] = np.asarray(resized)
        return out
