"""Episodes that no training has seen, recorded when they are first asked for and kept in the user's cache.

``train.record`` draws simulator seeds below 2**31; these begin there, so none of them can occur in a recording,
whatever its seed. They are the same on every machine. A changed world gets a folder of its own.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from contextlib import closing
from pathlib import Path

import numpy as np

from train.data.episode_store import EpisodeStore
from train.data.episode_writer import EpisodeWriter, RecordingConfig
from train.data.tokens import TokenisedEpisode
from train.worlds import play
from train.worlds.contract import Recipe
from worldmodel.cache_folder import cache_folder

FIRST_SEED = 2**31
STATES_FROM = 1_000_000  # after the seeds of recorded episodes
NUM_STEPS = 64
SHARD = 4  # episodes


def held_out_states(world: Recipe, episodes: int, *, num_steps: int = NUM_STEPS) -> list[TokenisedEpisode]:
    """States and actions of as many further episodes, simulated without pictures. Needs the world's simulator."""
    seeds = range(FIRST_SEED + STATES_FROM, FIRST_SEED + STATES_FROM + episodes)
    rng = np.random.default_rng([FIRST_SEED, STATES_FROM])
    acting, shares = list(world.shares) or [play.ANY], list(world.shares.values()) or [1.0]
    chosen = rng.choice(acting, episodes, p=shares)
    return [
        play.simulate_episode(world, seed, str(name), num_steps, "test")
        for seed, name in zip(seeds, chosen, strict=True)
    ]


def version(world: Recipe) -> str:
    """A fingerprint of the sources that a world's episodes come from: its folder, and how it is played."""
    own = [Path(inspect.getfile(world.make))] if world.folder is None else sorted(world.folder.rglob("*.py"))
    sources = [*own, Path(play.__file__)]
    parts = [*(path.read_bytes() for path in sources), world.source.encode()]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:10]


def held_out(
    name: str, world: Recipe, episodes: int, *, num_steps: int = NUM_STEPS, folder: Path | None = None
) -> EpisodeStore:
    """A recording of at least ``episodes`` held-out episodes of a world, all in the split ``test``.

    Raises RuntimeError when it has to be recorded and this machine lacks the simulator or what it draws with.
    """
    size = world.sizes[0]
    called = re.sub(r"\W+", "-", name)
    path = (folder or cache_folder()) / f"held-out-{called}-{num_steps}-{version(world)}"
    settings = {"world": name, "first_seed": FIRST_SEED, "steps": num_steps}
    config = RecordingConfig(schema=world.schema, size=size, segmentation=world.segmented, settings=settings)
    writer = EpisodeWriter(path, config)
    missing = [n for n in range(-(-episodes // SHARD)) if writer.shard_episodes(n) is None]
    if missing:
        try:
            env = world.make(size)
        except ImportError as error:
            raise RuntimeError(
                f"held-out episodes are recorded with the world's simulator, and what it needs is missing ({error}): "
                "pip install 'worldmodel-stream[worlds]', or give --recording DIR"
            ) from None
        print(f"recording {len(missing) * SHARD} held-out episodes into {path}")
        with closing(env):
            for number in missing:
                with writer.shard(number) as shard:
                    for index in range(number * SHARD, (number + 1) * SHARD):
                        acting = play.draw_behaviour(world, np.random.default_rng([FIRST_SEED, index]))
                        seed = FIRST_SEED + index
                        episode, frame_states = play.play_episode(world, env, seed, acting, num_steps, size)
                        shard.add(index, episode, "test", frame_states)
        writer.consolidate()
    return EpisodeStore(path)
