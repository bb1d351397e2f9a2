import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tokenizer.clip import Episode, halve
from tokenizer.state_schema import Entity, Field, StateSchema
from train.data.episode_store import EpisodeStore
from train.data.episode_writer import DiskFullError, EpisodeWriter, RecordingConfig, ShardWriter
from train.data.recording_layout import FRONT
from train.record import record
from train.worlds.play import draw_episode, split_of
from train.worlds.registry import recipe

SCHEMA = StateSchema(
    name="noise",
    entities=(Entity(name="dot", fields=(Field(name="x", kind="continuous", role="position", size=2),)),),
    actions=("none", "push"),
)


def _config(**settings: int) -> RecordingConfig:
    return RecordingConfig(schema=SCHEMA, size=32, segmentation=16, settings=settings)


def _noise(index: int, num_steps: int = 3) -> Episode:
    rng = np.random.default_rng(index)
    length = 1 + 4 * num_steps
    return Episode(
        frames=rng.integers(0, 256, (length, 32, 32, 3), dtype=np.uint8),
        actions=rng.integers(0, 2, (num_steps, 1)),
        states=rng.random((1 + num_steps, 2), dtype=np.float32),
        caption=f"noise {index % 2}",
        segmentation=rng.integers(0, 9, (length, 16, 16), dtype=np.uint8),
        seed=index,
        behaviour="random",
    )


def assert_same(one: Episode, other: Episode) -> None:
    for name in ("frames", "actions", "states", "segmentation"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    for name in ("caption", "seed", "behaviour", "frames_per_step"):
        assert getattr(one, name) == getattr(other, name)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    writer = EpisodeWriter(tmp_path / "noise", _config())
    for number, indices in enumerate(((0, 1, 2), (3, 4))):
        with writer.shard(number) as shard:
            for index in indices:
                shard.add(index, _noise(index, 2 + index), {3: "validation", 4: "test"}.get(index, "train"))
    assert writer.consolidate() == 5
    return tmp_path / "noise"


def test_episodes_come_back_bit_for_bit(recording: Path) -> None:
    store = EpisodeStore(recording)
    assert len(store) == 5
    assert store.split("train") == [0, 1, 2]
    assert store.split("validation") == [3]
    assert store.split("test") == [4]
    assert store.schema == SCHEMA
    for index in (4, 1, 0, 3, 2):
        wrote, read = _noise(index, 2 + index), store.read(index, segmentation=True)
        assert_same(wrote, read)
        assert np.array_equal(store.read(index, resolution=16).frames, halve(wrote.frames))


def test_the_layout_is_lerobots(recording: Path) -> None:
    info = json.loads((recording / "meta/info.json").read_text(encoding="utf-8"))
    assert info["codebase_version"] == "v3.0"
    assert info["total_episodes"] == 5
    assert info["fps"] == 60
    rows = pq.read_table(recording / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["length"] for row in rows] == [9, 13, 17, 21, 25]
    assert rows[3][f"videos/{FRONT}/from_timestamp"] == 0
    tables = [pq.read_table(path) for path in sorted((recording / "data").rglob("*.parquet"))]
    assert np.concatenate([t["index"].to_numpy() for t in tables]).tolist() == list(range(info["total_frames"]))
    assert set(info["features"]) - {FRONT, "observation.segmentation"} == set(tables[0].column_names)
    assert pq.read_table(recording / "meta/tasks.parquet").to_pydict()["task"] == ["noise 0", "noise 1"]


def test_tasks_are_found_by_their_words_as_lerobot_looks_them_up(recording: Path) -> None:
    pandas = pytest.importorskip("pandas")
    tasks = pandas.read_parquet(recording / "meta/tasks.parquet")
    assert tasks.loc["noise 1"].task_index == 1
    assert tasks.iloc[0].name == "noise 0"


def test_a_broken_video_is_named_with_its_mend(recording: Path) -> None:
    video = recording / f"videos/{FRONT}/chunk-000/file-000.mp4"
    whole = video.read_bytes()
    for broken in (whole[: len(whole) // 2], b"not a video", None):
        video.unlink()
        if broken is not None:
            video.write_bytes(broken)
        with pytest.raises(ValueError, match=r"file-000\.mp4 is broken or missing .* delete it and run"):
            EpisodeStore(recording).read(1)
        if broken is None:
            assert EpisodeWriter(recording, _config()).shard_episodes(0) is None


def test_a_full_disk_keeps_whole_shards_and_says_so(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.data.episode_writer._ENOUGH_SPACE", 2**62)
    with pytest.raises(DiskFullError, match="full: free some space and run the same command again"):
        ShardWriter(EpisodeWriter(recording, _config()), 2).__enter__()
    assert not list(recording.rglob("*.part"))
    assert len(EpisodeStore(recording)) == 5


def test_an_interrupted_shard_leaves_nothing(recording: Path) -> None:
    writer = EpisodeWriter(recording, _config())

    def interrupted() -> None:
        with writer.shard(2) as shard:
            shard.add(5, _noise(5), "train")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert not list(recording.rglob("*.part"))
    assert writer.shard_episodes(2) is None


def test_other_settings_and_missing_things_are_refused_with_a_sentence(recording: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose another folder"):
        EpisodeWriter(recording, _config(seed=1))
    with pytest.raises(ValueError, match="no recording at"):
        EpisodeStore(tmp_path / "nothing")
    EpisodeWriter(tmp_path / "begun", _config())
    with pytest.raises(ValueError, match="isn't finished"):
        EpisodeStore(tmp_path / "begun")
    store = EpisodeStore(recording)
    for wrong, sentence in (
        (lambda: store.read(9), "0 to 4"),
        (lambda: store.read(0, (32, 48)), "32x32 .* another aspect than 32x48: choose fit crop"),
    ):
        with pytest.raises(ValueError, match=sentence):
            wrong()
    with pytest.raises(ValueError, match="train, validation, test"):
        store.split("dev")


def test_episodes_are_drawn_and_split_by_seed_and_index_alone() -> None:
    world = recipe("tabletop")
    assert draw_episode(world, 0, 7) == draw_episode(world, 0, 7) != draw_episode(world, 1, 7)
    splits = [split_of(0, i) for i in range(2000)]
    assert 0.87 < splits.count("train") / 2000 < 0.93
    assert 60 < splits.count("test") < 140


@pytest.fixture
def renderer() -> None:
    from train.worlds.tabletop.simulator import Tabletop

    try:
        Tabletop().close()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.usefixtures("renderer")
def test_a_killed_recording_goes_on_without_losing_or_repeating_an_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, count = tmp_path / "killed", 24
    command = [
        sys.executable,
        "-m",
        "train.record",
        "--world",
        "tabletop",
        "--out",
        str(out),
        "--episodes",
        str(count),
        "--steps",
        "2",
    ]
    command += ["--workers", "1", "--resolution", "64"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    first = out / "data/chunk-000/file-000.parquet"
    deadline = time.monotonic() + 90
    while not first.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert first.exists()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    store = EpisodeStore(out)
    assert len(store) == count
    assert not list(out.rglob("*.part"))
    record(tmp_path / "whole", count, world="tabletop", workers=1, num_steps=2, resolution=64)
    whole = EpisodeStore(tmp_path / "whole")
    for index in (0, 15, 16, 23):
        again = store.read(index, segmentation=True)
        assert again.seed == draw_episode(recipe("tabletop"), 0, index)[0]
        assert_same(again, whole.read(index, segmentation=True))
