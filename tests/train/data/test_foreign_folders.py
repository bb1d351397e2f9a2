"""Reading LeRobotDataset v3 folders that others wrote."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from foreign_folder import HEIGHT, JOINTS, LENGTHS, MOTORS, WIDTH, action_of, grey_of, state_of, write_folder

from tokenizer.clip import Episode
from train.data.clips import ClipDataset
from train.data.episode_store import EpisodeStore
from train.data.lerobot_folder import lerobot_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("arm"))


def assert_frames_are(read: Episode, episode: int, count: int) -> None:
    """Lossy pictures tell their time to within a level or two; neighbours are five apart."""
    wanted = np.array([grey_of(episode, t) for t in range(count)])
    assert len(read.frames) == count
    assert np.abs(read.frames.mean((1, 2, 3)) - wanted).max() < 2


def test_an_episode_in_the_middle_of_a_file_is_its_own_frames_actions_and_states(folder: Path) -> None:
    store = EpisodeStore(folder)
    assert store.size == (HEIGHT, WIDTH)
    assert len(store) == len(LENGTHS)
    for episode, length in enumerate(LENGTHS):
        read = store.read(episode)
        assert_frames_are(read, episode, length)
        assert read.actions is not None
        assert read.states is not None
        assert np.allclose(read.actions, [action_of(episode, t) for t in range(length - 1)])
        assert np.allclose(read.states, [state_of(episode, t) for t in range(length)])
        assert read.caption == f"pick {episode % 2}"
        assert read.rewards is None
        assert read.terminated is None


def test_vectors_keep_their_names_and_the_bounds_of_the_statistics(folder: Path) -> None:
    schema = EpisodeStore(folder).schema
    assert [part.name for part in schema.actions.parts] == MOTORS
    assert np.allclose([(p.low, p.high) for p in schema.actions.parts], [(0, 2.09), (-1.1, 0)])
    fields = schema.entities[0].fields
    assert [f.name for f in fields] == JOINTS
    assert {f.role for f in fields} == {"value"}
    assert all(f.low < 0.5 < f.high for f in fields[1:2])  # a joint that never moved still has a range
    assert fields[2].low < -55 < 0 < fields[2].high
    assert fields[0].change is not None
    assert 0.1 < fields[0].change < 0.2  # it moves by 0.1 a row
    read = EpisodeStore(folder).read(1)
    assert schema.actions.values_to_ids(read.actions).shape == (LENGTHS[1] - 1, 2)


def test_bounds_come_from_the_data_where_there_are_no_statistics(folder: Path, tmp_path: Path) -> None:
    without = EpisodeStore(write_folder(tmp_path / folder.name, stats=False)).schema
    assert without.actions == EpisodeStore(folder).schema.actions


def test_numbers_without_names_are_counted(tmp_path: Path) -> None:
    schema = EpisodeStore(write_folder(tmp_path, named=False)).schema
    assert [part.name for part in schema.actions.parts] == ["action.0", "action.1"]
    assert [f.name for f in schema.entities[0].fields] == ["state.0", "state.1", "state.2"]


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("shape_names", [True, False])
def test_shapes_are_read_either_way_round(tmp_path: Path, channels_first: bool, shape_names: bool) -> None:
    store = EpisodeStore(write_folder(tmp_path, channels_first=channels_first, shape_names=shape_names))
    assert store.size == (HEIGHT, WIDTH)
    assert store.read(0, (16, 24)).frames.shape == (LENGTHS[0], 16, 24, 3)


def test_one_of_several_cameras_is_chosen(tmp_path: Path) -> None:
    wrist, top = "observation.images.wrist", "observation.images.top"
    write_folder(tmp_path / "two", cameras=(wrist, top))
    with pytest.raises(ValueError, match=f"2 cameras, {wrist}, {top}: choose one"):
        EpisodeStore(tmp_path / "two")
    with pytest.raises(ValueError, match=f"no camera 'side': choose from {wrist}, {top}"):
        EpisodeStore(tmp_path / "two", camera="side")
    for called in ("top", top):
        store = EpisodeStore(tmp_path / "two", camera=called)
        assert store.camera == top
        assert_frames_are(store.read(1), 1, LENGTHS[1])
    assert EpisodeStore(write_folder(tmp_path / "one", cameras=(wrist,))).camera == wrist


def test_every_frames_action_is_kept_whatever_the_frames_of_a_step(folder: Path) -> None:
    store = EpisodeStore(folder, frames_per_step=4)
    assert [part.name for part in store.schema.actions.parts] == [f"{m}.{i}" for i in range(4) for m in MOTORS]
    read = store.read(1)  # 12 frames are 1 + 2 * 4 and 3 over
    assert_frames_are(read, 1, 9)
    assert read.actions is not None
    assert read.states is not None
    assert np.allclose(read.actions.reshape(8, 2), [action_of(1, t) for t in range(8)])
    assert np.allclose(read.states, [state_of(1, t) for t in (0, 4, 8)])
    assert ClipDataset(store, num_steps=1, resolution=(32, 48))[0]["actions"].shape == (1, 8)


@pytest.mark.parametrize("which", ["jitter", "row_jitter"])
def test_clocks_that_jitter_by_8_ms_lose_no_frame_and_take_none_twice(tmp_path: Path, which: str) -> None:
    options: dict[str, Any] = {which: 0.008}
    store = EpisodeStore(write_folder(tmp_path, **options))
    for episode, length in enumerate(LENGTHS):
        assert_frames_are(store.read(episode), episode, length)


def test_a_step_whose_last_frame_is_missing_is_dropped_and_the_next_episode_stays_in_place(tmp_path: Path) -> None:
    store = EpisodeStore(write_folder(tmp_path, short_of_a_frame=(0, 2)))
    for episode, count in ((0, LENGTHS[0] - 1), (1, LENGTHS[1]), (2, LENGTHS[2] - 1)):
        read = store.read(episode)
        assert_frames_are(read, episode, count)
        assert read.actions is not None
        assert read.states is not None
        assert len(read.actions) == count - 1
        assert np.allclose(read.states, [state_of(episode, t) for t in range(count)])
        assert store.num_frames(episode) == count


def test_a_window_stays_within_a_video_that_is_shorter_than_its_index_says(tmp_path: Path) -> None:
    write_folder(tmp_path, short_of_a_frame=(0, 1, 2))
    index = tmp_path / "meta/episodes/chunk-000/file-000.parquet"
    rows = pq.read_table(index).to_pylist()
    for row in rows:
        for camera in ("front", "top"):
            key = f"videos/observation.images.{camera}"
            row[f"{key}/to_timestamp"] = row[f"{key}/from_timestamp"] + row["length"] / 30
    pq.write_table(pq.read_table(index).schema.empty_table().from_pylist(rows), index)
    store = EpisodeStore(tmp_path)
    assert store.num_frames(2) == LENGTHS[2]
    clips = ClipDataset(store, num_steps=LENGTHS[2] - 2, resolution=(32, 48))
    for draw in range(12):
        assert len(clips[draw]["frames"]) == LENGTHS[2] - 1


def test_a_missing_middle_is_a_broken_file(folder: Path, tmp_path: Path) -> None:
    from foreign_folder import write_video

    write_folder(tmp_path)
    video = tmp_path / "videos/observation.images.front/chunk-000/file-001.mp4"
    times = [t / 30 for t in range(LENGTHS[2]) if t not in (4, 5)]
    write_video(video, [grey_of(2, t) for t in range(LENGTHS[2]) if t not in (4, 5)], times)
    with pytest.raises(ValueError, match=r"file-001.mp4 is broken or missing \(8 of 10 frames of episode 2\)"):
        EpisodeStore(tmp_path).read(2)


def test_nobody_marked_validation_so_an_episode_is_kept_for_it(folder: Path) -> None:
    store = EpisodeStore(folder)
    assert len(store.split("validation")) == 1
    assert sorted(store.split("train") + store.split("validation")) == [0, 1, 2]
    assert store.has_captions


def test_rewards_and_ends_of_the_layout_are_read_and_whole_numbers_are_choices(tmp_path: Path) -> None:
    write_folder(tmp_path)
    info = json.loads((tmp_path / "meta/info.json").read_text(encoding="utf-8"))
    for name, kind in (("next.reward", "float32"), ("next.done", "bool"), ("action", "int64")):
        info["features"][name] = {"dtype": kind, "shape": [1], "names": None}
    (tmp_path / "meta/info.json").write_text(json.dumps(info), encoding="utf-8")
    (tmp_path / "meta/stats.json").unlink()
    for file in (tmp_path / "data").rglob("*.parquet"):
        table = pq.read_table(file)
        frame = table["frame_index"].to_numpy()
        table = table.set_column(0, "action", pa.array(frame % 3))
        table = table.append_column("next.reward", pa.array((frame / 2).astype(np.float32)))
        pq.write_table(table.append_column("next.done", pa.array(frame == 4)), file)
    store = EpisodeStore(tmp_path, frames_per_step=2)
    assert [(part.kind, part.count) for part in store.schema.actions.parts] == [("choice", 3)] * 2
    read = store.read(0)
    assert read.actions is not None
    assert read.rewards is not None
    assert read.terminated is not None
    assert read.actions.dtype == np.int64
    assert read.actions.tolist() == [[0, 1], [2, 0], [1, 2], [0, 1]]
    assert read.rewards.tolist() == [0.5, 2.5, 4.5, 6.5]
    assert read.terminated.tolist() == [False, False, True, False]


def test_an_own_recording_keeps_the_frames_of_its_steps(tmp_path: Path, folder: Path) -> None:
    from train.data.episode_writer import EpisodeWriter, RecordingConfig

    schema = EpisodeStore(folder).schema
    store, writer = (
        EpisodeStore(folder),
        EpisodeWriter(
            tmp_path, RecordingConfig(schema=schema, size=(HEIGHT, WIDTH), settings={"from": "another folder"})
        ),
    )
    with writer.shard(0) as shard:
        for index in range(len(store)):
            shard.add(index, store.read(index), "train")
    writer.consolidate()
    ours = EpisodeStore(tmp_path)
    assert ours.schema == schema
    for name in ("frames", "actions", "states"):
        assert np.array_equal(getattr(ours.read(1), name), getattr(store.read(1), name))
    with pytest.raises(ValueError, match="recorded with 1 frames a step, not 4"):
        EpisodeStore(tmp_path, frames_per_step=4)


def test_numbers_that_are_none_and_columns_that_are_missing_are_told(tmp_path: Path) -> None:
    file = write_folder(tmp_path) / "data/chunk-000/file-001.parquet"
    table = pq.read_table(file)
    states = table["observation.state"].to_pylist()
    states[3][1] = float("nan")
    place = table.schema.get_field_index("observation.state")
    kind = table.schema.field("observation.state").type
    pq.write_table(table.set_column(place, "observation.state", [states]).cast(table.schema), file)
    assert pq.read_table(file)["observation.state"].type == kind
    EpisodeStore(tmp_path).read(0)
    with pytest.raises(ValueError, match=r"episode 2 of .* has observation.state that is no finite number: leave"):
        EpisodeStore(tmp_path).read(2)
    pq.write_table(table.drop_columns(["action"]), file)
    with pytest.raises(ValueError, match=r"file-001.parquet is broken or missing \(it has no column action\)"):
        EpisodeStore(tmp_path).read(2)
    (tmp_path / "meta/info.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"info\.json is broken or missing"):
        EpisodeStore(tmp_path)


def test_cameras_whose_pictures_are_images_in_the_table_are_read(tmp_path: Path) -> None:
    store = EpisodeStore(write_folder(tmp_path, stills=True), camera="top")
    assert store.size == (HEIGHT, WIDTH)
    for episode, length in enumerate(LENGTHS):
        read = store.read(episode)
        assert read.frames[:, 0, 0, 0].tolist() == [grey_of(episode, t) for t in range(length)]
        assert store.num_frames(episode) == length
        assert read.states is not None
        assert np.allclose(read.states, [state_of(episode, t) for t in range(length)])
    assert store.read(0, (16, 24)).frames.shape == (LENGTHS[0], 16, 24, 3)


def test_a_cell_without_a_picture_is_a_broken_file(tmp_path: Path) -> None:
    file = write_folder(tmp_path, cameras=["eye"], stills=True) / "data/chunk-000/file-001.parquet"
    table = pq.read_table(file)
    cells = table["eye"].to_pylist()
    place, kind = table.schema.get_field_index("eye"), table.schema.field("eye").type
    for spoilt, said in ((None, "row 3 holds no picture"), (b"no picture", "row 3: cannot identify")):
        cells[3] = {"bytes": spoilt, "path": None}
        pq.write_table(table.set_column(place, "eye", pa.array(cells, kind)), file)
        with pytest.raises(ValueError, match=rf"file-001.parquet is broken or missing \({said}"):
            EpisodeStore(tmp_path).read(2)


def test_a_dataset_on_the_hub_is_fetched_with_one_of_its_cameras(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = write_folder(tmp_path / "arm", cameras=["eyes.left", "eyes.top"]), []

    def download(name: str, *, repo_type: str, allow_patterns: list[str]) -> str:
        asked.append((name, repo_type, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert lerobot_source(folder) == folder
    assert not asked
    assert lerobot_source("somebody/arm", "top") == folder
    patterns = ["meta/*", "data/*", "videos/eyes.top/*"]
    assert asked == [("somebody/arm", "dataset", ["meta/*"]), ("somebody/arm", "dataset", patterns)]
    with pytest.raises(ValueError, match=r"has 2 cameras, eyes\.left, eyes\.top: choose one with camera"):
        lerobot_source("somebody/arm")
    (folder / "meta/info.json").unlink()
    with pytest.raises(ValueError, match=r"somebody/arm on the hub is no LeRobot dataset, for it has no meta"):
        lerobot_source("somebody/arm")


def test_no_dataset_on_disk_or_on_the_hub_is_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def download(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(ValueError, match=r"the hub did not give one \(LocalEntryNotFoundError\): check the name"):
        lerobot_source("somebody/arm")
    with pytest.raises(ValueError, match=r"no LeRobot dataset at .*: give a folder with meta/info\.json"):
        lerobot_source(tmp_path)
