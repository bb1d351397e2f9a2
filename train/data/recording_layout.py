"""Where things lie in a recording's folder: the LeRobotDataset v3 layout, and the names that we add to it.

One row per pixel frame, several episodes per file. ``meta/info.json`` says which features there are,
``meta/episodes`` which rows and which stretch of which video are whose.

A row holds what was done in its frame and what that led to (``next.…``), so an episode's last row tells of nothing
further. Of a step of ``r`` frames the action stands in all ``r`` rows, reward and end in the last of them.
"""

from __future__ import annotations

from pathlib import Path

SPLITS = ("train", "validation", "test")
FRONT, SEGMENTATION = "observation.images.front", "observation.segmentation"
STATE, ACTION = "observation.state", "action"
REWARD, DONE, TRUNCATED = "next.reward", "next.done", "next.truncated"
VERSION = "v3.0"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FILES_PER_CHUNK = 1000


def place(pattern: str, number: int, video_key: str = "") -> str:
    """Path, in the folder, of the file that shard ``number`` has."""
    return pattern.format(
        chunk_index=number // FILES_PER_CHUNK, file_index=number % FILES_PER_CHUNK, video_key=video_key
    )


def mend(path: Path, error: object) -> str:
    """What to do about a file that cannot be read."""
    return (
        f"{path} is broken or missing ({error}): delete it and run the same train.record command again, "
        "which records only what is missing, or copy it afresh from its source"
    )
