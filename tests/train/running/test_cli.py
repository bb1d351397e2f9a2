import json
from pathlib import Path

import pytest

from train.running.cli import main

HERE = Path(__file__).parents[1]
CONFIGS = HERE.parents[1] / "train/configs"
OVERLAYS = sorted((CONFIGS / "trainer").glob("*.yaml"))
MODELS = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "trainer")


@pytest.fixture(autouse=True)
def tiny_run_is_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))


def parsed(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *arguments, "--print_config"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_every_trainer_overlay_parses(overlay: Path, capsys):
    text = parsed(capsys, f"--config={overlay}", "--model=tiny_run.TinyModule", "--data=tiny_run.TinyClips")
    assert "TinyModule" in text


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
@pytest.mark.parametrize("model", MODELS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_shipped_config_parses_with_every_trainer(model: Path, overlay: Path, capsys):
    text = parsed(capsys, f"--config={overlay}", f"--config={model}")
    assert "class_path: train." in text


def test_the_tiny_overlay_runs_and_leaves_everything_in_one_folder(tmp_path: Path):
    cli = main(
        [
            "fit",
            f"--config={CONFIGS / 'trainer/tiny.yaml'}",
            "--model=tiny_run.TinyModule",
            "--data=tiny_run.TinyClips",
            f"--trainer.default_root_dir={tmp_path}",
            "--trainer.callbacks=["
            '{"class_path": "train.running.videos.VideoLogger", "init_args": {"every_n_steps": 2}}]',
        ]
    )
    assert cli.trainer.global_step == 4
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"config.yaml", "last.ckpt", "metrics.jsonl", "videos/0000002.mp4", "videos/0000004.mp4"}
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if "val/loss" in row] == [2, 4]


def test_the_run_ends_where_the_models_schedule_ends(tmp_path: Path):
    cli = main(
        [
            "fit",
            "--model=tiny_run.TinyModule",
            "--model.total_steps=3",
            "--data=tiny_run.TinyClips",
            f"--trainer.default_root_dir={tmp_path}",
            "--trainer.logger=false",
        ]
    )
    assert cli.trainer.global_step == 3
