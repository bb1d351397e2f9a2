"""Writes episodes to disk, in the LeRobotDataset v3 layout (``recording_layout.py``), pixels lossless.

A *shard* is one data file and its videos; it appears whole or not at all (written aside, then renamed, the data
file last), so a killed recording leaves only whole shards. ``consolidate`` then writes the index over them. Beyond
LeRobot's columns an episode has its seed, behaviour and split, and ``meta/info.json`` holds the scene schema.

What was not recorded has no column: no actions, no states, no rewards.

Pixels are H.264 in RGB at crf 0: bit-exact, 2.5 kB a frame of 128x128 with few things on it where FFV1 takes 5.8. Every
episode begins with a keyframe. Entity maps are stored the same way, with three equal channels.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.video.frame import PictureType

from tokenizer.clip import Episode
from tokenizer.frames import picture_size
from tokenizer.state_schema import StateSchema
from train.data.recording_layout import (
    ACTION,
    DATA,
    DONE,
    FILES_PER_CHUNK,
    FRONT,
    REWARD,
    SEGMENTATION,
    SPLITS,
    STATE,
    TRUNCATED,
    VERSION,
    VIDEO,
    place,
)

_ENOUGH_SPACE = 64 * 2**20
_LOSSLESS = {"crf": "0", "preset": "superfast", "bf": "0", "g": "100000", "forced-idr": "1"}


class DiskFullError(OSError):
    """The disk is full; its sentence says what to do. Whole shards are kept."""


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.part")
    aside.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(aside, path)


def _write_table(path: Path, table: pa.Table, row_group_size: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.part")
    pq.write_table(table, aside, row_group_size=row_group_size)
    os.replace(aside, path)


@dataclass(frozen=True, kw_only=True)
class RecordingConfig:
    """What must not change between the runs that fill one folder.

    ``size`` and ``segmentation`` are (height, width) of the frames and of the entity maps, or one number for a square.
    What may be done is the ``schema``'s action space. ``settings`` is free: whoever records puts in what decides its
    episodes (world, seed, steps).
    """

    schema: StateSchema
    size: int | Sequence[int]
    segmentation: int | Sequence[int] | None = None
    settings: Mapping[str, Any]

    @property
    def videos(self) -> dict[str, tuple[int, int]]:
        """(height, width) of each video by its key."""
        front = {FRONT: picture_size(self.size)}
        return front if self.segmentation is None else front | {SEGMENTATION: picture_size(self.segmentation)}


class EpisodeWriter:
    """Fills one folder, shard by shard. Several processes may write different shards at once.

    Raises ValueError when the folder holds a recording made with other settings, of another schema or size.
    """

    def __init__(self, path: str | Path, config: RecordingConfig) -> None:
        self.path, self.config = Path(path), config
        wanted = json.loads(json.dumps(dict(config.settings)))
        known = self.path / "meta/info.json"
        if known.exists():
            info = json.loads(known.read_text(encoding="utf-8"))
            found = info.get("recording")
            if found != wanted:
                raise ValueError(
                    f"{self.path} holds a recording made with {found}, not {wanted}: choose another folder"
                )
            sizes = {key: list(size) for key, size in config.videos.items()}
            videos = {key: f["shape"][:2] for key, f in info["features"].items() if f["dtype"] == "video"}
            if videos != sizes or StateSchema.from_json(info["schema"]).to_json() != config.schema.to_json():
                raise ValueError(
                    f"{self.path} holds a recording of pictures or of a schema other than these: choose another folder"
                )
        else:
            _write_json(known, self._info(0, 0, 0, self._settled_columns))

    def shard(self, number: int) -> ShardWriter:
        return ShardWriter(self, number)

    def shard_episodes(self, number: int) -> list[dict[str, Any]] | None:
        """What a finished shard holds, or None where a file of it is missing."""
        data = self.path / place(DATA, number)
        if not data.exists() or not all((self.path / place(VIDEO, number, key)).exists() for key in self.config.videos):
            return None
        return json.loads(pq.read_schema(data).metadata[b"episodes"])

    def discard_unfinished(self) -> None:
        """Removes what a killed run left aside. Only when nobody else is writing here."""
        for part in self.path.rglob("*.part"):
            part.unlink(missing_ok=True)

    def adopt(self, part: Path, shard: int, number: int, first: int, splits: Sequence[str]) -> None:
        """Moves a finished shard of the recording in ``part`` here, as shard ``number``. Its episodes are numbered from
        ``first`` on and belong to ``splits``. What a killed run has moved stays."""
        data = self.path / place(DATA, number)
        if data.exists():
            return
        for key in self.config.videos:
            video, target = part / place(VIDEO, shard, key), self.path / place(VIDEO, number, key)
            target.parent.mkdir(parents=True, exist_ok=True)
            if video.exists():
                os.replace(video, target)
        table = pq.read_table(part / place(DATA, shard))
        episodes = json.loads(table.schema.metadata[b"episodes"])
        for index, (episode, split) in enumerate(zip(episodes, splits, strict=True), first):
            episode |= {"episode_index": index, "split": split}
        numbers = np.repeat([e["episode_index"] for e in episodes], [e["length"] for e in episodes])
        column = table.schema.get_field_index("episode_index")
        table = table.set_column(column, "episode_index", pa.array(numbers, pa.int64()))
        about = {**table.schema.metadata, b"episodes": json.dumps(episodes).encode()}
        _write_table(data, table.replace_schema_metadata(about), max(e["length"] for e in episodes))

    def consolidate(self) -> int:
        """Writes the index over the finished shards from 0 up to the first gap. Returns how many episodes it has."""
        columns: dict[str, list[Any]] = {}
        tasks: dict[str, int] = {}
        at = number = 0
        states, actions, pixels = [], [], []
        names: list[str] = []
        while (episodes := self.shard_episodes(number)) is not None:
            data = self.path / place(DATA, number)
            table = pq.read_table(data)
            if names and set(names) != set(table.column_names):
                differing = ", ".join(sorted(set(names) ^ set(table.column_names)))
                raise ValueError(
                    f"{data} and the files before it do not record the same things ({differing}): delete {self.path} "
                    "and record it again in one way"
                )
            names = table.column_names
            captions = [e["caption"] for e in episodes]
            ids = np.array([tasks.setdefault(text, len(tasks)) for text in captions])
            task_index = np.repeat(ids, [e["length"] for e in episodes])
            fixed = {"index": np.arange(at, at + len(table)), "task_index": task_index}
            if any(not np.array_equal(table[name].to_numpy(), values) for name, values in fixed.items()):
                for name, values in fixed.items():
                    table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.int64()))
                _write_table(data, table, max(e["length"] for e in episodes))
            frame = 0
            for episode in episodes:
                length = episode["length"]
                row = {
                    "episode_index": episode["episode_index"],
                    "tasks": [episode["caption"]],
                    "length": length,
                    "data/chunk_index": number // FILES_PER_CHUNK,
                    "data/file_index": number % FILES_PER_CHUNK,
                    "dataset_from_index": at,
                    "dataset_to_index": at + length,
                    "meta/episodes/chunk_index": 0,
                    "meta/episodes/file_index": 0,
                    **{name: episode[name] for name in ("seed", "behaviour", "split")},
                    "truncated": episode.get("truncated", False),
                }
                for key in self.config.videos:
                    row |= {
                        f"videos/{key}/chunk_index": number // FILES_PER_CHUNK,
                        f"videos/{key}/file_index": number % FILES_PER_CHUNK,
                        f"videos/{key}/from_timestamp": frame / self.config.schema.fps,
                        f"videos/{key}/to_timestamp": (frame + length) / self.config.schema.fps,
                    }
                for name, value in row.items():
                    columns.setdefault(name, []).append(value)
                at, frame = at + length, frame + length
            if STATE in names:
                states.append(np.stack(table[STATE].to_numpy()))
            if ACTION in names:
                acted = np.stack(table[ACTION].to_numpy()).reshape(len(table), -1)
                ends = np.cumsum([e["length"] for e in episodes]) - 1
                actions.append(np.delete(acted, ends, axis=0))  # nothing was done in an episode's last frame
            pixels.append(json.loads(table.schema.metadata[b"pixels"]))
            number += 1
        if not columns:
            return 0
        _write_table(self.path / "meta/episodes/chunk-000/file-000.parquet", pa.table(columns))
        named = pa.table({"task_index": list(tasks.values()), "task": list(tasks)})
        kinds = {"task": ("unicode", "object"), "task_index": ("int64", "int64")}
        described = [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": array, "metadata": None}
            for name, (kind, array) in kinds.items()
        ]
        # LeRobot reads this file with pandas and looks tasks up by its index.
        index = {"index_columns": ["task"], "column_indexes": [], "columns": described, "pandas_version": "2.0.0"}
        _write_table(self.path / "meta/tasks.parquet", named.replace_schema_metadata({"pandas": json.dumps(index)}))
        _write_json(self.path / "meta/stats.json", self._stats({STATE: states, ACTION: actions}, pixels, at))
        _write_json(self.path / "meta/info.json", self._info(len(columns["length"]), at, len(tasks), names))
        return len(columns["length"])

    def _stats(
        self, vectors: Mapping[str, list[np.ndarray]], pixels: list[list[list[float]]], count: int
    ) -> dict[str, Any]:
        total = np.array(pixels).sum(0)  # count, sums, squares, minima, maxima by channel
        mean = total[1] / total[0]
        deviation = np.sqrt(np.maximum(total[2] / total[0] - mean**2, 0))
        extremes = (np.array(pixels)[:, 3].min(0), np.array(pixels)[:, 4].max(0))
        image = zip(("mean", "std", "min", "max"), (mean, deviation, *extremes), strict=True)
        stats: dict[str, Any] = {FRONT: {name: v.reshape(3, 1, 1).tolist() for name, v in image} | {"count": [count]}}
        for key, parts in vectors.items():
            values = np.concatenate(parts) if parts else np.empty(0)
            if len(values):
                stats[key] = {name: getattr(values, name)(0).tolist() for name in ("mean", "std", "min", "max")}
                stats[key]["count"] = [len(values)]
        return stats

    @property
    def _settled_columns(self) -> list[str]:
        """Columns of the data that the schema alone decides."""
        schema = self.config.schema
        columns = ["timestamp", "frame_index", "episode_index", "index", "task_index"]
        columns += [STATE] if schema.num_values else []
        columns += [ACTION] if schema.actions else []
        columns += [REWARD] if schema.role_columns("reward") else []
        return columns + ([DONE] if schema.role_columns("reward") or schema.role_columns("terminated") else [])

    def _info(self, episodes: int, frames: int, tasks: int, columns: Sequence[str]) -> dict[str, Any]:
        schema = self.config.schema
        scalars = {
            "timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64",
            "task_index": "int64", REWARD: "float32", DONE: "bool", TRUNCATED: "bool", ACTION: "int64",
        }  # fmt: skip
        features: dict[str, Any] = {
            name: {"dtype": kind, "shape": [1], "names": None} for name, kind in scalars.items() if name in columns
        }
        if schema.num_values:
            names = [
                f"{e.name}.{f.name}" + (f".{i}" if f.size > 1 else "")
                for e in schema.entities
                for f in e.fields
                for i in range(f.size)
            ]
            features[STATE] = {"dtype": "float32", "shape": [len(names)], "names": names}
        if schema.actions and not _is_one_choice(schema):
            parts = [part.name for part in schema.actions.parts]
            kind = np.dtype(schema.actions.dtype).name
            features[ACTION] = {"dtype": kind, "shape": [len(parts)], "names": parts}
        for key, (height, width) in self.config.videos.items():
            features[key] = {
                "dtype": "video",
                "shape": [height, width, 3],
                "names": ["height", "width", "channels"],
                "info": {
                    "video.height": height, "video.width": width, "video.channels": 3, "video.fps": schema.fps,
                    "video.codec": "h264", "video.pix_fmt": "gbrp", "video.is_depth_map": False, "has_audio": False,
                },
            }  # fmt: skip
        return {
            "codebase_version": VERSION,
            "robot_type": schema.name,
            "total_episodes": episodes,
            "total_frames": frames,
            "total_tasks": tasks,
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 500,
            "fps": schema.fps,
            "splits": {"train": f"0:{episodes}"},
            "data_path": DATA,
            "video_path": VIDEO,
            "features": features,
            "schema": schema.to_json(),
            "recording": dict(self.config.settings),
        }


class ShardWriter:
    """One shard in the making. Leaving the ``with`` block puts it in place; an exception leaves nothing.

    Raises DiskFullError when the disk is full.
    """

    def __init__(self, writer: EpisodeWriter, number: int) -> None:
        self._writer, self._number = writer, number
        self._episodes: list[dict[str, Any]] = []
        self._tables: list[pa.Table] = []
        self._pixels = np.array([[0.0] * 3] * 3 + [[1.0] * 3, [0.0] * 3])
        self._videos: dict[str, _LosslessVideo] = {}

    def __enter__(self) -> ShardWriter:
        self._refuse_full_disk()
        for key, size in self._writer.config.videos.items():
            path = self._writer.path / place(VIDEO, self._number, key)
            self._videos[key] = _LosslessVideo(path, size, self._writer.config.schema.fps)
        return self

    def add(self, index: int, episode: Episode, split: str, frame_states: np.ndarray | None = None) -> None:
        """Appends episode ``index``. ``frame_states`` float32 ``(1 + r * n, num_values)``: the state of every pixel
        frame; without it each step's state stands for all of its frames.

        Reward and end are the schema's where it has them, else the episode's ``rewards`` and ``terminated``. Raises
        ValueError, and writes nothing of the episode, for whatever could not be read back as it is.
        """
        config = self._writer.config
        length = len(episode.frames)
        _refuse_misfits(config, episode, split, f"episode {index}")
        frame_states = _states_by_frame(config.schema, episode, frame_states, f"episode {index}")
        arrays = _columns(config.schema, episode, frame_states)
        if self._tables and set(self._tables[0].column_names) != {*arrays, *_PLACES}:
            raise ValueError(
                f"episode {index} tells of reward and end otherwise than the one before it: record both or neither, "
                "in every episode"
            )
        self._refuse_full_disk()
        try:
            self._videos[FRONT].add(episode.frames)
            if episode.segmentation is not None:
                self._videos[SEGMENTATION].add(np.repeat(episode.segmentation[..., None], 3, axis=-1))
        except OSError as error:
            raise self._explained(error) from error
        arrays |= {
            "timestamp": (np.arange(length) / config.schema.fps).astype(np.float32),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, index),
            "index": np.full(length, -1),
            "task_index": np.full(length, -1),
        }
        self._tables.append(pa.table(arrays))
        sample = episode.frames[::16].reshape(-1, 3) / 255
        self._pixels[:3] += [[len(sample)] * 3, sample.sum(0), (sample**2).sum(0)]
        self._pixels[3] = np.minimum(self._pixels[3], sample.min(0))
        self._pixels[4] = np.maximum(self._pixels[4], sample.max(0))
        about = {"seed": episode.seed, "behaviour": episode.behaviour, "caption": episode.caption}
        about |= {"truncated": bool(episode.truncated)}
        self._episodes.append({"episode_index": index, "length": length, "split": split, **about})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None or not self._episodes:
            for video in self._videos.values():
                video.discard()
            return
        try:
            for video in self._videos.values():
                video.finish()
            about = {"episodes": json.dumps(self._episodes), "pixels": json.dumps(self._pixels.tolist())}
            table = pa.concat_tables(self._tables).replace_schema_metadata(about)
            path = self._writer.path / place(DATA, self._number)
            _write_table(path, table, max(e["length"] for e in self._episodes))
        except OSError as failure:
            raise self._explained(failure) from failure

    def _refuse_full_disk(self) -> None:
        if shutil.disk_usage(self._writer.path).free < _ENOUGH_SPACE:
            raise self._explained(OSError(errno.ENOSPC, "no space left"))

    def _explained(self, error: OSError) -> OSError:
        for video in self._videos.values():
            video.discard()
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return error
        return DiskFullError(
            f"the disk of {self._writer.path} is full: free some space and run the same command again; "
            "the episodes recorded so far are kept"
        )


class _LosslessVideo:
    def __init__(self, path: Path, size: tuple[int, int], fps: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._aside = path, path.with_suffix(f".{os.getpid()}.part")
        self._container = av.open(str(self._aside), "w", format="mp4")
        self._stream = self._container.add_stream("libx264rgb", rate=fps, options=_LOSSLESS)
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "rgb24"
        self._stream.thread_count = 1

    def add(self, frames: np.ndarray) -> None:
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if i == 0:
                frame.pict_type = PictureType.I
            self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()
        os.replace(self._aside, self._path)

    def discard(self) -> None:
        with contextlib.suppress(OSError):  # the disk is full: what can't be finished is thrown away
            self._container.close()
        self._aside.unlink(missing_ok=True)


# -- what an episode must be --------------------------------------------------------------------------

_PLACES = ("timestamp", "frame_index", "episode_index", "index", "task_index")


def _is_one_choice(schema: StateSchema) -> bool:
    """Whether an action is a single whole number, kept as a plain column."""
    return schema.actions.num_parts == 1 and schema.actions.discrete


def _refuse_misfits(config: RecordingConfig, episode: Episode, split: str, which: str) -> None:
    """Raises ValueError, in one sentence, for what the recording cannot hold of an episode; states come after."""
    schema, r, length = config.schema, config.schema.frames_per_step, len(episode.frames)
    if split not in SPLITS:
        raise ValueError(f"{which} has split {split!r}: choose from {', '.join(SPLITS)}")
    if episode.frames_per_step != r:
        raise ValueError(f"{which} has {episode.frames_per_step} frames a step and its schema {r}: give both the same")
    pictures = {"frames": (episode.frames, FRONT, (3,)), "segmentation": (episode.segmentation, SEGMENTATION, ())}
    for name, (found, key, channels) in pictures.items():
        size = config.videos.get(key)
        if found is None and size is not None:
            raise ValueError(f"{which} has no {name}, but this recording stores one: give it for every frame")
        if found is not None and size is None:
            raise ValueError(f"{which} has {name}, which this recording does not store: set its size, or leave it out")
        if found is None or size is None:
            continue
        wanted = (length, *size, *channels)
        if found.dtype != np.uint8 or found.shape != wanted:
            raise ValueError(
                f"{which} has {name} of {found.dtype} {found.shape}, but this recording holds uint8 {wanted}"
            )
    if length < 1 or (length - 1) % r:
        raise ValueError(f"{which} has {length} frames, but steps of {r} frames take 1 + {r}n: drop or add the rest")
    for name in ("caption", "behaviour"):
        text: object = getattr(episode, name)
        if not isinstance(text, str):
            raise ValueError(f"{which} has a {name} of type {type(text).__name__}: give a str, empty for none")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"{which} has a {name} that UTF-8 cannot hold ({text!r}): replace it") from None
    _refuse_actions(schema, episode, which, (length - 1) // r)
    for name, kinds, kind in (("rewards", "biuf", "numbers"), ("terminated", "b", "bool")):
        column = getattr(episode, name)
        if column is None:
            continue
        if column.dtype.kind not in kinds or column.shape != ((length - 1) // r,):
            raise ValueError(
                f"{which} has {name} of {column.dtype} {column.shape}, but its {(length - 1) // r} steps take one each "
                f"({kind})"
            )
    if episode.rewards is not None and not np.isfinite(episode.rewards).all():
        raise ValueError(f"{which} has a reward that is no finite number: NaN and infinity cannot be learned")
    if episode.terminated is not None and episode.terminated[:-1].any():
        raise ValueError(f"{which} goes on after its end, step {int(episode.terminated.argmax())}: cut it there")


def _refuse_actions(schema: StateSchema, episode: Episode, which: str, num_steps: int) -> None:
    space, actions = schema.actions, episode.actions
    if actions is None:
        if space:
            raise ValueError(f"{which} has no actions, but {schema.name!r} takes some: give one for each step")
        return
    if not space:
        raise ValueError(f"{which} has actions, but {schema.name!r} takes none: give its schema an action space")
    kinds = "biu" if space.discrete else "biuf"
    if actions.dtype.kind not in kinds or actions.shape != (num_steps, space.num_parts):
        wanted = "whole numbers" if space.discrete else "numbers"
        raise ValueError(
            f"{which} has actions of {actions.dtype} {actions.shape}, but its {num_steps} steps take {wanted} of shape "
            f"({num_steps}, {space.num_parts})"
        )
    for part, column in zip(space.parts, actions.T, strict=True):
        try:
            part.checked(column.astype(np.float64))
        except ValueError as error:
            raise ValueError(f"{which}, action part {part.name!r}: {error}") from None


def _states_by_frame(schema: StateSchema, episode: Episode, given: np.ndarray | None, which: str) -> np.ndarray | None:
    """The state of every pixel frame, float32 (1 + r * n, num_values); None for a world without state."""
    r, length = schema.frames_per_step, len(episode.frames)
    for name, found, count in (("states", episode.states, (length - 1) // r + 1), ("frame_states", given, length)):
        if found is None:
            continue
        if found.dtype.kind not in "biuf" or found.shape != (count, schema.num_values):
            raise ValueError(
                f"{which} has {name} of {found.dtype} {found.shape}, but its schema {schema.name!r} wants numbers of "
                f"shape {(count, schema.num_values)}"
            )
        if not np.isfinite(found).all():
            raise ValueError(f"{which} has {name} that are no finite numbers: NaN and infinity cannot be learned")
    if not schema.num_values:
        return None
    if given is None:
        if episode.states is None:
            raise ValueError(f"{which} has no states, but its schema {schema.name!r} wants them")
        given = episode.states[(np.arange(length) + r - 1) // r]
    return np.ascontiguousarray(given, dtype=np.float32)


def _columns(schema: StateSchema, episode: Episode, frame_states: np.ndarray | None) -> dict[str, Any]:
    """What was done and what came of it, row by row."""
    length, r = len(episode.frames), schema.frames_per_step
    rows, ends = np.arange(length), np.arange(r - 1, length - 1, r)  # each step's last row
    columns: dict[str, Any] = {}
    if frame_states is not None:
        columns[STATE] = pa.FixedSizeListArray.from_arrays(pa.array(frame_states.ravel()), schema.num_values)
    if episode.actions is not None:
        kept = np.zeros((length, schema.actions.num_parts), dtype=schema.actions.dtype)
        kept[:-1] = episode.actions[rows[:-1] // r]
        flat = pa.array(kept.ravel())
        columns[ACTION] = flat if _is_one_choice(schema) else pa.FixedSizeListArray.from_arrays(flat, kept.shape[1])
    told, ended = schema.role_columns("reward"), schema.role_columns("terminated")
    if told or episode.rewards is not None:
        reward = np.zeros(length, dtype=np.float32)
        if episode.rewards is not None:
            reward[ends] = episode.rewards
        for own in told.values():
            assert frame_states is not None
            reward[:-1] = frame_states[1:, own][:, 0]
        columns[REWARD] = reward
    if episode.terminated is not None and not ended:
        cut = bool(episode.truncated and not episode.terminated[-1:].any())
        over = np.append(episode.terminated[:-1], bool(episode.truncated or episode.terminated[-1:].any()))
        done, truncated = np.zeros(length, dtype=bool), np.zeros(length, dtype=bool)
        done[ends], truncated[ends[-1:]] = over[: len(ends)], cut
        done[-1] = True  # the layout's mark of an episode's last row
        columns |= {DONE: done, TRUNCATED: truncated}
    elif told or ended:
        columns[DONE] = rows == length - 1
    return columns
