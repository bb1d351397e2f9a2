"""Which clips lie in a folder, and how one is opened.

A clip is a video file, an animated picture (gif, apng, webp), or a folder of still pictures in the order of their
names. Nothing is passed over in silence: what is no clip is either named with a reason or counted.
"""

from __future__ import annotations

import os
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
from av.stream import Disposition
from PIL import Image, ImageOps, UnidentifiedImageError

VIDEOS = frozenset((
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".apng", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv",
    ".flv", ".3gp", ".ogv", ".vob", ".mxf",
))  # fmt: skip
STILLS = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"))
_MOST_PIXELS = 2**27  # of a picture: one of 16384x8192 takes 400 MB as RGB


class UnreadableError(ValueError):
    """A clip that cannot be imported; its sentence says why."""


@dataclass(frozen=True, kw_only=True)
class Footage:
    """One clip: a file, or the still pictures of a folder.

    ``name`` is its path below the source, with ``/`` on every system. ``size`` is in bytes.
    """

    name: str
    path: Path
    stills: tuple[Path, ...] = ()
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a folder holds: clips in the order of their names, others with the reason why they are none."""

    footage: tuple[Footage, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    others: tuple[tuple[str, int], ...] = ()  # how many files by suffix


# -- finding --------------------------------------------------------------------------------------------


def _natural(name: str) -> list[tuple[int, int, str]]:
    """So that picture 2 comes before picture 10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _animated_webp(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(21)
    return head[8:16] == b"WEBPVP8X" and bool(head[20] & 2)


def find_footage(source: str | Path) -> Found:
    """All clips below ``source``, a folder or a single file, links followed.

    Raises ValueError where there is nothing at ``source``.
    """
    source = Path(source)
    if not source.exists():
        raise ValueError(f"there is no folder {source}: name one that holds clips")
    footage: list[Footage] = []
    skipped: list[tuple[str, str]] = []
    others: Counter[str] = Counter()
    seen: dict[tuple[int, int], str] = {}
    top = source if source.is_dir() else source.parent

    def file_is_new(path: Path, name: str) -> os.stat_result | None:
        try:
            about = path.stat()
        except OSError as error:
            reason = "it is a link to nothing" if path.is_symlink() else f"it cannot be read ({error.strerror})"
            skipped.append((name, reason))
            return None
        same = seen.setdefault((about.st_dev, about.st_ino), name)
        if same != name:
            skipped.append((name, f"it is the same file as {same}"))
            return None
        return about

    def visit(folder: Path, entries: Iterable[Path]) -> int:
        """Takes in a folder's files and returns how many there are of any kind below it."""
        stills: list[Path] = []
        count = size = 0
        folders: list[Path] = []
        for path in entries:
            name = path.relative_to(top).as_posix()
            if path.is_dir():
                folders.append(path)
                continue
            count += 1
            suffix = path.suffix.lower()
            if path.name.startswith(".") or suffix not in VIDEOS | STILLS:
                others["hidden" if path.name.startswith(".") else suffix or "without a suffix"] += 1
                continue
            if (about := file_is_new(path, name)) is None:
                continue
            try:
                name.encode("utf-8")
                still = suffix in STILLS and not (suffix == ".webp" and _animated_webp(path))
            except UnicodeEncodeError:
                skipped.append((ascii(name)[1:-1], "its name is no UTF-8: rename it"))
                continue
            except OSError as error:
                skipped.append((name, f"it cannot be read ({error.strerror})"))
                continue
            if still:
                stills.append(path)
                size += about.st_size
            else:
                footage.append(Footage(name=name, path=path, size=about.st_size))
        here = folder.relative_to(top).as_posix()
        if len(stills) == 1:
            skipped.append((stills[0].relative_to(top).as_posix(), "a single picture is no clip"))
        elif stills:
            name = source.name or "." if here == "." else here
            footage.append(Footage(name=name, path=folder, stills=tuple(stills), size=size))
        for path in folders:
            count += enter(path)
        return count

    def enter(folder: Path) -> int:
        name = folder.relative_to(top).as_posix()
        about = folder.stat()
        same = seen.setdefault((about.st_dev, about.st_ino), name)
        if same != name:
            skipped.append((name, f"it is the same folder as {same}"))
            return 1
        if (folder / "meta/info.json").is_file():
            skipped.append((name, "it is a recording, not a folder of clips"))
            return 1
        try:
            entries = sorted(folder.iterdir(), key=lambda path: _natural(path.name))
        except OSError as error:
            skipped.append((name, f"it cannot be read ({error.strerror})"))
            return 1
        count = visit(folder, entries)
        if not count and folder.suffix.lower() in VIDEOS:
            skipped.append((name, "it is an empty folder"))
        return count

    if source.is_dir():
        enter(source)
    else:
        visit(top, [source])
    footage.sort(key=lambda one: _natural(one.name))
    return Found(
        footage=tuple(footage),
        skipped=tuple(sorted(skipped)),
        others=tuple(sorted(others.items(), key=lambda item: (-item[1], item[0]))),
    )


# -- opening --------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and the stream of a file's pictures. Raises UnreadableError for a file without any."""
    try:
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise UnreadableError(_why_unreadable(path, error)) from error
    with container:
        shown = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        best = container.streams.best("video")
        stream: Any = best if best in shown else next(iter(shown), None)
        if stream is None:
            kinds = {"audio": "sound", "subtitle": "subtitles", "video": "a cover picture"}
            held = sorted({kinds.get(s.type, s.type) for s in container.streams})
            raise UnreadableError(f"it holds no video, only {' and '.join(held)}" if held else "it holds no video")
        coded = stream.codec_context
        if coded is None:
            raise UnreadableError("its video is coded in a way that is unknown here")
        coded.thread_count = 1  # damaged pictures come out the same every time
        if coded.width * coded.height > _MOST_PIXELS:
            raise UnreadableError(f"its pictures of {coded.width}x{coded.height} pixels are too large")
        yield container, stream


def _why_unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "it cannot be read (permission denied)"
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as failure:
        return f"it cannot be read ({failure.strerror})"
    if not head:
        return "it is empty"
    if _lacks_index(path):
        return "its index (moov) is missing, for the recording was cut off before it was finished"
    if _is_text(head):
        return "it is text, not a video"
    return f"it holds no video that can be read ({getattr(error, 'strerror', None) or error})"


def _lacks_index(path: Path) -> bool:
    """Whether an mp4 or mov has no ``moov`` among its boxes, which says where the pictures lie."""
    boxes = set()
    with path.open("rb") as file:
        while len(head := file.read(16)) >= 8:
            length, kind = struct.unpack(">I4s", head[:8])
            if length == 1 and len(head) == 16:
                (length,) = struct.unpack(">Q", head[8:])
            boxes.add(kind)
            if length < 8:
                break
            file.seek(length - len(head), os.SEEK_CUR)
    return bool(boxes & {b"ftyp", b"mdat"}) and b"moov" not in boxes


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        text = head[: error.start].decode("utf-8") if error.start > len(head) - 4 else "\0"
    return all(letter.isprintable() or letter in "\r\n\t\f" for letter in text)


def frame_rate(stream: Any) -> Fraction | None:
    """Frames a second that a stream says it has on average."""
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and 0 < rate <= 1000:
            return Fraction(rate)
    return None


def pixel_aspect(stream: Any) -> Fraction:
    """How wide a pixel is shown for its height."""
    aspect = stream.sample_aspect_ratio
    return Fraction(aspect) if aspect and Fraction(1, 10) <= aspect <= 10 else Fraction(1)


def stated_seconds(container: Any, stream: Any) -> float | None:
    """How long the file says its pictures play."""
    known = []
    if stream.duration and stream.time_base:
        known.append(float(stream.duration * stream.time_base))
    elif tag := re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", "")):
        known.append(int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]))
    if container.duration:
        known.append(container.duration / av.time_base)
    return min(known) if known else None


def open_still(path: Path) -> Image.Image:
    """A still picture, upright as its EXIF says. Raises UnreadableError for what is none."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise UnreadableError(f"its {image.width}x{image.height} pixels are too many")
            image.load()
            return ImageOps.exif_transpose(image)
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        raise UnreadableError(_why_unreadable(path, ValueError("no known picture"))) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableError(f"it cannot be read ({error})") from error
