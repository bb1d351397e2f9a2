import io
import math

import av
import numpy as np
import pytest

from demo.recording import Recording
from demo.session import Session, SessionConfig

from .fake_world import SCHEMA, fake_world

PLAYER = SCHEMA.columns("player", "position")


def place(picture) -> np.ndarray:
    return np.array(picture.state[PLAYER])


@pytest.fixture
def session() -> Session:
    session = Session(fake_world(), SessionConfig(mark_every=10, max_marks=3))
    session.start("a red ball", seed=1)
    return session


def play(session: Session, steps: int, *held: str):
    session.hold(held)
    return [session.step() for _ in range(steps)][-1]


def test_a_start_shows_one_frame_and_a_step_four(session):
    assert session.branch.picture.frames.shape == (1, 64, 64, 3)
    picture = session.step()
    assert picture.frames.shape == (4, 64, 64, 3)
    assert picture.frames.dtype == np.uint8
    assert picture.time == 1
    assert picture.step_ms > 0


def test_a_part_of_the_state_may_be_said_beforehand(session):
    at = slice(SCHEMA.columns("player", "position").start, SCHEMA.columns("player", "position").stop)
    assert session.start(None, 1, {"player": {"position": (0.25, 0.125)}}).state[at] == [0.25, 0.125]


def test_the_same_seed_starts_the_same_world(session):
    first = session.start("a red ball", seed=5)
    again = session.start("a red ball", seed=5)
    assert first.state == again.state
    assert session.start("a red ball", seed=6).state != first.state


def test_a_held_key_pushes_and_two_take_turns(session):
    before = place(session.branch.picture)
    east = place(play(session, 8, "east"))
    assert east[0] > before[0]
    assert east[1] == before[1]
    both = place(play(session, 8, "north", "east"))
    assert np.all(both > east)


def test_undo_goes_back_about_a_second_and_then_further(session):
    start = session.branch.picture.state
    play(session, 24, "east")
    assert session.undo().time == 20 - 10  # the mark at 20 is only 4 steps old
    assert session.undo().time == 0
    assert session.undo().state == start


def test_undo_takes_back_an_edit_first_and_a_drag_as_a_whole(session):
    before = play(session, 3, "none")
    session.edit({"player": {"position": [0.0, 0.1]}})
    play(session, 12, "none")
    session.edit({"player": {"position": [0.2, 0.2]}}, continues=True)
    assert np.allclose(place(play(session, 1, "none")), 0.2, atol=1e-6)
    undone = session.undo()
    assert undone.time == 3
    assert undone.state == before.state


def test_what_is_told_happens_and_is_undone(session):
    before = play(session, 3, "none")
    session.tell(" go north ")
    assert place(play(session, 4, "none"))[1] > place(before)[1] + 0.1
    undone = session.undo()
    assert (undone.time, undone.state) == (3, before.state)
    assert np.allclose(place(play(session, 4, "none")), place(before))


def test_a_moment_is_put_into_words(session):
    assert session.describe() == "the player is south-west"
    session.edit({"player": {"position": [0.1, 0.1]}})
    assert session.describe() == "the player is north-east"


def test_an_edit_is_seen_in_the_state_at_once_and_in_the_frames_next(session):
    assert np.allclose(place(session.edit({"player": {"position": [0.25, -0.1]}})), [0.25, -0.1])
    frame = session.step().frames[0]
    red = np.argwhere((frame[..., 0] > 200) & (frame[..., 1] < 100)).mean(0)
    assert abs(red[1] / 63 * 1.2 - 0.6 - 0.25) < 0.03


def test_the_past_that_is_kept_is_bounded(session):
    play(session, 100, "east")
    assert len(session.branch.marks) == 3


def test_branches_live_apart_and_are_limited(session):
    play(session, 2, "none")
    session.fork()
    moved = place(play(session, 5, "east"))
    first = session.switch(0)
    assert not np.allclose(place(first), moved)
    assert np.allclose(place(session.switch(1)), moved)
    for _ in range(2):
        session.fork()
    with pytest.raises(ValueError, match="restart the world"):
        session.fork()


def test_the_upsampler_doubles_the_picture_while_it_is_on(session):
    session.set_upsample(True)
    assert session.step().frames.shape == (4, 128, 128, 3)
    session.set_upsample(False)
    assert session.step().frames.shape == (4, 64, 64, 3)


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (lambda s: s.hold(["jump"]), "no action 'jump'; it has none, north"),
        (lambda s: s.start("x" * 401, 0), "has 401 characters; keep it under 400"),
        (lambda s: s.start("", -1), "seed must lie between 0"),
        (lambda s: s.edit({"player": {"position": [math.nan, 0]}}), "must be a finite number"),
        (lambda s: s.edit({"player": {"position": [9, 0]}}), "outside"),
        (lambda s: s.edit({"ghost": {"position": [0, 0]}}), "no entity 'ghost'"),
        (lambda s: s.edit({"player": 3}), "An edit looks like"),
        (lambda s: s.switch(7), "no branch 8; there are 1"),
        (lambda s: Session(fake_world()).step(), "start one first"),
        (lambda s: Session(fake_world(upsampler=False)).set_upsample(True), "has no upsampler"),
    ],
)
def test_a_mistake_is_answered_by_a_sentence_and_play_goes_on(session, mistake, sentence):
    with pytest.raises(ValueError, match=sentence):
        mistake(session)
    assert session.step().time == 1


def test_a_recording_is_an_mp4_that_keeps_its_size_when_the_picture_changes():
    recording = Recording(fps=60, max_seconds=0.5)
    recording.write(np.full((4, 64, 64, 3), (200, 30, 30), np.uint8))
    recording.write(np.full((40, 128, 128, 3), (30, 30, 200), np.uint8))
    assert recording.full
    with av.open(io.BytesIO(recording.finish()), "r") as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 60)
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(stream)]
    assert len(frames) == 30
    assert frames[0].shape == (384, 384, 3)
    assert frames[0][..., 0].mean() > 150 > 100 > frames[-1][..., 0].mean()
    assert recording.finish(), "finishing twice gives the same file"
