"""The one command from nothing to a world: its plan, and on request the whole of it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from train.release import SIZES, hours, main, model_card, stages


@pytest.mark.parametrize("size", sorted(SIZES))
def test_every_stage_is_a_command_that_exists(size: str, tmp_path: Path) -> None:
    plan = stages(SIZES[size], tmp_path, seed=3)
    assert [name for name, _, _ in plan][:3] == ["record", "simulate", "tokenizer"]
    for _, _, command in plan:
        module = command[0].replace(".", "/")
        root = Path(__file__).parents[2]
        assert (root / f"{module}.py").is_file() or (root / module / "__main__.py").is_file()
        for option, value in pairwise(command):
            if option == "--config":
                assert Path(value).is_file(), value


def test_a_finished_stage_is_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _, proof, _ in stages(SIZES["tiny"], tmp_path, seed=0):
        proof.parent.mkdir(parents=True, exist_ok=True)
        proof.write_text("{}")
    assert main(["--size", "tiny", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("done already") == len(stages(SIZES["tiny"], tmp_path, seed=0))
    assert "MODEL_CARD" not in (tmp_path / "world" / "world.json").read_text()
    assert (tmp_path / "world" / "MODEL_CARD.md").is_file()


def test_the_model_card_tells_seed_hours_and_figures(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "tokenizer"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 1, "hours": 0.5}\n{"step": 2, "hours": 1.25}\n')
    (tmp_path / "evaluation.json").write_text(json.dumps({"tokenizer": {"psnr_db": 31.5, "psnr_by_frame_db": [1, 2]}}))
    card = model_card("cpu", tmp_path, seed=7)
    assert hours(tmp_path, "tokenizer") == 1.25
    for expected in ("--seed 7", "1.25 h", "| tokenizer.psnr_db | 31.5 |"):
        assert expected in card


@pytest.mark.slow
def test_a_tiny_release_ends_in_a_world_that_plays(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    assert main(["--size", "tiny", "--out", str(tmp_path)]) == 0
    from worldmodel.world import World

    rollout = World.from_pretrained(tmp_path / "world").start("a red ball", seed=1)
    assert rollout.step("north").frames.shape == (1, 4, 64, 64, 3)
