"""A folder of odd clips becomes a recording: times, orientation, aspect, colours. What cannot be read is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from tokenizer.clip import Episode
from train.data.episode_store import EpisodeStore
from train.import_video import ImportReport, import_videos, look, main

from . import odd_videos

FPS, SIZE = odd_videos.FPS, odd_videos.SIZE
WHOLE = {"size": SIZE, "fps": FPS, "frames_per_step": 1, "fit": "letterbox", "episode_seconds": 20}


@dataclass
class Imported:
    odd: dict[str, odd_videos.Odd]
    report: ImportReport
    store: EpisodeStore

    @cached_property
    def read(self) -> list[Episode]:
        return [self.store.read(i) for i in range(len(self.store))]

    def episodes(self, name: str) -> list[np.ndarray]:
        return [episode.frames for episode in self.read if episode.behaviour == name]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    folder = tmp_path_factory.mktemp("odd")
    odd = odd_videos.write_all(folder / "clips")
    return Imported(odd, import_videos(folder / "clips", folder / "out", **WHOLE), EpisodeStore(folder / "out"))


def without_bars(frames: np.ndarray) -> np.ndarray:
    lit = frames.max((0, 3)) > 30
    rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
    return frames[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def is_shown_at(odd: odd_videos.Odd, number: int, time: float) -> bool:
    """Whether the picture with this number lies within half a frame of a time, or is the one that a player holds."""
    half, off = 0.5 / FPS, np.array(odd.times) - time
    if number not in odd.numbers:
        return False
    index = list(odd.numbers).index(number)
    held = index == np.flatnonzero(off <= 1e-6)[-1] and (np.abs(off) > half - 1e-6).all()
    return bool(held or abs(off[index]) <= half + 1e-6)


UNREADABLE = {"no_moov.mp4", "empty.mp4", "text.mp4", "one_frame.mp4", "sound_alone.mp4", "folder.mp4"}
READABLE = [name for name in odd_videos.FILES if name not in UNREADABLE and not name.startswith("z_")]
APART = {"cut.mp4": [10, 10], "damaged.mp4": [5, 10], "long_gap.mp4": [10, 10]}


@pytest.mark.parametrize("name", READABLE)
def test_pictures_are_shown_at_their_times(imported: Imported, name: str) -> None:
    odd, frames = imported.odd[name], without_bars(np.concatenate(imported.episodes(name)))
    numbers = [odd_videos.read_number(picture) for picture in frames]
    if name == "damaged.mp4":  # what was lost lies between its episodes
        assert numbers == odd.numbers
        return
    wrong = [
        (number, i / FPS) for i, number in enumerate(numbers) if not is_shown_at(odd, number, odd.times[0] + i / FPS)
    ]
    assert wrong == []
    expected = round((odd.end - odd.times[0]) * FPS)
    assert expected - 2 * ("missing" in odd.lost) <= len(numbers) <= expected


@pytest.mark.parametrize("name", READABLE)
def test_pictures_are_upright_whole_and_in_their_colours(imported: Imported, name: str) -> None:
    odd, frames = imported.odd[name], without_bars(np.concatenate(imported.episodes(name)))
    assert frames.shape[1:3] == odd.shape
    assert np.abs(odd_videos.read_corners(frames[0]) - odd.corners).max() <= 5


def test_what_cannot_be_imported_is_named_with_its_reason(imported: Imported) -> None:
    reasons = {name: odd.reason for name, odd in imported.odd.items() if odd.reason}
    skipped = dict(imported.report.skipped)
    assert skipped.keys() == reasons.keys()
    assert all(reason in skipped[name] for name, reason in reasons.items())
    assert imported.report.imported + len(skipped) == len(imported.odd)
    lines = imported.report.said()
    assert lines[-1].startswith(f"imported {len(READABLE)} clips as {len(imported.store)} episodes")
    assert f"skipped {len(reasons)}" in lines[-1]
    assert len([line for line in lines if line.startswith("skipped ")]) == len(reasons)


def test_what_is_lost_of_a_clip_is_said(imported: Imported) -> None:
    lost = {name for name, odd in imported.odd.items() if odd.lost}
    assert {name for name, _ in imported.report.lost} == lost
    for name in lost:
        assert any(imported.odd[name].lost in what for other, what in imported.report.lost if other == name)
    assert imported.report.seconds_lost == pytest.approx(2.0 + 0.5, abs=0.3)  # two are truncated, one damaged


def test_a_cut_ends_an_episode_and_motion_does_not(imported: Imported) -> None:
    lengths = {name: [len(frames) for frames in imported.episodes(name)] for name in READABLE}
    assert {name: found for name, found in lengths.items() if len(found) > 1} == APART


def test_each_clip_of_many_belongs_to_one_split(imported: Imported) -> None:
    store = imported.store
    files = {split: {store.read(i).behaviour for i in store.split(split)} for split in ("train", "validation", "test")}
    assert all(files.values())
    assert len(set.union(*files.values())) == sum(map(len, files.values())) == len(READABLE)


def test_a_look_says_what_there_is(imported: Imported) -> None:
    source = look(imported.store.path.parent / "clips")
    assert (source.num_files, source.num_readable) == (len(imported.odd) - 3, len(imported.odd) - 7)
    assert source.fps == FPS
    assert source.sizes[(481, 853)] == 1
    assert source.sizes[(64, 48)] == 1  # the portrait, and no clip that lies on its side
    assert (source.default_size, source.default_fps) == ((64, 88), 10)
    said = "\n".join(source.said())
    assert "853x481" in said or "more sizes" in said
    assert "left out: empty.mp4: it is empty" in said


def test_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cut.mp4", "animated.gif", "empty.mp4", "turned_90.mp4"):
        (tmp_path / "clips").mkdir(exist_ok=True)
        odd_videos.FILES[name](tmp_path / "clips" / name)
    monkeypatch.setattr("train.import_video._GROUP", 1)
    reports = [import_videos(tmp_path / "clips", tmp_path / f"{n}", workers=n, **WHOLE) for n in (1, 2)]
    assert reports[0] == reports[1]
    stores = [EpisodeStore(tmp_path / f"{n}") for n in (1, 2)]
    assert [len(store) for store in stores] == [4, 4]
    for i in range(4):
        one, two = (store.read(i) for store in stores)
        np.testing.assert_array_equal(one.frames, two.frames)
        assert one.behaviour == two.behaviour


def test_a_killed_import_goes_on_and_an_added_file_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    for i in range(4):
        odd_videos.plain(clips / f"{i}.mp4")
    monkeypatch.setattr("train.import_video._GROUP", 1)
    import_clip, given = import_videos.__globals__["_import_clip"], []

    def dies_at_the_third(footage, *others):
        given.append(footage.name)
        if len(given) == 3:
            raise KeyboardInterrupt
        return import_clip(footage, *others)

    command = ["--videos", str(clips), "--out", str(out), "--workers", "1", "--episode-seconds", "9"]
    with monkeypatch.context() as patched:
        patched.setattr("train.import_video._import_clip", dies_at_the_third)
        assert main(command) == 130
    with monkeypatch.context() as patched:
        patched.setattr(
            "train.import_video._import_clip", lambda f, *rest: given.append(f.name) or import_clip(f, *rest)
        )
        assert main(command) == 0
    assert given == ["0.mp4", "1.mp4", "2.mp4", "2.mp4", "3.mp4"]
    assert [EpisodeStore(out).read(i).behaviour for i in range(4)] == [f"{i}.mp4" for i in range(4)]
    assert main(command) == 0  # nothing is left to do, and it is said again
    assert capsys.readouterr().out.count("imported 4 clips as 4 episodes") == 2
    odd_videos.plain(clips / "new.mp4")
    assert main(command) == 1
    assert "1 added (new.mp4): choose another folder" in capsys.readouterr().err


def test_captions_come_from_beside_a_clip_or_from_a_table(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("a.mp4", "b.mp4"):
        odd_videos.plain(clips / name)
    odd_videos.stills(clips / "walk")
    (clips / "a.txt").write_text("a café,\nat night\n", encoding="utf-8")
    (clips / "walk.txt").write_text("a walk", encoding="utf-8")

    def captions(name: str, told: str | Path) -> list[str]:
        import_videos(clips, tmp_path / name, captions=told, **WHOLE)
        store = EpisodeStore(tmp_path / name)
        return [store.caption(i) for i in range(len(store))]

    assert captions("beside", "auto") == ["a café, at night", "", "a walk"]
    assert captions("none", "none") == ["", "", ""]
    table = tmp_path / "told.csv"
    table.write_text('file,caption\nb.mp4,"one, two"\nwalk,three\nc.mp4,four\n', encoding="utf-8")
    assert captions("table", table) == ["", "one, two", "three"]
    report = import_videos(clips, tmp_path / "table", captions=table, **WHOLE)
    assert "1 rows of told.csv name no clip, or several: c.mp4" in report.notes
    assert "1 clips have no row in told.csv: a.mp4" in report.notes
    table.write_text("film,words\na.mp4,x\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no column 'file', only film, words"):
        captions("wrong", table)


def test_a_long_clip_becomes_episodes_and_is_divided_by_time(tmp_path: Path) -> None:
    film = odd_videos.Film()
    film.write(tmp_path / "long.mp4", (odd_videos.card(i % 256) for i in range(245)), (i / FPS for i in range(245)))
    import_videos(tmp_path / "long.mp4", tmp_path / "out", size=SIZE, fps=FPS, frames_per_step=4, episode_seconds=4.2)
    store = EpisodeStore(tmp_path / "out")
    episodes = [store.read(i) for i in range(len(store))]
    assert [len(episode.frames) for episode in episodes] == [41, 41, 41, 41, 41, 37]
    first = [odd_videos.read_number(episode.frames[0]) for episode in episodes]
    assert first == [0, 41, 82, 123, 164, 205]
    assert [store.split(name) for name in ("train", "validation", "test")] == [[0, 1, 2, 3], [4], [5]]


def test_a_folder_without_a_readable_clip_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clips").mkdir()
    odd_videos.text(tmp_path / "clips" / "a.mp4")
    assert main(["--videos", str(tmp_path / "clips"), "--out", str(tmp_path / "out")]) == 1
    assert "a.mp4: it is text, not a video" in capsys.readouterr().err
    assert main(["--videos", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 1
    assert "there is no folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_pyscenedetect_a_sentence_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    odd_videos.plain(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, "scenedetect.detectors", None)
    command = ["--videos", str(tmp_path / "a.mp4"), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert "pip install 'worldmodel-stream[video]', or give --cuts none" in capsys.readouterr().err
    assert main([*command, "--cuts", "none"]) == 0


MEASURE = """
import resource, sys
from pathlib import Path
from train.import_video import import_videos
import_videos(sys.argv[1], sys.argv[2], size=(48, 64), fps=2, frames_per_step=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_stays_flat_on_two_hours_of_black(tmp_path: Path) -> None:
    megabytes = {}
    for seconds in (60, 7200):
        clip, out = tmp_path / f"{seconds}.mp4", tmp_path / f"out{seconds}"
        odd_videos.black(clip, seconds)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(clip), str(out)], env=environment, check=True, stdout=subprocess.PIPE
        )
        megabytes[seconds] = int(done.stdout)
        store = EpisodeStore(out)
        assert sum(store.num_frames(i) for i in range(len(store))) == 2 * seconds
    assert megabytes[7200] < megabytes[60] + 30
    info = json.loads((tmp_path / "out7200/meta/info.json").read_text(encoding="utf-8"))
    assert info["total_episodes"] == len(store) >= 360
