"""A fixed window of video with everything that happened in it, and the whole recording it was cut from.

Time runs in two units. A *pixel frame* is one picture; a *latent frame* is what one step produces: the
first pixel frame alone, then ``frames_per_step`` pixel frames for every action. So ``1 + r * n`` pixel
frames, ``n`` actions and ``1 + n`` states belong together, and the state of a step is the state at its
last pixel frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenizer.frames import FRAMES_PER_STEP, picture_size


@dataclass(frozen=True, kw_only=True)
class Clip:
    """``n`` consecutive steps of one episode. What was not recorded is None, never zeros.

    Attributes:
        frames: uint8 ``(1 + r * n, height, width, 3)``, RGB.
        actions: ``(n, A)``, one column for each part of the action space, in its own units: int64 when all parts
            are choices, else float32. None where nobody steered.
        states: float32 ``(1 + n, num_values)`` in the scene schema's units, or None for video without state.
        caption: what a person would say of the scene; empty when unknown.
        segmentation: uint8 ``(1 + r * n, h, w)``: 0 is background, ``i + 1`` the schema's i-th entity. Kept
            for evaluation and loss weights; its resolution may be lower than the frames'.
        rewards: float32 ``(n,)``, what each step brought; None for a world whose schema tells it, or without any.
        terminated: bool ``(n,)``, whether each step ended the episode; None likewise.
    """

    frames: np.ndarray
    actions: np.ndarray | None = None
    states: np.ndarray | None = None
    caption: str = ""
    segmentation: np.ndarray | None = None
    rewards: np.ndarray | None = None
    terminated: np.ndarray | None = None

    @property
    def num_steps(self) -> int:
        states = None if self.states is None else self.states[1:]
        for steps in (self.actions, states, self.rewards, self.terminated):
            if steps is not None:
                return len(steps)
        raise ValueError("a clip of plain video has no step count of its own: divide its frames by frames_per_step")


@dataclass(frozen=True, kw_only=True)
class Episode(Clip):
    """A recording from reset to its end; ``seed`` and ``behaviour`` say how to make it again.

    ``truncated``: its last step was cut by a limit of time or place, not by the world itself.
    """

    seed: int = 0
    behaviour: str = ""
    frames_per_step: int = FRAMES_PER_STEP
    truncated: bool = False

    @property
    def num_steps(self) -> int:
        return (len(self.frames) - 1) // self.frames_per_step

    def window(self, start: int, num_steps: int) -> Clip:
        """Cuts ``num_steps`` steps that begin with latent frame ``start`` shown as a single pixel frame."""
        r = self.frames_per_step
        pixels, steps = slice(start * r, (start + num_steps) * r + 1), slice(start, start + num_steps)
        return Clip(
            frames=self.frames[pixels],
            actions=None if self.actions is None else self.actions[steps],
            states=None if self.states is None else self.states[start : start + num_steps + 1],
            caption=self.caption,
            segmentation=None if self.segmentation is None else self.segmentation[pixels],
            rewards=None if self.rewards is None else self.rewards[steps],
            terminated=None if self.terminated is None else self.terminated[steps],
        )

    def with_frames(self, frames: np.ndarray) -> Episode:
        """The same episode seen at another resolution."""
        return replace(self, frames=frames)


def shrink(frames: np.ndarray, size: int | Sequence[int]) -> np.ndarray:
    """Frames uint8 ``(..., h, w, 3)`` halved until they are of ``size``; ValueError if none of that are."""
    height, width = picture_size(size)
    small, (rows, columns) = frames, frames.shape[-3:-1]
    while rows > height and columns > width and rows % 2 == columns % 2 == 0:
        rows, columns = rows // 2, columns // 2
    if (rows, columns) != (height, width):
        raise ValueError(
            f"frames of {frames.shape[-3]}x{frames.shape[-2]} pixels are no {height}x{width} made larger twice, "
            "four times, and so on"
        )
    while small.shape[-3] > height:
        small = halve(small)
    return small


def halve(frames: np.ndarray) -> np.ndarray:
    """Mean of 2x2 pixels, rounded: uint8 ``(..., 2h, 2w, 3)`` to ``(..., h, w, 3)``. How 64 is made of 128."""
    wide = frames.astype(np.uint16)
    rows = wide[..., 0::2, :, :] + wide[..., 1::2, :, :]
    return ((rows[..., 0::2, :] + rows[..., 1::2, :] + 2) >> 2).astype(np.uint8)
