"""The command ``worldmodel``."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from worldmodel import __main__ as command

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_command_is_there_and_its_extras_are():
    for one in command.COMMANDS.values():
        assert set(one.extra.split(",")) <= set(PROJECT["optional-dependencies"])
        assert callable(import_module(one.module).main)
    assert PROJECT["scripts"]["worldmodel"] == "worldmodel.__main__:main"


def test_arguments_are_handed_on_and_the_status_is_given_back(monkeypatch: pytest.MonkeyPatch):
    given: list[Any] = []
    monkeypatch.setattr(
        command, "import_module", lambda name: SimpleNamespace(main=lambda a: given.append((name, a)) or 3)
    )
    assert command.main(["play", "--port", "1"]) == 3
    assert given == [("demo.__main__", ["--port", "1"])]


def test_what_is_not_known_or_not_installed_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert command.main([]) == 2
    assert command.main(["--help"]) == 0
    assert "make a film out of a world" in capsys.readouterr().out
    assert command.main(["plya"]) == 2
    assert "did you mean play?" in capsys.readouterr().err

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name}", name="lightning.pytorch")

    monkeypatch.setattr(command, "import_module", missing)
    assert command.main(["make"]) == 1
    assert "pip install 'worldmodel-stream[train]'" in capsys.readouterr().err


def test_it_runs_as_a_module():
    ran = subprocess.run([sys.executable, "-m", "worldmodel", "--help"], capture_output=True, check=True)
    assert b"usage: worldmodel COMMAND" in ran.stdout
