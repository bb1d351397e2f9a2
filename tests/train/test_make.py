"""One command makes a world; killed, it goes on to the same weights."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import gymnasium
import pytest

from train import make
from train.making import runner
from train.making.sources import fitting_size
from train.worlds.contract import Stage
from worldmodel.world import World

ROOT = Path(__file__).parents[2]
OUTSIDE = ROOT / "tests" / "outside_world"


def weights(world: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(world.glob("*.safetensors"))}


def in_this_process(stage: Stage) -> None:
    """A stage without a process of its own, which would spend most of its time on imports."""
    module = "train.running.cli" if stage.command[0] == "train" else stage.command[0]
    code = import_module(module).main(list(stage.command[1:]))
    if isinstance(code, int) and code:
        raise runner.StageError(stage, code)


def test_one_command_makes_a_world_that_is_played_and_stepped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(OUTSIDE))
    monkeypatch.setattr(runner, "run_stage", in_this_process)
    out = tmp_path / "tiller"
    command = ["--world", "pond:TILLER", "--size", "tiny", "--out", str(out)]
    assert make.main(command) == 0
    said = capfd.readouterr().out
    assert "pictures 16x24" in said
    assert f"python -m demo --world {out}" in said
    assert (out / "report" / "index.html").is_file()
    assert "--world pond:TILLER --size tiny" in (out / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert json.loads((out / "world.json").read_text(encoding="utf-8"))["recipe"] == "pond:TILLER"

    env = gymnasium.make("worldmodel:WorldModel-v0", world=str(out))
    world = World.from_pretrained(out)
    assert env.action_space == world.actions.space
    assert (world.sampling.video_temperature, world.sampling.top_p) == (1.0, 0.99)  # nothing else is left to chance
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[0].shape == (16, 24, 3)
    env.close()

    kept = weights(out)
    assert make.main(command) == 0
    assert capfd.readouterr().out.count("done already") == 7
    assert weights(out) == kept
    assert make.main([*command, "--seed", "5"]) == 1
    assert "was begun with --seed 0: give that again, or choose another --out" in capfd.readouterr().err


def test_looking_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(OUTSIDE))
    assert make.main(["--world", "pond:FILM", "--look", "--out", str(tmp_path / "film")]) == 0
    assert "no actions, no state" in capsys.readouterr().out
    assert not list((tmp_path / "film").rglob("*.json"))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--world", "lake"], "no world is called 'lake'"),
        (["--recording", "nowhere"], "nowhere"),
        (["--env", "NoSuch-v0"], "NoSuch"),
        (["--videos", "nowhere"], "nowhere"),
    ],
)
def test_what_is_not_there_is_named(
    given: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make.main([*given, "--out", str(tmp_path / "world")]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert sentence in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("size", "fitted"), [((480, 640), (64, 88)), ((1920, 1080), (112, 64)), ((48, 48), (48, 48)), ((9, 300), (8, 304))]
)
def test_pictures_keep_about_their_aspect_in_whole_cells(size: tuple[int, int], fitted: tuple[int, int]) -> None:
    assert fitting_size(*size, 64) == fitted


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_ends_in_the_same_weights(tmp_path: Path) -> None:
    where = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(OUTSIDE)]), "OMP_WAIT_POLICY": "passive"}

    def command(out: Path) -> list[str]:
        return [sys.executable, "-m", "train.make", "--world", "pond:TILLER", "--size", "tiny", "--out", str(out)]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole), env=os.environ | where, check=True, capture_output=True)
    moments = random.Random(4)
    for _ in range(10):
        process = subprocess.Popen(command(killed), env=os.environ | where, stdout=subprocess.DEVNULL)
        try:
            process.wait(moments.uniform(4, 16))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    subprocess.run(command(killed), env=os.environ | where, check=True, capture_output=True)
    assert weights(killed) == weights(whole)
    assert len(weights(whole)) == 2
