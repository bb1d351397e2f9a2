"""Records episodes of a simulated world: ``python -m train.record --world NAME --episodes 900 --out DIR``.

NAME is a world of ours, one that a package registers, ``my_package.my_world:RECIPE``, or the YAML file of a Gymnasium
environment. ``--env ID`` writes such a file into the recording's folder, from what it finds out about the environment.
Episode i is a function of (seed, i) alone, whatever the number of workers; a killed run goes on where it
stopped when the same command is given again. With ``--play`` a person plays, in the browser.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path
from typing import Any

from tokenizer.frames import picture_size, said_size
from train.data.episode_writer import DiskFullError, EpisodeWriter, RecordingConfig
from train.running.progress_bar import progress_bar
from train.worlds.contract import Recipe, Size
from train.worlds.gym_world import add_environment_options, environment
from train.worlds.play import draw_episode, play_episode, split_of
from train.worlds.registry import names, recipe
from train.worlds.saved_policy import digest, played_by

SHARD = 16  # episodes
_CONSOLIDATE_EVERY = 6  # shards


def parse_size(text: str) -> Size:
    """``64`` is 64x64; ``64x112`` is 64 high and 112 wide. Raises ValueError for anything else."""
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if found is None:
        raise ValueError(f"a resolution is a number of pixels or HEIGHTxWIDTH, as 64 or 64x112, not {text!r}")
    return int(found[1]), int(found[2] or found[1])


def played(settings: Mapping[str, Any]) -> Recipe:
    """The world that a recording is of, and who plays it."""
    found = recipe(settings["world"])
    return played_by(found, settings["policy"]) if "policy" in settings else found


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
    world, size = played(config.settings), picture_size(config.size)
    seed, num_steps = config.settings["seed"], config.settings["steps"]
    with closing(world.make(size)) as env, _worker["writer"].shard(number) as shard:
        for index in indices:
            episode, frame_states = play_episode(world, env, *draw_episode(world, seed, index), num_steps, size)
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
    world: str,
    seed: int = 0,
    workers: int = 1,
    num_steps: int = 64,
    resolution: int | Size | None = None,
    policy: Path | None = None,
) -> None:
    """Records what ``path`` still lacks of ``episodes`` episodes and writes its index.

    The default resolution is the world's own. ``policy``, if one is given, was saved by ``train.imagine`` and plays in
    place of the world's behaviours. Raises ValueError for one that it doesn't draw and for a folder with
    another recording, DiskFullError when the disk is full.
    """
    chosen = recipe(world)
    size = (resolution, resolution) if isinstance(resolution, int) else resolution or chosen.sizes[0]
    if size not in chosen.sizes:
        drawn = " or ".join(said_size(one) for one in sorted(chosen.sizes))
        raise ValueError(f"resolution {said_size(size)} is not drawn by {world}: choose {drawn}")
    plain = size[0] if size[0] == size[1] else list(size)
    settings = {"world": world, "seed": seed, "steps": num_steps, "resolution": plain, "shard": SHARD}
    if policy is not None:
        settings |= {"policy": str(policy), "policy_digest": digest(policy)}
    config = RecordingConfig(schema=chosen.schema, size=size, segmentation=chosen.segmented, settings=settings)
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
    with pool, progress_bar(total=episodes, initial=episodes - todo, unit=" episodes", smoothing=0.05) as bar:
        pending = {pool.submit(_record_shard, number, indices) for number, indices in missing.items()}
        try:
            while pending:
                done, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
                bar.set_postfix_str(f"{progress[1] / (time.monotonic() - begun):.0f} frames/s", refresh=False)
                bar.update(episodes - todo + progress[0] - bar.n)
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


def play(path: Path, world: str, given: list[str]) -> int:
    """Lets a person play the world's simulator on the demo's page, and records that. ``given``: further options of it.

    Returns its exit status. The page is a process of its own: nothing here knows of it but its command.
    """
    command = [sys.executable, "-m", "demo", "--simulate", world, "--record", str(path), *given]
    page = subprocess.Popen(command)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the page's, which then writes the last episode
    try:
        return page.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.record", description=__doc__)
    named = parser.add_mutually_exclusive_group(required=True)
    named.add_argument("--world", help=f"{', '.join(names())}, my_package.my_world:RECIPE, or a world's YAML file")
    named.add_argument("--env", help="a Gymnasium environment: its id, or my_module:MyEnv-v0")
    add_environment_options(parser)
    parser.add_argument("--episodes", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the folder to fill; may hold an unfinished recording")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--steps", type=int, default=64, help="most steps of an episode")
    parser.add_argument("--resolution", help="pixels, or HEIGHTxWIDTH; the world's own by default")
    parser.add_argument("--play", action="store_true", help="play it yourself, on the demo's page, until Ctrl+C")
    parser.add_argument("--port", help="with --play: where the page is served; default: the first free one from 7860")
    chosen = parser.parse_args(arguments)
    if min(chosen.episodes, chosen.workers, chosen.steps) < 1:
        parser.error("--episodes, --workers and --steps must be at least 1")
    try:
        size = parse_size(chosen.resolution) if chosen.resolution else None
        world, saved = chosen.world, chosen.policy.endswith(".zip")
        policy = Path(chosen.policy) if saved else None
        chosen.policy = "sticky" if saved else chosen.policy
        if chosen.env:
            world = str(chosen.out / "world.yaml")
            found = environment(Path(world), chosen, size)
            print("\n".join(found.said()), flush=True)
            size = None
        if chosen.play:
            return play(chosen.out, world, [] if chosen.port is None else ["--port", chosen.port])
        record(
            chosen.out,
            chosen.episodes,
            world=world,
            seed=chosen.seed,
            workers=chosen.workers,
            num_steps=chosen.steps,
            resolution=size,
            policy=policy,
        )
    except (ValueError, ImportError, DiskFullError, RuntimeError) as error:
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
