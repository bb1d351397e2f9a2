"""Takes a LeRobotDataset v3 in: ``python -m train.import_lerobot --lerobot FOLDER|owner/name --out RECORDING``.

Pictures of one camera are brought to one size, actions and state keep their names and numbers. The recording that it
writes is like any other. A killed run goes on where it stopped when the same command is given again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import get_args

from tokenizer.frames import said_size
from train.data.episode_store import EpisodeStore
from train.data.episode_writer import DiskFullError, EpisodeWriter, RecordingConfig
from train.data.lerobot_folder import lerobot_source
from train.data.recording_layout import SPLITS
from train.data.resizing import Fit
from train.record import parse_size
from train.running.progress_bar import progress_bar
from train.worlds.play import split_of

SHARD = 16  # episodes


def _write(
    number: int, folder: Path, out: Path, config: RecordingConfig, camera: str | None, fit: Fit | None, last: int
) -> int:
    store = EpisodeStore(folder, camera=camera, frames_per_step=config.schema.frames_per_step)
    marked = {i: name for name in SPLITS for i in store.split(name)}
    with EpisodeWriter(out, config).shard(number) as shard:
        for index in range(number * SHARD, min((number + 1) * SHARD, last)):
            split = marked[index] if "test" in marked.values() else split_of(0, index)
            shard.add(index, store.read(index, config.size, fit=fit), split)
    return number


def import_lerobot(
    folder: Path,
    out: Path,
    *,
    size: int | Sequence[int],
    frames_per_step: int = 1,
    camera: str | None = None,
    fit: Fit | None = None,
    episodes: int | None = None,
    workers: int = 1,
) -> int:
    """Writes what ``out`` still lacks of the folder's first ``episodes`` (all of them by default). Returns how many
    there are.

    Raises ValueError for a folder that is none, for another aspect without ``fit``, and where ``out`` holds something
    else; DiskFullError when the disk is full.
    """
    store = EpisodeStore(folder, camera=camera, frames_per_step=frames_per_step)
    last = min(len(store), episodes or len(store))
    settings = {"lerobot": folder.resolve().name, "camera": store.camera, "episodes": last, "fit": fit, "shard": SHARD}
    config = RecordingConfig(schema=store.schema, size=size, settings=settings)
    writer = EpisodeWriter(out, config)
    writer.discard_unfinished()
    numbers = range(-(-last // SHARD))
    missing = [n for n in numbers if writer.shard_episodes(n) is None]
    one = partial(_write, folder=folder, out=out, config=config, camera=camera, fit=fit, last=last)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        done = pool.map(one, missing)
        for _ in progress_bar(done, total=len(numbers), initial=len(numbers) - len(missing), unit=" shards"):
            pass
    return writer.consolidate()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.import_lerobot", description=__doc__)
    parser.add_argument("--lerobot", required=True, help="a folder, or owner/name on the Hugging Face hub")
    parser.add_argument("--out", type=Path, required=True, help="the recording; may be unfinished")
    parser.add_argument("--resolution", required=True, help="pixels, or HEIGHTxWIDTH, in multiples of 8")
    parser.add_argument("--frames-per-step", type=int, default=1, help="each of their actions is kept")
    parser.add_argument("--camera", help="the one to read of several")
    parser.add_argument("--fit", choices=get_args(Fit), help="for pictures of another aspect")
    parser.add_argument("--episodes", type=int, help="at the most; all of them by default")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args(arguments)
    if min(chosen.workers, chosen.frames_per_step, chosen.episodes or 1) < 1:
        parser.error("--workers, --frames-per-step and --episodes must be at least 1")
    try:
        size = parse_size(chosen.resolution)
        count = import_lerobot(
            lerobot_source(chosen.lerobot),
            chosen.out,
            size=size,
            frames_per_step=chosen.frames_per_step,
            camera=chosen.camera,
            fit=chosen.fit,
            episodes=chosen.episodes,
            workers=chosen.workers,
        )
    except (ValueError, DiskFullError, BrokenProcessPool) as error:
        if isinstance(error, BrokenProcessPool):
            error = ValueError("a process died (out of memory?): run the same command again to go on")
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"{chosen.out}: {count} episodes of {said_size(size)} pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
