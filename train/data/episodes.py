"""Episodes on disk, in the LeRobotDataset v3 layout, pixels lossless.

One row per pixel frame, several episodes per file. A *shard* is one data file and its videos; it appears whole
or not at all (written aside, then renamed, the data file last), so a killed recording leaves only whole shards.
``consolidate`` then writes the index over them. Beyond LeRobot's columns an episode has its seed, behaviour and
split, and ``meta/info.json`` holds the scene schema.

Pixels are H.264 in RGB at crf 0: bit-exact, 2.5 kB a frame of 128x128 Tabletop where FFV1 takes 5.8. Every
episode begins with a keyframe. Entity maps are stored the same way, with three equal channels.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.error
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.video.frame import PictureType

from tokenizer.clip import Episode, shrink
from tokenizer.state_schema import StateSchema

SPLITS = ("train", "validation", "test")
FRONT, SEGMENTATION = "observation.images.front", "observation.segmentation"
_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_CHUNK = 1000
_ENOUGH_SPACE = 64 * 2**20
_LOSSLESS = {"crf": "0", "preset": "superfast", "bf": "0", "g": "100000", "forced-idr": "1"}


class DiskFullError(OSError):
    """The disk is full; its sentence says what to do. Whole shards are kept."""


def _where(pattern: str, number: int, video_key: str = "") -> str:
    return pattern.format(chunk_index=number // _CHUNK, file_index=number % _CHUNK, video_key=video_key)


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.part")
    aside.write_text(json.dumps(content, indent=1))
    os.replace(aside, path)


def _write_table(path: Path, table: pa.Table, row_group_size: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.part")
    pq.write_table(table, aside, row_group_size=row_group_size)
    os.replace(aside, path)


# -- writing --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RecordingConfig:
    """What must not change between the runs that fill one folder.

    ``settings`` is free: whoever records puts in what decides its episodes (world, seed, steps).
    """

    schema: StateSchema
    resolution: int
    segmentation: int | None = None
    settings: Mapping[str, Any]

    @property
    def videos(self) -> dict[str, int]:
        """Size of each video by its key."""
        return {FRONT: self.resolution} | ({} if self.segmentation is None else {SEGMENTATION: self.segmentation})


class EpisodeWriter:
    """Fills one folder, shard by shard. Several processes may write different shards at once.

    Raises ValueError when the folder holds a recording made with other settings.
    """

    def __init__(self, path: str | Path, config: RecordingConfig) -> None:
        self.path, self.config = Path(path), config
        wanted = json.loads(json.dumps(dict(config.settings)))
        known = self.path / "meta/info.json"
        if known.exists():
            found = json.loads(known.read_text()).get("recording")
            if found != wanted:
                raise ValueError(
                    f"{self.path} holds a recording made with {found}, not {wanted}: choose another folder"
                )
        else:
            _write_json(known, self._info(0, 0, 0))

    def shard(self, number: int) -> ShardWriter:
        return ShardWriter(self, number)

    def shard_episodes(self, number: int) -> list[dict[str, Any]] | None:
        """What a finished shard holds, or None where a file of it is missing."""
        data = self.path / _where(_DATA, number)
        if not data.exists() or not all(
            (self.path / _where(_VIDEO, number, key)).exists() for key in self.config.videos
        ):
            return None
        return json.loads(pq.read_schema(data).metadata[b"episodes"])

    def discard_unfinished(self) -> None:
        """Removes what a killed run left aside. Only when nobody else is writing here."""
        for part in self.path.rglob("*.part"):
            part.unlink(missing_ok=True)

    def consolidate(self) -> int:
        """Writes the index over the finished shards from 0 up to the first gap. Returns how many episodes it has."""
        columns: dict[str, list[Any]] = {}
        tasks: dict[str, int] = {}
        at = number = 0
        states, pixels = [], []
        while (episodes := self.shard_episodes(number)) is not None:
            data = self.path / _where(_DATA, number)
            table = pq.read_table(data)
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
                    "data/chunk_index": number // _CHUNK,
                    "data/file_index": number % _CHUNK,
                    "dataset_from_index": at,
                    "dataset_to_index": at + length,
                    "meta/episodes/chunk_index": 0,
                    "meta/episodes/file_index": 0,
                    **{name: episode[name] for name in ("seed", "behaviour", "split")},
                }
                for key in self.config.videos:
                    row |= {
                        f"videos/{key}/chunk_index": number // _CHUNK,
                        f"videos/{key}/file_index": number % _CHUNK,
                        f"videos/{key}/from_timestamp": frame / self.config.schema.fps,
                        f"videos/{key}/to_timestamp": (frame + length) / self.config.schema.fps,
                    }
                for name, value in row.items():
                    columns.setdefault(name, []).append(value)
                at, frame = at + length, frame + length
            if self.config.schema.num_values:
                states.append(np.stack(table["observation.state"].to_numpy()))
            pixels.append(json.loads(table.schema.metadata[b"pixels"]))
            number += 1
        if not columns:
            return 0
        _write_table(self.path / "meta/episodes/chunk-000/file-000.parquet", pa.table(columns))
        named = pa.table({"task_index": list(tasks.values()), "task": list(tasks)})
        index = {"index_columns": ["task"], "column_indexes": [], "columns": [], "pandas_version": "2.0.0"}
        _write_table(self.path / "meta/tasks.parquet", named.replace_schema_metadata({"pandas": json.dumps(index)}))
        _write_json(self.path / "meta/stats.json", self._stats(states, pixels, at))
        _write_json(self.path / "meta/info.json", self._info(len(columns["length"]), at, len(tasks)))
        return len(columns["length"])

    def _stats(self, states: list[np.ndarray], pixels: list[list[list[float]]], count: int) -> dict[str, Any]:
        total = np.array(pixels).sum(0)  # count, sums, squares, minima, maxima by channel
        mean = total[1] / total[0]
        deviation = np.sqrt(np.maximum(total[2] / total[0] - mean**2, 0))
        extremes = (np.array(pixels)[:, 3].min(0), np.array(pixels)[:, 4].max(0))
        image = zip(("mean", "std", "min", "max"), (mean, deviation, *extremes), strict=True)
        stats: dict[str, Any] = {FRONT: {name: v.reshape(3, 1, 1).tolist() for name, v in image} | {"count": [count]}}
        if states:
            state = np.concatenate(states)
            stats["observation.state"] = {
                name: getattr(state, name)(0).tolist() for name in ("mean", "std", "min", "max")
            } | {"count": [count]}
        return stats

    def _info(self, episodes: int, frames: int, tasks: int) -> dict[str, Any]:
        schema = self.config.schema
        names = [
            f"{e.name}.{f.name}" + (f".{i}" if f.size > 1 else "")
            for e in schema.entities
            for f in e.fields
            for i in range(f.size)
        ]
        scalars = {
            "timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64",
            "task_index": "int64", "action": "int64", "next.reward": "float32", "next.done": "bool",
        }  # fmt: skip
        features: dict[str, Any] = {n: {"dtype": kind, "shape": [1], "names": None} for n, kind in scalars.items()}
        if names:
            features["observation.state"] = {"dtype": "float32", "shape": [len(names)], "names": names}
        for key, size in self.config.videos.items():
            features[key] = {
                "dtype": "video",
                "shape": [size, size, 3],
                "names": ["height", "width", "channels"],
                "info": {
                    "video.height": size, "video.width": size, "video.channels": 3, "video.fps": schema.fps,
                    "video.codec": "h264", "video.pix_fmt": "gbrp", "video.is_depth_map": False, "has_audio": False,
                },
            }  # fmt: skip
        return {
            "codebase_version": "v3.0",
            "robot_type": schema.name,
            "total_episodes": episodes,
            "total_frames": frames,
            "total_tasks": tasks,
            "chunks_size": _CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 500,
            "fps": schema.fps,
            "splits": {"train": f"0:{episodes}"},
            "data_path": _DATA,
            "video_path": _VIDEO,
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
            path = self._writer.path / _where(_VIDEO, self._number, key)
            self._videos[key] = _LosslessVideo(path, size, self._writer.config.schema.fps)
        return self

    def add(self, index: int, episode: Episode, split: str, frame_states: np.ndarray | None = None) -> None:
        """Appends episode ``index``. ``frame_states`` float32 ``(1 + r * n, num_values)``: the state of every pixel
        frame; without it each step's state stands for all of its frames."""
        config, r = self._writer.config, episode.frames_per_step
        length = len(episode.frames)
        self._refuse_full_disk()
        try:
            self._videos[FRONT].add(episode.frames)
            if config.segmentation is not None:
                if episode.segmentation is None:
                    raise ValueError(f"episode {index} has no segmentation, but this recording stores one")
                self._videos[SEGMENTATION].add(np.repeat(episode.segmentation[..., None], 3, axis=-1))
        except OSError as error:
            raise self._explained(error) from error
        steps = np.arange(length) // r
        actions = np.zeros(length, dtype=np.int64)
        if episode.actions is not None:
            actions[:-1] = episode.actions[steps[:-1]]
        reward, done = np.zeros(length, dtype=np.float32), np.arange(length) == length - 1
        arrays: dict[str, Any] = {}
        if config.schema.num_values:
            if frame_states is None:
                if episode.states is None:
                    raise ValueError(f"episode {index} has no states, but its schema {config.schema.name!r} wants them")
                frame_states = episode.states[(np.arange(length) + r - 1) // r]
            flat = pa.array(np.ascontiguousarray(frame_states, dtype=np.float32).ravel())
            arrays["observation.state"] = pa.FixedSizeListArray.from_arrays(flat, config.schema.num_values)
            for columns in config.schema.role_columns("reward").values():
                reward[:-1] = frame_states[1:, columns][:, 0]
        arrays |= {
            "action": actions,
            "next.reward": reward,
            "next.done": done,
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
            path = self._writer.path / _where(_DATA, self._number)
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
    def __init__(self, path: Path, size: int, fps: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._aside = path, path.with_suffix(f".{os.getpid()}.part")
        self._container = av.open(str(self._aside), "w", format="mp4")
        self._stream = self._container.add_stream("libx264rgb", rate=fps, options=_LOSSLESS)
        self._stream.width = self._stream.height = size
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


# -- reading --------------------------------------------------------------------------------------------


class EpisodeStore:
    """Reads a recording. Cheap to make and to send to another process; opens files only in ``read``.

    Folders written by LeRobot (v3) are read as well: without our schema they are video, with actions where those
    are single integers. Raises ValueError where there is no recording, or none of its episodes is finished.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        known = self.path / "meta/info.json"
        if not known.exists():
            raise ValueError(f"no recording at {self.path}: make one with python -m train.record --out {self.path}")
        self._info = json.loads(known.read_text())
        version = self._info.get("codebase_version")
        if version != "v3.0":
            raise ValueError(
                f"{self.path} is a LeRobot dataset of version {version}: convert it to v3.0 with lerobot first"
            )
        files = sorted((self.path / "meta/episodes").rglob("*.parquet"))
        if not files:
            raise ValueError(f"the recording at {self.path} isn't finished: run its train.record command again")
        self._rows: list[dict[str, Any]] = [row for f in files for row in _without_stats(f).to_pylist()]
        if "schema" in self._info:
            self.schema = StateSchema.from_json(self._info["schema"])
        else:
            self.schema = StateSchema(name=self.path.name, fps=self._info["fps"])
        features = self._info["features"]
        cameras = [key for key, f in features.items() if f["dtype"] == "video" and key != SEGMENTATION]
        if not cameras:
            raise ValueError(f"{self.path} has no video: only recordings with a camera can be read")
        self._camera = FRONT if FRONT in cameras else cameras[0]
        self.resolution = int(features[self._camera]["shape"][0])
        self.has_segmentation = SEGMENTATION in features

    def __len__(self) -> int:
        return len(self._rows)

    def split(self, name: str) -> list[int]:
        """Episode numbers of ``train``, ``validation`` or ``test``."""
        if name not in SPLITS:
            raise ValueError(f"there is no split {name!r}: choose from {', '.join(SPLITS)}")
        return [i for i, row in enumerate(self._rows) if row.get("split", "train") == name]

    def num_frames(self, index: int) -> int:
        """Pixel frames of an episode, without opening it."""
        return int(self._rows[index]["length"])

    def caption(self, index: int) -> str:
        return (self._rows[index].get("tasks") or [""])[0]

    def read(self, index: int, resolution: int | None = None, segmentation: bool = False) -> Episode:
        """One episode, at the stored ``resolution`` (None), at half or at a quarter of it (see ``shrink``).

        Raises ValueError for another resolution, for segmentation that isn't stored, and for a broken file.
        """
        if not 0 <= index < len(self):
            raise ValueError(f"{self.path} has episodes 0 to {len(self) - 1}, not {index}")
        sides = [self.resolution >> i for i in range(3)]
        if resolution is not None and resolution not in sides:
            raise ValueError(f"{self.path} can be read at {', '.join(map(str, sides))} pixels, not {resolution}")
        if segmentation and not self.has_segmentation:
            raise ValueError(f"{self.path} was recorded without segmentation: record it again with it, or do without")
        row = self._rows[index]
        frames = self._video(row, self._camera)
        r, length = self.schema.frames_per_step, len(frames)
        path = self.path / self._info["data_path"].format(
            chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
        )
        wanted = [name for name in ("action", "observation.state") if name in self._info["features"]]
        try:
            table = pq.read_table(path, columns=wanted, filters=[("episode_index", "=", row["episode_index"])])
        except (OSError, pa.ArrowInvalid) as error:
            raise ValueError(_mend(path, error)) from error
        actions = states = None
        if "action" in wanted and pa.types.is_integer(table.schema.field("action").type):
            actions = table["action"].to_numpy()[: length - 1 : r].astype(np.int64)
        if self.schema.num_values:
            states = np.stack(table["observation.state"].to_numpy())[::r].astype(np.float32)
        return Episode(
            frames=shrink(frames, resolution or self.resolution),
            actions=actions,
            states=states,
            caption=self.caption(index),
            segmentation=self._video(row, SEGMENTATION)[..., 0] if segmentation else None,
            seed=row.get("seed") or 0,
            behaviour=row.get("behaviour") or "",
            frames_per_step=r,
        )

    def _video(self, row: Mapping[str, Any], key: str) -> np.ndarray:
        path = self.path / self._info["video_path"].format(
            video_key=key, chunk_index=row[f"videos/{key}/chunk_index"], file_index=row[f"videos/{key}/file_index"]
        )
        start, length = row[f"videos/{key}/from_timestamp"], row["length"]
        frames: list[np.ndarray] = []
        try:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                stream.thread_count = 1
                assert stream.time_base is not None
                container.seek(round(start / stream.time_base), stream=stream)
                for frame in container.decode(stream):
                    if frame.time is not None and frame.time >= start - 0.5 / self._info["fps"]:
                        frames.append(frame.to_ndarray(format="rgb24", threads=1))
                    if len(frames) == length:
                        break
        except (av.error.FFmpegError, IndexError) as error:
            raise ValueError(_mend(path, error)) from error
        if len(frames) < length:
            raise ValueError(_mend(path, f"{len(frames)} of {length} frames of episode {row['episode_index']}"))
        return np.stack(frames)


def schema_json(schema: dict[str, Any] | str | None) -> dict[str, Any] | None:
    """A schema given as its JSON, as the folder of a recording, or not at all."""
    return EpisodeStore(schema).schema.to_json() if isinstance(schema, str) else schema


def _without_stats(path: Path) -> pa.Table:
    names = [name for name in pq.read_schema(path).names if not name.startswith("stats/")]
    return pq.read_table(path, columns=names)


def _mend(path: Path, error: object) -> str:
    return (
        f"{path} is broken or missing ({error}): delete it and run the same train.record command again, "
        "which records only what is missing, or copy it afresh from its source"
    )
