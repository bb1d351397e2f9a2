"""The pictures of a clip: decoded, set on even times by their time stamps, and framed in one size.

Whatever a player would do is done here: edit lists, rotation and mirroring, pixels that are not square, interlacing,
colour matrices, ranges and HDR. FFmpeg does it, through PyAV. Damaged parts are left out and said.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from typing import Any

import av
import av.error
import av.filter
import numpy as np
from PIL import Image, ImageSequence

from train.data.resizing import Fit
from train.data.shot_cuts import Shown
from train.data.video_files import (
    Footage,
    UnreadableError,
    frame_rate,
    open_still,
    opened,
    pixel_aspect,
    stated_seconds,
)

LONGEST_HOLD = 60.0  # seconds that a picture may stand without another: a longer gap ends the shot
_USUAL_RATE = 25.0
_OUT_OF_ORDER = 1.0  # seconds by which a time stamp may fall back without being of another time
_RESHAPED = 1.05  # pictures whose aspect changes by more are another shot
_SAY_THEIR_LENGTH = {"mov", "matroska", "avi", "flv", "asf"}  # others guess it from the file's size
_HDR = (16, 18)  # PQ and HLG, of the transfer curves
_UNSPECIFIED, _HD = 2, 720  # a colour matrix that isn't told is BT.709 from this height on, as players take it
_WHITE = 255  # what is seen through a transparent pixel
_LARGE_STEP = 32  # by which one pass of the scaler still takes means exactly


@dataclass(frozen=True, kw_only=True)
class TimedPicture:
    """A decoded picture, shown from ``time`` for ``duration`` seconds. ``aspect`` is how wide its pixels are for their
    height. It ``begins`` a stretch where it has no part with the one before it: of another shape or another time."""

    picture: av.VideoFrame
    time: float
    duration: float
    aspect: Fraction = Fraction(1)
    begins: bool = False


@dataclass
class Losses:
    """What could not be read of a clip: sentences, and the seconds that are missing."""

    said: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, sentence: str, seconds: float = 0.0) -> None:
        self.said.append(sentence)
        self.seconds += seconds


# -- decoding -------------------------------------------------------------------------------------------


def timed_pictures(footage: Footage, losses: Losses, stills_fps: float) -> Iterator[TimedPicture]:
    """All pictures of a clip, one at a time, in the order of their times; ``stills_fps`` is the rate of a folder of
    stills. Raises UnreadableError where there are none."""
    if footage.stills:
        pictures = _stills(footage, losses, stills_fps)
    elif footage.path.suffix.lower() == ".webp":
        pictures = _animation(footage)
    else:
        pictures = _video(footage, losses)
    last: TimedPicture | None = None
    try:
        for picture in pictures:
            if last is not None and _apart(last, picture):
                picture = replace(picture, begins=True)
                if (gap := picture.time - last.time) > LONGEST_HOLD:
                    losses.add(f"there is no picture for {gap:.0f} s")
            yield picture
            last = picture
    except (av.error.FFmpegError, MemoryError) as error:
        raise UnreadableError(f"its pictures cannot be decoded ({error})") from error
    if last is None:
        raise UnreadableError("none of its pictures can be decoded")


def _apart(last: TimedPicture, picture: TimedPicture) -> bool:
    old, new = (float(p.picture.width * p.aspect / p.picture.height) for p in (last, picture))
    turned = orientation(picture.picture) != orientation(last.picture)
    gap = picture.time - last.time
    return turned or not 0 <= gap <= LONGEST_HOLD or not 1 / _RESHAPED <= new / old <= _RESHAPED


def _stills(footage: Footage, losses: Losses, fps: float) -> Iterator[TimedPicture]:
    for i, path in enumerate(footage.stills):
        try:
            picture = _from_image(open_still(path))
        except UnreadableError as error:
            losses.add(f"{path.name}: {error}", 1 / fps)
            continue
        yield TimedPicture(picture=picture, time=i / fps, duration=1 / fps)


def _animation(footage: Footage) -> Iterator[TimedPicture]:
    """An animated webp, which FFmpeg cannot decode and Pillow can."""
    time = 0.0
    try:
        with Image.open(footage.path) as image:
            for shown in ImageSequence.Iterator(image):
                picture = _from_image(shown)  # also reads how long it is shown
                duration = (shown.info.get("duration") or 100) / 1000
                yield TimedPicture(picture=picture, time=time, duration=duration)
                time += duration
    except (OSError, ValueError, SyntaxError) as error:
        raise UnreadableError(f"it cannot be read ({error})") from error


def _from_image(image: Image.Image) -> av.VideoFrame:
    if image.mode.startswith("I"):  # 16 bit grey, which Pillow would clip
        deep = np.asarray(image).astype(np.int64).clip(0, 65535)
        return av.VideoFrame.from_ndarray((deep >> 8).astype(np.uint8), format="gray")
    if image.has_transparency_data:
        return av.VideoFrame.from_ndarray(np.asarray(image.convert("RGBA")), format="rgba")
    return av.VideoFrame.from_ndarray(np.asarray(image.convert("RGB")), format="rgb24")


@dataclass
class _Damage:
    pieces: int = 0  # packets or pictures that cannot be used
    fresh: bool = False  # some lie between the last picture and the next
    stopped: str = ""  # why reading ended before the file did
    reach: float = 0.0  # seconds up to which there is anything in the file, sound included


def _video(footage: Footage, losses: Losses) -> Iterator[TimedPicture]:
    timed = _has_times(footage)
    with opened(footage.path) as (container, stream):
        rate, aspect = float(frame_rate(stream) or _USUAL_RATE), pixel_aspect(stream)
        stated, damage = stated_seconds(container, stream), _Damage()
        deinterlacer: _Deinterlacer | None = None
        start = last = end = hidden = 0.0
        usual = 1 / rate
        count, one_piece = 0, True
        for picture in _decoded(container, stream, damage):
            time = end
            if timed and picture.pts is not None and picture.time_base is not None:
                time = float(picture.pts * picture.time_base)
            elif not timed:
                time = count / rate
            duration = float(picture.duration * picture.time_base) if timed and picture.time_base else 0.0
            if not 0 < duration <= LONGEST_HOLD:
                duration = usual
            usual = duration
            if count and 0 < last - time < _OUT_OF_ORDER:
                time = last
            start = time if count == 0 else start
            gap = time - end if count else 0.0
            begins = damage.fresh and gap > 0.5 / rate and count > 0
            hidden += gap if begins else 0.0
            one_piece = one_piece and gap >= -_OUT_OF_ORDER - duration
            damage.fresh, last, end, count = False, time, time + duration, count + 1
            shown = TimedPicture(picture=picture, time=time, duration=duration, aspect=aspect, begins=begins)
            if deinterlacer is None and picture.interlaced_frame and min(picture.width, picture.height) >= 16:
                deinterlacer = _Deinterlacer()
            yield from [shown] if deinterlacer is None else deinterlacer.push(shown)
        if deinterlacer is not None:
            yield from deinterlacer.flush()
        if damage.pieces:
            losses.add(f"damaged pictures are left out ({damage.pieces})", hidden)
        if damage.stopped:
            losses.add(f"reading stopped after {end - start:.1f} s ({damage.stopped})")
        if not count or not stated or not one_piece or not _SAY_THEIR_LENGTH & set(container.format.name.split(",")):
            return
        began = (container.start_time or 0) / av.time_base
        missing = stated - (end - start if stream.duration else max(end, damage.reach) - began)
        if missing > max(0.25, 2.5 / rate):
            losses.add(f"the last {missing:.1f} of {stated:.1f} s are missing from the file", missing)


def _decoded(container: Any, stream: Any, damage: _Damage) -> Iterator[av.VideoFrame]:
    packets = container.demux()
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except (av.error.FFmpegError, OSError) as error:
            damage.stopped = str(getattr(error, "strerror", None) or error)
            packet = None
        if packet is not None and packet.pts is not None and packet.time_base is not None:
            damage.reach = max(damage.reach, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet is not None and packet.stream_index != stream.index:
            continue
        try:
            pictures = stream.decode(packet)
        except (av.error.FFmpegError, OSError):
            if packet is not None and packet.size:
                damage.pieces, damage.fresh = damage.pieces + 1, True
            pictures = []
        for picture in pictures:
            # What follows damage is drawn upon it, up to a picture that stands by itself.
            if picture.is_corrupt or (damage.fresh and not picture.key_frame):
                damage.pieces, damage.fresh = damage.pieces + 1, True
            else:
                yield picture
        if packet is None:
            return


def _has_times(footage: Footage) -> bool:
    """Whether a file's packets tell different times. Where not, the pictures are even."""
    with opened(footage.path) as (container, stream):
        times = []
        try:
            for packet in islice(container.demux(stream), 32):
                if packet.size:
                    times.append(packet.pts if packet.pts is not None else packet.dts)
        except (av.error.FFmpegError, OSError):
            pass
        return len(set(times) - {None}) > 1 or len(times) < 2


class _Deinterlacer:
    """Fills the missing lines of pictures that are marked as interlaced, and leaves the others as they are."""

    def __init__(self) -> None:
        self._graph: av.filter.Graph | None = None
        self._shape: tuple[int, int, str] | None = None
        self._waiting: deque[TimedPicture] = deque()

    def push(self, shown: TimedPicture) -> Iterator[TimedPicture]:
        picture = shown.picture
        shape = (picture.width, picture.height, picture.format.name)
        if shape != self._shape or shown.begins:
            yield from self.flush()
            self._shape = shape
            self._graph = graph = av.filter.Graph()
            source = graph.add_buffer(
                width=picture.width, height=picture.height, format=picture.format, time_base=picture.time_base
            )
            bwdif = graph.add("bwdif", mode="send_frame", parity="auto", deint="interlaced")
            graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()
        assert self._graph is not None
        self._waiting.append(shown)
        self._graph.vpush(picture)
        yield from self._pulled()

    def flush(self) -> Iterator[TimedPicture]:
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._pulled()
        self._graph = self._shape = None

    def _pulled(self) -> Iterator[TimedPicture]:
        assert self._graph is not None
        while self._waiting:
            try:
                picture = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            yield replace(self._waiting.popleft(), picture=picture)


# -- even times -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Tick:
    """What is shown at one of the even times. ``number`` counts the pictures that were decoded, so that a picture
    that is held keeps its number."""

    shown: TimedPicture
    number: int
    begins: bool


def on_even_times(pictures: Iterable[TimedPicture], fps: float) -> Iterator[Tick]:
    """Pictures at ``fps``, from the first one's time on.

    Each even time has the picture nearest to it, if one begins within half a frame; otherwise the last one is held,
    as a player would show it. Every stretch begins anew.
    """
    start, at, begins = 0.0, 0, True
    nearest: tuple[int, TimedPicture] | None = None  # to even time `at`
    latest: tuple[int, TimedPicture] | None = None

    def until(stop: int) -> Iterator[Tick]:
        nonlocal begins
        assert nearest is not None
        assert latest is not None
        for i in range(at, stop):
            number, shown = nearest if i == at else latest
            yield Tick(shown=shown, number=number, begins=begins)
            begins = False

    def end() -> int:
        assert latest is not None
        since = latest[1].time - start
        return max(int(since * fps + 1e-6) + 1, int((since + latest[1].duration) * fps + 0.5))

    for number, shown in enumerate(pictures):
        if latest is None or shown.begins:
            if latest is not None:
                yield from until(end())
            start, at, begins = shown.time, 0, True
            nearest = latest = (number, shown)
            continue
        due = int((shown.time - start) * fps + 0.5)
        latest_before, latest = latest, (number, shown)
        assert nearest is not None
        if due > at:
            latest = latest_before
            yield from until(due)
            nearest = latest = (number, shown)
            at = due
        elif abs(shown.time - start - at / fps) < abs(nearest[1].time - start - at / fps):
            nearest = (number, shown)
    if latest is not None:
        yield from until(end())


# -- framing --------------------------------------------------------------------------------------------

Orientation = tuple[int, bool]
"""Quarter turns counterclockwise, and whether the picture is mirrored left to right before."""


def orientation(picture: av.VideoFrame) -> Orientation:
    """How a picture has to be turned to stand upright, to the nearest quarter."""
    turns = round(picture.rotation / 90) % 4
    try:
        held = picture.side_data.get("DISPLAYMATRIX")
    except ValueError:  # there is side data of a kind that PyAV has no name for
        return turns, False
    if held is None:
        return 0, False
    a, b, _, c, d = np.frombuffer(bytes(held), "<i4")[:5].tolist()
    if a * d - b * c >= 0:
        return turns, False
    # A mirrored picture is one turned after its left and right were exchanged, which takes the sign from the first row.
    return round(np.degrees(np.arctan2(-b, -a)) / -90) % 4, True


class Framing:
    """Brings pictures upright and in colour to one ``size`` (height, width).

    ``crop`` keeps the middle of pictures of another aspect, ``letterbox`` shows all between black bars.
    """

    def __init__(self, size: tuple[int, int], fit: Fit) -> None:
        self.size, self.fit = size, fit
        self._made: tuple[tuple[Any, ...], av.filter.Graph] | None = None

    def __call__(self, shown: TimedPicture) -> np.ndarray:
        """uint8 (height, width, 3), of ``size`` or, of a letterboxed picture, without its bars (see ``with_bars``)."""
        picture = _opaque(shown.picture)
        turns, mirrored = orientation(shown.picture)
        rows, columns = self.size[::-1] if turns % 2 else self.size  # before it is turned
        kept, inner = self._kept(picture.width, picture.height, float(shown.aspect), rows, columns)
        pixels = self._scaled(picture, kept, inner)
        return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if mirrored else pixels, turns))

    def _kept(
        self, width: int, height: int, aspect: float, rows: int, columns: int
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """(width, height) of the middle that is kept of a picture, and of what becomes of it."""
        shown_width = width * aspect
        if self.fit == "letterbox":
            scale = min(columns / shown_width, rows / height)
            inner = (max(1, round(shown_width * scale)), max(1, round(height * scale)))
            return (width, height), inner
        scale = max(columns / shown_width, rows / height)
        kept = (round(columns / scale / aspect), round(rows / scale))
        return (min(max(1, kept[0]), width), min(max(1, kept[1]), height)), (columns, rows)

    def _scaled(self, picture: av.VideoFrame, kept: tuple[int, int], inner: tuple[int, int]) -> np.ndarray:
        about = (picture.colorspace, picture.color_range, picture.color_trc, picture.color_primaries)
        key = (picture.width, picture.height, picture.format.name, kept, inner, about)
        if self._made is None or self._made[0] != key:
            self._made = key, _graph(picture, kept, inner)
        graph = self._made[1]
        picture.pts, picture.time_base = None, Fraction(1, 1000)
        graph.vpush(picture)
        return graph.vpull().to_ndarray()


def framed_pictures(
    footage: Footage, framing: Framing, fps: float, losses: Losses, *, stills_fps: float
) -> Iterator[Shown]:
    """A clip's pictures at ``fps``, framed, with where a stretch begins. Raises UnreadableError for what cannot be."""
    last: Shown | None = None
    for tick in on_even_times(timed_pictures(footage, losses, stills_fps), fps):
        if last is None or tick.number != last.number:
            try:
                pixels = framing(tick.shown)
            except (av.error.FFmpegError, MemoryError) as error:
                raise UnreadableError(f"its pictures cannot be brought to this size ({error})") from error
            reshaped = last is not None and last.pixels.shape != pixels.shape
            last = Shown(pixels, tick.number, tick.begins or reshaped)
        else:
            last = last._replace(begins=tick.begins)
        yield last


def with_bars(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frames uint8 (n, h, w, 3) in the middle of black ones (n, *size, 3)."""
    top, left = ((whole - part) // 2 for whole, part in zip(size, frames.shape[1:3], strict=True))
    below, right = size[0] - frames.shape[1] - top, size[1] - frames.shape[2] - left
    return np.pad(frames, ((0, 0), (top, below), (left, right), (0, 0)))


def _graph(picture: av.VideoFrame, kept: tuple[int, int], inner: tuple[int, int]) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1
    nodes = [
        graph.add_buffer(width=picture.width, height=picture.height, format=picture.format, time_base=Fraction(1, 1000))
    ]
    if kept != (picture.width, picture.height):
        x, y = (picture.width - kept[0]) // 2, (picture.height - kept[1]) // 2
        nodes.append(graph.add("crop", w=str(kept[0]), h=str(kept[1]), x=str(x), y=str(y), exact="1"))
    colours = {}
    if picture.colorspace == _UNSPECIFIED and not picture.format.is_rgb:
        colours["in_color_matrix"] = "bt709" if picture.height >= _HD else "bt601"
    if picture.color_trc in _HDR:
        colours |= {"out_transfer": "bt709", "out_primaries": "bt709"}
    flags = "area" if kept[0] >= inner[0] and kept[1] >= inner[1] else "bicubic"
    between = tuple(min(have, want * _LARGE_STEP) for have, want in zip(kept, inner, strict=True))
    for width, height in [between] * (between != kept) + [inner]:
        options = {"w": str(width), "h": str(height), "flags": f"{flags}+accurate_rnd+full_chroma_int"}
        nodes.append(graph.add("scale", **options, **colours))
        nodes.append(graph.add("format", "rgb24"))
        colours = {}
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    return graph


def _opaque(picture: av.VideoFrame) -> av.VideoFrame:
    """The picture on white, where some of it is transparent."""
    if not any(component.is_alpha for component in picture.format.components) and picture.format.name != "pal8":
        return picture
    pixels = picture.to_ndarray(format="rgba").astype(np.uint16)
    alpha = pixels[..., 3:]
    mixed = (pixels[..., :3] * alpha + _WHITE * (255 - alpha) + 127) // 255
    return av.VideoFrame.from_ndarray(mixed.astype(np.uint8), format="rgb24")
