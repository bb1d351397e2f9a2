"""The one command from nothing to a world: its plan, and on request the whole of it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from train.making.card import hours, model_card
from train.release import main, stages
from train.worlds.registry import names, recipe

RELEASES = [(name, size) for name in names() for size in recipe(name).release]


@pytest.mark.parametrize(("world", "size"), RELEASES)
def test_every_stage_is_a_command_that_exists(world: str, size: str, tmp_path: Path) -> None:
    plan = stages(recipe(world), size, tmp_path, seed=3)
    assert [stage.name for stage in plan][:3] == ["record", "simulate", "tokenizer"]
    for stage in plan:
        module = stage.command[0].replace(".", "/")
        root = Path(__file__).parents[2]
        assert (root / f"{module}.py").is_file() or (root / module / "__main__.py").is_file()
        for option, value in pairwise(stage.command):
            if option == "--config":
                assert Path(value).is_file(), value


def test_a_size_that_a_world_does_not_have_is_refused_with_those_that_it_has(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["--world", "tabletop", "--size", "vast", "--out", str(tmp_path)]) == 1
    assert "'vast': tiny, cpu, gpu" in capsys.readouterr().err
    assert main(["--world", "doom", "--out", str(tmp_path)]) == 1
    assert "none at all" in capsys.readouterr().err


def test_a_finished_stage_is_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = stages(recipe("tabletop"), "tiny", tmp_path, seed=0)
    for stage in plan:
        stage.proof.parent.mkdir(parents=True, exist_ok=True)
        stage.proof.write_text("{}", encoding="utf-8")
    assert main(["--size", "tiny", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("done already") == len(plan)
    assert "MODEL_CARD" not in (tmp_path / "world" / "world.json").read_text(encoding="utf-8")
    assert (tmp_path / "world" / "MODEL_CARD.md").is_file()


def test_the_model_card_tells_the_world_the_command_hours_and_figures(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "tokenizer"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 1, "hours": 0.5}\n{"step": 2, "hours": 1.25}\n', encoding="utf-8")
    figures = {"tokenizer": {"psnr_db": 31.5, "psnr_by_frame_db": [1, 2]}}
    world = recipe("tabletop")
    plan = stages(world, "cpu", tmp_path, seed=7)
    card = model_card(world.card, plan, "python -m train.release --seed 7", figures, tmp_path)
    assert hours(tmp_path, "tokenizer") == 1.25
    for expected in ("# Tabletop", "## Limits", "--seed 7", "1.25 h", "| tokenizer.psnr_db | 31.5 |"):
        assert expected in card


@pytest.mark.slow
def test_a_tiny_release_ends_in_a_world_that_plays(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    assert main(["--size", "tiny", "--out", str(tmp_path)]) == 0
    from worldmodel.world import World

    rollout = World.from_pretrained(tmp_path / "world").start("a red ball", seed=1)
    assert rollout.step("north").frames.shape == (1, 4, 64, 64, 3)
