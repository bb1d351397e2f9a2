"""What a folder of clips is like, before any of it is imported."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from train.data.video_files import Footage, UnreadableError, find_footage, frame_rate, opened, stated_seconds
from train.data.video_frames import Losses, orientation, timed_pictures

_LOOKED_AT = 200  # clips that are opened to say what a folder holds
_MULTIPLE = 8  # of which a target's sides are
_SHORTER_SIDE, _HIGHEST_FPS, _STEPS_PER_SECOND = 64, 15, 7.5


@dataclass(frozen=True, kw_only=True)
class Header:
    """What is known of a clip before it is played. ``size`` (height, width) is as a player shows it, upright and with
    square pixels; ``seconds`` and ``fps`` are None where the file doesn't say."""

    size: tuple[int, int]
    seconds: float | None
    fps: float | None


@dataclass(frozen=True, kw_only=True)
class VideoSource:
    """What ``look`` found out about a folder of clips (a sample of a large one: then numbers are scaled up).

    Attributes:
        num_files: clips, whether or not they can be read.
        num_readable: those whose header and first picture can be read.
        seconds: of all readable ones together, as far as their headers say.
        fps: the median clip's frames a second.
        sizes: how many clips have each size (height, width) as shown.
        unreadable: name and reason of those that are left out.
        num_looked_at: how many of the clips were opened.
        others: how many other files there are, by suffix.
    """

    path: Path
    num_files: int
    num_readable: int
    seconds: float
    fps: float
    sizes: dict[tuple[int, int], int]
    unreadable: tuple[tuple[str, str], ...] = ()
    num_looked_at: int = 0
    others: tuple[tuple[str, int], ...] = ()

    @property
    def default_size(self) -> tuple[int, int]:
        """(height, width) that suits most clips: the shorter side 64, the other a multiple of 8, at most 128."""
        aspects = [width / height for (height, width), count in self.sizes.items() for _ in range(count)]
        upright = sum(aspect < 1 for aspect in aspects) * 2 > len(aspects)
        along = [aspect for aspect in aspects if (aspect < 1) == upright] or [1.0]
        aspect = min(max(statistics.median(along), 0.5), 2.0)
        longer = round(_SHORTER_SIDE * max(aspect, 1 / aspect) / _MULTIPLE) * _MULTIPLE
        return (longer, _SHORTER_SIDE) if upright else (_SHORTER_SIDE, longer)

    @property
    def default_fps(self) -> int:
        """At most 15, and close to a whole fraction of the clips' own: 24 gives 12, 30 gives 15."""
        divisor = -(-round(self.fps) // _HIGHEST_FPS)
        return max(1, round(self.fps / max(1, divisor) - 1e-6))

    def said(self) -> list[str]:
        """A sentence each for what was found."""
        sampled = "" if self.num_looked_at >= self.num_files else f" (judged by {self.num_looked_at} of them)"
        lines = [f"{self.path} holds {self.num_files} clips, {self.num_readable} of them readable{sampled}"]
        if self.num_readable:
            common = sorted(self.sizes.items(), key=lambda item: (-item[1], item[0]))
            sizes = ", ".join(f"{width}x{height} ({count})" for (height, width), count in common[:4])
            more = f" and {len(common) - 4} more sizes" if len(common) > 4 else ""
            lines.append(
                f"they play for {said_seconds(self.seconds)}, with {self.fps:g} frames a second, "
                f"width x height {sizes}{more}"
            )
        lines += [f"left out: {name}: {reason}" for name, reason in self.unreadable]
        return lines + said_others(self.others)


def default_frames_per_step(fps: int) -> int:
    """So many that about 7.5 steps make a second, from 1 to 4."""
    return max(1, min(4, round(fps / _STEPS_PER_SECOND)))


def said_seconds(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def said_others(others: Sequence[tuple[str, int]]) -> list[str]:
    if not others:
        return []
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in others)
    return [f"other files, which are no clips: {kinds}"]


def look(source: str | Path) -> VideoSource:
    """Opens the clips of a folder and decodes the first picture of each, or of 200 spread over a large folder.

    Raises ValueError where there is no such folder.
    """
    found = find_footage(source)
    step = max(1.0, len(found.footage) / _LOOKED_AT)
    sample = [found.footage[int(i * step)] for i in range(min(len(found.footage), _LOOKED_AT))]
    headers: list[Header] = []
    unreadable = list(found.skipped)
    for footage in sample:
        try:
            headers.append(read_header(footage))
        except UnreadableError as error:
            unreadable.append((footage.name, str(error)))
    scale = len(found.footage) / max(1, len(sample))
    rates = [header.fps for header in headers if header.fps]
    return VideoSource(
        path=Path(source),
        num_files=len(found.footage),
        num_readable=round(len(headers) * scale),
        seconds=sum(header.seconds or 0.0 for header in headers) * scale,
        fps=float(f"{statistics.median(rates):.4g}") if rates else float(_HIGHEST_FPS),
        sizes=dict(Counter(header.size for header in headers)),
        unreadable=tuple(unreadable),
        num_looked_at=len(sample),
        others=found.others,
    )


def read_header(footage: Footage) -> Header:
    """What a clip's header and first picture say. Raises UnreadableError for one that cannot be read."""
    first = next(timed_pictures(footage, Losses(), _HIGHEST_FPS))
    height, width = first.picture.height, round(first.picture.width * first.aspect)
    if orientation(first.picture)[0] % 2:
        height, width = width, height
    fps = seconds = None
    if footage.stills:
        seconds = len(footage.stills) / _HIGHEST_FPS
    elif footage.path.suffix.lower() != ".webp":
        with opened(footage.path) as (container, stream):
            rate, seconds = frame_rate(stream), stated_seconds(container, stream)
            fps = float(rate) if rate else None
    return Header(size=(height, width), seconds=seconds, fps=fps)
