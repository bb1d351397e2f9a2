"""Reads recordings: those that ``episode_writer.py`` wrote, and LeRobotDataset v3 folders that others did."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenizer.clip import Episode
from tokenizer.frames import picture_size
from tokenizer.state_schema import StateSchema
from train.data.lerobot_folder import choose_camera, matrix, picture_size_of, pictures, schema_of
from train.data.recording_layout import ACTION, DONE, REWARD, SEGMENTATION, SPLITS, STATE, TRUNCATED, VERSION, mend
from train.data.resizing import Fit, Resample, Resizing
from train.data.splits import divide


class EpisodeStore:
    """Reads a recording. Cheap to make and to send to another process; opens files only in ``read``.

    Folders that others wrote with LeRobot (v3) are read as well. Their ``observation.state`` is one entity of plain
    values, their ``action`` is what it is, frames are found by their times, and a step whose last frame is missing is
    left out.

    Args:
        path: the recording's folder.
        camera: the one to read, where there are several; its key, or the last part of it.
        frames_per_step: of a folder without our schema, how many frames make a step (1). The actions of all of
            them are kept: of 2 frames, the parts ``x.0, y.0, x.1, y.1``.

    Raises ValueError where there is no recording, none of its episodes is finished, or the camera isn't settled.
    """

    def __init__(self, path: str | Path, *, camera: str | None = None, frames_per_step: int | None = None) -> None:
        self.path = Path(path)
        known = self.path / "meta/info.json"
        if not known.exists():
            raise ValueError(f"no recording at {self.path}: make one with python -m train.record --out {self.path}")
        try:
            self._info = json.loads(known.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(mend(known, error)) from error
        version = self._info.get("codebase_version")
        if version != VERSION:
            raise ValueError(
                f"{self.path} is a LeRobot dataset of version {version}: convert it to {VERSION} with lerobot first"
            )
        files = sorted((self.path / "meta/episodes").rglob("*.parquet"))
        self._rows: list[dict[str, Any]] = [row for f in files for row in _without_stats(f).to_pylist()]
        if not self._rows:
            raise ValueError(f"the recording at {self.path} isn't finished: run its train.record command again")
        features = self._info["features"]
        self.camera = choose_camera(self.path, features, camera)
        self.foreign = "schema" not in self._info
        if frames_per_step is not None and frames_per_step < 1:
            raise ValueError(f"a step has at least one frame, not {frames_per_step}")
        if self.foreign:
            self.schema = schema_of(self.path, self._info, frames_per_step or 1)
        else:
            self.schema = StateSchema.from_json(self._info["schema"])
            if frames_per_step not in (None, self.schema.frames_per_step):
                raise ValueError(
                    f"{self.path} was recorded with {self.schema.frames_per_step} frames a step, not "
                    f"{frames_per_step}: leave frames_per_step out"
                )
        self.size: tuple[int, int] = picture_size_of(features[self.camera])
        self._stills = features[self.camera]["dtype"] == "image"
        self.has_segmentation = SEGMENTATION in features
        r = self.schema.frames_per_step
        self._parts = divide(
            [row.get("split") for row in self._rows],
            [1 + (self.num_frames(i) - 1) // r for i in range(len(self))],
            str(self.path),
        )

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def settings(self) -> dict[str, Any]:
        """What decided the episodes, as whoever recorded them wrote it down; empty in a foreign folder."""
        return self._info.get("recording") or {}

    @property
    def has_captions(self) -> bool:
        """Whether anything is said of any episode."""
        return any(self.caption(i) for i in range(len(self)))

    def split(self, name: str) -> list[int]:
        """Episode numbers of ``train``, ``validation`` or ``test``; a single episode may be in two (see ``span``)."""
        if name not in SPLITS:
            raise ValueError(f"there is no split {name!r}: choose from {', '.join(SPLITS)}")
        return list(self._parts[name])

    def span(self, index: int, split: str) -> range:
        """The latent frames of an episode that belong to a split it is in: all, but where it was divided by time."""
        return self._parts[split][index]

    def num_frames(self, index: int) -> int:
        """Pixel frames of an episode, without opening it."""
        row, length = self._rows[index], int(self._rows[index]["length"])
        if self.foreign and not self._stills:
            seconds = row[f"videos/{self.camera}/to_timestamp"] - row[f"videos/{self.camera}/from_timestamp"]
            length = min(length, max(length - 1, round(seconds * self._info["fps"])))
        return length

    def caption(self, index: int) -> str:
        return (self._rows[index].get("tasks") or [""])[0]

    def actions(self, index: int) -> np.ndarray | None:
        """An episode's actions ``(n, A)`` without its pictures; None where nobody steered."""
        steps = (self.num_frames(index) - 1) // self.schema.frames_per_step
        return self._actions(self._columns(self._rows[index]), steps)

    def read(
        self,
        index: int,
        resolution: int | Sequence[int] | None = None,
        segmentation: bool = False,
        *,
        fit: Fit | None = None,
        resample: Resample = "area",
    ) -> Episode:
        """One episode, at the stored size (None) or at ``resolution``, one number for a square or (height, width).

        All, half or a quarter of the stored size are exact means of pixels; entity maps then keep the size they are
        stored in. Any other size is resampled, entity maps along with the frames (see ``Resizing``).

        Raises ValueError for another aspect without ``fit``, for segmentation that isn't stored, and for a broken file.
        """
        if not 0 <= index < len(self):
            raise ValueError(f"{self.path} has episodes 0 to {len(self) - 1}, not {index}")
        if segmentation and not self.has_segmentation:
            raise ValueError(f"{self.path} was recorded without segmentation: record it again with it, or do without")
        target = self.size if resolution is None else picture_size(resolution)
        Resizing(stored=self.size, target=target, fit=fit, resample=resample)  # refuses before a video is opened
        row, r = self._rows[index], self.schema.frames_per_step
        columns = self._columns(row)
        frames = self._images(row) if self._stills else self._video(row, self.camera, columns["timestamp"][:, 0])
        steps = (len(frames) - 1) // r
        frames, rows = frames[: 1 + steps * r], slice(0, steps * r)
        sized = Resizing(stored=(frames.shape[1], frames.shape[2]), target=target, fit=fit, resample=resample)
        entities = None
        if segmentation:
            entities = self._video(row, SEGMENTATION, columns["timestamp"][:, 0])[: len(frames), ..., 0]
            entities = entities if sized.exact else sized.labels(entities)
        states = rewards = terminated = None
        if self.schema.num_values:
            states = columns[STATE][: len(frames) : r].astype(np.float32)
        if REWARD in columns and not self.schema.role_columns("reward"):
            rewards = columns[REWARD][rows].reshape(steps, r).sum(1, dtype=np.float32)
        truncated = bool(row.get("truncated"))
        ended = not self.schema.role_columns("terminated") and (self.foreign or TRUNCATED in columns)
        if DONE in columns and ended:
            cut = columns.get(TRUNCATED, np.zeros_like(columns[DONE]))[rows].astype(bool)
            terminated = np.any((columns[DONE][rows].astype(bool) & ~cut).reshape(steps, r), axis=1)
            truncated = truncated or bool(cut.any())
        return Episode(
            frames=sized.frames(frames),
            actions=self._actions(columns, steps),
            states=states,
            caption=self.caption(index),
            segmentation=entities,
            rewards=rewards,
            terminated=terminated,
            seed=row.get("seed") or 0,
            behaviour=row.get("behaviour") or "",
            frames_per_step=r,
            truncated=truncated,
        )

    def _actions(self, columns: Mapping[str, np.ndarray], steps: int) -> np.ndarray | None:
        if not self.schema.actions or ACTION not in columns:
            return None
        rows = columns[ACTION][: steps * self.schema.frames_per_step]
        rows = rows.reshape(steps, -1) if self.foreign else rows[:: self.schema.frames_per_step]
        return rows.astype(self.schema.actions.dtype)

    def _data(self, row: Mapping[str, Any]) -> Path:
        return self.path / self._info["data_path"].format(
            chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
        )

    def _rows_of(self, row: Mapping[str, Any], names: set[str]) -> pa.Table:
        """The columns of an episode's rows, in order, and its clock if it has one."""
        path = self._data(row)
        try:
            known = set(pq.read_schema(path).names)
            if names - known:
                raise ValueError(mend(path, f"it has no column {', '.join(sorted(names - known))}"))
            wanted = [*sorted(names), *({"timestamp", "frame_index"} & known)]
            table = pq.read_table(path, columns=wanted, filters=[("episode_index", "=", row["episode_index"])])
        except (OSError, pa.ArrowException) as error:
            raise ValueError(mend(path, error)) from error
        if len(table) != row["length"]:
            raise ValueError(mend(path, f"{len(table)} of {row['length']} rows of episode {row['episode_index']}"))
        if "frame_index" in known:
            table = table.sort_by("frame_index")
        return table

    def _images(self, row: Mapping[str, Any]) -> np.ndarray:
        return pictures(self._rows_of(row, {self.camera})[self.camera], self._data(row))

    def _columns(self, row: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """What the rows of an episode hold, (length, numbers) by name."""
        table = self._rows_of(row, {ACTION, STATE, REWARD, DONE, TRUNCATED} & self._info["features"].keys())
        columns = {name: matrix(table[name]) for name in table.column_names}
        for name in {ACTION, STATE, REWARD} & columns.keys():
            if not np.isfinite(columns[name]).all():
                which = f"episode {row['episode_index']}"
                raise ValueError(f"{which} of {self.path} has {name} that is no finite number: leave {which} out")
        if "timestamp" not in columns:
            columns["timestamp"] = np.arange(len(table))[:, None] / self._info["fps"]
        return columns

    def _video(self, row: Mapping[str, Any], key: str, times: np.ndarray) -> np.ndarray:
        """The frames nearest to ``times`` (length,), seconds from the episode's beginning, uint8 (length, h, w, 3).

        Clocks jitter, so a frame may be up to half a frame off. A foreign episode may lack its last frame.
        """
        path = self.path / self._info["video_path"].format(
            video_key=key, chunk_index=row[f"videos/{key}/chunk_index"], file_index=row[f"videos/{key}/file_index"]
        )
        start, half, length = row[f"videos/{key}/from_timestamp"], 0.5 / self._info["fps"], int(row["length"])
        wanted = start + times.astype(np.float64)
        # What lies beyond belongs to the next episode, even if this one lacks a frame.
        stop = min(wanted[-1] + half, row[f"videos/{key}/to_timestamp"] - half)
        frames: list[np.ndarray] = []
        shown: list[float] = []
        try:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                stream.thread_count = 1
                assert stream.time_base is not None
                container.seek(round(start / stream.time_base), stream=stream)
                for frame in container.decode(stream):
                    if frame.time is None or frame.time < start - half:
                        continue
                    if frame.time > stop:
                        break
                    frames.append(frame.to_ndarray(format="rgb24", threads=1))
                    shown.append(frame.time)
        except (av.error.FFmpegError, IndexError) as error:
            raise ValueError(mend(path, error)) from error
        nearest = _nearest(np.array(shown), wanted, half)
        missing = np.flatnonzero(nearest < 0)
        if self.foreign and len(missing) == 1 and missing[0] == length - 1 > 0:
            nearest, missing = nearest[:-1], missing[:0]
        if len(missing) or (np.diff(nearest) < 1).any():
            count = len(np.unique(nearest[nearest >= 0]))
            raise ValueError(mend(path, f"{count} of {length} frames of episode {row['episode_index']}"))
        return np.stack([frames[i] for i in nearest])


def _nearest(shown: np.ndarray, wanted: np.ndarray, reach: float) -> np.ndarray:
    """For each time wanted which of the ascending times shown is nearest, -1 where none is within ``reach``."""
    if not len(shown):
        return np.full(len(wanted), -1)
    right = np.searchsorted(shown, wanted).clip(0, len(shown) - 1)
    left = (right - 1).clip(0)
    found = np.where(np.abs(shown[left] - wanted) <= np.abs(shown[right] - wanted), left, right)
    return np.where(np.abs(shown[found] - wanted) <= reach + 1e-4, found, -1)


def schema_json(schema: dict[str, Any] | str | None) -> dict[str, Any] | None:
    """A schema given as its JSON, as the folder of a recording, or not at all."""
    return EpisodeStore(schema).schema.to_json() if isinstance(schema, str) else schema


def _without_stats(path: Path) -> pa.Table:
    try:
        names = [name for name in pq.read_schema(path).names if not name.startswith("stats/")]
        return pq.read_table(path, columns=names)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(mend(path, error)) from error
