"""Frames into video files as they are made, and clips out of them. PyAV does both, with the extra ``demo``."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

GIF_FPS = 20  # at the most, or it could not be shown everywhere
FORMATS = {"mp4": "libx264", "webm": "libvpx-vp9", "gif": "gif"}
_OPTIONS = {
    "mp4": {"preset": "veryfast", "crf": "18"},
    "webm": {"deadline": "realtime", "cpu-used": "6", "crf": "24", "b": "0"},
    "gif": {},
}
_PIECES = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}  # each can be played without those after it


def pyav() -> Any:
    """The package. Raises ImportError, with the mend, where it is not installed."""
    try:
        import av
    except ImportError:
        raise ImportError("video files need PyAV: pip install 'worldmodel-stream[demo]'") from None
    return av


def format_of(path: str | Path) -> str:
    """Raises ValueError for a name that ends like none of :data:`FORMATS`."""
    kind = Path(path).suffix.lstrip(".").lower()
    if kind not in FORMATS:
        raise ValueError(f"{path} is no video's name: let it end in .{', .'.join(FORMATS)}")
    return kind


class VideoWriter:
    """Writes a video frame by frame, in constant memory.

    Args:
        file: a path, or a binary file.
        size: (height, width) of the frames; others are brought to it.
        kind: one of :data:`FORMATS`; by default as the path ends.
        min_size: frames are enlarged by a whole factor until they are so high.
        smooth: whether enlarging is bicubic; else pixels stay squares.
        in_pieces: whether a file that was broken off can be played, but for its last two seconds.

    Raises ValueError for a path that ends in no known way, ImportError without PyAV, OSError where nothing can be
    written.
    """

    def __init__(
        self,
        file: str | Path | IO[bytes],
        *,
        fps: float,
        size: tuple[int, int],
        kind: str | None = None,
        min_size: int = 384,
        smooth: bool = False,
        in_pieces: bool = False,
    ) -> None:
        self.av = pyav()
        self.kind = kind or (format_of(file) if isinstance(file, (str, Path)) else "mp4")
        self.smooth, self.num_frames = smooth, 0
        options = _PIECES if in_pieces and self.kind == "mp4" else {}
        self._opened = open(file, "wb", buffering=0) if isinstance(file, (str, Path)) else None  # noqa: SIM115
        self._broken = False  # a write has failed
        self._container = self.av.open(self._opened or file, "w", format=self.kind, options=options)
        self._every = max(1, round(fps / GIF_FPS)) if self.kind == "gif" else 1
        fps = fps / self._every
        rate = Fraction(fps).limit_denominator(1000)
        self._stream = self._container.add_stream(FORMATS[self.kind], rate=rate, options=_OPTIONS[self.kind])
        factor = max(1, -(-min_size // size[0]))
        height, width = ((side * factor + 1) // 2 * 2 for side in size)
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "pal8" if self.kind == "gif" else "yuv420p"
        self._stream.thread_count = 1
        self._stream.codec_context.gop_size = max(1, round(2 * fps))
        self._palette = self._palettes(rate) if self.kind == "gif" else None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the file's pictures."""
        return self._stream.height, self._stream.width

    def write(self, frames: UInt8[np.ndarray, "n H W 3"]) -> None:
        """Appends frames, uint8 (n, H, W, 3)."""
        ways = self.av.video.reformatter.Interpolation
        way = ways.BICUBIC if self.smooth else ways.POINT
        height, width = self.size
        for frame in frames:
            self.num_frames += 1
            if (self.num_frames - 1) % self._every:
                continue
            picture = self.av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
            picture = picture.reformat(width=width, height=height, interpolation=way)
            picture.pts = (self.num_frames - 1) // self._every
            picture.time_base = 1 / self._stream.codec_context.framerate
            self._encode(picture)

    def close(self) -> None:
        """Ends the file; what was written can be played from then on."""
        if not self._broken:  # else FFmpeg would crash
            if self._palette is not None:
                self._palette.push(None)
                self._drain()
            self._mux(self._stream.encode())
        with suppress(Exception) if self._broken else nullcontext():
            self._container.close()
        if self._opened is not None:
            self._opened.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _encode(self, picture: Any) -> None:
        if self._palette is None:
            self._mux(self._stream.encode(picture))
        else:
            self._palette.push(picture)
            self._drain()

    def _drain(self) -> None:
        assert self._palette is not None
        while True:
            try:
                picture = self._palette.pull()
            except (BlockingIOError, EOFError):
                return
            self._mux(self._stream.encode(picture))

    def _mux(self, packets: Any) -> None:
        try:
            self._container.mux(packets)
        except Exception:
            self._broken = True
            raise

    def _palettes(self, rate: Fraction) -> Any:
        """A graph that gives each picture 256 colours of its own, as a GIF can have."""
        graph = self.av.filter.Graph()
        height, width = self.size
        source = graph.add_buffer(width=width, height=height, format="rgb24", time_base=1 / rate)
        split, make = graph.add("split"), graph.add("palettegen", "stats_mode=single")
        use, sink = graph.add("paletteuse", "new=1:dither=none"), graph.add("buffersink")
        source.link_to(split)
        split.link_to(use, 0, 0)
        split.link_to(make, 1, 0)
        make.link_to(use, 0, 1)
        use.link_to(sink)
        graph.configure()
        return graph


def read_clip(path: str | Path, *, size: tuple[int, int], fps: float, seconds: float) -> UInt8[Tensor, "T H W 3"]:
    """The last ``seconds`` of a clip at ``fps``, its middle brought to ``size``: uint8 (T, H, W, 3).

    Raises ValueError for a file that is missing, broken or no video, ImportError without PyAV.
    """
    av, path = pyav(), Path(path)
    if not path.is_file():
        raise ValueError(f"there is no clip {path}: name a video file")
    kept: list[tuple[float, np.ndarray]] = []
    try:
        with av.open(f"file:{path}", options={"protocol_whitelist": "file"}) as container:
            stream = container.streams.video[0]
            for frame in container.decode(stream):
                at = float(frame.pts * stream.time_base) if frame.pts is not None else len(kept) / fps
                kept.append((at, _middle(frame, size)))
                while kept[-1][0] - kept[0][0] > seconds + 1:
                    kept.pop(0)
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"{path} cannot be read as a video ({error}): choose another, or make it again") from None
    if not kept:
        raise ValueError(f"{path} has no pictures: choose another clip")
    times = np.array([at for at, _ in kept])
    count = max(1, min(round(seconds * fps), round((times[-1] - times[0]) * fps) + 1))
    wanted = times[-1] - np.arange(count)[::-1] / fps
    shown = np.searchsorted(times, wanted + 0.5 / fps, side="right") - 1
    return torch.from_numpy(np.stack([kept[i][1] for i in shown.clip(0)]))


def _middle(frame: Any, size: tuple[int, int]) -> np.ndarray:
    """A frame's middle in this size's aspect, uint8 (H, W, 3)."""
    height, width = size
    factor = max(height / frame.height, width / frame.width)
    large = max(height, round(frame.height * factor)), max(width, round(frame.width * factor))
    picture = frame.to_ndarray(format="rgb24", width=large[1], height=large[0], interpolation="AREA")
    top, left = (large[0] - height) // 2, (large[1] - width) // 2
    return picture[top : top + height, left : left + width]
