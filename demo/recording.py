"""Frames into an mp4 in memory, as the player sees them."""

from __future__ import annotations

import io
import threading
from typing import Any

import numpy as np


class Recording:
    """H.264 in yuv420p, which every player shows, at least ``min_size`` pixels high.

    Small pictures are enlarged by a whole factor, so that one video holds frames from before and after the
    upsampler was switched and pixels stay sharp. ``write`` and ``finish`` may come from different threads.
    """

    def __init__(self, *, fps: int, min_size: int = 384, max_seconds: float = 300.0) -> None:
        self.fps, self.min_size, self.max_frames = fps, min_size, int(max_seconds * fps)
        self.num_frames = 0
        self._file = io.BytesIO()
        self._video: tuple[Any, Any] | None = None  # container and stream, opened by the first frame
        self._lock = threading.Lock()
        self._finished = False

    @property
    def full(self) -> bool:
        return self.num_frames >= self.max_frames

    def write(self, frames: np.ndarray) -> None:
        """Appends uint8 ``(n, height, width, 3)``; frames beyond ``max_seconds`` are left out."""
        import av

        with self._lock:
            if self._finished:
                return
            self._video = container, stream = self._video or self._open(*frames.shape[1:3])
            for frame in frames[: self.max_frames - self.num_frames]:
                picture = av.VideoFrame.from_ndarray(_fit(frame, stream.height, stream.width), "rgb24")
                container.mux(stream.encode(picture))
                self.num_frames += 1

    def finish(self) -> bytes:
        """The whole mp4; empty if nothing was written."""
        with self._lock:
            if self._video is not None and not self._finished:
                container, stream = self._video
                container.mux(stream.encode())
                container.close()
            self._finished = True
            return self._file.getvalue()

    def _open(self, height: int, width: int) -> tuple[Any, Any]:
        import av

        factor = max(1, -(-self.min_size // height))
        container = av.open(self._file, "w", format="mp4")
        stream = container.add_stream("libx264", rate=self.fps, options={"preset": "veryfast", "crf": "18"})
        stream.height, stream.width = (height * factor + 1) // 2 * 2, (width * factor + 1) // 2 * 2
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        return container, stream


def _fit(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest neighbour to ``(height, width)``."""
    rows = np.arange(height) * frame.shape[0] // height
    columns = np.arange(width) * frame.shape[1] // width
    return np.ascontiguousarray(frame[rows[:, None], columns])
