"""A fixed window of video with everything that happened in it, and the whole recording it was cut from.

Time runs in two units. A *pixel frame* is one picture; a *latent frame* is what one step produces: the
first pixel frame alone, then ``frames_per_step`` pixel frames for every action. So ``1 + r * n`` pixel
frames, ``n`` actions and ``1 + n`` states belong together, and the state of a step is the state at its
last pixel frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Clip:
    """``n`` consecutive steps of one episode.

    Attributes:
        frames: uint8 ``(1 + r * n, height, width, 3)``, RGB.
        actions: int64 ``(n,)``, or None for plain video.
        states: float32 ``(1 + n, num_values)`` in the scene schema's units, or None for video without state.
        caption: what a person would say of the scene; empty when unknown.
        segmentation: uint8 ``(1 + r * n, h, w)``: 0 is background, ``i + 1`` the schema's i-th entity. Kept
            for evaluation and loss weights; its resolution may be lower than the frames'.
    """

    frames: np.ndarray
    actions: np.ndarray | None = None
    states: np.ndarray | None = None
    caption: str = ""
    segmentation: np.ndarray | None = None

    @property
    def num_steps(self) -> int:
        for steps in (self.actions, None if self.states is None else self.states[1:]):
            if steps is not None:
                return len(steps)
        raise ValueError("a clip of plain video has no step count of its own: divide its frames by frames_per_step")


@dataclass(frozen=True, kw_only=True)
class Episode(Clip):
    """A recording from reset to its end; ``seed`` and ``behaviour`` say how to make it again."""

    seed: int = 0
    behaviour: str = ""
    frames_per_step: int = 4

    def window(self, start: int, num_steps: int) -> Clip:
        """Cuts ``num_steps`` steps that begin with latent frame ``start`` shown as a single pixel frame."""
        r = self.frames_per_step
        pixels = slice(start * r, (start + num_steps) * r + 1)
        return Clip(
            frames=self.frames[pixels],
            actions=None if self.actions is None else self.actions[start : start + num_steps],
            states=None if self.states is None else self.states[start : start + num_steps + 1],
            caption=self.caption,
            segmentation=None if self.segmentation is None else self.segmentation[pixels],
        )

    def with_frames(self, frames: np.ndarray) -> Episode:
        """The same episode seen at another resolution."""
        return replace(self, frames=frames)


def shrink(frames: np.ndarray, side: int) -> np.ndarray:
    """Frames uint8 ``(..., h, w, 3)`` halved until they are ``side`` pixels high; ValueError if none of that are."""
    while frames.shape[-3] > side:
        frames = halve(frames)
    if frames.shape[-3] != side:
        raise ValueError(f"frames of {frames.shape[-3]} pixels are no {side} made larger twice, four times, and so on")
    return frames


def halve(frames: np.ndarray) -> np.ndarray:
    """Mean of 2x2 pixels, rounded: uint8 ``(..., 2h, 2w, 3)`` to ``(..., h, w, 3)``. How 64 is made of 128."""
    wide = frames.astype(np.uint16)
    rows = wide[..., 0::2, :, :] + wide[..., 1::2, :, :]
    return ((rows[..., 0::2, :] + rows[..., 1::2, :] + 2) >> 2).astype(np.uint8)
