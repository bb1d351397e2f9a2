"""Minari datasets in and out."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tokenizer.action_space import ActionSpace
from tokenizer.clip import Episode
from tokenizer.state_schema import Entity, Field, StateSchema
from train.data.episode_store import EpisodeStore
from train.data.episode_writer import EpisodeWriter, RecordingConfig
from train.data.minari_source import as_rgb, is_picture
from train.export_minari import export_minari
from train.export_minari import main as export_main
from train.import_minari import main as import_main

minari = pytest.importorskip("minari")

STEPS, EPISODES = 5, 3
SEEN = spaces.Dict(mission=spaces.Text(20, charset="eintpru "), at=spaces.Box(-100, 100, (1,), np.float32))
ACTIONS = spaces.Dict(push=spaces.Box(-1, 1, (2,), np.float32), jump=spaces.Discrete(3))


class Dial(gymnasium.Env):
    """A number that is pushed; its picture's grey shows it. It can be seen but not observed, unless ``shown``."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012
    observation_space = SEEN
    action_space = ACTIONS

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode, self.at = render_mode, 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.at = float(self.np_random.integers(1, 9))
        return self.seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.at += float(action["push"][0]) + int(action["jump"])
        return self.seen(), self.at, False, False, {}

    def seen(self) -> dict[str, Any]:
        return {"mission": "turn it up", "at": np.array([self.at], np.float32)}

    def render(self) -> np.ndarray:
        return np.full((24, 40, 3), grey_of(self.at), np.uint8)


def grey_of(at: float) -> int:
    return int(20 + 5 * at)


@pytest.fixture(autouse=True)
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    module = ModuleType("a_dial")
    module.Dial = Dial  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_dial", module)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def record(
    name: str, *, seeds: bool = True, spoilt: tuple[int, ...] = (), pictures: str = "", env: bool = True
) -> None:
    """A dataset of the dial, in Minari's own way. Observations of ``spoilt`` episodes are not what happens."""
    from gymnasium.envs.registration import EnvSpec
    from minari.data_collector import EpisodeBuffer

    dial, buffers, rng = Dial("rgb_array"), [], np.random.default_rng(0)
    for index in range(EPISODES):
        seen, shown, actions, rewards = [dial.reset(seed=index)[0]], [dial.render()], [], []
        for _ in range(STEPS):
            actions.append({"push": rng.uniform(-1, 1, 2).astype(np.float32), "jump": int(rng.integers(3))})
            observation, reward, *_ = dial.step(actions[-1])
            seen.append(observation)
            shown.append(dial.render())
            rewards.append(reward)
        at = np.stack([o["at"] for o in seen])
        observations: dict[str, Any] = {"mission": [o["mission"] for o in seen], "at": at + (index in spoilt)}
        if pictures:
            observations[pictures] = np.stack(shown)
        buffers.append(
            EpisodeBuffer(
                seed=index if seeds else None,
                observations=observations,
                actions={key: [action[key] for action in actions] for key in ("push", "jump")},
                rewards=rewards,
                terminations=[False] * (STEPS - 1) + [index == 0],
                truncations=[False] * (STEPS - 1) + [index > 0],
                infos={},
            )
        )
    space = dict(SEEN.items()) | ({pictures: spaces.Box(0, 255, (24, 40, 3), np.uint8)} if pictures else {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nobody is named as the author, and the like
        minari.create_dataset_from_buffers(
            name,
            buffers,
            env=EnvSpec("Dial-v0", "a_dial:Dial") if env else None,
            observation_space=spaces.Dict(space),
            action_space=ACTIONS,
            jpeg_encoding=False,
        )


def taken_in(name: str, tmp_path: Path, *more: str) -> EpisodeStore:
    given = [name, "--out", str(tmp_path / "recording"), "--workers", "1", *more]
    assert import_main(given) == 0
    return EpisodeStore(tmp_path / "recording")


def greys(episode: Episode) -> list[int]:
    return episode.frames[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("pictures", ["", "view"])
def test_a_dataset_becomes_a_recording_by_its_pictures_or_played_again(pictures: str, tmp_path: Path) -> None:
    record("dials/turned-v0", pictures=pictures)
    store = taken_in("dials/turned-v0", tmp_path, "--state", "none")
    dataset = minari.load_dataset("dials/turned-v0")
    assert len(store) == EPISODES
    assert (store.size, store.schema.name) == ((24, 40), "turned-v0")
    assert store.schema.fps == (30 if pictures else 12)  # an environment that is not needed is not asked
    assert [part.name for part in store.schema.actions.parts] == ["jump", "push.0", "push.1"]
    for index in range(EPISODES):
        read, recorded = store.read(index), dataset[index]
        assert greys(read) == [grey_of(at) for at in recorded.observations["at"][:, 0]]
        assert read.caption == "turn it up"
        assert read.seed == index
        assert read.actions is not None
        assert read.rewards is not None
        assert read.terminated is not None
        assert np.allclose(read.actions[:, 1:], recorded.actions["push"])
        assert np.array_equal(read.actions[:, 0], recorded.actions["jump"])
        assert np.allclose(read.rewards, recorded.rewards)
        assert (read.terminated[-1], read.truncated) == (index == 0, index > 0)


def test_pictures_come_to_the_size_that_was_asked_for(tmp_path: Path) -> None:
    record("dial-v0", pictures="view")
    assert taken_in("dial-v0", tmp_path, "--state", "none", "--resolution", "16x16", "--fit", "letterbox").size == (
        16,
        16,
    )


def test_an_episode_that_does_not_come_out_as_recorded_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record("dial-v0", spoilt=(1,))
    store = taken_in("dial-v0", tmp_path, "--state", "none")
    said = capsys.readouterr().out
    assert "left out episode 1: what is observed after 0 steps differs" in said
    assert "2 episodes of 24x40 pictures, 1 left out" in said
    assert [store.read(i).seed for i in range(len(store))] == [0, 2]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            {"spoilt": (0, 1, 2)},
            "its first episode doesn't come out as recorded (what is observed after 0 steps differs)",
        ),
        ({"seeds": False}, "its first episode doesn't come out as recorded (no seed was recorded)"),
        ({"env": False}, "for the dataset doesn't say which it is: a world is learned from pictures"),
    ],
)
def test_without_pictures_nothing_is_imported_and_one_sentence_says_why(
    how: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record("dial-v0", **how)
    assert import_main(["dial-v0", "--out", str(tmp_path / "recording")]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "recording").exists()


def test_an_environment_that_is_gone_is_told_with_what_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record("dial-v0")
    monkeypatch.delitem(sys.modules, "a_dial")
    assert import_main(["dial-v0", "--out", str(tmp_path / "recording")]) == 1
    assert "cannot be played again (No module named 'a_dial'): install what it needs" in capsys.readouterr().err


def test_a_killed_import_goes_on_and_another_dataset_does_not_go_into_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record("dial-v0", pictures="view")
    store = taken_in("dial-v0", tmp_path, "--state", "none")
    video = next(store.path.rglob("*.mp4"))
    video.unlink()
    again = taken_in("dial-v0", tmp_path, "--state", "none")
    assert greys(again.read(2)) == greys(EpisodeStore(store.path).read(2))
    assert video.exists()
    record("other-v0", pictures="view")
    assert import_main(["other-v0", "--state", "none", "--out", str(store.path), "--workers", "1"]) == 1
    assert "choose another folder" in capsys.readouterr().err


def test_a_dataset_is_found_by_its_folder_and_what_is_none_is_refused(
    datasets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record("dial-v0", pictures="view")
    assert len(taken_in(str(datasets / "dial-v0"), tmp_path, "--state", "none")) == EPISODES
    assert import_main([str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "the folder has no data/metadata.json): check the id, or give a folder" in capsys.readouterr().err


def test_what_is_a_picture_is_told_by_type_and_size() -> None:
    assert is_picture(spaces.Box(0, 255, (3, 24, 40), np.uint8))
    assert is_picture(spaces.Box(0, 255, (24, 40), np.uint8))
    assert not is_picture(spaces.Box(0, 255, (7, 7, 3), np.uint8))  # symbols
    assert not is_picture(spaces.Box(0, 1, (24, 40, 3), np.float32))
    assert not is_picture(spaces.Discrete(3))
    for shape in ((2, 24, 40), (2, 24, 40, 1), (2, 3, 24, 40), (2, 4, 24, 40), (2, 24, 40, 4)):
        assert as_rgb(np.zeros(shape, np.uint8)).shape == (2, 24, 40, 3)


# -- out ------------------------------------------------------------------------------------------------


def recording(path: Path, actions: Any, *, state: bool = False) -> tuple[EpisodeStore, list[Episode]]:
    entities = (
        Entity(name="dial", fields=(Field(name="at", kind="continuous", role="value", low=0, high=9, bins=8),)),
    )
    schema = StateSchema(name="dials", fps=24, frames_per_step=2, actions=actions, entities=entities if state else ())
    writer, rng = (
        EpisodeWriter(path, RecordingConfig(schema=schema, size=(16, 24), settings={})),
        np.random.default_rng(0),
    )
    episodes = []
    with writer.shard(0) as shard:
        for index in range(2):
            values = schema.actions.sample(STEPS).numpy() if schema.actions else None
            episode = Episode(
                frames=rng.integers(0, 256, (1 + 2 * STEPS, 16, 24, 3), np.uint8),
                actions=values,
                states=rng.uniform(0, 9, (1 + STEPS, 1)).astype(np.float32) if state else None,
                caption="turn it up" if index else "",
                rewards=rng.normal(size=STEPS).astype(np.float32),
                terminated=np.arange(STEPS) == STEPS - 1 if index else np.zeros(STEPS, bool),
                seed=7 + index,
                frames_per_step=2,
                truncated=not index,
            )
            shard.add(index, episode, "train")
            episodes.append(episode)
    writer.consolidate()
    return EpisodeStore(path), episodes


def test_a_recording_is_a_dataset_that_minari_loads_bit_for_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, episodes = recording(tmp_path / "recording", ActionSpace(ACTIONS), state=True)
    assert export_main(["--recording", str(store.path), "--id", "our/dials-v1"]) == 0
    assert "2 episodes; minari.load_dataset('our/dials-v1') reads it" in capsys.readouterr().out
    dataset = minari.load_dataset("our/dials-v1")
    assert dataset.action_space == ACTIONS
    assert (len(dataset), dataset.total_steps) == (2, 2 * STEPS)
    for index, episode in enumerate(episodes):
        found = dataset[index]
        assert np.array_equal(found.observations["pixels"], episode.frames[::2])
        assert episode.states is not None
        assert np.array_equal(found.observations["state"], episode.states)
        assert episode.rewards is not None
        assert np.allclose(found.rewards, episode.rewards)
        assert found.terminations.tolist() == [False] * (STEPS - 1) + [index == 1]
        assert found.truncations.tolist() == [False] * (STEPS - 1) + [index == 0]
        assert episode.actions is not None
        assert np.allclose(found.actions["push"], episode.actions[:, :2])
        assert np.array_equal(found.actions["jump"], episode.actions[:, 2])
        assert all(dataset.action_space.contains({k: v[0] for k, v in found.actions.items()}) for _ in found.rewards)


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    store, episodes = recording(tmp_path / "ours", ("stay", "left", "right"))
    export_minari(store, "dials-v0")
    back = taken_in("dials-v0", tmp_path)
    assert back.schema.fps == 12  # a step is a frame now
    assert len(back.schema.actions.parts) == 1
    for index, episode in enumerate(episodes):
        read = back.read(index)
        assert np.array_equal(read.frames, episode.frames[::2])
        assert read.actions is not None
        assert episode.actions is not None
        assert np.array_equal(read.actions, episode.actions)
        assert (read.caption, read.seed, read.truncated) == (episode.caption, episode.seed, episode.truncated)


def test_an_export_is_whole_or_not_there(
    datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, _ = recording(tmp_path / "recording", ("stay", "go"))
    with monkeypatch.context() as broken:
        broken.setattr(EpisodeStore, "read", lambda *_, **__: (_ for _ in ()).throw(ValueError("torn")))
        assert export_main(["--recording", str(store.path), "--id", "dials-v0"]) == 1
    assert not list(datasets.iterdir())
    export_minari(store, "dials-v0")
    capsys.readouterr()
    for name, said in (("dials-v0", "take another name, or a higher version"), ("a b", "write it as name-v0")):
        assert export_main(["--recording", str(store.path), "--id", name]) == 1
        assert said in capsys.readouterr().err
    metadata = json.loads((datasets / "dials-v0/data/metadata.json").read_text(encoding="utf-8"))
    assert metadata["total_episodes"] == 2


def test_a_recording_without_actions_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, _ = recording(tmp_path / "recording", ())
    assert export_main(["--recording", str(store.path), "--id", "film-v0"]) == 1
    assert "has no actions, and a Minari dataset holds what was done" in capsys.readouterr().err
