"""What a video says of itself, whoever made it: is it one video, does it move, does it stay as it was.

A :class:`Watch` sees each picture once and keeps a few numbers of it, so a video may be of any length. All else is
reckoned from these :class:`Series`. Optical flow is OpenCV's: DIS (Kroeger et al. 2016, arXiv:1603.03590) where
pictures are warped, Farneback's where motion is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import Tensor

from tokenizer.video_tokenizer import VideoTokenizer
from train.measure.endless import palette
from train.measure.measurement import Numbers
from train.measure.metrics import laplacian_variance

MAWE_SCALE, MAWE_SIDE = 9.5, 720  # StreamingT2V's constant, and the side that it brings pictures to
MOVES = 10  # grey levels by which some pixel differs where anything moves at all
FROZEN = 0.5  # seconds without a motion that make a freeze
ENDS = 0.15  # of a video, that its drift is told from
SEGMENT = 2.0  # seconds of a segment at the least
MOST_SEGMENTS = 20
LOOP_WINDOW = 10.0  # seconds in which a loop is looked for
LOOP_LEAST = 0.4  # seconds of the shortest loop
FLICKERS = 0.004  # of the full range: viewers see 0.012
DRIFTS = 0.15  # share of sharpness or palette that is lost, or of the full range of light
_ALIKE, _UNLIKE = 0.85, 0.5  # correlation of motions a loop apart, and of some between
_LEAST_CHANGE = 1e-5  # mean square change of a thumbnail of unit deviation, below which nothing can repeat
_THUMB = 16
_STRIDE = 4  # of pixels whose colours and motions are counted
_ANGLES = 8
SPEEDS = (0.02, 0.08, 0.32)  # picture heights a second, between bins of motion vectors


@dataclass(frozen=True, kw_only=True)
class Series:
    """T pictures, each with what was seen of it. What is of a step belongs to its second picture, and is NaN for the
    first one of a shot.

    begins: bool (T,), first pictures of shots. light: mean brightness, of 1. sharpness: variance of the Laplacian.
    palettes: (T, colours), see ``endless.palette``. thumbs: (T, 256), of no mean and unit deviation. moves: whether
    some pixel differs from the picture after the last motion. warp_error: mean square distance, in grey levels, from a
    picture to the one before warped onto it, where nothing is hidden. remains: the same without what all pixels share,
    as a deviation of the full range. flow: mean length of DIS's flow, in pixels of a picture of ``MAWE_SIDE``. motion:
    of Farneback's, in picture heights a second. vectors: (T, bins), of DIS's flow by direction and speed.
    """

    fps: float
    begins: np.ndarray
    light: np.ndarray
    sharpness: np.ndarray
    palettes: np.ndarray
    thumbs: np.ndarray
    moves: np.ndarray
    warp_error: np.ndarray
    remains: np.ndarray
    flow: np.ndarray
    motion: np.ndarray
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.light)

    @property
    def steps(self) -> np.ndarray:
        """Pictures that follow another of their shot, bool (T,)."""
        return ~self.begins


class Watch:
    """Sees the pictures of a video, all of one size, one after another."""

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self._rows: list[dict[str, object]] = []
        self._last: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # with its grey, and that after a motion
        self._rough, self._flow = (cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST) for _ in range(2))
        self._flow.setFinestScale(1)  # at a quarter of the size, as is usual, a pan is a tenth too fast

    def see(self, picture: np.ndarray, *, begins: bool = False) -> float:
        """Takes a picture uint8 (H, W, 3), the first one of a shot or not. Returns what remains of its change beyond
        motion, NaN for the first one of a shot."""
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        begins = begins or self._last is None
        shown = torch.from_numpy(np.ascontiguousarray(picture))
        thumb = cv2.resize(grey, (_THUMB, _THUMB), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
        row: dict[str, object] = {
            "begins": begins,
            "light": float(grey.mean()) / 255,
            "sharpness": float(laplacian_variance(shown)),
            "palettes": palette(shown[::_STRIDE, ::_STRIDE]).numpy(),
            "thumbs": (thumb - thumb.mean()) / max(1.0, float(thumb.std())),
        }
        if begins or self._last is None:
            nothing = dict.fromkeys(("warp_error", "remains", "flow", "motion"), float("nan"))
            row |= nothing | {"moves": False, "vectors": np.zeros(len(SPEEDS) * _ANGLES + 1)}
        else:
            row |= self._step(*self._last, picture, grey)
        self._rows.append(row)
        self._last = picture, grey, picture if begins or row["moves"] or self._last is None else self._last[2]
        return float(row["remains"])  # type: ignore[arg-type]

    def series(self) -> Series:
        """Raises ValueError where no picture was seen."""
        if not self._rows:
            raise ValueError("a video without pictures cannot be measured")
        columns = {name: np.array([row[name] for row in self._rows]) for name in self._rows[0]}
        return Series(fps=self.fps, **columns)

    def _step(
        self, before: np.ndarray, grey_before: np.ndarray, moved: np.ndarray, now: np.ndarray, grey: np.ndarray
    ) -> dict[str, object]:
        height, width = grey.shape
        empty = np.zeros((height, width, 2), np.float32)
        back = np.asarray(self._flow.calc(grey, grey_before, empty.copy()))
        forth = np.asarray(self._rough.calc(grey_before, grey, empty.copy()))
        columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        x, y = columns + back[..., 0], rows + back[..., 1]
        warped = cv2.remap(before, x, y, cv2.INTER_LINEAR)
        returned = back + cv2.remap(forth, x, y, cv2.INTER_LINEAR)  # to where it came from, unless it was hidden
        lengths = np.square(back).sum(-1)
        seen = np.square(returned).sum(-1) <= 0.5 + 0.01 * lengths  # Sundaram et al. 2010
        seen &= (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        wrong = (now.astype(np.float32) - warped.astype(np.float32))[seen] if seen.any() else np.zeros((1, 3))
        scaled = back * np.array([MAWE_SIDE / width, MAWE_SIDE / height], np.float32)
        size = width // 2, height // 2
        a, b = (cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in (grey_before, grey))
        slow = cv2.calcOpticalFlowFarneback(a, b, np.zeros((*size[::-1], 2), np.float32), 0.5, 3, 13, 3, 5, 1.1, 0)
        return {
            "moves": bool(np.abs(now.astype(np.int16) - moved).max() > MOVES),
            "warp_error": float(np.square(wrong).mean()),
            "remains": float((wrong - wrong.mean(0)).std()) / 255,
            "flow": float(np.linalg.norm(scaled, axis=-1).mean()),
            "motion": float(np.linalg.norm(slow, axis=-1).mean()) * 2 / height * self.fps,
            "vectors": self._binned(back[::_STRIDE, ::_STRIDE] * self.fps / height),
        }

    @staticmethod
    def _binned(flow: np.ndarray) -> np.ndarray:
        """Counts of vectors (…, 2) by speed and direction; the first is of those that stand still."""
        speed = np.searchsorted(SPEEDS, np.linalg.norm(flow, axis=-1))
        turn = np.floor((np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) + 1 / (2 * _ANGLES)) * _ANGLES) % _ANGLES
        at = np.where(speed == 0, 0, 1 + (speed - 1) * _ANGLES + turn.astype(int))
        return np.bincount(at.ravel(), minlength=len(SPEEDS) * _ANGLES + 1).astype(np.float64)


# -- numbers --------------------------------------------------------------------------------------------


def measure_video(series: Series) -> Numbers:
    """All that is told of one video alone.

    Returns:
        ``seconds``, ``cuts`` (number) and ``cut_times`` (s). ``still``: nothing moves in all of it. ``motion``: mean
        length of the flow, picture heights a second. ``mawe``: motion-aware warp error (StreamingT2V,
        arXiv:2403.14773), None for a still video; ours takes DIS's flow in place of RAFT's, leaves out steps over cuts,
        and divides sums, so that one step without motion doesn't decide all. ``temporal_variance``: deviation of what
        motion doesn't explain, of the full range; viewers don't see less than 0.012. ``flicker``: amplitude of the
        brightness from picture to picture. ``frozen``: share of the time that is in freezes, ``freezes`` [[from, to]]
        in s. ``looped``: share of the time in loops, ``loops`` [[from, to, period]] in s. ``drift_…``: how far the
        last 15 % are from the first, and ``worst_…`` the worst segment from the first one: ``sharpness`` and
        ``motion`` as a share of the larger, ``palette`` as the share of pixels of other colours, ``light`` of 1.
    """
    moving = series.steps & np.isfinite(series.warp_error)
    still = not series.moves.any()
    flow = float(series.flow[moving].sum()) if moving.any() else 0.0
    frozen, loops = freezes(series), loops_in(series)
    seconds = len(series) / series.fps
    cuts = np.flatnonzero(series.begins[1:]) + 1
    numbers: Numbers = {
        "seconds": seconds,
        "cuts": len(cuts),
        "cut_times": [float(at) / series.fps for at in cuts],
        "still": still,
        "motion": mean_of(series.motion[moving]),
        "mawe": None if still or not flow else float(series.warp_error[moving].sum()) / (MAWE_SCALE * flow),
        "temporal_variance": mean_of(series.remains[moving]),
        "flicker": flicker_of(series),
        "frozen": sum(end - begin for begin, end in frozen) / seconds,
        "freezes": [list(span) for span in frozen],
        "looped": sum(end - begin for begin, end, _ in loops) / seconds,
        "loops": [list(span) for span in loops],
        "sharpness": float(series.sharpness.mean()),
        "light": float(series.light.mean()),
    }
    ends = max(1, round(ENDS * len(series)))
    numbers |= {f"drift_{name}": value for name, value in _apart(series, slice(0, ends), slice(-ends, None)).items()}
    first, *others = segments(series)
    far = [_apart(series, first, other) for other in others or [first]]
    numbers |= {f"worst_{name}": max(each[name] for each in far) for name in far[0]}
    return numbers


def flicker_of(series: Series) -> float:
    """Amplitude of the light that goes up and down from picture to picture, of 1: half the root mean square of how far
    each is from the mean of its neighbours, in the middle of shots."""
    middle = series.steps[1:-1] & series.steps[2:]
    away = series.light[1:-1] - (series.light[:-2] + series.light[2:]) / 2
    return float(np.sqrt(np.square(away[middle]).mean())) / 2 if middle.any() else 0.0


def freezes(series: Series) -> list[tuple[float, float]]:
    """Spans (s) in which no pixel moves for ``FROZEN`` seconds or longer, and for three pictures."""
    held = series.steps & ~series.moves
    spans, least = [], max(2, round(FROZEN * series.fps))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], held, [False]]).astype(np.int8)))
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        if end - begin >= least:
            spans.append((float(begin - 1) / series.fps, float(end) / series.fps))
    return spans


def loops_in(series: Series) -> list[tuple[float, float, float]]:
    """Spans (s) that repeat themselves, with their period: the change of a small picture, whatever its light,
    correlates with that of a period later, and less so with some before that."""
    change = np.diff(series.thumbs, axis=0)
    change[series.begins[1:]] = 0
    window, least = round(LOOP_WINDOW * series.fps), max(3, round(LOOP_LEAST * series.fps))
    found: list[tuple[float, float, float]] = []
    hop = max(1, window // 2)
    for begin in range(0, max(1, len(change) - window + hop), hop):
        part = change[begin : begin + window]
        if len(part) < 2 * least or np.square(part).mean() < _LEAST_CHANGE:
            continue
        period = _period(part, least)
        if period is None:
            continue
        span = begin / series.fps, (begin + len(part) + 1) / series.fps, period / series.fps
        if found and span[0] <= found[-1][1]:
            span = found[-1][0], span[1], found[-1][2]
            found.pop()
        found.append(span)
    return found


def _period(change: np.ndarray, least: int) -> int | None:
    """Steps after which changes (n, values) come again, if they do: at least twice within what is given."""
    unlike = False
    for lag in range(1, len(change) // 2 + 1):
        a, b = change[:-lag], change[lag:]
        alike = float((a * b).sum() / max(1e-12, np.sqrt(np.square(a).sum() * np.square(b).sum())))
        if lag >= least and unlike and alike > _ALIKE:
            return lag
        unlike = unlike or alike < _UNLIKE
    return None


def segments(series: Series) -> list[slice]:
    """Equal parts of a video, of two seconds at the least."""
    count = int(np.clip(len(series) / series.fps / SEGMENT, 1, MOST_SEGMENTS))
    edges = np.linspace(0, len(series), count + 1).round().astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def _apart(series: Series, first: slice, other: slice) -> dict[str, float]:
    colours = np.minimum(series.palettes[first].mean(0), series.palettes[other].mean(0)).sum()
    return {
        "sharpness": _change(series.sharpness[first].mean(), series.sharpness[other].mean()),
        "palette": 1 - float(colours),
        "light": float(abs(series.light[first].mean() - series.light[other].mean())),
        "motion": _change(mean_of(series.motion[first]) or 0.0, mean_of(series.motion[other]) or 0.0),
    }


def _change(before: float, after: float) -> float:
    """The share of the larger that the other lacks."""
    return abs(float(after) - float(before)) / max(1e-9, float(before), float(after))


def mean_of(values: Iterable[float | None]) -> float | None:
    """Of what was measured, None where nothing was."""
    there = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(there)) if there else None


# -- what is wrong with it ------------------------------------------------------------------------------


def faults(numbers: Numbers) -> dict[str, str]:
    """What a viewer would notice, in a sentence each, by kind: ``still``, ``freeze``, ``loop``, ``cut``, ``flicker``,
    ``drift``. A cut may be meant, and so may a drift in a film of several shots."""
    found: dict[str, str] = {}
    if numbers["still"]:
        return {"still": "Nothing moves in it, so its warp error says nothing."}
    if numbers["freezes"]:
        spans = ", ".join(f"{begin:.1f} to {end:.1f} s" for begin, end in numbers["freezes"][:4])
        found["freeze"] = f"It stands still from {spans}."
    if numbers["loops"]:
        begin, end, period = numbers["loops"][0]
        found["loop"] = f"It repeats itself every {period:.2f} s from {begin:.1f} to {end:.1f} s."
    if numbers["cuts"]:
        found["cut"] = "It is cut at " + ", ".join(f"{at:.1f}" for at in numbers["cut_times"][:8]) + " s."
    if numbers["flicker"] > FLICKERS:
        found["flicker"] = f"Its light flickers by {100 * numbers['flicker']:.1f} % of the full range."
    drifts = [name for name in ("sharpness", "palette", "light") if numbers[f"drift_{name}"] > DRIFTS]
    if drifts:
        said = " and ".join(f"{name} by {100 * numbers[f'drift_{name}']:.0f} %" for name in drifts)
        found["drift"] = f"Its end differs from its beginning: {said}."
    return found


# -- against other videos -------------------------------------------------------------------------------


def against(
    videos: Sequence[Series], ours: Sequence[Numbers], reference: Sequence[Series], theirs: Sequence[Numbers]
) -> Numbers:
    """Videos and their numbers held against others and theirs.

    Ratios of the means of videos to those of others: ``mawe``, ``motion``, ``sharpness``, ``temporal_variance``.
    ``vectors``: how far motion vectors are distributed otherwise, from 0 to 1 (total variation distance of counts by
    speed and direction). ``palette``: the same of colours."""
    numbers: Numbers = {}
    for name in ("mawe", "motion", "sharpness", "temporal_variance"):
        a, b = (mean_of(each[name] for each in some) for some in (ours, theirs))
        numbers[name] = None if a is None or not b else a / b
    for key, name in (("vectors", "vectors"), ("palette", "palettes")):
        a, b = (sum(getattr(series, name).sum(0) for series in some) for some in (videos, reference))
        a, b = np.asarray(a, float), np.asarray(b, float)
        numbers[key] = float(np.abs(a / max(1e-12, a.sum()) - b / max(1e-12, b.sum())).sum()) / 2
    return numbers


@torch.no_grad()
def video_features(tokenizer: VideoTokenizer, windows: Tensor) -> np.ndarray:
    """What a tokenizer's encoder sees in windows uint8 (N, 1 + r * n, H, W, 3) of its own size: (N, features) float64.

    Means and deviations over all cells of its last hidden layer, and the mean change of a cell from step to step.
    """
    seen: list[Tensor] = []
    hook = tokenizer.encoder.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        found = []
        for some in windows.split(16):
            seen.clear()
            tokenizer.encode(some.to(next(tokenizer.parameters()).device))
            hidden = seen[0].unflatten(0, (len(some), -1)).double()  # (B, T, C, h, w)
            change = (hidden[:, 1:] - hidden[:, :-1]).abs().mean((1, 3, 4))
            found.append(torch.cat([hidden.mean((1, 3, 4)), hidden.std((1, 3, 4)), change], 1).cpu())
    finally:
        hook.remove()
    return torch.cat(found).numpy()


def frechet_distance(ours: np.ndarray, reference: np.ndarray, most: int = 32) -> float | None:
    """Fréchet distance between features (N, F) and those of others (M, F), seen as Gaussians (Heusel et al. 2017,
    arXiv:1706.08500; of videos: Unterthiner et al. 2018, arXiv:1812.01717).

    It is reckoned along the reference's first principal axes, ``most`` of them or one for eight windows, each of
    unit variance there. None where either has less than 16 windows.
    """
    if min(len(ours), len(reference)) < 16:
        return None
    middle, scale = reference.mean(0), reference.std(0) + 1e-9
    a, b = (ours - middle) / scale, (reference - middle) / scale
    _, spread, axes = np.linalg.svd(b, full_matrices=False)
    kept = min(most, min(len(ours), len(reference)) // 8, int((spread > 1e-6 * spread[0]).sum()))
    along = axes[:kept].T / (spread[:kept] / np.sqrt(len(b)))
    a, b = a @ along, b @ along
    cov_a, cov_b = np.cov(a, rowvar=False).reshape(kept, kept), np.cov(b, rowvar=False).reshape(kept, kept)
    root = _square_root(cov_b)
    both = np.linalg.eigvalsh(root @ cov_a @ root).clip(0)
    apart = np.square(a.mean(0) - b.mean(0)).sum()
    return float(apart + np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(both).sum())


def _square_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
