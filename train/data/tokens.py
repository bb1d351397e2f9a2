"""Tokenised episodes on disk: safetensors shards with a parquet index, and windows over them.

A shard holds flat tensors over all latent frames of its episodes, of whatever was recorded: ``states`` (N, F),
``actions`` (N, A; local ids, -1 at an episode's first frame), ``video`` (N, h * w), ``rewards`` and ``terminated``
(N,; what the step to a frame brought, nothing at an episode's first). What there is not has no entry. The index says
which rows are whose. ``tokens.json`` carries schema and vocabulary and which rewards there are, ``text.model`` the text
tokenizer where there is text.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from tokenizer.quantizer import QuantizerConfig
from tokenizer.scene import StateReader
from tokenizer.state_schema import StateSchema
from tokenizer.stream import Layout
from tokenizer.text_tokenizer import TextTokenizer
from tokenizer.vocabulary import Vocabulary
from train.data.draws import DrawLoader, Draws
from train.data.splits import divide
from train.running.exact_resume import refuse_changes

MOST_SEEN = 64  # codes that are said however seldom they are
MOST_REWARDS = 33  # more different ones are told by as many of them
PARTS = ("states", "actions", "video", "rewards", "terminated")


@dataclass(frozen=True, kw_only=True)
class TokenisedEpisode:
    """n steps of one episode; every part may be missing, but not all.

    states: float32 (1 + n, F). actions: int64 (n, A), local ids. video: (1 + n, h * w). rewards: float32 (n,).
    terminated: bool (n,). events: what a step was told, by the latent frame (from 1 on) that it led to.
    """

    episode: int
    split: str
    caption: str = ""
    states: Tensor | None = None
    actions: Tensor | None = None
    video: Tensor | None = None
    rewards: Tensor | None = None
    terminated: Tensor | None = None
    events: Mapping[int, str] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Tensor]:
        """What there is, by name."""
        named = {name: getattr(self, name) for name in PARTS}
        return {name: part for name, part in named.items() if part is not None}

    @property
    def num_latent_frames(self) -> int:
        """1 + n. Raises ValueError where the parts do not agree on it, or are none."""
        counts = {name: len(part) + (name not in ("states", "video")) for name, part in self.parts.items()}
        if len(set(counts.values())) != 1:
            listed = ", ".join(f"{count} of {name}" for name, count in counts.items()) or "nothing at all"
            raise ValueError(f"episode {self.episode} must have one number of latent frames, got {listed}")
        return next(iter(counts.values()))

    def cut(self, span: range) -> TokenisedEpisode:
        """The latent frames in ``span``, the first of them without the step that led to it."""
        frames, steps = slice(span.start, span.stop), slice(span.start, span.stop - 1)
        parts = {name: part[frames if name in ("states", "video") else steps] for name, part in self.parts.items()}
        events = {at - span.start: text for at, text in self.events.items() if span.start < at < span.stop}
        return replace(self, **parts, events=events)


class TokenWriter:
    """Writes shards one by one, then the index; a shard is complete or absent. ``text`` None: a world without text."""

    def __init__(
        self,
        folder: str | Path,
        *,
        schema: StateSchema,
        text: TextTokenizer | None,
        quantizer: QuantizerConfig,
        grid: tuple[int, int],
    ) -> None:
        self.folder, self.schema = Path(folder), schema
        self.folder.mkdir(parents=True, exist_ok=True)
        self.quantizer = quantizer
        self._speak = partial(Vocabulary.of, text=text, actions=schema.actions, schema=schema)
        if text is None:
            (self.folder / "text.model").unlink(missing_ok=True)
        else:
            text.save(self.folder / "text.model")
        self._about: dict[str, Any] = {
            "schema": schema.to_json(),
            "vocabulary": asdict(self._speak(num_codes=quantizer.size)),
            "grid": list(grid),
            "code_levels": list(quantizer.code_levels),
            "said": list(quantizer.said),
        }
        self._rewards: list[np.ndarray] = []
        self.rows: list[dict[str, Any]] = []
        self.num_shards = 0
        self._parts: set[str] | None = None
        self._seen = np.zeros(quantizer.size, dtype=np.int64)  # how often each code was, in training episodes
        self._shapes = {
            "states": (schema.num_values,),
            "actions": (schema.actions.num_parts,),
            "video": (grid[0] * grid[1],),
            "rewards": (),
            "terminated": (),
        }

    def write_shard(self, episodes: list[TokenisedEpisode]) -> None:
        """Raises ValueError for an episode that lacks what others have, or whose parts do not fit the schema."""
        name, at, rows = f"tokens-{self.num_shards:05d}.safetensors", 0, []
        for episode in episodes:
            length = episode.num_latent_frames
            self._refuse_misfits(episode)
            rows.append(
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
        # A shard's numbers are ids: small ones take two bytes.
        small = self.schema.actions.num_parts == 0 or self.schema.actions.num_ids <= 2**15
        kinds = {"actions": torch.int16 if small else torch.int32, "video": torch.int32, "terminated": torch.bool}
        tensors = {}
        for part in sorted(self._parts or ()):
            of_steps = part not in ("states", "video")
            flat = [_after_none(e.parts[part], part) if of_steps else e.parts[part] for e in episodes]
            tensors[part] = torch.cat(flat).to(kinds.get(part, torch.float32)).contiguous()
        save_file(tensors, self.folder / f"{name}.part")
        (self.folder / f"{name}.part").rename(self.folder / name)
        training = [e for e in episodes if e.split == "train"]
        self._rewards += [e.rewards.numpy() for e in training if e.rewards is not None]
        self._count(training)
        self.rows += rows
        self.num_shards += 1

    def take_over(self, folder: str | Path) -> None:
        """All that another folder holds, as shards of this one. Raises ValueError for tokens of another vocabulary."""
        other = TokenStore(folder)
        told = {"schema": other.schema.to_json(), "vocabulary": asdict(other.vocabulary), "grid": list(other.grid)}
        told["said"] = other.said
        if any(self._about[name] != value for name, value in told.items()):
            raise ValueError(f"{folder} has another vocabulary: make both of one recording's kind, by one tokenizer")
        names = {}
        for shard in dict.fromkeys(row["shard"] for row in other.index):
            names[shard] = f"tokens-{self.num_shards:05d}.safetensors"
            shutil.copyfile(other.folder / shard, self.folder / names[shard])
            self.num_shards += 1
        self.rows += [row | {"shard": names[row["shard"]], "events": row["events"] or []} for row in other.index]
        episodes = other.load("train")
        self._parts = set(episodes[0].parts)
        self._rewards += [e.rewards.numpy() for e in episodes if e.rewards is not None]
        self._count(episodes)

    def _count(self, episodes: list[TokenisedEpisode]) -> None:
        for video in (e.video for e in episodes if e.video is not None):
            self._seen += np.bincount(video.flatten().numpy(), minlength=len(self._seen))

    def often(self, least: int) -> list[int]:
        """The codes that training episodes had so often at least, and the :data:`MOST_SEEN` that they had most."""
        most = np.argsort(-self._seen, kind="stable")[:MOST_SEEN]
        kept = (self._seen >= least) | np.isin(np.arange(len(self._seen)), most)
        return [self.quantizer.places[i] for i in np.flatnonzero(kept & (self._seen > 0)).tolist()]

    def say(self, quantizer: QuantizerConfig, instead: Tensor) -> None:
        """Writes all ids anew, as this quantizer has them. ``instead`` is its id for each code of the codebook."""
        instead = instead[torch.tensor(self.quantizer.places)]
        self.quantizer = quantizer
        self._about |= {"said": list(quantizer.said), "vocabulary": asdict(self._speak(num_codes=quantizer.size))}
        for path in sorted(self.folder.glob("tokens-*.safetensors")):
            shard = load_file(path)
            shard["video"] = instead[shard["video"].long()].int()
            save_file(shard, path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)

    def _refuse_misfits(self, episode: TokenisedEpisode) -> None:
        parts, known = set(episode.parts), self._parts
        if known is not None and parts != known:
            raise ValueError(
                f"episode {episode.episode} differs from those before it in {', '.join(sorted(parts ^ known))}: "
                "give every episode the same parts"
            )
        self._parts = parts
        for name, part in episode.parts.items():
            if tuple(part.shape[1:]) != self._shapes[name]:
                raise ValueError(
                    f"episode {episode.episode} has {name} of shape {tuple(part.shape)}, but each step takes "
                    f"{self._shapes[name]}"
                )

    def close(self) -> None:
        """Writes what is told of all shards. Raises ValueError where none was written."""
        if not self.rows:
            raise ValueError(f"there is no episode to put into {self.folder}: record some first")
        self._about["rewards"] = reward_values(np.concatenate(self._rewards)) if self._rewards else []
        self._about["ends"] = "terminated" in (self._parts or ())
        (self.folder / "tokens.json").write_text(json.dumps(self._about, indent=1), encoding="utf-8")
        told = pa.list_(pa.struct([("step", pa.int64()), ("text", pa.string())]))
        table = pa.Table.from_pylist([{**row, "events": None} for row in self.rows])
        events = pa.array([row["events"] for row in self.rows], told)
        table = table.set_column(table.schema.get_field_index("events"), "events", events)
        pq.write_table(table, self.folder / "index.parquet")


def reward_values(rewards: np.ndarray) -> list[float]:
    """The values that a reward takes, ascending; of more than ``MOST_REWARDS`` as many that stand for all."""
    values = np.unique(rewards.astype(np.float32))
    if len(values) > MOST_REWARDS:
        shares = np.quantile(rewards[rewards != 0], np.linspace(0, 1, MOST_REWARDS - 1))
        values = np.unique(np.append(shares, 0).astype(np.float32))
    return values.tolist()


class TokenStore:
    """Reads a folder of token shards.

    Attributes:
        text: the text tokenizer, or None in a world without text.
        rewards: the values that recorded rewards take; none where the schema tells the reward, or there is none.
        ends: whether it was recorded which steps end an episode.
        code_levels: FSQ's, if it made the codes.
        said: the codes that have an id; none named means all.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "index.parquet").is_file():
            raise ValueError(f"no index.parquet in {self.folder}: make the tokens with python -m train.tokenize")
        path = self.folder / "tokens.json"
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            self.schema = StateSchema.from_json(about["schema"])
            self.vocabulary = Vocabulary(**about["vocabulary"])
            self.grid: tuple[int, int] = tuple(about["grid"])
            self.rewards: list[float] = about.get("rewards", [])
            self.ends: bool = about.get("ends", False)
            self.code_levels: list[int] = about.get("code_levels", [])
            self.said: list[int] = about.get("said", [])
            path = self.folder / "index.parquet"
            self.index: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        except (OSError, KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError, pa.ArrowException) as error:
            raise ValueError(_mend(path, error)) from error
        self.text = TextTokenizer.load(self.folder / "text.model") if self.vocabulary.text else None

    def layout(self, max_text: int, max_event: int = 0) -> Layout:
        """The stream's layout; without a text tokenizer it has no places for text."""
        if self.text is None:
            max_text = max_event = 0
        return Layout.of(self.vocabulary, self.schema, self.grid, max_text, max_event)

    def load(self, split: str) -> list[TokenisedEpisode]:
        """All episodes of a split, in memory; of one that was divided by time, its part.

        Raises ValueError for a broken shard.
        """
        marks, lengths = [row["split"] for row in self.index], [row["length"] for row in self.index]
        spans = divide(marks, lengths, str(self.folder)).get(split, {})
        wanted = [(self.index[i], span) for i, span in spans.items()]
        episodes = []
        for shard in dict.fromkeys(row["shard"] for row, _ in wanted):
            try:
                with safe_open(self.folder / shard, "pt") as file:
                    names = file.keys()  # no mapping: it cannot be iterated itself
                    tensors = {name: file.get_tensor(name) for name in names}
            except (OSError, SafetensorError) as error:
                raise ValueError(_mend(self.folder / shard, error)) from error
            for row, span in (pair for pair in wanted if pair[0]["shard"] == shard):
                rows = slice(row["start"], row["start"] + row["length"])
                parts: dict[str, Tensor] = {name: tensors[name][rows].clone() for name in PARTS if name in tensors}
                for name in parts.keys() & {"actions", "rewards", "terminated"}:
                    parts[name] = parts[name][1:]
                if "actions" in parts:  # one number an action was kept flat once
                    parts["actions"] = parts["actions"].long().reshape(row["length"] - 1, -1)
                whole = TokenisedEpisode(
                    episode=row["episode"],
                    split=split,
                    caption=row["caption"],
                    **parts,
                    events={event["step"]: event["text"] for event in row.get("events") or []},
                )
                episodes.append(whole if len(span) == row["length"] else whole.cut(span))
        return episodes


def _after_none(steps: Tensor, name: str) -> Tensor:
    """What n steps brought as rows of the 1 + n latent frames: no action led to the first, nor anything else."""
    return torch.cat([steps.new_full((1, *steps.shape[1:]), -1 if name == "actions" else 0), steps])


def _mend(path: Path, error: object) -> str:
    return f"{path} is broken or missing ({error}): make the tokens again with python -m train.tokenize"


def pad_text(ids: list[int], length: int) -> Tensor:
    """Text ids cut or padded with -1 to a fixed length, int64."""
    return torch.tensor((ids + [-1] * length)[:length], dtype=torch.long)


class TokenWindows(Dataset[dict[str, Tensor]]):
    """Windows of ``num_blocks`` latent frames, some with a jump in time, by draw (see ``train.data.clips``).

    A window has ``text`` (max_text,; -1 pads), ``skipped`` (T,), ``event`` and ``event_block``, and of what was
    recorded ``states`` (T, F) and ``opening`` (F,), ``actions`` (T, A; -1 in block 0), ``video`` (T, V), ``rewards``
    float32 and ``terminated`` bool (T,; 0 and False in block 0). Without a text tokenizer ``text`` and ``event`` are
    empty.

    A jump makes the rest of the window come from another moment of the same episode, as an edit or a cut
    would: the frames must follow the new state, whatever they showed before. Without a state to follow there are no
    jumps. ``skipped`` (T,) marks the blocks that cannot be foreseen: the one after a jump, and those that were told
    something but the one, ``event_block``, whose ``event`` (max_event,) is given. ``opening`` (F,) is the episode's
    first state, which its caption speaks of. What the header says of motion is made true of the window's own beginning.
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
        self.episodes = [e for e in store.load(split) if e.num_latent_frames >= num_blocks]
        if not self.episodes:
            raise ValueError(f"no {split} episode in {store.folder} has {num_blocks} latent frames: lower num_blocks")
        self.num_blocks, self.seed = num_blocks, seed
        self.skip_share = skip_share if store.schema.num_values else 0.0
        self.tokenizer, self.vocabulary = store.text, store.vocabulary
        self.max_text, self.max_event = (0, 0) if store.text is None else (max_text, max_event)
        self.text = [self._ids(e.caption, self.max_text) for e in self.episodes]
        counts = [e.num_latent_frames - num_blocks + 1 for e in self.episodes]
        self.windows = [(i, t) for i, count in enumerate(counts) for t in range(count)]
        self._round: tuple[int, np.ndarray] | None = None
        moves = store.schema.role_columns("motion")
        self.read = StateReader(store.schema) if moves else None

    def _ids(self, text: str, places: int) -> Tensor:
        return pad_text([] if self.tokenizer is None else self.tokenizer.encode(text), places)

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
            to = int(rng.integers(1, episode.num_latent_frames - (self.num_blocks - at) + 1))
            times[at:] = torch.arange(to, to + self.num_blocks - at)
            jumped[at] = to != start + at
        events = [(block, episode.events[t]) for block, t in enumerate(times.tolist()) if block and t in episode.events]
        chosen, event = events[int(rng.integers(len(events)))] if events and self.max_event else (-1, "")
        skipped = jumped.clone()
        skipped[[block for block, _ in events if block != chosen]] = True
        item = {
            "text": self.text[which],
            "skipped": skipped,
            "event_block": torch.tensor(chosen),
            "event": self._ids(event, self.max_event),
        }
        if episode.states is not None:
            states = episode.states[times]
            item["states"] = states if self.read is None else self.read.begun(states)
            item["opening"] = episode.states[0]
        for name in episode.parts.keys() & {"actions", "rewards", "terminated"}:
            item[name] = _after_none(episode.parts[name][times[1:] - 1], name)
        if episode.video is not None:
            item["video"] = episode.video[times].long()
        return item


class Beside(Dataset[dict[str, Any]]):
    """Windows of one kind, each with ``count`` of another kind ``beside`` it, stacked and without pictures."""

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
        for other in others:
            other.pop("video", None)
        return {**self.windows[draw], "beside": default_collate(others)}


class TokenDataModule(L.LightningDataModule):
    """Batches of token windows.

    Args:
        tokens: folder that ``python -m train.tokenize`` wrote.
        num_blocks: latent frames in a window; should exceed the dynamics' window, so that anchors are learned.
        skip_share: share of windows with a jump in time.
        beside: another such folder, or the same: ``beside_count`` windows of its states alone, of ``beside_blocks``
            latent frames, come with each window of ``tokens``. They cost little, and teach or keep what happens.
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

    def train_dataloader(self) -> DrawLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        dataset: TokenWindows | Beside = self.dataset("train")
        if self.beside:
            dataset = Beside(dataset, self.dataset("train", beside=True), self.beside_count)
        draws = Draws(len(dataset), rank, world_size)
        return DrawLoader(dataset, draws, batch_size=self.batch_size, num_workers=self.num_workers, seed=self.seed)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        data = self.dataset("validation")
        return DataLoader(data, self.batch_size, sampler=range(min(len(data), self.validation_windows)))

    def state_dict(self) -> dict[str, Any]:
        names = ("batch_size", "seed", "num_blocks", "max_text", "max_event", "skip_share")
        beside = {name: getattr(self, name) if self.beside else None for name in ("beside_blocks", "beside_count")}
        devices = self.trainer.world_size if self.trainer else 1
        return {name: getattr(self, name) for name in names} | beside | {"devices": devices}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        refuse_changes(state_dict, self.state_dict())
