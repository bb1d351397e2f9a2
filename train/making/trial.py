"""Measures how fast each stage goes on this machine, in about half a minute.

Every stage is run as it will be, but for a few updates and of a few episodes, and what comes out is thrown away.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from train.making.plan import TRAININGS, Speeds
from train.making.runner import run_stage
from train.making.stages import Making
from train.worlds.contract import Stage

UPDATES = 16
_WARM = 6  # updates that are slower than the others
_AGAIN, _READ = 64, 24  # the same when it is measured again, and what is rare should have its share
SAMPLE = 32  # episodes that anything is tried on
_ROLLED = 300  # steps of eight rows that an evaluation takes, about
_PICTURED = 12.0  # seconds that its pictures and page take


def measure(making: Making) -> Speeds:
    """Speeds of a source that is recorded at least in part. Raises RuntimeError for a stage that fails."""
    start = _start_seconds()
    from train.data.tokens import TokenStore

    trial = _trial(making)
    stages = _short(trial)
    speeds: dict[str, float] = {}
    labelled = 0.0
    if "latent actions" in stages:
        speeds["latent"] = _updates(trial, stages["latent actions"])
        labelled = _once(stages["label actions"])
    speeds["tokenizer"] = _updates(trial, stages["tokenizer"])
    _once(stages["export tokenizer"])
    seconds = _once(stages["tokenize"])
    lengths = [row["length"] for row in TokenStore(trial.tokens).index]
    speeds |= {"frames": sum(lengths) / len(lengths), "tokenize": seconds / sum(lengths)}
    speeds["label"] = labelled / sum(lengths)
    speeds["dynamics"] = _updates(trial, stages["dynamics"])
    _once(stages["export world"])
    speeds["evaluate"] = start + _PICTURED + _ROLLED * _step_seconds(trial.out)
    return Speeds(start=start, **speeds)


def again(making: Making, name: str) -> float:
    """Seconds of an update of a training, measured anew after :func:`measure`: others may want the machine now, or have
    left it."""
    trial = _trial(making)
    shutil.rmtree(trial.run(name), ignore_errors=True)
    return _updates(trial, _short(trial, _AGAIN)[name], _READ)


def _trial(making: Making) -> Making:
    work = making.work / "trial"
    source = replace(making.source, recording=few(making.source.recording, work / "sample"))
    return replace(making, source=source, work=work, out=work / "world")


def few(recording: Path, folder: Path, count: int = SAMPLE) -> Path:
    """A recording of about ``count`` of another's episodes, of every split, whose files it only points to."""
    if not (recording / "meta/episodes").is_dir():
        return recording
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "meta/episodes").mkdir(parents=True)
    for path in recording.iterdir():
        if path.name != "meta":
            (folder / path.name).symlink_to(path.resolve())
    for path in (recording / "meta").iterdir():
        if path.is_file():
            shutil.copy(path, folder / "meta")
    rows = pa.concat_tables(
        [pq.read_table(path) for path in sorted((recording / "meta/episodes").rglob("*.parquet"))],
        promote_options="default",
    )
    kept = list(range(0, len(rows), max(1, len(rows) // count)))
    splits = rows["split"].to_pylist() if "split" in rows.column_names else []
    kept += [splits.index(name) for name in dict.fromkeys(splits) if name not in {splits[i] for i in kept}]
    pq.write_table(rows.take(sorted(kept)), folder / "meta/episodes/few.parquet")
    return folder


def _short(trial: Making, updates: int = UPDATES) -> dict[str, Stage]:
    """Stages that train for a few updates."""
    return {stage.name: stage for stage in trial.stages(dict.fromkeys(TRAININGS, updates) | {"record": 0})}


def _start_seconds() -> float:
    """Seconds that a stage takes before its first piece of work: most of them to import what it needs."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", "import train.modules.dynamics, train.running.cli"], check=True)
    return 1.3 * (time.monotonic() - begun)


def _updates(trial: Making, stage: Stage, warm: int = _WARM) -> float:
    """Seconds of an update, by a run of a few, in a process of its own as all stages are."""
    given = ["--trainer.log_every_n_steps", "2", "--trainer.limit_val_batches", "0", "--trainer.logger", "false"]
    run_stage(replace(stage, command=(*stage.command, *given)))
    lines = (trial.run(stage.name) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["step"] >= warm]
    return 3600 * (rows[-1]["hours"] - rows[0]["hours"]) / (rows[-1]["step"] - rows[0]["step"])


def _once(stage: Stage) -> float:
    """Seconds of a command that is run here."""
    from importlib import import_module

    begun = time.monotonic()
    run: Callable[[list[str]], int] = import_module(stage.command[0]).main
    if run(list(stage.command[1:])):
        raise RuntimeError(f"{stage.name} cannot be done")
    return time.monotonic() - begun


def _step_seconds(world: Path) -> float:
    """Seconds of a step of eight rows."""
    from worldmodel.world import World

    made = World.from_pretrained(world)
    rollout, action = made.start(seed=0, batch=8), made.actions.idle()
    times = []
    for _ in range(5):
        begun = time.monotonic()
        rollout.step(action)
        times.append(time.monotonic() - begun)
    return sorted(times)[2]
