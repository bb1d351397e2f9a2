"""Random windows of recorded episodes, in an order that any training step can be resumed from.

A *draw* is a running number: epoch after epoch, it only grows. Which episode and which window a draw means
is a pure function of (seed, draw), so no random state has to be saved, and workers cannot change it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tokenizer.clip import Clip, Episode
from tokenizer.frames import picture_size
from tokenizer.state_schema import StateSchema
from train.data.draws import DrawLoader, Draws
from train.data.episode_store import EpisodeStore
from train.data.resizing import Fit, Resample
from train.running.exact_resume import refuse_changes

_MEDIAN_OF = 64  # frames of an episode, about


class Store(Protocol):
    """What is asked of a store of episodes."""

    schema: StateSchema
    size: tuple[int, int]  # height, width of its pictures

    def split(self, name: str) -> list[int]: ...

    def span(self, index: int, split: str) -> range: ...

    def caption(self, index: int) -> str: ...

    def read(
        self,
        index: int,
        resolution: int | Sequence[int] | None = None,
        segmentation: bool = False,
        *,
        fit: Fit | None = None,
        resample: Resample = "area",
    ) -> Episode: ...


class ClipDataset(Dataset[dict[str, Any]]):
    """Windows of ``num_steps`` steps from one split.

    ``dataset[draw]`` holds for any draw >= 0 (``len`` is only what one epoch takes): ``frames`` uint8
    ``(1 + r * num_steps, height, width, 3)`` and ``caption``, and what the recording knows of ``actions``
    ``(num_steps, A)`` int64 or float32, ``states`` float32 ``(1 + num_steps, num_values)``, ``rewards`` float32 and
    ``terminated`` bool ``(num_steps,)`` and, if asked for, ``segmentation`` uint8 at the frames' resolution. Every
    round of draws visits every episode that is long enough once.

    Args:
        store: an ``EpisodeStore``, or the folder of one.
        resolution: of a window's frames, one number for a square or (height, width), None for the store's own.
        fit, resample: how pictures of another size are brought to it, as in ``EpisodeStore.read``.
        windows_per_episode: how often an epoch visits each episode.
        cache_in_memory: keep what was read, up to ``cache_gigabytes``.
        cache_folder: also keep it there, uncompressed, so that the next run need not decode videos again.

    Raises ValueError if the split is empty or none of its episodes is ``num_steps`` long.
    """

    def __init__(
        self,
        store: Store | str | Path,
        split: str = "train",
        num_steps: int = 8,
        resolution: int | Sequence[int] | None = None,
        seed: int = 0,
        cache_in_memory: bool = True,
        *,
        segmentation: bool = False,
        background: bool = False,
        windows_per_episode: int = 1,
        cache_gigabytes: float = 8.0,
        cache_folder: str | Path | None = None,
        fit: Fit | None = None,
        resample: Resample = "area",
    ) -> None:
        if num_steps < 1 or windows_per_episode < 1:
            raise ValueError(
                f"num_steps ({num_steps}) and windows_per_episode ({windows_per_episode}) must be positive"
            )
        self.store: Store = EpisodeStore(store) if isinstance(store, str | Path) else store
        self.split, self.num_steps, self.seed = split, num_steps, seed
        self.size = self.store.size if resolution is None else picture_size(resolution)
        self.fit: Fit | None = fit
        self.resample: Resample = resample
        self.segmentation, self.windows_per_episode = segmentation, windows_per_episode
        self._backgrounds: dict[int, Tensor] | None = {} if background else None
        spans = {i: self.store.span(i, split) for i in self.store.split(split)}
        if not spans:
            raise ValueError(f"the recording has no {split} episodes: record more of them")
        self._starts = {i: span[: len(span) - num_steps] for i, span in spans.items() if len(span) > num_steps}
        self.episodes = list(self._starts)
        if not self.episodes:
            longest = max(len(span) for span in spans.values()) - 1
            raise ValueError(
                f"no {split} episode is {num_steps} steps long, the longest has {longest}: lower num_steps"
            )
        self._cache: dict[int, Episode] = {}
        height, width = self.size
        said = [str(height) if height == width else f"{height}x{width}"]
        said += [fit] if fit else []
        said += [] if resample == "area" else [resample]
        kind = "-".join(said + ["segmentation"] * segmentation)
        self._folder = None if cache_folder is None else Path(cache_folder) / kind
        self._room = int(cache_gigabytes * 1e9) if cache_in_memory else 0
        self._round: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.episodes) * self.windows_per_episode

    def __getitem__(self, draw: int) -> dict[str, Any]:
        number, place = divmod(draw, len(self.episodes))
        if self._round is None or self._round[0] != number:
            self._round = number, np.random.default_rng((self.seed, 0, number)).permutation(self.episodes)
        index = int(self._round[1][place])
        starts, episode = self._starts[index], self._read(index)
        start = starts[int(np.random.default_rng((self.seed, 1, draw)).integers(len(starts)))]
        last = episode.num_steps - self.num_steps  # a file may lack a last frame that its index tells of
        if last < starts[0]:
            raise ValueError(
                f"episode {index} has no more than {episode.num_steps} steps in its video: lower num_steps below "
                f"{self.num_steps}, or leave the episode out"
            )
        item = clip_to_tensors(episode.window(min(start, last), self.num_steps))
        if self._backgrounds is not None:
            if index not in self._backgrounds:
                some = episode.frames[:: max(1, len(episode.frames) // _MEDIAN_OF)]
                self._backgrounds[index] = torch.from_numpy(some).median(0).values
            item["background"] = self._backgrounds[index]
        return item

    def _read(self, index: int) -> Episode:
        if index in self._cache:
            return self._cache[index]
        episode = self._decoded(index)
        size = episode.frames.nbytes + (0 if episode.segmentation is None else episode.segmentation.nbytes)
        if size <= self._room:
            self._room -= size
            self._cache[index] = episode
        return episode

    def _decoded(self, index: int) -> Episode:
        path = None if self._folder is None else self._folder / f"{index}.npz"
        if path is not None and path.is_file():
            with np.load(path, allow_pickle=False) as arrays:
                kept = {name: arrays[name] for name in arrays.files}
            if "actions" in kept:  # a folder from when an action was always one number
                kept["actions"] = kept["actions"].reshape(len(kept["actions"]), -1)
            return Episode(caption=self.store.caption(index), frames_per_step=self.store.schema.frames_per_step, **kept)
        episode = self.store.read(
            index, resolution=self.size, segmentation=self.segmentation, fit=self.fit, resample=self.resample
        )
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            names = ("frames", "actions", "states", "segmentation", "rewards", "terminated")
            arrays = {name: getattr(episode, name) for name in names}
            partial = path.with_name(f"{index}.{os.getpid()}.part")
            try:
                with partial.open("wb") as file:
                    np.savez(file, **{name: array for name, array in arrays.items() if array is not None})
                partial.replace(path)
            except OSError as error:
                partial.unlink(missing_ok=True)
                raise OSError(
                    f"decoded episodes cannot be kept in {path.parent} ({error.strerror}): free some space or set "
                    "cache_folder to null"
                ) from error
        return episode


def clip_to_tensors(clip: Clip) -> dict[str, Any]:
    """A clip as one item of a batch; what it lacks has no key. Segmentation is brought to the frames' size."""
    item: dict[str, Any] = {"frames": torch.from_numpy(clip.frames.copy()), "caption": clip.caption}
    if clip.actions is not None:
        item["actions"] = torch.from_numpy(
            clip.actions.astype(np.float32 if clip.actions.dtype.kind == "f" else np.int64)
        )
    if clip.states is not None:
        item["states"] = torch.from_numpy(clip.states.astype(np.float32))
    if clip.rewards is not None:
        item["rewards"] = torch.from_numpy(clip.rewards.astype(np.float32))
    if clip.terminated is not None:
        item["terminated"] = torch.from_numpy(clip.terminated.astype(bool))
    if clip.segmentation is not None:
        height, width = clip.frames.shape[1:3]
        rows = np.arange(height) * clip.segmentation.shape[1] // height
        columns = np.arange(width) * clip.segmentation.shape[2] // width
        item["segmentation"] = torch.from_numpy(clip.segmentation[:, rows[:, None], columns].astype(np.uint8))
    return item


class ClipDataModule(L.LightningDataModule):
    """Batches of windows for training and a fixed set of windows for validation.

    Args:
        recording: folder that ``python -m train.record`` wrote.
        num_steps: steps in a window; it shows ``1 + frames_per_step * num_steps`` pixel frames.
        resolution: one number for a square, or [height, width], None for the recording's own; the upsampler's target
            is larger.
        segmentation: also give which entity each pixel shows.
        background: also give what each pixel mostly shows in its episode.
        windows_per_episode: how often an epoch visits each episode.
        validation_windows: how many windows validation looks at, always the same ones.
        cache_gigabytes: decoded episodes kept in memory, shared out between the workers.
        cache_folder: where decoded episodes are kept for later runs too; None: nowhere.
        fit: what becomes of pictures of another aspect, ``crop`` or ``letterbox``; None refuses them.
        resample: ``area`` or ``lanczos``.
        camera, frames_per_step: of a folder that others wrote, as in ``EpisodeStore``.
    """

    def __init__(
        self,
        recording: str,
        num_steps: int = 8,
        resolution: int | list[int] | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        segmentation: bool = False,
        windows_per_episode: int = 8,
        validation_windows: int = 32,
        cache_gigabytes: float = 8.0,
        cache_folder: str | None = None,
        fit: Fit | None = None,
        resample: Resample = "area",
        background: bool = False,
        camera: str | None = None,
        frames_per_step: int | None = None,
    ) -> None:
        super().__init__()
        self.recording, self.num_steps, self.resolution, self.segmentation = (
            recording,
            num_steps,
            resolution,
            segmentation,
        )
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.windows_per_episode, self.validation_windows = windows_per_episode, validation_windows
        self.background = background
        self.cache_gigabytes, self.cache_folder = cache_gigabytes, cache_folder
        self.fit: Fit | None = fit
        self.resample: Resample = resample
        self.camera, self.frames_per_step = camera, frames_per_step
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        if self._store is None:
            self._store = EpisodeStore(self.recording, camera=self.camera, frames_per_step=self.frames_per_step)
        return self._store

    def dataset(self, split: str) -> ClipDataset:
        return ClipDataset(
            self.store,
            split,
            self.num_steps,
            self.resolution,
            self.seed,
            segmentation=self.segmentation,
            background=self.background,
            windows_per_episode=self.windows_per_episode if split == "train" else 1,
            cache_gigabytes=self.cache_gigabytes / max(1, self.num_workers),
            cache_folder=self.cache_folder,
            fit=self.fit,
            resample=self.resample,
        )

    def train_dataloader(self) -> DrawLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        dataset = self.dataset("train")
        draws = Draws(len(dataset), rank, world_size)
        if len(draws) < self.batch_size:
            raise ValueError(
                f"an epoch has {len(draws)} windows and a batch {self.batch_size}: record more episodes, "
                "raise windows_per_episode or lower batch_size"
            )
        return DrawLoader(dataset, draws, batch_size=self.batch_size, num_workers=self.num_workers, seed=self.seed)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(
            self.dataset("validation"), self.batch_size, sampler=range(self.validation_windows), num_workers=0
        )

    def state_dict(self) -> dict[str, Any]:
        names = ("batch_size", "seed", "num_steps", "resolution", "windows_per_episode")
        names += ("fit", "camera", "frames_per_step")
        state = {name: getattr(self, name) for name in names}
        return state | {
            "resample": None
            if self.resample == "area"
            else self.resample,  # as in a run from before it could be chosen
            "episodes": len(self.store.split("train")),
            "devices": self.trainer.world_size if self.trainer else 1,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        refuse_changes(state_dict, self.state_dict())
