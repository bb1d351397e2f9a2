"""A run that was killed and resumed against the same run left alone: equal bit for bit, optimizer and all."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from train.running.cli import main

HERE = Path(__file__).parents[1]
CONFIGS = HERE.parents[1] / "train/configs/trainer"


@pytest.fixture(autouse=True)
def tiny_run_is_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))


def arguments(folder: Path, *more: str) -> list[str]:
    return [
        "fit",
        f"--config={CONFIGS / 'cpu.yaml'}",
        "--model=tiny_run.TinyModule",
        "--data=tiny_run.TinyClips",
        f"--trainer.default_root_dir={folder}",
        "--trainer.val_check_interval=7",
        "--trainer.logger=false",
        "--checkpoint_every_n_steps=4",
        *more,
    ]


def killed(folder: Path, *more: str, at: int, by: str = "SIGKILL", code: int = -9) -> None:
    """Runs in another process, which kills itself before its ``at``-th batch. An epoch has 6."""
    environment = {
        **os.environ,
        "KILL_AT": str(at),
        "KILL_WITH": by,
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    ended = subprocess.run(
        [sys.executable, "-m", "train", *arguments(folder, *more)],
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert ended.returncode == code, ended.stderr


def assert_equal_checkpoints(first: Path, second: Path) -> None:
    one, other = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (first, second))
    assert one["global_step"] == other["global_step"] == 20
    for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers"):
        assert_same(one[part], other[part], part)


def assert_same(one: object, other: object, where: str) -> None:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list) and isinstance(other, list):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other)):
            assert_same(*pair, f"{where}.{i}")
    else:
        assert one == other, where


@pytest.mark.slow
def test_a_run_may_be_killed_twice_within_an_epoch(tmp_path: Path):
    killed(tmp_path / "killed", "--checkpoint_every_n_steps=1", at=8)
    killed(tmp_path / "killed", "--checkpoint_every_n_steps=1", "--resume=auto", at=10)
    main(arguments(tmp_path / "killed", "--resume=auto"))
    main(arguments(tmp_path / "whole"))
    assert_equal_checkpoints(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize(
    ("at", "every"),
    [
        pytest.param(8, 4, id="in-the-middle-of-an-epoch"),
        pytest.param(14, 6, id="from-a-checkpoint-at-the-end-of-an-epoch"),
    ],
)
def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(tmp_path: Path, at: int, every: int):
    how_often = f"--checkpoint_every_n_steps={every}"
    killed(tmp_path / "killed", how_often, at=at)
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(999)  # what this process drew before must not be felt
    resumed = main(arguments(tmp_path / "killed", how_often, "--resume=auto"))
    whole = main(arguments(tmp_path / "whole", how_often, "--trainer.val_check_interval=3"))
    for one, other in zip(resumed.model.parameters(), whole.model.parameters()):
        assert torch.equal(one, other)
    assert_equal_checkpoints(tmp_path / "killed", tmp_path / "whole")


def test_ctrl_c_loses_no_step(tmp_path: Path):
    killed(tmp_path / "killed", "--checkpoint_every_n_steps=100", at=8, by="SIGINT", code=1)
    assert torch.load(tmp_path / "killed/last.ckpt", weights_only=True)["global_step"] == 9
    main(arguments(tmp_path / "killed", "--resume=auto"))
    main(arguments(tmp_path / "whole"))
    assert_equal_checkpoints(tmp_path / "killed", tmp_path / "whole")


def test_a_run_that_is_told_to_end_does_not_say_that_it_is_done(tmp_path: Path):
    killed(tmp_path, at=8, by="SIGTERM", code=143)


def test_a_finished_run_goes_on_as_if_it_had_been_longer_from_the_start(tmp_path: Path):
    main(arguments(tmp_path / "short", "--trainer.max_steps=13"))
    main(arguments(tmp_path / "short", "--trainer.max_steps=20", "--resume=auto"))
    main(arguments(tmp_path / "whole"))
    assert_equal_checkpoints(tmp_path / "short", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("then", [0, 1, 2])
def test_a_killed_run_resumes_with_another_number_of_workers(tmp_path: Path, then: int):
    killed(tmp_path / "killed", "--data.num_workers=2", at=10)
    main(arguments(tmp_path / "killed", f"--data.num_workers={then}", "--resume=auto"))
    main(arguments(tmp_path / "whole"))
    assert_equal_checkpoints(tmp_path / "killed", tmp_path / "whole")


def test_what_would_change_the_batches_is_refused_on_resume(tmp_path: Path):
    main(arguments(tmp_path, "--trainer.max_steps=3"))
    with pytest.raises(ValueError, match=r"began with batch_size 4 \(now 8\): set it back, or begin a new run"):
        main(arguments(tmp_path, "--resume=auto", "--data.batch_size=8"))
    with pytest.raises(ValueError, match=r"began with seed 0: give --seed_everything 0"):
        main(arguments(tmp_path, "--resume=auto", "--seed_everything=1"))


def test_an_earlier_runs_checkpoint_is_not_overwritten_unasked(tmp_path: Path):
    main(arguments(tmp_path, "--trainer.max_steps=3"))
    with pytest.raises(ValueError, match="earlier run's: give --resume auto to go on with it"):
        main(arguments(tmp_path, "--trainer.max_steps=3"))
    again = main(arguments(tmp_path, "--trainer.max_steps=3", "--resume=overwrite"))
    assert again.trainer.global_step == 3
