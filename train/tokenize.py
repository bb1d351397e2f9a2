"""Turns a recording into token shards: ``python -m train.tokenize --recording DIR --tokenizer DIR --out DIR``.

``--simulate N`` makes shards of N fresh episodes of the simulated world's states alone, without pictures:
physics is cheap where rendering is not, and the state's part of the dynamics needs nothing else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from tokenizer.action_space import BINS, ActionSpace, Binning
from tokenizer.clip import Episode
from tokenizer.text_tokenizer import TextTokenizer
from tokenizer.video_tokenizer import VideoTokenizer, VideoTokenizerConfig, read_config
from train.data.episode_store import EpisodeStore
from train.data.recording_layout import SPLITS
from train.data.resizing import Fit
from train.data.tokens import TokenisedEpisode, TokenStore, TokenWriter
from train.running.progress_bar import progress_bar
from train.worlds.play import draw_episode, simulate_episode, split_of
from train.worlds.registry import names, recipe

SHARD = 64  # episodes


def _shards(indices: list[int]) -> list[list[int]]:
    return [indices[i : i + SHARD] for i in range(0, len(indices), SHARD)]


def tokenise_recording(
    store: EpisodeStore,
    tokenizer: VideoTokenizer,
    indices: list[int],
    splits: dict[int, str],
    *,
    actions: ActionSpace | None = None,
    fit: Fit | None = None,
) -> Iterator[TokenisedEpisode]:
    """Encodes whole episodes, one at a time, at the tokenizer's resolution; what they lack stays absent.

    ``actions`` is the recording's action space, with bins; None: as it was recorded. Raises ValueError for pictures
    of another aspect without ``fit``, and for a recording with other steps than the tokenizer's.
    """
    r = tokenizer.frames_per_step
    if store.schema.frames_per_step != r:
        raise ValueError(
            f"{store.path} has {store.schema.frames_per_step} frames a step and the video tokenizer {r}: train one for "
            "this recording, or read a folder that others wrote with --frames-per-step"
        )
    for index in indices:
        episode = store.read(index, tokenizer.size, fit=fit)
        video = tokenizer.encode(torch.from_numpy(episode.frames)[None])[0]
        yield tokenised(episode, index, splits[index], actions or store.schema.actions, video)


def tokenised(episode: Episode, index: int, split: str, actions: ActionSpace, video: torch.Tensor) -> TokenisedEpisode:
    """An episode as ids, with ``video`` (1 + n, h, w)."""

    def tensor(values: np.ndarray | None) -> torch.Tensor | None:
        return None if values is None else torch.from_numpy(values)

    return TokenisedEpisode(
        episode=index,
        split=split,
        caption=episode.caption,
        states=tensor(episode.states),
        actions=None if episode.actions is None else actions.values_to_ids(episode.actions),
        video=video.flatten(1),
        rewards=tensor(episode.rewards),
        terminated=tensor(episode.terminated),
    )


def binned_actions(store: EpisodeStore, bins: int | None = None, by: Binning | None = None) -> ActionSpace:
    """The recording's action space, with bins that were fitted to its training split where they are asked for or
    where the space has no bounds.

    Raises ValueError for bins of actions that have none.
    """
    space = store.schema.actions
    if all(part.kind != "binned" for part in space.parts):
        if bins is not None or by is not None:
            raise ValueError(f"the actions of {store.path} are no quantities: leave out --action-bins and -by")
        return space
    if bins is None and by is None and space.fitted:
        return space
    if bins is not None and bins < 2:
        raise ValueError(f"a quantity needs 2 bins or more, not {bins}: raise --action-bins")
    recorded = ((store.actions(i), store.span(i, "train")) for i in store.split("train"))
    values = [acted[: len(span) - 1] for acted, span in recorded if acted is not None]
    if not values:
        raise ValueError(f"{store.path} has no training episodes to fit the bins of its actions to: record more")
    return space.fit(np.concatenate(values), bins or BINS, by or "uniform")


def simulate_states(name: str, seed: int, index: int, num_steps: int, eventful: float = 0.0) -> TokenisedEpisode:
    """One episode of a world without pictures; a function of (seed, index), like a recorded one.

    ``eventful`` is the chance that a step begins with an event.
    """
    world = recipe(name)
    return simulate_episode(world, *draw_episode(world, seed, index), num_steps, split_of(seed, index), index, eventful)


def _simulate_many(name: str, seed: int, indices: list[int], num_steps: int, eventful: float) -> list[TokenisedEpisode]:
    torch.set_num_threads(1)
    return [simulate_states(name, seed, index, num_steps, eventful) for index in indices]


def write_recording(
    recording: Path,
    tokenizer_folder: Path,
    out: Path,
    text: TextTokenizer | None = None,
    *,
    camera: str | None = None,
    frames_per_step: int | None = None,
    fit: Fit | None = None,
    action_bins: int | None = None,
    action_bins_by: Binning | None = None,
    older: Path | None = None,
    least_seen: int = 0,
) -> None:
    """Tokenises every split of a recording. Without ``text``, a text model is trained on the training captions, if
    there are any; without captions the tokens have no text.

    ``camera`` and ``frames_per_step`` are ``EpisodeStore``'s. ``action_bins`` and ``action_bins_by`` set the bins of
    quantities (see ``ActionSpace.fit``), which are then the tokens' own. ``older`` tokens of the same kind of recording
    are taken over: theirs are the bins, the text model and the codes in use. Codes that training episodes have less
    often than ``least_seen`` are not said: the nearest that is takes their place.
    """
    store = EpisodeStore(recording, camera=camera, frames_per_step=frames_per_step)
    tokenizer = VideoTokenizer.load(tokenizer_folder)
    splits = {i: name for name in reversed(SPLITS) for i in store.split(name)}
    known = None if older is None else TokenStore(older)
    text = text if known is None else known.text
    captions = [words for i in store.split("train") if (words := store.caption(i)).strip()]
    if text is None and captions:
        text = TextTokenizer.train(captions)
    actions = known.schema.actions if known is not None else binned_actions(store, action_bins, action_bins_by)
    if known is not None:
        tokenizer, least_seen = tokenizer.saying(known.said), 0
    writer = TokenWriter(
        out,
        schema=replace(store.schema, actions=actions),
        text=text,
        quantizer=tokenizer.config.quantizer,
        grid=tokenizer.grid,
    )
    if older is not None:
        writer.take_over(older)
    with progress_bar(total=len(splits), unit=" episodes") as bar:
        for indices in _shards(sorted(splits)):
            encoded = tokenise_recording(store, tokenizer, indices, splits, actions=actions, fit=fit)
            writer.write_shard(list(encoded))
            bar.update(len(indices))
    if least_seen:
        quantizer = tokenizer.saying(writer.often(least_seen)).quantizer
        writer.say(quantizer.config, quantizer.instead.cpu())
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
    with ProcessPoolExecutor(workers) as pool, progress_bar(total=episodes, unit=" episodes") as bar:
        shards = []
        for shard in pool.map(partial(_simulate_many, name, seed, num_steps=num_steps, eventful=eventful), parts):
            shards.append(shard)
            bar.update(len(shard))
    known = [e for shard in shards for e in shard if e.split == "train"]
    text = text or TextTokenizer.train([words for e in known for words in (e.caption, *e.events.values())])
    writer = TokenWriter(
        out,
        schema=recipe(name).schema,
        text=text,
        quantizer=tokenizer.quantizer,
        grid=tokenizer.grid,
    )
    for shard in shards:
        writer.write_shard(shard)
    writer.close()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.tokenize", description=__doc__)
    parser.add_argument("--recording", type=Path, help="folder that train.record wrote")
    parser.add_argument("--tokenizer", type=Path, help="folder that the video tokenizer was exported to")
    parser.add_argument("--text", type=Path, help="a text.model to speak, instead of training one on the captions")
    parser.add_argument("--older", type=Path, help="tokens of another such recording, to take over beside")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--least-seen", type=int, default=0, help="how often a code must be, to be said at all")
    parser.add_argument("--camera", help="the one to read of a recording with several")
    parser.add_argument("--frames-per-step", type=int, help="of a recording that others wrote with LeRobot")
    parser.add_argument("--fit", choices=get_args(Fit), help="for pictures of another aspect than the tokenizer's")
    parser.add_argument("--action-bins", type=int, help="how many levels an action that is a quantity has")
    parser.add_argument("--action-bins-by", choices=get_args(Binning), help="how they are spread")
    parser.add_argument("--simulate", type=int, default=0, help="episodes of states alone, instead of a recording's")
    parser.add_argument("--world", help=f"the one to simulate: {', '.join(names())}, or my_package.my_world:RECIPE")
    parser.add_argument("--seed", type=int, default=1_000, help="of the simulated episodes")
    parser.add_argument("--steps", type=int, default=64, help="of a simulated episode at the most")
    parser.add_argument("--events", type=float, default=0.0, help="chance that a simulated step begins with an event")
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args(arguments)
    try:
        text = TextTokenizer.load(chosen.text) if chosen.text else None
        if chosen.simulate:
            if chosen.world is None:
                parser.error("name the world to simulate: --world")
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
            write_recording(
                chosen.recording,
                chosen.tokenizer,
                chosen.out,
                text,
                camera=chosen.camera,
                frames_per_step=chosen.frames_per_step,
                fit=chosen.fit,
                action_bins=chosen.action_bins,
                action_bins_by=chosen.action_bins_by,
                older=chosen.older,
                least_seen=chosen.least_seen,
            )
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command begins again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
