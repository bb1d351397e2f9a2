"""Measures videos, whoever made them: ``python -m train.evaluate_video DIR [--reference DIR] [--report FOLDER]``.

Each video of a folder is looked at alone: whether it moves, freezes, repeats itself, is cut, flickers or drifts, and
how well each picture follows from the one before (see ``measure/video.py`` for every key). ``--reference`` holds them
against real ones. ``--captions`` holds them against what is said of them, by a world that reads its own pictures.
Nothing is downloaded. ``--report`` writes a page with curves over time and the worst second of each video.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch

from train.data.clip_captions import captions_beside, captions_of_table
from train.data.shot_cuts import require_scenedetect, split_at_cuts
from train.data.video_files import Footage, UnreadableError, find_footage
from train.data.video_frames import Framing, Losses, framed_pictures
from train.data.video_look import read_header
from train.measure.measurement import Numbers, plain
from train.measure.report import STYLE, readable
from train.measure.text import bodies_there, claims_true
from train.measure.video import (
    Series,
    Watch,
    against,
    faults,
    frechet_distance,
    mean_of,
    measure_video,
    video_features,
)
from train.worlds.registry import of_schema, recipe
from worldmodel.video_file import VideoWriter
from worldmodel.world import World

SIDE = 256  # pixels of the shorter side that videos are looked at with: larger ones are made smaller
WINDOW = 17  # pictures of a window that a network sees
EVERY = 1.0  # seconds from a window to the next
MOST_WINDOWS = 64  # of a video: beyond, every other one is dropped
READ = 4  # moments of a video at which its state is read
COLUMNS = ("seconds", "cuts", "motion", "mawe", "temporal_variance", "flicker", "frozen", "looped", "drift_sharpness",
           "drift_palette", "worst_sharpness", "worst_palette")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A video that was looked at: its ``series``, windows uint8 (N, WINDOW, h, w, 3) of it, its worst second's
    pictures, uint8 (H, W, 3) each, and when they begin (s). ``why`` says what could not be read of it; ``series`` is
    None where nothing could."""

    name: str
    series: Series | None
    windows: np.ndarray
    worst: list[np.ndarray]
    worst_at: float = 0.0
    why: str = ""


def watch(footage: Footage, small: tuple[int, int] | None) -> Watched:
    """Looks at a video once, and keeps little of it. ``small``: (height, width) of the windows, None for none."""
    cv2.setNumThreads(1)
    losses, windows, every, taken = Losses(), [], EVERY, 0
    window: list[np.ndarray] = []
    worst: list[np.ndarray] = []
    best, worst_at = -1.0, 0.0
    try:
        header = read_header(footage)
        fps = header.fps or 25.0
        scale = min(1.0, SIDE / min(header.size))
        framing = Framing((max(16, round(header.size[0] * scale)), max(16, round(header.size[1] * scale))), "crop")
        pictures = framed_pictures(footage, framing, fps, losses, stills_fps=fps)
        seen, recent = Watch(fps), deque[tuple[np.ndarray, float]](maxlen=max(2, round(fps)))
        for at, shown in enumerate(split_at_cuts(pictures)):
            remains = seen.see(shown.pixels, begins=shown.begins)
            recent.append((shown.pixels, 0.0 if np.isnan(remains) else remains))
            if len(recent) == recent.maxlen and (bad := sum(each for _, each in recent)) > best:
                best, worst_at = bad, (at + 1 - len(recent)) / fps
                worst = [pixels for pixels, _ in recent]
            if small is None:
                continue
            if shown.begins:
                window.clear()
            if window or at >= taken * every * fps:
                window.append(cv2.resize(shown.pixels, small[::-1], interpolation=cv2.INTER_AREA))
            if len(window) == WINDOW:
                windows.append(np.stack(window))
                window.clear()
                taken += 1
                if len(windows) > MOST_WINDOWS:
                    windows, every, taken = windows[::2], 2 * every, (taken + 1) // 2
        series = seen.series()
    except (UnreadableError, ValueError) as error:
        return Watched(name=footage.name, series=None, windows=_none(small), worst=worst, why=str(error))
    return Watched(
        name=footage.name,
        series=series,
        windows=np.stack(windows) if windows else _none(small),
        worst=worst,
        worst_at=worst_at,
        why="; ".join(losses.said),
    )


def _none(small: tuple[int, int] | None) -> np.ndarray:
    return np.zeros((0, WINDOW, *(small or (1, 1)), 3), np.uint8)


def whole_steps(windows: np.ndarray, r: int) -> torch.Tensor:
    """Windows (N, WINDOW, …) as long as whole steps of ``r`` frames are, after a first one."""
    return torch.from_numpy(windows[:, : 1 + (WINDOW - 1) // r * r])


def watch_all(source: Path, small: tuple[int, int] | None, workers: int) -> tuple[list[Watched], list[Footage]]:
    """All videos of a folder, or one, and their files. Raises ValueError where there are none that can be read."""
    found = find_footage(source)
    if not found.footage:
        raise ValueError(f"{source} holds no video: name a folder of mp4, webm, gif or other videos")
    footage = list(found.footage)
    with ThreadPoolExecutor(workers) as pool:  # what takes time, FFmpeg and OpenCV, lets other threads run
        watched = list(pool.map(watch, footage, [small] * len(footage)))
    if all(each.series is None for each in watched):
        raise ValueError(f"no video in {source} can be read: {watched[0].name}: {watched[0].why}")
    return watched, footage


# -- what is said of it ---------------------------------------------------------------------------------


def text_alignment(world: World, watched: Sequence[Watched], captions: Mapping[str, str]) -> dict[str, Numbers]:
    """By video: ``claims_true``, the share of what its caption says of bodies that the world reads in its pictures, at
    ``READ`` moments, and ``claims``, how many things are said. Raises ValueError for a world that cannot read."""
    name = of_schema(world.schema)
    claims = None if name is None else recipe(name).claims
    if claims is None or world.parts.estimator is None:
        raise ValueError("this world does not read what captions speak of: leave --captions out, or name another world")
    told: dict[str, Numbers] = {}
    r = world.tokenizer.frames_per_step
    for each in watched:
        said = claims(captions.get(each.name, ""))
        if not said or not len(each.windows):
            continue
        at = np.unique(np.linspace(0, len(each.windows) - 1, READ).round().astype(int))
        clips = whole_steps(each.windows[at], r)
        rollout = world.start(frames=clips, seed=0)
        there = [bodies_there(world, rollout.describe(row)) for row in range(len(at))]
        held = [true for bodies in there for _, true in claims_true(said, bodies)]
        told[each.name] = {"claims": sum(map(len, said)), "claims_true": sum(held) / len(held)}
    return told


# -- the page -------------------------------------------------------------------------------------------


def write_page(folder: Path, results: Mapping[str, Numbers], watched: Sequence[Watched], about: str) -> Path:
    """A table, and for each video its curves over time and its worst second."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for number, each in enumerate(watched):
        if each.series is None:
            continue
        _curves(folder / f"{number}.png", each.series)
        shown = f'<img src="{number}.png" alt="curves over time of {html.escape(each.name)}">'
        if each.worst:
            with VideoWriter(folder / f"{number}.gif", fps=each.series.fps, size=each.worst[0].shape[:2]) as video:
                video.write(np.stack(each.worst))
            shown += (
                f"<p>Its worst second, from {each.worst_at:.1f} s: most of its change is not explained by motion.</p>"
                f'<img src="{number}.gif" alt="the worst second of {html.escape(each.name)}">'
            )
        said = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in results[each.name]["faults"].values())
        parts.append(f"<h2>{html.escape(each.name)}</h2>{said}{shown}")
    head = "".join(f"<th>{name.replace('_', ' ')}" for name in ("video", *COLUMNS))
    rows = "".join(
        f"<tr><td>{html.escape(name)}" + "".join(f"<td>{readable(numbers.get(key))}" for key in COLUMNS)
        for name, numbers in results.items()
    )
    page = folder / "index.html"
    page.write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Videos</title><style>{STYLE}</style>"
        f"<h1>{html.escape(about)}</h1><table><tr>{head}{rows}</table>{''.join(parts)}</html>\n",
        encoding="utf-8",
    )
    return page


def _curves(path: Path, series: Series) -> None:
    seconds = np.arange(len(series)) / series.fps
    lines = {
        "motion, heights a second": series.motion,
        "beyond motion, %": 100 * series.remains,
        "sharpness": series.sharpness,
        "light": series.light,
    }
    figure, axes = plt.subplots(len(lines), 1, figsize=(7, 5), sharex=True)
    for axis, (name, values) in zip(axes, lines.items(), strict=True):
        axis.plot(seconds, values, linewidth=0.8)
        axis.set_ylabel(name, fontsize=7)
        axis.grid(alpha=0.3)
        for at in np.flatnonzero(series.begins[1:]) + 1:
            axis.axvline(at / series.fps, color="tab:red", linewidth=0.8)
    axes[-1].set_xlabel("seconds (red: cuts)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


# -- the command ----------------------------------------------------------------------------------------


def evaluate_videos(
    source: Path,
    *,
    reference: Path | None = None,
    captions: str = "none",
    world: str | None = None,
    report: Path | None = None,
    workers: int = 1,
) -> Numbers:
    """Numbers of all videos of ``source``: ``videos`` by name, ``mean`` over them, ``reference`` (see ``against``) with
    ``frechet``: Fréchet distance of what the tokenizer of ``world`` sees, and ``frechet_half``: the same between the
    reference's halves, below which nothing can be told apart. Raises ValueError for what cannot be read."""
    require_scenedetect()
    needed = World.from_pretrained(world) if reference is not None or captions != "none" else None
    small = None if needed is None else needed.tokenizer.config.size
    watched, footage = watch_all(source, small, workers)
    results: dict[str, Numbers] = {}
    for each in watched:
        if each.series is not None:
            numbers = measure_video(each.series)
            results[each.name] = numbers | {"faults": faults(numbers)}
    out: Numbers = {
        "videos": results,
        "mean": {key: mean_of(numbers[key] for numbers in results.values()) for key in COLUMNS},
        "unreadable": {each.name: each.why for each in watched if each.series is None},
        "damaged": {each.name: each.why for each in watched if each.series is not None and each.why},
    }
    if needed is not None and captions != "none":
        told = captions_beside(footage) if captions == "auto" else captions_of_table(Path(captions), footage)
        aligned = text_alignment(needed, watched, told.of)
        for name, numbers in aligned.items():
            results[name] |= numbers
        out["mean"]["claims_true"] = mean_of(numbers["claims_true"] for numbers in aligned.values())
    if needed is not None and reference is not None:
        real, _ = watch_all(reference, small, workers)
        ours, theirs = ([each.series for each in some if each.series is not None] for some in (watched, real))
        r = needed.tokenizer.frames_per_step
        windows = (whole_steps(np.concatenate([each.windows for each in some]), r) for some in (watched, real))
        seen = [video_features(needed.tokenizer, each) for each in windows]
        measured = [measure_video(series) for series in theirs]
        out["reference"] = against(ours, list(results.values()), theirs, measured) | {
            "windows": [len(each) for each in seen],
            "frechet": frechet_distance(seen[0], seen[1]),
            "frechet_half": frechet_distance(seen[1][::2], seen[1][1::2]),
        }
    if report is not None:
        out["report"] = str(write_page(report, results, watched, f"Videos of {source}"))
    return out


def table(numbers: Numbers) -> str:
    """What was measured, for a terminal."""
    lines = []
    for name, video in [*numbers["videos"].items(), ("all, mean", numbers["mean"])]:
        lines.append(name)
        lines += [f"  {key:<20} {readable(video[key])}" for key in (*COLUMNS, "claims_true") if key in video]
        lines += [f"  {sentence}" for sentence in video.get("faults", {}).values()]
    if "reference" in numbers:
        lines.append("against the reference (1: alike)")
        lines += [f"  {key:<20} {readable(value)}" for key, value in numbers["reference"].items()]
    lines += [f"{name} was left out: {why}" for name, why in numbers["unreadable"].items()]
    lines += [f"{name}: {why}" for name, why in numbers["damaged"].items()]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.evaluate_video", description=__doc__)
    parser.add_argument("videos", type=Path, help="a folder of videos, or one")
    parser.add_argument("--reference", type=Path, help="a folder of real videos to hold them against")
    parser.add_argument("--captions", default="none", help="auto (name.txt beside name.mp4), none, or a table")
    parser.add_argument("--world", help="the world whose tokenizer sees, and that reads: the bundled one by default")
    parser.add_argument("--report", type=Path, help="a folder for a page with curves and worst seconds")
    parser.add_argument("--json", type=Path, help="a file for all numbers")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args(arguments)
    if chosen.workers < 1:
        parser.error("--workers must be at least 1")
    try:
        numbers = plain(
            evaluate_videos(
                chosen.videos,
                reference=chosen.reference,
                captions=chosen.captions,
                world=chosen.world,
                report=chosen.report,
                workers=chosen.workers,
            )
        )
        if chosen.json is not None:
            chosen.json.parent.mkdir(parents=True, exist_ok=True)
            chosen.json.write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
