"""How a world is found by its name, and what is said of one that is not there."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import train.worlds
from tokenizer.state_schema import StateSchema
from train.worlds.registry import GROUP, names, of_schema, recipe

OUTSIDE = Path(__file__).parents[2] / "outside_world"


@pytest.mark.parametrize("name", ["tabletop", "doom", "breakout"])
def test_our_own_are_found_by_the_name_of_their_folder(name: str) -> None:
    world = recipe(name)
    assert world.schema.name == name
    assert world.folder == Path(train.worlds.__file__).parent / name
    assert of_schema(world.schema) == name
    assert {"name", "intro", "examples", "keys"} <= set(world.page)


def test_to_ask_for_a_recipe_imports_no_simulator() -> None:
    code = (
        "import sys\nfrom train.worlds.registry import names, recipe\n"
        "[recipe(name) for name in names()]\n"
        "print({'mujoco', 'vizdoom', 'ale_py', 'lightning'} & set(sys.modules))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8")
    assert out.stdout.strip() == "set()"


def test_a_renderer_is_chosen_before_mujoco_is_imported() -> None:
    code = "import os\nos.environ.pop('MUJOCO_GL', 0)\nimport train.worlds\nprint(os.environ['MUJOCO_GL'])\n"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8")
    assert out.stdout.strip() in ("egl", "osmesa", "disable")


@pytest.mark.parametrize("name", ["Tabletop-v0", "Doom-v0", "AtariBreakout-v0"])
def test_gymnasium_knows_our_own(name: str) -> None:
    assert name in gymnasium.registry


def test_a_package_registers_one_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(OUTSIDE))
    assert "pond" in names()
    assert recipe("pond") is recipe("pond:RECIPE")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("tabeltop", "did you mean tabletop"),
        ("chess", "there are breakout, doom, tabletop"),
        ("no_such_module:RECIPE", "asks for the module no_such_module, which is not there: install it"),
        ("json:RECIPE", "json has no RECIPE"),
        ("json:dumps", "json:dumps is a function: a world is a train.worlds.contract.Recipe"),
    ],
)
def test_what_is_no_world_is_refused_with_a_sentence(name: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        recipe(name)


def test_a_schema_of_the_same_name_is_not_yet_the_same_world(monkeypatch: pytest.MonkeyPatch) -> None:
    assert of_schema(StateSchema(name="tabletop")) is None

    def none(**_: Any) -> list[metadata.EntryPoint]:
        return [metadata.EntryPoint("ghost", "no_such_module:RECIPE", GROUP)]

    monkeypatch.setattr(metadata, "entry_points", none)
    assert of_schema(StateSchema(name="ghost")) is None
    with pytest.raises(ValueError, match="no_such_module"):
        recipe("ghost")
