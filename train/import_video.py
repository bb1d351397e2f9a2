"""Makes a recording of any folder of clips: ``python -m train.import_video --videos DIR --out RECORDING``.

Clips are video files (mp4, mkv, webm, mov, avi, gif, …) and folders of still pictures. Their pictures are taken at even
times by their time stamps, upright, in one size. A clip becomes episodes of bounded length, and a cut ends an episode,
so no training window spans one. What cannot be read is named with a reason.

The result is the same whatever the number of workers. A killed run goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np

from tokenizer.clip import Episode
from tokenizer.frames import picture_size, said_size
from tokenizer.state_schema import StateSchema
from train.data.clip_captions import Captions, captions_beside, captions_of_table
from train.data.episode_writer import DiskFullError, EpisodeWriter, RecordingConfig, ShardWriter
from train.data.resizing import Fit
from train.data.shot_cuts import Shown, require_scenedetect, split_at_cuts
from train.data.video_files import Footage, UnreadableError, find_footage
from train.data.video_frames import Framing, Losses, framed_pictures, with_bars
from train.data.video_look import VideoSource, default_frames_per_step, look, said_others, said_seconds
from train.running.progress_bar import progress_bar

__all__ = ["ImportReport", "VideoSource", "import_videos", "look", "main"]

SHARD = 16  # episodes
_GROUP, _GROUP_BYTES = 16, 64 * 2**20  # clips that a worker takes at once
_LONGEST, _SHORTEST_STEPS, _EPISODES = 20.0, 16, 20  # an episode's seconds and steps; how many to aim for
_WHOLE_FILES = 10  # clips, from which on each belongs to one split
_SHARE = 20  # one of so many clips or episodes validates, and another tests
Cuts = Literal["scenedetect", "none"]


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What became of a folder of clips.

    Attributes:
        imported: how many clips gave at least one episode.
        episodes, seconds: what they gave.
        skipped: name and reason of each clip, or file, that gave none.
        lost: name and sentence for each part of an imported clip that is missing.
        seconds_lost: of those parts together.
        said: further sentences (captions, other files).
    """

    imported: int
    episodes: int
    seconds: float
    skipped: tuple[tuple[str, str], ...] = ()
    lost: tuple[tuple[str, str], ...] = ()
    seconds_lost: float = 0.0
    notes: tuple[str, ...] = ()

    def said(self) -> list[str]:
        """A line for each thing that went missing, and counts at the end."""
        lines = [f"skipped {name}: {reason}" for name, reason in self.skipped]
        lines += [f"lost of {name}: {what}" for name, what in self.lost]
        lines += self.notes
        counts = f"imported {self.imported} clips as {self.episodes} episodes, {said_seconds(self.seconds)}"
        counts += f"; skipped {len(self.skipped)}"
        if self.lost:
            counts += f"; lost {self.seconds_lost:.1f} s of {len({name for name, _ in self.lost})} imported clips"
        return [*lines, counts]


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What decides the pictures of an episode."""

    size: tuple[int, int]
    fps: int
    frames_per_step: int
    fit: Fit
    cuts: Cuts
    longest: int  # frames of an episode, 1 + r * n
    stills_fps: float


# -- one clip -------------------------------------------------------------------------------------------


@dataclass
class _Outcome:
    """What became of one clip, kept as JSON until all are done."""

    name: str
    lengths: list[int] = field(default_factory=list)  # of its episodes, in frames
    skipped: str = ""
    lost: list[str] = field(default_factory=list)
    seconds_lost: float = 0.0


def _episodes(pictures: Iterable[Shown], settings: _Settings, outcome: _Outcome) -> Iterator[np.ndarray]:
    """Frames uint8 (1 + r * n, height, width, 3) of each episode.

    A shot that is too long for one gives several, the last two of which are about equally long. Frames that are left
    over at the end of a shot are fewer than a step; a shot without a single step is counted as lost.
    """
    r, longest = settings.frames_per_step, settings.longest
    shot: list[np.ndarray] = []
    short: list[int] = []

    def cut(count: int) -> np.ndarray:
        frames = np.stack(shot[: 1 + (count - 1) // r * r])
        del shot[:count]
        return with_bars(frames, settings.size)

    def rest() -> Iterator[np.ndarray]:
        if len(shot) > longest:
            yield cut(1 + max(1, (len(shot) // 2 - 1) // r) * r)
        if len(shot) > r:
            yield cut(len(shot))
        elif shot:
            short.append(len(shot))
            shot.clear()

    for shown in pictures:
        if shown.begins:
            yield from rest()
        shot.append(shown.pixels)
        if len(shot) >= longest + longest // 2 + r:
            yield cut(longest)
    yield from rest()
    if short:
        seconds = sum(short) / settings.fps
        shots = f"{len(short)} shots, {seconds:.1f} s, are" if len(short) > 1 else f"a shot of {seconds:.1f} s is"
        outcome.lost.append(f"{shots} shorter than a step, which takes {1 + r} frames at {settings.fps} a second")
        outcome.seconds_lost += seconds


def _import_clip(footage: Footage, caption: str, settings: _Settings, shards: _Shards) -> _Outcome:
    outcome, losses = _Outcome(footage.name), Losses()
    try:
        framing = Framing(settings.size, settings.fit)
        pictures = framed_pictures(footage, framing, settings.fps, losses, stills_fps=settings.stills_fps)
        pictures = split_at_cuts(pictures) if settings.cuts == "scenedetect" else pictures
        for frames in _episodes(pictures, settings, outcome):
            episode = Episode(
                frames=frames, caption=caption, behaviour=footage.name, frames_per_step=settings.frames_per_step
            )
            shards.add(episode)
            outcome.lengths.append(len(frames))
    except UnreadableError as error:
        losses.add(str(error))
    if outcome.lengths:
        outcome.lost = losses.said + outcome.lost
        outcome.seconds_lost += losses.seconds
    else:
        outcome.skipped, outcome.lost, outcome.seconds_lost = "; ".join(losses.said + outcome.lost), [], 0.0
    return outcome


class _Shards:
    """Episodes one after another, in shards of ``SHARD``."""

    def __init__(self, writer: EpisodeWriter, tell: Callable[[int], None]) -> None:
        self._writer, self._tell = writer, tell
        self._open: ShardWriter | None = None
        self._number = self._count = 0

    def __enter__(self) -> _Shards:
        return self

    def add(self, episode: Episode) -> None:
        if self._open is None:
            self._open = self._writer.shard(self._number)
            self._open.__enter__()
        self._open.add(self._count, episode, "train")  # its split is settled when all are there
        self._count += 1
        self._tell(len(episode.frames))
        if self._count % SHARD == 0:
            self.__exit__(None, None, None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None:
            shard, self._open, self._number = self._open, None, self._number + 1
            shard.__exit__(kind, error, trace)


# -- a worker -------------------------------------------------------------------------------------------


_worker: dict[str, Any] = {}


def _start_worker(written: Any) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def die_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()
    _worker["written"] = written


def _count(frames: int) -> None:
    """Tells the parent how far a worker is."""
    with _worker["written"].get_lock():
        _worker["written"].value += frames


def _import_group(
    part: Path,
    group: Sequence[Footage],
    captions: Sequence[str],
    config: RecordingConfig,
    settings: _Settings,
    tell: Callable[[int], None] = _count,
) -> None:
    """Writes the episodes of some clips into a folder of their own, and last of all what became of each. ``tell`` hears
    the length of each episode."""
    shutil.rmtree(part, ignore_errors=True)
    with _Shards(EpisodeWriter(part, config), tell) as shards:
        outcomes = [_import_clip(*one, settings, shards) for one in zip(group, captions, strict=True)]
    _write_json(part / "outcomes.json", [asdict(outcome) for outcome in outcomes])


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    aside.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(aside, path)


def _groups(footage: Sequence[Footage]) -> list[list[Footage]]:
    groups: list[list[Footage]] = []
    size = 0
    for one in footage:
        if not groups or len(groups[-1]) == _GROUP or size + one.size > _GROUP_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(one)
        size += one.size
    return groups


# -- all of them ----------------------------------------------------------------------------------------


def import_videos(
    source: str | Path,
    out: str | Path,
    *,
    size: int | Sequence[int] | None = None,
    fps: int | None = None,
    frames_per_step: int | None = None,
    fit: Fit = "crop",
    captions: str | Path = "auto",
    cuts: Cuts = "scenedetect",
    episode_seconds: float | None = None,
    stills_fps: float | None = None,
    workers: int = 1,
) -> ImportReport:
    """Imports what ``out`` still lacks of the clips below ``source`` and writes its index.

    Args:
        size: of the frames, one number for a square or (height, width); None: as suits most clips, shorter side 64.
        fps: frames a second; None: the clips' own, or a whole fraction of it that is at most 15.
        frames_per_step: None: so many that about 7.5 steps make a second.
        fit: what becomes of clips of another aspect.
        captions: ``auto`` (``name.txt`` beside ``name.mp4``), ``none``, or a csv or parquet table.
        cuts: how shots are told apart; ``none`` takes each clip for one shot.
        episode_seconds: an episode's longest; None: so that there are about 20, and at most 20 s.
        stills_fps: rate of folders of stills; None: a still a frame.

    Raises ValueError for what cannot be, for a folder that holds another import, and where no clip can be imported;
    ImportError without PySceneDetect; DiskFullError when the disk is full.
    """
    out = Path(out)
    for name, number in (("fps", fps), ("frames_per_step", frames_per_step), ("episode_seconds", episode_seconds)):
        if number is not None and not number > 0:
            raise ValueError(f"{name} must be above 0, not {number}")
    if cuts == "scenedetect":
        require_scenedetect()
    seen = look(source)
    if not seen.num_readable and seen.num_looked_at == seen.num_files:
        raise ValueError(_nothing(source, seen.unreadable))
    found = find_footage(source)
    fps = fps or seen.default_fps
    r = frames_per_step or default_frames_per_step(fps)
    settings = _Settings(
        size=picture_size(size) if size is not None else seen.default_size,
        fps=fps,
        frames_per_step=r,
        fit=fit,
        cuts=cuts,
        longest=_longest_episode(seen.seconds, episode_seconds, fps, r),
        stills_fps=stills_fps or fps,
    )
    seconds = settings.longest / fps
    print(
        f"{said_size(settings.size)} pixels (height x width, {fit}), {fps} frames a second, {r} frames a step, "
        f"episodes of at most {seconds:.1f} s"
    )
    told = _captions(captions, found.footage)
    config = RecordingConfig(
        schema=StateSchema(name=Path(source).resolve().name, fps=fps, frames_per_step=r),
        size=settings.size,
        settings={"videos": len(found.footage), **asdict(settings), "captions": _digest(sorted(told.of.items()))},
    )
    _refuse_other_files(out, found.footage)
    writer = EpisodeWriter(out, config)
    writer.discard_unfinished()
    _write_json(out / "meta/clips.json", [[one.name, one.size] for one in found.footage])
    groups, aside, finished = _groups(found.footage), out / "importing", out / "meta/import.json"
    if not finished.exists():
        parts = {aside / f"{number:05d}": group for number, group in enumerate(groups)}
        _import_missing(parts, told, config, settings, workers)
        outcomes = _assemble(writer, list(parts))
        _write_json(finished, [asdict(outcome) for outcome in outcomes])
    outcomes = [_Outcome(**outcome) for outcome in json.loads(finished.read_text(encoding="utf-8"))]
    shutil.rmtree(aside, ignore_errors=True)
    report = _report(outcomes, found.skipped, [*told.said, *said_others(found.others)], fps)
    if not report.episodes:
        raise ValueError(_nothing(source, report.skipped))
    writer.consolidate()
    return report


def _nothing(source: str | Path, skipped: Sequence[tuple[str, str]]) -> str:
    reasons = [f"\n  {name}: {reason}" for name, reason in skipped] or [" there are none"]
    return f"no clip in {source} can be imported:{''.join(reasons)}"


def _longest_episode(seconds: float, asked: float | None, fps: int, r: int) -> int:
    frames = (asked or min(_LONGEST, seconds / _EPISODES)) * fps
    least = 1 if asked else _SHORTEST_STEPS
    return 1 + r * max(least, int((frames - 1) // r))


def _captions(captions: str | Path, footage: Sequence[Footage]) -> Captions:
    if captions == "none":
        return Captions(of={})
    return captions_beside(footage) if captions == "auto" else captions_of_table(Path(captions), footage)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _refuse_other_files(out: Path, footage: Sequence[Footage]) -> None:
    """Raises ValueError where the folder was begun with other clips than these."""
    known = out / "meta/clips.json"
    if not known.exists():
        return
    before = dict(json.loads(known.read_text(encoding="utf-8")))
    now = {one.name: one.size for one in footage}
    changes = {
        "added": sorted(now.keys() - before.keys()),
        "gone": sorted(before.keys() - now.keys()),
        "changed": sorted(name for name in now.keys() & before.keys() if now[name] != before[name]),
    }
    if any(changes.values()):
        said = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
            for what, names in changes.items()
            if names
        ]
        raise ValueError(
            f"the clips are no longer those that {out} was begun with, {', '.join(said)}: choose another folder, or "
            "delete it to import all anew"
        )


def _import_missing(
    parts: dict[Path, list[Footage]], told: Captions, config: RecordingConfig, settings: _Settings, workers: int
) -> None:
    missing = {part: group for part, group in parts.items() if not (part / "outcomes.json").exists()}
    jobs = [
        (part, group, [told.of.get(one.name, "") for one in group], config, settings) for part, group in missing.items()
    ]
    total, fps = sum(map(len, parts.values())), settings.fps
    with progress_bar(total=total, initial=total - sum(map(len, missing.values())), unit=" clips") as bar:
        if workers == 1 or len(jobs) < 2:
            frames, said_at = 0, time.monotonic()

            def tell(length: int) -> None:
                nonlocal frames, said_at
                frames += length
                if time.monotonic() - said_at > 1:
                    said_at = time.monotonic()
                    bar.set_postfix_str(said_seconds(frames / fps), refresh=False)
                    bar.update(0)

            for job in jobs:
                _import_group(*job, tell)
                bar.update(len(job[1]))
            return
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        context = multiprocessing.get_context("spawn")
        written = context.Value("q", 0)
        with ProcessPoolExecutor(min(workers, len(jobs)), context, _start_worker, (written,)) as pool:
            pending = {pool.submit(_import_group, *job): len(job[1]) for job in jobs}
            try:
                while pending:
                    for future in wait(pending, timeout=1.0, return_when=FIRST_COMPLETED).done:
                        future.result()
                        bar.update(pending.pop(future))
                    bar.set_postfix_str(said_seconds(written.value / fps), refresh=False)
                    bar.update(0)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def _assemble(writer: EpisodeWriter, parts: Sequence[Path]) -> list[_Outcome]:
    """Moves the parts' shards into the recording, in the clips' order. May be killed and begun again."""
    by_part = [
        [_Outcome(**outcome) for outcome in json.loads((part / "outcomes.json").read_text(encoding="utf-8"))]
        for part in parts
    ]
    outcomes = [outcome for group in by_part for outcome in group]
    splits = _splits(outcomes)
    number = first = 0
    for part, group in zip(parts, by_part, strict=True):
        count = sum(len(outcome.lengths) for outcome in group)
        edges = [*range(0, count, SHARD), count]
        for shard, (begin, end) in enumerate(pairwise(edges)):
            marks = splits[first + begin : first + end]
            writer.adopt(part, shard, number, first + begin, marks)
            number += 1
        first += count
    return outcomes


def _splits(outcomes: Sequence[_Outcome]) -> list[str]:
    """Train, validation or test of each episode.

    Of ten clips or more, one of twenty validates and another tests, whole: chosen by their names among those whose
    longest episode is at least of middling length. Of fewer, each clip's last episodes do. Where that leaves none for
    validation, whoever reads the recording divides it (see ``splits.py``).
    """
    given = [outcome for outcome in outcomes if outcome.lengths]
    marks = {outcome.name: ["train"] * len(outcome.lengths) for outcome in given}
    if len(given) >= _WHOLE_FILES:
        middling = sorted(max(outcome.lengths) for outcome in given)[len(given) // 2]
        likely = [outcome.name for outcome in given if max(outcome.lengths) >= middling]
        drawn = sorted(likely, key=lambda name: hashlib.sha256(name.encode()).digest())
        share = min(max(1, len(given) // _SHARE), len(drawn) // 3)
        for split, names in (("validation", drawn[:share]), ("test", drawn[share : 2 * share])):
            for name in names:
                marks[name] = [split] * len(marks[name])
    else:
        for outcome in given:
            count = len(outcome.lengths)
            share = max(1, count // _SHARE) if count >= 5 else 0
            marks[outcome.name][count - 2 * share :] = ["validation"] * share + ["test"] * share
    return [mark for outcome in given for mark in marks[outcome.name]]


def _report(
    outcomes: Sequence[_Outcome], unread: Sequence[tuple[str, str]], notes: Sequence[str], fps: int
) -> ImportReport:
    given = [outcome for outcome in outcomes if outcome.lengths]
    return ImportReport(
        imported=len(given),
        episodes=sum(len(outcome.lengths) for outcome in given),
        seconds=sum(sum(outcome.lengths) for outcome in given) / fps,
        skipped=(*unread, *((outcome.name, outcome.skipped) for outcome in outcomes if outcome.skipped)),
        lost=tuple((outcome.name, what) for outcome in given for what in outcome.lost),
        seconds_lost=sum(outcome.seconds_lost for outcome in given),
        notes=tuple(notes),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.import_video", description=__doc__)
    parser.add_argument("--videos", type=Path, required=True, help="a folder of clips, or one")
    parser.add_argument("--out", type=Path, required=True, help="the folder to fill; may hold an unfinished import")
    parser.add_argument("--resolution", help="pixels, or HEIGHTxWIDTH; as suits most clips by default")
    parser.add_argument("--fps", type=int, help="the clips' own by default, or a fraction of it below 15")
    parser.add_argument("--frames-per-step", type=int, help="so many that about 7.5 steps make a second by default")
    parser.add_argument("--fit", choices=get_args(Fit), default="crop", help="what becomes of clips of another aspect")
    parser.add_argument("--captions", default="auto", help="auto (name.txt beside name.mp4), none, or a table")
    parser.add_argument("--cuts", choices=get_args(Cuts), default="scenedetect", help="how shots are told apart")
    parser.add_argument("--episode-seconds", type=float, help="an episode's longest; 20 by default, less of few clips")
    parser.add_argument("--stills-fps", type=float, help="rate of folders of stills; a still a frame by default")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args(arguments)
    if chosen.workers < 1:
        parser.error("--workers must be at least 1")
    from train.record import parse_size  # workers need none of it

    try:
        report = import_videos(
            chosen.videos,
            chosen.out,
            size=parse_size(chosen.resolution) if chosen.resolution else None,
            fps=chosen.fps,
            frames_per_step=chosen.frames_per_step,
            fit=chosen.fit,
            captions=chosen.captions,
            cuts=chosen.cuts,
            episode_seconds=chosen.episode_seconds,
            stills_fps=chosen.stills_fps,
            workers=chosen.workers,
        )
    except (ValueError, ImportError, DiskFullError, RuntimeError) as error:
        if isinstance(error, BrokenProcessPool):
            error = RuntimeError("an importing process died (out of memory?): run the same command again to go on")
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print("\n".join(report.said()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
