"""Writes a small LeRobotDataset v3 folder as LeRobot lays it out: lossy H.264 with a few keyframes, several episodes in
one mp4, vectors with names, statistics, and no schema.

A picture's grey tells its episode and its time: ``grey_of(episode, frame)``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FPS, HEIGHT, WIDTH = 30, 32, 48
MOTORS, JOINTS = ["pan", "grip"], ["pan.pos", "lift.pos", "grip.pos"]
LENGTHS = (9, 12, 10)
FILES = ((0, 1), (2,))  # which episodes lie in which file


def grey_of(episode: int, frame: int) -> int:
    return 30 + 70 * episode + 5 * frame


def action_of(episode: int, frame: int) -> list[float]:
    return [episode + frame / 100, -frame / 10]


def state_of(episode: int, frame: int) -> list[float]:
    return [episode + frame / 10, 0.5, -5.0 * frame]


def write_video(path: Path, greys: Sequence[int], times: Sequence[float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    clock = Fraction(1, 90_000)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"g": "7", "crf": "12"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.time_base = stream.codec_context.time_base = clock
        for grey, time in zip(greys, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), grey, np.uint8), format="rgb24")
            frame.time_base, frame.pts = clock, round(time / clock)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (grey, grey, grey)).save(buffer, format="PNG")
    return buffer.getvalue()


def write_folder(
    path: Path,
    *,
    cameras: Sequence[str] = ("observation.images.front", "observation.images.top"),
    channels_first: bool = True,
    named: bool = True,
    stats: bool = True,
    jitter: float = 0.0,
    row_jitter: float = 0.0,
    short_of_a_frame: Sequence[int] = (),
    shape_names: bool = True,
    stills: bool = False,
) -> Path:
    """``jitter`` and ``row_jitter`` move the times of pictures and rows by up to so many seconds; the episodes in
    ``short_of_a_frame`` lack their last picture. ``stills``: pictures are PNGs in the tables, there are no videos."""
    rng, episodes, at = np.random.default_rng(0), [], 0
    for number, members in enumerate(FILES):
        rows: dict[str, list[Any]] = {name: [] for name in ("action", "observation.state", "timestamp", "frame_index")}
        rows |= {name: [] for name in ("episode_index", "index", "task_index")}
        greys: list[int] = []
        for episode in members:
            length, first = LENGTHS[episode], len(greys)
            greys += [grey_of(episode, t) for t in range(length - (episode in short_of_a_frame))]
            rows["action"] += [action_of(episode, t) for t in range(length)]
            rows["observation.state"] += [state_of(episode, t) for t in range(length)]
            rows["timestamp"] += [max(0.0, t / FPS + row_jitter * rng.uniform(-1, 1)) for t in range(length)]
            rows["frame_index"] += list(range(length))
            rows["episode_index"] += [episode] * length
            rows["index"] += list(range(at, at + length))
            rows["task_index"] += [episode % 2] * length
            row: dict[str, Any] = {
                "episode_index": episode, "tasks": [f"pick {episode % 2}"], "length": length,
                "data/chunk_index": 0, "data/file_index": number,
                "dataset_from_index": at, "dataset_to_index": at + length,
                "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0,
                "stats/action/min": [0.0, 0.0],
            }  # fmt: skip
            for camera in () if stills else cameras:
                row |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": number}
                row |= {
                    f"videos/{camera}/from_timestamp": first / FPS,
                    f"videos/{camera}/to_timestamp": len(greys) / FPS,
                }
            episodes.append(row)
            at += length
        table = {
            name: pa.array(values, pa.list_(pa.float32())) if name in ("action", "observation.state")
            else pa.array(values, pa.float32() if name == "timestamp" else pa.int64())
            for name, values in rows.items()
        }  # fmt: skip
        for camera in cameras if stills else ():
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            table[camera] = pa.array([{"bytes": png(grey), "path": None} for grey in greys], kind)
        file = path / f"data/chunk-000/file-{number:03d}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), file)
        for camera in () if stills else cameras:
            times = [max(0.0, i / FPS + jitter * rng.uniform(-1, 1)) for i in range(len(greys))]
            write_video(path / f"videos/{camera}/chunk-000/file-{number:03d}.mp4", greys, times)
    shape = [3, HEIGHT, WIDTH] if channels_first else [HEIGHT, WIDTH, 3]
    axes = ["channels", "height", "width"] if channels_first else ["height", "width", "channels"]
    scalars = {"timestamp": "float32"} | dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")
    features: dict[str, Any] = {
        "action": {"dtype": "float32", "shape": [2], "names": {"motors": MOTORS} if named else None},
        "observation.state": {"dtype": "float32", "shape": [3], "names": JOINTS if named else None},
        **{name: {"dtype": kind, "shape": [1], "names": None} for name, kind in scalars.items()},
        **{
            camera: {"dtype": "image" if stills else "video", "shape": shape, "names": axes if shape_names else None}
            for camera in cameras
        },
    }
    info = {
        "codebase_version": "v3.0", "robot_type": "arm", "total_episodes": len(LENGTHS), "total_frames": sum(LENGTHS),
        "total_tasks": 2, "chunks_size": 1000, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200, "fps": FPS,
        "splits": {"train": f"0:{len(LENGTHS)}"}, "features": features,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }  # fmt: skip
    file = path / "meta/episodes/chunk-000/file-000.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(episodes), file)
    pq.write_table(pa.table({"task_index": [0, 1], "task": ["pick 0", "pick 1"]}), path / "meta/tasks.parquet")
    (path / "meta/info.json").write_text(json.dumps(info), encoding="utf-8")
    if stats:
        about = {}
        for name, of in (("action", action_of), ("observation.state", state_of)):
            values = np.array([of(e, t) for e, length in enumerate(LENGTHS) for t in range(length)])
            about[name] = {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
        (path / "meta/stats.json").write_text(json.dumps(about), encoding="utf-8")
    return path
