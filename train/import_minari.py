"""Takes a Minari dataset in: ``python -m train.import_minari ID|FOLDER --out RECORDING``.

Where its observations have no pictures, its environment is played again, and only what comes out as it was recorded is
taken. The recording that it writes is like any other. A killed run goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

from tokenizer.frames import said_size
from train.data.episode_writer import DiskFullError, EpisodeWriter, RecordingConfig
from train.data.minari_source import MinariSource, NotAsRecorded, look
from train.data.resizing import Fit, Resizing
from train.record import parse_size
from train.running.progress_bar import progress_bar
from train.worlds.play import split_of

__all__ = ["MinariSource", "import_minari", "look", "main"]

SHARD = 16  # episodes
CELL = 8


@dataclass(frozen=True, kw_only=True)
class Job:
    """How episodes are read and written, the same in every process."""

    source: MinariSource
    out: Path
    config: RecordingConfig
    size: Resizing


def _check(indices: Sequence[int], source: MinariSource) -> list[tuple[int, str]]:
    with closing(source.replay()) as replay:
        return [(index, replay.comes_out(index)) for index in indices]


def _write(number: int, job: Job, indices: Sequence[int]) -> int:
    """Shard ``number`` of the episodes ``indices`` of the dataset."""
    with ExitStack() as stack:
        replay = stack.enter_context(closing(job.source.replay())) if job.source.pixels is None else None
        shard = stack.enter_context(EpisodeWriter(job.out, job.config).shard(number))
        for place in range(number * SHARD, min((number + 1) * SHARD, len(indices))):
            try:
                episode = job.source.episode(indices[place], job.size, replay)
            except NotAsRecorded as error:
                raise ValueError(
                    f"episode {indices[place]} came out as recorded once and not again ({error}): its environment is "
                    "not repeatable"
                ) from None
            except ValueError as error:
                raise ValueError(f"episode {indices[place]} of {job.source.source}: {error}") from error
            shard.add(place, episode, split_of(0, place))
    return number


def import_minari(
    source: MinariSource,
    out: Path,
    *,
    size: tuple[int, int],
    fit: Fit = "crop",
    episodes: int | None = None,
    workers: int = 1,
) -> tuple[int, list[str]]:
    """Writes what ``out`` still lacks of the first ``episodes`` (all of them by default). Returns how many there are,
    and a line for each that was left out.

    Raises ValueError for actions that the space does not hold, where nothing comes out as recorded, and where ``out``
    holds something else; DiskFullError when the disk is full.
    """
    indices = list(range(min(len(source.dataset), episodes or len(source.dataset))))
    left_out: list[str] = []
    with ExitStack() as stack:
        run: Any = map  # here
        if workers > 1:
            run = stack.enter_context(ProcessPoolExecutor(workers, get_context("spawn"))).map
        if source.pixels is None:
            parts = [indices[i : i + SHARD] for i in range(0, len(indices), SHARD)]
            checked = run(partial(_check, source=source), parts)
            found = [one for part in progress_bar(checked, total=len(parts), unit=" shards checked") for one in part]
            indices = [index for index, why in found if not why]
            left_out = [f"left out episode {index}: {why}" for index, why in found if why]
            if not indices:
                raise ValueError(f"no episode comes out as it was recorded ({found[0][1]}), so nothing was imported")
        settings = {"minari": source.dataset.id, "episodes": indices[-1] + 1, "fit": fit, "shard": SHARD}
        config = RecordingConfig(schema=source.schema, size=size, settings=settings)
        job = Job(source=source, out=out, config=config, size=Resizing(stored=source.size, target=size, fit=fit))
        writer = EpisodeWriter(out, config)
        writer.discard_unfinished()
        numbers = range(-(-len(indices) // SHARD))
        missing = [n for n in numbers if writer.shard_episodes(n) is None]
        done = run(partial(_write, job=job, indices=indices), missing)
        for _ in progress_bar(done, total=len(numbers), initial=len(numbers) - len(missing), unit=" shards"):
            pass
    return writer.consolidate(), left_out


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.import_minari", description=__doc__)
    parser.add_argument("source", help="a dataset's id, fetched if it is not here, or its folder")
    parser.add_argument("--out", type=Path, required=True, help="the recording; may be unfinished")
    parser.add_argument("--resolution", help="pixels, or HEIGHTxWIDTH, in multiples of 8; about its own by default")
    parser.add_argument("--fit", choices=get_args(Fit), default="crop", help="for pictures of another aspect")
    parser.add_argument("--pixels", help="which of several pictures in the observation")
    parser.add_argument("--state", choices=("auto", "none"), default="auto", help="none: leave its numbers out")
    parser.add_argument("--fps", type=int, help="frames a second; the environment's by default")
    parser.add_argument("--episodes", type=int, help="at the most; all of them by default")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args(arguments)
    if min(chosen.workers, chosen.fps or 1, chosen.episodes or 1) < 1:
        parser.error("--workers, --fps and --episodes must be at least 1")
    try:
        source = look(chosen.source, pixels=chosen.pixels, state=chosen.state == "auto", fps=chosen.fps)
        print("\n".join(source.said()))
        height, width = (max(CELL, round(side / CELL) * CELL) for side in source.size)
        size = parse_size(chosen.resolution) if chosen.resolution else (height, width)
        count, left_out = import_minari(
            source, chosen.out, size=size, fit=chosen.fit, episodes=chosen.episodes, workers=chosen.workers
        )
    except (ValueError, DiskFullError, BrokenProcessPool) as error:
        if isinstance(error, BrokenProcessPool):
            error = ValueError("a process died (out of memory?): run the same command again to go on")
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    lines = [*left_out, f"{chosen.out}: {count} episodes of {said_size(size)} pictures, {len(left_out)} left out"]
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
