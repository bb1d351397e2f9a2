"""Stages run in processes of their own, are passed over when done, and end with whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.making.runner import StageError, alone_in, run
from train.worlds.contract import Stage

SLEEPER = """
import sys, time
from pathlib import Path
Path(sys.argv[1]).write_text(str(__import__("os").getpid()), encoding="utf-8")
time.sleep(60)
"""
STARTER = """
import sys
from pathlib import Path
from train.making.runner import alone_in, run
from train.worlds.contract import Stage
work = Path(sys.argv[1])
with alone_in(work):
    run([Stage(name="sleep", proof=work / "done", command=("sleeper", str(work / "pid")))])
"""


def printing(tmp_path: Path, name: str, text: str) -> Stage:
    (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    return Stage(name=name, proof=tmp_path / "done" / name, command=(name, str(tmp_path / f"{name}.txt")))


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])]))
    return tmp_path


def test_what_is_done_is_passed_over_and_a_failure_stops_the_rest(modules: Path) -> None:
    write = "import sys\nfrom pathlib import Path\nPath(sys.argv[1]).open('a', encoding='utf-8').write('x')\n"
    first, last = printing(modules, "first", write), printing(modules, "last", write)
    broken = printing(modules, "broken", "import sys\nsys.exit(7)\n")
    heard: list[str] = []
    with pytest.raises(StageError, match="broken stopped with exit code 7; the same command") as stopped:
        run([first, broken, last], lambda stage, seconds: heard.append(stage.name))
    assert stopped.value.code == 7
    (modules / "broken.py").write_text(write, encoding="utf-8")
    run([first, broken, last], lambda stage, seconds: heard.append(stage.name))
    assert heard == ["first", "broken", "last"]
    assert (modules / "first.txt").read_text(encoding="utf-8") == "x"


def test_a_second_run_is_kept_out_and_a_killed_one_leaves_nobody_behind(
    modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (modules / "sleeper.py").write_text(SLEEPER, encoding="utf-8")
    first = subprocess.Popen([sys.executable, "-c", STARTER, str(modules)])
    pid = modules / "pid"
    for _ in range(300):
        if pid.is_file() and pid.read_text(encoding="utf-8"):
            break
        time.sleep(0.1)
    monkeypatch.setattr("train.making.runner._PATIENCE", 0.3)
    with pytest.raises(RuntimeError, match="another command is at work in"), alone_in(modules):
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    monkeypatch.setattr("train.making.runner._PATIENCE", 10.0)
    with alone_in(modules):
        pass
    child = int(pid.read_text(encoding="utf-8"))
    for _ in range(50):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            break
        if Path(f"/proc/{child}/stat").is_file() and " Z " in Path(f"/proc/{child}/stat").read_text(encoding="utf-8"):
            break  # ended, and waits for whoever is to be told
        time.sleep(0.1)
    else:
        pytest.fail("the stage outlived the run that had started it")
