"""Records episodes of a simulated world: ``python -m train.record --world tabletop --episodes 900 --out DIR``.

Episode i is a function of (seed, i) alone, whatever the number of workers; a killed run goes on where it
stopped when the same command is given again.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tokenizer.clip import Episode
from train.data.episode_writer import DiskFullError, EpisodeWriter, RecordingConfig
from train.worlds.registry import WORLDS, Recordable, World, recordable

SHARD = 16  # episodes
_CONSOLIDATE_EVERY = 6  # shards


def split_of(seed: int, index: int) -> str:
    """Train, validation or test (90, 5 and 5 of 100) of an episode."""
    lot = int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:4], "big") % 100
    return "train" if lot < 90 else "validation" if lot < 95 else "test"


def draw_episode(world: Recordable, seed: int, index: int) -> tuple[int, str]:
    """The simulator's seed and the behaviour of episode ``index`` of the recording ``seed``."""
    rng = np.random.default_rng([seed, index])
    shares = world.shares
    return int(rng.integers(2**31)), str(rng.choice(list(shares), p=list(shares.values())))


def play_episode(world: Recordable, env: World, seed: int, acting: str, num_steps: int) -> tuple[Episode, np.ndarray]:
    """Plays until ``num_steps`` or termination. Returns the episode and the state of every pixel frame."""
    act = world.behaviour(acting, np.random.default_rng([seed, 1]))
    _, info = env.reset(seed=seed)
    kept: dict[str, list[np.ndarray]] = {"frames": [], "states": []}
    if world.segmented is not None:
        kept["segmentation"] = []
    actions: list[int] = []
    caption, terminated = info["caption"], False
    while True:
        for key, parts in kept.items():
            parts.append(info[key])
        if terminated or len(actions) == num_steps:
            break
        actions.append(act(info["state"]))
        _, _, terminated, _, info = env.step(actions[-1])
    frame_states = np.concatenate(kept["states"])
    episode = Episode(
        frames=np.concatenate(kept["frames"]),
        actions=np.array(actions, dtype=np.int64)[:, None],
        states=frame_states[:: env.schema.frames_per_step],
        caption=caption,
        segmentation=None if world.segmented is None else np.concatenate(kept["segmentation"]),
        seed=seed,
        behaviour=acting,
        frames_per_step=env.schema.frames_per_step,
    )
    return episode, frame_states


# -- one worker -----------------------------------------------------------------------------------------

_worker: dict[str, Any] = {}


def _start_worker(path: Path, config: RecordingConfig, progress: Any) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def die_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()
    _worker.update(writer=EpisodeWriter(path, config), config=config, progress=progress)


def _record_shard(number: int, indices: list[int]) -> int:
    config: RecordingConfig = _worker["config"]
    world = recordable(config.settings["world"])
    seed, num_steps = config.settings["seed"], config.settings["steps"]
    with closing(world.make(config.settings["resolution"])) as env, _worker["writer"].shard(number) as shard:
        for index in indices:
            episode, frame_states = play_episode(world, env, *draw_episode(world, seed, index), num_steps)
            shard.add(index, episode, split_of(seed, index), frame_states)
            with _worker["progress"].get_lock():
                _worker["progress"].get_obj()[0] += 1
                _worker["progress"].get_obj()[1] += len(episode.frames)
    return number


# -- all of them ----------------------------------------------------------------------------------------


def record(
    path: Path,
    episodes: int,
    *,
    world: str = "tabletop",
    seed: int = 0,
    workers: int = 1,
    num_steps: int = 64,
    resolution: int | None = None,
) -> None:
    """Records what ``path`` still lacks of ``episodes`` episodes and writes its index.

    The default resolution is the world's own. Raises ValueError for one that it doesn't draw and for a folder with
    another recording, DiskFullError when the disk is full.
    """
    chosen = recordable(world)
    resolution = chosen.resolutions[0] if resolution is None else resolution
    if resolution not in chosen.resolutions:
        drawn = " or ".join(map(str, sorted(chosen.resolutions)))
        raise ValueError(f"resolution {resolution} is not drawn by {world}: choose {drawn}")
    settings = {"world": world, "seed": seed, "steps": num_steps, "resolution": resolution, "shard": SHARD}
    config = RecordingConfig(schema=chosen.schema, size=resolution, segmentation=chosen.segmented, settings=settings)
    writer = EpisodeWriter(path, config)
    writer.discard_unfinished()
    missing: dict[int, list[int]] = {}
    for number, start in enumerate(range(0, episodes, SHARD)):
        indices = list(range(start, min(start + SHARD, episodes)))
        if len(writer.shard_episodes(number) or []) < len(indices):
            missing[number] = indices
    todo = sum(map(len, missing.values()))
    context = multiprocessing.get_context("spawn")
    progress = context.Array("q", 2)
    os.environ.setdefault("LP_NUM_THREADS", "0")  # software OpenGL: one process a core is faster than threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    begun, finished = time.monotonic(), 0
    pool = ProcessPoolExecutor(workers, context, _start_worker, (path, config, progress))
    with pool, tqdm(total=episodes, initial=episodes - todo, unit=" episodes", smoothing=0.05) as bar:
        pending = {pool.submit(_record_shard, number, indices) for number, indices in missing.items()}
        try:
            while pending:
                done, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
                bar.n = episodes - todo + progress[0]
                bar.set_postfix_str(f"{progress[1] / (time.monotonic() - begun):.0f} frames/s")
                for future in done:
                    future.result()
                    finished += 1
                    if finished % _CONSOLIDATE_EVERY == 0:
                        writer.consolidate()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            writer.consolidate()
            raise
    total = writer.consolidate()
    seconds, size = time.monotonic() - begun, sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    speed = f", {progress[1]} frames at {progress[1] / seconds:.0f} frames/s" if progress[1] else ""
    print(f"{path}: {total} episodes, {size / 1e6:.0f} MB on disk{speed}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.record", description=__doc__)
    parser.add_argument("--world", choices=WORLDS, default="tabletop")
    parser.add_argument("--episodes", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the folder to fill; may hold an unfinished recording")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--steps", type=int, default=64, help="most steps of an episode")
    parser.add_argument("--resolution", type=int, help="the world's own by default: 80 of breakout, 128 of the others")
    chosen = parser.parse_args(arguments)
    if min(chosen.episodes, chosen.workers, chosen.steps) < 1:
        parser.error("--episodes, --workers and --steps must be at least 1")
    try:
        record(
            chosen.out,
            chosen.episodes,
            world=chosen.world,
            seed=chosen.seed,
            workers=chosen.workers,
            num_steps=chosen.steps,
            resolution=chosen.resolution,
        )
    except (ValueError, DiskFullError, RuntimeError) as error:
        if isinstance(error, BrokenProcessPool):
            error = RuntimeError("a recording process died (out of memory?): run the same command again to go on")
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
