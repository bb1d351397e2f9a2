"""A folder of videos measured by one command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from train.evaluate_video import main
from worldmodel.video_file import VideoWriter
from worldmodel.world import World

FPS = 15


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos that the bundled world makes, one of which is held for its second half, and half a video."""
    folder = tmp_path_factory.mktemp("films")
    rollout = World.from_pretrained().start("a blue player and a red ball", seed=[3, 4])
    shown = np.concatenate([rollout.step("east").frames.numpy() for _ in range(20)], 1)
    shown[1, len(shown[1]) // 2 :] = shown[1, len(shown[1]) // 2]
    for name, frames in zip("ab", shown, strict=True):
        with VideoWriter(folder / f"{name}.mp4", fps=FPS, size=frames.shape[1:3], min_size=64) as video:
            video.write(frames)
    (folder / "a.txt").write_text("a red ball", encoding="utf-8")
    (folder / "half.mp4").write_bytes((folder / "a.mp4").read_bytes()[:2000])
    return folder


def test_a_folder_is_measured_and_what_is_broken_is_named(films: Path, tmp_path: Path, capsys):
    report = tmp_path / "report"
    said = ["--reference", str(films), "--captions", "auto", "--report", str(report)]
    assert main([str(films), *said, "--json", str(tmp_path / "numbers.json")]) == 0
    numbers = json.loads((tmp_path / "numbers.json").read_text(encoding="utf-8"))
    assert numbers["videos"]["a.mp4"]["faults"] == {}
    assert numbers["videos"]["b.mp4"]["faults"].keys() == {"freeze"}
    assert numbers["videos"]["b.mp4"]["frozen"] == pytest.approx(0.5, abs=0.1)
    assert numbers["videos"]["a.mp4"]["claims_true"] > 0.5
    assert numbers["reference"]["mawe"] == 1
    assert list(numbers["unreadable"]) == ["half.mp4"]
    page = (report / "index.html").read_text(encoding="utf-8")
    assert all((report / name).stat().st_size > 1000 and name in page for name in ("0.png", "0.gif", "1.png"))
    assert "half.mp4 was left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["nowhere"], "name one that holds clips"),
        (["empty"], "holds no video"),
        (["broken"], "can be read"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(given: list[str], said: str, tmp_path: Path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.mp4").write_bytes(b"no video")
    assert main([str(tmp_path / given[0])]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
