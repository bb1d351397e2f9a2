"""Frames into an mp4 in memory, as the player sees them."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # the page comes up while it loads
    from worldmodel.video_file import VideoWriter


class Recording:
    """H.264 in yuv420p, which every player shows, at least ``min_size`` pixels high.

    Small pictures are enlarged by a whole factor, so that one video holds frames from before and after the
    upsampler was switched and pixels stay sharp. ``write`` and ``finish`` may come from different threads.
    """

    def __init__(self, *, fps: int, min_size: int = 384, max_seconds: float = 300.0) -> None:
        self.fps, self.min_size, self.max_frames = fps, min_size, int(max_seconds * fps)
        self._file = io.BytesIO()
        self._video: VideoWriter | None = None  # opened by the first frame
        self._lock = threading.Lock()
        self._finished = False

    @property
    def num_frames(self) -> int:
        return 0 if self._video is None else self._video.num_frames

    @property
    def full(self) -> bool:
        return self.num_frames >= self.max_frames

    def write(self, frames: np.ndarray) -> None:
        """Appends uint8 ``(n, height, width, 3)``; frames beyond ``max_seconds`` are left out."""
        from worldmodel.video_file import VideoWriter

        with self._lock:
            if self._finished:
                return
            if self._video is None:
                self._video = VideoWriter(self._file, fps=self.fps, size=frames.shape[1:3], min_size=self.min_size)
            self._video.write(frames[: self.max_frames - self._video.num_frames])

    def finish(self) -> bytes:
        """The whole mp4; empty if nothing was written."""
        with self._lock:
            if self._video is not None and not self._finished:
                self._video.close()
            self._finished = True
            return self._file.getvalue()
