"""Tokenised episodes on disk: safetensors shards with a parquet index, and windows over them.

A shard holds flat tensors over all steps of its episodes: ``states`` (N, F), ``actions`` (N,; -1 at an
episode's first step), and ``video`` (N, h * w) where there was video. The index says which rows are whose.
``tokens.json`` carries schema and vocabulary, ``text.model`` the text tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchdata.stateful_dataloader import StatefulDataLoader

from tokenizer.scene.state_reader import StateReader
from tokenizer.state_schema import StateSchema
from tokenizer.stream import Layout
from tokenizer.text_tokenizer import TextTokenizer
from tokenizer.vocabulary import Vocabulary
from train.data.clips import Draws
from train.running.exact_resume import refuse_changes


@dataclass(frozen=True, kw_only=True)
class TokenisedEpisode:
    """states (1 + n, F) float32; actions (n,); video (1 + n, h * w) or None. ``events``: what a step was told, by the
    state (from 1 on) that it led to."""

    episode: int
    split: str
    caption: str
    states: Tensor
    actions: Tensor
    video: Tensor | None
    events: Mapping[int, str] = field(default_factory=dict)


class TokenWriter:
    """Writes shards one by one, then the index; a shard is complete or absent."""

    def __init__(
        self, folder: str | Path, *, schema: StateSchema, text: TextTokenizer, num_codes: int, grid: tuple[int, int]
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        vocabulary = Vocabulary.of(text=text, actions=schema.actions, schema=schema, num_codes=num_codes)
        text.save(self.folder / "text.model")
        about = {"schema": schema.to_json(), "vocabulary": asdict(vocabulary), "grid": list(grid)}
        (self.folder / "tokens.json").write_text(json.dumps(about, indent=1))
        self.rows: list[dict[str, Any]] = []
        self.num_shards = 0

    def write_shard(self, episodes: list[TokenisedEpisode]) -> None:
        name, at = f"tokens-{self.num_shards:05d}.safetensors", 0
        for episode in episodes:
            length = len(episode.states)
            self.rows.append(
                {
                    "episode": episode.episode,
                    "split": episode.split,
                    "caption": episode.caption,
                    "events": [{"step": step, "text": text} for step, text in episode.events.items()],
                    "shard": name,
                    "start": at,
                    "length": length,
                }
            )
            at += length
        actions = [torch.nn.functional.pad(e.actions, (1, 0), value=-1) for e in episodes]
        tensors = {
            "states": torch.cat([e.states for e in episodes]),
            "actions": torch.cat(actions).to(torch.int16),
        }
        if episodes[0].video is not None:
            tensors["video"] = torch.cat([e.video for e in episodes if e.video is not None]).to(torch.int32)
        save_file(tensors, self.folder / f"{name}.part")
        (self.folder / f"{name}.part").rename(self.folder / name)
        self.num_shards += 1

    def close(self) -> None:
        told = pa.list_(pa.struct([("step", pa.int64()), ("text", pa.string())]))
        table = pa.Table.from_pylist([{**row, "events": None} for row in self.rows])
        events = pa.array([row["events"] for row in self.rows], told)
        table = table.set_column(table.schema.get_field_index("events"), "events", events)
        pq.write_table(table, self.folder / "index.parquet")


class TokenStore:
    """Reads a folder of token shards."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "index.parquet").is_file():
            raise ValueError(f"no index.parquet in {self.folder}: make the tokens with python -m train.tokenize")
        about = json.loads((self.folder / "tokens.json").read_text())
        self.schema = StateSchema.from_json(about["schema"])
        self.vocabulary = Vocabulary(**about["vocabulary"])
        self.grid: tuple[int, int] = tuple(about["grid"])
        self.text = TextTokenizer.load(self.folder / "text.model")
        self.index: list[dict[str, Any]] = pq.read_table(self.folder / "index.parquet").to_pylist()

    def layout(self, max_text: int, max_event: int = 0) -> Layout:
        return Layout.of(self.vocabulary, self.schema, self.grid, max_text, max_event)

    def load(self, split: str) -> list[TokenisedEpisode]:
        """All episodes of a split, in memory."""
        wanted = [row for row in self.index if row["split"] == split]
        episodes = []
        for shard in dict.fromkeys(row["shard"] for row in wanted):
            with safe_open(self.folder / shard, "pt") as file:
                names = file.keys()  # no mapping: it cannot be iterated itself
                tensors = {name: file.get_tensor(name) for name in names}
            for row in (r for r in wanted if r["shard"] == shard):
                span = slice(row["start"], row["start"] + row["length"])
                episodes.append(
                    TokenisedEpisode(
                        episode=row["episode"],
                        split=split,
                        caption=row["caption"],
                        states=tensors["states"][span].clone(),
                        actions=tensors["actions"][span][1:].long(),
                        video=tensors["video"][span].clone() if "video" in tensors else None,
                        events={event["step"]: event["text"] for event in row.get("events") or []},
                    )
                )
        return episodes


def pad_text(ids: list[int], length: int) -> Tensor:
    """Text ids cut or padded with -1 to a fixed length."""
    return torch.tensor((ids + [-1] * length)[:length])


class TokenWindows(Dataset[dict[str, Tensor]]):
    """Windows of ``num_blocks`` latent frames, some with a jump in time, by draw (see ``train.data.clips``).

    A jump makes the rest of the window come from another moment of the same episode, as an edit or a cut
    would: the frames must follow the new state, whatever they showed before. ``skipped`` (T,) marks the blocks
    that cannot be foreseen: the one after a jump, and those that were told something but the one, ``told``, whose
    ``event`` (max_event,) is given. ``opening`` (F,) is the episode's first state, which its caption speaks of. What
    the header says of motion is made true of the window's own beginning.
    """

    def __init__(
        self,
        store: TokenStore,
        split: str,
        *,
        num_blocks: int,
        max_text: int,
        max_event: int = 0,
        skip_share: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.episodes = [e for e in store.load(split) if len(e.states) >= num_blocks]
        if not self.episodes:
            raise ValueError(f"no {split} episode in {store.folder} has {num_blocks} latent frames: lower num_blocks")
        self.num_blocks, self.skip_share, self.seed = num_blocks, skip_share, seed
        self.text = [pad_text(store.text.encode(e.caption), max_text) for e in self.episodes]
        self.max_event, self.tokenizer, self.vocabulary = max_event, store.text, store.vocabulary
        self.windows = [(i, t) for i, e in enumerate(self.episodes) for t in range(len(e.states) - num_blocks + 1)]
        self._round: tuple[int, np.ndarray] | None = None
        self.read = StateReader(store.schema)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, draw: int) -> dict[str, Tensor]:
        number, place = divmod(draw, len(self.windows))
        if self._round is None or self._round[0] != number:
            self._round = number, np.random.default_rng((self.seed, 0, number)).permutation(len(self.windows))
        which, start = self.windows[int(self._round[1][place])]
        episode, rng = self.episodes[which], np.random.default_rng((self.seed, 1, draw))
        times = torch.arange(start, start + self.num_blocks)
        jumped = torch.zeros(self.num_blocks, dtype=torch.bool)
        if rng.random() < self.skip_share:
            at = int(rng.integers(1, self.num_blocks))
            to = int(rng.integers(1, len(episode.states) - (self.num_blocks - at) + 1))
            times[at:] = torch.arange(to, to + self.num_blocks - at)
            jumped[at] = to != start + at
        actions = torch.cat([torch.tensor([-1]), episode.actions[times[1:] - 1]])
        events = [(block, episode.events[t]) for block, t in enumerate(times.tolist()) if block and t in episode.events]
        told, event = events[int(rng.integers(len(events)))] if events and self.max_event else (-1, "")
        skipped = jumped.clone()
        skipped[[block for block, _ in events if block != told]] = True
        item = {
            "text": self.text[which],
            "states": self.read.begun(episode.states[times]),
            "actions": actions,
            "skipped": skipped,
            "opening": episode.states[0],
            "told": torch.tensor(told),
            "event": pad_text(self.tokenizer.encode(event), self.max_event),
        }
        if episode.video is not None:
            item["video"] = episode.video[times].long()
        return item


class Beside(Dataset[dict[str, Any]]):
    """Windows of one kind, each with ``count`` of another kind ``beside`` it, stacked."""

    def __init__(self, windows: TokenWindows, others: TokenWindows, count: int) -> None:
        ours, theirs = (part.vocabulary for part in (windows, others))
        if replace(theirs, video=ours.video) != ours:
            raise ValueError(
                "the tokens beside have another vocabulary: make both kinds with one text tokenizer (--text)"
            )
        self.windows, self.others, self.count = windows, others, count

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, draw: int) -> dict[str, Any]:
        others = [self.others[draw * self.count + i] for i in range(self.count)]
        return {**self.windows[draw], "beside": default_collate(others)}


class TokenDataModule(L.LightningDataModule):
    """Batches of token windows.

    Args:
        tokens: folder that ``python -m train.tokenize`` wrote.
        num_blocks: latent frames in a window; should exceed the dynamics' window, so that anchors are learned.
        skip_share: share of windows with a jump in time.
        beside: another such folder, of states alone: ``beside_count`` of its windows, of ``beside_blocks`` latent
            frames, come with each window of ``tokens``, so that what was learned of them is kept.
    """

    def __init__(
        self,
        tokens: str,
        num_blocks: int = 8,
        max_text: int = 64,
        max_event: int = 0,
        batch_size: int = 16,
        skip_share: float = 0.25,
        num_workers: int = 0,
        seed: int = 0,
        validation_windows: int = 128,
        beside: str | None = None,
        beside_blocks: int = 3,
        beside_count: int = 4,
    ) -> None:
        super().__init__()
        self.beside, self.beside_blocks, self.beside_count = beside, beside_blocks, beside_count
        self.tokens, self.num_blocks, self.max_text, self.max_event = tokens, num_blocks, max_text, max_event
        self.batch_size, self.skip_share, self.num_workers, self.seed = batch_size, skip_share, num_workers, seed
        self.validation_windows = validation_windows

    def dataset(self, split: str, *, beside: bool = False) -> TokenWindows:
        return TokenWindows(
            TokenStore(self.beside if beside and self.beside else self.tokens),
            split,
            num_blocks=self.beside_blocks if beside else self.num_blocks,
            max_text=self.max_text,
            max_event=self.max_event,
            skip_share=self.skip_share if split == "train" else 0.0,
            seed=self.seed,
        )

    def train_dataloader(self) -> StatefulDataLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        dataset: TokenWindows | Beside = self.dataset("train")
        if self.beside:
            dataset = Beside(dataset, self.dataset("train", beside=True), self.beside_count)
        return StatefulDataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=Draws(len(dataset), rank, world_size),
            num_workers=self.num_workers,
            drop_last=True,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator().manual_seed(self.seed),
        )

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        data = self.dataset("validation")
        return DataLoader(data, self.batch_size, sampler=range(min(len(data), self.validation_windows)))

    def state_dict(self) -> dict[str, Any]:
        names = ("batch_size", "num_workers", "seed", "num_blocks", "max_text", "max_event", "skip_share")
        beside = {name: getattr(self, name) if self.beside else None for name in ("beside_blocks", "beside_count")}
        devices = self.trainer.world_size if self.trainer else 1
        return {name: getattr(self, name) for name in names} | beside | {"devices": devices}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        refuse_changes(state_dict, self.state_dict())
