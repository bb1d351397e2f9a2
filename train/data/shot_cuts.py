"""Where one shot ends and the next begins, found by PySceneDetect.

Its adaptive detector compares how much a picture differs from the one before it with how much its neighbours do, so
that a fast camera is no cut. It is asked twice, for colour and for brightness alone: grey pictures have no colour.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

# How many times its neighbours' difference a cut's is, and the least mean difference of pixels. PySceneDetect's ratio
# of 3 misses a cut within a camera's swing of a screen a second; a cut that is missed costs more than one too many.
_RATIO, _LEAST = 2.5, 15.0
_AROUND = 2  # neighbours on each side


class Shown(NamedTuple):
    """A picture uint8 (height, width, 3), the number of the decoded picture that it shows, and whether it ``begins`` a
    shot: then nothing before it belongs to it."""

    pixels: np.ndarray
    number: int
    begins: bool


def require_scenedetect() -> None:
    """Raises ImportError, with how to mend it, where PySceneDetect is missing."""
    try:
        import scenedetect.detectors  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"cuts are found by PySceneDetect, which is missing ({error}): pip install 'worldmodel-stream[video]', or "
            "give --cuts none"
        ) from error


def split_at_cuts(pictures: Iterable[Shown]) -> Iterator[Shown]:
    """The same pictures, the first after each cut marked as beginning. Runs two different pictures behind."""
    groups: deque[list[Shown]] = deque()  # of pictures alike, of which nothing has been decided
    cuts = _Cuts()
    for shown in pictures:
        if shown.begins:
            yield from _decided(groups, cuts.finish())
            cuts = _Cuts()
        if groups and groups[-1][0].number == shown.number:
            groups[-1].append(shown)
            continue
        groups.append([shown])
        is_cut = cuts.see(shown.pixels)
        if len(groups) > _AROUND:
            yield from _decided(groups, [is_cut])
    yield from _decided(groups, cuts.finish())


def _decided(groups: deque[list[Shown]], cuts: Iterable[bool]) -> Iterator[Shown]:
    for is_cut in cuts:
        first, *others = groups.popleft()
        yield first._replace(begins=first.begins or is_cut)
        yield from others


class _Cuts:
    """Whether each picture of a stretch is the first of another shot, told two pictures later.

    The detector never judges the two pictures at either end: the first and the last one are given to it three times.
    """

    def __init__(self) -> None:
        from scenedetect.detectors import AdaptiveDetector

        settings = {"adaptive_threshold": _RATIO, "min_content_val": _LEAST, "window_width": _AROUND}
        self._detectors = [AdaptiveDetector(**settings, min_scene_len=0, luma_only=only) for only in (False, True)]
        self._fed = 0
        self._last: np.ndarray | None = None
        self._undecided = 0

    def see(self, pixels: np.ndarray) -> bool:
        """Takes the next picture; says whether the one two before it followed a cut."""
        bgr = np.ascontiguousarray(pixels[..., ::-1])
        if self._last is None:
            for _ in range(_AROUND):
                self._feed(bgr)
        self._last = bgr
        self._undecided = min(self._undecided + 1, _AROUND)
        return self._feed(bgr)

    def finish(self) -> list[bool]:
        """The same of the last pictures."""
        if self._last is None:
            return []
        return [self._feed(self._last) for _ in range(_AROUND)][-self._undecided :]

    def _feed(self, bgr: np.ndarray) -> bool:
        from scenedetect.common import FrameTimecode

        now = FrameTimecode(self._fed, fps=1.0)
        self._fed += 1
        found = [detector.process_frame(now, bgr) for detector in self._detectors]  # each must see every picture
        return any(found)
