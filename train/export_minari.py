"""Writes a recording as a Minari dataset: ``python -m train.export_minari --recording DIR --id NAME-v0``.

``minari.load_dataset`` reads it. An observation is the last picture of a step, lossless; with a described state it is a
dict of ``pixels`` and ``state``. Where nothing was rewarded, rewards are 0. The dataset appears whole or not at all.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tokenizer.clip import Episode
from tokenizer.state_schema import StateSchema
from train.data.episode_store import EpisodeStore
from train.data.minari_source import PACE
from train.running.progress_bar import progress_bar


def observation_space(schema: StateSchema, size: tuple[int, int]) -> gymnasium.Space[Any]:
    pixels = spaces.Box(0, 255, (*size, 3), np.uint8)
    if not schema.num_values:
        return pixels
    return spaces.Dict(pixels=pixels, state=spaces.Box(-np.inf, np.inf, (schema.num_values,), np.float32))


def stacked(space: gymnasium.Space[Any], values: Sequence[Any]) -> Any:
    """One value of a space for each step, as Minari keeps them: nested as the space is, with arrays at the leaves."""
    if isinstance(space, spaces.Dict):
        return {key: stacked(part, [value[key] for value in values]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stacked(part, [value[i] for value in values]) for i, part in enumerate(space.spaces))
    return np.asarray(values, dtype=space.dtype)


def outcome(schema: StateSchema, episode: Episode, role: str) -> np.ndarray:
    """What each step brought, (n,): by the schema's field of that role, by the recording, or 0."""
    columns = list(schema.role_columns(role).values())
    if columns and episode.states is not None:
        return episode.states[1:, columns[0].start]
    found = episode.rewards if role == "reward" else episode.terminated
    return np.zeros(episode.num_steps) if found is None else found


def buffers(store: EpisodeStore) -> Iterator[Any]:
    """A ``minari`` episode buffer for each episode."""
    from minari.data_collector import EpisodeBuffer

    schema, r = store.schema, store.schema.frames_per_step
    space: Any = schema.actions.space
    for index in range(len(store)):
        episode = store.read(index)
        assert episode.actions is not None
        pixels: Any = episode.frames[::r]
        ended = outcome(schema, episode, "terminated") > 0.5
        cut = np.zeros(len(ended), dtype=bool)
        cut[-1:] = not ended[-1:].any()
        yield EpisodeBuffer(
            id=index,
            seed=episode.seed,
            options={"caption": episode.caption} if episode.caption else None,
            observations=pixels if episode.states is None else {"pixels": pixels, "state": episode.states},
            actions=stacked(space, [schema.actions.unflatten(values) for values in episode.actions]),
            rewards=outcome(schema, episode, "reward").astype(np.float64).tolist(),
            terminations=ended.tolist(),
            truncations=cut.tolist(),
            infos={},
        )


def export_minari(store: EpisodeStore, name: str) -> Path:
    """Writes the dataset ``name`` where Minari looks for datasets (``MINARI_DATASETS_PATH``). Returns its folder.

    Raises ValueError for a name that is none or is taken, for a recording without actions, and without the package.
    """
    try:
        import minari
        from minari.dataset.minari_dataset import parse_dataset_id
        from minari.dataset.minari_storage import MinariStorage
        from minari.storage import get_dataset_path
    except ImportError:
        raise ValueError("Minari datasets need the package: pip install 'worldmodel-stream[minari]'") from None
    if not store.schema.actions:
        raise ValueError(f"{store.path} has no actions, and a Minari dataset holds what was done: record some")
    try:
        parse_dataset_id(name)
    except (ValueError, TypeError):
        raise ValueError(f"{name!r} is no name of a Minari dataset: write it as name-v0, or as group/name-v0") from None
    folder = get_dataset_path(name)
    if folder.exists():
        raise ValueError(f"there is a dataset at {folder}: take another name, or a higher version")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    aside.mkdir(parents=True)
    try:
        storage = MinariStorage.new(
            aside / "data",
            observation_space=observation_space(store.schema, store.size),
            action_space=store.schema.actions.space,
            jpeg_encoding=False,
        )
        pace = store.schema.fps / store.schema.frames_per_step
        about = {"dataset_id": name, "minari_version": minari.__version__, PACE: pace}
        storage.update_metadata(about | {"description": f"recorded from {store.schema.name}"})
        for buffer in progress_bar(buffers(store), total=len(store), unit=" episodes"):
            storage.update_episodes([buffer])
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return folder


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.export_minari", description=__doc__)
    parser.add_argument("--recording", type=Path, required=True, help="one of ours, or a LeRobotDataset v3 folder")
    parser.add_argument("--id", required=True, help="what the dataset is called: name-v0, or group/name-v0")
    parser.add_argument("--camera", help="the one to read of several")
    chosen = parser.parse_args(arguments)
    try:
        store = EpisodeStore(chosen.recording, camera=chosen.camera)
        folder = export_minari(store, chosen.id)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    print(f"{folder}: {len(store)} episodes; minari.load_dataset({chosen.id!r}) reads it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
