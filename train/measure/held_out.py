"""Episodes that no training has seen, recorded when they are first asked for and kept in the user's cache.

``train.record`` draws simulator seeds below 2**31; these begin there, so none of them can occur in a recording,
whatever its seed. They are the same on every machine. A changed world gets a folder of its own.
"""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path

import numpy as np

import train.worlds
from train.data.episode_store import EpisodeStore
from train.data.episode_writer import EpisodeWriter, RecordingConfig
from train.data.tokens import TokenisedEpisode
from worldmodel.cache_folder import cache_folder

FIRST_SEED = 2**31
STATES_FROM = 1_000_000  # after the seeds of recorded episodes
NUM_STEPS = 64
SHARD = 4  # episodes
RESOLUTION = 128


def held_out_states(episodes: int, *, num_steps: int = NUM_STEPS) -> list[TokenisedEpisode]:
    """States and actions of as many further Tabletop episodes, simulated without pictures. Needs MuJoCo."""
    from train.tokenize import simulate_episode
    from train.worlds.registry import recordable

    world, seeds = recordable("tabletop"), range(FIRST_SEED + STATES_FROM, FIRST_SEED + STATES_FROM + episodes)
    acting, shares = list(world.shares), list(world.shares.values())
    chosen = np.random.default_rng([FIRST_SEED, STATES_FROM]).choice(acting, episodes, p=shares)
    return [
        simulate_episode(world, seed, str(name), num_steps, "test") for seed, name in zip(seeds, chosen, strict=True)
    ]


def held_out(episodes: int, *, num_steps: int = NUM_STEPS, folder: Path | None = None) -> EpisodeStore:
    """A recording of at least ``episodes`` held-out Tabletop episodes, all in the split ``test``.

    Raises RuntimeError when it has to be recorded and this machine has no MuJoCo or no OpenGL.
    """
    sources = sorted(Path(train.worlds.__file__).parent.rglob("*.py"))
    version = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:10]
    path = (folder or cache_folder()) / f"held-out-tabletop-{num_steps}-{version}"
    try:
        from train.record import play_episode
        from train.worlds.registry import recordable

        world = recordable("tabletop")
    except ImportError as error:
        raise RuntimeError(
            f"held-out episodes are recorded with MuJoCo, which is missing ({error}): "
            "pip install 'worldmodel-stream[worlds]', or give --recording DIR"
        ) from None
    settings = {"world": "tabletop", "first_seed": FIRST_SEED, "steps": num_steps}
    config = RecordingConfig(schema=world.schema, size=RESOLUTION, segmentation=world.segmented, settings=settings)
    writer = EpisodeWriter(path, config)
    missing = [n for n in range(-(-episodes // SHARD)) if writer.shard_episodes(n) is None]
    if missing:
        print(f"recording {len(missing) * SHARD} held-out episodes into {path}")
        acting, shares = list(world.shares), list(world.shares.values())
        with closing(world.make(RESOLUTION)) as env:
            for number in missing:
                with writer.shard(number) as shard:
                    for index in range(number * SHARD, (number + 1) * SHARD):
                        chosen = str(np.random.default_rng([FIRST_SEED, index]).choice(acting, p=shares))
                        episode, frame_states = play_episode(world, env, FIRST_SEED + index, chosen, num_steps)
                        shard.add(index, episode, "test", frame_states)
        writer.consolidate()
    return EpisodeStore(path)
