"""Stories, films made of them, and their files."""

from __future__ import annotations

import errno
import io
import json
from contextlib import nullcontext, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import pytest
import torch

from worldmodel import generate
from worldmodel.film import Film, FilmLog, write
from worldmodel.story import Shot, Story
from worldmodel.video_file import VideoWriter, read_clip
from worldmodel.world import World

from .tiny_world import STATELESS, UNSTEERED, tiny_world

WORLD = tiny_world()
STEP = 2 / 60  # seconds of PLANE's steps


def story(*shots: Shot) -> Story:
    return Story(shots=shots)


def pictures(path: Path, *, broken: bool = False) -> list[np.ndarray]:
    """All of them; of one that is ``broken`` off, as far as it goes."""
    found: list[np.ndarray] = []
    with suppress(av.error.InvalidDataError) if broken else nullcontext(), av.open(str(path)) as container:
        for frame in container.decode(video=0):
            found.append(frame.to_ndarray(format="rgb24"))
    return found


def test_a_film_is_what_its_rollout_shows():
    shots = (
        Shot(seconds=2 * STEP, prompt="two bodies", actions=(("left", STEP),), action="right"),
        Shot(seconds=2 * STEP, action="idle", edit={"ball": {"position": (0.1, 0.2)}}),
        Shot(seconds=STEP, prompt="a blue player", action="idle"),
    )
    steps = list(Film(WORLD, story(*shots), seed=5))
    rollout = WORLD.start("two bodies", seed=5)
    shown = [rollout.frames[0]]
    for action in ("left", "right"):
        shown.append(rollout.step(action).frames[0])
    rollout.edit({"ball": {"position": (0.1, 0.2)}})
    for _ in range(2):
        shown.append(rollout.step("none").frames[0])
    rollout = WORLD.start("a blue player", seed=5 + 2)
    shown.append(rollout.step("none").frames[0])
    assert np.array_equal(np.concatenate([step.frames for step in steps]), torch.cat(shown).numpy())
    assert [step.shot for step in steps] == [0, 0, 1, 1, 2]


def test_what_is_held_is_let_go_with_its_shot():
    held = {"episode": {"doors": (1, 0, 1)}}
    film = Film(WORLD, story(Shot(seconds=3 * STEP, hold=held), Shot(seconds=8 * STEP)), seed=1)
    columns = WORLD.schema.columns("episode", "doors")
    doors = torch.stack([step.state[columns] for step in film])
    assert (doors[:3] == torch.tensor([1.0, 0, 1])).all()
    assert (doors[3:] != torch.tensor([1.0, 0, 1])).any()


def test_a_dissolve_fades_from_what_would_have_followed():
    cut = Shot(seconds=4 * STEP, prompt="a blue player", action="idle")
    faded = Shot(seconds=4 * STEP, prompt="a blue player", action="idle", dissolve=3 * STEP)
    before = Shot(seconds=STEP, prompt="two bodies", action="idle")
    longer = Shot(seconds=5 * STEP, prompt="two bodies", action="idle")
    plain, mixed, on = (
        np.stack([s.frames for s in Film(WORLD, story(*shots), seed=3)][1:]).astype(float)
        for shots in ((before, cut), (before, faded), (longer,))
    )
    assert np.array_equal(mixed[3], plain[3])
    share = np.arange(1, 7).reshape(3, 2, 1, 1, 1) / 8
    assert np.abs(mixed[:3] - (share * plain[:3] + (1 - share) * on[:3])).max() <= 0.5


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ([], "a story is a list"),
        ({"shots": []}, "at least one shot"),
        ({"shots": [{"seconds": 1}], "title": "x"}, "knows no title"),
        ({"shots": ["x"]}, "shot 1 is 'x'"),
        ({"shots": [{"prompt": "x"}]}, "shot 1 says no seconds"),
        ({"shots": [{"seconds": 1, "promt": "x"}]}, "did you mean 'prompt'"),
        ({"shots": [{"seconds": -1}]}, "shot 1: seconds is -1"),
        ({"shots": [{"seconds": True}]}, "shot 1: seconds is True"),
        ({"shots": [{"seconds": 1, "dissolve": 1}]}, "let it be shorter"),
        ({"shots": [{"seconds": 1, "hold": "x"}]}, "hold is {entity"),
        ({"shots": [{"seconds": 1, "tell": 3}]}, "tell is a text"),
        ({"shots": [{"seconds": 1, "actions": ["left"]}]}, "pairs of an action"),
        ({"shots": [{"seconds": 1, "actions": 5}]}, "pairs of an action"),
        ({"shots": [{"seconds": 1, "motion": "fast"}]}, "motion is 'fast'"),
        ({"shots": [{"seconds": 1, "camera_of": 1}]}, "camera of shot 1"),
        ({"shots": [{"seconds": 1}, {"seconds": 1, "prompt": "x"}, {"seconds": 1, "camera_of": 1}]}, "of its scene"),
    ],
)
def test_what_is_no_story_is_refused(told: Any, said: str):
    with pytest.raises(ValueError, match=said):
        Story.from_json(told)


@pytest.mark.parametrize(
    ("world", "shot", "said"),
    [
        (WORLD, Shot(seconds=1, action="up"), "shot 1: .*up"),
        (WORLD, Shot(seconds=1, action="likely"), "shot 1: .*likely to be done"),
        (WORLD, Shot(seconds=1, motion=0.3), "knows no motion"),
        (WORLD, Shot(seconds=1, tell="a very long tale of two red bodies"), "shot 1"),
        (WORLD, Shot(seconds=1, prompt="a very long tale of two red bodies and of others"), "shot 1"),
        (WORLD, Shot(seconds=1, edit={"bal": {"position": (0.1, 0.2)}}), "shot 1: .*ball"),
        (WORLD, Shot(seconds=1, state={"ball": {"position": (9, 0.2)}}), "shot 1: .*position"),
        (WORLD, Shot(seconds=1, hold={"ball": {"colour": "red"}}), "shot 1: .*colour"),
        (WORLD, Shot(seconds=1, limit={"ball": {"yaw": 1}}), "shot 1: .*yaw"),
        (tiny_world(STATELESS, words=False), Shot(seconds=1, prompt="a ball"), "learned without captions"),
    ],
)
def test_a_story_that_a_world_cannot_tell_is_refused_before_it_begins(world: World, shot: Shot, said: str):
    with pytest.raises(ValueError, match=said):
        Film(world, story(shot))
    with pytest.raises(ValueError, match="no upsampler"):
        Film(world, story(Shot(seconds=1)), upsample=True)


def test_stories_are_the_same_again_as_data():
    shots = story(Shot(seconds=1, actions=(("left", 0.5),)), Shot(seconds=2, camera_of=1, hold={"ball": {"yaw": 0.1}}))
    assert Story.from_json(json.loads(json.dumps(shots.to_json()))) == shots


@pytest.mark.parametrize("schema", [None, STATELESS, UNSTEERED])
def test_films_are_made_again_and_gone_on_with(tmp_path: Path, schema: Any):
    world = WORLD if schema is None else tiny_world(schema, words=False)
    world.save_pretrained(tmp_path / "world")

    def made(*arguments: str) -> int:
        return generate.main(["--world", str(tmp_path / "world"), *arguments])

    out = tmp_path / "a.mp4"
    assert made("--seconds", "0.5", "--seed", "4", "--out", str(out)) == 0
    assert made("--again", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "b.mp4")) == 0
    assert out.read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert len(pictures(out)) == 31
    log = FilmLog.read(tmp_path / "a.jsonl")
    assert log.how["seed"] == 4
    opening = log.end(world).frames
    assert len(opening) == 17
    steps = list(Film(world, story(Shot(seconds=0.5)), seed=4))
    shown = np.concatenate([step.frames for step in steps[-2:]])  # farther back, a decoder saw more of the past
    assert torch.equal(opening[-4:], torch.from_numpy(shown))
    assert made("--go-on", str(tmp_path / "a.jsonl"), "--seconds", "0.2", "--out", str(tmp_path / "c.gif")) == 0
    assert len(pictures(tmp_path / "c.gif")) == 4
    assert made("--frames", str(out), "--seconds", "0.2", "--out", str(tmp_path / "d.webm")) == 0


def test_a_film_goes_on_in_its_last_scene_alone(tmp_path: Path):
    shots = Shot(seconds=6 * STEP, prompt="two bodies"), Shot(seconds=3 * STEP, prompt="a blue player")
    list(write(Film(WORLD, story(*shots)), tmp_path / "a.mp4", {}))
    log = FilmLog.read(tmp_path / "a.jsonl")
    assert [step["shot"] for step in log.last] == [1, 1, 1]
    assert len(log.end(WORLD).frames) == 1 + 2 * 2
    log = tmp_path / "a.jsonl"
    log.write_text(log.read_text(encoding="utf-8")[:-3], encoding="utf-8")  # a last half
    assert len(FilmLog.read(log).last) == 2


def test_what_cannot_be_made_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    WORLD.save_pretrained(tmp_path / "world")
    tiny_world(STATELESS).save_pretrained(tmp_path / "other")
    film, log = tmp_path / "a.mp4", str(tmp_path / "a.jsonl")
    assert generate.main(["--world", str(tmp_path / "world"), "--seconds", "0.1", "--out", str(film)]) == 0
    for arguments, said in (
        (["--out", str(tmp_path / "a.avi")], "no video's name"),
        (["--out", str(tmp_path / "no" / "a.mp4")], "no folder"),
        (["--again", log, "--out", str(film)], "written over"),
        (
            ["--again", log, "--seconds", "3", "--out", str(tmp_path / "b.mp4")],
            "changes nothing beside --again",
        ),
        (["--again", log, "--world", str(tmp_path / "other"), "--out", str(tmp_path / "b.mp4")], "another world"),
        (["--go-on", log, "--enhance", "--out", str(tmp_path / "b.mp4")], "--enhance changes nothing beside --go-on"),
        (["--go-on", str(film), "--out", str(tmp_path / "b.mp4")], "is no film's log"),
        (["--frames", str(tmp_path / "no.mp4"), "--out", str(tmp_path / "b.mp4")], "there is no clip"),
        (["--frames", log, "--out", str(tmp_path / "b.mp4")], "cannot be read as a video"),
        (["--story", str(tmp_path / "no.yaml"), "--out", str(tmp_path / "b.mp4")], "cannot be read"),
    ):
        assert generate.main(["--world", str(tmp_path / "world"), *arguments]) == 1
        assert said in capsys.readouterr().err
    assert not (tmp_path / "b.mp4").exists()


@pytest.mark.parametrize("room", [0, 1000, 20_000])
@pytest.mark.parametrize("kind", ["mp4", "webm", "gif"])
def test_a_disk_that_is_full_is_no_crash(kind: str, room: int):
    class Disk(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            nonlocal room
            room -= len(data)
            if room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return len(data)

    frames = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), dtype=np.uint8)
    writer = VideoWriter(Disk(), kind=kind, fps=30, size=(64, 64), in_pieces=True)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="No space left"), writer:
        writer.write(np.concatenate([frames] * 40))


def test_a_film_that_is_broken_off_can_be_played(tmp_path: Path):
    out = tmp_path / "a.mp4"
    making = write(Film(WORLD, story(Shot(seconds=10)), seed=0), out, {})
    for _ in range(200):
        next(making)
    (tmp_path / "kept.mp4").write_bytes(out.read_bytes())  # as a kill would leave it
    making.close()
    assert len(pictures(tmp_path / "kept.mp4", broken=True)) >= 120
    assert len(pictures(out)) == 401


def test_terse_prompts_are_put_into_the_words_that_are_found_again(monkeypatch: pytest.MonkeyPatch):
    def caption(self: World, state: torch.Tensor, *, seed: int | None = None) -> list[str]:
        words = ["a red ball" if i == 5 else "a blue cube" for i in range(len(state))]
        return words if seed is None else [word.replace("cube", "box") for word in words]

    monkeypatch.setattr(World, "caption", caption)
    assert generate.enhanced(WORLD, "some balls", 0) == "a red ball"
    assert generate.enhanced(WORLD, "the box", 0) == "a blue cube"


def test_clips_are_read_at_another_rate_and_size(tmp_path: Path):
    frames = np.zeros((60, 40, 80, 3), np.uint8) + np.arange(60, dtype=np.uint8)[:, None, None, None] * 4
    with VideoWriter(tmp_path / "a.mp4", fps=30, size=(40, 80), min_size=40) as writer:
        writer.write(frames)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].average_rate == Fraction(30)
    clip = read_clip(tmp_path / "a.mp4", size=(16, 16), fps=15, seconds=1)
    assert clip.shape == (15, 16, 16, 3)
    expected = torch.arange(31, 60, 2).float() * 4
    assert (clip.float().mean((1, 2, 3)) - expected).abs().max() < 4
