"""Where a LeRobotDataset v3 that others wrote lies, and what it says of its pictures, actions and state.

Such a folder has no schema, so one is made of its features: a state of the numbers of ``observation.state``, inferred
from some of its episodes, and an action space of the numbers of ``action``, both within the bounds that its statistics
tell.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from gymnasium import spaces
from PIL import Image, UnidentifiedImageError

from tokenizer.action_space import ActionSpace
from tokenizer.state_schema import Entity, StateSchema
from train.data.inferred_state import infer_state
from train.data.recording_layout import ACTION, FRONT, SEGMENTATION, STATE, mend

_INFO = "meta/info.json"
_ROWS = 20_000  # steps after which enough is seen of how states change


def lerobot_source(text: str | Path, camera: str | None = None) -> Path:
    """The folder of a dataset: a folder, or what the Hugging Face hub has under ``owner/name``.

    Of several cameras only the one that is read is fetched. Raises ValueError where there is neither.
    """
    folder = Path(text).expanduser()
    if (folder / _INFO).is_file():
        return folder
    if folder.exists() or str(text).count("/") != 1:
        raise ValueError(f"no LeRobot dataset at {str(text)!r}: give a folder with {_INFO}, or owner/name on the hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    def fetch(*patterns: str) -> Path:
        return Path(snapshot_download(str(text), repo_type="dataset", allow_patterns=list(patterns)))

    try:
        folder = fetch("meta/*")
        known = folder / _INFO
        if not known.is_file():
            raise ValueError(f"{text} on the hub is no LeRobot dataset, for it has no {_INFO}: check the name")
        features = json.loads(known.read_text(encoding="utf-8"))["features"]
        return fetch("meta/*", "data/*", f"videos/{choose_camera(folder, features, camera)}/*")
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"no dataset {str(text)!r} on disk, and the hub did not give one ({type(error).__name__}): check the name "
            "and the network"
        ) from None


def pictures(column: pa.ChunkedArray, where: Path) -> np.ndarray:
    """A column of pictures as files (PNG, JPEG, …), uint8 (rows, h, w, 3). Raises ValueError for a broken one."""
    shown = []
    for row, cell in enumerate(column.to_pylist()):
        data = cell.get("bytes") if isinstance(cell, Mapping) else cell
        if not isinstance(data, bytes):
            raise ValueError(mend(where, f"row {row} holds no picture"))
        try:
            with Image.open(io.BytesIO(data)) as picture:
                shown.append(np.asarray(picture.convert("RGB")))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(mend(where, f"row {row}: {error}")) from error
    if len({picture.shape for picture in shown}) > 1:
        raise ValueError(mend(where, "its pictures are of several sizes"))
    return np.stack(shown)


def schema_of(path: Path, info: Mapping[str, Any], frames_per_step: int) -> StateSchema:
    """A schema for the folder at ``path``.

    With ``r`` frames a step the actions of all ``r`` are kept: a part is then called ``name.0`` to ``name.r-1``, by
    frame. The state of a step is that of its last frame.
    """
    features = info["features"]
    entities: tuple[Entity, ...] = ()
    if STATE in features:
        ends = [end[None] for end in _bounds(path, info, STATE)]  # each an episode of one row: its range, no changes
        entities = infer_state([*_some_states(path, frames_per_step), *ends], _names(features, STATE)).entities
    actions = _actions(path, info, frames_per_step) if ACTION in features else ActionSpace()
    fps = max(1, round(info["fps"]))
    return StateSchema(
        name=path.resolve().name, entities=entities, fps=fps, frames_per_step=frames_per_step, actions=actions
    )


def _some_states(path: Path, r: int) -> list[np.ndarray]:
    """States of some episodes, a row a step. Broken ones are left to whoever reads them."""
    found: list[np.ndarray] = []
    for file in sorted((path / "data").rglob("*.parquet")):
        try:
            table = pq.read_table(file, columns=[STATE, "episode_index"])
            values, whose = matrix(table[STATE]), table["episode_index"].to_numpy()
        except (OSError, KeyError, ValueError, pa.ArrowException):
            continue
        parts = np.split(values, np.flatnonzero(np.diff(whose)) + 1)
        found += [part[::r] for part in parts if len(part) and np.isfinite(part).all()]
        if sum(map(len, found)) >= _ROWS:
            break
    return found


def _actions(path: Path, info: Mapping[str, Any], r: int) -> ActionSpace:
    names = _names(info["features"], ACTION)
    if r > 1:
        names = [f"{name}.{frame}" for frame in range(r) for name in names]
    low, high = (np.tile(bound, r) for bound in _bounds(path, info, ACTION))
    if info["features"][ACTION]["dtype"].startswith(("int", "uint", "bool")):
        start = np.minimum(low, 0).astype(np.int64)
        counts = high.astype(np.int64) + 1 - start
        if len(names) == 1:
            return ActionSpace(spaces.Discrete(int(counts[0]), start=int(start[0])), names=names)
        return ActionSpace(spaces.MultiDiscrete(counts, start=start), names=names)
    wide = np.where(high > low, 0.0, 0.5)  # what never changed still needs a range
    box = spaces.Box((low - wide).astype(np.float32), (high + wide).astype(np.float32), dtype=np.float32)
    return ActionSpace(box, names=names)


def picture_size_of(feature: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of a camera, whose shape may be (C, H, W) or (H, W, C) and whose axes may have names."""
    shape, names = list(feature["shape"]), feature.get("names")
    if isinstance(names, Sequence) and len(names) == len(shape):
        sides = {str(name).lower(): side for name, side in zip(names, shape, strict=True)}
        if "height" in sides and "width" in sides:
            return int(sides["height"]), int(sides["width"])
    about = feature.get("info") or feature.get("video_info") or {}
    if "video.height" in about and "video.width" in about:
        return int(about["video.height"]), int(about["video.width"])
    if len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        return int(shape[1]), int(shape[2])
    return int(shape[0]), int(shape[1])


def choose_camera(path: Path, features: Mapping[str, Any], camera: str | None) -> str:
    """The key of one camera: the one that was asked for, the only one, or the front one.

    A camera may be called by the last part of its name. Raises ValueError, listing the cameras, where none fits.
    """
    cameras = [key for key, f in features.items() if f["dtype"] in ("video", "image") and key != SEGMENTATION]
    if not cameras:
        raise ValueError(f"{path} has no camera: only recordings with pictures, as video or as images, can be read")
    listed = ", ".join(cameras)
    if camera is not None:
        found = [key for key in cameras if camera in (key, key.rsplit(".", 1)[-1])]
        if len(found) != 1:
            raise ValueError(f"{path} has no camera {camera!r}: choose from {listed}")
        return found[0]
    if FRONT in cameras or len(cameras) == 1:
        return FRONT if FRONT in cameras else cameras[0]
    raise ValueError(f"{path} has {len(cameras)} cameras, {listed}: choose one with camera")


def matrix(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A column of numbers or of lists of as many numbers each, ``(rows, numbers)``."""
    rows = len(column)
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type) or pa.types.is_large_list(array.type):
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False).reshape(rows, -1)


def _names(features: Mapping[str, Any], key: str) -> list[str]:
    """One name for each number of a feature, all different."""
    names, size = features[key].get("names"), int(np.prod(features[key]["shape"]))
    while isinstance(names, Mapping):  # {"motors": [...]}
        names = next(iter(names.values()), None)
    if not isinstance(names, list) or len(names) != size:
        last = key.rsplit(".", 1)[-1]
        return [last] if size == 1 else [f"{last}.{i}" for i in range(size)]
    names = [str(name) for name in names]
    return [name if names.count(name) == 1 else f"{name}.{i}" for i, name in enumerate(names)]


def _bounds(path: Path, info: Mapping[str, Any], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest of each number of a feature, from the folder's statistics or else from its data."""
    size, known = int(np.prod(info["features"][key]["shape"])), path / "meta/stats.json"
    if known.exists():
        stats = json.loads(known.read_text(encoding="utf-8")).get(key, {})
        ends = [np.asarray(stats.get(name, []), dtype=np.float64).ravel() for name in ("min", "max")]
        if all(len(end) == size and np.isfinite(end).all() for end in ends):
            return ends[0], ends[1]
    lows, highs = [], []
    for file in sorted((path / "data").rglob("*.parquet")):
        try:
            values = matrix(pq.read_table(file, columns=[key])[key])
        except (OSError, pa.ArrowException) as error:
            raise ValueError(mend(file, error)) from error
        if not np.isfinite(values).all():
            raise ValueError(f"{file} has {key} that is no finite number: take those episodes out of the folder")
        lows.append(values.min(0))
        highs.append(values.max(0))
    if not lows:
        raise ValueError(f"{path} has neither meta/stats.json nor data files: copy it afresh from its source")
    return np.min(lows, 0).astype(np.float64), np.max(highs, 0).astype(np.float64)
