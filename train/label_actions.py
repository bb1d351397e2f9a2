"""Writes latent actions into a recording: ``python -m train.label_actions --recording R --checkpoint C --out COPY``.

What comes out is a copy whose actions are the codes that a trained ``LatentActionModule`` infers between pictures. From
there on they are actions like any other. With ``--labels``, a table of what was truly done in a few steps, codes take
those names. A killed run goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from tokenizer.action_space import ActionSpace
from tokenizer.clip import Episode
from train.data.episode_store import EpisodeStore
from train.data.episode_writer import DiskFullError, EpisodeWriter, RecordingConfig
from train.data.recording_layout import SPLITS
from train.modules.latent_actions import LatentActionModule, compare, figures, without_cuts
from train.running.checkpoint import read_checkpoint
from train.running.progress_bar import progress_bar

SHARD = 16  # episodes
_ROWS = 64  # steps at once
_SETTLED_BY = 4096  # steps, spread over the training episodes
_COMPARED = 512
_TELLS_APART = 1.1  # times as often right as the commonest name alone
Labels = Mapping[tuple[int, int], str]  # episode and step -> what was done


def read_module(checkpoint: str | Path) -> LatentActionModule:
    """Raises ValueError for what is no checkpoint of latent actions."""
    saved = read_checkpoint(checkpoint)
    try:
        given = {name: value for name, value in saved["hyper_parameters"].items() if not name.startswith("_")}
        module = LatentActionModule(**{**given, "recording": None})
        module.load_state_dict(saved["state_dict"])
    except (KeyError, TypeError, RuntimeError):
        raise ValueError(
            f"{checkpoint} holds no latent actions: train them with train/configs/latent_actions/pixels_small.yaml"
        ) from None
    return module.eval()


def some_steps(module: LatentActionModule, store: EpisodeStore, split: str, most: int) -> tuple[Tensor, Tensor]:
    """About ``most`` steps, the same number of each episode, episode by episode; no cuts."""
    chosen = store.split(split)
    each = max(1, most // max(1, len(chosen)))
    lasts, followings = [], []
    for index in chosen:
        last, following = without_cuts(*_steps_of(module, store.read(index)))
        take = torch.linspace(0, len(last) - 1, min(each, len(last))).long()
        lasts.append(last[take])
        followings.append(following[take])
    return torch.cat(lasts), torch.cat(followings)


def _steps_of(module: LatentActionModule, episode: Episode) -> tuple[Tensor, Tensor]:
    return module.pairs(torch.from_numpy(episode.frames)[None])


@torch.no_grad()
def _points(module: LatentActionModule, last: Tensor, following: Tensor) -> Tensor:
    parts = zip(last.split(_ROWS), following.split(_ROWS), strict=True)
    return torch.cat([module.model.points(*part) for part in parts])


def settle(module: LatentActionModule, store: EpisodeStore) -> None:
    """Finds the codes, in the training episodes."""
    module.model.settle(_points(module, *some_steps(module, store, "train", _SETTLED_BY)))


@torch.no_grad()
def codes_of(module: LatentActionModule, episode: Episode) -> np.ndarray:
    """int64 (n,)."""
    return module.model.code(_points(module, *_steps_of(module, episode))).numpy()


def read_labels(path: Path) -> Labels:
    """A table with the columns episode, step (counted from 0) and action. Raises ValueError for any other."""
    try:
        table = pq.read_table(path) if path.suffix == ".parquet" else pc.read_csv(path)
        columns = [table[name].to_pylist() for name in ("episode", "step", "action")]
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ValueError(
            f"{path} is no table of labels ({error}): write columns episode, step, action as csv or parquet"
        ) from None
    return {(int(episode), int(step)): str(action) for episode, step, action in zip(*columns, strict=True)}


def named(module: LatentActionModule, store: EpisodeStore, labels: Labels) -> tuple[list[str], float]:
    """A name for each code, the commonest label of its steps, and the share of labelled steps that agree.

    Raises ValueError for labels of steps that are not there, and where codes do not tell the labels apart.
    """
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for episode in sorted({episode for episode, _ in labels}):
        if not 0 <= episode < len(store):
            raise ValueError(f"the labels speak of episode {episode}, but {store.path} has {len(store)}")
        codes = codes_of(module, store.read(episode))
        for (which, step), name in labels.items():
            if which == episode:
                if not 0 <= step < len(codes):
                    raise ValueError(f"the labels speak of step {step} of episode {episode}, which has {len(codes)}")
                counts[int(codes[step])][name] += 1
    every = sum(counts.values(), Counter[str]())
    right = sum(max(counter.values()) for counter in counts.values())
    if not every:
        raise ValueError("the labels name no step: give some rows")
    if len(every) > 1 and right < _TELLS_APART * max(every.values()):
        raise ValueError(
            f"the codes do not tell {', '.join(sorted(every))} apart: they are right about {right} of {every.total()} "
            f"labelled steps, and {max(every, key=lambda name: every[name])} alone about {max(every.values())}. Train "
            "the latent actions longer, or leave the labels out"
        )
    commonest = max(every, key=lambda name: every[name])
    names = [max(counts[code], key=lambda n: counts[code][n]) if counts[code] else commonest
             for code in range(module.model.num_codes)]  # fmt: skip
    return names, right / every.total()


def label_actions(
    recording: Path, checkpoint: Path, out: Path, *, hide: bool = False, labels: Labels | None = None
) -> dict[str, Any]:
    """Writes what ``out`` still lacks. Returns figures of the codes.

    Raises ValueError for a recording that has actions, unless they are to be ``hide``-n, and for a checkpoint of other
    steps; DiskFullError when the disk is full.
    """
    store, module = EpisodeStore(recording), read_module(checkpoint)
    r = store.schema.frames_per_step
    if store.schema.actions and not hide:
        raise ValueError(f"{recording} has actions: give --hide-actions to put latent ones in their place")
    if module.frames_per_step != r:
        raise ValueError(f"{checkpoint} was learned with {module.frames_per_step} frames a step, {recording} has {r}")
    settle(module, store)
    plain = [str(1 + code) for code in range(module.model.num_codes)]
    names, agreed = named(module, store, labels) if labels else (plain, None)
    choices = list(dict.fromkeys(names))
    schema = replace(store.schema, actions=ActionSpace.named(*choices))
    settings = {**store.settings, "latent_actions": choices, "from": recording.name, "shard": SHARD}
    config = RecordingConfig(schema=schema, size=store.size, settings=settings)
    writer = EpisodeWriter(out, config)
    writer.discard_unfinished()
    marks = {i: split for split in reversed(SPLITS) for i in store.split(split)}
    found: list[np.ndarray] = []
    for number in progress_bar(range(-(-len(store) // SHARD)), unit=" shards"):
        indices = range(number * SHARD, min((number + 1) * SHARD, len(store)))
        done = writer.shard_episodes(number) is not None
        if done:
            found += [codes_of(module, store.read(index)) for index in indices]
            continue
        with writer.shard(number) as shard:
            for index in indices:
                episode = store.read(index)
                codes = codes_of(module, episode)
                found.append(codes)
                acts = np.array([choices.index(names[code]) for code in codes])[:, None]
                shard.add(index, replace(episode, actions=acts, segmentation=None), marks[index])
    writer.consolidate()
    numbers = figures(torch.from_numpy(np.concatenate(found)), module.model.num_codes)
    split = next(name for name in ("test", "validation", "train") if len(store.split(name)) > 1 or name == "train")
    compared = compare(module.model, *some_steps(module, store, split, _COMPARED))
    numbers |= {
        "inferred_against_shuffled_db": float(compared.inferred - compared.shuffled),
        "other_episode_agreement": float(compared.agreement),
    }
    return numbers | ({} if agreed is None else {"labels_agree": agreed})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.label_actions", description=__doc__)
    parser.add_argument("--recording", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True, help="last.ckpt of a LatentActionModule")
    parser.add_argument("--out", type=Path, required=True, help="the labelled copy; may be unfinished")
    parser.add_argument("--hide-actions", action="store_true", help="leave out the actions that the recording has")
    parser.add_argument("--labels", type=Path, help="csv or parquet of episode, step, action: names for the codes")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    chosen = parser.parse_args(arguments)
    try:
        labels = read_labels(chosen.labels) if chosen.labels else None
        parts = chosen.recording, chosen.checkpoint, chosen.out
        numbers = label_actions(*parts, hide=chosen.hide_actions, labels=labels)
        if chosen.json is not None:
            chosen.json.write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    except (ValueError, DiskFullError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"{chosen.out}: " + ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in numbers.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
