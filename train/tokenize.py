"""Turns a recording into token shards: ``python -m train.tokenize --recording DIR --tokenizer DIR --out DIR``.

``--simulate N`` makes shards of N fresh episodes of the simulated world's states alone, without pictures:
physics is cheap where rendering is not, and the state's part of the dynamics needs nothing else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from tokenizer.text_tokenizer import TextTokenizer
from tokenizer.video_tokenizer import VideoTokenizer, VideoTokenizerConfig, read_config
from train.data.episode_store import EpisodeStore
from train.data.tokens import TokenisedEpisode, TokenWriter
from train.record import draw_episode, split_of
from train.worlds.registry import WORLDS, Recordable, recordable

SHARD = 64  # episodes


def _shards(indices: list[int]) -> list[list[int]]:
    return [indices[i : i + SHARD] for i in range(0, len(indices), SHARD)]


def tokenise_recording(
    store: EpisodeStore, tokenizer: VideoTokenizer, indices: list[int], splits: dict[int, str]
) -> Iterator[TokenisedEpisode]:
    """Encodes whole episodes, one at a time, at the tokenizer's resolution."""
    for index in indices:
        episode = store.read(index, resolution=tokenizer.resolution)
        assert episode.states is not None
        assert episode.actions is not None
        video = tokenizer.encode(torch.from_numpy(episode.frames)[None])[0]
        yield TokenisedEpisode(
            episode=index,
            split=splits[index],
            caption=episode.caption,
            states=torch.from_numpy(episode.states),
            actions=torch.from_numpy(episode.actions),
            video=video.flatten(1),
        )


def simulate_states(name: str, seed: int, index: int, num_steps: int, eventful: float = 0.0) -> TokenisedEpisode:
    """One episode of a world without pictures; a function of (seed, index), like a recorded one.

    ``eventful`` is the chance that a step begins with an event.
    """
    world = recordable(name)
    return simulate_episode(world, *draw_episode(world, seed, index), num_steps, split_of(seed, index), index, eventful)


def simulate_episode(
    world: Recordable, seed: int, acting: str, num_steps: int, split: str, index: int = 0, eventful: float = 0.0
) -> TokenisedEpisode:
    """The same of a simulator's seed and a behaviour, as ``train.record`` would play it."""
    env: Any = world.simulate()
    act, chance = world.behaviour(acting, np.random.default_rng([seed, 1])), np.random.default_rng([seed, 2])
    _, info = env.reset(seed=seed)
    states, actions, caption = [info["state"]], [], info["caption"]
    events: dict[int, str] = {}
    for _ in range(num_steps):
        actions.append(act(info["state"]))
        if world.event is not None and chance.random() < eventful:
            _, text, edit = world.event(world.schema.to_dict(torch.from_numpy(info["state"])), chance)
            with suppress(ValueError):  # bodies that a collision has pressed into one another
                env.write_state(edit)
                events[len(states)] = text
        _, _, terminated, _, info = env.step(actions[-1])
        states.append(info["state"])
        if terminated:
            break
    return TokenisedEpisode(
        episode=index,
        split=split,
        caption=caption,
        states=torch.from_numpy(np.stack(states)),
        actions=torch.tensor(actions),
        video=None,
        events=events,
    )


def _simulate_many(name: str, seed: int, indices: list[int], num_steps: int, eventful: float) -> list[TokenisedEpisode]:
    torch.set_num_threads(1)
    return [simulate_states(name, seed, index, num_steps, eventful) for index in indices]


def write_recording(recording: Path, tokenizer_folder: Path, out: Path, text: TextTokenizer | None = None) -> None:
    """Tokenises every split of a recording. Without ``text``, a text model is trained on the training captions."""
    store, tokenizer = EpisodeStore(recording), VideoTokenizer.load(tokenizer_folder)
    splits = {i: name for name in ("train", "validation", "test") for i in store.split(name)}
    text = text or TextTokenizer.train([store.caption(i) for i in store.split("train")])
    writer = TokenWriter(out, schema=store.schema, text=text, num_codes=tokenizer.num_codes, grid=tokenizer.grid)
    with tqdm(total=len(splits), unit=" episodes") as bar:
        for indices in _shards(sorted(splits)):
            writer.write_shard(list(tokenise_recording(store, tokenizer, indices, splits)))
            bar.update(len(indices))
    writer.close()


def write_simulated(
    name: str,
    episodes: int,
    out: Path,
    tokenizer: VideoTokenizerConfig,
    text: TextTokenizer | None = None,
    *,
    seed: int,
    num_steps: int,
    workers: int,
    eventful: float = 0.0,
) -> None:
    """Simulates episodes of a world's states. Without ``text``, a text model is trained on their training captions
    and events.

    ``tokenizer`` says how large the video range of the shared vocabulary will be.
    """
    parts = _shards(list(range(episodes)))
    with ProcessPoolExecutor(workers) as pool, tqdm(total=episodes, unit=" episodes") as bar:
        shards = []
        for shard in pool.map(partial(_simulate_many, name, seed, num_steps=num_steps, eventful=eventful), parts):
            shards.append(shard)
            bar.update(len(shard))
    known = [e for shard in shards for e in shard if e.split == "train"]
    text = text or TextTokenizer.train([words for e in known for words in (e.caption, *e.events.values())])
    codes = tokenizer.quantizer.size
    writer = TokenWriter(out, schema=recordable(name).schema, text=text, num_codes=codes, grid=tokenizer.grid)
    for shard in shards:
        writer.write_shard(shard)
    writer.close()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.tokenize", description=__doc__)
    parser.add_argument("--recording", type=Path, help="folder that train.record wrote")
    parser.add_argument("--tokenizer", type=Path, help="folder that the video tokenizer was exported to")
    parser.add_argument("--text", type=Path, help="a text.model to speak, instead of training one on the captions")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--simulate", type=int, default=0, help="episodes of states alone, instead of a recording's")
    parser.add_argument("--world", choices=WORLDS, default="tabletop", help="the one to simulate")
    parser.add_argument("--seed", type=int, default=1_000, help="of the simulated episodes")
    parser.add_argument("--steps", type=int, default=64, help="of a simulated episode at the most")
    parser.add_argument("--events", type=float, default=0.0, help="chance that a simulated step begins with an event")
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args(arguments)
    try:
        text = TextTokenizer.load(chosen.text) if chosen.text else None
        if chosen.simulate:
            config = read_config(chosen.tokenizer)[0] if chosen.tokenizer else VideoTokenizerConfig()
            write_simulated(
                chosen.world,
                chosen.simulate,
                chosen.out,
                config,
                text,
                seed=chosen.seed,
                num_steps=chosen.steps,
                workers=chosen.workers,
                eventful=chosen.events,
            )
        elif chosen.tokenizer is None or chosen.recording is None:
            parser.error("name the recording and the folder that the video tokenizer was exported to")
        else:
            write_recording(chosen.recording, chosen.tokenizer, chosen.out, text)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
