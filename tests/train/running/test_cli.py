import json
from pathlib import Path

import pytest
import yaml

from train.running.cli import TrainingCLI, main

HERE = Path(__file__).parents[1]
TRAIN = HERE.parents[1] / "train"
CONFIGS = TRAIN / "configs"
OVERLAYS = sorted((CONFIGS / "trainer").glob("*.yaml"))
WORLDS = sorted((TRAIN / "worlds").glob("*/configs/*.yaml"))
OTHERS = [*sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "trainer"), *WORLDS]
STAGES = [path for path in OTHERS if "class_path" not in yaml.safe_load(path.read_text(encoding="utf-8"))["model"]]
MODELS = [path for path in OTHERS if path not in STAGES]


def sizes(stage: Path) -> list[Path]:
    """What a stage can be stacked on: the sizes beside it; a general one also on every world's."""
    names = ("dynamics",) if stage in WORLDS else ("",)
    beside = [path for path in MODELS if path.parent == stage.parent and path.name.startswith(names)]
    general = stage not in WORLDS and stage.parent.name == "dynamics"
    return [*beside, *(path for path in WORLDS if path.name == "dynamics.yaml")] if general else beside


STACKS = [(size, stage) for stage in STAGES for size in sizes(stage)]


def name(path: Path | tuple[Path, ...]) -> str:
    return "+".join(map(name, path)) if isinstance(path, tuple) else str(path.relative_to(TRAIN))


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


@pytest.mark.parametrize("model", MODELS, ids=name)
def test_every_shipped_config_parses_with_every_trainer(model: Path, capsys):
    for overlay in OVERLAYS:
        text = parsed(capsys, f"--config={overlay}", f"--config={model}")
        assert "class_path: train." in text


@pytest.mark.parametrize("stack", STACKS, ids=name)
def test_a_stage_changes_what_it_says_and_keeps_the_size(stack: tuple[Path, Path], capsys):
    size, stage = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in stack)
    text = parsed(capsys, *(f"--config={path}" for path in stack))
    whole = yaml.safe_load(text[text.index("seed_everything") :])
    assert stage["model"]["init_args"].items() <= whole["model"]["init_args"].items()
    assert whole["model"]["class_path"] == size["model"]["class_path"]
    assert whole["model"]["init_args"]["config"] == size["model"]["init_args"]["config"]


def test_what_the_model_says_of_tokens_and_of_places_for_text_is_the_datas_too(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(TrainingCLI, "instantiate_classes", lambda self: None)
    monkeypatch.setattr(TrainingCLI, "_run_subcommand", lambda self, subcommand: None)
    config = CONFIGS / "dynamics/size_small.yaml"
    cli = main(["fit", f"--config={config}", f"--model.init_args.tokens={tmp_path}"])
    assert cli.options.data.init_args.tokens == str(tmp_path)
    assert (cli.options.data.init_args.max_text, cli.options.data.init_args.max_event) == (64, 24)
    without = main(["fit", f"--config={config}", "--model.init_args.config={width: 48, heads: 2, depth: 1}"])
    assert (without.options.data.init_args.max_text, without.options.data.init_args.max_event) == (64, 0)


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
