"""Runs stages one after the other. What is done is passed over, so the same command goes on where it was stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from train.worlds.contract import Stage

_PATIENCE = 10.0  # seconds that the last stage of a killed run is waited for


class StageError(RuntimeError):
    """A stage ended with another exit code than 0; ``code`` is that code."""

    def __init__(self, stage: Stage, code: int) -> None:
        super().__init__(f"{stage.name} stopped with exit code {code}; the same command goes on from here")
        self.code = code


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps a second run out of a folder. Raises RuntimeError where another one is at work."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    with open(folder / "lock", "w", encoding="utf-8") as lock:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > until:
                    raise RuntimeError(
                        f"another command is at work in {folder}: wait until it ends, or choose another --out"
                    ) from None
                time.sleep(0.2)
        yield


def run(stages: Iterable[Stage], done: Callable[[Stage, float], None] | None = None) -> None:
    """Runs what is not done yet, each stage in a process of its own; ``done`` hears of its seconds.

    Raises StageError for the first that fails, KeyboardInterrupt when it is stopped.
    """
    for stage in stages:
        if stage.proof.exists():
            print(f"== {stage.name}: done already", flush=True)
            continue
        print(f"== {stage.name}: python -m {' '.join(stage.command)}", flush=True)
        begun = time.monotonic()
        run_stage(stage)
        stage.proof.parent.mkdir(parents=True, exist_ok=True)
        stage.proof.touch()
        if done is not None:
            done(stage, time.monotonic() - begun)


def run_stage(stage: Stage) -> None:
    """One stage, whether it is done or not. Raises as :func:`run` does."""
    command = [sys.executable, "-m", "train.making.child", *stage.command]
    # A thread that sleeps at once wakes too late for the next small piece of work; one that spins on takes a core.
    quiet = {"GOMP_SPINCOUNT": "20000", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=quiet | os.environ)
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the terminal has told the stage as well: it saves what it can
        with suppress(KeyboardInterrupt):
            process.wait()
        raise
    if code:
        raise StageError(stage, code)
